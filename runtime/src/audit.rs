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
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use kdh_format::{AUDIT_HEADER_LEN, AUDIT_RECORD_LEN, AuditEntry, AuditError, AuditHead, AuditStatus, token_bucket};

use crate::labeler::{LabelError, Labeler};
use crate::lock::Lock;
use crate::report::Report;

/// A trail that is being written. One process at a time: it holds a lock.
#[derive(Debug)]
pub struct AuditLog {
    folder: PathBuf,
    options: AuditOptions,
    file: File,
    /// Records in the file.
    records: u64,
    unsynced: u32,
    head: AuditHead,
    repaired: Option<u64>,
    /// A write that failed in the middle of a record.
    broken: bool,
    _lock: Lock,
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
        let folder = folder.as_ref();
        fs::create_dir_all(folder).map_err(TrailError::Io)?;
        let lock = match Lock::new(folder) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(TrailError::Busy),
            Err(error) => return Err(TrailError::Io(error)),
        };
        let mut names = names(folder).map_err(TrailError::Io)?;
        let mut dropped = 0;
        // A file that was begun and has no whole header holds nothing.
        let mut expected = None;
        if let Some((_, path)) = names.last() {
            let len = fs::metadata(path).map_err(TrailError::Io)?.len();
            let mut header = vec![0; AUDIT_HEADER_LEN.min(len as usize)];
            File::open(path).and_then(|mut file| file.read_exact(&mut header)).map_err(TrailError::Io)?;
            if header.len() < AUDIT_HEADER_LEN || header.iter().all(|&byte| byte == 0) {
                fs::remove_file(path).map_err(TrailError::Io)?;
                dropped = len;
                expected = names.pop().map(|(sequence, _)| sequence);
            }
        }
        let (file, records, head) = match names.last() {
            None => (create(folder, AuditHead::START)?, 0, AuditHead::START),
            Some((_, path)) => {
                let read = FileOfRecords::read(path)?;
                let first = read.first;
                let mut head = first;
                for record in &read.records {
                    AuditEntry::parse(record, &mut head).map_err(TrailError::Changed)?;
                }
                if expected.is_some_and(|expected| expected != head.sequence) {
                    return Err(TrailError::Changed(AuditError::NotATrail));
                }
                let mut file = OpenOptions::new().write(true).open(path).map_err(TrailError::Io)?;
                if read.torn > 0 {
                    let len = AUDIT_HEADER_LEN + read.records.len() * AUDIT_RECORD_LEN;
                    file.set_len(len as u64).and_then(|()| file.sync_all()).map_err(TrailError::Io)?;
                    dropped += read.torn;
                }
                file.seek(SeekFrom::End(0)).map_err(TrailError::Io)?;
                (file, read.records.len() as u64, head)
            }
        };
        let repaired = (dropped > 0).then_some(dropped);
        let options = AuditOptions {
            records_per_file: options.records_per_file.max(1),
            files: options.files.max(2),
            sync_every: options.sync_every.max(1),
        };
        let (folder, unsynced, broken) = (folder.to_owned(), 0, false);
        let mut log = Self { folder, options, file, records, unsynced, head, repaired, broken, _lock: lock };
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
    /// [`TrailError::Io`] when the system refuses, because the disk is full say. The record is not in the trail then; a part of
    /// it is removed before the next one.
    pub fn append(&mut self, entry: &AuditEntry) -> Result<(), TrailError> {
        if self.broken {
            let len = AUDIT_HEADER_LEN as u64 + self.records * AUDIT_RECORD_LEN as u64;
            self.file.set_len(len).and_then(|()| self.file.seek(SeekFrom::End(0))).map_err(TrailError::Io)?;
            self.broken = false;
        }
        if self.records >= self.options.records_per_file {
            self.rotate()?;
        }
        let mut head = self.head;
        let record = entry.to_record(&mut head);
        if let Err(error) = self.file.write_all(&record) {
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
        self.file.sync_data().map_err(TrailError::Io)?;
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
        self.file = create(&self.folder, self.head)?;
        self.records = 0;
        let names = names(&self.folder).map_err(TrailError::Io)?;
        for (_, path) in names.iter().take(names.len().saturating_sub(self.options.files)) {
            fs::remove_file(path).map_err(TrailError::Io)?;
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
    mut each: impl FnMut(u64, &AuditEntry),
) -> Result<Verified, TrailError> {
    let names = names(folder).map_err(TrailError::Io)?;
    let mut head: Option<AuditHead> = None;
    let (mut torn_bytes, mut repairs, mut first, mut met) = (0, 0, 0, false);
    for (index, (sequence, path)) in names.iter().enumerate() {
        let is_last = index + 1 == names.len();
        let len = fs::metadata(path).map_err(TrailError::Io)?.len();
        if is_last && len < AUDIT_HEADER_LEN as u64 {
            torn_bytes = len;
            break;
        }
        let read = FileOfRecords::read(path)?;
        if read.first.sequence != *sequence || head.is_some_and(|head| head != read.first) {
            let expected = head.map_or(*sequence, |head| head.sequence);
            return Err(TrailError::Changed(if expected == read.first.sequence {
                AuditError::Digest { sequence: expected.saturating_sub(1) }
            } else {
                AuditError::Sequence { expected, found: read.first.sequence }
            }));
        }
        if read.torn > 0 && !is_last {
            let sequence = read.first.sequence + read.records.len() as u64;
            return Err(TrailError::Changed(AuditError::Malformed { sequence }));
        }
        torn_bytes = read.torn;
        if index == 0 {
            first = read.first.sequence;
        }
        let mut now = read.first;
        let mut meet = |now: AuditHead| match known {
            Some(known) if known.sequence == now.sequence && known != now => Err(TrailError::OtherTrail),
            known => {
                met |= known == Some(now);
                Ok(())
            }
        };
        meet(now)?;
        for record in &read.records {
            let number = now.sequence;
            let entry = AuditEntry::parse(record, &mut now).map_err(TrailError::Changed)?;
            repairs += u64::from(entry.status == AuditStatus::Repaired);
            each(number, &entry);
            meet(now)?;
        }
        head = Some(now);
    }
    let head = head.unwrap_or(AuditHead::START);
    if let Some(known) = known.filter(|_| !met) {
        // Older than the oldest file: nothing to compare it with.
        return Err(if known.sequence > head.sequence { TrailError::CutOff } else { TrailError::OtherTrail });
    }
    Ok(Verified { first, head, files: names.len(), torn_bytes, repairs })
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
    fn read(path: &Path) -> Result<Self, TrailError> {
        let bytes = fs::read(path).map_err(TrailError::Io)?;
        let malformed = TrailError::Changed(AuditError::NotATrail);
        let Some((header, body)) = bytes.split_first_chunk::<AUDIT_HEADER_LEN>() else { return Err(malformed) };
        let first = AuditHead::parse(header).map_err(TrailError::Changed)?;
        let (whole, _) = body.as_chunks::<AUDIT_RECORD_LEN>();
        // No record is all zeros: its status is not. A disk may give them for bytes that never reached it.
        let kept = whole.iter().rposition(|record| *record != [0; AUDIT_RECORD_LEN]).map_or(0, |last| last + 1);
        let torn = (body.len() - kept * AUDIT_RECORD_LEN) as u64;
        Ok(Self { first, records: whole[..kept].to_vec(), torn })
    }
}

/// The files of a trail with the numbers in their names, in order.
fn names(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut names = Vec::new();
    for file in fs::read_dir(folder)? {
        let file = file?;
        let name = file.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("audit-")?.strip_suffix(".kda"));
        if let Some(number) = number.filter(|number| number.len() == 20).and_then(|number| number.parse().ok()) {
            names.push((number, file.path()));
        }
    }
    names.sort();
    Ok(names)
}

/// Begins a file, and waits until it is on the disk with its name.
fn create(folder: &Path, head: AuditHead) -> Result<File, TrailError> {
    let path = folder.join(format!("audit-{:020}.kda", head.sequence));
    let create = || -> io::Result<File> {
        // Over what a failed attempt may have left.
        let mut file = File::create(&path)?;
        file.write_all(&head.to_header())?;
        file.sync_all()?;
        if cfg!(unix) {
            File::open(folder)?.sync_all()?;
        }
        Ok(file)
    };
    create().map_err(TrailError::Io)
}
