//! Evidence: arms trained and scored on the same splits, compared with statistics, and shown in a report.
//!
//! An experiment is a TOML file ([`ExperimentFile`]). [`Plan::new`] reads all that it names, divides the documents and
//! refuses what does not fit; [`run`] trains and scores every *cell* (data set, arm, seed, fold) that has not been
//! done, [`analyse`] makes a [`ResultFile`] of the cells, and [`html`] a page of that.
//!
//! The documents of a fold fall into three parts. The *training* part trains; the *inner* part, taken from the
//! training side by stratification, chooses the epoch and the thresholds; the *scored* part only scores.

mod analysis;
mod cell;
mod charts;
mod file;
mod linear;
mod plan;
mod report;
mod result;
mod run;

pub use analysis::analyse;
pub use file::{Arm, ArmKind, DataSource, ExperimentFile, LeakagePolicy};
pub use plan::Plan;
pub use report::html;
pub use result::*;
pub use run::{RunOptions, Summary, run};
