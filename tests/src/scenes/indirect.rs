//! Draws whose numbers come from buffers, some of them written by the device itself, or from arrays.

use anyhow::{Result, ensure};
use ash::vk;

use crate::draw::{Canvas, PipelineDesc, Target};
use crate::gpu::{Gpu, Own};
use crate::report::Report;
use crate::scenes::Options;
use crate::shader;

/// Vertex numbers pick the corner of a tile and its colour; instance numbers pick the tile.
const TILES: &str = "
    struct Varying {
        @builtin(position) position: vec4<f32>,
        @location(0) @interpolate(flat) color: vec4<f32>,
    }
    @vertex
    fn vs_main(@builtin(vertex_index) vertex: u32, @builtin(instance_index) instance: u32) -> Varying {
        let tile = vec2<f32>(f32(instance % 8u), f32(instance / 8u % 8u));
        let corner = vec2<f32>(f32(vertex & 1u), f32((vertex >> 1u) & 1u));
        let color = vertex / 4u;
        var out: Varying;
        out.position = vec4<f32>((tile + corner) / 4.0 - 1.0, 0.5, 1.0);
        out.color = vec4<f32>(f32(color & 1u), f32((color >> 1u) & 1u), f32((color >> 2u) & 1u), 1.0);
        return out;
    }
    @fragment
    fn fs_main(in: Varying) -> @location(0) vec4<f32> { return in.color; }";

pub(super) fn run(gpu: &Gpu, _options: &Options, report: &mut Report) -> Result<()> {
    let canvas = Canvas::new(gpu, 64, 64)?;
    let words = shader::compile(TILES)?;
    let layout = gpu.pipeline_layout(&[], 0, vk::ShaderStageFlags::VERTEX)?;
    let pipeline = PipelineDesc {
        topology: vk::PrimitiveTopology::TRIANGLE_STRIP,
        depth_format: canvas.depth.desc.format,
        ..PipelineDesc::plain(&words, *layout, Target::Pass(*canvas.pass))
    }
    .build(gpu)?;
    let scene = Scene { gpu, canvas, pipeline, _layout: layout };
    single(&scene, report)?;
    multi(&scene, report)?;
    count(&scene, report)?;
    written(&scene, report)?;
    arrays(&scene, report)
}

struct Scene<'g> {
    gpu: &'g Gpu,
    canvas: Canvas<'g>,
    pipeline: Own<'g, vk::Pipeline>,
    _layout: Own<'g, vk::PipelineLayout>,
}

impl Scene<'_> {
    fn draw(&self, commands: impl FnOnce(&ash::Device, vk::CommandBuffer)) -> Result<Vec<u8>> {
        self.gpu.run(|device, cmd| {
            self.canvas.draw(device, cmd, vk::SubpassContents::INLINE, || unsafe {
                device.cmd_bind_pipeline(cmd, vk::PipelineBindPoint::GRAPHICS, *self.pipeline);
                commands(device, cmd);
            });
        })?;
        Ok(self.canvas.pixels.bytes())
    }

    /// The first instance may only be other than zero where the device shows so.
    fn first_instance(&self) -> bool {
        self.gpu.features.draw_indirect_first_instance == vk::TRUE
    }
}

const USAGE: vk::BufferUsageFlags = vk::BufferUsageFlags::INDIRECT_BUFFER;

fn single(scene: &Scene<'_>, report: &mut Report) -> Result<()> {
    let gpu = scene.gpu;
    // Words before and after are not draws.
    let args = gpu.buffer_with(&[9u32, 9, 9, 4, 3, 4, 0, 9], USAGE)?;
    let indexed = gpu.buffer_with(&[4u32, 7, 2, 4, 0], USAGE)?;
    let indices: [u16; 8] = [9, 9, 0, 1, 2, 3, 9, 9];
    let indices = gpu.buffer_with(&indices, vk::BufferUsageFlags::INDEX_BUFFER)?;
    let plain = scene.draw(|device, cmd| unsafe {
        device.cmd_draw_indirect(cmd, *args.handle, 12, 1, 0);
    })?;
    let direct = scene.draw(|device, cmd| unsafe { device.cmd_draw(cmd, 4, 3, 4, 0) })?;
    ensure!(plain == direct, "an indirect draw differs from the direct one");
    report.part("draw", plain);
    let plain = scene.draw(|device, cmd| unsafe {
        device.cmd_bind_index_buffer(cmd, *indices.handle, 0, vk::IndexType::UINT16);
        device.cmd_draw_indexed_indirect(cmd, *indexed.handle, 0, 1, 20);
    })?;
    let direct = scene.draw(|device, cmd| unsafe {
        device.cmd_bind_index_buffer(cmd, *indices.handle, 0, vk::IndexType::UINT16);
        device.cmd_draw_indexed(cmd, 4, 7, 2, 4, 0);
    })?;
    ensure!(plain == direct, "an indirect indexed draw differs from the direct one");
    report.part("draw indexed", plain);
    Ok(())
}

/// Every eighth tile in another colour: (vertices, instances, first vertex, first instance), and a word of padding.
fn tiles(count: u32) -> Vec<u32> {
    (0..count).flat_map(|i| [4, 1 + i % 3, 4 * (i % 8), (i * 5) % 64, 0xdead]).collect()
}

