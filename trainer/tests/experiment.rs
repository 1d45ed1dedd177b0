//! Experiments as a whole, through the command, on a tiny encoder and texts of our own.

#![expect(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

#[allow(dead_code, reason = "no test needs all of it")]
mod tiny;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use kdh_runtime::dataset::{Document, Writer};
use serde_json::Value;
use tiny::{Case, documents};

const FILE: &str = r#"
name = "tiny <evidence>"
folds = 3
reference = "student"
resamples = 200
pso = ["search.json"]

[[data]]
name = "all"
train = "train.jsonl"
dev = "dev.jsonl"

[[data]]
name = "half"
train = "train.jsonl"
dev = "dev.jsonl"
sample = 0.5

[options]
max_tokens = 40
batch_size = 8
precision = "f32"
epochs = 2
imitation_epochs = 1
learning_rate = 5e-3
head_factor = 10.0

[[arms]]
name = "words"
kind = "linear"
options = { min_documents = 1 }

[[arms]]
name = "teacher"
kind = "fit"
weights = "weights"
options = { epochs = 4 }

[[arms]]
name = "student"
kind = "distill"
weights = "weights"
teachers = ["teacher", "words"]

[[arms]]
name = "no-sentences"
kind = "fit"
weights = "weights"
sentence_labels = false
options = { sentence_weight = 0.0 }
data = ["half"]

[[arms]]
name = "oracle"
kind = "predictions"
predictions = "oracle.jsonl"
"#;

fn write(path: &Path, documents: &[Document]) {
    let mut writer = Writer::new(fs::File::create(path).unwrap());
    for document in documents {
        writer.write(document).unwrap();
    }
    writer.finish().unwrap();
}

/// Data, an experiment, and predictions that are always right.
fn prepare(file: &str) -> Case {
    let case = Case::new();
    let folder = case.root.path();
    let (train, dev) = (documents(60, 0), documents(30, 1000));
    write(&folder.join("train.jsonl"), &train);
    write(&folder.join("dev.jsonl"), &dev);
    let line = |document: &Document| {
        let logit = |code: &str| if document.labels.iter().any(|label| label == code) { 3.0 } else { -3.0 };
        let value = serde_json::json!({"id": document.id, "codes": ["I", "S"], "labels": document.labels,
            "logits": [logit("I"), logit("S")]});
        format!("{value}\n")
    };
    fs::write(folder.join("oracle.jsonl"), train.iter().chain(&dev).map(line).collect::<String>()).unwrap();
    let search =
        r#"{"name": "swarm", "searches": [{"search": "swarm", "evaluations": [{"score": 0.5}, {"score": null}]}]}"#;
    fs::write(folder.join("search.json"), search).unwrap();
    fs::write(folder.join("experiment.toml"), file).unwrap();
    case
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kdh-train"));
    command.arg("experiment").args(arguments).current_dir(folder);
    command
}

fn run(folder: &Path, out: &str) -> Output {
    command(folder, &["run", "experiment.toml", "--out", out, "--threads", "1", "--json"]).output().unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn cells(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder.join("cells")) else { return Vec::new() };
    entries
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().join("cell.json").is_file())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect()
}

