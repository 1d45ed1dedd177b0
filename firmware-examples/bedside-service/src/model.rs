//! The model that the service labels with.

use core::fmt;
use std::io;
use std::sync::Arc;

use kdh_runtime::format::TrustError;
use kdh_runtime::{BuildError, BundleError, BundleFile, Labeler, LabelerOptions, OpenError, SelfTestError, Trust};

use crate::options::Options;

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
    /// Opens the bundle, verifies who signed it, builds its labeler, and replays its golden texts. The file stays mapped: replace it by
    /// renaming another over it.
    ///
    /// # Errors
    ///
    /// [`ModelError`] when any of these fails.
    pub fn open(options: &Options) -> Result<Self, ModelError> {
        let file = Arc::new(BundleFile::open(&options.bundle).map_err(ModelError::Open)?);
        let labeler = Labeler::from_shared(file.clone(), &LabelerOptions::new().trust(trust(options)?))
            .map_err(ModelError::Build)?;
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

fn trust(options: &Options) -> Result<Trust, ModelError> {
    let trust = match &options.trust {
        None => Trust::new(),
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(ModelError::TrustFile)?;
            Trust::parse(&text).map_err(ModelError::Trust)?
        }
    };
    let trust = if options.allow_test_keys { trust.allow_test_keys() } else { trust };
    Ok(if options.allow_unsigned { trust.allow_unsigned() } else { trust })
}

/// A bundle gives no model.
#[derive(Debug)]
#[non_exhaustive]
pub enum ModelError {
    /// The trust file cannot be read.
    TrustFile(io::Error),
    /// The trust file is wrong.
    Trust(TrustError),
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
            Self::TrustFile(error) => write!(f, "cannot read the trust file: {error}"),
            Self::Trust(error) => error.fmt(f),
            Self::Open(error) => error.fmt(f),
            Self::Bundle(error) => error.fmt(f),
            Self::Build(error) => error.fmt(f),
            Self::SelfTest(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for ModelError {}
