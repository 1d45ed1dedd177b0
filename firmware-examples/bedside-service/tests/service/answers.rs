//! Answers are those of the runtime, and the command line says what is wrong.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bedside_service::client::{Client, Outcome};
use bedside_service::line::{Line, Read};
use kdh_runtime::format::wire::{Decoder, ErrorCode, Frame, Hello, MAX_FRAME_LEN, Role};

use crate::daemon::{Daemon, all, check, texts, tiny};

#[test]
fn are_those_of_the_runtime() {
    let daemon = Daemon::start(|command, _| {
        command.args(["--threads", "2"]);
    });
    let mut texts = texts(500);
    // Thousands of windows; and some, each sentence another.
    texts.push("x ".repeat(100_000).into());
    texts.push(texts.concat().into());
    let outcomes = all(&mut daemon.client(), 0, &texts);
    check(&texts, &outcomes);
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Labelled(answer) if !answer.truncated)));
}

#[test]
fn hold_every_label_when_asked() {
    let daemon = Daemon::start(|_, _| {});
    let outcomes = all(&mut daemon.client().all_labels(), 0, &texts(3));
    for outcome in outcomes {
        let Outcome::Labelled(answer) = outcome else { panic!("{outcome:?}") };
        let codes: Vec<_> = answer.labels.iter().map(|label| label.code.as_str()).collect();
        assert_eq!(codes, ["A", "B", "C"]);
    }
}

#[test]
fn a_text_that_cannot_be_labelled_is_refused() {
    let daemon = Daemon::start(|command, _| {
        command.args(["--max-text-bytes", "1000"]);
    });
    let texts: [Arc<str>; 3] = [Arc::from(" \n"), Arc::from("x".repeat(1001)), Arc::from("Pulse 71.")];
    let outcomes = all(&mut daemon.client(), 0, &texts);
    assert_eq!(outcomes[0], Outcome::Refused(ErrorCode::NoTokens));
    assert_eq!(outcomes[1], Outcome::Refused(ErrorCode::TextTooLong));
    assert!(matches!(outcomes[2], Outcome::Labelled(_)));
}

#[test]
fn a_display_gets_a_copy() {
    let daemon = Daemon::start(|_, _| {});
    daemon.wait_for_log("ready");
    let display = Line::socket(std::os::unix::net::UnixStream::connect(daemon.socket()).unwrap()).unwrap();
    let hello = Hello { min_version: 1, max_version: 1, role: Role::Display, session: 5, software: "test" };
    display.write_all(Frame::Hello(hello).encode(&mut [0; MAX_FRAME_LEN]).unwrap(), Duration::from_secs(1)).unwrap();

    let (mut decoder, mut buffer, start) = (Decoder::new(), [0; 4096], Instant::now());
    let (mut client, mut welcomed, mut copied) = (Client::socket(77, &daemon.socket()), false, None);
    while copied.is_none() {
        assert!(start.elapsed() < Duration::from_secs(20));
        client.step(Duration::from_millis(5), |_, _| {});
        let Read::Bytes(len) = display.read(&mut buffer, Duration::from_millis(5)).unwrap() else { continue };
        let mut unread = &buffer[..len];
        while let Some(frame) = decoder.take(&mut unread) {
            match frame.unwrap() {
                Frame::Welcome(welcome) => {
                    assert_eq!((welcome.version, welcome.session, welcome.labels), (1, 5, 3));
                    welcomed = true;
                    client.submit(41, Arc::from("Pulse 71."));
                }
                Frame::Report(report) => copied = Some((report.id.session, report.id.number)),
                _ => {}
            }
        }
    }
    assert!(welcomed);
    assert_eq!(copied, Some((77, 41)));
}

#[test]
fn bad_usage_says_what_to_do() {
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_kdh-bedside")).args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap() + &String::from_utf8(output.stdout).unwrap())
    };
    let tiny = tiny().into_os_string().into_string().unwrap();
    for (arguments, message) in [
        (&[][..], "give --bundle FILE"),
        (&["--bundle", &tiny], "give --trust FILE"),
        (&["--bundle", &tiny, "--allow-unsigned"], "give --socket PATH"),
        (&["--bundle", &tiny, "--socket", "s", "--threads", "0"], "--threads takes a number from 1 to 256"),
        (&["--bundle", "missing.kdh", "--allow-unsigned", "--socket", "s"], "cannot open the bundle"),
        (&["--bundle", &tiny, "--trust", "missing", "--socket", "s"], "cannot read the trust file"),
        (&["--nonsense"], "see --help"),
    ] {
        let (code, printed) = run(arguments);
        assert_eq!(code, Some(2), "{printed}");
        assert!(printed.contains(message), "{printed}");
    }
    let (code, printed) = run(&["--help"]);
    assert_eq!(code, Some(0));
    assert!(printed.contains("--drain-seconds"));
}

#[test]
fn the_memory_figure_is_a_bound() {
    let output = Command::new(env!("CARGO_BIN_EXE_kdh-bedside"))
        .arg("--bundle")
        .arg(tiny())
        .args(["--allow-unsigned", "--print-memory", "--max-text-bytes", "65536"])
        .output()
        .unwrap();
    assert!(output.status.success());
    let printed = String::from_utf8(output.stdout).unwrap();
    let limit =
        printed.lines().find_map(|line| line.strip_prefix("MemoryMax=")?.strip_suffix('M')?.parse::<u64>().ok());
    let daemon = Daemon::start(|command, _| {
        command.args(["--max-text-bytes", "65536"]);
    });
    let mut long = texts(200);
    long.extend((0..50).map(|_| Arc::from("Pulse 71. ".repeat(6000))));
    all(&mut daemon.client(), 0, &long);
    let used = bedside_service::memory::status(&daemon.child.id().to_string(), "VmHWM:");
    assert!(used <= limit.unwrap() << 20, "{used} of {printed}");
}
