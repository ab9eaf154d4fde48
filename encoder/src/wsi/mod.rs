//! Windows: the guest's own, so pictures are copied to its memory and drawn from there.
//!
//! Surfaces and swapchains are in `vulkan/`; here is one file for each window system.

use std::fmt::Debug;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use asgard_protocol::types::*;
use memmap2::{MmapMut, MmapOptions};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

pub(crate) mod headless;
mod library;
pub(crate) mod wayland;
pub(crate) mod x11;

/// The window is gone, or its window system.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gone;

/// How long a frame stays on the screen where nobody says when it has been there.
const FRAME: Duration = Duration::from_nanos(16_666_667);

/// Where a swapchain shows its pictures.
pub(crate) trait Window: Debug + Send + Sync {
    /// Its size now; `None` if it takes that of any swapchain.
    fn extent(&self) -> Result<Option<VkExtent2D>, Gone>;

    /// How it can show them; frames that wait for their turn come first.
    fn modes(&self) -> &'static [VkPresentModeKHR];

    /// What it can do with their transparency.
    fn alphas(&self) -> VkCompositeAlphaFlagsKHR;

    /// Shows a picture, and says what [`Self::extent`] does. Afterwards it does not need the pixels.
    fn draw(&self, picture: Picture<'_>) -> Result<Option<VkExtent2D>, Gone>;

    /// Waits until what was drawn last has been seen, or for a while if nobody looks.
    fn turn(&self) -> Result<(), Gone>;
}

/// A picture to show: rows of four bytes for each pixel, without gaps.
#[derive(Clone, Copy)]
pub(crate) struct Picture<'a> {
    pub(crate) extent: VkExtent2D,
    pub(crate) pixels: &'a [u8],
    /// Red comes first, not blue.
    pub(crate) red_first: bool,
    /// It hides what is behind it, whatever its alpha says.
    pub(crate) opaque: bool,
    /// Where it differs from the one drawn before, inside its extent; `None` if everywhere.
    pub(crate) damage: Option<&'a [VkRect2D]>,
}

impl Picture<'_> {
    /// All of it.
    fn whole(&self) -> VkRect2D {
        VkRect2D {
            offset: VkOffset2D { x: 0, y: 0 },
            extent: self.extent,
        }
    }

    /// Puts a part of it where a window system reads the whole: blue first, and `opaque` without its alpha.
    fn copy(&self, part: VkRect2D, opaque: bool, to: &mut [u8]) {
        let pitch = self.extent.width as usize * 4;
        let left = part.offset.x as usize * 4;
        let len = part.extent.width as usize * 4;
        let top = part.offset.y as usize;
        for row in top..top + part.extent.height as usize {
            let at = row * pitch + left..row * pitch + left + len;
            let (from, to) = (&self.pixels[at.clone()], &mut to[at]);
            if !self.red_first && !opaque {
                to.copy_from_slice(from);
                continue;
            }
            for (to, from) in to.chunks_exact_mut(4).zip(from.chunks_exact(4)) {
                to.copy_from_slice(from);
                if self.red_first {
                    to.swap(0, 2);
                }
                if opaque {
                    to[3] = 0xff;
                }
            }
        }
    }
}

/// Memory to share with a window system; neither side can change its size.
fn share(len: usize) -> std::io::Result<(OwnedFd, MmapMut)> {
    let fd = memfd_create(
        "asgard-window",
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
    )?;
    ftruncate(&fd, len as u64)?;
    fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    // SAFETY: nobody else has the file but the window system, which reads it.
    let memory = unsafe { MmapOptions::new().len(len).map_mut(&fd.as_fd())? };
    Ok((fd, memory))
}
