// vkEnumeratePhysicalDevices 20002 answered; instance Instance; out pPhysicalDeviceCount flag u32; out pPhysicalDevices flag PhysicalDevice[*pPhysicalDeviceCount] -> i32
/// `vkEnumeratePhysicalDevices`, opcode 20002, answered.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct vkEnumeratePhysicalDevices {
    pub instance: VkInstance,
    pub instance_token: u64,
    pub pPhysicalDeviceCount: *mut u32,
    pub pPhysicalDevices: *mut VkPhysicalDevice,
}
zeroable!(vkEnumeratePhysicalDevices);
impl Command for vkEnumeratePhysicalDevices {
    const OPCODE: u32 = 20002;
    const NAME: &'static str = "vkEnumeratePhysicalDevices";
    const ON_COMMAND_BUFFER: bool = false;
    const HAS_REPLY: bool = true;
    type Return = VkResult;
    const LOST: Self::Return = VK_ERROR_DEVICE_LOST;
    #[inline]
    unsafe fn decode_request(r: &mut Reader<'_>) -> Result<Self, DecodeError> { unsafe {
        let mut c: Self = zeroed();
        (c.instance.0, c.instance_token) = r.object(Kind::Instance, true)?;
        r.begin_out();
        if r.flag_of_count()? { r.counter::<u32>((&raw mut c.pPhysicalDeviceCount).cast())?; }
        r.end_out();
        r.begin_out();
        if r.flag()? { r.handles((&raw mut c.pPhysicalDevices).cast(), count_at!(c.pPhysicalDeviceCount), Kind::PhysicalDevice, false)?; }
        r.end_out();
        Ok(c)
    } }
    unsafe fn encode_request(&self, w: &mut Writer<'_>) { unsafe {
        w.handle(Kind::Instance, self.instance.0);
        w.begin_out();
        if w.flag(self.pPhysicalDeviceCount.cast()) { w.scalars(self.pPhysicalDeviceCount.cast::<u32>(), 1); }
        w.end_out();
        w.begin_out();
        if w.flag(self.pPhysicalDevices.cast()) { w.handles(self.pPhysicalDevices.cast(), count_at!(self.pPhysicalDeviceCount), Kind::PhysicalDevice); }
        w.end_out();
    } }
    unsafe fn encode_reply(&self, ret: VkResult, w: &mut Writer<'_>) { unsafe {
        if w.flag(self.pPhysicalDeviceCount.cast()) { w.scalars(self.pPhysicalDeviceCount.cast::<u32>(), 1); }
        if w.flag(self.pPhysicalDevices.cast()) { w.handles(self.pPhysicalDevices.cast(), count_at!(self.pPhysicalDeviceCount), Kind::PhysicalDevice); }
        w.i32(ret);
    } }
    unsafe fn decode_reply(&mut self, r: &mut Reader<'_>) -> Result<VkResult, DecodeError> { unsafe {
        let c = self;
        let room_pPhysicalDeviceCount = if c.pPhysicalDevices.is_null() { usize::MAX } else { count_at!(c.pPhysicalDeviceCount) };
        if r.flag_of_count()? { r.counter::<u32>((&raw mut c.pPhysicalDeviceCount).cast())?; }
        r.fits(count_at!(c.pPhysicalDeviceCount), room_pPhysicalDeviceCount)?;
        if r.flag()? { r.handles((&raw mut c.pPhysicalDevices).cast(), count_at!(c.pPhysicalDeviceCount), Kind::PhysicalDevice, false)?; }
        r.i32()
    } }
}
pub(crate) trait PhysicalDeviceCommands: Host {
    /// `vkEnumeratePhysicalDevices`.
    fn vkEnumeratePhysicalDevices(&mut self, c: &mut p::vkEnumeratePhysicalDevices) -> Result<VkResult, Error> {
        plain::vkEnumeratePhysicalDevices(self, c)
    }
}
/// `vkEnumeratePhysicalDevices`, and nothing but.
#[inline]
pub(crate) fn vkEnumeratePhysicalDevices<H: Host + ?Sized>(host: &mut H, c: &mut p::vkEnumeratePhysicalDevices) -> Result<VkResult, Error> {
    let f = host.instance_fns(c.instance_token)?.vkEnumeratePhysicalDevices.ok_or(Error::NoSuchFunction("vkEnumeratePhysicalDevices"))?;
    // SAFETY: decoded arguments: live handles, and pointers into the arena with as many elements as their counts say.
    let ret = unsafe { f(c.instance, c.pPhysicalDeviceCount, c.pPhysicalDevices) };
    host.adopt(Kind::PhysicalDevice, c.instance_token, c.pPhysicalDevices.cast(), count(c.pPhysicalDeviceCount.cast_const()), false)?;
    Ok(ret)
}
