//! The window that host-visible blobs are mapped into.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::super::protocol::{self as wire, feature, resp};
use super::super::schedule::Key;
use super::{Gpu, Host, Result, Ticket, body, ok, take};

impl Gpu {
    pub(super) fn map_blob(&mut self, host: &mut dyn Host, ticket: Ticket, mut rest: &[u8]) {
        match self.begin_map(&mut rest) {
            Err(error) => self.finish(host, ticket, Err(error)),
            Ok((res_id, file, offset, len)) => {
                self.maps += 1;
                self.schedule.hold(Key::Resource(res_id));
                self.mapping.insert(res_id, ticket);
                host.map(res_id, &file, offset, len);
            }
        }
    }

    fn begin_map(&mut self, rest: &mut &[u8]) -> Result<(u32, Arc<OwnedFd>, u64, u64)> {
        let c: wire::MapBlob = take(rest)?;
        self.needs(feature::RESOURCE_BLOB)?;
        let (window, limit) = (self.config.window, self.config.maps);
        let (res_id, offset) = (c.resource_id, c.offset);
        let resource = self.resource(res_id)?;
        let len = page_up(resource.size);
        let end = offset.checked_add(len).filter(|end| *end <= window);
        let end = end.ok_or(resp::ERR_INVALID_PARAMETER)?;
        if !resource.is_mappable() || resource.mapped_at.is_some() || page_up(offset) != offset {
            return Err(resp::ERR_INVALID_PARAMETER);
        }
        let memory = resource.host.as_ref().ok_or(resp::ERR_INVALID_PARAMETER)?;
        if memory.size < len {
            return Err(resp::ERR_UNSPEC);
        }
        let file = Arc::clone(&memory.file);
        let overlaps = self.resources.values().any(|other| {
            other
                .mapped_at
                .is_some_and(|start| start < end && offset < start + page_up(other.size))
        });
        if overlaps {
            return Err(resp::ERR_INVALID_PARAMETER);
        }
        if self.maps >= limit {
            return Err(resp::ERR_OUT_OF_MEMORY);
        }
        self.resource(res_id)?.mapped_at = Some(offset);
        Ok((res_id, file, offset, len))
    }

    /// The machine monitor has mapped a resource, or refused to.
    pub fn mapped(&mut self, host: &mut dyn Host, res_id: u32, done: bool) {
        let Some(ticket) = self.mapping.remove(&res_id) else {
            return;
        };
        self.schedule.release(Key::Resource(res_id));
        let result = match self.resources.get_mut(&res_id) {
            Some(resource) if done => {
                let map_info = resource.host.as_ref().map_or(0, |memory| memory.map_info);
                Ok(body(
                    resp::OK_MAP_INFO,
                    &wire::MapInfo {
                        map_info,
                        padding: 0,
                    },
                ))
            }
            other => {
                self.maps = self.maps.saturating_sub(1);
                if let Some(resource) = other {
                    resource.mapped_at = None;
                }
                Err(resp::ERR_UNSPEC)
            }
        };
        self.finish(host, ticket, result);
        self.run(host);
    }

    pub(super) fn unmap_blob(&mut self, host: &mut dyn Host, c: &wire::ResourceId) -> Result {
        self.needs(feature::RESOURCE_BLOB)?;
        let resource = self.resource(c.resource_id)?;
        let offset = resource
            .mapped_at
            .take()
            .ok_or(resp::ERR_INVALID_PARAMETER)?;
        let len = page_up(resource.size);
        self.maps = self.maps.saturating_sub(1);
        host.unmap(offset, len);
        ok()
    }
}

/// Rounds up to whole pages.
pub(super) fn page_up(size: u64) -> u64 {
    size.next_multiple_of(rustix::param::page_size() as u64)
}
