//! Fences, and chains of binary semaphores.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ash::vk;

use crate::gpu::{Buffer, Gpu, Kernel, Own, PATIENCE};
use crate::report::Report;
use crate::scenes::Options;

/// `x = x * 3 + push`: the order of the steps shows in the result.
pub(super) const STEP: &str = "
    struct Push { add: u32 }
    var<immediate> push: Push;
    @group(0) @binding(0) var<storage, read_write> x: array<u32>;
    @compute @workgroup_size(64)
    fn main(@builtin(global_invocation_id) id: vec3<u32>) {
        x[id.x] = x[id.x] * 3u + push.add + id.x;
    }";

/// What [`STEP`] makes of zeros.
pub(super) fn steps(pushes: impl IntoIterator<Item = u32>, count: u32) -> Vec<u32> {
    let mut x = vec![0u32; count as usize];
    for push in pushes {
        for (i, x) in (0u32..).zip(&mut x) {
            *x = x.wrapping_mul(3).wrapping_add(push).wrapping_add(i);
        }
    }
    x
}

pub(super) fn run(gpu: &Gpu, _options: &Options, report: &mut Report) -> Result<()> {
    states(gpu, report)?;
    order(gpu, report)?;
    many(gpu, report)?;
    binary(gpu, report)?;
    binary2(gpu, report)
}

fn states(gpu: &Gpu, report: &mut Report) -> Result<()> {
    let device = &gpu.device;
    let info = vk::FenceCreateInfo::default().flags(vk::FenceCreateFlags::SIGNALED);
    let (lit, dark) = (gpu.own(unsafe { device.create_fence(&info, None)? }), gpu.fence()?);
    let mut states = Vec::new();
    unsafe {
        states.push(i32::from(device.get_fence_status(*lit)?));
        states.push(i32::from(device.get_fence_status(*dark)?));
        let wait = |fences: &[vk::Fence], all, patience| match device.wait_for_fences(fences, all, patience) {
            Ok(()) => 0,
            Err(error) => error.as_raw(),
        };
        states.push(wait(&[*lit], true, 0));
        states.push(wait(&[*dark], true, 0));
        states.push(wait(&[*dark], true, 3_000_000));
        states.push(wait(&[*lit, *dark], false, PATIENCE));
        states.push(wait(&[*lit, *dark], true, 0));
        device.reset_fences(&[*lit])?;
        states.push(wait(&[*lit, *dark], false, 0));
        // A submit of nothing signals its fence too.
        gpu.submit(&vk::SubmitInfo::default(), *lit)?;
        states.push(wait(&[*lit], true, PATIENCE));
        {
            let queue = gpu.queues[0].lock().expect("a submit panicked");
            device.queue_submit(*queue, &[], *dark)?;
            device.queue_wait_idle(*queue)?;
        }
        states.push(i32::from(device.get_fence_status(*dark)?));
    }
    ensure!(states == [1, 0, 0, 2, 2, 0, 2, 2, 0, 1], "the fences were {states:?}");
    report.part("states", bytemuck::cast_slice(&states));
    Ok(())
}

/// What is seen of one fence says something of those before it on its queue, and nothing of those behind.
fn order(gpu: &Gpu, report: &mut Report) -> Result<()> {
    let device = &gpu.device;
    let fences = (0..6).map(|_| gpu.fence()).collect::<Result<Vec<_>>>()?;
    let status = || -> Result<Vec<u8>> {
        let all = fences.iter().map(|fence| unsafe { device.get_fence_status(**fence) });
        Ok(all.map(|lit| lit.map(u8::from)).collect::<Result<Vec<_>, _>>()?)
    };
    let mut seen = Vec::new();
    for round in 0..3usize {
        for fence in &fences[..4] {
            gpu.submit(&vk::SubmitInfo::default(), **fence)?;
        }
        gpu.wait(*fences[3])?;
        seen.push(status()?);
        unsafe { device.reset_fences(&[*fences[round], *fences[5]])? };
        seen.push(status()?);
        // Polled instead of waited for.
        gpu.submit(&vk::SubmitInfo::default(), *fences[round])?;
        gpu.submit(&vk::SubmitInfo::default(), *fences[4])?;
        let end = Instant::now() + Duration::from_nanos(PATIENCE);
        while !unsafe { device.get_fence_status(*fences[4])? } {
            ensure!(Instant::now() < end, "round {round}: a fence is never signalled");
        }
        seen.push(status()?);
        let all: Vec<_> = fences.iter().map(|fence| **fence).collect();
        unsafe { device.reset_fences(&all)? };
        seen.push(status()?);
    }
    for (round, seen) in seen.chunks(4).enumerate() {
        let mut one_less = [1, 1, 1, 1, 0, 0];
        one_less[round] = 0;
        let expected = [[1, 1, 1, 1, 0, 0], one_less, [1, 1, 1, 1, 1, 0], [0; 6]];
        ensure!(seen == expected, "round {round}: the fences were {seen:?}");
    }
    report.part("order", seen.concat());
    Ok(())
}

