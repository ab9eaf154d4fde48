//! Multisampling: resolved at the end of a pass of the second kind, and by a command.

use anyhow::Result;
use ash::vk;

use crate::draw::{PipelineDesc, Target, set_viewport};
use crate::gpu::{Gpu, ImageDesc, barrier};
use crate::report::Report;
use crate::scenes::Options;
use crate::shader;

const RGBA: vk::Format = vk::Format::R8G8B8A8_UNORM;
const SIDE: u32 = 96;

/// A fan of thin triangles: all edges.
const FAN: &str = "
    struct Varying {
        @builtin(position) position: vec4<f32>,
        @location(0) color: vec3<f32>,
    }
    @vertex
    fn vs_main(@builtin(vertex_index) vertex: u32) -> Varying {
        let corner = vertex % 3u;
        let angle = f32(vertex / 3u) * 0.26179938 + f32(corner) * 0.09;
        let radius = select(0.95, 0.0, corner == 0u);
        var out: Varying;
        out.position = vec4<f32>(cos(angle) * radius, sin(angle) * radius, 0.0, 1.0);
        out.color = vec3<f32>(f32(corner == 1u), f32(corner == 2u), 1.0 - radius);
        return out;
    }
    @fragment
    fn fs_main(in: Varying) -> @location(0) vec4<f32> { return vec4<f32>(in.color, 1.0); }";

pub(super) fn run(gpu: &Gpu, _options: &Options, report: &mut Report) -> Result<()> {
    let counts = gpu.properties.limits.framebuffer_color_sample_counts;
    for (samples, in_pass, by_command) in [
        (vk::SampleCountFlags::TYPE_4, "four samples in a pass", "four samples by a command"),
        (vk::SampleCountFlags::TYPE_8, "eight samples in a pass", "eight samples by a command"),
    ] {
        let shown = counts.contains(samples);
        let why = "the sample count is not shown";
        if shown {
            let (pass, command) = resolve(gpu, samples)?;
            report.part(in_pass, pass);
            report.part(by_command, command);
        } else {
            report.gate(in_pass, why);
            report.gate(by_command, why);
        }
    }
    Ok(())
}

fn resolve(gpu: &Gpu, samples: vk::SampleCountFlags) -> Result<(Vec<u8>, Vec<u8>)> {
    let flat = |samples, usage| {
        gpu.image(ImageDesc { samples, ..ImageDesc::flat(RGBA, SIDE, SIDE, usage) })
    };
    let attachment = vk::ImageUsageFlags::COLOR_ATTACHMENT;
    let source_usage = vk::ImageUsageFlags::TRANSFER_SRC;
    let one = vk::SampleCountFlags::TYPE_1;
    let many = flat(samples, attachment | source_usage)?;
    let by_pass = flat(one, attachment | source_usage)?;
    let by_command = flat(one, source_usage | vk::ImageUsageFlags::TRANSFER_DST)?;

    let (color, source, sink) = (
        vk::ImageLayout::COLOR_ATTACHMENT_OPTIMAL,
        vk::ImageLayout::TRANSFER_SRC_OPTIMAL,
        vk::ImageLayout::TRANSFER_DST_OPTIMAL,
    );
    let describe = |samples, load| {
        vk::AttachmentDescription2::default()
            .format(RGBA)
            .samples(samples)
            .load_op(load)
            .store_op(vk::AttachmentStoreOp::STORE)
            .final_layout(source)
    };
    let attachments = [
        describe(samples, vk::AttachmentLoadOp::CLEAR),
        describe(one, vk::AttachmentLoadOp::DONT_CARE),
    ];
    let refer = |attachment| {
        [vk::AttachmentReference2::default()
            .attachment(attachment)
            .layout(color)
            .aspect_mask(vk::ImageAspectFlags::COLOR)]
    };
    let (colors, resolves) = (refer(0), refer(1));
    let subpasses = [vk::SubpassDescription2::default()
        .pipeline_bind_point(vk::PipelineBindPoint::GRAPHICS)
        .color_attachments(&colors)
        .resolve_attachments(&resolves)];
    let dependencies = [vk::SubpassDependency2::default()
        .src_subpass(0)
        .dst_subpass(vk::SUBPASS_EXTERNAL)
        .src_stage_mask(vk::PipelineStageFlags::COLOR_ATTACHMENT_OUTPUT)
        .dst_stage_mask(vk::PipelineStageFlags::TRANSFER)
        .src_access_mask(vk::AccessFlags::COLOR_ATTACHMENT_WRITE)
        .dst_access_mask(vk::AccessFlags::TRANSFER_READ)];
    let info = vk::RenderPassCreateInfo2::default()
        .attachments(&attachments)
        .subpasses(&subpasses)
        .dependencies(&dependencies);
    let pass = gpu.own(unsafe { gpu.device.create_render_pass2(&info, None)? });
    let views = [*many.view, *by_pass.view];
    let info = vk::FramebufferCreateInfo::default()
        .render_pass(*pass)
        .attachments(&views)
        .width(SIDE)
        .height(SIDE)
        .layers(1);
    let framebuffer = gpu.own(unsafe { gpu.device.create_framebuffer(&info, None)? });
    let layout = gpu.pipeline_layout(&[], 0, vk::ShaderStageFlags::empty())?;
    let words = shader::compile(FAN)?;
    let pipeline = PipelineDesc {
        samples,
        ..PipelineDesc::plain(&words, *layout, Target::Pass(*pass))
    }
    .build(gpu)?;
    let size = u64::from(SIDE * SIDE * 4);
    let outs = [
        gpu.buffer(size, vk::BufferUsageFlags::TRANSFER_DST)?,
        gpu.buffer(size, vk::BufferUsageFlags::TRANSFER_DST)?,
    ];
    gpu.run(|device, cmd| unsafe {
        let extent = vk::Extent2D { width: SIDE, height: SIDE };
        let clear = vk::ClearColorValue { float32: [0.1, 0.1, 0.1, 1.0] };
        let clears = [vk::ClearValue { color: clear }];
        let begin = vk::RenderPassBeginInfo::default()
            .render_pass(*pass)
            .framebuffer(*framebuffer)
            .render_area(vk::Rect2D { offset: vk::Offset2D::default(), extent })
            .clear_values(&clears);
        let inline = vk::SubpassBeginInfo::default().contents(vk::SubpassContents::INLINE);
        device.cmd_begin_render_pass2(cmd, &begin, &inline);
        set_viewport(device, cmd, extent);
        device.cmd_bind_pipeline(cmd, vk::PipelineBindPoint::GRAPHICS, *pipeline);
        device.cmd_draw(cmd, 72, 1, 0, 0);
        device.cmd_end_render_pass2(cmd, &vk::SubpassEndInfo::default());

        by_command.to(device, cmd, vk::ImageLayout::UNDEFINED, sink);
        let region = vk::ImageResolve::default()
            .src_subresource(many.level(0))
            .dst_subresource(by_command.level(0))
            .extent(many.desc.extent);
        device.cmd_resolve_image(cmd, *many.handle, source, *by_command.handle, sink, &[region]);
        by_command.to(device, cmd, sink, source);
        for (image, out) in [&by_pass, &by_command].into_iter().zip(&outs) {
            let copy = [image.copy(0, 0)];
            device.cmd_copy_image_to_buffer(cmd, *image.handle, source, *out.handle, &copy);
        }
        barrier(device, cmd);
    })?;
    Ok((outs[0].bytes(), outs[1].bytes()))
}
