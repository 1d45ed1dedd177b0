//! What the box did, in a folder of files of chained records: `format/AUDIT.md` states the layout.
//!
//! ```
//! use std::time::{Duration, SystemTime};
//! use kdh_runtime::audit::{AuditLog, AuditOptions, entry};
//! # use kdh_runtime::{Bundle, Labeler, LabelerOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let bundle = Bundle::parse(include_bytes!("../tests/data/tiny.kdh"))?;
//! # let labeler = Labeler::from_bundle(&bundle, &LabelerOptions::new().allow_unsigned())?;
//! let mut log = AuditLog::open(folder.path(), AuditOptions::default())?;
//! let result = labeler.label(&mut labeler.scratch(), "The cells divided.");
//! let report = result.as_ref().map_err(|&error| error);
//! log.append(&entry(&labeler, report, SystemTime::now(), Duration::from_millis(35)))?;
//! # Ok(())
//! # }
//! ```

use core::fmt;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use kdh_format::{AUDIT_HEADER_LEN, AUDIT_RECORD_LEN, AuditEntry, AuditError, AuditHead, AuditStatus, token_bucket};

use crate::labeler::{LabelError, Labeler};
use crate::report::Report;

pub use files::{Files, Folder};

mod files;

/// A trail that is being written, in a folder, or wherever `F` keeps files. One process at a time: [`Folder`] holds a lock.
#[derive(Debug)]
pub struct AuditLog<F = Folder> {
    files: F,
    options: AuditOptions,
    /// Records in the file at hand.
    records: u64,
    unsynced: u32,
    head: AuditHead,
    repaired: Option<u64>,
    /// A write that failed in the middle of a record.
    broken: bool,
}

/// How much a trail keeps and how sure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditOptions {
    /// Records of a file, 96 bytes each; then a new file begins. At least 1.
    pub records_per_file: u64,
    /// Files that are kept; the oldest is removed when there is one more. At least 2.
    pub files: usize,
    /// Waits for the disk after this many records, and when a file begins: so many can be lost when the power goes. 1 waits
    /// at each record. A killed process loses none.
    pub sync_every: u32,
}

impl Default for AuditOptions {
    /// 8 files of 65,536 records, 50 MB; waits for the disk every 64 records.
    fn default() -> Self {
        Self { records_per_file: 65_536, files: 8, sync_every: 64 }
    }
}

impl AuditLog {
    /// Opens the trail in a folder, which is made if it is not there, behind its last record. Of the last file all is
    /// verified. A cut-off record is removed, and the trail says so.
    ///
    /// # Errors
    ///
    /// [`TrailError`]. A trail that was changed is not written to.
    pub fn open(folder: impl AsRef<Path>, options: AuditOptions) -> Result<Self, TrailError> {
        match Folder::open(folder.as_ref()) {
            Ok(folder) => Self::open_in(folder, options),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(TrailError::Busy),
            Err(error) => Err(TrailError::Io(error)),
        }
    }
}

