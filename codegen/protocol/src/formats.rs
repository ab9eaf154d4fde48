//! How many bytes texels take in memory, as copies between memory and images lay them out.
//!
//! The tables are generated from the registry's list of formats; how depth and stencil lie in memory is
//! Vulkan's, "Copying Data Between Buffers and Images".

use crate::types::*;

/// A block of texels, the smallest part of a format that can be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Bytes.
    pub size: u32,
    /// Texels in each dimension.
    pub extent: [u32; 3],
}

impl Block {
    const fn texel(size: u32) -> Self {
        Self {
            size,
            extent: [1; 3],
        }
    }

    /// The blocks that so many texels take in each dimension.
    #[must_use]
    pub fn count(self, texels: VkExtent3D) -> [u32; 3] {
        let [x, y, z] = self.extent;
        [
            texels.width.div_ceil(x),
            texels.height.div_ceil(y),
            texels.depth.div_ceil(z),
        ]
    }

    /// The bytes of so many texels in each of so many layers, without gaps; none if they are no `u32`.
    #[must_use]
    pub fn bytes(self, texels: VkExtent3D, layers: u32) -> Option<u32> {
        let blocks = self.count(texels).into_iter();
        blocks
            .chain([layers])
            .try_fold(self.size, |bytes, n| bytes.checked_mul(n))
    }
}

/// The blocks of one aspect of a format; none if it does not have that aspect, or no bytes of its own.
#[must_use]
pub fn block(format: VkFormat, aspect: VkImageAspectFlags) -> Option<Block> {
    match aspect {
        VK_IMAGE_ASPECT_COLOR_BIT => generated::colour(format),
        VK_IMAGE_ASPECT_DEPTH_BIT => generated::depth(format).map(|bits| {
            // Of 24 bits, 32 are copied.
            Block::texel(bits.div_ceil(8).next_power_of_two())
        }),
        VK_IMAGE_ASPECT_STENCIL_BIT => generated::stencil(format).map(|_| Block::texel(1)),
        _ => generated::colour(plane(format, aspect)?.0),
    }
}

/// The plane that an aspect is, as its format and what divides an image's width and height.
fn plane(format: VkFormat, aspect: VkImageAspectFlags) -> Option<(VkFormat, [u32; 2])> {
    let plane = match aspect {
        VK_IMAGE_ASPECT_PLANE_0_BIT => 0,
        VK_IMAGE_ASPECT_PLANE_1_BIT => 1,
        VK_IMAGE_ASPECT_PLANE_2_BIT => 2,
        _ => return None,
    };
    generated::plane(format, plane)
}

/// The texels of one aspect of an image's mip level.
#[must_use]
pub fn texels(
    format: VkFormat,
    aspect: VkImageAspectFlags,
    image: VkExtent3D,
    level: u32,
) -> VkExtent3D {
    let [x, y] = plane(format, aspect).map_or([1; 2], |(_, divisors)| divisors);
    let of = |texels: u32, divisor| {
        let texels = texels.checked_shr(level).unwrap_or(0).max(1);
        texels.div_ceil(divisor)
    };
    VkExtent3D {
        width: of(image.width, x),
        height: of(image.height, y),
        depth: of(image.depth, 1),
    }
}

