//! A process that updates a model store and writes an audit trail on a real file system is killed at random moments, again and
//! again: nothing that it had done is lost, and what it was doing is done or not.

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kdh_format::{AuditEntry, AuditStatus, BundleWriter, KeyRole, SecretKey, sign_bundle};
use kdh_runtime::audit::{AuditLog, AuditOptions, verify};
use kdh_runtime::store::{Store, WentBack};
use kdh_runtime::{ARITHMETIC, Bundle, LabelerOptions, Trust};

use crate::self_test::recorded;

/// Tells the test that it is the process to be killed, and its folder.
const FOLDER: &str = "KDH_TEST_KILLED";
/// In front of what the process says.
const MARK: &str = "> ";
const ROUNDS: usize = 60;

fn key() -> SecretKey {
    SecretKey::from_seed(&[5; 32], KeyRole::Release, "maker").unwrap()
}

fn options() -> LabelerOptions {
    LabelerOptions::new().trust(Trust::new().key(key().public().clone()).unwrap())
}

/// Makes signed bundles that differ in their counter.
struct Maker(Vec<u8>);

impl Maker {
    fn new() -> Self {
        Self(recorded(ARITHMETIC, 0, |bits| bits))
    }

    fn release(&self, counter: u64) -> Vec<u8> {
        let writer = BundleWriter::of(&Bundle::parse(&self.0).unwrap()).rollback_counter(counter);
        sign_bundle(&Bundle::parse(&writer.finish().unwrap()).unwrap(), &key()).unwrap()
    }

    fn digest(&self, counter: u64) -> [u8; 32] {
        Bundle::parse(&self.release(counter)).unwrap().digest()
    }
}

/// What a store must hold: counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Held {
    /// Of the bundle that the next start takes; 0 when there is none.
    active: u64,
    minimum: u64,
}

fn held(store: &Store) -> Held {
    let status = store.status().unwrap();
    let slot = status.active.map(|slot| status.slots[slot as usize].unwrap());
    Held { active: slot.map_or(0, |slot| slot.rollback_counter), minimum: status.minimum_rollback_counter }
}

/// Verifies
#[test]
fn a_killed_process_leaves_a_store_and_a_trail() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        update_for_ever(Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    let (models, trail) = (folder.path().join("models"), folder.path().join("trail"));
    let maker = Maker::new();
    let (mut before, mut records, mut interrupted, mut random) = (Held::default(), 0, [0_usize; 4], 9_u64);
    for round in 0..ROUNDS {
        random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        let said = kill(folder.path(), random >> 33);
        // What it had done, and what it was doing.
        let mut doing = None;
        let mut may_be = vec![before];
        for line in &said {
            let numbers: Vec<u64> = line.split(' ').skip(1).map(|number| number.parse().unwrap()).collect();
            match (line.split(' ').next().unwrap(), &numbers[..]) {
                // The slot of a bundle on trial is emptied before it is written: the good one stands in.
                ("install", &[counter]) => {
                    doing = Some(0);
                    may_be.extend([Held { active: counter, ..before }, Held { active: before.minimum, ..before }]);
                }
                ("start", _) => {
                    doing = Some(1);
                    may_be.push(Held { active: before.minimum, ..before });
                }
                ("mark-good", &[counter]) => {
                    doing = Some(2);
                    may_be.push(Held { active: counter, minimum: counter });
                }
                ("go-back", _) => {
                    doing = Some(3);
                    may_be.push(Held { active: before.minimum, ..before });
                }
                ("done", &[active, minimum]) => {
                    before = Held { active, minimum };
                    (may_be, doing) = (vec![before], None);
                }
                ("recorded", &[count]) => records = count,
                _ => panic!("{line}"),
            }
        }
        if let Some(doing) = doing {
            interrupted[doing] += 1;
        }
        // Its locks went with it.
        let store = Store::open(&models).unwrap();
        let found = held(&store);
        assert!(may_be.contains(&found), "round {round}: {found:?}, and not one of {may_be:?} after {said:?}");
        if found.active > 0 {
            let started = store.start(&options()).unwrap_or_else(|error| panic!("round {round}: {error}"));
            let went_back = matches!(started.went_back, Some(WentBack::FailedStarts));
            assert!(went_back || started.went_back.is_none(), "round {round}: {:?}", started.went_back);
            let expected = if went_back { found.minimum } else { found.active };
            assert_eq!(started.labeler.bundle_digest(), maker.digest(expected), "round {round}");
        }
        before = held(&store);
        assert!(before.minimum == found.minimum && before.active >= before.minimum);
        // One record may be there of which it could not say so any more.
        let log = AuditLog::open(&trail, AuditOptions::default()).unwrap();
        assert!((records..=records + 1).contains(&(log.head().sequence - u64::from(log.repaired().is_some()))));
        records = verify(&trail, Some(log.head()), |_, _| {}).unwrap().head.sequence;
    }
    println!("interrupted: {interrupted:?} installs, starts, marks, ways back; {before:?}, {records} records");
    assert!(interrupted.iter().sum::<usize>() > ROUNDS / 2 && before.minimum > 0 && records > ROUNDS as u64);
}

