// vkGetPhysicalDeviceProperties2 20148 answered; physicalDevice PhysicalDevice; out pProperties VkPhysicalDeviceProperties2
/// `vkGetPhysicalDeviceProperties2`, opcode 20148, answered.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct vkGetPhysicalDeviceProperties2 {
    pub physicalDevice: VkPhysicalDevice,
    pub physicalDevice_token: u64,
    pub pProperties: *mut VkPhysicalDeviceProperties2,
}
zeroable!(vkGetPhysicalDeviceProperties2);
impl Command for vkGetPhysicalDeviceProperties2 {
    const OPCODE: u32 = 20148;
    const NAME: &'static str = "vkGetPhysicalDeviceProperties2";
    const ON_COMMAND_BUFFER: bool = false;
    const HAS_REPLY: bool = true;
    type Return = ();
    const LOST: Self::Return = ();
    #[inline]
    unsafe fn decode_request(r: &mut Reader<'_>) -> Result<Self, DecodeError> { unsafe {
        let mut c: Self = zeroed();
        (c.physicalDevice.0, c.physicalDevice_token) = r.object(Kind::PhysicalDevice, true)?;
        r.begin_out();
        r.array::<VkPhysicalDeviceProperties2>((&raw mut c.pProperties).cast(), 1)?;
        r.end_out();
        Ok(c)
    } }
    unsafe fn encode_request(&self, w: &mut Writer<'_>) { unsafe {
        w.handle(Kind::PhysicalDevice, self.physicalDevice.0);
        w.begin_out();
        w.array::<VkPhysicalDeviceProperties2>(self.pProperties.cast(), 1);
        w.end_out();
    } }
    unsafe fn encode_reply(&self, _ret: (), w: &mut Writer<'_>) { unsafe {
        w.array::<VkPhysicalDeviceProperties2>(self.pProperties.cast(), 1);
    } }
    unsafe fn decode_reply(&mut self, r: &mut Reader<'_>) -> Result<(), DecodeError> { unsafe {
        let c = self;
        r.array::<VkPhysicalDeviceProperties2>((&raw mut c.pProperties).cast(), 1)?;
        Ok(())
    } }
}
pub(crate) trait PhysicalDeviceCommands: Host {
    /// `vkGetPhysicalDeviceProperties2`.
    fn vkGetPhysicalDeviceProperties2(&mut self, c: &mut p::vkGetPhysicalDeviceProperties2) -> Result<(), Error> {
        plain::vkGetPhysicalDeviceProperties2(self, c)
    }
}
/// `vkGetPhysicalDeviceProperties2`, and nothing but.
#[inline]
pub(crate) fn vkGetPhysicalDeviceProperties2<H: Host + ?Sized>(host: &mut H, c: &mut p::vkGetPhysicalDeviceProperties2) -> Result<(), Error> {
    let f = host.instance_fns(c.physicalDevice_token)?.vkGetPhysicalDeviceProperties2.ok_or(Error::NoSuchFunction("vkGetPhysicalDeviceProperties2"))?;
    // SAFETY: decoded arguments: live handles, and pointers into the arena with as many elements as their counts say.
    unsafe { f(c.physicalDevice, c.pProperties) };
    Ok(())
}

// VkPhysicalDeviceProperties2 1000059001; sType i32; pNext chain; properties VkPhysicalDeviceProperties
// SAFETY: each member is read or written as the registry declares it.
unsafe impl Wire for VkPhysicalDeviceProperties2 {
    const MIN: usize = 8 + <VkPhysicalDeviceProperties as Wire>::MIN;
    const STYPE: i32 = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2;
    unsafe fn decode(o: *mut Self, r: &mut Reader<'_>) -> Result<(), DecodeError> { unsafe {
        (*o).sType = r.stype(VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2)?;
        r.chain((&raw mut (*o).pNext).cast())?;
        VkPhysicalDeviceProperties::decode(&raw mut (*o).properties, r)?;
        Ok(())
    } }
    unsafe fn encode(&self, w: &mut Writer<'_>) { unsafe {
        w.i32(self.sType);
        crate::chain::encode(self.pNext.cast(), w);
        Wire::encode(&self.properties, w);
    } }
}
