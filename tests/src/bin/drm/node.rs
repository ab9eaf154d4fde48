//! A device node of the kernel's, and the requests that it takes.

use std::fs::File;
use std::io::Error;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::null_mut;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use asgard_asg::submit::Command;
use bytemuck::Pod;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::uapi::{self, number};

pub(crate) const GUEST: u32 = 1;
pub(crate) const HOST3D: u32 = 2;
pub(crate) const HOST3D_GUEST: u32 = 3;
pub(crate) const MAPPABLE: u32 = 1;
pub(crate) const SHAREABLE: u32 = 2;
pub(crate) const CROSS_DEVICE: u32 = 4;
pub(crate) const PAGE: usize = 4096;

/// The kind of context that gfxstream's guests make.
pub(crate) const CAPSET: u64 = 3;

/// A node of the kernel's, with what this process made there.
pub(crate) struct Node(File);

/// Memory by the kernel's handle; given back when it goes.
#[derive(Debug)]
pub(crate) struct Blob<'a> {
    node: &'a File,
    pub(crate) handle: u32,
    pub(crate) resource: u32,
    pub(crate) size: usize,
}

/// Mapped memory.
#[derive(Debug)]
pub(crate) struct Mapped {
    address: *mut libc::c_void,
    size: usize,
}

/// A pointer's value, as requests carry it.
pub(crate) fn address_of<T>(of: &[T]) -> u64 {
    of.as_ptr().expose_provenance() as u64
}

impl Node {
    /// The node that renders.
    pub(crate) fn open() -> Result<Self> {
        Self::open_at("/dev/dri/renderD128")
    }

    pub(crate) fn open_at(path: &str) -> Result<Self> {
        let file = File::options().read(true).write(true).open(path);
        Ok(Self(file.with_context(|| path.to_owned())?))
    }

    /// The node that renders, with a context.
    pub(crate) fn with_context() -> Result<Self> {
        let node = Self::open()?;
        node.context(&[(uapi::CONTEXT_CAPSET_ID, CAPSET)])?;
        Ok(node)
    }

    /// Makes one of the driver's requests.
    pub(crate) fn ask<T: Pod>(&self, number: u32, argument: &mut T) -> Result<()> {
        request(&self.0, uapi::request::<T>(number), argument)
            .with_context(|| format!("request {number:#x}"))
    }

    pub(crate) fn parameter(&self, param: u64) -> Result<u32> {
        let value = [0_u32];
        let value_at = address_of(&value);
        self.ask(
            number::GETPARAM,
            &mut uapi::GetParam {
                param,
                value: value_at,
            },
        )?;
        // SAFETY: an initialized word of this function's, which the kernel may have written to.
        Ok(unsafe { value.as_ptr().read_volatile() })
    }

    /// Makes the context; its parameters are pairs of a number and a value.
    pub(crate) fn context(&self, parameters: &[(u64, u64)]) -> Result<()> {
        let words: Vec<u64> = parameters.iter().flat_map(|(a, b)| [*a, *b]).collect();
        self.ask(
            number::CONTEXT_INIT,
            &mut uapi::ContextInit {
                num_params: parameters.len() as u32,
                pad: 0,
                params: address_of(&words),
            },
        )
    }

