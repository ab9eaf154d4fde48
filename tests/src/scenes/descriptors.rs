//! Descriptor sets: many writes and copies, writes that run over several bindings, dynamic offsets, images, and updates after binding.

use anyhow::{Result, ensure};
use ash::vk;

use crate::gpu::{Buffer, Gpu, ImageDesc, barrier};
use crate::report::Report;
use crate::scenes::{Options, Random};
use crate::shader;

const STORAGE: vk::DescriptorType = vk::DescriptorType::STORAGE_BUFFER;
const COMPUTE: vk::ShaderStageFlags = vk::ShaderStageFlags::COMPUTE;
const POINT: vk::PipelineBindPoint = vk::PipelineBindPoint::COMPUTE;
const BINDINGS: u32 = 8;

/// Copies a word out of each of the first seven buffers into the eighth.
pub(super) const GATHER: &str = "
    @group(0) @binding(0) var<storage, read> b0: array<u32>;
    @group(0) @binding(1) var<storage, read> b1: array<u32>;
    @group(0) @binding(2) var<storage, read> b2: array<u32>;
    @group(0) @binding(3) var<storage, read> b3: array<u32>;
    @group(0) @binding(4) var<storage, read> b4: array<u32>;
    @group(0) @binding(5) var<storage, read> b5: array<u32>;
    @group(0) @binding(6) var<storage, read> b6: array<u32>;
    @group(0) @binding(7) var<storage, read_write> out: array<u32>;
    @compute @workgroup_size(1)
    fn main() {
        out[0] = b0[0]; out[1] = b1[0]; out[2] = b2[0]; out[3] = b3[0];
        out[4] = b4[0]; out[5] = b5[0]; out[6] = b6[0]; out[7] += 1u;
    }";

pub(super) fn run(gpu: &Gpu, _options: &Options, report: &mut Report) -> Result<()> {
    writes_and_copies(gpu, report)?;
    reuse(gpu, report)?;
    dynamic(gpu, report)?;
    images(gpu, report)?;
    after_bind(gpu, report)?;
    come_and_go(gpu, report)
}

/// Sets of two layouts that are allocated, freed and reset at random from pools without much room.
fn come_and_go(gpu: &Gpu, report: &mut Report) -> Result<()> {
    const ROOM: u32 = 24;
    let wgsl = "
        @group(0) @binding(0) var<storage, read_write> out: array<u32>;
        @compute @workgroup_size(1)
        fn main() { out[0] += 1u; }";
    let layouts =
        [gpu.set_layout(&[STORAGE], COMPUTE)?, gpu.set_layout(&[STORAGE; 2], COMPUTE)?];
    let layout = gpu.pipeline_layout(&[*layouts[0]], 0, COMPUTE)?;
    let pipeline = gpu.compute_pipeline(&shader::compile(wgsl)?, *layout)?;
    let pools = [gpu.pool(&[STORAGE], ROOM)?, gpu.pool(&[STORAGE], ROOM)?];
    let out = gpu.buffer_with(&[0u32; 64 * 8], vk::BufferUsageFlags::STORAGE_BUFFER)?;
    let mut live: [Vec<(usize, vk::DescriptorSet)>; 2] = Default::default();
    let (mut random, mut results, mut want) = (Random(31), Vec::new(), [0u32; 8]);
    for round in 0..800 {
        let which = random.below(2) as usize;
        let (pool, sets) = (*pools[which], &mut live[which]);
        match random.below(20) {
            0 => {
                unsafe {
                    let flags = vk::DescriptorPoolResetFlags::empty();
                    gpu.device.reset_descriptor_pool(pool, flags)?;
                }
                sets.clear();
            }
            1..8 if !sets.is_empty() => {
                let (_, set) = sets.swap_remove(random.below(sets.len() as u64) as usize);
                unsafe { gpu.device.free_descriptor_sets(pool, &[set, vk::DescriptorSet::null()])? };
            }
            kind => {
                // Now and then only sets of one layout.
                let kind = if round % 200 < 100 { 0 } else { kind as usize % 2 };
                let used: usize = sets.iter().map(|(kind, _)| kind + 1).sum();
                if used + 2 * (kind + 1) > ROOM as usize {
                    continue;
                }
                let two = [*layouts[kind]; 2];
                let info =
                    vk::DescriptorSetAllocateInfo::default().descriptor_pool(pool).set_layouts(&two);
                match unsafe { gpu.device.allocate_descriptor_sets(&info) } {
                    Ok(new) => sets.extend(new.into_iter().map(|set| (kind, set))),
                    Err(error) => results.push(error.as_raw() as u8),
                }
            }
        }
        if round % 100 != 99 {
            continue;
        }
        let plain = || live.iter().flatten().filter(|(kind, _)| *kind == 0).map(|(_, set)| *set);
        for (i, set) in plain().enumerate() {
            let word = i % want.len();
            want[word] += 1;
            let info = [out.whole().offset(word as u64 * 256).range(256)];
            let write = vk::WriteDescriptorSet::default()
                .dst_set(set)
                .descriptor_type(STORAGE)
                .buffer_info(&info);
            unsafe { gpu.device.update_descriptor_sets(&[write], &[]) }
        }
        gpu.run(|device, cmd| unsafe {
            device.cmd_bind_pipeline(cmd, POINT, *pipeline);
            for set in plain() {
                device.cmd_bind_descriptor_sets(cmd, POINT, *layout, 0, &[set], &[]);
                device.cmd_dispatch(cmd, 1, 1, 1);
                barrier(device, cmd);
            }
        })?;
        results.push(plain().count() as u8);
    }
    let got: Vec<u32> = out.words().iter().step_by(64).copied().collect();
    ensure!(got == want, "the sets counted {got:?}, not {want:?}");
    report.part("sets that come and go", [results, out.bytes()].concat());
    Ok(())
}

