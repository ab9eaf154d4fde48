//! `asgard vm`: a virtual machine with a GPU.

use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use asgard_host_device::supervisor::{Guests, Supervisor};
use rustix::io::{FdFlags, fcntl_setfd};

use super::{DeviceArgs, MachineArgs, Show, run};

/// What QEMU's device is called, and since when it can map memory into its guest.
const DEVICE: &str = "vhost-user-test-device-pci";
const OLDEST_QEMU: [u32; 2] = [11, 1];

/// How long the device may take to end after the machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// How much memory QEMU gives a guest that nobody says otherwise for.
const DEFAULT_MEMORY: &str = "128M";

/// Run QEMU with a GPU for its guest
///
/// Starts the renderer and then the machine, with the device and the shared memory that it needs added to QEMU's
/// arguments. Its exit code becomes asgard's. The guest needs nothing from Asgard: Mesa's gfxstream driver is enough.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  asgard vm -- qemu-system-x86_64 -accel kvm -cpu host -smp 4 -m 4G -drive file=debian.qcow2,if=virtio
  asgard vm --show window -- qemu-system-x86_64 -accel kvm -cpu host -m 4G -cdrom debian-live.iso
  asgard vm --no-display --window 16G -- qemu-system-x86_64 -m 8G -nographic -kernel vmlinuz -initrd initrd.img")]
pub(crate) struct Args {
    /// Print the command line of QEMU instead of running it
    #[arg(long)]
    dry_run: bool,
    /// QEMU and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "QEMU"
    )]
    qemu: Vec<OsString>,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    machine: MachineArgs,
}

pub(crate) fn main(args: Args, verbose: u8) -> anyhow::Result<ExitCode> {
    let Some((qemu, given)) = args.qemu.split_first() else {
        bail!("no QEMU")
    };
    let (theirs, ours) = UnixStream::pair().context("cannot make a socket pair")?;
    let theirs = OwnedFd::from(theirs);
    let mut machine = args.machine;
    let mut added = additions(given, theirs.as_raw_fd()).map_err(anyhow::Error::msg)?;
    let mut folder = None;
    if machine.show == Show::Window {
        if machine.qmp.is_none() {
            let private = run::private_dir().context("cannot make a directory for a socket")?;
            machine.qmp = Some(private.path().join("qmp"));
            added.extend(control(&folder.insert(private).path().join("qmp")));
        }
        added.extend(for_people(given));
    }
    if args.dry_run {
        let mut line = String::new();
        for word in args.qemu.iter().map(|word| word.to_string_lossy()) {
            let _ = write!(line, "{word} ");
        }
        println!("{line}{}", added.join(" "));
        return Ok(ExitCode::SUCCESS);
    }
    machine.check()?;
    check_version(qemu)?;

    let mut options = args.device.supervisor_options(1, PATIENCE, verbose);
    machine.add_to(&mut options);
    let mut supervisor = Supervisor::new(options);
    let device = supervisor
        .warm_up()
        .context("cannot start the renderer (`asgard doctor` may know why)")?;
    tracing::info!("the guest's GPU is {device}");
    supervisor.adopt(&OwnedFd::from(ours), Guests::Machines)?;

    let mut command = Command::new(qemu);
    command.args(given).args(added);
    let signals = run::signals()?;
    // Only QEMU inherits this end: as long as it is open here, no other process is started.
    fcntl_setfd(&theirs, FdFlags::empty()).context("cannot pass a descriptor on")?;
    let child = command
        .spawn()
        .with_context(|| format!("cannot run {}", Path::new(qemu).display()))?;
    drop(theirs);
    let server = run::Server::start(supervisor, device)?;
    let code = run::supervise(child, signals)?;
    server.stop()?;
    drop(folder);
    Ok(ExitCode::from(code))
}

/// A control socket for what people do in the windows.
fn control(path: &Path) -> [String; 4] {
    let path = path.to_string_lossy().replace(',', ",,");
    [
        "-chardev".to_owned(),
        format!("socket,id=asgard-qmp,path={path},server=on,wait=off"),
        "-mon".to_owned(),
        "chardev=asgard-qmp,mode=control".to_owned(),
    ]
}

