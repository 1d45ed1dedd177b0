//! Bundles of a few kilobytes, so that a target can open many of them.

use anyhow::Context;
use kdh_format::{BundleWriter, GoldenCase, KeyRole, SecretKey, sign_bundle};
use kdh_runtime::{ARITHMETIC, Bundle, Labeler, LabelerOptions};

/// The key that signs them.
pub(super) fn key() -> anyhow::Result<SecretKey> {
    Ok(SecretKey::from_seed(&[3; 32], KeyRole::Release, "fuzz")?)
}

/// A signed bundle, otherwise as [`unsigned`] makes it.
pub(super) fn bundle(int8: bool, max_tokens: usize, counter: u64) -> anyhow::Result<Vec<u8>> {
    sign_bundle(&Bundle::parse(&unsigned(int8, max_tokens, counter)?)?, &key()?).context("signing")
}

/// A bundle of two labels, with this rollback counter; its program is [`small_program`](super::model::small_program).
pub(super) fn unsigned(int8: bool, max_tokens: usize, counter: u64) -> anyhow::Result<Vec<u8>> {
    let file = std::fs::read(crate::root().join("format/tests/golden/v1.kdh"))?;
    let mut manifest = Bundle::parse(&file)?.manifest()?;
    (manifest.max_tokens, manifest.max_sentences) = (max_tokens as u32, 3);
    let vocabulary =
        [manifest.tokenizer.cls, manifest.tokenizer.sep, manifest.tokenizer.unk, "a", "b", "##b"].join("\n");
    let program = super::model::small_program(int8, max_tokens);
    let write = |case: GoldenCase<'_>| {
        let writer = BundleWriter::new(&manifest, b"graph", vocabulary.as_bytes(), 1e-3, core::slice::from_ref(&case))?;
        let writer = writer.program(&program, false).rollback_counter(counter);
        anyhow::Ok(writer.golden(ARITHMETIC, 1e-3, &[case], 2)?.finish()?)
    };
    let case = GoldenCase { text: TEXT, tokens: 3, sentences: 1, logits: [0.0; 2].into_iter().collect() };
    let draft = write(case.clone())?;
    let labeler = Labeler::from_bundle(&Bundle::parse(&draft)?, &LabelerOptions::new().allow_unsigned())?;
    let mut scratch = labeler.scratch();
    let report = labeler.label(&mut scratch, TEXT)?;
    let golden = GoldenCase {
        tokens: report.kept_tokens as u32 + 2,
        sentences: report.sentences as u32,
        logits: report.labels.iter().map(|label| label.logit).collect(),
        ..case
    };
    write(golden)
}

const TEXT: &str = "ab a b.";
