//! The C ABI: what `include/kdh.h` declares.
//!
//! Every function catches panics, refuses null and misaligned pointers, and writes nothing before its arguments are
//! checked. A labeler is a number, not a pointer, so that one that was closed, or never opened, is refused and not followed.

#![expect(unsafe_code, reason = "C hands over pointers")]

use core::ffi::{c_char, c_void};
use std::sync::Arc;
use std::time::Instant;

use guard::{Failure, fail, guard, hush};
use handles::Entry;
use pointers::{copy_out, slice, text, zero_out};

use crate::engine::Stop;
use crate::{BuildError, Bundle, BundleFile, LabelError, Labeler, OperatingPoint};

pub use handles::{Handle, MAX_LABELERS};
pub use options::{
    LOG_ERROR, LOG_INFO, LogFunction, OPEN_ALLOW_TEST_KEYS, OPEN_ALLOW_UNSIGNED, OVERFLOW_REFUSE, OVERFLOW_TRUNCATE,
    OVERFLOW_WINDOW, Options,
};
pub use report::{
    ABSTENTION_OUT_OF_DISTRIBUTION, ABSTENTION_TOO_SHORT, ABSTENTION_UNKNOWN_TOKENS, Evidence, LabelReport,
    MAX_EVIDENCE, MAX_LABELS, Report,
};
pub use scratch::ScratchHandle;
pub use status::Status;

mod guard;
mod handles;
mod options;
mod pointers;
mod report;
mod scratch;
mod status;
#[cfg(test)]
mod tests;

/// Version of the interface. A program that was compiled with another one must not use the library: compare with
/// kdh_abi_version() once at start.
pub const ABI_VERSION: u32 = 2;

/// Bytes that the code, the name in words and the zero byte behind it take at most, each.
pub const MAX_NAME: usize = 129;

/// In kdh_features(): the library reads ONNX graphs.
pub const FEATURE_TRACT: u32 = 1;

/// In kdh_features(): kdh_open_file() maps the file instead of reading it.
pub const FEATURE_MMAP: u32 = 2;

/// KDH_ABI_VERSION of the library.
#[unsafe(no_mangle)]
pub extern "C" fn kdh_abi_version() -> u32 {
    ABI_VERSION
}

/// Version of the library, such as "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn kdh_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// What the library was built with: the sum of some KDH_FEATURE_*.
#[unsafe(no_mangle)]
pub extern "C" fn kdh_features() -> u32 {
    let mut features = 0;
    if cfg!(feature = "tract") {
        features |= FEATURE_TRACT;
    }
    if cfg!(feature = "mmap") {
        features |= FEATURE_MMAP;
    }
    features
}

/// What the last call of this thread that failed says, and what to do; "" before. Never holds any of a text.
///
/// The string is this thread's and lives until its next call of this library.
#[unsafe(no_mangle)]
pub extern "C" fn kdh_last_error() -> *const c_char {
    guard::last_error()
}

/// Opens the bundle in the file `path`, verifies it, and makes a labeler of it.
///
/// `options` may be null, but then no bundle is trusted. The file must not be changed or shortened while the labeler is open: install a new bundle by
/// renaming it over the old one. This is where memory is allocated and time is spent; labelling does neither.
///
/// On failure the labeler is 0, which every function refuses.
///
/// # Safety
///
/// `path` is a string, `options` null or a kdh_options, `labeler` writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kdh_open_file(path: *const c_char, options: *const Options, labeler: *mut Handle) -> Status {
    hush();
    guard(|| {
        // SAFETY: the caller's promise.
        unsafe { zero_out(labeler)? };
        // SAFETY: as above.
        let (path, options) = unsafe { (pointers::string(path)?, options::read(options)?) };
        let opened = BundleFile::open(path).map_err(|error| fail(Status::Open, &error));
        let handle =
            opened.and_then(|file| open(Arc::new(file), &options)).inspect_err(|failure| options.log(failure))?;
        // SAFETY: as above; it was checked by `zero_out`.
        unsafe { labeler.write(handle) };
        Ok(())
    })
}

