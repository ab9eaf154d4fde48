//! What the displays of a virtual machine show, for those who look: picture files and windows.
//!
//! The device hands over every picture and goes on; a looker has a thread of its own and takes the newest
//! picture when it is ready for one. Pictures that come faster than that are left out, and the last one is
//! always shown.

mod files;
mod keys;
mod window;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use self::files::Files;
use self::window::Windows;
use crate::virtio_gpu::gpu::{CursorPlace, Picture, Show};
use crate::virtio_gpu::protocol::channels;

/// Who looks.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A folder for the newest picture of each display; it is made if there is none.
    pub frames: Option<PathBuf>,
    /// Whether each display has a window.
    pub windows: bool,
    /// QEMU's control socket, which takes what is typed and pointed at in the windows.
    pub qmp: Option<PathBuf>,
}

/// How often parts of a display have changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Changes {
    picture: u64,
    cursor: u64,
    place: u64,
}

#[derive(Clone, Debug, Default)]
struct Screen {
    picture: Option<Arc<Picture>>,
    cursor: Option<Arc<Picture>>,
    place: CursorPlace,
    changes: Changes,
}

#[derive(Debug, Default)]
struct State {
    screens: BTreeMap<usize, Screen>,
    ended: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    change: Condvar,
}

/// The device's end.
#[derive(Debug)]
pub struct Display {
    shared: Arc<Shared>,
    files: Option<Files>,
    windows: Option<Windows>,
}

impl Display {
    /// Starts whoever looks; `None` if nobody does.
    pub fn start(options: Options) -> io::Result<Option<Self>> {
        if options.frames.is_none() && !options.windows {
            return Ok(None);
        }
        let shared = Arc::new(Shared::default());
        let files = options.frames.map(|folder| Files::start(&shared, folder));
        let windows = options
            .windows
            .then(|| Windows::start(&shared, options.qmp));
        Ok(Some(Self {
            files: files.transpose()?,
            windows: windows.transpose()?,
            shared,
        }))
    }

    /// Something happens on a display.
    pub fn show(&self, scanout: usize, what: Show) {
        let mut state = self.shared.state.lock();
        let screen = state.screens.entry(scanout).or_default();
        let changes = &mut screen.changes;
        match what {
            Show::Frame(picture) => {
                screen.picture = Some(Arc::new(picture));
                changes.picture += 1;
            }
            Show::Off => {
                screen.picture = None;
                changes.picture += 1;
            }
            Show::Cursor(cursor, place) => {
                (screen.cursor, screen.place) = (cursor.map(Arc::new), place);
                changes.cursor += 1;
            }
            Show::Move(place) => {
                screen.place = place;
                changes.place += 1;
            }
        }
        drop(state);
        self.tell();
    }

    fn tell(&self) {
        self.shared.change.notify_all();
        if let Some(windows) = &self.windows {
            windows.wake();
        }
    }
}

impl Drop for Display {
    /// After the last picture is shown.
    fn drop(&mut self) {
        self.shared.state.lock().ended = true;
        self.tell();
        if let Some(files) = self.files.take() {
            files.join();
        }
        if let Some(windows) = self.windows.take() {
            windows.join();
        }
    }
}

/// Red, green, blue and alpha of each texel.
fn texels(picture: &Picture) -> impl Iterator<Item = ([u8; 3], u8)> + '_ {
    let (colours, alpha) = channels(picture.format).unwrap_or(([0, 1, 2], None));
    let (texels, _) = picture.pixels.as_chunks::<4>();
    texels.iter().map(move |texel| {
        let channel = |index: usize| texel.get(index).copied().unwrap_or(0);
        (colours.map(channel), alpha.map_or(255, channel))
    })
}

#[cfg(test)]
fn test_picture(format: u32, width: u32, pixels: &[u8]) -> Picture {
    Picture {
        format,
        width,
        height: pixels.len() as u32 / 4 / width,
        pixels: pixels.to_vec(),
    }
}
