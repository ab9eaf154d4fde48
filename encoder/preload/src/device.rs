//! One opening of the device: a context at the server, and the objects in it.
//!
//! Its descriptor is one end of a socket pair that carries nothing. Whoever holds a copy holds the
//! device; when the last is closed, the other end sees it, without a hook on `close` and `dup`.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use asgard_asg::capset;
use asgard_asg::kumquat::{
    BLOB_MEM_HOST3D, CmdSubmit3d, CtxCreate, CtxResource, FENCE, GetCapset, Request,
    ResourceCreate, Response,
};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::Stat;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::connection::{Connection, Fence, lock};
use crate::ring::Ring;
use crate::sync_file::signalled;

/// The capset of the driver.
pub(crate) const CAPSET_GFXSTREAM_VULKAN: u32 = 3;

/// Where `VIRTGPU_MAP` says that objects lie, far from every offset in a real file; the handle
/// stands above an object's own offset.
const MAP_BASE: u64 = 1 << 62;
const MAP_SHIFT: u32 = 40;
/// The first handle that `MAP_BASE` and `MAP_SHIFT` have no room for.
const HANDLE_END: usize = 1 << 22;

/// Memory at the server that the program has a handle of.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) resource_id: u32,
    pub(crate) size: u64,
    /// 0 for those that are not blobs.
    pub(crate) blob_mem: u32,
    pub(crate) memory: OwnedFd,
    /// Device and inode of `memory`.
    identity: (u64, u64),
    /// What `VIRTGPU_WAIT` waits for.
    fences: Mutex<Vec<Fence>>,
    ring: Mutex<Option<Arc<Ring>>>,
}

impl Object {
    pub(crate) fn new(
        created: ResourceCreate,
        memory: OwnedFd,
        size: u64,
        blob_mem: u32,
    ) -> Result<Self, Errno> {
        let stat = rustix::fs::fstat(&memory)?;
        Ok(Object {
            resource_id: created.resource_id,
            size,
            blob_mem,
            memory,
            identity: (stat.st_dev, stat.st_ino),
            fences: Mutex::default(),
            ring: Mutex::default(),
        })
    }

    /// Something at the server uses the object until the fence signals.
    pub(crate) fn attach(&self, fence: &Fence) {
        let mut fences = lock(&self.fences);
        fences.retain(|fence| !signalled(fence, false));
        fences.push(Arc::clone(fence));
    }

    /// Waits until nothing uses the object any more. `Errno::BUSY` if that needs a wait and may not.
    pub(crate) fn wait(&self, may_wait: bool) -> Result<(), Errno> {
        loop {
            let Some(fence) = lock(&self.fences).last().cloned() else {
                return Ok(());
            };
            if !signalled(&fence, may_wait) {
                return Err(Errno::BUSY);
            }
            lock(&self.fences).retain(|other| !Arc::ptr_eq(other, &fence));
        }
    }

    /// The ring in this object, if the host has been told of one.
    pub(crate) fn ring(&self) -> Option<Arc<Ring>> {
        lock(&self.ring).clone()
    }

    pub(crate) fn set_ring(&self, ring: Arc<Ring>) {
        *lock(&self.ring) = Some(ring);
    }
}

/// One opening of the device.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) connection: Arc<Connection>,
    far_end: OwnedFd,
    /// Device and inode of the program's end.
    identity: (u64, u64),
    context: Mutex<Option<u32>>,
    /// Handle n is at n - 1.
    objects: Mutex<Vec<Option<Arc<Object>>>>,
}

