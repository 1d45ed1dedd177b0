//! What comes over a line can be anything.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use kdh_runtime::format::wire::{Chunks, ErrorCode, Frame, Hello, MAX_FRAME_LEN, RequestFlags, RequestId, Role};

use crate::daemon::{Daemon, all, check, texts};

fn hello(session: u32) -> Vec<u8> {
    let hello = Hello { min_version: 1, max_version: 1, role: Role::Requester, session, software: "test" };
    Frame::Hello(hello).encode(&mut [0; MAX_FRAME_LEN]).unwrap().to_vec()
}

fn request(session: u32, number: u32, text: &str) -> Vec<u8> {
    let chunks = Chunks::new(RequestId { session, number }, RequestFlags::default(), text).unwrap();
    chunks.flat_map(|chunk| Frame::Request(chunk).encode(&mut [0; MAX_FRAME_LEN]).unwrap().to_vec()).collect()
}

/// The first error frame that comes.
fn error(stream: &mut UnixStream) -> (Option<RequestId>, ErrorCode) {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut decoder = kdh_runtime::format::wire::Decoder::new();
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        if let Some(Ok(Frame::Error(error))) = decoder.push(byte[0]) {
            return (error.id, error.code);
        }
    }
}

#[test]
fn noise_does_not_hurt_others() {
    let daemon = Daemon::start(|_, _| {});
    daemon.wait_for_log("ready");
    let mut noisy: Vec<_> = (0..4).map(|_| UnixStream::connect(daemon.socket()).unwrap()).collect();
    let noise: Vec<u8> = (0..200_000_u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for stream in &mut noisy {
        stream.write_all(&noise).unwrap();
    }
    let texts = texts(200);
    check(&texts, &all(&mut daemon.client(), 0, &texts));
    drop(noisy);
}

#[test]
fn a_client_that_takes_no_answers_is_not_read_from() {
    let daemon = Daemon::start(|_, _| {});
    daemon.wait_for_log("ready");
    let mut deaf = UnixStream::connect(daemon.socket()).unwrap();
    deaf.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    deaf.write_all(&hello(1)).unwrap();
    // Answers fill the socket, then the outbox; then nothing is read, and this blocks.
    let blocked = (0..100_000).position(|number| deaf.write_all(&request(1, number, "Pulse 71. Pulse 72.")).is_err());
    assert!(blocked.is_some());
    let before = bedside_service::memory::status(&daemon.child.id().to_string(), "VmRSS:");
    let texts = texts(500);
    check(&texts, &all(&mut daemon.client(), 0, &texts));
    let after = bedside_service::memory::status(&daemon.child.id().to_string(), "VmRSS:");
    assert!(after <= before + (1 << 20), "{before} to {after}");
}

#[test]
fn a_request_needs_a_session() {
    let daemon = Daemon::start(|_, _| {});
    daemon.wait_for_log("ready");
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    let id = |session, number| Some(RequestId { session, number });
    stream.write_all(&request(9, 1, "Pulse 71.")).unwrap();
    assert_eq!(error(&mut stream), (id(9, 1), ErrorCode::NoSession));
    stream.write_all(&hello(9)).unwrap();
    stream.write_all(&request(8, 2, "Pulse 71.")).unwrap();
    assert_eq!(error(&mut stream), (id(8, 2), ErrorCode::NoSession));
    // A part in the middle is missing.
    let long = request(9, 3, &"Pulse 71. ".repeat(200));
    let ends: Vec<_> = long.windows(2).enumerate().filter(|(_, pair)| pair == &[0, 0]).map(|(at, _)| at + 1).collect();
    stream.write_all(&[&long[..ends[1]], &long[ends[2]..]].concat()).unwrap();
    assert_eq!(error(&mut stream), (id(9, 3), ErrorCode::IncompleteText));
    // A text that is never finished does not keep its slot.
    stream.write_all(&request(9, 4, &"Pulse 71. ".repeat(200))[..1000]).unwrap();
    assert_eq!(error(&mut stream), (id(9, 4), ErrorCode::IncompleteText));
    let unspoken = Hello { min_version: 2, max_version: 9, role: Role::Requester, session: 9, software: "test" };
    stream.write_all(Frame::Hello(unspoken).encode(&mut [0; MAX_FRAME_LEN]).unwrap()).unwrap();
    assert_eq!(error(&mut stream), (None, ErrorCode::UnsupportedVersion));
}

#[test]
fn no_text_is_logged() {
    let mut daemon = Daemon::start(|_, _| {});
    let secret = "Zanzibarius";
    let texts: Vec<Arc<str>> = vec![format!("{secret} has a cough.").into(), secret.into(), "\u{7}".into()];
    all(&mut daemon.client(), 0, &texts);
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    let named = Hello { min_version: 1, max_version: 1, role: Role::Requester, session: 1, software: secret };
    stream.write_all(Frame::Hello(named).encode(&mut [0; MAX_FRAME_LEN]).unwrap()).unwrap();
    stream.write_all(secret.as_bytes()).unwrap();
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(daemon.wait_for_end().success());
    let log = daemon.log();
    assert!(log.contains("ended: 2 texts labelled") && !log.contains(secret), "{log}");
}
