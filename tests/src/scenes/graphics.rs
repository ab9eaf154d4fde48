//! The rainbow bridge to Asgard by night, with its reflection in the sea: textures with mip levels, depth, blending, multisampling, push constants and dynamic uniform offsets.

mod model;

use anyhow::Result;
use ash::vk;

use self::model::{Layer, Mesh, Object, Vertex};
use crate::draw::{PipelineDesc, Target, pass_dependencies, set_viewport};
use crate::gpu::{Buffer, Gpu, Image, ImageDesc, Own, barrier, transition};
use crate::picture::write_png;
use crate::report::Report;
use crate::scenes::Options;
use crate::shader;

const SIZE: u32 = 512;
const COLOR: vk::Format = vk::Format::R8G8B8A8_UNORM;
const DEPTH: vk::Format = vk::Format::D32_SFLOAT;
const TEXTURE_SIZE: u32 = 256;
const TEXTURE_LEVELS: u32 = 9;
const IN_FLIGHT: usize = 2;
/// Frames in a full turn of the camera.
const TURN: f32 = 360.0;

/// Runs the scene twice: with a render pass, and with dynamic rendering where the device shows it.
pub(super) fn run(gpu: &Gpu, options: &Options, report: &mut Report) -> Result<()> {
    let stage = Stage::new(gpu)?;
    let (pass, seconds) = stage.animate(Mode::Pass, options.frames)?;
    tell(options.frames, seconds);
    if let Some(path) = &options.png {
        write_png(path, SIZE, SIZE, &pass)?;
    }
    report.part("render pass", pass);
    let shown = gpu.has_13() && gpu.features13.dynamic_rendering == vk::TRUE;
    if report.needs("dynamic rendering", shown, "dynamicRendering is not shown") {
        let (pixels, seconds) = stage.animate(Mode::Dynamic, options.frames)?;
        tell(options.frames, seconds);
        report.part("dynamic rendering", pixels);
    }
    Ok(())
}

fn tell(frames: u32, seconds: f64) {
    if frames > 1 {
        println!("{:.1} frames per second", f64::from(frames) / seconds);
    }
}

/// Draws frames with a render pass, and returns how many it drew per second.
pub(crate) fn frames_per_second(gpu: &Gpu, frames: u32) -> Result<f64> {
    let (_, seconds) = Stage::new(gpu)?.animate(Mode::Pass, frames)?;
    Ok(f64::from(frames) / seconds)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pass,
    Dynamic,
}

/// Everything that both modes share.
struct Stage<'g> {
    gpu: &'g Gpu,
    samples: vk::SampleCountFlags,
    words: Vec<u32>,
    vertices: Buffer<'g>,
    indices: Buffer<'g>,
    meshes: Vec<Mesh>,
    /// From one object's uniforms to the next.
    stride: u64,
    texture: Image<'g>,
    sampler: Own<'g, vk::Sampler>,
    set_layout: Own<'g, vk::DescriptorSetLayout>,
    layout: Own<'g, vk::PipelineLayout>,
    /// Rendered to with all samples; absent if one sample is all there is.
    canvas: Option<Image<'g>>,
    depth: Image<'g>,
    resolved: Image<'g>,
    pixels: Buffer<'g>,
}

/// One frame's own objects, so that two frames can be in flight.
struct Slot<'g> {
    cmd: vk::CommandBuffer,
    fence: Own<'g, vk::Fence>,
    busy: bool,
    uniforms: Buffer<'g>,
    set: vk::DescriptorSet,
}

/// The four ways the scene's triangles are drawn.
struct Pipelines<'g> {
    sky: Own<'g, vk::Pipeline>,
    solid: Own<'g, vk::Pipeline>,
    /// The mirror turns faces around.
    mirrored: Own<'g, vk::Pipeline>,
    glass: Own<'g, vk::Pipeline>,
}

