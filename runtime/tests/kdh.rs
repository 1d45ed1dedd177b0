//! The `kdh` program: what it prints, where, and how it ends.
#![cfg(feature = "cli")]

#[cfg(test)]
mod bundles;

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Output, Stdio};

    use serde_json::Value;
    use tempfile::TempDir;

    use crate::bundles::{Parts, TINY, flip_in_section};

    const SECRET: &str = "zebra-striped finding";

    /// A folder with a bundle in `tiny.kdh`, in which the program runs.
    struct Folder(TempDir);

    impl Folder {
        fn new() -> Self {
            let this = Self(tempfile::tempdir().unwrap());
            this.write("tiny.kdh", TINY);
            this
        }

        fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
            let path = self.0.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, bytes).unwrap();
            path
        }

        fn command(&self, args: &[&str]) -> Command {
            let mut command = Command::new(env!("CARGO_BIN_EXE_kdh"));
            command.args(args).current_dir(self.0.path());
            // The test bundles are not signed; `signing` tests what happens without this.
            if args.len() > 1 {
                command.arg("--allow-unsigned");
            }
            command
                .env_remove("KDH_BUNDLE")
                .env_remove("KDH_TRUST")
                .env_remove("CARGO_MANIFEST_DIR")
                .stdin(Stdio::null());
            command
        }

        fn run(&self, args: &[&str]) -> Output {
            self.command(args).output().unwrap()
        }

        fn run_with_input(&self, args: &[&str], input: &[u8]) -> Output {
            let mut command = self.command(args);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().unwrap();
            // A program that refuses early closes the pipe.
            let _ = child.stdin.take().unwrap().write_all(input);
            child.wait_with_output().unwrap()
        }
    }

    fn stdout(output: &Output) -> String {
        String::from_utf8(output.stdout.clone()).unwrap()
    }

    fn json(output: &Output) -> Value {
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stderr.is_empty());
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Exit code 2, nothing on standard output, one line on standard error that has `says` and no text that was read.
    #[track_caller]
    fn refused(output: &Output, says: &str) {
        let error = String::from_utf8(output.stderr.clone()).unwrap();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(output.stdout.is_empty());
        assert!(error.starts_with("error: ") && error.contains(says), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(!error.contains("zebra"), "{error}");
    }

    #[test]
    fn label_prints_the_evidence() {
        let b = Folder::new();
        b.write("note.txt", "The cells divided slowly.\nNo vessel \u{1b}[2J grew.");
        let output = b.run(&["label", "--bundle", "tiny.kdh", "note.txt"]);
        let table = stdout(&output);
        assert_eq!(output.status.code(), Some(0));
        assert!(output.stderr.is_empty());
        assert!(table.contains("probability") && table.contains("third label"), "{table}");
        assert!(table.contains("0..25  The cells divided slowly."), "{table}");
        assert!(!table.contains('\u{1b}'), "{table}");
    }

    #[test]
    fn label_reads_standard_input_and_prints_json() {
        let b = Folder::new();
        let text = "The cells divided slowly. No vessel grew.";
        b.write("note.txt", text);
        let from_file = json(&b.run(&["label", "--bundle", "tiny.kdh", "--json", "note.txt"]));
        for args in
            [&["label", "--bundle", "tiny.kdh", "--json"][..], &["label", "-", "--bundle", "tiny.kdh", "--json"]]
        {
            assert_eq!(json(&b.run_with_input(args, text.as_bytes())), from_file);
        }
        let labels = from_file["labels"].as_array().unwrap();
        assert_eq!(labels.len(), 3);
        assert_eq!((&labels[0]["code"], &labels[1]["name"]), (&"A".into(), &"second label".into()));
        for label in labels {
            let number = |field: &str| label[field].as_f64().unwrap();
            assert_eq!(label["positive"].as_bool().unwrap(), number("probability") >= number("threshold"));
            assert_eq!(label["positive"].as_bool().unwrap(), !label["evidence"].as_array().unwrap().is_empty());
        }
        assert_eq!((&from_file["truncated"], &from_file["sentences"]), (&false.into(), &2.into()));
    }

    /// Verifies: R-008
    #[test]
    fn label_says_what_it_cut() {
        let b = Folder::new();
        b.write("long.txt", "1 2 3; ".repeat(100));
        let windows = b.run(&["label", "--bundle", "tiny.kdh", "long.txt"]);
        assert!(stdout(&windows).contains("5 windows, all tokens seen"), "{}", stdout(&windows));
        let whole = json(&b.run(&["label", "--bundle", "tiny.kdh", "long.txt", "--json"]));
        assert_eq!(
            (&whole["truncated"], &whole["kept_tokens"], &whole["windows"]),
            (&false.into(), &400.into(), &5.into())
        );
        let truncate = ["--on-overflow", "truncate"];
        let output = b.run(&[&["label", "--bundle", "tiny.kdh", "long.txt"], &truncate[..]].concat());
        assert!(stdout(&output).contains("400 tokens"), "{}", stdout(&output));
        assert!(stdout(&output).contains("truncated: the model has seen the first 94 tokens only"));
        let cut = json(&b.run(&[&["label", "--bundle", "tiny.kdh", "long.txt", "--json"], &truncate[..]].concat()));
        assert_eq!(
            (&cut["truncated"], &cut["kept_tokens"], &cut["dropped_tokens"]),
            (&true.into(), &94.into(), &306.into())
        );
        refused(&b.run(&["label", "--bundle", "tiny.kdh", "long.txt", "--on-overflow", "refuse"]), "400 tokens");
    }

    #[test]
    fn label_draws_a_page_that_runs_nothing() {
        let b = Folder::new();
        let hostile = "The cells </mark></div><script>alert(1)</script> divided slowly & \"quietly\". \u{1b}[2J\u{202e}\0 \
                       <img src=x onerror='y'> No vessel grew.\n<b>caf\u{e9}</b> <!-- \u{4e2d}\u{6587}\u{3002}";
        b.write("note.txt", hostile);
        let output = b.run(&["label", "--bundle", "tiny.kdh", "note.txt", "--html", "page.html"]);
        assert_eq!(output.status.code(), Some(0));
        let page = std::fs::read_to_string(b.0.path().join("page.html")).unwrap();
        for markup in ["<script", "<img", "<b>caf", "<!--", "</mark></div>", "\u{1b}", "\0"] {
            assert!(!page.contains(markup), "{markup}");
        }
        assert!(page.contains("default-src 'none'") && page.contains("This page contains the text"));
        assert!(page.contains("third label") && page.contains("<mark class=\""), "{page}");
        // Nothing of the text is missing: the page without its markup has its characters.
        let begin = page.find("dir=\"auto\">").unwrap() + 11;
        let mut shown = page[begin..page[begin..].find("</div>").unwrap() + begin].to_owned();
        for element in ["mark", "sup"] {
            while let Some(start) = shown.find(&format!("<{element}")) {
                let end = start + shown[start..].find('>').unwrap() + 1;
                let close = start + shown[start..].find(&format!("</{element}>")).unwrap();
                let inner = if element == "mark" { shown[end..close].to_owned() } else { String::new() };
                shown.replace_range(start..close + element.len() + 3, &inner);
            }
        }
        let entities = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&amp;", "&")];
        for (entity, c) in entities {
            shown = shown.replace(entity, c);
        }
        assert_eq!(shown, hostile.replace(['\0', '\u{1b}'], "\u{fffd}"));
        refused(&b.run(&["label", "--bundle", "tiny.kdh", "note.txt", "--html", "no/page.html"]), "cannot write");
        b.write("empty.txt", "");
        b.run(&["label", "--bundle", "tiny.kdh", "empty.txt", "--html", "page.html", "--operating-point", "manifest"]);
        let page = std::fs::read_to_string(b.0.path().join("page.html")).unwrap();
        assert!(page.contains("gives no label: empty") && page.contains("<b>manifest</b>"), "{page}");
        let nowhere = ["label", "--bundle", "tiny.kdh", "note.txt", "--operating-point", "nowhere"];
        refused(&b.run(&nowhere), "no operating point of this name");
    }

    #[test]
    fn eval_draws_a_page_without_text() {
        let b = Folder::new();
        let lines = (0..12).map(|number| {
            let labels = if number % 3 == 0 { r#"["A", "B"]"# } else { "[]" };
            format!("{{\"id\": \"<i{number}>\", \"text\": \"zebra cells {number}.\", \"labels\": {labels}}}\n")
        });
        b.write("data.jsonl", lines.collect::<String>());
        let output = b.run(&["eval", "--bundle", "tiny.kdh", "data.jsonl", "--html", "page.html"]);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        let page = std::fs::read_to_string(b.0.path().join("page.html")).unwrap();
        assert_eq!(page.matches("<svg").count(), 3);
        assert!(!page.contains("zebra") && !page.contains("<i") && page.contains("&lt;i0&gt;"));
    }

    #[test]
    fn eval_measures_long_texts() {
        let b = Folder::new();
        let line = |id: usize, label: &str| {
            let text = "The cells divided slowly. ".repeat(6);
            format!("{{\"id\": \"{id}\", \"text\": \"{text}\", \"labels\": [\"{label}\"]}}\n")
        };
        b.write("data.jsonl", (0..5).map(|id| line(id, ["A", "B"][id % 2])).collect::<String>());
        let eval =
            |more: &[&str]| {
                json(&b.run(
                    &[&["eval", "--bundle", "tiny.kdh", "data.jsonl", "--json", "--concatenate", "2"], more].concat(),
                ))
            };
        let windows = eval(&[]);
        assert_eq!(
            (&windows["documents"], &windows["truncated"], &windows["windowed"]),
            (&3.into(), &0.into(), &2.into())
        );
        let max = eval(&["--aggregate", "max", "--overlap", "0"]);
        assert_eq!((&max["truncated"], &max["windowed"]), (&0.into(), &2.into()));
        let truncated = eval(&["--on-overflow", "truncate"]);
        assert_eq!((&truncated["truncated"], &truncated["windowed"]), (&2.into(), &0.into()));
    }

    /// Verifies: R-003, R-009
    #[test]
    fn label_refuses_bad_texts() {
        let b = Folder::new();
        let label = |text: &str| b.run(&["label", "--bundle", "tiny.kdh", text]);
        refused(&label("missing.txt"), "missing.txt: No such file");
        std::fs::create_dir(b.0.path().join("folder")).unwrap();
        refused(&label("folder"), "folder: this is a directory");
        b.write("blank.txt", " \n\t ");
        b.write("empty.txt", "");
        for name in ["blank.txt", "empty.txt"] {
            assert!(stdout(&label(name)).starts_with("the model abstains: empty\n"));
            let report = json(&b.run(&["label", "--bundle", "tiny.kdh", name, "--json"]));
            assert_eq!((&report["abstention"][0], report["labels"].as_array().unwrap().len()), (&"empty".into(), 0));
        }
        b.write("latin1.txt", [SECRET.as_bytes(), b" caf\xe9"].concat());
        refused(&label("latin1.txt"), "latin1.txt: not UTF-8 at byte 25");
        b.write("large.txt", SECRET.repeat(10 << 20 >> 4));
        let truncate = ["label", "--bundle", "tiny.kdh", "--on-overflow", "truncate"];
        refused(&b.run(&[&truncate[..], &["large.txt"]].concat()), "large.txt: the text has more than 1048576 bytes");
        let large = SECRET.repeat(10 << 20 >> 4);
        refused(&b.run_with_input(&truncate, large.as_bytes()), "standard input: the text");
        refused(&b.run_with_input(&["label", "--bundle", "tiny.kdh"], b"\xff"), "standard input: not UTF-8 at byte 0");
    }

    /// Verifies: R-002
    #[test]
    fn every_command_refuses_bad_bundles() {
        let b = Folder::new();
        b.write("note.txt", SECRET);
        b.write("data.jsonl", r#"{"id": "1", "text": "zebra.", "labels": ["A"]}"#);
        b.write("empty.kdh", "");
        b.write("cut.kdh", &TINY[..40_000]);
        b.write("flipped.kdh", flip_in_section(1));
        b.write("text.kdh", "Dear reader");
        std::fs::create_dir(b.0.path().join("folder.kdh")).unwrap();
        for (bundle, says) in [
            ("missing.kdh", "missing.kdh: cannot open the bundle: No such file"),
            ("folder.kdh", "folder.kdh: this is a directory"),
            ("empty.kdh", "empty.kdh: the file is empty"),
            ("cut.kdh", "cut.kdh: the bundle is cut off"),
            ("flipped.kdh", "flipped.kdh: section 1 of the bundle is damaged"),
            ("text.kdh", "text.kdh: this is not a kdh bundle"),
        ] {
            refused(&b.run(&["label", "--bundle", bundle, "note.txt"]), says);
            refused(&b.run(&["eval", "--bundle", bundle, "data.jsonl"]), says);
            refused(&b.run(&["inspect", "--bundle", bundle]), says);
        }
    }

    #[test]
    fn finds_the_default_bundle() {
        let b = Folder::new();
        b.write("note.txt", SECRET);
        refused(&b.run(&["label", "note.txt"]), "give --bundle FILE, set KDH_BUNDLE");
        let from_variable = b.command(&["label", "note.txt"]).env("KDH_BUNDLE", "tiny.kdh").output().unwrap();
        assert_eq!(from_variable.status.code(), Some(0));
        let runtime = b.0.path().join("elsewhere/runtime");
        b.write("elsewhere/runtime/Cargo.toml", "");
        b.write("elsewhere/models/default.kdh", TINY);
        let from_repository = b.command(&["label", "note.txt"]).env("CARGO_MANIFEST_DIR", runtime).output().unwrap();
        assert_eq!(from_repository, from_variable);
        b.write("models/default.kdh", TINY);
        assert_eq!(b.run(&["label", "note.txt"]), from_variable);
        // What is asked for and not there is an error, not a reason to take another bundle.
        let missing = b.command(&["label", "note.txt"]).env("KDH_BUNDLE", "missing.kdh").output().unwrap();
        refused(&missing, "missing.kdh: cannot open");
    }

    /// Verifies: R-011
    #[test]
    fn verify_checks_bytes_and_logits() {
        let b = Folder::new();
        let verify = |bundle: &str| b.run(&["verify", "--bundle", bundle, "--json"]);
        let good = json(&verify("tiny.kdh"));
        assert_eq!(good["ok"], true);
        assert!(good["self_test"]["texts"].as_u64().unwrap() > 10);
        assert!(good["self_test"]["max_difference"].as_f64() <= good["self_test"]["tolerance"].as_f64());
        let human = b.run(&["verify", "--bundle", "tiny.kdh"]);
        assert!(stdout(&human).starts_with("tiny.kdh: ok\n"));
        assert!(stdout(&human).contains(good["digest"].as_str().unwrap()));

        let failed = |bundle: &str, says: &str| {
            let output = verify(bundle);
            assert_eq!(output.status.code(), Some(1));
            let result: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(result["ok"], false);
            assert!(result["error"].as_str().unwrap().contains(says), "{result}");
            let human = b.run(&["verify", "--bundle", bundle]);
            assert_eq!(human.status.code(), Some(1));
            assert!(stdout(&human).contains("FAILED") && stdout(&human).contains(says));
        };
        b.write("flipped.kdh", flip_in_section(2));
        failed("flipped.kdh", "section 2 of the bundle is damaged");
        b.write("cut.kdh", &TINY[..TINY.len() - 1]);
        failed("cut.kdh", "cut off");
        let mut parts = Parts::of_tiny();
        parts.golden[1].logits[0] -= 1.0;
        b.write("drifted.kdh", parts.bytes());
        failed("drifted.kdh", "a logit of golden text 1 is");
        let mut parts = Parts::of_tiny();
        parts.graph = b"not a graph".to_vec();
        b.write("graph.kdh", parts.bytes());
        failed("graph.kdh", "the bundle's graph cannot be read");
        refused(&verify("missing.kdh"), "missing.kdh: cannot open");
    }

    #[test]
    fn takes_bundles_of_trusted_keys_only() {
        let b = Folder::new();
        b.write("note.txt", SECRET);
        let key = |seed, role| kdh_format::SecretKey::from_seed(&[seed; 32], role, "a key").unwrap();
        let (release, test) = (key(1, kdh_format::KeyRole::Release), key(2, kdh_format::KeyRole::Test));
        let tiny = kdh_format::Bundle::parse(TINY).unwrap();
        b.write("release.kdh", kdh_format::sign_bundle(&tiny, &release).unwrap());
        b.write("test.kdh", kdh_format::sign_bundle(&tiny, &test).unwrap());
        let demonstration =
            kdh_format::SecretKey::parse(include_str!("../../examples/keys/demonstration.secret")).unwrap();
        b.write("demonstration.kdh", kdh_format::sign_bundle(&tiny, &demonstration).unwrap());
        b.write("maker.trust", format!("kdh-trust 1\n{}\n{}\n", release.public(), test.public()));
        b.write("later.trust", format!("kdh-trust 1\n{}\nminimum-rollback-counter 1\n", release.public()));
        b.write("bad.trust", "trust everybody");
        let run = |bundle: &str, more: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_kdh"));
            command.args(["label", "note.txt", "--json", "--bundle", bundle]).args(more).current_dir(b.0.path());
            command.env_remove("KDH_TRUST").output().unwrap()
        };
        let maker = &["--trust", "maker.trust"];
        assert!(json(&run("release.kdh", maker))["labels"].is_array());
        assert_eq!(
            run("release.kdh", maker),
            b.command(&["label", "note.txt", "--json", "--bundle", "release.kdh"])
                .env("KDH_TRUST", "maker.trust")
                .output()
                .unwrap()
        );
        refused(&run("tiny.kdh", maker), "tiny.kdh: the bundle is not signed");
        refused(&run("tiny.kdh", &[]), "tiny.kdh: the bundle is not signed");
        refused(&run("demonstration.kdh", maker), "which is not trusted");
        refused(&run("release.kdh", &[]), "which is not trusted");
        refused(
            &run("release.kdh", &["--trust", "later.trust"]),
            "rollback counter is 0, the lowest that is taken is 1",
        );
        refused(&run("release.kdh", &["--trust", "bad.trust"]), "bad.trust: this is not a trust file");
        refused(&run("release.kdh", &["--trust", "missing.trust"]), "missing.trust: No such file");
        refused(&run("test.kdh", maker), "test keys are not allowed");
        // A test key counts when that is asked for, and a note says what it is worth.
        for (bundle, more, says) in [
            ("test.kdh", &["--trust", "maker.trust", "--allow-test-keys"][..], "not for devices in use"),
            ("demonstration.kdh", &[], "whose secret is published"),
        ] {
            let output = run(bundle, more);
            assert_eq!(output.status.code(), Some(0));
            assert!(String::from_utf8_lossy(&output.stderr).contains(says));
            assert_eq!(output.stdout, run("release.kdh", maker).stdout);
        }

        let verify =
            b.command(&["verify", "--bundle", "release.kdh", "--trust", "maker.trust", "--json"]).output().unwrap();
        assert_eq!(json(&verify)["signer"]["key"], release.public().id().to_string());
        let inspect = |more: &[&str]| json(&b.run(&[&["inspect", "--bundle", "release.kdh", "--json"], more].concat()));
        assert_eq!(inspect(maker)["signer"]["role"], "release");
        let unknown = inspect(&[]);
        assert_eq!((&unknown["signer"], &unknown["signatures"][0]["role"]), (&Value::Null, &"release".into()));
    }

    #[test]
    fn inspect_shows_what_is_inside() {
        let b = Folder::new();
        let inspection = json(&b.run(&["inspect", "--bundle", "tiny.kdh", "--json"]));
        assert_eq!(inspection["bytes"], TINY.len());
        let sections: Vec<&str> = inspection["sections"]
            .as_array()
            .unwrap()
            .iter()
            .map(|section| section["name"].as_str().unwrap())
            .collect();
        assert_eq!(sections, ["manifest", "onnx", "vocabulary", "golden", "program"]);
        assert_eq!(inspection["manifest"]["labels"][2]["code"], "C");
        assert_eq!(inspection["manifest"]["head"], "sentence-evidence");
        assert_eq!(inspection["engine"]["name"], "arena");
        assert!(inspection["engine"]["model"].as_str().unwrap().starts_with("stored program"));
        assert!(!inspection["engine"]["kernels"].as_array().unwrap().is_empty());
        #[cfg(target_os = "linux")]
        assert!(inspection["memory"]["peak_resident_bytes"].as_u64().unwrap() > 1 << 20);
        let table = stdout(&b.run(&["inspect", "--bundle", "tiny.kdh"]));
        assert!(table.contains(inspection["digest"].as_str().unwrap()) && table.contains("second label"), "{table}");
    }

    #[test]
    fn eval_scores_and_times() {
        let b = Folder::new();
        let data = [
            r#"{"id": "1", "text": "The cells divided. Nothing grew.", "labels": ["A", "C"],"#,
            r#" "sentences": [{"start": 0, "end": 18, "labels": ["A"]}, {"start": 19, "end": 32, "labels": []}]}"#,
            "\n",
            r#"{"id": "2", "text": "zebra.", "labels": [], "sentences": [{"start": 0, "end": 6, "labels": []}]}"#,
        ];
        b.write("data.jsonl", data.concat());
        let eval = |more: &[&str]| b.run(&[&["eval", "--bundle", "tiny.kdh", "data.jsonl"], more].concat());
        let result = json(&eval(&["--json"]));
        for field in [
            "micro_f1",
            "macro_f1",
            "weighted_f1",
            "samples_f1",
            "micro_precision",
            "micro_recall",
            "hamming_loss",
            "subset_accuracy",
            "unknown_token_rate",
        ] {
            assert!((0.0..=1.0).contains(&result[field].as_f64().unwrap()), "{field}");
        }
        assert_eq!((&result["documents"], &result["truncated"]), (&2.into(), &0.into()));
        assert_eq!(result["per_label"].as_array().unwrap().len(), 3);
        assert_eq!(result["boundaries"], "box");
        for part in ["tokenize", "encoder", "total"] {
            let latency = &result["latency_ms"][part];
            assert!(latency["p50"].as_f64() <= latency["p99"].as_f64() && latency["max"].as_f64().unwrap() > 0.0);
        }
        // The micro-F1 is that of the labels that `kdh label` gives.
        let mut hits = [0.0; 2];
        let mut tokens = 0;
        for (text, truth) in [("The cells divided. Nothing grew.", &["A", "C"][..]), ("zebra.", &[])] {
            let report = json(&b.run_with_input(&["label", "--bundle", "tiny.kdh", "--json"], text.as_bytes()));
            tokens += report["text_tokens"].as_u64().unwrap();
            for label in report["labels"].as_array().unwrap() {
                let (positive, truth) = (label["positive"] == true, truth.contains(&label["code"].as_str().unwrap()));
                hits[0] += f64::from(positive && truth);
                hits[1] += f64::from(positive) + f64::from(truth);
            }
        }
        assert_eq!(result["micro_f1"].as_f64().unwrap(), 2.0 * hits[0] / hits[1]);
        assert_eq!(result["tokens_per_text"]["mean"].as_f64().unwrap(), tokens as f64 / 2.0);

        let corpus = json(&eval(&["--json", "--boundaries", "corpus"]));
        assert_eq!((&corpus["boundaries"], &corpus["micro_f1"]), (&"corpus".into(), &result["micro_f1"]));
        // Logits in a file, and no text.
        let path = b.write("said.jsonl", "");
        assert_eq!(json(&eval(&["--json", "--predictions", "said.jsonl"]))["micro_f1"], result["micro_f1"]);
        let said = std::fs::read_to_string(path).unwrap();
        let lines: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((lines.len(), &lines[1]["id"]), (2, &"2".into()));
        assert_eq!(lines[0]["labels"], serde_json::json!(["A", "C"]));
        assert_eq!(lines[0]["codes"].as_array().unwrap().len(), 3);
        assert!(lines.iter().all(|line| line["logits"].as_array().unwrap().iter().all(Value::is_number)));
        assert!(!said.contains("cells") && !said.contains("zebra"));
        let human = eval(&[]);
        assert!(stdout(&human).contains("micro") && stdout(&human).contains("encoder, ms"), "{}", stdout(&human));
        assert!(human.stderr.is_empty());
    }

    /// Verifies: R-009
    #[test]
    fn eval_refuses_bad_data() {
        let b = Folder::new();
        let eval = |name: &str, more: &[&str]| b.run(&[&["eval", "--bundle", "tiny.kdh", name], more].concat());
        refused(&eval("missing.jsonl", &[]), "missing.jsonl: cannot read the data set");
        refused(&eval(".", &[]), "this is a directory");
        let refusal = |line: &str, more: &[&str], says: &str| {
            b.write("data.jsonl", format!("{{\"id\": \"0\", \"text\": \"zebra.\", \"labels\": []}}\n{line}"));
            refused(&eval("data.jsonl", more), says);
        };
        refusal(r#"{"id": "1", "text": "zebra."}"#, &[], "data.jsonl: line 2");
        refusal(r#"{"id": "1", "text": "zebra.", "labels": ["A", "X"]}"#, &[], "line 2");
        refusal(r#"{"id": "1", "text": "zebra."#, &[], "line 2");
        refusal(r#"{"id": "1", "text": " ", "labels": []}"#, &[], "line 2: the text is empty");
        refusal("", &["--boundaries", "corpus"], "line 1: the document has no sentences");
        b.write("empty.jsonl", "");
        refused(&eval("empty.jsonl", &[]), "no document");
    }

    #[test]
    fn help_and_usage() {
        let b = Folder::new();
        for command in ["", "label", "watch", "eval", "bench", "inspect", "verify"] {
            let args = [command, "--help"];
            let output = b.run(args.strip_prefix(&[""]).unwrap_or(&args));
            assert_eq!(output.status.code(), Some(0));
            assert!(stdout(&output).contains("Usage:"));
        }
        assert_eq!(b.run(&[]).status.code(), Some(2));
        assert_eq!(b.run(&["label", "--no-such-option"]).status.code(), Some(2));
    }

    #[test]
    #[cfg(unix)]
    fn a_closed_pipe_is_no_error() {
        let b = Folder::new();
        b.write("note.txt", SECRET);
        let program = Path::new(env!("CARGO_BIN_EXE_kdh"));
        let script = format!(
            "'{}' label --allow-unsigned --bundle tiny.kdh note.txt | true; echo ${{PIPESTATUS[0]}}",
            program.display()
        );
        let output = Command::new("bash").args(["-c", &script]).current_dir(b.0.path()).output().unwrap();
        assert_eq!((stdout(&output).trim(), &output.stderr[..]), ("0", &b""[..]));
    }
}
