//! The file that says what is compared, on what, and how.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use kdh_runtime::metrics::thresholds::Policy;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::distill::DistillOptions;
use crate::fit::FitOptions;

/// An experiment, as a TOML file describes it. Paths are relative to the folder that the program runs in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExperimentFile {
    /// Name, for the report.
    pub name: String,
    /// One training of every arm for each seed.
    #[serde(default = "one_seed")]
    pub seeds: Vec<u64>,
    /// Folds of a stratified cross-validation over the training and dev documents together. Without it the dev
    /// documents are scored, once.
    #[serde(default)]
    pub folds: Option<usize>,
    /// Share of the training side that chooses epochs and thresholds and does not train.
    #[serde(default = "inner")]
    pub inner: f64,
    /// How thresholds are chosen on the inner part; the policy that cross-validation over it prefers when not given.
    #[serde(default)]
    pub thresholds: Option<Policy>,
    /// What to do about scored documents that the training side gives away.
    #[serde(default)]
    pub leakage: LeakagePolicy,
    /// The arm that all others are compared with; the first when not given.
    #[serde(default)]
    pub reference: Option<String>,
    /// Resamples of the bootstrap.
    #[serde(default = "resamples")]
    pub resamples: usize,
    /// Level of the confidence intervals; the level of the tests is the rest to 1.
    #[serde(default = "confidence")]
    pub confidence: f64,
    /// Keep every trained student (`cells/CELL/student`); else only what it says is kept.
    #[serde(default)]
    pub keep_students: bool,
    /// Results of `kdh-train pso run` whose convergence the report shows.
    #[serde(default)]
    pub pso: Vec<PathBuf>,
    /// Data sets.
    pub data: Vec<DataSource>,
    /// What all trained arms have in common, by the names of the options of `kdh-train distill`.
    #[serde(default)]
    pub options: Map<String, Value>,
    /// What is compared.
    pub arms: Vec<Arm>,
}

/// A data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSource {
    /// Name in results and folders.
    pub name: String,
    /// Training documents, JSON Lines.
    pub train: PathBuf,
    /// Dev documents, JSON Lines.
    #[serde(default)]
    pub dev: Option<PathBuf>,
    /// Labels in the order of the logits, as for `kdh-train fit`.
    #[serde(default)]
    pub labels: Option<PathBuf>,
    /// Share of the training documents (with folds: of all) that takes part, a stratified sample.
    #[serde(default = "whole")]
    pub sample: f64,
    /// Seed of the sample, the folds and the inner part.
    #[serde(default = "one")]
    pub split_seed: u64,
}

/// Something that is scored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    /// Name in results and folders.
    pub name: String,
    /// What it is.
    pub kind: ArmKind,
    /// Names of the data sets that it runs on; all when empty.
    #[serde(default)]
    pub data: Vec<String>,
    /// Folder of the first weights (`fit`, `distill`).
    #[serde(default)]
    pub weights: Option<PathBuf>,
    /// Options of this arm, laid over those that all have in common.
    #[serde(default)]
    pub options: Map<String, Value>,
    /// Result of `kdh-train pso run` whose best point is laid between the two: of those trained in full or, in the record
    /// of one search (`pso status --json`), of its evaluations.
    #[serde(default)]
    pub tuned: Option<PathBuf>,
    /// Whether the arm sees the corpus's sentences and their labels. Without, sentences are those of the splitter.
    #[serde(default = "yes")]
    pub sentence_labels: bool,
    /// Arms that teach (`distill`): the mean of their logits. Each is trained on the same part as its student.
    #[serde(default)]
    pub teachers: Vec<String>,
    /// Files of teachers' logits for the training documents (`distill`), members of the same mean.
    #[serde(default)]
    pub teacher_logits: Vec<PathBuf>,
    /// Documents that only the teacher labels (`distill`); needs logits from files.
    #[serde(default)]
    pub transfer: Vec<PathBuf>,
    /// File of logits for the scored documents (`predictions`). `{data}`, `{seed}` and `{fold}` in the path stand for
    /// those of the cell.
    #[serde(default)]
    pub predictions: Option<String>,
    /// File of logits that thresholds are chosen on; the rows of scored documents are passed over (`predictions`). The
    /// same file when not given, which suits out-of-fold predictions.
    #[serde(default)]
    pub threshold_predictions: Option<String>,
    /// Thresholds chosen beforehand, one for all labels or one a label (`predictions`).
    #[serde(default)]
    pub fixed_thresholds: Vec<f32>,
    /// Leave the arm out, and say so, as long as its files are missing (`predictions`).
    #[serde(default)]
    pub optional: bool,
}

