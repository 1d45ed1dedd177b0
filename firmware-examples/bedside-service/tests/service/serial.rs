//! A serial line that flips bits: a pseudo-terminal with a bad wire before it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use bedside_service::client::{Client, random_session};
use bedside_service::line::{Line, Read as Found};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::openpty;
use nix::unistd::ttyname;

use crate::daemon::{Daemon, all, check, texts};

/// One byte in so many is damaged.
const DAMAGED: u32 = 5000;

#[test]
fn damage_costs_time_and_no_answer() {
    let pty = openpty(None, None).unwrap();
    fcntl(&pty.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let device = ttyname(&pty.slave).unwrap();
    let daemon = Daemon::start(|command, _| {
        command.arg("--serial").arg(&device);
    });
    daemon.wait_for_log("serving");

    let (near, far) = UnixStream::pair().unwrap();
    far.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let (master, done, random) = (Line::open(pty.master), AtomicBool::new(false), AtomicU32::new(1));
    let damage = |bytes: &mut [u8]| {
        for byte in bytes {
            let step = |state: u32| state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let state = random.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |state| Some(step(state))).unwrap();
            if (state >> 8) % DAMAGED == 0 {
                *byte ^= 1 << (state >> 29);
            }
        }
    };
    let mut client = Client::new(random_session(), move || Line::socket(near.try_clone()?))
        .answer_timeout(Duration::from_millis(500));
    let texts = texts(400);
    let outcomes = thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 256];
            while !done.load(Ordering::SeqCst) {
                if let Ok(len) = (&far).read(&mut buffer) {
                    damage(&mut buffer[..len]);
                    master.write_all(&buffer[..len], Duration::from_secs(10)).unwrap();
                }
            }
        });
        scope.spawn(|| {
            let mut buffer = [0; 256];
            while !done.load(Ordering::SeqCst) {
                if let Ok(Found::Bytes(len)) = master.read(&mut buffer, Duration::from_millis(20)) {
                    damage(&mut buffer[..len]);
                    (&far).write_all(&buffer[..len]).unwrap();
                }
            }
        });
        let outcomes = all(&mut client, 0, &texts);
        done.store(true, Ordering::SeqCst);
        outcomes
    });
    check(&texts, &outcomes);
    let counters = client.counters();
    println!(
        "{} texts over a line that damages one byte in {DAMAGED}: all answered rightly, {counters:?}",
        texts.len()
    );
    assert!(counters.sent > texts.len() as u64, "the line did no harm");
}
