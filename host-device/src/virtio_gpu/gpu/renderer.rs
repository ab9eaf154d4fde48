//! Renderer processes: what they answer, and what becomes of a context whose process is gone.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::protocol::resp;
use super::super::resource::{HostMemory, Resource};
use super::super::schedule::Key;
use super::context::{Context, Pending};
use super::{Gpu, Host, ok};
use crate::link::{Answer, Request};

/// How long a renderer process may take to answer what needs no waiting; it may have to start first.
const PATIENCE: Duration = Duration::from_secs(30);

impl Gpu {
    /// A renderer process has read what was sent to it.
    pub fn drained(&mut self, host: &mut dyn Host, ctx_id: u32) {
        if let Some(context) = self.contexts.get_mut(&ctx_id)
            && std::mem::take(&mut context.backed_up)
        {
            self.schedule.release(Key::Context(ctx_id));
            self.run(host);
        }
    }

    /// A renderer process has answered.
    pub fn heard(
        &mut self,
        host: &mut dyn Host,
        ctx_id: u32,
        answer: Answer,
        memory: Option<OwnedFd>,
    ) {
        let (token, result) = match answer {
            Answer::Lost { why } => return self.gone(host, ctx_id, &why),
            Answer::Done { token } => (token, Ok(None)),
            Answer::Refused {
                token,
                memory: true,
            } => (token, Err(resp::ERR_OUT_OF_MEMORY)),
            Answer::Refused { token, .. } => (token, Err(resp::ERR_INVALID_PARAMETER)),
            Answer::Blob {
                token,
                size,
                map_info,
            } => {
                let fit = memory.filter(|file| host.cannot_shrink(file));
                let memory = fit.map(|file| HostMemory::new(Arc::new(file), size, map_info));
                (token, memory.map(Some).ok_or(resp::ERR_UNSPEC))
            }
        };
        let Some(context) = self.contexts.get_mut(&ctx_id) else {
            return;
        };
        context.prompt.remove(&token);
        match context.pending.remove(&token) {
            None => tracing::warn!("a renderer process answers what nobody asked"),
            Some(Pending::Submit(ticket)) => {
                let result = result.and_then(|_| ok());
                self.finish(host, ticket, result);
            }
            Some(Pending::Blob {
                ticket,
                res_id,
                kind,
                size,
                backing,
            }) => {
                self.schedule.release(Key::Resource(res_id));
                let result = result.and_then(|memory| {
                    let memory = memory.ok_or(resp::ERR_UNSPEC)?;
                    self.check_new(res_id)?;
                    let mut resource = Resource::new(kind, size, Some(memory));
                    resource.backing = backing;
                    self.resources.insert(res_id, resource);
                    self.context(ctx_id)?.known.insert(res_id);
                    ok()
                });
                self.finish(host, ticket, result);
            }
        }
        self.run(host);
    }

    /// When a renderer process will have been silent for too long.
    pub fn deadline(&self) -> Option<Instant> {
        let since = self.contexts.values().flat_map(|c| c.prompt.values());
        since.min().map(|since| *since + PATIENCE)
    }

    /// Gives up renderer processes that have been silent for too long.
    pub fn give_up(&mut self, host: &mut dyn Host, now: Instant) {
        let late = |c: &Context| c.prompt.values().any(|since| now >= *since + PATIENCE);
        let silent: Vec<u32> = self
            .contexts
            .iter()
            .filter(|(_, context)| late(context))
            .map(|(ctx_id, _)| *ctx_id)
            .collect();
        for ctx_id in silent {
            self.gone(host, ctx_id, "its renderer process does not answer");
        }
    }

    /// A renderer process is gone. Another one, without a driver, takes its place at the rings, and tells
    /// the guest that its device is lost.
    pub fn gone(&mut self, host: &mut dyn Host, ctx_id: u32, why: &str) {
        self.abandon(host, ctx_id, resp::ERR_UNSPEC);
        host.close(ctx_id);
        let Some(context) = self.contexts.get_mut(&ctx_id) else {
            return;
        };
        tracing::error!(
            ctx_id,
            name = ?context.name,
            "a context is lost: {}",
            why.escape_debug()
        );
        context.known.clear();
        self.timelines.finish_context(ctx_id);
        let again = std::mem::replace(&mut context.lost, true);
        let rings: Vec<u32> = context.rings.keys().copied().collect();
        let name = context.name.clone();
        if !again && host.open(ctx_id) {
            self.tell(
                host,
                ctx_id,
                Request::Create {
                    ctx_id,
                    lost: true,
                    name,
                },
                None,
            );
            for res_id in rings {
                self.hand_over(host, ctx_id, res_id);
            }
        } else if let Some(context) = self.contexts.get_mut(&ctx_id) {
            context.forsaken = true;
        }
        self.run(host);
    }

    fn hand_over(&mut self, host: &mut dyn Host, ctx_id: u32, res_id: u32) {
        let Some(memory) = self
            .resources
            .get(&res_id)
            .and_then(|resource| resource.host.as_ref())
        else {
            return;
        };
        let (size, file) = (memory.size, Arc::clone(&memory.file));
        if let Some(context) = self.contexts.get_mut(&ctx_id) {
            context.known.insert(res_id);
        }
        self.tell(
            host,
            ctx_id,
            Request::Add {
                res_id,
                size,
                ring: true,
            },
            Some(file),
        );
        self.tell(host, ctx_id, Request::TakeOver { res_id }, None);
    }
}