/// What an arm is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ArmKind {
    /// TF-IDF and logistic regression.
    Linear,
    /// Fine-tuning on the labels alone.
    Fit,
    /// Distillation.
    Distill,
    /// Predictions from elsewhere.
    Predictions,
}

/// What to do about documents that are scored and in the training side too, by id or by text, or nearly so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeakagePolicy {
    /// Refuse the experiment when a scored document's id or text is in the training side. Near duplicates are reported.
    #[default]
    Refuse,
    /// Train without them, near duplicates included.
    Remove,
    /// Report them and go on.
    Allow,
}

impl ExperimentFile {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// When it cannot be read, or says what cannot be done; the text names the place.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    /// Understands a file's text.
    ///
    /// # Errors
    /// As [`ExperimentFile::read`].
    pub fn parse(text: &str) -> Result<Self> {
        let file: Self = toml::from_str(text)?;
        ensure!(!file.seeds.is_empty(), "seeds is empty: give at least one");
        ensure!(unique(&file.seeds), "seeds has one several times");
        ensure!(file.seeds.iter().all(|&seed| seed <= i64::MAX as u64), "a seed is at most 2^63 - 1");
        ensure!(file.folds.is_none_or(|folds| (2..=100).contains(&folds)), "folds must be 2 to 100");
        ensure!(file.inner > 0.0 && file.inner <= 0.5, "inner must be above 0 and at most 0.5");
        ensure!((100..=1_000_000).contains(&file.resamples), "resamples must be 100 to 1000000");
        ensure!((0.5..1.0).contains(&file.confidence), "confidence must be at least 0.5 and below 1");
        ensure!(!file.data.is_empty(), "there is no [[data]]");
        ensure!(!file.arms.is_empty(), "there are no [[arms]]");
        for data in &file.data {
            check_name("data set", &data.name)?;
            ensure!(data.sample > 0.0 && data.sample <= 1.0, "{}: sample must be above 0 and at most 1", data.name);
            ensure!(
                data.dev.is_some() || file.folds.is_some(),
                "{}: give dev, or folds for a cross-validation",
                data.name
            );
        }
        ensure!(unique(file.data.iter().map(|data| &data.name)), "two data sets have the same name");
        ensure!(unique(file.arms.iter().map(|arm| &arm.name)), "two arms have the same name");
        let reference = file.reference();
        ensure!(file.arms.iter().any(|arm| arm.name == reference), "reference: there is no arm {reference}");
        for arm in &file.arms {
            file.check_arm(arm).with_context(|| format!("arm {}", arm.name))?;
        }
        Ok(file)
    }

    /// Name of the arm that all others are compared with.
    pub fn reference(&self) -> &str {
        match (&self.reference, self.arms.first()) {
            (Some(name), _) => name,
            (None, arm) => arm.map_or("", |arm| arm.name.as_str()),
        }
    }

    /// Whether the arm runs on the data set.
    pub fn runs_on(&self, arm: &Arm, data: &DataSource) -> bool {
        arm.data.is_empty() || arm.data.contains(&data.name)
    }

