//! Devices, and what is asked of them that names no other object.

use std::collections::HashMap;
use std::ptr;
use std::sync::Arc;

use asgard_protocol::zeroed;
use parking_lot::{Mutex, RwLock};

use super::*;
use crate::context::{Device, Queue};
use crate::driver;
use crate::stream::slice;

/// What our own use of a device needs enabled.
const NEEDED: [&std::ffi::CStr; 2] = [c"VK_KHR_external_memory", c"VK_EXT_external_memory_host"];

/// Features of extensions that the guest driver serves by itself: the host's driver may not know them.
const GUESTS: [VkStructureType; 5] = [
    VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SWAPCHAIN_MAINTENANCE_1_FEATURES_KHR,
    VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PRESENT_ID_FEATURES_KHR,
    VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PRESENT_ID_2_FEATURES_KHR,
    VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PRESENT_WAIT_FEATURES_KHR,
    VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PRESENT_WAIT_2_FEATURES_KHR,
];

/// Takes the structs of these types out of a chain.
///
/// # Safety
/// The chain is valid, and may be changed.
unsafe fn unlink(mut link: *mut *const VkBaseInStructure, types: &[VkStructureType]) {
    // SAFETY: the caller's promise.
    unsafe {
        while let Some(next) = (*link).as_ref() {
            if types.contains(&next.sType) {
                *link = next.pNext;
            } else {
                link = &raw mut (*(*link).cast_mut()).pNext;
            }
        }
    }
}

/// `vkCreateDevice`.
fn create(e: &mut Engine, c: &mut p::vkCreateDevice) -> Result<VkResult, Error> {
    let context = Arc::clone(&e.context);
    let instance = Arc::clone(e.instance(c.physicalDevice_token)?);
    let create = function!(instance.fns, vkCreateDevice);
    // SAFETY: decoding placed the struct and its chain in the arena, where nobody else knows of it.
    if unsafe { e.wants_hidden(&*c.pCreateInfo) } {
        return Ok(VK_ERROR_FEATURE_NOT_PRESENT);
    }
    let have: Vec<String> = driver::device_extensions(&instance.fns, c.physicalDevice)
        .iter()
        .map(|e| driver::text(&e.extensionName))
        .collect();
    // SAFETY: decoding placed the struct and its arrays in the arena.
    let (mut info, mut wanted) = unsafe {
        let info = *c.pCreateInfo;
        (
            info,
            driver::strings(
                info.ppEnabledExtensionNames.cast(),
                info.enabledExtensionCount,
            ),
        )
    };
    for needed in NEEDED {
        if !wanted.iter().any(|w| w.as_c_str() == needed) {
            wanted.push(needed.to_owned());
        }
    }
    // What the host lacks is the guest driver's own.
    wanted.retain(|w| have.iter().any(|h| h.as_bytes() == w.as_bytes()));
    let names: Vec<_> = wanted.iter().map(|w| w.as_ptr()).collect();
    // SAFETY: decoding placed the chain in the arena, where nobody else knows of it.
    unsafe { unlink((&raw mut info.pNext).cast(), &GUESTS) };
    info.enabledLayerCount = 0;
    info.ppEnabledLayerNames = ptr::null();
    info.enabledExtensionCount = names.len() as u32;
    info.ppEnabledExtensionNames = names.as_ptr().cast();
    let mut handle = VkDevice(0);
    // SAFETY: a live physical device, and structs that live through the call.
    let ret = unsafe {
        create(
            c.physicalDevice,
            &raw const info,
            ptr::null(),
            &raw mut handle,
        )
    };
    if ret != VK_SUCCESS {
        return Ok(ret);
    }
    let token = context
        .objects
        .insert(Kind::Device, c.physicalDevice_token, handle.0)?;
    let device = Device {
        token,
        handle,
        fns: context
            .renderer
            .loader
            .device_fns(instance.handle, handle)?,
        queues: Mutex::new(HashMap::new()),
        images: Mutex::new(HashMap::new()),
        live: RwLock::new(true),
    };
    context.devices.write().insert(token, Arc::new(device));
    // SAFETY: decoding made room for one handle.
    unsafe { *c.pDevice = VkDevice(token) };
    Ok(ret)
}

