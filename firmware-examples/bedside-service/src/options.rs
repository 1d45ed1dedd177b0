//! What the command line says.

use core::fmt;
use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use kdh_runtime::LabelerOptions;
use lexopt::prelude::{Long, Short, ValueExt};

/// The text of `--help`.
pub const USAGE: &str = "\
Labels texts for the software beside it: takes them as wire frames (format/WIRE.md) from a Unix socket and from serial
lines, and answers with wire frames. It is on no network and keeps no text.

  kdh-bedside --trust TRUST --bundle MODEL.kdh --socket /run/kdh/bedside.sock
  kdh-bedside --trust TRUST --bundle MODEL.kdh --serial /dev/ttyS1:115200
  kdh-bedside --trust TRUST --bundle MODEL.kdh --print-memory

  --bundle FILE          the model. To replace it: rename the new file over it, then send SIGHUP. A bundle that does not
                         verify, or fails its self-test, changes nothing: the old model goes on
  --trust FILE           take only bundles that a key of this trust file has signed; it is read again on SIGHUP
  --allow-test-keys      test keys in it count, too; not for devices in use
  --allow-unsigned       take any bundle; for development
  --socket PATH          listen on a Unix socket
  --serial DEVICE[:BAUD] serve a serial line (115200, 8N1, raw); may be given again for another line
  --flow-control         use RTS and CTS on serial lines
  --threads N            workers, each with a scratch of its own (1)
  --slots N              requests held at once, from the first part of a text to its answer; more are told when to come
                         again (8)
  --outstanding N        requests of one line without an answer; then it is not read from (4)
  --links N              connections to the socket at once (8)
  --max-text-bytes N     longest text, at most 1048576, which it is unless told otherwise. All of a text is labelled,
                         so that a worker is with a long one for as long as that takes
  --drain-seconds N      after SIGTERM, how long texts that were taken may need for their answers (20)
  --stall-seconds N      32 KiB of a text that take longer stop the messages to systemd's watchdog (30)
  --print-memory         print what memory the service needs with these options, and MemoryMax= for its unit
  -h, --help             this text

Exit code 0: asked to end, and everything answered; 1: the service failed, or ended with texts unanswered; 2: bad usage
or bundle.
";

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    /// The bundle's file.
    pub bundle: PathBuf,
    /// Whose bundles are taken: a trust file.
    pub trust: Option<PathBuf>,
    /// Test keys of the trust file count.
    pub allow_test_keys: bool,
    /// Any bundle is taken.
    pub allow_unsigned: bool,
    /// Path of the Unix socket.
    pub socket: Option<PathBuf>,
    /// Serial devices and their speeds.
    pub serial: Vec<(PathBuf, u32)>,
    /// Whether serial lines use RTS and CTS.
    pub flow_control: bool,
    /// Workers.
    pub threads: usize,
    /// Requests held at once.
    pub slots: usize,
    /// Requests of one line without an answer.
    pub outstanding: usize,
    /// Connections to the socket at once.
    pub links: usize,
    /// Longest text, in bytes.
    pub max_text_len: usize,
    /// How long texts may need for their answers after SIGTERM.
    pub drain: Duration,
    /// 32 KiB of a text that take longer stop the watchdog.
    pub stall: Duration,
    /// Print the memory that is needed, and end.
    pub print_memory: bool,
    /// Print the help, and end.
    pub help: bool,
}

impl Options {
    /// Reads the arguments behind the program's name.
    ///
    /// # Errors
    ///
    /// [`UsageError`] says what is wrong.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, UsageError> {
        let mut options = Self {
            bundle: PathBuf::new(),
            trust: None,
            allow_test_keys: false,
            allow_unsigned: false,
            socket: None,
            serial: Vec::new(),
            flow_control: false,
            threads: 1,
            slots: 8,
            outstanding: 4,
            links: 8,
            max_text_len: LabelerOptions::DEFAULT_MAX_TEXT_BYTES,
            drain: Duration::from_secs(20),
            stall: Duration::from_secs(30),
            print_memory: false,
            help: false,
        };
        let mut parser = lexopt::Parser::from_args(arguments);
        while let Some(argument) = parser.next()? {
            match argument {
                Long("bundle") => options.bundle = parser.value()?.into(),
                Long("trust") => options.trust = Some(parser.value()?.into()),
                Long("allow-test-keys") => options.allow_test_keys = true,
                Long("allow-unsigned") => options.allow_unsigned = true,
                Long("socket") => options.socket = Some(parser.value()?.into()),
                Long("serial") => options.serial.push(serial(&parser.value()?.string()?)?),
                Long("flow-control") => options.flow_control = true,
                Long("threads") => options.threads = number(&mut parser, "--threads", 1, 256)?,
                Long("slots") => options.slots = number(&mut parser, "--slots", 1, 4096)?,
                Long("outstanding") => options.outstanding = number(&mut parser, "--outstanding", 1, 4096)?,
                Long("links") => options.links = number(&mut parser, "--links", 1, 1024)?,
                Long("max-text-bytes") => {
                    options.max_text_len = number(&mut parser, "--max-text-bytes", 1, 1 << 20)?;
                }
                Long("drain-seconds") => {
                    options.drain = Duration::from_secs(number(&mut parser, "--drain-seconds", 0, 3600)? as u64);
                }
                Long("stall-seconds") => {
                    options.stall = Duration::from_secs(number(&mut parser, "--stall-seconds", 1, 3600)? as u64);
                }
                Long("print-memory") => options.print_memory = true,
                Long("help") | Short('h') => options.help = true,
                other => return Err(other.unexpected().into()),
            }
        }
        options.check()
    }

    fn check(self) -> Result<Self, UsageError> {
        if self.help {
            return Ok(self);
        }
        if self.bundle.as_os_str().is_empty() {
            return Err(UsageError("give --bundle FILE".into()));
        }
        if self.trust.is_none() && !self.allow_unsigned {
            return Err(UsageError("give --trust FILE, or --allow-unsigned for development".into()));
        }
        if self.socket.is_none() && self.serial.is_empty() && !self.print_memory {
            return Err(UsageError("give --socket PATH, --serial DEVICE, or both".into()));
        }
        Ok(self)
    }
}

/// The command line is wrong.
#[derive(Debug)]
pub struct UsageError(String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; see --help", self.0)
    }
}

impl core::error::Error for UsageError {}

impl From<lexopt::Error> for UsageError {
    fn from(error: lexopt::Error) -> Self {
        Self(error.to_string())
    }
}

/// The value of an option, between `least` and `most`.
///
/// # Errors
///
/// [`UsageError`] when it is no such number.
pub fn number(parser: &mut lexopt::Parser, name: &str, least: usize, most: usize) -> Result<usize, UsageError> {
    let value = parser.value()?.string()?;
    match usize::from_str(&value) {
        Ok(value) if (least..=most).contains(&value) => Ok(value),
        _ => Err(UsageError(format!("{name} takes a number from {least} to {most}"))),
    }
}

fn serial(value: &str) -> Result<(PathBuf, u32), UsageError> {
    match value.rsplit_once(':') {
        None => Ok((value.into(), 115_200)),
        Some((path, baud)) => match baud.parse() {
            Ok(baud) => Ok((path.into(), baud)),
            Err(_) => Err(UsageError("--serial takes DEVICE or DEVICE:BAUD".into())),
        },
    }
}
