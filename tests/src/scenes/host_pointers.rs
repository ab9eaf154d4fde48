//! Memory of the program's own that becomes the device's, and its own again.

use std::alloc::{Layout, alloc_zeroed, dealloc};

use anyhow::{Context, Result, ensure};
use ash::vk;

use crate::gpu::{Gpu, Own, barrier};
use crate::report::Report;
use crate::scenes::{Options, Random};

const BOTH: vk::BufferUsageFlags = vk::BufferUsageFlags::from_raw(
    vk::BufferUsageFlags::TRANSFER_SRC.as_raw() | vk::BufferUsageFlags::TRANSFER_DST.as_raw(),
);
const KIND: vk::ExternalMemoryHandleTypeFlags =
    vk::ExternalMemoryHandleTypeFlags::HOST_ALLOCATION_EXT;

/// Memory from the heap.
struct Heap {
    start: *mut u8,
    layout: Layout,
}

impl Heap {
    fn new(size: usize, alignment: usize) -> Result<Self> {
        let layout = Layout::from_size_align(size, alignment)?;
        let start = unsafe { alloc_zeroed(layout) };
        ensure!(!start.is_null(), "no memory");
        Ok(Self { start, layout })
    }

    /// The device writes there too, so that nothing is ever borrowed.
    fn read(&self, offset: usize, size: usize) -> Vec<u8> {
        assert!(offset + size <= self.layout.size());
        let mut bytes = vec![0; size];
        unsafe { self.start.add(offset).copy_to_nonoverlapping(bytes.as_mut_ptr(), size) };
        bytes
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.layout.size());
        unsafe { bytes.as_ptr().copy_to_nonoverlapping(self.start.add(offset), bytes.len()) };
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        unsafe { dealloc(self.start, self.layout) };
    }
}

/// A buffer in memory of the program's.
struct Imported<'g> {
    buffer: Own<'g, vk::Buffer>,
    memory: Own<'g, vk::DeviceMemory>,
    mappable: bool,
}

fn import<'g>(gpu: &'g Gpu, start: *mut u8, size: usize) -> Result<Imported<'g>> {
    let functions = ash::ext::external_memory_host::Device::new(&gpu.instance, &gpu.device);
    let mut external = vk::ExternalMemoryBufferCreateInfo::default().handle_types(KIND);
    let info = vk::BufferCreateInfo::default()
        .size(size as u64)
        .usage(BOTH)
        .push_next(&mut external);
    let buffer = gpu.own(unsafe { gpu.device.create_buffer(&info, None)? });
    let requirements = unsafe { gpu.device.get_buffer_memory_requirements(*buffer) };
    ensure!(requirements.size <= size as u64, "a buffer that is larger than it was made");
    let mut found = vk::MemoryHostPointerPropertiesEXT::default();
    unsafe {
        let get = functions.fp().get_memory_host_pointer_properties_ext;
        get(functions.device(), KIND, start.cast(), &mut found).result()?;
    }
    let bits = requirements.memory_type_bits & found.memory_type_bits;
    let kind = gpu.memory_type(bits, vk::MemoryPropertyFlags::empty())?;
    let mut pointer = vk::ImportMemoryHostPointerInfoEXT::default()
        .handle_type(KIND)
        .host_pointer(start.cast());
    let info = vk::MemoryAllocateInfo::default()
        .allocation_size(size as u64)
        .memory_type_index(kind)
        .push_next(&mut pointer);
    let memory = unsafe { gpu.device.allocate_memory(&info, None) };
    let memory = gpu.own(memory.context("importing memory of the program's")?);
    unsafe { gpu.device.bind_buffer_memory(*buffer, *memory, 0)? };
    let flags = gpu.memory.memory_types[kind as usize].property_flags;
    let mappable = flags.contains(vk::MemoryPropertyFlags::HOST_VISIBLE);
    Ok(Imported { buffer, memory, mappable })
}

