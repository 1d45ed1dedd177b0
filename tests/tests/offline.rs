//! Nothing on the box can open a socket: not its crates, not its programs' imports, and not what they do.

#![cfg(target_os = "linux")]
#![allow(unsafe_code, reason = "asks the kernel for a filter and for an empty network")]
#![allow(clippy::unwrap_used, reason = "a helper of a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use kdh_tests::{program, root, succeed};

/// Crates that name sockets in their source and cannot open one as they are used here: why.
const HARMLESS: [(&str, &str); 6] = [
    ("libc", "declares the functions of the C library and calls none; the imports of the programs show which are used"),
    ("log", "names a socket in the example of its documentation"),
    ("rustix", "its sockets are behind the feature `net`, which must be off"),
    ("serde", "writes and reads addresses as values"),
    ("serde_core", "writes and reads addresses as values"),
    ("serde_json", "names a socket in the example of its documentation"),
];

/// What a source that opens a socket has in it.
const SOCKETS: [&str; 10] = [
    "std::net",
    "os::unix::net",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixDatagram",
    "libc::socket",
    "SYS_socket",
    "fn socket(",
];

/// What a program that opens a socket takes from the C library.
const IMPORTS: [&str; 16] = [
    "socket",
    "socketpair",
    "connect",
    "bind",
    "listen",
    "accept",
    "accept4",
    "send",
    "sendto",
    "sendmsg",
    "recv",
    "recvfrom",
    "recvmsg",
    "getaddrinfo",
    "gethostbyname",
    "res_query",
];

/// System calls that a program needs for a network.
const CALLS: [libc::c_long; 13] = [
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
];

/// Verifies: R-105
#[test]
fn no_crate_of_the_runtime_opens_a_socket() {
    let places = sources();
    for features in [&["--no-default-features", "--features", "mmap"][..], &[]] {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(root()).args(["tree", "--locked", "-p", "kdh-runtime", "-e", "normal,build"]);
        let tree = succeed(cargo.args(features).args(["--prefix", "none", "--format", "{p}\t{f}"]));
        let crates: BTreeSet<(&str, &str)> = tree.lines().filter_map(|line| line.split_once('\t')).collect();
        let mut named = BTreeMap::new();
        for (package, features) in &crates {
            let mut words = package.split(' ');
            let name = words.next().unwrap();
            let version = words.next().unwrap_or_default().trim_start_matches('v');
            let folder = places.get(&(name.to_owned(), version.to_owned())).unwrap_or_else(|| panic!("{package}"));
            if names_a_socket(&folder.join("src")) {
                named.insert(name, *features);
            }
        }
        assert!(crates.len() > 20);
        println!("{} crates, of which {:?} name sockets", crates.len(), named.keys());
        let unknown: Vec<_> = named.keys().filter(|name| HARMLESS.iter().all(|(known, _)| known != *name)).collect();
        assert!(unknown.is_empty(), "{unknown:?} name sockets; leave them out, or say why they cannot open one");
        if let Some(features) = named.get("rustix") {
            assert!(features.split(',').all(|feature| !["net", "all-apis"].contains(&feature)), "rustix: {features}");
        }
    }
    // The search finds what there is: the trainer's client of a data base opens sockets.
    let client = places.iter().find(|((name, _), _)| name == "tokio").expect("the workspace has a crate with sockets");
    assert!(names_a_socket(&client.1.join("src")));
}

/// Folders of all crates of the workspace's tree.
fn sources() -> BTreeMap<(String, String), PathBuf> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root()).args(["metadata", "--format-version", "1", "--locked"]);
    let metadata: serde_json::Value = serde_json::from_str(&succeed(&mut cargo)).unwrap();
    let packages = metadata["packages"].as_array().unwrap().iter().map(|package| {
        let text = |field: &str| package[field].as_str().unwrap().to_owned();
        ((text("name"), text("version")), Path::new(&text("manifest_path")).parent().unwrap().to_owned())
    });
    packages.collect()
}

fn names_a_socket(folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    entries.map(|entry| entry.unwrap().path()).any(|path| {
        if path.is_dir() {
            return names_a_socket(&path);
        }
        let source = std::fs::read(&path).unwrap_or_default();
        let source = String::from_utf8_lossy(&source);
        path.extension().is_some_and(|extension| extension == "rs") && SOCKETS.iter().any(|word| source.contains(word))
    })
}

