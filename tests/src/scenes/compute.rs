//! Integer arithmetic on the device, so that every bit of the result is known beforehand.

use anyhow::{Result, ensure};
use ash::vk;

use crate::gpu::{Gpu, barrier};
use crate::report::Report;
use crate::scenes::{Options, Random};
use crate::shader;

const STORAGE: vk::BufferUsageFlags = vk::BufferUsageFlags::STORAGE_BUFFER;

pub(super) fn run(gpu: &Gpu, _options: &Options, report: &mut Report) -> Result<()> {
    reduction(gpu, report)?;
    specialization(gpu, report)?;
    indirect(gpu, report)?;
    base(gpu, report)
}

/// Sum, exclusive or and maximum of 64 MiB.
fn reduction(gpu: &Gpu, report: &mut Report) -> Result<()> {
    const WORDS: usize = 16 << 20;
    const GROUPS: u32 = 1024;
    let wgsl = "
        struct Push { count: u32, stride: u32 }
        var<immediate> push: Push;
        @group(0) @binding(0) var<storage, read> input: array<u32>;
        @group(0) @binding(1) var<storage, read_write> partial: array<vec4<u32>>;
        var<workgroup> lanes: array<vec4<u32>, 256>;

        @compute @workgroup_size(256)
        fn main(@builtin(global_invocation_id) global: vec3<u32>,
                @builtin(local_invocation_index) lane: u32,
                @builtin(workgroup_id) group: vec3<u32>) {
            var all = vec4<u32>(0u);
            for (var i = global.x; i < push.count; i += push.stride) {
                let x = input[i];
                all = vec4<u32>(all.x + x, all.y ^ x, max(all.z, x), all.w + (x & 1u));
            }
            lanes[lane] = all;
            for (var half = 128u; half > 0u; half >>= 1u) {
                workgroupBarrier();
                if lane < half {
                    let other = lanes[lane + half];
                    let own = lanes[lane];
                    lanes[lane] = vec4<u32>(own.x + other.x, own.y ^ other.y, max(own.z, other.z), own.w + other.w);
                }
            }
            if lane == 0u { partial[group.x] = lanes[0]; }
        }";
    let mut random = Random(64);
    let input: Vec<u32> = (0..WORDS / 2)
        .flat_map(|_| {
            let wide = random.word();
            [wide as u32, (wide >> 32) as u32]
        })
        .collect();
    let source = gpu.buffer_with(&input, STORAGE)?;
    let partial = gpu.buffer(u64::from(GROUPS) * 16, STORAGE)?;
    let kernel = gpu.kernel(wgsl, &[&source, &partial], 8)?;
    gpu.run(|device, cmd| {
        kernel.dispatch(device, cmd, &[WORDS as u32, GROUPS * 256], GROUPS);
    })?;
    let fold = |all: [u32; 4], x: [u32; 4]| {
        [all[0].wrapping_add(x[0]), all[1] ^ x[1], all[2].max(x[2]), all[3].wrapping_add(x[3])]
    };
    let want = input.iter().fold([0; 4], |all, &x| fold(all, [x, x, x, x & 1]));
    let words = partial.words();
    let got = words.chunks_exact(4).fold([0; 4], |all, x| fold(all, [x[0], x[1], x[2], x[3]]));
    ensure!(got == want, "the reduction is {got:?}, not {want:?}");
    report.part("reduction", partial.bytes());
    Ok(())
}

/// One module, three pipelines that differ in their constants.
fn specialization(gpu: &Gpu, report: &mut Report) -> Result<()> {
    const COUNT: u32 = 1024;
    let wgsl = "
        @group(0) @binding(0) var<storage, read_write> out: array<u32>;
        @compute @workgroup_size(64)
        fn main(@builtin(global_invocation_id) id: vec3<u32>) {
            out[id.x] = (id.x * 0x5bec0000u + 0x5bec0001u) ^ (id.x >> ((id.y | 0x5bec0002u) & 31u));
        }";
    let words = shader::specializable(&shader::compile(wgsl)?)?;
    let module = gpu.module(&words)?;
    let kinds = [vk::DescriptorType::STORAGE_BUFFER];
    let compute = vk::ShaderStageFlags::COMPUTE;
    let set_layout = gpu.set_layout(&kinds, compute)?;
    let layout = gpu.pipeline_layout(&[*set_layout], 0, compute)?;
    let pool = gpu.pool(&kinds, 1)?;
    let set = gpu.set(*pool, *set_layout)?;
    let out = gpu.buffer(u64::from(COUNT) * 4, STORAGE)?;
    gpu.write_buffer(set, 0, kinds[0], &out);
    let mut result = Vec::new();
    // The last one leaves constant 0 at its default, and names them out of order.
    for constants in [[Some(3u32), Some(17), Some(2)], [Some(0x8000_0001), Some(0), Some(31)], [None, Some(5), Some(7)]] {
        let mut entries = Vec::new();
        let mut data: Vec<u32> = vec![0xdead_beef];
        for (id, value) in [0u32, 1, 2].into_iter().zip(constants).rev() {
            if let Some(value) = value {
                entries.push(vk::SpecializationMapEntry {
                    constant_id: id,
                    offset: data.len() as u32 * 4,
                    size: 4,
                });
                data.push(value);
            }
        }
        let special = vk::SpecializationInfo::default()
            .map_entries(&entries)
            .data(bytemuck::cast_slice(&data));
        let stage = vk::PipelineShaderStageCreateInfo::default()
            .stage(compute)
            .module(*module)
            .name(c"main")
            .specialization_info(&special);
        let info = vk::ComputePipelineCreateInfo::default().stage(stage).layout(*layout);
        let pipeline = gpu.compute_pipeline_from(vk::PipelineCache::null(), &info)?;
        gpu.run(|device, cmd| unsafe {
            let point = vk::PipelineBindPoint::COMPUTE;
            device.cmd_bind_pipeline(cmd, point, *pipeline);
            device.cmd_bind_descriptor_sets(cmd, point, *layout, 0, &[set], &[]);
            device.cmd_dispatch(cmd, COUNT / 64, 1, 1);
            barrier(device, cmd);
        })?;
        let [a, b, c] = constants;
        let (a, b, c) = (a.unwrap_or(shader::SPEC_LITERAL), b.unwrap_or(0), c.unwrap_or(0) & 31);
        let want: Vec<u32> =
            (0..COUNT).map(|x| x.wrapping_mul(a).wrapping_add(b) ^ (x >> c)).collect();
        ensure!(out.words() == want, "constants {constants:?} were not applied");
        result.extend(out.bytes());
    }
    report.part("specialization", result);
    Ok(())
}

