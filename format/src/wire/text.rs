use core::fmt;

use super::codec::CRC;
use super::{MAX_CHUNK_LEN, MAX_TEXT_LEN, RequestChunk, RequestFlags, RequestId};

/// CRC-32 (ISO-HDLC: that of Ethernet and zip) of a text.
pub fn crc32(text: &[u8]) -> u32 {
    CRC.checksum(text)
}

/// The parts of a text, ready to be sent one after the other.
#[derive(Clone)]
pub struct Chunks<'a> {
    id: RequestId,
    flags: RequestFlags,
    text_len: u32,
    text_crc: u32,
    offset: u32,
    unsent: &'a [u8],
    done: bool,
}

impl<'a> Chunks<'a> {
    /// Cuts `text`. `None` when it is longer than [`MAX_TEXT_LEN`].
    pub fn new(id: RequestId, flags: RequestFlags, text: &'a str) -> Option<Self> {
        let text_len = u32::try_from(text.len()).ok().filter(|&len| len <= MAX_TEXT_LEN)?;
        let text_crc = crc32(text.as_bytes());
        Some(Self { id, flags, text_len, text_crc, offset: 0, unsent: text.as_bytes(), done: false })
    }
}

impl<'a> Iterator for Chunks<'a> {
    type Item = RequestChunk<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let (bytes, unsent) = self.unsent.split_at(self.unsent.len().min(MAX_CHUNK_LEN));
        let &mut Self { id, flags, text_len, text_crc, offset, .. } = self;
        // At most `MAX_CHUNK_LEN`.
        self.offset += bytes.len() as u32;
        self.unsent = unsent;
        self.done = unsent.is_empty();
        Some(RequestChunk { id, flags, text_len, text_crc, offset, bytes })
    }
}

/// Shows nothing of the text.
impl fmt::Debug for Chunks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunks").field("id", &self.id).field("text_len", &self.text_len).finish_non_exhaustive()
    }
}

/// Shows nothing of the text.
impl fmt::Debug for RequestChunk<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestChunk")
            .field("id", &self.id)
            .field("text_len", &self.text_len)
            .field("offset", &self.offset)
            .field("len", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

/// Puts the parts of one text after another together again, in the caller's memory.
///
/// It keeps count; the caller appends the bytes of every part that is accepted.
#[derive(Debug, Default)]
pub struct Assembly {
    current: Option<Current>,
}

#[derive(Debug)]
struct Current {
    id: RequestId,
    flags: RequestFlags,
    text_len: u32,
    text_crc: u32,
    received: u32,
}

/// What an accepted part brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// The first part of a text, with more to come: clear the memory, append the part.
    First,
    /// A part with more to come: append it.
    More,
    /// The last part: append it (clear first when `first`), and compare [`crc32`] of the whole with `text_crc`.
    Last {
        /// The text has this part alone.
        first: bool,
    },
}

/// A part that does not go on where the text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkError {
    /// The text that is incomplete: the one of the part, which the sender must send again from its beginning.
    pub id: RequestId,
}

impl fmt::Display for ChunkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a part of a text is missing; send the request again")
    }
}

impl core::error::Error for ChunkError {}

impl Assembly {
    /// Expects the first part of a text.
    pub const fn new() -> Self {
        Self { current: None }
    }

    /// Takes the next part. A first part begins a new text, whatever was before it: see [`pending`](Self::pending).
    ///
    /// # Errors
    ///
    /// [`ChunkError`] when a part is missing before this one. What was begun is forgotten.
    pub fn accept(&mut self, chunk: &RequestChunk<'_>) -> Result<Progress, ChunkError> {
        let error = ChunkError { id: chunk.id };
        let len = u32::try_from(chunk.bytes.len()).map_err(|_| error)?;
        let first = chunk.offset == 0;
        let received = match self.current.take() {
            _ if first => 0,
            Some(current) if current.continues(chunk) => current.received,
            _ => return Err(error),
        };
        let received = received.checked_add(len).filter(|&received| received <= chunk.text_len).ok_or(error)?;
        if received == chunk.text_len {
            return Ok(Progress::Last { first });
        }
        let &RequestChunk { id, flags, text_len, text_crc, .. } = chunk;
        self.current = Some(Current { id, flags, text_len, text_crc, received });
        Ok(if first { Progress::First } else { Progress::More })
    }

    /// The text of which some parts came, and not the last.
    pub fn pending(&self) -> Option<RequestId> {
        self.current.as_ref().map(|current| current.id)
    }

    /// Forgets the text that was begun.
    pub fn reset(&mut self) {
        self.current = None;
    }
}

impl Current {
    fn continues(&self, chunk: &RequestChunk<'_>) -> bool {
        (self.id, self.flags, self.text_len, self.text_crc, self.received)
            == (chunk.id, chunk.flags, chunk.text_len, chunk.text_crc, chunk.offset)
    }
}
