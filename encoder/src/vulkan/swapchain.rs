//! Swapchains: images of the host, each with a buffer that it is copied to when it is presented.
//!
//! A thread for each swapchain waits for the copies and shows them.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::*;
use crate::vulkan::device::device;
use crate::vulkan::surface::surface;
use crate::wsi::{Gone, Picture, Window};

/// Device extensions of this driver's own, with their versions.
pub(super) const DEVICE: &[(&CStr, u32)] = &[(c"VK_KHR_swapchain", 70)];

/// How long a frame stays on the screen, where frames wait for their turn.
const FRAME: Duration = Duration::from_nanos(16_666_667);

/// A VkSwapchainKHR.
struct Swapchain {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What its thread uses too.
struct Shared {
    device: VkDevice,
    window: Arc<dyn Window>,
    extent: VkExtent2D,
    red_first: bool,
    mode: VkPresentModeKHR,
    images: Vec<Image>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Image {
    image: VkImage,
    memory: VkDeviceMemory,
    buffer: VkBuffer,
    buffer_memory: VkDeviceMemory,
    /// Signals when the picture is in the buffer.
    fence: VkFence,
    /// The address of the buffer's memory.
    pixels: usize,
}

#[derive(Debug, Default)]
struct State {
    /// Images that nobody uses.
    idle: VecDeque<u32>,
    /// Images that were presented and not yet shown.
    presented: VecDeque<u32>,
    /// The thread is at one.
    busy: bool,
    /// What acquiring and presenting answer from now on, unless it is success.
    status: VkResult,
    /// Another swapchain has taken its place: nothing is acquired from it any more.
    retired: bool,
    end: bool,
    /// By queue family.
    copies: HashMap<u32, Copies>,
}

#[derive(Debug)]
struct Copies {
    pool: VkCommandPool,
    /// One for each image.
    buffers: Vec<VkCommandBuffer>,
}

/// The swapchain behind a handle.
///
/// # Safety
/// The handle is one of a live swapchain.
unsafe fn swapchain<'a>(handle: VkSwapchainKHR) -> &'a Swapchain {
    // SAFETY: the caller's promise.
    unsafe { &*(handle.0 as *const Swapchain) }
}

fn check(result: VkResult) -> Result<(), VkResult> {
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
    fn fill(&mut self, device: VkDevice, info: &VkSwapchainCreateInfoKHR) -> Result<(), VkResult> {
        let VkExtent2D { width, height } = info.imageExtent;
        let image = VkImageCreateInfo {
            sType: VK_STRUCTURE_TYPE_IMAGE_CREATE_INFO,
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
            ..zeroed()
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

    fn destroy(&self, device: VkDevice) {
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
    fn record(&self, buffer: VkCommandBuffer, extent: VkExtent2D) -> Result<(), VkResult> {
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

impl Shared {
    /// The command buffer that copies an image, on queues of this family.
    fn copy(
        &self,
        state: &mut State,
        family: u32,
        index: u32,
    ) -> Result<VkCommandBuffer, VkResult> {
        let copies = match state.copies.entry(family) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(slot) => {
                let copies = slot.insert(self.pool(family)?);
                self.record(copies)?;
                copies
            }
        };
        let buffer = copies.buffers.get(index as usize);
        buffer.copied().ok_or(VK_ERROR_OUT_OF_HOST_MEMORY)
    }

    fn pool(&self, family: u32) -> Result<Copies, VkResult> {
        let info = VkCommandPoolCreateInfo {
            sType: VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
            queueFamilyIndex: family,
            ..zeroed()
        };
        let mut pool = VkCommandPool(0);
        check(Driver.vkCreateCommandPool(&mut p::vkCreateCommandPool {
            device: self.device,
            pCreateInfo: &raw const info,
            pCommandPool: &raw mut pool,
            ..zeroed()
        }))?;
        Ok(Copies {
            pool,
            buffers: Vec::new(),
        })
    }

    /// Records a command buffer for each image; without all of them there are none.
    fn record(&self, copies: &mut Copies) -> Result<(), VkResult> {
        let mut buffers = vec![VkCommandBuffer(0); self.images.len()];
        let info = VkCommandBufferAllocateInfo {
            sType: VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
            commandPool: copies.pool,
            level: VK_COMMAND_BUFFER_LEVEL_PRIMARY,
            commandBufferCount: buffers.len() as u32,
            ..zeroed()
        };
        check(
            Driver.vkAllocateCommandBuffers(&mut p::vkAllocateCommandBuffers {
                device: self.device,
                pAllocateInfo: &raw const info,
                pCommandBuffers: buffers.as_mut_ptr(),
                ..zeroed()
            }),
        )?;
        for (image, buffer) in self.images.iter().zip(&buffers) {
            image.record(*buffer, self.extent)?;
        }
        copies.buffers = buffers;
        Ok(())
    }

    /// Waits for the copies of what is presented and shows them, until the end.
    fn show(&self) {
        let mut next = Instant::now();
        let mut state = self.state.lock();
        loop {
            let Some(index) = state.presented.pop_front() else {
                if state.end {
                    return;
                }
                self.changed.wait(&mut state);
                continue;
            };
            state.busy = true;
            let show = !state.end && state.status >= 0;
            let successor = state.presented.front().copied();
            drop(state);
            let status = self.show_one(index, show, successor, &mut next);
            state = self.state.lock();
            state.busy = false;
            state.idle.push_back(index);
            if status < 0 {
                state.status = status;
            }
            self.changed.notify_all();
        }
    }

    fn show_one(
        &self,
        index: u32,
        show: bool,
        successor: Option<u32>,
        next: &mut Instant,
    ) -> VkResult {
        let Some(image) = self.images.get(index as usize) else {
            return VK_SUCCESS;
        };
        let ret = Driver.vkWaitForFences(&mut p::vkWaitForFences {
            device: self.device,
            fenceCount: 1,
            pFences: &raw const image.fence,
            waitAll: 1,
            timeout: u64::MAX,
            ..zeroed()
        });
        if ret != VK_SUCCESS {
            return VK_ERROR_DEVICE_LOST;
        }
        Driver.vkResetFences(&mut p::vkResetFences {
            device: self.device,
            fenceCount: 1,
            pFences: &raw const image.fence,
            ..zeroed()
        });
        if !show || (self.mode == VK_PRESENT_MODE_MAILBOX_KHR && self.finished(successor)) {
            return VK_SUCCESS;
        }
        let len = self.extent.width as usize * self.extent.height as usize * 4;
        let drawn = self.window.draw(Picture {
            extent: self.extent,
            // SAFETY: the buffer is mapped for as long as it lives, is that long, and is written to only
            // after the image is acquired again.
            pixels: unsafe { std::slice::from_raw_parts(image.pixels as *const u8, len) },
            red_first: self.red_first,
        });
        if self.mode == VK_PRESENT_MODE_FIFO_KHR && self.window.paced() {
            let now = Instant::now();
            *next = (*next + FRAME).max(now);
            std::thread::sleep(*next - now);
        }
        match drawn {
            Err(Gone) => VK_ERROR_SURFACE_LOST_KHR,
            Ok(Some(e)) if (e.width, e.height) != (self.extent.width, self.extent.height) => {
                VK_ERROR_OUT_OF_DATE_KHR
            }
            Ok(_) => VK_SUCCESS,
        }
    }

    /// Whether an image is ready to be shown in place of the one before it.
    fn finished(&self, index: Option<u32>) -> bool {
        let image = index.and_then(|i| self.images.get(i as usize));
        image.is_some_and(|image| {
            let fence = image.fence;
            Driver.vkGetFenceStatus(&mut p::vkGetFenceStatus {
                device: self.device,
                fence,
                ..zeroed()
            }) == VK_SUCCESS
        })
    }

    /// An image that nobody uses, once there is one.
    fn acquire(&self, timeout: u64) -> Result<u32, VkResult> {
        let end = Instant::now().checked_add(Duration::from_nanos(timeout));
        let mut state = self.state.lock();
        loop {
            if state.status < 0 {
                return Err(state.status);
            }
            if state.retired {
                return Err(VK_ERROR_OUT_OF_DATE_KHR);
            }
            if let Some(index) = state.idle.pop_front() {
                return Ok(index);
            }
            match end {
                _ if timeout == 0 => return Err(VK_NOT_READY),
                Some(end) if timeout != u64::MAX => {
                    if self.changed.wait_until(&mut state, end).timed_out() {
                        return Err(VK_TIMEOUT);
                    }
                }
                _ => self.changed.wait(&mut state),
            }
        }
    }

    /// Ends acquiring; what was presented is shown before what another swapchain will show.
    fn retire(&self) {
        let end = Instant::now() + Duration::from_secs(1);
        let mut state = self.state.lock();
        state.retired = true;
        self.changed.notify_all();
        while state.busy || !state.presented.is_empty() {
            if self.changed.wait_until(&mut state, end).timed_out() {
                return;
            }
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let device = self.device;
        for copies in self.state.get_mut().copies.values() {
            Driver.vkDestroyCommandPool(&mut p::vkDestroyCommandPool {
                device,
                commandPool: copies.pool,
                ..zeroed()
            });
        }
        for image in &self.images {
            image.destroy(device);
        }
    }
}

impl Drop for Swapchain {
    fn drop(&mut self) {
        self.shared.state.lock().end = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn create(device: VkDevice, info: &VkSwapchainCreateInfoKHR) -> Result<Swapchain, VkResult> {
    if info.oldSwapchain.0 != 0 {
        // SAFETY: the application passes a live swapchain.
        unsafe { swapchain(info.oldSwapchain) }.shared.retire();
    }
    let count = info.minImageCount.max(surface::MIN_IMAGES);
    let mut shared = Shared {
        device,
        // SAFETY: the application passes a live surface.
        window: unsafe { surface(info.surface) }.window.clone(),
        extent: info.imageExtent,
        red_first: matches!(
            info.imageFormat,
            VK_FORMAT_R8G8B8A8_UNORM | VK_FORMAT_R8G8B8A8_SRGB
        ),
        mode: info.presentMode,
        images: Vec::new(),
        state: Mutex::default(),
        changed: Condvar::new(),
    };
    for index in 0..count {
        let mut image = Image::default();
        let filled = image.fill(device, info);
        shared.images.push(image);
        filled?;
        shared.state.get_mut().idle.push_back(index);
    }
    let shared = Arc::new(shared);
    let of_thread = shared.clone();
    let thread = std::thread::Builder::new()
        .name("asgard-present".to_owned())
        .spawn(move || of_thread.show())
        .map_err(|_| VK_ERROR_OUT_OF_HOST_MEMORY)?;
    Ok(Swapchain {
        shared,
        thread: Some(thread),
    })
}

/// `vkGetSwapchainImagesKHR`.
pub(super) fn images(c: &mut p::vkGetSwapchainImagesKHR) -> VkResult {
    // SAFETY: the application passes a live swapchain, and room.
    unsafe {
        let images = &swapchain(c.swapchain).shared.images;
        let images: Vec<VkImage> = images.iter().map(|i| i.image).collect();
        list(&images, c.pSwapchainImageCount, c.pSwapchainImages)
    }
}

/// `vkAcquireNextImage2KHR`.
pub(super) fn acquire(
    handle: VkDevice,
    info: &VkAcquireNextImageInfoKHR,
    to: *mut u32,
) -> VkResult {
    // SAFETY: the application passes a live swapchain and a live device.
    let (swapchain, device) = unsafe { (swapchain(info.swapchain), device(handle)) };
    let index = match swapchain.shared.acquire(info.timeout) {
        Ok(index) => index,
        Err(error) => return error,
    };
    let submit = VkSubmitInfo {
        sType: VK_STRUCTURE_TYPE_SUBMIT_INFO,
        signalSemaphoreCount: u32::from(info.semaphore.0 != 0),
        pSignalSemaphores: &raw const info.semaphore,
        ..zeroed()
    };
    let ret = Driver.vkQueueSubmit(&mut p::vkQueueSubmit {
        queue: device.first_queue(handle),
        submitCount: 1,
        pSubmits: &raw const submit,
        fence: info.fence,
        ..zeroed()
    });
    if ret != VK_SUCCESS {
        swapchain.shared.state.lock().idle.push_back(index);
        return ret;
    }
    // SAFETY: the application made room.
    unsafe { *to = index };
    VK_SUCCESS
}

/// `vkQueuePresentKHR`.
///
/// # Safety
/// The queue and the swapchains are live, and there are as many handles and indices as it says.
pub(super) unsafe fn present(queue: VkQueue, info: &VkPresentInfoKHR) -> VkResult {
    let count = info.swapchainCount as usize;
    // SAFETY: the caller's promise.
    let presented: Vec<(&Shared, u32)> = (0..count)
        .map(|i| unsafe {
            let swapchain = swapchain(*info.pSwapchains.add(i));
            (&*swapchain.shared, *info.pImageIndices.add(i))
        })
        .collect();
    let mut waits = info.waitSemaphoreCount;
    let stages = vec![VK_PIPELINE_STAGE_TRANSFER_BIT; waits as usize];
    let mut worst = VK_SUCCESS;
    for (i, (shared, index)) in presented.into_iter().enumerate() {
        // SAFETY: the swapchain's device is live as long as it is.
        let family = unsafe { device(shared.device) }.family_of(queue);
        let mut state = shared.state.lock();
        let copied = shared.copy(&mut state, family, index).and_then(|buffer| {
            let submit = VkSubmitInfo {
                sType: VK_STRUCTURE_TYPE_SUBMIT_INFO,
                // The first waits for all, and the others come after it.
                waitSemaphoreCount: std::mem::take(&mut waits),
                pWaitSemaphores: info.pWaitSemaphores,
                pWaitDstStageMask: stages.as_ptr(),
                commandBufferCount: 1,
                pCommandBuffers: &raw const buffer,
                ..zeroed()
            };
            let fence = shared.images[index as usize].fence;
            check(Driver.vkQueueSubmit(&mut p::vkQueueSubmit {
                queue,
                submitCount: 1,
                pSubmits: &raw const submit,
                fence,
                ..zeroed()
            }))
        });
        let result = match copied {
            Ok(()) => {
                state.presented.push_back(index);
                shared.changed.notify_all();
                state.status.min(VK_SUCCESS)
            }
            Err(error) => error,
        };
        if !info.pResults.is_null() {
            // SAFETY: the caller's promise.
            unsafe { *info.pResults.add(i) = result };
        }
        worst = worst.min(result);
    }
    worst
}

/// `vkBindImageMemory2`.
pub(super) fn bind(c: &mut p::vkBindImageMemory2) -> VkResult {
    // SAFETY: the application passes as many structs as it says; they are copied and not changed.
    let mut infos =
        unsafe { std::slice::from_raw_parts(c.pBindInfos, c.bindInfoCount as usize) }.to_vec();
    for info in &mut infos {
        let kind = VK_STRUCTURE_TYPE_BIND_IMAGE_MEMORY_SWAPCHAIN_INFO_KHR;
        // SAFETY: the application passes a valid chain, and a live swapchain.
        unsafe {
            let found = image::find::<VkBindImageMemorySwapchainInfoKHR>(info.pNext, kind);
            let Some(found) = found.filter(|f| f.swapchain.0 != 0) else {
                continue;
            };
            let images = &swapchain(found.swapchain).shared.images;
            if let Some(image) = images.get(found.imageIndex as usize) {
                info.memory = image.memory;
            }
            if std::ptr::addr_eq(info.pNext, found) {
                info.pNext = found.pNext;
            }
        }
    }
    Driver.call(&mut p::vkBindImageMemory2 {
        pBindInfos: infos.as_ptr(),
        ..*c
    })
}

impl SwapchainCommands for Driver {
    fn vkCreateSwapchainKHR(&self, c: &mut p::vkCreateSwapchainKHR) -> VkResult {
        // SAFETY: the application passes a live device and a struct, and room for a handle.
        unsafe {
            match create(c.device, &*c.pCreateInfo) {
                Ok(swapchain) => {
                    *c.pSwapchain = VkSwapchainKHR(Box::into_raw(Box::new(swapchain)) as u64);
                    VK_SUCCESS
                }
                Err(error) => error,
            }
        }
    }

    fn vkDestroySwapchainKHR(&self, c: &mut p::vkDestroySwapchainKHR) {
        if c.swapchain.0 != 0 {
            // SAFETY: it came from this driver, and the application does not use it any more.
            drop(unsafe { Box::from_raw(c.swapchain.0 as *mut Swapchain) });
        }
    }

    fn vkAcquireNextImageKHR(&self, c: &mut p::vkAcquireNextImageKHR) -> VkResult {
        let info = VkAcquireNextImageInfoKHR {
            sType: VK_STRUCTURE_TYPE_ACQUIRE_NEXT_IMAGE_INFO_KHR,
            swapchain: c.swapchain,
            timeout: c.timeout,
            semaphore: c.semaphore,
            fence: c.fence,
            deviceMask: 1,
            ..zeroed()
        };
        acquire(c.device, &info, c.pImageIndex)
    }
}
