//! Pictures between the guest's memory and the host's: boxes of odd places and sizes.

use anyhow::{Context, Result, ensure};
use asgard_asg::Shape;

use crate::node::{Blob, GUEST, HOST3D_GUEST, MAPPABLE, Node, PAGE};
use crate::uapi::{Transfer, number};

/// Gallium's two-dimensional pictures, and virgl's format of four bytes.
const FLAT: u32 = 2;
const RGBA: u32 = 67;

const WIDTH: u32 = 101;
const HEIGHT: u32 = 37;
const LAYERS: u32 = 3;
const BYTES: usize = (WIDTH * HEIGHT * LAYERS * 4) as usize;

pub(crate) fn run() -> Result<()> {
    let node = Node::with_context()?;
    boxes(&node).context("boxes of a picture")?;
    blobs(&node).context("a blob of the guest and the host")
}

fn transfer(blob: &Blob<'_>, region: [u32; 6], offset: u32, stride: u32) -> Transfer {
    Transfer {
        bo_handle: blob.handle,
        region,
        level: 0,
        offset,
        stride,
        layer_stride: 0,
    }
}

fn boxes(node: &Node) -> Result<()> {
    let shape = Shape {
        target: FLAT,
        format: RGBA,
        width: WIDTH,
        height: HEIGHT,
        depth: 1,
        array_size: LAYERS,
        ..Shape::default()
    };
    let size = BYTES.next_multiple_of(PAGE);
    let picture = node.picture(shape, size)?;
    let mut mapped = node.map(&picture)?;
    // What the host has, as we know it.
    let mut expected = vec![0; BYTES];
    for (round, region, offset) in [
        (1_u32, [0, 0, 0, WIDTH, HEIGHT, LAYERS], 0),
        (2, [3, 5, 1, 7, 11, 2], 13),
        (3, [WIDTH - 1, HEIGHT - 1, LAYERS - 1, 1, 1, 1], 4093),
        (4, [0, 17, 0, WIDTH, 3, 1], 1),
        (5, [9, 0, 0, 1, HEIGHT, LAYERS], 255),
        (6, [0, 0, 0, 0, HEIGHT, 1], 0),
    ] {
        for (at, byte) in (0_u32..).zip(mapped.bytes().iter_mut()) {
            *byte = (at.wrapping_mul(2_654_435_761).wrapping_add(round * 77) >> 13) as u8;
        }
        let [x, y, z, w, h, d] = region.map(|number| number as usize);
        let mut from = offset as usize;
        for (layer, row) in (z..z + d).flat_map(|layer| (y..y + h).map(move |row| (layer, row))) {
            let to = ((layer * HEIGHT as usize + row) * WIDTH as usize + x) * 4;
            expected[to..to + w * 4].copy_from_slice(&mapped.bytes()[from..from + w * 4]);
            from += w * 4;
        }
        node.ask(
            number::TRANSFER_TO_HOST,
            &mut transfer(&picture, region, offset, 0),
        )?;
        node.wait(&picture)?;
        mapped.bytes().fill(0xee);
        let all = [0, 0, 0, WIDTH, HEIGHT, LAYERS];
        node.ask(
            number::TRANSFER_FROM_HOST,
            &mut transfer(&picture, all, 8, 0),
        )?;
        node.wait(&picture)?;
        let behind = &mapped.bytes()[8..];
        ensure!(behind[..BYTES] == expected, "round {round}");
        let untouched = behind[BYTES..].iter().all(|&byte| byte == 0xee);
        ensure!(untouched, "round {round}: more than the picture");
    }
    // What is not inside changes nothing, and the kernel takes no strides for pictures.
    for (region, offset) in [
        ([1, 0, 0, WIDTH, 1, 1], 0),
        ([0, 0, LAYERS, 1, 1, 1], 0),
        ([u32::MAX, 0, 0, 2, 1, 1], 0),
        ([0, 0, 0, WIDTH, HEIGHT, LAYERS], u32::MAX),
    ] {
        let _ = node.ask(
            number::TRANSFER_FROM_HOST,
            &mut transfer(&picture, region, offset, 0),
        );
    }
    node.wait(&picture)?;
    ensure!(mapped.bytes()[8..8 + BYTES] == expected, "from outside");
    let strided = node.ask(
        number::TRANSFER_TO_HOST,
        &mut transfer(&picture, [0, 0, 0, 1, 1, 1], 0, 7),
    );
    ensure!(strided.is_err(), "a stride of a picture");
    Ok(())
}

fn blobs(node: &Node) -> Result<()> {
    let blob = node.blob(HOST3D_GUEST, MAPPABLE, 3 * PAGE)?;
    let mut mapped = node.map(&blob)?;
    for (at, byte) in mapped.bytes().iter_mut().enumerate() {
        *byte = (at * 7 + at / 256) as u8;
    }
    let expected = mapped.bytes()[4090..4190].to_vec();
    // Strides say nothing where there is one row.
    let part = [4090, 0, 0, 100, 1, 1];
    node.ask(
        number::TRANSFER_TO_HOST,
        &mut transfer(&blob, part, 4090, 999),
    )?;
    node.wait(&blob)?;
    mapped.bytes().fill(0);
    node.ask(
        number::TRANSFER_FROM_HOST,
        &mut transfer(&blob, part, 17, 1),
    )?;
    node.wait(&blob)?;
    ensure!(mapped.bytes()[17..117] == expected, "not what was sent");
    ensure!(
        mapped.bytes()[117..].iter().all(|&byte| byte == 0),
        "more than was asked for"
    );
    let guest = node.blob(GUEST, MAPPABLE, PAGE)?;
    let moved = node.ask(number::TRANSFER_TO_HOST, &mut transfer(&guest, part, 0, 0));
    ensure!(moved.is_err(), "the guest's own memory is transferred");
    Ok(())
}
