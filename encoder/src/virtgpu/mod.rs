//! The way to the device, one file for each.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use asgard_asg::Mapping;
use asgard_asg::guest::Ping;

mod kumquat;

pub(crate) use kumquat::connect;

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
    Unsuited(&'static str),
}

/// A virtio-gpu device with one context of this process.
pub(crate) trait VirtGpu: Send + Sync {
    /// A new ring: its memory, initialised by the host, and how to wake the host's end.
    fn create_ring(&self) -> Result<(Arc<Mapping>, Box<dyn RingPing>), Error>;
    /// Memory that the host published under this id, as a file to map.
    fn create_blob(&self, blob_id: u64, size: u64) -> Result<Blob, Error>;
}

/// Memory of the host's that can be mapped.
#[derive(Debug)]
pub(crate) struct Blob {
    pub(crate) fd: OwnedFd,
    /// Gives the resource back.
    pub(crate) release: Release,
}

/// Gives a resource back when dropped.
pub(crate) struct Release(Option<Box<dyn FnOnce() + Send + Sync>>);

impl std::fmt::Debug for Release {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Release")
    }
}

impl Release {
    pub(crate) fn new(release: impl FnOnce() + Send + Sync + 'static) -> Self {
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
