//! Bit by bit where the arithmetic is the same, within the tolerance elsewhere, and no labeler after a failure.

use kdh_format::{BundleWriter, GoldenCase, KeyRole, SecretKey, sign_bundle};
use kdh_runtime::{ARITHMETIC, BuildError, Bundle, Kernels, Labeler, LabelerOptions, SelfTestError, Trust, Untrusted};

use crate::bundles::TINY;

/// The tiny bundle with the first golden texts, their logits from the arena, said to be in this arithmetic; `change` is applied
/// to the bits of a logit.
pub(crate) fn recorded(arithmetic: u32, counter: u64, change: impl Fn(u32) -> u32) -> Vec<u8> {
    let bundle = Bundle::parse(TINY).unwrap();
    let manifest = bundle.manifest().unwrap();
    let labeler = Labeler::from_bundle(&bundle, &options().kernels(Kernels::Portable)).unwrap();
    let golden = bundle.golden(&manifest).unwrap();
    let mut cases: Vec<GoldenCase<'_>> = golden.cases().take(3).collect();
    let mut scratch = labeler.scratch();
    for case in &mut cases {
        let report = labeler.label(&mut scratch, case.text).unwrap();
        case.logits = report.labels.iter().map(|label| label.logit).collect();
    }
    cases[1].logits[2] = f32::from_bits(change(cases[1].logits[2].to_bits()));
    let writer = BundleWriter::of(&bundle).rollback_counter(counter);
    writer.golden(arithmetic, golden.tolerance(), &cases, 3).and_then(BundleWriter::finish).unwrap()
}

fn options() -> LabelerOptions {
    LabelerOptions::new().allow_unsigned()
}

fn build(bytes: &[u8], options: &LabelerOptions) -> Result<Labeler, BuildError> {
    Labeler::from_bundle(&Bundle::parse(bytes).unwrap(), options)
}

/// Verifies
#[test]
fn every_kernel_family_gives_the_recorded_bits() {
    let bytes = recorded(ARITHMETIC, 0, |bits| bits);
    let bundle = Bundle::parse(&bytes).unwrap();
    let available: Vec<Kernels> = Kernels::ALL.into_iter().filter(|kernels| kernels.is_available()).collect();
    assert!(available.contains(&Kernels::Portable));
    for kernels in available {
        let labeler = build(&bytes, &options().kernels(kernels).self_test(true)).unwrap();
        let result = labeler.self_test(&bundle).unwrap();
        assert!(result.exact && result.max_difference == 0.0 && result.tolerance == 0.0, "{kernels}: {result:?}");
    }
}

/// Verifies
#[test]
fn the_last_bit_counts_in_the_same_arithmetic_only() {
    let bytes = recorded(ARITHMETIC, 0, |bits| bits ^ 1);
    let error = build(&bytes, &options().self_test(true)).unwrap_err();
    assert!(matches!(error, BuildError::SelfTest(SelfTestError::Logits { text: 1, tolerance: 0.0, .. })), "{error}");
    // Who does not ask for the test gets a labeler, and the test still says what it finds.
    let labeler = build(&bytes, &options()).unwrap();
    assert!(labeler.self_test(&Bundle::parse(&bytes).unwrap()).is_err());

    let other = recorded(ARITHMETIC + 1, 0, |bits| bits ^ 1);
    let labeler = build(&other, &options().self_test(true)).unwrap();
    assert!(!labeler.self_test(&Bundle::parse(&other).unwrap()).unwrap().exact);
    let far = recorded(ARITHMETIC + 1, 0, |bits| (f32::from_bits(bits) + 2.0).to_bits());
    let error = build(&far, &options().self_test(true)).unwrap_err();
    assert!(
        matches!(error, BuildError::SelfTest(SelfTestError::Logits { text: 1, tolerance: 0.0001.., .. })),
        "{error}"
    );
}

/// Verifies
#[test]
fn the_default_takes_no_bundle_and_trust_takes_signed_ones() {
    let key = SecretKey::from_seed(&[1; 32], KeyRole::Release, "maker").unwrap();
    let trust = Trust::new().key(key.public().clone()).unwrap();
    let signed = sign_bundle(&Bundle::parse(TINY).unwrap(), &key).unwrap();
    let strict = LabelerOptions::new().trust(trust);
    let labeler = build(&signed, &strict).unwrap();
    assert!(labeler.signer().to_string().contains("maker"));
    assert_eq!(labeler.bundle_digest(), Bundle::parse(TINY).unwrap().digest());
    for (bytes, options) in [(TINY, &LabelerOptions::new()), (TINY, &strict)] {
        let error = build(bytes, options).unwrap_err();
        assert!(matches!(error, BuildError::Untrusted(Untrusted::Unsigned)), "{error}");
    }
    let error = build(&signed, &strict.clone().minimum_rollback_counter(1)).unwrap_err();
    assert!(matches!(error, BuildError::Untrusted(Untrusted::Rollback { .. })), "{error}");
    // What is not verified is not parsed: nonsense behind right digests is refused for its signature first.
    let mut parts = crate::bundles::Parts::of_tiny();
    parts.graph = b"not a graph".to_vec();
    let error = build(&parts.bytes(), &strict).unwrap_err();
    assert!(matches!(error, BuildError::Untrusted(Untrusted::Unsigned)), "{error}");
}
