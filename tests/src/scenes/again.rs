//! The same commands recorded again and again, while what they work on changes.

use anyhow::{Result, ensure};
use ash::vk;

use crate::gpu::{Buffer, Gpu, Kernel};
use crate::report::Report;
use crate::scenes::Options;
use crate::scenes::fences::{STEP, steps};

const ROUNDS: u32 = 6;
const WORDS: u32 = 256;

pub(super) fn run(gpu: &Gpu, _options: &Options, report: &mut Report) -> Result<()> {
    let flags = [
        ("for many submits", vk::CommandBufferUsageFlags::empty()),
        ("for one submit", vk::CommandBufferUsageFlags::ONE_TIME_SUBMIT),
    ];
    for (name, flags) in flags {
        let recorder = Recorder { gpu, flags };
        recorder.same(report, &format!("the same {name}"))?;
        recorder.sets(report, &format!("sets written to between {name}"))?;
        recorder.resets(report, &format!("resets between {name}"))?;
        recorder.objects(report, &format!("objects made again {name}"))?;
        recorder.secondaries(report, &format!("secondaries {name}"))?;
    }
    Ok(())
}

/// Records and submits.
struct Recorder<'g> {
    gpu: &'g Gpu,
    flags: vk::CommandBufferUsageFlags,
}

