// The header in C++, with what a C++ program would put around it.
#include <kdh.h>

#include <array>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "labels.h"

namespace {

struct Labeler {
  explicit Labeler(const std::string &path) {
    kdh_options options = kdh_default_options();
    options.kernels = "portable";
    options.flags = KDH_OPEN_ALLOW_UNSIGNED;
    CHECK(kdh_open_file(path.c_str(), &options, &handle) == KDH_STATUS_OK);
  }
  Labeler(const Labeler &) = delete;
  Labeler &operator=(const Labeler &) = delete;
  ~Labeler() { kdh_close(handle); }

  kdh_labeler handle{};
};

struct Release {
  void operator()(kdh_scratch *scratch) const { kdh_scratch_release(scratch); }
};

}  // namespace

int main(int argc, char **argv) {
  CHECK(argc == 2);
  const Labeler labeler(argv[1]);
  std::array<char, 32> kernels{};
  CHECK(kdh_kernels(labeler.handle, kernels.data(), kernels.size()) == KDH_STATUS_OK);
  CHECK(std::string("portable") == kernels.data());

  std::vector<unsigned char> memory(kdh_scratch_size(labeler.handle));
  kdh_scratch *made = nullptr;
  CHECK(kdh_scratch_init(labeler.handle, memory.data(), memory.size(), &made) == KDH_STATUS_OK);
  const std::unique_ptr<kdh_scratch, Release> scratch(made);

  const std::string text = "Cells divided.";
  kdh_report report{};
  std::vector<kdh_label_report> labels(kdh_label_count(labeler.handle));
  CHECK(kdh_label(labeler.handle, scratch.get(), text.data(), text.size(), &report, labels.data(), labels.size()) ==
        KDH_STATUS_OK);
  CHECK(report.sentences == 1 && report.text_tokens == report.kept_tokens && report.windows == 1 && report.splits == 0);
  return 0;
}
