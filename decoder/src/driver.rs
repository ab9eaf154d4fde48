//! The host's Vulkan driver: the loader's library, instances and devices with their function tables.
//!
//! One of the places where `unsafe` lives: here are the calls into the driver that no guest asked for.

use std::ffi::{CStr, CString, c_char};
use std::ptr;

use asgard_protocol::driver::{DeviceFns, GlobalFns, InstanceFns};
use asgard_protocol::types::*;
use asgard_protocol::zeroed;

use crate::Error;

/// `vkGetInstanceProcAddr`.
pub type GetInstanceProcAddr =
    unsafe extern "system" fn(VkInstance, *const c_char) -> PFN_vkVoidFunction;
type GetDeviceProcAddr = unsafe extern "system" fn(VkDevice, *const c_char) -> PFN_vkVoidFunction;

/// The Vulkan loader.
pub(crate) struct Loader {
    // Keeps the code behind the pointers mapped.
    _library: Option<libloading::Library>,
    get: GetInstanceProcAddr,
    pub(crate) global: GlobalFns,
}

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loader").finish_non_exhaustive()
    }
}

/// Lets the functions of libm be found among those of this program, for as long as it runs.
///
/// Drivers that compile shaders for the processor look there for what their code calls, and Mesa's
/// calls a null pointer where it finds nothing.
fn offer_mathematics() {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    // SAFETY: libm has no initialisers but those of any C library.
    match unsafe { Library::open(Some("libm.so.6"), RTLD_NOW | RTLD_GLOBAL) } {
        Ok(library) => std::mem::forget(library),
        // Other C libraries are their own libm.
        Err(error) => tracing::debug!(%error, "no libm of its own"),
    }
}

impl Loader {
    /// Opens the system's Vulkan loader.
    pub(crate) fn open() -> Result<Self, Error> {
        offer_mathematics();
        // SAFETY: the Vulkan loader's initialisers do what initialisers of system libraries do.
        let library = unsafe { libloading::Library::new("libvulkan.so.1") }
            .map_err(|e| Error::NoDriver(format!("the Vulkan loader cannot be opened: {e}")))?;
        // SAFETY: the symbol has this signature in every Vulkan loader.
        let get = unsafe { library.get::<GetInstanceProcAddr>(b"vkGetInstanceProcAddr\0") }
            .map(|symbol| *symbol)
            .map_err(|e| Error::NoDriver(format!("libvulkan.so.1 is no Vulkan loader: {e}")))?;
        // SAFETY: the library stays mapped as long as the pointer is used.
        let loader = unsafe { Self::with(get) };
        Ok(Self {
            _library: Some(library),
            ..loader
        })
    }

    /// A loader or driver that is in this process already.
    ///
    /// # Safety
    /// `get` is a Vulkan implementation's entry point, and stays one.
    pub(crate) unsafe fn with(get: GetInstanceProcAddr) -> Self {
        // SAFETY: with a null instance it returns global functions or null.
        let global = unsafe { GlobalFns::load(|name| get(VkInstance(0), name.as_ptr())) };
        Self {
            _library: None,
            get,
            global,
        }
    }

    /// The functions of an instance.
    pub(crate) fn instance_fns(&self, instance: VkInstance) -> InstanceFns {
        // SAFETY: the instance is live, and the loader returns the function asked for.
        unsafe { InstanceFns::load(|name| (self.get)(instance, name.as_ptr())) }
    }

    /// The functions of a device.
    pub(crate) fn device_fns(
        &self,
        instance: VkInstance,
        device: VkDevice,
    ) -> Result<DeviceFns, Error> {
        // SAFETY: the instance is live.
        let get = unsafe { (self.get)(instance, c"vkGetDeviceProcAddr".as_ptr()) }
            .ok_or(Error::NoSuchFunction("vkGetDeviceProcAddr"))?;
        // SAFETY: the loader returned this function for its name.
        let get =
            unsafe { std::mem::transmute::<unsafe extern "system" fn(), GetDeviceProcAddr>(get) };
        // SAFETY: the device is live, and the loader returns the function asked for.
        Ok(unsafe { DeviceFns::load(|name| get(device, name.as_ptr())) })
    }

