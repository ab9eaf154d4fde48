//! What the device answers to ioctls: those of virtio-gpu, and the few of DRM in general that go
//! with them.

use std::ffi::{CStr, c_char, c_void};
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd};
use std::ptr;
use std::sync::Arc;

use asgard_asg::kumquat::{
    FENCE, GetCapset, RING_IDX, Request, ResourceCreate3d, ResourceCreateBlob, Response, Transfer3d,
};
use asgard_asg::submit::Command;
use bytemuck::Pod;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use crate::connection::Fence;
use crate::device::{self, CAPSET_GFXSTREAM_VULKAN, Device, map_offset};
use crate::node;
use crate::report::{Once, trace};
use crate::ring::{self, Ring};
use crate::sync_file::signalled;
pub(crate) use crate::uapi::DRM;
use crate::uapi::*;

/// Answers one request.
///
/// # Safety
/// `argument` is what the request wants, as for the kernel: a structure of the size that the request
/// states, whose addresses lead to memory of the stated lengths. The kernel would report a wrong
/// address; here the program dies of it.
pub(crate) unsafe fn dispatch(
    device: &Device,
    request: u32,
    argument: *mut c_void,
) -> Result<(), Errno> {
    if request >> 8 & 0xff != DRM {
        return Err(Errno::NOTTY);
    }
    if argument.is_null() {
        return Err(Errno::FAULT);
    }
    let nr = request & 0xff;
    // A ping is good for something even then.
    if nr != number::EXECBUFFER && device.connection.is_dead() {
        return Err(Errno::NODEV);
    }
    let argument = Argument {
        address: argument.cast(),
        len: (request >> 16 & 0x3fff) as usize,
    };
    // SAFETY: the caller vouches for the argument and what it points to.
    let result = unsafe {
        match nr {
            number::VERSION => argument.with(|version| get_version(version)),
            number::GEM_CLOSE => argument.with(|close| gem_close(device, close)),
            number::GET_CAP => argument.with(get_cap),
            number::PRIME_HANDLE_TO_FD => argument.with(|prime| handle_to_fd(device, prime)),
            number::PRIME_FD_TO_HANDLE => argument.with(|prime| fd_to_handle(device, prime)),
            number::MAP => argument.with(|map| virtgpu_map(device, map)),
            number::EXECBUFFER => argument.with(|exec| execbuffer(device, exec)),
            number::GETPARAM => argument.with(|param| getparam(device, param)),
            number::RESOURCE_CREATE => argument.with(|create| resource_create(device, create)),
            number::RESOURCE_INFO => argument.with(|info| resource_info(device, info)),
            number::TRANSFER_FROM_HOST => {
                argument.with(|transfer| transfer_3d(device, transfer, Request::TransferFromHost))
            }
            number::TRANSFER_TO_HOST => {
                argument.with(|transfer| transfer_3d(device, transfer, Request::TransferToHost))
            }
            number::WAIT => argument.with(|wait| virtgpu_wait(device, wait)),
            number::GET_CAPS => argument.with(|caps| get_caps(device, caps)),
            number::RESOURCE_CREATE_BLOB => argument.with(|create| create_blob(device, create)),
            number::CONTEXT_INIT => argument.with(|init| context_init(device, init)),
            _ => Err(Errno::INVAL),
        }
    };
    trace(|| {
        format!(
            "ioctl 0x{nr:02x}: {}",
            if let Err(error) = &result {
                error.to_string()
            } else {
                "ok".into()
            }
        )
    });
    result
}

/// A structure of the program, whose length may differ from ours, as headers of other ages have it.
struct Argument {
    address: *mut u8,
    len: usize,
}

impl Argument {
    /// Works on a copy, with zeroes where the program's structure is shorter, and copies it back.
    ///
    /// # Safety
    /// The program's structure is valid for reads and writes of its length.
    unsafe fn with<T: Pod>(
        &self,
        work: impl FnOnce(&mut T) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let mut copy = T::zeroed();
        let len = self.len.min(size_of::<T>());
        let bytes = bytemuck::bytes_of_mut(&mut copy).as_mut_ptr();
        // SAFETY: `len` is within the structure, as the caller vouches, and within the copy.
        unsafe { ptr::copy_nonoverlapping(self.address, bytes, len) };
        let result = work(&mut copy);
        let bytes = bytemuck::bytes_of(&copy).as_ptr();
        // SAFETY: as above.
        unsafe { ptr::copy_nonoverlapping(bytes, self.address, len) };
        result
    }
}

