//! Contexts: one guest process each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use asgard_asg::Mapping;

use super::super::protocol::{self as wire, Header, feature, resp};
use super::super::resource::{Backing, Kind};
use super::super::schedule::Key;
use super::{Gpu, Host, Result, Ticket, ok};
use crate::link::Request;

/// What a renderer process was asked for.
#[derive(Debug)]
pub(super) enum Pending {
    Submit(Ticket),
    Blob {
        ticket: Ticket,
        res_id: u32,
        kind: Kind,
        size: u64,
        backing: Option<Backing>,
    },
}

#[derive(Debug, Default)]
pub(super) struct Context {
    pub(super) name: String,
    /// Resources that its renderer process knows.
    pub(super) known: BTreeSet<u32>,
    /// Rings, to ring their doorbells.
    pub(super) rings: BTreeMap<u32, Arc<Mapping>>,
    pub(super) pending: BTreeMap<u64, Pending>,
    /// Requests that its renderer process has to answer at once, by their tokens.
    pub(super) prompt: BTreeMap<u64, Instant>,
    /// Its commands wait for its renderer process to read.
    pub(super) backed_up: bool,
    /// Its renderer process has died, and another answers for it.
    pub(super) lost: bool,
    /// And that one has died too, or could not be had: nobody is left.
    pub(super) forsaken: bool,
    /// Of no capset: it has resources and no commands. Linux makes one for who only shows pictures.
    pub(super) plain: bool,
}

impl Gpu {
    pub(super) fn create_context(
        &mut self,
        host: &mut dyn Host,
        header: Header,
        c: &wire::CtxCreate,
    ) -> Result {
        self.needs(feature::VIRGL)?;
        let ctx_id = header.ctx_id;
        if ctx_id == 0 || self.contexts.contains_key(&ctx_id) {
            return Err(resp::ERR_INVALID_CONTEXT_ID);
        }
        let name = c
            .debug_name
            .get(..c.nlen as usize)
            .ok_or(resp::ERR_INVALID_PARAMETER)?;
        // Without the feature the field is the driver's padding.
        let chosen = self.features & feature::CONTEXT_INIT != 0;
        let plain = match c.context_init & 0xff {
            0 => true,
            _ if !chosen => true,
            asgard_asg::capset::CAPSET_ID => false,
            _ => return Err(resp::ERR_INVALID_PARAMETER),
        };
        if self.contexts.len() >= self.config.device.limits.contexts {
            return Err(resp::ERR_OUT_OF_MEMORY);
        }
        if !plain && !host.open(ctx_id) {
            return Err(resp::ERR_OUT_OF_MEMORY);
        }
        let name = String::from_utf8_lossy(name)
            .trim_end_matches('\0')
            .to_owned();
        let context = Context {
            name: name.clone(),
            plain,
            ..Context::default()
        };
        self.contexts.insert(ctx_id, context);
        if plain {
            return ok();
        }
        let request = Request::Create {
            ctx_id,
            lost: false,
            name,
        };
        self.tell(host, ctx_id, request, None);
        ok()
    }

    pub(super) fn destroy_context(&mut self, host: &mut dyn Host, ctx_id: u32) -> Result {
        self.context(ctx_id)?;
        self.abandon(host, ctx_id, resp::ERR_INVALID_CONTEXT_ID);
        self.contexts.remove(&ctx_id);
        for resource in self.resources.values_mut() {
            resource.attached.remove(&ctx_id);
        }
        host.close(ctx_id);
        ok()
    }

    /// Whatever a context's renderer process was asked for will not come.
    pub(super) fn abandon(&mut self, host: &mut dyn Host, ctx_id: u32, error: u32) {
        let Some(context) = self.contexts.get_mut(&ctx_id) else {
            return;
        };
        let pending = std::mem::take(&mut context.pending);
        context.prompt.clear();
        if std::mem::take(&mut context.backed_up) {
            self.schedule.release(Key::Context(ctx_id));
        }
        for pending in pending.into_values() {
            match pending {
                Pending::Submit(ticket) => self.finish(host, ticket, Err(error)),
                Pending::Blob { ticket, res_id, .. } => {
                    self.schedule.release(Key::Resource(res_id));
                    self.finish(host, ticket, Err(error));
                }
            }
        }
    }

    pub(super) fn attach(
        &mut self,
        host: &mut dyn Host,
        header: Header,
        c: &wire::ResourceId,
    ) -> Result {
        let (ctx_id, res_id) = (header.ctx_id, c.resource_id);
        let context = self.context(ctx_id)?;
        let known = context.plain || context.known.contains(&res_id);
        let resource = self.resource(res_id)?;
        if !resource.may_attach(ctx_id) {
            return Err(resp::ERR_INVALID_PARAMETER);
        }
        resource.attached.insert(ctx_id);
        let ring = matches!(resource.kind, Kind::Blob { blob_id: 0, .. });
        if let (false, Some(memory)) = (known, &resource.host) {
            let (size, file) = (memory.size, Arc::clone(&memory.file));
            self.context(ctx_id)?.known.insert(res_id);
            self.tell(
                host,
                ctx_id,
                Request::Add { res_id, size, ring },
                Some(file),
            );
        }
        ok()
    }

    pub(super) fn detach(
        &mut self,
        host: &mut dyn Host,
        header: Header,
        c: &wire::ResourceId,
    ) -> Result {
        let (ctx_id, res_id) = (header.ctx_id, c.resource_id);
        self.context(ctx_id)?;
        if !self.resource(res_id)?.attached.remove(&ctx_id) {
            return Err(resp::ERR_INVALID_RESOURCE_ID);
        }
        let context = self.context(ctx_id)?;
        context.rings.remove(&res_id);
        if context.known.remove(&res_id) {
            self.tell(host, ctx_id, Request::Drop { res_id }, None);
        }
        ok()
    }
}
