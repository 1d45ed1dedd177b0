//! The packed bundle holds what the student says, and the committed tiny bundle is still what `pack` makes.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod tiny;

use std::path::{Path, PathBuf};

use kdh_exporter::graph::{Precision, onnx};
use kdh_exporter::pack::{PackError, Packed, Release, pack};
use kdh_exporter::parity::Bounds;
use kdh_exporter::session::Session;
use kdh_exporter::student::Student;
use kdh_format::student::Head;
use kdh_format::{Bundle, SectionKind};
use kdh_runtime::engine::{Engine, EngineChoice, Shape};
use kdh_runtime::{Labeler, LabelerOptions, dataset};

fn packed(architecture: &str, head: Head, bounds: &Bounds) -> Result<(Student, Packed), PackError> {
    let folder = tempfile::tempdir().unwrap();
    tiny::write_student(folder.path(), architecture, head, 1);
    let student = Student::read(folder.path()).unwrap();
    let documents = dataset::read(root().join("exporter/tests/tiny/documents.jsonl")).unwrap();
    pack(&student, &Release::default(), &documents, bounds, true, || ()).map(|packed| (student, packed))
}

/// Nothing is wrong with a random student that flips a decision or two.
const WIDE: Bounds = Bounds { micro_f1_loss: 0.2, flip_rate: 0.2 };

#[test]
fn holds_what_the_student_says() {
    for (architecture, head) in [("bert", Head::Mean), ("distilbert", Head::SentenceEvidence), ("mpnet", Head::Mean)] {
        let (student, packed) = packed(architecture, head, &WIDE).unwrap();
        let bundle = Bundle::parse(&packed.bundle).unwrap();
        let manifest = bundle.manifest().unwrap();
        assert_eq!((manifest.name, manifest.head, manifest.max_tokens), ("tiny", head, tiny::MAX_TOKENS as u32));
        assert_eq!(manifest.labels.iter().map(|label| label.code).collect::<Vec<_>>(), ["A", "B", "C"]);
        assert_eq!(manifest.tokenizer.cls, student.card.tokenizer.cls);
        let int8 = manifest.metrics.iter().find(|metric| metric.name == "parity_int8_micro_f1").unwrap();
        assert_eq!(int8.value, packed.parity.int8_micro_f1);
        assert_eq!(bundle.section(SectionKind::Onnx).unwrap(), onnx(&student, Precision::Int8));
        assert_eq!(bundle.section(SectionKind::Vocabulary).unwrap(), student.vocabulary_file());

        let session = Session::new(bundle.section(SectionKind::Onnx).unwrap()).unwrap();
        let mut encoder = kdh_exporter::encode::TextEncoder::new(&student).unwrap();
        let golden = bundle.golden(&manifest).unwrap();
        assert!(golden.cases().len() >= 12);
        for case in golden.cases() {
            let (ids, sentence_ids) = encoder.encode(case.text);
            assert_eq!(case.tokens as usize, ids.len());
            // The program's own logits, no further from the reference than the bundle says.
            let reference = session.run(ids, sentence_ids).unwrap().document;
            assert!(reference.iter().zip(&case.logits).all(|(a, b)| (a - b).abs() <= golden.tolerance()));
        }
        let longest = golden.cases().map(|case| case.tokens).max();
        assert_eq!(longest, Some(tiny::MAX_TOKENS as u32), "a golden text is cut to the longest input");
    }
}

