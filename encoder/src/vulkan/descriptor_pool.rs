//! Descriptor pools: what gives sets back does not fail.

use super::*;

impl DescriptorPoolCommands for Driver {
    fn vkResetDescriptorPool(&self, c: &mut p::vkResetDescriptorPool) -> VkResult {
        self.tell(c)
    }

    fn vkFreeDescriptorSets(&self, c: &mut p::vkFreeDescriptorSets) -> VkResult {
        self.tell(c)
    }
}