/// A keyboard and a pointer, and no display but ours, where the user says nothing else.
fn for_people(given: &[OsString]) -> Vec<String> {
    let mut added = Vec::new();
    let devices = values(given, "device");
    for (kind, device) in [
        ("keyboard", "virtio-keyboard-pci"),
        ("tablet", "virtio-tablet-pci"),
    ] {
        let is_it = |given: &&str| given.split(',').next().is_some_and(|d| d.contains(kind));
        if !devices.iter().any(is_it) {
            added.extend(["-device".to_owned(), device.to_owned()]);
        }
    }
    for option in ["vga", "display"] {
        if values(given, option).is_empty() && !given.iter().any(|word| word == "-nographic") {
            added.extend([format!("-{option}"), "none".to_owned()]);
        }
    }
    added
}

/// The values of an option, with one dash or two.
fn values<'a>(given: &'a [OsString], option: &str) -> Vec<&'a str> {
    let text = |word: &'a OsString| OsStr::to_str(word).unwrap_or_default();
    let is_it = |word: &str| word.trim_start_matches('-') == option && word.starts_with('-');
    let words = given.iter().map(text);
    let pairs = words.clone().zip(words.skip(1));
    pairs
        .filter(|(word, _)| is_it(word))
        .map(|(_, value)| value)
        .collect()
}

/// What QEMU's command line lacks, or why that cannot be said.
fn additions(given: &[OsString], fd: i32) -> Result<Vec<String>, String> {
    let values = |option| values(given, option);
    if values("device")
        .iter()
        .any(|device| device.starts_with(DEVICE) && device.contains("virtio-id=16"))
    {
        return Err(format!("{DEVICE} is added by asgard: leave it out"));
    }
    let mut added = Vec::new();
    let objects = values("object");
    let backends: Vec<&&str> = objects
        .iter()
        .filter(|object| object.starts_with("memory-backend-"))
        .collect();
    if backends.is_empty() {
        let size = memory_size(values("m").last().copied().unwrap_or(DEFAULT_MEMORY))?;
        added.push("-object".to_owned());
        added.push(format!(
            "memory-backend-memfd,id=asgard-memory,size={size},share=on"
        ));
        added.push("-machine".to_owned());
        added.push("memory-backend=asgard-memory".to_owned());
    } else if let Some(private) = backends.iter().find(|object| !is_shared(object)) {
        return Err(format!(
            "the renderer cannot see the guest's memory: add share=on to -object {private} \
             (memory-backend-memfd,id=...,size=...,share=on)"
        ));
    } else {
        let uses = |machine: &&str| machine.contains("memory-backend=");
        let nodes = values("numa");
        if !values("machine").iter().chain(&values("M")).any(uses)
            && !nodes.iter().any(|node| node.contains("memdev="))
        {
            return Err(format!(
                "nothing uses -object {}: add -machine memory-backend=ID",
                backends.first().map_or("", |object| object)
            ));
        }
    }
    added.push("-chardev".to_owned());
    added.push(format!("socket,id=asgard-gpu,fd={fd}"));
    added.push("-device".to_owned());
    added.push(format!(
        "{DEVICE},chardev=asgard-gpu,virtio-id=16,num_vqs=2,vq_size=256,config_size=16"
    ));
    Ok(added)
}

/// Whether another process can see the memory. A memfd backend is shared unless told otherwise.
fn is_shared(object: &str) -> bool {
    let by_default = object.starts_with("memory-backend-memfd");
    let said = object
        .split(',')
        .find_map(|word| word.strip_prefix("share="));
    said.map_or(by_default, |said| matches!(said, "on" | "yes" | "true"))
}

