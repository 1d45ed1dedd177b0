//! Brings corpora into the JSON Lines that everything else reads ([`kdh_runtime::dataset`]).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{BufReader, BufWriter, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressFinish};
use kdh_runtime::dataset::{Document, Writer};
use kdh_runtime::output::print_line;
use serde::Serialize;

pub mod csv;
pub mod hoc;
pub mod jsonl;

/// `kdh-train import`: the corpora and layouts that can be imported.
#[derive(Debug, Subcommand)]
pub enum ImportCommand {
    /// The Hallmarks of Cancer corpus in its published layout.
    ///
    /// DIR holds text/PMID.txt (one sentence a line) and labels/PMID.txt (the labels of each sentence after a `<`).
    /// The documents named by the split file become OUT/train.jsonl, OUT/dev.jsonl and OUT/test.jsonl with
    /// document labels and sentence labels. Documents of the split that are not in DIR are counted and reported.
    Hoc(hoc::Hoc),
    /// A JSON Lines file, with fields of any name.
    ///
    /// Every line of IN is an object with a text and a list of labels. Sentences, if there are any, must be in the
    /// field `sentences`: [{"start": 0, "end": 12, "labels": ["A"]}, ...], in bytes of the UTF-8 text.
    Jsonl(jsonl::Jsonl),
    /// A CSV file with a header line.
    ///
    /// The labels are either in one column, separated (--labels, --separator), or in one column a label that holds 0
    /// or 1 (--label-columns).
    Csv(csv::Csv),
}

impl ImportCommand {
    /// Imports, and prints what was imported to standard output.
    ///
    /// # Errors
    ///
    /// When the input cannot be read or is not what it should be (with the number of the line), or the output cannot
    /// be written.
    pub fn run(&self) -> Result<()> {
        match self {
            Self::Hoc(hoc) => hoc.output.print(&hoc.import()?),
            Self::Jsonl(jsonl) => jsonl.output.print(&jsonl.import()?),
            Self::Csv(csv) => csv.output.print(&csv.import()?),
        }
    }
}

/// How a summary is printed.
#[derive(Clone, Copy, Debug, Args)]
pub struct SummaryOutput {
    /// Print the summary as JSON.
    #[arg(long)]
    pub json: bool,
}

impl SummaryOutput {
    fn print(self, summary: &(impl Serialize + std::fmt::Display)) -> Result<()> {
        let text = if self.json { serde_json::to_string_pretty(summary)? } else { summary.to_string() };
        print_line(format_args!("{text}"));
        Ok(())
    }
}

/// What a file holds after an import.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// Documents written.
    pub documents: usize,
    /// Documents of each label.
    pub labels: BTreeMap<String, usize>,
    /// Documents without any label.
    pub unlabelled: usize,
    /// Sentences of all documents; 0 when the corpus has none.
    pub sentences: usize,
    /// Documents whose text is empty or white space. They are written all the same.
    pub empty_texts: usize,
    /// Documents whose text is that of an earlier one. They are written all the same.
    pub duplicate_texts: usize,
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { documents, unlabelled, sentences, empty_texts, duplicate_texts, .. } = self;
        write!(f, "{documents} documents, {sentences} sentences, {unlabelled} without labels")?;
        write!(f, ", {empty_texts} empty texts, {duplicate_texts} duplicate texts")?;
        let width = self.labels.keys().map(|label| label.chars().count()).max().unwrap_or(0);
        for (label, count) in &self.labels {
            write!(f, "\n  {label:width$}  {count:6}")?;
        }
        Ok(())
    }
}

/// Writes the documents of one file and counts them. The file appears under its name only when it is complete.
struct Import {
    writer: Writer<BufWriter<File>>,
    partial: Partial,
    path: PathBuf,
    lines_by_id: HashMap<String, usize>,
    text_hashes: HashSet<u64>,
    hasher: RandomState,
    summary: Summary,
}

impl Import {
    fn create(path: &Path) -> Result<Self> {
        ensure!(!path.is_dir(), "{} is a directory; name the file to write", path.display());
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = Partial(PathBuf::from(partial));
        let writer = Writer::create(&partial.0).with_context(|| format!("cannot create {}", partial.0.display()))?;
        Ok(Self {
            writer,
            partial,
            path: path.to_owned(),
            lines_by_id: HashMap::new(),
            text_hashes: HashSet::new(),
            hasher: RandomState::new(),
            summary: Summary::default(),
        })
    }

    /// `line` is where the document stands in the input.
    fn push(&mut self, line: usize, mut document: Document) -> Result<()> {
        if let Some(first) = self.lines_by_id.insert(document.id.clone(), line) {
            bail!("line {line}: the id is the same as on line {first}; every id must occur once");
        }
        let mut seen = HashSet::new();
        document.labels.retain(|label| seen.insert(label.clone()));
        if document.labels.iter().any(|label| label.trim().is_empty()) {
            bail!("line {line}: a label is blank; remove it, and use an empty list for a document without labels");
        }

        let Summary { documents, labels, unlabelled, sentences, empty_texts, duplicate_texts } = &mut self.summary;
        *documents += 1;
        *unlabelled += usize::from(document.labels.is_empty());
        *sentences += document.sentences.len();
        *empty_texts += usize::from(document.text.trim().is_empty());
        *duplicate_texts += usize::from(!self.text_hashes.insert(self.hasher.hash_one(&document.text)));
        for label in &document.labels {
            *labels.entry(label.clone()).or_default() += 1;
        }
        self.writer.write(&document).with_context(|| format!("line {line}: cannot write to {}", self.path.display()))
    }

    fn finish(self) -> Result<Summary> {
        ensure!(self.summary.documents > 0, "the input holds no document");
        let finish = || -> std::io::Result<()> {
            self.writer.finish()?;
            fs::rename(&self.partial.0, &self.path)
        };
        finish().with_context(|| format!("cannot write {}", self.path.display()))?;
        Ok(self.summary)
    }
}

/// A file that is being written. What is left of it when the import fails is removed.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        // After a complete import it has its final name, and there is nothing to remove.
        let _ = fs::remove_file(&self.0);
    }
}

/// Opens an input file, with a progress bar on standard error while it is read.
fn open(path: &Path) -> Result<BufReader<impl Read + use<>>> {
    let open = || -> std::io::Result<(File, fs::Metadata)> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        Ok((file, metadata))
    };
    let (file, metadata) = open().with_context(|| format!("cannot open {}", path.display()))?;
    ensure!(!metadata.is_dir(), "{} is a directory; give a file", path.display());
    let progress = ProgressBar::new(metadata.len()).with_finish(ProgressFinish::AndClear);
    Ok(BufReader::with_capacity(1 << 16, progress.wrap_read(file)))
}
