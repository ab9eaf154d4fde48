//! Prerequisites of tests: what is missing is said aloud, and skips the test or fails it.

use std::path::Path;

use crate::{via, vm};

/// Why a prerequisite is missing; `None` if it is there.
fn missing(name: &str) -> Option<String> {
    let here = match name {
        "mesa" => std::env::var_os("VK_DRIVER_FILES").is_some() || via::lavapipe().is_some(),
        "gfxstream" => via::gfxstream().is_some(),
        "asgard" => via::asgard().is_some(),
        "vulkaninfo" | "vkcube" | "glxinfo" | "glmark2" | "vkd3d-triangle" => {
            via::find_program(name).is_some()
        }
        "ffmpeg" => via::find_program(name).is_some_and(|program| {
            let version = std::process::Command::new(program).arg("-version").output();
            version.is_ok_and(|said| said.stdout.starts_with(b"ffmpeg version 5."))
        }),
        "xvfb" => via::find_program("Xvfb").is_some(),
        "wayland" => via::find_program("weston-screenshooter").is_some(),
        "preload" => via::sibling("libasgard_preload.so").is_some(),
        "deqp" => {
            via::find_program("deqp-runner").is_some()
                && std::env::var_os("ASGARD_DEQP_VK").is_some_and(|path| Path::new(&path).is_file())
        }
        "valgrind" => via::find_program("valgrind").is_some(),
        "vm" => vm::can_be_built(),
        "validation" => via::validation_layer().is_some(),
        _ => panic!("no prerequisite is called {name:?}"),
    };
    let why = match name {
        "mesa" => "no lavapipe driver is installed, and VK_DRIVER_FILES names no other",
        "gfxstream" => "no gfxstream guest driver is installed (Debian: mesa-vulkan-drivers)",
        "vulkaninfo" | "vkcube" => "vulkaninfo and vkcube are not installed (Debian: vulkan-tools)",
        "glxinfo" => "glxinfo is not installed (Debian: mesa-utils)",
        "glmark2" => "glmark2 is not installed (Debian: glmark2-x11)",
        "ffmpeg" => {
            "ffmpeg 5 is not installed (Debian 12: ffmpeg; 7.1 loses pictures wherever VK_EXT_external_memory_host is not shown, natively too)"
        }
        "vkd3d-triangle" => "vkd3d-triangle is not installed (Debian: vkd3d-demos)",
        "preload" => "libasgard_preload.so is not built (cargo build --workspace)",
        "valgrind" => "valgrind is not installed (Debian: valgrind)",
        "validation" => {
            "the Khronos validation layer is not installed (Debian: vulkan-validationlayers)"
        }
        "deqp" => {
            "no conformance tests: ASGARD_DEQP_VK names no deqp-vk, or deqp-runner is not installed (CONTRIBUTING.md says how)"
        }
        "vm" => {
            "virtual machines are built on x86-64 with apt-get, mmdebstrap, mke2fs, cpio and xz, and some are missing (Debian: mmdebstrap e2fsprogs cpio xz-utils)"
        }
        "xvfb" => "Xvfb, an X server without a screen, is not installed (Debian: xvfb)",
        "wayland" => "weston, a Wayland compositor, is not installed (Debian: weston)",
        _ => "the asgard program is not built, and ASGARD_BIN does not name one",
    };
    (!here).then(|| why.to_owned())
}

/// True if all of these are there: "mesa" (a native driver), "gfxstream" (the stock guest driver), "asgard" (the program),
/// "preload" (the library beside it), "vulkaninfo", "vkcube", "glxinfo", "glmark2", "vkd3d-triangle", "ffmpeg", "xvfb",
/// "wayland", "valgrind", "validation" (the layer), "deqp" (the conformance tests),
/// "vm" (what virtual machines are built with).
///
/// Otherwise the reason is printed and the test should return.
/// A name in the comma-separated ASGARD_TESTS_REQUIRE must not be missing: that panics.
#[must_use]
pub fn require(names: &[&str]) -> bool {
    let strict = std::env::var("ASGARD_TESTS_REQUIRE").unwrap_or_default();
    let mut all = true;
    for name in names {
        if let Some(why) = missing(name) {
            assert!(
                !strict.split(',').any(|s| s.trim() == *name),
                "{name} is required: {why}"
            );
            eprintln!("skipped: {why}");
            all = false;
        }
    }
    all
}
