/* kdh: labels clinical text on a small box that is never on a network.
 *
 *     kdh_labeler labeler;                                   once, at start
 *     kdh_options options = kdh_default_options();
 *     options.trust = "kdh-trust 1\nkey release ...";      the keys of whose bundles this device takes
 *     kdh_open_file("model.kdh", &options, &labeler);
 *     size_t size = kdh_scratch_size(labeler);
 *     kdh_scratch_init(labeler, memory, size, &scratch);     one for each thread
 *     kdh_label(labeler, scratch, text, text_size, &report, labels, KDH_MAX_LABELS);
 *
 * A text of any length up to max_text_size of the options is labelled whole, if it must be in windows; report.windows says how
 * many, and report.kept_tokens is report.text_tokens when nothing was cut.
 *
 * Every kdh_status but KDH_STATUS_OK is a failure, which kdh_last_error() explains. No message holds any of a text.
 * All functions may be called by any thread at any time. No panic and no exception leaves the library.
 *
 * Made from the Rust sources by scripts/header: do not edit. */

#ifndef KDH_H
#define KDH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/// Most labelers that are open at a time.
#define KDH_MAX_LABELERS 64

/// In kdh_options: a text of more tokens than the model takes goes through it in windows of whole sentences, so that nothing is
/// cut. The time that it takes grows with the text: see max_text_size and deadline_ms.
#define KDH_OVERFLOW_WINDOW 0

/// In kdh_options: a text of more tokens than the model takes is KDH_STATUS_TOO_MANY_TOKENS.
#define KDH_OVERFLOW_REFUSE 1

/// In kdh_options: the model sees the first tokens of a text that is too long, and the report says so.
#define KDH_OVERFLOW_TRUNCATE 2

/// In the flags of kdh_options: takes bundles that nobody trusted has signed. Whoever can write the file then chooses the
/// model: for development.
#define KDH_OPEN_ALLOW_UNSIGNED 1

/// In the flags of kdh_options: test keys of trust count, too, whose secrets may be public. Not for devices in use.
#define KDH_OPEN_ALLOW_TEST_KEYS 2

/// Level of a log message: a call failed.
#define KDH_LOG_ERROR 1

/// Level of a log message: for the record.
#define KDH_LOG_INFO 3

/// Most sentences that a label's evidence names.
#define KDH_MAX_EVIDENCE 8

/// Most labels of a model.
#define KDH_MAX_LABELS 64

/// In the abstention of kdh_report: the text has fewer tokens than the bundle asks for.
#define KDH_ABSTENTION_TOO_SHORT 2

/// In the abstention of kdh_report: the vocabulary cannot spell a larger share of the text than the bundle allows.
#define KDH_ABSTENTION_UNKNOWN_TOKENS 4

/// In the abstention of kdh_report: the text is not of the kind that the model was made for.
#define KDH_ABSTENTION_OUT_OF_DISTRIBUTION 8

/// Version of the interface. A program that was compiled with another one must not use the library: compare with
/// kdh_abi_version() once at start.
#define KDH_ABI_VERSION 2

/// Bytes that the code, the name in words and the zero byte behind it take at most, each.
#define KDH_MAX_NAME 129

/// In kdh_features(): the library reads ONNX graphs.
#define KDH_FEATURE_TRACT 1

/// In kdh_features(): kdh_open_file() maps the file instead of reading it.
#define KDH_FEATURE_MMAP 2

