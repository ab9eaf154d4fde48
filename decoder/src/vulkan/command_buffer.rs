//! Command buffers: recordings come in one piece, at submit.

use super::*;
use crate::stream::slice;

/// A recording that the driver refuses ends the context: the guest was told long ago that it succeeded.
fn must_succeed(what: &'static str, result: VkResult) -> Result<(), Error> {
    if result == VK_SUCCESS {
        Ok(())
    } else {
        Err(Error::Driver { what, result })
    }
}

impl CommandBufferCommands for Engine {
    fn vkAllocateCommandBuffers(
        &mut self,
        c: &mut p::vkAllocateCommandBuffers,
    ) -> Result<VkResult, Error> {
        let ret = plain::vkAllocateCommandBuffers(self, c)?;
        let n = count_in(c.pAllocateInfo, |i| i.commandBufferCount as usize);
        if ret == VK_SUCCESS {
            // The pool's token: found by its handle, which the struct holds by now.
            let handle = count_in(c.pAllocateInfo, |i| i.commandPool.0 as usize) as u64;
            let pool = self.context.command_pool_token(c.device_token, handle);
            let mut pools = self.context.command_pools.lock();
            // SAFETY: adopted above.
            pools
                .entry(pool)
                .or_default()
                .extend(unsafe { slice(c.pCommandBuffers, n) }.iter().map(|b| b.0));
        }
        Ok(ret)
    }

    fn vkBeginCommandBufferAsyncGOOGLE(
        &mut self,
        fns: &DeviceFns,
        c: &mut p::vkBeginCommandBufferAsyncGOOGLE,
    ) -> Result<(), Error> {
        let f = function!(fns, vkBeginCommandBuffer);
        // SAFETY: decoded arguments.
        must_succeed("vkBeginCommandBuffer", unsafe {
            f(c.commandBuffer, c.pBeginInfo)
        })
    }

    fn vkEndCommandBufferAsyncGOOGLE(
        &mut self,
        fns: &DeviceFns,
        c: &mut p::vkEndCommandBufferAsyncGOOGLE,
    ) -> Result<(), Error> {
        let f = function!(fns, vkEndCommandBuffer);
        // SAFETY: decoded arguments.
        must_succeed("vkEndCommandBuffer", unsafe { f(c.commandBuffer) })
    }

    fn vkCmdBuildAccelerationStructuresKHR(
        &mut self,
        fns: &DeviceFns,
        c: &mut p::vkCmdBuildAccelerationStructuresKHR,
    ) -> Result<(), Error> {
        // SAFETY: decoding placed as many structs as the count says.
        unsafe { acceleration_structure::check_builds(c.pInfos, c.infoCount)? };
        plain::vkCmdBuildAccelerationStructuresKHR(self, fns, c)
    }

    fn vkCmdBuildAccelerationStructuresIndirectKHR(
        &mut self,
        fns: &DeviceFns,
        c: &mut p::vkCmdBuildAccelerationStructuresIndirectKHR,
    ) -> Result<(), Error> {
        // SAFETY: as above.
        unsafe { acceleration_structure::check_builds(c.pInfos, c.infoCount)? };
        plain::vkCmdBuildAccelerationStructuresIndirectKHR(self, fns, c)
    }

    fn vkCmdBuildMicromapsEXT(
        &mut self,
        fns: &DeviceFns,
        c: &mut p::vkCmdBuildMicromapsEXT,
    ) -> Result<(), Error> {
        // SAFETY: as above.
        unsafe { acceleration_structure::check_micromaps(c.pInfos, c.infoCount)? };
        plain::vkCmdBuildMicromapsEXT(self, fns, c)
    }

    fn vkResetCommandBufferAsyncGOOGLE(
        &mut self,
        fns: &DeviceFns,
        c: &mut p::vkResetCommandBufferAsyncGOOGLE,
    ) -> Result<(), Error> {
        let f = function!(fns, vkResetCommandBuffer);
        // SAFETY: decoded arguments.
        must_succeed("vkResetCommandBuffer", unsafe {
            f(c.commandBuffer, c.flags)
        })
    }

    fn vkCmdDrawMultiEXT(
        &mut self,
        fns: &DeviceFns,
        c: &mut p::vkCmdDrawMultiEXT,
    ) -> Result<(), Error> {
        // Whatever the guest's stride was, the draws were decoded side by side.
        c.stride = size_of::<VkMultiDrawInfoEXT>() as u32;
        plain::vkCmdDrawMultiEXT(self, fns, c)
    }

    fn vkCmdDrawMultiIndexedEXT(
        &mut self,
        fns: &DeviceFns,
        c: &mut p::vkCmdDrawMultiIndexedEXT,
    ) -> Result<(), Error> {
        c.stride = size_of::<VkMultiDrawIndexedInfoEXT>() as u32;
        plain::vkCmdDrawMultiIndexedEXT(self, fns, c)
    }
}
