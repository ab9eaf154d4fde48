//! The physical device: exactly one, because guests cache what it says for the whole process.

use std::sync::Arc;

use super::*;
use crate::driver;

impl Engine {
    /// The one physical device of an instance, and its token.
    pub(super) fn physical_device(
        &mut self,
        instance_token: u64,
    ) -> Result<(VkPhysicalDevice, u64), Error> {
        let context = Arc::clone(&self.context);
        let instance = self.instance(instance_token)?;
        let mut physical = instance.physical.lock();
        if let Some(known) = *physical {
            return Ok(known);
        }
        let handle = context.renderer.choose(&instance.fns, instance.handle)?;
        let token = context
            .objects
            .insert(Kind::PhysicalDevice, instance_token, handle.0)?;
        *physical = Some((handle, token));
        Ok((handle, token))
    }

    /// The version that guests see.
    fn show_version(&self, version: &mut u32) {
        if self.context.limits.as_upstream {
            *version = (*version).min(UPSTREAM_VERSION);
        }
    }

    /// Shows guests the memory types that they know, and heaps of the size that they may know.
    fn show_memory(&self, properties: &mut VkPhysicalDeviceMemoryProperties) {
        if self.context.limits.as_upstream {
            let count = properties.memoryHeapCount as usize;
            for heap in properties.memoryHeaps.iter_mut().take(count) {
                heap.size = heap.size.min(UPSTREAM_HEAP);
            }
        }
        self.context.memory_types.show(properties);
    }

    /// Mesa's guest driver ends the program at the first write to one when it batches descriptor sets.
    pub(super) fn shows_inline_uniform_blocks(&self) -> bool {
        self.context.limits.inline_uniform_blocks || self.features.has(Features::INLINE_UNIFORMS)
    }

    /// Images of this tiling may be sparse. Linear ones need memory that can be mapped, whatever else they are.
    fn shows_sparse(&self, tiling: VkImageTiling) -> bool {
        let types = &self.context.memory_types;
        types.can_be_sparse() && !(types.has_twins() && tiling == VK_IMAGE_TILING_LINEAR)
    }

    /// A device that is to be created asks for features that guests do not get.
    ///
    /// # Safety
    /// As [`wants_hidden`].
    pub(super) unsafe fn wants_hidden(&self, info: &VkDeviceCreateInfo) -> bool {
        let shown = (
            self.context.memory_types.can_be_sparse(),
            self.shows_inline_uniform_blocks(),
        );
        // SAFETY: the caller's promise.
        unsafe { wants_hidden(info, self.features, shown.0, shown.1) }
    }
}

/// A device extension that guests with these features of the wire do not see.
fn hides(extension: &str, features: Features) -> bool {
    HIDDEN_EXTENSIONS.iter().any(|(hidden, _, unless)| {
        *hidden == extension && !unless.is_some_and(|unless| features.has(unless))
    })
}

/// The highest version that upstream's host shows: 1.3.0.
pub(super) const UPSTREAM_VERSION: u32 = 1 << 22 | 3 << 12;

/// The largest heap that upstream's host shows, in bytes.
const UPSTREAM_HEAP: u64 = 2 << 30;

/// Features that guests do not get where no memory could be bound to sparse resources.
fn sparse(core: &mut VkPhysicalDeviceFeatures) -> [&mut VkBool32; 9] {
    [
        &mut core.sparseBinding,
        &mut core.sparseResidencyBuffer,
        &mut core.sparseResidencyImage2D,
        &mut core.sparseResidencyImage3D,
        &mut core.sparseResidency2Samples,
        &mut core.sparseResidency4Samples,
        &mut core.sparseResidency8Samples,
        &mut core.sparseResidency16Samples,
        &mut core.sparseResidencyAliased,
    ]
}

/// Clears them; true if any was set.
fn hide_sparse(core: &mut VkPhysicalDeviceFeatures) -> bool {
    let set = |feature| std::mem::take(feature) != 0;
    sparse(core).map(set).contains(&true)
}

