use crate::Abstention;

/// Most sentences that a label's evidence names.
pub const MAX_EVIDENCE: usize = 8;

/// Most labels of a model.
pub const MAX_LABELS: usize = 64;

/// In the abstention of kdh_report: the text has fewer tokens than the bundle asks for.
pub const ABSTENTION_TOO_SHORT: u32 = 2;

/// In the abstention of kdh_report: the vocabulary cannot spell a larger share of the text than the bundle allows.
pub const ABSTENTION_UNKNOWN_TOKENS: u32 = 4;

/// In the abstention of kdh_report: the text is not of the kind that the model was made for.
pub const ABSTENTION_OUT_OF_DISTRIBUTION: u32 = 8;

/// What a model says of one text; kdh_label_report says it of each label.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Report {
    /// Number of labels.
    pub labels: u32,
    /// Tokens of the whole text, without the special ones.
    pub text_tokens: u32,
    /// Tokens of the text that the model has seen: all of them unless the text was truncated, otherwise the first ones.
    pub kept_tokens: u32,
    /// Tokens of the whole text that stand for words that the vocabulary cannot spell.
    pub unknown_tokens: u32,
    /// Sentences that the model has seen; a part of one that was split counts as one.
    pub sentences: u32,
    /// Sum of some KDH_ABSTENTION_*: why the model abstains, which gives no label; 0 when it does not. An unknown bit is
    /// a reason, too.
    pub abstention: u32,
    /// Runs of the model: more than 1 when the text went through it in windows.
    pub windows: u32,
    /// Places where a sentence that is longer than a window was split. Nothing is lost there, but the model saw the parts
    /// apart from each other.
    pub splits: u32,
}

/// What a model says of one text about one label.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LabelReport {
    /// Document logit.
    pub logit: f32,
    /// The logistic function of `logit`.
    pub probability: f32,
    /// The label is given when `probability` is at least this.
    pub threshold: f32,
    /// 1 when the label is given, otherwise 0.
    pub given: u32,
    /// Number of `evidence`: sentences that carry the label, the strongest first; 0 unless the label is given.
    pub evidence_count: u32,
    /// The first `evidence_count` are filled, the others are zeros.
    pub evidence: [Evidence; MAX_EVIDENCE],
}

/// A sentence that carries a label.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Evidence {
    /// First byte of the sentence in the text.
    pub start: u32,
    /// One past the last byte of the sentence in the text.
    pub end: u32,
    /// Sentence logit.
    pub logit: f32,
    /// The logistic function of `logit`.
    pub probability: f32,
    /// The sentence's share of all evidence for the label, from 0 to 1.
    pub share: f32,
}

const _: () = assert!(
    ABSTENTION_TOO_SHORT == Abstention::TOO_SHORT.bits()
        && ABSTENTION_UNKNOWN_TOKENS == Abstention::UNKNOWN_TOKENS.bits()
        && ABSTENTION_OUT_OF_DISTRIBUTION == Abstention::OUT_OF_DISTRIBUTION.bits()
);
const _: () = assert!(MAX_EVIDENCE == crate::MAX_EVIDENCE && MAX_LABELS == kdh_format::MAX_LABELS);

impl Report {
    pub(super) fn of(report: &crate::Report<'_>, windows: usize, splits: usize) -> Self {
        // A text of 4 GiB at most has no more tokens than fit.
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Self {
            labels: count(report.labels.len()),
            text_tokens: count(report.text_tokens),
            kept_tokens: count(report.kept_tokens),
            unknown_tokens: count(report.unknown_tokens),
            sentences: count(report.sentences),
            abstention: report.abstention.bits(),
            windows: count(windows),
            splits: count(splits),
        }
    }
}

impl LabelReport {
    pub(super) fn of(label: &crate::LabelReport<'_>) -> Self {
        let mut evidence = [Evidence::default(); MAX_EVIDENCE];
        for (to, from) in evidence.iter_mut().zip(&label.evidence) {
            let &crate::Evidence { start, end, logit, probability, share, .. } = from;
            *to = Evidence { start, end, logit, probability, share };
        }
        Self {
            logit: label.logit,
            probability: label.probability,
            threshold: label.threshold,
            given: label.positive().into(),
            evidence_count: label.evidence.len() as u32,
            evidence,
        }
    }
}
