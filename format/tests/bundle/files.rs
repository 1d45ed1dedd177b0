//! A second writer of bundles, from the specification alone: it knows nothing of the crate's constants and lets a test
//! break every rule.

use std::path::PathBuf;

use sha2::{Digest, Sha256};

/// A bundle that is not yet bytes. `bytes` computes what is not overridden.
#[derive(Clone)]
pub(crate) struct Raw {
    pub(crate) label: [u8; 16],
    pub(crate) endianness: u32,
    pub(crate) version: u32,
    pub(crate) section_count: Option<u32>,
    pub(crate) flags: u32,
    pub(crate) content_len: Option<u64>,
    pub(crate) rollback_counter: u64,
    pub(crate) reserved: [u8; 16],
    pub(crate) sections: Vec<RawSection>,
    /// Added to the content behind the last section.
    pub(crate) tail: Vec<u8>,
    pub(crate) trailer: Vec<u8>,
    pub(crate) padding: u8,
}

#[derive(Clone)]
pub(crate) struct RawSection {
    pub(crate) kind: u32,
    pub(crate) flags: u32,
    pub(crate) offset: Option<u64>,
    pub(crate) len: Option<u64>,
    pub(crate) reserved: u64,
    pub(crate) sha256: Option<[u8; 32]>,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) fn section(kind: u32, bytes: impl Into<Vec<u8>>) -> RawSection {
    let flags = u32::from(kind <= 4);
    RawSection { kind, flags, offset: None, len: None, reserved: 0, sha256: None, bytes: bytes.into() }
}

/// The content of `golden/v1.kdh`.
pub(crate) fn small() -> Raw {
    Raw {
        label: *b"kdh-bundle\0\0\0\0\0\0",
        endianness: 0xFEFF,
        version: 1,
        section_count: None,
        flags: 0,
        content_len: None,
        rollback_counter: 7,
        reserved: [0; 16],
        sections: vec![
            section(1, manifest()),
            section(2, *b"stands for an ONNX model"),
            section(3, *b"[PAD]\n[UNK]\n[CLS]\n[SEP]\nlung\n##s\n"),
            section(4, golden()),
        ],
        tail: Vec::new(),
        trailer: Vec::new(),
        padding: 0,
    }
}

impl Raw {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let header_len = 64 + 64 * self.sections.len();
        let mut table = Vec::new();
        let mut end = header_len + 32;
        for section in &self.sections {
            let offset = end.next_multiple_of(64);
            end = offset + section.bytes.len();
            table.extend(section.kind.to_le_bytes());
            table.extend(section.flags.to_le_bytes());
            table.extend(section.offset.unwrap_or(offset as u64).to_le_bytes());
            table.extend(section.len.unwrap_or(section.bytes.len() as u64).to_le_bytes());
            table.extend(section.reserved.to_le_bytes());
            table.extend(section.sha256.unwrap_or_else(|| Sha256::digest(&section.bytes).into()));
        }
        let mut bytes = Vec::new();
        bytes.extend(self.label);
        bytes.extend(self.endianness.to_le_bytes());
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.section_count.unwrap_or(self.sections.len() as u32).to_le_bytes());
        bytes.extend(self.flags.to_le_bytes());
        bytes.extend(self.content_len.unwrap_or((end + self.tail.len()) as u64).to_le_bytes());
        bytes.extend(self.rollback_counter.to_le_bytes());
        bytes.extend(self.reserved);
        bytes.extend(table);
        let digest = Sha256::digest(&bytes);
        bytes.extend(digest);
        for section in &self.sections {
            bytes.resize(bytes.len().next_multiple_of(64), self.padding);
            bytes.extend(&section.bytes);
        }
        bytes.extend(&self.tail);
        bytes.extend(&self.trailer);
        bytes
    }

    /// The section of this kind, to change it.
    pub(crate) fn section(&mut self, kind: u32) -> &mut RawSection {
        self.sections.iter_mut().find(|section| section.kind == kind).unwrap()
    }
}

/// Postcard by hand: integers below 128 are one byte, strings and sequences have their length in front.
#[derive(Default)]
pub(crate) struct Postcard(pub(crate) Vec<u8>);

impl Postcard {
    pub(crate) fn varint(mut self, mut value: u64) -> Self {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
        self
    }

    pub(crate) fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    pub(crate) fn bytes(self, bytes: &[u8]) -> Self {
        let mut this = self.varint(bytes.len() as u64);
        this.0.extend(bytes);
        this
    }

    pub(crate) fn f32(mut self, value: f32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(crate) fn f64(mut self, value: f64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }
}

/// What a test varies of the manifest.
pub(crate) struct RawManifest<'a> {
    pub(crate) version: u64,
    pub(crate) head: u64,
    pub(crate) label_count: u64,
    pub(crate) labels: &'a [(&'a str, &'a str, f32)],
    pub(crate) max_tokens: u64,
    pub(crate) max_sentences: u64,
    pub(crate) cls: &'a str,
    pub(crate) metric: f64,
}

