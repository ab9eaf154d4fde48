//! The guest's end of one stream: sends commands, and reads replies.
//!
//! A thread owns a [`GuestChannel`]. Small writes become chunks that a record announces, larger ones
//! stream through the data buffer as a ring. Replies come through the same buffer: so whoever has
//! written something that is answered reads the answer before it writes again.

use std::sync::Arc;
use std::time::Duration;

use crate::doorbell::{ring, sleep_unless_progress, tells_progress};
use crate::layout::{
    BUFFER, BUFFER_SIZE, FLUSH_INTERVAL, FORSAKEN, GUEST_CORE, GUEST_WRITE_POS, HOST_CONSUMED_POS,
    IN_ERROR, PROGRESS, RECORD_SIZE, STATE, TRANSFER_MODE, TRANSFER_SIZE, blob_size, max_records,
    mode, state, valid_config,
};
use crate::mapping::Mapping;
use crate::ring::{Consumer, Memory, Nap, Producer, Shape, Spin, init_headers};
use crate::{Error, Result};

/// How a guest reaches its host beside the ring.
pub trait Ping {
    /// Makes the host look at the ring.
    fn ping(&mut self) -> Result<()>;

    /// Whether the host is still there. Asked whenever a wait becomes long.
    fn peer_alive(&mut self) -> bool;
}

/// For guests whose host shares their kernel and so hears the doorbell: pings are not needed.
///
/// It cannot tell whether the host lives.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPing;

impl Ping for NoPing {
    fn ping(&mut self) -> Result<()> {
        Ok(())
    }

    fn peer_alive(&mut self) -> bool {
        true
    }
}

/// What the guest decides about its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestConfig {
    /// Both ends run under one kernel, so that they can wake each other through shared words, if the
    /// host is Asgard's. False in a virtual machine.
    pub same_kernel: bool,
    /// How long to spin before sleeping.
    pub spin: Duration,
}

impl Default for GuestConfig {
    fn default() -> Self {
        Self {
            same_kernel: false,
            spin: Duration::from_micros(20),
        }
    }
}

/// The guest's end of one stream.
#[derive(Debug)]
pub struct GuestChannel<P, M = Mapping> {
    mem: Arc<M>,
    ping: P,
    /// The host is Asgard's.
    asgard: bool,
    /// The host and we can sleep on each other's words.
    futex: bool,
    spin: Duration,
    /// What the host was last told of it.
    core: u32,
    buffer_size: u32,
    flush_interval: u32,
    max_pending: u32,
    /// Where the next chunk goes.
    step: u32,
    records: Producer,
    large: Producer,
    replies: Consumer,
    pings: u64,
    sleeps: u64,
}

/// The longest sleep before the host's health is asked for.
const HEALTH: Duration = Duration::from_millis(100);

/// How many bytes of a large transfer are published at once: few enough that both ends copy at the
/// same time, from caches rather than from memory.
const LARGE_PIECE: u32 = 32 << 10;

/// At most so many bytes of a reply are taken before the host hears that there is room.
const PIECE: usize = 32 << 10;

/// The least part of a large transfer worth publishing alone, unless it is the last.
const LEAST_PIECE: u32 = 4096;

impl<P: Ping, M: Memory> GuestChannel<P, M> {
    /// Takes over a ring that the host has initialised.
    pub fn new(mem: Arc<M>, config: GuestConfig, ping: P) -> Result<Self> {
        if mem.size() < BUFFER {
            return Err(Error::OutOfBounds {
                offset: 0,
                len: BUFFER as u64,
                size: mem.size() as u64,
            });
        }
        let buffer_size = mem.load(BUFFER_SIZE);
        let flush_interval = mem.load(FLUSH_INTERVAL);
        if !valid_config(buffer_size, flush_interval) || mem.size() < blob_size(buffer_size) {
            return Err(Error::Config {
                buffer_size,
                flush_interval,
            });
        }
        init_headers(&*mem);
        mem.store(TRANSFER_MODE, mode::RECORDS);
        mem.store(HOST_CONSUMED_POS, 0);
        mem.store(GUEST_WRITE_POS, 0);
        let asgard = tells_progress(&*mem);
        Ok(Self {
            mem,
            ping,
            asgard,
            futex: asgard && config.same_kernel,
            spin: config.spin,
            core: 0,
            buffer_size,
            flush_interval,
            max_pending: max_records(buffer_size, flush_interval) * RECORD_SIZE,
            step: 0,
            records: Producer::new(Shape::RECORDS),
            large: Producer::new(Shape::large(buffer_size)),
            replies: Consumer::new(Shape::replies(buffer_size)),
            pings: 0,
            sleeps: 0,
        })
    }

