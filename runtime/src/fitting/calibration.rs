use kdh_format::{Calibration, MAX_KNOTS, heapless};
use serde::Serialize;

use super::sample::Sample;

/// Weight of the pull of a label's Platt slope towards the slope of all labels together, in squared logits: a label whose
/// logits spread less than this over its documents follows the others.
const SLOPE_RIDGE: f64 = 20.0;
/// The same for the intercept, in documents whose truth is undecided.
const INTERCEPT_RIDGE: f64 = 10.0;

/// How logits become probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Method {
    /// The logistic function.
    Identity,
    /// One temperature for all labels (Guo et al. 2017).
    Temperature,
    /// One slope and intercept for all labels (Platt 1999).
    Platt,
    /// Slope and intercept for each label, pulled towards those of all labels by a ridge penalty.
    PlattPerLabel,
    /// Centred isotonic regression for each label (Oron and Flournoy 2017).
    Isotonic,
}

impl Method {
    /// Every method, from the stiffest to the freest.
    pub const ALL: [Self; 5] = [Self::Identity, Self::Temperature, Self::Platt, Self::PlattPerLabel, Self::Isotonic];

    /// One calibration a label.
    pub(super) fn fit(self, sample: &Sample) -> Vec<Calibration> {
        let labels = sample.labels;
        match self {
            Self::Identity => vec![Calibration::Identity; labels],
            Self::Temperature => vec![Calibration::Temperature(temperature(&sample.all().collect::<Vec<_>>())); labels],
            Self::Platt => {
                let (slope, intercept) = shared_platt(sample);
                vec![platt_of(slope, intercept); labels]
            }
            Self::PlattPerLabel => {
                let shared = shared_platt(sample);
                let of_label = |label| {
                    let pairs: Vec<(f64, bool)> = sample.column(label).collect();
                    let (slope, intercept) = platt(&pairs, shared, SLOPE_RIDGE, INTERCEPT_RIDGE);
                    platt_of(slope, intercept)
                };
                (0..labels).map(of_label).collect()
            }
            Self::Isotonic => (0..labels).map(|label| isotonic(sample.column(label).collect())).collect(),
        }
    }
}

/// The temperature with the least log loss, between 1/20 and 20.
fn temperature(pairs: &[(f64, bool)]) -> f32 {
    // The loss is convex in the inverse temperature: its derivative has one zero.
    let rises = |inverse: f64| {
        let slope = |&(logit, truth): &(f64, bool)| (sigmoid(inverse * logit) - f64::from(u8::from(truth))) * logit;
        pairs.iter().map(slope).sum::<f64>() > 0.0
    };
    let (mut low, mut high) = (0.05_f64, 20.0_f64);
    for _ in 0..60 {
        let middle = (low * high).sqrt();
        if rises(middle) { high = middle } else { low = middle }
    }
    (1.0 / (low * high).sqrt()) as f32
}

/// A little ridge keeps the fit finite when a line separates the labels.
fn shared_platt(sample: &Sample) -> (f64, f64) {
    platt(&sample.all().collect::<Vec<_>>(), (1.0, 0.0), 1e-3, 1e-3)
}

/// Slope and intercept with the least log loss and pull towards `(slope, intercept)`: Newton's method with halved steps.
fn platt(pairs: &[(f64, bool)], towards: (f64, f64), slope_ridge: f64, intercept_ridge: f64) -> (f64, f64) {
    let loss = |(slope, intercept): (f64, f64)| {
        let of_pair = |&(logit, truth): &(f64, bool)| {
            let z = slope * logit + intercept;
            // -log sigmoid(z) or -log sigmoid(-z), without overflow.
            let z = if truth { -z } else { z };
            z.max(0.0) + (-z.abs()).exp().ln_1p()
        };
        let pull = slope_ridge * (slope - towards.0).powi(2) + intercept_ridge * (intercept - towards.1).powi(2);
        pairs.iter().map(of_pair).sum::<f64>() + pull / 2.0
    };
    let mut at = towards;
    let mut best = loss(at);
    for _ in 0..50 {
        let mut gradient = [slope_ridge * (at.0 - towards.0), intercept_ridge * (at.1 - towards.1)];
        let mut hessian = [slope_ridge + 1e-9, 0.0, intercept_ridge + 1e-9];
        for &(logit, truth) in pairs {
            let p = sigmoid(at.0 * logit + at.1);
            let (error, weight) = (p - f64::from(u8::from(truth)), p * (1.0 - p));
            gradient[0] += error * logit;
            gradient[1] += error;
            hessian[0] += weight * logit * logit;
            hessian[1] += weight * logit;
            hessian[2] += weight;
        }
        let determinant = hessian[0] * hessian[2] - hessian[1] * hessian[1];
        let step = [
            (hessian[2] * gradient[0] - hessian[1] * gradient[1]) / determinant,
            (hessian[0] * gradient[1] - hessian[1] * gradient[0]) / determinant,
        ];
        let mut length = 1.0;
        let next = loop {
            let next = (at.0 - length * step[0], at.1 - length * step[1]);
            let value = loss(next);
            if value <= best {
                best = value;
                break next;
            }
            length /= 2.0;
            if length < 1e-6 {
                return at;
            }
        };
        let moved = (next.0 - at.0).abs() + (next.1 - at.1).abs();
        at = next;
        if moved < 1e-9 {
            break;
        }
    }
    at
}

/// A slope that falls says that the model is worse than chance on the label; a flat one keeps the order.
fn platt_of(slope: f64, intercept: f64) -> Calibration {
    Calibration::Platt { slope: slope.max(1e-3) as f32, intercept: intercept as f32 }
}

