use std::fs::File;
use std::io;

use memmap2::Mmap;

/// Maps a whole file read-only.
///
/// # Constraint
///
/// Nobody may change or shorten the file while the mapping lives: the bytes would change after they were verified, and
/// reading past a new end kills the process (`SIGBUS`). A new file must be renamed over the old one, which leaves the
/// mapped one as it is.
#[expect(unsafe_code, reason = "memmap2 cannot know that nobody changes the file")]
pub(crate) fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the bytes are plain data, every bit pattern of which is valid. That they do not change is the constraint
    // above, which `BundleFile::open` hands on to its callers.
    unsafe { Mmap::map(file) }
}
