//! The rings, whose memory this library maps a second time: to ring the host's doorbell without a
//! message, to let waiting threads sleep, and to end their waits when the host is gone.

use std::cell::RefCell;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use asgard_asg::Mapping;
use asgard_asg::doorbell::{self, YieldWaiter};
use asgard_asg::layout::{BUFFER, IN_ERROR, MAGIC, MAGIC_WORD, PROGRESS};
use asgard_asg::ring::Memory;

use crate::last_words::{self, LastWords};
use crate::report::{self, Once};

/// One ring.
#[derive(Debug)]
pub(crate) struct Ring {
    memory: Arc<Mapping>,
    failed: AtomicBool,
}

impl Ring {
    /// Maps a ring that the server has sent, of so many bytes.
    pub(crate) fn map(fd: BorrowedFd<'_>, size: u64) -> Option<Self> {
        let size = usize::try_from(size).ok().filter(|size| *size > BUFFER)?;
        let memory = Arc::new(Mapping::map_trusted(fd, 0, size).ok()?);
        let failed = AtomicBool::new(false);
        Some(Ring { memory, failed })
    }

    /// Wakes the host if it can be woken through memory. Otherwise a message has to.
    ///
    /// The driver pings at least once after it has published, unless the host shows that it will look
    /// again; so a host that shows to be awake needs no wake-up here either.
    pub(crate) fn ping(&self) -> bool {
        if self.is_lost() {
            last_words::discard(&*self.memory);
            return true;
        }
        let ours = self.memory.load(MAGIC_WORD) == MAGIC;
        if ours {
            doorbell::ring_if_asleep(&*self.memory);
        }
        ours
    }

    /// The host is gone: wakes the thread that waits for it.
    pub(crate) fn fail(&self) {
        self.failed.store(true, Ordering::SeqCst);
        last_words::discard(&*self.memory);
        self.memory.add(PROGRESS, 1);
        self.memory.wake(PROGRESS);
    }

    /// Whether the host will not answer any more: it is gone, or has given up on this ring.
    fn is_lost(&self) -> bool {
        static GIVEN_UP: Once = Once::new();
        if self.memory.load(IN_ERROR) != 0 {
            GIVEN_UP.tell(|| {
                "the server has given up on this program's commands, so its Vulkan device is lost; \
                 see what the server says"
                    .into()
            });
            // With the mark, the driver would throw away what it hears from now on.
            self.memory.store(IN_ERROR, 0);
            self.failed.store(true, Ordering::SeqCst);
        }
        self.failed.load(Ordering::Relaxed)
    }

    /// Makes this the ring that the calling thread waits on in [`on_yield`].
    pub(crate) fn adopt(self: &Arc<Self>) {
        let waiter = Waiter {
            ring: Arc::clone(self),
            alive: YieldWaiter::new(Arc::clone(&self.memory)),
            dead: LastWords::default(),
        };
        let _ = WAITER.try_with(|slot| {
            if let Ok(mut slot) = slot.try_borrow_mut() {
                *slot = Some(waiter);
            }
        });
    }
}

/// The ring of the calling thread, and how it waits there.
#[derive(Debug)]
struct Waiter {
    ring: Arc<Ring>,
    alive: YieldWaiter,
    dead: LastWords,
}

thread_local! {
    static WAITER: RefCell<Option<Waiter>> = const { RefCell::new(None) };
}

/// Waits a little for the host of the calling thread's ring; `false` if the thread has none.
pub(crate) fn on_yield() -> bool {
    WAITER
        .try_with(|slot| {
            let mut slot = slot.try_borrow_mut().ok()?;
            let waiter = slot.as_mut()?;
            if !waiter.ring.is_lost() {
                waiter.alive.on_yield();
            } else if !waiter.dead.on_yield(&*waiter.ring.memory) {
                report::end("the server is gone, and the driver waits for an answer without which it cannot go on");
            }
            Some(())
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