/// Centred isotonic regression: the pool-adjacent-violators algorithm, each pool a knot at its mean logit and at its
/// Laplace-smoothed share of positives. The smallest pools join until the knots are few enough.
fn isotonic(mut pairs: Vec<(f64, bool)>) -> Calibration {
    #[derive(Clone, Copy)]
    struct Pool {
        count: f64,
        logits: f64,
        positives: f64,
    }
    impl Pool {
        fn join(&mut self, other: Self) {
            self.count += other.count;
            self.logits += other.logits;
            self.positives += other.positives;
        }

        fn share(&self) -> f64 {
            self.positives / self.count
        }

        fn knot(&self) -> (f32, f32) {
            ((self.logits / self.count) as f32, ((self.positives + 0.5) / (self.count + 1.0)) as f32)
        }
    }
    pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut pools: Vec<Pool> = Vec::new();
    for (logit, truth) in pairs {
        pools.push(Pool { count: 1.0, logits: logit, positives: f64::from(u8::from(truth)) });
        while let [.., before, last] = pools[..] {
            if before.share() < last.share() {
                break;
            }
            pools.pop();
            if let Some(before) = pools.last_mut() {
                before.join(last);
            }
        }
    }
    let ascends = |pair: &[Pool]| matches!(pair, [a, b] if a.knot().0 < b.knot().0 && a.knot().1 < b.knot().1);
    loop {
        // Smoothing may turn the order of small pools round.
        let violation = pools.windows(2).position(|pair| !ascends(pair));
        let smallest = || {
            let size = |pair: &[Pool]| pair.iter().map(|pool| pool.count).sum::<f64>();
            let sizes = pools.windows(2).map(size).enumerate();
            sizes.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(index, _)| index)
        };
        let index = match violation {
            Some(index) => index,
            None if pools.len() > MAX_KNOTS => smallest().unwrap_or_default(),
            None => break,
        };
        let joined = pools.remove(index + 1);
        pools[index].join(joined);
    }
    let knots: heapless::Vec<(f32, f32), MAX_KNOTS> = pools.iter().map(Pool::knot).collect();
    if knots.is_empty() { Calibration::Identity } else { Calibration::Isotonic(knots) }
}

fn sigmoid(logit: f64) -> f64 {
    1.0 / (1.0 + (-logit).exp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::calibration::{log_loss, mean_calibration_error};
    use crate::metrics::thresholds::SplitMix64;

    /// Logits that say too much: the truth follows `sigmoid(logit / 2 - 1)`.
    fn overconfident(documents: usize, labels: usize) -> Sample {
        let mut random = SplitMix64(5);
        let mut uniform = || (random.next() >> 11) as f64 / (1_u64 << 53) as f64;
        let (mut logits, mut truth) = (Vec::new(), Vec::new());
        for _ in 0..documents * labels {
            let logit = 12.0 * uniform() - 6.0;
            logits.push(logit as f32);
            truth.push(uniform() < sigmoid(0.5 * logit - 1.0));
        }
        Sample { labels, logits, truth }
    }

    #[test]
    fn finds_what_made_the_truth() {
        let sample = overconfident(4000, 2);
        for method in [Method::Platt, Method::PlattPerLabel] {
            for calibration in method.fit(&sample) {
                let Calibration::Platt { slope, intercept } = calibration else { panic!("not Platt") };
                assert!((slope - 0.5).abs() < 0.04 && (intercept + 1.0).abs() < 0.1, "{slope} {intercept}");
            }
        }
        let [Calibration::Temperature(temperature), _] = Method::Temperature.fit(&sample)[..] else { panic!() };
        assert!(temperature > 1.5 && temperature < 3.0, "{temperature}");
        let test = overconfident(4000, 2);
        let error = |method: Method| {
            let probabilities = test.probabilities(&method.fit(&sample));
            (mean_calibration_error(&test.truth, &probabilities, 2).unwrap(), log_loss(&test.truth, &probabilities))
        };
        let before = error(Method::Identity);
        for method in [Method::Platt, Method::PlattPerLabel, Method::Isotonic] {
            let after = error(method);
            assert!(after.0 < 0.03 && before.0 > 0.1 && after.1 < before.1, "{method:?}: {before:?} {after:?}");
        }
    }

    #[test]
    fn every_fit_is_one_that_a_reader_takes() {
        let extremes = [
            Sample { labels: 1, logits: vec![1.0; 30], truth: vec![true; 30] },
            Sample { labels: 1, logits: vec![-3.0; 30], truth: vec![false; 30] },
            Sample { labels: 1, logits: (0..30).map(|n| n as f32).collect(), truth: (0..30).map(|n| n > 14).collect() },
            Sample { labels: 1, logits: (0..30).map(|n| n as f32).collect(), truth: (0..30).map(|n| n < 15).collect() },
            Sample {
                labels: 1,
                logits: (0..99).map(|n| n as f32).collect(),
                truth: (0..99).map(|n| n % 3 == 0).collect(),
            },
        ];
        for (number, sample) in extremes.iter().enumerate() {
            for method in Method::ALL {
                let calibration = method.fit(sample);
                for p in sample.probabilities(&calibration) {
                    assert!((0.0..=1.0).contains(&p), "{number} {method:?} {p}");
                }
                match &calibration[0] {
                    Calibration::Platt { slope, intercept } => {
                        assert!(*slope > 0.0 && slope.is_finite() && intercept.is_finite());
                    }
                    Calibration::Isotonic(knots) => {
                        assert!(knots.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1));
                    }
                    Calibration::Temperature(temperature) => assert!(*temperature > 0.0),
                    _ => {}
                }
            }
        }
    }
}
