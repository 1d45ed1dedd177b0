/* Labels a text as a C program does, and does what a program must not. Prints the labels as `kdh-box` does. */
#include <kdh.h>

#include <pthread.h>
#include <stdbool.h>

#include "labels.h"

static void *read_file(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  CHECK(file != NULL && fseek(file, 0, SEEK_END) == 0);
  long end = ftell(file);
  CHECK(end >= 0 && fseek(file, 0, SEEK_SET) == 0);
  *size = (size_t)end;
  void *bytes = malloc(*size + 1);
  CHECK(bytes != NULL && fread(bytes, 1, *size, file) == *size);
  fclose(file);
  return bytes;
}

struct log {
  size_t errors, infos;
};

static void count(void *user, uint32_t level, const char *message) {
  struct log *log = user;
  log->errors += level == KDH_LOG_ERROR;
  log->infos += level == KDH_LOG_INFO;
  CHECK(strlen(message) > 10);
}

/* A text of several windows, with a small model: this runs under valgrind, too. */
static void label_long(const char *bundle, const char *text, size_t size) {
  kdh_labeler labeler;
  kdh_options options = kdh_default_options();
  options.flags = KDH_OPEN_ALLOW_UNSIGNED;
  CHECK(kdh_open_file(bundle, &options, &labeler) == KDH_STATUS_OK);
  size_t needed = kdh_scratch_size(labeler);
  void *memory = malloc(needed);
  CHECK(memory != NULL);
  kdh_scratch *scratch;
  CHECK(kdh_scratch_init(labeler, memory, needed, &scratch) == KDH_STATUS_OK);
  kdh_report report;
  kdh_label_report labels[KDH_MAX_LABELS];
  CHECK(kdh_label(labeler, scratch, text, size, &report, labels, KDH_MAX_LABELS) == KDH_STATUS_OK);
  CHECK(report.windows > 1 && report.kept_tokens == report.text_tokens && report.sentences > 1);
  CHECK(kdh_scratch_release(scratch) == KDH_STATUS_OK);
  free(memory);
  CHECK(kdh_close(labeler) == KDH_STATUS_OK);
}

/* The same text at two operating points. */
static void label_at_points(kdh_labeler labeler) {
  size_t points = kdh_operating_point_count(labeler), needed = kdh_scratch_size(labeler);
  CHECK(points > 1);
  char name[KDH_MAX_NAME];
  CHECK(kdh_operating_point_name(labeler, points, name, sizeof name) == KDH_STATUS_INDEX);
  void *memory = malloc(needed);
  CHECK(memory != NULL);
  kdh_scratch *scratch;
  CHECK(kdh_scratch_init(labeler, memory, needed, &scratch) == KDH_STATUS_OK);
  static const char text[] = "Cells divided.";
  kdh_report report;
  kdh_label_report first[KDH_MAX_LABELS], last[KDH_MAX_LABELS];
  CHECK(kdh_operating_point_name(labeler, points - 1, name, sizeof name) == KDH_STATUS_OK);
  CHECK(kdh_label(labeler, scratch, text, strlen(text), &report, first, KDH_MAX_LABELS) == KDH_STATUS_OK);
  CHECK(kdh_label_at(labeler, scratch, name, text, strlen(text), &report, last, KDH_MAX_LABELS) == KDH_STATUS_OK);
  CHECK(first[0].probability == last[0].probability && first[0].threshold != last[0].threshold);
  CHECK(kdh_label_at(labeler, scratch, "no such point", text, strlen(text), &report, last, KDH_MAX_LABELS) ==
        KDH_STATUS_OPTION);
  CHECK(kdh_scratch_release(scratch) == KDH_STATUS_OK);
  free(memory);
}

static void print(kdh_labeler labeler, const char *text, size_t size) {
  size_t needed = kdh_scratch_size(labeler);
  /* Neither zeroed nor aligned. */
  char *memory = malloc(needed + 1);
  CHECK(memory != NULL);
  kdh_scratch *scratch;
  CHECK(kdh_scratch_init(labeler, memory + 1, needed, &scratch) == KDH_STATUS_OK);
  kdh_report report;
  kdh_label_report labels[KDH_MAX_LABELS];
  CHECK(kdh_label(labeler, scratch, text, size, &report, labels, KDH_MAX_LABELS) == KDH_STATUS_OK);
  CHECK(report.labels == kdh_label_count(labeler));
  for (size_t label = 0; label < report.labels; label++) {
    const kdh_label_report *found = &labels[label];
    if (!found->given) {
      continue;
    }
    char code[KDH_MAX_NAME], name[KDH_MAX_NAME];
    CHECK(kdh_label_code(labeler, label, code, sizeof code) == KDH_STATUS_OK);
    CHECK(kdh_label_name(labeler, label, name, sizeof name) == KDH_STATUS_OK);
    printf("%s\t%.9g\t%.9g\t", code, (double)found->probability, (double)found->threshold);
    for (uint32_t sentence = 0; sentence < found->evidence_count; sentence++) {
      printf("%s%u..%u", sentence > 0 ? "," : "", found->evidence[sentence].start, found->evidence[sentence].end);
    }
    printf("\n");
  }
  CHECK(kdh_scratch_release(scratch) == KDH_STATUS_OK);
  CHECK(kdh_scratch_release(scratch) == KDH_STATUS_HANDLE);
  for (size_t byte = 1; byte <= needed; byte++) {
    CHECK(memory[byte] == 0);
  }
  free(memory);
}

