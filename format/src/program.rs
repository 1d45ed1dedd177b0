use core::fmt;

use crate::layout::DIGEST_LEN;

/// The content of a [`Program`](crate::SectionKind::Program) section: a graph lowered for the box, and which graph.
///
/// The program itself is the runtime's to read; `SPECIFICATION.md` states its layout. It begins at a multiple of 64 of the
/// bundle.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProgramSection<'a> {
    /// SHA-256 of the ONNX graph that the program was lowered from, which the bundle may leave out.
    pub onnx_sha256: [u8; 32],
    /// The stored program.
    pub program: &'a [u8],
}

impl<'a> ProgramSection<'a> {
    /// Reads the section.
    ///
    /// # Errors
    ///
    /// [`ProgramSectionError`] when it does not begin as a program section of version 1.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ProgramSectionError> {
        let (header, program) = bytes.split_at_checked(HEADER_LEN).ok_or(ProgramSectionError::Malformed)?;
        let (label, header) = header.split_at(LABEL.len());
        let (version, header) = header.split_at(4);
        let (reserved, digest) = header.split_at(HEADER_LEN - LABEL.len() - 4 - DIGEST_LEN);
        if label != LABEL {
            return Err(ProgramSectionError::Malformed);
        }
        let version = version.iter().rev().fold(0_u32, |number, &byte| number << 8 | u32::from(byte));
        if version != VERSION {
            return Err(ProgramSectionError::UnsupportedVersion { found: version });
        }
        if reserved.iter().any(|&byte| byte != 0) {
            return Err(ProgramSectionError::Malformed);
        }
        let mut onnx_sha256 = [0; DIGEST_LEN];
        onnx_sha256.copy_from_slice(digest);
        Ok(Self { onnx_sha256, program })
    }

    /// The bytes of the section.
    #[cfg(feature = "alloc")]
    pub(crate) fn to_vec(self) -> alloc::vec::Vec<u8> {
        let mut bytes = alloc::vec::Vec::with_capacity(HEADER_LEN + self.program.len());
        bytes.extend(LABEL);
        bytes.extend(VERSION.to_le_bytes());
        bytes.resize(HEADER_LEN - DIGEST_LEN, 0);
        bytes.extend(self.onnx_sha256);
        bytes.extend(self.program);
        bytes
    }
}

/// Shows the size, not the content.
impl fmt::Debug for ProgramSection<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProgramSection").field("len", &self.program.len()).finish_non_exhaustive()
    }
}

/// A program section cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProgramSectionError {
    /// It is cut off, or does not begin as a program section.
    Malformed,
    /// It has another version.
    UnsupportedVersion {
        /// What it says.
        found: u32,
    },
}

impl fmt::Display for ProgramSectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("the bundle's program section cannot be read; pack the bundle again"),
            Self::UnsupportedVersion { found } => write!(
                f,
                "the bundle's program section has version {found}, this program reads version {VERSION}; update the \
                 program, or pack the bundle again"
            ),
        }
    }
}

impl core::error::Error for ProgramSectionError {}

const LABEL: [u8; 16] = *b"kdh-program\0\0\0\0\0";
const VERSION: u32 = 1;
/// The program that follows is aligned as the section is.
const HEADER_LEN: usize = 64;

#[cfg(all(test, feature = "alloc"))]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let section = ProgramSection { onnx_sha256: [7; 32], program: b"steps" };
        let bytes = section.to_vec();
        assert_eq!(bytes.len(), 64 + 5);
        assert_eq!(ProgramSection::parse(&bytes), Ok(section));
    }

    #[test]
    fn refuses_what_is_not_one() {
        let bytes = ProgramSection { onnx_sha256: [7; 32], program: b"" }.to_vec();
        assert_eq!(ProgramSection::parse(&bytes[..63]), Err(ProgramSectionError::Malformed));
        for index in 0..HEADER_LEN - DIGEST_LEN {
            let mut bytes = bytes.clone();
            bytes[index] ^= 0x80;
            let version = 16..20;
            let expected = if version.contains(&index) {
                ProgramSectionError::UnsupportedVersion { found: 1 ^ 0x80 << (8 * (index - 16)) }
            } else {
                ProgramSectionError::Malformed
            };
            assert_eq!(ProgramSection::parse(&bytes), Err(expected));
        }
    }
}
