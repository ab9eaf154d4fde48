//! Our own guest driver in situations that are seldom: renderers that are not there or go away, objects that nobody destroys, forks, threads that end.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use asgard_tests::require::require;
use asgard_tests::via::{self, Server, Stack, Usage};

const LIMIT: Duration = Duration::from_secs(120);

/// What a program may take to learn that its renderer is gone, and end.
const SOON: Duration = Duration::from_secs(2);

/// How much a server may hold on to: allocators keep some of what is freed.
const SLACK_KIB: u64 = 48 * 1024;

const PROGRAM: &str = env!("CARGO_BIN_EXE_situation");

/// A server, with these arguments more.
fn server(arguments: &[&str]) -> Option<Server> {
    require(&["mesa", "asgard"]).then(|| {
        Server::start_with(|command| {
            command.args(arguments);
        })
        .expect("a server")
    })
}

/// A program that was started and has said that it is in its situation.
struct Running {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a program");
        let mut said = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        said.read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n");
        Self { child, said }
    }

    /// It ends well within that time.
    fn ends(mut self, within: Duration) {
        drop(self.child.stdin.take());
        let status = via::wait(&mut self.child, within).expect("a status");
        if status.is_none() {
            let _ = self.child.kill();
        }
        let status = status.expect("the program hangs");
        let mut rest = String::new();
        self.said.read_to_string(&mut rest).expect("its output");
        assert!(status.success(), "{status}: {rest}");
        assert!(rest.ends_with("ok\n"), "{rest}");
    }
}

fn situation(server: &Server, name: &str) -> Command {
    let mut command = server.guest(PROGRAM).expect("a command");
    command.arg(name);
    command
}

/// The program comes through it.
fn survives(server: &Server, name: &str) -> String {
    let done = via::run(situation(server, name), LIMIT).and_then(via::Finished::success);
    let done = done.unwrap_or_else(|error| panic!("{name}: {error:#}"));
    assert!(done.stdout.ends_with("ok\n") || name == "exit", "{done:?}");
    done.stdout
}

