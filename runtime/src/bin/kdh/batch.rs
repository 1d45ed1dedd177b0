//! `kdh label --jsonl`.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use anyhow::{Context, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};
use kdh_runtime::Labeler;
use kdh_runtime::audit::AuditLog;
use kdh_runtime::dataset::MAX_LINE_BYTES;
use kdh_runtime::format::AuditEntry;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::label::JsonReport;
use crate::texts::{TextArgs, TextLabeler};
use crate::{Outcome, audit};

/// Labels the texts of `input` and appends a line for each to `output`, in their order. Every line says which line of the
/// input it is of, so that a killed run goes on behind the last whole line when it is started again. A line's record is in
/// the trail before the line is in the output.
pub(crate) fn run(
    labeler: &Labeler,
    bundle: &str,
    args: &TextArgs,
    threads: usize,
    mut log: Option<AuditLog>,
    [input, output]: [&Path; 2],
) -> anyhow::Result<Outcome> {
    let source = File::open(input).with_context(|| input.display().to_string())?;
    let bytes = source.metadata().with_context(|| input.display().to_string())?;
    if bytes.is_dir() {
        bail!("{}: this is a directory; give a JSON Lines file", input.display());
    }
    let (mut result, done) = resume(output, bundle).with_context(|| output.display().to_string())?;
    let progress = ProgressBar::new(bytes.len());
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes}, {msg}, {eta} left") {
        progress.set_style(style);
    }
    let mut lines = Lines { input: BufReader::new(source), line: 0 };
    let mut errors = done.errors;
    let mut first_error = None;
    thread::scope(|scope| -> anyhow::Result<()> {
        let (to_threads, from_threads): (Vec<SyncSender<Line>>, Vec<Receiver<Labelled>>) = (0..threads)
            .map(|_| {
                let (send_line, lines) = sync_channel::<Line>(QUEUE);
                let (send_result, results) = sync_channel(QUEUE);
                scope.spawn(move || {
                    let mut texts = TextLabeler::new(labeler, args);
                    for line in lines {
                        if send_result.send(line.label(&mut texts, args.max_bytes(), bundle)).is_err() {
                            break;
                        }
                    }
                });
                (send_line, results)
            })
            .unzip();
        // Lines go to the threads in turn and come back in turn: in order, with a bounded number on the way.
        let reader = scope.spawn(move || -> anyhow::Result<()> {
            let mut turn = to_threads.iter().cycle();
            while let Some(line) = lines.next()? {
                // A thread that does not take its line has lost its receiver: the writer has failed and says why.
                if line.number > done.lines && turn.next().is_some_and(|thread| thread.send(line).is_err()) {
                    break;
                }
            }
            Ok(())
        });
        for results in from_threads.iter().cycle() {
            let Ok(Labelled { number, end, text, failed, entry }) = results.recv() else { break };
            if let Some(log) = &mut log {
                log.append(&entry).context("the audit trail")?;
            }
            if failed {
                errors += 1;
                first_error = first_error.or(Some(number));
                progress.set_message(format!("{errors} bad lines"));
            }
            result.write_all(text.as_bytes()).with_context(|| output.display().to_string())?;
            progress.set_position(end);
        }
        drop(from_threads);
        reader.join().map_err(|_| anyhow!("the reader failed"))?.with_context(|| input.display().to_string())
    })?;
    if let Some(log) = &mut log {
        log.sync().context("the audit trail")?;
    }
    result.sync_all().with_context(|| output.display().to_string())?;
    progress.finish_and_clear();
    if errors == 0 {
        return Ok(Outcome::Done);
    }
    let first = first_error.map_or(String::new(), |line| format!(", the first of this run on line {line}"));
    let _ =
        writeln!(std::io::stderr(), "{errors} lines have no result but an error{first}; see \"error\" in the output");
    Ok(Outcome::CheckFailed)
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Lines that wait for a thread, and results that wait for their turn.
const QUEUE: usize = 2;

/// What an output that is there holds.
#[derive(Clone, Copy, Default)]
struct Done {
    /// The input's lines up to here have their result.
    lines: u64,
    errors: u64,
}