pub(super) fn run(gpu: &Gpu, _options: &Options, report: &mut Report) -> Result<()> {
    let shown = gpu.extensions.contains("VK_EXT_external_memory_host");
    if !report.needs("host pointer", shown, "VK_EXT_external_memory_host is not shown") {
        return Ok(());
    }
    let mut limits = vk::PhysicalDeviceExternalMemoryHostPropertiesEXT::default();
    let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut limits);
    unsafe { gpu.instance.get_physical_device_properties2(gpu.physical, &mut properties) };
    let alignment = limits.min_imported_host_pointer_alignment;
    ensure!(
        alignment.is_power_of_two() && alignment <= 65536,
        "host pointers are aligned to {alignment}"
    );
    let info = vk::PhysicalDeviceExternalBufferInfo::default().usage(BOTH).handle_type(KIND);
    let mut answer = vk::ExternalBufferProperties::default();
    unsafe {
        gpu.instance.get_physical_device_external_buffer_properties(
            gpu.physical,
            &info,
            &mut answer,
        );
    }
    let answer = answer.external_memory_properties;
    ensure!(
        answer.external_memory_features.contains(vk::ExternalMemoryFeatureFlags::IMPORTABLE)
            && answer.compatible_handle_types.contains(KIND),
        "buffers cannot be in memory of the program's"
    );

    // The middle of it is imported; what stands around it stays as it is.
    let alignment = alignment as usize;
    let size = 16 * alignment;
    let heap = Heap::new(18 * alignment, alignment)?;
    let mut model = Random(30).bytes(18 * alignment);
    heap.write(0, &model);
    let first = Random(31).bytes(alignment);
    let sink = gpu.buffer(size as u64, BOTH)?;
    let all = [vk::BufferCopy { src_offset: 0, dst_offset: 0, size: size as u64 }];
    let mut result = Vec::new();
    for round in 0..3_u32 {
        let imported = import(gpu, unsafe { heap.start.add(alignment) }, size)?;
        let copy = |what: &str, model: &[u8]| -> Result<()> {
            gpu.run(|device, cmd| unsafe {
                device.cmd_copy_buffer(cmd, *imported.buffer, *sink.handle, &all);
                barrier(device, cmd);
            })?;
            ensure!(
                sink.bytes() == model[alignment..alignment + size],
                "round {round}: the device does not see {what}"
            );
            Ok(())
        };
        copy("what was there before", &model)?;
        let (from, filled) = (3 * alignment + 4, 2 * alignment);
        gpu.run(|device, cmd| unsafe {
            device.cmd_fill_buffer(cmd, *imported.buffer, from as u64, filled as u64, round + 5);
            barrier(device, cmd);
        })?;
        let words = (round + 5).to_ne_bytes().repeat(filled / 4);
        model[alignment + from..alignment + from + filled].copy_from_slice(&words);
        ensure!(heap.read(0, model.len()) == model, "round {round}: the program sees other bytes");
        let at = (7 + round as usize) * alignment;
        heap.write(at, &first);
        model[at..at + first.len()].copy_from_slice(&first);
        copy("what the program writes", &model)?;
        if imported.mappable {
            let (whole, none) = (vk::WHOLE_SIZE, vk::MemoryMapFlags::empty());
            unsafe {
                let map = gpu.device.map_memory(*imported.memory, 0, whole, none)?.cast::<u8>();
                let there = map.add(round as usize);
                there.write(!there.read());
                gpu.device.unmap_memory(*imported.memory);
            }
            model[alignment + round as usize] ^= 0xff;
            ensure!(heap.read(0, model.len()) == model, "round {round}: mapped elsewhere");
        }
        result.extend(sink.bytes());
        drop(imported);
        ensure!(heap.read(0, model.len()) == model, "round {round}: freeing changed the bytes");
        // Private again, or the next round's device would not find this.
        let mark = (12 + round as usize) * alignment;
        heap.write(mark, &first);
        model[mark..mark + first.len()].copy_from_slice(&first);
    }
    result.extend(heap.read(0, model.len()));
    report.part("host pointer", result);
    Ok(())
}