impl<F: Files> AuditLog<F> {
    /// As [`open`](AuditLog::open), in these files.
    ///
    /// # Errors
    ///
    /// [`TrailError`]. A trail that was changed is not written to.
    pub fn open_in(mut files: F, options: AuditOptions) -> Result<Self, TrailError> {
        let mut numbers = numbers(&files)?;
        let mut last = numbers.last().map(|&number| read(&files, number)).transpose()?;
        let mut dropped = 0;
        // A file that was begun and has no whole header holds nothing; it began where the one before it ends.
        let mut begun = None;
        if let Some(bytes) = last.as_ref().filter(|bytes| has_no_header(bytes)) {
            dropped = bytes.len() as u64;
            begun = numbers.pop();
            last = numbers.last().map(|&number| read(&files, number)).transpose()?;
        }
        let file = last.map(|bytes| FileOfRecords::parse(&bytes)).transpose()?;
        if file.as_ref().map(|file| file.first.sequence) != numbers.last().copied() {
            return Err(TrailError::Changed(AuditError::NotATrail));
        }
        let mut head = file.as_ref().map_or(AuditHead::START, |file| file.first);
        for record in file.iter().flat_map(|file| &file.records) {
            AuditEntry::parse(record, &mut head).map_err(TrailError::Changed)?;
        }
        if begun.is_some_and(|begun| begun != head.sequence) {
            return Err(TrailError::Changed(AuditError::NotATrail));
        }
        // From here on it is known that nobody has changed it.
        if let Some(begun) = begun {
            files.remove(&name(begun)).map_err(TrailError::Io)?;
        }
        let records = match file {
            None => {
                files.create(&name(0), &AuditHead::START.to_header()).map_err(TrailError::Io)?;
                0
            }
            Some(FileOfRecords { first, records, torn }) => {
                let records = records.len() as u64;
                files.resume(&name(first.sequence), len(records)).map_err(TrailError::Io)?;
                dropped += torn;
                records
            }
        };
        let repaired = (dropped > 0).then_some(dropped);
        let options = AuditOptions {
            records_per_file: options.records_per_file.max(1),
            files: options.files.max(2),
            sync_every: options.sync_every.max(1),
        };
        let mut log = Self { files, options, records, unsynced: 0, head, repaired, broken: false };
        if repaired.is_some() {
            log.append(&AuditEntry::new(now_ms(SystemTime::now()), [0; 32], AuditStatus::Repaired))?;
            log.sync()?;
        }
        Ok(log)
    }

    /// Appends a record. Allocates nothing but when a file is full.
    ///
    /// # Errors
    ///
    /// [`TrailError::Io`] when the system refuses, because the disk is full say. A record that could not be written is not in the
    /// trail; a part of it is removed before the next one. One that was written and not waited for may not outlast a power cut.
    pub fn append(&mut self, entry: &AuditEntry) -> Result<(), TrailError> {
        if self.broken {
            let first = self.head.sequence.saturating_sub(self.records);
            self.files.resume(&name(first), len(self.records)).map_err(TrailError::Io)?;
            self.broken = false;
        }
        if self.records >= self.options.records_per_file {
            self.rotate()?;
        }
        let mut head = self.head;
        let record = entry.to_record(&mut head);
        if let Err(error) = self.files.append(&record) {
            self.broken = true;
            return Err(TrailError::Io(error));
        }
        self.head = head;
        self.records += 1;
        self.unsynced += 1;
        if self.unsynced >= self.options.sync_every { self.sync() } else { Ok(()) }
    }

    /// Waits until all records are on the disk.
    ///
    /// # Errors
    ///
    /// [`TrailError::Io`].
    pub fn sync(&mut self) -> Result<(), TrailError> {
        self.files.sync().map_err(TrailError::Io)?;
        self.unsynced = 0;
        Ok(())
    }

    /// Where the chain stands: keep it elsewhere to find records that are cut off its end.
    pub fn head(&self) -> AuditHead {
        self.head
    }

    /// Bytes of a cut-off record that opening removed, if it did.
    pub fn repaired(&self) -> Option<u64> {
        self.repaired
    }

    fn rotate(&mut self) -> Result<(), TrailError> {
        self.sync()?;
        self.files.create(&name(self.head.sequence), &self.head.to_header()).map_err(TrailError::Io)?;
        self.records = 0;
        let numbers = numbers(&self.files)?;
        // The oldest first, each for good: a file that is missing between two others would be a break of the chain.
        for &number in numbers.iter().take(numbers.len().saturating_sub(self.options.files)) {
            self.files.remove(&name(number)).map_err(TrailError::Io)?;
        }
        Ok(())
    }
}

/// What verifying a trail found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verified {
    /// Number of the oldest record; those before it were in files that were removed when they were full.
    pub first: u64,
    /// Where the chain stands behind the newest record.
    pub head: AuditHead,
    /// Files.
    pub files: usize,
    /// Bytes of a cut-off record at the end, as a crash leaves it; 0 when there is none.
    pub torn_bytes: u64,
    /// Records that say of a repair.
    pub repairs: u64,
}

