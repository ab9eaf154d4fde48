//! The virtqueues of the vhost-user device, in the hands of a driver that breaks every rule.
//!
//! Linux' driver never does these things, and programs in a guest cannot: so a driver of our own plays both the machine
//! monitor and the guest.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use asgard_asg::submit::{CREATE_EXPORT_SYNC_VK, PLACEHOLDER_VK};
use asgard_host_device::renderer::null::HOLD;
use asgard_host_device::virtio_gpu::protocol::FLAG_FENCE as FENCE;
use asgard_host_device::virtio_gpu::protocol::cmd::*;
use asgard_host_device::virtio_gpu::protocol::resp::*;
use rustix::event::{EventfdFlags, eventfd};
use rustix::process::Signal;

use crate::machines::{Monitor, negotiate, pair};
use crate::support::{PATIENCE, Server, eventually, kill, readable_within};

const SET_FEATURES: u32 = 2;
const SET_MEM_TABLE: u32 = 5;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_ADDR: u32 = 9;
const SET_VRING_BASE: u32 = 10;
const GET_VRING_BASE: u32 = 11;
const SET_VRING_KICK: u32 = 12;
const SET_VRING_CALL: u32 = 13;
const SET_VRING_ENABLE: u32 = 18;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Guest memory: where it begins, and where the machine monitor has it.
const RAM: u64 = 0x10_0000;
const RAM_SIZE: u64 = 8 << 20;
const USER: u64 = 0x7000_0000_0000;

/// Entries of each queue.
const SIZE: u16 = 64;
/// Where a queue lies in guest memory, from its start.
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
/// Where commands and responses lie.
const COMMAND: u64 = 0x2_0000;
const RESPONSE: u64 = 0x3_0000;
const TABLE: u64 = 0x4_0000;

/// One descriptor.
#[derive(Clone, Copy)]
struct Descriptor(u64, u32, u16, u16);

/// The driver's end of a virtqueue.
struct Queue {
    index: u32,
    start: u64,
    kick: OwnedFd,
    call: OwnedFd,
    available: u16,
    used: u16,
}

struct Driver {
    monitor: Monitor,
    ram: File,
    queues: Vec<Queue>,
}

impl Driver {
    fn new(connection: UnixStream) -> Self {
        let mut monitor = negotiate(Monitor(connection));
        let ram = rustix::fs::memfd_create("ram", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&ram, RAM_SIZE).unwrap();
        // All but EVENT_IDX, so that each response is announced.
        let features = 0b11111_u64 | 1 << 32 | 1 << 28 | 1 << 30;
        monitor.send(SET_FEATURES, &features.to_ne_bytes());
        let mut table = Vec::new();
        for word in [1, RAM, RAM_SIZE, USER, 0] {
            table.extend_from_slice(&word.to_ne_bytes());
        }
        monitor.send_with(SET_MEM_TABLE, &table, Some(ram.as_fd()));
        let mut driver = Self {
            monitor,
            ram: File::from(ram),
            queues: Vec::new(),
        };
        for index in 0..2 {
            driver.start(index);
        }
        driver
    }

    /// Sets a queue up, as a guest's driver wants it.
    fn start(&mut self, index: u32) {
        self.start_at(index, SIZE.into(), 0x8000 * u64::from(index));
    }

    fn start_at(&mut self, index: u32, size: u32, start: u64) {
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        let (kick, call) = (event(), event());
        if start < RAM_SIZE {
            self.write(start, &[0; 0x3000]);
        }
        self.monitor.send(SET_VRING_NUM, &pair(index, size));
        self.monitor.send(SET_VRING_BASE, &pair(index, 0));
        let place = |part| USER + start + part;
        let mut body = u64::from(index).to_ne_bytes().to_vec();
        for word in [place(0), place(USED), place(AVAILABLE), 0] {
            body.extend_from_slice(&word.to_ne_bytes());
        }
        self.monitor.send(SET_VRING_ADDR, &body);
        let index_only = u64::from(index).to_ne_bytes();
        self.monitor
            .send_with(SET_VRING_CALL, &index_only, Some(call.as_fd()));
        self.monitor
            .send_with(SET_VRING_KICK, &index_only, Some(kick.as_fd()));
        self.monitor.send(SET_VRING_ENABLE, &pair(index, 1));
        self.queues.retain(|queue| queue.index != index);
        self.queues.push(Queue {
            index,
            start,
            kick,
            call,
            available: 0,
            used: 0,
        });
        self.queues.sort_by_key(|queue| queue.index);
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.ram.write_all_at(bytes, at).unwrap();
    }

