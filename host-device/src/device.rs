//! The device: what a virtio-gpu guest asks for, whichever way it is connected.
//!
//! Ids of contexts and resources are chosen by the caller (by the guest's kernel in a virtual
//! machine). Calls come from one thread; fences are signalled from any.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use asgard_asg::layout;
use asgard_asg::submit::Command;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::capset;
use crate::context::{Closing, Context};
use crate::fence::{Done, Ring, Timelines};
use crate::renderer::{self, Renderer};
use crate::resource::{Origin, Resource, Shape};

/// What one guest may use.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Contexts at a time.
    pub contexts: usize,
    /// Rings of one context, which are threads here.
    pub rings: usize,
    /// Resources at a time.
    pub resources: usize,
    /// Fences that are not signalled yet.
    pub fences: usize,
    /// Vulkan objects of one context.
    pub objects: u32,
    /// Bytes: of the device's own resources together, and of each context's Vulkan memory.
    pub memory: u64,
}

impl Default for Limits {
    fn default() -> Self {
        let objects = renderer::Limits::default().objects;
        Self {
            contexts: 64,
            rings: 256,
            resources: 16_384,
            fences: 4096,
            objects,
            memory: u64::MAX,
        }
    }
}

/// How a device behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// What the guest may use.
    pub limits: Limits,
    /// Capset field `vulkanBatchedDescriptorSetUpdate`.
    pub batched_descriptor_sets: bool,
    /// Bytes of a ring's data buffer.
    pub buffer_size: u32,
    /// How far a ring's write pointer moves at each small transfer.
    pub flush_interval: u32,
    /// How long an idle ring thread looks for more before it sleeps.
    pub spin: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            batched_descriptor_sets: true,
            buffer_size: layout::DEFAULT_BUFFER_SIZE,
            flush_interval: 65_536,
            spin: Duration::from_micros(50),
        }
    }
}

/// What went through a device, or through many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// Contexts, one for each guest process.
    pub contexts: u64,
    /// Rings, one for each guest thread.
    pub rings: u64,
    /// Packets decoded.
    pub packets: u64,
    /// Staged command-buffer commands decoded.
    pub staged_commands: u64,
    /// Queue submissions.
    pub submits: u64,
    /// Bytes from the guest.
    pub bytes_in: u64,
    /// Reply bytes.
    pub bytes_out: u64,
    /// Pings that came as messages.
    pub pings: u64,
    /// How often a ring thread went to sleep.
    pub sleeps: u64,
    /// How often a sleeping ring thread was woken to find work.
    pub wakes: u64,
    /// Microseconds of processor time of the ring threads.
    pub cpu_us: u64,
    /// Contexts that were poisoned.
    pub poisoned: u64,
}

impl Summary {
    /// Adds another summary to this one.
    pub fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.contexts, other.contexts),
            (&mut self.rings, other.rings),
            (&mut self.packets, other.packets),
            (&mut self.staged_commands, other.staged_commands),
            (&mut self.submits, other.submits),
            (&mut self.bytes_in, other.bytes_in),
            (&mut self.bytes_out, other.bytes_out),
            (&mut self.pings, other.pings),
            (&mut self.sleeps, other.sleeps),
            (&mut self.wakes, other.wakes),
            (&mut self.cpu_us, other.cpu_us),
            (&mut self.poisoned, other.poisoned),
        ];
        for (sum, value) in pairs {
            *sum = sum.saturating_add(value);
        }
    }
}

/// RESOURCE_CREATE_BLOB, as far as this device cares.
#[derive(Clone, Copy, Debug)]
pub struct BlobRequest {
    /// 0 for new memory (a ring's), else what the renderer published under this id.
    pub blob_id: u64,
    /// Bytes.
    pub size: u64,
}

#[derive(Debug)]
struct Entry {
    resource: Resource,
    attached: BTreeSet<u32>,
}

/// See the module.
#[derive(Debug)]
pub struct Device {
    renderer: Arc<dyn Renderer>,
    config: Config,
    contexts: BTreeMap<u32, Context>,
    resources: BTreeMap<u32, Entry>,
    /// Bytes of resources that this device allocated.
    memory: u64,
    timelines: Timelines,
    closing: Vec<Closing>,
    summary: Summary,
}

impl Device {
    /// A device without contexts and resources.
    pub fn new(renderer: Arc<dyn Renderer>, config: Config) -> Self {
        let timelines = Timelines::new(config.limits.fences);
        Self {
            renderer,
            config,
            contexts: BTreeMap::new(),
            resources: BTreeMap::new(),
            memory: 0,
            timelines,
            closing: Vec::new(),
            summary: Summary::default(),
        }
    }

    /// The bytes of a capset.
    pub fn capset(
        &self,
        id: u32,
        version: u32,
    ) -> Result<[u8; asgard_asg::capset::FULL_SIZE], Error> {
        capset::bytes(
            &self.config,
            self.renderer.color_buffer_memory_index(),
            id,
            version,
        )
    }