    /// Options of a trained arm for one seed: the defaults, what all have in common, what a swarm found, the arm's own.
    ///
    /// # Errors
    /// When a name is none of an option, a value not of its kind, or the swarm's result cannot be read.
    pub fn options(&self, arm: &Arm, seed: u64) -> Result<DistillOptions> {
        let mut values = object(&DistillOptions::default())?;
        let tuned = arm.tuned.as_deref().map(best_point).transpose()?.unwrap_or_default();
        for (name, value) in self.options.iter().chain(&tuned).chain(&arm.options) {
            ensure!(
                values.contains_key(name),
                "there is no option {name}; the options are {}",
                values.keys().cloned().collect::<Vec<_>>().join(", ")
            );
            values.insert(name.clone(), value.clone());
        }
        values.insert("seed".into(), seed.into());
        serde_json::from_value(Value::Object(values)).context("an option has a value that does not fit")
    }

    fn check_arm(&self, arm: &Arm) -> Result<()> {
        check_name("arm", &arm.name)?;
        for name in &arm.data {
            ensure!(self.data.iter().any(|data| data.name == *name), "there is no data set {name}");
        }
        let trained = matches!(arm.kind, ArmKind::Fit | ArmKind::Distill);
        let only = |given: bool, name: &str, kinds: &[ArmKind]| {
            ensure!(!given || kinds.contains(&arm.kind), "{name} means nothing to this kind of arm");
            Ok(())
        };
        only(arm.weights.is_some(), "weights", &[ArmKind::Fit, ArmKind::Distill])?;
        only(arm.tuned.is_some(), "tuned", &[ArmKind::Fit, ArmKind::Distill])?;
        only(!arm.options.is_empty(), "options", &[ArmKind::Fit, ArmKind::Distill, ArmKind::Linear])?;
        only(!arm.sentence_labels, "sentence_labels", &[ArmKind::Fit, ArmKind::Distill])?;
        only(!arm.teachers.is_empty(), "teachers", &[ArmKind::Distill])?;
        only(!arm.teacher_logits.is_empty(), "teacher_logits", &[ArmKind::Distill])?;
        only(!arm.transfer.is_empty(), "transfer", &[ArmKind::Distill])?;
        only(arm.predictions.is_some(), "predictions", &[ArmKind::Predictions])?;
        only(arm.threshold_predictions.is_some(), "threshold_predictions", &[ArmKind::Predictions])?;
        only(!arm.fixed_thresholds.is_empty(), "fixed_thresholds", &[ArmKind::Predictions])?;
        only(arm.optional, "optional", &[ArmKind::Predictions])?;
        if trained {
            ensure!(arm.weights.is_some(), "it needs weights");
            for options in [&self.options, &arm.options] {
                ensure!(!options.contains_key("seed"), "seed belongs to the list seeds");
            }
            let options = self.options(arm, 1)?;
            if arm.kind == ArmKind::Fit {
                let known = object(&FitOptions::default())?;
                for name in arm.options.keys() {
                    ensure!(known.contains_key(name), "{name} is an option of distillation: this arm has no teacher");
                }
            }
            ensure!(
                !options.states.any(),
                "terms of token states need the teacher itself: distil with kdh-train distill and give its predictions"
            );
            options.check()?;
        }
        match arm.kind {
            ArmKind::Linear => drop(super::linear::check(&arm.options)?),
            ArmKind::Predictions => {
                ensure!(arm.predictions.is_some(), "it needs predictions");
                ensure!(
                    arm.fixed_thresholds.is_empty() || arm.threshold_predictions.is_none(),
                    "give fixed_thresholds or threshold_predictions, not both"
                );
                ensure!(arm.fixed_thresholds.iter().all(|value| (0.0..=1.0).contains(value)), "a threshold is 0 to 1");
            }
            ArmKind::Distill => {
                ensure!(
                    !arm.teachers.is_empty() || !arm.teacher_logits.is_empty(),
                    "it needs teachers or teacher_logits"
                );
                ensure!(
                    arm.transfer.is_empty() || arm.teachers.is_empty(),
                    "transfer documents need logits from files: a teacher of this experiment does not read them"
                );
                self.check_teachers(arm)?;
            }
            ArmKind::Fit => {}
        }
        Ok(())
    }

