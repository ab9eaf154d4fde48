//! Timeline semaphores, signalled and waited for by host and device.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ash::vk;

use crate::gpu::{Gpu, PATIENCE};
use crate::report::Report;
use crate::scenes::fences::{STEP, steps};
use crate::scenes::Options;

pub(super) fn run(gpu: &Gpu, _options: &Options, report: &mut Report) -> Result<()> {
    if gpu.features12.timeline_semaphore != vk::TRUE {
        for part in ["host", "device", "polls", "ping pong", "threads"] {
            report.gate(part, "timelineSemaphore is not shown");
        }
        return Ok(());
    }
    host(gpu, report)?;
    device(gpu, report)?;
    polls(gpu, report)?;
    ping_pong(gpu, report)?;
    threads(gpu, report)
}

/// Two threads of the host take turns on one semaphore: each waits while the other signals.
fn threads(gpu: &Gpu, report: &mut Report) -> Result<()> {
    const ROUNDS: u64 = 100;
    let turn = gpu.timeline(0)?;
    let play = |first: u64| -> Result<()> {
        for value in (first..=2 * ROUNDS).step_by(2) {
            ensure!(wait(gpu, &[*turn], &[value - 1], false, PATIENCE) == 0, "no turn {value}");
            signal(gpu, *turn, value)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| play(2));
        play(1)?;
        other.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?
    })?;
    let end = unsafe { gpu.device.get_semaphore_counter_value(*turn)? };
    report.part("threads", bytemuck::cast_slice(&[end]));
    Ok(())
}

fn wait(gpu: &Gpu, semaphores: &[vk::Semaphore], values: &[u64], any: bool, patience: u64) -> i32 {
    let flags = if any { vk::SemaphoreWaitFlags::ANY } else { vk::SemaphoreWaitFlags::empty() };
    let info =
        vk::SemaphoreWaitInfo::default().flags(flags).semaphores(semaphores).values(values);
    match unsafe { gpu.device.wait_semaphores(&info, patience) } {
        Ok(()) => 0,
        Err(error) => error.as_raw(),
    }
}

fn signal(gpu: &Gpu, semaphore: vk::Semaphore, value: u64) -> Result<()> {
    let info = vk::SemaphoreSignalInfo::default().semaphore(semaphore).value(value);
    unsafe { gpu.device.signal_semaphore(&info)? }
    Ok(())
}

fn host(gpu: &Gpu, report: &mut Report) -> Result<()> {
    let (a, b) = (gpu.timeline(5)?, gpu.timeline(0)?);
    let value = |semaphore| unsafe { gpu.device.get_semaphore_counter_value(semaphore) };
    let mut states = vec![value(*a)? as i64, value(*b)? as i64];
    let mut note = |state: i32| states.push(i64::from(state));
    note(wait(gpu, &[*a], &[5], false, 0));
    note(wait(gpu, &[*a], &[6], false, 0));
    note(wait(gpu, &[*a, *b], &[5, 1], false, 2_000_000));
    note(wait(gpu, &[*a, *b], &[5, 1], true, 0));
    signal(gpu, *b, 1 << 40)?;
    note(wait(gpu, &[*a, *b], &[5, 1 << 40], false, PATIENCE));
    states.push(value(*b)? as i64);
    ensure!(states == [5, 0, 0, 2, 2, 0, 0, 1 << 40], "the semaphores were {states:?}");
    report.part("host", bytemuck::cast_slice(&states));
    Ok(())
}

/// Submits that wait for the host's word, given after all of them are queued.
fn device(gpu: &Gpu, report: &mut Report) -> Result<()> {
    const COUNT: u32 = 12;
    let x = gpu.buffer_with(&[0u32; 256], vk::BufferUsageFlags::STORAGE_BUFFER)?;
    let kernel = gpu.kernel(STEP, &[&x], 4)?;
    let (gate, done) = (gpu.timeline(0)?, gpu.timeline(100)?);
    let pool = gpu.command_pool()?;
    let cmds = gpu.command_buffers(*pool, vk::CommandBufferLevel::PRIMARY, COUNT)?;
    for (i, &cmd) in (0u32..).zip(&cmds) {
        gpu.record(cmd, |device, cmd| kernel.dispatch(device, cmd, &[7 * i], 4))?;
        let (waits, signals) = ([u64::from(i) + 1], [101 + u64::from(i)]);
        let mut values = vk::TimelineSemaphoreSubmitInfo::default()
            .wait_semaphore_values(&waits)
            .signal_semaphore_values(&signals);
        let (gates, dones, cmds) = ([*gate], [*done], [cmd]);
        let info = vk::SubmitInfo::default()
            .wait_semaphores(&gates)
            .wait_dst_stage_mask(&[vk::PipelineStageFlags::ALL_COMMANDS])
            .command_buffers(&cmds)
            .signal_semaphores(&dones)
            .push_next(&mut values);
        gpu.submit(&info, vk::Fence::null())?;
    }
    ensure!(
        wait(gpu, &[*done], &[101], false, 5_000_000) == vk::Result::TIMEOUT.as_raw(),
        "a submit ran before it was allowed to"
    );
    let mut seen = Vec::new();
    for value in [1, 4, u64::from(COUNT)] {
        signal(gpu, *gate, value)?;
        ensure!(wait(gpu, &[*done], &[100 + value], false, PATIENCE) == 0, "no signal of {value}");
        let reached = unsafe { gpu.device.get_semaphore_counter_value(*done)? };
        ensure!(reached == 100 + value, "the device reached {reached} instead of {}", 100 + value);
        seen.extend(x.words());
    }
    ensure!(seen[512..] == steps((0..COUNT).map(|i| 7 * i), 256), "the submits ran in another order");
    gpu.idle()?;
    report.part("device", bytemuck::cast_slice(&seen));
    Ok(())
}

