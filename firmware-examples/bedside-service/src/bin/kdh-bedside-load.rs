//! `kdh-bedside-load`: puts a `kdh-bedside` under load, and checks that it loses nothing, mixes nothing and does not grow.

use std::error::Error;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use bedside_service::client::{Client, Counters, Outcome, random_session};
use bedside_service::memory::status;
use kdh_runtime::{BundleFile, DocumentOptions, Labeler, LabelerOptions};
use lexopt::prelude::{Long, Short, ValueExt};

const USAGE: &str = "\
Starts a kdh-bedside of its own and puts it under load: first texts one after the other, as many as --texts says, then for
--seconds four times as many a second as it has just labelled. Every text must get its answer, and every answer must be
what the runtime says of that text when it is asked directly. The service's memory must not grow by more than 1 MiB.

  kdh-bedside-load --bundle models/default.kdh

  --bundle FILE    the model
  --service FILE   the program (kdh-bedside beside this one)
  --texts N        texts one after the other (100000)
  --seconds N      how long four times the capacity arrives (60)
  --slots N        the service's slots (8)
  --json           print the figures as JSON
  -h, --help       this text

*Lost* is a text that its client has given to the service, sending it again as the service tells it to, and that has no
answer when no answer at all has reached the client for a minute. *Mixed* is an answer that is not that of its text.

Exit code 0: nothing lost, nothing mixed, memory flat; 1: not so; 2: bad usage or bundle.
";

