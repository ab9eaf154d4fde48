//! Semaphores: what timelines have reached, and those that share their payload with others as sync files.
//!
//! What a timeline has reached is known while nothing that was submitted may change it.
//!
//! A sync file of a semaphore is one of a fence behind the batch that signals it. The export counts as a wait
//! for the semaphore; the host's is waited for when it is to be signalled again, because a driver may block in
//! a submission that waits for one whose signal is not on its way.
//! An imported sync file is waited for before the batch that waits for it is sent, which then waits for a
//! semaphore of ours that is signalled.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::*;
use crate::vulkan::device::device;
use crate::vulkan::fence::{SyncFile, give, sync_file_behind, take, wait_for};
use crate::vulkan::image::find;
use crate::vulkan::queue::Place;

/// The semaphores of a device.
#[derive(Debug, Default)]
pub(crate) struct Semaphores {
    /// Any takes part in sharing.
    any: AtomicBool,
    /// Those that do, by token.
    known: Mutex<HashMap<u64, Payload>>,
    /// There are timelines.
    any_timeline: AtomicBool,
    /// By token.
    timelines: Mutex<HashMap<u64, Timeline>>,
}

/// What is known of a timeline.
#[derive(Debug)]
struct Timeline {
    /// It has reached this.
    value: u64,
    /// What submissions that may not be complete signal it to.
    pending: VecDeque<(u64, Place)>,
    /// What was known of other queues than the pending ones' when the host was last asked.
    asked: Option<(VkQueue, u64)>,
    /// Not all that is pending is remembered.
    forgotten: bool,
}

/// So many signals of a timeline are remembered: nobody asks for the older ones, or they would be known.
const MOST_PENDING: usize = 64;

impl Timeline {
    /// It has reached a value.
    fn reach(&mut self, value: u64) {
        self.value = self.value.max(value);
        self.pending.retain(|(pending, place)| {
            let waits = *pending > value;
            if !waits {
                place.reached();
            }
            waits
        });
    }

    /// What it has reached, as far as is known, and whether that is all.
    fn value(&mut self) -> (u64, bool) {
        let done = self.pending.iter().filter(|(_, place)| place.is_done());
        if let Some(value) = done.map(|(value, _)| *value).max() {
            self.reach(value);
        }
        (self.value, self.pending.is_empty() || self.is_followed())
    }

    /// The host shows when it reaches more, and has said what it has reached.
    fn is_followed(&self) -> bool {
        let Some((_, last)) = self.pending.back() else {
            return false;
        };
        let same = |(_, place): &(u64, Place)| place.queue == last.queue;
        let news = Some((last.queue, last.news()));
        !self.forgotten && self.asked == news && last.is_followed() && self.pending.iter().all(same)
    }
}

/// What a semaphore of the application's stands for at the moment.
#[derive(Debug, Default)]
struct Payload {
    /// The handle of the queue that was last told to signal it.
    queue: u64,
    /// The host's semaphore is signalled, and the application's not, since a sync file was made of it.
    exported: bool,
    /// In the place of the host's semaphore, until the next wait.
    imported: Option<SyncFile>,
    /// What the host waits for in its place.
    spare: VkSemaphore,
}

impl Semaphores {
    fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    fn change<T>(&self, semaphore: VkSemaphore, change: impl FnOnce(&mut Payload) -> T) -> T {
        self.any.store(true, Ordering::Release);
        change(self.known.lock().entry(semaphore.0).or_default())
    }

    /// The application submits a signal of a timeline; other semaphores have no values.
    pub(super) fn submitted(&self, semaphore: VkSemaphore, value: u64, place: Place) {
        if !self.any_timeline.load(Ordering::Acquire) {
            return;
        }
        if let Some(timeline) = self.timelines.lock().get_mut(&semaphore.0) {
            if timeline.pending.len() == MOST_PENDING {
                timeline.value();
            }
            if timeline.pending.len() == MOST_PENDING {
                timeline.pending.pop_front();
                timeline.forgotten = true;
            }
            if timeline.pending.is_empty() {
                // It is not sent yet.
                timeline.asked = Some((place.queue, place.news()));
                timeline.forgotten = false;
            }
            timeline.pending.push_back((value, place));
        }
    }

    fn reach(&self, semaphore: VkSemaphore, value: u64) {
        if let Some(timeline) = self.timelines.lock().get_mut(&semaphore.0) {
            timeline.reach(value);
        }
    }

