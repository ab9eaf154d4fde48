//! Queues: what is submitted to them, and how far they are known to have come.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use asgard_protocol::Command;
use asgard_protocol::extension::FOLLOW_QUEUE;
use parking_lot::Mutex;

use super::*;
use crate::object::{Dispatchable, token_of};
use crate::process::Process;
use crate::status_page::StatusPage;
use crate::stream;
use crate::vulkan::command_buffer::flush;
use crate::vulkan::device::device;
use crate::vulkan::heard::News;
use crate::vulkan::image::find;

#[derive(Debug)]
pub(crate) struct Queue {
    device: VkDevice,
    /// Held while a submission is sent, so that the host numbers them as we do: besides the application,
    /// the window system submits.
    turn: Mutex<()>,
    /// How many submissions there were.
    submitted: AtomicU64,
    /// So many of the first of them are known to be complete.
    done: AtomicU64,
    news: News,
    /// Where the host shows how many are complete; none if it does not.
    slot: OnceLock<Option<(&'static StatusPage, usize)>>,
    /// The number of the last submission after which it does.
    followed: AtomicU64,
    /// How often it said of a submission that is not followed that it is not complete.
    refused: AtomicU32,
}

/// A host follows a queue for so many submissions: each costs it one of its own, and a program may stop asking.
const AHEAD: u64 = 64;

/// So often a program asks before the queue is followed: one that asks once for each submission, when it is
/// complete or nearly, need not be served better.
const PATIENCE: u32 = 2;

impl Queue {
    pub(super) fn new(device: VkDevice) -> Self {
        Self {
            device,
            turn: Mutex::default(),
            submitted: AtomicU64::new(0),
            done: AtomicU64::new(0),
            news: News::default(),
            slot: OnceLock::new(),
            followed: AtomicU64::new(0),
            refused: AtomicU32::new(0),
        }
    }

    /// So many of the first submissions are complete.
    fn advance(&self, number: u64) {
        if self.done.fetch_max(number, Ordering::AcqRel) < number {
            self.news.came();
        }
    }

    /// How many the host shows as complete.
    fn look(&self) -> u64 {
        let Some(Some((page, slot))) = self.slot.get() else {
            return 0;
        };
        let number = page.read(*slot);
        self.advance(number);
        number
    }
}

/// A submission of a queue whose device is live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) queue: VkQueue,
    /// It is this one of the queue's, counted from 1.
    number: u64,
}

impl Place {
    /// The last so far.
    pub(super) fn last(queue: VkQueue) -> Self {
        let number = of(&queue).submitted.load(Ordering::Acquire);
        Self { queue, number }
    }

    /// The next; the queue's turn is the caller's.
    fn next(queue: VkQueue) -> Self {
        let number = of(&queue).submitted.fetch_add(1, Ordering::AcqRel) + 1;
        Self { queue, number }
    }

    /// A semaphore that it signals was seen signalled: all before it is complete, but of itself there may
    /// be more to come.
    pub(super) fn reached(self) {
        of(&self.queue).advance(self.number - 1);
    }

    /// It is known to be complete.
    #[inline]
    pub(super) fn is_done(self) -> bool {
        let queue = of(&self.queue);
        queue.done.load(Ordering::Acquire) >= self.number || queue.look() >= self.number
    }

    /// The host shows when it is complete.
    pub(super) fn is_followed(self) -> bool {
        of(&self.queue).followed.load(Ordering::Acquire) >= self.number
    }

    /// What is known of other queues, which may mean that this is complete although it is not shown yet.
    pub(super) fn news(self) -> u64 {
        of(&self.queue).news.of_others()
    }

    /// The host was asked, and says that it is not complete.
    pub(super) fn refused(self) {
        if !self.is_followed()
            && of(&self.queue).refused.fetch_add(1, Ordering::Relaxed) + 1 >= PATIENCE
        {
            self.follow();
        }
    }

