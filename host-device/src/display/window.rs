//! Displays as windows of X11 or Wayland, with keyboard and pointer.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use softbuffer::{Context, Surface};
use winit::application::ApplicationHandler;
use winit::dpi::{PhysicalPosition, PhysicalSize};
use winit::event::{ElementState, MouseButton, MouseScrollDelta, WindowEvent};
use winit::event_loop::{ActiveEventLoop, EventLoop, EventLoopProxy, OwnedDisplayHandle};
use winit::keyboard::PhysicalKey;
use winit::platform::{wayland, x11};
use winit::window::{CustomCursor, Window, WindowId};

use super::{Changes, Screen, Shared, keys, texels};
use crate::virtio_gpu::gpu::Picture;
use crate::vmm::qmp::{EXTENT, Input, Qmp};

/// How far a wheel turns in a step, where only pixels are known.
const WHEEL_STEP: f64 = 40.0;

/// The thread that has them.
#[derive(Debug)]
pub(super) struct Windows {
    proxy: EventLoopProxy<()>,
    /// It was woken, and has not looked yet.
    woken: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Windows {
    pub(super) fn start(shared: &Arc<Shared>, qmp: Option<PathBuf>) -> io::Result<Self> {
        let qmp = qmp.map(Qmp::start).transpose()?;
        let woken = Arc::new(AtomicBool::new(false));
        let (shared, also) = (Arc::clone(shared), Arc::clone(&woken));
        let (tell, told) = channel();
        let thread = std::thread::Builder::new()
            .name("windows".to_owned())
            .spawn(move || run(shared, also, qmp, &tell))?;
        match told.recv() {
            Ok(Ok(proxy)) => Ok(Self {
                proxy,
                woken,
                thread,
            }),
            Ok(Err(error)) => Err(io::Error::other(error)),
            Err(_) => Err(io::Error::other("a library for windows is missing")),
        }
    }

    /// Something has changed.
    pub(super) fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            // Whoever has closed the connection to the screen sees nothing more.
            let _ = self.proxy.send_event(());
        }
    }

    pub(super) fn join(self) {
        let _ = self.thread.join();
    }
}

fn run(
    shared: Arc<Shared>,
    woken: Arc<AtomicBool>,
    qmp: Option<Qmp>,
    tell: &Sender<Result<EventLoopProxy<()>, String>>,
) {
    let mut builder = EventLoop::with_user_event();
    x11::EventLoopBuilderExtX11::with_any_thread(&mut builder, true);
    wayland::EventLoopBuilderExtWayland::with_any_thread(&mut builder, true);
    let started = builder.build().map_err(|error| error.to_string());
    let started = started.and_then(|events| {
        let context = Context::new(events.owned_display_handle());
        Ok((events, context.map_err(|error| error.to_string())?))
    });
    let (events, context) = match started {
        Ok(started) => started,
        Err(error) => {
            let _ = tell.send(Err(error));
            return;
        }
    };
    let _ = tell.send(Ok(events.create_proxy()));
    let mut screens = Screens {
        shared,
        woken,
        qmp,
        context,
        views: BTreeMap::new(),
    };
    if let Err(error) = events.run_app(&mut screens) {
        tracing::error!("the windows are gone: {error}");
    }
}

struct Screens {
    shared: Arc<Shared>,
    woken: Arc<AtomicBool>,
    qmp: Option<Qmp>,
    context: Context<OwnedDisplayHandle>,
    /// By display.
    views: BTreeMap<usize, View>,
}

impl ApplicationHandler<()> for Screens {
    fn resumed(&mut self, _events: &ActiveEventLoop) {}

    fn user_event(&mut self, events: &ActiveEventLoop, (): ()) {
        self.woken.store(false, Ordering::Release);
        let shared = Arc::clone(&self.shared);
        let state = shared.state.lock();
        if state.ended {
            events.exit();
            return;
        }
        let screens: Vec<(usize, Screen)> = state
            .screens
            .iter()
            .map(|(scanout, screen)| (*scanout, screen.clone()))
            .collect();
        drop(state);
        for (scanout, screen) in screens {
            if let Err(error) = self.follow(events, scanout, screen) {
                tracing::error!("cannot show display {scanout}: {error}");
            }
        }
    }