/// A device that is to be created asks for features that guests do not get; sparse ones and inline uniform
/// blocks are shown or not.
///
/// # Safety
/// The struct and its chain were decoded, and nobody else looks at the chain.
unsafe fn wants_hidden(
    info: &VkDeviceCreateInfo,
    features: Features,
    shows_sparse: bool,
    inline_uniform_blocks: bool,
) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let next = info.pNext.cast_mut();
        let mut core: Vec<VkPhysicalDeviceFeatures> = info
            .pEnabledFeatures
            .as_ref()
            .copied()
            .into_iter()
            .collect();
        core.extend(chain::find_mut::<VkPhysicalDeviceFeatures2>(next).map(|f| f.features));
        !shows_sparse && core.iter_mut().any(hide_sparse)
            || hide_chained_features(next, features, inline_uniform_blocks)
    }
}

/// An empty list, of what belongs to a feature that is not shown.
///
/// # Safety
/// The count was decoded.
unsafe fn none(count: *mut u32) -> Result<(), Error> {
    // SAFETY: the caller's promise.
    let count = unsafe { count.as_mut() };
    *count.ok_or(Error::Nonsense("no room for a number"))? = 0;
    Ok(())
}

/// The same for the structs of a chain.
///
/// # Safety
/// The chain was decoded, and its structs were filled by the driver.
unsafe fn hide_chained_features(
    next: *mut std::ffi::c_void,
    features: Features,
    inline_uniform_blocks: bool,
) -> bool {
    // SAFETY: the caller's promise; what is found is this command's own.
    unsafe {
        let mut hidden = generated::hide_features(next, features);
        if inline_uniform_blocks {
            return hidden;
        }
        if let Some(f) = chain::find_mut::<VkPhysicalDeviceVulkan13Features>(next) {
            hidden |= std::mem::take(&mut f.inlineUniformBlock) != 0;
            let late = &mut f.descriptorBindingInlineUniformBlockUpdateAfterBind;
            hidden |= std::mem::take(late) != 0;
        }
        if let Some(f) = chain::find_mut::<VkPhysicalDeviceInlineUniformBlockFeatures>(next) {
            hidden |= std::mem::take(&mut f.inlineUniformBlock) != 0;
            let late = &mut f.descriptorBindingInlineUniformBlockUpdateAfterBind;
            hidden |= std::mem::take(late) != 0;
        }
        hidden
    }
}

impl PhysicalDeviceCommands for Engine {
    fn vkGetPhysicalDeviceProperties(
        &mut self,
        c: &mut p::vkGetPhysicalDeviceProperties,
    ) -> Result<(), Error> {
        plain::vkGetPhysicalDeviceProperties(self, c)?;
        // SAFETY: the call filled what decoding had made room for.
        self.show_version(unsafe { &mut (*c.pProperties).apiVersion });
        Ok(())
    }

    fn vkGetPhysicalDeviceProperties2(
        &mut self,
        c: &mut p::vkGetPhysicalDeviceProperties2,
    ) -> Result<(), Error> {
        plain::vkGetPhysicalDeviceProperties2(self, c)?;
        // SAFETY: the call filled what decoding had made room for.
        self.show_version(unsafe { &mut (*c.pProperties).properties.apiVersion });
        Ok(())
    }

    fn vkGetPhysicalDeviceFeatures(
        &mut self,
        c: &mut p::vkGetPhysicalDeviceFeatures,
    ) -> Result<(), Error> {
        plain::vkGetPhysicalDeviceFeatures(self, c)?;
        if !self.context.memory_types.can_be_sparse() {
            // SAFETY: the call filled what decoding had made room for.
            hide_sparse(unsafe { &mut *c.pFeatures });
        }
        Ok(())
    }

    fn vkGetPhysicalDeviceFeatures2(
        &mut self,
        c: &mut p::vkGetPhysicalDeviceFeatures2,
    ) -> Result<(), Error> {
        plain::vkGetPhysicalDeviceFeatures2(self, c)?;
        // SAFETY: the call filled what decoding had made room for.
        unsafe {
            if !self.context.memory_types.can_be_sparse() {
                hide_sparse(&mut (*c.pFeatures).features);
            }
            hide_chained_features(
                (*c.pFeatures).pNext,
                self.features,
                self.shows_inline_uniform_blocks(),
            );
        }
        Ok(())
    }

