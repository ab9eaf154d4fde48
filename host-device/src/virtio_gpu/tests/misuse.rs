//! What a driver must not do, and what the device answers then.

use super::resp::*;
use super::*;

#[test]
fn misuse_is_answered_with_the_specifications_errors() {
    let mut m = Machine::new();
    m.context(1);
    assert_eq!(
        m.run(cmd::RESOURCE_CREATE_2D, &flat(9, 1, 64, 32)),
        OK_NODATA
    );
    let blob = host_blob(1, 0, 4096);
    let with = |change: fn(&mut ResourceCreateBlob)| {
        let mut c = blob;
        change(&mut c);
        c
    };
    for (c, ctx_id, expected) in [
        (with(|c| c.resource_id = 0), 1, ERR_INVALID_RESOURCE_ID),
        (with(|c| c.resource_id = 9), 1, ERR_INVALID_RESOURCE_ID),
        (blob, 2, ERR_INVALID_CONTEXT_ID),
        (blob, 0, ERR_INVALID_CONTEXT_ID),
        (with(|c| c.size = 0), 1, ERR_INVALID_PARAMETER),
        (with(|c| c.size = u64::MAX), 1, ERR_OUT_OF_MEMORY),
        (with(|c| c.blob_mem = 0), 1, ERR_INVALID_PARAMETER),
        (with(|c| c.blob_mem = 4), 1, ERR_INVALID_PARAMETER),
        (with(|c| c.blob_flags = 8), 1, ERR_INVALID_PARAMETER),
        (with(|c| c.nr_entries = 1), 1, ERR_INVALID_PARAMETER),
        (
            with(|c| c.blob_mem = BLOB_MEM_GUEST),
            0,
            ERR_INVALID_PARAMETER,
        ),
        (
            with(|c| (c.blob_mem, c.nr_entries) = (BLOB_MEM_GUEST, u32::MAX)),
            0,
            ERR_INVALID_PARAMETER,
        ),
    ] {
        let kind = m.ctx(ctx_id, cmd::RESOURCE_CREATE_BLOB, &c);
        assert_eq!(kind, expected, "{c:?}");
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
        assert_eq!(m.blob(0, c, &entries), ERR_INVALID_PARAMETER, "{entries:?}");
    }
    for (c, expected) in [
        (flat(0, 1, 8, 8), ERR_INVALID_RESOURCE_ID),
        (flat(9, 1, 8, 8), ERR_INVALID_RESOURCE_ID),
        (flat(1, 5, 8, 8), ERR_INVALID_PARAMETER),
        (flat(1, 1, 0, 8), ERR_INVALID_PARAMETER),
        (flat(1, 1, 8, 0), ERR_INVALID_PARAMETER),
        (flat(1, 1, u32::MAX, u32::MAX), ERR_INVALID_PARAMETER),
    ] {
        assert_eq!(m.run(cmd::RESOURCE_CREATE_2D, &c), expected, "{c:?}");
    }
    let scanout = |rect, scanout_id, resource_id| SetScanout {
        rect,
        scanout_id,
        resource_id,
    };
    for (c, expected) in [
        (scanout(rect(0, 0, 64, 32), 2, 9), ERR_INVALID_SCANOUT_ID),
        (scanout(rect(0, 0, 64, 32), 0, 8), ERR_INVALID_RESOURCE_ID),
        (scanout(rect(0, 0, 65, 32), 0, 9), ERR_INVALID_PARAMETER),
        (
            scanout(rect(u32::MAX, 0, 64, 32), 0, 9),
            ERR_INVALID_PARAMETER,
        ),
        (scanout(rect(0, 0, 0, 32), 0, 9), ERR_INVALID_PARAMETER),
        (scanout(rect(0, 0, 64, 32), 1, 9), OK_NODATA),
        (scanout(rect(9, 9, 9, 9), 1, 0), OK_NODATA),
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
        ERR_UNSPEC
    );
    assert_eq!(m.backing(8, &[entry(0, 8192)]), ERR_INVALID_RESOURCE_ID);
    assert_eq!(m.backing(9, &[]), ERR_INVALID_PARAMETER);
    assert_eq!(m.backing(9, &[entry(0, 8192)]), OK_NODATA);
    assert_eq!(m.backing(9, &[entry(0, 8192)]), ERR_UNSPEC);
    for (c, expected) in [
        (transfer(all, 0, 9), OK_NODATA),
        (transfer(all, 0, 8), ERR_INVALID_RESOURCE_ID),
        (transfer(all, 4, 9), ERR_INVALID_PARAMETER),
        (transfer(all, u64::MAX, 9), ERR_INVALID_PARAMETER),
        (transfer(rect(1, 0, 64, 32), 0, 9), ERR_INVALID_PARAMETER),
        (
            transfer(rect(u32::MAX, u32::MAX, 2, 2), 0, 9),
            ERR_INVALID_PARAMETER,
        ),
    ] {
        assert_eq!(m.run(cmd::TRANSFER_TO_HOST_2D, &c), expected, "{c:?}");
    }
    assert_eq!(
        m.run(cmd::RESOURCE_FLUSH, &flush(all, 8)),
        ERR_INVALID_RESOURCE_ID
    );
    assert_eq!(
        m.run(cmd::RESOURCE_FLUSH, &flush(rect(0, 1, 64, 32), 9)),
        ERR_INVALID_PARAMETER
    );
    assert_eq!(m.map(9, 0), ERR_INVALID_PARAMETER);
    assert_eq!(m.map(8, 0), ERR_INVALID_RESOURCE_ID);

    // Contexts.
    for (ctx_id, c, expected) in [
        (0, create(3), ERR_INVALID_CONTEXT_ID),
        (1, create(3), ERR_INVALID_CONTEXT_ID),
        (2, create(1), ERR_INVALID_PARAMETER),
        (2, create(4), ERR_INVALID_PARAMETER),
        (
            2,
            CtxCreate {
                nlen: 65,
                ..create(3)
            },
            ERR_INVALID_PARAMETER,
        ),
    ] {
        assert_eq!(m.ctx(ctx_id, cmd::CTX_CREATE, &c), expected, "{c:?}");
    }
    assert_eq!(
        m.ctx(2, cmd::CTX_DESTROY, &[0_u32; 0]),
        ERR_INVALID_CONTEXT_ID
    );
    assert_eq!(m.attach(2, 9), ERR_INVALID_CONTEXT_ID);
    assert_eq!(m.attach(1, 8), ERR_INVALID_RESOURCE_ID);
    let detach = named(9);
    assert_eq!(
        m.ctx(1, cmd::CTX_DETACH_RESOURCE, &detach),
        ERR_INVALID_RESOURCE_ID
    );

    // Capsets and displays.
    assert_eq!(
        m.run(cmd::GET_CAPSET_INFO, &[1_u32, 0]),
        ERR_INVALID_PARAMETER
    );
    assert_eq!(m.run(cmd::GET_CAPSET, &[4_u32, 0]), ERR_INVALID_PARAMETER);
    assert_eq!(m.run(cmd::GET_CAPSET, &[3_u32, 1]), ERR_INVALID_PARAMETER);
    assert_eq!(m.run(cmd::GET_EDID, &[2_u32, 0]), ERR_INVALID_SCANOUT_ID);

    // What is no command, or not all of one.
    for kind in [0, 0xff, 0x10e, 0x20a, 0x1100, u32::MAX] {
        assert_eq!(m.run(kind, &[0_u32; 32]), ERR_UNSPEC, "{kind:#x}");
    }
    for kind in (0x101..=0x10d)
        .chain(0x202..=0x209)
        .chain([0x200, 0x300, 0x301])
    {
        let id = m.send(head(kind, 3), &[0; 3]);
        assert_eq!(m.kind(id), Some(ERR_INVALID_PARAMETER), "{kind:#x}");
    }
    // On the wrong queue, or too short for a header.
    let info = head(cmd::GET_DISPLAY_INFO, 0);
    let info = bytemuck::bytes_of(&info);
    for (cursor, bytes) in [(false, &info[1..]), (true, info), (false, &[])] {
        m.next += 1;
        let (id, bytes) = (m.next, bytes.to_vec());
        m.gpu.submit(&mut m.host, Command { id, cursor, bytes });
        assert_eq!(m.kind(id), Some(ERR_UNSPEC), "{cursor}");
    }
}

