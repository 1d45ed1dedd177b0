//! The other side: sends texts, takes answers, and sends again what has none.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kdh_runtime::format::wire::{
    self, Chunks, Decoder, ErrorCode, Frame, Hello, LabelFlags, LabelFrame, MAX_FRAME_LEN, ReportFlags, ReportFrame,
    RequestFlags, RequestId, Role,
};

use crate::line::{Line, Read};

/// How often a hello is said until it is answered.
const HELLO_INTERVAL: Duration = Duration::from_secs(1);
/// A service that has said nothing for so long, not even a heartbeat, is gone.
const SILENCE: Duration = Duration::from_secs(5);
/// A shorter wait between two requests is none.
const MIN_PACE: Duration = Duration::from_millis(1);
/// Longest wait between two requests to a service that is busy.
const MAX_PACE: Duration = Duration::from_secs(2);

/// What became of a text.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Outcome {
    /// It was labelled.
    Labelled(Answer),
    /// It was refused, and would be refused again.
    Refused(ErrorCode),
}

/// What the model says of a text.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Answer {
    /// First eight bytes of the bundle's digest.
    pub bundle: [u8; 8],
    /// The model has not seen all of the text.
    pub truncated: bool,
    /// Why the model abstains: a set of bits.
    pub abstention: u32,
    /// How long labelling took, in microseconds.
    pub duration_us: u32,
    /// Labels, in order of the model.
    pub labels: Vec<AnswerLabel>,
    expected: usize,
}

/// One label of an answer.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct AnswerLabel {
    /// Index in the model.
    pub index: u8,
    /// Code.
    pub code: String,
    /// Probability.
    pub probability: f32,
    /// Whether the label is given.
    pub given: bool,
    /// Byte ranges of the sentences that carry it, the strongest first.
    pub evidence: Vec<(u32, u32)>,
}

/// What happened on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Texts sent, each time anew.
    pub sent: u64,
    /// Times that the service was busy, or about to end.
    pub busy: u64,
    /// Answers that waited too long or were damaged, so that the text was sent again.
    pub timeouts: u64,
    /// Connections lost.
    pub lost_connections: u64,
    /// Whole answers that nobody waits for: they came twice, or belong to another session.
    pub unasked: u64,
    /// Frames that came damaged.
    pub damaged: u64,
}

/// Sends texts under numbers and gives back what became of them, whatever happens to the service or the line.
pub struct Client {
    connect: Box<dyn FnMut() -> io::Result<Line> + Send>,
    line: Option<Line>,
    decoder: Decoder,
    session: u32,
    timeout: Duration,
    flags: RequestFlags,
    /// Most requests at once, from the welcome; 0 before it.
    max_outstanding: usize,
    hello_due: Instant,
    heard: Instant,
    unsent: Vec<u8>,
    written: usize,
    waiting: HashMap<u32, Waiting>,
    /// What the service does not have, in the order in which it was given to the client.
    queue: BTreeSet<(Instant, u32)>,
    /// What the service has, and when it is to be sent again without an answer.
    in_flight: BTreeSet<(Instant, u32)>,
    /// Time between two requests from the queue: zero, until the service says that it is busy.
    pace: Duration,
    /// When the pace was last made slower.
    slowed: Instant,
    /// No request from the queue before it.
    resume: Instant,
    counters: Counters,
}

struct Waiting {
    text: Arc<str>,
    submitted: Instant,
    /// When it was last sent.
    sent: Instant,
    /// When it is to be sent again; `None`: it is in the queue.
    timeout: Option<Instant>,
    timeouts: u32,
    answer: Option<Answer>,
}

impl Client {
    /// A client whose line `connect` opens, as often as needed. `session` must be another in each run of the client.
    pub fn new(session: u32, connect: impl FnMut() -> io::Result<Line> + Send + 'static) -> Self {
        let now = Instant::now();
        Self {
            connect: Box::new(connect),
            line: None,
            decoder: Decoder::new(),
            session,
            timeout: Duration::from_secs(5),
            flags: RequestFlags::default(),
            max_outstanding: 0,
            hello_due: now,
            heard: now,
            unsent: Vec::new(),
            written: 0,
            waiting: HashMap::new(),
            queue: BTreeSet::new(),
            in_flight: BTreeSet::new(),
            pace: Duration::ZERO,
            slowed: now,
            resume: now,
            counters: Counters::default(),
        }
    }

