//! `kdh label --jsonl` and `kdh watch`: order, bad lines, and what a kill leaves.
#![cfg(feature = "cli")]

#[cfg(test)]
mod bundles;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::process::{Command, Output, Stdio};
    use std::time::{Duration, Instant, SystemTime};

    use serde_json::{Value, json};
    use tempfile::TempDir;

    use crate::bundles::{Parts, TINY};

    const SECRET: &str = "zebra-striped finding";

    fn folder() -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("tiny.kdh"), TINY).unwrap();
        folder
    }

    fn kdh(folder: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kdh"));
        command
            .args(args)
            .arg("--allow-unsigned")
            .current_dir(folder)
            .env("KDH_BUNDLE", "tiny.kdh")
            .env_remove("KDH_TRUST");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(folder: &Path, args: &[&str]) -> Output {
        let output = kdh(folder, args).output().unwrap();
        let said = String::from_utf8([&output.stdout[..], &output.stderr].concat()).unwrap();
        assert!(!said.contains("zebra"), "{said}");
        output
    }

    fn code(output: &Output, expected: i32) {
        assert_eq!(output.status.code(), Some(expected), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn lines(path: &Path) -> Vec<Value> {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.ends_with('\n') && !text.contains("zebra"), "{text}");
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Texts of very different lengths, so that threads overtake each other.
    fn input(count: usize) -> String {
        let text = |number: usize| format!("{SECRET}, and cells divided. ").repeat(1 + number * 37 % 120);
        (0..count).map(|number| json!({"id": format!("n{number}"), "text": text(number)}).to_string() + "\n").collect()
    }

    const LABEL: [&str; 4] = ["label", "--jsonl", "in.jsonl", "out.jsonl"];

    #[test]
    fn every_line_has_its_result_in_order() {
        let folder = folder();
        let folder = folder.path();
        fs::write(folder.join("in.jsonl"), input(60)).unwrap();
        code(&run(folder, &[&LABEL[..], &["--threads", "3"]].concat()), 0);
        let found = lines(&folder.join("out.jsonl"));
        assert_eq!(found.len(), 60);
        for (number, line) in found.iter().enumerate() {
            assert_eq!((&line["line"], &line["id"]), (&json!(number + 1), &json!(format!("n{number}"))));
            assert_eq!((&line["truncated"], line["labels"].as_array().unwrap().len()), (&json!(false), 3));
        }
        assert!(found.iter().any(|line| line["windows"].as_u64().unwrap() > 3));
        // The same as one text alone.
        let text: Value = serde_json::from_str(input(60).lines().nth(41).unwrap()).unwrap();
        fs::write(folder.join("41.txt"), text["text"].as_str().unwrap()).unwrap();
        let alone = kdh(folder, &["label", "41.txt", "--json"]).output().unwrap();
        let alone: Value = serde_json::from_slice(&alone.stdout).unwrap();
        assert_eq!((&alone["labels"], &alone["windows"]), (&found[41]["labels"], &found[41]["windows"]));
        // Threads change nothing, and a run that is done does nothing.
        let bytes = fs::read(folder.join("out.jsonl")).unwrap();
        code(&run(folder, &["label", "--jsonl", "in.jsonl", "one.jsonl", "--threads", "1"]), 0);
        assert_eq!(fs::read(folder.join("one.jsonl")).unwrap(), bytes);
        code(&run(folder, &LABEL), 0);
        assert_eq!(fs::read(folder.join("out.jsonl")).unwrap(), bytes);
    }

    /// Verifies: R-070
    #[test]
    fn a_bad_line_is_an_error_and_the_rest_goes_on() {
        let folder = folder();
        let folder = folder.path();
        let bad = [
            &b"{\"id\": \"1\", \"text\": \"zebra cells.\"}\n\n"[..],
            b"{\"id\": 2, \"text\": \"zebra\n",
            b"{\"id\": \"3\", \"note\": \"zebra\"}\r\n",
            b"{\"id\": \"4\", \"text\": 4}\n",
            b"[\"zebra\"]\n",
            b"{\"id\": \"6\", \"text\": \"zebra\xff\"}\n",
            b"{\"text\": \"The last one.\"}",
        ];
        fs::write(folder.join("in.jsonl"), bad.concat()).unwrap();
        let output = run(folder, &LABEL);
        code(&output, 1);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("5 lines") && said.contains("on line 3"), "{said}");
        let found = lines(&folder.join("out.jsonl"));
        let numbers: Vec<u64> = found.iter().map(|line| line["line"].as_u64().unwrap()).collect();
        assert_eq!(numbers, [1, 3, 4, 5, 6, 7, 8]);
        let errors: Vec<bool> = found.iter().map(|line| line.get("error").is_some()).collect();
        assert_eq!(errors, [false, true, true, true, true, true, false]);
        assert_eq!((&found[2]["id"], &found[6]["id"]), (&json!("3"), &Value::Null));
        // Again: the errors of the run before still count.
        code(&run(folder, &LABEL), 1);
    }

    /// Verifies: R-070
    #[test]
    fn a_killed_run_goes_on_where_it_was() {
        let folder = folder();
        let folder = folder.path();
        fs::write(folder.join("in.jsonl"), input(300)).unwrap();
        code(&run(folder, &["label", "--jsonl", "in.jsonl", "whole.jsonl"]), 0);
        let whole = fs::read(folder.join("whole.jsonl")).unwrap();

        let out = folder.join("out.jsonl");
        let mut child = kdh(folder, &LABEL).spawn().unwrap();
        let begin = Instant::now();
        while fs::metadata(&out).map_or(0, |out| out.len()) < 10_000 && begin.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let mut killed = fs::read(&out).unwrap();
        assert!((10_000..whole.len()).contains(&killed.len()), "{} of {}", killed.len(), whole.len());
        // A line that was being written.
        killed.truncate(killed.len() - 40);
        fs::write(&out, &killed).unwrap();
        code(&run(folder, &LABEL), 0);
        assert!(fs::read(&out).unwrap() == whole);
    }

    #[test]
    fn does_not_append_to_what_is_something_else() {
        let folder = folder();
        let folder = folder.path();
        fs::write(folder.join("in.jsonl"), input(3)).unwrap();
        let refused = |out: &[u8], says: &str| {
            fs::write(folder.join("out.jsonl"), out).unwrap();
            let output = run(folder, &LABEL);
            code(&output, 2);
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(said.contains(says), "{said}");
            assert_eq!(fs::read(folder.join("out.jsonl")).unwrap(), out);
        };
        refused(b"Dear reader\n", "something else");
        refused(b"{\"id\": 3}\n", "something else");
        fs::remove_file(folder.join("out.jsonl")).unwrap();
        code(&run(folder, &LABEL), 0);
        let of_tiny = fs::read(folder.join("out.jsonl")).unwrap();
        let mut parts = Parts::of_tiny();
        parts.manifest.labels[0].threshold = 0.125;
        fs::write(folder.join("tiny.kdh"), parts.bytes()).unwrap();
        refused(&of_tiny, "results of another bundle");
        for args in [&["label", "--jsonl", "none.jsonl", "o"][..], &["label", "--jsonl", ".", "o"]] {
            code(&run(folder, args), 2);
        }
    }

    /// Status and number of each record, from number `from` on; the trail is whole and holds no text.
    fn records(folder: &Path, from: usize) -> Vec<String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kdh"));
        let export = command.args(["audit", "export", "trail", "--json"]).current_dir(folder).output().unwrap();
        assert!(export.status.success() && !String::from_utf8_lossy(&export.stdout).contains("zebra"));
        let lines: Vec<Value> =
            String::from_utf8(export.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        lines[from..].iter().map(|record| record["status"].as_str().unwrap().to_owned()).collect()
    }

    /// Verifies: R-048
    #[test]
    fn every_line_has_one_record() {
        let folder = folder();
        let folder = folder.path();
        let with_trail = [&LABEL[..], &["--audit", "trail", "--threads", "3"]].concat();
        let bad = b"{\"id\": \"x\", \"text\": \"zebra\n\n{\"id\": \"y\", \"text\": \"\"}\n";
        fs::write(folder.join("in.jsonl"), [input(40).as_bytes(), bad].concat()).unwrap();
        code(&run(folder, &with_trail), 1);
        let found = lines(&folder.join("out.jsonl"));
        let expected = found.iter().map(|line| match (line.get("error"), &line["abstention"]) {
            (Some(_), _) => "refused",
            (_, Value::Array(reasons)) if !reasons.is_empty() => "abstained",
            _ => "labelled",
        });
        assert_eq!(records(folder, 0), expected.collect::<Vec<_>>());
        assert_eq!((found.len(), records(folder, 40)), (42, vec!["refused".to_owned(), "abstained".to_owned()]));
        // Nothing is labelled a second time, and nothing recorded.
        code(&run(folder, &with_trail), 1);
        assert_eq!(records(folder, 0).len(), 42);

        // Whenever it is killed, every line of the output has its record before it.
        fs::write(folder.join("in.jsonl"), input(300)).unwrap();
        let mut killed = 0;
        for wait in 1..6 {
            fs::remove_file(folder.join("out.jsonl")).unwrap();
            let before = records(folder, 0).len();
            let mut child = kdh(folder, &with_trail).spawn().unwrap();
            let begin = Instant::now();
            let out = folder.join("out.jsonl");
            while fs::metadata(&out).map_or(0, |out| out.len()) < 4_000 * wait
                && begin.elapsed() < Duration::from_secs(60)
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            child.kill().unwrap();
            killed += usize::from(child.wait().unwrap().code().is_none());
            let bytes = fs::read(&out).unwrap();
            let written = bytes.iter().filter(|&&byte| byte == b'\n').count();
            let recorded = records(folder, before).len();
            // A record more whose line was not written any more.
            assert!((written..=written + 1).contains(&recorded), "{written} lines, {recorded} records");
        }
        assert!(killed > 0);
        // No result of a text that cannot be recorded.
        fs::remove_file(folder.join("out.jsonl")).unwrap();
        fs::write(folder.join("trail.txt"), "a file").unwrap();
        code(&run(folder, &[&LABEL[..], &["--audit", "trail.txt"]].concat()), 2);
        assert_eq!(fs::metadata(folder.join("out.jsonl")).map_or(0, |out| out.len()), 0);
    }

    /// Verifies: R-048
    #[test]
    fn every_watched_file_has_one_record() {
        let folder = watched();
        let folder = folder.path();
        fs::write(folder.join("in/a"), SECRET).unwrap();
        code(&once(folder, &["--audit", "trail"]), 0);
        assert_eq!(records(folder, 0), ["labelled"]);
        fs::write(folder.join("in/bad"), b"zebra \xff").unwrap();
        fs::write(folder.join("in/blank"), " ").unwrap();
        code(&once(folder, &["--audit", "trail", "--delete"]), 1);
        let mut found = records(folder, 1);
        found.sort();
        assert_eq!(found, ["abstained", "refused"]);
        for place in ["in", "out", "./in/../in"] {
            let output = once(folder, &["--audit", place]);
            code(&output, 2);
            assert!(String::from_utf8(output.stderr).unwrap().contains("folder of its own"));
            assert!(!folder.join("in/lock").exists() && !folder.join("out/lock").exists());
        }
    }

    const WATCH: [&str; 7] = ["watch", "in", "out", "--settle", "0.2", "--interval", "0.05"];

    fn watched() -> TempDir {
        let folder = folder();
        fs::create_dir(folder.path().join("in")).unwrap();
        fs::create_dir(folder.path().join("out")).unwrap();
        folder
    }

    fn once(folder: &Path, more: &[&str]) -> Output {
        run(folder, &[&WATCH[..], &["--once"], more].concat())
    }

    fn result(folder: &Path, name: &str) -> Value {
        let text = fs::read_to_string(folder.join("out").join(name)).unwrap();
        assert!(!text.contains("zebra"));
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn files_that_arrive_get_results_once() {
        let folder = watched();
        let folder = folder.path();
        fs::write(folder.join("in/a.txt"), SECRET.repeat(100)).unwrap();
        fs::write(folder.join("in/b"), "The cells divided.").unwrap();
        for temporary in ["in/.hidden", "in/c.part", "in/d.tmp"] {
            fs::write(folder.join(temporary), SECRET).unwrap();
        }
        fs::create_dir(folder.join("in/folder")).unwrap();
        code(&once(folder, &[]), 0);
        let long = result(folder, "a.txt.json");
        assert!(long["windows"].as_u64().unwrap() > 3);
        assert_eq!(
            (long["bundle"].as_str().unwrap().len(), &long["kdh_version"]),
            (64, &json!(env!("CARGO_PKG_VERSION")))
        );
        fs::write(folder.join("b.txt"), "The cells divided.").unwrap();
        let alone = kdh(folder, &["label", "b.txt", "--json"]).output().unwrap();
        let alone: Value = serde_json::from_slice(&alone.stdout).unwrap();
        assert_eq!(result(folder, "b.json")["labels"], alone["labels"]);
        let names = || -> Vec<String> {
            let entries = fs::read_dir(folder.join("out")).unwrap();
            let mut names: Vec<String> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.retain(|name| !name.starts_with('.'));
            names.sort();
            names
        };
        assert_eq!(names(), ["a.txt.json", "b.json"]);

        // A later run leaves results alone, and labels what was written again.
        fs::write(folder.join("out/b.json"), "{}").unwrap();
        let stamp = fs::metadata(folder.join("in/b")).unwrap().modified().unwrap();
        fs::File::options().write(true).open(folder.join("out/b.json")).unwrap().set_modified(stamp).unwrap();
        fs::write(folder.join("in/a.txt"), "Short now.").unwrap();
        code(&once(folder, &[]), 0);
        assert_eq!((&result(folder, "b.json"), &result(folder, "a.txt.json")["windows"]), (&json!({}), &json!(1)));
    }

    #[test]
    fn what_cannot_be_labelled_gets_a_result_too() {
        let folder = watched();
        let folder = folder.path();
        fs::write(folder.join("in/bad"), [SECRET.as_bytes(), b"\xff"].concat()).unwrap();
        fs::write(folder.join("in/good"), SECRET).unwrap();
        let output = once(folder, &["--delete"]);
        code(&output, 1);
        assert!(result(folder, "bad.json")["error"].as_str().unwrap().contains("not UTF-8 at byte 21"));
        assert!(result(folder, "good.json").get("error").is_none());
        assert!(folder.join("in/bad").exists() && !folder.join("in/good").exists());
        // Names may be names of patients.
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("1 texts labelled, 1 errors") && !said.contains("bad"), "{said}");
    }

    /// Verifies: R-070
    #[test]
    fn waits_for_files_to_be_complete_and_survives_a_kill() {
        let folder = watched();
        let folder = folder.path();
        let mut child = kdh(folder, &WATCH).spawn().unwrap();
        let until = |name: &str| {
            let begin = Instant::now();
            while !folder.join("out").join(name).exists() && begin.elapsed() < Duration::from_secs(60) {
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        // Written in pieces, at most 50 ms apart.
        let mut file = fs::File::create(folder.join("in/slow")).unwrap();
        for _ in 0..12 {
            std::io::Write::write_all(&mut file, b"One more sentence. ").unwrap();
            std::thread::sleep(Duration::from_millis(50));
        }
        drop(file);
        fs::write(folder.join("in/first.part"), SECRET).unwrap();
        fs::rename(folder.join("in/first.part"), folder.join("in/first")).unwrap();
        until("slow.json");
        until("first.json");
        // A second watcher would write the same results.
        code(&once(folder, &[]), 2);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(result(folder, "slow.json")["sentences"], 12);
        assert!(result(folder, "first.json")["labels"].is_array());
        fs::write(folder.join("in/later"), SECRET).unwrap();
        // A time in the future is a time like any other.
        let file = fs::File::options().write(true).open(folder.join("in/later")).unwrap();
        file.set_modified(SystemTime::now() + Duration::from_secs(10_000)).unwrap();
        code(&once(folder, &[]), 0);
        assert!(result(folder, "later.json")["labels"].is_array());
    }

    #[test]
    fn watch_refuses_folders_that_are_none() {
        let folder = watched();
        let folder = folder.path();
        code(&run(folder, &["watch", "in", "none", "--once"]), 2);
        code(&run(folder, &["watch", "tiny.kdh", "out", "--once"]), 2);
        code(&run(folder, &["watch", "in", "in", "--once"]), 2);
        code(&run(folder, &["watch", "in", "out", "--settle", "-1"]), 2);
    }
}
