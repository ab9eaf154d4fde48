//! The process that serves one virtual machine; see `supervisor`.

use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use asgard_host_device::device::Summary;
use asgard_host_device::display::Display;
use asgard_host_device::supervisor::{Order, Report};
use asgard_host_device::vmm::vhost_user;
use rustix::process::{Signal, set_parent_process_death_signal};

use super::worker::{confine, control_socket, order};
use super::{DeviceArgs, MachineArgs};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    machine: MachineArgs,
}

pub(crate) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot follow the parent")?;
    confine();
    let control = Arc::new(control_socket()?);
    let Some((order, connection)) = order(&control)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let Order::Machine {
        color_buffer_memory_index,
    } = order
    else {
        bail!("a front is no renderer process")
    };
    let config = args
        .machine
        .config(args.device.config(), color_buffer_memory_index);
    let display = Display::start(args.machine.lookers()).context("cannot show the displays")?;
    let connection = UnixStream::from(connection);
    let served = vhost_user::serve(connection, config, display, Arc::clone(&control));
    let error = served.err().map(|error| error.to_string());
    Report::ended(Summary::default(), error).send(&control)?;
    Ok(ExitCode::SUCCESS)
}
