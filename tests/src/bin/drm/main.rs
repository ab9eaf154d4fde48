//! `drm`: asks the kernel's virtio-gpu driver by its requests alone, without a Vulkan driver in between.
//!
//! It runs in a virtual machine and prints `ok` when all was as it should be.

mod blobs;
mod fences;
mod hostile;
mod node;
mod scanout;
mod transfers;
#[path = "../../../../encoder/src/virtgpu/uapi.rs"]
mod uapi;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

/// What to ask for.
#[derive(Debug, Clone, Parser)]
enum Task {
    /// Every kind of memory, alone, between processes, and in numbers.
    Blobs,
    /// Ten thousand mappings.
    Maps,
    /// Fences of rings. The renderer has to be the one that holds them back.
    Fences,
    /// Pictures between the guest's memory and the host's.
    Transfers,
    /// A picture on the display; prints its digest and stays until it is killed.
    Scanout {
        /// What holds the picture.
        kind: scanout::Kind,
    },
    /// Everything that must not be done.
    Hostile {
        /// Of the random numbers.
        seed: u64,
        /// Requests.
        count: u32,
    },
}

fn main() -> ExitCode {
    match run(&Task::parse()) {
        Ok(()) => {
            println!("ok");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("drm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: &Task) -> Result<()> {
    match task {
        Task::Blobs => blobs::run(),
        Task::Maps => blobs::again_and_again(),
        Task::Fences => fences::run(),
        Task::Transfers => transfers::run(),
        Task::Scanout { kind } => scanout::run(*kind),
        Task::Hostile { seed, count } => hostile::run(*seed, *count),
    }
}