    fn vkGetPhysicalDeviceImageFormatProperties(
        &mut self,
        c: &mut p::vkGetPhysicalDeviceImageFormatProperties,
    ) -> Result<VkResult, Error> {
        if c.flags & VK_IMAGE_CREATE_SPARSE_BINDING_BIT != 0 && !self.shows_sparse(c.tiling) {
            return Ok(VK_ERROR_FORMAT_NOT_SUPPORTED);
        }
        plain::vkGetPhysicalDeviceImageFormatProperties(self, c)
    }

    fn vkGetPhysicalDeviceImageFormatProperties2(
        &mut self,
        c: &mut p::vkGetPhysicalDeviceImageFormatProperties2,
    ) -> Result<VkResult, Error> {
        // SAFETY: decoding placed the struct.
        let (flags, tiling) =
            unsafe { ((*c.pImageFormatInfo).flags, (*c.pImageFormatInfo).tiling) };
        if flags & VK_IMAGE_CREATE_SPARSE_BINDING_BIT != 0 && !self.shows_sparse(tiling) {
            return Ok(VK_ERROR_FORMAT_NOT_SUPPORTED);
        }
        plain::vkGetPhysicalDeviceImageFormatProperties2(self, c)
    }

    fn vkGetPhysicalDeviceQueueFamilyProperties(
        &mut self,
        c: &mut p::vkGetPhysicalDeviceQueueFamilyProperties,
    ) -> Result<(), Error> {
        plain::vkGetPhysicalDeviceQueueFamilyProperties(self, c)?;
        if self.context.memory_types.can_be_sparse() {
            return Ok(());
        }
        // SAFETY: the call filled what decoding had made room for.
        unsafe {
            let n = count(c.pQueueFamilyPropertyCount);
            for family in crate::stream::slice_mut(c.pQueueFamilyProperties, n) {
                family.queueFlags &= !VK_QUEUE_SPARSE_BINDING_BIT;
            }
        }
        Ok(())
    }

    fn vkGetPhysicalDeviceQueueFamilyProperties2(
        &mut self,
        c: &mut p::vkGetPhysicalDeviceQueueFamilyProperties2,
    ) -> Result<(), Error> {
        plain::vkGetPhysicalDeviceQueueFamilyProperties2(self, c)?;
        if self.context.memory_types.can_be_sparse() {
            return Ok(());
        }
        // SAFETY: the call filled what decoding had made room for.
        unsafe {
            let n = count(c.pQueueFamilyPropertyCount);
            for family in crate::stream::slice_mut(c.pQueueFamilyProperties, n) {
                family.queueFamilyProperties.queueFlags &= !VK_QUEUE_SPARSE_BINDING_BIT;
            }
        }
        Ok(())
    }

    fn vkGetPhysicalDeviceSparseImageFormatProperties(
        &mut self,
        c: &mut p::vkGetPhysicalDeviceSparseImageFormatProperties,
    ) -> Result<(), Error> {
        if self.shows_sparse(c.tiling) {
            return plain::vkGetPhysicalDeviceSparseImageFormatProperties(self, c);
        }
        // SAFETY: decoding placed the count.
        unsafe { none(c.pPropertyCount) }
    }

    fn vkGetPhysicalDeviceSparseImageFormatProperties2(
        &mut self,
        c: &mut p::vkGetPhysicalDeviceSparseImageFormatProperties2,
    ) -> Result<(), Error> {
        // SAFETY: decoding placed the struct.
        if self.shows_sparse(unsafe { (*c.pFormatInfo).tiling }) {
            return plain::vkGetPhysicalDeviceSparseImageFormatProperties2(self, c);
        }
        // SAFETY: decoding placed the count.
        unsafe { none(c.pPropertyCount) }
    }

    fn vkEnumeratePhysicalDevices(
        &mut self,
        c: &mut p::vkEnumeratePhysicalDevices,
    ) -> Result<VkResult, Error> {
        let (_, token) = self.physical_device(c.instance_token)?;
        // SAFETY: decoding placed the count and made room for as many handles.
        unsafe {
            let Some(n) = c.pPhysicalDeviceCount.as_mut() else {
                return Err(Error::Nonsense("no room for the number of devices"));
            };
            let asked = *n;
            *n = 1;
            if c.pPhysicalDevices.is_null() {
                return Ok(VK_SUCCESS);
            }
            if asked == 0 {
                *n = 0;
                return Ok(VK_INCOMPLETE);
            }
            *c.pPhysicalDevices = VkPhysicalDevice(token);
        }
        Ok(VK_SUCCESS)
    }

