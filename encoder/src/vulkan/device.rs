//! Devices.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::sync::Arc;

use parking_lot::Mutex;

use super::*;
use crate::object::Dispatchable;
use crate::vulkan::command_buffer::CommandBuffer;
use crate::vulkan::device_memory::Memory;

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
    /// The extensions that it was created with.
    extensions: HashSet<CString>,
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
    /// The family of a queue.
    pub(super) fn family_of(&self, queue: VkQueue) -> u32 {
        let queues = self.queues.lock();
        let known = queues.iter().find(|(_, handle)| **handle == queue.0);
        known.map_or(self.first_family, |((family, ..), _)| *family)
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
    fn queue(&self, key: (u32, u32, u32), get: impl FnOnce() -> u64) -> VkQueue {
        let mut queues = self.queues.lock();
        if let Some(handle) = queues.get(&key) {
            return VkQueue(*handle);
        }
        let token = get();
        if token == 0 {
            return VkQueue(0);
        }
        let handle = Dispatchable::new(token, ()).into_handle();
        queues.insert(key, handle);
        VkQueue(handle)
    }
}

/// `vkGetDeviceQueue`.
pub(super) fn get_queue(c: &mut p::vkGetDeviceQueue) {
    // SAFETY: the application passes a live device, and room for a handle.
    unsafe {
        *c.pQueue = device(c.device).queue((c.queueFamilyIndex, c.queueIndex, 0), || {
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
        *c.pQueue = device(c.device).queue(key, || {
            let mut token = VkQueue(0);
            Driver.call(&mut p::vkGetDeviceQueue2 {
                pQueue: &raw mut token,
                ..*c
            });
            token.0
        });
    }
}

impl DeviceCommands for Driver {
    fn vkGetDeviceProcAddr(&self, c: &mut p::vkGetDeviceProcAddr) -> PFN_vkVoidFunction {
        // SAFETY: the application passes a string.
        let name = unsafe { CStr::from_ptr(c.pName) };
        let extensions = extensions_of(name);
        if !extensions.is_empty() {
            // SAFETY: the application passes a live device.
            let enabled = &unsafe { device(c.device) }.extensions;
            if !extensions.iter().any(|e| enabled.contains(*e)) {
                return None;
            }
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
        let extensions = unsafe { hosts(count, names, swapchain::DEVICE) };
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
        c.pAllocator = std::ptr::null();
        self.call(c);
        // SAFETY: the application does not use the device or its queues any more.
        unsafe {
            let device = Dispatchable::<Device>::take(c.device.0);
            for (_, queue) in device.data.queues.lock().drain() {
                drop(Dispatchable::<()>::take(queue));
            }
            // Command buffers that the application has left behind.
            for (_, buffers) in device.data.pools.lock().drain() {
                for buffer in buffers {
                    drop(Dispatchable::<CommandBuffer>::take(buffer));
                }
            }
        }
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

    fn vkBindImageMemory2(&self, c: &mut p::vkBindImageMemory2) -> VkResult {
        swapchain::bind(c)
    }

    fn vkAcquireNextImage2KHR(&self, c: &mut p::vkAcquireNextImage2KHR) -> VkResult {
        // SAFETY: the application passes a struct.
        swapchain::acquire(c.device, unsafe { &*c.pAcquireInfo }, c.pImageIndex)
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
