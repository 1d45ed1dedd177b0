//! Labelled documents in JSON Lines.
//!
//! A file is UTF-8 with one JSON object a line, and no blank line before the last document, so document *n* (counted
//! from 1) stands on line *n*:
//!
//! ```json
//! {"id": "a1", "text": "Vessels grew. Cells died.", "labels": ["A", "CD"],
//!  "sentences": [{"start": 0, "end": 13, "labels": ["A"]}, {"start": 14, "end": 25, "labels": ["CD"]}]}
//! ```
//!
//! (shown on two lines for the page only). `id` is a string that occurs once in the file, `labels` is a list of codes,
//! empty when none applies, and the optional `sentences` are byte ranges into the UTF-8 text, in order and without
//! overlap. Other fields are ignored.
//!
//! The text of a document may be a clinical note. It never appears in an error, and [`Document`]'s `Debug` leaves it
//! out.

use core::fmt;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};

mod concatenation;
mod leakage;

pub use concatenation::concatenate;
pub use leakage::{Leak, LeakKind, NEAR_DUPLICATE_SIMILARITY, leakage};

/// Longest line that a reader accepts, in bytes without the line feed.
pub const MAX_LINE_BYTES: usize = 16 << 20;

/// Reads every document of the file at `path`.
///
/// # Errors
///
/// The first [`DatasetError`]: the file cannot be read, is a directory or holds no document, or a line is not a
/// document.
pub fn read(path: impl AsRef<Path>) -> Result<Vec<Document>, DatasetError> {
    Reader::open(path)?.collect()
}

/// Reads every document of `bytes`, the content of a JSON Lines file.
///
/// # Errors
///
/// As [`read`].
pub fn read_bytes(bytes: &[u8]) -> Result<Vec<Document>, DatasetError> {
    Reader::new(bytes).collect()
}

/// The labels of `documents` as a row-major matrix `[documents, codes]`: true where the document has the label.
///
/// # Errors
///
/// [`DatasetError::Line`] with [`LineError::UnknownLabel`] when a document has a label that is not one of `codes`.
pub fn truth(documents: &[Document], codes: &[&str]) -> Result<Vec<bool>, DatasetError> {
    let mut truth = vec![false; documents.len() * codes.len()];
    for (index, document) in documents.iter().enumerate() {
        let labels = label_indices(&document.labels, codes)
            .map_err(|unknown| DatasetError::Line { line: index + 1, error: LineError::UnknownLabel(unknown) })?;
        for label in labels {
            truth[index * codes.len() + label] = true;
        }
    }
    Ok(truth)
}

/// The positions of `labels` in `codes`, in the order of `labels`.
///
/// # Errors
///
/// [`UnknownLabel`] for the first label that is not one of `codes`.
pub fn label_indices(labels: &[String], codes: &[&str]) -> Result<Vec<usize>, UnknownLabel> {
    labels
        .iter()
        .map(|label| codes.iter().position(|code| code == label).ok_or_else(|| UnknownLabel::new(label, codes)))
        .collect()
}

/// Parses a line as a JSON object.
///
/// A document goes by way of this and not of a derived `Deserialize`, because the errors of the latter quote the value.
///
/// # Errors
///
/// [`LineError::Truncated`], [`LineError::Syntax`] or [`LineError::NotAnObject`].
pub fn parse_object(line: &str) -> Result<Map<String, Value>, LineError> {
    match serde_json::from_str(line) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(LineError::NotAnObject),
        Err(error) if error.is_eof() => Err(LineError::Truncated),
        Err(error) => Err(LineError::Syntax { column: error.column() }),
    }
}

/// One labelled document.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct Document {
    /// Name of the document, once in a file.
    pub id: String,
    /// The whole text.
    pub text: String,
    /// Codes of the labels that apply to the document; empty when none does.
    pub labels: Vec<String>,
    /// Sentences with labels of their own, in order of the text; empty when the corpus has none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sentences: Vec<DocumentSentence>,
}

