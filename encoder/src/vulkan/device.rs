//! Devices.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::*;
use crate::object::Dispatchable;
use crate::vulkan::command_buffer::CommandBuffer;
use crate::vulkan::descriptor_buffer::Descriptors;
use crate::vulkan::device_memory::Memory;
use crate::vulkan::event::Events;
use crate::vulkan::fence::Fences;
use crate::vulkan::heard::Heard;
use crate::vulkan::queue::{Place, Queue};
use crate::vulkan::requirements::Requirements;
use crate::vulkan::semaphore::Semaphores;

#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) memory_types: VkTypes,
    /// Memory that is mapped or may be, by token.
    pub(crate) memories: Mutex<HashMap<u64, Arc<Memory>>>,
    /// The family of a queue that any thread may submit to.
    first_family: u32,
    /// Queue handles by family, index and flags.
    queues: Mutex<HashMap<(u32, u32, u32), u64>>,
    /// Entries of descriptor update templates, by token.
    pub(crate) templates: Mutex<HashMap<u64, Arc<descriptor_update_template::Template>>>,
    /// Handles of the command buffers of each pool, by the pool's token.
    pub(crate) pools: Mutex<HashMap<u64, Vec<u64>>>,
    /// Private data by slot and object.
    private_data: Mutex<HashMap<(u64, u64), u64>>,
    pub(crate) fences: Fences,
    pub(crate) semaphores: Semaphores,
    pub(super) events: Events,
    /// When the host was last asked about any of these.
    pub(super) heard: Heard,
    pub(super) buffers: Requirements,
    pub(super) descriptors: Descriptors,
    /// What is in descriptor pools.
    pub(super) books: descriptor_pool::Books,
    /// How often descriptor sets were written to.
    descriptor_updates: AtomicU64,
    pub(super) images: Requirements,
    /// Images that the host copies from and to by itself.
    pub(super) copied: image::host_copy::Copied,
    /// Pipeline layouts that recordings may need.
    pub(super) layouts: pipeline_layout::Layouts,
    /// The extensions that it was created with.
    extensions: HashSet<CString>,
    /// The minor version of Vulkan that the application uses.
    minor: u32,
}

/// The property flags of each memory type.
pub(crate) type VkTypes = Vec<VkMemoryPropertyFlags>;

/// The device behind a handle.
///
/// # Safety
/// The handle is one of a live device.
pub(crate) unsafe fn device<'a>(handle: VkDevice) -> &'a Device {
    // SAFETY: the caller's promise.
    &unsafe { Dispatchable::<Device>::from_handle(handle.0) }.data
}

impl Device {
    /// How often descriptor sets were written to so far: what binds them and is older has to be
    /// recorded again.
    pub(super) fn descriptor_updates(&self) -> u64 {
        self.descriptor_updates.load(Ordering::Relaxed)
    }

    /// Descriptor sets are about to be written to.
    pub(super) fn updates_descriptors(&self) {
        self.descriptor_updates.fetch_add(1, Ordering::Relaxed);
    }

    /// The family of a queue.
    pub(super) fn family_of(&self, queue: VkQueue) -> u32 {
        let queues = self.queues.lock();
        let known = queues.iter().find(|(_, handle)| **handle == queue.0);
        known.map_or(self.first_family, |((family, ..), _)| *family)
    }

    /// One bit for each memory type that can be mapped, and so shared.
    pub(super) fn mappable_types(&self) -> u32 {
        let mappable = |flags: &u32| flags & VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT != 0;
        let types = self.memory_types.iter().enumerate();
        types
            .filter(|(_, flags)| mappable(flags))
            .fold(0, |bits, (i, _)| bits | 1 << i)
    }

    /// A queue of this device, whose handle is given.
    pub(super) fn first_queue(&self, handle: VkDevice) -> VkQueue {
        let mut queue = VkQueue(0);
        get_queue(&mut p::vkGetDeviceQueue {
            device: handle,
            queueFamilyIndex: self.first_family,
            pQueue: &raw mut queue,
            ..zeroed()
        });
        queue
    }

    /// The handle of a queue, always the same for the same queue.
    fn queue(&self, device: VkDevice, key: (u32, u32, u32), get: impl FnOnce() -> u64) -> VkQueue {
        let mut queues = self.queues.lock();
        if let Some(handle) = queues.get(&key) {
            return VkQueue(*handle);
        }
        let token = get();
        if token == 0 {
            return VkQueue(0);
        }
        let handle = Dispatchable::new(token, Queue::new(device)).into_handle();
        queues.insert(key, handle);
        VkQueue(handle)
    }
}

