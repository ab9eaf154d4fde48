//! Copies that the host makes between an image and the application's memory, without a queue.
//!
//! Only the guest knows how much of its memory a region stands for. It sends each as packets that say how
//! many bytes they carry: without the gaps that the application may have between rows, and of a large
//! region a part at a time.

use std::collections::HashMap;

use asgard_protocol::extension::Features;
use asgard_protocol::formats::{self, Block};
use parking_lot::Mutex;

use crate::process::Process;
use crate::vulkan::device::device;
use crate::vulkan::image::find;
use crate::vulkan::*;

/// About how many bytes of a region are sent at once: two parts, one that is sent and one that is copied,
/// lie in the processor's cache.
const PART: u32 = 1 << 20;

/// An image that is made for such copies.
#[derive(Debug)]
struct Image {
    format: VkFormat,
    layers: u32,
    /// The bytes of a layer as the driver keeps it, by aspect and mip level.
    sizes: HashMap<(VkImageAspectFlags, u32), VkDeviceSize>,
}

/// The images of a device that are made for such copies, by token.
#[derive(Debug, Default)]
pub(in crate::vulkan) struct Copied(Mutex<HashMap<u64, Image>>);

impl Copied {
    /// There is a new image.
    ///
    /// # Safety
    /// The create-info and its chain are valid.
    pub(super) unsafe fn created(&self, token: u64, info: &VkImageCreateInfo) {
        let kind = VK_STRUCTURE_TYPE_IMAGE_STENCIL_USAGE_CREATE_INFO;
        // SAFETY: the caller's promise.
        let stencil = unsafe { find::<VkImageStencilUsageCreateInfo>(info.pNext, kind) };
        let usage = info.usage | stencil.map_or(0, |s| s.stencilUsage);
        if usage & VK_IMAGE_USAGE_HOST_TRANSFER_BIT != 0 {
            let image = Image {
                format: info.format,
                layers: info.arrayLayers,
                sizes: HashMap::new(),
            };
            self.0.lock().insert(token, image);
        }
    }

    /// The image is about to be destroyed.
    pub(super) fn forget(&self, token: u64) {
        self.0.lock().remove(&token);
    }

    /// The block of an aspect of an image, and its layers.
    fn find(&self, token: u64, aspect: VkImageAspectFlags) -> Option<(Block, u32)> {
        let images = self.0.lock();
        let image = images.get(&token)?;
        Some((formats::block(image.format, aspect)?, image.layers))
    }

    /// The bytes of a layer as the driver keeps it, which `ask` knows.
    fn size(
        &self,
        token: u64,
        key: (VkImageAspectFlags, u32),
        ask: impl FnOnce() -> VkDeviceSize,
    ) -> VkDeviceSize {
        let known = |images: &HashMap<u64, Image>| images.get(&token)?.sizes.get(&key).copied();
        if let Some(size) = known(&self.0.lock()) {
            return size;
        }
        let size = ask();
        if let Some(image) = self.0.lock().get_mut(&token) {
            image.sizes.insert(key, size);
        }
        size
    }
}

/// A part of an image, as it lies in the application's memory.
#[derive(Clone, Copy)]
struct Region {
    data: *mut u8,
    /// Texels from one row, and rows of texels from one layer or slice, to the next.
    row_length: u32,
    image_height: u32,
    subresource: VkImageSubresourceLayers,
    offset: VkOffset3D,
    extent: VkExtent3D,
}

/// What is sent at once of a region.
struct Part {
    subresource: VkImageSubresourceLayers,
    offset: VkOffset3D,
    extent: VkExtent3D,
    /// Rows of blocks in the application's memory: the first, the bytes of each and from one to the next,
    /// how many there are of a slice, and the bytes from one slice to the next.
    first: usize,
    row: usize,
    pitch: usize,
    rows: usize,
    slice: usize,
    slices: usize,
}

impl Part {
    /// All of its bytes.
    fn size(&self) -> usize {
        self.row * self.rows * self.slices
    }

