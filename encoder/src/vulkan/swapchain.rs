//! Swapchains: images of the host, each with a buffer that it is copied to when it is presented.
//!
//! A thread for each swapchain waits for the copies and shows them.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::image::find;
use super::*;
use crate::vulkan::device::device;
use crate::vulkan::surface::surface;
use crate::wsi::{Gone, Picture, Window};

mod image;
use image::{Image, check};

/// Device extensions of this driver's own, with their versions.
pub(super) const DEVICE: &[(&CStr, u32)] = &[
    (c"VK_KHR_incremental_present", 2),
    (c"VK_KHR_present_id", 1),
    (c"VK_KHR_present_id2", 1),
    (c"VK_KHR_present_wait", 1),
    (c"VK_KHR_present_wait2", 1),
    (c"VK_KHR_swapchain", 70),
    (c"VK_KHR_swapchain_maintenance1", 1),
    (c"VK_KHR_swapchain_mutable_format", 1),
    (c"VK_EXT_swapchain_maintenance1", 1),
];

/// Says that the features of these extensions are there, where a chain asks for them.
///
/// # Safety
/// The chain is valid.
pub(super) unsafe fn features(chain: *mut c_void) {
    let mut next = chain.cast::<VkBaseOutStructure>();
    // SAFETY: the caller's promise.
    while let Some(head) = unsafe { next.as_ref() } {
        // SAFETY: the struct is of the type that it says.
        unsafe {
            match head.sType {
                VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SWAPCHAIN_MAINTENANCE_1_FEATURES_KHR => {
                    let to = next.cast::<VkPhysicalDeviceSwapchainMaintenance1FeaturesKHR>();
                    (*to).swapchainMaintenance1 = 1;
                }
                VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PRESENT_ID_FEATURES_KHR => {
                    (*next.cast::<VkPhysicalDevicePresentIdFeaturesKHR>()).presentId = 1;
                }
                VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PRESENT_ID_2_FEATURES_KHR => {
                    (*next.cast::<VkPhysicalDevicePresentId2FeaturesKHR>()).presentId2 = 1;
                }
                VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PRESENT_WAIT_FEATURES_KHR => {
                    (*next.cast::<VkPhysicalDevicePresentWaitFeaturesKHR>()).presentWait = 1;
                }
                VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PRESENT_WAIT_2_FEATURES_KHR => {
                    (*next.cast::<VkPhysicalDevicePresentWait2FeaturesKHR>()).presentWait2 = 1;
                }
                _ => {}
            }
        }
        next = head.pNext.cast();
    }
}

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
    opaque: bool,
    images: Vec<Image>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Images that nobody uses.
    idle: VecDeque<u32>,
    /// What was presented and not yet shown.
    presented: VecDeque<Presented>,
    /// The thread is at one.
    busy: bool,
    /// The number of the newest that was shown, or was left out for one that was.
    shown: u64,
    /// How pictures are shown unless an application says otherwise.
    mode: VkPresentModeKHR,
    /// What acquiring and presenting answer from now on; a failure stays.
    status: VkResult,
    /// Another swapchain has taken its place: nothing is acquired from it any more.
    retired: bool,
    end: bool,
    /// By queue family.
    copies: HashMap<u32, Copies>,
}

