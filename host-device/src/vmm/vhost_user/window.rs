//! The window that host-visible blobs are mapped into.
//!
//! The machine monitor answers each request when it gets to it, and the channel takes one at a time: so a
//! thread of its own waits, and the device does not.
//!
//! Unmapping is lazy. QEMU 11.1 crashes on a request that it reads while the device is stopped, and a guest that
//! is about to reset the device is most likely to unmap: its processes end. So an unmapped range is only noted. It is
//! unmapped for real before another mapping takes its place, when much memory is held that way, or after a while
//! of quiet. After a reset nothing is sent: the machine monitor has dropped all mappings by itself.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::event::{EventfdFlags, eventfd};
use vhost::vhost_user::message::{VhostUserMMap, VhostUserMMapFlags, VhostUserSharedMsg};
use vhost::vhost_user::{Backend, VhostUserFrontendReqHandler};

use crate::virtio_gpu::protocol::SHM_HOST_VISIBLE;

/// Unmap what the guest has let go of after so long without requests.
const QUIET: Duration = Duration::from_millis(500);

/// Unmap at once what is beyond so many bytes.
const HELD: u64 = 1 << 30;

#[derive(Debug)]
struct Map {
    /// Tells whom to answer.
    res_id: u32,
    file: Arc<OwnedFd>,
    offset: u64,
    len: u64,
}

#[derive(Default)]
struct State {
    backend: Option<Backend>,
    /// The device is started: requests may be sent.
    running: bool,
    /// Counts resets.
    generation: u64,
    jobs: VecDeque<Map>,
    /// Mapped, and let go of by the guest: offset and bytes.
    stale: BTreeMap<u64, u64>,
    done: Vec<(u32, bool)>,
    last: Option<Instant>,
    ended: bool,
}

enum Step {
    Map(Map),
    Unmap(u64, u64),
    Wait(Option<Instant>),
}

impl State {
    fn step(&mut self) -> Step {
        if !self.running || self.backend.is_none() {
            return Step::Wait(None);
        }
        if let Some(next) = self.jobs.front() {
            let (start, end) = (next.offset, next.offset + next.len);
            let in_the_way = |(offset, len): (&u64, &u64)| *offset < end && start < offset + len;
            let found = self
                .stale
                .iter()
                .find(|(offset, len)| in_the_way((offset, len)));
            if let Some((offset, len)) = found.map(|(offset, len)| (*offset, *len)) {
                self.stale.remove(&offset);
                return Step::Unmap(offset, len);
            }
            return self.jobs.pop_front().map_or(Step::Wait(None), Step::Map);
        }
        let held: u64 = self.stale.values().sum();
        let due = self.last.map(|last| last + QUIET);
        match due {
            Some(due) if held <= HELD && due > Instant::now() && held > 0 => Step::Wait(Some(due)),
            _ => match self.stale.pop_first() {
                Some((offset, len)) => Step::Unmap(offset, len),
                None => Step::Wait(None),
            },
        }
    }
}

struct Shared {
    state: Mutex<State>,
    change: Condvar,
    /// Readable when something is done.
    event: OwnedFd,
}

/// The device's end.
pub(super) struct Window(Arc<Shared>);

impl Window {
    pub(super) fn start() -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            change: Condvar::new(),
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        });
        let worker = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("window".to_owned())
            .spawn(move || worker.run())?;
        Ok(Self(shared))
    }

    /// Where to send requests from now on.
    pub(super) fn set_backend(&self, backend: Backend) {
        self.0.state.lock().backend = Some(backend);
    }

    /// The device is started.
    pub(super) fn run(&self) {
        self.0.state.lock().running = true;
        self.0.change.notify_all();
    }

    /// The device is reset, and the machine monitor has no mapping left.
    pub(super) fn reset(&self) {
        let mut state = self.0.state.lock();
        state.running = false;
        state.generation += 1;
        state.jobs.clear();
        state.stale.clear();
        state.done.clear();
    }

    /// Asks for a mapping.
    pub(super) fn map(&self, res_id: u32, file: &Arc<OwnedFd>, offset: u64, len: u64) {
        let file = Arc::clone(file);
        self.0.state.lock().jobs.push_back(Map {
            res_id,
            file,
            offset,
            len,
        });
        self.0.change.notify_all();
    }

    /// The guest has let go of a mapping.
    pub(super) fn unmap(&self, offset: u64, len: u64) {
        let mut state = self.0.state.lock();
        state.stale.insert(offset, len);
        state.last = Some(Instant::now());
        drop(state);
        self.0.change.notify_all();
    }

    /// Which mappings have been made, or refused.
    pub(super) fn take_done(&self) -> Vec<(u32, bool)> {
        let mut count = [0; 8];
        // Empty means that somebody was faster.
        let _ = rustix::io::read(&self.0.event, &mut count);
        std::mem::take(&mut self.0.state.lock().done)
    }
}

impl AsFd for Window {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.0.state.lock().ended = true;
        self.0.change.notify_all();
    }
}

impl Shared {
    fn run(&self) {
        let mut state = self.state.lock();
        while !state.ended {
            let step = state.step();
            let (backend, generation) = (state.backend.clone(), state.generation);
            match (step, backend) {
                (Step::Wait(None), _) | (_, None) => self.change.wait(&mut state),
                (Step::Wait(Some(until)), _) => {
                    self.change.wait_until(&mut state, until);
                }
                (Step::Unmap(offset, len), Some(backend)) => {
                    drop(state);
                    if let Err(error) = backend.shmem_unmap(&request(offset, len)) {
                        tracing::debug!("cannot unmap {len} bytes at {offset:#x}: {error}");
                    }
                    state = self.state.lock();
                }
                (Step::Map(map), Some(backend)) => {
                    drop(state);
                    let mapped =
                        backend.shmem_map(&request(map.offset, map.len), &map.file.as_raw_fd());
                    settle(&backend);
                    if let Err(error) = &mapped {
                        tracing::warn!(
                            "cannot map {} bytes at {:#x}: {error}",
                            map.len,
                            map.offset
                        );
                    }
                    state = self.state.lock();
                    state.last = Some(Instant::now());
                    if state.generation == generation {
                        state.done.push((map.res_id, mapped.is_ok()));
                        // Full means readable already.
                        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
                    } else if mapped.is_ok() {
                        // Nobody asked for it in this generation.
                        state.stale.insert(map.offset, map.len);
                    }
                }
            }
        }
    }
}

/// Waits until the machine monitor is done with the request before.
///
/// QEMU answers a mapping before its guest has it: the guest would write to nowhere. It reads the next request only
/// after that, so there is one more, to forget a shared object that nobody has heard of: it does nothing.
fn settle(backend: &Backend) {
    if let Err(error) = backend.shared_object_remove(&VhostUserSharedMsg::default()) {
        tracing::trace!("no shared objects: {error}");
    }
}

fn request(offset: u64, len: u64) -> VhostUserMMap {
    VhostUserMMap {
        shmid: SHM_HOST_VISIBLE,
        padding: [0; 7],
        fd_offset: 0,
        shm_offset: offset,
        len,
        flags: VhostUserMMapFlags::WRITABLE.bits(),
    }
}
