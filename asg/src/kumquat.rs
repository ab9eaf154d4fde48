//! The messages of Kumquat: virtio-gpu over a Unix socket, for guests without a virtual machine.
//!
//! A packet of a `SOCK_SEQPACKET` socket holds one or more messages, at most [`MAX_PACKET`] bytes together.
//! Each message starts with a [`Header`]; where its body is a single number, that number is the header's `payload`.
//! File descriptors (memory, fences) ride with the packet, in the order of the messages that own them.
//! Mapping is the client's own business: it maps the descriptor that came with a resource.
//!
//! Requests with a reply: the three capset queries, context creation, both resource creations, and a submission
//! whose flags hold [`FENCE`]. All others have none. A request with a reply that the server cannot satisfy is
//! answered by [`Response::NoData`] whose code is a Linux errno (an extension: the original ends the connection,
//! and its clients treat the unexpected message as a failure).
//!
//! Integers are in host byte order, which is little endian wherever this runs. Both ends parse with bounds checks
//! and trust nothing; the start is [`Socket`], then [`Packet::requests`] or [`Packet::responses`].

use std::io;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use bytemuck::{Pod, Zeroable};
use rustix::cmsg_space;
use rustix::net::{
    self, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::Shape;

/// The most bytes in one packet.
pub const MAX_PACKET: usize = 4096;
/// The most file descriptors in one packet.
pub const MAX_FDS: usize = 28;

/// Message type of [`Request::ResourceUnref`].
pub const RESOURCE_UNREF: u32 = 0x100;
/// Message type of [`Request::GetNumCapsets`].
pub const GET_NUM_CAPSETS: u32 = 0x101;
/// Message type of [`Request::GetCapsetInfo`].
pub const GET_CAPSET_INFO: u32 = 0x102;
/// Message type of [`Request::GetCapset`].
pub const GET_CAPSET: u32 = 0x103;
/// Message type of [`Request::ResourceCreateBlob`].
pub const RESOURCE_CREATE_BLOB: u32 = 0x104;
/// Message type of [`Request::CtxCreate`].
pub const CTX_CREATE: u32 = 0x200;
/// Message type of [`Request::CtxDestroy`].
pub const CTX_DESTROY: u32 = 0x201;
/// Message type of [`Request::CtxAttach`].
pub const CTX_ATTACH_RESOURCE: u32 = 0x202;
/// Message type of [`Request::CtxDetach`].
pub const CTX_DETACH_RESOURCE: u32 = 0x203;
/// Message type of [`Request::ResourceCreate3d`].
pub const RESOURCE_CREATE_3D: u32 = 0x204;
/// Message type of [`Request::TransferToHost`].
pub const TRANSFER_TO_HOST_3D: u32 = 0x205;
/// Message type of [`Request::TransferFromHost`].
pub const TRANSFER_FROM_HOST_3D: u32 = 0x206;
/// Message type of [`Request::Submit3d`].
pub const SUBMIT_3D: u32 = 0x207;
/// Message type of [`Request::ResourceImport`]. It is Asgard's own, and only for servers whose capability
/// set has [`crate::capset::feature::SHARED_MEMORY`].
pub const RESOURCE_IMPORT: u32 = 0x00a5_0001;

/// Message type of [`Response::NoData`].
pub const RESP_NODATA: u32 = 0x3001;
/// Message type of [`Response::NumCapsets`].
pub const RESP_NUM_CAPSETS: u32 = 0x3002;
/// Message type of [`Response::CapsetInfo`].
pub const RESP_CAPSET_INFO: u32 = 0x3003;
/// Message type of [`Response::Capset`].
pub const RESP_CAPSET: u32 = 0x3004;
/// Message type of [`Response::ContextCreate`].
pub const RESP_CONTEXT_CREATE: u32 = 0x3005;
/// Message type of [`Response::ResourceCreate`].
pub const RESP_RESOURCE_CREATE: u32 = 0x3006;
/// Message type of [`Response::CmdSubmit3d`].
pub const RESP_CMD_SUBMIT_3D: u32 = 0x3007;

/// Submission flag: the client wants a fence, and the reply that carries it.
pub const FENCE: u32 = 1;
/// Submission flag: the fence lives on the timeline of `ring_idx` instead of the global one.
pub const RING_IDX: u32 = 2;
/// Submission flag: the fence should be shareable with the host (a sync file where there are any).
pub const HOST_SHAREABLE: u32 = 4;

/// Memory handle type: an opaque file descriptor.
pub const MEM_OPAQUE_FD: u32 = 1;
/// Memory handle type: a dma-buf.
pub const MEM_DMABUF: u32 = 2;
/// Memory handle type: shared memory (memfd).
pub const MEM_SHM: u32 = 4;
/// Signal handle type: an opaque file descriptor.
pub const SIGNAL_OPAQUE_FD: u32 = 0x10;
/// Signal handle type: a sync file.
pub const SIGNAL_SYNC_FD: u32 = 0x20;
/// Signal handle type: an eventfd that becomes readable.
pub const SIGNAL_EVENT_FD: u32 = 0x50;

/// Blob memory that belongs to the guest.
pub const BLOB_MEM_GUEST: u32 = 1;
/// Blob memory that belongs to the host's renderer.
pub const BLOB_MEM_HOST3D: u32 = 2;
/// Blob flag: the guest will map it.
pub const BLOB_FLAG_MAPPABLE: u32 = 1;
/// Blob flag: the guest will share it between processes.
pub const BLOB_FLAG_SHAREABLE: u32 = 2;
/// Blob flag: the guest will share it with other devices.
pub const BLOB_FLAG_CROSS_DEVICE: u32 = 4;

/// What is wrong with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The packet ends inside a message.
    #[error("message 0x{kind:x} needs {needed} bytes, the packet has {left} left")]
    Short {
        /// The message type, 0 when even the header is cut.
        kind: u32,
        /// How many bytes the message needs.
        needed: usize,
        /// How many are left.
        left: usize,
    },
    /// No message has this type in this direction.
    #[error("unknown message type 0x{0:x}")]
    Unknown(u32),
}

