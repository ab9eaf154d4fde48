//! Memory: mapped, unmapped and mapped again, divided, large, and allocated over and over.
//!
//! Nothing is said about what fresh memory holds.

use anyhow::{Context, Result, ensure};
use ash::vk;

use crate::gpu::{Gpu, Own, barrier};
use crate::report::{Report, digest};
use crate::scenes::{Options, Random};

const BOTH: vk::BufferUsageFlags = vk::BufferUsageFlags::from_raw(
    vk::BufferUsageFlags::TRANSFER_SRC.as_raw() | vk::BufferUsageFlags::TRANSFER_DST.as_raw(),
);

pub(super) fn run(gpu: &Gpu, _options: &Options, report: &mut Report) -> Result<()> {
    remap(gpu, report)?;
    suballocate(gpu, report)?;
    large(gpu, report)?;
    many(gpu, report)?;
    again_and_again(gpu, report)
}

fn host_visible(gpu: &Gpu, size: u64) -> Result<Own<'_, vk::DeviceMemory>> {
    let kind = gpu.memory_type(
        u32::MAX,
        vk::MemoryPropertyFlags::HOST_VISIBLE | vk::MemoryPropertyFlags::HOST_COHERENT,
    )?;
    let info = vk::MemoryAllocateInfo::default().allocation_size(size).memory_type_index(kind);
    let memory = unsafe { gpu.device.allocate_memory(&info, None) };
    Ok(gpu.own(memory.with_context(|| format!("allocating {size} bytes"))?))
}

fn map(gpu: &Gpu, memory: vk::DeviceMemory, offset: u64, size: u64) -> Result<*mut u8> {
    let pointer =
        unsafe { gpu.device.map_memory(memory, offset, size, vk::MemoryMapFlags::empty())? };
    ensure!(!pointer.is_null(), "memory was mapped nowhere");
    Ok(pointer.cast())
}

/// Writes some of a mapping, and reads all of it after mapping it again.
fn remap(gpu: &Gpu, report: &mut Report) -> Result<()> {
    const SIZE: u64 = 100_000;
    let memory = host_visible(gpu, SIZE)?;
    let mut random = Random(20);
    let mut model = random.bytes(SIZE as usize);
    let device = &gpu.device;
    unsafe {
        std::ptr::copy_nonoverlapping(model.as_ptr(), map(gpu, *memory, 0, SIZE)?, model.len());
        device.unmap_memory(*memory);
        for round in 0..50 {
            // Map any part of it at any offset, read what is there, and leave something else.
            let offset = random.below(SIZE - 1);
            let size = 1 + random.below(SIZE - offset);
            let whole = round % 5 == 0;
            let pointer = map(gpu, *memory, offset, if whole { vk::WHOLE_SIZE } else { size })?;
            let seen = std::slice::from_raw_parts(pointer, size as usize);
            let part = offset as usize..(offset + size) as usize;
            ensure!(*seen == model[part.clone()], "round {round} mapped other bytes");
            let fresh = random.bytes(size as usize);
            std::ptr::copy_nonoverlapping(fresh.as_ptr(), pointer, fresh.len());
            model[part].copy_from_slice(&fresh);
            let atom = gpu.properties.limits.non_coherent_atom_size;
            let (start, end) = (offset.next_multiple_of(atom), (offset + size) / atom * atom);
            if start < end {
                let length = if whole { vk::WHOLE_SIZE } else { end - start };
                let range = [vk::MappedMemoryRange::default()
                    .memory(*memory)
                    .offset(start)
                    .size(length)];
                device.flush_mapped_memory_ranges(&range)?;
                device.invalidate_mapped_memory_ranges(&range)?;
            }
            device.unmap_memory(*memory);
        }
        let pointer = map(gpu, *memory, 0, vk::WHOLE_SIZE)?;
        let seen = std::slice::from_raw_parts(pointer, SIZE as usize).to_vec();
        ensure!(seen == model, "the memory does not hold what was written");
        report.part("remap", seen);
    }
    Ok(())
}

