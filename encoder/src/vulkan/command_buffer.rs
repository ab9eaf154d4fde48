//! Command buffers: recorded here, sent when they are submitted.
//!
//! A recording that equals the one that the host holds is not sent again. Tokens are never used twice, so
//! equal bytes name the same objects; what else can take the meaning from the host's recording is looked
//! after in [`flush`].

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, Ordering};

use asgard_protocol::extension::Features;
use parking_lot::Mutex;

use super::*;
use crate::driver::stage;
use crate::object::Dispatchable;
use crate::process::Process;
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
    sending: Mutex<Held>,
    /// The recording may be executed once.
    once: AtomicBool,
    /// The recording binds descriptor sets.
    binds_sets: AtomicBool,
    /// What the application begins for one submission is recorded for many, because it comes again.
    returns: AtomicBool,
    /// Handles of the secondary command buffers that it executes.
    secondaries: Mutex<Vec<u64>>,
    /// It is complete, and the host has not got it yet.
    waits: AtomicBool,
}

/// What the host holds of a command buffer.
#[derive(Debug, Default)]
struct Held {
    bytes: Vec<u8>,
    /// [`CommandBuffer::returns`] when it was begun.
    returns: bool,
    /// [`Device::descriptor_updates`] when it was recorded.
    ///
    /// [`Device::descriptor_updates`]: device::Device::descriptor_updates
    updates: u64,
}

/// Larger recordings are not kept: what is kept is there twice.
const MOST: usize = 4 << 20;

impl CommandBuffer {
    fn new(device: VkDevice, level: VkCommandBufferLevel) -> Self {
        Self {
            device,
            primary: level == VK_COMMAND_BUFFER_LEVEL_PRIMARY,
            recording: UnsafeCell::default(),
            sending: Mutex::default(),
            once: AtomicBool::new(false),
            binds_sets: AtomicBool::new(false),
            returns: AtomicBool::new(false),
            secondaries: Mutex::default(),
            waits: AtomicBool::default(),
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
        self.binds_sets.store(false, Ordering::Relaxed);
        self.settle();
    }

    /// The recording is complete, and will be sent when it is submitted.
    fn wait(&self) {
        if !self.waits.swap(true, Ordering::AcqRel) {
            // SAFETY: the device outlives its command buffers.
            unsafe { device(self.device) }.layouts.hold();
        }
    }

    /// The host has got the recording, or never will.
    pub(crate) fn settle(&self) {
        if self.waits.swap(false, Ordering::AcqRel) {
            // SAFETY: the device outlives its command buffers.
            unsafe { device(self.device) }.layouts.release(self.device);
        }
    }

    /// The host holds nothing of it any more.
    pub(crate) fn lose(&self) {
        *self.sending.lock() = Held::default();
    }

    /// Whether the host need not be sent the recording, which is not empty; notes that it holds it from
    /// now on, if it is worth being kept.
    fn is_held(&self, held: &mut Held, recording: &mut Vec<u8>) -> bool {
        let kept = Process::get().is_some_and(|p| p.features.has(Features::KEPT_RECORDINGS));
        if !kept || recording.len() > MOST || !self.secondaries.lock().is_empty() {
            *held = Held::default();
            return false;
        }
        let returns = self.returns.load(Ordering::Relaxed);
        // SAFETY: it is a live command buffer's, and applications keep the device longer.
        let updates = unsafe { device(self.device) }.descriptor_updates();
        let same = *recording == held.bytes && returns == held.returns;
        let bound = !self.binds_sets.load(Ordering::Relaxed) || updates == held.updates;
        let once = self.once.load(Ordering::Relaxed);
        if same && bound && !once {
            return true;
        }
        if same && once {
            self.returns.store(true, Ordering::Relaxed);
        } else if !same && held.returns && returns {
            self.returns.store(false, Ordering::Relaxed);
        }
        held.bytes.clear();
        held.bytes.extend_from_slice(recording);
        held.returns = returns;
        held.updates = updates;
        false
    }
}

/// Sends what was recorded since the last time, secondary command buffers first.
///
/// Not sent is what the host holds already, unless its recording is of no use any more: because it was
/// for one submission, because a descriptor set was written to since (Vulkan, "Command Buffer Lifecycle"),
/// or because it executes others, which may have been recorded again. Where only the first of these
/// stands against it, the command buffer is begun for many submissions from now on.
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
    let mut held = buffer.data.sending.lock();
    // SAFETY: it is being submitted, so nobody records; other submissions are kept out by the lock.
    let recording = unsafe { buffer.data.recording() };
    if recording.is_empty() {
        return;
    }
    if !buffer.data.is_held(&mut held, recording) {
        Driver.call(&mut p::vkQueueFlushCommandsGOOGLE {
            queue,
            commandBuffer: handle,
            dataSize: recording.len() as u64,
            pData: recording.as_ptr().cast(),
            ..zeroed()
        });
    }
    recording.clear();
    buffer.data.settle();
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

/// Notes that a command buffer depends on what descriptor sets contain.
#[inline]
fn binds_sets(handle: VkCommandBuffer) {
    // SAFETY: the application passes a live command buffer.
    let buffer = unsafe { Dispatchable::<CommandBuffer>::from_handle(handle.0) };
    buffer.data.binds_sets.store(true, Ordering::Relaxed);
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
            if buffer.data.returns.load(Ordering::Relaxed) {
                info.flags &= !VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT;
            }
            let once = info.flags & VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT != 0;
            buffer.data.once.store(once, Ordering::Relaxed);
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
        // SAFETY: the application passes a live command buffer.
        unsafe { Dispatchable::<CommandBuffer>::from_handle(c.commandBuffer.0) }
            .data
            .wait();
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

    fn vkCmdBindDescriptorSets(&self, c: &mut p::vkCmdBindDescriptorSets) {
        binds_sets(c.commandBuffer);
        self.record(c);
    }

    fn vkCmdBindDescriptorSets2(&self, c: &mut p::vkCmdBindDescriptorSets2) {
        binds_sets(c.commandBuffer);
        self.record(c);
    }

    fn vkCmdSetEvent(&self, c: &mut p::vkCmdSetEvent) {
        event::recorded(c.commandBuffer, c.event);
        self.record(c);
    }

    fn vkCmdSetEvent2(&self, c: &mut p::vkCmdSetEvent2) {
        event::recorded(c.commandBuffer, c.event);
        self.record(c);
    }

    fn vkCmdResetEvent(&self, c: &mut p::vkCmdResetEvent) {
        event::recorded(c.commandBuffer, c.event);
        self.record(c);
    }

    fn vkCmdResetEvent2(&self, c: &mut p::vkCmdResetEvent2) {
        event::recorded(c.commandBuffer, c.event);
        self.record(c);
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