    /// CTX_CREATE. `name` is for people, and the guest's.
    pub fn create_context(&mut self, ctx_id: u32, capset_id: u32, name: &str) -> Result<(), Error> {
        if ctx_id == 0 || self.contexts.contains_key(&ctx_id) {
            return Err(Error::ContextId(ctx_id));
        }
        if capset_id != asgard_asg::capset::CAPSET_ID {
            return Err(Error::NoCapset {
                id: capset_id,
                version: 0,
            });
        }
        self.closing.retain_mut(|closing| match closing.poll() {
            Some(summary) => {
                self.summary.add(&summary);
                false
            }
            None => true,
        });
        let limit = self.config.limits.contexts;
        if self.contexts.len() + self.closing.len() >= limit {
            return Err(Error::Limit {
                what: "contexts",
                limit: limit as u64,
            });
        }
        let limits = renderer::Limits {
            memory: self.config.limits.memory,
            objects: self.config.limits.objects,
        };
        let renderer = self.renderer.create_context(name, limits);
        self.contexts
            .insert(ctx_id, Context::new(ctx_id, name, renderer));
        self.summary.contexts += 1;
        tracing::debug!(ctx_id, ?name, "context created");
        Ok(())
    }

    /// CTX_DESTROY: its rings stop, its fences are signalled. Returns what was attached to it.
    pub fn destroy_context(&mut self, ctx_id: u32) -> Result<Vec<u32>, Error> {
        let context = self
            .contexts
            .remove(&ctx_id)
            .ok_or(Error::NoContext(ctx_id))?;
        let mut detached = Vec::new();
        for (res_id, entry) in &mut self.resources {
            if entry.attached.remove(&ctx_id) {
                detached.push(*res_id);
            }
        }
        self.timelines.finish_context(ctx_id);
        self.closing.push(context.close());
        tracing::debug!(ctx_id, "context destroyed");
        Ok(detached)
    }

    /// RESOURCE_CREATE_BLOB in a context. It does not attach the resource to it.
    pub fn create_blob(
        &mut self,
        ctx_id: u32,
        res_id: u32,
        request: BlobRequest,
    ) -> Result<&Resource, Error> {
        self.check_new_resource(res_id)?;
        let context = self.contexts.get(&ctx_id).ok_or(Error::NoContext(ctx_id))?;
        let resource = if request.blob_id == 0 {
            self.allocate("asgard-ring", request.size, Origin::Shared)?
        } else {
            let blob = context.renderer().take_blob(request.blob_id)?;
            if request.size > blob.size {
                return Err(Error::Size {
                    what: "this blob",
                    size: request.size,
                });
            }
            Resource::from_blob(blob, request.blob_id)
        };
        Ok(self.insert(res_id, resource))
    }

    /// RESOURCE_CREATE_3D: linear memory that guest and renderer share. It is attached to no context.
    pub fn create_3d(&mut self, res_id: u32, shape: Shape) -> Result<&Resource, Error> {
        self.check_new_resource(res_id)?;
        let resource = self.allocate("asgard-resource", shape.bytes(), Origin::Shaped(shape))?;
        Ok(self.insert(res_id, resource))
    }

    /// CTX_ATTACH_RESOURCE.
    pub fn attach(&mut self, ctx_id: u32, res_id: u32) -> Result<(), Error> {
        let context = self.contexts.get(&ctx_id).ok_or(Error::NoContext(ctx_id))?;
        let entry = self
            .resources
            .get_mut(&res_id)
            .ok_or(Error::NoResource(res_id))?;
        if entry.attached.insert(ctx_id)
            && let Origin::Shaped(shape) = entry.resource.origin()
        {
            context.renderer().add_resource(
                res_id,
                entry.resource.file(),
                entry.resource.size(),
                Some(shape),
            )?;
        }
        Ok(())
    }

    /// CTX_DETACH_RESOURCE; a ring in it stops. Returns how many contexts still have it.
    pub fn detach(&mut self, ctx_id: u32, res_id: u32) -> Result<usize, Error> {
        let context = self
            .contexts
            .get_mut(&ctx_id)
            .ok_or(Error::NoContext(ctx_id))?;
        let entry = self
            .resources
            .get_mut(&res_id)
            .ok_or(Error::NoResource(res_id))?;
        if !entry.attached.remove(&ctx_id) {
            return Err(Error::NotAttached { ctx_id, res_id });
        }
        context.forget(res_id);
        Ok(entry.attached.len())
    }

    /// RESOURCE_UNREF: the id is gone, and rings in it stop. Memory lives on while somebody uses it.
    pub fn unref(&mut self, res_id: u32) -> Result<(), Error> {
        let entry = self
            .resources
            .remove(&res_id)
            .ok_or(Error::NoResource(res_id))?;
        for ctx_id in &entry.attached {
            if let Some(context) = self.contexts.get_mut(ctx_id) {
                context.forget(res_id);
            }
        }
        if !matches!(entry.resource.origin(), Origin::Renderer(_)) {
            self.memory = self.memory.saturating_sub(entry.resource.size());
        }
        Ok(())
    }

