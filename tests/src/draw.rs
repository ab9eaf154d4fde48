//! Drawing: graphics pipelines, and a small canvas that the simple workloads draw on.

use std::ffi::CStr;

use anyhow::{Result, bail};
use ash::vk;

use crate::gpu::{Buffer, Gpu, Image, ImageDesc, Own, barrier};

/// Where a pipeline draws.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    /// Into subpass 0 of a render pass.
    Pass(vk::RenderPass),
    /// Between vkCmdBeginRendering and vkCmdEndRendering.
    Dynamic,
}

/// What a graphics pipeline is made of; viewport and scissor are dynamic.
#[derive(Debug, Clone)]
pub struct PipelineDesc<'a> {
    /// SPIR-V with both entry points.
    pub words: &'a [u32],
    /// Vertex entry point.
    pub vertex: &'a CStr,
    /// Fragment entry point, if anything is shaded.
    pub fragment: Option<&'a CStr>,
    /// Its layout.
    pub layout: vk::PipelineLayout,
    /// Size of a vertex; zero if the vertex shader needs no buffers.
    pub stride: u32,
    /// Attributes, all in binding 0.
    pub attributes: &'a [(vk::Format, u32)],
    /// How vertices become primitives.
    pub topology: vk::PrimitiveTopology,
    /// Which faces are dropped; the front is counter-clockwise.
    pub cull: vk::CullModeFlags,
    /// Whether depth is tested, and whether it is written.
    pub depth: Option<bool>,
    /// Whether the colour is blended over what is there by its alpha.
    pub blend: bool,
    /// Samples per pixel.
    pub samples: vk::SampleCountFlags,
    /// Colour attachments.
    pub colors: &'a [vk::Format],
    /// Depth attachment.
    pub depth_format: vk::Format,
    /// Where it draws.
    pub target: Target,
}

impl<'a> PipelineDesc<'a> {
    /// Triangles without vertex buffers, from `vs_main` and `fs_main` onto one RGBA8 attachment.
    #[must_use]
    pub fn plain(words: &'a [u32], layout: vk::PipelineLayout, target: Target) -> Self {
        Self {
            words,
            vertex: c"vs_main",
            fragment: Some(c"fs_main"),
            layout,
            stride: 0,
            attributes: &[],
            topology: vk::PrimitiveTopology::TRIANGLE_LIST,
            cull: vk::CullModeFlags::NONE,
            depth: None,
            blend: false,
            samples: vk::SampleCountFlags::TYPE_1,
            colors: &[vk::Format::R8G8B8A8_UNORM],
            depth_format: vk::Format::UNDEFINED,
            target,
        }
    }

