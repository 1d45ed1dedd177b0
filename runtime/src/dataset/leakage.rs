use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::Document;

/// Jaccard similarity of two texts' shingles from which they count as near duplicates.
pub const NEAR_DUPLICATE_SIMILARITY: f64 = 0.8;

/// Finds the documents of `other` that `train` gives away: same id, same text, or nearly the same text.
///
/// Texts are compared as sequences of words: runs of letters and digits, in lower case. Near duplicates have a Jaccard
/// similarity of at least [`NEAR_DUPLICATE_SIMILARITY`] between their sets of five-word shingles (Broder 1997, "On the
/// resemblance and containment of documents"). A text of fewer words is one shingle. A text without words is like no
/// other.
///
/// Every pair is found, up to collisions of a 64-bit hash: candidates come from an index of each text's rarest
/// shingles, of which two near duplicates must share one (Chaudhuri et al. 2006, prefix filter), and are then compared
/// in full. The leaks are in the order of `other`.
pub fn leakage(train: &[Document], other: &[Document]) -> Vec<Leak> {
    let mut ids: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, document) in train.iter().enumerate() {
        ids.entry(&document.id).or_default().push(index);
    }
    let index = Index::new(train);
    let mut leaks = Vec::new();
    for (other_index, document) in other.iter().enumerate() {
        let leak = |train, kind| Leak { train, other: other_index, kind };
        leaks.extend(ids.get(document.id.as_str()).into_iter().flatten().map(|&train| leak(train, LeakKind::SameId)));
        for (train_index, similarity) in index.similar(&document.text) {
            let same = words(&train[train_index].text).eq(words(&document.text));
            let kind = if same { LeakKind::SameText } else { LeakKind::NearDuplicate { similarity } };
            leaks.push(leak(train_index, kind));
        }
    }
    leaks
}

/// A document that a data set shares with the training data.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Leak {
    /// Position of the document in the training data, counted from 0.
    pub train: usize,
    /// Position of the document in the other data, counted from 0.
    pub other: usize,
    /// What the two have in common.
    pub kind: LeakKind,
}

/// What two documents have in common.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum LeakKind {
    /// The id.
    SameId,
    /// Every word of the text.
    SameText,
    /// Most of the text.
    NearDuplicate {
        /// Jaccard similarity of the shingles, from [`NEAR_DUPLICATE_SIMILARITY`] to 1.
        similarity: f64,
    },
}

/// Documents by their rarest shingles.
struct Index {
    /// Shingles of each document, sorted.
    shingles: Vec<Vec<u64>>,
    /// In how many documents a shingle occurs.
    frequencies: HashMap<u64, usize>,
    documents_by_shingle: HashMap<u64, Vec<usize>>,
}

impl Index {
    fn new(documents: &[Document]) -> Self {
        let shingles: Vec<Vec<u64>> = documents.iter().map(|document| shingles(&document.text)).collect();
        let mut frequencies = HashMap::new();
        for &shingle in shingles.iter().flatten() {
            *frequencies.entry(shingle).or_default() += 1;
        }
        let mut index = Self { shingles, frequencies, documents_by_shingle: HashMap::new() };
        for document in 0..index.shingles.len() {
            for shingle in index.rarest(&index.shingles[document]) {
                index.documents_by_shingle.entry(shingle).or_default().push(document);
            }
        }
        index
    }

    /// Near duplicates of a text, in order, with their similarity.
    fn similar(&self, text: &str) -> Vec<(usize, f64)> {
        let shingles = shingles(text);
        let postings = self.rarest(&shingles).into_iter().filter_map(|shingle| self.documents_by_shingle.get(&shingle));
        let mut candidates: Vec<usize> = postings.flatten().copied().collect();
        candidates.sort_unstable();
        candidates.dedup();
        candidates
            .into_iter()
            .map(|document| (document, jaccard(&self.shingles[document], &shingles)))
            .filter(|&(_, similarity)| similarity >= NEAR_DUPLICATE_SIMILARITY)
            .collect()
    }