    /// A client of the Unix socket at `path`.
    pub fn socket(session: u32, path: &Path) -> Self {
        let path = path.to_owned();
        Self::new(session, move || Line::socket(std::os::unix::net::UnixStream::connect(&path)?))
    }

    /// How long an answer may take before the text is sent again: 5 seconds unless told otherwise, and twice as long each
    /// further time, so that a text that takes long is not labelled over and over.
    #[must_use]
    pub fn answer_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Asks for every label, not only for those that are given.
    #[must_use]
    pub fn all_labels(mut self) -> Self {
        self.flags = RequestFlags::ALL_LABELS;
        self
    }

    /// Has a text labelled. Give a number that no text of the session had.
    pub fn submit(&mut self, number: u32, text: Arc<str>) {
        let submitted = Instant::now();
        self.queue.insert((submitted, number));
        self.waiting
            .insert(number, Waiting { text, submitted, sent: submitted, timeout: None, timeouts: 0, answer: None });
    }

    /// Texts without an outcome.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// What happened on the way.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Sends and receives for at most `timeout`, and gives every outcome that came to `done`.
    pub fn step(&mut self, timeout: Duration, mut done: impl FnMut(u32, Outcome)) {
        if self.line.is_none() && !self.open() {
            std::thread::sleep(timeout.min(Duration::from_millis(20)));
            return;
        }
        if self.exchange(timeout, &mut done).is_err() || self.heard.elapsed() > SILENCE {
            self.counters.lost_connections += 1;
            self.line = None;
        }
    }

    fn open(&mut self) -> bool {
        let Ok(line) = (self.connect)() else { return false };
        self.line = Some(line);
        self.decoder.reset();
        self.unsent.clear();
        self.written = 0;
        self.max_outstanding = 0;
        let now = Instant::now();
        (self.hello_due, self.heard) = (now, now);
        (self.pace, self.slowed, self.resume) = (Duration::ZERO, now, now);
        while let Some((_, number)) = self.in_flight.pop_first() {
            if let Some(waiting) = self.waiting.get_mut(&number) {
                (waiting.timeout, waiting.answer) = (None, None);
                self.queue.insert((waiting.submitted, number));
            }
        }
        true
    }

    fn exchange(&mut self, timeout: Duration, done: &mut impl FnMut(u32, Outcome)) -> io::Result<()> {
        self.fill();
        let unsent = self.written < self.unsent.len();
        let next = match self.max_outstanding {
            // Until the line takes what is encoded nothing else is sent, however long it has been due.
            _ if unsent => None,
            0 => Some(self.hello_due),
            _ => self.next().map(|(due, _)| due),
        };
        let wait = next.map_or(timeout, |due| due.saturating_duration_since(Instant::now()).min(timeout));
        let Some(line) = &self.line else { return Ok(()) };
        line.ready(unsent, wait)?;
        let mut sent = Ok(());
        if unsent {
            match line.write_some(&self.unsent[self.written..]) {
                Ok(len) => self.written += len,
                // Answers may still be there to be read.
                Err(error) => sent = Err(error),
            }
        }
        let mut buffer = [0; 16 << 10];
        // Out of `self`, so that frames may be borrowed from it.
        let mut decoder = std::mem::take(&mut self.decoder);
        loop {
            let len = match self.line.as_ref().map(|line| line.read(&mut buffer, Duration::ZERO)).transpose()? {
                Some(Read::Bytes(len)) => len,
                Some(Read::Closed) => return Err(io::ErrorKind::ConnectionReset.into()),
                _ => break,
            };
            self.heard = Instant::now();
            let mut unread = &buffer[..len];
            while let Some(frame) = decoder.take(&mut unread) {
                match frame {
                    Ok(frame) => self.take(&frame, done),
                    Err(_) => self.counters.damaged += 1,
                }
            }
            if sent.is_ok() {
                break;
            }
        }
        self.decoder = decoder;
        sent
    }

    /// What is to be sent next, and when. A request beyond the window waits for an answer, not for a time.
    fn next(&self) -> Option<(Instant, u32)> {
        let again = self.in_flight.first().copied();
        let queued = self.queue.first().filter(|_| self.in_flight.len() < self.max_outstanding);
        let queued = queued.map(|&(submitted, number)| (submitted.max(self.resume), number));
        again.into_iter().chain(queued).min()
    }

