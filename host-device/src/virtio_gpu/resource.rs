//! Resources of a virtual machine: memory of the host, memory of the guest, or both.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use asgard_asg::{Mapping, Shape};

use super::protocol::{
    BLOB_FLAG_CROSS_DEVICE, BLOB_FLAG_MAPPABLE, BLOB_FLAG_SHAREABLE, BLOB_MEM_GUEST, Cube, MemEntry,
};
use crate::resource::{sealed_memory, texel_bytes};

/// Guest memory, as the device reaches it.
pub trait GuestMemory {
    /// Whether all of these bytes are memory of the guest.
    fn covers(&self, address: u64, len: u64) -> bool;
    /// Copies out of guest memory; false if there is none.
    fn read(&self, address: u64, to: &mut [u8]) -> bool;
    /// Copies into guest memory; false if there is none.
    fn write(&self, address: u64, from: &[u8]) -> bool;
}

/// Memory of the host's.
#[derive(Debug)]
pub struct HostMemory {
    /// A sealed file, or one that cannot shrink.
    pub file: Arc<OwnedFd>,
    /// Bytes.
    pub size: u64,
    /// virtio-gpu `map_info`.
    pub map_info: u32,
    /// Made when it is needed.
    mapping: Option<Arc<Mapping>>,
}

impl HostMemory {
    /// New zeroed memory.
    pub fn allocate(name: &str, size: u64) -> Result<Self, crate::Error> {
        let file = Arc::new(sealed_memory(name, size)?);
        Ok(Self::new(file, size, crate::resource::MAP_CACHED))
    }

    /// Memory in a file that is known not to shrink.
    pub fn new(file: Arc<OwnedFd>, size: u64, map_info: u32) -> Self {
        Self {
            file,
            size,
            map_info,
            mapping: None,
        }
    }

    /// The memory, mapped; `None` where it cannot be.
    pub fn mapped(&mut self) -> Option<&Arc<Mapping>> {
        if self.mapping.is_none() {
            let size = usize::try_from(self.size).ok()?;
            match Mapping::map(self.file.as_fd(), 0, size) {
                Ok(mapping) => self.mapping = Some(Arc::new(mapping)),
                Err(error) => tracing::warn!("cannot map a resource: {error}"),
            }
        }
        self.mapping.as_ref()
    }
}

/// What a resource is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// RESOURCE_CREATE_2D or RESOURCE_CREATE_3D.
    Shaped(Shape),
    /// RESOURCE_CREATE_BLOB.
    Blob {
        /// `VIRTIO_GPU_BLOB_MEM_*`.
        mem: u32,
        /// `VIRTIO_GPU_BLOB_FLAG_*`.
        flags: u32,
        /// 0: memory for a ring.
        blob_id: u64,
        /// The context that made it; 0 for guest memory.
        ctx_id: u32,
    },
}

/// One resource.
#[derive(Debug)]
pub struct Resource {
    /// What it is.
    pub kind: Kind,
    /// Bytes.
    pub size: u64,
    /// All but guest blobs have it.
    pub host: Option<HostMemory>,
    /// The guest's pages.
    pub backing: Option<Backing>,
    /// Contexts that it is attached to.
    pub attached: BTreeSet<u32>,
    /// Where in the window it is mapped.
    pub mapped_at: Option<u64>,
    /// From RESOURCE_ASSIGN_UUID.
    pub uuid: Option<[u8; 16]>,
}

impl Resource {
    /// A new one that nobody uses yet.
    pub fn new(kind: Kind, size: u64, host: Option<HostMemory>) -> Self {
        Self {
            kind,
            size,
            host,
            backing: None,
            attached: BTreeSet::new(),
            mapped_at: None,
            uuid: None,
        }
    }

    /// Whether the guest may map it.
    pub fn is_mappable(&self) -> bool {
        matches!(self.kind, Kind::Blob { mem, flags, .. } if mem != BLOB_MEM_GUEST && flags & BLOB_FLAG_MAPPABLE != 0)
    }

    /// Whether `ctx_id` may have it: others than its maker only if it was made to be shared.
    pub fn may_attach(&self, ctx_id: u32) -> bool {
        match self.kind {
            Kind::Blob {
                flags,
                ctx_id: maker,
                ..
            } => {
                maker == ctx_id
                    || maker == 0
                    || flags & (BLOB_FLAG_SHAREABLE | BLOB_FLAG_CROSS_DEVICE) != 0
            }
            Kind::Shaped(_) => true,
        }
    }

    /// Whether other devices may have it.
    pub fn may_cross_devices(&self) -> bool {
        match self.kind {
            Kind::Blob { flags, .. } => flags & BLOB_FLAG_CROSS_DEVICE != 0,
            Kind::Shaped(_) => true,
        }
    }