    fn read<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.ram.read_exact_at(&mut bytes, at).unwrap();
        bytes
    }

    /// Writes descriptors into a table.
    fn describe(&self, table: u64, descriptors: &[Descriptor]) {
        for (index, Descriptor(address, len, flags, next)) in (0..).zip(descriptors) {
            let at = table + index * 16;
            self.write(at, &address.to_le_bytes());
            self.write(at + 8, &len.to_le_bytes());
            self.write(at + 12, &flags.to_le_bytes());
            self.write(at + 14, &next.to_le_bytes());
        }
    }

    /// Makes chains available by their heads.
    fn offer(&mut self, queue: usize, heads: &[u16]) {
        for head in heads {
            let Queue {
                start, available, ..
            } = self.queues[queue];
            let slot = start + AVAILABLE + 4 + u64::from(available % SIZE) * 2;
            self.write(slot, &head.to_le_bytes());
            self.queues[queue].available = available.wrapping_add(1);
        }
        let (start, available) = (self.queues[queue].start, self.queues[queue].available);
        self.write(start + AVAILABLE + 2, &available.to_le_bytes());
        self.kick(queue);
    }

    fn kick(&self, queue: usize) {
        rustix::io::write(&self.queues[queue].kick, &1_u64.to_ne_bytes()).unwrap();
    }

    fn used(&self, queue: usize) -> u16 {
        u16::from_le_bytes(self.read(self.queues[queue].start + USED + 2))
    }

    /// The next command that is given back: its head, and the bytes that were written.
    fn take(&mut self, queue: usize) -> (u32, u32) {
        let Queue { start, used, .. } = self.queues[queue];
        while self.used(queue) == used {
            let call = &self.queues[queue].call;
            assert!(readable_within(call, PATIENCE), "no answer");
            let _ = rustix::io::read(call, &mut [0; 8]);
        }
        let at = start + USED + 4 + u64::from(used % SIZE) * 8;
        self.queues[queue].used = used.wrapping_add(1);
        let word = |at| u32::from_le_bytes(self.read(at));
        (word(at), word(at + 4))
    }

    /// The type of the response that lies in guest memory.
    fn response(&self) -> u32 {
        u32::from_le_bytes(self.read(RESPONSE))
    }

    /// Offers the chain at descriptor 0, and returns how many bytes came back and what they begin with.
    fn ask(&mut self, queue: usize, descriptors: &[Descriptor]) -> (u32, u32) {
        self.write(RESPONSE, &[0; 24]);
        self.describe(self.queues[queue].start, descriptors);
        self.offer(queue, &[0]);
        let (head, written) = self.take(queue);
        assert_eq!(head, 0);
        (written, self.response())
    }

    /// Sends a command of header and words.
    fn command(&mut self, queue: usize, header: [u32; 6], words: &[u32]) -> (u32, u32) {
        let chain = self.prepare(queue, header, words);
        self.ask(queue, &chain)
    }

    fn prepare(&self, queue: usize, header: [u32; 6], words: &[u32]) -> [Descriptor; 2] {
        let words = header.iter().chain(words);
        let bytes: Vec<u8> = words.flat_map(|word| word.to_le_bytes()).collect();
        let at = COMMAND + queue as u64 * 0x8000;
        self.write(at, &bytes);
        [
            Descriptor(RAM + at, bytes.len() as u32, NEXT, 1),
            Descriptor(RAM + RESPONSE, 4096, WRITE, 0),
        ]
    }

    fn create_context(&mut self, ctx_id: u32) {
        let mut words = [0; 18];
        words[1] = asgard_asg::capset::CAPSET_ID;
        let created = self.command(0, [CTX_CREATE, 0, 0, 0, ctx_id, 0], &words);
        assert_eq!(created, (24, OK_NODATA));
    }

    fn destroy_context(&mut self, ctx_id: u32) {
        let destroyed = self.command(0, [CTX_DESTROY, 0, 0, 0, ctx_id, 0], &[]);
        assert_eq!(destroyed, (24, OK_NODATA));
    }

    /// What a context answers to a command that does nothing.
    fn try_context(&mut self, ctx_id: u32) -> u32 {
        let nothing = [12, 0, PLACEHOLDER_VK, 0, 0];
        self.command(0, [SUBMIT_3D, FENCE, 0, 0, ctx_id, 0], &nothing)
            .1
    }

    /// Both queues do what they should.
    fn assert_works(&mut self, what: &str) {
        let info = [GET_DISPLAY_INFO, 0, 0, 0, 0, 0];
        assert_eq!(self.command(0, info, &[]), (408, OK_DISPLAY_INFO), "{what}");
        self.assert_cursor_works(what);
    }

    fn assert_cursor_works(&mut self, what: &str) {
        let done = self.command(1, [MOVE_CURSOR, 0, 0, 0, 0, 0], &[u32::MAX; 8]);
        assert_eq!(done, (24, ERR_INVALID_SCANOUT_ID), "{what}");
    }

    /// The guest resets the device, and starts it again.
    fn reset(&mut self) {
        self.stop();
        for index in 0..2 {
            self.start(index);
        }
    }

    fn stop(&mut self) {
        for index in 0..2 {
            let base = self.monitor.ask(GET_VRING_BASE, &pair(index, 0));
            assert_eq!(base.len(), 8);
        }
    }
}

