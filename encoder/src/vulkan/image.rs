//! Images: those of a swapchain are the swapchain's; one like an earlier one is created without waiting.

use super::*;
use crate::vulkan::device::device;

pub(super) mod host_copy;

/// The struct of this type in a chain.
///
/// # Safety
/// The chain is valid, and `T` is the struct that `kind` says.
pub(super) unsafe fn find<'a, T>(mut next: *const c_void, kind: VkStructureType) -> Option<&'a T> {
    while !next.is_null() {
        let head = next.cast::<VkBaseInStructure>();
        // SAFETY: the caller's promise.
        unsafe {
            if (*head).sType == kind {
                return Some(&*next.cast::<T>());
            }
            next = (*head).pNext.cast();
        }
    }
    None
}

impl ImageCommands for Driver {
    fn vkCreateImage(&self, c: &mut p::vkCreateImage) -> VkResult {
        // SAFETY: the application passes a struct with its chain; it is copied and not changed.
        let (mut info, swapchain) = unsafe {
            let info = *c.pCreateInfo;
            let kind = VK_STRUCTURE_TYPE_IMAGE_SWAPCHAIN_CREATE_INFO_KHR;
            (
                info,
                find::<VkImageSwapchainCreateInfoKHR>(info.pNext, kind),
            )
        };
        if swapchain.is_some_and(|s| s.swapchain.0 != 0) {
            // As those of the swapchain are, with which it is to share its memory.
            info.usage |= VK_IMAGE_USAGE_TRANSFER_SRC_BIT;
            c.pCreateInfo = &raw const info;
        }
        // SAFETY: the application passes a live device, a struct with its chain, and room for a handle.
        unsafe {
            let replay = info.flags & VK_IMAGE_CREATE_DESCRIPTOR_BUFFER_CAPTURE_REPLAY_BIT_EXT != 0;
            let made = c.pImage.cast::<u64>();
            let (device, at) = (device(c.device), c.pCreateInfo);
            let ret = device.images.create(c, Kind::Image, at, made, replay);
            if ret == VK_SUCCESS {
                device.copied.created(*made, &info);
            }
            ret
        }
    }

    fn vkDestroyImage(&self, c: &mut p::vkDestroyImage) {
        let gone = c.image.0;
        // SAFETY: the application passes a live device.
        let device = unsafe { device(c.device) };
        device.images.forget(gone);
        device.copied.forget(gone);
        self.destroy(c, gone);
    }

    fn vkBindImageMemory(&self, c: &mut p::vkBindImageMemory) -> VkResult {
        // SAFETY: the application passes a live device.
        unsafe { device(c.device) }.images.bind(c)
    }

    fn vkGetImageMemoryRequirements(&self, c: &mut p::vkGetImageMemoryRequirements) {
        let (token, to) = (c.image.0, c.pMemoryRequirements);
        // SAFETY: the application passes a live device, and a struct.
        unsafe { device(c.device).images.answer(token, to, || self.call(c)) };
    }

    fn vkGetSwapchainImagesKHR(&self, c: &mut p::vkGetSwapchainImagesKHR) -> VkResult {
        swapchain::images(c)
    }
}

/// `vkGetImageMemoryRequirements2`.
pub(super) fn requirements2(c: &mut p::vkGetImageMemoryRequirements2) {
    // SAFETY: the application passes a live device, and structs with their chains.
    unsafe {
        let info = *c.pInfo;
        if info.pNext.is_null() {
            let (token, to) = (info.image.0, c.pMemoryRequirements);
            device(c.device)
                .images
                .answer2(token, to, || Driver.call(c));
        } else {
            // Of one plane.
            Driver.call(c);
        }
    }
}