/// An image that is to be shown.
struct Presented {
    index: u32,
    /// The application's number, or 0.
    id: u64,
    mode: VkPresentModeKHR,
    /// Where it differs from the one presented before; `None` if everywhere.
    damage: Option<Vec<VkRect2D>>,
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

impl Shared {
    /// What a present of several says of one, and the fence that it is to signal, or 0.
    ///
    /// # Safety
    /// There are as many of everything as it says, in its chain too.
    unsafe fn presented(&self, info: &VkPresentInfoKHR, i: usize) -> (Presented, VkFence) {
        let chain = info.pNext;
        // SAFETY: the caller's promise.
        unsafe {
            let kind = VK_STRUCTURE_TYPE_PRESENT_ID_KHR;
            let id = find::<VkPresentIdKHR>(chain, kind).map(|ids| ids.pPresentIds);
            let kind = VK_STRUCTURE_TYPE_PRESENT_ID_2_KHR;
            let id2 = find::<VkPresentId2KHR>(chain, kind).map(|ids| ids.pPresentIds);
            let ids = id2.or(id).filter(|ids| !ids.is_null());
            let kind = VK_STRUCTURE_TYPE_SWAPCHAIN_PRESENT_MODE_INFO_KHR;
            let modes = find::<VkSwapchainPresentModeInfoKHR>(chain, kind);
            let kind = VK_STRUCTURE_TYPE_SWAPCHAIN_PRESENT_FENCE_INFO_KHR;
            let fences = find::<VkSwapchainPresentFenceInfoKHR>(chain, kind);
            let kind = VK_STRUCTURE_TYPE_PRESENT_REGIONS_KHR;
            let regions = find::<VkPresentRegionsKHR>(chain, kind)
                .filter(|regions| !regions.pRegions.is_null())
                .map(|regions| &*regions.pRegions.add(i))
                .filter(|region| region.rectangleCount != 0 && !region.pRectangles.is_null());
            let frame = Presented {
                index: *info.pImageIndices.add(i),
                id: ids.map_or(0, |ids| *ids.add(i)),
                mode: modes.map_or_else(|| self.state.lock().mode, |m| *m.pPresentModes.add(i)),
                damage: regions.map(|region| {
                    let count = region.rectangleCount as usize;
                    let all = std::slice::from_raw_parts(region.pRectangles, count);
                    all.iter().filter_map(|r| self.inside(r)).collect()
                }),
            };
            let fence = fences.map_or(VkFence(0), |fences| *fences.pFences.add(i));
            (frame, fence)
        }
    }

    /// The part of a rectangle that is in the picture.
    fn inside(&self, rect: &VkRectLayerKHR) -> Option<VkRect2D> {
        let clip = |offset: i32, len: u32, limit: u32| {
            let start = i64::from(offset).clamp(0, limit.into());
            let end = (i64::from(offset) + i64::from(len)).clamp(start, limit.into());
            (start as i32, (end - start) as u32)
        };
        let (x, width) = clip(rect.offset.x, rect.extent.width, self.extent.width);
        let (y, height) = clip(rect.offset.y, rect.extent.height, self.extent.height);
        (width != 0 && height != 0).then_some(VkRect2D {
            offset: VkOffset2D { x, y },
            extent: VkExtent2D { width, height },
        })
    }

    /// The command buffer that copies an image, on queues of this family, and the fence that says when.
    fn copy(
        &self,
        state: &mut State,
        family: u32,
        index: u32,
    ) -> Result<(VkCommandBuffer, VkFence), VkResult> {
        let copies = match state.copies.entry(family) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(slot) => {
                let copies = slot.insert(self.pool(family)?);
                self.record(copies)?;
                copies
            }
        };
        let buffer = copies.buffers.get(index as usize);
        let both = buffer.zip(self.images.get(index as usize));
        both.map(|(buffer, image)| (*buffer, image.fence))
            .ok_or(VK_ERROR_OUT_OF_HOST_MEMORY)
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
        let mut state = self.state.lock();
        // The first has nothing before it that it could differ from in parts.
        let mut whole = true;
        loop {
            let Some(mut frame) = state.presented.pop_front() else {
                if state.end {
                    return;
                }
                self.changed.wait(&mut state);
                continue;
            };
            state.busy = true;
            // At the end only the last is worth it: it stays on the screen.
            let show = state.status >= 0 && (!state.end || state.presented.is_empty());
            let successor = state.presented.front().map(|s| s.index);
            drop(state);
            if whole {
                frame.damage = None;
            }
            let drawn = self.draw(&frame, show, successor);
            // What another of the same window has drawn is between, too.
            whole = !matches!(drawn, Ok(Some(_)));
            state = self.state.lock();
            state.idle.push_back(frame.index);
            if !(state.end || whole) && frame.mode == VK_PRESENT_MODE_FIFO_KHR {
                self.changed.notify_all();
                drop(state);
                let turned = self.window.turn();
                state = self.state.lock();
                if turned.is_err() {
                    state.status = VK_ERROR_SURFACE_LOST_KHR;
                }
            }
            state.busy = false;
            state.shown = state.shown.max(frame.id);
            match drawn {
                Err(error) => state.status = error,
                Ok(Some(status)) if state.status >= 0 => state.status = status,
                Ok(_) => {}
            }
            self.changed.notify_all();
        }
    }

