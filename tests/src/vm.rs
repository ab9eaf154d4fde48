//! A Debian guest in QEMU whose GPU is ours, and programs in it.
//!
//! The guest is what `image` built; nothing is installed in it. Folders of this machine appear in it at the same path, so
//! that a command line means the same on both sides, and an agent in it runs programs. It has neither a network nor users.

mod agent;
mod image;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::via::{self, Channel, Finished, Server, Stack};
use agent::Kind;
pub use agent::{serve as serve_as_agent, start_kernel};
pub use image::{Guest, can_be_built, qemu};

use crate::screen::XServer;

/// The manifests of the guest's own drivers, for our GPU and for QEMU's.
const MESA: &str = "/usr/share/vulkan/icd.d/gfxstream_vk_icd.json";
const VENUS: &str = "/usr/share/vulkan/icd.d/virtio_icd.json";
/// How long a machine may take to shut down before it is killed.
const SHUTDOWN: Duration = Duration::from_secs(30);

/// What runs the guest's processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// QEMU's translator, which works everywhere.
    Tcg,
    /// The hardware.
    Kvm,
    /// The hardware if a trial shows that it works.
    Auto,
}

/// Which GPU the guest has.
#[derive(Debug, Clone, Copy)]
pub enum Gpu<'a> {
    /// None.
    None,
    /// One that `asgard vm` starts with the machine.
    Own,
    /// One of this server's.
    Of(&'a Server),
    /// QEMU's own, which serves Mesa's Venus driver; QEMU shows its screen on this one.
    Venus(&'a XServer),
}

/// A machine to be.
#[derive(Debug, Clone)]
pub struct Options<'a> {
    /// Its GPU.
    pub gpu: Gpu<'a>,
    /// What runs its processors.
    pub accelerator: Accelerator,
    /// MiB of memory.
    pub memory: u32,
    /// Processors.
    pub processors: usize,
    /// Folders that it sees, read only.
    pub folders: Vec<PathBuf>,
    /// Folders that it sees and may write to.
    pub writable: Vec<PathBuf>,
    /// The program `guest` of this package, which is the agent too.
    pub agent: PathBuf,
    /// How long it may take until it is up.
    pub patience: Duration,
    /// Whether it starts again when the guest reboots, instead of ending.
    pub reboots: bool,
    /// Arguments of `asgard vm`, for its own GPU.
    pub device: Vec<OsString>,
    /// Changes to its environment.
    pub environment: Vec<(OsString, OsString)>,
}

impl Options<'_> {
    /// A machine with `asgard`'s own GPU, and the program of the agent.
    pub fn new(agent: impl Into<PathBuf>) -> Self {
        Self {
            gpu: Gpu::Own,
            accelerator: Accelerator::Tcg,
            memory: 2048,
            processors: 2,
            folders: Vec::new(),
            writable: Vec::new(),
            agent: agent.into(),
            patience: Duration::from_secs(300),
            reboots: false,
            device: Vec::new(),
            environment: Vec::new(),
        }
    }
}

/// What happens to a job.
enum Event {
    Wrote(Channel, Vec<u8>),
    Ended(ExitStatus),
}

type Jobs = Arc<Mutex<HashMap<u32, Sender<Event>>>>;

/// A guest that is up.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    link: Mutex<UnixStream>,
    jobs: Jobs,
    ready: Receiver<String>,
    last: AtomicU32,
    patience: Duration,
    dir: tempfile::TempDir,
}

