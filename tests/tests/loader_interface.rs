//! The requirements of the Khronos loader-driver interface, by their numbers, on our own guest driver without a loader between.

use std::process::Command;
use std::time::Duration;

use asgard_tests::require::require;
use asgard_tests::via::{self, Server};

const LIMIT: Duration = Duration::from_secs(60);

fn command(check: &str) -> Command {
    let library = via::own_driver().expect("libvulkan_asgard.so beside asgard");
    let mut command = Command::new(env!("CARGO_BIN_EXE_loader"));
    command
        .arg(library)
        .arg(check)
        .env_remove("ASGARD_KUMQUAT_SOCKET");
    command
}

fn passes(command: Command) {
    if let Err(error) = via::run(command, LIMIT).and_then(via::Finished::success) {
        panic!("{error:#}");
    }
}

fn check(check: &str) {
    if !require(&["mesa", "asgard"]) {
        return;
    }
    let server = Server::start().expect("a server");
    let mut command = command(check);
    command.env("ASGARD_KUMQUAT_SOCKET", server.socket());
    passes(command);
}

#[test]
fn ldp_driver_1_2_without_devices_nothing_crashes() {
    if require(&["asgard"]) {
        passes(command("no_devices"));
    }
}

#[test]
fn ldp_driver_3_7_9_versions_are_negotiated() {
    check("negotiate");
}

#[test]
fn ldp_driver_4_the_manifest_is_valid() {
    let text = include_str!("../../encoder/icd/asgard_icd.json");
    for part in [
        "\"file_format_version\"",
        "\"library_path\"",
        "\"api_version\"",
    ] {
        assert!(text.contains(part), "{part} is missing");
    }
}

#[test]
fn ldp_driver_5_no_conformance_is_claimed() {
    check("conformance");
}

#[test]
fn ldp_driver_6_no_vulkan_commands_are_exported() {
    check("exports");
}

#[test]
fn ldp_driver_8_surfaces_have_all_their_commands() {
    check("surfaces");
}

#[test]
fn ldp_driver_10_the_applications_version_is_the_loaders_to_check() {
    check("any_version");
}

#[test]
fn without_an_instance_only_global_commands_are_found() {
    check("global");
}

#[test]
fn physical_device_commands_are_told_apart() {
    check("physical");
}

#[test]
fn devices_find_only_their_own_commands() {
    check("device");
}

#[test]
fn dispatchable_objects_start_with_the_loaders_word() {
    check("magic");
}

#[test]
fn layers_are_the_loaders() {
    check("layers");
}
