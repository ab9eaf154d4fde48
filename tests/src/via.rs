//! Runs a program with the native driver or through the renderer, within a time limit.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// Which way a program's Vulkan calls go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stack {
    /// To the host's driver, in the program's own process.
    Native,
    /// Through the distribution's guest driver, Mesa's, and `asgard run`.
    Mesa,
    /// Through our own guest driver and `asgard run`.
    Asgard,
    /// The same over a render node, which the preload library plays.
    Node,
    /// The same, with a host that shows no more than upstream's and refuses what that does not know.
    Upstream,
    /// Through the guest driver that a virtual machine brings with it, Mesa's, and the kernel's virtio-gpu driver.
    MachineMesa,
    /// Through our own guest driver in a virtual machine, and the kernel's virtio-gpu driver.
    MachineAsgard,
    /// In a virtual machine with QEMU's own GPU and Mesa's driver for it, Venus: what others offer.
    MachineVenus,
}

impl Stack {
    /// How `asgard run` calls the guest driver.
    pub fn driver(self) -> Option<&'static str> {
        match self {
            Self::Native => None,
            Self::Mesa | Self::MachineMesa => Some("mesa"),
            Self::MachineVenus => Some("venus"),
            Self::Asgard | Self::Node | Self::Upstream | Self::MachineAsgard => Some("asgard"),
        }
    }
}

/// How a program ended.
#[derive(Debug)]
pub struct Finished {
    /// Its status; `None` if it was killed for taking too long.
    pub status: Option<ExitStatus>,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error, and that of `asgard`.
    pub stderr: String,
    /// From start to end.
    pub elapsed: Duration,
}

impl Finished {
    /// Fails with the program's own words unless it succeeded.
    pub fn success(self) -> Result<Self> {
        let how = match self.status {
            Some(status) => status.to_string(),
            None => format!("killed after {:?}", self.elapsed),
        };
        ensure!(
            self.status.is_some_and(|status| status.success()),
            "{how}\n--- stdout\n{}--- stderr\n{}",
            self.stdout,
            self.stderr
        );
        Ok(self)
    }
}

/// The command that runs `program` on `stack`, its arguments still to come; those of a virtual machine are
/// [`Machine::command`](crate::vm::Machine::command)'s.
pub fn command(stack: Stack, program: impl AsRef<OsStr>) -> Result<Command> {
    ensure!(
        !matches!(
            stack,
            Stack::MachineMesa | Stack::MachineAsgard | Stack::MachineVenus
        ),
        "a program on {stack:?} wants a machine"
    );
    let mut command = match stack.driver() {
        None => Command::new(program),
        Some(driver) => {
            let upstream: &[&str] = match stack {
                Stack::Upstream => &["--as-upstream"],
                _ => &[],
            };
            let mut command = asgard_run(&[&["--driver", driver], upstream].concat())?;
            if stack == Stack::Node {
                command.args(render_node()?);
            }
            command.arg(program);
            command
        }
    };
    native(&mut command);
    Ok(command)
}

/// What comes before a program that is to find a render node: the preload library turns requests to the
/// kernel's virtio-gpu driver into messages of the socket.
fn render_node() -> Result<[String; 3]> {
    let preload = sibling("libasgard_preload.so").context("no preload library; build it")?;
    Ok([
        "env".to_owned(),
        format!("LD_PRELOAD={}", preload.display()),
        "ASGARD_RENDER_NODE=/dev/dri/asgard".to_owned(),
    ])
}

/// `asgard run` with these options, the program still to come.
pub fn asgard_run(options: &[&str]) -> Result<Command> {
    let asgard = asgard().context("no asgard program; build it, or set ASGARD_BIN")?;
    let mut command = Command::new(asgard);
    command.arg("run").args(options).arg("--");
    native(&mut command);
    Ok(command)
}

/// Names the native driver in a command's environment, unless ours names one already.
pub fn native(command: &mut Command) {
    if std::env::var_os("VK_DRIVER_FILES").is_none()
        && let Some(icd) = lavapipe()
    {
        // The older name is for loaders that do not know the newer.
        command
            .env("VK_DRIVER_FILES", &icd)
            .env("VK_ICD_FILENAMES", &icd);
    }
}

/// A program by name, where the shell would find it.
pub fn find_program(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

/// Where a program writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// Its standard output.
    Output,
    /// Its standard error.
    Error,
}

/// Runs a command to its end; after `limit` it and its children are killed.
pub fn run(command: Command, limit: Duration) -> Result<Finished> {
    run_with(command, limit, |_, _| {})
}

