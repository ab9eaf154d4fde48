//! What the subcommands share.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use asgard_host_device::device::{Config, Limits};
use asgard_host_device::display;
use asgard_host_device::renderer::Features;
use asgard_host_device::virtio_gpu::gpu;
use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

pub(crate) mod doctor;
pub(crate) mod environment;
pub(crate) mod front;
pub(crate) mod run;
pub(crate) mod serve;
pub(crate) mod vm;
pub(crate) mod worker;

/// Logs to the standard error.
pub(crate) fn log(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .init();
}

pub(crate) fn manual(mut command: clap::Command, of: Option<&str>) -> anyhow::Result<ExitCode> {
    command.build();
    let page = match of {
        None => command,
        Some(name) => {
            let found = command
                .find_subcommand(name)
                .with_context(|| format!("there is no command {name}"))?;
            found.clone()
        }
    };
    match clap_mangen::Man::new(page).render(&mut io::stdout()) {
        // A reader that has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        other => other.context("cannot print the manual page")?,
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RendererKind {
    /// The host's Vulkan driver.
    Vulkan,
    /// Echoes what it gets; for tests and measurements of the transport.
    Null,
}

/// What a guest may use, and how it is served.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Limits of each connection")]
pub(crate) struct DeviceArgs {
    /// Bytes of memory, such as 512M or 4G: of the connection's own resources, and of each context's Vulkan memory
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    max_memory: Option<u64>,
    /// Guest processes in one connection
    #[arg(long, value_name = "N", default_value_t = Limits::default().contexts)]
    max_contexts: usize,
    /// Guest threads of one guest process
    #[arg(long, value_name = "N", default_value_t = Limits::default().rings)]
    max_rings: usize,
    /// Resources: mapped memory and shared images
    #[arg(long, value_name = "N", default_value_t = Limits::default().resources)]
    max_resources: usize,
    /// Vulkan objects of one guest process
    #[arg(long, value_name = "N", default_value_t = Limits::default().objects)]
    max_objects: u32,
    /// Have guests send each descriptor set update at once instead of with the next submission
    #[arg(long, help_heading = "Protocol")]
    no_batched_descriptor_sets: bool,
    /// What guests may use of Asgard's own part of the wire: all, none, or a list such as chosen-ids
    #[arg(long, value_name = "FEATURES", default_value_t = Features::ALL, help_heading = "Protocol")]
    wire_features: Features,
    /// Bytes by which a ring's write pointer moves at each small transfer
    #[arg(long, value_name = "BYTES", default_value_t = Config::default().flush_interval, help_heading = "Protocol",
          value_parser = parse_flush_interval)]
    flush_interval: u32,
    /// Microseconds for which an idle ring thread looks for more before it sleeps
    #[arg(
        long,
        value_name = "US",
        default_value_t = 50,
        help_heading = "Protocol"
    )]
    spin: u32,
    /// Behave as upstream's gfxstream host, as far as a guest can tell: for tests of guest drivers
    #[arg(long, help_heading = "Protocol", hide = true)]
    as_upstream: bool,
    /// Write every byte of each ring into a file of this folder
    #[arg(long, value_name = "FOLDER", help_heading = "Protocol")]
    pub(crate) record: Option<PathBuf>,
    /// Who executes the commands
    #[arg(long, value_enum, default_value_t = RendererKind::Vulkan, hide = true)]
    pub(crate) renderer: RendererKind,
}

impl DeviceArgs {
    pub(crate) fn config(&self) -> Config {
        let limits = Limits {
            contexts: self.max_contexts,
            rings: self.max_rings,
            resources: self.max_resources,
            objects: self.max_objects,
            memory: self.max_memory.unwrap_or(u64::MAX),
            ..Limits::default()
        };
        Config {
            limits,
            batched_descriptor_sets: !self.no_batched_descriptor_sets,
            wire_features: if self.as_upstream {
                Features::NONE
            } else {
                self.wire_features
            },
            flush_interval: if self.as_upstream {
                // Upstream's.
                1 << 18
            } else {
                self.flush_interval
            },
            spin: Duration::from_micros(self.spin.into()),
            as_upstream: self.as_upstream,
            ..Config::default()
        }
    }

