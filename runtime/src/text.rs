//! Text to token ids and sentence ids.
//!
//! [`Tokenizer`] is BERT's uncased or cased tokeniser, [`Sentences`] finds sentences, [`Encoding`] holds what the
//! encoder takes: `[CLS]`, the first pieces of the text and `[SEP]`, and for each of them the sentence that it belongs
//! to. Training and labelling share this module, so that a box sees the tokens that the model was trained on.
//!
//! Allocation happens in [`Tokenizer::new`] and [`Encoding::new`] and nowhere else; work is linear in the text.

mod encoding;
mod sentences;
mod tokenizer;
mod trie;
mod unicode;
mod vocabulary;
mod word;

pub use encoding::{Encoding, Sentence};
pub use sentences::Sentences;
pub(crate) use sentences::{is_space, is_undecided};
pub use tokenizer::{Token, Tokenizer, TokenizerOptions};
pub use vocabulary::VocabularyError;
