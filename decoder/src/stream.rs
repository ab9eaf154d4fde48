//! The decoder of one guest thread's byte stream.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use asgard_protocol::driver::{DeviceFns, GlobalFns, InstanceFns};
use asgard_protocol::extension::{Features, is_ours};
use asgard_protocol::packet::{HEADER, Header, MAX};
use asgard_protocol::types::Kind;
use asgard_protocol::wire::{Handles, Tokens};
use asgard_protocol::{Arena, Command, Reader, Writer, commands};

use crate::context::{Context, Device, Instance, Queue};
use crate::extension::Chosen;
use crate::recording::Recording;
use crate::vulkan::{destroy_leftover, dispatch, has_sequence_number};
use crate::{Error, Replies};

/// The most that one packet may decode to.
const ARENA_LIMIT: usize = 1 << 30;

/// Memory that a stream keeps for the next packet; what a larger one needed goes at once.
const KEPT: usize = 4 << 20;

/// An arena for requests.
fn arena() -> Arena {
    let arena = Arena::new();
    arena.set_allocation_limit(Some(ARENA_LIMIT));
    arena
}

/// Makes an arena ready for the next request.
pub(crate) fn recycle(used: &mut Arena) {
    used.reset();
    if used.allocated_bytes() > KEPT {
        *used = arena();
    }
}

/// The decoder of one guest thread's byte stream.
pub struct Stream {
    input: Vec<u8>,
    greeted: bool,
    packets: u64,
    arena: Arena,
    reply: Vec<u8>,
    recording: Option<Recording>,
    engine: Engine,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream")
            .field("packets", &self.packets)
            .finish_non_exhaustive()
    }
}

