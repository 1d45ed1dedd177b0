use core::fmt;

use crate::key::{KeyId, KeyRole};
use crate::layout::{DIGEST_LEN, MAX_TRAILER_LEN};

/// The signature records in a bundle's trailer, read but not verified: [`Trust`](crate::Trust) does that.
#[derive(Clone, Copy)]
pub struct Signatures<'a> {
    records: &'a [u8],
}

/// One signature record.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SignatureRecord {
    /// What the key is for, as the signer says.
    pub role: KeyRole,
    /// Which key.
    pub key: KeyId,
    /// Ed25519 over the message that `SPECIFICATION.md` states.
    pub signature: [u8; SIGNATURE_LEN],
}

/// Bytes of an Ed25519 signature.
pub const SIGNATURE_LEN: usize = 64;
/// Most signature records of a bundle.
pub const MAX_SIGNATURES: usize = (MAX_TRAILER_LEN - HEADER_LEN) / RECORD_LEN;

impl<'a> Signatures<'a> {
    /// Reads a trailer. An empty one holds no records.
    ///
    /// # Errors
    ///
    /// [`SignaturesError`] when it is neither empty nor whole signature records of version 1.
    pub fn parse(trailer: &'a [u8]) -> Result<Self, SignaturesError> {
        if trailer.is_empty() {
            return Ok(Self { records: trailer });
        }
        let (header, records) = trailer.split_at_checked(HEADER_LEN).ok_or(SignaturesError::Malformed)?;
        if header[..8] != LABEL {
            return Err(SignaturesError::Malformed);
        }
        let version = number(&header[8..12]);
        if version != VERSION {
            return Err(SignaturesError::UnsupportedVersion { found: version });
        }
        let count = number(&header[12..]) as usize;
        if !(1..=MAX_SIGNATURES).contains(&count) || records.len() != count * RECORD_LEN {
            return Err(SignaturesError::Malformed);
        }
        if records.chunks_exact(RECORD_LEN).any(|record| SignatureRecord::parse(record).is_none()) {
            return Err(SignaturesError::Malformed);
        }
        Ok(Self { records })
    }

    /// The records, in order.
    pub fn iter(&self) -> impl Iterator<Item = SignatureRecord> + use<'a> {
        self.records.chunks_exact(RECORD_LEN).filter_map(SignatureRecord::parse)
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.records.len() / RECORD_LEN
    }

    /// Whether the bundle is unsigned.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The bytes of a trailer with these records.
    ///
    /// # Errors
    ///
    /// [`SignaturesError::TooMany`].
    #[cfg(feature = "alloc")]
    pub(crate) fn to_vec(records: &[SignatureRecord]) -> Result<alloc::vec::Vec<u8>, SignaturesError> {
        let count = u32::try_from(records.len()).ok().filter(|&count| count as usize <= MAX_SIGNATURES);
        let count = count.ok_or(SignaturesError::TooMany)?;
        let mut bytes = alloc::vec::Vec::with_capacity(HEADER_LEN + records.len() * RECORD_LEN);
        bytes.extend(LABEL);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(count.to_le_bytes());
        for record in records {
            bytes.extend(ED25519.to_le_bytes());
            bytes.extend((record.role as u32).to_le_bytes());
            bytes.extend(record.key.0);
            bytes.extend([0; RESERVED_LEN]);
            bytes.extend(record.signature);
        }
        Ok(bytes)
    }
}

/// Shows the number of records.
impl fmt::Debug for Signatures<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signatures").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl SignatureRecord {
    fn parse(record: &[u8]) -> Option<Self> {
        let (head, signature) = record.split_at_checked(RECORD_LEN - SIGNATURE_LEN)?;
        let (fields, reserved) = head.split_at_checked(24)?;
        if number(&fields[..4]) != ED25519 || reserved.iter().any(|&byte| byte != 0) {
            return None;
        }
        Some(Self {
            role: KeyRole::from_number(number(&fields[4..8]))?,
            key: KeyId(fields[8..].try_into().ok()?),
            signature: signature.try_into().ok()?,
        })
    }
}

impl fmt::Debug for SignatureRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignatureRecord").field("role", &self.role).field("key", &self.key).finish_non_exhaustive()
    }
}

/// What a key signs: a text that nothing else signs, the role and the key, and the bundle's digest.
///
/// The role is in the message, so a test key's signature cannot be made to look like a release key's.
pub(crate) fn message(role: KeyRole, key: KeyId, bundle_digest: [u8; DIGEST_LEN]) -> [u8; MESSAGE_LEN] {
    let mut message = [0; MESSAGE_LEN];
    let parts: [&[u8]; 4] = [DOMAIN, &(role as u32).to_le_bytes(), &key.0, &bundle_digest];
    for (to, &from) in message.iter_mut().zip(parts.into_iter().flatten()) {
        *to = from;
    }
    message
}

/// A trailer is not signature records that this version reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SignaturesError {
    /// Not signature records, or not whole ones.
    Malformed,
    /// Records of another version.
    UnsupportedVersion {
        /// What the trailer says.
        found: u32,
    },
    /// More than [`MAX_SIGNATURES`].
    TooMany,
}

impl fmt::Display for SignaturesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("the bundle's signatures cannot be read; copy the bundle again"),
            Self::UnsupportedVersion { found } => write!(
                f,
                "the bundle's signatures have version {found}, this program reads version {VERSION}; update the program"
            ),
            Self::TooMany => write!(f, "a bundle has room for {MAX_SIGNATURES} signatures; sign it with fewer keys"),
        }
    }
}

impl core::error::Error for SignaturesError {}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |number, &byte| number << 8 | u32::from(byte))
}

const LABEL: [u8; 8] = *b"kdh-sign";
const VERSION: u32 = 1;
const HEADER_LEN: usize = 16;
const RESERVED_LEN: usize = 40;
const RECORD_LEN: usize = 24 + RESERVED_LEN + SIGNATURE_LEN;
const ED25519: u32 = 1;
const DOMAIN: &[u8; 32] = b"kdh-bundle-signature version 1\0\0";
const MESSAGE_LEN: usize = DOMAIN.len() + 4 + KeyId::LEN + DIGEST_LEN;
