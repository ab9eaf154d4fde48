//! Times what a remote renderer makes slow, in the process it runs in.
//!
//! Every figure is the median of several samples, and every sample lasts long enough to be believed.

use std::time::{Duration, Instant};

use anyhow::Result;
use ash::vk;

use crate::draw::{Canvas, Squares};
use crate::gpu::{Gpu, barrier};
use crate::{scenes, shader};

/// One measured quantity.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// Of what.
    pub unit: String,
    /// The median of the samples.
    pub median: f64,
}

impl Figure {
    /// One line, tab-separated: how a child tells its figures.
    #[must_use]
    pub fn to_line(&self) -> String {
        format!("figure\t{}\t{}\t{}", self.name, self.unit, self.median)
    }

    /// Reads a line of [`Figure::to_line`]; other lines are `None`.
    #[must_use]
    pub fn from_line(line: &str) -> Option<Self> {
        let mut fields = line.strip_prefix("figure\t")?.split('\t');
        let (name, unit) = (fields.next()?.to_owned(), fields.next()?.to_owned());
        Some(Self {
            name,
            unit,
            median: fields.next()?.parse().ok()?,
        })
    }

    /// Whether more is better.
    #[must_use]
    pub fn is_rate(&self) -> bool {
        self.unit.ends_with("/s")
    }
}

/// The median.
#[must_use]
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => f64::NAN,
        (n, half) if n % 2 == 1 => sorted[half],
        (_, half) => f64::midpoint(sorted[half - 1], sorted[half]),
    }
}

/// Takes the measurements.
#[derive(Debug)]
pub struct Bench<'g> {
    gpu: &'g Gpu,
    filter: String,
    /// How often everything is done without being measured.
    times: Option<u32>,
    /// What was measured so far.
    pub figures: Vec<Figure>,
}

const SAMPLES: usize = 11;
const SAMPLE: Duration = Duration::from_millis(20);

impl<'g> Bench<'g> {
    /// Measures everything whose name contains `filter`; with `times`, does it that often and measures nothing.
    pub fn run(gpu: &'g Gpu, filter: &str, times: Option<u32>) -> Result<Vec<Figure>> {
        let mut bench = Self {
            gpu,
            filter: filter.to_owned(),
            times,
            figures: Vec::new(),
        };
        bench.queries()?;
        bench.objects()?;
        bench.descriptors()?;
        bench.submits()?;
        bench.recording()?;
        bench.memory()?;
        bench.pipelines()?;
        bench.scene()?;
        bench.product()?;
        bench.idle()?;
        Ok(bench.figures)
    }

    fn wants(&self, name: &str) -> bool {
        name.contains(&self.filter)
    }

    fn note(&mut self, name: &str, unit: &str, median: f64) {
        self.figures.push(Figure {
            name: name.to_owned(),
            unit: unit.to_owned(),
            median,
        });
    }

    /// Times `work`, which does `per` of something, in nanoseconds or microseconds each.
    fn time(
        &mut self,
        name: &str,
        unit: &str,
        per: u32,
        mut work: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        if !self.wants(name) {
            return Ok(());
        }
        if let Some(times) = self.times {
            return (0..times).try_for_each(|_| work());
        }
        let scale = match unit {
            "ns" => 1e9,
            "us" => 1e6,
            _ => 1e3,
        };
        let started = Instant::now();
        work()?;
        let once = started.elapsed().max(Duration::from_nanos(20));
        let repeats = (SAMPLE.as_secs_f64() / once.as_secs_f64()).clamp(1.0, 1e6) as u32;
        let mut samples = Vec::new();
        for _ in 0..SAMPLES {
            let started = Instant::now();
            for _ in 0..repeats {
                work()?;
            }
            let each = started.elapsed().as_secs_f64() / f64::from(repeats) / f64::from(per);
            samples.push(each * scale);
        }
        self.note(name, unit, median(&samples));
        Ok(())
    }

