//! Windows of Wayland: pictures in memory that the compositor shares, on the application's own connection,
//! with an event queue of this driver's own.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use asgard_protocol::types::*;
use memmap2::MmapMut;
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use wayland_client::backend::{Backend, ObjectId, WaylandError};
use wayland_client::protocol::wl_buffer::{self, WlBuffer};
use wayland_client::protocol::wl_callback::{self, WlCallback};
use wayland_client::protocol::wl_registry::{self, WlRegistry};
use wayland_client::protocol::wl_shm::{Format, WlShm};
use wayland_client::protocol::wl_shm_pool::WlShmPool;
use wayland_client::protocol::wl_surface::WlSurface;
use wayland_client::{Connection, Dispatch, EventQueue, Proxy as _, QueueHandle, delegate_noop};

use super::{Gone, Picture, Window, library, share};

/// How long a frame waits for a compositor that says nothing: one that does not show the window never does.
const PATIENCE: Duration = Duration::from_millis(250);

/// How many pictures the compositor may hold on to.
const CANVASES: usize = 4;

pub(crate) struct Wayland {
    surface: WlSurface,
    screen: Mutex<Screen>,
    gone: AtomicBool,
}

impl std::fmt::Debug for Wayland {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Wayland {}", self.surface.id())
    }
}

struct Screen {
    // Before the queue, which they belong to.
    canvases: Vec<Canvas>,
    shm: WlShm,
    /// A picture was not drawn.
    missed: bool,
    state: State,
    queue: EventQueue<State>,
    connection: Connection,
}

/// What events say.
#[derive(Default)]
struct State {
    shm: Option<WlShm>,
    /// The compositor is yet to say that a frame was shown.
    unseen: bool,
}

/// What the compositor reads one picture from.
struct Canvas {
    buffer: WlBuffer,
    memory: MmapMut,
    kind: Kind,
    /// The compositor does not read it.
    free: Arc<AtomicBool>,
}

#[derive(Clone, Copy, PartialEq)]
struct Kind {
    width: u32,
    height: u32,
    opaque: bool,
}

impl Drop for Canvas {
    fn drop(&mut self) {
        self.buffer.destroy();
    }
}

impl Dispatch<WlRegistry, ()> for State {
    fn event(
        state: &mut Self,
        registry: &WlRegistry,
        event: wl_registry::Event,
        (): &(),
        _: &Connection,
        queue: &QueueHandle<Self>,
    ) {
        if let wl_registry::Event::Global {
            name, interface, ..
        } = event
            && interface == WlShm::interface().name
        {
            state.shm = Some(registry.bind(name, 1, queue, ()));
        }
    }
}

impl Dispatch<WlCallback, ()> for State {
    fn event(
        state: &mut Self,
        _: &WlCallback,
        _: wl_callback::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        state.unseen = false;
    }
}

impl Dispatch<WlBuffer, Arc<AtomicBool>> for State {
    fn event(
        _: &mut Self,
        _: &WlBuffer,
        event: wl_buffer::Event,
        free: &Arc<AtomicBool>,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if matches!(event, wl_buffer::Event::Release) {
            free.store(true, Ordering::Relaxed);
        }
    }
}

// Every compositor takes the two formats that are used here.
delegate_noop!(State: ignore WlShm);
delegate_noop!(State: WlShmPool);

impl Wayland {
    /// The window of a `VkWaylandSurfaceCreateInfoKHR`.
    ///
    /// # Safety
    /// Its display and surface are alive, and outlive the window.
    pub(crate) unsafe fn of(info: &VkWaylandSurfaceCreateInfoKHR) -> Result<Self, Gone> {
        if !library::has_wayland() {
            return Err(Gone);
        }
        // SAFETY: the caller's promise.
        let (backend, id) = unsafe {
            let backend = Backend::from_foreign_display(info.display.cast());
            let id = ObjectId::from_ptr(WlSurface::interface(), info.surface.cast());
            (backend, id.map_err(|_| Gone)?)
        };
        let connection = Connection::from_backend(backend);
        let surface = WlSurface::from_id(&connection, id).map_err(|_| Gone)?;
        let mut queue = connection.new_event_queue::<State>();
        connection.display().get_registry(&queue.handle(), ());
        let mut state = State::default();
        queue.roundtrip(&mut state).map_err(|error| {
            eprintln!("asgard: the Wayland compositor does not answer: {error}");
            Gone
        })?;
        let Some(shm) = state.shm.take() else {
            eprintln!("asgard: the Wayland compositor shares no memory (it has no wl_shm)");
            return Err(Gone);
        };
        Ok(Self {
            surface,
            screen: Mutex::new(Screen {
                canvases: Vec::new(),
                shm,
                missed: false,
                state,
                queue,
                connection,
            }),
            gone: AtomicBool::new(false),
        })
    }

    /// Remembers that the connection is of no use any more.
    fn note<T>(&self, result: Result<T, Gone>) -> Result<T, Gone> {
        if result.is_err() {
            self.gone.store(true, Ordering::Relaxed);
        }
        result
    }

