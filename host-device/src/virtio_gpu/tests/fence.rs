//! Fences.

use super::*;

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
