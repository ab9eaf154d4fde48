//! Copies between images and memory that the host makes without a queue.

use anyhow::{Context, Result, ensure};
use ash::vk;

use crate::gpu::{Gpu, Image, ImageDesc};
use crate::report::Report;
use crate::scenes::{Options, Random};

const USAGE: vk::ImageUsageFlags = vk::ImageUsageFlags::from_raw(
    vk::ImageUsageFlags::TRANSFER_SRC.as_raw()
        | vk::ImageUsageFlags::TRANSFER_DST.as_raw()
        | vk::ImageUsageFlags::HOST_TRANSFER_EXT.as_raw(),
);
const GENERAL: vk::ImageLayout = vk::ImageLayout::GENERAL;
const RGBA: vk::Format = vk::Format::R8G8B8A8_UNORM;
const COLOR: vk::ImageAspectFlags = vk::ImageAspectFlags::COLOR;
const PLAIN: vk::HostImageCopyFlagsEXT = vk::HostImageCopyFlagsEXT::empty();
const MEMCPY: vk::HostImageCopyFlagsEXT = vk::HostImageCopyFlagsEXT::MEMCPY;

/// Formats, the bytes and the width and height of their blocks, and the aspects that they have.
const FORMATS: &[(vk::Format, usize, usize, vk::ImageAspectFlags)] = &[
    (vk::Format::R8_UNORM, 1, 1, COLOR),
    (vk::Format::R5G6B5_UNORM_PACK16, 2, 1, COLOR),
    (RGBA, 4, 1, COLOR),
    (vk::Format::A2B10G10R10_UNORM_PACK32, 4, 1, COLOR),
    (vk::Format::R32G32B32_SFLOAT, 12, 1, COLOR),
    (vk::Format::R16G16B16A16_UINT, 8, 1, COLOR),
    (vk::Format::R32G32B32A32_SINT, 16, 1, COLOR),
    (vk::Format::BC1_RGB_UNORM_BLOCK, 8, 4, COLOR),
    (vk::Format::BC3_UNORM_BLOCK, 16, 4, COLOR),
    (vk::Format::BC7_SRGB_BLOCK, 16, 4, COLOR),
    (vk::Format::ETC2_R8G8B8_UNORM_BLOCK, 8, 4, COLOR),
    (vk::Format::ASTC_5X5_UNORM_BLOCK, 16, 5, COLOR),
    (vk::Format::D16_UNORM, 2, 1, vk::ImageAspectFlags::DEPTH),
    (vk::Format::D32_SFLOAT, 4, 1, vk::ImageAspectFlags::DEPTH),
    (vk::Format::S8_UINT, 1, 1, vk::ImageAspectFlags::STENCIL),
    (vk::Format::G8_B8_R8_3PLANE_420_UNORM, 1, 1, vk::ImageAspectFlags::PLANE_0),
];

struct Copies<'g> {
    gpu: &'g Gpu,
    fns: ash::ext::host_image_copy::Device,
}

/// A region of an image, and how it lies in memory.
#[derive(Clone, Copy)]
struct Region {
    subresource: vk::ImageSubresourceLayers,
    offset: vk::Offset3D,
    extent: vk::Extent3D,
    row_length: u32,
    image_height: u32,
}

impl Region {
    fn whole(image: &Image<'_>, level: u32) -> Self {
        let copy = image.copy(level, 0);
        Self {
            subresource: copy.image_subresource,
            offset: copy.image_offset,
            extent: copy.image_extent,
            row_length: 0,
            image_height: 0,
        }
    }
}

