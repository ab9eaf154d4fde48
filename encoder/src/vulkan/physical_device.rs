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

impl PhysicalDeviceCommands for Driver {
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
        let shown: Vec<VkExtensionProperties> = host
            .into_iter()
            .filter(|e| upstream.is_none_or(|minor| known_upstream(&name_of(e), minor)))
            .chain(properties(swapchain::DEVICE))
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
