//! One worker process per connection.
//!
//! The supervisor listens, and hands each connection to a process of its own; it never reads a
//! byte from a guest itself.
//! A guest that brings the host's Vulkan driver down kills its own worker and nothing else, and
//! all memory and threads of a guest vanish with its process.
//! One spare worker waits with the driver already loaded, so that a new guest does not pay for it.
//!
//! A worker is this executable again, with a control socket as its standard input: the connection
//! arrives there, and the worker's [`Report`]s leave there.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use asgard_asg::kumquat::{Packet, Socket};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::SocketFlags;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::device::Summary;
use crate::listener::Listener;

/// How long workers get to obey SIGTERM, and then to die.
const GRACE: Duration = Duration::from_secs(3);

/// How often a connection is handed to a worker that dies before it takes it.
const MAX_ATTEMPTS: u32 = 3;

/// Longer error texts are cut, so that a report fits a packet.
const MAX_ERROR_TEXT: usize = 2048;

/// What a worker tells its supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    /// The driver is loaded.
    Ready {
        /// The Vulkan device that guests get.
        device: String,
    },
    /// It has taken its connection over.
    Serving,
    /// The connection is over, or the worker could not start.
    Ended {
        /// What went through.
        summary: Summary,
        /// Why it ended, when the guest did not just go away.
        error: Option<String>,
    },
}

impl Report {
    /// Sends the report to the supervisor.
    pub fn send(&self, control: &Socket) -> io::Result<()> {
        control.send(&serde_json::to_vec(self)?, &[])
    }

    /// The report of a connection that is over.
    pub fn ended(summary: Summary, error: Option<String>) -> Self {
        let error = error.map(|text| text.chars().take(MAX_ERROR_TEXT / 4).collect());
        Self::Ended { summary, error }
    }
}

/// How the supervisor works.
#[derive(Clone, Debug)]
pub struct Options {
    /// The worker's arguments; the program is this executable.
    pub worker_args: Vec<OsString>,
    /// Environment changes for workers: a value, or removal.
    pub worker_env: Vec<(OsString, Option<OsString>)>,
    /// Connections at a time.
    pub max_connections: usize,
    /// At the end, how long connections may take to end by themselves.
    pub linger: Duration,
}

/// What all workers of a supervisor did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Connections served.
    pub connections: u64,
    /// Workers that ended by a signal or with an error.
    pub failures: u64,
    /// The sum of their summaries.
    pub summary: Summary,
}

/// Listens on a socket and runs the workers.
#[derive(Debug)]
pub struct Supervisor {
    listener: Listener,
    options: Options,
    workers: Vec<Worker>,
    totals: Totals,
    stopping: bool,
}

/// Which descriptor of the poll set it is.
#[derive(Clone, Copy)]
enum Source {
    Stop,
    Listener,
    Control(usize),
    Exit(usize),
}

impl Supervisor {
    /// Listens on `path`; see [`Listener::bind`].
    pub fn bind(path: &Path, options: Options) -> io::Result<Self> {
        let listener = Listener::bind(path)?;
        Ok(Self {
            listener,
            options,
            workers: Vec::new(),
            totals: Totals::default(),
            stopping: false,
        })
    }

    /// Starts the spare worker and waits until it has loaded the driver; returns the device's name.
    pub fn warm_up(&mut self) -> io::Result<String> {
        self.start_worker()?;
        loop {
            match self.workers.first() {
                Some(Worker {
                    device: Some(device),
                    ..
                }) => return Ok(device.clone()),
                Some(Worker {
                    error: Some(error), ..
                }) => return Err(io::Error::other(error.clone())),
                Some(_) => self.wait(None, None)?,
                None => {
                    return Err(io::Error::other(
                        "the renderer process died while it loaded the Vulkan driver",
                    ));
                }
            };
        }
    }

    /// Serves until `stop` is readable or hung up, then ends all workers.
    pub fn run(mut self, stop: BorrowedFd<'_>) -> io::Result<Totals> {
        while !self.wait(Some(stop), None)? {}
        self.shut_down()?;
        Ok(self.totals)
    }

    /// Ends the spare at once. The others may end first because their guests did; then they are
    /// asked, then killed.
    fn shut_down(&mut self) -> io::Result<()> {
        self.stopping = true;
        self.workers.retain(|worker| worker.serving);
        let steps = [
            (None, self.options.linger),
            (Some(Signal::TERM), GRACE),
            (Some(Signal::KILL), GRACE),
        ];
        for (signal, patience) in steps {
            for worker in &self.workers {
                if let Some(signal) = signal {
                    worker.signal(signal);
                }
            }
            let deadline = Instant::now() + patience;
            while !self.workers.is_empty() && Instant::now() < deadline {
                self.wait(None, Some(deadline))?;
            }
        }
        Ok(())
    }

