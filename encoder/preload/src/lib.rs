//! `libasgard_preload.so` lets an unmodified gfxstream Vulkan driver, such as the one in Debian's
//! mesa-vulkan-drivers, run without a virtual machine: it makes the driver believe in a virtio-gpu
//! device, and turns what the driver asks of that device into messages on Asgard's socket.
//!
//! ```text
//! ASGARD_KUMQUAT_SOCKET=/path/of/socket LD_PRELOAD=libasgard_preload.so vulkaninfo
//! ```
//!
//! The dynamic linker calls the `hooks` in place of libc's and libdrm's functions of the same
//! names. A process that never loads the driver, and one without the variable, sees no difference:
//! the device shows itself only to callers inside `libvulkan_gfxstream.so`, and everything that is
//! not about it goes to the real function. Children inherit the preload and start afresh: a forked
//! one shares neither its parent's connection nor its handles.
//!
//! What it must never do: wait for a server that has died (a thread watches the connection, and ends
//! every wait), panic, or spend anything before the driver opens the device.
//!
//! Start reading at `hooks`, then `ioctl` (what the device answers), `device` (what it keeps),
//! `connection` (the socket), `ring` (pings and waits that need neither) and `last_words` (what
//! the driver hears when the server has died).

#![cfg_attr(
    test,
    allow(
        dead_code,
        reason = "the hooks are not compiled into tests, which would be hooked"
    )
)]

mod caller;
mod connection;
mod device;
#[cfg(not(test))]
mod hooks;
mod ioctl;
mod last_words;
mod node;
mod process;
mod real;
mod report;
mod ring;
mod sync_file;
#[path = "../../src/virtgpu/uapi.rs"]
mod uapi;
