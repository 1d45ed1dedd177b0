//! Variants of the tiny bundle.
#![allow(dead_code, reason = "each test program uses its own part")]

use kdh_format::{Bundle, BundleWriter, GoldenCase, Manifest, SectionKind};

pub(crate) const TINY: &[u8] = include_bytes!("../data/tiny.kdh");

/// The parts of a bundle, to be changed and written anew with right digests.
pub(crate) struct Parts<'a> {
    pub(crate) manifest: Manifest<'a>,
    pub(crate) graph: Vec<u8>,
    pub(crate) vocabulary: Vec<u8>,
    pub(crate) tolerance: f32,
    pub(crate) golden: Vec<GoldenCase<'a>>,
}

impl Parts<'static> {
    pub(crate) fn of_tiny() -> Self {
        let bundle = Bundle::parse(TINY).unwrap();
        let manifest = bundle.manifest().unwrap();
        let golden = bundle.golden(&manifest).unwrap();
        Self {
            graph: bundle.section(SectionKind::Onnx).unwrap().to_vec(),
            vocabulary: bundle.section(SectionKind::Vocabulary).unwrap().to_vec(),
            tolerance: golden.tolerance(),
            golden: golden.cases().collect(),
            manifest,
        }
    }
}

impl Parts<'_> {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        BundleWriter::new(&self.manifest, &self.graph, &self.vocabulary, self.tolerance, &self.golden)
            .and_then(BundleWriter::finish)
            .unwrap()
    }
}

/// The tiny bundle with one bit of a section flipped.
pub(crate) fn flip_in_section(index: usize) -> Vec<u8> {
    let section = Bundle::parse(TINY).unwrap().sections().nth(index).unwrap();
    let offset = section.bytes.as_ptr() as usize - TINY.as_ptr() as usize;
    let mut bytes = TINY.to_vec();
    bytes[offset + section.bytes.len() / 2] ^= 1;
    bytes
}
