//! What a virtual machine shows: in picture files and in a window, in which people type and point.
//!
//! One machine, booted once, for all of it: the kernel's console, and a compositor on the device's display.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use asgard_tests::require::require;
use asgard_tests::screen::{Picture, XServer};
use asgard_tests::via::{Finished, Stack};
use asgard_tests::vm::{Machine, Options};
use x11rb::protocol::xproto::{self, ConnectionExt as _};
use x11rb::protocol::xtest::ConnectionExt as _;
use x11rb::rust_connection::RustConnection;

const LIMIT: Duration = Duration::from_secs(200);
/// The size of the display: nothing is gained by more.
const SIZE: (u32, u32) = (640, 480);

/// Where a guest's display is seen.
struct Screen {
    files: tempfile::TempDir,
    x: XServer,
}

impl Screen {
    /// The newest picture file, if the guest shows something.
    fn file(&self) -> Option<Picture> {
        Picture::read(&self.files.path().join("0.png")).ok()
    }

    /// What the window shows, which is as large as the display and in the corner.
    fn window(&self) -> Picture {
        let all = self.x.screen().expect("a screen");
        let rows = all.pixels.chunks(all.width).take(SIZE.1 as usize);
        Picture {
            width: SIZE.0 as usize,
            height: SIZE.1 as usize,
            pixels: rows
                .flat_map(|row| &row[..SIZE.0 as usize])
                .copied()
                .collect(),
        }
    }

