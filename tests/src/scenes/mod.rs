//! The workloads: each is one file, and an ordinary Vulkan program.
//!
//! A workload checks what it can against a model on the CPU, and puts every byte that the device computed into its [`Report`].
//! It must be deterministic: no times, no addresses, no contents of fresh memory.

use std::path::PathBuf;

use anyhow::Result;

use crate::gpu::Gpu;
use crate::report::Report;

/// Calls a macro with the name and a line about every workload.
#[macro_export]
macro_rules! for_each_scene {
    ($callback:ident) => {
        $callback! {
            graphics "a textured, lit scene with a render pass and with dynamic rendering",
            compute "integer reduction of 64 MiB, specialization constants, indirect dispatch",
            matrix "products of matrices in shared memory of workgroups, against the processor's",
            floats "functions of numbers with a fraction, against the processor's",
            transfer "copies, blits, clears, fills and updates at odd offsets and sizes",
            host_copies "copies between images and memory that the host makes without a queue",
            queries "occlusion, pipeline statistics, order of timestamps, resets by the host",
            events "events between host and device, and between commands",
            fences "fences and chains of binary semaphores",
            timeline "timeline semaphores between host and device",
            secondary "secondary command buffers for compute, render passes and dynamic rendering",
            again "the same commands recorded again and again, while what they work on changes",
            indirect "indirect, multi-draw and counted draws",
            push_constants "push constants in pieces and for several stages",
            descriptors "descriptor writes, copies, reuse, dynamic offsets, images, updates after binding",
            descriptor_buffers "descriptors that lie in memory of the program's own",
            templates "descriptor update templates, push descriptors",
            inline_uniforms "inline uniform blocks",
            pipeline_cache "a pipeline cache written out, read back and merged",
            attachments "mip levels, layers, imageless framebuffers, several attachments, multiview",
            msaa "multisampling, resolved by a pass and by a command",
            sparse "sparse buffers and images",
            rays "acceleration structures: built, copied, refitted; traced by queries and by a pipeline",
            threads "threads with objects of their own on one queue",
            queues "two queues, or one from two sides",
            memory "allocations: mapped again, divided, large, many, again and again",
            host_pointers "memory of the program's own that becomes the device's, and its own again",
            stress "random programs of copies and dispatches against a model",
        }
    };
}

/// What the command line may change.
#[derive(Debug, Clone)]
pub struct Options {
    /// Frames to draw, for workloads that animate.
    pub frames: u32,
    /// Threads, for workloads that use them.
    pub threads: u32,
    /// Seed of the random workloads.
    pub seed: u64,
    /// Where a picture goes, for workloads that make one.
    pub png: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            frames: 1,
            threads: 4,
            seed: 1,
            png: None,
        }
    }
}

/// A workload.
#[derive(Debug, Clone, Copy)]
pub struct Scene {
    /// What the command line calls it.
    pub name: &'static str,
    /// What it exercises.
    pub about: &'static str,
    /// Runs it.
    pub run: fn(&Gpu, &Options, &mut Report) -> Result<()>,
}

macro_rules! scenes {
    ($($name:ident $about:literal,)*) => {
        $(mod $name;)*

        /// All workloads.
        pub const SCENES: &[Scene] = &[
            $(Scene { name: stringify!($name), about: $about, run: $name::run },)*
        ];
    };
}

for_each_scene!(scenes);

pub(crate) use graphics::frames_per_second;
pub(crate) use matrix::Product;

/// A workload by name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Scene> {
    SCENES.iter().find(|scene| scene.name == name)
}

/// A small random number generator (splitmix64): the same numbers everywhere.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.word() % end
    }

    /// A number from 0 to 1.
    pub fn unit(&mut self) -> f32 {
        (self.word() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// That many random bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(count + 8);
        while out.len() < count {
            out.extend(self.word().to_le_bytes());
        }
        out.truncate(count);
        out
    }
}
