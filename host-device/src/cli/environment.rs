//! What a guest program and a worker find in their environments, and where the pieces lie.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use serde_json::Value;

/// How the guest driver's library is called, wherever its manifest lies.
const GFXSTREAM_LIBRARY: &str = "libvulkan_gfxstream";

/// The library that turns the guest driver's kernel calls into messages of our socket.
const PRELOAD: &str = "libasgard_preload.so";

/// Our own guest driver.
const DRIVER: &str = "libvulkan_asgard.so";

/// Says where the guest driver's messages go.
const SOCKET_VARIABLE: &str = "ASGARD_KUMQUAT_SOCKET";

/// Loader variables that choose drivers: the program's must be ours alone, a worker's never the guest driver.
pub(crate) const DRIVER_FILES: [&str; 3] =
    ["VK_DRIVER_FILES", "VK_ICD_FILENAMES", "VK_ADD_DRIVER_FILES"];

/// Loader variables that filter drivers.
pub(crate) const DRIVER_FILTERS: [&str; 2] =
    ["VK_LOADER_DRIVERS_SELECT", "VK_LOADER_DRIVERS_DISABLE"];

/// A driver's manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Icd {
    pub(crate) manifest: PathBuf,
    pub(crate) library: PathBuf,
    pub(crate) api_version: String,
}

impl Icd {
    pub(crate) fn read(manifest: &Path) -> io::Result<Self> {
        let text = std::fs::read(manifest)?;
        let json: Value = serde_json::from_slice(&text)?;
        let field = |name: &str| {
            json.get("ICD")
                .and_then(|icd| icd.get(name))
                .and_then(Value::as_str)
        };
        let library = field("library_path").ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "it is not a Vulkan driver's manifest",
            )
        })?;
        Ok(Self {
            manifest: std::path::absolute(manifest)?,
            library: PathBuf::from(library),
            api_version: field("api_version").unwrap_or_default().to_owned(),
        })
    }

    /// Where the library is: the loader searches names, and takes paths relative to the manifest.
    pub(crate) fn find_library(&self) -> Option<PathBuf> {
        if self.library.components().count() == 1 {
            return find_shared_library(&self.library);
        }
        let path = self.manifest.parent()?.join(&self.library);
        path.exists().then_some(path)
    }
}

/// The installed manifest of Mesa's gfxstream driver.
pub(crate) fn find_icd() -> Option<Icd> {
    find_icd_in(manifest_dirs())
}

fn find_icd_in(dirs: impl IntoIterator<Item = PathBuf>) -> Option<Icd> {
    dirs.into_iter().find_map(|dir| {
        let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
            .ok()?
            .flatten()
            .map(|entry| entry.path())
            .collect();
        files.sort();
        files
            .into_iter()
            .filter(|file| is_driver(file, GFXSTREAM_LIBRARY))
            .find_map(|file| Icd::read(&file).ok())
    })
}

/// Where the Vulkan loader looks for manifests, in its order.
pub(crate) fn manifest_dirs() -> Vec<PathBuf> {
    let home = env::var_os("HOME").map(PathBuf::from);
    let home_dir = |variable: &str, default: &str| {
        env::var_os(variable)
            .map(PathBuf::from)
            .or_else(|| home.as_ref().map(|home| home.join(default)))
    };
    let list = |variable: &str, default: &str| {
        let value = env::var_os(variable)
            .filter(|value| !value.is_empty())
            .unwrap_or_else(|| default.into());
        env::split_paths(&value).collect::<Vec<_>>()
    };
    let mut dirs = Vec::new();
    dirs.extend(home_dir("XDG_CONFIG_HOME", ".config"));
    dirs.extend(list("XDG_CONFIG_DIRS", "/etc/xdg"));
    dirs.push(PathBuf::from("/etc"));
    dirs.extend(home_dir("XDG_DATA_HOME", ".local/share"));
    dirs.extend(list("XDG_DATA_DIRS", "/usr/local/share:/usr/share"));
    dirs.into_iter()
        .map(|dir| dir.join("vulkan/icd.d"))
        .collect()
}