impl<'g> Stage<'g> {
    fn new(gpu: &'g Gpu) -> Result<Self> {
        let limits = &gpu.properties.limits;
        let counts =
            limits.framebuffer_color_sample_counts & limits.framebuffer_depth_sample_counts;
        let samples = if counts.contains(vk::SampleCountFlags::TYPE_4) {
            vk::SampleCountFlags::TYPE_4
        } else {
            vk::SampleCountFlags::TYPE_1
        };
        let (vertices, indices, meshes) = model::meshes();
        let stages = vk::ShaderStageFlags::VERTEX | vk::ShaderStageFlags::FRAGMENT;
        let set_layout = gpu.set_layout(
            &[
                vk::DescriptorType::UNIFORM_BUFFER_DYNAMIC,
                vk::DescriptorType::SAMPLED_IMAGE,
                vk::DescriptorType::SAMPLER,
            ],
            stages,
        )?;
        let layout =
            gpu.pipeline_layout(&[*set_layout], size_of::<model::Camera>() as u32, stages)?;
        let attachment = |format, samples, usage| {
            gpu.image(ImageDesc { samples, ..ImageDesc::flat(format, SIZE, SIZE, usage) })
        };
        let canvas = if samples == vk::SampleCountFlags::TYPE_1 {
            None
        } else {
            Some(attachment(COLOR, samples, vk::ImageUsageFlags::COLOR_ATTACHMENT)?)
        };
        Ok(Self {
            gpu,
            samples,
            words: shader::compile(include_str!("graphics/bridge.wgsl"))?,
            vertices: gpu.buffer_with(&vertices, vk::BufferUsageFlags::VERTEX_BUFFER)?,
            indices: gpu.buffer_with(&indices, vk::BufferUsageFlags::INDEX_BUFFER)?,
            meshes,
            stride: (size_of::<Object>() as u64)
                .next_multiple_of(limits.min_uniform_buffer_offset_alignment),
            texture: texture(gpu)?,
            sampler: gpu.sampler(vk::Filter::LINEAR)?,
            set_layout,
            layout,
            canvas,
            depth: attachment(DEPTH, samples, vk::ImageUsageFlags::DEPTH_STENCIL_ATTACHMENT)?,
            resolved: attachment(
                COLOR,
                vk::SampleCountFlags::TYPE_1,
                vk::ImageUsageFlags::COLOR_ATTACHMENT | vk::ImageUsageFlags::TRANSFER_SRC,
            )?,
            pixels: gpu
                .buffer(u64::from(SIZE * SIZE * 4), vk::BufferUsageFlags::TRANSFER_DST)?,
        })
    }