    /// Has the host show how far the queue comes.
    fn follow(self) {
        let queue = of(&self.queue);
        queue.refused.store(0, Ordering::Relaxed);
        let slot = queue.slot.get_or_init(|| {
            let page = Process::get()?.status_page()?;
            Some((page, page.slot()?))
        });
        let Some((_, slot)) = slot else { return };
        let until = queue.submitted.load(Ordering::Acquire) + AHEAD;
        // SAFETY: the queue is live, as in `of`.
        let token = unsafe { token_of(self.queue.0) };
        let told = stream::with(|s| s.note(FOLLOW_QUEUE, &[token, *slot as u64, until]));
        // Whoever asks next hears of an error.
        if told.is_ok() {
            queue.followed.fetch_max(until, Ordering::AcqRel);
        }
    }

    /// It is complete, and with it all before: a queue signals in the order of its submissions.
    pub(super) fn done(self) {
        of(&self.queue).advance(self.number);
    }
}

/// The queue behind a handle that an application passes, or has passed for what is still live.
fn of(handle: &VkQueue) -> &Queue {
    // SAFETY: queues live as long as their device, and the specification demands that it is live.
    &unsafe { Dispatchable::<Queue>::from_handle(handle.0) }.data
}

/// Sends a submission; `signals` notes the timelines that it signals.
fn send<C: Command>(
    queue: VkQueue,
    fence: VkFence,
    signals: impl FnOnce(&semaphore::Semaphores, Place),
    send: impl FnOnce(&mut C) -> VkResult,
    c: &mut C,
) -> VkResult {
    let Queue {
        device: handle,
        turn,
        ..
    } = of(&queue);
    // SAFETY: a queue's device is live as long as it is.
    let device = unsafe { device(*handle) };
    let turn = turn.lock();
    let place = Place::next(queue);
    // Before it is sent: nobody may be told what was true before.
    if fence.0 != 0 {
        device.fences.submitted(fence, place);
    }
    signals(&device.semaphores, place);
    let ret = send(c);
    drop(turn);
    ret
}

/// Submits something of this driver's own, which signals no timeline.
pub(super) fn submit(queue: VkQueue, info: Option<&VkSubmitInfo>, fence: VkFence) -> VkResult {
    let mut submit = p::vkQueueSubmitAsyncGOOGLE {
        queue,
        submitCount: u32::from(info.is_some()),
        pSubmits: info.map_or(std::ptr::null(), std::ptr::from_ref),
        fence,
        ..zeroed()
    };
    send(queue, fence, |_, _| {}, |c| Driver.send(c), &mut submit)
}

/// Notes the timelines that a batch signals, whose values are in its chain.
///
/// # Safety
/// The chain is valid, with as many values as it says.
unsafe fn note(
    semaphores: &semaphore::Semaphores,
    signals: &[VkSemaphore],
    chain: *const c_void,
    place: Place,
) {
    let kind = VK_STRUCTURE_TYPE_TIMELINE_SEMAPHORE_SUBMIT_INFO;
    // SAFETY: the caller's promise.
    unsafe {
        if let Some(info) = find::<VkTimelineSemaphoreSubmitInfo>(chain, kind) {
            let values = slice(info.pSignalSemaphoreValues, info.signalSemaphoreValueCount);
            for (semaphore, value) in signals.iter().zip(values) {
                semaphores.submitted(*semaphore, *value, place);
            }
        }
    }
}

/// What a submission waits for, with semaphores of the host's in the place of imported sync files; none if
/// that changes nothing.
fn waits<T: Copy>(
    device: VkDevice,
    queue: VkQueue,
    all: &[T],
    semaphore: impl Fn(&mut T) -> &mut VkSemaphore,
) -> Result<Option<Vec<T>>, VkResult> {
    let mut changed = None;
    for (i, wait) in all.iter().enumerate() {
        let mut wait = *wait;
        let old = *semaphore(&mut wait);
        let new = semaphore::waited(device, queue, old)?;
        if new.0 != old.0 {
            *semaphore(&mut wait) = new;
            changed.get_or_insert_with(|| all.to_vec())[i] = wait;
        }
    }
    Ok(changed)
}

/// As many values as the count says; none may be at null.
///
/// # Safety
/// There are as many, and they outlive the result.
unsafe fn slice<'a, T>(start: *const T, count: u32) -> &'a [T] {
    if count == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(start, count as usize) }
}

