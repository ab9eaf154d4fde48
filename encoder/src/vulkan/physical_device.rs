//! The physical device.

use super::instance::name_of;
use super::*;
use crate::process;

/// The minor version of Vulkan that a device has.
fn minor_version(physical: VkPhysicalDevice) -> u32 {
    let mut properties = zeroed::<VkPhysicalDeviceProperties>();
    Driver.call(&mut p::vkGetPhysicalDeviceProperties {
        physicalDevice: physical,
        pProperties: &raw mut properties,
        ..zeroed()
    });
    properties.apiVersion >> 12 & 0x3ff
}

/// Upstream's host lists all that its driver has, whether it knows it or not; and commands that have
/// become part of Vulkan are sent as such, which its driver must then be, too.
fn known_upstream(extension: &str, minor: u32) -> bool {
    UPSTREAM_EXTENSIONS
        .iter()
        .any(|(name, least)| *name == extension && minor >= *least)
}

/// Device extensions that are this driver's own, whether the host has them or not, with their versions.
const GUESTS: &[(&CStr, u32)] = &[
    (c"VK_KHR_external_fence_fd", 1),
    (c"VK_KHR_external_semaphore_fd", 1),
    (MEMORY_FD, 1),
    (c"VK_EXT_external_memory_dma_buf", 1),
    (MEMORY_HOST, 1),
];
const MEMORY_FD: &CStr = c"VK_KHR_external_memory_fd";
const MEMORY_HOST: &CStr = c"VK_EXT_external_memory_host";

/// Those that it has over this way to this host.
pub(super) fn own() -> Vec<(&'static CStr, u32)> {
    let types = device_memory::shared_types();
    let dma_bufs = types & VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT != 0;
    let missing = |name: &CStr| {
        let needs_dma_buf = NEEDS_DMA_BUF.iter().any(|n| name.to_str() == Ok(n));
        (name == MEMORY_FD && types == 0)
            || (name == MEMORY_HOST && !process::extended())
            || (needs_dma_buf && !dma_bufs)
    };
    let guests = GUESTS.iter().filter(|(name, _)| !missing(name));
    guests.chain(swapchain::DEVICE).copied().collect()
}

/// What can be done with memory of an external type.
fn memory_properties(kind: VkExternalMemoryHandleTypeFlags) -> VkExternalMemoryProperties {
    let types = device_memory::shared_types();
    if kind == device_memory::POINTER && process::extended() {
        return VkExternalMemoryProperties {
            externalMemoryFeatures: VK_EXTERNAL_MEMORY_FEATURE_IMPORTABLE_BIT,
            exportFromImportedHandleTypes: 0,
            compatibleHandleTypes: kind,
        };
    }
    if kind & types == 0 {
        return VkExternalMemoryProperties {
            compatibleHandleTypes: kind,
            ..zeroed()
        };
    }
    VkExternalMemoryProperties {
        externalMemoryFeatures: VK_EXTERNAL_MEMORY_FEATURE_EXPORTABLE_BIT
            | VK_EXTERNAL_MEMORY_FEATURE_IMPORTABLE_BIT,
        exportFromImportedHandleTypes: types,
        compatibleHandleTypes: types,
    }
}

impl PhysicalDeviceCommands for Driver {
    fn vkGetPhysicalDeviceExternalBufferProperties(
        &self,
        c: &mut p::vkGetPhysicalDeviceExternalBufferProperties,
    ) {
        // SAFETY: the application passes a struct, and room for the answer.
        unsafe {
            let info = *c.pExternalBufferInfo;
            (*c.pExternalBufferProperties).externalMemoryProperties =
                memory_properties(info.handleType);
        }
    }

    fn vkGetPhysicalDeviceExternalFenceProperties(
        &self,
        c: &mut p::vkGetPhysicalDeviceExternalFenceProperties,
    ) {
        let file = VK_EXTERNAL_FENCE_HANDLE_TYPE_SYNC_FD_BIT;
        // SAFETY: the application passes a struct, and room for the answer.
        unsafe {
            let kind = (*c.pExternalFenceInfo).handleType;
            let answer = &mut *c.pExternalFenceProperties;
            let known = kind == file;
            answer.exportFromImportedHandleTypes = if known { file } else { 0 };
            answer.compatibleHandleTypes = if known { file } else { 0 };
            answer.externalFenceFeatures = if known {
                VK_EXTERNAL_FENCE_FEATURE_EXPORTABLE_BIT | VK_EXTERNAL_FENCE_FEATURE_IMPORTABLE_BIT
            } else {
                0
            };
        }
    }

    fn vkGetPhysicalDeviceExternalSemaphoreProperties(
        &self,
        c: &mut p::vkGetPhysicalDeviceExternalSemaphoreProperties,
    ) {
        let file = VK_EXTERNAL_SEMAPHORE_HANDLE_TYPE_SYNC_FD_BIT;
        // SAFETY: the application passes a struct with its chain, and room for the answer.
        unsafe {
            let info = *c.pExternalSemaphoreInfo;
            let kind = VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO;
            let timeline = image::find::<VkSemaphoreTypeCreateInfo>(info.pNext, kind)
                .is_some_and(|kind| kind.semaphoreType == VK_SEMAPHORE_TYPE_TIMELINE);
            let answer = &mut *c.pExternalSemaphoreProperties;
            let known = info.handleType == file && !timeline;
            answer.exportFromImportedHandleTypes = if known { file } else { 0 };
            answer.compatibleHandleTypes = if known { file } else { 0 };
            answer.externalSemaphoreFeatures = if known {
                VK_EXTERNAL_SEMAPHORE_FEATURE_EXPORTABLE_BIT
                    | VK_EXTERNAL_SEMAPHORE_FEATURE_IMPORTABLE_BIT
            } else {
                0
            };
        }
    }

