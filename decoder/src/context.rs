//! One guest process: its objects, its order, its limits, and its end.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use asgard_protocol::driver::{DeviceFns, InstanceFns};
use asgard_protocol::extension::Features;
use asgard_protocol::types::*;
use parking_lot::{Mutex, RwLock};

use crate::memory_types::MemoryTypes;
use crate::objects::Objects;
use crate::recording::Recording;
use crate::renderer::{Renderer, SharedMemory};
use crate::sequence::Sequence;
use crate::signal::Signals;
use crate::status_page::StatusPage;
use crate::stream::Stream;
use crate::vulkan::{destroy_leftover, known_upstream};
use crate::{Blob, Error, Limits, Stats};

/// A guest's VkInstance.
pub(crate) struct Instance {
    pub(crate) handle: VkInstance,
    pub(crate) fns: InstanceFns,
    /// The one physical device, once it was asked for.
    pub(crate) physical: Mutex<Option<(VkPhysicalDevice, u64)>>,
}

/// A guest's VkDevice.
pub(crate) struct Device {
    pub(crate) token: u64,
    pub(crate) handle: VkDevice,
    pub(crate) fns: DeviceFns,
    /// Queues by family, index and flags.
    pub(crate) queues: Mutex<HashMap<(u32, u32, u32), u64>>,
    /// Images that the host copies from and to by itself, by token.
    pub(crate) images: Mutex<HashMap<u64, CopiedImage>>,
    /// False once it is being destroyed; held by whoever uses it behind the guest's back.
    pub(crate) live: RwLock<bool>,
}

/// What is known of an image that is made for host image copies.
#[derive(Clone, Copy)]
pub(crate) struct CopiedImage {
    pub(crate) format: VkFormat,
    pub(crate) extent: VkExtent3D,
    pub(crate) levels: u32,
    pub(crate) layers: u32,
}

/// A guest's VkQueue.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) handle: VkQueue,
    /// Held around everything that Vulkan wants externally synchronised on a queue: the guest does
    /// that among its own calls, and this adds ours.
    pub(crate) lock: Mutex<()>,
    /// How many submissions there were.
    pub(crate) submitted: AtomicU64,
    /// So many of the first of them were shown as complete on the status page.
    pub(crate) completed: AtomicU64,
}

impl Queue {
    pub(crate) fn new(handle: VkQueue) -> Self {
        Self {
            handle,
            lock: Mutex::new(()),
            submitted: AtomicU64::new(0),
            completed: AtomicU64::new(0),
        }
    }
}

/// A guest's VkDeviceMemory.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) handle: VkDeviceMemory,
    /// What it was imported from: guests may map that.
    pub(crate) shared: Option<SharedMemory>,
    /// The blob id that the guest chose at allocation.
    pub(crate) blob_id: Option<u64>,
    pub(crate) charged: u64,
}

/// A guest's VkDescriptorPool.
#[derive(Debug, Default)]
pub(crate) struct DescriptorPool {
    /// The guest manages its sets by itself and names them by ids from here.
    pub(crate) batched: bool,
    pub(crate) max_sets: u32,
    /// Tokens of its sets.
    pub(crate) sets: HashSet<u64>,
}

/// Memory that the device made known under a resource id.
#[derive(Debug)]
pub(crate) struct Resource {
    pub(crate) fd: OwnedFd,
    pub(crate) size: u64,
}

/// One guest process: its objects, its sequence counter, its limits.
pub struct Context {
    pub(crate) renderer: Arc<Renderer>,
    name: String,
    pub(crate) limits: Limits,
    pub(crate) objects: Objects,
    pub(crate) sequence: Sequence,
    dead: AtomicBool,
    error: Mutex<Option<String>>,
    pub(crate) counters: Counters,
    pub(crate) instances: RwLock<HashMap<u64, Arc<Instance>>>,
    pub(crate) devices: RwLock<HashMap<u64, Arc<Device>>>,
    pub(crate) queues: RwLock<HashMap<u64, Arc<Queue>>>,
    pub(crate) memory_types: MemoryTypes,
    pub(crate) memories: Mutex<HashMap<u64, Memory>>,
    pub(crate) memory_used: AtomicU64,
    blobs: Mutex<HashMap<u64, Blob>>,
    next_blob: AtomicU64,
    pub(crate) resources: Mutex<HashMap<u32, Resource>>,
    /// Buffers and images that memory can be bound to piece by piece, by their device's token, kind and handle.
    pub(crate) sparse: Mutex<HashSet<(u64, Kind, u64)>>,
    pub(crate) descriptor_pools: Mutex<HashMap<u64, DescriptorPool>>,
    pub(crate) command_pools: Mutex<HashMap<u64, HashSet<u64>>>,
    pub(crate) templates: Mutex<HashMap<u64, Arc<[VkDescriptorUpdateTemplateEntry]>>>,
    pub(crate) signals: Signals,
    pub(crate) status_page: OnceLock<Arc<StatusPage>>,
    /// Where streams are recorded, and how many were.
    recordings: Mutex<(Option<PathBuf>, u64)>,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) packets: AtomicU64,
    pub(crate) answers: AtomicU64,
    pub(crate) staged_commands: AtomicU64,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
    pub(crate) submits: AtomicU64,
    /// Of all streams together.
    pub(crate) features: AtomicU64,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("name", &self.name)
            .field("objects", &self.objects.live())
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

