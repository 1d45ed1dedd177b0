//! What will run: data read and divided, arms checked against them, cells with their keys.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use kdh_format::student::Provenance;
use kdh_runtime::dataset::{Document, LeakKind, leakage};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::file::{Arm, ArmKind, DataSource, ExperimentFile, LeakagePolicy};
use super::result::{Convergence, DataResult, FoldSizes, LeakResult, RESULT_VERSION};
use crate::config::EncoderConfig;
use crate::data::{Boundaries, Encoder, document_flags, label_codes, read, read_labels};
use crate::distill::ensemble;
use crate::fit::{self, FitInput, LabelName, tokenizer_card};
use crate::hex::hex;
use crate::predict::{Predictions, SentenceLogits};
use crate::stratify::stratify;

/// An experiment whose every part was found to fit.
#[derive(Debug)]
pub struct Plan {
    pub(super) file: ExperimentFile,
    pub(super) data: Vec<DataSet>,
    pub(super) cells: Vec<Cell>,
    pub(super) left_out: Vec<String>,
    pub(super) searches: Vec<Convergence>,
}

/// A data set, divided.
#[derive(Debug)]
pub(super) struct DataSet {
    pub(super) source: DataSource,
    pub(super) labels: Vec<LabelName>,
    pub(super) codes: Vec<String>,
    pub(super) documents: Vec<Document>,
    pub(super) folds: Vec<Parts>,
    pub(super) leaks: Vec<LeakResult>,
}

/// Positions of the documents of a fold's parts.
#[derive(Clone, Debug, Default)]
pub(super) struct Parts {
    pub(super) train: Vec<usize>,
    pub(super) inner: Vec<usize>,
    pub(super) scored: Vec<usize>,
}

/// One training or reading, and its scores.
#[derive(Debug)]
pub(super) struct Cell {
    pub(super) data: usize,
    pub(super) arm: usize,
    pub(super) seed: u64,
    pub(super) fold: usize,
    pub(super) key: String,
    /// Cells of its teachers, which stand before it.
    pub(super) teachers: Vec<usize>,
    /// Whether another cell learns from it.
    pub(super) teaches: bool,
}

impl Plan {
    /// Reads everything that the file names, divides the data, and checks that every cell can run.
    ///
    /// # Errors
    /// When a file cannot be read or does not fit, or a scored document leaks and the policy refuses that.
    pub fn new(file: ExperimentFile) -> Result<Self> {
        let data: Vec<DataSet> = file
            .data
            .iter()
            .map(|source| DataSet::new(source, &file).with_context(|| format!("data set {}", source.name)))
            .collect::<Result<_>>()?;
        let mut shown = Vec::new();
        for path in &file.pso {
            shown.extend(searches(path)?);
        }
        let mut plan = Self { data, cells: Vec::new(), left_out: Vec::new(), searches: shown, file };
        plan.left_out = plan.missing();
        ensure!(
            !plan.left_out.iter().any(|name| name == plan.file.reference()),
            "the reference {} cannot be left out: its files are missing",
            plan.file.reference()
        );
        plan.lay_out()?;
        plan.check()?;
        Ok(plan)
    }

    /// What is known of the data before anything runs.
    pub fn data(&self) -> Vec<DataResult> {
        let result = |data: &DataSet| DataResult {
            name: data.source.name.clone(),
            labels: data.labels.clone(),
            documents: data.documents.len(),
            folds: data
                .folds
                .iter()
                .map(|parts| FoldSizes {
                    train: parts.train.len(),
                    inner: parts.inner.len(),
                    scored: parts.scored.len(),
                })
                .collect(),
            support: data
                .codes
                .iter()
                .map(|code| {
                    let scored = data.folds.iter().flat_map(|parts| &parts.scored);
                    scored.filter(|&&index| data.documents[index].labels.contains(code)).count()
                })
                .collect(),
            leaks: data.leaks.clone(),
        };
        self.data.iter().map(result).collect()
    }