    /// The rows of a mip level: the whole of a blob counts as one.
    pub fn level(&self, level: u32) -> Option<Level> {
        match &self.kind {
            Kind::Shaped(shape) => Level::of(shape, level),
            Kind::Blob { .. } => (level == 0).then_some(Level {
                offset: 0,
                row_bytes: self.size,
                texel: 1,
                width: u32::try_from(self.size).unwrap_or(u32::MAX),
                height: 1,
                layers: 1,
            }),
        }
    }
}

/// Where a mip level lies in host memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Bytes in front of it.
    pub offset: u64,
    /// Bytes from one row to the next.
    pub row_bytes: u64,
    /// Bytes of a texel.
    pub texel: u32,
    /// Texels.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Layers, or slices of a volume.
    pub layers: u32,
}

impl Level {
    fn of(shape: &Shape, level: u32) -> Option<Self> {
        if level > shape.last_level || level >= u32::BITS {
            return None;
        }
        let mut offset = 0_u64;
        for below in 0..level {
            offset = offset.checked_add(Self::at(shape, below).bytes()?)?;
        }
        Some(Self {
            offset,
            ..Self::at(shape, level)
        })
    }

    fn at(shape: &Shape, level: u32) -> Self {
        let size = |full: u32| (full >> level).max(1);
        let texel = texel_bytes(shape);
        let width = size(shape.width);
        Self {
            offset: 0,
            row_bytes: u64::from(width) * u64::from(texel),
            texel,
            width,
            height: size(shape.height),
            layers: size(shape.depth).saturating_mul(shape.array_size.max(1)),
        }
    }

    fn bytes(&self) -> Option<u64> {
        self.row_bytes
            .checked_mul(u64::from(self.height))?
            .checked_mul(u64::from(self.layers))
    }
}

/// Bytes of all mip levels together.
pub fn shape_bytes(shape: &Shape) -> Option<u64> {
    let last = Level::of(shape, shape.last_level)?;
    last.offset.checked_add(last.bytes()?)
}

/// A pair of places: where rows lie in host memory, and where in the guest's backing.
#[derive(Clone, Copy, Debug)]
pub struct Copy {
    /// In host memory.
    level: Level,
    region: Cube,
    /// In the backing.
    offset: u64,
    stride: u64,
    layer_stride: u64,
}

impl Copy {
    /// A transfer of part of a level; `None` if it is not all inside. A stride of 0 means packed.
    pub fn new(
        level: Level,
        region: Cube,
        offset: u64,
        stride: u32,
        layer_stride: u32,
    ) -> Option<Self> {
        let inside =
            |start: u32, len: u32, size: u32| start.checked_add(len).is_some_and(|end| end <= size);
        if !inside(region.x, region.w, level.width)
            || !inside(region.y, region.h, level.height)
            || !inside(region.z, region.d, level.layers)
        {
            return None;
        }
        let row = u64::from(region.w) * u64::from(level.texel);
        let stride = if stride == 0 { row } else { stride.into() };
        let layer_stride = match layer_stride {
            0 => stride.checked_mul(region.h.into())?,
            given => given.into(),
        };
        Some(Self {
            level,
            region,
            offset,
            stride,
            layer_stride,
        })
    }

    /// A two-dimensional transfer: rows of the backing are as long as those of the resource.
    pub fn flat(level: Level, region: Cube, offset: u64) -> Option<Self> {
        let stride = u32::try_from(level.row_bytes).ok()?;
        Self::new(level, region, offset, stride, 0)
    }

    /// Calls `each` for all rows, with the place in host memory, in the backing, and the bytes. Rows that
    /// follow each other on both sides come as one.
    fn rows(&self, mut each: impl FnMut(u64, u64, usize) -> bool) -> bool {
        let Self { level, region, .. } = self;
        let row = u64::from(region.w) * u64::from(level.texel);
        if row == 0 {
            return true;
        }
        let whole = row == level.row_bytes && row == self.stride;
        let (rows, len) = if whole {
            (1, row * u64::from(region.h))
        } else {
            (u64::from(region.h), row)
        };
        let Ok(len) = usize::try_from(len) else {
            return false;
        };
        for layer in 0..u64::from(region.d) {
            for y in 0..rows {
                let slice = (u64::from(region.z) + layer) * u64::from(level.height);
                let host = level.offset
                    + (slice + u64::from(region.y) + y) * level.row_bytes
                    + u64::from(region.x) * u64::from(level.texel);
                let Some(guest) = layer
                    .checked_mul(self.layer_stride)
                    .and_then(|at| at.checked_add(y.checked_mul(self.stride)?))
                    .and_then(|at| at.checked_add(self.offset))
                else {
                    return false;
                };
                if !each(host, guest, len) {
                    return false;
                }
            }
        }
        true
    }
}

