//! The rules that hold the rooms apart, checked on what is committed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use asgard_codegen::load;
use asgard_codegen::registry::Raw;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Every Rust file below a folder, with its text; comments are left out.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut left = vec![root().join(folder)];
    while let Some(next) = left.pop() {
        let Ok(entries) = std::fs::read_dir(&next) else {
            continue;
        };
        for path in entries.map(|e| e.unwrap().path()) {
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let code: Vec<&str> = text
                    .lines()
                    .filter(|l| !l.trim_start().starts_with("//"))
                    .collect();
                files.push((path, code.join("\n")));
            }
        }
    }
    files.sort();
    files
}

/// No source of `folder` says any of `words`; `except` are path endings.
fn never_says(folder: &str, words: &[&str], except: &[&str]) {
    let files = sources(folder);
    assert!(!files.is_empty(), "{folder} has no sources");
    for (path, text) in files {
        if except.iter().any(|e| path.to_string_lossy().contains(e)) {
            continue;
        }
        for word in words {
            assert!(!text.contains(word), "{} says `{word}`", path.display());
        }
    }
}

/// A crate's own dependencies, by package name; those for its tests are not counted.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join(manifest)).unwrap();
    let toml: toml::Table = toml::from_str(&text).unwrap();
    toml.get("dependencies")
        .and_then(toml::Value::as_table)
        .map(|t| t.keys().cloned().collect())
        .unwrap_or_default()
}

/// Crates of this workspace by package name, with the folder that each lives in.
fn members() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let toml: toml::Table = toml::from_str(&text).unwrap();
    let members = toml["workspace"]["members"].as_array().unwrap();
    let mut out = BTreeMap::new();
    for folder in members.iter().map(|m| m.as_str().unwrap().to_owned()) {
        let text = std::fs::read_to_string(root().join(&folder).join("Cargo.toml")).unwrap();
        let toml: toml::Table = toml::from_str(&text).unwrap();
        out.insert(toml["package"]["name"].as_str().unwrap().to_owned(), folder);
    }
    out
}

/// The crates of this workspace that a crate is built with, near and far.
fn reach(package: &str) -> BTreeSet<String> {
    let members = members();
    let mut all = BTreeSet::new();
    let mut left = vec![package.to_owned()];
    while let Some(next) = left.pop() {
        let Some(folder) = members.get(&next) else {
            continue;
        };
        for dependency in dependencies(&format!("{folder}/Cargo.toml")) {
            if members.contains_key(&dependency) && all.insert(dependency.clone()) {
                left.push(dependency);
            }
        }
    }
    all
}

