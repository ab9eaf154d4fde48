//! Images of swapchains: each with a buffer that it is copied to when it is presented.

use super::*;
use crate::vulkan::image::find;

#[derive(Debug, Default)]
pub(super) struct Image {
    pub(super) image: VkImage,
    pub(super) memory: VkDeviceMemory,
    buffer: VkBuffer,
    buffer_memory: VkDeviceMemory,
    /// Signals when the picture is in the buffer.
    pub(super) fence: VkFence,
    /// The address of the buffer's memory.
    pub(super) pixels: usize,
}

pub(super) fn check(result: VkResult) -> Result<(), VkResult> {
    if result == VK_SUCCESS {
        Ok(())
    } else {
        Err(result)
    }
}

/// Memory for this, of the first type with all of these properties that has one.
fn allocate(
    handle: VkDevice,
    needs: &VkMemoryRequirements,
    wanted: &[VkMemoryPropertyFlags],
) -> Result<VkDeviceMemory, VkResult> {
    // SAFETY: the application passes a live device.
    let types = unsafe { &device(handle).memory_types };
    let kind = wanted.iter().find_map(|flags| {
        let fits =
            |(i, has): (usize, &u32)| needs.memoryTypeBits >> i & 1 != 0 && has & flags == *flags;
        types.iter().enumerate().position(fits)
    });
    let info = VkMemoryAllocateInfo {
        sType: VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO,
        allocationSize: needs.size,
        memoryTypeIndex: kind.ok_or(VK_ERROR_OUT_OF_DEVICE_MEMORY)? as u32,
        ..zeroed()
    };
    let mut memory = VkDeviceMemory(0);
    check(Driver.vkAllocateMemory(&mut p::vkAllocateMemory {
        device: handle,
        pAllocateInfo: &raw const info,
        pMemory: &raw mut memory,
        ..zeroed()
    }))?;
    Ok(memory)
}