impl<'g> Copies<'g> {
    fn image(&self, desc: ImageDesc) -> Result<Image<'g>> {
        let image = self.gpu.image(desc)?;
        self.transition(&image, vk::ImageLayout::UNDEFINED, GENERAL)?;
        Ok(image)
    }

    fn transition(
        &self,
        image: &Image<'_>,
        from: vk::ImageLayout,
        to: vk::ImageLayout,
    ) -> Result<()> {
        let transition = vk::HostImageLayoutTransitionInfoEXT::default()
            .image(*image.handle)
            .old_layout(from)
            .new_layout(to)
            .subresource_range(image.range);
        unsafe { self.fns.transition_image_layout(&[transition])? };
        Ok(())
    }

    fn to_image(
        &self,
        image: &Image<'_>,
        flags: vk::HostImageCopyFlagsEXT,
        regions: &[(Region, &[u8])],
    ) -> Result<()> {
        let regions: Vec<_> = regions
            .iter()
            .map(|(region, data)| {
                let mut copy = vk::MemoryToImageCopyEXT::default()
                    .memory_row_length(region.row_length)
                    .memory_image_height(region.image_height)
                    .image_subresource(region.subresource)
                    .image_offset(region.offset)
                    .image_extent(region.extent);
                copy.p_host_pointer = data.as_ptr().cast();
                copy
            })
            .collect();
        let info = vk::CopyMemoryToImageInfoEXT::default()
            .flags(flags)
            .dst_image(*image.handle)
            .dst_image_layout(GENERAL)
            .regions(&regions);
        unsafe { self.fns.copy_memory_to_image(&info) }.context("copying to an image")
    }

    fn to_memory(
        &self,
        image: &Image<'_>,
        flags: vk::HostImageCopyFlagsEXT,
        regions: &mut [(Region, &mut [u8])],
    ) -> Result<()> {
        let regions: Vec<_> = regions
            .iter_mut()
            .map(|(region, data)| {
                let mut copy = vk::ImageToMemoryCopyEXT::default()
                    .memory_row_length(region.row_length)
                    .memory_image_height(region.image_height)
                    .image_subresource(region.subresource)
                    .image_offset(region.offset)
                    .image_extent(region.extent);
                copy.p_host_pointer = data.as_mut_ptr().cast();
                copy
            })
            .collect();
        let info = vk::CopyImageToMemoryInfoEXT::default()
            .flags(flags)
            .src_image(*image.handle)
            .src_image_layout(GENERAL)
            .regions(&regions);
        unsafe { self.fns.copy_image_to_memory(&info) }.context("copying from an image")
    }

    /// All of a level, of so many bytes.
    fn level(&self, image: &Image<'_>, level: u32, size: usize) -> Result<Vec<u8>> {
        let mut out = vec![0; size];
        self.to_memory(image, PLAIN, &mut [(Region::whole(image, level), &mut out)])?;
        Ok(out)
    }
}

pub(super) fn run(gpu: &Gpu, _options: &Options, report: &mut Report) -> Result<()> {
    let shown = gpu.extensions.contains("VK_EXT_host_image_copy");
    if !report.needs("host image copies", shown, "VK_EXT_host_image_copy is not shown") {
        return Ok(());
    }
    let fns = ash::ext::host_image_copy::Device::new(&gpu.instance, &gpu.device);
    let copies = Copies { gpu, fns };
    let all = [
        layouts(gpu)?,
        formats(&copies)?,
        regions(&copies)?,
        volume(&copies)?,
        levels(&copies)?,
        large(&copies)?,
        swizzled(&copies)?,
        between(&copies)?,
    ];
    report.part("host image copies", all.concat());
    Ok(())
}

/// The layouts that such copies may find images in.
fn layouts(gpu: &Gpu) -> Result<Vec<u8>> {
    let mut all = vk::PhysicalDeviceHostImageCopyPropertiesEXT::default();
    let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut all);
    unsafe { gpu.instance.get_physical_device_properties2(gpu.physical, &mut properties) };
    let mut from = vec![vk::ImageLayout::UNDEFINED; all.copy_src_layout_count as usize];
    let mut to = vec![vk::ImageLayout::UNDEFINED; all.copy_dst_layout_count as usize];
    let mut all = vk::PhysicalDeviceHostImageCopyPropertiesEXT::default()
        .copy_src_layouts(&mut from)
        .copy_dst_layouts(&mut to);
    let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut all);
    unsafe { gpu.instance.get_physical_device_properties2(gpu.physical, &mut properties) };
    let mut bytes = all.optimal_tiling_layout_uuid.to_vec();
    bytes.push(all.identical_memory_type_requirements as u8);
    ensure!(from.contains(&GENERAL) && to.contains(&GENERAL), "no copies in the general layout");
    for layout in from.iter().chain(&to) {
        bytes.extend(layout.as_raw().to_le_bytes());
    }
    Ok(bytes)
}

/// Whether images of a format can be copied by the host.
fn has(gpu: &Gpu, format: vk::Format) -> bool {
    let mut all = vk::FormatProperties3::default();
    let mut properties = vk::FormatProperties2::default().push_next(&mut all);
    unsafe {
        let physical = gpu.physical;
        gpu.instance.get_physical_device_format_properties2(physical, format, &mut properties);
    }
    all.optimal_tiling_features.contains(vk::FormatFeatureFlags2::HOST_IMAGE_TRANSFER_EXT)
}

