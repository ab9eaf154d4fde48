//! Every workload computes the same bytes through the renderer as it does natively, with Mesa's guest
//! driver and with our own, also when its host shows no more than upstream's, and whatever our own uses
//! of the wire's extensions.

use std::path::Path;
use std::time::Duration;

use asgard_protocol::extension::Features;
use asgard_tests::compare::{compare, scene_with};
use asgard_tests::require::require;
use asgard_tests::via::{self, Stack};

const LIMIT: Duration = Duration::from_secs(300);

/// What our own guest driver reads.
const FEATURES: &str = "ASGARD_WIRE_FEATURES";

fn identical(stack: Stack, features: Features, name: &str) {
    let more: &[&str] = match stack {
        Stack::Mesa => &["gfxstream"],
        Stack::Node => &["preload"],
        Stack::MachineMesa | Stack::MachineAsgard | Stack::MachineVenus => &["vm"],
        Stack::Native | Stack::Asgard | Stack::Upstream => &[],
    };
    if !require(&["mesa", "asgard"]) || !require(more) {
        return;
    }
    let program = Path::new(env!("CARGO_BIN_EXE_scene"));
    let run = |stack| {
        let features = features.to_string();
        let told = scene_with(program, stack, name, LIMIT, |command| {
            command.env(FEATURES, features);
        });
        told.unwrap_or_else(|error| panic!("{error:#}"))
    };
    let (native, native_run) = run(Stack::Native);
    let (through, through_run) = run(stack);
    print!(
        "native:  {}through: {}",
        native_run.stdout, through_run.stdout
    );
    let all = compare(&native, &through, stack, features);
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
                super::identical(super::Stack::Mesa, super::Features::ALL, stringify!($name));
            })*
        }
        mod asgard {
            $(#[test]
            fn $name() {
                super::identical(super::Stack::Asgard, super::Features::ALL, stringify!($name));
            })*
        }
        mod asgard_on_the_common_wire {
            $(#[test]
            fn $name() {
                super::identical(super::Stack::Asgard, super::Features::NONE, stringify!($name));
            })*
        }
        mod upstream {
            $(#[test]
            fn $name() {
                super::identical(super::Stack::Upstream, super::Features::ALL, stringify!($name));
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
                super::identical(super::Stack::Node, super::Features::ALL, stringify!($name));
            })*
        };
    }
    tests! { graphics compute fences timeline threads memory }
}

/// Scenes that between them make, wait for, record and destroy of everything.
const FEW: [&str; 4] = ["fences", "threads", "descriptors", "secondary"];

#[test]
fn each_feature_of_the_wire_works_alone() {
    for (_, feature) in Features::each() {
        for name in FEW {
            identical(Stack::Asgard, feature, name);
        }
    }
}

#[test]
fn a_host_need_not_offer_anything() {
    if !require(&["mesa", "asgard"]) {
        return;
    }
    for (offered, expected) in [("none", false), ("all", true)] {
        let mut command = via::asgard_run(&["--driver=asgard", "--wire-features", offered])
            .expect("the asgard program");
        command
            .arg(env!("CARGO_BIN_EXE_scene"))
            .arg("fences")
            .env_remove(FEATURES);
        let done = via::run(command, LIMIT).expect("a run");
        let done = done.success().expect("a scene");
        let used = done.stderr.contains("the wire with ");
        assert_eq!(used, expected, "{offered}: {}", done.stderr);
    }
}
