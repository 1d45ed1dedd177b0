//! Version 1 stays readable, and is what this crate writes.

use std::path::Path;

use kdh_format::wire::{Decoder, Frame};

use crate::frames::{encode, samples};

/// `KDH_WRITE_GOLDEN=1` writes the file: once, when a version of the protocol is new.
#[test]
fn version_1() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/wire-v1.bin");
    let bytes: Vec<u8> = samples().iter().flat_map(encode).collect();
    if std::env::var_os("KDH_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, &bytes).unwrap();
    }
    let golden = std::fs::read(path).unwrap();
    assert_eq!(bytes, golden);

    let (mut decoder, mut unread, mut frames) = (Decoder::new(), golden.as_slice(), samples().into_iter());
    while let Some(frame) = decoder.take(&mut unread) {
        assert_eq!(frame.ok(), frames.next());
    }
    assert_eq!(frames.next(), None);
}

/// The example of `WIRE.md`, byte by byte.
#[test]
fn the_example_of_the_specification() {
    let page = include_str!("../../WIRE.md");
    let line = page.lines().find_map(|line| line.strip_prefix("    00 ")).unwrap();
    let bytes: Vec<u8> = format!("00 {line}").split(' ').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    let frame = samples().into_iter().find(|frame| matches!(frame, Frame::Heartbeat(_))).unwrap();
    assert_eq!(bytes, encode(&frame));
}
