//! What the driver asks of sync files, for the eventfds that it has instead.
//!
//! Both are readable from the moment they signal on, so that polling needs no help. Merging two, and
//! asking one for its state, do.

use std::os::fd::{AsFd, BorrowedFd, IntoRawFd};

use bytemuck::{Pod, Zeroable};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

/// The number of `SYNC_IOC_MERGE`, and of `SYNC_IOC_FILE_INFO`, with their type `'>'`.
pub(crate) const MERGE: u32 = 0xc030_3e03;
pub(crate) const FILE_INFO: u32 = 0xc038_3e04;

/// The argument of [`MERGE`].
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Merge {
    pub(crate) name: [u8; 32],
    pub(crate) fd2: i32,
    pub(crate) fence: i32,
    pub(crate) flags: u32,
    pub(crate) pad: u32,
}

/// The argument of [`FILE_INFO`].
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct FileInfo {
    pub(crate) name: [u8; 32],
    pub(crate) status: i32,
    pub(crate) flags: u32,
    pub(crate) num_fences: u32,
    pub(crate) pad: u32,
    pub(crate) sync_fence_info: u64,
}

/// Whether the fence has signalled, after waiting for it without end or not at all.
pub(crate) fn signalled(fence: impl AsFd, wait: bool) -> bool {
    let mut fds = [PollFd::new(&fence, PollFlags::IN)];
    let zero = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let timeout = if wait { None } else { Some(&zero) };
    let ready = rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, timeout));
    // A descriptor that cannot be polled will not signal later either.
    !matches!(ready, Ok(0))
}

/// Whether it is an eventfd, which is what the server's fences are.
pub(crate) fn is_eventfd(fd: BorrowedFd<'_>) -> bool {
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
    rustix::fs::readlink(path, Vec::new())
        .is_ok_and(|name| name.as_bytes() == b"anon_inode:[eventfd]")
}

/// A fence that signals when both have. It waits for the first: an eventfd cannot stand for two.
pub(crate) fn merge(fence: BorrowedFd<'_>, argument: &mut Merge) -> Result<(), Errno> {
    if argument.fd2 < 0 {
        return Err(Errno::BADF);
    }
    // SAFETY: the number is not negative; if no file is open there, the calls below say so.
    let other = unsafe { BorrowedFd::borrow_raw(argument.fd2) };
    rustix::io::fcntl_getfd(other)?;
    let last = if signalled(other, false) {
        fence
    } else {
        signalled(fence, true);
        other
    };
    argument.fence = rustix::io::fcntl_dupfd_cloexec(last, 0)?.into_raw_fd();
    Ok(())
}

/// One fence, signalled or not, without details.
pub(crate) fn info(fence: BorrowedFd<'_>, argument: &mut FileInfo) {
    let name = b"asgard";
    argument.name = [0; 32];
    argument.name[..name.len()].copy_from_slice(name);
    argument.status = i32::from(signalled(fence, false));
    argument.flags = 0;
    if argument.num_fences == 0 || argument.sync_fence_info == 0 {
        argument.num_fences = 1;
    } else {
        argument.num_fences = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{FromRawFd, OwnedFd};

    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    fn fence(value: u32) -> OwnedFd {
        eventfd(value, EventfdFlags::CLOEXEC).unwrap()
    }

    #[test]
    fn a_merged_fence_signals_when_both_have() {
        let (a, b) = (fence(1), fence(0));
        let mut argument = Merge::zeroed();
        argument.fd2 = std::os::fd::AsRawFd::as_raw_fd(&b);
        merge(a.as_fd(), &mut argument).unwrap();
        // SAFETY: the merge has made this descriptor for its caller.
        let merged = unsafe { OwnedFd::from_raw_fd(argument.fence) };
        assert!(!signalled(&merged, false));
        rustix::io::write(&b, &1_u64.to_ne_bytes()).unwrap();
        assert!(signalled(&merged, true));
    }

    #[test]
    fn only_eventfds_are_taken_for_fences() {
        assert!(is_eventfd(fence(0).as_fd()));
        assert!(!is_eventfd(std::io::stdin().as_fd()));
    }

    #[test]
    fn the_state_is_told() {
        let mut argument = FileInfo::zeroed();
        info(fence(1).as_fd(), &mut argument);
        assert_eq!((argument.status, argument.num_fences), (1, 1));
        info(fence(0).as_fd(), &mut argument);
        assert_eq!(argument.status, 0);
    }
}
