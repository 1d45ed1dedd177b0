//! `kdh recalibrate`: what it refuses, and that what it writes decides as it says.
#![cfg(feature = "cli")]

#[cfg(test)]
mod tests {
    use std::process::{Command, Output};

    use kdh_format::{Decisions, Policy};
    use kdh_runtime::{Bundle, Labeler, LabelerOptions};
    use serde_json::{Value, json};
    use tempfile::TempDir;

    const TINY: &[u8] = include_bytes!("data/tiny.kdh");
    const WORDS: [&str; 8] = ["cells", "divided", "vessel", "grew", "tumour", "slowly", "zebra", "lung"];

    struct Folder(TempDir);

    impl Folder {
        fn new() -> Self {
            let folder = Self(tempfile::tempdir().unwrap());
            std::fs::write(folder.0.path().join("tiny.kdh"), TINY).unwrap();
            folder
        }

        /// Texts of made-up words whose labels follow the words, not the untrained model.
        fn write_texts(&self, name: &str, count: usize, prefix: &str) {
            let line = |number: usize| {
                let words: Vec<&str> = (0..10).map(|word| WORDS[(number * 7 + word * (1 + number % 5)) % 8]).collect();
                let labels: Vec<&str> = ["A", "B"]
                    .into_iter()
                    .enumerate()
                    .filter(|(label, _)| number.is_multiple_of(label + 2))
                    .map(|of| of.1)
                    .collect();
                json!({"id": format!("{prefix}{number}"), "text": format!("The {}.", words.join(" ")), "labels": labels})
                    .to_string()
            };
            let lines: Vec<String> = (0..count).map(line).collect();
            std::fs::write(self.0.path().join(name), lines.join("\n")).unwrap();
        }

        fn run(&self, arguments: &[&str]) -> Output {
            Command::new(env!("CARGO_BIN_EXE_kdh"))
                .args(["recalibrate", "--bundle", "tiny.kdh", "--allow-unsigned", "--json"])
                .args(arguments)
                .current_dir(self.0.path())
                .output()
                .unwrap()
        }

        fn read(&self, name: &str) -> Vec<u8> {
            std::fs::read(self.0.path().join(name)).unwrap()
        }
    }

