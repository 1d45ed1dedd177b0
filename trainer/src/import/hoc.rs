//! The Hallmarks of Cancer corpus (Baker et al. 2016, "Automatic semantic classification of scientific literature
//! according to the hallmarks of cancer") in its published layout.
//!
//! `text/PMID.txt` has one sentence a line. `labels/PMID.txt` is one line in which the labels of every sentence follow
//! a `<`. The labels of a sentence are joined by ` AND`, the levels of the taxonomy by `--`; blank or `NULL` is none.
//! A label is the top level, the hallmark. Some texts hold `\u03b1`-style escapes, which become the characters that
//! they name; runs of white space (some escapes are thin spaces) become one space; nothing else is done to the text. A
//! document has the labels of its sentences, and its text is the sentences joined by a space.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use indicatif::{ProgressFinish, ProgressIterator};
use kdh_runtime::dataset::{Document, DocumentSentence, MAX_LINE_BYTES};
use serde::{Deserialize, Serialize};

use super::{Import, Summary, SummaryOutput};

/// The hallmarks: the code that stands for each in the corpus' publications, and its name in the label files.
pub const HALLMARKS: [(&str, &str); 10] = [
    ("PS", "Sustaining proliferative signaling"),
    ("GS", "Evading growth suppressors"),
    ("CD", "Resisting cell death"),
    ("RI", "Enabling replicative immortality"),
    ("A", "Inducing angiogenesis"),
    ("IM", "Activating invasion and metastasis"),
    ("GI", "Genomic instability and mutation"),
    ("TPI", "Tumor promoting inflammation"),
    ("CE", "Cellular energetics"),
    ("ID", "Avoiding immune destruction"),
];

/// `kdh-train import hoc`
#[derive(Debug, Args)]
pub struct Hoc {
    /// The corpus: a folder that holds text/ and labels/.
    #[arg(value_name = "DIR")]
    pub corpus: PathBuf,
    /// JSON file {"train": [PMID, ...], "dev": [...], "test": [...]} that says which document goes where.
    #[arg(long, value_name = "FILE")]
    pub split: PathBuf,
    /// Folder for train.jsonl, dev.jsonl and test.jsonl; made when it is not there.
    #[arg(value_name = "OUT")]
    pub out: PathBuf,
    /// How the summary is printed.
    #[command(flatten)]
    pub output: SummaryOutput,
}

impl Hoc {
    /// Imports the documents of the split that are in the corpus. A part with none of its documents gets no file.
    ///
    /// # Errors
    ///
    /// When the corpus or the split is not what it should be, no document of the split is in the corpus, or the output
    /// cannot be written.
    pub fn import(&self) -> Result<HocSummary> {
        check_corpus(&self.corpus)?;
        let split = read_split(&self.split).with_context(|| self.split.display().to_string())?;
        fs::create_dir_all(&self.out).with_context(|| format!("cannot make the folder {}", self.out.display()))?;
        let summary = HocSummary {
            train: self.import_part("train", &split.train)?,
            dev: self.import_part("dev", &split.dev)?,
            test: self.import_part("test", &split.test)?,
        };
        ensure!(
            summary.parts().iter().any(|(_, part)| part.imported.documents > 0),
            "none of the split's documents is in {}; is this the corpus that the split was made for?",
            self.corpus.display()
        );
        Ok(summary)
    }

    fn import_part(&self, name: &str, pmids: &[String]) -> Result<Part> {
        let mut documents = Vec::new();
        for pmid in pmids.iter().progress().with_finish(ProgressFinish::AndClear) {
            documents.extend(read_document(&self.corpus, pmid)?);
        }
        let missing = pmids.len() - documents.len();
        if missing > 0 {
            eprintln!("{name}: {missing} of {} documents are not in {}", pmids.len(), self.corpus.display());
        }
        let path = self.out.join(format!("{name}.jsonl"));
        if documents.is_empty() {
            eprintln!("{name}: no document, so {} is not written", path.display());
            return Ok(Part { missing, imported: Summary::default() });
        }
        let mut import = Import::create(&path)?;
        for (index, document) in documents.into_iter().enumerate() {
            import.push(index + 1, document)?;
        }
        Ok(Part { missing, imported: import.finish()? })
    }
}

/// What each part of the split holds after an import.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HocSummary {
    /// `train.jsonl`
    pub train: Part,
    /// `dev.jsonl`
    pub dev: Part,
    /// `test.jsonl`
    pub test: Part,
}

