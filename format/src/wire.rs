//! Frames between a box, the software beside it and a display: what crosses a socket or a serial line.
//!
//! A [`Frame`] is postcard behind a type byte, a CRC-32 behind that, COBS around both, and a zero byte on either side.
//! [`Frame::encode`] writes one into the caller's buffer, a [`Decoder`] is pushed bytes and gives frames back, however much
//! noise lies between them. Neither allocates. `WIRE.md` in this crate's folder states the layout byte by byte.
//!
//! ```
//! use kdh_format::wire::{Decoder, Frame, Heartbeat, MAX_FRAME_LEN};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut buffer = [0; MAX_FRAME_LEN];
//! let sent = Frame::Heartbeat(Heartbeat { sequence: 7, uptime_ms: 1500 });
//! let bytes = sent.encode(&mut buffer)?;
//!
//! let mut decoder = Decoder::new();
//! for &byte in b"noise".iter().chain(bytes) {
//!     match decoder.push(byte) {
//!         Some(Ok(received)) => assert_eq!(received, sent),
//!         Some(Err(damage)) => println!("{damage}"), // the noise; the next frame is whole again
//!         None => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod check;
mod codec;
mod decoder;
mod frame;
mod text;

pub use codec::EncodeError;
pub use decoder::{Decoder, FrameError};
pub use frame::{
    Abstention, ErrorCode, ErrorFrame, EvidenceRange, Frame, Heartbeat, Hello, LabelFlags, LabelFrame, ReportFlags,
    ReportFrame, RequestChunk, RequestFlags, RequestId, Role, ServiceState, Status, Welcome,
};
pub use text::{Assembly, ChunkError, Chunks, Progress, crc32};

/// Newest version of the protocol that this crate speaks.
pub const VERSION: u16 = 1;
/// Oldest version of the protocol that this crate speaks.
pub const MIN_VERSION: u16 = 1;

/// Longest body, type byte included, in bytes.
pub const MAX_BODY_LEN: usize = 512;
/// Longest frame on the wire, with both zero bytes.
pub const MAX_FRAME_LEN: usize = cobs::max_encoding_length(MAX_BODY_LEN + CRC_LEN) + 2;
/// Most bytes of a text in one [`RequestChunk`].
pub const MAX_CHUNK_LEN: usize = 448;
/// Longest text that the protocol carries, in bytes. A service may take less: [`Welcome::max_text_len`].
pub const MAX_TEXT_LEN: u32 = 1 << 20;
/// Most evidence ranges of a label.
pub const MAX_EVIDENCE: usize = 8;
/// Longest name, code or version in a frame, in bytes.
pub const MAX_NAME_LEN: usize = 128;

/// Bytes of the CRC-32 behind a body.
pub(crate) const CRC_LEN: usize = 4;

/// The version that two sides speak: the newest that both do. `None` when there is none.
///
/// Both ranges are from the oldest to the newest version that a side speaks, as its [`Hello`] says.
pub fn negotiate(ours: (u16, u16), theirs: (u16, u16)) -> Option<u16> {
    let newest = ours.1.min(theirs.1);
    (newest >= ours.0 && newest >= theirs.0).then_some(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_that_both_speak() {
        assert_eq!(negotiate((1, 1), (1, 1)), Some(1));
        assert_eq!(negotiate((1, 3), (2, 5)), Some(3));
        assert_eq!(negotiate((2, 5), (1, 3)), Some(3));
        assert_eq!(negotiate((1, 1), (2, 3)), None);
        assert_eq!(negotiate((4, 6), (1, 3)), None);
    }

    #[test]
    fn an_empty_range_speaks_nothing() {
        assert_eq!(negotiate((1, 3), (3, 1)), None);
    }
}
