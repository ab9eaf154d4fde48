//! Sync files and the status page: telling when a guest's fence or semaphore signals, and how far its queues
//! have come.
//!
//! A guest's fence may be destroyed or reset while somebody still waits for the sync file made of it,
//! so what is waited for is a fence of our own, submitted behind the guest's work on the same queue.
//! A thread per queue that ever needed it does the waiting; no command of a guest waits for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use asgard_protocol::types::*;
use asgard_protocol::{Handles as _, zeroed};
use parking_lot::Mutex;

use crate::Error;
use crate::context::{Context, Device, Queue};
use crate::status_page::{Progress, Slot, StatusPage};

type Done = Box<dyn FnOnce() + Send>;

/// What there is to do once a queue has done all that was submitted to it.
enum Then {
    /// Somebody waits for it, also if it never will.
    Tell(Done),
    Show(Progress),
}

impl Then {
    /// It has, or never will.
    fn end(self, complete: bool) {
        match self {
            Self::Tell(done) => done(),
            Self::Show(progress) if complete => progress.show(),
            Self::Show(_) => {}
        }
    }
}

/// How often a waiting thread looks whether its context died.
const LOOK_NS: u64 = 100_000_000;

#[derive(Default)]
pub(crate) struct Signals {
    /// How many wait for a submit that did not come yet.
    waiting: AtomicUsize,
    /// How many queues are followed.
    following: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By token: fences whose submit did not come yet.
    fences: HashMap<u64, Vec<Done>>,
    /// By the driver's handle: semaphores whose signal did not come yet.
    semaphores: HashMap<u64, Vec<Done>>,
    /// The queue that each fence was last submitted to.
    queues: HashMap<u64, u64>,
    /// The queues that are followed.
    followed: HashMap<u64, Followed>,
    /// The waiting thread of each queue.
    threads: HashMap<u64, (Sender<Wait>, JoinHandle<()>)>,
}

/// A queue whose progress the guest reads on the status page.
struct Followed {
    page: Arc<StatusPage>,
    slot: Slot,
    /// The number of the last submission that is followed.
    until: u64,
    /// The number of the last one that is waited for.
    waited: u64,
}

impl Followed {
    fn progress(&self, queue: &Arc<Queue>, number: u64) -> Then {
        Then::Show(Progress {
            page: Arc::clone(&self.page),
            slot: self.slot,
            queue: Arc::clone(queue),
            number,
        })
    }
}

struct Wait {
    device: Arc<Device>,
    fence: VkFence,
    then: Then,
}

impl std::fmt::Debug for Signals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signals")
            .field("waiting", &self.waiting)
            .finish_non_exhaustive()
    }
}

