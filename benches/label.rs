//! Benches of the label path.
fn main() {}
