//! Sparse buffers and images: memory bound, moved and taken away while the resource lives.

use anyhow::{Result, ensure};
use ash::vk;

use crate::gpu::{Gpu, Own, barrier};
use crate::report::Report;
use crate::scenes::{Options, Random};

const BOTH: vk::BufferUsageFlags = vk::BufferUsageFlags::from_raw(
    vk::BufferUsageFlags::TRANSFER_SRC.as_raw() | vk::BufferUsageFlags::TRANSFER_DST.as_raw(),
);

pub(super) fn run(gpu: &Gpu, _options: &Options, report: &mut Report) -> Result<()> {
    let queue = gpu.family_properties.queue_flags.contains(vk::QueueFlags::SPARSE_BINDING);
    let binding = queue && gpu.features.sparse_binding == vk::TRUE;
    if report.needs("sparse buffer", binding, "sparseBinding is not shown") {
        buffer(gpu, report)?;
    }
    let residency = binding && gpu.features.sparse_residency_image2_d == vk::TRUE;
    let formats = unsafe {
        gpu.instance.get_physical_device_sparse_image_format_properties(
            gpu.physical,
            vk::Format::R8G8B8A8_UNORM,
            vk::ImageType::TYPE_2D,
            vk::SampleCountFlags::TYPE_1,
            vk::ImageUsageFlags::TRANSFER_DST,
            vk::ImageTiling::OPTIMAL,
        )
    };
    ensure!(residency || formats.is_empty(), "sparse images are hidden, and their formats are not");
    if report.needs("sparse image", residency, "sparseResidencyImage2D is not shown") {
        image(gpu, report)?;
    }
    Ok(())
}

fn bind(gpu: &Gpu, info: &vk::BindSparseInfo<'_>) -> Result<()> {
    let fence = gpu.fence()?;
    {
        let queue = gpu.queues[0].lock().expect("a submit panicked");
        unsafe { gpu.device.queue_bind_sparse(*queue, std::slice::from_ref(info), *fence)? }
    }
    gpu.wait(*fence)
}

fn memory(gpu: &Gpu, requirements: vk::MemoryRequirements, blocks: u64) -> Result<Own<'_, vk::DeviceMemory>> {
    let size = requirements.alignment * blocks;
    let requirements = vk::MemoryRequirements { size, ..requirements };
    gpu.allocate(requirements, vk::MemoryPropertyFlags::DEVICE_LOCAL)
}

/// Four blocks of one allocation behind a buffer, first in one order and then in another.
fn buffer(gpu: &Gpu, report: &mut Report) -> Result<()> {
    const BLOCKS: u64 = 4;
    let size = 4 * 65536;
    let info = vk::BufferCreateInfo::default()
        .flags(vk::BufferCreateFlags::SPARSE_BINDING)
        .size(size)
        .usage(BOTH);
    let buffer = gpu.own(unsafe { gpu.device.create_buffer(&info, None)? });
    let requirements = unsafe { gpu.device.get_buffer_memory_requirements(*buffer) };
    let block = requirements.alignment;
    let count = requirements.size / block;
    let memory = memory(gpu, requirements, count)?;
    let place = |order: &dyn Fn(u64) -> u64| {
        let binds: Vec<_> = (0..count)
            .map(|i| {
                vk::SparseMemoryBind::default()
                    .resource_offset(i * block)
                    .size(block)
                    .memory(*memory)
                    .memory_offset(order(i) * block)
            })
            .collect();
        let buffers = [vk::SparseBufferMemoryBindInfo::default().buffer(*buffer).binds(&binds)];
        bind(gpu, &vk::BindSparseInfo::default().buffer_binds(&buffers))
    };
    let data = Random(9).bytes(size as usize);
    let (source, sink) = (gpu.buffer_with(&data, BOTH)?, gpu.buffer(size, BOTH)?);
    let all = [vk::BufferCopy { src_offset: 0, dst_offset: 0, size }];
    place(&|i| i)?;
    gpu.run(|device, cmd| unsafe {
        device.cmd_copy_buffer(cmd, *source.handle, *buffer, &all);
        barrier(device, cmd);
        device.cmd_copy_buffer(cmd, *buffer, *sink.handle, &all);
        barrier(device, cmd);
    })?;
    ensure!(sink.bytes() == data, "the sparse buffer lost its bytes");
    let mut result = vec![u8::from(count >= BLOCKS)];
    // Turned around: the same bytes, block by block from the end.
    place(&|i| count - 1 - i)?;
    gpu.run(|device, cmd| unsafe {
        device.cmd_copy_buffer(cmd, *buffer, *sink.handle, &all);
        barrier(device, cmd);
    })?;
    if count * block == size {
        let want: Vec<u8> = data.chunks(block as usize).rev().flatten().copied().collect();
        ensure!(sink.bytes() == want, "the blocks did not change places");
        result.extend(sink.bytes());
    }
    report.part("sparse buffer", result);
    Ok(())
}

