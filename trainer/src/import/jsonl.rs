//! JSON Lines whose fields have other names.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use kdh_runtime::dataset::{Document, Field, LineError, Lines, parse_object};
use serde_json::{Map, Value};

use super::{Import, Summary, SummaryOutput, open};

/// `kdh-train import jsonl`
#[derive(Debug, Args)]
pub struct Jsonl {
    /// The file to read.
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// The file to write.
    #[arg(value_name = "OUT")]
    pub out: PathBuf,
    /// Field with the text.
    #[arg(long, default_value = "text", value_name = "FIELD")]
    pub text_field: String,
    /// Field with the list of labels.
    #[arg(long, default_value = "labels", value_name = "FIELD")]
    pub labels_field: String,
    /// Field with the document's name, a string or a whole number [default: `id` where there is one, else the number
    /// of the line]
    #[arg(long, value_name = "FIELD")]
    pub id_field: Option<String>,
    /// How the summary is printed.
    #[command(flatten)]
    pub output: SummaryOutput,
}

impl Jsonl {
    /// Imports the file.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or written, or a line is not a document (with its number, without its text).
    pub fn import(&self) -> Result<Summary> {
        let mut import = Import::create(&self.out)?;
        let mut lines = Lines::new(open(&self.input)?);
        let place = || self.input.display().to_string();
        while let Some((line, text)) = lines.next_line().with_context(place)? {
            let document = parse_object(text).and_then(|object| self.document(object, line));
            let document = document.map_err(|error| self.explain(line, &error)).with_context(place)?;
            import.push(line, document).with_context(place)?;
        }
        import.finish().with_context(place)
    }

    fn document(&self, mut object: Map<String, Value>, line: usize) -> Result<Document, LineError> {
        let id = match object.remove(self.id_field.as_deref().unwrap_or("id")) {
            Some(Value::String(id)) => id,
            Some(Value::Number(id)) if !id.is_f64() => id.to_string(),
            Some(_) => return Err(LineError::WrongType(Field::Id)),
            None if self.id_field.is_some() => return Err(LineError::MissingField(Field::Id)),
            None => line.to_string(),
        };
        let mut fields = Map::new();
        fields.insert("id".to_owned(), Value::String(id));
        let names = [("text", self.text_field.as_str()), ("labels", &self.labels_field), ("sentences", "sentences")];
        for (name, field) in names {
            if let Some(value) = object.remove(field) {
                fields.insert(name.to_owned(), value);
            }
        }
        Document::from_object(fields)
    }

