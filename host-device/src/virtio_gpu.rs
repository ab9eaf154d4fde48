//! The virtio-gpu device of a virtual machine, whatever machine monitor attaches it.
//!
//! [`gpu::Gpu`] takes the driver's commands as bytes and answers with bytes; what it needs of its
//! surroundings, such as guest memory and renderer processes, is the trait [`gpu::Host`].
//! [`protocol`] has the structs of the specification (virtio 1.3, section 5.7).
//!
//! Every byte of a command is the guest's, and so is what its memory holds: it is copied once, then looked at.

pub mod edid;
pub mod gpu;
pub mod protocol;
pub mod resource;
pub mod schedule;
#[cfg(test)]
mod tests;
