//! What a driver must not do, and what the device answers then.

use super::*;

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
