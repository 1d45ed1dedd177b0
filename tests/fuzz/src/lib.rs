//! Fuzzing on the stable toolchain: mutated inputs for everything that reads what others wrote.
//!
//! A [`Target`] reads one kind of input and checks what it promises. [`run`] gives it mutations of a small corpus, and of
//! inputs that had a new [`Outcome`] on the way; the same seed gives the same inputs. A finding is a panic anywhere in
//! kdh's own code, caught or not, and every check of a target that fails.

mod damage;
mod driver;
mod mutate;
mod panics;
mod targets;

pub use damage::{Damage, DamageCounts, damage};
pub use driver::{Finding, Options, Progress, Report, run};
pub use targets::{Outcome, TARGETS, Target};

use std::path::{Path, PathBuf};

/// The repository's root.
pub fn root() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    folder.ancestors().nth(2).unwrap_or(folder).to_owned()
}
