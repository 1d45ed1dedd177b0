//! Four times what the service can do, for a short time. `kdh-bedside-load` does it for a minute.

use std::process::Command;

use crate::daemon::tiny;

#[test]
fn nothing_is_lost_and_memory_stays_flat() {
    let output = Command::new(env!("CARGO_BIN_EXE_kdh-bedside-load"))
        .arg("--bundle")
        .arg(tiny())
        .args(["--texts", "10000", "--seconds", "1"])
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    println!("{printed}");
    assert!(output.status.success(), "{printed}");
    // It was an overload: the service has refused texts, and all were answered in the end.
    let overload = printed.split("at 4 times that:").nth(1).unwrap();
    assert!(!overload.contains("told to come again 0 times"), "{printed}");
}
