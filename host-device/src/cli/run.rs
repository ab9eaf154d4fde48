//! `asgard run`: one program on a server of its own.

use std::ffi::OsString;
use std::fmt::Write;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use asgard_host_device::renderer::Features;
use asgard_host_device::supervisor::{Guests, Supervisor, Totals};
use clap::ValueEnum;
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

use super::environment::Icd;
use super::{DeviceArgs, environment};

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Driver {
    /// Asgard's own: Vulkan 1.4 and every extension that can be carried
    Asgard,
    /// Mesa's gfxstream driver, as distributions ship it
    Mesa,
}

/// Run a program with a guest driver, on a renderer of its own
///
/// The program sees one Vulkan device: this machine's, through the renderer. Its exit code becomes
/// asgard's, and 128 plus the number of the signal if one killed it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  asgard run -- vulkaninfo --summary
  asgard run -q -- vkcube --c 100
  asgard run --driver mesa -- vkcube
  asgard run --connect /run/user/1000/asgard.sock -- ./my-program --its-flag")]
pub(crate) struct Args {
    /// Which guest driver the program gets [default: asgard, or mesa where only that is installed]
    #[arg(long, value_enum)]
    driver: Option<Driver>,
    /// The manifest of a gfxstream driver, instead of the installed one of Mesa's
    #[arg(long, value_name = "FILE")]
    icd: Option<PathBuf>,
    /// Use the server that listens on this socket instead of a private one
    #[arg(long, value_name = "SOCKET")]
    connect: Option<PathBuf>,
    /// Do not tell at the end what went through
    #[arg(short, long)]
    quiet: bool,
    /// The program and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "PROGRAM"
    )]
    program: Vec<OsString>,
    #[command(flatten)]
    device: DeviceArgs,
}

pub(crate) fn main(args: Args, verbose: u8) -> anyhow::Result<ExitCode> {
    let Some((program, program_args)) = args.program.split_first() else {
        bail!("no program")
    };
    let own = private_dir().context("cannot make a directory for the driver's manifest")?;
    let (icd, preload) = guest_driver(&args, own.path())?;

    let server = match &args.connect {
        Some(_) => None,
        None => Some(serve_privately(&args.device, verbose)?),
    };
    let socket = match (&args.connect, &server) {
        (Some(path), _) => std::path::absolute(path)?,
        (None, Some((_, socket, _))) => socket.clone(),
        (None, None) => bail!("no server"),
    };

    let mut command = Command::new(program);
    command.args(program_args);
    environment::prepare_guest(&mut command, &icd, preload.as_deref(), &socket);
    let started = Instant::now();
    // From here on, so that no signal is lost.
    let signals = signals()?;
    let code = match command.spawn() {
        Ok(child) => supervise(child, signals)?,
        Err(error) => {
            eprintln!("asgard: cannot run {}: {error}", program.display());
            if error.kind() == io::ErrorKind::NotFound {
                127
            } else {
                126
            }
        }
    };
    if let Some((server, ..)) = server {
        let (device, totals) = server.stop()?;
        if !args.quiet {
            eprintln!("{}", summary(&device, &totals, started.elapsed()));
        }
    }
    Ok(ExitCode::from(code))
}

/// The driver that the program gets, and the library that Mesa's needs; ours gets its manifest in `dir`.
fn guest_driver(args: &Args, dir: &Path) -> anyhow::Result<(Icd, Option<PathBuf>)> {
    if args.icd.is_none() && !matches!(args.driver, Some(Driver::Mesa)) {
        match environment::own_icd(dir) {
            Ok(icd) => return Ok((icd, None)),
            Err(error) if args.driver.is_some() => return Err(error),
            Err(error) => eprintln!("asgard: {error:#}\nasgard: taking Mesa's driver instead"),
        }
    }
    let icd = match &args.icd {
        Some(file) => Icd::read(file).with_context(|| format!("cannot use {}", file.display()))?,
        None => environment::find_icd().ok_or_else(|| {
            anyhow!(
                "Mesa's gfxstream driver is not installed. To install it:\n  {}",
                environment::install_mesa()
            )
        })?,
    };
    let preload =
        environment::find_preload().ok_or_else(|| anyhow!("{}", environment::preload_missing()))?;
    Ok((icd, Some(preload)))
}

/// Those that end programs, from now on.
pub(super) fn signals() -> anyhow::Result<Signals> {
    Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM]).context("cannot handle signals")
}

/// Waits for the program; signals to this process go to it.
pub(super) fn supervise(mut child: Child, signals: Signals) -> anyhow::Result<u8> {
    let forwarding = forward_signals(&child, signals);
    let status = child.wait().context("cannot wait for the program")?;
    if let Ok((handle, thread)) = forwarding {
        handle.close();
        let _ = thread.join();
    }
    let code = match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 1,
    };
    Ok(u8::try_from(code & 0xff).unwrap_or(1))
}

