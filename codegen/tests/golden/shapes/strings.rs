// VkInstanceCreateInfo 1; sType i32; pNext chain; flags u32; pApplicationInfo flag VkApplicationInfo; enabledLayerCount u32; ppEnabledLayerNames strings[enabledLayerCount]; enabledExtensionCount u32; ppEnabledExtensionNames strings[enabledExtensionCount]
// SAFETY: each member is read or written as the registry declares it.
unsafe impl Wire for VkInstanceCreateInfo {
    const MIN: usize = 36;
    const STYPE: i32 = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO;
    unsafe fn decode(o: *mut Self, r: &mut Reader<'_>) -> Result<(), DecodeError> { unsafe {
        (*o).sType = r.stype(VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO)?;
        r.chain((&raw mut (*o).pNext).cast())?;
        (*o).flags = r.u32()?;
        if r.flag()? { r.array::<VkApplicationInfo>((&raw mut (*o).pApplicationInfo).cast(), 1)?; }
        (*o).enabledLayerCount = r.count_u32()?;
        r.strings((&raw mut (*o).ppEnabledLayerNames).cast(), (*o).enabledLayerCount as usize)?;
        (*o).enabledExtensionCount = r.count_u32()?;
        r.strings((&raw mut (*o).ppEnabledExtensionNames).cast(), (*o).enabledExtensionCount as usize)?;
        Ok(())
    } }
    unsafe fn encode(&self, w: &mut Writer<'_>) { unsafe {
        w.i32(self.sType);
        crate::chain::encode(self.pNext.cast(), w);
        w.u32(self.flags);
        if w.flag(self.pApplicationInfo.cast()) { w.array::<VkApplicationInfo>(self.pApplicationInfo.cast(), 1); }
        w.u32(self.enabledLayerCount);
        w.strings(self.ppEnabledLayerNames, self.enabledLayerCount as usize);
        w.u32(self.enabledExtensionCount);
        w.strings(self.ppEnabledExtensionNames, self.enabledExtensionCount as usize);
    } }
}

// VkApplicationInfo 0; sType i32; pNext chain; pApplicationName flag string; applicationVersion u32; pEngineName flag string; engineVersion u32; apiVersion u32
// SAFETY: each member is read or written as the registry declares it.
unsafe impl Wire for VkApplicationInfo {
    const MIN: usize = 36;
    const STYPE: i32 = VK_STRUCTURE_TYPE_APPLICATION_INFO;
    unsafe fn decode(o: *mut Self, r: &mut Reader<'_>) -> Result<(), DecodeError> { unsafe {
        (*o).sType = r.stype(VK_STRUCTURE_TYPE_APPLICATION_INFO)?;
        r.chain((&raw mut (*o).pNext).cast())?;
        r.string((&raw mut (*o).pApplicationName).cast(), true)?;
        (*o).applicationVersion = r.u32()?;
        r.string((&raw mut (*o).pEngineName).cast(), true)?;
        (*o).engineVersion = r.u32()?;
        (*o).apiVersion = r.u32()?;
        Ok(())
    } }
    unsafe fn encode(&self, w: &mut Writer<'_>) { unsafe {
        w.i32(self.sType);
        crate::chain::encode(self.pNext.cast(), w);
        w.string(self.pApplicationName, true);
        w.u32(self.applicationVersion);
        w.string(self.pEngineName, true);
        w.u32(self.engineVersion);
        w.u32(self.apiVersion);
    } }
}
