//! A server to test, and a client that can say anything to it.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use asgard_asg::Mapping;
use asgard_asg::kumquat::{
    BLOB_FLAG_MAPPABLE, BLOB_MEM_HOST3D, CtxCreate, CtxResource, FENCE, Packet, RING_IDX, Request,
    ResourceCreateBlob, Response, Socket,
};
use asgard_asg::layout;
use asgard_asg::submit::Command as Submitted;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Bytes of a ring's blob.
pub(crate) const RING_BYTES: usize = layout::blob_size(layout::DEFAULT_BUFFER_SIZE);

pub(crate) fn asgard() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_asgard"));
    command.env_remove("RUST_LOG");
    command
}

/// Waits until `condition` holds.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn readable_within(fd: impl AsFd, patience: Duration) -> bool {
    let timeout = Timespec {
        tv_sec: patience.as_secs().cast_signed(),
        tv_nsec: patience.subsec_nanos().into(),
    };
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)).unwrap() > 0
}

/// Processes whose parent is `pid`.
pub(crate) fn children_of(pid: u32) -> Vec<u32> {
    let mut children = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(child) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        // After the name in brackets: state, parent.
        let parent = stat
            .rsplit(')')
            .next()
            .and_then(|rest| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        if parent == Some(pid) {
            children.push(child);
        }
    }
    children
}

pub(crate) fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Zombies have ended.
    stat.rsplit(')')
        .next()
        .is_some_and(|rest| !rest.trim_start().starts_with(['Z', 'X']) && !rest.is_empty())
}

pub(crate) fn kill(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    // It may have ended just now.
    let _ = rustix::process::kill_process(pid, signal);
}

pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) socket: PathBuf,
    log: PathBuf,
    ready: ChildStdout,
    _dir: tempfile::TempDir,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    pub(crate) fn start_with(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let log = dir.path().join("log");
        let mut command = asgard();
        command
            .args([
                "serve",
                "-v",
                "--renderer=null",
                "--ready-fd=1",
                "--kumquat-socket",
            ])
            .arg(&socket)
            .args(args);
        command
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log).unwrap());
        let mut child = command.spawn().unwrap();
        let ready = child.stdout.take().unwrap();
        let mut server = Self {
            child,
            socket,
            log,
            ready,
            _dir: dir,
        };
        let mut word = [0; 8];
        let read = server.ready.read_exact(&mut word);
        assert!(read.is_ok(), "the server did not start: {}", server.log());
        assert_eq!(u64::from_ne_bytes(word), 1);
        server
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn connect(&self) -> Client {
        Client {
            socket: Socket::connect(&self.socket).unwrap(),
        }
    }

    /// A client with a context, and the process that serves it.
    pub(crate) fn connect_and_find(&self) -> (Client, u32) {
        let served = || -> Vec<u32> {
            let log = self.log();
            let lines = log
                .lines()
                .filter(|line| line.contains("a guest connected"));
            lines
                .filter_map(|line| line.rsplit_once("worker=")?.1.parse().ok())
                .collect()
        };
        let before = served().len();
        let client = self.connect();
        let ctx = client.context();
        assert_eq!(ctx, 1);
        // The log told it before the worker knew.
        (client, served()[before])
    }

    pub(crate) fn workers(&self) -> Vec<u32> {
        children_of(self.child.id())
    }

    /// Only the spare is left.
    pub(crate) fn is_idle(&self) -> bool {
        let workers = self.workers();
        workers.len() <= 1 && workers.iter().all(|pid| !serves(*pid))
    }
}

/// Whether a worker has a connection: its watchdog thread runs.
fn serves(pid: u32) -> bool {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    tasks.flatten().any(|task| {
        std::fs::read_to_string(task.path().join("comm"))
            .is_ok_and(|name| name.trim() == "watchdog")
    })
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the server's log:\n{}", self.log());
        }
    }
}

/// A response with nothing borrowed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Errno(u32),
    Number(u32),
    Bytes(Vec<u8>),
    Resource(u32),
    Fence(u64),
}

pub(crate) struct Client {
    pub(crate) socket: Socket,
}

impl Client {
    pub(crate) fn send(&self, request: &Request<'_>) {
        self.send_with(request, &[]);
    }