/// As kdh_open_file(), from the `size` bytes of a bundle in memory, such as flash. They are used where they lie, and must stay
/// as they are until the labeler is closed. Weights that do not lie at a multiple of 64 are copied.
///
/// # Safety
///
/// `bundle` has `size` readable bytes that live and do not change until kdh_close(); `options` is null or a kdh_options,
/// `labeler` writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kdh_open_memory(
    bundle: *const c_void,
    size: usize,
    options: *const Options,
    labeler: *mut Handle,
) -> Status {
    hush();
    guard(|| {
        // SAFETY: the caller's promise.
        unsafe { zero_out(labeler)? };
        // SAFETY: as above. The bytes live as long as the labeler, which is as long as anything here uses them.
        let (bytes, options) = unsafe { (slice::<u8>(bundle.cast(), size)?, options::read(options)?) };
        let handle = open(Arc::new(bytes), &options).inspect_err(|failure| options.log(failure))?;
        // SAFETY: as above; it was checked by `zero_out`.
        unsafe { labeler.write(handle) };
        Ok(())
    })
}

fn open(bytes: Arc<dyn AsRef<[u8]> + Send + Sync>, options: &options::Read) -> Result<Handle, Failure> {
    let failed = |error: BuildError| {
        fail(if matches!(error, BuildError::Untrusted(_)) { Status::Untrusted } else { Status::Bundle }, &error)
    };
    let labeler = Labeler::from_shared(bytes.clone(), &options.labeler).map_err(failed)?;
    let &options::Read { windows, max_text_size, deadline, log, .. } = options;
    let entry = Entry { labeler, bytes, windows, max_text_size, deadline, log };
    let (labels, memory) = (entry.labeler.codes().len(), scratch::size(&entry));
    log.info(format_args!(
        "opened: {labels} labels, {} with {}, {memory} bytes of scratch for each thread",
        entry.labeler.engine().name(),
        entry.labeler.engine().kernels().join(" "),
    ));
    handles::insert(entry)
        .ok_or_else(|| fail(Status::Busy, &"as many labelers are open as there can be (KDH_MAX_LABELERS); close one"))
}

/// Closes a labeler. The memory of its scratches stays the caller's, and they may still be released.
///
/// KDH_STATUS_HANDLE when it is not open, twice closed say; KDH_STATUS_BUSY when another thread is using it: it stays open.
#[unsafe(no_mangle)]
pub extern "C" fn kdh_close(labeler: Handle) -> Status {
    guard(|| handles::remove(labeler).map(drop))
}

/// Labels the golden texts of the bundle and compares with what was recorded when it was made: KDH_STATUS_SELF_TEST when
/// this machine computes something else. Allocates; call it at start and when the device is idle.
///
/// `max_difference` may be null; otherwise it gets the largest difference of a logit.
///
/// # Safety
///
/// `max_difference` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kdh_self_test(labeler: Handle, max_difference: *mut f32) -> Status {
    guard(|| {
        if !max_difference.is_null() {
            // SAFETY: the caller's promise.
            unsafe { zero_out(max_difference)? };
        }
        handles::with(labeler, |entry| {
            let bytes = (*entry.bytes).as_ref();
            let bundle = Bundle::parse(bytes).map_err(|error| fail(Status::Bundle, &error))?;
            let result = entry.labeler.self_test(&bundle).map_err(|error| fail(Status::SelfTest, &error))?;
            if !max_difference.is_null() {
                // SAFETY: as above; it was checked by `zero_out`.
                unsafe { max_difference.write(result.max_difference) };
            }
            Ok(())
        })
    })
}

/// Number of labels, which is the number of kdh_label_report that kdh_label() writes; 0 when the labeler is not open.
#[unsafe(no_mangle)]
pub extern "C" fn kdh_label_count(labeler: Handle) -> usize {
    of_labeler(labeler, |entry| entry.labeler.codes().len())
}

/// Bytes of memory that kdh_scratch_init() needs for each thread; 0 when the labeler is not open.
#[unsafe(no_mangle)]
pub extern "C" fn kdh_scratch_size(labeler: Handle) -> usize {
    of_labeler(labeler, scratch::size)
}

