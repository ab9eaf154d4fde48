//! Asgard's guest Vulkan driver: commands in, gfxstream packets out.
//!
//! The loader interface is the crate `asgard-icd`; all else is here.
//! Entry points and the traits they call are generated: a default body sends the command and waits for
//! the reply if there is one, or records it if it is for a command buffer.
//! What a guest has to do by itself is in `vulkan/`, one file for each Vulkan object; windows are in `wsi/`.
//! It knows nothing of the host but its bytes. Start reading at `stream.rs`, then `object.rs`.

#![allow(non_upper_case_globals, reason = "names of the Vulkan specification")]

use std::ffi::CStr;

mod driver;
mod object;
mod pages;
mod process;
mod status_page;
mod stream;
mod virtgpu;
mod vulkan;
mod wsi;

pub use asgard_protocol::types::{
    PFN_vkVoidFunction, VK_ERROR_INCOMPATIBLE_DRIVER, VkInstance, VkResult,
};

/// `vk_icdGetInstanceProcAddr`.
pub fn instance_proc_addr(instance: VkInstance, name: &CStr) -> PFN_vkVoidFunction {
    vulkan::proc_addr(instance, name)
}

/// `vk_icdGetPhysicalDeviceProcAddr`.
pub fn physical_device_proc_addr(name: &CStr) -> PFN_vkVoidFunction {
    vulkan::physical_device_proc_addr(name)
}
