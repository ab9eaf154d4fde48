//! Rendering into mip levels and layers, into several attachments at once, through imageless framebuffers and several views.

use anyhow::Result;
use ash::vk;

use crate::draw::{PipelineDesc, Square, Squares, Target, pass_dependencies, set_viewport};
use crate::gpu::{Gpu, Image, ImageDesc, Own, barrier};
use crate::report::Report;
use crate::scenes::Options;
use crate::shader;

const RGBA: vk::Format = vk::Format::R8G8B8A8_UNORM;
const COLOR: vk::ImageLayout = vk::ImageLayout::COLOR_ATTACHMENT_OPTIMAL;
const SOURCE: vk::ImageLayout = vk::ImageLayout::TRANSFER_SRC_OPTIMAL;
const USAGE: vk::ImageUsageFlags = vk::ImageUsageFlags::from_raw(
    vk::ImageUsageFlags::COLOR_ATTACHMENT.as_raw() | vk::ImageUsageFlags::TRANSFER_SRC.as_raw(),
);

pub(super) fn run(gpu: &Gpu, _options: &Options, report: &mut Report) -> Result<()> {
    levels_and_layers(gpu, report)?;
    imageless(gpu, report)?;
    several(gpu, report)?;
    multiview(gpu, report)
}

/// A pass that clears its colour attachments and leaves them ready to copy.
fn pass<'g>(
    gpu: &'g Gpu,
    formats: &[vk::Format],
    next: Option<&mut vk::RenderPassMultiviewCreateInfo<'_>>,
) -> Result<Own<'g, vk::RenderPass>> {
    let attachments: Vec<_> = formats
        .iter()
        .map(|&format| {
            vk::AttachmentDescription::default()
                .format(format)
                .samples(vk::SampleCountFlags::TYPE_1)
                .load_op(vk::AttachmentLoadOp::CLEAR)
                .store_op(vk::AttachmentStoreOp::STORE)
                .final_layout(SOURCE)
        })
        .collect();
    let colors: Vec<_> = (0..formats.len() as u32)
        .map(|attachment| vk::AttachmentReference { attachment, layout: COLOR })
        .collect();
    let subpasses = [vk::SubpassDescription::default()
        .pipeline_bind_point(vk::PipelineBindPoint::GRAPHICS)
        .color_attachments(&colors)];
    let dependencies = pass_dependencies();
    let mut info = vk::RenderPassCreateInfo::default()
        .attachments(&attachments)
        .subpasses(&subpasses)
        .dependencies(&dependencies);
    if let Some(next) = next {
        info = info.push_next(next);
    }
    Ok(gpu.own(unsafe { gpu.device.create_render_pass(&info, None)? }))
}

fn begin<'a>(
    pass: vk::RenderPass,
    framebuffer: vk::Framebuffer,
    extent: vk::Extent2D,
    clears: &'a [vk::ClearValue],
) -> vk::RenderPassBeginInfo<'a> {
    vk::RenderPassBeginInfo::default()
        .render_pass(pass)
        .framebuffer(framebuffer)
        .render_area(vk::Rect2D { offset: vk::Offset2D::default(), extent })
        .clear_values(clears)
}

fn gray(value: f32) -> vk::ClearValue {
    vk::ClearValue { color: vk::ClearColorValue { float32: [value, value, value, 1.0] } }
}

/// Copies all levels of an image out.
fn read(gpu: &Gpu, image: &Image<'_>, texel: u64) -> Result<Vec<u8>> {
    let mut copies = Vec::new();
    let mut end = 0u64;
    for level in 0..image.desc.levels {
        let copy = image.copy(level, end);
        let texels = u64::from(copy.image_extent.width) * u64::from(copy.image_extent.height);
        end += texels * u64::from(image.desc.layers) * texel;
        copies.push(copy);
    }
    let out = gpu.buffer(end, vk::BufferUsageFlags::TRANSFER_DST)?;
    gpu.run(|device, cmd| unsafe {
        device.cmd_copy_image_to_buffer(cmd, *image.handle, SOURCE, *out.handle, &copies);
        barrier(device, cmd);
    })?;
    Ok(out.bytes())
}

