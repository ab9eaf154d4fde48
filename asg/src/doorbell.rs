//! Waking each other through a shared word, for ends that run under one kernel.
//!
//! [`Doorbell`] wakes the host's consumer. [`YieldWaiter`] puts a guest driver to sleep that only
//! knows how to yield in a loop. The other direction, in which the host tells its progress, is here
//! too, so that each protocol has both its halves on one page.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::layout::{
    DOORBELL, GUEST_CORE, GUEST_WAITING, MAGIC, MAGIC_WORD, PROGRESS, SLEEPING, STATE, state,
};
use crate::mapping::Mapping;
use crate::ring::{Crowd, Memory, Patience};

/// Makes the host's consumer of one ring look at it, from any thread, or stop.
#[derive(Debug)]
pub struct Doorbell<M = Mapping> {
    mem: Arc<M>,
    stop: Arc<AtomicBool>,
}

impl<M> Clone for Doorbell<M> {
    fn clone(&self) -> Self {
        Self {
            mem: Arc::clone(&self.mem),
            stop: Arc::clone(&self.stop),
        }
    }
}

impl<M: Memory> Doorbell<M> {
    pub(crate) fn new(mem: Arc<M>) -> Self {
        Self {
            mem,
            stop: Arc::default(),
        }
    }

    /// Makes the consumer look again.
    pub fn ring(&self) {
        ring(&*self.mem);
    }

    /// Makes the consumer give up for good: all that wait, and all that would wait later.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.ring();
    }

    /// Whether somebody has called [`Self::stop`].
    #[inline]
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

/// Rings the doorbell of the host that serves this ring, which must run under the same kernel.
///
/// The host reads the word, says that it sleeps, looks at the rings, and sleeps only while the word
/// is unchanged; so it either sees what was published before this call, or the changed word.
pub fn ring(mem: &impl Memory) {
    mem.add(DOORBELL, 1);
    mem.wake(DOORBELL);
}

/// As [`ring`], but without a system call when the host shows that it is awake.
///
/// The host looks at the rings after it has shown that it sleeps. So who publishes before this call
/// can trust a state that says otherwise.
pub fn ring_if_asleep(mem: &impl Memory) {
    mem.add(DOORBELL, 1);
    if mem.load(STATE) == state::NEED_NOTIFY {
        mem.wake(DOORBELL);
    }
}

/// Whether the host of this ring tells its progress.
pub(crate) fn tells_progress(mem: &impl Memory) -> bool {
    mem.load(MAGIC_WORD) == MAGIC
}

/// The host's half: what it has published before can be waited for. The partner of
/// [`sleep_unless_progress`].
///
/// The guest says that it sleeps and then looks at the count, the host counts and then looks
/// whether the guest sleeps. One of both sees the other.
#[inline]
pub(crate) fn tell_progress(mem: &impl Memory) {
    mem.add(PROGRESS, 1);
    if mem.load(GUEST_WAITING) == SLEEPING {
        mem.wake(PROGRESS);
    }
}

/// The guest's half: sleeps until the host's count is not `seen` any more. The caller has looked at
/// what it waits for after it had read `seen`.
pub(crate) fn sleep_unless_progress(mem: &impl Memory, seen: u32, limit: Duration) {
    mem.publish(GUEST_WAITING, SLEEPING);
    if mem.load(PROGRESS) == seen {
        mem.wait(PROGRESS, seen, Patience::Safety(limit));
    }
    mem.store(GUEST_WAITING, 0);
}

/// Lets a guest driver sleep that waits for its host in loops of `sched_yield`: call
/// [`Self::on_yield`] in place of the yield.
///
/// It yields for real a few times, because most answers come within microseconds. Each call reads
/// the host's count of progress, after which the driver looks at its condition; if it comes back and
/// the count is still the same, the host has published nothing that the driver has not seen, and it
/// sleeps until the host publishes. Only loops that wait for the host of this ring may be treated so:
/// a loop that waits for another thread would be woken late.
///
/// One such value serves one ring, and belongs to the thread that uses the ring.
#[derive(Debug)]
pub struct YieldWaiter<M = Mapping> {
    mem: Arc<M>,
    budget: Duration,
    /// The host's count at the last call.
    seen: Option<u32>,
    /// Time spent in yields since the count last changed.
    spent: Duration,
    /// What was last told of the core.
    core: u32,
    crowd: Crowd,
    sleeps: u64,
}

impl<M: Memory> YieldWaiter<M> {
    /// How long to yield before it sleeps, unless said otherwise.
    pub const SPIN: Duration = Duration::from_micros(15);
    /// The longest sleep, should the host die or the driver wait for something else.
    pub const SAFETY: Duration = Duration::from_millis(100);

    /// For the ring in this memory.
    pub fn new(mem: Arc<M>) -> Self {
        Self::with_spin(mem, Self::SPIN)
    }

    /// As [`Self::new`], with another time to yield for.
    pub fn with_spin(mem: Arc<M>, budget: Duration) -> Self {
        Self {
            mem,
            budget,
            seen: None,
            spent: Duration::ZERO,
            core: 0,
            crowd: Crowd::default(),
            sleeps: 0,
        }
    }

    /// To be called instead of each `sched_yield` in a loop that waits for the host.
    pub fn on_yield(&mut self) {
        let progress = self.mem.load(PROGRESS);
        if self.seen != Some(progress) {
            // The driver has not looked since; it will when this returns.
            self.seen = Some(progress);
            self.spent = Duration::ZERO;
            if self.crowd.is_here() {
                // It costs nothing to let the driver look once more; then it sleeps.
                self.spent = self.budget;
            } else if !self.budget.is_zero() {
                self.yield_for_real();
            }
        } else if self.spent < self.budget || !tells_progress(&*self.mem) {
            self.yield_for_real();
        } else {
            self.sleeps += 1;
            sleep_unless_progress(&*self.mem, progress, Self::SAFETY);
        }
    }

    fn yield_for_real(&mut self) {
        let core = self.mem.core();
        if core != self.core {
            self.core = core;
            self.mem.store(GUEST_CORE, core);
        }
        let before = Instant::now();
        self.mem.yield_now();
        let took = before.elapsed();
        self.crowd.note(took);
        self.spent = if self.crowd.is_here() {
            self.budget
        } else {
            self.spent.saturating_add(took)
        };
    }

    /// How often it slept.
    pub fn sleeps(&self) -> u64 {
        self.sleeps
    }
}
