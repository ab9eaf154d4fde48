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
use crate::renderer::{self, Features, Renderer};
use crate::resource::{Origin, Resource};
use crate::ring_thread::{Begin, Successor};

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
    /// What guests are offered of Asgard's own part of the wire.
    pub wire_features: Features,
    /// Bytes of a ring's data buffer.
    pub buffer_size: u32,
    /// How far a ring's write pointer moves at each small transfer.
    pub flush_interval: u32,
    /// How long an idle ring thread looks for more before it sleeps.
    pub spin: Duration,
    /// Behaves as upstream's host, for tests of guest drivers (WIRE.md, section 8.1).
    pub as_upstream: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            batched_descriptor_sets: true,
            wire_features: Features::ALL,
            buffer_size: layout::DEFAULT_BUFFER_SIZE,
            flush_interval: 8192,
            spin: Duration::from_micros(50),
            as_upstream: false,
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
    /// Packets that were answered.
    pub answers: u64,
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
    /// Bits of what any of the guests used of Asgard's own part of the wire.
    pub wire_features: u64,
}

impl Summary {
    /// Adds another summary to this one.
    pub fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.contexts, other.contexts),
            (&mut self.rings, other.rings),
            (&mut self.packets, other.packets),
            (&mut self.answers, other.answers),
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
        self.wire_features |= other.wire_features;
    }
}