    fn vkGetPhysicalDeviceMemoryProperties(
        &mut self,
        c: &mut p::vkGetPhysicalDeviceMemoryProperties,
    ) -> Result<(), Error> {
        plain::vkGetPhysicalDeviceMemoryProperties(self, c)?;
        // SAFETY: the call filled what decoding had made room for.
        unsafe {
            if let Some(properties) = c.pMemoryProperties.as_mut() {
                self.show_memory(properties);
            }
        }
        Ok(())
    }

    fn vkGetPhysicalDeviceMemoryProperties2(
        &mut self,
        c: &mut p::vkGetPhysicalDeviceMemoryProperties2,
    ) -> Result<(), Error> {
        plain::vkGetPhysicalDeviceMemoryProperties2(self, c)?;
        // SAFETY: the call filled what decoding had made room for.
        unsafe {
            if let Some(properties) = c.pMemoryProperties.as_mut() {
                self.show_memory(&mut properties.memoryProperties);
            }
        }
        Ok(())
    }

    fn vkEnumerateDeviceExtensionProperties(
        &mut self,
        c: &mut p::vkEnumerateDeviceExtensionProperties,
    ) -> Result<VkResult, Error> {
        let fns = self.instance(c.physicalDevice_token)?.fns;
        // Upstream's host hides nothing: guests have lists of what they may use.
        let all = self.context.limits.as_upstream;
        let shown: Vec<VkExtensionProperties> = driver::device_extensions(&fns, c.physicalDevice)
            .into_iter()
            .filter(|e| {
                let name = driver::text(&e.extensionName);
                all || !hides(&name, self.features)
            })
            .collect();
        // SAFETY: decoding placed the count and made room for as many structs.
        unsafe {
            let Some(n) = c.pPropertyCount.as_mut() else {
                return Err(Error::Nonsense("no room for the number of extensions"));
            };
            if c.pProperties.is_null() {
                *n = shown.len() as u32;
                return Ok(VK_SUCCESS);
            }
            let room = crate::stream::slice_mut(c.pProperties, *n as usize);
            for (to, from) in room.iter_mut().zip(&shown) {
                *to = *from;
            }
            let complete = room.len() >= shown.len();
            *n = room.len().min(shown.len()) as u32;
            Ok(if complete { VK_SUCCESS } else { VK_INCOMPLETE })
        }
    }
}

#[cfg(test)]
mod tests {
    use asgard_protocol::zeroed;

    use super::*;

    #[test]
    fn a_device_is_not_created_with_features_that_are_hidden() {
        let with = |shows_sparse,
                    core: Option<&VkPhysicalDeviceFeatures>,
                    next: *const std::ffi::c_void| {
            let info = VkDeviceCreateInfo {
                pNext: next,
                pEnabledFeatures: core.map_or(std::ptr::null(), std::ptr::from_ref),
                ..zeroed()
            };
            // SAFETY: the pointers are null or point to structs of the test's own.
            unsafe { wants_hidden(&info, Features::NONE, shows_sparse, false) }
        };
        let wants = |core: Option<&_>, next| with(false, core, next);
        let core = |sparse| VkPhysicalDeviceFeatures {
            geometryShader: 1,
            sparseResidencyBuffer: sparse,
            ..zeroed()
        };
        assert!(!wants(None, std::ptr::null()));
        assert!(!wants(Some(&core(0)), std::ptr::null()));
        assert!(wants(Some(&core(1)), std::ptr::null()));
        assert!(!with(true, Some(&core(1)), std::ptr::null()));
        for (sparse, uniforms) in [(0, 0), (1, 0), (0, 1)] {
            let mut newer = VkPhysicalDeviceVulkan13Features {
                sType: VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_3_FEATURES,
                synchronization2: 1,
                inlineUniformBlock: uniforms,
                ..zeroed()
            };
            let all = VkPhysicalDeviceFeatures2 {
                sType: VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2,
                pNext: (&raw mut newer).cast(),
                features: core(sparse),
            };
            let expected = sparse + uniforms > 0;
            assert_eq!(wants(None, (&raw const all).cast()), expected);
        }
    }
}
