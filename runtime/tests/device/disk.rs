//! A disk that loses power or space at any operation, and whatever was not synced then.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use kdh_runtime::store::Files;

/// Files by name, as they are after a power cut: on the disk for good.
pub(crate) type Image = BTreeMap<String, Vec<u8>>;

/// What goes wrong at an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The power goes in the middle of it.
    PowerCut,
    /// It fails half done, the disk being full say, and later ones do not.
    Error,
    /// It and all later writes fail half done.
    Full,
}

/// Counts operations and fails at one of them.
pub(crate) struct Disk(RefCell<Inner>);

struct Inner {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    /// On the disk for good.
    lasting: BTreeMap<String, usize>,
    /// Of names, not on the disk yet.
    pending: Vec<NameChange>,
    operations: usize,
    fault: Option<(usize, Fault)>,
    off: bool,
}

struct Inode {
    bytes: Vec<u8>,
    synced: bool,
}

#[derive(Clone)]
enum NameChange {
    Set(String, usize),
    Remove(String),
    Rename(String, String, usize),
}

impl Disk {
    pub(crate) fn new(image: &Image, fault: Option<(usize, Fault)>) -> Self {
        let inodes = image.values().map(|bytes| Inode { bytes: bytes.clone(), synced: true }).collect();
        let names: BTreeMap<String, usize> = image.keys().cloned().zip(0..).collect();
        let lasting = names.clone();
        Self(RefCell::new(Inner { inodes, names, lasting, pending: Vec::new(), operations: 0, fault, off: false }))
    }

    /// Operations so far that change something.
    pub(crate) fn operations(&self) -> usize {
        self.0.borrow().operations
    }

    /// Everything that a power cut now may leave: of the changes of names since the folder was synced any subset, and of each
    /// file that was not synced nothing, a part, all, or other bytes.
    pub(crate) fn survivors(&self) -> BTreeSet<Image> {
        let inner = self.0.borrow();
        let mut images = BTreeSet::new();
        assert!(inner.pending.len() < 10);
        for subset in 0..1_u32 << inner.pending.len() {
            let mut names = inner.lasting.clone();
            for (index, change) in inner.pending.iter().enumerate() {
                if subset >> index & 1 == 1 {
                    match change.clone() {
                        NameChange::Set(name, inode) => {
                            names.insert(name, inode);
                        }
                        NameChange::Remove(name) => {
                            names.remove(&name);
                        }
                        NameChange::Rename(from, to, inode) => {
                            names.remove(&from);
                            names.insert(to, inode);
                        }
                    }
                }
            }
            let mut variants = vec![Image::new()];
            for (name, &inode) in &names {
                let Inode { bytes, synced } = &inner.inodes[inode];
                let contents = if *synced { vec![bytes.clone()] } else { torn(bytes) };
                variants = variants
                    .iter()
                    .flat_map(|image| {
                        contents.iter().map(|content| {
                            let mut image = image.clone();
                            image.insert(name.clone(), content.clone());
                            image
                        })
                    })
                    .collect();
            }
            images.extend(variants);
        }
        images
    }

    /// Counts an operation. `Ok(true)`: do it; `Ok(false)`: do half of it, then fail.
    fn step(&self, writes: bool) -> io::Result<bool> {
        let mut inner = self.0.borrow_mut();
        if inner.off {
            return Err(failure());
        }
        let now = inner.operations;
        inner.operations += 1;
        match inner.fault {
            Some((at, Fault::PowerCut)) if now == at => {
                inner.off = true;
                Ok(false)
            }
            Some((at, Fault::Error)) if now == at => Ok(false),
            Some((at, Fault::Full)) if now >= at && writes => Ok(false),
            _ => Ok(true),
        }
    }

    fn inode(&self, name: &str) -> io::Result<usize> {
        self.0.borrow().names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Files for &Disk {
    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        if self.0.borrow().off {
            return Err(failure());
        }
        let inode = self.inode(name)?;
        Ok(self.0.borrow().inodes[inode].bytes.clone())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn AsRef<[u8]> + Send + Sync>> {
        Ok(Arc::new(self.read(name)?))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let whole = self.step(true)?;
        let mut inner = self.0.borrow_mut();
        let written = if whole { bytes } else { &bytes[..bytes.len() / 2] };
        let inode = match inner.names.get(name) {
            Some(&inode) => inode,
            None => {
                inner.inodes.push(Inode { bytes: Vec::new(), synced: false });
                let inode = inner.inodes.len() - 1;
                inner.names.insert(name.into(), inode);
                inner.pending.push(NameChange::Set(name.into(), inode));
                inode
            }
        };
        inner.inodes[inode] = Inode { bytes: written.to_vec(), synced: false };
        if whole { Ok(()) } else { Err(failure()) }
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        if !self.step(false)? {
            return Err(failure());
        }
        let inode = self.inode(name)?;
        self.0.borrow_mut().inodes[inode].synced = true;
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let done = self.step(false)?;
        let inode = self.inode(from)?;
        let mut inner = self.0.borrow_mut();
        // A power cut in the middle of it: it may have happened.
        if done || inner.off {
            inner.names.remove(from);
            inner.names.insert(to.into(), inode);
            inner.pending.push(NameChange::Rename(from.into(), to.into(), inode));
        }
        if done { Ok(()) } else { Err(failure()) }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let done = self.step(false)?;
        self.inode(name)?;
        let mut inner = self.0.borrow_mut();
        if done || inner.off {
            inner.names.remove(name);
            inner.pending.push(NameChange::Remove(name.into()));
        }
        if done { Ok(()) } else { Err(failure()) }
    }

    fn sync_folder(&self) -> io::Result<()> {
        if !self.step(false)? {
            return Err(failure());
        }
        let mut inner = self.0.borrow_mut();
        inner.lasting = inner.names.clone();
        inner.pending.clear();
        Ok(())
    }
}

/// What a disk may hold of a file that was not synced.
fn torn(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut zeros_behind = bytes[..bytes.len() / 2].to_vec();
    zeros_behind.resize(bytes.len(), 0);
    let almost = bytes[..bytes.len().saturating_sub(1)].to_vec();
    vec![Vec::new(), bytes[..bytes.len() / 2].to_vec(), almost, zeros_behind, bytes.to_vec()]
}

fn failure() -> io::Error {
    io::ErrorKind::StorageFull.into()
}
