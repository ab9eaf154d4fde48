//! Memory: what a guest can map is a memfd of ours that the driver imports by address; the rest is the driver's own.

use std::collections::HashSet;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::*;
use crate::context::{Device, Memory};
use crate::memory_types::MemoryType;
use crate::renderer::SharedMemory;
use crate::stream::slice;

impl Engine {
    /// Memory can be bound to this buffer or image piece by piece.
    pub(super) fn note_sparse(&self, device: u64, kind: Kind, token: u64) {
        if let Some(handle) = self.context.objects.get(token) {
            self.context.sparse.lock().insert((device, kind, handle));
        }
    }

    /// It is about to be destroyed.
    pub(super) fn forget_sparse(&self, device: u64, kind: Kind, handle: u64) {
        self.context.sparse.lock().remove(&(device, kind, handle));
    }

    /// Whether it was noted.
    pub(super) fn is_sparse(&self, device: u64, kind: Kind, handle: u64) -> bool {
        self.context.sparse.lock().contains(&(device, kind, handle))
    }

    /// What a sparse buffer or image needs, of which guests were told as of any other.
    pub(super) fn show_sparse(&self, needs: &mut VkMemoryRequirements) {
        needs.memoryTypeBits = self.context.memory_types.sparse_bits(needs.memoryTypeBits);
    }

