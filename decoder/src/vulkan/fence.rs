//! Fences.

use super::*;

impl FenceCommands for Engine {
    fn vkDestroyFence(&mut self, c: &mut p::vkDestroyFence) -> Result<(), Error> {
        let f = function!(self.device_fns(c.device_token)?, vkDestroyFence);
        if !self.retire(c.fence_token) {
            return Ok(());
        }
        self.context.signals.fence_destroyed(c.fence_token);
        // SAFETY: live, and its token names nothing any more.
        unsafe { f(c.device, c.fence, c.pAllocator) };
        Ok(())
    }
}
