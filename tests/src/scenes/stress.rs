//! Small random programs of copies, fills, updates, dispatches and host writes, checked against a model on the CPU.

use anyhow::{Result, ensure};
use ash::vk;

use crate::gpu::{Buffer, Gpu, Kernel, barrier};
use crate::report::Report;
use crate::scenes::{Options, Random};

const BUFFERS: usize = 6;
const WORDS: u64 = 4096;
const PROGRAMS: u32 = 24;
const STEPS: u32 = 40;

/// Words of one buffer, somewhere, mixed into another.
const MIX: &str = "
    struct Push { start: u32, sink: u32, count: u32, key: u32 }
    var<immediate> push: Push;
    @group(0) @binding(0) var<storage, read_write> a: array<u32>;
    @group(0) @binding(1) var<storage, read_write> b: array<u32>;
    @compute @workgroup_size(64)
    fn main(@builtin(global_invocation_id) id: vec3<u32>) {
        if id.x < push.count {
            let x = a[push.start + id.x] ^ push.key;
            b[push.sink + id.x] = b[push.sink + id.x] * 5u + ((x << 7u) | (x >> 25u)) + id.x;
        }
    }";

#[derive(Debug, Clone)]
enum Step {
    Copy { from: usize, to: usize, source: u64, sink: u64, size: u64 },
    Fill { to: usize, sink: u64, size: u64, value: u32 },
    Update { to: usize, sink: u64, data: Vec<u8> },
    Mix { from: usize, to: usize, push: [u32; 4] },
}

impl Step {
    fn random(random: &mut Random) -> Self {
        let to = random.below(BUFFERS as u64) as usize;
        let from = (to + 1 + random.below(BUFFERS as u64 - 1) as usize) % BUFFERS;
        let bytes = WORDS * 4;
        match random.below(8) {
            0..3 => {
                let size = 1 + random.below(bytes / 2);
                let (source, sink) = (random.below(bytes - size), random.below(bytes - size));
                Self::Copy { from, to, source, sink, size }
            }
            3 => {
                let size = 4 * (1 + random.below(WORDS / 2));
                let sink = 4 * random.below((bytes - size) / 4 + 1);
                Self::Fill { to, sink, size, value: random.word() as u32 }
            }
            4 => {
                let size = 4 * (1 + random.below(200));
                let sink = 4 * random.below((bytes - size) / 4 + 1);
                Self::Update { to, sink, data: random.bytes(size as usize) }
            }
            _ => {
                let count = 1 + random.below(WORDS - 1);
                let (start, sink) = (random.below(WORDS - count), random.below(WORDS - count));
                let push = [start as u32, sink as u32, count as u32, random.word() as u32];
                Self::Mix { from, to, push }
            }
        }
    }

