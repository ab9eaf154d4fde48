//! Every workload computes the same bytes through the renderer as it does natively, with Mesa's guest
//! driver and with our own, also when its host shows no more than upstream's.

use std::path::Path;
use std::time::Duration;

use asgard_tests::compare::{compare, scene};
use asgard_tests::require::require;
use asgard_tests::via::Stack;

const LIMIT: Duration = Duration::from_secs(300);

fn identical(stack: Stack, name: &str) {
    let more: &[&str] = match stack {
        Stack::Mesa => &["gfxstream"],
        Stack::Node => &["preload"],
        Stack::Native | Stack::Asgard | Stack::Upstream => &[],
    };
    if !require(&["mesa", "asgard"]) || !require(more) {
        return;
    }
    let program = Path::new(env!("CARGO_BIN_EXE_scene"));
    let run = |stack| match scene(program, stack, name, LIMIT) {
        Ok(done) => done,
        Err(error) => panic!("{error:#}"),
    };
    let (native, native_run) = run(Stack::Native);
    let (through, through_run) = run(stack);
    print!(
        "native:  {}through: {}",
        native_run.stdout, through_run.stdout
    );
    let all = compare(&native, &through, stack);
    for (part, why) in &all.gated {
        println!("gated: {part}: {why}");
    }
    assert!(
        all.different.is_empty(),
        "{name} differs: {:#?}",
        all.different
    );
}

macro_rules! tests {
    ($($name:ident $about:literal,)*) => {
        mod mesa {
            $(#[test]
            fn $name() {
                super::identical(super::Stack::Mesa, stringify!($name));
            })*
        }
        mod asgard {
            $(#[test]
            fn $name() {
                super::identical(super::Stack::Asgard, stringify!($name));
            })*
        }
        mod upstream {
            $(#[test]
            fn $name() {
                super::identical(super::Stack::Upstream, stringify!($name));
            })*
        }
    };
}

asgard_tests::for_each_scene!(tests);

/// Workloads that between them make every request that our driver makes of a render node.
mod node {
    macro_rules! tests {
        ($($name:ident)*) => {
            $(#[test]
            fn $name() {
                super::identical(super::Stack::Node, stringify!($name));
            })*
        };
    }
    tests! { graphics compute fences timeline threads memory }
}
