use core::cell::{Cell, RefCell};
use core::ffi::c_char;
use core::fmt::{self, Write};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::{Once, OnceLock};

use super::Status;

/// A call that failed; its message is this thread's last error. Only [`fail`] makes one.
#[derive(Clone, Copy)]
pub(super) struct Failure {
    status: Status,
}

/// Runs the inside of a C function: no panic leaves it.
pub(super) fn guard(call: impl FnOnce() -> Result<(), Failure>) -> Status {
    let outer = INSIDE.replace(true);
    // What a panic leaves behind is made anew before it is read: scratches at the next text, outputs are zeros.
    let result = panic::catch_unwind(AssertUnwindSafe(call));
    INSIDE.set(outer);
    match result {
        Ok(Ok(())) => Status::Ok,
        Ok(Err(failure)) => failure.status,
        Err(payload) => {
            // Dropping a payload could panic again. Ours are texts.
            core::mem::forget(payload);
            Status::Panic
        }
    }
}

/// Sets this thread's last error.
pub(super) fn fail(status: Status, message: &dyn fmt::Display) -> Failure {
    LAST.with(|last| {
        if let Ok(mut last) = last.try_borrow_mut() {
            last.set(message);
        }
    });
    Failure { status }
}

/// This thread's last error, which ends with a zero byte.
pub(super) fn last_error() -> *const c_char {
    LAST.with(|last| last.as_ptr().cast::<c_char>().cast_const())
}

/// From now on a panic in a guarded call prints nothing, because its message could quote a text; the last error says where it
/// was. Other panics are printed as before.
pub(super) fn hush() {
    type Hook = Box<dyn Fn(&PanicHookInfo<'_>) + Sync + Send>;
    static ONCE: Once = Once::new();
    // Not captured, so that the new hook allocates nothing that a leak checker would find.
    static BEFORE: OnceLock<Hook> = OnceLock::new();
    ONCE.call_once(|| {
        BEFORE.get_or_init(panic::take_hook);
        panic::set_hook(Box::new(|panic| {
            if !INSIDE.get() {
                return BEFORE.get().into_iter().for_each(|before| before(panic));
            }
            let (file, line) = panic.location().map_or(("?", 0), |location| (location.file(), location.line()));
            fail(Status::Panic, &format_args!("an error of kdh itself, at {file}:{line}; please report it"));
        }));
    });
}

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    static LAST: RefCell<Message> = const { RefCell::new(Message { bytes: [0; Message::SIZE], len: 0 }) };
}

/// A text of bounded length in UTF-8, with a zero byte behind it. The bytes come first: C reads them.
#[repr(C)]
struct Message {
    bytes: [u8; Self::SIZE],
    len: usize,
}

impl Message {
    const SIZE: usize = 512;

    fn set(&mut self, message: &dyn fmt::Display) {
        self.len = 0;
        // Longer messages are cut.
        let _ = write!(self, "{message}");
        if let Some(end) = self.bytes.get_mut(self.len) {
            *end = 0;
        }
    }
}

impl Write for Message {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = Self::SIZE - 1 - self.len;
        let kept = &text[..text.floor_char_boundary(room)];
        // C would take it for the end.
        for byte in kept.bytes().filter(|&byte| byte != 0) {
            if let Some(place) = self.bytes.get_mut(self.len) {
                *place = byte;
                self.len += 1;
            }
        }
        if kept.len() == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}