impl Signals {
    /// See [`Context::when_signaled`].
    pub(crate) fn add(
        &self,
        context: &Arc<Context>,
        device: u64,
        token: u64,
        done: Done,
    ) -> Result<(), Error> {
        if context.is_dead() {
            done();
            return Ok(());
        }
        let device = context
            .devices
            .read()
            .get(&device)
            .cloned()
            .ok_or(Error::Nonsense("a sync file of a device that is not live"))?;
        if let Ok(fence) = context.objects.resolve(Kind::Fence, token) {
            if let Some(status) = device.fns.vkGetFenceStatus {
                // SAFETY: both are live.
                if unsafe { status(device.handle, VkFence(fence)) } == VK_SUCCESS {
                    done();
                    return Ok(());
                }
            }
            let queue = self.state.lock().queues.get(&token).copied();
            let queue = queue.and_then(|q| Some((q, context.queues.read().get(&q).cloned()?)));
            if let Some((queue_token, queue)) = queue {
                let then = Then::Tell(done);
                return self.chase(context, &device, queue_token, &queue, then);
            }
            self.state
                .lock()
                .fences
                .entry(token)
                .or_default()
                .push(done);
        } else {
            let semaphore = context.objects.resolve(Kind::Semaphore, token)?;
            self.state
                .lock()
                .semaphores
                .entry(semaphore)
                .or_default()
                .push(done);
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// Once everything submitted to the queue so far is complete, does what there is to do.
    fn chase(
        &self,
        context: &Arc<Context>,
        device: &Arc<Device>,
        queue_token: u64,
        queue: &Queue,
        then: Then,
    ) -> Result<(), Error> {
        let live = device.live.read();
        if !*live {
            then.end(false);
            return Ok(());
        }
        let fns = &device.fns;
        let create = fns
            .vkCreateFence
            .ok_or(Error::NoSuchFunction("vkCreateFence"))?;
        let submit = fns
            .vkQueueSubmit
            .ok_or(Error::NoSuchFunction("vkQueueSubmit"))?;
        let info = VkFenceCreateInfo {
            sType: VK_STRUCTURE_TYPE_FENCE_CREATE_INFO,
            ..zeroed()
        };
        let mut fence = VkFence(0);
        // SAFETY: the struct lives through the call.
        let result = unsafe {
            create(
                device.handle,
                &raw const info,
                std::ptr::null(),
                &raw mut fence,
            )
        };
        if result != VK_SUCCESS {
            then.end(false);
            return Err(Error::Driver {
                what: "making a fence",
                result,
            });
        }
        let guard = queue.lock.lock();
        // SAFETY: the queue is live and locked; the fence is ours.
        let result = unsafe { submit(queue.handle, 0, std::ptr::null(), fence) };
        drop(guard);
        let wait = Wait {
            device: Arc::clone(device),
            fence,
            then,
        };
        if result != VK_SUCCESS {
            wait.finish(false);
            return Err(Error::Driver {
                what: "submitting a fence",
                result,
            });
        }
        let mut state = self.state.lock();
        let (sender, _) = state.threads.entry(queue_token).or_insert_with(|| {
            let (sender, receiver) = channel();
            let context = Arc::clone(context);
            (
                sender,
                std::thread::spawn(move || wait_all(&context, &receiver)),
            )
        });
        if let Err(unsent) = sender.send(wait) {
            unsent.0.finish(false);
        }
        Ok(())
    }

    /// Shows in a slot of the status page how far the queue has come: now, and after each submission up to
    /// that number.
    pub(crate) fn follow(
        &self,
        context: &Arc<Context>,
        device: &Arc<Device>,
        queue_token: u64,
        queue: &Arc<Queue>,
        (page, slot): (&Arc<StatusPage>, Slot),
        until: u64,
    ) -> Result<(), Error> {
        // Held until it is noted, so that the end of the device finds it.
        let live = device.live.read();
        if !*live {
            return Ok(());
        }
        let mut state = self.state.lock();
        let followed = state.followed.entry(queue_token).or_insert_with(|| {
            self.following.fetch_add(1, Ordering::SeqCst);
            Followed {
                page: Arc::clone(page),
                slot,
                until,
                waited: 0,
            }
        });
        followed.slot = slot;
        followed.until = followed.until.max(until);
        let number = queue.submitted.load(Ordering::Acquire);
        if number <= followed.waited {
            return Ok(());
        }
        followed.waited = number;
        let then = followed.progress(queue, number);
        drop((state, live));
        self.chase(context, device, queue_token, queue, then)
    }

    /// Notes a submission: its number on its queue, its fence, and the semaphores it signals.
    pub(crate) fn submitted(
        &self,
        context: &Arc<Context>,
        device: &Arc<Device>,
        queue_token: u64,
        (queue, number): (&Arc<Queue>, u64),
        fence_token: u64,
        signals: impl Iterator<Item = VkSemaphore>,
    ) -> Result<(), Error> {
        let nobody =
            self.waiting.load(Ordering::SeqCst) == 0 && self.following.load(Ordering::SeqCst) == 0;
        if fence_token == 0 && nobody {
            return Ok(());
        }
        let mut due = Vec::new();
        let mut progress = None;
        let mut state = self.state.lock();
        if fence_token != 0 {
            state.queues.insert(fence_token, queue_token);
            due.extend(state.fences.remove(&fence_token).into_iter().flatten());
        }
        if let Some(followed) = state.followed.get_mut(&queue_token)
            && number <= followed.until
        {
            followed.waited = followed.waited.max(number);
            progress = Some(followed.progress(queue, number));
        }
        if !state.semaphores.is_empty() {
            for semaphore in signals {
                due.extend(state.semaphores.remove(&semaphore.0).into_iter().flatten());
            }
        }
        drop(state);
        self.waiting.fetch_sub(due.len(), Ordering::SeqCst);
        for then in due.into_iter().map(Then::Tell).chain(progress) {
            self.chase(context, device, queue_token, queue, then)?;
        }
        Ok(())
    }

    /// A queue is idle: newer guests keep such semaphores to themselves and wait for the queue instead.
    pub(crate) fn idle(&self) {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        let due: Vec<Done> = self
            .state
            .lock()
            .semaphores
            .drain()
            .flat_map(|(_, d)| d)
            .collect();
        self.finish(due);
    }

    /// A fence is gone.
    pub(crate) fn fence_destroyed(&self, token: u64) {
        let mut state = self.state.lock();
        state.queues.remove(&token);
        let due = state.fences.remove(&token).unwrap_or_default();
        drop(state);
        self.finish(due);
    }

    /// A semaphore is gone.
    pub(crate) fn semaphore_destroyed(&self, semaphore: VkSemaphore) {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        let due = self
            .state
            .lock()
            .semaphores
            .remove(&semaphore.0)
            .unwrap_or_default();
        self.finish(due);
    }

    /// The context died: nobody waits any longer.
    pub(crate) fn release_all(&self) {
        let mut state = self.state.lock();
        let mut due: Vec<Done> = state.fences.drain().flat_map(|(_, d)| d).collect();
        due.extend(state.semaphores.drain().flat_map(|(_, d)| d));
        drop(state);
        self.finish(due);
    }

    /// Queues are about to go: ends their waiting threads, once everything that they wait for is
    /// complete.
    pub(crate) fn leave(&self, queues: impl Iterator<Item = u64>) {
        let threads: Vec<_> = {
            let mut state = self.state.lock();
            queues
                .filter_map(|queue| {
                    if state.followed.remove(&queue).is_some() {
                        self.following.fetch_sub(1, Ordering::SeqCst);
                    }
                    state.threads.remove(&queue)
                })
                .collect()
        };
        for (sender, thread) in threads {
            drop(sender);
            let _ = thread.join();
        }
    }

    /// Ends the waiting threads. The context must be dead.
    pub(crate) fn join(&self) {
        let threads: Vec<_> = self.state.lock().threads.drain().collect();
        for (_, (sender, thread)) in threads {
            drop(sender);
            let _ = thread.join();
        }
    }

    fn finish(&self, due: Vec<Done>) {
        self.waiting.fetch_sub(due.len(), Ordering::SeqCst);
        for done in due {
            done();
        }
    }
}

impl Wait {
    fn finish(self, complete: bool) {
        if let Some(destroy) = self.device.fns.vkDestroyFence {
            // SAFETY: the fence is ours; it was signalled, or its queue is lost.
            unsafe { destroy(self.device.handle, self.fence, std::ptr::null()) };
        }
        self.then.end(complete);
    }
}

fn wait_all(context: &Context, waits: &Receiver<Wait>) {
    while let Ok(wait) = waits.recv() {
        let mut result = VK_TIMEOUT;
        if let Some(f) = wait.device.fns.vkWaitForFences {
            while result == VK_TIMEOUT && !context.is_dead() {
                // SAFETY: the fence is ours, and its device lives as long as this wait.
                result = unsafe { f(wait.device.handle, 1, &raw const wait.fence, 1, LOOK_NS) };
            }
        }
        wait.finish(result == VK_SUCCESS);
    }
}
