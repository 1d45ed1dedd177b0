//! Tuning as a whole, through the command, on a tiny encoder and texts of our own.

#![expect(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

#[allow(dead_code, reason = "no test needs all of it")]
mod tiny;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use kdh_runtime::dataset::{Document, Writer};
use serde_json::Value;
use tiny::{Case, documents};

const FILE: &str = r#"
name = "tiny"
evaluations = 5
promote = 3
spread = 1
score = "micro-auprc"

[data]
weights = "weights"
train = "train.jsonl"
dev = "dev.jsonl"
TEACHER

[options]
max_tokens = 40
batch_size = 8
precision = "f32"
epochs = 3
imitation_epochs = 1

[reduced]
subset = 0.5
epochs = 1

[space]
learning_rate = { kind = "log", min = 1e-6, max = 1e-2 }
head_factor = { kind = "linear", min = 1, max = 20 }

[swarm]
particles = 3
"#;

fn write(path: &Path, documents: &[Document]) {
    let mut writer = Writer::new(fs::File::create(path).unwrap());
    for document in documents {
        writer.write(document).unwrap();
    }
    writer.finish().unwrap();
}

fn pso(folder: &Path, arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_kdh-train");
    Command::new(program).arg("pso").args(arguments).current_dir(folder).output().unwrap()
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn prepare(teacher: &str) -> Case {
    let case = Case::new();
    let folder = case.root.path();
    write(&folder.join("train.jsonl"), &case.train);
    write(&folder.join("dev.jsonl"), &documents(40, 1000));
    fs::write(folder.join("tune.toml"), FILE.replace("TEACHER", teacher)).unwrap();
    case
}

#[test]
fn a_search_ends_with_points_in_full_and_is_not_done_twice() {
    let case = prepare("");
    let folder = case.root.path();
    let run = ["run", "tune.toml", "--out", "runs", "--compare", "--json", "--threads", "1"];
    let first = pso(folder, &run);
    let result = json(&first);
    let searches = result["searches"].as_array().unwrap();
    assert_eq!(searches.len(), 2);
    for search in searches {
        let evaluations = search["evaluations"].as_array().unwrap();
        assert_eq!(evaluations.len(), 5);
        assert!(evaluations.iter().all(|evaluation| evaluation["status"] == "scored"), "{search:#}");
        let scores = evaluations.iter().map(|evaluation| evaluation["score"].as_f64().unwrap());
        assert_eq!(search["best"]["score"].as_f64().unwrap(), scores.fold(0.0, f64::max));
    }
    let points = result["promotion"]["points"].as_array().unwrap();
    assert_eq!(points.len(), 3);
    let full: Vec<f64> = points.iter().map(|point| point["full"].as_f64().unwrap()).collect();
    assert!(full.is_sorted_by(|one, other| one >= other), "{full:?}");
    // In full a point sees all documents for all epochs; the reduced run leaves no weights behind.
    let best = points[0]["evaluation"].to_string();
    let swarm = folder.join("runs/swarm");
    assert!(swarm.join("full").join(&best).join("best/model.safetensors").is_file());
    assert!(!swarm.join(&best).join("best").exists());
    let steps = |path: &Path| {
        let log = fs::read_to_string(path.join("metrics.jsonl")).unwrap();
        log.lines().filter(|line| line.contains(r#""event":"step""#)).count()
    };
    assert_eq!(steps(&swarm.join("full").join(&best)), 3 * 15);
    assert_eq!(steps(&swarm.join(&best)), 8);

    let second = pso(folder, &run);
    assert_eq!(json(&second), result);
    assert!(!String::from_utf8_lossy(&second.stderr).contains("swarm evaluation"), "it searched again");

    let status = pso(folder, &["status", "tune.toml", "--out", "runs", "--json"]);
    assert_eq!(json(&status)["best"], result["searches"][0]["best"]);

    // Another objective under the same name is refused: its scores could not be compared.
    let text = fs::read_to_string(folder.join("tune.toml")).unwrap();
    fs::write(folder.join("tune.toml"), text.replace("subset = 0.5", "subset = 0.4")).unwrap();
    let refused = pso(folder, &run);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("other options or data"));
}

#[test]
fn a_teacher_and_folds_and_a_second_worker() {
    let case = prepare("teacher_logits = [\"teacher.jsonl\"]");
    let folder = case.root.path();
    // A teacher that knows the labels.
    let lines: Vec<String> = case
        .train
        .iter()
        .map(|document| {
            let logit = |code: &str| if document.labels.iter().any(|label| label == code) { 3.0 } else { -3.0 };
            serde_json::json!({"id": document.id, "codes": ["I", "S"], "labels": [], "logits": [logit("I"), logit("S")]})
                .to_string()
        })
        .collect();
    fs::write(folder.join("teacher.jsonl"), lines.join("\n")).unwrap();
    let text = fs::read_to_string(folder.join("tune.toml")).unwrap();
    fs::write(folder.join("tune.toml"), text.replace("dev = \"dev.jsonl\"", "folds = [\"1/3\", \"2/3\"]")).unwrap();

    let worker = pso(folder, &["worker", "tune.toml", "--out", "runs", "--name", "other", "--threads", "1"]);
    assert!(worker.status.success(), "{}", String::from_utf8_lossy(&worker.stderr));
    let status = json(&pso(folder, &["status", "tune.toml", "--out", "runs", "--json"]));
    let evaluations = status["evaluations"].as_array().unwrap();
    assert!(evaluations.iter().all(|evaluation| evaluation["worker"] == "other" && evaluation["score"].is_f64()));
    // Both folds were trained, each in two stages.
    for fold in ["fold-1", "fold-2"] {
        assert!(folder.join("runs/swarm/0").join(fold).join("imitation/metrics.jsonl").is_file());
        assert!(folder.join("runs/swarm/0").join(fold).join("dev-predictions.jsonl").is_file());
    }
}