impl HocSummary {
    fn parts(&self) -> [(&'static str, &Part); 3] {
        [("train", &self.train), ("dev", &self.dev), ("test", &self.test)]
    }
}

impl fmt::Display for HocSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, part)) in self.parts().into_iter().enumerate() {
            let newline = if index > 0 { "\n" } else { "" };
            write!(f, "{newline}{name}: {} of the split missing, {}", part.missing, part.imported)?;
        }
        Ok(())
    }
}

/// One part of a split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Part {
    /// Documents of the split that are not in the corpus folder.
    pub missing: usize,
    /// The documents that are.
    #[serde(flatten)]
    pub imported: Summary,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Split {
    #[serde(default)]
    train: Vec<String>,
    #[serde(default)]
    dev: Vec<String>,
    #[serde(default)]
    test: Vec<String>,
}

fn check_corpus(corpus: &Path) -> Result<()> {
    let shown = corpus.display();
    ensure!(corpus.exists(), "{shown} is not there; give the folder of the corpus that holds text/ and labels/");
    ensure!(
        corpus.is_dir(),
        "{shown} is a file; unpack the corpus (tar xzf {shown}) and give the folder that holds text/ and labels/"
    );
    ensure!(
        corpus.join("text").is_dir() && corpus.join("labels").is_dir(),
        "{shown} does not hold the folders text and labels; give the folder that does"
    );
    Ok(())
}

fn read_split(path: &Path) -> Result<Split> {
    let text = read_bounded(path)?.ok_or_else(|| anyhow!("the split file is not there"))?;
    let split: Split = serde_json::from_str(&text).context(
        "not a split; it must be {\"train\": [PMID, ...], \"dev\": [...], \"test\": [...]}, PMIDs as strings",
    )?;
    let mut parts = HashMap::new();
    for (part, pmids) in [("train", &split.train), ("dev", &split.dev), ("test", &split.test)] {
        for pmid in pmids {
            // It becomes a file name.
            let is_pmid = (1..=12).contains(&pmid.len()) && pmid.bytes().all(|byte| byte.is_ascii_digit());
            ensure!(is_pmid, "an entry of {part} is not a PMID; a PMID has digits only");
            if let Some(other) = parts.insert(pmid.clone(), part) {
                bail!("PMID {pmid} is in {other} and again in {part}; a document belongs to one part, once");
            }
        }
    }
    Ok(split)
}

/// `None` when neither file of the document is there.
fn read_document(corpus: &Path, pmid: &str) -> Result<Option<Document>> {
    let path = |folder: &str| corpus.join(folder).join(format!("{pmid}.txt"));
    let read = |folder: &str| read_bounded(&path(folder)).with_context(|| path(folder).display().to_string());
    match (read("text")?, read("labels")?) {
        (Some(text), Some(labels)) => {
            parse_document(pmid, &text, &labels).with_context(|| path("labels").display().to_string()).map(Some)
        }
        (None, None) => Ok(None),
        (None, Some(_)) => {
            bail!("{} is missing, its labels are there; unpack the corpus again", path("text").display())
        }
        (Some(_), None) => bail!("{} is missing, its text is there; unpack the corpus again", path("labels").display()),
    }
}

fn read_bounded(path: &Path) -> Result<Option<String>> {
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.context("cannot open the file")?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_LINE_BYTES as u64 + 1).read_to_end(&mut bytes).context("cannot read the file")?;
    ensure!(bytes.len() <= MAX_LINE_BYTES, "the file has more than {} MiB", MAX_LINE_BYTES >> 20);
    // Not `String::from_utf8` with its error as the cause: that would carry the bytes along.
    let text = String::from_utf8(bytes).map_err(|error| {
        anyhow!("not UTF-8 at byte {}; the corpus is UTF-8, unpack it again", error.utf8_error().valid_up_to())
    })?;
    Ok(Some(text))
}