/// Buffers whose first words tell them apart.
fn sources(gpu: &Gpu, count: u32) -> Result<Vec<Buffer<'_>>> {
    (0..count)
        .map(|i| gpu.buffer_with(&[0x5000 + i; 4], vk::BufferUsageFlags::STORAGE_BUFFER))
        .collect()
}

fn writes_and_copies(gpu: &Gpu, report: &mut Report) -> Result<()> {
    const SETS: usize = 40;
    let set_layout = gpu.set_layout(&[STORAGE; BINDINGS as usize], COMPUTE)?;
    let layout = gpu.pipeline_layout(&[*set_layout], 0, COMPUTE)?;
    let pipeline = gpu.compute_pipeline(&shader::compile(GATHER)?, *layout)?;
    let pool = gpu.pool(&[STORAGE], SETS as u32 * BINDINGS)?;
    let layouts = [*set_layout; SETS];
    let info = vk::DescriptorSetAllocateInfo::default().descriptor_pool(*pool).set_layouts(&layouts);
    let sets = unsafe { gpu.device.allocate_descriptor_sets(&info)? };
    let sources = sources(gpu, 16)?;
    let outs = (0..SETS)
        .map(|_| gpu.buffer_with(&[0u32; 8], vk::BufferUsageFlags::STORAGE_BUFFER))
        .collect::<Result<Vec<_>>>()?;

    // Half of the sets are written, each in a single write that runs over all bindings;
    // each of the others is copied from one of those in two pieces that cross over.
    let half = SETS / 2;
    let pick = |set: usize, binding: usize| (set * 3 + binding * 5) % 16;
    let infos: Vec<Vec<_>> = (0..half)
        .map(|set| {
            let mut all: Vec<_> = (0..7).map(|b| sources[pick(set, b)].whole()).collect();
            all.push(outs[set].whole());
            all
        })
        .collect();
    let mut writes: Vec<_> = (0..half)
        .map(|set| {
            vk::WriteDescriptorSet::default()
                .dst_set(sets[set])
                .descriptor_type(STORAGE)
                .buffer_info(&infos[set])
        })
        .collect();
    let copies: Vec<_> = (0..half)
        .flat_map(|set| {
            let piece = |from, to, count| {
                vk::CopyDescriptorSet::default()
                    .src_set(sets[set])
                    .src_binding(from)
                    .dst_set(sets[half + set])
                    .dst_binding(to)
                    .descriptor_count(count)
            };
            [piece(0, 4, 3), piece(3, 0, 4)]
        })
        .collect();
    unsafe { gpu.device.update_descriptor_sets(&writes, &copies) }
    writes.clear();
    let own: Vec<_> = outs.iter().map(|out| [out.whole()]).collect();
    for set in half..SETS {
        writes.push(
            vk::WriteDescriptorSet::default()
                .dst_set(sets[set])
                .dst_binding(7)
                .descriptor_type(STORAGE)
                .buffer_info(&own[set]),
        );
    }
    unsafe { gpu.device.update_descriptor_sets(&writes, &[]) }
    gpu.run(|device, cmd| unsafe {
        device.cmd_bind_pipeline(cmd, POINT, *pipeline);
        for &set in &sets {
            device.cmd_bind_descriptor_sets(cmd, POINT, *layout, 0, &[set], &[]);
            device.cmd_dispatch(cmd, 1, 1, 1);
        }
        barrier(device, cmd);
    })?;
    let mut all = Vec::new();
    for (set, out) in outs.iter().enumerate() {
        let mut want: Vec<u32> = (0..7).map(|b| 0x5000 + pick(set % half, b) as u32).collect();
        if set >= half {
            want.rotate_left(3);
        }
        want.push(1);
        ensure!(out.words() == want, "set {set} saw {:x?} instead of {want:x?}", out.words());
        all.extend(out.bytes());
    }
    report.part("writes and copies", all);
    Ok(())
}

