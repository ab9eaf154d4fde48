// vkCreateGraphicsPipelines 20065 answered; device Device; pipelineCache PipelineCache; createInfoCount u32; pCreateInfos VkGraphicsPipelineCreateInfo[createInfoCount]; pAllocator null; out pPipelines Pipeline[createInfoCount] -> i32
/// `vkCreateGraphicsPipelines`, opcode 20065, answered.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct vkCreateGraphicsPipelines {
    pub device: VkDevice,
    pub device_token: u64,
    pub pipelineCache: VkPipelineCache,
    pub pipelineCache_token: u64,
    pub createInfoCount: u32,
    pub pCreateInfos: *const VkGraphicsPipelineCreateInfo,
    pub pAllocator: *const VkAllocationCallbacks,
    pub pPipelines: *mut VkPipeline,
}
zeroable!(vkCreateGraphicsPipelines);
impl Command for vkCreateGraphicsPipelines {
    const OPCODE: u32 = 20065;
    const NAME: &'static str = "vkCreateGraphicsPipelines";
    const ON_COMMAND_BUFFER: bool = false;
    const HAS_REPLY: bool = true;
    type Return = VkResult;
    const LOST: Self::Return = VK_ERROR_DEVICE_LOST;
    #[inline]
    unsafe fn decode_request(r: &mut Reader<'_>) -> Result<Self, DecodeError> { unsafe {
        let mut c: Self = zeroed();
        (c.device.0, c.device_token) = r.object(Kind::Device, true)?;
        (c.pipelineCache.0, c.pipelineCache_token) = r.object(Kind::PipelineCache, false)?;
        c.createInfoCount = r.count_u32()?;
        r.array::<VkGraphicsPipelineCreateInfo>((&raw mut c.pCreateInfos).cast(), c.createInfoCount as usize)?;
        r.callbacks()?;
        r.begin_out();
        r.handles((&raw mut c.pPipelines).cast(), c.createInfoCount as usize, Kind::Pipeline, false)?;
        r.end_out();
        Ok(c)
    } }
    unsafe fn encode_request(&self, w: &mut Writer<'_>) { unsafe {
        w.handle(Kind::Device, self.device.0);
        w.handle(Kind::PipelineCache, self.pipelineCache.0);
        w.u32(self.createInfoCount);
        w.array::<VkGraphicsPipelineCreateInfo>(self.pCreateInfos.cast(), self.createInfoCount as usize);
        w.callbacks();
        w.begin_out();
        w.handles(self.pPipelines.cast(), self.createInfoCount as usize, Kind::Pipeline);
        w.end_out();
    } }
    unsafe fn encode_reply(&self, ret: VkResult, w: &mut Writer<'_>) { unsafe {
        w.handles(self.pPipelines.cast(), self.createInfoCount as usize, Kind::Pipeline);
        w.i32(ret);
    } }
    unsafe fn decode_reply(&mut self, r: &mut Reader<'_>) -> Result<VkResult, DecodeError> { unsafe {
        let c = self;
        r.handles((&raw mut c.pPipelines).cast(), c.createInfoCount as usize, Kind::Pipeline, false)?;
        r.i32()
    } }
}
pub(crate) trait PipelineCommands: Host {
    /// `vkCreateGraphicsPipelines`.
    fn vkCreateGraphicsPipelines(&mut self, c: &mut p::vkCreateGraphicsPipelines) -> Result<VkResult, Error> {
        plain::vkCreateGraphicsPipelines(self, c)
    }
}
/// `vkCreateGraphicsPipelines`, and nothing but.
#[inline]
pub(crate) fn vkCreateGraphicsPipelines<H: Host + ?Sized>(host: &mut H, c: &mut p::vkCreateGraphicsPipelines) -> Result<VkResult, Error> {
    let f = host.device_fns(c.device_token)?.vkCreateGraphicsPipelines.ok_or(Error::NoSuchFunction("vkCreateGraphicsPipelines"))?;
    // SAFETY: decoded arguments: live handles, and pointers into the arena with as many elements as their counts say.
    let ret = unsafe { f(c.device, c.pipelineCache, c.createInfoCount, c.pCreateInfos, c.pAllocator, c.pPipelines) };
    host.adopt(Kind::Pipeline, c.device_token, c.pPipelines.cast(), c.createInfoCount as usize, true)?;
    Ok(ret)
}

