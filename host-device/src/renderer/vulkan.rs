//! The Vulkan renderer: `asgard-decoder` behind the device's own traits.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use asgard_decoder as decoder;

use super::{Blob, Context, Error, Limits, Renderer, Replies, Stats, Stream};
use crate::resource::Shape;

/// The host's Vulkan driver.
#[derive(Debug)]
pub struct Vulkan(Arc<decoder::Renderer>);

impl Vulkan {
    /// Loads the host's Vulkan driver.
    pub fn load() -> Result<Self, Error> {
        decoder::Renderer::load().map(Self)
    }
}

impl Renderer for Vulkan {
    fn device_name(&self) -> String {
        self.0.device_name().to_owned()
    }
    fn color_buffer_memory_index(&self) -> u32 {
        self.0.color_buffer_memory_index()
    }
    fn create_context(&self, name: &str, limits: Limits) -> Arc<dyn Context> {
        Arc::new(VulkanContext(decoder::Context::new(
            Arc::clone(&self.0),
            name,
            limits,
        )))
    }
}

#[derive(Debug)]
struct VulkanContext(Arc<decoder::Context>);

impl Context for VulkanContext {
    fn open_stream(&self) -> Box<dyn Stream> {
        Box::new(VulkanStream(self.0.open_stream()))
    }
    fn take_blob(&self, blob_id: u64) -> Result<Blob, Error> {
        self.0.take_blob(blob_id)
    }
    fn add_resource(
        &self,
        _res_id: u32,
        _memory: BorrowedFd<'_>,
        _size: u64,
        _shape: Option<&Shape>,
    ) -> Result<(), Error> {
        Ok(())
    }
    fn remove_resource(&self, _res_id: u32) {}
    fn when_signaled(
        &self,
        device: u64,
        fence_or_semaphore: u64,
        done: Box<dyn FnOnce() + Send>,
    ) -> Result<(), Error> {
        self.0.when_signaled(device, fence_or_semaphore, done)
    }
    fn error(&self) -> Option<String> {
        self.0.error()
    }
    fn poison(&self, why: &str) {
        self.0.poison(why);
    }
    fn stats(&self) -> Stats {
        self.0.stats()
    }
    fn close(&self) {
        self.0.close();
    }
}

struct VulkanStream(decoder::Stream);

impl Stream for VulkanStream {
    fn input(&mut self) -> &mut Vec<u8> {
        self.0.input()
    }
    fn run(&mut self, replies: &mut dyn Replies) -> Result<(), Error> {
        self.0.run(replies)
    }
}