    /// The arguments that make a process of ours do as this command was told.
    fn process_args(&self, command: &str, verbose: u8) -> Vec<OsString> {
        let mut args = vec![String::from(command)];
        args.extend((0..verbose).map(|_| String::from("-v")));
        let mut option =
            |name: &str, value: &dyn std::fmt::Display| args.push(format!("--{name}={value}"));
        if let Some(bytes) = self.max_memory {
            option("max-memory", &bytes);
        }
        option("max-contexts", &self.max_contexts);
        option("max-rings", &self.max_rings);
        option("max-resources", &self.max_resources);
        option("max-objects", &self.max_objects);
        option("flush-interval", &self.flush_interval);
        option("spin", &self.spin);
        option("wire-features", &self.wire_features);
        if self.renderer == RendererKind::Null {
            option("renderer", &"null");
        }
        if self.no_batched_descriptor_sets {
            args.push(String::from("--no-batched-descriptor-sets"));
        }
        if self.as_upstream {
            args.push(String::from("--as-upstream"));
        }
        let mut args: Vec<OsString> = args.into_iter().map(OsString::from).collect();
        if let Some(folder) = &self.record {
            args.push("--record".into());
            args.push(folder.into());
        }
        args
    }

    /// How a supervisor runs the workers.
    pub(crate) fn supervisor_options(
        &self,
        max_connections: usize,
        linger: Duration,
        verbose: u8,
    ) -> asgard_host_device::supervisor::Options {
        asgard_host_device::supervisor::Options {
            worker_args: self.process_args("worker", verbose),
            front_args: self.process_args("front", verbose),
            worker_env: environment::of_workers(),
            max_connections,
            // Those that end take a moment.
            max_contexts: self.config().limits.contexts.saturating_mul(2),
            linger,
        }
    }
}

/// What a virtual machine gets.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Virtual machines")]
pub(crate) struct MachineArgs {
    /// Bytes of the window that guests map memory through, such as 8G; it costs address space only
    #[arg(long, value_name = "BYTES", default_value = "8G", value_parser = parse_bytes)]
    window: u64,
    /// Mappings in that window at a time; each makes the next a little slower
    #[arg(long, value_name = "N", default_value_t = 4096)]
    max_maps: usize,
    /// A display of this size in pixels; can be given up to 16 times [default: 1280x800, one display]
    #[arg(long, value_name = "WxH", value_parser = parse_size)]
    display: Vec<(u32, u32)>,
    /// No display: guests can only compute and render
    #[arg(long, conflicts_with = "display")]
    no_display: bool,
    /// Keep the newest picture of each display in this folder, as 0.png, 1.png and so on
    #[arg(long, value_name = "FOLDER")]
    frames: Option<PathBuf>,
    /// Where people see the displays
    ///
    /// For windows, `asgard vm` gives QEMU a keyboard, a tablet and a control socket, and no display of its own, unless its
    /// arguments name others. Closing a window presses the machine's power button; closing it again pulls the plug.
    #[arg(long, value_enum, default_value_t = Show::None)]
    show: Show,
    /// QEMU's control socket (`-qmp unix:PATH,server=on,wait=off`): what is typed and pointed at in the windows goes there
    #[arg(long, value_name = "PATH")]
    qmp: Option<PathBuf>,
}

/// Where people see the displays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Show {
    /// Nowhere
    None,
    /// A window of X11 or Wayland for each display
    Window,
}

impl MachineArgs {
    pub(crate) fn config(&self, device: Config, color_buffer_memory_index: u32) -> gpu::Config {
        let displays = match self.display.as_slice() {
            _ if self.no_display => Vec::new(),
            [] => vec![(1280, 800)],
            displays => displays.to_vec(),
        };
        gpu::Config {
            device,
            color_buffer_memory_index,
            window: self.window.next_power_of_two(),
            maps: self.max_maps,
            displays,
        }
    }