/// RESOURCE_CREATE_BLOB, as far as this device cares.
#[derive(Clone, Copy, Debug)]
pub struct BlobRequest {
    /// 0 for new memory (a ring's), else what the renderer published under this id.
    pub blob_id: u64,
    /// Bytes.
    pub size: u64,
    /// Other contexts may import it.
    pub shareable: bool,
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
    successor: Option<Successor>,
    lost: bool,
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
            successor: None,
            lost: false,
        }
    }

    /// Who takes over the rings of contexts that fail; for contexts that are created from now on.
    pub fn set_successor(&mut self, successor: Successor) {
        self.successor = Some(successor);
    }

    /// Answers every command of contexts that are created from now on with a lost device.
    pub fn lose(&mut self) {
        self.lost = true;
    }

    /// The bytes of a capset.
    pub fn capset(&self, id: u32, version: u32) -> Result<Vec<u8>, Error> {
        capset::bytes(
            &self.config,
            self.renderer
                .color_buffer_memory_index(self.config.as_upstream),
            id,
            version,
        )
    }

    /// What a guest learns about the capset at `index` before it reads it.
    pub fn capset_info(&self, index: u32) -> Option<capset::Info> {
        capset::info(&self.config, index)
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
            features: self.config.wire_features,
            inline_uniform_blocks: !self.config.batched_descriptor_sets,
            as_upstream: self.config.as_upstream,
            lost: self.lost,
        };
        let renderer = self.renderer.create_context(name, limits);
        self.contexts.insert(
            ctx_id,
            Context::new(ctx_id, name, renderer, self.successor.clone()),
        );
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
            Resource::from_blob(blob, request.blob_id).shareable(request.shareable)
        };
        Ok(self.insert(res_id, resource))
    }

    /// RESOURCE_CREATE_3D: linear memory that guest and renderer share. It is attached to no context.
    pub fn create_3d(&mut self, res_id: u32, size: u64) -> Result<&Resource, Error> {
        self.check_new_resource(res_id)?;
        let resource = self.allocate("asgard-resource", size, Origin::Shaped)?;
        Ok(self.insert(res_id, resource))
    }

    /// Memory that another process made, under an id of this device's. It is attached to no context.
    pub fn import(&mut self, res_id: u32, resource: Resource) -> Result<(), Error> {
        self.check_new_resource(res_id)?;
        self.insert(res_id, resource);
        Ok(())
    }

    /// CTX_ATTACH_RESOURCE.
    pub fn attach(&mut self, ctx_id: u32, res_id: u32) -> Result<(), Error> {
        let context = self.contexts.get(&ctx_id).ok_or(Error::NoContext(ctx_id))?;
        let entry = self
            .resources
            .get_mut(&res_id)
            .ok_or(Error::NoResource(res_id))?;
        if entry.attached.contains(&ctx_id) {
            return Ok(());
        }
        if entry.resource.is_shareable() {
            let size = entry.resource.size();
            let memory = entry.resource.file().try_clone_to_owned();
            let memory = memory.map_err(|source| Error::Memory { size, source })?;
            context.renderer().add_resource(res_id, memory, size);
        }
        entry.attached.insert(ctx_id);
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
        if Self::allocates(entry.resource.origin()) {
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
                let begin = if self.lost { Begin::Lost } else { Begin::Anew };
                context.start_ring(resource_id, &entry.resource, &self.config, begin)
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
            Command::ResourceCreate3d { .. } => Err(Error::Unsupported("arguments of a blob")),
            Command::AcquireSync { .. } => Err(Error::Unsupported("external sync")),
            _ => Err(Error::Unsupported("new command")),
        }
    }

    /// Takes the place of a host that has died at the ring in a resource.
    pub fn take_over_ring(&mut self, ctx_id: u32, res_id: u32) -> Result<(), Error> {
        let context = self
            .contexts
            .get_mut(&ctx_id)
            .ok_or(Error::NoContext(ctx_id))?;
        let entry = self
            .resources
            .get(&res_id)
            .filter(|entry| entry.attached.contains(&ctx_id))
            .ok_or(Error::NotAttached { ctx_id, res_id })?;
        context.start_ring(res_id, &entry.resource, &self.config, Begin::TakeOver)
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

    /// Destroys every context and waits for their threads and the driver, but not longer than
    /// `patience`. False when some have not ended by then.
    pub fn finish(mut self, patience: Duration) -> (Summary, bool) {
        let ids: Vec<u32> = self.contexts.keys().copied().collect();
        for ctx_id in ids {
            // The id comes from the table itself.
            let _ = self.destroy_context(ctx_id);
        }
        let deadline = Instant::now() + patience;
        let mut complete = true;
        for mut closing in self.closing {
            match closing.wait(deadline) {
                Some(summary) => self.summary.add(&summary),
                None => complete = false,
            }
        }
        (self.summary, complete)
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

    /// Memory from there is this device's own.
    fn allocates(origin: &Origin) -> bool {
        matches!(origin, Origin::Shared | Origin::Shaped)
    }

    fn insert(&mut self, res_id: u32, resource: Resource) -> &Resource {
        if Self::allocates(resource.origin()) {
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

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::sync::atomic::{AtomicU32, Ordering};

    use parking_lot::Mutex;

    use super::*;
    use crate::renderer::null::Null;
    use crate::renderer::{Blob, Description, Replies, Stats, Stream};

    const RING_0: Ring = Ring::Context {
        ctx_id: 1,
        ring_idx: 0,
    };
    const RING_1: Ring = Ring::Context {
        ctx_id: 1,
        ring_idx: 1,
    };

    /// Its Vulkan fences signal when the test says so; it notes what it is told.
    #[derive(Debug, Default)]
    struct Manual(Arc<Notes>);

    #[derive(Default)]
    struct Notes {
        fences: Mutex<Vec<(u64, Done)>>,
        calls: Mutex<Vec<String>>,
    }

    impl std::fmt::Debug for Notes {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            self.calls.lock().fmt(f)
        }
    }

    impl Notes {
        fn signal(&self, fence: u64) {
            let position = self
                .fences
                .lock()
                .iter()
                .position(|(waiting, _)| *waiting == fence);
            let (_, done) = self.fences.lock().swap_remove(position.unwrap());
            done();
        }
        fn note(&self, call: impl Into<String>) {
            self.calls.lock().push(call.into());
        }
    }

    impl Renderer for Manual {
        fn describe(&self) -> Description {
            Description::default()
        }
        fn color_buffer_memory_index(&self, _as_upstream: bool) -> u32 {
            3
        }
        fn create_context(
            &self,
            name: &str,
            _limits: renderer::Limits,
        ) -> Arc<dyn renderer::Context> {
            self.0.note(format!("context {name}"));
            Arc::new(ManualContext(Arc::clone(&self.0)))
        }
    }

    #[derive(Debug)]
    struct ManualContext(Arc<Notes>);

    impl renderer::Context for ManualContext {
        fn open_stream(&self) -> Box<dyn Stream> {
            Box::new(Discard(Vec::new()))
        }
        fn take_blob(&self, blob_id: u64) -> Result<Blob, renderer::Error> {
            Err(renderer::Error::NoBlob(blob_id))
        }
        fn add_resource(&self, res_id: u32, _memory: OwnedFd, size: u64) {
            self.0.note(format!("add {res_id} {size}"));
        }
        fn remove_resource(&self, res_id: u32) {
            self.0.note(format!("remove {res_id}"));
        }
        fn when_signaled(
            &self,
            _device: u64,
            fence: u64,
            done: Done,
        ) -> Result<(), renderer::Error> {
            self.0.fences.lock().push((fence, done));
            Ok(())
        }
        fn error(&self) -> Option<String> {
            None
        }
        fn poison(&self, _why: &str) {}
        fn stats(&self) -> Stats {
            Stats {
                packets: 10,
                ..Stats::default()
            }
        }
        fn close(&self) {
            self.0.note("close");
        }
    }

    struct Discard(Vec<u8>);

    impl Stream for Discard {
        fn input(&mut self) -> &mut Vec<u8> {
            &mut self.0
        }
        fn run(&mut self, _replies: &mut dyn Replies) -> Result<(), renderer::Error> {
            self.0.clear();
            Ok(())
        }
    }

    fn device() -> (Device, Arc<Notes>) {
        let notes = Arc::new(Notes::default());
        let mut device = Device::new(Arc::new(Manual(Arc::clone(&notes))), Config::default());
        device.create_context(1, 3, "one").unwrap();
        (device, notes)
    }

    fn bytes(command: Command) -> Vec<u8> {
        let mut bytes = Vec::new();
        command.write(&mut bytes);
        bytes
    }

    fn export(fence: u64) -> Vec<u8> {
        bytes(Command::CreateExportSyncVk { device: 1, fence })
    }

    #[derive(Clone, Default)]
    struct Flag(Arc<AtomicU32>);

    impl Flag {
        fn raise(&self) -> Done {
            let flag = self.clone();
            Box::new(move || {
                flag.0.fetch_add(1, Ordering::SeqCst);
            })
        }
        fn count(&self) -> u32 {
            self.0.load(Ordering::SeqCst)
        }
    }

    #[test]
    fn a_fence_follows_the_vulkan_fence_and_its_ring() {
        let (mut device, notes) = device();
        let (first, second, barrier) = (Flag::default(), Flag::default(), Flag::default());
        device.submit(1, RING_0, &export(100)).unwrap();
        device.fence(RING_0, first.raise()).unwrap();
        device.submit(1, RING_0, &export(200)).unwrap();
        device.fence(RING_0, second.raise()).unwrap();
        device
            .submit(1, RING_1, &bytes(Command::PlaceholderVk))
            .unwrap();
        device.fence(RING_1, barrier.raise()).unwrap();
        assert_eq!((first.count(), second.count(), barrier.count()), (0, 0, 1));
        notes.signal(200);
        assert_eq!((first.count(), second.count()), (0, 0));
        notes.signal(100);
        assert_eq!((first.count(), second.count()), (1, 1));
    }

    #[test]
    fn a_context_that_goes_away_takes_its_fences_along() {
        let (mut device, notes) = device();
        let flag = Flag::default();
        device.submit(1, RING_0, &export(100)).unwrap();
        device.fence(RING_0, flag.raise()).unwrap();
        device.destroy_context(1).unwrap();
        assert_eq!(flag.count(), 1);
        notes.signal(100);
        assert_eq!(flag.count(), 1);
        assert!(device.fence(RING_0, flag.raise()).is_err());
        let (summary, complete) = device.finish(Duration::from_secs(10));
        assert!(complete);
        assert_eq!((summary.contexts, summary.packets), (1, 10));
        assert_eq!(*notes.calls.lock(), ["context one", "close"]);
    }

    #[test]
    fn shaped_resources_are_made_known_to_the_contexts_that_have_them() {
        let (mut device, notes) = device();
        device.create_context(2, 3, "two").unwrap();
        device.create_3d(7, 256).unwrap();
        for ctx_id in [1, 2] {
            device.attach(ctx_id, 7).unwrap();
            device.attach(ctx_id, 7).unwrap();
        }
        assert_eq!(device.attachments(7), 2);
        assert_eq!(device.detach(1, 7).unwrap(), 1);
        assert!(matches!(
            device.detach(1, 7),
            Err(Error::NotAttached { .. })
        ));
        device.unref(7).unwrap();
        assert!(device.resource(7).is_err());
        let calls = notes.calls.lock().split_off(2);
        assert_eq!(calls, ["add 7 4096", "add 7 4096", "remove 7", "remove 7"]);
    }

    #[test]
    fn ids_are_used_once_at_a_time() {
        let (mut device, _) = device();
        assert!(matches!(
            device.create_context(1, 3, ""),
            Err(Error::ContextId(1))
        ));
        assert!(matches!(
            device.create_context(0, 3, ""),
            Err(Error::ContextId(0))
        ));
        let request = BlobRequest {
            blob_id: 0,
            size: 4096,
            shareable: false,
        };
        device.create_blob(1, 5, request).unwrap();
        assert!(matches!(
            device.create_blob(1, 5, request),
            Err(Error::ResourceId(5))
        ));
        assert!(matches!(
            device.create_blob(1, 0, request),
            Err(Error::ResourceId(0))
        ));
        device.unref(5).unwrap();
        device.create_blob(1, 5, request).unwrap();
    }

    #[test]
    fn freed_memory_counts_no_more() {
        let limits = Limits {
            memory: 8192,
            ..Limits::default()
        };
        let mut device = Device::new(
            Arc::new(Null),
            Config {
                limits,
                ..Config::default()
            },
        );
        device.create_context(1, 3, "").unwrap();
        let request = BlobRequest {
            blob_id: 0,
            size: 5000,
            shareable: false,
        };
        for _ in 0..10 {
            device.create_blob(1, 1, request).unwrap();
            assert!(matches!(
                device.create_blob(1, 2, request),
                Err(Error::Limit { .. })
            ));
            device.unref(1).unwrap();
        }
    }

    #[test]
    fn every_short_or_strange_command_is_an_error() {
        let (mut device, _) = device();
        device.submit(1, Ring::Global, &[]).unwrap();
        for len in 1..8 {
            assert!(device.submit(1, Ring::Global, &[0; 64][..len]).is_err());
        }
        for opcode in [0_u32, 0x1000, 0x1004, 0xa005, u32::MAX] {
            assert!(
                device
                    .submit(1, Ring::Global, &opcode.to_le_bytes())
                    .is_err()
            );
        }
    }
}
