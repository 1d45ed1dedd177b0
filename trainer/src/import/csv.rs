//! CSV with a header line.

use std::io::BufRead;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::{ArgGroup, Args};
use csv::{ErrorKind, Position, ReaderBuilder, StringRecord};
use kdh_runtime::dataset::Document;

use super::{Import, Summary, SummaryOutput, open};

/// `kdh-train import csv`
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("label source").required(true).args(["labels", "label_columns"]))]
pub struct Csv {
    /// The file to read.
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// The file to write.
    #[arg(value_name = "OUT")]
    pub out: PathBuf,
    /// Column with the text.
    #[arg(long, value_name = "COLUMN")]
    pub text: String,
    /// Column with the labels of a document, separated; blank when there is none.
    #[arg(long, value_name = "COLUMN")]
    pub labels: Option<String>,
    /// What stands between two labels in the column of --labels.
    #[arg(long, default_value = ";", value_name = "TEXT", conflicts_with = "label_columns")]
    pub separator: String,
    /// Columns, one a label, that hold 1 where the label applies and 0 where it does not. The names of the columns
    /// become the labels.
    #[arg(long, value_name = "COLUMN,COLUMN,...", value_delimiter = ',')]
    pub label_columns: Vec<String>,
    /// Column with the document's name [default: the number of the line]
    #[arg(long, value_name = "COLUMN")]
    pub id: Option<String>,
    /// How the summary is printed.
    #[command(flatten)]
    pub output: SummaryOutput,
}

impl Csv {
    /// Imports the file.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or written, a column is not there, or a line is not a document (with its number,
    /// without its text).
    pub fn import(&self) -> Result<Summary> {
        self.import_file().with_context(|| self.input.display().to_string())
    }

    fn import_file(&self) -> Result<Summary> {
        ensure!(!self.separator.is_empty(), "--separator is empty; give what stands between two labels, as in \";\"");
        let mut input = open(&self.input)?;
        let lines = LineNumbers::of(input.fill_buf().context("cannot read the file")?);
        let mut reader = ReaderBuilder::new().from_reader(input);
        let header = reader.headers().map_err(|error| lines.explain(&error))?.clone();
        let columns = self.columns(&header)?;
        let mut import = Import::create(&self.out)?;
        let mut record = StringRecord::new();
        while reader.read_record(&mut record).map_err(|error| lines.explain(&error))? {
            let line = lines.number(record.position());
            let document = columns.document(&record, line).with_context(|| format!("line {line}"))?;
            import.push(usize::try_from(line)?, document)?;
        }
        import.finish()
    }

    fn columns(&self, header: &StringRecord) -> Result<Columns<'_>> {
        let labels = match &self.labels {
            Some(column) => Labels::Separated { column: find(header, column)?, separator: &self.separator },
            None => Labels::Columns(
                self.label_columns
                    .iter()
                    .map(|name| Ok((find(header, name)?, name.as_str())))
                    .collect::<Result<_>>()?,
            ),
        };
        let id = self.id.as_deref().map(|name| find(header, name)).transpose()?;
        Ok(Columns { id, text: find(header, &self.text)?, labels })
    }
}

struct Columns<'a> {
    id: Option<usize>,
    text: usize,
    labels: Labels<'a>,
}

enum Labels<'a> {
    Separated {
        column: usize,
        separator: &'a str,
    },
    /// Position and label of each column.
    Columns(Vec<(usize, &'a str)>),
}

impl Columns<'_> {
    fn document(&self, record: &StringRecord, line: u64) -> Result<Document> {
        // The csv crate refuses a record that has not as many fields as the header.
        let field = |column: usize| record.get(column).unwrap_or_default();
        let labels = match &self.labels {
            Labels::Separated { column, separator } => field(*column)
                .split(separator)
                .map(str::trim)
                .filter(|label| !label.is_empty())
                .map(str::to_owned)
                .collect(),
            Labels::Columns(columns) => {
                let mut labels = Vec::new();
                for &(column, label) in columns {
                    match field(column).trim() {
                        "1" => labels.push(label.to_owned()),
                        "0" => {}
                        _ => bail!("the column {label:?} must hold 0 or 1"),
                    }
                }
                labels
            }
        };
        let id = self.id.map_or_else(|| line.to_string(), |column| field(column).to_owned());
        ensure!(!id.trim().is_empty(), "the id is blank; give every document a name, or leave --id out");
        Ok(Document { id, text: field(self.text).to_owned(), labels, sentences: Vec::new() })
    }
}

fn find(header: &StringRecord, name: &str) -> Result<usize> {
    let mut matches = header.iter().enumerate().filter(|(_, column)| *column == name).map(|(index, _)| index);
    match (matches.next(), matches.next()) {
        (Some(index), None) => Ok(index),
        (Some(_), Some(_)) => bail!("two columns are named {name:?}; rename one"),
        (None, _) => bail!(
            "no column is named {name:?} among the {} of the header line; columns are separated by commas, and upper \
             and lower case differ",
            header.len()
        ),
    }
}

/// Where a record starts.
///
/// The csv crate ends a record at the carriage return of CR LF and counts the line at the line feed, so it is one line
/// behind when the next record starts.
struct LineNumbers {
    behind: u64,
}

impl LineNumbers {
    /// From the beginning of the file: what ends the first line ends them all.
    fn of(beginning: &[u8]) -> Self {
        let line_feed = beginning.iter().position(|&byte| byte == b'\n');
        let before = line_feed.and_then(|at| beginning[..at].last());
        Self { behind: u64::from(before == Some(&b'\r')) }
    }

