use kdh_runtime::{Bundle, Labeler, LabelerOptions, Trust};

use crate::mutate::Mutator;
use crate::panics;

/// What is done to a whole bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "both kinds of damage")]
pub enum Damage {
    /// Every position, each bit of it; and every truncation.
    Everywhere,
    /// A random bit at so many random positions, and as many random truncations.
    Random(u64),
}

/// What became of damaged bundles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DamageCounts {
    /// Bundles that were refused.
    pub refused: u64,
    /// Bundles that were taken: none should be.
    pub taken: u64,
    /// Panics: none should be.
    pub panicked: u64,
}

/// Damages a bundle and opens it as an integrator does: one that the published demonstration key has signed with trust in
/// that key, because a damaged signature is none, and another without. `tick` is called after each.
pub fn damage(bundle: &[u8], damage: Damage, seed: u64, mut tick: impl FnMut()) -> DamageCounts {
    let mut counts = DamageCounts::default();
    let options = options(bundle);
    let mut open = |bytes: &[u8]| {
        match panics::watch(|| Bundle::parse(bytes).is_ok_and(|bundle| Labeler::from_bundle(&bundle, &options).is_ok()))
        {
            Ok(false) => counts.refused += 1,
            Ok(true) => counts.taken += 1,
            Err(_) => counts.panicked += 1,
        }
        tick();
    };
    let mut bytes = bundle.to_vec();
    let mut flip = |at: usize, bit: usize, open: &mut dyn FnMut(&[u8])| {
        bytes[at] ^= 1 << bit;
        open(&bytes);
        bytes[at] ^= 1 << bit;
    };
    match damage {
        Damage::Everywhere => {
            for at in 0..bundle.len() {
                (0..8).for_each(|bit| flip(at, bit, &mut open));
                open(&bundle[..at]);
            }
        }
        Damage::Random(times) => {
            let mut random = Mutator::new(seed, &[], 0);
            for _ in 0..times {
                flip(random.below(bundle.len()), random.below(8), &mut open);
                open(&bundle[..random.below(bundle.len())]);
            }
        }
    }
    counts
}

fn options(bundle: &[u8]) -> LabelerOptions {
    let trust = Trust::parse(include_str!("../../../examples/keys/demonstration.trust")).map(Trust::allow_test_keys);
    match (Bundle::parse(bundle), trust) {
        (Ok(bundle), Ok(trust)) if trust.verify(&bundle).is_ok() => LabelerOptions::new().trust(trust),
        _ => LabelerOptions::new().allow_unsigned(),
    }
}
