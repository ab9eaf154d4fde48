// vkDestroyBuffer 20051 not answered; device Device; buffer Buffer; pAllocator null
/// `vkDestroyBuffer`, opcode 20051, not answered.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct vkDestroyBuffer {
    pub device: VkDevice,
    pub device_token: u64,
    pub buffer: VkBuffer,
    pub buffer_token: u64,
    pub pAllocator: *const VkAllocationCallbacks,
}
zeroable!(vkDestroyBuffer);
impl Command for vkDestroyBuffer {
    const OPCODE: u32 = 20051;
    const NAME: &'static str = "vkDestroyBuffer";
    const ON_COMMAND_BUFFER: bool = false;
    const HAS_REPLY: bool = false;
    type Return = ();
    const LOST: Self::Return = ();
    #[inline]
    unsafe fn decode_request(r: &mut Reader<'_>) -> Result<Self, DecodeError> { unsafe {
        let mut c: Self = zeroed();
        (c.device.0, c.device_token) = r.object(Kind::Device, true)?;
        (c.buffer.0, c.buffer_token) = r.object(Kind::Buffer, false)?;
        r.callbacks()?;
        Ok(c)
    } }
    unsafe fn encode_request(&self, w: &mut Writer<'_>) { unsafe {
        w.handle(Kind::Device, self.device.0);
        w.handle(Kind::Buffer, self.buffer.0);
        w.callbacks();
    } }
    unsafe fn encode_reply(&self, _ret: (), _w: &mut Writer<'_>) { unsafe {
    } }
    unsafe fn decode_reply(&mut self, _r: &mut Reader<'_>) -> Result<(), DecodeError> { unsafe {
        Ok(())
    } }
}
pub(crate) trait BufferCommands: Host {
    /// `vkDestroyBuffer`.
    fn vkDestroyBuffer(&mut self, c: &mut p::vkDestroyBuffer) -> Result<(), Error> {
        plain::vkDestroyBuffer(self, c)
    }
}
/// `vkDestroyBuffer`, and nothing but.
#[inline]
pub(crate) fn vkDestroyBuffer<H: Host + ?Sized>(host: &mut H, c: &mut p::vkDestroyBuffer) -> Result<(), Error> {
    let f = host.device_fns(c.device_token)?.vkDestroyBuffer.ok_or(Error::NoSuchFunction("vkDestroyBuffer"))?;
    if !host.retire(c.buffer_token) { return Ok(()); }
    // SAFETY: decoded arguments: live handles, and pointers into the arena with as many elements as their counts say.
    unsafe { f(c.device, c.buffer, c.pAllocator) };
    Ok(())
}
