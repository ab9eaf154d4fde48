//! `loader LIBRARY CHECK`: calls a Vulkan driver as the Khronos loader does, and checks one requirement of its loader-driver interface.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "a loader casts function pointers and reads drivers' objects: its every line is unsafe for the same reason"
)]

use std::ffi::{CStr, CString, c_char, c_void};
use std::mem::transmute;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use ash::vk::{self, Handle};

/// What a dispatchable object starts with.
const MAGIC: usize = 0x01cd_c0de;

/// The version of the interface that a loader of today offers.
const NEWEST: u32 = 7;

struct Driver {
    library: *mut c_void,
    get: vk::PFN_vkGetInstanceProcAddr,
}

impl Driver {
    fn open(path: &str) -> Result<Self> {
        let path = CString::new(path)?;
        let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        ensure!(!library.is_null(), "{path:?} cannot be loaded");
        let get = symbol(library, c"vk_icdGetInstanceProcAddr")?;
        let get = unsafe { transmute::<*mut c_void, vk::PFN_vkGetInstanceProcAddr>(get) };
        Ok(Self { library, get })
    }

    /// Offers a version; the driver's answer, or its error.
    fn negotiate(&self, mut version: u32) -> Result<Result<u32, vk::Result>> {
        let function = symbol(self.library, c"vk_icdNegotiateLoaderICDInterfaceVersion")?;
        let function = unsafe {
            transmute::<*mut c_void, unsafe extern "system" fn(*mut u32) -> vk::Result>(function)
        };
        let result = unsafe { function(&raw mut version) };
        Ok(result.result().map(|()| version))
    }

    fn find(&self, instance: vk::Instance, name: &CStr) -> vk::PFN_vkVoidFunction {
        unsafe { (self.get)(instance, name.as_ptr()) }
    }

    /// What `vk_icdGetPhysicalDeviceProcAddr` says.
    fn physical(&self, instance: vk::Instance, name: &CStr) -> Result<vk::PFN_vkVoidFunction> {
        let function = symbol(self.library, c"vk_icdGetPhysicalDeviceProcAddr")?;
        let function = unsafe { transmute::<*mut c_void, vk::PFN_vkGetInstanceProcAddr>(function) };
        Ok(unsafe { function(instance, name.as_ptr()) })
    }

    /// Its commands, through ash.
    fn entry(&self) -> ash::Entry {
        let get_instance_proc_addr = self.get;
        unsafe {
            ash::Entry::from_static_fn(ash::StaticFn {
                get_instance_proc_addr,
            })
        }
    }

    fn instance(&self, version: u32) -> Result<ash::Instance, vk::Result> {
        let application = vk::ApplicationInfo::default().api_version(version);
        let info = vk::InstanceCreateInfo::default().application_info(&application);
        unsafe { self.entry().create_instance(&info, None) }
    }
}

