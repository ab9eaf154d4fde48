//! Windows: the guest's own, so pictures are copied to its memory and drawn from there.
//!
//! Surfaces and swapchains are in `vulkan/`; here is one file for each window system.

use std::fmt::Debug;

use asgard_protocol::types::VkExtent2D;

pub(crate) mod headless;
mod library;
pub(crate) mod x11;

/// The window is gone, or its window system.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gone;

/// Where a swapchain shows its pictures.
pub(crate) trait Window: Debug + Send + Sync {
    /// Its size now; `None` if it takes that of any swapchain.
    fn extent(&self) -> Result<Option<VkExtent2D>, Gone>;

    /// Shows a picture, and says what [`Self::extent`] does.
    fn draw(&self, picture: Picture<'_>) -> Result<Option<VkExtent2D>, Gone>;

    /// Whether frames that wait for their turn are shown at the rate of a screen.
    fn paced(&self) -> bool;
}

/// A picture to show: rows of four bytes for each pixel, without gaps.
#[derive(Clone, Copy)]
pub(crate) struct Picture<'a> {
    pub(crate) extent: VkExtent2D,
    pub(crate) pixels: &'a [u8],
    /// Red comes first, not blue.
    pub(crate) red_first: bool,
}
