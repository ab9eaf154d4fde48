//! `sync_files`: fences and semaphores exported as sync files become readable when they signal, and not
//! before; imported ones signal when those do.
//!
//! With `exports` it leaves out what Mesa's guest driver does not do: there a fence stays signalled after it
//! was exported. Software drivers do not export sync files, guest drivers do: there is nothing native to compare with.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "ash: nearly every call of Vulkan is unsafe, for the same reasons each time"
)]

use std::os::fd::{AsFd, FromRawFd, IntoRawFd, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use asgard_tests::gpu::{Gpu, Own};
use ash::vk;

/// Long enough for a sync file that signals too early to show it.
const EARLY: Duration = Duration::from_millis(150);
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    match run() {
        Ok(()) => {
            println!("sync files ok");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("sync_files: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let gpu = Gpu::new(false)?;
    for name in ["VK_KHR_external_fence_fd", "VK_KHR_external_semaphore_fd"] {
        ensure!(gpu.extensions.contains(name), "the device has no {name}");
    }
    fence(&gpu).context("a fence")?;
    fence_destroyed(&gpu).context("a fence that is destroyed")?;
    semaphore(&gpu).context("a semaphore")?;
    if std::env::args().nth(1).as_deref() == Some("exports") {
        return Ok(());
    }
    fence_again(&gpu).context("a fence that is used again")?;
    fence_imported(&gpu).context("an imported fence")?;
    semaphore_imported(&gpu).context("an imported semaphore")
}

/// Readable within that time.
fn readable(file: &OwnedFd, within: Duration) -> Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let timeout = Timespec::try_from(within)?;
    let mut fds = [PollFd::from_borrowed_fd(file.as_fd(), PollFlags::IN)];
    Ok(poll(&mut fds, Some(&timeout))? == 1)
}

fn export_fence(gpu: &Gpu) -> Result<(Own<'_, vk::Fence>, ash::khr::external_fence_fd::Device)> {
    let mut export = vk::ExportFenceCreateInfo::default()
        .handle_types(vk::ExternalFenceHandleTypeFlags::SYNC_FD);
    let info = vk::FenceCreateInfo::default().push_next(&mut export);
    let fence = gpu.own(unsafe { gpu.device.create_fence(&info, None)? });
    let functions = ash::khr::external_fence_fd::Device::new(&gpu.instance, &gpu.device);
    Ok((fence, functions))
}

fn file_of(functions: &ash::khr::external_fence_fd::Device, fence: vk::Fence) -> Result<OwnedFd> {
    let info = vk::FenceGetFdInfoKHR::default()
        .fence(fence)
        .handle_type(vk::ExternalFenceHandleTypeFlags::SYNC_FD);
    let fd = unsafe { functions.get_fence_fd(&info)? };
    ensure!(fd >= 0, "the sync file is already signalled");
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Submits something that waits until the host lets it go.
fn submit_gated(
    gpu: &Gpu,
    gate: vk::Semaphore,
    signal: &[vk::Semaphore],
    fence: vk::Fence,
) -> Result<()> {
    let (waits, stages) = ([gate], [vk::PipelineStageFlags::ALL_COMMANDS]);
    let values = vec![0; signal.len()];
    let mut timeline = vk::TimelineSemaphoreSubmitInfo::default()
        .wait_semaphore_values(&[1])
        .signal_semaphore_values(&values);
    let info = vk::SubmitInfo::default()
        .wait_semaphores(&waits)
        .wait_dst_stage_mask(&stages)
        .signal_semaphores(signal)
        .push_next(&mut timeline);
    gpu.submit(&info, fence)
}

fn open_gate(gpu: &Gpu, gate: vk::Semaphore) -> Result<()> {
    let info = vk::SemaphoreSignalInfo::default().semaphore(gate).value(1);
    unsafe { gpu.device.signal_semaphore(&info)? };
    Ok(())
}

fn fence(gpu: &Gpu) -> Result<()> {
    let (fence, functions) = export_fence(gpu)?;
    let gate = gpu.timeline(0)?;
    submit_gated(gpu, *gate, &[], *fence)?;
    let file = file_of(&functions, *fence)?;
    ensure!(
        !readable(&file, EARLY)?,
        "the sync file signals before the fence"
    );
    open_gate(gpu, *gate)?;
    ensure!(readable(&file, PATIENCE)?, "the sync file never signals");
    gpu.idle()
}

/// The sync file outlives its fence.
fn fence_destroyed(gpu: &Gpu) -> Result<()> {
    let (fence, functions) = export_fence(gpu)?;
    gpu.submit(&vk::SubmitInfo::default(), *fence)?;
    let info = vk::FenceGetFdInfoKHR::default()
        .fence(*fence)
        .handle_type(vk::ExternalFenceHandleTypeFlags::SYNC_FD);
    let fd = unsafe { functions.get_fence_fd(&info)? };
    gpu.idle()?;
    drop(fence);
    // -1 stands for one that is signalled.
    if fd >= 0 {
        let file = unsafe { OwnedFd::from_raw_fd(fd) };
        ensure!(readable(&file, PATIENCE)?, "the sync file never signals");
    }
    Ok(())
}

/// Whoever exports a fence has reset it, and can submit it at once, as often as he likes.
fn fence_again(gpu: &Gpu) -> Result<()> {
    let (fence, functions) = export_fence(gpu)?;
    for _ in 0..5 {
        gpu.submit(&vk::SubmitInfo::default(), *fence)?;
        let file = file_of(&functions, *fence)?;
        ensure!(readable(&file, PATIENCE)?, "the sync file never signals");
        let status = unsafe { gpu.device.get_fence_status(*fence)? };
        ensure!(!status, "the fence is signalled after it was exported");
    }
    gpu.submit(&vk::SubmitInfo::default(), *fence)?;
    gpu.wait(*fence)
}

/// An imported sync file stands for the fence until that is reset.
fn fence_imported(gpu: &Gpu) -> Result<()> {
    let (exported, functions) = export_fence(gpu)?;
    let gate = gpu.timeline(0)?;
    submit_gated(gpu, *gate, &[], *exported)?;
    let file = file_of(&functions, *exported)?;
    let (imported, other) = (gpu.fence()?, gpu.fence()?);
    let info = vk::ImportFenceFdInfoKHR::default()
        .fence(*imported)
        .flags(vk::FenceImportFlags::TEMPORARY)
        .handle_type(vk::ExternalFenceHandleTypeFlags::SYNC_FD)
        .fd(file.into_raw_fd());
    unsafe { functions.import_fence_fd(&info)? };
    let device = &gpu.device;
    let signalled = |fence| unsafe { device.get_fence_status(fence) };
    let wait = |fences: &[vk::Fence], all, limit: Duration| unsafe {
        device.wait_for_fences(fences, all, limit.as_nanos() as u64)
    };
    ensure!(
        !signalled(*imported)?,
        "it is signalled before its original"
    );
    let late = wait(&[*imported], true, EARLY);
    ensure!(
        late == Err(vk::Result::TIMEOUT),
        "a wait ends with {late:?}"
    );
    let late = wait(&[*imported, *other], false, EARLY);
    ensure!(
        late == Err(vk::Result::TIMEOUT),
        "a wait for any ends with {late:?}"
    );
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(EARLY);
            open_gate(gpu, *gate)
        });
        wait(&[*imported, *other], false, PATIENCE)
    })?;
    wait(&[*imported], true, PATIENCE)?;
    ensure!(signalled(*imported)?, "it is not signalled");
    unsafe { device.reset_fences(&[*imported])? };
    ensure!(!signalled(*imported)?, "a reset does not end the import");
    gpu.submit(&vk::SubmitInfo::default(), *imported)?;
    gpu.wait(*imported)?;
    gpu.idle()
}

