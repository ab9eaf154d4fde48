//! What every command's default body does.

use std::sync::atomic::{AtomicBool, Ordering};

use asgard_protocol::extension::Features;
use asgard_protocol::types::{Kind, VK_ERROR_DEVICE_LOST, VK_SUCCESS, VkCommandBuffer, VkResult};
use asgard_protocol::{Command, Writer};

use crate::object::{Dispatchable, Objects};
use crate::process::Process;
use crate::stream::{self, Lost};
use crate::vulkan::command_buffer::CommandBuffer;

/// The driver. It has no state of its own: that is in objects, threads and the process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Driver;

/// The default bodies.
pub(crate) trait Guest {
    /// Sends the command, and waits for the reply if there is one.
    fn call<C: Command>(&self, c: &mut C) -> C::Return {
        match stream::with(|s| s.call(c)) {
            Ok(ret) => ret,
            Err(error) => {
                lost(&error);
                C::LOST
            }
        }
    }

    /// As [`Self::call`] for each of several commands that return nothing, with one wait for all; false if
    /// the device is lost.
    fn call_all<C: Command<Return = ()>>(&self, all: &mut [C]) -> bool {
        let done = stream::with(|s| s.call_all(all));
        if let Err(error) = &done {
            lost(error);
        }
        done.is_ok()
    }

    /// Sends a command at once, and tells whether it could be sent. If it has a reply, see [`Self::tell_now`].
    fn send<C: Command>(&self, c: &mut C) -> VkResult {
        match stream::with(|s| s.send(c)) {
            Ok(()) => VK_SUCCESS,
            Err(error) => {
                lost(&error);
                VK_ERROR_DEVICE_LOST
            }
        }
    }

    /// Sends a command that cannot fail but for want of memory, soon, and does not wait for its answer.
    ///
    /// It waits where the host would answer all the same.
    fn tell<C: Command<Return = VkResult>>(&self, c: &mut C) -> VkResult {
        if !goes_unanswered() {
            return self.call(c);
        }
        match stream::with(|s| s.tell(c)) {
            Ok(()) => VK_SUCCESS,
            Err(error) => {
                lost(&error);
                VK_ERROR_DEVICE_LOST
            }
        }
    }

    /// As [`Self::tell`], at once: the device may be waiting for it.
    fn tell_now<C: Command<Return = VkResult>>(&self, c: &mut C) -> VkResult {
        if goes_unanswered() {
            self.send(c)
        } else {
            self.call(c)
        }
    }

    /// Sends a command that makes `n` objects of a kind at `made`: without waiting for it, where the
    /// guest may choose ids.
    fn create<C: Command<Return = VkResult>>(
        &self,
        c: &mut C,
        kind: Kind,
        made: *mut u64,
        n: usize,
    ) -> VkResult {
        let mut ids = Vec::new();
        if !Process::get().is_some_and(|p| p.choose(kind, n, &mut ids)) {
            return self.call(c);
        }
        match stream::with(|s| s.create(c, &ids)) {
            Ok(()) => {
                // SAFETY: the application made room for as many handles as it asked for.
                unsafe { std::ptr::copy_nonoverlapping(ids.as_ptr(), made, n) };
                VK_SUCCESS
            }
            Err(error) => {
                lost(&error);
                VK_ERROR_DEVICE_LOST
            }
        }
    }

    /// Sends a command that destroys an object; its id may be chosen for another one afterwards.
    fn destroy<C: Command<Return = ()>>(&self, c: &mut C, gone: u64) {
        if gone != 0 {
            self.call(c);
            Process::give_back(gone);
        }
    }

    /// Records the command into its command buffer.
    #[inline]
    fn record<C: Command>(&self, c: &mut C) -> C::Return {
        // SAFETY: the first parameter of every command that is recorded is its command buffer, a live
        // handle, and the application does not use it in two threads at once.
        unsafe {
            let handle = *std::ptr::from_ref(c).cast::<VkCommandBuffer>();
            let buffer = Dispatchable::<CommandBuffer>::from_handle(handle.0);
            stage(buffer.data.recording(), c);
        }
        C::LOST
    }
}

impl Guest for Driver {}

/// The host need not answer.
fn goes_unanswered() -> bool {
    Process::get().is_some_and(|p| p.features.has(Features::UNANSWERED))
}

/// Appends a command to a recording: the packet without its command buffer.
#[inline]
pub(crate) fn stage<C: Command>(recording: &mut Vec<u8>, c: &C) {
    let start = recording.len();
    // The opcode, and a size to be filled in.
    recording.extend_from_slice(&u64::from(C::OPCODE).to_le_bytes());
    let mut writer = Writer::new(recording, &Objects).staged();
    // SAFETY: the application's pointers are valid as the specification demands.
    unsafe { c.encode_request(&mut writer) };
    writer.patch_size(start);
}

/// Says once that the device is lost.
#[cold]
fn lost(error: &Lost) {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Ordering::Relaxed) {
        eprintln!("asgard: the Vulkan device is lost: {error}");
    }
}
