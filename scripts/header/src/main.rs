//! Writes the header of the C ABI to standard output: `runtime/include/kdh.h` is what this prints.

use std::path::Path;

use cbindgen::{Builder, Config, DocumentationStyle, EnumConfig, ExportConfig, Language, RenameRule, Style};

fn main() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../runtime/src");
    let mut builder = Builder::new().with_config(config());
    for file in ["status", "handles", "options", "report", "scratch"] {
        builder = builder.with_src(source.join("capi").join(file).with_extension("rs"));
    }
    let bindings = match builder.with_src(source.join("capi.rs")).generate() {
        Ok(bindings) => bindings,
        Err(error) => panic!("{error}"),
    };
    let mut header = Vec::new();
    bindings.write(&mut header);
    // C has its own word for what Rust's documentation calls safety.
    print!(
        "{}",
        String::from_utf8_lossy(&header).replace("# Safety\n///\n/// ", "The caller promises: ").replace("`", "")
    );
}

fn config() -> Config {
    let names = [
        ("Status", "kdh_status"),
        ("Handle", "kdh_labeler"),
        ("ScratchHandle", "kdh_scratch"),
        ("Options", "kdh_options"),
        ("LogFunction", "kdh_log_function"),
        ("Report", "kdh_report"),
        ("LabelReport", "kdh_label_report"),
        ("Evidence", "kdh_evidence"),
        ("ABI_VERSION", "KDH_ABI_VERSION"),
        ("FEATURE_TRACT", "KDH_FEATURE_TRACT"),
        ("FEATURE_MMAP", "KDH_FEATURE_MMAP"),
        ("MAX_NAME", "KDH_MAX_NAME"),
        ("MAX_LABELERS", "KDH_MAX_LABELERS"),
        ("MAX_LABELS", "KDH_MAX_LABELS"),
        ("MAX_EVIDENCE", "KDH_MAX_EVIDENCE"),
        ("OPEN_ALLOW_UNSIGNED", "KDH_OPEN_ALLOW_UNSIGNED"),
        ("OPEN_ALLOW_TEST_KEYS", "KDH_OPEN_ALLOW_TEST_KEYS"),
        ("ABSTENTION_TOO_SHORT", "KDH_ABSTENTION_TOO_SHORT"),
        ("ABSTENTION_UNKNOWN_TOKENS", "KDH_ABSTENTION_UNKNOWN_TOKENS"),
        ("ABSTENTION_OUT_OF_DISTRIBUTION", "KDH_ABSTENTION_OUT_OF_DISTRIBUTION"),
        ("OVERFLOW_WINDOW", "KDH_OVERFLOW_WINDOW"),
        ("OVERFLOW_REFUSE", "KDH_OVERFLOW_REFUSE"),
        ("OVERFLOW_TRUNCATE", "KDH_OVERFLOW_TRUNCATE"),
        ("LOG_ERROR", "KDH_LOG_ERROR"),
        ("LOG_INFO", "KDH_LOG_INFO"),
    ];
    Config {
        language: Language::C,
        cpp_compat: true,
        style: Style::Both,
        documentation_style: DocumentationStyle::Cxx,
        no_includes: true,
        sys_includes: ["stddef.h", "stdint.h", "string.h"].map(String::from).into(),
        header: Some(HEADER.into()),
        trailer: Some(TRAILER.into()),
        line_length: 110,
        usize_is_size_t: true,
        export: ExportConfig {
            rename: names.map(|(rust, c)| (rust.to_owned(), c.to_owned())).into(),
            ..ExportConfig::default()
        },
        enumeration: EnumConfig { rename_variants: RenameRule::QualifiedScreamingSnakeCase, ..EnumConfig::default() },
        ..Config::default()
    }
}

const HEADER: &str = "\
/* kdh: labels clinical text on a small box that is never on a network.
 *
 *     kdh_labeler labeler;                                   once, at start
 *     kdh_options options = kdh_default_options();
 *     options.trust = \"kdh-trust 1\\nkey release ...\";      the keys of whose bundles this device takes
 *     kdh_open_file(\"model.kdh\", &options, &labeler);
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
#define KDH_H";

const TRAILER: &str = "\
/* Options that change nothing: nobody's bundles are taken, and texts of any length go through the model in windows. */
static inline kdh_options kdh_default_options(void) {
  kdh_options options;
  memset(&options, 0, sizeof options);
  options.size = sizeof options;
  return options;
}

#endif";
