//! Studies in SQLite and in PostgreSQL: the same checks over both, and workers that are killed.
//!
//! PostgreSQL is a server of our own in a temporary folder, from Debian's package `postgresql`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper of a test may panic")]

use core::time::Duration;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use std::{env, thread};

use kdh_trainer::pso::{
    Ask, Assignment, Direction, Domain, Goal, Lease, Optimizer, Outcome, Point, Postgres, RandomSearch, Record, Space,
    Sqlite, Status, StopReason, Storage, Study, StudyError, Swarm, SwarmOptions, Ticket, Told, Transaction, Value,
    work,
};
use tempfile::TempDir;

/// Short, for tests that wait for its end; a busy machine must still get a heartbeat through in time.
const LEASE: Lease = Lease { timeout: Duration::from_secs(2), attempts: 3 };
const LONG_LEASE: Lease = Lease { timeout: Duration::from_secs(600), attempts: 3 };

/// A database that anyone with its address can open.
#[derive(Clone)]
struct Address(String);

impl Address {
    fn open(&self) -> Box<dyn Storage> {
        match self.0.strip_prefix("postgres://") {
            Some(_) => Box::new(Postgres::open(&self.0).unwrap()),
            None => Box::new(Sqlite::open(Path::new(&self.0)).unwrap()),
        }
    }

    fn start(&self, name: &str, budget: u64, lease: Lease) -> Study<Swarm> {
        Study::start(self.open(), name, "test", &swarm(budget), lease).unwrap()
    }

    fn join(&self, name: &str) -> Result<Study<Swarm>, StudyError> {
        Study::join(self.open(), name)
    }
}

fn swarm(budget: u64) -> Swarm {
    let space = Space::new([
        ("rate", Domain::Log { min: 1e-3, max: 1e3 }),
        ("layers", Domain::Integer { min: 1, max: 12 }),
        ("head", Domain::Categorical { choices: vec!["mean".into(), "max".into()] }),
    ]);
    let goal = Goal { direction: Direction::Maximize, evaluations: budget, stagnation: None };
    Swarm::new(space.unwrap(), goal, SwarmOptions { particles: 6, ..SwarmOptions::default() }).unwrap()
}

fn score(point: &Point) -> f64 {
    let (Value::Real(rate), Value::Integer(layers)) = (&point["rate"], &point["layers"]) else { panic!("{point:?}") };
    -rate.ln().powi(2) - (layers - 6).pow(2) as f64
}

fn ask(study: &mut Study<Swarm>, worker: &str) -> Ticket {
    match study.ask(worker).unwrap() {
        Assignment::Evaluate(ticket) => ticket,
        other => panic!("{worker} got {other:?}"),
    }
}

type Check = fn(&Address);

const CHECKS: [(&str, Check); 9] = [
    ("resume after every step", resume_after_every_step),
    ("the lost evaluation is repeated", the_lost_evaluation_is_repeated),
    ("a late result is refused", a_late_result_is_refused),
    ("heartbeats keep an evaluation", heartbeats_keep_an_evaluation),
    ("what kills every worker has failed", what_kills_every_worker_has_failed),
    ("transactions are whole or nothing", transactions_are_whole_or_nothing),
    ("workers in parallel", workers_in_parallel),
    ("an error ends a worker and keeps its evaluation", an_error_ends_a_worker),
    ("a study is what it was started with", a_study_is_what_it_was_started_with),
];

#[test]
fn sqlite_keeps_every_promise() {
    let folder = tempfile::tempdir().unwrap();
    for (name, check) in CHECKS {
        println!("{name}");
        check(&Address(folder.path().join("swarm.db").to_str().unwrap().to_owned()));
    }
}

#[test]
fn postgres_keeps_every_promise() {
    let server = Server::start();
    for (name, check) in CHECKS {
        println!("{name}");
        check(&server.address());
    }
}