    /// So many of the rarest shingles that a set with the least similarity cannot do without all of them.
    fn rarest(&self, shingles: &[u64]) -> Vec<u64> {
        let mut ordered = shingles.to_vec();
        // One order for all texts: the filter is right only so.
        ordered.sort_unstable_by_key(|shingle| (self.frequencies.get(shingle).copied().unwrap_or(0), *shingle));
        let shared = (NEAR_DUPLICATE_SIMILARITY * ordered.len() as f64).floor() as usize;
        ordered.truncate(ordered.len() - shared + 1);
        ordered
    }
}

/// Hashes of the five-word sequences of a text, sorted, each once.
fn shingles(text: &str) -> Vec<u64> {
    const WORDS: usize = 5;
    let words: Vec<String> = words(text).collect();
    let mut shingles: Vec<u64> = match words.len() {
        0 => Vec::new(),
        1..WORDS => vec![hash(&words)],
        _ => words.windows(WORDS).map(hash).collect(),
    };
    shingles.sort_unstable();
    shingles.dedup();
    shingles
}

fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|character: char| !character.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase)
}

fn hash(words: &[String]) -> u64 {
    // Its keys are fixed, so that a run can be repeated.
    let mut hasher = DefaultHasher::new();
    words.hash(&mut hasher);
    hasher.finish()
}

/// Of two sorted sets.
fn jaccard(a: &[u64], b: &[u64]) -> f64 {
    let shared = a.iter().filter(|shingle| b.binary_search(shingle).is_ok()).count();
    let union = a.len() + b.len() - shared;
    if union == 0 { 0.0 } else { shared as f64 / union as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(id: &str, text: &str) -> Document {
        Document { id: id.into(), text: text.into(), labels: Vec::new(), sentences: Vec::new() }
    }

    fn numbered(words: impl Iterator<Item = usize>) -> String {
        words.map(|word| format!("w{word}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn finds_each_kind() {
        let long = numbered(0..100);
        let train = [document("1", "Cells died."), document("2", &long), document("3", ""), document("4", "Vessels")];
        let changed = numbered((0..100).map(|word| if word == 99 { 1000 } else { word }));
        let other = [
            document("2", "Nothing alike."),
            document("b", "CELLS,   died!"),
            document("c", &changed),
            document("d", ""),
            document("e", "cells"),
        ];
        let leaks = leakage(&train, &other);
        assert_eq!(leaks[0], Leak { train: 1, other: 0, kind: LeakKind::SameId });
        assert_eq!(leaks[1], Leak { train: 0, other: 1, kind: LeakKind::SameText });
        // 96 shingles each; the last word is in one of them.
        assert_eq!(leaks[2], Leak { train: 1, other: 2, kind: LeakKind::NearDuplicate { similarity: 95.0 / 97.0 } });
        assert_eq!(leaks.len(), 3);
    }

    /// The index must find what a comparison of every pair finds, also right at the bound.
    #[test]
    fn misses_no_near_duplicate() {
        let document_of = |index: usize| {
            // Families of texts that share a head of different lengths, and a phrase that all share.
            let (family, member) = (index % 5, index / 5);
            let head = 60 + 8 * family;
            let text =
                numbered((0..head).map(|word| 100 * family + word).chain((0..member).map(|word| 1000 * index + word)));
            document(&format!("{index}"), &format!("{text} and so on until the end"))
        };
        let train: Vec<Document> = (0..60).map(document_of).collect();
        let other: Vec<Document> = (60..90).chain(0..30).map(document_of).collect();
        let found: Vec<(usize, usize)> = leakage(&train, &other)
            .iter()
            .filter(|leak| leak.kind != LeakKind::SameId)
            .map(|leak| (leak.other, leak.train))
            .collect();
        let mut expected = Vec::new();
        for (b, other) in other.iter().enumerate() {
            for (a, train) in train.iter().enumerate() {
                if jaccard(&shingles(&train.text), &shingles(&other.text)) >= NEAR_DUPLICATE_SIMILARITY {
                    expected.push((b, a));
                }
            }
        }
        // Of the pairs within a family some are similar enough and some are not.
        let within = train.len() * other.len() / 5;
        assert!(expected.len() > within / 4 && expected.len() < within * 3 / 4, "{} of {within}", expected.len());
        assert_eq!(found, expected);
    }
}