/// An image of each format, in and out.
fn formats(copies: &Copies<'_>) -> Result<Vec<u8>> {
    let mut random = Random(11);
    let mut all = Vec::new();
    let mut count = 0;
    for &(format, size, block, aspect) in FORMATS {
        if !has(copies.gpu, format) {
            continue;
        }
        count += 1;
        let (width, height) = (38, 22);
        let mut image = copies.gpu.image(ImageDesc::flat(format, width, height, USAGE))?;
        image.range.aspect_mask =
            if aspect == vk::ImageAspectFlags::PLANE_0 { COLOR } else { aspect };
        copies.transition(&image, vk::ImageLayout::UNDEFINED, GENERAL)?;
        let planes: &[(vk::ImageAspectFlags, u32)] = if aspect == vk::ImageAspectFlags::PLANE_0 {
            &[
                (vk::ImageAspectFlags::PLANE_0, 1),
                (vk::ImageAspectFlags::PLANE_1, 2),
                (vk::ImageAspectFlags::PLANE_2, 2),
            ]
        } else {
            &[(aspect, 1)]
        };
        for &(aspect, divisor) in planes {
            let mut region = Region::whole(&image, 0);
            region.subresource.aspect_mask = aspect;
            region.extent.width /= divisor;
            region.extent.height /= divisor;
            let blocks = (region.extent.width as usize).div_ceil(block)
                * (region.extent.height as usize).div_ceil(block);
            let mut data = random.bytes(blocks * size);
            if format == vk::Format::D32_SFLOAT || format == vk::Format::R32G32B32_SFLOAT {
                let numbers = data.chunks_exact_mut(4);
                numbers.for_each(|n| n.copy_from_slice(&random.unit().to_le_bytes()));
            }
            copies.to_image(&image, PLAIN, &[(region, &data)])?;
            let mut back = vec![0; data.len()];
            copies.to_memory(&image, PLAIN, &mut [(region, &mut back)])?;
            ensure!(back == data, "{format:?} {aspect:?} is not what was copied");
            all.extend(format.as_raw().to_le_bytes());
            all.extend(back);
        }
    }
    ensure!(count > 0, "no format can be copied");
    Ok(all)
}

/// Copies a region between an image's tight bytes and memory, texel by texel.
fn model(
    image: &mut [u8],
    [width, height]: [usize; 2],
    region: &Region,
    memory: &mut [u8],
    to_image: bool,
) {
    let or = |stated: u32, extent: u32| if stated == 0 { extent } else { stated } as usize;
    let pitch = or(region.row_length, region.extent.width);
    let slice = or(region.image_height, region.extent.height) * pitch;
    let (layers, first) = if region.extent.depth > 1 {
        (region.extent.depth, region.offset.z as usize)
    } else {
        (region.subresource.layer_count, region.subresource.base_array_layer as usize)
    };
    for layer in 0..layers as usize {
        for y in 0..region.extent.height as usize {
            for x in 0..region.extent.width as usize {
                let row = (first + layer) * height + region.offset.y as usize + y;
                let at = (row * width + region.offset.x as usize + x) * 4;
                let lies = (layer * slice + y * pitch + x) * 4;
                let (texel, bytes) = (&mut image[at..at + 4], &mut memory[lies..lies + 4]);
                if to_image {
                    texel.copy_from_slice(bytes);
                } else {
                    bytes.copy_from_slice(texel);
                }
            }
        }
    }
}

