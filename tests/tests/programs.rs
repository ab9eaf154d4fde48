//! Programs that we did not write, through the stock driver and through ours, and windows.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use asgard_tests::require::require;
use asgard_tests::via::{self, Stack};

const LIMIT: Duration = Duration::from_secs(120);

/// What a report says: section and name to values, in the order they come.
type Report = BTreeMap<(String, String), Vec<String>>;

fn report(stack: Stack) -> Report {
    let mut command = via::command(stack, "vulkaninfo").unwrap();
    // No window system: surfaces are the guest driver's own.
    command.env_remove("DISPLAY").env_remove("WAYLAND_DISPLAY");
    let text = via::run(command, LIMIT).unwrap().success().unwrap().stdout;
    let mut report = Report::new();
    let mut section = String::new();
    let mut before = "";
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.len() > 2 && trimmed.chars().all(|c| c == '-' || c == '=') {
            section = before.trim().trim_end_matches(char::is_numeric).to_owned();
        } else if let Some((name, value)) =
            line.split_once(" = ").or_else(|| line.split_once(" : "))
        {
            report
                .entry((section.clone(), name.trim().to_owned()))
                .or_default()
                .push(value.trim().to_owned());
        }
        before = line;
    }
    report
}

/// A name, or the start of one, and why it differs.
type Differs = &'static [(&'static str, &'static str)];

/// What differs by intent with Mesa's guest driver.
const MESA_DIFFERS: Differs = &[
    (
        "deviceType",
        "Mesa's guest driver calls a processor a virtual GPU",
    ),
    (
        "sparse",
        "the host hides sparse binding: what a guest maps is imported memory",
    ),
    ("queueFlags", "as above: QUEUE_SPARSE_BINDING"),
    (
        "inlineUniformBlock",
        "Mesa's guest driver ends the program at the first write to one",
    ),
    ("descriptorBindingInlineUniformBlock", "as above"),
    (
        "deviceMemoryReport",
        "Mesa's guest driver reports by itself",
    ),
    ("VK_EXT_device_memory_report", "as above"),
    (
        "VK_EXT_image_drm_format_modifier",
        "Mesa's guest driver adds it",
    ),
    ("VK_KHR_external_fence_fd", "Mesa's guest driver adds it"),
    (
        "VK_KHR_external_semaphore_fd",
        "Mesa's guest driver adds it",
    ),
];

/// What differs by intent with our own.
const OWN_DIFFERS: Differs = &[
    (
        "sparse",
        "the host hides sparse binding: what a guest maps is imported memory",
    ),
    ("queueFlags", "as above: QUEUE_SPARSE_BINDING"),
    (
        "inlineUniformBlock",
        "hidden for Mesa's guest driver, which ends the program at the first write to one",
    ),
    ("descriptorBindingInlineUniformBlock", "as above"),
    (
        "VK_KHR_external_fence_fd",
        "sync files are the guest driver's own",
    ),
    ("VK_KHR_external_semaphore_fd", "as above"),
    (
        "VK_EXT_external_memory_dma_buf",
        "without a virtual machine, the files of memory are not dma-bufs",
    ),
    ("usage", "another process' memory"),
    ("budget", "as above"),
    (
        "major",
        "of conformanceVersion: none was certified with this driver (LDP_DRIVER_5)",
    ),
    ("minor", "as above"),
    ("subminor", "as above"),
    ("patch", "as above"),
    (
        "VK_EXT_external_memory_host",
        "it names addresses of the process that calls the host's driver, which is the renderer",
    ),
    ("VkPhysicalDeviceExternalMemoryHost", "as above"),
    (
        "VK_EXT_host_image_copy",
        "copies through pointers without a length have no encoding",
    ),
    ("VkPhysicalDeviceHostImageCopy", "as above"),
    (
        "VK_KHR_acceleration_structure",
        "pointers to pointers have no encoding yet",
    ),
    ("VkPhysicalDeviceAccelerationStructure", "as above"),
    ("VK_KHR_ray_", "as above"),
    ("VkPhysicalDeviceRay", "as above"),
    (
        "VK_ANDROID_external_memory_android_hardware_buffer",
        "of another system",
    ),
    ("VK_KHR_swapchain", "windows are the guest's own"),
    ("VK_KHR_incremental_present", "as above"),
    ("VK_EXT_swapchain_maintenance1", "as above"),
    ("VkPhysicalDeviceSwapchainMaintenance1", "as above"),
    ("VkPhysicalDevicePresent", "as above"),
    ("Present Capabilities", "as above"),
    ("Can present", "as above"),
    ("Present modes", "as above"),
];