/// A shared library by name, where the dynamic linker usually finds it.
pub(crate) fn find_shared_library(name: &Path) -> Option<PathBuf> {
    let machine = env::consts::ARCH;
    let mut dirs: Vec<PathBuf> = env::var_os("LD_LIBRARY_PATH")
        .iter()
        .flat_map(env::split_paths)
        .collect();
    for dir in [
        format!("/usr/local/lib/{machine}-linux-gnu"),
        format!("/usr/lib/{machine}-linux-gnu"),
        format!("/lib/{machine}-linux-gnu"),
    ] {
        dirs.push(PathBuf::from(dir));
    }
    dirs.extend(
        [
            "/usr/local/lib64",
            "/usr/local/lib",
            "/usr/lib64",
            "/lib64",
            "/usr/lib",
            "/lib",
        ]
        .map(PathBuf::from),
    );
    dirs.into_iter()
        .map(|dir| dir.join(name))
        .find(|path| path.exists())
}

/// The preload library: $ASGARD_PRELOAD, or beside this executable, or in `../lib/asgard`.
pub(crate) fn find_preload() -> Option<PathBuf> {
    find_own("ASGARD_PRELOAD", PRELOAD)
}

/// A library of ours: named by a variable, or beside this executable, or in `../lib/asgard`.
fn find_own(variable: &str, name: &str) -> Option<PathBuf> {
    if let Some(path) = env::var_os(variable) {
        let path = std::path::absolute(path).ok()?;
        return path.is_file().then_some(path);
    }
    let exe = env::current_exe().ok()?;
    let dir = exe.parent()?;
    [dir.join(name), dir.join("../lib/asgard").join(name)]
        .into_iter()
        .find(|path| path.is_file())
}

/// The library of our own guest driver: $ASGARD_DRIVER, or beside this executable, or in `../lib/asgard`.
pub(crate) fn find_driver() -> Option<PathBuf> {
    find_own("ASGARD_DRIVER", DRIVER)
}

/// A manifest of our own guest driver, written into `dir`.
pub(crate) fn own_icd(dir: &Path) -> anyhow::Result<Icd> {
    let library = find_driver().with_context(|| {
        format!(
            "{DRIVER} is neither beside this program nor in ../lib/asgard, and ASGARD_DRIVER names no file. \
             To build it in a source tree:\n  {BUILD_LIBRARIES}"
        )
    })?;
    let manifest = dir.join("asgard_icd.json");
    let text = serde_json::json!({
        "file_format_version": "1.0.1",
        "ICD": { "library_path": library, "api_version": "1.4.342" },
    });
    std::fs::write(&manifest, text.to_string())
        .with_context(|| format!("cannot write {}", manifest.display()))?;
    Ok(Icd::read(&manifest)?)
}

pub(crate) fn preload_missing() -> String {
    let dir = env::current_exe()
        .ok()
        .and_then(|exe| exe.parent().map(Path::to_owned))
        .unwrap_or_default();
    format!(
        "{PRELOAD} is neither in {} nor in ../lib/asgard beside it, and ASGARD_PRELOAD names no file. \
         To build it in a source tree:\n  {BUILD_LIBRARIES}",
        dir.display()
    )
}

/// How our libraries come to lie beside the executable.
pub(crate) const BUILD_LIBRARIES: &str = "cargo build --release --workspace";

/// Gives a program the guest driver, and nothing but.
pub(crate) fn prepare_guest(
    command: &mut Command,
    icd: &Icd,
    preload: Option<&Path>,
    socket: &Path,
) {
    for variable in DRIVER_FILES
        .into_iter()
        .chain(DRIVER_FILTERS)
        .chain(["VIRTGPU_KUMQUAT"])
    {
        command.env_remove(variable);
    }
    // The second name is for loaders before 1.3.207.
    command
        .env("VK_DRIVER_FILES", &icd.manifest)
        .env("VK_ICD_FILENAMES", &icd.manifest);
    if let Some(preload) = preload {
        command.env("LD_PRELOAD", prepended(preload, env::var_os("LD_PRELOAD")));
    }
    command.env(SOCKET_VARIABLE, socket);
    // Windows: what the driver exports is plain memory, which no X or Wayland server takes as an image.
    // Mesa then copies each frame through shared memory, if it is told to.
    if env::var_os(WSI_MODE).is_none() {
        command.env(WSI_MODE, "sw");
    }
    if env::var_os(WGPU_ANY).is_none() {
        command.env(WGPU_ANY, "1");
    }
}

