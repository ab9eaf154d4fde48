//! The functions behind the hooks.

use std::ffi::{CStr, c_void};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// A function that one of the hooks stands in front of, looked up at its first use.
pub(crate) struct Real {
    name: &'static CStr,
    /// Where to look when the global scope has none.
    library: Option<&'static CStr>,
    address: AtomicPtr<c_void>,
}

impl Real {
    /// A function of libc, or whichever library comes next.
    pub(crate) const fn new(name: &'static CStr) -> Self {
        Real {
            name,
            library: None,
            address: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// A function of libdrm, which is often only in the local scope of a driver.
    pub(crate) const fn drm(name: &'static CStr) -> Self {
        Real {
            name,
            library: Some(c"libdrm.so.2"),
            address: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Its address, or null when there is no such function.
    pub(crate) fn address(&self) -> *mut c_void {
        let known = self.address.load(Ordering::Relaxed);
        if !known.is_null() {
            return known;
        }
        // SAFETY: the name is a C string; dlsym has no other requirement.
        let mut found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        if let (true, Some(library)) = (found.is_null(), self.library) {
            // SAFETY: both are C strings. The library stays loaded, because its handle is kept.
            found = unsafe {
                let handle = libc::dlopen(library.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
                if handle.is_null() {
                    ptr::null_mut()
                } else {
                    libc::dlsym(handle, self.name.as_ptr())
                }
            };
        }
        self.address.store(found, Ordering::Relaxed);
        found
    }
}

/// Calls the function behind a hook, whose type the caller states; `$missing` when there is none.
///
/// Must stand in an unsafe block: the type has to be that of the C function.
#[cfg(not(test))]
macro_rules! call_real {
    ($real:expr, fn($($ty:ty),*) -> $ret:ty, ($($arg:expr),*), $missing:expr) => {{
        let address = $real.address();
        if address.is_null() {
            $missing
        } else {
            let function: unsafe extern "C" fn($($ty),*) -> $ret = std::mem::transmute(address);
            function($($arg),*)
        }
    }};
}
#[cfg(not(test))]
pub(crate) use call_real;