/// Verifies the trail in a folder and hands out every record with its number, oldest first. Changes nothing.
///
/// `known` is a head that was kept elsewhere: the chain must pass through it.
///
/// # Errors
///
/// [`TrailError::Changed`] when a record was changed, removed, added or moved; [`TrailError::CutOff`] when the chain does not
/// reach `known`, [`TrailError::OtherTrail`] when it passes by.
pub fn verify(
    folder: &Path,
    known: Option<AuditHead>,
    each: impl FnMut(u64, &AuditEntry),
) -> Result<Verified, TrailError> {
    verify_in(&Folder::to_read(folder), known, each)
}

/// As [`verify`], of the trail in these files.
///
/// # Errors
///
/// As [`verify`].
pub fn verify_in(
    files: &impl Files,
    known: Option<AuditHead>,
    mut each: impl FnMut(u64, &AuditEntry),
) -> Result<Verified, TrailError> {
    let numbers = numbers(files)?;
    let mut head: Option<AuditHead> = None;
    let (mut torn_bytes, mut repairs, mut first, mut met) = (0, 0, 0, false);
    for (index, &number) in numbers.iter().enumerate() {
        let is_last = index + 1 == numbers.len();
        let bytes = read(files, number)?;
        if is_last && has_no_header(&bytes) {
            torn_bytes = bytes.len() as u64;
            let expected = head.map_or(0, |head| head.sequence);
            if number != expected {
                return Err(TrailError::Changed(AuditError::Sequence { expected, found: number }));
            }
            break;
        }
        let file = FileOfRecords::parse(&bytes)?;
        if file.first.sequence != number || head.is_some_and(|head| head != file.first) {
            let expected = head.map_or(number, |head| head.sequence);
            return Err(TrailError::Changed(if expected == file.first.sequence {
                AuditError::Digest { sequence: expected.saturating_sub(1) }
            } else {
                AuditError::Sequence { expected, found: file.first.sequence }
            }));
        }
        if file.torn > 0 && !is_last {
            let sequence = file.first.sequence.saturating_add(file.records.len() as u64);
            return Err(TrailError::Changed(AuditError::Malformed { sequence }));
        }
        torn_bytes = file.torn;
        if index == 0 {
            first = number;
        }
        let mut now = file.first;
        let mut meet = |now: AuditHead| match known {
            Some(known) if known.sequence == now.sequence && known != now => Err(TrailError::OtherTrail),
            known => {
                met |= known == Some(now);
                Ok(())
            }
        };
        meet(now)?;
        for record in &file.records {
            let number = now.sequence;
            let entry = AuditEntry::parse(record, &mut now).map_err(TrailError::Changed)?;
            repairs += u64::from(entry.status == AuditStatus::Repaired);
            each(number, &entry);
            meet(now)?;
        }
        head = Some(now);
    }
    let head = head.unwrap_or(AuditHead::START);
    if let Some(known) = known.filter(|&known| !met && known != head) {
        // Older than the oldest file: nothing to compare it with.
        return Err(if known.sequence > head.sequence { TrailError::CutOff } else { TrailError::OtherTrail });
    }
    Ok(Verified { first, head, files: numbers.len(), torn_bytes, repairs })
}

/// The entry of a labelled or refused text.
pub fn entry(
    labeler: &Labeler,
    result: Result<&Report<'_>, LabelError>,
    time: SystemTime,
    duration: Duration,
) -> AuditEntry {
    let status = match result {
        Ok(report) if !report.abstention.is_empty() => AuditStatus::Abstained,
        Ok(report) if report.truncated() => AuditStatus::Truncated,
        Ok(_) => AuditStatus::Labelled,
        Err(LabelError::DeadlineExceeded) => AuditStatus::Late,
        Err(LabelError::Engine(_) | LabelError::NotFinite) => AuditStatus::Failed,
        Err(_) => AuditStatus::Refused,
    };
    let mut entry = AuditEntry::new(now_ms(time), labeler.bundle_digest(), status);
    if let Ok(report) = result {
        let given = report.abstention.is_empty();
        let bits = report.labels.iter().enumerate().filter(|(_, label)| given && label.positive());
        entry.labels = bits.fold(0, |bits, (index, _)| bits | 1_u64.checked_shl(index as u32).unwrap_or_default());
        entry.token_bucket = token_bucket(report.text_tokens);
    }
    entry.duration_us = u32::try_from(duration.as_micros()).unwrap_or(u32::MAX);
    entry
}

