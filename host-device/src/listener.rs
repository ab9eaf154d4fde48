//! A listening socket that owns its path: it replaces a dead server's socket, never a live one's.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, chmodat, flock, open};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 64;

/// A listening socket; its path goes when it is dropped.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    path: PathBuf,
    /// Device and inode of the path, so that only our own socket is removed.
    identity: (u64, u64),
}

impl Listener {
    /// Listens on `path`, for this user only.
    /// A socket that nobody listens on is replaced; `AddrInUse` when somebody does, and
    /// `AlreadyExists` when the path is something else.
    pub fn bind(path: &Path, kind: SocketType) -> io::Result<Self> {
        // Whoever replaces a socket in this directory holds its lock, so that two servers that start together do
        // not both find the path free.
        let _lock = lock_directory(path)?;
        clear_stale(path, kind)?;
        let fd = socket(kind)?;
        bind(&fd, &SocketAddrUnix::new(path)?)?;
        // Nobody can connect before `listen`.
        chmodat(
            CWD,
            path,
            Mode::RUSR | Mode::WUSR,
            rustix::fs::AtFlags::empty(),
        )?;
        let identity = identity(path)?;
        listen(&fd, BACKLOG)?;
        Ok(Self {
            fd,
            path: path.to_owned(),
            identity,
        })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _lock = lock_directory(&self.path);
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let meta = std::fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

fn lock_directory(path: &Path) -> io::Result<OwnedFd> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let dir = open(
        parent,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    flock(&dir, FlockOperation::LockExclusive)?;
    Ok(dir)
}

/// Removes the socket of a server that is gone.
fn clear_stale(path: &Path, kind: SocketType) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "the path exists and is not a socket",
            ));
        }
        Ok(_) => {}
    }
    let probe = socket(kind)?;
    match connect(&probe, &SocketAddrUnix::new(path)?) {
        Err(rustix::io::Errno::CONNREFUSED) => std::fs::remove_file(path),
        Err(rustix::io::Errno::NOENT) => Ok(()),
        // Success, a full backlog, or a socket of another type: somebody is there.
        Ok(()) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::PROTOTYPE) => Err(
            io::Error::new(io::ErrorKind::AddrInUse, "another server listens there"),
        ),
        Err(error) => Err(error.into()),
    }
}

fn socket(kind: SocketType) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::UNIX, kind, flags, None)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn bind_there(path: &Path) -> io::Result<Listener> {
        Listener::bind(path, SocketType::SEQPACKET)
    }

    #[test]
    fn a_live_socket_is_not_stolen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let first = bind_there(&path).unwrap();
        let error = bind_there(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(path.exists());
        drop(first);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let dead = socket(SocketType::SEQPACKET).unwrap();
        bind(&dead, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        drop(dead);
        assert!(path.exists());
        let listener = bind_there(&path).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        drop(listener);
    }

    #[test]
    fn a_file_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        std::fs::write(&path, "precious").unwrap();
        let error = bind_there(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn only_its_own_path_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let old = bind_there(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let new = bind_there(&path).unwrap();
        drop(old);
        assert!(path.exists());
        drop(new);
    }
}