fn parse_document(pmid: &str, text: &str, labels: &str) -> Result<Document> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let labels: Vec<&str> = labels.split('<').skip(1).collect();
    ensure!(
        lines.len() == labels.len(),
        "labels for {} sentences, but the text has {} lines; one `<` belongs to each",
        labels.len(),
        lines.len()
    );
    let mut document = Document { id: pmid.to_owned(), text: String::new(), labels: Vec::new(), sentences: Vec::new() };
    let mut in_document = [false; HALLMARKS.len()];
    for (index, (line, labels)) in lines.iter().zip(labels).enumerate() {
        if index > 0 {
            document.text.push(' ');
        }
        let start = document.text.len();
        push_words(&unescape(line), &mut document.text);
        let in_sentence = parse_labels(labels).with_context(|| format!("sentence {}", index + 1))?;
        for (document, sentence) in in_document.iter_mut().zip(in_sentence) {
            *document |= sentence;
        }
        document.sentences.push(DocumentSentence { start, end: document.text.len(), labels: codes(&in_sentence) });
    }
    document.labels = codes(&in_document);
    Ok(document)
}

/// Which hallmarks the labels of a sentence name.
fn parse_labels(labels: &str) -> Result<[bool; HALLMARKS.len()]> {
    let mut present = [false; HALLMARKS.len()];
    for label in labels.split(" AND") {
        let hallmark = label.split("--").next().unwrap_or_default().trim();
        if hallmark.is_empty() || hallmark == "NULL" {
            continue;
        }
        let index = HALLMARKS
            .iter()
            .position(|(_, name)| *name == hallmark)
            .ok_or_else(|| anyhow!("a label that is not one of the ten hallmarks"))?;
        present[index] = true;
    }
    Ok(present)
}

fn codes(present: &[bool; HALLMARKS.len()]) -> Vec<String> {
    HALLMARKS.iter().zip(present).filter(|(_, present)| **present).map(|((code, _), _)| (*code).to_owned()).collect()
}

/// Appends the words of `line` with one space between them.
fn push_words(line: &str, text: &mut String) {
    for (index, word) in line.split_whitespace().enumerate() {
        if index > 0 {
            text.push(' ');
        }
        text.push_str(word);
    }
}

/// `line` with every `\uXXXX` as the character it names. What names none stays as it is.
fn unescape(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("\\u") {
        let (before, escape) = rest.split_at(at);
        out.push_str(before);
        let (character, length) = match code_unit(escape).and_then(char::from_u32) {
            Some(character) => (character, "\\u0000".len()),
            None => ('\\', 1),
        };
        out.push(character);
        rest = &escape[length..];
    }
    out.push_str(rest);
    out
}

