//! Resources: memory with a guest-chosen id.
//!
//! Everything a guest can map is a sealed memfd (or what the renderer exports): the guest holds
//! the same file, and a file that it could shrink would let it kill the host with SIGBUS.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use asgard_asg::Shape;
use rustix::fs::{
    MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create,
};

use crate::Error;

/// virtio-gpu `map_info`: ordinary cached memory.
pub const MAP_CACHED: u32 = 1;

/// virgl formats that the guest driver uses for resources: 8-bit and 10-bit four-channel, and R8.
const FORMAT_R8: u32 = 64;

/// Bytes of one texel.
pub fn texel_bytes(shape: &Shape) -> u32 {
    if shape.format == FORMAT_R8 || shape.target == 0 {
        1
    } else {
        4
    }
}

/// Bytes of memory that hold all rows of all layers, and at least `size`. A `stride` of 0 means packed rows.
pub fn shape_bytes(shape: &Shape, stride: u32, size: u32) -> u64 {
    let count = |number: u32| u64::from(number.max(1));
    let row = match stride {
        0 => u64::from(shape.width).saturating_mul(texel_bytes(shape).into()),
        given => given.into(),
    };
    [shape.height, shape.depth, shape.array_size]
        .into_iter()
        .fold(row, |bytes, number| bytes.saturating_mul(count(number)))
        .max(size.into())
}

/// Where a resource came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Blob id 0: memory for a ring.
    Shared,
    /// Memory that the renderer published under this blob id.
    Renderer(u64),
    /// RESOURCE_CREATE_3D.
    Shaped,
    /// Another process, whose memory it is.
    Imported,
}

/// One resource. Clones of its file keep the memory alive after the id is gone.
#[derive(Debug)]
pub struct Resource {
    file: Arc<OwnedFd>,
    size: u64,
    map_info: u32,
    origin: Origin,
    shareable: bool,
}

impl Resource {
    /// New zeroed memory.
    pub fn allocate(name: &str, size: u64, origin: Origin) -> Result<Self, Error> {
        Ok(Self {
            file: Arc::new(sealed_memory(name, size)?),
            size,
            map_info: MAP_CACHED,
            origin,
            shareable: false,
        })
    }

    /// Memory that another process made, in a file that nobody can shrink.
    pub fn from_file(file: OwnedFd, size: u64, origin: Origin) -> Result<Self, Error> {
        let seals = fcntl_get_seals(&file).unwrap_or(SealFlags::empty());
        let real = fstat(&file).map_or(0, |stat| stat.st_size.unsigned_abs());
        if !seals.contains(SealFlags::SHRINK) || real < size {
            return Err(Error::Size {
                what: "shared memory",
                size,
            });
        }
        Ok(Self {
            file: Arc::new(file),
            size,
            map_info: MAP_CACHED,
            origin,
            shareable: true,
        })
    }

    /// Memory that the renderer gave away.
    pub fn from_blob(blob: asgard_decoder::Blob, blob_id: u64) -> Self {
        Self {
            file: Arc::new(blob.fd),
            size: blob.size,
            map_info: blob.map_info,
            origin: Origin::Renderer(blob_id),
            shareable: false,
        }
    }

    /// Contexts can import it, or not.
    #[must_use]
    pub fn shareable(self, shareable: bool) -> Self {
        Self { shareable, ..self }
    }

    /// Contexts that it is attached to can import it as memory.
    pub fn is_shareable(&self) -> bool {
        self.shareable || matches!(self.origin, Origin::Shaped)
    }

    /// The memory.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
    /// virtio-gpu `map_info`.
    pub fn map_info(&self) -> u32 {
        self.map_info
    }
    /// Where it came from.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }
}

/// A zeroed memfd of exactly `size` bytes that nobody can grow or shrink.
pub fn sealed_memory(name: &str, size: u64) -> Result<OwnedFd, Error> {
    let memory = |source: rustix::io::Errno| Error::Memory {
        size,
        source: source.into(),
    };
    let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).map_err(memory)?;
    ftruncate(&fd, size).map_err(memory)?;
    fcntl_add_seals(&fd, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL).map_err(memory)?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_cannot_be_resized() {
        let fd = sealed_memory("test", 8192).unwrap();
        assert!(ftruncate(&fd, 0).is_err());
        assert!(ftruncate(&fd, 1 << 20).is_err());
        assert_eq!(rustix::fs::fstat(&fd).unwrap().st_size, 8192);
    }

    #[test]
    fn only_memory_that_nobody_can_shrink_is_imported() {
        let sealed = sealed_memory("test", 8192).unwrap();
        let origin = || Origin::Imported;
        let copy = sealed.try_clone().unwrap();
        assert!(Resource::from_file(copy, 8193, origin()).is_err());
        let resource = Resource::from_file(sealed, 8192, origin()).unwrap();
        assert!(resource.is_shareable());
        let loose = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&loose, 8192).unwrap();
        assert!(Resource::from_file(loose, 8192, origin()).is_err());
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        assert!(Resource::from_file(file.into(), 4096, origin()).is_err());
    }

    #[test]
    fn shapes_without_sizes_are_packed() {
        let shape = Shape {
            target: 2,
            format: 67,
            width: 10,
            height: 3,
            ..Shape::default()
        };
        assert_eq!(shape_bytes(&shape, 0, 0), 120);
        assert_eq!(shape_bytes(&shape, 64, 0), 192);
        assert_eq!(shape_bytes(&shape, 64, 200), 200);
        let buffer = Shape {
            target: 0,
            format: FORMAT_R8,
            width: 100,
            height: 1,
            ..Shape::default()
        };
        assert_eq!(shape_bytes(&buffer, 0, 0), 100);
    }

    #[test]
    fn absurd_shapes_saturate() {
        let shape = Shape {
            width: u32::MAX,
            height: u32::MAX,
            depth: u32::MAX,
            array_size: u32::MAX,
            ..Shape::default()
        };
        assert_eq!(shape_bytes(&shape, 0, 0), u64::MAX);
    }
}
