//! Instances.

use std::ptr;
use std::sync::Arc;

use asgard_protocol::zeroed;
use parking_lot::Mutex;

use super::*;
use crate::context::Instance;
use crate::driver;

impl InstanceCommands for Engine {
    fn vkCreateInstance(&mut self, c: &mut p::vkCreateInstance) -> Result<VkResult, Error> {
        let context = Arc::clone(&self.context);
        let loader = &context.renderer.loader;
        let create = function!(loader.global, vkCreateInstance);
        // SAFETY: decoding placed the struct and its arrays in the arena.
        let (mut info, wanted) = unsafe {
            let info = *c.pCreateInfo;
            (
                info,
                driver::strings(
                    info.ppEnabledExtensionNames.cast(),
                    info.enabledExtensionCount,
                ),
            )
        };
        // Layers of the guest run in the guest; extensions that the host lacks are the guest's own.
        let have = instance_extensions(&context.renderer.loader);
        let names: Vec<_> = wanted
            .iter()
            .filter(|name| have.iter().any(|h| h.as_bytes() == name.as_bytes()))
            .map(|name| name.as_ptr())
            .collect();
        info.enabledLayerCount = 0;
        info.ppEnabledLayerNames = ptr::null();
        info.enabledExtensionCount = names.len() as u32;
        info.ppEnabledExtensionNames = names.as_ptr().cast();
        let mut instance = VkInstance(0);
        // SAFETY: the structs live through the call.
        let ret = unsafe { create(&raw const info, ptr::null(), &raw mut instance) };
        if ret != VK_SUCCESS {
            return Ok(ret);
        }
        let token = context.objects.insert(Kind::Instance, 0, instance.0)?;
        let fns = loader.instance_fns(instance);
        let instance = Instance {
            handle: instance,
            fns,
            physical: Mutex::new(None),
        };
        context.instances.write().insert(token, Arc::new(instance));
        // SAFETY: decoding made room for one handle.
        unsafe { *c.pInstance = VkInstance(token) };
        Ok(ret)
    }

    fn vkEnumerateInstanceVersion(
        &mut self,
        c: &mut p::vkEnumerateInstanceVersion,
    ) -> Result<VkResult, Error> {
        let ret = plain::vkEnumerateInstanceVersion(self, c)?;
        if self.context.limits.as_upstream {
            // SAFETY: decoding made room for the version.
            let version = unsafe { &mut *c.pApiVersion };
            *version = (*version).min(physical_device::UPSTREAM_VERSION);
        }
        Ok(ret)
    }

    fn vkDestroyInstance(&mut self, c: &mut p::vkDestroyInstance) -> Result<(), Error> {
        let Some(instance) = self.context.instances.write().remove(&c.instance_token) else {
            return Ok(());
        };
        let context = Arc::clone(&self.context);
        let physical = instance.physical.lock().take();
        if let Some((_, token)) = physical {
            for object in context.objects.all() {
                if object.kind == Kind::Device && object.parent == token {
                    let device = context.devices.read().get(&object.token).cloned();
                    if let Some(device) = device {
                        context.destroy_device(&device);
                    }
                }
            }
            self.retire(token);
        }
        self.retire(c.instance_token);
        let destroy = function!(instance.fns, vkDestroyInstance);
        // SAFETY: its devices are gone, and its token names nothing any more.
        unsafe { destroy(instance.handle, ptr::null()) };
        Ok(())
    }

    fn vkEnumerateInstanceLayerProperties(
        &mut self,
        c: &mut p::vkEnumerateInstanceLayerProperties,
    ) -> Result<VkResult, Error> {
        // SAFETY: decoding placed the count, unless the guest left it out.
        match unsafe { c.pPropertyCount.as_mut() } {
            Some(n) => {
                *n = 0;
                Ok(VK_SUCCESS)
            }
            None => Err(Error::Nonsense("no room for the number of layers")),
        }
    }

    fn vkEnumeratePhysicalDeviceGroups(
        &mut self,
        c: &mut p::vkEnumeratePhysicalDeviceGroups,
    ) -> Result<VkResult, Error> {
        let (_, token) = self.physical_device(c.instance_token)?;
        // SAFETY: decoding placed the count and made room for as many structs.
        unsafe {
            let Some(n) = c.pPhysicalDeviceGroupCount.as_mut() else {
                return Err(Error::Nonsense("no room for the number of groups"));
            };
            let asked = *n;
            *n = 1;
            let Some(group) = c.pPhysicalDeviceGroupProperties.as_mut() else {
                return Ok(VK_SUCCESS);
            };
            if asked == 0 {
                *n = 0;
                return Ok(VK_INCOMPLETE);
            }
            group.physicalDeviceCount = 1;
            if let Some(first) = group.physicalDevices.first_mut() {
                *first = VkPhysicalDevice(token);
            }
            group.subsetAllocation = 0;
        }
        Ok(VK_SUCCESS)
    }

    fn vkTraceAsyncGOOGLE(&mut self, c: &mut p::vkTraceAsyncGOOGLE) -> Result<(), Error> {
        tracing::trace!(id = c.id, "guest trace mark");
        Ok(())
    }

    fn vkSetDebugMetadataAsyncGOOGLE(
        &mut self,
        c: &mut p::vkSetDebugMetadataAsyncGOOGLE,
    ) -> Result<(), Error> {
        // SAFETY: decoding placed the struct and its chain.
        let name = unsafe {
            c.pDebugMetadata
                .as_ref()
                .and_then(|m| chain::find::<VkDebugMetadataGuestProcessNameGOOGLE>(m.pNext))
                .filter(|n| !n.pName.is_null())
                .map(|n| std::ffi::CStr::from_ptr(n.pName).to_string_lossy())
        };
        tracing::debug!(?name, "guest process");
        Ok(())
    }
}

fn instance_extensions(loader: &driver::Loader) -> Vec<String> {
    let Some(f) = loader.global.vkEnumerateInstanceExtensionProperties else {
        return Vec::new();
    };
    let mut count = 0;
    // SAFETY: a null array asks for the count; then the array has that many elements.
    unsafe {
        f(ptr::null(), &raw mut count, ptr::null_mut());
        let mut all = vec![zeroed::<VkExtensionProperties>(); count as usize];
        f(ptr::null(), &raw mut count, all.as_mut_ptr());
        all.truncate(count as usize);
        all.iter().map(|e| driver::text(&e.extensionName)).collect()
    }
}
