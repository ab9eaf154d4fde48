//! What host and guest say to each other, and the guest's side: it runs what it is told to.
//!
//! They speak over a serial port without a line discipline. A message is its kind, the number of the job that it is
//! about, the length of what follows, and that.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// What the port is called in the guest.
pub(super) const PORT: &str = "asgard";
/// The most that a message carries.
const LARGEST: u32 = 1 << 20;

/// A program to run, as JSON in a message.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Program {
    pub(super) words: Vec<String>,
    pub(super) environment: Vec<(String, String)>,
    pub(super) folder: String,
}

/// Kinds of messages; the first two go to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Run a [`Program`].
    Run,
    /// Kill a job with its children; job 0 is the machine.
    Kill,
    /// The guest is up; its seconds since start as text.
    Ready,
    /// Bytes of a job's standard output.
    Output,
    /// Bytes of a job's standard error.
    Error,
    /// A job's end: its status as the kernel tells it, 32 bits, little-endian.
    End,
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::Run,
        Self::Kill,
        Self::Ready,
        Self::Output,
        Self::Error,
        Self::End,
    ];
}

/// Writes a message.
pub(super) fn send(to: &mut impl Write, kind: Kind, job: u32, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut message = Vec::with_capacity(payload.len() + 9);
    message.push(kind as u8);
    message.extend(job.to_le_bytes());
    message.extend(length.to_le_bytes());
    message.extend(payload);
    to.write_all(&message)
}

/// Reads a message; `None` at the end.
pub(super) fn receive(from: &mut impl Read) -> Result<Option<(Kind, u32, Vec<u8>)>> {
    let mut head = [0; 9];
    match from.read_exact(&mut head) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let [kind, a, b, c, d, length @ ..] = head;
    let (job, length) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes(length));
    let kind = Kind::ALL
        .into_iter()
        .find(|known| *known as u8 == kind)
        .with_context(|| format!("no message is of kind {kind}"))?;
    if length > LARGEST {
        bail!("a message of {length} bytes");
    }
    let mut payload = vec![0; length as usize];
    from.read_exact(&mut payload)?;
    Ok(Some((kind, job, payload)))
}

/// The processes that run, by job.
type Jobs = Arc<Mutex<BTreeMap<u32, i32>>>;
type Port = Arc<Mutex<File>>;

/// Serves the host until it ends the machine.
pub fn serve() -> Result<()> {
    let path = port()?;
    let mut reader = File::options()
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| path.display().to_string())?;
    let writer: Port = Arc::new(Mutex::new(reader.try_clone()?));
    let jobs = Jobs::default();
    let uptime = fs::read_to_string("/proc/uptime")?;
    let seconds = uptime.split(' ').next().unwrap_or_default();
    say(&writer, Kind::Ready, 0, seconds.as_bytes());
    while let Some((kind, job, payload)) = receive(&mut reader)? {
        match kind {
            Kind::Run => {
                let program: Program = serde_json::from_slice(&payload)?;
                let (writer, jobs) = (Arc::clone(&writer), Arc::clone(&jobs));
                thread::spawn(move || run(&writer, &jobs, job, &program));
            }
            Kind::Kill if job == 0 => break,
            Kind::Kill => {
                let jobs = jobs.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(&process) = jobs.get(&job) {
                    unsafe { libc::kill(-process, libc::SIGKILL) };
                }
            }
            _ => bail!("the host sent {kind:?}"),
        }
    }
    Ok(())
}

