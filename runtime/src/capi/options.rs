use core::ffi::{CStr, c_char, c_void};
use core::fmt;
use core::time::Duration;
use std::ffi::CString;

use super::Status;
use super::guard::{Failure, fail, last_error};
use super::pointers::{aligned, string};
use crate::{Kernels, LabelerOptions, Overflow, Trust};

/// In kdh_options: a text of more tokens than the model takes goes through it in windows of whole sentences, so that nothing is
/// cut. The time that it takes grows with the text: see max_text_size and deadline_ms.
pub const OVERFLOW_WINDOW: u32 = 0;

/// In kdh_options: a text of more tokens than the model takes is KDH_STATUS_TOO_MANY_TOKENS.
pub const OVERFLOW_REFUSE: u32 = 1;

/// In kdh_options: the model sees the first tokens of a text that is too long, and the report says so.
pub const OVERFLOW_TRUNCATE: u32 = 2;

/// In the flags of kdh_options: takes bundles that nobody trusted has signed. Whoever can write the file then chooses the
/// model: for development.
pub const OPEN_ALLOW_UNSIGNED: u32 = 1;

/// In the flags of kdh_options: test keys of `trust` count, too, whose secrets may be public. Not for devices in use.
pub const OPEN_ALLOW_TEST_KEYS: u32 = 2;

/// How a labeler treats texts, and whose bundles it takes. Make one with kdh_default_options(), then change it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Options {
    /// sizeof(kdh_options), as this program was compiled.
    pub size: usize,
    /// Longest text in bytes; 0: 1 MiB.
    pub max_text_size: usize,
    /// One of KDH_OVERFLOW_*.
    pub on_overflow: u32,
    /// Sum of some KDH_OPEN_*.
    pub flags: u32,
    /// Milliseconds after which a text is given up, with KDH_STATUS_DEADLINE, at most a twentieth of its time late; 0: never.
    pub deadline_ms: u32,
    /// Text of a trust file: the keys whose bundles are taken. Null: none, so that every bundle is refused unless a flag says
    /// otherwise.
    pub trust: *const c_char,
    /// Name of the kernels to compute with, such as "neon" or "portable"; null: the fastest that the processor has. All
    /// give the same bits.
    pub kernels: *const c_char,
    /// Is told what happens; null: nobody. Called by any thread that uses the labeler.
    pub log: LogFunction,
    /// Handed to `log`.
    pub log_user: *mut c_void,
    /// Name of the bundle's operating point that kdh_label() decides at; null: the default one.
    pub operating_point: *const c_char,
}

/// Is told what happens: `user` is from the options, `level` one of KDH_LOG_*, `message` lives until it returns and never holds
/// any of a text. It must not throw, jump out, or call this library.
pub type LogFunction = Option<unsafe extern "C" fn(user: *mut c_void, level: u32, message: *const c_char)>;

/// Level of a log message: a call failed.
pub const LOG_ERROR: u32 = 1;

/// Level of a log message: for the record.
pub const LOG_INFO: u32 = 3;

/// Options as they were read.
pub(super) struct Read {
    pub(super) labeler: LabelerOptions,
    /// Whether texts that are too long go through the model in windows.
    pub(super) windows: bool,
    pub(super) max_text_size: usize,
    pub(super) deadline: Option<Duration>,
    pub(super) log: Log,
}

impl Read {
    pub(super) fn log(&self, failure: &Failure) {
        self.log.failure(failure);
    }
}

/// Where messages go.
#[derive(Clone, Copy)]
pub(super) struct Log {
    function: LogFunction,
    user: *mut c_void,
}

// SAFETY: the header demands a function that any thread may call with `user`.
unsafe impl Send for Log {}
// SAFETY: as above.
unsafe impl Sync for Log {}

impl Log {
    /// The last error.
    pub(super) fn failure(&self, _: &Failure) {
        // SAFETY: it ends with a zero byte, and lives until the next error of this thread.
        self.write(LOG_ERROR, unsafe { CStr::from_ptr(last_error()) });
    }

