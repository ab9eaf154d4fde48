//! `asgard serve`: a server in the foreground.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use asgard_host_device::supervisor::{Guests, Supervisor};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::{DeviceArgs, MachineArgs};

/// Serve guests on a socket until SIGTERM or SIGINT
///
/// Each connection is served by a process of its own, so that a guest that brings the Vulkan driver
/// down harms nobody else. The socket is this user's alone; one that a dead server left is replaced.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  asgard serve --kumquat-socket /run/user/1000/asgard.sock
  asgard serve --kumquat-socket s --max-connections 8 --max-memory 4G -v
  asgard serve --socket-path /run/user/1000/gpu.sock       a GPU for QEMU; `asgard vm` starts both

QEMU 11.1 or newer reaches it with its memory shared and
  -chardev socket,id=gpu,path=/run/user/1000/gpu.sock
  -device vhost-user-test-device-pci,chardev=gpu,virtio-id=16,num_vqs=2,vq_size=256,config_size=16")]
pub(crate) struct Args {
    /// Where to listen: a Kumquat-compatible SOCK_SEQPACKET socket
    #[arg(long, value_name = "PATH", required_unless_present_any = ["socket_path", "fd", "print_capabilities"])]
    kumquat_socket: Option<PathBuf>,
    /// Where to listen for virtual machines: a vhost-user socket
    #[arg(long, value_name = "PATH")]
    socket_path: Option<PathBuf>,
    /// Serve the one virtual machine at the other end of this vhost-user socket, which is open already
    #[arg(long, value_name = "FD", conflicts_with_all = ["socket_path", "kumquat_socket"])]
    fd: Option<u32>,
    /// Print what this vhost-user device can do, in JSON, and nothing else
    #[arg(long)]
    print_capabilities: bool,
    /// Connections at a time; further ones are closed at once
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_connections: usize,
    /// Write a 64-bit 1 to this file descriptor once guests can connect
    #[arg(long, value_name = "FD")]
    ready_fd: Option<u32>,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    machine: MachineArgs,
}

pub(crate) fn main(args: &Args, verbose: u8) -> anyhow::Result<ExitCode> {
    if args.print_capabilities {
        println!(r#"{{"type":"gpu","features":["render-node","virgl"]}}"#);
        return Ok(ExitCode::SUCCESS);
    }
    args.machine.check()?;
    let (stop, ring) = UnixStream::pair().context("cannot make a socket pair")?;
    for signal in [SIGTERM, SIGINT] {
        let ring = ring.try_clone().context("cannot duplicate a descriptor")?;
        signal_hook::low_level::pipe::register(signal, ring).context("cannot handle signals")?;
    }
    let mut options = args
        .device
        .supervisor_options(args.max_connections, Duration::ZERO, verbose);
    args.machine.add_to(&mut options);
    let mut supervisor = Supervisor::new(options);
    let sockets = [
        (&args.kumquat_socket, Guests::Processes),
        (&args.socket_path, Guests::Machines),
    ];
    for (path, guests) in sockets {
        if let Some(path) = path {
            supervisor
                .listen(path, guests)
                .with_context(|| format!("cannot listen on {}", path.display()))?;
        }
    }
    let device = supervisor
        .warm_up()
        .context("cannot start the renderer (`asgard doctor` may know why)")?;
    tracing::info!("serving {device}");
    if let Some(fd) = args.ready_fd {
        announce(fd).with_context(|| format!("cannot write to file descriptor {fd}"))?;
    }
    let totals = match args.fd {
        None => supervisor.run(stop.as_fd())?,
        Some(fd) => {
            let connection = inherited(fd)
                .with_context(|| format!("file descriptor {fd} is no connected socket"))?;
            supervisor.adopt(&connection, Guests::Machines)?;
            drop(connection);
            supervisor.run_machines(stop.as_fd())?
        }
    };
    tracing::info!(
        "served {} connections, {} failed",
        totals.connections,
        totals.failures
    );
    Ok(ExitCode::SUCCESS)
}

/// A copy of a descriptor that the caller of this program has opened for it.
fn inherited(fd: u32) -> std::io::Result<OwnedFd> {
    let this = pidfd_open(getpid(), PidfdFlags::empty())?;
    let fd = i32::try_from(fd).map_err(|_| std::io::ErrorKind::InvalidInput)?;
    Ok(pidfd_getfd(this, fd, PidfdGetfdFlags::empty())?)
}

/// The descriptor is the caller's; opening it anew needs no trust in the number.
fn announce(fd: u32) -> std::io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .open(format!("/proc/self/fd/{fd}"))?;
    file.write_all(&1_u64.to_ne_bytes())
}