impl Stream {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self {
            input: Vec::new(),
            greeted: false,
            packets: 0,
            arena: arena(),
            reply: Vec::new(),
            recording: context.start_recording(),
            engine: Engine::new(context),
        }
    }

    /// Where the ring's bytes go: append, then call [`Stream::run`].
    pub fn input(&mut self) -> &mut Vec<u8> {
        &mut self.input
    }

    /// Executes every complete packet of the input; an incomplete one stays for the next call.
    ///
    /// # Errors
    /// Whatever ended the context: it is poisoned then.
    pub fn run(&mut self, replies: &mut dyn Replies) -> Result<(), Error> {
        let context = Arc::clone(&self.engine.context);
        if context.is_dead() {
            return Err(Error::Poisoned(context.error().unwrap_or_default()));
        }
        let input = std::mem::take(&mut self.input);
        let mut rest = input.as_slice();
        let result = self.packets(&context, &mut rest, replies);
        let (read, left) = (input.len() - rest.len(), rest.len());
        let mut input = input;
        if left == 0 {
            input.clear();
            input.shrink_to(KEPT);
            self.reply.clear();
            self.reply.shrink_to(KEPT);
        } else {
            input.drain(..read);
        }
        self.input = input;
        context
            .counters
            .bytes_in
            .fetch_add(read as u64, Ordering::Relaxed);
        match &result {
            Err(error) if !self.engine.lost => context.poison(&error.to_string()),
            // Perhaps this began in the middle of something: the next transfer begins a packet.
            Err(_) => {
                self.input.clear();
                return Ok(());
            }
            Ok(()) => {}
        }
        result
    }

    fn packets(
        &mut self,
        context: &Arc<Context>,
        rest: &mut &[u8],
        replies: &mut dyn Replies,
    ) -> Result<(), Error> {
        if !self.greeted {
            // The client's flags, a word that stands before the first packet.
            let Some((flags, tail)) = rest.split_first_chunk::<4>() else {
                return Ok(());
            };
            if let Some(recording) = &mut self.recording {
                recording.packet(flags);
            }
            // The place of a dead host may be taken in the middle.
            if !self.engine.lost || *flags == [0; 4] {
                *rest = tail;
            }
            self.greeted = true;
        }
        while let Some(header) = Header::read(rest) {
            let size = header.size as usize;
            if !(HEADER..=MAX).contains(&size) {
                return Err(Error::BadSize(header.size));
            }
            let Some((packet, tail)) = rest.split_at_checked(size) else {
                return Ok(());
            };
            if let Some(recording) = &mut self.recording {
                recording.packet(packet);
            }
            self.packet(
                context,
                header.opcode,
                packet.get(HEADER..).unwrap_or_default(),
                replies,
            )?;
            *rest = tail;
        }
        Ok(())
    }

    fn packet(
        &mut self,
        context: &Arc<Context>,
        opcode: u32,
        body: &[u8],
        replies: &mut dyn Replies,
    ) -> Result<(), Error> {
        if is_ours(opcode) {
            self.engine.extend(opcode, body)?;
            self.packets += 1;
            context.counters.packets.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let mut body = body;
        if has_sequence_number(opcode) {
            let (number, tail) = body
                .split_first_chunk::<4>()
                .ok_or(Error::Nonsense("a packet without a sequence number"))?;
            body = tail;
            let number = u32::from_le_bytes(*number);
            if !context.sequence.is_next(number) && commands::name(opcode).is_none() {
                // Its number is as likely to be nonsense, and its turn might never come.
                return Err(Error::UnknownOpcode(opcode));
            }
            // Nobody waits for his turn at a lost device.
            if !self.engine.lost {
                if !context.sequence.wait(number, || context.is_dead()) {
                    return Err(Error::Poisoned(context.error().unwrap_or_default()));
                }
                self.engine.turn = Some(number);
            }
        }
        context.check_known(opcode)?;
        self.reply.clear();
        let handles: &dyn Handles = if self.engine.lost {
            &Tokens
        } else {
            &context.objects
        };
        let mut reader = Reader::request(body, &self.arena, handles);
        let result = dispatch(&mut self.engine, opcode, &mut reader, &mut self.reply);
        // On an error the turn is passed on as well: the others find the context dead by themselves.
        self.engine.release_turn();
        recycle(&mut self.arena);
        result.map_err(|error| match error {
            Error::Decode(source) => Error::Malformed {
                packet: self.packets,
                command: commands::name(opcode).unwrap_or("unknown command"),
                source,
            },
            other => other,
        })?;
        self.packets += 1;
        context.counters.packets.fetch_add(1, Ordering::Relaxed);
        if !self.reply.is_empty() {
            let counters = &context.counters;
            counters.answers.fetch_add(1, Ordering::Relaxed);
            counters
                .bytes_out
                .fetch_add(self.reply.len() as u64, Ordering::Relaxed);
            if let Some(recording) = &mut self.recording {
                recording.reply(&self.reply);
            }
            replies.send(&self.reply)?;
        }
        Ok(())
    }
}

/// What commands run on: the context, and what this thread looked up last.
pub(crate) struct Engine {
    pub(crate) context: Arc<Context>,
    turn: Option<u32>,
    instance: Option<(u64, Arc<Instance>)>,
    device: Option<(u64, Arc<Device>)>,
    queue: Option<(u64, Arc<Queue>)>,
    /// Nothing reaches the driver, see [`crate::Limits::lost`].
    pub(crate) lost: bool,
    /// Recordings are decoded into an arena of their own, inside a packet.
    pub(crate) staged: Arena,
    /// What this stream uses of Asgard's own part of the wire.
    pub(crate) features: Features,
    /// The ids that the guest chose for the current or the next packet.
    pub(crate) chosen: Chosen,
    /// The guest does not wait for the next packet's result.
    pub(crate) unanswered: bool,
}

impl Engine {
    fn new(context: Arc<Context>) -> Self {
        Self {
            lost: context.limits.lost,
            context,
            turn: None,
            instance: None,
            device: None,
            queue: None,
            staged: arena(),
            features: Features::NONE,
            chosen: Chosen::default(),
            unanswered: false,
        }
    }

    /// The current packet is done with the order of its process.
    #[inline]
    pub(crate) fn release_turn(&mut self) {
        if let Some(number) = self.turn.take() {
            self.context.sequence.finish(number);
        }
    }

