//! One worker process per connection.
//!
//! A connection is a guest process without a virtual machine, or one context of a virtual machine. The machine itself
//! is served by a process that loads no driver, its *front*, which asks here for a worker for each context.
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
use rustix::net::{SocketFlags, SocketType};
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

/// What the supervisor tells a process, with the connection that it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Serve a guest process: [`crate::vmm::kumquat`].
    Process,
    /// Serve a context of a virtual machine: [`crate::vmm::linked`].
    Context,
    /// Be the front of a virtual machine: [`crate::vmm::vhost_user`].
    Machine {
        /// Of the Vulkan driver that the workers have loaded.
        color_buffer_memory_index: u32,
    },
}

/// Who connects to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guests {
    /// Guest processes.
    Processes,
    /// Machine monitors.
    Machines,
}

/// What a worker tells its supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    /// The driver is loaded.
    Ready {
        /// The Vulkan device that guests get.
        device: String,
        /// Capset field `colorBufferMemoryIndex`.
        color_buffer_memory_index: u32,
    },
    /// A front wants a worker for a context; the connection rides along.
    Context,
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

    /// The same, with a connection.
    pub fn send_with(&self, control: &Socket, connection: BorrowedFd<'_>) -> io::Result<()> {
        control.send(&serde_json::to_vec(self)?, &[connection])
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
    /// A front's.
    pub front_args: Vec<OsString>,
    /// Environment changes for workers: a value, or removal.
    pub worker_env: Vec<(OsString, Option<OsString>)>,
    /// Guest processes, and virtual machines, at a time.
    pub max_connections: usize,
    /// Renderer processes of one virtual machine at a time, those included that have lost their context and are
    /// about to end.
    pub max_contexts: usize,
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
    listeners: Vec<(Listener, Guests)>,
    options: Options,
    color_buffer_memory_index: u32,
    workers: Vec<Worker>,
    totals: Totals,
    stopping: bool,
}

/// Which descriptor of the poll set it is.
#[derive(Clone, Copy)]
enum Source {
    Stop,
    Listener(usize),
    Control(usize),
    Exit(usize),
}

impl Supervisor {
    /// Without any socket yet.
    pub fn new(options: Options) -> Self {
        Self {
            listeners: Vec::new(),
            options,
            color_buffer_memory_index: u32::MAX,
            workers: Vec::new(),
            totals: Totals::default(),
            stopping: false,
        }
    }

    /// Listens on `path`; see [`Listener::bind`].
    pub fn listen(&mut self, path: &Path, guests: Guests) -> io::Result<()> {
        let kind = match guests {
            Guests::Processes => SocketType::SEQPACKET,
            Guests::Machines => SocketType::STREAM,
        };
        self.listeners.push((Listener::bind(path, kind)?, guests));
        Ok(())
    }

    /// Serves a connection that exists already.
    pub fn adopt(&mut self, connection: &OwnedFd, guests: Guests) -> io::Result<()> {
        self.totals.connections += 1;
        self.hand_over(connection, Service::new(self.order_for(guests), None))
    }

    fn order_for(&self, guests: Guests) -> Order {
        match guests {
            Guests::Processes => Order::Process,
            Guests::Machines => Order::Machine {
                color_buffer_memory_index: self.color_buffer_memory_index,
            },
        }
    }

    /// Starts the spare worker and waits until it has loaded the driver; returns the device's name.
    pub fn warm_up(&mut self) -> io::Result<String> {
        self.start_worker()?;
        loop {
            match self.workers.first() {
                Some(Worker {
                    device: Some((device, color_buffer_memory_index)),
                    ..
                }) => {
                    self.color_buffer_memory_index = *color_buffer_memory_index;
                    return Ok(device.clone());
                }
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

    /// Serves until `stop` is readable or hung up, or the last virtual machine is gone.
    pub fn run_machines(mut self, stop: BorrowedFd<'_>) -> io::Result<Totals> {
        let is_front = |worker: &Worker| worker.serves(Service::is_front);
        while self.workers.iter().any(is_front) && !self.wait(Some(stop), None)? {}
        self.shut_down()?;
        Ok(self.totals)
    }

    /// Ends the spare at once. The others may end first because their guests did; then they are
    /// asked, then killed.
    fn shut_down(&mut self) -> io::Result<()> {
        self.stopping = true;
        self.workers.retain(|worker| !worker.is_spare());
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
            for (index, (listener, _)) in self.listeners.iter().enumerate() {
                add(Source::Listener(index), listener.as_fd());
            }
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
                    let heard = self.workers.get_mut(index).map(Worker::hear);
                    if let Some(Heard::Context(connection)) = heard {
                        self.begin_context(index, &connection);
                    }
                }
                Source::Listener(index) => self.accept(index),
                Source::Stop => stopped = true,
            }
        }
        Ok(stopped)
    }

