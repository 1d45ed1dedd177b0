//! What systemd asks for and is told.

use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bedside_service::client::Outcome;
use nix::sys::signal::Signal;

use crate::daemon::{Daemon, all, check, root, texts};

/// A service that tells `UnixDatagram` how it does.
fn supervised() -> (Daemon, UnixDatagram) {
    let mut socket = None;
    let daemon = Daemon::start(|command, folder| {
        let path = folder.join("notify");
        socket = Some(UnixDatagram::bind(&path).unwrap());
        command.env("NOTIFY_SOCKET", path).env("WATCHDOG_USEC", "200000");
    });
    let socket = socket.unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    (daemon, socket)
}

/// Messages up to one that begins with `last`.
fn until(socket: &UnixDatagram, last: &str) -> Vec<String> {
    let (mut messages, start) = (Vec::new(), Instant::now());
    loop {
        let mut buffer = [0; 512];
        let len = socket.recv(&mut buffer).unwrap();
        messages.push(String::from_utf8(buffer[..len].to_vec()).unwrap());
        if messages.last().is_some_and(|message| message.starts_with(last)) {
            return messages;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{messages:?}");
    }
}

fn bundle(daemon: &Daemon, number: u32) -> [u8; 8] {
    match &all(&mut daemon.client(), number, &texts(1))[..] {
        [Outcome::Labelled(answer)] => answer.bundle,
        other => panic!("{other:?}"),
    }
}

#[test]
fn is_told_that_the_service_is_ready_alive_and_ending() {
    let (mut daemon, socket) = supervised();
    assert_eq!(until(&socket, "READY=1").len(), 1);
    let start = Instant::now();
    for _ in 0..10 {
        until(&socket, "WATCHDOG=1");
    }
    let took = start.elapsed();
    // Every 100 ms at the latest; the first comes at once.
    assert!(took < Duration::from_millis(10 * 200), "{took:?}");
    daemon.signal(Signal::SIGTERM);
    until(&socket, "STOPPING=1");
    assert!(daemon.wait_for_end().success());
    assert!(!daemon.socket().exists());
}

#[test]
fn a_reload_takes_a_good_bundle_and_refuses_a_bad_one() {
    let (daemon, socket) = supervised();
    until(&socket, "READY=1");
    let model = daemon.folder.path().join("model.kdh");
    let replace = |bytes: &[u8]| {
        let new = daemon.folder.path().join("new.kdh");
        std::fs::write(&new, bytes).unwrap();
        std::fs::rename(new, &model).unwrap();
        daemon.signal(Signal::SIGHUP);
        until(&socket, "RELOADING=1");
        until(&socket, "READY=1");
    };
    let old = bundle(&daemon, 0);

    let mut bytes = std::fs::read(&model).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    replace(&bytes);
    daemon.wait_for_log("the new bundle is refused, the old model goes on");
    assert_eq!(bundle(&daemon, 1), old);

    replace(&std::fs::read(root().join("models/default.kdh")).unwrap());
    let new = bundle(&daemon, 2);
    assert_ne!(new, old);

    std::fs::remove_file(&model).unwrap();
    daemon.signal(Signal::SIGHUP);
    until(&socket, "READY=1");
    assert_eq!(bundle(&daemon, 3), new);
}

#[test]
fn no_answer_is_lost_over_a_reload() {
    let (daemon, socket) = supervised();
    until(&socket, "READY=1");
    let texts = texts(2000);
    let outcomes = std::thread::scope(|scope| {
        let client = scope.spawn(|| all(&mut daemon.client(), 0, &texts));
        for _ in 0..5 {
            daemon.signal(Signal::SIGHUP);
            until(&socket, "READY=1");
        }
        client.join().unwrap()
    });
    check(&texts, &outcomes);
}

#[test]
fn an_end_answers_what_was_taken() {
    let (mut daemon, socket) = supervised();
    until(&socket, "READY=1");
    let mut client = daemon.client();
    let texts: Vec<Arc<str>> = (0..4).map(|_| Arc::from("Pulse 71. ".repeat(10_000))).collect();
    for (number, text) in (0..).zip(&texts) {
        client.submit(number, text.clone());
    }
    let mut answered = 0;
    let mut count = |_, outcome| answered += u32::from(matches!(outcome, Outcome::Labelled(_)));
    while client.counters().sent < 4 {
        client.step(Duration::from_millis(1), &mut count);
    }
    daemon.signal(Signal::SIGTERM);
    let start = Instant::now();
    let status = loop {
        client.step(Duration::from_millis(5), &mut count);
        if let Some(status) = daemon.child.try_wait().unwrap() {
            break status;
        }
        assert!(start.elapsed() < Duration::from_secs(20));
    };
    // What the service has written before its end is there to be read.
    for _ in 0..10 {
        client.step(Duration::from_millis(5), &mut count);
    }
    // A text whose first part had not come is refused with "draining", and sent again later.
    let log = daemon.log();
    assert!(status.success() && answered >= 1, "{answered} {log}");
    assert!(log.contains(&format!("ended: {answered} texts labelled")), "{answered} {log}");
}
