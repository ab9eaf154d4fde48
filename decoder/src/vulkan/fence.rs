//! Fences.

use super::*;

impl FenceCommands for Engine {
    fn vkDestroyFence(&mut self, c: &mut p::vkDestroyFence) -> Result<(), Error> {
        plain::vkDestroyFence(self, c)?;
        self.context.signals.fence_destroyed(c.fence_token);
        Ok(())
    }
}