    /// There are no gaps between its rows.
    fn is_dense(&self) -> bool {
        (self.rows == 1 || self.pitch == self.row)
            && (self.slices == 1 || self.slice == self.row * self.rows)
    }

    /// Where its rows lie.
    fn each_row(&self) -> impl Iterator<Item = usize> {
        (0..self.slices).flat_map(move |slice| {
            (0..self.rows).map(move |row| self.first + slice * self.slice + row * self.pitch)
        })
    }
}

/// The parts of a region whose image has these blocks.
fn parts(region: &Region, block: Block) -> Vec<Part> {
    let [across, down, _] = block.extent;
    let or = |stated: u32, extent: u32| if stated == 0 { extent } else { stated };
    let size = block.size as usize;
    let [columns, rows, deep] = block.count(region.extent);
    let row = columns as usize * size;
    let pitch = or(region.row_length, region.extent.width).div_ceil(across) as usize * size;
    let slice = or(region.image_height, region.extent.height).div_ceil(down) as usize * pitch;
    // A slice is a layer, or of an image of three dimensions a block's depth.
    let layered = region.subresource.layerCount > 1;
    let slices = if layered {
        region.subresource.layerCount
    } else {
        deep
    };
    let at_once = |bytes: usize| (PART as usize / bytes.max(1)).clamp(1, u32::MAX as usize) as u32;
    let (slices_at_once, rows_at_once) = match at_once(row * rows as usize) {
        1 => (1, at_once(row)),
        n => (n, rows),
    };
    let mut parts = Vec::new();
    for first_slice in (0..slices).step_by(slices_at_once as usize) {
        let n = slices_at_once.min(slices - first_slice);
        for first_row in (0..rows).step_by(rows_at_once.max(1) as usize) {
            let rows = rows_at_once.min(rows - first_row);
            let mut part = Part {
                subresource: region.subresource,
                offset: region.offset,
                extent: region.extent,
                first: first_slice as usize * slice + first_row as usize * pitch,
                row,
                pitch,
                rows: rows as usize,
                slice,
                slices: n as usize,
            };
            let y = first_row * down;
            part.offset.y += y.cast_signed();
            part.extent.height = (rows * down).min(region.extent.height - y);
            if layered {
                part.subresource.baseArrayLayer += first_slice;
                part.subresource.layerCount = n;
            } else {
                let z = first_slice * block.extent[2];
                part.offset.z += z.cast_signed();
                part.extent.depth = (n * block.extent[2]).min(region.extent.depth - z);
            }
            parts.push(part);
        }
    }
    parts
}

/// What all regions of a copy have in common.
struct Copy {
    device: VkDevice,
    image: VkImage,
    layout: VkImageLayout,
    flags: VkHostImageCopyFlags,
    /// Or from it.
    to_image: bool,
}

impl Copy {
    /// Sends a part whose bytes lie at `data` without gaps, or are to.
    fn send(&self, part: &Part, size: u32, data: *mut u8) -> VkResult {
        if self.to_image {
            Driver.call(&mut p::vkCopyMemoryToImageASGARD {
                device: self.device,
                image: self.image,
                imageLayout: self.layout,
                flags: self.flags,
                pSubresource: &raw const part.subresource,
                pOffset: &raw const part.offset,
                pExtent: &raw const part.extent,
                dataSize: size,
                pData: data.cast(),
                ..zeroed()
            })
        } else {
            Driver.call(&mut p::vkCopyImageToMemoryASGARD {
                device: self.device,
                image: self.image,
                imageLayout: self.layout,
                flags: self.flags,
                pSubresource: &raw const part.subresource,
                pOffset: &raw const part.offset,
                pExtent: &raw const part.extent,
                dataSize: size,
                pData: data.cast(),
                ..zeroed()
            })
        }
    }
}

