//! `golden/v1.kdh` was written once and must stay readable, byte by byte, as long as version 1 is read.

use crate::files;
use kdh_format::{Bundle, BundleWriter, Calibration, GoldenCase, Head, Policy, SectionKind};

fn committed() -> Vec<u8> {
    files::read("golden/v1.kdh", &files::small().bytes())
}

#[test]
fn says_what_it_was_given() {
    let bytes = committed();
    let bundle = Bundle::parse(&bytes).unwrap();
    assert_eq!(bundle.rollback_counter(), 7);
    assert_eq!(bundle.trailer(), b"");
    assert_eq!(bundle.signed_bytes().len(), 64 + 4 * 64);
    assert_eq!(bundle.digest(), bytes[320..352]);
    let kinds: Vec<u32> = bundle.sections().map(|section| section.kind).collect();
    assert_eq!(kinds, [1, 2, 3, 4]);
    assert_eq!(bundle.section(SectionKind::Onnx), Some(&b"stands for an ONNX model"[..]));
    assert_eq!(bundle.section(SectionKind::Vocabulary), Some(&b"[PAD]\n[UNK]\n[CLS]\n[SEP]\nlung\n##s\n"[..]));
    assert_eq!(bundle.section(SectionKind::Program), None);

    let manifest = bundle.manifest().unwrap();
    assert_eq!((manifest.name, manifest.model_version), ("small", "1.0"));
    assert_eq!(manifest.head, Head::SentenceEvidence);
    let labels: Vec<_> = manifest.labels.iter().map(|label| (label.code, label.name, label.threshold)).collect();
    assert_eq!(labels, [("RESP", "respiratory finding", 0.5), ("CARD", "cardiac finding", 0.25)]);
    assert_eq!((manifest.max_tokens, manifest.max_sentences), (384, 64));
    assert!(manifest.tokenizer.lowercase);
    assert_eq!((manifest.tokenizer.cls, manifest.tokenizer.sep, manifest.tokenizer.unk), ("[CLS]", "[SEP]", "[UNK]"));
    assert_eq!((manifest.provenance.data, manifest.provenance.seed), ("none", 300));
    assert_eq!(manifest.card.limitations, "It labels nothing.\nIt never will.");
    assert_eq!((manifest.metrics[0].name, manifest.metrics[0].value), ("dev_micro_f1", 0.5));

    let golden = bundle.golden(&manifest).unwrap();
    assert_eq!(golden.tolerance(), 0.125);
    let cases: Vec<GoldenCase<'_>> = golden.cases().collect();
    assert_eq!(golden.cases().len(), 2);
    assert_eq!((cases[0].text, cases[0].tokens, cases[0].sentences), ("Lungs are clear.", 6, 1));
    assert_eq!(cases[0].logits, [-1.5, 0.75]);
    assert_eq!((cases[1].text, cases[1].tokens), ("Herz \u{fc}ber 100/min. Puls fl\u{fc}chtig.", 11));
    assert_eq!(cases[1].logits, [3.0, -0.5]);
}

#[test]
fn writer_gives_the_same_bytes() {
    let bytes = committed();
    assert_eq!(files::small().bytes(), bytes);
    let bundle = Bundle::parse(&bytes).unwrap();
    let manifest = bundle.manifest().unwrap();
    let golden = bundle.golden(&manifest).unwrap();
    let cases: Vec<_> = golden.cases().collect();
    let section = |kind| bundle.section(kind).unwrap();
    let graph = section(SectionKind::Onnx);
    let written =
        BundleWriter::new(&manifest, graph, section(SectionKind::Vocabulary), golden.tolerance(), &cases).unwrap();
    assert_eq!(written.rollback_counter(7).finish().unwrap(), bytes);
}

#[test]
fn takes_a_trailer_without_a_change_to_what_is_signed() {
    let bytes = committed();
    let mut signed = bytes.clone();
    signed.extend([0xAB; kdh_format::MAX_TRAILER_LEN]);
    let (bundle, signed) = (Bundle::parse(&bytes).unwrap(), Bundle::parse(&signed).unwrap());
    assert_eq!(signed.trailer(), [0xAB; kdh_format::MAX_TRAILER_LEN]);
    assert_eq!(signed.signed_bytes(), bundle.signed_bytes());
    assert_eq!(signed.digest(), bundle.digest());
}

