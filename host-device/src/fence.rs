//! Fence timelines: in order inside a ring, independent across rings.
//!
//! A timeline is a queue of *tasks* (work that some other thread will report as finished) and
//! *fences* (callbacks that run once everything queued before them has finished).
//! No thread waits here: the thread that finishes a task, or queues a fence with nothing before
//! it, runs the callbacks that became due.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::Error;

/// What a fence runs once it is signalled. It must not block.
pub type Done = Box<dyn FnOnce() + Send>;

/// The name of one timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ring {
    /// The device's own timeline: fences without a ring index.
    Global,
    /// One ring of one context.
    Context {
        /// The context.
        ctx_id: u32,
        /// The ring index that the guest chose.
        ring_idx: u8,
    },
}

impl Ring {
    fn belongs_to(self, id: u32) -> bool {
        matches!(self, Self::Context { ctx_id, .. } if ctx_id == id)
    }
}

enum Entry {
    Task(Arc<AtomicBool>),
    Fence(Done),
}

#[derive(Default)]
struct Timeline {
    queue: VecDeque<Entry>,
    /// A thread is running callbacks of this timeline and will look again when it is done.
    draining: bool,
}

impl Timeline {
    /// Takes the fences with nothing unfinished before them.
    fn take_due(&mut self) -> (usize, Vec<Done>) {
        let mut due = Vec::new();
        let mut taken = 0;
        while let Some(entry) = self.queue.pop_front() {
            match entry {
                Entry::Task(finished) if !finished.load(Ordering::Acquire) => {
                    self.queue.push_front(Entry::Task(finished));
                    break;
                }
                Entry::Task(_) => {}
                Entry::Fence(done) => due.push(done),
            }
            taken += 1;
        }
        (taken, due)
    }
}

#[derive(Default)]
struct Inner {
    timelines: HashMap<Ring, Timeline>,
    entries: usize,
}

/// All timelines of one device. Clones share them.
#[derive(Clone)]
pub struct Timelines {
    inner: Arc<Mutex<Inner>>,
    limit: usize,
}

impl fmt::Debug for Timelines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timelines")
            .field("pending", &self.pending())
            .finish_non_exhaustive()
    }
}

impl Timelines {
    /// Empty timelines that hold at most `limit` unfinished tasks and fences in all.
    pub fn new(limit: usize) -> Self {
        Self {
            inner: Arc::default(),
            limit,
        }
    }

    /// Queues a fence: `done` runs once everything queued on `ring` before it has finished,
    /// which may be before this returns.
    pub fn fence(&self, ring: Ring, done: Done) -> Result<(), Error> {
        self.push(ring, Entry::Fence(done))?;
        self.advance(ring);
        Ok(())
    }

    /// Queues a task: fences queued on `ring` from now on wait until the returned guard is dropped.
    pub fn begin(&self, ring: Ring) -> Result<Task, Error> {
        let finished = Arc::new(AtomicBool::new(false));
        self.push(ring, Entry::Task(Arc::clone(&finished)))?;
        Ok(Task {
            timelines: self.clone(),
            ring,
            finished,
        })
    }

    /// Signals every fence of a context that goes away, in order, whatever its tasks do.
    pub fn finish_context(&self, ctx_id: u32) {
        let rings: Vec<Ring> = {
            let inner = self.inner.lock();
            let mut rings = Vec::new();
            for (ring, timeline) in inner
                .timelines
                .iter()
                .filter(|(ring, _)| ring.belongs_to(ctx_id))
            {
                for entry in &timeline.queue {
                    if let Entry::Task(finished) = entry {
                        finished.store(true, Ordering::Release);
                    }
                }
                rings.push(*ring);
            }
            rings
        };
        for ring in rings {
            self.advance(ring);
        }
    }

    /// Unfinished tasks and fences.
    pub fn pending(&self) -> usize {
        self.inner.lock().entries
    }

    fn push(&self, ring: Ring, entry: Entry) -> Result<(), Error> {
        let mut inner = self.inner.lock();
        if inner.entries >= self.limit {
            return Err(Error::Limit {
                what: "fences in flight",
                limit: self.limit as u64,
            });
        }
        inner.entries += 1;
        inner
            .timelines
            .entry(ring)
            .or_default()
            .queue
            .push_back(entry);
        Ok(())
    }

    /// Runs what is due on `ring`. Callbacks run outside the lock and by one thread at a time per
    /// ring, so that they keep their order.
    fn advance(&self, ring: Ring) {
        loop {
            let due = {
                let mut inner = self.inner.lock();
                let Some(timeline) = inner.timelines.get_mut(&ring) else {
                    return;
                };
                if timeline.draining {
                    return;
                }
                let (taken, due) = timeline.take_due();
                timeline.draining = !due.is_empty();
                let idle = timeline.queue.is_empty() && due.is_empty();
                inner.entries = inner.entries.saturating_sub(taken);
                if idle {
                    inner.timelines.remove(&ring);
                }
                if due.is_empty() {
                    return;
                }
                due
            };
            for done in due {
                done();
            }
            if let Some(timeline) = self.inner.lock().timelines.get_mut(&ring) {
                timeline.draining = false;
            }
        }
    }
}

