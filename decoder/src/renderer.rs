//! The host's Vulkan driver as guests see it: which device, which memory.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use asgard_protocol::driver::InstanceFns;
use asgard_protocol::types::*;
use asgard_protocol::zeroed;

use crate::Error;
use crate::driver::{self, GetInstanceProcAddr, Loader};
use crate::memory_types::MemoryTypes;

/// The host's Vulkan driver, loaded once per process.
#[derive(Debug)]
pub struct Renderer {
    pub(crate) loader: Loader,
    device_name: String,
    driver: String,
    api_version: u32,
    device_type: VkPhysicalDeviceType,
    /// Which of the enumerated devices guests see.
    index: usize,
    /// The memory types that guests see, and those that they would see of upstream's host.
    memory_types: [MemoryTypes; 2],
    /// Bytes that imported memory must be aligned to, address and size.
    pub(crate) import_alignment: u64,
    extensions: Vec<String>,
}

impl Renderer {
    /// Loads the Vulkan loader and picks the physical device that guests see: the first discrete one,
    /// else integrated, else virtual, else software; never another gfxstream.
    ///
    /// # Errors
    /// [`Error::NoDriver`] when there is none, or when it cannot import host memory.
    pub fn load() -> Result<Arc<Self>, Error> {
        Self::new(Loader::open()?)
    }

    /// As [`Renderer::load`], with a loader or driver that is in this process already.
    ///
    /// # Errors
    /// As [`Renderer::load`].
    ///
    /// # Safety
    /// `entry` behaves as the specification says of `vkGetInstanceProcAddr`, and so does what it
    /// returns, for as long as the process lives.
    pub unsafe fn with_entry(entry: GetInstanceProcAddr) -> Result<Arc<Self>, Error> {
        // SAFETY: the caller's promise.
        Self::new(unsafe { Loader::with(entry) })
    }

    fn new(loader: Loader) -> Result<Arc<Self>, Error> {
        let (instance, fns) = loader.instance()?;
        let result = Self::pick(&loader, instance, &fns);
        if let Some(destroy) = fns.vkDestroyInstance {
            // SAFETY: ours, and unused from here on.
            unsafe { destroy(instance, std::ptr::null()) };
        }
        let picked = result?;
        tracing::info!(
            device = picked.name,
            driver = picked.driver,
            "Vulkan driver loaded"
        );
        Ok(Arc::new(Self {
            loader,
            device_name: picked.name,
            driver: picked.driver,
            api_version: picked.properties.apiVersion,
            device_type: picked.properties.deviceType,
            index: picked.index,
            memory_types: picked.memory_types,
            import_alignment: picked.alignment,
            extensions: picked.extensions,
        }))
    }

    fn pick(loader: &Loader, instance: VkInstance, fns: &InstanceFns) -> Result<Picked, Error> {
        let mut best: Option<(u32, Picked)> = None;
        for (index, device) in driver::physical_devices(fns, instance)?
            .into_iter()
            .enumerate()
        {
            let properties = driver::properties(fns, device);
            let name = driver::text(&properties.deviceName);
            let driver_name = driver_name(fns, device);
            if driver_name == "gfxstream" || name.contains("GFXStream") {
                continue;
            }
            let rank = match properties.deviceType {
                VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU => 4,
                VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU => 3,
                VK_PHYSICAL_DEVICE_TYPE_VIRTUAL_GPU => 2,
                _ => 1,
            };
            if best.as_ref().is_some_and(|(r, _)| *r >= rank) {
                continue;
            }
            let (importable, alignment) = importable(loader, instance, fns, device)?;
            best = Some((
                rank,
                Picked {
                    index,
                    extensions: driver::device_extensions(fns, device)
                        .iter()
                        .map(|e| driver::text(&e.extensionName))
                        .collect(),
                    name,
                    driver: driver_name,
                    properties,
                    memory_types: [true, false].map(|twins| {
                        let memory = driver::memory_properties(fns, device);
                        MemoryTypes::new(&memory, importable, twins)
                    }),
                    alignment,
                },
            ));
        }
        best.map(|(_, picked)| picked).ok_or_else(|| {
            Error::NoDriver(
                "the Vulkan loader found no device; Mesa's software driver will do (Debian: mesa-vulkan-drivers)"
                    .to_owned(),
            )
        })
    }

    /// `VkPhysicalDeviceProperties::deviceName` of the device that guests see.
    pub fn device_name(&self) -> &str {
        &self.device_name
    }

    /// `VkPhysicalDeviceDriverProperties::driverName` of it.
    pub fn driver_name(&self) -> &str {
        &self.driver
    }

    /// `VkPhysicalDeviceProperties::apiVersion` of it.
    pub fn api_version(&self) -> u32 {
        self.api_version
    }

    /// The device extensions of the driver, each with the reason if guests do not see it.
    pub fn extensions(&self) -> impl Iterator<Item = (&str, Option<&'static str>)> {
        self.extensions.iter().map(|name| {
            let hidden = crate::HIDDEN_EXTENSIONS.iter().find(|(h, ..)| h == name);
            (name.as_str(), hidden.map(|(_, why, _)| *why))
        })
    }

    /// It computes on the processor.
    pub fn is_software(&self) -> bool {
        self.device_type == VK_PHYSICAL_DEVICE_TYPE_CPU
    }

    /// Some memory of it can be shared with a guest.
    pub fn can_share_memory(&self) -> bool {
        self.memory_types[0].importable().is_some()
    }

    /// Capset field `colorBufferMemoryIndex`.
    pub fn color_buffer_memory_index(&self, as_upstream: bool) -> u32 {
        self.memory_types(as_upstream).color_buffers()
    }