#[test]
fn a_killed_experiment_goes_on_and_ends_the_same() {
    let case = prepare(FILE);
    let folder = case.root.path();
    let whole = run(folder, "whole");
    assert!(whole.status.success(), "{}", errors(&whole));
    let result: Value = serde_json::from_slice(&whole.stdout).unwrap();
    let total = 3 * 4 + 3 * 5;
    assert_eq!(result["cells"].as_array().unwrap().len(), total);

    // A real kill, in the midst of a training after some cells are done.
    let mut child = command(folder, &["run", "experiment.toml", "--out", "killed", "--threads", "1"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    let running = || {
        let Ok(entries) = fs::read_dir(folder.join("killed/cells")) else { return false };
        let mut paths = entries.map(|entry| entry.unwrap().path());
        paths.any(|path| path.join("run/metrics.jsonl").is_file() && !path.join("cell.json").is_file())
    };
    while cells(&folder.join("killed")).len() < 6 || !running() {
        assert!(started.elapsed() < Duration::from_secs(300), "the experiment does not get on");
        assert!(child.try_wait().unwrap().is_none(), "the experiment is over before it could be killed");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let before = cells(&folder.join("killed")).len();
    assert!((6..total).contains(&before));
    assert!(!folder.join("killed/result.json").exists());

    let resumed = run(folder, "killed");
    assert!(resumed.status.success(), "{}", errors(&resumed));
    assert_eq!(resumed.stdout, whole.stdout);
    let trained = |output: &Output| {
        errors(output).lines().filter(|line| line.starts_with('[') && line.contains("  micro-F1 ")).count()
    };
    assert_eq!(trained(&resumed), total - before);
    // Weights are gone, and a third run has nothing to do.
    assert!(
        cells(&folder.join("killed")).iter().all(|cell| !folder.join("killed/cells").join(cell).join("run").exists())
    );
    let third = run(folder, "killed");
    assert_eq!(third.stdout, whole.stdout);
    assert_eq!(trained(&third), 0);

    check_result(&result);
    check_report(&case, &folder.join("whole"));
}

fn check_result(result: &Value) {
    assert_eq!(result["version"], 1);
    for data in result["data"].as_array().unwrap() {
        let folds = data["folds"].as_array().unwrap();
        let sum = |part: &str| folds.iter().map(|fold| fold[part].as_u64().unwrap()).sum::<u64>();
        assert_eq!(sum("scored"), data["documents"].as_u64().unwrap());
        assert_eq!(sum("train") + sum("inner"), 2 * data["documents"].as_u64().unwrap());
        assert!(data["leaks"].as_array().unwrap().is_empty());
    }
    assert_eq!(result["data"][0]["documents"], 90);
    let half = result["data"][1]["documents"].as_u64().unwrap();
    assert!((43..=47).contains(&half), "{half}");
    let arms = result["arms"].as_array().unwrap();
    assert_eq!(arms.len(), 4 + 5);
    for arm in arms {
        let (low, f1, high) = (&arm["micro_f1"]["low"], &arm["micro_f1"]["estimate"], &arm["micro_f1"]["high"]);
        let [low, f1, high] = [low, f1, high].map(|value| value.as_f64().unwrap());
        assert!(0.0 <= low && low <= f1 && f1 <= high && high <= 1.0, "{arm:#}");
        if arm["arm"] == "oracle" {
            assert_eq!((low, high), (1.0, 1.0));
        }
    }
    for comparison in result["comparisons"].as_array().unwrap() {
        assert_ne!(comparison["arm"], "student");
        if comparison["arm"] == "oracle" {
            assert!(comparison["micro_f1"]["low"].as_f64().unwrap() >= 0.0);
            assert!(comparison["labels"].as_array().unwrap().iter().all(|label| label["only_second"] == 0));
        }
    }
    // Each data set over its three folds, and both over six blocks; the arm that ran on one is not in the last.
    let blocks: Vec<(u64, usize)> = result["blocks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tests| (tests["blocks"].as_u64().unwrap(), tests["arms"].as_array().unwrap().len()))
        .collect();
    assert_eq!(blocks, [(3, 4), (3, 5), (6, 4)]);
}

/// The page is one file that refers to nothing, and neither it nor the result holds a text.
fn check_report(case: &Case, out: &Path) {
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    for reference in ["http:", "https:", "src=", "href=", "url(", "@import", "<script", "<link"] {
        // The namespace of SVG is a name and not an address.
        let found = page.replace("http://www.w3.org/2000/svg", "").contains(reference);
        assert!(!found, "{reference}");
    }
    assert!(page.contains("tiny &lt;evidence&gt;") && !page.contains("tiny <evidence>"));
    assert!(page.matches("<svg").count() > 2 * 6, "{}", page.matches("<svg").count());
    let result = fs::read_to_string(out.join("result.json")).unwrap();
    for document in documents(60, 0).iter().chain(&documents(30, 1000)) {
        let sentence = &document.text[..document.sentences[0].end];
        assert!(!page.contains(sentence) && !result.contains(sentence));
    }

    // The same page comes of the files alone.
    fs::remove_file(out.join("report.html")).unwrap();
    fs::remove_dir_all(out.join("cells")).unwrap();
    let report = command(case.root.path(), &["report", out.to_str().unwrap()]).output().unwrap();
    assert!(report.status.success(), "{}", errors(&report));
    assert_eq!(fs::read_to_string(out.join("report.html")).unwrap(), page);
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_trained() {
    let case = prepare(FILE);
    let folder = case.root.path();
    let refused = |from: &str, to: &str, part: &str| {
        assert!(FILE.contains(from), "{from}");
        fs::write(folder.join("experiment.toml"), FILE.replacen(from, to, 1)).unwrap();
        let output = run(folder, "out");
        assert_eq!(output.status.code(), Some(2), "{to}");
        assert!(errors(&output).contains(part), "{to}: {}", errors(&output));
        assert!(!folder.join("out").exists(), "{to}");
    };
    refused("name = \"tiny", "nome = \"tiny", "nome");
    refused("train = \"train.jsonl\"", "train = \"nowhere.jsonl\"", "nowhere.jsonl");
    refused("weights = \"weights\"", "weights = \"nowhere\"", "nowhere");
    refused("max_tokens = 40", "max_tokens = 40000", "max-tokens");
    refused("sample = 0.5", "sample = 0.001", "too few");
    refused("folds = 3", "folds = 60", "too few");
    refused("oracle.jsonl", "nowhere-{fold}.jsonl", "nowhere-1.jsonl");
    refused("search.json", "oracle.jsonl", "not JSON");
    refused("min_documents", "min_words", "min_words");
    refused("teachers = [\"teacher\", \"words\"]", "teacher_logits = [\"weights/vocab.txt\"]", "line 1");
    // A document that is in both files, as a whole or under another name.
    let mut dev = documents(30, 1000);
    dev[0] = documents(1, 0).remove(0);
    write(&folder.join("dev.jsonl"), &dev);
    refused("folds = 3", "folds = 4", "train and dev");
    dev[0].id = "another".into();
    write(&folder.join("dev.jsonl"), &dev);
    refused("folds = 3", "", "same-text");
    // Labels that nobody knows.
    dev[0] = documents(1, 5000).remove(0);
    dev[0].labels.push("X".into());
    write(&folder.join("dev.jsonl"), &dev);
    refused("folds = 3", "", "\"X\"");
}

#[test]
fn one_failure_does_not_stop_the_rest_and_leaks_are_removed_on_demand() {
    let file = FILE
        .replace("folds = 3", "leakage = \"remove\"\nkeep_students = true")
        .replace("options = { epochs = 4 }", "options = { learning_rate = 1e30, epochs = 4 }")
        .replace("data = [\"half\"]", "")
        + "\n[[arms]]\nname = \"later\"\nkind = \"predictions\"\npredictions = \"later.jsonl\"\noptional = true\n";
    let case = prepare(&file);
    let folder = case.root.path();
    let mut dev = documents(30, 1000);
    dev[0].text = documents(1, 0).remove(0).text;
    dev[0].sentences.clear();
    write(&folder.join("dev.jsonl"), &dev);
    // Thresholds may also be given.
    let text =
        file.replace("predictions = \"oracle.jsonl\"", "predictions = \"oracle.jsonl\"\nfixed_thresholds = [0.5]");
    fs::write(folder.join("experiment.toml"), text).unwrap();

    let output = run(folder, "out");
    assert_eq!(output.status.code(), Some(1), "{}", errors(&output));
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(result["left_out"], serde_json::json!(["later"]));
    assert_eq!(result["data"][0]["leaks"][0]["kind"], "same-text");
    let sizes = &result["data"][0]["folds"][0];
    assert_eq!(sizes["train"].as_u64().unwrap() + sizes["inner"].as_u64().unwrap(), 59);
    for cell in result["cells"].as_array().unwrap() {
        let error = cell["error"].as_str();
        match cell["arm"].as_str().unwrap() {
            "teacher" => assert!(error.unwrap().contains("the loss is"), "{error:?}"),
            "student" => assert!(error.unwrap().contains("its teacher teacher failed"), "{error:?}"),
            arm => {
                assert_eq!(error, None);
                let text = |name: &str| cell[name].as_str().unwrap().to_owned();
                let name = format!("{}.{arm}.seed-1.fold-1.{:.12}", text("data"), text("key"));
                let student = folder.join("out/cells").join(name).join("student/model.safetensors");
                assert_eq!(student.is_file(), arm == "no-sentences");
            }
        }
    }
    let page = fs::read_to_string(folder.join("out/report.html")).unwrap();
    assert!(page.contains("What failed") && page.contains("later"));
}
