//! A teacher's logits, computed once and kept in a file.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use kdh_runtime::dataset::Document;
use sha2::{Digest, Sha256};
use tch::Device;

use crate::data::{Boundaries, Encoder};
use crate::encoder::Precision;
use crate::hex::hex;
use crate::model::{Classifier, read_card};
use crate::predict::Predictions;

/// How a teacher reads the documents.
#[derive(Clone, Copy, Debug)]
pub struct TeacherOptions {
    /// Whose sentence boundaries: those that the student will be trained with.
    pub boundaries: Boundaries,
    /// Arithmetic of the linear layers.
    pub precision: Precision,
    /// Documents a pass.
    pub batch_size: usize,
}

/// The teacher's logits for `documents`, from `cache` when they are already there.
///
/// The file's name is the digest of all that the logits depend on (weights, card, vocabulary, texts, options), so a
/// changed teacher or text never finds old logits, and students and particles never run the teacher again. `progress`
/// is called with the number of documents done.
///
/// # Errors
/// When the teacher's labels are not `codes`, or a file cannot be read or written.
pub fn teacher_logits(
    teacher: &Path,
    documents: &[Document],
    codes: &[String],
    options: TeacherOptions,
    cache: &Path,
    device: Device,
    progress: impl FnMut(usize),
) -> Result<(PathBuf, Predictions)> {
    let card = read_card(teacher)?;
    let own: Vec<&str> = card.labels.iter().map(|label| label.code.as_str()).collect();
    ensure!(
        own.iter().eq(codes),
        "the teacher's labels are {}, the student's {}: train both with the same --labels",
        own.join(", "),
        codes.join(", ")
    );
    let path = cache.join(format!("{}.jsonl", teacher_key(teacher, documents, options)?));
    let mut predictions = Predictions::default();
    if path.is_file() {
        predictions.append(&path, codes)?;
        return Ok((path, predictions));
    }
    let predictions = run_teacher(teacher, documents, options, device, progress)?;
    fs::create_dir_all(cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let draft = path.with_extension("draft");
    predictions.write(&draft, codes)?;
    fs::rename(&draft, &path).with_context(|| format!("cannot move {} into place", draft.display()))?;
    Ok((path, predictions))
}

/// What a trained model says of documents and their sentences. Their labels are not read, and the predictions hold none:
/// transfer documents may have labels of another task.
///
/// # Errors
/// When the model's folder cannot be read.
pub fn run_teacher(
    teacher: &Path,
    documents: &[Document],
    options: TeacherOptions,
    device: Device,
    progress: impl FnMut(usize),
) -> Result<Predictions> {
    let (model, card) = Classifier::read(teacher, device)?;
    let vocabulary = fs::read(teacher.join("vocab.txt")).context("cannot read the teacher's vocab.txt")?;
    let mut encoder = Encoder::new(
        &vocabulary,
        &card.tokenizer,
        card.labels.iter().map(|label| label.code.clone()).collect(),
        card.max_tokens as usize,
        card.max_sentences as usize,
        options.boundaries,
    )?;
    let examples: Vec<_> = documents.iter().map(|document| encoder.encode_text(document)).collect();
    Ok(Predictions::of(&model, &examples, options.batch_size, options.precision, device, progress))
}

/// Digest of everything that the logits depend on.
pub(crate) fn teacher_key(teacher: &Path, documents: &[Document], options: TeacherOptions) -> Result<String> {
    let mut digest = Sha256::new();
    let mut add = |bytes: &[u8]| {
        digest.update((bytes.len() as u64).to_le_bytes());
        digest.update(bytes);
    };
    add(&serde_json::to_vec(&(options.boundaries, options.precision, options.batch_size))?);
    for name in ["model.safetensors", "config.json", "vocab.txt", kdh_format::student::STUDENT_CARD_FILE] {
        let path = teacher.join(name);
        add(&fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?);
    }
    for document in documents {
        add(document.id.as_bytes());
        add(document.text.as_bytes());
        for sentence in &document.sentences {
            add(&[sentence.start.to_le_bytes(), sentence.end.to_le_bytes()].concat());
        }
    }
    Ok(hex(&digest.finalize()))
}
