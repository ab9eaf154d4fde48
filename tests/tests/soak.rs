//! Many guests at once on one server, and guests that die at any moment.
//!
//! The numbers are small by default; ASGARD_SOAK_PROCESSES, ASGARD_SOAK_ROUNDS and ASGARD_SOAK_KILLS make them larger (8, 20 and 500 are a good evening).

use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use asgard_protocol::extension::Features;
use asgard_tests::compare::{compare, scene};
use asgard_tests::report::Report;
use asgard_tests::require::require;
use asgard_tests::scenes::Random;
use asgard_tests::via::{self, Server, Stack, Usage};

const LIMIT: Duration = Duration::from_secs(300);

/// How much a server may hold on to: allocators keep some of what is freed.
const SLACK_KIB: u64 = 48 * 1024;

fn number(variable: &str, default: u64) -> u64 {
    let text = std::env::var(variable).ok();
    text.map_or(default, |text| text.parse().expect("a number"))
}

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_scene"))
}

fn native(name: &str) -> Report {
    match scene(program(), Stack::Native, name, LIMIT) {
        Ok((report, _)) => report,
        Err(error) => panic!("{error:#}"),
    }
}

/// Runs a workload on the server and compares it with its native result.
fn check(server: &Server, name: &str, want: &Report) {
    let out = tempfile::NamedTempFile::new().expect("a temporary file");
    let mut command = server.command(program()).expect("a command");
    command
        .args([name, "--threads", "4", "--out"])
        .arg(out.path());
    if let Err(error) = via::run(command, LIMIT).and_then(via::Finished::success) {
        panic!("{name}: {error:#}");
    }
    let bytes = std::fs::read(out.path()).expect("a result");
    let got = Report::from_bytes(&bytes).expect("a report");
    let all = compare(want, &got, Stack::Mesa, Features::NONE);
    assert!(
        all.different.is_empty(),
        "{name} differs: {:#?}",
        all.different
    );
}

/// Waits until the server uses no more than it did, and says what it uses in the end.
fn settle(server: &Server, before: Usage) -> Usage {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let now = server.usage().expect("the server is gone");
        let settled = now.processes <= before.processes
            && now.threads <= before.threads
            && now.descriptors <= before.descriptors
            && now.resident_kib <= before.resident_kib + SLACK_KIB;
        if settled || Instant::now() >= end {
            println!("before {before:?}, after {now:?}");
            assert!(
                settled,
                "the server still holds {now:?}; before it held {before:?}"
            );
            return now;
        }
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn guests_at_once_each_compute_the_native_result() {
    if !require(&["mesa", "gfxstream", "asgard"]) {
        return;
    }
    let processes = number("ASGARD_SOAK_PROCESSES", 3);
    let rounds = number("ASGARD_SOAK_ROUNDS", 1);
    let names = ["threads", "stress", "descriptors", "graphics"];
    let want = names.map(native);
    let server = Server::start().expect("a server");
    check(&server, names[0], &want[0]);
    let before = server.usage().expect("usage");
    thread::scope(|scope| {
        for process in 0..processes as usize {
            let (server, want) = (&server, &want);
            scope.spawn(move || {
                for round in 0..rounds as usize {
                    // The threads most of all; the others for company.
                    let pick = if (process + round) % 2 == 0 {
                        0
                    } else {
                        process % names.len()
                    };
                    check(server, names[pick], &want[pick]);
                }
            });
        }
    });
    settle(&server, before);
}

#[test]
fn killed_guests_leave_nothing_behind() {
    if !require(&["mesa", "gfxstream", "asgard"]) {
        return;
    }
    let kills = number("ASGARD_SOAK_KILLS", 10);
    let want = native("compute");
    let server = Server::start().expect("a server");
    // Once through, so that what is made once has been made.
    check(&server, "compute", &want);
    let before = server.usage().expect("usage");
    let mut random = Random(number("ASGARD_SOAK_SEED", 1));
    let busy: [&[&str]; 4] = [
        &["graphics", "--frames", "1000000"],
        &["threads", "--threads", "4"],
        &["memory"],
        &["stress"],
    ];
    let mut finished = 0;
    for kill in 0..kills {
        let mut command = server.command(program()).expect("a command");
        command
            .args(busy[(kill % 4) as usize])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = std::os::unix::process::CommandExt::process_group(&mut command, 0)
            .spawn()
            .expect("a guest");
        thread::sleep(Duration::from_millis(random.below(700)));
        finished += u64::from(child.try_wait().expect("a status").is_some());
        via::kill_group(&mut child);
    }
    println!("{kills} guests, {finished} of them were done before they were killed");
    settle(&server, before);
    check(&server, "compute", &want);
}
