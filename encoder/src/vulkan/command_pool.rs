//! Command pools.

use super::*;
use crate::object::Dispatchable;
use crate::process::Process;
use crate::vulkan::command_buffer::CommandBuffer;
use crate::vulkan::device::device;

/// Ends command buffers that the host does not know any more.
///
/// # Safety
/// The handles are live, and the application does not use them any more.
unsafe fn drop_all(handles: impl Iterator<Item = u64>) {
    for handle in handles.filter(|h| *h != 0) {
        // SAFETY: the caller's promise.
        let buffer = unsafe { Dispatchable::<CommandBuffer>::take(handle) };
        buffer.data.settle();
        Process::give_back(buffer.token);
    }
}

impl CommandPoolCommands for Driver {
    fn vkDestroyCommandPool(&self, c: &mut p::vkDestroyCommandPool) {
        c.pAllocator = std::ptr::null();
        let gone = c.commandPool.0;
        self.destroy(c, gone);
        // SAFETY: the application passes a live device, and its pool is gone.
        unsafe {
            let buffers = device(c.device).pools.lock().remove(&c.commandPool.0);
            drop_all(buffers.into_iter().flatten());
        }
    }

    fn vkResetCommandPool(&self, c: &mut p::vkResetCommandPool) -> VkResult {
        // SAFETY: the application passes a live device, whose command buffers are not in use.
        unsafe {
            for handle in device(c.device)
                .pools
                .lock()
                .get(&c.commandPool.0)
                .into_iter()
                .flatten()
            {
                let buffer = Dispatchable::<CommandBuffer>::from_handle(*handle);
                buffer.data.forget();
                buffer.data.lose();
            }
        }
        self.tell(c)
    }

    fn vkFreeCommandBuffers(&self, c: &mut p::vkFreeCommandBuffers) {
        self.call(c);
        // SAFETY: the application passes as many handles as it says, and does not use them any more.
        unsafe {
            let freed: Vec<u64> = (0..c.commandBufferCount as usize)
                .map(|i| (*c.pCommandBuffers.add(i)).0)
                .collect();
            if let Some(pool) = device(c.device).pools.lock().get_mut(&c.commandPool.0) {
                pool.retain(|handle| !freed.contains(handle));
            }
            drop_all(freed.into_iter());
        }
    }
}
