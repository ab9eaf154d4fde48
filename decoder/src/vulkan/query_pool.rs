//! Query pools.

use super::*;

/// The most bytes of one query's results: every statistic there may be, and whether they are there.
const MOST: usize = 32 * 8;

impl QueryPoolCommands for Engine {
    fn vkGetQueryPoolResults(
        &mut self,
        c: &mut p::vkGetQueryPoolResults,
    ) -> Result<VkResult, Error> {
        let f = function!(self.device_fns(c.device_token)?, vkGetQueryPoolResults);
        // Drivers believe the count and the stride, not the size.
        let least = usize::try_from(c.stride)
            .ok()
            .and_then(|stride| stride.checked_mul(c.queryCount.saturating_sub(1) as usize))
            .and_then(|last| last.checked_add(MOST))
            .ok_or(Error::Nonsense("query results far apart"))?;
        with_room(c.pData, c.dataSize, least, |to| {
            // SAFETY: live handles, and room for as many results as the count says.
            unsafe {
                f(
                    c.device,
                    c.queryPool,
                    c.firstQuery,
                    c.queryCount,
                    c.dataSize,
                    to,
                    c.stride,
                    c.flags,
                )
            }
        })
    }
}