    fn accept(&mut self, index: usize) {
        let Some((listener, guests)) = self.listeners.get(index) else {
            return;
        };
        let order = self.order_for(*guests);
        let connection = match rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
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
        let counts = |worker: &&Worker| worker.serves(|service| service.order != Order::Context);
        let serving = self.workers.iter().filter(counts).count();
        if serving >= self.options.max_connections {
            tracing::warn!("refused a connection: {serving} are open, and that is the limit");
            return;
        }
        self.totals.connections += 1;
        self.begin(&connection, Service::new(order, None));
    }

    /// Gives a front a worker for a context, unless it has enough of them.
    fn begin_context(&mut self, front: usize, connection: &OwnedFd) {
        let Some(front) = self.workers.get(front).map(|worker| worker.child.id()) else {
            return;
        };
        let of_front = |worker: &&Worker| worker.serves(|service| service.front == Some(front));
        let serving = self.workers.iter().filter(of_front).count();
        if serving >= self.options.max_contexts {
            // Its end of the connection is closed: the front knows no more, and needs no more, than of a dead one.
            tracing::warn!(
                worker = front,
                "refused a renderer process to a virtual machine: it has {serving}, and that is the limit"
            );
            return;
        }
        let front = Some(front);
        self.begin(connection, Service::new(Order::Context, front));
    }

    fn begin(&mut self, connection: &OwnedFd, service: Service) {
        if let Err(error) = self.hand_over(connection, service) {
            tracing::error!("cannot start a process for a guest: {error}");
            return;
        }
        if let Err(error) = self.start_worker() {
            tracing::warn!("cannot start a spare renderer process: {error}");
        }
    }

    /// Gives the connection to the spare worker, or to a new process.
    fn hand_over(&mut self, connection: &OwnedFd, service: Service) -> io::Result<()> {
        let front = service.is_front();
        while !front && let Some(spare) = self.workers.iter_mut().find(|worker| worker.is_spare()) {
            match spare.serve(connection, service) {
                Ok(()) => return Ok(()),
                // It is dead and will be buried soon.
                Err(error) => {
                    tracing::debug!(worker = spare.child.id(), "the spare is gone: {error}")
                }
            }
        }
        let args = if front {
            &self.options.front_args
        } else {
            &self.options.worker_args
        };
        let mut worker = Worker::start(args, &self.options.worker_env)?;
        let served = worker.serve(connection, service);
        self.workers.push(worker);
        served
    }

    fn start_worker(&mut self) -> io::Result<()> {
        if !self.workers.iter().any(Worker::is_spare) {
            let Options {
                worker_args,
                worker_env,
                ..
            } = &self.options;
            self.workers.push(Worker::start(worker_args, worker_env)?);
        }
        Ok(())
    }

    fn bury(&mut self, index: usize) {
        if index >= self.workers.len() {
            return;
        }
        let mut worker = self.workers.remove(index);
        while !matches!(worker.hear(), Heard::Nothing) {}
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
        let again = worker.error.is_none() && !self.stopping;
        let next = worker.service.filter(|_| again).and_then(Service::again);
        if let (Some(connection), Some(service)) = (worker.untaken.take(), next)
            && let Err(error) = self.hand_over(&connection, service)
        {
            tracing::error!("cannot start a renderer process: {error}");
        }
    }
}