    /// Makes fronts do as this command was told.
    pub(crate) fn add_to(&self, options: &mut asgard_host_device::supervisor::Options) {
        options
            .front_args
            .extend(self.front_args().map(OsString::from));
        let paths = [("--frames", &self.frames), ("--qmp", &self.qmp)];
        for (option, path) in paths {
            if let Some(path) = path {
                options.front_args.push(option.into());
                options.front_args.push(path.into());
            }
        }
    }

    /// Who looks at the displays.
    pub(crate) fn lookers(&self) -> display::Options {
        display::Options {
            frames: self.frames.clone(),
            windows: self.show == Show::Window,
            qmp: self.qmp.clone(),
        }
    }

    /// Fails if what was asked for cannot be.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let screen = ["WAYLAND_DISPLAY", "WAYLAND_SOCKET", "DISPLAY"];
        let has = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        ensure!(
            self.show == Show::None || screen.into_iter().any(has),
            "there is no screen for windows: neither WAYLAND_DISPLAY nor DISPLAY is set; \
             leave --show out, or keep pictures with --frames FOLDER"
        );
        Ok(())
    }

    fn front_args(&self) -> impl Iterator<Item = String> {
        let displays = self.display.iter();
        [
            format!("--window={}", self.window),
            format!("--max-maps={}", self.max_maps),
        ]
        .into_iter()
        .chain(displays.map(|(width, height)| format!("--display={width}x{height}")))
        .chain(self.no_display.then(|| "--no-display".to_owned()))
        .chain((self.show == Show::Window).then(|| "--show=window".to_owned()))
    }
}

fn parse_size(text: &str) -> Result<(u32, u32), String> {
    let size = text.split_once('x').and_then(|(width, height)| {
        let size = (width.parse().ok()?, height.parse().ok()?);
        let sane = |pixels: u32| (16..=8192).contains(&pixels);
        (sane(size.0) && sane(size.1)).then_some(size)
    });
    size.ok_or_else(|| "not a size such as 1280x800".to_owned())
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = text.strip_prefix(digits).unwrap_or_default();
    let shift = match unit.trim_end_matches("iB").trim_end_matches('B') {
        "" => 0,
        "k" | "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(format!("{unit:?} is no unit; use K, M, G or T")),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "not a number of bytes".to_owned())?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "too large".to_owned())
}

fn parse_flush_interval(text: &str) -> Result<u32, String> {
    let bytes: u32 = text
        .parse()
        .map_err(|_| "not a number of bytes".to_owned())?;
    if asgard_asg::layout::valid_config(Config::default().buffer_size, bytes) {
        Ok(bytes)
    } else {
        Err("must be a multiple of 4, and at most half of the ring's buffer".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units() {
        assert_eq!(parse_bytes("17"), Ok(17));
        assert_eq!(parse_bytes("4G"), Ok(4 << 30));
        assert_eq!(parse_bytes("512MiB"), Ok(512 << 20));
        assert!(parse_bytes("G").is_err());
        assert!(parse_bytes("1X").is_err());
        assert!(parse_bytes("99999999999999T").is_err());
    }

    #[test]
    fn workers_are_told_what_the_command_was_told() {
        #[derive(Debug, clap::Parser)]
        struct Only {
            #[command(flatten)]
            device: DeviceArgs,
        }
        use clap::Parser;
        let told = [
            "x",
            "--max-memory=2G",
            "--max-rings=3",
            "--no-batched-descriptor-sets",
            "--renderer=null",
            "--wire-features=none",
            "--spin=7",
            "--as-upstream",
            "--record=/a folder",
        ];
        let first = Only::parse_from(told).device;
        let mut args = first.process_args("worker", 0);
        args[0] = "x".into();
        let second = Only::parse_from(args).device;
        assert_eq!(format!("{first:?}"), format!("{second:?}"));
    }
}
