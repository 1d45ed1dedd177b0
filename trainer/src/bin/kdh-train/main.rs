//! `kdh-train`: import data, fetch weights, fine-tune, distil, evaluate, choose thresholds.

use std::os::unix::process::CommandExt;
use std::process::{Command as Process, ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The standard library's panics when the reader of a pipe has gone.
macro_rules! println {
    ($($arguments:tt)*) => {
        kdh_runtime::output::print_line(format_args!($($arguments)*))
    };
}

mod average;
mod baseline;
mod distill;
mod eval;
mod experiment;
mod fit;
mod predict;
mod pso;
mod run;
mod thresholds;
mod weights;

/// Trains multi-label text classifiers for kdh boxes.
///
/// The usual way: `import` a corpus, `weights fetch` pretrained weights, `fit` a teacher, `distill` a student, choose its `thresholds`,
/// `eval` it, and hand the student folder to `kdh-export pack`.
///
/// Results go to standard output, diagnostics and progress to standard error. Exit codes: 0 done; 1 training diverged,
/// or some cells of an experiment failed; 2 bad usage or bad input.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bring a corpus into JSON Lines.
    #[command(subcommand)]
    Import(kdh_trainer::import::ImportCommand),
    /// Prepare pretrained weights.
    #[command(subcommand)]
    Weights(weights::WeightsCommand),
    /// Fit and score the linear baseline.
    Baseline(baseline::Baseline),
    /// Fine-tune an encoder with a multi-label head.
    Fit(Box<fit::Fit>),
    /// Distil one teacher or several into a student.
    Distill(Box<distill::Distill>),
    /// Make one student of several: the mean of their weights.
    Average(average::Average),
    #[command(subcommand)]
    Pso(pso::PsoCommand),
    #[command(subcommand)]
    Experiment(experiment::ExperimentCommand),
    /// Write a model's logits for any texts, to teach students with.
    Predict(predict::Predict),
    /// Score a student on labelled data.
    Eval(eval::Eval),
    /// Choose the labels' thresholds from predictions on data that the student was not trained on.
    Thresholds(thresholds::Thresholds),
}

fn main() -> ExitCode {
    keep_freed_memory();
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            let trained = error.is::<kdh_trainer::fit::Diverged>() || error.is::<experiment::Incomplete>();
            ExitCode::from(if trained { 1 } else { 2 })
        }
    }
}

/// Starts the program anew with an allocator that keeps freed memory.
///
/// glibc gives every large block back to the kernel and has it zeroed again for the next tensor of the same size: more than a
/// tenth of a training's time. It reads these settings only when a process starts.
fn keep_freed_memory() {
    const SETTINGS: [&str; 2] = ["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"];
    const BYTES: &str = "17179869184";
    if SETTINGS.iter().any(|name| std::env::var_os(name).is_some()) {
        return;
    }
    if let Ok(program) = std::env::current_exe() {
        let settings = SETTINGS.map(|name| (name, BYTES));
        // Comes back only when it fails, and then all goes on as it is.
        let _ = Process::new(program).args(std::env::args_os().skip(1)).envs(settings).exec();
    }
}

fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Import(command) => command.run(),
        Command::Weights(command) => command.run(),
        Command::Baseline(command) => command.run(),
        Command::Fit(command) => command.run(),
        Command::Distill(command) => command.run(),
        Command::Average(command) => command.run(),
        Command::Pso(command) => command.run(),
        Command::Experiment(command) => command.run(),
        Command::Predict(command) => command.run(),
        Command::Eval(command) => command.run(),
        Command::Thresholds(command) => command.run(),
    }
}

/// Where tensors live and how many threads work on them.
#[derive(clap::Args)]
struct Machine {
    /// Threads of one tensor operation; the number of cores when not given.
    #[arg(long)]
    threads: Option<i32>,
    /// Device: cuda when libtorch has it and a GPU is there, else cpu.
    #[arg(long, value_enum, default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum DeviceChoice {
    Auto,
    Cpu,
    Cuda,
}

impl Machine {
    fn device(&self) -> Result<tch::Device> {
        if let Some(threads) = self.threads {
            anyhow::ensure!((1..=1024).contains(&threads), "--threads must be 1 to 1024");
            tch::set_num_threads(threads);
        }
        let cuda = tch::Cuda::is_available();
        match self.device {
            DeviceChoice::Cpu => Ok(tch::Device::Cpu),
            DeviceChoice::Auto => Ok(if cuda { tch::Device::Cuda(0) } else { tch::Device::Cpu }),
            DeviceChoice::Cuda if cuda => Ok(tch::Device::Cuda(0)),
            DeviceChoice::Cuda => anyhow::bail!(
                "no CUDA device: point LIBTORCH at a libtorch with CUDA, build again, and check the driver"
            ),
        }
    }
}
