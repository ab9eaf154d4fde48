//! Screens that nobody sees: of an X server and of a Wayland compositor.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::picture::write_png;
use crate::via::{kill_group, run};

/// How many frames `swapchain` presents in each mode: more than there are images, so that each comes back.
pub const FRAMES: usize = 20;

/// The width and height of the square in [`pattern`].
pub const SQUARE: u32 = 40;

/// Where the square of a frame of `swapchain` is.
#[must_use]
pub fn square(frame: usize, width: u32, height: u32) -> (u32, u32) {
    let frame = frame as u32;
    (frame * 7 % (width - SQUARE), frame * 5 % (height - SQUARE))
}

/// What colour a pixel of a frame of `swapchain` has: red, green, blue.
#[must_use]
pub fn pattern(frame: usize, x: u32, y: u32, width: u32, height: u32) -> [u8; 3] {
    let (left, top) = square(frame, width, height);
    if (left..left + SQUARE).contains(&x) && (top..top + SQUARE).contains(&y) {
        return [255, 255, 64];
    }
    [(x * 255 / width) as u8, (y * 255 / height) as u8, 64]
}

/// What is on a screen.
#[derive(Debug)]
pub struct Picture {
    /// In pixels.
    pub width: usize,
    /// In pixels.
    pub height: usize,
    /// Red, green and blue of each, row by row.
    pub pixels: Vec<[u8; 3]>,
}

impl Picture {
    /// Reads a PNG file.
    pub fn read(path: &Path) -> Result<Self> {
        let file = std::io::BufReader::new(std::fs::File::open(path)?);
        let mut reader = png::Decoder::new(file).read_info()?;
        let mut bytes = vec![0; reader.output_buffer_size().context("a size")?];
        let info = reader.next_frame(&mut bytes)?;
        // weston writes what transparency a program left behind, though a screen has none.
        let opaque =
            |color: u8, alpha: u8| ((u32::from(color) * u32::from(alpha) + 127) / 255) as u8;
        let pixels = match info.color_type {
            png::ColorType::Rgb => bytes.chunks_exact(3).map(|p| [p[0], p[1], p[2]]).collect(),
            png::ColorType::Rgba => bytes
                .chunks_exact(4)
                .map(|p| [0, 1, 2].map(|i| opaque(p[i], p[3])))
                .collect(),
            other => bail!("a screen in {other:?}"),
        };
        Ok(Self {
            width: info.width as usize,
            height: info.height as usize,
            pixels,
        })
    }

    /// Writes it where people can look at it.
    pub fn write(&self, path: &Path) -> Result<()> {
        let rgba = self.pixels.iter().flat_map(|&[r, g, b]| [r, g, b, 255]);
        let rgba: Vec<u8> = rgba.collect();
        write_png(path, self.width as u32, self.height as u32, &rgba)
    }

    /// How many pixels have which colour.
    #[must_use]
    pub fn colors(&self) -> BTreeMap<[u8; 3], usize> {
        let mut colors = BTreeMap::new();
        for pixel in &self.pixels {
            *colors.entry(*pixel).or_default() += 1;
        }
        colors
    }

    /// Whether there is a window with a cube: that much grey ground, and a picture of many colours on it.
    #[must_use]
    pub fn has_cube(&self, least: usize) -> bool {
        let colors = self.colors();
        // vkcube clears to 0.2 of white.
        let ground = colors.get(&[51, 51, 51]).copied().unwrap_or(0);
        ground > least && colors.len() > 100
    }

    /// In its upper left corner is the last frame of `swapchain`, of this size.
    #[must_use]
    pub fn is_pattern(&self, width: u32, height: u32) -> bool {
        let places = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
        self.width >= width as usize
            && self.height >= height as usize
            && places.into_iter().all(|(x, y)| {
                let there = self.pixels.get(y as usize * self.width + x as usize);
                there == Some(&pattern(FRAMES - 1, x, y, width, height))
            })
    }
}

/// An X server without a screen, whose framebuffer is a file.
#[derive(Debug)]
pub struct XServer {
    child: Child,
    /// What DISPLAY is to be.
    pub display: String,
    dir: tempfile::TempDir,
}

