//! The C library as an integrator gets it: installed, found by pkg-config and CMake, compiled against without a warning, and
//! run under valgrind without an error or a leak.

use std::path::Path;
use std::process::Command;

use kdh_tests::{root, succeed};

const FLAGS: [&str; 5] = ["-Wall", "-Wextra", "-Werror", "-pedantic", "-g"];
const VALGRIND: [&str; 6] = [
    "--quiet",
    "--error-exitcode=9",
    "--leak-check=full",
    "--show-leak-kinds=all",
    "--errors-for-leak-kinds=all",
    "--track-origins=no",
];

/// Verifies: R-060
#[test]
fn c_and_cpp_programs_label_without_an_error_or_a_leak() {
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().join("usr");
    install(&prefix);

    let flags = pkg_config(&prefix, &["--cflags", "--libs"]);
    let static_flags = pkg_config(&prefix, &["--cflags", "--libs", "--static"]);
    let source = |name: &str| root().join("runtime/tests/c").join(name);
    let compile = |compiler: &str, standard: &str, file: &str, program: &str, flags: &[String]| {
        let output = folder.path().join(program);
        let mut command = Command::new(compiler);
        command.args([standard]).args(FLAGS).arg(source(file)).arg("-o").arg(&output).args(flags).arg("-pthread");
        succeed(&mut command);
        output
    };
    let expected = succeed(kdh_tests::program("kdh-box").args(["--allow-unsigned", ARGUMENTS[0], ARGUMENTS[2]]));
    let c = compile("gcc", "-std=c99", "labels.c", "labels-shared", &flags);
    let printed = succeed(valgrind(&c).env("LD_LIBRARY_PATH", prefix.join("lib")).args(ARGUMENTS));
    assert_same(&printed, &expected);

    // The static library alone: the shared one is not there.
    std::fs::remove_file(prefix.join("lib/libkdh.so")).unwrap();
    let c = compile("gcc", "-std=c11", "labels.c", "labels-static", &static_flags);
    assert_same(&succeed(Command::new(c).current_dir(root()).args(ARGUMENTS)), &expected);
    let cpp = compile("g++", "-std=c++11", "labels.cpp", "labels-cpp", &static_flags);
    succeed(valgrind(&cpp).arg("models/default.kdh"));
}

#[test]
fn cmake_finds_the_library() {
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().join("usr");
    install(&prefix);
    let build = folder.path().join("build");
    let mut cmake = Command::new("cmake");
    cmake.arg("-S").arg(root().join("runtime/tests/c")).arg("-B").arg(&build);
    succeed(cmake.arg(format!("-DCMAKE_PREFIX_PATH={}", prefix.display())));
    succeed(Command::new("cmake").arg("--build").arg(&build));
    for program in ["labels-cpp-kdh", "labels-cpp-static"] {
        succeed(Command::new(build.join(program)).current_dir(root()).arg("models/default.kdh"));
    }
}

/// Verifies: R-060
#[test]
fn the_header_is_what_the_rust_says() {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["run", "--quiet", "--locked", "--manifest-path", "scripts/header/Cargo.toml"]);
    let made = succeed(cargo.current_dir(root()).env("CARGO_TARGET_DIR", root().join("target/header")));
    let header = std::fs::read_to_string(root().join("runtime/include/kdh.h")).unwrap();
    assert!(made == header, "the header is old; make it anew as CONTRIBUTING.md says");
}

/// Verifies: R-060
#[test]
fn the_library_exports_what_the_header_declares() {
    let folder = tempfile::tempdir().unwrap();
    install(folder.path());
    let library = folder.path().join("lib/libkdh.so");
    let mut exported: Vec<String> = succeed(Command::new("nm").args(["--dynamic", "--defined-only"]).arg(library))
        .lines()
        .filter_map(|line| line.split(' ').nth(2))
        .map(str::to_owned)
        .collect();
    exported.sort();
    let header = std::fs::read_to_string(folder.path().join("include/kdh.h")).unwrap();
    let comment = |line: &str| ["/", "*"].iter().any(|opening| line.trim_start().starts_with(opening));
    let functions = header.lines().filter(|line| !comment(line));
    let mut declared: Vec<String> = functions
        .filter_map(|line| line.split_once('(')?.0.rsplit([' ', '*']).next().map(str::to_owned))
        .filter(|name| name.starts_with("kdh_") && name != "kdh_default_options")
        .collect();
    declared.sort();
    assert!(declared.len() > 10);
    assert_eq!(exported, declared);
}

#[test]
fn the_monitor_links_the_static_library() {
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().join("usr");
    install(&prefix);
    let mut make = Command::new("make");
    make.arg("-C").arg(root().join("firmware-examples/c-monitor"));
    make.arg(format!("BUILD={}", folder.path().display()));
    succeed(make.env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig")));
    let notes = folder.path().join("notes");
    let abstract_text = std::fs::read_to_string(root().join("examples/abstract.txt")).unwrap();
    // A note, nothing, a note that is no text, and the first again.
    let mut bytes = [abstract_text.as_bytes(), b"\0\0\xff\xfe\0", abstract_text.as_bytes()].concat();
    bytes.push(0);
    std::fs::write(&notes, bytes).unwrap();
    let mut monitor = Command::new(folder.path().join("monitor"));
    monitor.current_dir(root()).args([ARGUMENTS[0], TRUST]).stdin(std::fs::File::open(notes).unwrap());
    let printed = succeed(&mut monitor);
    let notes: Vec<&str> = printed.split_inclusive("end\n").collect();
    assert_eq!(notes.len(), 4, "{printed}");
    assert!(notes[0].contains("CD\t") && notes[0].contains("A\t"), "{printed}");
    assert!(notes[1].contains("no labels") && notes[2].contains("UTF-8"), "{printed}");
    assert_eq!(notes[0].replace("note 1", ""), notes[3].replace("note 4", ""));
}

const ARGUMENTS: [&str; 4] = ["models/default.kdh", TRUST, "examples/abstract.txt", "runtime/tests/data/tiny.kdh"];
const TRUST: &str = "examples/keys/demonstration.trust";

fn install(prefix: &Path) {
    succeed(Command::new(root().join("scripts/install-c")).arg("--prefix").arg(prefix).env("CARGO", env!("CARGO")));
}

fn pkg_config(prefix: &Path, arguments: &[&str]) -> Vec<String> {
    let mut command = Command::new("pkg-config");
    command.args(arguments).arg("kdh").env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig"));
    succeed(&mut command).split_whitespace().map(str::to_owned).collect()
}

fn valgrind(program: &Path) -> Command {
    let mut command = Command::new("valgrind");
    command.args(VALGRIND).arg(program).current_dir(root());
    command
}

/// The codes and ranges are the same, and the decimals are of the same numbers. What is no number equals nothing.
fn assert_same(printed: &str, expected: &str) {
    let lines = |text: &str| -> Vec<(String, Vec<f32>, String)> {
        let fields = text.lines().map(|line| line.split('\t').collect::<Vec<_>>());
        fields
            .map(|fields| {
                let numbers = fields[1..3].iter().map(|number| number.parse().unwrap_or(f32::NAN)).collect();
                (fields[0].to_owned(), numbers, fields[3].to_owned())
            })
            .collect()
    };
    assert!(!expected.is_empty());
    assert_eq!(lines(printed), lines(expected));
}