/// Lets programs of wgpu use a driver that claims no conformance, as ours must not before it was certified.
const WGPU_ANY: &str = "WGPU_ALLOW_UNDERLYING_NONCOMPLIANT_ADAPTER";

/// What our own guest driver uses of Asgard's own part of the wire; it reads it by itself.
pub(crate) const WIRE_FEATURES: &str = "ASGARD_WIRE_FEATURES";

/// How Mesa presents.
const WSI_MODE: &str = "MESA_VK_WSI_DEBUG";

fn prepended(library: &Path, old: Option<OsString>) -> OsString {
    let mut value = library.as_os_str().to_owned();
    if let Some(old) = old.filter(|old| !old.is_empty()) {
        value.push(":");
        value.push(old);
    }
    value
}

/// What differs in a worker's environment: it must load the host's driver, never the guest's,
/// which would lead back to a server.
pub(crate) fn of_workers() -> Vec<(OsString, Option<OsString>)> {
    let mut changes: Vec<(OsString, Option<OsString>)> = Vec::new();
    for variable in DRIVER_FILES {
        if let Some(files) = env::var_os(variable) {
            let kept = without_guest_drivers(&files);
            changes.push((variable.into(), (!kept.is_empty()).then_some(kept)));
        }
    }
    if let Some(libraries) = env::var_os("LD_PRELOAD") {
        let kept = without_preload(&libraries);
        changes.push(("LD_PRELOAD".into(), (!kept.is_empty()).then_some(kept)));
    }
    let disable = "VK_LOADER_DRIVERS_DISABLE";
    let mut disabled = env::var_os(disable)
        .filter(|old| !old.is_empty())
        .unwrap_or_default();
    if !disabled.is_empty() {
        disabled.push(",");
    }
    disabled.push("*gfxstream*,*asgard_icd*");
    changes.push((disable.into(), Some(disabled)));
    for variable in [SOCKET_VARIABLE, "VIRTGPU_KUMQUAT"] {
        changes.push((variable.into(), None));
    }
    changes
}

fn without_guest_drivers(files: &OsStr) -> OsString {
    let guest = |file: &Path| is_driver(file, GFXSTREAM_LIBRARY) || is_driver(file, DRIVER);
    let kept: Vec<PathBuf> = env::split_paths(files)
        .filter(|file| !guest(file))
        .collect();
    env::join_paths(kept).unwrap_or_default()
}

fn without_preload(libraries: &OsStr) -> OsString {
    let ours = |path: &Path| path.file_name().is_some_and(|name| name == PRELOAD);
    let kept: Vec<PathBuf> = env::split_paths(libraries)
        .filter(|path| !ours(path))
        .collect();
    env::join_paths(kept).unwrap_or_default()
}

/// Whether a manifest is that of a driver whose library's name starts so.
fn is_driver(file: &Path, library: &str) -> bool {
    file.extension()
        .is_some_and(|extension| extension == "json")
        && Icd::read(file).is_ok_and(|icd| {
            icd.library
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(library))
        })
}

/// A distribution, as far as its commands differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Distribution {
    /// Debian 12, whose own Mesa is too old.
    Bookworm,
    Apt,
    Pacman,
    Dnf,
    Unknown,
}

impl Distribution {
    pub(crate) fn here() -> Self {
        Self::from_os_release(&std::fs::read_to_string("/etc/os-release").unwrap_or_default())
    }

    fn from_os_release(text: &str) -> Self {
        let field = |name: &str| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            line.unwrap_or_default().trim_matches(['"', '\''])
        };
        if field("ID") == "debian" && field("VERSION_CODENAME") == "bookworm" {
            return Self::Bookworm;
        }
        for id in field("ID").split(' ').chain(field("ID_LIKE").split(' ')) {
            match id {
                "debian" | "ubuntu" => return Self::Apt,
                "arch" => return Self::Pacman,
                "fedora" | "rhel" => return Self::Dnf,
                _ => {}
            }
        }
        Self::Unknown
    }
}

