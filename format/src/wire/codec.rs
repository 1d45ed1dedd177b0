use core::fmt;

use crc::{CRC_32_ISO_HDLC, Crc};
use serde::{Deserialize, Serialize};

use super::check::check;
use super::{CRC_LEN, Frame, FrameError, MAX_BODY_LEN, MAX_FRAME_LEN};

/// CRC-32/ISO-HDLC, the one of Ethernet and zip.
pub(super) const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const REQUEST: u8 = 3;
const REPORT: u8 = 4;
const LABEL: u8 = 5;
const STATUS_REQUEST: u8 = 6;
const STATUS: u8 = 7;
const HEARTBEAT: u8 = 8;
const ERROR: u8 = 9;

impl<'a> Frame<'a> {
    /// Writes the frame into the front of `buffer`, of which [`MAX_FRAME_LEN`] bytes are always enough, and returns the bytes
    /// to send.
    ///
    /// # Errors
    ///
    /// [`EncodeError`]: the buffer is too short, or the frame breaks a rule of the protocol and would be refused.
    pub fn encode<'b>(&self, buffer: &'b mut [u8]) -> Result<&'b [u8], EncodeError> {
        check(self).map_err(|_| EncodeError::Invalid)?;
        let mut body = [0; MAX_BODY_LEN + CRC_LEN];
        let len = self.write_body(&mut body[..MAX_BODY_LEN])?;
        let crc = body_crc(&body[..len]);
        body[len..len + CRC_LEN].copy_from_slice(&crc.to_le_bytes());

        let short = EncodeError::BufferTooShort { needed: MAX_FRAME_LEN };
        let (first, rest) = buffer.split_first_mut().ok_or(short)?;
        // A zero in front too: what was damaged before this frame ends here, even if its own end was lost.
        *first = 0;
        let encoded = cobs::try_encode(&body[..len + CRC_LEN], rest).map_err(|_| short)?;
        *rest.get_mut(encoded).ok_or(short)? = 0;
        Ok(&buffer[..encoded + 2])
    }

    fn write_body(&self, body: &mut [u8]) -> Result<usize, EncodeError> {
        match self {
            Self::Hello(payload) => write(body, HELLO, payload),
            Self::Welcome(payload) => write(body, WELCOME, payload),
            Self::Request(payload) => write(body, REQUEST, payload),
            Self::Report(payload) => write(body, REPORT, payload),
            Self::Label(payload) => write(body, LABEL, payload),
            Self::StatusRequest => write(body, STATUS_REQUEST, &()),
            Self::Status(payload) => write(body, STATUS, payload),
            Self::Heartbeat(payload) => write(body, HEARTBEAT, payload),
            Self::Error(payload) => write(body, ERROR, payload),
            Self::Unknown { .. } => Err(EncodeError::Invalid),
        }
    }

    /// Reads a body: type byte and payload, with the checksum already taken off and found right.
    pub(super) fn parse_body(body: &'a [u8]) -> Result<Self, FrameError> {
        let (&kind, payload) = body.split_first().ok_or(FrameError::Malformed)?;
        let frame = match kind {
            HELLO => Self::Hello(read(payload)?),
            WELCOME => Self::Welcome(read(payload)?),
            REQUEST => Self::Request(read(payload)?),
            REPORT => Self::Report(read(payload)?),
            LABEL => Self::Label(read(payload)?),
            STATUS_REQUEST => Self::StatusRequest,
            STATUS => Self::Status(read(payload)?),
            HEARTBEAT => Self::Heartbeat(read(payload)?),
            ERROR => Self::Error(read(payload)?),
            kind => Self::Unknown { kind },
        };
        check(&frame)?;
        Ok(frame)
    }
}

/// The checksum of a body: CRC-32 of its length, 2 bytes, and its bytes.
///
/// Without the length, eight bytes 0xFF would be a right frame, and a line that sticks at one sends such bytes.
pub(super) fn body_crc(body: &[u8]) -> u32 {
    let mut digest = CRC.digest();
    // A body has at most `MAX_BODY_LEN` bytes, or is refused for its length before.
    digest.update(&(body.len() as u16).to_le_bytes());
    digest.update(body);
    digest.finalize()
}

fn write(body: &mut [u8], kind: u8, payload: &impl Serialize) -> Result<usize, EncodeError> {
    let (first, rest) = body.split_first_mut().ok_or(EncodeError::Invalid)?;
    *first = kind;
    let written = postcard::to_slice(payload, rest).map_err(|_| EncodeError::Invalid)?;
    Ok(1 + written.len())
}

/// Bytes behind the fields that this version knows belong to a later one and are passed over.
fn read<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T, FrameError> {
    postcard::take_from_bytes(payload).map(|(frame, _)| frame).map_err(|_| FrameError::Malformed)
}

/// A frame cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EncodeError {
    /// The buffer is too short for this frame.
    BufferTooShort {
        /// A length that is enough for any frame.
        needed: usize,
    },
    /// The frame breaks a rule of the protocol: a reader would refuse it.
    Invalid,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BufferTooShort { needed } => write!(f, "the buffer is too short; give {needed} bytes"),
            Self::Invalid => f.write_str("the frame breaks a rule of the protocol; see WIRE.md"),
        }
    }
}

impl core::error::Error for EncodeError {}