/// What a call came to. kdh_last_error() says more.
typedef enum kdh_status {
  /// Done.
  KDH_STATUS_OK = 0,
  /// A pointer is null that must not be.
  KDH_STATUS_NULL = 1,
  /// A pointer is not aligned for its type, or a size is larger than an object can be.
  KDH_STATUS_POINTER = 2,
  /// The labeler is not open, or the scratch is none: never made, or closed or released before.
  KDH_STATUS_HANDLE = 3,
  /// Another thread is using the labeler or the scratch; or KDH_MAX_LABELERS are open.
  KDH_STATUS_BUSY = 4,
  /// Memory that the caller gave is too small.
  KDH_STATUS_TOO_SMALL = 5,
  /// An option has a value that this library does not know, or the bundle has no operating point of the name.
  KDH_STATUS_OPTION = 6,
  /// An index is not below the number of labels, or of operating points.
  KDH_STATUS_INDEX = 7,
  /// The file cannot be opened.
  KDH_STATUS_OPEN = 8,
  /// The bundle is damaged, or does not make a labeler.
  KDH_STATUS_BUNDLE = 9,
  /// This machine does not compute what the bundle's golden texts say.
  KDH_STATUS_SELF_TEST = 10,
  /// The text, or a string, is not UTF-8.
  KDH_STATUS_UTF8 = 11,
  /// The text has no words.
  KDH_STATUS_NO_TOKENS = 12,
  /// The text has more bytes than the options allow.
  KDH_STATUS_TEXT_TOO_LONG = 13,
  /// The text has more tokens than the model takes, and the options say KDH_OVERFLOW_REFUSE.
  KDH_STATUS_TOO_MANY_TOKENS = 14,
  /// The scratch was made for another model, or for a labeler that treats texts that are too long in another way.
  KDH_STATUS_FOREIGN_SCRATCH = 15,
  /// The model failed on the text.
  KDH_STATUS_ENGINE = 16,
  /// An error of this library, which it caught: please report it. The labeler and the scratch can still be used.
  KDH_STATUS_PANIC = 17,
  /// Nobody that the options trust has signed the bundle.
  KDH_STATUS_UNTRUSTED = 18,
  /// The text took longer than the options allow.
  KDH_STATUS_DEADLINE = 19,
} kdh_status;

/// What one thread at a time labels with: the beginning of memory that the caller gave.
typedef struct kdh_scratch kdh_scratch;

/// Is told what happens: user is from the options, level one of KDH_LOG_*, message lives until it returns and never holds
/// any of a text. It must not throw, jump out, or call this library.
typedef void (*kdh_log_function)(void *user, uint32_t level, const char *message);

/// How a labeler treats texts, and whose bundles it takes. Make one with kdh_default_options(), then change it.
typedef struct kdh_options {
  /// sizeof(kdh_options), as this program was compiled.
  size_t size;
  /// Longest text in bytes; 0: 1 MiB.
  size_t max_text_size;
  /// One of KDH_OVERFLOW_*.
  uint32_t on_overflow;
  /// Sum of some KDH_OPEN_*.
  uint32_t flags;
  /// Milliseconds after which a text is given up, with KDH_STATUS_DEADLINE, at most a twentieth of its time late; 0: never.
  uint32_t deadline_ms;
  /// Text of a trust file: the keys whose bundles are taken. Null: none, so that every bundle is refused unless a flag says
  /// otherwise.
  const char *trust;
  /// Name of the kernels to compute with, such as "neon" or "portable"; null: the fastest that the processor has. All
  /// give the same bits.
  const char *kernels;
  /// Is told what happens; null: nobody. Called by any thread that uses the labeler.
  kdh_log_function log;
  /// Handed to log.
  void *log_user;
  /// Name of the bundle's operating point that kdh_label() decides at; null: the default one.
  const char *operating_point;
} kdh_options;

/// A labeler: immutable, and used by any number of threads. Its value 0 is none.
///
/// It is a number and may be copied. After kdh_close() every copy of it is refused.
typedef struct kdh_labeler {
  /// The library's own.
  uint64_t id;
} kdh_labeler;

