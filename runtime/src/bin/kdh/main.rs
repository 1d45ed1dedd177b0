//! The kdh program.
fn main() {}
