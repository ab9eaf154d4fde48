//! vhost-user: the virtio-gpu device of a virtual machine of QEMU, or of another monitor that knows the protocol.
//!
//! This runs in a process of its own for each virtual machine, the *front*. It owns the virtqueues, the guest's
//! memory, the resources and the fences, and loads no Vulkan driver: each context of the guest has a renderer
//! process, which the supervisor hands out (see [`crate::link`]).
//!
//! One thread does everything and waits only in `epoll`. That is what keeps the machine running: the machine
//! monitor waits for our answers, holding its own locks, so nothing here may ever wait for the machine monitor. The
//! one request that has to, mapping memory into the guest's window, has a thread of its own (`window`).

mod vring;
mod window;

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use asgard_asg::kumquat::Socket;
use rustix::event::{Timespec, epoll};
use rustix::fs::SealFlags;
use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{
    Backend, BackendReqHandler, Error as VhostError, GpuBackend, Result as VhostResult,
    VhostUserBackendReqHandlerMut, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::QueueT;
use vm_memory::{
    Bytes, GuestAddress, GuestMemory as _, GuestMemoryMmap, GuestRegionMmap, Permissions,
};

use self::vring::{Chain, Vring};
use self::window::Window;
use crate::display::Display;
use crate::link::{Link, Request, Sent};
use crate::supervisor::Report;
use crate::virtio_gpu::gpu::{Command, Config, Gpu, Host, Show};
use crate::virtio_gpu::protocol::{SHM_HOST_VISIBLE, feature};
use crate::virtio_gpu::resource::GuestMemory;

/// Control and cursor queue.
const QUEUES: usize = 2;

/// Commands that are taken from a queue before something else gets its turn.
const TURN: usize = 256;

/// Bytes of commands that wait for others; beyond, the queues are left alone until some have run.
const MAX_WAITING: usize = 256 << 20;

/// What this device has of virtio and vhost-user.
const FEATURES: u64 = feature::ALL
    | 1 << VIRTIO_F_VERSION_1
    | 1 << VIRTIO_RING_F_INDIRECT_DESC
    | 1 << VIRTIO_RING_F_EVENT_IDX
    | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();

/// `DMA_BUF_MAGIC`.
const DMA_BUF: i64 = 0x444d_4142;

/// What an event is about; a context's link has its id above.
const VMM: u64 = 0;
const KICK: u64 = 1;
const WINDOW: u64 = 8;
const SUPERVISOR: u64 = 9;
const LINK: u64 = 1 << 32;

/// Serves one virtual machine until it goes away.
///
/// `control` leads to the supervisor, which gives renderer processes; `display` shows what the guest does.
pub fn serve(
    connection: UnixStream,
    config: Config,
    display: Option<Display>,
    control: Arc<Socket>,
) -> io::Result<()> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let watch = |fd: BorrowedFd<'_>, what| {
        epoll::add(
            &epoll,
            fd,
            epoll::EventData::new_u64(what),
            epoll::EventFlags::IN,
        )
    };
    watch(connection.as_fd(), VMM)?;
    watch(control.as_fd(), SUPERVISOR)?;
    let window = Window::start()?;
    watch(window.as_fd(), WINDOW)?;
    let new_ring = || Vring::new().map_err(io::Error::other);
    let outside = Outside {
        epoll: epoll.try_clone()?,
        memory: GuestMemoryMmap::new(),
        translations: Vec::new(),
        rings: [new_ring()?, new_ring()?],
        chains: BTreeMap::new(),
        next_chain: 0,
        links: BTreeMap::new(),
        window,
        control,
        display,
    };
    let window_size = config.window;
    let gpu = Gpu::new(config);
    let front = Arc::new(Mutex::new(Front {
        gpu,
        outside,
        features: 0,
        window_size,
        owned: false,
        crowded: false,
    }));
    let mut requests = BackendReqHandler::from_stream(connection, Arc::clone(&front));
    let mut events = Vec::with_capacity(64);
    let mut more = false;
    loop {
        events.clear();
        let timeout = lock(&front).timeout(more);
        let spare = rustix::buffer::spare_capacity(&mut events);
        match epoll::wait(&epoll, spare, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut kicked = more || lock(&front).crowded;
        for event in &events {
            match event.data.u64() {
                VMM => match requests.handle_request() {
                    Ok(()) => {}
                    Err(
                        VhostError::Disconnected
                        | VhostError::PartialMessage
                        | VhostError::SocketBroken(_),
                    ) => return Ok(()),
                    Err(error) => return Err(io::Error::other(error)),
                },
                SUPERVISOR => return Ok(()),
                WINDOW => lock(&front).mapped(),
                what if what >= LINK => lock(&front).hear((what - LINK) as u32, event.flags),
                _ => kicked = true,
            }
        }
        lock(&front).give_up();
        more = kicked && lock(&front).take_commands();
        lock(&front).outside.tell();
    }
}

