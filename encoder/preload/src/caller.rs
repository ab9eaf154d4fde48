//! Who called: the gfxstream driver, or anybody else in this process.

use std::ffi::{CStr, c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The driver's address range, empty while it has not been seen.
static START: AtomicUsize = AtomicUsize::new(0);
static END: AtomicUsize = AtomicUsize::new(0);

/// Whether this return address lies in the driver as last found by [`find_driver`].
#[inline]
pub(crate) fn is_driver(address: usize) -> bool {
    address >= START.load(Ordering::Relaxed) && address < END.load(Ordering::Relaxed)
}

/// Looks where the driver is loaded now, and whether this return address lies in it.
pub(crate) fn find_driver(address: usize) -> bool {
    let mut range = (address, 0, 0);
    // SAFETY: the callback has the required type, and `range` outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(library), (&raw mut range).cast()) };
    let (_, start, end) = range;
    if start == end {
        return false;
    }
    START.store(start, Ordering::Relaxed);
    END.store(end, Ordering::Relaxed);
    true
}

/// Called for each library; stops at the driver that holds the address.
unsafe extern "C" fn library(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    range: *mut c_void,
) -> c_int {
    // SAFETY: dl_iterate_phdr passes a valid description, and the pointer that `find_driver` gave it.
    let (info, range) = unsafe { (&*info, &mut *range.cast::<(usize, usize, usize)>()) };
    if info.dlpi_name.is_null() {
        return 0;
    }
    // SAFETY: the name is a C string as long as the library is loaded, which holds during the call.
    let name = unsafe { CStr::from_ptr(info.dlpi_name) }.to_bytes();
    let file = name.rsplit(|byte| *byte == b'/').next().unwrap_or(name);
    if !file.starts_with(b"libvulkan_gfxstream") {
        return 0;
    }
    for index in 0..usize::from(info.dlpi_phnum) {
        // SAFETY: the table has `dlpi_phnum` entries.
        let segment = unsafe { &*info.dlpi_phdr.add(index) };
        if segment.p_type == libc::PT_LOAD && segment.p_flags & libc::PF_X != 0 {
            let start = info.dlpi_addr as usize + segment.p_vaddr as usize;
            let end = start + segment.p_memsz as usize;
            if (start..end).contains(&range.0) {
                (range.1, range.2) = (start, end);
                return 1;
            }
        }
    }
    0
}