struct task {
  kdh_labeler labeler;
  float logit;
};

static void *run(void *argument) {
  struct task *task = argument;
  size_t needed = kdh_scratch_size(task->labeler);
  void *memory = malloc(needed);
  CHECK(memory != NULL);
  kdh_scratch *scratch;
  CHECK(kdh_scratch_init(task->labeler, memory, needed, &scratch) == KDH_STATUS_OK);
  kdh_report report;
  kdh_label_report labels[KDH_MAX_LABELS];
  static const char text[] = "Cells divided.";
  for (int round = 0; round < 3; round++) {
    CHECK(kdh_label(task->labeler, scratch, text, strlen(text), &report, labels, KDH_MAX_LABELS) == KDH_STATUS_OK);
    CHECK(round == 0 || labels[0].logit == task->logit);
    task->logit = labels[0].logit;
  }
  CHECK(kdh_scratch_release(scratch) == KDH_STATUS_OK);
  free(memory);
  return NULL;
}

int main(int argc, char **argv) {
  if (argc != 5) {
    fprintf(stderr, "labels BUNDLE.kdh TRUST TEXT SMALL.kdh\n");
    return 2;
  }
  CHECK(kdh_abi_version() == KDH_ABI_VERSION);
  CHECK(strlen(kdh_version()) > 0 && strlen(kdh_last_error()) == 0);
  CHECK(kdh_features() & KDH_FEATURE_MMAP);

  struct log log = {0, 0};
  kdh_labeler labeler;
  kdh_options options = kdh_default_options();
  CHECK(kdh_open_file(argv[1], &options, &labeler) == KDH_STATUS_UNTRUSTED);
  size_t trust_size;
  char *trust = read_file(argv[2], &trust_size);
  trust[trust_size] = '\0';
  options.trust = trust;
  options.flags = KDH_OPEN_ALLOW_TEST_KEYS;
  options.log = count;
  options.log_user = &log;
  CHECK(kdh_open_file("no/such/file", &options, &labeler) == KDH_STATUS_OPEN && labeler.id == 0 && log.errors == 1);
  CHECK(kdh_open_file(argv[1], &options, &labeler) == KDH_STATUS_OK && labeler.id != 0 && log.infos == 1);
  size_t size;
  char *text = read_file(argv[3], &size);
  print(labeler, text, size);
  label_at_points(labeler);
  label_long(argv[4], text, size);

  /* The same from memory, a damaged bundle, and what is not to be done. */
  size_t bundle_size;
  char *bundle = read_file(argv[1], &bundle_size);
  kdh_labeler second;
  CHECK(kdh_open_memory(bundle, bundle_size, &options, &second) == KDH_STATUS_OK);
  struct task tasks[4];
  pthread_t threads[4];
  for (size_t thread = 0; thread < 4; thread++) {
    tasks[thread].labeler = thread % 2 ? labeler : second;
    CHECK(pthread_create(&threads[thread], NULL, run, &tasks[thread]) == 0);
  }
  for (size_t thread = 0; thread < 4; thread++) {
    CHECK(pthread_join(threads[thread], NULL) == 0);
    CHECK(tasks[thread].logit == tasks[0].logit);
  }
  CHECK(kdh_close(second) == KDH_STATUS_OK);
  CHECK(kdh_close(second) == KDH_STATUS_HANDLE);
  CHECK(kdh_scratch_size(second) == 0);
  bundle[bundle_size / 2] ^= 1;
  CHECK(kdh_open_memory(bundle, bundle_size, &options, &second) == KDH_STATUS_BUNDLE && second.id == 0);
  CHECK(kdh_open_memory(NULL, bundle_size, NULL, &second) == KDH_STATUS_NULL);
  free(bundle);
  options.on_overflow = 7;
  CHECK(kdh_open_file(argv[1], &options, &second) == KDH_STATUS_OPTION);
  CHECK(kdh_label(labeler, NULL, text, size, NULL, NULL, 0) == KDH_STATUS_NULL);
  CHECK(kdh_scratch_release(NULL) == KDH_STATUS_OK);

  free(text);
  free(trust);
  CHECK(kdh_close(labeler) == KDH_STATUS_OK);
  return 0;
}
