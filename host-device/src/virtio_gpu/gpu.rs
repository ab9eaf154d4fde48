//! The commands of the virtio-gpu device.
//!
//! [`Gpu::submit`] takes a command, and some time later [`Host::answer`] is called with the response: at
//! once, or when a renderer process or the machine monitor has done its part, and never before the
//! command's fence. Nothing in here waits.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use asgard_asg::submit::Command as Submitted;
use asgard_asg::{Mapping, doorbell};
use bytemuck::Pod;
use parking_lot::Mutex;

use super::edid;
use super::protocol::{self as wire, Header, cmd, feature, resp};
use super::resource::{
    Backing, Copy, Direction, GuestMemory, HostMemory, Kind, Resource, flat_shape, shape_bytes,
};
use super::schedule::{Key, Schedule};
use crate::capset;
use crate::device;
use crate::fence::{Ring, Task, Timelines};
use crate::link::{Answer, MAX_COMMAND, Request};
use crate::resource::Shape;

/// The largest picture and the deepest stack of pictures.
const MAX_EXTENT: u32 = 16_384;
const MAX_LAYERS: u32 = 2048;

/// How long a renderer process may take to answer what needs no waiting; it may have to start first.
const PATIENCE: Duration = Duration::from_secs(30);

/// The largest cursor.
const MAX_CURSOR: u32 = 512;

/// How the device behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// What all context types have in common.
    pub device: device::Config,
    /// Capset field `colorBufferMemoryIndex`.
    pub color_buffer_memory_index: u32,
    /// Bytes of the window that host-visible blobs are mapped into.
    pub window: u64,
    /// Blobs that may be mapped at a time: the machine monitor slows down with each.
    pub maps: usize,
    /// Width and height of each display.
    pub displays: Vec<(u32, u32)>,
}

/// One command, as it lay in a virtqueue.
#[derive(Clone, Debug)]
pub struct Command {
    /// Names it in [`Host::answer`].
    pub id: u64,
    /// It came on the cursor queue.
    pub cursor: bool,
    /// What the driver wrote.
    pub bytes: Vec<u8>,
}

/// A picture on a display, or part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// `VIRTIO_GPU_FORMAT_*`.
    pub format: u32,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Packed rows.
    pub pixels: Vec<u8>,
}

/// Where the cursor is, and from which point of its picture that counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CursorPlace {
    /// Pixels on the display.
    pub x: u32,
    /// Pixels on the display.
    pub y: u32,
    /// Pixels in the cursor's picture.
    pub hot_x: u32,
    /// Pixels in the cursor's picture.
    pub hot_y: u32,
}

/// What happens on a display.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Show {
    /// The whole picture, because it changed.
    Frame(Picture),
    /// Nothing is shown any more.
    Off,
    /// The cursor has a new picture, or none.
    Cursor(Option<Picture>, CursorPlace),
    /// It has moved.
    Move(CursorPlace),
}

/// What the device needs of its surroundings. Nothing of it may wait.
pub trait Host: GuestMemory {
    /// The command's response; it goes back to the driver.
    fn answer(&mut self, id: u64, response: &[u8]);
    /// Starts a renderer process for a context; `false` if there can be none.
    fn open(&mut self, ctx_id: u32) -> bool;
    /// Sends to a context's renderer process. `false` if it does not keep up: the context's commands wait
    /// until [`Gpu::drained`].
    fn tell(&mut self, ctx_id: u32, request: Request, memory: Option<Arc<OwnedFd>>) -> bool;
    /// Lets go of a context's renderer process, and of what it might still say.
    fn close(&mut self, ctx_id: u32);
    /// Maps memory into the window; [`Gpu::mapped`] tells of the outcome.
    fn map(&mut self, res_id: u32, file: &Arc<OwnedFd>, offset: u64, len: u64);
    /// Unmaps it.
    fn unmap(&mut self, offset: u64, len: u64);
    /// Whether somebody looks at a display.
    fn is_watched(&self, scanout: usize) -> bool;
    /// Something happens on a display.
    fn show(&mut self, scanout: usize, what: Show);
    /// Whether memory of a file can never go away, so that nobody who maps it can be killed by it.
    fn cannot_shrink(&self, file: &OwnedFd) -> bool;
}

/// A response: its type and what follows the header.
struct Response {
    kind: u32,
    body: Vec<u8>,
}

impl From<u32> for Response {
    fn from(kind: u32) -> Self {
        Self {
            kind,
            body: Vec::new(),
        }
    }
}

/// `Err` is a response too.
type Result<T = Response> = std::result::Result<T, u32>;

fn ok() -> Result {
    Ok(resp::OK_NODATA.into())
}

fn body<T: Pod>(kind: u32, body: &T) -> Response {
    Response {
        kind,
        body: bytemuck::bytes_of(body).to_vec(),
    }
}

/// Reads a struct off the front.
fn take<T: Pod>(bytes: &mut &[u8]) -> Result<T> {
    let (head, tail) = bytes
        .split_at_checked(size_of::<T>())
        .ok_or(resp::ERR_INVALID_PARAMETER)?;
    *bytes = tail;
    Ok(bytemuck::pod_read_unaligned(head))
}

/// A command that has begun, and what its driver waits for.
#[derive(Debug)]
struct Ticket {
    id: u64,
    header: Header,
    /// Fences behind it wait while this is there.
    fence: Option<Task>,
}

/// What a renderer process was asked for.
#[derive(Debug)]
enum Pending {
    Submit(Ticket),
    Blob {
        ticket: Ticket,
        res_id: u32,
        kind: Kind,
        size: u64,
        backing: Option<Backing>,
    },
}

#[derive(Debug, Default)]
struct Context {
    name: String,
    /// Resources that its renderer process knows.
    known: BTreeSet<u32>,
    /// Rings, to ring their doorbells.
    rings: BTreeMap<u32, Arc<Mapping>>,
    pending: BTreeMap<u64, Pending>,
    /// Requests that its renderer process has to answer at once, by their tokens.
    prompt: BTreeMap<u64, Instant>,
    /// Its commands wait for its renderer process to read.
    backed_up: bool,
    /// Its renderer process has died, and another answers for it.
    lost: bool,
    /// Of no capset: it has resources and no commands. Linux makes one for who only shows pictures.
    plain: bool,
}

/// What a display shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Scanout {
    res_id: u32,
    rect: wire::Rect,
    format: u32,
    /// Where the picture lies in the resource.
    offset: u64,
    stride: u64,
}

/// Commands whose fences have signalled.
type Due = Arc<Mutex<Vec<(u64, Vec<u8>)>>>;

/// The device.
#[derive(Debug)]
pub struct Gpu {
    config: Config,
    /// Acknowledged feature bits.
    features: u64,
    contexts: BTreeMap<u32, Context>,
    resources: BTreeMap<u32, Resource>,
    /// Bytes of host memory that this device allocated.
    memory: u64,
    scanouts: Vec<Option<Scanout>>,
    cursors: Vec<CursorPlace>,
    schedule: Schedule<(Ticket, Vec<u8>)>,
    /// Who waits for the window to map a resource.
    mapping: BTreeMap<u32, Ticket>,
    maps: usize,
    timelines: Timelines,
    /// Responses of fenced commands, until their fences signal.
    responses: BTreeMap<u64, Arc<Mutex<Vec<u8>>>>,
    due: Due,
    next_token: u64,
    uuids: u64,
    /// What the driver should look at.
    events: u32,
}

