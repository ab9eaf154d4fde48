//! The Vulkan renderer: `asgard-decoder` behind the device's own traits.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use asgard_decoder as decoder;

use super::{Blob, Context, Description, Error, Limits, Renderer, Replies, Stats, Stream};

/// The host's Vulkan driver.
#[derive(Debug)]
pub struct Vulkan {
    renderer: Arc<decoder::Renderer>,
    recordings: Option<PathBuf>,
}

impl Vulkan {
    /// Loads the host's Vulkan driver; with a folder, every stream is recorded into a file there.
    pub fn load(recordings: Option<PathBuf>) -> Result<Self, Error> {
        let renderer = decoder::Renderer::load()?;
        Ok(Self {
            renderer,
            recordings,
        })
    }
}

impl Renderer for Vulkan {
    fn describe(&self) -> Description {
        // Three bits of variant, seven of major, ten of minor and twelve of patch version.
        let version = self.renderer.api_version();
        let (major, minor, patch) = (version >> 22 & 0x7f, version >> 12 & 0x3ff, version & 0xfff);
        Description {
            device: self.renderer.device_name().to_owned(),
            driver: self.renderer.driver_name().to_owned(),
            api_version: format!("{major}.{minor}.{patch}"),
            software: self.renderer.is_software(),
            can_share_memory: self.renderer.can_share_memory(),
            extensions: self
                .renderer
                .extensions()
                .map(|(name, hidden)| (name.to_owned(), hidden.map(str::to_owned)))
                .collect(),
        }
    }
    fn color_buffer_memory_index(&self, as_upstream: bool) -> u32 {
        self.renderer.color_buffer_memory_index(as_upstream)
    }
    fn create_context(&self, name: &str, limits: Limits) -> Arc<dyn Context> {
        let context = decoder::Context::new(Arc::clone(&self.renderer), name, limits);
        if let Some(folder) = &self.recordings {
            context.record(folder.clone());
        }
        Arc::new(VulkanContext(context))
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
    fn add_resource(&self, res_id: u32, memory: OwnedFd, size: u64) {
        self.0.add_resource(res_id, memory, size);
    }
    fn remove_resource(&self, res_id: u32) {
        self.0.remove_resource(res_id);
    }
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
