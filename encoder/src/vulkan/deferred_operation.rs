//! Deferred operations: the host does everything at once, and what works on application memory is not
//! offered.

use super::*;

impl DeferredOperationCommands for Driver {
    fn vkBuildAccelerationStructuresKHR(
        &self,
        _: &mut p::vkBuildAccelerationStructuresKHR,
    ) -> VkResult {
        VK_ERROR_FEATURE_NOT_PRESENT
    }

    fn vkCopyAccelerationStructureToMemoryKHR(
        &self,
        _: &mut p::vkCopyAccelerationStructureToMemoryKHR,
    ) -> VkResult {
        VK_ERROR_FEATURE_NOT_PRESENT
    }

    fn vkCopyMemoryToAccelerationStructureKHR(
        &self,
        _: &mut p::vkCopyMemoryToAccelerationStructureKHR,
    ) -> VkResult {
        VK_ERROR_FEATURE_NOT_PRESENT
    }

    fn vkBuildMicromapsEXT(&self, _: &mut p::vkBuildMicromapsEXT) -> VkResult {
        VK_ERROR_FEATURE_NOT_PRESENT
    }

    fn vkCopyMicromapToMemoryEXT(&self, _: &mut p::vkCopyMicromapToMemoryEXT) -> VkResult {
        VK_ERROR_FEATURE_NOT_PRESENT
    }

    fn vkCopyMemoryToMicromapEXT(&self, _: &mut p::vkCopyMemoryToMicromapEXT) -> VkResult {
        VK_ERROR_FEATURE_NOT_PRESENT
    }
}
