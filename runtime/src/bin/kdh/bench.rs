//! `kdh bench`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use core_affinity::CoreId;
use indicatif::{ProgressBar, ProgressStyle};
use kdh_runtime::benchmark::{self, Sorted, Timing};
use kdh_runtime::{BundleFile, LabelError, Labeler, LabelerOptions, Scratch, dataset};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::inspect::Memory;
use crate::source::{self, BundleArgs, EngineArgs, EngineReport};
use crate::verify::hex;
use crate::{ALLOCATOR, Outcome, print, print_json};
use machine::{Machine, State};

mod machine;
mod page;

/// Measure how fast this machine labels texts
///
/// Run it on the device that will do the work, with nothing else running on it. Each text is labelled again and again, one
/// of each length in turn, and the time of its parts is taken apart: `tokenize` (words to tokens, sentences), `encoder`
/// (the model), `total` (from text to report).
///
/// p99 is the time that 99 of 100 texts do not exceed. p99.9 needs 10,000 texts and is left out with fewer: raise
/// --duration or --iterations. Give --deadline-ms the time that your device allows: texts that took longer are counted, and
/// the exit code is 1 when there is one.
///
/// What makes figures steady: --pin (the operating system does not move the work to another core), the governor
/// `performance`, a warm-up, and enough cooling; the result says what of it the machine shows. Times under an emulator say
/// nothing of a real processor; `emulated` is true where that can be told.
///
/// Allocations are counted afterwards, each text once. Energy is that of the processor packages while texts were labelled,
/// on machines whose kernel counts it and lets you read it (often root only).
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    bundle: BundleArgs,
    /// Lengths of the texts, in tokens with the two special ones; made from the bundle's golden texts. Longer ones than the
    /// model takes are cut to what it takes
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "16,32,64,128,256,512")]
    #[arg(value_parser = clap::value_parser!(u32).range(3..))]
    tokens: Vec<u32>,
    /// Texts of your own instead, JSON Lines as for `kdh eval`; labels may be []
    #[arg(long, value_name = "FILE.jsonl", conflicts_with = "tokens")]
    texts: Option<PathBuf>,
    /// Label texts on this many threads at once, each with its own scratch
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: u32,
    /// Compute each longer text on two threads, which is sooner where a second core is free
    #[arg(long, conflicts_with = "threads")]
    second_thread: bool,
    /// Measure for this many seconds
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    duration: Duration,
    /// Measure each text this many times on each thread instead
    #[arg(long, value_name = "N", conflicts_with = "duration", value_parser = clap::value_parser!(u32).range(1..))]
    iterations: Option<u32>,
    /// Label texts for this many seconds before measuring
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    warm_up: Duration,
    #[command(flatten)]
    engine: EngineArgs,
    /// Stay on this core; with --threads and --second-thread the next threads take the cores after it
    #[arg(long, value_name = "CORE")]
    pin: Option<u32>,
    /// Longest time that a text may take, in milliseconds; exit code 1 when one took longer
    #[arg(long, value_name = "MS", value_parser = milliseconds)]
    deadline_ms: Option<f64>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    /// Write a page with histograms and time series to this file; it needs no network
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let path = args.bundle.path()?;
    // Before the process is pinned, which would leave it one core.
    let machine = Machine::read();
    let cores = cores(args)?;
    pin(cores.as_deref(), 0)?;
    let (file, labeler, load) = load(&path, args)?;
    let memory_after_load = Memory::new(&labeler);
    let shown = path.display().to_string();
    let bundle = file.verify().with_context(|| shown.clone())?;
    let manifest = bundle.manifest().with_context(|| shown.clone())?;
    let work = match &args.texts {
        Some(data) => Work::of_documents(data)?,
        None => {
            let golden = bundle.golden(&manifest).with_context(|| shown.clone())?;
            let golden: Vec<&str> = golden.cases().map(|case| case.text).collect();
            Work::of_tokens(&labeler, &args.tokens, manifest.max_tokens, &golden)?
        }
    };
    // Opened before the work, so that it is not done in vain.
    let html = match &args.html {
        Some(path) => Some((path, File::create(path).with_context(|| path.display().to_string())?)),
        None => None,
    };

    let core = args.pin.map_or(0, |core| core as usize);
    let before = State::read(core);
    let measured = measure(&labeler, &work, args, cores.as_deref())?;
    let after = State::read(core);
    let memory = Memory::new(&labeler);
    let allocations = count_allocations(&labeler, &work, args, cores.as_deref())?;

    let second_thread_bytes = if args.second_thread { labeler.engine().memory_required_of_second_thread() } else { 0 };
    let throttled = before.throttled(&after);
    let joules = before.joules(&after);
    let texts = measured.samples.len() as f64;
    let overall = Statistics::new(measured.samples.iter(), args.deadline_ms, &allocations, 0..work.texts.len());
    let mut absent = BTreeMap::new();
    let mut known = |field: &'static str, known: bool, reason: &'static str| {
        if !known {
            absent.insert(field, reason);
        }
    };
    known("governor", after.governor.is_some(), "the machine shows no cpufreq");
    known("frequency_mhz", after.frequency_mhz.is_some(), "the machine shows no frequency");
    known("temperature_c", after.temperature_c.is_some(), "the machine shows no sensor");
    known("throttled", throttled.is_some(), "the machine does not count throttling");
    known("energy_joules_per_text", joules.is_some(), "no readable counter in /sys/class/powercap");
    known("peak_resident_bytes", memory.peak_resident_bytes.is_some(), "no /proc/self/status");
    let by_tokens = work.tokens.iter().enumerate().map(|(text, &tokens)| ByTokens {
        tokens,
        statistics: Statistics::new(
            measured.samples.iter().filter(|sample| sample.text == text),
            args.deadline_ms,
            &allocations,
            text..text + 1,
        ),
    });
    let result = Result {
        kdh_version: env!("CARGO_PKG_VERSION"),
        bundle: shown.clone(),
        bundle_digest: hex(&bundle.digest()),
        model: format!("{}, version {}", manifest.name, manifest.model_version),
        max_tokens: manifest.max_tokens,
        engine: EngineReport::new(&labeler),
        machine,
        governor: after.governor.clone(),
        frequency_mhz_before: before.frequency_mhz,
        frequency_mhz_after: after.frequency_mhz,
        temperature_c_before: before.temperature_c,
        temperature_c_after: after.temperature_c,
        throttled,
        threads: args.threads,
        second_thread: args.second_thread,
        pinned_to_core: args.pin,
        warm_up_s: args.warm_up.as_secs_f64(),
        measured_s: measured.wall.as_secs_f64(),
        deadline_ms: args.deadline_ms,
        load,
        scratch_bytes: memory.scratch_bytes + second_thread_bytes,
        resident_bytes_after_load: memory_after_load.resident_bytes,
        peak_resident_bytes: memory.peak_resident_bytes,
        texts_per_second: texts / measured.wall.as_secs_f64(),
        energy_joules_per_text: joules.map(|joules| joules / texts),
        statistics: overall,
        by_tokens: by_tokens.collect(),
        absent,
    };
    if let Some((path, mut file)) = html {
        let page = page::page(&result, &table(&result), &measured.samples);
        file.write_all(page.as_bytes()).with_context(|| path.display().to_string())?;
    }
    if args.json {
        print_json(&result)?
    } else {
        print(&table(&result))?
    }
    let missed = result.statistics.deadline_misses.is_some_and(|misses| misses > 0);
    Ok(if missed { Outcome::CheckFailed } else { Outcome::Done })
}

