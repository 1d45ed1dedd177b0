//! Damage to any byte is found, and nothing makes a reader panic.

use crate::files;
use kdh_format::{Bundle, BundleWriter, GoldenCase, Manifest, ManifestError, WriteError, heapless};
use proptest::prelude::*;

/// Reads everything that can be read.
fn read(bytes: &[u8]) -> bool {
    let Ok(bundle) = Bundle::parse(bytes) else { return false };
    let _ = format!("{bundle:?} {:?}", bundle.sections().collect::<Vec<_>>());
    let Ok(manifest) = bundle.manifest() else { return false };
    let Ok(golden) = bundle.golden(&manifest) else { return false };
    let announced = golden.cases().len();
    assert_eq!(golden.cases().count(), announced);
    true
}

/// Verifies: R-001
#[test]
fn every_flipped_bit_is_found() {
    let good = files::small().bytes();
    assert!(read(&good));
    for index in 0..good.len() {
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[index] ^= 1 << bit;
            assert!(Bundle::parse(&bytes).is_err(), "bit {bit} of byte {index}");
        }
    }
}

/// Verifies: R-001
#[test]
fn every_truncation_is_found() {
    let good = files::small().bytes();
    for len in 0..good.len() {
        assert!(Bundle::parse(&good[..len]).is_err(), "{len} bytes");
    }
}

proptest! {
    #[test]
    fn a_changed_byte_is_found(index in any::<prop::sample::Index>(), value in any::<u8>()) {
        let mut bytes = files::small().bytes();
        let index = index.index(bytes.len());
        prop_assume!(bytes[index] != value);
        bytes[index] = value;
        prop_assert!(Bundle::parse(&bytes).is_err());
    }

    /// The valid preamble stands in front, so that the rest of the reader is reached.
    ///
    /// Verifies: R-002
    #[test]
    fn any_bytes_behind_a_preamble(rest in prop::collection::vec(any::<u8>(), 0..2048)) {
        let mut bytes = files::small().bytes();
        bytes.truncate(64);
        bytes.extend(rest);
        read(&bytes);
    }

    #[test]
    fn any_manifest(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let mut raw = files::small();
        raw.section(1).bytes = bytes;
        read(&raw.bytes());
    }

    #[test]
    fn a_changed_manifest(index in any::<prop::sample::Index>(), value in any::<u8>()) {
        let mut raw = files::small();
        let bytes = &mut raw.section(1).bytes;
        let index = index.index(bytes.len());
        bytes[index] = value;
        read(&raw.bytes());
    }

    #[test]
    fn changed_golden_texts(index in any::<prop::sample::Index>(), value in any::<u8>()) {
        let mut raw = files::small();
        let bytes = &mut raw.section(4).bytes;
        let index = index.index(bytes.len());
        bytes[index] = value;
        read(&raw.bytes());
    }

    /// Verifies: R-002
    #[test]
    fn any_table(
        fields in prop::collection::vec((0_u32..9, 0_u32..3, any::<Option<u64>>(), any::<Option<u64>>()), 0..8),
    ) {
        let mut raw = files::small();
        for (kind, flags, offset, len) in fields {
            raw.sections.push(files::RawSection { flags, offset, len, ..files::section(kind, *b"x") });
        }
        read(&raw.bytes());
    }

    #[test]
    fn written_is_read_back(
        name in "[a-z]{1,20}",
        threshold in 0.0_f32..=1.0,
        graph in prop::collection::vec(any::<u8>(), 0..300),
        vocabulary in prop::collection::vec(any::<u8>(), 0..300),
        text in any::<String>(),
        logits in (-50.0_f32..50.0, -50.0_f32..50.0),
        counter in any::<u64>(),
    ) {
        let bytes = files::small().bytes();
        let mut manifest = Bundle::parse(&bytes).unwrap().manifest().unwrap();
        manifest.name = &name;
        manifest.labels[0].threshold = threshold;
        let logits = heapless::Vec::from_slice(&[logits.0, logits.1]).unwrap();
        let cases = [GoldenCase { text: &text, tokens: 9, sentences: 2, logits }];
        let writer = || BundleWriter::new(&manifest, &graph, &vocabulary, 0.5, &cases).unwrap();
        let written = writer().rollback_counter(counter).finish().unwrap();
        prop_assert_eq!(&written, &writer().rollback_counter(counter).finish().unwrap());
        let bundle = Bundle::parse(&written).unwrap();
        prop_assert_eq!(bundle.rollback_counter(), counter);
        prop_assert_eq!(bundle.section(kdh_format::SectionKind::Onnx).unwrap(), &graph);
        prop_assert_eq!(bundle.section(kdh_format::SectionKind::Vocabulary).unwrap(), &vocabulary);
        prop_assert_eq!(&bundle.manifest().unwrap(), &manifest);
        prop_assert_eq!(bundle.golden(&manifest).unwrap().cases().next().unwrap(), cases[0].clone());
    }
}

#[test]
fn writer_refuses_what_a_reader_would() {
    let bytes = files::small().bytes();
    let good = Bundle::parse(&bytes).unwrap().manifest().unwrap();
    let refusal = |manifest: &Manifest<'_>| BundleWriter::new(manifest, b"", b"", 0.5, &[]).map(|_| ()).unwrap_err();
    // No golden text.
    assert!(matches!(refusal(&good), WriteError::Golden(_)));

    let case = GoldenCase { text: "", tokens: 2, sentences: 0, logits: heapless::Vec::from_slice(&[0.0; 2]).unwrap() };
    let refusal = |change: &dyn Fn(&mut Manifest<'_>)| {
        let mut manifest = good.clone();
        change(&mut manifest);
        BundleWriter::new(&manifest, b"", b"", 0.5, std::slice::from_ref(&case)).map(|_| ()).unwrap_err()
    };
    let manifest = |error| WriteError::Manifest(error);
    assert_eq!(refusal(&|m| m.max_tokens = 0), manifest(ManifestError::MaxTokens { found: 0 }));
    assert_eq!(refusal(&|m| m.name = "two\nlines"), manifest(ManifestError::Text { field: "name" }));
    assert_eq!(refusal(&|m| m.labels[1].code = "RESP"), manifest(ManifestError::DuplicateCode { index: 1 }));
    assert!(matches!(refusal(&|m| m.labels.truncate(1)), WriteError::Golden(_)));
    let long = vec![b'a'; kdh_format::MAX_VOCABULARY_LEN + 1];
    let error = BundleWriter::new(&good, b"", &long, 0.5, std::slice::from_ref(&case)).unwrap().finish().unwrap_err();
    assert_eq!(error.to_string(), "the bundle's section of kind 3 is longer than allowed; pack it again");
}