    /// The last submission that signals a timeline, with what is known of other queues.
    fn last(&self, semaphore: VkSemaphore) -> Option<(Place, u64)> {
        let timelines = self.timelines.lock();
        let (_, place) = timelines.get(&semaphore.0)?.pending.back()?;
        Some((*place, place.news()))
    }

    /// The host was asked what a timeline has reached.
    fn asked(&self, semaphore: VkSemaphore, value: u64, last: Option<(Place, u64)>) {
        let mut timelines = self.timelines.lock();
        let Some(timeline) = timelines.get_mut(&semaphore.0) else {
            return;
        };
        timeline.reach(value);
        let waits = !timeline.pending.is_empty();
        if let Some((place, news)) = last.filter(|_| waits) {
            timeline.asked = Some((place.queue, news));
            drop(timelines);
            place.refused();
        }
    }

    fn value(&self, semaphore: VkSemaphore) -> Option<(u64, bool)> {
        let mut timelines = self.timelines.lock();
        timelines.get_mut(&semaphore.0).map(Timeline::value)
    }
}

/// Whether submissions have to be looked at.
pub(super) fn any(handle: VkDevice) -> bool {
    // SAFETY: the application passes a live device.
    unsafe { device(handle) }.semaphores.any()
}

/// The application is about to have a queue signal a semaphore.
pub(super) fn signalled(handle: VkDevice, queue: VkQueue, semaphore: VkSemaphore) -> VkResult {
    // SAFETY: the application passes a live device.
    let semaphores = unsafe { &device(handle).semaphores };
    let exported = match semaphores.known.lock().get_mut(&semaphore.0) {
        None => return VK_SUCCESS,
        Some(payload) => {
            payload.queue = queue.0;
            std::mem::take(&mut payload.exported)
        }
    };
    if !exported {
        return VK_SUCCESS;
    }
    let stage = VK_PIPELINE_STAGE_ALL_COMMANDS_BIT;
    let wait = VkSubmitInfo {
        sType: VK_STRUCTURE_TYPE_SUBMIT_INFO,
        waitSemaphoreCount: 1,
        pWaitSemaphores: &raw const semaphore,
        pWaitDstStageMask: &raw const stage,
        ..zeroed()
    };
    queue::submit(queue, Some(&wait), VkFence(0))
}

/// What a queue of the host's has to wait for if the application has it wait for this semaphore.
pub(super) fn waited(
    handle: VkDevice,
    queue: VkQueue,
    semaphore: VkSemaphore,
) -> Result<VkSemaphore, VkResult> {
    // SAFETY: the application passes a live device.
    let semaphores = unsafe { &device(handle).semaphores };
    let (file, mut spare) = match semaphores.known.lock().get_mut(&semaphore.0) {
        Some(payload) => match payload.imported.take() {
            Some(file) => (file, payload.spare),
            None => return Ok(semaphore),
        },
        None => return Ok(semaphore),
    };
    if let Some(file) = file {
        wait_for(&*file, None);
    }
    if spare.0 == 0 {
        let info = VkSemaphoreCreateInfo {
            sType: VK_STRUCTURE_TYPE_SEMAPHORE_CREATE_INFO,
            ..zeroed()
        };
        let ret = Driver.call(&mut p::vkCreateSemaphore {
            device: handle,
            pCreateInfo: &raw const info,
            pSemaphore: &raw mut spare,
            ..zeroed()
        });
        if ret != VK_SUCCESS {
            return Err(ret);
        }
        semaphores.change(semaphore, |payload| payload.spare = spare);
    }
    let signal = VkSubmitInfo {
        sType: VK_STRUCTURE_TYPE_SUBMIT_INFO,
        signalSemaphoreCount: 1,
        pSignalSemaphores: &raw const spare,
        ..zeroed()
    };
    let ret = queue::submit(queue, Some(&signal), VkFence(0));
    if ret == VK_SUCCESS {
        Ok(spare)
    } else {
        Err(ret)
    }
}

/// `vkGetSemaphoreFdKHR`.
pub(super) fn get_fd(handle: VkDevice, info: &VkSemaphoreGetFdInfoKHR, to: *mut i32) -> VkResult {
    if info.handleType != VK_EXTERNAL_SEMAPHORE_HANDLE_TYPE_SYNC_FD_BIT {
        return VK_ERROR_INVALID_EXTERNAL_HANDLE;
    }
    // SAFETY: the application passes a live device.
    let device = unsafe { device(handle) };
    let (queue, imported) = device.semaphores.change(info.semaphore, |payload| {
        (payload.queue, payload.imported.take())
    });
    if let Some(file) = imported {
        return give(&file, to);
    }
    let queue = match queue {
        0 => device.first_queue(handle),
        queue => VkQueue(queue),
    };
    match sync_file_behind(handle, queue) {
        Ok(file) => {
            device
                .semaphores
                .change(info.semaphore, |payload| payload.exported = true);
            give(&Some(file), to)
        }
        Err(error) => error,
    }
}

