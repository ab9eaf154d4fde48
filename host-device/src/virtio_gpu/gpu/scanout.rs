//! Displays: what each shows, and its cursor.

use super::super::edid;
use super::super::protocol::{self as wire, feature, resp};
use super::super::resource::Kind;
use super::{Gpu, Host, Result, body, ok};

/// The largest picture.
pub(super) const MAX_EXTENT: u32 = 16_384;

/// The largest cursor.
const MAX_CURSOR: u32 = 512;

/// A picture on a display, or part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// `VIRTIO_GPU_FORMAT_*`.
    pub format: u32,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Packed rows.
    pub pixels: Vec<u8>,
}

/// Where the cursor is, and from which point of its picture that counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CursorPlace {
    /// Pixels on the display.
    pub x: u32,
    /// Pixels on the display.
    pub y: u32,
    /// Pixels in the cursor's picture.
    pub hot_x: u32,
    /// Pixels in the cursor's picture.
    pub hot_y: u32,
}

/// What happens on a display.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Show {
    /// The whole picture, because it changed.
    Frame(Picture),
    /// Nothing is shown any more.
    Off,
    /// The cursor has a new picture, or none.
    Cursor(Option<Picture>, CursorPlace),
    /// It has moved.
    Move(CursorPlace),
}

/// What a display shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scanout {
    pub(super) res_id: u32,
    pub(super) rect: wire::Rect,
    pub(super) format: u32,
    /// Where the picture lies in the resource.
    pub(super) offset: u64,
    pub(super) stride: u64,
}

impl Gpu {
    pub(super) fn get_display_info(&self) -> Result {
        let mut displays = [wire::DisplayOne::default(); wire::MAX_SCANOUTS];
        for (display, (width, height)) in displays.iter_mut().zip(&self.config.displays) {
            let (width, height) = (*width, *height);
            display.rect = wire::Rect {
                width,
                height,
                ..wire::Rect::default()
            };
            display.enabled = 1;
        }
        Ok(body(resp::OK_DISPLAY_INFO, &displays))
    }

    pub(super) fn get_edid(&self, c: &wire::GetEdid) -> Result {
        self.needs(feature::EDID)?;
        let (width, height) = self
            .config
            .displays
            .get(c.scanout as usize)
            .ok_or(resp::ERR_INVALID_SCANOUT_ID)?;
        let edid = edid::describe(c.scanout, *width, *height);
        let mut response = body(
            resp::OK_EDID,
            &wire::RespEdid {
                size: edid.len() as u32,
                padding: 0,
            },
        );
        response.body.extend_from_slice(&edid);
        response
            .body
            .resize(size_of::<wire::RespEdid>() + wire::MAX_EDID, 0);
        Ok(response)
    }

    fn scanout(&mut self, scanout: u32) -> Result<&mut Option<Scanout>> {
        self.scanouts
            .get_mut(scanout as usize)
            .ok_or(resp::ERR_INVALID_SCANOUT_ID)
    }

    pub(super) fn set_scanout(&mut self, host: &mut dyn Host, c: &wire::SetScanout) -> Result {
        self.scanout(c.scanout_id)?;
        if c.resource_id == 0 {
            return self.turn_off(host, c.scanout_id);
        }
        let resource = self.resource(c.resource_id)?;
        let Kind::Shaped(shape) = resource.kind else {
            return Err(resp::ERR_INVALID_PARAMETER);
        };
        let level = resource.level(0).ok_or(resp::ERR_INVALID_PARAMETER)?;
        if shape.target == 0
            || wire::channels(shape.format).is_none()
            || !is_inside(&c.rect, level.width, level.height)
        {
            return Err(resp::ERR_INVALID_PARAMETER);
        }
        let scanout = Scanout {
            res_id: c.resource_id,
            rect: c.rect,
            format: shape.format,
            offset: level.offset,
            stride: level.row_bytes,
        };
        *self.scanout(c.scanout_id)? = Some(scanout);
        ok()
    }

    pub(super) fn set_scanout_blob(
        &mut self,
        host: &mut dyn Host,
        c: &wire::SetScanoutBlob,
    ) -> Result {
        self.needs(feature::RESOURCE_BLOB)?;
        self.scanout(c.scanout_id)?;
        if c.resource_id == 0 {
            return self.turn_off(host, c.scanout_id);
        }
        let resource = self.resource(c.resource_id)?;
        if !matches!(resource.kind, Kind::Blob { .. }) {
            return Err(resp::ERR_INVALID_PARAMETER);
        }
        let ([stride, ..], [offset, ..]) = (c.strides, c.offsets);
        let (stride, offset) = (u64::from(stride), u64::from(offset));
        let row = u64::from(c.width) * 4;
        let end = stride
            .checked_mul(u64::from(c.height).saturating_sub(1))
            .and_then(|rows| rows.checked_add(row)?.checked_add(offset));
        if wire::channels(c.format).is_none()
            || c.width.max(c.height) > MAX_EXTENT
            || !is_inside(&c.rect, c.width, c.height)
            || stride < row
            || end.is_none_or(|end| end > resource.size)
        {
            return Err(resp::ERR_INVALID_PARAMETER);
        }
        let (res_id, rect, format) = (c.resource_id, c.rect, c.format);
        let scanout = Scanout {
            res_id,
            rect,
            format,
            offset,
            stride,
        };
        *self.scanout(c.scanout_id)? = Some(scanout);
        ok()
    }

