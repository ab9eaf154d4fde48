//! Transfers between a resource and the guest's pages behind it.

use super::super::protocol::{self as wire, Header, resp};
use super::super::resource::{Copy, Direction, Kind, Resource};
use super::{Gpu, Host, Result, ok};

impl Gpu {
    fn transfer(
        &mut self,
        host: &mut dyn Host,
        res_id: u32,
        direction: Direction,
        copy: impl FnOnce(&Resource) -> Option<Copy>,
    ) -> Result {
        let resource = self.resource(res_id)?;
        let copy = copy(resource).ok_or(resp::ERR_INVALID_PARAMETER)?;
        // The memory of a guest blob is the guest's: there is nothing to copy.
        let Some(memory) = &mut resource.host else {
            return ok();
        };
        let backing = resource.backing.as_ref().ok_or(resp::ERR_UNSPEC)?;
        let mapping = memory.mapped().ok_or(resp::ERR_UNSPEC)?;
        if copy.run(direction, host, backing, mapping) {
            ok()
        } else {
            Err(resp::ERR_INVALID_PARAMETER)
        }
    }

    pub(super) fn transfer_2d(
        &mut self,
        host: &mut dyn Host,
        c: &wire::TransferToHost2d,
    ) -> Result {
        let wire::Rect {
            x,
            y,
            width,
            height,
        } = c.rect;
        self.transfer(host, c.resource_id, Direction::ToHost, |resource| {
            let Kind::Shaped(shape) = resource.kind else {
                return None;
            };
            let region = wire::Cube {
                x,
                y,
                z: 0,
                w: width,
                h: height,
                d: 1,
            };
            let flat = shape.target == 2;
            Copy::flat(resource.level(0).filter(|_| flat)?, region, c.offset)
        })
    }

    pub(super) fn transfer_3d(
        &mut self,
        host: &mut dyn Host,
        header: Header,
        c: &wire::Transfer3d,
        direction: Direction,
    ) -> Result {
        if header.ctx_id != 0 {
            self.context(header.ctx_id)?;
            let resource = self.resource(c.resource_id)?;
            if !resource.attached.contains(&header.ctx_id) {
                return Err(resp::ERR_INVALID_RESOURCE_ID);
            }
        }
        self.transfer(host, c.resource_id, direction, |resource| {
            let level = resource.level(c.level)?;
            Copy::new(level, c.region, c.offset, c.stride, c.layer_stride)
        })
    }
}
