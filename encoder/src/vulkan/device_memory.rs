//! Memory: what is mapped is the host's memory, mapped once and for as long as it lives.

use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;

use memmap2::MmapRaw;
use parking_lot::Mutex;

use super::*;
use crate::pages::Pages;
use crate::process::Process;
use crate::virtgpu::Blob;
use crate::vulkan::device::device;
use crate::vulkan::image::find;

/// A VkDeviceMemory that may be mapped.
#[derive(Debug)]
pub(crate) struct Memory {
    blob_id: u64,
    size: u64,
    /// It may be exported, or was imported.
    shared: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    // Dropped in this order: the mapping, then the resource.
    map: Option<Mapped>,
    blob: Option<Blob>,
}

/// Where memory is mapped.
#[derive(Debug)]
enum Mapped {
    /// At an address of the kernel's choice.
    Anywhere(MmapRaw),
    /// Where the application had pages of its own.
    There(Pages),
}

impl Mapped {
    fn as_mut_ptr(&self) -> *mut u8 {
        match self {
            Self::Anywhere(map) => map.as_mut_ptr(),
            Self::There(pages) => pages.as_mut_ptr(),
        }
    }
}

/// The host's pages, and what imported memory of the application's is aligned to.
pub(super) const PAGE: u64 = 4096;

/// Memory of the application's, by its address.
pub(super) const POINTER: VkExternalMemoryHandleTypeFlags =
    VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT;

/// The types of file by which memory can be exported and imported.
pub(super) fn shared_types() -> VkExternalMemoryHandleTypeFlags {
    let Some(process) = Process::get() else {
        return 0;
    };
    match (
        process.device.host().shares_memory(),
        process.device.has_dma_bufs(),
    ) {
        (false, _) => 0,
        (true, false) => VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT,
        (true, true) => {
            VK_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD_BIT
                | VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT
        }
    }
}

impl Memory {
    /// Its resource, which is made when somebody first needs it.
    fn resource<'s>(
        &self,
        state: &'s mut State,
        device: VkDevice,
        memory: VkDeviceMemory,
    ) -> Result<&'s mut Blob, VkResult> {
        if state.blob.is_none() {
            let ret = Driver.call(&mut p::vkGetBlobGOOGLE {
                device,
                memory,
                ..zeroed()
            });
            if ret != VK_SUCCESS {
                return Err(ret);
            }
            let process = Process::get().ok_or(VK_ERROR_DEVICE_LOST)?;
            let blob = process
                .device
                .create_blob(self.blob_id, self.size, self.shared);
            state.blob = Some(blob.map_err(|error| {
                eprintln!("asgard: memory has no resource: {error}");
                VK_ERROR_OUT_OF_DEVICE_MEMORY
            })?);
        }
        state.blob.as_mut().ok_or(VK_ERROR_OUT_OF_DEVICE_MEMORY)
    }

    /// Maps it where the kernel likes; its resource is needed no more for that.
    fn map(
        &self,
        state: &mut State,
        device: VkDevice,
        memory: VkDeviceMemory,
    ) -> Result<MmapRaw, VkResult> {
        let blob = match self.resource(state, device, memory) {
            Ok(blob) => blob,
            Err(VK_ERROR_DEVICE_LOST) => return Err(VK_ERROR_DEVICE_LOST),
            Err(_) => return Err(VK_ERROR_MEMORY_MAP_FAILED),
        };
        let map = blob.map().map_err(|error| {
            let size = self.size;
            eprintln!("asgard: {size} bytes of memory cannot be mapped: {error}");
            VK_ERROR_MEMORY_MAP_FAILED
        })?;
        if !self.shared {
            blob.close_file();
        }
        Ok(map)
    }

    /// Maps it where the application has pages of its own, whose contents it takes over.
    fn take(&self, device: VkDevice, memory: VkDeviceMemory, start: usize) -> Result<(), VkResult> {
        let mut state = self.state.lock();
        let map = self.map(&mut state, device, memory)?;
        let pages = Pages::take(start, map).map_err(|error| {
            eprintln!("asgard: memory at {start:#x} is not imported: {error}");
            VK_ERROR_INVALID_EXTERNAL_HANDLE
        })?;
        state.map = Some(Mapped::There(pages));
        Ok(())
    }
}

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
    let mut state = known.state.lock();
    if state.map.is_none() {
        match known.map(&mut state, handle, memory) {
            Ok(map) => state.map = Some(Mapped::Anywhere(map)),
            Err(error) => return error,
        }
    }
    match &state.map {
        Some(map) if offset <= known.size => {
            // SAFETY: inside the mapping, and the application made room for a pointer.
            unsafe { *to = map.as_mut_ptr().add(offset as usize).cast() };
            VK_SUCCESS
        }
        _ => VK_ERROR_MEMORY_MAP_FAILED,
    }
}

