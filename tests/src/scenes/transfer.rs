//! Copies of every kind, at odd offsets and sizes.

use anyhow::{Result, ensure};
use ash::vk;

use crate::gpu::{Buffer, Gpu, Image, ImageDesc, barrier};
use crate::report::Report;
use crate::scenes::{Options, Random};

const BOTH: vk::BufferUsageFlags = vk::BufferUsageFlags::from_raw(
    vk::BufferUsageFlags::TRANSFER_SRC.as_raw() | vk::BufferUsageFlags::TRANSFER_DST.as_raw(),
);
const IMAGE_BOTH: vk::ImageUsageFlags = vk::ImageUsageFlags::from_raw(
    vk::ImageUsageFlags::TRANSFER_SRC.as_raw() | vk::ImageUsageFlags::TRANSFER_DST.as_raw(),
);
const SOURCE: vk::ImageLayout = vk::ImageLayout::TRANSFER_SRC_OPTIMAL;
const SINK: vk::ImageLayout = vk::ImageLayout::TRANSFER_DST_OPTIMAL;
const RGBA: vk::Format = vk::Format::R8G8B8A8_UNORM;

pub(super) fn run(gpu: &Gpu, _options: &Options, report: &mut Report) -> Result<()> {
    buffers(gpu, report)?;
    fill_update(gpu, report)?;
    buffer_image(gpu, report)?;
    image_image(gpu, report)?;
    volume(gpu, report)?;
    blit(gpu, report)?;
    clear(gpu, report)?;
    copies2(gpu, report)
}

/// Many regions of odd sizes at odd places, by way of device-local memory.
fn buffers(gpu: &Gpu, report: &mut Report) -> Result<()> {
    const SIZE: u64 = 300_007;
    let mut random = Random(1);
    let mut model = random.bytes(SIZE as usize);
    let from = gpu.buffer_with(&model, BOTH)?;
    let over = gpu.device_buffer(SIZE, BOTH)?;
    let to = gpu.buffer(SIZE, BOTH)?;
    // Regions of one command must not overlap where they write: one per stripe.
    let regions: Vec<_> = (0..97u64)
        .map(|stripe| {
            let size = 1 + random.below(SIZE / 97 - 1);
            vk::BufferCopy {
                src_offset: random.below(SIZE - size),
                dst_offset: stripe * (SIZE / 97) + random.below(SIZE / 97 - size),
                size,
            }
        })
        .collect();
    let all = [vk::BufferCopy { src_offset: 0, dst_offset: 0, size: SIZE }];
    gpu.run(|device, cmd| unsafe {
        device.cmd_copy_buffer(cmd, *from.handle, *over.handle, &all);
        barrier(device, cmd);
        device.cmd_copy_buffer(cmd, *from.handle, *over.handle, &regions);
        barrier(device, cmd);
        device.cmd_copy_buffer(cmd, *over.handle, *to.handle, &all);
        barrier(device, cmd);
    })?;
    let origin = model.clone();
    for region in &regions {
        let (source, sink, size) =
            (region.src_offset as usize, region.dst_offset as usize, region.size as usize);
        model[sink..sink + size].copy_from_slice(&origin[source..source + size]);
    }
    ensure!(to.bytes() == model, "the copied regions are not where they should be");
    report.part("buffer to buffer", to.bytes());
    Ok(())
}

fn fill_update(gpu: &Gpu, report: &mut Report) -> Result<()> {
    const SIZE: u64 = 70_001;
    let buffer = gpu.buffer(SIZE, BOTH)?;
    let data = Random(2).bytes(65536);
    gpu.run(|device, cmd| unsafe {
        // The fill of the whole leaves the last odd byte alone, so that byte is not part of the result.
        device.cmd_fill_buffer(cmd, *buffer.handle, 0, vk::WHOLE_SIZE, 0x0102_0304);
        barrier(device, cmd);
        device.cmd_fill_buffer(cmd, *buffer.handle, 12, 20, 0xfeed_f00d);
        device.cmd_update_buffer(cmd, *buffer.handle, 100, &data);
        barrier(device, cmd);
        device.cmd_update_buffer(cmd, *buffer.handle, 4, &data[..4]);
        device.cmd_update_buffer(cmd, *buffer.handle, 65_000, &data[8..1036]);
        barrier(device, cmd);
    })?;
    let mut model: Vec<u8> =
        0x0102_0304u32.to_le_bytes().iter().copied().cycle().take(SIZE as usize - 1).collect();
    let mark = 0xfeed_f00du32.to_le_bytes();
    model[12..32].copy_from_slice(&mark.repeat(5));
    model[100..100 + 65536].copy_from_slice(&data);
    model[4..8].copy_from_slice(&data[..4]);
    model[65_000..66_028].copy_from_slice(&data[8..1036]);
    let got = buffer.read(0, SIZE - 1);
    ensure!(got == model, "filled and updated bytes differ");
    report.part("fill and update", got);
    Ok(())
}

