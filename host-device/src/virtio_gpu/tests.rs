//! Commands as bytes in, responses as bytes out, with guest memory and renderer processes that do as they are told.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use asgard_asg::layout;
use asgard_asg::submit::Command as Submitted;
use bytemuck::Pod;

use super::gpu::{Command, Config, CursorPlace, Gpu, Host, Picture, Show};
use super::protocol::*;
use super::resource::GuestMemory;
use crate::device;
use crate::link::{Answer, Request};
use crate::resource::sealed_memory;

/// Where guest memory begins, and how much there is.
const RAM: u64 = 0x10_0000;
const RAM_SIZE: usize = 1 << 20;
const WINDOW: u64 = 64 << 20;

#[derive(Default)]
struct Fake {
    ram: RefCell<Vec<u8>>,
    answers: BTreeMap<u64, Vec<u8>>,
    told: Vec<(u32, Request)>,
    open: BTreeSet<u32>,
    /// What was mapped and not unmapped.
    maps: BTreeMap<u64, u64>,
    asked_maps: Vec<(u32, u64)>,
    shown: Vec<(usize, Show)>,
    /// Renderer processes do not keep up.
    backed_up: bool,
    /// There are no more renderer processes.
    exhausted: bool,
}

impl GuestMemory for Fake {
    fn covers(&self, address: u64, len: u64) -> bool {
        let end = address.checked_add(len);
        address >= RAM && end.is_some_and(|end| end <= RAM + RAM_SIZE as u64)
    }
    fn read(&self, address: u64, to: &mut [u8]) -> bool {
        let inside = self.covers(address, to.len() as u64);
        if inside {
            let at = (address - RAM) as usize;
            to.copy_from_slice(&self.ram.borrow()[at..at + to.len()]);
        }
        inside
    }
    fn write(&self, address: u64, from: &[u8]) -> bool {
        let inside = self.covers(address, from.len() as u64);
        if inside {
            let at = (address - RAM) as usize;
            self.ram.borrow_mut()[at..at + from.len()].copy_from_slice(from);
        }
        inside
    }
}

impl Host for Fake {
    fn answer(&mut self, id: u64, response: &[u8]) {
        let old = self.answers.insert(id, response.to_vec());
        assert!(old.is_none(), "command {id} is answered twice");
    }
    fn open(&mut self, ctx_id: u32) -> bool {
        !self.exhausted && self.open.insert(ctx_id)
    }
    fn tell(&mut self, ctx_id: u32, request: Request, memory: Option<Arc<OwnedFd>>) -> bool {
        assert_eq!(memory.is_some(), matches!(request, Request::Add { .. }));
        self.told.push((ctx_id, request));
        !self.backed_up
    }
    fn close(&mut self, ctx_id: u32) {
        self.open.remove(&ctx_id);
    }
    fn map(&mut self, res_id: u32, _file: &Arc<OwnedFd>, offset: u64, len: u64) {
        self.maps.insert(offset, len);
        self.asked_maps.push((res_id, offset));
    }
    fn unmap(&mut self, offset: u64, len: u64) {
        assert_eq!(self.maps.remove(&offset), Some(len));
    }
    fn is_watched(&self, _scanout: usize) -> bool {
        true
    }
    fn show(&mut self, scanout: usize, what: Show) {
        self.shown.push((scanout, what));
    }
    fn cannot_shrink(&self, file: &OwnedFd) -> bool {
        let seals = rustix::fs::fcntl_get_seals(file);
        seals.is_ok_and(|seals| seals.contains(rustix::fs::SealFlags::SHRINK))
    }
}

struct Machine {
    gpu: Gpu,
    host: Fake,
    next: u64,
}

impl Machine {
    fn new() -> Self {
        Self::with(device::Limits::default(), feature::ALL)
    }

    fn with(limits: device::Limits, features: u64) -> Self {
        let device = device::Config {
            limits,
            ..device::Config::default()
        };
        let mut gpu = Gpu::new(Config {
            device,
            color_buffer_memory_index: 3,
            window: WINDOW,
            maps: 3,
            displays: vec![(640, 480), (320, 200)],
        });
        gpu.set_features(features);
        let ram = (0..RAM_SIZE).map(|at| (at * 7 + at / 256) as u8).collect();
        let host = Fake {
            ram: RefCell::new(ram),
            ..Fake::default()
        };
        Self { gpu, host, next: 0 }
    }

    /// Sends a command and returns its number.
    fn send(&mut self, header: Header, rest: &[u8]) -> u64 {
        self.next += 1;
        let mut bytes = bytemuck::bytes_of(&header).to_vec();
        bytes.extend_from_slice(rest);
        let cursor = header.kind >= cmd::UPDATE_CURSOR;
        let id = self.next;
        self.gpu
            .submit(&mut self.host, Command { id, cursor, bytes });
        id
    }

    /// The response's header and what follows, if there is one by now.
    fn response(&self, id: u64) -> Option<(Header, Vec<u8>)> {
        let bytes = self.host.answers.get(&id)?;
        let (head, tail) = bytes.split_at(HEADER);
        Some((bytemuck::pod_read_unaligned(head), tail.to_vec()))
    }

    fn kind(&self, id: u64) -> Option<u32> {
        self.response(id).map(|(header, _)| header.kind)
    }

    /// Sends a command of a context and returns the type of the response.
    fn ctx<T: Pod>(&mut self, ctx_id: u32, kind: u32, body: &T) -> u32 {
        let header = Header {
            kind,
            ctx_id,
            ..Header::default()
        };
        let id = self.send(header, bytemuck::bytes_of(body));
        self.kind(id).expect("no answer")
    }

    fn run<T: Pod>(&mut self, kind: u32, body: &T) -> u32 {
        self.ctx(0, kind, body)
    }

    fn context(&mut self, ctx_id: u32) {
        assert_eq!(
            self.ctx(ctx_id, cmd::CTX_CREATE, &create(3)),
            resp::OK_NODATA
        );
    }

    fn resource(&mut self, kind: u32, resource_id: u32) -> u32 {
        self.run(
            kind,
            &ResourceId {
                resource_id,
                padding: 0,
            },
        )
    }

    /// Asks for a blob, plays the renderer process, and returns the type of the response.
    fn blob(&mut self, ctx_id: u32, c: ResourceCreateBlob, entries: &[MemEntry]) -> u32 {
        let header = Header {
            kind: cmd::RESOURCE_CREATE_BLOB,
            ctx_id,
            ..Header::default()
        };
        let mut bytes = bytemuck::bytes_of(&c).to_vec();
        bytes.extend_from_slice(bytemuck::cast_slice(entries));
        let asked = self.host.told.len();
        let id = self.send(header, &bytes);
        if let Some((_, Request::Take { token, size, .. })) = self.host.told.get(asked).cloned() {
            assert_eq!(self.kind(id), None, "answered before there is memory");
            self.give(ctx_id, token, size.next_multiple_of(4096));
        }
        self.kind(id).expect("no answer")
    }

    fn give(&mut self, ctx_id: u32, token: u64, size: u64) {
        let memory = sealed_memory("test", size).unwrap();
        let answer = Answer::Blob {
            token,
            size,
            map_info: 1,
        };
        self.gpu.heard(&mut self.host, ctx_id, answer, Some(memory));
    }

    fn map(&mut self, resource_id: u32, offset: u64) -> u32 {
        let header = Header {
            kind: cmd::RESOURCE_MAP_BLOB,
            ..Header::default()
        };
        let c = MapBlob {
            resource_id,
            padding: 0,
            offset,
        };
        let id = self.send(header, bytemuck::bytes_of(&c));
        if self.host.asked_maps.pop().is_some() {
            assert_eq!(self.kind(id), None);
            self.gpu.mapped(&mut self.host, resource_id, true);
        }
        self.kind(id).expect("no answer")
    }