/// The program's memory that a structure refers to by address.
///
/// # Safety
/// There are `len` values of `T` at `address`, and nobody writes them while the result is used.
unsafe fn array<'a, T: Pod>(address: u64, len: usize) -> Result<&'a [T], Errno> {
    let start = address as *const T;
    if len == 0 {
        return Ok(&[]);
    }
    if start.is_null() || !start.is_aligned() {
        return Err(Errno::FAULT);
    }
    // SAFETY: the caller vouches for the memory; it is not null, and aligned.
    Ok(unsafe { std::slice::from_raw_parts(start, len) })
}

/// # Safety
/// Each of the three addresses has room for the length beside it.
unsafe fn get_version(version: &mut Version) -> Result<(), Errno> {
    (version.major, version.minor, version.patchlevel) = (0, 1, 0);
    for ([len, address], string) in version.strings.iter_mut().zip(node::STRINGS) {
        let room = string.len().min(*len);
        if *address != 0 {
            // SAFETY: the caller vouches for the room.
            unsafe { ptr::copy_nonoverlapping(string.as_ptr(), *address as *mut u8, room) };
        }
        *len = string.len();
    }
    Ok(())
}

fn gem_close(device: &Device, close: &mut GemClose) -> Result<(), Errno> {
    let object = device.remove(close.handle)?;
    if object.ring().is_some() {
        ring::abandon();
    }
    Ok(())
}

fn get_cap(cap: &mut GetCap) -> Result<(), Errno> {
    const PRIME: u64 = 5;
    const PRIME_IMPORT_AND_EXPORT: u64 = 3;
    cap.value = if cap.capability == PRIME {
        PRIME_IMPORT_AND_EXPORT
    } else {
        0
    };
    Ok(())
}

fn handle_to_fd(device: &Device, prime: &mut Prime) -> Result<(), Errno> {
    let object = device.object(prime.handle)?;
    let fd = if prime.flags & libc::O_CLOEXEC as u32 != 0 {
        rustix::io::fcntl_dupfd_cloexec(&object.memory, 0)?
    } else {
        rustix::io::dup(&object.memory)?
    };
    prime.fd = fd.into_raw_fd();
    Ok(())
}

fn fd_to_handle(device: &Device, prime: &mut Prime) -> Result<(), Errno> {
    if prime.fd < 0 {
        return Err(Errno::BADF);
    }
    // SAFETY: the number is not negative; if no file is open there, fstat says so.
    let file = unsafe { BorrowedFd::borrow_raw(prime.fd) };
    prime.handle = match device.handle_of(file) {
        Err(Errno::INVAL) => device.import(file)?,
        known => known?,
    };
    Ok(())
}

fn virtgpu_map(device: &Device, map: &mut Map) -> Result<(), Errno> {
    device.object(map.handle)?;
    map.offset = map_offset(map.handle);
    Ok(())
}

