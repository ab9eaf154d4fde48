//! Windows of X11, through a connection of our own to the application's server.

use std::time::Instant;

use asgard_protocol::types::*;
use memmap2::MmapMut;
use parking_lot::Mutex;
use x11rb::connection::{Connection, RequestConnection};
use x11rb::protocol::shm::{self, ConnectionExt as _};
use x11rb::protocol::xproto::{
    ConnectionExt as _, CreateGCAux, Gcontext, GetGeometryReply, ImageFormat, ImageOrder,
};
use x11rb::rust_connection::RustConnection;

use super::{FRAME, Gone, Picture, Window, library, share};

/// The application's own way to the server.
#[derive(Debug)]
enum Client {
    Xcb(usize),
    Xlib(usize),
}

impl Client {
    /// Sends what the application has asked for: its window may be among it.
    fn flush(&self) {
        // SAFETY: the specification lets an application end its connection only after its surfaces.
        unsafe {
            match self {
                Self::Xcb(connection) => library::flush_xcb(*connection as *mut _),
                Self::Xlib(display) => library::flush_xlib(*display as *mut _),
            }
        }
    }
}

pub(crate) struct X11 {
    client: Client,
    connection: RustConnection,
    window: u32,
    gc: Gcontext,
    depth: u8,
    canvas: Mutex<Canvas>,
    /// When the next frame may be shown that waits for its turn.
    next: Mutex<Instant>,
}

impl std::fmt::Debug for X11 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "X11 window {:#x}", self.window)
    }
}

/// What the server draws from.
enum Canvas {
    /// The server may not share memory with us: it is sent.
    Sent(Vec<u8>),
    /// The server shares memory with us, where it has made room for a picture.
    Shared(Option<Segment>),
}

struct Segment {
    id: shm::Seg,
    memory: MmapMut,
}

impl X11 {
    /// The window of a `VkXcbSurfaceCreateInfoKHR`.
    ///
    /// # Safety
    /// Its connection is alive, and outlives the window.
    pub(crate) unsafe fn of_xcb(info: &VkXcbSurfaceCreateInfoKHR) -> Result<Self, Gone> {
        // The connection does not say where it leads; applications hardly ever name a server by themselves.
        Self::open(Client::Xcb(info.connection as usize), None, info.window)
    }

    /// The window of a `VkXlibSurfaceCreateInfoKHR`.
    ///
    /// # Safety
    /// Its display is alive, and outlives the window.
    pub(crate) unsafe fn of_xlib(info: &VkXlibSurfaceCreateInfoKHR) -> Result<Self, Gone> {
        // SAFETY: the caller's promise.
        let name = unsafe { library::display_name(info.dpy) };
        let window = u32::try_from(info.window).map_err(|_| Gone)?;
        Self::open(Client::Xlib(info.dpy as usize), name.as_deref(), window)
    }

    fn open(client: Client, display: Option<&str>, window: u32) -> Result<Self, Gone> {
        client.flush();
        let (connection, _) = RustConnection::connect(display).map_err(|error| {
            eprintln!("asgard: the X server cannot be reached: {error}");
            Gone
        })?;
        let depth = geometry(&connection, window)?.depth;
        let setup = connection.setup();
        let four_bytes = setup
            .pixmap_formats
            .iter()
            .any(|f| f.depth == depth && f.bits_per_pixel == 32);
        if !matches!(depth, 24 | 32)
            || !four_bytes
            || setup.image_byte_order != ImageOrder::LSB_FIRST
        {
            eprintln!("asgard: a window of {depth} bits for each pixel cannot be drawn in");
            return Err(Gone);
        }
        let gc = connection.generate_id().map_err(|_| Gone)?;
        connection
            .create_gc(gc, window, &CreateGCAux::new().graphics_exposures(0))
            .map_err(|_| Gone)?
            .ignore_error();
        let named = display.map(str::to_owned);
        let name = named.or_else(|| std::env::var("DISPLAY").ok());
        // Descriptors travel on local sockets alone.
        let local = name.is_some_and(|n| n.starts_with(':') || n.starts_with("unix"));
        let canvas = if local && shares_memory(&connection) {
            Canvas::Shared(None)
        } else {
            Canvas::Sent(Vec::new())
        };
        Ok(Self {
            client,
            connection,
            window,
            gc,
            depth,
            canvas: Mutex::new(canvas),
            next: Mutex::new(Instant::now()),
        })
    }

    /// Whether the server would heed an alpha that is to be without effect.
    fn fills(&self, picture: Picture<'_>) -> bool {
        picture.opaque && self.depth == 32
    }

