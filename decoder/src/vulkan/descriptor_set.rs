//! Descriptor sets.

use super::*;
use crate::stream::slice;

impl DescriptorSetCommands for Engine {
    fn vkAllocateDescriptorSets(
        &mut self,
        c: &mut p::vkAllocateDescriptorSets,
    ) -> Result<VkResult, Error> {
        let ret = plain::vkAllocateDescriptorSets(self, c)?;
        let n = count_in(c.pAllocateInfo, |i| i.descriptorSetCount as usize);
        if ret == VK_SUCCESS {
            let handle = count_in(c.pAllocateInfo, |i| i.descriptorPool.0 as usize) as u64;
            let pool = self.context.descriptor_pool_token(c.device_token, handle);
            if let Some(pool) = self.context.descriptor_pools.lock().get_mut(&pool) {
                // SAFETY: adopted above.
                pool.sets
                    .extend(unsafe { slice(c.pDescriptorSets, n) }.iter().map(|s| s.0));
            }
        }
        Ok(ret)
    }

    fn vkUpdateDescriptorSetWithTemplateSized2GOOGLE(
        &mut self,
        c: &mut p::vkUpdateDescriptorSetWithTemplateSized2GOOGLE,
    ) -> Result<(), Error> {
        super::descriptor_update_template::update(self, c)
    }
}