    /// Questions that the guest cannot answer by itself.
    fn queries(&mut self) -> Result<()> {
        let gpu = self.gpu;
        self.time("vkGetPhysicalDeviceFormatProperties", "us", 1, || {
            let format = vk::Format::R8G8B8A8_UNORM;
            let properties = unsafe {
                gpu.instance
                    .get_physical_device_format_properties(gpu.physical, format)
            };
            let _ = std::hint::black_box(properties);
            Ok(())
        })?;
        let fence = gpu.fence()?;
        self.time("vkGetFenceStatus", "us", 1, || {
            std::hint::black_box(unsafe { gpu.device.get_fence_status(*fence)? });
            Ok(())
        })?;
        if gpu.features12.timeline_semaphore == vk::TRUE {
            let semaphore = gpu.timeline(3)?;
            self.time("vkGetSemaphoreCounterValue", "us", 1, || {
                let value = unsafe { gpu.device.get_semaphore_counter_value(*semaphore)? };
                std::hint::black_box(value);
                Ok(())
            })?;
        }
        Ok(())
    }

    fn objects(&mut self) -> Result<()> {
        let gpu = self.gpu;
        let info = vk::BufferCreateInfo::default()
            .size(4096)
            .usage(vk::BufferUsageFlags::STORAGE_BUFFER);
        self.time("buffer: create, destroy", "us", 1, || {
            gpu.own(unsafe { gpu.device.create_buffer(&info, None)? });
            Ok(())
        })?;
        self.time("buffer: create, requirements, destroy", "us", 1, || {
            let buffer = gpu.own(unsafe { gpu.device.create_buffer(&info, None)? });
            let needs = unsafe { gpu.device.get_buffer_memory_requirements(*buffer) };
            let _ = std::hint::black_box(needs);
            Ok(())
        })?;
        self.time("sampler: create, destroy", "us", 1, || {
            gpu.sampler(vk::Filter::LINEAR)?;
            Ok(())
        })
    }

    fn descriptors(&mut self) -> Result<()> {
        const COUNT: usize = 1000;
        let gpu = self.gpu;
        let kinds = [vk::DescriptorType::STORAGE_BUFFER; 4];
        let layout = gpu.set_layout(&kinds, vk::ShaderStageFlags::COMPUTE)?;
        let pool = gpu.pool(&kinds[..1], 64)?;
        let set = gpu.set(*pool, *layout)?;
        let buffer = gpu.buffer(4096, vk::BufferUsageFlags::STORAGE_BUFFER)?;
        let infos = [[buffer.whole()]; COUNT];
        let writes: Vec<_> = (0u32..)
            .zip(&infos)
            .map(|(i, info)| {
                vk::WriteDescriptorSet::default()
                    .dst_set(set)
                    .dst_binding(i % 4)
                    .descriptor_type(kinds[0])
                    .buffer_info(info)
            })
            .collect();
        self.time("descriptor write, 1000 a call", "ns", COUNT as u32, || {
            unsafe { gpu.device.update_descriptor_sets(&writes, &[]) }
            Ok(())
        })?;
        self.time("descriptor write, one a call", "ns", 1, || {
            unsafe { gpu.device.update_descriptor_sets(&writes[..1], &[]) }
            Ok(())
        })?;
        self.time("descriptor set: allocate, free", "us", 1, || {
            let set = gpu.set(*pool, *layout)?;
            unsafe { gpu.device.free_descriptor_sets(*pool, &[set])? }
            Ok(())
        })
    }

