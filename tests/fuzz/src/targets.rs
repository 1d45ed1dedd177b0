use std::io;
use std::path::Path;

use crate::root;

mod audit;
mod bundle;
mod capi;
#[path = "../../../runtime/tests/device/disk.rs"]
mod disk;
mod graph;
mod model;
mod small;
mod store;
mod text;
mod wire;

/// Something that reads what others wrote.
#[non_exhaustive]
pub struct Target {
    /// Its name on the command line, and of its folders.
    pub name: &'static str,
    /// What it reads and what is checked.
    pub about: &'static str,
    /// Inputs of a short run: a few seconds.
    pub short: u64,
    /// Pieces that its inputs are made of.
    pub(crate) dictionary: &'static [&'static [u8]],
    /// Files of the repository to begin with, or folders of them, beside `corpus/NAME` and `crashes/NAME`.
    files: &'static [&'static str],
    /// Further inputs to begin with.
    made: fn() -> Vec<Vec<u8>>,
    start: fn() -> Execute,
}

/// Reads one input and panics when a promise is broken.
pub(crate) type Execute = Box<dyn FnMut(&[u8]) -> Outcome>;

/// What a reader said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "the two things that a driver looks at")]
pub struct Outcome {
    /// Whether it took the input.
    pub accepted: bool,
    /// Which of its answers it gave.
    pub kind: u64,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    bundle::BUNDLE,
    bundle::MANIFEST,
    bundle::GOLDEN,
    bundle::PROGRAM_SECTION,
    bundle::DECISIONS,
    bundle::TRUST,
    wire::WIRE,
    model::PROGRAM,
    model::ONNX,
    graph::GRAPH,
    text::VOCABULARY,
    text::TOKENIZER,
    text::LABEL,
    text::DATASET,
    text::STUDENT_CARD,
    capi::CAPI,
    audit::AUDIT,
    store::STORE,
];

impl Target {
    pub(crate) fn start(&self) -> Execute {
        (self.start)()
    }

    /// The inputs that every run begins with: the corpus, and what once was a finding.
    pub(crate) fn seeds(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut seeds = (self.made)();
        let own = ["corpus", "crashes"].map(|folder| format!("tests/fuzz/{folder}/{}", self.name));
        for path in self.files.iter().copied().chain(own.iter().map(String::as_str)) {
            let path = root().join(path);
            if path.is_dir() {
                seeds.extend(folder(&path)?);
            } else if path.exists() || !path.starts_with(root().join("tests/fuzz")) {
                seeds.push(std::fs::read(&path)?);
            }
        }
        Ok(seeds)
    }
}

/// A target whose parts are missing: every input says so.
fn broken(error: &dyn std::fmt::Display) -> Execute {
    let message = format!("a part of the target cannot be made: {error:#}");
    Box::new(move |_| panic!("{message}"))
}

/// Every file, in the order of names.
fn folder(path: &Path) -> io::Result<Vec<Vec<u8>>> {
    let mut files: Vec<_> = std::fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    files.sort();
    files.iter().map(std::fs::read).collect()
}

impl Outcome {
    fn accepted(kind: usize) -> Self {
        Self { accepted: true, kind: kind as u64 }
    }

    /// Errors are told apart by what they are, not by the numbers in them.
    fn of<T, E: std::fmt::Debug>(result: &Result<T, E>) -> Self {
        match result {
            Ok(_) => Self::accepted(0),
            Err(error) => Self::refused(error),
        }
    }

    fn refused(error: &impl std::fmt::Debug) -> Self {
        // FNV-1a (RFC draft-eastlake-fnv).
        let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
        let _ = std::fmt::Write::write_fmt(&mut hash, format_args!("{error:?}"));
        Self { accepted: false, kind: hash.0 }
    }
}

struct Fnv(u64);

impl std::fmt::Write for Fnv {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for byte in text.bytes().filter(|byte| !byte.is_ascii_digit()) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}
