//! Secondary command buffers: in a render pass, in dynamic rendering, for compute, used again and again.

use anyhow::{Result, ensure};
use ash::vk;

use crate::draw::{Canvas, Square, Squares, Target, set_viewport};
use crate::gpu::{Gpu, barrier};
use crate::report::Report;
use crate::scenes::fences::{STEP, steps};
use crate::scenes::Options;

pub(super) fn run(gpu: &Gpu, _options: &Options, report: &mut Report) -> Result<()> {
    compute(gpu, report)?;
    render_pass(gpu, report)?;
    dynamic(gpu, report)
}

fn compute(gpu: &Gpu, report: &mut Report) -> Result<()> {
    let x = gpu.buffer_with(&[0u32; 256], vk::BufferUsageFlags::STORAGE_BUFFER)?;
    let kernel = gpu.kernel(STEP, &[&x], 4)?;
    let pool = gpu.command_pool()?;
    let cmds = gpu.command_buffers(*pool, vk::CommandBufferLevel::SECONDARY, 3)?;
    let inheritance = vk::CommandBufferInheritanceInfo::default();
    for (i, &cmd) in (0u32..).zip(&cmds) {
        let info = vk::CommandBufferBeginInfo::default()
            .flags(vk::CommandBufferUsageFlags::SIMULTANEOUS_USE)
            .inheritance_info(&inheritance);
        unsafe {
            gpu.device.begin_command_buffer(cmd, &info)?;
            kernel.dispatch(&gpu.device, cmd, &[10 + i], 4);
            gpu.device.end_command_buffer(cmd)?;
        }
    }
    for _ in 0..2 {
        gpu.run(|device, cmd| unsafe {
            device.cmd_execute_commands(cmd, &[cmds[0], cmds[1]]);
            device.cmd_execute_commands(cmd, &[cmds[2]]);
            device.cmd_execute_commands(cmd, &[cmds[0]]);
        })?;
    }
    let order = [10, 11, 12, 10, 10, 11, 12, 10];
    ensure!(x.words() == steps(order, 256), "the secondaries ran in another order");
    report.part("compute", x.bytes());
    Ok(())
}

fn tile(i: u32) -> Square {
    let x = (i % 4) as f32 * 0.5 - 1.0;
    let y = (i / 4) as f32 * 0.5 - 1.0;
    let color = [i as f32 / 15.0, (i % 4) as f32 / 3.0, 0.25, 1.0];
    Square { rect: [x, y, x + 0.4375, y + 0.46875], color, depth: 0.5 }
}

fn render_pass(gpu: &Gpu, report: &mut Report) -> Result<()> {
    let canvas = Canvas::new(gpu, 64, 64)?;
    let squares = Squares::on(gpu, &canvas)?;
    let pool = gpu.command_pool()?;
    let cmds = gpu.command_buffers(*pool, vk::CommandBufferLevel::SECONDARY, 4)?;
    // One of them knows the framebuffer, the others do not.
    for (row, &cmd) in (0u32..).zip(&cmds) {
        let framebuffer = if row == 0 { *canvas.framebuffer } else { vk::Framebuffer::null() };
        let inheritance = vk::CommandBufferInheritanceInfo::default()
            .render_pass(*canvas.pass)
            .framebuffer(framebuffer);
        let info = vk::CommandBufferBeginInfo::default()
            .flags(
                vk::CommandBufferUsageFlags::RENDER_PASS_CONTINUE
                    | vk::CommandBufferUsageFlags::ONE_TIME_SUBMIT,
            )
            .inheritance_info(&inheritance);
        unsafe {
            gpu.device.begin_command_buffer(cmd, &info)?;
            set_viewport(&gpu.device, cmd, canvas.extent);
            squares.bind(&gpu.device, cmd);
            for i in 0..4 {
                squares.put(&gpu.device, cmd, tile(row * 4 + i));
            }
            gpu.device.end_command_buffer(cmd)?;
        }
    }
    gpu.run(|device, cmd| {
        let contents = vk::SubpassContents::SECONDARY_COMMAND_BUFFERS;
        canvas.draw(device, cmd, contents, || unsafe { device.cmd_execute_commands(cmd, &cmds) });
    })?;
    report.part("render pass", canvas.pixels.bytes());
    Ok(())
}

fn dynamic(gpu: &Gpu, report: &mut Report) -> Result<()> {
    let shown = gpu.has_13() && gpu.features13.dynamic_rendering == vk::TRUE;
    if !report.needs("dynamic rendering", shown, "dynamicRendering is not shown") {
        return Ok(());
    }
    let canvas = Canvas::new(gpu, 64, 64)?;
    let none = vk::Format::UNDEFINED;
    let squares = Squares::new(gpu, Target::Dynamic, none, vk::SampleCountFlags::TYPE_1)?;
    let pool = gpu.command_pool()?;
    let cmds = gpu.command_buffers(*pool, vk::CommandBufferLevel::SECONDARY, 2)?;
    let formats = [canvas.color.desc.format];
    for (half, &cmd) in (0u32..).zip(&cmds) {
        let mut rendering = vk::CommandBufferInheritanceRenderingInfo::default()
            .color_attachment_formats(&formats)
            .rasterization_samples(vk::SampleCountFlags::TYPE_1);
        let inheritance = vk::CommandBufferInheritanceInfo::default().push_next(&mut rendering);
        let info = vk::CommandBufferBeginInfo::default()
            .flags(vk::CommandBufferUsageFlags::RENDER_PASS_CONTINUE)
            .inheritance_info(&inheritance);
        unsafe {
            gpu.device.begin_command_buffer(cmd, &info)?;
            set_viewport(&gpu.device, cmd, canvas.extent);
            squares.bind(&gpu.device, cmd);
            for i in 0..8 {
                squares.put(&gpu.device, cmd, tile(half * 8 + i));
            }
            gpu.device.end_command_buffer(cmd)?;
        }
    }
    gpu.run(|device, cmd| unsafe {
        let layout = vk::ImageLayout::COLOR_ATTACHMENT_OPTIMAL;
        canvas.color.to(device, cmd, vk::ImageLayout::UNDEFINED, layout);
        let clear = vk::ClearColorValue { float32: Canvas::CLEAR };
        let colors = [vk::RenderingAttachmentInfo::default()
            .image_view(*canvas.color.view)
            .image_layout(layout)
            .load_op(vk::AttachmentLoadOp::CLEAR)
            .store_op(vk::AttachmentStoreOp::STORE)
            .clear_value(vk::ClearValue { color: clear })];
        let info = vk::RenderingInfo::default()
            .flags(vk::RenderingFlags::CONTENTS_SECONDARY_COMMAND_BUFFERS)
            .render_area(vk::Rect2D { offset: vk::Offset2D::default(), extent: canvas.extent })
            .layer_count(1)
            .color_attachments(&colors);
        device.cmd_begin_rendering(cmd, &info);
        device.cmd_execute_commands(cmd, &cmds);
        device.cmd_end_rendering(cmd);
        let source = vk::ImageLayout::TRANSFER_SRC_OPTIMAL;
        canvas.color.to(device, cmd, layout, source);
        let copy = [canvas.color.copy(0, 0)];
        let (image, buffer) = (*canvas.color.handle, *canvas.pixels.handle);
        device.cmd_copy_image_to_buffer(cmd, image, source, buffer, &copy);
        barrier(device, cmd);
    })?;
    report.part("dynamic rendering", canvas.pixels.bytes());
    Ok(())
}