impl Document {
    /// Takes the fields of a document out of a JSON object and checks them.
    ///
    /// # Errors
    ///
    /// [`LineError`] when a field is missing or has the wrong type, or a sentence does not fit the text.
    pub fn from_object(mut object: Map<String, Value>) -> Result<Self, LineError> {
        let document = Self {
            id: take_string(&mut object, "id", Field::Id)?,
            text: take_string(&mut object, "text", Field::Text)?,
            labels: take_labels(&mut object, Field::Labels)?,
            sentences: match object.remove("sentences") {
                None | Some(Value::Null) => Vec::new(),
                Some(Value::Array(sentences)) => sentences.into_iter().map(parse_sentence).collect::<Result<_, _>>()?,
                Some(_) => return Err(LineError::WrongType(Field::Sentences)),
            },
        };
        check_offsets(&document)?;
        Ok(document)
    }
}

/// Shows sizes and labels; the text and the id stay out, because either may identify a patient.
impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Document")
            .field("text_bytes", &self.text.len())
            .field("labels", &self.labels)
            .field("sentences", &self.sentences.len())
            .finish_non_exhaustive()
    }
}

/// A sentence of a [`Document`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DocumentSentence {
    /// First byte of the sentence in the text.
    pub start: usize,
    /// One past the last byte of the sentence in the text.
    pub end: usize,
    /// Codes of the labels that this sentence is evidence for.
    pub labels: Vec<String>,
}

/// Reads documents one at a time, for files that do not fit in memory.
///
/// An iterator that ends after the last document or after the first error. It holds one line, and the ids seen so far
/// to find duplicates.
#[derive(Debug)]
pub struct Reader<R> {
    lines: Lines<R>,
    lines_by_id: HashMap<String, usize>,
    finished: bool,
}

impl Reader<BufReader<File>> {
    /// Opens the file at `path`.
    ///
    /// # Errors
    ///
    /// [`DatasetError::Directory`], or [`DatasetError::Io`] when the file cannot be opened.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DatasetError> {
        let file = File::open(path).map_err(DatasetError::Io)?;
        if file.metadata().map_err(DatasetError::Io)?.is_dir() {
            return Err(DatasetError::Directory);
        }
        Ok(Self::new(BufReader::new(file)))
    }
}

impl<R: BufRead> Reader<R> {
    /// Reads documents from `input`, the content of a JSON Lines file.
    pub fn new(input: R) -> Self {
        Self { lines: Lines::new(input), lines_by_id: HashMap::new(), finished: false }
    }

    fn read_document(&mut self) -> Result<Option<Document>, DatasetError> {
        let Some((line, text)) = self.lines.next_line()? else {
            return if self.lines_by_id.is_empty() { Err(DatasetError::Empty) } else { Ok(None) };
        };
        let at_line = |error| DatasetError::Line { line, error };
        let document = parse_object(text).and_then(Document::from_object).map_err(at_line)?;
        if let Some(&first) = self.lines_by_id.get(&document.id) {
            return Err(at_line(LineError::DuplicateId { first }));
        }
        self.lines_by_id.insert(document.id.clone(), line);
        Ok(Some(document))
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Document, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finished {
            return None;
        }
        let item = self.read_document().transpose();
        self.finished = !matches!(item, Some(Ok(_)));
        item
    }
}

/// Reads the lines of a JSON Lines file: UTF-8, bounded, no blank line before the last one.
///
/// [`Reader`] is for documents; this is for an importer that makes documents of other objects.
#[derive(Debug)]
pub struct Lines<R> {
    input: R,
    line: usize,
    first_blank: Option<usize>,
    buffer: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    /// Reads lines from `input`.
    pub fn new(input: R) -> Self {
        Self { input, line: 0, first_blank: None, buffer: Vec::new() }
    }