/// The size in the value of `-m`, in the form that an object wants.
fn memory_size(value: &str) -> Result<String, String> {
    let size = value
        .split(',')
        .find_map(|word| {
            word.strip_prefix("size=")
                .or((!word.contains('=')).then_some(word))
        })
        .unwrap_or(DEFAULT_MEMORY);
    let digits = size.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    if digits.is_empty() || !digits.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return Err(format!("-m {value} is no size"));
    }
    // Without a unit these are mebibytes, where an object means bytes.
    let unit = size.strip_prefix(digits).unwrap_or_default();
    Ok(format!(
        "{digits}{}",
        if unit.is_empty() { "M" } else { unit }
    ))
}

fn check_version(qemu: &OsStr) -> anyhow::Result<()> {
    let output = Command::new(qemu)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", Path::new(qemu).display()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let Some(version) = parse_version(&said) else {
        // Some other monitor, or a wrapper.
        return Ok(());
    };
    if version < OLDEST_QEMU {
        let ([major, minor], [oldest_major, oldest_minor]) = (version, OLDEST_QEMU);
        bail!(
            "this is QEMU {major}.{minor}, whose {DEVICE} cannot map memory into a guest: \
             {oldest_major}.{oldest_minor} can. Debian 13 has it in trixie-backports:\n  \
             sudo apt install -t trixie-backports qemu-system-x86"
        );
    }
    Ok(())
}

fn parse_version(text: &str) -> Option<[u32; 2]> {
    let version = text.split_once("version ")?.1;
    let mut numbers = version.split(|c: char| !c.is_ascii_digit());
    Some([numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn additions_to(line: &str) -> Result<String, String> {
        let given: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        additions(&given, 7).map(|added| added.join(" "))
    }

    #[test]
    fn memory_is_shared_and_the_device_added() {
        let added = additions_to("-m 2G -smp 2").unwrap();
        assert!(
            added.contains("memory-backend-memfd,id=asgard-memory,size=2G,share=on"),
            "{added}"
        );
        assert!(
            added.contains("-machine memory-backend=asgard-memory"),
            "{added}"
        );
        assert!(added.contains("socket,id=asgard-gpu,fd=7"), "{added}");
        assert!(
            added.contains("virtio-id=16,num_vqs=2,vq_size=256,config_size=16"),
            "{added}"
        );
    }

    #[test]
    fn shared_memory_of_the_users_own_is_left_alone() {
        let line =
            "-object memory-backend-memfd,id=m,size=1G,share=on -machine q35,memory-backend=m";
        assert!(!additions_to(line).unwrap().contains("memory-backend"));
        let line = "-object memory-backend-file,id=m,size=1G,mem-path=/dev/shm -machine q35,memory-backend=m";
        assert!(additions_to(line).unwrap_err().contains("share=on"));
        let line = "-object memory-backend-ram,id=m,size=1G,share=on";
        assert!(
            additions_to(line)
                .unwrap_err()
                .contains("memory-backend=ID")
        );
    }

    #[test]
    fn people_get_what_the_user_has_not_thought_of() {
        let added = |line: &str| {
            let given: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
            for_people(&given).join(" ")
        };
        assert_eq!(
            added("-m 2G"),
            "-device virtio-keyboard-pci -device virtio-tablet-pci -vga none -display none"
        );
        assert_eq!(
            added("-device usb-tablet,id=t -device usb-kbd -vga std -display gtk"),
            "-device virtio-keyboard-pci"
        );
        assert!(!added("-nographic").contains("none"));
    }

    #[test]
    fn sizes_mean_what_they_mean_to_qemu() {
        assert_eq!(memory_size("2G"), Ok("2G".to_owned()));
        assert_eq!(memory_size("2048"), Ok("2048M".to_owned()));
        assert_eq!(
            memory_size("size=1.5G,slots=2,maxmem=8G"),
            Ok("1.5G".to_owned())
        );
        assert_eq!(memory_size("512,slots=2"), Ok("512M".to_owned()));
        assert!(memory_size("lots").is_err());
    }

    #[test]
    fn versions_are_found() {
        let said = "QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1~bpo13+1)\nCopyright";
        assert_eq!(parse_version(said), Some([11, 1]));
        assert_eq!(parse_version("cloud-hypervisor v50"), None);
    }
}