/// # Safety
/// The command and the handles are there, with their lengths.
unsafe fn execbuffer(device: &Device, exec: &mut ExecBuffer) -> Result<(), Errno> {
    if exec.flags & !(EXEC_FENCE_FD_IN | EXEC_FENCE_FD_OUT | EXEC_RING_IDX) != 0
        || exec.num_in_syncobjs != 0
        || exec.num_out_syncobjs != 0
    {
        return Err(Errno::INVAL);
    }
    // SAFETY: the caller vouches for both.
    let (bytes, handles) = unsafe {
        let bytes: &[u8] = array(exec.command, exec.size as usize)?;
        let handles: &[u32] = array(exec.bo_handles, exec.num_bo_handles as usize)?;
        (bytes, handles)
    };
    let command = Command::parse(bytes);
    trace(|| {
        format!(
            "execbuffer flags {:x} ring {} bos {handles:?}: {command:x?}",
            exec.flags, exec.ring_idx
        )
    });
    let objects = handles
        .iter()
        .map(|handle| device.object(*handle))
        .collect::<Result<Vec<_>, _>>()?;

    if exec.flags & EXEC_FENCE_FD_IN != 0 {
        if exec.fence_fd < 0 {
            return Err(Errno::INVAL);
        }
        // SAFETY: the number is not negative; one that is not open does not block.
        signalled(unsafe { BorrowedFd::borrow_raw(exec.fence_fd) }, true);
    }
    if let Ok(Command::ContextPing { resource_id }) = command {
        let ring = device
            .object_of_resource(resource_id)
            .and_then(|object| object.ring());
        if ring.is_some_and(|ring| ring.ping()) {
            return Ok(());
        }
    }

    let wants_fence = exec.flags & EXEC_FENCE_FD_OUT != 0 || !handles.is_empty();
    let mut flags = if wants_fence { FENCE } else { 0 };
    let mut ring_idx = 0;
    if exec.flags & EXEC_RING_IDX != 0 {
        flags |= RING_IDX;
        ring_idx = u8::try_from(exec.ring_idx).map_err(|_| Errno::INVAL)?;
    }
    let fence = device.submit(flags, ring_idx, bytes).inspect_err(|error| {
        static TOO_BIG: Once = Once::new();
        if *error == Errno::TOOBIG {
            TOO_BIG.tell(|| {
                format!(
                    "a command of {} bytes does not fit into a packet",
                    bytes.len()
                )
            });
        }
    })?;
    if let Some(fence) = &fence {
        for object in &objects {
            object.attach(fence);
        }
        if exec.flags & EXEC_FENCE_FD_OUT != 0 {
            exec.fence_fd = rustix::io::fcntl_dupfd_cloexec(fence, 0)?.into_raw_fd();
        }
    }
    if let Ok(Command::ContextCreate { resource_id }) = command {
        start_ring(device, resource_id);
    }
    Ok(())
}

/// The calling thread has made a ring, and will be the one that waits on it.
fn start_ring(device: &Device, resource_id: u32) {
    let Some(object) = device.object_of_resource(resource_id) else {
        return;
    };
    // Without a mapping of our own everything works, only slower.
    if let Some(ring) = Ring::map(object.memory.as_fd(), object.size) {
        let ring = Arc::new(ring);
        device.connection.remember_ring(&ring);
        ring.adopt();
        object.set_ring(ring);
    }
}

/// # Safety
/// There is room for a C int at the address.
unsafe fn getparam(device: &Device, param: &mut GetParam) -> Result<(), Errno> {
    let value: i32 = match param.param {
        // 3D, fixed capset query, blobs, host-visible memory, cross-device sharing, contexts.
        1..=6 => 1,
        // The capsets, one bit each; the kernel's value is a C int as well.
        7 => device.connection.capsets() as u32 as i32,
        // Contexts have names.
        8 => 1,
        _ => return Err(Errno::INVAL),
    };
    let address = param.value as *mut i32;
    if address.is_null() {
        return Err(Errno::FAULT);
    }
    // SAFETY: the caller vouches for the room.
    unsafe { address.write_unaligned(value) };
    Ok(())
}

fn resource_create(device: &Device, create: &mut ResourceCreate) -> Result<(), Errno> {
    let ctx_id = device.context()?;
    let request = Request::ResourceCreate3d(ResourceCreate3d {
        shape: create.shape,
        size: create.size,
        stride: create.stride,
        ctx_id,
    });
    let (handle, object) = device.create(ctx_id, &[request], create.size.into(), 0)?;
    create.bo_handle = handle;
    create.res_handle = object.resource_id;
    Ok(())
}

fn resource_info(device: &Device, info: &mut ResourceInfo) -> Result<(), Errno> {
    let object = device.object(info.bo_handle)?;
    info.res_handle = object.resource_id;
    info.size = u32::try_from(object.size).unwrap_or(u32::MAX);
    info.blob_mem = object.blob_mem;
    Ok(())
}

fn transfer_3d(
    device: &Device,
    transfer: &mut Transfer,
    request: fn(Transfer3d) -> Request<'static>,
) -> Result<(), Errno> {
    let ctx_id = device.context()?;
    let object = device.object(transfer.bo_handle)?;
    let request = request(Transfer3d {
        region: transfer.region,
        offset: transfer.offset.into(),
        level: transfer.level,
        stride: transfer.stride,
        layer_stride: transfer.layer_stride,
        ctx_id,
        resource_id: object.resource_id,
        padding: 0,
    });
    let done: Fence = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
    device.connection.send(&[request], &[done.as_fd()])?;
    device.connection.remember_fence(&done);
    object.attach(&done);
    Ok(())
}