/// Counts what all backings of a device keep.
#[derive(Clone, Debug, Default)]
pub struct Quota(Arc<AtomicUsize>);

impl Quota {
    /// Whether there is room for so many entries more.
    pub fn has_room(&self, entries: usize) -> bool {
        self.0.load(Ordering::Relaxed).saturating_add(entries) <= MAX_ENTRIES
    }
}

/// Entries of all backings together: as many as 64 GiB in single pages are.
pub const MAX_ENTRIES: usize = 1 << 24;

/// The guest's pages behind a resource, in order.
#[derive(Debug)]
pub struct Backing {
    quota: Quota,
    entries: Vec<MemEntry>,
    /// Where each entry begins in the backing.
    starts: Vec<u64>,
    size: u64,
}

/// Bytes that are copied at a time.
const PIECE: usize = 256 << 10;

impl Backing {
    /// `None` if not all of it is memory of the guest.
    pub fn new(memory: &dyn GuestMemory, entries: Vec<MemEntry>, quota: &Quota) -> Option<Self> {
        let mut starts = Vec::with_capacity(entries.len());
        let mut size = 0_u64;
        for entry in &entries {
            if !memory.covers(entry.addr, entry.length.into()) {
                return None;
            }
            starts.push(size);
            size = size.checked_add(entry.length.into())?;
        }
        quota.0.fetch_add(entries.len(), Ordering::Relaxed);
        Some(Self {
            quota: quota.clone(),
            entries,
            starts,
            size,
        })
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Calls `each` for the runs of guest memory behind `len` bytes at `offset`, with the address and the
    /// bytes of each; false if the backing is too short, or `each` says so.
    fn runs(&self, offset: u64, len: u64, mut each: impl FnMut(u64, usize) -> bool) -> bool {
        let first = self
            .starts
            .partition_point(|start| *start <= offset)
            .saturating_sub(1);
        let (mut at, mut left) = (offset, len);
        for (entry, start) in self.entries.iter().zip(&self.starts).skip(first) {
            let skip = at.saturating_sub(*start);
            let mut here = u64::from(entry.length).saturating_sub(skip).min(left);
            let mut address = entry.addr.saturating_add(skip);
            left -= here;
            at += here;
            while here > 0 {
                let piece = here.min(PIECE as u64);
                if !each(address, piece as usize) {
                    return false;
                }
                address = address.saturating_add(piece);
                here -= piece;
            }
            if left == 0 {
                return true;
            }
        }
        left == 0
    }

    /// Copies out of the guest's pages.
    pub fn read(&self, memory: &dyn GuestMemory, offset: u64, to: &mut [u8]) -> bool {
        let mut rest = to;
        let len = rest.len() as u64;
        self.runs(offset, len, |address, len| {
            let Some((piece, behind)) = std::mem::take(&mut rest).split_at_mut_checked(len) else {
                return false;
            };
            rest = behind;
            memory.read(address, piece)
        })
    }

    /// Copies between `len` bytes at `offset` and those at `at` of host memory.
    fn copy(
        &self,
        direction: Direction,
        memory: &dyn GuestMemory,
        offset: u64,
        host: &Mapping,
        at: u64,
        len: usize,
    ) -> bool {
        let mut piece = vec![0; len.min(PIECE)];
        let Ok(mut at) = usize::try_from(at) else {
            return false;
        };
        self.runs(offset, len as u64, |address, len| {
            let Some(piece) = piece.get_mut(..len) else {
                return false;
            };
            let done = match direction {
                Direction::ToHost => memory.read(address, piece) && host.copy_in(at, piece).is_ok(),
                Direction::ToGuest => {
                    host.copy_out(at, piece).is_ok() && memory.write(address, piece)
                }
            };
            at += len;
            done
        })
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        self.quota
            .0
            .fetch_sub(self.entries.len(), Ordering::Relaxed);
    }
}

/// Which way a transfer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Guest memory to host memory.
    ToHost,
    /// Host memory to guest memory.
    ToGuest,
}

impl Copy {
    /// Copies; false if the backing is too short.
    pub fn run(
        &self,
        direction: Direction,
        memory: &dyn GuestMemory,
        backing: &Backing,
        host: &Mapping,
    ) -> bool {
        self.rows(|at, offset, len| backing.copy(direction, memory, offset, host, at, len))
    }
}

/// A two-dimensional shape of four-byte texels.
pub fn flat_shape(format: u32, width: u32, height: u32) -> Shape {
    Shape {
        target: 2,
        format,
        width,
        height,
        depth: 1,
        array_size: 1,
        ..Shape::default()
    }
}