/// The command that installs Mesa's Vulkan drivers, gfxstream and lavapipe among them.
pub(crate) fn install_mesa() -> &'static str {
    match Distribution::here() {
        Distribution::Bookworm => {
            "make setup    (in Asgard's source tree: adds bookworm-backports), or with that suite configured: \
             sudo apt-get install -t bookworm-backports mesa-vulkan-drivers"
        }
        Distribution::Apt => "sudo apt-get install mesa-vulkan-drivers",
        Distribution::Pacman => "sudo pacman -S vulkan-gfxstream vulkan-swrast",
        Distribution::Dnf => "sudo dnf install mesa-vulkan-drivers",
        Distribution::Unknown => {
            "install Mesa 25.0.7 or later with its gfxstream and swrast Vulkan drivers"
        }
    }
}

/// The command that installs the Vulkan loader.
pub(crate) fn install_loader() -> &'static str {
    match Distribution::here() {
        Distribution::Bookworm | Distribution::Apt => "sudo apt-get install libvulkan1",
        Distribution::Pacman => "sudo pacman -S vulkan-icd-loader",
        Distribution::Dnf => "sudo dnf install vulkan-loader",
        Distribution::Unknown => "install the Vulkan loader, libvulkan.so.1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_icd(dir: &Path, name: &str, library: &str) -> PathBuf {
        let file = dir.join(name);
        let json = serde_json::json!({"file_format_version": "1.0.0", "ICD": {"library_path": library, "api_version": "1.1.305"}});
        std::fs::write(&file, json.to_string()).unwrap();
        file
    }

    #[test]
    fn the_guest_driver_is_found_by_its_library() {
        let dir = tempfile::tempdir().unwrap();
        write_icd(dir.path(), "a_gfxstream_fake.json", "libvulkan_lvp.so");
        std::fs::write(dir.path().join("broken.json"), "{").unwrap();
        assert_eq!(find_icd_in([dir.path().to_owned()]), None);
        let file = write_icd(
            dir.path(),
            "whatever.x86_64.json",
            "/usr/lib/libvulkan_gfxstream.so",
        );
        let icd = find_icd_in([dir.path().join("missing"), dir.path().to_owned()]).unwrap();
        assert_eq!((icd.manifest, icd.api_version.as_str()), (file, "1.1.305"));
    }

    #[test]
    fn workers_keep_only_host_drivers() {
        let dir = tempfile::tempdir().unwrap();
        let guest = write_icd(dir.path(), "g.json", "libvulkan_gfxstream.so");
        let own = write_icd(dir.path(), "o.json", "/opt/libvulkan_asgard.so");
        let host = write_icd(dir.path(), "h.json", "libvulkan_lvp.so");
        let all = env::join_paths([&guest, &host, &own]).unwrap();
        assert_eq!(without_guest_drivers(&all), host.as_os_str());
        assert_eq!(without_guest_drivers(guest.as_os_str()), "");
        assert_eq!(
            without_preload(OsStr::new("/x/libasgard_preload.so:/y/libother.so")),
            "/y/libother.so"
        );
    }

    #[test]
    fn the_preload_library_comes_first() {
        let library = Path::new("/a.so");
        assert_eq!(prepended(library, None), "/a.so");
        assert_eq!(prepended(library, Some("".into())), "/a.so");
        assert_eq!(prepended(library, Some("/b.so".into())), "/a.so:/b.so");
    }

    #[test]
    fn distributions_are_told_apart() {
        let here = Distribution::from_os_release;
        assert_eq!(
            here("ID=debian\nVERSION_CODENAME=bookworm\n"),
            Distribution::Bookworm
        );
        assert_eq!(
            here("ID=debian\nVERSION_CODENAME=trixie\n"),
            Distribution::Apt
        );
        assert_eq!(
            here("NAME=x\nID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"),
            Distribution::Apt
        );
        assert_eq!(here("ID=endeavouros\nID_LIKE=arch\n"), Distribution::Pacman);
        assert_eq!(here(""), Distribution::Unknown);
    }
}
