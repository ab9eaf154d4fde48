//! Fences: what is known of them without asking, and those that share their payload with others as sync files.
//!
//! Only a fence that was submitted and not seen signalled needs the host: what was never submitted is not
//! signalled, and what was seen signalled stays so until it is reset.
//! Of sync files the host knows nothing but how to make one of a fence.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use asgard_asg::submit::Command;
use asgard_protocol::extension::chosen_number;
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::*;
use crate::object::token_of;
use crate::process::Process;
use crate::vulkan::device::device;
use crate::vulkan::queue::Place;

/// A sync file that a program gave away; none stands for one that has signalled.
pub(super) type SyncFile = Option<Arc<OwnedFd>>;

/// The fences of a device.
#[derive(Debug, Default)]
pub(crate) struct Fences {
    /// By token.
    known: Mutex<HashMap<u64, Payload>>,
    /// Fences of our own behind which sync files of semaphores are made, each with its last.
    spare: Mutex<Vec<(VkFence, Arc<OwnedFd>)>>,
}

/// What a fence of the application's stands for at the moment.
#[derive(Debug)]
struct Payload {
    state: State,
    /// What was known of other queues when it was last certain that it is not signalled.
    dark: u64,
    /// In the place of the host's fence, until the next reset.
    imported: Option<SyncFile>,
    /// The host's fence still signals for the sync file that was made of it, which reset the
    /// application's.
    exported: Option<Arc<OwnedFd>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing signals it before it is submitted.
    Unsignalled,
    Submitted(Place),
    Signalled,
}

impl Payload {
    /// It shares its payload at the moment.
    fn is_shared(&self) -> bool {
        self.imported.is_some() || self.exported.is_some()
    }

    /// What is known of the host's fence.
    fn state(&mut self) -> State {
        if let State::Submitted(place) = self.state
            && place.is_done()
        {
            self.state = State::Signalled;
        }
        self.state
    }

    /// It is not signalled, and the host would say the same, if [`Self::state`] was called just before.
    fn is_dark(&self) -> bool {
        match self.state {
            State::Unsignalled => true,
            State::Submitted(place) => place.is_followed() && self.dark == place.news(),
            State::Signalled => false,
        }
    }

    /// The host's fence is signalled.
    fn signalled(&mut self) {
        if let State::Submitted(place) = self.state {
            place.done();
            self.state = State::Signalled;
        }
    }
}

impl Fences {
    fn change<T>(&self, fence: VkFence, change: impl FnOnce(&mut Payload) -> T) -> Option<T> {
        self.known.lock().get_mut(&fence.0).map(change)
    }

    /// The application submits a fence.
    pub(super) fn submitted(&self, fence: VkFence, place: Place) {
        self.change(fence, |payload| {
            payload.state = State::Submitted(place);
            // It is not sent yet.
            payload.dark = place.news();
        });
    }
}

/// Whether a sync file is readable, or becomes so before the end.
pub(super) fn wait_for(file: impl AsFd, end: Option<Instant>) -> bool {
    wait_for_any(&[file.as_fd()], end)
}

