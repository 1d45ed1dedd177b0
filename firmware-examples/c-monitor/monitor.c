/* A bedside application that labels notes: how a program that exists already takes kdh in.
 *
 * Its loop is its own: it waits for notes on standard input, each ended by a zero byte, and between them it has other work.
 * All memory is there before the loop; in it nothing is allocated. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <kdh.h>

/* Longest note, in bytes. A longer one is refused as a whole: half a note could lack the half that matters. kdh labels all of one
 * that is shorter, in windows if it must be; how long that may take bounds MAX_NOTE, or `options.deadline_ms`. */
enum { MAX_NOTE = 64 * 1024 };

/* `kdh_scratch_size()` of the model that this device ships. Checked at start. */
enum { SCRATCH_SIZE = 8 * 1024 * 1024 };

static unsigned char scratch_memory[SCRATCH_SIZE];
static char note[MAX_NOTE];
static char codes[KDH_MAX_LABELS][KDH_MAX_NAME];
static kdh_label_report labels[KDH_MAX_LABELS];

static void to_journal(void *user, uint32_t level, const char *message) {
  (void)user;
  /* Holds nothing of a note, so it may be kept. */
  fprintf(stderr, "%s: %s\n", level == KDH_LOG_ERROR ? "error" : "info", message);
}

/* Reads whose bundles this device takes. A product would have the text in its program. */
static int read_trust(const char *path, char *text, size_t size) {
  FILE *file = fopen(path, "rb");
  size_t count = file == NULL ? 0 : fread(text, 1, size - 1, file);
  text[count] = '\0';
  return file != NULL && fclose(file) == 0 && count > 0 && count < size - 1 ? 0 : -1;
}

static int start(const char *bundle, const char *trust, kdh_labeler *labeler, kdh_scratch **scratch) {
  static char keys[4096];
  kdh_options options = kdh_default_options();
  if (read_trust(trust, keys, sizeof keys) != 0) {
    fprintf(stderr, "error: %s cannot be read\n", trust);
    return -1;
  }
  options.trust = keys;
  /* The bundle that comes with kdh is signed with a published key. A device in use must not have this line. */
  options.flags = KDH_OPEN_ALLOW_TEST_KEYS;
  options.max_text_size = MAX_NOTE;
  options.log = to_journal;
  if (kdh_abi_version() != KDH_ABI_VERSION || kdh_open_file(bundle, &options, labeler) != KDH_STATUS_OK) {
    return -1;
  }
  /* A machine that computes something else must not label. */
  if (kdh_self_test(*labeler, NULL) != KDH_STATUS_OK ||
      kdh_scratch_init(*labeler, scratch_memory, sizeof scratch_memory, scratch) != KDH_STATUS_OK) {
    fprintf(stderr, "error: %s\n", kdh_last_error());
    return -1;
  }
  for (size_t label = 0; label < kdh_label_count(*labeler); label++) {
    if (kdh_label_code(*labeler, label, codes[label], KDH_MAX_NAME) != KDH_STATUS_OK) {
      return -1;
    }
  }
  return 0;
}

static void show(kdh_labeler labeler, kdh_scratch *scratch, unsigned long number, size_t size, int whole) {
  kdh_report report;
  printf("note %lu\n", number);
  if (!whole) {
    printf("\tno labels: longer than %d bytes\n", (int)MAX_NOTE);
  } else if (kdh_label(labeler, scratch, note, size, &report, labels, KDH_MAX_LABELS) != KDH_STATUS_OK) {
    printf("\tno labels: %s\n", kdh_last_error());
  } else if (report.abstention != 0) {
    printf("\tno labels: the model abstains, reasons %#x\n", report.abstention);
  } else {
    for (uint32_t label = 0; label < report.labels; label++) {
      if (labels[label].given) {
        const kdh_evidence *why = &labels[label].evidence[0];
        printf("\t%s\t%.3f\tbytes %u..%u\n", codes[label], (double)labels[label].probability, why->start, why->end);
      }
    }
    if (report.windows > 1) {
      printf("\t%u tokens in %u windows\n", report.text_tokens, report.windows);
    }
  }
  printf("end\n");
  fflush(stdout);
}

int main(int argc, char **argv) {
  kdh_labeler labeler;
  kdh_scratch *scratch;
  if (argc != 3) {
    fprintf(stderr, "monitor BUNDLE.kdh TRUST < NOTES    labels notes that end with a zero byte each\n");
    return 2;
  }
  if (start(argv[1], argv[2], &labeler, &scratch) != 0) {
    return 1;
  }

  unsigned long number = 0;
  size_t size = 0;
  int whole = 1, more = 1;
  while (more) {
    struct pollfd input = {STDIN_FILENO, POLLIN, 0};
    int ready = poll(&input, 1, 100);
    /* Here the application does what it did before: alarms, display, watchdog. */
    if (ready == 0 || (ready < 0 && errno == EINTR)) {
      continue;
    }
    char bytes[4096];
    ssize_t count = read(STDIN_FILENO, bytes, sizeof bytes);
    more = count > 0;
    for (ssize_t byte = 0; byte < count; byte++) {
      if (bytes[byte] == '\0') {
        show(labeler, scratch, ++number, size, whole);
        size = 0;
        whole = 1;
      } else if (size < MAX_NOTE) {
        note[size++] = bytes[byte];
      } else {
        whole = 0;
      }
    }
    memset(bytes, 0, sizeof bytes);
  }

  /* Notes are secrets: nothing of the last one stays. */
  memset(note, 0, sizeof note);
  int done = kdh_scratch_release(scratch) == KDH_STATUS_OK && kdh_close(labeler) == KDH_STATUS_OK;
  return done ? 0 : 1;
}