impl Gpu {
    /// A device as after a reset.
    pub fn new(config: Config) -> Self {
        let displays = config.displays.len().min(wire::MAX_SCANOUTS);
        Self {
            features: 0,
            contexts: BTreeMap::new(),
            resources: BTreeMap::new(),
            memory: 0,
            scanouts: vec![None; displays],
            cursors: vec![CursorPlace::default(); displays],
            schedule: Schedule::default(),
            mapping: BTreeMap::new(),
            maps: 0,
            timelines: Timelines::new(config.device.limits.fences),
            responses: BTreeMap::new(),
            due: Due::default(),
            next_token: 0,
            uuids: 0,
            events: 0,
            config,
        }
    }

    /// The configuration space.
    pub fn config_space(&self) -> wire::Config {
        wire::Config {
            events_read: self.events,
            num_scanouts: self.scanouts.len() as u32,
            num_capsets: capset::COUNT,
            ..wire::Config::default()
        }
    }

    /// The driver writes to the configuration space: `events_clear` is all that it can.
    pub fn write_config(&mut self, offset: u32, bytes: &[u8]) {
        if offset == 4
            && let Some(word) = bytes.first_chunk::<4>()
        {
            self.events &= !u32::from_le_bytes(*word);
        }
    }

    /// The driver has chosen among the device's features.
    pub fn set_features(&mut self, features: u64) {
        self.features = features;
    }

    /// Forgets everything that the driver has made; nothing is answered, and nothing unmapped.
    pub fn reset(&mut self, host: &mut dyn Host) {
        for ctx_id in self.contexts.keys() {
            host.close(*ctx_id);
        }
        for scanout in 0..self.scanouts.len() {
            host.show(scanout, Show::Off);
        }
        // The new one has a list of its own: old fences that signal later find nobody.
        *self = Self {
            uuids: self.uuids,
            ..Self::new(self.config.clone())
        };
    }

    /// Takes a command. What can be done at once is done before this returns.
    pub fn submit(&mut self, host: &mut dyn Host, command: Command) {
        let Command { id, cursor, bytes } = command;
        let mut rest = bytes.as_slice();
        let Ok(mut header) = take::<Header>(&mut rest) else {
            let header = Header {
                kind: resp::ERR_UNSPEC,
                ..Header::default()
            };
            host.answer(id, bytemuck::bytes_of(&header));
            return;
        };
        if self.features & feature::CONTEXT_INIT == 0 {
            header.flags &= !wire::FLAG_RING_IDX;
        }
        let mut ticket = Ticket {
            id,
            header,
            fence: None,
        };
        let is_cursor = matches!(header.kind, cmd::UPDATE_CURSOR | cmd::MOVE_CURSOR);
        if cursor != is_cursor {
            return self.finish(host, ticket, Err(resp::ERR_UNSPEC));
        }
        if header.flags & wire::FLAG_FENCE != 0 {
            match self.fence(&ticket) {
                Ok(task) => ticket.fence = Some(task),
                Err(error) => return self.finish(host, ticket, Err(error)),
            }
        }
        let keys = keys(&header, rest);
        self.schedule.push(keys, (ticket, rest.to_vec()));
        self.run(host);
    }

    /// Queues the command's fence, and a task in front of it that is the command itself.
    fn fence(&mut self, ticket: &Ticket) -> Result<Task> {
        let Header {
            flags,
            ctx_id,
            ring_idx,
            ..
        } = ticket.header;
        let ring = if flags & wire::FLAG_RING_IDX == 0 {
            Ring::Global
        } else if !self.contexts.contains_key(&ctx_id) {
            return Err(resp::ERR_INVALID_CONTEXT_ID);
        } else if ring_idx >= wire::MAX_RINGS {
            return Err(resp::ERR_INVALID_PARAMETER);
        } else {
            Ring::Context { ctx_id, ring_idx }
        };
        let limit = |_| resp::ERR_OUT_OF_MEMORY;
        let task = self.timelines.begin(ring).map_err(limit)?;
        let response: Arc<Mutex<Vec<u8>>> = Arc::default();
        let (id, due, shared) = (ticket.id, Arc::clone(&self.due), Arc::clone(&response));
        let done = move || due.lock().push((id, std::mem::take(&mut *shared.lock())));
        self.timelines.fence(ring, Box::new(done)).map_err(limit)?;
        self.responses.insert(id, response);
        Ok(task)
    }

    /// Runs whatever need not wait.
    fn run(&mut self, host: &mut dyn Host) {
        while let Some((ticket, rest)) = self.schedule.take() {
            self.execute(host, ticket, &rest);
        }
        self.answer_due(host);
    }

    fn answer_due(&mut self, host: &mut dyn Host) {
        let due = std::mem::take(&mut *self.due.lock());
        for (id, response) in due {
            self.responses.remove(&id);
            host.answer(id, &response);
        }
    }

    /// The command has come to its end; the driver hears of it now, or when its fence signals.
    fn finish(&mut self, host: &mut dyn Host, ticket: Ticket, result: Result) {
        let response = result.unwrap_or_else(|error| {
            tracing::debug!(
                "command {:#x} of context {}: error {error:#x}",
                ticket.header.kind,
                ticket.header.ctx_id
            );
            error.into()
        });
        let echo = wire::FLAG_FENCE | wire::FLAG_RING_IDX;
        let header = Header {
            kind: response.kind,
            flags: ticket.header.flags & echo,
            ..ticket.header
        };
        let mut bytes = bytemuck::bytes_of(&header).to_vec();
        bytes.extend_from_slice(&response.body);
        match (ticket.fence, self.responses.get(&ticket.id)) {
            (Some(task), Some(place)) => {
                *place.lock() = bytes;
                drop(task);
                self.answer_due(host);
            }
            _ => host.answer(ticket.id, &bytes),
        }
    }

