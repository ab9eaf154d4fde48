//! The virtio-gpu context-type device: contexts, resources, ring threads and fences.
//!
//! Whatever connects a guest (a file of [`vmm`]) turns its messages into calls of
//! [`device::Device`], which runs one thread per guest ring and hands the bytes to a renderer.
//! The `asgard` command runs that in one process per connection, see [`supervisor`].
//!
//! Every argument is the guest's: nothing in here may panic, index, over-allocate, or wait for a
//! guest where another one would notice. A mistake ends the connection or the context that made it.
//!
//! Start reading at [`device`], then [`fence`] and [`ring_thread`].

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

use std::io;

pub mod capset;
mod context;
pub mod device;
pub mod display;
pub mod fence;
pub mod link;
pub mod listener;
pub mod renderer;
pub mod resource;
pub mod ring_thread;
pub mod supervisor;
pub mod virtio_gpu;
pub mod vmm;

/// Why the device refused something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such context.
    #[error("there is no context {0}")]
    NoContext(u32),
    /// The id is taken, or is 0.
    #[error("context id {0} cannot be used")]
    ContextId(u32),
    /// There is no such resource.
    #[error("there is no resource {0}")]
    NoResource(u32),
    /// The id is taken, or is 0.
    #[error("resource id {0} cannot be used")]
    ResourceId(u32),
    /// A context named a resource that is not attached to it.
    #[error("resource {res_id} is not attached to context {ctx_id}")]
    NotAttached {
        /// The context.
        ctx_id: u32,
        /// The resource.
        res_id: u32,
    },
    /// The resource was not made for a ring, or has one already.
    #[error("resource {0} cannot become a ring")]
    NotForRing(u32),
    /// A ping for a resource without a ring.
    #[error("resource {0} has no ring")]
    NoRing(u32),
    /// There is no such capset, or not in that version.
    #[error("there is no capset {id} version {version}")]
    NoCapset {
        /// The id.
        id: u32,
        /// The version.
        version: u32,
    },
    /// A size that cannot be.
    #[error("{size} bytes is no size for {what}")]
    Size {
        /// Of what.
        what: &'static str,
        /// Bytes.
        size: u64,
    },
    /// The guest has as much as it may have.
    #[error("the limit of {limit} {what} is reached")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How much it may have.
        limit: u64,
    },
    /// The kernel gave no memory.
    #[error("cannot allocate {size} bytes: {source}")]
    Memory {
        /// Bytes.
        size: u64,
        /// Why.
        source: io::Error,
    },
    /// The kernel gave no thread.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// A submitted command that this device has not.
    #[error("submitted command is not supported: {0}")]
    Unsupported(&'static str),
    /// A submitted command that cannot be read.
    #[error(transparent)]
    Command(#[from] asgard_asg::submit::Error),
    /// The ring could not be set up.
    #[error("ring: {0}")]
    Ring(#[from] asgard_asg::Error),
    /// The renderer refused.
    #[error(transparent)]
    Renderer(#[from] asgard_decoder::Error),
}
