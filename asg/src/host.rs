//! The host's end of one stream: takes what the guest sends, and sends replies.
//!
//! A thread owns a [`HostChannel`] and loops: [`HostChannel::recv`], work, [`HostChannel::send`],
//! and [`HostChannel::wait`] once `recv` finds nothing. While it works or spins, the state word says
//! RENDERING, so that no guest pings: every way from there leads to another look at the rings.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::doorbell::{Doorbell, tell_progress};
use crate::layout::{
    ASGARD_VERSION, ASGARD_VERSION_WORD, BUFFER, BUFFER_SIZE, DEFAULT_BUFFER_SIZE,
    DEFAULT_FLUSH_INTERVAL, DOORBELL, FLUSH_INTERVAL, FORSAKEN, GUEST_CORE, GUEST_WAITING,
    GUEST_WRITE_POS, HOST_CONSUMED_POS, IN_ERROR, INLINE_SIZE, MAGIC, MAGIC_WORD, OWED, OWED_LARGE,
    OWED_REPLY, PROGRESS, RECORD_SIZE, STATE, TRANSFER_MODE, TRANSFER_SIZE, blob_size, mode, state,
    valid_config,
};
use crate::mapping::Mapping;
use crate::ring::{Consumer, Crowd, Memory, Nap, Patience, Producer, Shape, Spin, init_headers};
use crate::{Error, Result};

/// What the host decides about a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostConfig {
    /// Bytes of the data buffer, a power of two; the capability set must say the same.
    pub buffer_size: u32,
    /// Bytes of a step: the largest chunk that a guest sends by a record.
    pub flush_interval: u32,
}

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            buffer_size: DEFAULT_BUFFER_SIZE,
            flush_interval: DEFAULT_FLUSH_INTERVAL,
        }
    }
}

/// Why [`HostChannel::wait`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// There is something to receive.
    Data,
    /// [`Doorbell::stop`] was called, or this end itself has given up.
    Stopped,
    /// The guest has left.
    Exited,
}

/// What a channel has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// How often it slept for want of data.
    pub sleeps: u64,
    /// How often it slept shortly: before it slept, within an unfinished transfer, or for room for a reply.
    pub naps: u64,
    /// How often a wait ended with data.
    pub wakes: u64,
    /// Bytes received.
    pub received: u64,
    /// Bytes sent.
    pub sent: u64,
}

/// The host's end of one stream.
#[derive(Debug)]
pub struct HostChannel<M = Mapping> {
    mem: Arc<M>,
    doorbell: Doorbell<M>,
    buffer_size: u32,
    records: Consumer,
    large: Consumer,
    replies: Producer,
    counters: Counters,
    /// How much may still be received once this end is stopped.
    grace: usize,
    failed: bool,
    /// What guests are shown while this end looks at the rings.
    looking: u32,
    neighbour: Neighbour,
    crowd: Crowd,
    /// How long to nap, once it has spun in vain, before guests have to ping.
    doze: Duration,
    /// What is received and not settled.
    owed: u32,
}

/// Whether the guest's thread waits on the core that this end spins on.
///
/// The scheduler may put both on one core and leave them there, since each lets the other run all the
/// time; an answer then takes two switches of context where it could take a cache line.
#[derive(Debug, Default)]
struct Neighbour {
    /// Waits in a row that found the guest here.
    met: u32,
    moved: Option<Instant>,
}

impl Neighbour {
    /// So often in a row is no chance.
    const ENOUGH: u32 = 4;
    /// When all cores are busy there is no better place, and moving on would only cost.
    const REST: Duration = Duration::from_millis(10);

    #[inline]
    fn look(&mut self, mem: &impl Memory) {
        let guest = mem.load(GUEST_CORE);
        if guest == 0 || guest != mem.core() {
            self.met = 0;
            return;
        }
        self.met += 1;
        if self.met >= Self::ENOUGH {
            self.leave(mem);
        }
    }

    #[cold]
    fn leave(&mut self, mem: &impl Memory) {
        self.met = 0;
        if self.moved.is_none_or(|then| then.elapsed() > Self::REST) {
            self.moved = Some(Instant::now());
            mem.leave_core();
        }
    }
}

/// At most so many bytes change hands before the other end hears of it, so that both copy at once,
/// from caches rather than from memory.
const PIECE: u32 = 32 << 10;

