use kdh_format::Calibration;

use super::FitError;
use crate::dataset::Document;
use crate::decision::calibrated;
use crate::labeler::{Labeler, Overflow};
use crate::text::Sentences;

/// What a model says of texts, as the box computes it.
pub(super) struct Measured {
    pub(super) labels: usize,
    /// `[documents, labels]`.
    pub(super) logits: Vec<f32>,
    /// `[documents, hidden]`; empty when the engine does not keep the pooled vector.
    pub(super) pooled: Vec<f32>,
    pub(super) hidden: usize,
}

impl Measured {
    /// Runs the model on the texts, too long ones truncated.
    pub(super) fn new(labeler: &Labeler, documents: &[Document], mut done: impl FnMut()) -> Result<Self, FitError> {
        let mut scratch = labeler.scratch();
        let hidden = labeler.engine().pooled_width().unwrap_or_default();
        let mut measured = Self { labels: labeler.codes().len(), logits: Vec::new(), pooled: Vec::new(), hidden };
        for (index, document) in documents.iter().enumerate() {
            let failed = |error| FitError::Label { line: index + 1, error };
            let text = document.text.as_str();
            labeler.encode(&mut scratch, text, Sentences::new(text), Overflow::Truncate).map_err(failed)?;
            labeler.run(&mut scratch).map_err(failed)?;
            measured.logits.extend(scratch.engine.logits().document);
            measured.pooled.extend(scratch.engine.pooled(scratch.encoding.sentences().len()).unwrap_or_default());
            done();
        }
        Ok(measured)
    }

    pub(super) fn documents(&self) -> usize {
        self.logits.len() / self.labels
    }

    pub(super) fn pooled(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.pooled.chunks_exact(self.hidden.max(1))
    }

    pub(super) fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.logits.chunks_exact(self.labels)
    }
}

/// Logits with the truth.
pub(super) struct Sample {
    pub(super) labels: usize,
    /// `[documents, labels]`.
    pub(super) logits: Vec<f32>,
    /// `[documents, labels]`.
    pub(super) truth: Vec<bool>,
}

impl Sample {
    pub(super) fn documents(&self) -> usize {
        self.truth.len() / self.labels
    }

    /// The part with these documents.
    pub(super) fn part(&self, rows: &[usize]) -> Self {
        let of = |row: &usize| row * self.labels..(row + 1) * self.labels;
        Self {
            labels: self.labels,
            logits: rows.iter().flat_map(|row| self.logits[of(row)].iter().copied()).collect(),
            truth: rows.iter().flat_map(|row| self.truth[of(row)].iter().copied()).collect(),
        }
    }

    /// (logit, truth) of one label.
    pub(super) fn column(&self, label: usize) -> impl Iterator<Item = (f64, bool)> {
        let all = self.logits.iter().map(|&logit| f64::from(logit)).zip(self.truth.iter().copied());
        all.skip(label).step_by(self.labels)
    }

    /// (logit, truth) of all labels.
    pub(super) fn all(&self) -> impl Iterator<Item = (f64, bool)> {
        self.logits.iter().map(|&logit| f64::from(logit)).zip(self.truth.iter().copied())
    }

    pub(super) fn positives(&self, label: usize) -> usize {
        self.truth.iter().skip(label).step_by(self.labels).filter(|truth| **truth).count()
    }

    /// Documents that have a label.
    pub(super) fn labelled(&self) -> usize {
        self.truth.chunks_exact(self.labels).filter(|row| row.iter().any(|&truth| truth)).count()
    }

    /// `[documents, labels]`.
    pub(super) fn probabilities(&self, calibration: &[Calibration]) -> Vec<f32> {
        let of = calibration.iter().cycle();
        self.logits.iter().zip(of).map(|(&logit, calibration)| calibrated(calibration, logit)).collect()
    }
}