fn flat(gpu: &Gpu, format: vk::Format, width: u32, height: u32) -> Result<Image<'_>> {
    gpu.image(ImageDesc::flat(format, width, height, IMAGE_BOTH))
}

/// Fills level 0 of an image from a buffer, and leaves the image in `layout`.
fn load(gpu: &Gpu, image: &Image<'_>, data: &[u8], layout: vk::ImageLayout) -> Result<()> {
    let staging = gpu.buffer_with(data, BOTH)?;
    gpu.run(|device, cmd| unsafe {
        image.to(device, cmd, vk::ImageLayout::UNDEFINED, SINK);
        let copy = [image.copy(0, 0)];
        device.cmd_copy_buffer_to_image(cmd, *staging.handle, *image.handle, SINK, &copy);
        image.to(device, cmd, SINK, layout);
    })
}

/// All of an image that is in `layout`, one level after the other.
fn store(gpu: &Gpu, image: &Image<'_>, layout: vk::ImageLayout, texel: u64) -> Result<Vec<u8>> {
    let mut copies = Vec::new();
    let mut end = 0;
    for level in 0..image.desc.levels {
        let copy = image.copy(level, end);
        let size = copy.image_extent;
        let texels = u64::from(size.width) * u64::from(size.height) * u64::from(size.depth);
        end += texels * u64::from(image.desc.layers) * texel;
        end = end.next_multiple_of(16);
        copies.push(copy);
    }
    let staging = gpu.buffer_with(&vec![0u8; end as usize], BOTH)?;
    gpu.run(|device, cmd| unsafe {
        image.to(device, cmd, layout, SOURCE);
        device.cmd_copy_image_to_buffer(cmd, *image.handle, SOURCE, *staging.handle, &copies);
        barrier(device, cmd);
    })?;
    Ok(staging.bytes())
}

/// Rectangles with padded rows on the buffer's side.
fn buffer_image(gpu: &Gpu, report: &mut Report) -> Result<()> {
    const WIDTH: u32 = 123;
    const HEIGHT: u32 = 77;
    let mut random = Random(3);
    let background = random.bytes((WIDTH * HEIGHT * 4) as usize);
    let patch = random.bytes(64 * 1024);
    let image = flat(gpu, RGBA, WIDTH, HEIGHT)?;
    load(gpu, &image, &background, SINK)?;
    let source = gpu.buffer_with(&patch, BOTH)?;
    let sink = gpu.buffer_with(&[0x55u8; 64 * 1024], BOTH)?;
    let rectangle = |offset, row, x, y, width, height| {
        vk::BufferImageCopy::default()
            .buffer_offset(offset)
            .buffer_row_length(row)
            .buffer_image_height(0)
            .image_subresource(image.level(0))
            .image_offset(vk::Offset3D { x, y, z: 0 })
            .image_extent(vk::Extent3D { width, height, depth: 1 })
    };
    let writes = [
        rectangle(4, 41, 3, 5, 37, 19),
        rectangle(8192, 0, 101, 70, 22, 7),
        rectangle(20004, 129, 0, 40, 1, 30),
    ];
    let reads = [rectangle(12, 100, 1, 2, 99, 70), rectangle(40_000, 0, 100, 0, 23, 77)];
    gpu.run(|device, cmd| unsafe {
        device.cmd_copy_buffer_to_image(cmd, *source.handle, *image.handle, SINK, &writes);
        image.to(device, cmd, SINK, SOURCE);
        device.cmd_copy_image_to_buffer(cmd, *image.handle, SOURCE, *sink.handle, &reads);
        barrier(device, cmd);
    })?;
    let mut pixels = background;
    let mut want = vec![0x55u8; 64 * 1024];
    for (copies, into_image) in [(&writes[..], true), (&reads[..], false)] {
        for copy in copies {
            let size = copy.image_extent;
            let row = if copy.buffer_row_length == 0 { size.width } else { copy.buffer_row_length };
            for y in 0..size.height {
                let at = copy.buffer_offset as usize + (y * row * 4) as usize;
                let (px, py) = (copy.image_offset.x as u32, copy.image_offset.y as u32 + y);
                let pixel = ((py * WIDTH + px) * 4) as usize;
                let length = (size.width * 4) as usize;
                if into_image {
                    pixels[pixel..pixel + length].copy_from_slice(&patch[at..at + length]);
                } else {
                    want[at..at + length].copy_from_slice(&pixels[pixel..pixel + length]);
                }
            }
        }
    }
    ensure!(sink.bytes() == want, "rectangles between buffer and image differ");
    report.part("buffer and image", sink.bytes());
    Ok(())
}