/// Every level of every layer gets a pass of its own.
fn levels_and_layers(gpu: &Gpu, report: &mut Report) -> Result<()> {
    let image = gpu.image(ImageDesc { levels: 5, layers: 3, ..ImageDesc::flat(RGBA, 48, 32, USAGE) })?;
    let pass = pass(gpu, &[RGBA], None)?;
    let squares = Squares::new(gpu, Target::Pass(*pass), vk::Format::UNDEFINED, vk::SampleCountFlags::TYPE_1)?;
    let mut targets = Vec::new();
    for level in 0..5 {
        for layer in 0..3 {
            let range = vk::ImageSubresourceRange {
                base_mip_level: level,
                level_count: 1,
                base_array_layer: layer,
                layer_count: 1,
                ..image.range
            };
            let view = gpu.view(*image.handle, RGBA, vk::ImageViewType::TYPE_2D, range)?;
            let extent = vk::Extent2D { width: (48 >> level).max(1), height: (32 >> level).max(1) };
            let views = [*view];
            let info = vk::FramebufferCreateInfo::default()
                .render_pass(*pass)
                .attachments(&views)
                .width(extent.width)
                .height(extent.height)
                .layers(1);
            let framebuffer = gpu.own(unsafe { gpu.device.create_framebuffer(&info, None)? });
            targets.push((framebuffer, view, extent, level, layer));
        }
    }
    gpu.run(|device, cmd| unsafe {
        for (framebuffer, _, extent, level, layer) in &targets {
            let clears = [gray(*level as f32 / 8.0)];
            let begin = begin(*pass, **framebuffer, *extent, &clears);
            device.cmd_begin_render_pass(cmd, &begin, vk::SubpassContents::INLINE);
            set_viewport(device, cmd, *extent);
            squares.bind(device, cmd);
            let left = *layer as f32 / 4.0 - 1.0;
            let color = [1.0, *layer as f32 / 2.0, *level as f32 / 4.0, 1.0];
            squares.put(device, cmd, Square { rect: [left, -0.5, left + 1.0, 0.5], color, depth: 0.0 });
            device.cmd_end_render_pass(cmd);
        }
    })?;
    report.part("levels and layers", read(gpu, &image, 4)?);
    Ok(())
}

fn imageless(gpu: &Gpu, report: &mut Report) -> Result<()> {
    let shown = gpu.features12.imageless_framebuffer == vk::TRUE;
    if !report.needs("imageless framebuffer", shown, "imagelessFramebuffer is not shown") {
        return Ok(());
    }
    let images =
        [gpu.image(ImageDesc::flat(RGBA, 40, 40, USAGE))?, gpu.image(ImageDesc::flat(RGBA, 40, 40, USAGE))?];
    let pass = pass(gpu, &[RGBA], None)?;
    let squares = Squares::new(gpu, Target::Pass(*pass), vk::Format::UNDEFINED, vk::SampleCountFlags::TYPE_1)?;
    let formats = [RGBA];
    let attachments = [vk::FramebufferAttachmentImageInfo::default()
        .usage(USAGE)
        .width(40)
        .height(40)
        .layer_count(1)
        .view_formats(&formats)];
    let mut attachments =
        vk::FramebufferAttachmentsCreateInfo::default().attachment_image_infos(&attachments);
    let mut info = vk::FramebufferCreateInfo::default()
        .flags(vk::FramebufferCreateFlags::IMAGELESS)
        .render_pass(*pass)
        .width(40)
        .height(40)
        .layers(1)
        .push_next(&mut attachments);
    info.attachment_count = 1;
    let framebuffer = gpu.own(unsafe { gpu.device.create_framebuffer(&info, None)? });
    let extent = vk::Extent2D { width: 40, height: 40 };
    gpu.run(|device, cmd| unsafe {
        for (i, image) in images.iter().enumerate() {
            let clears = [gray(i as f32)];
            let views = [*image.view];
            let mut views = vk::RenderPassAttachmentBeginInfo::default().attachments(&views);
            let begin = begin(*pass, *framebuffer, extent, &clears).push_next(&mut views);
            device.cmd_begin_render_pass(cmd, &begin, vk::SubpassContents::INLINE);
            set_viewport(device, cmd, extent);
            squares.bind(device, cmd);
            let square = Square { rect: [-0.5, -0.25, 0.5, 0.25 + i as f32 / 4.0], color: [0.0, 1.0, i as f32, 1.0], depth: 0.0 };
            squares.put(device, cmd, square);
            device.cmd_end_render_pass(cmd);
        }
    })?;
    let mut all = read(gpu, &images[0], 4)?;
    all.extend(read(gpu, &images[1], 4)?);
    report.part("imageless framebuffer", all);
    Ok(())
}

