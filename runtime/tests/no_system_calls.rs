//! Labelling makes no system call: it runs in a process that the kernel kills at the first one.

#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "asks the kernel for a filter")]
#![allow(clippy::unwrap_used, reason = "a helper of a test may panic")]

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use kdh_runtime::engine::{Cancel, Stop};
use kdh_runtime::{Bundle, DocumentOptions, Labeler, LabelerOptions};

/// Tells the test that it is the process to be watched, and what to do.
const TASK: &str = "KDH_TEST_SYSTEM_CALLS";

/// Verifies: R-005
#[test]
fn labelling_makes_no_system_call() {
    if let Ok(task) = std::env::var(TASK) {
        watched(&task);
    }
    for task in ["label", "cancel"] {
        let status = run(task);
        assert_eq!(status.code(), Some(0), "{task}: {status}");
    }
    // Whether a look at the clock is a system call is up to the machine; the documentation of `Stop` says so.
    println!("with a deadline: {}", run("deadline"));
    // The filter filters.
    let status = run("call");
    assert_eq!(status.signal(), Some(libc::SIGSYS), "{status}");
}

fn run(task: &str) -> ExitStatus {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "labelling_makes_no_system_call", "--test-threads", "1"]).env(TASK, task);
    child.status().unwrap()
}

fn watched(task: &str) -> ! {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/default.kdh");
    let bytes = std::fs::read(path).unwrap();
    let labeler =
        Labeler::from_bundle(&Bundle::parse(&bytes).unwrap(), &LabelerOptions::new().allow_unsigned()).unwrap();
    let texts: Vec<String> =
        (1..40).map(|words| "Cells divided, and no vessel grew. ".repeat(words * words / 8)).collect();
    let mut scratch = labeler.scratch();
    let (mut document_scratch, document) = (labeler.document_scratch(), texts.concat());
    let cancel = Cancel::new();
    if task == "cancel" {
        scratch.set_stop(Stop::new().cancel(&cancel));
    }
    if task == "deadline" {
        scratch.set_stop(Stop::new().deadline(Instant::now() + Duration::from_secs(3600)));
    }
    forbid_system_calls();
    if task == "call" {
        // SAFETY: takes and changes nothing.
        unsafe { libc::getppid() };
    }
    let mut tokens = 0;
    for text in &texts {
        tokens += labeler.label(&mut scratch, text).map_or(0, |report| report.kept_tokens);
    }
    let document =
        labeler.label_document(&mut document_scratch, &DocumentOptions::new(), document.get(..6_000).unwrap_or(""));
    let windows = document.map_or(0, |document| document.windows);
    let code = if tokens > 5_000 && windows > 1 { 0 } else { 1 };
    // SAFETY: ends the process, which is all that the filter allows.
    unsafe { libc::_exit(code) }
}

/// From here on every system call of this thread but the one that ends the process kills the process.
fn forbid_system_calls() {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let mut filter = [
        // The number of the call is the first field of what the filter sees.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        libc::sock_filter {
            jf: 1,
            ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::SYS_exit_group as u32)
        },
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_KILL_PROCESS),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the first call takes numbers only; the second reads the program, which lives until it returns.
    let set = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    };
    assert!(set, "the kernel takes no filter: {}", std::io::Error::last_os_error());
}
