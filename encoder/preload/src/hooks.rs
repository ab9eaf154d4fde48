//! The functions that the dynamic linker calls in place of libc's and libdrm's.
//!
//! Most of libdrm needs none: its functions on an open device end in `ioctl`, which is here.
//! Functions that act by who calls them are a few instructions that pass the return address on.

use std::ffi::{c_char, c_int, c_uint, c_ulong, c_void};
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;

use libc::{mode_t, off64_t, size_t};
use rustix::io::Errno;

use crate::node::{self, DrmDevice};
use crate::real::{Real, call_real};
use crate::{caller, device, ioctl as requests, process, ring, sync_file};

static OPEN: Real = Real::new(c"open");
static OPEN64: Real = Real::new(c"open64");
static OPENAT: Real = Real::new(c"openat");
static OPENAT64: Real = Real::new(c"openat64");
static OPEN_2: Real = Real::new(c"__open_2");
static OPEN64_2: Real = Real::new(c"__open64_2");
static ACCESS: Real = Real::new(c"access");
static STAT: Real = Real::new(c"stat");
static STAT64: Real = Real::new(c"stat64");
static MMAP: Real = Real::new(c"mmap");
static MMAP64: Real = Real::new(c"mmap64");
static IOCTL: Real = Real::new(c"ioctl");
static SCHED_YIELD: Real = Real::new(c"sched_yield");
static GET_DEVICES: Real = Real::drm(c"drmGetDevices2");
static FREE_DEVICES: Real = Real::drm(c"drmFreeDevices");
static GET_DEVICE: Real = Real::drm(c"drmGetDevice2");
static FREE_DEVICE: Real = Real::drm(c"drmFreeDevice");

/// Looks libc's functions up before the program runs, so that no hook has to do it inside of a
/// signal handler.
#[used]
#[unsafe(link_section = ".init_array")]
static INIT: extern "C" fn() = {
    extern "C" fn init() {
        for real in [
            &OPEN,
            &OPEN64,
            &OPENAT,
            &OPENAT64,
            &OPEN_2,
            &OPEN64_2,
            &ACCESS,
            &STAT,
            &STAT64,
            &MMAP,
            &MMAP64,
            &IOCTL,
            &SCHED_YIELD,
        ] {
            real.address();
        }
    }
    init
};

fn set_errno(errno: Errno) {
    // SAFETY: libc returns the address of the calling thread's own variable.
    unsafe { *libc::__errno_location() = errno.raw_os_error() };
}

/// What a C function returns: the value, or -1 and the error in `errno`.
fn c_result(result: Result<c_int, Errno>) -> c_int {
    result.unwrap_or_else(|errno| {
        set_errno(errno);
        -1
    })
}

fn missing() -> c_int {
    c_result(Err(Errno::NOSYS))
}

/// The hooks of the family of `open`. A mode that the caller has not passed is passed on as it is
/// found, since the real function does not look at it either.
macro_rules! open_hook {
    ($name:ident, $real:expr, ($($arg:ident: $ty:ty),*), $path:ident) => {
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($arg: $ty),*) -> c_int {
            // SAFETY: the path is a C string, and the other arguments are those of the real function.
            unsafe {
                if node::is_path($path) {
                    return c_result(process::open());
                }
                call_real!($real, fn($($ty),*) -> c_int, ($($arg),*), missing())
            }
        }
    };
}

open_hook!(open, OPEN, (path: *const c_char, flags: c_int, mode: mode_t), path);
open_hook!(open64, OPEN64, (path: *const c_char, flags: c_int, mode: mode_t), path);
open_hook!(openat, OPENAT, (at: c_int, path: *const c_char, flags: c_int, mode: mode_t), path);
open_hook!(openat64, OPENAT64, (at: c_int, path: *const c_char, flags: c_int, mode: mode_t), path);
open_hook!(__open_2, OPEN_2, (path: *const c_char, flags: c_int), path);
open_hook!(__open64_2, OPEN64_2, (path: *const c_char, flags: c_int), path);

