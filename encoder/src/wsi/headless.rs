//! No window system: pictures are finished, and nobody looks.

use asgard_protocol::types::*;

use super::{Gone, Picture, Window};

#[derive(Debug)]
pub(crate) struct Headless;

impl Window for Headless {
    fn extent(&self) -> Result<Option<VkExtent2D>, Gone> {
        Ok(None)
    }

    fn modes(&self) -> &'static [VkPresentModeKHR] {
        &[
            VK_PRESENT_MODE_FIFO_KHR,
            VK_PRESENT_MODE_MAILBOX_KHR,
            VK_PRESENT_MODE_IMMEDIATE_KHR,
        ]
    }

    fn alphas(&self) -> VkCompositeAlphaFlagsKHR {
        VK_COMPOSITE_ALPHA_OPAQUE_BIT_KHR | VK_COMPOSITE_ALPHA_INHERIT_BIT_KHR
    }

    fn draw(&self, _: Picture<'_>) -> Result<Option<VkExtent2D>, Gone> {
        Ok(None)
    }

    fn turn(&self) -> Result<(), Gone> {
        Ok(())
    }
}
