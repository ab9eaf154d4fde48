// vkAllocateCommandBuffers 20088 answered; device Device; pAllocateInfo VkCommandBufferAllocateInfo; out pCommandBuffers CommandBuffer[pAllocateInfo->commandBufferCount] -> i32
/// `vkAllocateCommandBuffers`, opcode 20088, answered.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct vkAllocateCommandBuffers {
    pub device: VkDevice,
    pub device_token: u64,
    pub pAllocateInfo: *const VkCommandBufferAllocateInfo,
    pub pCommandBuffers: *mut VkCommandBuffer,
}
zeroable!(vkAllocateCommandBuffers);
impl Command for vkAllocateCommandBuffers {
    const OPCODE: u32 = 20088;
    const NAME: &'static str = "vkAllocateCommandBuffers";
    const ON_COMMAND_BUFFER: bool = false;
    const HAS_REPLY: bool = true;
    type Return = VkResult;
    const LOST: Self::Return = VK_ERROR_DEVICE_LOST;
    #[inline]
    unsafe fn decode_request(r: &mut Reader<'_>) -> Result<Self, DecodeError> { unsafe {
        let mut c: Self = zeroed();
        (c.device.0, c.device_token) = r.object(Kind::Device, true)?;
        r.array::<VkCommandBufferAllocateInfo>((&raw mut c.pAllocateInfo).cast(), 1)?;
        r.begin_out();
        r.handles((&raw mut c.pCommandBuffers).cast(), count_at!(c.pAllocateInfo, commandBufferCount), Kind::CommandBuffer, false)?;
        r.end_out();
        Ok(c)
    } }
    unsafe fn encode_request(&self, w: &mut Writer<'_>) { unsafe {
        w.handle(Kind::Device, self.device.0);
        w.array::<VkCommandBufferAllocateInfo>(self.pAllocateInfo.cast(), 1);
        w.begin_out();
        w.handles(self.pCommandBuffers.cast(), count_at!(self.pAllocateInfo, commandBufferCount), Kind::CommandBuffer);
        w.end_out();
    } }
    unsafe fn encode_reply(&self, ret: VkResult, w: &mut Writer<'_>) { unsafe {
        w.handles(self.pCommandBuffers.cast(), count_at!(self.pAllocateInfo, commandBufferCount), Kind::CommandBuffer);
        w.i32(ret);
    } }
    unsafe fn decode_reply(&mut self, r: &mut Reader<'_>) -> Result<VkResult, DecodeError> { unsafe {
        let c = self;
        r.handles((&raw mut c.pCommandBuffers).cast(), count_at!(c.pAllocateInfo, commandBufferCount), Kind::CommandBuffer, false)?;
        r.i32()
    } }
}
pub(crate) trait CommandBufferCommands: Host {
    /// `vkAllocateCommandBuffers`.
    fn vkAllocateCommandBuffers(&mut self, c: &mut p::vkAllocateCommandBuffers) -> Result<VkResult, Error> {
        plain::vkAllocateCommandBuffers(self, c)
    }
}
/// `vkAllocateCommandBuffers`, and nothing but.
#[inline]
pub(crate) fn vkAllocateCommandBuffers<H: Host + ?Sized>(host: &mut H, c: &mut p::vkAllocateCommandBuffers) -> Result<VkResult, Error> {
    let f = host.device_fns(c.device_token)?.vkAllocateCommandBuffers.ok_or(Error::NoSuchFunction("vkAllocateCommandBuffers"))?;
    // SAFETY: decoded arguments: live handles, and pointers into the arena with as many elements as their counts say.
    let ret = unsafe { f(c.device, c.pAllocateInfo, c.pCommandBuffers) };
    host.adopt(Kind::CommandBuffer, c.device_token, c.pCommandBuffers.cast(), count_in(c.pAllocateInfo, |i| i.commandBufferCount as usize), true)?;
    Ok(ret)
}