    fn result(output: &Output, code: i32) -> Value {
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn read_decisions<'b>(bundle: &Bundle<'b>) -> Decisions<'b> {
        bundle.decisions(&bundle.manifest().unwrap()).unwrap().unwrap()
    }

    /// Verifies: R-052
    #[test]
    fn refuses_small_samples_and_says_how_many_more() {
        let b = Folder::new();
        b.write_texts("site.jsonl", 30, "");
        let refused = result(&b.run(&["site.jsonl", "-o", "new.kdh", "--point", "ward=recall:0.95"]), 1);
        let error = refused["error"].as_str().unwrap();
        // 15 texts have A, 10 have B, none has C; a recall of 0.95 needs 19 each.
        for part in
            ["20 more labelled texts (30 of 50)", "4 more texts with A", "9 more texts with B", "19 more texts with C"]
        {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(!b.0.path().join("new.kdh").exists());
        b.write_texts("site.jsonl", 60, "");
        let without_c = b.run(&["site.jsonl", "-o", "new.kdh", "--point", "ward=recall:0.9"]);
        assert!(result(&without_c, 1)["error"].as_str().unwrap().contains("9 more texts with C"));
        let bad = b.run(&["site.jsonl", "-o", "new.kdh", "--point", "ward=recall:2"]);
        assert_eq!(bad.status.code(), Some(2));
    }

    /// Verifies: R-052
    #[test]
    fn writes_a_bundle_that_decides_as_it_says() {
        let b = Folder::new();
        b.write_texts("site.jsonl", 120, "");
        b.write_texts("reference.jsonl", 60, "r");
        std::fs::write(
            b.0.path().join("far.jsonl"),
            "{\"id\": \"numbers/1\", \"text\": \"1 2 3 4 5 6 7 8 9 10 11 12\", \"labels\": []}\n",
        )
        .unwrap();
        let arguments = [
            "site.jsonl",
            "-o",
            "new.kdh",
            "--pool-small-labels",
            "--reference",
            "reference.jsonl",
            "--far",
            "far.jsonl",
            "--author",
            "A. Author",
            "--date",
            "2026-11-24",
            "--html",
            "new.html",
        ];
        let said = result(&b.run(&arguments), 0);
        let (bytes, old) = (b.read("new.kdh"), Bundle::parse(TINY).unwrap());
        let bundle = Bundle::parse(&bytes).unwrap();
        assert_eq!((bundle.rollback_counter(), bundle.trailer().len()), (old.rollback_counter() + 1, 0));
        let decisions = read_decisions(&bundle);
        assert_eq!((decisions.fitted.author, decisions.fitted.date), ("A. Author", "2026-11-24"));
        assert_eq!((decisions.fitted.documents, decisions.fitted.bundle), (120, old.digest()));
        assert!(decisions.fitted.command.starts_with("kdh recalibrate site.jsonl --reference reference.jsonl"));
        let names: Vec<&str> = decisions.points.iter().map(|point| point.name).collect();
        assert_eq!(names, ["default", "max-f1", "recall-0.9", "precision-0.9", "risk-0.1"]);
        assert_eq!(decisions.points[2].policy, Policy::RecallFloor(0.9));
        assert!(decisions.points[2].labels[2].pooled && !decisions.points[2].labels[0].pooled);
        assert_eq!(said["positives"], json!([60, 40, 0]));
        assert_eq!(said["out_of_distribution"]["groups"][0]["group"], "numbers");
        // The untrained model knows nothing of these labels; calibration says so.
        let method = |name: &str| {
            let methods = said["methods"].as_array().unwrap();
            methods.iter().find(|method| method["method"] == name).unwrap()["log_loss"].as_f64().unwrap()
        };
        assert!(method(said["method"].as_str().unwrap()) <= method("identity"));

        // The default point gives the labels that the manifest gave, but where the calibration tells two logits no longer
        // apart, as it may where the labels have nothing to do with them.
        let build =
            |bundle: &Bundle<'_>| Labeler::from_bundle(bundle, &LabelerOptions::new().allow_unsigned()).unwrap();
        let (before, after) = (build(&old), build(&bundle));
        let (mut one, mut other) = (before.scratch(), after.scratch());
        for document in kdh_runtime::dataset::read(b.0.path().join("site.jsonl")).unwrap() {
            let (old, new) =
                (before.label(&mut one, &document.text).unwrap(), after.label(&mut other, &document.text).unwrap());
            assert!(new.calibrated && new.out_of_distribution.is_some());
            for (old, new) in old.labels.iter().zip(&new.labels) {
                assert_eq!(old.logit, new.logit);
                assert!(old.positive() == new.positive() || new.probability == new.threshold);
            }
        }

        // The same input, the same bytes; and a page that loads nothing.
        let html = String::from_utf8(b.read("new.html")).unwrap();
        assert!(
            html.contains("default-src 'none'")
                && html.contains("risk-0.1")
                && !html.contains("http:")
                && !html.contains("https")
        );
        assert!(!html.contains("divided") && !html.contains("<script"));
        assert_eq!(result(&b.run(&arguments), 0), said);
        assert_eq!(b.read("new.kdh"), bytes);

        // A bundle that has a score keeps it, and sets the threshold anew.
        std::fs::write(b.0.path().join("tiny.kdh"), &bytes).unwrap();
        let said = result(&b.run(&["site.jsonl", "-o", "again.kdh", "--point", "ward=max-f1"]), 0);
        assert_eq!(said["points"].as_array().unwrap().len(), 1);
        let again = b.read("again.kdh");
        let again = Bundle::parse(&again).unwrap();
        let score = read_decisions(&again).out_of_distribution.unwrap();
        assert_eq!(score.mean, decisions.out_of_distribution.unwrap().mean);
        assert_eq!(again.rollback_counter(), bundle.rollback_counter() + 1);
    }
}