    fn attach(&mut self, ctx_id: u32, resource_id: u32) -> u32 {
        self.ctx(
            ctx_id,
            cmd::CTX_ATTACH_RESOURCE,
            &ResourceId {
                resource_id,
                padding: 0,
            },
        )
    }

    fn backing(&mut self, resource_id: u32, entries: &[MemEntry]) -> u32 {
        let c = AttachBacking {
            resource_id,
            nr_entries: entries.len() as u32,
        };
        let mut bytes = bytemuck::bytes_of(&c).to_vec();
        bytes.extend_from_slice(bytemuck::cast_slice(entries));
        let header = Header {
            kind: cmd::RESOURCE_ATTACH_BACKING,
            ..Header::default()
        };
        let id = self.send(header, &bytes);
        self.kind(id).expect("no answer")
    }

    fn submit(&mut self, header: Header, command: Submitted) -> u64 {
        let mut payload = Vec::new();
        command.write(&mut payload);
        let c = Submit3d {
            size: payload.len() as u32,
            padding: 0,
        };
        let mut bytes = bytemuck::bytes_of(&c).to_vec();
        bytes.extend_from_slice(&payload);
        self.send(
            Header {
                kind: cmd::SUBMIT_3D,
                ..header
            },
            &bytes,
        )
    }

    fn last_token(&self) -> u64 {
        match self.host.told.last() {
            Some((_, Request::Submit { token, .. } | Request::Take { token, .. })) => *token,
            other => panic!("{other:?}"),
        }
    }

    fn done(&mut self, ctx_id: u32, token: u64) {
        self.gpu
            .heard(&mut self.host, ctx_id, Answer::Done { token }, None);
    }
}

fn create(capset: u32) -> CtxCreate {
    let mut debug_name = [0; 64];
    debug_name[..4].copy_from_slice(b"test");
    CtxCreate {
        nlen: 4,
        context_init: capset,
        debug_name,
    }
}

fn entry(offset: u64, length: u32) -> MemEntry {
    MemEntry {
        addr: RAM + offset,
        length,
        padding: 0,
    }
}

fn fenced(ctx_id: u32, ring_idx: Option<u8>, fence_id: u64) -> Header {
    Header {
        flags: FLAG_FENCE | if ring_idx.is_some() { FLAG_RING_IDX } else { 0 },
        fence_id,
        ctx_id,
        ring_idx: ring_idx.unwrap_or(0),
        ..Header::default()
    }
}

const PLACEHOLDER: Submitted = Submitted::PlaceholderVk;
const EXPORT: Submitted = Submitted::CreateExportSyncVk {
    device: 1,
    fence: 2,
};

#[test]
fn every_blob_can_do_what_its_memory_and_flags_say_and_nothing_else() {
    let memories = [BLOB_MEM_GUEST, BLOB_MEM_HOST3D, BLOB_MEM_HOST3D_GUEST];
    for (mem, flags) in memories
        .into_iter()
        .flat_map(|mem| (0..8).map(move |flags| (mem, flags)))
    {
        for blob_id in [0, 7] {
            let what = format!("memory {mem}, flags {flags}, blob {blob_id}");
            let [mappable, shareable, cross] = [1, 2, 4].map(|flag| flags & flag != 0);
            let on_host = mem != BLOB_MEM_GUEST;
            let of_guest = mem != BLOB_MEM_HOST3D;
            let mut m = Machine::new();
            m.context(1);
            m.context(2);
            let entries = [entry(0, 4096), entry(0x8000, 4096)];
            let entries = if of_guest { entries.as_slice() } else { &[] };
            let c = ResourceCreateBlob {
                resource_id: 5,
                blob_mem: mem,
                blob_flags: flags,
                nr_entries: entries.len() as u32,
                blob_id,
                size: 8192,
            };
            let maker = if on_host { 1 } else { 0 };
            assert_eq!(m.blob(maker, c, entries), resp::OK_NODATA, "{what}");

            let can = |yes: bool, ok: u32| if yes { ok } else { resp::ERR_INVALID_PARAMETER };
            let uuid = can(cross, resp::OK_RESOURCE_UUID);
            assert_eq!(
                m.resource(cmd::RESOURCE_ASSIGN_UUID, 5),
                uuid,
                "UUID: {what}"
            );

            let map = can(mappable && on_host, resp::OK_MAP_INFO);
            assert_eq!(m.map(5, 0x4000), map, "map: {what}");
            let again = m.map(5, 0x8000);
            assert_eq!(again, resp::ERR_INVALID_PARAMETER, "map twice: {what}");
            let unmap = can(mappable && on_host, resp::OK_NODATA);
            assert_eq!(
                m.resource(cmd::RESOURCE_UNMAP_BLOB, 5),
                unmap,
                "unmap: {what}"
            );
            let twice = m.resource(cmd::RESOURCE_UNMAP_BLOB, 5);
            assert_eq!(twice, resp::ERR_INVALID_PARAMETER, "unmap twice: {what}");
            assert!(m.host.maps.is_empty());

            if on_host {
                assert_eq!(m.attach(1, 5), resp::OK_NODATA, "attach: {what}");
            }
            let other = can(shareable || cross || !on_host, resp::OK_NODATA);
            assert_eq!(m.attach(2, 5), other, "attach to another: {what}");

            let transfer = Transfer3d {
                region: Cube {
                    w: 100,
                    h: 1,
                    d: 1,
                    x: 4090,
                    ..Cube::default()
                },
                offset: 4090,
                resource_id: 5,
                ..Transfer3d::default()
            };
            let moved = match mem {
                BLOB_MEM_HOST3D => resp::ERR_UNSPEC,
                _ => resp::OK_NODATA,
            };
            for kind in [cmd::TRANSFER_TO_HOST_3D, cmd::TRANSFER_FROM_HOST_3D] {
                assert_eq!(m.run(kind, &transfer), moved, "transfer: {what}");
            }

            let rect = Rect {
                width: 32,
                height: 64,
                ..Rect::default()
            };
            let scanout = SetScanoutBlob {
                rect,
                scanout_id: 1,
                resource_id: 5,
                width: 32,
                height: 64,
                format: 1,
                strides: [128, 0, 0, 0],
                ..SetScanoutBlob::default()
            };
            assert_eq!(
                m.run(cmd::SET_SCANOUT_BLOB, &scanout),
                resp::OK_NODATA,
                "{what}"
            );
            let flush = ResourceFlush {
                rect,
                resource_id: 5,
                padding: 0,
            };
            assert_eq!(
                m.run(cmd::RESOURCE_FLUSH, &flush),
                resp::OK_NODATA,
                "{what}"
            );
            let Some((1, Show::Frame(picture))) = m.host.shown.last() else {
                panic!("nothing is shown: {what}")
            };
            assert_eq!(
                (picture.width, picture.height, picture.pixels.len()),
                (32, 64, 8192)
            );
            // The second page of guest memory lies elsewhere.
            if mem == BLOB_MEM_GUEST {
                assert_eq!(picture.pixels[4096..], m.host.ram.borrow()[0x8000..0x9000]);
            }

            let attach = match mem {
                BLOB_MEM_HOST3D => resp::ERR_INVALID_PARAMETER,
                _ => resp::ERR_UNSPEC,
            };
            assert_eq!(m.backing(5, &[entry(0, 8192)]), attach, "backing: {what}");
            let detach = if of_guest {
                resp::OK_NODATA
            } else {
                resp::ERR_UNSPEC
            };
            assert_eq!(
                m.resource(cmd::RESOURCE_DETACH_BACKING, 5),
                detach,
                "detach: {what}"
            );
            let attach = can(of_guest, resp::OK_NODATA);
            assert_eq!(
                m.backing(5, &[entry(0, 8192)]),
                attach,
                "backing again: {what}"
            );

            assert_eq!(
                m.resource(cmd::RESOURCE_UNREF, 5),
                resp::OK_NODATA,
                "{what}"
            );
            assert_eq!(m.host.shown.last(), Some(&(1, Show::Off)));
            assert_eq!(
                m.resource(cmd::RESOURCE_UNREF, 5),
                resp::ERR_INVALID_RESOURCE_ID
            );
        }
    }
}

