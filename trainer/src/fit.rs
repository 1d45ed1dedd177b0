//! Supervised fine-tuning of an encoder with a multi-label head.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use kdh_format::student::{Head, Metric, Provenance, StudentCard, StudentLabel, TokenizerCard};
use kdh_runtime::dataset::Document;
use kdh_runtime::metrics::thresholds::{Policy, choose};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use tch::Device;

use crate::checkpoint::{Checkpoints, Progress};
use crate::config::{Architecture, EncoderConfig};
use crate::data::{Batch, Boundaries, Encoder, Example, base_rates, epoch_order};
use crate::distill::Teaching;
use crate::encoder::{Pass, Precision};
use crate::frozen::Frozen;
use crate::model::{Classifier, read_card};
use crate::objective::{SoftTargets, loss};
use crate::optimizer::{AdamW, Rates, linear_schedule};
use crate::predict::Predictions;
use crate::states::StateTerms;

/// Everything that decides the result of a run, but for the data and the weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, clap::Args)]
pub struct FitOptions {
    /// Passes over the training data.
    #[arg(long, default_value_t = 6)]
    pub epochs: usize,
    /// Documents a step.
    #[arg(long, default_value_t = 16)]
    pub batch_size: usize,
    /// Longest input in tokens; what is longer is cut, and counted.
    #[arg(long, default_value_t = 384)]
    pub max_tokens: usize,
    /// Most sentences of a document; the text beyond joins the last one.
    #[arg(long, default_value_t = 64)]
    pub max_sentences: usize,
    /// Peak learning rate of the encoder.
    #[arg(long, default_value_t = 1.2e-4)]
    pub learning_rate: f64,
    /// The head's learning rate, as a multiple of the encoder's.
    #[arg(long, default_value_t = 20.0)]
    pub head_factor: f64,
    /// Factor of the learning rate from each layer to the one below it.
    #[arg(long, default_value_t = 1.0)]
    pub layer_decay: f64,
    /// Keep the embeddings and so many of the lowest layers as they are. Their states are computed once and kept in
    /// memory (0.6 MB for 400 tokens of width 768), so that an epoch costs only the layers above.
    #[arg(long, default_value_t = 0)]
    pub freeze: usize,
    /// Share of all steps over which the learning rate rises.
    #[arg(long, default_value_t = 0.1)]
    pub warm_up: f64,
    /// Decoupled weight decay of matrices.
    #[arg(long, default_value_t = 0.01)]
    pub weight_decay: f64,
    /// Largest joint norm of the gradients.
    #[arg(long, default_value_t = 1.0)]
    pub clip: f64,
    /// Dropout on residual branches and on sentence means.
    #[arg(long, default_value_t = 0.1)]
    pub dropout: f64,
    /// Dropout on attention probabilities; more than 0 takes libtorch's slow attention.
    #[arg(long, default_value_t = 0.0)]
    pub attention_dropout: f64,
    /// Weight of the sentence loss beside the document loss.
    #[arg(long, default_value_t = 2.0)]
    pub sentence_weight: f64,
    /// How documents get their logits: `sentence-evidence` or `mean`.
    #[arg(long, value_parser = parse_head, default_value = "sentence-evidence")]
    pub head: Head,
    /// Whose sentence boundaries to train and evaluate with.
    #[arg(long, value_enum, default_value_t = Boundaries::Corpus)]
    pub boundaries: Boundaries,
    /// Arithmetic of the linear layers; bf16 needs a processor that multiplies it, as the default looks.
    #[arg(long, value_enum, default_value_t = Precision::fastest())]
    pub precision: Precision,
    /// Seed of the order of the data and of dropout.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// What chooses the best epoch on dev.
    #[arg(long, value_enum, default_value_t = Selection::MicroAuprc)]
    pub select: Selection,
    /// Stop after so many epochs without a better one.
    #[arg(long, default_value_t = 3)]
    pub patience: usize,
}