    /// Teachers are arms that train, stand before their students (so that none teaches itself), and see the same data.
    fn check_teachers(&self, arm: &Arm) -> Result<()> {
        for name in &arm.teachers {
            let place = |name: &str| self.arms.iter().position(|arm| arm.name == name);
            let Some(at) = place(name) else { bail!("there is no arm {name}") };
            ensure!(Some(at) < place(&arm.name), "its teacher {name} must stand before it");
            let teacher = &self.arms[at];
            ensure!(
                teacher.kind != ArmKind::Predictions,
                "{name} is no arm that trains: give its file as teacher_logits"
            );
            for data in self.data.iter().filter(|data| self.runs_on(arm, data)) {
                ensure!(self.runs_on(teacher, data), "its teacher {name} does not run on {}", data.name);
            }
        }
        Ok(())
    }
}

fn object(value: &impl Serialize) -> Result<Map<String, Value>> {
    match serde_json::to_value(value)? {
        Value::Object(values) => Ok(values),
        _ => bail!("options are not a table"),
    }
}

/// The point that won, of a result that `kdh-train pso run` wrote.
fn best_point(path: &Path) -> Result<Map<String, Value>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}: run kdh-train pso first", path.display()))?;
    let result: Value = serde_json::from_slice(&bytes).with_context(|| format!("{} is not JSON", path.display()))?;
    let promoted = result["promotion"]["points"].as_array();
    let in_full = promoted.and_then(|points| points.iter().find(|point| point["full"].is_number()));
    let evaluations = result["evaluations"].as_array().into_iter().flatten();
    let scored = evaluations.filter_map(|evaluation| Some((evaluation["score"].as_f64()?, evaluation)));
    let evaluated = scored.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, evaluation)| evaluation);
    let best = in_full.or(evaluated);
    best.and_then(|best| best["point"].as_object().cloned())
        .with_context(|| format!("{} has no point with a score", path.display()))
}

/// Names become folders.
fn check_name(what: &str, name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    ensure!(
        (1..=48).contains(&name.len()) && name.chars().all(plain) && !name.starts_with('-'),
        "the {what}'s name must be 1 to 48 of a-z, 0-9 and -"
    );
    Ok(())
}

fn unique<T: Eq + std::hash::Hash>(values: impl IntoIterator<Item = T>) -> bool {
    let mut seen = HashSet::new();
    values.into_iter().all(|value| seen.insert(value))
}

fn one_seed() -> Vec<u64> {
    vec![1]
}

fn one() -> u64 {
    1
}

fn inner() -> f64 {
    0.15
}

fn resamples() -> usize {
    2000
}

fn confidence() -> f64 {
    0.95
}