impl Engine {
    /// The token of a queue, always the same for the same queue.
    fn queue_token(
        &mut self,
        device_token: u64,
        key: (u32, u32, u32),
        get: impl FnOnce(&Device) -> Result<VkQueue, Error>,
    ) -> Result<u64, Error> {
        let context = Arc::clone(&self.context);
        let device = self.device(device_token)?;
        let mut queues = device.queues.lock();
        if let Some(token) = queues.get(&key) {
            return Ok(*token);
        }
        let handle = get(device)?;
        if handle.0 == 0 {
            return Ok(0);
        }
        let token = context
            .objects
            .insert(Kind::Queue, device_token, handle.0)?;
        let queue = Arc::new(Queue::new(handle));
        context.queues.write().insert(token, queue);
        queues.insert(key, token);
        Ok(token)
    }

    /// The driver's handle for an object that a guest names by type and number; 0 if it is of another
    /// type, or of those that are the loader's.
    fn named_object(&self, object_type: VkObjectType, object: u64) -> u64 {
        let kind = Kind::from_number((object >> 56) as u8);
        let fits = kind.is_some_and(|kind| {
            !matches!(kind, Kind::Instance | Kind::PhysicalDevice)
                && kind.object_type() == object_type
        });
        if fits {
            self.context.objects.get(object).unwrap_or(0)
        } else {
            0
        }
    }
}

pub(super) fn get_queue(e: &mut Engine, c: &mut p::vkGetDeviceQueue) -> Result<(), Error> {
    let (family, index, handle) = (c.queueFamilyIndex, c.queueIndex, c.device);
    let token = e.queue_token(c.device_token, (family, index, 0), |device| {
        let f = function!(device.fns, vkGetDeviceQueue);
        let mut queue = VkQueue(0);
        // SAFETY: a live device; the driver checks the numbers against what was created.
        unsafe { f(handle, family, index, &raw mut queue) };
        Ok(queue)
    })?;
    // SAFETY: decoding made room for one handle.
    unsafe { *c.pQueue = VkQueue(token) };
    Ok(())
}

pub(super) fn get_queue2(e: &mut Engine, c: &mut p::vkGetDeviceQueue2) -> Result<(), Error> {
    // SAFETY: decoding placed the struct.
    let info = unsafe { *c.pQueueInfo };
    let (key, handle) = (
        (info.queueFamilyIndex, info.queueIndex, info.flags),
        c.device,
    );
    let token = e.queue_token(c.device_token, key, |device| {
        let f = function!(device.fns, vkGetDeviceQueue2);
        let mut queue = VkQueue(0);
        // SAFETY: as above.
        unsafe { f(handle, &raw const info, &raw mut queue) };
        Ok(queue)
    })?;
    // SAFETY: decoding made room for one handle.
    unsafe { *c.pQueue = VkQueue(token) };
    Ok(())
}

impl DeviceCommands for Engine {
    fn vkCreateDevice(&mut self, c: &mut p::vkCreateDevice) -> Result<VkResult, Error> {
        create(self, c)
    }

    fn vkDestroyDevice(&mut self, c: &mut p::vkDestroyDevice) -> Result<(), Error> {
        let device = self.context.devices.read().get(&c.device_token).cloned();
        if let Some(device) = device {
            self.context.destroy_device(&device);
        }
        Ok(())
    }

    fn vkFlushMappedMemoryRanges(
        &mut self,
        c: &mut p::vkFlushMappedMemoryRanges,
    ) -> Result<VkResult, Error> {
        // Mapped memory is the guest's and the device's at once; coherent or imported, it needs no copy.
        let _ = c;
        Ok(VK_SUCCESS)
    }

    fn vkInvalidateMappedMemoryRanges(
        &mut self,
        c: &mut p::vkInvalidateMappedMemoryRanges,
    ) -> Result<VkResult, Error> {
        let _ = c;
        Ok(VK_SUCCESS)
    }

    fn vkWaitForFences(&mut self, c: &mut p::vkWaitForFences) -> Result<VkResult, Error> {
        let f = function!(self.device_fns(c.device_token)?, vkWaitForFences);
        wait(self, c.timeout, |timeout| {
            // SAFETY: live handles, as many as the count says.
            unsafe { f(c.device, c.fenceCount, c.pFences, c.waitAll, timeout) }
        })
    }

    fn vkWaitSemaphores(&mut self, c: &mut p::vkWaitSemaphores) -> Result<VkResult, Error> {
        let f = function!(self.device_fns(c.device_token)?, vkWaitSemaphores);
        wait(self, c.timeout, |timeout| {
            // SAFETY: a decoded struct of live handles.
            unsafe { f(c.device, c.pWaitInfo, timeout) }
        })
    }

