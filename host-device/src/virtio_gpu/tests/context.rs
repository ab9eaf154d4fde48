//! Contexts, and what waits for what.

use super::*;

#[test]
fn a_context_of_no_capset_has_resources_and_no_commands() {
    for features in [feature::ALL, feature::ALL & !feature::CONTEXT_INIT] {
        let mut m = Machine::with(device::Limits::default(), features);
        assert_eq!(m.ctx(1, cmd::CTX_CREATE, &create(0)), resp::OK_NODATA);
        let c = flat(1, 1, 1, 1);
        assert_eq!(m.run(cmd::RESOURCE_CREATE_2D, &c), resp::OK_NODATA);
        assert_eq!(m.attach(1, 1), resp::OK_NODATA);
        let header = head(cmd::SUBMIT_3D, 1);
        let id = m.submit(header, PLACEHOLDER);
        assert_eq!(m.kind(id), Some(resp::ERR_INVALID_PARAMETER));
        let c = host_blob(2, 0, 4096);
        assert_eq!(
            m.ctx(1, cmd::RESOURCE_CREATE_BLOB, &c),
            resp::ERR_INVALID_PARAMETER
        );
        assert_eq!(m.ctx(1, cmd::CTX_DESTROY, &[0_u32; 0]), resp::OK_NODATA);
        assert!(m.host.open.is_empty() && m.host.told.is_empty());
    }
}

#[test]
fn a_ping_reaches_the_ring_without_the_renderer_process() {
    let mut m = Machine::new();
    m.context(1);
    ring(&mut m, 1, 3);
    let told = m.host.told.len();
    let ping = |m: &mut Machine, ctx_id, resource_id| {
        let header = head(cmd::SUBMIT_3D, ctx_id);
        let id = m.submit(header, Submitted::ContextPing { resource_id });
        m.kind(id)
    };
    assert_eq!(ping(&mut m, 1, 3), Some(resp::OK_NODATA));
    assert_eq!(ping(&mut m, 1, 4), Some(resp::ERR_INVALID_RESOURCE_ID));
    assert_eq!(ping(&mut m, 2, 3), Some(resp::ERR_INVALID_CONTEXT_ID));
    assert_eq!(m.host.told.len(), told);
    // A second consumer on one ring would be one too many.
    let header = head(cmd::SUBMIT_3D, 1);
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
    let c = host_blob(5, 77, 4096);
    let blob = m.ask(1, cmd::RESOURCE_CREATE_BLOB, &c);
    let token = m.last_token();
    let id = named(5);
    let attach = m.ask(1, cmd::CTX_ATTACH_RESOURCE, &id);
    let map = mapped(5, 0);
    let map = m.ask(0, cmd::RESOURCE_MAP_BLOB, &map);
    assert_eq!(
        (m.kind(blob), m.kind(attach), m.kind(map)),
        (None, None, None)
    );
    ring(&mut m, 2, 6);
    m.give(1, token, 4096);
    assert_eq!(m.kind(blob), Some(resp::OK_NODATA));
    assert_eq!(m.kind(attach), Some(resp::OK_NODATA));
    assert_eq!(m.kind(map), None);
    let unref = m.ask(0, cmd::RESOURCE_UNREF, &id);
    assert_eq!(m.kind(unref), None);
    m.gpu.mapped(&mut m.host, 5, true);
    assert_eq!(
        (m.kind(map), m.kind(unref)),
        (Some(resp::OK_MAP_INFO), Some(resp::OK_NODATA))
    );
    assert!(m.host.maps.is_empty(), "unmapped with the resource");
    // A renderer process that does not read holds up its own context only.
    m.host.backed_up = true;
    let slow = m.submit(head(cmd::SUBMIT_3D, 1), PLACEHOLDER);
    let behind = m.submit(head(cmd::SUBMIT_3D, 1), PLACEHOLDER);
    let told = m.host.told.len();
    m.host.backed_up = false;
    let other = m.submit(head(cmd::SUBMIT_3D, 2), PLACEHOLDER);
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