/// How long to spin for a guest that is in the middle of something.
const BUSY_SPIN: Duration = Duration::from_micros(50);

/// The longest sleep, should a hostile guest tamper with the doorbell.
const SAFETY: Duration = Duration::from_secs(2);

impl<M: Memory> HostChannel<M> {
    /// Initialises the rings. Must be done before the guest learns that they are ready.
    pub fn new(mem: Arc<M>, config: HostConfig) -> Result<Self> {
        let HostConfig {
            buffer_size,
            flush_interval,
        } = config;
        if !valid_config(buffer_size, flush_interval) {
            return Err(Error::Config {
                buffer_size,
                flush_interval,
            });
        }
        if mem.size() < blob_size(buffer_size) {
            return Err(Error::OutOfBounds {
                offset: 0,
                len: blob_size(buffer_size) as u64,
                size: mem.size() as u64,
            });
        }
        init_headers(&*mem);
        for (word, value) in [
            (BUFFER_SIZE, buffer_size),
            (FLUSH_INTERVAL, flush_interval),
            (HOST_CONSUMED_POS, 0),
            (GUEST_WRITE_POS, 0),
            (TRANSFER_MODE, mode::RECORDS),
            (TRANSFER_SIZE, 0),
            (IN_ERROR, 0),
            (DOORBELL, 0),
            (PROGRESS, 0),
            (GUEST_CORE, 0),
            (GUEST_WAITING, 0),
            (OWED, 0),
            (FORSAKEN, 0),
            (ASGARD_VERSION_WORD, ASGARD_VERSION),
            (MAGIC_WORD, MAGIC),
            // Until the first look there is nobody to notice anything without a ping.
            (STATE, state::NEED_NOTIFY),
        ] {
            mem.publish(word, value);
        }
        Ok(Self::on(
            mem,
            buffer_size,
            [
                Consumer::new(Shape::RECORDS),
                Consumer::new(Shape::large(buffer_size)),
            ],
            Producer::new(Shape::replies(buffer_size)),
        ))
    }

    /// This end as it starts, with its two ways in (records, large writes) and the one out.
    fn on(mem: Arc<M>, buffer_size: u32, ins: [Consumer; 2], replies: Producer) -> Self {
        let [records, large] = ins;
        Self {
            doorbell: Doorbell::new(Arc::clone(&mem)),
            mem,
            buffer_size,
            records,
            large,
            replies,
            counters: Counters::default(),
            grace: buffer_size as usize,
            failed: false,
            looking: state::RENDERING,
            neighbour: Neighbour::default(),
            crowd: Crowd::default(),
            doze: Duration::ZERO,
            owed: 0,
        }
    }

    /// Hides what is Asgard's own, for guests that are to be tested as with another host: they have to
    /// ping by other ways than the doorbell word, and do so whenever this end is not busy.
    #[must_use]
    pub fn plain(mut self) -> Self {
        self.mem.publish(MAGIC_WORD, 0);
        self.looking = state::CAN_CONSUME;
        self
    }

    /// Naps for so long between looks at the ring before it sleeps: for guests to which a ping costs more
    /// than the delay, those of a virtual machine.
    #[must_use]
    pub fn dozing(mut self, doze: Duration) -> Self {
        self.doze = doze;
        self
    }

