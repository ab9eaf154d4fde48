//! Compares what a workload computed natively with what it computed through the renderer.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use asgard_protocol::extension::Features;

use crate::report::{Outcome, Report};
use crate::via::{self, Finished, Stack};
use crate::vm::Machine;

/// Parts that may be gated off behind the renderer although the native driver runs them: the features of the
/// wire with which our own driver runs them on our own host, and the reason why others do not.
pub const HIDDEN: &[(&str, Features, &str)] = &[
    ("push descriptors", Features::NONE, NO_PUSH),
    ("push descriptor template", Features::NONE, NO_PUSH),
    ("draws of an array", Features::NONE, NO_MULTI_DRAW),
    ("indexed draws of an array", Features::NONE, NO_MULTI_DRAW),
    (
        "inline uniform block",
        Features::INLINE_UNIFORMS,
        "the stock guest driver aborts on a write of an inline uniform block",
    ),
    (
        "host image copies",
        Features::HOST_IMAGE_COPY,
        "stock guests cannot send the bytes of host image copies",
    ),
    (
        "descriptor buffers",
        Features::NONE,
        "neither Mesa's guest driver nor upstream's host knows VK_EXT_descriptor_buffer",
    ),
    ("ray queries", Features::NONE, NO_RAYS),
    ("compacted sizes", Features::NONE, NO_RAYS),
    ("refitted", Features::NONE, NO_RAYS),
    ("ray pipeline", Features::NONE, NO_RAYS),
    ("host pointer", Features::NONE, NO_POINTERS),
];

/// The same, but only on a host that shows no more than upstream's.
pub const HIDDEN_UPSTREAM: &[(&str, &str)] =
    &[("sparse buffer", NO_SPARSE), ("sparse image", NO_SPARSE)];

const NO_PUSH: &str =
    "neither Mesa's guest driver nor upstream's host knows VK_KHR_push_descriptor";
const NO_MULTI_DRAW: &str =
    "neither Mesa's guest driver nor upstream's host knows VK_EXT_multi_draw";
const NO_RAYS: &str = "neither Mesa's guest driver nor upstream's host knows ray tracing";
const NO_POINTERS: &str = "the host cannot import memory of another process; of guest drivers, ours alone puts its own there";
const NO_SPARSE: &str = "upstream's host shows no memory that could be bound sparsely";

/// How two reports of one workload relate, part by part.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// Ran on both, with the same bytes.
    pub same: Vec<String>,
    /// Ran on neither, or is [`HIDDEN`] or [`HIDDEN_UPSTREAM`]; with the reason.
    pub gated: Vec<(String, String)>,
    /// Anything else, with what is wrong.
    pub different: Vec<(String, String)>,
}

/// Compares a native report with one of another stack, whose own driver may use those features of the wire.
#[must_use]
pub fn compare(native: &Report, through: &Report, stack: Stack, features: Features) -> Comparison {
    let mut all = Comparison::default();
    for part in &native.parts {
        let name = part.name.clone();
        let other = through.parts.iter().find(|other| other.name == part.name);
        match (&part.outcome, other.map(|other| &other.outcome)) {
            (_, None) => all.different.push((name, "missing".to_owned())),
            (Outcome::Bytes(a), Some(Outcome::Bytes(b))) if a == b => all.same.push(name),
            (Outcome::Bytes(a), Some(Outcome::Bytes(b))) => {
                all.different.push((name, differ(a, b)))
            }
            (Outcome::Gated(why), Some(Outcome::Gated(_))) => all.gated.push((name, why.clone())),
            (Outcome::Gated(why), Some(Outcome::Bytes(_))) => {
                all.different
                    .push((name, format!("runs, but natively it does not: {why}")));
            }
            (Outcome::Bytes(_), Some(Outcome::Gated(why))) => {
                let own = matches!(stack, Stack::Asgard | Stack::Node | Stack::MachineAsgard);
                let anywhere = HIDDEN
                    .iter()
                    .filter(|(_, needed, _)| !(own && features.has(*needed)))
                    .map(|(part, _, reason)| (part, reason));
                let upstream = HIDDEN_UPSTREAM
                    .iter()
                    .filter(|_| stack == Stack::Upstream)
                    .map(|(part, reason)| (part, reason));
                match anywhere.chain(upstream).find(|(part, _)| **part == name) {
                    Some((_, reason)) => all.gated.push((name, (*reason).to_owned())),
                    None => all.different.push((name, format!("does not run: {why}"))),
                }
            }
        }
    }
    for part in &through.parts {
        if native.parts.iter().all(|other| other.name != part.name) {
            all.different
                .push((part.name.clone(), "unknown natively".to_owned()));
        }
    }
    all
}

