//! Hostile files: each breaks one rule of the specification and must get the error that names it.
//!
//! The files stand in `hostile/`, for other readers to test against; `UPDATE_TEST_FILES=1 cargo test` writes them
//! anew from the cases below.

use crate::files::{self, Postcard, Raw, RawDecisions, RawManifest, golden_with, section, small};
use kdh_format::{Bundle, BundleError, DecisionsError, GoldenError, ManifestError, SectionKind};

/// What a reader says of a file.
#[derive(Debug, PartialEq)]
enum Refusal {
    Bundle(BundleError),
    Manifest(ManifestError),
    Golden(GoldenError),
    Decisions(DecisionsError),
}

fn read(bytes: &[u8]) -> Result<(), Refusal> {
    let bundle = Bundle::parse(bytes).map_err(Refusal::Bundle)?;
    let manifest = bundle.manifest().map_err(Refusal::Manifest)?;
    bundle.golden(&manifest).map_err(Refusal::Golden)?;
    bundle.decisions(&manifest).transpose().map_err(Refusal::Decisions)?;
    Ok(())
}

/// Verifies: R-002
#[test]
fn every_file_is_refused_with_its_error() {
    let cases = cases();
    for (name, bytes, refusal) in &cases {
        let file = files::read(&format!("hostile/{name}.kdh"), bytes);
        assert_eq!(&file, bytes, "{name} is not the file that this test describes");
        assert_eq!(read(&file).as_ref(), Err(refusal), "{name}");
        assert!(file.len() < 8192, "{name} is {} bytes", file.len());
    }
    let files = std::fs::read_dir(files::path("hostile")).unwrap().count();
    assert_eq!(files, cases.len(), "a file in hostile/ is not described here");
}

/// Verifies: R-003
#[test]
fn errors_say_what_to_do() {
    for (name, _, refusal) in cases() {
        let text = match refusal {
            Refusal::Bundle(error) => error.to_string(),
            Refusal::Manifest(error) => error.to_string(),
            Refusal::Golden(error) => error.to_string(),
            Refusal::Decisions(error) => error.to_string(),
        };
        assert!(text.contains("bundle") || text.contains("section"), "{name}: {text}");
    }
}