/// Starts the process, kills it at a random moment of one of its first steps, and gives what it said.
fn kill(folder: &Path, random: u64) -> Vec<String> {
    let test = "killed::a_killed_process_leaves_a_store_and_a_trail";
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads", "1"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = Vec::new();
    let (mut at, mut longest) = (Instant::now(), Duration::from_millis(1));
    // The harness says things of its own. Two lines of three are ends of a step.
    while said.len() < 1 + (random % 17) as usize {
        let line = lines.next().expect("the process ended by itself").unwrap();
        if let Some(line) = line.strip_prefix(MARK) {
            said.push(line.to_owned());
            longest = if said.len() > 1 { longest.max(at.elapsed()) } else { longest };
            at = Instant::now();
        }
    }
    std::thread::sleep(longest.mul_f64((random / 17 % 1000) as f64 / 1000.0));
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), None, "it was not the kill that ended it");
    // What it said is in the pipe, but a line that the kill cut off.
    let text: Vec<String> = lines.map_while(Result::ok).collect();
    said.extend(text.iter().filter_map(|line| line.strip_prefix(MARK)).map(str::to_owned));
    said
}

/// Installs, starts and judges one bundle after the other, and says what it begins and what it has done.
fn update_for_ever(folder: &Path) -> ! {
    let say = |line: String| {
        let mut output = io::stdout().lock();
        output.write_all(format!("\n{MARK}{line}\n").as_bytes()).and_then(|()| output.flush()).unwrap();
    };
    let maker = Maker::new();
    let store = Store::open(folder.join("models")).unwrap();
    let mut log = AuditLog::open(folder.join("trail"), AuditOptions::default()).unwrap();
    let done = |log: &mut AuditLog| {
        let Held { active, minimum } = held(&store);
        say(format!("done {active} {minimum}"));
        log.append(&AuditEntry::new(active, [0; 32], AuditStatus::Started)).unwrap();
        say(format!("recorded {}", log.head().sequence));
    };
    let slots = store.status().unwrap().slots;
    let newest = slots.into_iter().flatten().map(|slot| slot.rollback_counter).max().unwrap_or_default();
    let begin = Instant::now();
    for counter in newest + 1.. {
        let release = maker.release(counter);
        say(format!("install {counter}"));
        store.install(&release, &options()).unwrap();
        done(&mut log);
        say("start".into());
        let started = store.start(&options()).unwrap();
        done(&mut log);
        match counter % 4 {
            0 if held(&store).minimum > 0 => {
                say("go-back".into());
                store.go_back().unwrap();
                done(&mut log);
            }
            // The next is installed over this one.
            1 => {}
            _ => {
                say(format!("mark-good {counter}"));
                store.mark_good(started.labeler.bundle_digest()).unwrap();
                done(&mut log);
            }
        }
        // Should whoever kills it be gone.
        assert!(begin.elapsed() < Duration::from_secs(300), "nobody kills this process");
    }
    unreachable!("there are more counters than time")
}