impl Default for RawManifest<'_> {
    fn default() -> Self {
        Self {
            version: 1,
            head: 0,
            label_count: 2,
            labels: &[("RESP", "respiratory finding", 0.5), ("CARD", "cardiac finding", 0.25)],
            max_tokens: 384,
            max_sentences: 64,
            cls: "[CLS]",
            metric: 0.5,
        }
    }
}

impl RawManifest<'_> {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut postcard = Postcard::default()
            .varint(self.version)
            .text("small")
            .text("1.0")
            .varint(self.head)
            .varint(self.label_count);
        for &(code, name, threshold) in self.labels {
            postcard = postcard.text(code).text(name).f32(threshold);
        }
        postcard = postcard.varint(self.max_tokens).varint(self.max_sentences);
        // Tokeniser: lowercase, cls, sep, unk.
        postcard = postcard.varint(1).text(self.cls).text("[SEP]").text("[UNK]");
        // Provenance, with the seed at its end.
        for text in ["none", "CC0", "random", "CC0", "by hand", ""] {
            postcard = postcard.text(text);
        }
        postcard = postcard.varint(300);
        // Card.
        for text in ["A file for tests.", "Tests of readers.", "It labels nothing.\nIt never will.", "CC0"] {
            postcard = postcard.text(text);
        }
        postcard.varint(1).text("dev_micro_f1").f64(self.metric).0
    }
}

pub(crate) fn manifest() -> Vec<u8> {
    RawManifest::default().bytes()
}

/// What a test varies of the decisions.
pub(crate) struct RawDecisions<'a> {
    pub(crate) version: u64,
    pub(crate) max_unknown_rate: f32,
    pub(crate) slope: f32,
    pub(crate) knots: &'a [(f32, f32)],
    pub(crate) points: &'a [&'a str],
    pub(crate) thresholds: &'a [f32],
    pub(crate) mean: &'a [f32],
    pub(crate) directions: &'a [f32],
}

impl Default for RawDecisions<'_> {
    fn default() -> Self {
        Self {
            version: 1,
            max_unknown_rate: 0.25,
            slope: 0.5,
            knots: &[(-1.0, 0.25), (2.0, 0.75)],
            points: &["ward", "screening"],
            thresholds: &[0.5, 0.25],
            mean: &[0.5, -0.5],
            directions: &[1.0, 0.0],
        }
    }
}

impl RawDecisions<'_> {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut postcard = Postcard::default().varint(self.version);
        for text in ["200 notes of one ward", "A. Author", "2026-11-24", "by hand"] {
            postcard = postcard.text(text);
        }
        // Documents, and the digest without a length in front.
        postcard = postcard.varint(200);
        postcard.0.extend([7; 32]);
        // Limits.
        postcard = postcard.varint(4).f32(self.max_unknown_rate);
        // Calibration: Platt, isotonic.
        postcard = postcard.varint(2).varint(2).f32(self.slope).f32(-1.0).varint(3).varint(self.knots.len() as u64);
        for &(logit, probability) in self.knots {
            postcard = postcard.f32(logit).f32(probability);
        }
        let figure = |postcard: Postcard, name: &str| postcard.varint(1).text(name).f64(0.5).f64(0.25).f64(0.75);
        postcard = figure(postcard, "calibration_error").varint(self.points.len() as u64);
        for name in self.points {
            // A recall floor.
            postcard = postcard.text(name).varint(2).f32(0.75).varint(self.thresholds.len() as u64);
            for &threshold in self.thresholds {
                // Not pooled; precision and recall.
                postcard = postcard.f32(threshold).varint(0);
                postcard = [0.5, 0.25, 0.75, 1.0, 0.5, 1.0].into_iter().fold(postcard, Postcard::f32);
            }
            postcard = figure(postcard, "micro_f1");
        }
        // Out of distribution: there, mean, directions, weights, threshold.
        postcard = postcard.varint(1);
        for values in [self.mean, self.directions] {
            postcard = postcard.bytes(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>());
        }
        postcard.f32(2.0).f32(1.0).f32(8.5).0
    }
}

pub(crate) fn golden() -> Vec<u8> {
    golden_with(1, 0.125, 2, 2)
}

pub(crate) fn golden_with(version: u64, tolerance: f32, count: u64, logits: usize) -> Vec<u8> {
    let logits = |postcard: Postcard, values: &[f32]| {
        let values = values.iter().copied().cycle().take(logits);
        values.fold(postcard.varint(logits as u64), Postcard::f32)
    };
    let postcard = Postcard::default().varint(version).f32(tolerance).varint(count);
    let postcard = logits(postcard.text("Lungs are clear.").varint(6).varint(1), &[-1.5, 0.75]);
    logits(postcard.text("Herz \u{fc}ber 100/min. Puls fl\u{fc}chtig.").varint(11).varint(2), &[3.0, -0.5]).0
}

pub(crate) fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

/// The committed bytes of a test file. With `UPDATE_TEST_FILES` set it is written anew from `expected` before.
pub(crate) fn read(name: &str, expected: &[u8]) -> Vec<u8> {
    let path = path(name);
    if std::env::var_os("UPDATE_TEST_FILES").is_some() {
        std::fs::write(&path, expected).unwrap();
    }
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