/// `vkGetDeviceQueue`.
pub(super) fn get_queue(c: &mut p::vkGetDeviceQueue) {
    // SAFETY: the application passes a live device, and room for a handle.
    unsafe {
        let key = (c.queueFamilyIndex, c.queueIndex, 0);
        *c.pQueue = device(c.device).queue(c.device, key, || {
            let mut token = VkQueue(0);
            Driver.call(&mut p::vkGetDeviceQueue {
                pQueue: &raw mut token,
                ..*c
            });
            token.0
        });
    }
}

/// `vkGetDeviceQueue2`.
pub(super) fn get_queue2(c: &mut p::vkGetDeviceQueue2) {
    // SAFETY: the application passes a live device and a struct, and room for a handle.
    unsafe {
        let info = *c.pQueueInfo;
        let key = (info.queueFamilyIndex, info.queueIndex, info.flags);
        *c.pQueue = device(c.device).queue(c.device, key, || {
            let mut token = VkQueue(0);
            Driver.call(&mut p::vkGetDeviceQueue2 {
                pQueue: &raw mut token,
                ..*c
            });
            token.0
        });
    }
}

/// Binds memory: all at once, or one by one if the application asks for the result of any.
///
/// Those results are written through pointers in a chain, which has no way back on the wire. `call` is told
/// whether somebody asks.
///
/// # Safety
/// There are as many structs as `count` says, each with a `pNext` of its valid chain where `next` finds it.
unsafe fn bind<T>(
    count: u32,
    infos: *const T,
    next: impl Fn(&T) -> *const c_void,
    call: impl Fn(u32, *const T, bool) -> VkResult,
) -> VkResult {
    let kind = VK_STRUCTURE_TYPE_BIND_MEMORY_STATUS;
    // SAFETY: the caller's promise.
    let infos = unsafe { std::slice::from_raw_parts(infos, count as usize) };
    let statuses: Vec<_> = (infos.iter())
        // SAFETY: the caller's promise.
        .map(|info| unsafe { image::find::<VkBindMemoryStatus>(next(info), kind) })
        .collect();
    if statuses.iter().all(Option::is_none) {
        return call(count, infos.as_ptr(), false);
    }
    let mut worst = VK_SUCCESS;
    for (info, status) in infos.iter().zip(statuses) {
        let ret = call(1, info, status.is_some());
        if let Some(status) = status {
            // SAFETY: the application made room for a result.
            unsafe { *status.pResult = ret };
        }
        worst = worst.min(ret);
    }
    worst
}

impl DeviceCommands for Driver {
    fn vkGetDeviceProcAddr(&self, c: &mut p::vkGetDeviceProcAddr) -> PFN_vkVoidFunction {
        // SAFETY: the application passes a string.
        let name = unsafe { CStr::from_ptr(c.pName) };
        let extensions = extensions_of(name);
        // SAFETY: the application passes a live device.
        let device = unsafe { device(c.device) };
        let enabled = |e: &&CStr| device.extensions.contains(*e);
        if since(name) > device.minor || !extensions.is_empty() && !extensions.iter().any(enabled) {
            return None;
        }
        device_entry(name)
    }

