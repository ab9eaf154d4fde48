//! `sync_files`: fences and semaphores exported as sync files become readable when they signal, and not
//! before.
//!
//! Software drivers do not export sync files, guest drivers do: there is nothing native to compare with.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "ash: nearly every call of Vulkan is unsafe, for the same reasons each time"
)]

use std::os::fd::{AsFd, FromRawFd, OwnedFd};
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
    semaphore(&gpu).context("a semaphore")
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

fn semaphore(gpu: &Gpu) -> Result<()> {
    let mut export = vk::ExportSemaphoreCreateInfo::default()
        .handle_types(vk::ExternalSemaphoreHandleTypeFlags::SYNC_FD);
    let info = vk::SemaphoreCreateInfo::default().push_next(&mut export);
    let semaphore = gpu.own(unsafe { gpu.device.create_semaphore(&info, None)? });
    let functions = ash::khr::external_semaphore_fd::Device::new(&gpu.instance, &gpu.device);
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
