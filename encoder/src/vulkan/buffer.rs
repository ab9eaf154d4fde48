//! Buffers: one like an earlier one is created without waiting, and its memory requirements are known.

use super::*;
use crate::vulkan::device::device;

impl BufferCommands for Driver {
    fn vkCreateBuffer(&self, c: &mut p::vkCreateBuffer) -> VkResult {
        // SAFETY: the application passes a live device, a struct with its chain, and room for a handle.
        unsafe {
            let info = c.pCreateInfo;
            // At an address of the program's choice there may be no room.
            let replay = (*info).flags & VK_BUFFER_CREATE_DEVICE_ADDRESS_CAPTURE_REPLAY_BIT != 0;
            let made = c.pBuffer.cast::<u64>();
            let device = device(c.device);
            let ret = device.buffers.create(c, Kind::Buffer, info, made, replay);
            if ret == VK_SUCCESS {
                device.descriptors.buffer_created(*made, (*info).size);
            }
            ret
        }
    }

    fn vkDestroyBuffer(&self, c: &mut p::vkDestroyBuffer) {
        let gone = c.buffer.0;
        // SAFETY: the application passes a live device.
        let device = unsafe { device(c.device) };
        device.buffers.forget(gone);
        device.descriptors.buffer_destroyed(gone);
        self.destroy(c, gone);
    }

    fn vkBindBufferMemory(&self, c: &mut p::vkBindBufferMemory) -> VkResult {
        // SAFETY: the application passes a live device.
        unsafe { device(c.device) }.buffers.bind(c)
    }

    fn vkGetBufferMemoryRequirements(&self, c: &mut p::vkGetBufferMemoryRequirements) {
        let (token, to) = (c.buffer.0, c.pMemoryRequirements);
        // SAFETY: the application passes a live device, and a struct.
        unsafe { device(c.device).buffers.answer(token, to, || self.call(c)) };
    }
}

/// `vkGetBufferMemoryRequirements2`.
pub(super) fn requirements2(c: &mut p::vkGetBufferMemoryRequirements2) {
    // SAFETY: the application passes a live device, and structs with their chains.
    unsafe {
        let (token, to) = ((*c.pInfo).buffer.0, c.pMemoryRequirements);
        device(c.device)
            .buffers
            .answer2(token, to, || Driver.call(c));
    }
}