    /// The next line and its number, counted from 1; `None` at the end.
    ///
    /// # Errors
    ///
    /// [`DatasetError::Io`], or [`DatasetError::Line`] when the line is too long, not UTF-8, or follows a blank line.
    pub fn next_line(&mut self) -> Result<Option<(usize, &str)>, DatasetError> {
        loop {
            if !self.fill()? {
                return Ok(None);
            }
            if !self.buffer.trim_ascii().is_empty() {
                break;
            }
            self.first_blank.get_or_insert(self.line);
        }
        if let Some(line) = self.first_blank {
            return Err(DatasetError::Line { line, error: LineError::Blank });
        }
        let line = self.line;
        match str::from_utf8(&self.buffer) {
            Ok(text) => Ok(Some((line, text))),
            Err(error) => Err(DatasetError::Line { line, error: LineError::InvalidUtf8 { byte: error.valid_up_to() } }),
        }
    }

    /// Fills the buffer with the next line, without its line feed; false at the end of the input.
    fn fill(&mut self) -> Result<bool, DatasetError> {
        self.buffer.clear();
        // One byte more than a line may have: its line feed, or the proof that it is too long.
        let limit = MAX_LINE_BYTES as u64 + 1;
        let read = (&mut self.input).take(limit).read_until(b'\n', &mut self.buffer).map_err(DatasetError::Io)?;
        if read == 0 {
            return Ok(false);
        }
        self.line += 1;
        if self.buffer.last() == Some(&b'\n') {
            self.buffer.pop();
        } else if read > MAX_LINE_BYTES {
            return Err(DatasetError::Line { line: self.line, error: LineError::TooLong });
        }
        // Some editors put a byte order mark before the first line; it is not part of the JSON.
        if self.line == 1 && self.buffer.starts_with(b"\xef\xbb\xbf") {
            self.buffer.drain(..3);
        }
        Ok(true)
    }
}

/// Writes documents as JSON Lines that [`Reader`] reads back unchanged.
///
/// It checks neither ids nor offsets: what is written is what it was given.
#[derive(Debug)]
pub struct Writer<W> {
    output: W,
    buffer: Vec<u8>,
}

impl Writer<BufWriter<File>> {
    /// Creates the file at `path`, or empties the one that is there.
    ///
    /// # Errors
    ///
    /// When the file cannot be created.
    pub fn create(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self::new(BufWriter::new(File::create(path)?)))
    }
}

impl<W: Write> Writer<W> {
    /// Writes to `output`.
    pub fn new(output: W) -> Self {
        Self { output, buffer: Vec::new() }
    }

    /// Writes one line.
    ///
    /// # Errors
    ///
    /// When the line would be longer than [`MAX_LINE_BYTES`], or the output refuses it.
    pub fn write(&mut self, document: &Document) -> io::Result<()> {
        self.buffer.clear();
        serde_json::to_writer(&mut self.buffer, document)?;
        if self.buffer.len() > MAX_LINE_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, LineError::TooLong));
        }
        self.buffer.push(b'\n');
        self.output.write_all(&self.buffer)
    }

    /// Flushes and gives the output back. A writer that is dropped instead cannot report a full disk.
    ///
    /// # Errors
    ///
    /// When the output refuses what was buffered.
    pub fn finish(mut self) -> io::Result<W> {
        self.output.flush()?;
        Ok(self.output)
    }
}

/// A file is not a readable data set.
#[derive(Debug)]
#[non_exhaustive]
pub enum DatasetError {
    /// The file cannot be opened or read.
    Io(io::Error),
    /// The path names a directory.
    Directory,
    /// The file holds no document.
    Empty,
    /// A line is not a document.
    Line {
        /// Number of the line, counted from 1.
        line: usize,
        /// What is wrong with it.
        error: LineError,
    },
}

impl fmt::Display for DatasetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "cannot read the data set: {error}"),
            Self::Directory => f.write_str("this is a directory; give a JSON Lines file"),
            Self::Empty => f.write_str("the file holds no document; give JSON Lines, one document a line"),
            Self::Line { line, error } => write!(f, "line {line}: {error}"),
        }
    }
}

// The texts above already hold the text of the cause, so `source` stays empty: a chain would print it twice.
impl core::error::Error for DatasetError {}