/// A semaphore that can be exported.
fn export_semaphore(
    gpu: &Gpu,
) -> Result<(
    Own<'_, vk::Semaphore>,
    ash::khr::external_semaphore_fd::Device,
)> {
    let mut export = vk::ExportSemaphoreCreateInfo::default()
        .handle_types(vk::ExternalSemaphoreHandleTypeFlags::SYNC_FD);
    let info = vk::SemaphoreCreateInfo::default().push_next(&mut export);
    let semaphore = gpu.own(unsafe { gpu.device.create_semaphore(&info, None)? });
    let functions = ash::khr::external_semaphore_fd::Device::new(&gpu.instance, &gpu.device);
    Ok((semaphore, functions))
}

/// A batch waits for what another has signalled, again and again, by two semaphores that share a payload.
fn semaphore_imported(gpu: &Gpu) -> Result<()> {
    let (exported, functions) = export_semaphore(gpu)?;
    let imported = gpu.semaphore()?;
    let buffer = gpu.buffer(4096, vk::BufferUsageFlags::TRANSFER_DST)?;
    let pool = gpu.command_pool()?;
    let commands = gpu.command_buffers(*pool, vk::CommandBufferLevel::PRIMARY, 2)?;
    for round in 0..5 {
        for (i, cmd) in commands.iter().enumerate() {
            gpu.record(*cmd, |device, cmd| unsafe {
                let value = round * 2 + i as u32;
                device.cmd_fill_buffer(cmd, *buffer.handle, 0, 4096, value);
            })?;
        }
        let signals = [*exported];
        let first = vk::SubmitInfo::default()
            .command_buffers(&commands[..1])
            .signal_semaphores(&signals);
        gpu.submit(&first, vk::Fence::null())?;
        let info = vk::SemaphoreGetFdInfoKHR::default()
            .semaphore(*exported)
            .handle_type(vk::ExternalSemaphoreHandleTypeFlags::SYNC_FD);
        let fd = unsafe { functions.get_semaphore_fd(&info)? };
        let info = vk::ImportSemaphoreFdInfoKHR::default()
            .semaphore(*imported)
            .flags(vk::SemaphoreImportFlags::TEMPORARY)
            .handle_type(vk::ExternalSemaphoreHandleTypeFlags::SYNC_FD)
            .fd(fd);
        unsafe { functions.import_semaphore_fd(&info)? };
        let (waits, stages) = ([*imported], [vk::PipelineStageFlags::ALL_COMMANDS]);
        let second = vk::SubmitInfo::default()
            .command_buffers(&commands[1..])
            .wait_semaphores(&waits)
            .wait_dst_stage_mask(&stages);
        let fence = gpu.fence()?;
        gpu.submit(&second, *fence)?;
        gpu.wait(*fence)?;
        let word = buffer.words()[1023];
        ensure!(word == round * 2 + 1, "round {round} leaves {word}");
    }
    Ok(())
}

fn semaphore(gpu: &Gpu) -> Result<()> {
    let (semaphore, functions) = export_semaphore(gpu)?;
    let gate = gpu.timeline(0)?;
    std::thread::scope(|scope| {
        // Mesa's guest driver waits for the queue after a submit that signals such a semaphore.
        let opener = scope.spawn(|| {
            std::thread::sleep(EARLY * 2);
            open_gate(gpu, *gate)
        });
        submit_gated(gpu, *gate, &[*semaphore], vk::Fence::null())?;
        let info = vk::SemaphoreGetFdInfoKHR::default()
            .semaphore(*semaphore)
            .handle_type(vk::ExternalSemaphoreHandleTypeFlags::SYNC_FD);
        let fd = unsafe { functions.get_semaphore_fd(&info)? };
        if fd >= 0 {
            let file = unsafe { OwnedFd::from_raw_fd(fd) };
            ensure!(readable(&file, PATIENCE)?, "the sync file never signals");
            let value = unsafe { gpu.device.get_semaphore_counter_value(*gate)? };
            ensure!(value == 1, "the sync file signals before the semaphore");
        }
        opener
            .join()
            .map_err(|_| anyhow::anyhow!("the opener panicked"))?
    })?;
    gpu.idle()
}
