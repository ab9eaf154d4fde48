//! How the device looks from outside: its path, and what libdrm would tell about it.
//!
//! The structures are libdrm's, which its callers read directly.

use std::ffi::{CStr, c_char, c_int, c_uint};
use std::mem;
use std::ptr;

/// The device's path. Nothing exists there: only the driver hears of it, and only the hooks know it.
pub(crate) const PATH: &CStr = c"/dev/dri/asgard";

/// The node's major number is that of DRM, the minor one is the last of the render nodes.
const RDEV: (c_uint, c_uint) = (226, 191);

/// libdrm's index of render nodes, and the length of its table.
const NODE_RENDER: usize = 2;
const NODE_MAX: usize = 3;
/// libdrm's number for PCI.
const BUS_PCI: c_int = 0;

#[repr(C)]
struct PciBus {
    domain: u16,
    bus: u8,
    dev: u8,
    func: u8,
}

#[repr(C)]
struct PciDevice {
    vendor: u16,
    device: u16,
    subvendor: u16,
    subdevice: u16,
    revision: u8,
}

/// What `drmGetDevices2` returns pointers to.
#[repr(C)]
pub(crate) struct DrmDevice {
    nodes: *const *const c_char,
    available_nodes: c_int,
    bus_type: c_int,
    bus: *const PciBus,
    device: *const PciDevice,
}

struct Constant<T>(T);
// SAFETY: the pointers in such a constant lead to other constants, which nobody writes.
unsafe impl<T> Sync for Constant<T> {}

static NODES: Constant<[*const c_char; NODE_MAX]> =
    Constant([c"".as_ptr(), c"".as_ptr(), PATH.as_ptr()]);
static BUS: PciBus = PciBus {
    domain: 0,
    bus: 0,
    dev: 0x1f,
    func: 0,
};
static PCI: PciDevice = PciDevice {
    vendor: 0x1af4,
    device: 0x1050,
    subvendor: 0x1af4,
    subdevice: 0x1100,
    revision: 1,
};
static DEVICE: Constant<DrmDevice> = Constant(DrmDevice {
    nodes: (&raw const NODES).cast(),
    available_nodes: 1 << NODE_RENDER,
    bus_type: BUS_PCI,
    bus: &raw const BUS,
    device: &raw const PCI,
});

/// The description of the device. It is constant: never freed, never written.
pub(crate) fn drm_device() -> *mut DrmDevice {
    (&raw const DEVICE.0).cast_mut()
}

/// Whether a path that a program passes is the device's.
///
/// # Safety
/// `path` is null or a C string.
pub(crate) unsafe fn is_path(path: *const c_char) -> bool {
    // SAFETY: neither is null, and the caller vouches that both are C strings.
    !path.is_null() && unsafe { libc::strcmp(path, PATH.as_ptr()) } == 0
}

/// What `stat` tells about the path.
pub(crate) fn stat() -> libc::stat64 {
    // SAFETY: the structure is made of integers, for which zeroes are valid.
    let mut stat: libc::stat64 = unsafe { mem::zeroed() };
    stat.st_mode = libc::S_IFCHR | 0o666;
    stat.st_nlink = 1;
    stat.st_rdev = libc::makedev(RDEV.0, RDEV.1);
    stat.st_blksize = 4096;
    stat
}

/// The strings of `DRM_IOCTL_VERSION`: name, date, description.
pub(crate) const STRINGS: [&[u8]; 3] = [b"virtio_gpu", b"0", b"virtio GPU"];

/// Whether a pointer from a program is [`drm_device`].
pub(crate) fn is_drm_device(device: *const DrmDevice) -> bool {
    ptr::eq(device, &raw const DEVICE.0)
}
