//! Kumquat: virtio-gpu messages over a socket, for guests without a virtual machine.
//!
//! One connection is one guest. Ids are this end's to choose.
//! A request with a reply that cannot be satisfied is answered with an errno; a mistake in a request
//! without one ends the connection, because the client could not learn of it otherwise.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use asgard_asg::kumquat as wire;
use asgard_asg::kumquat::{Packet, Request, Response, Socket};
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};

use super::{Fault, Outcome, watch_for_hangup};
use crate::device::{BlobRequest, Device};
use crate::fence::{Ring, Task};
use crate::resource::{self, Origin, Resource};
use crate::{Error, capset};

/// How long contexts get to end when the guest is gone.
const PATIENCE: Duration = Duration::from_secs(4);

/// Fences that one submission may wait for.
const MAX_IN_FENCES: usize = 64;

/// Serves one guest until it leaves or makes a mistake. The process is there for this guest alone: it
/// is killed when it outlives it for long.
pub fn serve(socket: Socket, device: Device) -> Outcome {
    if let Err(error) = watch_for_hangup(&socket) {
        tracing::warn!("no watchdog: {error}");
    }
    attend(socket, device)
}

/// As [`serve`], in a process that goes on afterwards, whatever became of the guest's threads.
pub fn attend(socket: Socket, device: Device) -> Outcome {
    let mut connection = Connection {
        socket,
        device,
        next_ctx: 0,
        next_res: 0,
        next_fence: 0,
        waiting: Arc::default(),
    };
    let fault = connection.run().err();
    // The guest must not wait for the end of its contexts.
    let _ = connection.socket.shutdown();
    let (summary, complete) = connection.device.finish(PATIENCE);
    Outcome {
        summary,
        fault,
        stuck: !complete,
    }
}

/// Fences that are not signalled yet, and what waits for them.
type Waiting = Arc<Mutex<HashMap<u64, Vec<Task>>>>;

struct Connection {
    socket: Socket,
    device: Device,
    next_ctx: u32,
    next_res: u32,
    next_fence: u64,
    waiting: Waiting,
}

