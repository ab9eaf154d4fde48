//! Descriptor pools, in both ways of naming their sets.
//!
//! Plain: the host allocates a set and returns its token.
//! Batched: right after the pool, the guest asks for as many ids as the pool has sets; it allocates and
//! writes sets by itself, and commits them before a submit (`queue.rs`). An id is a token of a
//! descriptor set with no driver's set behind it until then.

use super::*;
use crate::context::DescriptorPool;
use crate::stream::{slice, slice_mut};

impl DescriptorPoolCommands for Engine {
    fn vkCreateDescriptorPool(
        &mut self,
        c: &mut p::vkCreateDescriptorPool,
    ) -> Result<VkResult, Error> {
        // A committed set is freed when its id is used for another one, whatever the guest planned.
        // SAFETY: decoding placed the struct in the arena, for this command alone.
        let max_sets = unsafe {
            let info = &mut *c.pCreateInfo.cast_mut();
            info.flags |= VK_DESCRIPTOR_POOL_CREATE_FREE_DESCRIPTOR_SET_BIT;
            info.maxSets
        };
        let ret = plain::vkCreateDescriptorPool(self, c)?;
        if ret == VK_SUCCESS {
            // SAFETY: decoding made room for one handle.
            let token = unsafe { *c.pDescriptorPool }.0;
            let pool = DescriptorPool {
                max_sets,
                ..DescriptorPool::default()
            };
            self.context.descriptor_pools.lock().insert(token, pool);
        }
        Ok(ret)
    }

    fn vkDestroyDescriptorPool(&mut self, c: &mut p::vkDestroyDescriptorPool) -> Result<(), Error> {
        let f = function!(self.device_fns(c.device_token)?, vkDestroyDescriptorPool);
        if !self.retire(c.descriptorPool_token) {
            return Ok(());
        }
        let pool = self
            .context
            .descriptor_pools
            .lock()
            .remove(&c.descriptorPool_token);
        for set in pool.into_iter().flat_map(|p| p.sets) {
            self.retire(set);
        }
        // SAFETY: live, and its token names nothing any more.
        unsafe { f(c.device, c.descriptorPool, c.pAllocator) };
        Ok(())
    }

    fn vkResetDescriptorPool(
        &mut self,
        c: &mut p::vkResetDescriptorPool,
    ) -> Result<VkResult, Error> {
        let f = function!(self.device_fns(c.device_token)?, vkResetDescriptorPool);
        if let Some(pool) = self
            .context
            .descriptor_pools
            .lock()
            .get_mut(&c.descriptorPool_token)
        {
            for set in &pool.sets {
                if pool.batched {
                    self.context.objects.set(*set, 0);
                } else {
                    self.context.objects.remove(*set);
                }
            }
            if !pool.batched {
                pool.sets.clear();
            }
        }
        // SAFETY: live handles.
        Ok(unsafe { f(c.device, c.descriptorPool, c.flags) })
    }

    fn vkFreeDescriptorSets(&mut self, c: &mut p::vkFreeDescriptorSets) -> Result<VkResult, Error> {
        let f = function!(self.device_fns(c.device_token)?, vkFreeDescriptorSets);
        let n = c.descriptorSetCount as usize;
        // SAFETY: decoding placed as many tokens as the count says, or none.
        let tokens = unsafe { slice(c.pDescriptorSets_tokens, n) };
        let mut pools = self.context.descriptor_pools.lock();
        let pool = pools
            .get_mut(&c.descriptorPool_token)
            .ok_or(Error::Nonsense(
                "sets of a descriptor pool that is not live",
            ))?;
        let objects = &self.context.objects;
        // A list may name one twice, and another thread may name it as well: whoever takes the handle
        // away frees it. Sets of other pools are not this one's to free.
        let real: Vec<VkDescriptorSet> = tokens
            .iter()
            .filter(|token| pool.sets.contains(*token))
            .filter_map(|token| objects.swap(*token, 0))
            .filter(|handle| *handle != 0)
            .map(VkDescriptorSet)
            .collect();
        if !pool.batched {
            for token in tokens {
                if pool.sets.remove(token) {
                    objects.remove(*token);
                }
            }
        }
        drop(pools);
        if real.is_empty() {
            return Ok(VK_SUCCESS);
        }
        // SAFETY: live handles that nothing names any more.
        Ok(unsafe { f(c.device, c.descriptorPool, real.len() as u32, real.as_ptr()) })
    }

    fn vkCollectDescriptorPoolIdsGOOGLE(
        &mut self,
        c: &mut p::vkCollectDescriptorPoolIdsGOOGLE,
    ) -> Result<(), Error> {
        let mut pools = self.context.descriptor_pools.lock();
        let pool = pools
            .get_mut(&c.descriptorPool_token)
            .ok_or(Error::Nonsense("ids of a descriptor pool that is not live"))?;
        // SAFETY: decoding placed the count, and made room for as many ids.
        let (n, ids) = unsafe {
            let Some(n) = c.pPoolIdCount.as_mut() else {
                return Err(Error::Nonsense("no room for the number of ids"));
            };
            let ids = slice_mut(c.pPoolIds, *n as usize);
            (n, ids)
        };
        if c.pPoolIds.is_null() {
            *n = pool.max_sets;
            return Ok(());
        }
        pool.batched = true;
        let room = (pool.max_sets as usize)
            .saturating_sub(pool.sets.len())
            .min(ids.len());
        *n = room as u32;
        for id in ids.iter_mut().take(room) {
            *id = self
                .context
                .objects
                .insert(Kind::DescriptorSet, c.device_token, 0)?;
            pool.sets.insert(*id);
        }
        Ok(())
    }
}
