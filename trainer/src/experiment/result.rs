//! What an experiment found: the layout of `result.json`, which experiments/RESULT.md describes.

use kdh_runtime::metrics::Metrics;
use kdh_runtime::metrics::thresholds::Policy;
use serde::{Deserialize, Serialize};

use super::file::ExperimentFile;
use crate::fit::LabelName;
use crate::statistics::{Friedman, Interval, McNemar, Wilcoxon};

/// Version of the layout. It rises when a field changes its meaning or goes; new fields do not raise it.
pub const RESULT_VERSION: u32 = 1;

/// `result.json`: all that the report shows but times, and nothing that depends on when or how often it ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResultFile {
    /// [`RESULT_VERSION`].
    pub version: u32,
    /// Version of the program.
    pub program: String,
    /// Commit of the program, as the command was told.
    pub commit: String,
    /// What ran.
    pub experiment: ExperimentFile,
    /// One entry a data set.
    pub data: Vec<DataResult>,
    /// One entry a data set, arm, seed and fold.
    pub cells: Vec<CellResult>,
    /// Optional arms that were left out because their files are missing.
    pub left_out: Vec<String>,
    /// One entry a data set and arm that has a finished cell.
    pub arms: Vec<ArmResult>,
    /// One entry a data set and arm beside the reference; arms with a failed cell have none.
    pub comparisons: Vec<Comparison>,
    /// Tests over the folds of each data set, and then over all folds of all data sets (`data` is `None`).
    pub blocks: Vec<BlockTests>,
    /// Swarm searches.
    pub searches: Vec<Convergence>,
}

/// A data set as it was divided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct DataResult {
    pub name: String,
    pub labels: Vec<LabelName>,
    /// Documents that take part, the scored ones among them.
    pub documents: usize,
    pub folds: Vec<FoldSizes>,
    /// Scored documents that have each label, over all folds.
    pub support: Vec<usize>,
    pub leaks: Vec<LeakResult>,
}

/// Documents of a fold's three parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the module says what the parts are")]
pub struct FoldSizes {
    pub train: usize,
    pub inner: usize,
    pub scored: usize,
}

/// A scored document that the training side gives away.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeakResult {
    /// Fold, from 1.
    pub fold: usize,
    /// Id of the document of the training side.
    pub train: String,
    /// Id of the scored document.
    pub scored: String,
    /// `same-id`, `same-text` or `near-duplicate`.
    pub kind: String,
    /// Jaccard similarity of five-word shingles.
    pub similarity: f64,
}

/// How one data set, arm, seed and fold ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CellResult {
    /// Name of the data set.
    pub data: String,
    /// Name of the arm.
    pub arm: String,
    /// Seed of the training.
    pub seed: u64,
    /// Fold, from 1.
    pub fold: usize,
    /// Digest of all that the cell depends on; its first twelve digits end the name of its folder.
    pub key: String,
    /// Why there are no metrics: the cell failed.
    pub error: Option<String>,
    /// Training documents that were cut at `max_tokens`.
    pub cut_documents: usize,
    /// Policy that chose the thresholds; `None` when they were given.
    pub policy: Option<Policy>,
    /// One threshold a label.
    pub thresholds: Vec<f32>,
    /// Scores on the scored documents.
    pub metrics: Option<Metrics>,
    /// What training said after each epoch.
    pub epochs: Vec<Epoch>,
}

/// An epoch of a training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// 1 for imitation, 2 for training on labels.
    pub stage: u32,
    /// Epoch of the stage, from 1.
    pub epoch: u64,
    /// Mean loss of its steps.
    pub train_loss: f64,
    /// Binary cross-entropy of the inner part.
    pub inner_loss: f64,
    /// Area under the micro precision-recall curve of the inner part.
    pub inner_micro_auprc: f64,
    /// Whether it was the best so far.
    pub best: bool,
}

/// What an arm is worth on a data set. Scores are over the scored documents of all folds together, averaged over seeds;
/// intervals are bootstrapped over documents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArmResult {
    /// Name of the data set.
    pub data: String,
    /// Name of the arm.
    pub arm: String,
    /// Seeds that count.
    pub seeds: Vec<u64>,
    /// False when a cell of the arm failed; then the scores are over the seeds without a failure.
    pub complete: bool,
    /// Micro-F1.
    pub micro_f1: Interval,
    /// Macro-F1.
    pub macro_f1: Interval,
    /// Standard deviation of micro-F1 between seeds; 0 for one seed.
    pub micro_f1_std: f64,
    /// Area under the micro precision-recall curve, mean over cells.
    pub micro_auprc: Option<f64>,
    /// Area under the micro ROC curve, mean over cells.
    pub micro_auroc: Option<f64>,
    /// F1 of each label.
    pub label_f1: Vec<Interval>,
    /// Micro-F1 of each fold, averaged over seeds.
    pub fold_micro_f1: Vec<f64>,
    /// Micro precision-recall curve over all seeds and folds: (recall, precision), thinned out.
    pub precision_recall: Vec<(f64, f64)>,
    /// Expected calibration error over documents and labels, ten bins of equal width (Guo et al. 2017).
    pub calibration_error: f64,
    /// The bins that hold anything.
    pub reliability: Vec<ReliabilityBin>,
}

/// (document, label) pairs with probabilities in one tenth.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReliabilityBin {
    /// Mean probability.
    pub probability: f64,
    /// Share of true pairs.
    pub rate: f64,
    /// Pairs.
    pub pairs: usize,
}

/// An arm against the reference on one data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Name of the data set.
    pub data: String,
    /// Name of the arm.
    pub arm: String,
    /// Micro-F1 of the arm less that of the reference, a paired bootstrap over documents.
    pub micro_f1: Interval,
    /// The same of macro-F1.
    pub macro_f1: Interval,
    /// McNemar's test of each label; the first classifier is the arm, both with their first seed.
    pub labels: Vec<LabelTest>,
}

/// A label's test.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabelTest {
    /// The test.
    #[serde(flatten)]
    pub test: McNemar,
    /// Its p-value after Holm's correction over the labels of the comparison.
    pub holm: f64,
}

/// Tests over blocks, which are the folds of data sets; scores are micro-F1 averaged over seeds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockTests {
    /// The data set; `None` for all together.
    pub data: Option<String>,
    /// Blocks.
    pub blocks: usize,
    /// Arms that have a score in every block.
    pub arms: Vec<String>,
    /// Friedman's test and Nemenyi's critical difference; `None` with fewer than three arms or two blocks.
    pub friedman: Option<Friedman>,
    /// Wilcoxon's test of each arm against the reference, in the order of `arms`; `None` for the reference itself and
    /// where nothing differs.
    pub wilcoxon: Vec<Option<Wilcoxon>>,
    /// P-values of these after Holm's correction.
    pub wilcoxon_holm: Vec<Option<f64>>,
}

/// A search of the swarm, as `kdh-train pso run` wrote it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Convergence {
    /// Name of the study and kind of search.
    pub name: String,
    /// Score of each evaluation in order; `None` where it failed.
    pub scores: Vec<Option<f64>>,
}
