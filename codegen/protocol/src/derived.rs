//! Words that a struct's encoding starts with and that follow from its contents.

use crate::types::*;

/// The pipeline rasterizes, or may be told to.
///
/// # Safety
/// The struct's pointers are valid or null.
pub unsafe fn has_rasterization(info: &VkGraphicsPipelineCreateInfo) -> bool {
    // SAFETY: the caller's promise.
    let (state, dynamic) = unsafe {
        (
            info.pRasterizationState.as_ref(),
            info.pDynamicState.as_ref(),
        )
    };
    if state.is_some_and(|s| s.rasterizerDiscardEnable == 0) {
        return true;
    }
    dynamic.is_some_and(|d| {
        (0..d.dynamicStateCount as usize).any(|i| {
            // SAFETY: the array has that many elements, by the caller's promise.
            !d.pDynamicStates.is_null()
                && unsafe { *d.pDynamicStates.add(i) } == VK_DYNAMIC_STATE_RASTERIZER_DISCARD_ENABLE
        })
    })
}

/// One of the stages is a tessellation stage.
///
/// # Safety
/// As [`has_rasterization`].
pub unsafe fn has_tessellation(info: &VkGraphicsPipelineCreateInfo) -> bool {
    (0..info.stageCount as usize).any(|i| {
        // SAFETY: the array has that many elements, by the caller's promise.
        !info.pStages.is_null()
            && unsafe { (*info.pStages.add(i)).stage }
                & (VK_SHADER_STAGE_TESSELLATION_CONTROL_BIT
                    | VK_SHADER_STAGE_TESSELLATION_EVALUATION_BIT)
                != 0
    })
}