impl Connection {
    fn run(&mut self) -> Result<(), Fault> {
        let mut packet = Packet::default();
        loop {
            match self.socket.recv(&mut packet) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    return Err(Fault::Oversized);
                }
                Err(error) => return Err(Fault::Socket(error)),
            }
            let mut fds = std::mem::take(&mut packet.fds).into_iter();
            for request in packet.requests() {
                match self.handle(&request?, &mut fds) {
                    // A guest that leaves before it reads its reply is no fault.
                    Err(Fault::Socket(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                        return Ok(());
                    }
                    other => other?,
                }
            }
        }
    }

    fn handle(
        &mut self,
        request: &Request<'_>,
        fds: &mut impl Iterator<Item = OwnedFd>,
    ) -> Result<(), Fault> {
        match self.obey(request, fds) {
            Ok(Answer::Silent) => Ok(()),
            Ok(Answer::Says(response)) => self.reply(&response, None),
            Ok(Answer::Capset(bytes)) => self.reply(&Response::Capset(&bytes), None),
            Ok(Answer::Gives(response, fd)) => self.reply(&response, Some(fd.as_fd())),
            Err(error) if request.has_reply() => {
                tracing::warn!("{}: {error}", name(request));
                self.reply(
                    &Response::NoData {
                        errno: errno(&error),
                    },
                    None,
                )
            }
            Err(error) => Err(Fault::Request {
                request: name(request),
                error,
            }),
        }
    }

    fn reply(&self, response: &Response<'_>, fd: Option<BorrowedFd<'_>>) -> Result<(), Fault> {
        let mut bytes = Vec::new();
        response.write(&mut bytes);
        let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
        self.socket.send(&bytes, &fds).map_err(Fault::Socket)
    }

    fn obey(
        &mut self,
        request: &Request<'_>,
        fds: &mut impl Iterator<Item = OwnedFd>,
    ) -> Result<Answer, Error> {
        let device = &mut self.device;
        match request {
            Request::GetNumCapsets => Ok(Answer::Says(Response::NumCapsets {
                count: capset::COUNT,
            })),
            Request::GetCapsetInfo { index } => {
                let info = device
                    .capset_info(*index)
                    .ok_or(Error::NoCapset { id: 0, version: 0 })?;
                let info = wire::CapsetInfo {
                    capset_id: info.id,
                    version: info.version,
                    size: info.size,
                    padding: 0,
                };
                Ok(Answer::Says(Response::CapsetInfo(info)))
            }
            Request::GetCapset(which) => Ok(Answer::Capset(
                device.capset(which.capset_id, which.capset_version)?,
            )),
            Request::CtxCreate(create) => {
                let ctx_id = next(&mut self.next_ctx, "context ids")?;
                let name = String::from_utf8_lossy(create.name());
                device.create_context(ctx_id, create.context_init & 0xff, &name)?;
                Ok(Answer::Says(Response::ContextCreate { ctx_id }))
            }
            Request::CtxDestroy { ctx_id } => {
                for res_id in device.destroy_context(*ctx_id)? {
                    if device.attachments(res_id) == 0 {
                        device.unref(res_id)?;
                    }
                }
                Ok(Answer::Silent)
            }
            Request::CtxAttach(pair) => device
                .attach(pair.ctx_id, pair.resource_id)
                .map(|()| Answer::Silent),
            Request::CtxDetach(pair) => {
                if device.detach(pair.ctx_id, pair.resource_id)? == 0 {
                    device.unref(pair.resource_id)?;
                }
                Ok(Answer::Silent)
            }
            Request::ResourceUnref { resource_id } => {
                device.unref(*resource_id).map(|()| Answer::Silent)
            }
            Request::ResourceCreateBlob(create) => {
                if create.blob_mem != wire::BLOB_MEM_HOST3D {
                    return Err(Error::Unsupported("memory of a blob"));
                }
                let res_id = next(&mut self.next_res, "resource ids")?;
                let request = BlobRequest {
                    blob_id: create.blob_id,
                    size: create.size,
                    shareable: create.blob_flags & wire::BLOB_FLAG_SHAREABLE != 0,
                };
                device.create_blob(create.ctx_id, res_id, request)?;
                self.give_resource(create.ctx_id, res_id)
            }
            Request::ResourceCreate3d(create) => {
                let res_id = next(&mut self.next_res, "resource ids")?;
                let size = resource::shape_bytes(&create.shape, create.stride, create.size);
                device.create_3d(res_id, size)?;
                self.give_resource(create.ctx_id, res_id)
            }
            Request::ResourceImport { ctx_id } => {
                let file = fds
                    .next()
                    .ok_or(Error::Unsupported("resource without memory"))?;
                let size = rustix::fs::fstat(&file).map_or(0, |stat| stat.st_size.unsigned_abs());
                let res_id = next(&mut self.next_res, "resource ids")?;
                device.import(res_id, Resource::from_file(file, size, Origin::Imported)?)?;
                self.give_resource(*ctx_id, res_id)
            }
            Request::TransferToHost(transfer) | Request::TransferFromHost(transfer) => {
                // Guest and host share the memory: there is nothing to copy.
                device.resource(transfer.resource_id)?;
                if let Some(fd) = fds.next() {
                    signal_guest_eventfd(&fd);
                }
                Ok(Answer::Silent)
            }
            Request::Submit3d {
                flags,
                ctx_id,
                ring_idx,
                in_fences,
                command,
            } => {
                let ring = if flags & wire::RING_IDX != 0 {
                    Ring::Context {
                        ctx_id: *ctx_id,
                        ring_idx: *ring_idx,
                    }
                } else {
                    Ring::Global
                };
                self.submit(*ctx_id, ring, in_fences, command, flags & wire::FENCE != 0)
            }
            _ => Err(Error::Unsupported("new request")),
        }
    }

    /// Attaches a new resource, and answers with its memory.
    fn give_resource(&mut self, ctx_id: u32, res_id: u32) -> Result<Answer, Error> {
        let given = self.device.attach(ctx_id, res_id).and_then(|()| {
            let resource = self.device.resource(res_id)?;
            let file = resource.file().try_clone_to_owned();
            file.map_err(|source| Error::Memory {
                size: resource.size(),
                source,
            })
        });
        match given {
            Ok(file) => {
                let body = wire::ResourceCreate {
                    resource_id: res_id,
                    handle_type: wire::MEM_SHM,
                    ..wire::ResourceCreate::default()
                };
                Ok(Answer::Gives(Response::ResourceCreate(body), file))
            }
            Err(error) => {
                self.device.unref(res_id)?;
                Err(error)
            }
        }
    }

    fn submit(
        &mut self,
        ctx_id: u32,
        ring: Ring,
        in_fences: &[u64],
        command: &[u8],
        wants_fence: bool,
    ) -> Result<Answer, Error> {
        if in_fences.len() > MAX_IN_FENCES {
            return Err(Error::Limit {
                what: "fences to wait for",
                limit: MAX_IN_FENCES as u64,
            });
        }
        for id in in_fences {
            let mut waiting = self.waiting.lock();
            // One that is not there has been signalled.
            if let Some(tasks) = waiting.get_mut(id) {
                tasks.push(self.device.timelines().begin(ring)?);
            }
        }
        self.device.submit(ctx_id, ring, command)?;
        if !wants_fence {
            return Ok(Answer::Silent);
        }
        let memory = |source: io::Error| Error::Memory { size: 0, source };
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| memory(error.into()))?;
        let ours = event.try_clone().map_err(memory)?;
        self.next_fence += 1;
        let fence_id = self.next_fence;
        self.waiting.lock().insert(fence_id, Vec::new());
        let waiting = Arc::clone(&self.waiting);
        let queued = self.device.fence(
            ring,
            Box::new(move || {
                let tasks = waiting.lock().remove(&fence_id);
                signal(&ours);
                drop(tasks);
            }),
        );
        if let Err(error) = queued {
            self.waiting.lock().remove(&fence_id);
            return Err(error);
        }
        let body = wire::CmdSubmit3d {
            fence_id,
            handle_type: wire::SIGNAL_EVENT_FD,
            padding: 0,
        };
        Ok(Answer::Gives(Response::CmdSubmit3d(body), event))
    }
}