fn whole() -> f64 {
    1.0
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
name = "hoc"
seeds = [1, 2]
[[data]]
name = "hoc"
train = "t.jsonl"
dev = "d.jsonl"
[options]
max_tokens = 128
epochs = 2
[[arms]]
name = "teacher"
kind = "fit"
weights = "w"
[[arms]]
name = "student"
kind = "distill"
weights = "w"
teachers = ["teacher"]
options = { epochs = 3, soft_loss = "softmax-kd" }
[[arms]]
name = "int8"
kind = "predictions"
predictions = "p.jsonl"
"#;

    #[test]
    fn tuned_is_the_best_point_of_a_search() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("search.json");
        let best = |result: &str| {
            fs::write(&path, result).unwrap();
            best_point(&path).map(|point| point["a"].as_f64().unwrap())
        };
        let evaluations =
            r#""evaluations": [{"score": 0.2, "point": {"a": 1}}, {"score": 0.3, "point": {"a": 2}}, {"score": null}]"#;
        assert_eq!(best(&format!("{{{evaluations}}}")).unwrap(), 2.0);
        let promoted =
            r#""promotion": {"points": [{"point": {"a": 3}, "full": null}, {"point": {"a": 4}, "full": 0.1}]}"#;
        assert_eq!(best(&format!("{{{promoted}, {evaluations}}}")).unwrap(), 4.0);
        assert!(best("{}").is_err());
    }

    #[test]
    fn options_are_laid_over_each_other() {
        let file = ExperimentFile::parse(FILE).unwrap();
        let options = file.options(&file.arms[1], 2).unwrap();
        assert_eq!((options.fit.epochs, options.fit.max_tokens, options.fit.seed), (3, 128, 2));
        assert_eq!(file.options(&file.arms[0], 1).unwrap().fit.epochs, 2);
        assert_eq!(file.reference(), "teacher");
    }

    #[test]
    fn what_cannot_be_done_is_named() {
        let refused = |from: &str, to: &str, part: &str| {
            assert!(FILE.contains(from), "{from}");
            let error = format!("{:#}", ExperimentFile::parse(&FILE.replacen(from, to, 1)).unwrap_err());
            assert!(error.contains(part), "{to}: {error}");
        };
        refused("seeds = [1, 2]", "seeds = []", "seeds is empty");
        refused("seeds = [1, 2]", "seeds = [1, 1]", "several times");
        refused("seeds = [1, 2]", "seeds = [-1]", "seeds");
        refused("seeds = [1, 2]", "folds = 1", "folds must be");
        refused("seeds = [1, 2]", "inner = 0.0", "inner must be");
        refused("seeds = [1, 2]", "inner = nan", "inner must be");
        refused("seeds = [1, 2]", "resamples = 3", "resamples");
        refused("seeds = [1, 2]", "confidence = 1.0", "confidence");
        refused("seeds = [1, 2]", "reference = \"nobody\"", "no arm nobody");
        refused("seeds = [1, 2]", "sedes = [1]", "sedes");
        refused("dev = \"d.jsonl\"", "", "give dev, or folds");
        refused("dev = \"d.jsonl\"", "dev = \"d.jsonl\"\nsample = 0", "sample must be");
        refused("name = \"hoc\"\ntrain", "name = \"../hoc\"\ntrain", "the data set's name");
        refused("name = \"student\"", "name = \"teacher\"", "same name");
        refused("name = \"student\"", "name = \"\"", "the arm's name");
        refused("max_tokens = 128", "max_token = 128", "no option max_token;");
        refused("max_tokens = 128", "max_tokens = \"many\"", "does not fit");
        refused("max_tokens = 128", "seed = 128", "seed belongs");
        refused("weights = \"w\"\n[[arms]]", "[[arms]]", "needs weights");
        refused(
            "weights = \"w\"\n[[arms]]",
            "weights = \"w\"\noptions = { alpha = 1 }\n[[arms]]",
            "option of distillation",
        );
        refused("teachers = [\"teacher\"]", "", "teachers or teacher_logits");
        refused("teachers = [\"teacher\"]", "teachers = [\"student\"]", "must stand before");
        refused("teachers = [\"teacher\"]", "teachers = [\"int8\"]", "must stand before");
        refused("teachers = [\"teacher\"]", "teachers = [\"nobody\"]", "no arm nobody");
        refused("epochs = 3", "temperature = -1", "temperature");
        refused("epochs = 3", "state_mse = 1", "token states");
        refused("softmax-kd", "softmax", "does not fit");
        refused("kind = \"distill\"", "kind = \"magic\"", "magic");
        refused("predictions = \"p.jsonl\"", "", "needs predictions");
        refused("predictions = \"p.jsonl\"", "predictions = \"p\"\nfixed_thresholds = [2.0]", "0 to 1");
        refused("predictions = \"p.jsonl\"", "predictions = \"p\"\nweights = \"w\"", "weights means nothing");
        refused("predictions = \"p.jsonl\"", "predictions = \"p\"\ndata = [\"cei\"]", "no data set cei");
    }
}