    /// The memory types that a guest sees.
    pub(crate) fn memory_types(&self, as_upstream: bool) -> &MemoryTypes {
        let [ours, upstream] = &self.memory_types;
        if as_upstream { upstream } else { ours }
    }

    /// The device that guests see, among those of an instance.
    pub(crate) fn choose(
        &self,
        fns: &InstanceFns,
        instance: VkInstance,
    ) -> Result<VkPhysicalDevice, Error> {
        let all = driver::physical_devices(fns, instance)?;
        let is_it = |d: &VkPhysicalDevice| {
            driver::text(&driver::properties(fns, *d).deviceName) == self.device_name
        };
        all.get(self.index)
            .copied()
            .filter(is_it)
            .or_else(|| all.iter().copied().find(is_it))
            .ok_or_else(|| Error::NoDriver(format!("{} is gone", self.device_name)))
    }
}

struct Picked {
    index: usize,
    extensions: Vec<String>,
    name: String,
    driver: String,
    properties: VkPhysicalDeviceProperties,
    memory_types: [MemoryTypes; 2],
    alignment: u64,
}

fn driver_name(fns: &InstanceFns, device: VkPhysicalDevice) -> String {
    let mut driver = VkPhysicalDeviceDriverProperties {
        sType: VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_DRIVER_PROPERTIES,
        ..zeroed()
    };
    let mut properties = VkPhysicalDeviceProperties2 {
        sType: VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2,
        pNext: (&raw mut driver).cast(),
        ..zeroed()
    };
    if let Some(f) = fns.vkGetPhysicalDeviceProperties2 {
        // SAFETY: the chain lives through the call.
        unsafe { f(device, &raw mut properties) };
    }
    driver::text(&driver.driverName)
}

/// Which memory types can be imported by address, found by asking a device about a real mapping.
fn importable(
    loader: &Loader,
    instance: VkInstance,
    fns: &InstanceFns,
    physical: VkPhysicalDevice,
) -> Result<(u32, u64), Error> {
    let name = c"VK_EXT_external_memory_host";
    let has = driver::device_extensions(fns, physical)
        .iter()
        .any(|e| driver::text(&e.extensionName).as_bytes() == name.to_bytes());
    if !has {
        return Ok((0, 4096));
    }
    let mut host = VkPhysicalDeviceExternalMemoryHostPropertiesEXT {
        sType: VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_EXTERNAL_MEMORY_HOST_PROPERTIES_EXT,
        ..zeroed()
    };
    let mut properties = VkPhysicalDeviceProperties2 {
        sType: VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2,
        pNext: (&raw mut host).cast(),
        ..zeroed()
    };
    if let Some(f) = fns.vkGetPhysicalDeviceProperties2 {
        // SAFETY: the chain lives through the call.
        unsafe { f(physical, &raw mut properties) };
    }
    let alignment = host.minImportedHostPointerAlignment.max(4096);
    let create = fns
        .vkCreateDevice
        .ok_or(Error::NoSuchFunction("vkCreateDevice"))?;
    let priority = 1.0f32;
    let queue = VkDeviceQueueCreateInfo {
        sType: VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO,
        queueCount: 1,
        pQueuePriorities: &raw const priority,
        ..zeroed()
    };
    let names = [name.as_ptr()];
    let info = VkDeviceCreateInfo {
        sType: VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
        queueCreateInfoCount: 1,
        pQueueCreateInfos: &raw const queue,
        enabledExtensionCount: 1,
        ppEnabledExtensionNames: names.as_ptr(),
        ..zeroed()
    };
    let mut device = VkDevice(0);
    // SAFETY: the structs live through the call.
    let result = unsafe { create(physical, &raw const info, std::ptr::null(), &raw mut device) };
    if result != VK_SUCCESS {
        return Err(Error::Driver {
            what: "making a device to ask about memory",
            result,
        });
    }
    let fns = loader.device_fns(instance, device)?;
    let mut found = VkMemoryHostPointerPropertiesEXT {
        sType: VK_STRUCTURE_TYPE_MEMORY_HOST_POINTER_PROPERTIES_EXT,
        ..zeroed()
    };
    let memory = SharedMemory::new(alignment.max(65536));
    if let (Some(f), Ok(memory)) = (fns.vkGetMemoryHostPointerPropertiesEXT, &memory) {
        // SAFETY: the mapping lives through the call.
        unsafe {
            f(
                device,
                VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT,
                memory.map.as_mut_ptr().cast(),
                &raw mut found,
            )
        };
    }
    if let Some(f) = fns.vkDestroyDevice {
        // SAFETY: ours, and unused from here on.
        unsafe { f(device, std::ptr::null()) };
    }
    Ok((found.memoryTypeBits, alignment))
}

/// A memfd, mapped: memory that a driver imports and a guest maps.
#[derive(Debug)]
pub(crate) struct SharedMemory {
    pub(crate) fd: OwnedFd,
    pub(crate) map: memmap2::MmapRaw,
    pub(crate) size: u64,
}

impl SharedMemory {
    /// Fresh zeroed memory of `size` bytes, a multiple of the page size.
    pub(crate) fn new(size: u64) -> Result<Self, std::io::Error> {
        use rustix::fs::{MemfdFlags, SealFlags};
        let fd = rustix::fs::memfd_create(
            c"asgard-memory",
            MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
        )?;
        rustix::fs::ftruncate(&fd, size)?;
        // Whoever gets the descriptor cannot pull the memory from under us.
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Self::map(fd, size)
    }

    /// Maps memory that somebody else made; it must be sealed against shrinking.
    pub(crate) fn map(fd: OwnedFd, size: u64) -> Result<Self, std::io::Error> {
        let len = usize::try_from(size).map_err(std::io::Error::other)?;
        let map = memmap2::MmapOptions::new().len(len).map_raw(&fd)?;
        Ok(Self { fd, map, size })
    }
}