/// Samples kept in memory at most, 40 bytes each: a measurement ends there.
const MAX_SAMPLES: usize = 1 << 20;

/// Fewer texts say nothing of the slowest of 1,000.
const MIN_SAMPLES_P99_9: usize = 10_000;

#[derive(Serialize)]
struct Result<'a> {
    kdh_version: &'static str,
    bundle: String,
    bundle_digest: String,
    model: String,
    max_tokens: u32,
    engine: EngineReport<'a>,
    #[serde(flatten)]
    machine: Machine,
    #[serde(skip_serializing_if = "Option::is_none")]
    governor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frequency_mhz_before: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frequency_mhz_after: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature_c_before: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature_c_after: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    throttled: Option<bool>,
    threads: u32,
    /// Whether two threads share each longer text.
    second_thread: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pinned_to_core: Option<u32>,
    warm_up_s: f64,
    measured_s: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline_ms: Option<f64>,
    #[serde(flatten)]
    load: Load,
    /// Of one text at a time.
    scratch_bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    resident_bytes_after_load: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_resident_bytes: Option<u64>,
    texts_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    energy_joules_per_text: Option<f64>,
    /// Over all texts, whatever their length.
    #[serde(flatten)]
    statistics: Statistics,
    /// Of each length.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    by_tokens: Vec<ByTokens>,
    /// Why a figure is not there.
    absent: BTreeMap<&'static str, &'static str>,
}