fn differs_only_as_intended(stack: Stack, differs: Differs) {
    let (native, through) = (report(Stack::Native), report(stack));
    assert!(
        through.len() > 500,
        "the report is not complete: {} lines",
        through.len()
    );
    // The loader's own report of instance extensions and layers is about what is installed here.
    let about_device = |((section, _), _): &(&(String, String), &Vec<String>)| {
        !section.starts_with("Instance Extensions")
            && !section.starts_with("Layers")
            && section != "VULKANINFO"
    };
    let mut compared = 0;
    for (key, values) in through.iter().filter(about_device) {
        let (section, name) = key;
        if native.get(key) == Some(values) {
            compared += 1;
            continue;
        }
        let intended = differs.iter().find(|(start, _)| name.starts_with(start));
        let count = section.contains("Properties") && name.contains("Extensions");
        assert!(
            intended.is_some() || count,
            "{section} {name}: natively {:?}, through the renderer {values:?}",
            native.get(key)
        );
    }
    if stack == Stack::Asgard {
        // And nothing is missing.
        for ((section, name), values) in native.iter().filter(about_device) {
            let starts =
                |(start, _): &&(&str, &str)| name.starts_with(start) || section.starts_with(start);
            assert!(
                through.contains_key(&(section.clone(), name.clone()))
                    || differs.iter().any(|line| starts(&line))
                    || section.contains("Surface")
                    || section.contains("Present"),
                "{section} {name}: natively {values:?}, and missing through the renderer"
            );
        }
    }
    println!("{compared} entries are the same");
    assert!(compared > 400);
}

#[test]
fn vulkaninfo_differs_from_the_native_report_only_as_intended() {
    if require(&["mesa", "gfxstream", "asgard", "vulkaninfo"]) {
        differs_only_as_intended(Stack::Mesa, MESA_DIFFERS);
    }
}

#[test]
fn vulkaninfo_through_our_own_driver_differs_only_as_intended() {
    if require(&["mesa", "asgard", "vulkaninfo"]) {
        differs_only_as_intended(Stack::Asgard, OWN_DIFFERS);
    }
}

/// An X server without a screen, whose framebuffer is a file.
struct XServer {
    child: Child,
    display: String,
    dir: tempfile::TempDir,
}

impl XServer {
    fn start(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new("Xvfb")
            .args([
                "-displayfd",
                "1",
                "-screen",
                "0",
                "800x600x24",
                "-nolisten",
                "tcp",
                "-fbdir",
            ])
            .arg(dir.path())
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut number = String::new();
        let mut byte = [0];
        let pipe = child.stdout.as_mut().unwrap();
        while pipe.read_exact(&mut byte).is_ok() && byte[0] != b'\n' {
            number.push(char::from(byte[0]));
        }
        assert!(!number.is_empty(), "Xvfb did not start");
        Self {
            child,
            display: format!(":{number}"),
            dir,
        }
    }

    /// The screen's pixels: width, height, and blue, green, red and padding of each.
    fn screen(&self) -> (usize, usize, Vec<u8>) {
        let file = std::fs::read(self.dir.path().join("Xvfb_screen0")).unwrap();
        // An X window dump: words of its header are big endian.
        let word =
            |i: usize| u32::from_be_bytes(file[i * 4..i * 4 + 4].try_into().unwrap()) as usize;
        let (header, width, height, pitch, colors) =
            (word(0), word(4), word(5), word(12), word(19));
        assert_eq!((word(1), word(11)), (7, 32), "an X window dump of 32 bits");
        let pixels = &file[header + colors * 12..];
        let rows = pixels
            .chunks(pitch)
            .take(height)
            .flat_map(|row| &row[..width * 4]);
        (width, height, rows.copied().collect())
    }
}

impl Drop for XServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn vkcube_turns_in_a_window() {
    if require(&["mesa", "gfxstream", "asgard", "vkcube", "xvfb"]) {
        turns(Stack::Mesa, &[]);
    }
}

#[test]
fn vkcube_turns_in_a_window_of_our_own_driver() {
    if require(&["mesa", "asgard", "vkcube", "xvfb"]) {
        turns(Stack::Asgard, &[]);
    }
}

#[test]
fn vkcube_turns_without_memory_that_the_server_shares() {
    if require(&["mesa", "asgard", "vkcube", "xvfb"]) {
        turns(Stack::Asgard, &["-extension", "MIT-SHM"]);
    }
}