    /// Encodes what is to be sent next, when everything before it is sent.
    fn fill(&mut self) {
        if self.written < self.unsent.len() {
            return;
        }
        self.unsent.clear();
        self.written = 0;
        let now = Instant::now();
        if self.max_outstanding == 0 {
            if self.hello_due <= now {
                self.hello_due = now + HELLO_INTERVAL;
                let hello = Hello {
                    min_version: wire::MIN_VERSION,
                    max_version: wire::VERSION,
                    role: Role::Requester,
                    session: self.session,
                    software: concat!("kdh-bedside-client ", env!("CARGO_PKG_VERSION")),
                };
                self.push(&Frame::Hello(hello));
            }
            return;
        }
        if let Some((_, number)) = self.next().filter(|&(due, _)| due <= now) {
            self.send(number, now);
        }
    }

    fn send(&mut self, number: u32, now: Instant) {
        let Some(waiting) = self.waiting.get_mut(&number) else { return };
        match waiting.timeout {
            Some(timeout) => {
                self.counters.timeouts += 1;
                waiting.timeouts += 1;
                self.in_flight.remove(&(timeout, number));
            }
            None => {
                self.queue.remove(&(waiting.submitted, number));
                self.resume = now + self.pace;
            }
        }
        waiting.answer = None;
        waiting.sent = now;
        let timeout = now + self.timeout * (1 << waiting.timeouts.min(6));
        waiting.timeout = Some(timeout);
        self.in_flight.insert((timeout, number));
        self.counters.sent += 1;
        let text = waiting.text.clone();
        let id = RequestId { session: self.session, number };
        // A text that is too long for the protocol has no parts, and is refused here.
        for chunk in Chunks::new(id, self.flags, &text).into_iter().flatten() {
            self.push(&Frame::Request(chunk));
        }
    }

    fn push(&mut self, frame: &Frame<'_>) {
        let mut buffer = [0; MAX_FRAME_LEN];
        if let Ok(bytes) = frame.encode(&mut buffer) {
            self.unsent.extend_from_slice(bytes);
        }
    }

    fn take(&mut self, frame: &Frame<'_>, done: &mut impl FnMut(u32, Outcome)) {
        match frame {
            Frame::Welcome(welcome) if welcome.session == self.session => {
                self.max_outstanding = usize::from(welcome.max_outstanding).max(1);
            }
            Frame::Report(report) => self.take_report(report, done),
            Frame::Label(label) => self.take_label(label, done),
            Frame::Error(error) => match error.id {
                Some(id) if id.session == self.session => {
                    self.take_error(id.number, error.code, error.retry_after_ms, done)
                }
                _ => {}
            },
            _ => {}
        }
    }

    fn take_report(&mut self, report: &ReportFrame<'_>, done: &mut impl FnMut(u32, Outcome)) {
        let number = report.id.number;
        let waiting = self.waiting.get_mut(&number).filter(|_| report.id.session == self.session);
        let Some(waiting) = waiting else {
            self.counters.unasked += 1;
            return;
        };
        waiting.answer = Some(Answer {
            bundle: report.bundle,
            truncated: report.flags.contains(ReportFlags::TRUNCATED),
            abstention: report.abstention.0,
            duration_us: report.duration_us,
            labels: Vec::new(),
            expected: usize::from(report.labels),
        });
        self.finish_if_whole(number, done);
    }

    fn take_label(&mut self, label: &LabelFrame<'_>, done: &mut impl FnMut(u32, Outcome)) {
        let number = label.id.number;
        let waiting = self.waiting.get_mut(&number).filter(|_| label.id.session == self.session);
        let Some(waiting) = waiting else { return };
        let Some(answer) = &mut waiting.answer else { return };
        if answer.labels.len() != usize::from(label.position) {
            // One before it was damaged: the text is sent again when its time has passed.
            waiting.answer = None;
            return;
        }
        answer.labels.push(AnswerLabel {
            index: label.index,
            code: label.code.to_owned(),
            probability: label.probability,
            given: label.flags.contains(LabelFlags::GIVEN),
            evidence: label.evidence.iter().map(|range| (range.start, range.end)).collect(),
        });
        self.finish_if_whole(number, done);
    }