/// The defaults of the command line, which are written only once, beside the options.
impl Default for FitOptions {
    fn default() -> Self {
        defaults()
    }
}

/// Options as the command line has them when nothing is said.
#[expect(clippy::expect_used, reason = "every option has a default, as each run of the command without it shows")]
pub(crate) fn defaults<O: clap::Args>() -> O {
    let command = O::augment_args(clap::Command::new("options").no_binary_name(true));
    O::from_arg_matches(&command.get_matches_from(Vec::<String>::new())).expect("a default for every option")
}

/// What chooses the best epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selection {
    /// Area under the micro precision-recall curve: needs no threshold, so it is less noisy than F1 on a small dev set.
    MicroAuprc,
    /// Micro-F1 at the best global threshold.
    MicroF1,
    /// Binary cross-entropy.
    Loss,
    /// The last epoch, whatever dev says.
    Last,
}

/// What a run works on.
#[derive(Debug)]
pub struct FitInput<'a> {
    /// Folder of pretrained weights, or a student folder to go on from.
    pub weights: &'a Path,
    /// Training documents.
    pub train: &'a [Document],
    /// Documents that choose the epoch.
    pub dev: &'a [Document],
    /// Labels in the order of the logits: codes and names.
    pub labels: &'a [LabelName],
    /// What is known of where data and weights come from.
    pub provenance: Provenance,
    /// Name for the card.
    pub name: String,
}

/// Code and name of a label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelName {
    /// Short code, as the data writes it.
    pub code: String,
    /// Name in words.
    pub name: String,
}

/// Where a run writes, and how it shows itself.
#[derive(Clone, Debug)]
pub struct FitOutput {
    /// Folder of the run: `best/` (a student folder), `dev-predictions.jsonl`, `metrics.jsonl`, checkpoints.
    pub folder: PathBuf,
    /// Steps between checkpoints.
    pub checkpoint_every: usize,
    /// Stop after so many steps of this process, leaving a checkpoint, as a kill would.
    pub stop_after: Option<usize>,
    /// Draw a progress bar on standard error.
    pub progress_bar: bool,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FitReport {
    /// Folder of the best student.
    pub student: PathBuf,
    /// False when `stop_after` ended it early.
    pub finished: bool,
    /// Steps taken in all.
    pub steps: usize,
    /// Steps taken by this process.
    pub steps_taken: usize,
    /// Epochs done in all.
    pub epochs: usize,
    /// Best selection score on dev.
    pub best_score: Option<f64>,
    /// Documents of the training data that were cut at `max_tokens`.
    pub cut_documents: usize,
}

/// The loss is no longer a finite number.
#[derive(Clone, Debug, PartialEq)]
pub struct Diverged {
    /// What it is.
    pub loss: f64,
    /// The step that it happened in, counted from 1.
    pub step: usize,
    /// The last checkpoint before it, if there is one.
    pub kept: Option<PathBuf>,
}

impl fmt::Display for Diverged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the loss is {} at step {}; last good checkpoint: ", self.loss, self.step)?;
        match &self.kept {
            Some(path) => write!(f, "{}", path.display())?,
            None => f.write_str("there is none yet")?,
        }
        f.write_str("; try a lower --learning-rate in another folder")
    }
}

impl std::error::Error for Diverged {}

/// Fine-tunes, or goes on with a run that was killed.
///
/// The loss is binary cross-entropy with logits on documents plus `sentence_weight` times the same on sentences, where
/// the corpus has sentence labels. The same options, data, weights and number of threads give the same bits, killed
/// and resumed or not.
///
/// # Errors
/// When the input does not fit together, a file cannot be written, or training has [`Diverged`].
pub fn fit(input: &FitInput<'_>, options: &FitOptions, output: &FitOutput, device: Device) -> Result<FitReport> {
    train(input, options, None, output, device)
}