impl Image {
    /// Makes what it is of; what is there already when a step fails is for [`Self::destroy`].
    pub(super) fn fill(
        &mut self,
        device: VkDevice,
        info: &VkSwapchainCreateInfoKHR,
    ) -> Result<(), VkResult> {
        let VkExtent2D { width, height } = info.imageExtent;
        let kind = VK_STRUCTURE_TYPE_IMAGE_FORMAT_LIST_CREATE_INFO;
        // SAFETY: the application passes a valid chain.
        let formats = unsafe { find::<VkImageFormatListCreateInfo>(info.pNext, kind) };
        let formats = formats.map(|list| VkImageFormatListCreateInfo {
            pNext: std::ptr::null(),
            ..*list
        });
        let mutable = VK_IMAGE_CREATE_MUTABLE_FORMAT_BIT | VK_IMAGE_CREATE_EXTENDED_USAGE_BIT;
        let image = VkImageCreateInfo {
            sType: VK_STRUCTURE_TYPE_IMAGE_CREATE_INFO,
            pNext: formats
                .as_ref()
                .map_or(std::ptr::null(), |list| std::ptr::from_ref(list).cast()),
            flags: if info.flags & VK_SWAPCHAIN_CREATE_MUTABLE_FORMAT_BIT_KHR != 0 {
                mutable
            } else {
                0
            },
            imageType: VK_IMAGE_TYPE_2D,
            format: info.imageFormat,
            extent: VkExtent3D {
                width,
                height,
                depth: 1,
            },
            mipLevels: 1,
            arrayLayers: info.imageArrayLayers,
            samples: VK_SAMPLE_COUNT_1_BIT,
            tiling: VK_IMAGE_TILING_OPTIMAL,
            usage: info.imageUsage | VK_IMAGE_USAGE_TRANSFER_SRC_BIT,
            sharingMode: info.imageSharingMode,
            queueFamilyIndexCount: info.queueFamilyIndexCount,
            pQueueFamilyIndices: info.pQueueFamilyIndices,
            initialLayout: VK_IMAGE_LAYOUT_UNDEFINED,
        };
        check(Driver.vkCreateImage(&mut p::vkCreateImage {
            device,
            pCreateInfo: &raw const image,
            pImage: &raw mut self.image,
            ..zeroed()
        }))?;
        let mut needs = zeroed::<VkMemoryRequirements>();
        Driver.vkGetImageMemoryRequirements(&mut p::vkGetImageMemoryRequirements {
            device,
            image: self.image,
            pMemoryRequirements: &raw mut needs,
            ..zeroed()
        });
        self.memory = allocate(device, &needs, &[VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT, 0])?;
        check(Driver.vkBindImageMemory(&mut p::vkBindImageMemory {
            device,
            image: self.image,
            memory: self.memory,
            ..zeroed()
        }))?;
        let buffer = VkBufferCreateInfo {
            sType: VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO,
            size: u64::from(width) * u64::from(height) * 4,
            usage: VK_BUFFER_USAGE_TRANSFER_DST_BIT,
            sharingMode: info.imageSharingMode,
            queueFamilyIndexCount: info.queueFamilyIndexCount,
            pQueueFamilyIndices: info.pQueueFamilyIndices,
            ..zeroed()
        };
        check(Driver.vkCreateBuffer(&mut p::vkCreateBuffer {
            device,
            pCreateInfo: &raw const buffer,
            pBuffer: &raw mut self.buffer,
            ..zeroed()
        }))?;
        Driver.vkGetBufferMemoryRequirements(&mut p::vkGetBufferMemoryRequirements {
            device,
            buffer: self.buffer,
            pMemoryRequirements: &raw mut needs,
            ..zeroed()
        });
        let mapped = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
        let wanted = [mapped | VK_MEMORY_PROPERTY_HOST_CACHED_BIT, mapped];
        self.buffer_memory = allocate(device, &needs, &wanted)?;
        check(Driver.vkBindBufferMemory(&mut p::vkBindBufferMemory {
            device,
            buffer: self.buffer,
            memory: self.buffer_memory,
            ..zeroed()
        }))?;
        let mut pixels = std::ptr::null_mut();
        check(Driver.vkMapMemory(&mut p::vkMapMemory {
            device,
            memory: self.buffer_memory,
            size: VK_WHOLE_SIZE,
            ppData: &raw mut pixels,
            ..zeroed()
        }))?;
        self.pixels = pixels as usize;
        let fence = VkFenceCreateInfo {
            sType: VK_STRUCTURE_TYPE_FENCE_CREATE_INFO,
            ..zeroed()
        };
        check(Driver.vkCreateFence(&mut p::vkCreateFence {
            device,
            pCreateInfo: &raw const fence,
            pFence: &raw mut self.fence,
            ..zeroed()
        }))
    }

    pub(super) fn destroy(&self, device: VkDevice) {
        if self.fence.0 != 0 {
            Driver.vkDestroyFence(&mut p::vkDestroyFence {
                device,
                fence: self.fence,
                ..zeroed()
            });
        }
        if self.buffer.0 != 0 {
            Driver.vkDestroyBuffer(&mut p::vkDestroyBuffer {
                device,
                buffer: self.buffer,
                ..zeroed()
            });
        }
        if self.image.0 != 0 {
            Driver.vkDestroyImage(&mut p::vkDestroyImage {
                device,
                image: self.image,
                ..zeroed()
            });
        }
        for memory in [self.buffer_memory, self.memory] {
            if memory.0 != 0 {
                Driver.vkFreeMemory(&mut p::vkFreeMemory {
                    device,
                    memory,
                    ..zeroed()
                });
            }
        }
    }