fn server() -> (tempfile::TempDir, Server, Driver) {
    server_with("--max-contexts=64")
}

fn server_with(more: &str) -> (tempfile::TempDir, Server, Driver) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vu");
    let server = Server::start_with(&[
        "--window=1G",
        "--display=640x480",
        "--display=320x240",
        more,
        "--socket-path",
        path.to_str().unwrap(),
    ]);
    let driver = Driver::new(UnixStream::connect(&path).unwrap());
    (dir, server, driver)
}

#[test]
fn chains_of_descriptors_that_break_every_rule_are_given_back() {
    let (_dir, _server, mut driver) = server();
    driver.assert_works("at first");
    let out = |at: u64, len: u32, next: u16| Descriptor(at, len, NEXT, next);
    let answer = Descriptor(RAM + RESPONSE, 4096, WRITE, 0);
    let command = RAM + COMMAND;
    let end = RAM + RAM_SIZE;
    // What the descriptors are, and the bytes and the response that come back.
    let cases: &[(&str, &[Descriptor], u32, u32)] = &[
        (
            "a command outside of memory",
            &[out(0, 24, 1), answer],
            24,
            ERR_UNSPEC,
        ),
        (
            "a command over the end of memory",
            &[out(end - 8, 24, 1), answer],
            24,
            ERR_UNSPEC,
        ),
        (
            "a command over the end of all addresses",
            &[out(u64::MAX - 8, 24, 1), answer],
            24,
            ERR_UNSPEC,
        ),
        (
            "a command longer than memory",
            &[out(command, RAM_SIZE as u32 + 1, 1), answer],
            24,
            ERR_UNSPEC,
        ),
        (
            "a chain of more than 4 GiB",
            &[out(command, u32::MAX, 1), answer],
            0,
            0,
        ),
        (
            "a command of no bytes",
            &[out(command, 0, 1), answer],
            24,
            ERR_UNSPEC,
        ),
        (
            "a header that is cut",
            &[out(command, 23, 1), answer],
            24,
            ERR_UNSPEC,
        ),
        (
            "a header in pieces, some of nothing",
            &[
                out(command, 1, 1),
                out(command + 1, 0, 2),
                out(command + 1, 22, 3),
                out(command + 23, 1, 4),
                answer,
            ],
            408,
            OK_DISPLAY_INFO,
        ),
        ("nothing to read", &[answer], 24, ERR_UNSPEC),
        (
            "a command where the response goes",
            &[Descriptor(command, 24, WRITE | NEXT, 1), answer],
            24,
            0,
        ),
        (
            "the response first",
            &[
                Descriptor(RAM + RESPONSE, 4096, WRITE | NEXT, 1),
                Descriptor(command, 24, 0, 0),
            ],
            408,
            OK_DISPLAY_INFO,
        ),
        (
            "no room for a response",
            &[Descriptor(command, 24, 0, 0)],
            0,
            0,
        ),
        (
            "room outside of memory",
            &[out(command, 24, 1), Descriptor(0, 4096, WRITE, 0)],
            0,
            0,
        ),
        (
            "room over the end of memory",
            &[out(command, 24, 1), Descriptor(end - 8, 4096, WRITE, 0)],
            0,
            0,
        ),
        (
            "room for a part",
            &[
                out(command, 24, 1),
                Descriptor(RAM + RESPONSE, 10, WRITE, 0),
            ],
            10,
            OK_DISPLAY_INFO,
        ),
        (
            "room in pieces, some of nothing",
            &[
                out(command, 24, 1),
                Descriptor(RAM + RESPONSE, 3, WRITE | NEXT, 2),
                Descriptor(0, 0, WRITE | NEXT, 3),
                Descriptor(RAM + RESPONSE + 3, 4096, WRITE, 0),
            ],
            408,
            OK_DISPLAY_INFO,
        ),
        ("a chain that is its own end", &[out(command, 24, 0)], 0, 0),
        (
            "a chain that comes back, with room",
            &[
                out(command, 24, 1),
                Descriptor(RAM + RESPONSE, 8, WRITE | NEXT, 0),
            ],
            256,
            0,
        ),
        (
            "a chain that leaves the table",
            &[out(command, 24, SIZE)],
            0,
            0,
        ),
        ("a chain that goes far", &[out(command, 24, u16::MAX)], 0, 0),
    ];
    for (what, chain, written, response) in cases {
        driver.write(COMMAND, &GET_DISPLAY_INFO.to_le_bytes());
        driver.write(COMMAND + 4, &[0; 20]);
        assert_eq!(driver.ask(0, chain), (*written, *response), "{what}");
        driver.assert_works(what);
    }
}