enum Answer {
    Silent,
    Says(Response<'static>),
    Capset(Vec<u8>),
    Gives(Response<'static>, OwnedFd),
}

/// The next id; they are not used again, so that a late message cannot hit a newer object.
fn next(id: &mut u32, what: &'static str) -> Result<u32, Error> {
    *id = id.checked_add(1).ok_or(Error::Limit {
        what,
        limit: u64::from(u32::MAX),
    })?;
    Ok(*id)
}

fn signal(event: &OwnedFd) {
    // Full means signalled already.
    let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
}

/// Writes to what the guest sent only if it is an eventfd: anything else could block.
fn signal_guest_eventfd(fd: &OwnedFd) {
    let kind = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    if kind.is_ok_and(|kind| kind.as_os_str() == "anon_inode:[eventfd]")
        && rustix::io::ioctl_fionbio(fd, true).is_ok()
    {
        signal(fd);
    }
}

fn errno(error: &Error) -> u32 {
    use rustix::io::Errno;
    let errno = match error {
        Error::Limit { .. } | Error::Memory { .. } | Error::Thread(_) => Errno::NOMEM,
        Error::NoContext(_) | Error::NoResource(_) | Error::NoRing(_) | Error::Renderer(_) => {
            Errno::NOENT
        }
        Error::Unsupported(_) => Errno::OPNOTSUPP,
        _ => Errno::INVAL,
    };
    errno.raw_os_error().unsigned_abs()
}

fn name(request: &Request<'_>) -> &'static str {
    match request {
        Request::ResourceUnref { .. } => "RESOURCE_UNREF",
        Request::GetNumCapsets => "GET_NUM_CAPSETS",
        Request::GetCapsetInfo { .. } => "GET_CAPSET_INFO",
        Request::GetCapset(_) => "GET_CAPSET",
        Request::ResourceCreateBlob(_) => "RESOURCE_CREATE_BLOB",
        Request::CtxCreate(_) => "CTX_CREATE",
        Request::CtxDestroy { .. } => "CTX_DESTROY",
        Request::CtxAttach(_) => "CTX_ATTACH_RESOURCE",
        Request::CtxDetach(_) => "CTX_DETACH_RESOURCE",
        Request::ResourceCreate3d(_) => "RESOURCE_CREATE_3D",
        Request::ResourceImport { .. } => "RESOURCE_IMPORT",
        Request::TransferToHost(_) => "TRANSFER_TO_HOST_3D",
        Request::TransferFromHost(_) => "TRANSFER_FROM_HOST_3D",
        Request::Submit3d { .. } => "SUBMIT_3D",
        _ => "request",
    }
}
