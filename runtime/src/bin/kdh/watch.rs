//! `kdh watch`.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};
use kdh_runtime::LabelerOptions;
use kdh_runtime::audit::AuditLog;
use serde::Serialize;

use crate::Outcome;
use crate::audit::{self, AuditArgs};
use crate::label::JsonReport;
use crate::source::{self, BundleArgs, EngineArgs};
use crate::texts::{TextArgs, TextLabeler};
use crate::verify::hex;

/// Label the files that arrive in a folder
///
/// For a box that receives texts as files. Every file NAME of IN gets a result OUT/NAME.json: what `kdh label --json` says of
/// it, or {"error": ...}, with the bundle's digest and the program's version. Results appear whole (they are renamed into
/// place), and hold byte ranges, never text.
///
/// A file is taken when it is complete: its size and time have not changed for --settle seconds. Write under a name that
/// begins with a full stop or ends with .part or .tmp, and rename, to be safe whatever the speed. Files keep their place
/// unless --delete is given. A result has the time of its file: that is how a later run knows what is done, and a file that
/// is written again is labelled again. Give another bundle another OUT. One text is labelled at a time, and a look into the
/// folder costs time for every file in it: use --delete, or take files away that are done.
///
/// Runs until it is stopped. It may be killed at any time.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder that receives texts, UTF-8; folders in it are left alone
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// Folder for results
    #[arg(value_name = "OUT")]
    output: PathBuf,
    #[command(flatten)]
    bundle: BundleArgs,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    texts: TextArgs,
    #[command(flatten)]
    audit: AuditArgs,
    /// Seconds between two looks into the folder
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    interval: Duration,
    /// Seconds for which a file must not have changed
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    settle: Duration,
    /// Delete a file when its result is stored; one with an error stays
    #[arg(long)]
    delete: bool,
    /// Stop when every file has its result; exit code 1 if one of this run is an error
    #[arg(long)]
    once: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let path = args.bundle.path()?;
    for folder in [&args.input, &args.output] {
        if !fs::metadata(folder).with_context(|| folder.display().to_string())?.is_dir() {
            bail!("{}: this is no folder", folder.display());
        }
    }
    if fs::canonicalize(&args.input)? == fs::canonicalize(&args.output)? {
        bail!("the results need a folder of their own");
    }
    let lock = File::create(args.output.join(LOCK)).with_context(|| args.output.display().to_string())?;
    lock.try_lock().with_context(|| format!("another `kdh watch` writes to {}", args.output.display()))?;
    let labeler = args.engine.labeler(&path, args.texts.options(LabelerOptions::new()))?;
    let mut log = args.audit.open_beside(&[&args.input, &args.output])?;
    let mut texts = TextLabeler::new(&labeler, &args.texts);
    let bundle = hex(&labeler.bundle_digest());
    let mut arrivals = Arrivals::default();
    let progress = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
        progress.set_style(style);
    }
    let (mut done, mut errors, mut failed) = (0_u64, 0_u64, false);
    loop {
        let mut look = arrivals.look(args).with_context(|| args.input.display().to_string())?;
        for arrival in look.complete.drain(..) {
            // Names of files may name patients, so messages do not.
            match handle(args, &arrival, &mut texts, log.as_mut(), &bundle) {
                Ok(Handled::Labelled) => done += 1,
                Ok(Handled::Error) => errors += 1,
                Ok(Handled::Changed) => {
                    look.waiting = true;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Unsupported => return Err(error.into()),
                Err(error) => {
                    if !failed {
                        let _ = writeln!(io::stderr(), "a result cannot be stored, will try again: {error}");
                    }
                    failed = true;
                    continue;
                }
            }
            failed = false;
            progress.set_message(format!("{done} texts labelled, {errors} errors"));
            progress.tick();
        }
        if args.once && !look.waiting && !failed {
            break;
        }
        std::thread::sleep(args.interval);
    }
    progress.finish_and_clear();
    let _ = writeln!(io::stderr(), "{done} texts labelled, {errors} errors");
    Ok(if errors == 0 { Outcome::Done } else { Outcome::CheckFailed })
}

const LOCK: &str = ".kdh-watch.lock";
/// Where a result is written before it is renamed: one name, so that a killed run leaves one file that the next overwrites.
const TEMPORARY: &str = ".kdh-watch.tmp";

/// Most files that one look into the folder takes note of; the others wait for the next.
const MOST: usize = 4096;

/// Files without result, with their stamp and since when that holds.
#[derive(Default)]
struct Arrivals(HashMap<OsString, (Stamp, Instant)>);

/// A file changes when these do.
type Stamp = (u64, SystemTime);

struct Arrival {
    name: OsString,
    stamp: Stamp,
}

struct Look {
    /// The oldest first.
    complete: Vec<Arrival>,
    /// Whether there are files that are not complete, or more than one look takes.
    waiting: bool,
}

