//! The `kdh-export` program: results on standard output, reasons on standard error, exit codes 0, 1 and 2.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod tiny;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kdh_format::student::Head;
use serde_json::{Value, json};
use tempfile::TempDir;

struct Run {
    code: i32,
    stdout: String,
    stderr: String,
}

fn run(arguments: &[&str]) -> Run {
    let output = Command::new(env!("CARGO_BIN_EXE_kdh-export")).args(arguments).output().unwrap();
    Run {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A tiny student in a folder of its own.
struct Fixture {
    folder: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        tiny::write_student(&folder.path().join("student"), "bert", Head::SentenceEvidence, 1);
        Self { folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn student(&self) -> String {
        self.path("student")
    }

    /// Runs `onnx`, which must refuse the student with exit code 2 and say `reason`.
    fn refused(&self, reason: &str) {
        let run = run(&["onnx", &self.student(), "-o", &self.path("model.onnx")]);
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{}", run.stderr);
        assert!(run.stderr.contains(reason), "{}", run.stderr);
        assert!(!Path::new(&self.path("model.onnx")).exists());
    }
}

fn data() -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/tiny/documents.jsonl");
    path.to_str().unwrap().to_owned()
}

#[test]
fn onnx_writes_a_graph_of_each_precision() {
    let fixture = Fixture::new();
    let mut sizes = Vec::new();
    for precision in ["f32", "int8"] {
        let file = fixture.path(precision);
        let run = run(&["onnx", &fixture.student(), "-o", &file, "--precision", precision, "--json"]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        let result: Value = serde_json::from_str(&run.stdout).unwrap();
        assert_eq!(result["bytes"], fs::read(&file).unwrap().len());
        sizes.push(result["bytes"].as_u64().unwrap());
    }
    assert!(sizes[1] < sizes[0], "{sizes:?}");
}

#[test]
fn parity_accepts_and_refuses() {
    let fixture = Fixture::new();
    let accepted = run(&["parity", &fixture.student(), &data(), "--json"]);
    assert_eq!(accepted.code, 0, "{}", accepted.stderr);
    let result: Value = serde_json::from_str(&accepted.stdout).unwrap();
    assert_eq!((&result["documents"], &result["decisions"]), (&json!(38), &json!(114)));
    assert_eq!(result["accepted"], true);
    assert!(result["max_logit_difference"].as_f64().unwrap() > 0.0);

    let refused = run(&["parity", &fixture.student(), &data(), "--json", "--max-f1-loss=-1.1"]);
    assert_eq!(refused.code, 1);
    let result: Value = serde_json::from_str(&refused.stdout).unwrap();
    assert_eq!(result["accepted"], false);
    assert!(refused.stderr.contains("more than the bound -1.1"), "{}", refused.stderr);
}

#[test]
fn pack_writes_a_bundle_or_nothing() {
    let fixture = Fixture::new();
    let release = fixture.path("release.json");
    fs::write(&release, r#"{"version": "1.2", "limitations": "Not for use."}"#).unwrap();
    let (student, file) = (fixture.student(), fixture.path("model.kdh"));
    let arguments = ["pack", &student, "--data", &data(), "-o", &file, "--json"];
    let with = |more: &[&str]| run(&[&arguments, more].concat());

    for (more, reason) in [
        (&["--max-f1-loss=-1.1"][..], "not packed: int8 loses"),
        (&["--max-bytes", "1000"], "more than 1000; a smaller --vocabulary-size"),
    ] {
        let refused = with(more);
        assert_eq!((refused.code, refused.stdout.as_str()), (1, ""));
        assert!(refused.stderr.contains(reason), "{}", refused.stderr);
        assert!(!Path::new(&file).exists());
    }
    let packed = with(&["--release", &release, "--vocabulary-size", "250", "--vocabulary-from", &data()]);
    assert_eq!(packed.code, 0, "{}", packed.stderr);
    assert!(packed.stderr.contains("vocabulary pruned from"), "{}", packed.stderr);
    let result: Value = serde_json::from_str(&packed.stdout).unwrap();
    let bytes = fs::read(&file).unwrap();
    assert_eq!((&result["bytes"], &result["vocabulary"]), (&json!(bytes.len()), &json!(250)));
    let bundle = kdh_format::Bundle::parse(&bytes).unwrap();
    let manifest = bundle.manifest().unwrap();
    assert_eq!((manifest.model_version, manifest.card.limitations), ("1.2", "Not for use."));
    assert_eq!(bundle.section(kdh_format::SectionKind::Vocabulary).unwrap().split(|&byte| byte == b'\n').count(), 251);
}

#[test]
fn vocabulary_reports_and_writes_nothing() {
    let fixture = Fixture::new();
    let (student, data) = (fixture.student(), data());
    let arguments = ["vocabulary", &student, "--check", &data];
    let size = ["--vocabulary-size", "230", "--vocabulary-from", &data];
    let run_json = run(&[&arguments[..], &size, &["--json"]].concat());
    assert_eq!(run_json.code, 0, "{}", run_json.stderr);
    let result: Value = serde_json::from_str(&run_json.stdout).unwrap();
    assert_eq!(result["vocabulary_after"], 230);
    assert_eq!(result["before"]["words"], result["after"]["words"]);
    assert_eq!(result["after"]["unknown"], 0);
    assert!(run(&[&arguments[..], &size].concat()).stdout.contains("tokens a word"));
    let missing = run(&arguments);
    assert_eq!(missing.code, 2);
    assert!(missing.stderr.contains("--vocabulary-size"), "{}", missing.stderr);
}

#[test]
fn bad_students_are_named() {
    let fixture = Fixture::new();
    let student = PathBuf::from(fixture.student());
    let weights = student.join("model.safetensors");
    let vocabulary = tiny::vocabulary("bert").len();
    let good = tiny::tensors("bert", vocabulary, 3, 1);
    let write = |change: &dyn Fn(&mut tiny::Tensors)| {
        let mut tensors = good.clone();
        change(&mut tensors);
        tiny::write_tensors(&weights, &tensors);
    };

    let query = "bert.encoder.layer.1.attention.self.query.weight";
    write(&|tensors| drop(tensors.remove(query)));
    fixture.refused(&format!("the tensor `{query}` is missing"));
    write(&|tensors| tensors.get_mut(query).unwrap().0 = vec![16, 64]);
    fixture.refused(&format!("the tensor `{query}` has shape [16, 64]; the configuration asks for [32, 32]"));
    write(&|tensors| tensors.get_mut(query).unwrap().1[0] = f32::NAN);
    fixture.refused("holds an infinity or a NaN");
    write(&|tensors| drop(tensors.remove("document_bias")));
    fixture.refused("the tensor `document_bias` is missing");
    write(&|tensors| *tensors = tiny::tensors("bert", vocabulary - 1, 3, 1));
    fixture.refused("word embeddings");
    fs::write(&weights, b"\xff\xff\xff\xff\xff\xff\xff\xff").unwrap();
    fixture.refused("not a whole safetensors file");
    fs::remove_file(&weights).unwrap();
    fixture.refused("cannot read");
    write(&|_| ());

    let config: Value = serde_json::from_str(&fs::read_to_string(student.join("config.json")).unwrap()).unwrap();
    for (field, value, reason) in [
        ("model_type", json!("roberta"), "the architecture `roberta` cannot be exported"),
        ("hidden_act", json!("relu"), "the activation `relu` cannot be exported"),
        ("num_hidden_layers", json!(1), "says 1 layers, the weights hold more"),
        ("num_hidden_layers", json!(3), "`bert.encoder.layer.2.attention.self.query.weight` is missing"),
        ("num_attention_heads", json!(5), "not a multiple of the 5 attention heads"),
    ] {
        let mut config = config.clone();
        config[field] = value;
        tiny::write_json(&student.join("config.json"), &config);
        fixture.refused(reason);
    }
    tiny::write_json(&student.join("config.json"), &config);

    let card = serde_json::to_value(tiny::card("bert", Head::SentenceEvidence)).unwrap();
    for (field, value, reason) in [
        ("version", json!(2), "version 2 is not known"),
        ("labels", json!([]), "it has 0 labels"),
        ("max_tokens", json!(101), "`max_tokens` is 101; the encoder takes from 3 to 100"),
        ("max_sentences", json!(0), "`max_sentences` is 0"),
        ("head", json!("cls"), "unknown variant `cls`"),
        ("surprise", json!(1), "unknown field `surprise`"),
    ] {
        let mut card = card.clone();
        card[field] = value;
        tiny::write_json(&student.join("kdh.json"), &card);
        fixture.refused(reason);
    }
    tiny::write_json(&student.join("kdh.json"), &card);
    fs::write(student.join("vocab.txt"), "a\nb\n").unwrap();
    fixture.refused("the special token `[CLS]` is not in vocab.txt");
    fs::write(student.join("vocab.txt"), b"\xff\xfe\n").unwrap();
    fixture.refused("invalid utf-8");
}

#[test]
fn bad_arguments_and_data_exit_with_2() {
    let fixture = Fixture::new();
    let student = fixture.student();
    let other = fixture.path("other.jsonl");
    fs::write(&other, "{\"id\": \"1\", \"text\": \"secret words\", \"labels\": [\"Z\"]}\n").unwrap();
    let folder = fixture.path("");
    for (arguments, reason) in [
        (vec!["onnx", "/nonexistent", "-o", "x"], "is not a folder"),
        (vec!["onnx", &student, "-o", &folder], "is a directory"),
        (vec!["parity", &student, "/nonexistent.jsonl"], "cannot read"),
        (vec!["parity", &student, &folder], "directory"),
        (vec!["parity", &student, &other], "Z"),
        (vec!["parity", &student, &other, "--vocabulary-size", "9"], "--vocabulary-from"),
        (vec!["parity", &student, &other, "--vocabulary-size", "9", "--vocabulary-from", &other], "ask for more"),
        (vec!["pack", &student], "--data"),
    ] {
        let run = run(&arguments);
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{arguments:?}: {}", run.stderr);
        assert!(run.stderr.contains(reason), "{arguments:?}: {}", run.stderr);
        assert!(!run.stderr.contains("secret"), "{}", run.stderr);
    }
}

#[test]
fn help_teaches() {
    let help = run(&["--help"]);
    assert_eq!(help.code, 0);
    for word in ["onnx", "vocabulary", "parity", "pack", "config.json", "Exit code"] {
        assert!(help.stdout.contains(word), "{word}");
    }
}

#[test]
fn a_reader_that_has_gone_ends_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let keygen = |name: &str, stdout: std::process::Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kdh-export"));
        command.args(["keygen", "--role", "test"]).arg(folder.path().join(name)).stdout(stdout).output().unwrap()
    };
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let gone = keygen("gone", writer.into());
    assert_eq!((gone.status.code(), gone.stderr.as_slice()), (Some(0), &[][..]));
    assert!(folder.path().join("gone.secret").exists());
    #[cfg(target_os = "linux")]
    {
        let full = keygen("full", fs::File::options().write(true).open("/dev/full").unwrap().into());
        assert_eq!(full.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&full.stderr).contains("standard output"));
    }
}

#[test]
fn keys_sign_bundles() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let golden = |name: &str| fs::read(root.join("format/tests/golden").join(name)).unwrap();
    fs::write(path("model.kdh"), golden("v1.kdh")).unwrap();
    let secret = root.join("examples/keys/demonstration.secret");
    let signed = run(&["sign", &path("model.kdh"), "--key", secret.to_str().unwrap(), "-o", &path("signed.kdh")]);
    assert_eq!((signed.code, signed.stderr.as_str()), (0, ""));
    assert!(signed.stdout.contains("signed by test key a71889d3f8c2bcccfe047804a17ba5c5"), "{}", signed.stdout);
    assert_eq!(fs::read(path("signed.kdh")).unwrap(), golden("v1-signed.kdh"));
    assert_eq!(fs::read(path("model.kdh")).unwrap(), golden("v1.kdh"));

    let keygen = ["keygen", &path("maker"), "--role", "release", "--label", "the maker", "--json"];
    let made: Value = serde_json::from_str(&run(&keygen).stdout).unwrap();
    let again = run(&keygen);
    assert_eq!((again.code, again.stdout.as_str()), (2, ""));
    assert!(again.stderr.contains("maker.secret: File exists"), "{}", again.stderr);
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path("maker.secret")).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }
    // In place, beside the first signature.
    let signed = run(&["sign", &path("signed.kdh"), "--key", &path("maker.secret"), "--json"]);
    let said: Value = serde_json::from_str(&signed.stdout).unwrap();
    assert_eq!((&said["id"], &said["role"]), (&made["id"], &json!("release")));
    let bytes = fs::read(path("signed.kdh")).unwrap();
    let trust = kdh_format::Trust::parse(&fs::read_to_string(path("maker.trust")).unwrap()).unwrap();
    let bundle = kdh_format::Bundle::parse(&bytes).unwrap();
    assert!(trust.verify(&bundle).unwrap().to_string().contains("the maker"));
    assert_eq!(bundle.signatures().unwrap().len(), 2);

    // The trust file does not sign, and errors say nothing of a key file.
    let refused = run(&["sign", &path("model.kdh"), "--key", &path("maker.trust")]);
    assert_eq!((refused.code, refused.stdout.as_str()), (2, ""));
    assert!(refused.stderr.contains("not a secret key file"), "{}", refused.stderr);
}