    fn vkCreateDevice(&self, c: &mut p::vkCreateDevice) -> VkResult {
        let mut memory = zeroed::<VkPhysicalDeviceMemoryProperties>();
        self.call(&mut p::vkGetPhysicalDeviceMemoryProperties {
            physicalDevice: c.physicalDevice,
            pMemoryProperties: &raw mut memory,
            ..zeroed()
        });
        // SAFETY: the application passes a struct; it is copied and not changed.
        let mut info = unsafe { *c.pCreateInfo };
        info.enabledLayerCount = 0;
        info.ppEnabledLayerNames = std::ptr::null();
        let (count, names) = (info.enabledExtensionCount, info.ppEnabledExtensionNames);
        // SAFETY: the application passes as many strings as it says.
        let extensions = unsafe { hosts(count, names, &physical_device::own()) };
        info.enabledExtensionCount = extensions.len() as u32;
        info.ppEnabledExtensionNames = extensions.as_ptr();
        let mut token = VkDevice(0);
        let ret = self.call(&mut p::vkCreateDevice {
            physicalDevice: c.physicalDevice,
            pCreateInfo: &raw const info,
            pAllocator: std::ptr::null(),
            pDevice: &raw mut token,
            ..zeroed()
        });
        if ret == VK_SUCCESS {
            let types = memory
                .memoryTypes
                .iter()
                .take(memory.memoryTypeCount as usize);
            // SAFETY: the application passes as many structs as it says.
            let queues = unsafe {
                std::slice::from_raw_parts(
                    info.pQueueCreateInfos,
                    info.queueCreateInfoCount as usize,
                )
            };
            let first = queues.iter().find(|q| q.flags == 0);
            let device = Device {
                first_family: first.map_or(0, |q| q.queueFamilyIndex),
                memory_types: types.map(|t| t.propertyFlags).collect(),
                memories: Mutex::default(),
                queues: Mutex::default(),
                templates: Mutex::default(),
                pools: Mutex::default(),
                private_data: Mutex::default(),
                layouts: pipeline_layout::Layouts::default(),
                fences: Fences::default(),
                semaphores: Semaphores::default(),
                events: Events::default(),
                heard: Heard::default(),
                buffers: Requirements::default(),
                descriptors: Descriptors::default(),
                books: descriptor_pool::Books::default(),
                descriptor_updates: AtomicU64::new(0),
                images: Requirements::default(),
                copied: image::host_copy::Copied::default(),
                // SAFETY: the application passes a physical device of this driver's.
                minor: unsafe {
                    Dispatchable::<instance::PhysicalDevice>::from_handle(c.physicalDevice.0)
                }
                .data
                .minor,
                // SAFETY: the application passes as many names as it says.
                extensions: (0..count as usize)
                    .map(|i| unsafe { CStr::from_ptr(*names.add(i)) }.into())
                    .collect(),
            };
            // SAFETY: the application made room for one handle.
            unsafe { *c.pDevice = VkDevice(Dispatchable::new(token.0, device).into_handle()) };
        }
        ret
    }

    fn vkDestroyDevice(&self, c: &mut p::vkDestroyDevice) {
        if c.device.0 == 0 {
            return;
        }
        // SAFETY: the application passes a live device.
        unsafe { device(c.device) }.layouts.end(c.device);
        c.pAllocator = std::ptr::null();
        // SAFETY: the application passes a live device.
        fence::destroy_spare(c.device, unsafe { &device(c.device).fences });
        self.send(c);
        // SAFETY: the application does not use the device or its queues any more.
        unsafe {
            let device = Dispatchable::<Device>::take(c.device.0);
            for (_, queue) in device.data.queues.lock().drain() {
                drop(Dispatchable::<Queue>::take(queue));
            }
            // Command buffers that the application has left behind.
            for (_, buffers) in device.data.pools.lock().drain() {
                for buffer in buffers {
                    drop(Dispatchable::<CommandBuffer>::take(buffer));
                }
            }
        }
    }

    fn vkDeviceWaitIdle(&self, c: &mut p::vkDeviceWaitIdle) -> VkResult {
        // SAFETY: the application passes a live device.
        let queues = unsafe { &device(c.device).queues };
        let last: Vec<Place> = (queues.lock().values())
            .map(|queue| Place::last(VkQueue(*queue)))
            .collect();
        let ret = self.call(c);
        if ret == VK_SUCCESS {
            for place in last {
                place.done();
            }
        }
        ret
    }

    fn vkSignalSemaphore(&self, c: &mut p::vkSignalSemaphore) -> VkResult {
        semaphore::signal(c)
    }

    fn vkWaitSemaphores(&self, c: &mut p::vkWaitSemaphores) -> VkResult {
        semaphore::wait(c)
    }

    fn vkResetFences(&self, c: &mut p::vkResetFences) -> VkResult {
        fence::reset_all(c)
    }

    fn vkWaitForFences(&self, c: &mut p::vkWaitForFences) -> VkResult {
        fence::wait_all(c)
    }

    fn vkGetFenceFdKHR(&self, c: &mut p::vkGetFenceFdKHR) -> VkResult {
        // SAFETY: the application passes a struct.
        fence::get_fd(c.device, unsafe { &*c.pGetFdInfo }, c.pFd)
    }

    fn vkImportFenceFdKHR(&self, c: &mut p::vkImportFenceFdKHR) -> VkResult {
        // SAFETY: the application passes a struct.
        fence::import_fd(c.device, unsafe { &*c.pImportFenceFdInfo })
    }

    fn vkGetSemaphoreFdKHR(&self, c: &mut p::vkGetSemaphoreFdKHR) -> VkResult {
        // SAFETY: the application passes a struct.
        semaphore::get_fd(c.device, unsafe { &*c.pGetFdInfo }, c.pFd)
    }

