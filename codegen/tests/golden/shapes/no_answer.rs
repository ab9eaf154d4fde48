// vkQueueSubmitAsync2GOOGLE 292092830 not answered; queue Queue; submitCount u32; pSubmits VkSubmitInfo2[submitCount]; fence Fence
/// `vkQueueSubmitAsync2GOOGLE`, opcode 292092830, not answered.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct vkQueueSubmitAsync2GOOGLE {
    pub queue: VkQueue,
    pub queue_token: u64,
    pub submitCount: u32,
    pub pSubmits: *const VkSubmitInfo2,
    pub fence: VkFence,
    pub fence_token: u64,
}
zeroable!(vkQueueSubmitAsync2GOOGLE);
impl Command for vkQueueSubmitAsync2GOOGLE {
    const OPCODE: u32 = 292092830;
    const NAME: &'static str = "vkQueueSubmitAsync2GOOGLE";
    const ON_COMMAND_BUFFER: bool = false;
    const HAS_REPLY: bool = false;
    type Return = ();
    const LOST: Self::Return = ();
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
    unsafe fn encode_reply(&self, _ret: (), _w: &mut Writer<'_>) { unsafe {
    } }
    unsafe fn decode_reply(&mut self, _r: &mut Reader<'_>) -> Result<(), DecodeError> { unsafe {
        Ok(())
    } }
}
pub(crate) trait QueueCommands: Host {
    /// `vkQueueSubmitAsync2GOOGLE`.
    fn vkQueueSubmitAsync2GOOGLE(&mut self, c: &mut p::vkQueueSubmitAsync2GOOGLE) -> Result<(), Error>;
}
