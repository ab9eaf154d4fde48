//! `guest PROGRAM`: runs a program in a virtual machine whose GPU is ours.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use asgard_tests::screen::XServer;
use asgard_tests::via::{Channel, Stack};
use asgard_tests::vm::{self, Accelerator, Gpu, Machine, Options};
use clap::{Parser, ValueEnum};

/// Run a program in a Debian guest whose GPU is ours
///
/// QEMU and the guest are built from Debian's packages the first time and kept in ~/.cache/asgard (ASGARD_VM_CACHE names
/// another folder). The guest has nothing installed but its own packages. The program's output and exit code are this one's.
#[derive(Debug, Parser)]
#[command(after_help = "\
Examples:
  guest -- vulkaninfo --summary
  guest --driver asgard -- target/debug/scene graphics
  guest --in ~/programs --out results -- ~/programs/render
  guest --dmesg -- true")]
struct Arguments {
    /// Which guest driver the program gets
    #[arg(long, value_enum, default_value = "mesa")]
    driver: Driver,
    /// A file or folder that the guest sees at the same path; those beside this program are there anyway
    #[arg(long = "in", value_name = "PATH")]
    input: Vec<PathBuf>,
    /// A folder that the guest may write to; the program starts in it
    #[arg(long = "out", value_name = "FOLDER")]
    output: Option<PathBuf>,
    /// Print the kernel's log on standard error at the end
    #[arg(long)]
    dmesg: bool,
    /// Keep the machine's folder, with its console and what QEMU said
    #[arg(long)]
    keep: bool,
    /// What runs the guest's processors; the hardware is taken only if a trial shows that it works
    #[arg(long, value_enum, default_value = "auto")]
    accel: Accel,
    /// The guest's memory, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    memory: u32,
    /// The guest's processors
    #[arg(long, value_name = "N", default_value_t = 2)]
    cpus: usize,
    /// Seconds for the program
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
    /// A machine without a GPU
    #[arg(long)]
    no_gpu: bool,
    /// Be the agent inside of a guest
    #[arg(long, hide = true)]
    agent: bool,
    /// Start this kernel with this first file system instead of the one that runs, inside of a guest
    #[arg(long, hide = true, num_args = 2)]
    kexec: Vec<PathBuf>,
    /// The program and its arguments
    #[arg(
        required_unless_present_any = ["agent", "kexec"],
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "PROGRAM"
    )]
    program: Vec<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Driver {
    /// The guest's own
    Mesa,
    /// Ours, which finds the device in /dev/dri
    Asgard,
    /// Mesa's Venus, on QEMU's own GPU, to compare with
    Venus,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Accel {
    Tcg,
    Kvm,
    Auto,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let code = match arguments.kexec.as_slice() {
        [kernel, initrd] => vm::start_kernel(kernel, initrd).map(|()| 0),
        _ if arguments.agent => vm::serve_as_agent().map(|()| 0),
        _ => run(&arguments),
    };
    match code {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("guest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<u8> {
    let started = Instant::now();
    let mut options = Options::new(std::env::current_exe()?);
    options.accelerator = match arguments.accel {
        Accel::Tcg => Accelerator::Tcg,
        Accel::Kvm => Accelerator::Kvm,
        Accel::Auto => Accelerator::Auto,
    };
    options.memory = arguments.memory;
    options.processors = arguments.cpus;
    let screen;
    if arguments.no_gpu {
        options.gpu = Gpu::None;
    } else if let Driver::Venus = arguments.driver {
        screen = XServer::start(&[])?;
        options.gpu = Gpu::Venus(&screen);
    }
    for path in &arguments.input {
        let path = std::path::absolute(path)?;
        options.folders.push(match path.parent() {
            Some(folder) if path.is_file() => folder.to_owned(),
            _ => path,
        });
    }
    if let Some(output) = &arguments.output {
        std::fs::create_dir_all(output).with_context(|| output.display().to_string())?;
        options.writable.push(std::path::absolute(output)?);
    }
    let Some((program, words)) = arguments.program.split_first() else {
        bail!("no program")
    };
    // Where this shell would find it, if it is named by its path; otherwise where the guest's finds it.
    let program = if program.contains('/') {
        std::path::absolute(program)?
    } else {
        PathBuf::from(program)
    };

    let mut machine = Machine::boot(&options)?;
    let up = started.elapsed();
    let stack = match arguments.driver {
        Driver::Mesa => Stack::MachineMesa,
        Driver::Asgard => Stack::MachineAsgard,
        Driver::Venus => Stack::MachineVenus,
    };
    let mut command = machine.command(stack, program)?;
    command.args(words);
    if let Some(output) = options.writable.first() {
        command.current_dir(output);
    }
    let limit = Duration::from_secs(arguments.timeout);
    let done = machine.run_with(&command, limit, print)?;
    if arguments.dmesg {
        let log = machine.run(&Command::new("dmesg"), Duration::from_secs(60))?;
        eprint!("{}", log.stdout);
    }
    if arguments.keep {
        eprintln!("guest: kept {}", machine.keep_folder().display());
    }
    machine.shut_down()?;
    eprintln!(
        "guest: up after {:.1} s, the program ran for {:.1} s, {:.1} s in all",
        up.as_secs_f32(),
        done.elapsed.as_secs_f32(),
        started.elapsed().as_secs_f32()
    );
    let Some(status) = done.status else {
        bail!("the program was killed after {} s", arguments.timeout)
    };
    let code = match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 1,
    };
    Ok(u8::try_from(code & 0xff)?)
}

fn print(channel: Channel, bytes: &[u8]) {
    // Nobody reads on if this fails.
    let _ = match channel {
        Channel::Output => std::io::stdout().write_all(bytes),
        Channel::Error => std::io::stderr().write_all(bytes),
    };
}
