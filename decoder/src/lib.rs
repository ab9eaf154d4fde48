//! The host renderer: gfxstream bytes in, driver calls and reply bytes out.
//!
//! The host device owns one [`Renderer`] per process, one [`Context`] per guest process and one
//! [`Stream`] per guest thread.
//! It knows neither rings nor virtio: bytes come from whoever calls [`Stream::run`].
//! Nothing a guest controls may panic, index, over-allocate or block for ever in here.

use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Why a context stopped working, or could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No usable Vulkan driver on this machine.
    #[error("no Vulkan driver: {0}")]
    NoDriver(String),
    /// The guest asked for a blob that its context did not publish.
    #[error("blob {0} was not published by this context")]
    NoBlob(u64),
    /// The far side of the reply channel is gone.
    #[error("the guest went away")]
    Disconnected,
}

/// What one context may use.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of Vulkan memory.
    pub memory: u64,
    /// Live objects.
    pub objects: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory: u64::MAX, objects: 1 << 20 }
    }
}

/// The host's Vulkan driver, loaded once per process.
#[derive(Debug)]
pub struct Renderer {}

impl Renderer {
    /// Loads the Vulkan loader and picks the physical device that guests see.
    pub fn load() -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self {}))
    }
    /// `VkPhysicalDeviceProperties::deviceName` of that device.
    pub fn device_name(&self) -> &str {
        ""
    }
    /// Capset field `colorBufferMemoryIndex`.
    pub fn color_buffer_memory_index(&self) -> u32 {
        u32::MAX
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
    /// Staged command-buffer commands decoded.
    pub staged_commands: u64,
    /// Bytes from the guest.
    pub bytes_in: u64,
    /// Reply bytes.
    pub bytes_out: u64,
    /// vkQueueSubmit and vkQueueSubmit2 calls.
    pub submits: u64,
}

/// Takes reply bytes, in order.
pub trait Replies {
    /// Sends all of `bytes`; [`Error::Disconnected`] when nobody will ever read them.
    fn send(&mut self, bytes: &[u8]) -> Result<(), Error>;
}

/// One guest process: its objects, its sequence counter, its limits.
#[derive(Debug)]
pub struct Context {}

impl Context {
    /// A new, empty context.
    pub fn new(_renderer: Arc<Renderer>, _name: &str, _limits: Limits) -> Arc<Self> {
        Arc::new(Self {})
    }
    /// The decoder of one more guest thread.
    pub fn open_stream(self: &Arc<Self>) -> Stream {
        Stream { input: Vec::new() }
    }
    /// Hands over the memory published under `blob_id`; each id can be taken once.
    pub fn take_blob(&self, blob_id: u64) -> Result<Blob, Error> {
        Err(Error::NoBlob(blob_id))
    }
    /// Calls `done` once the VkFence or VkSemaphore behind the token signals (0xa000), or the context dies.
    pub fn when_signaled(&self, _device: u64, _fence_or_semaphore: u64, done: Box<dyn FnOnce() + Send>) -> Result<(), Error> {
        done();
        Ok(())
    }
    /// Why this context is dead, if it is.
    pub fn error(&self) -> Option<String> {
        None
    }
    /// Marks the context dead: every stream stops with an error at its next step, and waits end.
    pub fn poison(&self, _why: &str) {}
    /// What went through so far.
    pub fn stats(&self) -> Stats {
        Stats::default()
    }
    /// Ends the context: poisons it, waits for the device, destroys every host object. Call after all streams are dropped.
    pub fn close(&self) {}
}

/// The decoder of one guest thread's byte stream.
#[derive(Debug)]
pub struct Stream {
    input: Vec<u8>,
}

impl Stream {
    /// Where the ring's bytes go: append, then call [`Stream::run`].
    pub fn input(&mut self) -> &mut Vec<u8> {
        &mut self.input
    }
    /// Executes every complete packet of the input; an incomplete one stays for the next call.
    /// An error has poisoned the context.
    pub fn run(&mut self, _replies: &mut dyn Replies) -> Result<(), Error> {
        self.input.clear();
        Ok(())
    }
}
