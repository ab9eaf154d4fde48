//! What well-behaved clients ask.

use asgard_asg::Mapping;
use asgard_asg::Shape;
use asgard_asg::capset::{CAPSET_ID, FULL_SIZE};
use asgard_asg::kumquat::{GetCapset, Request, ResourceCreate3d, Transfer3d};
use asgard_asg::submit::Command as Submitted;
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, BorrowedFd};

use crate::support::{Answer, PATIENCE, Server, readable_within};

#[test]
fn the_capset_is_told() {
    let server = Server::start_with(&["--no-batched-descriptor-sets"]);
    let client = server.connect();
    assert_eq!(client.ask(&Request::GetNumCapsets).0, Answer::Number(1));
    assert_eq!(
        client.ask(&Request::GetCapsetInfo { index: 0 }).0,
        Answer::Number(FULL_SIZE as u32)
    );
    assert!(matches!(
        client.ask(&Request::GetCapsetInfo { index: 1 }).0,
        Answer::Errno(_)
    ));
    let (Answer::Bytes(bytes), _) = client.ask(&Request::GetCapset(GetCapset {
        capset_id: CAPSET_ID,
        capset_version: 0,
    })) else {
        panic!()
    };
    let (capset, extension) = asgard_asg::capset::parse(&bytes);
    assert_eq!(capset.buffer_size, 1 << 20);
    assert_eq!(capset.vulkan_batched_descriptor_set_update, 0);
    assert!(extension.is_some());
    assert!(matches!(
        client
            .ask(&Request::GetCapset(GetCapset {
                capset_id: 4,
                capset_version: 0
            }))
            .0,
        Answer::Errno(_)
    ));
}

#[test]
fn published_memory_is_handed_out_once() {
    let server = Server::start();
    let client = server.connect();
    let ctx = client.context();
    let (first, _fd) = client.blob(ctx, 5, 4096);
    assert!(matches!(client.ask_blob(ctx, 5, 4096).0, Answer::Errno(_)));
    assert!(matches!(
        client.ask_blob(ctx, 1 << 40, 4096).0,
        Answer::Errno(_)
    ));
    let (second, _fd) = client.blob(ctx, 6, 4096);
    assert_ne!(first, second);
    // Larger than what was published.
    assert!(matches!(
        client.ask_blob(ctx, 7, 1 << 30).0,
        Answer::Errno(_)
    ));
    assert!(client.is_alive());
}

#[test]
fn memory_from_elsewhere_is_a_resource_if_nobody_can_shrink_it() {
    let server = Server::start();
    let client = server.connect();
    let ctx_id = client.context();
    let import = |fds: &[BorrowedFd<'_>]| {
        client.send_with(&Request::ResourceImport { ctx_id }, fds);
        client.receive().expect("the connection ended")
    };
    let (mapping, file) = Mapping::create(8192).unwrap();
    let (answer, fds) = import(&[file.as_fd()]);
    assert!(matches!(answer, Answer::Resource(_)), "{answer:?}");
    let same = Mapping::map(&fds[0], 0, 8192).unwrap();
    mapping.copy_in(5000, b"hello").unwrap();
    let mut found = [0; 5];
    same.copy_out(5000, &mut found).unwrap();
    assert_eq!(&found, b"hello");

    let loose = tempfile::tempfile().unwrap();
    loose.set_len(8192).unwrap();
    let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    for fds in [
        &[][..],
        &[loose.as_fd()],
        &[event.as_fd()],
        &[client.socket.as_fd()],
    ] {
        let (answer, _) = import(fds);
        assert!(matches!(answer, Answer::Errno(_)), "{answer:?}");
    }
    let nobody = Request::ResourceImport { ctx_id: 77 };
    client.send_with(&nobody, &[file.as_fd()]);
    assert!(matches!(client.receive().unwrap().0, Answer::Errno(_)));
    assert!(client.is_alive());
}

#[test]
fn shaped_resources_are_memory_that_can_be_mapped() {
    let server = Server::start();
    let client = server.connect();
    let ctx_id = client.context();
    let create = ResourceCreate3d {
        shape: Shape {
            target: 2,
            format: 67,
            width: 100,
            height: 50,
            depth: 1,
            array_size: 1,
            ..Shape::default()
        },
        stride: 512,
        size: 0,
        ctx_id,
    };
    let (Answer::Resource(resource_id), fds) = client.ask(&Request::ResourceCreate3d(create))
    else {
        panic!()
    };
    assert_eq!(rustix::fs::fstat(&fds[0]).unwrap().st_size, 28_672);
    assert!(
        rustix::fs::ftruncate(&fds[0], 0).is_err(),
        "a guest must not shrink what the host maps"
    );

    let done = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let transfer = Transfer3d {
        ctx_id,
        resource_id,
        ..Transfer3d::default()
    };
    for request in [
        Request::TransferToHost(transfer),
        Request::TransferFromHost(transfer),
    ] {
        client.send_with(&request, &[done.as_fd()]);
        assert!(readable_within(&done, PATIENCE));
        rustix::io::read(&done, &mut [0; 8]).unwrap();
    }
}

#[test]
fn fences_come_with_submissions() {
    let server = Server::start();
    let client = server.connect();
    let ctx = client.context();
    let barrier = client.submit(ctx, Some(1), Submitted::PlaceholderVk);
    let sync = client.submit(
        ctx,
        Some(0),
        Submitted::CreateExportSyncVk {
            device: 1,
            fence: 2,
        },
    );
    let (Answer::Fence(first), Answer::Fence(second)) = (&barrier.0, &sync.0) else {
        panic!("{barrier:?} {sync:?}")
    };
    assert_ne!(first, second);
    let last = client.submit_after(
        ctx,
        Some(1),
        &[*first, *second, 12345],
        Submitted::PlaceholderVk,
    );
    for fds in [barrier.1, sync.1, last.1] {
        assert!(readable_within(&fds[0], PATIENCE));
    }
}

#[test]
fn several_requests_share_a_packet() {
    let server = Server::start();
    let client = server.connect();
    let mut bytes = Vec::new();
    for _ in 0..3 {
        Request::GetNumCapsets.write(&mut bytes);
    }
    client.socket.send(&bytes, &[]).unwrap();
    for _ in 0..3 {
        assert_eq!(client.receive().unwrap().0, Answer::Number(1));
    }
}

#[test]
fn limits_are_answered_with_an_error() {
    let server = Server::start_with(&[
        "--max-contexts=2",
        "--max-resources=2",
        "--max-memory=1M",
        "--max-rings=1",
    ]);
    let client = server.connect();
    let ctx = client.context();
    client.context();
    let third = client.ask(&Request::CtxCreate(asgard_asg::kumquat::CtxCreate::new(
        3, b"",
    )));
    assert!(matches!(third.0, Answer::Errno(_)));
    assert!(
        matches!(client.ask_blob(ctx, 0, 2 << 20).0, Answer::Errno(_)),
        "memory"
    );
    for size in [0, u64::MAX, u64::MAX - 4095, 1 << 63] {
        assert!(
            matches!(client.ask_blob(ctx, 0, size).0, Answer::Errno(_)),
            "{size}"
        );
    }
    let (first, _) = client.blob(ctx, 0, 512 << 10);
    let (_second, _) = client.blob(ctx, 0, 512 << 10);
    assert!(
        matches!(client.ask_blob(ctx, 0, 4096).0, Answer::Errno(_)),
        "resources"
    );
    client.send(&Request::ResourceUnref { resource_id: first });
    client.blob(ctx, 0, 512 << 10);
    assert!(client.is_alive());
}
