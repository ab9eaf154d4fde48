//! Command buffers: recorded here, sent when they are submitted.

use std::cell::UnsafeCell;

use parking_lot::Mutex;

use super::*;
use crate::driver::stage;
use crate::object::Dispatchable;
use crate::vulkan::device::device;

/// A command buffer.
#[derive(Debug)]
pub(crate) struct CommandBuffer {
    pub(crate) device: VkDevice,
    primary: bool,
    /// What the host has not got yet. Recorded into without a lock: an application uses a command buffer
    /// in one thread at a time, and does not record while it is submitted.
    recording: UnsafeCell<Vec<u8>>,
    /// Held while it is sent: a secondary command buffer may be part of submissions of several threads.
    sending: Mutex<()>,
    /// Handles of the secondary command buffers that it executes.
    secondaries: Mutex<Vec<u64>>,
}

impl CommandBuffer {
    fn new(device: VkDevice, level: VkCommandBufferLevel) -> Self {
        Self {
            device,
            primary: level == VK_COMMAND_BUFFER_LEVEL_PRIMARY,
            recording: UnsafeCell::default(),
            sending: Mutex::default(),
            secondaries: Mutex::default(),
        }
    }

    /// The recording, to append to.
    ///
    /// # Safety
    /// Nobody else records into or submits this command buffer meanwhile: applications see to that.
    #[inline]
    #[allow(
        clippy::mut_from_ref,
        reason = "one thread at a time, by the specification"
    )]
    pub(crate) unsafe fn recording(&self) -> &mut Vec<u8> {
        // SAFETY: the caller's promise.
        unsafe { &mut *self.recording.get() }
    }

    /// Drops what was recorded.
    ///
    /// # Safety
    /// As [`Self::recording`].
    pub(crate) unsafe fn forget(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.recording() }.clear();
        self.secondaries.lock().clear();
    }
}

/// Sends what was recorded since the last time, secondary command buffers first.
///
/// # Safety
/// The handles are live.
pub(super) unsafe fn flush(queue: VkQueue, handle: VkCommandBuffer) {
    // SAFETY: the caller's promise.
    let buffer = unsafe { Dispatchable::<CommandBuffer>::from_handle(handle.0) };
    let secondaries = buffer.data.secondaries.lock().clone();
    for secondary in secondaries {
        // SAFETY: it was executed by this one, so it is still live.
        unsafe { flush(queue, VkCommandBuffer(secondary)) };
    }
    let _sending = buffer.data.sending.lock();
    // SAFETY: it is being submitted, so nobody records; other submissions are kept out by the lock.
    let recording = unsafe { buffer.data.recording() };
    if recording.is_empty() {
        return;
    }
    Driver.call(&mut p::vkQueueFlushCommandsGOOGLE {
        queue,
        commandBuffer: handle,
        dataSize: recording.len() as u64,
        pData: recording.as_ptr().cast(),
        ..zeroed()
    });
    recording.clear();
}

/// Elements of an application's array that lie `stride` bytes apart: on the wire nothing is between them.
///
/// # Safety
/// There are as many as `count` says.
unsafe fn side_by_side<T: Copy>(first: *const T, count: u32, stride: u32) -> Vec<T> {
    (0..count as usize)
        // SAFETY: the caller's promise. Applications may put them anywhere.
        .map(|i| unsafe { first.byte_add(i * stride as usize).read_unaligned() })
        .collect()
}

/// Stages of a bind point: any of them names it.
fn stages(bind_point: VkPipelineBindPoint) -> VkShaderStageFlags {
    match bind_point {
        VK_PIPELINE_BIND_POINT_GRAPHICS => VK_SHADER_STAGE_ALL_GRAPHICS,
        VK_PIPELINE_BIND_POINT_RAY_TRACING_KHR => {
            VK_SHADER_STAGE_RAYGEN_BIT_KHR
                | VK_SHADER_STAGE_ANY_HIT_BIT_KHR
                | VK_SHADER_STAGE_CLOSEST_HIT_BIT_KHR
                | VK_SHADER_STAGE_MISS_BIT_KHR
                | VK_SHADER_STAGE_INTERSECTION_BIT_KHR
                | VK_SHADER_STAGE_CALLABLE_BIT_KHR
        }
        _ => VK_SHADER_STAGE_COMPUTE_BIT,
    }
}

impl CommandBufferCommands for Driver {
    fn vkAllocateCommandBuffers(&self, c: &mut p::vkAllocateCommandBuffers) -> VkResult {
        // SAFETY: the application passes a struct.
        let n = unsafe { (*c.pAllocateInfo).commandBufferCount };
        let made = c.pCommandBuffers.cast();
        let ret = self.create(c, Kind::CommandBuffer, made, n as usize);
        if ret != VK_SUCCESS {
            return ret;
        }
        // SAFETY: the application passes a live device and a struct, and room for the handles, where by
        // now there are tokens.
        unsafe {
            let info = *c.pAllocateInfo;
            let mut pools = device(c.device).pools.lock();
            let pool = pools.entry(info.commandPool.0).or_default();
            for i in 0..info.commandBufferCount as usize {
                let slot = &mut *c.pCommandBuffers.add(i);
                let object = Dispatchable::new(slot.0, CommandBuffer::new(c.device, info.level));
                slot.0 = object.into_handle();
                pool.push(slot.0);
            }
        }
        ret
    }