/// Copies regions, until one fails.
///
/// # Safety
/// The device and the image are live, and each region's memory has what it stands for.
unsafe fn copy(common: &Copy, regions: impl Iterator<Item = Region>) -> VkResult {
    if !Process::get().is_some_and(|p| p.features.has(Features::HOST_IMAGE_COPY)) {
        return VK_ERROR_FEATURE_NOT_PRESENT;
    }
    // SAFETY: the caller's promise.
    let images = &unsafe { device(common.device) }.copied;
    for mut region in regions {
        let of = &mut region.subresource;
        let Some((block, layers)) = images.find(common.image.0, of.aspectMask) else {
            // Not made for it, or without that aspect.
            return VK_ERROR_UNKNOWN;
        };
        if of.layerCount == VK_REMAINING_ARRAY_LAYERS {
            of.layerCount = layers - of.baseArrayLayer;
        }
        let parts = if common.flags & VK_HOST_IMAGE_COPY_MEMCPY_BIT == 0 {
            parts(&region, block)
        } else {
            let key = (of.aspectMask, of.mipLevel);
            let size = images.size(common.image.0, key, || layer_size(common, of));
            layers_of(&region, size)
        };
        for part in parts {
            // SAFETY: the caller's promise.
            let ret = unsafe { send(common, &part, region.data) };
            if ret != VK_SUCCESS {
                return ret;
            }
        }
    }
    VK_SUCCESS
}

/// The layers of a region that is sent as the driver keeps them, each of this many bytes.
fn layers_of(region: &Region, size: VkDeviceSize) -> Vec<Part> {
    let size = size as usize;
    (0..region.subresource.layerCount)
        .map(|layer| Part {
            subresource: VkImageSubresourceLayers {
                baseArrayLayer: region.subresource.baseArrayLayer + layer,
                layerCount: 1,
                ..region.subresource
            },
            offset: region.offset,
            extent: region.extent,
            first: layer as usize * size,
            row: size,
            pitch: size,
            rows: 1,
            slice: size,
            slices: 1,
        })
        .collect()
}

/// The bytes of a layer as the driver keeps it.
fn layer_size(common: &Copy, of: &VkImageSubresourceLayers) -> VkDeviceSize {
    let subresource = VkImageSubresource2 {
        sType: VK_STRUCTURE_TYPE_IMAGE_SUBRESOURCE_2,
        imageSubresource: VkImageSubresource {
            aspectMask: of.aspectMask,
            mipLevel: of.mipLevel,
            arrayLayer: of.baseArrayLayer,
        },
        ..zeroed()
    };
    let mut size = VkSubresourceHostMemcpySize {
        sType: VK_STRUCTURE_TYPE_SUBRESOURCE_HOST_MEMCPY_SIZE,
        ..zeroed()
    };
    let mut layout = VkSubresourceLayout2 {
        sType: VK_STRUCTURE_TYPE_SUBRESOURCE_LAYOUT_2,
        pNext: (&raw mut size).cast(),
        ..zeroed()
    };
    Driver.call(&mut p::vkGetImageSubresourceLayout2 {
        device: common.device,
        image: common.image,
        pSubresource: &raw const subresource,
        pLayout: &raw mut layout,
        ..zeroed()
    });
    size.size
}

/// Sends a part.
///
/// # Safety
/// The application's memory has the part's rows.
unsafe fn send(common: &Copy, part: &Part, application: *mut u8) -> VkResult {
    let Ok(size) = u32::try_from(part.size()) else {
        // No packet is that large.
        return VK_ERROR_OUT_OF_HOST_MEMORY;
    };
    if part.is_dense() {
        // SAFETY: the caller's promise.
        return common.send(part, size, unsafe { application.add(part.first) });
    }
    let mut dense = vec![0; size as usize];
    let rows = |dense: &mut [u8], copy: fn(*mut u8, *mut u8, usize)| {
        for (ours, row) in dense.chunks_exact_mut(part.row).zip(part.each_row()) {
            // SAFETY: the caller's promise; ours has room for all rows.
            copy(unsafe { application.add(row) }, ours.as_mut_ptr(), part.row);
        }
    };
    if common.to_image {
        rows(&mut dense, |theirs, ours, n| {
            // SAFETY: as above.
            unsafe { std::ptr::copy_nonoverlapping(theirs, ours, n) }
        });
    }
    let ret = common.send(part, size, dense.as_mut_ptr());
    if !common.to_image && ret == VK_SUCCESS {
        rows(&mut dense, |theirs, ours, n| {
            // SAFETY: as above.
            unsafe { std::ptr::copy_nonoverlapping(ours, theirs, n) }
        });
    }
    ret
}

