//! `asgard serve`: a server in the foreground.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use asgard_host_device::supervisor::Supervisor;
use signal_hook::consts::{SIGINT, SIGTERM};

use super::DeviceArgs;

/// Serve guests on a socket until SIGTERM or SIGINT
///
/// Each connection is served by a process of its own, so that a guest that brings the Vulkan driver
/// down harms nobody else. The socket is this user's alone; one that a dead server left is replaced.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  asgard serve --kumquat-socket /run/user/1000/asgard.sock
  asgard serve --kumquat-socket s --max-connections 8 --max-memory 4G -v")]
pub(crate) struct Args {
    /// Where to listen: a Kumquat-compatible SOCK_SEQPACKET socket
    #[arg(long, value_name = "PATH")]
    kumquat_socket: PathBuf,
    /// Connections at a time; further ones are closed at once
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_connections: usize,
    /// Write a 64-bit 1 to this file descriptor once guests can connect
    #[arg(long, value_name = "FD")]
    ready_fd: Option<u32>,
    #[command(flatten)]
    device: DeviceArgs,
}

pub(crate) fn main(args: &Args, verbose: u8) -> anyhow::Result<ExitCode> {
    let (stop, ring) = UnixStream::pair().context("cannot make a socket pair")?;
    for signal in [SIGTERM, SIGINT] {
        let ring = ring.try_clone().context("cannot duplicate a descriptor")?;
        signal_hook::low_level::pipe::register(signal, ring).context("cannot handle signals")?;
    }
    let path = &args.kumquat_socket;
    let options = args
        .device
        .supervisor_options(args.max_connections, Duration::ZERO, verbose);
    let mut supervisor = Supervisor::bind(path, options)
        .with_context(|| format!("cannot listen on {}", path.display()))?;
    let device = supervisor
        .warm_up()
        .context("cannot start the renderer (`asgard doctor` may know why)")?;
    tracing::info!("serving {device} on {}", path.display());
    if let Some(fd) = args.ready_fd {
        announce(fd).with_context(|| format!("cannot write to file descriptor {fd}"))?;
    }
    let totals = supervisor.run(stop.as_fd())?;
    tracing::info!(
        "served {} connections, {} failed",
        totals.connections,
        totals.failures
    );
    Ok(ExitCode::SUCCESS)
}

/// The descriptor is the caller's; opening it anew needs no trust in the number.
fn announce(fd: u32) -> std::io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .open(format!("/proc/self/fd/{fd}"))?;
    file.write_all(&1_u64.to_ne_bytes())
}
