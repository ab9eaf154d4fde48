//! The structs and numbers of the virtio specification 1.3, section 5.7.6, little endian.

#![allow(
    missing_docs,
    reason = "names and meanings are those of the specification"
)]

use asgard_asg::Shape;
use bytemuck::{Pod, Zeroable};

/// Feature bits, section 5.7.3.
pub mod feature {
    pub const VIRGL: u64 = 1 << 0;
    pub const EDID: u64 = 1 << 1;
    pub const RESOURCE_UUID: u64 = 1 << 2;
    pub const RESOURCE_BLOB: u64 = 1 << 3;
    pub const CONTEXT_INIT: u64 = 1 << 4;
    /// All that this device has.
    pub const ALL: u64 = VIRGL | EDID | RESOURCE_UUID | RESOURCE_BLOB | CONTEXT_INIT;
}

/// The shared memory region that host-visible blobs are mapped into.
pub const SHM_HOST_VISIBLE: u8 = 1;
/// The most scanouts that a device may have.
pub const MAX_SCANOUTS: usize = 16;
/// Rings of one context.
pub const MAX_RINGS: u8 = 64;
/// Bytes of an EDID in its response.
pub const MAX_EDID: usize = 1024;

/// The configuration space, section 5.7.4.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Config {
    pub events_read: u32,
    pub events_clear: u32,
    pub num_scanouts: u32,
    pub num_capsets: u32,
}

/// In [`Config::events_read`]: the displays have changed.
pub const EVENT_DISPLAY: u32 = 1;

/// Command types.
pub mod cmd {
    pub const GET_DISPLAY_INFO: u32 = 0x100;
    pub const RESOURCE_CREATE_2D: u32 = 0x101;
    pub const RESOURCE_UNREF: u32 = 0x102;
    pub const SET_SCANOUT: u32 = 0x103;
    pub const RESOURCE_FLUSH: u32 = 0x104;
    pub const TRANSFER_TO_HOST_2D: u32 = 0x105;
    pub const RESOURCE_ATTACH_BACKING: u32 = 0x106;
    pub const RESOURCE_DETACH_BACKING: u32 = 0x107;
    pub const GET_CAPSET_INFO: u32 = 0x108;
    pub const GET_CAPSET: u32 = 0x109;
    pub const GET_EDID: u32 = 0x10a;
    pub const RESOURCE_ASSIGN_UUID: u32 = 0x10b;
    pub const RESOURCE_CREATE_BLOB: u32 = 0x10c;
    pub const SET_SCANOUT_BLOB: u32 = 0x10d;
    pub const CTX_CREATE: u32 = 0x200;
    pub const CTX_DESTROY: u32 = 0x201;
    pub const CTX_ATTACH_RESOURCE: u32 = 0x202;
    pub const CTX_DETACH_RESOURCE: u32 = 0x203;
    pub const RESOURCE_CREATE_3D: u32 = 0x204;
    pub const TRANSFER_TO_HOST_3D: u32 = 0x205;
    pub const TRANSFER_FROM_HOST_3D: u32 = 0x206;
    pub const SUBMIT_3D: u32 = 0x207;
    pub const RESOURCE_MAP_BLOB: u32 = 0x208;
    pub const RESOURCE_UNMAP_BLOB: u32 = 0x209;
    pub const UPDATE_CURSOR: u32 = 0x300;
    pub const MOVE_CURSOR: u32 = 0x301;
}

/// Response types.
pub mod resp {
    pub const OK_NODATA: u32 = 0x1100;
    pub const OK_DISPLAY_INFO: u32 = 0x1101;
    pub const OK_CAPSET_INFO: u32 = 0x1102;
    pub const OK_CAPSET: u32 = 0x1103;
    pub const OK_EDID: u32 = 0x1104;
    pub const OK_RESOURCE_UUID: u32 = 0x1105;
    pub const OK_MAP_INFO: u32 = 0x1106;
    pub const ERR_UNSPEC: u32 = 0x1200;
    pub const ERR_OUT_OF_MEMORY: u32 = 0x1201;
    pub const ERR_INVALID_SCANOUT_ID: u32 = 0x1202;
    pub const ERR_INVALID_RESOURCE_ID: u32 = 0x1203;
    pub const ERR_INVALID_CONTEXT_ID: u32 = 0x1204;
    pub const ERR_INVALID_PARAMETER: u32 = 0x1205;
}

