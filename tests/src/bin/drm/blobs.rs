//! Memory: every kind of it, between processes, in numbers, and again and again.

use std::io::{Error, Read, Write};
use std::os::unix::net::UnixStream;
use std::ptr::null_mut;

use anyhow::{Context, Result, ensure};

use crate::node::{CROSS_DEVICE, GUEST, HOST3D, HOST3D_GUEST, MAPPABLE, Node, PAGE, SHAREABLE};
use crate::uapi::{CONTEXT_CAPSET_ID, param};

pub(crate) fn run() -> Result<()> {
    let node = Node::with_context()?;
    // Of the kinds of contexts, gfxstream's alone.
    for (parameter, value) in [
        (param::FEATURES_3D, 1),
        (param::RESOURCE_BLOB, 1),
        (param::HOST_VISIBLE, 1),
        (param::CROSS_DEVICE, 1),
        (param::CONTEXT_INIT, 1),
        (param::SUPPORTED_CAPSET_IDS, 1 << 3),
    ] {
        let is = node.parameter(parameter)?;
        ensure!(is == value, "parameter {parameter} is {is}, not {value}");
    }
    ensure!(
        Node::open()?.context(&[(CONTEXT_CAPSET_ID, 4)]).is_err(),
        "a context of a kind that is not offered"
    );

    kinds(&node).context("kinds of blobs")?;
    processes(&node).context("two processes")?;
    many(&node).context("many blobs")
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
            let node = Node::with_context()?;
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
pub(crate) fn again_and_again() -> Result<()> {
    let node = Node::with_context()?;
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
