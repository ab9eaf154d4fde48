//! Buffers.

use super::*;

impl BufferCommands for Engine {
    fn vkCreateBufferWithRequirementsGOOGLE(
        &mut self,
        c: &mut p::vkCreateBufferWithRequirementsGOOGLE,
    ) -> Result<VkResult, Error> {
        let fns = self.device_fns(c.device_token)?;
        let create = function!(fns, vkCreateBuffer);
        let requirements = function!(fns, vkGetBufferMemoryRequirements);
        // SAFETY: decoded arguments, and room for both answers.
        let ret = unsafe {
            let ret = create(c.device, c.pCreateInfo, c.pAllocator, c.pBuffer);
            if ret == VK_SUCCESS {
                requirements(c.device, *c.pBuffer, c.pMemoryRequirements);
            }
            ret
        };
        self.adopt(Kind::Buffer, c.device_token, c.pBuffer.cast(), 1, true)?;
        Ok(ret)
    }
}
