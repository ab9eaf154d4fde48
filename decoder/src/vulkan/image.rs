//! Images, of which sparse ones have other memory than the rest, and the copies that the host makes
//! between them and the guest's memory.
//!
//! The driver is given a pointer and finds out by itself how many bytes lie there. So each region is
//! checked against the image: the guest must have sent exactly the bytes that it has.

use std::ffi::c_void;
use std::sync::Arc;

use asgard_protocol::formats;
use asgard_protocol::zeroed;

use super::*;
use crate::context::{CopiedImage, Device};

/// What an image can be created for that is copied by the host.
const HOST: VkImageUsageFlags = VK_IMAGE_USAGE_HOST_TRANSFER_BIT;

/// Some drivers lay depth and stencil out as they lie in the image: so many bytes of a texel at most.
const DEPTH_AND_STENCIL: u64 = 8;

impl Engine {
    /// Notes what a new image is like if the host may copy it by itself.
    ///
    /// # Safety
    /// The create-info and its chain were decoded, with room for a handle, which is a token now.
    unsafe fn note_image(
        &mut self,
        device: u64,
        info: *const VkImageCreateInfo,
        image: *const VkImage,
    ) -> Result<(), Error> {
        if !self.features.has(Features::HOST_IMAGE_COPY) {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        let (info, stencil, token) = unsafe {
            let stencil = chain::find::<VkImageStencilUsageCreateInfo>((*info).pNext);
            (*info, stencil, (*image).0)
        };
        if (info.usage | stencil.map_or(0, |s| s.stencilUsage)) & HOST != 0 {
            let image = CopiedImage {
                format: info.format,
                extent: info.extent,
                levels: info.mipLevels,
                layers: info.arrayLayers,
            };
            self.device(device)?.images.lock().insert(token, image);
        }
        Ok(())
    }

    /// Has the driver copy between an image and the bytes of one region.
    ///
    /// # Safety
    /// The request was decoded, with room for as many bytes as it says.
    unsafe fn copy(
        &mut self,
        copy: &Copy,
        call: impl FnOnce(&Device, *mut c_void) -> Result<VkResult, Error>,
    ) -> Result<VkResult, Error> {
        if !self.features.has(Features::HOST_IMAGE_COPY) {
            return Err(Error::Feature(Features::HOST_IMAGE_COPY));
        }
        let device = Arc::clone(self.device(copy.device_token)?);
        let known = device.images.lock().get(&copy.image_token).copied();
        let image = known.ok_or(Error::Nonsense(
            "a copy of an image that is not made for it",
        ))?;
        let (mut bytes, mut least) = copy.check(&image)?;
        if copy.flags & VK_HOST_IMAGE_COPY_MEMCPY_BIT != 0 {
            // A driver may make no difference.
            least = least.max(bytes);
            bytes = swizzled(&device, copy)?;
        }
        if bytes == 0 || bytes != u64::from(copy.size) {
            return Err(Error::Nonsense(
                "a copy of other bytes than its part of the image has",
            ));
        }
        let least = usize::try_from(least).unwrap_or(usize::MAX);
        with_room(copy.data, copy.size as usize, least, |data| {
            call(&device, data)
        })?
    }
}

/// One region of a host image copy.
struct Copy {
    device_token: u64,
    image: VkImage,
    image_token: u64,
    flags: VkHostImageCopyFlags,
    subresource: VkImageSubresourceLayers,
    offset: VkOffset3D,
    extent: VkExtent3D,
    size: u32,
    data: *mut c_void,
}

/// As it came; both directions have the same parameters.
macro_rules! copy {
    ($c:expr, $data:expr) => {
        Copy {
            device_token: $c.device_token,
            image: $c.image,
            image_token: $c.image_token,
            flags: $c.flags,
            // SAFETY: decoding placed the structs.
            subresource: unsafe { *$c.pSubresource },
            // SAFETY: as above.
            offset: unsafe { *$c.pOffset },
            // SAFETY: as above.
            extent: unsafe { *$c.pExtent },
            size: $c.dataSize,
            data: $data,
        }
    };
}

impl Copy {
    /// Fails unless the region is one of the image; its bytes in memory, and how many a driver may touch
    /// that does not keep to those.
    fn check(&self, image: &CopiedImage) -> Result<(u64, u64), Error> {
        let of = &self.subresource;
        let all = formats::texels(image.format, of.aspectMask, image.extent, of.mipLevel);
        let inside = |offset: i32, n: u32, all: u32| {
            let end = u32::try_from(offset).ok().and_then(|o| o.checked_add(n));
            end.is_some_and(|end| end <= all)
        };
        let last = of.baseArrayLayer.checked_add(of.layerCount);
        if self.flags & !VK_HOST_IMAGE_COPY_MEMCPY_BIT != 0
            || of.mipLevel >= image.levels
            || last.is_none_or(|last| last > image.layers)
            || !inside(self.offset.x, self.extent.width, all.width)
            || !inside(self.offset.y, self.extent.height, all.height)
            || !inside(self.offset.z, self.extent.depth, all.depth)
        {
            return Err(Error::Nonsense("a copy of no part of its image"));
        }
        let bytes = formats::block(image.format, of.aspectMask)
            .and_then(|block| block.bytes(self.extent, of.layerCount))
            .ok_or(Error::Nonsense(
                "a copy of what an image does not have, or of too much",
            ))?;
        let depth_or_stencil = VK_IMAGE_ASPECT_DEPTH_BIT | VK_IMAGE_ASPECT_STENCIL_BIT;
        let least = if of.aspectMask & depth_or_stencil == 0 {
            0
        } else {
            // Each texel has a byte in memory at least.
            u64::from(bytes) * DEPTH_AND_STENCIL
        };
        Ok((u64::from(bytes), least))
    }
}

/// The bytes of a copy without conversion: only the driver knows.
fn swizzled(device: &Device, copy: &Copy) -> Result<u64, Error> {
    let of = &copy.subresource;
    let ask = function!(device.fns, vkGetImageSubresourceLayout2);
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
    // SAFETY: a live image, one of its parts, and structs that live through the call.
    unsafe {
        ask(
            device.handle,
            copy.image,
            &raw const subresource,
            &raw mut layout,
        );
    }
    (size.size)
        .checked_mul(u64::from(of.layerCount))
        .ok_or(Error::Nonsense("a copy that is too large"))
}

const SPARSE: VkImageCreateFlags = VK_IMAGE_CREATE_SPARSE_BINDING_BIT;

impl ImageCommands for Engine {
    fn vkCreateImage(&mut self, c: &mut p::vkCreateImage) -> Result<VkResult, Error> {
        let ret = plain::vkCreateImage(self, c)?;
        if ret != VK_SUCCESS {
            return Ok(ret);
        }
        // SAFETY: a decoded request, which was run.
        unsafe { self.note_image(c.device_token, c.pCreateInfo, c.pImage)? };
        // SAFETY: decoding placed the struct, and room for a handle, where its token is now.
        if unsafe { (*c.pCreateInfo).flags } & SPARSE != 0 {
            // SAFETY: as above.
            self.note_sparse(c.device_token, Kind::Image, unsafe { (*c.pImage).0 });
        }
        Ok(ret)
    }