    fn window_event(&mut self, events: &ActiveEventLoop, id: WindowId, event: WindowEvent) {
        let found = self.views.values_mut().find(|view| view.window.id() == id);
        let Some(view) = found else {
            return;
        };
        match event {
            WindowEvent::RedrawRequested => {
                if let Err(error) = view.paint() {
                    tracing::error!("cannot show a display: {error}");
                }
            }
            WindowEvent::Resized(_) => view.window.request_redraw(),
            // Without a way to tell the machine, there is nothing to do but to look away.
            WindowEvent::CloseRequested if self.qmp.is_none() => view.window.set_visible(false),
            WindowEvent::Destroyed => events.exit(),
            event => {
                let tell = |input| {
                    if let Some(qmp) = &self.qmp {
                        qmp.send(input);
                    }
                };
                view.hear(&event, tell);
            }
        }
    }
}

impl Screens {
    /// Shows what has changed on a display.
    fn follow(
        &mut self,
        events: &ActiveEventLoop,
        scanout: usize,
        screen: Screen,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let Some(view) = self.views.get_mut(&scanout) else {
            if let Some(picture) = &screen.picture {
                let mut view = View::open(events, &self.context, scanout, picture)?;
                view.follow(events, screen)?;
                self.views.insert(scanout, view);
            }
            return Ok(());
        };
        view.follow(events, screen)
    }
}

/// One window.
struct View {
    window: Rc<Window>,
    surface: Surface<OwnedDisplayHandle, Rc<Window>>,
    seen: Changes,
    picture: Shown,
    /// What is held down, and has to come up when the window is left.
    keys: BTreeSet<&'static str>,
    buttons: BTreeSet<&'static str>,
    /// Pixels that the wheel has turned and no step has been told of.
    turned: PhysicalPosition<f64>,
    /// The guest was asked to shut down.
    asked: bool,
}

impl View {
    fn open(
        events: &ActiveEventLoop,
        context: &Context<OwnedDisplayHandle>,
        scanout: usize,
        picture: &Picture,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let title = match scanout {
            0 => "Asgard".to_owned(),
            other => format!("Asgard: display {other}"),
        };
        let attributes = Window::default_attributes()
            .with_title(title)
            .with_inner_size(PhysicalSize::new(picture.width, picture.height));
        let window = Rc::new(events.create_window(attributes)?);
        let surface = Surface::new(context, Rc::clone(&window))?;
        Ok(Self {
            window,
            surface,
            seen: Changes::default(),
            picture: Shown::default(),
            keys: BTreeSet::new(),
            buttons: BTreeSet::new(),
            turned: PhysicalPosition::default(),
            asked: false,
        })
    }

    fn follow(
        &mut self,
        events: &ActiveEventLoop,
        screen: Screen,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let seen = std::mem::replace(&mut self.seen, screen.changes);
        if seen.picture != screen.changes.picture {
            let shown = screen
                .picture
                .map(|picture| Shown::new(&picture))
                .unwrap_or_default();
            let size = (shown.width, shown.height);
            if size != (self.picture.width, self.picture.height) && shown.width > 0 {
                let _ = self
                    .window
                    .request_inner_size(PhysicalSize::new(size.0, size.1));
            }
            self.picture = shown;
            self.window.request_redraw();
        }
        if seen.cursor != screen.changes.cursor {
            self.window.set_cursor_visible(screen.cursor.is_some());
            if let Some(cursor) = &screen.cursor {
                let rgba: Vec<u8> = texels(cursor)
                    .flat_map(|([r, g, b], alpha)| [r, g, b, alpha])
                    .collect();
                let size = |pixels: u32| u16::try_from(pixels).unwrap_or(u16::MAX);
                let hot = |at: u32, extent: u32| size(at.min(extent.saturating_sub(1)));
                let source = CustomCursor::from_rgba(
                    rgba,
                    size(cursor.width),
                    size(cursor.height),
                    hot(screen.place.hot_x, cursor.width),
                    hot(screen.place.hot_y, cursor.height),
                )?;
                self.window.set_cursor(events.create_custom_cursor(source));
            }
        }
        Ok(())
    }