    /// Number of cells.
    pub fn cells(&self) -> usize {
        self.cells.len()
    }

    /// Optional arms that are left out because their files are missing.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    pub(super) fn arm(&self, cell: &Cell) -> &Arm {
        &self.file.arms[cell.arm]
    }

    /// Name of the cell's folder.
    pub(super) fn folder(&self, cell: &Cell) -> String {
        let (data, arm) = (&self.data[cell.data].source.name, &self.arm(cell).name);
        format!("{data}.{arm}.seed-{}.fold-{}.{}", cell.seed, cell.fold + 1, &cell.key[..12])
    }

    /// Training, inner and scored documents as the cell's arm sees them.
    pub(super) fn documents(&self, cell: &Cell) -> [Vec<Document>; 3] {
        let data = &self.data[cell.data];
        let parts = &data.folds[cell.fold];
        [&parts.train, &parts.inner, &parts.scored].map(|indices| {
            let mut documents: Vec<Document> = indices.iter().map(|&index| data.documents[index].clone()).collect();
            if !self.arm(cell).sentence_labels {
                documents.iter_mut().for_each(|document| document.sentences.clear());
            }
            documents
        })
    }

    /// What files say of the cell's training and transfer documents, one a member.
    pub(super) fn teacher_files(&self, cell: &Cell, documents: &[Document]) -> Result<Vec<Predictions>> {
        let codes = &self.data[cell.data].codes;
        let member = |path: &PathBuf| {
            let all = ensemble(&[path.as_path()], codes)?;
            select(&all, documents, codes).with_context(|| format!("in the teacher's logits {}", path.display()))
        };
        self.arm(cell).teacher_logits.iter().map(member).collect()
    }

    /// What the files of a `predictions` arm say: rows of the scored documents, and rows that choose thresholds.
    pub(super) fn given(&self, cell: &Cell) -> Result<(Predictions, Predictions)> {
        let (data, arm) = (&self.data[cell.data], self.arm(cell));
        let template = arm.predictions.as_deref().unwrap_or_default();
        let path = self.path(template, cell.data, cell.seed, cell.fold);
        let mut all = Predictions::default();
        all.append(&path, &data.codes)?;
        let parts = &data.folds[cell.fold];
        let scored: Vec<Document> = parts.scored.iter().map(|&index| data.documents[index].clone()).collect();
        let rows = select(&all, &scored, &data.codes).with_context(|| format!("in {}", path.display()))?;
        if let Some(template) = &arm.threshold_predictions {
            all = Predictions::default();
            all.append(&self.path(template, cell.data, cell.seed, cell.fold), &data.codes)?;
        }
        let ids: HashSet<&str> = scored.iter().map(|document| document.id.as_str()).collect();
        Ok((rows, without(&all, &ids, data.codes.len())))
    }

    fn path(&self, template: &str, data: usize, seed: u64, fold: usize) -> PathBuf {
        let name = &self.data[data].source.name;
        let path = template.replace("{data}", name).replace("{seed}", &seed.to_string());
        path.replace("{fold}", &(fold + 1).to_string()).into()
    }

    /// Optional arms of which any file is missing.
    fn missing(&self) -> Vec<String> {
        let lacks = |arm: &&Arm| {
            let templates = arm.predictions.iter().chain(&arm.threshold_predictions);
            let mut paths = templates.flat_map(|template| {
                let folds = |data: usize| (0..self.data[data].folds.len()).map(move |fold| (data, fold));
                let places = (0..self.data.len())
                    .filter(|&data| self.file.runs_on(arm, &self.data[data].source))
                    .flat_map(folds);
                places.flat_map(move |(data, fold)| {
                    self.seeds(arm).iter().map(move |&seed| self.path(template, data, seed, fold))
                })
            });
            arm.optional && paths.any(|path| !path.is_file())
        };
        self.file.arms.iter().filter(lacks).map(|arm| arm.name.clone()).collect()
    }

    /// Seeds that an arm has a cell for: what no seed changes runs once.
    fn seeds(&self, arm: &Arm) -> &[u64] {
        let seeds = &self.file.seeds;
        let varies = match arm.kind {
            ArmKind::Linear => false,
            ArmKind::Fit | ArmKind::Distill => true,
            ArmKind::Predictions => arm.predictions.iter().any(|path| path.contains("{seed}")),
        };
        if varies { seeds } else { &seeds[..1] }
    }

    /// Fold by fold, so that a killed experiment leaves whole comparisons.
    fn lay_out(&mut self) -> Result<()> {
        let mut weights: HashMap<PathBuf, String> = HashMap::new();
        let mut files: HashMap<PathBuf, String> = HashMap::new();
        let mut cells: Vec<Cell> = Vec::new();
        for data in 0..self.data.len() {
            for fold in 0..self.data[data].folds.len() {
                let parts = self.parts_digest(data, fold)?;
                for seed in self.file.seeds.clone() {
                    for arm in 0..self.file.arms.len() {
                        let is = &self.file.arms[arm];
                        let runs = self.file.runs_on(is, &self.data[data].source) && self.seeds(is).contains(&seed);
                        if !runs || self.left_out.contains(&is.name) {
                            continue;
                        }
                        let place = |name: &String| {
                            let same = |cell: &&Cell| {
                                cell.data == data && cell.fold == fold && self.file.arms[cell.arm].name == *name
                            };
                            let found = cells.iter().enumerate().filter(|(_, cell)| same(cell));
                            // A teacher that no seed changes has one cell for all.
                            let own = found.clone().find(|(_, cell)| cell.seed == seed);
                            own.or_else(|| found.clone().next()).map(|(place, _)| place)
                        };
                        let teachers: Vec<usize> = is.teachers.iter().filter_map(place).collect();
                        let mut digest = Fields(Sha256::new());
                        digest.add(&(RESULT_VERSION, is.kind, is.sentence_labels, self.file.thresholds, &parts))?;
                        if matches!(is.kind, ArmKind::Fit | ArmKind::Distill) {
                            digest.add(&self.file.options(is, seed)?)?;
                            let folder = is.weights.clone().unwrap_or_default();
                            if !weights.contains_key(&folder) {
                                weights.insert(folder.clone(), weights_digest(&folder)?);
                            }
                            digest.add(&weights[&folder])?;
                        } else {
                            digest.add(&(&is.options, &is.fixed_thresholds))?;
                        }
                        digest.add(&teachers.iter().map(|&teacher| &cells[teacher].key).collect::<Vec<_>>())?;
                        let templates = is.predictions.iter().chain(&is.threshold_predictions);
                        let given = templates.map(|template| self.path(template, data, seed, fold));
                        for path in is.teacher_logits.iter().chain(&is.transfer).cloned().chain(given) {
                            if !files.contains_key(&path) {
                                files.insert(path.clone(), file_digest(&path)?);
                            }
                            digest.add(&files[&path])?;
                        }
                        for &teacher in &teachers {
                            cells[teacher].teaches = true;
                        }
                        let key = hex(&digest.0.finalize());
                        cells.push(Cell { data, arm, seed, fold, key, teachers, teaches: false });
                    }
                }
            }
        }
        self.cells = cells;
        Ok(())
    }

    fn parts_digest(&self, data: usize, fold: usize) -> Result<String> {
        let data = &self.data[data];
        let mut digest = Fields(Sha256::new());
        digest.add(&data.labels)?;
        let parts = &data.folds[fold];
        for indices in [&parts.train, &parts.inner, &parts.scored] {
            digest.add(&indices.len())?;
            for &index in indices {
                digest.add(&data.documents[index])?;
            }
        }
        Ok(hex(&digest.0.finalize()))
    }

    /// Whatever can be found wrong before anything is trained.
    fn check(&self) -> Result<()> {
        for cell in &self.cells {
            let (data, arm) = (&self.data[cell.data], self.arm(cell));
            let check = || match arm.kind {
                ArmKind::Linear => Ok(()),
                ArmKind::Fit | ArmKind::Distill => self.check_training(cell),
                ArmKind::Predictions => self.check_given(cell),
            };
            check().with_context(|| format!("arm {} on {}", arm.name, data.source.name))?;
        }
        Ok(())
    }

    fn check_training(&self, cell: &Cell) -> Result<()> {
        let (data, arm) = (&self.data[cell.data], self.arm(cell));
        let options = self.file.options(arm, cell.seed)?;
        let weights = arm.weights.as_deref().unwrap_or(Path::new(""));
        let config = EncoderConfig::read(weights)?;
        let [train, inner, scored] = self.documents(cell);
        let input = FitInput {
            weights,
            train: &train,
            dev: &inner,
            labels: &data.labels,
            provenance: Provenance::default(),
            name: arm.name.clone(),
        };
        fit::check(&input, &options.fit, &config)?;
        let path = weights.join("vocab.txt");
        let vocabulary = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let card = tokenizer_card(weights, config.architecture);
        let mut encoder = Encoder::new(&vocabulary, &card, data.codes.clone(), 16, 4, Boundaries::Corpus)?;
        ensure!(
            encoder.vocabulary_len() as i64 <= config.vocab_size,
            "vocab.txt has {} tokens, the weights have rows for {}",
            encoder.vocabulary_len(),
            config.vocab_size
        );
        // Every label of documents and sentences must be known.
        for document in train.iter().chain(&inner).chain(&scored) {
            encoder.encode(document)?;
        }
        let mut transfer = Vec::new();
        for path in &arm.transfer {
            transfer.extend(read(path)?);
        }
        let leaks = leakage(&transfer, &scored);
        if self.file.leakage != LeakagePolicy::Allow
            && let Some(leak) = leaks.first()
        {
            bail!(
                "{} transfer documents are scored too, the first is {}: leave them out",
                leaks.len(),
                transfer[leak.train].id
            );
        }
        let taught: Vec<Document> = train.into_iter().chain(transfer).collect();
        self.teacher_files(cell, &taught).map(drop)
    }

    fn check_given(&self, cell: &Cell) -> Result<()> {
        let (data, arm) = (&self.data[cell.data], self.arm(cell));
        let (_, others) = self.given(cell)?;
        let (labels, fixed) = (data.codes.len(), arm.fixed_thresholds.len());
        ensure!(fixed <= 1 || fixed == labels, "{fixed} fixed_thresholds for {labels} labels: give one or all");
        ensure!(
            fixed > 0 || !others.ids.is_empty(),
            "there is no row to choose thresholds on: give threshold_predictions over documents that are not scored, \
             or fixed_thresholds"
        );
        Ok(())
    }
}