/// Polls while queues and the host signal one semaphore after the other.
fn polls(gpu: &Gpu, report: &mut Report) -> Result<()> {
    const ROUNDS: u64 = 8;
    let gate = gpu.timeline(0)?;
    let timeline = gpu.timeline(0)?;
    let value = |semaphore| unsafe { gpu.device.get_semaphore_counter_value(semaphore) };
    let stages = [vk::PipelineStageFlags::ALL_COMMANDS];
    let mut seen = Vec::new();
    for round in 0..ROUNDS {
        let base = round * 4;
        // One after the other, each on the next queue.
        for step in 1..=3u64 {
            let before = if step == 1 { (*gate, round + 1) } else { (*timeline, base + step - 1) };
            let (waits, signals) = ([before.1], [base + step]);
            let mut values = vk::TimelineSemaphoreSubmitInfo::default()
                .wait_semaphore_values(&waits)
                .signal_semaphore_values(&signals);
            let (before, after) = ([before.0], [*timeline]);
            let info = vk::SubmitInfo::default()
                .wait_semaphores(&before)
                .wait_dst_stage_mask(&stages)
                .signal_semaphores(&after)
                .push_next(&mut values);
            let queue = gpu.queues[step as usize % gpu.queues.len()].lock().expect("a submit panicked");
            unsafe { gpu.device.queue_submit(*queue, &[info], vk::Fence::null())? }
        }
        seen.push(value(*timeline)?);
        signal(gpu, *gate, round + 1)?;
        let end = Instant::now() + Duration::from_nanos(PATIENCE);
        let mut last = base;
        while last < base + 3 {
            let now = value(*timeline)?;
            ensure!(now >= last && now <= base + 3, "{now} after {last}");
            ensure!(Instant::now() < end, "the timeline stays at {last}");
            last = now;
        }
        seen.push(last);
        signal(gpu, *timeline, base + 4)?;
        seen.push(value(*timeline)?);
    }
    let expected = (0..ROUNDS).flat_map(|round| [0, 3, 4].map(|step| round * 4 + step));
    ensure!(seen.iter().copied().eq(expected), "the timeline was {seen:?}");
    gpu.idle()?;
    report.part("polls", bytemuck::cast_slice(&seen));
    Ok(())
}

/// Host and device take turns on one semaphore: odd values are the device's.
fn ping_pong(gpu: &Gpu, report: &mut Report) -> Result<()> {
    let x = gpu.buffer_with(&[0u32; 64], vk::BufferUsageFlags::STORAGE_BUFFER)?;
    let kernel = gpu.kernel(STEP, &[&x], 4)?;
    let turn = gpu.timeline(0)?;
    let pool = gpu.command_pool()?;
    let cmds = gpu.command_buffers(*pool, vk::CommandBufferLevel::PRIMARY, 1)?;
    gpu.record(cmds[0], |device, cmd| kernel.dispatch(device, cmd, &[1], 1))?;
    let mut model = vec![0u32; 64];
    for round in 0..50u64 {
        let (waits, signals) = ([2 * round], [2 * round + 1]);
        let mut values = vk::TimelineSemaphoreSubmitInfo::default()
            .wait_semaphore_values(&waits)
            .signal_semaphore_values(&signals);
        let turns = [*turn];
        let info = vk::SubmitInfo::default()
            .wait_semaphores(&turns)
            .wait_dst_stage_mask(&[vk::PipelineStageFlags::ALL_COMMANDS])
            .command_buffers(&cmds)
            .signal_semaphores(&turns)
            .push_next(&mut values);
        gpu.submit(&info, vk::Fence::null())?;
        ensure!(wait(gpu, &[*turn], &[2 * round + 1], false, PATIENCE) == 0, "the device lost its turn");
        for (i, x) in (0u32..).zip(&mut model) {
            *x = x.wrapping_mul(3).wrapping_add(1 + i);
        }
        ensure!(x.words() == model, "round {round} differs");
        // The host's turn: it changes what the device goes on with.
        model[7] ^= round as u32;
        x.write(28, &model[7].to_le_bytes());
        signal(gpu, *turn, 2 * round + 2)?;
    }
    gpu.idle()?;
    report.part("ping pong", x.bytes());
    Ok(())
}