impl QueueCommands for Driver {
    fn vkGetDeviceQueue(&self, c: &mut p::vkGetDeviceQueue) {
        device::get_queue(c);
    }

    fn vkGetDeviceQueue2(&self, c: &mut p::vkGetDeviceQueue2) {
        device::get_queue2(c);
    }

    fn vkQueuePresentKHR(&self, c: &mut p::vkQueuePresentKHR) -> VkResult {
        // SAFETY: the application passes a live queue and a struct.
        unsafe { swapchain::present(c.queue, &*c.pPresentInfo) }
    }

    fn vkQueueSubmit(&self, c: &mut p::vkQueueSubmit) -> VkResult {
        // SAFETY: the application passes a live queue, and as many structs and handles as it says.
        let (device, submits) = unsafe { (of(&c.queue).device, slice(c.pSubmits, c.submitCount)) };
        let (mut changed, mut kept) = (Vec::new(), Vec::new());
        for (i, submit) in submits.iter().enumerate() {
            // SAFETY: as above.
            let (buffers, wait, signal) = unsafe {
                (
                    slice(submit.pCommandBuffers, submit.commandBufferCount),
                    slice(submit.pWaitSemaphores, submit.waitSemaphoreCount),
                    slice(submit.pSignalSemaphores, submit.signalSemaphoreCount),
                )
            };
            for buffer in buffers {
                // SAFETY: the application passes live command buffers.
                unsafe { flush(c.queue, *buffer) };
            }
            if !semaphore::any(device) {
                continue;
            }
            for semaphore in signal {
                let ret = semaphore::signalled(device, c.queue, *semaphore);
                if ret != VK_SUCCESS {
                    return ret;
                }
            }
            match waits(device, c.queue, wait, |wait| wait) {
                Ok(None) => {}
                Ok(Some(wait)) => {
                    if changed.is_empty() {
                        changed = submits.to_vec();
                    }
                    changed[i].pWaitSemaphores = wait.as_ptr();
                    kept.push(wait);
                }
                Err(error) => return error,
            }
        }
        let ret = fence::prepare(device, c.fence);
        if ret != VK_SUCCESS {
            return ret;
        }
        let mut sent = p::vkQueueSubmitAsyncGOOGLE {
            queue: c.queue,
            submitCount: c.submitCount,
            pSubmits: if changed.is_empty() {
                c.pSubmits
            } else {
                changed.as_ptr()
            },
            fence: c.fence,
            ..zeroed()
        };
        let signals = |semaphores: &_, place| {
            for submit in submits {
                // SAFETY: as above, and a chain.
                unsafe {
                    let signals = slice(submit.pSignalSemaphores, submit.signalSemaphoreCount);
                    note(semaphores, signals, submit.pNext, place);
                }
            }
        };
        send(c.queue, c.fence, signals, |c| self.send(c), &mut sent)
    }

    fn vkQueueSubmit2(&self, c: &mut p::vkQueueSubmit2) -> VkResult {
        // SAFETY: the application passes a live queue, and as many structs and handles as it says.
        let (device, submits) = unsafe { (of(&c.queue).device, slice(c.pSubmits, c.submitCount)) };
        let (mut changed, mut kept) = (Vec::new(), Vec::new());
        for (i, submit) in submits.iter().enumerate() {
            // SAFETY: as above.
            let (buffers, wait, signal) = unsafe {
                (
                    slice(submit.pCommandBufferInfos, submit.commandBufferInfoCount),
                    slice(submit.pWaitSemaphoreInfos, submit.waitSemaphoreInfoCount),
                    slice(
                        submit.pSignalSemaphoreInfos,
                        submit.signalSemaphoreInfoCount,
                    ),
                )
            };
            for info in buffers {
                // SAFETY: the application passes live command buffers.
                unsafe { flush(c.queue, info.commandBuffer) };
            }
            if !semaphore::any(device) {
                continue;
            }
            for info in signal {
                let ret = semaphore::signalled(device, c.queue, info.semaphore);
                if ret != VK_SUCCESS {
                    return ret;
                }
            }
            match waits(device, c.queue, wait, |info| &mut info.semaphore) {
                Ok(None) => {}
                Ok(Some(wait)) => {
                    if changed.is_empty() {
                        changed = submits.to_vec();
                    }
                    changed[i].pWaitSemaphoreInfos = wait.as_ptr();
                    kept.push(wait);
                }
                Err(error) => return error,
            }
        }
        let ret = fence::prepare(device, c.fence);
        if ret != VK_SUCCESS {
            return ret;
        }
        let mut sent = p::vkQueueSubmitAsync2GOOGLE {
            queue: c.queue,
            submitCount: c.submitCount,
            pSubmits: if changed.is_empty() {
                c.pSubmits
            } else {
                changed.as_ptr()
            },
            fence: c.fence,
            ..zeroed()
        };
        let signals = |semaphores: &semaphore::Semaphores, place| {
            for submit in submits {
                // SAFETY: as above.
                let signals = unsafe {
                    slice(
                        submit.pSignalSemaphoreInfos,
                        submit.signalSemaphoreInfoCount,
                    )
                };
                for signal in signals {
                    semaphores.submitted(signal.semaphore, signal.value, place);
                }
            }
        };
        send(c.queue, c.fence, signals, |c| self.send(c), &mut sent)
    }