#[test]
fn misuse_is_answered_with_the_specifications_errors() {
    let mut m = Machine::new();
    m.context(1);
    let flat = |resource_id, format, width, height| ResourceCreate2d {
        resource_id,
        format,
        width,
        height,
    };
    assert_eq!(
        m.run(cmd::RESOURCE_CREATE_2D, &flat(9, 1, 64, 32)),
        resp::OK_NODATA
    );
    let blob = ResourceCreateBlob {
        resource_id: 1,
        blob_mem: BLOB_MEM_HOST3D,
        blob_flags: BLOB_FLAG_MAPPABLE,
        size: 4096,
        ..ResourceCreateBlob::default()
    };
    for (c, ctx_id, expected) in [
        (
            ResourceCreateBlob {
                resource_id: 0,
                ..blob
            },
            1,
            resp::ERR_INVALID_RESOURCE_ID,
        ),
        (
            ResourceCreateBlob {
                resource_id: 9,
                ..blob
            },
            1,
            resp::ERR_INVALID_RESOURCE_ID,
        ),
        (blob, 2, resp::ERR_INVALID_CONTEXT_ID),
        (blob, 0, resp::ERR_INVALID_CONTEXT_ID),
        (
            ResourceCreateBlob { size: 0, ..blob },
            1,
            resp::ERR_INVALID_PARAMETER,
        ),
        (
            ResourceCreateBlob {
                size: u64::MAX,
                ..blob
            },
            1,
            resp::ERR_OUT_OF_MEMORY,
        ),
        (
            ResourceCreateBlob {
                blob_mem: 0,
                ..blob
            },
            1,
            resp::ERR_INVALID_PARAMETER,
        ),
        (
            ResourceCreateBlob {
                blob_mem: 4,
                ..blob
            },
            1,
            resp::ERR_INVALID_PARAMETER,
        ),
        (
            ResourceCreateBlob {
                blob_flags: 8,
                ..blob
            },
            1,
            resp::ERR_INVALID_PARAMETER,
        ),
        (
            ResourceCreateBlob {
                nr_entries: 1,
                ..blob
            },
            1,
            resp::ERR_INVALID_PARAMETER,
        ),
        (
            ResourceCreateBlob {
                blob_mem: BLOB_MEM_GUEST,
                ..blob
            },
            0,
            resp::ERR_INVALID_PARAMETER,
        ),
        (
            ResourceCreateBlob {
                blob_mem: BLOB_MEM_GUEST,
                nr_entries: u32::MAX,
                ..blob
            },
            0,
            resp::ERR_INVALID_PARAMETER,
        ),
    ] {
        assert_eq!(
            m.ctx(ctx_id, cmd::RESOURCE_CREATE_BLOB, &c),
            expected,
            "{c:?}"
        );
    }
    // Guest memory that is not there, or not enough of it.
    for entries in [
        [entry(0, 4000)],
        [entry(RAM_SIZE as u64 - 4, 4096)],
        [MemEntry {
            addr: 0,
            length: 4096,
            padding: 0,
        }],
        [MemEntry {
            addr: u64::MAX,
            length: 4096,
            padding: 0,
        }],
    ] {
        let c = ResourceCreateBlob {
            blob_mem: BLOB_MEM_GUEST,
            nr_entries: 1,
            ..blob
        };
        assert_eq!(
            m.blob(0, c, &entries),
            resp::ERR_INVALID_PARAMETER,
            "{entries:?}"
        );
    }
    for (c, expected) in [
        (flat(0, 1, 8, 8), resp::ERR_INVALID_RESOURCE_ID),
        (flat(9, 1, 8, 8), resp::ERR_INVALID_RESOURCE_ID),
        (flat(1, 5, 8, 8), resp::ERR_INVALID_PARAMETER),
        (flat(1, 1, 0, 8), resp::ERR_INVALID_PARAMETER),
        (flat(1, 1, 8, 0), resp::ERR_INVALID_PARAMETER),
        (flat(1, 1, u32::MAX, u32::MAX), resp::ERR_INVALID_PARAMETER),
    ] {
        assert_eq!(m.run(cmd::RESOURCE_CREATE_2D, &c), expected, "{c:?}");
    }
    let rect = |x, y, width, height| Rect {
        x,
        y,
        width,
        height,
    };
    let scanout = |rect, scanout_id, resource_id| SetScanout {
        rect,
        scanout_id,
        resource_id,
    };
    for (c, expected) in [
        (
            scanout(rect(0, 0, 64, 32), 2, 9),
            resp::ERR_INVALID_SCANOUT_ID,
        ),
        (
            scanout(rect(0, 0, 64, 32), 0, 8),
            resp::ERR_INVALID_RESOURCE_ID,
        ),
        (
            scanout(rect(0, 0, 65, 32), 0, 9),
            resp::ERR_INVALID_PARAMETER,
        ),
        (
            scanout(rect(u32::MAX, 0, 64, 32), 0, 9),
            resp::ERR_INVALID_PARAMETER,
        ),
        (
            scanout(rect(0, 0, 0, 32), 0, 9),
            resp::ERR_INVALID_PARAMETER,
        ),
        (scanout(rect(0, 0, 64, 32), 1, 9), resp::OK_NODATA),
        (scanout(rect(9, 9, 9, 9), 1, 0), resp::OK_NODATA),
    ] {
        assert_eq!(m.run(cmd::SET_SCANOUT, &c), expected, "{c:?}");
    }
    let transfer = |rect, offset, resource_id| TransferToHost2d {
        rect,
        offset,
        resource_id,
        padding: 0,
    };
    let all = rect(0, 0, 64, 32);
    assert_eq!(
        m.run(cmd::TRANSFER_TO_HOST_2D, &transfer(all, 0, 9)),
        resp::ERR_UNSPEC
    );
    assert_eq!(
        m.backing(8, &[entry(0, 8192)]),
        resp::ERR_INVALID_RESOURCE_ID
    );
    assert_eq!(m.backing(9, &[]), resp::ERR_INVALID_PARAMETER);
    assert_eq!(m.backing(9, &[entry(0, 8192)]), resp::OK_NODATA);
    assert_eq!(m.backing(9, &[entry(0, 8192)]), resp::ERR_UNSPEC);
    for (c, expected) in [
        (transfer(all, 0, 9), resp::OK_NODATA),
        (transfer(all, 0, 8), resp::ERR_INVALID_RESOURCE_ID),
        (transfer(all, 4, 9), resp::ERR_INVALID_PARAMETER),
        (transfer(all, u64::MAX, 9), resp::ERR_INVALID_PARAMETER),
        (
            transfer(rect(1, 0, 64, 32), 0, 9),
            resp::ERR_INVALID_PARAMETER,
        ),
        (
            transfer(rect(u32::MAX, u32::MAX, 2, 2), 0, 9),
            resp::ERR_INVALID_PARAMETER,
        ),
    ] {
        assert_eq!(m.run(cmd::TRANSFER_TO_HOST_2D, &c), expected, "{c:?}");
    }
    let flush = |rect, resource_id| ResourceFlush {
        rect,
        resource_id,
        padding: 0,
    };
    assert_eq!(
        m.run(cmd::RESOURCE_FLUSH, &flush(all, 8)),
        resp::ERR_INVALID_RESOURCE_ID
    );
    assert_eq!(
        m.run(cmd::RESOURCE_FLUSH, &flush(rect(0, 1, 64, 32), 9)),
        resp::ERR_INVALID_PARAMETER
    );
    assert_eq!(m.map(9, 0), resp::ERR_INVALID_PARAMETER);
    assert_eq!(m.map(8, 0), resp::ERR_INVALID_RESOURCE_ID);

    // Contexts.
    for (ctx_id, c, expected) in [
        (0, create(3), resp::ERR_INVALID_CONTEXT_ID),
        (1, create(3), resp::ERR_INVALID_CONTEXT_ID),
        (2, create(1), resp::ERR_INVALID_PARAMETER),
        (2, create(4), resp::ERR_INVALID_PARAMETER),
        (
            2,
            CtxCreate {
                nlen: 65,
                ..create(3)
            },
            resp::ERR_INVALID_PARAMETER,
        ),
    ] {
        assert_eq!(m.ctx(ctx_id, cmd::CTX_CREATE, &c), expected, "{c:?}");
    }
    assert_eq!(
        m.ctx(2, cmd::CTX_DESTROY, &[0_u32; 0]),
        resp::ERR_INVALID_CONTEXT_ID
    );
    assert_eq!(m.attach(2, 9), resp::ERR_INVALID_CONTEXT_ID);
    assert_eq!(m.attach(1, 8), resp::ERR_INVALID_RESOURCE_ID);
    let detach = ResourceId {
        resource_id: 9,
        padding: 0,
    };
    assert_eq!(
        m.ctx(1, cmd::CTX_DETACH_RESOURCE, &detach),
        resp::ERR_INVALID_RESOURCE_ID
    );

    // Capsets and displays.
    assert_eq!(
        m.run(cmd::GET_CAPSET_INFO, &[1_u32, 0]),
        resp::ERR_INVALID_PARAMETER
    );
    assert_eq!(
        m.run(cmd::GET_CAPSET, &[4_u32, 0]),
        resp::ERR_INVALID_PARAMETER
    );
    assert_eq!(
        m.run(cmd::GET_CAPSET, &[3_u32, 1]),
        resp::ERR_INVALID_PARAMETER
    );
    assert_eq!(
        m.run(cmd::GET_EDID, &[2_u32, 0]),
        resp::ERR_INVALID_SCANOUT_ID
    );

    // What is no command, or not all of one.
    for kind in [0, 0xff, 0x10e, 0x20a, 0x1100, u32::MAX] {
        assert_eq!(m.run(kind, &[0_u32; 32]), resp::ERR_UNSPEC, "{kind:#x}");
    }
    for kind in (0x101..=0x10d)
        .chain(0x202..=0x209)
        .chain([0x200, 0x300, 0x301])
    {
        let id = m.send(
            Header {
                kind,
                ctx_id: 3,
                ..Header::default()
            },
            &[0; 3],
        );
        assert_eq!(m.kind(id), Some(resp::ERR_INVALID_PARAMETER), "{kind:#x}");
    }
    m.next += 1;
    let id = m.next;
    m.gpu.submit(
        &mut m.host,
        Command {
            id,
            cursor: false,
            bytes: vec![0; 23],
        },
    );
    assert_eq!(m.kind(id), Some(resp::ERR_UNSPEC));
    m.next += 1;
    let id = m.next;
    let header = Header {
        kind: cmd::GET_DISPLAY_INFO,
        ..Header::default()
    };
    let bytes = bytemuck::bytes_of(&header).to_vec();
    m.gpu.submit(
        &mut m.host,
        Command {
            id,
            cursor: true,
            bytes,
        },
    );
    assert_eq!(
        m.kind(id),
        Some(resp::ERR_UNSPEC),
        "not on the cursor queue"
    );
}