    /// Draws the frames; returns the pixels of the last one, and the seconds that all of them took.
    fn animate(&self, mode: Mode, frames: u32) -> Result<(Vec<u8>, f64)> {
        let gpu = self.gpu;
        let pass = self.render_pass()?;
        let framebuffer = self.framebuffer(*pass)?;
        let target = match mode {
            Mode::Pass => Target::Pass(*pass),
            Mode::Dynamic => Target::Dynamic,
        };
        let pipelines = self.pipelines(target)?;

        let stride = self.stride;
        let count = model::objects(0.0).len() as u64;
        let kinds = [
            vk::DescriptorType::UNIFORM_BUFFER_DYNAMIC,
            vk::DescriptorType::SAMPLED_IMAGE,
            vk::DescriptorType::SAMPLER,
        ];
        let sets = gpu.pool(&kinds, IN_FLIGHT as u32)?;
        let commands = gpu.command_pool()?;
        let primary = vk::CommandBufferLevel::PRIMARY;
        let mut slots = Vec::new();
        for cmd in gpu.command_buffers(*commands, primary, IN_FLIGHT as u32)? {
            let uniforms = gpu.buffer(2 * count * stride, vk::BufferUsageFlags::UNIFORM_BUFFER)?;
            let set = gpu.set(*sets, *self.set_layout)?;
            self.write_set(set, &uniforms);
            slots.push(Slot { cmd, fence: gpu.fence()?, busy: false, uniforms, set });
        }

        let started = std::time::Instant::now();
        for frame in 0..frames {
            let slot = &mut slots[frame as usize % IN_FLIGHT];
            if slot.busy {
                gpu.wait(*slot.fence)?;
                unsafe { gpu.device.reset_fences(&[*slot.fence])? }
            }
            let turn = frame as f32 / TURN;
            let objects = model::objects(turn);
            for (index, object) in (0u64..).zip(&objects) {
                slot.uniforms.write(index * stride, bytemuck::bytes_of(&object.0));
                slot.uniforms.write((count + index) * stride, bytemuck::bytes_of(&object.0.mirrored()));
            }
            let last = frame + 1 == frames;
            gpu.record(slot.cmd, |device, cmd| {
                self.begin(device, cmd, mode, *pass, *framebuffer);
                self.draw(device, cmd, &pipelines, slot.set, &objects, turn);
                self.end(device, cmd, mode);
                if last {
                    self.read_back(device, cmd);
                }
            })?;
            let cmds = [slot.cmd];
            gpu.submit(&vk::SubmitInfo::default().command_buffers(&cmds), *slot.fence)?;
            slot.busy = true;
        }
        gpu.idle()?;
        Ok((self.pixels.bytes(), started.elapsed().as_secs_f64()))
    }

    fn draw(
        &self,
        device: &ash::Device,
        cmd: vk::CommandBuffer,
        pipelines: &Pipelines<'_>,
        set: vk::DescriptorSet,
        objects: &[(Object, usize)],
        turn: f32,
    ) {
        let graphics = vk::PipelineBindPoint::GRAPHICS;
        let camera = model::camera(turn);
        let count = objects.len() as u32;
        let draw = |index: u32, mirrored: bool| unsafe {
            let offset = (index + if mirrored { count } else { 0 }) * self.stride as u32;
            device.cmd_bind_descriptor_sets(cmd, graphics, *self.layout, 0, &[set], &[offset]);
            let mesh = &self.meshes[objects[index as usize].1];
            device.cmd_draw_indexed(cmd, mesh.count, 1, mesh.first, mesh.vertex_offset, 0);
        };
        // What may be seen through comes after what may not, and the sea between the reflections and the things themselves.
        let is = |index: u32, layer: Layer| objects[index as usize].0.is(layer);
        let solid = |index: &u32| !is(*index, Layer::Bridge) && !is(*index, Layer::Sea);
        unsafe {
            set_viewport(device, cmd, vk::Extent2D { width: SIZE, height: SIZE });
            device.cmd_bind_vertex_buffers(cmd, 0, &[*self.vertices.handle], &[0]);
            device.cmd_bind_index_buffer(cmd, *self.indices.handle, 0, vk::IndexType::UINT32);
            device.cmd_push_constants(
                cmd,
                *self.layout,
                vk::ShaderStageFlags::VERTEX | vk::ShaderStageFlags::FRAGMENT,
                0,
                bytemuck::bytes_of(&camera),
            );
            device.cmd_bind_descriptor_sets(cmd, graphics, *self.layout, 0, &[set], &[0]);
            device.cmd_bind_pipeline(cmd, graphics, *pipelines.sky);
            device.cmd_draw(cmd, 3, 1, 0, 0);

            device.cmd_bind_pipeline(cmd, graphics, *pipelines.mirrored);
            (0..count).filter(solid).for_each(|index| draw(index, true));
            device.cmd_bind_pipeline(cmd, graphics, *pipelines.glass);
            (0..count).filter(|&i| is(i, Layer::Bridge)).for_each(|index| draw(index, true));
            (0..count).filter(|&i| is(i, Layer::Sea)).for_each(|index| draw(index, false));

            device.cmd_bind_pipeline(cmd, graphics, *pipelines.solid);
            (0..count).filter(solid).for_each(|index| draw(index, false));
            device.cmd_bind_pipeline(cmd, graphics, *pipelines.glass);
            (0..count).filter(|&i| is(i, Layer::Bridge)).for_each(|index| draw(index, false));
        }
    }

