//! Semaphores: those that share their payload with others as sync files.
//!
//! A sync file of a semaphore is one of a fence behind the batch that signals it. The export counts as a wait
//! for the semaphore; the host's is waited for when it is to be signalled again, because a driver may block in
//! a submission that waits for one whose signal is not on its way.
//! An imported sync file is waited for before the batch that waits for it is sent, which then waits for a
//! semaphore of ours that is signalled.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::*;
use crate::vulkan::device::device;
use crate::vulkan::fence::{SyncFile, give, sync_file_behind, take, wait_for};
use crate::vulkan::image::find;

/// The semaphores of a device that take part.
#[derive(Debug, Default)]
pub(crate) struct Semaphores {
    any: AtomicBool,
    /// By token.
    known: Mutex<HashMap<u64, Payload>>,
}

/// What a semaphore of the application's stands for at the moment.
#[derive(Debug, Default)]
struct Payload {
    /// The handle of the queue that was last told to signal it.
    queue: u64,
    /// The host's semaphore is signalled, and the application's not, since a sync file was made of it.
    exported: bool,
    /// In the place of the host's semaphore, until the next wait.
    imported: Option<SyncFile>,
    /// What the host waits for in its place.
    spare: VkSemaphore,
}

impl Semaphores {
    fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    fn change<T>(&self, semaphore: VkSemaphore, change: impl FnOnce(&mut Payload) -> T) -> T {
        self.any.store(true, Ordering::Release);
        change(self.known.lock().entry(semaphore.0).or_default())
    }
}

/// Whether submissions have to be looked at.
pub(super) fn any(handle: VkDevice) -> bool {
    // SAFETY: the application passes a live device.
    unsafe { device(handle) }.semaphores.any()
}

/// The application is about to have a queue signal a semaphore.
pub(super) fn signalled(handle: VkDevice, queue: VkQueue, semaphore: VkSemaphore) -> VkResult {
    // SAFETY: the application passes a live device.
    let semaphores = unsafe { &device(handle).semaphores };
    let exported = match semaphores.known.lock().get_mut(&semaphore.0) {
        None => return VK_SUCCESS,
        Some(payload) => {
            payload.queue = queue.0;
            std::mem::take(&mut payload.exported)
        }
    };
    if !exported {
        return VK_SUCCESS;
    }
    let stage = VK_PIPELINE_STAGE_ALL_COMMANDS_BIT;
    let wait = VkSubmitInfo {
        sType: VK_STRUCTURE_TYPE_SUBMIT_INFO,
        waitSemaphoreCount: 1,
        pWaitSemaphores: &raw const semaphore,
        pWaitDstStageMask: &raw const stage,
        ..zeroed()
    };
    Driver.send(&mut p::vkQueueSubmitAsyncGOOGLE {
        queue,
        submitCount: 1,
        pSubmits: &raw const wait,
        ..zeroed()
    })
}

/// What a queue of the host's has to wait for if the application has it wait for this semaphore.
pub(super) fn waited(
    handle: VkDevice,
    queue: VkQueue,
    semaphore: VkSemaphore,
) -> Result<VkSemaphore, VkResult> {
    // SAFETY: the application passes a live device.
    let semaphores = unsafe { &device(handle).semaphores };
    let (file, mut spare) = match semaphores.known.lock().get_mut(&semaphore.0) {
        Some(payload) => match payload.imported.take() {
            Some(file) => (file, payload.spare),
            None => return Ok(semaphore),
        },
        None => return Ok(semaphore),
    };
    if let Some(file) = file {
        wait_for(&*file, None);
    }
    if spare.0 == 0 {
        let info = VkSemaphoreCreateInfo {
            sType: VK_STRUCTURE_TYPE_SEMAPHORE_CREATE_INFO,
            ..zeroed()
        };
        let ret = Driver.call(&mut p::vkCreateSemaphore {
            device: handle,
            pCreateInfo: &raw const info,
            pSemaphore: &raw mut spare,
            ..zeroed()
        });
        if ret != VK_SUCCESS {
            return Err(ret);
        }
        semaphores.change(semaphore, |payload| payload.spare = spare);
    }
    let signal = VkSubmitInfo {
        sType: VK_STRUCTURE_TYPE_SUBMIT_INFO,
        signalSemaphoreCount: 1,
        pSignalSemaphores: &raw const spare,
        ..zeroed()
    };
    let ret = Driver.send(&mut p::vkQueueSubmitAsyncGOOGLE {
        queue,
        submitCount: 1,
        pSubmits: &raw const signal,
        ..zeroed()
    });
    if ret == VK_SUCCESS {
        Ok(spare)
    } else {
        Err(ret)
    }
}