    fn submits(&mut self) -> Result<()> {
        const IN_FLIGHT: usize = 64;
        let gpu = self.gpu;
        let pool = gpu.command_pool()?;
        let cmds = gpu.command_buffers(*pool, vk::CommandBufferLevel::PRIMARY, 1)?;
        gpu.record(cmds[0], barrier)?;
        let fence = gpu.fence()?;
        let empty = vk::SubmitInfo::default();
        self.time("empty submit, wait", "us", 1, || {
            gpu.submit(&empty, *fence)?;
            gpu.wait(*fence)?;
            unsafe { gpu.device.reset_fences(&[*fence])? }
            Ok(())
        })?;
        let info = vk::SubmitInfo::default().command_buffers(&cmds);
        self.time("submit of one command buffer, wait", "us", 1, || {
            gpu.submit(&info, *fence)?;
            gpu.wait(*fence)?;
            unsafe { gpu.device.reset_fences(&[*fence])? }
            Ok(())
        })?;
        let many = gpu.command_buffers(*pool, vk::CommandBufferLevel::PRIMARY, IN_FLIGHT as u32)?;
        for &cmd in &many {
            gpu.record(cmd, barrier)?;
        }
        self.time("64 submits in flight, each", "us", IN_FLIGHT as u32, || {
            for (i, cmd) in many.iter().enumerate() {
                let last = i + 1 == IN_FLIGHT;
                let fence = if last { *fence } else { vk::Fence::null() };
                let info = vk::SubmitInfo::default().command_buffers(std::slice::from_ref(cmd));
                gpu.submit(&info, fence)?;
            }
            gpu.wait(*fence)?;
            unsafe { gpu.device.reset_fences(&[*fence])? }
            Ok(())
        })?;
        self.time("queue wait idle", "us", 1, || {
            let queue = gpu.queues[0].lock().expect("a submit panicked");
            unsafe { gpu.device.queue_wait_idle(*queue)? }
            Ok(())
        })
    }

    /// Draws of nothing much: what is measured is the way to the device.
    fn recording(&mut self) -> Result<()> {
        const DRAWS: u32 = 10_000;
        const FRAME: u32 = 1000;
        let gpu = self.gpu;
        let canvas = Canvas::new(gpu, 16, 16)?;
        let squares = Squares::on(gpu, &canvas)?;
        let pool = gpu.command_pool()?;
        let cmds = gpu.command_buffers(*pool, vk::CommandBufferLevel::PRIMARY, 1)?;
        let push = [0.0f32; Squares::PUSH as usize / 4];
        let stages = Squares::STAGES;
        self.time("vkCmdDraw, recording", "ns", DRAWS, || {
            gpu.record(cmds[0], |device, cmd| {
                canvas.draw(device, cmd, vk::SubpassContents::INLINE, || unsafe {
                    squares.bind(device, cmd);
                    let bytes = bytemuck::cast_slice(&push);
                    device.cmd_push_constants(cmd, *squares.layout, stages, 0, bytes);
                    for _ in 0..DRAWS {
                        device.cmd_draw(cmd, 4, 1, 0, 0);
                    }
                });
            })
        })?;
        let fence = gpu.fence()?;
        let run = || {
            gpu.submit(&vk::SubmitInfo::default().command_buffers(&cmds), *fence)?;
            gpu.wait(*fence)?;
            unsafe { gpu.device.reset_fences(&[*fence])? }
            Ok(())
        };
        let bytes = bytemuck::cast_slice(&push);
        self.time("10,000 draws: record, submit, wait", "us", 1, || {
            gpu.record(cmds[0], |device, cmd| {
                canvas.draw(device, cmd, vk::SubpassContents::INLINE, || unsafe {
                    squares.bind(device, cmd);
                    device.cmd_push_constants(cmd, *squares.layout, stages, 0, bytes);
                    for _ in 0..DRAWS {
                        device.cmd_draw(cmd, 4, 1, 0, 0);
                    }
                });
            })?;
            run()
        })?;
        let triples = |device: &ash::Device, cmd, count| unsafe {
            for _ in 0..count {
                squares.bind(device, cmd);
                device.cmd_push_constants(cmd, *squares.layout, stages, 0, bytes);
                // The rectangle is empty, so that nothing is rasterised.
                device.cmd_draw(cmd, 4, 1, 0, 0);
            }
        };
        self.time("bind+push+draw, recording", "ns", DRAWS, || {
            gpu.record(cmds[0], |device, cmd| {
                let inline = vk::SubpassContents::INLINE;
                canvas.draw(device, cmd, inline, || triples(device, cmd, DRAWS));
            })
        })?;
        self.time(
            "frame of 1000 bind+push+draw, submit, wait",
            "us",
            1,
            || {
                gpu.record(cmds[0], |device, cmd| {
                    let inline = vk::SubpassContents::INLINE;
                    canvas.draw(device, cmd, inline, || triples(device, cmd, FRAME));
                })?;
                run()
            },
        )
    }