fn now_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A trail cannot be written, or is not the one that was written.
#[derive(Debug)]
#[non_exhaustive]
pub enum TrailError {
    /// The system refuses.
    Io(io::Error),
    /// Another process writes the trail.
    Busy,
    /// The trail was changed.
    Changed(AuditError),
    /// The trail ends before a head that was kept elsewhere.
    CutOff,
    /// The trail is not the one of which a head was kept elsewhere, or no longer reaches back to it.
    OtherTrail,
}

impl fmt::Display for TrailError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "the audit trail cannot be read or written: {error}"),
            Self::Busy => f.write_str("another process writes this audit trail; give another folder"),
            Self::Changed(error) => write!(f, "{error}; keep the folder as it is, and begin a trail in another one"),
            Self::CutOff => {
                f.write_str("the audit trail ends before the given head: records were removed from its end")
            }
            Self::OtherTrail => {
                f.write_str("the given head is not of this audit trail, or of records that it no longer has")
            }
        }
    }
}

// The texts above already hold the text of the cause, so `source` stays empty: a chain would print it twice.
impl core::error::Error for TrailError {}

/// One file, read whole but not verified.
struct FileOfRecords {
    first: AuditHead,
    records: Vec<[u8; AUDIT_RECORD_LEN]>,
    /// Bytes behind the last record: a part of one, or zeros.
    torn: u64,
}

impl FileOfRecords {
    fn parse(bytes: &[u8]) -> Result<Self, TrailError> {
        let malformed = TrailError::Changed(AuditError::NotATrail);
        let Some((header, body)) = bytes.split_first_chunk::<AUDIT_HEADER_LEN>() else { return Err(malformed) };
        let first = AuditHead::parse(header).map_err(TrailError::Changed)?;
        let (mut whole, _) = body.as_chunks::<AUDIT_RECORD_LEN>();
        // A disk may give zeros for bytes that never reached it. A digest is not zeros, so these end in a part of a record.
        while let [kept @ .., last] = whole
            && is_zeros(&last[AUDIT_RECORD_LEN - DIGEST_LEN..])
        {
            whole = kept;
        }
        let torn = (body.len() - whole.len() * AUDIT_RECORD_LEN) as u64;
        Ok(Self { first, records: whole.to_vec(), torn })
    }
}

/// Whether a file is one that was begun when the power went: a part of a header, which zeros may follow.
fn has_no_header(bytes: &[u8]) -> bool {
    match bytes.split_first_chunk::<AUDIT_HEADER_LEN>() {
        None => true,
        Some((header, _)) => AuditHead::parse(header).is_err() && is_zeros(&bytes[AUDIT_HEADER_LEN - DIGEST_LEN..]),
    }
}

fn is_zeros(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

/// The numbers in the names of a trail's files, in order.
fn numbers(files: &impl Files) -> Result<Vec<u64>, TrailError> {
    let names = files.names().map_err(TrailError::Io)?;
    let number = |name: &String| {
        let digits = name.strip_prefix("audit-")?.strip_suffix(".kda")?;
        digits.parse().ok().filter(|&number| *name == self::name(number))
    };
    let mut numbers: Vec<u64> = names.iter().filter_map(number).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// The name of the file whose first record has this number.
fn name(number: u64) -> String {
    format!("audit-{number:020}.kda")
}

fn read(files: &impl Files, number: u64) -> Result<Vec<u8>, TrailError> {
    files.read(&name(number)).map_err(TrailError::Io)
}

/// Bytes of a file of so many records.
fn len(records: u64) -> u64 {
    AUDIT_HEADER_LEN as u64 + records * AUDIT_RECORD_LEN as u64
}

/// Bytes of a digest, at the end of records and headers.
const DIGEST_LEN: usize = 32;
