//! Several threads at once: each with objects of its own, all of them on one queue, and all of them creating and destroying.

use std::sync::Mutex;
use std::thread;

use anyhow::{Result, anyhow, ensure};
use ash::vk;

use crate::gpu::{Gpu, barrier};
use crate::report::Report;
use crate::scenes::fences::{STEP, steps};
use crate::scenes::{Options, Random};

const ROUNDS: u32 = 40;

pub(super) fn run(gpu: &Gpu, options: &Options, report: &mut Report) -> Result<()> {
    own(gpu, options, report)?;
    let shown = gpu.features12.timeline_semaphore == vk::TRUE;
    if report.needs("shared", shown, "timelineSemaphore is not shown") {
        shared(gpu, options, report)?;
    }
    churn(gpu, options, report)
}

/// Runs a function on every thread, and returns the results in the threads' order.
fn each<T: Send>(count: u32, work: impl Fn(u32) -> Result<T> + Sync) -> Result<Vec<T>> {
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..count).map(|index| scope.spawn(move || work(index))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
            .collect()
    })
}

/// Everything is the thread's own, but the queue.
fn own(gpu: &Gpu, options: &Options, report: &mut Report) -> Result<()> {
    let results = each(options.threads, |thread| {
        let x = gpu.buffer_with(&[0u32; 1024], vk::BufferUsageFlags::STORAGE_BUFFER)?;
        let kernel = gpu.kernel(STEP, &[&x], 4)?;
        let pool = gpu.command_pool()?;
        let cmds = gpu.command_buffers(*pool, vk::CommandBufferLevel::PRIMARY, 2)?;
        let fences = [gpu.fence()?, gpu.fence()?];
        for round in 0..ROUNDS {
            let slot = (round % 2) as usize;
            if round >= 2 {
                gpu.wait(*fences[slot])?;
                unsafe { gpu.device.reset_fences(&[*fences[slot]])? }
            }
            gpu.record(cmds[slot], |device, cmd| {
                kernel.dispatch(device, cmd, &[thread * 1000 + round], 16);
            })?;
            gpu.submit(&vk::SubmitInfo::default().command_buffers(&[cmds[slot]]), *fences[slot])?;
        }
        gpu.wait(*fences[0])?;
        gpu.wait(*fences[1])?;
        let want = steps((0..ROUNDS).map(|round| thread * 1000 + round), 1024);
        ensure!(x.words() == want, "thread {thread} computed something else");
        Ok(x.bytes())
    })?;
    report.part("own", results.concat());
    Ok(())
}

/// All threads add to one buffer without atomics: a timeline semaphore puts their submits in a row.
fn shared(gpu: &Gpu, options: &Options, report: &mut Report) -> Result<()> {
    let wgsl = "
        struct Push { add: u32 }
        var<immediate> push: Push;
        @group(0) @binding(0) var<storage, read_write> x: array<u32>;
        @compute @workgroup_size(64)
        fn main(@builtin(global_invocation_id) id: vec3<u32>) { x[id.x] += push.add * (id.x + 1u); }";
    let x = gpu.buffer_with(&[0u32; 256], vk::BufferUsageFlags::STORAGE_BUFFER)?;
    let kernel = gpu.kernel(wgsl, &[&x], 4)?;
    let row = gpu.timeline(0)?;
    let next = Mutex::new(0u64);
    each(options.threads, |thread| {
        let pool = gpu.command_pool()?;
        let cmds = gpu.command_buffers(*pool, vk::CommandBufferLevel::PRIMARY, ROUNDS)?;
        let mut last = 0;
        for (round, &cmd) in (0u32..).zip(&cmds) {
            gpu.record(cmd, |device, cmd| {
                kernel.dispatch(device, cmd, &[thread * 1000 + round], 4);
            })?;
            let mut next = next.lock().expect("a submit panicked");
            let (waits, signals) = ([*next], [*next + 1]);
            let mut values = vk::TimelineSemaphoreSubmitInfo::default()
                .wait_semaphore_values(&waits)
                .signal_semaphore_values(&signals);
            let (rows, cmds) = ([*row], [cmd]);
            let info = vk::SubmitInfo::default()
                .wait_semaphores(&rows)
                .wait_dst_stage_mask(&[vk::PipelineStageFlags::ALL_COMMANDS])
                .command_buffers(&cmds)
                .signal_semaphores(&rows)
                .push_next(&mut values);
            gpu.submit(&info, vk::Fence::null())?;
            *next += 1;
            last = *next;
        }
        let (rows, values) = ([*row], [last]);
        let info = vk::SemaphoreWaitInfo::default().semaphores(&rows).values(&values);
        unsafe { gpu.device.wait_semaphores(&info, crate::gpu::PATIENCE)? }
        Ok(())
    })?;
    let total = (0..options.threads)
        .flat_map(|thread| (0..ROUNDS).map(move |round| thread * 1000 + round))
        .fold(0u32, u32::wrapping_add);
    let want: Vec<u32> = (1..=256).map(|i| total.wrapping_mul(i)).collect();
    ensure!(x.words() == want, "an addition was lost");
    gpu.idle()?;
    report.part("shared", x.bytes());
    Ok(())
}

/// Objects made and destroyed all the time, with a copy now and then to see that they are real.
fn churn(gpu: &Gpu, options: &Options, report: &mut Report) -> Result<()> {
    let both = vk::BufferUsageFlags::TRANSFER_SRC | vk::BufferUsageFlags::TRANSFER_DST;
    let results = each(options.threads, |thread| {
        let mut random = Random(u64::from(thread) + 77);
        let mut sums = Vec::new();
        for round in 0..60u32 {
            let size = 256 + random.below(60_000);
            let data = random.bytes(size as usize);
            let (from, to) = (gpu.buffer_with(&data, both)?, gpu.buffer(size, both)?);
            let _unused = [gpu.semaphore()?, gpu.semaphore()?];
            let _sampler = gpu.sampler(vk::Filter::NEAREST)?;
            if round % 4 == 0 {
                gpu.run(|device, cmd| unsafe {
                    let copy = [vk::BufferCopy { src_offset: 0, dst_offset: 0, size }];
                    device.cmd_copy_buffer(cmd, *from.handle, *to.handle, &copy);
                    barrier(device, cmd);
                })?;
                ensure!(to.bytes() == data, "thread {thread} lost bytes in round {round}");
                sums.extend(crate::report::digest(&data).into_bytes());
            }
        }
        Ok(sums)
    })?;
    report.part("churn", results.concat());
    Ok(())
}