fn symbol(library: *mut c_void, name: &CStr) -> Result<*mut c_void> {
    let found = unsafe { libc::dlsym(library, name.as_ptr()) };
    ensure!(!found.is_null(), "the driver exports no {name:?}");
    Ok(found)
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [library, check] = words.as_slice() else {
        eprintln!("usage: loader LIBRARY CHECK");
        return ExitCode::FAILURE;
    };
    match Driver::open(library).and_then(|driver| run(&driver, check)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loader {check}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(driver: &Driver, check: &str) -> Result<()> {
    match check {
        "no_devices" => no_devices(driver),
        "negotiate" => negotiate(driver),
        "conformance" => conformance(driver),
        "any_version" => any_version(driver),
        "global" => global(driver),
        "physical" => physical(driver),
        "device" => device(driver),
        "magic" => magic(driver),
        "layers" => layers(driver),
        "surfaces" => surfaces(driver),
        "exports" => exports(driver),
        _ => bail!("no such check"),
    }
}

/// Without a renderer every call says so, and none crashes.
fn no_devices(driver: &Driver) -> Result<()> {
    negotiated(driver)?;
    let entry = driver.entry();
    unsafe {
        let _ = entry.try_enumerate_instance_version();
        let _ = entry.enumerate_instance_extension_properties(None);
        let _ = entry.enumerate_instance_layer_properties();
    }
    let made = driver.instance(vk::API_VERSION_1_0).map(|_| ());
    ensure!(
        made == Err(vk::Result::ERROR_INCOMPATIBLE_DRIVER),
        "{made:?}"
    );
    Ok(())
}

fn negotiated(driver: &Driver) -> Result<()> {
    ensure!(driver.negotiate(NEWEST)? == Ok(NEWEST));
    Ok(())
}

fn negotiate(driver: &Driver) -> Result<()> {
    for version in 0..=NEWEST + 1 {
        let got = driver.negotiate(version)?;
        let want = if version < 5 {
            // Loaders that leave the check of Vulkan's version to the driver.
            Err(vk::Result::ERROR_INCOMPATIBLE_DRIVER)
        } else {
            Ok(version.min(NEWEST))
        };
        ensure!(got == want, "version {version}: {got:?}");
    }
    // From version 7 on, loaders may ask the driver for these too.
    for name in [
        c"vk_icdNegotiateLoaderICDInterfaceVersion",
        c"vk_icdGetPhysicalDeviceProcAddr",
    ] {
        let found = driver.find(vk::Instance::null(), name);
        ensure!(found.is_some(), "{name:?} cannot be asked for");
    }
    Ok(())
}

fn first(instance: &ash::Instance) -> Result<vk::PhysicalDevice> {
    let all = unsafe { instance.enumerate_physical_devices()? };
    all.first().copied().context("no physical device")
}

/// A device with one queue and these extensions.
fn open(
    instance: &ash::Instance,
    physical: vk::PhysicalDevice,
    extensions: &[*const c_char],
) -> Result<ash::Device> {
    let queues = [vk::DeviceQueueCreateInfo::default().queue_priorities(&[1.0])];
    let info = vk::DeviceCreateInfo::default()
        .queue_create_infos(&queues)
        .enabled_extension_names(extensions);
    Ok(unsafe { instance.create_device(physical, &info, None)? })
}

fn conformance(driver: &Driver) -> Result<()> {
    negotiated(driver)?;
    let instance = driver.instance(vk::API_VERSION_1_2)?;
    let physical = first(&instance)?;
    let mut twelve = vk::PhysicalDeviceVulkan12Properties::default();
    let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut twelve);
    unsafe { instance.get_physical_device_properties2(physical, &mut properties) };
    let mut own = vk::PhysicalDeviceDriverProperties::default();
    let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut own);
    unsafe { instance.get_physical_device_properties2(physical, &mut properties) };
    for v in [twelve.conformance_version, own.conformance_version] {
        let all = [v.major, v.minor, v.subminor, v.patch];
        ensure!(all == [0; 4], "it claims conformance with {all:?}");
    }
    ensure!(own.driver_name_as_c_str()? != c"");
    unsafe { instance.destroy_instance(None) };
    Ok(())
}

/// With interface version 5 or newer, the application's version is the loader's to check.
fn any_version(driver: &Driver) -> Result<()> {
    negotiated(driver)?;
    for version in [
        0,
        vk::API_VERSION_1_0,
        vk::API_VERSION_1_3,
        vk::make_api_version(0, 1, 9, 0),
    ] {
        let instance = driver.instance(version);
        let instance = instance.with_context(|| format!("version {version:#x}"))?;
        unsafe { instance.destroy_instance(None) };
    }
    Ok(())
}