    fn paint(&mut self) -> Result<(), Box<dyn std::error::Error>> {
        let size = self.window.inner_size();
        let (Some(width), Some(height)) =
            (NonZeroU32::new(size.width), NonZeroU32::new(size.height))
        else {
            return Ok(());
        };
        self.surface.resize(width, height)?;
        let mut buffer = self.surface.buffer_mut()?;
        self.picture.scale(&mut buffer, size.width, size.height);
        self.window.pre_present_notify();
        buffer.present()?;
        Ok(())
    }

    /// Passes on what is typed and pointed at.
    fn hear(&mut self, event: &WindowEvent, tell: impl Fn(Input)) {
        match event {
            WindowEvent::KeyboardInput {
                event,
                is_synthetic: false,
                ..
            } => {
                let PhysicalKey::Code(code) = event.physical_key else {
                    return;
                };
                // The guest repeats keys by itself.
                if let (Some(name), false) = (keys::name(code), event.repeat) {
                    let down = event.state == ElementState::Pressed;
                    if hold(&mut self.keys, name, down) {
                        tell(Input::Key(name, down));
                    }
                }
            }
            WindowEvent::MouseInput { state, button, .. } => {
                let name = match button {
                    MouseButton::Left => "left",
                    MouseButton::Right => "right",
                    MouseButton::Middle => "middle",
                    MouseButton::Back => "side",
                    MouseButton::Forward => "extra",
                    MouseButton::Other(_) => return,
                };
                let down = *state == ElementState::Pressed;
                if hold(&mut self.buttons, name, down) {
                    tell(Input::Button(name, down));
                }
            }
            WindowEvent::CursorMoved { position, .. } => {
                let size = self.window.inner_size();
                if let Some((x, y)) = self.picture.point(*position, size) {
                    tell(Input::Point(x, y));
                }
            }
            WindowEvent::MouseWheel { delta, .. } => {
                let (x, y) = match delta {
                    MouseScrollDelta::LineDelta(x, y) => {
                        (f64::from(*x) * WHEEL_STEP, f64::from(*y) * WHEEL_STEP)
                    }
                    MouseScrollDelta::PixelDelta(pixels) => (pixels.x, pixels.y),
                };
                turn(&mut self.turned.x, x, ["wheel-right", "wheel-left"], &tell);
                turn(&mut self.turned.y, y, ["wheel-down", "wheel-up"], &tell);
            }
            WindowEvent::Focused(false) => {
                for name in std::mem::take(&mut self.keys) {
                    tell(Input::Key(name, false));
                }
                for name in std::mem::take(&mut self.buttons) {
                    tell(Input::Button(name, false));
                }
            }
            WindowEvent::CloseRequested => {
                let again = std::mem::replace(&mut self.asked, true);
                tell(if again { Input::Quit } else { Input::Power });
            }
            _ => {}
        }
    }
}

/// Notes what is held down; true if that changes anything.
fn hold(held: &mut BTreeSet<&'static str>, name: &'static str, down: bool) -> bool {
    if down {
        held.insert(name)
    } else {
        held.remove(name)
    }
}