    fn execute(&mut self, host: &mut dyn Host, ticket: Ticket, rest: &[u8]) {
        let header = ticket.header;
        let mut rest = rest;
        let rest = &mut rest;
        let result = match header.kind {
            cmd::GET_DISPLAY_INFO => self.get_display_info(),
            cmd::GET_EDID => take(rest).and_then(|c| self.get_edid(&c)),
            cmd::GET_CAPSET_INFO => take(rest).and_then(|c| self.get_capset_info(&c)),
            cmd::GET_CAPSET => take(rest).and_then(|c| self.get_capset(&c)),
            cmd::RESOURCE_CREATE_2D => take(rest).and_then(|c| self.create_2d(&c)),
            cmd::RESOURCE_CREATE_3D => take(rest).and_then(|c| self.create_3d(&c)),
            cmd::RESOURCE_CREATE_BLOB => return self.create_blob(host, ticket, rest),
            cmd::RESOURCE_UNREF => take(rest).and_then(|c| self.unref(host, &c)),
            cmd::RESOURCE_ATTACH_BACKING => self.attach_backing(host, rest),
            cmd::RESOURCE_DETACH_BACKING => take(rest).and_then(|c| self.detach_backing(&c)),
            cmd::RESOURCE_ASSIGN_UUID => take(rest).and_then(|c| self.assign_uuid(&c)),
            cmd::TRANSFER_TO_HOST_2D => take(rest).and_then(|c| self.transfer_2d(host, &c)),
            cmd::TRANSFER_TO_HOST_3D => {
                take(rest).and_then(|c| self.transfer_3d(host, header, &c, Direction::ToHost))
            }
            cmd::TRANSFER_FROM_HOST_3D => {
                take(rest).and_then(|c| self.transfer_3d(host, header, &c, Direction::ToGuest))
            }
            cmd::SET_SCANOUT => take(rest).and_then(|c| self.set_scanout(host, &c)),
            cmd::SET_SCANOUT_BLOB => take(rest).and_then(|c| self.set_scanout_blob(host, &c)),
            cmd::RESOURCE_FLUSH => take(rest).and_then(|c| self.flush(host, &c)),
            cmd::UPDATE_CURSOR => take(rest).and_then(|c| self.update_cursor(host, &c)),
            cmd::MOVE_CURSOR => take(rest).and_then(|c| self.move_cursor(host, &c)),
            cmd::CTX_CREATE => take(rest).and_then(|c| self.create_context(host, header, &c)),
            cmd::CTX_DESTROY => self.destroy_context(host, header.ctx_id),
            cmd::CTX_ATTACH_RESOURCE => take(rest).and_then(|c| self.attach(host, header, &c)),
            cmd::CTX_DETACH_RESOURCE => take(rest).and_then(|c| self.detach(host, header, &c)),
            cmd::SUBMIT_3D => return self.submit_3d(host, ticket, rest),
            cmd::RESOURCE_MAP_BLOB => return self.map_blob(host, ticket, rest),
            cmd::RESOURCE_UNMAP_BLOB => take(rest).and_then(|c| self.unmap_blob(host, &c)),
            _ => Err(resp::ERR_UNSPEC),
        };
        self.finish(host, ticket, result);
    }

    fn needs(&self, feature: u64) -> Result<()> {
        if self.features & feature == feature {
            Ok(())
        } else {
            Err(resp::ERR_UNSPEC)
        }
    }

    fn resource(&mut self, res_id: u32) -> Result<&mut Resource> {
        self.resources
            .get_mut(&res_id)
            .ok_or(resp::ERR_INVALID_RESOURCE_ID)
    }

    fn context(&mut self, ctx_id: u32) -> Result<&mut Context> {
        self.contexts
            .get_mut(&ctx_id)
            .ok_or(resp::ERR_INVALID_CONTEXT_ID)
    }

    fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    /// Sends to a renderer process; if it does not keep up, its context waits.
    fn tell(
        &mut self,
        host: &mut dyn Host,
        ctx_id: u32,
        request: Request,
        memory: Option<Arc<OwnedFd>>,
    ) {
        if !host.tell(ctx_id, request, memory)
            && let Some(context) = self.contexts.get_mut(&ctx_id)
            && !std::mem::replace(&mut context.backed_up, true)
        {
            self.schedule.hold(Key::Context(ctx_id));
        }
    }

    // Displays and capsets

    fn get_display_info(&self) -> Result {
        let mut displays = [wire::DisplayOne::default(); wire::MAX_SCANOUTS];
        for (display, (width, height)) in displays.iter_mut().zip(&self.config.displays) {
            let (width, height) = (*width, *height);
            display.rect = wire::Rect {
                width,
                height,
                ..wire::Rect::default()
            };
            display.enabled = 1;
        }
        Ok(body(resp::OK_DISPLAY_INFO, &displays))
    }

    fn get_edid(&self, c: &wire::GetEdid) -> Result {
        self.needs(feature::EDID)?;
        let (width, height) = self
            .config
            .displays
            .get(c.scanout as usize)
            .ok_or(resp::ERR_INVALID_SCANOUT_ID)?;
        let edid = edid::describe(c.scanout, *width, *height);
        let mut response = body(
            resp::OK_EDID,
            &wire::RespEdid {
                size: edid.len() as u32,
                padding: 0,
            },
        );
        response.body.extend_from_slice(&edid);
        response
            .body
            .resize(size_of::<wire::RespEdid>() + wire::MAX_EDID, 0);
        Ok(response)
    }

    fn get_capset_info(&self, c: &wire::GetCapsetInfo) -> Result {
        let info = capset::info(&self.config.device, c.capset_index);
        let info = info.ok_or(resp::ERR_INVALID_PARAMETER)?;
        let info = wire::CapsetInfo {
            capset_id: info.id,
            capset_max_version: info.version,
            capset_max_size: info.size,
            padding: 0,
        };
        Ok(body(resp::OK_CAPSET_INFO, &info))
    }

    fn get_capset(&self, c: &wire::GetCapset) -> Result {
        let bytes = capset::bytes(
            &self.config.device,
            self.config.color_buffer_memory_index,
            c.capset_id,
            c.capset_version,
        );
        let bytes = bytes.map_err(|_| resp::ERR_INVALID_PARAMETER)?;
        Ok(Response {
            kind: resp::OK_CAPSET,
            body: bytes,
        })
    }

    // Resources

    fn check_new(&self, res_id: u32) -> Result<()> {
        if res_id == 0 || self.resources.contains_key(&res_id) {
            return Err(resp::ERR_INVALID_RESOURCE_ID);
        }
        if self.resources.len() >= self.config.device.limits.resources {
            return Err(resp::ERR_OUT_OF_MEMORY);
        }
        Ok(())
    }

    fn allocate(&mut self, name: &str, size: u64) -> Result<HostMemory> {
        let page = rustix::param::page_size() as u64;
        let size = size
            .checked_next_multiple_of(page)
            .filter(|size| i64::try_from(*size).is_ok())
            .ok_or(resp::ERR_OUT_OF_MEMORY)?;
        let total = self
            .memory
            .checked_add(size)
            .filter(|total| *total <= self.config.device.limits.memory)
            .ok_or(resp::ERR_OUT_OF_MEMORY)?;
        let memory = HostMemory::allocate(name, size).map_err(|error| {
            tracing::warn!("{error}");
            resp::ERR_OUT_OF_MEMORY
        })?;
        self.memory = total;
        Ok(memory)
    }

    fn create_shaped(&mut self, res_id: u32, shape: Shape) -> Result {
        self.check_new(res_id)?;
        let flat = shape.target != 0;
        let extents = [shape.width, shape.height.max(1)];
        let layers = [shape.depth.max(1), shape.array_size.max(1)];
        if shape.width == 0
            || shape.last_level >= 16
            || layers.iter().any(|layers| *layers > MAX_LAYERS)
            || (flat && extents.iter().any(|extent| *extent > MAX_EXTENT))
            || (!flat && (shape.height > 1 || shape.last_level > 0 || layers != [1, 1]))
        {
            return Err(resp::ERR_INVALID_PARAMETER);
        }
        let size = shape_bytes(&shape).ok_or(resp::ERR_OUT_OF_MEMORY)?;
        let memory = self.allocate("asgard-resource", size)?;
        self.resources.insert(
            res_id,
            Resource::new(Kind::Shaped(shape), size, Some(memory)),
        );
        ok()
    }

