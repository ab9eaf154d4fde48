//! Commands as bytes in, responses as bytes out, with guest memory and renderer processes that do as they are told.

mod blob;
mod context;
mod fence;
mod misuse;
mod renderer;
mod resource;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use asgard_asg::submit::Command as Submitted;
use asgard_asg::{Shape, layout};
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

    /// Sends a command of a context and returns its number.
    fn ask<T: Pod>(&mut self, ctx_id: u32, kind: u32, body: &T) -> u64 {
        self.send(head(kind, ctx_id), bytemuck::bytes_of(body))
    }

    /// Sends a command of a context and returns the type of the response.
    fn ctx<T: Pod>(&mut self, ctx_id: u32, kind: u32, body: &T) -> u32 {
        let id = self.ask(ctx_id, kind, body);
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
        self.run(kind, &named(resource_id))
    }

    /// Asks for a blob, plays the renderer process, and returns the type of the response.
    fn blob(&mut self, ctx_id: u32, c: ResourceCreateBlob, entries: &[MemEntry]) -> u32 {
        let header = head(cmd::RESOURCE_CREATE_BLOB, ctx_id);
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
        let header = head(cmd::RESOURCE_MAP_BLOB, 0);
        let c = mapped(resource_id, offset);
        let id = self.send(header, bytemuck::bytes_of(&c));
        if self.host.asked_maps.pop().is_some() {
            assert_eq!(self.kind(id), None);
            self.gpu.mapped(&mut self.host, resource_id, true);
        }
        self.kind(id).expect("no answer")
    }

    fn attach(&mut self, ctx_id: u32, resource_id: u32) -> u32 {
        self.ctx(ctx_id, cmd::CTX_ATTACH_RESOURCE, &named(resource_id))
    }

    fn backing(&mut self, resource_id: u32, entries: &[MemEntry]) -> u32 {
        let c = AttachBacking {
            resource_id,
            nr_entries: entries.len() as u32,
        };
        let mut bytes = bytemuck::bytes_of(&c).to_vec();
        bytes.extend_from_slice(bytemuck::cast_slice(entries));
        let header = head(cmd::RESOURCE_ATTACH_BACKING, 0);
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

fn head(kind: u32, ctx_id: u32) -> Header {
    Header {
        kind,
        ctx_id,
        ..Header::default()
    }
}

fn named(resource_id: u32) -> ResourceId {
    ResourceId {
        resource_id,
        padding: 0,
    }
}

fn mapped(resource_id: u32, offset: u64) -> MapBlob {
    MapBlob {
        resource_id,
        padding: 0,
        offset,
    }
}

/// Memory of the host's that can be mapped; of blob 0, for a ring.
fn host_blob(resource_id: u32, blob_id: u64, size: u64) -> ResourceCreateBlob {
    ResourceCreateBlob {
        resource_id,
        blob_mem: BLOB_MEM_HOST3D,
        blob_flags: BLOB_FLAG_MAPPABLE,
        nr_entries: 0,
        blob_id,
        size,
    }
}

fn flat(resource_id: u32, format: u32, width: u32, height: u32) -> ResourceCreate2d {
    ResourceCreate2d {
        resource_id,
        format,
        width,
        height,
    }
}

fn rect(x: u32, y: u32, width: u32, height: u32) -> Rect {
    Rect {
        x,
        y,
        width,
        height,
    }
}

fn flush(rect: Rect, resource_id: u32) -> ResourceFlush {
    ResourceFlush {
        rect,
        resource_id,
        padding: 0,
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

fn ring(m: &mut Machine, ctx_id: u32, resource_id: u32) {
    let c = host_blob(
        resource_id,
        0,
        layout::blob_size(layout::DEFAULT_BUFFER_SIZE) as u64,
    );
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
