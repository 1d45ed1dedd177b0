//! Stratified parts of multi-label data.

use rand::SeedableRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;

/// Divides rows of labels into parts, so that every label has about its share in each: iterative stratification
/// (Sechidis, Tsoumakas and Vlahavas 2011, algorithm 1).
///
/// `labels` has one row a document with one flag a label; `shares` says how much of everything each part gets, and sums
/// to 1. The result is the part of every row. The same seed gives the same parts; sizes differ from the shares by a few
/// rows, because labels come first.
pub fn stratify(labels: &[Vec<bool>], shares: &[f64], seed: u64) -> Vec<usize> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let width = labels.first().map_or(0, Vec::len);
    let mut wanted: Vec<f64> = shares.iter().map(|share| share * labels.len() as f64).collect();
    let count = |label: usize| labels.iter().filter(|row| row[label]).count() as f64;
    let mut wanted_by_label: Vec<Vec<f64>> =
        (0..width).map(|label| shares.iter().map(|share| share * count(label)).collect()).collect();
    let mut parts: Vec<Option<usize>> = vec![None; labels.len()];
    let mut order: Vec<usize> = (0..labels.len()).collect();
    order.shuffle(&mut random);

    loop {
        let left = |label: usize| order.iter().filter(|&&row| parts[row].is_none() && labels[row][label]).count();
        // The rarest label first: what is left of it later could no longer be divided.
        let rarest = (0..width).map(|label| (left(label), label)).filter(|(count, _)| *count > 0).min();
        let rows: Vec<usize> = order
            .iter()
            .copied()
            .filter(|&row| parts[row].is_none() && rarest.is_none_or(|(_, label)| labels[row][label]))
            .collect();
        for row in rows {
            let need = |part: usize| rarest.map_or(wanted[part], |(_, label)| wanted_by_label[label][part]);
            let part = neediest(shares.len(), need, &wanted, &mut random);
            parts[row] = Some(part);
            wanted[part] -= 1.0;
            for (wanted, _) in wanted_by_label.iter_mut().zip(&labels[row]).filter(|(_, flag)| **flag) {
                wanted[part] -= 1.0;
            }
        }
        if rarest.is_none() {
            return parts.into_iter().map(Option::unwrap_or_default).collect();
        }
    }
}

/// The part that needs most; of equal ones that with the most room; of equal ones any.
fn neediest(parts: usize, need: impl Fn(usize) -> f64, room: &[f64], random: &mut ChaCha8Rng) -> usize {
    let best = (0..parts).map(|part| (need(part), room[part])).fold((f64::MIN, f64::MIN), |best, at| {
        if at.partial_cmp(&best) == Some(core::cmp::Ordering::Greater) { at } else { best }
    });
    let equal: Vec<usize> = (0..parts).filter(|&part| (need(part), room[part]) == best).collect();
    equal.choose(random).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngExt;

    fn rows(count: usize) -> Vec<Vec<bool>> {
        let mut random = ChaCha8Rng::seed_from_u64(3);
        (0..count).map(|_| [0.5, 0.2, 0.03].map(|rate| random.random_bool(rate)).into()).collect()
    }

    #[test]
    fn every_label_has_its_share_in_every_part() {
        let rows = rows(600);
        for shares in [vec![0.2; 5], vec![0.25, 0.75], vec![0.1, 0.9]] {
            let parts = stratify(&rows, &shares, 1);
            for (part, share) in shares.iter().enumerate() {
                let of = |keep: &dyn Fn(&[bool]) -> bool| {
                    let all = rows.iter().filter(|row| keep(row)).count() as f64;
                    let here = rows.iter().zip(&parts).filter(|(row, at)| **at == part && keep(row)).count() as f64;
                    (here - all * share).abs()
                };
                assert!(of(&|_| true) <= 3.0, "{shares:?} {part}: {}", of(&|_| true));
                for label in 0..3 {
                    // 18 documents have the rare label: chance alone would be off by more.
                    assert!(of(&|row| row[label]) <= 1.5, "{shares:?} {part} {label}: {}", of(&|row| row[label]));
                }
            }
        }
    }

    #[test]
    fn a_seed_decides_and_nothing_is_special() {
        let rows = rows(100);
        assert_eq!(stratify(&rows, &[0.5, 0.5], 1), stratify(&rows, &[0.5, 0.5], 1));
        assert_ne!(stratify(&rows, &[0.5, 0.5], 1), stratify(&rows, &[0.5, 0.5], 2));
        assert_eq!(stratify(&[], &[1.0], 1), Vec::<usize>::new());
        assert_eq!(stratify(&[vec![], vec![]], &[1.0, 0.0], 1), [0, 0]);
        assert_eq!(stratify(&rows, &[1.0], 1), vec![0; 100]);
    }
}
