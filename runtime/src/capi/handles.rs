use core::time::Duration;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, TryLockError};

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

/// A place in the table. Every handle of a place has another generation.
struct Place {
    generation: u32,
    entry: Option<Entry>,
}

/// Nobody ever waits for these locks: an attempt that fails is [`Status::Busy`]. Without waiting a lock is an atomic counter.
static PLACES: [RwLock<Place>; MAX_LABELERS] =
    [const { RwLock::new(Place { generation: 0, entry: None }) }; MAX_LABELERS];

/// A handle for the labeler, if a place is free.
pub(super) fn insert(entry: Entry) -> Option<Handle> {
    for (index, place) in (1_u64..).zip(&PLACES) {
        let mut place = match place.try_write() {
            Ok(place) => place,
            // A panic has left the place as it was or empty.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => continue,
        };
        if place.entry.is_none() {
            place.generation = place.generation.wrapping_add(1);
            place.entry = Some(entry);
            return Some(Handle { id: u64::from(place.generation) << 32 | index });
        }
    }
    None
}

/// Uses the labeler of a handle.
pub(super) fn with(handle: Handle, call: impl FnOnce(&Entry) -> Result<(), Failure>) -> Result<(), Failure> {
    let place = read(handle)?;
    match &place.entry {
        Some(entry) if place.generation == generation(handle) => call(entry),
        _ => Err(not_open()),
    }
}

/// Takes the labeler of a handle out, if nobody is using it.
pub(super) fn remove(handle: Handle) -> Result<Entry, Failure> {
    // A reader can tell whether the handle is right, a writer whether somebody uses it: without this a wrong handle could
    // be told to try again.
    with(handle, |_| Ok(()))?;
    let mut place = match place(handle)?.try_write() {
        Ok(place) => place,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return Err(busy()),
    };
    if place.generation != generation(handle) {
        return Err(not_open());
    }
    place.entry.take().ok_or_else(not_open)
}

fn read(handle: Handle) -> Result<RwLockReadGuard<'static, Place>, Failure> {
    match place(handle)?.try_read() {
        Ok(place) => Ok(place),
        Err(TryLockError::Poisoned(poisoned)) => Ok(PoisonError::into_inner(poisoned)),
        // Somebody opens or closes this place.
        Err(TryLockError::WouldBlock) => Err(busy()),
    }
}

fn place(handle: Handle) -> Result<&'static RwLock<Place>, Failure> {
    // The lower half is the place, counted from 1.
    let index = (handle.id as u32 as usize).checked_sub(1);
    index.and_then(|index| PLACES.get(index)).ok_or_else(not_open)
}

fn generation(handle: Handle) -> u32 {
    (handle.id >> 32) as u32
}

fn not_open() -> Failure {
    fail(Status::Handle, &"the labeler is not open; open one, and use it until kdh_close()")
}

fn busy() -> Failure {
    fail(Status::Busy, &"another thread is using, opening or closing the labeler; wait for it")
}