    fn record(
        &self,
        device: &ash::Device,
        cmd: vk::CommandBuffer,
        buffers: &[Buffer<'_>],
        mixers: &[Kernel<'_>],
    ) {
        unsafe {
            match self {
                Self::Copy { from, to, source, sink, size } => {
                    let copy =
                        [vk::BufferCopy { src_offset: *source, dst_offset: *sink, size: *size }];
                    let (from, to) = (*buffers[*from].handle, *buffers[*to].handle);
                    device.cmd_copy_buffer(cmd, from, to, &copy);
                }
                Self::Fill { to, sink, size, value } => {
                    device.cmd_fill_buffer(cmd, *buffers[*to].handle, *sink, *size, *value);
                }
                Self::Update { to, sink, data } => {
                    device.cmd_update_buffer(cmd, *buffers[*to].handle, *sink, data);
                }
                Self::Mix { from, to, push } => {
                    mixers[from * BUFFERS + to].bind(device, cmd, push);
                    device.cmd_dispatch(cmd, push[2].div_ceil(64), 1, 1);
                }
            }
        }
        barrier(device, cmd);
    }

    fn model(&self, memory: &mut [Vec<u8>]) {
        match self {
            Self::Copy { from, to, source, sink, size } => {
                let piece = memory[*from][*source as usize..(source + size) as usize].to_vec();
                memory[*to][*sink as usize..(sink + size) as usize].copy_from_slice(&piece);
            }
            Self::Fill { to, sink, size, value } => {
                for word in memory[*to][*sink as usize..(sink + size) as usize].chunks_mut(4) {
                    word.copy_from_slice(&value.to_le_bytes());
                }
            }
            Self::Update { to, sink, data } => {
                memory[*to][*sink as usize..][..data.len()].copy_from_slice(data);
            }
            Self::Mix { from, to, push: [start, sink, count, key] } => {
                let word = |memory: &[u8], at: u32| {
                    let at = at as usize * 4;
                    u32::from_le_bytes([memory[at], memory[at + 1], memory[at + 2], memory[at + 3]])
                };
                for i in 0..*count {
                    let x = (word(&memory[*from], start + i) ^ key).rotate_left(7);
                    let y = word(&memory[*to], sink + i).wrapping_mul(5);
                    let y = y.wrapping_add(x).wrapping_add(i);
                    let at = (sink + i) as usize * 4;
                    memory[*to][at..at + 4].copy_from_slice(&y.to_le_bytes());
                }
            }
        }
    }
}

pub(super) fn run(gpu: &Gpu, options: &Options, report: &mut Report) -> Result<()> {
    let mut random = Random(options.seed);
    let usage = vk::BufferUsageFlags::STORAGE_BUFFER
        | vk::BufferUsageFlags::TRANSFER_SRC
        | vk::BufferUsageFlags::TRANSFER_DST;
    let mut memory: Vec<_> = (0..BUFFERS).map(|_| random.bytes(WORDS as usize * 4)).collect();
    let buffers =
        memory.iter().map(|data| gpu.buffer_with(data, usage)).collect::<Result<Vec<_>>>()?;
    let mut mixers = Vec::new();
    for from in &buffers {
        for to in &buffers {
            mixers.push(gpu.kernel(MIX, &[from, to], 16)?);
        }
    }
    let pool = gpu.command_pool()?;
    let mut all = Vec::new();
    for program in 0..PROGRAMS {
        // Cut into command buffers and submits at random places; the host writes in between.
        let steps: Vec<_> = (0..STEPS).map(|_| Step::random(&mut random)).collect();
        let mut rest = &steps[..];
        while !rest.is_empty() {
            let cmds = gpu.command_buffers(
                *pool,
                vk::CommandBufferLevel::PRIMARY,
                1 + random.below(3) as u32,
            )?;
            for &cmd in &cmds {
                let length = random.below(rest.len() as u64 + 1) as usize;
                let (now, later) = rest.split_at(length);
                gpu.record(cmd, |device, cmd| {
                    for step in now {
                        step.record(device, cmd, &buffers, &mixers);
                    }
                })?;
                for step in now {
                    step.model(&mut memory);
                }
                rest = later;
            }
            let fence = gpu.fence()?;
            gpu.submit(&vk::SubmitInfo::default().command_buffers(&cmds), *fence)?;
            gpu.wait(*fence)?;
            unsafe { gpu.device.free_command_buffers(*pool, &cmds) }
            let (to, data) = (random.below(BUFFERS as u64) as usize, random.bytes(100));
            let sink = random.below(WORDS * 4 - 100);
            buffers[to].write(sink, &data);
            memory[to][sink as usize..][..100].copy_from_slice(&data);
        }
        for (index, (buffer, model)) in buffers.iter().zip(&memory).enumerate() {
            let got = buffer.bytes();
            let wrong = got.iter().zip(model).position(|(a, b)| a != b);
            ensure!(
                wrong.is_none(),
                "seed {}: after program {program}, buffer {index} differs at byte {wrong:?}; it was {steps:?}",
                options.seed
            );
            all.extend(crate::report::digest(&got).into_bytes());
        }
    }
    for model in memory {
        all.extend(model);
    }
    report.part("programs", all);
    Ok(())
}