    /// Records how it is copied.
    pub(super) fn record(
        &self,
        buffer: VkCommandBuffer,
        extent: VkExtent2D,
    ) -> Result<(), VkResult> {
        let begin = VkCommandBufferBeginInfo {
            sType: VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO,
            ..zeroed()
        };
        check(Driver.vkBeginCommandBuffer(&mut p::vkBeginCommandBuffer {
            commandBuffer: buffer,
            pBeginInfo: &raw const begin,
            ..zeroed()
        }))?;
        let presented = VkImageMemoryBarrier {
            sType: VK_STRUCTURE_TYPE_IMAGE_MEMORY_BARRIER,
            dstAccessMask: VK_ACCESS_TRANSFER_READ_BIT,
            oldLayout: VK_IMAGE_LAYOUT_PRESENT_SRC_KHR,
            newLayout: VK_IMAGE_LAYOUT_TRANSFER_SRC_OPTIMAL,
            srcQueueFamilyIndex: VK_QUEUE_FAMILY_IGNORED,
            dstQueueFamilyIndex: VK_QUEUE_FAMILY_IGNORED,
            image: self.image,
            subresourceRange: VkImageSubresourceRange {
                aspectMask: VK_IMAGE_ASPECT_COLOR_BIT,
                levelCount: 1,
                layerCount: 1,
                ..zeroed()
            },
            ..zeroed()
        };
        Driver.vkCmdPipelineBarrier(&mut p::vkCmdPipelineBarrier {
            commandBuffer: buffer,
            srcStageMask: VK_PIPELINE_STAGE_TRANSFER_BIT,
            dstStageMask: VK_PIPELINE_STAGE_TRANSFER_BIT,
            imageMemoryBarrierCount: 1,
            pImageMemoryBarriers: &raw const presented,
            ..zeroed()
        });
        let whole = VkBufferImageCopy {
            imageSubresource: VkImageSubresourceLayers {
                aspectMask: VK_IMAGE_ASPECT_COLOR_BIT,
                layerCount: 1,
                ..zeroed()
            },
            imageExtent: VkExtent3D {
                width: extent.width,
                height: extent.height,
                depth: 1,
            },
            ..zeroed()
        };
        Driver.vkCmdCopyImageToBuffer(&mut p::vkCmdCopyImageToBuffer {
            commandBuffer: buffer,
            srcImage: self.image,
            srcImageLayout: VK_IMAGE_LAYOUT_TRANSFER_SRC_OPTIMAL,
            dstBuffer: self.buffer,
            regionCount: 1,
            pRegions: &raw const whole,
            ..zeroed()
        });
        let back = VkImageMemoryBarrier {
            srcAccessMask: 0,
            dstAccessMask: 0,
            oldLayout: presented.newLayout,
            newLayout: presented.oldLayout,
            ..presented
        };
        let read = VkBufferMemoryBarrier {
            sType: VK_STRUCTURE_TYPE_BUFFER_MEMORY_BARRIER,
            srcAccessMask: VK_ACCESS_TRANSFER_WRITE_BIT,
            dstAccessMask: VK_ACCESS_HOST_READ_BIT,
            srcQueueFamilyIndex: VK_QUEUE_FAMILY_IGNORED,
            dstQueueFamilyIndex: VK_QUEUE_FAMILY_IGNORED,
            buffer: self.buffer,
            size: VK_WHOLE_SIZE,
            ..zeroed()
        };
        Driver.vkCmdPipelineBarrier(&mut p::vkCmdPipelineBarrier {
            commandBuffer: buffer,
            srcStageMask: VK_PIPELINE_STAGE_TRANSFER_BIT,
            dstStageMask: VK_PIPELINE_STAGE_HOST_BIT | VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT,
            bufferMemoryBarrierCount: 1,
            pBufferMemoryBarriers: &raw const read,
            imageMemoryBarrierCount: 1,
            pImageMemoryBarriers: &raw const back,
            ..zeroed()
        });
        check(Driver.vkEndCommandBuffer(&mut p::vkEndCommandBuffer {
            commandBuffer: buffer,
            ..zeroed()
        }))
    }
}