impl DataSet {
    fn new(source: &DataSource, file: &ExperimentFile) -> Result<Self> {
        let mut documents = read(&source.train)?;
        let labels = match &source.labels {
            Some(path) => read_labels(path)?,
            None => label_codes(&documents).into_iter().map(|code| LabelName { name: code.clone(), code }).collect(),
        };
        let codes: Vec<String> = labels.iter().map(|label| label.code.clone()).collect();
        ensure!(!codes.is_empty(), "the documents have no labels");
        let dev = source.dev.as_deref().map(read).transpose()?.unwrap_or_default();
        let folds = match file.folds {
            None => {
                documents = sample(documents, &codes, source)?;
                let train = documents.len();
                documents.extend(dev);
                vec![Parts {
                    train: (0..train).collect(),
                    inner: Vec::new(),
                    scored: (train..documents.len()).collect(),
                }]
            }
            Some(folds) => {
                documents.extend(dev);
                let mut seen = HashSet::new();
                for document in &documents {
                    ensure!(seen.insert(&document.id), "document {} is in train and dev", document.id);
                }
                documents = sample(documents, &codes, source)?;
                ensure!(documents.len() >= 2 * folds, "{} documents are too few for {folds} folds", documents.len());
                let shares = vec![1.0 / folds as f64; folds];
                let part = stratify(&document_flags(&documents, &codes)?, &shares, source.split_seed);
                let fold = |fold: usize| {
                    let (scored, train) = (0..documents.len()).partition(|&index| part[index] == fold);
                    Parts { train, inner: Vec::new(), scored }
                };
                (0..folds).map(fold).collect()
            }
        };
        let mut data = Self { source: source.clone(), labels, codes, documents, folds, leaks: Vec::new() };
        // Also finds labels that nobody knows.
        let flags = document_flags(&data.documents, &data.codes)?;
        data.find_leaks(file.leakage)?;
        for (number, parts) in data.folds.iter_mut().enumerate() {
            let rows: Vec<Vec<bool>> = parts.train.iter().map(|&index| flags[index].clone()).collect();
            let seed = source.split_seed.wrapping_add(1 + number as u64);
            let part = stratify(&rows, &[1.0 - file.inner, file.inner], seed);
            let divided: Vec<(usize, usize)> = parts.train.drain(..).zip(part).collect();
            let of =
                |wanted| divided.iter().filter(move |(_, part)| *part == wanted).map(|(index, _)| *index).collect();
            (parts.train, parts.inner) = (of(0), of(1));
            ensure!(
                !parts.train.is_empty() && !parts.inner.is_empty() && !parts.scored.is_empty(),
                "fold {} has an empty part: {} documents train, {} are inner, {} are scored",
                number + 1,
                parts.train.len(),
                parts.inner.len(),
                parts.scored.len()
            );
        }
        Ok(data)
    }