    /// An instance of our own, and its functions.
    pub(crate) fn instance(&self) -> Result<(VkInstance, InstanceFns), Error> {
        let create = self
            .global
            .vkCreateInstance
            .ok_or(Error::NoSuchFunction("vkCreateInstance"))?;
        let application = VkApplicationInfo {
            sType: VK_STRUCTURE_TYPE_APPLICATION_INFO,
            pApplicationName: c"asgard".as_ptr(),
            apiVersion: self.version(),
            ..zeroed()
        };
        let info = VkInstanceCreateInfo {
            sType: VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO,
            pApplicationInfo: &raw const application,
            ..zeroed()
        };
        let mut instance = VkInstance(0);
        // SAFETY: the structs live through the call.
        let result = unsafe { create(&raw const info, ptr::null(), &raw mut instance) };
        if result == VK_ERROR_INCOMPATIBLE_DRIVER {
            return Err(Error::NoDriver(
                "the Vulkan loader found none; Mesa's software driver will do (Debian: mesa-vulkan-drivers)"
                    .to_owned(),
            ));
        }
        if result != VK_SUCCESS {
            return Err(Error::NoDriver(format!(
                "vkCreateInstance failed with {result}"
            )));
        }
        Ok((instance, self.instance_fns(instance)))
    }

    /// The instance version of the loader.
    pub(crate) fn version(&self) -> u32 {
        let mut version = 1 << 22;
        if let Some(f) = self.global.vkEnumerateInstanceVersion {
            // SAFETY: the pointer is valid.
            unsafe { f(&raw mut version) };
        }
        version
    }
}

/// The physical devices of an instance.
pub(crate) fn physical_devices(
    fns: &InstanceFns,
    instance: VkInstance,
) -> Result<Vec<VkPhysicalDevice>, Error> {
    let f = fns
        .vkEnumeratePhysicalDevices
        .ok_or(Error::NoSuchFunction("vkEnumeratePhysicalDevices"))?;
    let mut count = 0;
    // SAFETY: a null array asks for the count; then the array has that many elements.
    unsafe {
        f(instance, &raw mut count, ptr::null_mut());
        let mut devices = vec![VkPhysicalDevice(0); count as usize];
        f(instance, &raw mut count, devices.as_mut_ptr());
        devices.truncate(count as usize);
        Ok(devices)
    }
}

/// What `vkGetPhysicalDeviceProperties` says.
pub(crate) fn properties(
    fns: &InstanceFns,
    device: VkPhysicalDevice,
) -> VkPhysicalDeviceProperties {
    let mut properties = zeroed::<VkPhysicalDeviceProperties>();
    if let Some(f) = fns.vkGetPhysicalDeviceProperties {
        // SAFETY: the pointer is valid and the device live.
        unsafe { f(device, &raw mut properties) };
    }
    properties
}

/// What `vkGetPhysicalDeviceMemoryProperties` says.
pub(crate) fn memory_properties(
    fns: &InstanceFns,
    device: VkPhysicalDevice,
) -> VkPhysicalDeviceMemoryProperties {
    let mut properties = zeroed::<VkPhysicalDeviceMemoryProperties>();
    if let Some(f) = fns.vkGetPhysicalDeviceMemoryProperties {
        // SAFETY: the pointer is valid and the device live.
        unsafe { f(device, &raw mut properties) };
    }
    properties
}

/// The device extensions of a physical device.
pub(crate) fn device_extensions(
    fns: &InstanceFns,
    device: VkPhysicalDevice,
) -> Vec<VkExtensionProperties> {
    let Some(f) = fns.vkEnumerateDeviceExtensionProperties else {
        return Vec::new();
    };
    let mut count = 0;
    // SAFETY: a null array asks for the count; then the array has that many elements.
    unsafe {
        f(device, ptr::null(), &raw mut count, ptr::null_mut());
        let mut all = vec![zeroed::<VkExtensionProperties>(); count as usize];
        f(device, ptr::null(), &raw mut count, all.as_mut_ptr());
        all.truncate(count as usize);
        all
    }
}

/// A fixed array of characters up to its first zero.
pub(crate) fn text(chars: &[c_char]) -> String {
    chars
        .iter()
        .take_while(|c| **c != 0)
        .map(|c| char::from(c.cast_unsigned()))
        .collect()
}

/// A list of C strings as a guest passes it.
///
/// # Safety
/// `names` holds `count` strings, or is null.
pub(crate) unsafe fn strings(names: *const *const c_char, count: u32) -> Vec<CString> {
    if names.is_null() {
        return Vec::new();
    }
    (0..count as usize)
        // SAFETY: the caller's promise.
        .map(|i| unsafe { CStr::from_ptr(*names.add(i)) }.to_owned())
        .collect()
}
