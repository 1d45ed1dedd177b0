//! One student from several: the mean of their weights.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use kdh_format::student::StudentCard;
use tch::Device;

use crate::model::Classifier;

/// A student made from others.
#[derive(Debug)]
pub struct Average {
    /// The mean weights.
    pub model: Classifier,
    /// `vocab.txt`, which all members share.
    pub vocabulary: Vec<u8>,
    /// Card of the first member, without its metrics: they were measured on other weights.
    pub card: StudentCard,
}

/// The mean of the members' weights, each with the same share ("uniform soup", Wortsman et al. 2022, arXiv 2203.05482).
///
/// It costs the box nothing and is worth about what the members' ensemble is worth, as long as they lie in one basin of
/// the loss: members that started from the same student, such as the first stage of one distillation, and went on with
/// other seeds or options. Members that have nothing in common but their pretrained weights seldom do.
///
/// # Errors
/// When there are fewer than two members, one cannot be read, or they differ in shape, head, labels or tokeniser.
pub fn average(members: &[&Path], device: Device) -> Result<Average> {
    ensure!(members.len() > 1, "a mean of weights needs at least two students");
    let (model, mut card) = Classifier::read(members[0], device)?;
    let vocabulary = vocabulary(members[0])?;
    let mean = model.parameters();
    for folder in &members[1..] {
        let (other, theirs) = Classifier::read(folder, device)?;
        let differs = |what: &str| format!("{}: other {what} than {}", folder.display(), members[0].display());
        let codes = |card: &StudentCard| card.labels.iter().map(|label| label.code.clone()).collect::<Vec<_>>();
        ensure!(codes(&theirs) == codes(&card), "{}", differs("labels"));
        ensure!(theirs.head == card.head, "{}", differs("head"));
        ensure!(
            theirs.tokenizer == card.tokenizer && self::vocabulary(folder)? == vocabulary,
            "{}",
            differs("tokeniser")
        );
        let parameters = other.parameters();
        ensure!(
            parameters.len() == mean.len()
                && parameters
                    .iter()
                    .zip(&mean)
                    .all(|(one, two)| { one.name == two.name && one.tensor.size() == two.tensor.size() }),
            "{}",
            differs("shape")
        );
        for (sum, parameter) in mean.iter().zip(&parameters) {
            let total = tch::no_grad(|| &sum.tensor + &parameter.tensor);
            tch::no_grad(|| sum.tensor.shallow_clone().copy_(&total));
        }
        card.max_tokens = card.max_tokens.min(theirs.max_tokens);
        card.max_sentences = card.max_sentences.min(theirs.max_sentences);
    }
    for sum in &mean {
        let share = tch::no_grad(|| &sum.tensor / members.len() as f64);
        tch::no_grad(|| sum.tensor.shallow_clone().copy_(&share));
    }
    card.provenance.metrics.clear();
    Ok(Average { model, vocabulary, card })
}

fn vocabulary(folder: &Path) -> Result<Vec<u8>> {
    fs::read(folder.join("vocab.txt")).with_context(|| format!("cannot read vocab.txt of {}", folder.display()))
}