/// The first 8 bytes of each message.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Header {
    /// The message type.
    pub kind: u32,
    /// The whole body of the small messages, 0 in the others (a byte count in [`Response::Capset`]).
    pub payload: u32,
}

/// Body of [`Request::GetCapset`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct GetCapset {
    /// Which capset, 3 for gfxstream-vulkan.
    pub capset_id: u32,
    /// Which version of it.
    pub capset_version: u32,
}

/// Body of [`Request::ResourceCreateBlob`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct ResourceCreateBlob {
    /// The context that creates it.
    pub ctx_id: u32,
    /// [`BLOB_MEM_HOST3D`] or another kind of memory.
    pub blob_mem: u32,
    /// [`BLOB_FLAG_MAPPABLE`] and its siblings.
    pub blob_flags: u32,
    /// Zero.
    pub padding: u32,
    /// 0 for a new ring, otherwise what the renderer published under this number.
    pub blob_id: u64,
    /// Bytes.
    pub size: u64,
}

/// Body of [`Request::CtxCreate`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct CtxCreate {
    /// How many bytes of `debug_name` count.
    pub nlen: u32,
    /// The capset id in the low byte.
    pub context_init: u32,
    /// A name for people, usually that of the program.
    pub debug_name: [u8; 64],
}

impl CtxCreate {
    /// A context of one capset, with a name for people that is cut to 64 bytes.
    pub fn new(capset_id: u32, name: &[u8]) -> Self {
        let mut debug_name = [0; 64];
        let len = name.len().min(debug_name.len());
        debug_name[..len].copy_from_slice(&name[..len]);
        CtxCreate {
            nlen: len as u32,
            context_init: capset_id,
            debug_name,
        }
    }