/// Waits until the server uses as little as that.
fn settles(server: &Server, what: &str, enough: impl Fn(Usage) -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let now = server.usage().expect("usage");
        if enough(now) {
            return;
        }
        assert!(Instant::now() < end, "{what}: {now:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A program that finds our driver, and that socket or none.
fn without_server(dir: &Path, socket: Option<&Path>) -> Command {
    let manifest = dir.join("asgard_icd.json");
    let library = via::own_driver().expect("libvulkan_asgard.so");
    let text = format!(
        r#"{{"file_format_version": "1.0.1", "ICD": {{"library_path": {library:?}, "api_version": "1.4.342"}}}}"#
    );
    std::fs::write(&manifest, text).expect("a manifest");
    let mut command = Command::new(PROGRAM);
    command
        .arg("instance")
        .env("VK_DRIVER_FILES", &manifest)
        .env("VK_ICD_FILENAMES", &manifest)
        .env_remove("ASGARD_KUMQUAT_SOCKET");
    if let Some(socket) = socket {
        command.env("ASGARD_KUMQUAT_SOCKET", socket);
    }
    command
}

#[test]
fn no_server_is_an_incompatible_driver_and_a_message() {
    if !require(&["asgard"]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    for socket in [None, Some(dir.path().join("nobody"))] {
        let command = without_server(dir.path(), socket.as_deref());
        let done = via::run(command, SOON).and_then(via::Finished::success);
        let done = done.expect("the program ends by itself");
        assert_eq!(done.stdout, "ERROR_INCOMPATIBLE_DRIVER\nok\n");
        for part in ["asgard: there is no renderer", "`asgard run"] {
            assert!(done.stderr.contains(part), "{}", done.stderr);
        }
    }
}

#[test]
fn a_server_that_does_not_answer_is_given_up() {
    if !require(&["asgard"]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("silent");
    let _listening = silence(&path);
    let command = without_server(dir.path(), Some(&path));
    let done = via::run(command, Duration::from_secs(30)).and_then(via::Finished::success);
    let done = done.expect("the program ends by itself");
    assert_eq!(done.stdout, "ERROR_INCOMPATIBLE_DRIVER\nok\n");
    assert!(done.stderr.contains("does not answer"), "{}", done.stderr);
}

/// A socket that takes connections and never says a word.
fn silence(path: &Path) -> OwnedFd {
    let bytes = path.as_os_str().as_encoded_bytes();
    // SAFETY: the address is zeroed but for its family and path, which leaves room for the last zero.
    unsafe {
        let fd = libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0);
        assert!(fd >= 0, "no socket");
        let fd = OwnedFd::from_raw_fd(fd);
        let mut address: libc::sockaddr_un = std::mem::zeroed();
        address.sun_family = libc::AF_UNIX as libc::sa_family_t;
        assert!(bytes.len() < address.sun_path.len());
        for (to, byte) in address.sun_path.iter_mut().zip(bytes) {
            *to = byte.cast_signed();
        }
        let size = size_of_val(&address) as libc::socklen_t;
        let bound = libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size);
        assert!(bound == 0 && libc::listen(fd.as_raw_fd(), 4) == 0);
        fd
    }
}

#[test]
fn a_wait_ends_when_the_worker_dies() {
    let Some(server) = server(&[]) else { return };
    let program = Running::start(situation(&server, "wait"));
    server.kill_workers().expect("kills");
    program.ends(SOON);
}

#[test]
fn what_is_polled_is_read_from_memory() {
    if !require(&["mesa", "asgard"]) {
        return;
    }
    let answered = |features: &str| -> u64 {
        let mut command = via::asgard_run(&["--driver=asgard"]).expect("the asgard program");
        command
            .args([PROGRAM, "polls"])
            .env("ASGARD_WIRE_FEATURES", features);
        let done = via::run(command, LIMIT).and_then(via::Finished::success);
        let done = done.unwrap_or_else(|error| panic!("{features}: {error:#}"));
        let words: Vec<&str> = done.stderr.split_whitespace().collect();
        let at = words
            .windows(3)
            .position(|w| w == ["of", "them", "answered,"]);
        let number = at.and_then(|at| words[at - 1].parse().ok());
        number.unwrap_or_else(|| panic!("{}", done.stderr))
    };
    // 120000 polls; some are asked now and then.
    let (without, with) = (answered("none"), answered("all"));
    assert!(without > 120_000 && with < 12_000, "{without}, {with}");
}

#[test]
fn polling_ends_when_the_worker_dies() {
    let Some(server) = server(&[]) else { return };
    let program = Running::start(situation(&server, "poll"));
    server.kill_workers().expect("kills");
    program.ends(SOON);
}

#[test]
fn polling_over_a_render_node_ends_when_the_worker_dies() {
    if !require(&["preload"]) {
        return;
    }
    let Some(server) = server(&[]) else { return };
    let mut command = server.guest_on(Stack::Node, PROGRAM).expect("a command");
    command.arg("poll");
    let program = Running::start(command);
    server.kill_workers().expect("kills");
    program.ends(SOON);
}

#[test]
fn a_wait_over_a_render_node_ends_when_the_worker_dies() {
    if !require(&["preload"]) {
        return;
    }
    let Some(server) = server(&[]) else { return };
    let mut command = server.guest_on(Stack::Node, PROGRAM).expect("a command");
    command.arg("wait");
    let program = Running::start(command);
    server.kill_workers().expect("kills");
    program.ends(SOON);
}

#[test]
fn a_wait_ends_when_the_server_dies() {
    let Some(server) = server(&[]) else { return };
    let program = Running::start(situation(&server, "wait"));
    drop(server);
    program.ends(SOON);
}

#[test]
fn recording_and_submitting_ends_when_the_worker_dies() {
    let Some(server) = server(&[]) else { return };
    let program = Running::start(situation(&server, "record"));
    server.kill_workers().expect("kills");
    program.ends(SOON);
}

#[test]
fn devices_end_with_their_children() {
    let Some(server) = server(&[]) else { return };
    let program = Running::start(situation(&server, "children"));
    let half = server.usage().expect("usage");
    // The other half of the rounds is done when it waits for its input to end.
    thread::sleep(Duration::from_secs(1));
    settles(&server, "devices leave something behind", |now| {
        now.threads <= half.threads && now.resident_kib <= half.resident_kib + SLACK_KIB
    });
    program.ends(LIMIT);
}

#[test]
fn instances_end_with_live_devices() {
    let Some(server) = server(&[]) else { return };
    survives(&server, "orphans");
}

#[test]
fn too_much_memory_is_out_of_device_memory() {
    let Some(server) = server(&["--max-memory", "256M"]) else {
        return;
    };
    survives(&server, "memory");
}

#[test]
fn threads_that_end_give_their_rings_back() {
    let Some(server) = server(&[]) else { return };
    let before = server.usage().expect("usage");
    let program = Running::start(situation(&server, "threads"));
    settles(&server, "rings of threads that ended", |now| {
        // One worker more, whose driver has threads of its own; but not 64.
        now.threads <= before.threads + 32
    });
    program.ends(LIMIT);
}

#[test]
fn forked_children_do_not_touch_their_parents_device() {
    let Some(server) = server(&[]) else { return };
    survives(&server, "fork");
}

#[test]
fn a_device_works_after_the_destructors_of_its_thread() {
    let Some(server) = server(&[]) else { return };
    let said = survives(&server, "exit");
    assert_eq!(said, "ok\ndestroyed\n");
}

#[test]
fn the_driver_can_be_unloaded_and_loaded_again() {
    let Some(server) = server(&[]) else { return };
    survives(&server, "unload");
}

#[test]
fn nothing_leaks_and_no_freed_memory_is_used() {
    if !require(&["mesa", "asgard", "valgrind"]) {
        return;
    }
    let mut command = via::command(Stack::Asgard, "valgrind").expect("a command");
    // What the host writes into shared memory would pass for uninitialised.
    command.args([
        "--undef-value-errors=no",
        "--leak-check=full",
        "--show-leak-kinds=definite,indirect",
        "--errors-for-leak-kinds=definite,indirect",
        "--error-exitcode=9",
        "--num-callers=30",
        PROGRAM,
        "children",
    ]);
    if let Err(error) = via::run(command, LIMIT).and_then(via::Finished::success) {
        panic!("{error:#}");
    }
}
