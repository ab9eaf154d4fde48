//! `blobs`: asks the kernel's virtio-gpu driver for memory by its requests alone, without a Vulkan driver in between.
//!
//! It runs in a virtual machine and prints `ok` when all was as it should be.

use std::fs::File;
use std::io::{Error, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::ptr::null_mut;

use anyhow::{Context, Result, ensure};

const GUEST: u32 = 1;
const HOST3D: u32 = 2;
const HOST3D_GUEST: u32 = 3;
const MAPPABLE: u32 = 1;
const SHAREABLE: u32 = 2;
const CROSS_DEVICE: u32 = 4;
const PAGE: usize = 4096;

fn main() -> ExitCode {
    match run() {
        Ok(()) => {
            println!("ok");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("blobs: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let node = Node::open()?;
    // 3D, blobs, host visible memory, sharing with devices, kinds of contexts; and of those, gfxstream's alone.
    for (parameter, value) in [(1, 1), (3, 1), (4, 1), (5, 1), (6, 1), (7, 1 << 3)] {
        let is = node.parameter(parameter)?;
        ensure!(is == value, "parameter {parameter} is {is}, not {value}");
    }
    ensure!(
        Node::open()?.context(4).is_err(),
        "a context of a kind that is not offered"
    );
    node.context(3)?;

    kinds(&node).context("kinds of blobs")?;
    processes(&node).context("two processes")?;
    many(&node).context("many blobs")?;
    again_and_again(&node).context("one blob mapped again and again")
}

/// Every kind of memory with all flags: what the kernel and the host say of them agrees.
fn kinds(node: &Node) -> Result<()> {
    for memory in [GUEST, HOST3D, HOST3D_GUEST] {
        for flags in 0..=MAPPABLE | SHAREABLE | CROSS_DEVICE {
            let name = format!("memory {memory}, flags {flags}");
            let blob = node.blob(memory, flags, 3 * PAGE).context(name.clone())?;
            // The guest's own pages are there anyway; the host's only if that was asked for.
            let mapped = node.map(&blob);
            let expected = memory != HOST3D || flags & MAPPABLE != 0;
            ensure!(mapped.is_ok() == expected, "{name}: mapped: {mapped:?}");
            if let Ok(mut mapped) = mapped {
                ensure!(
                    mapped.bytes().iter().all(|&byte| byte == 0),
                    "{name}: not empty"
                );
                mapped.bytes().fill(7);
            }
            ensure!(node.export(&blob).is_ok(), "{name}: export");
        }
    }
    for (memory, flags) in [(0, 1), (4, 1), (HOST3D, 8)] {
        let made = node.blob(memory, flags, PAGE);
        ensure!(made.is_err(), "memory {memory}, flags {flags}: {made:?}");
    }
    Ok(())
}

/// What one process writes, another reads, and the other way round.
fn processes(node: &Node) -> Result<()> {
    let blob = node.blob(HOST3D, MAPPABLE | SHAREABLE, PAGE)?;
    let mut mapped = node.map(&blob)?;
    mapped.bytes().fill(0x55);
    let file = node.export(&blob)?;
    let (mut ours, mut theirs) = UnixStream::pair()?;
    // SAFETY: this process has one thread, so that its child may do whatever it could do itself.
    let child = unsafe { libc::fork() };
    ensure!(child >= 0, "fork: {}", Error::last_os_error());
    if child == 0 {
        drop(ours);
        let done = (|| -> Result<()> {
            let node = Node::open()?;
            node.context(3)?;
            let blob = node.import(&file, PAGE)?;
            let mut mapped = node.map(&blob)?;
            ensure!(
                mapped.bytes().iter().all(|&byte| byte == 0x55),
                "not what was written"
            );
            mapped.bytes().fill(0xaa);
            Ok(())
        })();
        let _ = theirs.write_all(
            done.err()
                .map(|e| format!("{e:#}"))
                .unwrap_or_default()
                .as_bytes(),
        );
        // SAFETY: ends this process without what it has inherited being undone.
        unsafe { libc::_exit(0) };
    }
    drop(theirs);
    let mut error = String::new();
    ours.read_to_string(&mut error)?;
    // SAFETY: waits for the child from above.
    unsafe { libc::waitpid(child, null_mut(), 0) };
    ensure!(error.is_empty(), "in the other process: {error}");
    ensure!(
        mapped.bytes().iter().all(|&byte| byte == 0xaa),
        "the answer is missing"
    );
    Ok(())
}

/// A thousand blobs at once, each with bytes of its own.
fn many(node: &Node) -> Result<()> {
    let mut all = Vec::new();
    for number in 0..1000_u32 {
        let blob = node.blob(HOST3D, MAPPABLE, 4 * PAGE)?;
        let mut mapped = node.map(&blob)?;
        for word in mapped.bytes().chunks_exact_mut(4) {
            word.copy_from_slice(&number.to_le_bytes());
        }
        all.push((blob, mapped));
    }
    for (number, (_, mapped)) in (0_u32..).zip(&mut all) {
        let right = |word: &[u8]| word == number.to_le_bytes();
        ensure!(mapped.bytes().chunks_exact(4).all(right), "blob {number}");
    }
    Ok(())
}

/// Ten thousand mappings keep what was written, and new memory is empty each time.
fn again_and_again(node: &Node) -> Result<()> {
    let kept = node.blob(HOST3D, MAPPABLE, PAGE)?;
    for round in 0..10_000_u32 {
        let mut mapped = node.map(&kept)?;
        let before = mapped.bytes()[..4].to_vec();
        ensure!(before == round.to_le_bytes(), "round {round}: {before:?}");
        mapped.bytes()[..4].copy_from_slice(&(round + 1).to_le_bytes());
        if round % 20 == 0 {
            let fresh = node.blob(HOST3D, MAPPABLE, 16 * PAGE)?;
            let mut mapped = node.map(&fresh)?;
            ensure!(
                mapped.bytes().iter().all(|&byte| byte == 0),
                "round {round}: old bytes"
            );
            mapped.bytes().fill(0xff);
        }
    }
    Ok(())
}

/// A render node of the kernel's.
struct Node(File);

/// Memory by the kernel's handle; given back when it goes.
#[derive(Debug)]
struct Blob<'a> {
    node: &'a File,
    handle: u32,
    size: usize,
}

/// Mapped memory.
#[derive(Debug)]
struct Mapped {
    address: *mut libc::c_void,
    size: usize,
}

/// The driver's requests, by number and size of their argument.
const fn driver(number: u32, size: u32) -> u32 {
    write_read(0x40 + number, size)
}

const fn write_read(number: u32, size: u32) -> u32 {
    3 << 30 | size << 16 | 0x64 << 8 | number
}

impl Node {
    fn open() -> Result<Self> {
        let path = "/dev/dri/renderD128";
        let file = File::options().read(true).write(true).open(path);
        Ok(Self(file.context(path)?))
    }

    fn parameter(&self, parameter: u64) -> Result<u32> {
        let mut value = 0_u32;
        let mut words = [parameter, (&raw mut value).expose_provenance() as u64];
        ask(&self.0, driver(3, 16), &mut words)?;
        Ok(value)
    }

    /// Makes the context of one kind of host: its parameters are pairs of a number and a value.
    fn context(&self, capset: u64) -> Result<()> {
        let parameters = [1_u64, capset];
        let mut words = [1, parameters.as_ptr().expose_provenance() as u64];
        ask(&self.0, driver(0x0b, 16), &mut words)
    }

    fn blob(&self, memory: u32, flags: u32, size: usize) -> Result<Blob<'_>> {
        let mut words = [0_u64; 6];
        words[0] = u64::from(memory) | u64::from(flags) << 32;
        words[2] = size as u64;
        ask(&self.0, driver(0x0a, 48), &mut words)?;
        Ok(Blob {
            node: &self.0,
            handle: words[1] as u32,
            size,
        })
    }

    fn map(&self, blob: &Blob<'_>) -> Result<Mapped> {
        let mut words = [0, u64::from(blob.handle)];
        ask(&self.0, driver(1, 16), &mut words)?;
        let (access, offset) = (libc::PROT_READ | libc::PROT_WRITE, words[0] as libc::off_t);
        // SAFETY: a new mapping, of a file that the kernel keeps as long.
        let address = unsafe {
            libc::mmap(
                null_mut(),
                blob.size,
                access,
                libc::MAP_SHARED,
                self.0.as_raw_fd(),
                offset,
            )
        };
        ensure!(
            address != libc::MAP_FAILED,
            "mmap: {}",
            Error::last_os_error()
        );
        Ok(Mapped {
            address,
            size: blob.size,
        })
    }

    fn export(&self, blob: &Blob<'_>) -> Result<OwnedFd> {
        // Handle, flags (read and write), file.
        let mut words = [blob.handle, libc::O_RDWR as u32, 0];
        ask(&self.0, write_read(0x2d, 12), &mut words)?;
        // SAFETY: the kernel made it for us.
        Ok(unsafe { OwnedFd::from_raw_fd(words[2].cast_signed()) })
    }

    fn import(&self, file: &OwnedFd, size: usize) -> Result<Blob<'_>> {
        let mut words = [0, 0, file.as_raw_fd().cast_unsigned()];
        ask(&self.0, write_read(0x2e, 12), &mut words)?;
        Ok(Blob {
            node: &self.0,
            handle: words[0],
            size,
        })
    }
}

/// Makes a request of the kernel.
fn ask<T>(file: &File, request: u32, argument: &mut [T]) -> Result<()> {
    // SAFETY: the number in the request is the argument's size, and addresses in it lead to live memory.
    let done = unsafe {
        libc::ioctl(
            file.as_raw_fd(),
            request as libc::Ioctl,
            argument.as_mut_ptr(),
        )
    };
    let error = Error::last_os_error();
    ensure!(done >= 0, "request {request:#x}: {error}");
    Ok(())
}

impl Drop for Blob<'_> {
    fn drop(&mut self) {
        let mut words = [self.handle, 0];
        // It writes nothing, so that its direction differs from the others'.
        let _ = ask(self.node, 1 << 30 | 8 << 16 | 0x64 << 8 | 9, &mut words);
    }
}

impl Mapped {
    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: mapped with this size; whoever else writes there does so when we do not look.
        unsafe { std::slice::from_raw_parts_mut(self.address.cast(), self.size) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: mapped with this size, and nobody has a reference any more.
        unsafe { libc::munmap(self.address, self.size) };
    }
}