/// `vkImportSemaphoreFdKHR`.
pub(super) fn import_fd(handle: VkDevice, info: &VkImportSemaphoreFdInfoKHR) -> VkResult {
    if info.handleType != VK_EXTERNAL_SEMAPHORE_HANDLE_TYPE_SYNC_FD_BIT {
        return VK_ERROR_INVALID_EXTERNAL_HANDLE;
    }
    // SAFETY: the application passes a live device.
    let semaphores = unsafe { &device(handle).semaphores };
    let file = take(info.fd);
    semaphores.change(info.semaphore, |payload| payload.imported = Some(file));
    VK_SUCCESS
}

impl SemaphoreCommands for Driver {
    fn vkCreateSemaphore(&self, c: &mut p::vkCreateSemaphore) -> VkResult {
        c.pAllocator = std::ptr::null();
        // SAFETY: the application passes a struct with its chain; it is copied and not changed.
        let (info, export, kind) = unsafe {
            let info = *c.pCreateInfo;
            let export = VK_STRUCTURE_TYPE_EXPORT_SEMAPHORE_CREATE_INFO;
            let kind = VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO;
            (
                info,
                find::<VkExportSemaphoreCreateInfo>(info.pNext, export),
                find::<VkSemaphoreTypeCreateInfo>(info.pNext, kind),
            )
        };
        let timeline = kind.filter(|kind| kind.semaphoreType == VK_SEMAPHORE_TYPE_TIMELINE);
        if let (None, Some(kind)) = (export, timeline) {
            let made = c.pSemaphore.cast::<u64>();
            let ret = self.create(c, Kind::Semaphore, made, 1);
            if ret == VK_SUCCESS {
                let timeline = Timeline {
                    value: kind.initialValue,
                    pending: VecDeque::new(),
                    asked: None,
                    forgotten: false,
                };
                // SAFETY: the application passes a live device and made room for a handle, which is filled.
                let (semaphores, token) = unsafe { (&device(c.device).semaphores, *made) };
                semaphores.timelines.lock().insert(token, timeline);
                semaphores.any_timeline.store(true, Ordering::Release);
            }
            return ret;
        }
        if export.is_none() {
            let made = c.pSemaphore.cast();
            return self.create(c, Kind::Semaphore, made, 1);
        }
        // Other processes are not the host's business.
        let kind = kind.map(|kind| VkSemaphoreTypeCreateInfo {
            pNext: std::ptr::null(),
            ..*kind
        });
        let plain = VkSemaphoreCreateInfo {
            pNext: kind
                .as_ref()
                .map_or(std::ptr::null(), |kind| std::ptr::from_ref(kind).cast()),
            ..info
        };
        c.pCreateInfo = &raw const plain;
        let made = c.pSemaphore.cast();
        let ret = self.create(c, Kind::Semaphore, made, 1);
        if ret == VK_SUCCESS {
            // SAFETY: the application passes a live device and made room for a handle, which is filled.
            unsafe { device(c.device).semaphores.change(*c.pSemaphore, |_| ()) };
        }
        ret
    }

    fn vkDestroySemaphore(&self, c: &mut p::vkDestroySemaphore) {
        // SAFETY: the application passes a live device.
        let semaphores = unsafe { &device(c.device).semaphores };
        c.pAllocator = std::ptr::null();
        if semaphores.any_timeline.load(Ordering::Acquire) {
            semaphores.timelines.lock().remove(&c.semaphore.0);
        }
        if semaphores.any()
            && let Some(payload) = semaphores.known.lock().remove(&c.semaphore.0)
            && payload.spare.0 != 0
        {
            self.call(&mut p::vkDestroySemaphore {
                semaphore: payload.spare,
                ..*c
            });
        }
        let gone = c.semaphore.0;
        self.destroy(c, gone);
    }

    fn vkGetSemaphoreCounterValue(&self, c: &mut p::vkGetSemaphoreCounterValue) -> VkResult {
        // SAFETY: the application passes a live device, and room for a number.
        let (device, to) = unsafe { (device(c.device), &mut *c.pValue) };
        if let Some((value, true)) = device.semaphores.value(c.semaphore)
            && device.heard.lately()
        {
            *to = value;
            return VK_SUCCESS;
        }
        let last = device.semaphores.last(c.semaphore);
        let ret = device.heard.from(self.call(c));
        if ret == VK_SUCCESS {
            device.semaphores.asked(c.semaphore, *to, last);
        }
        ret
    }
}

