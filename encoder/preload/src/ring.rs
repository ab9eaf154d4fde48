//! The rings, whose memory this library maps a second time: to ring the host's doorbell without a
//! message, to let waiting threads sleep, and to end their waits when the host is gone.

use std::cell::RefCell;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use asgard_asg::doorbell::{self, YieldWaiter};
use asgard_asg::layout::{BUFFER, IN_ERROR, MAGIC, MAGIC_WORD, PROGRESS};
use asgard_asg::ring::Memory;
use asgard_asg::{Mapping, Result};

/// The headers of one ring.
#[derive(Debug)]
pub(crate) struct Ring(Arc<Mapping>);

impl Ring {
    /// Maps the headers of a ring that the server has sent.
    pub(crate) fn map(fd: BorrowedFd<'_>) -> Result<Self> {
        Ok(Ring(Arc::new(Mapping::map_trusted(fd, 0, BUFFER)?)))
    }

    /// Wakes the host if it can be woken through memory. Otherwise a message has to.
    pub(crate) fn ping(&self) -> bool {
        let ours = self.0.load(MAGIC_WORD) == MAGIC;
        if ours {
            doorbell::ring(&*self.0);
        }
        ours
    }

    /// Ends all waiting on the ring: the host will not come back.
    pub(crate) fn fail(&self) {
        if let Ok(word) = self.0.atomic_u32(IN_ERROR) {
            word.store(1, Ordering::SeqCst);
        }
        self.0.add(PROGRESS, 1);
        self.0.wake(PROGRESS);
    }

    /// Makes this the ring that the calling thread waits on in [`on_yield`].
    pub(crate) fn adopt(&self) {
        let waiter = YieldWaiter::new(Arc::clone(&self.0));
        let _ = WAITER.try_with(|slot| {
            if let Ok(mut slot) = slot.try_borrow_mut() {
                *slot = Some(waiter);
            }
        });
    }
}

thread_local! {
    static WAITER: RefCell<Option<YieldWaiter>> = const { RefCell::new(None) };
}

/// Waits a little for the host of the calling thread's ring; `false` if the thread has none.
pub(crate) fn on_yield() -> bool {
    WAITER
        .try_with(|slot| {
            let mut slot = slot.try_borrow_mut().ok()?;
            slot.as_mut().map(YieldWaiter::on_yield)
        })
        .ok()
        .flatten()
        .is_some()
}

/// The calling thread has closed a ring: it waits on none until it adopts another.
pub(crate) fn abandon() {
    let _ = WAITER.try_with(|slot| {
        if let Ok(mut slot) = slot.try_borrow_mut() {
            *slot = None;
        }
    });
}