fn resume_after_every_step(address: &Address) {
    let mut alone = swarm(40);
    drop(address.start("resume", 40, LONG_LEASE));
    while let Ask::Evaluate(proposal) = alone.ask() {
        // A process for the question, another for the answer.
        let ticket = ask(&mut address.join("resume").unwrap(), "a");
        assert_eq!((ticket.evaluation, &ticket.point), (proposal.evaluation, &proposal.point));
        let outcome =
            if ticket.evaluation == 7 { Outcome::Score(f64::NAN) } else { Outcome::Score(score(&ticket.point)) };
        assert_eq!(address.join("resume").unwrap().tell(&ticket, outcome).unwrap(), Told::Recorded);
        alone.tell(proposal.evaluation, outcome).unwrap();
        assert_eq!(address.join("resume").unwrap().optimizer().unwrap(), alone);
    }
    // Starting it again goes on with it, here with its end.
    let mut study = address.start("resume", 40, LONG_LEASE);
    assert_eq!(study.ask("a").unwrap(), Assignment::Finished(StopReason::Budget));
    let records = study.records().unwrap();
    let best = alone.best().unwrap();
    assert_eq!(records.iter().map(|record| record.evaluation).collect::<Vec<_>>(), (0..40).collect::<Vec<_>>());
    assert_eq!((records[7].status, records[7].score), (Status::Failed, None));
    let Record { score: kept, point, .. } = &records[best.evaluation as usize];
    assert_eq!((kept, point), (&Some(best.score), &best.point));
}

fn the_lost_evaluation_is_repeated(address: &Address) {
    let mut study = address.start("repeat", 40, LONG_LEASE);
    let lost = ask(&mut study, "a");
    let other = ask(&mut study, "b");
    drop(study);
    // The lease has ten minutes to go, but "a" is back.
    let mut study = address.join("repeat").unwrap();
    let again = ask(&mut study, "a");
    assert_eq!((again.evaluation, &again.point, again.attempt), (lost.evaluation, &lost.point, 2));
    assert_eq!(study.tell(&again, Outcome::Score(1.0)).unwrap(), Told::Recorded);
    assert_eq!(study.tell(&other, Outcome::Score(2.0)).unwrap(), Told::Recorded);
    assert_eq!(study.optimizer().unwrap().progress().told, 2);
}

fn a_late_result_is_refused(address: &Address) {
    let mut study = address.start("late", 40, LEASE);
    let slow = ask(&mut study, "slow");
    thread::sleep(LEASE.timeout + Duration::from_millis(100));
    let quick = ask(&mut study, "quick");
    assert_eq!((quick.evaluation, quick.attempt), (slow.evaluation, 2));
    assert!(!study.heartbeat(&slow).unwrap());
    let before = study.optimizer().unwrap();
    assert_eq!(study.tell(&slow, Outcome::Score(9.0)).unwrap(), Told::Late);
    assert_eq!(study.optimizer().unwrap(), before);
    assert!(study.heartbeat(&quick).unwrap());
    assert_eq!(study.tell(&quick, Outcome::Score(1.0)).unwrap(), Told::Recorded);
    // Saying it again is no second result.
    assert_eq!(study.tell(&quick, Outcome::Score(1.0)).unwrap(), Told::Recorded);
    assert_eq!(study.tell(&quick, Outcome::Score(5.0)).unwrap(), Told::Late);
    assert_eq!(study.tell(&slow, Outcome::Failed).unwrap(), Told::Late);
    let swarm = study.optimizer().unwrap();
    assert_eq!((swarm.progress().told, swarm.best().unwrap().score), (1, 1.0));

    // An expired lease that nobody took up is no reason to throw a result away.
    let slow = ask(&mut study, "slow");
    thread::sleep(LEASE.timeout + Duration::from_millis(100));
    assert_eq!(study.tell(&slow, Outcome::Score(3.0)).unwrap(), Told::Recorded);
    assert_eq!(study.optimizer().unwrap().best().unwrap().score, 3.0);
    let never = Ticket { evaluation: 39, ..slow };
    assert_eq!(study.tell(&never, Outcome::Score(9.0)).unwrap(), Told::Late);
    assert!(!study.heartbeat(&never).unwrap());
}

fn heartbeats_keep_an_evaluation(address: &Address) {
    let mut study = address.start("heartbeat", 2, LEASE);
    let ticket = ask(&mut study, "slow");
    let other = ask(&mut study, "quick");
    study.tell(&other, Outcome::Score(0.0)).unwrap();
    for _ in 0..6 {
        thread::sleep(LEASE.timeout / 4);
        assert!(study.heartbeat(&ticket).unwrap());
        assert_eq!(study.ask("quick").unwrap(), Assignment::Wait);
    }
    assert_eq!(study.tell(&ticket, Outcome::Score(1.0)).unwrap(), Told::Recorded);
    assert_eq!(study.ask("quick").unwrap(), Assignment::Finished(StopReason::Budget));
}

