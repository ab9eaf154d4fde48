//! What this process has opened. A forked child has opened nothing.

use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, RawFd};
use std::path::PathBuf;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};
use std::sync::{Arc, Mutex, Once as CallOnce};

use rustix::io::Errno;

use crate::connection::{Connection, lock};
use crate::device::Device;
use crate::report::Once;

/// The variable that says where the server listens; without it nothing here does anything.
pub(crate) const VARIABLE: &str = "ASGARD_KUMQUAT_SOCKET";

/// The state of the process with this id; replaced, never freed.
static PROCESS: AtomicPtr<Process> = AtomicPtr::new(ptr::null_mut());
/// The current connection's socket, which a forked child closes.
static SOCKET: AtomicI32 = AtomicI32::new(-1);

/// One process's connection and devices.
#[derive(Debug)]
pub(crate) struct Process {
    pid: libc::pid_t,
    path: PathBuf,
    connection: Mutex<Option<Arc<Connection>>>,
    devices: Mutex<Vec<Arc<Device>>>,
}

/// This process's state, if it has opened anything.
#[inline]
fn existing() -> Option<&'static Process> {
    let process = PROCESS.load(Ordering::Acquire);
    if process.is_null() {
        return None;
    }
    // SAFETY: only `current` stores other pointers than null, and it leaks what they point to.
    let process = unsafe { &*process };
    (process.pid == pid()).then_some(process)
}

/// This process's state, made if need be, or `None` when the variable is not set.
fn current() -> Option<&'static Process> {
    if let Some(process) = existing() {
        return Some(process);
    }
    let path = std::env::var_os(VARIABLE).filter(|path| !path.is_empty())?;
    let old = PROCESS.load(Ordering::Acquire);
    let new = Box::into_raw(Box::new(Process {
        pid: pid(),
        path: path.into(),
        connection: Mutex::default(),
        devices: Mutex::default(),
    }));
    if PROCESS
        .compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
        .is_err()
    {
        // SAFETY: another thread was faster, so nobody has seen ours.
        drop(unsafe { Box::from_raw(new) });
    }
    existing()
}

fn pid() -> libc::pid_t {
    // SAFETY: getpid has no requirements.
    unsafe { libc::getpid() }
}

/// In the child of a fork: forgets everything of the parent's, whose locks may be held for ever.
extern "C" fn after_fork() {
    PROCESS.store(ptr::null_mut(), Ordering::Release);
    let socket = SOCKET.swap(-1, Ordering::AcqRel);
    if socket >= 0 {
        // SAFETY: it is the parent's socket, whose owner in this process nobody can reach any more.
        // Were it left open, the server would take the parent for alive when it has ended.
        unsafe { libc::syscall(libc::SYS_close, socket) };
    }
}

/// A connection's socket is about to be closed, and its number may soon mean another file.
pub(crate) fn forget_socket(fd: RawFd) {
    let _ = SOCKET.compare_exchange(fd, -1, Ordering::AcqRel, Ordering::Relaxed);
}

impl Process {
    /// The connection: the one there is, or a new one if there is none or its server has died.
    fn connection(&self) -> Option<Arc<Connection>> {
        static FAILED: Once = Once::new();
        static REGISTER: CallOnce = CallOnce::new();
        let mut slot = lock(&self.connection);
        if let Some(connection) = slot.as_ref().filter(|connection| !connection.is_dead()) {
            return Some(Arc::clone(connection));
        }
        match Connection::open(&self.path) {
            Ok(connection) => {
                // SAFETY: the handler does only what a child may do between fork and exec.
                REGISTER.call_once(|| unsafe {
                    libc::pthread_atfork(None, None, Some(after_fork));
                });
                SOCKET.store(connection.raw_fd(), Ordering::Release);
                *slot = Some(Arc::clone(&connection));
                Some(connection)
            }
            Err(error) => {
                FAILED.tell(|| {
                    format!(
                        "no virtual GPU: cannot connect to {} ({error}); start the server there, \
                         or set {VARIABLE} to the path of the one that runs",
                        self.path.display()
                    )
                });
                None
            }
        }
    }
}

/// Whether there is a device: the variable is set and the server answers.
pub(crate) fn has_device() -> bool {
    current().is_some_and(|process| process.connection().is_some())
}

/// Opens the device. The new descriptor is closed on exec.
pub(crate) fn open() -> Result<RawFd, Errno> {
    let process = current().ok_or(Errno::NOENT)?;
    let connection = process.connection().ok_or(Errno::NODEV)?;
    let mut devices = lock(&process.devices);
    devices.retain(|device| {
        let open = device.is_open();
        if !open {
            device.close();
        }
        open
    });
    let (device, fd) = Device::open(connection)?;
    devices.push(Arc::new(device));
    Ok(fd.into_raw_fd())
}

/// The device behind a descriptor, if it is ours.
pub(crate) fn device(fd: RawFd) -> Option<Arc<Device>> {
    let process = existing()?;
    if fd < 0 {
        return None;
    }
    // SAFETY: the number is not negative. If no file is open there, fstat says so.
    let stat = rustix::fs::fstat(unsafe { BorrowedFd::borrow_raw(fd) }).ok()?;
    let devices = lock(&process.devices);
    devices
        .iter()
        .find(|device| device.is_behind(&stat))
        .cloned()
}

/// Whether this process has opened the device.
#[inline]
pub(crate) fn is_open() -> bool {
    !PROCESS.load(Ordering::Relaxed).is_null()
}

/// Whether a descriptor is an eventfd, in a process whose fences are such.
pub(crate) fn is_fence(fd: BorrowedFd<'_>) -> bool {
    existing().is_some() && fd.as_raw_fd() >= 0 && crate::sync_file::is_eventfd(fd)
}

#[cfg(test)]
mod tests {
    use std::os::fd::{FromRawFd, OwnedFd};

    use asgard_asg::kumquat::{Listener, Packet, Request, Response};

    use super::*;

    /// Whether a number means an open file, in a way that the child of a fork may ask.
    fn is_file(fd: RawFd) -> bool {
        // SAFETY: it only looks.
        unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
    }

    #[test]
    fn a_forked_child_starts_afresh() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = Listener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let socket = listener.accept().unwrap();
            let mut packet = Packet::default();
            assert!(socket.recv(&mut packet).unwrap());
            assert_eq!(packet.requests().next(), Some(Ok(Request::GetNumCapsets)));
            let mut reply = Vec::new();
            Response::NumCapsets { count: 0 }.write(&mut reply);
            socket.send(&reply, &[]).unwrap();
            socket
        });
        // SAFETY: no other test here reads or writes the environment.
        unsafe { std::env::set_var(VARIABLE, &path) };
        let fd = open().unwrap();
        let _socket = server.join().unwrap();
        // SAFETY: `open` has made it for its caller.
        let near = unsafe { OwnedFd::from_raw_fd(fd) };
        assert!(device(fd).is_some());
        let number = SOCKET.load(Ordering::Acquire);
        assert!(is_file(number));
        // SAFETY: the child calls nothing that could need a lock of another thread's.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let afresh = !is_open() && device(fd).is_none() && !is_file(number);
            // SAFETY: it ends the child without the clean-up that belongs to the parent.
            unsafe { libc::_exit(if afresh { 0 } else { 1 }) };
        }
        let mut status = -1;
        // SAFETY: the child is ours, and there is room for its status.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!(status, 0, "the child sees what its parent has opened");
        assert!(
            is_file(number) && device(fd).is_some(),
            "the parent keeps it"
        );
        drop(near);
        assert!(device(fd).is_none());
    }
}
