//! The process that serves one connection; see `supervisor`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use asgard_asg::kumquat::{Packet, Socket};
use asgard_host_device::device::{Device, Summary};
use asgard_host_device::renderer::null::Null;
use asgard_host_device::renderer::vulkan::Vulkan;
use asgard_host_device::renderer::{self, Renderer};
use asgard_host_device::supervisor::{Order, Report};
use asgard_host_device::vmm::{kumquat, linked};
use rustix::process::{
    Resource, Rlimit, Signal, getpid, getrlimit, kill_process, set_parent_process_death_signal,
    setrlimit,
};

use super::{DeviceArgs, RendererKind};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    device: DeviceArgs,
}

pub(crate) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot follow the parent")?;
    confine();
    let control = control_socket()?;
    let renderer = match load(args.device.renderer, args.device.record.clone()) {
        Ok(renderer) => renderer,
        Err(error) => {
            // The supervisor reports it.
            Report::ended(Summary::default(), Some(error.to_string())).send(&control)?;
            return Ok(ExitCode::FAILURE);
        }
    };
    let config = args.device.config();
    Report::Ready {
        device: renderer.describe().device,
        color_buffer_memory_index: renderer.color_buffer_memory_index(config.as_upstream),
    }
    .send(&control)?;

    let Some((order, connection)) = order(&control)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let connection = Socket::from(connection);
    let outcome = match order {
        Order::Process => kumquat::serve(connection, Device::new(renderer, config)),
        Order::Context => linked::serve(connection, renderer, config),
        Order::Machine { .. } => bail!("a renderer process is no front"),
    };
    let mut error = outcome.fault.map(|fault| fault.to_string());
    if outcome.stuck {
        error
            .get_or_insert_default()
            .push_str(" (and the Vulkan driver did not let go)");
    }
    Report::ended(outcome.summary, error).send(&control)?;
    if outcome.stuck {
        // Leaving the usual way would destroy what those threads still use.
        kill_process(getpid(), Signal::KILL)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits for what to do; `None` when the supervisor has no work any more.
pub(super) fn order(control: &Socket) -> anyhow::Result<Option<(Order, OwnedFd)>> {
    let mut packet = Packet::default();
    if !control
        .recv(&mut packet)
        .context("cannot hear the supervisor")?
    {
        return Ok(None);
    }
    let order = serde_json::from_slice(&packet.bytes).context("the supervisor sent no order")?;
    let connection = packet.fds.pop();
    let connection = connection.context("the supervisor sent no connection")?;
    Report::Serving.send(control)?;
    Ok(Some((order, connection)))
}

/// Describes the renderer on the standard output.
pub(crate) fn probe() -> anyhow::Result<ExitCode> {
    confine();
    let renderer = load(RendererKind::Vulkan, None)?;
    println!("{}", serde_json::to_string(&renderer.describe())?);
    Ok(ExitCode::SUCCESS)
}

fn load(
    kind: RendererKind,
    recordings: Option<PathBuf>,
) -> Result<Arc<dyn Renderer>, renderer::Error> {
    Ok(match kind {
        RendererKind::Vulkan => Arc::new(Vulkan::load(recordings)?),
        RendererKind::Null => Arc::new(Null),
    })
}

/// The supervisor's socket is our standard input, which no program inherits by accident.
pub(super) fn control_socket() -> anyhow::Result<Socket> {
    let stdin = io::stdin();
    match rustix::net::sockopt::socket_type(&stdin) {
        Ok(rustix::net::SocketType::SEQPACKET) => {}
        _ => bail!("`asgard worker` is started by `asgard run` and `asgard serve`"),
    }
    Ok(Socket::from(stdin.as_fd().try_clone_to_owned()?))
}

/// A guest may crash this process at will: that must not fill the disk. Every resource is a file descriptor.
pub(super) fn confine() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let files = getrlimit(Resource::Nofile);
    let limits = [
        (Resource::Core, none),
        (
            Resource::Nofile,
            Rlimit {
                current: files.maximum,
                maximum: files.maximum,
            },
        ),
    ];
    for (resource, limit) in limits {
        if let Err(error) = setrlimit(resource, limit) {
            tracing::debug!("cannot set the limit of {resource:?}: {error}");
        }
    }
    if let Err(error) = rustix::thread::set_no_new_privs(true) {
        tracing::debug!("cannot give up privileges: {error}");
    }
}