    /// The name, whatever the peer put into `nlen`.
    pub fn name(&self) -> &[u8] {
        let len = self.debug_name.len().min(self.nlen as usize);
        &self.debug_name[..len]
    }
}

/// Body of [`Request::CtxAttach`] and [`Request::CtxDetach`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct CtxResource {
    /// The context.
    pub ctx_id: u32,
    /// The resource.
    pub resource_id: u32,
}

/// Body of [`Request::ResourceCreate3d`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[allow(
    missing_docs,
    reason = "the fields are those of virtio-gpu's own command"
)]
pub struct ResourceCreate3d {
    pub shape: Shape,
    pub size: u32,
    pub stride: u32,
    pub ctx_id: u32,
}

/// Body of [`Request::TransferToHost`] and [`Request::TransferFromHost`].
///
/// An eventfd rides with it, which the server signals when the copy is done.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[allow(
    missing_docs,
    reason = "the fields are those of virtio-gpu's own command"
)]
pub struct Transfer3d {
    /// x, y, z, width, height, depth.
    pub region: [u32; 6],
    pub offset: u64,
    pub level: u32,
    pub stride: u32,
    pub layer_stride: u32,
    pub ctx_id: u32,
    pub resource_id: u32,
    pub padding: u32,
}

/// Head of [`Request::Submit3d`]; `num_in_fences` fence ids and `size` command bytes follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Submit3d {
    /// The context.
    pub ctx_id: u32,
    /// Zero.
    pub padding: u32,
    /// Bytes of the command.
    pub size: u32,
    /// How many fence ids stand before the command.
    pub num_in_fences: u32,
    /// [`FENCE`], [`RING_IDX`], [`HOST_SHAREABLE`].
    pub flags: u32,
    /// The timeline, when [`RING_IDX`] is set.
    pub ring_idx: u8,
    /// Zero.
    pub padding2: [u8; 3],
}

/// Body of [`Response::CapsetInfo`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct CapsetInfo {
    /// The capset id.
    pub capset_id: u32,
    /// Its highest version.
    pub version: u32,
    /// Its size in bytes.
    pub size: u32,
    /// Zero.
    pub padding: u32,
}

/// Where a resource's memory lives in Vulkan's terms; all zero for shared memory.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct VulkanInfo {
    /// The memory type index.
    pub memory_idx: u32,
    /// `VkPhysicalDeviceIDProperties::deviceUUID`.
    pub device_uuid: [u8; 16],
    /// `VkPhysicalDeviceIDProperties::driverUUID`.
    pub driver_uuid: [u8; 16],
}

/// Body of [`Response::ResourceCreate`]; one descriptor rides with it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct ResourceCreate {
    /// The id that the server chose.
    pub resource_id: u32,
    /// [`MEM_SHM`], [`MEM_DMABUF`] or [`MEM_OPAQUE_FD`].
    pub handle_type: u32,
    /// Where it lives.
    pub vulkan_info: VulkanInfo,
}

/// Body of [`Response::CmdSubmit3d`]; one descriptor rides with it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct CmdSubmit3d {
    /// The fence's number, for the `in_fences` of later submissions.
    pub fence_id: u64,
    /// [`SIGNAL_EVENT_FD`] or [`SIGNAL_SYNC_FD`].
    pub handle_type: u32,
    /// Zero.
    pub padding: u32,
}