/// The number of the `\uXXXX` at the start of `text`.
fn code_unit(text: &str) -> Option<u32> {
    let digits = text.get(2..6)?;
    digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use kdh_runtime::dataset;

    use super::*;

    const SPLIT: &str = r#"{"train": ["1", "2"], "dev": ["3"], "test": ["4"]}"#;

    /// A corpus of two documents of our own, and the import of it.
    struct Corpus {
        folder: tempfile::TempDir,
    }

    impl Corpus {
        fn new() -> Self {
            let corpus = Self { folder: tempfile::tempdir().unwrap() };
            corpus.write("split.json", SPLIT);
            corpus.write("text/1.txt", "Growth\\u2009 of \\u03b2 cells .\nThey died \\u12 , \\ud800 \\\\ .\n");
            corpus.write(
                "labels/1.txt",
                "<  Evading growth suppressors-- ANDResisting cell death--Apoptosis AND Resisting cell death< NULL",
            );
            corpus.write("text/2.txt", "No label here .\n");
            corpus.write("labels/2.txt", "< ");
            corpus
        }

        fn write(&self, name: &str, content: impl AsRef<[u8]>) {
            let path = self.folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }

        fn import(&self) -> Result<HocSummary> {
            import(self.folder.path(), &self.folder.path().join("split.json"), &self.folder.path().join("out"))
        }

        fn error(&self) -> String {
            format!("{:#}", self.import().unwrap_err())
        }
    }

    fn import(corpus: &Path, split: &Path, out: &Path) -> Result<HocSummary> {
        let output = SummaryOutput { json: false };
        Hoc { corpus: corpus.into(), split: split.into(), out: out.into(), output }.import()
    }

    #[test]
    fn equals_the_converted_corpus() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/hoc");
        let folder = tempfile::tempdir().unwrap();
        let archive = data.join("corpus-train-dev.tar.gz");
        let tar = Command::new("tar").arg("xzf").arg(&archive).arg("-C").arg(folder.path()).status().unwrap();
        assert!(tar.success(), "cannot unpack {}", archive.display());
        let out = folder.path().join("out");
        let summary = import(&folder.path().join("Hallmarks-of-Cancer"), &data.join("split.json"), &out).unwrap();

        for (name, part, documents) in [("train", &summary.train, 1295), ("dev", &summary.dev, 186)] {
            let name = format!("{name}.jsonl");
            let imported = dataset::read(out.join(&name)).unwrap();
            let expected = dataset::read(data.join(&name)).unwrap();
            assert_eq!((part.missing, part.imported.documents, imported.len()), (0, documents, expected.len()));
            for (index, (imported, expected)) in imported.iter().zip(&expected).enumerate() {
                // Not `assert_eq!`: nobody reads two abstracts in a log.
                assert!(imported == expected, "{name}: document {} ({}) differs", index + 1, expected.id);
            }
        }
        assert_eq!(summary.test.missing, 371);
        assert!(!out.join("test.jsonl").exists());
    }

    #[test]
    fn reads_labels_and_escapes() {
        let corpus = Corpus::new();
        let summary = corpus.import().unwrap();
        let documents = dataset::read(corpus.folder.path().join("out/train.jsonl")).unwrap();
        assert_eq!(documents[0].text, "Growth of β cells . They died \\u12 , \\ud800 \\\\ .");
        assert_eq!(documents[0].labels, ["GS", "CD"]);
        assert_eq!(documents[0].sentences[0].labels, ["GS", "CD"]);
        assert_eq!(&documents[0].text[..documents[0].sentences[0].end], "Growth of β cells .");
        assert!(documents[0].sentences[1].labels.is_empty() && documents[1].labels.is_empty());
        assert_eq!((summary.train.missing, summary.dev.missing, summary.test.missing), (0, 1, 1));
        assert_eq!(summary.train.imported.labels, [("CD".to_owned(), 1), ("GS".to_owned(), 1)].into());
        let json = serde_json::to_value(&summary).unwrap();
        assert_eq!((json["train"]["documents"].as_u64(), json["dev"]["missing"].as_u64()), (Some(2), Some(1)));
    }

    #[test]
    fn errors_name_the_file_and_no_text() {
        let with = |name: &str, content: &str| {
            let corpus = Corpus::new();
            corpus.write(name, content);
            corpus.error()
        };
        let error = with("labels/1.txt", "<");
        assert!(error.contains("1.txt: labels for 1 sentences, but the text has 2 lines"), "{error}");
        let error = with("labels/2.txt", "<Growing hair--Fast");
        assert!(error.contains("2.txt: sentence 1: a label that is not one of"), "{error}");
        let error = with("labels/3.txt", "<");
        assert!(error.contains("3.txt is missing, its labels are there"), "{error}");
        let error = with("text/4.txt", "A sentence .");
        assert!(error.contains("4.txt is missing, its text is there"), "{error}");

        let corpus = Corpus::new();
        corpus.write("text/1.txt", b"Not \xff UTF-8\nline");
        let error = corpus.error();
        assert!(error.contains("1.txt: not UTF-8 at byte 4") && !error.contains("line"), "{error}");
    }

    #[test]
    fn checks_the_split() {
        let with = |split: &str| {
            let corpus = Corpus::new();
            corpus.write("split.json", split);
            corpus.error()
        };
        assert!(with(r#"{"train": ["1"], "dev": ["1"]}"#).contains("PMID 1 is in train and again in dev"));
        assert!(with(r#"{"train": ["../1"]}"#).contains("an entry of train is not a PMID"));
        assert!(with(r#"{"train": [""]}"#).contains("an entry of train is not a PMID"));
        assert!(with(r#"{"train": [1]}"#).contains("not a split"));
        assert!(with(r#"{"training": ["1"]}"#).contains("not a split"));
        assert!(with("").contains("not a split"));
        assert!(with(r#"{"train": ["77"]}"#).contains("none of the split's documents is in"));
    }

    #[test]
    fn checks_the_corpus_folder() {
        let corpus = Corpus::new();
        let root = corpus.folder.path();
        let error = |path: &Path| format!("{:#}", import(path, &root.join("split.json"), &root.join("o")).unwrap_err());
        assert!(error(&root.join("none")).contains("is not there"));
        assert!(error(&root.join("split.json")).contains("tar xzf"));
        assert!(error(&root.join("text")).contains("does not hold the folders"));
        assert!(!root.join("o").exists(), "nothing is made before the input is checked");
    }
}