/// `vkGetSemaphoreFdKHR`.
pub(super) fn get_fd(handle: VkDevice, info: &VkSemaphoreGetFdInfoKHR, to: *mut i32) -> VkResult {
    if info.handleType != VK_EXTERNAL_SEMAPHORE_HANDLE_TYPE_SYNC_FD_BIT {
        return VK_ERROR_INVALID_EXTERNAL_HANDLE;
    }
    // SAFETY: the application passes a live device.
    let device = unsafe { device(handle) };
    let (queue, imported) = device.semaphores.change(info.semaphore, |payload| {
        (payload.queue, payload.imported.take())
    });
    if let Some(file) = imported {
        return give(&file, to);
    }
    let queue = match queue {
        0 => device.first_queue(handle),
        queue => VkQueue(queue),
    };
    match sync_file_behind(handle, queue) {
        Ok(file) => {
            device
                .semaphores
                .change(info.semaphore, |payload| payload.exported = true);
            give(&Some(file), to)
        }
        Err(error) => error,
    }
}

/// `vkImportSemaphoreFdKHR`.
pub(super) fn import_fd(handle: VkDevice, info: &VkImportSemaphoreFdInfoKHR) -> VkResult {
    if info.handleType != VK_EXTERNAL_SEMAPHORE_HANDLE_TYPE_SYNC_FD_BIT {
        return VK_ERROR_INVALID_EXTERNAL_HANDLE;
    }
    // SAFETY: the application passes a live device.
    let semaphores = unsafe { &device(handle).semaphores };
    let file = take(info.fd);
    semaphores.change(info.semaphore, |payload| payload.imported = Some(file));
    VK_SUCCESS
}

impl SemaphoreCommands for Driver {
    fn vkCreateSemaphore(&self, c: &mut p::vkCreateSemaphore) -> VkResult {
        c.pAllocator = std::ptr::null();
        // SAFETY: the application passes a struct with its chain; it is copied and not changed.
        let (info, export, kind) = unsafe {
            let info = *c.pCreateInfo;
            let export = VK_STRUCTURE_TYPE_EXPORT_SEMAPHORE_CREATE_INFO;
            let kind = VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO;
            (
                info,
                find::<VkExportSemaphoreCreateInfo>(info.pNext, export),
                find::<VkSemaphoreTypeCreateInfo>(info.pNext, kind),
            )
        };
        if export.is_none() {
            let made = c.pSemaphore.cast();
            return self.create(c, Kind::Semaphore, made, 1);
        }
        // Other processes are not the host's business.
        let kind = kind.map(|kind| VkSemaphoreTypeCreateInfo {
            pNext: std::ptr::null(),
            ..*kind
        });
        let plain = VkSemaphoreCreateInfo {
            pNext: kind
                .as_ref()
                .map_or(std::ptr::null(), |kind| std::ptr::from_ref(kind).cast()),
            ..info
        };
        c.pCreateInfo = &raw const plain;
        let made = c.pSemaphore.cast();
        let ret = self.create(c, Kind::Semaphore, made, 1);
        if ret == VK_SUCCESS {
            // SAFETY: the application passes a live device and made room for a handle, which is filled.
            unsafe { device(c.device).semaphores.change(*c.pSemaphore, |_| ()) };
        }
        ret
    }

    fn vkDestroySemaphore(&self, c: &mut p::vkDestroySemaphore) {
        // SAFETY: the application passes a live device.
        let semaphores = unsafe { &device(c.device).semaphores };
        c.pAllocator = std::ptr::null();
        if semaphores.any()
            && let Some(payload) = semaphores.known.lock().remove(&c.semaphore.0)
            && payload.spare.0 != 0
        {
            self.call(&mut p::vkDestroySemaphore {
                semaphore: payload.spare,
                ..*c
            });
        }
        let gone = c.semaphore.0;
        self.destroy(c, gone);
    }
}