fn multi(scene: &Scene<'_>, report: &mut Report) -> Result<()> {
    let gpu = scene.gpu;
    let shown = gpu.features.multi_draw_indirect == vk::TRUE && scene.first_instance();
    let why = "multiDrawIndirect or drawIndirectFirstInstance is not shown";
    if !report.needs("multi draw", shown, why) {
        return Ok(());
    }
    let args = gpu.buffer_with(&tiles(20), USAGE)?;
    let many = scene.draw(|device, cmd| unsafe {
        device.cmd_draw_indirect(cmd, *args.handle, 0, 20, 20);
        device.cmd_draw_indirect(cmd, *args.handle, 0, 0, 20);
    })?;
    let direct = scene.draw(|device, cmd| {
        for draw in tiles(20).chunks(5) {
            unsafe { device.cmd_draw(cmd, draw[0], draw[1], draw[2], draw[3]) }
        }
    })?;
    ensure!(many == direct, "many indirect draws differ from as many direct ones");
    report.part("multi draw", many);
    Ok(())
}

fn count(scene: &Scene<'_>, report: &mut Report) -> Result<()> {
    let gpu = scene.gpu;
    let shown = gpu.features12.draw_indirect_count == vk::TRUE && scene.first_instance();
    if !report.needs("count", shown, "drawIndirectCount is not shown") {
        return Ok(());
    }
    let args = gpu.buffer_with(&tiles(20), USAGE)?;
    let counts = gpu.buffer_with(&[7u32, 13, 900], USAGE)?;
    let mut all = Vec::new();
    for offset in [0, 4, 8] {
        // The last count is more than the twenty that are allowed.
        let drawn = scene.draw(|device, cmd| unsafe {
            device.cmd_draw_indirect_count(cmd, *args.handle, 0, *counts.handle, offset, 20, 20);
        })?;
        all.extend(drawn);
    }
    report.part("count", all);
    Ok(())
}

/// A dispatch writes the draws.
fn written(scene: &Scene<'_>, report: &mut Report) -> Result<()> {
    let gpu = scene.gpu;
    let wgsl = "
        @group(0) @binding(0) var<storage, read_write> draw: array<vec4<u32>>;
        @compute @workgroup_size(8)
        fn main(@builtin(local_invocation_index) i: u32) {
            draw[i] = vec4<u32>(4u, i * 8u, i * 4u, 0u);
        }";
    let args = gpu.buffer(128, USAGE | vk::BufferUsageFlags::STORAGE_BUFFER)?;
    let kernel = gpu.kernel(wgsl, &[&args], 0)?;
    gpu.run(|device, cmd| {
        kernel.dispatch(device, cmd, &[], 1);
        scene.canvas.draw(device, cmd, vk::SubpassContents::INLINE, || unsafe {
            device.cmd_bind_pipeline(cmd, vk::PipelineBindPoint::GRAPHICS, *scene.pipeline);
            for i in (0..8).rev() {
                device.cmd_draw_indirect(cmd, *args.handle, i * 16, 1, 0);
            }
        });
    })?;
    report.part("written by the device", scene.canvas.pixels.bytes());
    Ok(())
}

/// Many draws in one call, whose numbers the program keeps between others of its own.
fn arrays(scene: &Scene<'_>, report: &mut Report) -> Result<()> {
    let gpu = scene.gpu;
    let name = ash::ext::multi_draw::NAME.to_string_lossy();
    let shown = gpu.extensions.contains(&*name);
    let why = "VK_EXT_multi_draw is not shown";
    let indexed = report.needs("indexed draws of an array", shown, why);
    if !report.needs("draws of an array", shown, why) || !indexed {
        return Ok(());
    }
    let functions = ash::ext::multi_draw::Device::new(&gpu.instance, &gpu.device);
    // First vertex, vertices, and two words of something else, which would be many vertices.
    let draws: Vec<[u32; 4]> = (0..6).map(|i| [4 * i, 4, 1 << 20, 1 << 20]).collect();
    let many = scene.draw(|_, cmd| unsafe {
        let call = functions.fp().cmd_draw_multi_ext;
        call(cmd, 6, draws.as_ptr().cast(), 3, 9, 16);
        call(cmd, 0, draws.as_ptr().cast(), 3, 9, 0);
    })?;
    let direct = scene.draw(|device, cmd| {
        for draw in &draws {
            unsafe { device.cmd_draw(cmd, draw[1], 3, draw[0], 9) }
        }
    })?;
    ensure!(many == direct, "draws of an array differ from as many direct ones");
    report.part("draws of an array", many);

    let indices: Vec<u16> = (0..24).collect();
    let indices = gpu.buffer_with(&indices, vk::BufferUsageFlags::INDEX_BUFFER)?;
    // First index, indices, what is added to each, and one word of something else.
    let draws: Vec<[u32; 4]> = (0..5).map(|i| [4 * i, 4, 4, 1 << 20]).collect();
    let many = scene.draw(|device, cmd| unsafe {
        device.cmd_bind_index_buffer(cmd, *indices.handle, 0, vk::IndexType::UINT16);
        let call = functions.fp().cmd_draw_multi_indexed_ext;
        call(cmd, 5, draws.as_ptr().cast(), 2, 20, 16, std::ptr::null());
        let (first, offset) = (draws[..1].as_ptr().cast(), 8);
        call(cmd, 1, first, 2, 30, 0, &raw const offset);
    })?;
    let direct = scene.draw(|device, cmd| unsafe {
        device.cmd_bind_index_buffer(cmd, *indices.handle, 0, vk::IndexType::UINT16);
        for draw in &draws {
            device.cmd_draw_indexed(cmd, draw[1], 2, draw[0], 4, 20);
        }
        device.cmd_draw_indexed(cmd, 4, 2, 0, 8, 30);
    })?;
    ensure!(many == direct, "indexed draws of an array differ from as many direct ones");
    report.part("indexed draws of an array", many);
    Ok(())
}
