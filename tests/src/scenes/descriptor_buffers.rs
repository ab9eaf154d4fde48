//! Descriptor buffers: descriptors that the program places in memory by itself.

use anyhow::{Result, ensure};
use ash::vk;

use crate::gpu::{Buffer, Gpu, ImageDesc, barrier};
use crate::report::Report;
use crate::scenes::{Options, Random};
use crate::shader;

const COMPUTE: vk::ShaderStageFlags = vk::ShaderStageFlags::COMPUTE;
const POINT: vk::PipelineBindPoint = vk::PipelineBindPoint::COMPUTE;
const KINDS: [vk::DescriptorType; 4] = [
    vk::DescriptorType::UNIFORM_BUFFER,
    vk::DescriptorType::STORAGE_BUFFER,
    vk::DescriptorType::SAMPLED_IMAGE,
    vk::DescriptorType::SAMPLER,
];
const WGSL: &str = "
    struct Block { value: array<vec4<u32>, 4> }
    @group(0) @binding(0) var<uniform> block: Block;
    @group(0) @binding(1) var<storage, read_write> out: array<vec4<u32>, 4>;
    @group(0) @binding(2) var picture: texture_2d<f32>;
    @group(0) @binding(3) var nearest: sampler;
    @compute @workgroup_size(4)
    fn main(@builtin(local_invocation_index) i: u32) {
        let texel = textureSampleLevel(picture, nearest, vec2((f32(i) + 0.5) / 4.0, 0.5), 0.0);
        out[i] = block.value[i] + vec4<u32>(texel * 255.0 + 0.5);
    }";
/// Bytes of a block; the distance of two is a multiple of what any device wants.
const BLOCK: u64 = 64;
const STEP: u64 = 256;

/// A layout, and how its descriptors lie in memory.
struct Sets<'g> {
    gpu: &'g Gpu,
    fns: ash::ext::descriptor_buffer::Device,
    offsets: [u64; 4],
    sizes: [usize; 4],
    /// Bytes from one set to the next.
    stride: u64,
}

impl Sets<'_> {
    fn write(&self, to: &Buffer<'_>, set: u64, binding: usize, data: vk::DescriptorDataEXT<'_>) {
        let info = vk::DescriptorGetInfoEXT { ty: KINDS[binding], data, ..Default::default() };
        let mut bytes = vec![0; self.sizes[binding]];
        unsafe { self.fns.get_descriptor(&info, &mut bytes) };
        to.write(set * self.stride + self.offsets[binding], &bytes);
    }

    fn part(&self, buffer: &Buffer<'_>, offset: u64) -> vk::DescriptorAddressInfoEXT<'static> {
        vk::DescriptorAddressInfoEXT::default()
            .address(self.gpu.address(buffer) + offset)
            .range(BLOCK)
    }
}

pub(super) fn run(gpu: &Gpu, _options: &Options, report: &mut Report) -> Result<()> {
    let shown = gpu.extensions.contains("VK_EXT_descriptor_buffer");
    if !report.needs("descriptor buffers", shown, "VK_EXT_descriptor_buffer is not shown") {
        return Ok(());
    }
    let fns = ash::ext::descriptor_buffer::Device::new(&gpu.instance, &gpu.device);
    let mut known = vk::PhysicalDeviceDescriptorBufferPropertiesEXT::default();
    let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut known);
    unsafe { gpu.instance.get_physical_device_properties2(gpu.physical, &mut properties) };
    let bindings: Vec<_> = (0..)
        .zip(KINDS)
        .map(|(binding, kind)| {
            vk::DescriptorSetLayoutBinding::default()
                .binding(binding)
                .descriptor_type(kind)
                .descriptor_count(1)
                .stage_flags(COMPUTE)
        })
        .collect();
    let info = vk::DescriptorSetLayoutCreateInfo::default()
        .flags(vk::DescriptorSetLayoutCreateFlags::DESCRIPTOR_BUFFER_EXT)
        .bindings(&bindings);
    let set_layout = gpu.own(unsafe { gpu.device.create_descriptor_set_layout(&info, None)? });
    let layout = gpu.pipeline_layout(&[*set_layout], 0, COMPUTE)?;
    let module = gpu.module(&shader::compile(WGSL)?)?;
    let stage = vk::PipelineShaderStageCreateInfo::default()
        .stage(COMPUTE)
        .module(*module)
        .name(c"main");
    let info = vk::ComputePipelineCreateInfo::default()
        .flags(vk::PipelineCreateFlags::DESCRIPTOR_BUFFER_EXT)
        .stage(stage)
        .layout(*layout);
    let pipeline = gpu.compute_pipeline_from(vk::PipelineCache::null(), &info)?;
    let aligned = known.descriptor_buffer_offset_alignment.max(1);
    let size = unsafe { fns.get_descriptor_set_layout_size(*set_layout) };
    let sets = Sets {
        gpu,
        offsets: [0, 1, 2, 3].map(|binding| unsafe {
            fns.get_descriptor_set_layout_binding_offset(*set_layout, binding)
        }),
        sizes: [
            known.uniform_buffer_descriptor_size,
            known.storage_buffer_descriptor_size,
            known.sampled_image_descriptor_size,
            known.sampler_descriptor_size,
        ],
        stride: size.next_multiple_of(aligned),
        fns,
    };
    let mut all = Vec::new();
    // The second time, other buffers lie where the first ones did.
    for (seed, count) in [(21, 300), (22, 40)] {
        all.extend(dispatches(&sets, *layout, *pipeline, seed, count)?);
    }
    report.part("descriptor buffers", all);
    Ok(())
}