fn differ(native: &[u8], through: &[u8]) -> String {
    if native.len() != through.len() {
        return format!("{} bytes instead of {}", through.len(), native.len());
    }
    let wrong: Vec<_> = (0..native.len())
        .filter(|&i| native[i] != through[i])
        .collect();
    let Some(&first) = wrong.first() else {
        return "nothing".to_owned();
    };
    format!(
        "{} of {} bytes differ, the first at {first}: {:#04x} instead of {:#04x}",
        wrong.len(),
        native.len(),
        through[first],
        native[first]
    )
}

/// Runs `scene NAME` on a stack and reads its report.
pub fn scene(
    program: &Path,
    stack: Stack,
    name: &str,
    limit: Duration,
) -> Result<(Report, Finished)> {
    scene_with(program, stack, name, limit, |_| {})
}

/// As [`scene`], after changes to its command.
pub fn scene_with(
    program: &Path,
    stack: Stack,
    name: &str,
    limit: Duration,
    change: impl FnOnce(&mut Command),
) -> Result<(Report, Finished)> {
    let out = tempfile::NamedTempFile::new()?;
    let mut command = via::command(stack, program)?;
    change(&mut command);
    report(command, name, out.path(), |command| {
        via::run(command, limit)
    })
    .with_context(|| format!("scene {name} on {stack:?}"))
}

/// As [`scene`], in a virtual machine.
pub fn scene_in(
    machine: &Machine,
    program: &Path,
    stack: Stack,
    name: &str,
    limit: Duration,
) -> Result<(Report, Finished)> {
    let out = tempfile::NamedTempFile::new_in(machine.folder())?;
    let command = machine.command(stack, program)?;
    report(command, name, out.path(), |command| {
        machine.run(&command, limit)
    })
    .with_context(|| format!("scene {name} on {stack:?}"))
}

fn report(
    mut command: Command,
    name: &str,
    out: &Path,
    run: impl FnOnce(Command) -> Result<Finished>,
) -> Result<(Report, Finished)> {
    command.arg(name).arg("--out").arg(out);
    let finished = run(command)?.success()?;
    let report = Report::from_bytes(&std::fs::read(out)?).context("its result")?;
    Ok((report, finished))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_difference_is_told_apart() {
        let mut native = Report::default();
        native.part("same", [1, 2]);
        native.part("bytes", [1, 2, 3]);
        native.part("push descriptors", [1]);
        native.part("not hidden", [1]);
        native.gate("neither", "no queue");
        native.part("lost", [1]);
        let mut through = Report::default();
        through.part("same", [1, 2]);
        through.part("bytes", [1, 9, 3]);
        through.gate("push descriptors", "not shown");
        through.gate("not hidden", "not shown");
        through.gate("neither", "no queue");
        through.part("new", [1]);
        let all = compare(&native, &through, Stack::Mesa, Features::NONE);
        let names = |list: &[(String, String)]| -> Vec<String> {
            list.iter().map(|(name, _)| name.clone()).collect()
        };
        assert_eq!(all.same, ["same"]);
        assert_eq!(names(&all.gated), ["push descriptors", "neither"]);
        assert_eq!(
            names(&all.different),
            ["bytes", "not hidden", "lost", "new"]
        );
    }
}
