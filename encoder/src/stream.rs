//! A thread's stream to the host: packets out, replies in.

use std::cell::RefCell;
use std::time::Duration;

use asgard_asg::guest::{GuestChannel, GuestConfig};
use asgard_protocol::extension::{self, CHOOSE_IDS, Features, USE_FEATURES};
use asgard_protocol::wire::Source;
use asgard_protocol::{Arena, Command, DecodeError, Reader, Writer, packet};

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
    static STREAM: RefCell<Option<Stream>> = const { RefCell::new(None) };
}

/// Runs `f` with this thread's stream, which is opened at the first call.
pub(crate) fn with<T>(f: impl FnOnce(&mut Stream) -> Result<T, Lost>) -> Result<T, Lost> {
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
        f.take().map(|f| stream.run(f)).transpose()
    });
    match (done, f) {
        (Ok(Ok(Some(result))), _) => Ok(result),
        (Ok(Err(error)), _) => Err(error),
        // The thread's own is closed already, as in a destructor at the program's end: one for this call.
        (_, Some(f)) => Stream::open(process)?.run(f),
        (_, None) => Err(Lost::Before),
    }
}

pub(crate) struct Stream {
    process: &'static Process,
    replies: Replies,
    packet: Vec<u8>,
    arena: Arena,
    /// A call has failed: what follows in the ring has no meaning.
    lost: bool,
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
    fn open(process: &'static Process) -> Result<Self, Lost> {
        let Ring {
            memory,
            ping,
            same_kernel,
        } = process.device.create_ring()?;
        let config = GuestConfig {
            same_kernel,
            spin: Duration::from_micros(20),
        };
        let mut channel = GuestChannel::new(memory, config, ping)?;
        // The client's flags, a word before the first packet.
        let mut packet = vec![0; 4];
        if process.features != Features::NONE {
            extension::write(USE_FEATURES, &[process.features.bits()], &mut packet);
        }
        channel.write(&packet)?;
        Ok(Self {
            process,
            replies: Replies { channel },
            packet,
            arena: Arena::new(),
            lost: false,
        })
    }

    fn run<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T, Lost>) -> Result<T, Lost> {
        if self.lost {
            return Err(Lost::Before);
        }
        let result = f(self);
        self.lost = result.is_err();
        result
    }

    /// Sends a command, and waits for its reply if it has one.
    pub(crate) fn call<C: Command>(&mut self, c: &mut C) -> Result<C::Return, Lost> {
        self.packet.clear();
        self.send(c)?;
        if !C::HAS_REPLY {
            return Ok(C::LOST);
        }
        let mut reader = Reader::arriving(&mut self.replies, &self.arena, &Objects);
        // SAFETY: the outputs are the application's, valid for writes.
        let ret = unsafe { c.decode_reply(&mut reader)? };
        drop(reader);
        self.arena.reset();
        Ok(ret)
    }

    /// Sends a command that makes objects with these ids, and is not answered.
    pub(crate) fn create<C: Command>(&mut self, c: &C, ids: &[u64]) -> Result<(), Lost> {
        self.packet.clear();
        extension::write(CHOOSE_IDS, ids, &mut self.packet);
        self.send(c)
    }

    /// Sends what is in the packet, and a command behind it.
    fn send<C: Command>(&mut self, c: &C) -> Result<(), Lost> {
        let sequence = if C::ON_COMMAND_BUFFER {
            0
        } else {
            self.process.next_sequence()
        };
        let mut writer = Writer::new(&mut self.packet, &Objects);
        // SAFETY: the application's pointers are valid as the specification demands.
        unsafe { packet::encode(c, sequence, &mut writer) };
        Ok(self.replies.channel.write(&self.packet)?)
    }
}
