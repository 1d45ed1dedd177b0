use core::fmt;
use std::fs::File;
use std::io;
use std::path::Path;

use kdh_format::{Bundle, BundleError, MAX_BUNDLE_LEN, MAX_TRAILER_LEN};

/// The bytes of a bundle's file, not yet verified.
///
/// With the feature `mmap` the file is mapped, otherwise read. While this value lives **the file must not be changed or
/// shortened**: install a new bundle by renaming it over the old one. A [`Labeler`](crate::Labeler) of
/// [`from_file`](crate::Labeler::from_file) keeps this value; one of [`from_bundle`](crate::Labeler::from_bundle) keeps
/// nothing of the file.
pub struct BundleFile {
    #[cfg(feature = "mmap")]
    bytes: memmap2::Mmap,
    #[cfg(not(feature = "mmap"))]
    bytes: Vec<u8>,
}

impl BundleFile {
    /// Opens the file at `path`.
    ///
    /// # Errors
    ///
    /// [`OpenError`]: the file cannot be opened, is not a regular file, is empty, or is larger than a bundle may be.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref();
        // Before the file is opened: opening a pipe would wait for its other end.
        let metadata = std::fs::metadata(path).map_err(OpenError::Io)?;
        if metadata.is_dir() {
            return Err(OpenError::Directory);
        }
        if !metadata.is_file() {
            return Err(OpenError::NotAFile);
        }
        let file = File::open(path).map_err(OpenError::Io)?;
        let len = file.metadata().map_err(OpenError::Io)?.len();
        if len == 0 {
            return Err(OpenError::Empty);
        }
        if len > MAX_LEN {
            return Err(OpenError::TooLarge { len });
        }
        #[cfg(feature = "mmap")]
        let bytes = crate::map::map(&file).map_err(OpenError::Io)?;
        #[cfg(not(feature = "mmap"))]
        let bytes = {
            use std::io::Read;
            let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or_default());
            file.take(MAX_LEN).read_to_end(&mut bytes).map_err(OpenError::Io)?;
            bytes
        };
        Ok(Self { bytes })
    }

    /// Verifies the bundle: [`Bundle::parse`].
    ///
    /// # Errors
    ///
    /// [`BundleError`] when the file is not a whole and undamaged bundle.
    pub fn verify(&self) -> Result<Bundle<'_>, BundleError> {
        Bundle::parse(self.bytes())
    }

    /// The file's bytes, unverified.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsRef<[u8]> for BundleFile {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

/// Shows the size, not the content.
impl fmt::Debug for BundleFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BundleFile").field("len", &self.bytes().len()).finish()
    }
}

/// A bundle's file cannot be opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// The system refuses.
    Io(io::Error),
    /// The path names a directory.
    Directory,
    /// The path names a device, a pipe or a socket.
    NotAFile,
    /// The file is empty.
    Empty,
    /// The file is larger than a bundle may be.
    TooLarge {
        /// Size of the file, in bytes.
        len: u64,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "cannot open the bundle: {error}"),
            Self::Directory => f.write_str("this is a directory; give the .kdh file in it"),
            Self::NotAFile => f.write_str("this is not a regular file; give a .kdh file"),
            Self::Empty => f.write_str("the file is empty; copy the bundle again"),
            Self::TooLarge { len } => {
                write!(f, "the file has {len} bytes, more than any bundle ({MAX_LEN}); give a .kdh file")
            }
        }
    }
}

// The texts above already hold the text of the cause, so `source` stays empty: a chain would print it twice.
impl core::error::Error for OpenError {}

const MAX_LEN: u64 = (MAX_BUNDLE_LEN + MAX_TRAILER_LEN) as u64;