    fn find_leaks(&mut self, policy: LeakagePolicy) -> Result<()> {
        let mut removed: Vec<HashSet<usize>> = vec![HashSet::new(); self.folds.len()];
        // Every pair once; the side of each depends on the fold.
        let everything = leakage(&self.documents, &self.documents);
        let fold_of: Vec<HashSet<usize>> =
            self.folds.iter().map(|parts| parts.scored.iter().copied().collect()).collect();
        for leak in everything.iter().filter(|leak| leak.train != leak.other) {
            for (number, scored) in fold_of.iter().enumerate() {
                if !scored.contains(&leak.other) || scored.contains(&leak.train) {
                    continue;
                }
                removed[number].insert(leak.train);
                let (kind, similarity) = match leak.kind {
                    LeakKind::SameId => ("same-id", 1.0),
                    LeakKind::SameText => ("same-text", 1.0),
                    LeakKind::NearDuplicate { similarity } => ("near-duplicate", similarity),
                    _ => ("other", 1.0),
                };
                self.leaks.push(LeakResult {
                    fold: number + 1,
                    train: self.documents[leak.train].id.clone(),
                    scored: self.documents[leak.other].id.clone(),
                    kind: kind.into(),
                    similarity,
                });
            }
        }
        let certain: Vec<&LeakResult> = self.leaks.iter().filter(|leak| leak.kind != "near-duplicate").collect();
        match policy {
            LeakagePolicy::Refuse => {
                if let Some(first) = certain.first() {
                    bail!(
                        "{} scored documents are in the training part too, the first is {} ({}, {} there): set \
                         leakage = \"remove\" to train without them, or \"allow\"",
                        certain.len(),
                        first.scored,
                        first.kind,
                        first.train
                    );
                }
            }
            LeakagePolicy::Remove => {
                for (parts, removed) in self.folds.iter_mut().zip(&removed) {
                    parts.train.retain(|index| !removed.contains(index));
                }
            }
            LeakagePolicy::Allow => {}
        }
        Ok(())
    }
}