/// Commands that need no instance.
const GLOBAL: [&CStr; 5] = [
    c"vkCreateInstance",
    c"vkEnumerateInstanceExtensionProperties",
    c"vkEnumerateInstanceLayerProperties",
    c"vkEnumerateInstanceVersion",
    c"vkGetInstanceProcAddr",
];
const OF_INSTANCES: [&CStr; 5] = [
    c"vkDestroyInstance",
    c"vkEnumeratePhysicalDevices",
    c"vkCreateDevice",
    c"vkGetPhysicalDeviceProperties2",
    c"vkGetDeviceProcAddr",
];
const OF_DEVICES: [&CStr; 5] = [
    c"vkDestroyDevice",
    c"vkGetDeviceQueue",
    c"vkQueueSubmit",
    c"vkCmdDraw",
    c"vkAllocateMemory",
];

fn global(driver: &Driver) -> Result<()> {
    negotiated(driver)?;
    for name in GLOBAL {
        ensure!(
            driver.find(vk::Instance::null(), name).is_some(),
            "{name:?}"
        );
    }
    for name in OF_INSTANCES.into_iter().chain(OF_DEVICES) {
        let found = driver.find(vk::Instance::null(), name);
        ensure!(found.is_none(), "{name:?} without an instance");
    }
    let version = unsafe { driver.entry().try_enumerate_instance_version()? };
    ensure!(version >= Some(vk::API_VERSION_1_1), "{version:?}");
    let instance = driver.instance(vk::API_VERSION_1_3)?;
    for name in OF_INSTANCES.into_iter().chain(OF_DEVICES) {
        ensure!(driver.find(instance.handle(), name).is_some(), "{name:?}");
    }
    ensure!(driver.find(instance.handle(), c"vkNoSuchCommand").is_none());
    unsafe { instance.destroy_instance(None) };
    Ok(())
}

fn physical(driver: &Driver) -> Result<()> {
    negotiated(driver)?;
    let instance = driver.instance(vk::API_VERSION_1_3)?;
    let handle = instance.handle();
    for name in [
        c"vkGetPhysicalDeviceProperties",
        c"vkGetPhysicalDeviceFeatures2",
        c"vkGetPhysicalDeviceToolProperties",
        c"vkEnumerateDeviceExtensionProperties",
        c"vkCreateDevice",
    ] {
        ensure!(driver.physical(handle, name)?.is_some(), "{name:?}");
    }
    for name in GLOBAL.into_iter().chain(OF_DEVICES).chain([
        c"vkDestroyInstance",
        c"vkGetPhysicalDeviceNothing",
        c"",
    ]) {
        ensure!(driver.physical(handle, name)?.is_none(), "{name:?}");
    }
    unsafe { instance.destroy_instance(None) };
    Ok(())
}

fn device(driver: &Driver) -> Result<()> {
    negotiated(driver)?;
    let instance = driver.instance(vk::API_VERSION_1_3)?;
    let physical = first(&instance)?;
    let extension = ash::ext::extended_dynamic_state3::NAME;
    let shown = unsafe { instance.enumerate_device_extension_properties(physical)? };
    let has = shown
        .iter()
        .any(|e| e.extension_name_as_c_str() == Ok(extension));
    let of_extension = c"vkCmdSetPolygonModeEXT";
    for enabled in [false, has] {
        let names: &[*const c_char] = if enabled { &[extension.as_ptr()] } else { &[] };
        let device = open(&instance, physical, names)?;
        let get = |name: &CStr| unsafe {
            (instance.fp_v1_0().get_device_proc_addr)(device.handle(), name.as_ptr())
        };
        for name in OF_DEVICES.into_iter().chain([c"vkGetDeviceProcAddr"]) {
            ensure!(get(name).is_some(), "{name:?}");
        }
        for name in [
            c"vkDestroyInstance",
            c"vkGetPhysicalDeviceProperties",
            c"vkCreateDevice",
            c"vkCreateInstance",
            c"vkCreateRayTracingPipelinesKHR",
            c"vkNoSuchCommand",
        ] {
            ensure!(get(name).is_none(), "{name:?}");
        }
        let found = get(of_extension).is_some();
        ensure!(
            found == enabled,
            "{of_extension:?}: {found}, enabled: {enabled}"
        );
        unsafe { device.destroy_device(None) };
    }
    unsafe { instance.destroy_instance(None) };
    Ok(())
}