    pub(crate) fn blob(&self, memory: u32, flags: u32, size: usize) -> Result<Blob<'_>> {
        let mut create: uapi::CreateBlob = bytemuck::Zeroable::zeroed();
        create.blob_mem = memory;
        create.blob_flags = flags;
        create.size = size as u64;
        self.ask(number::RESOURCE_CREATE_BLOB, &mut create)?;
        Ok(self.keep(create.bo_handle, create.res_handle, size))
    }

    /// A picture of the guest's and the host's.
    pub(crate) fn picture(&self, shape: asgard_asg::Shape, size: usize) -> Result<Blob<'_>> {
        let mut create: uapi::ResourceCreate = bytemuck::Zeroable::zeroed();
        create.shape = shape;
        create.size = size as u32;
        self.ask(number::RESOURCE_CREATE, &mut create)?;
        Ok(self.keep(create.bo_handle, create.res_handle, size))
    }

    pub(crate) fn keep(&self, handle: u32, resource: u32, size: usize) -> Blob<'_> {
        Blob {
            node: &self.0,
            handle,
            resource,
            size,
        }
    }

    pub(crate) fn map(&self, blob: &Blob<'_>) -> Result<Mapped> {
        let mut map = uapi::Map {
            offset: 0,
            handle: blob.handle,
            pad: 0,
        };
        self.ask(number::MAP, &mut map)?;
        self.map_at(map.offset, blob.size)
    }

    pub(crate) fn map_at(&self, offset: u64, size: usize) -> Result<Mapped> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let (file, offset) = (self.0.as_raw_fd(), offset as libc::off_t);
        // SAFETY: a new mapping, of a file that the kernel keeps as long.
        let address =
            unsafe { libc::mmap(null_mut(), size, access, libc::MAP_SHARED, file, offset) };
        let error = Error::last_os_error();
        ensure!(address != libc::MAP_FAILED, "mmap: {error}");
        Ok(Mapped { address, size })
    }

    /// Waits until the host is done with what was asked of it for this memory.
    pub(crate) fn wait(&self, blob: &Blob<'_>) -> Result<()> {
        self.ask(
            number::WAIT,
            &mut uapi::Wait {
                handle: blob.handle,
                flags: 0,
            },
        )
    }

    pub(crate) fn export(&self, blob: &Blob<'_>) -> Result<OwnedFd> {
        let mut prime = uapi::Prime {
            handle: blob.handle,
            flags: libc::O_RDWR as u32,
            fd: -1,
        };
        self.ask(number::PRIME_HANDLE_TO_FD, &mut prime)?;
        // SAFETY: the kernel made it for us.
        Ok(unsafe { OwnedFd::from_raw_fd(prime.fd) })
    }

    pub(crate) fn import(&self, file: &OwnedFd, size: usize) -> Result<Blob<'_>> {
        let mut prime = uapi::Prime {
            handle: 0,
            flags: 0,
            fd: file.as_raw_fd(),
        };
        self.ask(number::PRIME_FD_TO_HANDLE, &mut prime)?;
        Ok(self.keep(prime.handle, 0, size))
    }

    /// Submits a small command, on a ring of the context or on none; the file is readable when its fence signals.
    pub(crate) fn submit(&self, ring: Option<u32>, command: Command) -> Result<OwnedFd> {
        let mut bytes = Vec::new();
        command.write(&mut bytes);
        let mut submit: uapi::ExecBuffer = bytemuck::Zeroable::zeroed();
        submit.flags = uapi::EXEC_FENCE_FD_OUT;
        if let Some(ring) = ring {
            submit.flags |= uapi::EXEC_RING_IDX;
            submit.ring_idx = ring;
        }
        submit.size = bytes.len() as u32;
        submit.command = address_of(&bytes);
        self.ask(number::EXECBUFFER, &mut submit)?;
        // SAFETY: the kernel made it for us.
        Ok(unsafe { OwnedFd::from_raw_fd(submit.fence_fd) })
    }
}

impl AsFd for Node {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn request<T: Pod>(file: &File, request: u32, argument: &mut T) -> Result<()> {
    // SAFETY: the number in the request is the argument's size, and addresses in it lead to memory that lives as long as
    // the call, or to none.
    let done = unsafe {
        libc::ioctl(
            file.as_raw_fd(),
            request as libc::Ioctl,
            std::ptr::from_mut(argument),
        )
    };
    ensure!(done >= 0, Error::last_os_error());
    Ok(())
}

/// Whether a file is readable within a time.
pub(crate) fn readable(file: impl AsFd, within: Duration) -> Result<bool> {
    let timeout = Timespec::try_from(within)?;
    let mut fds = [PollFd::from_borrowed_fd(file.as_fd(), PollFlags::IN)];
    Ok(poll(&mut fds, Some(&timeout))? == 1)
}

impl Drop for Blob<'_> {
    fn drop(&mut self) {
        let mut close = uapi::GemClose {
            handle: self.handle,
            pad: 0,
        };
        // It writes nothing, so that its direction differs from the others'.
        let close_request = 1 << 30 | 8 << 16 | uapi::DRM << 8 | number::GEM_CLOSE;
        let _ = request(self.node, close_request, &mut close);
    }
}

impl Mapped {
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: mapped with this size; whoever else writes there does so when we do not look.
        unsafe { std::slice::from_raw_parts_mut(self.address.cast(), self.size) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: mapped with this size, and nobody has a reference any more.
        unsafe { libc::munmap(self.address, self.size) };
    }
}