#[test]
fn what_was_not_negotiated_is_not_there() {
    let mut m = Machine::with(device::Limits::default(), 0);
    let refused = [
        (cmd::GET_EDID, resp::ERR_UNSPEC),
        (cmd::RESOURCE_ASSIGN_UUID, resp::ERR_UNSPEC),
        (cmd::RESOURCE_CREATE_BLOB, resp::ERR_UNSPEC),
        (cmd::SET_SCANOUT_BLOB, resp::ERR_UNSPEC),
        (cmd::RESOURCE_MAP_BLOB, resp::ERR_UNSPEC),
        (cmd::RESOURCE_UNMAP_BLOB, resp::ERR_UNSPEC),
        (cmd::CTX_CREATE, resp::ERR_UNSPEC),
        (cmd::RESOURCE_CREATE_3D, resp::ERR_UNSPEC),
        (cmd::SUBMIT_3D, resp::ERR_UNSPEC),
    ];
    for (kind, expected) in refused {
        assert_eq!(m.ctx(1, kind, &[1_u32; 32]), expected, "{kind:#x}");
    }
    let mut m = Machine::with(
        device::Limits::default(),
        feature::ALL & !feature::RESOURCE_UUID,
    );
    m.context(1);
    let c = ResourceCreateBlob {
        resource_id: 1,
        blob_mem: BLOB_MEM_HOST3D,
        blob_flags: BLOB_FLAG_CROSS_DEVICE,
        size: 4096,
        ..ResourceCreateBlob::default()
    };
    assert_eq!(
        m.ctx(1, cmd::RESOURCE_CREATE_BLOB, &c),
        resp::ERR_INVALID_PARAMETER
    );
}

#[test]
fn a_context_of_no_capset_has_resources_and_no_commands() {
    for features in [feature::ALL, feature::ALL & !feature::CONTEXT_INIT] {
        let mut m = Machine::with(device::Limits::default(), features);
        assert_eq!(m.ctx(1, cmd::CTX_CREATE, &create(0)), resp::OK_NODATA);
        let c = ResourceCreate2d {
            resource_id: 1,
            format: 1,
            width: 1,
            height: 1,
        };
        assert_eq!(m.run(cmd::RESOURCE_CREATE_2D, &c), resp::OK_NODATA);
        assert_eq!(m.attach(1, 1), resp::OK_NODATA);
        let header = Header {
            ctx_id: 1,
            ..Header::default()
        };
        let id = m.submit(header, PLACEHOLDER);
        assert_eq!(m.kind(id), Some(resp::ERR_INVALID_PARAMETER));
        let c = ResourceCreateBlob {
            resource_id: 2,
            blob_mem: BLOB_MEM_HOST3D,
            size: 4096,
            ..ResourceCreateBlob::default()
        };
        assert_eq!(
            m.ctx(1, cmd::RESOURCE_CREATE_BLOB, &c),
            resp::ERR_INVALID_PARAMETER
        );
        assert_eq!(m.ctx(1, cmd::CTX_DESTROY, &[0_u32; 0]), resp::OK_NODATA);
        assert!(m.host.open.is_empty() && m.host.told.is_empty());
    }
}