/// `vkCopyMemoryToImage`.
pub(in crate::vulkan) fn to_image(c: &p::vkCopyMemoryToImage) -> VkResult {
    // SAFETY: the application passes a live device, a struct, and as many regions as it says.
    unsafe {
        let info = *c.pCopyMemoryToImageInfo;
        let regions = std::slice::from_raw_parts(info.pRegions, info.regionCount as usize);
        let common = Copy {
            device: c.device,
            image: info.dstImage,
            layout: info.dstImageLayout,
            flags: info.flags,
            to_image: true,
        };
        let regions = regions.iter().map(|r| Region {
            data: r.pHostPointer.cast_mut().cast(),
            row_length: r.memoryRowLength,
            image_height: r.memoryImageHeight,
            subresource: r.imageSubresource,
            offset: r.imageOffset,
            extent: r.imageExtent,
        });
        copy(&common, regions)
    }
}

/// `vkCopyImageToMemory`.
pub(in crate::vulkan) fn to_memory(c: &p::vkCopyImageToMemory) -> VkResult {
    // SAFETY: as above.
    unsafe {
        let info = *c.pCopyImageToMemoryInfo;
        let regions = std::slice::from_raw_parts(info.pRegions, info.regionCount as usize);
        let common = Copy {
            device: c.device,
            image: info.srcImage,
            layout: info.srcImageLayout,
            flags: info.flags,
            to_image: false,
        };
        let regions = regions.iter().map(|r| Region {
            data: r.pHostPointer.cast(),
            row_length: r.memoryRowLength,
            image_height: r.memoryImageHeight,
            subresource: r.imageSubresource,
            offset: r.imageOffset,
            extent: r.imageExtent,
        });
        copy(&common, regions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXEL: Block = Block {
        size: 4,
        extent: [1; 3],
    };
    const COMPRESSED: Block = Block {
        size: 8,
        extent: [4, 4, 1],
    };

    fn region([width, height, depth]: [u32; 3], layers: u32) -> Region {
        Region {
            data: std::ptr::null_mut(),
            row_length: 0,
            image_height: 0,
            subresource: VkImageSubresourceLayers {
                aspectMask: VK_IMAGE_ASPECT_COLOR_BIT,
                baseArrayLayer: 3,
                layerCount: layers,
                ..zeroed()
            },
            offset: VkOffset3D { x: 1, y: 8, z: 2 },
            extent: VkExtent3D {
                width,
                height,
                depth,
            },
        }
    }

    /// Where each row of a region lies and how long it is, without parts and without blocks.
    fn expected(region: &Region, size: usize) -> Vec<(usize, usize)> {
        let or = |stated: u32, extent: u32| if stated == 0 { extent } else { stated } as usize;
        let pitch = or(region.row_length, region.extent.width);
        let slice = or(region.image_height, region.extent.height) * pitch;
        let slices = (region.extent.depth * region.subresource.layerCount) as usize;
        let rows = 0..region.extent.height as usize;
        let at = (0..slices).flat_map(|z| rows.clone().map(move |y| z * slice + y * pitch));
        at.map(|at| (at * size, region.extent.width as usize * size))
            .collect()
    }

    fn copied(region: &Region, block: Block) -> Vec<(usize, usize)> {
        let parts = parts(region, block);
        let rows = parts
            .iter()
            .flat_map(|part| part.each_row().map(|at| (at, part.row)));
        rows.collect()
    }

    #[test]
    fn parts_are_all_of_a_region_and_each_byte_once() {
        for extent in [
            [1, 1, 1],
            [7, 5, 1],
            [7, 5, 3],
            [2000, 300, 1],
            [600, 2, 700],
        ] {
            for layers in [1, 4] {
                if layers > 1 && extent[2] > 1 {
                    continue;
                }
                for (row_length, image_height) in [(0, 0), (2003, 0), (0, 301), (2001, 302)] {
                    let region = Region {
                        row_length,
                        image_height,
                        ..region(extent, layers)
                    };
                    assert_eq!(copied(&region, TEXEL), expected(&region, 4));
                    for part in parts(&region, TEXEL) {
                        let texels = [part.extent.width, part.extent.height, part.extent.depth];
                        let texels: u32 = texels.iter().product();
                        let layers = part.subresource.layerCount;
                        assert_eq!(part.size(), (texels * layers * 4) as usize);
                        assert!(part.size() <= PART as usize);
                    }
                }
            }
        }
    }

    #[test]
    fn small_regions_are_one_part_and_dense_without_gaps() {
        let of = |region: &Region, block| {
            let all: Vec<(usize, bool)> = (parts(region, block).iter())
                .map(|part| (part.size(), part.is_dense()))
                .collect();
            all
        };
        let plain = region([6, 5, 1], 4);
        assert_eq!(of(&plain, TEXEL), [(480, true)]);
        assert_eq!(of(&plain, COMPRESSED), [(2 * 2 * 8 * 4, true)]);
        let row_length = 7;
        let gaps = Region {
            row_length,
            ..plain
        };
        assert_eq!(of(&gaps, TEXEL), [(480, false)]);
        // As many blocks as before.
        assert_eq!(of(&gaps, COMPRESSED), [(128, true)]);
        let image_height = 9;
        let gaps = Region {
            image_height,
            ..plain
        };
        assert_eq!(of(&gaps, TEXEL), [(480, false)]);
        assert_eq!(of(&gaps, COMPRESSED), [(128, false)]);
    }

    #[test]
    fn parts_name_their_own_texels() {
        // Rows of 8 KiB: 128 of them at once.
        let all = parts(&region([2048, 300, 1], 2), TEXEL);
        let of = |part: &Part| {
            let layers = (part.subresource.baseArrayLayer, part.subresource.layerCount);
            (part.offset.y, part.extent.height, layers)
        };
        let expected = [3, 4].map(|layer| {
            [(8, 128), (136, 128), (264, 44)].map(|(y, height)| (y, height, (layer, 1)))
        });
        assert_eq!(all.iter().map(of).collect::<Vec<_>>(), expected.concat());
        // Rows of 2 MiB are sent one by one, the last of them a part of a block.
        let all = parts(&region([1 << 20, 10, 1], 1), COMPRESSED);
        let expected = [(8, 4), (12, 4), (16, 2)].map(|(y, height)| (y, height, (3, 1)));
        assert_eq!(all.iter().map(of).collect::<Vec<_>>(), expected);
        // Slices of 256 KiB: four at once.
        let all = parts(&region([256, 256, 10], 1), TEXEL);
        let of = |part: &Part| {
            (
                part.offset.z,
                part.extent.depth,
                part.subresource.layerCount,
            )
        };
        assert_eq!(
            all.iter().map(of).collect::<Vec<_>>(),
            [(2, 4, 1), (6, 4, 1), (10, 2, 1)]
        );
    }

    #[test]
    fn what_the_driver_keeps_is_sent_layer_by_layer() {
        let all = layers_of(&region([4, 4, 1], 3), 100);
        let of = |part: &Part| (part.first, part.size(), part.subresource.baseArrayLayer);
        assert_eq!(
            all.iter().map(of).collect::<Vec<_>>(),
            [(0, 100, 3), (100, 100, 4), (200, 100, 5)]
        );
    }
}