/// A line of a data set is not a document. It never holds text of the document.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LineError {
    /// More than [`MAX_LINE_BYTES`].
    TooLong,
    /// A blank line with documents after it.
    Blank,
    /// The line is not UTF-8.
    InvalidUtf8 {
        /// Position in the line of the first byte that is not UTF-8.
        byte: usize,
    },
    /// The line ends within a JSON value.
    Truncated,
    /// The line is not JSON.
    Syntax {
        /// Where, in bytes counted from 1.
        column: usize,
    },
    /// The line is JSON but not an object.
    NotAnObject,
    /// A required field is not there.
    MissingField(Field),
    /// A field has a value of another type.
    WrongType(Field),
    /// An earlier line has the same id.
    DuplicateId {
        /// The earlier line, counted from 1.
        first: usize,
    },
    /// A sentence ends before it starts.
    SentenceReversed {
        /// Position of the sentence in `sentences`, counted from 0.
        sentence: usize,
    },
    /// A sentence starts before the one in front of it ends.
    SentenceOutOfOrder {
        /// Position of the sentence in `sentences`, counted from 0.
        sentence: usize,
    },
    /// A sentence ends after the text.
    SentenceOutOfBounds {
        /// Position of the sentence in `sentences`, counted from 0.
        sentence: usize,
        /// Bytes in the text.
        text_bytes: usize,
    },
    /// A sentence starts or ends within a character.
    SentenceInsideCharacter {
        /// Position of the sentence in `sentences`, counted from 0.
        sentence: usize,
    },
    /// A label is not one of the model's.
    UnknownLabel(UnknownLabel),
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "longer than {} MiB; one line is one document", MAX_LINE_BYTES >> 20),
            Self::Blank => f.write_str("blank, with documents after it; remove the line"),
            Self::InvalidUtf8 { byte } => write!(f, "not UTF-8 at byte {byte} of the line; convert the file to UTF-8"),
            Self::Truncated => {
                f.write_str("ends in the middle of a JSON value; a document must be one object on a single line")
            }
            Self::Syntax { column } => write!(f, "not JSON at column {column}"),
            Self::NotAnObject => f.write_str("not a JSON object; a line is {\"id\": …, \"text\": …, \"labels\": […]}"),
            Self::MissingField(field) => write!(f, "`{field}` is missing; {}", field.advice()),
            Self::WrongType(field) => write!(f, "`{field}` has the wrong type; {}", field.advice()),
            Self::DuplicateId { first } => write!(f, "`id` is the same as on line {first}; every id occurs once"),
            Self::SentenceReversed { sentence } => write!(f, "sentence {sentence}: `start` is greater than `end`"),
            Self::SentenceOutOfOrder { sentence } => {
                write!(f, "sentence {sentence}: starts before the sentence in front of it ends; sort them, no overlap")
            }
            Self::SentenceOutOfBounds { sentence, text_bytes } => write!(
                f,
                "sentence {sentence}: `end` is past the text, which has {text_bytes} bytes; offsets count UTF-8 bytes"
            ),
            Self::SentenceInsideCharacter { sentence } => write!(
                f,
                "sentence {sentence}: an offset is in the middle of a character; offsets count UTF-8 bytes, not \
                 characters"
            ),
            Self::UnknownLabel(unknown) => unknown.fmt(f),
        }
    }
}

impl core::error::Error for LineError {}

/// A field of a document's line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Field {
    /// `id`
    Id,
    /// `text`
    Text,
    /// `labels`
    Labels,
    /// `sentences`
    Sentences,
    /// `start` of a sentence
    SentenceStart,
    /// `end` of a sentence
    SentenceEnd,
    /// `labels` of a sentence
    SentenceLabels,
}

impl Field {
    fn advice(self) -> &'static str {
        match self {
            Self::Id => "add a string that names the document, as in \"id\": \"a1\"",
            Self::Text => "add the document's text as a string",
            Self::Labels => "add the codes as a list of strings, as in \"labels\": [\"PS\"], or [] if none applies",
            Self::Sentences => "give a list of {\"start\": …, \"end\": …, \"labels\": […]}, or leave the field out",
            Self::SentenceStart => "give the byte where the sentence starts, a whole number from 0",
            Self::SentenceEnd => "give the byte after the sentence, a whole number from 0",
            Self::SentenceLabels => "add the sentence's codes as a list of strings, or [] if none applies",
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Id => "id",
            Self::Text => "text",
            Self::Labels => "labels",
            Self::Sentences => "sentences",
            Self::SentenceStart => "sentences[].start",
            Self::SentenceEnd => "sentences[].end",
            Self::SentenceLabels => "sentences[].labels",
        })
    }
}