/// A stratified sample, in the order of the file.
fn sample(documents: Vec<Document>, codes: &[String], source: &DataSource) -> Result<Vec<Document>> {
    if source.sample >= 1.0 {
        return Ok(documents);
    }
    let shares = [source.sample, 1.0 - source.sample];
    let part = stratify(&document_flags(&documents, codes)?, &shares, source.split_seed);
    Ok(documents.into_iter().zip(part).filter(|(_, part)| *part == 0).map(|(document, _)| document).collect())
}

/// The rows of `documents`, in their order and with their labels as the truth.
pub(super) fn select(all: &Predictions, documents: &[Document], codes: &[String]) -> Result<Predictions> {
    let at: HashMap<&str, usize> = all.ids.iter().enumerate().map(|(row, id)| (id.as_str(), row)).collect();
    ensure!(at.len() == all.ids.len(), "a document has several rows");
    let labels = codes.len();
    let mut chosen = Predictions::default();
    for document in documents {
        let Some(&row) = at.get(document.id.as_str()) else { bail!("there is no row for document {}", document.id) };
        let logits = &all.logits[row * labels..(row + 1) * labels];
        ensure!(logits.iter().all(|logit| logit.is_finite()), "document {}: a logit is no number", document.id);
        chosen.ids.push(document.id.clone());
        chosen.truth.extend(codes.iter().map(|code| document.labels.contains(code)));
        chosen.logits.extend_from_slice(logits);
        chosen.sentences.push(all.sentences[row].clone());
    }
    Ok(chosen)
}