    fn vkQueueBindSparse(&self, c: &mut p::vkQueueBindSparse) -> VkResult {
        // SAFETY: the application passes a live queue, and as many structs and handles as it says.
        let (device, binds) = unsafe { (of(&c.queue).device, slice(c.pBindInfo, c.bindInfoCount)) };
        let (mut changed, mut kept) = (Vec::new(), Vec::new());
        let shared = semaphore::any(device);
        for (i, bind) in binds.iter().enumerate().filter(|_| shared) {
            // SAFETY: as above.
            let (wait, signal) = unsafe {
                (
                    slice(bind.pWaitSemaphores, bind.waitSemaphoreCount),
                    slice(bind.pSignalSemaphores, bind.signalSemaphoreCount),
                )
            };
            for semaphore in signal {
                let ret = semaphore::signalled(device, c.queue, *semaphore);
                if ret != VK_SUCCESS {
                    return ret;
                }
            }
            match waits(device, c.queue, wait, |wait| wait) {
                Ok(None) => {}
                Ok(Some(wait)) => {
                    if changed.is_empty() {
                        changed = binds.to_vec();
                    }
                    changed[i].pWaitSemaphores = wait.as_ptr();
                    kept.push(wait);
                }
                Err(error) => return error,
            }
        }
        let ret = fence::prepare(device, c.fence);
        if ret != VK_SUCCESS {
            return ret;
        }
        let mut sent = p::vkQueueBindSparseAsyncGOOGLE {
            queue: c.queue,
            bindInfoCount: c.bindInfoCount,
            pBindInfo: if changed.is_empty() {
                c.pBindInfo
            } else {
                changed.as_ptr()
            },
            fence: c.fence,
            ..zeroed()
        };
        let signals = |semaphores: &_, place| {
            for bind in binds {
                // SAFETY: as above, and a chain.
                unsafe {
                    let signals = slice(bind.pSignalSemaphores, bind.signalSemaphoreCount);
                    note(semaphores, signals, bind.pNext, place);
                }
            }
        };
        send(c.queue, c.fence, signals, |c| self.send(c), &mut sent)
    }

    fn vkQueueWaitIdle(&self, c: &mut p::vkQueueWaitIdle) -> VkResult {
        let last = Place::last(c.queue);
        let ret = self.call(c);
        if ret == VK_SUCCESS {
            last.done();
        }
        ret
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Places of a queue of no device.
    pub(in super::super) fn places<const N: usize>() -> [Place; N] {
        let queue = Dispatchable::new(1, Queue::new(VkDevice(0)));
        let queue = VkQueue(queue.into_handle());
        [(); N].map(|()| Place::next(queue))
    }

    #[test]
    fn what_is_done_was_done_in_order() {
        let [first, second, third] = places();
        assert_eq!(Place::last(first.queue), third);
        second.done();
        assert!(first.is_done() && second.is_done() && !third.is_done());
        first.done();
        assert!(second.is_done(), "knowledge is not lost");
    }
}
