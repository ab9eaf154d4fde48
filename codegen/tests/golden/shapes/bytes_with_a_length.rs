// vkCmdPushConstants 20132 recorded; commandBuffer CommandBuffer; layout PipelineLayout; stageFlags u32; offset u32; size u32; pValues u8[size]
/// `vkCmdPushConstants`, opcode 20132, not answered.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct vkCmdPushConstants {
    pub commandBuffer: VkCommandBuffer,
    pub commandBuffer_token: u64,
    pub layout: VkPipelineLayout,
    pub stageFlags: VkShaderStageFlags,
    pub offset: u32,
    pub size: u32,
    pub pValues: *const c_void,
}
zeroable!(vkCmdPushConstants);
impl Command for vkCmdPushConstants {
    const OPCODE: u32 = 20132;
    const NAME: &'static str = "vkCmdPushConstants";
    const ON_COMMAND_BUFFER: bool = true;
    const HAS_REPLY: bool = false;
    type Return = ();
    const LOST: Self::Return = ();
    #[inline]
    unsafe fn decode_request(r: &mut Reader<'_>) -> Result<Self, DecodeError> { unsafe {
        let mut c: Self = zeroed();
        (c.commandBuffer.0, c.commandBuffer_token) = r.command_buffer()?;
        c.layout.0 = r.handle(Kind::PipelineLayout, true)?;
        c.stageFlags = r.u32()?;
        c.offset = r.u32()?;
        c.size = r.count_u32()?;
        r.scalars::<u8>((&raw mut c.pValues).cast(), c.size as usize)?;
        Ok(c)
    } }
    unsafe fn encode_request(&self, w: &mut Writer<'_>) { unsafe {
        w.command_buffer(self.commandBuffer.0);
        w.handle(Kind::PipelineLayout, self.layout.0);
        w.u32(self.stageFlags);
        w.u32(self.offset);
        w.u32(self.size);
        w.scalars(self.pValues.cast::<u8>(), self.size as usize);
    } }
    unsafe fn encode_reply(&self, _ret: (), _w: &mut Writer<'_>) { unsafe {
    } }
    unsafe fn decode_reply(&mut self, _r: &mut Reader<'_>) -> Result<(), DecodeError> { unsafe {
        Ok(())
    } }
}
pub(crate) trait CommandBufferCommands: Host {
    /// `vkCmdPushConstants`.
    fn vkCmdPushConstants(&mut self, fns: &DeviceFns, c: &mut p::vkCmdPushConstants) -> Result<(), Error> {
        plain::vkCmdPushConstants(self, fns, c)
    }
}
/// `vkCmdPushConstants`, and nothing but.
#[inline]
pub(crate) fn vkCmdPushConstants<H: Host + ?Sized>(host: &mut H, fns: &DeviceFns, c: &mut p::vkCmdPushConstants) -> Result<(), Error> {
    let f = fns.vkCmdPushConstants.ok_or(Error::NoSuchFunction("vkCmdPushConstants"))?;
    // SAFETY: decoded arguments: live handles, and pointers into the arena with as many elements as their counts say.
    unsafe { f(c.commandBuffer, c.layout, c.stageFlags, c.offset, c.size, c.pValues) };
    Ok(())
}
