// vkCreateBuffer 20050 answered; device Device; pCreateInfo VkBufferCreateInfo; pAllocator null; out pBuffer Buffer -> i32
/// `vkCreateBuffer`, opcode 20050, answered.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct vkCreateBuffer {
    pub device: VkDevice,
    pub device_token: u64,
    pub pCreateInfo: *const VkBufferCreateInfo,
    pub pAllocator: *const VkAllocationCallbacks,
    pub pBuffer: *mut VkBuffer,
}
zeroable!(vkCreateBuffer);
impl Command for vkCreateBuffer {
    const OPCODE: u32 = 20050;
    const NAME: &'static str = "vkCreateBuffer";
    const ON_COMMAND_BUFFER: bool = false;
    const HAS_REPLY: bool = true;
    type Return = VkResult;
    const LOST: Self::Return = VK_ERROR_DEVICE_LOST;
    #[inline]
    unsafe fn decode_request(r: &mut Reader<'_>) -> Result<Self, DecodeError> { unsafe {
        let mut c: Self = zeroed();
        (c.device.0, c.device_token) = r.object(Kind::Device, true)?;
        r.array::<VkBufferCreateInfo>((&raw mut c.pCreateInfo).cast(), 1)?;
        r.callbacks()?;
        r.begin_out();
        r.handles((&raw mut c.pBuffer).cast(), 1, Kind::Buffer, false)?;
        r.end_out();
        Ok(c)
    } }
    unsafe fn encode_request(&self, w: &mut Writer<'_>) { unsafe {
        w.handle(Kind::Device, self.device.0);
        w.array::<VkBufferCreateInfo>(self.pCreateInfo.cast(), 1);
        w.callbacks();
        w.begin_out();
        w.handles(self.pBuffer.cast(), 1, Kind::Buffer);
        w.end_out();
    } }
    unsafe fn encode_reply(&self, ret: VkResult, w: &mut Writer<'_>) { unsafe {
        w.handles(self.pBuffer.cast(), 1, Kind::Buffer);
        w.i32(ret);
    } }
    unsafe fn decode_reply(&mut self, r: &mut Reader<'_>) -> Result<VkResult, DecodeError> { unsafe {
        let c = self;
        r.handles((&raw mut c.pBuffer).cast(), 1, Kind::Buffer, false)?;
        r.i32()
    } }
}
pub(crate) trait BufferCommands: Host {
    /// `vkCreateBuffer`.
    fn vkCreateBuffer(&mut self, c: &mut p::vkCreateBuffer) -> Result<VkResult, Error> {
        plain::vkCreateBuffer(self, c)
    }
}
/// `vkCreateBuffer`, and nothing but.
#[inline]
pub(crate) fn vkCreateBuffer<H: Host + ?Sized>(host: &mut H, c: &mut p::vkCreateBuffer) -> Result<VkResult, Error> {
    let f = host.device_fns(c.device_token)?.vkCreateBuffer.ok_or(Error::NoSuchFunction("vkCreateBuffer"))?;
    // SAFETY: decoded arguments: live handles, and pointers into the arena with as many elements as their counts say.
    let ret = unsafe { f(c.device, c.pCreateInfo, c.pAllocator, c.pBuffer) };
    host.adopt(Kind::Buffer, c.device_token, c.pBuffer.cast(), 1, true)?;
    Ok(ret)
}

// VkBufferCreateInfo 12; sType i32; pNext chain; flags u32; size u64; usage u32; sharingMode i32; queueFamilyIndexCount u32; pQueueFamilyIndices flag u32[queueFamilyIndexCount]
// SAFETY: each member is read or written as the registry declares it.
unsafe impl Wire for VkBufferCreateInfo {
    const MIN: usize = 40;
    const STYPE: i32 = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO;
    unsafe fn decode(o: *mut Self, r: &mut Reader<'_>) -> Result<(), DecodeError> { unsafe {
        (*o).sType = r.stype(VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO)?;
        r.chain((&raw mut (*o).pNext).cast())?;
        (*o).flags = r.u32()?;
        (*o).size = r.u64()?;
        (*o).usage = r.u32()?;
        (*o).sharingMode = r.i32()?;
        (*o).queueFamilyIndexCount = r.count_u32()?;
        if r.flag()? { r.scalars::<u32>((&raw mut (*o).pQueueFamilyIndices).cast(), (*o).queueFamilyIndexCount as usize)?; }
        Ok(())
    } }
    unsafe fn encode(&self, w: &mut Writer<'_>) { unsafe {
        w.i32(self.sType);
        crate::chain::encode(self.pNext.cast(), w);
        w.u32(self.flags);
        w.u64(self.size);
        w.u32(self.usage);
        w.i32(self.sharingMode);
        w.u32(self.queueFamilyIndexCount);
        if w.flag(self.pQueueFamilyIndices.cast()) { w.scalars(self.pQueueFamilyIndices.cast::<u32>(), self.queueFamilyIndexCount as usize); }
    } }
}