fn forward_signals(
    child: &Child,
    mut signals: Signals,
) -> anyhow::Result<(Handle, JoinHandle<()>)> {
    let pid = Pid::from_raw(child.id().cast_signed()).context("no process id")?;
    let handle = signals.handle();
    let thread = std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                // What is typed at the terminal reaches the program by itself.
                if matches!(signal, SIGINT | SIGQUIT) && in_foreground() {
                    continue;
                }
                if let Some(signal) = Signal::from_named_raw(signal) {
                    let _ = kill_process(pid, signal);
                }
            }
        })?;
    Ok((handle, thread))
}

fn in_foreground() -> bool {
    let terminal = std::fs::File::open("/dev/tty");
    terminal.is_ok_and(|tty| {
        rustix::termios::tcgetpgrp(tty).is_ok_and(|group| group == rustix::process::getpgrp())
    })
}

/// A supervisor on a thread.
pub(super) struct Server {
    device: String,
    stop: UnixStream,
    thread: JoinHandle<io::Result<Totals>>,
}

impl Server {
    pub(super) fn start(supervisor: Supervisor, device: String) -> anyhow::Result<Self> {
        let (stop, stopped) = UnixStream::pair()?;
        let thread = std::thread::Builder::new()
            .name("supervisor".to_owned())
            .spawn(move || supervisor.run(stopped.as_fd()))?;
        Ok(Self {
            device,
            stop,
            thread,
        })
    }

    /// Ends the server once the program's connections have ended, with some patience.
    pub(super) fn stop(self) -> anyhow::Result<(String, Totals)> {
        drop(self.stop);
        let totals = self
            .thread
            .join()
            .map_err(|_| anyhow!("the server panicked"))??;
        Ok((self.device, totals))
    }
}

/// A server for guest processes on a socket of its own, in a directory that is removed at the end.
fn serve_privately(
    device: &DeviceArgs,
    verbose: u8,
) -> anyhow::Result<(Server, PathBuf, tempfile::TempDir)> {
    let dir = private_dir().context("cannot make a directory for the socket")?;
    let socket = dir.path().join("kumquat");
    let options = device.supervisor_options(1024, Duration::from_secs(5), verbose);
    let mut supervisor = Supervisor::new(options);
    let listening = supervisor.listen(&socket, Guests::Processes);
    listening.context("cannot listen")?;
    let device = supervisor
        .warm_up()
        .context("cannot start the renderer (`asgard doctor` may know why)")?;
    Ok((Server::start(supervisor, device)?, socket, dir))
}

/// A directory that only this user can enter, with a path short enough for a socket.
pub(super) fn private_dir() -> io::Result<tempfile::TempDir> {
    let make = |parent: &Path| {
        tempfile::Builder::new()
            .prefix("asgard-")
            .tempdir_in(parent)
    };
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let candidates = runtime
        .into_iter()
        .chain([std::env::temp_dir(), PathBuf::from("/tmp")]);
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for parent in candidates.filter(|parent| parent.is_absolute() && parent.as_os_str().len() < 80)
    {
        match make(&parent) {
            Ok(dir) => return Ok(dir),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn summary(device: &str, totals: &Totals, elapsed: Duration) -> String {
    let sum = &totals.summary;
    let mut text = format!("asgard: {device}, {:.2} s", elapsed.as_secs_f64());
    if totals.connections == 0 {
        text.push_str("\nasgard: the program did not use Vulkan");
        return text;
    }
    let plural = |n: u64| if n == 1 { "" } else { "s" };
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        ", {} connection{}, {} ring{}\n\
         asgard: {} packets, {} of them answered, {} staged commands, {} submits\n\
         asgard: {} in, {} out, {} pings, {} sleeps, {} wakes, {:.2} s of processor time",
        totals.connections,
        plural(totals.connections),
        sum.rings,
        plural(sum.rings),
        sum.packets,
        sum.answers,
        sum.staged_commands,
        sum.submits,
        bytes(sum.bytes_in),
        bytes(sum.bytes_out),
        sum.pings,
        sum.sleeps,
        sum.wakes,
        Duration::from_micros(sum.cpu_us).as_secs_f64(),
    );
    if sum.wire_features != 0 {
        let _ = write!(
            text,
            "\nasgard: the wire with {}",
            Features::known(sum.wire_features)
        );
    }
    if totals.failures > 0 {
        let _ = write!(
            text,
            "\nasgard: {} renderer process{} failed",
            totals.failures,
            if totals.failures == 1 { "" } else { "es" }
        );
    }
    text
}

fn bytes(n: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
    let n = n as f64;
    match n {
        n if n < 1e3 => format!("{n} B"),
        n if n < 1e6 => format!("{:.1} kB", n / 1e3),
        n if n < 1e9 => format!("{:.1} MB", n / 1e6),
        n => format!("{:.1} GB", n / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_readable() {
        let mut totals = Totals {
            connections: 1,
            ..Totals::default()
        };
        totals.summary.rings = 2;
        totals.summary.bytes_in = 1_234_567;
        let text = summary("llvmpipe", &totals, Duration::from_millis(1500));
        assert!(
            text.starts_with("asgard: llvmpipe, 1.50 s, 1 connection, 2 rings\n"),
            "{text}"
        );
        assert!(text.contains("1.2 MB in, 0 B out"), "{text}");
    }
}