/// Parts of layers, with and without gaps in memory, several of one call.
fn regions(copies: &Copies<'_>) -> Result<Vec<u8>> {
    const SIZE: [usize; 2] = [61, 47];
    const LAYERS: usize = 5;
    let mut random = Random(12);
    let desc = ImageDesc {
        layers: LAYERS as u32,
        ..ImageDesc::flat(RGBA, SIZE[0] as u32, SIZE[1] as u32, USAGE)
    };
    let image = copies.image(desc)?;
    let mut want = random.bytes(SIZE[0] * SIZE[1] * LAYERS * 4);
    copies.to_image(&image, PLAIN, &[(Region::whole(&image, 0), &want)])?;
    let part = |x, y, width, height, layers: [u32; 2], row_length, image_height| {
        let mut region = Region::whole(&image, 0);
        region.offset = vk::Offset3D { x, y, z: 0 };
        region.extent = vk::Extent3D { width, height, depth: 1 };
        region.subresource.base_array_layer = layers[0];
        region.subresource.layer_count = layers[1];
        region.row_length = row_length;
        region.image_height = image_height;
        region
    };
    let parts = [
        part(0, 0, 1, 1, [0, 1], 0, 0),
        part(3, 5, 20, 10, [1, 1], 0, 0),
        part(7, 1, 50, 46, [2, 2], 0, 0),
        part(7, 1, 50, 46, [4, 1], 53, 0),
        part(1, 20, 30, 20, [0, 2], 0, 25),
        part(40, 30, 21, 17, [1, 3], 30, 20),
    ];
    let mut new: Vec<Vec<u8>> = parts.iter().map(|_| random.bytes(100_000)).collect();
    let both: Vec<_> = parts.iter().copied().zip(new.iter().map(Vec::as_slice)).collect();
    copies.to_image(&image, PLAIN, &both)?;
    for (region, data) in parts.iter().zip(&mut new) {
        model(&mut want, SIZE, region, data, true);
    }
    let got = copies.level(&image, 0, want.len())?;
    ensure!(got == want, "the parts of the image are not where they should be");
    // What lies between rows stays as it is.
    let mut there = vec![vec![0x5a; 100_000]; parts.len()];
    let mut back = there.clone();
    let mut both: Vec<_> = parts.iter().copied().zip(back.iter_mut().map(Vec::as_mut_slice)).collect();
    copies.to_memory(&image, PLAIN, &mut both)?;
    for (region, data) in parts.iter().zip(&mut there) {
        model(&mut want, SIZE, region, data, false);
    }
    ensure!(back == there, "the parts in memory are not what they should be");
    Ok([got, back.concat()].concat())
}

/// Parts of an image of three dimensions.
fn volume(copies: &Copies<'_>) -> Result<Vec<u8>> {
    const SIZE: [usize; 2] = [33, 21];
    const DEPTH: usize = 13;
    let mut random = Random(13);
    let mut desc = ImageDesc::flat(RGBA, SIZE[0] as u32, SIZE[1] as u32, USAGE);
    desc.extent.depth = DEPTH as u32;
    let image = copies.image(desc)?;
    let mut want = random.bytes(SIZE[0] * SIZE[1] * DEPTH * 4);
    copies.to_image(&image, PLAIN, &[(Region::whole(&image, 0), &want)])?;
    let mut region = Region::whole(&image, 0);
    region.offset = vk::Offset3D { x: 2, y: 4, z: 3 };
    region.extent = vk::Extent3D { width: 17, height: 9, depth: 8 };
    region.row_length = 19;
    region.image_height = 11;
    let mut data = random.bytes(19 * 11 * 8 * 4);
    copies.to_image(&image, PLAIN, &[(region, &data)])?;
    model(&mut want, SIZE, &region, &mut data, true);
    let got = copies.level(&image, 0, want.len())?;
    ensure!(got == want, "the part of the volume is not where it should be");
    Ok(got)
}

/// Mip levels by themselves.
fn levels(copies: &Copies<'_>) -> Result<Vec<u8>> {
    let mut random = Random(14);
    let desc = ImageDesc { levels: 4, ..ImageDesc::flat(RGBA, 40, 24, USAGE) };
    let image = copies.image(desc)?;
    let mut all = Vec::new();
    let sizes = [40 * 24, 20 * 12, 10 * 6, 5 * 3].map(|texels| texels * 4);
    for (level, size) in (0..).zip(sizes) {
        let data = random.bytes(size);
        copies.to_image(&image, PLAIN, &[(Region::whole(&image, level), &data)])?;
        all.push(data);
    }
    for ((level, size), data) in (0..).zip(sizes).zip(&all) {
        ensure!(copies.level(&image, level, size)? == *data, "level {level} differs");
    }
    Ok(all.concat())
}

/// An image of several megabytes, and what a queue makes of it.
fn large(copies: &Copies<'_>) -> Result<Vec<u8>> {
    let (width, height) = (1500, 1100);
    let size = width as usize * height as usize * 4;
    let image = copies.image(ImageDesc::flat(RGBA, width, height, USAGE))?;
    let data = Random(15).bytes(size);
    copies.to_image(&image, PLAIN, &[(Region::whole(&image, 0), &data)])?;
    let buffer = copies.gpu.buffer(size as u64, vk::BufferUsageFlags::TRANSFER_DST)?;
    copies.gpu.run(|device, cmd| unsafe {
        let copy = [image.copy(0, 0)];
        device.cmd_copy_image_to_buffer(cmd, *image.handle, GENERAL, *buffer.handle, &copy);
        crate::gpu::barrier(device, cmd);
    })?;
    ensure!(buffer.bytes() == data, "a queue finds another image");
    // A hundred texels between rows.
    let mut region = Region::whole(&image, 0);
    region.row_length = width + 100;
    let row = width as usize * 4;
    let mut back = vec![7; (row + 400) * height as usize];
    copies.to_memory(&image, PLAIN, &mut [(region, &mut back)])?;
    for (back, data) in back.chunks_exact(row + 400).zip(data.chunks_exact(row)) {
        ensure!(back[..row] == *data, "a row differs");
        ensure!(back[row..].iter().all(|byte| *byte == 7), "a gap was written to");
    }
    Ok(back[..1 << 16].to_vec())
}