/// A float, an integer and a packed attachment in one pass; parts of them cleared inside it.
fn several(gpu: &Gpu, report: &mut Report) -> Result<()> {
    let wgsl = "
        struct Outputs {
            @location(0) float: vec4<f32>,
            @location(1) integer: vec4<u32>,
            @location(2) packed: vec4<f32>,
        }
        @vertex
        fn vs_main(@builtin(vertex_index) vertex: u32) -> @builtin(position) vec4<f32> {
            return vec4<f32>(f32(vertex & 1u) * 3.0 - 1.0, f32(vertex >> 1u) * 3.0 - 1.0, 0.0, 1.0);
        }
        @fragment
        fn fs_main(@builtin(position) at: vec4<f32>) -> Outputs {
            let xy = vec2<u32>(at.xy);
            var out: Outputs;
            out.float = vec4<f32>(at.xy, at.x * at.y, 1.0);
            out.integer = vec4<u32>(xy, xy.x ^ xy.y, 0xffffffffu - xy.x);
            out.packed = vec4<f32>(at.xy / 32.0, 0.5, 1.0);
            return out;
        }";
    let formats = [
        (vk::Format::R32G32B32A32_SFLOAT, 16),
        (vk::Format::R32G32B32A32_UINT, 16),
        (vk::Format::A2B10G10R10_UNORM_PACK32, 4),
    ];
    let names = formats.map(|(format, _)| format);
    let images = names
        .iter()
        .map(|&format| gpu.image(ImageDesc::flat(format, 32, 32, USAGE)))
        .collect::<Result<Vec<_>>>()?;
    let pass = pass(gpu, &names, None)?;
    let views: Vec<_> = images.iter().map(|image| *image.view).collect();
    let info = vk::FramebufferCreateInfo::default()
        .render_pass(*pass)
        .attachments(&views)
        .width(32)
        .height(32)
        .layers(1);
    let framebuffer = gpu.own(unsafe { gpu.device.create_framebuffer(&info, None)? });
    let layout = gpu.pipeline_layout(&[], 0, vk::ShaderStageFlags::empty())?;
    let words = shader::compile(wgsl)?;
    let pipeline = PipelineDesc {
        colors: &names,
        ..PipelineDesc::plain(&words, *layout, Target::Pass(*pass))
    }
    .build(gpu)?;
    let integers =
        vk::ClearValue { color: vk::ClearColorValue { uint32: [9, 0x8000_0000, u32::MAX, 1] } };
    gpu.run(|device, cmd| unsafe {
        let extent = vk::Extent2D { width: 32, height: 32 };
        let clears = [gray(-2.0), integers, gray(1.0)];
        let begin = begin(*pass, *framebuffer, extent, &clears);
        device.cmd_begin_render_pass(cmd, &begin, vk::SubpassContents::INLINE);
        set_viewport(device, cmd, extent);
        let half = vk::Rect2D {
            offset: vk::Offset2D { x: 3, y: 5 },
            extent: vk::Extent2D { width: 17, height: 20 },
        };
        device.cmd_set_scissor(cmd, 0, &[half]);
        device.cmd_bind_pipeline(cmd, vk::PipelineBindPoint::GRAPHICS, *pipeline);
        device.cmd_draw(cmd, 3, 1, 0, 0);
        let color = |color_attachment, clear_value| vk::ClearAttachment {
            aspect_mask: vk::ImageAspectFlags::COLOR,
            color_attachment,
            clear_value,
        };
        let rect = |x, y, width, height| vk::ClearRect {
            rect: vk::Rect2D {
                offset: vk::Offset2D { x, y },
                extent: vk::Extent2D { width, height },
            },
            base_array_layer: 0,
            layer_count: 1,
        };
        let signed = vk::ClearValue { color: vk::ClearColorValue { uint32: [7, 6, 5, 4] } };
        let rects = [rect(0, 0, 7, 7), rect(20, 20, 12, 1)];
        device.cmd_clear_attachments(cmd, &[color(1, signed), color(0, gray(0.25))], &rects);
        device.cmd_end_render_pass(cmd);
    })?;
    for (image, (format, texel)) in images.iter().zip(formats) {
        report.part(&format!("several, {format:?}"), read(gpu, image, texel)?);
    }
    Ok(())
}