fn magic(driver: &Driver) -> Result<()> {
    negotiated(driver)?;
    let instance = driver.instance(vk::API_VERSION_1_3)?;
    let physical = first(&instance)?;
    let device = open(&instance, physical, &[])?;
    let queue = unsafe { device.get_device_queue(0, 0) };
    let pool = vk::CommandPoolCreateInfo::default();
    let pool = unsafe { device.create_command_pool(&pool, None)? };
    let buffers = vk::CommandBufferAllocateInfo::default()
        .command_pool(pool)
        .command_buffer_count(3);
    let buffers = unsafe { device.allocate_command_buffers(&buffers)? };
    let mut all = vec![
        ("an instance", instance.handle().as_raw()),
        ("a physical device", physical.as_raw()),
        ("a device", device.handle().as_raw()),
        ("a queue", queue.as_raw()),
    ];
    all.extend(buffers.iter().map(|b| ("a command buffer", b.as_raw())));
    for (what, handle) in all {
        let word = unsafe { *(handle as *const usize) };
        ensure!(word == MAGIC, "{what} starts with {word:#x}");
        // The loader writes its own word there.
        unsafe { *(handle as *mut usize) = 0x5a5a };
    }
    // The same object is the same handle, and its word stays as the loader left it.
    ensure!(first(&instance)? == physical);
    ensure!(unsafe { device.get_device_queue(0, 0) } == queue);
    ensure!(unsafe { *(queue.as_raw() as *const usize) } == 0x5a5a);
    unsafe {
        device.queue_wait_idle(queue)?;
        device.destroy_command_pool(pool, None);
        device.destroy_device(None);
        instance.destroy_instance(None);
    }
    Ok(())
}

/// Layers are the loader's.
fn layers(driver: &Driver) -> Result<()> {
    negotiated(driver)?;
    let entry = driver.entry();
    ensure!(unsafe { entry.enumerate_instance_layer_properties()? }.is_empty());
    let instance = driver.instance(vk::API_VERSION_1_3)?;
    let physical = first(&instance)?;
    ensure!(unsafe { instance.enumerate_device_layer_properties(physical)? }.is_empty());
    unsafe { instance.destroy_instance(None) };
    Ok(())
}

/// Who makes surfaces by itself has every command that takes one.
fn surfaces(driver: &Driver) -> Result<()> {
    negotiated(driver)?;
    let instance = driver.instance(vk::API_VERSION_1_3)?;
    let finds = |name: &CStr| driver.find(instance.handle(), name).is_some();
    let makes = [
        c"vkCreateXcbSurfaceKHR",
        c"vkCreateXlibSurfaceKHR",
        c"vkCreateWaylandSurfaceKHR",
        c"vkCreateHeadlessSurfaceEXT",
    ];
    if makes.into_iter().any(finds) {
        for name in [
            c"vkDestroySurfaceKHR",
            c"vkGetPhysicalDeviceSurfaceSupportKHR",
            c"vkGetPhysicalDeviceSurfaceCapabilitiesKHR",
            c"vkGetPhysicalDeviceSurfaceFormatsKHR",
            c"vkGetPhysicalDeviceSurfacePresentModesKHR",
            c"vkCreateSwapchainKHR",
        ] {
            ensure!(finds(name), "{name:?}");
        }
    }
    unsafe { instance.destroy_instance(None) };
    Ok(())
}

/// No names that could be taken for another library's.
fn exports(driver: &Driver) -> Result<()> {
    for name in GLOBAL.into_iter().chain(OF_INSTANCES).chain(OF_DEVICES) {
        let found = unsafe { libc::dlsym(driver.library, name.as_ptr()) };
        ensure!(found.is_null(), "the driver exports {name:?}");
    }
    Ok(())
}