    /// The largest write that becomes a single chunk.
    pub fn flush_interval(&self) -> usize {
        self.flush_interval as usize
    }

    /// Bytes of the data buffer.
    pub fn buffer_size(&self) -> usize {
        self.buffer_size as usize
    }

    /// How often the host was pinged, by either way.
    pub fn pings(&self) -> u64 {
        self.pings
    }

    /// How often this end slept.
    pub fn sleeps(&self) -> u64 {
        self.sleeps
    }

    /// How the host is reached beside the ring.
    pub fn ping(&self) -> &P {
        &self.ping
    }

    /// Sends bytes. A large transfer has left the buffer when this returns.
    #[inline]
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.len() <= self.flush_interval as usize {
            self.write_chunk(bytes)
        } else {
            self.write_large(bytes)?;
            self.wait_until(Self::large_is_drained)
        }
    }

    /// As [`Self::write`], without waiting for the host to take the end of a large transfer.
    #[inline]
    pub fn write_async(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.len() <= self.flush_interval as usize {
            self.write_chunk(bytes)
        } else {
            self.write_large(bytes)
        }
    }

    #[inline]
    fn write_chunk(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        // Chunks and large transfers use the same bytes: one kind at a time.
        if !self.large.at_most(&*self.mem, 0)? {
            self.wait_until(Self::large_is_drained)?;
        }
        // With fewer records pending than steps in the buffer, this step's last user is gone.
        if !self
            .records
            .at_most(&*self.mem, self.max_pending - RECORD_SIZE)?
        {
            self.wait_until(|this| {
                this.records
                    .at_most(&*this.mem, this.max_pending - RECORD_SIZE)
            })?;
        }
        self.mem.copy_in(BUFFER + self.step as usize, bytes)?;
        // Chunks are no longer than a flush interval, which is a u32.
        let size = bytes.len() as u32;
        let record = u64::from(self.step) | u64::from(size) << 32;
        self.records.put(&*self.mem, &record.to_le_bytes())?;
        self.records.publish(&*self.mem, RECORD_SIZE);
        self.step += self.flush_interval;
        if self.step > self.buffer_size - self.flush_interval {
            self.step = 0;
        }
        self.notify()
    }

    fn write_large(&mut self, mut bytes: &[u8]) -> Result<()> {
        let total = u32::try_from(bytes.len()).map_err(|_| Error::OutOfBounds {
            offset: 0,
            len: bytes.len() as u64,
            size: u32::MAX.into(),
        })?;
        self.wait_until(|this| this.records.at_most(&*this.mem, 0))?;
        self.wait_until(Self::large_is_drained)?;
        // The ring is empty, so that the host no longer changes the size of the last transfer.
        self.mem.store(TRANSFER_SIZE, total);
        self.mem.store(TRANSFER_MODE, mode::LARGE);
        let piece = LARGE_PIECE.min(self.buffer_size / 4);
        while !bytes.is_empty() {
            let want = (bytes.len() as u32).min(piece);
            let least = want.min(LEAST_PIECE).min(self.buffer_size / 4);
            let mut room = self.large.room(&*self.mem, want)?;
            if room < least {
                self.wait_until(|this| {
                    room = this.large.room(&*this.mem, least)?;
                    Ok(room >= least)
                })?;
            }
            let (now, rest) = bytes.split_at(room.min(want) as usize);
            self.large.put(&*self.mem, now)?;
            self.large.publish(&*self.mem, now.len() as u32);
            bytes = rest;
            self.notify()?;
        }
        self.mem.store(TRANSFER_MODE, mode::RECORDS);
        Ok(())
    }

    #[inline]
    fn large_is_drained(&mut self) -> Result<bool> {
        self.large.at_most(&*self.mem, 0)
    }

    /// Whether somebody stands for a host that has died: nothing that is sent from now on has an effect.
    #[inline]
    pub fn is_forsaken(&self) -> bool {
        self.asgard && self.mem.load(FORSAKEN) != 0
    }

    /// Pings the host if it might not look at what was published before this call.
    #[inline]
    fn notify(&mut self) -> Result<()> {
        match self.mem.load(STATE) {
            state::RENDERING => Ok(()),
            // Asgard's host says that it sleeps before it looks for the last time.
            state::CAN_CONSUME if self.asgard => Ok(()),
            state::ERROR => Err(Error::Failed),
            state::EXIT => Err(Error::Exited),
            _ => self.ping_now(),
        }
    }

    #[cold]
    fn ping_now(&mut self) -> Result<()> {
        self.pings += 1;
        if self.futex {
            ring(&*self.mem);
            Ok(())
        } else {
            self.ping.ping()
        }
    }

    /// Reads exactly so many bytes of reply, as long as that takes.
    #[inline]
    pub fn read_reply(&mut self, mut to: &mut [u8]) -> Result<()> {
        while !to.is_empty() {
            let mut available = self.replies.available(&*self.mem)?;
            if available == 0 {
                self.wait_until(|this| {
                    available = this.replies.available(&*this.mem)?;
                    Ok(available != 0)
                })?;
            }
            let len = to.len().min(available as usize).min(PIECE);
            let (now, rest) = to.split_at_mut(len);
            self.replies.copy_out(&*self.mem, now)?;
            self.replies.release(&*self.mem, len as u32);
            to = rest;
        }
        Ok(())
    }

    /// Waits for something that the host does.
    #[inline]
    fn wait_until(&mut self, mut ready: impl FnMut(&mut Self) -> Result<bool>) -> Result<()> {
        if ready(self)? {
            return Ok(());
        }
        let mut spin = Spin::new(self.spin);
        let mut told = false;
        while spin.step(&*self.mem) {
            if !told && spin.longest_yield().is_some() {
                told = true;
                self.tell_core();
            }
            if ready(self)? {
                return Ok(());
            }
        }
        self.wait_asleep(&mut ready)
    }

    /// Tells the host where this end waits, so that it does not run there too.
    fn tell_core(&mut self) {
        let core = self.mem.core();
        if self.futex && core != self.core {
            self.core = core;
            self.mem.store(GUEST_CORE, core);
        }
    }

    #[cold]
    fn wait_asleep(&mut self, ready: &mut dyn FnMut(&mut Self) -> Result<bool>) -> Result<()> {
        let nap = Nap::new();
        loop {
            let seen = self.mem.load(PROGRESS);
            if ready(self)? {
                return Ok(());
            }
            self.check_health()?;
            self.sleeps += 1;
            if self.futex {
                sleep_unless_progress(&*self.mem, seen, HEALTH);
            } else {
                self.mem.nap(nap.time());
            }
        }
    }

    fn check_health(&mut self) -> Result<()> {
        if self.mem.load(IN_ERROR) != 0 {
            return Err(Error::Failed);
        }
        match self.mem.load(STATE) {
            state::ERROR => return Err(Error::Failed),
            state::EXIT => return Err(Error::Exited),
            _ => {}
        }
        if self.ping.peer_alive() {
            Ok(())
        } else {
            Err(Error::Disconnected)
        }
    }

    /// Tells the host that nothing more will come. Not every host listens; closing the ring's
    /// resource tells all of them.
    pub fn exit(&mut self) {
        self.mem.publish(STATE, state::EXIT);
        if self.futex {
            ring(&*self.mem);
        }
    }
}