    /// Makes the pipeline.
    pub fn build<'g>(&self, gpu: &'g Gpu) -> Result<Own<'g, vk::Pipeline>> {
        let module = gpu.module(self.words)?;
        let mut stages = vec![
            vk::PipelineShaderStageCreateInfo::default()
                .stage(vk::ShaderStageFlags::VERTEX)
                .module(*module)
                .name(self.vertex),
        ];
        if let Some(name) = self.fragment {
            stages.push(
                vk::PipelineShaderStageCreateInfo::default()
                    .stage(vk::ShaderStageFlags::FRAGMENT)
                    .module(*module)
                    .name(name),
            );
        }
        let bindings = [vk::VertexInputBindingDescription {
            binding: 0,
            stride: self.stride,
            input_rate: vk::VertexInputRate::VERTEX,
        }];
        let attributes: Vec<_> = (0..)
            .zip(self.attributes)
            .map(
                |(location, &(format, offset))| vk::VertexInputAttributeDescription {
                    location,
                    binding: 0,
                    format,
                    offset,
                },
            )
            .collect();
        let mut vertex_input = vk::PipelineVertexInputStateCreateInfo::default();
        if self.stride > 0 {
            vertex_input = vertex_input
                .vertex_binding_descriptions(&bindings)
                .vertex_attribute_descriptions(&attributes);
        }
        let assembly = vk::PipelineInputAssemblyStateCreateInfo::default().topology(self.topology);
        let viewport = vk::PipelineViewportStateCreateInfo::default()
            .viewport_count(1)
            .scissor_count(1);
        let raster = vk::PipelineRasterizationStateCreateInfo::default()
            .polygon_mode(vk::PolygonMode::FILL)
            .cull_mode(self.cull)
            .front_face(vk::FrontFace::COUNTER_CLOCKWISE)
            .line_width(1.0);
        let multisample =
            vk::PipelineMultisampleStateCreateInfo::default().rasterization_samples(self.samples);
        let depth = vk::PipelineDepthStencilStateCreateInfo::default()
            .depth_test_enable(self.depth.is_some())
            .depth_write_enable(self.depth == Some(true))
            .depth_compare_op(vk::CompareOp::LESS_OR_EQUAL);
        let blends: Vec<_> = self
            .colors
            .iter()
            .map(|_| vk::PipelineColorBlendAttachmentState {
                blend_enable: self.blend.into(),
                src_color_blend_factor: vk::BlendFactor::SRC_ALPHA,
                dst_color_blend_factor: vk::BlendFactor::ONE_MINUS_SRC_ALPHA,
                color_blend_op: vk::BlendOp::ADD,
                src_alpha_blend_factor: vk::BlendFactor::ONE,
                dst_alpha_blend_factor: vk::BlendFactor::ONE_MINUS_SRC_ALPHA,
                alpha_blend_op: vk::BlendOp::ADD,
                color_write_mask: vk::ColorComponentFlags::RGBA,
            })
            .collect();
        let blend = vk::PipelineColorBlendStateCreateInfo::default().attachments(&blends);
        let dynamic = vk::PipelineDynamicStateCreateInfo::default()
            .dynamic_states(&[vk::DynamicState::VIEWPORT, vk::DynamicState::SCISSOR]);
        let mut rendering = vk::PipelineRenderingCreateInfo::default()
            .color_attachment_formats(self.colors)
            .depth_attachment_format(self.depth_format);
        let mut info = vk::GraphicsPipelineCreateInfo::default()
            .stages(&stages)
            .vertex_input_state(&vertex_input)
            .input_assembly_state(&assembly)
            .viewport_state(&viewport)
            .rasterization_state(&raster)
            .multisample_state(&multisample)
            .depth_stencil_state(&depth)
            .color_blend_state(&blend)
            .dynamic_state(&dynamic)
            .layout(self.layout);
        info = match self.target {
            Target::Pass(pass) => info.render_pass(pass),
            Target::Dynamic => info.push_next(&mut rendering),
        };
        let cache = vk::PipelineCache::null();
        match unsafe { gpu.device.create_graphics_pipelines(cache, &[info], None) } {
            Ok(pipelines) => Ok(gpu.own(pipelines[0])),
            Err((_, error)) => bail!("creating a graphics pipeline: {error}"),
        }
    }
}

/// Sets viewport and scissor to all of `extent`.
pub fn set_viewport(device: &ash::Device, cmd: vk::CommandBuffer, extent: vk::Extent2D) {
    let viewport = vk::Viewport {
        x: 0.0,
        y: 0.0,
        width: extent.width as f32,
        height: extent.height as f32,
        min_depth: 0.0,
        max_depth: 1.0,
    };
    let scissor = vk::Rect2D {
        offset: vk::Offset2D::default(),
        extent,
    };
    unsafe {
        device.cmd_set_viewport(cmd, 0, &[viewport]);
        device.cmd_set_scissor(cmd, 0, &[scissor]);
    }
}

/// The dependencies that let a pass follow anything and anything follow the pass.
pub fn pass_dependencies() -> [vk::SubpassDependency; 2] {
    let (all, graphics) = (
        vk::PipelineStageFlags::ALL_COMMANDS,
        vk::PipelineStageFlags::ALL_GRAPHICS,
    );
    let stages = |subpass| {
        if subpass == vk::SUBPASS_EXTERNAL {
            all
        } else {
            graphics
        }
    };
    let one = |src_subpass, dst_subpass| vk::SubpassDependency {
        src_subpass,
        dst_subpass,
        src_stage_mask: stages(src_subpass),
        dst_stage_mask: stages(dst_subpass),
        src_access_mask: vk::AccessFlags::MEMORY_WRITE,
        dst_access_mask: vk::AccessFlags::MEMORY_READ | vk::AccessFlags::MEMORY_WRITE,
        dependency_flags: vk::DependencyFlags::empty(),
    };
    [one(vk::SUBPASS_EXTERNAL, 0), one(0, vk::SUBPASS_EXTERNAL)]
}