    fn turn_off(&mut self, host: &mut dyn Host, scanout: u32) -> Result {
        if self.scanout(scanout)?.take().is_some() {
            host.show(scanout as usize, Show::Off);
        }
        ok()
    }

    pub(super) fn flush(&mut self, host: &mut dyn Host, c: &wire::ResourceFlush) -> Result {
        let resource = self.resource(c.resource_id)?;
        if let Kind::Shaped(_) = resource.kind {
            let level = resource.level(0).ok_or(resp::ERR_INVALID_PARAMETER)?;
            let inside = |start: u32, len: u32, size: u32| {
                start.checked_add(len).is_some_and(|end| end <= size)
            };
            if !inside(c.rect.x, c.rect.width, level.width)
                || !inside(c.rect.y, c.rect.height, level.height)
            {
                return Err(resp::ERR_INVALID_PARAMETER);
            }
        }
        for (index, scanout) in self.scanouts.clone().into_iter().enumerate() {
            let Some(scanout) = scanout.filter(|scanout| scanout.res_id == c.resource_id) else {
                continue;
            };
            if !host.is_watched(index) {
                continue;
            }
            let picture = self.picture(host, &scanout).ok_or(resp::ERR_UNSPEC)?;
            host.show(index, Show::Frame(picture));
        }
        ok()
    }

    /// Copies what a scanout shows.
    fn picture(&mut self, host: &dyn Host, scanout: &Scanout) -> Option<Picture> {
        let wire::Rect {
            x,
            y,
            width,
            height,
        } = scanout.rect;
        let row = usize::try_from(width).ok()?.checked_mul(4)?;
        let mut pixels = vec![0; row.checked_mul(usize::try_from(height).ok()?)?];
        let resource = self.resources.get_mut(&scanout.res_id)?;
        let mapping = match &mut resource.host {
            Some(memory) => Some(memory.mapped()?),
            None => None,
        };
        for (line, pixels) in pixels.chunks_exact_mut(row.max(1)).enumerate() {
            let at =
                scanout.offset + (u64::from(y) + line as u64) * scanout.stride + u64::from(x) * 4;
            let copied = match (mapping, &resource.backing) {
                (Some(mapping), _) => mapping.copy_out(usize::try_from(at).ok()?, pixels).is_ok(),
                (None, Some(backing)) => backing.read(host, at, pixels),
                (None, None) => false,
            };
            if !copied {
                return None;
            }
        }
        let format = scanout.format;
        Some(Picture {
            format,
            width,
            height,
            pixels,
        })
    }

    pub(super) fn update_cursor(&mut self, host: &mut dyn Host, c: &wire::UpdateCursor) -> Result {
        let place = self.place_cursor(c)?;
        let picture = if c.resource_id == 0 {
            None
        } else {
            let resource = self.resource(c.resource_id)?;
            let Kind::Shaped(shape) = resource.kind else {
                return Err(resp::ERR_INVALID_PARAMETER);
            };
            let level = resource.level(0).ok_or(resp::ERR_INVALID_PARAMETER)?;
            if wire::channels(shape.format).is_none()
                || shape.target == 0
                || level.width.max(level.height) > MAX_CURSOR
            {
                return Err(resp::ERR_INVALID_PARAMETER);
            }
            let (width, height) = (level.width, level.height);
            let scanout = Scanout {
                res_id: c.resource_id,
                rect: wire::Rect {
                    width,
                    height,
                    ..wire::Rect::default()
                },
                format: shape.format,
                offset: level.offset,
                stride: level.row_bytes,
            };
            Some(self.picture(host, &scanout).ok_or(resp::ERR_UNSPEC)?)
        };
        host.show(c.scanout_id as usize, Show::Cursor(picture, place));
        ok()
    }

    pub(super) fn move_cursor(&mut self, host: &mut dyn Host, c: &wire::UpdateCursor) -> Result {
        let place = self.place_cursor(c)?;
        host.show(c.scanout_id as usize, Show::Move(place));
        ok()
    }

    fn place_cursor(&mut self, c: &wire::UpdateCursor) -> Result<CursorPlace> {
        let place = self
            .cursors
            .get_mut(c.scanout_id as usize)
            .ok_or(resp::ERR_INVALID_SCANOUT_ID)?;
        let (hot_x, hot_y) = (c.hot_x, c.hot_y);
        *place = CursorPlace {
            x: c.x,
            y: c.y,
            hot_x,
            hot_y,
        };
        Ok(*place)
    }
}

/// Not empty, and inside of a picture.
fn is_inside(rect: &wire::Rect, width: u32, height: u32) -> bool {
    let fits = |start: u32, len: u32, size: u32| {
        len > 0 && start.checked_add(len).is_some_and(|end| end <= size)
    };
    fits(rect.x, rect.width, width) && fits(rect.y, rect.height, height)
}