/// What a client says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Request<'a> {
    /// Forget a resource, whichever contexts hold it. No reply.
    ResourceUnref {
        /// The resource.
        resource_id: u32,
    },
    /// Reply: [`Response::NumCapsets`].
    GetNumCapsets,
    /// Reply: [`Response::CapsetInfo`].
    GetCapsetInfo {
        /// Which, from 0.
        index: u32,
    },
    /// Reply: [`Response::Capset`].
    GetCapset(GetCapset),
    /// Reply: [`Response::ResourceCreate`] and a descriptor.
    ResourceCreateBlob(ResourceCreateBlob),
    /// Reply: [`Response::ContextCreate`].
    CtxCreate(CtxCreate),
    /// No reply.
    CtxDestroy {
        /// The context.
        ctx_id: u32,
    },
    /// No reply.
    CtxAttach(CtxResource),
    /// No reply. When no context is left, the resource goes.
    CtxDetach(CtxResource),
    /// Reply: [`Response::ResourceCreate`] and a descriptor.
    ResourceCreate3d(ResourceCreate3d),
    /// Memory from elsewhere, whose descriptor rides with it and must be sealed against shrinking.
    /// Reply: [`Response::ResourceCreate`] and the same memory's descriptor.
    ResourceImport {
        /// The context that it is for.
        ctx_id: u32,
    },
    /// No reply, but the eventfd that rides with it is signalled.
    TransferToHost(Transfer3d),
    /// No reply, but the eventfd that rides with it is signalled.
    TransferFromHost(Transfer3d),
    /// Reply: [`Response::CmdSubmit3d`] and a descriptor if `flags` holds [`FENCE`], otherwise none.
    Submit3d {
        /// [`FENCE`], [`RING_IDX`], [`HOST_SHAREABLE`].
        flags: u32,
        /// The context.
        ctx_id: u32,
        /// The timeline, when [`RING_IDX`] is set.
        ring_idx: u8,
        /// Fences that come first.
        in_fences: Vec<u64>,
        /// The command, to be read by [`crate::submit`].
        command: &'a [u8],
    },
}

/// What a server says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Response<'a> {
    /// The request failed; a Linux errno.
    NoData {
        /// The errno.
        errno: u32,
    },
    /// How many capsets there are.
    NumCapsets {
        /// The number.
        count: u32,
    },
    /// One of them.
    CapsetInfo(CapsetInfo),
    /// The capset's bytes.
    Capset(&'a [u8]),
    /// The id that the server chose for a context.
    ContextCreate {
        /// The id.
        ctx_id: u32,
    },
    /// A new resource; its memory rides with it.
    ResourceCreate(ResourceCreate),
    /// A submission's fence rides with it.
    CmdSubmit3d(CmdSubmit3d),
}

/// Takes Pod values and byte runs off the front of a message.
struct Body<'a> {
    kind: u32,
    rest: &'a [u8],
}

impl<'a> Body<'a> {
    fn bytes(&mut self, len: usize) -> Result<&'a [u8], Error> {
        let (head, tail) = self.rest.split_at_checked(len).ok_or(Error::Short {
            kind: self.kind,
            needed: len,
            left: self.rest.len(),
        })?;
        self.rest = tail;
        Ok(head)
    }

    fn pod<T: Pod>(&mut self) -> Result<T, Error> {
        Ok(bytemuck::pod_read_unaligned(self.bytes(size_of::<T>())?))
    }
}

fn put(out: &mut Vec<u8>, kind: u32, payload: u32) {
    out.extend_from_slice(bytemuck::bytes_of(&Header { kind, payload }));
}

fn put_pod<T: Pod>(out: &mut Vec<u8>, kind: u32, body: &T) {
    put(out, kind, 0);
    out.extend_from_slice(bytemuck::bytes_of(body));
}

