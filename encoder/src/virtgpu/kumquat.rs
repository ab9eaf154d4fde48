//! A device without a virtual machine: Kumquat's messages on a Unix socket.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use asgard_asg::Mapping;
use asgard_asg::capset::CAPSET_ID;
use asgard_asg::doorbell;
use asgard_asg::guest::Ping;
use asgard_asg::kumquat::{
    BLOB_FLAG_MAPPABLE, CtxCreate, CtxResource, FENCE, GetCapset, Packet, RING_IDX, Request,
    ResourceCreateBlob, Response, Socket,
};
use asgard_asg::layout::{MAGIC, MAGIC_WORD, blob_size};
use asgard_asg::ring::Memory as _;
use asgard_asg::submit::Command;
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, getpid};

use super::{
    Blob, Error, HOST3D, Host, Release, Ring, RingPing, VirtGpu, is_readable, payload, ring_of,
    size_of_file,
};

/// What a server may take for its first answers; whatever else listens there might never give one.
const ANSWER: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};

struct Kumquat {
    socket: Socket,
    /// Whose connection it is; a forked child has it too, and must not speak on it.
    process: Pid,
    /// Held from a request until its reply.
    turn: Mutex<Packet>,
    context: u32,
    host: Host,
    dead: AtomicBool,
    /// Sync files that have not signalled, as far as is known: nobody else would if the server died.
    files: Mutex<Files>,
}

#[derive(Default)]
struct Files {
    pending: Vec<OwnedFd>,
    /// Look for those that have signalled when there are so many.
    prune_at: usize,
}

/// Connects to the server on that socket and makes a context.
pub(crate) fn connect(path: &Path, name: &[u8]) -> Result<Arc<dyn VirtGpu>, Error> {
    let socket = Socket::connect(path)
        .map_err(|e| Error::Absent(format!("{} cannot be connected to: {e}", path.display())))?;
    let mut kumquat = Kumquat {
        socket,
        process: getpid(),
        turn: Mutex::default(),
        context: 0,
        host: Host::default(),
        dead: AtomicBool::new(false),
        files: Mutex::default(),
    };
    let request = Request::GetCapset(GetCapset {
        capset_id: CAPSET_ID,
        capset_version: 0,
    });
    kumquat.host = kumquat.call(&[request], |response, _| match response {
        Response::Capset(bytes) => Some(Host::parse(bytes)),
        _ => None,
    })??;
    let create = Request::CtxCreate(CtxCreate::new(CAPSET_ID, name));
    kumquat.context = kumquat.call(&[create], |response, _| match response {
        Response::ContextCreate { ctx_id } => Some(ctx_id),
        _ => None,
    })?;
    let kumquat = Arc::new(kumquat);
    Kumquat::watch(&kumquat);
    Ok(Arc::new(kumquat))
}

impl Kumquat {
    /// A thread that sleeps until the server closes the connection: a ring does not tell that its host died.
    fn watch(this: &Arc<Self>) {
        let kumquat = Arc::clone(this);
        let _ = std::thread::Builder::new()
            .name("asgard-watch".into())
            .spawn(move || {
                let mut fds = [PollFd::new(&kumquat.socket, PollFlags::RDHUP)];
                while let Ok(0) | Err(rustix::io::Errno::INTR) = rustix::event::poll(&mut fds, None)
                {
                }
                kumquat.lost("the server has closed the connection");
            });
    }

    fn lost(&self, why: &str) -> Error {
        if !self.dead.swap(true, Ordering::SeqCst) {
            eprintln!(
                "asgard: the connection to the renderer is lost ({why}); see what it says, and restart this program"
            );
            for file in self.files.lock().pending.drain(..) {
                signal(&file);
            }
        }
        Error::Lost(why.to_owned())
    }

    /// Signals a sync file if the server dies before it does.
    fn remember(&self, file: &OwnedFd) {
        // Without a copy it works as long as the server does.
        let Ok(copy) = file.try_clone() else { return };
        let mut files = self.files.lock();
        if files.pending.len() >= files.prune_at.max(16) {
            files.pending.retain(|file| !is_readable(file));
            files.prune_at = files.pending.len() * 2;
        }
        files.pending.push(copy);
        drop(files);
        if self.dead.load(Ordering::SeqCst) {
            signal(file);
        }
    }