#[test]
fn swapchains_work_without_a_window_system() {
    if !require(&["mesa", "asgard"]) {
        return;
    }
    let program = env!("CARGO_BIN_EXE_swapchain");
    for stack in [Stack::Native, Stack::Asgard] {
        let command = via::command(stack, program).unwrap();
        via::run(command, LIMIT).unwrap().success().unwrap();
    }
}

fn turns(stack: Stack, server: &[&str]) {
    let x = XServer::start(server);
    let mut command = via::command(stack, "vkcube").unwrap();
    command
        .args(["--c", "300"])
        .env("DISPLAY", &x.display)
        .env_remove("WAYLAND_DISPLAY");
    via::run(command, LIMIT).unwrap().success().unwrap();

    // Once more, to look at it while it turns.
    let mut command = via::command(stack, "vkcube").unwrap();
    command
        .env("DISPLAY", &x.display)
        .env_remove("WAYLAND_DISPLAY");
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let seen = wait_for_picture(&x, 50_000);
    // More ground than the window has at first.
    resize(&x, 780, 580);
    let larger = wait_for_picture(&x, 260_000);
    let _ = Command::new("kill").arg(child.id().to_string()).status();
    let _ = child.wait();
    let (width, height, pixels) = seen.expect("no cube was seen on the screen");
    assert!(larger.is_some(), "the picture does not follow its window");
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("vkcube_{stack:?}.png"));
    let rgba: Vec<u8> = pixels
        .chunks_exact(4)
        .flat_map(|p| [p[2], p[1], p[0], 255])
        .collect();
    asgard_tests::picture::write_png(&path, width as u32, height as u32, &rgba).unwrap();
    println!("see {}", path.display());
}

/// Gives all windows another size.
fn resize(x: &XServer, width: u32, height: u32) {
    use x11rb::connection::Connection as _;
    use x11rb::protocol::xproto::{ConfigureWindowAux, ConnectionExt as _};
    let (connection, screen) =
        x11rb::rust_connection::RustConnection::connect(Some(&x.display)).unwrap();
    let root = connection.setup().roots[screen].root;
    let size = ConfigureWindowAux::new()
        .x(0)
        .y(0)
        .width(width)
        .height(height);
    for window in connection
        .query_tree(root)
        .unwrap()
        .reply()
        .unwrap()
        .children
    {
        let request = connection.configure_window(window, &size).unwrap();
        request.check().unwrap();
    }
}

/// Waits until the screen shows a window with a cube: a grey ground and a picture of many colours on it.
fn wait_for_picture(x: &XServer, least: usize) -> Option<(usize, usize, Vec<u8>)> {
    let end = Instant::now() + Duration::from_secs(60);
    while Instant::now() < end {
        let (width, height, pixels) = x.screen();
        let mut colors: BTreeMap<[u8; 3], usize> = BTreeMap::new();
        for p in pixels.chunks_exact(4) {
            *colors.entry([p[2], p[1], p[0]]).or_default() += 1;
        }
        // vkcube clears to 0.2 of white.
        let ground = colors.get(&[51, 51, 51]).copied().unwrap_or(0);
        if ground > least && colors.len() > 100 {
            return Some((width, height, pixels));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    None
}

#[test]
fn sync_files_signal_when_fences_and_semaphores_do() {
    if require(&["mesa", "gfxstream", "asgard"]) {
        let mut command = via::command(Stack::Mesa, env!("CARGO_BIN_EXE_sync_files")).unwrap();
        command.arg("exports");
        via::run(command, LIMIT).unwrap().success().unwrap();
    }
}

#[test]
fn sync_files_of_our_own_driver_signal_and_are_imported() {
    if require(&["mesa", "asgard", "preload"]) {
        for stack in [Stack::Asgard, Stack::Node] {
            let command = via::command(stack, env!("CARGO_BIN_EXE_sync_files")).unwrap();
            via::run(command, LIMIT).unwrap().success().unwrap();
        }
    }
}

#[test]
fn two_processes_share_memory_and_sync_files() {
    if !require(&["mesa", "asgard", "preload"]) {
        return;
    }
    for (stack, sync) in [
        (Stack::Native, "without"),
        (Stack::Asgard, "with"),
        (Stack::Node, "with"),
    ] {
        let command = via::command(stack, env!("CARGO_BIN_EXE_share")).unwrap();
        let done = via::run(command, LIMIT).unwrap().success().unwrap();
        assert_eq!(
            done.stdout,
            format!("shared memory ok, {sync} sync files\n")
        );
    }
}