/// Between images of different formats, levels and layers.
fn image_image(gpu: &Gpu, report: &mut Report) -> Result<()> {
    let mut random = Random(4);
    let from = flat(gpu, RGBA, 65, 33)?;
    load(gpu, &from, &random.bytes(65 * 33 * 4), SOURCE)?;
    let to = gpu.image(ImageDesc {
        levels: 3,
        layers: 5,
        ..ImageDesc::flat(vk::Format::R32_UINT, 64, 64, IMAGE_BOTH)
    })?;
    let part = |level, layer| vk::ImageSubresourceLayers {
        aspect_mask: vk::ImageAspectFlags::COLOR,
        mip_level: level,
        base_array_layer: layer,
        layer_count: 1,
    };
    let copy = |(sx, sy): (i32, i32), level, layer, (dx, dy): (i32, i32), width, height| vk::ImageCopy {
        src_subresource: part(0, 0),
        src_offset: vk::Offset3D { x: sx, y: sy, z: 0 },
        dst_subresource: part(level, layer),
        dst_offset: vk::Offset3D { x: dx, y: dy, z: 0 },
        extent: vk::Extent3D { width, height, depth: 1 },
    };
    let copies = [
        copy((1, 1), 0, 0, (0, 0), 64, 32),
        copy((0, 3), 0, 4, (7, 9), 57, 29),
        copy((33, 0), 1, 2, (1, 2), 31, 30),
        copy((64, 32), 2, 3, (15, 15), 1, 1),
    ];
    gpu.run(|device, cmd| unsafe {
        to.to(device, cmd, vk::ImageLayout::UNDEFINED, SINK);
        let color = vk::ClearColorValue { uint32: [0x1234_5678, 0, 0, 0] };
        device.cmd_clear_color_image(cmd, *to.handle, SINK, &color, &[to.range]);
        to.to(device, cmd, SINK, SINK);
        device.cmd_copy_image(cmd, *from.handle, SOURCE, *to.handle, SINK, &copies);
    })?;
    report.part("image to image", store(gpu, &to, SINK, 4)?);
    Ok(())
}

/// A 3D image: boxes in and out.
fn volume(gpu: &Gpu, report: &mut Report) -> Result<()> {
    let extent = vk::Extent3D { width: 19, height: 13, depth: 11 };
    let texels = (extent.width * extent.height * extent.depth) as usize;
    let data = Random(5).bytes(texels * 8);
    let image = gpu.image(ImageDesc {
        extent,
        ..ImageDesc::flat(vk::Format::R16G16B16A16_SFLOAT, 1, 1, IMAGE_BOTH)
    })?;
    load(gpu, &image, &data, SOURCE)?;
    let whole = store(gpu, &image, SOURCE, 8)?;
    ensure!(whole.starts_with(&data), "the volume came back changed");
    let out = gpu.buffer_with(&[0u8; 8192], BOTH)?;
    let corner = vk::BufferImageCopy::default()
        .buffer_offset(8)
        .buffer_row_length(9)
        .buffer_image_height(11)
        .image_subresource(image.level(0))
        .image_offset(vk::Offset3D { x: 10, y: 3, z: 6 })
        .image_extent(vk::Extent3D { width: 7, height: 10, depth: 5 });
    gpu.run(|device, cmd| unsafe {
        device.cmd_copy_image_to_buffer(cmd, *image.handle, SOURCE, *out.handle, &[corner]);
        barrier(device, cmd);
    })?;
    report.part("volume", out.bytes());
    Ok(())
}