    fn create_2d(&mut self, c: &wire::ResourceCreate2d) -> Result {
        if wire::channels(c.format).is_none() || c.height == 0 {
            return Err(resp::ERR_INVALID_PARAMETER);
        }
        self.create_shaped(c.resource_id, flat_shape(c.format, c.width, c.height))
    }

    fn create_3d(&mut self, c: &wire::ResourceCreate3d) -> Result {
        self.needs(feature::VIRGL)?;
        let shape = Shape {
            target: c.target,
            format: c.format,
            bind: c.bind,
            width: c.width,
            height: c.height,
            depth: c.depth,
            array_size: c.array_size,
            last_level: c.last_level,
            samples: c.nr_samples,
            flags: c.flags,
            stride: 0,
            size: 0,
        };
        self.create_shaped(c.resource_id, shape)
    }

    fn create_blob(&mut self, host: &mut dyn Host, ticket: Ticket, mut rest: &[u8]) {
        match self.begin_blob(host, ticket.header, &mut rest) {
            Ok(None) => self.finish(host, ticket, ok()),
            Err(error) => self.finish(host, ticket, Err(error)),
            Ok(Some((res_id, kind, size, backing))) => {
                let token = self.token();
                let ctx_id = ticket.header.ctx_id;
                let Kind::Blob { blob_id, flags, .. } = kind else {
                    return self.finish(host, ticket, Err(resp::ERR_UNSPEC));
                };
                self.schedule.hold(Key::Resource(res_id));
                let pending = Pending::Blob {
                    ticket,
                    res_id,
                    kind,
                    size,
                    backing,
                };
                if let Some(context) = self.contexts.get_mut(&ctx_id) {
                    context.pending.insert(token, pending);
                    context.prompt.insert(token, Instant::now());
                }
                self.tell(
                    host,
                    ctx_id,
                    Request::Take {
                        token,
                        res_id,
                        blob_id,
                        size,
                        shareable: flags & wire::BLOB_FLAG_SHAREABLE != 0,
                    },
                    None,
                );
            }
        }
    }

