use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::mutate::Mutator;
use crate::panics;
use crate::targets::{Outcome, Target};

/// How long and how to run a target.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "what the command line says")]
pub struct Options {
    /// Inputs of all threads together.
    pub iterations: u64,
    /// Threads; each has mutations of its own.
    pub threads: usize,
    /// The same seed and the same number of threads give the same inputs.
    pub seed: u64,
    /// A folder to which every thread writes each input before it is run, for findings that kill the process.
    pub trace: Option<PathBuf>,
}

/// Inputs that have been run, to be read while a target runs.
#[derive(Debug, Default)]
pub struct Progress(AtomicU64);

impl Progress {
    /// Inputs so far.
    pub fn inputs(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a run has found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// Inputs run.
    pub inputs: u64,
    /// Inputs that the reader took, by its own account.
    pub accepted: u64,
    /// Different outcomes.
    pub outcomes: usize,
    /// Time of the slowest input.
    pub slowest: Duration,
    /// The slowest input.
    pub slowest_input: Vec<u8>,
    /// Time of the whole run.
    pub elapsed: Duration,
    /// What went wrong, one for each place.
    pub findings: Vec<Finding>,
}

/// An input that breaks a promise.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a place and its input")]
pub struct Finding {
    /// Where, and what was said there.
    pub place: String,
    /// The input.
    pub input: Vec<u8>,
}

/// Most inputs that a thread keeps beside the seeds.
const MAX_KEPT: usize = 4096;
/// A target is given up after so many findings.
const MAX_FINDINGS: usize = 20;

/// Runs the seeds, then mutations of them.
///
/// # Errors
///
/// When a seed cannot be read, or the trace cannot be written.
pub fn run(target: &Target, options: &Options, progress: &Progress) -> std::io::Result<Report> {
    let seeds = target.seeds()?;
    let start = Instant::now();
    let threads = options.threads.max(1) as u64;
    let given_up = AtomicBool::new(false);
    let parts = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let share = options.iterations / threads + u64::from(thread < options.iterations % threads);
                let worker = Worker { target, options, progress, given_up: &given_up, thread };
                let seeds = seeds.clone();
                // Deeply nested input must be refused, not overflow the stack; a box's threads may have little of it.
                let builder = std::thread::Builder::new().stack_size(2 << 20);
                builder.spawn_scoped(scope, move || worker.run(seeds, share))
            })
            .collect::<std::io::Result<_>>()?;
        let join = |worker: std::thread::ScopedJoinHandle<'_, std::io::Result<Part>>| {
            worker.join().unwrap_or_else(|_| Err(std::io::Error::other("a fuzzing thread panicked")))
        };
        workers.into_iter().map(join).collect::<std::io::Result<Vec<Part>>>()
    })?;
    let mut report = Report {
        inputs: 0,
        accepted: 0,
        outcomes: 0,
        slowest: Duration::ZERO,
        slowest_input: Vec::new(),
        elapsed: start.elapsed(),
        findings: Vec::new(),
    };
    let mut outcomes = HashMap::new();
    for part in parts {
        report.inputs += part.inputs;
        report.accepted += part.accepted;
        outcomes.extend(part.outcomes);
        if part.slowest > report.slowest {
            (report.slowest, report.slowest_input) = (part.slowest, part.slowest_input);
        }
        for finding in part.findings {
            if report.findings.iter().all(|known| known.place != finding.place) {
                report.findings.push(finding);
            }
        }
    }
    report.outcomes = outcomes.len();
    Ok(report)
}

struct Worker<'a> {
    target: &'a Target,
    options: &'a Options,
    progress: &'a Progress,
    given_up: &'a AtomicBool,
    thread: u64,
}

#[derive(Default)]
struct Part {
    inputs: u64,
    accepted: u64,
    outcomes: HashMap<Outcome, u32>,
    slowest: Duration,
    slowest_input: Vec<u8>,
    findings: Vec<Finding>,
}

impl Worker<'_> {
    fn run(&self, mut corpus: Vec<Vec<u8>>, iterations: u64) -> std::io::Result<Part> {
        let mut execute = self.target.start();
        let longest = corpus.iter().map(Vec::len).max().unwrap_or_default();
        let seed = self.options.seed ^ (self.thread << 48);
        let mut mutator = Mutator::new(seed, self.target.dictionary, longest + longest / 4 + 256);
        let mut part = Part::default();
        let trace = self.options.trace.as_ref().map(|folder| folder.join(format!("thread-{}", self.thread)));
        let seeds = corpus.len();
        let (mut input, mut accepted) = (Vec::new(), Vec::new());
        for iteration in 0..iterations {
            if self.given_up.load(Ordering::Relaxed) {
                break;
            }
            match corpus.get(iteration as usize).filter(|_| iteration < seeds as u64) {
                Some(seed) => input.clone_from(seed),
                None => mutator.input(&corpus, &accepted, &mut input),
            }
            if let Some(trace) = &trace {
                std::fs::write(trace, &input)?;
            }
            let start = Instant::now();
            let outcome = panics::watch(|| execute(&input));
            let elapsed = start.elapsed();
            part.inputs += 1;
            self.progress.0.fetch_add(1, Ordering::Relaxed);
            if elapsed > part.slowest {
                part.slowest = elapsed;
                part.slowest_input.clone_from(&input);
            }
            match outcome {
                Ok(outcome) => {
                    part.accepted += u64::from(outcome.accepted);
                    let times = part.outcomes.entry(outcome).or_default();
                    *times += 1;
                    // A few of each kind, so that the corpus grows towards what is rare.
                    let seed = iteration < seeds as u64;
                    let kept = !seed && *times <= 4 && corpus.len() < seeds + MAX_KEPT;
                    if kept {
                        corpus.push(input.clone());
                    }
                    if outcome.accepted && (seed || kept) {
                        accepted.push(if seed { iteration as usize } else { corpus.len() - 1 });
                    }
                }
                Err(place) => {
                    if part.findings.iter().all(|known| known.place != place) {
                        part.findings.push(Finding { place, input: input.clone() });
                    }
                    if part.findings.len() >= MAX_FINDINGS {
                        self.given_up.store(true, Ordering::Relaxed);
                    }
                    // What a panic left half done is not used again.
                    execute = self.target.start();
                }
            }
        }
        Ok(part)
    }
}