impl Machine {
    /// Boots a guest and waits until it can run programs.
    pub fn boot(options: &Options<'_>) -> Result<Self> {
        let guest = Guest::debian()?;
        let qemu = match options.gpu {
            Gpu::Venus(_) => image::qemu_with_venus()?,
            Gpu::None | Gpu::Own | Gpu::Of(_) => image::qemu()?,
        };
        let dir = tempfile::Builder::new().prefix("asgard-vm-").tempdir()?;
        let folders = write_exchange(options, dir.path())?;
        let port = dir.path().join("port");
        let listener = UnixListener::bind(&port)?;
        let kvm = match options.accelerator {
            Accelerator::Tcg => false,
            Accelerator::Kvm => true,
            Accelerator::Auto => image::kvm_works(&qemu, &guest)?,
        };
        let mut command = command(options, &qemu, kvm)?;
        command
            .args(["-nodefaults", "-no-user-config"])
            .args(["-smp", &options.processors.to_string()])
            .args(["-m", &format!("{}M", options.memory)])
            .args(["-device", "virtio-rng-pci"])
            .arg("-kernel")
            .arg(guest.kernel())
            .arg("-initrd")
            .arg(guest.initrd())
            .args(["-append", KERNEL_ARGUMENTS])
            .arg("-serial")
            .arg(value("file:", &dir.path().join("console"), ""))
            .arg("-drive")
            .arg(value(
                "file=",
                &guest.root(),
                ",if=none,id=root,format=raw,snapshot=on",
            ))
            .args(["-device", "virtio-blk-pci,drive=root"])
            .arg("-chardev")
            .arg(value("socket,id=agent,path=", &port, ""))
            .args(["-device", "virtio-serial-pci", "-device"])
            .arg(format!("virtserialport,chardev=agent,name={}", agent::PORT));
        if !options.reboots {
            command.arg("-no-reboot");
        }
        for Folder {
            tag,
            path,
            writable,
        } in &folders
        {
            let how = if *writable { "" } else { ",readonly=on" };
            let end = format!(",security_model=none,multidevs=remap{how}");
            command
                .arg("-fsdev")
                .arg(value(&format!("local,id={tag},path="), path, &end))
                .arg("-device")
                .arg(format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}"));
        }
        via::native(&mut command);
        for (name, value) in &options.environment {
            command.env(name, value);
        }
        let log = fs::File::create(dir.path().join("log"))?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().display()))?;
        let started = Instant::now();
        let connected = accept(&listener, &mut child, options.patience);
        let link = match connected {
            Ok(link) => link,
            Err(error) => {
                via::kill_group(&mut child);
                return Err(error).with_context(|| words(dir.path()));
            }
        };
        let (tell, ready) = channel();
        let jobs = Jobs::default();
        let (reader, theirs) = (link.try_clone()?, Arc::clone(&jobs));
        thread::spawn(move || listen(reader, &tell, &theirs));
        let mut machine = Self {
            child,
            link: Mutex::new(link),
            jobs,
            ready,
            last: AtomicU32::new(0),
            patience: options.patience.saturating_sub(started.elapsed()),
            dir,
        };
        machine.wait_until_up()?;
        machine.patience = options.patience;
        Ok(machine)
    }

    /// Waits until the guest is up, at its start or after a reboot; the seconds that it took by its own clock.
    pub fn wait_until_up(&self) -> Result<f32> {
        match self.ready.recv_timeout(self.patience) {
            Ok(seconds) => Ok(seconds.parse()?),
            Err(RecvTimeoutError::Timeout) => Err(anyhow::anyhow!(
                "the guest did not come up in {:?}",
                self.patience
            )),
            Err(RecvTimeoutError::Disconnected) => {
                Err(anyhow::anyhow!("the machine ended before it was up"))
            }
        }
        .with_context(|| words(self.dir.path()))
    }

    /// A folder that the guest sees and may write to, at the same path; it goes with the machine.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// The process of QEMU, or of `asgard vm` if that started it.
    #[must_use]
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// The command that runs a program in the guest on one of the machine's stacks, its arguments still to come.
    pub fn command(&self, stack: Stack, program: impl AsRef<Path>) -> Result<Command> {
        let mut command = Command::new(program.as_ref());
        let manifest = match stack {
            Stack::MachineMesa => PathBuf::from(MESA),
            Stack::MachineVenus => PathBuf::from(VENUS),
            Stack::MachineAsgard => {
                let library = via::own_driver().context("no guest driver; build all")?;
                let manifest = self.folder().join("asgard_icd.json");
                let text = format!(
                    r#"{{"file_format_version": "1.0.1", "ICD": {{"library_path": {library:?}, "api_version": "1.4.0"}}}}"#
                );
                fs::write(&manifest, text)?;
                manifest
            }
            other => bail!("{other:?} is no stack of a machine"),
        };
        command
            .env("VK_DRIVER_FILES", manifest)
            .current_dir(self.folder());
        Ok(command)
    }

    /// Runs a command in the guest to its end; after `limit` it and its children are killed.
    ///
    /// Only what the command itself says counts: it inherits no environment.
    pub fn run(&self, command: &Command, limit: Duration) -> Result<Finished> {
        self.run_with(command, limit, |_, _| {})
    }

    /// As [`Machine::run`]; what the program writes is shown to `observer` as it comes.
    pub fn run_with(
        &self,
        command: &Command,
        limit: Duration,
        observer: impl Fn(Channel, &[u8]),
    ) -> Result<Finished> {
        self.start(command)?.wait(limit, observer)
    }

    /// Starts a command in the guest.
    pub fn start(&self, command: &Command) -> Result<Job<'_>> {
        let text = |value: &std::ffi::OsStr| {
            let text = value.to_str().map(str::to_owned);
            text.with_context(|| format!("{value:?} is no text"))
        };
        let mut words = vec![text(command.get_program())?];
        for argument in command.get_args() {
            words.push(text(argument)?);
        }
        let mut environment = Vec::new();
        for (name, value) in command.get_envs() {
            environment.push((text(name)?, text(value.unwrap_or_default())?));
        }
        let folder = command.get_current_dir().unwrap_or(Path::new("/tmp"));
        let program = agent::Program {
            words,
            environment,
            folder: text(folder.as_os_str())?,
        };
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let (tell, events) = channel();
        lock(&self.jobs).insert(number, tell);
        self.say(Kind::Run, number, &serde_json::to_vec(&program)?)?;
        Ok(Job {
            machine: self,
            number,
            events,
            started: Instant::now(),
        })
    }

    /// Has the guest's kernel start itself anew, without the machine's knowledge; [`Machine::wait_until_up`] tells when.
    pub fn start_kernel_anew(&self) -> Result<()> {
        let guest = Guest::debian()?;
        let mut command = Command::new(fs::read_to_string(self.folder().join("agent"))?.trim_end());
        command.arg("--kexec");
        for (name, file) in [("kernel", guest.kernel()), ("initrd", guest.initrd())] {
            let here = self.folder().join(name);
            fs::copy(file, &here)?;
            command.arg(here);
        }
        self.start(&command)?;
        Ok(())
    }

    /// Shuts the guest down.
    pub fn shut_down(mut self) -> Result<()> {
        self.say(Kind::Kill, 0, &[])?;
        match via::wait(&mut self.child, SHUTDOWN)? {
            Some(status) => ensure!(status.success(), "{status}: {}", words(self.dir.path())),
            None => bail!("the guest did not shut down: {}", words(self.dir.path())),
        }
        Ok(())
    }

    /// What QEMU, the server that came with it, and the guest's console said so far.
    #[must_use]
    pub fn words(&self) -> String {
        words(self.dir.path())
    }

    /// Leaves the machine's folder where it is, and tells where.
    pub fn keep_folder(&mut self) -> PathBuf {
        self.dir.disable_cleanup(true);
        self.dir.path().to_owned()
    }

    fn say(&self, kind: Kind, job: u32, payload: &[u8]) -> Result<()> {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        agent::send(&mut *link, kind, job, payload)
            .with_context(|| format!("the machine is gone: {}", self.words()))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        via::kill_group(&mut self.child);
        let link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = link.shutdown(Shutdown::Both);
    }
}

