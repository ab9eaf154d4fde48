//! `libvulkan_asgard.so`: the loader interface of Asgard's guest Vulkan driver, and nothing else.
//!
//! The Vulkan loader finds it through `asgard_icd.json` and calls these three functions; the driver
//! itself is `asgard-encoder`.

use std::ffi::{CStr, c_char};
use std::mem::transmute;

use asgard_encoder::{PFN_vkVoidFunction, VK_ERROR_INCOMPATIBLE_DRIVER, VkInstance, VkResult};

/// The oldest version: before it, loaders left the check of the application's Vulkan version to drivers.
const OLDEST: u32 = 5;

/// The newest version of the loader-driver interface that is spoken here: 7 lets the loader take these
/// functions from `vk_icdGetInstanceProcAddr` itself.
const INTERFACE: u32 = 7;

/// Agrees on a version of the interface (LDP_DRIVER_3, 7 and 9 of the loader-driver document).
///
/// # Safety
/// `version` is valid for reading and writing.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn vk_icdNegotiateLoaderICDInterfaceVersion(
    version: *mut u32,
) -> VkResult {
    // SAFETY: the loader's promise.
    let version = unsafe { &mut *version };
    if *version < OLDEST {
        return VK_ERROR_INCOMPATIBLE_DRIVER;
    }
    *version = (*version).min(INTERFACE);
    0
}

/// The entry point of that name; without an instance only global ones, and those of this interface.
///
/// # Safety
/// `name` is a C string.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn vk_icdGetInstanceProcAddr(
    instance: VkInstance,
    name: *const c_char,
) -> PFN_vkVoidFunction {
    // SAFETY: the loader's promise.
    let name = unsafe { CStr::from_ptr(name) };
    let own = match name.to_bytes() {
        b"vk_icdNegotiateLoaderICDInterfaceVersion" => {
            vk_icdNegotiateLoaderICDInterfaceVersion as *const ()
        }
        b"vk_icdGetPhysicalDeviceProcAddr" => vk_icdGetPhysicalDeviceProcAddr as *const (),
        _ => return asgard_encoder::instance_proc_addr(instance, name),
    };
    // SAFETY: the caller casts the pointer back to the function's own type.
    Some(unsafe { transmute::<*const (), unsafe extern "system" fn()>(own) })
}

/// The entry point of that name, if it takes a physical device.
///
/// # Safety
/// `name` is a C string.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn vk_icdGetPhysicalDeviceProcAddr(
    _instance: VkInstance,
    name: *const c_char,
) -> PFN_vkVoidFunction {
    // SAFETY: the loader's promise.
    asgard_encoder::physical_device_proc_addr(unsafe { CStr::from_ptr(name) })
}