impl<'a> Request<'a> {
    /// Reads the message at the front of `bytes` and returns it with the bytes behind it.
    pub fn parse(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), Error> {
        let mut body = Body {
            kind: 0,
            rest: bytes,
        };
        let Header { kind, payload } = body.pod()?;
        body.kind = kind;
        let request = match kind {
            RESOURCE_UNREF => Request::ResourceUnref {
                resource_id: payload,
            },
            GET_NUM_CAPSETS => Request::GetNumCapsets,
            GET_CAPSET_INFO => Request::GetCapsetInfo { index: payload },
            GET_CAPSET => Request::GetCapset(body.pod()?),
            RESOURCE_CREATE_BLOB => Request::ResourceCreateBlob(body.pod()?),
            CTX_CREATE => Request::CtxCreate(body.pod()?),
            CTX_DESTROY => Request::CtxDestroy { ctx_id: payload },
            CTX_ATTACH_RESOURCE => Request::CtxAttach(body.pod()?),
            CTX_DETACH_RESOURCE => Request::CtxDetach(body.pod()?),
            RESOURCE_CREATE_3D => Request::ResourceCreate3d(body.pod()?),
            RESOURCE_IMPORT => Request::ResourceImport { ctx_id: payload },
            TRANSFER_TO_HOST_3D => Request::TransferToHost(body.pod()?),
            TRANSFER_FROM_HOST_3D => Request::TransferFromHost(body.pod()?),
            SUBMIT_3D => {
                let head: Submit3d = body.pod()?;
                let fences = body.bytes((head.num_in_fences as usize).saturating_mul(8))?;
                Request::Submit3d {
                    flags: head.flags,
                    ctx_id: head.ctx_id,
                    ring_idx: head.ring_idx,
                    in_fences: fences
                        .chunks_exact(8)
                        .map(bytemuck::pod_read_unaligned)
                        .collect(),
                    command: body.bytes(head.size as usize)?,
                }
            }
            other => return Err(Error::Unknown(other)),
        };
        Ok((request, body.rest))
    }

    /// Appends the message to a packet.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Request::ResourceUnref { resource_id } => put(out, RESOURCE_UNREF, *resource_id),
            Request::GetNumCapsets => put(out, GET_NUM_CAPSETS, 0),
            Request::GetCapsetInfo { index } => put(out, GET_CAPSET_INFO, *index),
            Request::GetCapset(body) => put_pod(out, GET_CAPSET, body),
            Request::ResourceCreateBlob(body) => put_pod(out, RESOURCE_CREATE_BLOB, body),
            Request::CtxCreate(body) => put_pod(out, CTX_CREATE, body),
            Request::CtxDestroy { ctx_id } => put(out, CTX_DESTROY, *ctx_id),
            Request::CtxAttach(body) => put_pod(out, CTX_ATTACH_RESOURCE, body),
            Request::CtxDetach(body) => put_pod(out, CTX_DETACH_RESOURCE, body),
            Request::ResourceCreate3d(body) => put_pod(out, RESOURCE_CREATE_3D, body),
            Request::ResourceImport { ctx_id } => put(out, RESOURCE_IMPORT, *ctx_id),
            Request::TransferToHost(body) => put_pod(out, TRANSFER_TO_HOST_3D, body),
            Request::TransferFromHost(body) => put_pod(out, TRANSFER_FROM_HOST_3D, body),
            Request::Submit3d {
                flags,
                ctx_id,
                ring_idx,
                in_fences,
                command,
            } => {
                let head = Submit3d {
                    ctx_id: *ctx_id,
                    size: command.len() as u32,
                    num_in_fences: in_fences.len() as u32,
                    flags: *flags,
                    ring_idx: *ring_idx,
                    ..Submit3d::zeroed()
                };
                put_pod(out, SUBMIT_3D, &head);
                out.extend_from_slice(bytemuck::cast_slice(in_fences));
                out.extend_from_slice(command);
            }
        }
    }

    /// Whether the server answers this request.
    pub fn has_reply(&self) -> bool {
        match self {
            Request::GetNumCapsets
            | Request::GetCapsetInfo { .. }
            | Request::GetCapset(_)
            | Request::ResourceCreateBlob(_)
            | Request::CtxCreate(_)
            | Request::ResourceCreate3d(_)
            | Request::ResourceImport { .. } => true,
            Request::Submit3d { flags, .. } => flags & FENCE != 0,
            Request::ResourceUnref { .. }
            | Request::CtxDestroy { .. }
            | Request::CtxAttach(_)
            | Request::CtxDetach(_)
            | Request::TransferToHost(_)
            | Request::TransferFromHost(_) => false,
        }
    }
}

