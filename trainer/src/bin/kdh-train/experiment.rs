//! `kdh-train experiment`.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use kdh_trainer::experiment::{ExperimentFile, Plan, ResultFile, RunOptions, analyse, html, run};

use crate::Machine;

/// Compare arms (a teacher, students, baselines, ablations) on the same documents, with statistics and a report.
#[derive(Subcommand)]
pub(crate) enum ExperimentCommand {
    Run(RunExperiment),
    Report(Report),
}

/// Trains and scores every arm that a TOML file names, and writes OUT/result.json and OUT/report.html.
///
/// Everything that does not fit is refused before anything is trained. A killed run goes on when the same command is
/// given again; what is done is not done again, and what failed is tried again.
///
/// Exit codes: 0 every cell is done; 1 some failed, and the report shows the others; 2 nothing was trained.
#[derive(Args)]
pub(crate) struct RunExperiment {
    /// TOML file of the experiment; experiments/hoc.toml is an example.
    file: PathBuf,
    /// Folder of cells, result and report.
    #[arg(long, short)]
    out: PathBuf,
    /// Commit of this program, for the report.
    #[arg(long, default_value = "")]
    commit: String,
    /// Only check everything and show what would run.
    #[arg(long)]
    dry_run: bool,
    /// Print OUT/result.json instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: Machine,
}

/// Makes OUT/report.html again, from OUT/result.json and OUT/seconds.json. Nothing is trained.
#[derive(Args)]
pub(crate) struct Report {
    /// Folder of the experiment.
    out: PathBuf,
}

/// Some cells failed.
#[derive(Debug)]
pub(crate) struct Incomplete {
    failed: usize,
    cells: usize,
}

impl fmt::Display for Incomplete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} cells failed; the same command tries them again", self.failed, self.cells)
    }
}

impl std::error::Error for Incomplete {}

impl ExperimentCommand {
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::Run(command) => command.run(),
            Self::Report(command) => report(&command.out).map(|path| println!("{}", path.display())),
        }
    }
}

impl RunExperiment {
    fn run(self) -> Result<()> {
        let device = self.machine.device()?;
        let plan = Plan::new(ExperimentFile::read(&self.file)?)?;
        for data in plan.data() {
            let fold = data.folds.first();
            eprintln!(
                "{}: {} documents, {} labels, {} folds of about {} train, {} inner, {} scored; {} leaks",
                data.name,
                data.documents,
                data.labels.len(),
                data.folds.len(),
                fold.map_or(0, |fold| fold.train),
                fold.map_or(0, |fold| fold.inner),
                fold.map_or(0, |fold| fold.scored),
                data.leaks.len()
            );
            for leak in &data.leaks {
                eprintln!(
                    "  fold {}: {} {} is like {} ({:.3})",
                    leak.fold, leak.kind, leak.scored, leak.train, leak.similarity
                );
            }
        }
        for name in plan.left_out() {
            eprintln!("left out, its files are missing: {name}");
        }
        if self.dry_run {
            println!("{} cells", plan.cells());
            return Ok(());
        }
        let options = RunOptions { progress_bar: std::io::stderr().is_terminal(), device };
        let summary = run(&plan, &self.out, options)?;
        let result = analyse(&plan, &summary, &self.out, &self.commit)?;
        let text = serde_json::to_string_pretty(&result)?;
        write(&self.out.join(RESULT), &text)?;
        write(&self.out.join(SECONDS), &serde_json::to_string_pretty(&summary.seconds)?)?;
        let page = report(&self.out)?;
        if self.json {
            println!("{text}");
        } else {
            print!("{}", table(&result));
            println!("{} cells, {} of them from before; {}", summary.cells.len(), summary.reused, page.display());
        }
        if summary.failed > 0 {
            return Err(Incomplete { failed: summary.failed, cells: summary.cells.len() }.into());
        }
        Ok(())
    }
}

const RESULT: &str = "result.json";
const SECONDS: &str = "seconds.json";

fn report(out: &Path) -> Result<PathBuf> {
    let path = out.join(RESULT);
    let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let result: ResultFile = serde_json::from_slice(&bytes)
        .with_context(|| format!("{} is not a result of an experiment", path.display()))?;
    // Without it the report has no times.
    let seconds: BTreeMap<String, f64> =
        fs::read(out.join(SECONDS)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let page = out.join("report.html");
    write(&page, &html(&result, &seconds)?)?;
    Ok(page)
}

fn write(path: &Path, text: &str) -> Result<()> {
    let draft = path.with_extension("draft");
    fs::write(&draft, text)
        .and_then(|()| fs::rename(&draft, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn table(result: &ResultFile) -> String {
    let mut text = format!(
        "{:<16} {:<24} {:>8}  {:<16} {:>8}  difference to {}\n",
        "data",
        "arm",
        "micro-F1",
        "interval",
        "macro-F1",
        result.experiment.reference()
    );
    for arm in &result.arms {
        let comparison = result.comparisons.iter().find(|own| own.data == arm.data && own.arm == arm.arm);
        let difference = comparison.map_or(String::new(), |own| {
            format!("{:+.4} [{:+.4}, {:+.4}]", own.micro_f1.estimate, own.micro_f1.low, own.micro_f1.high)
        });
        text += &format!(
            "{:<16} {:<24} {:>8.4}  [{:.4}, {:.4}] {:>8.4}  {difference}\n",
            arm.data, arm.arm, arm.micro_f1.estimate, arm.micro_f1.low, arm.micro_f1.high, arm.macro_f1.estimate
        );
    }
    text
}