    fn vkBeginCommandBuffer(&self, c: &mut p::vkBeginCommandBuffer) -> VkResult {
        // SAFETY: the application passes a live command buffer and a struct.
        unsafe {
            let buffer = Dispatchable::<CommandBuffer>::from_handle(c.commandBuffer.0);
            buffer.data.forget();
            let mut info = *c.pBeginInfo;
            if buffer.data.primary {
                // Ignored there, so it may be garbage.
                info.pInheritanceInfo = std::ptr::null();
            }
            stage(
                buffer.data.recording(),
                &p::vkBeginCommandBufferAsyncGOOGLE {
                    commandBuffer: c.commandBuffer,
                    pBeginInfo: &raw const info,
                    ..zeroed()
                },
            );
        }
        VK_SUCCESS
    }

    fn vkEndCommandBuffer(&self, c: &mut p::vkEndCommandBuffer) -> VkResult {
        self.record(&mut p::vkEndCommandBufferAsyncGOOGLE {
            commandBuffer: c.commandBuffer,
            ..zeroed()
        });
        VK_SUCCESS
    }

    fn vkResetCommandBuffer(&self, c: &mut p::vkResetCommandBuffer) -> VkResult {
        // SAFETY: the application passes a live command buffer. Beginning it again resets it at the host.
        unsafe {
            Dispatchable::<CommandBuffer>::from_handle(c.commandBuffer.0)
                .data
                .forget();
        }
        VK_SUCCESS
    }

    fn vkCmdExecuteCommands(&self, c: &mut p::vkCmdExecuteCommands) {
        // SAFETY: the application passes a live command buffer, and as many others as it says.
        unsafe {
            let buffer = Dispatchable::<CommandBuffer>::from_handle(c.commandBuffer.0);
            let mut secondaries = buffer.data.secondaries.lock();
            for i in 0..c.commandBufferCount as usize {
                secondaries.push((*c.pCommandBuffers.add(i)).0);
            }
        }
        self.record(c);
    }

    fn vkCmdDrawMultiEXT(&self, c: &mut p::vkCmdDrawMultiEXT) {
        // SAFETY: the application passes as many draws as it says, so far apart.
        let draws = unsafe { side_by_side(c.pVertexInfo, c.drawCount, c.stride) };
        c.pVertexInfo = draws.as_ptr();
        c.stride = size_of::<VkMultiDrawInfoEXT>() as u32;
        self.record(c);
    }

    fn vkCmdDrawMultiIndexedEXT(&self, c: &mut p::vkCmdDrawMultiIndexedEXT) {
        // SAFETY: as above.
        let draws = unsafe { side_by_side(c.pIndexInfo, c.drawCount, c.stride) };
        c.pIndexInfo = draws.as_ptr();
        c.stride = size_of::<VkMultiDrawIndexedInfoEXT>() as u32;
        self.record(c);
    }

    fn vkCmdPushDescriptorSetWithTemplate(&self, c: &mut p::vkCmdPushDescriptorSetWithTemplate) {
        let info = VkPushDescriptorSetWithTemplateInfo {
            sType: VK_STRUCTURE_TYPE_PUSH_DESCRIPTOR_SET_WITH_TEMPLATE_INFO,
            descriptorUpdateTemplate: c.descriptorUpdateTemplate,
            layout: c.layout,
            set: c.set,
            pData: c.pData,
            ..zeroed()
        };
        // SAFETY: the application passes a live command buffer and template, and the template's data.
        unsafe {
            descriptor_update_template::push(c.commandBuffer, &info, |template, writes| {
                self.record(&mut p::vkCmdPushDescriptorSet {
                    commandBuffer: c.commandBuffer,
                    pipelineBindPoint: template.bind_point,
                    layout: c.layout,
                    set: c.set,
                    descriptorWriteCount: writes.len() as u32,
                    pDescriptorWrites: writes.as_ptr(),
                    ..zeroed()
                });
            });
        }
    }

    fn vkCmdPushDescriptorSetWithTemplate2(&self, c: &mut p::vkCmdPushDescriptorSetWithTemplate2) {
        // SAFETY: as above, and a struct.
        unsafe {
            let info = *c.pPushDescriptorSetWithTemplateInfo;
            descriptor_update_template::push(c.commandBuffer, &info, |template, writes| {
                let push = VkPushDescriptorSetInfo {
                    sType: VK_STRUCTURE_TYPE_PUSH_DESCRIPTOR_SET_INFO,
                    // A layout may stand in the chain instead.
                    pNext: info.pNext,
                    stageFlags: stages(template.bind_point),
                    layout: info.layout,
                    set: info.set,
                    descriptorWriteCount: writes.len() as u32,
                    pDescriptorWrites: writes.as_ptr(),
                };
                self.record(&mut p::vkCmdPushDescriptorSet2 {
                    commandBuffer: c.commandBuffer,
                    pPushDescriptorSetInfo: &raw const push,
                    ..zeroed()
                });
            });
        }
    }
}
