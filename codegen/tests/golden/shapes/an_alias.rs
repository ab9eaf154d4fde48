// vkQueueSubmit2KHR 293024240 answered; queue Queue; submitCount u32; pSubmits VkSubmitInfo2[submitCount]; fence Fence -> i32
/// `vkQueueSubmit2KHR`, opcode 293024240, answered, an alias of `vkQueueSubmit2`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct vkQueueSubmit2KHR {
    pub queue: VkQueue,
    pub queue_token: u64,
    pub submitCount: u32,
    pub pSubmits: *const VkSubmitInfo2,
    pub fence: VkFence,
    pub fence_token: u64,
}
zeroable!(vkQueueSubmit2KHR);
impl Command for vkQueueSubmit2KHR {
    const OPCODE: u32 = 293024240;
    const NAME: &'static str = "vkQueueSubmit2KHR";
    const ON_COMMAND_BUFFER: bool = false;
    const HAS_REPLY: bool = true;
    type Return = VkResult;
    const LOST: Self::Return = VK_ERROR_DEVICE_LOST;
    #[inline]
    unsafe fn decode_request(r: &mut Reader<'_>) -> Result<Self, DecodeError> { unsafe {
        let mut c: Self = zeroed();
        (c.queue.0, c.queue_token) = r.object(Kind::Queue, true)?;
        c.submitCount = r.count_u32()?;
        r.array::<VkSubmitInfo2>((&raw mut c.pSubmits).cast(), c.submitCount as usize)?;
        (c.fence.0, c.fence_token) = r.object(Kind::Fence, false)?;
        Ok(c)
    } }
    unsafe fn encode_request(&self, w: &mut Writer<'_>) { unsafe {
        w.handle(Kind::Queue, self.queue.0);
        w.u32(self.submitCount);
        w.array::<VkSubmitInfo2>(self.pSubmits.cast(), self.submitCount as usize);
        w.handle(Kind::Fence, self.fence.0);
    } }
    unsafe fn encode_reply(&self, ret: VkResult, w: &mut Writer<'_>) { unsafe {
        w.i32(ret);
    } }
    unsafe fn decode_reply(&mut self, r: &mut Reader<'_>) -> Result<VkResult, DecodeError> { unsafe {
        r.i32()
    } }
}
pub(crate) trait QueueCommands: Host {
    /// `vkQueueSubmit2KHR`.
    fn vkQueueSubmit2KHR(&mut self, c: &mut p::vkQueueSubmit2KHR) -> Result<VkResult, Error> {
        // SAFETY: an alias has the parameters of `vkQueueSubmit2`, and both structs are repr(C).
        let c = unsafe { &mut *std::ptr::from_mut(c).cast::<p::vkQueueSubmit2>() };
        self.vkQueueSubmit2(c)
    }
}