/// Verifies: R-105
#[test]
fn the_programs_import_nothing_that_opens_a_socket() {
    for name in ["kdh", "kdh-box"] {
        let path = PathBuf::from(program(name).get_program());
        let imports = imports(&path);
        assert!(imports.contains("read") && imports.contains("mmap64"), "{name}: {imports:?}");
        let sockets: Vec<_> = IMPORTS.iter().filter(|import| imports.contains(**import)).collect();
        assert!(sockets.is_empty(), "{name} imports {sockets:?}");
    }
    // The reader of imports sees them where they are.
    assert!(imports(&which("bash")).contains("connect"));
}

/// Names of the dynamic symbols that a program takes from elsewhere.
fn imports(program: &Path) -> BTreeSet<String> {
    let listed = succeed(Command::new("nm").args(["-D", "--undefined-only"]).arg(program));
    let name =
        |line: &str| line.split_whitespace().last().map(|name| name.split('@').next().unwrap_or(name).to_owned());
    listed.lines().filter_map(name).collect()
}

fn which(name: &str) -> PathBuf {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| path.exists()).unwrap()
}

/// Verifies: R-106
#[test]
fn the_programs_work_without_a_network() {
    let probe = || Command::new("true");
    // A machine that grants no network namespace (a container without privileges) still has the filter.
    let namespace = offline(&mut probe(), Net::Empty).is_ok();
    if !namespace {
        println!("the kernel grants no network namespace here: only the filter is tested");
    }
    let kdh = |arguments: &[&str]| {
        let mut command = program("kdh");
        command.args(arguments);
        command
    };
    let text = "examples/abstract.txt";
    let commands = || {
        let mut label_box = program("kdh-box");
        label_box.args(["--allow-unsigned", "models/default.kdh", text]);
        [
            kdh(&["label", text]),
            kdh(&["verify"]),
            kdh(&["inspect"]),
            kdh(&["label", "--engine", "tract", "--bundle", "runtime/tests/data/tiny.kdh", "--allow-unsigned", text]),
            kdh(&["bench", "--tokens", "16", "--iterations", "3", "--warm-up", "0"]),
            label_box,
        ]
    };
    for mut command in commands() {
        let expected = command.output().unwrap();
        assert!(expected.status.success(), "{command:?}: {}", String::from_utf8_lossy(&expected.stderr));
        let nets = [Some(Net::Filtered), namespace.then_some(Net::Empty)];
        for net in nets.into_iter().flatten() {
            let mut command =
                commands().into_iter().find(|other| format!("{other:?}") == format!("{command:?}")).unwrap();
            let found = offline(&mut command, net).unwrap();
            assert!(found.status.success(), "{net:?} {command:?}: {}", String::from_utf8_lossy(&found.stderr));
            // The others print times and the memory of the process.
            if format!("{command:?}").contains("\"label\"") {
                assert!(found.stdout == expected.stdout, "{net:?} {command:?} prints something else");
            }
        }
    }

    // The filter filters, and the empty network is empty.
    let dial = || {
        let mut bash = Command::new("bash");
        bash.args(["-c", "exec 3<>/dev/udp/192.0.2.1/9"]);
        bash
    };
    assert_eq!(offline(&mut dial(), Net::Filtered).unwrap().status.signal(), Some(libc::SIGSYS));
    if namespace {
        assert!(!offline(&mut dial(), Net::Empty).unwrap().status.success());
    }
}

/// How a program is kept from the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Net {
    /// A namespace that has no interface that is up.
    Empty,
    /// The kernel kills it at the first system call of [`CALLS`].
    Filtered,
}

fn offline(command: &mut Command, net: Net) -> io::Result<Output> {
    let enter = move || {
        let done = match net {
            // SAFETY: takes a number; changes this process alone.
            Net::Empty => unsafe { libc::unshare(libc::CLONE_NEWNET) == 0 },
            Net::Filtered => filter(),
        };
        if done { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec it makes system calls only, and reads a constant.
    unsafe { command.pre_exec(enter) };
    command.output()
}

fn filter() -> bool {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let mut filter = [statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW); CALLS.len() + 3];
    // The number of the call is the first field of what the filter sees.
    filter[0] = statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0);
    for (index, call) in CALLS.iter().enumerate() {
        // To the last statement.
        let jt = (CALLS.len() - index) as u8;
        filter[index + 1] =
            libc::sock_filter { jt, ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, *call as u32) };
    }
    filter[CALLS.len() + 2] = statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_KILL_PROCESS);
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the first call takes numbers only; the second reads the program, which lives until it returns.
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    }
}
