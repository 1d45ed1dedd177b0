//! Labels a text with a bundle that is part of the program.
fn main() {}
