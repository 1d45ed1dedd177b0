//! The kdh-train program.
fn main() {}
