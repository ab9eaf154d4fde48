//! Buffers: those that are sparse have other memory than the rest.

use super::*;

const SPARSE: VkBufferCreateFlags = VK_BUFFER_CREATE_SPARSE_BINDING_BIT;

impl BufferCommands for Engine {
    fn vkCreateBuffer(&mut self, c: &mut p::vkCreateBuffer) -> Result<VkResult, Error> {
        let ret = plain::vkCreateBuffer(self, c)?;
        // SAFETY: decoding placed the struct, and room for a handle, where its token is now.
        if unsafe { (*c.pCreateInfo).flags } & SPARSE != 0 {
            // SAFETY: as above.
            self.note_sparse(c.device_token, Kind::Buffer, unsafe { (*c.pBuffer).0 });
        }
        Ok(ret)
    }

    fn vkDestroyBuffer(&mut self, c: &mut p::vkDestroyBuffer) -> Result<(), Error> {
        self.forget_sparse(c.device_token, Kind::Buffer, c.buffer.0);
        plain::vkDestroyBuffer(self, c)
    }

    fn vkGetBufferMemoryRequirements(
        &mut self,
        c: &mut p::vkGetBufferMemoryRequirements,
    ) -> Result<(), Error> {
        plain::vkGetBufferMemoryRequirements(self, c)?;
        if self.is_sparse(c.device_token, Kind::Buffer, c.buffer.0) {
            // SAFETY: the call filled what decoding had made room for.
            self.show_sparse(unsafe { &mut *c.pMemoryRequirements });
        }
        Ok(())
    }

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
        // SAFETY: as above; where the handle was is its token now.
        let (flags, token, needs) = unsafe {
            (
                (*c.pCreateInfo).flags,
                (*c.pBuffer).0,
                &mut *c.pMemoryRequirements,
            )
        };
        self.show_memory_types(&mut needs.memoryTypeBits);
        if flags & SPARSE != 0 {
            self.note_sparse(c.device_token, Kind::Buffer, token);
            self.show_sparse(needs);
        }
        Ok(ret)
    }
}