impl<'a> Response<'a> {
    /// Reads the message at the front of `bytes` and returns it with the bytes behind it.
    pub fn parse(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), Error> {
        let mut body = Body {
            kind: 0,
            rest: bytes,
        };
        let Header { kind, payload } = body.pod()?;
        body.kind = kind;
        let response = match kind {
            RESP_NODATA => Response::NoData { errno: payload },
            RESP_NUM_CAPSETS => Response::NumCapsets { count: payload },
            RESP_CAPSET_INFO => Response::CapsetInfo(body.pod()?),
            RESP_CAPSET => Response::Capset(body.bytes(payload as usize)?),
            RESP_CONTEXT_CREATE => Response::ContextCreate { ctx_id: payload },
            RESP_RESOURCE_CREATE => Response::ResourceCreate(body.pod()?),
            RESP_CMD_SUBMIT_3D => Response::CmdSubmit3d(body.pod()?),
            other => return Err(Error::Unknown(other)),
        };
        Ok((response, body.rest))
    }

    /// Appends the message to a packet.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Response::NoData { errno } => put(out, RESP_NODATA, *errno),
            Response::NumCapsets { count } => put(out, RESP_NUM_CAPSETS, *count),
            Response::CapsetInfo(body) => put_pod(out, RESP_CAPSET_INFO, body),
            Response::Capset(bytes) => {
                put(out, RESP_CAPSET, bytes.len() as u32);
                out.extend_from_slice(bytes);
            }
            Response::ContextCreate { ctx_id } => put(out, RESP_CONTEXT_CREATE, *ctx_id),
            Response::ResourceCreate(body) => put_pod(out, RESP_RESOURCE_CREATE, body),
            Response::CmdSubmit3d(body) => put_pod(out, RESP_CMD_SUBMIT_3D, body),
        }
    }
}

/// One packet: bytes, and the descriptors that came with them.
#[derive(Debug, Default)]
pub struct Packet {
    /// One or more messages.
    pub bytes: Vec<u8>,
    /// Their descriptors, in the order of the messages.
    pub fds: Vec<OwnedFd>,
}

impl Packet {
    /// The client's messages, up to and including the first that is broken.
    pub fn requests(&self) -> impl Iterator<Item = Result<Request<'_>, Error>> {
        messages(&self.bytes, Request::parse)
    }

    /// The server's messages, up to and including the first that is broken.
    pub fn responses(&self) -> impl Iterator<Item = Result<Response<'_>, Error>> {
        messages(&self.bytes, Response::parse)
    }
}

fn messages<'a, T>(
    mut rest: &'a [u8],
    parse: impl Fn(&'a [u8]) -> Result<(T, &'a [u8]), Error>,
) -> impl Iterator<Item = Result<T, Error>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        match parse(rest) {
            Ok((message, behind)) => {
                rest = behind;
                Some(Ok(message))
            }
            Err(error) => {
                rest = &[];
                Some(Err(error))
            }
        }
    })
}