#[test]
fn the_driver_reads_displays_and_capsets() {
    let mut m = Machine::new();
    let id = m.send(
        Header {
            kind: cmd::GET_DISPLAY_INFO,
            ..Header::default()
        },
        &[],
    );
    let (header, body) = m.response(id).unwrap();
    assert_eq!((header.kind, body.len()), (resp::OK_DISPLAY_INFO, 16 * 24));
    let displays: &[DisplayOne] = bytemuck::cast_slice(&body);
    let sizes = displays
        .iter()
        .map(|d| (d.enabled, d.rect.width, d.rect.height));
    let expected = [(1, 640, 480), (1, 320, 200), (0, 0, 0)];
    assert!(sizes.take(3).eq(expected));
    let id = m.send(
        Header {
            kind: cmd::GET_EDID,
            ..Header::default()
        },
        &[0; 8],
    );
    let (header, body) = m.response(id).unwrap();
    assert_eq!((header.kind, body.len()), (resp::OK_EDID, 8 + 1024));
    assert_eq!(body[..4], 128_u32.to_le_bytes());
    assert_eq!(body[8..16], [0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0]);
    let id = m.send(
        Header {
            kind: cmd::GET_CAPSET_INFO,
            ..Header::default()
        },
        &[0; 8],
    );
    let (_, body) = m.response(id).unwrap();
    let info: CapsetInfo = bytemuck::pod_read_unaligned(&body);
    assert_eq!((info.capset_id, info.capset_max_version), (3, 0));
    let id = m.send(
        Header {
            kind: cmd::GET_CAPSET,
            ..Header::default()
        },
        bytemuck::bytes_of(&[3_u32, 0]),
    );
    let (header, body) = m.response(id).unwrap();
    assert_eq!(header.kind, resp::OK_CAPSET);
    assert_eq!(body.len(), info.capset_max_size as usize);
    assert_eq!(
        asgard_asg::capset::parse(&body).0.color_buffer_memory_index,
        3
    );
    let config = m.gpu.config_space();
    assert_eq!((config.num_scanouts, config.num_capsets), (2, 1));
}

#[test]
fn transfers_keep_to_their_box_and_strides() {
    let mut m = Machine::new();
    m.context(1);
    let c = ResourceCreate3d {
        resource_id: 4,
        target: 2,
        format: 67,
        width: 13,
        height: 7,
        depth: 1,
        array_size: 3,
        last_level: 2,
        ..ResourceCreate3d::default()
    };
    assert_eq!(m.run(cmd::RESOURCE_CREATE_3D, &c), resp::OK_NODATA);
    assert_eq!(m.attach(1, 4), resp::OK_NODATA);
    // In pieces of odd sizes, in no order.
    let pieces = [entry(0x9000, 1001), entry(0x100, 77), entry(0x4000, 8000)];
    assert_eq!(m.backing(4, &pieces), resp::OK_NODATA);
    let flat: Vec<u8> = {
        let ram = m.host.ram.borrow();
        let piece = |e: &MemEntry| ram[(e.addr - RAM) as usize..][..e.length as usize].to_vec();
        pieces.iter().flat_map(piece).collect()
    };
    let (x, y, z, w, h, d) = (3, 2, 1, 5, 4, 2);
    let (offset, stride, layer_stride) = (11, 37, 301);
    let there = Transfer3d {
        region: Cube { x, y, z, w, h, d },
        offset,
        resource_id: 4,
        level: 0,
        stride,
        layer_stride,
    };
    assert_eq!(m.ctx(1, cmd::TRANSFER_TO_HOST_3D, &there), resp::OK_NODATA);
    // The host's memory, through the descriptor that the renderer process got... read back packed.
    m.host.ram.borrow_mut().fill(0xee);
    let back = Transfer3d {
        offset: 0,
        stride: 0,
        layer_stride: 0,
        ..there
    };
    assert_eq!(m.ctx(1, cmd::TRANSFER_FROM_HOST_3D, &back), resp::OK_NODATA);
    let mut expected = Vec::new();
    for layer in 0..d {
        for row in 0..h {
            let at = offset as usize + (layer * layer_stride + row * stride) as usize;
            expected.extend_from_slice(&flat[at..at + w as usize * 4]);
        }
    }
    let ram = m.host.ram.borrow().clone();
    assert_eq!(ram[0x9000..0x9000 + expected.len()], expected);
    assert!(
        ram[0x9000 + expected.len()..0xa000]
            .iter()
            .all(|byte| *byte == 0xee)
    );
    for wrong in [
        Transfer3d { level: 3, ..there },
        Transfer3d {
            region: Cube {
                x: 9,
                ..there.region
            },
            ..there
        },
        Transfer3d {
            region: Cube {
                z: 2,
                ..there.region
            },
            ..there
        },
        Transfer3d {
            region: Cube {
                h: u32::MAX,
                ..there.region
            },
            ..there
        },
        Transfer3d {
            offset: 9000,
            ..there
        },
        Transfer3d {
            layer_stride: u32::MAX,
            ..there
        },
    ] {
        let kind = m.ctx(1, cmd::TRANSFER_TO_HOST_3D, &wrong);
        assert_eq!(kind, resp::ERR_INVALID_PARAMETER, "{wrong:?}");
    }
    // A smaller level, which lies behind the larger ones.
    let level = Transfer3d {
        region: Cube {
            w: 3,
            h: 1,
            d: 3,
            ..Cube::default()
        },
        level: 2,
        offset: 0,
        stride: 0,
        layer_stride: 0,
        resource_id: 4,
    };
    assert_eq!(m.ctx(1, cmd::TRANSFER_TO_HOST_3D, &level), resp::OK_NODATA);
    let other = Transfer3d {
        resource_id: 5,
        ..there
    };
    assert_eq!(
        m.ctx(1, cmd::TRANSFER_TO_HOST_3D, &other),
        resp::ERR_INVALID_RESOURCE_ID
    );
    m.context(2);
    assert_eq!(
        m.ctx(2, cmd::TRANSFER_TO_HOST_3D, &there),
        resp::ERR_INVALID_RESOURCE_ID
    );
}

#[test]
fn a_picture_reaches_the_display() {
    let mut m = Machine::new();
    let c = ResourceCreate2d {
        resource_id: 1,
        format: 2,
        width: 8,
        height: 4,
    };
    assert_eq!(m.run(cmd::RESOURCE_CREATE_2D, &c), resp::OK_NODATA);
    assert_eq!(m.backing(1, &[entry(0, 128)]), resp::OK_NODATA);
    let all = Rect {
        width: 8,
        height: 4,
        ..Rect::default()
    };
    let transfer = TransferToHost2d {
        rect: all,
        resource_id: 1,
        ..TransferToHost2d::default()
    };
    assert_eq!(m.run(cmd::TRANSFER_TO_HOST_2D, &transfer), resp::OK_NODATA);
    let part = Rect {
        x: 2,
        y: 1,
        width: 5,
        height: 3,
    };
    let scanout = SetScanout {
        rect: part,
        scanout_id: 0,
        resource_id: 1,
    };
    assert_eq!(m.run(cmd::SET_SCANOUT, &scanout), resp::OK_NODATA);
    assert!(m.host.shown.is_empty());
    let flush = ResourceFlush {
        rect: all,
        resource_id: 1,
        padding: 0,
    };
    assert_eq!(m.run(cmd::RESOURCE_FLUSH, &flush), resp::OK_NODATA);
    let ram = m.host.ram.borrow().clone();
    let pixels: Vec<u8> = (1..4)
        .flat_map(|y| ram[y * 32 + 8..y * 32 + 28].to_vec())
        .collect();
    let picture = Picture {
        format: 2,
        width: 5,
        height: 3,
        pixels,
    };
    assert_eq!(m.host.shown, [(0, Show::Frame(picture))]);
    m.host.shown.clear();
    let cursor = UpdateCursor {
        resource_id: 1,
        x: 7,
        y: 8,
        hot_x: 1,
        hot_y: 2,
        ..UpdateCursor::default()
    };
    assert_eq!(m.run(cmd::UPDATE_CURSOR, &cursor), resp::OK_NODATA);
    assert_eq!(
        m.run(cmd::MOVE_CURSOR, &UpdateCursor { x: 9, ..cursor }),
        resp::OK_NODATA
    );
    let off = UpdateCursor {
        resource_id: 0,
        ..cursor
    };
    assert_eq!(m.run(cmd::UPDATE_CURSOR, &off), resp::OK_NODATA);
    let place = CursorPlace {
        x: 7,
        y: 8,
        hot_x: 1,
        hot_y: 2,
    };
    assert!(
        matches!(&m.host.shown[0], (0, Show::Cursor(Some(p), at)) if p.pixels.len() == 128 && *at == place)
    );
    assert_eq!(
        m.host.shown[1],
        (0, Show::Move(CursorPlace { x: 9, ..place }))
    );
    assert_eq!(m.host.shown[2], (0, Show::Cursor(None, place)));
    let beyond = UpdateCursor {
        scanout_id: 2,
        ..cursor
    };
    assert_eq!(
        m.run(cmd::MOVE_CURSOR, &beyond),
        resp::ERR_INVALID_SCANOUT_ID
    );
}

