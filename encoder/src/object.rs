//! Dispatchable objects: what the loader writes its dispatch table into, and our token behind it.
//!
//! Objects that are not dispatchable are the host's tokens themselves.

use asgard_protocol::types::Kind;
use asgard_protocol::{DecodeError, Handles};

use crate::process;

/// What the loader expects in the first word of a dispatchable object that a driver returns.
const LOADER_MAGIC: usize = 0x01cd_c0de;

/// A dispatchable object.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Dispatchable<T> {
    /// The loader's own, after creation.
    loader: usize,
    /// The host's name for it.
    pub(crate) token: u64,
    pub(crate) data: T,
}

impl<T> Dispatchable<T> {
    pub(crate) fn new(token: u64, data: T) -> Box<Self> {
        Box::new(Self {
            loader: LOADER_MAGIC,
            token,
            data,
        })
    }

    /// The handle that an application gets; [`Self::take`] ends it.
    pub(crate) fn into_handle(self: Box<Self>) -> u64 {
        Box::into_raw(self) as u64
    }

    /// The object behind a handle.
    ///
    /// # Safety
    /// The handle is one of a live object of this type: the specification demands it of applications.
    pub(crate) unsafe fn from_handle<'a>(handle: u64) -> &'a Self {
        // SAFETY: the caller's promise.
        unsafe { &*(handle as *const Self) }
    }

    /// Takes the object back.
    ///
    /// # Safety
    /// As [`Self::from_handle`], and nobody uses the handle any more.
    pub(crate) unsafe fn take(handle: u64) -> Box<Self> {
        // SAFETY: the caller's promise.
        unsafe { Box::from_raw(handle as *mut Self) }
    }
}

/// The token of any dispatchable object.
///
/// # Safety
/// The handle is null or one of a live dispatchable object.
pub(crate) unsafe fn token_of(handle: u64) -> u64 {
    if handle == 0 {
        return 0;
    }
    // SAFETY: every dispatchable object starts with the loader's word and the token.
    unsafe { (*(handle as *const Dispatchable<()>)).token }
}

/// Puts tokens in the place of handles.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Objects;

impl Handles for Objects {
    fn resolve(&self, _: Kind, token: u64) -> Result<u64, DecodeError> {
        Ok(token)
    }

    fn extended(&self) -> bool {
        process::extended()
    }

    fn token(&self, kind: Kind, handle: u64) -> u64 {
        match kind {
            Kind::Instance
            | Kind::PhysicalDevice
            | Kind::Device
            | Kind::Queue
            | Kind::CommandBuffer => {
                // SAFETY: applications pass live handles.
                unsafe { token_of(handle) }
            }
            // The guest's own.
            Kind::SurfaceKHR | Kind::SwapchainKHR => 0,
            _ => handle,
        }
    }
}