#[derive(Serialize)]
struct ByTokens {
    tokens: u32,
    #[serde(flatten)]
    statistics: Statistics,
}

#[derive(Serialize)]
struct Load {
    load_open_ms: f64,
    load_verify_ms: f64,
    load_build_ms: f64,
    load_total_ms: f64,
}

/// Opens, verifies and builds. Building verifies once more; that is taken off.
fn load(path: &Path, args: &Args) -> anyhow::Result<(Arc<BundleFile>, Labeler, Load)> {
    let shown = || path.display().to_string();
    let timed_verify = |file: &BundleFile| {
        let start = Instant::now();
        file.verify().map(|_| start.elapsed())
    };
    let start = Instant::now();
    let file = Arc::new(source::open(path)?);
    let open = start.elapsed();
    let verify = timed_verify(&file).with_context(shown)?;
    let again = timed_verify(&file).with_context(shown)?;
    let start = Instant::now();
    let labeler = args.engine.labeler_of(&file, LabelerOptions::new()).with_context(shown)?;
    let build = start.elapsed().saturating_sub(again);
    let load = Load {
        load_open_ms: ms(open),
        load_verify_ms: ms(verify),
        load_build_ms: ms(build),
        load_total_ms: ms(open + verify + build),
    };
    Ok((file, labeler, load))
}

/// What is labelled.
struct Work {
    texts: Vec<String>,
    /// Of each text; empty for texts of the user's own.
    tokens: Vec<u32>,
    /// File of the texts.
    data: Option<PathBuf>,
}

impl Work {
    fn of_tokens(labeler: &Labeler, tokens: &[u32], max_tokens: u32, golden: &[&str]) -> anyhow::Result<Self> {
        let mut lengths: Vec<u32> = Vec::new();
        for &length in tokens {
            let length = length.min(max_tokens);
            if !lengths.contains(&length) {
                lengths.push(length);
            }
        }
        let text = |&length: &u32| {
            benchmark::text_of_tokens(labeler, golden.iter().copied(), length as usize)
                .ok_or_else(|| anyhow!("no text of {length} tokens can be made; give another length"))
        };
        let texts = lengths.iter().map(text).collect::<anyhow::Result<_>>()?;
        Ok(Self { texts, tokens: lengths, data: None })
    }

    fn of_documents(data: &Path) -> anyhow::Result<Self> {
        let documents = dataset::read(data).with_context(|| data.display().to_string())?;
        let texts = documents.into_iter().map(|document| document.text).collect();
        Ok(Self { texts, tokens: Vec::new(), data: Some(data.to_owned()) })
    }

    fn failed(&self, text: usize, error: LabelError) -> anyhow::Error {
        match &self.data {
            Some(data) => anyhow!("{}: line {}: {error}", data.display(), text + 1),
            None => error.into(),
        }
    }
}

/// One text labelled once.
struct Sample {
    text: usize,
    /// Seconds since the measurement began.
    at: f64,
    timing: Timing,
}

struct Measured {
    samples: Vec<Sample>,
    wall: Duration,
}

