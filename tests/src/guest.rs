//! A guest of our own, without a driver: it says to a server whatever a test wants, right or wrong.
//!
//! [`Guest`] is a connection with a context, [`Thread`] one of its rings, [`Painter`] a guest that behaves: it has memory filled, and looks at the result through its own mapping.

use std::cell::Cell;
use std::ffi::{CStr, c_void};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use asgard_asg::Mapping;
use asgard_asg::guest::{GuestChannel, GuestConfig, Ping};
use asgard_asg::kumquat::{
    BLOB_FLAG_MAPPABLE, BLOB_MEM_HOST3D, CtxCreate, CtxResource, FENCE, Packet, Request,
    ResourceCreateBlob, Response, Socket,
};
use asgard_asg::layout;
use asgard_asg::submit::Command as Submitted;
use asgard_protocol::types::*;
use asgard_protocol::wire::Tokens;
use asgard_protocol::{Arena, Command, DecodeError, Reader, Writer, commands as p, packet, zeroed};

/// How long an answer may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of a ring's blob.
pub const RING_BYTES: usize = layout::blob_size(layout::DEFAULT_BUFFER_SIZE);

/// A connection to a server.
#[derive(Debug)]
pub struct Guest {
    /// For requests that no method makes.
    pub socket: Arc<Socket>,
    sequence: Rc<Cell<u32>>,
}

