//! One context whose guest is attached to another process, the front of its virtual machine.
//!
//! This is the renderer process's end of [`crate::link`].

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use asgard_asg::kumquat::{Packet, Socket};

use super::{Fault, Outcome, watch_for_hangup};
use crate::Error;
use crate::device::{BlobRequest, Config, Device};
use crate::fence::Ring;
use crate::link::{Answer, Request};
use crate::renderer::Renderer;
use crate::resource::{Origin, Resource};
use crate::ring_thread::Successor;

/// How long the context gets to end when the front is gone.
const PATIENCE: Duration = Duration::from_secs(4);

/// Serves one context until its front lets go of it.
///
/// A context that fails ends this process, as a crash of the driver would: the front tells the guest.
pub fn serve(socket: Socket, renderer: Arc<dyn Renderer>, config: Config) -> Outcome {
    if let Err(error) = watch_for_hangup(&socket) {
        tracing::warn!("no watchdog: {error}");
    }
    let socket = Arc::new(socket);
    let mut context = Context {
        device: Device::new(renderer, config),
        ctx_id: 0,
        socket: Arc::clone(&socket),
    };
    let say = Arc::clone(&socket);
    context
        .device
        .set_successor(Successor(Arc::new(move |why: &str| {
            let why = why.to_owned();
            send(&say, &Answer::Lost { why }, None);
        })));
    let fault = context.run().err();
    let _ = socket.shutdown();
    let (summary, complete) = context.device.finish(PATIENCE);
    Outcome {
        summary,
        fault,
        stuck: !complete,
    }
}

struct Context {
    device: Device,
    /// 0 until the front has named it.
    ctx_id: u32,
    socket: Arc<Socket>,
}

/// A front that has gone needs no answer.
fn send(socket: &Socket, answer: &Answer, memory: Option<&OwnedFd>) {
    use std::os::fd::AsFd;
    let fds: Vec<_> = memory.into_iter().map(AsFd::as_fd).collect();
    if let Err(error) = socket.send(&answer.to_bytes(), &fds) {
        tracing::debug!("cannot answer: {error}");
    }
}

impl Context {
    fn run(&mut self) -> Result<(), Fault> {
        let mut packet = Packet::default();
        while self.socket.recv(&mut packet).map_err(Fault::Socket)? {
            let request = Request::parse(&packet.bytes).ok_or(Fault::Oversized)?;
            self.obey(request, packet.fds.pop())?;
        }
        Ok(())
    }

    fn obey(&mut self, request: Request, memory: Option<OwnedFd>) -> Result<(), Fault> {
        let fault = |request| move |error| Fault::Request { request, error };
        match request {
            Request::Create { ctx_id, lost, name } => {
                if lost {
                    self.device.lose();
                }
                self.ctx_id = ctx_id;
                let capset = asgard_asg::capset::CAPSET_ID;
                let created = self.device.create_context(ctx_id, capset, &name);
                created.map_err(fault("create"))
            }
            Request::Add { res_id, size, ring } => {
                let origin = if ring {
                    Origin::Shared
                } else {
                    Origin::Imported
                };
                let resource = memory
                    .ok_or(Error::NoResource(res_id))
                    .and_then(|memory| Resource::from_file(memory, size, origin))
                    .map(|resource| resource.shareable(!ring));
                resource
                    .and_then(|resource| self.device.import(res_id, resource))
                    .and_then(|()| self.device.attach(self.ctx_id, res_id))
                    .map_err(fault("add"))
            }
            Request::TakeOver { res_id } => {
                let taken = self.device.take_over_ring(self.ctx_id, res_id);
                taken.map_err(fault("take over"))
            }
            Request::Drop { res_id } => self.device.unref(res_id).map_err(fault("drop")),
            Request::Take {
                token,
                res_id,
                blob_id,
                size,
                shareable,
            } => {
                let request = BlobRequest {
                    blob_id,
                    size,
                    shareable,
                };
                self.answer(token, |context| context.take(token, res_id, request));
                Ok(())
            }
            Request::Submit {
                token,
                ring_idx,
                fence,
                command,
            } => {
                self.answer(token, |context| {
                    context.submit(token, ring_idx, fence, &command)
                });
                Ok(())
            }
        }
    }

    fn answer(&mut self, token: u64, obey: impl FnOnce(&mut Self) -> Result<(), Error>) {
        if let Err(error) = obey(self) {
            tracing::warn!("{error}");
            let memory = matches!(error, Error::Limit { .. } | Error::Memory { .. });
            send(&self.socket, &Answer::Refused { token, memory }, None);
        }
    }

    fn take(&mut self, token: u64, res_id: u32, request: BlobRequest) -> Result<(), Error> {
        let resource = self.device.create_blob(self.ctx_id, res_id, request)?;
        let (size, map_info) = (resource.size(), resource.map_info());
        let file = resource.file().try_clone_to_owned();
        let file = file.map_err(|source| Error::Memory { size, source })?;
        self.device.attach(self.ctx_id, res_id)?;
        let answer = Answer::Blob {
            token,
            size,
            map_info,
        };
        send(&self.socket, &answer, Some(&file));
        Ok(())
    }

    fn submit(
        &mut self,
        token: u64,
        ring_idx: Option<u8>,
        fence: bool,
        command: &[u8],
    ) -> Result<(), Error> {
        let ctx_id = self.ctx_id;
        let ring = ring_idx.map_or(Ring::Global, |ring_idx| Ring::Context { ctx_id, ring_idx });
        self.device.submit(ctx_id, ring, command)?;
        let socket = Arc::clone(&self.socket);
        let done = move || send(&socket, &Answer::Done { token }, None);
        if fence {
            self.device.fence(ring, Box::new(done))
        } else {
            done();
            Ok(())
        }
    }
}
