//! Images.

use super::*;

impl ImageCommands for Engine {
    fn vkCreateImageWithRequirementsGOOGLE(
        &mut self,
        c: &mut p::vkCreateImageWithRequirementsGOOGLE,
    ) -> Result<VkResult, Error> {
        let fns = self.device_fns(c.device_token)?;
        let create = function!(fns, vkCreateImage);
        let requirements = function!(fns, vkGetImageMemoryRequirements);
        // SAFETY: decoded arguments, and room for both answers.
        let ret = unsafe {
            let ret = create(c.device, c.pCreateInfo, c.pAllocator, c.pImage);
            if ret == VK_SUCCESS && (*c.pCreateInfo).flags & VK_IMAGE_CREATE_DISJOINT_BIT == 0 {
                requirements(c.device, *c.pImage, c.pMemoryRequirements);
            }
            ret
        };
        self.adopt(Kind::Image, c.device_token, c.pImage.cast(), 1, true)?;
        Ok(ret)
    }
}
