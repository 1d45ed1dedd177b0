//! What a student is trained for: the labels of a corpus, a teacher's answers, or a mix of both.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::data::{Batch, TeacherBatch};
use crate::loss::{bernoulli_kd, binary_cross_entropy, softmax_kd};
use crate::model::Logits;

/// The teacher's share of the loss, and its form.
///
/// The loss is `alpha · soft + (1 - alpha) · hard` (arXiv 2505.07162; Hinton et al. 2015). Each of the two is the term
/// of documents plus the sentence weight times the same term of sentences.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SoftTargets {
    /// What is compared.
    pub kind: SoftLoss,
    /// Divides both sides' logits before they become probabilities; the loss is multiplied by its square.
    pub temperature: f64,
    /// Weight of the soft loss, 0 to 1; the hard loss has the rest.
    pub alpha: f64,
}

/// How a student's answers are compared with a teacher's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SoftLoss {
    /// A Bernoulli for each label: labels do not exclude each other.
    BernoulliKd,
    /// One softmax over the labels, as the paper prints it: labels are treated as exclusive.
    SoftmaxKd,
}

impl SoftLoss {
    fn of(self, student: &Tensor, teacher: &Tensor, temperature: f64, weights: &Tensor) -> Tensor {
        match self {
            Self::BernoulliKd => bernoulli_kd(student, teacher, temperature, Some(weights)),
            Self::SoftmaxKd => softmax_kd(student, teacher, temperature, Some(weights)),
        }
    }
}

/// The loss of a batch: a scalar.
///
/// Without `soft` it is the hard loss alone. Documents and sentences whose labels are unknown have no part in the hard
/// loss, those that the teacher did not see none in the soft one.
pub fn loss(logits: &Logits, batch: &Batch, sentence_weight: f64, soft: Option<&SoftTargets>) -> Tensor {
    let mut terms = Vec::new();
    let alpha = soft.map_or(0.0, |soft| soft.alpha);
    if alpha < 1.0 {
        terms.push(supervised(logits, batch, sentence_weight) * (1.0 - alpha));
    }
    if let (Some(soft), Some(teacher)) = (soft, &batch.teacher)
        && alpha > 0.0
    {
        terms.push(imitation(logits, teacher, sentence_weight, soft) * alpha);
    }
    terms
        .into_iter()
        .reduce(|sum, term| sum + term)
        .unwrap_or_else(|| logits.documents.sum(logits.documents.kind()) * 0.0)
}

/// Binary cross-entropy of documents, plus `sentence_weight` times that of sentences.
fn supervised(logits: &Logits, batch: &Batch, sentence_weight: f64) -> Tensor {
    let documents = binary_cross_entropy(&logits.documents, &batch.labels, Some(&batch.label_weights));
    if sentence_weight == 0.0 {
        return documents;
    }
    let weights = batch.sentence_weights.unsqueeze(-1);
    let sentences = present(&logits.sentences, &weights);
    documents + binary_cross_entropy(&sentences, &batch.sentence_labels, Some(&weights)) * sentence_weight
}

/// The same with a teacher's logits in place of labels.
fn imitation(logits: &Logits, teacher: &TeacherBatch, sentence_weight: f64, soft: &SoftTargets) -> Tensor {
    let documents = soft.kind.of(&logits.documents, &teacher.documents, soft.temperature, &teacher.document_weights);
    if sentence_weight == 0.0 {
        return documents;
    }
    let sentences = present(&logits.sentences, &teacher.sentence_weights);
    documents
        + soft.kind.of(&sentences, &teacher.sentences, soft.temperature, &teacher.sentence_weights) * sentence_weight
}

