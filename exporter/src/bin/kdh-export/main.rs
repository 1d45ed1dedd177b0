//! `kdh-export`: from a student folder to the bundle that the box runs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use clap::{Args, Parser, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use kdh_exporter::encode::{Spelling, TextEncoder};
use kdh_exporter::graph::{Precision, onnx};
use kdh_exporter::pack::{PackError, Packed, Release, pack, repack};
use kdh_exporter::parity::{Bounds, Parity, Refused};
use kdh_exporter::student::Student;
use kdh_exporter::vocabulary::{Pruned, prune};
use kdh_format::SectionKind;
use kdh_runtime::BundleFile;
use kdh_runtime::atomic_file::write_atomically;
use kdh_runtime::dataset::{self, Document};
use serde_json::json;

/// The standard library's panics when the reader of a pipe has gone.
macro_rules! println {
    ($($arguments:tt)*) => {
        kdh_runtime::output::print_line(format_args!($($arguments)*))
    };
}

mod keys;

/// Exports a trained student: ONNX, int8, the parity gate and the bundle.
///
/// A student folder holds config.json, model.safetensors and vocab.txt as Hugging Face lays them out, and the trainer's
/// card kdh.json. BERT, DistilBERT and MPNet encoders are read.
///
/// Results go to standard output, everything else to standard error. Exit code 0: done; 1: refused by a check; 2: bad
/// usage or bad input.
#[derive(Parser)]
#[command(version, name = "kdh-export", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write one ONNX graph, for your own tools
    ///
    /// Inputs: input_ids and sentence_ids, int64 [1, tokens]. Outputs: sentence_logits f32 [1, max_sentences, labels]
    /// and document_logits f32 [1, labels]. Operator set 17, standard operators only.
    Onnx {
        #[command(flatten)]
        student: StudentArgs,
        /// File to write
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// Number format of the linear layers and embedding tables
        #[arg(long, value_enum, default_value = "int8")]
        precision: PrecisionArg,
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what pruning the vocabulary costs on labelled texts
    ///
    /// Prints tokens a word and the share of unknown tokens before and after; writes nothing.
    Vocabulary {
        #[command(flatten)]
        student: StudentArgs,
        /// Texts to measure on, JSON Lines; best ones that --vocabulary-from does not name
        #[arg(long, value_name = "DATA.jsonl")]
        check: PathBuf,
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
    /// Compare the f32 and the int8 graph on labelled data
    ///
    /// Exit code 1 when int8 changes more than the bounds allow.
    Parity {
        #[command(flatten)]
        student: StudentArgs,
        /// Labelled documents, JSON Lines
        #[arg(value_name = "DATA.jsonl")]
        data: PathBuf,
        #[command(flatten)]
        bounds: BoundsArgs,
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
    /// Write the bundle: program, vocabulary, manifest and golden vectors
    ///
    /// Runs the parity gate first and writes nothing when int8 changes more than the bounds allow (exit code 1). The
    /// files appear whole or not at all. The program is the int8 graph, lowered for the box; the graph itself goes into
    /// a file beside the bundle, OUTPUT with the ending .onnx, or into the bundle with --embed-onnx.
    Pack {
        #[command(flatten)]
        student: StudentArgs,
        /// Labelled documents for the parity gate, JSON Lines
        #[arg(long, value_name = "DATA.jsonl")]
        data: PathBuf,
        /// Bundle to write
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// What people write of the model: version, description, intended_use, limitations, licence
        ///
        /// A JSON object of these texts and perhaps rollback_counter, a number that a later release of the same model
        /// raises when devices must not go back behind it; only version must be there. Without the file the version is 0
        /// and the rest empty.
        #[arg(long, value_name = "FILE.json")]
        release: Option<PathBuf>,
        #[command(flatten)]
        bounds: BoundsArgs,
        /// Put the int8 graph into the bundle, which doubles it
        #[arg(long)]
        embed_onnx: bool,
        /// Refuse a bundle of more bytes (exit code 1)
        #[arg(long, value_name = "BYTES")]
        max_bytes: Option<u64>,
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
    /// Lower the graph of a bundle and write the bundle anew with the program
    ///
    /// For bundles that were packed without a program, or with one of an older version. The rest stays as it is.
    Lower {
        /// Bundle to read
        #[arg(value_name = "BUNDLE")]
        bundle: PathBuf,
        /// The int8 graph, when the bundle leaves it out
        #[arg(long, value_name = "FILE.onnx")]
        onnx: Option<PathBuf>,
        /// Bundle to write
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// Keep the graph in the bundle; otherwise it goes into OUTPUT with the ending .onnx
        #[arg(long)]
        embed_onnx: bool,
    },
    Keygen(keys::KeygenArgs),
    Sign(keys::SignArgs),
}

#[derive(Args)]
struct StudentArgs {
    /// Student folder
    #[arg(value_name = "STUDENT")]
    folder: PathBuf,
    /// Prune the vocabulary to this many tokens
    ///
    /// Special tokens and single characters always stay, then the tokens of the --vocabulary-from texts by count, then
    /// the rest in the vocabulary's own order.
    #[arg(long, value_name = "TOKENS", requires = "vocabulary_from")]
    vocabulary_size: Option<usize>,
    /// Texts whose tokens stay, JSON Lines; several files separated by commas
    #[arg(long, value_name = "DATA.jsonl", value_delimiter = ',', requires = "vocabulary_size")]
    vocabulary_from: Vec<PathBuf>,
}

#[derive(Args)]
struct BoundsArgs {
    /// Largest loss of micro-F1 from f32 to int8
    #[arg(long, value_name = "F1", default_value_t = Bounds::default().micro_f1_loss)]
    max_f1_loss: f64,
    /// Largest share of decisions that int8 may change
    #[arg(long, value_name = "RATE", default_value_t = Bounds::default().flip_rate)]
    max_flip_rate: f64,
}

#[derive(Clone, Copy, ValueEnum)]
enum PrecisionArg {
    /// 32-bit floats
    F32,
    /// int8, as ARITHMETIC.md states it
    Int8,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if is_refusal(&error) { 1 } else { 2 })
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Onnx { student, output, precision, json } => write_onnx(&student, &output, precision, json),
        Command::Vocabulary { student, check, json } => show_vocabulary(&student, &check, json),
        Command::Parity { student, data, bounds, json } => measure_parity(&student, &data, &bounds, json),
        Command::Lower { bundle, onnx, output, embed_onnx } => {
            lower_bundle(&bundle, onnx.as_deref(), &output, embed_onnx)
        }
        Command::Keygen(args) => keys::keygen(&args),
        Command::Sign(args) => keys::sign(&args),
        Command::Pack { student, data, output, release, bounds, embed_onnx, max_bytes, json } => {
            let release = release.as_deref().map(read_release).transpose()?.unwrap_or_default();
            let bundle = make_bundle(&student, &data, &release, &bounds, embed_onnx, max_bytes)?;
            write_bundle(&bundle, &output, embed_onnx, json)
        }
    }
}

fn write_onnx(student: &StudentArgs, output: &Path, precision: PrecisionArg, json: bool) -> anyhow::Result<()> {
    let student = student.read()?;
    let precision = match precision {
        PrecisionArg::F32 => Precision::F32,
        PrecisionArg::Int8 => Precision::Int8,
    };
    let model = onnx(&student, precision);
    write(output, &model)?;
    if json {
        println!("{}", json!({ "file": output, "bytes": model.len() }));
    } else {
        println!("{}: {} bytes", output.display(), model.len());
    }
    Ok(())
}

fn show_vocabulary(args: &StudentArgs, check: &Path, json: bool) -> anyhow::Result<()> {
    if args.vocabulary_size.is_none() {
        return Err(anyhow!("give --vocabulary-size and --vocabulary-from: what to prune to, and for which texts"));
    }
    let documents = read_data(check)?;
    let spelling = |student: &Student| -> anyhow::Result<Spelling> {
        Ok(TextEncoder::new(student)?.spelling(documents.iter().map(|document| document.text.as_str())))
    };
    let mut student = Student::read(&args.folder)?;
    let before = spelling(&student)?;
    let Some(pruned) = args.prune(&mut student)? else { return Ok(()) };
    let after = spelling(&student)?;
    if json {
        let values = |spelling: &Spelling| {
            json!({
                "words": spelling.words, "tokens": spelling.tokens, "unknown": spelling.unknown,
                "tokens_per_word": spelling.tokens_per_word(), "unknown_rate": spelling.unknown_rate(),
            })
        };
        let (before, after) = (values(&before), values(&after));
        println!(
            "{}",
            json!({
                "vocabulary_before": pruned.from, "vocabulary_after": pruned.to, "always_kept": pruned.always,
                "seen_but_dropped": pruned.dropped_seen, "before": before, "after": after,
            })
        );
        return Ok(());
    }
    println!("             vocabulary   tokens a word   unknown tokens");
    for (name, size, spelling) in [("before", pruned.from, before), ("after", pruned.to, after)] {
        println!(
            "{name:<12} {size:>10} {:>15.4} {:>9} of {}",
            spelling.tokens_per_word(),
            spelling.unknown,
            spelling.tokens
        );
    }
    Ok(())
}

fn measure_parity(student: &StudentArgs, data: &Path, bounds: &BoundsArgs, json: bool) -> anyhow::Result<()> {
    let (student, documents) = (student.read()?, read_data(data)?);
    let bounds = bounds.bounds();
    let graphs = [Precision::F32, Precision::Int8].map(|precision| onnx(&student, precision));
    let bar = progress(documents.len());
    let parity = Parity::measure(&student, &graphs[0], &graphs[1], &documents, || bar.inc(1))
        .with_context(|| data.display().to_string())?;
    bar.finish_and_clear();
    let verdict = parity.check(&bounds);
    if json {
        let mut value = serde_json::to_value(&parity)?;
        value["accepted"] = verdict.is_ok().into();
        println!("{value}");
    } else {
        println!("{parity}");
    }
    Ok(verdict?)
}

/// A bundle that passed every check, and the size of its vocabulary.
struct Checked {
    packed: Packed,
    vocabulary: usize,
}

fn make_bundle(
    student: &StudentArgs,
    data: &Path,
    release: &Release,
    bounds: &BoundsArgs,
    embed_onnx: bool,
    max_bytes: Option<u64>,
) -> anyhow::Result<Checked> {
    let (student, documents) = (student.read()?, read_data(data)?);
    let bar = progress(documents.len());
    let packed = pack(&student, release, &documents, &bounds.bounds(), embed_onnx, || bar.inc(1))?;
    bar.finish_and_clear();
    let bytes = packed.bundle.len() as u64;
    match max_bytes {
        Some(limit) if bytes > limit => Err(TooLarge { bytes, limit }.into()),
        _ => Ok(Checked { packed, vocabulary: student.vocabulary.len() }),
    }
}

fn lower_bundle(bundle: &Path, onnx: Option<&Path>, output: &Path, embed_onnx: bool) -> anyhow::Result<()> {
    let file = BundleFile::open(bundle).with_context(|| bundle.display().to_string())?;
    let graph = onnx
        .map(|path| std::fs::read(path).with_context(|| path.display().to_string()))
        .transpose()?
        .or_else(|| file.verify().ok().and_then(|bundle| bundle.section(SectionKind::Onnx).map(<[u8]>::to_vec)));
    let bytes = repack(file.bytes(), graph.as_deref(), embed_onnx).with_context(|| bundle.display().to_string())?;
    write(output, &bytes)?;
    if let Some(graph) = graph.filter(|_| !embed_onnx) {
        write(&output.with_extension("onnx"), &graph)?;
    }
    println!("{}: {} bytes", output.display(), bytes.len());
    Ok(())
}

fn write_bundle(checked: &Checked, output: &Path, embed_onnx: bool, json: bool) -> anyhow::Result<()> {
    let Checked { packed, vocabulary } = checked;
    write(output, &packed.bundle)?;
    if !embed_onnx {
        write(&output.with_extension("onnx"), &packed.graph)?;
    }
    if json {
        let mut value = serde_json::to_value(&packed.parity)?;
        value["file"] = json!(output);
        value["bytes"] = packed.bundle.len().into();
        value["vocabulary"] = (*vocabulary).into();
        println!("{value}");
    } else {
        println!("{}", packed.parity);
        println!("vocabulary            {vocabulary} tokens");
        println!("bundle                {}: {} bytes", output.display(), packed.bundle.len());
    }
    Ok(())
}

impl StudentArgs {
    /// Reads the student and prunes its vocabulary when asked to.
    fn read(&self) -> anyhow::Result<Student> {
        let mut student = Student::read(&self.folder)?;
        if let Some(pruned) = self.prune(&mut student)? {
            eprintln!(
                "vocabulary pruned from {} to {} tokens; {} of the dropped ones occur in the given texts",
                pruned.from, pruned.to, pruned.dropped_seen
            );
        }
        Ok(student)
    }

    fn prune(&self, student: &mut Student) -> anyhow::Result<Option<Pruned>> {
        let Some(size) = self.vocabulary_size else { return Ok(None) };
        let mut documents = Vec::new();
        for path in &self.vocabulary_from {
            documents.extend(read_data(path)?);
        }
        Ok(Some(prune(student, size, documents.iter().map(|document| document.text.as_str()))?))
    }
}

impl BoundsArgs {
    fn bounds(&self) -> Bounds {
        Bounds { micro_f1_loss: self.max_f1_loss, flip_rate: self.max_flip_rate }
    }
}

/// Whether a check said no, rather than the input being bad.
fn is_refusal(error: &anyhow::Error) -> bool {
    error.is::<Refused>() || error.is::<TooLarge>() || matches!(error.downcast_ref(), Some(PackError::Refused(_)))
}

/// The bundle has more bytes than `--max-bytes`.
#[derive(Debug)]
struct TooLarge {
    bytes: u64,
    limit: u64,
}

impl std::fmt::Display for TooLarge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { bytes, limit } = self;
        write!(f, "the bundle has {bytes} bytes, more than {limit}; a smaller --vocabulary-size makes it smaller")
    }
}

impl std::error::Error for TooLarge {}

fn read_data(path: &Path) -> anyhow::Result<Vec<Document>> {
    dataset::read(path).with_context(|| path.display().to_string())
}

fn read_release(path: &Path) -> anyhow::Result<Release> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    write_atomically(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

/// A bar on standard error, hidden when that is not a terminal.
fn progress(documents: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} [{bar:40}] {pos}/{len} documents, {eta} left");
    ProgressBar::new(documents as u64)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        .with_message("parity")
}