/// Sets freed, pools reset, and the same set rewritten between submits.
fn reuse(gpu: &Gpu, report: &mut Report) -> Result<()> {
    let set_layout = gpu.set_layout(&[STORAGE; BINDINGS as usize], COMPUTE)?;
    let layout = gpu.pipeline_layout(&[*set_layout], 0, COMPUTE)?;
    let pipeline = gpu.compute_pipeline(&shader::compile(GATHER)?, *layout)?;
    let pool = gpu.pool(&[STORAGE], 4 * BINDINGS)?;
    let sources = sources(gpu, 16)?;
    let out = gpu.buffer_with(&[0u32; 8], vk::BufferUsageFlags::STORAGE_BUFFER)?;
    let mut all = Vec::new();
    for round in 0..30usize {
        let sets = [gpu.set(*pool, *set_layout)?, gpu.set(*pool, *set_layout)?];
        for (k, &set) in sets.iter().enumerate() {
            for binding in 0..7 {
                let source = &sources[(round + binding as usize * (k + 1)) % 16];
                gpu.write_buffer(set, binding, STORAGE, source);
            }
            gpu.write_buffer(set, 7, STORAGE, &out);
        }
        // The second write of a binding before its use is the one that counts.
        gpu.write_buffer(sets[0], 3, STORAGE, &sources[round % 7]);
        gpu.run(|device, cmd| unsafe {
            device.cmd_bind_pipeline(cmd, POINT, *pipeline);
            device.cmd_bind_descriptor_sets(cmd, POINT, *layout, 0, &[sets[0]], &[]);
            device.cmd_dispatch(cmd, 1, 1, 1);
            barrier(device, cmd);
        })?;
        let words = out.words();
        ensure!(words[3] == 0x5000 + round as u32 % 7, "round {round} saw {words:x?}");
        ensure!(words[7] == round as u32 + 1, "round {round} ran {} times", words[7]);
        all.extend(out.bytes());
        unsafe {
            if round % 3 == 2 {
                gpu.device.reset_descriptor_pool(*pool, vk::DescriptorPoolResetFlags::empty())?;
            } else {
                gpu.device.free_descriptor_sets(*pool, &sets)?;
            }
        }
    }
    report.part("reuse", all);
    Ok(())
}