#[test]
fn what_was_not_negotiated_is_not_there() {
    let mut m = Machine::with(device::Limits::default(), 0);
    let refused = [
        (cmd::GET_EDID, ERR_UNSPEC),
        (cmd::RESOURCE_ASSIGN_UUID, ERR_UNSPEC),
        (cmd::RESOURCE_CREATE_BLOB, ERR_UNSPEC),
        (cmd::SET_SCANOUT_BLOB, ERR_UNSPEC),
        (cmd::RESOURCE_MAP_BLOB, ERR_UNSPEC),
        (cmd::RESOURCE_UNMAP_BLOB, ERR_UNSPEC),
        (cmd::CTX_CREATE, ERR_UNSPEC),
        (cmd::RESOURCE_CREATE_3D, ERR_UNSPEC),
        (cmd::SUBMIT_3D, ERR_UNSPEC),
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
        ERR_INVALID_PARAMETER
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
    assert_eq!(m.ctx(2, cmd::CTX_CREATE, &create(3)), ERR_OUT_OF_MEMORY);
    let row = |resource_id, width| flat(resource_id, 1, width, 64);
    assert_eq!(
        m.run(cmd::RESOURCE_CREATE_2D, &row(1, 65)),
        ERR_OUT_OF_MEMORY
    );
    for _ in 0..10 {
        assert_eq!(m.run(cmd::RESOURCE_CREATE_2D, &row(1, 64)), OK_NODATA);
        assert_eq!(
            m.run(cmd::RESOURCE_CREATE_2D, &row(2, 1)),
            ERR_OUT_OF_MEMORY
        );
        assert_eq!(m.resource(cmd::RESOURCE_UNREF, 1), OK_NODATA);
    }
    for resource_id in [1, 2] {
        assert_eq!(
            m.run(cmd::RESOURCE_CREATE_2D, &row(resource_id, 1)),
            OK_NODATA
        );
    }
    assert_eq!(
        m.run(cmd::RESOURCE_CREATE_2D, &row(3, 1)),
        ERR_OUT_OF_MEMORY
    );
    let mut m = Machine::new();
    m.host.exhausted = true;
    assert_eq!(m.ctx(1, cmd::CTX_CREATE, &create(3)), ERR_OUT_OF_MEMORY);
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