    /// Takes the place of another host, which has died. If the guest waits for the reply to something that
    /// the other had taken already, those bytes come back, from the start of the last packet or before.
    ///
    /// The words that tell lie in the guest's reach: a guest that changed them gets a wrong answer.
    pub fn take_over(mem: Arc<M>, config: HostConfig) -> Result<(Self, Vec<u8>)> {
        let HostConfig { buffer_size, .. } = config;
        if mem.size() < blob_size(buffer_size) || !buffer_size.is_power_of_two() {
            return Err(Error::OutOfBounds {
                offset: 0,
                len: blob_size(buffer_size) as u64,
                size: mem.size() as u64,
            });
        }
        let (large, replies) = (Shape::large(buffer_size), Shape::replies(buffer_size));
        let ins = [
            Consumer::resume(Shape::RECORDS, &*mem, 0),
            Consumer::resume(large, &*mem, 0),
        ];
        let out = Producer::resume(replies, &*mem);
        let channel = Self::on(mem, buffer_size, ins, out);
        let mem = &*channel.mem;
        let owed = mem.load(OWED);
        let mut bytes = Vec::new();
        if owed == 0 || mem.load(OWED_REPLY) != channel.replies.position() {
            return Ok((channel, bytes));
        }
        if owed & OWED_LARGE != 0 {
            let len = (owed & !OWED_LARGE).min(buffer_size);
            Consumer::resume(large, mem, len).append_to(mem, len as usize, &mut bytes)?;
        } else {
            let mut record = [0; RECORD_SIZE as usize];
            Consumer::resume(Shape::RECORDS, mem, RECORD_SIZE).copy_out(mem, &mut record)?;
            let [a, b, c, d, e, f, g, h] = record;
            let offset = u32::from_le_bytes([a, b, c, d]) as usize;
            let size = u32::from_le_bytes([e, f, g, h]) as usize;
            mem.append_to(BUFFER.saturating_add(offset), size, &mut bytes)?;
        }
        Ok((channel, bytes))
    }

    /// All but the last `left` of the bytes that were received are executed, and their replies sent.
    #[inline]
    pub fn settle(&mut self, left: usize) {
        self.owed = u32::try_from(left).unwrap_or(OWED_LARGE - 1);
        self.mem.store(OWED, self.owed);
    }

    #[inline]
    fn owe(&mut self, taken: usize, flag: u32) {
        let taken = u32::try_from(taken).unwrap_or(OWED_LARGE - 1);
        self.owed = self.owed.saturating_add(taken).min(OWED_LARGE - 1);
        self.mem.store(OWED_REPLY, self.replies.position());
        self.mem.store(OWED, self.owed | flag);
    }

    /// A handle to wake or stop this end from other threads.
    pub fn doorbell(&self) -> Doorbell<M> {
        self.doorbell.clone()
    }

    /// What has been done so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The memory of the ring.
    pub fn memory(&self) -> &Arc<M> {
        &self.mem
    }

    /// Appends to `out` what the guest has sent, as far as one call may: about a buffer's worth.
    /// Tells how many bytes it was; 0 if there is nothing.
    ///
    /// Once [`Doorbell::stop`] was called, what the guest had left behind can still be received, but
    /// a guest that goes on sending is cut off with [`Error::Stopped`]. Any other error is the guest's
    /// fault, and final: the owner calls [`Self::fail`].
    #[inline]
    pub fn recv(&mut self, out: &mut Vec<u8>) -> Result<usize> {
        if self.failed {
            return Err(Error::Failed);
        }
        if self.doorbell.is_stopped() && self.grace == 0 {
            return Err(Error::Stopped);
        }
        // The guest finishes one kind of transfer before it begins the other, so that looking at the
        // records first keeps the order. The mode word would not: it can be ahead of the data.
        let records = self.records.available(&*self.mem)?;
        let taken = if records != 0 {
            let taken = self.recv_records(records, out)?;
            self.owe(taken, 0);
            taken
        } else {
            match self.large.available(&*self.mem)? {
                0 => return Ok(0),
                large => {
                    let taken = self.recv_large(large, out)?;
                    self.owe(taken, OWED_LARGE);
                    taken
                }
            }
        };
        self.counters.received += taken as u64;
        self.set_rendering();
        if self.doorbell.is_stopped() {
            // Even chunks without bytes come to an end.
            self.grace = self.grace.saturating_sub(taken.max(RECORD_SIZE as usize));
        }
        Ok(taken)
    }

    fn recv_records(&mut self, available: u32, out: &mut Vec<u8>) -> Result<usize> {
        if !available.is_multiple_of(RECORD_SIZE) {
            return Err(Error::Lied {
                what: "number of record bytes",
                value: available,
            });
        }
        let mut records = [0; INLINE_SIZE as usize];
        let records = &mut records[..available as usize];
        self.records.copy_out(&*self.mem, records)?;
        let mut taken = 0;
        let mut used = 0;
        for record in records.as_chunks::<8>().0 {
            let [a, b, c, d, e, f, g, h] = *record;
            let offset = u32::from_le_bytes([a, b, c, d]);
            let size = u32::from_le_bytes([e, f, g, h]);
            if size > self.buffer_size {
                return Err(Error::Lied {
                    what: "record size",
                    value: size,
                });
            }
            if offset > self.buffer_size - size {
                return Err(Error::Lied {
                    what: "record offset",
                    value: offset,
                });
            }
            // Honest records never overlap; others must not make us hold more than a buffer's worth.
            if taken != 0 && taken + size as usize > self.buffer_size as usize {
                break;
            }
            self.mem
                .append_to(BUFFER + offset as usize, size as usize, out)?;
            taken += size as usize;
            used += RECORD_SIZE;
        }
        self.records.release(&*self.mem, used);
        tell_progress(&*self.mem);
        Ok(taken)
    }