    fn send(&self, requests: &[Request<'_>]) -> Result<(), Error> {
        self.send_with(requests, &[])
    }

    fn send_with(&self, requests: &[Request<'_>], fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        if getpid() != self.process {
            return Err(Error::Lost("it is the parent process's".to_owned()));
        }
        let mut bytes = Vec::with_capacity(128);
        for request in requests {
            request.write(&mut bytes);
        }
        self.socket
            .send(&bytes, fds)
            .map_err(|e| self.lost(&e.to_string()))
    }

    /// Something comes before [`ANSWER`] has passed.
    fn answers(&self) -> bool {
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        rustix::event::poll(&mut fds, Some(&ANSWER)) != Ok(0)
    }

    fn call<T>(
        &self,
        requests: &[Request<'_>],
        read: impl FnOnce(Response<'_>, &mut Vec<OwnedFd>) -> Option<T>,
    ) -> Result<T, Error> {
        self.call_with(requests, &[], read)
    }

    fn call_with<T>(
        &self,
        requests: &[Request<'_>],
        fds: &[BorrowedFd<'_>],
        read: impl FnOnce(Response<'_>, &mut Vec<OwnedFd>) -> Option<T>,
    ) -> Result<T, Error> {
        let mut packet = self.turn.lock();
        self.send_with(requests, fds)?;
        if self.context == 0 && !self.answers() {
            return Err(Error::Unsuited("it does not answer".into()));
        }
        match self.socket.recv(&mut packet) {
            Ok(true) => {}
            Ok(false) => return Err(self.lost("the server has closed the connection")),
            Err(error) => return Err(self.lost(&error.to_string())),
        }
        let Packet { bytes, fds } = &mut *packet;
        let result = match Response::parse(bytes) {
            Ok((Response::NoData { errno }, _)) => Err(Error::Refused(format!("error {errno}"))),
            Ok((response, _)) => read(response, fds)
                .ok_or_else(|| Error::Unsuited("its reply is not one to our request".into())),
            Err(error) => Err(self.lost(&error.to_string())),
        };
        fds.clear();
        result
    }

    /// A resource of the context's, with its memory.
    fn create(&self, blob_id: u64, size: u64) -> Result<(u32, OwnedFd), Error> {
        let create = Request::ResourceCreateBlob(ResourceCreateBlob {
            ctx_id: self.context,
            blob_mem: HOST3D,
            blob_flags: BLOB_FLAG_MAPPABLE,
            padding: 0,
            blob_id,
            size,
        });
        let made = self.call(&[create], |response, fds| match response {
            Response::ResourceCreate(made) => Some((made.resource_id, fds.pop()?)),
            _ => None,
        })?;
        let attach = CtxResource {
            ctx_id: self.context,
            resource_id: made.0,
        };
        self.send(&[Request::CtxAttach(attach)])?;
        Ok(made)
    }

    /// Submits a small command; with the number of a ring for a fence, or without one.
    fn submit(&self, command: &Command, ring: Option<u8>) -> Result<Option<OwnedFd>, Error> {
        let payload = payload(command);
        let request = Request::Submit3d {
            flags: ring.map_or(0, |_| FENCE | RING_IDX),
            ctx_id: self.context,
            ring_idx: ring.unwrap_or(0),
            in_fences: Vec::new(),
            command: &payload,
        };
        if ring.is_none() {
            self.send(&[request])?;
            return Ok(None);
        }
        self.call(&[request], |response, fds| match response {
            Response::CmdSubmit3d(_) => Some(fds.pop()),
            _ => None,
        })
    }
}

impl Kumquat {
    /// A resource with its memory.
    fn blob(self: &Arc<Self>, (resource_id, file): (u32, OwnedFd), size: u64) -> Blob {
        let kumquat = Arc::clone(self);
        let release = Release::new(move || {
            let _ = kumquat.send(&[Request::CtxDetach(CtxResource {
                ctx_id: kumquat.context,
                resource_id,
            })]);
        });
        Blob {
            resource_id,
            handle: 0,
            size,
            file: Some(Arc::new(file)),
            offset: 0,
            _release: release,
        }
    }
}

impl VirtGpu for Arc<Kumquat> {
    fn host(&self) -> &Host {
        &self.host
    }

    fn has_dma_bufs(&self) -> bool {
        false
    }

    fn create_ring(&self) -> Result<Ring, Error> {
        let size = blob_size(self.host.capset.buffer_size).next_multiple_of(4096);
        let (resource_id, fd) = self.create(0, size as u64)?;
        // The host initialises the ring before it signals this fence.
        let fence = self.submit(&Command::ContextCreate { resource_id }, Some(0))?;
        if let Some(fence) = fence {
            let mut fds = [
                PollFd::new(&fence, PollFlags::IN),
                PollFd::new(&self.socket, PollFlags::RDHUP),
            ];
            while let Ok(0) | Err(rustix::io::Errno::INTR) = rustix::event::poll(&mut fds, None) {}
            if fds[0].revents().is_empty() {
                return Err(self.lost("the server has closed the connection"));
            }
        }
        let memory = Mapping::map(fd.as_fd(), 0, size)
            .map_err(|e| Error::Lost(format!("the ring cannot be mapped: {e}")))?;
        let memory = Arc::new(memory);
        let ping = KumquatPing {
            kumquat: Arc::clone(self),
            memory: Arc::clone(&memory),
            resource_id,
        };
        Ok(Ring {
            memory,
            ping: Box::new(ping),
            same_kernel: true,
        })
    }

    fn create_blob(&self, blob_id: u64, size: u64, _shared: bool) -> Result<Blob, Error> {
        Ok(self.blob(self.create(blob_id, size)?, size))
    }

    fn export(&self, blob: &Blob) -> Result<OwnedFd, Error> {
        let copy = blob.file.as_ref().map(|file| file.try_clone());
        match copy {
            Some(Ok(file)) => Ok(file),
            Some(Err(error)) => Err(Error::Refused(format!("memory is not exported: {error}"))),
            None => Err(Error::Refused("this memory is not shared".into())),
        }
    }

    fn import(&self, file: BorrowedFd<'_>) -> Result<Blob, Error> {
        let request = Request::ResourceImport {
            ctx_id: self.context,
        };
        let made = self.call_with(&[request], &[file], |response, fds| match response {
            Response::ResourceCreate(made) => Some((made.resource_id, fds.pop()?)),
            _ => None,
        })?;
        Ok(self.blob(made, size_of_file(file)))
    }

    fn sync_file(&self, command: &Command, timeline: u64) -> Result<OwnedFd, Error> {
        let file = self.submit(command, Some(ring_of(timeline)))?;
        let file = file.ok_or_else(|| Error::Refused("no fence".into()))?;
        self.remember(&file);
        Ok(file)
    }
}

/// Makes an eventfd readable.
fn signal(file: &OwnedFd) {
    // Full means signalled already.
    let _ = rustix::io::write(file, &1_u64.to_ne_bytes());
}

struct KumquatPing {
    kumquat: Arc<Kumquat>,
    memory: Arc<Mapping>,
    resource_id: u32,
}

impl Ping for KumquatPing {
    fn ping(&mut self) -> asgard_asg::Result<()> {
        if self.memory.load(MAGIC_WORD) == MAGIC {
            doorbell::ring_if_asleep(&*self.memory);
            return Ok(());
        }
        let command = Command::ContextPing {
            resource_id: self.resource_id,
        };
        match self.kumquat.submit(&command, None) {
            Ok(_) => Ok(()),
            Err(_) => Err(asgard_asg::Error::Disconnected),
        }
    }

    fn peer_alive(&mut self) -> bool {
        !self.kumquat.dead.load(Ordering::SeqCst)
    }
}

impl RingPing for KumquatPing {}

impl Drop for KumquatPing {
    fn drop(&mut self) {
        // The thread that used the ring has ended.
        let _ = self.kumquat.send(&[Request::CtxDetach(CtxResource {
            ctx_id: self.kumquat.context,
            resource_id: self.resource_id,
        })]);
    }
}