/// As [`run`]; what the program writes is shown to `observer` as it comes.
pub fn run_with(
    mut command: Command,
    limit: Duration,
    observer: impl Fn(Channel, &[u8]) + Sync,
) -> Result<Finished> {
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("starting {}", command.get_program().display()))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        let observer = &observer;
        let stdout = scope.spawn(move || drain(stdout, |bytes| observer(Channel::Output, bytes)));
        let stderr = scope.spawn(move || drain(stderr, |bytes| observer(Channel::Error, bytes)));
        let status = wait(&mut child, limit)?;
        if status.is_none() {
            kill_group(&mut child);
        }
        Ok(Finished {
            status,
            stdout: stdout.join().unwrap_or_default(),
            stderr: stderr.join().unwrap_or_default(),
            elapsed: started.elapsed(),
        })
    })
}

/// Waits for a child, at most `limit`.
pub fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Asks a child to end, and waits until it has.
pub fn end(child: &mut Child) -> Result<()> {
    kill_process(Pid::from_child(child), Signal::TERM)?;
    if wait(child, Duration::from_secs(20))?.is_none() {
        child.kill()?;
        bail!("it did not end when it was asked to");
    }
    Ok(())
}

/// Kills a child that leads its own process group, with all of the group.
pub fn kill_group(child: &mut Child) {
    if let Ok(id) = i32::try_from(child.id()) {
        unsafe { libc::kill(-id, libc::SIGKILL) };
    }
    let _ = child.wait();
}

fn drain(pipe: Option<impl Read>, observer: impl Fn(&[u8])) -> String {
    let mut all = Vec::new();
    let mut bytes = [0; 8192];
    if let Some(mut pipe) = pipe {
        while let Ok(count @ 1..) = pipe.read(&mut bytes) {
            let new = bytes.get(..count).unwrap_or_default();
            observer(new);
            all.extend(new);
        }
    }
    String::from_utf8_lossy(&all).into_owned()
}

/// An `asgard serve` of our own, on a socket in a directory of its own.
#[derive(Debug)]
pub struct Server {
    child: Child,
    socket: PathBuf,
    machine_socket: PathBuf,
    _dir: tempfile::TempDir,
}

impl Server {
    /// Starts a server and waits until guests can connect.
    pub fn start() -> Result<Self> {
        Self::start_with(|_| {})
    }

