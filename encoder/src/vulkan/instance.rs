//! Instances.

use parking_lot::Mutex;

use super::*;
use crate::object::Dispatchable;

#[derive(Debug)]
pub(crate) struct Instance {
    /// The handle of the one physical device, once it was asked for.
    physical: Mutex<u64>,
    /// The minor version of Vulkan that the application uses.
    minor: u32,
}

#[derive(Debug)]
pub(crate) struct PhysicalDevice {
    /// Its instance's.
    pub(super) minor: u32,
}

/// Instance extensions that this driver carries, if the host has them.
const CARRIED: &[&str] = &[
    "VK_KHR_get_physical_device_properties2",
    "VK_KHR_device_group_creation",
    "VK_KHR_external_fence_capabilities",
    "VK_KHR_external_memory_capabilities",
    "VK_KHR_external_semaphore_capabilities",
];

pub(super) fn name_of(extension: &VkExtensionProperties) -> String {
    extension
        .extensionName
        .iter()
        .take_while(|c| **c != 0)
        .map(|c| char::from(c.cast_unsigned()))
        .collect()
}

/// Every item of a list that the host gives in two calls.
pub(super) fn all_of<T: asgard_protocol::wire::Zeroed>(
    mut ask: impl FnMut(*mut u32, *mut T) -> VkResult,
    prepare: impl Fn(&mut T),
) -> Vec<T> {
    let mut count = 0;
    if ask(&raw mut count, std::ptr::null_mut()) < 0 {
        return Vec::new();
    }
    let mut all = vec![zeroed::<T>(); count as usize];
    all.iter_mut().for_each(prepare);
    if ask(&raw mut count, all.as_mut_ptr()) < 0 {
        return Vec::new();
    }
    all.truncate(count as usize);
    all
}

/// The physical device of an instance.
fn physical_device(instance: VkInstance) -> Option<u64> {
    // SAFETY: the application passes a live instance.
    let object = unsafe { Dispatchable::<Instance>::from_handle(instance.0) };
    let mut known = object.data.physical.lock();
    if *known == 0 {
        let mut count = 1;
        let mut token = VkPhysicalDevice(0);
        let ret = Driver.call(&mut p::vkEnumeratePhysicalDevices {
            instance,
            pPhysicalDeviceCount: &raw mut count,
            pPhysicalDevices: &raw mut token,
            ..zeroed()
        });
        if ret < 0 || count == 0 || token.0 == 0 {
            return None;
        }
        let minor = object.data.minor;
        *known = Dispatchable::new(token.0, PhysicalDevice { minor }).into_handle();
    }
    Some(*known)
}

impl InstanceCommands for Driver {
    fn vkGetInstanceProcAddr(&self, c: &mut p::vkGetInstanceProcAddr) -> PFN_vkVoidFunction {
        // SAFETY: the application passes a string.
        proc_addr(c.instance, unsafe { CStr::from_ptr(c.pName) })
    }

    fn vkCreateInstance(&self, c: &mut p::vkCreateInstance) -> VkResult {
        // SAFETY: the application passes a struct; it is copied and not changed.
        let mut info = unsafe { *c.pCreateInfo };
        info.enabledLayerCount = 0;
        info.ppEnabledLayerNames = std::ptr::null();
        let (count, names) = (info.enabledExtensionCount, info.ppEnabledExtensionNames);
        // SAFETY: the application passes as many strings as it says.
        let extensions = unsafe { hosts(count, names, surface::INSTANCE) };
        info.enabledExtensionCount = extensions.len() as u32;
        info.ppEnabledExtensionNames = extensions.as_ptr();
        let mut token = VkInstance(0);
        let ret = self.call(&mut p::vkCreateInstance {
            pCreateInfo: &raw const info,
            pAllocator: std::ptr::null(),
            pInstance: &raw mut token,
        });
        if ret == VK_SUCCESS {
            // SAFETY: the application passes null or a struct.
            let application = unsafe { info.pApplicationInfo.as_ref() };
            let instance = Instance {
                physical: Mutex::default(),
                minor: application.map_or(0, |a| a.apiVersion >> 12 & 0x3ff),
            };
            let handle = Dispatchable::new(token.0, instance).into_handle();
            // SAFETY: the application made room for one handle.
            unsafe { *c.pInstance = VkInstance(handle) };
        }
        if ret == VK_ERROR_DEVICE_LOST {
            return VK_ERROR_INCOMPATIBLE_DRIVER;
        }
        ret
    }

    fn vkDestroyInstance(&self, c: &mut p::vkDestroyInstance) {
        if c.instance.0 == 0 {
            return;
        }
        c.pAllocator = std::ptr::null();
        self.send(c);
        // SAFETY: the application does not use the instance any more.
        unsafe {
            let instance = Dispatchable::<Instance>::take(c.instance.0);
            let physical = *instance.data.physical.lock();
            if physical != 0 {
                drop(Dispatchable::<PhysicalDevice>::take(physical));
            }
        }
    }

    fn vkEnumerateInstanceExtensionProperties(
        &self,
        c: &mut p::vkEnumerateInstanceExtensionProperties,
    ) -> VkResult {
        if !c.pLayerName.is_null() {
            // SAFETY: the application made room.
            return unsafe { list(&[], c.pPropertyCount, c.pProperties) };
        }
        let host = all_of(
            |count, to| {
                self.call(&mut p::vkEnumerateInstanceExtensionProperties {
                    pLayerName: std::ptr::null(),
                    pPropertyCount: count,
                    pProperties: to,
                })
            },
            |_| {},
        );
        let shown: Vec<VkExtensionProperties> = host
            .into_iter()
            .filter(|e| CARRIED.contains(&name_of(e).as_str()))
            .chain(properties(surface::INSTANCE))
            .collect();
        // SAFETY: the application made room.
        unsafe { list(&shown, c.pPropertyCount, c.pProperties) }
    }

    fn vkEnumerateInstanceLayerProperties(
        &self,
        c: &mut p::vkEnumerateInstanceLayerProperties,
    ) -> VkResult {
        // SAFETY: the application made room.
        unsafe { list(&[], c.pPropertyCount, c.pProperties) }
    }

    fn vkEnumeratePhysicalDeviceGroups(
        &self,
        c: &mut p::vkEnumeratePhysicalDeviceGroups,
    ) -> VkResult {
        let Some(device) = physical_device(c.instance) else {
            return VK_ERROR_INITIALIZATION_FAILED;
        };
        // SAFETY: the application made room for as many structs as the count says.
        unsafe {
            if c.pPhysicalDeviceGroupProperties.is_null() {
                *c.pPhysicalDeviceGroupCount = 1;
                return VK_SUCCESS;
            }
            if *c.pPhysicalDeviceGroupCount == 0 {
                return VK_INCOMPLETE;
            }
            *c.pPhysicalDeviceGroupCount = 1;
            let group = &mut *c.pPhysicalDeviceGroupProperties;
            group.physicalDeviceCount = 1;
            group.physicalDevices[0] = VkPhysicalDevice(device);
            group.subsetAllocation = 0;
        }
        VK_SUCCESS
    }
}

/// `vkEnumeratePhysicalDevices`.
pub(super) fn enumerate(c: &mut p::vkEnumeratePhysicalDevices) -> VkResult {
    let Some(device) = physical_device(c.instance) else {
        return VK_ERROR_INITIALIZATION_FAILED;
    };
    // SAFETY: the application made room.
    unsafe {
        list(
            &[VkPhysicalDevice(device)],
            c.pPhysicalDeviceCount,
            c.pPhysicalDevices,
        )
    }
}