/// What a process is there for.
#[derive(Clone, Copy, Debug)]
struct Service {
    order: Order,
    /// The process that wanted it, which stands for a virtual machine.
    front: Option<u32>,
    /// How often the connection was handed over.
    attempt: u32,
}

impl Service {
    fn new(order: Order, front: Option<u32>) -> Self {
        Self {
            order,
            front,
            attempt: 1,
        }
    }

    fn is_front(self) -> bool {
        matches!(self.order, Order::Machine { .. })
    }

    /// The same for the next process, unless too many have failed.
    fn again(self) -> Option<Self> {
        (self.attempt < MAX_ATTEMPTS).then_some(Self {
            attempt: self.attempt + 1,
            ..self
        })
    }
}

#[derive(Debug)]
struct Worker {
    child: Child,
    /// Readable once the process has ended.
    exited: OwnedFd,
    /// Gone when the worker closed its end.
    control: Option<Socket>,
    /// The device's name, and the capset's memory type.
    device: Option<(String, u32)>,
    /// What it does; `None` for the spare.
    service: Option<Service>,
    /// The connection, until the worker has it: afterwards its end must be the guest's to see.
    untaken: Option<OwnedFd>,
    clean: bool,
    summary: Summary,
    error: Option<String>,
}

impl Worker {
    fn start(args: &[OsString], env: &[(OsString, Option<OsString>)]) -> io::Result<Self> {
        let (control, theirs) = Socket::pair()?;
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("asgard")
            .args(args)
            .stdin(Stdio::from(theirs.as_fd().try_clone_to_owned()?));
        // Drivers print; a guest program's own output must stay clean.
        command.stdout(Stdio::from(io::stderr().as_fd().try_clone_to_owned()?));
        // A Ctrl-C in the terminal is for the program; its renderer has to outlive it.
        command.process_group(0);
        for (name, value) in env {
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
            service: None,
            untaken: None,
            clean: false,
            summary: Summary::default(),
            error: None,
        })
    }

    fn is_spare(&self) -> bool {
        self.service.is_none()
    }

    /// Whether it serves something, and that.
    fn serves(&self, what: impl FnOnce(Service) -> bool) -> bool {
        self.service.is_some_and(what)
    }

    /// Sends it the connection. It may still be loading its driver: the socket keeps the message.
    fn serve(&mut self, connection: &OwnedFd, service: Service) -> io::Result<()> {
        self.service = Some(service);
        let control = self.control.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        tracing::info!(worker = self.child.id(), "a guest connected");
        control.send(&serde_json::to_vec(&service.order)?, &[connection.as_fd()])?;
        self.untaken = Some(connection.try_clone()?);
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = pid_of(&self.child) {
            let _ = kill_process(pid, signal);
        }
    }

    /// Takes one report, if there is one. What a worker says is not trusted more than its guest.
    fn hear(&mut self) -> Heard {
        let Some(control) = &self.control else {
            return Heard::Nothing;
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
            return Heard::Nothing;
        }
        let mut packet = Packet::default();
        match control.recv(&mut packet) {
            Ok(true) => {}
            Ok(false) => {
                self.control = None;
                return Heard::Nothing;
            }
            Err(error) => {
                tracing::warn!(
                    worker = self.child.id(),
                    "cannot read a renderer process's report: {error}"
                );
                self.control = None;
                return Heard::Nothing;
            }
        }
        match serde_json::from_slice(&packet.bytes) {
            Ok(Report::Ready {
                device,
                color_buffer_memory_index,
            }) => self.device = Some((device, color_buffer_memory_index)),
            Ok(Report::Context) => {
                let front = self.serves(Service::is_front);
                if let (true, Some(connection)) = (front, packet.fds.pop()) {
                    return Heard::Context(connection);
                }
            }
            Ok(Report::Serving) => self.untaken = None,
            Ok(Report::Ended { summary, error }) => {
                self.clean = error.is_none();
                self.summary = summary;
                self.error = error;
            }
            Err(error) => tracing::warn!(worker = self.child.id(), "unreadable report: {error}"),
        }
        Heard::Something
    }
}

/// What came of listening to a process.
enum Heard {
    Nothing,
    Something,
    /// It wants a worker for this.
    Context(OwnedFd),
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