fn of_labeler(labeler: Handle, value: impl FnOnce(&Entry) -> usize) -> usize {
    let mut found = 0;
    guard(|| {
        handles::with(labeler, |entry| {
            found = value(entry);
            Ok(())
        })
    });
    found
}

/// Copies the short code of label `index` (from 0) and a zero byte into the `capacity` bytes at `code`.
///
/// KDH_STATUS_TOO_SMALL when it does not fit; KDH_MAX_NAME bytes always do.
///
/// # Safety
///
/// `code` has `capacity` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kdh_label_code(labeler: Handle, index: usize, code: *mut c_char, capacity: usize) -> Status {
    // SAFETY: the caller's promise.
    guard(|| handles::with(labeler, |entry| unsafe { copy_out(entry.labeler.codes().nth(index), code, capacity) }))
}

/// As kdh_label_code(), the label's name in words; KDH_MAX_NAME bytes always do.
///
/// # Safety
///
/// `name` has `capacity` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kdh_label_name(labeler: Handle, index: usize, name: *mut c_char, capacity: usize) -> Status {
    // SAFETY: the caller's promise.
    guard(|| handles::with(labeler, |entry| unsafe { copy_out(entry.labeler.names().nth(index), name, capacity) }))
}

/// Number of operating points of the bundle, at least 1. The first is the default one; 0 when the labeler is not open.
#[unsafe(no_mangle)]
pub extern "C" fn kdh_operating_point_count(labeler: Handle) -> usize {
    of_labeler(labeler, |entry| entry.labeler.operating_points().len())
}

/// As kdh_label_code(), the name of operating point `index`, such as "recall-0.9"; KDH_MAX_NAME bytes always do.
///
/// # Safety
///
/// `name` has `capacity` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kdh_operating_point_name(
    labeler: Handle,
    index: usize,
    name: *mut c_char,
    capacity: usize,
) -> Status {
    guard(|| {
        handles::with(labeler, |entry| {
            let found = entry.labeler.operating_points().nth(index).map(|(name, _)| name);
            // SAFETY: the caller's promise.
            unsafe { copy_out(found, name, capacity) }
        })
    })
}

/// As kdh_label_code(), the name of the kernels that were chosen for this processor, such as "neon-dotprod".
///
/// # Safety
///
/// `kernels` has `capacity` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kdh_kernels(labeler: Handle, kernels: *mut c_char, capacity: usize) -> Status {
    guard(|| {
        handles::with(labeler, |entry| {
            let name = entry.labeler.engine().kernels().first().map(String::as_str);
            // SAFETY: the caller's promise.
            unsafe { copy_out(name, kernels, capacity) }
        })
    })
}

/// Makes a scratch, which one thread at a time labels with, in `size` bytes at `memory`, wherever that begins and whatever lies
/// there. Allocates nothing.
///
/// The memory is the scratch's until kdh_scratch_release(), and holds what came of the last text. It must not be moved or
/// copied.
///
/// On failure `*scratch` is null.
///
/// # Safety
///
/// `memory` has `size` writable bytes that nothing else uses until kdh_scratch_release(); `scratch` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kdh_scratch_init(
    labeler: Handle,
    memory: *mut c_void,
    size: usize,
    scratch: *mut *mut ScratchHandle,
) -> Status {
    guard(|| {
        // SAFETY: the caller's promise.
        unsafe { zero_out(scratch)? };
        handles::with(labeler, |entry| {
            // SAFETY: the caller's promise; `scratch` was checked by `zero_out`.
            unsafe { scratch.write(scratch::init(entry, memory.cast(), size)?) };
            Ok(())
        })
    })
}

/// Ends a scratch and overwrites its memory with zeros, so that nothing of the last text is left. Null is fine.
///
/// KDH_STATUS_HANDLE when it is none, twice released say; KDH_STATUS_BUSY when another thread is labelling with it.
///
/// # Safety
///
/// `scratch` is null, or points to memory that is still there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kdh_scratch_release(scratch: *mut ScratchHandle) -> Status {
    guard(|| {
        if scratch.is_null() {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        unsafe { scratch::release(scratch) }
    })
}

