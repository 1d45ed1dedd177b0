//! A service of a test's own, and what its answers must be.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bedside_service::client::{Answer, Client, Outcome, random_session};
use kdh_runtime::{BundleFile, DocumentOptions, Labeler, LabelerOptions};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

pub(crate) struct Daemon {
    pub(crate) child: Child,
    pub(crate) folder: TempDir,
}

impl Daemon {
    /// On the tiny bundle, which is copied so that a test may replace it.
    pub(crate) fn start(configure: impl FnOnce(&mut Command, &Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(tiny(), folder.path().join("model.kdh")).unwrap();
        let child = Self::spawn(folder.path(), configure);
        Self { child, folder }
    }

    pub(crate) fn spawn(folder: &Path, configure: impl FnOnce(&mut Command, &Path)) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kdh-bedside"));
        command
            .arg("--allow-unsigned")
            .arg("--bundle")
            .arg(folder.join("model.kdh"))
            .arg("--socket")
            .arg(folder.join("socket"));
        let log = File::options().create(true).append(true).open(folder.join("log")).unwrap();
        command.stderr(log);
        configure(&mut command, folder);
        command.spawn().unwrap()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    pub(crate) fn client(&self) -> Client {
        Client::socket(random_session(), &self.socket())
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    pub(crate) fn wait_for_log(&self, line: &str) {
        let start = Instant::now();
        while !self.log().contains(line) {
            assert!(start.elapsed() < Duration::from_secs(20), "no {line:?} in {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn wait_for_end(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "the service does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

pub(crate) fn tiny() -> PathBuf {
    root().join("runtime/tests/data/tiny.kdh")
}

/// Texts of our own, each another.
pub(crate) fn texts(count: usize) -> Vec<Arc<str>> {
    (0..count)
        .map(|index| format!("Line {index}: the wound is red \u{2013} and warm. Pulse {}.", 50 + index % 70).into())
        .collect()
}

/// What the runtime says when it is asked directly: code, probability and evidence of each label that is given.
pub(crate) fn expected(texts: &[Arc<str>]) -> Vec<Vec<Label>> {
    let labeler =
        Labeler::from_file(BundleFile::open(tiny()).unwrap(), &LabelerOptions::new().allow_unsigned()).unwrap();
    let mut scratch = labeler.document_scratch();
    let mut label = |text: &Arc<str>| {
        let report = labeler.label_document(&mut scratch, &DocumentOptions::new(), text).unwrap().report;
        let labels = report.positive().map(|label| {
            let evidence = label.evidence.iter().map(|range| (range.start, range.end)).collect();
            (label.code.to_owned(), label.probability, evidence)
        });
        labels.collect()
    };
    texts.iter().map(&mut label).collect()
}

pub(crate) type Label = (String, f32, Vec<(u32, u32)>);

pub(crate) fn given(answer: &Answer) -> Vec<Label> {
    let given = answer.labels.iter().filter(|label| label.given);
    given.map(|label| (label.code.clone(), label.probability, label.evidence.clone())).collect()
}

/// Has all texts labelled, under numbers from `first` on, and returns the outcomes in order.
pub(crate) fn all(client: &mut Client, first: u32, texts: &[Arc<str>]) -> Vec<Outcome> {
    let mut outcomes = vec![None; texts.len()];
    let (mut next, start) = (0, Instant::now());
    while outcomes.iter().any(Option::is_none) {
        while next < texts.len() && client.waiting() < 32 {
            client.submit(first + next as u32, texts[next].clone());
            next += 1;
        }
        client.step(Duration::from_millis(20), |number, outcome| {
            let place = &mut outcomes[(number - first) as usize];
            assert!(place.is_none(), "{number} has two outcomes");
            *place = Some(outcome);
        });
        assert!(start.elapsed() < Duration::from_secs(120), "{} texts wait", client.waiting());
    }
    outcomes.into_iter().flatten().collect()
}

/// Checks every outcome against the runtime.
pub(crate) fn check(texts: &[Arc<str>], outcomes: &[Outcome]) {
    for ((text, expected), outcome) in texts.iter().zip(expected(texts)).zip(outcomes) {
        match outcome {
            Outcome::Labelled(answer) => assert_eq!(given(answer), expected, "{text}"),
            other => panic!("{text}: {other:?}"),
        }
    }
    assert_eq!(texts.len(), outcomes.len());
}
