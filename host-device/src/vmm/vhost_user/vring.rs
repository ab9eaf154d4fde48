//! One virtqueue: where it lies, who is told of what is in it.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;

use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemory as _, GuestMemoryMmap, Permissions};

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
    /// The driver has broken the rules of the queue: nothing is taken from it until the device is reset.
    broken: bool,
    /// Commands that were taken and not given back.
    taken: u16,
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
            broken: false,
            taken: 0,
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
        self.enabled && !self.broken && self.queue.ready()
    }

    /// The descriptors, and the rings of what is available and used; `None` if they cannot lie there.
    pub(super) fn place(
        &mut self,
        memory: &GuestMemoryMmap,
        [descriptors, available, used]: [Option<GuestAddress>; 3],
    ) -> Option<()> {
        let queue = &mut self.queue;
        queue.try_set_desc_table_address(descriptors?).ok()?;
        queue.try_set_avail_ring_address(available?).ok()?;
        queue.try_set_used_ring_address(used?).ok()?;
        // Where the used ring stands is the driver's to know.
        let used = queue.used_idx(memory, Ordering::Acquire).ok()?;
        queue.set_next_used(used.0);
        Some(())
    }

    /// The driver has broken the rules: the queue stands still until it is stopped.
    pub(super) fn break_off(&mut self, why: &str) {
        tracing::warn!("a virtqueue stands still until the guest resets the device: {why}");
        self.broken = true;
    }

    /// The device is stopped, and whatever was taken will not be given back.
    pub(super) fn stop(&mut self) {
        self.queue.set_ready(false);
        (self.broken, self.taken) = (false, 0);
        (self.kick, self.call) = (None, None);
    }

    /// The next command.
    pub(super) fn pop(&mut self, memory: &GuestMemoryMmap) -> Option<Chain> {
        if !self.is_live() {
            return None;
        }
        let chain = self.queue.pop_descriptor_chain(memory)?;
        // Without end, a driver could have the device keep one command many times over.
        if self.taken >= self.queue.size() {
            self.break_off("it has more commands than entries");
            return None;
        }
        self.taken += 1;
        let head = chain.head_index();
        let (mut bytes, mut room) = (Vec::new(), Vec::new());
        let mut cut = false;
        for descriptor in chain {
            if descriptor.is_write_only() {
                room.push((descriptor.addr(), descriptor.len()));
            } else if !cut && !take(memory, &descriptor, &mut bytes) {
                tracing::debug!("a command lies outside of the guest's memory");
                cut = true;
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
        self.taken = self.taken.saturating_sub(1);
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

/// Copies what a descriptor leads to; false if it is not all there.
fn take(memory: &GuestMemoryMmap, descriptor: &Descriptor, bytes: &mut Vec<u8>) -> bool {
    let (start, address) = (bytes.len(), descriptor.addr());
    let len = (descriptor.len() as usize).min(MAX_COMMAND - start);
    // Looked at first, so that no room is made for what is not there.
    if !memory.check_range(address, len, Permissions::Read) {
        return false;
    }
    bytes.resize(start + len, 0);
    let place = bytes.get_mut(start..).unwrap_or_default();
    let read = memory.read_slice(place, address).is_ok();
    if !read {
        bytes.truncate(start);
    }
    read
}