fn measure(labeler: &Labeler, work: &Work, args: &Args, cores: Option<&[CoreId]>) -> anyhow::Result<Measured> {
    let limit = MAX_SAMPLES / args.threads as usize;
    let per_thread = args.iterations.map(|iterations| iterations as usize * work.texts.len());
    if per_thread.is_some_and(|samples| samples > limit) {
        bail!("--iterations asks for more than {MAX_SAMPLES} measurements in all; ask for fewer, or give --duration");
    }
    // Hidden unless standard error is a terminal. Drawn between two measurements of the first thread.
    let progress = ProgressBar::new(per_thread.map_or(args.duration.as_millis() as u64, |samples| samples as u64));
    if let Ok(style) = ProgressStyle::with_template("measuring {wide_bar} {percent} %, {eta} left") {
        progress.set_style(style);
    }
    let (barrier, stop) = (Barrier::new(args.threads as usize), AtomicBool::new(false));
    let one_thread = |thread: u32| -> anyhow::Result<(Vec<Sample>, Duration)> {
        let warm = scratch(labeler, args, cores, thread).and_then(|scratch| warm_up(labeler, work, args, scratch));
        if warm.is_err() {
            stop.store(true, Ordering::Relaxed);
        }
        // Also after an error: the others wait.
        barrier.wait();
        let mut scratch = warm?;
        let mut samples: Vec<Sample> = Vec::with_capacity(per_thread.unwrap_or_default());
        let start = Instant::now();
        for text in (0..work.texts.len()).cycle() {
            let at = start.elapsed();
            let enough = match per_thread {
                Some(enough) => samples.len() >= enough,
                // Every length at least once.
                None => (at >= args.duration && samples.len() >= work.tokens.len()) || samples.len() >= limit,
            };
            if enough || stop.load(Ordering::Relaxed) {
                break;
            }
            if thread == 0 {
                progress.set_position(per_thread.map_or(at.as_millis() as u64, |_| samples.len() as u64));
            }
            match benchmark::time(labeler, &mut scratch, &work.texts[text]) {
                Ok(timing) => samples.push(Sample { text, at: at.as_secs_f64(), timing }),
                Err(error) => {
                    stop.store(true, Ordering::Relaxed);
                    return Err(work.failed(text, error));
                }
            }
        }
        Ok((samples, start.elapsed()))
    };
    let results = std::thread::scope(|scope| {
        let one_thread = &one_thread;
        let threads: Vec<_> = (1..args.threads).map(|thread| scope.spawn(move || one_thread(thread))).collect();
        let mut results = vec![one_thread(0)];
        let panicked = |_| Err(anyhow!("a thread has panicked"));
        results.extend(threads.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)));
        results
    });
    progress.finish_and_clear();
    let mut measured = Measured { samples: Vec::new(), wall: Duration::ZERO };
    for result in results {
        let (samples, wall) = result?;
        measured.samples.extend(samples);
        measured.wall = measured.wall.max(wall);
    }
    Ok(measured)
}

/// The scratch of a thread, which is pinned first. A second thread of its own gets the core after.
fn scratch(labeler: &Labeler, args: &Args, cores: Option<&[CoreId]>, thread: u32) -> anyhow::Result<Scratch<'static>> {
    if !args.second_thread {
        pin(cores, thread)?;
        return Ok(labeler.try_scratch()?);
    }
    // A thread inherits the core of the one that starts it.
    pin(cores, thread + 1)?;
    let scratch = labeler.try_scratch_with_second_thread()?;
    pin(cores, thread)?;
    if !scratch.has_second_thread() {
        bail!("two threads cannot share the texts of this model on this engine; leave out --second-thread");
    }
    Ok(scratch)
}

/// Labels texts, so that caches, pages and frequency are what they will be.
fn warm_up(
    labeler: &Labeler,
    work: &Work,
    args: &Args,
    mut scratch: Scratch<'static>,
) -> anyhow::Result<Scratch<'static>> {
    let start = Instant::now();
    for text in (0..work.texts.len()).cycle() {
        if start.elapsed() >= args.warm_up {
            break;
        }
        labeler.label(&mut scratch, &work.texts[text]).map_err(|error| work.failed(text, error))?;
    }
    Ok(scratch)
}

/// Allocations for each text, in steady state.
fn count_allocations(
    labeler: &Labeler,
    work: &Work,
    args: &Args,
    cores: Option<&[CoreId]>,
) -> anyhow::Result<Vec<usize>> {
    let mut scratch = scratch(labeler, args, cores, 0)?;
    let count = || {
        let stats = ALLOCATOR.stats();
        stats.allocations + stats.reallocations
    };
    let mut allocations = Vec::with_capacity(work.texts.len());
    for (index, text) in work.texts.iter().enumerate() {
        let before = count();
        labeler.label(&mut scratch, text).map_err(|error| work.failed(index, error))?;
        let counted = count() - before;
        allocations.push(counted);
    }
    Ok(allocations)
}