#[test]
fn fences_signal_in_order_on_a_ring_and_in_any_order_across() {
    let mut m = Machine::new();
    m.context(1);
    let first = m.submit(fenced(1, Some(0), 10), EXPORT);
    let first_token = m.last_token();
    let second = m.submit(fenced(1, Some(0), 11), EXPORT);
    let second_token = m.last_token();
    let other_ring = m.submit(fenced(1, Some(1), 12), PLACEHOLDER);
    let other_token = m.last_token();
    let global = m.send(
        Header {
            kind: cmd::GET_DISPLAY_INFO,
            ..fenced(0, None, 13)
        },
        &[],
    );
    assert_eq!(m.kind(global), Some(resp::OK_DISPLAY_INFO));
    m.done(1, other_token);
    assert_eq!(m.kind(other_ring), Some(resp::OK_NODATA));
    m.done(1, second_token);
    assert_eq!((m.kind(first), m.kind(second)), (None, None));
    m.done(1, first_token);
    let (header, _) = m.response(first).unwrap();
    let echo = Header {
        kind: resp::OK_NODATA,
        ..fenced(1, Some(0), 10)
    };
    assert_eq!(header, echo);
    assert_eq!(m.response(second).unwrap().0.fence_id, 11);
    // Fences are flags of any command.
    let id = m.send(
        Header {
            kind: cmd::GET_EDID,
            ..fenced(1, Some(1), 14)
        },
        &[9; 8],
    );
    let (header, _) = m.response(id).unwrap();
    assert_eq!(
        (header.kind, header.fence_id),
        (resp::ERR_INVALID_SCANOUT_ID, 14)
    );
}

#[test]
fn a_fence_that_cannot_be_is_answered() {
    let mut m = Machine::with(
        device::Limits {
            fences: 4,
            ..device::Limits::default()
        },
        feature::ALL,
    );
    m.context(1);
    let kind = |m: &Machine, id| {
        m.response(id)
            .map(|(header, _)| (header.kind, header.flags & FLAG_FENCE))
    };
    let id = m.submit(fenced(2, Some(0), 1), PLACEHOLDER);
    assert_eq!(
        kind(&m, id),
        Some((resp::ERR_INVALID_CONTEXT_ID, FLAG_FENCE))
    );
    let id = m.submit(fenced(1, Some(64), 1), PLACEHOLDER);
    assert_eq!(
        kind(&m, id),
        Some((resp::ERR_INVALID_PARAMETER, FLAG_FENCE))
    );
    let ids: Vec<u64> = (0..2)
        .map(|n| m.submit(fenced(1, Some(0), n), EXPORT))
        .collect();
    let id = m.submit(fenced(1, Some(0), 9), EXPORT);
    assert_eq!(kind(&m, id), Some((resp::ERR_OUT_OF_MEMORY, FLAG_FENCE)));
    // A context that goes takes its fences along.
    assert_eq!(m.ctx(1, cmd::CTX_DESTROY, &[0_u32; 0]), resp::OK_NODATA);
    for id in ids {
        assert_eq!(
            kind(&m, id),
            Some((resp::ERR_INVALID_CONTEXT_ID, FLAG_FENCE))
        );
    }
}

fn ring(m: &mut Machine, ctx_id: u32, resource_id: u32) {
    let c = ResourceCreateBlob {
        resource_id,
        blob_mem: BLOB_MEM_HOST3D,
        blob_flags: BLOB_FLAG_MAPPABLE,
        size: layout::blob_size(layout::DEFAULT_BUFFER_SIZE) as u64,
        ..ResourceCreateBlob::default()
    };
    assert_eq!(
        m.ctx(ctx_id, cmd::RESOURCE_CREATE_BLOB, &c),
        resp::OK_NODATA
    );
    assert_eq!(m.attach(ctx_id, resource_id), resp::OK_NODATA);
    let id = m.submit(
        fenced(ctx_id, None, 1),
        Submitted::ContextCreate { resource_id },
    );
    assert_eq!(m.kind(id), None, "the ring is not ready yet");
    let token = m.last_token();
    m.done(ctx_id, token);
    assert_eq!(m.kind(id), Some(resp::OK_NODATA));
}

#[test]
fn a_ping_reaches_the_ring_without_the_renderer_process() {
    let mut m = Machine::new();
    m.context(1);
    ring(&mut m, 1, 3);
    let told = m.host.told.len();
    let ping = |m: &mut Machine, ctx_id, resource_id| {
        let header = Header {
            ctx_id,
            ..Header::default()
        };
        let id = m.submit(header, Submitted::ContextPing { resource_id });
        m.kind(id)
    };
    assert_eq!(ping(&mut m, 1, 3), Some(resp::OK_NODATA));
    assert_eq!(ping(&mut m, 1, 4), Some(resp::ERR_INVALID_RESOURCE_ID));
    assert_eq!(ping(&mut m, 2, 3), Some(resp::ERR_INVALID_CONTEXT_ID));
    assert_eq!(m.host.told.len(), told);
    // A second consumer on one ring would be one too many.
    let header = Header {
        ctx_id: 1,
        ..Header::default()
    };
    let id = m.submit(header, Submitted::ContextCreate { resource_id: 3 });
    assert_eq!(m.kind(id), Some(resp::ERR_INVALID_RESOURCE_ID));
    assert_eq!(m.resource(cmd::RESOURCE_UNREF, 3), resp::OK_NODATA);
    assert_eq!(m.host.told.last(), Some(&(1, Request::Drop { res_id: 3 })));
    assert_eq!(ping(&mut m, 1, 3), Some(resp::ERR_INVALID_RESOURCE_ID));
}

#[test]
fn what_waits_for_one_context_does_not_stop_another() {
    let mut m = Machine::new();
    m.context(1);
    m.context(2);
    let c = ResourceCreateBlob {
        resource_id: 5,
        blob_mem: BLOB_MEM_HOST3D,
        blob_flags: BLOB_FLAG_MAPPABLE,
        blob_id: 77,
        size: 4096,
        ..ResourceCreateBlob::default()
    };
    let header = |kind, ctx_id| Header {
        kind,
        ctx_id,
        ..Header::default()
    };
    let blob = m.send(header(cmd::RESOURCE_CREATE_BLOB, 1), bytemuck::bytes_of(&c));
    let token = m.last_token();
    let id = ResourceId {
        resource_id: 5,
        padding: 0,
    };
    let attach = m.send(header(cmd::CTX_ATTACH_RESOURCE, 1), bytemuck::bytes_of(&id));
    let map = MapBlob {
        resource_id: 5,
        padding: 0,
        offset: 0,
    };
    let map = m.send(header(cmd::RESOURCE_MAP_BLOB, 0), bytemuck::bytes_of(&map));
    assert_eq!(
        (m.kind(blob), m.kind(attach), m.kind(map)),
        (None, None, None)
    );
    ring(&mut m, 2, 6);
    m.give(1, token, 4096);
    assert_eq!(m.kind(blob), Some(resp::OK_NODATA));
    assert_eq!(m.kind(attach), Some(resp::OK_NODATA));
    assert_eq!(m.kind(map), None);
    let unref = m.send(header(cmd::RESOURCE_UNREF, 0), bytemuck::bytes_of(&id));
    assert_eq!(m.kind(unref), None);
    m.gpu.mapped(&mut m.host, 5, true);
    assert_eq!(
        (m.kind(map), m.kind(unref)),
        (Some(resp::OK_MAP_INFO), Some(resp::OK_NODATA))
    );
    assert!(m.host.maps.is_empty(), "unmapped with the resource");
    // A renderer process that does not read holds up its own context only.
    m.host.backed_up = true;
    let slow = m.submit(
        Header {
            ctx_id: 1,
            ..Header::default()
        },
        PLACEHOLDER,
    );
    let behind = m.submit(
        Header {
            ctx_id: 1,
            ..Header::default()
        },
        PLACEHOLDER,
    );
    let told = m.host.told.len();
    m.host.backed_up = false;
    let other = m.submit(
        Header {
            ctx_id: 2,
            ..Header::default()
        },
        PLACEHOLDER,
    );
    assert_eq!(m.host.told.len(), told + 1);
    let token = m.last_token();
    m.done(2, token);
    assert_eq!(
        (m.kind(slow), m.kind(behind), m.kind(other)),
        (None, None, Some(resp::OK_NODATA))
    );
    m.gpu.drained(&mut m.host, 1);
    assert_eq!(m.host.told.len(), told + 2);
}