/// There is one thread: nobody else holds it, and nobody panicked with it.
fn lock(front: &Mutex<Front>) -> std::sync::MutexGuard<'_, Front> {
    front
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

struct Front {
    gpu: Gpu,
    outside: Outside,
    /// Acknowledged virtio features.
    features: u64,
    window_size: u64,
    owned: bool,
    /// There is more in the queues than may wait.
    crowded: bool,
}

impl Front {
    /// Takes commands out of the queues; true if there are more.
    fn take_commands(&mut self) -> bool {
        let mut more = false;
        self.crowded = false;
        for index in 0..QUEUES {
            if let Some(ring) = self.outside.rings.get(index) {
                ring.take_kick();
            }
            more |= self.take_from(index);
        }
        more || (self.crowded && self.gpu.waiting() < MAX_WAITING)
    }

    fn take_from(&mut self, index: usize) -> bool {
        let Self {
            gpu,
            outside,
            crowded,
            ..
        } = self;
        let mut taken = 0;
        loop {
            // What they wait for comes as an event, after which they are looked at again.
            if gpu.waiting() >= MAX_WAITING {
                *crowded = true;
                return false;
            }
            let Some(ring) = outside.rings.get_mut(index).filter(|ring| ring.is_live()) else {
                return false;
            };
            if taken == 0 {
                ring.set_notification(&outside.memory, false);
            }
            let Some(chain) = ring.pop(&outside.memory) else {
                if !ring.set_notification(&outside.memory, true) {
                    return false;
                }
                taken = 0;
                // There is no progress in a broken queue: an index without a chain.
                let before = ring.queue.next_avail();
                match ring.pop(&outside.memory) {
                    Some(chain) => {
                        outside.begin(gpu, index, chain);
                        continue;
                    }
                    None if before == ring.queue.next_avail() => return false,
                    None => continue,
                }
            };
            outside.begin(gpu, index, chain);
            taken += 1;
            if taken >= TURN {
                return true;
            }
        }
    }

    /// How long to wait for an event: not at all if there is `more` to do.
    fn timeout(&self, more: bool) -> Option<Timespec> {
        let left = if more {
            Duration::ZERO
        } else {
            self.gpu
                .deadline()?
                .saturating_duration_since(Instant::now())
        };
        Some(Timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: left.subsec_nanos().into(),
        })
    }

    fn give_up(&mut self) {
        if self.gpu.deadline().is_some() {
            self.gpu.give_up(&mut self.outside, Instant::now());
        }
    }

    fn mapped(&mut self) {
        for (res_id, done) in self.outside.window.take_done() {
            self.gpu.mapped(&mut self.outside, res_id, done);
        }
    }

    /// A renderer process has something to say, or room to listen.
    fn hear(&mut self, ctx_id: u32, flags: epoll::EventFlags) {
        let Self { gpu, outside, .. } = self;
        if flags.contains(epoll::EventFlags::OUT) && outside.flush(ctx_id) {
            gpu.drained(outside, ctx_id);
        }
        // A few at a time, so that no renderer process has this thread for itself.
        for _ in 0..TURN {
            let Some(link) = outside.links.get(&ctx_id) else {
                return;
            };
            match link.link.receive() {
                Ok(Some((answer, memory))) => gpu.heard(outside, ctx_id, answer, memory),
                Ok(None) => return,
                Err(why) => return gpu.gone(outside, ctx_id, &why),
            }
        }
    }

    fn ring(&mut self, index: u32) -> VhostResult<&mut Vring> {
        self.outside
            .rings
            .get_mut(index as usize)
            .ok_or(VhostError::InvalidParam)
    }

    fn reset(&mut self) {
        tracing::info!("the guest resets the device");
        self.outside.window.reset();
        self.outside.chains.clear();
        self.gpu.reset(&mut self.outside);
    }
}

/// A renderer process, and what it has no room for yet.
struct Linked {
    link: Link,
    waiting: VecDeque<(Request, Option<Arc<OwnedFd>>)>,
}

/// What the device sees of the virtual machine and of the renderer processes.
struct Outside {
    epoll: OwnedFd,
    memory: GuestMemoryMmap,
    /// Addresses of the machine monitor's: start, bytes, and where that is in the guest.
    translations: Vec<(u64, u64, u64)>,
    rings: [Vring; QUEUES],
    /// Commands that are not answered yet.
    chains: BTreeMap<u64, (usize, Chain)>,
    next_chain: u64,
    links: BTreeMap<u32, Linked>,
    window: Window,
    control: Arc<Socket>,
    display: Option<Display>,
}