/// From image to image as the driver keeps it, layer by layer.
fn swizzled(copies: &Copies<'_>) -> Result<Vec<u8>> {
    let desc = ImageDesc { levels: 2, layers: 3, ..ImageDesc::flat(RGBA, 45, 31, USAGE) };
    let (from, to) = (copies.image(desc)?, copies.image(desc)?);
    let layout = ash::ext::image_compression_control::Device::new(
        &copies.gpu.instance,
        &copies.gpu.device,
    );
    let mut all = Vec::new();
    for (level, texels) in [(0, 45 * 31), (1, 22 * 15)] {
        let data = Random(16).bytes(texels * 3 * 4);
        copies.to_image(&from, PLAIN, &[(Region::whole(&from, level), &data)])?;
        let subresource = vk::ImageSubresource2EXT::default().image_subresource(
            vk::ImageSubresource { aspect_mask: COLOR, mip_level: level, array_layer: 0 },
        );
        let mut size = vk::SubresourceHostMemcpySizeEXT::default();
        let mut answer = vk::SubresourceLayout2EXT::default().push_next(&mut size);
        let function = layout.fp().get_image_subresource_layout2_ext;
        unsafe { function(copies.gpu.device.handle(), *from.handle, &subresource, &mut answer) };
        ensure!(size.size as usize >= texels * 4, "a layer of {} bytes", size.size);
        let mut kept = vec![0; size.size as usize * 3];
        let region = Region::whole(&from, level);
        copies.to_memory(&from, MEMCPY, &mut [(region, &mut kept)])?;
        copies.to_image(&to, MEMCPY, &[(region, &kept)])?;
        let got = copies.level(&to, level, data.len())?;
        ensure!(got == data, "level {level} is not what it was after copies as the driver keeps it");
        all.extend(got);
    }
    Ok(all)
}

/// From image to image, and through layouts.
fn between(copies: &Copies<'_>) -> Result<Vec<u8>> {
    const SIZE: usize = 30 * 20 * 4;
    let desc = ImageDesc { layers: 2, ..ImageDesc::flat(RGBA, 30, 20, USAGE) };
    let (from, to) = (copies.image(desc)?, copies.image(desc)?);
    let mut random = Random(17);
    let (data, mut want) = (random.bytes(SIZE * 2), random.bytes(SIZE * 2));
    copies.to_image(&from, PLAIN, &[(Region::whole(&from, 0), &data)])?;
    copies.to_image(&to, PLAIN, &[(Region::whole(&to, 0), &want)])?;
    copies.transition(&from, GENERAL, vk::ImageLayout::SHADER_READ_ONLY_OPTIMAL)?;
    copies.transition(&from, vk::ImageLayout::SHADER_READ_ONLY_OPTIMAL, GENERAL)?;
    let layer = |layer| vk::ImageSubresourceLayers {
        aspect_mask: COLOR,
        mip_level: 0,
        base_array_layer: layer,
        layer_count: 1,
    };
    let regions = [vk::ImageCopy2::default()
        .src_subresource(layer(1))
        .src_offset(vk::Offset3D { x: 3, y: 2, z: 0 })
        .dst_subresource(layer(0))
        .dst_offset(vk::Offset3D { x: 11, y: 7, z: 0 })
        .extent(vk::Extent3D { width: 19, height: 12, depth: 1 })];
    let info = vk::CopyImageToImageInfoEXT::default()
        .src_image(*from.handle)
        .src_image_layout(GENERAL)
        .dst_image(*to.handle)
        .dst_image_layout(GENERAL)
        .regions(&regions);
    unsafe { copies.fns.copy_image_to_image(&info)? };
    for y in 0..12 {
        let source = SIZE + ((2 + y) * 30 + 3) * 4;
        let sink = ((7 + y) * 30 + 11) * 4;
        want[sink..sink + 19 * 4].copy_from_slice(&data[source..source + 19 * 4]);
    }
    let got = copies.level(&to, 0, SIZE * 2)?;
    ensure!(got == want, "the part is not where it was copied to");
    Ok(got)
}
