//! Renderer processes that die, fall silent or lie.

use super::*;

#[test]
fn a_dead_renderer_process_costs_its_context_and_nothing_else() {
    let mut m = Machine::new();
    m.context(1);
    m.context(2);
    ring(&mut m, 1, 3);
    let fence = m.submit(fenced(1, Some(0), 4), EXPORT);
    let c = host_blob(5, 77, 4096);
    let header = head(cmd::RESOURCE_CREATE_BLOB, 1);
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
        head(cmd::SUBMIT_3D, 1),
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
    let begin = Submitted::ContextCreate { resource_id: 6 };
    let refused = m.submit(fenced(1, Some(0), 8), begin);
    assert_eq!(m.kind(refused), Some(resp::ERR_UNSPEC));
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
    let header = head(cmd::SUBMIT_3D, 1);
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
fn a_renderer_process_is_not_believed_either() {
    let mut m = Machine::new();
    m.context(1);
    let c = host_blob(5, 77, 8192);
    let header = head(cmd::RESOURCE_CREATE_BLOB, 1);
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