#[test]
fn mapped_blobs_outlive_their_context() {
    let mut m = Machine::new();
    m.context(1);
    let c = ResourceCreateBlob {
        blob_mem: BLOB_MEM_HOST3D,
        blob_flags: BLOB_FLAG_MAPPABLE,
        blob_id: 1,
        size: 5000,
        ..ResourceCreateBlob::default()
    };
    for resource_id in 1..=4 {
        assert_eq!(
            m.blob(1, ResourceCreateBlob { resource_id, ..c }, &[]),
            resp::OK_NODATA
        );
    }
    assert_eq!(m.map(1, 100), resp::ERR_INVALID_PARAMETER, "between pages");
    assert_eq!(
        m.map(1, WINDOW - 4096),
        resp::ERR_INVALID_PARAMETER,
        "over the end"
    );
    assert_eq!(m.map(1, u64::MAX - 4095), resp::ERR_INVALID_PARAMETER);
    assert_eq!(m.map(1, WINDOW - 8192), resp::OK_MAP_INFO);
    assert_eq!(
        m.map(2, WINDOW - 12288),
        resp::ERR_INVALID_PARAMETER,
        "over the other"
    );
    assert_eq!(m.map(2, 0), resp::OK_MAP_INFO);
    assert_eq!(m.map(3, 8192), resp::OK_MAP_INFO);
    assert_eq!(
        m.map(4, 16384),
        resp::ERR_OUT_OF_MEMORY,
        "three are the limit here"
    );
    assert_eq!(m.ctx(1, cmd::CTX_DESTROY, &[0_u32; 0]), resp::OK_NODATA);
    assert!(m.host.open.is_empty());
    assert_eq!(m.host.maps.len(), 3);
    assert_eq!(m.resource(cmd::RESOURCE_UNMAP_BLOB, 3), resp::OK_NODATA);
    assert_eq!(m.map(4, 16384), resp::OK_MAP_INFO);
    assert_eq!(m.resource(cmd::RESOURCE_UNREF, 1), resp::OK_NODATA);
    assert_eq!(m.host.maps.len(), 2);
    // The machine monitor may refuse.
    let header = Header {
        kind: cmd::RESOURCE_MAP_BLOB,
        ..Header::default()
    };
    let map = MapBlob {
        resource_id: 3,
        padding: 0,
        offset: 32768,
    };
    let id = m.send(header, bytemuck::bytes_of(&map));
    m.gpu.mapped(&mut m.host, 3, false);
    assert_eq!(m.kind(id), Some(resp::ERR_UNSPEC));
    m.host.maps.remove(&32768);
    m.host.asked_maps.clear();
    assert_eq!(m.map(3, 32768), resp::OK_MAP_INFO);
}

#[test]
fn a_dead_renderer_process_costs_its_context_and_nothing_else() {
    let mut m = Machine::new();
    m.context(1);
    m.context(2);
    ring(&mut m, 1, 3);
    let fence = m.submit(fenced(1, Some(0), 4), EXPORT);
    let c = ResourceCreateBlob {
        resource_id: 5,
        blob_mem: BLOB_MEM_HOST3D,
        blob_id: 77,
        size: 4096,
        ..ResourceCreateBlob::default()
    };
    let header = Header {
        kind: cmd::RESOURCE_CREATE_BLOB,
        ctx_id: 1,
        ..Header::default()
    };
    let blob = m.send(header, bytemuck::bytes_of(&c));
    assert_eq!((m.kind(fence), m.kind(blob)), (None, None));
    m.host.told.clear();
    m.gpu.gone(&mut m.host, 1, "killed by a test");
    assert_eq!(
        (m.kind(fence), m.kind(blob)),
        (Some(resp::ERR_UNSPEC), Some(resp::ERR_UNSPEC))
    );
    // Another process takes over its ring.
    let heard: Vec<&Request> = m.host.told.iter().map(|(_, request)| request).collect();
    let [
        Request::Create { lost: true, .. },
        Request::Add {
            res_id: 3,
            ring: true,
            ..
        },
        Request::TakeOver { res_id: 3 },
    ] = heard.as_slice()
    else {
        panic!("{heard:?}")
    };
    let ping = m.submit(
        Header {
            ctx_id: 1,
            ..Header::default()
        },
        Submitted::ContextPing { resource_id: 3 },
    );
    assert_eq!(m.kind(ping), Some(resp::OK_NODATA));
    let refused = m.submit(fenced(1, Some(0), 5), EXPORT);
    assert_eq!(m.kind(refused), Some(resp::ERR_UNSPEC));
    assert_eq!(m.ctx(1, cmd::RESOURCE_CREATE_BLOB, &c), resp::ERR_UNSPEC);
    // New threads of the guest process hear of it, too.
    ring(&mut m, 1, 6);
    ring(&mut m, 2, 7);
    // If the other dies as well, nobody is left to try.
    m.gpu.gone(&mut m.host, 1, "killed again");
    assert_eq!(m.host.open, BTreeSet::from([2]));
    assert_eq!(m.ctx(1, cmd::CTX_DESTROY, &[0_u32; 0]), resp::OK_NODATA);
}

#[test]
fn a_renderer_process_that_does_not_answer_is_given_up() {
    let mut m = Machine::new();
    m.context(1);
    m.context(2);
    // A fence may take for ever.
    let fence = m.submit(fenced(2, Some(0), 4), EXPORT);
    assert_eq!(m.gpu.deadline(), None);
    let header = Header {
        ctx_id: 1,
        ..Header::default()
    };
    let stuck = m.submit(header, PLACEHOLDER);
    let deadline = m.gpu.deadline().unwrap();
    let early = deadline - Duration::from_millis(1);
    m.gpu.give_up(&mut m.host, early);
    assert_eq!(m.kind(stuck), None);
    m.gpu.give_up(&mut m.host, deadline);
    assert_eq!(m.kind(stuck), Some(resp::ERR_UNSPEC));
    assert_eq!((m.kind(fence), m.gpu.deadline()), (None, None));
}

#[test]
fn a_reset_forgets_everything_and_answers_nothing() {
    let mut m = Machine::new();
    m.context(1);
    ring(&mut m, 1, 3);
    assert_eq!(m.map(3, 0), resp::OK_MAP_INFO);
    let late = m.submit(fenced(1, Some(0), 4), EXPORT);
    let token = m.last_token();
    m.gpu.reset(&mut m.host);
    assert!(m.host.open.is_empty());
    m.done(1, token);
    m.gpu.mapped(&mut m.host, 3, true);
    assert_eq!(m.kind(late), None);
    m.gpu.set_features(feature::ALL);
    m.host.maps.clear();
    m.context(1);
    ring(&mut m, 1, 3);
    assert_eq!(m.map(3, 0), resp::OK_MAP_INFO);
}

