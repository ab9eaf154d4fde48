//! What the device asks of a renderer, and the two renderers there are.
//!
//! [`vulkan`] is the real one, a thin wrapper of `asgard-decoder`.
//! [`null`] needs no Vulkan driver: it echoes every byte and allocates plain memory, which is
//! enough to test and to measure everything in front of the decoder.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use asgard_decoder::{Blob, Error, Features, Limits, Replies, Stats};

pub mod null;
pub mod vulkan;

/// A renderer, one per process.
pub trait Renderer: Send + Sync + fmt::Debug {
    /// Which device guests see.
    fn describe(&self) -> Description;
    /// Capset field `colorBufferMemoryIndex`.
    fn color_buffer_memory_index(&self, as_upstream: bool) -> u32;
    /// A new, empty context.
    fn create_context(&self, name: &str, limits: Limits) -> Arc<dyn Context>;
}

/// What people want to know about a renderer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The device's name.
    pub device: String,
    /// The driver's name.
    pub driver: String,
    /// The Vulkan version, such as 1.3.305; empty without Vulkan.
    pub api_version: String,
    /// It computes on the processor.
    pub software: bool,
    /// Guests can map memory of it.
    pub can_share_memory: bool,
    /// Its device extensions, each with the reason if guests do not see it.
    pub extensions: Vec<(String, Option<String>)>,
}

/// The renderer's side of one guest process.
pub trait Context: Send + Sync + fmt::Debug {
    /// The decoder of one more guest thread.
    fn open_stream(&self) -> Box<dyn Stream>;
    /// Hands over the memory published under `blob_id`, once.
    fn take_blob(&self, blob_id: u64) -> Result<Blob, Error>;
    /// Makes memory that the device allocated known to the guest process under a resource id.
    fn add_resource(&self, res_id: u32, memory: OwnedFd, size: u64);
    /// The resource is no longer attached to this context.
    fn remove_resource(&self, res_id: u32);
    /// Calls `done` once the VkFence or VkSemaphore behind the token signals, or the context dies.
    fn when_signaled(
        &self,
        device: u64,
        fence_or_semaphore: u64,
        done: Box<dyn FnOnce() + Send>,
    ) -> Result<(), Error>;
    /// Why this context is dead, if it is.
    fn error(&self) -> Option<String>;
    /// Marks the context dead: every stream stops at its next step, and waits end.
    fn poison(&self, why: &str);
    /// What went through so far.
    fn stats(&self) -> Stats;
    /// Destroys everything. Comes after the last stream is dropped; may wait for the driver.
    fn close(&self);
}

/// The decoder of one guest thread's bytes.
pub trait Stream: Send {
    /// Where the ring's bytes go.
    fn input(&mut self) -> &mut Vec<u8>;
    /// Executes every complete packet of the input.
    fn run(&mut self, replies: &mut dyn Replies) -> Result<(), Error>;
}
