//! A few conformance tests through our own guest driver, where a build of them is at hand.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use asgard_tests::require::require;
use asgard_tests::via;

/// Mapped memory, transfers and a render pass: some cases of each kind, in about a minute.
const CASES: [(&str, &str); 2] = [
    ("1/150", "dEQP-VK.memory.mapping.*"),
    ("1/100", "dEQP-VK.memory.pipeline_barrier.*"),
];

#[test]
fn conformance_tests_pass_that_pass_natively() {
    if !require(&["deqp", "mesa", "asgard"]) {
        return;
    }
    for (shard, pattern) in CASES {
        let mut command = Command::new(env!("CARGO_BIN_EXE_deqp"));
        command
            .args(["--via", "asgard", "--shard", shard, "--out"])
            .arg(Path::new(env!("CARGO_TARGET_TMPDIR")).join("deqp"))
            .arg(pattern);
        let done = via::run(command, Duration::from_secs(600)).unwrap();
        eprintln!("{}", done.success().unwrap().stdout);
    }
}
