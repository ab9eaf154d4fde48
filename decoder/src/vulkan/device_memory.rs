//! Memory: what a guest can map is a memfd of ours that the driver imports by address.

use std::ptr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::*;
use crate::context::{Device, Memory};
use crate::renderer::SharedMemory;

impl Engine {
    /// Charges the context for mappable memory; false when that is over its limit.
    fn charge(&self, size: u64) -> bool {
        let used = &self.context.memory_used;
        let before = used.fetch_add(size, Ordering::Relaxed);
        if before.saturating_add(size) > self.context.limits.memory {
            used.fetch_sub(size, Ordering::Relaxed);
            return false;
        }
        true
    }

    /// Imports `shared` as the allocation that `c` asks for.
    fn import(
        &mut self,
        device: &Device,
        c: &p::vkAllocateMemory,
        info: &mut VkMemoryAllocateInfo,
        shared: SharedMemory,
        blob_id: Option<u64>,
        charged: u64,
    ) -> Result<VkResult, Error> {
        let allocate = function!(device.fns, vkAllocateMemory);
        let import = VkImportMemoryHostPointerInfoEXT {
            sType: VK_STRUCTURE_TYPE_IMPORT_MEMORY_HOST_POINTER_INFO_EXT,
            pNext: info.pNext,
            handleType: VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT,
            pHostPointer: shared.map.as_mut_ptr().cast(),
        };
        info.pNext = (&raw const import).cast();
        info.allocationSize = shared.size;
        let mut memory = VkDeviceMemory(0);
        // SAFETY: the mapping outlives the memory: both end in `forget_memory`, the memory first.
        let ret = unsafe { allocate(c.device, &raw const *info, ptr::null(), &raw mut memory) };
        if ret != VK_SUCCESS {
            self.context
                .memory_used
                .fetch_sub(charged, Ordering::Relaxed);
            return Ok(ret);
        }
        let token = match self.name(Kind::DeviceMemory, c.device_token, memory.0) {
            Ok(token) => token,
            Err(error) => {
                destroy_leftover(Kind::DeviceMemory, c.device, &device.fns, memory.0);
                return Err(error);
            }
        };
        self.context.memories.lock().insert(
            token,
            Memory {
                shared,
                blob_id,
                charged,
            },
        );
        // SAFETY: decoding made room for one handle.
        unsafe { *c.pMemory = VkDeviceMemory(token) };
        Ok(ret)
    }

    /// Frees in the driver, then gives the pages back.
    fn free(
        &mut self,
        device_token: u64,
        device: VkDevice,
        memory: VkDeviceMemory,
        token: u64,
    ) -> Result<(), Error> {
        if token == 0 {
            return Ok(());
        }
        let f = function!(self.device_fns(device_token)?, vkFreeMemory);
        if !self.retire(token) {
            return Ok(());
        }
        // SAFETY: live, and its token names nothing any more.
        unsafe { f(device, memory, ptr::null()) };
        self.context.forget_memory(token);
        Ok(())
    }
}

impl DeviceMemoryCommands for Engine {
    fn vkAllocateMemory(&mut self, c: &mut p::vkAllocateMemory) -> Result<VkResult, Error> {
        let device = Arc::clone(self.device(c.device_token)?);
        // SAFETY: decoding placed the struct and its chain in the arena, for this command alone.
        let (mut info, blob_id, resource) = unsafe {
            let mut info = *c.pAllocateInfo;
            let blob = chain::find::<VkCreateBlobGOOGLE>(info.pNext).map(|b| b.blobId);
            let resource = chain::find::<VkImportColorBufferGOOGLE>(info.pNext)
                .map(|i| i.colorBuffer)
                .or_else(|| chain::find::<VkImportBufferGOOGLE>(info.pNext).map(|i| i.buffer));
            chain::remove(
                &mut info.pNext,
                &[
                    VK_STRUCTURE_TYPE_CREATE_BLOB_GOOGLE,
                    VK_STRUCTURE_TYPE_IMPORT_COLOR_BUFFER_GOOGLE,
                    VK_STRUCTURE_TYPE_IMPORT_BUFFER_GOOGLE,
                ],
            );
            (info, blob, resource)
        };
        let Some(memory_type) = device
            .memory
            .memoryTypes
            .get(info.memoryTypeIndex as usize)
            .filter(|_| info.memoryTypeIndex < device.memory.memoryTypeCount)
        else {
            return Err(Error::Nonsense(
                "a memory type that the device does not have",
            ));
        };
        let importable = device.importable & (1 << info.memoryTypeIndex) != 0;
        if let Some(resource) = resource {
            return self.import_resource(&device, c, &mut info, resource);
        }
        let mappable = memory_type.propertyFlags & VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT != 0;
        if !mappable || !importable {
            // SAFETY: the arena's struct is this command's own.
            unsafe { *c.pAllocateInfo.cast_mut() = info };
            let f = function!(device.fns, vkAllocateMemory);
            // SAFETY: decoded arguments.
            let ret = unsafe { f(c.device, c.pAllocateInfo, ptr::null(), c.pMemory) };
            self.adopt(
                Kind::DeviceMemory,
                c.device_token,
                c.pMemory.cast(),
                1,
                true,
            )?;
            return Ok(ret);
        }
        let alignment = self.context.renderer.import_alignment;
        let Some(size) = info.allocationSize.checked_next_multiple_of(alignment) else {
            return Ok(VK_ERROR_OUT_OF_DEVICE_MEMORY);
        };
        // SAFETY: as above.
        unsafe {
            chain::remove(
                &mut info.pNext,
                &[
                    VK_STRUCTURE_TYPE_EXPORT_MEMORY_ALLOCATE_INFO,
                    VK_STRUCTURE_TYPE_MEMORY_DEDICATED_ALLOCATE_INFO,
                ],
            );
        }
        if size == 0 || !self.charge(size) {
            return Ok(VK_ERROR_OUT_OF_DEVICE_MEMORY);
        }
        let Ok(shared) = SharedMemory::new(size) else {
            self.context.memory_used.fetch_sub(size, Ordering::Relaxed);
            return Ok(VK_ERROR_OUT_OF_HOST_MEMORY);
        };
        self.import(&device, c, &mut info, shared, blob_id, size)
    }

