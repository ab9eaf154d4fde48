//! Displays as picture files.
//!
//! `0.png` is the newest picture of the first display, with the cursor in it. A new one takes its place in one
//! step, so that whoever reads the file sees a whole picture.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use super::{Changes, Screen, Shared, texels};
use crate::virtio_gpu::gpu::{CursorPlace, Picture};

/// The thread that writes them.
#[derive(Debug)]
pub(super) struct Files(JoinHandle<()>);

impl Files {
    pub(super) fn start(shared: &Arc<Shared>, folder: PathBuf) -> io::Result<Self> {
        std::fs::create_dir_all(&folder)?;
        let shared = Arc::clone(shared);
        std::thread::Builder::new()
            .name("files".to_owned())
            .spawn(move || run(&shared, &folder))
            .map(Self)
    }

    /// Waits until the last picture is written.
    pub(super) fn join(self) {
        let _ = self.0.join();
    }
}

fn run(shared: &Shared, folder: &Path) {
    let mut written: BTreeMap<usize, Changes> = BTreeMap::new();
    let mut state = shared.state.lock();
    loop {
        let changed = state
            .screens
            .iter()
            .find(|(scanout, screen)| written.get(scanout) != Some(&screen.changes));
        match changed {
            Some((&scanout, screen)) => {
                written.insert(scanout, screen.changes);
                let screen = screen.clone();
                drop(state);
                if let Err(error) = write(folder, scanout, &screen) {
                    tracing::warn!("cannot write the picture of display {scanout}: {error}");
                }
                state = shared.state.lock();
            }
            None if state.ended => return,
            None => shared.change.wait(&mut state),
        }
    }
}

fn write(folder: &Path, scanout: usize, screen: &Screen) -> io::Result<()> {
    let path = folder.join(format!("{scanout}.png"));
    let Some(picture) = &screen.picture else {
        return match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    };
    let pixels = compose(picture, screen.cursor.as_deref(), screen.place);
    let new = folder.join(format!(".{scanout}.png"));
    let file = io::BufWriter::new(std::fs::File::create(&new)?);
    let mut encoder = png::Encoder::new(file, picture.width, picture.height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::Fast);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&pixels)?;
    writer.finish()?;
    std::fs::rename(new, path)
}

/// The picture in three bytes a pixel, and the cursor on top.
fn compose(picture: &Picture, cursor: Option<&Picture>, place: CursorPlace) -> Vec<u8> {
    let mut pixels: Vec<u8> = texels(picture).flat_map(|(rgb, _)| rgb).collect();
    let Some(cursor) = cursor else {
        return pixels;
    };
    let width = cursor.width.max(1) as usize;
    for (index, (rgb, alpha)) in texels(cursor).enumerate() {
        let x = (place.x as usize).saturating_add(index % width);
        let y = (place.y as usize).saturating_add(index / width);
        if x >= picture.width as usize || y >= picture.height as usize {
            continue;
        }
        let at = (y * picture.width as usize + x) * 3;
        for (below, above) in pixels.iter_mut().skip(at).take(3).zip(rgb) {
            // Cursors have their alpha multiplied in.
            let through = u16::from(*below) * u16::from(255 - alpha) / 255;
            *below = (through + u16::from(above)).min(255) as u8;
        }
    }
    pixels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::display::{Display, Options, test_picture as picture};
    use crate::virtio_gpu::gpu::Show;

    fn read(path: &Path) -> (u32, u32, Vec<u8>) {
        let file = io::BufReader::new(std::fs::File::open(path).unwrap());
        let mut reader = png::Decoder::new(file).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        (info.width, info.height, pixels)
    }

    #[test]
    fn the_newest_picture_is_in_the_file_and_goes_with_the_display() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1.png");
        let start = || {
            let frames = Some(folder.path().to_owned());
            let options = Options {
                frames,
                ..Options::default()
            };
            Display::start(options).unwrap().unwrap()
        };
        let display = start();
        for blue in 0..100 {
            display.show(1, Show::Frame(picture(2, 1, &[blue, 2, 3, 9, 4, 5, 6, 9])));
        }
        drop(display);
        assert_eq!(read(&path), (1, 2, vec![3, 2, 99, 6, 5, 4]));
        let display = start();
        display.show(1, Show::Off);
        drop(display);
        assert!(!path.exists());
    }

    #[test]
    fn every_format_shows_its_colours() {
        for (format, bytes) in [
            (1, [3, 2, 1, 0]),
            (2, [3, 2, 1, 0]),
            (3, [0, 1, 2, 3]),
            (4, [0, 1, 2, 3]),
            (67, [1, 2, 3, 0]),
            (68, [0, 3, 2, 1]),
            (121, [0, 3, 2, 1]),
            (134, [1, 2, 3, 0]),
        ] {
            let shown = compose(&picture(format, 1, &bytes), None, CursorPlace::default());
            assert_eq!(shown, [1, 2, 3], "{format}");
        }
    }

    #[test]
    fn the_cursor_is_on_top_and_may_stick_out() {
        let below = picture(67, 2, &[100; 16]);
        // One texel that covers, one half transparent, one that is not there.
        let cursor = picture(67, 3, &[9, 9, 9, 255, 50, 50, 50, 127, 7, 7, 7, 255]);
        let place = |x, y| CursorPlace {
            x,
            y,
            ..CursorPlace::default()
        };
        let shown = compose(&below, Some(&cursor), place(0, 1));
        assert_eq!(shown[..6], [100; 6]);
        assert_eq!(shown[6..], [9, 9, 9, 100, 100, 100]);
        for (x, y) in [(5, 0), (0, 5), (u32::MAX, u32::MAX)] {
            assert_eq!(compose(&below, Some(&cursor), place(x, y)), [100; 12]);
        }
    }
}