/// Scaled, flipped and converted.
fn blit(gpu: &Gpu, report: &mut Report) -> Result<()> {
    let from = flat(gpu, RGBA, 48, 40)?;
    load(gpu, &from, &Random(6).bytes(48 * 40 * 4), SOURCE)?;
    for (name, filter, format, texel) in [
        ("blit nearest", vk::Filter::NEAREST, vk::Format::B8G8R8A8_UNORM, 4),
        ("blit linear", vk::Filter::LINEAR, vk::Format::R16G16B16A16_SFLOAT, 8),
    ] {
        let to = flat(gpu, format, 100, 100)?;
        let blits = [
            ([0, 0, 48, 40], [0, 0, 100, 50]),
            ([0, 0, 48, 40], [50, 99, 3, 51]),
            ([40, 35, 5, 7], [60, 60, 90, 95]),
        ]
        .map(|(s, d): ([i32; 4], [i32; 4])| {
            let corners = |c: [i32; 4]| {
                [vk::Offset3D { x: c[0], y: c[1], z: 0 }, vk::Offset3D { x: c[2], y: c[3], z: 1 }]
            };
            vk::ImageBlit {
                src_subresource: from.level(0),
                src_offsets: corners(s),
                dst_subresource: to.level(0),
                dst_offsets: corners(d),
            }
        });
        gpu.run(|device, cmd| unsafe {
            to.to(device, cmd, vk::ImageLayout::UNDEFINED, SINK);
            let gray = vk::ClearColorValue { float32: [0.25, 0.5, 0.75, 1.0] };
            device.cmd_clear_color_image(cmd, *to.handle, SINK, &gray, &[to.range]);
            to.to(device, cmd, SINK, SINK);
            device.cmd_blit_image(cmd, *from.handle, SOURCE, *to.handle, SINK, &blits, filter);
        })?;
        report.part(name, store(gpu, &to, SINK, texel)?);
    }
    Ok(())
}

/// Clears of float, integer and depth images, some of them only in part.
fn clear(gpu: &Gpu, report: &mut Report) -> Result<()> {
    let layered = |format| {
        gpu.image(ImageDesc { levels: 4, layers: 3, ..ImageDesc::flat(format, 40, 24, IMAGE_BOTH) })
    };
    let floats = layered(vk::Format::R32G32B32A32_SFLOAT)?;
    let integers = layered(vk::Format::R32G32B32A32_UINT)?;
    let signed = layered(vk::Format::R16G16B16A16_SINT)?;
    let depth = layered(vk::Format::D32_SFLOAT)?;
    gpu.run(|device, cmd| unsafe {
        for image in [&floats, &integers, &signed, &depth] {
            image.to(device, cmd, vk::ImageLayout::UNDEFINED, SINK);
        }
        let color = vk::ClearColorValue { float32: [-1.5, 0.0, 3.0e10, 0.1] };
        device.cmd_clear_color_image(cmd, *floats.handle, SINK, &color, &[floats.range]);
        let color = vk::ClearColorValue { uint32: [1, 0x8000_0000, 0xffff_fffe, 77] };
        device.cmd_clear_color_image(cmd, *integers.handle, SINK, &color, &[integers.range]);
        let color = vk::ClearColorValue { int32: [-1, 32767, -32768, 5] };
        device.cmd_clear_color_image(cmd, *signed.handle, SINK, &color, &[signed.range]);
        let value = vk::ClearDepthStencilValue { depth: 0.625, stencil: 0 };
        device.cmd_clear_depth_stencil_image(cmd, *depth.handle, SINK, &value, &[depth.range]);
        for image in [&floats, &depth] {
            image.to(device, cmd, SINK, SINK);
        }
        let inner = vk::ImageSubresourceRange {
            base_mip_level: 1,
            level_count: 2,
            base_array_layer: 1,
            layer_count: vk::REMAINING_ARRAY_LAYERS,
            ..floats.range
        };
        let last = vk::ImageSubresourceRange {
            base_mip_level: 3,
            level_count: vk::REMAINING_MIP_LEVELS,
            ..floats.range
        };
        let color = vk::ClearColorValue { float32: [1.0, 2.0, 3.0, 4.0] };
        device.cmd_clear_color_image(cmd, *floats.handle, SINK, &color, &[inner, last]);
        let value = vk::ClearDepthStencilValue { depth: 0.0625, stencil: 0 };
        let inner =
            vk::ImageSubresourceRange { aspect_mask: vk::ImageAspectFlags::DEPTH, ..inner };
        device.cmd_clear_depth_stencil_image(cmd, *depth.handle, SINK, &value, &[inner]);
    })?;
    report.part("clear float", store(gpu, &floats, SINK, 16)?);
    report.part("clear unsigned", store(gpu, &integers, SINK, 16)?);
    report.part("clear signed", store(gpu, &signed, SINK, 8)?);
    report.part("clear depth", store(gpu, &depth, SINK, 4)?);
    Ok(())
}