/// All rows but those of some documents.
fn without(all: &Predictions, ids: &HashSet<&str>, labels: usize) -> Predictions {
    let mut rest = Predictions::default();
    for (row, id) in all.ids.iter().enumerate().filter(|(_, id)| !ids.contains(id.as_str())) {
        rest.ids.push(id.clone());
        rest.truth.extend_from_slice(&all.truth[row * labels..(row + 1) * labels]);
        rest.logits.extend_from_slice(&all.logits[row * labels..(row + 1) * labels]);
        rest.sentences.push(SentenceLogits::default());
    }
    rest
}

/// Scores of the searches in a file that `kdh-train pso run` or `pso status --json` wrote.
fn searches(path: &Path) -> Result<Vec<Convergence>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let result: Value = serde_json::from_slice(&bytes).with_context(|| format!("{} is not JSON", path.display()))?;
    let found = match (&result["searches"], &result["evaluations"]) {
        (Value::Array(searches), _) => searches.clone(),
        (_, Value::Array(_)) => vec![result.clone()],
        _ => bail!("{} is no result of kdh-train pso", path.display()),
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let convergence = |search: &Value| {
        let evaluations = search["evaluations"].as_array();
        Convergence {
            name: format!("{} {}", text(&result["name"]), text(&search["search"])).trim().to_owned(),
            scores: evaluations.into_iter().flatten().map(|evaluation| evaluation["score"].as_f64()).collect(),
        }
    };
    Ok(found.iter().map(convergence).collect())
}

/// A digest of values one after the other, with their lengths.
struct Fields(Sha256);

impl Fields {
    fn add(&mut self, value: &impl Serialize) -> Result<()> {
        let bytes = serde_json::to_vec(value)?;
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        Ok(())
    }
}

fn weights_digest(folder: &Path) -> Result<String> {
    let mut digest = Fields(Sha256::new());
    for name in ["config.json", "vocab.txt", "tokenizer_config.json", "model.safetensors", "pytorch_model.bin"] {
        let path = folder.join(name);
        if path.is_file() {
            digest.add(&(name, file_digest(&path)?))?;
        }
    }
    Ok(hex(&digest.0.finalize()))
}

fn file_digest(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(hex(&Sha256::digest(bytes)))
}
