//! Records the golden logits as the box computes them.

use kdh_format::{BundleWriter, GoldenCase, heapless};
use kdh_runtime::{ARITHMETIC, BuildError, Bundle, EngineChoice, Kernels, Labeler, LabelerOptions};

use crate::pack::PackError;

/// The bundle with its golden logits replaced by those of its own program on the arena, so that every box must find the same
/// bits. They must lie within the tolerance of those that the bundle has, which came from the reference.
///
/// # Errors
/// [`PackError::SelfTest`] when they do not; otherwise when the bundle cannot be read or run.
pub(crate) fn record(bytes: &[u8]) -> Result<Vec<u8>, PackError> {
    let bundle = Bundle::parse(bytes).map_err(PackError::Bundle)?;
    let options = LabelerOptions::new().allow_unsigned().engine(EngineChoice::Arena).kernels(Kernels::Portable);
    let labeler = Labeler::from_bundle(&bundle, &options).map_err(PackError::Build)?;
    labeler.self_test(&bundle).map_err(PackError::SelfTest)?;

    let manifest = bundle.manifest().map_err(|error| PackError::Build(BuildError::Manifest(error)))?;
    let golden = bundle.golden(&manifest).map_err(PackError::Golden)?;
    let mut scratch = labeler.scratch();
    let mut cases: Vec<GoldenCase<'_>> = golden.cases().collect();
    for case in &mut cases {
        let report = labeler.label(&mut scratch, case.text).map_err(PackError::Label)?;
        let logits: heapless::Vec<f32, { kdh_format::MAX_LABELS }> =
            report.labels.iter().map(|label| label.logit).collect();
        case.logits = logits;
    }
    BundleWriter::of(&bundle)
        .golden(ARITHMETIC, golden.tolerance(), &cases, manifest.labels.len())
        .and_then(BundleWriter::finish)
        .map_err(PackError::Write)
}