/// Absent sentences have a huge negative logit: replaced before a loss, so that no infinity meets a zero.
fn present(sentences: &Tensor, weights: &Tensor) -> Tensor {
    sentences.where_self(&weights.gt(0.0), &Tensor::zeros_like(sentences))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

    /// Two documents, two sentences, one label; the second document is a transfer document with one sentence.
    fn batch() -> Batch {
        Batch {
            ids: Tensor::zeros([2, 3], (Kind::Int64, Device::Cpu)),
            mask: Tensor::ones([2, 3], (Kind::Bool, Device::Cpu)),
            sentence_ids: Tensor::zeros([2, 3], (Kind::Int64, Device::Cpu)),
            sentences: 2,
            labels: Tensor::from_slice(&[1f32, 0.0]).view([2, 1]),
            label_weights: Tensor::from_slice(&[1f32, 0.0]).view([2, 1]),
            sentence_labels: Tensor::from_slice(&[1f32, 0.0, 0.0, 0.0]).view([2, 2, 1]),
            sentence_weights: Tensor::from_slice(&[1f32, 1.0, 0.0, 0.0]).view([2, 2]),
            teacher: Some(TeacherBatch {
                documents: Tensor::from_slice(&[2f32, -1.0]).view([2, 1]),
                document_weights: Tensor::ones([2, 1], FLOAT),
                sentences: Tensor::from_slice(&[1.5f32, -1.0, -2.0, 0.0]).view([2, 2, 1]),
                sentence_weights: Tensor::from_slice(&[1f32, 1.0, 1.0, 0.0]).view([2, 2, 1]),
            }),
        }
    }

    fn logits(documents: [f32; 2], sentences: [f32; 4]) -> Logits {
        Logits {
            documents: Tensor::from_slice(&documents).view([2, 1]),
            sentences: Tensor::from_slice(&sentences).view([2, 2, 1]),
        }
    }

    fn value(logits: &Logits, sentence_weight: f64, soft: Option<SoftTargets>) -> f64 {
        loss(logits, &batch(), sentence_weight, soft.as_ref()).double_value(&[])
    }

    fn soft(alpha: f64) -> Option<SoftTargets> {
        Some(SoftTargets { kind: SoftLoss::BernoulliKd, temperature: 2.0, alpha })
    }

    #[test]
    fn labels_that_are_unknown_do_not_count() {
        let here = logits([0.5, 0.0], [1.0, -1.0, 0.0, -1e9]);
        let elsewhere = logits([0.5, 7.0], [1.0, -1.0, 9.0, -1e9]);
        assert_eq!(value(&here, 2.0, None), value(&elsewhere, 2.0, None));
        assert_ne!(value(&here, 2.0, soft(0.5)), value(&elsewhere, 2.0, soft(0.5)));
    }

    #[test]
    fn a_perfect_imitation_costs_nothing_and_alpha_mixes() {
        let teacher = logits([2.0, -1.0], [1.5, -1.0, -2.0, -1e9]);
        assert!(value(&teacher, 2.0, soft(1.0)).abs() < 1e-6);
        let other = logits([0.3, -0.4], [0.2, -0.1, 0.6, -1e9]);
        let (hard, imitation) = (value(&other, 2.0, soft(0.0)), value(&other, 2.0, soft(1.0)));
        assert_eq!(hard, value(&other, 2.0, None));
        assert!(imitation > 0.01);
        assert!((value(&other, 2.0, soft(0.25)) - (0.75 * hard + 0.25 * imitation)).abs() < 1e-6);
    }

    #[test]
    fn everything_stays_finite_with_absent_sentences() {
        let absent = logits([0.0, 0.0], [0.0, 0.0, 0.0, -1e9]);
        let documents = absent.documents.set_requires_grad(true);
        let sentences = absent.sentences.set_requires_grad(true);
        let logits = Logits { documents: documents.shallow_clone(), sentences: sentences.shallow_clone() };
        for kind in [SoftLoss::BernoulliKd, SoftLoss::SoftmaxKd] {
            let soft = SoftTargets { kind, temperature: 1.0, alpha: 0.5 };
            loss(&logits, &batch(), 1.0, Some(&soft)).backward();
        }
        assert!(sentences.grad().sum(Kind::Double).double_value(&[]).is_finite());
        assert_eq!(sentences.grad().double_value(&[1, 1, 0]), 0.0);
    }
}
