use core::fmt;

use super::codec::body_crc;
use super::{CRC_LEN, Frame, MAX_FRAME_LEN};

/// Takes bytes as they come and gives whole frames back.
///
/// Whatever is damaged ends at the next zero byte, and every frame begins with one: so damage costs the frames that it
/// touches and no other.
pub struct Decoder {
    buffer: [u8; MAX_FRAME_LEN],
    len: usize,
    /// More bytes came than a frame has.
    overflow: bool,
}

impl Decoder {
    /// A decoder that has seen nothing.
    pub const fn new() -> Self {
        Self { buffer: [0; MAX_FRAME_LEN], len: 0, overflow: false }
    }

    /// Takes one byte. `Some` when it ends a frame, or something that is none.
    ///
    /// # Errors
    ///
    /// [`FrameError`]: what lay between two zero bytes is not a frame. Go on: the decoder is ready for the next one.
    pub fn push(&mut self, byte: u8) -> Option<Result<Frame<'_>, FrameError>> {
        if byte != 0 {
            match self.buffer.get_mut(self.len) {
                Some(place) => {
                    *place = byte;
                    self.len += 1;
                }
                None => self.overflow = true,
            }
            return None;
        }
        let (len, overflow) = (core::mem::take(&mut self.len), core::mem::take(&mut self.overflow));
        if overflow {
            return Some(Err(FrameError::TooLong));
        }
        // Between the end of a frame and the beginning of the next.
        if len == 0 {
            return None;
        }
        Some(decode(&mut self.buffer[..len]))
    }

    /// Takes the front of `bytes`, up to the end of the first frame, or all of it. What is left in `bytes` was not taken.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push).
    pub fn take(&mut self, bytes: &mut &[u8]) -> Option<Result<Frame<'_>, FrameError>> {
        while let Some((&byte, rest)) = bytes.split_first() {
            *bytes = rest;
            // Polonius would accept the early return from a loop; the borrow checker of today needs this split.
            if byte == 0 && (self.len > 0 || self.overflow) {
                return self.push(0);
            }
            let _ = self.push(byte);
        }
        None
    }

    /// Forgets the bytes of a frame that has not ended: for a line that was opened anew.
    pub fn reset(&mut self) {
        self.len = 0;
        self.overflow = false;
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

/// Shows nothing of the bytes.
impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").field("len", &self.len).finish_non_exhaustive()
    }
}

fn decode(encoded: &mut [u8]) -> Result<Frame<'_>, FrameError> {
    let len = cobs::decode_in_place(encoded).map_err(|_| FrameError::Stuffing)?;
    let bytes = encoded.get(..len).ok_or(FrameError::Stuffing)?;
    let (body, crc) = bytes.split_last_chunk::<CRC_LEN>().ok_or(FrameError::Stuffing)?;
    if body_crc(body) != u32::from_le_bytes(*crc) {
        return Err(FrameError::Checksum);
    }
    Frame::parse_body(body)
}

/// What lay between two zero bytes is not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// There are more bytes than a frame has.
    TooLong,
    /// The bytes are not what COBS writes, or too few.
    Stuffing,
    /// The checksum is wrong.
    Checksum,
    /// The frame is whole and breaks a rule of the protocol.
    Malformed,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "more bytes than a frame has; wait for the next frame",
            Self::Stuffing => "bytes that are no frame; wait for the next frame",
            Self::Checksum => "a damaged frame; wait for the next frame, and send what stays unanswered again",
            Self::Malformed => "a frame that breaks the protocol; compare the versions of both sides",
        })
    }
}

impl core::error::Error for FrameError {}