/// Submits without waiting, then waits for all at once; the same fences and command buffers again.
fn many(gpu: &Gpu, report: &mut Report) -> Result<()> {
    const COUNT: u32 = 24;
    let x = gpu.buffer_with(&[0u32; 256], vk::BufferUsageFlags::STORAGE_BUFFER)?;
    let kernel = gpu.kernel(STEP, &[&x], 4)?;
    let pool = gpu.command_pool()?;
    let cmds = gpu.command_buffers(*pool, vk::CommandBufferLevel::PRIMARY, COUNT)?;
    let fences = (0..COUNT).map(|_| gpu.fence()).collect::<Result<Vec<_>>>()?;
    let handles: Vec<_> = fences.iter().map(|fence| **fence).collect();
    for round in 0..3 {
        for (i, (&cmd, &fence)) in (0u32..).zip(cmds.iter().zip(&handles)) {
            gpu.record(cmd, |device, cmd| kernel.dispatch(device, cmd, &[round * 100 + i], 4))?;
            gpu.submit(&vk::SubmitInfo::default().command_buffers(&[cmd]), fence)?;
        }
        unsafe {
            gpu.device.wait_for_fences(&handles, true, PATIENCE)?;
            gpu.device.reset_fences(&handles)?;
        }
    }
    let order = (0..3).flat_map(|round| (0..COUNT).map(move |i| round * 100 + i));
    ensure!(x.words() == steps(order, 256), "the submits ran in another order");
    report.part("many", x.bytes());
    Ok(())
}

fn record_steps<'g>(
    gpu: &'g Gpu,
    kernel: &Kernel<'_>,
    count: u32,
) -> Result<(Own<'g, vk::CommandPool>, Vec<vk::CommandBuffer>)> {
    let pool = gpu.command_pool()?;
    let cmds = gpu.command_buffers(*pool, vk::CommandBufferLevel::PRIMARY, count)?;
    for (i, &cmd) in (0u32..).zip(&cmds) {
        gpu.record(cmd, |device, cmd| kernel.dispatch(device, cmd, &[i * i + 1], 4))?;
    }
    Ok((pool, cmds))
}

fn check(x: &Buffer<'_>, count: u32) -> Result<Vec<u8>> {
    ensure!(x.words() == steps((0..count).map(|i| i * i + 1), 256), "the chain ran in another order");
    Ok(x.bytes())
}

/// Sixteen batches in one submit, each behind the semaphore of the one before.
fn binary(gpu: &Gpu, report: &mut Report) -> Result<()> {
    const COUNT: u32 = 16;
    let x = gpu.buffer_with(&[0u32; 256], vk::BufferUsageFlags::STORAGE_BUFFER)?;
    let kernel = gpu.kernel(STEP, &[&x], 4)?;
    let (_pool, cmds) = record_steps(gpu, &kernel, COUNT)?;
    let owned = (0..COUNT).map(|_| gpu.semaphore()).collect::<Result<Vec<_>>>()?;
    let semaphores: Vec<_> = owned.iter().map(|semaphore| **semaphore).collect();
    let stages = [vk::PipelineStageFlags::COMPUTE_SHADER];
    let batches: Vec<_> = (0..COUNT as usize)
        .map(|i| {
            let info = vk::SubmitInfo::default().command_buffers(&cmds[i..=i]);
            let info = if i + 1 < COUNT as usize {
                info.signal_semaphores(&semaphores[i..=i])
            } else {
                info
            };
            if i == 0 {
                return info;
            }
            info.wait_semaphores(&semaphores[i - 1..i]).wait_dst_stage_mask(&stages)
        })
        .collect();
    let fence = gpu.fence()?;
    {
        let queue = gpu.queues[0].lock().expect("a submit panicked");
        unsafe { gpu.device.queue_submit(*queue, &batches, *fence)? }
    }
    gpu.wait(*fence)?;
    report.part("binary semaphores", check(&x, COUNT)?);
    Ok(())
}

/// The same with vkQueueSubmit2, one submit per batch, on the queues in turn.
fn binary2(gpu: &Gpu, report: &mut Report) -> Result<()> {
    const COUNT: u32 = 16;
    let shown = gpu.has_13() && gpu.features13.synchronization2 == vk::TRUE;
    if !report.needs("binary semaphores 2", shown, "synchronization2 is not shown") {
        return Ok(());
    }
    let x = gpu.buffer_with(&[0u32; 256], vk::BufferUsageFlags::STORAGE_BUFFER)?;
    let kernel = gpu.kernel(STEP, &[&x], 4)?;
    let (_pool, cmds) = record_steps(gpu, &kernel, COUNT)?;
    let semaphores = [gpu.semaphore()?, gpu.semaphore()?];
    let fence = gpu.fence()?;
    for (i, &cmd) in cmds.iter().enumerate() {
        let last = i + 1 == COUNT as usize;
        let point = |semaphore| {
            [vk::SemaphoreSubmitInfo::default()
                .semaphore(semaphore)
                .stage_mask(vk::PipelineStageFlags2::ALL_COMMANDS)]
        };
        let (wait, signal) = (point(*semaphores[(i + 1) % 2]), point(*semaphores[i % 2]));
        let cmd = [vk::CommandBufferSubmitInfo::default().command_buffer(cmd)];
        let info = [vk::SubmitInfo2::default()
            .wait_semaphore_infos(if i == 0 { &[] } else { &wait })
            .command_buffer_infos(&cmd)
            .signal_semaphore_infos(if last { &[] } else { &signal })];
        let fence = if last { *fence } else { vk::Fence::null() };
        let queue = gpu.queues[i % gpu.queues.len()].lock().expect("a submit panicked");
        unsafe { gpu.device.queue_submit2(*queue, &info, fence)? }
    }
    gpu.wait(*fence)?;
    gpu.idle()?;
    report.part("binary semaphores 2", check(&x, COUNT)?);
    Ok(())
}
