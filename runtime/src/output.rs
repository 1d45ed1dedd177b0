//! Results of command-line programs.

use core::fmt::Arguments;
use std::io::{self, ErrorKind, Write};

/// Writes a line to standard output. Without a reader it goes nowhere, as the rest of the work goes on; any other failure, a full
/// disk say, ends the program with exit code 2.
pub fn print_line(line: Arguments<'_>) {
    match writeln!(io::stdout(), "{line}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            let _ = writeln!(io::stderr(), "error: cannot write to standard output: {error}");
            std::process::exit(2);
        }
        _ => {}
    }
}