    fn recv_large(&mut self, available: u32, out: &mut Vec<u8>) -> Result<usize> {
        out.reserve(available as usize);
        let mut left = available;
        while left != 0 {
            let piece = left.min(PIECE);
            self.large.append_to(&*self.mem, piece as usize, out)?;
            // Before the room is given back: a guest that sees the ring empty sets the size of its
            // next transfer.
            let before = self.mem.sub(TRANSFER_SIZE, piece);
            if before < piece {
                return Err(Error::Lied {
                    what: "transfer size",
                    value: before,
                });
            }
            self.large.release(&*self.mem, piece);
            tell_progress(&*self.mem);
            left -= piece;
        }
        Ok(available as usize)
    }

    /// Sends a reply of any size, and waits for room as long as it takes: until the guest has read
    /// enough, or [`Doorbell::stop`] is called, or the guest has left.
    pub fn send(&mut self, mut bytes: &[u8]) -> Result<()> {
        if self.failed {
            return Err(Error::Failed);
        }
        while !bytes.is_empty() {
            let want = u32::try_from(bytes.len()).unwrap_or(u32::MAX).min(PIECE);
            let want = want.min(self.buffer_size / 2);
            let room = self.replies.room(&*self.mem, want)?;
            if room < want {
                self.wait_for_room(want)?;
            }
            let (piece, rest) = bytes.split_at(want as usize);
            self.replies.put(&*self.mem, piece)?;
            self.replies.publish_relaxed(&*self.mem, want);
            tell_progress(&*self.mem);
            self.counters.sent += u64::from(want);
            bytes = rest;
        }
        Ok(())
    }

    #[cold]
    fn wait_for_room(&mut self, want: u32) -> Result<()> {
        let mut spin = Spin::new(BUSY_SPIN);
        let mut nap = None;
        loop {
            let bell = self.mem.load(DOORBELL);
            if self.replies.room(&*self.mem, want)? >= want {
                return Ok(());
            }
            if self.doorbell.is_stopped() {
                return Err(Error::Stopped);
            }
            if self.mem.load(STATE) == state::EXIT {
                return Err(Error::Exited);
            }
            if !spin.step(&*self.mem) {
                // Guests do not tell when they have read.
                let nap = nap.get_or_insert_with(Nap::new);
                self.counters.naps += 1;
                self.mem.wait(DOORBELL, bell, Patience::Nap(nap.time()));
            }
        }
    }

    /// Shows guests that they need not ping, because this end is certain to look again.
    #[inline]
    pub fn set_rendering(&self) {
        self.show(state::RENDERING);
    }

    /// Shows guests that this end looks at the ring now and then, and that a ping would not hurt.
    #[inline]
    pub fn set_can_consume(&self) {
        self.show(state::CAN_CONSUME);
    }

    /// Reading first leaves the line with the guest, who reads it at each flush.
    #[inline]
    fn show(&self, state: u32) {
        let shown = self.mem.load(STATE);
        if shown != state && shown != state::EXIT {
            self.mem.publish(STATE, state);
        }
    }

    /// Waits until there is something to receive: spins for at most `spin`, and not at all once
    /// others want the core; then sleeps until the guest or a [`Doorbell`] rings.
    ///
    /// Lies of the guest count as data, for [`Self::recv`] to find.
    #[inline]
    pub fn wait(&mut self, spin: Duration) -> Wake {
        if self.failed {
            return Wake::Stopped;
        }
        // A guest resets the state when it takes the ring over.
        self.show(self.looking);
        match self.look() {
            Some(wake) => wake,
            None => self.wait_long(spin),
        }
    }