impl Recorder<'_> {
    fn record(&self, cmd: vk::CommandBuffer, commands: impl FnOnce()) -> Result<()> {
        let info = vk::CommandBufferBeginInfo::default().flags(self.flags);
        unsafe {
            self.gpu.device.begin_command_buffer(cmd, &info)?;
            commands();
            self.gpu.device.end_command_buffer(cmd)?;
        }
        Ok(())
    }

    fn submit(&self, cmd: vk::CommandBuffer) -> Result<()> {
        let fence = self.gpu.fence()?;
        let cmds = [cmd];
        let info = vk::SubmitInfo::default().command_buffers(&cmds);
        self.gpu.submit(&info, *fence)?;
        self.gpu.wait(*fence)
    }

    fn primaries(&self, count: u32) -> Result<(crate::gpu::Own<'_, vk::CommandPool>, Vec<vk::CommandBuffer>)> {
        let pool = self.gpu.command_pool()?;
        let cmds = self.gpu.command_buffers(*pool, vk::CommandBufferLevel::PRIMARY, count)?;
        Ok((pool, cmds))
    }

    fn data(&self) -> Result<Buffer<'_>> {
        self.gpu.buffer_with(&[0u32; WORDS as usize], vk::BufferUsageFlags::STORAGE_BUFFER)
    }

    fn dispatch(&self, kernel: &Kernel<'_>, cmd: vk::CommandBuffer, push: u32) {
        kernel.dispatch(&self.gpu.device, cmd, &[push], 4);
    }

    /// Nothing changes, and then the commands do.
    fn same(&self, report: &mut Report, name: &str) -> Result<()> {
        let x = self.data()?;
        let kernel = self.gpu.kernel(STEP, &[&x], 4)?;
        let (_pool, cmds) = self.primaries(1)?;
        let mut order = Vec::new();
        for round in 0..2 * ROUNDS {
            let push = 10 + u32::from(round >= ROUNDS) * (round % 3);
            self.record(cmds[0], || self.dispatch(&kernel, cmds[0], push))?;
            self.submit(cmds[0])?;
            order.push(push);
        }
        ensure!(x.words() == steps(order, WORDS), "{name}: other results");
        report.part(name, x.bytes());
        Ok(())
    }

    /// The set that the commands bind leads to another buffer each time.
    fn sets(&self, report: &mut Report, name: &str) -> Result<()> {
        let (x, y) = (self.data()?, self.data()?);
        let kernel = self.gpu.kernel(STEP, &[&x], 4)?;
        let (_pool, cmds) = self.primaries(1)?;
        let (mut of_x, mut of_y) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let (to, order) = if round % 2 == 0 { (&x, &mut of_x) } else { (&y, &mut of_y) };
            let kind = vk::DescriptorType::STORAGE_BUFFER;
            self.gpu.write_buffer(kernel.set, 0, kind, to);
            for _ in 0..3 {
                self.record(cmds[0], || self.dispatch(&kernel, cmds[0], 11))?;
                self.submit(cmds[0])?;
                order.push(11);
            }
        }
        ensure!(x.words() == steps(of_x, WORDS), "{name}: other results in the first buffer");
        ensure!(y.words() == steps(of_y, WORDS), "{name}: other results in the second buffer");
        report.part(name, [x.bytes(), y.bytes()].concat());
        Ok(())
    }

    /// The pool or the command buffer is reset between two equal recordings.
    fn resets(&self, report: &mut Report, name: &str) -> Result<()> {
        let x = self.data()?;
        let kernel = self.gpu.kernel(STEP, &[&x], 4)?;
        let (pool, mut cmds) = self.primaries(1)?;
        let mut order = Vec::new();
        for round in 0..2 * ROUNDS {
            self.record(cmds[0], || self.dispatch(&kernel, cmds[0], 12))?;
            self.submit(cmds[0])?;
            order.push(12);
            let device = &self.gpu.device;
            unsafe {
                match round % 4 {
                    0 => device.reset_command_pool(*pool, vk::CommandPoolResetFlags::empty())?,
                    1 => {
                        let flags = vk::CommandBufferResetFlags::RELEASE_RESOURCES;
                        device.reset_command_buffer(cmds[0], flags)?;
                    }
                    2 => {
                        device.free_command_buffers(*pool, &cmds);
                        let level = vk::CommandBufferLevel::PRIMARY;
                        cmds = self.gpu.command_buffers(*pool, level, 1)?;
                    }
                    _ => {}
                }
            }
        }
        ensure!(x.words() == steps(order, WORDS), "{name}: other results");
        report.part(name, x.bytes());
        Ok(())
    }

    /// What the commands name is destroyed and made again.
    fn objects(&self, report: &mut Report, name: &str) -> Result<()> {
        let (_pool, cmds) = self.primaries(1)?;
        let mut all = Vec::new();
        for _ in 0..ROUNDS {
            let x = self.data()?;
            let kernel = self.gpu.kernel(STEP, &[&x], 4)?;
            for _ in 0..2 {
                self.record(cmds[0], || self.dispatch(&kernel, cmds[0], 13))?;
                self.submit(cmds[0])?;
            }
            ensure!(x.words() == steps([13, 13], WORDS), "{name}: other results");
            all.extend(x.bytes());
        }
        report.part(name, all);
        Ok(())
    }

    /// A secondary command buffer is recorded again, with equal or with other commands, and so is the
    /// primary that executes it.
    fn secondaries(&self, report: &mut Report, name: &str) -> Result<()> {
        let x = self.data()?;
        let kernel = self.gpu.kernel(STEP, &[&x], 4)?;
        let (pool, cmds) = self.primaries(2)?;
        let level = vk::CommandBufferLevel::SECONDARY;
        let second = self.gpu.command_buffers(*pool, level, 1)?[0];
        let inheritance = vk::CommandBufferInheritanceInfo::default();
        let info = vk::CommandBufferBeginInfo::default()
            .flags(self.flags)
            .inheritance_info(&inheritance);
        let mut order = Vec::new();
        for round in 0..2 * ROUNDS {
            let push = 14 + round / 3 % 2;
            let device = &self.gpu.device;
            let first = cmds[round as usize / 2 % 2];
            unsafe {
                device.begin_command_buffer(second, &info)?;
                self.dispatch(&kernel, second, push);
                device.end_command_buffer(second)?;
            }
            self.record(first, || unsafe { device.cmd_execute_commands(first, &[second]) })?;
            self.submit(first)?;
            order.push(push);
        }
        ensure!(x.words() == steps(order, WORDS), "{name}: other results");
        report.part(name, x.bytes());
        Ok(())
    }
}
