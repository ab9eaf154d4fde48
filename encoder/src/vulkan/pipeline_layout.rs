//! Pipeline layouts: one that is destroyed lives on until the host has every recording that may name it.

use parking_lot::Mutex;

use super::*;
use crate::vulkan::device::device;

/// What keeps the pipeline layouts of a device.
///
/// An application may destroy one as soon as the command buffers that use it are complete; they are sent
/// when they are submitted, and name it then.
#[derive(Debug, Default)]
pub(crate) struct Layouts(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    /// Command buffers that are complete and not sent.
    waiting: usize,
    /// What the application destroyed meanwhile.
    destroyed: Vec<VkPipelineLayout>,
}

impl Layouts {
    /// A command buffer is complete.
    pub(super) fn hold(&self) {
        self.0.lock().waiting += 1;
    }

    /// A command buffer was sent, or never will be.
    pub(super) fn release(&self, device: VkDevice) {
        let mut held = self.0.lock();
        held.waiting -= 1;
        if held.waiting == 0 {
            for layout in std::mem::take(&mut held.destroyed) {
                destroy(device, layout);
            }
        }
    }

    /// The device ends, and with it all recordings.
    pub(super) fn end(&self, device: VkDevice) {
        for layout in std::mem::take(&mut self.0.lock().destroyed) {
            destroy(device, layout);
        }
    }

    /// The application destroys one: true if that has to wait.
    fn keep(&self, layout: VkPipelineLayout) -> bool {
        let mut held = self.0.lock();
        let keep = held.waiting > 0;
        if keep {
            held.destroyed.push(layout);
        }
        keep
    }
}

fn destroy(device: VkDevice, layout: VkPipelineLayout) {
    let mut c = p::vkDestroyPipelineLayout {
        device,
        pipelineLayout: layout,
        ..zeroed()
    };
    Driver.destroy(&mut c, layout.0);
}

impl PipelineLayoutCommands for Driver {
    fn vkDestroyPipelineLayout(&self, c: &mut p::vkDestroyPipelineLayout) {
        // SAFETY: the application passes a live device.
        let layouts = unsafe { &device(c.device).layouts };
        if c.pipelineLayout.0 != 0 && !layouts.keep(c.pipelineLayout) {
            destroy(c.device, c.pipelineLayout);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_live_while_recordings_wait() {
        let layouts = Layouts::default();
        assert!(!layouts.keep(VkPipelineLayout(1)));
        layouts.hold();
        layouts.hold();
        assert!(layouts.keep(VkPipelineLayout(2)));
        layouts.release(VkDevice(0));
        assert_eq!(layouts.0.lock().destroyed, [VkPipelineLayout(2)]);
    }
}