    /// Makes the blob, or tells what to ask the renderer process for.
    #[allow(
        clippy::type_complexity,
        reason = "the parts of a blob, for the one caller"
    )]
    fn begin_blob(
        &mut self,
        host: &mut dyn Host,
        header: Header,
        rest: &mut &[u8],
    ) -> Result<Option<(u32, Kind, u64, Option<Backing>)>> {
        let c: wire::ResourceCreateBlob = take(rest)?;
        self.needs(feature::RESOURCE_BLOB)?;
        self.check_new(c.resource_id)?;
        let flags =
            wire::BLOB_FLAG_MAPPABLE | wire::BLOB_FLAG_SHAREABLE | wire::BLOB_FLAG_CROSS_DEVICE;
        if c.blob_flags & !flags != 0 || c.size == 0 {
            return Err(resp::ERR_INVALID_PARAMETER);
        }
        if c.blob_flags & wire::BLOB_FLAG_CROSS_DEVICE != 0 {
            self.needs(feature::RESOURCE_UUID)
                .map_err(|_| resp::ERR_INVALID_PARAMETER)?;
        }
        let from_guest = match c.blob_mem {
            wire::BLOB_MEM_GUEST | wire::BLOB_MEM_HOST3D_GUEST => true,
            wire::BLOB_MEM_HOST3D => false,
            _ => return Err(resp::ERR_INVALID_PARAMETER),
        };
        let backing = if from_guest {
            let backing = read_entries(host, rest, c.nr_entries)?;
            if backing.size() < c.size {
                return Err(resp::ERR_INVALID_PARAMETER);
            }
            Some(backing)
        } else if c.nr_entries != 0 {
            return Err(resp::ERR_INVALID_PARAMETER);
        } else {
            None
        };
        let mut kind = Kind::Blob {
            mem: c.blob_mem,
            flags: c.blob_flags,
            blob_id: c.blob_id,
            ctx_id: header.ctx_id,
        };
        if c.blob_mem == wire::BLOB_MEM_GUEST {
            if let Kind::Blob { ctx_id, .. } = &mut kind {
                *ctx_id = 0;
            }
            let mut resource = Resource::new(kind, c.size, None);
            resource.backing = backing;
            self.resources.insert(c.resource_id, resource);
            return Ok(None);
        }
        let Context { lost, plain, .. } = *self.context(header.ctx_id)?;
        if plain {
            return Err(resp::ERR_INVALID_PARAMETER);
        }
        if c.blob_id != 0 {
            if lost {
                return Err(resp::ERR_UNSPEC);
            }
            return Ok(Some((c.resource_id, kind, c.size, backing)));
        }
        let memory = self.allocate("asgard-ring", c.size)?;
        let mut resource = Resource::new(kind, c.size, Some(memory));
        resource.backing = backing;
        self.resources.insert(c.resource_id, resource);
        Ok(None)
    }

    fn unref(&mut self, host: &mut dyn Host, c: &wire::ResourceId) -> Result {
        let res_id = c.resource_id;
        let resource = self
            .resources
            .remove(&res_id)
            .ok_or(resp::ERR_INVALID_RESOURCE_ID)?;
        let knowing: Vec<u32> = self
            .contexts
            .iter_mut()
            .filter_map(|(ctx_id, context)| {
                context.rings.remove(&res_id);
                context.known.remove(&res_id).then_some(*ctx_id)
            })
            .collect();
        for ctx_id in knowing {
            self.tell(host, ctx_id, Request::Drop { res_id }, None);
        }
        for (index, scanout) in self.scanouts.iter_mut().enumerate() {
            if scanout.is_some_and(|scanout| scanout.res_id == res_id) {
                *scanout = None;
                host.show(index, Show::Off);
            }
        }
        if let Some(offset) = resource.mapped_at {
            self.maps = self.maps.saturating_sub(1);
            host.unmap(offset, page_up(resource.size));
        }
        let ours = !matches!(resource.kind, Kind::Blob { blob_id, .. } if blob_id != 0);
        if let (true, Some(memory)) = (ours, &resource.host) {
            self.memory = self.memory.saturating_sub(memory.size);
        }
        ok()
    }

    fn attach_backing(&mut self, host: &mut dyn Host, rest: &mut &[u8]) -> Result {
        let c: wire::AttachBacking = take(rest)?;
        let resource = self.resource(c.resource_id)?;
        if matches!(
            resource.kind,
            Kind::Blob {
                mem: wire::BLOB_MEM_HOST3D,
                ..
            }
        ) {
            return Err(resp::ERR_INVALID_PARAMETER);
        }
        if resource.backing.is_some() {
            return Err(resp::ERR_UNSPEC);
        }
        let backing = read_entries(host, rest, c.nr_entries)?;
        self.resource(c.resource_id)?.backing = Some(backing);
        ok()
    }

    fn detach_backing(&mut self, c: &wire::ResourceId) -> Result {
        let backing = self.resource(c.resource_id)?.backing.take();
        backing.map_or(Err(resp::ERR_UNSPEC), |_| ok())
    }

    fn assign_uuid(&mut self, c: &wire::ResourceId) -> Result {
        self.needs(feature::RESOURCE_UUID)?;
        let number = self.uuids + 1;
        let resource = self.resource(c.resource_id)?;
        if !resource.may_cross_devices() {
            return Err(resp::ERR_INVALID_PARAMETER);
        }
        let uuid = *resource.uuid.get_or_insert_with(|| {
            // Of version 8: ours to fill. This process and a number that it never uses again.
            let mut uuid = [0; 16];
            let process = u64::from(std::process::id()).to_be_bytes();
            let (head, tail) = uuid.split_at_mut(8);
            head.copy_from_slice(&process);
            tail.copy_from_slice(&number.to_be_bytes());
            let [_, _, _, _, _, _, version, _, variant, ..] = &mut uuid;
            *version = 0x80;
            *variant = 0x80;
            uuid
        });
        self.uuids = number;
        Ok(body(resp::OK_RESOURCE_UUID, &uuid))
    }

    // Transfers

    fn transfer(
        &mut self,
        host: &mut dyn Host,
        res_id: u32,
        direction: Direction,
        copy: impl FnOnce(&Resource) -> Option<Copy>,
    ) -> Result {
        let resource = self.resource(res_id)?;
        let copy = copy(resource).ok_or(resp::ERR_INVALID_PARAMETER)?;
        // The memory of a guest blob is the guest's: there is nothing to copy.
        let Some(memory) = &mut resource.host else {
            return ok();
        };
        let backing = resource.backing.as_ref().ok_or(resp::ERR_UNSPEC)?;
        let mapping = memory.mapped().ok_or(resp::ERR_UNSPEC)?;
        if copy.run(direction, host, backing, mapping) {
            ok()
        } else {
            Err(resp::ERR_INVALID_PARAMETER)
        }
    }

    fn transfer_2d(&mut self, host: &mut dyn Host, c: &wire::TransferToHost2d) -> Result {
        let wire::Rect {
            x,
            y,
            width,
            height,
        } = c.rect;
        self.transfer(host, c.resource_id, Direction::ToHost, |resource| {
            let Kind::Shaped(shape) = resource.kind else {
                return None;
            };
            let region = wire::Cube {
                x,
                y,
                z: 0,
                w: width,
                h: height,
                d: 1,
            };
            let flat = shape.target == 2;
            Copy::flat(resource.level(0).filter(|_| flat)?, region, c.offset)
        })
    }

    fn transfer_3d(
        &mut self,
        host: &mut dyn Host,
        header: Header,
        c: &wire::Transfer3d,
        direction: Direction,
    ) -> Result {
        if header.ctx_id != 0 {
            self.context(header.ctx_id)?;
            let resource = self.resource(c.resource_id)?;
            if !resource.attached.contains(&header.ctx_id) {
                return Err(resp::ERR_INVALID_RESOURCE_ID);
            }
        }
        self.transfer(host, c.resource_id, direction, |resource| {
            let level = resource.level(c.level)?;
            Copy::new(level, c.region, c.offset, c.stride, c.layer_stride)
        })
    }

    // Scanouts and the cursor

    fn scanout(&mut self, scanout: u32) -> Result<&mut Option<Scanout>> {
        self.scanouts
            .get_mut(scanout as usize)
            .ok_or(resp::ERR_INVALID_SCANOUT_ID)
    }

    fn set_scanout(&mut self, host: &mut dyn Host, c: &wire::SetScanout) -> Result {
        self.scanout(c.scanout_id)?;
        if c.resource_id == 0 {
            return self.turn_off(host, c.scanout_id);
        }
        let resource = self.resource(c.resource_id)?;
        let Kind::Shaped(shape) = resource.kind else {
            return Err(resp::ERR_INVALID_PARAMETER);
        };
        let level = resource.level(0).ok_or(resp::ERR_INVALID_PARAMETER)?;
        if shape.target == 0
            || wire::channels(shape.format).is_none()
            || !is_inside(&c.rect, level.width, level.height)
        {
            return Err(resp::ERR_INVALID_PARAMETER);
        }
        let scanout = Scanout {
            res_id: c.resource_id,
            rect: c.rect,
            format: shape.format,
            offset: level.offset,
            stride: level.row_bytes,
        };
        *self.scanout(c.scanout_id)? = Some(scanout);
        ok()
    }

    fn set_scanout_blob(&mut self, host: &mut dyn Host, c: &wire::SetScanoutBlob) -> Result {
        self.needs(feature::RESOURCE_BLOB)?;
        self.scanout(c.scanout_id)?;
        if c.resource_id == 0 {
            return self.turn_off(host, c.scanout_id);
        }
        let resource = self.resource(c.resource_id)?;
        if !matches!(resource.kind, Kind::Blob { .. }) {
            return Err(resp::ERR_INVALID_PARAMETER);
        }
        let ([stride, ..], [offset, ..]) = (c.strides, c.offsets);
        let (stride, offset) = (u64::from(stride), u64::from(offset));
        let row = u64::from(c.width) * 4;
        let end = stride
            .checked_mul(u64::from(c.height).saturating_sub(1))
            .and_then(|rows| rows.checked_add(row)?.checked_add(offset));
        if wire::channels(c.format).is_none()
            || c.width.max(c.height) > MAX_EXTENT
            || !is_inside(&c.rect, c.width, c.height)
            || stride < row
            || end.is_none_or(|end| end > resource.size)
        {
            return Err(resp::ERR_INVALID_PARAMETER);
        }
        let (res_id, rect, format) = (c.resource_id, c.rect, c.format);
        let scanout = Scanout {
            res_id,
            rect,
            format,
            offset,
            stride,
        };
        *self.scanout(c.scanout_id)? = Some(scanout);
        ok()
    }

    fn turn_off(&mut self, host: &mut dyn Host, scanout: u32) -> Result {
        if self.scanout(scanout)?.take().is_some() {
            host.show(scanout as usize, Show::Off);
        }
        ok()
    }

    fn flush(&mut self, host: &mut dyn Host, c: &wire::ResourceFlush) -> Result {
        let resource = self.resource(c.resource_id)?;
        if let Kind::Shaped(_) = resource.kind {
            let level = resource.level(0).ok_or(resp::ERR_INVALID_PARAMETER)?;
            let inside = |start: u32, len: u32, size: u32| {
                start.checked_add(len).is_some_and(|end| end <= size)
            };
            if !inside(c.rect.x, c.rect.width, level.width)
                || !inside(c.rect.y, c.rect.height, level.height)
            {
                return Err(resp::ERR_INVALID_PARAMETER);
            }
        }
        for (index, scanout) in self.scanouts.clone().into_iter().enumerate() {
            let Some(scanout) = scanout.filter(|scanout| scanout.res_id == c.resource_id) else {
                continue;
            };
            if !host.is_watched(index) {
                continue;
            }
            let picture = self.picture(host, &scanout).ok_or(resp::ERR_UNSPEC)?;
            host.show(index, Show::Frame(picture));
        }
        ok()
    }

    /// Copies what a scanout shows.
    fn picture(&mut self, host: &dyn Host, scanout: &Scanout) -> Option<Picture> {
        let wire::Rect {
            x,
            y,
            width,
            height,
        } = scanout.rect;
        let row = usize::try_from(width).ok()?.checked_mul(4)?;
        let mut pixels = vec![0; row.checked_mul(usize::try_from(height).ok()?)?];
        let resource = self.resources.get_mut(&scanout.res_id)?;
        let mapping = match &mut resource.host {
            Some(memory) => Some(memory.mapped()?),
            None => None,
        };
        for (line, pixels) in pixels.chunks_exact_mut(row.max(1)).enumerate() {
            let at =
                scanout.offset + (u64::from(y) + line as u64) * scanout.stride + u64::from(x) * 4;
            let copied = match (mapping, &resource.backing) {
                (Some(mapping), _) => mapping.copy_out(usize::try_from(at).ok()?, pixels).is_ok(),
                (None, Some(backing)) => backing.read(host, at, pixels),
                (None, None) => false,
            };
            if !copied {
                return None;
            }
        }
        let format = scanout.format;
        Some(Picture {
            format,
            width,
            height,
            pixels,
        })
    }

    fn update_cursor(&mut self, host: &mut dyn Host, c: &wire::UpdateCursor) -> Result {
        let place = self.place_cursor(c)?;
        let picture = if c.resource_id == 0 {
            None
        } else {
            let resource = self.resource(c.resource_id)?;
            let Kind::Shaped(shape) = resource.kind else {
                return Err(resp::ERR_INVALID_PARAMETER);
            };
            let level = resource.level(0).ok_or(resp::ERR_INVALID_PARAMETER)?;
            if wire::channels(shape.format).is_none()
                || shape.target == 0
                || level.width.max(level.height) > MAX_CURSOR
            {
                return Err(resp::ERR_INVALID_PARAMETER);
            }
            let (width, height) = (level.width, level.height);
            let scanout = Scanout {
                res_id: c.resource_id,
                rect: wire::Rect {
                    width,
                    height,
                    ..wire::Rect::default()
                },
                format: shape.format,
                offset: level.offset,
                stride: level.row_bytes,
            };
            Some(self.picture(host, &scanout).ok_or(resp::ERR_UNSPEC)?)
        };
        host.show(c.scanout_id as usize, Show::Cursor(picture, place));
        ok()
    }

    fn move_cursor(&mut self, host: &mut dyn Host, c: &wire::UpdateCursor) -> Result {
        let place = self.place_cursor(c)?;
        host.show(c.scanout_id as usize, Show::Move(place));
        ok()
    }

    fn place_cursor(&mut self, c: &wire::UpdateCursor) -> Result<CursorPlace> {
        let place = self
            .cursors
            .get_mut(c.scanout_id as usize)
            .ok_or(resp::ERR_INVALID_SCANOUT_ID)?;
        let (hot_x, hot_y) = (c.hot_x, c.hot_y);
        *place = CursorPlace {
            x: c.x,
            y: c.y,
            hot_x,
            hot_y,
        };
        Ok(*place)
    }

    // Contexts

    fn create_context(
        &mut self,
        host: &mut dyn Host,
        header: Header,
        c: &wire::CtxCreate,
    ) -> Result {
        self.needs(feature::VIRGL)?;
        let ctx_id = header.ctx_id;
        if ctx_id == 0 || self.contexts.contains_key(&ctx_id) {
            return Err(resp::ERR_INVALID_CONTEXT_ID);
        }
        let name = c
            .debug_name
            .get(..c.nlen as usize)
            .ok_or(resp::ERR_INVALID_PARAMETER)?;
        // Without the feature the field is the driver's padding.
        let chosen = self.features & feature::CONTEXT_INIT != 0;
        let plain = match c.context_init & 0xff {
            0 => true,
            _ if !chosen => true,
            asgard_asg::capset::CAPSET_ID => false,
            _ => return Err(resp::ERR_INVALID_PARAMETER),
        };
        if self.contexts.len() >= self.config.device.limits.contexts {
            return Err(resp::ERR_OUT_OF_MEMORY);
        }
        if !plain && !host.open(ctx_id) {
            return Err(resp::ERR_OUT_OF_MEMORY);
        }
        let name = String::from_utf8_lossy(name)
            .trim_end_matches('\0')
            .to_owned();
        let context = Context {
            name: name.clone(),
            plain,
            ..Context::default()
        };
        self.contexts.insert(ctx_id, context);
        if plain {
            return ok();
        }
        let request = Request::Create {
            ctx_id,
            lost: false,
            name,
        };
        self.tell(host, ctx_id, request, None);
        ok()
    }

    fn destroy_context(&mut self, host: &mut dyn Host, ctx_id: u32) -> Result {
        self.context(ctx_id)?;
        self.abandon(host, ctx_id, resp::ERR_INVALID_CONTEXT_ID);
        self.contexts.remove(&ctx_id);
        for resource in self.resources.values_mut() {
            resource.attached.remove(&ctx_id);
        }
        host.close(ctx_id);
        ok()
    }

    /// Whatever a context's renderer process was asked for will not come.
    fn abandon(&mut self, host: &mut dyn Host, ctx_id: u32, error: u32) {
        let Some(context) = self.contexts.get_mut(&ctx_id) else {
            return;
        };
        let pending = std::mem::take(&mut context.pending);
        context.prompt.clear();
        if std::mem::take(&mut context.backed_up) {
            self.schedule.release(Key::Context(ctx_id));
        }
        for pending in pending.into_values() {
            match pending {
                Pending::Submit(ticket) => self.finish(host, ticket, Err(error)),
                Pending::Blob { ticket, res_id, .. } => {
                    self.schedule.release(Key::Resource(res_id));
                    self.finish(host, ticket, Err(error));
                }
            }
        }
    }

    fn attach(&mut self, host: &mut dyn Host, header: Header, c: &wire::ResourceId) -> Result {
        let (ctx_id, res_id) = (header.ctx_id, c.resource_id);
        let context = self.context(ctx_id)?;
        let known = context.plain || context.known.contains(&res_id);
        let resource = self.resource(res_id)?;
        if !resource.may_attach(ctx_id) {
            return Err(resp::ERR_INVALID_PARAMETER);
        }
        resource.attached.insert(ctx_id);
        let ring = matches!(resource.kind, Kind::Blob { blob_id: 0, .. });
        if let (false, Some(memory)) = (known, &resource.host) {
            let (size, file) = (memory.size, Arc::clone(&memory.file));
            self.context(ctx_id)?.known.insert(res_id);
            self.tell(
                host,
                ctx_id,
                Request::Add { res_id, size, ring },
                Some(file),
            );
        }
        ok()
    }

    fn detach(&mut self, host: &mut dyn Host, header: Header, c: &wire::ResourceId) -> Result {
        let (ctx_id, res_id) = (header.ctx_id, c.resource_id);
        self.context(ctx_id)?;
        if !self.resource(res_id)?.attached.remove(&ctx_id) {
            return Err(resp::ERR_INVALID_RESOURCE_ID);
        }
        let context = self.context(ctx_id)?;
        context.rings.remove(&res_id);
        if context.known.remove(&res_id) {
            self.tell(host, ctx_id, Request::Drop { res_id }, None);
        }
        ok()
    }

    fn submit_3d(&mut self, host: &mut dyn Host, ticket: Ticket, mut rest: &[u8]) {
        let (ctx_id, header) = (ticket.header.ctx_id, ticket.header);
        match self.begin_submit(header, &mut rest) {
            Ok(None) => self.finish(host, ticket, ok()),
            Err(error) => self.finish(host, ticket, Err(error)),
            Ok(Some(command)) => {
                let token = self.token();
                let on_ring = header.flags & wire::FLAG_RING_IDX != 0;
                let request = Request::Submit {
                    token,
                    ring_idx: on_ring.then_some(header.ring_idx),
                    fence: ticket.fence.is_some(),
                    command,
                };
                if let Some(context) = self.contexts.get_mut(&ctx_id) {
                    if ticket.fence.is_none() {
                        context.prompt.insert(token, Instant::now());
                    }
                    context.pending.insert(token, Pending::Submit(ticket));
                }
                self.tell(host, ctx_id, request, None);
            }
        }
    }

    /// Does what needs no renderer process, or tells what to send to it.
    fn begin_submit(&mut self, header: Header, rest: &mut &[u8]) -> Result<Option<Vec<u8>>> {
        let c: wire::Submit3d = take(rest)?;
        let ctx_id = header.ctx_id;
        self.needs(feature::VIRGL)?;
        if self.context(ctx_id)?.plain {
            return Err(resp::ERR_INVALID_PARAMETER);
        }
        let command = rest
            .get(..c.size as usize)
            .filter(|command| command.len() <= MAX_COMMAND)
            .ok_or(resp::ERR_INVALID_PARAMETER)?;
        if command.is_empty() {
            return Ok(None);
        }
        match Submitted::parse(command).map_err(|_| resp::ERR_INVALID_PARAMETER)? {
            // The ring's thread sleeps on a word in the ring's memory, which is ours too.
            Submitted::ContextPing { resource_id }
            | Submitted::ContextPingWithResponse { resource_id, .. } => {
                let rings = &self.context(ctx_id)?.rings;
                let ring = rings
                    .get(&resource_id)
                    .ok_or(resp::ERR_INVALID_RESOURCE_ID)?;
                doorbell::ring(&**ring);
                Ok(None)
            }
            Submitted::ContextCreate { resource_id } => {
                self.begin_ring(ctx_id, resource_id)?;
                Ok(Some(command.to_vec()))
            }
            _ if self.context(ctx_id)?.lost => Err(resp::ERR_UNSPEC),
            _ => Ok(Some(command.to_vec())),
        }
    }

    fn begin_ring(&mut self, ctx_id: u32, res_id: u32) -> Result<()> {
        let bytes = asgard_asg::layout::blob_size(self.config.device.buffer_size) as u64;
        let resource = self.resource(res_id)?;
        let ring = matches!(resource.kind, Kind::Blob { blob_id: 0, .. })
            && resource.attached.contains(&ctx_id)
            && resource.size >= bytes;
        let mapping = resource
            .host
            .as_mut()
            .filter(|_| ring)
            .and_then(HostMemory::mapped);
        let mapping = Arc::clone(mapping.ok_or(resp::ERR_INVALID_RESOURCE_ID)?);
        let context = self.context(ctx_id)?;
        if context.rings.contains_key(&res_id) {
            return Err(resp::ERR_INVALID_RESOURCE_ID);
        }
        context.rings.insert(res_id, mapping);
        Ok(())
    }

    // The window

    fn map_blob(&mut self, host: &mut dyn Host, ticket: Ticket, mut rest: &[u8]) {
        match self.begin_map(&mut rest) {
            Err(error) => self.finish(host, ticket, Err(error)),
            Ok((res_id, file, offset, len)) => {
                self.maps += 1;
                self.schedule.hold(Key::Resource(res_id));
                self.mapping.insert(res_id, ticket);
                host.map(res_id, &file, offset, len);
            }
        }
    }

    fn begin_map(&mut self, rest: &mut &[u8]) -> Result<(u32, Arc<OwnedFd>, u64, u64)> {
        let c: wire::MapBlob = take(rest)?;
        self.needs(feature::RESOURCE_BLOB)?;
        let (window, limit) = (self.config.window, self.config.maps);
        let (res_id, offset) = (c.resource_id, c.offset);
        let resource = self.resource(res_id)?;
        let len = page_up(resource.size);
        let end = offset.checked_add(len).filter(|end| *end <= window);
        let end = end.ok_or(resp::ERR_INVALID_PARAMETER)?;
        if !resource.is_mappable() || resource.mapped_at.is_some() || page_up(offset) != offset {
            return Err(resp::ERR_INVALID_PARAMETER);
        }
        let memory = resource.host.as_ref().ok_or(resp::ERR_INVALID_PARAMETER)?;
        if memory.size < len {
            return Err(resp::ERR_UNSPEC);
        }
        let file = Arc::clone(&memory.file);
        let overlaps = self.resources.values().any(|other| {
            other
                .mapped_at
                .is_some_and(|start| start < end && offset < start + page_up(other.size))
        });
        if overlaps {
            return Err(resp::ERR_INVALID_PARAMETER);
        }
        if self.maps >= limit {
            return Err(resp::ERR_OUT_OF_MEMORY);
        }
        self.resource(res_id)?.mapped_at = Some(offset);
        Ok((res_id, file, offset, len))
    }

    /// The machine monitor has mapped a resource, or refused to.
    pub fn mapped(&mut self, host: &mut dyn Host, res_id: u32, done: bool) {
        let Some(ticket) = self.mapping.remove(&res_id) else {
            return;
        };
        self.schedule.release(Key::Resource(res_id));
        let result = match self.resources.get_mut(&res_id) {
            Some(resource) if done => {
                let map_info = resource.host.as_ref().map_or(0, |memory| memory.map_info);
                Ok(body(
                    resp::OK_MAP_INFO,
                    &wire::MapInfo {
                        map_info,
                        padding: 0,
                    },
                ))
            }
            other => {
                self.maps = self.maps.saturating_sub(1);
                if let Some(resource) = other {
                    resource.mapped_at = None;
                }
                Err(resp::ERR_UNSPEC)
            }
        };
        self.finish(host, ticket, result);
        self.run(host);
    }

    fn unmap_blob(&mut self, host: &mut dyn Host, c: &wire::ResourceId) -> Result {
        self.needs(feature::RESOURCE_BLOB)?;
        let resource = self.resource(c.resource_id)?;
        let offset = resource
            .mapped_at
            .take()
            .ok_or(resp::ERR_INVALID_PARAMETER)?;
        let len = page_up(resource.size);
        self.maps = self.maps.saturating_sub(1);
        host.unmap(offset, len);
        ok()
    }

    // Renderer processes

    /// A renderer process has read what was sent to it.
    pub fn drained(&mut self, host: &mut dyn Host, ctx_id: u32) {
        if let Some(context) = self.contexts.get_mut(&ctx_id)
            && std::mem::take(&mut context.backed_up)
        {
            self.schedule.release(Key::Context(ctx_id));
            self.run(host);
        }
    }

    /// A renderer process has answered.
    pub fn heard(
        &mut self,
        host: &mut dyn Host,
        ctx_id: u32,
        answer: Answer,
        memory: Option<OwnedFd>,
    ) {
        let (token, result) = match answer {
            Answer::Lost { why } => return self.gone(host, ctx_id, &why),
            Answer::Done { token } => (token, Ok(None)),
            Answer::Refused {
                token,
                memory: true,
            } => (token, Err(resp::ERR_OUT_OF_MEMORY)),
            Answer::Refused { token, .. } => (token, Err(resp::ERR_INVALID_PARAMETER)),
            Answer::Blob {
                token,
                size,
                map_info,
            } => {
                let fit = memory.filter(|file| host.cannot_shrink(file));
                let memory = fit.map(|file| HostMemory::new(Arc::new(file), size, map_info));
                (token, memory.map(Some).ok_or(resp::ERR_UNSPEC))
            }
        };
        let Some(context) = self.contexts.get_mut(&ctx_id) else {
            return;
        };
        context.prompt.remove(&token);
        match context.pending.remove(&token) {
            None => tracing::warn!("a renderer process answers what nobody asked"),
            Some(Pending::Submit(ticket)) => {
                let result = result.and_then(|_| ok());
                self.finish(host, ticket, result);
            }
            Some(Pending::Blob {
                ticket,
                res_id,
                kind,
                size,
                backing,
            }) => {
                self.schedule.release(Key::Resource(res_id));
                let result = result.and_then(|memory| {
                    let memory = memory.ok_or(resp::ERR_UNSPEC)?;
                    self.check_new(res_id)?;
                    let mut resource = Resource::new(kind, size, Some(memory));
                    resource.backing = backing;
                    self.resources.insert(res_id, resource);
                    self.context(ctx_id)?.known.insert(res_id);
                    ok()
                });
                self.finish(host, ticket, result);
            }
        }
        self.run(host);
    }

    /// When a renderer process will have been silent for too long.
    pub fn deadline(&self) -> Option<Instant> {
        let since = self.contexts.values().flat_map(|c| c.prompt.values());
        since.min().map(|since| *since + PATIENCE)
    }

    /// Gives up renderer processes that have been silent for too long.
    pub fn give_up(&mut self, host: &mut dyn Host, now: Instant) {
        let late = |c: &Context| c.prompt.values().any(|since| now >= *since + PATIENCE);
        let silent: Vec<u32> = self
            .contexts
            .iter()
            .filter(|(_, context)| late(context))
            .map(|(ctx_id, _)| *ctx_id)
            .collect();
        for ctx_id in silent {
            self.gone(host, ctx_id, "its renderer process does not answer");
        }
    }

    /// A renderer process is gone. Another one, without a driver, takes its place at the rings, and tells
    /// the guest that its device is lost.
    pub fn gone(&mut self, host: &mut dyn Host, ctx_id: u32, why: &str) {
        self.abandon(host, ctx_id, resp::ERR_UNSPEC);
        host.close(ctx_id);
        let Some(context) = self.contexts.get_mut(&ctx_id) else {
            return;
        };
        tracing::error!(
            ctx_id,
            name = ?context.name,
            "a context is lost: {}",
            why.escape_debug()
        );
        context.known.clear();
        self.timelines.finish_context(ctx_id);
        let again = std::mem::replace(&mut context.lost, true);
        let rings: Vec<u32> = context.rings.keys().copied().collect();
        let name = context.name.clone();
        if !again && host.open(ctx_id) {
            self.tell(
                host,
                ctx_id,
                Request::Create {
                    ctx_id,
                    lost: true,
                    name,
                },
                None,
            );
            for res_id in rings {
                self.hand_over(host, ctx_id, res_id);
            }
        }
        self.run(host);
    }

    fn hand_over(&mut self, host: &mut dyn Host, ctx_id: u32, res_id: u32) {
        let Some(memory) = self
            .resources
            .get(&res_id)
            .and_then(|resource| resource.host.as_ref())
        else {
            return;
        };
        let (size, file) = (memory.size, Arc::clone(&memory.file));
        if let Some(context) = self.contexts.get_mut(&ctx_id) {
            context.known.insert(res_id);
        }
        self.tell(
            host,
            ctx_id,
            Request::Add {
                res_id,
                size,
                ring: true,
            },
            Some(file),
        );
        self.tell(host, ctx_id, Request::TakeOver { res_id }, None);
    }
}

