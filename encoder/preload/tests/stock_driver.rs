//! The driver that distributions ship, unmodified, beneath the preload, against a server of a few
//! lines: it has to find the device, open it, and talk on a ring.
//!
//! The driver runs in a process of its own: this test program, started again with the preload.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_void};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use asgard_asg::kumquat::{
    CapsetInfo, CmdSubmit3d, FENCE, Listener, MEM_SHM, Packet, Request, ResourceCreate, Response,
    SIGNAL_EVENT_FD, Socket,
};
use asgard_asg::ring::Memory;
use asgard_asg::{Mapping, layout, submit};
use rustix::event::{EventfdFlags, eventfd};

const DRIVER: &CStr = c"libvulkan_gfxstream.so";
/// Set in the process that shall play the program: what it has to do.
const ROLE: &str = "ASGARD_PRELOAD_TEST_ROLE";
const TIMEOUT: Duration = Duration::from_secs(20);

/// The driver's first words: no client flags, then vkEnumerateInstanceVersion, the first in sequence.
const HELLO: [u8; 20] = [
    0, 0, 0, 0, 0xa9, 0x4e, 0, 0, 16, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0,
];
/// Its reply: version 1.3, VK_SUCCESS.
const VERSION_1_3: [u8; 8] = [0, 0x30, 0x40, 0, 0, 0, 0, 0];

/// What the server has seen.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    Context(Vec<u8>),
    Ring(u64),
    Bytes(Vec<u8>),
    Pinged,
    /// A resource was given back.
    Detached(u32),
    /// A context was given back.
    Destroyed(u32),
    Closed,
}

/// How the server treats the driver.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// It answers the first command, and then ends the connection.
    Answer,
    /// It says nothing, and lets the driver wait.
    Silent,
    /// It answers the first command again and again.
    Version,
    /// It marks the ring as failed, and serves on.
    GiveUp,
}

struct Server {
    directory: tempfile::TempDir,
    events: Receiver<Event>,
    /// The connection, to be cut by the test.
    client: Arc<Mutex<Option<Arc<Socket>>>>,
}

impl Server {
    fn start(manner: Manner) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = Listener::bind(&directory.path().join("socket")).unwrap();
        let (sender, events) = channel();
        let client = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&client);
        std::thread::spawn(move || {
            while let Ok(socket) = listener.accept() {
                let socket = Arc::new(socket);
                *slot.lock().unwrap() = Some(Arc::clone(&socket));
                serve(&socket, manner, &sender);
                let _ = sender.send(Event::Closed);
            }
        });
        Server {
            directory,
            events,
            client,
        }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    fn event(&self) -> Event {
        self.events
            .recv_timeout(TIMEOUT)
            .expect("the driver stays silent")
    }

    fn cut(&self) {
        let client = self.client.lock().unwrap().take().unwrap();
        client.shutdown().unwrap();
    }
}