/// Opens the output to append to it. A last line without a line feed is cut off: it was being written when the run was killed.
fn resume(path: &Path, bundle: &str) -> anyhow::Result<(File, Done)> {
    let mut file = File::options().read(true).append(true).create(true).open(path)?;
    // Two runs would mix their lines.
    file.try_lock().context("another program writes to it; wait, or give another output")?;
    let mut done = Done::default();
    let mut whole = 0;
    let mut reader = BufReader::new(&file);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut reader).take(MAX_LINE_BYTES as u64).read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            break;
        }
        whole += read as u64;
        let foreign = || anyhow!("it holds something else than results of `kdh label --jsonl`; give another output");
        let result: Map<String, Value> = serde_json::from_slice(&line).map_err(|_| foreign())?;
        let number = result.get("line").and_then(Value::as_u64).filter(|&number| number > done.lines);
        done.lines = number.ok_or_else(foreign)?;
        if result.get("bundle").and_then(Value::as_str) != Some(bundle) {
            bail!("it holds results of another bundle; give another output");
        }
        done.errors += u64::from(result.contains_key("error"));
    }
    file.set_len(whole)?;
    file.seek(SeekFrom::End(0))?;
    Ok((file, done))
}

/// The lines of the input that are not blank.
struct Lines<R> {
    input: R,
    line: u64,
}

struct Line {
    /// Counted from 1.
    number: u64,
    /// Where it ends in the input.
    end: u64,
    /// Without its line feed; `None` when it is too long.
    bytes: Option<Vec<u8>>,
}

/// A line of the output, and which line of the input it is of.
struct Labelled {
    number: u64,
    end: u64,
    text: String,
    failed: bool,
    entry: AuditEntry,
}

impl<R: BufRead + Seek> Lines<R> {
    fn next(&mut self) -> std::io::Result<Option<Line>> {
        loop {
            let mut bytes = Vec::new();
            let limit = MAX_LINE_BYTES as u64 + 1;
            if (&mut self.input).take(limit).read_until(b'\n', &mut bytes)? == 0 {
                return Ok(None);
            }
            self.line += 1;
            let mut bytes = Some(bytes);
            if bytes.as_ref().is_some_and(|bytes| bytes.len() as u64 == limit && bytes.last() != Some(&b'\n')) {
                bytes = None;
                self.input.skip_until(b'\n')?;
            }
            // Some editors put a byte order mark before the first line.
            if let Some(bytes) = bytes.as_mut().filter(|bytes| self.line == 1 && bytes.starts_with(b"\xef\xbb\xbf")) {
                bytes.drain(..3);
            }
            if bytes.as_ref().is_none_or(|bytes| !bytes.trim_ascii().is_empty()) {
                return Ok(Some(Line { number: self.line, end: self.input.stream_position()?, bytes }));
            }
        }
    }
}

impl Line {
    /// The line of the output, which holds nothing of the text.
    fn label(&self, texts: &mut TextLabeler<'_>, max_bytes: usize, bundle: &str) -> Labelled {
        let mut id = Value::Null;
        let (labelled, entry) = audit::timed(texts.labeler(), || {
            let text = self.text(&mut id)?;
            if text.len() > max_bytes {
                bail!("the text has more than {max_bytes} bytes; split it");
            }
            Ok(texts.label(&text)?)
        });
        let (report, error) = match &labelled {
            Ok(labelled) => (Some(JsonReport::new(labelled)), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let failed = error.is_some();
        let line = JsonLine { line: self.number, id: &id, kdh_version: VERSION, bundle, error, report };
        let (text, failed) = match serde_json::to_string(&line) {
            Ok(line) => (line, failed),
            Err(_) => (json!({"line": self.number, "bundle": bundle, "error": "no JSON"}).to_string(), true),
        };
        Labelled { number: self.number, end: self.end, text: text + "\n", failed, entry }
    }

    fn text(&self, id: &mut Value) -> anyhow::Result<String> {
        let bytes = self.bytes.as_ref().ok_or_else(|| anyhow!("the line has more than {MAX_LINE_BYTES} bytes"))?;
        let line = str::from_utf8(bytes).map_err(|error| anyhow!("not UTF-8 at byte {}", error.valid_up_to()))?;
        let mut object = kdh_runtime::dataset::parse_object(line)?;
        *id = object.remove("id").filter(|id| id.is_string() || id.is_number()).unwrap_or_default();
        match object.remove("text") {
            Some(Value::String(text)) => Ok(text),
            _ => bail!("the field \"text\" is missing or not a string"),
        }
    }
}

/// A line of the output.
#[derive(Serialize)]
struct JsonLine<'l> {
    line: u64,
    id: &'l Value,
    kdh_version: &'static str,
    bundle: &'l str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(flatten)]
    report: Option<JsonReport<'l>>,
}
