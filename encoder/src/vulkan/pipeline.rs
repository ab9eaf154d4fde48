//! Pipelines: how long one took to make is not told.

use super::*;

/// Says of each pipeline that there is no feedback on its creation: the struct for it hangs in a chain that has no
/// way back on the wire, and applications must not take what was in it before for an answer.
///
/// # Safety
/// There are as many structs as `count` says, each with a `pNext` of its valid chain where `next` finds it.
unsafe fn no_feedback<T>(count: u32, infos: *const T, next: impl Fn(&T) -> *const c_void) {
    let none = VkPipelineCreationFeedback {
        flags: 0,
        duration: 0,
    };
    for i in 0..count as usize {
        // SAFETY: the caller's promise; an application that asks for feedback made room for it.
        unsafe {
            let kind = VK_STRUCTURE_TYPE_PIPELINE_CREATION_FEEDBACK_CREATE_INFO;
            let asked =
                image::find::<VkPipelineCreationFeedbackCreateInfo>(next(&*infos.add(i)), kind);
            let Some(asked) = asked else { continue };
            *asked.pPipelineCreationFeedback = none;
            for stage in 0..asked.pipelineStageCreationFeedbackCount as usize {
                *asked.pPipelineStageCreationFeedbacks.add(stage) = none;
            }
        }
    }
}

/// Commands that make pipelines.
macro_rules! create {
    ($($name:ident)*) => { $(
        fn $name(&self, c: &mut p::$name) -> VkResult {
            // SAFETY: the application passes as many structs as it says.
            unsafe { no_feedback(c.createInfoCount, c.pCreateInfos, |info| info.pNext) };
            self.call(c)
        }
    )* };
}

impl PipelineCommands for Driver {
    create! {
        vkCreateGraphicsPipelines vkCreateComputePipelines vkCreateRayTracingPipelinesNV
        vkCreateRayTracingPipelinesKHR vkCreateExecutionGraphPipelinesAMDX vkCreateDataGraphPipelinesARM
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_application_that_asks_for_feedback_hears_that_there_is_none() {
        let stale = VkPipelineCreationFeedback {
            flags: VK_PIPELINE_CREATION_FEEDBACK_VALID_BIT,
            duration: 7,
        };
        let (mut whole, mut stages) = (stale, [stale; 3]);
        let feedback = VkPipelineCreationFeedbackCreateInfo {
            sType: VK_STRUCTURE_TYPE_PIPELINE_CREATION_FEEDBACK_CREATE_INFO,
            pPipelineCreationFeedback: &raw mut whole,
            pipelineStageCreationFeedbackCount: 2,
            pPipelineStageCreationFeedbacks: stages.as_mut_ptr(),
            ..zeroed()
        };
        let infos = [
            zeroed::<VkComputePipelineCreateInfo>(),
            VkComputePipelineCreateInfo {
                pNext: (&raw const feedback).cast(),
                ..zeroed()
            },
        ];
        // SAFETY: two structs, one without a chain.
        unsafe { no_feedback(2, infos.as_ptr(), |info| info.pNext) };
        assert_eq!(whole.flags, 0);
        assert_eq!(stages.map(|s| s.flags), [0, 0, stale.flags]);
    }
}
