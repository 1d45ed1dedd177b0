//! Reads a student folder: configuration, weights, vocabulary and card.

use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use kdh_format::student::{STUDENT_CARD_FILE, StudentCard};
use kdh_format::{MAX_LABELS, MAX_SENTENCES, MAX_TOKENS};

use crate::config::{ConfigError, EncoderConfig};
use crate::encoder::{Classifier, Encoder, WeightError};
use crate::weights::Weights;

/// Largest `model.safetensors` that is read: 4 GiB.
const MAX_WEIGHTS_BYTES: u64 = 4 << 30;
/// Largest text file of a student folder that is read: 64 MiB.
const MAX_TEXT_BYTES: u64 = 64 << 20;

/// A trained student, as read from its folder and checked.
#[derive(Clone, Debug)]
pub struct Student {
    /// What the weights do not say: labels, head, limits, provenance.
    pub card: StudentCard,
    /// The encoder, in the one form that all architectures share.
    pub encoder: Encoder,
    /// The head: one linear layer and, with sentence evidence, the document bias.
    pub classifier: Classifier,
    /// Tokens in the order of their ids; as many as the encoder has word embeddings.
    pub vocabulary: Vec<String>,
}

impl Student {
    /// Reads `config.json`, `model.safetensors`, `vocab.txt` and `kdh.json` from `folder`.
    ///
    /// # Errors
    /// When a file is missing, too large or not of its form, when a tensor is missing or has another shape than the
    /// configuration says, or when card, configuration and vocabulary disagree.
    pub fn read(folder: &Path) -> Result<Self, StudentError> {
        if !folder.is_dir() {
            return Err(StudentError::NotAFolder(folder.to_owned()));
        }
        let card: StudentCard = serde_json::from_str(&read_text(&folder.join(STUDENT_CARD_FILE))?)
            .map_err(|error| StudentError::Json(folder.join(STUDENT_CARD_FILE), error))?;
        let config_file = folder.join("config.json");
        let config = serde_json::from_str(&read_text(&config_file)?)
            .map_err(|error| StudentError::Json(config_file.clone(), error))?;
        let mut config =
            EncoderConfig::from_json(&config).map_err(|error| StudentError::Config(config_file.clone(), error))?;
        let vocabulary: Vec<String> =
            read_text(&folder.join("vocab.txt"))?.lines().map(|line| line.trim_end().to_owned()).collect();
        check_card(&card, &config, &vocabulary)?;
        config.max_tokens = card.max_tokens as usize;

        let weights_file = folder.join("model.safetensors");
        let bytes = read_bytes(&weights_file, MAX_WEIGHTS_BYTES)?;
        let in_weights = |error| StudentError::Weights(weights_file.clone(), error);
        let weights = Weights::parse(&bytes).map_err(|error| in_weights(error.into()))?;
        let encoder = Encoder::read(&config, &weights, vocabulary.len()).map_err(in_weights)?;
        let classifier =
            Classifier::read(&weights, card.head, card.labels.len(), config.hidden_size).map_err(in_weights)?;
        Ok(Self { card, encoder, classifier, vocabulary })
    }

    /// The vocabulary as `vocab.txt` has it: one token a line.
    pub fn vocabulary_file(&self) -> Vec<u8> {
        self.vocabulary.iter().flat_map(|token| [token.as_bytes(), b"\n"]).flatten().copied().collect()
    }
}

/// Why a student folder could not be read.
#[derive(Debug)]
#[non_exhaustive]
pub enum StudentError {
    /// The path is not a folder.
    NotAFolder(PathBuf),
    /// A file could not be read.
    Io(PathBuf, std::io::Error),
    /// A file is larger than any sensible one: its path and the limit in bytes.
    TooLarge(PathBuf, u64),
    /// A file is not JSON of the expected form.
    Json(PathBuf, serde_json::Error),
    /// The encoder's configuration is not one that can be exported.
    Config(PathBuf, ConfigError),
    /// A tensor is missing or not as the configuration says.
    Weights(PathBuf, WeightError),
    /// The card contradicts itself, the configuration or the vocabulary.
    Card(String),
}

impl fmt::Display for StudentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAFolder(path) => write!(
                f,
                "{} is not a folder; give a student folder with config.json, model.safetensors, vocab.txt and \
                 {STUDENT_CARD_FILE}",
                path.display()
            ),
            Self::Io(path, error) => write!(f, "cannot read {}: {error}", path.display()),
            Self::TooLarge(path, limit) => {
                write!(f, "{} is larger than {limit} bytes; this is not a student's file", path.display())
            }
            Self::Json(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Config(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Weights(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Card(message) => write!(f, "{STUDENT_CARD_FILE}: {message}"),
        }
    }
}

impl std::error::Error for StudentError {}

fn check_card(card: &StudentCard, config: &EncoderConfig, vocabulary: &[String]) -> Result<(), StudentError> {
    let refuse = |message: String| Err(StudentError::Card(message));
    if card.version != 1 {
        return refuse(format!("version {} is not known; this program reads version 1", card.version));
    }
    if card.labels.is_empty() || card.labels.len() > MAX_LABELS {
        return refuse(format!("it has {} labels; a student has from 1 to {MAX_LABELS}", card.labels.len()));
    }
    for (i, label) in card.labels.iter().enumerate() {
        if card.labels[..i].iter().any(|other| other.code == label.code) {
            return refuse(format!("the label code `{}` occurs twice", label.code));
        }
        if !(0.0..=1.0).contains(&label.threshold) {
            return refuse(format!("the threshold of `{}` is not between 0 and 1", label.code));
        }
    }
    let most_tokens = config.max_tokens.min(MAX_TOKENS as usize);
    if card.max_tokens < 3 || card.max_tokens as usize > most_tokens {
        return refuse(format!("`max_tokens` is {}; the encoder takes from 3 to {most_tokens}", card.max_tokens));
    }
    if card.max_sentences == 0 || card.max_sentences > MAX_SENTENCES {
        return refuse(format!("`max_sentences` is {}; it must be from 1 to {MAX_SENTENCES}", card.max_sentences));
    }
    for token in [&card.tokenizer.cls, &card.tokenizer.sep, &card.tokenizer.unk] {
        if !vocabulary.contains(token) {
            return refuse(format!("the special token `{token}` is not in vocab.txt"));
        }
    }
    Ok(())
}

fn read_text(path: &Path) -> Result<String, StudentError> {
    String::from_utf8(read_bytes(path, MAX_TEXT_BYTES)?).map_err(|error| {
        StudentError::Io(path.to_owned(), std::io::Error::new(std::io::ErrorKind::InvalidData, error.utf8_error()))
    })
}

fn read_bytes(path: &Path, limit: u64) -> Result<Vec<u8>, StudentError> {
    let failed = |error| StudentError::Io(path.to_owned(), error);
    let file = File::open(path).map_err(failed)?;
    let length = fs::metadata(path).map_err(failed)?.len();
    if length > limit {
        return Err(StudentError::TooLarge(path.to_owned(), limit));
    }
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}
