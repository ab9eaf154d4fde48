//! The ways to the device, one file for each.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use asgard_asg::Mapping;
use asgard_asg::capset::{Capset, Extension};
use asgard_asg::guest::Ping;
use asgard_asg::submit::Command;
use memmap2::{MmapOptions, MmapRaw};

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
}

/// A virtio-gpu device with one context of this process.
pub(crate) trait VirtGpu: Send + Sync {
    /// What the host says about itself.
    fn host(&self) -> &Host;
    /// A new ring, initialised by the host.
    fn create_ring(&self) -> Result<Ring, Error>;
    /// Memory that the host published under this id. Only what is `shared` can be exported.
    fn create_blob(&self, blob_id: u64, size: u64, shared: bool) -> Result<Blob, Error>;
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
    size: u64,
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

/// The bytes of a small command.
fn payload(command: &Command) -> Vec<u8> {
    let mut bytes = Vec::new();
    command.write(&mut bytes);
    bytes
}
