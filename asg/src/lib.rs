//! What both ends of a stream agree on about shared memory: the layout of the ring blob, single
//! producer single consumer rings, transfers, notification, and the capability set that sizes it all.
//!
//! The host device starts one [`host::HostChannel`] per guest thread; a guest driver owns the
//! matching [`guest::GuestChannel`]. Nothing else touches the memory of a ring.
//!
//! This crate knows no Vulkan and no virtio, never hands out a reference to bytes that the other
//! side can write, and believes no word that the peer wrote: positions, sizes and offsets are checked,
//! own positions are kept privately, and every wait is bounded or can be interrupted.
//!
//! Start reading at [`layout`] (what lies where), then [`ring`] (how bytes move), then [`host`].

pub mod capset;
pub mod doorbell;
pub mod guest;
pub mod host;
pub mod kumquat;
pub mod layout;
pub mod mapping;
pub mod ring;
pub mod shape;
pub mod submit;

pub use mapping::Mapping;
pub use shape::Shape;

/// What can go wrong on a ring.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused something.
    #[error("system call failed: {0}")]
    Io(#[from] rustix::io::Errno),
    /// The file could be shrunk by its sender, and touching it would then kill this process.
    #[error("shared memory is not sealed against shrinking")]
    Unsealed,
    /// An access or a mapping reaches behind the end of the memory.
    #[error("{len} bytes at {offset} lie outside of {size} bytes of shared memory")]
    OutOfBounds {
        /// Where the access starts.
        offset: u64,
        /// How long it is.
        len: u64,
        /// How much there is.
        size: u64,
    },
    /// The ring cannot have this buffer size or flush interval.
    #[error("buffer of {buffer_size} bytes with steps of {flush_interval} is not a valid ring")]
    Config {
        /// Bytes of the data buffer.
        buffer_size: u32,
        /// Bytes of one step.
        flush_interval: u32,
    },
    /// The peer wrote something that no correct peer writes.
    #[error("the peer lied about {what}: {value}")]
    Lied {
        /// Which word.
        what: &'static str,
        /// What it said.
        value: u32,
    },
    /// The owner asked this end to stop.
    #[error("the ring was stopped")]
    Stopped,
    /// The state word says that the other end has left.
    #[error("the peer has left the ring")]
    Exited,
    /// The ring is marked as failed.
    #[error("the ring has failed")]
    Failed,
    /// The process at the other end is gone.
    #[error("the peer is disconnected")]
    Disconnected,
}

/// The result of a ring operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;
