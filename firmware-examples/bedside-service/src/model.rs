//! The model that the service labels with.

use core::fmt;
use std::path::Path;
use std::sync::Arc;

use kdh_runtime::{BuildError, BundleError, BundleFile, Labeler, LabelerOptions, OpenError, SelfTestError};

/// A model that has passed its self-test.
#[derive(Debug)]
pub struct Model {
    /// What labels.
    pub labeler: Labeler,
    /// Name of the model.
    pub name: String,
    /// Version of the model.
    pub version: String,
    /// First eight bytes of the digest that identifies the bundle.
    pub bundle: [u8; 8],
    /// Length of the bundle's file, in bytes.
    pub bundle_len: usize,
}

impl Model {
    /// Opens a bundle, verifies it, builds its labeler, and replays its golden texts. The file stays mapped: replace it by
    /// renaming another over it.
    ///
    /// # Errors
    ///
    /// [`ModelError`] when any of these fails.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let file = Arc::new(BundleFile::open(path).map_err(ModelError::Open)?);
        let labeler = Labeler::from_shared(file.clone(), &LabelerOptions::new()).map_err(ModelError::Build)?;
        let bundle = file.verify().map_err(ModelError::Bundle)?;
        labeler.self_test(&bundle).map_err(ModelError::SelfTest)?;
        let manifest = bundle.manifest().map_err(|error| ModelError::Build(BuildError::Manifest(error)))?;
        let digest = bundle.digest();
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        Ok(Self {
            name: manifest.name.to_owned(),
            version: manifest.model_version.to_owned(),
            bundle: first,
            bundle_len: file.bytes().len(),
            labeler,
        })
    }
}

/// A bundle gives no model.
#[derive(Debug)]
#[non_exhaustive]
pub enum ModelError {
    /// The file cannot be opened.
    Open(OpenError),
    /// The bundle is damaged.
    Bundle(BundleError),
    /// The labeler cannot be built.
    Build(BuildError),
    /// The machine does not compute what the exporter computed.
    SelfTest(SelfTestError),
}

impl fmt::Display for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(error) => error.fmt(f),
            Self::Bundle(error) => error.fmt(f),
            Self::Build(error) => error.fmt(f),
            Self::SelfTest(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for ModelError {}
