//! Either side may be killed at any time: no answer is lost, none is mixed up.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bedside_service::client::Outcome;

use crate::daemon::{Daemon, check, expected, texts};

const TEXTS: usize = 3000;
const KILLS: usize = 5;

#[test]
fn the_service() {
    let mut daemon = Daemon::start(|_, _| {});
    let texts = texts(TEXTS);
    let (mut client, answered) = (daemon.client(), AtomicUsize::new(0));
    let (outcomes, counters) = thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut outcomes: Vec<Option<Outcome>> = vec![None; TEXTS];
            for (number, text) in (0..).zip(&texts) {
                client.submit(number, text.clone());
            }
            let start = Instant::now();
            while client.waiting() > 0 {
                assert!(start.elapsed() < Duration::from_secs(120), "{} texts wait", client.waiting());
                client.step(Duration::from_millis(20), |number, outcome| {
                    assert!(outcomes[number as usize].replace(outcome).is_none(), "{number} has two outcomes");
                    answered.fetch_add(1, Ordering::SeqCst);
                });
            }
            (outcomes, client.counters())
        });
        for kill in 1..=KILLS {
            while answered.load(Ordering::SeqCst) < kill * TEXTS / (KILLS + 1) {
                thread::sleep(Duration::from_micros(100));
            }
            // SIGKILL.
            daemon.child.kill().unwrap();
            daemon.child.wait().unwrap();
            daemon.child = Daemon::spawn(daemon.folder.path(), |_, _| {});
        }
        client.join().unwrap()
    });
    let outcomes: Vec<_> = outcomes.into_iter().flatten().collect();
    check(&texts, &outcomes);
    // More when the machine is so slow that a client takes the service's silence for its end.
    assert!(counters.lost_connections >= KILLS as u64, "{}", counters.lost_connections);
    println!("{TEXTS} texts, service killed {KILLS} times: all answered rightly, {} sent", counters.sent);
    assert!(counters.sent > TEXTS as u64, "no text was on its way when the service was killed");
}

#[test]
fn the_client() {
    let daemon = Daemon::start(|_, _| {});
    let texts = texts(TEXTS);
    let [input, answers] = ["texts", "answers"].map(|name| daemon.folder.path().join(name));
    std::fs::write(&input, texts.join("\n")).unwrap();
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kdh-bedside-client"));
        command.arg("--socket").arg(daemon.socket()).arg("--answers").args([&answers, &input]);
        command.stderr(Stdio::null()).spawn().unwrap()
    };
    let lines = || std::fs::read(&answers).unwrap_or_default().iter().filter(|&&byte| byte == b'\n').count();
    for kill in 1..=KILLS {
        let mut client = start();
        while lines() < kill * TEXTS / (KILLS + 1) {
            thread::sleep(Duration::from_micros(100));
        }
        client.kill().unwrap();
        client.wait().unwrap();
        assert!(lines() < TEXTS, "the client was done before it was killed");
        // A line that was not written whole.
        let torn = format!("{}17\tA=0.5", std::fs::read_to_string(&answers).unwrap());
        std::fs::write(&answers, torn).unwrap();
    }
    assert!(start().wait().unwrap().success());

    let written = std::fs::read_to_string(&answers).unwrap();
    let found: BTreeMap<usize, &str> = written
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(number, rest)| (number.parse().unwrap(), rest))
        .collect();
    assert_eq!((written.lines().count(), found.len()), (TEXTS, TEXTS));
    let line = |labels: Vec<crate::daemon::Label>| {
        let labels: Vec<_> = labels.iter().map(|(code, probability, _)| format!("{code}={probability}")).collect();
        labels.join(",")
    };
    let expected: Vec<Arc<str>> = expected(&texts).into_iter().map(|labels| line(labels).into()).collect();
    for (number, expected) in (1..).zip(expected) {
        assert_eq!(found.get(&number), Some(&&*expected), "{number}");
    }
    println!("{TEXTS} texts, client killed {KILLS} times: all answered rightly, each once");
}
