//! Queues.

use super::*;
use crate::vulkan::command_buffer::flush;

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
        // SAFETY: the application passes as many structs and handles as it says.
        unsafe {
            for i in 0..c.submitCount as usize {
                let submit = &*c.pSubmits.add(i);
                for j in 0..submit.commandBufferCount as usize {
                    flush(c.queue, *submit.pCommandBuffers.add(j));
                }
            }
        }
        self.send(&mut p::vkQueueSubmitAsyncGOOGLE {
            queue: c.queue,
            submitCount: c.submitCount,
            pSubmits: c.pSubmits,
            fence: c.fence,
            ..zeroed()
        })
    }

    fn vkQueueSubmit2(&self, c: &mut p::vkQueueSubmit2) -> VkResult {
        // SAFETY: the application passes as many structs and handles as it says.
        unsafe {
            for i in 0..c.submitCount as usize {
                let submit = &*c.pSubmits.add(i);
                for j in 0..submit.commandBufferInfoCount as usize {
                    flush(c.queue, (*submit.pCommandBufferInfos.add(j)).commandBuffer);
                }
            }
        }
        self.send(&mut p::vkQueueSubmitAsync2GOOGLE {
            queue: c.queue,
            submitCount: c.submitCount,
            pSubmits: c.pSubmits,
            fence: c.fence,
            ..zeroed()
        })
    }
}
