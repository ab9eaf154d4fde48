//! Semaphores.

use super::*;

impl SemaphoreCommands for Engine {
    fn vkDestroySemaphore(&mut self, c: &mut p::vkDestroySemaphore) -> Result<(), Error> {
        let f = function!(self.device_fns(c.device_token)?, vkDestroySemaphore);
        if !self.retire(c.semaphore_token) {
            return Ok(());
        }
        self.context.signals.semaphore_destroyed(c.semaphore);
        // SAFETY: live, and its token names nothing any more.
        unsafe { f(c.device, c.semaphore, c.pAllocator) };
        Ok(())
    }
}