/// Labels a text: UTF-8 of `text_size` bytes, with or without a zero byte behind them. on_overflow of the options says what
/// happens to one of more tokens than the model takes.
///
/// Writes `*report` and one kdh_label_report for each label, kdh_label_count() in all, to `labels`, which has room for
/// `labels_capacity`. On failure they are zeros, as far as they are not null. Allocates nothing, locks nothing and makes no
/// system call, unless the log function that the caller gave does.
///
/// # Safety
///
/// `scratch` came from kdh_scratch_init(), `text` has `text_size` readable bytes, `report` and `labels_capacity` values at
/// `labels` are writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kdh_label(
    labeler: Handle,
    scratch: *mut ScratchHandle,
    text: *const c_char,
    text_size: usize,
    report: *mut Report,
    labels: *mut LabelReport,
    labels_capacity: usize,
) -> Status {
    // SAFETY: the caller's promise.
    unsafe { kdh_label_at(labeler, scratch, core::ptr::null(), text, text_size, report, labels, labels_capacity) }
}

/// As kdh_label(), at the operating point of this name; null is the one of the options.
///
/// KDH_STATUS_OPTION when the bundle has no such point.
///
/// # Safety
///
/// As kdh_label(); `operating_point` is null or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kdh_label_at(
    labeler: Handle,
    scratch: *mut ScratchHandle,
    operating_point: *const c_char,
    text: *const c_char,
    text_size: usize,
    report: *mut Report,
    labels: *mut LabelReport,
    labels_capacity: usize,
) -> Status {
    guard(|| {
        // SAFETY: the caller's promise.
        let labels = unsafe {
            zero_out(report)?;
            pointers::zeroed_slice(labels, labels_capacity)?
        };
        handles::with(labeler, |entry| {
            let mut run = || {
                // SAFETY: the caller's promise.
                let (text, mut scratch) = unsafe { (self::text(text, text_size)?, scratch::borrow(scratch)?) };
                if labels.len() < entry.labeler.codes().len() {
                    return Err(fail(
                        Status::TooSmall,
                        &"`labels` has less room than kdh_label_count() says; give more",
                    ));
                }
                // SAFETY: the caller's promise.
                let point = unsafe { point(entry, operating_point)? };
                let stop = entry.deadline.map(|deadline| Stop::new().deadline(Instant::now() + deadline));
                let found = scratch.label(entry, text, point, stop.unwrap_or_default());
                let scratch::Found { report: found, windows, splits } =
                    found.map_err(|error| fail(of_label(&error), &error))?;
                if found.abstention.contains(crate::Abstention::EMPTY) {
                    return Err(fail(of_label(&LabelError::NoTokens), &LabelError::NoTokens));
                }
                for (to, from) in labels.iter_mut().zip(&found.labels) {
                    *to = LabelReport::of(from);
                    // A model that abstains gives no label.
                    if !found.abstention.is_empty() {
                        *to = LabelReport { given: 0, evidence_count: 0, evidence: Default::default(), ..*to };
                    }
                }
                // SAFETY: the caller's promise; it was checked by `zero_out`.
                unsafe { report.write(Report::of(&found, windows, splits)) };
                Ok(())
            };
            run().inspect_err(|failure| entry.log.failure(failure))
        })
    })
}

/// The operating point of a name.
///
/// # Safety
///
/// `name` is null or a string.
unsafe fn point(entry: &Entry, name: *const c_char) -> Result<OperatingPoint, Failure> {
    if name.is_null() {
        return Ok(entry.labeler.point());
    }
    // SAFETY: the caller's promise.
    let point = entry.labeler.operating_point(unsafe { pointers::string(name)? });
    point.ok_or_else(|| fail(Status::Option, &BuildError::OperatingPoint))
}

fn of_label(error: &LabelError) -> Status {
    match error {
        LabelError::NoTokens => Status::NoTokens,
        LabelError::TextTooLong { .. } => Status::TextTooLong,
        LabelError::TooManyTokens { .. } => Status::TooManyTokens,
        LabelError::ForeignScratch => Status::ForeignScratch,
        LabelError::DeadlineExceeded => Status::Deadline,
        _ => Status::Engine,
    }
}