    fn vkSetDebugUtilsObjectNameEXT(
        &mut self,
        c: &mut p::vkSetDebugUtilsObjectNameEXT,
    ) -> Result<VkResult, Error> {
        let Some(f) = self
            .device_fns(c.device_token)?
            .vkSetDebugUtilsObjectNameEXT
        else {
            return Ok(VK_SUCCESS);
        };
        // SAFETY: decoding placed the struct.
        let mut info = unsafe { *c.pNameInfo };
        info.objectHandle = self.named_object(info.objectType, info.objectHandle);
        if info.objectHandle == 0 {
            return Ok(VK_SUCCESS);
        }
        // SAFETY: a live object of this context.
        Ok(unsafe { f(c.device, &raw const info) })
    }

    fn vkSetDebugUtilsObjectTagEXT(
        &mut self,
        c: &mut p::vkSetDebugUtilsObjectTagEXT,
    ) -> Result<VkResult, Error> {
        // A tag is for layers of the process that made it.
        let _ = c;
        Ok(VK_SUCCESS)
    }

    fn vkSetPrivateData(&mut self, c: &mut p::vkSetPrivateData) -> Result<VkResult, Error> {
        let f = function!(self.device_fns(c.device_token)?, vkSetPrivateData);
        let object = self.named_object(c.objectType, c.objectHandle);
        if object == 0 {
            return Err(Error::Nonsense(
                "private data of an object that is not live, or of another type",
            ));
        }
        // SAFETY: a live object of this context.
        Ok(unsafe { f(c.device, c.objectType, object, c.privateDataSlot, c.data) })
    }

    fn vkGetPrivateData(&mut self, c: &mut p::vkGetPrivateData) -> Result<(), Error> {
        let f = function!(self.device_fns(c.device_token)?, vkGetPrivateData);
        let object = self.named_object(c.objectType, c.objectHandle);
        if object == 0 {
            return Err(Error::Nonsense(
                "private data of an object that is not live, or of another type",
            ));
        }
        // SAFETY: a live object of this context, and room for the answer.
        unsafe { f(c.device, c.objectType, object, c.privateDataSlot, c.pData) };
        Ok(())
    }

    fn vkDebugMarkerSetObjectNameEXT(
        &mut self,
        c: &mut p::vkDebugMarkerSetObjectNameEXT,
    ) -> Result<VkResult, Error> {
        let _ = c;
        Ok(VK_SUCCESS)
    }

    fn vkDebugMarkerSetObjectTagEXT(
        &mut self,
        c: &mut p::vkDebugMarkerSetObjectTagEXT,
    ) -> Result<VkResult, Error> {
        let _ = c;
        Ok(VK_SUCCESS)
    }

    fn vkUpdateDescriptorSets(&mut self, c: &mut p::vkUpdateDescriptorSets) -> Result<(), Error> {
        let f = function!(self.device_fns(c.device_token)?, vkUpdateDescriptorSets);
        // SAFETY: decoding placed as many structs as the counts say.
        let (writes, copies) = unsafe {
            (
                slice(c.pDescriptorWrites, c.descriptorWriteCount as usize),
                slice(c.pDescriptorCopies, c.descriptorCopyCount as usize),
            )
        };
        // A set that the guest named but never committed has no driver's object behind it yet.
        if writes.iter().any(|w| w.dstSet.0 == 0)
            || copies.iter().any(|c| c.dstSet.0 == 0 || c.srcSet.0 == 0)
        {
            return Err(Error::Nonsense(
                "an update of a descriptor set that was not allocated",
            ));
        }
        // SAFETY: live handles.
        unsafe {
            f(
                c.device,
                c.descriptorWriteCount,
                c.pDescriptorWrites,
                c.descriptorCopyCount,
                c.pDescriptorCopies,
            )
        };
        Ok(())
    }

    fn vkGetBufferMemoryRequirements2(
        &mut self,
        c: &mut p::vkGetBufferMemoryRequirements2,
    ) -> Result<(), Error> {
        plain::vkGetBufferMemoryRequirements2(self, c)?;
        // SAFETY: decoding placed the struct.
        if self.is_sparse(c.device_token, Kind::Buffer, unsafe { (*c.pInfo).buffer.0 }) {
            // SAFETY: the call filled what decoding had made room for.
            self.show_sparse(unsafe { &mut (*c.pMemoryRequirements).memoryRequirements });
        }
        Ok(())
    }

