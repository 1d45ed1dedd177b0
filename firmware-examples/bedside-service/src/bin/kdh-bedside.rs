//! `kdh-bedside`: labels texts from a Unix socket and from serial lines.

use std::io::{self, Write};
use std::process::ExitCode;

use bedside_service::log;
use bedside_service::memory::Memory;
use bedside_service::options::{Options, USAGE};
use bedside_service::service::{self, ServiceError};

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args_os().skip(1)) {
        Ok(options) => options,
        Err(error) => return fail(&error, 2),
    };
    if options.help {
        return print(USAGE);
    }
    if options.print_memory {
        return match Memory::measure(&options) {
            Ok(memory) => print(&memory.to_string()),
            Err(error) => fail(&error, 2),
        };
    }
    match service::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ ServiceError::Model(_)) => fail(&error, 2),
        Err(error) => fail(&error, 1),
    }
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(2),
    }
}

fn fail(error: &dyn std::error::Error, code: u8) -> ExitCode {
    log::error(format_args!("error: {error}"));
    ExitCode::from(code)
}