fn virtgpu_wait(device: &Device, wait: &mut Wait) -> Result<(), Errno> {
    device
        .object(wait.handle)?
        .wait(wait.flags & WAIT_NOWAIT == 0)?;
    if device.connection.is_dead() {
        return Err(Errno::NODEV);
    }
    Ok(())
}

/// # Safety
/// There is room for the stated size at the address.
unsafe fn get_caps(device: &Device, caps: &mut GetCaps) -> Result<(), Errno> {
    trace(|| {
        format!(
            "get caps: capset {} version {} size {}",
            caps.capset_id, caps.capset_version, caps.size
        )
    });
    let request = Request::GetCapset(GetCapset {
        capset_id: caps.capset_id,
        capset_version: caps.capset_version,
    });
    let bytes = device
        .connection
        .call(&[request], &[], |response, _| match response {
            Response::Capset(bytes) => Some(bytes.to_vec()),
            _ => None,
        })?;
    if caps.address == 0 {
        return Err(Errno::FAULT);
    }
    let len = bytes.len().min(caps.size as usize);
    // SAFETY: the caller vouches for the room.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), caps.address as *mut u8, len) };
    Ok(())
}

/// # Safety
/// The command is there, with its length.
unsafe fn create_blob(device: &Device, create: &mut CreateBlob) -> Result<(), Errno> {
    trace(|| {
        let CreateBlob {
            blob_mem,
            blob_flags,
            size,
            cmd_size,
            blob_id,
            ..
        } = *create;
        format!(
            "create blob: mem {blob_mem} flags {blob_flags:x} size {size} id {blob_id} command of {cmd_size}"
        )
    });
    if create.size == 0 {
        return Err(Errno::INVAL);
    }
    let ctx_id = device.context()?;
    // SAFETY: the caller vouches for it.
    let command = unsafe { array(create.cmd, create.cmd_size as usize) }?;
    let submit = Request::Submit3d {
        flags: 0,
        ctx_id,
        ring_idx: 0,
        in_fences: Vec::new(),
        command,
    };
    let blob = Request::ResourceCreateBlob(ResourceCreateBlob {
        ctx_id,
        blob_mem: create.blob_mem,
        blob_flags: create.blob_flags,
        padding: 0,
        blob_id: create.blob_id,
        size: create.size,
    });
    let requests = [submit, blob];
    let requests = if command.is_empty() {
        &requests[1..]
    } else {
        &requests[..]
    };
    let (handle, object) = device.create(ctx_id, requests, create.size, create.blob_mem)?;
    create.bo_handle = handle;
    create.res_handle = object.resource_id;
    Ok(())
}