    /// The error of the line, and which option moves the field that it names.
    fn explain(&self, line: usize, error: &LineError) -> anyhow::Error {
        let (LineError::MissingField(field) | LineError::WrongType(field)) = error else {
            return anyhow!("line {line}: {error}");
        };
        let (option, name) = match field {
            Field::Id => ("--id-field", self.id_field.as_deref().unwrap_or("id")),
            Field::Text => ("--text-field", self.text_field.as_str()),
            Field::Labels => ("--labels-field", self.labels_field.as_str()),
            _ => return anyhow!("line {line}: {error}"),
        };
        anyhow!("line {line}: {error} (it is read from the field `{name}`; {option} names another)")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use kdh_runtime::dataset;

    use super::*;

    fn import(input: &str, change: impl FnOnce(&mut Jsonl)) -> Result<(Summary, Vec<Document>)> {
        let folder = tempfile::tempdir()?;
        let (input_path, out) = (folder.path().join("in.jsonl"), folder.path().join("out.jsonl"));
        fs::write(&input_path, input)?;
        let mut jsonl = Jsonl {
            input: input_path,
            out: out.clone(),
            text_field: "text".into(),
            labels_field: "labels".into(),
            id_field: None,
            output: SummaryOutput { json: false },
        };
        change(&mut jsonl);
        let result = jsonl.import();
        let files = fs::read_dir(folder.path())?.count();
        assert_eq!(files, if result.is_ok() { 2 } else { 1 }, "no partial file stays behind");
        Ok((result?, dataset::read(out)?))
    }

    fn error(input: &str, change: impl FnOnce(&mut Jsonl)) -> String {
        format!("{:#}", import(input, change).unwrap_err())
    }

    #[test]
    fn reads_fields_of_any_name() {
        let input = r#"{"body": "Cells died.", "codes": ["CD", "CD"], "number": 17, "labels": 1}
{"body": " ", "codes": [], "number": "x"}
{"body": "Cells died.", "codes": ["CD", "A"], "number": 18, "sentences": [{"start": 0, "end": 11, "labels": ["A"]}]}
"#;
        let (summary, documents) = import(input, |jsonl| {
            jsonl.text_field = "body".into();
            jsonl.labels_field = "codes".into();
            jsonl.id_field = Some("number".into());
        })
        .unwrap();
        assert_eq!(documents.iter().map(|document| document.id.as_str()).collect::<Vec<_>>(), ["17", "x", "18"]);
        assert_eq!(documents[0].labels, ["CD"], "a label that is given twice is one label");
        assert_eq!(documents[2].sentences[0].end, 11);
        let expected = Summary {
            documents: 3,
            labels: [("A".to_owned(), 1), ("CD".to_owned(), 2)].into(),
            unlabelled: 1,
            sentences: 1,
            empty_texts: 1,
            duplicate_texts: 1,
        };
        assert_eq!(summary, expected);
        assert_eq!(
            summary.to_string(),
            "3 documents, 1 sentences, 1 without labels, 1 empty texts, 1 duplicate texts\n  A        1\n  CD       2"
        );
    }

    #[test]
    fn without_an_id_the_line_is_the_id() {
        let input = "{\"text\": \"a\", \"labels\": []}\n{\"text\": \"b\", \"labels\": [], \"id\": \"k\"}";
        let (_, documents) = import(input, |_| ()).unwrap();
        assert_eq!((documents[0].id.as_str(), documents[1].id.as_str()), ("1", "k"));
    }

    #[test]
    fn errors_name_the_line_and_the_option() {
        let good = r#"{"text": "a", "labels": []}"#;
        let missing = error(&format!("{good}\n{{\"text\": \"secret\"}}"), |_| ());
        assert!(missing.contains("line 2: `labels` is missing") && missing.contains("--labels-field"), "{missing}");
        assert!(!missing.contains("secret"));
        let wrong = error(r#"{"t": 5, "labels": []}"#, |jsonl| jsonl.text_field = "t".into());
        assert!(wrong.contains("line 1: `text` has the wrong type") && wrong.contains("the field `t`"), "{wrong}");
        let id = error(good, |jsonl| jsonl.id_field = Some("pmid".into()));
        assert!(id.contains("line 1: `id` is missing") && id.contains("--id-field"), "{id}");
        let float = error(r#"{"text": "a", "labels": [], "id": 1.5}"#, |_| ());
        assert!(float.contains("`id` has the wrong type"), "{float}");
        let twice = error(
            r#"{"text": "a", "labels": [], "id": "2"}
{"text": "a", "labels": []}"#,
            |_| (),
        );
        assert!(twice.contains("line 2: the id is the same as on line 1"), "{twice}");
        let blank = error(r#"{"text": "a", "labels": [""]}"#, |_| ());
        assert!(blank.contains("line 1: a label is blank"), "{blank}");
        assert!(error(&format!("{good}\n\n{good}"), |_| ()).contains("line 2: blank"));
        assert!(error("", |_| ()).contains("no document"));
        assert!(error(good, |jsonl| jsonl.input = "/".into()).contains("is a directory"));
    }

    #[test]
    fn a_file_can_be_imported_onto_itself() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.jsonl");
        fs::write(&path, r#"{"body": "a", "labels": []}"#).unwrap();
        let jsonl = Jsonl {
            input: path.clone(),
            out: path.clone(),
            text_field: "body".into(),
            labels_field: "labels".into(),
            id_field: None,
            output: SummaryOutput { json: false },
        };
        jsonl.import().unwrap();
        assert_eq!(dataset::read(path).unwrap()[0].text, "a");
    }
}
