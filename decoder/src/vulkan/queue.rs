//! Queues: recordings, descriptor commits, submissions.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use asgard_protocol::zeroed;

use super::*;
use crate::stream::slice;

/// A submission that the driver refuses ends the context: the guest was told that it succeeded.
fn submitted(what: &'static str, result: VkResult) -> Result<(), Error> {
    if result == VK_SUCCESS {
        Ok(())
    } else {
        Err(Error::Driver { what, result })
    }
}

impl Engine {
    /// Submits under the queue's lock, then tells who waits for it.
    fn submit<'a>(
        &mut self,
        queue_token: u64,
        fence_token: u64,
        call: impl FnOnce(&DeviceFns) -> Result<VkResult, Error>,
        signals: impl Iterator<Item = VkSemaphore> + 'a,
    ) -> Result<VkResult, Error> {
        let context = Arc::clone(&self.context);
        let device = Arc::clone(self.device(queue_token)?);
        let queue = self.queue(queue_token)?;
        let guard = queue.lock.lock();
        let result = call(&device.fns)?;
        // The guest counts them too, before it knows of a result.
        let number = queue.submitted.fetch_add(1, Ordering::AcqRel) + 1;
        drop(guard);
        context.counters.submits.fetch_add(1, Ordering::Relaxed);
        if result == VK_SUCCESS {
            context.signals.submitted(
                &context,
                &device,
                queue_token,
                (queue, number),
                fence_token,
                signals,
            )?;
        }
        Ok(result)
    }
}

/// The semaphores that submissions signal.
///
/// # Safety
/// The structs were decoded.
unsafe fn signals<'a>(
    submits: *const VkSubmitInfo,
    n: u32,
) -> impl Iterator<Item = VkSemaphore> + 'a {
    // SAFETY: the caller's promise.
    unsafe { slice(submits, n as usize) }.iter().flat_map(|s| {
        // SAFETY: as above.
        unsafe { slice(s.pSignalSemaphores, s.signalSemaphoreCount as usize) }
            .iter()
            .copied()
    })
}

/// As [`signals`].
///
/// # Safety
/// As [`signals`].
unsafe fn signals2<'a>(
    submits: *const VkSubmitInfo2,
    n: u32,
) -> impl Iterator<Item = VkSemaphore> + 'a {
    // SAFETY: the caller's promise.
    unsafe { slice(submits, n as usize) }.iter().flat_map(|s| {
        // SAFETY: as above.
        unsafe { slice(s.pSignalSemaphoreInfos, s.signalSemaphoreInfoCount as usize) }
            .iter()
            .map(|i| i.semaphore)
    })
}

impl QueueCommands for Engine {
    fn vkGetDeviceQueue(&mut self, c: &mut p::vkGetDeviceQueue) -> Result<(), Error> {
        device::get_queue(self, c)
    }

    fn vkGetDeviceQueue2(&mut self, c: &mut p::vkGetDeviceQueue2) -> Result<(), Error> {
        device::get_queue2(self, c)
    }

    fn vkQueueSubmit(&mut self, c: &mut p::vkQueueSubmit) -> Result<VkResult, Error> {
        // SAFETY: decoded structs.
        let signals = unsafe { signals(c.pSubmits, c.submitCount) };
        let call = |fns: &DeviceFns| {
            let f = function!(fns, vkQueueSubmit);
            // SAFETY: decoded arguments, and the queue is locked.
            Ok(unsafe { f(c.queue, c.submitCount, c.pSubmits, c.fence) })
        };
        self.submit(c.queue_token, c.fence_token, call, signals)
    }

    fn vkQueueSubmit2(&mut self, c: &mut p::vkQueueSubmit2) -> Result<VkResult, Error> {
        // SAFETY: decoded structs.
        let signals = unsafe { signals2(c.pSubmits, c.submitCount) };
        let call = |fns: &DeviceFns| {
            let f = function!(fns, vkQueueSubmit2);
            // SAFETY: decoded arguments, and the queue is locked.
            Ok(unsafe { f(c.queue, c.submitCount, c.pSubmits, c.fence) })
        };
        self.submit(c.queue_token, c.fence_token, call, signals)
    }