/// `vkGetMemoryFdKHR`.
pub(super) fn get_fd(handle: VkDevice, info: &VkMemoryGetFdInfoKHR, to: *mut i32) -> VkResult {
    // SAFETY: the application passes a live device.
    let known = unsafe { device(handle) }
        .memories
        .lock()
        .get(&info.memory.0)
        .cloned();
    let (Some(known), Some(process)) = (known.filter(|known| known.shared), Process::get()) else {
        return VK_ERROR_INVALID_EXTERNAL_HANDLE;
    };
    let mut state = known.state.lock();
    let blob = match known.resource(&mut state, handle, info.memory) {
        Ok(blob) => blob,
        Err(error) => return error,
    };
    match process.device.export(blob) {
        Ok(file) => {
            // SAFETY: the application made room for a number.
            unsafe { *to = file.into_raw_fd() };
            VK_SUCCESS
        }
        Err(error) => {
            eprintln!("asgard: {error}");
            VK_ERROR_OUT_OF_HOST_MEMORY
        }
    }
}

/// `vkGetMemoryFdPropertiesKHR`.
pub(super) fn fd_properties(c: &mut p::vkGetMemoryFdPropertiesKHR) -> VkResult {
    let dma_buf = VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT;
    if c.handleType != dma_buf || shared_types() & dma_buf == 0 {
        return VK_ERROR_INVALID_EXTERNAL_HANDLE;
    }
    // SAFETY: the application passes a live device, and room for the answer.
    unsafe { (*c.pMemoryFdProperties).memoryTypeBits = device(c.device).mappable_types() };
    VK_SUCCESS
}

/// `vkGetMemoryHostPointerPropertiesEXT`.
pub(super) fn pointer_properties(c: &mut p::vkGetMemoryHostPointerPropertiesEXT) -> VkResult {
    let page = c.pHostPointer as usize & !(PAGE as usize - 1);
    if c.handleType != POINTER || !Pages::fit(page, PAGE as usize) {
        return VK_ERROR_INVALID_EXTERNAL_HANDLE;
    }
    // SAFETY: the application passes a live device, and room for the answer.
    unsafe { (*c.pMemoryHostPointerProperties).memoryTypeBits = device(c.device).mappable_types() };
    VK_SUCCESS
}

/// Makes memory of the application's the device's.
fn import_pointer(
    c: &mut p::vkAllocateMemory,
    info: VkMemoryAllocateInfo,
    pointer: &VkImportMemoryHostPointerInfoEXT,
) -> VkResult {
    // SAFETY: the application passes a live device.
    let device = unsafe { device(c.device) };
    let (start, size) = (pointer.pHostPointer as usize, info.allocationSize);
    let mappable = device.mappable_types();
    let fits = pointer.handleType == POINTER
        && mappable.checked_shr(info.memoryTypeIndex).unwrap_or(0) & 1 != 0
        && size != 0
        && size.is_multiple_of(PAGE)
        && (start as u64).is_multiple_of(PAGE)
        && Pages::fit(start, size as usize);
    if !fits {
        return VK_ERROR_INVALID_EXTERNAL_HANDLE;
    }
    let ret = allocate_mappable(c, info, false);
    if ret != VK_SUCCESS {
        return ret;
    }
    // SAFETY: the host's reply filled the application's room for one handle.
    let memory = unsafe { *c.pMemory };
    let known = device.memories.lock().get(&memory.0).cloned();
    let taken = known.map_or(Err(VK_ERROR_DEVICE_LOST), |known| {
        known.take(c.device, memory, start)
    });
    let Err(error) = taken else {
        return VK_SUCCESS;
    };
    Driver.vkFreeMemory(&mut p::vkFreeMemory {
        device: c.device,
        memory,
        ..zeroed()
    });
    // SAFETY: as above.
    unsafe { *c.pMemory = VkDeviceMemory(0) };
    error
}

/// Allocates memory that can be mapped.
fn allocate_mappable(
    c: &p::vkAllocateMemory,
    mut info: VkMemoryAllocateInfo,
    shared: bool,
) -> VkResult {
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
    let ret = Driver.call(&mut p::vkAllocateMemory {
        pAllocateInfo: &raw const info,
        pAllocator: std::ptr::null(),
        ..*c
    });
    if ret == VK_SUCCESS {
        let memory = Memory {
            blob_id: blob.blobId,
            size,
            shared,
            state: Mutex::default(),
        };
        // SAFETY: the application passes a live device; the host's reply filled its room for one handle.
        let (device, token) = unsafe { (device(c.device), (*c.pMemory).0) };
        device.memories.lock().insert(token, Arc::new(memory));
    }
    ret
}

