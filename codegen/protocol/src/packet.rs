//! Packets: `u32 opcode | u32 size | [u32 sequence number] | parameters`, size included.

use crate::wire::{Command, Writer};

/// Bytes of opcode and size.
pub const HEADER: usize = 8;

/// The largest packet a peer may announce.
pub const MAX: usize = 400 << 20;

/// A packet's first two words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Which command.
    pub opcode: u32,
    /// Bytes, these eight included.
    pub size: u32,
}

impl Header {
    /// Reads a header; none when there are fewer than eight bytes.
    #[inline]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (head, _) = bytes.split_first_chunk::<HEADER>()?;
        let [a, b, c, d, e, f, g, h] = *head;
        Some(Self {
            opcode: u32::from_le_bytes([a, b, c, d]),
            size: u32::from_le_bytes([e, f, g, h]),
        })
    }
}

/// Appends one packet; a command on a command buffer has no sequence number.
///
/// # Safety
/// The command's pointers are valid for what its counts say, as a Vulkan driver would demand.
pub unsafe fn encode<C: Command>(command: &C, sequence: u32, w: &mut Writer<'_>) {
    let start = w.len();
    w.u32(C::OPCODE);
    w.u32(0);
    if !C::ON_COMMAND_BUFFER {
        w.u32(sequence);
    }
    // SAFETY: the caller's promise.
    unsafe { command.encode_request(w) };
    w.patch_size(start);
}
