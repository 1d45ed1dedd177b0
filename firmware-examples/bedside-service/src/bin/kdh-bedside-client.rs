//! `kdh-bedside-client`: has the texts of a file labelled by a `kdh-bedside`, and loses none.

use std::collections::HashSet;
use std::error::Error;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bedside_service::client::{Client, Outcome, random_session};
use bedside_service::line::Line;
use lexopt::prelude::{Long, Short, Value};

const USAGE: &str = "\
Has texts labelled by a kdh-bedside: one text a line, UTF-8.

  kdh-bedside-client --socket /run/kdh/bedside.sock --answers answers.tsv texts.txt
  kdh-bedside-client --serial /dev/ttyS1:115200 --answers answers.tsv texts.txt

  --socket PATH           the service's socket
  --serial DEVICE[:BAUD]  or a serial line to it
  --answers FILE          where the answers go. Lines that are there already are not asked for again: a killed client that
                          is started again with the same files goes on where it was
  -h, --help              this text

One line an answer, in the order in which they come: the number of the text's line, counted from 1, a tab, and CODE=PROBABILITY
of each label that is given, separated by commas; or a tab, `!` and the reason when the text was refused.

It waits for a service that is not there, and sends again what has no answer. Exit code 0: every text has an answer;
1: a text was refused; 2: bad usage or input.
";

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<ExitCode, Box<dyn Error>> {
    let (mut socket, mut serial, mut answers, mut texts) = (None, None, None, None);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("socket") => socket = Some(PathBuf::from(parser.value()?)),
            Long("serial") => serial = Some(parser.value()?),
            Long("answers") => answers = Some(PathBuf::from(parser.value()?)),
            Long("help") | Short('h') => {
                io::stdout().write_all(USAGE.as_bytes())?;
                return Ok(ExitCode::SUCCESS);
            }
            Value(path) if texts.is_none() => texts = Some(PathBuf::from(path)),
            other => return Err(other.unexpected().into()),
        }
    }
    let (Some(answers), Some(texts)) = (answers, texts) else {
        return Err("give --answers FILE and a file of texts; see --help".into());
    };
    let mut client = match (socket, serial) {
        (Some(path), None) => Client::socket(random_session(), &path),
        (None, Some(device)) => serial_client(&device)?,
        _ => return Err("give --socket or --serial; see --help".into()),
    };
    let mut journal = Journal::open(&answers)?;
    let mut lines = BufReader::new(File::open(&texts)?).lines().zip(1_u32..);
    let mut more = true;
    while more || client.waiting() > 0 {
        // Only so many texts are in memory.
        while more && client.waiting() < 64 {
            match lines.next() {
                None => more = false,
                Some((text, number)) if journal.answered.contains(&number) => drop(text?),
                Some((text, number)) => client.submit(number, Arc::from(text?)),
            }
        }
        let mut result = Ok(());
        client.step(Duration::from_millis(100), |number, outcome| {
            if result.is_ok() {
                result = journal.write(number, &outcome);
            }
        });
        result?;
    }
    let counters = client.counters();
    let _ = writeln!(
        io::stderr(),
        "sent {}, busy {}, timeouts {}, lost connections {}, unasked answers {}, damaged frames {}",
        counters.sent,
        counters.busy,
        counters.timeouts,
        counters.lost_connections,
        counters.unasked,
        counters.damaged
    );
    Ok(if journal.refused { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

fn serial_client(device: &OsString) -> Result<Client, Box<dyn Error>> {
    let device = device.to_str().ok_or("--serial takes DEVICE or DEVICE:BAUD")?;
    let (path, baud) = device.rsplit_once(':').unwrap_or((device, "115200"));
    let (path, baud) = (PathBuf::from(path), baud.parse()?);
    Ok(Client::new(random_session(), move || Line::serial(&path, baud, false)))
}

/// Answers on disk.
struct Journal {
    file: File,
    answered: HashSet<u32>,
    refused: bool,
}

impl Journal {
    /// Opens the answers that are there, and cuts off a last line that was not written whole.
    fn open(path: &Path) -> io::Result<Self> {
        let bytes = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other?,
        };
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        let mut file = OpenOptions::new().create(true).write(true).truncate(false).open(path)?;
        file.set_len(whole as u64)?;
        io::Seek::seek(&mut file, io::SeekFrom::End(0))?;
        let text = String::from_utf8_lossy(&bytes[..whole]);
        let answered = text.lines().filter_map(|line| line.split('\t').next()?.parse().ok()).collect();
        Ok(Self { file, answered, refused: text.contains("\t!") })
    }

    fn write(&mut self, number: u32, outcome: &Outcome) -> io::Result<()> {
        let line = match outcome {
            Outcome::Labelled(answer) => {
                let given = answer.labels.iter().filter(|label| label.given);
                let labels: Vec<_> = given.map(|label| format!("{}={}", label.code, label.probability)).collect();
                format!("{number}\t{}\n", labels.join(","))
            }
            Outcome::Refused(code) => {
                self.refused = true;
                format!("{number}\t!{code:?}\n")
            }
            _ => return Ok(()),
        };
        self.file.write_all(line.as_bytes())
    }
}
