//! Trains students for the box: data import, encoders of the BERT family, multi-label fine-tuning, evaluation.
//!
//! Host only. Everything here runs on libtorch through `tch`; the box never links it. What crosses to the exporter is
//! a *student folder* ([`kdh_format::student`]).
//!
//! Text becomes tokens and sentences through the runtime's own code ([`kdh_runtime::text`]), so a student sees in
//! training what it will see on the box.

pub mod average;
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod derive;
pub mod distill;
pub mod encoder;
pub mod experiment;
pub mod fit;
mod frozen;
mod hex;
pub mod import;
pub mod linear;
pub mod loss;
pub mod model;
pub mod objective;
pub mod optimizer;
pub mod predict;
pub mod pso;
pub mod states;
pub mod statistics;
pub mod stratify;
pub mod teacher;
pub mod tune;
pub mod weights;
