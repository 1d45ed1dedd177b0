use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;
use std::sync::{Arc, RwLock, TryLockError};

use super::guard::{Failure, fail};
use super::options::Log;
use super::{Labeler, Status};

/// Most labelers that are open at a time.
pub const MAX_LABELERS: usize = 64;

/// A labeler: immutable, and used by any number of threads. Its value 0 is none.
///
/// It is a number and may be copied. After kdh_close() every copy of it is refused.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle {
    /// The library's own.
    pub id: u64,
}

/// What a handle stands for.
pub(super) struct Entry {
    pub(super) labeler: Labeler,
    pub(super) bytes: Arc<dyn AsRef<[u8]> + Send + Sync>,
    /// Whether texts that are too long go through the model in windows.
    pub(super) windows: bool,
    pub(super) max_text_size: usize,
    pub(super) deadline: Option<Duration>,
    pub(super) log: Log,
}

/// A place in the table.
struct Place {
    /// Odd when a labeler is open here. Every handle of a place has another one, so that a handle that was closed is refused
    /// without a look at what is there now, which its user might be told is busy.
    generation: AtomicU32,
    entry: RwLock<Option<Entry>>,
}

/// Nobody ever waits for these locks: an attempt that fails is [`Status::Busy`]. Without waiting a lock is an atomic counter.
static PLACES: [Place; MAX_LABELERS] =
    [const { Place { generation: AtomicU32::new(0), entry: RwLock::new(None) } }; MAX_LABELERS];

/// A handle for the labeler, if a place is free.
pub(super) fn insert(entry: Entry) -> Option<Handle> {
    for (index, place) in (1_u64..).zip(&PLACES) {
        // The lock of an open labeler is left to those who use it.
        if place.is_open() {
            continue;
        }
        let mut free = match place.entry.try_write() {
            Ok(free) => free,
            // A panic has left the place as it was or empty.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => continue,
        };
        if free.is_none() {
            *free = Some(entry);
            let generation = place.generation.fetch_add(1, Ordering::AcqRel).wrapping_add(1);
            return Some(Handle { id: u64::from(generation) << 32 | index });
        }
    }
    None
}

/// Uses the labeler of a handle.
pub(super) fn with(handle: Handle, call: impl FnOnce(&Entry) -> Result<(), Failure>) -> Result<(), Failure> {
    let entry = match place(handle)?.entry.try_read() {
        Ok(entry) => entry,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        // Somebody closes it.
        Err(TryLockError::WouldBlock) => return Err(busy()),
    };
    // Meanwhile it may have been closed, and another one opened.
    place(handle)?;
    call(entry.as_ref().ok_or_else(not_open)?)
}

/// Takes the labeler of a handle out, if nobody is using it.
pub(super) fn remove(handle: Handle) -> Result<Entry, Failure> {
    let mut entry = match place(handle)?.entry.try_write() {
        Ok(entry) => entry,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return Err(busy()),
    };
    let place = place(handle)?;
    let removed = entry.take().ok_or_else(not_open)?;
    place.generation.fetch_add(1, Ordering::AcqRel);
    Ok(removed)
}

/// The place of a handle that is open.
fn place(handle: Handle) -> Result<&'static Place, Failure> {
    // The lower half is the place, counted from 1.
    let place = (handle.id as u32 as usize).checked_sub(1).and_then(|index| PLACES.get(index));
    let generation = (handle.id >> 32) as u32;
    place
        .filter(|place| generation % 2 == 1 && place.generation.load(Ordering::Acquire) == generation)
        .ok_or_else(not_open)
}

impl Place {
    fn is_open(&self) -> bool {
        self.generation.load(Ordering::Acquire) % 2 == 1
    }
}

fn not_open() -> Failure {
    fail(Status::Handle, &"the labeler is not open; open one, and use it until kdh_close()")
}

fn busy() -> Failure {
    fail(Status::Busy, &"another thread is using or closing the labeler; wait for it")
}
