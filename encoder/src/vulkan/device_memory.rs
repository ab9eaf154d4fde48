//! Memory: what is mapped is the host's memory, mapped once and for as long as it lives.

use std::sync::Arc;

use memmap2::MmapRaw;
use parking_lot::Mutex;

use super::*;
use crate::process::Process;
use crate::virtgpu::Blob;
use crate::vulkan::device::device;

/// A VkDeviceMemory that may be mapped.
#[derive(Debug)]
pub(crate) struct Memory {
    blob_id: u64,
    size: u64,
    mapping: Mutex<Option<Mapped>>,
}

#[derive(Debug)]
struct Mapped {
    // Dropped in this order: the mapping, then the resource.
    map: MmapRaw,
    _blob: Blob,
}

/// The host's pages.
const PAGE: u64 = 4096;

/// `vkMapMemory` and `vkMapMemory2`.
pub(super) fn map(
    handle: VkDevice,
    memory: VkDeviceMemory,
    offset: VkDeviceSize,
    to: *mut *mut c_void,
) -> VkResult {
    // SAFETY: the application passes a live device.
    let device = unsafe { device(handle) };
    let Some(known) = device.memories.lock().get(&memory.0).cloned() else {
        return VK_ERROR_MEMORY_MAP_FAILED;
    };
    let mut mapping = known.mapping.lock();
    if mapping.is_none() {
        let ret = Driver.call(&mut p::vkGetBlobGOOGLE {
            device: handle,
            memory,
            ..zeroed()
        });
        if ret != VK_SUCCESS {
            return ret;
        }
        let Some(process) = Process::get() else {
            return VK_ERROR_DEVICE_LOST;
        };
        let blob = process.device.create_blob(known.blob_id, known.size, false);
        let mut blob = match blob {
            Ok(blob) => blob,
            Err(error) => {
                eprintln!("asgard: memory cannot be mapped: {error}");
                return VK_ERROR_MEMORY_MAP_FAILED;
            }
        };
        match blob.map() {
            Ok(map) => {
                blob.close_file();
                *mapping = Some(Mapped { map, _blob: blob });
            }
            Err(error) => {
                let size = known.size;
                eprintln!("asgard: {size} bytes of memory cannot be mapped: {error}");
                return VK_ERROR_MEMORY_MAP_FAILED;
            }
        }
    }
    match mapping.as_ref() {
        Some(mapped) if offset <= known.size => {
            // SAFETY: inside the mapping, and the application made room for a pointer.
            unsafe { *to = mapped.map.as_mut_ptr().add(offset as usize).cast() };
            VK_SUCCESS
        }
        _ => VK_ERROR_MEMORY_MAP_FAILED,
    }
}

impl DeviceMemoryCommands for Driver {
    fn vkAllocateMemory(&self, c: &mut p::vkAllocateMemory) -> VkResult {
        // SAFETY: the application passes a live device and a struct, which is copied and not changed.
        let (device, mut info) = unsafe { (device(c.device), *c.pAllocateInfo) };
        let flags = device
            .memory_types
            .get(info.memoryTypeIndex as usize)
            .copied()
            .unwrap_or(0);
        if flags & VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT == 0 {
            c.pAllocator = std::ptr::null();
            return self.call(c);
        }
        let Some(process) = Process::get() else {
            return VK_ERROR_DEVICE_LOST;
        };
        let Some(size) = info.allocationSize.checked_next_multiple_of(PAGE) else {
            return VK_ERROR_OUT_OF_DEVICE_MEMORY;
        };
        let blob = VkCreateBlobGOOGLE {
            sType: VK_STRUCTURE_TYPE_CREATE_BLOB_GOOGLE,
            pNext: info.pNext,
            // Host memory, under an id of ours.
            blobMem: 2,
            blobFlags: 0,
            blobId: process.next_blob(),
        };
        info.pNext = (&raw const blob).cast();
        info.allocationSize = size;
        let ret = self.call(&mut p::vkAllocateMemory {
            pAllocateInfo: &raw const info,
            pAllocator: std::ptr::null(),
            ..*c
        });
        if ret == VK_SUCCESS {
            let memory = Memory {
                blob_id: blob.blobId,
                size,
                mapping: Mutex::new(None),
            };
            // SAFETY: the host's reply filled the application's room for one handle.
            let token = unsafe { *c.pMemory }.0;
            device.memories.lock().insert(token, Arc::new(memory));
        }
        ret
    }

    fn vkFreeMemory(&self, c: &mut p::vkFreeMemory) {
        if c.memory.0 == 0 {
            return;
        }
        // SAFETY: the application passes a live device.
        let known = unsafe { device(c.device) }
            .memories
            .lock()
            .remove(&c.memory.0);
        c.pAllocator = std::ptr::null();
        self.call(c);
        drop(known);
    }

    fn vkMapMemory(&self, c: &mut p::vkMapMemory) -> VkResult {
        map(c.device, c.memory, c.offset, c.ppData)
    }

    fn vkUnmapMemory(&self, _: &mut p::vkUnmapMemory) {}
}