impl Arrivals {
    fn look(&mut self, args: &Args) -> io::Result<Look> {
        let now = Instant::now();
        let mut seen = HashMap::new();
        let mut look = Look { complete: Vec::new(), waiting: false };
        for entry in fs::read_dir(&args.input)? {
            let entry = entry?;
            let name = entry.file_name();
            if is_temporary(&name) {
                continue;
            }
            // It may have been taken away meanwhile.
            let Ok(metadata) = entry.metadata() else { continue };
            if !metadata.is_file() {
                continue;
            }
            let stamp = stamp(&metadata)?;
            if fs::metadata(result_path(args, &name)).and_then(|result| result.modified()).ok() == Some(stamp.1) {
                continue;
            }
            if seen.len() == MOST {
                look.waiting = true;
                break;
            }
            let since = match self.0.get(&name) {
                Some((before, since)) if *before == stamp => *since,
                _ => now,
            };
            if now.duration_since(since) >= args.settle {
                look.complete.push(Arrival { name: name.clone(), stamp });
            } else {
                look.waiting = true;
            }
            seen.insert(name, (stamp, since));
        }
        self.0 = seen;
        look.complete.sort_by(|a, b| (a.stamp.1, &a.name).cmp(&(b.stamp.1, &b.name)));
        Ok(look)
    }
}

enum Handled {
    Labelled,
    /// The text cannot be labelled, and its result says so.
    Error,
    /// The file changed while it was read: it is not complete.
    Changed,
}

fn handle(
    args: &Args,
    arrival: &Arrival,
    texts: &mut TextLabeler<'_>,
    log: Option<&mut AuditLog>,
    bundle: &str,
) -> io::Result<Handled> {
    let path = args.input.join(&arrival.name);
    let (labelled, entry) = audit::timed(texts.labeler(), || {
        // The context holds the file's name.
        let text =
            source::read_text(&path, args.texts.max_bytes()).map_err(|error| anyhow!("{}", error.root_cause()))?;
        Ok(texts.label(&text)?)
    });
    match fs::symlink_metadata(&path).and_then(|metadata| stamp(&metadata)) {
        Ok(stamp) if stamp == arrival.stamp => {}
        _ => return Ok(Handled::Changed),
    }
    // A result never is without its record; one that cannot be stored is recorded each time that is tried.
    if let Some(log) = log {
        log.append(&entry).and_then(|()| log.sync()).map_err(io::Error::other)?;
    }
    let (report, error) = match &labelled {
        Ok(labelled) => (Some(JsonReport::new(labelled)), None),
        Err(error) => (None, Some(error.to_string())),
    };
    let result = JsonFile { kdh_version: env!("CARGO_PKG_VERSION"), bundle, error, report };
    store(args, arrival, &(serde_json::to_string_pretty(&result)? + "\n"))?;
    let labelled = labelled.is_ok();
    if labelled && args.delete {
        fs::remove_file(&path)?;
    }
    Ok(if labelled { Handled::Labelled } else { Handled::Error })
}

/// A result.
#[derive(Serialize)]
struct JsonFile<'r> {
    kdh_version: &'static str,
    bundle: &'r str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(flatten)]
    report: Option<JsonReport<'r>>,
}

/// Writes the result beside its place, with the time of the file that it is of, and renames it.
fn store(args: &Args, arrival: &Arrival, result: &str) -> io::Result<()> {
    let temporary = args.output.join(TEMPORARY);
    let mut file = File::create(&temporary)?;
    file.write_all(result.as_bytes())?;
    file.set_modified(arrival.stamp.1)?;
    file.sync_all()?;
    if file.metadata()?.modified()? != arrival.stamp.1 {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the folder for results does not keep times as exactly as the other; use one on the same file system",
        ));
    }
    fs::rename(&temporary, result_path(args, &arrival.name))?;
    // The new name survives a loss of power when the folder is stored, too.
    #[cfg(unix)]
    File::open(&args.output)?.sync_all()?;
    Ok(())
}

fn stamp(metadata: &Metadata) -> io::Result<Stamp> {
    Ok((metadata.len(), metadata.modified()?))
}

fn result_path(args: &Args, name: &OsStr) -> PathBuf {
    let mut name = name.to_owned();
    name.push(".json");
    args.output.join(name)
}

fn is_temporary(name: &OsStr) -> bool {
    let bytes = name.as_encoded_bytes();
    let extension = Path::new(name).extension();
    bytes.starts_with(b".") || extension.is_some_and(|extension| extension == "part" || extension == "tmp")
}

/// At most a day.
fn seconds(text: &str) -> Result<Duration, &'static str> {
    let seconds: f64 = text.parse().map_err(|_| "give a number of seconds")?;
    if !(0.0..=86_400.0).contains(&seconds) {
        return Err("give a number of seconds from 0 to 86400");
    }
    Ok(Duration::from_secs_f64(seconds))
}