/// Unfinished work on a timeline; dropping it finishes the work.
pub struct Task {
    timelines: Timelines,
    ring: Ring,
    finished: Arc<AtomicBool>,
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task")
            .field("ring", &self.ring)
            .finish_non_exhaustive()
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.finished.store(true, Ordering::Release);
        self.timelines.advance(self.ring);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RING_0: Ring = Ring::Context {
        ctx_id: 1,
        ring_idx: 0,
    };
    const RING_1: Ring = Ring::Context {
        ctx_id: 1,
        ring_idx: 1,
    };

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u32>>>);

    impl Log {
        fn note(&self, n: u32) -> Done {
            let log = self.clone();
            Box::new(move || log.0.lock().push(n))
        }
        fn seen(&self) -> Vec<u32> {
            self.0.lock().clone()
        }
    }

    #[test]
    fn a_fence_on_an_idle_ring_is_signalled_at_once() {
        let (timelines, log) = (Timelines::new(8), Log::default());
        timelines.fence(Ring::Global, log.note(1)).unwrap();
        assert_eq!(log.seen(), [1]);
        assert_eq!(timelines.pending(), 0);
    }

    #[test]
    fn fences_wait_for_the_tasks_before_them_and_only_those() {
        let (timelines, log) = (Timelines::new(8), Log::default());
        let first = timelines.begin(RING_0).unwrap();
        timelines.fence(RING_0, log.note(1)).unwrap();
        let second = timelines.begin(RING_0).unwrap();
        timelines.fence(RING_0, log.note(2)).unwrap();
        drop(second);
        assert!(log.seen().is_empty());
        drop(first);
        assert_eq!(log.seen(), [1, 2]);
        assert_eq!(timelines.pending(), 0);
    }

    #[test]
    fn rings_do_not_wait_for_each_other() {
        let (timelines, log) = (Timelines::new(8), Log::default());
        let task = timelines.begin(RING_0).unwrap();
        timelines.fence(RING_0, log.note(1)).unwrap();
        timelines.fence(RING_1, log.note(2)).unwrap();
        timelines.fence(Ring::Global, log.note(3)).unwrap();
        timelines
            .fence(
                Ring::Context {
                    ctx_id: 2,
                    ring_idx: 0,
                },
                log.note(4),
            )
            .unwrap();
        assert_eq!(log.seen(), [2, 3, 4]);
        drop(task);
        assert_eq!(log.seen(), [2, 3, 4, 1]);
    }

    #[test]
    fn a_context_that_goes_away_signals_its_fences_and_no_others() {
        let (timelines, log) = (Timelines::new(8), Log::default());
        let late = timelines.begin(RING_0).unwrap();
        let other = timelines.begin(Ring::Global).unwrap();
        timelines.fence(RING_0, log.note(1)).unwrap();
        timelines.fence(Ring::Global, log.note(2)).unwrap();
        timelines.finish_context(1);
        assert_eq!(log.seen(), [1]);
        drop(late);
        drop(other);
        assert_eq!(log.seen(), [1, 2]);
        assert_eq!(timelines.pending(), 0);
    }

    #[test]
    fn the_number_of_fences_in_flight_is_limited() {
        let timelines = Timelines::new(2);
        let task = timelines.begin(RING_0).unwrap();
        timelines.fence(RING_0, Box::new(|| {})).unwrap();
        assert!(timelines.fence(RING_0, Box::new(|| {})).is_err());
        assert!(timelines.begin(RING_1).is_err());
        drop(task);
        timelines.fence(RING_0, Box::new(|| {})).unwrap();
    }

    #[test]
    fn a_callback_may_queue_and_finish_more() {
        let (timelines, log) = (Timelines::new(8), Log::default());
        let task = timelines.begin(RING_0).unwrap();
        let inner_task = timelines.begin(RING_1).unwrap();
        timelines.fence(RING_1, log.note(2)).unwrap();
        let (again, note) = (timelines.clone(), log.note(1));
        timelines
            .fence(
                RING_0,
                Box::new(move || {
                    again.fence(RING_0, note).unwrap();
                    drop(inner_task);
                }),
            )
            .unwrap();
        drop(task);
        assert_eq!(log.seen(), [2, 1]);
    }

    #[test]
    fn order_holds_when_many_threads_finish_tasks() {
        let (timelines, log) = (Timelines::new(4096), Log::default());
        let mut tasks = Vec::new();
        for n in 0..1000 {
            tasks.push(timelines.begin(RING_0).unwrap());
            timelines.fence(RING_0, log.note(n)).unwrap();
        }
        std::thread::scope(|scope| {
            let mut lanes: Vec<Vec<Task>> = (0..4).map(|_| Vec::new()).collect();
            for (n, task) in tasks.into_iter().enumerate() {
                lanes[n % 4].push(task);
            }
            for lane in lanes {
                scope.spawn(move || lane.into_iter().for_each(drop));
            }
        });
        assert_eq!(log.seen(), (0..1000).collect::<Vec<_>>());
        assert_eq!(timelines.pending(), 0);
    }
}
