//! A picture on the display, as a desktop puts it there.

use anyhow::{Context, Result, ensure};
use asgard_tests::report::digest;
use bytemuck::{Pod, Zeroable};

use crate::node::{CAPSET, GUEST, HOST3D, MAPPABLE, Node, SHAREABLE, address_of};
use crate::uapi::CONTEXT_CAPSET_ID;

/// What holds the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// What every driver has for programs that draw by themselves.
    Dumb,
    /// Memory of the guest's.
    Guest,
    /// Memory of the host's.
    Host,
}

/// DRM_FORMAT_XRGB8888.
const XRGB: u32 = 0x3432_5258;

/// Numbers of requests.
mod number {
    pub(super) const GET_RESOURCES: u32 = 0xa0;
    pub(super) const SET_CRTC: u32 = 0xa2;
    pub(super) const GET_CONNECTOR: u32 = 0xa7;
    pub(super) const DIRTY_FB: u32 = 0xb1;
    pub(super) const CREATE_DUMB: u32 = 0xb2;
    pub(super) const MAP_DUMB: u32 = 0xb3;
    pub(super) const ADD_FB2: u32 = 0xb8;
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Resources {
    /// Of framebuffers, CRTCs, connectors, encoders.
    addresses: [u64; 4],
    counts: [u32; 4],
    sizes: [u32; 4],
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
struct Mode {
    clock: u32,
    /// Visible, synchronization from and to, all, skew.
    horizontal: [u16; 5],
    vertical: [u16; 5],
    rate: u32,
    flags: u32,
    kind: u32,
    name: [u8; 32],
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Connector {
    /// Of encoders, modes, properties, their values.
    addresses: [u64; 4],
    modes: u32,
    properties: u32,
    encoders: u32,
    encoder: u32,
    id: u32,
    kind: [u32; 2],
    connection: u32,
    rest: [u32; 4],
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Crtc {
    connectors: u64,
    count: u32,
    id: u32,
    framebuffer: u32,
    x: u32,
    y: u32,
    gamma: u32,
    mode_valid: u32,
    mode: Mode,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Dumb {
    height: u32,
    width: u32,
    bits: u32,
    flags: u32,
    handle: u32,
    pitch: u32,
    size: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct MapDumb {
    handle: u32,
    pad: u32,
    offset: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Framebuffer {
    id: u32,
    width: u32,
    height: u32,
    format: u32,
    flags: u32,
    handles: [u32; 4],
    pitches: [u32; 4],
    offsets: [u32; 4],
    pad: u32,
    modifiers: [u64; 4],
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Dirty {
    framebuffer: u32,
    flags: u32,
    color: u32,
    clips: u32,
    address: u64,
}

const _: () = {
    assert!(size_of::<Resources>() == 64);
    assert!(size_of::<Connector>() == 80);
    assert!(size_of::<Crtc>() == 104);
    assert!(size_of::<Framebuffer>() == 104);
};

pub(crate) fn run(kind: Kind) -> Result<()> {
    let node = Node::open_at("/dev/dri/card0")?;
    let (crtc, connector) = display(&node)?;
    let mode = mode(&node, connector)?;
    let (width, height) = (mode.horizontal[0].into(), mode.vertical[0].into());
    // Rows that are longer than the picture, where that is ours to choose.
    let (mut pitch, mut offset) = (width * 4 + 256, 512);
    let size = (offset + pitch * height) as usize;
    let (blob, mut mapped) = match kind {
        Kind::Dumb => {
            let mut dumb = Dumb::zeroed();
            (dumb.width, dumb.height, dumb.bits) = (width, height, 32);
            node.ask(number::CREATE_DUMB, &mut dumb)?;
            (pitch, offset) = (dumb.pitch, 0);
            let mut map = MapDumb::zeroed();
            map.handle = dumb.handle;
            node.ask(number::MAP_DUMB, &mut map)?;
            let size = dumb.size as usize;
            (
                node.keep(dumb.handle, 0, size),
                node.map_at(map.offset, size)?,
            )
        }
        Kind::Guest | Kind::Host => {
            node.context(&[(CONTEXT_CAPSET_ID, CAPSET)])?;
            let memory = if kind == Kind::Guest { GUEST } else { HOST3D };
            let blob = node.blob(memory, MAPPABLE | SHAREABLE, size)?;
            let mapped = node.map(&blob)?;
            (blob, mapped)
        }
    };
    let mut framebuffer = Framebuffer::zeroed();
    (framebuffer.width, framebuffer.height) = (width, height);
    framebuffer.format = XRGB;
    framebuffer.handles[0] = blob.handle;
    framebuffer.pitches[0] = pitch;
    framebuffer.offsets[0] = offset;
    node.ask(number::ADD_FB2, &mut framebuffer)
        .context("a framebuffer")?;
    let mut draw = |seed: u32| {
        let mut shown = Vec::with_capacity((width * height * 3) as usize);
        for y in 0..height {
            for x in 0..width {
                let word = (y * width + x + seed).wrapping_mul(2_654_435_761) >> 4;
                let [blue, green, red, _] = word.to_le_bytes();
                let at = (offset + y * pitch + x * 4) as usize;
                mapped.bytes()[at..at + 4].copy_from_slice(&word.to_le_bytes());
                shown.extend([red, green, blue]);
            }
        }
        digest(&shown)
    };
    draw(1);
    let mut set = Crtc::zeroed();
    let connectors = [connector];
    (set.connectors, set.count) = (address_of(&connectors), 1);
    (set.id, set.framebuffer) = (crtc, framebuffer.id);
    (set.mode_valid, set.mode) = (1, mode);
    node.ask(number::SET_CRTC, &mut set)
        .context("the display")?;
    // What is drawn later is shown when the display is told.
    let digest = draw(7);
    let mut dirty = Dirty::zeroed();
    dirty.framebuffer = framebuffer.id;
    node.ask(number::DIRTY_FB, &mut dirty)
        .context("a new picture")?;
    println!("{width}x{height} {digest}");
    loop {
        std::thread::park();
    }
}

/// The first display: its CRTC, and its connector.
fn display(node: &Node) -> Result<(u32, u32)> {
    let mut resources = Resources::zeroed();
    node.ask(number::GET_RESOURCES, &mut resources)?;
    let [_, crtcs, connectors, _] = resources.counts;
    ensure!(crtcs > 0 && connectors > 0, "no display");
    let mut crtc_ids = vec![0_u32; crtcs as usize];
    let mut connector_ids = vec![0_u32; connectors as usize];
    let mut again = Resources::zeroed();
    again.addresses[1] = address_of_mut(&mut crtc_ids);
    again.addresses[2] = address_of_mut(&mut connector_ids);
    again.counts = [0, crtcs, connectors, 0];
    node.ask(number::GET_RESOURCES, &mut again)?;
    Ok((crtc_ids[0], connector_ids[0]))
}

/// The mode that a connector has first.
fn mode(node: &Node, connector: u32) -> Result<Mode> {
    let mut ask = Connector::zeroed();
    ask.id = connector;
    node.ask(number::GET_CONNECTOR, &mut ask)?;
    ensure!(ask.connection == 1, "nothing is connected");
    let mut modes = vec![Mode::zeroed(); ask.modes as usize];
    let mut again = Connector::zeroed();
    (again.id, again.modes) = (connector, ask.modes);
    again.addresses[1] = address_of_mut(&mut modes);
    node.ask(number::GET_CONNECTOR, &mut again)?;
    modes.first().copied().context("no mode")
}

fn address_of_mut<T>(of: &mut [T]) -> u64 {
    of.as_mut_ptr().expose_provenance() as u64
}
