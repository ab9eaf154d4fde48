//! Windows: of X11, of Wayland, and none, natively and through both guest drivers.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use asgard_tests::require::require;
use asgard_tests::screen::{Compositor, Picture, SCREEN, XServer};
use asgard_tests::via::{self, Stack};

const LIMIT: Duration = Duration::from_secs(120);

const SWAPCHAIN: &str = env!("CARGO_BIN_EXE_swapchain");

/// A screen of one of the window systems.
enum Screen {
    X11(XServer),
    Wayland(Compositor),
}

impl Screen {
    fn x11(arguments: &[&str]) -> Self {
        Self::X11(XServer::start(arguments).unwrap())
    }

    fn wayland() -> Self {
        Self::Wayland(Compositor::start().unwrap())
    }

    /// Has a program open its windows here.
    fn show(&self, command: &mut Command) {
        match self {
            Self::X11(x) => {
                command
                    .env("DISPLAY", &x.display)
                    .env_remove("WAYLAND_DISPLAY");
            }
            Self::Wayland(compositor) => compositor.show(command),
        }
    }

    /// Waits until this is on it.
    fn wait_for(&self, mut holds: impl FnMut(&Picture) -> bool) -> Option<Picture> {
        let end = Instant::now() + Duration::from_secs(60);
        while Instant::now() < end {
            let picture = match self {
                Self::X11(x) => x.screen(),
                Self::Wayland(compositor) => compositor.screen(),
            };
            if let Ok(picture) = picture
                && holds(&picture)
            {
                return Some(picture);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        None
    }

    fn vkcube(&self, stack: Stack) -> Command {
        let wayland = matches!(self, Self::Wayland(_));
        // Newer ones are one program for all window systems.
        let own = via::find_program("vkcube-wayland").filter(|_| wayland);
        let mut command = match &own {
            Some(program) => via::command(stack, program),
            None => via::command(stack, "vkcube"),
        }
        .unwrap();
        if wayland && own.is_none() {
            command.args(["--wsi", "wayland"]);
        }
        self.show(&mut command);
        command
    }
}

#[test]
fn vkcube_turns_in_a_window_of_x11() {
    if require(&["mesa", "gfxstream", "asgard", "vkcube", "xvfb"]) {
        turns(Stack::Mesa, &Screen::x11(&[]), "x11");
    }
}

#[test]
fn vkcube_turns_in_a_window_of_x11_of_our_own_driver() {
    if require(&["mesa", "asgard", "vkcube", "xvfb"]) {
        turns(Stack::Asgard, &Screen::x11(&[]), "x11");
    }
}

#[test]
fn vkcube_turns_without_memory_that_the_server_shares() {
    if require(&["mesa", "asgard", "vkcube", "xvfb"]) {
        turns(
            Stack::Asgard,
            &Screen::x11(&["-extension", "MIT-SHM"]),
            "sent",
        );
    }
}

#[test]
fn vkcube_turns_in_a_window_of_wayland() {
    if require(&["mesa", "gfxstream", "asgard", "vkcube", "wayland"]) {
        turns(Stack::Mesa, &Screen::wayland(), "wayland");
    }
}

#[test]
fn vkcube_turns_in_a_window_of_wayland_of_our_own_driver() {
    if require(&["mesa", "asgard", "vkcube", "wayland"]) {
        turns(Stack::Asgard, &Screen::wayland(), "wayland");
    }
}

#[test]
fn swapchains_work_without_a_window_system() {
    if !require(&["mesa", "asgard"]) {
        return;
    }
    for stack in [Stack::Native, Stack::Asgard] {
        let mut command = via::command(stack, SWAPCHAIN).unwrap();
        command.arg("headless");
        if stack == Stack::Asgard {
            command.arg("--release");
        }
        via::run(command, LIMIT).unwrap().success().unwrap();
    }
}

#[test]
fn swapchains_work_in_a_window_of_x11() {
    if require(&["mesa", "asgard", "xvfb"]) {
        for stack in [Stack::Native, Stack::Asgard] {
            presents(stack, &Screen::x11(&[]), &["xcb"], (330, 240));
        }
    }
}

#[test]
fn swapchains_work_in_a_window_of_wayland() {
    if require(&["mesa", "asgard", "wayland"]) {
        for stack in [Stack::Native, Stack::Asgard] {
            presents(stack, &Screen::wayland(), &["wayland"], SCREEN);
        }
    }
}

#[test]
fn the_validation_layer_has_nothing_to_say_about_windows() {
    if require(&["mesa", "asgard", "validation", "xvfb", "wayland"]) {
        let validate = "--validate";
        presents(
            Stack::Asgard,
            &Screen::x11(&[]),
            &["xcb", validate],
            (330, 240),
        );
        presents(
            Stack::Asgard,
            &Screen::wayland(),
            &["wayland", validate],
            SCREEN,
        );
    }
}

#[test]
fn a_window_that_nobody_sees_does_not_stop_its_program() {
    if !require(&["mesa", "asgard", "wayland"]) {
        return;
    }
    let screen = Screen::wayland();
    let mut command = via::command(Stack::Asgard, SWAPCHAIN).unwrap();
    command.args(["wayland", "--hidden"]);
    screen.show(&mut command);
    via::run(command, LIMIT).unwrap().success().unwrap();
}

#[test]
fn direct3d_on_our_own_driver_paints_the_native_picture() {
    if require(&["mesa", "asgard", "vkd3d-triangle", "xvfb"]) {
        let picture = |stack| {
            let mut command = via::command(stack, "vkd3d-triangle").unwrap();
            still(
                &mut command,
                &Screen::x11(&[]),
                &format!("triangle_{stack:?}"),
            )
        };
        let (ours, native) = (picture(Stack::Asgard), picture(Stack::Native));
        assert!(ours.pixels == native.pixels, "the pictures differ");
    }
}

/// What a program paints that paints one picture and keeps it.
fn still(command: &mut Command, screen: &Screen, name: &str) -> Picture {
    screen.show(command);
    let mut child = (command.stdout(Stdio::null()).stderr(Stdio::null()))
        .spawn()
        .unwrap();
    // It may be looked at while it is painted.
    let mut last = Vec::new();
    let seen = screen.wait_for(|picture| {
        let same = picture.pixels == last;
        last.clone_from(&picture.pixels);
        same && picture.colors().len() > 100
    });
    via::end(&mut child).unwrap();
    let seen = seen.unwrap_or_else(|| panic!("{name}: no picture was seen"));
    save(&seen, name);
    seen
}

/// What `swapchain` presents last is what the screen shows, pixel for pixel.
fn presents(stack: Stack, screen: &Screen, arguments: &[&str], size: (u32, u32)) {
    let mut command = via::command(stack, SWAPCHAIN).unwrap();
    command.args(arguments);
    screen.show(&mut command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n", "{stack:?} {arguments:?}");
    let seen = screen.wait_for(|picture| picture.is_pattern(size.0, size.1));
    drop(child.stdin.take());
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    let status = child.wait().unwrap();
    assert!(
        status.success(),
        "{stack:?} {arguments:?}: {status}: {rest}"
    );
    assert!(
        seen.is_some(),
        "{stack:?} {arguments:?}: the screen shows something else"
    );
}

fn turns(stack: Stack, screen: &Screen, name: &str) {
    let mut command = screen.vkcube(stack);
    command.args(["--c", "300"]);
    via::run(command, LIMIT).unwrap().success().unwrap();

    // Once more, to look at it while it turns.
    let mut child = screen
        .vkcube(stack)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let seen = screen.wait_for(|picture| picture.has_cube(50_000));
    // More ground than the window has at first.
    let larger = if let Screen::X11(x) = screen {
        resize(x, 780, 580);
        screen.wait_for(|picture| picture.has_cube(260_000))
    } else {
        screen.wait_for(|_| true)
    };
    via::end(&mut child).unwrap();
    let picture = seen.expect("no cube was seen on the screen");
    assert!(larger.is_some(), "the picture does not follow its window");
    save(&picture, &format!("vkcube_{stack:?}_{name}"));
}

/// Writes a picture where people can look at it.
fn save(picture: &Picture, name: &str) {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.png"));
    picture.write(&path).unwrap();
    println!("see {}", path.display());
}

/// Gives all windows another size.
fn resize(x: &XServer, width: u32, height: u32) {
    use x11rb::connection::Connection as _;
    use x11rb::protocol::xproto::{ConfigureWindowAux, ConnectionExt as _};
    let (connection, screen) =
        x11rb::rust_connection::RustConnection::connect(Some(&x.display)).unwrap();
    let root = connection.setup().roots[screen].root;
    let size = ConfigureWindowAux::new()
        .x(0)
        .y(0)
        .width(width)
        .height(height);
    for window in connection
        .query_tree(root)
        .unwrap()
        .reply()
        .unwrap()
        .children
    {
        let request = connection.configure_window(window, &size).unwrap();
        request.check().unwrap();
    }
}
