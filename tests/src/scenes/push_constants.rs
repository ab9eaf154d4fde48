//! Push constants in parts, for one stage and for several.

use anyhow::{Result, ensure};
use ash::vk;

use crate::draw::{Canvas, PipelineDesc, Target};
use crate::gpu::{Gpu, barrier};
use crate::report::Report;
use crate::scenes::Options;
use crate::shader;

pub(super) fn run(gpu: &Gpu, _options: &Options, report: &mut Report) -> Result<()> {
    parts(gpu, report)?;
    stages(gpu, report)
}

/// All 128 bytes that every device has, updated piece by piece between dispatches.
fn parts(gpu: &Gpu, report: &mut Report) -> Result<()> {
    let wgsl = "
        struct Push { row: u32, a: u32, b: vec2<u32>, c: array<vec4<u32>, 7> }
        var<immediate> push: Push;
        @group(0) @binding(0) var<storage, read_write> out: array<u32>;
        @compute @workgroup_size(1)
        fn main() {
            let at = push.row * 32u;
            out[at] = push.row;
            out[at + 1u] = push.a;
            out[at + 2u] = push.b.x;
            out[at + 3u] = push.b.y;
            for (var i = 0u; i < 7u; i++) {
                for (var k = 0u; k < 4u; k++) { out[at + 4u + i * 4u + k] = push.c[i][k]; }
            }
        }";
    const ROWS: u32 = 16;
    let out = gpu.buffer_with(&[0u32; 32 * ROWS as usize], vk::BufferUsageFlags::STORAGE_BUFFER)?;
    let kernel = gpu.kernel(wgsl, &[&out], 128)?;
    let mut model = [0u32; 32];
    for (i, word) in (0u32..).zip(&mut model) {
        *word = i * 0x0101_0101;
    }
    let mut want = Vec::new();
    gpu.run(|device, cmd| {
        kernel.bind(device, cmd, &model);
        for row in 0..ROWS {
            // A piece somewhere, and the row's number.
            let (from, to) = (1 + row as usize, (3 + 2 * row as usize).min(32));
            model[0] = row;
            for (i, word) in (0u32..).zip(&mut model[from..to]) {
                *word = row << 24 | i;
            }
            let push = |from: usize, to: usize| unsafe {
                let bytes = bytemuck::cast_slice(&model[from..to]);
                let stage = vk::ShaderStageFlags::COMPUTE;
                device.cmd_push_constants(cmd, *kernel.layout, stage, from as u32 * 4, bytes);
            };
            push(from, to);
            push(0, 1);
            unsafe { device.cmd_dispatch(cmd, 1, 1, 1) }
            want.extend(model);
        }
        barrier(device, cmd);
    })?;
    ensure!(out.words() == want, "pieces of push constants went astray");
    report.part("parts", out.bytes());
    Ok(())
}

/// Separate ranges for the two stages of a draw.
fn stages(gpu: &Gpu, report: &mut Report) -> Result<()> {
    let wgsl = "
        struct Push { at: vec4<f32>, pad: vec4<f32>, color: vec4<f32> }
        var<immediate> push: Push;
        @vertex
        fn vs_main(@builtin(vertex_index) vertex: u32) -> @builtin(position) vec4<f32> {
            let corner = vec2<f32>(f32(vertex & 1u), f32((vertex >> 1u) & 1u));
            return vec4<f32>(push.at.xy + corner * push.at.zw, 0.0, 1.0);
        }
        @fragment
        fn fs_main() -> @location(0) vec4<f32> { return push.color; }";
    let canvas = Canvas::new(gpu, 64, 64)?;
    let (vertex, fragment) = (vk::ShaderStageFlags::VERTEX, vk::ShaderStageFlags::FRAGMENT);
    let ranges = [
        vk::PushConstantRange { stage_flags: vertex, offset: 0, size: 32 },
        vk::PushConstantRange { stage_flags: fragment, offset: 32, size: 16 },
    ];
    let info = vk::PipelineLayoutCreateInfo::default().push_constant_ranges(&ranges);
    let layout = gpu.own(unsafe { gpu.device.create_pipeline_layout(&info, None)? });
    let pipeline = PipelineDesc {
        topology: vk::PrimitiveTopology::TRIANGLE_STRIP,
        depth_format: canvas.depth.desc.format,
        // Each stage sees only its own members of the block.
        ..PipelineDesc::plain(&shader::compile(wgsl)?, *layout, Target::Pass(*canvas.pass))
    }
    .build(gpu)?;
    gpu.run(|device, cmd| {
        canvas.draw(device, cmd, vk::SubpassContents::INLINE, || unsafe {
            device.cmd_bind_pipeline(cmd, vk::PipelineBindPoint::GRAPHICS, *pipeline);
            for i in 0..64u32 {
                let at = [(i % 8) as f32 / 4.0 - 1.0, (i / 8) as f32 / 4.0 - 1.0, 0.2, 0.2];
                device.cmd_push_constants(cmd, *layout, vertex, 0, bytemuck::bytes_of(&at));
                if i % 3 == 0 {
                    // Otherwise the colour of the one before stays.
                    let color = [i as f32 / 63.0, 1.0 - i as f32 / 63.0, (i % 2) as f32, 1.0];
                    device.cmd_push_constants(cmd, *layout, fragment, 32, bytemuck::bytes_of(&color));
                }
                device.cmd_draw(cmd, 4, 1, 0, 0);
            }
        });
    })?;
    report.part("stages", canvas.pixels.bytes());
    Ok(())
}