/// The device writes the size of its own next dispatch.
fn indirect(gpu: &Gpu, report: &mut Report) -> Result<()> {
    let plan = "
        @group(0) @binding(0) var<storage, read_write> size: array<u32>;
        @compute @workgroup_size(1)
        fn main() {
            size[5] = 3u; size[6] = 5u; size[7] = 2u;
        }";
    let work = "
        @group(0) @binding(0) var<storage, read_write> count: array<atomic<u32>, 64>;
        @compute @workgroup_size(4, 2, 1)
        fn main(@builtin(workgroup_id) group: vec3<u32>,
                @builtin(num_workgroups) all: vec3<u32>,
                @builtin(local_invocation_index) lane: u32) {
            let index = group.x + all.x * (group.y + all.y * group.z);
            atomicAdd(&count[index], lane + 1u);
            atomicAdd(&count[63], 1u);
        }";
    let size = gpu.buffer_with(&[0u32; 16], STORAGE | vk::BufferUsageFlags::INDIRECT_BUFFER)?;
    let count = gpu.buffer_with(&[0u32; 64], STORAGE)?;
    let plan = gpu.kernel(plan, &[&size], 0)?;
    let work = gpu.kernel(work, &[&count], 0)?;
    gpu.run(|device, cmd| {
        plan.dispatch(device, cmd, &[], 1);
        work.bind(device, cmd, &[]);
        unsafe { device.cmd_dispatch_indirect(cmd, *size.handle, 20) }
        barrier(device, cmd);
    })?;
    let mut want = [0u32; 64];
    want[..30].fill((1..=8).sum());
    want[63] = 30 * 8;
    ensure!(count.words() == want, "the indirect dispatch had another size");
    report.part("indirect", count.bytes());
    Ok(())
}

/// A dispatch whose group numbers do not begin at zero.
fn base(gpu: &Gpu, report: &mut Report) -> Result<()> {
    let wgsl = "
        @group(0) @binding(0) var<storage, read_write> out: array<u32>;
        @compute @workgroup_size(8)
        fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
            out[group.x * 8u + lane] = group.x * 100u + group.y * 10u + lane;
        }";
    let kinds = [vk::DescriptorType::STORAGE_BUFFER];
    let compute = vk::ShaderStageFlags::COMPUTE;
    let set_layout = gpu.set_layout(&kinds, compute)?;
    let layout = gpu.pipeline_layout(&[*set_layout], 0, compute)?;
    let pool = gpu.pool(&kinds, 1)?;
    let set = gpu.set(*pool, *set_layout)?;
    let out = gpu.buffer_with(&[0u32; 128], STORAGE)?;
    gpu.write_buffer(set, 0, kinds[0], &out);
    let module = gpu.module(&shader::compile(wgsl)?)?;
    let stage = vk::PipelineShaderStageCreateInfo::default()
        .stage(compute)
        .module(*module)
        .name(c"main");
    let info = vk::ComputePipelineCreateInfo::default()
        .flags(vk::PipelineCreateFlags::DISPATCH_BASE)
        .stage(stage)
        .layout(*layout);
    let pipeline = gpu.compute_pipeline_from(vk::PipelineCache::null(), &info)?;
    gpu.run(|device, cmd| unsafe {
        let point = vk::PipelineBindPoint::COMPUTE;
        device.cmd_bind_pipeline(cmd, point, *pipeline);
        device.cmd_bind_descriptor_sets(cmd, point, *layout, 0, &[set], &[]);
        device.cmd_dispatch_base(cmd, 5, 3, 0, 4, 1, 1);
        barrier(device, cmd);
    })?;
    let mut want = [0u32; 128];
    for group in 5..9 {
        for lane in 0..8 {
            want[group * 8 + lane] = (group * 100 + 30 + lane) as u32;
        }
    }
    ensure!(out.words() == want, "the base of the dispatch was not applied");
    report.part("dispatch base", out.bytes());
    Ok(())
}
