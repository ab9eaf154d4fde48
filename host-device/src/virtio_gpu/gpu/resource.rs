//! Resources: pictures and blobs, and the guest's pages behind them.

use std::time::Instant;

use asgard_asg::Shape;

use super::super::protocol::{self as wire, Header, feature, resp};
use super::super::resource::{Backing, HostMemory, Kind, Quota, Resource, flat_shape, shape_bytes};
use super::super::schedule::Key;
use super::context::{Context, Pending};
use super::scanout::{MAX_EXTENT, Show};
use super::window::page_up;
use super::{Gpu, Host, Result, Ticket, body, ok, take};
use crate::link::Request;

/// The deepest stack of pictures.
const MAX_LAYERS: u32 = 2048;

impl Gpu {
    pub(super) fn check_new(&self, res_id: u32) -> Result<()> {
        if res_id == 0 || self.resources.contains_key(&res_id) {
            return Err(resp::ERR_INVALID_RESOURCE_ID);
        }
        if self.resources.len() >= self.config.device.limits.resources {
            return Err(resp::ERR_OUT_OF_MEMORY);
        }
        Ok(())
    }

    fn allocate(&mut self, name: &str, size: u64) -> Result<HostMemory> {
        let page = rustix::param::page_size() as u64;
        let size = size
            .checked_next_multiple_of(page)
            .filter(|size| i64::try_from(*size).is_ok())
            .ok_or(resp::ERR_OUT_OF_MEMORY)?;
        let total = self
            .memory
            .checked_add(size)
            .filter(|total| *total <= self.config.device.limits.memory)
            .ok_or(resp::ERR_OUT_OF_MEMORY)?;
        let memory = HostMemory::allocate(name, size).map_err(|error| {
            tracing::warn!("{error}");
            resp::ERR_OUT_OF_MEMORY
        })?;
        self.memory = total;
        Ok(memory)
    }

    fn create_shaped(&mut self, res_id: u32, shape: Shape) -> Result {
        self.check_new(res_id)?;
        let flat = shape.target != 0;
        let extents = [shape.width, shape.height.max(1)];
        let layers = [shape.depth.max(1), shape.array_size.max(1)];
        if shape.width == 0
            || shape.last_level >= 16
            || layers.iter().any(|layers| *layers > MAX_LAYERS)
            || (flat && extents.iter().any(|extent| *extent > MAX_EXTENT))
            || (!flat && (shape.height > 1 || shape.last_level > 0 || layers != [1, 1]))
        {
            return Err(resp::ERR_INVALID_PARAMETER);
        }
        let size = shape_bytes(&shape).ok_or(resp::ERR_OUT_OF_MEMORY)?;
        let memory = self.allocate("asgard-resource", size)?;
        self.resources.insert(
            res_id,
            Resource::new(Kind::Shaped(shape), size, Some(memory)),
        );
        ok()
    }

    pub(super) fn create_2d(&mut self, c: &wire::ResourceCreate2d) -> Result {
        if wire::channels(c.format).is_none() || c.height == 0 {
            return Err(resp::ERR_INVALID_PARAMETER);
        }
        self.create_shaped(c.resource_id, flat_shape(c.format, c.width, c.height))
    }

    pub(super) fn create_3d(&mut self, c: &wire::ResourceCreate3d) -> Result {
        self.needs(feature::VIRGL)?;
        self.create_shaped(c.resource_id, c.shape)
    }

