//! Tunes a student's options: a search over short trainings, then the best of it in full.
//!
//! A search evaluates its points at *reduced* fidelity: fewer epochs, fewer documents, shorter input. Afterwards
//! [`promote`] trains some of the points in full; the best of those is the result, and how the two fidelities rank
//! them says what the reduced one is worth.

mod file;
mod objective;
mod promotion;

pub use file::{SearchKind, TuneData, TuneFile};
pub use objective::{Fidelity, Objective};
pub use promotion::{Promoted, Promotion, promote};
