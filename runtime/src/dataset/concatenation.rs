use core::num::NonZeroUsize;

use super::{Document, DocumentSentence};

/// Documents of `count` consecutive ones each, to measure with long texts: the texts with blank lines between, every label
/// that one of them has, in the order in which they come, and their sentences. The last may be of fewer. Ids are joined by
/// `+`.
pub fn concatenate(documents: &[Document], count: NonZeroUsize) -> Vec<Document> {
    documents.chunks(count.get()).map(join).collect()
}

fn join(parts: &[Document]) -> Document {
    let ids: Vec<&str> = parts.iter().map(|part| part.id.as_str()).collect();
    let mut whole = Document { id: ids.join("+"), text: String::new(), labels: Vec::new(), sentences: Vec::new() };
    for part in parts {
        if !whole.text.is_empty() {
            whole.text.push_str("\n\n");
        }
        let offset = whole.text.len();
        whole.text.push_str(&part.text);
        for label in &part.labels {
            if !whole.labels.contains(label) {
                whole.labels.push(label.clone());
            }
        }
        whole.sentences.extend(part.sentences.iter().map(|sentence| DocumentSentence {
            start: sentence.start + offset,
            end: sentence.end + offset,
            labels: sentence.labels.clone(),
        }));
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::super::read_bytes;
    use super::*;

    #[test]
    fn joins_texts_labels_and_sentences() {
        let lines = [
            r#"{"id": "1", "text": "One.", "labels": ["A", "B"], "sentences": [{"start": 0, "end": 4, "labels": ["A"]}]}"#,
            r#"{"id": "2", "text": "Two.", "labels": ["C", "A"], "sentences": [{"start": 0, "end": 4, "labels": ["C"]}]}"#,
            r#"{"id": "3", "text": "Three.", "labels": []}"#,
        ];
        let documents = read_bytes(lines.join("\n").as_bytes()).unwrap();
        let found = concatenate(&documents, NonZeroUsize::new(2).unwrap());
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].id.as_str(), found[0].text.as_str()), ("1+2", "One.\n\nTwo."));
        assert_eq!(found[0].labels, ["A", "B", "C"]);
        let second = &found[0].sentences[1];
        assert_eq!((&found[0].text[second.start..second.end], &second.labels[..]), ("Two.", &["C".to_owned()][..]));
        assert_eq!(found[1], documents[2]);
        assert_eq!(concatenate(&documents, NonZeroUsize::MIN), documents);
    }
}
