//! `kdh-fuzz`: runs the fuzz targets.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use kdh_fuzz::{Damage, Options, Progress, Report, TARGETS, Target, damage, root, run};
use serde::Serialize;

/// Gives mutated inputs to everything that reads what others wrote.
///
/// A finding is a panic in kdh's code or a check of a target that fails. Its input is written to
/// tests/fuzz/crashes/TARGET, from where every later run and the tests take it: fix the cause and commit the file.
///
/// Exit code 0: nothing found; 1: something was; 2: bad usage.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the targets
    List,
    Run(RunArgs),
    Damage(DamageArgs),
}

/// Run targets on mutated inputs
///
/// The same seed and number of threads give the same inputs. Prints inputs, executions a second, how many inputs the
/// reader took, its different answers, and the slowest input.
#[derive(clap::Args)]
struct RunArgs {
    /// Target, several times for several; without it all
    #[arg(long)]
    target: Vec<String>,
    /// Inputs for each target
    #[arg(long, default_value_t = 1_000_000)]
    iterations: u64,
    /// Threads
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Folder for the input at hand of each thread: what to look at when the whole process dies
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Folder for the slowest input of each target
    #[arg(long)]
    slowest: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Open a bundle with flipped bits and cut ends
///
/// Every one must be refused.
#[derive(clap::Args)]
struct DamageArgs {
    /// Bundle
    bundle: PathBuf,
    /// Flip this many random bits and cut at as many random places; without it every bit and every place
    #[arg(long)]
    random: Option<u64>,
    /// Seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::List => {
            TARGETS.iter().for_each(|target| println!("{:16} {}", target.name, target.about));
            Ok(true)
        }
        Command::Run(args) => run_targets(&args),
        Command::Damage(args) => run_damage(&args),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

#[derive(Serialize)]
struct Line {
    target: &'static str,
    inputs: u64,
    executions_per_second: f64,
    accepted: u64,
    outcomes: usize,
    slowest_ms: f64,
    findings: Vec<String>,
}

fn run_targets(args: &RunArgs) -> anyhow::Result<bool> {
    let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    if let Some(unknown) = args.target.iter().find(|name| !names.contains(&name.as_str())) {
        bail!("there is no target `{unknown}`; take one of {}", names.join(", "));
    }
    let chosen = TARGETS.iter().filter(|target| args.target.is_empty() || args.target.iter().any(|n| n == target.name));
    let options =
        Options { iterations: args.iterations, threads: args.threads, seed: args.seed, trace: args.trace.clone() };
    for folder in args.trace.iter().chain(&args.slowest) {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    let mut lines = Vec::new();
    for target in chosen {
        let report = with_bar(target, &options)?;
        if let Some(folder) = &args.slowest {
            std::fs::write(folder.join(target.name), &report.slowest_input)?;
        }
        for (number, finding) in report.findings.iter().enumerate() {
            let path = save(target, number, &finding.input)?;
            eprintln!("{}: {}\n  {}", target.name, finding.place, path.display());
        }
        let line = Line {
            target: target.name,
            inputs: report.inputs,
            executions_per_second: (report.inputs as f64 / report.elapsed.as_secs_f64()).round(),
            accepted: report.accepted,
            outcomes: report.outcomes,
            slowest_ms: (report.slowest.as_secs_f64() * 1e6).round() / 1e3,
            findings: report.findings.into_iter().map(|finding| finding.place).collect(),
        };
        if !args.json {
            let Line { target, inputs, executions_per_second, accepted, outcomes, slowest_ms, findings } = &line;
            println!(
                "{target:16} {inputs:>10} inputs, {executions_per_second:>8}/s, {accepted:>9} taken, {outcomes:>5} \
                 outcomes, slowest {slowest_ms} ms, {} findings",
                findings.len()
            );
        }
        lines.push(line);
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&lines)?);
    } else {
        println!("{} inputs in total", lines.iter().map(|line| line.inputs).sum::<u64>());
    }
    Ok(lines.iter().all(|line| line.findings.is_empty()))
}

fn with_bar(target: &Target, options: &Options) -> anyhow::Result<Report> {
    let bar = bar(options.iterations, target.name);
    let progress = Progress::default();
    let done = std::sync::atomic::AtomicBool::new(false);
    let report = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                bar.set_position(progress.inputs());
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let report = run(target, options, &progress);
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        report
    });
    bar.finish_and_clear();
    report.with_context(|| format!("target {}", target.name))
}

fn bar(length: u64, name: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:16} {bar:30} {human_pos}/{human_len} ({per_sec})");
    let bar = ProgressBar::new(length).with_prefix(name.to_owned());
    style.map(|style| bar.clone().with_style(style)).unwrap_or(bar)
}

fn save(target: &Target, number: usize, input: &[u8]) -> anyhow::Result<PathBuf> {
    let folder = root().join("tests/fuzz/crashes").join(target.name);
    std::fs::create_dir_all(&folder)?;
    let mut name = number;
    while folder.join(format!("finding-{name}")).exists() {
        name += 1;
    }
    let path = folder.join(format!("finding-{name}"));
    std::fs::write(&path, input)?;
    Ok(path)
}

fn run_damage(args: &DamageArgs) -> anyhow::Result<bool> {
    let bytes = std::fs::read(&args.bundle).with_context(|| Path::display(&args.bundle).to_string())?;
    let (kind, times) = match args.random {
        Some(times) => (Damage::Random(times), 2 * times),
        None => (Damage::Everywhere, 9 * bytes.len() as u64),
    };
    let bar = bar(times, "damage");
    let counts = damage(&bytes, kind, args.seed, || bar.inc(1));
    bar.finish_and_clear();
    println!("{} refused, {} taken, {} panics", counts.refused, counts.taken, counts.panicked);
    Ok(counts.taken == 0 && counts.panicked == 0)
}