/// `vkSignalSemaphore`.
pub(super) fn signal(c: &mut p::vkSignalSemaphore) -> VkResult {
    // SAFETY: the application passes a live device and a struct.
    let (device, info) = unsafe { (device(c.device), *c.pSignalInfo) };
    let ret = Driver.tell_now(c);
    if ret == VK_SUCCESS {
        device.semaphores.reach(info.semaphore, info.value);
    }
    ret
}

/// `vkWaitSemaphores`.
pub(super) fn wait(c: &mut p::vkWaitSemaphores) -> VkResult {
    // SAFETY: the application passes a live device, a struct, and as many semaphores and values as it says.
    let (device, info, semaphores, values) = unsafe {
        let info = &*c.pWaitInfo;
        let count = info.semaphoreCount as usize;
        (
            device(c.device),
            info,
            std::slice::from_raw_parts(info.pSemaphores, count),
            std::slice::from_raw_parts(info.pValues, count),
        )
    };
    if let ([semaphore], [value], 0) = (semaphores, values, c.timeout) {
        let mut reached = 0;
        let ret = Driver.vkGetSemaphoreCounterValue(&mut p::vkGetSemaphoreCounterValue {
            device: c.device,
            semaphore: *semaphore,
            pValue: &raw mut reached,
            ..zeroed()
        });
        return match ret {
            VK_SUCCESS if reached < *value => VK_TIMEOUT,
            other => other,
        };
    }
    let all = info.flags & VK_SEMAPHORE_WAIT_ANY_BIT == 0 || semaphores.len() == 1;
    let (mut reached, mut in_vain) = (0, 0);
    for (semaphore, value) in semaphores.iter().zip(values) {
        match device.semaphores.value(*semaphore) {
            Some((known, _)) if known >= *value => reached += 1,
            Some((_, true)) => in_vain += 1,
            _ => {}
        }
    }
    if reached == semaphores.len() || !all && reached > 0 {
        return VK_SUCCESS;
    }
    let in_vain = in_vain == semaphores.len() || all && in_vain > 0;
    if in_vain && c.timeout == 0 && device.heard.lately() {
        return VK_TIMEOUT;
    }
    let ret = device.heard.from(Driver.call(c));
    if ret == VK_SUCCESS && !all {
        heard::of_any_queue();
    }
    if ret == VK_SUCCESS && all {
        for (semaphore, value) in semaphores.iter().zip(values) {
            device.semaphores.reach(*semaphore, *value);
        }
    }
    ret
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vulkan::queue::tests::places;

    fn timeline() -> (Semaphores, VkSemaphore) {
        let semaphores = Semaphores::default();
        let timeline = Timeline {
            value: 5,
            pending: VecDeque::new(),
            asked: None,
            forgotten: false,
        };
        semaphores.timelines.lock().insert(7, timeline);
        semaphores.any_timeline.store(true, Ordering::Release);
        (semaphores, VkSemaphore(7))
    }

    #[test]
    fn a_timeline_is_known_while_nothing_is_submitted() {
        let (semaphores, timeline) = timeline();
        assert_eq!(semaphores.value(timeline), Some((5, true)));
        assert_eq!(semaphores.value(VkSemaphore(8)), None);
        let [first, second] = places();
        semaphores.submitted(timeline, 6, first);
        semaphores.submitted(timeline, 9, second);
        assert_eq!(semaphores.value(timeline), Some((5, false)));
        first.done();
        assert_eq!(semaphores.value(timeline), Some((6, false)));
        // The application's own signal, and then the device's.
        semaphores.reach(timeline, 8);
        assert_eq!(semaphores.value(timeline), Some((8, false)));
        semaphores.reach(timeline, 9);
        assert_eq!(semaphores.value(timeline), Some((9, true)));
        assert!(first.is_done() && !second.is_done());
    }

    #[test]
    fn many_signals_are_not_remembered_for_ever() {
        let (semaphores, timeline) = timeline();
        let places = places::<200>();
        for (value, place) in (6..).zip(places) {
            semaphores.submitted(timeline, value, place);
        }
        let pending = semaphores.timelines.lock()[&7].pending.len();
        assert_eq!(pending, MOST_PENDING);
        places[199].done();
        assert_eq!(semaphores.value(timeline), Some((205, true)));
    }
}