    fn vkQueueSubmitAsyncGOOGLE(
        &mut self,
        c: &mut p::vkQueueSubmitAsyncGOOGLE,
    ) -> Result<(), Error> {
        let mut submit = p::vkQueueSubmit {
            queue: c.queue,
            queue_token: c.queue_token,
            submitCount: c.submitCount,
            pSubmits: c.pSubmits,
            fence: c.fence,
            fence_token: c.fence_token,
        };
        submitted("vkQueueSubmit", self.vkQueueSubmit(&mut submit)?)
    }

    fn vkQueueSubmitAsync2GOOGLE(
        &mut self,
        c: &mut p::vkQueueSubmitAsync2GOOGLE,
    ) -> Result<(), Error> {
        let mut submit = p::vkQueueSubmit2 {
            queue: c.queue,
            queue_token: c.queue_token,
            submitCount: c.submitCount,
            pSubmits: c.pSubmits,
            fence: c.fence,
            fence_token: c.fence_token,
        };
        submitted("vkQueueSubmit2", self.vkQueueSubmit2(&mut submit)?)
    }

    fn vkQueueBindSparse(&mut self, c: &mut p::vkQueueBindSparse) -> Result<VkResult, Error> {
        // SAFETY: decoded structs.
        let infos = unsafe {
            self.check_sparse(c.pBindInfo, c.bindInfoCount)?;
            slice(c.pBindInfo, c.bindInfoCount as usize)
        };
        let signals = infos.iter().flat_map(|info| {
            // SAFETY: as above.
            let all = unsafe { slice(info.pSignalSemaphores, info.signalSemaphoreCount as usize) };
            all.iter().copied()
        });
        let call = |fns: &DeviceFns| {
            let f = function!(fns, vkQueueBindSparse);
            // SAFETY: decoded arguments, and the queue is locked.
            Ok(unsafe { f(c.queue, c.bindInfoCount, c.pBindInfo, c.fence) })
        };
        self.submit(c.queue_token, c.fence_token, call, signals)
    }

    fn vkQueueBindSparseAsyncGOOGLE(
        &mut self,
        c: &mut p::vkQueueBindSparseAsyncGOOGLE,
    ) -> Result<(), Error> {
        let mut bind = p::vkQueueBindSparse {
            queue: c.queue,
            queue_token: c.queue_token,
            bindInfoCount: c.bindInfoCount,
            pBindInfo: c.pBindInfo,
            fence: c.fence,
            fence_token: c.fence_token,
        };
        submitted("vkQueueBindSparse", self.vkQueueBindSparse(&mut bind)?)
    }

    fn vkQueueWaitIdle(&mut self, c: &mut p::vkQueueWaitIdle) -> Result<VkResult, Error> {
        let f = function!(self.device_fns(c.queue_token)?, vkQueueWaitIdle);
        let queue = Arc::clone(self.queue(c.queue_token)?);
        let guard = queue.lock.lock();
        // SAFETY: live, and locked.
        let ret = unsafe { f(c.queue) };
        drop(guard);
        self.context.signals.idle();
        Ok(ret)
    }

    fn vkQueueWaitIdleAsyncGOOGLE(
        &mut self,
        c: &mut p::vkQueueWaitIdleAsyncGOOGLE,
    ) -> Result<(), Error> {
        let mut wait = p::vkQueueWaitIdle {
            queue: c.queue,
            queue_token: c.queue_token,
        };
        submitted("vkQueueWaitIdle", self.vkQueueWaitIdle(&mut wait)?)
    }

