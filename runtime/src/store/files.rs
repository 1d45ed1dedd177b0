use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::file::BundleFile;
use crate::lock::Lock;

/// The few files of a store. Nothing lasts over a power cut but what was synced: a file's bytes by [`sync`](Self::sync), names
/// by [`sync_folder`](Self::sync_folder).
pub trait Files {
    /// All bytes of a file.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`] when there is none of this name; otherwise what the system says.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;

    /// A file's bytes for as long as they are needed; replacing the file does not change them.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn open(&self, name: &str) -> io::Result<Arc<dyn AsRef<[u8]> + Send + Sync>>;

    /// Makes a file, or overwrites it.
    ///
    /// # Errors
    ///
    /// What the system says. The file may then hold a part.
    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Waits until a file's bytes are on the disk.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn sync(&self, name: &str) -> io::Result<()>;

    /// Renames a file, over another if there is one of that name, all at once.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Waits until the names of files are on the disk.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn sync_folder(&self) -> io::Result<()>;
}

/// Files in a folder of the file system, locked for this process.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    _lock: Lock,
}

impl Folder {
    /// Opens a folder, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] when another process has it open; otherwise what the system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        Ok(Self { path: path.to_owned(), _lock: Lock::new(path)? })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Files for Folder {
    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.path(name))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn AsRef<[u8]> + Send + Sync>> {
        Ok(Arc::new(BundleFile::open(self.path(name)).map_err(io::Error::other)?))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        File::create(self.path(name))?.write_all(bytes)
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        OpenOptions::new().write(true).open(self.path(name))?.sync_all()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    fn sync_folder(&self) -> io::Result<()> {
        // Elsewhere a folder cannot be opened as a file, and names last without it.
        if cfg!(unix) { File::open(&self.path)?.sync_all() } else { Ok(()) }
    }
}