    /// Waits until this is seen both in the file and in the window.
    fn wait_for(&self, what: &str, holds: impl Fn(&Picture) -> bool) -> Picture {
        let end = Instant::now() + LIMIT;
        loop {
            let window = self.window();
            if holds(&window) && self.file().is_some_and(|file| holds(&file)) {
                return window;
            }
            if Instant::now() > end {
                save(&window, "something_else");
                panic!("{what}: the screen shows something else");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Writes a picture where people can look at it.
fn save(picture: &Picture, name: &str) {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("vm_{name}.png"));
    picture.write(&path).expect("a picture");
    println!("see {}", path.display());
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(script);
    command
}

/// Somebody at the window's keyboard and pointer.
struct Person {
    connection: RustConnection,
    root: xproto::Window,
}

impl Person {
    fn sits_at(x: &XServer) -> Self {
        use x11rb::connection::Connection as _;
        let (connection, screen) = RustConnection::connect(Some(&x.display)).expect("an X server");
        let root = connection.setup().roots[screen].root;
        // Nobody manages windows here: the only one gets what is typed.
        let windows = connection.query_tree(root).expect("a request").reply();
        let windows = windows.expect("an answer").children;
        let viewable = windows.into_iter().find(|&window| {
            let attributes = connection.get_window_attributes(window).expect("a request");
            let state = attributes.reply().expect("an answer").map_state;
            state == xproto::MapState::VIEWABLE
        });
        let (window, none) = (viewable.expect("a window"), xproto::InputFocus::NONE);
        let focus = connection.set_input_focus(none, window, x11rb::CURRENT_TIME);
        focus.expect("a request").check().expect("the focus");
        Self { connection, root }
    }

    fn does(&self, kind: u8, detail: u8, (x, y): (i16, i16)) {
        let fake =
            self.connection
                .xtest_fake_input(kind, detail, x11rb::CURRENT_TIME, self.root, x, y, 0);
        fake.expect("a request").check().expect("an event");
    }

    fn points_at(&self, x: i16, y: i16) {
        self.does(xproto::MOTION_NOTIFY_EVENT, 0, (x, y));
    }

    /// Types what the keys of an American keyboard give without others.
    fn types(&self, text: &str) {
        // By the kernel's numbers, in the order of the keyboard.
        const ROWS: [(u8, &str); 5] = [
            (16, "qwertyuiop"),
            (28, "\n"),
            (30, "asdfghjkl"),
            (44, "zxcvbnm"),
            (57, " "),
        ];
        for letter in text.chars() {
            let code = ROWS.iter().find_map(|(first, row)| {
                let place = row.chars().position(|key| key == letter)?;
                Some(first + place as u8)
            });
            // X counts keys from 8.
            let key = code.expect("a key") + 8;
            self.does(xproto::KEY_PRESS_EVENT, key, (0, 0));
            self.does(xproto::KEY_RELEASE_EVENT, key, (0, 0));
        }
        // The server answers when it has done all that.
        let focus = self.connection.get_input_focus().expect("a request");
        focus.reply().expect("an answer");
    }
}

/// Where people point is where the guest's pointer goes.
fn assert_points(machine: &Machine, person: &Person) {
    // The three events of one move, a line each: along, down, and that this was all.
    let script = "tablet=$(grep -l Tablet /sys/class/input/event*/device/name | cut -d/ -f5)
        head -c 72 /dev/input/$tablet | od -An -v -tu2 -w24";
    let job = machine.start(&shell(script)).expect("a start");
    let read = AtomicBool::new(false);
    let events = std::thread::scope(|scope| {
        // Whoever opens the tablet late has missed a move, so there are many.
        scope.spawn(|| {
            while !read.load(Ordering::Relaxed) {
                for (x, y) in [(320, 120), (160, 240)] {
                    person.points_at(x, y);
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        });
        let done = job.wait(LIMIT, |_, _| {}).and_then(Finished::success);
        read.store(true, Ordering::Relaxed);
        done.expect("events").stdout
    });
    let numbers: Vec<&str> = events.split_whitespace().collect();
    // Behind the time of each: its type, its code, and the halves of its value.
    let events: Vec<&[&str]> = numbers.chunks(12).map(|event| &event[8..11]).collect();
    // Of 32767 in all.
    let expected = [("16383", "8191"), ("8191", "16383")]
        .map(|(x, y)| [["3", "0", x], ["3", "1", y], ["0", "0", "0"]]);
    assert!(expected.iter().any(|one| events == one), "{events:?}");
}

#[test]
fn people_see_and_use_a_machine_in_a_window() {
    if !require(&["vm", "mesa", "asgard", "xvfb"]) {
        return;
    }
    let screen = Screen {
        files: tempfile::tempdir().expect("a folder"),
        x: XServer::start(&[]).expect("an X server"),
    };
    let mut options = Options::new(env!("CARGO_BIN_EXE_guest"));
    let size = format!("{}x{}", SIZE.0, SIZE.1);
    options.device = ["--show", "window", "--display", &size, "--frames"]
        .map(Into::into)
        .to_vec();
    options.device.push(screen.files.path().into());
    options.environment = vec![
        ("DISPLAY".into(), screen.x.display.as_str().into()),
        ("WAYLAND_DISPLAY".into(), "".into()),
    ];
    let machine = match Machine::boot(&options) {
        Ok(machine) => machine,
        Err(error) => panic!("{error:#}"),
    };
    let run = |script: &str| {
        let done = machine
            .run(&shell(script), LIMIT)
            .and_then(Finished::success);
        done.expect("a script").stdout
    };

    // The console, blue all over.
    run("printf '\\033[44m\\033[2J\\033[?25l' >/dev/tty1");
    screen.wait_for("a blue console", |picture| {
        picture.pixels.iter().all(|&pixel| pixel == [0, 0, 170])
    });

    // What is typed arrives, and where people point.
    run("modprobe -a virtio_input evdev");
    let person = Person::sits_at(&screen.x);
    person.points_at(0, 0);
    let typed = machine.start(&shell("echo reads; read line </dev/tty1; echo $line"));
    let typed = typed.expect("a start");
    typed.wait_for("reads", LIMIT).expect("a shell");
    person.types("hail odin\n");
    let typed = typed.wait(LIMIT, |_, _| {}).and_then(Finished::success);
    assert_eq!(typed.expect("a line").stdout, "hail odin\n");
    assert_points(&machine, &person);

    // A compositor, in which programs of both drivers show pictures.
    let weston = "mkdir -m 700 /tmp/run && cd /tmp/run && export XDG_RUNTIME_DIR=/tmp/run LIBSEAT_BACKEND=builtin && \
        exec weston --backend=drm --renderer=pixman --shell=kiosk --continue-without-input --idle-time=0 \
        --socket=wayland --log=/tmp/weston.log";
    let weston = machine.start(&shell(weston)).expect("a start");
    run(
        "for i in $(seq 600); do [ -S /tmp/run/wayland ] && exit; sleep 0.1; done; cat /tmp/weston.log; exit 1",
    );
    let client = |stack, program: &Path, arguments: &[&str]| {
        let mut command = machine.command(stack, program).expect("a command");
        command
            .args(arguments)
            .env("XDG_RUNTIME_DIR", "/tmp/run")
            .env("WAYLAND_DISPLAY", "wayland")
            // A compositor that draws by software takes no other pictures, and Mesa's driver has to be told so.
            .env("MESA_VK_WSI_DEBUG", "sw");
        machine.start(&command).expect("a start")
    };
    let (width, height) = (SIZE.0.to_string(), SIZE.1.to_string());
    let cube = [
        "--wsi", "wayland", "--c", "300", "--width", &width, "--height", &height,
    ];
    for stack in [Stack::MachineAsgard, Stack::MachineMesa] {
        let vkcube = client(stack, Path::new("vkcube"), &cube);
        let seen = screen.wait_for("a cube", |picture| picture.has_cube(100_000));
        save(&seen, &format!("vkcube_{stack:?}"));
        let done = vkcube.wait(LIMIT, |_, _| {}).and_then(Finished::success);
        println!("{stack:?}: {:?}", done.expect("vkcube").elapsed);
        screen.wait_for("no cube", |picture| !picture.has_cube(0));
    }
    // Every pixel is as it should be. The picture stays as long as the program's input.
    let swapchain = format!("sleep 1000 | {} wayland", env!("CARGO_BIN_EXE_swapchain"));
    let swapchain = client(Stack::MachineAsgard, Path::new("sh"), &["-c", &swapchain]);
    screen.wait_for("a pattern", |picture| picture.is_pattern(SIZE.0, SIZE.1));
    swapchain.kill().expect("a kill");
    weston.kill().expect("a kill");

    let log = run("dmesg");
    assert!(!log.contains("Call Trace"), "{log}");
    machine.shut_down().expect("a clean end");
}
