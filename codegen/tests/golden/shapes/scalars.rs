// vkCmdDraw 20106 recorded; commandBuffer CommandBuffer; vertexCount u32; instanceCount u32; firstVertex u32; firstInstance u32
/// `vkCmdDraw`, opcode 20106, not answered.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct vkCmdDraw {
    pub commandBuffer: VkCommandBuffer,
    pub commandBuffer_token: u64,
    pub vertexCount: u32,
    pub instanceCount: u32,
    pub firstVertex: u32,
    pub firstInstance: u32,
}
zeroable!(vkCmdDraw);
impl Command for vkCmdDraw {
    const OPCODE: u32 = 20106;
    const NAME: &'static str = "vkCmdDraw";
    const ON_COMMAND_BUFFER: bool = true;
    const HAS_REPLY: bool = false;
    type Return = ();
    const LOST: Self::Return = ();
    #[inline]
    unsafe fn decode_request(r: &mut Reader<'_>) -> Result<Self, DecodeError> { unsafe {
        let mut c: Self = zeroed();
        (c.commandBuffer.0, c.commandBuffer_token) = r.command_buffer()?;
        c.vertexCount = r.u32()?;
        c.instanceCount = r.u32()?;
        c.firstVertex = r.u32()?;
        c.firstInstance = r.u32()?;
        Ok(c)
    } }
    unsafe fn encode_request(&self, w: &mut Writer<'_>) { unsafe {
        w.command_buffer(self.commandBuffer.0);
        w.u32(self.vertexCount);
        w.u32(self.instanceCount);
        w.u32(self.firstVertex);
        w.u32(self.firstInstance);
    } }
    unsafe fn encode_reply(&self, _ret: (), _w: &mut Writer<'_>) { unsafe {
    } }
    unsafe fn decode_reply(&mut self, _r: &mut Reader<'_>) -> Result<(), DecodeError> { unsafe {
        Ok(())
    } }
}
pub(crate) trait CommandBufferCommands: Host {
    /// `vkCmdDraw`.
    fn vkCmdDraw(&mut self, fns: &DeviceFns, c: &mut p::vkCmdDraw) -> Result<(), Error> {
        plain::vkCmdDraw(self, fns, c)
    }
}
/// `vkCmdDraw`, and nothing but.
#[inline]
pub(crate) fn vkCmdDraw<H: Host + ?Sized>(host: &mut H, fns: &DeviceFns, c: &mut p::vkCmdDraw) -> Result<(), Error> {
    let f = fns.vkCmdDraw.ok_or(Error::NoSuchFunction("vkCmdDraw"))?;
    // SAFETY: decoded arguments: live handles, and pointers into the arena with as many elements as their counts say.
    unsafe { f(c.commandBuffer, c.vertexCount, c.instanceCount, c.firstVertex, c.firstInstance) };
    Ok(())
}