    fn take_error(&mut self, number: u32, code: ErrorCode, retry_after_ms: u32, done: &mut impl FnMut(u32, Outcome)) {
        if code == ErrorCode::NoSession {
            // The service is another one, or the hello was lost.
            self.max_outstanding = 0;
            self.hello_due = Instant::now();
        }
        let Some(waiting) = self.waiting.get_mut(&number) else { return };
        let again = retry_after_ms > 0 || code == ErrorCode::NoSession;
        if !again {
            return self.finish(number, Outcome::Refused(code), done);
        }
        let sent = waiting.sent;
        if let Some(timeout) = waiting.timeout.take() {
            self.in_flight.remove(&(timeout, number));
            self.queue.insert((waiting.submitted, number));
        }
        if matches!(code, ErrorCode::Busy | ErrorCode::Draining) {
            self.counters.busy += 1;
            self.slow_down(sent, Duration::from_millis(retry_after_ms.into()));
        }
    }

    /// Waits twice as long between two requests from now on, so that many clients do not keep the service from its work. The
    /// whole connection does, not one text: with a long queue each text would find its own moment to ask.
    fn slow_down(&mut self, sent: Instant, retry_after: Duration) {
        let now = Instant::now();
        // What was on its way when the service last said so says nothing new.
        if sent >= self.slowed {
            self.pace = (self.pace * 2).max(retry_after).min(MAX_PACE);
            self.slowed = now;
        }
        self.resume = now + self.pace;
    }

    fn finish_if_whole(&mut self, number: u32, done: &mut impl FnMut(u32, Outcome)) {
        let Some(waiting) = self.waiting.get_mut(&number) else { return };
        if let Some(answer) = waiting.answer.take_if(|answer| answer.labels.len() == answer.expected) {
            self.finish(number, Outcome::Labelled(answer), done);
        }
    }

    fn finish(&mut self, number: u32, outcome: Outcome, done: &mut impl FnMut(u32, Outcome)) {
        if let Some(waiting) = self.waiting.remove(&number) {
            match waiting.timeout {
                Some(timeout) => self.in_flight.remove(&(timeout, number)),
                None => self.queue.remove(&(waiting.submitted, number)),
            };
            // An answer is room: three of four, so that a quarter to a third of the requests are refused when there is more
            // than the service can do. It always has the next text then.
            self.pace = self.pace * 3 / 4;
            if self.pace < MIN_PACE {
                self.pace = Duration::ZERO;
            }
            self.resume = self.resume.min(Instant::now() + self.pace);
            done(number, outcome);
        }
    }
}

/// A session number that no other run has, but for chance.
pub fn random_session() -> u32 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library seeds its hash maps from the system's random numbers.
    std::hash::RandomState::new().build_hasher().finish() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use kdh_runtime::format::wire::Welcome;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    /// A service that welcomes the client and then reads nothing: what is due must wait for the line, not spin beside it.
    #[test]
    fn waits_while_the_line_is_full() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut line = Some(Line::socket(near).unwrap());
        let mut client = Client::new(7, move || line.take().ok_or_else(|| io::ErrorKind::ConnectionRefused.into()));
        let welcome = Frame::Welcome(Welcome {
            version: wire::VERSION,
            session: 7,
            max_text_len: 1 << 16,
            max_outstanding: 100,
            labels: 2,
            model: "m",
            model_version: "1",
        });
        let mut buffer = [0; MAX_FRAME_LEN];
        far.write_all(welcome.encode(&mut buffer).unwrap()).unwrap();
        let text: Arc<str> = "a".repeat(60_000).into();
        for number in 0..50 {
            client.submit(number, text.clone());
        }
        // Until the line is full.
        let start = Instant::now();
        while client.counters().sent < 2 || client.written == 0 || client.written == client.unsent.len() {
            client.step(Duration::from_millis(1), |_, _| ());
            assert!(start.elapsed() < Duration::from_secs(10), "the line takes three megabytes");
        }
        for _ in 0..20 {
            client.step(Duration::from_millis(1), |_, _| ());
        }
        assert!(client.written < client.unsent.len() && client.counters().sent < 50);
        let start = Instant::now();
        (0..3).for_each(|_| client.step(Duration::from_millis(50), |_, _| ()));
        assert!(start.elapsed() >= Duration::from_millis(150), "three waits took {:?}", start.elapsed());
    }
}
