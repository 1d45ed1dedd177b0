//! What comes over a line can be anything.

use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use kdh_runtime::BundleFile;
use kdh_runtime::format::SectionKind;
use kdh_runtime::format::wire::{Chunks, ErrorCode, Frame, Hello, MAX_FRAME_LEN, RequestFlags, RequestId, Role};
use kdh_runtime::text::{Tokenizer, TokenizerOptions};

use crate::daemon::{Daemon, all, check, texts, tiny};

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

/// Whether the bytes lie in memory that a process can write.
fn holds(process: u32, bytes: &[u8]) -> bool {
    let maps = std::fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    let memory = std::fs::File::open(format!("/proc/{process}/mem")).unwrap();
    let writable = maps.lines().filter(|line| line.contains(" rw"));
    let ranges = writable.filter_map(|line| line.split(' ').next()?.split_once('-'));
    let address = |text: &str| u64::from_str_radix(text, 16).unwrap();
    let mut read = 0;
    let found = ranges.map(|(start, end)| (address(start), address(end))).any(|(start, end)| {
        let mut content = vec![0; (end - start) as usize];
        // Some of the system's own cannot be read.
        read += content.len() * usize::from(memory.read_exact_at(&mut content, start).is_ok());
        content.windows(bytes.len()).any(|window| window == bytes)
    });
    assert!(found || read > 1 << 20, "{read}");
    found
}

#[test]
fn a_worker_keeps_no_tokens_of_a_text() {
    let file = BundleFile::open(tiny()).unwrap();
    let bundle = file.verify().unwrap();
    let manifest = bundle.manifest().unwrap();
    let (spec, vocabulary) = (&manifest.tokenizer, bundle.section(SectionKind::Vocabulary).unwrap());
    let options = TokenizerOptions { lowercase: spec.lowercase, cls: spec.cls, sep: spec.sep, unk: spec.unk };
    let text = "The wound is red and warm, pulse 71, and the cells divided again.";
    let mut ids: Vec<u8> = Vec::new();
    Tokenizer::new(vocabulary, &options).unwrap().tokenize(text, |token| {
        ids.extend(token.id.to_ne_bytes());
        ControlFlow::Continue(())
    });
    assert!(ids.len() > 4 * 20);

    let daemon = Daemon::start(|_, _| {});
    // Of one window, and the last window of many.
    for (number, text) in [(0, text.to_owned()), (1, format!("{}{text}", "He slept well. ".repeat(200)))] {
        let texts = [Arc::from(text)];
        check(&texts, &all(&mut daemon.client(), number, &texts));
        assert!(holds(std::process::id(), &ids));
        assert!(!holds(daemon.child.id(), &ids), "{number}");
    }
}
