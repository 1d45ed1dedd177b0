//! `kdh-train fit`.

use anyhow::Result;
use clap::Args;
use kdh_trainer::fit::{FitOptions, fit};

use crate::Machine;
use crate::run::Run;

/// Fine-tunes an encoder with a multi-label head, and goes on by itself when a run in the same folder was killed.
///
/// The best epoch's student goes to OUT/best, its dev predictions to OUT/dev-predictions.jsonl, figures to
/// OUT/metrics.jsonl.
#[derive(Args)]
pub(crate) struct Fit {
    #[command(flatten)]
    run: Run,
    #[command(flatten)]
    options: FitOptions,
    #[command(flatten)]
    machine: Machine,
}

impl Fit {
    pub(crate) fn run(self) -> Result<()> {
        let device = self.machine.device()?;
        let data = self.run.data()?;
        let input = self.run.input(&data, "kdh-train fit", self.options.seed);
        let report = fit(&input, &self.options, &self.run.output(), device)?;
        if self.run.json {
            println!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            println!("{} epochs, {} steps; best student: {}", report.epochs, report.steps, report.student.display());
        }
        Ok(())
    }
}