#[test]
fn limits_are_answered_with_out_of_memory() {
    let limits = device::Limits {
        contexts: 1,
        resources: 2,
        memory: 16384,
        ..device::Limits::default()
    };
    let mut m = Machine::with(limits, feature::ALL);
    m.context(1);
    assert_eq!(
        m.ctx(2, cmd::CTX_CREATE, &create(3)),
        resp::ERR_OUT_OF_MEMORY
    );
    let flat = |resource_id, width| ResourceCreate2d {
        resource_id,
        format: 1,
        width,
        height: 64,
    };
    assert_eq!(
        m.run(cmd::RESOURCE_CREATE_2D, &flat(1, 65)),
        resp::ERR_OUT_OF_MEMORY
    );
    for _ in 0..10 {
        assert_eq!(
            m.run(cmd::RESOURCE_CREATE_2D, &flat(1, 64)),
            resp::OK_NODATA
        );
        assert_eq!(
            m.run(cmd::RESOURCE_CREATE_2D, &flat(2, 1)),
            resp::ERR_OUT_OF_MEMORY
        );
        assert_eq!(m.resource(cmd::RESOURCE_UNREF, 1), resp::OK_NODATA);
    }
    for resource_id in [1, 2] {
        assert_eq!(
            m.run(cmd::RESOURCE_CREATE_2D, &flat(resource_id, 1)),
            resp::OK_NODATA
        );
    }
    assert_eq!(
        m.run(cmd::RESOURCE_CREATE_2D, &flat(3, 1)),
        resp::ERR_OUT_OF_MEMORY
    );
    let mut m = Machine::new();
    m.host.exhausted = true;
    assert_eq!(
        m.ctx(1, cmd::CTX_CREATE, &create(3)),
        resp::ERR_OUT_OF_MEMORY
    );
}

#[test]
fn a_renderer_process_is_not_believed_either() {
    let mut m = Machine::new();
    m.context(1);
    let c = ResourceCreateBlob {
        resource_id: 5,
        blob_mem: BLOB_MEM_HOST3D,
        blob_flags: BLOB_FLAG_MAPPABLE,
        blob_id: 77,
        size: 8192,
        ..ResourceCreateBlob::default()
    };
    let header = Header {
        kind: cmd::RESOURCE_CREATE_BLOB,
        ctx_id: 1,
        ..Header::default()
    };
    // Memory that can shrink would kill whoever maps it.
    let id = m.send(header, bytemuck::bytes_of(&c));
    let token = m.last_token();
    let memory = rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&memory, 8192).unwrap();
    let answer = Answer::Blob {
        token,
        size: 8192,
        map_info: 1,
    };
    m.gpu.heard(&mut m.host, 1, answer.clone(), Some(memory));
    assert_eq!(m.kind(id), Some(resp::ERR_UNSPEC));
    // No memory at all, answers twice, and answers to nothing.
    let id = m.send(header, bytemuck::bytes_of(&c));
    let token = m.last_token();
    let answer = Answer::Blob {
        token,
        size: 8192,
        map_info: 1,
    };
    m.gpu.heard(&mut m.host, 1, answer.clone(), None);
    assert_eq!(m.kind(id), Some(resp::ERR_UNSPEC));
    m.gpu.heard(&mut m.host, 1, answer, None);
    m.done(1, 12345);
    m.done(9, 1);
    // Less memory than it was asked for: it can be had, and not mapped.
    let id = m.send(header, bytemuck::bytes_of(&c));
    let token = m.last_token();
    m.give(1, token, 4096);
    assert_eq!(m.kind(id), Some(resp::OK_NODATA));
    assert_eq!(m.map(5, 0), resp::ERR_UNSPEC);
    // Refusals are passed on.
    for (memory, expected) in [
        (true, resp::ERR_OUT_OF_MEMORY),
        (false, resp::ERR_INVALID_PARAMETER),
    ] {
        let c = ResourceCreateBlob {
            resource_id: 6,
            ..c
        };
        let id = m.send(header, bytemuck::bytes_of(&c));
        let token = m.last_token();
        m.gpu
            .heard(&mut m.host, 1, Answer::Refused { token, memory }, None);
        assert_eq!(m.kind(id), Some(expected));
    }
}

#[test]
fn identities_are_stable_and_unique() {
    let mut m = Machine::new();
    let mut seen = BTreeSet::new();
    for resource_id in 1..=3 {
        let c = ResourceCreate2d {
            resource_id,
            format: 1,
            width: 1,
            height: 1,
        };
        assert_eq!(m.run(cmd::RESOURCE_CREATE_2D, &c), resp::OK_NODATA);
        let mut ask = || {
            let header = Header {
                kind: cmd::RESOURCE_ASSIGN_UUID,
                ..Header::default()
            };
            let c = ResourceId {
                resource_id,
                padding: 0,
            };
            let id = m.send(header, bytemuck::bytes_of(&c));
            m.response(id).unwrap().1
        };
        let first = ask();
        assert_eq!(first.len(), 16);
        assert_eq!(ask(), first);
        assert!(seen.insert(first));
    }
    m.gpu.reset(&mut m.host);
    m.gpu.set_features(feature::ALL);
    let c = ResourceCreate2d {
        resource_id: 1,
        format: 1,
        width: 1,
        height: 1,
    };
    assert_eq!(m.run(cmd::RESOURCE_CREATE_2D, &c), resp::OK_NODATA);
    let header = Header {
        kind: cmd::RESOURCE_ASSIGN_UUID,
        ..Header::default()
    };
    let id = m.send(
        header,
        bytemuck::bytes_of(&ResourceId {
            resource_id: 1,
            padding: 0,
        }),
    );
    assert!(seen.insert(m.response(id).unwrap().1), "another resource");
}

/// Commands of a driver that knows no manners: nothing may panic, and each is answered at most once.
#[test]
fn random_commands_are_survived() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut m = Machine::new();
    let kinds: Vec<u32> = (0x100..0x10e)
        .chain(0x200..0x20a)
        .chain(0x300..0x302)
        .collect();
    for round in 0..20_000 {
        let kind = kinds[random() as usize % kinds.len()];
        let header = Header {
            kind,
            flags: (random() % 4) as u32,
            fence_id: round,
            ctx_id: (random() % 3) as u32,
            ring_idx: (random() % 70) as u8,
            ..Header::default()
        };
        let words = random() % 24;
        let mut bytes = Vec::new();
        for _ in 0..words {
            let word = match random() % 8 {
                0 => u32::MAX,
                1 => (RAM + random() % RAM_SIZE as u64) as u32,
                2 => (random() % 0x2000) as u32,
                3 => 4096,
                _ => (random() % 5) as u32,
            };
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        m.send(header, &bytes);
        if random().is_multiple_of(4)
            && let Some((ctx_id, Request::Take { token, size, .. })) = m.host.told.last().cloned()
        {
            m.give(ctx_id, token, size.min(1 << 20));
        }
        if let Some((res_id, offset)) = m.host.asked_maps.pop() {
            let done = random().is_multiple_of(2);
            if !done {
                m.host.maps.remove(&offset);
            }
            m.gpu.mapped(&mut m.host, res_id, done);
        }
        if random().is_multiple_of(512) {
            let ctx_id = (random() % 3) as u32;
            if m.host.open.contains(&ctx_id) {
                m.gpu.gone(&mut m.host, ctx_id, "chance");
            }
        }
        m.host.told.clear();
        m.host.shown.clear();
    }
}