/// Connections in the second part.
const CONNECTIONS: usize = 16;
/// Longest text that the service takes, in bytes.
const MAX_TEXT_BYTES: usize = 64 << 10;
/// How many times the capacity arrives.
const OVERLOAD: f64 = 4.0;
/// A client that has got no answer for so long gets none any more.
const PATIENCE: Duration = Duration::from_secs(60);
/// Largest growth of the service's memory, in bytes.
const MAX_GROWTH: u64 = 1 << 20;

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
    let (mut bundle, mut service, mut texts, mut seconds, mut slots, mut json) = (None, None, 100_000, 60, 8, false);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("bundle") => bundle = Some(PathBuf::from(parser.value()?)),
            Long("service") => service = Some(PathBuf::from(parser.value()?)),
            Long("texts") => texts = parser.value()?.parse()?,
            Long("seconds") => seconds = parser.value()?.parse()?,
            Long("slots") => slots = parser.value()?.parse()?,
            Long("json") => json = true,
            Long("help") | Short('h') => {
                io::stdout().write_all(USAGE.as_bytes())?;
                return Ok(ExitCode::SUCCESS);
            }
            other => return Err(other.unexpected().into()),
        }
    }
    let bundle = bundle.ok_or("give --bundle FILE; see --help")?;
    let service = match service {
        Some(path) => path,
        None => std::env::current_exe()?.with_file_name("kdh-bedside"),
    };
    let cases = Arc::new(cases(&bundle)?);
    let daemon = Daemon::start(&service, &bundle, slots)?;

    let flat = one_after_the_other(&daemon, &cases, texts);
    let overload = overload(&daemon, &cases, flat.rate() * OVERLOAD, Duration::from_secs(seconds));
    let peak = status(&daemon.child.id().to_string(), "VmHWM:");
    let good = [&flat, &overload].iter().all(|part| part.is_good());
    let text = if json {
        let [flat, overload] = [&flat, &overload].map(Part::json);
        format!("{{\"good\":{good},\"peak_bytes\":{peak},\"one_after_the_other\":{flat},\"overload\":{overload}}}\n")
    } else {
        format!(
            "one after the other:\n{flat}\nat {OVERLOAD} times that:\n{overload}\npeak memory: {} KiB\n",
            peak >> 10
        )
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// A text and what the runtime says of it.
struct Case {
    text: Arc<str>,
    labels: Vec<Label>,
}

/// Code, probability, and evidence as byte ranges.
type Label = (String, f32, Vec<(u32, u32)>);

/// Texts of all lengths. The last one is as long as a text may be.
fn cases(bundle: &Path) -> Result<Vec<Case>, Box<dyn Error>> {
    const SENTENCES: [&str; 7] = [
        "The wound edges are red and warm.",
        "No cough, no shortness of breath.",
        "Tumour cells evade growth suppressors in this line.",
        "He slept well; pain 3 of 10.",
        "Angiogenesis was induced by VEGF \u{2013} see above.",
        "Blood pressure 142/88 mmHg, pulse 71.",
        "Cells resist death when p53 is lost.",
    ];
    let labeler = Labeler::from_file(BundleFile::open(bundle)?, &LabelerOptions::new().allow_unsigned())?;
    let mut scratch = labeler.document_scratch();
    let mut texts: Vec<String> = (0..63_usize)
        .map(|case| {
            let sentences = (0..1 + case * case % 40).map(|index| SENTENCES[(case + index * index) % SENTENCES.len()]);
            sentences.collect::<Vec<_>>().join(" ")
        })
        .collect();
    texts.push(SENTENCES.concat().repeat(400).chars().filter(char::is_ascii).take(MAX_TEXT_BYTES).collect());
    let case = |text: String| -> Result<Case, Box<dyn Error>> {
        let report = labeler.label_document(&mut scratch, &DocumentOptions::new(), &text)?.report;
        let labels = report.positive().map(|label| {
            let evidence = label.evidence.iter().map(|range| (range.start, range.end)).collect();
            (label.code.to_owned(), label.probability, evidence)
        });
        Ok(Case { labels: labels.collect(), text: text.into() })
    };
    texts.into_iter().map(case).collect()
}

/// A `kdh-bedside` of our own.
struct Daemon {
    child: Child,
    folder: PathBuf,
    socket: PathBuf,
}

impl Daemon {
    fn start(service: &Path, bundle: &Path, slots: usize) -> io::Result<Self> {
        let folder = std::env::temp_dir().join(format!("kdh-bedside-load-{}", std::process::id()));
        std::fs::create_dir(&folder)?;
        let socket = folder.join("socket");
        let mut command = Command::new(service);
        command.arg("--bundle").arg(bundle).arg("--socket").arg(&socket);
        command.args(["--max-text-bytes", &MAX_TEXT_BYTES.to_string()]);
        command.args(["--allow-unsigned", "--slots", &slots.to_string(), "--links", &(2 * CONNECTIONS).to_string()]);
        Ok(Self { child: command.spawn()?, folder, socket })
    }

    fn memory(&self) -> u64 {
        status(&self.child.id().to_string(), "VmRSS:")
    }

    fn client(&self) -> Client {
        // Longer than any answer takes here: a text that is sent again although its answer is on the way is no load.
        Client::socket(random_session(), &self.socket).answer_timeout(Duration::from_secs(60))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// What a part of the load found.
#[derive(Default)]
struct Part {
    texts: u64,
    lost: u64,
    mixed: u64,
    refused: u64,
    arriving: Duration,
    answering: Duration,
    memory_before: u64,
    memory_most: u64,
    counters: Counters,
}

impl Part {
    /// Texts answered a second.
    fn rate(&self) -> f64 {
        (self.texts - self.lost) as f64 / self.answering.as_secs_f64()
    }

    fn growth(&self) -> u64 {
        self.memory_most.saturating_sub(self.memory_before)
    }

    fn is_good(&self) -> bool {
        self.lost + self.mixed + self.refused == 0 && self.growth() <= MAX_GROWTH
    }

    fn record(&mut self, case: &Case, outcome: &Outcome) {
        match outcome {
            Outcome::Labelled(answer) => {
                let found = answer.labels.iter().map(|label| (&label.code, label.probability, &label.evidence));
                let right = found.eq(case.labels.iter().map(|(code, value, evidence)| (code, *value, evidence)));
                self.mixed += u64::from(!right);
            }
            _ => self.refused += 1,
        }
    }

    fn add(&mut self, other: &Self) {
        self.texts += other.texts;
        self.lost += other.lost;
        self.mixed += other.mixed;
        self.refused += other.refused;
        self.arriving = self.arriving.max(other.arriving);
        self.answering = self.answering.max(other.answering);
        self.counters.sent += other.counters.sent;
        self.counters.busy += other.counters.busy;
        self.counters.timeouts += other.counters.timeouts;
        self.counters.lost_connections += other.counters.lost_connections;
        self.counters.unasked += other.counters.unasked;
        self.counters.damaged += other.counters.damaged;
    }

    fn json(&self) -> String {
        format!(
            "{{\"texts\":{},\"lost\":{},\"mixed\":{},\"refused\":{},\"arrivals_per_second\":{},\"answers_per_second\":{},\
             \"busy\":{},\"unasked\":{},\"lost_connections\":{},\"memory_before_bytes\":{},\"memory_most_bytes\":{},\
             \"growth_bytes\":{}}}",
            self.texts,
            self.lost,
            self.mixed,
            self.refused,
            self.texts as f64 / self.arriving.as_secs_f64(),
            self.rate(),
            self.counters.busy,
            self.counters.unasked,
            self.counters.lost_connections,
            self.memory_before,
            self.memory_most,
            self.growth(),
        )
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let arrivals = self.texts as f64 / self.arriving.as_secs_f64();
        writeln!(f, "  {} texts at {arrivals:.0} a second, answered at {:.0} a second", self.texts, self.rate())?;
        writeln!(f, "  lost {}, mixed {}, refused {}", self.lost, self.mixed, self.refused)?;
        let Counters { busy, unasked, lost_connections, .. } = self.counters;
        writeln!(
            f,
            "  told to come again {busy} times; unasked answers {unasked}, connections lost {lost_connections}"
        )?;
        let (before, most) = (self.memory_before >> 10, self.memory_most >> 10);
        writeln!(
            f,
            "  memory of the service {before} KiB before, {most} KiB at most: grew by {} KiB",
            self.growth() >> 10
        )
    }
}

/// As fast as they are answered, over two connections, after the service has warmed up.
fn one_after_the_other(daemon: &Daemon, cases: &Arc<Vec<Case>>, texts: usize) -> Part {
    // Every slot at once, with the longest text: all memory has been touched then.
    measured(daemon, 4, Duration::from_secs(10), |_, client, part, done| {
        closed_loop(client, cases, part, 4, |_| cases.len() - 1);
        done();
        part.texts = 0;
    });
    measured(daemon, 2, Duration::from_secs(3600), |index, client, part, done| {
        closed_loop(client, cases, &mut Part::default(), 500, |number| number * 2 % (cases.len() - 1));
        done();
        // The longest text is a rare one.
        let case = |number: usize| {
            if number % 5000 == 4999 { cases.len() - 1 } else { (2 * number + index) % (cases.len() - 1) }
        };
        closed_loop(client, cases, part, texts.div_ceil(2), case);
    })
}

/// More than it can answer, over many connections, for `duration`; then until all is answered.
fn overload(daemon: &Daemon, cases: &Arc<Vec<Case>>, rate: f64, duration: Duration) -> Part {
    let interval = Duration::from_secs_f64(CONNECTIONS as f64 / rate.max(1.0));
    measured(daemon, CONNECTIONS, Duration::from_secs(3600), |index, client, part, done| {
        closed_loop(client, cases, &mut Part::default(), 50, |number| number % (cases.len() - 1));
        done();
        let case = |number: u32| (number as usize + 7 * index) % (cases.len() - 1);
        // Behind the numbers of the warm-up.
        let mut number = 1_000_000;
        let start = Instant::now();
        let (mut arrival, mut answered) = (start, start);
        while part.arriving < duration || client.waiting() > 0 && answered.elapsed() < PATIENCE {
            while part.arriving < duration && arrival <= Instant::now() {
                client.submit(number, cases[case(number)].text.clone());
                number += 1;
                part.texts += 1;
                arrival += interval;
                part.arriving = arrival - start;
            }
            let mut wait = Duration::from_millis(20);
            // When all has arrived there is nothing to wait for but answers.
            if part.arriving < duration {
                wait = wait.min(arrival.saturating_duration_since(Instant::now()));
            }
            client.step(wait, |number, outcome| {
                answered = Instant::now();
                part.record(&cases[case(number)], &outcome);
            });
        }
        part.lost = client.waiting() as u64;
        part.answering = start.elapsed();
    })
}

/// Labels `texts` texts, four at a time.
fn closed_loop(client: &mut Client, cases: &[Case], part: &mut Part, texts: usize, case: impl Fn(usize) -> usize) {
    let start = Instant::now();
    let mut next = 0;
    while (next < texts || client.waiting() > 0) && start.elapsed() < Duration::from_secs(3600) {
        while next < texts && client.waiting() < 4 {
            client.submit(next as u32, cases[case(next)].text.clone());
            next += 1;
        }
        client.step(Duration::from_millis(20), |number, outcome| part.record(&cases[case(number as usize)], &outcome));
    }
    part.texts = texts as u64;
    part.lost = client.waiting() as u64;
    part.answering = start.elapsed();
    part.arriving = part.answering;
}

/// Runs `body` once a connection, and watches the service's memory from when all have called `done`.
fn measured(
    daemon: &Daemon,
    connections: usize,
    limit: Duration,
    body: impl Fn(usize, &mut Client, &mut Part, &dyn Fn()) + Sync,
) -> Part {
    let (warm, go, running) =
        (Barrier::new(connections + 1), Barrier::new(connections + 1), AtomicUsize::new(connections));
    thread::scope(|scope| {
        let threads: Vec<_> = (0..connections)
            .map(|index| {
                let (body, warm, go, running) = (&body, &warm, &go, &running);
                scope.spawn(move || {
                    let (mut client, mut part) = (daemon.client(), Part::default());
                    body(index, &mut client, &mut part, &|| {
                        warm.wait();
                        go.wait();
                    });
                    part.counters = client.counters();
                    running.fetch_sub(1, Ordering::SeqCst);
                    part
                })
            })
            .collect();
        warm.wait();
        let mut all = Part { memory_before: daemon.memory(), ..Part::default() };
        go.wait();
        let start = Instant::now();
        while running.load(Ordering::SeqCst) > 0 && start.elapsed() < limit {
            all.memory_most = all.memory_most.max(daemon.memory());
            thread::sleep(Duration::from_millis(50));
        }
        all.memory_most = all.memory_most.max(daemon.memory());
        for thread in threads {
            // A panic is a failed check like any other.
            all.add(&thread.join().unwrap_or_else(|_| Part { lost: 1, ..Part::default() }));
        }
        all
    })
}
