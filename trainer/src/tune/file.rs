//! The file that says what is tuned, on what, and how.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::distill::DistillOptions;
use crate::pso::{Direction, Goal, Point, RandomSearch, Record, Space, Stagnation, Swarm, SwarmOptions};

/// A tuning, as a TOML file describes it. Paths are relative to the folder that the program runs in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TuneFile {
    /// Name of the study in its storage.
    pub name: String,
    /// Evaluations at reduced fidelity.
    pub evaluations: u64,
    /// Stop earlier when nothing is gained.
    #[serde(default)]
    pub stagnation: Option<Stagnation>,
    /// What is maximised.
    #[serde(default)]
    pub score: Score,
    /// Points to train in full afterwards.
    pub promote: usize,
    /// How many of these are not the best but spread over all ranks, so that the ranks of the two fidelities can be
    /// compared over more than the top.
    #[serde(default)]
    pub spread: usize,
    /// Documents, weights and teachers.
    pub data: TuneData,
    /// What every run has in common, by the names of the options of `kdh-train distill`.
    #[serde(default)]
    pub options: Map<String, Value>,
    /// What differs while searching.
    pub reduced: Reduced,
    /// What is searched, by the same names.
    pub space: Space,
    /// How the swarm moves; also the seed and the first point of the random search.
    #[serde(default)]
    pub swarm: SwarmOptions,
}

/// What a tuning works on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TuneData {
    /// Folder of the student's first weights.
    pub weights: PathBuf,
    /// Training documents, JSON Lines.
    pub train: PathBuf,
    /// Documents that score a point. Or give `folds`.
    #[serde(default)]
    pub dev: Option<PathBuf>,
    /// Folds of the training documents that score a point, each written I/K; the score is their mean.
    #[serde(default)]
    pub folds: Vec<String>,
    /// Labels in the order of the logits, as for `kdh-train fit`.
    #[serde(default)]
    pub labels: Option<PathBuf>,
    /// Teachers' logits for all training and transfer documents; without any there is no teacher.
    #[serde(default)]
    pub teacher_logits: Vec<PathBuf>,
    /// Documents that only the teacher labels.
    #[serde(default)]
    pub transfer: Vec<PathBuf>,
}

/// What is maximised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Score {
    /// Area under the micro precision-recall curve: needs no threshold, so it is the least noisy on few documents.
    #[default]
    MicroAuprc,
    /// Micro-F1 with one threshold, cross-validated: chosen on other documents than those it decides.
    MicroF1,
}

/// How a run differs while searching.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reduced {
    /// Share of the training documents, more than 0 and at most 1.
    #[serde(default = "whole")]
    pub subset: f64,
    /// Options, by their names.
    #[serde(flatten)]
    pub options: Map<String, Value>,
}

/// Which optimizer searches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SearchKind {
    /// The particle swarm.
    Swarm,
    /// Random search, the yardstick.
    Random,
}

impl TuneFile {
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
    /// As [`TuneFile::read`].
    pub fn parse(text: &str) -> Result<Self> {
        let file: Self = toml::from_str(text)?;
        ensure!(file.evaluations > 0, "evaluations must be at least 1");
        ensure!(
            file.promote > file.spread || file.promote == 0 && file.spread == 0,
            "promote is {}, spread {}: at least one of the promoted points must be the best",
            file.promote,
            file.spread
        );
        ensure!(file.reduced.subset > 0.0 && file.reduced.subset <= 1.0, "subset must be above 0 and at most 1");
        ensure!(
            file.data.dev.is_some() == file.data.folds.is_empty(),
            "data needs either dev or folds, so that points can be scored"
        );
        if file.data.teacher_logits.is_empty() && !file.data.transfer.is_empty() {
            bail!("transfer documents need teacher_logits: nobody else labels them");
        }
        // Every point of the space must make options: both ends of every number and every choice are tried.
        let coordinates = file.space.coordinates();
        let corner =
            |at: usize| -> Vec<f64> { (0..coordinates).map(|index| f64::from(u8::from(index == at))).collect() };
        for position in (0..coordinates).map(corner).chain([vec![0.0; coordinates], vec![1.0; coordinates]]) {
            let point = file.space.decode(&position);
            file.options(&point, true)?;
            file.options(&point, false)?;
        }
        file.swarm()?;
        Ok(file)
    }

