//! The requests of Linux' virtio-gpu driver, and the few of DRM in general that go with them.
//!
//! The structures are those of the kernel's `virtgpu_drm.h` and `drm.h`. All but [`Version`] are the same
//! for programs of 32 and of 64 bits, so that they hold addresses as numbers of 64 bits and have their
//! padding spelled out. The driver and the library that stands in for the kernel share this file.

#![allow(dead_code, reason = "each of the two uses its part")]

use asgard_asg::Shape;
use bytemuck::{Pod, Zeroable};

/// The type byte of all DRM requests.
pub(crate) const DRM: u32 = b'd' as u32;

/// Numbers of requests, without their size and direction.
pub(crate) mod number {
    pub(crate) const VERSION: u32 = 0x00;
    pub(crate) const GEM_CLOSE: u32 = 0x09;
    pub(crate) const GET_CAP: u32 = 0x0c;
    pub(crate) const PRIME_HANDLE_TO_FD: u32 = 0x2d;
    pub(crate) const PRIME_FD_TO_HANDLE: u32 = 0x2e;
    pub(crate) const MAP: u32 = 0x41;
    pub(crate) const EXECBUFFER: u32 = 0x42;
    pub(crate) const GETPARAM: u32 = 0x43;
    pub(crate) const RESOURCE_CREATE: u32 = 0x44;
    pub(crate) const RESOURCE_INFO: u32 = 0x45;
    pub(crate) const TRANSFER_FROM_HOST: u32 = 0x46;
    pub(crate) const TRANSFER_TO_HOST: u32 = 0x47;
    pub(crate) const WAIT: u32 = 0x48;
    pub(crate) const GET_CAPS: u32 = 0x49;
    pub(crate) const RESOURCE_CREATE_BLOB: u32 = 0x4a;
    pub(crate) const CONTEXT_INIT: u32 = 0x4b;
}

/// A request as programs pass it: read and write, with the size of its structure.
pub(crate) const fn request<T>(number: u32) -> u32 {
    3 << 30 | (size_of::<T>() as u32) << 16 | DRM << 8 | number
}