    fn write_set(&self, set: vk::DescriptorSet, uniforms: &Buffer<'_>) {
        let buffer = [vk::DescriptorBufferInfo {
            buffer: *uniforms.handle,
            offset: 0,
            range: size_of::<Object>() as u64,
        }];
        let image = [vk::DescriptorImageInfo {
            image_view: *self.texture.view,
            image_layout: vk::ImageLayout::SHADER_READ_ONLY_OPTIMAL,
            ..Default::default()
        }];
        let sampler =
            [vk::DescriptorImageInfo { sampler: *self.sampler, ..Default::default() }];
        let write = vk::WriteDescriptorSet::default().dst_set(set);
        let writes = [
            write
                .dst_binding(0)
                .descriptor_type(vk::DescriptorType::UNIFORM_BUFFER_DYNAMIC)
                .buffer_info(&buffer),
            write
                .dst_binding(1)
                .descriptor_type(vk::DescriptorType::SAMPLED_IMAGE)
                .image_info(&image),
            write
                .dst_binding(2)
                .descriptor_type(vk::DescriptorType::SAMPLER)
                .image_info(&sampler),
        ];
        unsafe { self.gpu.device.update_descriptor_sets(&writes, &[]) }
    }

    fn pipelines(&self, target: Target) -> Result<Pipelines<'g>> {
        let base = PipelineDesc {
            samples: self.samples,
            depth_format: DEPTH,
            ..PipelineDesc::plain(&self.words, *self.layout, target)
        };
        let solid = PipelineDesc {
            stride: size_of::<Vertex>() as u32,
            attributes: &[
                (vk::Format::R32G32B32_SFLOAT, 0),
                (vk::Format::R32G32B32_SFLOAT, 12),
                (vk::Format::R32G32_SFLOAT, 24),
            ],
            cull: vk::CullModeFlags::BACK,
            depth: Some(true),
            ..base.clone()
        };
        let mirrored = PipelineDesc { cull: vk::CullModeFlags::FRONT, ..solid.clone() };
        let glass =
            PipelineDesc { cull: vk::CullModeFlags::NONE, blend: true, ..solid.clone() };
        let sky = PipelineDesc { vertex: c"vs_sky", fragment: Some(c"fs_sky"), ..base };
        Ok(Pipelines {
            sky: sky.build(self.gpu)?,
            solid: solid.build(self.gpu)?,
            mirrored: mirrored.build(self.gpu)?,
            glass: glass.build(self.gpu)?,
        })
    }

    fn render_pass(&self) -> Result<Own<'g, vk::RenderPass>> {
        let attachment = |format, samples, store, layout| {
            vk::AttachmentDescription::default()
                .format(format)
                .samples(samples)
                .load_op(vk::AttachmentLoadOp::CLEAR)
                .store_op(store)
                .final_layout(layout)
        };
        let one = vk::SampleCountFlags::TYPE_1;
        let color_layout = vk::ImageLayout::COLOR_ATTACHMENT_OPTIMAL;
        let depth_layout = vk::ImageLayout::DEPTH_STENCIL_ATTACHMENT_OPTIMAL;
        let store = vk::AttachmentStoreOp::STORE;
        let drop = vk::AttachmentStoreOp::DONT_CARE;
        let resolve = self.canvas.is_some();
        let mut attachments = vec![
            attachment(COLOR, self.samples, if resolve { drop } else { store }, color_layout),
            attachment(DEPTH, self.samples, drop, depth_layout),
        ];
        if resolve {
            let resolved = attachment(COLOR, one, store, color_layout);
            attachments.push(resolved.load_op(vk::AttachmentLoadOp::DONT_CARE));
        }
        let colors = [vk::AttachmentReference { attachment: 0, layout: color_layout }];
        let resolves = [vk::AttachmentReference { attachment: 2, layout: color_layout }];
        let depth = vk::AttachmentReference { attachment: 1, layout: depth_layout };
        let mut subpass = vk::SubpassDescription::default()
            .pipeline_bind_point(vk::PipelineBindPoint::GRAPHICS)
            .color_attachments(&colors)
            .depth_stencil_attachment(&depth);
        if resolve {
            subpass = subpass.resolve_attachments(&resolves);
        }
        let subpasses = [subpass];
        let dependencies = pass_dependencies();
        let info = vk::RenderPassCreateInfo::default()
            .attachments(&attachments)
            .subpasses(&subpasses)
            .dependencies(&dependencies);
        Ok(self.gpu.own(unsafe { self.gpu.device.create_render_pass(&info, None)? }))
    }

    fn framebuffer(&self, pass: vk::RenderPass) -> Result<Own<'g, vk::Framebuffer>> {
        let mut views = vec![*self.depth.view, *self.resolved.view];
        match &self.canvas {
            Some(canvas) => views.insert(0, *canvas.view),
            None => views.reverse(),
        }
        let info = vk::FramebufferCreateInfo::default()
            .render_pass(pass)
            .attachments(&views)
            .width(SIZE)
            .height(SIZE)
            .layers(1);
        Ok(self.gpu.own(unsafe { self.gpu.device.create_framebuffer(&info, None)? }))
    }

    fn begin(
        &self,
        device: &ash::Device,
        cmd: vk::CommandBuffer,
        mode: Mode,
        pass: vk::RenderPass,
        framebuffer: vk::Framebuffer,
    ) {
        let area = vk::Rect2D {
            offset: vk::Offset2D::default(),
            extent: vk::Extent2D { width: SIZE, height: SIZE },
        };
        let black = vk::ClearValue { color: vk::ClearColorValue { float32: [0.0; 4] } };
        let far = vk::ClearValue {
            depth_stencil: vk::ClearDepthStencilValue { depth: 1.0, stencil: 0 },
        };
        if mode == Mode::Pass {
            let clears = [black, far];
            let info = vk::RenderPassBeginInfo::default()
                .render_pass(pass)
                .framebuffer(framebuffer)
                .render_area(area)
                .clear_values(&clears);
            unsafe { device.cmd_begin_render_pass(cmd, &info, vk::SubpassContents::INLINE) }
            return;
        }
        let color_layout = vk::ImageLayout::COLOR_ATTACHMENT_OPTIMAL;
        let depth_layout = vk::ImageLayout::DEPTH_STENCIL_ATTACHMENT_OPTIMAL;
        self.resolved.to(device, cmd, vk::ImageLayout::UNDEFINED, color_layout);
        self.depth.to(device, cmd, vk::ImageLayout::UNDEFINED, depth_layout);
        let color = vk::RenderingAttachmentInfo::default()
            .image_layout(color_layout)
            .load_op(vk::AttachmentLoadOp::CLEAR)
            .clear_value(black);
        let color = match &self.canvas {
            Some(canvas) => {
                canvas.to(device, cmd, vk::ImageLayout::UNDEFINED, color_layout);
                color
                    .image_view(*canvas.view)
                    .store_op(vk::AttachmentStoreOp::DONT_CARE)
                    .resolve_mode(vk::ResolveModeFlags::AVERAGE)
                    .resolve_image_view(*self.resolved.view)
                    .resolve_image_layout(color_layout)
            }
            None => color
                .image_view(*self.resolved.view)
                .store_op(vk::AttachmentStoreOp::STORE),
        };
        let colors = [color];
        let depth = vk::RenderingAttachmentInfo::default()
            .image_view(*self.depth.view)
            .image_layout(depth_layout)
            .load_op(vk::AttachmentLoadOp::CLEAR)
            .store_op(vk::AttachmentStoreOp::DONT_CARE)
            .clear_value(far);
        let info = vk::RenderingInfo::default()
            .render_area(area)
            .layer_count(1)
            .color_attachments(&colors)
            .depth_attachment(&depth);
        unsafe { device.cmd_begin_rendering(cmd, &info) }
    }

    fn end(&self, device: &ash::Device, cmd: vk::CommandBuffer, mode: Mode) {
        unsafe {
            match mode {
                Mode::Pass => device.cmd_end_render_pass(cmd),
                Mode::Dynamic => device.cmd_end_rendering(cmd),
            }
        }
    }

    fn read_back(&self, device: &ash::Device, cmd: vk::CommandBuffer) {
        let source = vk::ImageLayout::TRANSFER_SRC_OPTIMAL;
        self.resolved.to(device, cmd, vk::ImageLayout::COLOR_ATTACHMENT_OPTIMAL, source);
        unsafe {
            device.cmd_copy_image_to_buffer(
                cmd,
                *self.resolved.handle,
                source,
                *self.pixels.handle,
                &[self.resolved.copy(0, 0)],
            );
        }
        barrier(device, cmd);
    }
}