    /// Options of a run at `point`, at reduced fidelity or in full.
    ///
    /// # Errors
    /// When a name is none of an option, or a value not of its kind.
    pub fn options(&self, point: &Point, reduced: bool) -> Result<DistillOptions> {
        let mut values = match serde_json::to_value(DistillOptions::default())? {
            Value::Object(values) => values,
            _ => bail!("options are not a table"),
        };
        let mut overlay = self.options.clone();
        if reduced {
            overlay.extend(self.reduced.options.clone());
        }
        for (name, value) in point {
            // What is searched cannot be fixed by a fidelity at the same time.
            ensure!(!overlay.contains_key(name), "{name} is searched and given a value at the same time");
            overlay.insert(name.clone(), serde_json::to_value(value)?);
        }
        for (name, value) in overlay {
            ensure!(
                values.contains_key(&name),
                "there is no option {name}; the options are {}",
                values.keys().cloned().collect::<Vec<_>>().join(", ")
            );
            values.insert(name, value);
        }
        let shown = Value::Object(values.clone()).to_string();
        serde_json::from_value(Value::Object(values)).with_context(|| format!("these options do not fit: {shown}"))
    }

    /// The swarm at its start.
    ///
    /// # Errors
    /// When an option of the swarm is out of its range.
    pub fn swarm(&self) -> Result<Swarm> {
        Ok(Swarm::new(self.space.clone(), self.goal(), self.swarm.clone())?)
    }

    /// The random search at its start, with the swarm's seed, first point and budget.
    ///
    /// # Errors
    /// As [`TuneFile::swarm`].
    pub fn random_search(&self) -> Result<RandomSearch> {
        Ok(RandomSearch::new(self.space.clone(), self.goal(), self.swarm.start.clone(), self.swarm.seed)?)
    }

    fn goal(&self) -> Goal {
        Goal { direction: Direction::Maximize, evaluations: self.evaluations, stagnation: self.stagnation }
    }
}

impl SearchKind {
    /// Name in folders and studies.
    pub fn name(self) -> &'static str {
        match self {
            Self::Swarm => "swarm",
            Self::Random => "random",
        }
    }
}

fn whole() -> f64 {
    1.0
}

/// Evaluations, best score first; those that failed are left out.
pub(super) fn ranked(records: &[Record]) -> Vec<&Record> {
    let mut scored: Vec<_> = records.iter().filter(|record| record.score.is_some()).collect();
    scored.sort_by(|one, other| other.score.partial_cmp(&one.score).unwrap_or(core::cmp::Ordering::Equal));
    scored
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
name = "hoc"
evaluations = 6
promote = 3
spread = 1
[data]
weights = "w"
train = "t.jsonl"
dev = "d.jsonl"
teacher_logits = ["l.jsonl"]
[options]
seed = 7
max_tokens = 512
[reduced]
subset = 0.5
max_tokens = 128
epochs = 1
[space]
learning_rate = { kind = "log", min = 1e-5, max = 1e-3 }
batch_size = { kind = "log-integer", min = 4, max = 32 }
soft_loss = { kind = "categorical", choices = ["bernoulli-kd", "softmax-kd"] }
"#;

    #[test]
    fn options_are_laid_over_each_other() {
        let file = TuneFile::parse(FILE).unwrap();
        let point = file.space.decode(&[0.0, 1.0, 0.2, 0.9]);
        let (reduced, full) = (file.options(&point, true).unwrap(), file.options(&point, false).unwrap());
        assert_eq!((reduced.fit.max_tokens, reduced.fit.epochs, reduced.fit.seed), (128, 1, 7));
        assert_eq!((full.fit.max_tokens, full.fit.epochs), (512, DistillOptions::default().fit.epochs));
        assert_eq!(full.fit.batch_size, reduced.fit.batch_size);
        assert_eq!(full.fit.learning_rate, reduced.fit.learning_rate);
    }

    #[test]
    fn what_cannot_be_done_is_named() {
        let refused = |from: &str, to: &str| {
            assert!(FILE.contains(from));
            format!("{:#}", TuneFile::parse(&FILE.replace(from, to)).unwrap_err())
        };
        assert!(refused("learning_rate =", "learning_rat =").contains("no option learning_rat;"));
        assert!(refused("softmax-kd", "softmax").contains("softmax"));
        assert!(refused("seed = 7", "batch_size = 7").contains("batch_size is searched and given"));
        assert!(refused("subset = 0.5", "subset = 1.5").contains("subset"));
        assert!(refused("dev = \"d.jsonl\"", "").contains("dev or folds"));
        assert!(refused("spread = 1", "spread = 3").contains("promote is 3"));
        assert!(refused("evaluations = 6", "evaluations = 0").contains("evaluations"));
        assert!(refused("max = 1e-3", "max = 1e-6").contains("learning_rate"));
    }
}