    fn vkDestroyImage(&mut self, c: &mut p::vkDestroyImage) -> Result<(), Error> {
        let device = self.device(c.device_token)?;
        device.images.lock().remove(&c.image_token);
        self.forget_sparse(c.device_token, Kind::Image, c.image.0);
        plain::vkDestroyImage(self, c)
    }

    fn vkGetImageMemoryRequirements(
        &mut self,
        c: &mut p::vkGetImageMemoryRequirements,
    ) -> Result<(), Error> {
        plain::vkGetImageMemoryRequirements(self, c)?;
        if self.is_sparse(c.device_token, Kind::Image, c.image.0) {
            // SAFETY: the call filled what decoding had made room for.
            self.show_sparse(unsafe { &mut *c.pMemoryRequirements });
        }
        Ok(())
    }

    fn vkCreateImageWithRequirementsGOOGLE(
        &mut self,
        c: &mut p::vkCreateImageWithRequirementsGOOGLE,
    ) -> Result<VkResult, Error> {
        let fns = self.device_fns(c.device_token)?;
        let create = function!(fns, vkCreateImage);
        let requirements = function!(fns, vkGetImageMemoryRequirements);
        // SAFETY: decoded arguments, and room for both answers.
        let ret = unsafe {
            let ret = create(c.device, c.pCreateInfo, c.pAllocator, c.pImage);
            if ret == VK_SUCCESS && (*c.pCreateInfo).flags & VK_IMAGE_CREATE_DISJOINT_BIT == 0 {
                requirements(c.device, *c.pImage, c.pMemoryRequirements);
            }
            ret
        };
        self.adopt(Kind::Image, c.device_token, c.pImage.cast(), 1, true)?;
        if ret != VK_SUCCESS {
            return Ok(ret);
        }
        // SAFETY: a decoded request, which was run.
        unsafe { self.note_image(c.device_token, c.pCreateInfo, c.pImage)? };
        // SAFETY: as above; where the handle was is its token now.
        let (flags, token, needs) = unsafe {
            (
                (*c.pCreateInfo).flags,
                (*c.pImage).0,
                &mut *c.pMemoryRequirements,
            )
        };
        self.show_memory_types(&mut needs.memoryTypeBits);
        if flags & SPARSE != 0 {
            self.note_sparse(c.device_token, Kind::Image, token);
            self.show_sparse(needs);
        }
        Ok(ret)
    }