/// Turns the wheel by so many pixels: a press of a button for each whole step.
fn turn(turned: &mut f64, by: f64, [less, more]: [&'static str; 2], tell: &impl Fn(Input)) {
    *turned += by.clamp(-10.0 * WHEEL_STEP, 10.0 * WHEEL_STEP);
    while turned.abs() >= WHEEL_STEP {
        let name = if *turned > 0.0 { more } else { less };
        *turned -= WHEEL_STEP.copysign(*turned);
        tell(Input::Button(name, true));
        tell(Input::Button(name, false));
    }
}

/// A picture as windows want it.
#[derive(Debug, Default)]
struct Shown {
    width: u32,
    height: u32,
    /// Blue in the lowest byte, then green and red.
    pixels: Vec<u32>,
}

impl Shown {
    fn new(picture: &Picture) -> Self {
        Self {
            width: picture.width,
            height: picture.height,
            pixels: texels(picture)
                .map(|([r, g, b], _)| u32::from_be_bytes([0, r, g, b]))
                .collect(),
        }
    }

    /// The largest place for it in a window that leaves its shape: left, top, width and height.
    fn place(&self, width: u32, height: u32) -> Option<[u32; 4]> {
        let (wide, high) = (u64::from(self.width), u64::from(self.height));
        if wide == 0 || high == 0 || width == 0 || height == 0 {
            return None;
        }
        let fit = |a: u64, b: u64, c: u64| u32::try_from((a * b / c).max(1)).unwrap_or(u32::MAX);
        let (w, h) = if u64::from(width) * high <= u64::from(height) * wide {
            (width, fit(width.into(), high, wide))
        } else {
            (fit(height.into(), wide, high), height)
        };
        Some([
            (width - w.min(width)) / 2,
            (height - h.min(height)) / 2,
            w,
            h,
        ])
    }

    /// Fills a window with it; what is left over is black.
    fn scale(&self, window: &mut [u32], width: u32, height: u32) {
        if (self.width, self.height) == (width, height) && window.len() == self.pixels.len() {
            window.copy_from_slice(&self.pixels);
            return;
        }
        window.fill(0);
        let Some([left, top, w, h]) = self.place(width, height) else {
            return;
        };
        let rows = window.chunks_mut(width as usize).skip(top as usize);
        for (y, row) in (0..h).zip(rows) {
            let from = u64::from(y) * u64::from(self.height) / u64::from(h);
            let from = from as usize * self.width as usize;
            for (x, pixel) in (0..w).zip(row.iter_mut().skip(left as usize)) {
                let at = u64::from(x) * u64::from(self.width) / u64::from(w);
                *pixel = self.pixels.get(from + at as usize).copied().unwrap_or(0);
            }
        }
    }

    /// Where a point of the window is on the display.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the value is between 0 and EXTENT"
    )]
    fn point(&self, at: PhysicalPosition<f64>, size: PhysicalSize<u32>) -> Option<(u16, u16)> {
        let [left, top, w, h] = self.place(size.width, size.height)?;
        let part = |at: f64, start: u32, extent: u32| {
            let part = (at - f64::from(start)) / f64::from(extent);
            (part.clamp(0.0, 1.0) * f64::from(EXTENT)) as u16
        };
        Some((part(at.x, left, w), part(at.y, top, h)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::display::test_picture;

    fn four() -> Shown {
        // Two by two, VIRTIO_GPU_FORMAT_B8G8R8X8_UNORM.
        let pixels = [1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0];
        Shown::new(&test_picture(2, 2, &pixels))
    }

    fn scaled(width: u32, height: u32) -> Vec<u32> {
        let mut window = vec![9; width as usize * height as usize];
        four().scale(&mut window, width, height);
        window
    }

    #[test]
    fn a_picture_fills_its_window_and_keeps_its_shape() {
        assert_eq!(scaled(2, 2), [1, 2, 3, 4]);
        assert_eq!(scaled(4, 2), [0, 1, 2, 0, 0, 3, 4, 0]);
        assert_eq!(scaled(2, 3), [1, 2, 3, 4, 0, 0]);
        assert_eq!(scaled(1, 1), [1]);
        let large = scaled(4, 4);
        assert_eq!(large[..8], [1, 1, 2, 2, 1, 1, 2, 2]);
        let mut nothing = [9; 4];
        Shown::default().scale(&mut nothing, 2, 2);
        assert_eq!(nothing, [0; 4]);
    }

    #[test]
    fn a_point_is_a_part_of_the_display() {
        let at = |x, y| {
            let size = PhysicalSize::new(400, 200);
            four().point(PhysicalPosition::new(x, y), size)
        };
        assert_eq!(at(100.0, 0.0), Some((0, 0)));
        assert_eq!(at(300.0, 200.0), Some((EXTENT, EXTENT)));
        assert_eq!(at(200.0, 100.0), Some((EXTENT / 2, EXTENT / 2)));
        assert_eq!(at(-5.0, 999.0), Some((0, EXTENT)));
        let nowhere =
            Shown::default().point(PhysicalPosition::new(1.0, 1.0), PhysicalSize::new(2, 2));
        assert_eq!(nowhere, None);
    }

    #[test]
    fn the_wheel_turns_in_whole_steps() {
        let told = std::cell::RefCell::new(Vec::new());
        let tell = |input| told.borrow_mut().push(input);
        let mut turned = 0.0;
        for by in [15.0, 15.0, 15.0, -50.0] {
            turn(&mut turned, by, ["wheel-down", "wheel-up"], &tell);
        }
        let pressed = |name| [Input::Button(name, true), Input::Button(name, false)];
        assert_eq!(
            told.into_inner(),
            [pressed("wheel-up"), pressed("wheel-down")].concat()
        );
    }
}