/// On f32, where no rounding decides, the arena gives what tract gives.
#[test]
fn every_architecture_lowers() {
    for (architecture, head) in [("bert", Head::Mean), ("distilbert", Head::SentenceEvidence), ("mpnet", Head::Mean)] {
        let (student, packed) = packed(architecture, head, &WIDE).unwrap();
        let bundle = Bundle::parse(&packed.bundle).unwrap();
        let labeler =
            Labeler::from_bundle(&bundle, &LabelerOptions::new().allow_unsigned().engine(EngineChoice::Arena)).unwrap();
        let result = labeler.self_test(&bundle).unwrap();
        assert!(result.exact && result.max_difference == 0.0, "{result:?}");

        let manifest = bundle.manifest().unwrap();
        let shape = Shape {
            labels: manifest.labels.len(),
            max_sentences: manifest.max_sentences as usize,
            max_tokens: manifest.max_tokens as usize,
            vocabulary: student.vocabulary.len(),
        };
        let graph = onnx(&student, Precision::F32);
        let session = Session::new(&graph).unwrap();
        let engine = Engine::from_onnx(&graph, shape, EngineChoice::Arena, None).unwrap();
        let (mut scratch, mut encoder) = (engine.scratch(), kdh_exporter::encode::TextEncoder::new(&student).unwrap());
        for case in bundle.golden(&manifest).unwrap().cases() {
            let (ids, sentence_ids) = encoder.encode(case.text);
            let (found, expected) =
                (engine.run(&mut scratch, ids, sentence_ids).unwrap(), session.run(ids, sentence_ids).unwrap());
            for (a, b) in
                found.document.iter().zip(&expected.document).chain(found.sentences.iter().zip(&expected.sentences))
            {
                assert!((a - b).abs() < 1e-4, "{architecture}: {a} on the arena, {b} on tract");
            }
        }
    }
}

/// Verifies: R-013
#[test]
fn the_gate_refuses() {
    let bounds = Bounds { micro_f1_loss: -1.1, flip_rate: 1.0 };
    let refused = packed("bert", Head::SentenceEvidence, &bounds);
    assert!(matches!(refused, Err(PackError::Refused(_))));
}

/// `runtime/tests/data/tiny.kdh` is a fixture of other tests. To make it again:
///
/// ```text
/// cargo run -p kdh-exporter --example tiny-student -- target/tiny
/// cargo run -p kdh-exporter -- pack target/tiny --data exporter/tests/tiny/documents.jsonl --embed-onnx \
///   -o runtime/tests/data/tiny.kdh
/// ```
#[test]
fn tiny_bundle_is_up_to_date() {
    let file = root().join("runtime/tests/data/tiny.kdh");
    let committed = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let (_, packed) = packed("bert", Head::SentenceEvidence, &Bounds::default()).unwrap();
    let (old, new) = (Bundle::parse(&committed).unwrap(), Bundle::parse(&packed.bundle).unwrap());
    for kind in [SectionKind::Onnx, SectionKind::Vocabulary, SectionKind::Program] {
        assert!(old.section(kind) == new.section(kind), "{kind:?} differs; make the bundle again as this test says");
    }
    // Logits and figures are computed in f32, whose last bits are the processor's own.
    let (old_manifest, new_manifest) = (old.manifest().unwrap(), new.manifest().unwrap());
    assert_eq!(old_manifest.metrics.len(), new_manifest.metrics.len());
    let (mut old_rest, mut new_rest) = (old_manifest.clone(), new_manifest.clone());
    old_rest.metrics.clear();
    new_rest.metrics.clear();
    assert_eq!(old_rest, new_rest);
    let (old_golden, new_golden) = (old.golden(&old_manifest).unwrap(), new.golden(&new_manifest).unwrap());
    assert_eq!(old_golden.cases().len(), new_golden.cases().len());
    for (old_case, new_case) in old_golden.cases().zip(new_golden.cases()) {
        assert_eq!(
            (old_case.text, old_case.tokens, old_case.sentences),
            (new_case.text, new_case.tokens, new_case.sentences)
        );
        for (old_logit, new_logit) in old_case.logits.iter().zip(&new_case.logits) {
            assert!((old_logit - new_logit).abs() <= old_golden.tolerance(), "{old_logit} {new_logit}");
        }
    }
    assert!(committed.len() < 200_000, "{} bytes", committed.len());
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
