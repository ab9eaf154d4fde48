//! The connection to the server: requests, replies, and what happens when it dies.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use asgard_asg::kumquat::{Packet, Request, Response, Socket};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use crate::process;
use crate::report::Once;
use crate::ring::Ring;
use crate::sync_file::signalled;

/// A fence: readable once it has signalled.
pub(crate) type Fence = Arc<OwnedFd>;

/// How many fences that have not signalled are remembered for the case that the server dies.
const FENCES_KEPT: usize = 256;

/// One connection. It lives until the server dies or the process ends.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: Socket,
    /// Held from a request until its reply. The packet is only kept for its allocation.
    reply: Mutex<Packet>,
    dead: AtomicBool,
    /// Bit n: the server has capset n.
    capsets: u64,
    rings: Mutex<Vec<Weak<Ring>>>,
    fences: Mutex<Fences>,
}

#[derive(Debug, Default)]
struct Fences {
    pending: Vec<Fence>,
    /// Look for those that have signalled when there are so many.
    prune_at: usize,
}

/// Takes a lock whose other holders may have panicked: the data is simple enough to stay valid.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connection {
    /// Connects to the server that listens there.
    pub(crate) fn open(path: &Path) -> io::Result<Arc<Self>> {
        Self::new(Socket::connect(path)?)
    }

    /// Takes over a connected socket, asks for the capsets, and starts to watch.
    pub(crate) fn new(socket: Socket) -> io::Result<Arc<Self>> {
        let mut connection = Connection {
            socket,
            reply: Mutex::default(),
            dead: AtomicBool::new(false),
            capsets: 0,
            rings: Mutex::default(),
            fences: Mutex::default(),
        };
        let count = connection.call(
            &[Request::GetNumCapsets],
            &[],
            |response, _| match response {
                Response::NumCapsets { count } => Some(count.min(64)),
                _ => None,
            },
        )?;
        for index in 0..count {
            let request = Request::GetCapsetInfo { index };
            connection.capsets |=
                connection.call(&[request], &[], |response, _| match response {
                    Response::CapsetInfo(info) => {
                        Some(1_u64.checked_shl(info.capset_id).unwrap_or(0))
                    }
                    _ => None,
                })?;
        }
        let connection = Arc::new(connection);
        connection.watch()?;
        Ok(connection)
    }

    /// Starts the thread that waits for the server's death.
    ///
    /// It is asleep until then. Without it a thread of the program could wait for ever, for a word in
    /// a ring or for a fence, because neither tells that nobody will write it any more.
    fn watch(self: &Arc<Self>) -> io::Result<()> {
        let connection = Arc::clone(self);
        let blocked = block_signals();
        let thread = std::thread::Builder::new()
            .name("asgard-watch".into())
            .stack_size(64 << 10)
            .spawn(move || {
                let mut fds = [PollFd::new(&connection.socket, PollFlags::RDHUP)];
                while let Ok(0) | Err(Errno::INTR) = rustix::event::poll(&mut fds, None) {}
                connection.lost("the server has closed the connection");
            });
        restore_signals(&blocked);
        thread.map(drop)
    }

    /// Bit n: the server has capset n.
    pub(crate) fn capsets(&self) -> u64 {
        self.capsets
    }

    /// Whether the server is gone.
    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// The socket's number, for the child of a fork to close.
    pub(crate) fn raw_fd(&self) -> RawFd {
        self.socket.as_fd().as_raw_fd()
    }

    /// Sends requests that have no reply.
    pub(crate) fn send(
        &self,
        requests: &[Request<'_>],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), Errno> {
        if self.is_dead() {
            return Err(Errno::NODEV);
        }
        let mut bytes = Vec::with_capacity(128);
        for request in requests {
            request.write(&mut bytes);
        }
        self.socket
            .send(&bytes, fds)
            .map_err(|error| match error.kind() {
                io::ErrorKind::InvalidInput => Errno::TOOBIG,
                _ => self.lost(&error.to_string()),
            })
    }

    /// Sends requests of which the last has a reply, and waits for it.
    ///
    /// `read` takes what it needs from the reply and its descriptors, or `None` from a wrong one.
    pub(crate) fn call<T>(
        &self,
        requests: &[Request<'_>],
        fds: &[BorrowedFd<'_>],
        read: impl FnOnce(Response<'_>, &mut Vec<OwnedFd>) -> Option<T>,
    ) -> Result<T, Errno> {
        let mut packet = lock(&self.reply);
        self.send(requests, fds)?;
        match self.socket.recv(&mut packet) {
            Ok(true) => {}
            Ok(false) => return Err(self.lost("the server has closed the connection")),
            Err(error) => return Err(self.lost(&error.to_string())),
        }
        let Packet { bytes, fds } = &mut *packet;
        let result = match Response::parse(bytes) {
            Ok((Response::NoData { errno }, _)) => Err(errno_of(errno)),
            Ok((response, _)) => {
                read(response, fds).ok_or_else(|| self.lost("its reply is not one to our request"))
            }
            Err(error) => Err(self.lost(&error.to_string())),
        };
        fds.clear();
        result
    }

    /// Remembers a ring, to end the waits on it when the server dies.
    pub(crate) fn remember_ring(&self, ring: &Arc<Ring>) {
        let mut rings = lock(&self.rings);
        rings.retain(|ring| ring.strong_count() != 0);
        rings.push(Arc::downgrade(ring));
        drop(rings);
        if self.is_dead() {
            ring.fail();
        }
    }

    /// Remembers a fence until it has signalled, to signal it when the server dies.
    pub(crate) fn remember_fence(&self, fence: &Fence) {
        let mut fences = lock(&self.fences);
        if fences.pending.len() >= fences.prune_at.max(16) {
            fences.pending.retain(|fence| !signalled(fence, false));
            if fences.pending.len() >= FENCES_KEPT {
                fences.pending.drain(..FENCES_KEPT / 2);
            }
            fences.prune_at = fences.pending.len() * 2;
        }
        fences.pending.push(Arc::clone(fence));
        drop(fences);
        if self.is_dead() {
            signal(fence);
        }
    }

    /// Ends everything that waits for the server.
    fn lost(&self, why: &str) -> Errno {
        static LOST: Once = Once::new();
        if !self.dead.swap(true, Ordering::AcqRel) {
            LOST.tell(|| {
                format!(
                    "the connection to the server is lost ({why}), so this program's Vulkan device is lost; \
                     see what the server says, restart it, then restart this program"
                )
            });
            for ring in lock(&self.rings).iter().filter_map(Weak::upgrade) {
                ring.fail();
            }
            for fence in lock(&self.fences).pending.drain(..) {
                signal(&fence);
            }
            // For the thread that watches, and the server if it is still there.
            let _ = self.socket.shutdown();
        }
        Errno::NODEV
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        process::forget_socket(self.raw_fd());
    }
}

/// Makes an eventfd readable; anything else stays as it is.
fn signal(fence: &Fence) {
    let _ = rustix::io::write(fence, &1_u64.to_ne_bytes());
}

fn errno_of(number: u32) -> Errno {
    match i32::try_from(number) {
        Ok(number @ 1..4096) => Errno::from_raw_os_error(number),
        _ => Errno::IO,
    }
}

/// Blocks all signals in the calling thread, so that a new one starts without any.
fn block_signals() -> libc::sigset_t {
    // SAFETY: both sets are initialised by the calls; zeroes are valid for their integers.
    unsafe {
        let mut all = std::mem::zeroed();
        let mut old = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut old);
        old
    }
}

fn restore_signals(old: &libc::sigset_t) {
    // SAFETY: `old` is what `block_signals` has saved.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, old, std::ptr::null_mut()) };
}