    /// Waits for a picture and shows it; `None` if it was left out.
    fn draw(
        &self,
        frame: &Presented,
        show: bool,
        successor: Option<u32>,
    ) -> Result<Option<VkResult>, VkResult> {
        let Some(image) = self.images.get(frame.index as usize) else {
            return Ok(None);
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
            return Err(VK_ERROR_DEVICE_LOST);
        }
        Driver.vkResetFences(&mut p::vkResetFences {
            device: self.device,
            fenceCount: 1,
            pFences: &raw const image.fence,
            ..zeroed()
        });
        let replaced = frame.mode == VK_PRESENT_MODE_MAILBOX_KHR && self.finished(successor);
        if !show || replaced {
            return Ok(None);
        }
        let len = self.extent.width as usize * self.extent.height as usize * 4;
        let drawn = self.window.draw(Picture {
            extent: self.extent,
            // SAFETY: the buffer is mapped for as long as it lives, is that long, and is written to only
            // after the image is acquired again.
            pixels: unsafe { std::slice::from_raw_parts(image.pixels as *const u8, len) },
            red_first: self.red_first,
            opaque: self.opaque,
            damage: frame.damage.as_deref(),
        });
        match drawn {
            Err(Gone) => Err(VK_ERROR_SURFACE_LOST_KHR),
            Ok(Some(e)) if (e.width, e.height) != (self.extent.width, self.extent.height) => {
                Ok(Some(VK_SUBOPTIMAL_KHR))
            }
            Ok(_) => Ok(Some(VK_SUCCESS)),
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

    /// Waits until `done` has an answer, with `late` if that takes too long.
    fn wait<T>(
        &self,
        timeout: u64,
        late: VkResult,
        mut done: impl FnMut(&mut State) -> Option<Result<T, VkResult>>,
    ) -> Result<T, VkResult> {
        let end = Instant::now().checked_add(Duration::from_nanos(timeout));
        let mut state = self.state.lock();
        loop {
            if let Some(answer) = done(&mut state) {
                return answer;
            }
            match end {
                Some(end) if timeout != u64::MAX => {
                    if timeout == 0 || self.changed.wait_until(&mut state, end).timed_out() {
                        return done(&mut state).unwrap_or(Err(late));
                    }
                }
                _ => self.changed.wait(&mut state),
            }
        }
    }

    /// An image that nobody uses, once there is one, and how well the swapchain fits.
    fn acquire(&self, timeout: u64) -> Result<(u32, VkResult), VkResult> {
        let late = if timeout == 0 {
            VK_NOT_READY
        } else {
            VK_TIMEOUT
        };
        self.wait(timeout, late, |state| {
            if state.status < 0 {
                return Some(Err(state.status));
            }
            if state.retired {
                return Some(Err(VK_ERROR_OUT_OF_DATE_KHR));
            }
            let index = state.idle.pop_front()?;
            Some(Ok((index, state.status)))
        })
    }

    /// Waits until what has this number was shown.
    fn shown(&self, id: u64, timeout: u64) -> VkResult {
        let shown = self.wait(timeout, VK_TIMEOUT, |state| {
            if state.status < 0 {
                return Some(Err(state.status));
            }
            (state.shown >= id).then_some(Ok(state.status))
        });
        shown.unwrap_or_else(|error| error)
    }

    /// Ends acquiring.
    fn retire(&self) {
        self.state.lock().retired = true;
        self.changed.notify_all();
    }

    /// Waits until all that was presented was shown; gives up after a while.
    fn drained(&self) {
        let limit = Duration::from_secs(1).as_nanos() as u64;
        let _ = self.wait(limit, VK_TIMEOUT, |state| {
            (!state.busy && state.presented.is_empty()).then_some(Ok(()))
        });
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
    let predecessor = (info.oldSwapchain.0 != 0).then(|| {
        // SAFETY: the application passes a live swapchain.
        let old = unsafe { swapchain(info.oldSwapchain) };
        old.shared.retire();
        old.shared.clone()
    });
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
        opaque: info.compositeAlpha == VK_COMPOSITE_ALPHA_OPAQUE_BIT_KHR,
        images: Vec::new(),
        state: Mutex::default(),
        changed: Condvar::new(),
    };
    shared.state.get_mut().mode = info.presentMode;
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
        .spawn(move || {
            // What was presented to the window before comes before.
            if let Some(old) = predecessor {
                old.drained();
            }
            of_thread.show();
        })
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
    let (index, fits) = match swapchain.shared.acquire(info.timeout) {
        Ok(acquired) => acquired,
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
    fits
}

/// `vkReleaseSwapchainImagesKHR`.
pub(super) fn release(info: &VkReleaseSwapchainImagesInfoKHR) -> VkResult {
    // SAFETY: the application passes a live swapchain, and as many indices as it says.
    let (shared, indices) = unsafe {
        let count = info.imageIndexCount as usize;
        (
            &swapchain(info.swapchain).shared,
            std::slice::from_raw_parts(info.pImageIndices, count),
        )
    };
    let mut state = shared.state.lock();
    state.idle.extend(indices);
    shared.changed.notify_all();
    state.status.min(VK_SUCCESS)
}

/// `vkQueuePresentKHR`.
///
/// # Safety
/// The queue and the swapchains are live, and there are as many handles and indices as it says.
pub(super) unsafe fn present(queue: VkQueue, info: &VkPresentInfoKHR) -> VkResult {
    let presented: Vec<(&Shared, Presented, VkFence)> = (0..info.swapchainCount as usize)
        // SAFETY: the caller's promise.
        .map(|i| unsafe {
            let shared = &*swapchain(*info.pSwapchains.add(i)).shared;
            let (frame, fence) = shared.presented(info, i);
            (shared, frame, fence)
        })
        .collect();
    let mut waits = info.waitSemaphoreCount;
    let stages = vec![VK_PIPELINE_STAGE_TRANSFER_BIT; waits as usize];
    let mut worst = VK_SUCCESS;
    for (i, (shared, frame, fence)) in presented.into_iter().enumerate() {
        // SAFETY: the swapchain's device is live as long as it is.
        let family = unsafe { device(shared.device) }.family_of(queue);
        let mut state = shared.state.lock();
        let copy = shared.copy(&mut state, family, frame.index);
        let copied = copy.and_then(|(buffer, copied)| {
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
            check(Driver.vkQueueSubmit(&mut p::vkQueueSubmit {
                queue,
                submitCount: 1,
                pSubmits: &raw const submit,
                fence: copied,
                ..zeroed()
            }))?;
            if fence.0 == 0 {
                return Ok(());
            }
            // Afterwards nothing of the application's is in use.
            check(Driver.vkQueueSubmit(&mut p::vkQueueSubmit {
                queue,
                fence,
                ..zeroed()
            }))
        });
        let result = match copied {
            Ok(()) => {
                state.mode = frame.mode;
                state.presented.push_back(frame);
                shared.changed.notify_all();
                state.status
            }
            Err(error) => error,
        };
        if !info.pResults.is_null() {
            // SAFETY: the caller's promise.
            unsafe { *info.pResults.add(i) = result };
        }
        // A failure counts more than a success that is not perfect.
        worst = if worst.min(result) < 0 {
            worst.min(result)
        } else {
            worst.max(result)
        };
    }
    worst
}

/// `vkBindImageMemory2`.
pub(super) fn bind(
    c: &mut p::vkBindImageMemory2,
    bind: impl FnOnce(&mut p::vkBindImageMemory2) -> VkResult,
) -> VkResult {
    // SAFETY: the application passes as many structs as it says; they are copied and not changed.
    let mut infos =
        unsafe { std::slice::from_raw_parts(c.pBindInfos, c.bindInfoCount as usize) }.to_vec();
    for info in &mut infos {
        let kind = VK_STRUCTURE_TYPE_BIND_IMAGE_MEMORY_SWAPCHAIN_INFO_KHR;
        // SAFETY: the application passes a valid chain, and a live swapchain.
        unsafe {
            let found = find::<VkBindImageMemorySwapchainInfoKHR>(info.pNext, kind);
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
    bind(&mut p::vkBindImageMemory2 {
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

    fn vkWaitForPresentKHR(&self, c: &mut p::vkWaitForPresentKHR) -> VkResult {
        // SAFETY: the application passes a live swapchain.
        unsafe { swapchain(c.swapchain) }
            .shared
            .shown(c.presentId, c.timeout)
    }

    fn vkWaitForPresent2KHR(&self, c: &mut p::vkWaitForPresent2KHR) -> VkResult {
        // SAFETY: the application passes a live swapchain and a struct.
        unsafe {
            let info = &*c.pPresentWait2Info;
            let shared = &swapchain(c.swapchain).shared;
            shared.shown(info.presentId, info.timeout)
        }
    }
}