/// Whether the descriptor becomes readable, or its other end goes, within this time.
pub fn readable_within(fd: impl AsFd, patience: Duration) -> bool {
    use std::os::fd::AsRawFd;
    let mut poll = libc::pollfd {
        fd: fd.as_fd().as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let limit = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: one descriptor, which is open.
    unsafe { libc::poll(&raw mut poll, 1, limit) > 0 }
}

impl Guest {
    /// Connects; there is no context yet.
    pub fn connect(path: &Path) -> Result<Self> {
        Ok(Self {
            socket: Arc::new(Socket::connect(path)?),
            sequence: Rc::default(),
        })
    }

    /// Sends a request.
    pub fn say(&self, request: &Request<'_>) -> Result<()> {
        let mut bytes = Vec::new();
        request.write(&mut bytes);
        Ok(self.socket.send(&bytes, &[])?)
    }

    fn answer<T>(
        &self,
        take: impl FnOnce(Response<'_>, Vec<OwnedFd>) -> Option<T>,
    ) -> Result<Option<T>> {
        ensure!(
            readable_within(&*self.socket, PATIENCE),
            "no answer in time"
        );
        let mut packet = Packet::default();
        ensure!(self.socket.recv(&mut packet)?, "the server hung up");
        let fds = std::mem::take(&mut packet.fds);
        let response = packet.responses().next().context("an empty packet")??;
        if let Response::NoData { errno } = response {
            bail!("refused with errno {errno}");
        }
        Ok(take(response, fds))
    }

    /// The server has hung up, whatever it said before.
    pub fn is_hung_up(&self) -> bool {
        let end = Instant::now() + PATIENCE;
        let mut packet = Packet::default();
        while Instant::now() < end {
            if readable_within(&*self.socket, Duration::from_millis(100))
                && !self.socket.recv(&mut packet).unwrap_or(false)
            {
                return true;
            }
        }
        false
    }

    /// The server answers.
    pub fn is_served(&self) -> bool {
        self.say(&Request::GetNumCapsets).is_ok()
            && self.answer(|_, _| Some(())).is_ok_and(|a| a.is_some())
    }

    /// Makes a context.
    pub fn context(&self, name: &str) -> Result<u32> {
        self.say(&Request::CtxCreate(CtxCreate::new(3, name.as_bytes())))?;
        self.answer(|response, _| match response {
            Response::ContextCreate { ctx_id } => Some(ctx_id),
            _ => None,
        })?
        .context("no context")
    }

    /// Makes a blob: of a ring, or of what the renderer published.
    pub fn blob(&self, ctx_id: u32, blob_id: u64, size: u64) -> Result<(u32, OwnedFd)> {
        self.say(&Request::ResourceCreateBlob(ResourceCreateBlob {
            ctx_id,
            blob_mem: BLOB_MEM_HOST3D,
            blob_flags: BLOB_FLAG_MAPPABLE,
            padding: 0,
            blob_id,
            size,
        }))?;
        self.answer(|response, mut fds| match response {
            Response::ResourceCreate(resource) => Some((resource.resource_id, fds.pop()?)),
            _ => None,
        })?
        .context("no resource")
    }

    /// Submits a command; with a fence, whose descriptor comes back.
    pub fn submit(&self, ctx_id: u32, command: Submitted, fence: bool) -> Result<Option<OwnedFd>> {
        let mut bytes = Vec::new();
        command.write(&mut bytes);
        self.say(&Request::Submit3d {
            flags: if fence { FENCE } else { 0 },
            ctx_id,
            ring_idx: 0,
            in_fences: Vec::new(),
            command: &bytes,
        })?;
        if fence {
            self.answer(|_, mut fds| fds.pop())
        } else {
            Ok(None)
        }
    }

    /// Starts a ring: what a driver does for each thread.
    pub fn thread(&self, ctx_id: u32) -> Result<Thread> {
        let (res_id, fd) = self.blob(ctx_id, 0, RING_BYTES as u64)?;
        let create = Submitted::ContextCreate {
            resource_id: res_id,
        };
        let fence = self.submit(ctx_id, create, true)?.context("no fence")?;
        ensure!(readable_within(&fence, PATIENCE), "the ring never started");
        let memory = Arc::new(Mapping::map(&fd, 0, RING_BYTES)?);
        let config = GuestConfig {
            same_kernel: true,
            ..GuestConfig::default()
        };
        let alive = Alive {
            socket: Arc::clone(&self.socket),
            since: Instant::now(),
        };
        let mut channel = GuestChannel::new(Arc::clone(&memory), config, alive)?;
        // The client's flags come before the first packet.
        channel.write(&[0; 4])?;
        Ok(Thread {
            channel,
            memory,
            res_id,
            ctx_id,
            sequence: Rc::clone(&self.sequence),
        })
    }

    /// Takes a ring away from its thread.
    pub fn close(&self, thread: &Thread) -> Result<()> {
        self.say(&Request::CtxDetach(CtxResource {
            ctx_id: thread.ctx_id,
            resource_id: thread.res_id,
        }))
    }
}

/// Waits no longer than [`PATIENCE`], nor for a server that is gone.
#[derive(Debug)]
pub struct Alive {
    socket: Arc<Socket>,
    since: Instant,
}

impl Ping for Alive {
    fn ping(&mut self) -> asgard_asg::Result<()> {
        Ok(())
    }
    fn peer_alive(&mut self) -> bool {
        // Nothing else comes unasked, so readable means gone.
        self.since.elapsed() < 10 * PATIENCE && !readable_within(&*self.socket, Duration::ZERO)
    }
}

/// One ring of a guest.
#[derive(Debug)]
pub struct Thread {
    /// The guest's end.
    pub channel: GuestChannel<Alive>,
    /// Its memory, to lie in.
    pub memory: Arc<Mapping>,
    /// The ring's resource.
    pub res_id: u32,
    ctx_id: u32,
    sequence: Rc<Cell<u32>>,
}

impl Thread {
    /// The next number of the process's order.
    pub fn next(&self) -> u32 {
        self.sequence.set(self.sequence.get().wrapping_add(1));
        self.sequence.get()
    }

    /// The bytes of a command, numbered if it is to be.
    pub fn packet<C: Command>(&self, command: &C) -> Vec<u8> {
        let number = if C::ON_COMMAND_BUFFER { 0 } else { self.next() };
        encode(command, number)
    }

    /// Sends a command.
    pub fn send<C: Command>(&mut self, command: &C) -> Result<()> {
        let bytes = self.packet(command);
        Ok(self.channel.write(&bytes)?)
    }

    /// Sends a command and reads its reply into where its pointers point.
    pub fn call<C: Command>(&mut self, command: &mut C) -> Result<C::Return> {
        self.send(command)?;
        let arena = Arena::new();
        let mut reply = vec![0; 4];
        self.channel.read_reply(&mut reply)?;
        loop {
            let mut reader = Reader::reply(&reply, &arena, &Tokens);
            // SAFETY: the caller's command points to what its counts say.
            match unsafe { command.decode_reply(&mut reader) } {
                Ok(ret) => return Ok(ret),
                Err(DecodeError::Truncated) => {
                    let mut more = [0];
                    self.channel.read_reply(&mut more)?;
                    reply.extend(more);
                }
                Err(error) => bail!("the reply of {}: {error}", C::NAME),
            }
        }
    }

    /// As [`Thread::call`], for commands that must succeed.
    pub fn done<C: Command<Return = VkResult>>(&mut self, command: &mut C) -> Result<()> {
        let result = self.call(command)?;
        ensure!(result == VK_SUCCESS, "{} failed with {result}", C::NAME);
        Ok(())
    }

    /// The host has declared this stream lost, or does so soon.
    pub fn is_lost(&self) -> bool {
        use std::sync::atomic::Ordering;
        let end = Instant::now() + PATIENCE;
        let word = |at| {
            let word = self.memory.atomic_u32(at);
            word.map_or(0, |word| word.load(Ordering::SeqCst))
        };
        while Instant::now() < end {
            if word(layout::IN_ERROR) != 0 && word(layout::STATE) == layout::state::ERROR {
                return true;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        false
    }
}

/// The bytes of a command.
pub fn encode<C: Command>(command: &C, number: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    // SAFETY: the tests' commands point to what their counts say, or to nothing.
    unsafe { packet::encode(command, number, &mut Writer::new(&mut bytes, &Tokens)) };
    bytes
}

/// The bytes of a command as a recording has them.
pub fn staged<C: Command>(command: &C, out: &mut Vec<u8>) {
    // SAFETY: as in `encode`.
    unsafe { packet::encode(command, 0, &mut Writer::new(out, &Tokens).staged()) };
}

/// An instance, a device and a queue, as tokens.
#[derive(Clone, Copy, Debug)]
pub struct Objects {
    /// The instance.
    pub instance: VkInstance,
    /// The physical device.
    pub physical: VkPhysicalDevice,
    /// The device.
    pub device: VkDevice,
    /// Its first queue.
    pub queue: VkQueue,
}

impl Objects {
    /// Makes them.
    pub fn new(t: &mut Thread) -> Result<Self> {
        let instance = Self::instance(t)?;
        let (mut count, mut physical) = (1, VkPhysicalDevice(0));
        t.done(&mut p::vkEnumeratePhysicalDevices {
            instance,
            instance_token: 0,
            pPhysicalDeviceCount: &raw mut count,
            pPhysicalDevices: &raw mut physical,
        })?;
        ensure!(count == 1, "{count} devices");
        Self::of(t, instance, physical)
    }

    /// Makes an instance.
    pub fn instance(t: &mut Thread) -> Result<VkInstance> {
        let info = VkInstanceCreateInfo {
            sType: VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO,
            ..zeroed()
        };
        let mut instance = VkInstance(0);
        t.done(&mut p::vkCreateInstance {
            pCreateInfo: &raw const info,
            pAllocator: std::ptr::null(),
            pInstance: &raw mut instance,
        })?;
        Ok(instance)
    }

    /// Makes a device and asks for its queue.
    pub fn of(t: &mut Thread, instance: VkInstance, physical: VkPhysicalDevice) -> Result<Self> {
        Self::with(t, instance, physical, &[])
    }

    /// As [`Objects::of`], with these device extensions.
    pub fn with(
        t: &mut Thread,
        instance: VkInstance,
        physical: VkPhysicalDevice,
        extensions: &[&CStr],
    ) -> Result<Self> {
        let extensions: Vec<_> = extensions.iter().map(|name| name.as_ptr()).collect();
        let priority = 1.0f32;
        let queue = VkDeviceQueueCreateInfo {
            sType: VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO,
            queueCount: 1,
            pQueuePriorities: &raw const priority,
            ..zeroed()
        };
        let info = VkDeviceCreateInfo {
            sType: VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
            queueCreateInfoCount: 1,
            pQueueCreateInfos: &raw const queue,
            enabledExtensionCount: extensions.len() as u32,
            ppEnabledExtensionNames: extensions.as_ptr(),
            ..zeroed()
        };
        let mut device = VkDevice(0);
        t.done(&mut p::vkCreateDevice {
            physicalDevice: physical,
            physicalDevice_token: 0,
            pCreateInfo: &raw const info,
            pAllocator: std::ptr::null(),
            pDevice: &raw mut device,
        })?;
        let mut queue = VkQueue(0);
        t.call(&mut p::vkGetDeviceQueue {
            device,
            pQueue: &raw mut queue,
            ..zeroed()
        })?;
        Ok(Self {
            instance,
            physical,
            device,
            queue,
        })
    }

    /// Makes a buffer that transfers can write to.
    pub fn buffer(&self, t: &mut Thread, size: u64) -> Result<VkBuffer> {
        let info = VkBufferCreateInfo {
            sType: VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO,
            size,
            usage: VK_BUFFER_USAGE_TRANSFER_DST_BIT | VK_BUFFER_USAGE_UNIFORM_BUFFER_BIT,
            ..zeroed()
        };
        let mut buffer = VkBuffer(0);
        t.done(&mut p::vkCreateBuffer {
            device: self.device,
            device_token: 0,
            pCreateInfo: &raw const info,
            pAllocator: std::ptr::null(),
            pBuffer: &raw mut buffer,
        })?;
        Ok(buffer)
    }

    /// Allocates memory that can be mapped.
    pub fn memory(&self, t: &mut Thread, size: u64) -> Result<VkDeviceMemory> {
        let mut properties = zeroed::<VkPhysicalDeviceMemoryProperties>();
        t.call(&mut p::vkGetPhysicalDeviceMemoryProperties {
            physicalDevice: self.physical,
            physicalDevice_token: 0,
            pMemoryProperties: &raw mut properties,
        })?;
        let mappable = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT;
        let index = properties
            .memoryTypes
            .iter()
            .position(|t| t.propertyFlags & mappable == mappable)
            .context("no memory can be mapped")?;
        let info = VkMemoryAllocateInfo {
            sType: VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO,
            allocationSize: size,
            memoryTypeIndex: index as u32,
            ..zeroed()
        };
        let mut memory = VkDeviceMemory(0);
        t.done(&mut p::vkAllocateMemory {
            device: self.device,
            device_token: 0,
            pAllocateInfo: &raw const info,
            pAllocator: std::ptr::null(),
            pMemory: &raw mut memory,
        })?;
        Ok(memory)
    }

    /// Has memory published, and tells under which id.
    pub fn publish(&self, t: &mut Thread, memory: VkDeviceMemory) -> Result<u64> {
        let (mut address, mut size, mut id) = (0, 0, 0);
        t.done(&mut p::vkGetMemoryHostAddressInfoGOOGLE {
            device: self.device,
            memory,
            pAddress: &raw mut address,
            pSize: &raw mut size,
            pHostmemId: &raw mut id,
            ..zeroed()
        })?;
        Ok(id)
    }

    /// Binds memory to a buffer.
    pub fn bind(&self, t: &mut Thread, buffer: VkBuffer, memory: VkDeviceMemory) -> Result<()> {
        t.done(&mut p::vkBindBufferMemory {
            device: self.device,
            buffer,
            memory,
            ..zeroed()
        })
    }

    /// Makes a pool and a command buffer in it.
    pub fn command_buffer(&self, t: &mut Thread) -> Result<(VkCommandPool, VkCommandBuffer)> {
        let info = VkCommandPoolCreateInfo {
            sType: VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
            ..zeroed()
        };
        let mut pool = VkCommandPool(0);
        t.done(&mut p::vkCreateCommandPool {
            device: self.device,
            device_token: 0,
            pCreateInfo: &raw const info,
            pAllocator: std::ptr::null(),
            pCommandPool: &raw mut pool,
        })?;
        let info = VkCommandBufferAllocateInfo {
            sType: VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
            commandPool: pool,
            commandBufferCount: 1,
            ..zeroed()
        };
        let mut buffer = VkCommandBuffer(0);
        t.done(&mut p::vkAllocateCommandBuffers {
            device: self.device,
            device_token: 0,
            pAllocateInfo: &raw const info,
            pCommandBuffers: &raw mut buffer,
        })?;
        Ok((pool, buffer))
    }

    /// A recording that fills a buffer with a word.
    pub fn filling(command_buffer: VkCommandBuffer, buffer: VkBuffer, word: u32) -> Vec<u8> {
        let info = VkCommandBufferBeginInfo {
            sType: VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO,
            ..zeroed()
        };
        let mut bytes = Vec::new();
        let begin = p::vkBeginCommandBufferAsyncGOOGLE {
            commandBuffer: command_buffer,
            commandBuffer_token: 0,
            pBeginInfo: &raw const info,
        };
        staged(&begin, &mut bytes);
        let fill = p::vkCmdFillBuffer {
            commandBuffer: command_buffer,
            dstBuffer: buffer,
            size: u64::MAX,
            data: word,
            ..zeroed()
        };
        staged(&fill, &mut bytes);
        let end = p::vkEndCommandBufferAsyncGOOGLE {
            commandBuffer: command_buffer,
            commandBuffer_token: 0,
        };
        staged(&end, &mut bytes);
        bytes
    }

    /// Sends a recording.
    pub fn flush(&self, t: &mut Thread, buffer: VkCommandBuffer, recording: &[u8]) -> Result<()> {
        t.send(&p::vkQueueFlushCommandsGOOGLE {
            queue: self.queue,
            commandBuffer: buffer,
            dataSize: recording.len() as u64,
            pData: recording.as_ptr().cast::<c_void>(),
            ..zeroed()
        })
    }

    /// Submits a command buffer and waits for it.
    pub fn run(&self, t: &mut Thread, buffer: VkCommandBuffer) -> Result<()> {
        let submit = VkSubmitInfo {
            sType: VK_STRUCTURE_TYPE_SUBMIT_INFO,
            commandBufferCount: 1,
            pCommandBuffers: &raw const buffer,
            ..zeroed()
        };
        t.send(&p::vkQueueSubmitAsyncGOOGLE {
            queue: self.queue,
            submitCount: 1,
            pSubmits: &raw const submit,
            ..zeroed()
        })?;
        t.done(&mut p::vkQueueWaitIdle {
            queue: self.queue,
            queue_token: 0,
        })
    }
}

/// A guest that behaves.
#[derive(Debug)]
pub struct Painter {
    thread: Thread,
    objects: Objects,
    buffer: VkBuffer,
    command_buffer: VkCommandBuffer,
    memory: Mapping,
    /// Pictures painted.
    pub rounds: u32,
    // Dropped last: the connection.
    _guest: Guest,
}

impl Painter {
    const BYTES: usize = 1 << 16;

    /// Connects and makes everything ready.
    pub fn new(path: &Path) -> Result<Self> {
        let guest = Guest::connect(path)?;
        let ctx_id = guest.context("painter")?;
        let mut t = guest.thread(ctx_id)?;
        let objects = Objects::new(&mut t)?;
        let buffer = objects.buffer(&mut t, Self::BYTES as u64)?;
        let memory = objects.memory(&mut t, Self::BYTES as u64)?;
        objects.bind(&mut t, buffer, memory)?;
        let id = objects.publish(&mut t, memory)?;
        let (_, fd) = guest.blob(ctx_id, id, Self::BYTES as u64)?;
        let (_, command_buffer) = objects.command_buffer(&mut t)?;
        Ok(Self {
            thread: t,
            objects,
            buffer,
            command_buffer,
            memory: Mapping::map(&fd, 0, Self::BYTES)?,
            rounds: 0,
            _guest: guest,
        })
    }

    /// Has the buffer filled, and compares every byte.
    pub fn paint(&mut self) -> Result<()> {
        self.rounds += 1;
        let word = self.rounds.wrapping_mul(0x9e37_79b9);
        let recording = Objects::filling(self.command_buffer, self.buffer, word);
        let t = &mut self.thread;
        self.objects.flush(t, self.command_buffer, &recording)?;
        self.objects.run(t, self.command_buffer)?;
        let mut bytes = vec![0; Self::BYTES];
        self.memory.copy_out(0, &mut bytes)?;
        let right = bytes.chunks_exact(4).all(|w| w == word.to_le_bytes());
        ensure!(right, "wrong picture in round {}", self.rounds);
        Ok(())
    }
}