/// A program that runs in a guest.
#[derive(Debug)]
pub struct Job<'a> {
    machine: &'a Machine,
    number: u32,
    events: Receiver<Event>,
    started: Instant,
}

impl Job<'_> {
    /// Waits for its end; after `limit` it and its children are killed.
    pub fn wait(
        &self,
        limit: Duration,
        mut observer: impl FnMut(Channel, &[u8]),
    ) -> Result<Finished> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut end = self.started + limit;
        let mut killed = false;
        let status = loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(Event::Wrote(channel, bytes)) => {
                    observer(channel, &bytes);
                    match channel {
                        Channel::Output => stdout.extend(bytes),
                        Channel::Error => stderr.extend(bytes),
                    }
                }
                Ok(Event::Ended(status)) => break (!killed).then_some(status),
                Err(RecvTimeoutError::Timeout) if killed => {
                    bail!("the guest does not answer: {}", self.machine.words())
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.kill()?;
                    killed = true;
                    end = Instant::now() + SHUTDOWN;
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the machine ended: {}", self.machine.words())
                }
            }
        };
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Finished {
            status,
            stdout: text(stdout),
            stderr: text(stderr),
            elapsed: self.started.elapsed(),
        })
    }

    /// Kills it with its children.
    pub fn kill(&self) -> Result<()> {
        self.machine.say(Kind::Kill, self.number, &[])
    }

    /// Waits until what it has written contains `text`; returns all of that.
    pub fn wait_for(&self, text: &str, limit: Duration) -> Result<String> {
        let end = self.started + limit;
        let mut all = String::new();
        while !all.contains(text) {
            let left = end.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(Event::Wrote(_, bytes)) => all.push_str(&String::from_utf8_lossy(&bytes)),
                _ => bail!("it never said {text:?}, but {all:?}"),
            }
        }
        Ok(all)
    }
}