/// An image of which every other tile has memory.
fn image(gpu: &Gpu, report: &mut Report) -> Result<()> {
    const SIDE: u32 = 512;
    let format = vk::Format::R8G8B8A8_UNORM;
    let info = vk::ImageCreateInfo::default()
        .flags(vk::ImageCreateFlags::SPARSE_BINDING | vk::ImageCreateFlags::SPARSE_RESIDENCY)
        .image_type(vk::ImageType::TYPE_2D)
        .format(format)
        .extent(vk::Extent3D { width: SIDE, height: SIDE, depth: 1 })
        .mip_levels(1)
        .array_layers(1)
        .samples(vk::SampleCountFlags::TYPE_1)
        .tiling(vk::ImageTiling::OPTIMAL)
        .usage(vk::ImageUsageFlags::TRANSFER_SRC | vk::ImageUsageFlags::TRANSFER_DST);
    let image = gpu.own(unsafe { gpu.device.create_image(&info, None)? });
    let requirements = unsafe { gpu.device.get_image_memory_requirements(*image) };
    let sparse = unsafe { gpu.device.get_image_sparse_memory_requirements(*image) };
    ensure!(!sparse.is_empty(), "a sparse image without sparse requirements");
    let tile = sparse[0].format_properties.image_granularity;
    ensure!(tile.width > 0 && tile.height > 0, "a tile of {tile:?}");
    let (across, down) = (SIDE.div_ceil(tile.width), SIDE.div_ceil(tile.height));
    let memory = memory(gpu, requirements, u64::from(across * down))?;
    let resident = |x: u32, y: u32| (x + y).is_multiple_of(2);
    let mut binds = Vec::new();
    for y in 0..down {
        for x in 0..across {
            if resident(x, y) {
                binds.push(
                    vk::SparseImageMemoryBind::default()
                        .subresource(vk::ImageSubresource {
                            aspect_mask: vk::ImageAspectFlags::COLOR,
                            mip_level: 0,
                            array_layer: 0,
                        })
                        .offset(vk::Offset3D {
                            x: (x * tile.width) as i32,
                            y: (y * tile.height) as i32,
                            z: 0,
                        })
                        .extent(vk::Extent3D {
                            width: tile.width.min(SIDE - x * tile.width),
                            height: tile.height.min(SIDE - y * tile.height),
                            depth: 1,
                        })
                        .memory(*memory)
                        .memory_offset(u64::from(y * across + x) * requirements.alignment),
                );
            }
        }
    }
    let images = [vk::SparseImageMemoryBindInfo::default().image(*image).binds(&binds)];
    bind(gpu, &vk::BindSparseInfo::default().image_binds(&images))?;
    let range = vk::ImageSubresourceRange {
        aspect_mask: vk::ImageAspectFlags::COLOR,
        base_mip_level: 0,
        level_count: 1,
        base_array_layer: 0,
        layer_count: 1,
    };
    let data = Random(10).bytes((SIDE * SIDE * 4) as usize);
    let source = gpu.buffer_with(&data, BOTH)?;
    let sink = gpu.buffer_with(&vec![0u8; data.len()], BOTH)?;
    // Only tiles that have memory are copied: what the others hold is nobody's promise.
    let copies: Vec<_> = binds
        .iter()
        .map(|bind| {
            vk::BufferImageCopy::default()
                .buffer_offset(((bind.offset.y as u32 * SIDE + bind.offset.x as u32) * 4).into())
                .buffer_row_length(SIDE)
                .image_subresource(vk::ImageSubresourceLayers {
                    aspect_mask: vk::ImageAspectFlags::COLOR,
                    mip_level: 0,
                    base_array_layer: 0,
                    layer_count: 1,
                })
                .image_offset(bind.offset)
                .image_extent(bind.extent)
        })
        .collect();
    let (write, read) =
        (vk::ImageLayout::TRANSFER_DST_OPTIMAL, vk::ImageLayout::TRANSFER_SRC_OPTIMAL);
    gpu.run(|device, cmd| unsafe {
        crate::gpu::transition(device, cmd, *image, range, vk::ImageLayout::UNDEFINED, write);
        device.cmd_copy_buffer_to_image(cmd, *source.handle, *image, write, &copies);
        crate::gpu::transition(device, cmd, *image, range, write, read);
        device.cmd_copy_image_to_buffer(cmd, *image, read, *sink.handle, &copies);
        barrier(device, cmd);
    })?;
    let pixels = sink.bytes();
    for y in 0..SIDE {
        for x in 0..SIDE {
            let at = ((y * SIDE + x) * 4) as usize;
            let want = if resident(x / tile.width, y / tile.height) {
                &data[at..at + 4]
            } else {
                &[0; 4]
            };
            ensure!(&pixels[at..at + 4] == want, "the texel at {x}, {y} was lost");
        }
    }
    report.part("sparse image", pixels);
    Ok(())
}
