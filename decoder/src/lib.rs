//! The host renderer: gfxstream bytes in, driver calls and reply bytes out.
//!
//! The host device owns one [`Renderer`] per process, one [`Context`] per guest process and one
//! [`Stream`] per guest thread.
//! It knows neither rings nor virtio: bytes come from whoever calls [`Stream::run`].
//! Nothing a guest controls may panic, index, over-allocate or block for ever in here.
//! Start reading at [`Stream::run`]; what a command does beyond its plain driver call is in
//! `vulkan/`, one file for each Vulkan object.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

use std::os::fd::OwnedFd;

mod context;
mod driver;
mod error;
mod extension;
mod memory_types;
mod objects;
mod recording;
mod renderer;
mod sequence;
mod signal;
mod status_page;
mod stream;
mod vulkan;

pub use asgard_protocol::extension::Features;
pub use context::Context;
pub use driver::GetInstanceProcAddr;
pub use error::Error;
pub use renderer::Renderer;
pub use stream::Stream;
pub use vulkan::{HIDDEN_EXTENSIONS, VM_EXTENSIONS};

/// What one context may use.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of Vulkan memory that guests can map.
    pub memory: u64,
    /// Live objects.
    pub objects: u32,
    /// What guests may use of Asgard's own part of the wire.
    pub features: Features,
    /// Inline uniform blocks are shown to every guest, and not only to those that say they can send them.
    pub inline_uniform_blocks: bool,
    /// Behave as upstream's host: show what it shows, and refuse what it does not know.
    /// For tests of guest drivers.
    pub as_upstream: bool,
    /// Every command is answered with a lost device, and none reaches the driver.
    pub lost: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: u64::MAX,
            objects: 1 << 22,
            features: Features::ALL,
            inline_uniform_blocks: true,
            as_upstream: false,
            lost: false,
        }
    }
}

/// Memory that the guest may map: `MAP_BLOB` and Kumquat hand out its file descriptor.
#[derive(Debug)]
pub struct Blob {
    /// A memfd (or dma-buf) of at least `size` bytes, ours to give away.
    pub fd: OwnedFd,
    /// Bytes.
    pub size: u64,
    /// virtio-gpu `map_info`: 1 cached, 2 uncached, 3 write-combined.
    pub map_info: u32,
}

/// What went through a context so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Packets decoded, staged command-buffer commands not counted.
    pub packets: u64,
    /// Packets that were answered: each costs its guest a round trip.
    pub answers: u64,
    /// Staged command-buffer commands decoded.
    pub staged_commands: u64,
    /// Bytes from the guest.
    pub bytes_in: u64,
    /// Reply bytes.
    pub bytes_out: u64,
    /// vkQueueSubmit and vkQueueSubmit2 calls.
    pub submits: u64,
    /// What the guest uses of Asgard's own part of the wire.
    pub features: Features,
}

/// Takes reply bytes, in order.
pub trait Replies {
    /// Sends all of `bytes`.
    ///
    /// # Errors
    /// [`Error::Disconnected`] when nobody will ever read them.
    fn send(&mut self, bytes: &[u8]) -> Result<(), Error>;
}
