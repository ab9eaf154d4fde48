//! What is generated, against what is committed.
//!
//! `golden/wire.txt` is the manifest: a line per command and struct.
//! `golden/stock.txt` names what stock guests send, each with a digest of its line: those never change.
//! `golden/shapes/` holds the generated Rust of a dozen commands, one for each shape that there is.
//! `UPDATE_GOLDEN=1 cargo test -p asgard-codegen` rewrites the first and the last, and completes the second.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use asgard_codegen::{Model, emit, load};
use sha2::{Digest as _, Sha256};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn updating() -> bool {
    std::env::var_os("UPDATE_GOLDEN").is_some_and(|v| v == "1")
}

fn name(line: &str) -> &str {
    line.split([' ', ';']).next().unwrap_or(line)
}

/// The wire alone, without what the host makes of it.
fn shape(line: &str) -> &str {
    line.split(emit::REMARK).next().unwrap_or(line)
}

fn digest(line: &str) -> String {
    Sha256::digest(shape(line).as_bytes())
        .iter()
        .take(6)
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// Lines that differ, by what they are about, in the order of the new text.
fn difference(old: &str, new: &str) -> String {
    let before: BTreeMap<&str, &str> = old.lines().map(|l| (name(l), l)).collect();
    let after: BTreeSet<&str> = new.lines().map(name).collect();
    let mut out = String::new();
    for line in new.lines() {
        match before.get(name(line)) {
            Some(was) if *was == line => {}
            Some(was) => out += &format!("-{was}\n+{line}\n"),
            None => out += &format!("+{line}\n"),
        }
    }
    for line in old.lines().filter(|l| !after.contains(name(l))) {
        out += &format!("-{line}\n");
    }
    out
}

fn compare(file: &Path, new: &str) {
    let old = std::fs::read_to_string(file).unwrap_or_default();
    if old == new {
        return;
    }
    if updating() {
        std::fs::write(file, new).unwrap();
        return;
    }
    let hint = "UPDATE_GOLDEN=1 cargo test -p asgard-codegen rewrites it";
    panic!(
        "{} is not what is generated; {hint}:\n{}",
        file.display(),
        difference(&old, new)
    );
}

/// Everything that reading `roots` takes, and the roots.
fn closure<'a>(model: &'a Model, roots: impl Iterator<Item = &'a str>) -> BTreeSet<&'a str> {
    let mut all = BTreeSet::new();
    let mut left: Vec<&str> = roots.collect();
    while let Some(next) = left.pop() {
        if all.insert(next) {
            left.extend(emit::contents(model, next).iter().map(|s| s.name.as_str()));
        }
    }
    all
}

#[test]
fn the_wire_of_stock_guests_never_changes() {
    let model = load().unwrap();
    let manifest = emit::manifest(&model);
    let lines: BTreeMap<&str, &str> = manifest.lines().map(|l| (name(l), l)).collect();
    let file = golden().join("stock.txt");
    let old = std::fs::read_to_string(&file).unwrap();
    let mut new = String::new();
    let mut broken = Vec::new();
    let mut listed = BTreeSet::new();
    for entry in old.lines() {
        if entry.starts_with('#') || entry.is_empty() {
            new += &format!("{entry}\n");
            continue;
        }
        let (name, frozen) = entry.split_once(' ').unwrap_or((entry, ""));
        assert!(listed.insert(name), "{name} is listed twice");
        match lines.get(name) {
            None => broken.push(format!("{name} is gone")),
            Some(line) if frozen.is_empty() => new += &format!("{name} {}\n", digest(line)),
            Some(line) if digest(line) == frozen => new += &format!("{entry}\n"),
            Some(line) => broken.push(format!("{name} is now: {}", shape(line))),
        }
    }
    assert!(
        broken.is_empty(),
        "this breaks the wire of stock guests:\n{}\nA registry that says otherwise is overruled in \
         codegen/policy/vulkan.toml; `git diff` of golden/wire.txt shows what each line was",
        broken.join("\n")
    );
    for name in closure(&model, listed.iter().copied()).difference(&listed) {
        new += &format!("{name} {}\n", digest(lines[name]));
    }
    compare(&file, &new);
    println!(
        "{} of {} lines are frozen",
        new.lines().count(),
        lines.len()
    );
}

#[test]
fn the_manifest_is_what_is_committed() {
    compare(
        &golden().join("wire.txt"),
        &emit::manifest(&load().unwrap()),
    );
}

/// A file for each shape of command, and what is generated for it.
const SHAPES: &[(&str, &[&str])] = &[
    ("scalars", &["vkCmdDraw"]),
    ("bytes_with_a_length", &["vkCmdPushConstants"]),
    ("a_new_handle", &["vkCreateBuffer", "VkBufferCreateInfo"]),
    ("an_array_of_new_handles", &["vkAllocateCommandBuffers"]),
    ("asked_twice", &["vkEnumeratePhysicalDevices"]),
    (
        "a_chain_of_outputs",
        &[
            "vkGetPhysicalDeviceProperties2",
            "VkPhysicalDeviceProperties2",
        ],
    ),
    ("nested_arrays", &["vkQueueSubmit", "VkSubmitInfo"]),
    (
        "a_pointer_chosen_by_an_enumerant",
        &["vkUpdateDescriptorSets", "VkWriteDescriptorSet"],
    ),
    (
        "an_untagged_union",
        &["vkCmdClearColorImage", "VkClearColorValue"],
    ),
    (
        "ignorable_pointers",
        &["vkCreateGraphicsPipelines", "VkGraphicsPipelineCreateInfo"],
    ),
    ("bytes_that_come_back", &["vkGetQueryPoolResults"]),
    ("no_answer", &["vkQueueSubmitAsync2GOOGLE"]),
    ("an_end", &["vkDestroyBuffer"]),
    ("an_alias", &["vkQueueSubmit2KHR"]),
    ("strings", &["VkInstanceCreateInfo", "VkApplicationInfo"]),
];

#[test]
fn every_shape_is_generated_as_committed() {
    let model = load().unwrap();
    for (file, names) in SHAPES {
        let text: Vec<String> = names
            .iter()
            .map(|n| emit::show(&model, n).unwrap())
            .collect();
        let file = golden().join("shapes").join(format!("{file}.rs"));
        let new = text.join("\n");
        let old = std::fs::read_to_string(&file).unwrap_or_default();
        if old != new && !updating() {
            let at = old
                .lines()
                .zip(new.lines())
                .take_while(|(a, b)| a == b)
                .count();
            panic!(
                "{} differs from line {}:\n-{}\n+{}\nUPDATE_GOLDEN=1 rewrites it",
                file.display(),
                at + 1,
                old.lines().nth(at).unwrap_or_default(),
                new.lines().nth(at).unwrap_or_default()
            );
        }
        compare(&file, &new);
    }
}