/// The painted layers, with mip levels that the device makes by blits.
fn texture(gpu: &Gpu) -> Result<Image<'_>> {
    let layers = model::paint(TEXTURE_SIZE);
    let image = gpu.image(ImageDesc {
        levels: TEXTURE_LEVELS,
        layers: layers.len() as u32,
        ..ImageDesc::flat(
            vk::Format::R8G8B8A8_UNORM,
            TEXTURE_SIZE,
            TEXTURE_SIZE,
            vk::ImageUsageFlags::SAMPLED
                | vk::ImageUsageFlags::TRANSFER_SRC
                | vk::ImageUsageFlags::TRANSFER_DST,
        )
    })?;
    let staging = gpu.buffer_with(&layers.concat(), vk::BufferUsageFlags::TRANSFER_SRC)?;
    let (source, sink) =
        (vk::ImageLayout::TRANSFER_SRC_OPTIMAL, vk::ImageLayout::TRANSFER_DST_OPTIMAL);
    gpu.run(|device, cmd| unsafe {
        image.to(device, cmd, vk::ImageLayout::UNDEFINED, sink);
        let copy = [image.copy(0, 0)];
        device.cmd_copy_buffer_to_image(cmd, *staging.handle, *image.handle, sink, &copy);
        for level in 1..TEXTURE_LEVELS {
            let above = vk::ImageSubresourceRange {
                base_mip_level: level - 1,
                level_count: 1,
                ..image.range
            };
            transition(device, cmd, *image.handle, above, sink, source);
            let corner = |level: u32| {
                let side = (TEXTURE_SIZE >> level) as i32;
                [vk::Offset3D::default(), vk::Offset3D { x: side, y: side, z: 1 }]
            };
            let blit = vk::ImageBlit {
                src_subresource: image.level(level - 1),
                src_offsets: corner(level - 1),
                dst_subresource: image.level(level),
                dst_offsets: corner(level),
            };
            device.cmd_blit_image(
                cmd,
                *image.handle,
                source,
                *image.handle,
                sink,
                &[blit],
                vk::Filter::LINEAR,
            );
        }
        let read = vk::ImageLayout::SHADER_READ_ONLY_OPTIMAL;
        let above =
            vk::ImageSubresourceRange { level_count: TEXTURE_LEVELS - 1, ..image.range };
        let last = vk::ImageSubresourceRange {
            base_mip_level: TEXTURE_LEVELS - 1,
            level_count: 1,
            ..image.range
        };
        transition(device, cmd, *image.handle, above, source, read);
        transition(device, cmd, *image.handle, last, sink, read);
    })?;
    Ok(image)
}
