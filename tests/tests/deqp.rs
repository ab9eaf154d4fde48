//! A few conformance tests through our own guest driver, with and without a virtual machine, where a build of them is at
//! hand.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use asgard_tests::require::require;
use asgard_tests::via;

/// Runs a share of the cases natively and this way; fails if one goes worse.
fn run(via: &str, shard: &str, cases: &str) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_deqp"));
    command
        .args(["--via", via, "--shard", shard, "--out"])
        .arg(Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("deqp-{via}")))
        .arg(cases);
    let done = via::run(command, Duration::from_secs(600)).unwrap();
    eprintln!("{}", done.success().unwrap().stdout);
}

#[test]
fn conformance_tests_pass_that_pass_natively() {
    if require(&["deqp", "mesa", "asgard"]) {
        run("asgard", "1/150", "dEQP-VK.memory.mapping.*");
        run("asgard", "1/20", "dEQP-VK.memory.pipeline_barrier.*");
    }
}

#[test]
fn conformance_tests_pass_in_a_virtual_machine() {
    if require(&["deqp", "mesa", "asgard", "vm"]) {
        run(
            "machine-asgard",
            "1/10",
            "dEQP-VK.memory.pipeline_barrier.*",
        );
    }
}
