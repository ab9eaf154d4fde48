//! The ways of attaching a guest, one file each, and what they share.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use asgard_asg::kumquat as wire;
use asgard_asg::kumquat::Socket;
use rustix::event::{PollFd, PollFlags, poll};

use crate::Error;
use crate::device::Summary;

pub mod kumquat;
pub mod linked;
pub mod qmp;
pub mod vhost_user;

/// How long the whole process gets.
const LAST_PATIENCE: Duration = Duration::from_secs(15);

/// Why a connection ended before the guest closed it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// A packet that cannot be read.
    #[error("malformed packet: {0}")]
    Packet(#[from] wire::Error),
    /// A packet that is too large or carries too many descriptors.
    #[error("oversized packet")]
    Oversized,
    /// A request that cannot be obeyed and has no reply to say so.
    #[error("{request}: {error}")]
    Request {
        /// Which request.
        request: &'static str,
        /// What is wrong with it.
        error: Error,
    },
    /// The socket failed.
    #[error("socket: {0}")]
    Socket(io::Error),
}

/// What the connection came to.
#[derive(Debug)]
pub struct Outcome {
    /// What went through.
    pub summary: Summary,
    /// Why it ended, unless the guest just left.
    pub fault: Option<Fault>,
    /// Some threads are stuck in the driver: the process should end without further ado.
    pub stuck: bool,
}

/// A guest may leave while some thread of ours is stuck (in the driver, or in a descriptor of the
/// guest's): the process must not outlive it for long.
fn watch_for_hangup(socket: &Socket) -> io::Result<()> {
    let fd = socket.as_fd().try_clone_to_owned()?;
    let watch = move || {
        let mut fds = [PollFd::new(&fd, PollFlags::empty())];
        while poll(&mut fds, None).is_err() {}
        std::thread::sleep(LAST_PATIENCE);
        tracing::error!("the guest left, and its renderer did not end in time");
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    };
    std::thread::Builder::new()
        .name("watchdog".to_owned())
        .spawn(watch)?;
    Ok(())
}