/// A label is not one of the model's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownLabel {
    label: Option<String>,
    codes: String,
}

impl UnknownLabel {
    fn new(label: &str, codes: &[&str]) -> Self {
        // A code is short. What is not may be text in the wrong field, and stays out of the error.
        const MAX_CHARS: usize = 64;
        let is_code = label.chars().count() <= MAX_CHARS && !label.chars().any(char::is_control);
        Self { label: is_code.then(|| label.to_owned()), codes: codes.join(", ") }
    }
}

impl fmt::Display for UnknownLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.label {
            Some(label) => write!(f, "unknown label \"{label}\"")?,
            None => f.write_str("unknown label (not shown: too long for a code, or not printable)")?,
        }
        write!(f, "; the model's labels are {}", self.codes)
    }
}

impl core::error::Error for UnknownLabel {}

fn parse_sentence(value: Value) -> Result<DocumentSentence, LineError> {
    let Value::Object(mut object) = value else { return Err(LineError::WrongType(Field::Sentences)) };
    Ok(DocumentSentence {
        start: take_offset(&mut object, "start", Field::SentenceStart)?,
        end: take_offset(&mut object, "end", Field::SentenceEnd)?,
        labels: take_labels(&mut object, Field::SentenceLabels)?,
    })
}

fn check_offsets(document: &Document) -> Result<(), LineError> {
    let text = &document.text;
    let mut previous_end = 0;
    for (sentence, &DocumentSentence { start, end, .. }) in document.sentences.iter().enumerate() {
        if start > end {
            return Err(LineError::SentenceReversed { sentence });
        }
        if start < previous_end {
            return Err(LineError::SentenceOutOfOrder { sentence });
        }
        if end > text.len() {
            return Err(LineError::SentenceOutOfBounds { sentence, text_bytes: text.len() });
        }
        if !text.is_char_boundary(start) || !text.is_char_boundary(end) {
            return Err(LineError::SentenceInsideCharacter { sentence });
        }
        previous_end = end;
    }
    Ok(())
}

fn take_string(object: &mut Map<String, Value>, key: &str, field: Field) -> Result<String, LineError> {
    match object.remove(key) {
        Some(Value::String(string)) => Ok(string),
        Some(_) => Err(LineError::WrongType(field)),
        None => Err(LineError::MissingField(field)),
    }
}

fn take_labels(object: &mut Map<String, Value>, field: Field) -> Result<Vec<String>, LineError> {
    let Some(value) = object.remove("labels") else { return Err(LineError::MissingField(field)) };
    let Value::Array(labels) = value else { return Err(LineError::WrongType(field)) };
    labels
        .into_iter()
        .map(|label| match label {
            Value::String(label) => Ok(label),
            _ => Err(LineError::WrongType(field)),
        })
        .collect()
}