    pub(super) fn info(&self, message: fmt::Arguments<'_>) {
        if self.function.is_some() {
            self.write(LOG_INFO, &CString::new(message.to_string()).unwrap_or_default());
        }
    }

    fn write(&self, level: u32, message: &CStr) {
        if let Some(function) = self.function {
            // SAFETY: the caller gave the function for this.
            unsafe { function(self.user, level, message.as_ptr()) };
        }
    }
}

/// Reads what a caller gave, who may have been compiled with a header of fewer options.
///
/// # Safety
///
/// `options` is null, or has as many readable bytes as its `size` says, and its pointers are what the header says.
pub(super) unsafe fn read(options: *const Options) -> Result<Read, Failure> {
    let mut given = Options {
        size: size_of::<Options>(),
        max_text_size: 0,
        on_overflow: OVERFLOW_WINDOW,
        flags: 0,
        deadline_ms: 0,
        trust: core::ptr::null(),
        kernels: core::ptr::null(),
        log: None,
        log_user: core::ptr::null_mut(),
        operating_point: core::ptr::null(),
    };
    if !options.is_null() {
        aligned(options)?;
        // SAFETY: the caller's promise: `size` is there in every version.
        let size = unsafe { (&raw const (*options).size).read() };
        // Another one would end in the middle of a pointer.
        if !SIZES.contains(&size) {
            let message = "kdh_options has a size that this library does not know; make it with kdh_default_options()";
            return Err(fail(Status::Option, &message));
        }
        // SAFETY: both have `size` bytes, apart from each other; fields are added at the end, whole, so all are valid.
        unsafe { core::ptr::copy_nonoverlapping(options.cast::<u8>(), (&raw mut given).cast::<u8>(), size) };
    }
    let max_text_size = match given.max_text_size {
        0 => LabelerOptions::DEFAULT_MAX_TEXT_BYTES,
        size => size.min(u32::MAX as usize),
    };
    let mut labeler = LabelerOptions::new().max_text_bytes(max_text_size);
    labeler = labeler.on_overflow(match given.on_overflow {
        OVERFLOW_WINDOW | OVERFLOW_TRUNCATE => Overflow::Truncate,
        OVERFLOW_REFUSE => Overflow::Refuse,
        _ => return Err(fail(Status::Option, &"on_overflow is none of KDH_OVERFLOW_*; give one of them")),
    });
    let mut trust = Trust::new();
    if !given.trust.is_null() {
        // SAFETY: the caller's promise.
        let text = unsafe { string(given.trust)? };
        trust = Trust::parse(text).map_err(|error| fail(Status::Option, &format_args!("trust: {error}")))?;
    }
    if given.flags & OPEN_ALLOW_UNSIGNED != 0 {
        trust = trust.allow_unsigned();
    }
    if given.flags & OPEN_ALLOW_TEST_KEYS != 0 {
        trust = trust.allow_test_keys();
    }
    labeler = labeler.trust(trust);
    if given.flags & !(OPEN_ALLOW_UNSIGNED | OPEN_ALLOW_TEST_KEYS) != 0 {
        return Err(fail(Status::Option, &"flags has a bit that is none of KDH_OPEN_*; clear it"));
    }
    if !given.operating_point.is_null() {
        // SAFETY: the caller's promise.
        labeler = labeler.operating_point(unsafe { string(given.operating_point)? });
    }
    if !given.kernels.is_null() {
        // SAFETY: the caller's promise.
        let kernels = unsafe { string(given.kernels)? };
        labeler = labeler.kernels(kernels.parse::<Kernels>().map_err(|error| fail(Status::Option, &error))?);
    }
    let deadline = (given.deadline_ms > 0).then(|| Duration::from_millis(given.deadline_ms.into()));
    let windows = given.on_overflow == OVERFLOW_WINDOW;
    Ok(Read { labeler, windows, max_text_size, deadline, log: Log { function: given.log, user: given.log_user } })
}

/// Of the options as they were: without an operating point, and with it.
const SIZES: [usize; 2] = [core::mem::offset_of!(Options, log_user) + size_of::<*mut c_void>(), size_of::<Options>()];
