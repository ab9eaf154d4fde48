// vkCmdClearColorImage 20119 recorded; commandBuffer CommandBuffer; image Image; imageLayout i32; pColor VkClearColorValue; rangeCount u32; pRanges VkImageSubresourceRange[rangeCount]
/// `vkCmdClearColorImage`, opcode 20119, not answered.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct vkCmdClearColorImage {
    pub commandBuffer: VkCommandBuffer,
    pub commandBuffer_token: u64,
    pub image: VkImage,
    pub imageLayout: VkImageLayout,
    pub pColor: *const VkClearColorValue,
    pub rangeCount: u32,
    pub pRanges: *const VkImageSubresourceRange,
}
zeroable!(vkCmdClearColorImage);
impl Command for vkCmdClearColorImage {
    const OPCODE: u32 = 20119;
    const NAME: &'static str = "vkCmdClearColorImage";
    const ON_COMMAND_BUFFER: bool = true;
    const HAS_REPLY: bool = false;
    type Return = ();
    const LOST: Self::Return = ();
    #[inline]
    unsafe fn decode_request(r: &mut Reader<'_>) -> Result<Self, DecodeError> { unsafe {
        let mut c: Self = zeroed();
        (c.commandBuffer.0, c.commandBuffer_token) = r.command_buffer()?;
        c.image.0 = r.handle(Kind::Image, true)?;
        c.imageLayout = r.i32()?;
        r.array::<VkClearColorValue>((&raw mut c.pColor).cast(), 1)?;
        c.rangeCount = r.count_u32()?;
        r.array::<VkImageSubresourceRange>((&raw mut c.pRanges).cast(), c.rangeCount as usize)?;
        Ok(c)
    } }
    unsafe fn encode_request(&self, w: &mut Writer<'_>) { unsafe {
        w.command_buffer(self.commandBuffer.0);
        w.handle(Kind::Image, self.image.0);
        w.i32(self.imageLayout);
        w.array::<VkClearColorValue>(self.pColor.cast(), 1);
        w.u32(self.rangeCount);
        w.array::<VkImageSubresourceRange>(self.pRanges.cast(), self.rangeCount as usize);
    } }
    unsafe fn encode_reply(&self, _ret: (), _w: &mut Writer<'_>) { unsafe {
    } }
    unsafe fn decode_reply(&mut self, _r: &mut Reader<'_>) -> Result<(), DecodeError> { unsafe {
        Ok(())
    } }
}
pub(crate) trait CommandBufferCommands: Host {
    /// `vkCmdClearColorImage`.
    fn vkCmdClearColorImage(&mut self, fns: &DeviceFns, c: &mut p::vkCmdClearColorImage) -> Result<(), Error> {
        plain::vkCmdClearColorImage(self, fns, c)
    }
}
/// `vkCmdClearColorImage`, and nothing but.
#[inline]
pub(crate) fn vkCmdClearColorImage<H: Host + ?Sized>(host: &mut H, fns: &DeviceFns, c: &mut p::vkCmdClearColorImage) -> Result<(), Error> {
    let f = fns.vkCmdClearColorImage.ok_or(Error::NoSuchFunction("vkCmdClearColorImage"))?;
    // SAFETY: decoded arguments: live handles, and pointers into the arena with as many elements as their counts say.
    unsafe { f(c.commandBuffer, c.image, c.imageLayout, c.pColor, c.rangeCount, c.pRanges) };
    Ok(())
}

// VkClearColorValue union; float32 [f32; 4]; int32 [i32; 4]; uint32 [u32; 4]
// SAFETY: the first member is read or written as the registry declares it.
unsafe impl Wire for VkClearColorValue {
    const MIN: usize = size_of::<[f32; 4]>();
    const STYPE: i32 = -1;
    unsafe fn decode(o: *mut Self, r: &mut Reader<'_>) -> Result<(), DecodeError> { unsafe {
        r.raw(&raw mut (*o).float32)?;
        Ok(())
    } }
    unsafe fn encode(&self, w: &mut Writer<'_>) { unsafe {
        w.raw(&raw const self.float32);
    } }
}
