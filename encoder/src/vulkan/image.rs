//! Images: those of a swapchain are the swapchain's.

use super::*;

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
        self.call(c)
    }

    fn vkGetSwapchainImagesKHR(&self, c: &mut p::vkGetSwapchainImagesKHR) -> VkResult {
        swapchain::images(c)
    }
}
