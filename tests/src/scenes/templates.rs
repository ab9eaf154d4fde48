//! Descriptor update templates and push descriptors: other ways to fill a set.

use anyhow::{Result, ensure};
use ash::vk;

use crate::gpu::{Buffer, Gpu, barrier};
use crate::report::Report;
use crate::scenes::Options;
use crate::scenes::descriptors::GATHER;
use crate::shader;

const STORAGE: vk::DescriptorType = vk::DescriptorType::STORAGE_BUFFER;
const COMPUTE: vk::ShaderStageFlags = vk::ShaderStageFlags::COMPUTE;
const POINT: vk::PipelineBindPoint = vk::PipelineBindPoint::COMPUTE;
const NO_PUSH: &str = "VK_KHR_push_descriptor is not shown";

pub(super) fn run(gpu: &Gpu, _options: &Options, report: &mut Report) -> Result<()> {
    template(gpu, report)?;
    push(gpu, report)?;
    push_template(gpu, report)
}

/// What the application hands over: infos among other things of its own.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    _own: u64,
    /// Every other one is meant.
    wide: [vk::DescriptorBufferInfo; 12],
    _more: [u32; 2],
    last: [vk::DescriptorBufferInfo; 2],
}

/// Bindings 0 to 5 from every other info, 6 and 7 from the last two.
fn entries() -> [vk::DescriptorUpdateTemplateEntry; 2] {
    let size = size_of::<vk::DescriptorBufferInfo>();
    let entry = vk::DescriptorUpdateTemplateEntry {
        dst_binding: 0,
        dst_array_element: 0,
        descriptor_count: 6,
        descriptor_type: STORAGE,
        offset: std::mem::offset_of!(Data, wide),
        stride: 2 * size,
    };
    let last = vk::DescriptorUpdateTemplateEntry {
        dst_binding: 6,
        descriptor_count: 2,
        offset: std::mem::offset_of!(Data, last),
        stride: size,
        ..entry
    };
    [entry, last]
}

fn data(sources: &[Buffer<'_>], out: &Buffer<'_>, round: usize) -> Data {
    let pick = |binding: usize| sources[(round + 3 * binding) % sources.len()].whole();
    let mut data = Data { last: [pick(6), out.whole()], ..Data::default() };
    for binding in 0..6 {
        data.wide[2 * binding] = pick(binding);
    }
    data
}

fn sources(gpu: &Gpu) -> Result<Vec<Buffer<'_>>> {
    (0..11)
        .map(|i| gpu.buffer_with(&[0x7e00 + i; 4], vk::BufferUsageFlags::STORAGE_BUFFER))
        .collect()
}

fn check(out: &Buffer<'_>, round: usize) -> Result<Vec<u8>> {
    let mut want: Vec<u32> = (0..7).map(|b| 0x7e00 + ((round + 3 * b) % 11) as u32).collect();
    want.push(round as u32 + 1);
    ensure!(out.words() == want, "round {round} saw {:x?}, not {want:x?}", out.words());
    Ok(out.bytes())
}

fn template(gpu: &Gpu, report: &mut Report) -> Result<()> {
    let set_layout = gpu.set_layout(&[STORAGE; 8], COMPUTE)?;
    let layout = gpu.pipeline_layout(&[*set_layout], 0, COMPUTE)?;
    let pipeline = gpu.compute_pipeline(&shader::compile(GATHER)?, *layout)?;
    let pool = gpu.pool(&[STORAGE], 16)?;
    let sets = [gpu.set(*pool, *set_layout)?, gpu.set(*pool, *set_layout)?];
    let entries = entries();
    let info = vk::DescriptorUpdateTemplateCreateInfo::default()
        .descriptor_update_entries(&entries)
        .template_type(vk::DescriptorUpdateTemplateType::DESCRIPTOR_SET)
        .descriptor_set_layout(*set_layout);
    let template = gpu.own(unsafe { gpu.device.create_descriptor_update_template(&info, None)? });
    let sources = sources(gpu)?;
    let out = gpu.buffer_with(&[0u32; 8], vk::BufferUsageFlags::STORAGE_BUFFER)?;
    let mut all = Vec::new();
    for round in 0..12 {
        let data = data(&sources, &out, round);
        let set = sets[round % 2];
        unsafe {
            let pointer = (&raw const data).cast();
            gpu.device.update_descriptor_set_with_template(set, *template, pointer);
        }
        gpu.run(|device, cmd| unsafe {
            device.cmd_bind_pipeline(cmd, POINT, *pipeline);
            device.cmd_bind_descriptor_sets(cmd, POINT, *layout, 0, &[set], &[]);
            device.cmd_dispatch(cmd, 1, 1, 1);
            barrier(device, cmd);
        })?;
        all.extend(check(&out, round)?);
    }
    report.part("template", all);
    Ok(())
}

