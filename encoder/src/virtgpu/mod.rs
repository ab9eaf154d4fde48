//! The ways to the device, one file for each.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use asgard_asg::Mapping;
use asgard_asg::capset::{Capset, Extension, feature};
use asgard_asg::guest::Ping;
use asgard_asg::submit::Command;
use memmap2::{MmapOptions, MmapRaw};
use rustix::event::{PollFd, PollFlags, Timespec};

mod drm;
mod kumquat;
mod uapi;

/// Names the render node to use, before everything else.
const NODE: &str = "ASGARD_RENDER_NODE";
/// Names the socket of a renderer on this machine.
const SOCKET: &str = "ASGARD_KUMQUAT_SOCKET";

/// RESOURCE_CREATE_BLOB: memory of the host's.
const HOST3D: u32 = 2;

/// Why the device cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It is not there.
    #[error("there is no renderer: {0}")]
    Absent(String),
    /// It was there.
    #[error("the connection to the renderer is lost: {0}")]
    Lost(String),
    /// It does not serve what is needed.
    #[error("the renderer does not serve gfxstream's Vulkan: {0}")]
    Unsuited(String),
    /// It does, but not this.
    #[error("the device refuses: {0}")]
    Refused(String),
}

/// What the host says about itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Host {
    pub(crate) capset: Capset,
    /// What it can do beyond the common protocol; nothing if it is not Asgard's.
    pub(crate) extension: Option<Extension>,
}

impl Host {
    /// Reads a capability set.
    fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let (capset, extension) = asgard_asg::capset::parse(bytes);
        if capset.protocol_version == 0 {
            return Err(Error::Unsuited("its capability set is empty".into()));
        }
        Ok(Self { capset, extension })
    }

    /// Memory can be exported, and imported elsewhere.
    pub(crate) fn shares_memory(&self) -> bool {
        self.extension
            .is_some_and(|extension| extension.features & feature::SHARED_MEMORY != 0)
    }
}

/// A virtio-gpu device with one context of this process.
pub(crate) trait VirtGpu: Send + Sync {
    /// What the host says about itself.
    fn host(&self) -> &Host;
    /// Whether what [`Self::export`] gives is a dma-buf.
    fn has_dma_bufs(&self) -> bool;
    /// A new ring, initialised by the host.
    fn create_ring(&self) -> Result<Ring, Error>;
    /// Memory that the host published under this id. Only what is `shared` can be exported.
    fn create_blob(&self, blob_id: u64, size: u64, shared: bool) -> Result<Blob, Error>;
    /// A file by which others import the memory.
    fn export(&self, blob: &Blob) -> Result<OwnedFd, Error>;
    /// Memory that this process or another has exported.
    fn import(&self, file: BorrowedFd<'_>) -> Result<Blob, Error>;
    /// A file that becomes readable when what the command names has happened. Files of one timeline do so in
    /// the order in which they were made.
    fn sync_file(&self, command: &Command, timeline: u64) -> Result<OwnedFd, Error>;
}

/// Connects to the device that the environment names, or else to the first that this machine has, and
/// makes a context with this name.
pub(crate) fn connect(name: &[u8]) -> Result<Arc<dyn VirtGpu>, Error> {
    let named = |variable| {
        std::env::var_os(variable)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(node) = named(NODE) {
        return drm::open(&node, name);
    }
    if let Some(socket) = named(SOCKET) {
        return kumquat::connect(&socket, name);
    }
    drm::find(name).map_err(|why| Error::Absent(format!("{SOCKET} names no socket, and {why}")))
}

/// The memory of a ring, and how to wake the host's end.
pub(crate) struct Ring {
    pub(crate) memory: Arc<Mapping>,
    pub(crate) ping: Box<dyn RingPing>,
    /// The host runs under the same kernel, so that both ends can wake each other through shared words.
    pub(crate) same_kernel: bool,
}

/// Memory of the host's that can be mapped.
#[derive(Debug)]
pub(crate) struct Blob {
    /// The host's name for it.
    pub(crate) resource_id: u32,
    /// The kernel's name for it, if it is a kernel's.
    handle: u32,
    pub(crate) size: u64,
    /// What to map; none once it is mapped and cannot be shared.
    file: Option<Arc<OwnedFd>>,
    /// Where the memory lies in that file.
    offset: u64,
    _release: Release,
}

impl Blob {
    /// Maps all of it.
    pub(crate) fn map(&self) -> std::io::Result<MmapRaw> {
        let file = self.file.as_ref().ok_or(rustix::io::Errno::BADF)?;
        let len = usize::try_from(self.size).map_err(|_| rustix::io::Errno::NOMEM)?;
        MmapOptions::new()
            .offset(self.offset)
            .len(len)
            .map_raw(file)
    }

    /// It will not be mapped or exported any more: programs have few descriptors.
    pub(crate) fn close_file(&mut self) {
        self.file = None;
    }
}

/// Gives a resource back when dropped.
pub(crate) struct Release(Option<Box<dyn FnOnce() + Send + Sync>>);

impl std::fmt::Debug for Release {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Release")
    }
}

impl Release {
    fn new(release: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self(Some(Box::new(release)))
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        if let Some(release) = self.0.take() {
            release();
        }
    }
}

/// Wakes the host's end of a ring, and ends the ring when dropped.
pub(crate) trait RingPing: Ping + Send {}

impl Ping for Box<dyn RingPing> {
    fn ping(&mut self) -> asgard_asg::Result<()> {
        (**self).ping()
    }
    fn peer_alive(&mut self) -> bool {
        (**self).peer_alive()
    }
}

/// Whether a sync file has signalled.
fn is_readable(file: &OwnedFd) -> bool {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(file, PollFlags::IN)];
    let ready = rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, Some(&now)));
    // One that cannot be asked will not signal later either.
    ready != Ok(0)
}

/// Bytes of memory that somebody sends as a file.
fn size_of_file(file: BorrowedFd<'_>) -> u64 {
    // Not by its status: that of a dma-buf does not tell.
    rustix::fs::seek(file, rustix::fs::SeekFrom::End(0)).unwrap_or(0)
}

/// The number of a timeline's ring at the device. The first two have uses of their own: 0 for work without an
/// order, and 1 for what is done at once.
fn ring_of(timeline: u64) -> u8 {
    const FIRST: u64 = 2;
    match timeline {
        0 => 0,
        // The rest of the division is a small number.
        other => (FIRST + other % (RINGS - FIRST)) as u8,
    }
}

/// How many rings a context has; Linux' virtio-gpu driver makes no more.
const RINGS: u64 = 64;

/// The bytes of a small command.
fn payload(command: &Command) -> Vec<u8> {
    let mut bytes = Vec::new();
    command.write(&mut bytes);
    bytes
}
