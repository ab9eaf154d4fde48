//! Command pools: command buffers go with their pool.

use super::*;
use crate::stream::slice;

impl CommandPoolCommands for Engine {
    fn vkCreateCommandPool(&mut self, c: &mut p::vkCreateCommandPool) -> Result<VkResult, Error> {
        // A reset that the guest recorded may never arrive, so beginning again must be possible.
        // SAFETY: decoding placed the struct in the arena, for this command alone.
        unsafe {
            (*c.pCreateInfo.cast_mut()).flags |= VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT;
        }
        let ret = plain::vkCreateCommandPool(self, c)?;
        if ret == VK_SUCCESS {
            // SAFETY: decoding made room for one handle.
            let token = unsafe { *c.pCommandPool }.0;
            self.context.command_pools.lock().entry(token).or_default();
        }
        Ok(ret)
    }

    fn vkDestroyCommandPool(&mut self, c: &mut p::vkDestroyCommandPool) -> Result<(), Error> {
        let f = function!(self.device_fns(c.device_token)?, vkDestroyCommandPool);
        if !self.retire(c.commandPool_token) {
            return Ok(());
        }
        let buffers = self
            .context
            .command_pools
            .lock()
            .remove(&c.commandPool_token);
        for token in buffers.into_iter().flatten() {
            self.retire(token);
        }
        // SAFETY: live, and its token names nothing any more.
        unsafe { f(c.device, c.commandPool, c.pAllocator) };
        Ok(())
    }

    fn vkFreeCommandBuffers(&mut self, c: &mut p::vkFreeCommandBuffers) -> Result<(), Error> {
        let f = function!(self.device_fns(c.device_token)?, vkFreeCommandBuffers);
        let n = c.commandBufferCount as usize;
        // SAFETY: decoding placed as many handles and tokens as the count says, or none.
        let (buffers, tokens) = unsafe {
            (
                slice(c.pCommandBuffers, n),
                slice(c.pCommandBuffers_tokens, n),
            )
        };
        if let Some(pool) = self
            .context
            .command_pools
            .lock()
            .get_mut(&c.commandPool_token)
        {
            for token in tokens {
                pool.remove(token);
            }
        }
        // A list may name one twice, and another thread may name it as well.
        let ours: Vec<VkCommandBuffer> = buffers
            .iter()
            .zip(tokens)
            .filter(|(_, token)| self.retire(**token))
            .map(|(buffer, _)| *buffer)
            .collect();
        // SAFETY: live handles, each once, whose tokens name nothing any more.
        unsafe { f(c.device, c.commandPool, ours.len() as u32, ours.as_ptr()) };
        Ok(())
    }
}
