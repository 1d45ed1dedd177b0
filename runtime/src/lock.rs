use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

/// Keeps other processes out of a folder.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Lock {
    /// [`io::ErrorKind::WouldBlock`] when another process is in the folder.
    pub(crate) fn new(folder: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(folder.join("lock"))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file is not enough: a child process that another thread is about to start may hold it, too.
        let _ = self.0.unlock();
    }
}
