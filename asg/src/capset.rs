//! The capability set of the Vulkan context type: what a guest reads before it does anything else.
//!
//! The first 112 bytes are what every gfxstream guest knows. Behind them Asgard's host puts
//! [`Extension`], which a guest driver that asks for more bytes finds by its magic; older guests
//! ask for fewer bytes and never see it.

use bytemuck::{Pod, Zeroable};

/// The identity of this capability set in virtio-gpu.
pub const CAPSET_ID: u32 = 3;
/// The only version there is.
pub const CAPSET_VERSION: u32 = 0;
/// Bytes of [`Capset`] on the wire.
pub const CAPSET_SIZE: usize = 112;
/// Bytes of [`Capset`] and [`Extension`] on the wire.
pub const FULL_SIZE: usize = CAPSET_SIZE + size_of::<Extension>();

// The structs below are the wire's bytes only where the machine is little-endian.
const _: () = assert!(cfg!(target_endian = "little"));
const _: () = assert!(size_of::<Capset>() == CAPSET_SIZE);

/// The part that every guest knows. A guest that is given fewer bytes takes the rest as zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Capset {
    /// Must not be 0, which would select a protocol that Linux guests cannot speak.
    pub protocol_version: u32,
    /// Bytes in front of the data buffer, at least [`crate::layout::RING_SIZE`].
    pub ring_size: u32,
    /// Bytes of the data buffer, a power of two; the ring's own configuration says the same.
    pub buffer_size: u32,
    /// Memory type that buffers and images which are shared as dma-bufs get; `u32::MAX` lets the
    /// guest find out.
    pub color_buffer_memory_index: u32,
    /// 1: one host allocation for each guest allocation. 0: guests carve up blocks that they map.
    pub deferred_mapping: u32,
    /// What blob sizes are rounded up to; 0 means 4096.
    pub blob_alignment: u32,
    /// Must be 1 for Linux guests.
    pub no_render_control_enc: u32,
    /// 1: shareable images are always created as blobs.
    pub always_blob: u32,
    /// 1: fences may be passed between contexts, if the guest's kernel can do so.
    pub external_sync: u32,
    /// Bit n stands for virgl format n.
    pub virgl_supported_formats: [u32; 16],
    /// 1: descriptor sets live in the guest, and are sent when they are submitted.
    pub vulkan_batched_descriptor_set_update: u32,
    /// 1: the host takes trace events.
    pub has_trace_async_command: u32,
    /// 1: each stream starts with a name for debugging.
    pub has_set_metadata_command: u32,
}

impl Default for Capset {
    /// What a host that serves Linux guests answers, before it knows its driver.
    fn default() -> Self {
        Self {
            protocol_version: 1,
            ring_size: crate::layout::RING_SIZE,
            buffer_size: crate::layout::DEFAULT_BUFFER_SIZE,
            color_buffer_memory_index: u32::MAX,
            deferred_mapping: 0,
            blob_alignment: 4096,
            no_render_control_enc: 1,
            always_blob: 0,
            external_sync: 0,
            virgl_supported_formats: [0; 16],
            vulkan_batched_descriptor_set_update: 1,
            has_trace_async_command: 0,
            has_set_metadata_command: 0,
        }
    }
}

/// What Asgard's host can do beyond the common protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Extension {
    /// [`crate::layout::MAGIC`].
    pub magic: u32,
    /// [`EXTENSION_VERSION`].
    pub version: u32,
    /// One bit for each feature; which there are is for those to say who know Vulkan's packets.
    pub features: u64,
}

/// Features of the device in [`Extension::features`]: the bits from 32 on.
pub mod feature {
    /// A blob that was created shareable can be imported as memory, by its number, in every context that
    /// it is attached to; and a server of Kumquat's messages knows [`crate::kumquat::RESOURCE_IMPORT`].
    pub const SHARED_MEMORY: u64 = 1 << 32;
}

/// The layout of [`Extension`] that this code writes.
pub const EXTENSION_VERSION: u32 = 1;

impl Default for Extension {
    fn default() -> Self {
        Self {
            magic: crate::layout::MAGIC,
            version: EXTENSION_VERSION,
            features: 0,
        }
    }
}

/// The bytes that the host answers with; a shorter request gets a prefix.
pub fn serialise(capset: &Capset, extension: &Extension) -> [u8; FULL_SIZE] {
    let mut bytes = [0; FULL_SIZE];
    let (head, tail) = bytes.split_at_mut(CAPSET_SIZE);
    head.copy_from_slice(bytemuck::bytes_of(capset));
    tail.copy_from_slice(bytemuck::bytes_of(extension));
    bytes
}

/// Reads what a host answered. Bytes that are missing count as zero; the extension is there only if
/// all of it is, magic and version included.
pub fn parse(bytes: &[u8]) -> (Capset, Option<Extension>) {
    let mut full = [0; FULL_SIZE];
    let present = bytes.len().min(FULL_SIZE);
    full[..present].copy_from_slice(&bytes[..present]);
    let capset = bytemuck::pod_read_unaligned(&full[..CAPSET_SIZE]);
    let extension: Extension = bytemuck::pod_read_unaligned(&full[CAPSET_SIZE..]);
    let known = present == FULL_SIZE
        && extension.magic == crate::layout::MAGIC
        && extension.version >= EXTENSION_VERSION;
    (capset, known.then_some(extension))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn fields_lie_where_guests_look_for_them() {
        assert_eq!(offset_of!(Capset, buffer_size), 8);
        assert_eq!(offset_of!(Capset, blob_alignment), 20);
        assert_eq!(offset_of!(Capset, virgl_supported_formats), 36);
        assert_eq!(
            offset_of!(Capset, vulkan_batched_descriptor_set_update),
            100
        );
        assert_eq!(offset_of!(Capset, has_set_metadata_command), 108);
        assert_eq!(FULL_SIZE, 128);
    }

    #[test]
    fn what_is_written_is_read() {
        let capset = Capset {
            color_buffer_memory_index: 7,
            ..Capset::default()
        };
        let extension = Extension {
            features: 1 << 40,
            ..Extension::default()
        };
        assert_eq!(
            parse(&serialise(&capset, &extension)),
            (capset, Some(extension))
        );
    }

    #[test]
    fn missing_bytes_are_zero_at_every_length() {
        let bytes = serialise(
            &Capset {
                has_set_metadata_command: 1,
                ..Capset::default()
            },
            &Extension::default(),
        );
        for len in 0..FULL_SIZE {
            let (capset, extension) = parse(&bytes[..len]);
            assert_eq!(extension, None);
            assert_eq!(capset.has_set_metadata_command, u32::from(len > 108));
        }
        assert_eq!(parse(&bytes[..0]).0, Capset::zeroed());
    }

    #[test]
    fn foreign_bytes_behind_the_capset_are_not_an_extension() {
        let mut bytes = serialise(&Capset::default(), &Extension::default());
        bytes[CAPSET_SIZE] ^= 1;
        assert_eq!(parse(&bytes).1, None);
    }
}
