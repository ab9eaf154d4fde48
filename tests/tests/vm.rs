//! Virtual machines: QEMU with our device, and a Debian guest that has nothing installed but its own packages.
//!
//! A boot takes long where a translator runs it, so each test boots once and asks much.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use asgard_protocol::extension::Features;
use asgard_tests::compare::{compare, scene, scene_in};
use asgard_tests::report::digest;
use asgard_tests::require::require;
use asgard_tests::screen::Picture;
use asgard_tests::via::{Finished, Server, Stack};
use asgard_tests::vm::{Gpu, Job, Machine, Options};

const LIMIT: Duration = Duration::from_secs(300);
/// The stacks of a machine.
const STACKS: [Stack; 2] = [Stack::MachineMesa, Stack::MachineAsgard];

fn boot(gpu: Gpu<'_>) -> Machine {
    let mut options = Options::new(env!("CARGO_BIN_EXE_guest"));
    options.gpu = gpu;
    options.reboots = true;
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

/// Begins to make requests of the guest's kernel.
fn start<'a>(machine: &'a Machine, task: &[&str]) -> Job<'a> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drm"));
    command.args(task);
    machine.start(&command).expect("a start")
}

/// All of it has come out right.
fn succeeds(job: Job<'_>, what: &str) {
    match job.wait(LIMIT, |_, _| {}).and_then(Finished::success) {
        Ok(done) => println!("{what} in {:.1?}", done.elapsed),
        Err(error) => panic!("{what}: {error:#}"),
    }
}

fn requests(machine: &Machine, task: &str) {
    succeeds(start(machine, &[task]), task);
}

/// A number of the guest's that its kernel tells in KiB.
fn meminfo(machine: &Machine, field: &str) -> u64 {
    let done = shell(machine, "cat /proc/meminfo");
    let text = done.success().expect("meminfo").stdout;
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let words = line.and_then(|line| line.split_whitespace().next());
    words.and_then(|word| word.parse().ok()).expect(field)
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
    requests(&machine, "blobs");
    for name in ["compute", "graphics", "memory", "sparse", "host_pointers"] {
        for stack in STACKS {
            assert_identical(&machine, stack, name);
        }
    }

    assert_no_complaints(&kernel_log(&machine));
    machine.shut_down().expect("a clean end");
}

#[test]
fn requests_of_the_kernels_driver_reach_the_device_and_come_back() {
    if !require(&["vm", "asgard"]) {
        return;
    }
    let frames = tempfile::tempdir().expect("a folder");
    // Its fences wait for each other as the guest says.
    let server = Server::start_with(|command| {
        command.args(["--renderer=null", "--display=400x300", "--frames"]);
        command.arg(frames.path());
    });
    let second = Server::start_with(|command| {
        command.arg("--renderer=null");
    });
    let (server, second) = (server.expect("a server"), second.expect("a server"));
    let (machine, other) = std::thread::scope(|scope| {
        let other = scope.spawn(|| boot(Gpu::Of(&second)));
        (
            boot(Gpu::Of(&server)),
            other.join().expect("another machine"),
        )
    });
    let idle = server.usage().expect("usage");
    for task in ["fences", "transfers"] {
        requests(&machine, task);
    }

    // Ten thousand mappings leave nothing behind on either side.
    let measure = || {
        requests(&machine, "maps");
        let mut usage = server.usage().expect("usage");
        settles("the program's renderer does not end", || {
            usage = server.usage().expect("usage");
            usage.processes <= idle.processes
        });
        (usage, meminfo(&machine, "MemAvailable:"))
    };
    let (before, after) = (measure(), measure());
    println!("before {before:?}, after {after:?}");
    assert!(after.0.resident_kib <= before.0.resident_kib + 4096);
    assert!(after.0.threads <= before.0.threads);
    assert!(after.0.descriptors <= before.0.descriptors);
    assert!(
        after.1 + 32768 >= before.1,
        "the guest's kernel keeps memory"
    );

    // The display shows, byte by byte, what the guest has drawn.
    for kind in ["dumb", "guest", "host"] {
        let job = start(&machine, &["scanout", kind]);
        let said = job.wait_for("\n", LIMIT).expect("a picture");
        let mut shown = String::new();
        let picture = frames.path().join("0.png");
        settles(&format!("{kind}: {said}"), || {
            shown = Picture::read(&picture).map_or_else(
                |error| format!("{error:#}"),
                |p| {
                    format!(
                        "{}x{} {}\n",
                        p.width,
                        p.height,
                        digest(p.pixels.as_flattened())
                    )
                },
            );
            shown == said
        });
        job.kill().expect("the machine");
        job.wait(LIMIT, |_, _| {}).expect("an end");
    }

    // Two programs do what must not be done, and everybody else, here and in the other machine, goes on.
    let hostile = ["1", "2"].map(|seed| start(&machine, &["hostile", seed, "1500"]));
    for task in ["fences", "transfers", "maps"] {
        let innocent = [&machine, &other].map(|machine| start(machine, &[task]));
        for job in innocent {
            succeeds(job, task);
        }
    }
    for job in hostile {
        succeeds(job, "hostile");
    }
    for machine in [machine, other] {
        requests(&machine, "fences");
        let log = kernel_log(&machine);
        assert!(!log.contains("Call Trace"), "{log}");
        machine.shut_down().expect("a clean end");
    }
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

    // A program that does what must not be done harms none that runs beside it.
    let hostile = start(&machine, &["hostile", "3", "300"]);
    for stack in STACKS {
        assert_identical(&machine, stack, "compute");
    }
    succeeds(hostile, "hostile");

    // The guest lets go of its GPU, and takes it again; then it starts anew as a whole.
    let rebind = "cd /sys/bus/virtio/drivers/virtio_gpu && device=$(ls -d virtio*) && \
        echo $device > unbind && echo $device > bind";
    shell(&machine, rebind)
        .success()
        .expect("a new start of the device");
    assert_identical(&machine, Stack::MachineAsgard, "fences");
    let log = kernel_log(&machine);
    assert!(!log.contains("Call Trace"), "{log}");
    let mut reboot = Command::new("busybox");
    reboot.args(["reboot", "-f"]);
    let _job = machine.start(&reboot).expect("a start");
    machine.wait_until_up().expect("a second start");
    assert_identical(&machine, Stack::MachineAsgard, "fences");
    machine.start_kernel_anew().expect("a start");
    machine.wait_until_up().expect("a third start");
    assert_identical(&machine, Stack::MachineMesa, "fences");
    assert_no_complaints(&kernel_log(&machine));

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
