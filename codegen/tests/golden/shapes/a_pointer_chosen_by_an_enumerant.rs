// vkUpdateDescriptorSets 20079 not answered; device Device; descriptorWriteCount u32; pDescriptorWrites VkWriteDescriptorSet[descriptorWriteCount]; descriptorCopyCount u32; pDescriptorCopies VkCopyDescriptorSet[descriptorCopyCount]
/// `vkUpdateDescriptorSets`, opcode 20079, not answered.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct vkUpdateDescriptorSets {
    pub device: VkDevice,
    pub device_token: u64,
    pub descriptorWriteCount: u32,
    pub pDescriptorWrites: *const VkWriteDescriptorSet,
    pub descriptorCopyCount: u32,
    pub pDescriptorCopies: *const VkCopyDescriptorSet,
}
zeroable!(vkUpdateDescriptorSets);
impl Command for vkUpdateDescriptorSets {
    const OPCODE: u32 = 20079;
    const NAME: &'static str = "vkUpdateDescriptorSets";
    const ON_COMMAND_BUFFER: bool = false;
    const HAS_REPLY: bool = false;
    type Return = ();
    const LOST: Self::Return = ();
    #[inline]
    unsafe fn decode_request(r: &mut Reader<'_>) -> Result<Self, DecodeError> { unsafe {
        let mut c: Self = zeroed();
        (c.device.0, c.device_token) = r.object(Kind::Device, true)?;
        c.descriptorWriteCount = r.count_u32()?;
        r.array::<VkWriteDescriptorSet>((&raw mut c.pDescriptorWrites).cast(), c.descriptorWriteCount as usize)?;
        c.descriptorCopyCount = r.count_u32()?;
        r.array::<VkCopyDescriptorSet>((&raw mut c.pDescriptorCopies).cast(), c.descriptorCopyCount as usize)?;
        Ok(c)
    } }
    unsafe fn encode_request(&self, w: &mut Writer<'_>) { unsafe {
        w.handle(Kind::Device, self.device.0);
        w.u32(self.descriptorWriteCount);
        w.array::<VkWriteDescriptorSet>(self.pDescriptorWrites.cast(), self.descriptorWriteCount as usize);
        w.u32(self.descriptorCopyCount);
        w.array::<VkCopyDescriptorSet>(self.pDescriptorCopies.cast(), self.descriptorCopyCount as usize);
    } }
    unsafe fn encode_reply(&self, _ret: (), _w: &mut Writer<'_>) { unsafe {
    } }
    unsafe fn decode_reply(&mut self, _r: &mut Reader<'_>) -> Result<(), DecodeError> { unsafe {
        Ok(())
    } }
}
pub(crate) trait DeviceCommands: Host {
    /// `vkUpdateDescriptorSets`.
    fn vkUpdateDescriptorSets(&mut self, c: &mut p::vkUpdateDescriptorSets) -> Result<(), Error> {
        plain::vkUpdateDescriptorSets(self, c)
    }
}
/// `vkUpdateDescriptorSets`, and nothing but.
#[inline]
pub(crate) fn vkUpdateDescriptorSets<H: Host + ?Sized>(host: &mut H, c: &mut p::vkUpdateDescriptorSets) -> Result<(), Error> {
    let f = host.device_fns(c.device_token)?.vkUpdateDescriptorSets.ok_or(Error::NoSuchFunction("vkUpdateDescriptorSets"))?;
    // SAFETY: decoded arguments: live handles, and pointers into the arena with as many elements as their counts say.
    unsafe { f(c.device, c.descriptorWriteCount, c.pDescriptorWrites, c.descriptorCopyCount, c.pDescriptorCopies) };
    Ok(())
}

// VkWriteDescriptorSet 35; sType i32; pNext chain; dstSet DescriptorSet; dstBinding u32; dstArrayElement u32; descriptorCount u32; descriptorType i32; pImageInfo flag VkDescriptorImageInfo[descriptorCount] if descriptorType is 0|1|2|3|10; pBufferInfo flag VkDescriptorBufferInfo[descriptorCount] if descriptorType is 6|8|7|9; pTexelBufferView flag BufferView[descriptorCount] if descriptorType is 4|5
// SAFETY: each member is read or written as the registry declares it.
unsafe impl Wire for VkWriteDescriptorSet {
    const MIN: usize = 56;
    const STYPE: i32 = VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET;
    unsafe fn decode(o: *mut Self, r: &mut Reader<'_>) -> Result<(), DecodeError> { unsafe {
        (*o).sType = r.stype(VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET)?;
        r.chain((&raw mut (*o).pNext).cast())?;
        (*o).dstSet.0 = r.handle_or_null(Kind::DescriptorSet)?;
        (*o).dstBinding = r.u32()?;
        (*o).dstArrayElement = r.u32()?;
        (*o).descriptorCount = r.count_u32()?;
        (*o).descriptorType = r.pick(&[0, 1, 2, 3, 10, 6, 8, 7, 9, 4, 5])? as i32;
        if r.flag()? && matches!((*o).descriptorType, 0 | 1 | 2 | 3 | 10) { r.array::<VkDescriptorImageInfo>((&raw mut (*o).pImageInfo).cast(), (*o).descriptorCount as usize)?; }
        if r.flag()? && matches!((*o).descriptorType, 6 | 8 | 7 | 9) { r.array::<VkDescriptorBufferInfo>((&raw mut (*o).pBufferInfo).cast(), (*o).descriptorCount as usize)?; }
        if r.flag()? && matches!((*o).descriptorType, 4 | 5) { r.handles((&raw mut (*o).pTexelBufferView).cast(), (*o).descriptorCount as usize, Kind::BufferView, false)?; }
        Ok(())
    } }
    unsafe fn encode(&self, w: &mut Writer<'_>) { unsafe {
        w.i32(self.sType);
        crate::chain::encode(self.pNext.cast(), w);
        w.handle(Kind::DescriptorSet, self.dstSet.0);
        w.u32(self.dstBinding);
        w.u32(self.dstArrayElement);
        w.u32(self.descriptorCount);
        w.i32(self.descriptorType);
        if w.flag(self.pImageInfo.cast()) && matches!(self.descriptorType, 0 | 1 | 2 | 3 | 10) { w.array::<VkDescriptorImageInfo>(self.pImageInfo.cast(), self.descriptorCount as usize); }
        if w.flag(self.pBufferInfo.cast()) && matches!(self.descriptorType, 6 | 8 | 7 | 9) { w.array::<VkDescriptorBufferInfo>(self.pBufferInfo.cast(), self.descriptorCount as usize); }
        if w.flag(self.pTexelBufferView.cast()) && matches!(self.descriptorType, 4 | 5) { w.handles(self.pTexelBufferView.cast(), self.descriptorCount as usize, Kind::BufferView); }
    } }
}