impl Outside {
    fn begin(&mut self, gpu: &mut Gpu, index: usize, mut chain: Chain) {
        self.next_chain += 1;
        let id = self.next_chain;
        let bytes = std::mem::take(&mut chain.bytes);
        self.chains.insert(id, (index, chain));
        gpu.submit(
            self,
            Command {
                id,
                cursor: index == 1,
                bytes,
            },
        );
    }

    fn tell(&mut self) {
        for ring in &mut self.rings {
            ring.tell(&self.memory);
        }
    }

    fn translate(&self, address: u64) -> Option<u64> {
        self.translations.iter().find_map(|(start, size, guest)| {
            let inside = address.checked_sub(*start).filter(|inside| inside < size)?;
            guest.checked_add(inside)
        })
    }

    fn watch(&self, ctx_id: u32, also: epoll::EventFlags) {
        if let Some(linked) = self.links.get(&ctx_id) {
            let data = epoll::EventData::new_u64(LINK + u64::from(ctx_id));
            let flags = epoll::EventFlags::IN | also;
            if let Err(error) = epoll::modify(&self.epoll, &linked.link, data, flags) {
                tracing::error!("cannot watch a renderer process: {error}");
            }
        }
    }

    /// Sends what has waited; true when nothing is left.
    fn flush(&mut self, ctx_id: u32) -> bool {
        let Some(linked) = self.links.get_mut(&ctx_id) else {
            return false;
        };
        while let Some((request, memory)) = linked.waiting.front() {
            match linked
                .link
                .send(request, memory.as_deref().map(AsFd::as_fd))
            {
                Sent::Full => return false,
                Sent::Yes | Sent::Gone => linked.waiting.pop_front(),
            };
        }
        self.watch(ctx_id, epoll::EventFlags::empty());
        true
    }

    fn start_link(&mut self, ctx_id: u32) -> io::Result<()> {
        let (link, theirs) = Link::pair()?;
        let data = epoll::EventData::new_u64(LINK + u64::from(ctx_id));
        epoll::add(&self.epoll, &link, data, epoll::EventFlags::IN)?;
        Report::Context.send_with(&self.control, theirs.as_fd())?;
        self.links.insert(
            ctx_id,
            Linked {
                link,
                waiting: VecDeque::new(),
            },
        );
        Ok(())
    }
}

impl GuestMemory for Outside {
    fn covers(&self, address: u64, len: u64) -> bool {
        usize::try_from(len).is_ok_and(|len| {
            self.memory
                .check_range(GuestAddress(address), len, Permissions::ReadWrite)
        })
    }

    fn read(&self, address: u64, to: &mut [u8]) -> bool {
        self.memory.read_slice(to, GuestAddress(address)).is_ok()
    }

    fn write(&self, address: u64, from: &[u8]) -> bool {
        self.memory.write_slice(from, GuestAddress(address)).is_ok()
    }
}

impl Host for Outside {
    fn answer(&mut self, id: u64, response: &[u8]) {
        // After a reset the chain is gone, and its memory the driver's again.
        let Some((index, chain)) = self.chains.remove(&id) else {
            return;
        };
        if let Some(ring) = self.rings.get_mut(index).filter(|ring| ring.queue.ready()) {
            ring.push(&self.memory, &chain, response);
        }
    }

    fn open(&mut self, ctx_id: u32) -> bool {
        match self.start_link(ctx_id) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!("cannot get a renderer process: {error}");
                false
            }
        }
    }

    fn tell(&mut self, ctx_id: u32, request: Request, memory: Option<Arc<OwnedFd>>) -> bool {
        let Some(linked) = self.links.get_mut(&ctx_id) else {
            return true;
        };
        if linked.waiting.is_empty() {
            match linked
                .link
                .send(&request, memory.as_deref().map(AsFd::as_fd))
            {
                // That it is gone is told by the link itself.
                Sent::Yes | Sent::Gone => return true,
                Sent::Full => {}
            }
        }
        linked.waiting.push_back((request, memory));
        self.watch(ctx_id, epoll::EventFlags::OUT);
        false
    }

    fn close(&mut self, ctx_id: u32) {
        if let Some(linked) = self.links.remove(&ctx_id) {
            let _ = epoll::delete(&self.epoll, &linked.link);
        }
    }

    fn map(&mut self, res_id: u32, file: &Arc<OwnedFd>, offset: u64, len: u64) {
        self.window.map(res_id, file, offset, len);
    }

    fn unmap(&mut self, offset: u64, len: u64) {
        self.window.unmap(offset, len);
    }

    fn is_watched(&self, _scanout: usize) -> bool {
        self.display.is_some()
    }

    fn show(&mut self, scanout: usize, what: Show) {
        if let Some(display) = &self.display {
            display.show(scanout, what);
        }
    }

    fn cannot_shrink(&self, file: &OwnedFd) -> bool {
        let seals = rustix::fs::fcntl_get_seals(file).unwrap_or(SealFlags::empty());
        seals.contains(SealFlags::SHRINK)
            || rustix::fs::fstatfs(file).is_ok_and(|fs| fs.f_type == DMA_BUF)
    }
}

