//! `kdh store`, `kdh audit` and `kdh label --audit`.

use std::path::Path;
use std::process::{Command, Output};

use kdh_runtime::ARITHMETIC;
use serde_json::Value;

use crate::self_test::recorded;

fn kdh(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kdh"));
    command.args(args).current_dir(folder).env_remove("KDH_TRUST").env_remove("KDH_BUNDLE").output().unwrap()
}

fn json(folder: &Path, code: i32, args: &[&str]) -> Value {
    let output = kdh(folder, &[args, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(code), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_device_updates_and_goes_back() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for counter in [1, 2] {
        std::fs::write(at.join(format!("{counter}.kdh")), recorded(ARITHMETIC, counter, |bits| bits)).unwrap();
    }
    std::fs::write(at.join("drifted.kdh"), recorded(ARITHMETIC, 3, |bits| bits ^ 1)).unwrap();
    let any = "--allow-unsigned";
    assert_eq!(kdh(at, &["store", "start", "models", any]).status.code(), Some(2));
    assert_eq!(json(at, 1, &["store", "install", "models", "1.kdh"])["ok"], false);
    assert_eq!(json(at, 0, &["store", "install", "models", "1.kdh", any])["slot"], "a");
    let started = kdh(at, &["store", "start", "models", any]);
    let path = String::from_utf8(started.stdout).unwrap();
    assert_eq!(path.trim(), "models/a.kdh");
    assert!(!kdh(at, &["label", "--bundle", path.trim(), any, "--self-test", "1.kdh"]).status.success(), "not a text");
    let status = json(at, 0, &["store", "mark-good", "models"]);
    assert_eq!((&status["minimum_rollback_counter"], &status["slots"]["a"]["good"]), (&1.into(), &true.into()));

    assert!(
        json(at, 1, &["store", "install", "models", "drifted.kdh", any])["error"].as_str().unwrap().contains("logit")
    );
    json(at, 0, &["store", "install", "models", "2.kdh", any]);
    for _ in 0..3 {
        assert_eq!(json(at, 0, &["store", "start", "models", any])["slot"], "b");
    }
    let back = kdh(at, &["store", "start", "models", any]);
    assert_eq!(String::from_utf8(back.stdout).unwrap().trim(), "models/a.kdh");
    assert!(String::from_utf8(back.stderr).unwrap().contains("went back to slot a"));
    assert_eq!(json(at, 0, &["store", "status", "models"])["active"], "a");
    assert_eq!(kdh(at, &["store", "go-back", "models"]).status.code(), Some(2));
    json(at, 0, &["store", "install", "models", "2.kdh", any]);
    json(at, 0, &["store", "mark-good", "models"]);
    let old = json(at, 1, &["store", "install", "models", "1.kdh", any]);
    assert!(old["error"].as_str().unwrap().contains("rollback counter is 1, the lowest that is taken is 2"));
}

/// Verifies: R-046
#[test]
fn labels_are_recorded_and_texts_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::write(at.join("tiny.kdh"), recorded(ARITHMETIC, 0, |bits| bits)).unwrap();
    std::fs::write(at.join("note.txt"), "The zebra divided slowly.").unwrap();
    std::fs::write(at.join("blank.txt"), " ").unwrap();
    let label = |note: &str| {
        kdh(
            at,
            &["label", "--bundle", "tiny.kdh", "--allow-unsigned", "--self-test", "--audit", "trail", "--json", note],
        )
    };
    let labelled: Value = serde_json::from_slice(&label("note.txt").stdout).unwrap();
    assert_eq!(label("note.txt").status.code(), Some(0));
    label("blank.txt");
    let verified = json(at, 0, &["audit", "verify", "trail"]);
    assert_eq!((&verified["records"], &verified["torn_bytes"]), (&3.into(), &0.into()));

    let export = kdh(at, &["audit", "export", "trail", "--json"]);
    let lines: Vec<Value> =
        String::from_utf8(export.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let given: Vec<usize> = (0..3).filter(|&label| labelled["labels"][label]["positive"] == true).collect();
    assert_eq!(lines[0]["labels"], serde_json::json!(given));
    assert_eq!((&lines[0]["status"], &lines[1]["sequence"]), (&"labelled".into(), &1.into()));
    assert_eq!((&lines[2]["status"], &lines[2]["labels"]), (&"abstained".into(), &serde_json::json!([])));
    let csv = String::from_utf8(kdh(at, &["audit", "export", "trail"]).stdout).unwrap();
    assert_eq!(csv.lines().count(), 4);

    let trail = at.join("trail/audit-00000000000000000000.kda");
    let bytes = std::fs::read(&trail).unwrap();
    assert!(!bytes.windows(5).any(|window| window == b"zebra"));
    // Cut off in the middle of a record: labelling goes on and says so.
    std::fs::write(&trail, &bytes[..bytes.len() - 9]).unwrap();
    assert_eq!(json(at, 0, &["audit", "verify", "trail"])["torn_bytes"], 87);
    let output = label("note.txt");
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8(output.stderr).unwrap().contains("cut-off record of 87 bytes"));
    assert_eq!(json(at, 0, &["audit", "verify", "trail"])["repairs"], 1);
    // The head that was kept elsewhere is of a record that the cut took.
    let head = verified["head"].as_str().unwrap();
    assert_eq!(json(at, 1, &["audit", "verify", "trail", "--head", head])["ok"], false);

    let mut changed = std::fs::read(&trail).unwrap();
    changed[64 + 48] ^= 1;
    std::fs::write(&trail, changed).unwrap();
    assert!(json(at, 1, &["audit", "verify", "trail"])["error"].as_str().unwrap().contains("record 0"));
    assert_eq!(kdh(at, &["audit", "export", "trail"]).status.code(), Some(1));
    let refused = label("note.txt");
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(2), 0));

    let measured =
        json(at, 0, &["audit", "measure", "other", "--bundle", "tiny.kdh", "--allow-unsigned", "--rounds", "3"]);
    let figure = |name: &str| measured[name].as_f64().unwrap();
    assert!(figure("throughput_ratio") > 0.0 && figure("append_mean_us") > 0.0);
    assert!((0.0..1.0).contains(&figure("throughput_ratio_with_waits")));
    assert!(figure("throughput_ratio_all") > 0.0);
    assert!(figure("throughput_ratio_all_rounds_min") <= figure("throughput_ratio_all_rounds_median"));
    // Three texts in three rounds, with the trail and with everything.
    assert_eq!(measured["records"], 18);
}