impl XServer {
    /// Starts one, with these arguments more.
    pub fn start(args: &[&str]) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut child = Command::new("Xvfb")
            .args([
                "-displayfd",
                "1",
                "-screen",
                "0",
                "800x600x24",
                "-nolisten",
                "tcp",
                "-fbdir",
            ])
            .arg(dir.path())
            .args(args)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("starting Xvfb")?;
        let mut number = String::new();
        let mut byte = [0];
        let pipe = child.stdout.as_mut().context("no pipe")?;
        while pipe.read_exact(&mut byte).is_ok() && byte[0] != b'\n' {
            number.push(char::from(byte[0]));
        }
        ensure!(!number.is_empty(), "Xvfb did not start");
        Ok(Self {
            child,
            display: format!(":{number}"),
            dir,
        })
    }

    /// What is on the screen.
    pub fn screen(&self) -> Result<Picture> {
        let file = std::fs::read(self.dir.path().join("Xvfb_screen0"))?;
        // An X window dump: words of its header are big endian.
        let word = |i: usize| {
            let bytes = file.get(i * 4..i * 4 + 4).unwrap_or_default();
            bytes
                .iter()
                .fold(0, |word, byte| word << 8 | usize::from(*byte))
        };
        let (header, width, height, pitch, colors) =
            (word(0), word(4), word(5), word(12), word(19));
        ensure!(
            (word(1), word(11)) == (7, 32),
            "no X window dump of 32 bits"
        );
        let pixels = &file[header + colors * 12..];
        let rows = pixels
            .chunks(pitch)
            .take(height)
            .flat_map(|row| &row[..width * 4]);
        let pixels: Vec<u8> = rows.copied().collect();
        Ok(Picture {
            width,
            height,
            // Blue comes first.
            pixels: pixels.chunks_exact(4).map(|p| [p[2], p[1], p[0]]).collect(),
        })
    }
}

impl Drop for XServer {
    fn drop(&mut self) {
        kill_group(&mut self.child);
    }
}

/// A Wayland compositor without a screen.
#[derive(Debug)]
pub struct Compositor {
    child: Child,
    dir: tempfile::TempDir,
}

const SOCKET: &str = "wayland";

/// The size of its screen.
pub const SCREEN: (u32, u32) = (800, 600);

impl Compositor {
    /// Starts one.
    pub fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let config = dir.path().join("weston.ini");
        // Nothing on the screen but windows, and nothing that moves.
        let settings = "[core]\nidle-time=0\n[shell]\npanel-position=none\nlocking=false\n\
                        animation=none\nstartup-animation=none\nclose-animation=none\n\
                        background-color=0xff000000\n";
        std::fs::write(&config, settings)?;
        let child = Command::new("weston")
            .args(["--backend=headless-backend.so", "--use-pixman", "--debug"])
            .arg(format!("--width={}", SCREEN.0))
            .arg(format!("--height={}", SCREEN.1))
            .arg(format!("--socket={SOCKET}"))
            .arg(format!("--config={}", config.display()))
            .env("XDG_RUNTIME_DIR", dir.path())
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting weston")?;
        let mut compositor = Self { child, dir };
        let end = Instant::now() + Duration::from_secs(30);
        while !compositor.dir.path().join(SOCKET).exists() {
            ensure!(
                compositor.child.try_wait()?.is_none() && Instant::now() < end,
                "weston did not start"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(compositor)
    }

    /// Has a program open its windows here.
    pub fn show(&self, command: &mut Command) {
        command
            .env("XDG_RUNTIME_DIR", self.dir.path())
            .env("WAYLAND_DISPLAY", SOCKET)
            .env_remove("DISPLAY");
    }

    /// What is on the screen.
    pub fn screen(&self) -> Result<Picture> {
        let dir = tempfile::tempdir_in(self.dir.path())?;
        let mut command = Command::new("weston-screenshooter");
        self.show(&mut command);
        command.current_dir(dir.path());
        run(command, Duration::from_secs(30))?.success()?;
        let Some(file) = std::fs::read_dir(dir.path())?.next() else {
            bail!("weston-screenshooter wrote nothing");
        };
        Picture::read(&file?.path())
    }
}

impl Drop for Compositor {
    fn drop(&mut self) {
        kill_group(&mut self.child);
    }
}