    fn vkGetPhysicalDeviceImageFormatProperties2(
        &self,
        c: &mut p::vkGetPhysicalDeviceImageFormatProperties2,
    ) -> VkResult {
        // SAFETY: the application passes a struct with its chain.
        let external = unsafe {
            let kind = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_EXTERNAL_IMAGE_FORMAT_INFO;
            image::find::<VkPhysicalDeviceExternalImageFormatInfo>(
                (*c.pImageFormatInfo).pNext,
                kind,
            )
        };
        let kind = external.map_or(0, |external| external.handleType);
        if kind != 0 && memory_properties(kind).externalMemoryFeatures == 0 {
            return VK_ERROR_FORMAT_NOT_SUPPORTED;
        }
        let ret = self.call(c);
        if kind != 0 && ret == VK_SUCCESS {
            // SAFETY: the application passes a chain of structs, each with its own type.
            unsafe {
                let mut next = (*c.pImageFormatProperties)
                    .pNext
                    .cast::<VkBaseOutStructure>();
                while let Some(base) = next.as_ref() {
                    if base.sType == VK_STRUCTURE_TYPE_EXTERNAL_IMAGE_FORMAT_PROPERTIES {
                        (*next.cast::<VkExternalImageFormatProperties>())
                            .externalMemoryProperties = memory_properties(kind);
                    }
                    next = base.pNext.cast();
                }
            }
        }
        ret
    }

    fn vkEnumeratePhysicalDevices(&self, c: &mut p::vkEnumeratePhysicalDevices) -> VkResult {
        instance::enumerate(c)
    }

    fn vkEnumerateDeviceExtensionProperties(
        &self,
        c: &mut p::vkEnumerateDeviceExtensionProperties,
    ) -> VkResult {
        if !c.pLayerName.is_null() {
            // SAFETY: the application made room.
            return unsafe { list(&[], c.pPropertyCount, c.pProperties) };
        }
        let host = instance::all_of(
            |count, to| {
                self.call(&mut p::vkEnumerateDeviceExtensionProperties {
                    pPropertyCount: count,
                    pProperties: to,
                    ..*c
                })
            },
            |_| {},
        );
        let upstream = (!process::extended()).then(|| minor_version(c.physicalDevice));
        let own = own();
        let shown: Vec<VkExtensionProperties> = host
            .into_iter()
            .filter(|e| upstream.is_none_or(|minor| known_upstream(&name_of(e), minor)))
            .filter(|e| {
                !GUESTS
                    .iter()
                    .any(|(name, _)| name.to_str() == Ok(&name_of(e)))
            })
            .chain(properties(&own))
            .collect();
        // SAFETY: the application made room.
        unsafe { list(&shown, c.pPropertyCount, c.pProperties) }
    }

    fn vkGetPhysicalDeviceSurfaceSupportKHR(
        &self,
        c: &mut p::vkGetPhysicalDeviceSurfaceSupportKHR,
    ) -> VkResult {
        surface::support(c)
    }

    fn vkGetPhysicalDeviceSurfaceCapabilities2KHR(
        &self,
        c: &mut p::vkGetPhysicalDeviceSurfaceCapabilities2KHR,
    ) -> VkResult {
        surface::capabilities2(c)
    }

    fn vkGetPhysicalDeviceSurfaceFormats2KHR(
        &self,
        c: &mut p::vkGetPhysicalDeviceSurfaceFormats2KHR,
    ) -> VkResult {
        surface::formats2(c)
    }

    fn vkEnumerateDeviceLayerProperties(
        &self,
        c: &mut p::vkEnumerateDeviceLayerProperties,
    ) -> VkResult {
        // SAFETY: the application made room.
        unsafe { list(&[], c.pPropertyCount, c.pProperties) }
    }

    fn vkGetPhysicalDeviceFeatures2(&self, c: &mut p::vkGetPhysicalDeviceFeatures2) {
        self.call(c);
        // SAFETY: the application passes a struct with its chain.
        unsafe { swapchain::features((*c.pFeatures).pNext) };
    }

    fn vkGetPhysicalDeviceProperties2(&self, c: &mut p::vkGetPhysicalDeviceProperties2) {
        self.call(c);
        // LDP_DRIVER_5 of the loader-driver document: the host's driver is certified at most by itself.
        let none = zeroed::<VkConformanceVersion>();
        // SAFETY: the application passes a chain of structs, each with its own type.
        unsafe {
            let mut next = (*c.pProperties).pNext.cast::<VkBaseOutStructure>();
            while let Some(base) = next.as_ref() {
                match base.sType {
                    VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_DRIVER_PROPERTIES => {
                        let properties = next.cast::<VkPhysicalDeviceDriverProperties>();
                        (*properties).conformanceVersion = none;
                    }
                    VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_EXTERNAL_MEMORY_HOST_PROPERTIES_EXT => {
                        // It is this driver that takes pages of the application's.
                        let properties =
                            next.cast::<VkPhysicalDeviceExternalMemoryHostPropertiesEXT>();
                        (*properties).minImportedHostPointerAlignment = device_memory::PAGE;
                    }
                    VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_PROPERTIES => {
                        let properties = next.cast::<VkPhysicalDeviceVulkan12Properties>();
                        (*properties).conformanceVersion = none;
                    }
                    _ => {}
                }
                next = base.pNext.cast();
            }
        }
    }
}