/// One buffer, two dynamic bindings in two sets, many offsets.
fn dynamic(gpu: &Gpu, report: &mut Report) -> Result<()> {
    let wgsl = "
        struct Block { value: vec4<u32> }
        @group(0) @binding(0) var<uniform> source: Block;
        @group(1) @binding(0) var<storage, read_write> to: array<u32>;
        @group(1) @binding(1) var<uniform> fixed: Block;
        @compute @workgroup_size(4)
        fn main(@builtin(local_invocation_index) i: u32) { to[i] = source.value[i] * fixed.value[i]; }";
    let limits = &gpu.properties.limits;
    let step = 64
        .max(limits.min_uniform_buffer_offset_alignment)
        .max(limits.min_storage_buffer_offset_alignment);
    const COUNT: u64 = 32;
    let kinds = [
        vk::DescriptorType::UNIFORM_BUFFER_DYNAMIC,
        vk::DescriptorType::STORAGE_BUFFER_DYNAMIC,
        vk::DescriptorType::UNIFORM_BUFFER,
    ];
    let (first, second) =
        (gpu.set_layout(&kinds[..1], COMPUTE)?, gpu.set_layout(&kinds[1..], COMPUTE)?);
    let layout = gpu.pipeline_layout(&[*first, *second], 0, COMPUTE)?;
    let pipeline = gpu.compute_pipeline(&shader::compile(wgsl)?, *layout)?;
    let pool = gpu.pool(&kinds, 2)?;
    let sets = [gpu.set(*pool, *first)?, gpu.set(*pool, *second)?];
    let from = gpu.buffer(COUNT * step, vk::BufferUsageFlags::UNIFORM_BUFFER)?;
    for i in 0..COUNT {
        let block: [u32; 4] = std::array::from_fn(|k| (i * 10 + k as u64) as u32);
        from.write(i * step, bytemuck::bytes_of(&block));
    }
    let to = gpu.buffer_with(&vec![0u8; (COUNT * step) as usize], vk::BufferUsageFlags::STORAGE_BUFFER)?;
    let fixed = gpu.buffer_with(&[1u32, 100, 10_000, 1_000_000], vk::BufferUsageFlags::UNIFORM_BUFFER)?;
    for (set, binding, kind, buffer) in
        [(sets[0], 0, kinds[0], &from), (sets[1], 0, kinds[1], &to), (sets[1], 1, kinds[2], &fixed)]
    {
        let info = [vk::DescriptorBufferInfo { range: 16, ..buffer.whole() }];
        let write = vk::WriteDescriptorSet::default()
            .dst_set(set)
            .dst_binding(binding)
            .descriptor_type(kind)
            .buffer_info(&info);
        unsafe { gpu.device.update_descriptor_sets(&[write], &[]) }
    }
    gpu.run(|device, cmd| unsafe {
        device.cmd_bind_pipeline(cmd, POINT, *pipeline);
        for i in 0..COUNT {
            let offsets = [((i * 7 + 3) % COUNT * step) as u32, (i * step) as u32];
            if i % 2 == 0 {
                device.cmd_bind_descriptor_sets(cmd, POINT, *layout, 0, &sets, &offsets);
            } else {
                device.cmd_bind_descriptor_sets(cmd, POINT, *layout, 1, &sets[1..], &offsets[1..]);
                device.cmd_bind_descriptor_sets(cmd, POINT, *layout, 0, &sets[..1], &offsets[..1]);
            }
            device.cmd_dispatch(cmd, 1, 1, 1);
        }
        barrier(device, cmd);
    })?;
    let mut all = Vec::new();
    for i in 0..COUNT {
        let source = (i * 7 + 3) % COUNT * 10;
        let want: Vec<u32> =
            (0..4).map(|k| (source as u32 + k).wrapping_mul(100u32.pow(k))).collect();
        let got = to.read(i * step, 16);
        ensure!(crate::gpu::words(&got) == want, "offset {i} was not applied");
        all.extend(got);
    }
    report.part("dynamic offsets", all);
    Ok(())
}

