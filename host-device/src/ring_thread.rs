//! One thread per ring: takes the guest's bytes, has them executed, sends the replies.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use asgard_asg::doorbell::Doorbell;
use asgard_asg::host::{HostChannel, HostConfig, Wake};
use asgard_asg::{Mapping, layout};
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};

use crate::Error;
use crate::device::{Config, Summary};
use crate::renderer::{self, Context, Replies, Stream};
use crate::resource::Resource;

/// Somebody who takes the host's place at the rings of a context that has failed, and is told why it did.
///
/// Without one its rings are marked as failed, which a guest on this machine understands.
#[derive(Clone)]
pub struct Successor(pub Arc<dyn Fn(&str) + Send + Sync>);

impl std::fmt::Debug for Successor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Successor")
    }
}

/// How long the host of a virtual machine naps before its guest has to ping. Its guest may be late by an
/// eighth of the time since its last packet; a ping takes a system call, an exit, and the front.
const DOZE: Duration = Duration::from_millis(1);

/// How a thread comes to its ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// It initialises the ring.
    Anew,
    /// The same, for a context that is lost.
    Lost,
    /// It takes the place of another process that has died.
    TakeOver,
}

/// What the rings of one context did, and how to reach them.
#[derive(Debug, Default)]
pub struct Rings {
    successor: Option<Successor>,
    /// Of running threads.
    doorbells: Mutex<HashMap<u64, Doorbell>>,
    started: AtomicU64,
    pings: AtomicU64,
    sleeps: AtomicU64,
    wakes: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    cpu_us: AtomicU64,
}

impl Rings {
    /// Nothing yet.
    pub(crate) fn new(successor: Option<Successor>) -> Self {
        Self {
            successor,
            ..Self::default()
        }
    }

    /// Counts a ping that came as a message.
    pub(crate) fn pinged(&self) {
        self.pings.fetch_add(1, Ordering::Relaxed);
    }

    /// The context's part of a summary; complete once all threads have ended.
    pub(crate) fn summary(&self, stats: &renderer::Stats) -> Summary {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Summary {
            contexts: 0,
            rings: get(&self.started),
            packets: stats.packets,
            answers: stats.answers,
            staged_commands: stats.staged_commands,
            submits: stats.submits,
            bytes_in: get(&self.received),
            bytes_out: get(&self.sent),
            pings: get(&self.pings),
            sleeps: get(&self.sleeps),
            wakes: get(&self.wakes),
            cpu_us: get(&self.cpu_us),
            poisoned: 0,
            wire_features: stats.features.bits(),
        }
    }

    fn add(&self, channel: &HostChannel) {
        let counters = channel.counters();
        self.sleeps.fetch_add(counters.sleeps, Ordering::Relaxed);
        self.wakes.fetch_add(counters.wakes, Ordering::Relaxed);
        self.received
            .fetch_add(counters.received, Ordering::Relaxed);
        self.sent.fetch_add(counters.sent, Ordering::Relaxed);
        let cpu = clock_gettime(ClockId::ThreadCPUTime);
        let cpu_us =
            cpu.tv_sec.unsigned_abs().saturating_mul(1_000_000) + cpu.tv_nsec.unsigned_abs() / 1000;
        self.cpu_us.fetch_add(cpu_us, Ordering::Relaxed);
    }

    /// Ends all threads, because their context has failed.
    fn stop_all(&self) {
        for doorbell in self.doorbells.lock().values() {
            doorbell.stop();
        }
    }
}

/// A ring's thread, seen from outside.
#[derive(Debug)]
pub(crate) struct RingThread {
    doorbell: Doorbell,
    thread: JoinHandle<()>,
}

