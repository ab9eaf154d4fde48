//! Virtual machines: QEMU with our device, and a Debian guest that has nothing installed but its own packages.
//!
//! A boot takes long where a translator runs it, so each test boots once and asks much.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use asgard_protocol::extension::Features;
use asgard_tests::compare::{compare, scene, scene_in};
use asgard_tests::require::require;
use asgard_tests::via::{Finished, Server, Stack};
use asgard_tests::vm::{Gpu, Machine, Options};

const LIMIT: Duration = Duration::from_secs(300);
/// The stacks of a machine.
const STACKS: [Stack; 2] = [Stack::MachineMesa, Stack::MachineAsgard];

fn boot(gpu: Gpu<'_>) -> Machine {
    let mut options = Options::new(env!("CARGO_BIN_EXE_guest"));
    options.gpu = gpu;
    match Machine::boot(&options) {
        Ok(machine) => machine,
        Err(error) => panic!("{error:#}"),
    }
}

/// Runs a shell's command in the guest.
fn shell(machine: &Machine, script: &str) -> Finished {
    let mut command = Command::new("sh");
    command.arg("-c").arg(script);
    machine.run(&command, LIMIT).expect("the machine")
}

/// What the guest's kernel says of its GPU.
fn kernel_log(machine: &Machine) -> String {
    shell(machine, "dmesg").success().expect("dmesg").stdout
}

/// Nothing of the driver's is a warning or an error.
fn assert_no_complaints(log: &str) {
    let complaints: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("virtio_gpu") || line.contains("[drm"))
        .filter(|line| {
            let line = line.to_lowercase();
            ["error", "warn", "fail", "response 0x"]
                .iter()
                .any(|word| line.contains(word))
        })
        .collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
    assert!(!log.contains("Call Trace"), "{log}");
}

/// Runs a workload in the guest and compares it with its native result.
fn assert_identical(machine: &Machine, stack: Stack, name: &str) {
    let program = Path::new(env!("CARGO_BIN_EXE_scene"));
    let (native, _) = scene(program, Stack::Native, name, LIMIT).expect("natively");
    let (through, done) = match scene_in(machine, program, stack, name, LIMIT) {
        Ok(done) => done,
        Err(error) => panic!("{error:#}"),
    };
    println!("{stack:?} in {:.1?}: {}", done.elapsed, done.stdout.trim());
    let all = compare(&native, &through, stack, Features::ALL);
    assert!(
        all.different.is_empty(),
        "{name} on {stack:?} differs: {:#?}",
        all.different
    );
}

/// Fails unless `done` comes true soon.
fn settles(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_stock_guest_renders_as_the_host_does() {
    if !require(&["vm", "mesa", "asgard"]) {
        return;
    }
    let machine = boot(Gpu::Own);

    // Programs run as they would anywhere.
    let done = shell(&machine, "echo out; echo err >&2; exit 3");
    assert_eq!(
        (done.stdout.as_str(), done.stderr.as_str()),
        ("out\n", "err\n")
    );
    assert_eq!(done.status.and_then(|status| status.code()), Some(3));
    let file = machine.folder().join("written");
    shell(&machine, &format!("echo there > {}", file.display()));
    assert_eq!(std::fs::read_to_string(file).expect("a file"), "there\n");
    let mut forever = Command::new("sh");
    forever.args(["-c", "sleep 1000 & wait"]);
    let done = machine
        .run(&forever, Duration::from_millis(500))
        .expect("the machine");
    assert!(done.status.is_none());

    let log = kernel_log(&machine);
    for feature in [
        "+virgl",
        "+edid",
        "+resource_blob",
        "+host_visible",
        "+context_init",
    ] {
        assert!(log.contains(feature), "no {feature}: {log}");
    }

    for stack in STACKS {
        let mut command = machine.command(stack, "vulkaninfo").expect("a command");
        command.arg("--summary");
        let done = machine.run(&command, LIMIT).and_then(Finished::success);
        let summary = done.expect("vulkaninfo").stdout;
        println!("{stack:?}: {summary}");
        assert!(summary.contains("GPU0"), "{summary}");
        assert!(!summary.contains("GPU1"), "{summary}");
    }
    let blobs = Command::new(env!("CARGO_BIN_EXE_blobs"));
    let done = machine.run(&blobs, LIMIT).and_then(Finished::success);
    println!("blobs in {:.1?}", done.expect("blobs").elapsed);
    for name in ["compute", "graphics", "memory", "sparse", "host_pointers"] {
        for stack in STACKS {
            assert_identical(&machine, stack, name);
        }
    }

    assert_no_complaints(&kernel_log(&machine));
    machine.shut_down().expect("a clean end");
}

#[test]
fn a_machine_outlives_its_renderers_and_the_server_its_machines() {
    if !require(&["vm", "mesa", "asgard"]) {
        return;
    }
    let server = Server::start().expect("a server");
    let before = server.usage().expect("usage");
    let machine = boot(Gpu::Of(&server));

    // Many programs at once.
    let names = ["fences", "timeline", "threads", "descriptors"];
    let jobs: Vec<_> = names
        .iter()
        .flat_map(|name| STACKS.map(|stack| (name, stack)))
        .map(|(name, stack)| {
            let mut command = machine
                .command(stack, env!("CARGO_BIN_EXE_scene"))
                .expect("a command");
            command.arg(name);
            (name, stack, machine.start(&command).expect("a start"))
        })
        .collect();
    for (name, stack, job) in jobs {
        if let Err(error) = job.wait(LIMIT, |_, _| {}).and_then(Finished::success) {
            panic!("{name} on {stack:?}: {error:#}");
        }
    }

    // A renderer that dies is a lost device; the machine and later programs go on.
    for situation in ["wait", "record"] {
        let mut command = machine
            .command(Stack::MachineAsgard, env!("CARGO_BIN_EXE_situation"))
            .expect("a command");
        command.args([situation, "machine"]);
        let job = machine.start(&command).expect("a start");
        job.wait_for("ready", LIMIT).expect("the situation");
        server.kill_workers().expect("kills");
        if let Err(error) = job.wait(LIMIT, |_, _| {}).and_then(Finished::success) {
            panic!("{situation}: {error:#}");
        }
        assert_identical(&machine, Stack::MachineMesa, "fences");
    }

    // The guest lets go of its GPU, and takes it again.
    let rebind = "cd /sys/bus/virtio/drivers/virtio_gpu && device=$(ls -d virtio*) && \
        echo $device > unbind && echo $device > bind";
    shell(&machine, rebind)
        .success()
        .expect("a new start of the device");
    assert_identical(&machine, Stack::MachineAsgard, "fences");
    let log = kernel_log(&machine);
    assert!(!log.contains("Call Trace"), "{log}");

    // A machine that is killed leaves nothing, and the next one is served.
    let mut command = machine
        .command(Stack::MachineAsgard, env!("CARGO_BIN_EXE_situation"))
        .expect("a command");
    command.args(["wait", "machine"]);
    let job = machine.start(&command).expect("a start");
    job.wait_for("ready", LIMIT).expect("the situation");
    drop(job);
    drop(machine);
    settles("a dead machine leaves processes behind", || {
        server.usage().expect("the server").processes <= before.processes
    });
    let after = server.usage().expect("usage");
    assert!(
        after.descriptors <= before.descriptors,
        "before {before:?}, after {after:?}"
    );
    let machine = boot(Gpu::Of(&server));
    assert_identical(&machine, Stack::MachineMesa, "fences");
    assert_no_complaints(&kernel_log(&machine));
    machine.shut_down().expect("a clean end");
}