/// As [`fit`], with what a teacher says beside the labels, or in their place.
pub(crate) fn train(
    input: &FitInput<'_>,
    options: &FitOptions,
    teaching: Option<&Teaching<'_>>,
    output: &FitOutput,
    device: Device,
) -> Result<FitReport> {
    let config = EncoderConfig::read(input.weights)?;
    check(input, options, &config)?;
    fs::create_dir_all(&output.folder).with_context(|| format!("cannot create {}", output.folder.display()))?;

    let vocabulary_path = input.weights.join("vocab.txt");
    let vocabulary =
        fs::read(&vocabulary_path).with_context(|| format!("cannot read {}", vocabulary_path.display()))?;
    let tokenizer = tokenizer_card(input.weights, config.architecture);
    let codes: Vec<String> = input.labels.iter().map(|label| label.code.clone()).collect();
    let mut encoder = Encoder::new(
        &vocabulary,
        &tokenizer,
        codes.clone(),
        options.max_tokens,
        options.max_sentences,
        options.boundaries,
    )?;
    ensure!(
        encoder.vocabulary_len() as i64 <= config.vocab_size,
        "vocab.txt has {} tokens, the weights have rows for {}",
        encoder.vocabulary_len(),
        config.vocab_size
    );
    let mut train = encoder.encode_all(input.train).context("in the training data")?;
    let dev = encoder.encode_all(input.dev).context("in the dev data")?;
    let cut_documents = train.iter().filter(|example| example.dropped_tokens > 0).count();
    let rates = base_rates(&train, codes.len());
    if let Some(teaching) = teaching {
        train.extend(teaching.transfer.iter().map(|document| encoder.encode_text(document)));
        teaching.attach(&mut train, codes.len())?;
    }
    let soft: Option<SoftTargets> = teaching.map(|teaching| teaching.soft);
    let states = teaching.and_then(|teaching| teaching.states);
    if let Some((states, _)) = states {
        states.check(&train, &vocabulary)?;
    }
    for (code, rate) in codes.iter().zip(&rates) {
        if *rate == 0.0 {
            eprintln!("warning: label {code} never occurs in the training data; it is kept and will not be predicted");
        }
    }

    let model = Classifier::from_pretrained(input.weights, options.head, &rates, device)?;
    let terms =
        states.map(|(states, terms)| StateTerms::new(states, terms, &model, options.seed, device)).transpose()?;
    let frozen = Frozen::new(&model, options, &train, device, output.progress_bar);
    let mut parameters = model.parameters();
    parameters.retain(|parameter| options.freeze == 0 || parameter.depth > options.freeze);
    parameters.extend(terms.iter().map(|terms| terms.parameter(config.layers as usize + 1)));
    let mut optimizer = AdamW::new(
        parameters,
        Rates {
            encoder: options.learning_rate,
            head: options.learning_rate * options.head_factor,
            layer_decay: options.layer_decay,
            weight_decay: options.weight_decay,
        },
    );

    let checkpoints = Checkpoints::new(&output.folder);
    let mut progress = Progress {
        step: 0,
        epoch: 0,
        batches_done: 0,
        epoch_loss: 0.0,
        best_score: None,
        epochs_without_gain: 0,
        fingerprint: fingerprint(input, options, teaching)?,
    };
    if let Some((tensors, saved)) = checkpoints.load()? {
        ensure!(
            saved.fingerprint == progress.fingerprint,
            "{} holds a run with other options or data: choose another folder or remove it",
            output.folder.display()
        );
        optimizer.restore(tensors, saved.step as i64)?;
        progress = saved;
        eprintln!("going on at step {}, epoch {}", progress.step, progress.epoch + 1);
    }

    let best_folder = output.folder.join("best");
    let steps_per_epoch = train.len().div_ceil(options.batch_size);
    let total_steps = steps_per_epoch * options.epochs;
    let warm_up = (total_steps as f64 * options.warm_up) as usize;
    let bar = progress_bar(output.progress_bar, total_steps);
    bar.set_position(progress.step as u64);
    let mut log = MetricsLog::open(&output.folder.join("metrics.jsonl"), progress.step)?;
    let mut steps_here = 0;
    let report = |progress: &Progress, steps_taken, finished| FitReport {
        student: best_folder.clone(),
        finished,
        steps: progress.step,
        steps_taken,
        epochs: progress.epoch,
        best_score: progress.best_score,
        cut_documents,
    };

    while progress.epoch < options.epochs && progress.epochs_without_gain < options.patience.max(1) {
        let order = epoch_order(&train, options.batch_size, options.seed, progress.epoch);
        for indices in &order[progress.batches_done..] {
            let started = Instant::now();
            let chosen: Vec<&Example> = indices.iter().map(|&index| &train[index]).collect();
            let batch = Batch::new(&chosen, config.architecture.pad_id(), device);
            // Dropout must not depend on what ran before in this process, or a resumed run would differ.
            tch::manual_seed((options.seed.wrapping_mul(1_000_003).wrapping_add(progress.step as u64) >> 1) as i64);
            let pass = Pass {
                precision: options.precision,
                hidden_dropout: options.dropout,
                attention_dropout: options.attention_dropout,
            };
            let levels = match &frozen {
                None => model.encoder().states(&batch.ids, &batch.mask, pass),
                Some(frozen) => {
                    let states = frozen.batch(indices, batch.ids.size()[1], device);
                    model.encoder().states_above(options.freeze, states, &batch.mask, pass)
                }
            };
            let logits = model.classify(&levels[levels.len() - 1], &batch, pass);
            let mut loss = loss(&logits, &batch, options.sentence_weight, soft.as_ref());
            if let Some(terms) = &terms {
                loss += terms.loss(&model, &levels, &batch, &chosen, pass)?;
            }
            let loss_value = loss.double_value(&[]);
            if !loss_value.is_finite() {
                return Err(Diverged { loss: loss_value, step: progress.step + 1, kept: checkpoints.latest() }.into());
            }
            optimizer.zero_grad();
            loss.backward();
            let norm = optimizer.clip(options.clip);
            let factor = linear_schedule(progress.step, warm_up, total_steps);
            optimizer.step(factor);

            progress.step += 1;
            progress.batches_done += 1;
            progress.epoch_loss += loss_value;
            steps_here += 1;
            bar.inc(1);
            bar.set_message(format!("loss {:.4}", progress.epoch_loss / progress.batches_done as f64));
            log.write(
                &json!({"event": "step", "step": progress.step, "epoch": progress.epoch + 1, "loss": loss_value,
                "gradient_norm": norm, "learning_rate": options.learning_rate * factor,
                "tokens": batch.ids.size()[1], "seconds": started.elapsed().as_secs_f64()}),
            )?;
            let stop = output.stop_after == Some(steps_here);
            if stop || progress.step.is_multiple_of(output.checkpoint_every.max(1)) {
                checkpoints.save(&optimizer.state(), &progress)?;
            }
            if stop {
                bar.abandon();
                return Ok(report(&progress, steps_here, false));
            }
        }

        bar.set_message("scoring dev");
        let predictions = Predictions::of(&model, &dev, options.batch_size, options.precision, device, |_| ());
        let scores = DevScores::of(&predictions, &codes)?;
        let score = match options.select {
            Selection::MicroAuprc => scores.micro_auprc,
            Selection::MicroF1 => scores.micro_f1,
            Selection::Loss => -scores.loss,
            Selection::Last => progress.epoch as f64,
        };
        let better = progress.best_score.is_none_or(|best| score > best);
        log.write(&json!({"event": "epoch", "step": progress.step, "epoch": progress.epoch + 1,
            "train_loss": progress.epoch_loss / progress.batches_done as f64, "dev": scores, "best": better}))?;
        let line = format!(
            "epoch {:>2}  train loss {:.4}  dev loss {:.4}  micro-AUPRC {:.4}  micro-F1 {:.4} at {:.2}{}",
            progress.epoch + 1,
            progress.epoch_loss / progress.batches_done as f64,
            scores.loss,
            scores.micro_auprc,
            scores.micro_f1,
            scores.threshold,
            if better { "  best" } else { "" }
        );
        // Without a terminal there is no bar, and the line belongs in the log.
        bar.suspend(|| eprintln!("{line}"));
        if better {
            let card = card(input, options, &tokenizer, &scores, progress.epoch + 1);
            model.write(&best_folder, &vocabulary, &card)?;
            predictions.write(&output.folder.join("dev-predictions.jsonl"), &codes)?;
            progress.best_score = Some(score);
            progress.epochs_without_gain = 0;
        } else {
            progress.epochs_without_gain += 1;
        }
        progress.epoch += 1;
        progress.batches_done = 0;
        progress.epoch_loss = 0.0;
        checkpoints.save(&optimizer.state(), &progress)?;
    }
    bar.finish_and_clear();
    Ok(report(&progress, steps_here, true))
}