/// The copy commands of Vulkan 1.3, and its barriers.
fn copies2(gpu: &Gpu, report: &mut Report) -> Result<()> {
    let shown = gpu.has_13() && gpu.features13.synchronization2 == vk::TRUE;
    if !report.needs("copy commands 2", shown, "synchronization2 is not shown") {
        return Ok(());
    }
    let data = Random(7).bytes(32 * 32 * 4);
    let from = gpu.buffer_with(&data, BOTH)?;
    let to = gpu.buffer_with(&vec![0u8; 2 * data.len()], BOTH)?;
    let (first, second) = (flat(gpu, RGBA, 32, 32)?, flat(gpu, RGBA, 32, 32)?);
    let sync = |device: &ash::Device, cmd, image: Option<(&Image<'_>, vk::ImageLayout, vk::ImageLayout)>| {
        let stages = vk::PipelineStageFlags2::ALL_TRANSFER;
        let (write, read) = (vk::AccessFlags2::TRANSFER_WRITE, vk::AccessFlags2::TRANSFER_READ);
        let memory = [vk::MemoryBarrier2::default()
            .src_stage_mask(stages)
            .src_access_mask(write)
            .dst_stage_mask(stages | vk::PipelineStageFlags2::HOST)
            .dst_access_mask(read | write | vk::AccessFlags2::HOST_READ)];
        let images: Vec<_> = image
            .iter()
            .map(|(image, from, to)| {
                vk::ImageMemoryBarrier2::default()
                    .src_stage_mask(stages)
                    .src_access_mask(write)
                    .dst_stage_mask(stages)
                    .dst_access_mask(read | write)
                    .old_layout(*from)
                    .new_layout(*to)
                    .image(*image.handle)
                    .subresource_range(image.range)
            })
            .collect();
        let info =
            vk::DependencyInfo::default().memory_barriers(&memory).image_memory_barriers(&images);
        unsafe { device.cmd_pipeline_barrier2(cmd, &info) }
    };
    let region = |image: &Image<'_>, offset| {
        [vk::BufferImageCopy2::default()
            .buffer_offset(offset)
            .image_subresource(image.level(0))
            .image_extent(image.desc.extent)]
    };
    gpu.run(|device, cmd| unsafe {
        let undefined = vk::ImageLayout::UNDEFINED;
        sync(device, cmd, Some((&first, undefined, SINK)));
        sync(device, cmd, Some((&second, undefined, SINK)));
        let regions = region(&first, 0);
        let info = vk::CopyBufferToImageInfo2::default()
            .src_buffer(*from.handle)
            .dst_image(*first.handle)
            .dst_image_layout(SINK)
            .regions(&regions);
        device.cmd_copy_buffer_to_image2(cmd, &info);
        sync(device, cmd, Some((&first, SINK, SOURCE)));
        let regions = [vk::ImageCopy2::default()
            .src_subresource(first.level(0))
            .dst_subresource(second.level(0))
            .extent(first.desc.extent)];
        let info = vk::CopyImageInfo2::default()
            .src_image(*first.handle)
            .src_image_layout(SOURCE)
            .dst_image(*second.handle)
            .dst_image_layout(SINK)
            .regions(&regions);
        device.cmd_copy_image2(cmd, &info);
        sync(device, cmd, None);
        let edge = |x0, y0, x1, y1| {
            [vk::Offset3D { x: x0, y: y0, z: 0 }, vk::Offset3D { x: x1, y: y1, z: 1 }]
        };
        let regions = [vk::ImageBlit2::default()
            .src_subresource(first.level(0))
            .src_offsets(edge(0, 0, 8, 8))
            .dst_subresource(second.level(0))
            .dst_offsets(edge(32, 32, 16, 16))];
        let info = vk::BlitImageInfo2::default()
            .src_image(*first.handle)
            .src_image_layout(SOURCE)
            .dst_image(*second.handle)
            .dst_image_layout(SINK)
            .filter(vk::Filter::NEAREST)
            .regions(&regions);
        device.cmd_blit_image2(cmd, &info);
        sync(device, cmd, Some((&second, SINK, SOURCE)));
        let regions = region(&second, 0);
        let info = vk::CopyImageToBufferInfo2::default()
            .src_image(*second.handle)
            .src_image_layout(SOURCE)
            .dst_buffer(*to.handle)
            .regions(&regions);
        device.cmd_copy_image_to_buffer2(cmd, &info);
        let size = data.len() as u64;
        let regions = [vk::BufferCopy2::default().dst_offset(size).size(size)];
        let info = vk::CopyBufferInfo2::default()
            .src_buffer(*from.handle)
            .dst_buffer(*to.handle)
            .regions(&regions);
        device.cmd_copy_buffer2(cmd, &info);
        sync(device, cmd, None);
    })?;
    ensure!(tail(&to, data.len()) == data, "vkCmdCopyBuffer2 copied something else");
    report.part("copy commands 2", to.bytes());
    Ok(())
}

fn tail(buffer: &Buffer<'_>, length: usize) -> Vec<u8> {
    buffer.read(buffer.size - length as u64, length as u64)
}
