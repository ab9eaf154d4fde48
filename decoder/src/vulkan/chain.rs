//! `pNext` chains of decoded requests: finding, adding and taking out structs.
//!
//! A decoded chain is in an arena that belongs to the command that runs, so it may be changed.

use std::ffi::c_void;

use asgard_protocol::types::VkStructureType;
use asgard_protocol::wire::{Base, Wire};

/// Where the first struct of a type lies in the chain that starts at `next`; null when there is none.
///
/// # Safety
/// The chain was decoded, and its arena was not reset.
unsafe fn locate<T: Wire>(next: *const c_void) -> *const T {
    let mut p = next.cast::<Base>();
    // SAFETY: every struct of a decoded chain starts like Base, and its type says what it is.
    unsafe {
        while !p.is_null() && (*p).s_type != T::STYPE {
            p = (*p).next;
        }
    }
    p.cast()
}

/// The first struct of a type in the chain that starts at `next`.
///
/// # Safety
/// As [`locate`].
pub(super) unsafe fn find<'a, T: Wire>(next: *const c_void) -> Option<&'a T> {
    // SAFETY: the caller's promise.
    unsafe { locate::<T>(next).as_ref() }
}

/// As [`find`], to change it.
///
/// # Safety
/// As [`locate`], and nobody else looks at the struct.
pub(super) unsafe fn find_mut<'a, T: Wire>(next: *mut c_void) -> Option<&'a mut T> {
    // SAFETY: the caller's promise; the arena that it lies in is writable.
    unsafe { locate::<T>(next).cast_mut().as_mut() }
}

/// Takes every struct of one of these types out of the chain that starts in `slot`.
///
/// # Safety
/// As [`find`], and nobody else looks at the chain.
pub(super) unsafe fn remove(slot: &mut *const c_void, types: &[VkStructureType]) {
    let mut slot: *mut *const c_void = slot;
    // SAFETY: as in `find`; the slot is the caller's or a `next` of the chain.
    unsafe {
        while !(*slot).is_null() {
            let p = (*slot).cast::<Base>();
            if types.contains(&(*p).s_type) {
                *slot = (*p).next.cast();
            } else {
                slot = (&raw const (*p).next).cast_mut().cast();
            }
        }
    }
}