/// # Safety
/// The parameters are there, and a name among them is a C string.
unsafe fn context_init(device: &Device, init: &mut ContextInit) -> Result<(), Errno> {
    // SAFETY: the caller vouches for them.
    let params: &[[u64; 2]] = unsafe { array(init.params, init.num_params as usize) }?;
    trace(|| format!("context init: {params:x?}"));
    let mut capset = CAPSET_GFXSTREAM_VULKAN;
    let mut name = device::program_name();
    for [param, value] in params {
        match *param {
            CONTEXT_CAPSET_ID => capset = u32::try_from(*value).map_err(|_| Errno::INVAL)?,
            // Timelines are made when they are used, and nobody polls for them.
            CONTEXT_NUM_RINGS | CONTEXT_POLL_RINGS_MASK => {}
            CONTEXT_DEBUG_NAME if *value != 0 => {
                // SAFETY: the caller vouches for the name.
                name = unsafe { CStr::from_ptr(*value as *const c_char) }.to_bytes();
            }
            _ => return Err(Errno::INVAL),
        }
    }
    device.create_context(capset, name)
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::sync::mpsc::{Receiver, channel};
    use std::thread;

    use asgard_asg::Mapping;
    use asgard_asg::kumquat::{CapsetInfo, CmdSubmit3d, Packet, ResourceCreate as Created, Socket};
    use asgard_asg::layout;
    use asgard_asg::ring::Memory;

    use bytemuck::Zeroable;

    use super::*;
    use crate::connection::Connection;

    fn ioctl<T: Pod>(device: &Device, nr: u32, argument: &mut T) -> Result<(), Errno> {
        // SAFETY: the argument is the request's structure, and the tests fill in valid addresses.
        unsafe { dispatch(device, request::<T>(nr), (&raw mut *argument).cast()) }
    }

    /// A server that agrees to everything: fences do not signal, and it tells what it hears.
    fn device() -> (Device, OwnedFd, Receiver<String>, Arc<Socket>) {
        let (client, server) = Socket::pair().unwrap();
        let server = Arc::new(server);
        let (sender, heard) = channel();
        let socket = Arc::clone(&server);
        thread::spawn(move || {
            let mut packet = Packet::default();
            let mut resource_id = 100;
            while socket.recv(&mut packet).unwrap_or(false) {
                for request in packet.requests() {
                    let request = request.unwrap();
                    let _ = sender.send(format!("{request:?}"));
                    let mut fds: Vec<OwnedFd> = Vec::new();
                    let response = match request {
                        Request::GetNumCapsets => Response::NumCapsets { count: 2 },
                        Request::GetCapsetInfo { index } => Response::CapsetInfo(CapsetInfo {
                            capset_id: [3, 8][index as usize],
                            ..CapsetInfo::zeroed()
                        }),
                        Request::GetCapset(GetCapset { capset_id: 3, .. }) => {
                            Response::Capset(&[1, 2, 3, 4, 5, 6, 7, 8])
                        }
                        Request::GetCapset(_) => Response::NoData { errno: 22 },
                        Request::CtxCreate(_) => Response::ContextCreate { ctx_id: 7 },
                        Request::ResourceCreateBlob(_) | Request::ResourceCreate3d(_) => {
                            resource_id += 1;
                            let size = layout::blob_size(4096);
                            let (memory, fd) = Mapping::create(size).unwrap();
                            memory.store(layout::MAGIC_WORD, layout::MAGIC);
                            fds.push(fd);
                            Response::ResourceCreate(Created {
                                resource_id,
                                ..Created::zeroed()
                            })
                        }
                        Request::Submit3d { flags, .. } if flags & FENCE != 0 => {
                            fds.push(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
                            Response::CmdSubmit3d(CmdSubmit3d::zeroed())
                        }
                        _ => continue,
                    };
                    let mut bytes = Vec::new();
                    response.write(&mut bytes);
                    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
                    let _ = socket.send(&bytes, &fds);
                }
            }
        });
        let (device, near) = Device::open(Connection::new(client).unwrap()).unwrap();
        (device, near, heard, server)
    }

    fn blob(device: &Device, blob_id: u64) -> CreateBlob {
        let mut create = CreateBlob::zeroed();
        (create.blob_mem, create.blob_flags) = (2, 1);
        (create.size, create.blob_id) = (layout::blob_size(4096) as u64, blob_id);
        ioctl(device, number::RESOURCE_CREATE_BLOB, &mut create).unwrap();
        create
    }

    #[test]
    fn the_device_says_what_it_is() {
        let (device, ..) = device();
        let mut name = [0_u8; 10];
        let mut version = Version::zeroed();
        version.strings[0] = [10, name.as_mut_ptr() as usize];
        ioctl(&device, number::VERSION, &mut version).unwrap();
        assert_eq!((version.major, version.strings[0][0]), (0, 10));
        assert_eq!(&name, b"virtio_gpu");
        let get = |param| {
            let mut value = -1_i32;
            let mut argument = GetParam {
                param,
                value: (&raw mut value) as u64,
            };
            ioctl(&device, number::GETPARAM, &mut argument).map(|()| value)
        };
        assert_eq!(get(3), Ok(1));
        assert_eq!(get(7), Ok(1 << 3 | 1 << 8));
        assert_eq!(get(9), Err(Errno::INVAL));
    }

    #[test]
    fn capsets_are_cut_to_the_callers_room() {
        let (device, ..) = device();
        let mut bytes = [0_u8; 6];
        let mut caps = GetCaps::zeroed();
        (caps.capset_id, caps.address, caps.size) = (3, bytes.as_mut_ptr() as u64, 4);
        ioctl(&device, number::GET_CAPS, &mut caps).unwrap();
        assert_eq!(bytes, [1, 2, 3, 4, 0, 0]);
        caps.capset_id = 4;
        assert_eq!(
            ioctl(&device, number::GET_CAPS, &mut caps),
            Err(Errno::INVAL)
        );
    }

    #[test]
    fn a_context_is_created_once_and_named() {
        let (device, _near, heard, _server) = device();
        let params = [[CONTEXT_NUM_RINGS, 2], [CONTEXT_CAPSET_ID, 3]];
        let mut init = ContextInit {
            num_params: 2,
            pad: 0,
            params: params.as_ptr() as u64,
        };
        ioctl(&device, number::CONTEXT_INIT, &mut init).unwrap();
        assert_eq!(
            ioctl(&device, number::CONTEXT_INIT, &mut init),
            Err(Errno::EXIST)
        );
        let created = heard
            .iter()
            .find(|request| request.starts_with("CtxCreate"))
            .unwrap();
        assert!(created.contains("context_init: 3"), "{created}");
    }

    #[test]
    fn blobs_have_handles_offsets_and_descriptors() {
        let (device, _near, heard, _server) = device();
        let (first, second) = (blob(&device, 1), blob(&device, 2));
        assert_eq!((first.bo_handle, second.bo_handle), (1, 2));
        assert_eq!((first.res_handle, second.res_handle), (101, 102));
        let mut map = Map {
            handle: 2,
            ..Map::zeroed()
        };
        ioctl(&device, number::MAP, &mut map).unwrap();
        assert_eq!(device::mapped_handle(map.offset as i64), Some((2, 0)));
        let mut info = ResourceInfo {
            bo_handle: 2,
            ..ResourceInfo::zeroed()
        };
        ioctl(&device, number::RESOURCE_INFO, &mut info).unwrap();
        assert_eq!((info.res_handle, info.blob_mem), (102, 2));
        let mut prime = Prime {
            handle: 1,
            flags: libc::O_CLOEXEC as u32,
            fd: -1,
        };
        ioctl(&device, number::PRIME_HANDLE_TO_FD, &mut prime).unwrap();
        prime.handle = 0;
        ioctl(&device, number::PRIME_FD_TO_HANDLE, &mut prime).unwrap();
        assert_eq!(prime.handle, 1);

        let mut close = GemClose { handle: 1, pad: 0 };
        ioctl(&device, number::GEM_CLOSE, &mut close).unwrap();
        assert_eq!(
            ioctl(&device, number::GEM_CLOSE, &mut close),
            Err(Errno::INVAL)
        );
        map.handle = 1;
        assert_eq!(ioctl(&device, number::MAP, &mut map), Err(Errno::NOENT));
        assert_eq!(blob(&device, 3).bo_handle, 1, "the lowest that is free");
        let detach = "CtxDetach(CtxResource { ctx_id: 7, resource_id: 101 })";
        assert!(heard.iter().any(|request| request == detach));
    }

    fn exec(device: &Device, exec: &mut ExecBuffer, command: &Command) -> Result<(), Errno> {
        let mut bytes = Vec::new();
        command.write(&mut bytes);
        (exec.command, exec.size) = (bytes.as_ptr() as u64, bytes.len() as u32);
        ioctl(device, number::EXECBUFFER, exec)
    }

    #[test]
    fn fences_reach_the_caller_and_the_buffers() {
        let (device, _near, heard, _server) = device();
        let handles = [blob(&device, 0).bo_handle];
        let mut execbuffer = ExecBuffer::zeroed();
        execbuffer.flags = EXEC_FENCE_FD_OUT | EXEC_RING_IDX;
        execbuffer.ring_idx = 1;
        (execbuffer.bo_handles, execbuffer.num_bo_handles) = (handles.as_ptr() as u64, 1);
        exec(&device, &mut execbuffer, &Command::PlaceholderVk).unwrap();
        assert!(
            heard.iter().any(|request| {
                request.starts_with("Submit3d { flags: 3, ctx_id: 7, ring_idx: 1")
            })
        );
        let mut wait = Wait {
            handle: 1,
            flags: WAIT_NOWAIT,
        };
        assert_eq!(ioctl(&device, number::WAIT, &mut wait), Err(Errno::BUSY));
        assert!(execbuffer.fence_fd >= 0);
        // SAFETY: the request has made this descriptor for its caller.
        let fence = unsafe { BorrowedFd::borrow_raw(execbuffer.fence_fd) };
        rustix::io::write(fence, &1_u64.to_ne_bytes()).unwrap();
        wait.flags = 0;
        ioctl(&device, number::WAIT, &mut wait).unwrap();
    }

    #[test]
    fn pings_go_through_memory_where_the_host_understands_them() {
        let (device, _near, heard, _server) = device();
        let ring = blob(&device, 0);
        let resource_id = ring.res_handle;
        let handles = [ring.bo_handle];
        let mut start = ExecBuffer::zeroed();
        (start.bo_handles, start.num_bo_handles) = (handles.as_ptr() as u64, 1);
        exec(&device, &mut start, &Command::ContextCreate { resource_id }).unwrap();
        let ping = Command::ContextPing { resource_id };
        exec(&device, &mut ExecBuffer::zeroed(), &ping).unwrap();
        // Another kind, which the server hears.
        exec(&device, &mut ExecBuffer::zeroed(), &Command::PlaceholderVk).unwrap();

        let object = device.object(1).unwrap();
        let memory = Mapping::map_trusted(&object.memory, 0, layout::BUFFER).unwrap();
        assert_eq!(memory.load(layout::DOORBELL), 1);
        let submitted: Vec<_> = heard
            .iter()
            .filter(|request| request.starts_with("Submit3d"))
            .take(2)
            .collect();
        assert!(submitted[0].contains("command: [1, 16,"), "{submitted:?}");
        assert!(submitted[1].contains("command: [2, 240,"), "{submitted:?}");
    }

    #[test]
    fn a_server_that_dies_ends_waits_with_enodev() {
        let (device, _near, _heard, server) = device();
        let handles = [blob(&device, 0).bo_handle];
        let mut execbuffer = ExecBuffer::zeroed();
        (execbuffer.bo_handles, execbuffer.num_bo_handles) = (handles.as_ptr() as u64, 1);
        exec(&device, &mut execbuffer, &Command::PlaceholderVk).unwrap();
        thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let mut wait = Wait {
                    handle: 1,
                    flags: 0,
                };
                ioctl(&device, number::WAIT, &mut wait)
            });
            server.shutdown().unwrap();
            assert_eq!(waiter.join().unwrap(), Err(Errno::NODEV));
        });
        let mut map = Map {
            handle: 1,
            ..Map::zeroed()
        };
        assert_eq!(ioctl(&device, number::MAP, &mut map), Err(Errno::NODEV));
    }

    #[test]
    fn the_device_closes_with_its_last_descriptor() {
        let (device, near, heard, _server) = device();
        blob(&device, 1);
        let copy = near.try_clone().unwrap();
        drop(near);
        assert!(device.is_open());
        assert!(device.is_behind(&rustix::fs::fstat(&copy).unwrap()));
        drop(copy);
        // Another test's child may hold a copy for a moment.
        while device.is_open() {
            thread::yield_now();
        }
        device.close();
        assert!(
            heard
                .iter()
                .any(|request| request == "CtxDestroy { ctx_id: 7 }")
        );
    }

    #[test]
    fn transfers_are_fences_too() {
        let (device, _near, heard, _server) = device();
        let mut create = ResourceCreate::zeroed();
        (create.shape.target, create.shape.width, create.size) = (2, 64, 4096);
        ioctl(&device, number::RESOURCE_CREATE, &mut create).unwrap();
        let mut transfer = Transfer {
            bo_handle: create.bo_handle,
            ..Transfer::zeroed()
        };
        ioctl(&device, number::TRANSFER_TO_HOST, &mut transfer).unwrap();
        assert!(
            heard
                .iter()
                .any(|request| request.starts_with("TransferToHost"))
        );
        let mut wait = Wait {
            handle: create.bo_handle,
            flags: WAIT_NOWAIT,
        };
        assert_eq!(ioctl(&device, number::WAIT, &mut wait), Err(Errno::BUSY));
    }

    #[test]
    fn nonsense_is_refused() {
        let (device, ..) = device();
        // SAFETY: neither request gets to look at its argument.
        unsafe {
            let null = std::ptr::null_mut();
            assert_eq!(
                dispatch(&device, request::<Map>(number::MAP), null),
                Err(Errno::FAULT)
            );
            assert_eq!(dispatch(&device, 0x5401, null), Err(Errno::NOTTY));
        }
        assert_eq!(ioctl(&device, 0x7f, &mut [0_u32; 4]), Err(Errno::INVAL));
        let mut map = Map {
            handle: 0,
            ..Map::zeroed()
        };
        assert_eq!(ioctl(&device, number::MAP, &mut map), Err(Errno::NOENT));
        let mut execbuffer = ExecBuffer {
            flags: 8,
            ..ExecBuffer::zeroed()
        };
        let result = exec(&device, &mut execbuffer, &Command::PlaceholderVk);
        assert_eq!(result, Err(Errno::INVAL));
    }
}
