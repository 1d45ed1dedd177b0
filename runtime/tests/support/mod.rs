//! What the tokeniser's tests share: corpora, vocabularies and the oracle.

#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "a helper of a test may panic")]

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use kdh_runtime::text::{Tokenizer, TokenizerOptions};
use proptest::prelude::*;
use serde_json::Value;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{Model, OffsetReferential, OffsetType, PreTokenizer};
use tokenizers::{NormalizedString, Normalizer, PreTokenizedString};

/// A document of a corpus.
pub(crate) struct Document {
    pub(crate) text: String,
    pub(crate) sentences: Vec<Range<usize>>,
}

/// The train and dev documents of both corpora.
pub(crate) fn corpora() -> Vec<Document> {
    ["hoc", "cei"].iter().flat_map(|name| corpora_named(name)).collect()
}

/// The train and dev documents of one corpus.
pub(crate) fn corpora_named(name: &str) -> Vec<Document> {
    ["train", "dev"].iter().flat_map(|part| file(&format!("{name}/{part}"))).collect()
}

fn file(name: &str) -> Vec<Document> {
    let path = root().join("../shared/data").join(name).with_extension("jsonl");
    let lines = std::fs::read_to_string(&path).unwrap_or_else(|error| {
        panic!("{}: {error}; the tests need the corpora beside the repository", path.display())
    });
    lines.lines().map(document).collect()
}