    fn vkGetImageMemoryRequirements2(
        &mut self,
        c: &mut p::vkGetImageMemoryRequirements2,
    ) -> Result<(), Error> {
        plain::vkGetImageMemoryRequirements2(self, c)?;
        // SAFETY: decoding placed the struct.
        if self.is_sparse(c.device_token, Kind::Image, unsafe { (*c.pInfo).image.0 }) {
            // SAFETY: the call filled what decoding had made room for.
            self.show_sparse(unsafe { &mut (*c.pMemoryRequirements).memoryRequirements });
        }
        Ok(())
    }

    fn vkGetDeviceBufferMemoryRequirements(
        &mut self,
        c: &mut p::vkGetDeviceBufferMemoryRequirements,
    ) -> Result<(), Error> {
        plain::vkGetDeviceBufferMemoryRequirements(self, c)?;
        // SAFETY: decoding placed the structs.
        let flags = unsafe { (*(*c.pInfo).pCreateInfo).flags };
        if flags & VK_BUFFER_CREATE_SPARSE_BINDING_BIT != 0 {
            // SAFETY: the call filled what decoding had made room for.
            self.show_sparse(unsafe { &mut (*c.pMemoryRequirements).memoryRequirements });
        }
        Ok(())
    }

    fn vkGetDeviceImageMemoryRequirements(
        &mut self,
        c: &mut p::vkGetDeviceImageMemoryRequirements,
    ) -> Result<(), Error> {
        plain::vkGetDeviceImageMemoryRequirements(self, c)?;
        // SAFETY: decoding placed the structs.
        let flags = unsafe { (*(*c.pInfo).pCreateInfo).flags };
        if flags & VK_IMAGE_CREATE_SPARSE_BINDING_BIT != 0 {
            // SAFETY: the call filled what decoding had made room for.
            self.show_sparse(unsafe { &mut (*c.pMemoryRequirements).memoryRequirements });
        }
        Ok(())
    }

    fn vkGetAccelerationStructureBuildSizesKHR(
        &mut self,
        c: &mut p::vkGetAccelerationStructureBuildSizesKHR,
    ) -> Result<(), Error> {
        // SAFETY: decoding placed the struct.
        unsafe {
            acceleration_structure::check_builds(c.pBuildInfo, 1)?;
            if (*c.pBuildInfo).geometryCount > 0 && c.pMaxPrimitiveCounts.is_null() {
                return Err(Error::Nonsense("a build without its primitive counts"));
            }
        }
        plain::vkGetAccelerationStructureBuildSizesKHR(self, c)
    }

    fn vkGetMicromapBuildSizesEXT(
        &mut self,
        c: &mut p::vkGetMicromapBuildSizesEXT,
    ) -> Result<(), Error> {
        // SAFETY: decoding placed the struct.
        unsafe { acceleration_structure::check_micromaps(c.pBuildInfo, 1)? };
        plain::vkGetMicromapBuildSizesEXT(self, c)
    }

    fn vkWriteAccelerationStructuresPropertiesKHR(
        &mut self,
        c: &mut p::vkWriteAccelerationStructuresPropertiesKHR,
    ) -> Result<VkResult, Error> {
        let f = function!(
            self.device_fns(c.device_token)?,
            vkWriteAccelerationStructuresPropertiesKHR
        );
        let least =
            acceleration_structure::properties_room(c.accelerationStructureCount, c.stride)?;
        with_room(c.pData, c.dataSize, least, |to| {
            // SAFETY: live handles, and room for as many properties as the count says.
            unsafe {
                f(
                    c.device,
                    c.accelerationStructureCount,
                    c.pAccelerationStructures,
                    c.queryType,
                    c.dataSize,
                    to,
                    c.stride,
                )
            }
        })
    }

    fn vkWriteMicromapsPropertiesEXT(
        &mut self,
        c: &mut p::vkWriteMicromapsPropertiesEXT,
    ) -> Result<VkResult, Error> {
        let f = function!(
            self.device_fns(c.device_token)?,
            vkWriteMicromapsPropertiesEXT
        );
        let least = acceleration_structure::properties_room(c.micromapCount, c.stride)?;
        with_room(c.pData, c.dataSize, least, |to| {
            // SAFETY: as above.
            unsafe {
                f(
                    c.device,
                    c.micromapCount,
                    c.pMicromaps,
                    c.queryType,
                    c.dataSize,
                    to,
                    c.stride,
                )
            }
        })
    }