// VkGraphicsPipelineCreateInfo 28; be32 has_rasterization; be32 has_tessellation; sType i32; pNext chain; flags u32; stageCount u32; pStages VkPipelineShaderStageCreateInfo[stageCount]; pVertexInputState flag VkPipelineVertexInputStateCreateInfo; pInputAssemblyState flag VkPipelineInputAssemblyStateCreateInfo; pTessellationState flag VkPipelineTessellationStateCreateInfo if has_tessellation; pViewportState flag VkPipelineViewportStateCreateInfo if has_rasterization; pRasterizationState flag VkPipelineRasterizationStateCreateInfo; pMultisampleState flag VkPipelineMultisampleStateCreateInfo if has_rasterization; pDepthStencilState flag VkPipelineDepthStencilStateCreateInfo if has_rasterization; pColorBlendState flag VkPipelineColorBlendStateCreateInfo if has_rasterization; pDynamicState flag VkPipelineDynamicStateCreateInfo; layout PipelineLayout; renderPass RenderPass; subpass u32; basePipelineHandle Pipeline; basePipelineIndex i32
// SAFETY: each member is read or written as the registry declares it.
unsafe impl Wire for VkGraphicsPipelineCreateInfo {
    const MIN: usize = 128;
    const STYPE: i32 = VK_STRUCTURE_TYPE_GRAPHICS_PIPELINE_CREATE_INFO;
    unsafe fn decode(o: *mut Self, r: &mut Reader<'_>) -> Result<(), DecodeError> { unsafe {
        let has_rasterization = r.be32()? != 0;
        let has_tessellation = r.be32()? != 0;
        (*o).sType = r.stype(VK_STRUCTURE_TYPE_GRAPHICS_PIPELINE_CREATE_INFO)?;
        r.chain((&raw mut (*o).pNext).cast())?;
        (*o).flags = r.u32()?;
        (*o).stageCount = r.count_u32()?;
        r.array::<VkPipelineShaderStageCreateInfo>((&raw mut (*o).pStages).cast(), (*o).stageCount as usize)?;
        if r.flag()? { r.array::<VkPipelineVertexInputStateCreateInfo>((&raw mut (*o).pVertexInputState).cast(), 1)?; }
        if r.flag()? { r.array::<VkPipelineInputAssemblyStateCreateInfo>((&raw mut (*o).pInputAssemblyState).cast(), 1)?; }
        if r.flag()? && has_tessellation { r.array::<VkPipelineTessellationStateCreateInfo>((&raw mut (*o).pTessellationState).cast(), 1)?; }
        if r.flag()? && has_rasterization { r.array::<VkPipelineViewportStateCreateInfo>((&raw mut (*o).pViewportState).cast(), 1)?; }
        if r.flag()? { r.array::<VkPipelineRasterizationStateCreateInfo>((&raw mut (*o).pRasterizationState).cast(), 1)?; }
        if r.flag()? && has_rasterization { r.array::<VkPipelineMultisampleStateCreateInfo>((&raw mut (*o).pMultisampleState).cast(), 1)?; }
        if r.flag()? && has_rasterization { r.array::<VkPipelineDepthStencilStateCreateInfo>((&raw mut (*o).pDepthStencilState).cast(), 1)?; }
        if r.flag()? && has_rasterization { r.array::<VkPipelineColorBlendStateCreateInfo>((&raw mut (*o).pColorBlendState).cast(), 1)?; }
        if r.flag()? { r.array::<VkPipelineDynamicStateCreateInfo>((&raw mut (*o).pDynamicState).cast(), 1)?; }
        (*o).layout.0 = r.handle(Kind::PipelineLayout, false)?;
        (*o).renderPass.0 = r.handle(Kind::RenderPass, false)?;
        (*o).subpass = r.u32()?;
        (*o).basePipelineHandle.0 = r.handle_or_null(Kind::Pipeline)?;
        (*o).basePipelineIndex = r.i32()?;
        Ok(())
    } }
    unsafe fn encode(&self, w: &mut Writer<'_>) { unsafe {
        let has_rasterization = crate::derived::has_rasterization(self);
        w.be32(u32::from(has_rasterization));
        let has_tessellation = crate::derived::has_tessellation(self);
        w.be32(u32::from(has_tessellation));
        w.i32(self.sType);
        crate::chain::encode(self.pNext.cast(), w);
        w.u32(self.flags);
        w.u32(self.stageCount);
        w.array::<VkPipelineShaderStageCreateInfo>(self.pStages.cast(), self.stageCount as usize);
        if w.flag(self.pVertexInputState.cast()) { w.array::<VkPipelineVertexInputStateCreateInfo>(self.pVertexInputState.cast(), 1); }
        if w.flag(self.pInputAssemblyState.cast()) { w.array::<VkPipelineInputAssemblyStateCreateInfo>(self.pInputAssemblyState.cast(), 1); }
        if w.flag(self.pTessellationState.cast()) && has_tessellation { w.array::<VkPipelineTessellationStateCreateInfo>(self.pTessellationState.cast(), 1); }
        if w.flag(self.pViewportState.cast()) && has_rasterization { w.array::<VkPipelineViewportStateCreateInfo>(self.pViewportState.cast(), 1); }
        if w.flag(self.pRasterizationState.cast()) { w.array::<VkPipelineRasterizationStateCreateInfo>(self.pRasterizationState.cast(), 1); }
        if w.flag(self.pMultisampleState.cast()) && has_rasterization { w.array::<VkPipelineMultisampleStateCreateInfo>(self.pMultisampleState.cast(), 1); }
        if w.flag(self.pDepthStencilState.cast()) && has_rasterization { w.array::<VkPipelineDepthStencilStateCreateInfo>(self.pDepthStencilState.cast(), 1); }
        if w.flag(self.pColorBlendState.cast()) && has_rasterization { w.array::<VkPipelineColorBlendStateCreateInfo>(self.pColorBlendState.cast(), 1); }
        if w.flag(self.pDynamicState.cast()) { w.array::<VkPipelineDynamicStateCreateInfo>(self.pDynamicState.cast(), 1); }
        w.handle(Kind::PipelineLayout, self.layout.0);
        w.handle(Kind::RenderPass, self.renderPass.0);
        w.u32(self.subpass);
        w.handle(Kind::Pipeline, self.basePipelineHandle.0);
        w.i32(self.basePipelineIndex);
    } }
}