/// Options of the tokeniser that a weights folder implies.
pub fn tokenizer_card(weights: &Path, architecture: Architecture) -> TokenizerCard {
    // A student folder, as a run writes it, knows better than a default.
    if let Ok(card) = read_card(weights) {
        return card.tokenizer;
    }
    let lowercase = fs::read(weights.join("tokenizer_config.json"))
        .ok()
        .and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok())
        .and_then(|config| config.get("do_lower_case")?.as_bool())
        .unwrap_or(true);
    let (cls, sep) = match architecture {
        Architecture::Bert | Architecture::DistilBert => ("[CLS]", "[SEP]"),
        Architecture::MpNet => ("<s>", "</s>"),
    };
    TokenizerCard { lowercase, cls: cls.into(), sep: sep.into(), unk: "[UNK]".into() }
}

/// What dev says of a student's logits.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct DevScores {
    /// Mean binary cross-entropy over documents and labels.
    pub loss: f64,
    /// Area under the micro precision-recall curve.
    pub micro_auprc: f64,
    /// At the threshold that is best on these same documents: an optimistic figure, good only to compare students.
    pub micro_f1: f64,
    /// That threshold, between 0 and 1.
    pub threshold: f32,
}

impl DevScores {
    /// Scores of predictions over labelled documents.
    ///
    /// # Errors
    /// When there are none, or their shapes do not fit.
    pub fn of(predictions: &Predictions, codes: &[String]) -> Result<Self> {
        let labels = codes.len();
        let threshold = choose(&predictions.truth, &predictions.probabilities(), labels, Policy::Global)?[0];
        let codes: Vec<&str> = codes.iter().map(String::as_str).collect();
        let metrics = predictions.metrics(&codes, &vec![threshold; labels])?;
        Ok(Self {
            loss: predictions.loss(),
            micro_auprc: metrics.micro_auprc.unwrap_or(0.0),
            micro_f1: metrics.micro_f1,
            threshold,
        })
    }
}

