//! Work on two queues that hand over to each other; where there is one queue, both sides use it.

use anyhow::{Result, ensure};
use ash::vk;

use crate::gpu::Gpu;
use crate::report::Report;
use crate::scenes::Options;
use crate::scenes::fences::{STEP, steps};

const ROUNDS: u32 = 30;

pub(super) fn run(gpu: &Gpu, _options: &Options, report: &mut Report) -> Result<()> {
    let both = if gpu.queues.len() > 1 { [0, 1] } else { [0, 0] };
    report.part("interleaved", alternate(gpu, [0, 0])?);
    if report.needs("two queues", both == [0, 1], "the queue family has one queue") {
        report.part("two queues", alternate(gpu, both)?);
    }
    Ok(())
}

/// Even steps on one queue, odd steps on the other, each behind the one before.
fn alternate(gpu: &Gpu, queues: [usize; 2]) -> Result<Vec<u8>> {
    let x = gpu.buffer_with(&[0u32; 256], vk::BufferUsageFlags::STORAGE_BUFFER)?;
    let kernel = gpu.kernel(STEP, &[&x], 4)?;
    let pool = gpu.command_pool()?;
    let cmds = gpu.command_buffers(*pool, vk::CommandBufferLevel::PRIMARY, ROUNDS)?;
    let semaphores =
        (0..ROUNDS).map(|_| gpu.semaphore()).collect::<Result<Vec<_>>>()?;
    let fence = gpu.fence()?;
    for (round, &cmd) in cmds.iter().enumerate() {
        gpu.record(cmd, |device, cmd| kernel.dispatch(device, cmd, &[round as u32], 4))?;
        let last = round + 1 == cmds.len();
        let (cmds, signals) = ([cmd], [*semaphores[round]]);
        let waits = [if round > 0 { *semaphores[round - 1] } else { vk::Semaphore::null() }];
        let stages = [vk::PipelineStageFlags::ALL_COMMANDS];
        let mut info = vk::SubmitInfo::default().command_buffers(&cmds);
        if round > 0 {
            info = info.wait_semaphores(&waits).wait_dst_stage_mask(&stages);
        }
        if !last {
            info = info.signal_semaphores(&signals);
        }
        let queue = gpu.queues[queues[round % 2]].lock().expect("a submit panicked");
        let fence = if last { *fence } else { vk::Fence::null() };
        unsafe { gpu.device.queue_submit(*queue, &[info], fence)? }
    }
    gpu.wait(*fence)?;
    gpu.idle()?;
    ensure!(x.words() == steps(0..ROUNDS, 256), "the queues overtook each other");
    Ok(x.bytes())
}
