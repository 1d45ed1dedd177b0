//! Writes a student folder of tiny random weights, for tests: `cargo run -p kdh-exporter --example tiny-student -- DIR`.

#[path = "../tests/tiny/mod.rs"]
mod tiny;

use kdh_format::student::Head;

fn main() {
    let Some(folder) = std::env::args_os().nth(1) else {
        eprintln!("usage: tiny-student DIR");
        std::process::exit(2);
    };
    tiny::write_student(folder.as_ref(), "bert", Head::SentenceEvidence, 1);
}
