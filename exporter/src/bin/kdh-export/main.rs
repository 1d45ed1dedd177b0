//! The kdh-export program.
fn main() {}
