//! No window system: pictures are finished, and nobody looks.

use asgard_protocol::types::VkExtent2D;

use super::{Gone, Picture, Window};

#[derive(Debug)]
pub(crate) struct Headless;

impl Window for Headless {
    fn extent(&self) -> Result<Option<VkExtent2D>, Gone> {
        Ok(None)
    }

    fn draw(&self, _: Picture<'_>) -> Result<Option<VkExtent2D>, Gone> {
        Ok(None)
    }

    fn paced(&self) -> bool {
        false
    }
}
