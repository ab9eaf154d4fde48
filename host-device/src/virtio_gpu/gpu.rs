//! The commands of the virtio-gpu device.
//!
//! [`Gpu::submit`] takes a command, and some time later [`Host::answer`] is called with the response: at
//! once, or when a renderer process or the machine monitor has done its part, and never before the
//! command's fence. Nothing in here waits.

mod context;
mod renderer;
mod resource;
mod scanout;
mod submission;
mod transfer;
mod window;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytemuck::Pod;
use parking_lot::Mutex;

use self::context::Context;
use self::scanout::Scanout;
pub use self::scanout::{CursorPlace, Picture, Show};
use super::protocol::{self as wire, Header, cmd, feature, resp};
use super::resource::{Direction, GuestMemory, Quota, Resource};
use super::schedule::{Key, Schedule};
use crate::capset;
use crate::device;
use crate::fence::{Ring, Task, Timelines};
use crate::link::Request;

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
    /// Of the guest's pages behind resources.
    entries: Quota,
    scanouts: Vec<Option<Scanout>>,
    cursors: Vec<CursorPlace>,
    schedule: Schedule<(Ticket, Vec<u8>)>,
    /// Bytes of what is in there.
    waiting: usize,
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
            entries: Quota::default(),
            scanouts: vec![None; displays],
            cursors: vec![CursorPlace::default(); displays],
            schedule: Schedule::default(),
            waiting: 0,
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

    /// Bytes of commands that wait for others.
    pub fn waiting(&self) -> usize {
        self.waiting
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
        self.waiting += rest.len();
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
            self.waiting -= rest.len();
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