/// Many buffers in one allocation, written by the host on one side and read by the device on the other.
fn suballocate(gpu: &Gpu, report: &mut Report) -> Result<()> {
    const COUNT: usize = 64;
    let mut random = Random(21);
    let memory = host_visible(gpu, 16 << 20)?;
    let pointer = map(gpu, *memory, 0, vk::WHOLE_SIZE)?;
    let mut end = 0u64;
    let mut pieces = Vec::new();
    for _ in 0..COUNT {
        let size = 1 + random.below(100_000);
        let info = vk::BufferCreateInfo::default().size(size).usage(BOTH);
        let buffer = gpu.own(unsafe { gpu.device.create_buffer(&info, None)? });
        let needs = unsafe { gpu.device.get_buffer_memory_requirements(*buffer) };
        let offset = end.next_multiple_of(needs.alignment) + needs.alignment * random.below(4);
        end = offset + needs.size;
        unsafe { gpu.device.bind_buffer_memory(*buffer, *memory, offset)? }
        pieces.push((buffer, offset, size));
    }
    ensure!(end <= 16 << 20, "the pieces need {end} bytes");
    let sources: Vec<_> = (0..COUNT / 2).collect();
    let mut written = Vec::new();
    for &i in &sources {
        let (_, offset, size) = pieces[i];
        let data = random.bytes(size as usize);
        unsafe {
            std::ptr::copy_nonoverlapping(data.as_ptr(), pointer.add(offset as usize), data.len());
        }
        written.push(data);
    }
    // Each goes to one of the others, as much as fits.
    gpu.run(|device, cmd| unsafe {
        for &i in &sources {
            let ((from, _, a), (to, _, b)) = (&pieces[i], &pieces[COUNT - 1 - i]);
            let copy = [vk::BufferCopy { src_offset: 0, dst_offset: 0, size: *a.min(b) }];
            device.cmd_copy_buffer(cmd, **from, **to, &copy);
        }
        barrier(device, cmd);
    })?;
    let mut all = Vec::new();
    for &i in &sources {
        let (_, offset, size) = pieces[COUNT - 1 - i];
        let length = size.min(pieces[i].2) as usize;
        let got = unsafe { std::slice::from_raw_parts(pointer.add(offset as usize), length) };
        ensure!(*got == written[i][..length], "piece {i} was not copied");
        all.extend_from_slice(got);
    }
    report.part("suballocate", all);
    Ok(())
}

/// 256 MiB in one piece: the host writes some of every page, the device copies it within.
fn large(gpu: &Gpu, report: &mut Report) -> Result<()> {
    const SIZE: u64 = 256 << 20;
    const HALF: u64 = SIZE / 2;
    let buffer = gpu.buffer(SIZE, BOTH)?;
    let mut random = Random(22);
    let marks: Vec<_> = (0..HALF / 65536)
        .map(|page| (page * 65536 + random.below(65536 - 8), random.word()))
        .collect();
    for (offset, mark) in &marks {
        buffer.write(*offset, &mark.to_le_bytes());
    }
    gpu.run(|device, cmd| unsafe {
        let copy = [vk::BufferCopy { src_offset: 0, dst_offset: HALF, size: HALF }];
        device.cmd_copy_buffer(cmd, *buffer.handle, *buffer.handle, &copy);
        barrier(device, cmd);
        device.cmd_fill_buffer(cmd, *buffer.handle, 0, HALF, 0xabcd_ef01);
        barrier(device, cmd);
    })?;
    let mut seen = Vec::new();
    for (offset, mark) in &marks {
        let got = buffer.read(HALF + offset, 8);
        ensure!(got == mark.to_le_bytes(), "the mark at {offset} was not copied");
        ensure!(buffer.read(offset & !3, 4) == 0xabcd_ef01u32.to_le_bytes(), "{offset} was not filled");
        seen.extend(got);
    }
    report.part("large", seen);
    Ok(())
}

/// Five hundred allocations of all sizes alive at once, freed in another order, half of them again.
fn many(gpu: &Gpu, report: &mut Report) -> Result<()> {
    let count = 500.min(gpu.properties.limits.max_memory_allocation_count as usize / 2);
    let mut random = Random(23);
    let mut alive: Vec<Option<_>> = Vec::new();
    let make = |random: &mut Random| -> Result<_> {
        let bits = random.below(18);
        let size = 1 + random.below(1 << bits);
        let buffer = gpu.buffer(size, BOTH)?;
        let data = random.bytes(size as usize);
        buffer.write(0, &data);
        Ok(Some((buffer, digest(&data))))
    };
    for _ in 0..count {
        alive.push(make(&mut random)?);
    }
    for _ in 0..count {
        let index = random.below(count as u64) as usize;
        if let Some((buffer, want)) = alive[index].take() {
            ensure!(digest(&buffer.bytes()) == want, "allocation {index} changed");
        } else {
            alive[index] = make(&mut random)?;
        }
    }
    let mut all = Vec::new();
    for (index, one) in alive.iter().enumerate() {
        if let Some((buffer, want)) = one {
            ensure!(digest(&buffer.bytes()) == *want, "allocation {index} changed");
            all.extend(want.as_bytes());
        }
    }
    report.part("many", all);
    Ok(())
}

/// The same allocation a thousand times: what is freed must come back.
fn again_and_again(gpu: &Gpu, report: &mut Report) -> Result<()> {
    let mut all = Vec::new();
    for round in 0..1000u64 {
        let size = 1 << (10 + round % 13);
        let memory = host_visible(gpu, size)?;
        let pointer = map(gpu, *memory, 0, vk::WHOLE_SIZE)?.cast::<u64>();
        unsafe {
            pointer.write_volatile(round);
            pointer.add(size as usize / 8 - 1).write_volatile(!round);
            if round % 2 == 0 {
                gpu.device.unmap_memory(*memory);
                let pointer = map(gpu, *memory, 0, vk::WHOLE_SIZE)?.cast::<u64>();
                ensure!(pointer.read_volatile() == round, "round {round} lost its first word");
                let last = pointer.add(size as usize / 8 - 1).read_volatile();
                ensure!(last == !round, "round {round} lost its last word");
            }
        }
        if round % 100 == 0 {
            all.extend(round.to_le_bytes());
        }
    }
    report.part("again and again", all);
    Ok(())
}