    /// As [`Server::start`], after changes to its command.
    pub fn start_with(change: impl FnOnce(&mut Command)) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let socket = dir.path().join("kumquat");
        let machine_socket = dir.path().join("vhost-user");
        let asgard = asgard().context("no asgard program; build it, or set ASGARD_BIN")?;
        let mut command = Command::new(asgard);
        // It announces itself on a descriptor: its standard output.
        command
            .arg("serve")
            .arg("--kumquat-socket")
            .arg(&socket)
            .arg("--socket-path")
            .arg(&machine_socket)
            .args(["--ready-fd", "1"]);
        native(&mut command);
        change(&mut command);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("starting asgard serve")?;
        let mut ready = [0; 8];
        let announced = match child.stdout.as_mut() {
            Some(pipe) => pipe.read_exact(&mut ready),
            None => Ok(()),
        };
        if let Err(error) = announced {
            kill_group(&mut child);
            return Err(error).context("asgard serve ended before it was ready");
        }
        Ok(Self {
            child,
            socket,
            machine_socket,
            _dir: dir,
        })
    }

    /// The command that runs a program on this server with Mesa's guest driver, its arguments still to come.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let asgard = asgard().context("no asgard program")?;
        let mut command = Command::new(asgard);
        command
            .args(["run", "--driver", "mesa", "--connect"])
            .arg(&self.socket)
            .arg("--")
            .arg(program);
        native(&mut command);
        Ok(command)
    }

    /// As [`Server::command`], with our own guest driver.
    pub fn guest(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        self.guest_on(Stack::Asgard, program)
    }

    /// As [`Server::guest`], on one of the stacks that have that driver.
    pub fn guest_on(&self, stack: Stack, program: impl AsRef<OsStr>) -> Result<Command> {
        let mut command = Command::new(asgard().context("no asgard program")?);
        command
            .args(["run", "--driver", "asgard", "--connect"])
            .arg(&self.socket)
            .arg("--");
        if stack == Stack::Node {
            command.args(render_node()?);
        }
        command.arg(program);
        native(&mut command);
        Ok(command)
    }

    /// Kills all workers, the one that waits too, and leaves the server and what stands for machines alive.
    pub fn kill_workers(&self) -> Result<()> {
        for id in self.family()?.into_iter().skip(1) {
            let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            if line.split(|&byte| byte == 0).any(|word| word == b"worker") {
                let id = i32::try_from(id)?;
                unsafe { libc::kill(id, libc::SIGKILL) };
            }
        }
        Ok(())
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Where it listens for virtual machines.
    #[must_use]
    pub fn machine_socket(&self) -> &Path {
        &self.machine_socket
    }

    /// The server, and all processes below it.
    fn family(&self) -> Result<Vec<u32>> {
        let parents: Vec<(u32, u32)> = std::fs::read_dir("/proc")?
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter_map(|id: u32| Some((id, status(id, "PPid")?.try_into().ok()?)))
            .collect();
        let mut all = vec![self.child.id()];
        let mut next = 0;
        while next < all.len() {
            let parent = all[next];
            all.extend(
                parents
                    .iter()
                    .filter(|(_, of)| *of == parent)
                    .map(|(id, _)| *id),
            );
            next += 1;
        }
        Ok(all)
    }

    /// What the server and all processes below it use now.
    pub fn usage(&self) -> Result<Usage> {
        let all = self.family()?;
        let sum = |field| all.iter().filter_map(|&id| status(id, field)).sum();
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", self.child.id()))?;
        Ok(Usage {
            processes: all.len() as u64,
            threads: sum("Threads"),
            resident_kib: sum("VmRSS"),
            descriptors: descriptors.count() as u64,
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        kill_group(&mut self.child);
    }
}

/// What a server uses, with all of its workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// The server and everything below it.
    pub processes: u64,
    /// Threads of all of them.
    pub threads: u64,
    /// Resident memory of all of them.
    pub resident_kib: u64,
    /// Open descriptors of the server itself.
    pub descriptors: u64,
}

/// A number out of a process's status; `None` once the process is gone.
fn status(id: u32, field: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The `asgard` program: ASGARD_BIN, or the one built next to this one.
#[must_use]
pub fn asgard() -> Option<PathBuf> {
    match std::env::var_os("ASGARD_BIN") {
        Some(path) => Some(PathBuf::from(path)).filter(|path| path.is_file()),
        None => sibling("asgard"),
    }
}

/// A file in the directory of the running program, or in the one above it, where cargo puts programs next to `deps`.
#[must_use]
pub fn sibling(name: &str) -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

/// Mesa's software driver, where the distributions put it.
#[must_use]
pub fn lavapipe() -> Option<PathBuf> {
    icd(&[
        "lvp_icd.json",
        "lvp_icd.x86_64.json",
        "lvp_icd.aarch64.json",
    ])
}

/// Mesa's gfxstream guest driver, where the distributions put it.
#[must_use]
pub fn gfxstream() -> Option<PathBuf> {
    icd(&[
        "gfxstream_vk_icd.json",
        "gfxstream_vk_icd.x86_64.json",
        "gfxstream_vk_icd.aarch64.json",
    ])
}

/// The Khronos validation layer's manifest, where the distributions put it.
#[must_use]
pub fn validation_layer() -> Option<PathBuf> {
    let path = Path::new("/usr/share/vulkan/explicit_layer.d/VkLayer_khronos_validation.json");
    path.is_file().then(|| path.to_owned())
}

/// The library of our own guest driver, next to the `asgard` program.
#[must_use]
pub fn own_driver() -> Option<PathBuf> {
    let library = asgard()?.with_file_name("libvulkan_asgard.so");
    Some(library).filter(|path| path.is_file())
}

fn icd(names: &[&str]) -> Option<PathBuf> {
    [
        "/usr/share/vulkan/icd.d",
        "/usr/local/share/vulkan/icd.d",
        "/etc/vulkan/icd.d",
    ]
    .iter()
    .flat_map(|dir| names.iter().map(move |name| Path::new(dir).join(name)))
    .find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.arg("-c").arg(script);
        command
    }

    #[test]
    fn output_and_status_come_back() {
        let done = run(
            shell("echo out; echo err >&2; exit 3"),
            Duration::from_secs(20),
        )
        .unwrap();
        assert_eq!(
            (done.stdout.as_str(), done.stderr.as_str()),
            ("out\n", "err\n")
        );
        assert_eq!(done.status.unwrap().code(), Some(3));
        assert!(done.success().is_err());
    }

    #[test]
    fn a_program_that_hangs_is_killed_with_its_children() {
        let done = run(shell("sleep 1000 & wait"), Duration::from_millis(100)).unwrap();
        assert!(done.status.is_none());
        assert!(done.elapsed < Duration::from_secs(20));
    }
}