#[test]
fn tables_of_descriptors_elsewhere_are_no_way_around() {
    let (_dir, _server, mut driver) = server();
    let inner = [
        Descriptor(RAM + COMMAND, 24, NEXT, 1),
        Descriptor(RAM + RESPONSE, 4096, WRITE, 0),
    ];
    let end = RAM + RAM_SIZE;
    let table = RAM + TABLE;
    for (what, inner, outer, expected) in [
        (
            "as it should be",
            inner,
            Descriptor(table, 32, INDIRECT, 0),
            (408, OK_DISPLAY_INFO),
        ),
        (
            "outside of memory",
            inner,
            Descriptor(0, 32, INDIRECT, 0),
            (0, 0),
        ),
        (
            "over the end of memory",
            inner,
            Descriptor(end - 16, 32, INDIRECT, 0),
            (0, 0),
        ),
        (
            "over the end of all addresses",
            inner,
            Descriptor(u64::MAX - 15, 32, INDIRECT, 0),
            (0, 0),
        ),
        (
            "of no entries",
            inner,
            Descriptor(table, 0, INDIRECT, 0),
            (0, 0),
        ),
        (
            "of half an entry",
            inner,
            Descriptor(table, 8, INDIRECT, 0),
            (0, 0),
        ),
        (
            "of more than can be",
            inner,
            Descriptor(table, !15, INDIRECT, 0),
            (0, 0),
        ),
        (
            "with a successor",
            inner,
            Descriptor(table, 32, INDIRECT | NEXT, 1),
            (408, OK_DISPLAY_INFO),
        ),
        (
            "in another",
            [Descriptor(table, 32, INDIRECT, 0), inner[1]],
            Descriptor(table, 32, INDIRECT, 0),
            (0, 0),
        ),
        (
            "that leads to itself",
            [Descriptor(RAM + COMMAND, 24, NEXT, 0), inner[1]],
            Descriptor(table, 32, INDIRECT, 0),
            (0, 0),
        ),
        (
            "that leads out of itself",
            [Descriptor(RAM + COMMAND, 24, NEXT, 2), inner[1]],
            Descriptor(table, 32, INDIRECT, 0),
            (0, 0),
        ),
    ] {
        driver.write(COMMAND, &GET_DISPLAY_INFO.to_le_bytes());
        driver.write(COMMAND + 4, &[0; 20]);
        driver.describe(TABLE, &inner);
        assert_eq!(driver.ask(0, &[outer]), expected, "a table {what}");
        driver.assert_works(what);
    }
}

#[test]
fn what_is_not_in_the_table_is_not_taken() {
    let (_dir, server, mut driver) = server();
    // Heads that do not exist are not given back either: there is no such place.
    driver.offer(0, &[SIZE, u16::MAX]);
    driver.assert_works("heads outside of the table");
    // More than there is room for: nothing can be believed until the index makes sense again.
    let (start, right) = (driver.queues[0].start, driver.queues[0].available);
    for wild in [right.wrapping_add(SIZE + 1), right.wrapping_sub(1)] {
        driver.write(start + AVAILABLE + 2, &wild.to_le_bytes());
        driver.kick(0);
    }
    driver.write(start + AVAILABLE + 2, &right.to_le_bytes());
    driver.assert_works("a wild index");
    // The device keeps its own count of what is used, whatever the driver makes of the one in memory.
    let used = driver.queues[0].used;
    driver.write(start + USED + 2, &[0xff; 2]);
    driver.assert_cursor_works("a spoilt index");
    driver.write(start + USED + 2, &used.to_le_bytes());
    driver.assert_works("a spoilt index");
    assert_eq!(server.workers().len(), 2, "the front and the spare");
}

