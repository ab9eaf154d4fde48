//! A thread's stream to the host: packets out, replies in.
//!
//! Packets that are not answered are collected, and sent together: with the next one that is answered or
//! submits, when there are many, or before another thread sends anything.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use asgard_asg::guest::{GuestChannel, GuestConfig};
use asgard_protocol::extension::{self, CHOOSE_IDS, Features, UNANSWERED, USE_FEATURES};
use asgard_protocol::wire::Source;
use asgard_protocol::{Arena, Command, DecodeError, Reader, Writer, packet};
use parking_lot::Mutex;

use crate::object::Objects;
use crate::process::Process;
use crate::virtgpu::{self, Ring, RingPing};

/// The host does not answer any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Lost {
    #[error("there is no renderer")]
    NoRenderer,
    #[error("no ring: {0}")]
    Device(#[from] virtgpu::Error),
    #[error("it was lost before")]
    Before,
    #[error("the renderer is gone: {0}")]
    Ring(#[from] asgard_asg::Error),
    #[error("a reply makes no sense: {0}")]
    Reply(#[from] DecodeError),
}

thread_local! {
    static STREAM: RefCell<Option<Arc<Stream>>> = const { RefCell::new(None) };
}

/// Runs `f` with this thread's stream, which is opened at the first call.
pub(crate) fn with<T>(f: impl FnOnce(&Arc<Stream>) -> Result<T, Lost>) -> Result<T, Lost> {
    let process = Process::get().ok_or(Lost::NoRenderer)?;
    let mut f = Some(f);
    let done = STREAM.try_with(|stream| {
        let mut stream = stream.borrow_mut();
        let stream = match stream.as_mut() {
            Some(open) if std::ptr::eq(open.process, process) => open,
            _ => {
                // One of another process is the parent's: its ring must stay open.
                std::mem::forget(stream.take());
                stream.insert(Stream::open(process)?)
            }
        };
        f.take().map(|f| f(stream)).transpose()
    });
    match (done, f) {
        (Ok(Ok(Some(result))), _) => Ok(result),
        (Ok(Err(error)), _) => Err(error),
        // The thread's own is closed already, as in a destructor at the program's end: one for this call.
        (_, Some(f)) => f(&Stream::open(process)?),
        (_, None) => Err(Lost::Before),
    }
}

/// A thread's stream. Other threads look into it only to send what it has collected.
pub(crate) struct Stream {
    process: &'static Process,
    /// So many bytes of packets are collected before they are sent; 0 sends each at once.
    batch: usize,
    ring: Mutex<Open>,
}

/// The ring, and what is not in it yet.
struct Open {
    replies: Replies,
    /// Packets that were not sent.
    packets: Vec<u8>,
    /// Where in them sequence numbers are missing: they are taken when the packets are sent, so that
    /// nobody waits for a number that is not on its way.
    numbers: Vec<usize>,
    arena: Arena,
    /// A call has failed: what follows in the ring has no meaning.
    lost: bool,
}

/// Which stream has packets that were not sent; never more than one, so that the packets of two threads
/// that the program has put in order are sent in that order.
#[derive(Default)]
pub(crate) struct Unsent {
    /// Its address; 0 while there is none. Set to another stream's under the lock below only, and to 0
    /// by whoever holds the ring.
    holder: AtomicUsize,
    stream: Mutex<Weak<Stream>>,
}

impl Unsent {
    /// Sends what another stream than this one has collected.
    #[inline]
    fn settle(&self, me: usize) {
        let holder = self.holder.load(Ordering::Acquire);
        if holder != 0 && holder != me {
            self.settle_now(me, &self.stream.lock());
        }
    }

    #[cold]
    fn settle_now(&self, me: usize, stream: &Weak<Stream>) {
        loop {
            let holder = self.holder.load(Ordering::Acquire);
            if holder == 0 || holder == me {
                return;
            }
            match stream.upgrade() {
                Some(other) => {
                    // Its own thread may be at it, and waits for an answer afterwards.
                    if let Some(mut ring) = other.ring.try_lock_for(Duration::from_micros(100)) {
                        // Its own thread hears of an error.
                        let _ = other.publish(&mut ring);
                    }
                }
                // Its thread ends, and sends it.
                None => std::thread::yield_now(),
            }
        }
    }
}

/// How long to look for a reply, unless others want the core, before a sleep from which the host wakes us.
const SPIN: Duration = Duration::from_micros(20);
/// The same where nobody wakes us: a virtual machine's timer is late by about as much.
const SPIN_FAR: Duration = Duration::from_micros(200);

/// Of packets that are collected: less than a flush of any host's ring.
const BATCH: usize = 3 << 10;

/// What the host sends back.
#[derive(Clone, Copy)]
enum Answer<'a> {
    Whole,
    /// It makes objects with these ids.
    Ids(&'a [u64]),
    None,
}

/// The ring, and reply bytes that were received and not yet read.
struct Replies {
    channel: GuestChannel<Box<dyn RingPing>>,
}

impl Source for Replies {
    fn fill(&mut self, to: &mut [u8]) -> Result<(), DecodeError> {
        self.channel
            .read_reply(to)
            .map_err(|_| DecodeError::Truncated)
    }
}

impl Stream {
    fn open(process: &'static Process) -> Result<Arc<Self>, Lost> {
        let Ring {
            memory,
            ping,
            same_kernel,
        } = process.device.create_ring()?;
        let config = GuestConfig {
            same_kernel,
            spin: if same_kernel { SPIN } else { SPIN_FAR },
        };
        let mut channel = GuestChannel::new(memory, config, ping)?;
        // The client's flags, a word before the first packet.
        let mut packets = vec![0; 4];
        if process.features != Features::NONE {
            extension::write(USE_FEATURES, &[process.features.bits()], &mut packets);
        }
        channel.write(&packets)?;
        packets.clear();
        let batches = process.features.has(Features::BATCHES);
        Ok(Arc::new(Self {
            process,
            batch: if batches { BATCH } else { 0 },
            ring: Mutex::new(Open {
                replies: Replies { channel },
                packets,
                numbers: Vec::new(),
                arena: Arena::new(),
                lost: false,
            }),
        }))
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }

    /// Sends a command, and waits for its reply if it has one; others are collected first.
    pub(crate) fn call<C: Command>(self: &Arc<Self>, c: &mut C) -> Result<C::Return, Lost> {
        if !C::HAS_REPLY {
            return self.tell(c).map(|()| C::LOST);
        }
        self.process.unsent.settle(self.address());
        let open = &mut *self.ring.lock();
        open.append(Answer::Whole, c);
        self.publish(open)?;
        open.reply(c)
    }

    /// Sends several commands at once, and waits for the replies to all.
    pub(crate) fn call_all<C: Command>(self: &Arc<Self>, all: &mut [C]) -> Result<(), Lost> {
        self.process.unsent.settle(self.address());
        let open = &mut *self.ring.lock();
        all.iter().for_each(|c| open.append(Answer::Whole, c));
        self.publish(open)?;
        all.iter_mut().try_for_each(|c| open.reply(c).map(drop))
    }

    /// Sends a command that is not answered, and all that was collected.
    pub(crate) fn send<C: Command>(&self, c: &C) -> Result<(), Lost> {
        self.process.unsent.settle(self.address());
        let open = &mut *self.ring.lock();
        open.append(Answer::None, c);
        self.publish(open)
    }

    /// Sends a command that is not answered, soon.
    pub(crate) fn tell<C: Command>(self: &Arc<Self>, c: &C) -> Result<(), Lost> {
        self.collect(Answer::None, c)
    }

    /// Sends a packet of Asgard's own, and all that was collected.
    pub(crate) fn note(&self, opcode: u32, words: &[u64]) -> Result<(), Lost> {
        self.process.unsent.settle(self.address());
        let open = &mut *self.ring.lock();
        extension::write(opcode, words, &mut open.packets);
        self.publish(open)
    }

    /// Sends a command that makes objects with these ids and is not answered, soon.
    pub(crate) fn create<C: Command>(self: &Arc<Self>, c: &C, ids: &[u64]) -> Result<(), Lost> {
        self.collect(Answer::Ids(ids), c)
    }

    /// Appends a command that is not answered to what was collected.
    fn collect<C: Command>(self: &Arc<Self>, answer: Answer<'_>, c: &C) -> Result<(), Lost> {
        let unsent = &self.process.unsent;
        let me = self.address();
        if self.batch != 0 && unsent.holder.load(Ordering::Acquire) != me {
            // From here on this is the one that has unsent packets.
            let mut stream = unsent.stream.lock();
            unsent.settle_now(me, &stream);
            *stream = Arc::downgrade(self);
            let open = &mut *self.ring.lock();
            unsent.holder.store(me, Ordering::Release);
            return self.append(answer, c, open);
        }
        let open = &mut *self.ring.lock();
        if unsent.holder.load(Ordering::Acquire) == me {
            return self.append(answer, c, open);
        }
        // Another thread has just sent what was collected, or nothing is.
        open.append(answer, c);
        self.publish(open)
    }

    fn append<C: Command>(&self, answer: Answer<'_>, c: &C, open: &mut Open) -> Result<(), Lost> {
        open.append(answer, c);
        if open.packets.len() < self.batch && !open.is_lost() {
            return Ok(());
        }
        self.publish(open)
    }

    /// Sends what was collected.
    fn publish(&self, open: &mut Open) -> Result<(), Lost> {
        let sent = open.publish(self.process);
        let (me, none) = (self.address(), Ordering::Relaxed);
        let holder = &self.process.unsent.holder;
        if holder.load(none) == me {
            holder.store(0, Ordering::Release);
        }
        sent
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if !self.process.is_current() {
            // What a parent has collected is the parent's to send.
            return;
        }
        let mut open = self.ring.lock();
        // Nobody is left to hear of an error.
        let _ = self.publish(&mut open);
    }
}

impl Open {
    /// Waits for the reply to a command that was sent.
    fn reply<C: Command>(&mut self, c: &mut C) -> Result<C::Return, Lost> {
        let mut reader = Reader::arriving(&mut self.replies, &self.arena, &Objects);
        // SAFETY: the outputs are the application's, valid for writes.
        let ret = unsafe { c.decode_reply(&mut reader) };
        drop(reader);
        self.lost = ret.is_err();
        self.arena.reset();
        Ok(ret?)
    }

    /// Appends a command, and before it what there is to say about its answer.
    fn append<C: Command>(&mut self, answer: Answer<'_>, c: &C) {
        match answer {
            Answer::Ids(ids) => extension::write(CHOOSE_IDS, ids, &mut self.packets),
            Answer::None if C::HAS_REPLY => extension::write(UNANSWERED, &[], &mut self.packets),
            Answer::None | Answer::Whole => {}
        }
        if !C::ON_COMMAND_BUFFER {
            self.numbers.push(self.packets.len() + packet::HEADER);
        }
        let mut writer = Writer::new(&mut self.packets, &Objects);
        // SAFETY: the application's pointers are valid as the specification demands.
        unsafe { packet::encode(c, 0, &mut writer) };
    }

    /// Also when somebody answers for a host that has died, as in a virtual machine: what is not answered would look fine.
    fn is_lost(&self) -> bool {
        self.lost || self.replies.channel.is_forsaken()
    }

    fn publish(&mut self, process: &Process) -> Result<(), Lost> {
        if self.is_lost() {
            self.lost = true;
            self.packets.clear();
            self.numbers.clear();
            return Err(Lost::Before);
        }
        if self.packets.is_empty() {
            return Ok(());
        }
        let mut number = process.sequence_numbers(self.numbers.len() as u32);
        for at in self.numbers.drain(..) {
            number = number.wrapping_add(1);
            self.packets[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        let sent = self.replies.channel.write(&self.packets);
        self.packets.clear();
        self.lost = sent.is_err();
        Ok(sent?)
    }
}