/// Allocates from memory that somebody has exported.
fn import(
    c: &p::vkAllocateMemory,
    mut info: VkMemoryAllocateInfo,
    import: &VkImportMemoryFdInfoKHR,
) -> VkResult {
    // SAFETY: the application passes a live device.
    let device = unsafe { device(c.device) };
    let Some(process) = Process::get() else {
        return VK_ERROR_DEVICE_LOST;
    };
    if import.fd < 0 || shared_types() & import.handleType == 0 {
        return VK_ERROR_INVALID_EXTERNAL_HANDLE;
    }
    // SAFETY: it is the application's until this succeeds.
    let blob = match process
        .device
        .import(unsafe { BorrowedFd::borrow_raw(import.fd) })
    {
        Ok(blob) => blob,
        Err(error) => {
            eprintln!("asgard: {error}");
            return VK_ERROR_INVALID_EXTERNAL_HANDLE;
        }
    };
    if blob.size < info.allocationSize {
        return VK_ERROR_INVALID_EXTERNAL_HANDLE;
    }
    let resource = VkImportBufferGOOGLE {
        sType: VK_STRUCTURE_TYPE_IMPORT_BUFFER_GOOGLE,
        pNext: info.pNext.cast_mut(),
        buffer: blob.resource_id,
    };
    info.pNext = (&raw const resource).cast();
    let ret = Driver.call(&mut p::vkAllocateMemory {
        pAllocateInfo: &raw const info,
        pAllocator: std::ptr::null(),
        ..*c
    });
    if ret == VK_SUCCESS {
        // SAFETY: it is ours now.
        drop(unsafe { OwnedFd::from_raw_fd(import.fd) });
        let memory = Memory {
            blob_id: 0,
            size: blob.size,
            shared: true,
            state: Mutex::new(State {
                map: None,
                blob: Some(blob),
            }),
        };
        // SAFETY: the host's reply filled the application's room for one handle.
        let token = unsafe { *c.pMemory }.0;
        device.memories.lock().insert(token, Arc::new(memory));
    }
    ret
}

impl DeviceMemoryCommands for Driver {
    fn vkAllocateMemory(&self, c: &mut p::vkAllocateMemory) -> VkResult {
        // SAFETY: the application passes a live device and a struct, which is copied and not changed.
        let (device, info) = unsafe { (device(c.device), *c.pAllocateInfo) };
        let flags = device
            .memory_types
            .get(info.memoryTypeIndex as usize)
            .copied()
            .unwrap_or(0);
        // SAFETY: the application passes a chain.
        let (file, pointer, export) = unsafe {
            let file = VK_STRUCTURE_TYPE_IMPORT_MEMORY_FD_INFO_KHR;
            let pointer = VK_STRUCTURE_TYPE_IMPORT_MEMORY_HOST_POINTER_INFO_EXT;
            let export = VK_STRUCTURE_TYPE_EXPORT_MEMORY_ALLOCATE_INFO;
            (
                find::<VkImportMemoryFdInfoKHR>(info.pNext, file),
                find::<VkImportMemoryHostPointerInfoEXT>(info.pNext, pointer),
                find::<VkExportMemoryAllocateInfo>(info.pNext, export),
            )
        };
        if let Some(pointer) = pointer.filter(|pointer| pointer.handleType != 0) {
            return import_pointer(c, info, pointer);
        }
        if let Some(file) = file.filter(|file| file.handleType != 0) {
            return import(c, info, file);
        }
        let shared = export.is_some_and(|export| export.handleTypes & shared_types() != 0);
        if flags & VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT == 0 {
            if shared {
                eprintln!("asgard: memory that nobody can map cannot be exported");
                return VK_ERROR_OUT_OF_DEVICE_MEMORY;
            }
            c.pAllocator = std::ptr::null();
            return self.call(c);
        }
        allocate_mappable(c, info, shared)
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
        self.send(c);
        drop(known);
    }

    fn vkMapMemory(&self, c: &mut p::vkMapMemory) -> VkResult {
        map(c.device, c.memory, c.offset, c.ppData)
    }

    fn vkUnmapMemory(&self, _: &mut p::vkUnmapMemory) {}
}
