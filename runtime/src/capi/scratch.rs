use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::Status;
use super::guard::{Failure, fail};
use super::handles::Entry;
use super::pointers::aligned;
use crate::engine::Stop;
use crate::{DocumentOptions, DocumentScratch, LabelError, OperatingPoint, Report, Scratch, ScratchTooSmall};

/// What one thread at a time labels with: the beginning of memory that the caller gave.
pub struct ScratchHandle {
    /// [`MAGIC`] and the handle's own address, so that neither a released nor a copied scratch has it.
    magic: AtomicU64,
    busy: AtomicBool,
    /// All of the caller's memory.
    memory: (*mut u8, usize),
    /// In the memory behind the handle.
    room: UnsafeCell<Room<'static>>,
}

/// Memory for texts, as the labeler's options ask for it.
#[expect(clippy::large_enum_variant, reason = "it lies in the caller's memory, and a box would allocate")]
pub(super) enum Room<'m> {
    /// For texts of any length.
    Windows(DocumentScratch<'m>),
    /// For the begin of texts.
    Begin(Scratch<'m>),
}

/// What a model says of a text.
pub(super) struct Found<'l> {
    pub(super) report: Report<'l>,
    pub(super) windows: usize,
    pub(super) splits: usize,
}

impl<'m> Room<'m> {
    fn required(entry: &Entry) -> usize {
        if entry.windows { entry.labeler.document_memory_required() } else { entry.labeler.memory_required() }
    }

    fn new_in(entry: &Entry, memory: &'m mut [u8]) -> Result<Self, ScratchTooSmall> {
        if entry.windows {
            entry.labeler.document_scratch_in(memory).map(Self::Windows)
        } else {
            entry.labeler.scratch_in(memory).map(Self::Begin)
        }
    }

    pub(super) fn label<'l>(
        &mut self,
        entry: &'l Entry,
        text: &str,
        point: OperatingPoint,
        stop: Stop,
    ) -> Result<Found<'l>, LabelError> {
        match self {
            Self::Windows(scratch) if entry.windows => {
                let (bytes, max_bytes) = (text.len(), entry.max_text_size);
                if bytes > max_bytes {
                    return Err(LabelError::TextTooLong { bytes, max_bytes });
                }
                scratch.set_stop(stop);
                let options = DocumentOptions::new().operating_point(point);
                let found = entry.labeler.label_document(scratch, &options, text)?;
                Ok(Found { report: found.report, windows: found.windows, splits: found.splits })
            }
            Self::Begin(scratch) if !entry.windows => {
                scratch.set_stop(stop);
                let report = entry.labeler.label_at(scratch, text, point)?;
                Ok(Found { report, windows: 1, splits: 0 })
            }
            _ => Err(LabelError::ForeignScratch),
        }
    }
}

/// "kdhscrat"
const MAGIC: u64 = u64::from_be_bytes(*b"kdhscrat");

/// Bytes that a scratch needs, wherever they begin.
pub(super) fn size(entry: &Entry) -> usize {
    Room::required(entry) + size_of::<ScratchHandle>() + align_of::<ScratchHandle>() - 1
}

/// A scratch in the caller's memory.
///
/// # Safety
///
/// `memory` is null or has `size` writable bytes that nothing else uses until [`release`].
pub(super) unsafe fn init(entry: &Entry, memory: *mut u8, size: usize) -> Result<*mut ScratchHandle, Failure> {
    aligned(memory)?;
    let required = self::size(entry);
    if size < required {
        let message = format_args!("the scratch needs {required} bytes, {size} were given; see kdh_scratch_size()");
        return Err(fail(Status::TooSmall, &message));
    }
    let start = memory.align_offset(align_of::<ScratchHandle>());
    let behind = start + size_of::<ScratchHandle>();
    // More than asked for is left alone, and no object is larger than `isize::MAX`.
    let rest = required.saturating_sub(behind);
    // SAFETY: `start`, the handle and `rest` are `required` bytes or fewer of the caller's memory, which nothing else uses. It
    // may be uninitialised, so it is filled before a slice is made of it.
    let (handle, rest) = unsafe {
        memory.write_bytes(0, required);
        let handle = memory.add(start).cast::<ScratchHandle>();
        (handle, core::slice::from_raw_parts_mut(memory.add(behind), rest))
    };
    let room = Room::new_in(entry, rest).map_err(|error| fail(Status::TooSmall, &error))?;
    let value = ScratchHandle {
        magic: AtomicU64::new(MAGIC ^ handle.addr() as u64),
        busy: AtomicBool::new(false),
        memory: (memory, required),
        room: UnsafeCell::new(room),
    };
    // SAFETY: aligned, and inside the caller's memory in front of `rest`.
    unsafe { handle.write(value) };
    Ok(handle)
}

/// The scratch, for as long as the result lives.
///
/// # Safety
///
/// `handle` is null, misaligned, or points to memory that is still there and, if it is a scratch, stays one.
pub(super) unsafe fn borrow<'a>(handle: *mut ScratchHandle) -> Result<Borrowed<'a>, Failure> {
    aligned(handle)?;
    // SAFETY: not null and aligned, so the memory is there; it may be anything, and an atomic number takes any bits.
    let magic = unsafe { AtomicU64::from_ptr((&raw mut (*handle).magic).cast()) };
    if magic.load(Ordering::Acquire) != MAGIC ^ handle.addr() as u64 {
        let message = "this is no scratch, or was released, moved or overwritten; make one with kdh_scratch_init()";
        return Err(fail(Status::Handle, &message));
    }
    // SAFETY: it is a scratch.
    let handle = unsafe { &*handle };
    if handle.busy.swap(true, Ordering::Acquire) {
        return Err(fail(Status::Busy, &"another thread is using this scratch; give each thread its own"));
    }
    Ok(Borrowed(handle))
}

/// Ends a scratch and overwrites all of its memory.
///
/// # Safety
///
/// As [`borrow`].
pub(super) unsafe fn release(handle: *mut ScratchHandle) -> Result<(), Failure> {
    // SAFETY: the caller's promise.
    let borrowed = unsafe { borrow(handle)? };
    let (memory, len) = borrowed.0.memory;
    // It stays busy: after this there is no scratch.
    core::mem::forget(borrowed);
    // SAFETY: it is a scratch, and `busy` keeps others from it. Its memory is the caller's that `init` filled; the slice that the
    // scratch had is gone with it.
    unsafe {
        handle.drop_in_place();
        memory.write_bytes(0, len);
    }
    // The memory is the caller's, who may never read it: without this the compiler could leave the zeros out.
    core::hint::black_box(memory);
    Ok(())
}

/// A scratch that no other thread uses.
pub(super) struct Borrowed<'a>(&'a ScratchHandle);

impl Deref for Borrowed<'_> {
    type Target = Room<'static>;

    fn deref(&self) -> &Room<'static> {
        // SAFETY: `busy` keeps others from it.
        unsafe { &*self.0.room.get() }
    }
}

impl DerefMut for Borrowed<'_> {
    fn deref_mut(&mut self) -> &mut Room<'static> {
        // SAFETY: as above.
        unsafe { &mut *self.0.room.get() }
    }
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        self.0.busy.store(false, Ordering::Release);
    }
}