    fn vkImportSemaphoreFdKHR(&self, c: &mut p::vkImportSemaphoreFdKHR) -> VkResult {
        // SAFETY: the application passes a struct.
        semaphore::import_fd(c.device, unsafe { &*c.pImportSemaphoreFdInfo })
    }

    fn vkGetMemoryFdKHR(&self, c: &mut p::vkGetMemoryFdKHR) -> VkResult {
        // SAFETY: the application passes a struct.
        device_memory::get_fd(c.device, unsafe { &*c.pGetFdInfo }, c.pFd)
    }

    fn vkGetMemoryFdPropertiesKHR(&self, c: &mut p::vkGetMemoryFdPropertiesKHR) -> VkResult {
        device_memory::fd_properties(c)
    }

    fn vkGetMemoryHostPointerPropertiesEXT(
        &self,
        c: &mut p::vkGetMemoryHostPointerPropertiesEXT,
    ) -> VkResult {
        device_memory::pointer_properties(c)
    }

    fn vkFlushMappedMemoryRanges(&self, _: &mut p::vkFlushMappedMemoryRanges) -> VkResult {
        // Mapped memory is the host's own.
        VK_SUCCESS
    }

    fn vkInvalidateMappedMemoryRanges(
        &self,
        _: &mut p::vkInvalidateMappedMemoryRanges,
    ) -> VkResult {
        VK_SUCCESS
    }

    fn vkSetPrivateData(&self, c: &mut p::vkSetPrivateData) -> VkResult {
        // SAFETY: the application passes a live device.
        let device = unsafe { device(c.device) };
        device
            .private_data
            .lock()
            .insert((c.privateDataSlot.0, c.objectHandle), c.data);
        VK_SUCCESS
    }

    fn vkGetPrivateData(&self, c: &mut p::vkGetPrivateData) {
        // SAFETY: the application passes a live device, and room for the answer.
        unsafe {
            let device = device(c.device);
            let data = device.private_data.lock();
            *c.pData = data
                .get(&(c.privateDataSlot.0, c.objectHandle))
                .copied()
                .unwrap_or(0);
        }
    }

    fn vkSetDebugUtilsObjectNameEXT(&self, _: &mut p::vkSetDebugUtilsObjectNameEXT) -> VkResult {
        VK_SUCCESS
    }

    fn vkSetDebugUtilsObjectTagEXT(&self, _: &mut p::vkSetDebugUtilsObjectTagEXT) -> VkResult {
        VK_SUCCESS
    }

    fn vkBindBufferMemory2(&self, c: &mut p::vkBindBufferMemory2) -> VkResult {
        let call = |count, infos, asked| {
            let mut c = p::vkBindBufferMemory2 {
                bindInfoCount: count,
                pBindInfos: infos,
                ..*c
            };
            match asked {
                true => self.call(&mut c),
                // SAFETY: the application passes a live device.
                false => unsafe { device(c.device) }.buffers.bind(&mut c),
            }
        };
        // SAFETY: the application passes as many structs as it says.
        unsafe { bind(c.bindInfoCount, c.pBindInfos, |info| info.pNext, call) }
    }

    fn vkUpdateDescriptorSets(&self, c: &mut p::vkUpdateDescriptorSets) {
        // SAFETY: the application passes a live device.
        unsafe { device(c.device) }.updates_descriptors();
        self.call(c);
    }

    fn vkGetDescriptorEXT(&self, c: &mut p::vkGetDescriptorEXT) {
        descriptor_buffer::get(c);
    }

    fn vkGetBufferDeviceAddress(&self, c: &mut p::vkGetBufferDeviceAddress) -> VkDeviceAddress {
        descriptor_buffer::address(c)
    }

    fn vkGetBufferMemoryRequirements2(&self, c: &mut p::vkGetBufferMemoryRequirements2) {
        buffer::requirements2(c);
    }

    fn vkGetImageMemoryRequirements2(&self, c: &mut p::vkGetImageMemoryRequirements2) {
        image::requirements2(c);
    }

    fn vkBindImageMemory2(&self, c: &mut p::vkBindImageMemory2) -> VkResult {
        let call = |count, infos, asked| {
            let mut c = p::vkBindImageMemory2 {
                bindInfoCount: count,
                pBindInfos: infos,
                ..*c
            };
            swapchain::bind(&mut c, |c| match asked {
                true => self.call(c),
                // SAFETY: the application passes a live device.
                false => unsafe { device(c.device) }.images.bind(c),
            })
        };
        // SAFETY: the application passes as many structs as it says.
        unsafe { bind(c.bindInfoCount, c.pBindInfos, |info| info.pNext, call) }
    }