impl Device {
    /// Opens it; the second value is the program's end.
    pub(crate) fn open(connection: Arc<Connection>) -> Result<(Self, OwnedFd), Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (near, far_end) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let stat = rustix::fs::fstat(&near)?;
        let device = Device {
            connection,
            far_end,
            identity: (stat.st_dev, stat.st_ino),
            context: Mutex::default(),
            objects: Mutex::default(),
        };
        Ok((device, near))
    }

    /// Whether this is what `fstat` tells about the program's end.
    pub(crate) fn is_behind(&self, stat: &Stat) -> bool {
        self.identity == (stat.st_dev, stat.st_ino)
    }

    /// Whether the program still holds a copy of its end.
    pub(crate) fn is_open(&self) -> bool {
        let mut fds = [PollFd::new(&self.far_end, PollFlags::RDHUP)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        matches!(rustix::event::poll(&mut fds, Some(&now)), Ok(0))
    }

    /// Gives everything back to the server.
    pub(crate) fn close(&self) {
        let Some(ctx_id) = lock(&self.context).take() else {
            return;
        };
        let objects = std::mem::take(&mut *lock(&self.objects));
        for object in objects.into_iter().flatten() {
            let detach = CtxResource {
                ctx_id,
                resource_id: object.resource_id,
            };
            let _ = self.connection.send(&[Request::CtxDetach(detach)], &[]);
        }
        // If the server is gone, so is the context.
        let _ = self.connection.send(&[Request::CtxDestroy { ctx_id }], &[]);
    }

    /// Makes the context. A device has one.
    pub(crate) fn create_context(&self, capset: u32, name: &[u8]) -> Result<(), Errno> {
        let mut context = lock(&self.context);
        if context.is_some() {
            return Err(Errno::EXIST);
        }
        *context = Some(self.new_context(capset, name)?);
        Ok(())
    }

    /// The context, which is made now if the program has not asked for one.
    pub(crate) fn context(&self) -> Result<u32, Errno> {
        let mut context = lock(&self.context);
        if let Some(id) = *context {
            return Ok(id);
        }
        let id = self.new_context(CAPSET_GFXSTREAM_VULKAN, program_name())?;
        *context = Some(id);
        Ok(id)
    }

    fn new_context(&self, capset: u32, name: &[u8]) -> Result<u32, Errno> {
        let create = Request::CtxCreate(CtxCreate::new(capset, name));
        self.connection
            .call(&[create], &[], |response, _| match response {
                Response::ContextCreate { ctx_id } => Some(ctx_id),
                _ => None,
            })
    }

    /// Creates a resource by the last of these requests, and returns its handle.
    pub(crate) fn create(
        &self,
        ctx_id: u32,
        requests: &[Request<'_>],
        size: u64,
        blob_mem: u32,
    ) -> Result<(u32, Arc<Object>), Errno> {
        self.create_with(ctx_id, requests, &[], size, blob_mem)
    }

    /// Memory that another process has exported, as a new handle.
    pub(crate) fn import(&self, memory: BorrowedFd<'_>) -> Result<u32, Errno> {
        let get = Request::GetCapset(GetCapset {
            capset_id: CAPSET_GFXSTREAM_VULKAN,
            capset_version: 0,
        });
        let extension = self
            .connection
            .call(&[get], &[], |response, _| match response {
                Response::Capset(bytes) => Some(capset::parse(bytes).1),
                _ => None,
            })?;
        if extension.is_none_or(|e| e.features & capset::feature::SHARED_MEMORY == 0) {
            return Err(Errno::INVAL);
        }
        let ctx_id = self.context()?;
        let import = Request::ResourceImport { ctx_id };
        let size = rustix::fs::fstat(memory)?.st_size.unsigned_abs();
        let (handle, _) = self.create_with(ctx_id, &[import], &[memory], size, BLOB_MEM_HOST3D)?;
        Ok(handle)
    }

    fn create_with(
        &self,
        ctx_id: u32,
        requests: &[Request<'_>],
        memory: &[BorrowedFd<'_>],
        size: u64,
        blob_mem: u32,
    ) -> Result<(u32, Arc<Object>), Errno> {
        let (created, memory) =
            self.connection
                .call(requests, memory, |response, fds| match response {
                    Response::ResourceCreate(created) => {
                        (!fds.is_empty()).then(|| (created, fds.swap_remove(0)))
                    }
                    _ => None,
                })?;
        let resource = CtxResource {
            ctx_id,
            resource_id: created.resource_id,
        };
        self.connection.send(&[Request::CtxAttach(resource)], &[])?;
        let object = Arc::new(Object::new(created, memory, size, blob_mem)?);
        match self.insert(&object) {
            Some(handle) => Ok((handle, object)),
            None => {
                self.connection.send(&[Request::CtxDetach(resource)], &[])?;
                Err(Errno::NOMEM)
            }
        }
    }

    /// The lowest handle that is free now.
    fn insert(&self, object: &Arc<Object>) -> Option<u32> {
        let mut objects = lock(&self.objects);
        let index = objects
            .iter()
            .position(Option::is_none)
            .unwrap_or(objects.len());
        if index + 1 >= HANDLE_END {
            return None;
        }
        if index == objects.len() {
            objects.push(None);
        }
        objects[index] = Some(Arc::clone(object));
        u32::try_from(index + 1).ok()
    }

    /// What a handle stands for.
    pub(crate) fn object(&self, handle: u32) -> Result<Arc<Object>, Errno> {
        let index = (handle as usize).wrapping_sub(1);
        lock(&self.objects)
            .get(index)
            .cloned()
            .flatten()
            .ok_or(Errno::NOENT)
    }

    /// The resource in which a ring is, by the server's number.
    pub(crate) fn object_of_resource(&self, resource_id: u32) -> Option<Arc<Object>> {
        let objects = lock(&self.objects);
        objects
            .iter()
            .flatten()
            .find(|object| object.resource_id == resource_id)
            .cloned()
    }

    /// The handle of memory that the program holds a descriptor of.
    pub(crate) fn handle_of(&self, memory: impl AsFd) -> Result<u32, Errno> {
        let stat = rustix::fs::fstat(memory)?;
        let objects = lock(&self.objects);
        let index = objects.iter().position(|object| {
            object
                .as_ref()
                .is_some_and(|object| object.identity == (stat.st_dev, stat.st_ino))
        });
        index
            .and_then(|index| u32::try_from(index + 1).ok())
            .ok_or(Errno::INVAL)
    }

    /// Closes a handle. Mappings and exported descriptors stay.
    pub(crate) fn remove(&self, handle: u32) -> Result<Arc<Object>, Errno> {
        let index = (handle as usize).wrapping_sub(1);
        let object = lock(&self.objects).get_mut(index).and_then(Option::take);
        let object = object.ok_or(Errno::INVAL)?;
        if let Some(ctx_id) = *lock(&self.context) {
            let detach = CtxResource {
                ctx_id,
                resource_id: object.resource_id,
            };
            // A server that is gone has forgotten it anyway.
            let _ = self.connection.send(&[Request::CtxDetach(detach)], &[]);
        }
        Ok(object)
    }

    /// Submits a command. The fence is there if `flags` asks for one.
    pub(crate) fn submit(
        &self,
        flags: u32,
        ring_idx: u8,
        command: &[u8],
    ) -> Result<Option<Fence>, Errno> {
        let ctx_id = self.context()?;
        let request = [Request::Submit3d {
            flags,
            ctx_id,
            ring_idx,
            in_fences: Vec::new(),
            command,
        }];
        if flags & FENCE == 0 {
            self.connection.send(&request, &[])?;
            return Ok(None);
        }
        let fence = self
            .connection
            .call(&request, &[], |response, fds| match response {
                Response::CmdSubmit3d(CmdSubmit3d { .. }) => {
                    (!fds.is_empty()).then(|| Arc::new(fds.swap_remove(0)))
                }
                _ => None,
            })?;
        self.connection.remember_fence(&fence);
        Ok(Some(fence))
    }
}

/// The offset by which the program maps the object of a handle.
pub(crate) fn map_offset(handle: u32) -> u64 {
    MAP_BASE | u64::from(handle) << MAP_SHIFT
}

/// The handle, and the offset in its object, that an offset of mmap stands for.
pub(crate) fn mapped_handle(offset: i64) -> Option<(u32, u64)> {
    let offset = u64::try_from(offset).ok()?.checked_sub(MAP_BASE)?;
    let handle = u32::try_from(offset >> MAP_SHIFT).ok()?;
    Some((handle, offset & ((1 << MAP_SHIFT) - 1)))
}

/// The program's name, for people who look at the server.
pub(crate) fn program_name() -> &'static [u8] {
    unsafe extern "C" {
        static program_invocation_short_name: *const std::ffi::c_char;
    }
    // SAFETY: glibc keeps it pointing to a C string; programs that change it are expected to do so
    // at their start.
    unsafe {
        if program_invocation_short_name.is_null() {
            b""
        } else {
            CStr::from_ptr(program_invocation_short_name).to_bytes()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn map_offsets_lead_back_to_their_handles() {
        for handle in [1, 2, HANDLE_END as u32 - 1] {
            let offset = i64::try_from(map_offset(handle)).unwrap();
            assert_eq!(mapped_handle(offset), Some((handle, 0)));
            assert_eq!(mapped_handle(offset + 8192), Some((handle, 8192)));
        }
        assert_eq!(mapped_handle(0), None);
        assert_eq!(mapped_handle(-4096), None);
        assert_eq!(mapped_handle(1 << 40), None);
    }
}
