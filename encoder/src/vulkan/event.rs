//! Events: those that the device never sets or resets are known without asking.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::*;
use crate::object::Dispatchable;
use crate::vulkan::command_buffer::CommandBuffer;
use crate::vulkan::device::device;

/// The events of a device that the host alone has changed: by token, whether they are set.
#[derive(Debug, Default)]
pub(crate) struct Events(Mutex<HashMap<u64, bool>>);

impl Events {
    /// The application sets or resets an event.
    fn change(&self, event: VkEvent, set: bool) {
        if let Some(known) = self.0.lock().get_mut(&event.0) {
            *known = set;
        }
    }
}

/// A command is recorded that sets or resets an event: from now on only the host can know it.
pub(super) fn recorded(buffer: VkCommandBuffer, event: VkEvent) {
    // SAFETY: the application passes a live command buffer, whose device is live.
    let device = unsafe {
        device(
            Dispatchable::<CommandBuffer>::from_handle(buffer.0)
                .data
                .device,
        )
    };
    device.events.0.lock().remove(&event.0);
}

impl EventCommands for Driver {
    fn vkCreateEvent(&self, c: &mut p::vkCreateEvent) -> VkResult {
        let made = c.pEvent.cast::<u64>();
        let ret = self.create(c, Kind::Event, made, 1);
        if ret == VK_SUCCESS {
            // SAFETY: the application passes a live device and made room for a handle, which is filled.
            let (events, token) = unsafe { (&device(c.device).events, *made) };
            events.0.lock().insert(token, false);
        }
        ret
    }

    fn vkDestroyEvent(&self, c: &mut p::vkDestroyEvent) {
        let gone = c.event.0;
        // SAFETY: the application passes a live device.
        unsafe { device(c.device) }.events.0.lock().remove(&gone);
        self.destroy(c, gone);
    }

    fn vkGetEventStatus(&self, c: &mut p::vkGetEventStatus) -> VkResult {
        // SAFETY: the application passes a live device.
        let device = unsafe { device(c.device) };
        let known = device.events.0.lock().get(&c.event.0).copied();
        match known {
            Some(true) => VK_EVENT_SET,
            Some(false) if device.heard.lately() => VK_EVENT_RESET,
            _ => device.heard.from(self.call(c)),
        }
    }

    fn vkSetEvent(&self, c: &mut p::vkSetEvent) -> VkResult {
        let ret = self.tell_now(c);
        if ret == VK_SUCCESS {
            // SAFETY: the application passes a live device.
            unsafe { device(c.device) }.events.change(c.event, true);
        }
        ret
    }

    fn vkResetEvent(&self, c: &mut p::vkResetEvent) -> VkResult {
        // SAFETY: the application passes a live device.
        unsafe { device(c.device) }.events.change(c.event, false);
        self.tell(c)
    }
}