#[derive(Serialize)]
struct Statistics {
    samples: usize,
    /// `tokenize_p50_ms` and so on.
    #[serde(flatten)]
    times: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_9_refused: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline_misses: Option<usize>,
    allocations_per_text: f64,
}

/// The parts of a text's time.
type Part = (&'static str, fn(&Timing) -> Duration);
const PARTS: [Part; 3] =
    [("tokenize", |timing| timing.tokenize), ("encoder", |timing| timing.encoder), ("total", |timing| timing.total)];

/// Names and thousandths.
const PERCENTILES: [(&str, usize); 7] =
    [("min", 0), ("p50", 500), ("p90", 900), ("p95", 950), ("p99", 990), ("p99_9", 999), ("max", 1000)];

impl Statistics {
    /// `allocations` holds every text's, `texts` are those that the samples are of.
    fn new<'s>(
        samples: impl Iterator<Item = &'s Sample>,
        deadline_ms: Option<f64>,
        allocations: &[usize],
        texts: std::ops::Range<usize>,
    ) -> Self {
        let timings: Vec<&Timing> = samples.map(|sample| &sample.timing).collect();
        let mut times = Map::new();
        let refused = timings.len() < MIN_SAMPLES_P99_9;
        for (part, time) in PARTS {
            let sorted = Sorted::new(timings.iter().map(|timing| ms(time(timing))).collect());
            for (name, per_mille) in PERCENTILES {
                if let Some(value) = sorted.percentile(per_mille).filter(|_| name != "p99_9" || !refused) {
                    times.insert(format!("{part}_{name}_ms"), value.into());
                }
            }
            if let Some(mean) = sorted.mean() {
                times.insert(format!("{part}_mean_ms"), mean.into());
            }
        }
        let allocations = allocations.get(texts).unwrap_or_default();
        Self {
            samples: timings.len(),
            times,
            p99_9_refused: refused
                .then(|| format!("{} samples, p99.9 needs {MIN_SAMPLES_P99_9}; measure longer", timings.len())),
            deadline_misses: deadline_ms
                .map(|deadline| timings.iter().filter(|timing| ms(timing.total) > deadline).count()),
            allocations_per_text: allocations.iter().sum::<usize>() as f64 / allocations.len().max(1) as f64,
        }
    }

    fn time(&self, part: &str, percentile: &str) -> Option<f64> {
        self.times.get(&format!("{part}_{percentile}_ms"))?.as_f64()
    }
}

