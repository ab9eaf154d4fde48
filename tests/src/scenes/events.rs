//! Events, set and waited for on the host and on the device.

use anyhow::{Result, ensure};
use ash::vk;

use crate::gpu::{Buffer, Gpu, Own, barrier};
use crate::report::Report;
use crate::scenes::Options;

const BOTH: vk::BufferUsageFlags = vk::BufferUsageFlags::from_raw(
    vk::BufferUsageFlags::TRANSFER_SRC.as_raw() | vk::BufferUsageFlags::TRANSFER_DST.as_raw(),
);

pub(super) fn run(gpu: &Gpu, _options: &Options, report: &mut Report) -> Result<()> {
    host(gpu, report)?;
    device(gpu, report)?;
    device2(gpu, report)
}

fn event(gpu: &Gpu) -> Result<Own<'_, vk::Event>> {
    let info = vk::EventCreateInfo::default();
    Ok(gpu.own(unsafe { gpu.device.create_event(&info, None)? }))
}

fn host(gpu: &Gpu, report: &mut Report) -> Result<()> {
    let event = event(gpu)?;
    let mut states = Vec::new();
    unsafe {
        states.push(u8::from(gpu.device.get_event_status(*event)?));
        gpu.device.set_event(*event)?;
        states.push(u8::from(gpu.device.get_event_status(*event)?));
        gpu.device.reset_event(*event)?;
        states.push(u8::from(gpu.device.get_event_status(*event)?));
        gpu.device.set_event(*event)?;
        // The device finds it set, and resets it.
        gpu.run(|device, cmd| {
            let (host, transfer) =
                (vk::PipelineStageFlags::HOST, vk::PipelineStageFlags::TRANSFER);
            device.cmd_wait_events(cmd, &[*event], host, transfer, &[], &[], &[]);
            barrier(device, cmd);
            device.cmd_reset_event(cmd, *event, transfer);
        })?;
        states.push(u8::from(gpu.device.get_event_status(*event)?));
        gpu.run(|device, cmd| {
            device.cmd_set_event(cmd, *event, vk::PipelineStageFlags::ALL_COMMANDS);
        })?;
        states.push(u8::from(gpu.device.get_event_status(*event)?));
    }
    ensure!(states == [0, 1, 0, 0, 1], "the event was {states:?}");
    report.part("host", states);
    Ok(())
}

/// A chain of copies from buffer to buffer, each behind the event of the one before.
fn chain<'g>(gpu: &'g Gpu, length: usize) -> Result<(Vec<Buffer<'g>>, Vec<Own<'g, vk::Event>>)> {
    let buffers = (0..length)
        .map(|_| gpu.buffer_with(&[0u32; 1024], BOTH))
        .collect::<Result<Vec<_>>>()?;
    let events = (0..length).map(|_| event(gpu)).collect::<Result<Vec<_>>>()?;
    Ok((buffers, events))
}

fn whole() -> [vk::BufferCopy; 1] {
    [vk::BufferCopy { src_offset: 0, dst_offset: 0, size: 4096 }]
}

fn device(gpu: &Gpu, report: &mut Report) -> Result<()> {
    let (buffers, events) = chain(gpu, 5)?;
    let transfer = vk::PipelineStageFlags::TRANSFER;
    let memory = [vk::MemoryBarrier::default()
        .src_access_mask(vk::AccessFlags::TRANSFER_WRITE)
        .dst_access_mask(vk::AccessFlags::TRANSFER_READ)];
    gpu.run(|device, cmd| unsafe {
        device.cmd_fill_buffer(cmd, *buffers[0].handle, 0, 4096, 0xe7e2_0001);
        device.cmd_set_event(cmd, *events[0], transfer);
        for i in 1..buffers.len() {
            device.cmd_wait_events(cmd, &[*events[i - 1]], transfer, transfer, &memory, &[], &[]);
            let (from, to) = (*buffers[i - 1].handle, *buffers[i].handle);
            device.cmd_copy_buffer(cmd, from, to, &whole());
            device.cmd_set_event(cmd, *events[i], transfer);
        }
        barrier(device, cmd);
    })?;
    let last = &buffers[buffers.len() - 1];
    ensure!(last.words() == [0xe7e2_0001; 1024], "a copy overtook its event");
    report.part("device", last.bytes());
    Ok(())
}

fn device2(gpu: &Gpu, report: &mut Report) -> Result<()> {
    let shown = gpu.has_13() && gpu.features13.synchronization2 == vk::TRUE;
    if !report.needs("device 2", shown, "synchronization2 is not shown") {
        return Ok(());
    }
    let (buffers, events) = chain(gpu, 5)?;
    let stages = vk::PipelineStageFlags2::ALL_TRANSFER;
    gpu.run(|device, cmd| unsafe {
        let copied = |buffer: vk::Buffer| {
            [vk::BufferMemoryBarrier2::default()
                .src_stage_mask(stages)
                .src_access_mask(vk::AccessFlags2::TRANSFER_WRITE)
                .dst_stage_mask(stages)
                .dst_access_mask(vk::AccessFlags2::TRANSFER_READ)
                .src_queue_family_index(vk::QUEUE_FAMILY_IGNORED)
                .dst_queue_family_index(vk::QUEUE_FAMILY_IGNORED)
                .buffer(buffer)
                .size(vk::WHOLE_SIZE)]
        };
        device.cmd_fill_buffer(cmd, *buffers[0].handle, 0, 4096, 0xe7e2_0002);
        for i in 1..buffers.len() {
            let barriers = copied(*buffers[i - 1].handle);
            let info = vk::DependencyInfo::default().buffer_memory_barriers(&barriers);
            device.cmd_set_event2(cmd, *events[i], &info);
            device.cmd_wait_events2(cmd, &[*events[i]], &[info]);
            barrier(device, cmd);
            device.cmd_reset_event2(cmd, *events[i], stages);
            let (from, to) = (*buffers[i - 1].handle, *buffers[i].handle);
            device.cmd_copy_buffer(cmd, from, to, &whole());
        }
        barrier(device, cmd);
    })?;
    let last = &buffers[buffers.len() - 1];
    ensure!(last.words() == [0xe7e2_0002; 1024], "a copy overtook its event");
    for event in &events[1..] {
        ensure!(!unsafe { gpu.device.get_event_status(**event)? }, "a reset event is set");
    }
    report.part("device 2", last.bytes());
    Ok(())
}
