//! Texts across the border: reading the caller's, passing out our own.

use std::ffi::c_char;

use crate::c;
use crate::failure::Failure;

/// A view of text that outlives the library's callers.
pub(crate) const fn fixed(text: &'static str) -> c::Text {
    c::Text {
        data: text.as_ptr().cast::<c_char>(),
        length: text.len() as u64,
    }
}

fn view(text: &str) -> c::Text {
    c::Text {
        data: text.as_ptr().cast::<c_char>(),
        length: text.len() as u64,
    }
}

/// Read a text argument.
///
/// fails: null with a length, longer than the header allows, not UTF-8.
///
/// # Safety
/// Where `text.data` is not null, `text.length` bytes from it are readable and unchanged for `'a`:
/// the header's rule for text arguments, kept by the caller for the duration of the call.
pub(crate) unsafe fn read<'a>(name: &str, text: c::Text) -> Result<&'a str, Failure> {
    if text.length == 0 {
        return Ok("");
    }
    if text.data.is_null() {
        return Err(Failure::invalid(format!(
            "{name} is null but {} bytes long",
            text.length
        )));
    }
    if text.length > c::TEXT_BYTES_MAX {
        return Err(Failure::invalid(format!(
            "{name} is {} bytes long; the limit is {}",
            text.length,
            c::TEXT_BYTES_MAX
        )));
    }
    let length = usize::try_from(text.length)
        .map_err(|_| Failure::invalid(format!("{name} is longer than memory")))?;
    // SAFETY: not null, `length` is far below isize::MAX (checked above), and the caller of this
    // function promises that many readable, unchanging bytes for 'a.
    let bytes = unsafe { std::slice::from_raw_parts(text.data.cast::<u8>(), length) };
    std::str::from_utf8(bytes)
        .map_err(|e| Failure::invalid(format!("{name} is not UTF-8 at byte {}", e.valid_up_to())))
}

/// The struct that C sees comes first, so that a pointer to it is a pointer to the whole.
#[repr(C)]
struct StringBox {
    head: c::OwnedText,
    text: String,
}

/// Pass out a text; the caller ends it through its `release`.
pub(crate) fn owned(text: String) -> *mut c::OwnedText {
    let head = c::OwnedText {
        struct_size: size_of::<c::OwnedText>() as u32,
        reserved: 0,
        text: fixed(""),
        release: release_text,
    };
    let mut boxed = Box::new(StringBox { head, text });
    boxed.head.text = view(&boxed.text);
    Box::into_raw(boxed).cast()
}

unsafe extern "C" fn release_text(this: *mut c::OwnedText) {
    if !this.is_null() {
        // SAFETY: `release` is only reachable from a struct of `owned`, whose head is the
        // first field of a StringBox from Box::into_raw; the header lets the caller release it
        // once.
        let boxed = unsafe { Box::from_raw(this.cast::<StringBox>()) };
        drop(boxed.text);
    }
}

#[repr(C)]
struct ErrorBox {
    head: c::Error,
    failure: Failure,
}

/// Pass out an error; the caller ends it through its `release`.
pub(crate) fn error(failure: Failure) -> *mut c::Error {
    let mut boxed = Box::new(ErrorBox {
        head: c::Error {
            struct_size: size_of::<c::Error>() as u32,
            status: failure.status as i32,
            message: fixed(""),
            hint: fixed(""),
            release: release_error,
        },
        failure,
    });
    boxed.head.message = view(&boxed.failure.message);
    boxed.head.hint = view(&boxed.failure.hint);
    Box::into_raw(boxed).cast()
}

unsafe extern "C" fn release_error(this: *mut c::Error) {
    if !this.is_null() {
        // SAFETY: `release` is only reachable from a struct of `error`, whose head is the
        // first field of an ErrorBox from Box::into_raw; the header lets the caller release it
        // once.
        let boxed = unsafe { Box::from_raw(this.cast::<ErrorBox>()) };
        drop(boxed.failure);
    }
}
