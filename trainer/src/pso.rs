//! Particle swarm optimisation of expensive black-box functions over mixed spaces.
//!
//! An [`Optimizer`] is plain data with two transitions: [`ask`](Optimizer::ask) gives a point to evaluate,
//! [`tell`](Optimizer::tell) takes its score. Several evaluations may be out at once and come back in any order. Two are
//! here: [`Swarm`], and [`RandomSearch`] to compare it with at the same budget.
//!
//! A [`Study`] keeps an optimizer in a [`Storage`], [`Sqlite`] or [`Postgres`], so that several workers share it and a
//! killed run goes on: every transition is saved in one transaction. [`work`] is the loop of one worker.
//!
//! Nothing here knows what is evaluated, and there is no global state: all randomness follows from a seed.

mod ledger;
mod optimizer;
mod postgres;
mod random_search;
mod space;
mod sqlite;
mod storage;
mod study;
mod swarm;
mod worker;

pub use optimizer::{
    Ask, Best, Direction, Goal, Optimizer, OptionsError, Outcome, Progress, Proposal, Stagnation, StopReason, TellError,
};
pub use postgres::Postgres;
pub use random_search::RandomSearch;
pub use space::{Domain, Point, PointError, Space, SpaceError, Value};
pub use sqlite::Sqlite;
pub use storage::{Record, Status, Storage, StudyError, Transaction};
pub use study::{Assignment, Lease, Study, Ticket, Told};
pub use swarm::{Boundary, Swarm, SwarmOptions, Topology, Weight};
pub use worker::work;
