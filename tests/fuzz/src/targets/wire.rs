//! What comes over a line: frames, and the texts that they carry in parts.

use kdh_format::wire::{Assembly, Decoder, Frame, MAX_BODY_LEN, MAX_FRAME_LEN, Progress, crc32};

use super::{Outcome, Target};

pub(super) const WIRE: Target = Target {
    name: "wire",
    about: "bytes of a line, and frames with a right checksum: what is taken is sent again as it came, and texts come whole",
    short: 40_000,
    dictionary: &[b"\0\0", b"\x03\x01\x01", b"\xff\xff\xff\xff\x0f", b"\x80\x80\x40", b"\x05", b"\x04", b"\x08"],
    files: &["format/tests/golden/wire-v1.bin"],
    made: || {
        // Bodies of every type, to be given a checksum.
        let mut decoder = Decoder::new();
        let bytes = std::fs::read(crate::root().join("format/tests/golden/wire-v1.bin")).unwrap_or_default();
        let mut line = bytes.as_slice();
        let mut bodies = Vec::new();
        while let Some(result) = decoder.take(&mut line) {
            let mut buffer = [0; MAX_FRAME_LEN];
            let encoded = result.ok().and_then(|frame| frame.encode(&mut buffer).ok().map(<[u8]>::to_vec));
            if let Some(mut body) = encoded.as_deref().and_then(|frame| unstuff(frame.get(1..frame.len() - 1)?)) {
                body.truncate(body.len().saturating_sub(4));
                bodies.push(body);
            }
        }
        bodies
    },
    start: || {
        Box::new(|input| {
            let _ = receive(input);
            let body = &input[..input.len().min(MAX_BODY_LEN + 8)];
            let sum = crc32(&[&(body.len() as u16).to_le_bytes(), body].concat());
            let frame = stuff(&[body, &sum.to_le_bytes()].concat());
            receive(&[&[0], &frame[..], &[0]].concat())
        })
    },
};

fn receive(mut line: &[u8]) -> Outcome {
    let mut decoder = Decoder::new();
    let (mut assembly, mut text) = (Assembly::new(), Vec::new());
    let mut outcome = Outcome::accepted(0);
    while let Some(result) = decoder.take(&mut line) {
        match result {
            Ok(Frame::Unknown { .. }) => outcome = Outcome::accepted(1),
            Ok(frame) => {
                let mut buffer = [0; MAX_FRAME_LEN];
                let sent = frame.encode(&mut buffer).unwrap_or_else(|error| panic!("taken and not sent: {error}"));
                let mut again = Decoder::new();
                let mut sent = sent;
                assert!(again.take(&mut sent).is_some_and(|result| result.is_ok_and(|again| again == frame)));
                if let Frame::Request(chunk) = &frame {
                    match assembly.accept(chunk) {
                        Ok(progress) => {
                            if matches!(progress, Progress::First | Progress::Last { first: true }) {
                                text.clear();
                            }
                            text.extend_from_slice(chunk.bytes);
                            assert!(text.len() <= chunk.text_len as usize, "more than was announced");
                            let last = matches!(progress, Progress::Last { .. });
                            assert_eq!(last, text.len() == chunk.text_len as usize, "a text without its end");
                        }
                        Err(_) => text.clear(),
                    }
                }
                let _ = format!("{frame:?}");
                outcome = Outcome::accepted(frame_number(&frame));
            }
            Err(error) => outcome = Outcome::refused(&error),
        }
    }
    outcome
}

fn frame_number(frame: &Frame<'_>) -> usize {
    match frame {
        Frame::Hello(_) => 11,
        Frame::Welcome(_) => 2,
        Frame::Request(_) => 3,
        Frame::Report(_) => 4,
        Frame::Label(_) => 5,
        Frame::StatusRequest => 6,
        Frame::Status(_) => 7,
        Frame::Heartbeat(_) => 8,
        Frame::Error(_) => 9,
        _ => 10,
    }
}

/// Consistent overhead byte stuffing (Cheshire and Baker, 1999), without the zero at the end.
fn stuff(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![1];
    let mut code = 0;
    for &byte in bytes {
        if byte != 0 {
            out.push(byte);
            out[code] += 1;
        }
        if byte == 0 || out[code] == 0xFF {
            code = out.len();
            out.push(1);
        }
    }
    out
}

fn unstuff(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = bytes;
    while let Some((&code, after)) = rest.split_first() {
        let (run, next) = after.split_at_checked(usize::from(code).checked_sub(1)?)?;
        out.extend_from_slice(run);
        if code != 0xFF && !next.is_empty() {
            out.push(0);
        }
        rest = next;
    }
    Some(out)
}
