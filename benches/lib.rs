//! Criterion benches of the runtime: `label.rs` of the whole path, `steps.rs` of what an encoder is made of.