impl RingThread {
    /// Starts a thread for the ring in this memory.
    pub(crate) fn start(
        ctx_id: u32,
        res_id: u32,
        resource: &Resource,
        config: &Config,
        context: &Arc<dyn Context>,
        rings: &Arc<Rings>,
        begin: Begin,
    ) -> Result<Self, Error> {
        let size = layout::blob_size(config.buffer_size);
        if resource.size() < size as u64 {
            return Err(Error::Size {
                what: "a ring",
                size: resource.size(),
            });
        }
        let memory = Mapping::map(resource.file(), 0, size)?;
        let host_config = HostConfig {
            buffer_size: config.buffer_size,
            flush_interval: config.flush_interval,
        };
        let memory = Arc::new(memory);
        let (mut channel, owed) = match begin {
            Begin::Anew | Begin::Lost => (HostChannel::new(memory, host_config)?, Vec::new()),
            Begin::TakeOver => HostChannel::take_over(memory, host_config)?,
        };
        if begin != Begin::Anew {
            channel.forsake();
        }
        if config.as_upstream {
            channel = channel.plain();
        }
        // Who needs a successor is in a virtual machine, whose kernel carries its pings.
        if rings.successor.is_some() {
            channel = channel.dozing(DOZE);
        }
        let doorbell = channel.doorbell();
        let number = rings.started.fetch_add(1, Ordering::Relaxed);
        rings.doorbells.lock().insert(number, doorbell.clone());
        let mut stream = context.open_stream();
        stream.input().extend_from_slice(&owed);
        let mut worker = Worker {
            channel,
            stream,
            context: Arc::clone(context),
            rings: Arc::clone(rings),
            number,
            spin: config.spin,
        };
        let thread = std::thread::Builder::new()
            .name(format!("ring {ctx_id}/{res_id}"))
            .spawn(move || worker.run());
        match thread {
            Ok(thread) => Ok(Self { doorbell, thread }),
            Err(error) => {
                rings.doorbells.lock().remove(&number);
                Err(Error::Thread(error))
            }
        }
    }

    /// The guest has pinged.
    pub(crate) fn wake(&self) {
        self.doorbell.ring();
    }

    /// Ends the thread once it has executed what is in the ring.
    pub(crate) fn stop(&self) {
        self.doorbell.stop();
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    pub(crate) fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("a ring thread panicked");
        }
    }
}

struct Worker {
    channel: HostChannel,
    stream: Box<dyn Stream>,
    context: Arc<dyn Context>,
    rings: Arc<Rings>,
    number: u64,
    spin: Duration,
}

impl Worker {
    fn run(&mut self) {
        if !self.stream.input().is_empty() && !self.execute() {
            return;
        }
        loop {
            match self.channel.recv(self.stream.input()) {
                Ok(0) => match self.channel.wait(self.spin) {
                    Wake::Data => {}
                    Wake::Stopped | Wake::Exited => break,
                },
                Ok(_) => {
                    if !self.execute() {
                        break;
                    }
                }
                Err(error) => {
                    self.context.poison(&error.to_string());
                    self.lost(&error.to_string());
                    break;
                }
            }
        }
        if self.context.error().is_some() {
            self.fail();
        }
    }

    /// Executes what was received; false when that was the end of the stream.
    #[inline]
    fn execute(&mut self) -> bool {
        if let Err(error) = self.stream.run(&mut Sender(&mut self.channel)) {
            self.lost(&error.to_string());
            return false;
        }
        self.channel.settle(self.stream.input().len());
        true
    }

    fn fail(&mut self) {
        if self.rings.successor.is_none() {
            self.channel.fail();
        }
    }

    /// This stream is lost, and if the context is dead, its other streams are too.
    fn lost(&mut self, why: &str) {
        tracing::debug!("stream lost: {}", why.escape_debug());
        self.fail();
        if self.context.error().is_some() {
            if let Some(Successor(tell)) = &self.rings.successor {
                tell(why);
            }
            self.rings.stop_all();
        }
    }
}

impl Drop for Worker {
    /// Also when the thread panics: the guest must not wait for ever.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.context.poison("internal error");
            self.lost("internal error");
        }
        self.rings.add(&self.channel);
        self.rings.doorbells.lock().remove(&self.number);
    }
}

struct Sender<'a>(&'a mut HostChannel);

impl Replies for Sender<'_> {
    fn send(&mut self, bytes: &[u8]) -> Result<(), renderer::Error> {
        self.0
            .send(bytes)
            .map_err(|_| renderer::Error::Disconnected)
    }
}