fn document(line: &str) -> Document {
    let value: Value = serde_json::from_str(line).unwrap();
    let offset = |sentence: &Value, field: &str| sentence[field].as_u64().unwrap() as usize;
    Document {
        text: value["text"].as_str().unwrap().to_owned(),
        sentences: value["sentences"]
            .as_array()
            .unwrap()
            .iter()
            .map(|sentence| offset(sentence, "start")..offset(sentence, "end"))
            .collect(),
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A vocabulary of what `documents` are made of: characters and the commonest words, prefixes and suffixes.
pub(crate) fn vocabulary(documents: &[Document]) -> String {
    let mut characters = HashMap::new();
    let mut pieces: HashMap<String, usize> = HashMap::new();
    for document in documents {
        for word in document.text.split_whitespace() {
            for text in [word.to_owned(), word.to_lowercase()] {
                let boundaries: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
                for &at in &boundaries[1..] {
                    *pieces.entry(text[..at].to_owned()).or_default() += 1;
                    if at < text.len() {
                        *pieces.entry(format!("##{}", &text[at..])).or_default() += 1;
                    }
                }
                for c in text.chars() {
                    *characters.entry(c).or_insert(0) += 1;
                }
            }
        }
    }
    let mut pieces: Vec<(String, usize)> = pieces.into_iter().collect();
    pieces.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    let mut tokens: Vec<String> = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"].map(str::to_owned).to_vec();
    let mut characters: Vec<char> = characters.into_keys().collect();
    characters.sort_unstable();
    for c in characters {
        tokens.push(c.to_string());
        // Some words must stay unknown.
        if c.is_ascii() {
            tokens.push(format!("##{c}"));
        }
    }
    tokens.extend(pieces.into_iter().take(25_000).map(|(piece, _)| piece));
    tokens.join("\n")
}

/// A vocabulary for any Unicode: ASCII, every third block of 64 characters whole, pairs and triples of neighbours.
pub(crate) fn unicode_vocabulary() -> String {
    let mut tokens: Vec<String> = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"].map(str::to_owned).to_vec();
    for c in ('!'..=char::MAX).filter(|&c| (c as u32) < 128 || (c as u32 / 64) % 3 != 1) {
        let next = char::from_u32(c as u32 + 1).unwrap_or('x');
        tokens.push(c.to_string());
        if !(c as u32).is_multiple_of(5) {
            tokens.push(format!("##{c}"));
        }
        match c as u32 % 7 {
            0 => tokens.push(format!("{c}{next}")),
            1 => tokens.push(format!("##{c}{next}")),
            2 => tokens.push(format!("a{c}")),
            3 => tokens.push(format!("##{c}b")),
            _ => {}
        }
        if tokens.len() > 900_000 {
            break;
        }
    }
    tokens.join("\n")
}

/// The vocabularies of the weights that were fetched into the repository, if any.
pub(crate) fn fetched_vocabularies() -> Vec<String> {
    let Ok(folders) = std::fs::read_dir(root().join("third_party/weights")) else { return Vec::new() };
    folders.filter_map(|folder| std::fs::read_to_string(folder.unwrap().path().join("vocab.txt")).ok()).collect()
}

/// Our tokeniser and the `tokenizers` crate's with the same vocabulary.
pub(crate) struct Pair {
    pub(crate) tokenizer: Tokenizer,
    normalizer: BertNormalizer,
    model: WordPiece,
}

impl Pair {
    pub(crate) fn new(vocabulary: &str, lowercase: bool) -> Self {
        let options = TokenizerOptions { lowercase, cls: "[CLS]", sep: "[SEP]", unk: "[UNK]" };
        Self {
            tokenizer: Tokenizer::new(vocabulary.as_bytes(), &options).unwrap(),
            normalizer: BertNormalizer::new(true, true, None, lowercase),
            model: WordPiece::builder()
                .vocab(WordPiece::read_bytes(vocabulary.as_bytes()).unwrap())
                .unk_token("[UNK]".to_owned())
                .build()
                .unwrap(),
        }
    }

    /// The ids that the `tokenizers` crate gives.
    pub(crate) fn expected(&self, text: &str) -> Vec<u32> {
        let mut normalized = NormalizedString::from(text);
        self.normalizer.normalize(&mut normalized).unwrap();
        let mut split = PreTokenizedString::from(normalized);
        BertPreTokenizer.pre_tokenize(&mut split).unwrap();
        split
            .get_splits(OffsetReferential::Original, OffsetType::Byte)
            .iter()
            .flat_map(|(word, _, _)| self.model.tokenize(word).unwrap())
            .map(|token| token.id)
            .collect()
    }

    pub(crate) fn ids(&self, text: &str) -> Vec<u32> {
        ids(&self.tokenizer, text)
    }

    pub(crate) fn check(&self, text: &str) {
        let (ours, theirs) = (self.ids(text), self.expected(text));
        if ours != theirs {
            // A corpus must not get into a log; a short text is one that a test made.
            let shown = if text.len() < 200 { text.escape_unicode().to_string() } else { String::from("(long text)") };
            panic!("{shown}: {ours:?} instead of {theirs:?}");
        }
    }
}

pub(crate) fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let mut ids = Vec::new();
    tokenizer.tokenize(text, |token| {
        ids.push(token.id);
        std::ops::ControlFlow::Continue(())
    });
    ids
}

/// Texts in any script.
pub(crate) fn text() -> impl Strategy<Value = String> {
    proptest::collection::vec(fragment(), 0..24).prop_map(|fragments| fragments.concat())
}

/// Characters and pieces of text that meet every rule of the normaliser and of the sentence splitter.
fn fragment() -> impl Strategy<Value = String> {
    let one_of = |texts: &'static [&'static str]| proptest::sample::select(texts).prop_map(str::to_owned);
    let range =
        |start: u32, end: u32| (start..=end).prop_map(|code| char::from_u32(code).unwrap_or('\u{FFFD}').to_string());
    prop_oneof![
        6 => "[a-zA-Z0-9]{1,12}",
        4 => "[ -~]{1,4}",
        3 => any::<char>().prop_map(String::from),
        2 => one_of(&[" ", "\n", "\t", "\r\n", "\u{A0}", "\u{85}", "\u{C}", "\0", "\u{2028}", "\u{3000}", "\u{200B}"]),
        2 => one_of(&["İ", "ı", "ẞ", "Σ", "ΟΔΟΣ", "ς", "ﬁ", "Ǆ", "Å", "\u{212B}", "≠", "\u{37E}", "\u{387}", "\u{1FEF}"]),
        2 => one_of(&["[SEP]", "[CLS]", "[UNK]", "[unk]", "##", "##a", "##[SEP]"]),
        2 => one_of(&["\u{302E}", "\u{302F}", "\u{1D15E}", "\u{1D165}", "\u{1D16D}", "\u{8D4}", "\u{1E94A}", "\u{344}"]),
        3 => one_of(&[". ", ".", " . ", "? ", "!", "\u{2026} ", "\u{3002}", "\u{FF01}\u{300D}", "\u{61F} ", "\u{964} ", ".\n", "\n\n", "e.g. ", "A. "]),
        2 => range(0x300, 0x36F),
        1 => range(0xAC00, 0xD7A3),
        1 => range(0x1100, 0x11FF),
        1 => range(0x4E00, 0x9FFF),
        1 => range(0xF900, 0xFAFF),
        1 => range(0x2F800, 0x2FA1F),
        1 => range(0x370, 0x1FFF),
        1 => range(0x2000, 0x2FFF),
        1 => range(0xE000, 0xFFFF),
        1 => range(0x1F300, 0x1FAFF),
        1 => range(0xE0000, 0xE01FF),
        1 => "[a-z]{95,105}",
        1 => "[äöüéàñ]{95,105}",
    ]
}
