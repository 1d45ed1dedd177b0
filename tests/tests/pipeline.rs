//! The whole way of the data, on a few real documents: import, fine-tune, thresholds, pack, verify, evaluate, label.

#![expect(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

use std::fs;
use std::path::Path;
use std::process::Command;

use kdh_tests::{corpora, json, program, refused, root, succeed};

const ABSTRACT: &str = "examples/abstract.txt";

#[test]
fn from_a_corpus_to_a_label() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();

    let archive = corpora().join("hoc/corpus-train-dev.tar.gz");
    succeed(Command::new("tar").arg("xzf").arg(archive).args(["-C", &path("")]));
    let split = root().join("experiments/hoc-split.json");
    let corpus = path("Hallmarks-of-Cancer");
    succeed(program("kdh-train").args(["import", "hoc", &corpus, "--split"]).arg(split).arg(path("data")));
    head(&folder.path().join("data/train.jsonl"), 48);
    head(&folder.path().join("data/dev.jsonl"), 24);

    succeed(program("kdh-train").args(["weights", "fetch", "student"]));
    let (train, dev, run) = (path("data/train.jsonl"), path("data/dev.jsonl"), path("run"));
    let fit = |epochs: &str| {
        let mut command = program("kdh-train");
        command.args(["fit", "--weights", "third_party/weights/all-MiniLM-L6-v2", "--train", &train, "--dev", &dev]);
        command.args(["--labels", "experiments/hoc-labels.json", "--out", &run, "--epochs", epochs]);
        command.args(["--max-tokens", "96", "--batch-size", "8", "--name", "pipeline"]);
        command
    };
    let report = json(&mut fit("1"));
    assert_eq!((&report["finished"], &report["steps"]), (&true.into(), &6.into()));
    let student = report["student"].as_str().unwrap();

    succeed(program("kdh-train").args(["thresholds", "--student", student]).arg(path("run/dev-predictions.jsonl")));
    let trained = json(program("kdh-train").args(["eval", "--student", student, &dev]));

    // Six steps leave logits near the thresholds, where int8 flips some: the gate must see it and refuse.
    let bundle = path("model.kdh");
    let pack = |bounds: &[&str]| {
        let mut command = program("kdh-export");
        command.args(["pack", student, "--data", &dev, "--output", &bundle]);
        command.args(["--vocabulary-size", "8000", "--vocabulary-from", &train]).args(bounds);
        command
    };
    refused(&mut pack(&["--max-bytes", "1000"]), 1);
    assert!(!Path::new(&bundle).exists(), "a refused bundle leaves no file");
    succeed(&mut pack(&["--max-flip-rate", "0.2", "--max-f1-loss", "0.2"]));

    // Nobody has signed it yet.
    refused(program("kdh").args(["verify", "--bundle", &bundle]), 1);
    refused(program("kdh").args(["label", "--bundle", &bundle, ABSTRACT]), 2);
    succeed(program("kdh-export").args(["keygen", &path("maker"), "--role", "release", "--label", "a test of kdh"]));
    succeed(program("kdh-export").args(["sign", &bundle, "--key", &path("maker.secret")]));
    let trust = path("maker.trust");
    let kdh = |command: &str| {
        let mut kdh = program("kdh");
        kdh.args([command, "--bundle", &bundle, "--trust", &trust]);
        kdh
    };
    succeed(&mut kdh("verify"));
    let on_the_box = json(kdh("eval").arg(&dev));
    assert_eq!(on_the_box["documents"], 24);
    // The trainer's f32 student and the box's int8 bundle, with a pruned vocabulary, rank almost alike.
    for metric in ["micro_auprc", "micro_auroc"] {
        let (host, device) = (trained[metric].as_f64().unwrap(), on_the_box[metric].as_f64().unwrap());
        assert!((host - device).abs() < 0.05, "{metric}: {host} on the host, {device} on the box");
    }
    let labelled = json(kdh("label").arg(ABSTRACT));
    assert_eq!(labelled["labels"].as_array().unwrap().len(), 10);

    // The same command with other options is not the same run.
    assert!(refused(&mut fit("2"), 2).contains("other options"));
    // What the box refuses, it refuses before it parses.
    let mut bytes = fs::read(&bundle).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path("flipped.kdh"), &bytes).unwrap();
    let flipped = ["label", "--bundle", &path("flipped.kdh"), "--trust", &trust, ABSTRACT];
    assert!(refused(program("kdh").args(flipped), 2).contains("damaged"));
}

/// Keeps the first lines of a file.
fn head(path: &Path, lines: usize) {
    let text = fs::read_to_string(path).unwrap();
    let kept: Vec<&str> = text.lines().take(lines).collect();
    assert_eq!(kept.len(), lines);
    fs::write(path, kept.join("\n") + "\n").unwrap();
}
