//! `asgard doctor`: what is there, what is missing, and what mends it.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use asgard_host_device::renderer::{Description, Features};
use asgard_host_device::resource::sealed_memory;
use rustix::fs::{Access, access, statvfs};
use serde::Serialize;

use super::environment::{self, Distribution, Icd};

/// The oldest Mesa whose guest driver works, and the Vulkan header version in its manifest.
const OLDEST_MESA: [u32; 3] = [25, 0, 7];
const OLDEST_HEADER: u32 = 305;

/// How long the Vulkan driver may take to load.
const PROBE_PATIENCE: Duration = Duration::from_secs(30);

/// Tell what is there and what is missing, and how to mend it
///
/// Ends with exit code 1 if something is missing without which no program can run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// List device extensions: native, through our guest driver, and why they differ
    ///
    /// Mesa's guest driver shows fewer: it has a list of its own.
    #[arg(long, conflicts_with = "json")]
    extensions: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    /// Neither good nor bad.
    Note,
    /// Something works less well, or may surprise.
    Warning,
    /// Nothing works without it.
    Missing,
}

impl State {
    fn mark(self) -> (&'static str, &'static str) {
        match self {
            Self::Ok => ("✓", "\x1b[32m"),
            Self::Note => ("·", "\x1b[2m"),
            Self::Warning => ("!", "\x1b[33m"),
            Self::Missing => ("✗", "\x1b[31m"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    name: &'static str,
    state: State,
    detail: String,
    /// A command, or what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

impl Finding {
    fn new(name: &'static str, state: State, detail: impl Into<String>) -> Self {
        Self {
            name,
            state,
            detail: detail.into(),
            fix: None,
        }
    }
    fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

pub(crate) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    if args.extensions {
        let native = probe(Way::Native).map_err(anyhow::Error::msg)?;
        let ours = probe(Way::Guest)
            .map_err(|why| anyhow::anyhow!("our guest driver does not answer: {why}"))?;
        io::stdout().write_all(extension_table(&native, &ours).as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let findings = examine();
    let healthy = findings
        .iter()
        .all(|finding| finding.state != State::Missing);
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(
            &mut out,
            &serde_json::json!({ "ok": healthy, "findings": findings }),
        )?;
        writeln!(out)?;
    } else {
        out.write_all(report(&findings, io::stdout().is_terminal()).as_bytes())?;
    }
    Ok(if healthy {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// One line for each device extension: whether the host's driver has it, whether our guest driver shows it, and
/// why the two differ.
fn extension_table(native: &Description, ours: &Description) -> String {
    let shown: BTreeSet<&str> = ours.extensions.iter().map(|(name, _)| &**name).collect();
    let hidden: BTreeMap<&str, Option<&str>> = native
        .extensions
        .iter()
        .map(|(name, why)| (&**name, why.as_deref()))
        .collect();
    let all: BTreeSet<&str> = shown.iter().chain(hidden.keys()).copied().collect();
    let mark = |there: bool| if there { "yes" } else { "-" };
    let mut text = format!(
        "{}: {} device extensions natively, {} through our guest driver\n\n{:48} native ours  reason\n",
        native.device,
        hidden.len(),
        shown.len(),
        "extension"
    );
    for name in all {
        let reason = match (hidden.get(name), shown.contains(name)) {
            (Some(_), true) => "",
            (None, _) => "made by the guest driver itself",
            (Some(Some(why)), false) => why,
            (Some(None), false) => asgard_decoder::VM_EXTENSIONS
                .iter()
                .find(|(vm, _)| *vm == name)
                .map_or("no reason is known: please report this", |(_, why)| why),
        };
        let line = format!(
            "{name:48} {:6} {:5} {reason}",
            mark(hidden.contains_key(name)),
            mark(shown.contains(name))
        );
        text += line.trim_end();
        text.push('\n');
    }
    text
}

fn examine() -> Vec<Finding> {
    let mut findings = guest_drivers();
    findings.push(loader());
    findings.extend(host_driver());
    findings.push(memory());
    findings.extend(shared_memory_dir());
    findings.push(wire());
    findings.push(socket_dir());
    findings.extend(render_nodes());
    findings.extend(variables());
    findings.push(display());
    findings
}

fn report(findings: &[Finding], colour: bool) -> String {
    let width = findings
        .iter()
        .map(|finding| finding.name.chars().count())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        let (mark, start) = finding.state.mark();
        let (start, end) = if colour { (start, "\x1b[0m") } else { ("", "") };
        let Finding { name, detail, .. } = finding;
        text.push_str(&format!(
            "{start}{mark}{end} {name:width$}  {}\n",
            detail.replace('\n', " ")
        ));
        if let Some(fix) = &finding.fix {
            text.push_str(&format!("  {:width$}  → {fix}\n", ""));
        }
    }
    let missing = findings
        .iter()
        .filter(|finding| finding.state == State::Missing)
        .count();
    text.push_str(&match missing {
        0 => "\nReady: asgard run -- vulkaninfo --summary\n".to_owned(),
        1 => "\n1 thing is missing.\n".to_owned(),
        n => format!("\n{n} things are missing.\n"),
    });
    text
}

/// One of the two drivers is enough: what only the other lacks is a note.
fn guest_drivers() -> Vec<Finding> {
    let mut own = match environment::find_driver() {
        Some(path) => Finding::new("guest driver", State::Ok, path.display().to_string()),
        None => Finding::new(
            "guest driver",
            State::Missing,
            "libvulkan_asgard.so is neither beside this executable nor in ../lib/asgard",
        )
        .fix(environment::BUILD_LIBRARIES),
    };
    let mut mesas = [mesas_driver(), preload()];
    if own.state == State::Ok {
        for finding in &mut mesas {
            if finding.state == State::Missing {
                finding.state = State::Note;
                finding.detail += " (only `--driver mesa` needs it)";
            }
        }
    } else if mesas.iter().all(|finding| finding.state == State::Ok) {
        own.state = State::Warning;
        own.detail += ": programs get Mesa's driver";
    }
    std::iter::once(own).chain(mesas).collect()
}

fn mesas_driver() -> Finding {
    let name = "Mesa's driver";
    let Some(icd) = environment::find_icd() else {
        return Finding::new(
            name,
            State::Missing,
            "Mesa's gfxstream driver has no manifest in the loader's directories",
        )
        .fix(environment::install_mesa());
    };
    let Some(library) = icd.find_library() else {
        let detail = format!(
            "{} names {}, which is not there",
            icd.manifest.display(),
            icd.library.display()
        );
        return Finding::new(name, State::Missing, detail).fix(environment::install_mesa());
    };
    let (version, fresh) = guest_version(&icd, &library);
    let detail = format!("{version}, {}", icd.manifest.display());
    if fresh {
        Finding::new(name, State::Ok, detail)
    } else {
        let [major, minor, patch] = OLDEST_MESA;
        Finding::new(
            name,
            State::Missing,
            format!("{detail}: older than Mesa {major}.{minor}.{patch}"),
        )
        .fix(environment::install_mesa())
    }
}

/// The package manager knows Mesa's version; otherwise the manifest tells the Vulkan headers it was built with.
fn guest_version(icd: &Icd, library: &Path) -> (String, bool) {
    let asked: &[&str] = match Distribution::here() {
        Distribution::Bookworm | Distribution::Apt => {
            &["dpkg-query", "-W", "-f=${Version}", "mesa-vulkan-drivers"]
        }
        Distribution::Pacman => &["pacman", "-Q", "vulkan-gfxstream"],
        Distribution::Dnf => &["rpm", "-q", "--qf=%{VERSION}", "mesa-vulkan-drivers"],
        Distribution::Unknown => &[],
    };
    let packaged = library.starts_with("/usr/lib") || library.starts_with("/usr/lib64");
    if let (true, [program, args @ ..]) = (packaged, asked)
        && let Ok(output) = Command::new(program)
            .args(args)
            .stderr(Stdio::null())
            .output()
        && let Some(version) = parse_version(&String::from_utf8_lossy(&output.stdout))
    {
        let [major, minor, patch] = version;
        return (
            format!("Mesa {major}.{minor}.{patch}"),
            version >= OLDEST_MESA,
        );
    }
    let header = parse_version(&icd.api_version).map_or(0, |[_, _, header]| header);
    (
        format!("Mesa of unknown version, Vulkan headers {header}"),
        header >= OLDEST_HEADER,
    )
}

/// The first three numbers that stand together, such as 25.0.7 in "1:25.0.7-2~bpo12+1".
fn parse_version(text: &str) -> Option<[u32; 3]> {
    text.split(|c: char| !c.is_ascii_digit() && c != '.')
        .find_map(|word| {
            let mut numbers = word.split('.').map(str::parse::<u32>);
            match (numbers.next(), numbers.next(), numbers.next()) {
                (Some(Ok(a)), Some(Ok(b)), Some(Ok(c))) => Some([a, b, c]),
                _ => None,
            }
        })
}

fn preload() -> Finding {
    match environment::find_preload() {
        Some(path) => Finding::new("preload library", State::Ok, path.display().to_string()),
        None => Finding::new(
            "preload library",
            State::Missing,
            "libasgard_preload.so is not beside this executable",
        )
        .fix(environment::BUILD_LIBRARIES),
    }
}

fn loader() -> Finding {
    match environment::find_shared_library(Path::new("libvulkan.so.1")) {
        Some(path) => {
            let real = path.canonicalize().unwrap_or(path);
            Finding::new("Vulkan loader", State::Ok, real.display().to_string())
        }
        None => Finding::new(
            "Vulkan loader",
            State::Missing,
            "libvulkan.so.1 is not in the usual directories",
        )
        .fix(environment::install_loader()),
    }
}

fn host_driver() -> Vec<Finding> {
    match probe(Way::Native) {
        Ok(description) => describe_host(&description),
        Err(why) => {
            vec![Finding::new("host driver", State::Missing, why).fix(environment::install_mesa())]
        }
    }
}

/// Whose view of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The host's driver, as a worker loads it.
    Native,
    /// Our guest driver, as a program under `asgard run` loads it.
    Guest,
}

/// Loads a driver in a process of its own, because drivers may crash.
fn probe(way: Way) -> Result<Description, String> {
    let mut command = Command::new("/proc/self/exe");
    if way == Way::Guest {
        let itself = env::current_exe().map_err(|error| format!("cannot find itself: {error}"))?;
        command
            .args(["run", "--driver", "asgard", "--"])
            .arg(itself);
    }
    command
        .arg("probe")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if way == Way::Native {
        for (variable, value) in environment::of_workers() {
            match value {
                Some(value) => command.env(variable, value),
                None => command.env_remove(variable),
            };
        }
    }
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Err(format!("cannot start the probe: {error}")),
    };
    let deadline = Instant::now() + PROBE_PATIENCE;
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!(
                "the Vulkan driver did not load within {PROBE_PATIENCE:?}"
            ));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = match child.wait_with_output() {
        Ok(output) => output,
        Err(error) => return Err(format!("cannot read from the probe: {error}")),
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let described = said
        .lines()
        .rev()
        .find_map(|line| serde_json::from_str::<Description>(line).ok());
    match described {
        Some(description) if output.status.success() => Ok(description),
        _ => {
            let errors = String::from_utf8_lossy(&output.stderr);
            let last = errors
                .lines()
                .last()
                .unwrap_or("it said nothing")
                .trim_start_matches("asgard: ");
            Err(format!("{last} ({})", output.status))
        }
    }
}

fn describe_host(host: &Description) -> Vec<Finding> {
    let Description {
        device,
        driver,
        api_version,
        software,
        can_share_memory,
        extensions: _,
    } = host;
    let speed = if *software {
        ", which computes on the processor"
    } else {
        ""
    };
    let detail = format!("{device}, {driver}, Vulkan {api_version}{speed}");
    let mut findings = vec![Finding::new("host driver", State::Ok, detail)];
    if *can_share_memory {
        let detail = "VK_EXT_external_memory_host: guests map it without copies";
        findings.push(Finding::new("host memory", State::Ok, detail));
    } else {
        let detail = "the driver lacks VK_EXT_external_memory_host: guests cannot map memory";
        findings.push(
            Finding::new("host memory", State::Missing, detail).fix(environment::install_mesa()),
        );
    }
    findings
}

fn memory() -> Finding {
    match sealed_memory("asgard-doctor", 4096) {
        Ok(_) => Finding::new("memfd", State::Ok, "shared memory can be made and sealed"),
        Err(error) => Finding::new("memfd", State::Missing, error.to_string()).fix(
            "allow memfd_create in the container's seccomp profile, or use Linux 3.17 or later",
        ),
    }
}

/// What our own guest driver and the renderer agree on.
fn wire() -> Finding {
    let name = "wire";
    let wanted = env::var(environment::WIRE_FEATURES).ok();
    match wanted.as_deref().map_or(Ok(Features::ALL), str::parse) {
        Ok(features) => {
            let detail =
                format!("Mesa's guest driver: none; ours, with `--wire-features=all`: {features}");
            Finding::new(name, State::Note, detail)
        }
        Err(why) => Finding::new(
            name,
            State::Warning,
            format!("{}: {why}", environment::WIRE_FEATURES),
        )
        .fix(format!("unset {}", environment::WIRE_FEATURES)),
    }
}

fn shared_memory_dir() -> Option<Finding> {
    let name = "/dev/shm";
    match statvfs(name) {
        Ok(fs) => {
            let mib = fs.f_blocks.saturating_mul(fs.f_frsize) >> 20;
            (mib < 256).then(|| {
                Finding::new(
                    name,
                    State::Warning,
                    format!("only {mib} MiB: programs that show windows may fail"),
                )
                .fix("sudo mount -o remount,size=1G /dev/shm    (docker run --shm-size=1g)")
            })
        }
        Err(error) => Some(
            Finding::new(
                name,
                State::Warning,
                format!("{error}: programs that show windows may fail"),
            )
            .fix("sudo mkdir -p /dev/shm && sudo mount -t tmpfs tmpfs /dev/shm"),
        ),
    }
}

fn socket_dir() -> Finding {
    let dir = env::var_os("XDG_RUNTIME_DIR").map_or_else(env::temp_dir, Into::into);
    match access(&dir, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => Finding::new("socket directory", State::Ok, dir.display().to_string()),
        Err(error) => {
            let detail = format!(
                "{}: {error}; `asgard run` falls back to /tmp",
                dir.display()
            );
            Finding::new("socket directory", State::Warning, detail)
                .fix("export XDG_RUNTIME_DIR=$(mktemp -d)")
        }
    }
}

/// A GPU that is there and that this user may not use.
fn render_nodes() -> Option<Finding> {
    let entries = std::fs::read_dir("/dev/dri").ok()?;
    let closed = entries.flatten().map(|entry| entry.path()).find(|path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("renderD"))
            && access(path, Access::READ_OK | Access::WRITE_OK).is_err()
    })?;
    let detail = format!(
        "{} is there, but not for this user: the renderer cannot use that GPU",
        closed.display()
    );
    Some(
        Finding::new("GPU access", State::Warning, detail)
            .fix("sudo usermod -aG render $USER    (then log in again)"),
    )
}

fn variables() -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut look = |variable: &'static str, detail: &str, state| {
        if let Some(value) = env::var_os(variable).filter(|value| !value.is_empty()) {
            let finding = Finding::new(variable, state, format!("{}: {detail}", value.display()));
            findings.push(match state {
                State::Warning => finding.fix(format!("unset {variable}")),
                _ => finding,
            });
        }
    };
    for variable in environment::DRIVER_FILES {
        look(
            variable,
            "the host driver is chosen from these; programs get the guest driver all the same",
            State::Note,
        );
    }
    for variable in environment::DRIVER_FILTERS {
        look(variable, "filters the host drivers", State::Note);
    }
    look(
        "VIRTGPU_KUMQUAT",
        "turned off for programs, because Mesa's packages cannot use it",
        State::Note,
    );
    for variable in ["VK_INSTANCE_LAYERS", "VK_LOADER_LAYERS_ENABLE"] {
        look(
            variable,
            "these layers are loaded into the program and into the renderer",
            State::Warning,
        );
    }
    look(
        "LD_PRELOAD",
        "loaded into the program as well, behind Asgard's library",
        State::Note,
    );
    findings
}

fn display() -> Finding {
    let set = |variable: &str| env::var_os(variable).filter(|value| !value.is_empty());
    let found: Vec<String> = ["WAYLAND_DISPLAY", "DISPLAY"]
        .into_iter()
        .filter_map(|variable| set(variable).map(|value| format!("{variable}={}", value.display())))
        .collect();
    if found.is_empty() {
        Finding::new(
            "display",
            State::Note,
            "neither DISPLAY nor WAYLAND_DISPLAY is set: programs cannot show windows",
        )
        .fix("Xvfb :1 -screen 0 1280x720x24 & export DISPLAY=:1")
    } else {
        Finding::new("display", State::Ok, found.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_package_versions() {
        assert_eq!(parse_version("25.0.7-2~bpo12+1"), Some([25, 0, 7]));
        assert_eq!(
            parse_version("vulkan-gfxstream 1:26.2.6-1"),
            Some([26, 2, 6])
        );
        assert_eq!(parse_version("1.1.305"), Some([1, 1, 305]));
        assert_eq!(parse_version("nothing"), None);
        assert!([22, 3, 6] < OLDEST_MESA && [25, 1, 0] > OLDEST_MESA);
    }

    #[test]
    fn the_report_is_aligned_and_shows_fixes() {
        let findings = [
            Finding::new("a", State::Ok, "fine"),
            Finding::new("longer", State::Missing, "gone").fix("do it"),
        ];
        assert_eq!(
            report(&findings, false),
            "✓ a       fine\n✗ longer  gone\n          → do it\n\n1 thing is missing.\n"
        );
    }
}