impl VhostUserBackendReqHandlerMut for Front {
    fn set_owner(&mut self) -> VhostResult<()> {
        if std::mem::replace(&mut self.owned, true) {
            return Err(VhostError::InvalidOperation("already claimed"));
        }
        Ok(())
    }

    fn reset_owner(&mut self) -> VhostResult<()> {
        self.owned = false;
        self.reset();
        Ok(())
    }

    fn reset_device(&mut self) -> VhostResult<()> {
        self.reset();
        Ok(())
    }

    fn get_features(&mut self) -> VhostResult<u64> {
        Ok(FEATURES)
    }

    fn set_features(&mut self, features: u64) -> VhostResult<()> {
        if features & !FEATURES != 0 {
            return Err(VhostError::InvalidParam);
        }
        self.features = features;
        self.gpu.set_features(features);
        let by_protocol = features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() != 0;
        for ring in &mut self.outside.rings {
            ring.queue
                .set_event_idx(features & 1 << VIRTIO_RING_F_EVENT_IDX != 0);
            // Otherwise SET_VRING_ENABLE does that.
            ring.enabled |= !by_protocol;
        }
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy: Option<bool>,
    ) -> VhostResult<Option<Vec<VhostUserMemoryRegionBase>>> {
        let (mut mapped, mut translations) = (Vec::new(), Vec::new());
        for (region, file) in regions.iter().zip(files) {
            let (guest, size, user) =
                (region.guest_phys_addr, region.memory_size, region.user_addr);
            let mapping = region.mmap_region(file)?;
            let mapping = GuestRegionMmap::new(mapping, GuestAddress(guest));
            mapped.push(mapping.ok_or(VhostError::InvalidParam)?);
            translations.push((user, size, guest));
        }
        let memory = GuestMemoryMmap::from_regions(mapped);
        self.outside.memory =
            memory.map_err(|error| VhostError::ReqHandlerError(io::Error::other(error)))?;
        self.outside.translations = translations;
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> VhostResult<()> {
        let ring = self.ring(index)?;
        // The number is the guest's: an error here would cost QEMU its device, which it does not survive.
        let size = u16::try_from(num).unwrap_or(0);
        if ring.queue.try_set_size(size).is_err() {
            ring.break_off("it cannot have that many entries");
        }
        Ok(())
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> VhostResult<()> {
        // The places are the guest's, as the number was.
        let place = |address| self.outside.translate(address).map(GuestAddress);
        let places = [place(descriptor), place(available), place(used)];
        let outside = &mut self.outside;
        let ring = outside
            .rings
            .get_mut(index as usize)
            .ok_or(VhostError::InvalidParam)?;
        if ring.place(&outside.memory, places).is_none() {
            ring.break_off("it cannot lie there");
        }
        Ok(())
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> VhostResult<()> {
        let base = u16::try_from(base).map_err(|_| VhostError::InvalidParam)?;
        self.ring(index)?.queue.set_next_avail(base);
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> VhostResult<VhostUserVringState> {
        let ring = self.ring(index)?;
        let next = ring.queue.next_avail();
        ring.stop();
        // It is the only way to hear of a reset.
        if self.outside.rings.iter().all(|ring| !ring.queue.ready()) {
            self.reset();
        }
        Ok(VhostUserVringState::new(index, next.into()))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> VhostResult<()> {
        let epoll = self
            .outside
            .epoll
            .try_clone()
            .map_err(VhostError::ReqHandlerError)?;
        let ring = self.ring(index.into())?;
        ring.set_kick(fd);
        ring.queue.set_ready(true);
        if let Some(kick) = ring.kick() {
            let data = epoll::EventData::new_u64(KICK + u64::from(index));
            epoll::add(epoll, kick, data, epoll::EventFlags::IN)
                .map_err(|error| VhostError::ReqHandlerError(error.into()))?;
            // What was put into the queue before.
            let _ = rustix::io::write(kick, &1_u64.to_ne_bytes());
        }
        Ok(())
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> VhostResult<()> {
        self.ring(index.into())?.set_call(fd);
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, _fd: Option<File>) -> VhostResult<()> {
        self.ring(index.into()).map(|_| ())
    }

    fn get_protocol_features(&mut self) -> VhostResult<VhostUserProtocolFeatures> {
        // Not CONFIGURE_MEM_SLOTS, with which QEMU 11.1 crashes at a reset with mapped blobs, and not STATUS, which the
        // crate does not answer.
        Ok(VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::BACKEND_REQ
            | VhostUserProtocolFeatures::BACKEND_SEND_FD
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::SHMEM)
    }

    fn set_protocol_features(&mut self, features: u64) -> VhostResult<()> {
        if features & VhostUserProtocolFeatures::SHMEM.bits() == 0 {
            tracing::error!("the machine monitor maps no memory into its guests: QEMU 11.1 can");
        }
        Ok(())
    }

    fn get_queue_num(&mut self) -> VhostResult<u64> {
        Ok(QUEUES as u64)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> VhostResult<()> {
        let ring = self.ring(index)?;
        ring.enabled = enable;
        if let (true, Some(kick)) = (enable, ring.kick()) {
            let _ = rustix::io::write(kick, &1_u64.to_ne_bytes());
        }
        if enable {
            self.outside.window.run();
        }
        Ok(())
    }

    fn get_config(
        &mut self,
        offset: u32,
        size: u32,
        _flags: VhostUserConfigFlags,
    ) -> VhostResult<Vec<u8>> {
        let config = self.gpu.config_space();
        let bytes = bytemuck::bytes_of(&config);
        let end = (offset as usize).checked_add(size as usize);
        let wanted = end.and_then(|end| bytes.get(offset as usize..end));
        Ok(wanted.ok_or(VhostError::InvalidParam)?.to_vec())
    }

    fn set_config(
        &mut self,
        offset: u32,
        bytes: &[u8],
        _flags: VhostUserConfigFlags,
    ) -> VhostResult<()> {
        self.gpu.write_config(offset, bytes);
        Ok(())
    }

    fn set_backend_req_fd(&mut self, backend: Backend) {
        backend.set_reply_ack_flag(true);
        backend.set_shmem_flag(true);
        // Used as a barrier only, which needs no such feature of the machine monitor.
        backend.set_shared_object_flag(true);
        self.outside.window.set_backend(backend);
    }

    fn get_shmem_config(&mut self) -> VhostResult<VhostUserShMemConfig> {
        let mut sizes = [0; SHM_HOST_VISIBLE as usize + 1];
        if let Some(size) = sizes.last_mut() {
            *size = self.window_size;
        }
        Ok(VhostUserShMemConfig::new(1, &sizes))
    }

    fn set_gpu_socket(&mut self, _gpu: GpuBackend) -> VhostResult<()> {
        Err(VhostError::InvalidOperation(
            "this device shows its displays by itself",
        ))
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> VhostResult<File> {
        Err(VhostError::InvalidOperation("no shared objects"))
    }

    fn get_inflight_fd(
        &mut self,
        _inflight: &VhostUserInflight,
    ) -> VhostResult<(VhostUserInflight, File)> {
        Err(VhostError::InvalidOperation("no migration"))
    }

    fn set_inflight_fd(&mut self, _inflight: &VhostUserInflight, _file: File) -> VhostResult<()> {
        Err(VhostError::InvalidOperation("no migration"))
    }

    fn get_max_mem_slots(&mut self) -> VhostResult<u64> {
        Err(VhostError::InvalidOperation("no memory slots"))
    }

    fn add_mem_region(
        &mut self,
        _region: &VhostUserSingleMemoryRegion,
        _file: File,
        _postcopy: Option<bool>,
    ) -> VhostResult<Option<VhostUserMemoryRegionBase>> {
        Err(VhostError::InvalidOperation("no memory slots"))
    }

    fn remove_mem_region(&mut self, _region: &VhostUserSingleMemoryRegion) -> VhostResult<()> {
        Err(VhostError::InvalidOperation("no memory slots"))
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _file: File,
    ) -> VhostResult<Option<File>> {
        Err(VhostError::InvalidOperation("no migration"))
    }

    fn check_device_state(&mut self) -> VhostResult<()> {
        Err(VhostError::InvalidOperation("no migration"))
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> VhostResult<()> {
        Err(VhostError::InvalidOperation("no migration"))
    }
}