    fn vkCopyMemoryToImage(&self, c: &mut p::vkCopyMemoryToImage) -> VkResult {
        image::host_copy::to_image(c)
    }

    fn vkCopyImageToMemory(&self, c: &mut p::vkCopyImageToMemory) -> VkResult {
        image::host_copy::to_memory(c)
    }

    fn vkAcquireNextImage2KHR(&self, c: &mut p::vkAcquireNextImage2KHR) -> VkResult {
        // SAFETY: the application passes a struct.
        swapchain::acquire(c.device, unsafe { &*c.pAcquireInfo }, c.pImageIndex)
    }

    fn vkReleaseSwapchainImagesKHR(&self, c: &mut p::vkReleaseSwapchainImagesKHR) -> VkResult {
        // SAFETY: the application passes a struct.
        swapchain::release(unsafe { &*c.pReleaseInfo })
    }

    fn vkGetDeviceGroupPresentCapabilitiesKHR(
        &self,
        c: &mut p::vkGetDeviceGroupPresentCapabilitiesKHR,
    ) -> VkResult {
        surface::group_capabilities(c)
    }

    fn vkMapMemory2(&self, c: &mut p::vkMapMemory2) -> VkResult {
        // SAFETY: the application passes a struct and room for a pointer.
        let info = unsafe { *c.pMemoryMapInfo };
        device_memory::map(c.device, info.memory, info.offset, c.ppData)
    }

    fn vkUnmapMemory2(&self, _: &mut p::vkUnmapMemory2) -> VkResult {
        VK_SUCCESS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// The buffers of a call, and whether its result is asked for.
    type Call = (Vec<u64>, bool);

    /// Binds buffers 1 to 3, of which the second fails; the calls, the result, and the results in chains.
    fn bind_three(statuses: [bool; 3]) -> (Vec<Call>, VkResult, [VkResult; 3]) {
        let mut results = [VK_NOT_READY; 3];
        let chains = results.each_mut().map(|result| VkBindMemoryStatus {
            sType: VK_STRUCTURE_TYPE_BIND_MEMORY_STATUS,
            pNext: std::ptr::null(),
            pResult: result,
        });
        let infos: Vec<_> = (0..3)
            .map(|i| VkBindBufferMemoryInfo {
                sType: VK_STRUCTURE_TYPE_BIND_BUFFER_MEMORY_INFO,
                pNext: match statuses[i] {
                    true => (&raw const chains[i]).cast(),
                    false => std::ptr::null(),
                },
                buffer: VkBuffer(i as u64 + 1),
                ..zeroed()
            })
            .collect();
        let calls = RefCell::new(Vec::new());
        let call = |count: u32, infos: *const VkBindBufferMemoryInfo, asked: bool| {
            // SAFETY: as many as it says, out of the list above.
            let infos = unsafe { std::slice::from_raw_parts(infos, count as usize) };
            let buffers: Vec<u64> = infos.iter().map(|info| info.buffer.0).collect();
            let failed = buffers.contains(&2);
            calls.borrow_mut().push((buffers, asked));
            match failed {
                true => VK_ERROR_OUT_OF_DEVICE_MEMORY,
                false => VK_SUCCESS,
            }
        };
        // SAFETY: the list has three structs, and each chain is null or one of the structs above.
        let ret = unsafe { bind(3, infos.as_ptr(), |info| info.pNext, call) };
        (calls.into_inner(), ret, results)
    }

    #[test]
    fn memory_is_bound_at_once_if_nobody_asks_for_single_results() {
        let (calls, ret, results) = bind_three([false; 3]);
        assert_eq!(calls, [(vec![1, 2, 3], false)]);
        assert_eq!(ret, VK_ERROR_OUT_OF_DEVICE_MEMORY);
        assert_eq!(results, [VK_NOT_READY; 3]);
    }

    #[test]
    fn each_bind_has_its_own_result_for_those_who_ask() {
        let (calls, ret, results) = bind_three([true, true, false]);
        assert_eq!(calls, [(vec![1], true), (vec![2], true), (vec![3], false)]);
        assert_eq!(ret, VK_ERROR_OUT_OF_DEVICE_MEMORY);
        let expected = [VK_SUCCESS, VK_ERROR_OUT_OF_DEVICE_MEMORY, VK_NOT_READY];
        assert_eq!(results, expected);
    }
}