fn multiview(gpu: &Gpu, report: &mut Report) -> Result<()> {
    if !report.needs("multiview", gpu.features11.multiview == vk::TRUE, "multiview is not shown") {
        return Ok(());
    }
    let wgsl = "
        @vertex
        fn vs_main(@builtin(vertex_index) vertex: u32, @builtin(view_index) view: u32) -> @builtin(position) vec4<f32> {
            let corner = vec2<f32>(f32(vertex & 1u), f32(vertex >> 1u));
            return vec4<f32>(corner - f32(view) * 0.25, 0.0, 1.0);
        }
        @fragment
        fn fs_main(@builtin(view_index) view: u32) -> @location(0) vec4<f32> {
            return vec4<f32>(f32(view) / 3.0, 1.0, 0.0, 1.0);
        }";
    let image = gpu.image(ImageDesc { layers: 4, ..ImageDesc::flat(RGBA, 32, 32, USAGE) })?;
    // Views 0, 1 and 3: layer 2 is left alone, so it is not part of the result.
    let (masks, together) = ([0b1011], [0b1011]);
    let mut views = vk::RenderPassMultiviewCreateInfo::default()
        .view_masks(&masks)
        .correlation_masks(&together);
    let pass = pass(gpu, &[RGBA], Some(&mut views))?;
    let attachments = [*image.view];
    let info = vk::FramebufferCreateInfo::default()
        .render_pass(*pass)
        .attachments(&attachments)
        .width(32)
        .height(32)
        .layers(1);
    let framebuffer = gpu.own(unsafe { gpu.device.create_framebuffer(&info, None)? });
    let layout = gpu.pipeline_layout(&[], 0, vk::ShaderStageFlags::empty())?;
    let words = shader::compile(wgsl)?;
    let pipeline = PipelineDesc {
        topology: vk::PrimitiveTopology::TRIANGLE_STRIP,
        ..PipelineDesc::plain(&words, *layout, Target::Pass(*pass))
    }
    .build(gpu)?;
    gpu.run(|device, cmd| unsafe {
        let extent = vk::Extent2D { width: 32, height: 32 };
        let clears = [gray(0.5)];
        let begin = begin(*pass, *framebuffer, extent, &clears);
        device.cmd_begin_render_pass(cmd, &begin, vk::SubpassContents::INLINE);
        set_viewport(device, cmd, extent);
        device.cmd_bind_pipeline(cmd, vk::PipelineBindPoint::GRAPHICS, *pipeline);
        device.cmd_draw(cmd, 4, 1, 0, 0);
        device.cmd_end_render_pass(cmd);
    })?;
    let mut pixels = read(gpu, &image, 4)?;
    pixels.drain(2 * 4096..3 * 4096);
    report.part("multiview", pixels);
    Ok(())
}