/// Nothing of the console but what matters, no guessing of addresses, and the end at a panic.
const KERNEL_ARGUMENTS: &str =
    "console=ttyS0 quiet loglevel=4 nokaslr mitigations=off tsc=reliable panic=-1";

/// QEMU with its processors, memory and GPU.
fn command(options: &Options<'_>, qemu: &Path, kvm: bool) -> Result<Command> {
    let mut command = match options.gpu {
        Gpu::Own => {
            let asgard = via::asgard().context("no asgard program; build it, or set ASGARD_BIN")?;
            let mut command = Command::new(asgard);
            command.arg("vm").args(&options.device).arg("--").arg(qemu);
            command
        }
        Gpu::None | Gpu::Of(_) | Gpu::Venus(_) => Command::new(qemu),
    };
    command.args(["-machine", "q35"]);
    command.args(if kvm {
        ["-accel", "kvm", "-cpu", "host"]
    } else {
        ["-accel", "tcg,thread=multi", "-cpu", "max"]
    });
    if let Gpu::Venus(screen) = options.gpu {
        // What QEMU draws on the screen with is software, here as there.
        command
            .env("DISPLAY", &screen.display)
            .env("LIBGL_ALWAYS_SOFTWARE", "1")
            .args(["-display", "sdl,gl=on", "-device"])
            .arg("virtio-gpu-gl-pci,venus=on,blob=on,hostmem=4G");
    } else {
        command.args(["-display", "none"]);
    }
    if let Gpu::Of(_) | Gpu::Venus(_) = options.gpu {
        let memory = options.memory;
        command
            .arg("-object")
            .arg(format!(
                "memory-backend-memfd,id=memory,size={memory}M,share=on"
            ))
            .args(["-machine", "memory-backend=memory"]);
    }
    if let Gpu::Of(server) = options.gpu {
        command
            .arg("-chardev")
            .arg(value("socket,id=gpu,path=", server.machine_socket(), ""))
            .arg("-device")
            .arg("vhost-user-test-device-pci,chardev=gpu,virtio-id=16,num_vqs=2,vq_size=256,config_size=16");
    }
    Ok(command)
}

/// A path in a value of QEMU's options, where a comma is written twice.
fn value(before: &str, path: &Path, after: &str) -> String {
    let path = path.to_string_lossy().replace(',', ",,");
    format!("{before}{path}{after}")
}

