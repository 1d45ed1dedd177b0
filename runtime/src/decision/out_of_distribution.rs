use std::collections::TryReserveError;

use kdh_format::OutOfDistribution;

/// Scores how strange a text is to the model: virtual-logit matching (ViM, Wang et al. 2022, "ViM: Out-Of-Distribution with
/// Virtual-logit Matching"), from the pooled vector and the logits that the encoder has computed anyway.
pub(crate) struct Detector {
    /// `[hidden]`.
    mean: Vec<f32>,
    /// `[directions, hidden]`.
    directions: Vec<f32>,
    residual_weight: f32,
    logit_weight: f32,
    threshold: f32,
}

impl Detector {
    /// # Errors
    ///
    /// When the system does not give the memory.
    pub(crate) fn new(of: &OutOfDistribution<'_>) -> Result<Self, TryReserveError> {
        let floats = |bytes: &[u8]| -> Result<Vec<f32>, TryReserveError> {
            let (values, _) = bytes.as_chunks::<4>();
            let mut floats = Vec::new();
            floats.try_reserve_exact(values.len())?;
            floats.extend(values.iter().map(|&value| f32::from_le_bytes(value)));
            Ok(floats)
        };
        Ok(Self {
            mean: floats(of.mean)?,
            directions: floats(of.directions)?,
            residual_weight: of.residual_weight,
            logit_weight: of.logit_weight,
            threshold: of.threshold,
        })
    }

    pub(crate) fn width(&self) -> usize {
        self.mean.len()
    }

    pub(crate) fn threshold(&self) -> f32 {
        self.threshold
    }

    /// `None` when the vector does not have the width of the statistics.
    pub(crate) fn score(&self, pooled: &[f32], logits: &[f32]) -> Option<f32> {
        if pooled.len() != self.mean.len() {
            return None;
        }
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let residual = residual(&self.mean, &self.directions, pooled);
        Some(self.residual_weight * residual - self.logit_weight * largest)
    }
}

/// Length of the part of `pooled - mean` outside the span of the directions: orthonormal rows of as many values.
pub(crate) fn residual(mean: &[f32], directions: &[f32], pooled: &[f32]) -> f32 {
    let squares = |row: Option<&[f32]>| -> f32 {
        // Eight sums side by side, which the compiler turns into vector instructions.
        let mut sums = [0.0_f32; 8];
        let row = row.unwrap_or(&[]);
        for (index, (value, mean)) in pooled.iter().zip(mean).enumerate() {
            let difference = value - mean;
            sums[index % 8] += difference * row.get(index).copied().unwrap_or(difference);
        }
        sums.iter().sum()
    };
    let inside: f32 = directions.chunks_exact(mean.len().max(1)).map(|row| squares(Some(row)).powi(2)).sum();
    // Rounding may leave less than nothing.
    (squares(None) - inside).max(0.0).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_what_the_directions_leave() {
        let mean = [1.0, 0.0, 0.0];
        let half = core::f32::consts::FRAC_1_SQRT_2;
        let directions = [0.0, half, half];
        // (3, 4, 0) less its part along (0, 1, 1) is (3, 2, -2).
        assert!((residual(&mean, &directions, &[4.0, 4.0, 0.0]) - 17.0_f32.sqrt()).abs() < 1e-5);
        assert_eq!(residual(&mean, &[], &[4.0, 4.0, 0.0]), 5.0);
        assert_eq!(residual(&mean, &directions, &mean), 0.0);
    }

    #[test]
    fn is_strange_far_away_and_without_a_label() {
        let bytes = |values: &[f32]| -> Vec<u8> { values.iter().flat_map(|value| value.to_le_bytes()).collect() };
        let (mean, directions) = (bytes(&[0.0, 0.0]), bytes(&[1.0, 0.0]));
        let detector = Detector::new(&OutOfDistribution {
            mean: &mean,
            directions: &directions,
            residual_weight: 2.0,
            logit_weight: 0.5,
            threshold: 3.0,
        })
        .unwrap();
        assert_eq!(detector.score(&[100.0, -1.5], &[-4.0, 2.0]), Some(2.0));
        assert_eq!(detector.score(&[100.0, 1.5], &[-4.0, -6.0]), Some(5.0));
        assert_eq!(detector.score(&[100.0], &[-4.0]), None);
        assert_eq!(detector.threshold(), 3.0);
    }
}
