//! Pruning keeps what texts need, and the embeddings stay with their tokens.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod tiny;

use kdh_exporter::encode::TextEncoder;
use kdh_exporter::student::Student;
use kdh_exporter::vocabulary::{PruneError, prune};
use kdh_format::student::Head;

const TEXT: &str = "Patients with acute infection had fever. The tumours were stable, 20 % less than before.";

fn student(architecture: &str) -> Student {
    let folder = tempfile::tempdir().unwrap();
    tiny::write_student(folder.path(), architecture, Head::SentenceEvidence, 3);
    Student::read(folder.path()).unwrap()
}

fn tokens<'s>(student: &'s Student, text: &str) -> Vec<&'s str> {
    let mut tokens = Vec::new();
    TextEncoder::new(student).unwrap().for_each_token(text, |id| tokens.push(student.vocabulary[id as usize].as_str()));
    tokens
}

#[test]
fn a_text_that_was_counted_keeps_its_tokens() {
    for architecture in tiny::ARCHITECTURES {
        let whole = student(architecture);
        let mut pruned = whole.clone();
        let report = prune(&mut pruned, whole.vocabulary.len() - 90, [TEXT]).unwrap();
        assert_eq!(report.dropped_seen, 0);
        assert_eq!((report.from, report.to), (whole.vocabulary.len(), pruned.vocabulary.len()));
        assert_eq!(tokens(&pruned, TEXT), tokens(&whole, TEXT));
        // Other texts can still be spelled, in more tokens.
        let other = "Their hospital monitors oxygen.";
        assert!(tokens(&pruned, other).len() > tokens(&whole, other).len());
        assert!(!tokens(&pruned, other).contains(&"[UNK]"));
    }
}

#[test]
fn embeddings_stay_with_their_tokens_and_tokens_in_their_order() {
    let whole = student("bert");
    let mut pruned = whole.clone();
    prune(&mut pruned, whole.vocabulary.len() - 90, [TEXT]).unwrap();
    let columns = whole.encoder.words.columns;
    assert_eq!(pruned.encoder.words.rows, pruned.vocabulary.len());
    let mut last = 0;
    for (token, row) in pruned.vocabulary.iter().zip(pruned.encoder.words.values.chunks(columns)) {
        let before = whole.vocabulary.iter().position(|other| other == token).unwrap();
        assert_eq!(row, &whole.encoder.words.values[before * columns..][..columns], "{token}");
        assert!(before >= last, "{token}");
        last = before;
    }
}

#[test]
fn the_most_frequent_tokens_win() {
    let whole = student("bert");
    let mut pruned = whole.clone();
    let fixed = match prune(&mut pruned.clone(), 1, []) {
        Err(PruneError::TooSmall { fixed, .. }) => fixed,
        other => panic!("{other:?}"),
    };
    let report = prune(&mut pruned, fixed + 2, ["fever fever fever ward ward nurse"]).unwrap();
    assert_eq!((report.always, report.dropped_seen), (fixed, 1));
    assert!(pruned.vocabulary.iter().any(|token| token == "fever"));
    assert!(pruned.vocabulary.iter().any(|token| token == "ward"));
    assert!(!pruned.vocabulary.iter().any(|token| token == "nurse"));
    for token in ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]", "q", "##q", "β", "中"] {
        assert!(pruned.vocabulary.iter().any(|other| other == token), "{token}");
    }
}

#[test]
fn refuses_more_tokens_than_there_are() {
    let mut whole = student("bert");
    let size = whole.vocabulary.len();
    assert_eq!(prune(&mut whole, size + 1, []), Err(PruneError::TooLarge { size: size + 1, vocabulary: size }));
}

#[test]
fn spelling_counts_words_tokens_and_unknown() {
    let student = student("bert");
    let spelling = TextEncoder::new(&student).unwrap().spelling(["fever fevers \u{1f642}", "fever"]);
    assert_eq!((spelling.words, spelling.tokens, spelling.unknown), (4, 5, 1));
    assert_eq!((spelling.tokens_per_word(), spelling.unknown_rate()), (1.25, 0.2));
}