fn what_kills_every_worker_has_failed(address: &Address) {
    let mut study = address.start("deadly", 40, LONG_LEASE);
    for attempt in 1..=3 {
        let ticket = ask(&mut study, "a");
        assert_eq!((ticket.evaluation, ticket.attempt), (0, attempt));
    }
    let next = ask(&mut study, "a");
    assert_eq!((next.evaluation, next.attempt), (1, 1));
    let records = study.records().unwrap();
    assert_eq!((records[0].status, records[0].attempt, records[1].status), (Status::Failed, 3, Status::Running));
    assert_eq!(study.optimizer().unwrap().progress().failed, 1);
    let given_up = Ticket { evaluation: 0, attempt: 3, point: next.point };
    assert_eq!(study.tell(&given_up, Outcome::Score(9.0)).unwrap(), Told::Late);
}

fn transactions_are_whole_or_nothing(address: &Address) {
    let mut study = address.start("whole", 40, LONG_LEASE);
    ask(&mut study, "a");
    let before = study.records().unwrap();
    let mut storage = address.open();
    let spoil = |transaction: &mut dyn Transaction| {
        transaction.set_state("spoilt")?;
        for mut record in transaction.records(false)? {
            record.worker = "nobody".into();
            transaction.set_record(&record)?;
        }
        assert_eq!(transaction.record(0)?.unwrap().worker, "nobody");
        Err(StudyError::Lease)
    };
    assert!(matches!(storage.transaction("whole", &mut |open| spoil(open)), Err(StudyError::Lease)));
    assert_eq!(study.records().unwrap(), before);
    assert_eq!(study.optimizer().unwrap().progress().asked, 1);
    // The same storage goes on working.
    storage.transaction("whole", &mut |transaction| transaction.set_state("spoilt")).unwrap();
    assert!(matches!(study.ask("a"), Err(StudyError::Damaged { .. })));
}

fn workers_in_parallel(address: &Address) {
    // Long enough for a crowded machine, short enough for a failure to be seen.
    let lease = Lease { timeout: Duration::from_secs(30), ..LEASE };
    drop(address.start("parallel", 100, lease));
    let evaluations = Arc::new(AtomicUsize::new(0));
    let workers: Vec<_> = (0..4)
        .map(|worker| {
            let (address, evaluations) = (address.clone(), Arc::clone(&evaluations));
            thread::spawn(move || {
                work(
                    || address.join("parallel"),
                    &format!("worker {worker}"),
                    |ticket| -> Result<Outcome, StudyError> {
                        evaluations.fetch_add(1, Ordering::Relaxed);
                        Ok(Outcome::Score(score(&ticket.point)))
                    },
                )
            })
        })
        .collect();
    for worker in workers {
        assert_eq!(worker.join().unwrap().unwrap(), StopReason::Budget);
    }
    check_complete(&mut address.join("parallel").unwrap(), 100);
    assert_eq!(evaluations.load(Ordering::Relaxed), 100);
}

/// Every evaluation has one result, and the swarm knows the best of them.
fn check_complete(study: &mut Study<Swarm>, budget: u64) -> Vec<Record> {
    let records = study.records().unwrap();
    assert_eq!(records.iter().map(|record| record.evaluation).collect::<Vec<_>>(), (0..budget).collect::<Vec<_>>());
    for record in &records {
        assert_eq!((record.status, record.score), (Status::Scored, Some(score(&record.point))), "{record:?}");
        assert!(record.finished.unwrap() >= record.started);
    }
    let swarm = study.optimizer().unwrap();
    assert_eq!((swarm.progress().told, swarm.progress().failed), (budget, 0));
    let best = records.iter().filter_map(|record| record.score).max_by(f64::total_cmp);
    assert_eq!(swarm.best().map(|best| best.score), best);
    records
}

fn an_error_ends_a_worker(address: &Address) {
    drop(address.start("error", 5, LONG_LEASE));
    let mut left = 3;
    let result = work(
        || address.join("error"),
        "a",
        |ticket| {
            left -= 1;
            if left > 0 { Ok(Outcome::Score(score(&ticket.point))) } else { Err(StudyError::Lease) }
        },
    );
    assert!(matches!(result, Err(StudyError::Lease)));
    let mut evaluated = Vec::new();
    let result = work(
        || address.join("error"),
        "a",
        |ticket| -> Result<Outcome, StudyError> {
            evaluated.push((ticket.evaluation, ticket.attempt));
            Ok(Outcome::Score(score(&ticket.point)))
        },
    );
    assert_eq!(result.unwrap(), StopReason::Budget);
    assert_eq!(evaluated, [(2, 2), (3, 1), (4, 1)]);
}

