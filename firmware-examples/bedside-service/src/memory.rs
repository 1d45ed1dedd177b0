//! How much memory a service needs, for the limit in its unit.

use core::fmt;
use std::fs;

use kdh_runtime::{DocumentScratch, Labeler};

use crate::model::{Model, ModelError};
use crate::options::Options;
use crate::pool::Slot;

/// What two threads of a link touch of their stacks, and its socket's buffers in the system, in bytes: an upper bound.
const LINK: u64 = 768 << 10;
/// Most copies that wait for a display.
const COPIES: u64 = 16;

/// What a service needs, in bytes. Each figure but two is a bound by construction; those two are measured on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Memory {
    /// The program and its libraries, as far as they are in memory: measured.
    pub program: u64,
    /// The bundle's file, mapped.
    pub bundle: u64,
    /// What building the model allocates beside the file: measured.
    pub model: u64,
    /// The workers' scratches.
    pub scratches: u64,
    /// Texts and answers.
    pub slots: u64,
    /// Lines.
    pub links: u64,
    /// The second model while a new bundle is checked.
    pub reload: u64,
}

impl Memory {
    /// Opens the bundle and adds up.
    ///
    /// # Errors
    ///
    /// [`ModelError`] when the bundle gives no model.
    pub fn measure(options: &Options) -> Result<Self, ModelError> {
        let before = anonymous();
        let program = resident();
        let opened = Model::open(options)?;
        let model = anonymous().saturating_sub(before);
        let scratches = (options.threads * scratch(&opened.labeler)) as u64;
        let bundle = opened.bundle_len as u64;
        let lines = (options.links + options.serial.len()) as u64;
        Ok(Self {
            program,
            bundle,
            model,
            scratches,
            slots: (options.slots * (options.max_text_len + Slot::MAX_ANSWER_LEN)) as u64,
            links: lines * (LINK + COPIES * Slot::MAX_ANSWER_LEN as u64),
            reload: bundle + model + scratches,
        })
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.program + self.bundle + self.model + self.scratches + self.slots + self.links + self.reload
    }

    /// The limit for the unit: a quarter more, in whole MiB.
    pub fn limit_mib(&self) -> u64 {
        (self.total() + self.total() / 4).div_ceil(1 << 20)
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("program (measured)", self.program),
            ("bundle, mapped", self.bundle),
            ("model (measured)", self.model),
            ("scratches", self.scratches),
            ("texts and answers", self.slots),
            ("lines", self.links),
            ("second model while reloading", self.reload),
            ("total", self.total()),
        ];
        for (name, bytes) in parts {
            writeln!(f, "{bytes:>12}  {name}")?;
        }
        writeln!(f, "MemoryMax={}M", self.limit_mib())
    }
}

/// What a worker labels with, in bytes.
fn scratch(labeler: &Labeler) -> usize {
    labeler.document_memory_required() + size_of::<DocumentScratch<'_>>()
}

/// Memory of this process that is no file's, in bytes.
pub fn anonymous() -> u64 {
    status("self", "RssAnon:")
}

/// Memory of this process, in bytes.
pub fn resident() -> u64 {
    status("self", "VmRSS:")
}

/// A figure of `/proc/PROCESS/status`, in bytes. 0 when there is none.
pub fn status(process: &str, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(name)).and_then(|rest| rest.split_whitespace().next());
    value.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}