/// A small RGBA8 picture with a depth buffer, a render pass that clears both, and a buffer to read the colours from.
#[derive(Debug)]
pub struct Canvas<'g> {
    /// Clears to [`Canvas::CLEAR`] and leaves the colours ready to copy.
    pub pass: Own<'g, vk::RenderPass>,
    /// Colour and depth.
    pub framebuffer: Own<'g, vk::Framebuffer>,
    /// The colours.
    pub color: Image<'g>,
    /// The depth values.
    pub depth: Image<'g>,
    /// Receives the colours at the end of [`Canvas::draw`].
    pub pixels: Buffer<'g>,
    /// Width and height.
    pub extent: vk::Extent2D,
}

impl<'g> Canvas<'g> {
    /// The colour of an empty canvas.
    pub const CLEAR: [f32; 4] = [0.125, 0.25, 0.5, 1.0];

    /// Makes an empty canvas.
    pub fn new(gpu: &'g Gpu, width: u32, height: u32) -> Result<Self> {
        let extent = vk::Extent2D { width, height };
        let color = gpu.image(ImageDesc::flat(
            vk::Format::R8G8B8A8_UNORM,
            width,
            height,
            vk::ImageUsageFlags::COLOR_ATTACHMENT | vk::ImageUsageFlags::TRANSFER_SRC,
        ))?;
        let depth = gpu.image(ImageDesc::flat(
            vk::Format::D32_SFLOAT,
            width,
            height,
            vk::ImageUsageFlags::DEPTH_STENCIL_ATTACHMENT,
        ))?;
        let attachments = [
            vk::AttachmentDescription::default()
                .format(color.desc.format)
                .samples(vk::SampleCountFlags::TYPE_1)
                .load_op(vk::AttachmentLoadOp::CLEAR)
                .store_op(vk::AttachmentStoreOp::STORE)
                .final_layout(vk::ImageLayout::TRANSFER_SRC_OPTIMAL),
            vk::AttachmentDescription::default()
                .format(depth.desc.format)
                .samples(vk::SampleCountFlags::TYPE_1)
                .load_op(vk::AttachmentLoadOp::CLEAR)
                .store_op(vk::AttachmentStoreOp::DONT_CARE)
                .final_layout(vk::ImageLayout::DEPTH_STENCIL_ATTACHMENT_OPTIMAL),
        ];
        let colors = [vk::AttachmentReference {
            attachment: 0,
            layout: vk::ImageLayout::COLOR_ATTACHMENT_OPTIMAL,
        }];
        let depths = vk::AttachmentReference {
            attachment: 1,
            layout: vk::ImageLayout::DEPTH_STENCIL_ATTACHMENT_OPTIMAL,
        };
        let subpasses = [vk::SubpassDescription::default()
            .pipeline_bind_point(vk::PipelineBindPoint::GRAPHICS)
            .color_attachments(&colors)
            .depth_stencil_attachment(&depths)];
        let dependencies = pass_dependencies();
        let info = vk::RenderPassCreateInfo::default()
            .attachments(&attachments)
            .subpasses(&subpasses)
            .dependencies(&dependencies);
        let pass = gpu.own(unsafe { gpu.device.create_render_pass(&info, None)? });
        let views = [*color.view, *depth.view];
        let info = vk::FramebufferCreateInfo::default()
            .render_pass(*pass)
            .attachments(&views)
            .width(width)
            .height(height)
            .layers(1);
        let framebuffer = gpu.own(unsafe { gpu.device.create_framebuffer(&info, None)? });
        let pixels = gpu.buffer(
            u64::from(width) * u64::from(height) * 4,
            vk::BufferUsageFlags::TRANSFER_DST,
        )?;
        Ok(Self {
            pass,
            framebuffer,
            color,
            depth,
            pixels,
            extent,
        })
    }

