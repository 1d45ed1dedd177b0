//! Times a labeler on this machine, one text at a time. The `kdh bench` command is built on it.

use std::time::{Duration, Instant};

use crate::labeler::{LabelError, Labeler, Overflow, Scratch};
use crate::text::Sentences;

/// Labels `text` and takes the time. A text of too many tokens is truncated, whatever the labeler's options say.
///
/// # Errors
///
/// [`LabelError`], which holds nothing of the text.
pub fn time(labeler: &Labeler, scratch: &mut Scratch<'_>, text: &str) -> Result<Timing, LabelError> {
    let start = Instant::now();
    labeler.encode(scratch, text, Sentences::new(text), Overflow::Truncate)?;
    let encoded = Instant::now();
    labeler.run(scratch)?;
    let ran = Instant::now();
    // The report is part of the work, although nobody reads it here.
    core::hint::black_box(labeler.decide(scratch));
    let end = Instant::now();
    Ok(Timing { tokenize: encoded - start, encoder: ran - encoded, total: end - start })
}

/// How long one text took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timing {
    /// Tokeniser and sentence splitter.
    pub tokenize: Duration,
    /// The model.
    pub encoder: Duration,
    /// From text to report.
    pub total: Duration,
}

/// A text of which the tokeniser makes exactly `tokens` tokens, the two special ones included: words of `texts`, over
/// and over, and zeros where no word fits. `None` for fewer than 3 tokens or more than the model takes.
pub fn text_of_tokens<'t>(labeler: &Labeler, texts: impl Iterator<Item = &'t str>, tokens: usize) -> Option<String> {
    // Every digit is a token, known or not.
    const FILLER: &str = "0";
    let mut scratch = labeler.scratch();
    let mut count = |text: &str| {
        labeler.encode(&mut scratch, text, Sentences::new(text), Overflow::Refuse).ok()?;
        Some(scratch.encoding.ids().len())
    };
    let words: Vec<&str> = texts.flat_map(str::split_whitespace).collect();
    let (mut made, mut have, mut grew) = (String::new(), 0, true);
    while grew {
        grew = false;
        for word in words.iter().copied().chain([FILLER]) {
            let before = made.len();
            if before > 0 {
                made.push(' ');
            }
            made.push_str(word);
            match count(&made) {
                Some(now) if now == tokens => return Some(made),
                Some(now) if have < now && now < tokens => (have, grew) = (now, true),
                _ => made.truncate(before),
            }
        }
    }
    None
}

/// Values in ascending order, to read percentiles from.
#[derive(Clone, Debug, PartialEq)]
pub struct Sorted(Vec<f64>);

impl Sorted {
    /// Sorts the values.
    pub fn new(mut values: Vec<f64>) -> Self {
        values.sort_unstable_by(f64::total_cmp);
        Self(values)
    }

    /// The value that `per_mille` of 1,000 values do not exceed (nearest rank: always one of the values): 0 is the
    /// smallest, 500 the median, 1,000 and above the largest. `None` without values.
    pub fn percentile(&self, per_mille: usize) -> Option<f64> {
        let rank = (per_mille.min(1000) * self.0.len()).div_ceil(1000);
        self.0.get(rank.saturating_sub(1)).copied()
    }

    /// `None` without values.
    pub fn mean(&self) -> Option<f64> {
        (!self.0.is_empty()).then(|| self.0.iter().sum::<f64>() / self.0.len() as f64)
    }

    /// The values, the smallest first.
    pub fn values(&self) -> &[f64] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bundle, LabelerOptions};

    #[test]
    fn percentiles_by_nearest_rank() {
        let of = |values: &[f64], per_mille| Sorted::new(values.to_vec()).percentile(per_mille);
        let thousand: Vec<f64> = (1..=1000).rev().map(f64::from).collect();
        for (per_mille, expected) in [(0, 1.0), (1, 1.0), (500, 500.0), (950, 950.0), (999, 999.0), (1000, 1000.0)] {
            assert_eq!(of(&thousand, per_mille), Some(expected));
        }
        assert_eq!(of(&[3.0, 1.0, 2.0], 500), Some(2.0));
        assert_eq!(of(&[3.0, 1.0, 2.0], 990), Some(3.0));
        assert_eq!(of(&[1.0], usize::MAX), Some(1.0));
        assert_eq!(of(&[], 500), None);
        assert_eq!((Sorted::new(vec![1.0, 2.0]).mean(), Sorted::new(vec![]).mean()), (Some(1.5), None));
    }

    #[test]
    fn texts_have_the_tokens_that_were_asked_for() {
        let bundle = Bundle::parse(include_bytes!("../tests/data/tiny.kdh")).unwrap();
        let labeler = Labeler::from_bundle(&bundle, &LabelerOptions::new().allow_unsigned()).unwrap();
        let manifest = bundle.manifest().unwrap();
        let golden: Vec<&str> = bundle.golden(&manifest).unwrap().cases().map(|case| case.text).collect();
        let max_tokens = manifest.max_tokens as usize;
        let mut scratch = labeler.scratch();
        for texts in [&golden[..], &["unspellable\u{2603}word"], &[]] {
            for tokens in 3..=max_tokens {
                let text = text_of_tokens(&labeler, texts.iter().copied(), tokens).unwrap();
                let report = labeler.label(&mut scratch, &text).unwrap();
                assert_eq!((report.kept_tokens + 2, report.truncated()), (tokens, false));
            }
            for tokens in [0, 1, 2, max_tokens + 1, usize::MAX] {
                assert_eq!(text_of_tokens(&labeler, texts.iter().copied(), tokens), None);
            }
        }
    }

    #[test]
    fn the_whole_is_no_shorter_than_its_parts() {
        let bundle = Bundle::parse(include_bytes!("../tests/data/tiny.kdh")).unwrap();
        let labeler = Labeler::from_bundle(&bundle, &LabelerOptions::new().allow_unsigned()).unwrap();
        let mut scratch = labeler.scratch();
        let Timing { tokenize, encoder, total } = time(&labeler, &mut scratch, "The cells divided.").unwrap();
        assert!(!encoder.is_zero() && total >= tokenize + encoder);
        assert_eq!(time(&labeler, &mut scratch, " "), Err(LabelError::NoTokens));
    }
}
