use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::lock::Lock;

/// The files of a trail. One of them is *at hand*: records are appended to it. Nothing of what was appended lasts over a power
/// cut but what was synced.
pub trait Files {
    /// Names of all files.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn names(&self) -> io::Result<Vec<String>>;

    /// All bytes of a file.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;

    /// Makes a file of these bytes, or overwrites one, waits until it is on the disk with its name, and takes it at hand.
    ///
    /// # Errors
    ///
    /// What the system says. The file at hand stays the same then, and the other may hold a part.
    fn create(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Takes a file at hand, and cuts it off behind its first `len` bytes if it has more.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn resume(&mut self, name: &str, len: u64) -> io::Result<()>;

    /// Appends to the file at hand.
    ///
    /// # Errors
    ///
    /// What the system says. The file may then hold a part.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Waits until the bytes of the file at hand are on the disk.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn sync(&mut self) -> io::Result<()>;

    /// Removes a file, and waits until that is on the disk.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn remove(&mut self, name: &str) -> io::Result<()>;
}

/// Files in a folder of the file system, locked for this process.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    at_hand: Option<File>,
    /// None when the folder is only read.
    _lock: Option<Lock>,
}

impl Folder {
    /// Opens a folder, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] when another process has it open; otherwise what the system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        Ok(Self { path: path.to_owned(), at_hand: None, _lock: Some(Lock::new(path)?) })
    }

    /// A folder that is read while another process may write to it.
    pub(super) fn to_read(path: &Path) -> Self {
        Self { path: path.to_owned(), at_hand: None, _lock: None }
    }

    fn sync_names(&self) -> io::Result<()> {
        // Elsewhere a folder cannot be opened as a file, and names last without it.
        if cfg!(unix) { File::open(&self.path)?.sync_all() } else { Ok(()) }
    }

    fn at_hand(&mut self) -> io::Result<&mut File> {
        self.at_hand.as_mut().ok_or_else(|| io::Error::other("no file is at hand"))
    }
}

impl Files for Folder {
    fn names(&self) -> io::Result<Vec<String>> {
        fs::read_dir(&self.path)?.map(|file| Ok(file?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.path.join(name))
    }

    fn create(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut file = File::create(self.path.join(name))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        self.sync_names()?;
        self.at_hand = Some(file);
        Ok(())
    }

    fn resume(&mut self, name: &str, len: u64) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).open(self.path.join(name))?;
        if file.metadata()?.len() > len {
            file.set_len(len)?;
            file.sync_all()?;
        }
        file.seek(SeekFrom::End(0))?;
        self.at_hand = Some(file);
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.at_hand()?.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.at_hand()?.sync_data()
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))?;
        self.sync_names()
    }
}
