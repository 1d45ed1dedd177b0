/// Scores grouped by value, from the highest to the lowest.
pub(super) struct Ranking {
    groups: Vec<Group>,
    positives: u64,
    negatives: u64,
}

/// What stands at or above one score.
pub(super) struct Group {
    pub(super) score: f32,
    /// Positives with this score or a higher one.
    pub(super) positives: u64,
    /// Negatives with this score or a higher one.
    pub(super) negatives: u64,
}

impl Ranking {
    pub(super) fn new(scored: impl Iterator<Item = (f32, bool)>) -> Self {
        let mut scored: Vec<(f32, bool)> = scored.collect();
        scored.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
        let mut groups: Vec<Group> = Vec::new();
        let (mut positives, mut negatives) = (0, 0);
        for (score, truth) in scored {
            positives += u64::from(truth);
            negatives += u64::from(!truth);
            match groups.last_mut() {
                // By value and not by bits: 0.0 and -0.0 are one score.
                Some(last) if last.score == score => {
                    last.positives = positives;
                    last.negatives = negatives;
                }
                _ => groups.push(Group { score, positives, negatives }),
            }
        }
        Self { groups, positives, negatives }
    }

    pub(super) fn groups(&self) -> &[Group] {
        &self.groups
    }

    pub(super) fn positives(&self) -> u64 {
        self.positives
    }

    /// The Mann-Whitney statistic over its maximum; `None` without positives or without negatives.
    pub(super) fn auroc(&self) -> Option<f64> {
        if self.positives == 0 || self.negatives == 0 {
            return None;
        }
        // Twice the number of (positive, negative) pairs in the right order: a whole number, so the sum is exact.
        let mut twice_ordered = 0_u128;
        let (mut positives, mut negatives) = (0, 0);
        for group in &self.groups {
            let tied_negatives = group.negatives - negatives;
            let below = self.negatives - group.negatives;
            twice_ordered += u128::from(group.positives - positives) * u128::from(2 * below + tied_negatives);
            (positives, negatives) = (group.positives, group.negatives);
        }
        Some(twice_ordered as f64 / (2 * u128::from(self.positives) * u128::from(self.negatives)) as f64)
    }

    /// `Σ (Rᵢ − Rᵢ₋₁) Pᵢ` over the groups; `None` without positives.
    pub(super) fn average_precision(&self) -> Option<f64> {
        if self.positives == 0 {
            return None;
        }
        let mut sum = 0.0;
        let mut positives = 0;
        for group in &self.groups {
            let precision = group.positives as f64 / (group.positives + group.negatives) as f64;
            sum += (group.positives - positives) as f64 * precision;
            positives = group.positives;
        }
        Some(sum / self.positives as f64)
    }
}
