//! The `asgard` command.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

mod cli;

/// Vulkan for programs and virtual machines without a GPU of their own.
///
/// Asgard is a gfxstream renderer: it executes on this machine's Vulkan driver what a guest's
/// gfxstream driver sends. Mesa has that guest driver, so that guests need nothing from Asgard.
#[derive(Debug, Parser)]
#[command(name = "asgard", version, arg_required_else_help = true, after_help = EXAMPLES)]
struct Cli {
    /// Say more: -v what happens, -vv details, -vvv everything. RUST_LOG is finer
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  asgard doctor                         see whether everything is there
  asgard run -- vulkaninfo --summary    run one program on the renderer
  asgard serve --kumquat-socket /run/user/1000/asgard.sock
  asgard run --connect /run/user/1000/asgard.sock -- vkcube
  asgard vm -- qemu-system-x86_64 -m 4G -drive file=debian.qcow2,if=virtio";

#[derive(Debug, Subcommand)]
enum Command {
    Run(cli::run::Args),
    Serve(cli::serve::Args),
    Vm(cli::vm::Args),
    Doctor(cli::doctor::Args),
    /// Print a manual page: asgard's own, or that of a command
    Man {
        /// Which command
        command: Option<String>,
    },
    /// Print the completion script of a shell
    ///
    /// For bash: asgard completions bash > ~/.local/share/bash-completion/completions/asgard
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Serve one connection that arrives at the standard input; `asgard` starts it by itself
    #[command(hide = true)]
    Worker(cli::worker::Args),
    /// Serve one virtual machine; `asgard` starts it by itself
    #[command(hide = true)]
    Front(cli::front::Args),
    /// Load the Vulkan driver and describe it in JSON; a process of its own, as it may crash
    #[command(hide = true)]
    Probe,
}

/// Under this name the command is `asgard serve`: managers of virtual machines start a vhost-user device by a
/// program's name alone.
const DEVICE: &str = "vhost-user-gpu-asgard";

fn arguments() -> Vec<OsString> {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    let called = arguments
        .first()
        .and_then(|name| Path::new(name).file_name());
    if called == Some(DEVICE.as_ref()) {
        arguments.insert(1, "serve".into());
    }
    arguments
}

fn main() -> ExitCode {
    let cli = Cli::parse_from(arguments());
    cli::log(cli.verbose);
    let done = match cli.command {
        Command::Run(args) => cli::run::main(args, cli.verbose),
        Command::Vm(args) => cli::vm::main(args, cli.verbose),
        Command::Serve(args) => cli::serve::main(&args, cli.verbose),
        Command::Doctor(args) => cli::doctor::main(&args),
        Command::Man { command } => cli::manual(Cli::command(), command.as_deref()),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "asgard", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Worker(args) => cli::worker::main(&args),
        Command::Front(args) => cli::front::main(&args),
        Command::Probe => cli::worker::probe(),
    };
    done.unwrap_or_else(|error| {
        eprintln!("asgard: {error:#}");
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