fn take_offset(object: &mut Map<String, Value>, key: &str, field: Field) -> Result<usize, LineError> {
    let value = object.remove(key).ok_or(LineError::MissingField(field))?;
    value.as_u64().and_then(|offset| usize::try_from(offset).ok()).ok_or(LineError::WrongType(field))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"id": "a", "text": "Über alles. Zwei.", "labels": ["X"], "sentences": [{"start": 0, "end": 12, "labels": ["X"]}, {"start": 13, "end": 18, "labels": []}]}"#;

    fn line_error(input: impl AsRef<[u8]>) -> (usize, LineError) {
        match read_bytes(input.as_ref()).expect_err("the input is bad") {
            DatasetError::Line { line, error } => (line, error),
            other => panic!("not an error of a line: {other}"),
        }
    }

    #[test]
    fn reads_documents() {
        let input = format!("\u{feff}{GOOD}\r\n{{\"id\":\"b\",\"text\":\"\",\"labels\":[],\"year\":1999}}\n\n \n");
        let documents = read_bytes(input.as_bytes()).unwrap();
        assert_eq!(documents.len(), 2);
        assert_eq!(documents[0].labels, ["X"]);
        let sentence = &documents[0].sentences[0];
        assert_eq!(&documents[0].text[sentence.start..sentence.end], "Über alles.");
        assert!(documents[1].labels.is_empty() && documents[1].sentences.is_empty());
    }

    #[test]
    fn writes_what_it_reads() {
        let document = Document {
            text: "tab\t\"quote\" \u{2028} \0 ü".into(),
            ..read_bytes(GOOD.as_bytes()).unwrap()[0].clone()
        };
        let document = Document { sentences: Vec::new(), ..document };
        let mut writer = Writer::new(Vec::new());
        writer.write(&document).unwrap();
        let bytes = writer.finish().unwrap();
        assert_eq!(read_bytes(&bytes).unwrap(), [document]);
        assert!(!String::from_utf8(bytes).unwrap().contains("sentences"));
    }

    #[test]
    fn names_the_line_and_the_problem() {
        let second = |line: &str| line_error(format!("{GOOD}\n{line}\n"));
        let cases = [
            (r#"["b"]"#, LineError::NotAnObject),
            (r#"{"text": "t", "labels": []}"#, LineError::MissingField(Field::Id)),
            (r#"{"id": "b", "labels": []}"#, LineError::MissingField(Field::Text)),
            (r#"{"id": "b", "text": "t"}"#, LineError::MissingField(Field::Labels)),
            (r#"{"id": 7, "text": "t", "labels": []}"#, LineError::WrongType(Field::Id)),
            (r#"{"id": "b", "text": null, "labels": []}"#, LineError::WrongType(Field::Text)),
            (r#"{"id": "b", "text": "t", "labels": "X"}"#, LineError::WrongType(Field::Labels)),
            (r#"{"id": "b", "text": "t", "labels": [1]}"#, LineError::WrongType(Field::Labels)),
            (r#"{"id": "b", "text": "t", "labels": [], "sentences": {}}"#, LineError::WrongType(Field::Sentences)),
            (r#"{"id": "b", "text": "t", "labels": [], "sentences": [3]}"#, LineError::WrongType(Field::Sentences)),
            (r#"{"id": "a", "text": "t", "labels": []}"#, LineError::DuplicateId { first: 1 }),
            (r#"{"id": "b", "text": "t", "#, LineError::Truncated),
            (r#"{"id": "b" "text": "t"}"#, LineError::Syntax { column: 12 }),
            (r#"{"id": "\ud800", "text": "t", "labels": []}"#, LineError::Syntax { column: 15 }),
        ];
        for (line, error) in cases {
            assert_eq!(second(line), (2, error), "{line}");
        }
    }

    #[test]
    fn checks_sentence_offsets() {
        let error = |sentences: &str| {
            line_error(format!(r#"{{"id": "b", "text": "aüc.", "labels": [], "sentences": [{sentences}]}}"#)).1
        };
        let sentence = |start: &str, end: &str| format!(r#"{{"start": {start}, "end": {end}, "labels": []}}"#);
        let pair = |a, b, c, d| format!("{}, {}", sentence(a, b), sentence(c, d));
        assert_eq!(error(&sentence("3", "1")), LineError::SentenceReversed { sentence: 0 });
        assert_eq!(error(&pair("0", "4", "3", "5")), LineError::SentenceOutOfOrder { sentence: 1 });
        assert_eq!(error(&sentence("0", "6")), LineError::SentenceOutOfBounds { sentence: 0, text_bytes: 5 });
        assert_eq!(error(&pair("0", "1", "2", "5")), LineError::SentenceInsideCharacter { sentence: 1 });
        assert_eq!(error(&sentence("0", "2")), LineError::SentenceInsideCharacter { sentence: 0 });
        assert_eq!(error(&sentence("-1", "2")), LineError::WrongType(Field::SentenceStart));
        assert_eq!(error(&sentence("0", "2.5")), LineError::WrongType(Field::SentenceEnd));
        assert_eq!(error(&sentence("0", "1e30")), LineError::WrongType(Field::SentenceEnd));
        assert_eq!(error(r#"{"end": 1, "labels": []}"#), LineError::MissingField(Field::SentenceStart));
        assert_eq!(error(r#"{"start": 0, "labels": []}"#), LineError::MissingField(Field::SentenceEnd));
        assert_eq!(error(r#"{"start": 0, "end": 1}"#), LineError::MissingField(Field::SentenceLabels));
    }

    #[test]
    fn refuses_what_is_not_a_text_file() {
        assert!(matches!(read_bytes(b""), Err(DatasetError::Empty)));
        assert!(matches!(read_bytes(b"\n \n"), Err(DatasetError::Empty)));
        assert_eq!(line_error(b"{\"id\": \"\xff\"}"), (1, LineError::InvalidUtf8 { byte: 8 }));
        assert_eq!(line_error(format!("{GOOD}\n\n{GOOD}")), (2, LineError::Blank));
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(read(directory.path()), Err(DatasetError::Directory)));
        assert!(matches!(read(directory.path().join("none")), Err(DatasetError::Io(_))));
    }

    #[test]
    fn bounds_a_line() {
        let line = |bytes: usize| {
            let rest = r#"{"id": "a", "labels": [], "text": ""}"#.len();
            format!(r#"{{"id": "a", "labels": [], "text": "{}"}}"#, "x".repeat(bytes - rest))
        };
        assert_eq!(read_bytes(line(MAX_LINE_BYTES).as_bytes()).unwrap().len(), 1);
        assert_eq!(read_bytes(format!("{}\n", line(MAX_LINE_BYTES)).as_bytes()).unwrap().len(), 1);
        assert_eq!(line_error(line(MAX_LINE_BYTES + 1)), (1, LineError::TooLong));
        assert_eq!(line_error(format!("{}\n", line(MAX_LINE_BYTES + 1))), (1, LineError::TooLong));
        let text = "x".repeat(MAX_LINE_BYTES);
        let document = Document { id: "a".into(), text, labels: Vec::new(), sentences: Vec::new() };
        let error = Writer::new(io::sink()).write(&document).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        // An endless line is refused at the bound and not read to its end.
        let endless = BufReader::new(io::repeat(b'x'));
        assert!(Reader::new(endless).next().unwrap().is_err());
    }

    #[test]
    fn ends_after_the_first_error() {
        let mut reader = Reader::new("[]\n[]\n".as_bytes());
        assert!(reader.next().unwrap().is_err());
        assert!(reader.next().is_none());
    }

    #[test]
    fn maps_labels_to_the_models_codes() {
        let documents = read_bytes(GOOD.as_bytes()).unwrap();
        assert_eq!(truth(&documents, &["W", "X", "Y"]).unwrap(), [false, true, false]);
        let error = truth(&documents, &["W", "Y"]).unwrap_err();
        assert_eq!(error.to_string(), "line 1: unknown label \"X\"; the model's labels are W, Y");
        assert_eq!(label_indices(&["Y".into(), "W".into()], &["W", "Y"]).unwrap(), [1, 0]);
    }

    #[test]
    fn errors_hold_no_document_text() {
        let secret = "Patient Example was admitted.";
        let lines = [
            format!(r#"{{"id": ["{secret}"], "text": "t", "labels": []}}"#),
            format!(r#"{{"id": "b", "text": {{"a": "{secret}"}}, "labels": []}}"#),
            format!(r#"{{"id": "b", "text": "t", "labels": "{secret}"}}"#),
            format!(r#"{{"id": "b", "text": "{secret}"}}"#),
            format!(r#"{{"id": "b", "text": "{secret}\q"}}"#),
            format!("{secret} not JSON"),
        ];
        for line in &lines {
            let error = read_bytes(line.as_bytes()).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("Patient"), "{error:?}");
        }
        let label = [secret.repeat(3)];
        let error = label_indices(&label, &["W"]).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("Patient"));
        let document = Document { id: "b".into(), text: secret.into(), labels: Vec::new(), sentences: Vec::new() };
        assert!(!format!("{document:?}").contains("Patient"));
    }
}
