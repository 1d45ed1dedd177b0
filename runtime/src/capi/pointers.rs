//! What C hands over, checked as far as it can be.

use core::ffi::{CStr, c_char};

use super::Status;
use super::guard::{Failure, fail};

/// Refuses a null or misaligned pointer.
pub(super) fn aligned<T>(pointer: *const T) -> Result<(), Failure> {
    if pointer.is_null() {
        Err(fail(Status::Null, &"a pointer is null; see the header for what may be"))
    } else if !pointer.is_aligned() {
        Err(fail(Status::Pointer, &"a pointer is not aligned for its type; do not cast it from bytes"))
    } else {
        Ok(())
    }
}

/// Overwrites an output with zeros, which all types of the header allow.
///
/// # Safety
///
/// `to` is null, misaligned or writable; zeros are a value of `T`.
pub(super) unsafe fn zero_out<T>(to: *mut T) -> Result<(), Failure> {
    aligned(to)?;
    // SAFETY: not null and aligned, so writable.
    unsafe { to.write_bytes(0, 1) };
    Ok(())
}

/// `len` values that are overwritten with zeros; null is none.
///
/// # Safety
///
/// `to` is null, misaligned, or has `len` writable values that nothing else uses; zeros are a value of `T`.
pub(super) unsafe fn zeroed_slice<'a, T>(to: *mut T, len: usize) -> Result<&'a mut [T], Failure> {
    if to.is_null() && len == 0 {
        return Ok(&mut []);
    }
    aligned(to)?;
    fits::<T>(len)?;
    // SAFETY: not null, aligned and no larger than an object can be, so it has `len` writable values, which are zeros now.
    Ok(unsafe {
        to.write_bytes(0, len);
        core::slice::from_raw_parts_mut(to, len)
    })
}

/// `len` values; null is none.
///
/// # Safety
///
/// `from` is null, misaligned, or has `len` readable values that do not change while they are used.
pub(super) unsafe fn slice<'a, T>(from: *const T, len: usize) -> Result<&'a [T], Failure> {
    if from.is_null() && len == 0 {
        return Ok(&[]);
    }
    aligned(from)?;
    fits::<T>(len)?;
    // SAFETY: not null, aligned and no larger than an object can be, so it has `len` readable values.
    Ok(unsafe { core::slice::from_raw_parts(from, len) })
}

/// A text in UTF-8.
///
/// # Safety
///
/// As [`slice`].
pub(super) unsafe fn text<'a>(from: *const c_char, len: usize) -> Result<&'a str, Failure> {
    // SAFETY: the caller's promise.
    let bytes = unsafe { slice::<u8>(from.cast(), len)? };
    // The error tells a position, and no bytes.
    core::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        fail(Status::Utf8, &format_args!("the text is not UTF-8 at byte {at}; convert it"))
    })
}

/// A string that ends with a zero byte.
///
/// # Safety
///
/// `from` is null or such a string.
pub(super) unsafe fn string<'a>(from: *const c_char) -> Result<&'a str, Failure> {
    aligned(from)?;
    // SAFETY: the caller's promise.
    let string = unsafe { CStr::from_ptr(from) };
    string.to_str().map_err(|_| fail(Status::Utf8, &"a string is not UTF-8; convert it"))
}

/// Copies a string, with a zero byte behind it, into `capacity` bytes.
///
/// # Safety
///
/// `to` is null or has `capacity` writable bytes.
pub(super) unsafe fn copy_out(text: Option<&str>, to: *mut c_char, capacity: usize) -> Result<(), Failure> {
    // SAFETY: the caller's promise.
    let to = unsafe { zeroed_slice::<u8>(to.cast(), capacity)? };
    let text = text.ok_or_else(|| fail(Status::Index, &"the index is too large; ask for the count first"))?;
    match to.get_mut(..text.len()) {
        Some(place) if text.len() < capacity => place.copy_from_slice(text.as_bytes()),
        _ => {
            let needed = text.len() + 1;
            return Err(fail(
                Status::TooSmall,
                &format_args!("the string needs {needed} bytes, {capacity} were given"),
            ));
        }
    }
    Ok(())
}

fn fits<T>(len: usize) -> Result<(), Failure> {
    let bytes = len.checked_mul(size_of::<T>());
    if bytes.is_some_and(|bytes| isize::try_from(bytes).is_ok()) {
        Ok(())
    } else {
        Err(fail(Status::Pointer, &"a size is larger than an object can be; check for a negative one"))
    }
}
