//! kdh runtime.

#[cfg(feature = "eval")]
pub mod dataset;
#[cfg(feature = "eval")]
pub mod metrics;
pub mod text;