#[test]
fn a_driver_that_offers_what_it_has_offered_already_stands_still() {
    let (_dir, server, mut driver) = server();
    driver.create_context(1);
    // A fence that never comes, in the same memory again and again.
    let [low, high] = [HOLD as u32, (HOLD >> 32) as u32];
    let chain = driver.prepare(
        0,
        [SUBMIT_3D, FENCE, 0, 0, 1, 0],
        &[20, 0, CREATE_EXPORT_SYNC_VK, low, high, 7, 0],
    );
    driver.describe(driver.queues[0].start, &chain);
    for _ in 0..4 {
        driver.offer(0, &[0; SIZE as usize / 2]);
        // The other queue is looked at after this one.
        driver.assert_cursor_works("beside it");
    }
    eventually("the queue stands still", || {
        server.log().contains("stands still")
    });
    assert_eq!(driver.used(0), 1, "only the context was answered");
    driver.assert_cursor_works("beside it");
    driver.reset();
    driver.assert_works("after a reset");
}

#[test]
fn queues_that_cannot_be_cost_the_guest_only_themselves() {
    let (_dir, server, mut driver) = server();
    // Sizes that no queue has, and places outside of memory.
    let size = u32::from(SIZE);
    for (size, start) in [
        (0, 0),
        (3, 0),
        (2048, 0),
        (1 << 16, 0),
        (u32::MAX, 0),
        (size, RAM_SIZE),
        (size, RAM_SIZE - 0x2000),
    ] {
        driver.stop();
        driver.start_at(0, size, start);
        driver.start(1);
        driver.kick(0);
        driver.assert_cursor_works("beside a queue that cannot be");
    }
    driver.reset();
    driver.assert_works("at last");
    assert_eq!(server.workers().len(), 2, "the front and the spare");
}

#[test]
fn a_backing_of_more_pages_than_are_told_is_refused() {
    let (_dir, _server, mut driver) = server();
    let made = driver.command(0, [RESOURCE_CREATE_2D, 0, 0, 0, 0, 0], &[1, 1, 4, 4]);
    assert_eq!(made, (24, OK_NODATA));
    // As many entries as a command of 64 MiB has room for, all of them here in 8 MiB of memory: nulls, which are no memory.
    driver.prepare(0, [RESOURCE_ATTACH_BACKING, 0, 0, 0, 0, 0], &[1, u32::MAX]);
    let mut chain = vec![Descriptor(RAM + COMMAND, 32, NEXT, 1)];
    for next in 2..10 {
        chain.push(Descriptor(RAM, RAM_SIZE as u32, NEXT, next));
    }
    chain.push(Descriptor(RAM + RESPONSE, 24, WRITE, 0));
    assert_eq!(driver.ask(0, &chain), (24, ERR_INVALID_PARAMETER));
    driver.assert_works("afterwards");
}

#[test]
fn a_machine_has_as_many_renderer_processes_as_it_may_and_no_more() {
    let (_dir, server, mut driver) = server_with("--max-contexts=1");
    let signal = |signal| {
        for pid in server.workers() {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if line.split(|byte| *byte == 0).any(|word| word == b"worker") {
                kill(pid, signal);
            }
        }
    };
    driver.create_context(1);
    assert_eq!(driver.try_context(1), OK_NODATA);
    eventually("a spare", || server.workers().len() == 3);
    // Contexts go, and their processes, which stand still, do not: that would add up.
    signal(Signal::STOP);
    driver.destroy_context(1);
    driver.create_context(2);
    driver.destroy_context(2);
    eventually("another spare", || server.workers().len() == 4);
    driver.create_context(3);
    assert_eq!(driver.try_context(3), ERR_UNSPEC);
    assert!(
        server.log().contains("that is the limit"),
        "{}",
        server.log()
    );
    driver.destroy_context(3);
    signal(Signal::CONT);
    eventually("the processes end", || server.workers().len() == 2);
    driver.create_context(4);
    assert_eq!(driver.try_context(4), OK_NODATA);
}