    fn memory(&mut self) -> Result<()> {
        const SIZE: u64 = 64 << 20;
        let gpu = self.gpu;
        let usage = vk::BufferUsageFlags::TRANSFER_SRC | vk::BufferUsageFlags::TRANSFER_DST;
        let data = vec![0x5au8; SIZE as usize];
        if self.wants("write 64 MiB into mapped memory") {
            let buffer = gpu.buffer(SIZE, usage)?;
            buffer.write(0, &data);
            let samples: Vec<_> = (0..SAMPLES)
                .map(|_| {
                    let started = Instant::now();
                    buffer.write(0, &data);
                    SIZE as f64 / started.elapsed().as_secs_f64() / f64::from(1 << 30)
                })
                .collect();
            self.note("write 64 MiB into mapped memory", "GiB/s", median(&samples));
        }
        if self.wants("copy of 64 MiB by the device") {
            let (from, to) = (gpu.buffer_with(&data, usage)?, gpu.buffer(SIZE, usage)?);
            let copy = [vk::BufferCopy {
                src_offset: 0,
                dst_offset: 0,
                size: SIZE,
            }];
            let mut samples = Vec::new();
            for _ in 0..SAMPLES {
                let started = Instant::now();
                gpu.run(|device, cmd| unsafe {
                    device.cmd_copy_buffer(cmd, *from.handle, *to.handle, &copy);
                    barrier(device, cmd);
                })?;
                samples.push(SIZE as f64 / started.elapsed().as_secs_f64() / f64::from(1 << 30));
            }
            self.note("copy of 64 MiB by the device", "GiB/s", median(&samples));
        }
        for (name, size) in [
            ("memory: allocate, map, write 4 KiB, free", 4096),
            ("memory: allocate, map, write 1 MiB, free", 1 << 20),
            ("memory: allocate, map, write 64 MiB, free", SIZE as usize),
        ] {
            let kind = gpu.memory_type(
                u32::MAX,
                vk::MemoryPropertyFlags::HOST_VISIBLE | vk::MemoryPropertyFlags::HOST_COHERENT,
            )?;
            let info = vk::MemoryAllocateInfo::default()
                .allocation_size(size as u64)
                .memory_type_index(kind);
            self.time(name, "us", 1, || unsafe {
                let memory = gpu.own(gpu.device.allocate_memory(&info, None)?);
                let flags = vk::MemoryMapFlags::empty();
                let pointer = gpu.device.map_memory(*memory, 0, vk::WHOLE_SIZE, flags)?;
                std::ptr::copy_nonoverlapping(data.as_ptr(), pointer.cast(), size);
                gpu.device.unmap_memory(*memory);
                Ok(())
            })?;
        }
        let memory = gpu.buffer(1 << 20, usage)?;
        let fixed = &memory;
        self.time("write 4 KiB, submit a copy, wait", "us", 1, || {
            fixed.write(0, &data[..4096]);
            gpu.run(|device, cmd| unsafe {
                let copy = [vk::BufferCopy {
                    src_offset: 0,
                    dst_offset: 65536,
                    size: 4096,
                }];
                device.cmd_copy_buffer(cmd, *fixed.handle, *fixed.handle, &copy);
                barrier(device, cmd);
            })?;
            std::hint::black_box(fixed.read(65536, 4096));
            Ok(())
        })
    }

