// vkQueueSubmit 20018 answered; queue Queue; submitCount u32; pSubmits VkSubmitInfo[submitCount]; fence Fence -> i32
/// `vkQueueSubmit`, opcode 20018, answered.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct vkQueueSubmit {
    pub queue: VkQueue,
    pub queue_token: u64,
    pub submitCount: u32,
    pub pSubmits: *const VkSubmitInfo,
    pub fence: VkFence,
    pub fence_token: u64,
}
zeroable!(vkQueueSubmit);
impl Command for vkQueueSubmit {
    const OPCODE: u32 = 20018;
    const NAME: &'static str = "vkQueueSubmit";
    const ON_COMMAND_BUFFER: bool = false;
    const HAS_REPLY: bool = true;
    type Return = VkResult;
    const LOST: Self::Return = VK_ERROR_DEVICE_LOST;
    #[inline]
    unsafe fn decode_request(r: &mut Reader<'_>) -> Result<Self, DecodeError> { unsafe {
        let mut c: Self = zeroed();
        (c.queue.0, c.queue_token) = r.object(Kind::Queue, true)?;
        c.submitCount = r.count_u32()?;
        r.array::<VkSubmitInfo>((&raw mut c.pSubmits).cast(), c.submitCount as usize)?;
        (c.fence.0, c.fence_token) = r.object(Kind::Fence, false)?;
        Ok(c)
    } }
    unsafe fn encode_request(&self, w: &mut Writer<'_>) { unsafe {
        w.handle(Kind::Queue, self.queue.0);
        w.u32(self.submitCount);
        w.array::<VkSubmitInfo>(self.pSubmits.cast(), self.submitCount as usize);
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
    /// `vkQueueSubmit`.
    fn vkQueueSubmit(&mut self, c: &mut p::vkQueueSubmit) -> Result<VkResult, Error> {
        plain::vkQueueSubmit(self, c)
    }
}
/// `vkQueueSubmit`, and nothing but.
#[inline]
pub(crate) fn vkQueueSubmit<H: Host + ?Sized>(host: &mut H, c: &mut p::vkQueueSubmit) -> Result<VkResult, Error> {
    let f = host.device_fns(c.queue_token)?.vkQueueSubmit.ok_or(Error::NoSuchFunction("vkQueueSubmit"))?;
    // SAFETY: decoded arguments: live handles, and pointers into the arena with as many elements as their counts say.
    Ok(unsafe { f(c.queue, c.submitCount, c.pSubmits, c.fence) })
}

// VkSubmitInfo 4; sType i32; pNext chain; waitSemaphoreCount u32; pWaitSemaphores Semaphore[waitSemaphoreCount]; pWaitDstStageMask u32[waitSemaphoreCount]; commandBufferCount u32; pCommandBuffers CommandBuffer[commandBufferCount]; signalSemaphoreCount u32; pSignalSemaphores Semaphore[signalSemaphoreCount]
// SAFETY: each member is read or written as the registry declares it.
unsafe impl Wire for VkSubmitInfo {
    const MIN: usize = 20;
    const STYPE: i32 = VK_STRUCTURE_TYPE_SUBMIT_INFO;
    unsafe fn decode(o: *mut Self, r: &mut Reader<'_>) -> Result<(), DecodeError> { unsafe {
        (*o).sType = r.stype(VK_STRUCTURE_TYPE_SUBMIT_INFO)?;
        r.chain((&raw mut (*o).pNext).cast())?;
        (*o).waitSemaphoreCount = r.count_u32()?;
        r.handles((&raw mut (*o).pWaitSemaphores).cast(), (*o).waitSemaphoreCount as usize, Kind::Semaphore, true)?;
        r.scalars::<u32>((&raw mut (*o).pWaitDstStageMask).cast(), (*o).waitSemaphoreCount as usize)?;
        (*o).commandBufferCount = r.count_u32()?;
        r.handles((&raw mut (*o).pCommandBuffers).cast(), (*o).commandBufferCount as usize, Kind::CommandBuffer, true)?;
        (*o).signalSemaphoreCount = r.count_u32()?;
        r.handles((&raw mut (*o).pSignalSemaphores).cast(), (*o).signalSemaphoreCount as usize, Kind::Semaphore, true)?;
        Ok(())
    } }
    unsafe fn encode(&self, w: &mut Writer<'_>) { unsafe {
        w.i32(self.sType);
        crate::chain::encode(self.pNext.cast(), w);
        w.u32(self.waitSemaphoreCount);
        w.handles(self.pWaitSemaphores.cast(), self.waitSemaphoreCount as usize, Kind::Semaphore);
        w.scalars(self.pWaitDstStageMask.cast::<u32>(), self.waitSemaphoreCount as usize);
        w.u32(self.commandBufferCount);
        w.handles(self.pCommandBuffers.cast(), self.commandBufferCount as usize, Kind::CommandBuffer);
        w.u32(self.signalSemaphoreCount);
        w.handles(self.pSignalSemaphores.cast(), self.signalSemaphoreCount as usize, Kind::Semaphore);
    } }
}