    /// Clears, lets `commands` draw, and copies the colours into [`Canvas::pixels`].
    pub fn draw(
        &self,
        device: &ash::Device,
        cmd: vk::CommandBuffer,
        contents: vk::SubpassContents,
        commands: impl FnOnce(),
    ) {
        let clears = [
            vk::ClearValue {
                color: vk::ClearColorValue {
                    float32: Self::CLEAR,
                },
            },
            vk::ClearValue {
                depth_stencil: vk::ClearDepthStencilValue {
                    depth: 1.0,
                    stencil: 0,
                },
            },
        ];
        let begin = vk::RenderPassBeginInfo::default()
            .render_pass(*self.pass)
            .framebuffer(*self.framebuffer)
            .render_area(vk::Rect2D {
                offset: vk::Offset2D::default(),
                extent: self.extent,
            })
            .clear_values(&clears);
        unsafe {
            device.cmd_begin_render_pass(cmd, &begin, contents);
            if contents == vk::SubpassContents::INLINE {
                set_viewport(device, cmd, self.extent);
            }
            commands();
            device.cmd_end_render_pass(cmd);
            device.cmd_copy_image_to_buffer(
                cmd,
                *self.color.handle,
                vk::ImageLayout::TRANSFER_SRC_OPTIMAL,
                *self.pixels.handle,
                &[self.color.copy(0, 0)],
            );
            barrier(device, cmd);
        }
    }
}

/// Draws rectangles of one colour on a [`Canvas`].
#[derive(Debug)]
pub struct Squares<'g> {
    /// Triangle strips of four vertices, with depth test.
    pub pipeline: Own<'g, vk::Pipeline>,
    /// One push constant block for both stages.
    pub layout: Own<'g, vk::PipelineLayout>,
}

/// A rectangle on a canvas.
#[derive(Debug, Clone, Copy)]
pub struct Square {
    /// Left, top, right and bottom in clip space.
    pub rect: [f32; 4],
    /// Its colour.
    pub color: [f32; 4],
    /// Its depth.
    pub depth: f32,
}

impl<'g> Squares<'g> {
    /// Both stages of the push constants.
    pub const STAGES: vk::ShaderStageFlags = vk::ShaderStageFlags::from_raw(
        vk::ShaderStageFlags::VERTEX.as_raw() | vk::ShaderStageFlags::FRAGMENT.as_raw(),
    );
    /// Bytes of push constants.
    pub const PUSH: u32 = 48;
    /// The shader.
    pub const WGSL: &'static str = "
        struct Push { rect: vec4<f32>, color: vec4<f32>, depth: f32 }
        var<immediate> push: Push;
        @vertex
        fn vs_main(@builtin(vertex_index) vertex: u32) -> @builtin(position) vec4<f32> {
            let corner = vec2<f32>(f32(vertex & 1u), f32((vertex >> 1u) & 1u));
            return vec4<f32>(mix(push.rect.xy, push.rect.zw, corner), push.depth, 1.0);
        }
        @fragment
        fn fs_main() -> @location(0) vec4<f32> {
            return push.color;
        }";

    /// Makes the pipeline for a target with one RGBA8 and maybe one depth attachment.
    pub fn new(
        gpu: &'g Gpu,
        target: Target,
        depth_format: vk::Format,
        samples: vk::SampleCountFlags,
    ) -> Result<Self> {
        let words = crate::shader::compile(Self::WGSL)?;
        let layout = gpu.pipeline_layout(&[], Self::PUSH, Self::STAGES)?;
        let pipeline = PipelineDesc {
            topology: vk::PrimitiveTopology::TRIANGLE_STRIP,
            depth: (depth_format != vk::Format::UNDEFINED).then_some(true),
            depth_format,
            samples,
            ..PipelineDesc::plain(&words, *layout, target)
        }
        .build(gpu)?;
        Ok(Self { pipeline, layout })
    }

    /// Makes the pipeline for a canvas.
    pub fn on(gpu: &'g Gpu, canvas: &Canvas<'_>) -> Result<Self> {
        let target = Target::Pass(*canvas.pass);
        Self::new(
            gpu,
            target,
            canvas.depth.desc.format,
            vk::SampleCountFlags::TYPE_1,
        )
    }

    /// Binds the pipeline.
    pub fn bind(&self, device: &ash::Device, cmd: vk::CommandBuffer) {
        unsafe { device.cmd_bind_pipeline(cmd, vk::PipelineBindPoint::GRAPHICS, *self.pipeline) }
    }

    /// Draws one rectangle.
    pub fn put(&self, device: &ash::Device, cmd: vk::CommandBuffer, square: Square) {
        let mut push = [0f32; Self::PUSH as usize / 4];
        push[..4].copy_from_slice(&square.rect);
        push[4..8].copy_from_slice(&square.color);
        push[8] = square.depth;
        let bytes = bytemuck::cast_slice(&push);
        unsafe {
            device.cmd_push_constants(cmd, *self.layout, Self::STAGES, 0, bytes);
            device.cmd_draw(cmd, 4, 1, 0, 0);
        }
    }
}
