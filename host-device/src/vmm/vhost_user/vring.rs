//! One virtqueue: where it lies, who is told of what is in it.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use virtio_queue::{Queue, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryMmap};

/// Entries that a queue may have.
pub(super) const MAX_SIZE: u16 = 1024;

/// Bytes of one command; more is cut off, and the command then lacks what its struct announces.
const MAX_COMMAND: usize = 64 << 20;

/// What the driver put into the queue.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) head: u16,
    pub(super) bytes: Vec<u8>,
    /// Where the response goes.
    pub(super) room: Vec<(GuestAddress, u32)>,
}

#[derive(Debug)]
pub(super) struct Vring {
    pub(super) queue: Queue,
    kick: Option<File>,
    call: Option<File>,
    pub(super) enabled: bool,
    /// Something was put into the used ring, and the driver not told yet.
    untold: bool,
}

impl Vring {
    pub(super) fn new() -> Result<Self, virtio_queue::Error> {
        Ok(Self {
            queue: Queue::new(MAX_SIZE)?,
            kick: None,
            call: None,
            enabled: false,
            untold: false,
        })
    }

    pub(super) fn set_kick(&mut self, kick: Option<File>) {
        self.kick = kick;
    }

    pub(super) fn set_call(&mut self, call: Option<File>) {
        self.call = call;
    }

    pub(super) fn kick(&self) -> Option<BorrowedFd<'_>> {
        self.kick.as_ref().map(AsFd::as_fd)
    }

    /// Takes the driver's kick; there may be none.
    pub(super) fn take_kick(&self) {
        if let Some(kick) = &self.kick {
            let mut count = [0; 8];
            let _ = rustix::io::read(kick, &mut count);
        }
    }

    pub(super) fn is_live(&self) -> bool {
        self.enabled && self.queue.ready()
    }

    /// The next command.
    pub(super) fn pop(&mut self, memory: &GuestMemoryMmap) -> Option<Chain> {
        if !self.is_live() {
            return None;
        }
        let chain = self.queue.pop_descriptor_chain(memory)?;
        let head = chain.head_index();
        let (mut bytes, mut room) = (Vec::new(), Vec::new());
        for descriptor in chain {
            if descriptor.is_write_only() {
                room.push((descriptor.addr(), descriptor.len()));
                continue;
            }
            let start = bytes.len();
            let len = (descriptor.len() as usize).min(MAX_COMMAND - start);
            bytes.resize(start + len, 0);
            let place = bytes.get_mut(start..).unwrap_or_default();
            if let Err(error) = memory.read_slice(place, descriptor.addr()) {
                tracing::debug!("a command lies outside of the guest's memory: {error}");
                bytes.truncate(start);
                break;
            }
        }
        Some(Chain { head, bytes, room })
    }

    /// Gives a command back with as much of the response as it has room for.
    pub(super) fn push(&mut self, memory: &GuestMemoryMmap, chain: &Chain, response: &[u8]) {
        let mut rest = response;
        for (address, room) in &chain.room {
            let (piece, behind) = rest.split_at(rest.len().min(*room as usize));
            if let Err(error) = memory.write_slice(piece, *address) {
                tracing::debug!(
                    "there is no guest memory at {:#x}: {error}",
                    address.raw_value()
                );
                break;
            }
            rest = behind;
        }
        let written = u32::try_from(response.len() - rest.len()).unwrap_or(0);
        match self.queue.add_used(memory, chain.head, written) {
            Ok(()) => self.untold = true,
            Err(error) => tracing::debug!("cannot give a command back: {error}"),
        }
    }

    /// Tells the driver of what was given back since the last time.
    pub(super) fn tell(&mut self, memory: &GuestMemoryMmap) {
        if !std::mem::take(&mut self.untold) {
            return;
        }
        if self.queue.needs_notification(memory).unwrap_or(true)
            && let Some(call) = &self.call
        {
            // Full means that it is due anyway.
            let _ = rustix::io::write(call, &1_u64.to_ne_bytes());
        }
    }

    /// The driver need not kick while the queue is looked at anyway; true when there is more in it.
    pub(super) fn set_notification(&mut self, memory: &GuestMemoryMmap, wanted: bool) -> bool {
        let more = if wanted {
            self.queue.enable_notification(memory)
        } else {
            self.queue.disable_notification(memory).map(|()| false)
        };
        more.unwrap_or_else(|error| {
            tracing::debug!("a virtqueue cannot be used: {error}");
            false
        })
    }
}