fn a_study_is_what_it_was_started_with(address: &Address) {
    assert!(matches!(address.join("fresh"), Err(StudyError::Unknown { .. })));
    assert!(matches!(address.join("fresh"), Err(StudyError::Unknown { .. })), "asking made it");
    drop(address.start("fresh", 40, LONG_LEASE));
    ask(&mut address.start("fresh", 40, LONG_LEASE), "a");
    let start = |objective: &str, budget, lease| {
        Study::start(address.open(), "fresh", objective, &swarm(budget), lease).map(drop)
    };
    start("test", 40, LONG_LEASE).unwrap();
    assert!(matches!(start("test", 41, LONG_LEASE), Err(StudyError::Different { .. })));
    assert!(matches!(start("other data", 40, LONG_LEASE), Err(StudyError::Different { .. })));
    assert!(matches!(start("test", 40, LEASE), Err(StudyError::Different { .. })));
    for lease in [Lease { timeout: Duration::ZERO, ..LEASE }, Lease { attempts: 0, ..LEASE }] {
        assert!(matches!(start("test", 40, lease), Err(StudyError::Lease)));
    }
    assert!(matches!(Study::<RandomSearch>::join(address.open(), "fresh"), Err(StudyError::Damaged { .. })));
    // A random search is kept as well.
    let space = swarm(1).space().clone();
    let goal = Goal { direction: Direction::Maximize, evaluations: 3, stagnation: None };
    let search = RandomSearch::new(space, goal, None, 1).unwrap();
    let open = || Study::start(address.open(), "random", "test", &search, LEASE);
    let reason = work(open, "a", |ticket| -> Result<Outcome, StudyError> { Ok(Outcome::Score(score(&ticket.point))) });
    assert_eq!(reason.unwrap(), StopReason::Budget);
    assert_eq!(open().unwrap().optimizer().unwrap().progress().told, 3);
}

#[test]
fn what_is_no_database_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("notes.txt");
    fs::write(&text, "not a database, but long enough to be read as one: ".repeat(50)).unwrap();
    for path in [text, folder.path().to_owned(), folder.path().join("missing").join("swarm.db")] {
        let error = Sqlite::open(&path).unwrap_err();
        assert!(matches!(error, StudyError::Storage(_)), "{}: {error}", path.display());
    }
    for url in ["no address", "postgres://nobody@127.0.0.1:1/nothing"] {
        assert!(matches!(Postgres::open(url), Err(StudyError::Storage(_))), "{url}");
    }
}

#[test]
fn a_connection_that_breaks_is_made_again() {
    let server = Server::start();
    let mut study = server.address().start("restart", 40, LONG_LEASE);
    let ticket = ask(&mut study, "a");
    server.control(&["restart", "--mode=immediate"]);
    assert_eq!(study.tell(&ticket, Outcome::Score(1.0)).unwrap(), Told::Recorded);
    assert_eq!(study.optimizer().unwrap().progress().told, 1);
}

#[test]
fn sqlite_outlives_a_killed_worker() {
    let folder = tempfile::tempdir().unwrap();
    three_processes_one_killed(&Address(folder.path().join("swarm.db").to_str().unwrap().to_owned()));
}

#[test]
fn postgres_outlives_a_killed_worker() {
    three_processes_one_killed(&Server::start().address());
}

const STORAGE_VARIABLE: &str = "KDH_TEST_PSO_STORAGE";
const WORKER_VARIABLE: &str = "KDH_TEST_PSO_WORKER";
const VICTIM: &str = "victim";

fn three_processes_one_killed(address: &Address) {
    let mut study = address.start("processes", 60, LEASE);
    let mut workers: BTreeMap<&str, Worker> =
        [VICTIM, "second", "third"].map(|worker| (worker, Worker::spawn(address, worker))).into();
    // The victim's last evaluation never ends: only heartbeats keep it for so long.
    let deadline = Instant::now() + Duration::from_secs(60);
    let held = loop {
        assert!(Instant::now() < deadline, "the victim never came to its last evaluation");
        let running = study.records().unwrap().into_iter().filter(|record| record.status == Status::Running);
        let held = running.into_iter().find(|record| record.worker == VICTIM);
        match held {
            Some(record) if record.heartbeat - record.started > 1.5 * LEASE.timeout.as_secs_f64() => break record,
            _ => thread::sleep(Duration::from_millis(20)),
        }
    };
    let victim = workers.get_mut(VICTIM).unwrap();
    victim.0.kill().unwrap();
    assert!(!victim.0.wait().unwrap().success());
    for worker in ["second", "third"] {
        assert!(workers.get_mut(worker).unwrap().0.wait().unwrap().success(), "{worker}");
    }
    let records = check_complete(&mut study, 60);
    let repeated = &records[held.evaluation as usize];
    assert_ne!(repeated.worker, VICTIM);
    assert_eq!((held.attempt, repeated.attempt, &repeated.point), (1, 2, &held.point));
    let by = |worker: &str| records.iter().filter(|record| record.worker == worker).count();
    assert_eq!(by(VICTIM), 3);
    assert!(by("second") > 0 && by("third") > 0);
    assert_eq!(records.iter().filter(|record| record.attempt > 1).count(), 1);
}