impl Context {
    /// A new, empty context.
    pub fn new(renderer: Arc<Renderer>, name: &str, limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            memory_types: renderer.memory_types(limits.as_upstream).clone(),
            renderer,
            name: name.to_owned(),
            objects: Objects::new(limits.objects, !limits.as_upstream),
            limits,
            sequence: Sequence::default(),
            dead: AtomicBool::new(false),
            error: Mutex::default(),
            counters: Counters::default(),
            instances: RwLock::default(),
            devices: RwLock::default(),
            queues: RwLock::default(),
            memories: Mutex::default(),
            memory_used: AtomicU64::new(0),
            blobs: Mutex::default(),
            next_blob: AtomicU64::new(1),
            resources: Mutex::default(),
            sparse: Mutex::default(),
            descriptor_pools: Mutex::default(),
            command_pools: Mutex::default(),
            templates: Mutex::default(),
            signals: Signals::default(),
            status_page: OnceLock::new(),
            recordings: Mutex::default(),
        })
    }

    /// A guest may send this command.
    #[inline]
    pub(crate) fn check_known(&self, opcode: u32) -> Result<(), Error> {
        if self.limits.as_upstream && !known_upstream(opcode) {
            return Err(Error::UnknownOpcode(opcode));
        }
        Ok(())
    }

    /// The decoder of one more guest thread.
    pub fn open_stream(self: &Arc<Self>) -> Stream {
        Stream::new(Arc::clone(self))
    }

    /// Records every stream that is opened from now on into a file in this folder.
    pub fn record(&self, folder: PathBuf) {
        self.recordings.lock().0 = Some(folder);
    }

    pub(crate) fn start_recording(&self) -> Option<Recording> {
        let mut recordings = self.recordings.lock();
        let number = recordings.1;
        recordings.1 += 1;
        let folder = recordings.0.as_deref()?;
        Some(Recording::start(folder, &self.name, number))
    }

    /// Makes memory mappable under `blob_id`, or under a new id.
    pub(crate) fn publish(
        &self,
        blob_id: Option<u64>,
        memory: &SharedMemory,
    ) -> Result<u64, Error> {
        let fd = memory.fd.try_clone().map_err(|_| Error::Limit {
            what: "file descriptors",
            limit: 0,
        })?;
        let id = blob_id.unwrap_or_else(|| self.next_blob.fetch_add(1, Ordering::Relaxed));
        // Ordinary memory: whatever the Vulkan type says, the processor may cache it.
        let blob = Blob {
            fd,
            size: memory.size,
            map_info: 1,
        };
        self.blobs.lock().insert(id, blob);
        Ok(id)
    }

    /// Hands over the memory published under `blob_id`; each id can be taken once.
    ///
    /// # Errors
    /// [`Error::NoBlob`].
    pub fn take_blob(&self, blob_id: u64) -> Result<Blob, Error> {
        self.blobs
            .lock()
            .remove(&blob_id)
            .ok_or(Error::NoBlob(blob_id))
    }

    /// Makes memory of the device's own known to this guest process under a resource id.
    /// It must be sealed against shrinking.
    pub fn add_resource(&self, res_id: u32, memory: OwnedFd, size: u64) {
        self.resources
            .lock()
            .insert(res_id, Resource { fd: memory, size });
    }

    /// Forgets a resource; what was allocated from it lives on.
    pub fn remove_resource(&self, res_id: u32) {
        self.resources.lock().remove(&res_id);
    }

    /// Calls `done` once the VkFence or VkSemaphore behind the token signals (0xa000), or the context
    /// dies.
    ///
    /// # Errors
    /// A token that is neither.
    pub fn when_signaled(
        self: &Arc<Self>,
        device: u64,
        fence_or_semaphore: u64,
        done: Box<dyn FnOnce() + Send>,
    ) -> Result<(), Error> {
        self.signals.add(self, device, fence_or_semaphore, done)
    }

    /// Why this context is dead, if it is.
    pub fn error(&self) -> Option<String> {
        self.error.lock().clone()
    }

    /// Nothing more is decoded.
    #[inline]
    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// Marks the context dead: every stream stops with an error at its next step, and waits end.
    pub fn poison(&self, why: &str) {
        let mut error = self.error.lock();
        if error.is_none() {
            tracing::debug!(context = self.name, why, "context ends");
            *error = Some(why.to_owned());
        }
        drop(error);
        self.dead.store(true, Ordering::SeqCst);
        self.sequence.wake_all();
        self.signals.release_all();
    }

    /// What went through so far.
    pub fn stats(&self) -> Stats {
        let read = |c: &AtomicU64| c.load(Ordering::Relaxed);
        Stats {
            packets: read(&self.counters.packets),
            answers: read(&self.counters.answers),
            staged_commands: read(&self.counters.staged_commands),
            bytes_in: read(&self.counters.bytes_in),
            bytes_out: read(&self.counters.bytes_out),
            submits: read(&self.counters.submits),
            features: Features::known(read(&self.counters.features)),
        }
    }

    /// Ends the context: poisons it, waits for the device, destroys every host object. Call after all
    /// streams are dropped.
    pub fn close(&self) {
        self.poison("closed");
        self.signals.join();
        let devices: Vec<_> = self.devices.read().values().cloned().collect();
        for device in devices {
            self.destroy_device(&device);
        }
        let instances: Vec<_> = self.instances.write().drain().collect();
        for (token, instance) in instances {
            self.objects.remove(token);
            if let Some(destroy) = instance.fns.vkDestroyInstance {
                // SAFETY: its devices are gone, and no stream uses it any more.
                unsafe { destroy(instance.handle, std::ptr::null()) };
            }
        }
        self.memories.lock().clear();
        self.blobs.lock().clear();
        self.resources.lock().clear();
    }

    /// Destroys a device and everything that came from it.
    pub(crate) fn destroy_device(&self, device: &Device) {
        // Of several threads that destroy it, one does.
        if self.devices.write().remove(&device.token).is_none() {
            return;
        }
        self.objects.remove(device.token);
        *device.live.write() = false;
        if let Some(wait) = device.fns.vkDeviceWaitIdle {
            // SAFETY: the device is live.
            unsafe { wait(device.handle) };
        }
        let children = self.objects.all();
        let children = || children.iter().filter(|o| o.parent == device.token);
        self.signals.leave(
            children()
                .filter(|o| o.kind == Kind::Queue)
                .map(|o| o.token),
        );
        for object in children() {
            if !self.objects.remove(object.token) {
                continue;
            }
            match object.kind {
                Kind::Fence => self.signals.fence_destroyed(object.token),
                Kind::Semaphore => self.signals.semaphore_destroyed(VkSemaphore(object.handle)),
                Kind::CommandPool => drop(self.command_pools.lock().remove(&object.token)),
                Kind::DescriptorPool => drop(self.descriptor_pools.lock().remove(&object.token)),
                Kind::DescriptorUpdateTemplate => drop(self.templates.lock().remove(&object.token)),
                kind @ (Kind::Buffer | Kind::Image) => {
                    self.sparse
                        .lock()
                        .remove(&(device.token, kind, object.handle));
                }
                _ => {}
            }
            destroy_leftover(object.kind, device.handle, &device.fns, object.handle);
            if object.kind == Kind::DeviceMemory {
                self.forget_memory(object.token);
            }
            if object.kind == Kind::Queue {
                self.queues.write().remove(&object.token);
            }
        }
        if let Some(destroy) = device.fns.vkDestroyDevice {
            // SAFETY: idle, and everything of it is gone.
            unsafe { destroy(device.handle, std::ptr::null()) };
        }
    }

    /// The token of a command pool, by its handle.
    pub(crate) fn command_pool_token(&self, device: u64, handle: u64) -> u64 {
        let pools = self.command_pools.lock();
        self.token_among(pools.keys(), device, handle)
    }

    /// The token of a descriptor pool, by its handle.
    pub(crate) fn descriptor_pool_token(&self, device: u64, handle: u64) -> u64 {
        let pools = self.descriptor_pools.lock();
        self.token_among(pools.keys(), device, handle)
    }

    /// The token of a device's object, by its handle; 0 when it is not among these.
    fn token_among<'a>(
        &self,
        mut tokens: impl Iterator<Item = &'a u64>,
        device: u64,
        handle: u64,
    ) -> u64 {
        let is_it = |token: &&u64| {
            self.objects.get(**token) == Some(handle)
                && self.objects.parent(**token) == Some(device)
        };
        tokens.find(is_it).copied().unwrap_or(0)
    }

    /// Gives back what an allocation was charged.
    pub(crate) fn forget_memory(&self, token: u64) {
        if let Some(memory) = self.memories.lock().remove(&token) {
            self.memory_used
                .fetch_sub(memory.charged, Ordering::Relaxed);
        }
    }
}