/// What a command must have for itself.
fn keys(header: &Header, rest: &[u8]) -> Vec<Key> {
    // Where the struct names a resource, it does so in its first word, but for a few.
    let at = |index: usize| {
        let word = rest
            .get(index * 4..)
            .and_then(|rest| rest.first_chunk::<4>());
        word.map(|word| Key::Resource(u32::from_le_bytes(*word)))
    };
    let context = Key::Context(header.ctx_id);
    match header.kind {
        cmd::RESOURCE_CREATE_2D
        | cmd::RESOURCE_CREATE_3D
        | cmd::RESOURCE_UNREF
        | cmd::RESOURCE_ATTACH_BACKING
        | cmd::RESOURCE_DETACH_BACKING
        | cmd::RESOURCE_ASSIGN_UUID
        | cmd::RESOURCE_MAP_BLOB
        | cmd::RESOURCE_UNMAP_BLOB => at(0).into_iter().collect(),
        cmd::RESOURCE_CREATE_BLOB | cmd::CTX_ATTACH_RESOURCE | cmd::CTX_DETACH_RESOURCE => {
            at(0).into_iter().chain([context]).collect()
        }
        cmd::RESOURCE_FLUSH => at(4).into_iter().collect(),
        cmd::UPDATE_CURSOR => at(4).into_iter().collect(),
        cmd::SET_SCANOUT | cmd::SET_SCANOUT_BLOB => at(5).into_iter().collect(),
        cmd::TRANSFER_TO_HOST_2D => at(6).into_iter().collect(),
        cmd::TRANSFER_TO_HOST_3D | cmd::TRANSFER_FROM_HOST_3D => {
            at(8).into_iter().chain([context]).collect()
        }
        cmd::CTX_CREATE | cmd::CTX_DESTROY | cmd::SUBMIT_3D => vec![context],
        _ => Vec::new(),
    }
}

fn read_entries(host: &mut dyn Host, rest: &mut &[u8], count: u32) -> Result<Backing> {
    let len = (count as usize)
        .checked_mul(size_of::<wire::MemEntry>())
        .filter(|len| *len > 0 && *len <= rest.len())
        .ok_or(resp::ERR_INVALID_PARAMETER)?;
    let (entries, tail) = rest
        .split_at_checked(len)
        .ok_or(resp::ERR_INVALID_PARAMETER)?;
    *rest = tail;
    let entries = entries
        .chunks_exact(size_of::<wire::MemEntry>())
        .map(bytemuck::pod_read_unaligned)
        .collect();
    Backing::new(host, entries).ok_or(resp::ERR_INVALID_PARAMETER)
}

/// Not empty, and inside of a picture.
fn is_inside(rect: &wire::Rect, width: u32, height: u32) -> bool {
    let fits = |start: u32, len: u32, size: u32| {
        len > 0 && start.checked_add(len).is_some_and(|end| end <= size)
    };
    fits(rect.x, rect.width, width) && fits(rect.y, rect.height, height)
}

/// Rounds up to whole pages.
fn page_up(size: u64) -> u64 {
    size.next_multiple_of(rustix::param::page_size() as u64)
}
