//! The vhost-user device, as a machine monitor sees it before its guest starts.

use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::support::{Server, asgard, eventually};

const GET_FEATURES: u32 = 1;
const SET_OWNER: u32 = 3;
const GET_PROTOCOL_FEATURES: u32 = 15;
const SET_PROTOCOL_FEATURES: u32 = 16;
const GET_QUEUE_NUM: u32 = 17;
const GET_CONFIG: u32 = 24;
const GET_SHMEM_CONFIG: u32 = 44;

pub(crate) struct Monitor(pub(crate) UnixStream);

/// The body of a message about a queue.
pub(crate) fn pair(index: u32, number: u32) -> [u8; 8] {
    (u64::from(index) | u64::from(number) << 32).to_le_bytes()
}

impl Monitor {
    pub(crate) fn send(&mut self, request: u32, body: &[u8]) {
        self.send_with(request, body, None);
    }

    pub(crate) fn send_with(&mut self, request: u32, body: &[u8], fd: Option<BorrowedFd<'_>>) {
        let mut bytes = Vec::new();
        for word in [request, 1, body.len() as u32] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(body);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if let Some(fd) = &fd {
            control.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(fd)));
        }
        let flags = SendFlags::NOSIGNAL;
        let sent = sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut control, flags).unwrap();
        assert_eq!(sent, bytes.len());
    }

    pub(crate) fn ask(&mut self, request: u32, body: &[u8]) -> Vec<u8> {
        self.send(request, body);
        let mut head = [0; 12];
        self.0.read_exact(&mut head).unwrap();
        let word = |at: usize| u32::from_ne_bytes(head[at..at + 4].try_into().unwrap());
        assert_eq!((word(0), word(4) & 4), (request, 4), "not the reply");
        let mut reply = vec![0; word(8) as usize];
        self.0.read_exact(&mut reply).unwrap();
        reply
    }

    fn number(&mut self, request: u32) -> u64 {
        u64::from_ne_bytes(self.ask(request, &[]).try_into().unwrap())
    }
}

pub(crate) fn negotiate(mut monitor: Monitor) -> Monitor {
    let features = monitor.number(GET_FEATURES);
    // VIRGL, EDID, RESOURCE_UUID, RESOURCE_BLOB, CONTEXT_INIT; VERSION_1; the two of the rings.
    let expected = 0b11111 | 1 << 32 | 1 << 28 | 1 << 29 | 1 << 30;
    assert_eq!(features, expected, "{features:#x}");
    let protocol = monitor.number(GET_PROTOCOL_FEATURES);
    assert_ne!(protocol & 1 << 22, 0, "no shared memory");
    assert_eq!(
        protocol & (1 << 15 | 1 << 16),
        0,
        "QEMU 11.1 crashes on these"
    );
    monitor.send(SET_PROTOCOL_FEATURES, &protocol.to_ne_bytes());
    monitor.send(SET_OWNER, &[]);
    assert_eq!(monitor.number(GET_QUEUE_NUM), 2);
    let mut range = Vec::new();
    for word in [0_u32, 16, 0, 0, 0, 0, 0] {
        range.extend_from_slice(&word.to_ne_bytes());
    }
    let config = monitor.ask(GET_CONFIG, &range);
    let words: Vec<u32> = config[12..]
        .as_chunks::<4>()
        .0
        .iter()
        .map(|word| u32::from_le_bytes(*word))
        .collect();
    assert_eq!(words, [0, 0, 2, 1], "events, two displays, one capset");
    let regions = monitor.ask(GET_SHMEM_CONFIG, &[]);
    let size = |id: usize| u64::from_ne_bytes(regions[8 + id * 8..16 + id * 8].try_into().unwrap());
    assert_eq!((size(0), size(1), size(2)), (0, 1 << 30, 0));
    monitor
}

#[test]
fn machine_monitors_are_served_each_by_a_process() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vu");
    let server = Server::start_with(&[
        "--window=1G",
        "--display=640x480",
        "--display=320x240",
        "--socket-path",
        path.to_str().unwrap(),
    ]);
    let connect = || Monitor(UnixStream::connect(&path).unwrap());
    let first = negotiate(connect());
    let second = negotiate(connect());
    assert_eq!(server.workers().len(), 3, "two fronts and the spare");
    drop(first);
    eventually("one is left", || server.workers().len() == 2);
    // A monitor that talks nonsense loses its own.
    let mut third = connect();
    third.send(999, &[]);
    assert_eq!(third.0.read(&mut [0; 8]).unwrap_or(0), 0);
    drop(negotiate(connect()));
    drop(second);
    eventually("only the spare is left", || server.is_idle());
    // Guest processes are served by the same.
    assert!(server.connect().is_alive());
}

#[test]
fn a_connection_that_exists_is_served_until_it_ends() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut command = asgard();
    command
        .args(["serve", "--renderer=null", "--fd=0", "--window=1G"])
        .args(["--display=640x480", "--display=320x240"])
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)));
    let mut server = command.spawn().unwrap();
    drop(command);
    drop(negotiate(Monitor(ours)));
    assert!(server.wait().unwrap().success());
}

#[test]
fn managers_of_machines_find_out_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("vhost-user-gpu-asgard");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_asgard"), &link).unwrap();
    let output = Command::new(link)
        .arg("--print-capabilities")
        .output()
        .unwrap();
    assert!(output.status.success());
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["type"], "gpu");
    let file = include_str!("../../vhost-user.json");
    let file: serde_json::Value = serde_json::from_str(file).unwrap();
    assert_eq!(file["type"], said["type"]);
}