/// A folder that the guest sees.
struct Folder {
    tag: String,
    path: PathBuf,
    writable: bool,
}

/// Writes what the guest's first process reads into the machine's folder; which folders the guest sees.
fn write_exchange(options: &Options<'_>, dir: &Path) -> Result<Vec<Folder>> {
    let agent = fs::canonicalize(&options.agent)
        .with_context(|| format!("no agent {}", options.agent.display()))?;
    let mut paths: Vec<(PathBuf, bool)> = Vec::new();
    let own = [Some(agent.clone()), via::own_driver()]
        .into_iter()
        .flatten();
    let own = own.filter_map(|file| file.parent().map(Path::to_owned));
    for path in options.folders.iter().cloned().chain(own) {
        paths.push((path, false));
    }
    for path in options.writable.iter().cloned().chain([dir.to_owned()]) {
        paths.push((path, true));
    }
    // A folder is mounted before those in it, and the last of two at the same path counts.
    paths.sort();
    paths.dedup();
    let mut folders = vec![Folder {
        tag: "asgard".to_owned(),
        path: dir.to_owned(),
        writable: false,
    }];
    let mut list = String::new();
    for (n, (path, writable)) in paths.into_iter().enumerate() {
        ensure!(path.is_dir(), "{} is no folder", path.display());
        let path = std::path::absolute(path)?;
        // Pages are kept only where nobody else writes.
        let cache = if writable { "mmap" } else { "loose" };
        let tag = format!("asgard{n}");
        writeln!(list, "{tag} {cache} {}", path.display())?;
        folders.push(Folder {
            tag,
            path,
            writable,
        });
    }
    fs::write(dir.join("folders"), list)?;
    fs::write(dir.join("agent"), format!("{}\n", agent.display()))?;
    fs::write(dir.join("init.sh"), include_str!("vm/init.sh"))?;
    Ok(folders)
}

/// Waits for QEMU to connect.
fn accept(listener: &UnixListener, child: &mut Child, patience: Duration) -> Result<UnixStream> {
    listener.set_nonblocking(true)?;
    let end = Instant::now() + patience;
    loop {
        match listener.accept() {
            Ok((link, _)) => {
                link.set_nonblocking(false)?;
                return Ok(link);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(status) = child.try_wait()? {
            bail!("QEMU did not start: {status}");
        }
        ensure!(Instant::now() < end, "QEMU did not start in {patience:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Hands on what the agent says, until the machine ends; then nobody waits for its jobs any more.
fn listen(mut link: UnixStream, ready: &Sender<String>, jobs: &Jobs) {
    while let Ok(Some((kind, job, payload))) = agent::receive(&mut link) {
        let event = match kind {
            Kind::Ready => {
                // After a reboot nothing of before runs any more.
                lock(jobs).clear();
                let _ = ready.send(String::from_utf8_lossy(&payload).into_owned());
                continue;
            }
            Kind::Output => Event::Wrote(Channel::Output, payload),
            Kind::Error => Event::Wrote(Channel::Error, payload),
            Kind::End => match payload.try_into().map(i32::from_le_bytes) {
                Ok(status) => Event::Ended(ExitStatus::from_raw(status)),
                Err(_) => break,
            },
            Kind::Run | Kind::Kill => break,
        };
        let mut jobs = lock(jobs);
        if let Some(job) = jobs.get(&job) {
            let _ = job.send(event);
        }
        if kind == Kind::End {
            jobs.remove(&job);
        }
    }
    lock(jobs).clear();
}

fn lock(jobs: &Jobs) -> std::sync::MutexGuard<'_, HashMap<u32, Sender<Event>>> {
    jobs.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The last of what QEMU and the guest's console wrote.
fn words(dir: &Path) -> String {
    let mut all = String::new();
    for name in ["log", "console"] {
        let text = fs::read(dir.join(name)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines.len().saturating_sub(40);
        let _ = writeln!(all, "--- {name}\n{}", lines[last..].join("\n"));
    }
    all
}
