//! `kdh bench`: what it measures, what it refuses, and its page.
#![cfg(feature = "cli")]

#[cfg(test)]
mod bundles;

#[cfg(test)]
mod tests {
    use std::process::{Command, Output, Stdio};

    use serde_json::Value;
    use tempfile::TempDir;

    use crate::bundles::TINY;

    /// A folder with a bundle in `tiny.kdh`, in which the program runs.
    struct Folder(TempDir);

    impl Folder {
        fn new() -> Self {
            let this = Self(tempfile::tempdir().unwrap());
            this.write("tiny.kdh", TINY);
            this
        }

        fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
            std::fs::write(self.0.path().join(name), bytes).unwrap();
        }

        fn read(&self, name: &str) -> String {
            std::fs::read_to_string(self.0.path().join(name)).unwrap()
        }

        fn bench(&self, args: &[&str]) -> Output {
            let mut command = Command::new(env!("CARGO_BIN_EXE_kdh"));
            command.args(["bench", "--allow-unsigned", "--bundle", "tiny.kdh"]).args(args).current_dir(self.0.path());
            command.stdin(Stdio::null()).output().unwrap()
        }

        fn json(&self, args: &[&str]) -> Value {
            let output = self.bench(&[&["--json", "--warm-up", "0.01"], args].concat());
            assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
            assert!(output.stderr.is_empty());
            serde_json::from_slice(&output.stdout).unwrap()
        }
    }

    const PERCENTILES: [&str; 6] = ["min", "p50", "p90", "p95", "p99", "max"];

    /// Percentiles ascend, and the whole is no shorter than a part.
    #[track_caller]
    fn plausible(statistics: &Value) {
        let time = |part: &str, name: &str| statistics[format!("{part}_{name}_ms")].as_f64().unwrap();
        for part in ["tokenize", "encoder", "total"] {
            let times = PERCENTILES.map(|name| time(part, name));
            assert!(times.is_sorted() && times[0] > 0.0, "{part}: {times:?}");
            assert!((times[0]..=times[5]).contains(&time(part, "mean")));
        }
        assert!(PERCENTILES.iter().all(|name| time("total", name) >= time("encoder", name)));
        assert_eq!(statistics["samples"].as_u64().unwrap() >= 10_000, statistics["p99_9_refused"].is_null());
        assert_ne!(statistics["p99_9_refused"].is_null(), statistics["total_p99_9_ms"].is_null());
    }

    #[test]
    fn json_has_every_figure_or_the_reason_why_not() {
        let b = Folder::new();
        let result = b.json(&["--tokens", "8,3,96,512", "--iterations", "20"]);
        plausible(&result);
        // The model takes 96: 512 is the same text.
        let groups = result["by_tokens"].as_array().unwrap();
        let tokens: Vec<u64> = groups.iter().map(|group| group["tokens"].as_u64().unwrap()).collect();
        assert_eq!(tokens, [8, 3, 96]);
        for group in groups {
            plausible(group);
            assert_eq!(group["samples"], 20);
        }
        assert_eq!(
            (&result["samples"], &result["threads"], &result["max_tokens"]),
            (&60.into(), &1.into(), &96.into())
        );
        assert!(result["p99_9_refused"].as_str().unwrap().contains("60 samples, p99.9 needs 10000"));
        assert!(result["deadline_misses"].is_null());
        for field in ["load_open_ms", "load_verify_ms", "load_total_ms", "texts_per_second", "measured_s"] {
            assert!(result[field].as_f64().unwrap() > 0.0, "{field}");
        }
        assert!(result["scratch_bytes"].as_u64().unwrap() > 0);
        for field in ["kdh_version", "arch"] {
            assert!(!result[field].as_str().unwrap().is_empty(), "{field}");
        }
        assert_eq!(result["bundle_digest"].as_str().unwrap().len(), 64);
        assert!(!result["engine"]["kernels"].as_array().unwrap().is_empty());
        assert!(result["emulated"].is_boolean() && result["virtualised"].is_boolean());
        for (field, shown) in [
            ("governor", "governor"),
            ("frequency_mhz", "frequency_mhz_after"),
            ("temperature_c", "temperature_c_after"),
            ("throttled", "throttled"),
            ("energy_joules_per_text", "energy_joules_per_text"),
            ("peak_resident_bytes", "peak_resident_bytes"),
        ] {
            assert_ne!(result["absent"][field].is_null(), result[shown].is_null(), "{field}");
        }
        #[cfg(target_os = "linux")]
        assert!(result["peak_resident_bytes"].as_u64() >= result["resident_bytes_after_load"].as_u64());
    }

    #[test]
    fn p99_9_of_ten_thousand_texts() {
        let b = Folder::new();
        let statistics = b.json(&["--tokens", "3", "--iterations", "10000"]);
        plausible(&statistics);
        let time = |name: &str| statistics[format!("total_{name}_ms")].as_f64().unwrap();
        assert!([time("p99"), time("p99_9"), time("max")].is_sorted());
        plausible(&b.json(&["--tokens", "3", "--iterations", "9999"]));
    }

    /// The program counts the allocations of all its threads.
    ///
    /// Verifies: R-004
    #[test]
    fn a_second_thread_allocates_nothing_either() {
        let b = Folder::new();
        b.write("tiny.kdh", std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../models/default.kdh")).unwrap());
        let args = ["--tokens", "8,33,128", "--iterations", "2"];
        let json = |args: &[&str]| -> Value {
            // Not silent: the key of this bundle is published.
            let output = b.bench(&[&["--json", "--warm-up", "0.01"], args].concat());
            serde_json::from_slice(&output.stdout).unwrap()
        };
        let alone = json(&args);
        assert_eq!((&alone["second_thread"], alone["allocations_per_text"].as_f64()), (&false.into(), Some(0.0)));
        let shared = json(&[&args[..], &["--second-thread"]].concat());
        plausible(&shared);
        assert_eq!((&shared["second_thread"], shared["allocations_per_text"].as_f64()), (&true.into(), Some(0.0)));
        assert!(shared["scratch_bytes"].as_u64() > alone["scratch_bytes"].as_u64().map(|bytes| 2 * bytes));

        // The tiny bundle has a graph.
        let tiny = Folder::new();
        for args in [&["--second-thread", "--threads", "2"][..], &["--second-thread", "--engine", "tract"]] {
            let output = tiny.bench(args);
            assert_eq!(output.status.code(), Some(2), "{args:?}");
            assert!(String::from_utf8_lossy(&output.stderr).contains("--second-thread"));
        }
    }

    #[test]
    fn tract_allocates() {
        let b = Folder::new();
        let allocations = |args: &[&str]| {
            let result = b.json(&[&["--tokens", "32,64", "--iterations", "2"], args].concat());
            (result["engine"]["name"].as_str().unwrap().to_owned(), result["allocations_per_text"].as_f64().unwrap())
        };
        let (engine, of_tract) = allocations(&["--engine", "tract"]);
        assert!(engine.starts_with("tract") && of_tract > 10.0, "{engine}: {of_tract}");
        let (engine, of_auto) = allocations(&[]);
        assert_eq!(of_auto == 0.0, engine == "arena", "{engine}: {of_auto}");
    }

    #[test]
    fn texts_of_the_user_on_two_threads() {
        let b = Folder::new();
        b.write(
            "data.jsonl",
            "{\"id\": \"1\", \"text\": \"The cells divided.\", \"labels\": []}\n\
             {\"id\": \"2\", \"text\": \"zebra\", \"labels\": [\"unknown to the model\"]}",
        );
        let result = b.json(&["--texts", "data.jsonl", "--iterations", "5", "--threads", "2"]);
        plausible(&result);
        assert_eq!((&result["samples"], &result["threads"]), (&20.into(), &2.into()));
        assert!(result["by_tokens"].is_null());
        let timed = b.json(&["--texts", "data.jsonl", "--duration", "0.05"]);
        assert!(timed["measured_s"].as_f64().unwrap() >= 0.05);
        plausible(&timed);
        // Every length once, however short the time.
        assert!(b.json(&["--duration", "0", "--tokens", "4,5"])["samples"].as_u64().unwrap() >= 2);
    }

    /// Verifies: R-018
    #[test]
    fn a_missed_deadline_is_exit_code_1() {
        let b = Folder::new();
        let bench =
            |deadline: &str| b.bench(&["--tokens", "3", "--iterations", "4", "--json", "--deadline-ms", deadline]);
        let output = bench("0.000001");
        assert_eq!(output.status.code(), Some(1));
        let result: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&result["deadline_misses"], &result["by_tokens"][0]["deadline_misses"]), (&4.into(), &4.into()));
        let output = bench("1e9");
        assert_eq!(output.status.code(), Some(0));
        let result: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&result["deadline_misses"], &result["deadline_ms"]), (&0.into(), &1e9.into()));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn pins() {
        let b = Folder::new();
        // Not every machine lets this process onto core 0.
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim();
        let first = allowed.split([',', '-']).next().unwrap();
        let result = b.json(&["--tokens", "3", "--iterations", "2", "--pin", first]);
        assert_eq!(result["pinned_to_core"].to_string(), first);
    }

    #[test]
    fn the_page_needs_no_network() {
        let b = Folder::new();
        std::fs::copy(b.0.path().join("tiny.kdh"), b.0.path().join("<b>.kdh")).unwrap();
        let output = b.bench(&["--bundle", "<b>.kdh"]);
        assert_eq!(output.status.code(), Some(2));
        let mut command = Command::new(env!("CARGO_BIN_EXE_kdh"));
        command.args([
            "bench",
            "--allow-unsigned",
            "--bundle",
            "<b>.kdh",
            "--html",
            "page.html",
            "--deadline-ms",
            "1e6",
        ]);
        command.args(["--tokens", "4,12", "--iterations", "30", "--warm-up", "0"]).current_dir(b.0.path());
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        let table = String::from_utf8(output.stdout).unwrap();
        assert!(table.contains("allocations") && table.contains("p99.9: 60 samples"), "{table}");
        let page = b.read("page.html");
        assert_eq!(page.matches("<svg").count(), 4);
        assert!(page.contains("4 tokens") && page.contains("12 tokens") && page.contains("default-src 'none'"));
        assert!(page.contains("&lt;b&gt;.kdh") && !page.contains("<b>"));
        for external in ["://", "http:", "src=", "href", "@import", "url(", "<script", "<link", "<img", "NaN", "inf"] {
            assert!(!page.contains(external), "{external}");
        }
    }

    #[test]
    fn refuses_what_makes_no_sense() {
        let b = Folder::new();
        b.write(
            "blank.jsonl",
            "{\"id\": \"1\", \"text\": \"zebra\", \"labels\": []}\n{\"id\": \"2\", \"text\": \" \", \"labels\": []}",
        );
        b.write("broken.jsonl", "{\"id\": \"1\", \"text\": \"zebra");
        b.write("empty.jsonl", "");
        for (args, says) in [
            (&["--tokens", "2"][..], "2 is not in 3.."),
            (&["--tokens", "0"], "0 is not in"),
            (&["--tokens", ""], "--tokens"),
            (&["--tokens", "16,,32"], "--tokens"),
            (&["--tokens", "16;32"], "--tokens"),
            (&["--tokens", "99999999999"], "--tokens"),
            (&["--threads", "0"], "--threads"),
            (&["--threads", "1025"], "--threads"),
            (&["--duration=-1"], "from 0 to 604800"),
            (&["--duration", "NaN"], "from 0 to 604800"),
            (&["--duration", "inf"], "from 0 to 604800"),
            (&["--duration", "1e300"], "from 0 to 604800"),
            (&["--warm-up", "soon"], "a number of seconds"),
            (&["--iterations", "0"], "--iterations"),
            (&["--iterations", "4294967295"], "more than 1048576 measurements"),
            (&["--iterations", "5", "--duration", "1"], "cannot be used with"),
            (&["--tokens", "5", "--texts", "broken.jsonl"], "cannot be used with"),
            (&["--deadline-ms", "0"], "above 0"),
            (&["--deadline-ms", "NaN"], "above 0"),
            (&["--kernels", "mmx"], "no such kernels"),
            (&["--onnx", "missing.onnx"], "missing.onnx: No such file"),
            (&["--engine", "gpu"], "gpu"),
            (&["--texts", "missing.jsonl"], "missing.jsonl: cannot read"),
            (&["--texts", "broken.jsonl"], "line 1"),
            (&["--texts", "empty.jsonl"], "no document"),
            (&["--texts", "blank.jsonl", "--warm-up", "0", "--threads", "2"], "blank.jsonl: line 2: the text is empty"),
            (&["--texts", "blank.jsonl", "--threads", "3"], "blank.jsonl: line 2: the text is empty"),
            (&["--html", "."], "directory"),
            (&["--html", "no/such/folder.html"], "no/such/folder.html: No such file"),
            (&["--pin", "100000"], "cannot run on core 100000, but on "),
            (&["--pin", "4294967295", "--threads", "2"], "cannot run on core 4294967295"),
        ] {
            let output = b.bench(&[&["--json"], args].concat());
            let error = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{args:?}: {error}");
            assert!(output.stdout.is_empty());
            assert!(error.contains(says), "{args:?}: {error}");
            assert!(!error.contains("zebra") && !error.contains("panicked"), "{args:?}: {error}");
        }
    }
}
