//! A connection's messages, honest ones with made-up values and broken ones, on the renderer without a driver.

use std::sync::Arc;
use std::time::Duration;

use asgard_asg::kumquat::{MAX_PACKET, Packet, Socket};
use asgard_host_device::device::{Config, Device, Limits};
use asgard_host_device::renderer::null::Null;
use asgard_host_device::vmm::kumquat::attend;

use super::{Script, reached, reached_message};

/// See the module. The input is packets, each with its length in front.
pub fn device(data: &[u8]) {
    let config = Config {
        limits: Limits {
            contexts: 4,
            rings: 4,
            resources: 32,
            fences: 16,
            objects: 100,
            memory: 1 << 26,
        },
        spin: Duration::ZERO,
        ..Config::default()
    };
    let (ours, theirs) = Socket::pair().expect("sockets");
    let device = Device::new(Arc::new(Null), config);
    let server = std::thread::spawn(move || attend(theirs, device));
    let ours = Arc::new(ours);
    let reader = std::thread::spawn({
        let ours = Arc::clone(&ours);
        move || {
            let (mut packet, mut answers) = (Packet::default(), Vec::new());
            while ours.recv(&mut packet).unwrap_or(false) {
                let all = packet.responses();
                answers.extend(all.map(|a| a.map_or(0, |a| kind(&format!("{a:?}")))));
            }
            answers
        }
    });
    let mut script = Script(data);
    while !script.is_empty() {
        let n = usize::from(script.u16()) % (MAX_PACKET + 1);
        let bytes = script.bytes(n);
        if !bytes.is_empty() && ours.send(bytes, &[]).is_err() {
            break;
        }
    }
    // What was sent is still read: only this direction ends.
    // SAFETY: a socket of ours.
    unsafe {
        use std::os::fd::{AsFd, AsRawFd};
        libc::shutdown(ours.as_fd().as_raw_fd(), libc::SHUT_WR);
    }
    let outcome = server.join().expect("the server panicked");
    let answers = reader.join().expect("the reader panicked");
    assert!(!outcome.stuck, "some thread of the device did not end");
    for pair in answers.windows(2) {
        reached(pair);
    }
    if let Some(fault) = outcome.fault {
        reached_message("device", &fault.to_string());
    }
}

/// The variant's name, as a number.
fn kind(text: &str) -> u32 {
    let name = text.split(|c: char| !c.is_alphanumeric()).next();
    name.unwrap_or_default().bytes().map(u32::from).sum()
}