/// A process that ends with its owner.
struct Worker(Child);

impl Worker {
    /// This very program, told by two variables to run `worker_process` alone.
    fn spawn(address: &Address, worker: &str) -> Self {
        let child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "worker_process", "--nocapture"])
            .env(STORAGE_VARIABLE, &address.0)
            .env(WORKER_VARIABLE, worker)
            .stdout(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The body of a [`Worker`]; as a test of its own it has nothing to do.
#[test]
fn worker_process() {
    let (Ok(storage), Ok(worker)) = (env::var(STORAGE_VARIABLE), env::var(WORKER_VARIABLE)) else { return };
    let address = Address(storage);
    let mut evaluations = 0;
    let reason = work(
        || address.join("processes"),
        &worker,
        |ticket| -> Result<Outcome, StudyError> {
            evaluations += 1;
            if worker == VICTIM && evaluations == 4 {
                thread::sleep(Duration::from_secs(300));
            }
            thread::sleep(Duration::from_millis(40));
            Ok(Outcome::Score(score(&ticket.point)))
        },
    );
    assert_eq!(reason.unwrap(), StopReason::Budget);
}

/// A PostgreSQL server in a temporary folder, reached through a socket there, stopped at the end.
struct Server {
    folder: TempDir,
    programs: PathBuf,
}

impl Server {
    fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("kdh-pg-").tempdir().unwrap();
        let server = Self { folder, programs: programs() };
        // The server refuses to run as root.
        if let Some((user, group)) = owner() {
            chown(server.folder.path(), Some(user), Some(group)).unwrap();
        }
        let data = server.data();
        server.run("initdb", &["--no-sync", "--auth=trust", "--username=kdh", "--encoding=UTF8", "--pgdata", &data]);
        server.control(&["start"]);
        server
    }

    fn address(&self) -> Address {
        let socket = self.folder.path().to_str().unwrap().replace('/', "%2F");
        Address(format!("postgres://kdh@{socket}/postgres"))
    }

    fn control(&self, command: &[&str]) {
        let options = format!("-c listen_addresses='' -c unix_socket_directories='{}' -c fsync=off", self.path());
        let log = format!("{}/log", self.path());
        let data = self.data();
        let arguments = ["--pgdata", &data, "--log", &log, "--options", &options, "--wait"];
        self.run("pg_ctl", &[command, &arguments].concat());
    }

    fn path(&self) -> &str {
        self.folder.path().to_str().unwrap()
    }

    fn data(&self) -> String {
        format!("{}/data", self.path())
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let mut command = match owner() {
            Some((user, group)) => {
                let mut command = Command::new("setpriv");
                command.args([format!("--reuid={user}"), format!("--regid={group}"), "--clear-groups".into()]);
                command.arg(self.programs.join(program));
                command
            }
            None => Command::new(self.programs.join(program)),
        };
        // Not through a pipe, which the server would inherit and keep open.
        let log = self.folder.path().join(format!("{program}.log"));
        let output = fs::File::create(&log).unwrap();
        let status = command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .status();
        assert!(status.unwrap().success(), "{program}: {}", fs::read_to_string(&log).unwrap());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if fs::exists(format!("{}/postmaster.pid", self.data())).unwrap_or(false) {
            self.control(&["stop", "--mode=immediate"]);
        }
    }
}

/// Where the programs of Debian's newest server are.
fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    folders.sort();
    let found = folders.into_iter().rev().find(|folder| folder.join("initdb").is_file());
    found.expect("these tests need a PostgreSQL server: install the Debian package `postgresql`")
}

/// User and group to run the server as, when we are root: those that Debian's package makes.
fn owner() -> Option<(u32, u32)> {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let user = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1));
    if user != Some("0") {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let entry = users.lines().find(|line| line.starts_with("postgres:"));
    let fields: Vec<&str> = entry.expect("the package `postgresql` makes a user `postgres`").split(':').collect();
    Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
}