/// What a model says of one text; kdh_label_report says it of each label.
typedef struct kdh_report {
  /// Number of labels.
  uint32_t labels;
  /// Tokens of the whole text, without the special ones.
  uint32_t text_tokens;
  /// Tokens of the text that the model has seen: all of them unless the text was truncated, otherwise the first ones.
  uint32_t kept_tokens;
  /// Tokens of the whole text that stand for words that the vocabulary cannot spell.
  uint32_t unknown_tokens;
  /// Sentences that the model has seen; a part of one that was split counts as one.
  uint32_t sentences;
  /// Sum of some KDH_ABSTENTION_*: why the model abstains, which gives no label; 0 when it does not. An unknown bit is
  /// a reason, too.
  uint32_t abstention;
  /// Runs of the model: more than 1 when the text went through it in windows.
  uint32_t windows;
  /// Places where a sentence that is longer than a window was split. Nothing is lost there, but the model saw the parts
  /// apart from each other.
  uint32_t splits;
} kdh_report;

/// A sentence that carries a label.
typedef struct kdh_evidence {
  /// First byte of the sentence in the text.
  uint32_t start;
  /// One past the last byte of the sentence in the text.
  uint32_t end;
  /// Sentence logit.
  float logit;
  /// The logistic function of logit.
  float probability;
  /// The sentence's share of all evidence for the label, from 0 to 1.
  float share;
} kdh_evidence;

/// What a model says of one text about one label.
typedef struct kdh_label_report {
  /// Document logit.
  float logit;
  /// The logistic function of logit.
  float probability;
  /// The label is given when probability is at least this.
  float threshold;
  /// 1 when the label is given, otherwise 0.
  uint32_t given;
  /// Number of evidence: sentences that carry the label, the strongest first; 0 unless the label is given.
  uint32_t evidence_count;
  /// The first evidence_count are filled, the others are zeros.
  struct kdh_evidence evidence[KDH_MAX_EVIDENCE];
} kdh_label_report;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/// KDH_ABI_VERSION of the library.
uint32_t kdh_abi_version(void);

/// Version of the library, such as "0.1.0".
const char *kdh_version(void);

/// What the library was built with: the sum of some KDH_FEATURE_*.
uint32_t kdh_features(void);

/// What the last call of this thread that failed says, and what to do; "" before. Never holds any of a text.
///
/// The string is this thread's and lives until its next call of this library.
const char *kdh_last_error(void);

/// Opens the bundle in the file path, verifies it, and makes a labeler of it.
///
/// options may be null, but then no bundle is trusted. The file must not be changed or shortened while the labeler is open: install a new bundle by
/// renaming it over the old one. This is where memory is allocated and time is spent; labelling does neither.
///
/// On failure the labeler is 0, which every function refuses.
///
/// The caller promises: path is a string, options null or a kdh_options, labeler writable.
enum kdh_status kdh_open_file(const char *path,
                              const struct kdh_options *options,
                              struct kdh_labeler *labeler);

/// As kdh_open_file(), from the size bytes of a bundle in memory, such as flash. They are used where they lie, and must stay
/// as they are until the labeler is closed. Weights that do not lie at a multiple of 64 are copied.
///
/// The caller promises: bundle has size readable bytes that live and do not change until kdh_close(); options is null or a kdh_options,
/// labeler writable.
enum kdh_status kdh_open_memory(const void *bundle,
                                size_t size,
                                const struct kdh_options *options,
                                struct kdh_labeler *labeler);

/// Closes a labeler. The memory of its scratches stays the caller's, and they may still be released.
///
/// KDH_STATUS_HANDLE when it is not open, twice closed say; KDH_STATUS_BUSY when another thread is using it: it stays open.
enum kdh_status kdh_close(struct kdh_labeler labeler);

/// Labels the golden texts of the bundle and compares with what was recorded when it was made: KDH_STATUS_SELF_TEST when
/// this machine computes something else. Allocates; call it at start and when the device is idle.
///
/// max_difference may be null; otherwise it gets the largest difference of a logit.
///
/// The caller promises: max_difference is null or writable.
enum kdh_status kdh_self_test(struct kdh_labeler labeler,
                              float *max_difference);

/// Number of labels, which is the number of kdh_label_report that kdh_label() writes; 0 when the labeler is not open.
size_t kdh_label_count(struct kdh_labeler labeler);

/// Bytes of memory that kdh_scratch_init() needs for each thread; 0 when the labeler is not open.
size_t kdh_scratch_size(struct kdh_labeler labeler);