    /// The instance that an instance or physical device belongs to.
    pub(crate) fn instance(&mut self, token: u64) -> Result<&Arc<Instance>, Error> {
        let objects = &self.context.objects;
        let token = if token >> 56 == Kind::Instance as u64 {
            token
        } else {
            objects.parent(token).unwrap_or(0)
        };
        if self.instance.as_ref().is_none_or(|(t, _)| *t != token) {
            let found = self.context.instances.read().get(&token).cloned();
            self.instance = Some((token, found.ok_or(Error::Nonsense("a null instance"))?));
        }
        match &self.instance {
            Some((_, instance)) => Ok(instance),
            None => Err(Error::Nonsense("a null instance")),
        }
    }

    /// The device that a device, queue or command buffer belongs to.
    #[inline]
    pub(crate) fn device(&mut self, token: u64) -> Result<&Arc<Device>, Error> {
        let token = if token >> 56 == Kind::Device as u64 {
            token
        } else {
            self.context.objects.parent(token).unwrap_or(0)
        };
        if self.device.as_ref().is_none_or(|(t, _)| *t != token) {
            let found = self.context.devices.read().get(&token).cloned();
            self.device = Some((token, found.ok_or(Error::Nonsense("a null device"))?));
        }
        match &self.device {
            Some((_, device)) => Ok(device),
            None => Err(Error::Nonsense("a null device")),
        }
    }

    /// Destroys what no guest will ever name.
    #[cold]
    fn abandon(&mut self, kind: Kind, parent: u64, handles: &[u64]) {
        if let Ok(device) = self.device(parent) {
            for handle in handles {
                destroy_leftover(kind, device.handle, &device.fns, *handle);
            }
        }
    }

    /// The queue behind a token.
    pub(crate) fn queue(&mut self, token: u64) -> Result<&Arc<Queue>, Error> {
        if self.queue.as_ref().is_none_or(|(t, _)| *t != token) {
            let found = self.context.queues.read().get(&token).cloned();
            self.queue = Some((token, found.ok_or(Error::Nonsense("a null queue"))?));
        }
        match &self.queue {
            Some((_, queue)) => Ok(queue),
            None => Err(Error::Nonsense("a null queue")),
        }
    }
}

/// What the generated default bodies need.
pub(crate) trait Host {
    fn global_fns(&self) -> &GlobalFns;
    fn instance_fns(&mut self, token: u64) -> Result<&InstanceFns, Error>;
    fn device_fns(&mut self, token: u64) -> Result<&DeviceFns, Error>;
    /// Puts tokens in the place of the handles that the driver returned: new ones, or for objects that
    /// the driver returns again and again the same one.
    fn adopt(
        &mut self,
        kind: Kind,
        parent: u64,
        handles: *mut u64,
        n: usize,
        new: bool,
    ) -> Result<(), Error>;
    /// Renames a set of the driver's memory types as guests number them.
    fn show_memory_types(&self, bits: &mut u32);
    /// The token names nothing any more; true for the one caller that made it so. Null never named
    /// anything.
    fn retire(&mut self, token: u64) -> bool;
    /// The tokens name nothing any more.
    fn retire_all(&mut self, tokens: *const u64, n: usize);
}

impl Host for Engine {
    fn global_fns(&self) -> &GlobalFns {
        &self.context.renderer.loader.global
    }

    fn instance_fns(&mut self, token: u64) -> Result<&InstanceFns, Error> {
        Ok(&self.instance(token)?.fns)
    }

    #[inline]
    fn device_fns(&mut self, token: u64) -> Result<&DeviceFns, Error> {
        Ok(&self.device(token)?.fns)
    }