#[unsafe(no_mangle)]
unsafe extern "C" fn access(path: *const c_char, mode: c_int) -> c_int {
    // SAFETY: the path is a C string, as for the real function.
    unsafe {
        if process::is_open() && node::is_path(path) {
            return if mode & libc::X_OK == 0 {
                0
            } else {
                c_result(Err(Errno::ACCESS))
            };
        }
        call_real!(
            ACCESS,
            fn(*const c_char, c_int) -> c_int,
            (path, mode),
            missing()
        )
    }
}

macro_rules! stat_hook {
    ($name:ident, $real:expr) => {
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(path: *const c_char, stat: *mut libc::stat64) -> c_int {
            // SAFETY: the path is a C string, and there is room for a result, as for the real function.
            unsafe {
                if process::is_open() && node::is_path(path) {
                    stat.write(node::stat());
                    return 0;
                }
                call_real!(
                    $real,
                    fn(*const c_char, *mut libc::stat64) -> c_int,
                    (path, stat),
                    missing()
                )
            }
        }
    };
}

// On 64-bit machines both have the same structure.
stat_hook!(stat, STAT);
stat_hook!(stat64, STAT64);

macro_rules! mmap_hook {
    ($name:ident, $real:expr) => {
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(
            address: *mut c_void,
            len: size_t,
            prot: c_int,
            flags: c_int,
            fd: c_int,
            offset: off64_t,
        ) -> *mut c_void {
            let (mut fd, mut offset) = (fd, offset);
            // Kept until the call is done, so that its descriptor stays open.
            let mut _object = None;
            if let Some((handle, inner)) = device::mapped_handle(offset)
                && let Some(device) = process::device(fd)
            {
                match device.object(handle) {
                    Ok(object) => {
                        fd = object.memory.as_raw_fd();
                        offset = inner as off64_t;
                        _object = Some(object);
                    }
                    Err(error) => {
                        set_errno(error);
                        return libc::MAP_FAILED;
                    }
                }
            }
            // SAFETY: the arguments are the caller's, or name memory that the caller has asked for.
            unsafe {
                call_real!(
                    $real,
                    fn(*mut c_void, size_t, c_int, c_int, c_int, off64_t) -> *mut c_void,
                    (address, len, prot, flags, fd, offset),
                    {
                        set_errno(Errno::NOSYS);
                        libc::MAP_FAILED
                    }
                )
            }
        }
    };
}

// On 64-bit machines both have the same offset.
mmap_hook!(mmap, MMAP);
mmap_hook!(mmap64, MMAP64);

#[unsafe(no_mangle)]
unsafe extern "C" fn ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    // The kernel takes 32 bits, which some callers extend with their sign.
    let number = request as u32;
    if process::is_open() {
        if number >> 8 & 0xff == requests::DRM
            && let Some(device) = process::device(fd)
        {
            // SAFETY: the program passes what the request wants, as it would to the kernel.
            return c_result(unsafe { requests::dispatch(&device, number, argument) }.map(|()| 0));
        }
        // SAFETY: as above.
        if let Some(result) = unsafe { sync_file_ioctl(fd, number, argument) } {
            return c_result(result.map(|()| 0));
        }
    }
    // SAFETY: the arguments are the caller's.
    unsafe {
        call_real!(
            IOCTL,
            fn(c_int, c_ulong, *mut c_void) -> c_int,
            (fd, request, argument),
            missing()
        )
    }
}

/// Answers for sync files when the descriptor is one of the eventfds that stand for them.
///
/// # Safety
/// `argument` is what the request wants.
unsafe fn sync_file_ioctl(
    fd: c_int,
    request: u32,
    argument: *mut c_void,
) -> Option<Result<(), Errno>> {
    if !matches!(request, sync_file::MERGE | sync_file::FILE_INFO) || fd < 0 || argument.is_null() {
        return None;
    }
    // SAFETY: the number is not negative; if no file is open there, the calls say so.
    let fence = unsafe { BorrowedFd::borrow_raw(fd) };
    if !process::is_fence(fence) {
        return None;
    }
    // SAFETY: the caller vouches for the argument.
    unsafe {
        Some(if request == sync_file::MERGE {
            sync_file::merge(fence, &mut *argument.cast())
        } else {
            sync_file::info(fence, &mut *argument.cast());
            Ok(())
        })
    }
}

