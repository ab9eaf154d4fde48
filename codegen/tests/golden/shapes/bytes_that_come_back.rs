// vkGetQueryPoolResults 20049 answered; device Device; queryPool QueryPool; firstQuery u32; queryCount u32; dataSize be64; out pData u8[dataSize]; stride u64; flags u32 -> i32
/// `vkGetQueryPoolResults`, opcode 20049, answered.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct vkGetQueryPoolResults {
    pub device: VkDevice,
    pub device_token: u64,
    pub queryPool: VkQueryPool,
    pub queryPool_token: u64,
    pub firstQuery: u32,
    pub queryCount: u32,
    pub dataSize: usize,
    pub pData: *mut c_void,
    pub stride: VkDeviceSize,
    pub flags: VkQueryResultFlags,
}
zeroable!(vkGetQueryPoolResults);
impl Command for vkGetQueryPoolResults {
    const OPCODE: u32 = 20049;
    const NAME: &'static str = "vkGetQueryPoolResults";
    const ON_COMMAND_BUFFER: bool = false;
    const HAS_REPLY: bool = true;
    type Return = VkResult;
    const LOST: Self::Return = VK_ERROR_DEVICE_LOST;
    #[inline]
    unsafe fn decode_request(r: &mut Reader<'_>) -> Result<Self, DecodeError> { unsafe {
        let mut c: Self = zeroed();
        (c.device.0, c.device_token) = r.object(Kind::Device, true)?;
        (c.queryPool.0, c.queryPool_token) = r.object(Kind::QueryPool, true)?;
        c.firstQuery = r.u32()?;
        c.queryCount = r.u32()?;
        c.dataSize = r.count_size()?;
        r.begin_out();
        r.scalars::<u8>((&raw mut c.pData).cast(), c.dataSize as usize)?;
        r.end_out();
        c.stride = r.u64()?;
        c.flags = r.u32()?;
        Ok(c)
    } }
    unsafe fn encode_request(&self, w: &mut Writer<'_>) { unsafe {
        w.handle(Kind::Device, self.device.0);
        w.handle(Kind::QueryPool, self.queryPool.0);
        w.u32(self.firstQuery);
        w.u32(self.queryCount);
        w.size(self.dataSize);
        w.begin_out();
        w.scalars(self.pData.cast::<u8>(), self.dataSize as usize);
        w.end_out();
        w.u64(self.stride);
        w.u32(self.flags);
    } }
    unsafe fn encode_reply(&self, ret: VkResult, w: &mut Writer<'_>) { unsafe {
        w.scalars(self.pData.cast::<u8>(), self.dataSize as usize);
        w.i32(ret);
    } }
    unsafe fn decode_reply(&mut self, r: &mut Reader<'_>) -> Result<VkResult, DecodeError> { unsafe {
        let c = self;
        r.scalars::<u8>((&raw mut c.pData).cast(), c.dataSize as usize)?;
        r.i32()
    } }
}
pub(crate) trait QueryPoolCommands: Host {
    /// `vkGetQueryPoolResults`.
    fn vkGetQueryPoolResults(&mut self, c: &mut p::vkGetQueryPoolResults) -> Result<VkResult, Error> {
        plain::vkGetQueryPoolResults(self, c)
    }
}
/// `vkGetQueryPoolResults`, and nothing but.
#[inline]
pub(crate) fn vkGetQueryPoolResults<H: Host + ?Sized>(host: &mut H, c: &mut p::vkGetQueryPoolResults) -> Result<VkResult, Error> {
    let f = host.device_fns(c.device_token)?.vkGetQueryPoolResults.ok_or(Error::NoSuchFunction("vkGetQueryPoolResults"))?;
    // SAFETY: decoded arguments: live handles, and pointers into the arena with as many elements as their counts say.
    Ok(unsafe { f(c.device, c.queryPool, c.firstQuery, c.queryCount, c.dataSize, c.pData, c.stride, c.flags) })
}