fn names(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

#[test]
fn rooms_reach_what_the_map_says_and_no_more() {
    assert_eq!(reach("asgard-xml"), names(&[]));
    assert_eq!(reach("asgard-codegen"), names(&["asgard-xml"]));
    assert_eq!(reach("asgard-protocol"), names(&[]));
    assert_eq!(reach("asgard-asg"), names(&[]));
    assert_eq!(reach("asgard-decoder"), names(&["asgard-protocol"]));
    for (package, folder) in members() {
        if folder.starts_with("encoder") {
            assert!(
                !reach(&package).contains("asgard-decoder"),
                "{package} sees the decoder"
            );
            assert!(
                !reach(&package).contains("asgard-host-device"),
                "{package} sees the device"
            );
        }
        if folder != "tests" && !folder.starts_with("encoder") {
            let encoders = reach(&package);
            assert!(
                !encoders.iter().any(|p| members()[p].starts_with("encoder")),
                "{package} sees the guest's driver"
            );
        }
    }
}

#[test]
fn the_protocol_does_no_input_or_output_and_has_no_threads() {
    let words = [
        "std::fs",
        "std::net",
        "std::io",
        "std::thread",
        "std::process",
        "std::env",
        "std::os",
    ];
    never_says("codegen/protocol/src", &words, &[]);
}

#[test]
fn the_ring_knows_no_vulkan() {
    never_says(
        "asg/src",
        &["asgard_protocol", "VkInstance", "VkDevice", "vkCreate"],
        &[],
    );
}

#[test]
fn the_decoder_knows_neither_the_ring_nor_virtio() {
    never_says(
        "decoder/src",
        &["asgard_asg", "virtio", "kumquat", "std::net", "UnixStream"],
        &[],
    );
}

#[test]
fn only_the_ways_of_attaching_know_a_vmm() {
    let words = [
        "vhost_user",
        "vhost::",
        "vfio_user",
        "vm_memory",
        "virtio_queue",
    ];
    // Who starts the process of a virtual machine names its module.
    never_says("host-device/src", &words, &["src/vmm", "src/cli/front.rs"]);
    // Who serves connections knows the socket; who serves contexts does not.
    let entrances = [
        "src/vmm",
        "src/cli",
        "src/main.rs",
        "src/supervisor.rs",
        "src/listener.rs",
        "src/link.rs",
    ];
    never_says("host-device/src", &["kumquat"], &entrances);
}

#[test]
fn the_generator_is_safe_code() {
    for (path, text) in sources("codegen/src") {
        if path.ends_with("lib.rs") {
            assert!(text.contains("#![forbid(unsafe_code)]"));
        }
    }
}

#[test]
fn no_command_or_struct_is_named_in_the_generator() {
    // What begins a name of the registry is a rule; a whole name would be a special case.
    let model = load().unwrap();
    // The allocation callbacks are a form of the wire by themselves.
    let allowed = [
        "VkAllocationCallbacks",
        "VkInstance",
        "VkPhysicalDevice",
        "VkDevice",
        "VkQueue",
    ];
    let known: BTreeSet<&str> = (model.commands.iter().map(|c| c.name.as_str()))
        .chain(model.structs.iter().map(|s| s.name.as_str()))
        .filter(|n| !allowed.contains(n))
        .collect();
    for (path, text) in sources("codegen/src") {
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        for word in text.split(|c: char| !c.is_alphanumeric() && c != '_') {
            let special = known.contains(word) && text.contains(&format!("\"{word}\""));
            assert!(
                !special,
                "{} names {word}: that is a line of policy",
                path.display()
            );
        }
    }
}

#[test]
fn every_command_has_an_opcode_of_its_own_and_an_encoding_or_a_reason() {
    let model = load().unwrap();
    let mut numbers = BTreeMap::new();
    let (mut encoded, mut refused, mut foreign) = (0, 0, 0);
    for command in &model.commands {
        if let Some(other) = numbers.insert(command.opcode, &command.name) {
            panic!(
                "{other} and {} both have opcode {}",
                command.name, command.opcode
            );
        }
        let range = command.opcode;
        assert!(
            (20_000..30_000).contains(&range) || (200_000_000..300_000_000).contains(&range),
            "{} has opcode {range}, which peers take for something else",
            command.name
        );
        match (&command.foreign, &command.refused) {
            (Some(why), _) => {
                foreign += 1;
                assert!(
                    !why.is_empty(),
                    "{} has no encoding and no reason",
                    command.name
                );
            }
            (None, Some(why)) => {
                refused += 1;
                assert!(!why.is_empty(), "{} is refused for no reason", command.name);
            }
            (None, None) => encoded += 1,
        }
    }
    // Whatever a version or an extension of Vulkan requires is there.
    let there: BTreeSet<&str> = model.commands.iter().map(|c| c.name.as_str()).collect();
    let mut raw = Raw::default();
    raw.read(&asgard_xml::vulkan());
    raw.read(&asgard_xml::gfxstream());
    raw.read(&asgard_xml::asgard());
    let missing: Vec<&String> = raw
        .required
        .iter()
        .filter(|name| !there.contains(name.as_str()))
        .collect();
    assert!(
        missing.is_empty(),
        "neither encoded nor listed: {missing:?}"
    );
    let (structs, chained) = (
        model.structs.len(),
        model.structs.iter().filter(|s| s.chained()).count(),
    );
    println!(
        "{} commands: {encoded} served, {refused} refused by the host, {foreign} without an encoding; \
         {structs} structs, {chained} of them in chains",
        model.commands.len()
    );
    assert!(encoded > 600 && chained > 700);
}

/// What a guest's driver shows it can do, by itself or through the wire.
#[test]
fn what_guests_are_shown_has_all_its_commands() {
    let model = load().unwrap();
    let mut raw = Raw::default();
    raw.read(&asgard_xml::vulkan());
    let hidden: BTreeSet<&str> = model
        .hidden_extensions
        .iter()
        .map(|(name, _)| name.as_str())
        .chain(raw.of_a_platform.iter().map(String::as_str))
        .collect();
    let mut missing = Vec::new();
    for command in &model.commands {
        let Some(providers) = raw.providers.get(&command.name) else {
            continue;
        };
        let shown = providers.iter().any(|by| match by {
            Some(device_extension) => !hidden.contains(device_extension.as_str()),
            None => raw.origins[&command.name]
                .iter()
                .any(|origin| origin.contains("_VERSION_")),
        });
        let served = command.foreign.is_none()
            && (command.refused.is_none() || command.guest_serves || command.guest_absent);
        if shown && !served {
            missing.push(&command.name);
        }
    }
    assert!(
        missing.is_empty(),
        "guests are shown what brings these commands, but nobody serves them: {missing:?}"
    );
}

#[test]
fn generated_modules_give_a_reason_for_each_lint_they_allow() {
    for folder in ["codegen/protocol/src", "decoder/src"] {
        for (path, text) in sources(folder) {
            let allows = text.matches("allow(").count();
            let reasons = text.matches("reason = ").count();
            assert!(
                reasons >= allows,
                "{} allows a lint without a reason",
                path.display()
            );
        }
    }
}
