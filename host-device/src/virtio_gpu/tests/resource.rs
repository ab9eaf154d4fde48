//! Resources and their pictures: transfers, displays, identities.

use super::*;

#[test]
fn the_driver_reads_displays_and_capsets() {
    let mut m = Machine::new();
    let id = m.send(head(cmd::GET_DISPLAY_INFO, 0), &[]);
    let (header, body) = m.response(id).unwrap();
    assert_eq!((header.kind, body.len()), (resp::OK_DISPLAY_INFO, 16 * 24));
    let displays: &[DisplayOne] = bytemuck::cast_slice(&body);
    let sizes = displays
        .iter()
        .map(|d| (d.enabled, d.rect.width, d.rect.height));
    let expected = [(1, 640, 480), (1, 320, 200), (0, 0, 0)];
    assert!(sizes.take(3).eq(expected));
    let id = m.ask(0, cmd::GET_EDID, &[0_u32; 2]);
    let (header, body) = m.response(id).unwrap();
    assert_eq!((header.kind, body.len()), (resp::OK_EDID, 8 + 1024));
    assert_eq!(body[..4], 128_u32.to_le_bytes());
    assert_eq!(body[8..16], [0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0]);
    let id = m.ask(0, cmd::GET_CAPSET_INFO, &[0_u32; 2]);
    let (_, body) = m.response(id).unwrap();
    let info: CapsetInfo = bytemuck::pod_read_unaligned(&body);
    assert_eq!((info.capset_id, info.capset_max_version), (3, 0));
    let id = m.ask(0, cmd::GET_CAPSET, &[3_u32, 0]);
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
        shape: Shape {
            target: 2,
            format: 67,
            width: 13,
            height: 7,
            depth: 1,
            array_size: 3,
            last_level: 2,
            ..Shape::default()
        },
        padding: 0,
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
    let c = flat(1, 2, 8, 4);
    assert_eq!(m.run(cmd::RESOURCE_CREATE_2D, &c), resp::OK_NODATA);
    assert_eq!(m.backing(1, &[entry(0, 128)]), resp::OK_NODATA);
    let all = rect(0, 0, 8, 4);
    let transfer = TransferToHost2d {
        rect: all,
        resource_id: 1,
        ..TransferToHost2d::default()
    };
    assert_eq!(m.run(cmd::TRANSFER_TO_HOST_2D, &transfer), resp::OK_NODATA);
    let part = rect(2, 1, 5, 3);
    let scanout = SetScanout {
        rect: part,
        scanout_id: 0,
        resource_id: 1,
    };
    assert_eq!(m.run(cmd::SET_SCANOUT, &scanout), resp::OK_NODATA);
    assert!(m.host.shown.is_empty());
    let flush = flush(all, 1);
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
fn identities_are_stable_and_unique() {
    let mut m = Machine::new();
    let mut seen = BTreeSet::new();
    for resource_id in 1..=3 {
        let c = flat(resource_id, 1, 1, 1);
        assert_eq!(m.run(cmd::RESOURCE_CREATE_2D, &c), resp::OK_NODATA);
        let mut ask = || {
            let header = head(cmd::RESOURCE_ASSIGN_UUID, 0);
            let c = named(resource_id);
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
    let c = flat(1, 1, 1, 1);
    assert_eq!(m.run(cmd::RESOURCE_CREATE_2D, &c), resp::OK_NODATA);
    let header = head(cmd::RESOURCE_ASSIGN_UUID, 0);
    let id = m.send(header, bytemuck::bytes_of(&named(1)));
    assert!(seen.insert(m.response(id).unwrap().1), "another resource");
}
