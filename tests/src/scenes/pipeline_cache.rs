//! A pipeline cache that is written out, read back and merged; only its header and what the pipelines do are looked at.

use anyhow::{Result, ensure};
use ash::vk;

use crate::gpu::{Gpu, Own, barrier, words};
use crate::report::Report;
use crate::scenes::Options;
use crate::shader;

pub(super) fn run(gpu: &Gpu, _options: &Options, report: &mut Report) -> Result<()> {
    let wgsl = |factor: u32| {
        format!(
            "@group(0) @binding(0) var<storage, read_write> out: array<u32>;
             @compute @workgroup_size(64)
             fn main(@builtin(global_invocation_id) id: vec3<u32>) {{ out[id.x] = out[id.x] * 7u + id.x * {factor}u; }}"
        )
    };
    let compute = vk::ShaderStageFlags::COMPUTE;
    let kinds = [vk::DescriptorType::STORAGE_BUFFER];
    let set_layout = gpu.set_layout(&kinds, compute)?;
    let layout = gpu.pipeline_layout(&[*set_layout], 0, compute)?;
    let pool = gpu.pool(&kinds, 1)?;
    let set = gpu.set(*pool, *set_layout)?;
    let out = gpu.buffer_with(&[0u32; 64], vk::BufferUsageFlags::STORAGE_BUFFER)?;
    gpu.write_buffer(set, 0, kinds[0], &out);
    let build = |cache: vk::PipelineCache, factor| -> Result<Own<'_, vk::Pipeline>> {
        let module = gpu.module(&shader::compile(&wgsl(factor))?)?;
        let stage = vk::PipelineShaderStageCreateInfo::default()
            .stage(compute)
            .module(*module)
            .name(c"main");
        let info = vk::ComputePipelineCreateInfo::default().stage(stage).layout(*layout);
        gpu.compute_pipeline_from(cache, &info)
    };
    let cache = |data: &[u8]| -> Result<Own<'_, vk::PipelineCache>> {
        let info = vk::PipelineCacheCreateInfo::default().initial_data(data);
        Ok(gpu.own(unsafe { gpu.device.create_pipeline_cache(&info, None)? }))
    };
    let use_it = |pipeline: vk::Pipeline| {
        gpu.run(|device, cmd| unsafe {
            let point = vk::PipelineBindPoint::COMPUTE;
            device.cmd_bind_pipeline(cmd, point, pipeline);
            device.cmd_bind_descriptor_sets(cmd, point, *layout, 0, &[set], &[]);
            device.cmd_dispatch(cmd, 1, 1, 1);
            barrier(device, cmd);
        })
    };
    let mut want = [0u32; 64];
    let mut step = |factor: u32| {
        for (i, x) in (0u32..).zip(&mut want) {
            *x = x.wrapping_mul(7).wrapping_add(i * factor);
        }
    };

    let first = cache(&[])?;
    use_it(*build(*first, 3)?)?;
    step(3);
    let data = unsafe { gpu.device.get_pipeline_cache_data(*first)? };
    ensure!(data.len() >= 32, "a cache of {} bytes has no header", data.len());
    let header = words(&data[..16]);
    ensure!(header[0] >= 32 && header[1] == 1, "the cache's header is {header:?}");
    ensure!(
        header[2..4] == [gpu.properties.vendor_id, gpu.properties.device_id],
        "the cache belongs to {:x?}",
        &header[2..]
    );
    ensure!(data[16..32] == gpu.properties.pipeline_cache_uuid, "the cache's UUID is another");

    let second = cache(&data)?;
    use_it(*build(*second, 3)?)?;
    step(3);
    use_it(*build(*second, 5)?)?;
    step(5);
    // What a cache is filled with need not be right: nonsense is ignored.
    let third = cache(&[0x5a; 100])?;
    use_it(*build(*third, 9)?)?;
    step(9);
    unsafe { gpu.device.merge_pipeline_caches(*third, &[*first, *second])? }
    let merged = unsafe { gpu.device.get_pipeline_cache_data(*third)? };
    ensure!(merged.len() >= 32, "the merged cache has no header");
    use_it(*build(*third, 5)?)?;
    step(5);
    ensure!(out.words() == want, "a pipeline from a cache computes something else");
    report.part("pipelines", out.bytes());
    report.part("header", bytemuck::cast_slice(&header[..2]));
    Ok(())
}
