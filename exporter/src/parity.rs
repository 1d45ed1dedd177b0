//! The parity gate: what int8 changes on a labelled file, and whether that is little enough to pack.

use std::fmt;

use kdh_runtime::dataset::{self, DatasetError, Document};
use kdh_runtime::metrics::{MetricsError, micro_f1};
use kdh_runtime::text::VocabularyError;
use serde::Serialize;

use crate::encode::{TextEncoder, ratio};
use crate::session::{Session, SessionError};
use crate::student::Student;

/// The f32 and the int8 graph on the same labelled documents.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Parity {
    /// Documents measured.
    pub documents: usize,
    /// Decisions: documents times labels.
    pub decisions: usize,
    /// Decisions that differ between the two graphs at the card's thresholds.
    pub flips: usize,
    /// `flips / decisions`.
    pub flip_rate: f64,
    /// Largest difference of a document logit.
    pub max_logit_difference: f64,
    /// Mean difference of the document logits, as absolute values.
    pub mean_logit_difference: f64,
    /// Micro-F1 of the f32 graph.
    pub f32_micro_f1: f64,
    /// Micro-F1 of the int8 graph.
    pub int8_micro_f1: f64,
    /// `f32_micro_f1 - int8_micro_f1`; negative when int8 scores higher.
    pub micro_f1_loss: f64,
    /// Size of the f32 graph.
    pub f32_bytes: usize,
    /// Size of the int8 graph.
    pub int8_bytes: usize,
}

/// How much int8 may change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// Largest `micro_f1_loss`.
    pub micro_f1_loss: f64,
    /// Largest `flip_rate`.
    pub flip_rate: f64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { micro_f1_loss: 0.003, flip_rate: 0.01 }
    }
}

impl Parity {
    /// Runs both graphs of `student` on `documents`; `done` is called after each document.
    ///
    /// # Errors
    /// When there is no document, a document has a label that the student does not have, or a graph cannot run.
    pub fn measure(
        student: &Student,
        f32_graph: &[u8],
        int8_graph: &[u8],
        documents: &[Document],
        mut done: impl FnMut(),
    ) -> Result<Self, ParityError> {
        let codes: Vec<&str> = student.card.labels.iter().map(|label| label.code.as_str()).collect();
        let thresholds: Vec<f32> = student.card.labels.iter().map(|label| label.threshold).collect();
        let truth = dataset::truth(documents, &codes).map_err(ParityError::Data)?;
        let mut encoder = TextEncoder::new(student).map_err(ParityError::Vocabulary)?;
        let sessions = [Session::new(f32_graph), Session::new(int8_graph)];
        let [f32_session, int8_session] = sessions;
        let (f32_session, int8_session) =
            (f32_session.map_err(ParityError::Session)?, int8_session.map_err(ParityError::Session)?);

        let (mut f32_logits, mut int8_logits) = (Vec::new(), Vec::new());
        for document in documents {
            let (ids, sentence_ids) = encoder.encode(&document.text);
            let logits = |session: &Session| session.run(ids, sentence_ids).map_err(ParityError::Session);
            f32_logits.extend(logits(&f32_session)?.document);
            int8_logits.extend(logits(&int8_session)?.document);
            done();
        }
        let probabilities = |logits: &[f32]| -> Vec<f32> { logits.iter().copied().map(sigmoid).collect() };
        let (f32_probabilities, int8_probabilities) = (probabilities(&f32_logits), probabilities(&int8_logits));
        let f32_micro_f1 = micro_f1(&truth, &f32_probabilities, &thresholds).map_err(ParityError::Metrics)?;
        let int8_micro_f1 = micro_f1(&truth, &int8_probabilities, &thresholds).map_err(ParityError::Metrics)?;

        let differences = || f32_logits.iter().zip(&int8_logits).map(|(a, b)| f64::from((a - b).abs()));
        let decisions = truth.len();
        let flips = f32_probabilities
            .iter()
            .zip(&int8_probabilities)
            .zip(thresholds.iter().cycle())
            .filter(|&((a, b), threshold)| (a >= threshold) != (b >= threshold))
            .count();
        Ok(Self {
            documents: documents.len(),
            decisions,
            flips,
            flip_rate: ratio(flips, decisions),
            max_logit_difference: differences().fold(0.0, f64::max),
            mean_logit_difference: differences().sum::<f64>() / decisions as f64,
            f32_micro_f1,
            int8_micro_f1,
            micro_f1_loss: f32_micro_f1 - int8_micro_f1,
            f32_bytes: f32_graph.len(),
            int8_bytes: int8_graph.len(),
        })
    }

