//! The status page: memory of the host's in which it shows how far queues have come.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use asgard_protocol::commands as p;
use asgard_protocol::extension::{SLOTS, STATUS_PAGE};
use asgard_protocol::types::VK_SUCCESS;
use memmap2::MmapRaw;

use crate::driver::{Driver, Guest as _};
use crate::process::Process;
use crate::stream;
use crate::virtgpu::Blob;

/// This process' page.
#[derive(Debug)]
pub(crate) struct StatusPage {
    // Dropped in this order.
    map: MmapRaw,
    _blob: Blob,
    /// Slots that are given away.
    used: AtomicUsize,
}

impl StatusPage {
    /// Has the host make it, and maps it.
    pub(crate) fn open(process: &Process) -> Option<Self> {
        let id = process.next_blob();
        stream::with(|s| s.note(STATUS_PAGE, &[id])).ok()?;
        // The device is told by another way: what makes the page must have arrived before.
        let mut version = 0;
        let ret = Driver.call(&mut p::vkEnumerateInstanceVersion {
            pApiVersion: &raw mut version,
        });
        if ret != VK_SUCCESS {
            return None;
        }
        let mut blob = process.device.create_blob(id, SLOTS * 8, false).ok()?;
        let map = blob.map().ok()?;
        blob.close_file();
        Some(Self {
            map,
            _blob: blob,
            used: AtomicUsize::new(0),
        })
    }

    /// A slot that is nobody's. None is given back: what it shows would be another queue's.
    pub(crate) fn slot(&self) -> Option<usize> {
        let slots = usize::try_from(SLOTS).ok()?;
        let used = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                (used < slots).then_some(used + 1)
            });
        used.ok()
    }

    /// What the host shows in a slot that was given away.
    #[inline]
    pub(crate) fn read(&self, slot: usize) -> u64 {
        debug_assert!(slot < SLOTS as usize);
        // SAFETY: slots that are given away lie in the page, which is never unmapped; the host writes there
        // at any time, which is what atomics are for.
        let word = unsafe { AtomicU64::from_ptr(self.map.as_mut_ptr().cast::<u64>().add(slot)) };
        word.load(Ordering::Acquire)
    }
}