/// Defines a hook that calls `$to` with its own arguments and the return address behind them, which
/// goes into the register given for each architecture.
macro_rules! with_caller {
    ($name:ident($($arg:ident: $ty:ty),*) -> $to:path, $x86_64:literal, $aarch64:literal) => {
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($arg: $ty),*) -> c_int {
            #[cfg(target_arch = "x86_64")]
            std::arch::naked_asm!(concat!("mov ", $x86_64, ", [rsp]"), "jmp {to}", to = sym $to);
            #[cfg(target_arch = "aarch64")]
            std::arch::naked_asm!(concat!("mov ", $aarch64, ", x30"), "b {to}", to = sym $to);
        }
    };
}

with_caller!(sched_yield() -> yield_from, "rdi", "x0");
with_caller!(
    drmGetDevices2(flags: u32, devices: *mut *mut DrmDevice, max: c_int) -> get_devices_from,
    "rcx", "x3"
);

/// The driver waits for its host in loops of yields; it gets to sleep instead.
extern "C" fn yield_from(caller: usize) -> c_int {
    if caller::is_driver(caller) && ring::on_yield() {
        return 0;
    }
    // SAFETY: the real function has no requirements.
    unsafe { call_real!(SCHED_YIELD, fn() -> c_int, (), missing()) }
}

/// The driver sees one device, ours; everybody else sees what there is.
unsafe extern "C" fn get_devices_from(
    flags: c_uint,
    devices: *mut *mut DrmDevice,
    max: c_int,
    caller: usize,
) -> c_int {
    if std::env::var_os(process::VARIABLE).is_some() && caller::find_driver(caller) {
        if !process::has_device() {
            return 0;
        }
        if !devices.is_null() && max > 0 {
            // SAFETY: the caller has room for `max` pointers.
            unsafe { devices.write(node::drm_device()) };
        }
        return 1;
    }
    // SAFETY: the arguments are the caller's.
    unsafe {
        call_real!(
            GET_DEVICES,
            fn(c_uint, *mut *mut DrmDevice, c_int) -> c_int,
            (flags, devices, max),
            -libc::ENOSYS
        )
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn drmFreeDevices(devices: *mut *mut DrmDevice, count: c_int) {
    // SAFETY: there are `count` pointers, as for the real function.
    unsafe {
        if !devices.is_null() && count > 0 && node::is_drm_device(*devices) {
            return;
        }
        call_real!(
            FREE_DEVICES,
            fn(*mut *mut DrmDevice, c_int) -> (),
            (devices, count),
            ()
        );
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn drmGetDevice2(fd: c_int, flags: u32, result: *mut *mut DrmDevice) -> c_int {
    if !result.is_null() && process::device(fd).is_some() {
        // SAFETY: there is room for a pointer, as for the real function.
        unsafe { result.write(node::drm_device()) };
        return 0;
    }
    // SAFETY: the arguments are the caller's.
    unsafe {
        call_real!(
            GET_DEVICE,
            fn(c_int, u32, *mut *mut DrmDevice) -> c_int,
            (fd, flags, result),
            -libc::ENOSYS
        )
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn drmFreeDevice(device: *mut *mut DrmDevice) {
    // SAFETY: it is null or leads to a pointer, as for the real function.
    unsafe {
        if !device.is_null() && node::is_drm_device(*device) {
            *device = std::ptr::null_mut();
            return;
        }
        call_real!(FREE_DEVICE, fn(*mut *mut DrmDevice) -> (), (device), ());
    }
}
