//! Lines on standard error, with the priority that the journal reads. No line holds a text, a name that a client gave, or
//! anything else that came over a line.

use std::fmt::Arguments;
use std::io::{self, Write};

/// Something happened that is as it should be.
pub fn info(line: Arguments<'_>) {
    write(6, line);
}

/// Something is wrong, and the service goes on.
pub fn warning(line: Arguments<'_>) {
    write(4, line);
}

/// The service cannot go on.
pub fn error(line: Arguments<'_>) {
    write(3, line);
}

fn write(priority: u8, line: Arguments<'_>) {
    // Not `eprintln`, which panics when standard error is closed.
    let _ = writeln!(io::stderr().lock(), "<{priority}>{line}");
}
