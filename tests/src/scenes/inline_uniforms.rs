//! Inline uniform blocks: uniform data that lies in the descriptor set itself.

use anyhow::{Result, ensure};
use ash::vk;

use crate::gpu::{Gpu, barrier, words};
use crate::report::Report;
use crate::scenes::Options;
use crate::shader;

const STORAGE: vk::DescriptorType = vk::DescriptorType::STORAGE_BUFFER;
const COMPUTE: vk::ShaderStageFlags = vk::ShaderStageFlags::COMPUTE;
const POINT: vk::PipelineBindPoint = vk::PipelineBindPoint::COMPUTE;

pub(super) fn run(gpu: &Gpu, _options: &Options, report: &mut Report) -> Result<()> {
    let shown = gpu.has_13() && gpu.features13.inline_uniform_block == vk::TRUE;
    if !report.needs("inline uniform block", shown, "inlineUniformBlock is not shown") {
        return Ok(());
    }
    let wgsl = "
        struct Block { value: array<vec4<u32>, 4> }
        @group(0) @binding(0) var<uniform> block: Block;
        @group(0) @binding(1) var<storage, read_write> out: array<vec4<u32>, 4>;
        @compute @workgroup_size(4)
        fn main(@builtin(local_invocation_index) i: u32) { out[i] = block.value[i] + 1u; }";
    let kind = vk::DescriptorType::INLINE_UNIFORM_BLOCK;
    let bindings = [(0, kind, 64), (1, STORAGE, 1)].map(|(binding, kind, count)| {
        vk::DescriptorSetLayoutBinding::default()
            .binding(binding)
            .descriptor_type(kind)
            .descriptor_count(count)
            .stage_flags(COMPUTE)
    });
    let info = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
    let set_layout = gpu.own(unsafe { gpu.device.create_descriptor_set_layout(&info, None)? });
    let layout = gpu.pipeline_layout(&[*set_layout], 0, COMPUTE)?;
    let pipeline = gpu.compute_pipeline(&shader::compile(wgsl)?, *layout)?;
    let sizes = [(kind, 128), (STORAGE, 2)]
        .map(|(ty, descriptor_count)| vk::DescriptorPoolSize { ty, descriptor_count });
    let mut blocks =
        vk::DescriptorPoolInlineUniformBlockCreateInfo::default().max_inline_uniform_block_bindings(2);
    let info = vk::DescriptorPoolCreateInfo::default()
        .max_sets(2)
        .pool_sizes(&sizes)
        .push_next(&mut blocks);
    let pool = gpu.own(unsafe { gpu.device.create_descriptor_pool(&info, None)? });
    let sets = [gpu.set(*pool, *set_layout)?, gpu.set(*pool, *set_layout)?];
    let out = gpu.buffer_with(&[0u32; 16], vk::BufferUsageFlags::STORAGE_BUFFER)?;
    let write = |offset: u32, bytes: &[u8]| {
        let mut block = vk::WriteDescriptorSetInlineUniformBlock::default().data(bytes);
        let mut write = vk::WriteDescriptorSet::default()
            .dst_set(sets[0])
            .dst_array_element(offset)
            .descriptor_type(kind)
            .push_next(&mut block);
        write.descriptor_count = bytes.len() as u32;
        unsafe { gpu.device.update_descriptor_sets(&[write], &[]) }
    };
    let first: Vec<u8> = (0..64).collect();
    write(0, &first);
    write(20, &[0xaa; 12]);
    write(60, &[0xff, 0xee, 0xdd, 0xcc]);
    let copy = vk::CopyDescriptorSet::default()
        .src_set(sets[0])
        .dst_set(sets[1])
        .descriptor_count(64);
    unsafe { gpu.device.update_descriptor_sets(&[], &[copy]) }
    gpu.write_buffer(sets[1], 1, STORAGE, &out);
    gpu.run(|device, cmd| unsafe {
        device.cmd_bind_pipeline(cmd, POINT, *pipeline);
        device.cmd_bind_descriptor_sets(cmd, POINT, *layout, 0, &[sets[1]], &[]);
        device.cmd_dispatch(cmd, 1, 1, 1);
        barrier(device, cmd);
    })?;
    let mut want = first;
    want[20..32].fill(0xaa);
    want[60..].copy_from_slice(&[0xff, 0xee, 0xdd, 0xcc]);
    let want: Vec<u32> = words(&want).iter().map(|word| word + 1).collect();
    ensure!(out.words() == want, "the inline block is {:x?}", out.words());
    report.part("inline uniform block", out.bytes());
    Ok(())
}