fn cases() -> Vec<(&'static str, Vec<u8>, Refusal)> {
    let mut cases = Vec::new();
    let good = small().bytes();

    // The file as a whole.
    let mut file = |name, bytes: Vec<u8>, error| cases.push((name, bytes, Refusal::Bundle(error)));
    file("empty", vec![], BundleError::Empty);
    file("text", b"kdh is not a bundle".to_vec(), BundleError::NotABundle);
    file("cut-in-label", good[..9].to_vec(), BundleError::Truncated);
    file("cut-in-preamble", good[..63].to_vec(), BundleError::Truncated);
    file("cut-in-table", good[..200].to_vec(), BundleError::Truncated);
    file("cut-in-digest", good[..351].to_vec(), BundleError::Truncated);
    file("cut-in-section", good[..good.len() - 1].to_vec(), BundleError::Truncated);
    file("trailer-too-long", [&good[..], &[0; 4097]].concat(), BundleError::TrailerTooLong);
    let mut wrong = good.clone();
    wrong[340] ^= 1;
    file("header-digest", wrong, BundleError::HeaderDigest);

    // The preamble.
    let mut raw = |name, change: &dyn Fn(&mut Raw), error| {
        let mut raw = small();
        change(&mut raw);
        cases.push((name, raw.bytes(), Refusal::Bundle(error)));
    };
    raw("label", &|raw| raw.label[15] = b'!', BundleError::NotABundle);
    raw("big-endian", &|raw| raw.endianness = 0xFEFF_u32.swap_bytes(), BundleError::Endianness);
    raw("version-0", &|raw| raw.version = 0, BundleError::UnsupportedVersion { found: 0 });
    raw("version-2", &|raw| raw.version = 2, BundleError::UnsupportedVersion { found: 2 });
    raw("flags", &|raw| raw.flags = 1, BundleError::Reserved);
    raw("reserved", &|raw| raw.reserved[15] = 1, BundleError::Reserved);
    raw("no-sections", &|raw| raw.section_count = Some(0), BundleError::SectionCount { found: 0 });
    raw("33-sections", &|raw| raw.section_count = Some(33), BundleError::SectionCount { found: 33 });
    raw("most-sections", &|raw| raw.section_count = Some(u32::MAX), BundleError::SectionCount { found: u32::MAX });
    raw("content-length-most", &|raw| raw.content_len = Some(u64::MAX), BundleError::TooLong);
    raw("content-length-1-gib", &|raw| raw.content_len = Some((1 << 30) + 1), BundleError::TooLong);
    raw("content-length-zero", &|raw| raw.content_len = Some(0), BundleError::SectionPlace { index: 0 });
    raw("content-behind-sections", &|raw| raw.tail = vec![0], BundleError::ContentLength);

    // The section table.
    raw("entry-reserved", &|raw| raw.section(2).reserved = 1, BundleError::Reserved);
    raw("entry-flags", &|raw| raw.section(2).flags = 2, BundleError::Reserved);
    raw("duplicate", &|raw| raw.sections.push(section(3, *b"[CLS]\n")), BundleError::DuplicateSection { kind: 3 });
    let critical =
        |kind| move |raw: &mut Raw| raw.sections.push(files::RawSection { flags: 1, ..section(kind, *b"?") });
    raw("critical-unknown", &critical(99), BundleError::UnknownCriticalSection { kind: 99 });
    raw("critical-kind-0", &critical(0), BundleError::UnknownCriticalSection { kind: 0 });
    for (name, kind) in [
        ("no-manifest", SectionKind::Manifest),
        ("no-graph", SectionKind::Onnx),
        ("no-vocabulary", SectionKind::Vocabulary),
        ("no-golden", SectionKind::Golden),
    ] {
        let remove = |raw: &mut Raw| raw.sections.retain(|section| section.kind != kind as u32);
        raw(name, &remove, BundleError::MissingSection { kind });
    }
    raw("manifest-too-long", &|raw| raw.section(1).len = Some(65537), BundleError::SectionTooLong { kind: 1 });
    raw("golden-too-long", &|raw| raw.section(4).len = Some(u64::MAX), BundleError::SectionTooLong { kind: 4 });
    let place = |index| BundleError::SectionPlace { index };
    raw("offset-zero", &|raw| raw.section(1).offset = Some(0), place(0));
    raw("offset-most", &|raw| raw.section(2).offset = Some(u64::MAX), place(1));
    raw(
        "offset-plus-length-overflows",
        &|raw| {
            raw.section(2).offset = Some(u64::MAX - 63);
            raw.section(2).len = Some(128);
        },
        place(1),
    );
    raw("overlap", &|raw| raw.section(3).offset = Some(384), place(2));
    raw("gap", &|raw| raw.section(4).offset = Some(896), place(3));
    raw("length-behind-content", &|raw| raw.section(4).len = Some(1 << 19), place(3));
    raw("length-one-less", &|raw| raw.section(4).len = Some(raw.sections[3].bytes.len() as u64 - 1), {
        BundleError::ContentLength
    });
    raw("padding", &|raw| raw.padding = 1, BundleError::Padding { index: 0 });
    raw("section-digest", &|raw| raw.section(2).sha256 = Some([0; 32]), BundleError::SectionDigest { index: 1 });

    // The manifest.
    let mut manifest = |name, bytes: Vec<u8>, error| {
        let mut raw = small();
        raw.section(1).bytes = bytes;
        cases.push((name, raw.bytes(), Refusal::Manifest(error)));
    };
    let fields = RawManifest::default;
    manifest("manifest-empty", vec![], ManifestError::Malformed);
    manifest("manifest-not-postcard", vec![0xFF; 64], ManifestError::Malformed);
    manifest(
        "manifest-version-2",
        RawManifest { version: 2, ..fields() }.bytes(),
        ManifestError::UnsupportedVersion { found: 2 },
    );
    let whole = fields().bytes();
    manifest("manifest-cut", whole[..whole.len() - 1].to_vec(), ManifestError::Malformed);
    manifest("manifest-trailing", [&whole[..], &[0]].concat(), ManifestError::TrailingBytes);
    manifest("manifest-head", RawManifest { head: 9, ..fields() }.bytes(), ManifestError::Malformed);
    let huge = RawManifest { label_count: u64::from(u32::MAX), ..fields() }.bytes();
    manifest("manifest-huge-label-count", huge, ManifestError::Malformed);
    let labels: Vec<String> = (0..65).map(|index| format!("L{index}")).collect();
    let labels: Vec<(&str, &str, f32)> = labels.iter().map(|code| (code.as_str(), "label", 0.5)).collect();
    let crowd = RawManifest { label_count: 65, labels: &labels, ..fields() }.bytes();
    manifest("manifest-65-labels", crowd, ManifestError::Malformed);
    let text = Postcard::default().varint(1).bytes(b"\xff\xfe").0;
    manifest("manifest-not-utf-8", text, ManifestError::Malformed);
    let text = [&Postcard::default().varint(1).varint(u64::MAX >> 1).0[..], b"short"].concat();
    manifest("manifest-huge-text", text, ManifestError::Malformed);
    let none = RawManifest { label_count: 0, labels: &[], ..fields() }.bytes();
    manifest("manifest-no-labels", none, ManifestError::NoLabels);
    let mut labels = |name, labels: &[(&str, &str, f32)], error| {
        manifest(name, RawManifest { label_count: labels.len() as u64, labels, ..fields() }.bytes(), error);
    };
    let field = |field| ManifestError::Text { field };
    labels("label-without-code", &[("", "name", 0.5)], field("labels.code"));
    labels("label-blank-name", &[("A", " ", 0.5)], field("labels.name"));
    labels("label-escape-sequence", &[("A", "\u{1b}[2J", 0.5)], field("labels.name"));
    labels("label-long-code", &[(&"A".repeat(129), "name", 0.5)], field("labels.code"));
    labels("label-twice", &[("A", "a", 0.5), ("B", "b", 0.5), ("A", "c", 0.5)], {
        ManifestError::DuplicateCode { index: 2 }
    });
    labels("threshold-nan", &[("A", "a", f32::NAN)], ManifestError::Threshold { index: 0 });
    labels("threshold-negative", &[("A", "a", -0.1)], ManifestError::Threshold { index: 0 });
    labels("threshold-above-1", &[("A", "a", 0.5), ("B", "b", 1.1)], ManifestError::Threshold { index: 1 });
    for (name, found) in [("max-tokens-2", 2), ("max-tokens-4097", 4097)] {
        let bytes = RawManifest { max_tokens: u64::from(found), ..fields() }.bytes();
        manifest(name, bytes, ManifestError::MaxTokens { found });
    }
    for (name, found) in [("max-sentences-0", 0), ("max-sentences-257", 257)] {
        let bytes = RawManifest { max_sentences: u64::from(found), ..fields() }.bytes();
        manifest(name, bytes, ManifestError::MaxSentences { found });
    }
    manifest("tokenizer-cls", RawManifest { cls: "", ..fields() }.bytes(), field("tokenizer.cls"));
    let infinite = RawManifest { metric: f64::INFINITY, ..fields() }.bytes();
    manifest("metric-infinite", infinite, ManifestError::Metric { index: 0 });

    // The golden texts.
    let mut golden = |name, bytes: Vec<u8>, error| {
        let mut raw = small();
        raw.section(4).bytes = bytes;
        cases.push((name, raw.bytes(), Refusal::Golden(error)));
    };
    let whole = golden_with(1, 0.125, 2, 2);
    golden("golden-empty", vec![], GoldenError::Malformed);
    golden("golden-version-3", golden_with(3, 0.125, 2, 2), GoldenError::UnsupportedVersion { found: 3 });
    golden("golden-cut", whole[..whole.len() - 1].to_vec(), GoldenError::Malformed);
    golden("golden-trailing", [&whole[..], &[0]].concat(), GoldenError::TrailingBytes);
    golden("golden-no-cases", golden_with(1, 0.125, 0, 2), GoldenError::Count { found: 0 });
    golden("golden-257-cases", golden_with(1, 0.125, 257, 2), GoldenError::Count { found: 257 });
    golden("golden-one-more", golden_with(1, 0.125, 3, 2), GoldenError::Malformed);
    golden("golden-tolerance-zero", golden_with(1, 0.0, 2, 2), GoldenError::Tolerance);
    golden("golden-tolerance-nan", golden_with(1, f32::NAN, 2, 2), GoldenError::Tolerance);
    golden("golden-3-logits", golden_with(1, 0.125, 2, 3), GoldenError::Logits { index: 0 });
    golden("golden-65-logits", golden_with(1, 0.125, 2, 65), GoldenError::Malformed);
    let header = Postcard::default().varint(1).f32(0.125).varint(1);
    let nan = header.text("Fever.").varint(4).varint(1).varint(2).f32(0.0).f32(f32::NAN);
    golden("golden-logit-nan", nan.0, GoldenError::Logits { index: 0 });

    // What the box makes of the logits.
    let mut decisions = |name, bytes: Vec<u8>, error| {
        let mut raw = small();
        raw.sections.push(section(6, bytes));
        cases.push((name, raw.bytes(), Refusal::Decisions(error)));
    };
    let fields = RawDecisions::default;
    let whole = fields().bytes();
    decisions("decisions-empty", vec![], DecisionsError::Malformed);
    decisions("decisions-cut", whole[..whole.len() - 1].to_vec(), DecisionsError::Malformed);
    decisions("decisions-trailing", [&whole[..], &[0]].concat(), DecisionsError::TrailingBytes);
    let version = RawDecisions { version: 2, ..fields() }.bytes();
    decisions("decisions-version-2", version, DecisionsError::UnsupportedVersion { found: 2 });
    let rate = RawDecisions { max_unknown_rate: f32::NAN, ..fields() }.bytes();
    decisions("decisions-rate-nan", rate, DecisionsError::Limits);
    let labels = RawDecisions { thresholds: &[0.5, 0.5, 0.5], ..fields() }.bytes();
    decisions("decisions-3-labels", labels, DecisionsError::Labels { found: 3, labels: 2 });
    let threshold = RawDecisions { thresholds: &[0.5, 1.5], ..fields() }.bytes();
    decisions("decisions-threshold-above-1", threshold, DecisionsError::Point { point: 0 });
    let twice = RawDecisions { points: &["ward", "ward"], ..fields() }.bytes();
    decisions("decisions-point-twice", twice, DecisionsError::DuplicatePoint { point: 1 });
    decisions("decisions-no-point", RawDecisions { points: &[], ..fields() }.bytes(), DecisionsError::NoPoint);
    let slope = RawDecisions { slope: -1.0, ..fields() }.bytes();
    decisions("decisions-slope-negative", slope, DecisionsError::Calibration { label: 0 });
    let knots = RawDecisions { knots: &[(-1.0, 0.25), (-1.0, 0.75)], ..fields() }.bytes();
    decisions("decisions-knots-equal", knots, DecisionsError::Calibration { label: 1 });
    let knots = [(0.0, 0.5); 17];
    decisions("decisions-17-knots", RawDecisions { knots: &knots, ..fields() }.bytes(), DecisionsError::Malformed);
    let mean = RawDecisions { mean: &[0.5, f32::INFINITY], ..fields() }.bytes();
    decisions("decisions-mean-infinite", mean, DecisionsError::OutOfDistribution);
    decisions("decisions-mean-none", RawDecisions { mean: &[], ..fields() }.bytes(), DecisionsError::OutOfDistribution);
    let directions = RawDecisions { directions: &[1.0, 0.0, 0.5], ..fields() }.bytes();
    decisions("decisions-directions-cut", directions, DecisionsError::OutOfDistribution);
    cases
}