/// Whether one of these files is readable, or becomes so before the end.
fn wait_for_any(files: &[BorrowedFd<'_>], end: Option<Instant>) -> bool {
    let mut fds: Vec<PollFd<'_>> = files
        .iter()
        .map(|file| PollFd::from_borrowed_fd(*file, PollFlags::IN))
        .collect();
    loop {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        let left = left.map(|left| Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        match poll(&mut fds, left.as_ref()) {
            Err(Errno::INTR) => {}
            Ok(ready) => return ready > 0,
            // One that cannot be waited for will not signal later either.
            Err(_) => return true,
        }
    }
}

/// When a time-out of Vulkan's, in nanoseconds, is over; never if that is too far.
fn end_of(timeout: u64) -> Option<Instant> {
    Instant::now().checked_add(Duration::from_nanos(timeout))
}

/// Nanoseconds until then.
fn left_until(end: Option<Instant>) -> u64 {
    end.map_or(u64::MAX, |end| {
        let left = end.saturating_duration_since(Instant::now());
        u64::try_from(left.as_nanos()).unwrap_or(u64::MAX)
    })
}

/// A sync file that signals when the fence does, which was submitted to that queue.
fn make_sync_file(handle: VkDevice, fence: VkFence, queue: u64) -> Result<Arc<OwnedFd>, VkResult> {
    let process = Process::get().ok_or(VK_ERROR_DEVICE_LOST)?;
    if chosen_number(fence.0).is_some() {
        // The command does not go through the ring: what makes the fence must have arrived before.
        Driver.call(&mut p::vkGetFenceStatus {
            device: handle,
            fence,
            ..zeroed()
        });
    }
    // SAFETY: the application passes a live device, whose queues live as long.
    let (device, queue) = unsafe { (token_of(handle.0), token_of(queue)) };
    let command = Command::CreateExportSyncVk {
        device,
        fence: fence.0,
    };
    match process.device.sync_file(&command, queue) {
        Ok(file) => Ok(Arc::new(file)),
        Err(error) => {
            eprintln!("asgard: no sync file: {error}");
            Err(VK_ERROR_OUT_OF_HOST_MEMORY)
        }
    }
}

/// A copy of a sync file for the application.
pub(super) fn give(file: &SyncFile, to: *mut i32) -> VkResult {
    let fd = match file {
        None => -1,
        Some(file) => match file.try_clone() {
            Ok(copy) => copy.into_raw_fd(),
            Err(_) => return VK_ERROR_TOO_MANY_OBJECTS,
        },
    };
    // SAFETY: the application made room for a number.
    unsafe { *to = fd };
    VK_SUCCESS
}

/// Takes over what the application imports.
pub(super) fn take(fd: i32) -> SyncFile {
    // SAFETY: the application gives the descriptor away.
    (fd >= 0).then(|| Arc::new(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// The application is about to submit a fence.
pub(super) fn prepare(handle: VkDevice, fence: VkFence) -> VkResult {
    if fence.0 == 0 {
        return VK_SUCCESS;
    }
    // SAFETY: the application passes a live device.
    let exported = unsafe { device(handle) }.fences.change(fence, |payload| {
        payload.imported = None;
        payload.exported.take()
    });
    match exported.flatten() {
        None => VK_SUCCESS,
        Some(file) => {
            // What it signalled before is complete, or will be soon, and nobody has reset it yet.
            wait_for(&file, None);
            reset(handle, &[fence])
        }
    }
}

fn reset(device: VkDevice, fences: &[VkFence]) -> VkResult {
    if fences.is_empty() {
        return VK_SUCCESS;
    }
    Driver.tell(&mut p::vkResetFences {
        device,
        fenceCount: fences.len() as u32,
        pFences: fences.as_ptr(),
        ..zeroed()
    })
}

/// A sync file that signals once the queue has done what was submitted to it.
pub(super) fn sync_file_behind(handle: VkDevice, queue: VkQueue) -> Result<Arc<OwnedFd>, VkResult> {
    // SAFETY: the application passes a live device.
    let fences = unsafe { &device(handle).fences };
    let fence = spare(handle, fences)?;
    let ret = queue::submit(queue, None, fence);
    if ret != VK_SUCCESS {
        return Err(ret);
    }
    let file = make_sync_file(handle, fence, queue.0)?;
    fences.spare.lock().push((fence, Arc::clone(&file)));
    Ok(file)
}

/// A fence of our own that nobody uses.
fn spare(handle: VkDevice, fences: &Fences) -> Result<VkFence, VkResult> {
    let idle = {
        let mut spare = fences.spare.lock();
        let now = Some(Instant::now());
        let found = spare.iter().position(|(_, file)| wait_for(file, now));
        found.map(|index| spare.swap_remove(index).0)
    };
    if let Some(fence) = idle {
        return match reset(handle, &[fence]) {
            VK_SUCCESS => Ok(fence),
            error => Err(error),
        };
    }
    let info = VkFenceCreateInfo {
        sType: VK_STRUCTURE_TYPE_FENCE_CREATE_INFO,
        ..zeroed()
    };
    let mut fence = VkFence(0);
    match Driver.call(&mut p::vkCreateFence {
        device: handle,
        pCreateInfo: &raw const info,
        pFence: &raw mut fence,
        ..zeroed()
    }) {
        VK_SUCCESS => Ok(fence),
        error => Err(error),
    }
}

/// Ends what belongs to a device that is about to go.
pub(super) fn destroy_spare(handle: VkDevice, fences: &Fences) {
    for (fence, _) in fences.spare.lock().drain(..) {
        Driver.call(&mut p::vkDestroyFence {
            device: handle,
            fence,
            ..zeroed()
        });
    }
}

/// `vkGetFenceFdKHR`.
pub(super) fn get_fd(handle: VkDevice, info: &VkFenceGetFdInfoKHR, to: *mut i32) -> VkResult {
    if info.handleType != VK_EXTERNAL_FENCE_HANDLE_TYPE_SYNC_FD_BIT {
        return VK_ERROR_INVALID_EXTERNAL_HANDLE;
    }
    // SAFETY: the application passes a live device.
    let fences = unsafe { &device(handle).fences };
    let (state, imported) = (fences)
        .change(info.fence, |payload| {
            (payload.state, payload.imported.take())
        })
        .unwrap_or((State::Signalled, None));
    if let Some(file) = imported {
        return give(&file, to);
    }
    let queue = match state {
        State::Submitted(place) => place.queue.0,
        // It is signalled: no order matters.
        _ => 0,
    };
    match make_sync_file(handle, info.fence, queue) {
        Ok(file) => {
            let ret = give(&Some(Arc::clone(&file)), to);
            // Whoever exports a fence as a sync file has reset it.
            fences.change(info.fence, |payload| {
                payload.exported = Some(file);
                payload.state = State::Unsignalled;
            });
            ret
        }
        Err(error) => error,
    }
}

/// `vkImportFenceFdKHR`.
pub(super) fn import_fd(handle: VkDevice, info: &VkImportFenceFdInfoKHR) -> VkResult {
    if info.handleType != VK_EXTERNAL_FENCE_HANDLE_TYPE_SYNC_FD_BIT {
        return VK_ERROR_INVALID_EXTERNAL_HANDLE;
    }
    // SAFETY: the application passes a live device.
    let fences = unsafe { &device(handle).fences };
    let file = take(info.fd);
    fences.change(info.fence, |payload| payload.imported = Some(file));
    VK_SUCCESS
}

/// How long the host is asked about its fences before the sync files are looked at again, for a program
/// that waits for any of both.
const SLICE: std::ops::RangeInclusive<Duration> =
    Duration::from_micros(500)..=Duration::from_millis(16);

/// Waits for fences of which some are sync files.
fn wait(c: &mut p::vkWaitForFences, fences: &[VkFence], known: &Fences) -> VkResult {
    let end = end_of(c.timeout);
    let mut slice = *SLICE.start();
    let (mut hosts, mut files) = (Vec::new(), Vec::new());
    loop {
        let (mut done, mut waiting) = (0, 0);
        hosts.clear();
        files.clear();
        for fence in fences {
            match known.known.lock().get(&fence.0) {
                Some(Payload {
                    imported: Some(None),
                    ..
                }) => done += 1,
                Some(Payload {
                    imported: Some(Some(file)),
                    ..
                }) => files.push(Arc::clone(file)),
                // It is reset, and signals only once somebody has submitted it again.
                Some(Payload {
                    exported: Some(_), ..
                }) => waiting += 1,
                _ => hosts.push(*fence),
            }
        }
        if c.waitAll == 0 && done > 0 {
            return VK_SUCCESS;
        }
        if waiting == 0 || (c.waitAll == 0 && waiting < fences.len()) {
            break;
        }
        let left = Duration::from_nanos(left_until(end));
        if left.is_zero() {
            return VK_TIMEOUT;
        }
        std::thread::sleep(slice.min(left));
        slice = (slice * 2).min(*SLICE.end());
    }
    let ask = |fences: &[VkFence], timeout| {
        let ret = Driver.call(&mut p::vkWaitForFences {
            fenceCount: fences.len() as u32,
            pFences: fences.as_ptr(),
            timeout,
            ..*c
        });
        if ret == VK_SUCCESS {
            heard::of_any_queue();
        }
        ret
    };
    if c.waitAll != 0 {
        if !hosts.is_empty() {
            let ret = ask(&hosts, left_until(end));
            if ret != VK_SUCCESS {
                return ret;
            }
        }
        let all = files.iter().all(|file| wait_for(file, end));
        return if all { VK_SUCCESS } else { VK_TIMEOUT };
    }
    let files: Vec<BorrowedFd<'_>> = files.iter().map(|file| file.as_fd()).collect();
    if hosts.is_empty() {
        return if wait_for_any(&files, end) {
            VK_SUCCESS
        } else {
            VK_TIMEOUT
        };
    }
    loop {
        if !files.is_empty() && wait_for_any(&files, Some(Instant::now())) {
            return VK_SUCCESS;
        }
        let left = left_until(end);
        let time = if files.is_empty() {
            left
        } else {
            left.min(slice.as_nanos() as u64)
        };
        match ask(&hosts, time) {
            VK_TIMEOUT if time < left => slice = (slice * 2).min(*SLICE.end()),
            other => return other,
        }
    }
}

impl FenceCommands for Driver {
    fn vkCreateFence(&self, c: &mut p::vkCreateFence) -> VkResult {
        // SAFETY: the application passes a struct with its chain; it is copied and not changed.
        let info = unsafe { *c.pCreateInfo };
        // All that extends it is about other processes, of which the host's driver need not know.
        let plain = VkFenceCreateInfo {
            pNext: std::ptr::null(),
            ..info
        };
        c.pCreateInfo = &raw const plain;
        c.pAllocator = std::ptr::null();
        let made = c.pFence.cast();
        let ret = self.create(c, Kind::Fence, made, 1);
        if ret == VK_SUCCESS {
            let payload = Payload {
                state: match info.flags & VK_FENCE_CREATE_SIGNALED_BIT {
                    0 => State::Unsignalled,
                    _ => State::Signalled,
                },
                dark: 0,
                imported: None,
                exported: None,
            };
            // SAFETY: the application passes a live device and made room for a handle, which is filled.
            let (fences, token) = unsafe { (&device(c.device).fences, (*c.pFence).0) };
            fences.known.lock().insert(token, payload);
        }
        ret
    }

    fn vkDestroyFence(&self, c: &mut p::vkDestroyFence) {
        // SAFETY: the application passes a live device.
        let fences = unsafe { &device(c.device).fences };
        fences.known.lock().remove(&c.fence.0);
        c.pAllocator = std::ptr::null();
        let gone = c.fence.0;
        self.destroy(c, gone);
    }

    fn vkGetFenceStatus(&self, c: &mut p::vkGetFenceStatus) -> VkResult {
        // SAFETY: the application passes a live device.
        let device = unsafe { device(c.device) };
        let mut place = None;
        if let Some(payload) = device.fences.known.lock().get_mut(&c.fence.0) {
            match &payload.imported {
                Some(None) => return VK_SUCCESS,
                Some(Some(file)) if wait_for(file, Some(Instant::now())) => return VK_SUCCESS,
                Some(Some(_)) => return VK_NOT_READY,
                None if payload.exported.is_some() => return VK_NOT_READY,
                None => {}
            }
            match payload.state() {
                State::Signalled => return VK_SUCCESS,
                _ if payload.is_dark() && device.heard.lately() => return VK_NOT_READY,
                State::Submitted(submitted) => place = Some((submitted, submitted.news())),
                State::Unsignalled => {}
            }
        }
        let ret = device.heard.from(self.call(c));
        match (ret, place) {
            (VK_SUCCESS, _) => {
                device.fences.change(c.fence, Payload::signalled);
            }
            (VK_NOT_READY, Some((place, news))) => {
                device.fences.change(c.fence, |payload| {
                    if payload.state == State::Submitted(place) {
                        payload.dark = news;
                    }
                });
                place.refused();
            }
            _ => {}
        }
        ret
    }
}

/// `vkResetFences`.
pub(super) fn reset_all(c: &mut p::vkResetFences) -> VkResult {
    // SAFETY: the application passes a live device, and as many fences as it says.
    let (known, fences) = unsafe {
        let fences = std::slice::from_raw_parts(c.pFences, c.fenceCount as usize);
        (&device(c.device).fences, fences)
    };
    let hosts: Vec<VkFence> = {
        let mut known = known.known.lock();
        let is_hosts = |fence: &&VkFence| {
            known.get_mut(&fence.0).is_none_or(|payload| {
                payload.imported = None;
                let before = std::mem::replace(&mut payload.state, State::Unsignalled);
                before != State::Unsignalled && payload.exported.is_none()
            })
        };
        fences.iter().filter(is_hosts).copied().collect()
    };
    reset(c.device, &hosts)
}

/// `vkWaitForFences`.
pub(super) fn wait_all(c: &mut p::vkWaitForFences) -> VkResult {
    // SAFETY: the application passes a live device, and as many fences as it says.
    let (device, fences) = unsafe {
        let fences = std::slice::from_raw_parts(c.pFences, c.fenceCount as usize);
        (device(c.device), fences)
    };
    if let ([fence], 0) = (fences, c.timeout) {
        let status = Driver.vkGetFenceStatus(&mut p::vkGetFenceStatus {
            device: c.device,
            fence: *fence,
            ..zeroed()
        });
        return match status {
            VK_NOT_READY => VK_TIMEOUT,
            other => other,
        };
    }
    let all = c.waitAll != 0 || fences.len() == 1;
    let (mut signalled, mut dark) = (0, 0);
    {
        let mut known = device.fences.known.lock();
        for fence in fences {
            match known.get_mut(&fence.0) {
                Some(payload) if payload.is_shared() => {
                    drop(known);
                    return wait(c, fences, &device.fences);
                }
                Some(payload) => match payload.state() {
                    State::Signalled => signalled += 1,
                    _ if payload.is_dark() => dark += 1,
                    _ => {}
                },
                None => {}
            }
        }
    }
    if signalled == fences.len() || !all && signalled > 0 {
        return VK_SUCCESS;
    }
    let in_vain = dark == fences.len() || all && dark > 0;
    if in_vain && c.timeout == 0 && device.heard.lately() {
        return VK_TIMEOUT;
    }
    let ret = device.heard.from(Driver.call(c));
    if ret == VK_SUCCESS && !all {
        heard::of_any_queue();
    }
    if ret == VK_SUCCESS && all {
        let mut known = device.fences.known.lock();
        for fence in fences {
            if let Some(payload) = known.get_mut(&fence.0) {
                payload.signalled();
            }
        }
    }
    ret
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vulkan::queue::tests::places;

    #[test]
    fn a_fence_is_known_once_a_later_one_was_seen() {
        let fences = Fences::default();
        let all: [u64; 3] = [1, 2, 3];
        for fence in all {
            let payload = Payload {
                state: State::Unsignalled,
                dark: 0,
                imported: None,
                exported: None,
            };
            fences.known.lock().insert(fence, payload);
        }
        let places = places::<3>();
        for (fence, place) in all.into_iter().zip(places) {
            fences.submitted(VkFence(fence), place);
        }
        let states = || all.map(|fence| fences.change(VkFence(fence), Payload::state));
        assert_eq!(states(), places.map(|place| Some(State::Submitted(place))));
        fences.change(VkFence(2), Payload::signalled);
        let (lit, dark) = (Some(State::Signalled), Some(State::Submitted(places[2])));
        assert_eq!(states(), [lit, lit, dark]);
    }

    #[test]
    fn a_fence_that_was_not_submitted_is_not_signalled() {
        let mut payload = Payload {
            state: State::Unsignalled,
            dark: 0,
            imported: None,
            exported: None,
        };
        payload.signalled();
        assert_eq!(payload.state(), State::Unsignalled);
    }
}
