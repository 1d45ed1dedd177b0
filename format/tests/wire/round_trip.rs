//! What is written is read, and what breaks a rule is neither written nor read.

use kdh_format::heapless;
use kdh_format::wire::{
    Decoder, EncodeError, EvidenceRange, Frame, FrameError, Heartbeat, LabelFlags, LabelFrame, MAX_CHUNK_LEN,
    MAX_FRAME_LEN, RequestChunk, RequestFlags, RequestId,
};
use proptest::prelude::*;

use crate::frames::{ID, encode, longest, samples};

fn only(bytes: &[u8]) -> Result<Frame<'static>, FrameError> {
    let decoder = Box::leak(Box::new(Decoder::new()));
    let mut unread = bytes;
    let found = decoder.take(&mut unread).expect("a frame ends");
    assert!(unread.is_empty());
    found
}

/// A frame with a right checksum around any body.
fn framed(body: &[u8]) -> Vec<u8> {
    let len = (body.len() as u16).to_le_bytes();
    let crc = kdh_format::wire::crc32(&[&len, body].concat());
    let bytes = [body, &crc.to_le_bytes()].concat();
    let mut frame = vec![0; bytes.len() + bytes.len() / 254 + 3];
    let len = cobs::encode(&bytes, &mut frame[1..]);
    frame.truncate(len + 2);
    frame
}

#[test]
fn every_type() {
    for frame in samples().iter().chain(&longest()) {
        let bytes = encode(frame);
        assert!(bytes.len() <= MAX_FRAME_LEN);
        assert_eq!((bytes.first(), bytes.last()), (Some(&0), Some(&0)));
        assert!(!bytes[1..bytes.len() - 1].contains(&0));
        assert_eq!(only(&bytes).as_ref(), Ok(frame));
    }
}

#[test]
fn a_short_buffer_is_refused() {
    for frame in samples() {
        let len = encode(&frame).len();
        for short in 0..len {
            let error = frame.encode(&mut vec![0; short]).unwrap_err();
            assert_eq!(error, EncodeError::BufferTooShort { needed: MAX_FRAME_LEN }, "{short} of {len}");
        }
        assert!(frame.encode(&mut vec![0; len]).is_ok());
    }
}

#[test]
fn a_type_of_a_later_version_is_passed_over() {
    assert_eq!(only(&framed(&[200, 1, 2, 3])), Ok(Frame::Unknown { kind: 200 }));
    assert_eq!(Frame::Unknown { kind: 200 }.encode(&mut [0; MAX_FRAME_LEN]), Err(EncodeError::Invalid));
}

#[test]
fn fields_of_a_later_version_are_passed_over() {
    let heartbeat = Frame::Heartbeat(Heartbeat { sequence: 7, uptime_ms: 1500 });
    assert_eq!(only(&framed(&[8, 7, 0xDC, 0x0B])), Ok(heartbeat.clone()));
    assert_eq!(only(&framed(&[8, 7, 0xDC, 0x0B, 99, 99])), Ok(heartbeat));
    assert_eq!(only(&framed(&[8, 7, 0xDC])), Err(FrameError::Malformed));
    assert_eq!(only(&framed(&[])), Err(FrameError::Malformed));
}

#[test]
fn a_line_that_sticks_sends_no_frame() {
    let mut decoder = Decoder::new();
    for byte in 1..=u8::MAX {
        for len in 1..MAX_FRAME_LEN {
            // As it is, and behind a first byte that COBS would take.
            for first in [byte, len.min(255) as u8] {
                decoder.push(first);
                (1..len).for_each(|_| assert!(decoder.push(byte).is_none()));
                assert!(decoder.push(0).is_some_and(|found| found.is_err()), "{first} and {len} times {byte}");
            }
        }
    }
}