fn card(
    input: &FitInput<'_>,
    options: &FitOptions,
    tokenizer: &TokenizerCard,
    scores: &DevScores,
    epoch: usize,
) -> StudentCard {
    let mut provenance = input.provenance.clone();
    provenance.seed = options.seed;
    provenance.metrics =
        [("best_epoch", epoch as f64), ("fit_dev_loss", scores.loss), ("fit_dev_micro_auprc", scores.micro_auprc)]
            .map(|(name, value)| Metric { name: name.into(), value })
            .into();
    StudentCard {
        version: 1,
        name: input.name.clone(),
        head: options.head,
        labels: input
            .labels
            .iter()
            .map(|label| StudentLabel {
                code: label.code.clone(),
                name: label.name.clone(),
                threshold: scores.threshold,
            })
            .collect(),
        max_tokens: options.max_tokens as u32,
        max_sentences: options.max_sentences as u32,
        tokenizer: tokenizer.clone(),
        provenance,
    }
}

/// What can be checked before the first step.
pub(crate) fn check(input: &FitInput<'_>, options: &FitOptions, config: &EncoderConfig) -> Result<()> {
    ensure!(!input.labels.is_empty(), "there are no labels");
    ensure!(!input.train.is_empty(), "the training data is empty");
    ensure!(!input.dev.is_empty(), "the dev data is empty");
    ensure!(options.batch_size > 0 && options.epochs > 0, "--batch-size and --epochs must be at least 1");
    ensure!(
        (3..=config.longest_input()).contains(&(options.max_tokens as i64)),
        "--max-tokens {} is out of range: these weights take 3 to {}",
        options.max_tokens,
        config.longest_input()
    );
    ensure!(
        options.freeze < config.layers as usize,
        "--freeze {} leaves nothing to train: the encoder has {} layers",
        options.freeze,
        config.layers
    );
    ensure!((1..=4096).contains(&options.max_sentences), "--max-sentences must be 1 to 4096");
    for (name, value) in
        [("dropout", options.dropout), ("attention-dropout", options.attention_dropout), ("warm-up", options.warm_up)]
    {
        ensure!((0.0..1.0).contains(&value), "--{name} must be at least 0 and below 1");
    }
    ensure!(options.learning_rate > 0.0 && options.learning_rate.is_finite(), "--learning-rate must be positive");
    Ok(())
}