    fn vkQueueFlushCommandsGOOGLE(
        &mut self,
        c: &mut p::vkQueueFlushCommandsGOOGLE,
    ) -> Result<(), Error> {
        // Only this thread's submit, which comes behind it, depends on it.
        self.release_turn();
        let device = Arc::clone(self.device(c.queue_token)?);
        let buffer = (c.commandBuffer.0, c.commandBuffer_token);
        // SAFETY: decoding placed as many bytes as the size says.
        let bytes = unsafe { slice(c.pData.cast::<u8>(), c.dataSize as usize) };
        let commands = play(self, &device.fns, buffer, bytes)?;
        self.context
            .counters
            .staged_commands
            .fetch_add(commands, Ordering::Relaxed);
        Ok(())
    }

    fn vkQueueCommitDescriptorSetUpdatesGOOGLE(
        &mut self,
        c: &mut p::vkQueueCommitDescriptorSetUpdatesGOOGLE,
    ) -> Result<(), Error> {
        let context = Arc::clone(&self.context);
        let device = Arc::clone(self.device(c.queue_token)?);
        let allocate = function!(device.fns, vkAllocateDescriptorSets);
        let free = function!(device.fns, vkFreeDescriptorSets);
        let update = function!(device.fns, vkUpdateDescriptorSets);
        let sets = c.descriptorSetCount as usize;
        // SAFETY: decoding placed as many elements as each count says; the writes are this command's.
        let (pools, layouts, ids, which, pending, starts, writes) = unsafe {
            (
                slice(c.pDescriptorPools, c.descriptorPoolCount as usize),
                slice(c.pSetLayouts, sets),
                slice(c.pDescriptorSetPoolIds, sets),
                slice(c.pDescriptorSetWhichPool, sets),
                slice(c.pDescriptorSetPendingAllocation, sets),
                slice(c.pDescriptorWriteStartingIndices, sets),
                crate::stream::slice_mut(
                    c.pPendingDescriptorWrites.cast_mut(),
                    c.pendingDescriptorWriteCount as usize,
                ),
            )
        };
        let each = ids
            .iter()
            .zip(layouts)
            .zip(which)
            .zip(pending)
            .zip(starts)
            .enumerate();
        for (i, ((((id, layout), which), pending), start)) in each {
            if id >> 56 != Kind::DescriptorSet as u64 {
                return Err(Error::Nonsense(
                    "a commit of something that is no descriptor set",
                ));
            }
            let old = context.objects.get(*id).ok_or(Error::Nonsense(
                "a commit of a descriptor set that is not live",
            ))?;
            let mut set = VkDescriptorSet(old);
            if *pending != 0 {
                let pool = *pools.get(*which as usize).ok_or(Error::Nonsense(
                    "a commit into a pool that is not in the list",
                ))?;
                if old != 0 {
                    // SAFETY: the id stood for this set of this pool.
                    unsafe { free(device.handle, pool, 1, &raw const set) };
                    context.objects.set(*id, 0);
                }
                let info = VkDescriptorSetAllocateInfo {
                    sType: VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO,
                    descriptorPool: pool,
                    descriptorSetCount: 1,
                    pSetLayouts: layout,
                    ..zeroed()
                };
                // SAFETY: live handles, and room for one.
                let result = unsafe { allocate(device.handle, &raw const info, &raw mut set) };
                if result != VK_SUCCESS {
                    return Err(Error::Driver {
                        what: "allocating a committed descriptor set",
                        result,
                    });
                }
                context.objects.set(*id, set.0);
            }
            if set.0 == 0 {
                return Err(Error::Nonsense(
                    "a commit to a descriptor set that was not allocated",
                ));
            }
            let end = starts.get(i + 1).map_or(writes.len(), |s| *s as usize);
            let range = (*start as usize).min(end)..end;
            for write in writes
                .get_mut(range)
                .ok_or(Error::Nonsense("writes that are not there"))?
            {
                write.dstSet = set;
            }
        }
        if writes.iter().any(|w| w.dstSet.0 == 0) {
            return Err(Error::Nonsense(
                "a write to a descriptor set that was not allocated",
            ));
        }
        // SAFETY: live handles, and structs that were decoded.
        unsafe {
            update(
                device.handle,
                writes.len() as u32,
                writes.as_ptr(),
                0,
                std::ptr::null(),
            )
        };
        Ok(())
    }
}