    fn number(&self, position: Option<&Position>) -> u64 {
        position.map_or(0, |position| position.line() + if position.record() > 0 { self.behind } else { 0 })
    }

    /// The csv crate's error without the content that it may carry.
    fn explain(&self, error: &csv::Error) -> anyhow::Error {
        let line = self.number(error.position());
        match error.kind() {
            ErrorKind::Io(error) => anyhow!("cannot read the file: {error}"),
            ErrorKind::Utf8 { .. } => anyhow!("line {line}: not UTF-8; convert the file to UTF-8"),
            ErrorKind::UnequalLengths { expected_len, len, .. } => anyhow!(
                "line {line}: {len} fields, but the header has {expected_len}; put a field that holds a comma or a \
                 line break in double quotes"
            ),
            _ => anyhow!("line {line}: not CSV"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser;
    use kdh_runtime::dataset;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        csv: Csv,
    }

    fn import(input: impl AsRef<[u8]>, options: &[&str]) -> Result<(Summary, Vec<Document>)> {
        let folder = tempfile::tempdir()?;
        let (input_path, out) = (folder.path().join("in.csv"), folder.path().join("out.jsonl"));
        fs::write(&input_path, input)?;
        let files = ["csv", input_path.to_str().unwrap(), out.to_str().unwrap()];
        let cli = Cli::try_parse_from(files.iter().chain(options))?;
        let summary = cli.csv.import()?;
        Ok((summary, dataset::read(out)?))
    }

    fn error(input: impl AsRef<[u8]>, options: &[&str]) -> String {
        format!("{:#}", import(input, options).unwrap_err())
    }

    const SEPARATED: [&str; 4] = ["--text", "note", "--labels", "codes"];

    #[test]
    fn reads_separated_labels() {
        let input = "\u{feff}note,codes\r\n\"Two lines,\nand a \"\"quote\"\".\", A ; B;\r\nNothing.,\r\n";
        let (summary, documents) = import(input, &SEPARATED).unwrap();
        assert_eq!(documents[0].text, "Two lines,\nand a \"quote\".");
        assert_eq!(documents[0].labels, ["A", "B"]);
        assert!(documents[1].labels.is_empty());
        // The second document starts on line 4, because the first one has a line break in its text.
        assert_eq!((documents[0].id.as_str(), documents[1].id.as_str()), ("2", "4"));
        assert_eq!((summary.documents, summary.unlabelled), (2, 1));
    }

    #[test]
    fn reads_another_separator_and_the_id() {
        let options = ["--text", "note", "--labels", "codes", "--separator", "|", "--id", "name"];
        let (_, documents) = import("name,codes,note\nk7,A|B;C,t\n", &options).unwrap();
        assert_eq!(documents[0].labels, ["A", "B;C"]);
        assert_eq!(documents[0].id, "k7");
    }

    #[test]
    fn reads_a_column_a_label() {
        let options = ["--text", "note", "--label-columns", "A,B,C"];
        let (summary, documents) = import("C,note,A,B\n1,t,1,0\n0,u,0,0\n", &options).unwrap();
        assert_eq!(documents[0].labels, ["A", "C"]);
        assert!(documents[1].labels.is_empty());
        assert_eq!(summary.labels, [("A".to_owned(), 1), ("C".to_owned(), 1)].into());
        let wrong = error("C,note,A,B\n1,t,1,0\n0,u,secret,0\n", &options);
        assert!(wrong.contains("line 3: the column \"A\" must hold 0 or 1") && !wrong.contains("secret"), "{wrong}");
    }

    #[test]
    fn errors_name_the_line_and_no_text() {
        let fields = error("note,codes\nsecret,A\nsecret,with,commas\n", &SEPARATED);
        assert!(fields.contains("line 3: 3 fields, but the header has 2") && !fields.contains("secret"), "{fields}");
        let utf8 = error(b"note,codes\nt,A\nsecret \xff,A\n", &SEPARATED);
        assert!(error("note,codes\r\nt,A\r\nu\r\n", &SEPARATED).contains("line 3: 1 fields"));
        assert!(utf8.contains("line 3: not UTF-8") && !utf8.contains("secret"), "{utf8}");
        assert!(error(b"note,\xff\r\nt,A\r\n", &SEPARATED).contains("line 1: not UTF-8"));
        assert!(error("note;codes\nt;A\n", &SEPARATED).contains("no column is named \"codes\" among the 1"));
        assert!(error("note,codes,note\nt,A,t\n", &SEPARATED).contains("two columns are named \"note\""));
        assert!(error("note,codes\n", &SEPARATED).contains("the input holds no document"));
        assert!(error("", &SEPARATED).contains("no column is named"));
        let named = |input: &str| error(input, &["--text", "note", "--labels", "codes", "--id", "name"]);
        assert!(named("name,note,codes\nk,t,A\nk,u,A\n").contains("line 3: the id is the same as on line 2"));
        assert!(named("name,note,codes\n ,t,A\n").contains("line 2: the id is blank"));
    }

    #[test]
    fn the_labels_have_one_source() {
        let usage = |options: &[&str]| import("note,codes\nt,A\n", options).unwrap_err().is::<clap::Error>();
        assert!(usage(&["--text", "note"]));
        assert!(usage(&["--text", "note", "--labels", "codes", "--label-columns", "A"]));
        assert!(usage(&["--text", "note", "--label-columns", "codes", "--separator", "|"]));
        assert!(!usage(&["--text", "note", "--labels", "codes", "--separator", ""]));
    }
}
