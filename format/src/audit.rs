//! Records of what a box did, each bound to the one before it: `AUDIT.md` in this crate's folder states the layout.
//!
//! A record says when which bundle gave which labels to a text of about which length. It holds nothing of the text, no digest
//! of it and no name of anybody.

use core::fmt;
use core::str::FromStr;

use sha2::{Digest, Sha256};

use crate::hex::{self, Hex};

/// Bytes of a record.
pub const AUDIT_RECORD_LEN: usize = 96;
/// Bytes of the header of a file of records.
pub const AUDIT_HEADER_LEN: usize = 64;

/// What happened once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditEntry {
    /// Milliseconds since 1970, by the caller's clock.
    pub time_ms: u64,
    /// [`Bundle::digest`](crate::Bundle::digest).
    pub bundle_digest: [u8; 32],
    /// Bit `i`: the label at position `i` of the manifest is given.
    pub labels: u64,
    /// How long it took, in microseconds; the highest number stands for all that is longer.
    pub duration_us: u32,
    /// How it ended.
    pub status: AuditStatus,
    /// See [`token_bucket`].
    pub token_bucket: u8,
}

/// How what a record is of ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[non_exhaustive]
pub enum AuditStatus {
    /// A text got its labels.
    Labelled = 1,
    /// A text got its labels, and the model saw only its beginning.
    Truncated = 2,
    /// The text was refused: empty, too long, or not what the caller said.
    Refused = 3,
    /// The engine failed.
    Failed = 4,
    /// A program began to use the bundle.
    Started = 5,
    /// The trail was cut off in the middle of a record, by a power cut say, and the part was removed.
    Repaired = 6,
    /// A text got its labels, or would have, and the decision was not to give any.
    Abstained = 7,
    /// The text took too long and was given up.
    Late = 8,
}

/// Where a chain stands: the number of the next record and the digest that it is bound to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct AuditHead {
    /// Number of the next record, counted from 0.
    pub sequence: u64,
    /// Of the record before it; zeros at the beginning.
    pub digest: [u8; 32],
}

impl AuditEntry {
    /// An entry of nothing yet.
    pub fn new(time_ms: u64, bundle_digest: [u8; 32], status: AuditStatus) -> Self {
        Self { time_ms, bundle_digest, labels: 0, duration_us: 0, status, token_bucket: 0 }
    }

    /// The record at `head`; `head` moves on.
    pub fn to_record(&self, head: &mut AuditHead) -> [u8; AUDIT_RECORD_LEN] {
        let mut record = [0; AUDIT_RECORD_LEN];
        record[..8].copy_from_slice(&head.sequence.to_le_bytes());
        record[8..16].copy_from_slice(&self.time_ms.to_le_bytes());
        record[16..48].copy_from_slice(&self.bundle_digest);
        record[48..56].copy_from_slice(&self.labels.to_le_bytes());
        record[56..60].copy_from_slice(&self.duration_us.to_le_bytes());
        record[60] = self.status as u8;
        record[61] = self.token_bucket;
        let digest = digest(&head.digest, &record[..CONTENT_LEN]);
        record[CONTENT_LEN..].copy_from_slice(&digest);
        *head = AuditHead { sequence: head.sequence.saturating_add(1), digest };
        record
    }

    /// Reads and checks the record at `head`; `head` moves on.
    ///
    /// # Errors
    ///
    /// [`AuditError`] when it is not the one that was written there.
    pub fn parse(record: &[u8; AUDIT_RECORD_LEN], head: &mut AuditHead) -> Result<Self, AuditError> {
        let sequence = head.sequence;
        let (content, stored) = record.split_at(CONTENT_LEN);
        if u64_at(content, 0) != sequence {
            return Err(AuditError::Sequence { expected: sequence, found: u64_at(content, 0) });
        }
        let digest = digest(&head.digest, content);
        if digest != stored {
            return Err(AuditError::Digest { sequence });
        }
        let malformed = AuditError::Malformed { sequence };
        let mut bundle_digest = [0; 32];
        bundle_digest.copy_from_slice(&content[16..48]);
        let status = AuditStatus::from_number(content[60]).ok_or(malformed)?;
        if content[62..] != [0; 2] {
            return Err(malformed);
        }
        *head = AuditHead { sequence: sequence.checked_add(1).ok_or(malformed)?, digest };
        Ok(Self {
            time_ms: u64_at(content, 8),
            bundle_digest,
            labels: u64_at(content, 48),
            duration_us: u64_at(content, 56) as u32,
            status,
            token_bucket: content[61],
        })
    }
}

