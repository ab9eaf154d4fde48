//! `pNext` chains of decoded requests: finding, adding and taking out structs.
//!
//! A decoded chain is in an arena that belongs to the command that runs, so it may be changed.

use std::ffi::c_void;

use asgard_protocol::types::VkStructureType;
use asgard_protocol::wire::{Base, Wire};

/// The first struct of a type in the chain that starts at `next`.
///
/// # Safety
/// The chain was decoded, and its arena was not reset.
pub(super) unsafe fn find<'a, T: Wire>(next: *const c_void) -> Option<&'a T> {
    let mut p = next.cast::<Base>();
    while !p.is_null() {
        // SAFETY: every struct of a decoded chain starts like Base, and its type says what it is.
        unsafe {
            if (*p).s_type == T::STYPE {
                return Some(&*p.cast::<T>());
            }
            p = (*p).next;
        }
    }
    None
}

/// As [`find`], to change it.
///
/// # Safety
/// As [`find`], and nobody else looks at the struct.
pub(super) unsafe fn find_mut<'a, T: Wire>(next: *mut c_void) -> Option<&'a mut T> {
    // SAFETY: the caller's promise.
    let found = unsafe { find::<T>(next)? };
    // SAFETY: as above; the arena that it lies in is writable.
    Some(unsafe { &mut *std::ptr::from_ref(found).cast_mut() })
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