/// Starts another kernel in the place of this guest's, with the same command line. It does not return unless it fails.
pub fn start_kernel(kernel: &Path, initrd: &Path) -> Result<()> {
    let open = |path: &Path| File::open(path).with_context(|| path.display().to_string());
    let (kernel, initrd) = (open(kernel)?, open(initrd)?);
    let line = CString::new(fs::read_to_string("/proc/cmdline")?.trim_end())?;
    let length = line.as_bytes_with_nul().len();
    // SAFETY: files that are open, and a text that ends with a null, of that length.
    let loaded = unsafe {
        let (kernel, initrd) = (kernel.as_raw_fd(), initrd.as_raw_fd());
        libc::syscall(
            libc::SYS_kexec_file_load,
            kernel,
            initrd,
            length,
            line.as_ptr(),
            0_u64,
        )
    };
    let error = io::Error::last_os_error();
    ensure!(loaded == 0, "loading a kernel: {error}");
    // SAFETY: it ends all programs of this guest, which is what the caller asks for.
    unsafe {
        libc::sync();
        libc::reboot(libc::LINUX_REBOOT_CMD_KEXEC);
    }
    bail!("starting a kernel: {}", io::Error::last_os_error())
}

/// The port's device, by the name that the host gave it.
fn port() -> Result<PathBuf> {
    for entry in fs::read_dir("/sys/class/virtio-ports")? {
        let entry = entry?;
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if name.trim() == PORT {
            return Ok(Path::new("/dev").join(entry.file_name()));
        }
    }
    bail!("this machine has no port called {PORT}");
}

/// The host is gone if this fails, and then nobody is left to hear of it.
fn say(port: &Port, kind: Kind, job: u32, payload: &[u8]) {
    let mut port = port.lock().unwrap_or_else(PoisonError::into_inner);
    let _ = send(&mut *port, kind, job, payload);
}

fn run(port: &Port, jobs: &Jobs, job: u32, program: &Program) {
    let status = match start(port, jobs, job, program) {
        Ok(status) => status,
        Err(error) => {
            say(port, Kind::Error, job, format!("{error:#}\n").as_bytes());
            127 << 8
        }
    };
    say(port, Kind::End, job, &status.to_le_bytes());
}

fn start(port: &Port, jobs: &Jobs, job: u32, program: &Program) -> Result<i32> {
    let (name, arguments) = program.words.split_first().context("no program")?;
    let mut child = Command::new(name)
        .args(arguments)
        .envs(
            program
                .environment
                .iter()
                .map(|(name, value)| (name, value)),
        )
        .current_dir(&program.folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot run {name} in the guest"))?;
    let locked = || jobs.lock().unwrap_or_else(PoisonError::into_inner);
    locked().insert(job, child.id().cast_signed());
    thread::scope(|scope| {
        if let Some(output) = child.stdout.take() {
            scope.spawn(move || forward(port, Kind::Output, job, output));
        }
        if let Some(error) = child.stderr.take() {
            scope.spawn(move || forward(port, Kind::Error, job, error));
        }
    });
    let status = child.wait();
    locked().remove(&job);
    Ok(status?.into_raw())
}

fn forward(port: &Port, kind: Kind, job: u32, mut from: impl Read) {
    let mut bytes = [0; 16384];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        say(port, kind, job, bytes.get(..count).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_they_were_sent() {
        let mut bytes = Vec::new();
        for (n, kind) in (0..).zip(Kind::ALL) {
            send(&mut bytes, kind, 7 + n, &vec![9; n as usize]).unwrap();
        }
        let mut from = bytes.as_slice();
        for (n, kind) in (0..).zip(Kind::ALL) {
            let expected = (kind, 7 + n, vec![9; n as usize]);
            assert_eq!(receive(&mut from).unwrap(), Some(expected));
        }
        assert_eq!(receive(&mut from).unwrap(), None);
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        let mut message = vec![2, 0, 0, 0, 0];
        message.extend((LARGEST + 1).to_le_bytes());
        assert!(receive(&mut message.as_slice()).is_err());
        assert!(receive(&mut [99, 0, 0, 0, 0, 0, 0, 0, 0].as_slice()).is_err());
        assert!(receive(&mut [0, 0, 0, 0, 0, 5, 0, 0, 0, 1].as_slice()).is_err());
    }
}
