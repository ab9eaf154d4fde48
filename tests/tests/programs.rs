//! Programs that we did not write, through the stock driver and through ours.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use asgard_tests::require::require;
use asgard_tests::screen::XServer;
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
        "memoryTypes",
        "sparse resources have a memory type of their own, which cannot be mapped",
    ),
    ("heapIndex", "as above"),
    ("propertyFlags", "as above"),
    (
        "deviceType",
        "Mesa's guest driver calls a processor a virtual GPU",
    ),
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
        "memoryTypes",
        "sparse resources have a memory type of their own, which cannot be mapped",
    ),
    ("heapIndex", "as above"),
    ("propertyFlags", "as above"),
    (
        "VK_KHR_external_fence_fd",
        "sync files are the guest driver's own",
    ),
    ("VK_KHR_external_semaphore_fd", "as above"),
    (
        "VK_AMDX_shader_enqueue",
        "its commands read application memory by addresses without lengths",
    ),
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
    (
        "VK_KHR_swapchain_maintenance1",
        "windows are the guest's own, and Mesa's software driver does not have it for its",
    ),
    ("VK_KHR_present_", "as above"),
    ("present", "as above: presentId, presentWait"),
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

/// A program whose OpenGL or OpenGL ES is Mesa's zink, on the Vulkan of a stack.
fn zink(stack: Stack, program: &str, x: &XServer) -> Command {
    let mut command = via::command(stack, program).unwrap();
    command
        .envs([("GALLIUM_DRIVER", "zink"), ("LIBGL_ALWAYS_SOFTWARE", "1")])
        .env("DISPLAY", &x.display)
        .env_remove("WAYLAND_DISPLAY");
    command
}

#[test]
fn opengl_on_our_own_driver_shows_what_it_shows_natively() {
    if !require(&["mesa", "asgard", "glxinfo", "xvfb"]) {
        return;
    }
    let lines = |stack| -> BTreeSet<String> {
        let x = XServer::start(&[]).unwrap();
        let mut command = zink(stack, "glxinfo", &x);
        // Limits too, and each extension on a line of its own.
        command.args(["-l", "-s"]);
        let done = via::run(command, LIMIT).unwrap().success().unwrap();
        assert!(done.stdout.contains("zink Vulkan"), "{}", done.stdout);
        let lines = done.stdout.lines().map(|line| line.trim().to_owned());
        lines.collect()
    };
    let (native, through) = (lines(Stack::Native), lines(Stack::Asgard));
    // Memory and displays change between any two runs.
    let changes = |line: &&String| {
        let line = line.to_lowercase();
        line.contains("memory") || line.contains("display")
    };
    let missing: Vec<_> = native
        .difference(&through)
        .filter(|line| !changes(line))
        .collect();
    // Sync files: the renderer makes them of fences of its own.
    let more = |line: &&String| line.starts_with("GL_EXT_semaphore");
    let new: Vec<_> = through
        .difference(&native)
        .filter(|line| !changes(line) && !more(line))
        .collect();
    println!(
        "{} lines are the same",
        native.intersection(&through).count()
    );
    assert!(native.len() > 400, "a short report: {native:?}");
    assert!(
        missing.is_empty() && new.is_empty(),
        "missing: {missing:?}; natively not there: {new:?}"
    );
}

#[test]
fn opengl_on_our_own_driver_draws_what_glmark2_expects() {
    if !require(&["mesa", "asgard", "glmark2", "xvfb"]) {
        return;
    }
    // It looks at a pixel of each of its scenes, and says whether it is as it must be.
    let verdicts = |stack| -> Vec<String> {
        let x = XServer::start(&[]).unwrap();
        let mut command = zink(stack, "glmark2", &x);
        command.arg("--validate");
        let done = via::run(command, LIMIT).unwrap().success().unwrap();
        assert!(done.stdout.contains("zink Vulkan"), "{}", done.stdout);
        let lines = (done.stdout.lines()).filter(|line| line.contains("Validation: "));
        lines.map(str::to_owned).collect()
    };
    let (native, through) = (verdicts(Stack::Native), verdicts(Stack::Asgard));
    let good = |line: &&String| line.ends_with("Success");
    assert!(native.iter().filter(good).count() >= 20, "{native:#?}");
    assert_eq!(through, native);
}

#[test]
fn ffmpeg_filters_on_our_own_driver_as_natively() {
    if !require(&["mesa", "asgard", "ffmpeg"]) {
        return;
    }
    for filter in [
        "gblur_vulkan=sigma=3",
        "chromaber_vulkan=dist_x=2",
        "hflip_vulkan",
        "transpose_vulkan",
        "scale_vulkan=w=160:h=120",
    ] {
        // What the pictures of a short film are afterwards.
        let sum = |stack| {
            let mut command = via::command(stack, "ffmpeg").unwrap();
            command
                .args(["-nostdin", "-v", "error", "-init_hw_device", "vulkan=vk:0"])
                .args(["-filter_hw_device", "vk", "-f", "lavfi"])
                .args(["-i", "testsrc2=s=320x240:r=10:d=0.5", "-vf"])
                .arg(format!(
                    "format=yuv420p,hwupload,{filter},hwdownload,format=yuv420p"
                ))
                .args(["-f", "framemd5", "-"]);
            via::run(command, LIMIT).unwrap().success().unwrap().stdout
        };
        let native = sum(Stack::Native);
        // Five pictures below a few lines about all of them.
        let pictures = native.lines().filter(|line| !line.starts_with('#'));
        assert_eq!(pictures.count(), 5, "{filter}: {native}");
        assert_eq!(sum(Stack::Asgard), native, "{filter}");
    }
}

#[test]
fn every_extension_that_our_own_driver_does_not_show_has_a_reason() {
    if !require(&["mesa", "asgard"]) {
        return;
    }
    let mut command = Command::new(via::asgard().expect("asgard"));
    command.args(["doctor", "--extensions"]);
    let table = via::run(command, LIMIT)
        .and_then(via::Finished::success)
        .expect("a table")
        .stdout;
    let rows = table.lines().filter(|line| line.starts_with("VK_"));
    let (mut both, mut hidden) = (0, 0);
    for row in rows {
        let cells: Vec<&str> = row.split_whitespace().collect();
        match cells[1..] {
            ["yes", "yes"] => both += 1,
            ["yes", "-", ..] => {
                assert!(
                    cells.len() > 4 && !row.contains("no reason is known"),
                    "{row}"
                );
                hidden += 1;
            }
            ["-", "yes", ..] => {}
            _ => panic!("a row that is no row: {row}"),
        }
    }
    assert!(both > 100 && hidden < both / 10, "{table}");
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
