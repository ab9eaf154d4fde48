//! Queues.

use super::*;
use crate::object::Dispatchable;
use crate::vulkan::command_buffer::flush;

#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) device: VkDevice,
}

/// The device of a queue.
///
/// # Safety
/// The handle is one of a live queue.
unsafe fn device_of(queue: VkQueue) -> VkDevice {
    // SAFETY: the caller's promise.
    unsafe { Dispatchable::<Queue>::from_handle(queue.0) }
        .data
        .device
}

/// What a submission waits for, with semaphores of the host's in the place of imported sync files; none if
/// that changes nothing.
fn waits<T: Copy>(
    device: VkDevice,
    queue: VkQueue,
    all: &[T],
    semaphore: impl Fn(&mut T) -> &mut VkSemaphore,
) -> Result<Option<Vec<T>>, VkResult> {
    let mut changed = None;
    for (i, wait) in all.iter().enumerate() {
        let mut wait = *wait;
        let old = *semaphore(&mut wait);
        let new = semaphore::waited(device, queue, old)?;
        if new.0 != old.0 {
            *semaphore(&mut wait) = new;
            changed.get_or_insert_with(|| all.to_vec())[i] = wait;
        }
    }
    Ok(changed)
}

/// As many values as the count says; none may be at null.
///
/// # Safety
/// There are as many, and they outlive the result.
unsafe fn slice<'a, T>(start: *const T, count: u32) -> &'a [T] {
    if count == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(start, count as usize) }
}

impl QueueCommands for Driver {
    fn vkGetDeviceQueue(&self, c: &mut p::vkGetDeviceQueue) {
        device::get_queue(c);
    }

    fn vkGetDeviceQueue2(&self, c: &mut p::vkGetDeviceQueue2) {
        device::get_queue2(c);
    }

    fn vkQueuePresentKHR(&self, c: &mut p::vkQueuePresentKHR) -> VkResult {
        // SAFETY: the application passes a live queue and a struct.
        unsafe { swapchain::present(c.queue, &*c.pPresentInfo) }
    }

    fn vkQueueSubmit(&self, c: &mut p::vkQueueSubmit) -> VkResult {
        // SAFETY: the application passes a live queue, and as many structs and handles as it says.
        let (device, submits) = unsafe { (device_of(c.queue), slice(c.pSubmits, c.submitCount)) };
        let (mut changed, mut kept) = (Vec::new(), Vec::new());
        for (i, submit) in submits.iter().enumerate() {
            // SAFETY: as above.
            let (buffers, wait, signal) = unsafe {
                (
                    slice(submit.pCommandBuffers, submit.commandBufferCount),
                    slice(submit.pWaitSemaphores, submit.waitSemaphoreCount),
                    slice(submit.pSignalSemaphores, submit.signalSemaphoreCount),
                )
            };
            for buffer in buffers {
                // SAFETY: the application passes live command buffers.
                unsafe { flush(c.queue, *buffer) };
            }
            if !semaphore::any(device) {
                continue;
            }
            for semaphore in signal {
                let ret = semaphore::signalled(device, c.queue, *semaphore);
                if ret != VK_SUCCESS {
                    return ret;
                }
            }
            match waits(device, c.queue, wait, |wait| wait) {
                Ok(None) => {}
                Ok(Some(wait)) => {
                    if changed.is_empty() {
                        changed = submits.to_vec();
                    }
                    changed[i].pWaitSemaphores = wait.as_ptr();
                    kept.push(wait);
                }
                Err(error) => return error,
            }
        }
        let ret = fence::submitted(device, c.queue, c.fence);
        if ret != VK_SUCCESS {
            return ret;
        }
        self.send(&mut p::vkQueueSubmitAsyncGOOGLE {
            queue: c.queue,
            submitCount: c.submitCount,
            pSubmits: if changed.is_empty() {
                c.pSubmits
            } else {
                changed.as_ptr()
            },
            fence: c.fence,
            ..zeroed()
        })
    }

    fn vkQueueSubmit2(&self, c: &mut p::vkQueueSubmit2) -> VkResult {
        // SAFETY: the application passes a live queue, and as many structs and handles as it says.
        let (device, submits) = unsafe { (device_of(c.queue), slice(c.pSubmits, c.submitCount)) };
        let (mut changed, mut kept) = (Vec::new(), Vec::new());
        for (i, submit) in submits.iter().enumerate() {
            // SAFETY: as above.
            let (buffers, wait, signal) = unsafe {
                (
                    slice(submit.pCommandBufferInfos, submit.commandBufferInfoCount),
                    slice(submit.pWaitSemaphoreInfos, submit.waitSemaphoreInfoCount),
                    slice(
                        submit.pSignalSemaphoreInfos,
                        submit.signalSemaphoreInfoCount,
                    ),
                )
            };
            for info in buffers {
                // SAFETY: the application passes live command buffers.
                unsafe { flush(c.queue, info.commandBuffer) };
            }
            if !semaphore::any(device) {
                continue;
            }
            for info in signal {
                let ret = semaphore::signalled(device, c.queue, info.semaphore);
                if ret != VK_SUCCESS {
                    return ret;
                }
            }
            match waits(device, c.queue, wait, |info| &mut info.semaphore) {
                Ok(None) => {}
                Ok(Some(wait)) => {
                    if changed.is_empty() {
                        changed = submits.to_vec();
                    }
                    changed[i].pWaitSemaphoreInfos = wait.as_ptr();
                    kept.push(wait);
                }
                Err(error) => return error,
            }
        }
        let ret = fence::submitted(device, c.queue, c.fence);
        if ret != VK_SUCCESS {
            return ret;
        }
        self.send(&mut p::vkQueueSubmitAsync2GOOGLE {
            queue: c.queue,
            submitCount: c.submitCount,
            pSubmits: if changed.is_empty() {
                c.pSubmits
            } else {
                changed.as_ptr()
            },
            fence: c.fence,
            ..zeroed()
        })
    }
}
