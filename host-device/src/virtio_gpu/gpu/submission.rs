//! Submissions: the small commands beside the ring.

use std::sync::Arc;
use std::time::Instant;

use asgard_asg::doorbell;
use asgard_asg::submit::Command as Submitted;

use super::super::protocol::{self as wire, Header, feature, resp};
use super::super::resource::{HostMemory, Kind};
use super::context::Pending;
use super::{Gpu, Host, Result, Ticket, ok, take};
use crate::link::{MAX_COMMAND, Request};

impl Gpu {
    pub(super) fn submit_3d(&mut self, host: &mut dyn Host, ticket: Ticket, mut rest: &[u8]) {
        let (ctx_id, header) = (ticket.header.ctx_id, ticket.header);
        match self.begin_submit(header, &mut rest) {
            Ok(None) => self.finish(host, ticket, ok()),
            Err(error) => self.finish(host, ticket, Err(error)),
            Ok(Some(command)) => {
                let token = self.token();
                let on_ring = header.flags & wire::FLAG_RING_IDX != 0;
                let request = Request::Submit {
                    token,
                    ring_idx: on_ring.then_some(header.ring_idx),
                    fence: ticket.fence.is_some(),
                    command,
                };
                if let Some(context) = self.contexts.get_mut(&ctx_id) {
                    if ticket.fence.is_none() {
                        context.prompt.insert(token, Instant::now());
                    }
                    context.pending.insert(token, Pending::Submit(ticket));
                }
                self.tell(host, ctx_id, request, None);
            }
        }
    }

    /// Does what needs no renderer process, or tells what to send to it.
    fn begin_submit(&mut self, header: Header, rest: &mut &[u8]) -> Result<Option<Vec<u8>>> {
        let c: wire::Submit3d = take(rest)?;
        let ctx_id = header.ctx_id;
        self.needs(feature::VIRGL)?;
        if self.context(ctx_id)?.plain {
            return Err(resp::ERR_INVALID_PARAMETER);
        }
        let command = rest
            .get(..c.size as usize)
            .filter(|command| command.len() <= MAX_COMMAND)
            .ok_or(resp::ERR_INVALID_PARAMETER)?;
        if command.is_empty() {
            return Ok(None);
        }
        match Submitted::parse(command).map_err(|_| resp::ERR_INVALID_PARAMETER)? {
            // The ring's thread sleeps on a word in the ring's memory, which is ours too.
            Submitted::ContextPing { resource_id }
            | Submitted::ContextPingWithResponse { resource_id, .. } => {
                let rings = &self.context(ctx_id)?.rings;
                let ring = rings
                    .get(&resource_id)
                    .ok_or(resp::ERR_INVALID_RESOURCE_ID)?;
                doorbell::ring(&**ring);
                Ok(None)
            }
            _ if self.context(ctx_id)?.forsaken => Err(resp::ERR_UNSPEC),
            Submitted::ContextCreate { resource_id } => {
                self.begin_ring(ctx_id, resource_id)?;
                Ok(Some(command.to_vec()))
            }
            _ if self.context(ctx_id)?.lost => Err(resp::ERR_UNSPEC),
            _ => Ok(Some(command.to_vec())),
        }
    }

    fn begin_ring(&mut self, ctx_id: u32, res_id: u32) -> Result<()> {
        let bytes = asgard_asg::layout::blob_size(self.config.device.buffer_size) as u64;
        let resource = self.resource(res_id)?;
        let ring = matches!(resource.kind, Kind::Blob { blob_id: 0, .. })
            && resource.attached.contains(&ctx_id)
            && resource.size >= bytes;
        let mapping = resource
            .host
            .as_mut()
            .filter(|_| ring)
            .and_then(HostMemory::mapped);
        let mapping = Arc::clone(mapping.ok_or(resp::ERR_INVALID_RESOURCE_ID)?);
        let context = self.context(ctx_id)?;
        if context.rings.contains_key(&res_id) {
            return Err(resp::ERR_INVALID_RESOURCE_ID);
        }
        context.rings.insert(res_id, mapping);
        Ok(())
    }
}