    fn vkCopyMemoryToImageASGARD(
        &mut self,
        c: &mut p::vkCopyMemoryToImageASGARD,
    ) -> Result<VkResult, Error> {
        let copy = copy!(c, c.pData.cast_mut());
        // SAFETY: a decoded request.
        unsafe {
            self.copy(&copy, |device, data| {
                let f = function!(device.fns, vkCopyMemoryToImage);
                let region = VkMemoryToImageCopy {
                    sType: VK_STRUCTURE_TYPE_MEMORY_TO_IMAGE_COPY,
                    pHostPointer: data,
                    imageSubresource: copy.subresource,
                    imageOffset: copy.offset,
                    imageExtent: copy.extent,
                    ..zeroed()
                };
                let info = VkCopyMemoryToImageInfo {
                    sType: VK_STRUCTURE_TYPE_COPY_MEMORY_TO_IMAGE_INFO,
                    flags: copy.flags,
                    dstImage: copy.image,
                    dstImageLayout: c.imageLayout,
                    regionCount: 1,
                    pRegions: &raw const region,
                    ..zeroed()
                };
                Ok(f(device.handle, &raw const info))
            })
        }
    }

    fn vkCopyImageToMemoryASGARD(
        &mut self,
        c: &mut p::vkCopyImageToMemoryASGARD,
    ) -> Result<VkResult, Error> {
        let copy = copy!(c, c.pData);
        // SAFETY: a decoded request.
        unsafe {
            self.copy(&copy, |device, data| {
                let f = function!(device.fns, vkCopyImageToMemory);
                let region = VkImageToMemoryCopy {
                    sType: VK_STRUCTURE_TYPE_IMAGE_TO_MEMORY_COPY,
                    pHostPointer: data,
                    imageSubresource: copy.subresource,
                    imageOffset: copy.offset,
                    imageExtent: copy.extent,
                    ..zeroed()
                };
                let info = VkCopyImageToMemoryInfo {
                    sType: VK_STRUCTURE_TYPE_COPY_IMAGE_TO_MEMORY_INFO,
                    flags: copy.flags,
                    srcImage: copy.image,
                    srcImageLayout: c.imageLayout,
                    regionCount: 1,
                    pRegions: &raw const region,
                    ..zeroed()
                };
                Ok(f(device.handle, &raw const info))
            })
        }
    }
}