    fn pipelines(&mut self) -> Result<()> {
        let gpu = self.gpu;
        if !self.wants("compute pipeline: create") {
            return Ok(());
        }
        let layout = gpu.set_layout(
            &[vk::DescriptorType::STORAGE_BUFFER],
            vk::ShaderStageFlags::COMPUTE,
        )?;
        let layout = gpu.pipeline_layout(&[*layout], 0, vk::ShaderStageFlags::COMPUTE)?;
        let mut samples = Vec::new();
        for i in 0..SAMPLES {
            // Each a different one, so that no cache knows it.
            let words = shader::compile(&format!(
                "@group(0) @binding(0) var<storage, read_write> x: array<u32>;
                 @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {{ x[id.x] += {i}u; }}"
            ))?;
            let started = Instant::now();
            gpu.compute_pipeline(&words, *layout)?;
            samples.push(started.elapsed().as_secs_f64() * 1e3);
        }
        self.note("compute pipeline: create", "ms", median(&samples));
        Ok(())
    }

    fn scene(&mut self) -> Result<()> {
        if self.wants("graphics scene") {
            let samples = (0..3)
                .map(|_| scenes::frames_per_second(self.gpu, 30))
                .collect::<Result<Vec<_>>>()?;
            self.note("graphics scene", "frames/s", median(&samples));
        }
        Ok(())
    }

    fn product(&mut self) -> Result<()> {
        let name = "product of 256x256 matrices";
        if self.wants(name) {
            let mut random = scenes::Random(1);
            let product = scenes::Product::new(self.gpu, [256; 3], || random.unit())?;
            product.multiply()?;
            let mut samples = Vec::new();
            for _ in 0..SAMPLES {
                let started = Instant::now();
                product.multiply()?;
                samples.push(product.operations() / started.elapsed().as_secs_f64() / 1e9);
            }
            self.note(name, "GFLOP/s", median(&samples));
        }
        Ok(())
    }

    /// Processor time of this process group while nothing is asked of the device: the renderer runs in the same group.
    fn idle(&mut self) -> Result<()> {
        if self.wants("idle") {
            self.gpu.idle()?;
            // What ends soon after the last call is not idling yet.
            std::thread::sleep(Duration::from_millis(300));
            let mut samples = Vec::new();
            for _ in 0..3 {
                let (before, started) = (group_time(), Instant::now());
                std::thread::sleep(Duration::from_secs(1));
                let used = group_time().saturating_sub(before);
                samples.push(used.as_secs_f64() / started.elapsed().as_secs_f64() * 100.0);
            }
            self.note("idle: processor use", "%", median(&samples));
        }
        Ok(())
    }
}

/// Processor time of all threads of the processes in this process's group.
fn group_time() -> Duration {
    let group = unsafe { libc::getpgrp() };
    let mut total = 0u64;
    for process in entries("/proc") {
        let Ok(id) = process.parse::<i32>() else {
            continue;
        };
        if unsafe { libc::getpgid(id) } != group {
            continue;
        }
        for task in entries(&format!("/proc/{id}/task")) {
            let path = format!("/proc/{id}/task/{task}/schedstat");
            let text = std::fs::read_to_string(path).unwrap_or_default();
            total += text
                .split(' ')
                .next()
                .and_then(|ns| ns.parse().ok())
                .unwrap_or(0u64);
        }
    }
    Duration::from_nanos(total)
}

fn entries(path: &str) -> Vec<String> {
    let Ok(all) = std::fs::read_dir(path) else {
        return Vec::new();
    };
    all.flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert!(median(&[3.0, 1.0, 2.0]) == 2.0);
        assert!(median(&[4.0, 1.0, 2.0, 3.0]) == 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_figure_survives_its_line() {
        let figure = Figure {
            name: "a b".into(),
            unit: "us".into(),
            median: 1.25e-3,
        };
        assert_eq!(Figure::from_line(&figure.to_line()), Some(figure));
        assert_eq!(Figure::from_line("scene ok"), None);
    }
}
