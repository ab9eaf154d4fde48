//! Functions of the libraries through which an application talks to its window system.
//!
//! The application has loaded them; this driver does not link to them.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use libloading::Library;

/// A library that is there for as long as the process.
fn library(cell: &'static OnceLock<Option<Library>>, name: &str) -> Option<&'static Library> {
    // SAFETY: the application has loaded it already, so nothing runs that did not run before.
    cell.get_or_init(|| unsafe { Library::new(name) }.ok())
        .as_ref()
}

fn xcb() -> Option<&'static Library> {
    static XCB: OnceLock<Option<Library>> = OnceLock::new();
    library(&XCB, "libxcb.so.1")
}

fn xlib() -> Option<&'static Library> {
    static XLIB: OnceLock<Option<Library>> = OnceLock::new();
    library(&XLIB, "libX11.so.6")
}

/// Whether the library that a Wayland application talks through is there.
pub(super) fn has_wayland() -> bool {
    static WAYLAND: OnceLock<Option<Library>> = OnceLock::new();
    library(&WAYLAND, "libwayland-client.so.0").is_some()
}

/// Sends what the application has asked of its connection.
///
/// # Safety
/// It is a live `xcb_connection_t`.
pub(super) unsafe fn flush_xcb(connection: *mut c_void) {
    type Flush = unsafe extern "C" fn(*mut c_void) -> c_int;
    // SAFETY: the function has this type, and the caller's promise.
    unsafe {
        if let Some(flush) = xcb().and_then(|l| l.get::<Flush>(b"xcb_flush\0").ok()) {
            flush(connection);
        }
    }
}

/// Sends what the application has asked of its display.
///
/// # Safety
/// It is a live `Display`.
pub(super) unsafe fn flush_xlib(display: *mut c_void) {
    type Flush = unsafe extern "C" fn(*mut c_void) -> c_int;
    // SAFETY: the function has this type, and the caller's promise.
    unsafe {
        if let Some(flush) = xlib().and_then(|l| l.get::<Flush>(b"XFlush\0").ok()) {
            flush(display);
        }
    }
}

/// The name of a display.
///
/// # Safety
/// It is a live `Display`.
pub(super) unsafe fn display_name(display: *mut c_void) -> Option<String> {
    type Name = unsafe extern "C" fn(*mut c_void) -> *const c_char;
    // SAFETY: the function has this type, and the caller's promise; the answer is a C string.
    unsafe {
        let name = xlib()?.get::<Name>(b"XDisplayString\0").ok()?;
        let name = name(display);
        (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
    }
}