/// A connected `SOCK_SEQPACKET` socket, closed on exec.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl Socket {
    /// Connects to a server's path.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let fd = seqpacket()?;
        loop {
            match net::connect(&fd, &SocketAddrUnix::new(path)?) {
                Ok(()) => return Ok(Socket(fd)),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Two sockets that are connected to each other.
    pub fn pair() -> io::Result<(Self, Self)> {
        let flags = SocketFlags::CLOEXEC;
        let (a, b) = net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Socket(a), Socket(b)))
    }

    /// Sends one packet. Fails with `InvalidInput` when it is larger than [`MAX_PACKET`] or carries more than
    /// [`MAX_FDS`] descriptors, and with `BrokenPipe` (never a signal) when the peer is gone.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        if bytes.is_empty() || bytes.len() > MAX_PACKET || fds.len() > MAX_FDS {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let io = [IoSlice::new(bytes)];
        rustix::io::retry_on_intr(|| {
            net::sendmsg(&self.0, &io, &mut control, SendFlags::NOSIGNAL)
        })?;
        Ok(())
    }

    /// Waits for one packet and stores it in `packet`, whose old content goes. `false`: the peer is gone.
    ///
    /// A packet that is cut, because it is larger than [`MAX_PACKET`] or has too many descriptors, is `InvalidData`.
    pub fn recv(&self, packet: &mut Packet) -> io::Result<bool> {
        packet.fds.clear();
        packet.bytes.resize(MAX_PACKET, 0);
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::io::retry_on_intr(|| {
            let io = &mut [IoSliceMut::new(&mut packet.bytes)];
            net::recvmsg(&self.0, io, &mut control, RecvFlags::CMSG_CLOEXEC)
        });
        let received = match received {
            Ok(received) => received,
            Err(rustix::io::Errno::CONNRESET) => {
                packet.bytes.clear();
                return Ok(false);
            }
            Err(error) => {
                packet.bytes.clear();
                return Err(error.into());
            }
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                packet.fds.extend(fds);
            }
        }
        packet.bytes.truncate(received.bytes);
        if received
            .flags
            .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
        {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(received.bytes != 0)
    }

    /// Ends the connection for both ends, also for threads that wait in [`Socket::recv`].
    pub fn shutdown(&self) -> io::Result<()> {
        Ok(net::shutdown(&self.0, net::Shutdown::Both)?)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Socket {
    /// Takes over a connected socket, for example one inherited from a parent.
    fn from(fd: OwnedFd) -> Self {
        Socket(fd)
    }
}

/// A server's listening socket, closed on exec.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// Listens at a path, which must not exist.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let fd = seqpacket()?;
        net::bind(&fd, &SocketAddrUnix::new(path)?)?;
        net::listen(&fd, 16)?;
        Ok(Listener(fd))
    }

    /// Waits for the next client.
    pub fn accept(&self) -> io::Result<Socket> {
        let accept = || net::accept_with(&self.0, SocketFlags::CLOEXEC);
        Ok(Socket(rustix::io::retry_on_intr(accept)?))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn seqpacket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    Ok(net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_requests() -> Vec<Request<'static>> {
        let resource = CtxResource {
            ctx_id: 1,
            resource_id: 7,
        };
        vec![
            Request::ResourceUnref { resource_id: 7 },
            Request::GetNumCapsets,
            Request::GetCapsetInfo { index: 2 },
            Request::GetCapset(GetCapset {
                capset_id: 3,
                capset_version: 0,
            }),
            Request::ResourceCreateBlob(ResourceCreateBlob {
                ctx_id: 1,
                blob_mem: BLOB_MEM_HOST3D,
                blob_flags: BLOB_FLAG_MAPPABLE,
                padding: 0,
                blob_id: 9,
                size: 1 << 33,
            }),
            Request::CtxCreate(CtxCreate::new(3, b"vulkaninfo")),
            Request::CtxDestroy { ctx_id: 1 },
            Request::CtxAttach(resource),
            Request::CtxDetach(resource),
            Request::ResourceCreate3d(ResourceCreate3d {
                shape: Shape {
                    target: 2,
                    ..Default::default()
                },
                ctx_id: 1,
                ..Default::default()
            }),
            Request::ResourceImport { ctx_id: 3 },
            Request::TransferToHost(Transfer3d {
                offset: 4096,
                ..Default::default()
            }),
            Request::TransferFromHost(Transfer3d {
                resource_id: 7,
                ..Default::default()
            }),
            Request::Submit3d {
                flags: FENCE | RING_IDX,
                ctx_id: 1,
                ring_idx: 1,
                in_fences: vec![5, 6],
                command: &[1, 16, 0, 0, 7, 0, 0, 0],
            },
        ]
    }

    #[test]
    fn sizes_are_those_of_the_protocol() {
        // With the 8 bytes of the header in front.
        assert_eq!(size_of::<Header>(), 8);
        assert_eq!(size_of::<ResourceCreateBlob>(), 40 - 8);
        assert_eq!(size_of::<CtxCreate>(), 80 - 8);
        assert_eq!(size_of::<ResourceCreate3d>(), 60 - 8);
        assert_eq!(size_of::<Transfer3d>(), 64 - 8);
        assert_eq!(size_of::<Submit3d>(), 32 - 8);
        assert_eq!(size_of::<ResourceCreate>(), 52 - 8);
        assert_eq!(size_of::<CmdSubmit3d>(), 24 - 8);
    }

    #[test]
    fn several_requests_share_a_packet() {
        let requests = all_requests();
        let mut packet = Packet::default();
        for request in &requests {
            request.write(&mut packet.bytes);
        }
        let parsed: Vec<_> = packet.requests().map(Result::unwrap).collect();
        assert_eq!(parsed, requests);
    }

    #[test]
    fn every_cut_request_is_an_error() {
        for request in all_requests() {
            let mut bytes = Vec::new();
            request.write(&mut bytes);
            for len in 0..bytes.len() {
                assert!(
                    Request::parse(&bytes[..len]).is_err(),
                    "{request:?} cut to {len}"
                );
            }
        }
    }

    #[test]
    fn responses_round_trip() {
        let responses = [
            Response::NoData { errno: 22 },
            Response::NumCapsets { count: 1 },
            Response::CapsetInfo(CapsetInfo {
                capset_id: 3,
                version: 0,
                size: 112,
                padding: 0,
            }),
            Response::Capset(&[1, 2, 3]),
            Response::ContextCreate { ctx_id: 4 },
            Response::ResourceCreate(ResourceCreate {
                resource_id: 5,
                ..Default::default()
            }),
            Response::CmdSubmit3d(CmdSubmit3d {
                fence_id: 6,
                ..Default::default()
            }),
        ];
        let mut packet = Packet::default();
        for response in &responses {
            response.write(&mut packet.bytes);
        }
        let parsed: Vec<_> = packet.responses().map(Result::unwrap).collect();
        assert_eq!(parsed, responses);
    }

    #[test]
    fn hostile_lengths_are_refused() {
        let mut bytes = Vec::new();
        let head = Submit3d {
            size: u32::MAX,
            num_in_fences: u32::MAX,
            ..Default::default()
        };
        put_pod(&mut bytes, SUBMIT_3D, &head);
        assert!(matches!(Request::parse(&bytes), Err(Error::Short { .. })));
        let name = CtxCreate {
            nlen: u32::MAX,
            ..CtxCreate::new(3, b"x")
        };
        assert_eq!(name.name().len(), 64);
    }

    #[test]
    fn unknown_types_end_the_packet() {
        let mut packet = Packet::default();
        put(&mut packet.bytes, 0x999, 0);
        put(&mut packet.bytes, GET_NUM_CAPSETS, 0);
        let parsed: Vec<_> = packet.requests().collect();
        assert_eq!(parsed, [Err(Error::Unknown(0x999))]);
    }

    #[test]
    fn descriptors_ride_with_the_packet() {
        let (a, b) = Socket::pair().unwrap();
        let (c, _d) = Socket::pair().unwrap();
        let mut bytes = Vec::new();
        Request::GetNumCapsets.write(&mut bytes);
        a.send(&bytes, &[c.as_fd(), c.as_fd()]).unwrap();
        let mut packet = Packet::default();
        assert!(b.recv(&mut packet).unwrap());
        assert_eq!(packet.fds.len(), 2);
        assert_eq!(packet.requests().count(), 1);
        drop(a);
        assert!(!b.recv(&mut packet).unwrap());
        assert!(packet.fds.is_empty());
    }

    #[test]
    fn sending_to_a_dead_peer_is_an_error_not_a_signal() {
        let (a, b) = Socket::pair().unwrap();
        drop(b);
        let error = a.send(&[0; 8], &[]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