    pub(super) fn create_blob(&mut self, host: &mut dyn Host, ticket: Ticket, mut rest: &[u8]) {
        match self.begin_blob(host, ticket.header, &mut rest) {
            Ok(None) => self.finish(host, ticket, ok()),
            Err(error) => self.finish(host, ticket, Err(error)),
            Ok(Some((res_id, kind, size, backing))) => {
                let token = self.token();
                let ctx_id = ticket.header.ctx_id;
                let Kind::Blob { blob_id, flags, .. } = kind else {
                    return self.finish(host, ticket, Err(resp::ERR_UNSPEC));
                };
                self.schedule.hold(Key::Resource(res_id));
                let pending = Pending::Blob {
                    ticket,
                    res_id,
                    kind,
                    size,
                    backing,
                };
                if let Some(context) = self.contexts.get_mut(&ctx_id) {
                    context.pending.insert(token, pending);
                    context.prompt.insert(token, Instant::now());
                }
                self.tell(
                    host,
                    ctx_id,
                    Request::Take {
                        token,
                        res_id,
                        blob_id,
                        size,
                        shareable: flags & wire::BLOB_FLAG_SHAREABLE != 0,
                    },
                    None,
                );
            }
        }
    }

    /// Makes the blob, or tells what to ask the renderer process for.
    #[allow(
        clippy::type_complexity,
        reason = "the parts of a blob, for the one caller"
    )]
    fn begin_blob(
        &mut self,
        host: &mut dyn Host,
        header: Header,
        rest: &mut &[u8],
    ) -> Result<Option<(u32, Kind, u64, Option<Backing>)>> {
        let c: wire::ResourceCreateBlob = take(rest)?;
        self.needs(feature::RESOURCE_BLOB)?;
        self.check_new(c.resource_id)?;
        let flags =
            wire::BLOB_FLAG_MAPPABLE | wire::BLOB_FLAG_SHAREABLE | wire::BLOB_FLAG_CROSS_DEVICE;
        if c.blob_flags & !flags != 0 || c.size == 0 {
            return Err(resp::ERR_INVALID_PARAMETER);
        }
        if c.blob_flags & wire::BLOB_FLAG_CROSS_DEVICE != 0 {
            self.needs(feature::RESOURCE_UUID)
                .map_err(|_| resp::ERR_INVALID_PARAMETER)?;
        }
        let from_guest = match c.blob_mem {
            wire::BLOB_MEM_GUEST | wire::BLOB_MEM_HOST3D_GUEST => true,
            wire::BLOB_MEM_HOST3D => false,
            _ => return Err(resp::ERR_INVALID_PARAMETER),
        };
        let backing = if from_guest {
            let backing = read_entries(host, rest, c.nr_entries, &self.entries)?;
            if backing.size() < c.size {
                return Err(resp::ERR_INVALID_PARAMETER);
            }
            Some(backing)
        } else if c.nr_entries != 0 {
            return Err(resp::ERR_INVALID_PARAMETER);
        } else {
            None
        };
        let mut kind = Kind::Blob {
            mem: c.blob_mem,
            flags: c.blob_flags,
            blob_id: c.blob_id,
            ctx_id: header.ctx_id,
        };
        if c.blob_mem == wire::BLOB_MEM_GUEST {
            if let Kind::Blob { ctx_id, .. } = &mut kind {
                *ctx_id = 0;
            }
            let mut resource = Resource::new(kind, c.size, None);
            resource.backing = backing;
            self.resources.insert(c.resource_id, resource);
            return Ok(None);
        }
        let Context { lost, plain, .. } = *self.context(header.ctx_id)?;
        if plain {
            return Err(resp::ERR_INVALID_PARAMETER);
        }
        if c.blob_id != 0 {
            if lost {
                return Err(resp::ERR_UNSPEC);
            }
            return Ok(Some((c.resource_id, kind, c.size, backing)));
        }
        let memory = self.allocate("asgard-ring", c.size)?;
        let mut resource = Resource::new(kind, c.size, Some(memory));
        resource.backing = backing;
        self.resources.insert(c.resource_id, resource);
        Ok(None)
    }

    pub(super) fn unref(&mut self, host: &mut dyn Host, c: &wire::ResourceId) -> Result {
        let res_id = c.resource_id;
        let resource = self
            .resources
            .remove(&res_id)
            .ok_or(resp::ERR_INVALID_RESOURCE_ID)?;
        let knowing: Vec<u32> = self
            .contexts
            .iter_mut()
            .filter_map(|(ctx_id, context)| {
                context.rings.remove(&res_id);
                context.known.remove(&res_id).then_some(*ctx_id)
            })
            .collect();
        for ctx_id in knowing {
            self.tell(host, ctx_id, Request::Drop { res_id }, None);
        }
        for (index, scanout) in self.scanouts.iter_mut().enumerate() {
            if scanout.is_some_and(|scanout| scanout.res_id == res_id) {
                *scanout = None;
                host.show(index, Show::Off);
            }
        }
        if let Some(offset) = resource.mapped_at {
            self.maps = self.maps.saturating_sub(1);
            host.unmap(offset, page_up(resource.size));
        }
        let ours = !matches!(resource.kind, Kind::Blob { blob_id, .. } if blob_id != 0);
        if let (true, Some(memory)) = (ours, &resource.host) {
            self.memory = self.memory.saturating_sub(memory.size);
        }
        ok()
    }

    pub(super) fn attach_backing(&mut self, host: &mut dyn Host, rest: &mut &[u8]) -> Result {
        let c: wire::AttachBacking = take(rest)?;
        let resource = self.resource(c.resource_id)?;
        if matches!(
            resource.kind,
            Kind::Blob {
                mem: wire::BLOB_MEM_HOST3D,
                ..
            }
        ) {
            return Err(resp::ERR_INVALID_PARAMETER);
        }
        if resource.backing.is_some() {
            return Err(resp::ERR_UNSPEC);
        }
        let backing = read_entries(host, rest, c.nr_entries, &self.entries)?;
        self.resource(c.resource_id)?.backing = Some(backing);
        ok()
    }

    pub(super) fn detach_backing(&mut self, c: &wire::ResourceId) -> Result {
        let backing = self.resource(c.resource_id)?.backing.take();
        backing.map_or(Err(resp::ERR_UNSPEC), |_| ok())
    }

    pub(super) fn assign_uuid(&mut self, c: &wire::ResourceId) -> Result {
        self.needs(feature::RESOURCE_UUID)?;
        let number = self.uuids + 1;
        let resource = self.resource(c.resource_id)?;
        if !resource.may_cross_devices() {
            return Err(resp::ERR_INVALID_PARAMETER);
        }
        let uuid = *resource.uuid.get_or_insert_with(|| {
            // Of version 8: ours to fill. This process and a number that it never uses again.
            let mut uuid = [0; 16];
            let process = u64::from(std::process::id()).to_be_bytes();
            let (head, tail) = uuid.split_at_mut(8);
            head.copy_from_slice(&process);
            tail.copy_from_slice(&number.to_be_bytes());
            let [_, _, _, _, _, _, version, _, variant, ..] = &mut uuid;
            *version = 0x80;
            *variant = 0x80;
            uuid
        });
        self.uuids = number;
        Ok(body(resp::OK_RESOURCE_UUID, &uuid))
    }
}

fn read_entries(
    host: &mut dyn Host,
    rest: &mut &[u8],
    count: u32,
    quota: &Quota,
) -> Result<Backing> {
    let len = (count as usize)
        .checked_mul(size_of::<wire::MemEntry>())
        .filter(|len| *len > 0 && *len <= rest.len())
        .ok_or(resp::ERR_INVALID_PARAMETER)?;
    if !quota.has_room(count as usize) {
        return Err(resp::ERR_OUT_OF_MEMORY);
    }
    let (entries, tail) = rest
        .split_at_checked(len)
        .ok_or(resp::ERR_INVALID_PARAMETER)?;
    *rest = tail;
    let entries = entries
        .chunks_exact(size_of::<wire::MemEntry>())
        .map(bytemuck::pod_read_unaligned)
        .collect();
    Backing::new(host, entries, quota).ok_or(resp::ERR_INVALID_PARAMETER)
}
