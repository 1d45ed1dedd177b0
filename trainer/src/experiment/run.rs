//! The loop over cells: what is done is not done again, what fails does not stop the rest.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::HumanDuration;
use tch::Device;

use super::cell::{RECORD, TRAIN, run_cell, unfinished};
use super::file::ArmKind;
use super::plan::{Cell, Plan};
use super::result::CellResult;

/// How a run shows itself, and where tensors live.
#[derive(Clone, Copy, Debug)]
pub struct RunOptions {
    /// Draw a bar for each training on standard error.
    pub progress_bar: bool,
    /// Where tensors live.
    pub device: Device,
}

/// How the cells ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// One entry a cell, in the order of the plan.
    pub cells: Vec<CellResult>,
    /// Seconds of each cell by the name of its folder; of a cell that was killed and went on, those of its last part.
    pub seconds: BTreeMap<String, f64>,
    /// Cells that were there already.
    pub reused: usize,
    /// Cells that failed.
    pub failed: usize,
}

/// Runs every cell that has no result in `out/cells`, and goes on with one that was killed.
///
/// A cell that fails is reported and tried again by the next run; cells that learn from it fail with it, and the rest
/// goes on.
///
/// # Errors
/// When `out` cannot be written.
pub fn run(plan: &Plan, out: &Path, options: RunOptions) -> Result<Summary> {
    let cells = out.join("cells");
    fs::create_dir_all(&cells).with_context(|| format!("cannot create {}", cells.display()))?;
    let folder_of = |cell: &Cell| cells.join(plan.folder(cell));
    let mut summary = Summary { cells: Vec::new(), seconds: BTreeMap::new(), reused: 0, failed: 0 };
    let mut clock = Clock::default();
    for (number, cell) in plan.cells.iter().enumerate() {
        let (folder, name) = (folder_of(cell), plan.folder(cell));
        let cost = cost(plan, cell);
        let show = format!("[{}/{}] {}", number + 1, plan.cells.len(), name);
        if let Some(result) = finished(plan, &folder, cell) {
            let seconds: f64 = fs::read(folder.join(SECONDS))
                .ok()
                .and_then(|bytes| serde_json::from_slice(&bytes).ok())
                .unwrap_or_default();
            clock.add(cell.arm, cost, seconds);
            summary.seconds.insert(name, seconds);
            tidy(plan, &folder)?;
            summary.reused += 1;
            summary.cells.push(result);
            continue;
        }
        let left = clock.left(plan.cells[number..].iter().map(|cell| (cell.arm, self::cost(plan, cell))));
        match left {
            Some(left) => eprintln!("{show}  (ETA {})", HumanDuration(left)),
            None => eprintln!("{show}"),
        }
        let started = Instant::now();
        let failed_teacher = cell.teachers.iter().find(|&&teacher| summary.cells[teacher].error.is_some());
        let done = match failed_teacher {
            Some(&teacher) => Err(anyhow::anyhow!("its teacher {} failed", plan.arm(&plan.cells[teacher]).name)),
            None => run_cell(plan, cell, &folder, &folder_of, options.progress_bar, options.device),
        };
        match done {
            Ok(result) => {
                let seconds = started.elapsed().as_secs_f64();
                fs::write(folder.join(SECONDS), serde_json::to_vec(&seconds)?)
                    .with_context(|| format!("cannot write {}", folder.display()))?;
                tidy(plan, &folder)?;
                let f1 = result.metrics.as_ref().map_or(0.0, |metrics| metrics.micro_f1);
                eprintln!("{show}  micro-F1 {f1:.4}  {seconds:.0} s");
                clock.add(cell.arm, cost, seconds);
                summary.seconds.insert(name, seconds);
                summary.cells.push(result);
            }
            Err(error) => {
                eprintln!("{show}  failed: {error:#}");
                summary.failed += 1;
                let error = Some(format!("{error:#}"));
                summary.cells.push(CellResult { error, ..unfinished(plan, cell) });
            }
        }
    }
    Ok(summary)
}

/// Seconds that a finished cell took.
const SECONDS: &str = "seconds.json";

/// The result of a cell that is done. A file that cannot be read, or is another cell's, is none.
fn finished(plan: &Plan, folder: &Path, cell: &Cell) -> Option<CellResult> {
    let result: CellResult = serde_json::from_slice(&fs::read(folder.join(RECORD)).ok()?).ok()?;
    // What another experiment did with the cell may be less than what this one needs.
    let taught = !cell.teaches || folder.join(TRAIN).is_file();
    let trains = matches!(plan.arm(cell).kind, ArmKind::Fit | ArmKind::Distill);
    let kept = !(trains && plan.file.keep_students) || folder.join(STUDENT).is_dir() || folder.join(BEST).is_dir();
    (result.key == cell.key && result.metrics.is_some() && taught && kept).then_some(result)
}

/// Folder of a student that is kept.
const STUDENT: &str = "student";
/// Where training left it.
const BEST: &str = "run/best";

/// Weights and checkpoints are large, and of no more use when a cell is done.
fn tidy(plan: &Plan, folder: &Path) -> Result<()> {
    let (run, student, best) = (folder.join("run"), folder.join(STUDENT), folder.join(BEST));
    let remove = |folder: &Path| match folder.is_dir() {
        true => fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display())),
        false => Ok(()),
    };
    if best.is_dir() || !plan.file.keep_students {
        remove(&student)?;
    }
    if best.is_dir() && plan.file.keep_students {
        fs::rename(&best, &student).with_context(|| format!("cannot move {}", best.display()))?;
    }
    remove(&run)
}

/// Document epochs of a cell: what its time is proportional to within an arm.
fn cost(plan: &Plan, cell: &Cell) -> f64 {
    plan.data[cell.data].folds[cell.fold].train.len() as f64
}

/// What cells took so far, to say what the rest will take.
#[derive(Default)]
struct Clock {
    by_arm: BTreeMap<usize, (f64, f64)>,
}

impl Clock {
    fn add(&mut self, arm: usize, cost: f64, seconds: f64) {
        let (costs, total) = self.by_arm.entry(arm).or_default();
        *costs += cost;
        *total += seconds;
    }

    /// `None` before the first cell is done. An arm that has not run yet is taken for the mean of those that have.
    fn left(&self, cells: impl Iterator<Item = (usize, f64)>) -> Option<Duration> {
        let rate = |(costs, seconds): (f64, f64)| seconds / costs.max(1.0);
        if self.by_arm.is_empty() {
            return None;
        }
        let mean = self.by_arm.values().map(|&known| rate(known)).sum::<f64>() / self.by_arm.len() as f64;
        let seconds: f64 =
            cells.map(|(arm, cost)| cost * self.by_arm.get(&arm).map_or(mean, |&known| rate(known))).sum();
        Some(Duration::from_secs_f64(seconds.clamp(0.0, 1e9)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_is_guessed_from_what_the_arms_took() {
        let mut clock = Clock::default();
        assert_eq!(clock.left([(0, 10.0)].into_iter()), None);
        clock.add(0, 10.0, 20.0);
        clock.add(1, 10.0, 40.0);
        assert_eq!(clock.left([(0, 10.0), (1, 5.0), (2, 10.0)].into_iter()), Some(Duration::from_secs(20 + 20 + 30)));
    }
}