#[test]
fn rules_are_kept_by_writers() {
    let chunk = RequestChunk { id: ID, flags: RequestFlags(0), text_len: 3, text_crc: 0, offset: 0, bytes: b"abc" };
    let label = LabelFrame {
        id: ID,
        position: 0,
        index: 0,
        code: "A",
        probability: 0.5,
        threshold: 0.5,
        flags: LabelFlags(0),
        evidence: heapless::Vec::new(),
    };
    let mut buffer = [0; MAX_FRAME_LEN];
    assert!(Frame::Request(chunk).encode(&mut buffer).is_ok());
    let too_long = [b'x'; MAX_CHUNK_LEN + 1];
    let chunks = [
        RequestChunk { offset: 1, ..chunk },
        RequestChunk { offset: u32::MAX, ..chunk },
        RequestChunk { text_len: (1 << 20) + 1, ..chunk },
        RequestChunk { bytes: b"", ..chunk },
        RequestChunk { text_len: 1 << 20, bytes: &too_long, ..chunk },
    ];
    for chunk in chunks {
        assert_eq!(Frame::Request(chunk).encode(&mut buffer), Err(EncodeError::Invalid), "{chunk:?}");
    }
    assert!(Frame::Label(label.clone()).encode(&mut buffer).is_ok());
    let name = "n".repeat(129);
    let backwards = heapless::Vec::from_slice(&[EvidenceRange { start: 2, end: 1, share: 0.5 }]).unwrap();
    let labels = [
        LabelFrame { probability: f32::NAN, ..label.clone() },
        LabelFrame { probability: 1.5, ..label.clone() },
        LabelFrame { threshold: -0.1, ..label.clone() },
        LabelFrame { code: "\x1b[2J", ..label.clone() },
        LabelFrame { code: &name, ..label.clone() },
        LabelFrame { evidence: backwards, ..label },
    ];
    for label in labels {
        assert_eq!(Frame::Label(label.clone()).encode(&mut buffer), Err(EncodeError::Invalid), "{label:?}");
    }
}

/// Verifies: R-003
#[test]
fn nothing_shows_the_text() {
    let chunk = RequestChunk { id: ID, flags: RequestFlags(0), text_len: 6, text_crc: 7, offset: 0, bytes: b"secret" };
    let shown = format!("{:?} {chunk:?}", Frame::Request(chunk));
    assert!(!shown.contains("secret") && !shown.contains("115, 101") && !shown.contains("text_crc"), "{shown}");
}

proptest! {
    #[test]
    fn any_chunk(
        session in any::<u32>(),
        number in any::<u32>(),
        flags in any::<u8>(),
        bytes in prop::collection::vec(any::<u8>(), 1..=MAX_CHUNK_LEN),
        offset in 0_u32..1 << 19,
        text_crc in any::<u32>(),
    ) {
        let id = RequestId { session, number };
        let text_len = 1 << 20;
        let frame =
            Frame::Request(RequestChunk { id, flags: RequestFlags(flags), text_len, text_crc, offset, bytes: &bytes });
        let encoded = encode(&frame);
        let mut decoder = Decoder::new();
        let mut unread = encoded.as_slice();
        let found = decoder.take(&mut unread);
        prop_assert_eq!(found, Some(Ok(frame)));
    }

    /// The checksum is right, so that the reader behind it is reached.
    #[test]
    fn any_body(kind in 0_u8..12, rest in prop::collection::vec(any::<u8>(), 0..500)) {
        let mut body = vec![kind];
        body.extend(rest);
        let encoded = framed(&body);
        let mut decoder = Decoder::new();
        let mut unread = encoded.as_slice();
        if let Some(Ok(frame)) = decoder.take(&mut unread)
            && !matches!(frame, Frame::Unknown { .. })
        {
            // What a reader accepts a writer can say.
            prop_assert!(frame.encode(&mut [0; MAX_FRAME_LEN]).is_ok());
        }
    }

    #[test]
    fn pushed_one_by_one_or_taken_at_once(bytes in prop::collection::vec(prop_oneof![Just(0_u8), any::<u8>()], 0..3000)) {
        let (mut one, mut other) = (Decoder::new(), Decoder::new());
        let mut pushed = Vec::new();
        for &byte in &bytes {
            pushed.extend(one.push(byte).map(|found| format!("{found:?}")));
        }
        let (mut taken, mut unread) = (Vec::new(), bytes.as_slice());
        while let Some(found) = other.take(&mut unread) {
            taken.push(format!("{found:?}"));
        }
        prop_assert_eq!(pushed, taken);
    }
}
