//! The picture in a resource, as every RESOURCE_CREATE_3D describes it.

use bytemuck::{Pod, Zeroable};

/// Ten words that the device's command, the socket's message, the small command beside the ring and the kernel's
/// request have in common. All values are the guest's.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Shape {
    /// Gallium texture target: 0 buffer, 2 two-dimensional.
    pub target: u32,
    /// virgl format.
    pub format: u32,
    /// Bind flags.
    pub bind: u32,
    /// Texels.
    pub width: u32,
    /// Texels.
    pub height: u32,
    /// Layers of a volume.
    pub depth: u32,
    /// Layers of an array.
    pub array_size: u32,
    /// Mip levels less one.
    pub last_level: u32,
    /// Samples per texel.
    pub nr_samples: u32,
    /// Resource flags.
    pub flags: u32,
}