    /// Waits for the next event and handles it. Accepts connections only when there is a `stop`
    /// to end that; true when `stop` is due.
    fn wait(
        &mut self,
        stop: Option<BorrowedFd<'_>>,
        deadline: Option<Instant>,
    ) -> io::Result<bool> {
        let timeout = deadline.map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            Timespec {
                tv_sec: left.as_secs().cast_signed(),
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        let mut sources = Vec::new();
        let mut fds = Vec::new();
        let mut add = |source, fd| {
            sources.push(source);
            fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
        };
        if let Some(stop) = stop {
            add(Source::Stop, stop);
            add(Source::Listener, self.listener.as_fd());
        }
        for (index, worker) in self.workers.iter().enumerate() {
            if let Some(control) = &worker.control {
                add(Source::Control(index), control.as_fd());
            }
            add(Source::Exit(index), worker.exited.as_fd());
        }
        match poll(&mut fds, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => return Ok(false),
            other => other?,
        };
        let due = fds.iter().map(|fd| !fd.revents().is_empty());
        let due: Vec<Source> = sources
            .into_iter()
            .zip(due)
            .filter(|(_, due)| *due)
            .map(|(source, _)| source)
            .collect();
        let mut stopped = false;
        // Backwards: burying a worker moves only those that were already looked at, and
        // a new connection comes after the exits that make room for it.
        for source in due.into_iter().rev() {
            match source {
                Source::Exit(index) => self.bury(index),
                Source::Control(index) => {
                    if let Some(worker) = self.workers.get_mut(index) {
                        worker.hear();
                    }
                }
                Source::Listener => self.accept(),
                Source::Stop => stopped = true,
            }
        }
        Ok(stopped)
    }

    fn accept(&mut self) {
        let connection = match rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC) {
            Ok(connection) => connection,
            Err(
                rustix::io::Errno::AGAIN | rustix::io::Errno::CONNABORTED | rustix::io::Errno::INTR,
            ) => return,
            Err(error) => {
                tracing::error!("cannot accept a connection: {error}");
                // Too many open files or too little memory: both pass, and neither is worth a core.
                std::thread::sleep(Duration::from_millis(50));
                return;
            }
        };
        let serving = self.workers.iter().filter(|worker| worker.serving).count();
        if serving >= self.options.max_connections {
            tracing::warn!("refused a connection: {serving} are open, and that is the limit");
            return;
        }
        self.totals.connections += 1;
        if let Err(error) = self.hand_over(&connection, 1) {
            tracing::error!("cannot start a renderer process: {error}");
            return;
        }
        if let Err(error) = self.start_worker() {
            tracing::warn!("cannot start a spare renderer process: {error}");
        }
    }

    /// Gives the connection to the spare worker, or to a new one; for the `attempt`-th time.
    fn hand_over(&mut self, connection: &OwnedFd, attempt: u32) -> io::Result<()> {
        while let Some(spare) = self.workers.iter_mut().find(|worker| worker.is_spare()) {
            match spare.serve(connection, attempt) {
                Ok(()) => return Ok(()),
                // It is dead and will be buried soon.
                Err(error) => {
                    tracing::debug!(worker = spare.child.id(), "the spare is gone: {error}")
                }
            }
        }
        let mut worker = Worker::start(&self.options)?;
        let served = worker.serve(connection, attempt);
        self.workers.push(worker);
        served
    }

    fn start_worker(&mut self) -> io::Result<()> {
        if !self.workers.iter().any(Worker::is_spare) {
            self.workers.push(Worker::start(&self.options)?);
        }
        Ok(())
    }

    fn bury(&mut self, index: usize) {
        if index >= self.workers.len() {
            return;
        }
        let mut worker = self.workers.remove(index);
        while worker.hear() {}
        let id = worker.child.id();
        let how = match worker.child.wait() {
            Ok(status) => describe(status),
            Err(error) => Some(format!("cannot be waited for ({error})")),
        };
        self.totals.summary.add(&worker.summary);
        let error = worker.error.as_deref().map(str::escape_debug);
        match (how, error) {
            (None, None) => tracing::info!(worker = id, "a guest left"),
            (None, Some(error)) => tracing::warn!(worker = id, "a connection was ended: {error}"),
            (Some(how), Some(error)) => {
                tracing::error!(worker = id, "a renderer process {how}: {error}")
            }
            (Some(how), None) => tracing::error!(worker = id, "a renderer process {how}"),
        }
        if !worker.clean {
            self.totals.failures += 1;
        }
        // A worker that dies before it looks at its connection does so through no fault of the guest's.
        let again = worker.error.is_none() && worker.attempt < MAX_ATTEMPTS && !self.stopping;
        if let (Some(connection), true) = (worker.untaken.take(), again)
            && let Err(error) = self.hand_over(&connection, worker.attempt + 1)
        {
            tracing::error!("cannot start a renderer process: {error}");
        }
    }
}