/// That many dispatches, each with a set of its own: blocks in a row, and now and then far away.
fn dispatches(
    sets: &Sets<'_>,
    layout: vk::PipelineLayout,
    pipeline: vk::Pipeline,
    seed: u64,
    count: u64,
) -> Result<Vec<u8>> {
    let (gpu, mut random) = (sets.gpu, Random(seed));
    let by_address = vk::BufferUsageFlags::SHADER_DEVICE_ADDRESS;
    let size = (count + 10) * STEP;
    let data: Vec<u32> = (0..size / 4).map(|_| random.word() as u32 >> 1).collect();
    let blocks = gpu.buffer_with(&data, vk::BufferUsageFlags::UNIFORM_BUFFER | by_address)?;
    let zeros = vec![0u8; size as usize];
    let out = gpu.buffer_with(&zeros, vk::BufferUsageFlags::STORAGE_BUFFER | by_address)?;
    let usage = vk::ImageUsageFlags::SAMPLED | vk::ImageUsageFlags::TRANSFER_DST;
    let picture = gpu.image(ImageDesc::flat(vk::Format::R8G8B8A8_UNORM, 4, 1, usage))?;
    let texels = random.bytes(16);
    let staging = gpu.buffer_with(&texels, vk::BufferUsageFlags::TRANSFER_SRC)?;
    let sampler = gpu.sampler(vk::Filter::NEAREST)?;
    let descriptors = gpu.buffer(
        count * sets.stride,
        vk::BufferUsageFlags::RESOURCE_DESCRIPTOR_BUFFER_EXT
            | vk::BufferUsageFlags::SAMPLER_DESCRIPTOR_BUFFER_EXT
            | by_address,
    )?;
    let general = vk::ImageLayout::GENERAL;
    let mut places = Vec::new();
    for set in 0..count {
        let place = if set % 50 == 49 { random.below(count) } else { set } * STEP;
        places.push(place);
        let block = sets.part(&blocks, place);
        sets.write(&descriptors, set, 0, vk::DescriptorDataEXT { p_uniform_buffer: &block });
        let part = sets.part(&out, set * STEP);
        sets.write(&descriptors, set, 1, vk::DescriptorDataEXT { p_storage_buffer: &part });
        let image =
            vk::DescriptorImageInfo::default().image_view(*picture.view).image_layout(general);
        sets.write(&descriptors, set, 2, vk::DescriptorDataEXT { p_sampled_image: &image });
        sets.write(&descriptors, set, 3, vk::DescriptorDataEXT { p_sampler: &*sampler });
    }
    let binding = vk::DescriptorBufferBindingInfoEXT::default()
        .address(gpu.address(&descriptors))
        .usage(
            vk::BufferUsageFlags::RESOURCE_DESCRIPTOR_BUFFER_EXT
                | vk::BufferUsageFlags::SAMPLER_DESCRIPTOR_BUFFER_EXT,
        );
    gpu.run(|device, cmd| unsafe {
        picture.to(device, cmd, vk::ImageLayout::UNDEFINED, general);
        let copy = [picture.copy(0, 0)];
        device.cmd_copy_buffer_to_image(cmd, *staging.handle, *picture.handle, general, &copy);
        barrier(device, cmd);
        device.cmd_bind_pipeline(cmd, POINT, pipeline);
        sets.fns.cmd_bind_descriptor_buffers(cmd, &[binding]);
        for set in 0..count {
            let at = [set * sets.stride];
            sets.fns.cmd_set_descriptor_buffer_offsets(cmd, POINT, layout, 0, &[0], &at);
            device.cmd_dispatch(cmd, 1, 1, 1);
        }
        barrier(device, cmd);
    })?;
    let got = out.words();
    for (set, place) in places.iter().enumerate() {
        for word in 0..BLOCK as usize / 4 {
            let want = data[*place as usize / 4 + word] + u32::from(texels[word]);
            let at = set * STEP as usize / 4 + word;
            ensure!(got[at] == want, "word {word} of set {set} is {}, not {want}", got[at]);
        }
    }
    Ok(out.bytes())
}