    fn vkCreatePipelineBinariesKHR(
        &mut self,
        c: &mut p::vkCreatePipelineBinariesKHR,
    ) -> Result<VkResult, Error> {
        let ret = plain::vkCreatePipelineBinariesKHR(self, c)?;
        // SAFETY: decoding placed the struct, with room for as many handles as its count says.
        if let Some(binaries) = unsafe { c.pBinaries.as_ref() } {
            self.adopt(
                Kind::PipelineBinaryKHR,
                c.device_token,
                binaries.pPipelineBinaries.cast(),
                binaries.pipelineBinaryCount as usize,
                true,
            )?;
        }
        Ok(ret)
    }

    fn vkGetDescriptorEXT(&mut self, c: &mut p::vkGetDescriptorEXT) -> Result<(), Error> {
        /// More than a descriptor has anywhere.
        const MOST: usize = 4096;
        let f = function!(self.device_fns(c.device_token)?, vkGetDescriptorEXT);
        with_room(c.pDescriptor, c.dataSize, MOST, |to| {
            // SAFETY: decoded arguments, and room for any descriptor.
            unsafe { f(c.device, c.pDescriptorInfo, c.dataSize, to) };
        })
    }

    fn vkGetLinearImageLayoutGOOGLE(
        &mut self,
        c: &mut p::vkGetLinearImageLayoutGOOGLE,
    ) -> Result<(), Error> {
        let info = VkImageCreateInfo {
            sType: VK_STRUCTURE_TYPE_IMAGE_CREATE_INFO,
            imageType: VK_IMAGE_TYPE_2D,
            format: c.format,
            extent: VkExtent3D {
                width: 64,
                height: 64,
                depth: 1,
            },
            mipLevels: 1,
            arrayLayers: 1,
            samples: VK_SAMPLE_COUNT_1_BIT,
            tiling: VK_IMAGE_TILING_LINEAR,
            usage: VK_IMAGE_USAGE_TRANSFER_SRC_BIT | VK_IMAGE_USAGE_TRANSFER_DST_BIT,
            ..zeroed()
        };
        linear_layout(
            self,
            c.device,
            c.device_token,
            &info,
            c.pOffset,
            c.pRowPitchAlignment,
        )
    }

    fn vkGetLinearImageLayout2GOOGLE(
        &mut self,
        c: &mut p::vkGetLinearImageLayout2GOOGLE,
    ) -> Result<(), Error> {
        // SAFETY: decoding placed the struct.
        let info = unsafe { *c.pCreateInfo };
        linear_layout(
            self,
            c.device,
            c.device_token,
            &info,
            c.pOffset,
            c.pRowPitchAlignment,
        )
    }
}

/// Where a linear image's first row starts, and what its row pitch is a multiple of.
fn linear_layout(
    e: &mut Engine,
    device: VkDevice,
    token: u64,
    info: &VkImageCreateInfo,
    offset: *mut VkDeviceSize,
    alignment: *mut VkDeviceSize,
) -> Result<(), Error> {
    let fns = &e.device(token)?.fns;
    let create = function!(fns, vkCreateImage);
    let layout_of = function!(fns, vkGetImageSubresourceLayout);
    let destroy = function!(fns, vkDestroyImage);
    let mut smallest = VkImageCreateInfo { ..*info };
    smallest.extent.width = 1;
    let mut image = VkImage(0);
    let aspect = VkImageSubresource {
        aspectMask: VK_IMAGE_ASPECT_COLOR_BIT,
        ..zeroed()
    };
    let mut layout = zeroed::<VkSubresourceLayout>();
    // SAFETY: structs that live through the calls; the image is ours. Room for both answers was made.
    unsafe {
        if create(device, &raw const smallest, ptr::null(), &raw mut image) == VK_SUCCESS {
            layout_of(device, image, &raw const aspect, &raw mut layout);
            destroy(device, image, ptr::null());
        }
        *offset = layout.offset;
        *alignment = layout.rowPitch.max(1);
    }
    Ok(())
}

/// Waits as long as the guest says, but not longer than its context lives.
fn wait(e: &Engine, timeout: u64, wait_for: impl Fn(u64) -> VkResult) -> Result<VkResult, Error> {
    const LOOK_NS: u64 = 100_000_000;
    let mut left = timeout;
    loop {
        let step = left.min(LOOK_NS);
        let started = std::time::Instant::now();
        let ret = wait_for(step);
        if ret != VK_TIMEOUT {
            return Ok(ret);
        }
        let spent = u64::try_from(started.elapsed().as_nanos())
            .unwrap_or(u64::MAX)
            .max(step);
        left = left.saturating_sub(spent);
        if left == 0 {
            return Ok(VK_TIMEOUT);
        }
        if e.context.is_dead() {
            return Ok(VK_ERROR_DEVICE_LOST);
        }
    }
}