/// The bucket of a number of tokens: 0 for none, otherwise `b` for 2^(b-1) to 2^b - 1.
pub fn token_bucket(tokens: usize) -> u8 {
    (usize::BITS - tokens.leading_zeros()) as u8
}

impl AuditStatus {
    fn from_number(number: u8) -> Option<Self> {
        ALL.into_iter().find(|&status| status as u8 == number)
    }

    /// The status' name in small letters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Labelled => "labelled",
            Self::Truncated => "truncated",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Started => "started",
            Self::Repaired => "repaired",
            Self::Abstained => "abstained",
            Self::Late => "late",
        }
    }
}

const ALL: [AuditStatus; 8] = [
    AuditStatus::Labelled,
    AuditStatus::Truncated,
    AuditStatus::Refused,
    AuditStatus::Failed,
    AuditStatus::Started,
    AuditStatus::Repaired,
    AuditStatus::Abstained,
    AuditStatus::Late,
];

impl AuditHead {
    /// Where a new trail begins.
    pub const START: Self = Self { sequence: 0, digest: [0; 32] };

    /// The header of a file whose first record is the one at this head.
    pub fn to_header(self) -> [u8; AUDIT_HEADER_LEN] {
        let mut header = [0; AUDIT_HEADER_LEN];
        header[..16].copy_from_slice(&LABEL);
        header[16..20].copy_from_slice(&VERSION.to_le_bytes());
        header[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        header[32..].copy_from_slice(&self.digest);
        header
    }

    /// Reads the header of a file of records.
    ///
    /// # Errors
    ///
    /// [`AuditError::NotATrail`].
    pub fn parse(header: &[u8; AUDIT_HEADER_LEN]) -> Result<Self, AuditError> {
        let mut digest = [0; 32];
        digest.copy_from_slice(&header[32..]);
        let head = Self { sequence: u64_at(header, 24), digest };
        // Nothing is in front of the first record, and of nothing else the digest is zeros.
        let begins = (head.sequence == 0) == (digest == [0; 32]);
        if begins && head.to_header() == *header { Ok(head) } else { Err(AuditError::NotATrail) }
    }
}

/// The sequence, a colon and 64 hexadecimal digits.
impl fmt::Display for AuditHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.sequence, Hex(&self.digest))
    }
}

impl FromStr for AuditHead {
    type Err = AuditError;

    fn from_str(text: &str) -> Result<Self, AuditError> {
        let (sequence, digest) = text.split_once(':').ok_or(AuditError::Head)?;
        let sequence = sequence.parse().map_err(|_| AuditError::Head)?;
        Ok(Self { sequence, digest: hex::decode(digest).ok_or(AuditError::Head)? })
    }
}

impl fmt::Debug for AuditHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuditHead({self})")
    }
}

/// A trail is not the one that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuditError {
    /// A file does not begin as a file of records of version 1.
    NotATrail,
    /// A text is not that of a head.
    Head,
    /// A record has another number: one was removed, added or moved.
    Sequence {
        /// The number that must come next.
        expected: u64,
        /// What the record says.
        found: u64,
    },
    /// A record, or one before it, was changed.
    Digest {
        /// Its number.
        sequence: u64,
    },
    /// A record says what no writer of version 1 writes.
    Malformed {
        /// Its number.
        sequence: u64,
    },
}

impl fmt::Display for AuditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotATrail => f.write_str("a file of the audit trail does not begin as one of version 1"),
            Self::Head => f.write_str("a head is a number, a colon and 64 hexadecimal digits"),
            Self::Sequence { expected, found } => {
                write!(
                    f,
                    "record {found} of the audit trail stands where {expected} must: one was removed, added or moved"
                )
            }
            Self::Digest { sequence } => write!(f, "record {sequence} of the audit trail was changed"),
            Self::Malformed { sequence } => {
                write!(f, "record {sequence} of the audit trail cannot be read; update the program")
            }
        }
    }
}

impl core::error::Error for AuditError {}

fn digest(previous: &[u8; 32], content: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(b"kdh-audit version 1").chain_update(previous).chain_update(content).finalize().into()
}

/// The little-endian number at `at`; bytes behind the end count as zero.
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let bytes = bytes.iter().skip(at).take(8);
    bytes.rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

const LABEL: [u8; 16] = *b"kdh-audit\0\0\0\0\0\0\0";
const VERSION: u32 = 1;
/// In front of the digest.
const CONTENT_LEN: usize = AUDIT_RECORD_LEN - 32;