    /// A resource that exists.
    pub fn resource(&self, res_id: u32) -> Result<&Resource, Error> {
        self.resources
            .get(&res_id)
            .map(|entry| &entry.resource)
            .ok_or(Error::NoResource(res_id))
    }

    /// How many contexts a resource is attached to.
    pub fn attachments(&self, res_id: u32) -> usize {
        self.resources
            .get(&res_id)
            .map_or(0, |entry| entry.attached.len())
    }

    /// SUBMIT_3D; an empty command does nothing. A fence that the guest wants with it is queued on the same `ring` afterwards.
    pub fn submit(&mut self, ctx_id: u32, ring: Ring, command: &[u8]) -> Result<(), Error> {
        let context = self
            .contexts
            .get_mut(&ctx_id)
            .ok_or(Error::NoContext(ctx_id))?;
        if command.is_empty() {
            return Ok(());
        }
        match Command::parse(command)? {
            Command::ContextCreate { resource_id } => {
                let entry = self
                    .resources
                    .get(&resource_id)
                    .ok_or(Error::NoResource(resource_id))?;
                if !entry.attached.contains(&ctx_id) {
                    return Err(Error::NotAttached {
                        ctx_id,
                        res_id: resource_id,
                    });
                }
                context.start_ring(resource_id, &entry.resource, &self.config)
            }
            Command::ContextPing { resource_id }
            | Command::ContextPingWithResponse { resource_id, .. } => context.ping(resource_id),
            Command::CreateExportSyncVk { device, fence }
            | Command::CreateImportSyncVk { device, fence } => {
                let task = self.timelines.begin(ring)?;
                context
                    .renderer()
                    .when_signaled(device, fence, Box::new(move || drop(task)))?;
                Ok(())
            }
            Command::PlaceholderVk => Ok(()),
            Command::CreateExportSync { .. } | Command::CreateImportSync { .. } => {
                Err(Error::Unsupported("GL sync"))
            }
            Command::CreateQsriExportVk { .. } => {
                Err(Error::Unsupported("fence of a presented image"))
            }
            Command::ResourceCreate3d(_) => Err(Error::Unsupported("arguments of a blob")),
            Command::AcquireSync { .. } => Err(Error::Unsupported("external sync")),
            _ => Err(Error::Unsupported("new command")),
        }
    }

    /// Queues a fence behind everything submitted to `ring`; `done` may run before this returns.
    pub fn fence(&self, ring: Ring, done: Done) -> Result<(), Error> {
        if let Ring::Context { ctx_id, .. } = ring
            && !self.contexts.contains_key(&ctx_id)
        {
            return Err(Error::NoContext(ctx_id));
        }
        self.timelines.fence(ring, done)
    }

    /// The fence timelines, for work that the VMM's side orders by itself.
    pub fn timelines(&self) -> &Timelines {
        &self.timelines
    }

    /// Destroys every context and waits for their threads and the driver, but not longer than `patience`.
    pub fn finish(mut self, patience: Duration) -> Summary {
        let ids: Vec<u32> = self.contexts.keys().copied().collect();
        for ctx_id in ids {
            // The id comes from the table itself.
            let _ = self.destroy_context(ctx_id);
        }
        let deadline = Instant::now() + patience;
        for mut closing in self.closing {
            match closing.wait(deadline) {
                Some(summary) => self.summary.add(&summary),
                None => tracing::warn!("a context did not end in time"),
            }
        }
        self.summary
    }

    fn check_new_resource(&self, res_id: u32) -> Result<(), Error> {
        if res_id == 0 || self.resources.contains_key(&res_id) {
            return Err(Error::ResourceId(res_id));
        }
        let limit = self.config.limits.resources;
        if self.resources.len() >= limit {
            return Err(Error::Limit {
                what: "resources",
                limit: limit as u64,
            });
        }
        Ok(())
    }

    fn allocate(&self, name: &str, size: u64, origin: Origin) -> Result<Resource, Error> {
        let page = rustix::param::page_size() as u64;
        let limit = self.config.limits.memory;
        let size = match size.checked_next_multiple_of(page) {
            Some(size) if size > 0 && i64::try_from(size).is_ok() => size,
            _ => {
                return Err(Error::Size {
                    what: "a resource",
                    size,
                });
            }
        };
        match self.memory.checked_add(size) {
            Some(total) if total <= limit => Resource::allocate(name, size, origin),
            _ => Err(Error::Limit {
                what: "bytes of resources",
                limit,
            }),
        }
    }

    fn insert(&mut self, res_id: u32, resource: Resource) -> &Resource {
        if !matches!(resource.origin(), Origin::Renderer(_)) {
            self.memory = self.memory.saturating_add(resource.size());
        }
        &self
            .resources
            .entry(res_id)
            .or_insert(Entry {
                resource,
                attached: BTreeSet::new(),
            })
            .resource
    }
}
