//! Blobs: every kind of memory with every flag, and the window that they are mapped into.

use super::*;

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

            let rect = rect(0, 0, 32, 64);
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
            let flush = flush(rect, 5);
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
fn mapped_blobs_outlive_their_context() {
    let mut m = Machine::new();
    m.context(1);
    let c = host_blob(0, 1, 5000);
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
    let header = head(cmd::RESOURCE_MAP_BLOB, 0);
    let map = mapped(3, 32768);
    let id = m.send(header, bytemuck::bytes_of(&map));
    m.gpu.mapped(&mut m.host, 3, false);
    assert_eq!(m.kind(id), Some(resp::ERR_UNSPEC));
    m.host.maps.remove(&32768);
    m.host.asked_maps.clear();
    assert_eq!(m.map(3, 32768), resp::OK_MAP_INFO);
}