    fn adopt(
        &mut self,
        kind: Kind,
        parent: u64,
        handles: *mut u64,
        n: usize,
        new: bool,
    ) -> Result<(), Error> {
        if handles.is_null() {
            return Ok(());
        }
        for i in 0..n {
            // SAFETY: the request made room for n handles, zeroed before the driver wrote to them.
            let handle = unsafe { &mut *handles.add(i) };
            if *handle == 0 {
                continue;
            }
            let objects = &self.context.objects;
            let known = (!new).then(|| {
                objects
                    .all()
                    .into_iter()
                    .find(|o| o.kind == kind && o.handle == *handle && o.parent == parent)
            });
            let token = match known.flatten() {
                Some(object) => Ok(object.token),
                None => self.name(kind, parent, *handle),
            };
            match token {
                Ok(token) => *handle = token,
                Err(error) => {
                    if new {
                        // SAFETY: as above.
                        self.abandon(kind, parent, unsafe { slice(handles.add(i), n - i) });
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn show_memory_types(&self, bits: &mut u32) {
        *bits = self.context.memory_types.bits(*bits);
    }

    fn retire(&mut self, token: u64) -> bool {
        self.context.objects.remove(token)
    }

    fn retire_all(&mut self, tokens: *const u64, n: usize) {
        // SAFETY: decoding placed n tokens there, or none.
        for token in unsafe { slice(tokens, n) } {
            self.context.objects.remove(*token);
        }
    }
}

/// An array of a decoded request.
///
/// # Safety
/// The pointer is null or has `n` elements for as long as the result is used.
pub(crate) unsafe fn slice<'a, T>(p: *const T, n: usize) -> &'a [T] {
    if p.is_null() || n == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(p, n) }
}

/// As [`slice`], to write to.
///
/// # Safety
/// As [`slice`], and nobody else uses it.
pub(crate) unsafe fn slice_mut<'a, T>(p: *mut T, n: usize) -> &'a mut [T] {
    if p.is_null() || n == 0 {
        return &mut [];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts_mut(p, n) }
}

/// Decodes a command, runs it, encodes its reply.
pub(crate) fn run<C: Command>(
    e: &mut Engine,
    r: &mut Reader<'_>,
    w: &mut Vec<u8>,
    f: impl FnOnce(&mut Engine, &mut C) -> Result<C::Return, Error>,
) -> Result<(), Error> {
    // SAFETY: the arena outlives the command.
    let mut c = unsafe { C::decode_request(r)? };
    r.end()?;
    let unawaited = e.is_unawaited();
    if C::HAS_REPLY && !unawaited {
        e.release_turn();
    }
    let ret = if e.lost { C::LOST } else { f(e, &mut c)? };
    if C::HAS_REPLY {
        // SAFETY: the command's pointers were placed by decoding it.
        unsafe { c.encode_reply(ret, &mut Writer::new(w, &Tokens)) };
    }
    if unawaited {
        e.unawaited::<C>(w)?;
        w.clear();
    }
    Ok(())
}

/// As [`run`], for a command on a command buffer that came outside a recording.
pub(crate) fn run_on_command_buffer<C: Command>(
    e: &mut Engine,
    r: &mut Reader<'_>,
    w: &mut Vec<u8>,
    f: impl FnOnce(&mut Engine, &DeviceFns, &mut C) -> Result<C::Return, Error>,
    token: impl FnOnce(&C) -> u64,
) -> Result<(), Error> {
    run(e, r, w, |e, c| {
        let device = Arc::clone(e.device(token(c))?);
        f(e, &device.fns, c)
    })
}

/// Decodes a recorded command and runs it.
#[inline]
pub(crate) fn stage<C: Command>(
    e: &mut Engine,
    r: &mut Reader<'_>,
    f: impl FnOnce(&mut Engine, &mut C) -> Result<C::Return, Error>,
) -> Result<(), Error> {
    // SAFETY: the arena outlives the command.
    let mut c = unsafe { C::decode_request(r)? };
    r.end()?;
    f(e, &mut c)?;
    Ok(())
}

/// The count behind an output pointer; 0 when there is none.
pub(crate) fn count<T: Copy + TryInto<usize>>(p: *const T) -> usize {
    // SAFETY: null, or placed by decoding.
    unsafe { p.as_ref() }
        .and_then(|n| (*n).try_into().ok())
        .unwrap_or(0)
}

/// A count inside a decoded struct.
pub(crate) fn count_in<T>(p: *const T, get: impl FnOnce(&T) -> usize) -> usize {
    // SAFETY: null, or placed by decoding.
    unsafe { p.as_ref() }.map_or(0, get)
}