#[derive(Debug)]
struct Worker {
    child: Child,
    /// Readable once the process has ended.
    exited: OwnedFd,
    /// Gone when the worker closed its end.
    control: Option<Socket>,
    device: Option<String>,
    serving: bool,
    /// The connection, until the worker has it: afterwards its end must be the guest's to see.
    untaken: Option<OwnedFd>,
    /// How often the connection was handed over.
    attempt: u32,
    clean: bool,
    summary: Summary,
    error: Option<String>,
}

impl Worker {
    fn start(options: &Options) -> io::Result<Self> {
        let (control, theirs) = Socket::pair()?;
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("asgard")
            .args(&options.worker_args)
            .stdin(Stdio::from(theirs.as_fd().try_clone_to_owned()?));
        // Drivers print; a guest program's own output must stay clean.
        command.stdout(Stdio::from(io::stderr().as_fd().try_clone_to_owned()?));
        // A Ctrl-C in the terminal is for the program; its renderer has to outlive it.
        command.process_group(0);
        for (name, value) in &options.worker_env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let mut child = command.spawn()?;
        let exited = pid_of(&child)
            .ok_or(rustix::io::Errno::SRCH)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()));
        let exited = match exited {
            Ok(exited) => exited,
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(error.into());
            }
        };
        tracing::debug!(worker = child.id(), "started a renderer process");
        Ok(Self {
            child,
            exited,
            control: Some(control),
            device: None,
            serving: false,
            untaken: None,
            attempt: 0,
            clean: false,
            summary: Summary::default(),
            error: None,
        })
    }

    fn is_spare(&self) -> bool {
        !self.serving
    }

    /// Sends it the connection. It may still be loading its driver: the socket keeps the message.
    fn serve(&mut self, connection: &OwnedFd, attempt: u32) -> io::Result<()> {
        self.serving = true;
        self.attempt = attempt;
        let control = self.control.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        tracing::info!(worker = self.child.id(), "a guest connected");
        control.send(b"serve", &[connection.as_fd()])?;
        self.untaken = Some(connection.try_clone()?);
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = pid_of(&self.child) {
            let _ = kill_process(pid, signal);
        }
    }

    /// Takes one report, if there is one. What a worker says is not trusted more than its guest.
    fn hear(&mut self) -> bool {
        let Some(control) = &self.control else {
            return false;
        };
        // Never waits: a child of the driver's may hold the worker's end open after its death.
        let mut fds = [PollFd::new(control, PollFlags::IN)];
        if !poll(
            &mut fds,
            Some(&Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            }),
        )
        .is_ok_and(|due| due > 0)
        {
            return false;
        }
        let mut packet = Packet::default();
        match control.recv(&mut packet) {
            Ok(true) => {}
            Ok(false) => {
                self.control = None;
                return false;
            }
            Err(error) => {
                tracing::warn!(
                    worker = self.child.id(),
                    "cannot read a renderer process's report: {error}"
                );
                self.control = None;
                return false;
            }
        }
        match serde_json::from_slice(&packet.bytes) {
            Ok(Report::Ready { device }) => self.device = Some(device),
            Ok(Report::Serving) => self.untaken = None,
            Ok(Report::Ended { summary, error }) => {
                self.clean = error.is_none();
                self.summary = summary;
                self.error = error;
            }
            Err(error) => tracing::warn!(worker = self.child.id(), "unreadable report: {error}"),
        }
        true
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Nothing when it has already been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pid_of(child: &Child) -> Option<Pid> {
    Pid::from_raw(child.id().cast_signed())
}

/// How a process failed, if it did.
fn describe(status: ExitStatus) -> Option<String> {
    match (status.code(), status.signal()) {
        (Some(0), _) => None,
        (Some(code), _) => Some(format!("ended with exit code {code}")),
        (_, Some(signal)) => Some(format!("was killed by {}", signal_name(signal))),
        _ => Some("ended in an unknown way".to_owned()),
    }
}

fn signal_name(signal: i32) -> String {
    let known = signal_hook::low_level::signal_name(signal);
    known.map_or_else(|| format!("signal {signal}"), str::to_owned)
}