#[test]
fn passes_over_unknown_sections_that_are_not_critical() {
    let mut raw = files::small();
    raw.sections.insert(1, files::section(5, *b"a program of a later version"));
    raw.sections.push(files::section(4711, Vec::new()));
    let bytes = raw.bytes();
    let bundle = Bundle::parse(&bytes).unwrap();
    assert_eq!(bundle.sections().len(), 6);
    assert!(bundle.manifest().is_ok());
    let last = bundle.sections().last().unwrap();
    assert_eq!((last.kind, last.critical, last.bytes), (4711, false, &b""[..]));
}

#[test]
fn a_program_stands_for_the_graph() {
    let mut raw = files::small();
    raw.section(2).flags = 0;
    raw.section(2).kind = 5;
    assert!(Bundle::parse(&raw.bytes()).is_ok());
}

/// Verifies: R-003
#[test]
fn debug_shows_no_content() {
    let bytes = committed();
    let bundle = Bundle::parse(&bytes).unwrap();
    let golden = bundle.golden(&bundle.manifest().unwrap()).unwrap();
    let debug = format!("{bundle:?} {:?} {golden:?} {:?}", bundle.sections().next(), golden.cases().next());
    assert!(!debug.contains("Lungs"), "{debug}");
}

/// `golden/v1-decisions.kdh` is `v1.kdh` with the decisions section, which came later.
#[test]
fn decisions_say_what_they_were_given() {
    let mut raw = files::small();
    raw.sections.push(files::section(6, files::RawDecisions::default().bytes()));
    let bytes = files::read("golden/v1-decisions.kdh", &raw.bytes());
    assert_eq!(bytes, raw.bytes());
    let bundle = Bundle::parse(&bytes).unwrap();
    let manifest = bundle.manifest().unwrap();
    let decisions = bundle.decisions(&manifest).unwrap().unwrap();
    assert_eq!((decisions.fitted.author, decisions.fitted.date), ("A. Author", "2026-11-24"));
    assert_eq!((decisions.fitted.documents, decisions.fitted.bundle), (200, [7; 32]));
    assert_eq!((decisions.limits.min_tokens, decisions.limits.max_unknown_rate), (4, 0.25));
    assert_eq!(decisions.calibration[0], Calibration::Platt { slope: 0.5, intercept: -1.0 });
    let Calibration::Isotonic(knots) = &decisions.calibration[1] else { panic!("not isotonic") };
    assert_eq!(knots[..], [(-1.0, 0.25), (2.0, 0.75)]);
    assert_eq!((decisions.figures[0].name, decisions.figures[0].high), ("calibration_error", 0.75));
    let names: Vec<&str> = decisions.points.iter().map(|point| point.name).collect();
    assert_eq!(names, ["ward", "screening"]);
    assert_eq!(decisions.points[1].policy, Policy::RecallFloor(0.75));
    let label = decisions.points[0].labels[1];
    assert_eq!((label.threshold, label.pooled, label.precision.low, label.recall.high), (0.25, false, 0.25, 1.0));
    let ood = decisions.out_of_distribution.unwrap();
    assert_eq!((ood.hidden_size(), ood.residual_weight, ood.logit_weight, ood.threshold), (2, 2.0, 1.0, 8.5));

    let written = BundleWriter::of(&bundle).decisions(&decisions, 2).unwrap().finish().unwrap();
    assert_eq!(written, bytes);
    // A reader that does not know the section still reads the rest.
    assert!(bundle.sections().last().is_some_and(|section| section.kind == 6 && !section.critical));
}

#[test]
fn golden_texts_of_version_2_name_their_arithmetic() {
    let mut raw = files::small();
    let version_1 = raw.section(4).bytes.clone();
    assert_eq!(version_1[0], 1);
    raw.section(4).bytes = [&[2, 9], &version_1[1..]].concat();
    let bytes = raw.bytes();
    let bundle = Bundle::parse(&bytes).unwrap();
    let golden = bundle.golden(&bundle.manifest().unwrap()).unwrap();
    assert_eq!((golden.arithmetic(), golden.tolerance(), golden.cases().len()), (Some(9), 0.125, 2));
    let cases: Vec<_> = golden.cases().collect();

    let bytes = committed();
    let old = Bundle::parse(&bytes).unwrap();
    assert_eq!(old.golden(&old.manifest().unwrap()).unwrap().arithmetic(), None);
    let written = BundleWriter::of(&old).golden(9, 0.125, &cases, 2).unwrap().finish().unwrap();
    assert_eq!(written, raw.bytes());
}