/// A combined image sampler that the shader takes apart, an immutable sampler, and a storage image.
fn images(gpu: &Gpu, report: &mut Report) -> Result<()> {
    // Bindings 0 and 10 are one combined descriptor.
    let wgsl = "
        @group(0) @binding(0) var combined: texture_2d<f32>;
        @group(0) @binding(10) var combined_sampler: sampler;
        @group(0) @binding(1) var fixed: sampler;
        @group(0) @binding(2) var out: texture_storage_2d<rgba8unorm, write>;
        @compute @workgroup_size(8, 8)
        fn main(@builtin(global_invocation_id) id: vec3<u32>) {
            let at = (vec2<f32>(id.xy) + 0.5) / 32.0;
            let a = textureSampleLevel(combined, combined_sampler, at, 0.0);
            let b = textureSampleLevel(combined, fixed, at * 2.0, 0.0);
            textureStore(out, id.xy, vec4<f32>(a.rg, b.ba));
        }";
    let (nearest, linear) = (gpu.sampler(vk::Filter::NEAREST)?, gpu.sampler(vk::Filter::LINEAR)?);
    let fixed = [*linear];
    let kinds = [
        vk::DescriptorType::COMBINED_IMAGE_SAMPLER,
        vk::DescriptorType::SAMPLER,
        vk::DescriptorType::STORAGE_IMAGE,
    ];
    let mut bindings = [0, 1, 2].map(|i| {
        vk::DescriptorSetLayoutBinding::default()
            .binding(i)
            .descriptor_type(kinds[i as usize])
            .descriptor_count(1)
            .stage_flags(COMPUTE)
    });
    bindings[1] = bindings[1].immutable_samplers(&fixed);
    let info = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
    let set_layout = gpu.own(unsafe { gpu.device.create_descriptor_set_layout(&info, None)? });
    let layout = gpu.pipeline_layout(&[*set_layout], 0, COMPUTE)?;
    let pipeline = gpu.compute_pipeline(&shader::compile_with(wgsl, &[(10, 0)])?, *layout)?;
    let pool = gpu.pool(&kinds, 1)?;
    let set = gpu.set(*pool, *set_layout)?;

    let texels: Vec<u32> = (0..64).map(|i: u32| i.wrapping_mul(0x9e37_79b9)).collect();
    let staging = gpu.buffer_with(&texels, vk::BufferUsageFlags::TRANSFER_SRC)?;
    let rgba = vk::Format::R8G8B8A8_UNORM;
    let image = gpu.image(ImageDesc::flat(
        rgba,
        8,
        8,
        vk::ImageUsageFlags::SAMPLED | vk::ImageUsageFlags::TRANSFER_DST,
    ))?;
    let out = gpu.image(ImageDesc::flat(
        rgba,
        32,
        32,
        vk::ImageUsageFlags::STORAGE | vk::ImageUsageFlags::TRANSFER_SRC,
    ))?;
    let pixels = gpu.buffer(32 * 32 * 4, vk::BufferUsageFlags::TRANSFER_DST)?;
    let sampled = [vk::DescriptorImageInfo {
        sampler: *nearest,
        image_view: *image.view,
        image_layout: vk::ImageLayout::SHADER_READ_ONLY_OPTIMAL,
    }];
    let stored = [vk::DescriptorImageInfo {
        image_view: *out.view,
        image_layout: vk::ImageLayout::GENERAL,
        ..Default::default()
    }];
    let write = vk::WriteDescriptorSet::default().dst_set(set);
    let writes = [
        write.descriptor_type(kinds[0]).image_info(&sampled),
        write.dst_binding(2).descriptor_type(kinds[2]).image_info(&stored),
    ];
    unsafe { gpu.device.update_descriptor_sets(&writes, &[]) }
    gpu.run(|device, cmd| unsafe {
        let (undefined, sink) = (vk::ImageLayout::UNDEFINED, vk::ImageLayout::TRANSFER_DST_OPTIMAL);
        image.to(device, cmd, undefined, sink);
        let copy = [image.copy(0, 0)];
        device.cmd_copy_buffer_to_image(cmd, *staging.handle, *image.handle, sink, &copy);
        image.to(device, cmd, sink, vk::ImageLayout::SHADER_READ_ONLY_OPTIMAL);
        out.to(device, cmd, undefined, vk::ImageLayout::GENERAL);
        device.cmd_bind_pipeline(cmd, POINT, *pipeline);
        device.cmd_bind_descriptor_sets(cmd, POINT, *layout, 0, &[set], &[]);
        device.cmd_dispatch(cmd, 4, 4, 1);
        out.to(device, cmd, vk::ImageLayout::GENERAL, vk::ImageLayout::TRANSFER_SRC_OPTIMAL);
        let (handle, source) = (*out.handle, vk::ImageLayout::TRANSFER_SRC_OPTIMAL);
        device.cmd_copy_image_to_buffer(cmd, handle, source, *pixels.handle, &[out.copy(0, 0)]);
        barrier(device, cmd);
    })?;
    report.part("images", pixels.bytes());
    Ok(())
}

