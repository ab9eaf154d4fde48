//! The physical device.

use super::*;

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
        self.call(c)
    }

    fn vkEnumerateDeviceLayerProperties(
        &self,
        c: &mut p::vkEnumerateDeviceLayerProperties,
    ) -> VkResult {
        // SAFETY: the application made room.
        unsafe { list(&[], c.pPropertyCount, c.pProperties) }
    }
}