#[allow(non_upper_case_globals, reason = "generated, with C names")]
mod generated {
    use super::Block;
    use crate::types::*;
    include!(concat!(env!("OUT_DIR"), "/formats.rs"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(format: VkFormat, aspect: VkImageAspectFlags) -> Option<u32> {
        block(format, aspect).map(|b| b.size)
    }

    #[test]
    fn aspects_have_the_sizes_of_copies() {
        let colour = VK_IMAGE_ASPECT_COLOR_BIT;
        let depth = VK_IMAGE_ASPECT_DEPTH_BIT;
        let stencil = VK_IMAGE_ASPECT_STENCIL_BIT;
        for (format, aspect, bytes) in [
            (VK_FORMAT_R8G8B8A8_UNORM, colour, Some(4)),
            (VK_FORMAT_R32G32B32_SFLOAT, colour, Some(12)),
            (VK_FORMAT_R64G64B64A64_SFLOAT, colour, Some(32)),
            (VK_FORMAT_R8G8B8A8_UNORM, depth, None),
            (VK_FORMAT_R8G8B8A8_UNORM, colour | depth, None),
            (VK_FORMAT_UNDEFINED, colour, None),
            (VkFormat::MAX, colour, None),
            (VK_FORMAT_D16_UNORM, depth, Some(2)),
            (VK_FORMAT_D16_UNORM, colour, None),
            (VK_FORMAT_X8_D24_UNORM_PACK32, depth, Some(4)),
            (VK_FORMAT_D24_UNORM_S8_UINT, depth, Some(4)),
            (VK_FORMAT_D24_UNORM_S8_UINT, stencil, Some(1)),
            (VK_FORMAT_D32_SFLOAT_S8_UINT, depth, Some(4)),
            (VK_FORMAT_D32_SFLOAT_S8_UINT, depth | stencil, None),
            (VK_FORMAT_S8_UINT, stencil, Some(1)),
            (VK_FORMAT_S8_UINT, depth, None),
            (VK_FORMAT_G8_B8R8_2PLANE_420_UNORM, colour, None),
            (
                VK_FORMAT_G8_B8R8_2PLANE_420_UNORM,
                VK_IMAGE_ASPECT_PLANE_0_BIT,
                Some(1),
            ),
            (
                VK_FORMAT_G8_B8R8_2PLANE_420_UNORM,
                VK_IMAGE_ASPECT_PLANE_1_BIT,
                Some(2),
            ),
            (
                VK_FORMAT_G8_B8R8_2PLANE_420_UNORM,
                VK_IMAGE_ASPECT_PLANE_2_BIT,
                None,
            ),
        ] {
            assert_eq!(size(format, aspect), bytes, "format {format}, {aspect}");
        }
    }

    #[test]
    fn planes_and_levels_are_smaller_than_their_image() {
        let image = VkExtent3D {
            width: 20,
            height: 6,
            depth: 3,
        };
        let of = |format, aspect, level| {
            let texels = texels(format, aspect, image, level);
            [texels.width, texels.height, texels.depth]
        };
        let (rgba, colour) = (VK_FORMAT_R8G8B8A8_UNORM, VK_IMAGE_ASPECT_COLOR_BIT);
        assert_eq!(of(rgba, colour, 0), [20, 6, 3]);
        assert_eq!(of(rgba, colour, 2), [5, 1, 1]);
        assert_eq!(of(rgba, colour, 31), [1, 1, 1]);
        assert_eq!(of(rgba, colour, u32::MAX), [1, 1, 1]);
        let yuv = VK_FORMAT_G8_B8R8_2PLANE_420_UNORM;
        assert_eq!(of(yuv, VK_IMAGE_ASPECT_PLANE_0_BIT, 0), [20, 6, 3]);
        assert_eq!(of(yuv, VK_IMAGE_ASPECT_PLANE_1_BIT, 0), [10, 3, 3]);
    }

    #[test]
    fn partial_blocks_are_whole_in_memory() {
        let bc1 = block(VK_FORMAT_BC1_RGB_UNORM_BLOCK, VK_IMAGE_ASPECT_COLOR_BIT).unwrap();
        let texels = |width, height, depth| VkExtent3D {
            width,
            height,
            depth,
        };
        assert_eq!(bc1.extent, [4, 4, 1]);
        assert_eq!(bc1.bytes(texels(4, 4, 1), 1), Some(8));
        assert_eq!(bc1.bytes(texels(5, 3, 1), 1), Some(16));
        assert_eq!(bc1.bytes(texels(8, 8, 1), 3), Some(96));
        assert_eq!(bc1.bytes(texels(0, 8, 1), 3), Some(0));
        let odd = block(
            VK_FORMAT_ASTC_3x3x3_UNORM_BLOCK_EXT,
            VK_IMAGE_ASPECT_COLOR_BIT,
        )
        .unwrap();
        assert_eq!(odd.bytes(texels(4, 3, 7), 1), Some(2 * 3 * 16));
    }

    #[test]
    fn lengths_that_are_no_length_are_none() {
        let texel = Block::texel(4);
        let most = VkExtent3D {
            width: u32::MAX,
            height: u32::MAX,
            depth: u32::MAX,
        };
        assert_eq!(texel.bytes(most, 1), None);
        assert_eq!(texel.bytes(VkExtent3D { width: 1, ..most }, u32::MAX), None);
        let flat = VkExtent3D {
            height: 1,
            depth: 1,
            ..most
        };
        assert_eq!(texel.bytes(flat, 1), None);
        assert_eq!(Block::texel(1).bytes(flat, 1), Some(u32::MAX));
    }
}