/// Digest of what a resumed run must have in common with the one that was killed.
fn fingerprint(input: &FitInput<'_>, options: &FitOptions, teaching: Option<&Teaching<'_>>) -> Result<String> {
    let mut digest = Sha256::new();
    digest.update(serde_json::to_vec(options)?);
    digest.update(serde_json::to_vec(input.labels)?);
    let transfer = teaching.map(|teaching| teaching.transfer);
    for documents in [input.train, input.dev].into_iter().chain(transfer) {
        digest.update((documents.len() as u64).to_le_bytes());
        for document in documents {
            digest.update(document.id.as_bytes());
            digest.update((document.text.len() as u64).to_le_bytes());
            digest.update(document.text.as_bytes());
            digest.update(serde_json::to_vec(&document.labels)?);
            for sentence in &document.sentences {
                digest.update(serde_json::to_vec(&(sentence.start, sentence.end, &sentence.labels))?);
            }
        }
    }
    if let Some(teaching) = teaching {
        digest.update(serde_json::to_vec(&(teaching.soft, teaching.states.map(|(_, terms)| terms)))?);
        teaching.predictions.logits.iter().for_each(|logit| digest.update(logit.to_le_bytes()));
    }
    Ok(crate::hex::hex(&digest.finalize()))
}

fn progress_bar(show: bool, steps: usize) -> ProgressBar {
    if !show {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(steps as u64);
    if let Ok(style) =
        ProgressStyle::with_template("{bar:30} step {pos}/{len}  {elapsed_precise} (ETA {eta_precise})  {msg}")
    {
        bar.set_style(style);
    }
    bar
}

/// The run's figures, one JSON object a line.
struct MetricsLog(File);

impl MetricsLog {
    /// Opens the log and drops the lines of steps that the checkpoint does not know: they will be taken again.
    fn open(path: &Path, step: usize) -> Result<Self> {
        let known: String = fs::read_to_string(path)
            .unwrap_or_default()
            .lines()
            .filter(|line| {
                serde_json::from_str::<serde_json::Value>(line)
                    .ok()
                    .and_then(|line| line.get("step")?.as_u64())
                    .is_some_and(|at| at as usize <= step)
            })
            .flat_map(|line| [line, "\n"])
            .collect();
        fs::write(path, known).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self(OpenOptions::new().append(true).open(path)?))
    }

    fn write(&mut self, line: &serde_json::Value) -> Result<()> {
        self.0.write_all(format!("{line}\n").as_bytes()).context("cannot write metrics.jsonl")
    }
}

fn parse_head(text: &str) -> Result<Head, String> {
    serde_json::from_value(text.into()).map_err(|_| "the head is sentence-evidence or mean".to_owned())
}
