//! Pipelines: those for ray tracing, and what is asked of their groups.

use super::*;

/// More than the handle of a shader group has anywhere, in bytes.
const GROUP_HANDLE: usize = 256;

/// The room that a driver fills with the handles of `n` shader groups, whatever the guest says.
fn handles_room(n: u32) -> usize {
    (n as usize).saturating_mul(GROUP_HANDLE)
}

impl PipelineCommands for Engine {
    fn vkCreateRayTracingPipelinesKHR(
        &mut self,
        c: &mut p::vkCreateRayTracingPipelinesKHR,
    ) -> Result<VkResult, Error> {
        c.deferredOperation = VkDeferredOperationKHR(0);
        let ret = plain::vkCreateRayTracingPipelinesKHR(self, c)?;
        Ok(deferred_operation::done(c.deferredOperation_token, ret))
    }

    fn vkGetRayTracingShaderGroupHandlesKHR(
        &mut self,
        c: &mut p::vkGetRayTracingShaderGroupHandlesKHR,
    ) -> Result<VkResult, Error> {
        let f = function!(
            self.device_fns(c.device_token)?,
            vkGetRayTracingShaderGroupHandlesKHR
        );
        with_room(c.pData, c.dataSize, handles_room(c.groupCount), |to| {
            // SAFETY: live handles, and room for as many group handles as the count says.
            unsafe {
                f(
                    c.device,
                    c.pipeline,
                    c.firstGroup,
                    c.groupCount,
                    c.dataSize,
                    to,
                )
            }
        })
    }

    fn vkGetRayTracingCaptureReplayShaderGroupHandlesKHR(
        &mut self,
        c: &mut p::vkGetRayTracingCaptureReplayShaderGroupHandlesKHR,
    ) -> Result<VkResult, Error> {
        let f = function!(
            self.device_fns(c.device_token)?,
            vkGetRayTracingCaptureReplayShaderGroupHandlesKHR
        );
        with_room(c.pData, c.dataSize, handles_room(c.groupCount), |to| {
            // SAFETY: as above.
            unsafe {
                f(
                    c.device,
                    c.pipeline,
                    c.firstGroup,
                    c.groupCount,
                    c.dataSize,
                    to,
                )
            }
        })
    }
}