    fn vkFreeMemory(&mut self, c: &mut p::vkFreeMemory) -> Result<(), Error> {
        self.free(c.device_token, c.device, c.memory, c.memory_token)
    }

    fn vkFreeMemorySyncGOOGLE(
        &mut self,
        c: &mut p::vkFreeMemorySyncGOOGLE,
    ) -> Result<VkResult, Error> {
        self.free(c.device_token, c.device, c.memory, c.memory_token)?;
        Ok(VK_SUCCESS)
    }

    fn vkGetMemoryHostAddressInfoGOOGLE(
        &mut self,
        c: &mut p::vkGetMemoryHostAddressInfoGOOGLE,
    ) -> Result<VkResult, Error> {
        let memories = self.context.memories.lock();
        let Some(memory) = memories.get(&c.memory_token) else {
            return Ok(VK_ERROR_MEMORY_MAP_FAILED);
        };
        let id = self.context.publish(None, memory)?;
        // SAFETY: decoding made room for those answers that were asked for.
        unsafe {
            if let Some(address) = c.pAddress.as_mut() {
                *address = 0;
            }
            if let Some(size) = c.pSize.as_mut() {
                *size = memory.shared.size;
            }
            if let Some(to) = c.pHostmemId.as_mut() {
                *to = id;
            }
        }
        Ok(VK_SUCCESS)
    }

    fn vkGetBlobGOOGLE(&mut self, c: &mut p::vkGetBlobGOOGLE) -> Result<VkResult, Error> {
        let memories = self.context.memories.lock();
        let Some((memory, id)) = memories
            .get(&c.memory_token)
            .and_then(|m| Some((m, m.blob_id?)))
        else {
            return Ok(VK_ERROR_MEMORY_MAP_FAILED);
        };
        self.context.publish(Some(id), memory)?;
        Ok(VK_SUCCESS)
    }
}

impl Engine {
    /// Memory of a resource that the device made: the guest can export it, and others import it.
    fn import_resource(
        &mut self,
        device: &Device,
        c: &p::vkAllocateMemory,
        info: &mut VkMemoryAllocateInfo,
        id: u32,
    ) -> Result<VkResult, Error> {
        let found = {
            let resources = self.context.resources.lock();
            resources
                .get(&id)
                .and_then(|r| Some((r.fd.try_clone().ok()?, r.size)))
        };
        let Some((fd, size)) = found else {
            return Ok(VK_ERROR_INVALID_EXTERNAL_HANDLE);
        };
        let alignment = self.context.renderer.import_alignment;
        if size < info.allocationSize || !size.is_multiple_of(alignment) || size == 0 {
            tracing::warn!(
                id,
                size,
                wanted = info.allocationSize,
                "a resource is too small to import"
            );
            return Ok(VK_ERROR_OUT_OF_DEVICE_MEMORY);
        }
        if device.importable & (1 << info.memoryTypeIndex) == 0 {
            info.memoryTypeIndex = device.importable.trailing_zeros();
        }
        // SAFETY: the chain was decoded for this command alone.
        unsafe {
            chain::remove(
                &mut info.pNext,
                &[
                    VK_STRUCTURE_TYPE_EXPORT_MEMORY_ALLOCATE_INFO,
                    VK_STRUCTURE_TYPE_MEMORY_DEDICATED_ALLOCATE_INFO,
                ],
            );
        }
        // Somebody has paid for the pages, but each import costs a mapping and objects of the driver's.
        if !self.charge(size) {
            return Ok(VK_ERROR_OUT_OF_DEVICE_MEMORY);
        }
        let Ok(shared) = SharedMemory::map(fd, size) else {
            self.context.memory_used.fetch_sub(size, Ordering::Relaxed);
            return Ok(VK_ERROR_OUT_OF_HOST_MEMORY);
        };
        self.import(device, c, info, shared, None, size)
    }
}