/// A set that is written after it was bound, and is partly never written.
fn after_bind(gpu: &Gpu, report: &mut Report) -> Result<()> {
    let features = &gpu.features12;
    let shown = features.descriptor_binding_storage_buffer_update_after_bind == vk::TRUE
        && features.descriptor_binding_partially_bound == vk::TRUE;
    if !report.needs("after bind", shown, "update after bind or partially bound is not shown") {
        return Ok(());
    }
    let flags = [vk::DescriptorBindingFlags::UPDATE_AFTER_BIND, vk::DescriptorBindingFlags::UPDATE_AFTER_BIND, vk::DescriptorBindingFlags::PARTIALLY_BOUND];
    let bindings = [0, 1, 2].map(|i| {
        vk::DescriptorSetLayoutBinding::default()
            .binding(i)
            .descriptor_type(STORAGE)
            .descriptor_count(if i == 2 { 4 } else { 1 })
            .stage_flags(COMPUTE)
    });
    let mut flags = vk::DescriptorSetLayoutBindingFlagsCreateInfo::default().binding_flags(&flags);
    let info = vk::DescriptorSetLayoutCreateInfo::default()
        .flags(vk::DescriptorSetLayoutCreateFlags::UPDATE_AFTER_BIND_POOL)
        .bindings(&bindings)
        .push_next(&mut flags);
    let set_layout = gpu.own(unsafe { gpu.device.create_descriptor_set_layout(&info, None)? });
    let layout = gpu.pipeline_layout(&[*set_layout], 0, COMPUTE)?;
    let wgsl = "
        @group(0) @binding(0) var<storage, read> source: array<u32>;
        @group(0) @binding(1) var<storage, read_write> to: array<u32>;
        @compute @workgroup_size(1)
        fn main() { to[0] = source[0]; to[1] += 1u; }";
    let pipeline = gpu.compute_pipeline(&shader::compile(wgsl)?, *layout)?;
    let sizes = [vk::DescriptorPoolSize { ty: STORAGE, descriptor_count: 6 }];
    let info = vk::DescriptorPoolCreateInfo::default()
        .flags(vk::DescriptorPoolCreateFlags::UPDATE_AFTER_BIND)
        .max_sets(1)
        .pool_sizes(&sizes);
    let pool = gpu.own(unsafe { gpu.device.create_descriptor_pool(&info, None)? });
    let set = gpu.set(*pool, *set_layout)?;
    let sources = sources(gpu, 4)?;
    let out = gpu.buffer_with(&[0u32; 2], vk::BufferUsageFlags::STORAGE_BUFFER)?;
    gpu.write_buffer(set, 0, STORAGE, &sources[0]);
    let commands = gpu.command_pool()?;
    let cmds = gpu.command_buffers(*commands, vk::CommandBufferLevel::PRIMARY, 1)?;
    gpu.record(cmds[0], |device, cmd| unsafe {
        device.cmd_bind_pipeline(cmd, POINT, *pipeline);
        device.cmd_bind_descriptor_sets(cmd, POINT, *layout, 0, &[set], &[]);
        device.cmd_dispatch(cmd, 1, 1, 1);
        barrier(device, cmd);
    })?;
    gpu.write_buffer(set, 1, STORAGE, &out);
    let mut all = Vec::new();
    for (round, source) in (0u32..).zip(&sources) {
        gpu.write_buffer(set, 0, STORAGE, source);
        let fence = gpu.fence()?;
        gpu.submit(&vk::SubmitInfo::default().command_buffers(&cmds), *fence)?;
        gpu.wait(*fence)?;
        ensure!(out.words() == [0x5000 + round, round + 1], "round {round} saw {:x?}", out.words());
        all.extend(out.bytes());
    }
    report.part("after bind", all);
    Ok(())
}