    fn show(&self, screen: &mut Screen, picture: Picture<'_>) -> Result<(), Gone> {
        let Some(index) = screen.canvas(picture)? else {
            // The compositor holds on to all of them: it has no use for another.
            screen.missed = true;
            return Ok(());
        };
        let missed = std::mem::take(&mut screen.missed);
        let handle = screen.queue.handle();
        let canvas = &mut screen.canvases[index];
        // What it held is older than the picture before this one. The format says whether alpha counts.
        picture.copy(picture.whole(), false, &mut canvas.memory);
        canvas.free.store(false, Ordering::Relaxed);
        let surface = &self.surface;
        surface.attach(Some(&canvas.buffer), 0, 0);
        if surface.version() >= 4 {
            let parts = picture.damage.filter(|_| !missed);
            for VkRect2D { offset, extent } in parts.unwrap_or(&[picture.whole()]) {
                let (width, height) = (extent.width as i32, extent.height as i32);
                surface.damage_buffer(offset.x, offset.y, width, height);
            }
        } else {
            // In a scale of the application's.
            surface.damage(0, 0, i32::MAX, i32::MAX);
        }
        if !screen.state.unseen {
            screen.state.unseen = true;
            surface.frame(&handle, ());
        }
        surface.commit();
        screen.flush()
    }
}

impl Window for Wayland {
    fn extent(&self) -> Result<Option<VkExtent2D>, Gone> {
        if self.gone.load(Ordering::Relaxed) {
            return Err(Gone);
        }
        Ok(None)
    }

    fn modes(&self) -> &'static [VkPresentModeKHR] {
        // Pictures of a compositor do not tear.
        &[VK_PRESENT_MODE_FIFO_KHR, VK_PRESENT_MODE_MAILBOX_KHR]
    }

    fn alphas(&self) -> VkCompositeAlphaFlagsKHR {
        VK_COMPOSITE_ALPHA_OPAQUE_BIT_KHR | VK_COMPOSITE_ALPHA_PRE_MULTIPLIED_BIT_KHR
    }

    fn draw(&self, picture: Picture<'_>) -> Result<Option<VkExtent2D>, Gone> {
        let shown = self.show(&mut self.screen.lock(), picture);
        self.note(shown.map(|()| None))
    }

    fn turn(&self) -> Result<(), Gone> {
        let seen = self.screen.lock().wait(|screen| !screen.state.unseen);
        self.note(seen.map(|_| ()))
    }
}

impl Screen {
    /// A canvas for this picture that the compositor does not read; none if it reads all of them.
    fn canvas(&mut self, picture: Picture<'_>) -> Result<Option<usize>, Gone> {
        let VkExtent2D { width, height } = picture.extent;
        let opaque = picture.opaque;
        let kind = Kind {
            width,
            height,
            opaque,
        };
        // The compositor keeps what it still shows of these.
        self.canvases.retain(|c| c.kind == kind);
        let free = |screen: &Self| {
            let mut canvases = screen.canvases.iter();
            canvases.position(|c| c.free.load(Ordering::Relaxed))
        };
        self.queue
            .dispatch_pending(&mut self.state)
            .map_err(|_| Gone)?;
        if free(self).is_none() && self.canvases.len() < CANVASES {
            let canvas = self.make(kind)?;
            self.canvases.push(canvas);
        }
        self.wait(|screen| free(screen).is_some())?;
        Ok(free(self))
    }

    fn make(&self, kind: Kind) -> Result<Canvas, Gone> {
        let limits = i32::try_from(kind.width * 4).ok();
        let (pitch, height) = limits.zip(i32::try_from(kind.height).ok()).ok_or(Gone)?;
        let size = pitch.checked_mul(height).ok_or(Gone)?;
        let (fd, memory) = share(size as usize).map_err(|error| {
            eprintln!("asgard: no {size} bytes for a picture: {error}");
            Gone
        })?;
        let format = if kind.opaque {
            Format::Xrgb8888
        } else {
            Format::Argb8888
        };
        let free = Arc::new(AtomicBool::new(true));
        let handle = self.queue.handle();
        let pool = self.shm.create_pool(fd.as_fd(), size, &handle, ());
        let buffer = pool.create_buffer(0, pitch / 4, height, pitch, format, &handle, free.clone());
        pool.destroy();
        Ok(Canvas {
            buffer,
            memory,
            kind,
            free,
        })
    }

    /// Handles events until this holds; false if it does not in time.
    fn wait(&mut self, holds: impl Fn(&Self) -> bool) -> Result<bool, Gone> {
        let end = Instant::now() + PATIENCE;
        loop {
            self.queue
                .dispatch_pending(&mut self.state)
                .map_err(|_| Gone)?;
            if holds(self) {
                return Ok(true);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            self.flush()?;
            // None: there are events already.
            let Some(reading) = self.queue.prepare_read() else {
                continue;
            };
            if ready(reading.connection_fd(), PollFlags::IN, left)? {
                match reading.read() {
                    Err(error) if !would_block(&error) => return Err(Gone),
                    _ => {}
                }
            }
        }
    }

    /// Sends what was asked of the compositor.
    fn flush(&self) -> Result<(), Gone> {
        loop {
            match self.connection.flush() {
                Ok(()) => return Ok(()),
                Err(error) if would_block(&error) => {
                    let fd = self.connection.backend();
                    if !ready(fd.poll_fd(), PollFlags::OUT, PATIENCE)? {
                        // What is left goes with what comes next.
                        return Ok(());
                    }
                }
                Err(_) => return Err(Gone),
            }
        }
    }
}

fn would_block(error: &WaylandError) -> bool {
    matches!(error, WaylandError::Io(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

/// Whether a descriptor becomes ready in time.
fn ready(fd: BorrowedFd<'_>, wanted: PollFlags, limit: Duration) -> Result<bool, Gone> {
    let mut fds = [PollFd::from_borrowed_fd(fd, wanted)];
    let limit = Timespec {
        tv_sec: limit.as_secs() as i64,
        tv_nsec: limit.subsec_nanos().into(),
    };
    match poll(&mut fds, Some(&limit)) {
        Ok(count) => Ok(count > 0),
        Err(Errno::INTR) => Ok(false),
        Err(_) => Err(Gone),
    }
}