/// In [`Header::flags`]: answer when the work is done.
pub const FLAG_FENCE: u32 = 1;
/// In [`Header::flags`]: the fence is on the timeline [`Header::ring_idx`] of the context.
pub const FLAG_RING_IDX: u32 = 2;

/// What each command and each response begins with.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Header {
    pub kind: u32,
    pub flags: u32,
    pub fence_id: u64,
    pub ctx_id: u32,
    pub ring_idx: u8,
    pub padding: [u8; 3],
}

/// Bytes of [`Header`].
pub const HEADER: usize = size_of::<Header>();

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Rect {
    pub x: u32,
    pub y: u32,
    pub width: u32,
    pub height: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct DisplayOne {
    pub rect: Rect,
    pub enabled: u32,
    pub flags: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct ResourceCreate2d {
    pub resource_id: u32,
    pub format: u32,
    pub width: u32,
    pub height: u32,
}

/// RESOURCE_UNREF, RESOURCE_DETACH_BACKING, RESOURCE_ASSIGN_UUID, RESOURCE_UNMAP_BLOB, CTX_ATTACH_RESOURCE
/// and CTX_DETACH_RESOURCE.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct ResourceId {
    pub resource_id: u32,
    pub padding: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct SetScanout {
    pub rect: Rect,
    pub scanout_id: u32,
    pub resource_id: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct ResourceFlush {
    pub rect: Rect,
    pub resource_id: u32,
    pub padding: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct TransferToHost2d {
    pub rect: Rect,
    pub offset: u64,
    pub resource_id: u32,
    pub padding: u32,
}

/// `nr_entries` of [`MemEntry`] follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct AttachBacking {
    pub resource_id: u32,
    pub nr_entries: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct MemEntry {
    pub addr: u64,
    pub length: u32,
    pub padding: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct GetCapsetInfo {
    pub capset_index: u32,
    pub padding: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct CapsetInfo {
    pub capset_id: u32,
    pub capset_max_version: u32,
    pub capset_max_size: u32,
    pub padding: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct GetCapset {
    pub capset_id: u32,
    pub capset_version: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct GetEdid {
    pub scanout: u32,
    pub padding: u32,
}

/// [`MAX_EDID`] bytes follow in the response.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct RespEdid {
    pub size: u32,
    pub padding: u32,
}

/// `nr_entries` of [`MemEntry`] follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct ResourceCreateBlob {
    pub resource_id: u32,
    pub blob_mem: u32,
    pub blob_flags: u32,
    pub nr_entries: u32,
    pub blob_id: u64,
    pub size: u64,
}

pub const BLOB_MEM_GUEST: u32 = 1;
pub const BLOB_MEM_HOST3D: u32 = 2;
pub const BLOB_MEM_HOST3D_GUEST: u32 = 3;
pub const BLOB_FLAG_MAPPABLE: u32 = 1;
pub const BLOB_FLAG_SHAREABLE: u32 = 2;
pub const BLOB_FLAG_CROSS_DEVICE: u32 = 4;

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct SetScanoutBlob {
    pub rect: Rect,
    pub scanout_id: u32,
    pub resource_id: u32,
    pub width: u32,
    pub height: u32,
    pub format: u32,
    pub padding: u32,
    pub strides: [u32; 4],
    pub offsets: [u32; 4],
}

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct CtxCreate {
    pub nlen: u32,
    /// The capset id in the low byte.
    pub context_init: u32,
    pub debug_name: [u8; 64],
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct ResourceCreate3d {
    pub resource_id: u32,
    pub shape: Shape,
    pub padding: u32,
}

/// x, y, z, then width, height, depth.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Cube {
    pub x: u32,
    pub y: u32,
    pub z: u32,
    pub w: u32,
    pub h: u32,
    pub d: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Transfer3d {
    pub region: Cube,
    pub offset: u64,
    pub resource_id: u32,
    pub level: u32,
    pub stride: u32,
    pub layer_stride: u32,
}

/// `size` bytes follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Submit3d {
    pub size: u32,
    pub padding: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct MapBlob {
    pub resource_id: u32,
    pub padding: u32,
    pub offset: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct MapInfo {
    pub map_info: u32,
    pub padding: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct UpdateCursor {
    pub scanout_id: u32,
    pub x: u32,
    pub y: u32,
    pub padding: u32,
    pub resource_id: u32,
    pub hot_x: u32,
    pub hot_y: u32,
    pub padding2: u32,
}

/// Where red, green, blue and alpha lie in a texel of a format; alpha is `None` where there is none.
pub fn channels(format: u32) -> Option<([usize; 3], Option<usize>)> {
    Some(match format {
        1 => ([2, 1, 0], Some(3)),
        2 => ([2, 1, 0], None),
        3 => ([1, 2, 3], Some(0)),
        4 => ([1, 2, 3], None),
        67 => ([0, 1, 2], Some(3)),
        68 => ([3, 2, 1], None),
        121 => ([3, 2, 1], Some(0)),
        134 => ([0, 1, 2], None),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use virtio_bindings::virtio_gpu as spec;

    #[test]
    fn structs_are_as_long_as_the_kernels() {
        macro_rules! same {
            ($($ours:ty, $theirs:ident, $headers:expr;)*) => {$(
                assert_eq!(size_of::<$ours>() + $headers * HEADER, size_of::<spec::$theirs>(), stringify!($ours));
            )*};
        }
        same! {
            Header, virtio_gpu_ctrl_hdr, 0;
            Config, virtio_gpu_config, 0;
            DisplayOne, virtio_gpu_resp_display_info_virtio_gpu_display_one, 0;
            ResourceCreate2d, virtio_gpu_resource_create_2d, 1;
            ResourceId, virtio_gpu_resource_unref, 1;
            ResourceId, virtio_gpu_ctx_resource, 1;
            ResourceId, virtio_gpu_resource_unmap_blob, 1;
            SetScanout, virtio_gpu_set_scanout, 1;
            ResourceFlush, virtio_gpu_resource_flush, 1;
            TransferToHost2d, virtio_gpu_transfer_to_host_2d, 1;
            AttachBacking, virtio_gpu_resource_attach_backing, 1;
            MemEntry, virtio_gpu_mem_entry, 0;
            GetCapsetInfo, virtio_gpu_get_capset_info, 1;
            CapsetInfo, virtio_gpu_resp_capset_info, 1;
            GetCapset, virtio_gpu_get_capset, 1;
            GetEdid, virtio_gpu_cmd_get_edid, 1;
            ResourceCreateBlob, virtio_gpu_resource_create_blob, 1;
            SetScanoutBlob, virtio_gpu_set_scanout_blob, 1;
            CtxCreate, virtio_gpu_ctx_create, 1;
            ResourceCreate3d, virtio_gpu_resource_create_3d, 1;
            Transfer3d, virtio_gpu_transfer_host_3d, 1;
            Submit3d, virtio_gpu_cmd_submit, 1;
            MapBlob, virtio_gpu_resource_map_blob, 1;
            MapInfo, virtio_gpu_resp_map_info, 1;
            UpdateCursor, virtio_gpu_update_cursor, 1;
        }
    }

    #[test]
    fn numbers_are_the_kernels() {
        use spec::*;
        for (ours, theirs) in [
            (
                cmd::GET_DISPLAY_INFO,
                virtio_gpu_ctrl_type_VIRTIO_GPU_CMD_GET_DISPLAY_INFO,
            ),
            (
                cmd::SET_SCANOUT_BLOB,
                virtio_gpu_ctrl_type_VIRTIO_GPU_CMD_SET_SCANOUT_BLOB,
            ),
            (
                cmd::CTX_CREATE,
                virtio_gpu_ctrl_type_VIRTIO_GPU_CMD_CTX_CREATE,
            ),
            (
                cmd::RESOURCE_UNMAP_BLOB,
                virtio_gpu_ctrl_type_VIRTIO_GPU_CMD_RESOURCE_UNMAP_BLOB,
            ),
            (
                cmd::MOVE_CURSOR,
                virtio_gpu_ctrl_type_VIRTIO_GPU_CMD_MOVE_CURSOR,
            ),
            (
                resp::OK_MAP_INFO,
                virtio_gpu_ctrl_type_VIRTIO_GPU_RESP_OK_MAP_INFO,
            ),
            (
                resp::ERR_INVALID_PARAMETER,
                virtio_gpu_ctrl_type_VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER,
            ),
        ] {
            assert_eq!(ours, theirs);
        }
    }
}
