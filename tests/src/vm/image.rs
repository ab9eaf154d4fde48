//! What a machine needs and no test makes by itself: a QEMU that is new enough, and a Debian guest, both built once from
//! the packages of a Debian mirror and kept.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::report::digest;
use crate::via;

/// The release that guests run.
const RELEASE: &str = "trixie";
/// What a guest has besides the essential packages: its kernel and drivers, something to show and to measure, what
/// programs of the conformance tests are linked with, and tools.
const PACKAGES: &str = "linux-image-amd64,mesa-vulkan-drivers,vulkan-tools,vkmark,weston,libpng16-16t64,busybox-static,kmod,strace";
/// The guest is smaller without.
const WITHOUT: [&str; 3] = [
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/locale/*",
];
/// QEMU's packages. Its device can map memory into a guest since 11.1, which only backports have.
const QEMU_PACKAGES: [&str; 4] = [
    "qemu-system-x86",
    "qemu-system-common",
    "qemu-system-data",
    "seabios",
];
/// What QEMU needs besides for its own GPU. Mesa's parts have to be of one version.
const VENUS_PACKAGES: [&str; 8] = [
    "qemu-system-gui",
    "qemu-system-modules-opengl",
    "mesa-vulkan-drivers",
    "mesa-libgallium",
    "libegl-mesa0",
    "libgl1-mesa-dri",
    "libglx-mesa0",
    "libgbm1",
];
const VENUS_OTHERS: [&str; 5] = ["libc6", "virgl-server", "libvulkan1", "libegl1", "libgl1"];
const QEMU: &str = "qemu-system-x86_64";
const OLDEST_QEMU: (u32, u32) = (11, 1);
const IMAGE_SCRIPT: &str = include_str!("image.sh");

/// How long a mirror may take.
const PATIENCE: Duration = Duration::from_secs(1800);
/// How long a kernel without a root may take to give up, with hardware that works.
const TRIAL: Duration = Duration::from_secs(20);

/// What a machine boots.
#[derive(Debug, Clone)]
pub struct Guest {
    /// A folder with the files `kernel`, `initrd` and `root`.
    folder: PathBuf,
}

impl Guest {
    /// The Debian guest; the first time it is built.
    pub fn debian() -> Result<Self> {
        let suites = [String::new(), "-updates".to_owned()];
        let recipe = format!("{IMAGE_SCRIPT}{PACKAGES}{WITHOUT:?}{suites:?}");
        let folder = cached("guest", &recipe, |folder| {
            let script = folder.join("image.sh");
            fs::write(&script, IMAGE_SCRIPT)?;
            let mut command = bootstrap("minbase", PACKAGES)?;
            for path in WITHOUT {
                command.arg(format!("--dpkgopt=path-exclude={path}"));
            }
            command
                .env("ASGARD_IMAGE", folder)
                .arg(r#"--customize-hook=sh "$ASGARD_IMAGE/image.sh" "$1""#)
                .args([RELEASE, "/dev/null"])
                .args(sources(&suites)?);
            finish(command, folder)
        })?;
        Ok(Self { folder })
    }

    /// Its kernel.
    #[must_use]
    pub fn kernel(&self) -> PathBuf {
        self.folder.join("kernel")
    }

    /// The file system that its kernel starts from.
    #[must_use]
    pub fn initrd(&self) -> PathBuf {
        self.folder.join("initrd")
    }

    /// The file system of its disk, which must not be changed.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.folder.join("root")
    }
}

/// Whether this machine has what guests are built with.
#[must_use]
pub fn can_be_built() -> bool {
    let tools = ["apt-get", "mmdebstrap", "cpio", "xz"];
    // Not every user has the administrator's programs in PATH; the script looks there by itself.
    let mke2fs = ["/sbin", "/usr/sbin"].map(|folder| Path::new(folder).join("mke2fs"));
    cfg!(target_arch = "x86_64")
        && tools.iter().all(|tool| via::find_program(tool).is_some())
        && mke2fs.iter().any(|path| path.is_file())
}

/// A QEMU with the device: the installed one, or one that is unpacked into a folder and runs from there.
pub fn qemu() -> Result<PathBuf> {
    if let Some(installed) = via::find_program(QEMU)
        && version(&installed).is_some_and(|version| version >= OLDEST_QEMU)
    {
        return Ok(installed);
    }
    unpacked("qemu", &QEMU_PACKAGES, &["libc6"], WRAPPER)
}

/// A QEMU whose own GPU serves Mesa's Venus driver, with all that it needs to draw with; it runs from a folder.
pub(super) fn qemu_with_venus() -> Result<PathBuf> {
    ensure!(
        via::find_program("bwrap").is_some(),
        "QEMU with Venus needs bwrap, which shows it the files that it was unpacked with (Debian: bubblewrap)"
    );
    let newest = [&QEMU_PACKAGES[..], &VENUS_PACKAGES].concat();
    unpacked("venus", &newest, &VENUS_OTHERS, VENUS_WRAPPER)
}

/// A QEMU that is unpacked into a folder of this name, with `newest` out of backports, and the wrapper that runs it.
fn unpacked(name: &str, newest: &[&str], others: &[&str], wrapper: &str) -> Result<PathBuf> {
    let suites = ["", "-updates", "-backports"].map(str::to_owned);
    let newest = newest
        .iter()
        .map(|package| format!("{package}/{RELEASE}-backports"));
    let others = others.iter().map(|&package| package.to_owned());
    let packages = newest.chain(others).collect::<Vec<_>>().join(",");
    let recipe = format!("{packages}{suites:?}{wrapper}");
    let folder = cached(name, &recipe, |folder| {
        let mut command = bootstrap("extract", &packages)?;
        command
            .arg(RELEASE)
            .arg(folder.join("files"))
            .args(sources(&suites)?);
        finish(command, folder)?;
        let program = folder.join(QEMU);
        fs::write(&program, wrapper)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        let version = version(&program).context("the QEMU that was unpacked does not run")?;
        ensure!(
            version >= OLDEST_QEMU,
            "{RELEASE}-backports has QEMU {}.{}, which is too old",
            version.0,
            version.1
        );
        Ok(())
    })?;
    Ok(folder.join(QEMU))
}

/// Runs an unpacked QEMU with the libraries that it was unpacked with.
const WRAPPER: &str = r#"#!/bin/sh
files=$(dirname -- "$(realpath -- "$0")")/files/usr
libraries=$files/lib/x86_64-linux-gnu
export QEMU_MODULE_DIR="$libraries/qemu"
exec "$files/lib64/ld-linux-x86-64.so.2" --library-path "$libraries" \
    "$files/bin/qemu-system-x86_64" -L "$files/share/qemu" -L "$files/share/seabios" "$@"
"#;

/// The same, where it also starts programs and reads files that it was built with: it sees its own in place of this system's.
const VENUS_WRAPPER: &str = r#"#!/bin/sh
files=$(dirname -- "$(realpath -- "$0")")/files
exec bwrap --dev-bind / / --ro-bind "$files/usr" /usr --ro-bind "$files/etc" /etc --die-with-parent \
    qemu-system-x86_64 "$@"
"#;

fn version(qemu: &Path) -> Option<(u32, u32)> {
    let output = Command::new(qemu).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut numbers = text.split_once("version ")?.1.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Whether hardware can run the guest. On some machines /dev/kvm opens and then nothing ever runs,
/// so a kernel without a root has to come to its panic in time; that is asked once per start of this machine.
pub(super) fn kvm_works(qemu: &Path, guest: &Guest) -> Result<bool> {
    if File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_err()
    {
        return Ok(false);
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let note = cache()?.join("kvm");
    let known = fs::read_to_string(&note).unwrap_or_default();
    if let Some(works) = known.strip_prefix(&boot) {
        return Ok(works == "works");
    }
    let mut command = Command::new(qemu);
    command
        .args([
            "-accel", "kvm", "-cpu", "host", "-machine", "q35", "-m", "512M",
        ])
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ])
        .arg("-kernel")
        .arg(guest.kernel())
        .args(["-append", "quiet panic=-1"]);
    let trial = via::run(command, TRIAL)?;
    let works = trial.status.is_some_and(|status| status.success());
    fs::write(
        note,
        format!("{boot}{}", if works { "works" } else { "hangs" }),
    )?;
    Ok(works)
}

/// Where what is built is kept.
fn cache() -> Result<PathBuf> {
    let from = |name: &str, below: &str| {
        let value = std::env::var_os(name).filter(|value| !value.is_empty())?;
        Some(Path::new(&value).join(below))
    };
    let folder = from("ASGARD_VM_CACHE", "")
        .or_else(|| from("XDG_CACHE_HOME", "asgard"))
        .or_else(|| from("HOME", ".cache/asgard"))
        .context("no place for machines: HOME is not set")?;
    let folder = std::path::absolute(folder)?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// A folder that `build` fills, once for each recipe; who comes while it is being built waits.
fn cached(name: &str, recipe: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let cache = cache()?;
    let folder = cache.join(format!("{name}-{}", digest(recipe.as_bytes())));
    if folder.exists() {
        return Ok(folder);
    }
    let lock = File::create(cache.join(format!("{name}.lock")))?;
    lock.lock()?;
    if folder.exists() {
        return Ok(folder);
    }
    eprintln!("building {} (once; minutes) ...", folder.display());
    let started = Instant::now();
    let place = tempfile::Builder::new().prefix(name).tempdir_in(&cache)?;
    // Packages are unpacked under other ids where the user is not root.
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755))?;
    build(place.path()).with_context(|| format!("building {}", folder.display()))?;
    fs::rename(place.keep(), &folder)?;
    eprintln!("built {} in {:.0?}", folder.display(), started.elapsed());
    Ok(folder)
}

fn bootstrap(variant: &str, packages: &str) -> Result<Command> {
    ensure!(
        via::find_program("mmdebstrap").is_some(),
        "mmdebstrap is not installed (Debian: mmdebstrap)"
    );
    let mut command = Command::new("mmdebstrap");
    command
        .arg(format!("--variant={variant}"))
        .arg(format!("--include={packages}"))
        .arg("--architectures=amd64")
        .arg(r#"--aptopt=APT::Install-Recommends "false""#)
        // A mirror that is behind is good enough for a guest.
        .arg(r#"--aptopt=Acquire::Check-Valid-Until "false""#);
    Ok(command)
}

/// The suites as apt's lines, from the mirror that this machine takes its own packages from.
fn sources(suites: &[String]) -> Result<Vec<String>> {
    let output = Command::new("apt-get")
        .args(["indextargets", "--format", "$(REPO_URI)"])
        .args(["Created-By: Packages", "Component: main"])
        .args(["Origin: Debian", "Label: Debian"])
        .stdin(Stdio::null())
        .output()
        .context("guests are built from Debian's packages; this machine has no apt-get")?;
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    let mirror = listed
        .lines()
        .next()
        .context("apt knows no Debian mirror: configure one, and run apt-get update")?;
    Ok(suites
        .iter()
        .map(|suite| format!("deb {mirror} {RELEASE}{suite} main"))
        .collect())
}

/// Runs a command, whose words are shown if it fails; steps are shown as they come.
fn finish(command: Command, folder: &Path) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let started = Instant::now();
    let log = folder.join("log");
    let done = via::run_with(command, PATIENCE, |_, bytes| {
        for line in String::from_utf8_lossy(bytes).lines() {
            if let Some(step) = line.strip_prefix("I: ") {
                eprintln!("{:6.1} s  {step}", started.elapsed().as_secs_f32());
            }
        }
    })?;
    fs::write(&log, &done.stderr)?;
    match done.success() {
        Ok(_) => Ok(()),
        Err(error) => bail!("{program}: {error:#}"),
    }
}