fn table(result: &Result<'_>) -> String {
    let mut table = String::new();
    let mut row = |name: &str, value: String| {
        let _ = writeln!(table, "{name:12} {value}");
    };
    let or_unknown =
        |value: Option<f64>, unit: &str| value.map_or("unknown".into(), |value| format!("{value:.0} {unit}"));
    row("kdh", result.kdh_version.into());
    row("bundle", format!("{} ({})", result.bundle, result.model));
    row("digest", result.bundle_digest.clone());
    row("engine", result.engine.to_string());
    let machine = &result.machine;
    row("processor", machine.cpu.clone().unwrap_or_else(|| format!("unknown ({})", machine.arch)));
    row("", machine.cpu_features.join(" "));
    if let Some(board) = &machine.board {
        row("board", board.clone());
    }
    if let Some(sign) = machine.emulation_sign {
        row("", format!("EMULATED: times say nothing of a real processor ({sign})"));
    } else if machine.virtualised {
        row("", "virtual machine: others may use the same core".into());
    }
    row("governor", result.governor.clone().unwrap_or_else(|| "unknown".into()));
    let change =
        |before, after, unit: &str| format!("{} before, {} after", or_unknown(before, unit), or_unknown(after, unit));
    row("frequency", change(result.frequency_mhz_before, result.frequency_mhz_after, "MHz"));
    row("temperature", change(result.temperature_c_before, result.temperature_c_after, "degrees C"));
    let throttled = match result.throttled {
        Some(true) => "YES: the figures are those of a machine that slowed down",
        Some(false) => "no",
        None => "unknown",
    };
    row("throttled", throttled.into());
    let Load { load_open_ms, load_verify_ms, load_build_ms, load_total_ms } = result.load;
    row(
        "load",
        format!("{load_total_ms:.1} ms: open {load_open_ms:.1}, verify {load_verify_ms:.1}, build {load_build_ms:.1}"),
    );
    let mebibytes = |bytes: Option<u64>| or_unknown(bytes.map(|bytes| bytes as f64 / f64::from(1 << 20)), "MiB");
    row(
        "memory",
        format!(
            "{} after load, {} at the peak; scratch {:.1} MiB",
            mebibytes(result.resident_bytes_after_load),
            mebibytes(result.peak_resident_bytes),
            result.scratch_bytes as f64 / f64::from(1 << 20)
        ),
    );
    let on = result.pinned_to_core.map_or(String::new(), |core| format!(", pinned from core {core} on"));
    let threads = if result.second_thread { "2 for each text".into() } else { result.threads.to_string() };
    row("threads", format!("{threads}{on}"));
    row("measured", format!("{} texts in {:.2} s", result.statistics.samples, result.measured_s));
    row("texts a second", format!("{:.1}", result.texts_per_second));
    row("allocations", format!("{:.1} a text", result.statistics.allocations_per_text));
    if let Some(joules) = result.energy_joules_per_text {
        row("energy", format!("{joules:.4} J a text"));
    }
    if let (Some(deadline), Some(misses)) = (result.deadline_ms, result.statistics.deadline_misses) {
        row("deadline", format!("{deadline} ms: {misses} of {} texts took longer", result.statistics.samples));
    }
    let _ = write!(table, "\n{:>6} {:9} {:>8}", "tokens", "ms", "texts");
    for (name, _) in PERCENTILES {
        let _ = write!(table, " {:>9}", name.replace('_', "."));
    }
    table.push('\n');
    let rows = |table: &mut String, tokens: &str, statistics: &Statistics| {
        for (part, _) in PARTS {
            let _ = write!(table, "{tokens:>6} {part:9} {:8}", statistics.samples);
            for (name, _) in PERCENTILES {
                let time = statistics.time(part, name).map_or("-".into(), |time| format!("{time:.4}"));
                let _ = write!(table, " {time:>9}");
            }
            table.push('\n');
        }
    };
    for ByTokens { tokens, statistics } in &result.by_tokens {
        rows(&mut table, &tokens.to_string(), statistics);
    }
    rows(&mut table, "all", &result.statistics);
    if let Some(reason) = &result.statistics.p99_9_refused {
        let _ = writeln!(table, "\np99.9: {reason}");
    }
    table
}

/// The core of each thread, if the user wants to pin them.
fn cores(args: &Args) -> anyhow::Result<Option<Vec<CoreId>>> {
    let Some(first) = args.pin else { return Ok(None) };
    let allowed = core_affinity::get_core_ids().unwrap_or_default();
    let core = |thread: u32| {
        let id = first.saturating_add(thread) as usize;
        allowed.iter().copied().find(|core| core.id == id).ok_or_else(|| {
            let allowed: Vec<String> = allowed.iter().map(|core| core.id.to_string()).collect();
            anyhow!("this process cannot run on core {id}, but on {}; give another --pin", allowed.join(", "))
        })
    };
    (0..args.threads + u32::from(args.second_thread)).map(core).collect::<anyhow::Result<_>>().map(Some)
}

/// Keeps the calling thread on the core of a thread.
fn pin(cores: Option<&[CoreId]>, thread: u32) -> anyhow::Result<()> {
    match cores.and_then(|cores| cores.get(thread as usize)) {
        Some(&core) if !core_affinity::set_for_current(core) => {
            bail!("the system does not let this process stay on core {}; leave --pin out", core.id)
        }
        _ => Ok(()),
    }
}

/// At most a week.
fn seconds(text: &str) -> std::result::Result<Duration, &'static str> {
    let seconds: f64 = text.parse().map_err(|_| "give a number of seconds")?;
    if !(0.0..=604_800.0).contains(&seconds) {
        return Err("give a number of seconds from 0 to 604800");
    }
    Ok(Duration::from_secs_f64(seconds))
}

fn milliseconds(text: &str) -> std::result::Result<f64, &'static str> {
    text.parse().ok().filter(|ms: &f64| ms.is_finite() && *ms > 0.0).ok_or("give a number of milliseconds above 0")
}

fn ms(duration: Duration) -> f64 {
    duration.as_nanos() as f64 / 1e6
}
