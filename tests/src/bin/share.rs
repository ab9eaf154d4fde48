//! `share`: memory that two processes share, and sync files that order what they do with it.
//!
//! The first process has its device fill exported memory, and starts a second, which imports the memory and,
//! where the device has them, a sync file of the fill. The second copies what it finds, fills the memory anew
//! and answers with a sync file of that.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "ash: nearly every call of Vulkan is unsafe, for the same reasons each time"
)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use asgard_asg::kumquat::{Packet, Socket};
use asgard_tests::gpu::{Gpu, Own};
use asgard_tests::guest::readable_within;
use ash::vk;

const SIZE: u64 = 300 << 10;
/// What the processor of the first process writes into the first half, and its device into the second.
const FIRST: [u32; 2] = [0x1234_5678, 0x9abc_def0];
/// What the device of the second process writes.
const SECOND: u32 = 0x0bad_cafe;
const PATIENCE: Duration = Duration::from_secs(20);
const MEMORY: vk::ExternalMemoryHandleTypeFlags = vk::ExternalMemoryHandleTypeFlags::OPAQUE_FD;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let done = match arguments.get(1).and_then(|fd| fd.parse().ok()) {
        None => first(),
        // The number is that of a socket that the first process has left open for this one.
        Some(fd) => second(&Socket::from(unsafe { OwnedFd::from_raw_fd(fd) })),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("share: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn has_sync_files(gpu: &Gpu) -> bool {
    ["VK_KHR_external_fence_fd", "VK_KHR_external_semaphore_fd"]
        .iter()
        .all(|name| gpu.extensions.contains(*name))
}

fn send(socket: &Socket, files: &[BorrowedFd<'_>]) -> Result<()> {
    Ok(socket.send(b"next", files)?)
}

fn receive(socket: &Socket, count: usize) -> Result<Vec<OwnedFd>> {
    ensure!(
        readable_within(socket, PATIENCE),
        "the other process is silent"
    );
    let mut packet = Packet::default();
    ensure!(socket.recv(&mut packet)?, "the other process is gone");
    ensure!(packet.fds.len() == count, "{} files", packet.fds.len());
    Ok(packet.fds)
}

/// A buffer whose memory may come from elsewhere, and what it needs.
fn buffer(gpu: &Gpu) -> Result<(Own<'_, vk::Buffer>, vk::MemoryRequirements)> {
    let usage = vk::BufferUsageFlags::TRANSFER_SRC | vk::BufferUsageFlags::TRANSFER_DST;
    let mut external = vk::ExternalMemoryBufferCreateInfo::default().handle_types(MEMORY);
    let info = vk::BufferCreateInfo::default()
        .size(SIZE)
        .usage(usage)
        .push_next(&mut external);
    let buffer = gpu.own(unsafe { gpu.device.create_buffer(&info, None)? });
    let needs = unsafe { gpu.device.get_buffer_memory_requirements(*buffer) };
    Ok((buffer, needs))
}

fn memory_type(gpu: &Gpu, needs: vk::MemoryRequirements) -> Result<u32> {
    let flags = vk::MemoryPropertyFlags::HOST_VISIBLE | vk::MemoryPropertyFlags::HOST_COHERENT;
    gpu.memory_type(needs.memory_type_bits, flags)
}

/// Memory that another process, or this one, has exported; and what the processor sees there.
fn import<'g>(
    gpu: &'g Gpu,
    buffer: vk::Buffer,
    needs: vk::MemoryRequirements,
    file: OwnedFd,
) -> Result<(Own<'g, vk::DeviceMemory>, *const u32)> {
    let mut import = vk::ImportMemoryFdInfoKHR::default()
        .handle_type(MEMORY)
        .fd(file.into_raw_fd());
    let info = vk::MemoryAllocateInfo::default()
        .allocation_size(needs.size)
        .memory_type_index(memory_type(gpu, needs)?)
        .push_next(&mut import);
    let memory = unsafe { gpu.device.allocate_memory(&info, None) };
    let memory = gpu.own(memory.context("importing memory")?);
    unsafe { gpu.device.bind_buffer_memory(buffer, *memory, 0)? };
    let words = map(gpu, *memory)?;
    Ok((memory, words))
}

fn map(gpu: &Gpu, memory: vk::DeviceMemory) -> Result<*mut u32> {
    let flags = vk::MemoryMapFlags::empty();
    let map = unsafe { gpu.device.map_memory(memory, 0, vk::WHOLE_SIZE, flags)? };
    Ok(map.cast())
}

/// All of it is what `word` says.
fn holds(words: *const u32, word: impl Fn(usize) -> u32) -> Result<()> {
    for i in 0..SIZE as usize / 4 {
        let found = unsafe { words.add(i).read_volatile() };
        ensure!(
            found == word(i),
            "word {i} is {found:#x} and not {:#x}",
            word(i)
        );
    }
    Ok(())
}

fn of_first(i: usize) -> u32 {
    FIRST[usize::from(i >= SIZE as usize / 8)]
}

fn first() -> Result<()> {
    let (near, far) = Socket::pair()?;
    // For the child alone, and before anything else could start one.
    rustix::io::fcntl_setfd(&far, rustix::io::FdFlags::empty())?;
    let mut child = Command::new(std::env::current_exe()?)
        .arg(far.as_fd().as_raw_fd().to_string())
        .spawn()?;
    drop(far);
    let done = with_second(&near);
    drop(near);
    let status = child.wait()?;
    done?;
    ensure!(status.success(), "the second process failed: {status}");
    Ok(())
}

fn with_second(socket: &Socket) -> Result<()> {
    let gpu = Gpu::new(false)?;
    ensure!(
        gpu.extensions.contains("VK_KHR_external_memory_fd"),
        "the device has no VK_KHR_external_memory_fd"
    );
    let functions = ash::khr::external_memory_fd::Device::new(&gpu.instance, &gpu.device);
    let query = vk::PhysicalDeviceExternalBufferInfo::default()
        .usage(vk::BufferUsageFlags::TRANSFER_SRC | vk::BufferUsageFlags::TRANSFER_DST)
        .handle_type(MEMORY);
    let mut answer = vk::ExternalBufferProperties::default();
    unsafe {
        gpu.instance.get_physical_device_external_buffer_properties(
            gpu.physical,
            &query,
            &mut answer,
        );
    }
    let can = answer.external_memory_properties.external_memory_features;
    let both =
        vk::ExternalMemoryFeatureFlags::EXPORTABLE | vk::ExternalMemoryFeatureFlags::IMPORTABLE;
    ensure!(can.contains(both), "such buffers are only {can:?}");

    let (buffer, needs) = self::buffer(&gpu)?;
    let mut export = vk::ExportMemoryAllocateInfo::default().handle_types(MEMORY);
    let info = vk::MemoryAllocateInfo::default()
        .allocation_size(needs.size)
        .memory_type_index(memory_type(&gpu, needs)?)
        .push_next(&mut export);
    let memory = gpu.own(unsafe { gpu.device.allocate_memory(&info, None)? });
    unsafe { gpu.device.bind_buffer_memory(*buffer, *memory, 0)? };
    let words = map(&gpu, *memory)?;
    for i in 0..SIZE as usize / 4 {
        unsafe { words.add(i).write_volatile(FIRST[0]) };
    }
    let file = || -> Result<OwnedFd> {
        let info = vk::MemoryGetFdInfoKHR::default()
            .memory(*memory)
            .handle_type(MEMORY);
        Ok(unsafe { OwnedFd::from_raw_fd(functions.get_memory_fd(&info)?) })
    };

    let pool = gpu.command_pool()?;
    let commands = gpu.command_buffers(*pool, vk::CommandBufferLevel::PRIMARY, 1)?;
    gpu.record(commands[0], |device, cmd| unsafe {
        device.cmd_fill_buffer(cmd, *buffer, SIZE / 2, SIZE / 2, FIRST[1]);
    })?;
    let submit = vk::SubmitInfo::default().command_buffers(&commands);
    if has_sync_files(&gpu) {
        let semaphores = ash::khr::external_semaphore_fd::Device::new(&gpu.instance, &gpu.device);
        let kind = vk::ExternalSemaphoreHandleTypeFlags::SYNC_FD;
        let mut export = vk::ExportSemaphoreCreateInfo::default().handle_types(kind);
        let info = vk::SemaphoreCreateInfo::default().push_next(&mut export);
        let filled = [gpu.own(unsafe { gpu.device.create_semaphore(&info, None)? })];
        gpu.submit(&submit.signal_semaphores(&[*filled[0]]), vk::Fence::null())?;
        let info = vk::SemaphoreGetFdInfoKHR::default()
            .semaphore(*filled[0])
            .handle_type(kind);
        let fd = unsafe { semaphores.get_semaphore_fd(&info)? };
        ensure!(fd >= 0, "no sync file");
        let filled = unsafe { OwnedFd::from_raw_fd(fd) };
        send(socket, &[file()?.as_fd(), filled.as_fd()])?;
        let answer = receive(socket, 1)?;
        ensure!(
            readable_within(&answer[0], PATIENCE),
            "the answer never signals"
        );
    } else {
        gpu.submit(&submit, vk::Fence::null())?;
        gpu.idle()?;
        send(socket, &[file()?.as_fd()])?;
        receive(socket, 0)?;
    }
    holds(words, |_| SECOND).context("after the second process")?;

    // The same once more, in this process.
    let (again, needs) = self::buffer(&gpu)?;
    let (imported, seen) = import(&gpu, *again, needs, file()?)?;
    unsafe { words.write_volatile(1) };
    ensure!(
        unsafe { seen.read_volatile() } == 1,
        "an import in the same process is a copy"
    );
    unsafe { words.write_volatile(SECOND) };
    drop((imported, again));

    // What the second process has lives on.
    gpu.idle()?;
    drop((buffer, memory));
    send(socket, &[])?;
    println!(
        "shared memory ok, {} sync files",
        if has_sync_files(&gpu) {
            "with"
        } else {
            "without"
        }
    );
    Ok(())
}

fn second(socket: &Socket) -> Result<()> {
    let gpu = Gpu::new(false)?;
    let sync = has_sync_files(&gpu);
    let mut files = receive(socket, if sync { 2 } else { 1 })?.into_iter();
    let (buffer, needs) = self::buffer(&gpu)?;
    let file = files.next().context("no memory")?;
    let (memory, words) = import(&gpu, *buffer, needs, file)?;
    let found = gpu.buffer(SIZE, vk::BufferUsageFlags::TRANSFER_DST)?;

    let pool = gpu.command_pool()?;
    let commands = gpu.command_buffers(*pool, vk::CommandBufferLevel::PRIMARY, 1)?;
    gpu.record(commands[0], |device, cmd| unsafe {
        let all = vk::BufferCopy::default().size(SIZE);
        device.cmd_copy_buffer(cmd, *buffer, *found.handle, &[all]);
        asgard_tests::gpu::barrier(device, cmd);
        device.cmd_fill_buffer(cmd, *buffer, 0, SIZE, SECOND);
    })?;
    let submit = vk::SubmitInfo::default().command_buffers(&commands);
    if let Some(file) = files.next() {
        let semaphores = ash::khr::external_semaphore_fd::Device::new(&gpu.instance, &gpu.device);
        let filled = [gpu.semaphore()?];
        let info = vk::ImportSemaphoreFdInfoKHR::default()
            .semaphore(*filled[0])
            .flags(vk::SemaphoreImportFlags::TEMPORARY)
            .handle_type(vk::ExternalSemaphoreHandleTypeFlags::SYNC_FD)
            .fd(file.into_raw_fd());
        unsafe { semaphores.import_semaphore_fd(&info)? };

        let fences = ash::khr::external_fence_fd::Device::new(&gpu.instance, &gpu.device);
        let kind = vk::ExternalFenceHandleTypeFlags::SYNC_FD;
        let mut export = vk::ExportFenceCreateInfo::default().handle_types(kind);
        let info = vk::FenceCreateInfo::default().push_next(&mut export);
        let done = gpu.own(unsafe { gpu.device.create_fence(&info, None)? });
        let (waits, stages) = ([*filled[0]], [vk::PipelineStageFlags::ALL_COMMANDS]);
        let submit = submit.wait_semaphores(&waits).wait_dst_stage_mask(&stages);
        gpu.submit(&submit, *done)?;
        let info = vk::FenceGetFdInfoKHR::default()
            .fence(*done)
            .handle_type(kind);
        let fd = unsafe { fences.get_fence_fd(&info)? };
        if fd < 0 {
            bail!("no sync file");
        }
        send(socket, &[unsafe { BorrowedFd::borrow_raw(fd) }])?;
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
        gpu.idle()?;
    } else {
        gpu.submit(&submit, vk::Fence::null())?;
        gpu.idle()?;
        send(socket, &[])?;
    }
    let copied = found.words();
    for (i, word) in copied.iter().enumerate() {
        ensure!(*word == of_first(i), "word {i} was {word:#x}");
    }
    receive(socket, 0)?;
    holds(words, |_| SECOND).context("after the first process has freed it")?;
    drop((buffer, memory));
    Ok(())
}