    /// Whether int8 changes no more than `bounds`.
    ///
    /// # Errors
    /// [`Refused`] with everything that is out of bounds.
    pub fn check(&self, bounds: &Bounds) -> Result<(), Refused> {
        let mut reasons = Vec::new();
        // A NaN is not within any bound.
        let within = |value: f64, bound: f64| value <= bound;
        if !within(self.micro_f1_loss, bounds.micro_f1_loss) {
            reasons.push(format!(
                "int8 loses {:.4} micro-F1, more than the bound {}",
                self.micro_f1_loss, bounds.micro_f1_loss
            ));
        }
        if !within(self.flip_rate, bounds.flip_rate) {
            reasons.push(format!(
                "int8 flips {:.2} % of the decisions, more than the bound {} %",
                100.0 * self.flip_rate,
                100.0 * bounds.flip_rate
            ));
        }
        if !self.mean_logit_difference.is_finite() {
            reasons.push("a logit is not a finite number".into());
        }
        if reasons.is_empty() { Ok(()) } else { Err(Refused(reasons)) }
    }
}

impl fmt::Display for Parity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "documents             {}", self.documents)?;
        writeln!(f, "flipped decisions     {} of {} ({:.2} %)", self.flips, self.decisions, 100.0 * self.flip_rate)?;
        writeln!(
            f,
            "logit difference      {:.4} largest, {:.4} mean",
            self.max_logit_difference, self.mean_logit_difference
        )?;
        writeln!(f, "micro-F1 f32          {:.4}", self.f32_micro_f1)?;
        writeln!(f, "micro-F1 int8         {:.4} (loss {:.4})", self.int8_micro_f1, self.micro_f1_loss)?;
        write!(f, "graph f32, int8       {} bytes, {} bytes", self.f32_bytes, self.int8_bytes)
    }
}

/// Why parity could not be measured.
#[derive(Debug)]
#[non_exhaustive]
pub enum ParityError {
    /// A document has a label that the student does not have.
    Data(DatasetError),
    /// The runtime refuses the vocabulary.
    Vocabulary(VocabularyError),
    /// tract refuses a graph or an input.
    Session(SessionError),
    /// The scores cannot be computed: no documents, or a logit that is not a number.
    Metrics(MetricsError),
}

impl fmt::Display for ParityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data(error) => error.fmt(f),
            Self::Vocabulary(error) => write!(f, "vocab.txt: {error}"),
            Self::Session(error) => error.fmt(f),
            Self::Metrics(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ParityError {}

/// int8 changes more than the bounds allow; says what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(Vec<String>);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for Refused {}

fn sigmoid(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parity(micro_f1_loss: f64, flip_rate: f64) -> Parity {
        Parity {
            documents: 100,
            decisions: 1000,
            flips: (1000.0 * flip_rate) as usize,
            flip_rate,
            max_logit_difference: 0.1,
            mean_logit_difference: 0.01,
            f32_micro_f1: 0.8,
            int8_micro_f1: 0.8 - micro_f1_loss,
            micro_f1_loss,
            f32_bytes: 4,
            int8_bytes: 1,
        }
    }

    #[test]
    fn within_the_bounds() {
        for (loss, flips) in [(0.0, 0.0), (0.003, 0.01), (-0.5, 0.0)] {
            assert_eq!(parity(loss, flips).check(&Bounds::default()), Ok(()), "{loss} {flips}");
        }
    }

    #[test]
    fn refuses_beyond_either_bound() {
        let refused = parity(0.0031, 0.011).check(&Bounds::default()).unwrap_err().to_string();
        assert_eq!(
            refused,
            "int8 loses 0.0031 micro-F1, more than the bound 0.003; int8 flips 1.10 % of the decisions, more than the \
             bound 1 %"
        );
        assert!(parity(0.0031, 0.0).check(&Bounds::default()).is_err());
        assert!(parity(0.0, 0.011).check(&Bounds::default()).is_err());
        assert!(parity(f64::NAN, 0.0).check(&Bounds::default()).is_err());
        let diverged = Parity { mean_logit_difference: f64::NAN, ..parity(0.0, 0.0) };
        assert!(diverged.check(&Bounds::default()).is_err());
    }
}