fn shows_push(gpu: &Gpu) -> bool {
    gpu.extensions.contains("VK_KHR_push_descriptor")
}

fn push_layout(gpu: &Gpu) -> Result<crate::gpu::Own<'_, vk::DescriptorSetLayout>> {
    let bindings: Vec<_> = (0..8)
        .map(|binding| {
            vk::DescriptorSetLayoutBinding::default()
                .binding(binding)
                .descriptor_type(STORAGE)
                .descriptor_count(1)
                .stage_flags(COMPUTE)
        })
        .collect();
    let info = vk::DescriptorSetLayoutCreateInfo::default()
        .flags(vk::DescriptorSetLayoutCreateFlags::PUSH_DESCRIPTOR_KHR)
        .bindings(&bindings);
    Ok(gpu.own(unsafe { gpu.device.create_descriptor_set_layout(&info, None)? }))
}

fn push(gpu: &Gpu, report: &mut Report) -> Result<()> {
    if !report.needs("push descriptors", shows_push(gpu), NO_PUSH) {
        return Ok(());
    }
    let functions = ash::khr::push_descriptor::Device::new(&gpu.instance, &gpu.device);
    let set_layout = push_layout(gpu)?;
    let layout = gpu.pipeline_layout(&[*set_layout], 0, COMPUTE)?;
    let pipeline = gpu.compute_pipeline(&shader::compile(GATHER)?, *layout)?;
    let sources = sources(gpu)?;
    let out = gpu.buffer_with(&[0u32; 8], vk::BufferUsageFlags::STORAGE_BUFFER)?;
    let mut all = Vec::new();
    for round in 0..4 {
        gpu.run(|device, cmd| unsafe {
            device.cmd_bind_pipeline(cmd, POINT, *pipeline);
            let infos: Vec<_> = (0..7)
                .map(|binding| sources[(round + 3 * binding) % 11].whole())
                .chain([out.whole()])
                .collect();
            // Single descriptors, out of order; what is not pushed again stays.
            for binding in [7usize, 0, 6, 1, 5, 2, 4, 3] {
                let write = vk::WriteDescriptorSet::default()
                    .dst_binding(binding as u32)
                    .descriptor_type(STORAGE)
                    .buffer_info(&infos[binding..=binding]);
                functions.cmd_push_descriptor_set(cmd, POINT, *layout, 0, &[write]);
            }
            device.cmd_dispatch(cmd, 1, 1, 1);
            barrier(device, cmd);
        })?;
        all.extend(check(&out, round)?);
    }
    report.part("push descriptors", all);
    Ok(())
}

fn push_template(gpu: &Gpu, report: &mut Report) -> Result<()> {
    if !report.needs("push descriptor template", shows_push(gpu), NO_PUSH) {
        return Ok(());
    }
    let functions = ash::khr::push_descriptor::Device::new(&gpu.instance, &gpu.device);
    let set_layout = push_layout(gpu)?;
    let layout = gpu.pipeline_layout(&[*set_layout], 0, COMPUTE)?;
    let pipeline = gpu.compute_pipeline(&shader::compile(GATHER)?, *layout)?;
    let entries = entries();
    let info = vk::DescriptorUpdateTemplateCreateInfo::default()
        .descriptor_update_entries(&entries)
        .template_type(vk::DescriptorUpdateTemplateType::PUSH_DESCRIPTORS_KHR)
        .pipeline_bind_point(POINT)
        .pipeline_layout(*layout);
    let template = gpu.own(unsafe { gpu.device.create_descriptor_update_template(&info, None)? });
    let sources = sources(gpu)?;
    let out = gpu.buffer_with(&[0u32; 8], vk::BufferUsageFlags::STORAGE_BUFFER)?;
    let mut all = Vec::new();
    for round in 0..4 {
        let data = data(&sources, &out, round);
        gpu.run(|device, cmd| unsafe {
            device.cmd_bind_pipeline(cmd, POINT, *pipeline);
            let pointer = (&raw const data).cast();
            functions.cmd_push_descriptor_set_with_template(cmd, *template, *layout, 0, pointer);
            device.cmd_dispatch(cmd, 1, 1, 1);
            barrier(device, cmd);
        })?;
        all.extend(check(&out, round)?);
    }
    report.part("push descriptor template", all);
    Ok(())
}