    /// Ends the context if it binds memory sparsely that its driver would not find.
    ///
    /// # Safety
    /// The structs were decoded.
    pub(super) unsafe fn check_sparse(
        &self,
        infos: *const VkBindSparseInfo,
        n: u32,
    ) -> Result<(), Error> {
        if !self.context.memory_types.has_twins() {
            return Ok(());
        }
        let memories = self.context.memories.lock();
        let imported: HashSet<u64> = memories
            .values()
            .filter(|m| m.shared.is_some())
            .map(|m| m.handle.0)
            .collect();
        let check = |memory: VkDeviceMemory| match imported.contains(&memory.0) {
            true => Err(Error::Nonsense(
                "memory bound to a sparse resource that is not of a type for it",
            )),
            false => Ok(()),
        };
        // SAFETY: the caller's promise.
        unsafe {
            for info in slice(infos, n as usize) {
                for buffer in slice(info.pBufferBinds, info.bufferBindCount as usize) {
                    for bind in slice(buffer.pBinds, buffer.bindCount as usize) {
                        check(bind.memory)?;
                    }
                }
                for image in slice(info.pImageOpaqueBinds, info.imageOpaqueBindCount as usize) {
                    for bind in slice(image.pBinds, image.bindCount as usize) {
                        check(bind.memory)?;
                    }
                }
                for image in slice(info.pImageBinds, info.imageBindCount as usize) {
                    for bind in slice(image.pBinds, image.bindCount as usize) {
                        check(bind.memory)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Charges the context for memory; false when that is over its limit.
    fn charge(&self, size: u64) -> bool {
        let used = &self.context.memory_used;
        let before = used.fetch_add(size, Ordering::Relaxed);
        if before.saturating_add(size) > self.context.limits.memory {
            used.fetch_sub(size, Ordering::Relaxed);
            return false;
        }
        true
    }

    /// Allocates what `c` asks for, by importing `shared` if there is any. It was charged for already.
    fn allocate(
        &mut self,
        device: &Device,
        c: &p::vkAllocateMemory,
        info: &mut VkMemoryAllocateInfo,
        shared: Option<SharedMemory>,
        blob_id: Option<u64>,
        charged: u64,
    ) -> Result<VkResult, Error> {
        let allocate = function!(device.fns, vkAllocateMemory);
        // SAFETY: the chain was decoded for this command alone.
        unsafe {
            // What guests share are resources of the device's, and never files of the driver's.
            chain::remove(
                &mut info.pNext,
                &[VK_STRUCTURE_TYPE_EXPORT_MEMORY_ALLOCATE_INFO],
            );
        }
        let mut import = VkImportMemoryHostPointerInfoEXT {
            sType: VK_STRUCTURE_TYPE_IMPORT_MEMORY_HOST_POINTER_INFO_EXT,
            pNext: ptr::null(),
            handleType: VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT,
            pHostPointer: ptr::null_mut(),
        };
        if let Some(shared) = &shared {
            // SAFETY: as above.
            unsafe {
                chain::remove(
                    &mut info.pNext,
                    &[VK_STRUCTURE_TYPE_MEMORY_DEDICATED_ALLOCATE_INFO],
                );
            }
            import.pNext = info.pNext;
            import.pHostPointer = shared.map.as_mut_ptr().cast();
            info.pNext = (&raw const import).cast();
            info.allocationSize = shared.size;
        }
        let mut memory = VkDeviceMemory(0);
        // SAFETY: a mapping outlives the memory: both end in `forget_memory`, the memory first.
        let ret = unsafe { allocate(c.device, &raw const *info, ptr::null(), &raw mut memory) };
        // Nothing is what some drivers allocate if asked for nothing.
        if ret != VK_SUCCESS || memory.0 == 0 {
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
                handle: memory,
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
        let Some(MemoryType {
            real,
            imported,
            most,
            ..
        }) = self.context.memory_types.get(info.memoryTypeIndex)
        else {
            return Err(Error::Nonsense(
                "a memory type that the device does not have",
            ));
        };
        info.memoryTypeIndex = real;
        if let Some(resource) = resource {
            return self.import_resource(&device, c, &mut info, resource, imported);
        }
        // Some drivers promise more than there is.
        if info.allocationSize > most {
            return Ok(VK_ERROR_OUT_OF_DEVICE_MEMORY);
        }
        if !imported {
            let size = info.allocationSize;
            if !self.charge(size) {
                return Ok(VK_ERROR_OUT_OF_DEVICE_MEMORY);
            }
            return self.allocate(&device, c, &mut info, None, None, size);
        }
        let alignment = self.context.renderer.import_alignment;
        let Some(size) = info.allocationSize.checked_next_multiple_of(alignment) else {
            return Ok(VK_ERROR_OUT_OF_DEVICE_MEMORY);
        };
        if size == 0 || !self.charge(size) {
            return Ok(VK_ERROR_OUT_OF_DEVICE_MEMORY);
        }
        let Ok(shared) = SharedMemory::new(size) else {
            self.context.memory_used.fetch_sub(size, Ordering::Relaxed);
            return Ok(VK_ERROR_OUT_OF_HOST_MEMORY);
        };
        self.allocate(&device, c, &mut info, Some(shared), blob_id, size)
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
        let memory = memories.get(&c.memory_token);
        let Some(memory) = memory.and_then(|m| m.shared.as_ref()) else {
            return Ok(VK_ERROR_MEMORY_MAP_FAILED);
        };
        let id = self.context.publish(None, memory)?;
        // SAFETY: decoding made room for those answers that were asked for.
        unsafe {
            if let Some(address) = c.pAddress.as_mut() {
                *address = 0;
            }
            if let Some(size) = c.pSize.as_mut() {
                *size = memory.size;
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
            .and_then(|m| Some((m.shared.as_ref()?, m.blob_id?)))
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
        importable: bool,
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
        if !importable {
            let Some(importable) = self.context.memory_types.importable() else {
                return Ok(VK_ERROR_INVALID_EXTERNAL_HANDLE);
            };
            info.memoryTypeIndex = importable;
        }
        // Somebody has paid for the pages, but each import costs a mapping and objects of the driver's.
        if !self.charge(size) {
            return Ok(VK_ERROR_OUT_OF_DEVICE_MEMORY);
        }
        let Ok(shared) = SharedMemory::map(fd, size) else {
            self.context.memory_used.fetch_sub(size, Ordering::Relaxed);
            return Ok(VK_ERROR_OUT_OF_HOST_MEMORY);
        };
        self.allocate(device, c, info, Some(shared), None, size)
    }
}
