//! Numbers of the bundle layout, version 1. `SPECIFICATION.md` says what they mean.

/// Longest bundle, in bytes, without its trailer: 1 GiB.
pub const MAX_BUNDLE_LEN: usize = 1 << 30;
/// Longest trailer, in bytes.
pub const MAX_TRAILER_LEN: usize = 4096;
/// Most sections of a bundle.
pub const MAX_SECTIONS: usize = 32;
/// Longest manifest section, in bytes.
pub const MAX_MANIFEST_LEN: usize = 64 << 10;
/// Longest vocabulary section, in bytes.
pub const MAX_VOCABULARY_LEN: usize = 16 << 20;
/// Longest golden section, in bytes.
pub const MAX_GOLDEN_LEN: usize = 1 << 20;
/// Longest decisions section, in bytes.
pub const MAX_DECISIONS_LEN: usize = 1 << 20;

pub(crate) const LABEL: [u8; 16] = *b"kdh-bundle\0\0\0\0\0\0";
pub(crate) const ENDIANNESS: u32 = 0xFEFF;
pub(crate) const VERSION: u32 = 1;

pub(crate) const PREAMBLE_LEN: usize = 64;
pub(crate) const ENTRY_LEN: usize = 64;
pub(crate) const DIGEST_LEN: usize = 32;
/// Every section starts at a multiple of this.
pub(crate) const ALIGNMENT: usize = 64;

pub(crate) const CRITICAL: u32 = 1;

/// The first multiple of [`ALIGNMENT`] that is at least `position`, if `usize` holds it.
pub(crate) fn align(position: usize) -> Option<usize> {
    position.checked_next_multiple_of(ALIGNMENT)
}