    /// Draws from memory that the server shares; false if it does not.
    fn draw_shared(&self, slot: &mut Option<Segment>, picture: Picture<'_>) -> Result<bool, Gone> {
        let len = picture.pixels.len();
        if slot.as_ref().is_none_or(|s| s.memory.len() < len) {
            if let Some(old) = slot.take() {
                self.connection
                    .shm_detach(old.id)
                    .map_err(|_| Gone)?
                    .ignore_error();
            }
            let Ok((fd, memory)) = share(len) else {
                return Ok(false);
            };
            let id = self.connection.generate_id().map_err(|_| Gone)?;
            let attached = self
                .connection
                .shm_attach_fd(id, fd, true)
                .map_err(|_| Gone)?;
            if attached.check().is_err() {
                return Ok(false);
            }
            *slot = Some(Segment { id, memory });
        }
        let Some(segment) = slot else {
            return Ok(false);
        };
        for part in picture.damage.unwrap_or(&[picture.whole()]) {
            let VkRect2D { offset, extent } = *part;
            picture.copy(*part, self.fills(picture), &mut segment.memory[..len]);
            self.connection
                .shm_put_image(
                    self.window,
                    self.gc,
                    picture.extent.width as u16,
                    picture.extent.height as u16,
                    offset.x as u16,
                    offset.y as u16,
                    extent.width as u16,
                    extent.height as u16,
                    offset.x as i16,
                    offset.y as i16,
                    self.depth,
                    ImageFormat::Z_PIXMAP.into(),
                    false,
                    segment.id,
                    0,
                )
                .map_err(|_| Gone)?
                .ignore_error();
        }
        Ok(true)
    }

    /// Sends the pixels, in as many requests as the server's limit takes.
    fn draw_sent(&self, pixels: &mut Vec<u8>, picture: Picture<'_>) -> Result<(), Gone> {
        pixels.resize(picture.pixels.len(), 0);
        picture.copy(picture.whole(), self.fills(picture), pixels);
        let pitch = picture.extent.width as usize * 4;
        let room = self.connection.maximum_request_bytes().saturating_sub(64);
        let rows = (room / pitch.max(1)).max(1);
        let mut y = 0;
        for part in pixels.chunks(rows * pitch.max(1)) {
            let height = (part.len() / pitch) as u16;
            self.connection
                .put_image(
                    ImageFormat::Z_PIXMAP,
                    self.window,
                    self.gc,
                    picture.extent.width as u16,
                    height,
                    0,
                    y,
                    0,
                    self.depth,
                    part,
                )
                .map_err(|_| Gone)?
                .ignore_error();
            y = y.saturating_add_unsigned(height);
        }
        Ok(())
    }
}

impl Window for X11 {
    fn extent(&self) -> Result<Option<VkExtent2D>, Gone> {
        self.client.flush();
        extent(&self.connection, self.window)
    }

    fn modes(&self) -> &'static [VkPresentModeKHR] {
        &[
            VK_PRESENT_MODE_FIFO_KHR,
            VK_PRESENT_MODE_MAILBOX_KHR,
            VK_PRESENT_MODE_IMMEDIATE_KHR,
        ]
    }

    fn alphas(&self) -> VkCompositeAlphaFlagsKHR {
        VK_COMPOSITE_ALPHA_OPAQUE_BIT_KHR | VK_COMPOSITE_ALPHA_INHERIT_BIT_KHR
    }

    fn draw(&self, picture: Picture<'_>) -> Result<Option<VkExtent2D>, Gone> {
        let mut canvas = self.canvas.lock();
        let shared = match &mut *canvas {
            Canvas::Shared(slot) => self.draw_shared(slot, picture)?,
            Canvas::Sent(_) => false,
        };
        if !shared {
            if let Canvas::Shared(_) = *canvas {
                *canvas = Canvas::Sent(Vec::new());
            }
            if let Canvas::Sent(pixels) = &mut *canvas {
                self.draw_sent(pixels, picture)?;
            }
        }
        // The server answers in order: afterwards it does not need the pixels any more.
        extent(&self.connection, self.window)
    }

    fn turn(&self) -> Result<(), Gone> {
        let now = Instant::now();
        let until = {
            let mut next = self.next.lock();
            *next = (*next + FRAME).max(now);
            *next
        };
        std::thread::sleep(until - now);
        Ok(())
    }
}

fn geometry(connection: &RustConnection, window: u32) -> Result<GetGeometryReply, Gone> {
    let cookie = connection.get_geometry(window).map_err(|_| Gone)?;
    cookie.reply().map_err(|_| Gone)
}

fn extent(connection: &RustConnection, window: u32) -> Result<Option<VkExtent2D>, Gone> {
    let geometry = geometry(connection, window)?;
    Ok(Some(VkExtent2D {
        width: geometry.width.into(),
        height: geometry.height.into(),
    }))
}

/// Whether the server takes descriptors of memory.
fn shares_memory(connection: &RustConnection) -> bool {
    let known = connection.extension_information(shm::X11_EXTENSION_NAME);
    if !matches!(known, Ok(Some(_))) {
        return false;
    }
    let version = connection
        .shm_query_version()
        .ok()
        .and_then(|c| c.reply().ok());
    version.is_some_and(|v| (v.major_version, v.minor_version) >= (1, 2))
}
