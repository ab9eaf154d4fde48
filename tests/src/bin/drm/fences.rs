//! Fences on the rings of a context, some of them held back.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use asgard_asg::submit::Command;
use asgard_host_device::renderer::null::{HOLD, RELEASE};

use crate::node::{CAPSET, Node, readable};
use crate::uapi::{CONTEXT_CAPSET_ID, CONTEXT_NUM_RINGS, CONTEXT_POLL_RINGS_MASK};

const PATIENCE: Duration = Duration::from_secs(60);

/// `VIRTGPU_EVENT_FENCE_SIGNALED`, and the bytes of such an event.
const SIGNALED: u32 = 0x9000_0000;
const EVENT: usize = 8;

pub(crate) fn run() -> Result<()> {
    order().context("the order of fences")?;
    events().context("events")?;
    ends().context("a process that ends")
}

/// A context of two rings; those in the mask tell the node's readers of their fences.
fn node(told: u64) -> Result<Node> {
    let node = Node::open()?;
    node.context(&[
        (CONTEXT_CAPSET_ID, CAPSET),
        (CONTEXT_NUM_RINGS, 2),
        (CONTEXT_POLL_RINGS_MASK, told),
    ])?;
    Ok(node)
}

/// The renderer holds a fence of that number back, or lets it go.
fn hold(number: u64) -> Command {
    Command::CreateExportSyncVk {
        device: HOLD,
        fence: number,
    }
}

fn release(number: u64) -> Command {
    Command::CreateExportSyncVk {
        device: RELEASE,
        fence: number,
    }
}

fn signals(fence: &OwnedFd, what: &str) -> Result<()> {
    ensure!(readable(fence, PATIENCE)?, "{what} never signals");
    Ok(())
}

fn is_pending(fence: &OwnedFd, what: &str) -> Result<()> {
    ensure!(
        !readable(fence, Duration::ZERO)?,
        "{what} signals too early"
    );
    Ok(())
}

fn order() -> Result<()> {
    let node = node(0)?;
    let first = node.submit(Some(0), hold(1))?;
    let behind = node.submit(Some(0), Command::PlaceholderVk)?;
    let second = node.submit(Some(0), hold(2))?;
    // What came later on another ring, or on none, comes first.
    for ring in [Some(1), None, Some(1)] {
        let other = node.submit(ring, Command::PlaceholderVk)?;
        signals(&other, "a fence beside one that is held back")?;
    }
    // Ready but not at its turn.
    let released = node.submit(Some(1), release(2))?;
    signals(&released, "the release of the second")?;
    for (fence, what) in [
        (&first, "the first"),
        (&behind, "the next"),
        (&second, "the second"),
    ] {
        is_pending(fence, what)?;
    }
    let released = node.submit(None, release(1))?;
    signals(&released, "the release of the first")?;
    signals(&second, "the second")?;
    for (fence, what) in [(&first, "the first"), (&behind, "the next")] {
        ensure!(readable(fence, Duration::ZERO)?, "{what} is left behind");
    }
    ensure!(
        node.submit(Some(2), Command::PlaceholderVk).is_err(),
        "a ring that there is not"
    );
    Ok(())
}

fn events() -> Result<()> {
    let node = node(1 << 1)?;
    let quiet = node.submit(Some(0), Command::PlaceholderVk)?;
    signals(&quiet, "a fence of a ring that tells nobody")?;
    ensure!(
        !readable(node.as_fd(), Duration::ZERO)?,
        "an event too many"
    );
    let held = node.submit(Some(1), hold(3))?;
    let released = node.submit(Some(0), Command::PlaceholderVk)?;
    signals(&released, "the other ring")?;
    ensure!(
        !readable(node.as_fd(), Duration::ZERO)?,
        "an event too early"
    );
    node.submit(Some(0), release(3))?;
    ensure!(readable(node.as_fd(), PATIENCE)?, "no event");
    signals(&held, "what the event is about")?;
    node.submit(Some(1), Command::PlaceholderVk)?;
    for number in 0..2 {
        ensure!(
            readable(node.as_fd(), PATIENCE)?,
            "event {number} is missing"
        );
        let mut event = [0; EVENT];
        let read = rustix::io::read(node.as_fd(), &mut event)?;
        let words: [u32; 2] = bytemuck::cast(event);
        ensure!(
            (read, words) == (EVENT, [SIGNALED, EVENT as u32]),
            "{words:x?}"
        );
    }
    ensure!(
        !readable(node.as_fd(), Duration::ZERO)?,
        "an event too many"
    );
    ensure!(
        Node::open()?
            .context(&[
                (CONTEXT_CAPSET_ID, CAPSET),
                (CONTEXT_NUM_RINGS, 2),
                (CONTEXT_POLL_RINGS_MASK, 1 << 2)
            ])
            .is_err(),
        "events of a ring that there is not"
    );
    Ok(())
}

/// Nobody waits for ever for one who is gone.
fn ends() -> Result<()> {
    let node = node(0)?;
    let held = node.submit(Some(0), hold(4))?;
    drop(node);
    signals(&held, "a fence whose process let go of its device")
}
