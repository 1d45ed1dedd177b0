//! A disk that loses power or space at any operation, and whatever was not synced then.
#![allow(dead_code, reason = "each program that has it uses its own part")]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use kdh_runtime::{audit, store};

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
    /// So many of the first bytes are on the disk for good.
    safe: usize,
    /// And it ends there.
    synced: bool,
    /// What it held before it was cut off, should that not reach the disk.
    before: Option<Vec<u8>>,
}

impl Inode {
    fn synced(bytes: Vec<u8>) -> Self {
        Self { safe: bytes.len(), bytes, synced: true, before: None }
    }

    fn unsynced(bytes: Vec<u8>) -> Self {
        Self { bytes, safe: 0, synced: false, before: None }
    }

    fn sync(&mut self) {
        (self.safe, self.synced, self.before) = (self.bytes.len(), true, None);
    }

    /// What a power cut may leave of it.
    fn survivors(&self) -> Vec<Vec<u8>> {
        if self.synced {
            return vec![self.bytes.clone()];
        }
        let (safe, tail) = self.bytes.split_at(self.safe);
        let torn = torn(tail).into_iter().map(|tail| [safe, &tail].concat());
        torn.chain(self.before.clone()).collect()
    }
}

enum NameChange {
    Set(String, usize),
    Remove(String),
    Rename(String, String, usize),
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Set(name, inode) => {
                names.insert(name.clone(), *inode);
            }
            Self::Remove(name) => {
                names.remove(name);
            }
            Self::Rename(from, to, inode) => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
        }
    }
}

impl Disk {
    pub(crate) fn new(image: &Image, fault: Option<(usize, Fault)>) -> Self {
        let inodes = image.values().cloned().map(Inode::synced).collect();
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
                    change.apply(&mut names);
                }
            }
            let mut variants = vec![Image::new()];
            for (name, &inode) in &names {
                let contents = inner.inodes[inode].survivors();
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

    /// One of them: `choose` picks below the number that it is given.
    pub(crate) fn survivor(&self, mut choose: impl FnMut(usize) -> usize) -> Image {
        let inner = self.0.borrow();
        let mut names = inner.lasting.clone();
        for change in &inner.pending {
            if choose(2) == 1 {
                change.apply(&mut names);
            }
        }
        let content = |inode: usize| {
            let mut contents = inner.inodes[inode].survivors();
            contents.swap_remove(choose(contents.len()))
        };
        let inodes: Vec<usize> = names.values().copied().collect();
        names.into_keys().zip(inodes.into_iter().map(content)).collect()
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

    /// What every write to it is: half of it, if that is all that is done.
    fn overwrite(&self, name: &str, bytes: &[u8]) -> io::Result<usize> {
        let whole = self.step(true)?;
        let mut inner = self.0.borrow_mut();
        let written = if whole { bytes } else { &bytes[..bytes.len() / 2] };
        let inode = match inner.names.get(name) {
            Some(&inode) => inode,
            None => {
                inner.inodes.push(Inode::unsynced(Vec::new()));
                let inode = inner.inodes.len() - 1;
                inner.names.insert(name.into(), inode);
                inner.pending.push(NameChange::Set(name.into(), inode));
                inode
            }
        };
        inner.inodes[inode] = Inode::unsynced(written.to_vec());
        if whole { Ok(inode) } else { Err(failure()) }
    }

    fn inode(&self, name: &str) -> io::Result<usize> {
        self.0.borrow().names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl store::Files for &Disk {
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
        self.overwrite(name, bytes).map(drop)
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        if !self.step(false)? {
            return Err(failure());
        }
        let inode = self.inode(name)?;
        self.0.borrow_mut().inodes[inode].sync();
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

/// A disk with the file of an audit trail that is at hand.
pub(crate) struct Trail<'d> {
    disk: &'d Disk,
    at_hand: usize,
}

impl<'d> Trail<'d> {
    pub(crate) fn new(disk: &'d Disk) -> Self {
        Self { disk, at_hand: usize::MAX }
    }
}

impl audit::Files for Trail<'_> {
    fn names(&self) -> io::Result<Vec<String>> {
        let inner = self.disk.0.borrow();
        if inner.off { Err(failure()) } else { Ok(inner.names.keys().cloned().collect()) }
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        store::Files::read(&self.disk, name)
    }

    fn create(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let inode = self.disk.overwrite(name, bytes)?;
        store::Files::sync(&self.disk, name)?;
        store::Files::sync_folder(&self.disk)?;
        self.at_hand = inode;
        Ok(())
    }

    fn resume(&mut self, name: &str, len: u64) -> io::Result<()> {
        let inode = self.disk.inode(name)?;
        let file = |disk: &Disk| disk.0.borrow().inodes[inode].bytes.clone();
        if file(self.disk).len() as u64 > len {
            let done = self.disk.step(false)?;
            let mut inner = self.disk.0.borrow_mut();
            if done || inner.off {
                let file = &mut inner.inodes[inode];
                file.before = Some(file.bytes.clone());
                file.bytes.truncate(len as usize);
                (file.safe, file.synced) = (file.safe.min(len as usize), false);
            }
            if !done {
                return Err(failure());
            }
            drop(inner);
            store::Files::sync(&self.disk, name)?;
        }
        self.at_hand = inode;
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let whole = self.disk.step(true)?;
        let mut inner = self.disk.0.borrow_mut();
        let file = inner.inodes.get_mut(self.at_hand).ok_or(io::ErrorKind::NotFound)?;
        file.bytes.extend_from_slice(if whole { bytes } else { &bytes[..bytes.len() / 2] });
        file.synced = false;
        if whole { Ok(()) } else { Err(failure()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        if !self.disk.step(false)? {
            return Err(failure());
        }
        let mut inner = self.disk.0.borrow_mut();
        inner.inodes.get_mut(self.at_hand).ok_or(io::ErrorKind::NotFound)?.sync();
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        store::Files::remove(&self.disk, name)?;
        store::Files::sync_folder(&self.disk)
    }
}

/// What a disk may hold of bytes that were not synced. Zeros begin where a sector does: at a multiple of 32 bytes, wherever
/// the record of an audit trail lies that they are in.
fn torn(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut zeros_behind = bytes[..bytes.len() / 2 / 32 * 32].to_vec();
    zeros_behind.resize(bytes.len(), 0);
    let almost = bytes[..bytes.len().saturating_sub(1)].to_vec();
    vec![Vec::new(), bytes[..bytes.len() / 2].to_vec(), almost, zeros_behind, bytes.to_vec()]
}

fn failure() -> io::Error {
    io::ErrorKind::StorageFull.into()
}
