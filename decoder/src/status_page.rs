//! The status page: memory in which a guest reads how far its queues have come.
//!
//! The host writes to it and never reads it: what a guest writes there deceives that guest alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use asgard_protocol::extension::SLOTS;

use crate::context::Queue;
use crate::renderer::SharedMemory;

/// A guest's page.
#[derive(Debug)]
pub(crate) struct StatusPage(SharedMemory);

/// A slot that the page has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(usize);

impl Slot {
    /// The slot of that number, if there is one.
    pub(crate) fn new(number: u64) -> Option<Self> {
        let number = (number < SLOTS).then_some(number)?;
        Some(Self(usize::try_from(number).ok()?))
    }
}

impl StatusPage {
    /// A page of zeros.
    pub(crate) fn new() -> Result<Self, std::io::Error> {
        SharedMemory::new(SLOTS * 8).map(Self)
    }

    /// Its memory.
    pub(crate) fn memory(&self) -> &SharedMemory {
        &self.0
    }

    fn set(&self, slot: Slot, value: u64) {
        // SAFETY: a slot lies in the page, and a page is aligned for words. The guest may write it too,
        // which is what atomics are for; the mapping lives as long as this value.
        let word = unsafe {
            let first = self.0.map.as_mut_ptr().cast::<u64>();
            AtomicU64::from_ptr(first.add(slot.0))
        };
        word.store(value, Ordering::Release);
    }
}

/// That a queue has come as far as that.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) page: Arc<StatusPage>,
    pub(crate) slot: Slot,
    pub(crate) queue: Arc<Queue>,
    /// So many of its submissions are complete.
    pub(crate) number: u64,
}

impl Progress {
    /// Shows it, unless the queue has come further.
    pub(crate) fn show(&self) {
        let before = self
            .queue
            .completed
            .fetch_max(self.number, Ordering::AcqRel);
        self.page.set(self.slot, before.max(self.number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use asgard_protocol::types::VkQueue;

    #[test]
    fn a_queue_comes_no_less_far() {
        let page = Arc::new(StatusPage::new().unwrap());
        let queue = Arc::new(Queue::new(VkQueue(1)));
        let slot = Slot::new(SLOTS - 1).unwrap();
        let show = |number| {
            let progress = Progress {
                page: Arc::clone(&page),
                slot,
                queue: Arc::clone(&queue),
                number,
            };
            progress.show();
            let mut word = [0; 8];
            let read = rustix::io::pread(&page.memory().fd, &mut word, (SLOTS - 1) * 8);
            assert_eq!(read, Ok(8));
            u64::from_le_bytes(word)
        };
        assert_eq!(show(5), 5);
        assert_eq!(show(3), 5);
        assert_eq!(show(7), 7);
    }

    #[test]
    fn there_are_no_slots_beyond_the_page() {
        assert_eq!(Slot::new(SLOTS), None);
        assert_eq!(Slot::new(u64::MAX), None);
        let page = StatusPage::new().unwrap();
        assert_eq!(page.memory().size, SLOTS * 8);
    }
}
