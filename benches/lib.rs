//! Criterion benches of the runtime; see `label.rs`.