    pub(crate) fn send_with(&self, request: &Request<'_>, fds: &[BorrowedFd<'_>]) {
        let mut bytes = Vec::new();
        request.write(&mut bytes);
        self.socket.send(&bytes, fds).unwrap();
    }

    pub(crate) fn receive(&self) -> Option<(Answer, Vec<OwnedFd>)> {
        assert!(readable_within(&self.socket, PATIENCE), "no answer");
        let mut packet = Packet::default();
        if !self.socket.recv(&mut packet).unwrap() {
            return None;
        }
        let answer = match packet.responses().next().unwrap().unwrap() {
            Response::NoData { errno } => Answer::Errno(errno),
            Response::NumCapsets { count } => Answer::Number(count),
            Response::CapsetInfo(info) => Answer::Number(info.size),
            Response::Capset(bytes) => Answer::Bytes(bytes.to_vec()),
            Response::ContextCreate { ctx_id } => Answer::Number(ctx_id),
            Response::ResourceCreate(resource) => Answer::Resource(resource.resource_id),
            Response::CmdSubmit3d(submit) => Answer::Fence(submit.fence_id),
            other => panic!("unexpected {other:?}"),
        };
        Some((answer, std::mem::take(&mut packet.fds)))
    }

    pub(crate) fn ask(&self, request: &Request<'_>) -> (Answer, Vec<OwnedFd>) {
        self.send(request);
        self.receive().expect("the connection ended")
    }

    /// The server has hung up, after whatever it still said.
    pub(crate) fn is_hung_up(&self) -> bool {
        while let Some((answer, _)) = self.receive() {
            eprintln!("before the end: {answer:?}");
        }
        true
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.ask(&Request::GetNumCapsets).0 == Answer::Number(1)
    }

    pub(crate) fn context(&self) -> u32 {
        match self.ask(&Request::CtxCreate(CtxCreate::new(3, b"test"))).0 {
            Answer::Number(ctx_id) => ctx_id,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn ask_blob(&self, ctx_id: u32, blob_id: u64, size: u64) -> (Answer, Vec<OwnedFd>) {
        self.ask(&Request::ResourceCreateBlob(ResourceCreateBlob {
            ctx_id,
            blob_mem: BLOB_MEM_HOST3D,
            blob_flags: BLOB_FLAG_MAPPABLE,
            padding: 0,
            blob_id,
            size,
        }))
    }

    pub(crate) fn blob(&self, ctx_id: u32, blob_id: u64, size: u64) -> (u32, OwnedFd) {
        match self.ask_blob(ctx_id, blob_id, size) {
            (Answer::Resource(res_id), mut fds) => (res_id, fds.pop().unwrap()),
            (other, _) => panic!("{other:?}"),
        }
    }

    /// Submits with a fence; on `ring_idx`, or on the global timeline.
    pub(crate) fn submit(
        &self,
        ctx_id: u32,
        ring_idx: Option<u8>,
        command: Submitted,
    ) -> (Answer, Vec<OwnedFd>) {
        self.submit_after(ctx_id, ring_idx, &[], command)
    }

    pub(crate) fn submit_after(
        &self,
        ctx_id: u32,
        ring_idx: Option<u8>,
        in_fences: &[u64],
        command: Submitted,
    ) -> (Answer, Vec<OwnedFd>) {
        let mut bytes = Vec::new();
        command.write(&mut bytes);
        self.ask(&Request::Submit3d {
            flags: FENCE | if ring_idx.is_some() { RING_IDX } else { 0 },
            ctx_id,
            ring_idx: ring_idx.unwrap_or(0),
            in_fences: in_fences.to_vec(),
            command: &bytes,
        })
    }

    pub(crate) fn submit_unfenced(&self, ctx_id: u32, command: Submitted) {
        let mut bytes = Vec::new();
        command.write(&mut bytes);
        self.send(&Request::Submit3d {
            flags: 0,
            ctx_id,
            ring_idx: 0,
            in_fences: Vec::new(),
            command: &bytes,
        });
    }

    /// A blob with a consumer on it, mapped.
    pub(crate) fn ring(&self, ctx_id: u32) -> (u32, Arc<Mapping>) {
        self.try_ring(ctx_id).expect("no ring")
    }

    /// The same, unless the server refuses.
    pub(crate) fn try_ring(&self, ctx_id: u32) -> Option<(u32, Arc<Mapping>)> {
        let (resource_id, fd) = self.blob(ctx_id, 0, RING_BYTES as u64);
        let (answer, fences) = self.submit(ctx_id, None, Submitted::ContextCreate { resource_id });
        if let Answer::Errno(_) = answer {
            self.detach(ctx_id, resource_id);
            return None;
        }
        assert!(matches!(answer, Answer::Fence(_)), "{answer:?}");
        assert!(readable_within(&fences[0], PATIENCE));
        let memory = Mapping::map(&fd, 0, RING_BYTES).unwrap();
        Some((resource_id, Arc::new(memory)))
    }

    pub(crate) fn detach(&self, ctx_id: u32, resource_id: u32) {
        self.send(&Request::CtxDetach(CtxResource {
            ctx_id,
            resource_id,
        }));
    }
}

/// Raw bytes, as no client sends them.
pub(crate) fn send_raw(socket: &Socket, bytes: &[u8]) {
    rustix::net::send(socket, bytes, rustix::net::SendFlags::NOSIGNAL).unwrap();
}

pub(crate) fn exists(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}