/// Copies the short code of label index (from 0) and a zero byte into the capacity bytes at code.
///
/// KDH_STATUS_TOO_SMALL when it does not fit; KDH_MAX_NAME bytes always do.
///
/// The caller promises: code has capacity writable bytes.
enum kdh_status kdh_label_code(struct kdh_labeler labeler, size_t index, char *code, size_t capacity);

/// As kdh_label_code(), the label's name in words; KDH_MAX_NAME bytes always do.
///
/// The caller promises: name has capacity writable bytes.
enum kdh_status kdh_label_name(struct kdh_labeler labeler, size_t index, char *name, size_t capacity);

/// Number of operating points of the bundle, at least 1. The first is the default one; 0 when the labeler is not open.
size_t kdh_operating_point_count(struct kdh_labeler labeler);

/// As kdh_label_code(), the name of operating point index, such as "recall-0.9"; KDH_MAX_NAME bytes always do.
///
/// The caller promises: name has capacity writable bytes.
enum kdh_status kdh_operating_point_name(struct kdh_labeler labeler,
                                         size_t index,
                                         char *name,
                                         size_t capacity);

/// As kdh_label_code(), the name of the kernels that were chosen for this processor, such as "neon-dotprod".
///
/// The caller promises: kernels has capacity writable bytes.
enum kdh_status kdh_kernels(struct kdh_labeler labeler, char *kernels, size_t capacity);

/// Makes a scratch, which one thread at a time labels with, in size bytes at memory, wherever that begins and whatever lies
/// there. Allocates nothing.
///
/// The memory is the scratch's until kdh_scratch_release(), and holds what came of the last text. It must not be moved or
/// copied.
///
/// On failure *scratch is null.
///
/// The caller promises: memory has size writable bytes that nothing else uses until kdh_scratch_release(); scratch is writable.
enum kdh_status kdh_scratch_init(struct kdh_labeler labeler,
                                 void *memory,
                                 size_t size,
                                 struct kdh_scratch **scratch);

/// Ends a scratch and overwrites its memory with zeros, so that nothing of the last text is left. Null is fine.
///
/// KDH_STATUS_HANDLE when it is none, twice released say; KDH_STATUS_BUSY when another thread is labelling with it.
///
/// The caller promises: scratch is null, or points to memory that is still there.
enum kdh_status kdh_scratch_release(struct kdh_scratch *scratch);

/// Labels a text: UTF-8 of text_size bytes, with or without a zero byte behind them. on_overflow of the options says what
/// happens to one of more tokens than the model takes.
///
/// Writes *report and one kdh_label_report for each label, kdh_label_count() in all, to labels, which has room for
/// labels_capacity. On failure they are zeros, as far as they are not null. Allocates nothing, locks nothing and makes no
/// system call, unless the log function that the caller gave does.
///
/// The caller promises: scratch came from kdh_scratch_init(), text has text_size readable bytes, report and labels_capacity values at
/// labels are writable.
enum kdh_status kdh_label(struct kdh_labeler labeler,
                          struct kdh_scratch *scratch,
                          const char *text,
                          size_t text_size,
                          struct kdh_report *report,
                          struct kdh_label_report *labels,
                          size_t labels_capacity);

/// As kdh_label(), at the operating point of this name; null is the one of the options.
///
/// KDH_STATUS_OPTION when the bundle has no such point.
///
/// The caller promises: As kdh_label(); operating_point is null or a string.
enum kdh_status kdh_label_at(struct kdh_labeler labeler,
                             struct kdh_scratch *scratch,
                             const char *operating_point,
                             const char *text,
                             size_t text_size,
                             struct kdh_report *report,
                             struct kdh_label_report *labels,
                             size_t labels_capacity);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

/* Options that change nothing: nobody's bundles are taken, and texts of any length go through the model in windows. */
static inline kdh_options kdh_default_options(void) {
  kdh_options options;
  memset(&options, 0, sizeof options);
  options.size = sizeof options;
  return options;
}

#endif