    /// Whether there is a reason to stop waiting.
    ///
    /// The end is looked for first: what was sent before it is there by then, and is received before it
    /// is heeded.
    #[inline]
    fn look(&self) -> Option<Wake> {
        let stopped = self.doorbell.is_stopped();
        let exited = self.mem.load(STATE) == state::EXIT;
        if self.records.has_news(&*self.mem) || self.large.has_news(&*self.mem) {
            Some(Wake::Data)
        } else if stopped {
            Some(Wake::Stopped)
        } else if exited {
            Some(Wake::Exited)
        } else {
            None
        }
    }

    fn wait_long(&mut self, spin: Duration) -> Wake {
        self.neighbour.look(&*self.mem);
        if !self.crowd.is_here() {
            let mut spin = Spin::new(spin);
            let mut wake = None;
            while wake.is_none() && spin.step(&*self.mem) {
                wake = self.look();
            }
            if let Some(longest) = spin.longest_yield() {
                self.crowd.note(longest);
            }
            if let Some(wake) = wake {
                return self.woken(wake);
            }
        }
        if !self.doze.is_zero()
            && let Some(wake) = self.nap_for_a_while()
        {
            return self.woken(wake);
        }
        loop {
            let bell = self.mem.load(DOORBELL);
            // From here on guests ping. They publish and then read the state; we write the state and
            // then look for what they published: one of both sees the other.
            let before = self.mem.publish(STATE, state::NEED_NOTIFY);
            if before == state::EXIT {
                self.mem.publish(STATE, state::EXIT);
            }
            let mut wake = self.look();
            if wake.is_none() && self.mem.load(TRANSFER_SIZE) != 0 {
                // The guest is in the middle of a transfer.
                self.show(self.looking);
                wake = self.wait_in_transfer();
                if wake.is_none() {
                    continue;
                }
            }
            if wake.is_none() {
                self.counters.sleeps += 1;
                self.mem.wait(DOORBELL, bell, Patience::Safety(SAFETY));
                wake = self.look();
            }
            if let Some(wake) = wake {
                self.show(self.looking);
                return self.woken(wake);
            }
        }
    }

    /// Looks now and then, while the guest sees no reason to ping.
    fn nap_for_a_while(&mut self) -> Option<Wake> {
        let nap = Nap::new();
        while nap.elapsed() < self.doze {
            let bell = self.mem.load(DOORBELL);
            let wake = self.look();
            if wake.is_some() {
                return wake;
            }
            self.counters.naps += 1;
            self.mem.wait(DOORBELL, bell, Patience::Nap(nap.time()));
        }
        None
    }

    /// Waits for more of a large transfer whose sender sees no reason to ping. Comes back without a
    /// reason when the transfer has ended.
    #[cold]
    fn wait_in_transfer(&mut self) -> Option<Wake> {
        let mut spin = Spin::new(BUSY_SPIN);
        let mut nap = None;
        loop {
            let bell = self.mem.load(DOORBELL);
            let wake = self.look();
            if wake.is_some() || self.mem.load(TRANSFER_SIZE) == 0 {
                return wake;
            }
            if !spin.step(&*self.mem) {
                let nap = nap.get_or_insert_with(Nap::new);
                self.counters.naps += 1;
                self.mem.wait(DOORBELL, bell, Patience::Nap(nap.time()));
            }
        }
    }

    fn woken(&mut self, wake: Wake) -> Wake {
        if wake == Wake::Data {
            self.counters.wakes += 1;
        }
        wake
    }

    /// Tells the guest that this end has left; nobody will look at the ring any more.
    pub fn exit(&mut self) {
        if !self.failed {
            self.failed = true;
            self.mem.publish(STATE, state::EXIT);
            tell_progress(&*self.mem);
        }
    }

    /// Declares the stream lost: the guest stops waiting, and this end does nothing any more.
    pub fn fail(&mut self) {
        self.failed = true;
        self.mem.publish(IN_ERROR, 1);
        self.mem.publish(STATE, state::ERROR);
        tell_progress(&*self.mem);
    }

    /// Tells a guest that knows Asgard's words that whatever it sends is lost, although it is answered: this end
    /// stands for a host that has died.
    pub fn forsake(&mut self) {
        self.mem.publish(FORSAKEN, 1);
    }

    /// Whether [`Self::fail`] or [`Self::exit`] was called.
    pub fn is_failed(&self) -> bool {
        self.failed
    }
}
