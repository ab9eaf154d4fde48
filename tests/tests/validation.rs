//! Every workload through our own guest driver under the Khronos validation layer: neither it nor the workload breaks a rule.

use std::time::Duration;

use asgard_tests::require::require;
use asgard_tests::via::{self, Stack};

const LIMIT: Duration = Duration::from_secs(300);

fn valid(name: &str) {
    if !require(&["mesa", "asgard", "validation"]) {
        return;
    }
    let mut command = via::command(Stack::Asgard, env!("CARGO_BIN_EXE_scene")).expect("a command");
    command.args([name, "--validate"]);
    if let Err(error) = via::run(command, LIMIT).and_then(via::Finished::success) {
        panic!("{error:#}");
    }
}

macro_rules! tests {
    ($($name:ident $about:literal,)*) => {
        $(#[test]
        fn $name() {
            valid(stringify!($name));
        })*
    };
}

asgard_tests::for_each_scene!(tests);