/// The capset's words that matter: the sizes, and that Vulkan needs no other protocol.
fn capset() -> [u8; 112] {
    let mut bytes = [0; 112];
    for (offset, value) in [
        (0, 1_u32),
        (4, 12288),
        (8, 1 << 20),
        (12, 0),
        (20, 4096),
        (24, 1),
        (100, 1),
    ] {
        bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

fn serve(socket: &Arc<Socket>, manner: Manner, events: &Sender<Event>) {
    let mut packet = Packet::default();
    let mut contexts = 0;
    let mut blobs: HashMap<u32, (Arc<Mapping>, OwnedFd)> = HashMap::new();
    while socket.recv(&mut packet).unwrap_or(false) {
        for request in packet.requests() {
            let request = request.unwrap();
            let mut bytes = Vec::new();
            let mut fds = Vec::new();
            match &request {
                Request::GetNumCapsets => Response::NumCapsets { count: 1 }.write(&mut bytes),
                Request::GetCapsetInfo { .. } => {
                    let info = CapsetInfo {
                        capset_id: 3,
                        version: 0,
                        size: 112,
                        padding: 0,
                    };
                    Response::CapsetInfo(info).write(&mut bytes);
                }
                Request::GetCapset(_) => Response::Capset(&capset()).write(&mut bytes),
                Request::CtxCreate(create) => {
                    assert_eq!(create.context_init, 3);
                    events.send(Event::Context(create.name().to_vec())).unwrap();
                    contexts += 1;
                    Response::ContextCreate { ctx_id: contexts }.write(&mut bytes);
                }
                Request::ResourceCreateBlob(create) => {
                    assert_eq!(
                        create.blob_id, 0,
                        "it has not come so far as to allocate memory"
                    );
                    let (mapping, fd) = Mapping::create(create.size as usize).unwrap();
                    let resource_id = 10 + blobs.len() as u32;
                    fds.push(fd.try_clone().unwrap());
                    blobs.insert(resource_id, (Arc::new(mapping), fd));
                    events.send(Event::Ring(create.size)).unwrap();
                    let created = ResourceCreate {
                        resource_id,
                        handle_type: MEM_SHM,
                        ..Default::default()
                    };
                    Response::ResourceCreate(created).write(&mut bytes);
                }
                Request::Submit3d { flags, command, .. } => {
                    match submit::Command::parse(command).unwrap() {
                        submit::Command::ContextCreate { resource_id } => {
                            start_ring(&blobs[&resource_id].0, manner, socket, events);
                        }
                        submit::Command::ContextPing { .. } => {
                            events.send(Event::Pinged).unwrap();
                        }
                        other => panic!("{other:?}"),
                    }
                    if flags & FENCE != 0 {
                        fds.push(eventfd(1, EventfdFlags::CLOEXEC).unwrap());
                        let fence = CmdSubmit3d {
                            fence_id: 1,
                            handle_type: SIGNAL_EVENT_FD,
                            padding: 0,
                        };
                        Response::CmdSubmit3d(fence).write(&mut bytes);
                    }
                }
                Request::CtxDetach(detach) => {
                    events.send(Event::Detached(detach.resource_id)).unwrap();
                }
                Request::CtxDestroy { ctx_id } => events.send(Event::Destroyed(*ctx_id)).unwrap(),
                _ => {}
            }
            if !bytes.is_empty() {
                let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
                let _ = socket.send(&bytes, &fds);
            }
        }
    }
}

/// Initialises the ring, and reads it on a thread of its own.
fn start_ring(ring: &Arc<Mapping>, manner: Manner, socket: &Arc<Socket>, events: &Sender<Event>) {
    ring.store(layout::BUFFER_SIZE, layout::DEFAULT_BUFFER_SIZE);
    ring.store(layout::FLUSH_INTERVAL, layout::DEFAULT_FLUSH_INTERVAL);
    ring.store(layout::MAGIC_WORD, layout::MAGIC);
    let (ring, socket, events) = (Arc::clone(ring), Arc::clone(socket), events.clone());
    std::thread::spawn(move || {
        let until = Instant::now() + TIMEOUT;
        let mut bytes = Vec::new();
        while manner == Manner::Version && Arc::strong_count(&ring) > 1 {
            take_records(&ring, &mut bytes);
            if bytes.len() >= 16 {
                let written = ring.load(layout::FROM_HOST + layout::WRITE_POS) as usize;
                ring.copy_in(layout::BUFFER + written, &VERSION_1_3)
                    .unwrap();
                ring.add(
                    layout::FROM_HOST + layout::WRITE_POS,
                    VERSION_1_3.len() as u32,
                );
                ring.add(layout::PROGRESS, 1);
                ring.wake(layout::PROGRESS);
                events
                    .send(Event::Bytes(std::mem::take(&mut bytes)))
                    .unwrap();
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        if manner == Manner::Version {
            return;
        }
        let mut bell = 0;
        while bytes.len() < HELLO.len() && Instant::now() < until {
            take_records(&ring, &mut bytes);
            let now = ring.load(layout::DOORBELL);
            if now != bell {
                bell = now;
                events.send(Event::Pinged).unwrap();
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        events.send(Event::Bytes(bytes)).unwrap();
        if manner == Manner::GiveUp {
            ring.store(layout::IN_ERROR, 1);
        }
        if manner == Manner::Answer {
            ring.copy_in(layout::BUFFER, &VERSION_1_3).unwrap();
            ring.add(
                layout::FROM_HOST + layout::WRITE_POS,
                VERSION_1_3.len() as u32,
            );
            ring.add(layout::PROGRESS, 1);
            ring.wake(layout::PROGRESS);
            // The next command stays without an answer.
            let mut next = Vec::new();
            while next.is_empty() && Instant::now() < until {
                take_records(&ring, &mut next);
                std::thread::sleep(Duration::from_micros(100));
            }
            events.send(Event::Bytes(next)).unwrap();
            let _ = socket.shutdown();
        }
    });
}

/// Appends what the records that are ready point to.
fn take_records(ring: &Mapping, to: &mut Vec<u8>) {
    let mut read = ring.load(layout::READ_POS);
    while read != ring.load(layout::WRITE_POS) {
        let at = layout::INLINE + (read & (layout::INLINE_SIZE - 1)) as usize;
        let (offset, len) = (ring.load(at) as usize, ring.load(at + 4) as usize);
        ring.append_to(layout::BUFFER + offset, len, to).unwrap();
        read = read.wrapping_add(layout::RECORD_SIZE);
        ring.store(layout::READ_POS, read);
    }
}

/// The library under test, which Cargo builds beside this program.
fn preload() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let mut directory = program.parent();
    while let Some(path) = directory {
        let library = path.join("libasgard_preload.so");
        if library.exists() {
            return library;
        }
        directory = path.parent();
    }
    panic!("libasgard_preload.so is not beside {}", program.display());
}

/// Whether the driver can be loaded; says so if not, and fails if it is required.
fn has_driver() -> bool {
    // SAFETY: the driver's initialisers do nothing but register themselves.
    let handle = unsafe { libc::dlopen(DRIVER.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if !handle.is_null() {
        return true;
    }
    let required = std::env::var("ASGARD_TESTS_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|word| word.trim() == "mesa"),
        "ASGARD_TESTS_REQUIRE asks for Mesa, but {DRIVER:?} cannot be loaded"
    );
    eprintln!("skipped: {DRIVER:?} cannot be loaded (Debian has it in mesa-vulkan-drivers)");
    false
}

/// Starts this program again, beneath the preload, in a role.
fn start(role: &str, socket: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "role", "--nocapture"])
        .env(ROLE, role)
        .env("LD_PRELOAD", preload())
        .env("ASGARD_KUMQUAT_SOCKET", socket)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits for its end, but not for ever, and returns its output, both streams together.
fn finish(mut child: Child) -> String {
    let until = Instant::now() + TIMEOUT;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > until {
            child.kill().unwrap();
            let output = child.wait_with_output().unwrap();
            panic!("it hangs: {}", String::from_utf8_lossy(&output.stderr));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    text.concat()
}

#[test]
fn the_driver_opens_the_device_and_speaks_on_a_ring() {
    if !has_driver() {
        return;
    }
    let server = Server::start(Manner::Answer);
    let child = start("instance", &server.socket());
    assert!(matches!(server.event(), Event::Context(name) if !name.is_empty()));
    assert_eq!(server.event(), Event::Ring(12288 + (1 << 20)));
    let mut pings = 0;
    let hello = loop {
        match server.event() {
            Event::Pinged => pings += 1,
            Event::Bytes(bytes) => break bytes,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(hello, HELLO);
    assert!(pings > 0, "the host looked asleep, and nobody woke it");
    let next = loop {
        match server.event() {
            Event::Pinged => {}
            Event::Bytes(bytes) => break bytes,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(next[8..12], [2, 0, 0, 0], "the second in sequence");
    let output = finish(child);
    assert!(output.contains("version: 0 403000"), "{output}");
    assert!(
        !output.contains("instance: 0"),
        "an instance out of nothing: {output}"
    );
}

#[test]
fn a_dead_server_ends_the_drivers_waits() {
    if !has_driver() {
        return;
    }
    let server = Server::start(Manner::Silent);
    let child = start("instance", &server.socket());
    while server.event() != Event::Bytes(HELLO.to_vec()) {}
    // It waits for a reply now, and sleeps.
    server.cut();
    let output = finish(child);
    assert!(output.contains("is lost"), "{output}");
    // VK_ERROR_DEVICE_LOST, and then vkCreateInstance asks for what nobody can invent.
    assert!(output.contains("version: -4 0"), "{output}");
    assert!(output.contains("cannot go on"), "{output}");
}

#[test]
fn threads_have_rings_of_their_own() {
    if !has_driver() {
        return;
    }
    let server = Server::start(Manner::Version);
    let output = finish(start("threads", &server.socket()));
    assert_eq!(output.matches("version: 0 403000").count(), 4, "{output}");
    let mut rings = 0;
    let mut sequence = Vec::new();
    loop {
        match server.event() {
            Event::Ring(_) => rings += 1,
            // A stream starts with four bytes of flags.
            Event::Bytes(bytes) => sequence.push(bytes[bytes.len() - 8]),
            Event::Closed => break,
            _ => {}
        }
    }
    // The main thread keeps its own, also when the driver is loaded again.
    assert_eq!(rings, 3);
    assert_eq!(sequence, [1, 2, 3, 4], "one sequence for all of them");
}

#[test]
fn a_failed_ring_is_a_lost_device() {
    if !has_driver() {
        return;
    }
    let server = Server::start(Manner::GiveUp);
    let output = finish(start("instance", &server.socket()));
    assert!(output.contains("given up"), "{output}");
    assert!(output.contains("version: -4 0"), "{output}");
}

#[test]
fn without_a_server_there_is_no_device_and_a_reason() {
    if !has_driver() {
        return;
    }
    let output = finish(start("instance", Path::new("/nonexistent/socket")));
    assert!(
        output.contains("cannot connect to /nonexistent/socket"),
        "{output}"
    );
}

#[test]
fn other_programs_do_not_notice() {
    let run = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(output.status.success());
        assert!(
            output.stderr.is_empty(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        output.stdout
    };
    let script =
        "echo a | cat; ls -la / | wc -l; (exec true); test -e /dev/dri/asgard || echo none";
    let mut shell = Command::new("sh");
    shell.args(["-c", script]);
    let plain = run(&mut shell);
    shell.env("LD_PRELOAD", preload());
    assert_eq!(run(&mut shell), plain);
    shell.env("ASGARD_KUMQUAT_SOCKET", "/nonexistent/socket");
    assert_eq!(run(&mut shell), plain);
}

/// Not a test: what this program does when it is started to play a program with the driver.
#[test]
fn role() {
    if std::env::var(ROLE).as_deref() == Ok("instance") {
        println!("instance: {}", create_instance());
    }
    if std::env::var(ROLE).as_deref() == Ok("threads") {
        for _ in 0..2 {
            // SAFETY: nothing of the driver is used after it has been closed.
            unsafe {
                let driver = libc::dlopen(DRIVER.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
                let get = get_proc_addr(driver);
                print_version(get);
                std::thread::spawn(move || print_version(get))
                    .join()
                    .unwrap();
                libc::dlclose(driver);
            }
        }
    }
}

#[repr(C)]
struct InstanceCreateInfo {
    s_type: i32,
    next: *const c_void,
    flags: u32,
    application: *const c_void,
    layers: u32,
    layer_names: *const *const c_char,
    extensions: u32,
    extension_names: *const *const c_char,
}

type GetProcAddr = unsafe extern "C" fn(*mut c_void, *const c_char) -> *mut c_void;

/// The driver's first entry point.
///
/// # Safety
/// `driver` is the driver's handle.
unsafe fn get_proc_addr(driver: *mut c_void) -> GetProcAddr {
    assert!(!driver.is_null());
    // SAFETY: the function has the type that Vulkan gives it.
    unsafe { std::mem::transmute(libc::dlsym(driver, c"vk_icdGetInstanceProcAddr".as_ptr())) }
}

fn print_version(get: GetProcAddr) {
    let mut number = 0;
    // SAFETY: the function has the type that Vulkan gives it.
    let result = unsafe {
        let version = get(std::ptr::null_mut(), c"vkEnumerateInstanceVersion".as_ptr());
        let version: unsafe extern "C" fn(*mut u32) -> i32 = std::mem::transmute(version);
        version(&raw mut number)
    };
    println!("version: {result} {number:x}");
}

/// Loads the driver as the Vulkan loader would, and creates an instance.
fn create_instance() -> i32 {
    type CreateInstance =
        unsafe extern "C" fn(*const InstanceCreateInfo, *const c_void, *mut *mut c_void) -> i32;
    let info = InstanceCreateInfo {
        s_type: 1,
        next: std::ptr::null(),
        flags: 0,
        application: std::ptr::null(),
        layers: 0,
        layer_names: std::ptr::null(),
        extensions: 0,
        extension_names: std::ptr::null(),
    };
    let mut instance = std::ptr::null_mut();
    // SAFETY: the functions have the types that Vulkan gives them, and the structures are complete.
    unsafe {
        let driver = libc::dlopen(DRIVER.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
        let get = get_proc_addr(driver);
        print_version(get);
        let create = get(std::ptr::null_mut(), c"vkCreateInstance".as_ptr());
        let create: CreateInstance = std::mem::transmute(create);
        create(&raw const info, std::ptr::null(), &raw mut instance)
    }
}
