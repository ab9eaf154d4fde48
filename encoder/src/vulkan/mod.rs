//! What a guest has to do by itself, one file for each Vulkan object.

use std::ffi::{CStr, c_char, c_void};
use std::mem::transmute;

use asgard_protocol::commands as p;
use asgard_protocol::types::*;
use asgard_protocol::zeroed;

use crate::driver::{Driver, Guest};

mod buffer;
pub(crate) mod command_buffer;
mod command_pool;
mod descriptor_buffer;
mod descriptor_pool;
mod descriptor_update_template;
mod device;
mod device_memory;
mod event;
mod fence;
mod heard;
mod image;
mod instance;
mod physical_device;
mod pipeline;
mod pipeline_layout;
mod queue;
mod requirements;
mod semaphore;
mod surface;
mod swapchain;

#[allow(
    non_snake_case,
    clippy::too_many_arguments,
    clippy::undocumented_unsafe_blocks,
    clippy::redundant_field_names,
    clippy::needless_update,
    reason = "generated, with C names"
)]
mod generated {
    use super::*;
    include!(concat!(env!("OUT_DIR"), "/entrypoints.rs"));
}
use generated::*;

/// Objects whose every command is sent as it is.
macro_rules! plain {
    ($($commands:ident)*) => { $( impl $commands for Driver {} )* };
}
plain! {
    AccelerationStructureCommands BufferCollectionCommands BufferViewCommands
    CuFunctionCommands CuModuleCommands CudaFunctionCommands CudaModuleCommands
    DataGraphPipelineSessionCommands
    DeferredOperationCommands
    DisplayCommands DisplayModeCommands ExternalComputeQueueCommands
    FramebufferCommands ImageViewCommands IndirectCommandsLayoutCommands
    IndirectExecutionSetCommands MicromapCommands OpticalFlowSessionCommands
    PerformanceConfigurationCommands PipelineBinaryCommands
    PipelineCacheCommands PrivateDataSlotCommands QueryPoolCommands
    RenderPassCommands SamplerCommands SamplerYcbcrConversionCommands
    ShaderCommands ShaderModuleCommands TensorCommands
    TensorViewCommands ValidationCacheCommands VideoSessionCommands VideoSessionParametersCommands
}

/// `vkGetInstanceProcAddr`.
pub(crate) fn proc_addr(instance: VkInstance, name: &CStr) -> PFN_vkVoidFunction {
    if name == c"vkGetInstanceProcAddr" {
        return instance_entry(name);
    }
    let global = global_entry(name);
    if global.is_some() || instance.0 == 0 {
        return global;
    }
    instance_entry(name)
        .or_else(|| surface::entry(name))
        .or_else(|| device_entry(name))
}

/// `vk_icdGetPhysicalDeviceProcAddr`.
pub(crate) fn physical_device_proc_addr(name: &CStr) -> PFN_vkVoidFunction {
    let takes_one = name.to_bytes().starts_with(b"vkGetPhysicalDevice")
        || name.to_bytes().starts_with(b"vkEnumerateDevice")
        || name == c"vkCreateDevice";
    if takes_one {
        instance_entry(name).or_else(|| surface::entry(name))
    } else {
        None
    }
}

/// The names of extensions without those that are this driver's own, which the host does not know.
///
/// # Safety
/// There are as many strings as the count says.
unsafe fn hosts(
    count: u32,
    names: *const *const c_char,
    own: &[(&CStr, u32)],
) -> Vec<*const c_char> {
    (0..count as usize)
        // SAFETY: the caller's promise.
        .map(|i| unsafe { *names.add(i) })
        .filter(|name| {
            // SAFETY: the caller's promise.
            let name = unsafe { CStr::from_ptr(*name) };
            !own.iter().any(|(known, _)| *known == name)
        })
        .collect()
}

/// Extensions of this driver's own, as applications see them.
fn properties(own: &[(&CStr, u32)]) -> impl Iterator<Item = VkExtensionProperties> {
    own.iter().map(|(name, version)| {
        let mut extension = zeroed::<VkExtensionProperties>();
        for (to, from) in extension.extensionName.iter_mut().zip(name.to_bytes()) {
            *to = from.cast_signed();
        }
        extension.specVersion = *version;
        extension
    })
}

/// The two-call idiom: as many of `all` as there is room for.
///
/// # Safety
/// `count` is valid, and `to` is null or has room for `*count` values.
unsafe fn list<T: Copy>(all: &[T], count: *mut u32, to: *mut T) -> VkResult {
    // SAFETY: the caller's promise.
    unsafe {
        if to.is_null() {
            *count = all.len() as u32;
            return VK_SUCCESS;
        }
        let n = all.len().min(*count as usize);
        std::ptr::copy_nonoverlapping(all.as_ptr(), to, n);
        *count = n as u32;
        if n < all.len() {
            VK_INCOMPLETE
        } else {
            VK_SUCCESS
        }
    }
}