/// `DRM_IOCTL_VERSION`, the one whose lengths and addresses have the program's own width.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Version {
    pub(crate) major: i32,
    pub(crate) minor: i32,
    pub(crate) patchlevel: i32,
    #[cfg(target_pointer_width = "64")]
    pub(crate) pad: u32,
    /// Length and address: of the name, the date, the description.
    pub(crate) strings: [[usize; 2]; 3],
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct GemClose {
    pub(crate) handle: u32,
    pub(crate) pad: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct GetCap {
    pub(crate) capability: u64,
    pub(crate) value: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Prime {
    pub(crate) handle: u32,
    pub(crate) flags: u32,
    pub(crate) fd: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Map {
    pub(crate) offset: u64,
    pub(crate) handle: u32,
    pub(crate) pad: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct ExecBuffer {
    pub(crate) flags: u32,
    pub(crate) size: u32,
    pub(crate) command: u64,
    pub(crate) bo_handles: u64,
    pub(crate) num_bo_handles: u32,
    pub(crate) fence_fd: i32,
    pub(crate) ring_idx: u32,
    pub(crate) syncobj_stride: u32,
    pub(crate) num_in_syncobjs: u32,
    pub(crate) num_out_syncobjs: u32,
    pub(crate) in_syncobjs: u64,
    pub(crate) out_syncobjs: u64,
}

/// Flags of [`ExecBuffer`].
pub(crate) const EXEC_FENCE_FD_IN: u32 = 1;
pub(crate) const EXEC_FENCE_FD_OUT: u32 = 2;
pub(crate) const EXEC_RING_IDX: u32 = 4;

/// `value` is the address of a C int.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct GetParam {
    pub(crate) param: u64,
    pub(crate) value: u64,
}

/// What [`GetParam`] asks for.
pub(crate) mod param {
    pub(crate) const FEATURES_3D: u64 = 1;
    pub(crate) const CAPSET_QUERY_FIX: u64 = 2;
    pub(crate) const RESOURCE_BLOB: u64 = 3;
    pub(crate) const HOST_VISIBLE: u64 = 4;
    pub(crate) const CROSS_DEVICE: u64 = 5;
    pub(crate) const CONTEXT_INIT: u64 = 6;
    pub(crate) const SUPPORTED_CAPSET_IDS: u64 = 7;
    pub(crate) const EXPLICIT_DEBUG_NAME: u64 = 8;
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct ResourceCreate {
    pub(crate) shape: Shape,
    pub(crate) bo_handle: u32,
    pub(crate) res_handle: u32,
    pub(crate) size: u32,
    pub(crate) stride: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct ResourceInfo {
    pub(crate) bo_handle: u32,
    pub(crate) res_handle: u32,
    pub(crate) size: u32,
    pub(crate) blob_mem: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Transfer {
    pub(crate) bo_handle: u32,
    pub(crate) region: [u32; 6],
    pub(crate) level: u32,
    pub(crate) offset: u32,
    pub(crate) stride: u32,
    pub(crate) layer_stride: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Wait {
    pub(crate) handle: u32,
    pub(crate) flags: u32,
}

/// Flag of [`Wait`].
pub(crate) const WAIT_NOWAIT: u32 = 1;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct GetCaps {
    pub(crate) capset_id: u32,
    pub(crate) capset_version: u32,
    pub(crate) address: u64,
    pub(crate) size: u32,
    pub(crate) pad: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct CreateBlob {
    pub(crate) blob_mem: u32,
    pub(crate) blob_flags: u32,
    pub(crate) bo_handle: u32,
    pub(crate) res_handle: u32,
    pub(crate) size: u64,
    pub(crate) pad: u32,
    pub(crate) cmd_size: u32,
    pub(crate) cmd: u64,
    pub(crate) blob_id: u64,
}

/// `params` is the address of pairs of a number below and its value.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct ContextInit {
    pub(crate) num_params: u32,
    pub(crate) pad: u32,
    pub(crate) params: u64,
}

/// What [`ContextInit`] may say.
pub(crate) const CONTEXT_CAPSET_ID: u64 = 1;
pub(crate) const CONTEXT_NUM_RINGS: u64 = 2;
pub(crate) const CONTEXT_POLL_RINGS_MASK: u64 = 3;
pub(crate) const CONTEXT_DEBUG_NAME: u64 = 4;

// The kernel's sizes, for programs of either width; `Pod` vouches that nothing is padded in secret.
const _: () = {
    assert!(
        size_of::<Version>()
            == if cfg!(target_pointer_width = "64") {
                64
            } else {
                36
            }
    );
    assert!(size_of::<GemClose>() == 8);
    assert!(size_of::<GetCap>() == 16);
    assert!(size_of::<Prime>() == 12);
    assert!(size_of::<Map>() == 16);
    assert!(size_of::<ExecBuffer>() == 64);
    assert!(size_of::<GetParam>() == 16);
    assert!(size_of::<ResourceCreate>() == 56);
    assert!(size_of::<ResourceInfo>() == 16);
    assert!(size_of::<Transfer>() == 44);
    assert!(size_of::<Wait>() == 8);
    assert!(size_of::<GetCaps>() == 24);
    assert!(size_of::<CreateBlob>() == 48);
    assert!(size_of::<ContextInit>() == 16);
    // And where the kernel looks for what stands behind numbers of 32 bits.
    assert!(std::mem::offset_of!(ExecBuffer, command) == 8);
    assert!(std::mem::offset_of!(ExecBuffer, fence_fd) == 28);
    assert!(std::mem::offset_of!(ExecBuffer, in_syncobjs) == 48);
    assert!(std::mem::offset_of!(CreateBlob, size) == 16);
    assert!(std::mem::offset_of!(CreateBlob, cmd) == 32);
    assert!(std::mem::offset_of!(GetCaps, address) == 8);
    assert!(std::mem::offset_of!(ContextInit, params) == 8);
};
