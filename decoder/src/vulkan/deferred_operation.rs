//! Deferred operations: nothing is deferred.
//!
//! A driver that defers keeps pointers into a request, and writes its results when the application joins:
//! long after the arena that they lie in was given to the next request.

use super::*;

/// What a command returns that was asked to defer its work and has done it at once.
pub(super) fn done(operation_token: u64, result: VkResult) -> VkResult {
    if operation_token != 0 && result == VK_SUCCESS {
        VK_OPERATION_NOT_DEFERRED_KHR
    } else {
        result
    }
}

impl DeferredOperationCommands for Engine {
    fn vkCopyAccelerationStructureKHR(
        &mut self,
        c: &mut p::vkCopyAccelerationStructureKHR,
    ) -> Result<VkResult, Error> {
        c.deferredOperation = VkDeferredOperationKHR(0);
        let ret = plain::vkCopyAccelerationStructureKHR(self, c)?;
        Ok(done(c.deferredOperation_token, ret))
    }

    fn vkCopyMicromapEXT(&mut self, c: &mut p::vkCopyMicromapEXT) -> Result<VkResult, Error> {
        c.deferredOperation = VkDeferredOperationKHR(0);
        let ret = plain::vkCopyMicromapEXT(self, c)?;
        Ok(done(c.deferredOperation_token, ret))
    }
}
