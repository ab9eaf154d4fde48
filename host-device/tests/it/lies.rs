//! Clients that make mistakes, on purpose or not. Each costs its own connection, and nothing else.

use std::os::fd::AsFd;

use asgard_asg::Shape;
use asgard_asg::kumquat::{
    CtxCreate, CtxResource, MAX_FDS, Packet, Request, ResourceCreate3d, Socket, Transfer3d,
};
use asgard_asg::submit::Command as Submitted;
use rustix::event::{EventfdFlags, eventfd};

use crate::support::{Answer, Server, eventually, send_raw};

fn bytes_of(request: &Request<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    request.write(&mut bytes);
    bytes
}

#[test]
fn malformed_packets_end_their_connection() {
    let server = Server::start();
    let witness = server.connect();
    witness.context();
    let create = bytes_of(&Request::CtxCreate(CtxCreate::new(3, b"x")));
    let submit = bytes_of(&Request::Submit3d {
        flags: 0,
        ctx_id: 1,
        ring_idx: 0,
        in_fences: vec![1, 2],
        command: &[1; 8],
    });
    let mut hostile_sizes = submit.clone();
    hostile_sizes[16..24].fill(0xff);
    let packets: Vec<Vec<u8>> = vec![
        vec![0],
        vec![0; 7],
        vec![0; 8],
        vec![0xff; 8],
        vec![0x5a; 4096],
        create[..create.len() - 1].to_vec(),
        submit[..submit.len() - 1].to_vec(),
        hostile_sizes,
        vec![1; 5000],
        vec![1; 60_000],
        // A response is no request.
        [0x3001_u32.to_ne_bytes(), [0; 4]].concat(),
    ];
    for packet in packets {
        let client = server.connect();
        send_raw(&client.socket, &packet);
        assert!(client.is_hung_up());
    }
    assert!(witness.is_alive());
    eventually("the log tells", || {
        let log = server.log();
        log.contains("malformed packet") && log.contains("oversized packet")
    });
}

#[test]
fn wrong_ids_end_their_connection_or_are_answered() {
    let server = Server::start();
    let pair = CtxResource {
        ctx_id: 7,
        resource_id: 7,
    };
    let transfer = Transfer3d {
        ctx_id: 7,
        resource_id: 7,
        ..Transfer3d::default()
    };
    let mut ping = Vec::new();
    Submitted::ContextPing { resource_id: 7 }.write(&mut ping);
    let silent = [
        Request::ResourceUnref { resource_id: 7 },
        Request::CtxDestroy { ctx_id: 7 },
        Request::CtxDestroy { ctx_id: 0 },
        Request::CtxAttach(pair),
        Request::CtxDetach(pair),
        Request::TransferToHost(transfer),
        Request::TransferFromHost(transfer),
        Request::Submit3d {
            flags: 0,
            ctx_id: 7,
            ring_idx: 0,
            in_fences: vec![],
            command: &ping,
        },
        Request::Submit3d {
            flags: 0,
            ctx_id: 1,
            ring_idx: 0,
            in_fences: vec![],
            command: &ping,
        },
        Request::Submit3d {
            flags: 0,
            ctx_id: 1,
            ring_idx: 0,
            in_fences: vec![],
            command: &[1],
        },
        Request::Submit3d {
            flags: 0,
            ctx_id: 1,
            ring_idx: 0,
            in_fences: vec![],
            command: &[0xee; 8],
        },
        Request::Submit3d {
            flags: 0,
            ctx_id: 1,
            ring_idx: 0,
            in_fences: vec![0; 400],
            command: &[],
        },
    ];
    for request in silent {
        let client = server.connect();
        client.context();
        client.send(&request);
        assert!(client.is_hung_up(), "{request:?}");
    }

    let client = server.connect();
    let ctx = client.context();
    assert!(matches!(client.ask_blob(99, 0, 4096).0, Answer::Errno(_)));
    let create = ResourceCreate3d {
        ctx_id: 99,
        shape: Shape {
            width: 1,
            height: 1,
            ..Shape::default()
        },
        ..ResourceCreate3d::default()
    };
    assert!(matches!(
        client.ask(&Request::ResourceCreate3d(create)).0,
        Answer::Errno(_)
    ));
    let huge = ResourceCreate3d {
        ctx_id: ctx,
        shape: Shape {
            width: u32::MAX,
            height: u32::MAX,
            depth: u32::MAX,
            ..create.shape
        },
        ..create
    };
    assert!(matches!(
        client.ask(&Request::ResourceCreate3d(huge)).0,
        Answer::Errno(_)
    ));
    assert!(matches!(
        client.submit(99, Some(1), Submitted::PlaceholderVk).0,
        Answer::Errno(_)
    ));
    assert!(matches!(
        client.ask(&Request::CtxCreate(CtxCreate::new(4, b""))).0,
        Answer::Errno(_)
    ));
    let unsupported = Submitted::AcquireSync { sync: 1 };
    assert!(matches!(
        client.submit(ctx, None, unsupported).0,
        Answer::Errno(_)
    ));
    assert!(client.is_alive());
}

#[test]
fn floods_of_descriptors_are_dropped() {
    let server = Server::start();
    let (client, worker) = server.connect_and_find();
    let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let fds = vec![event.as_fd(); MAX_FDS];
    let open = || {
        std::fs::read_dir(format!("/proc/{worker}/fd"))
            .unwrap()
            .count()
    };
    let before = open();
    for _ in 0..200 {
        client.send_with(&Request::GetNumCapsets, &fds);
        assert_eq!(client.receive().unwrap().0, Answer::Number(1));
    }
    eventually("they are closed", || open() <= before);
}

#[test]
fn what_is_no_eventfd_is_not_written_to() {
    let server = Server::start();
    let client = server.connect();
    let ctx_id = client.context();
    let (resource_id, _memory) = client.blob(ctx_id, 0, 4096);
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let transfer = Transfer3d {
        ctx_id,
        resource_id,
        ..Transfer3d::default()
    };
    client.send_with(&Request::TransferToHost(transfer), &[writer.as_fd()]);
    assert!(client.is_alive());
    drop(writer);
    assert_eq!(rustix::io::read(&reader, &mut [0; 8]).unwrap(), 0);
}

#[test]
fn a_client_that_never_reads_harms_nobody() {
    let server = Server::start();
    let stuck = server.connect();
    let socket = stuck.socket.as_fd().try_clone_to_owned().unwrap();
    let bytes = bytes_of(&Request::GetNumCapsets);
    // Until the worker is stuck in its reply, and then the socket is full.
    let flags = rustix::net::SendFlags::NOSIGNAL | rustix::net::SendFlags::DONTWAIT;
    let mut sent = 0;
    eventually("the socket is full", || {
        while rustix::net::send(&socket, &bytes, flags).is_ok() {
            sent += 1;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
        rustix::net::send(&socket, &bytes, flags).is_err()
    });
    assert!(sent > 1);
    assert!(server.connect().is_alive());
    drop(socket);
    drop(stuck);
    eventually("its worker ends", || server.is_idle());
}

#[test]
fn clients_may_vanish_at_every_step() {
    let server = Server::start();
    for step in 0..9 {
        let client = server.connect();
        vanish_after(&client, step);
        drop(client);
    }
    eventually("all workers end", || server.is_idle());
    assert!(server.connect().is_alive());
    assert!(!server.log().contains("killed"), "{}", server.log());
}

fn vanish_after(client: &crate::support::Client, step: u32) {
    let send = |request: &Request<'_>| client.send(request);
    if step == 0 {
        return;
    }
    send(&Request::GetNumCapsets);
    if step == 1 {
        return;
    }
    client.receive();
    // Before the reply.
    send(&Request::CtxCreate(CtxCreate::new(3, b"x")));
    if step == 2 {
        return;
    }
    client.receive();
    let ctx_id = 1;
    let (resource_id, fd) = client.blob(ctx_id, 0, crate::support::RING_BYTES as u64);
    if step == 3 {
        return;
    }
    let mut create = Vec::new();
    Submitted::ContextCreate { resource_id }.write(&mut create);
    let request = Request::Submit3d {
        flags: 1,
        ctx_id,
        ring_idx: 0,
        in_fences: vec![],
        command: &create,
    };
    send(&request);
    if step == 4 {
        return;
    }
    client.receive();
    if step == 5 {
        return;
    }
    let memory = asgard_asg::Mapping::map(&fd, 0, crate::support::RING_BYTES).unwrap();
    // In the middle of a large transfer: the ring thread waits for the rest.
    memory
        .atomic_u32(asgard_asg::layout::TRANSFER_SIZE)
        .unwrap()
        .store(1000, std::sync::atomic::Ordering::SeqCst);
    client.submit_unfenced(ctx_id, Submitted::ContextPing { resource_id });
    if step == 6 {
        return;
    }
    client.detach(ctx_id, resource_id);
    if step == 7 {
        return;
    }
    send(&Request::CtxDestroy { ctx_id });
}

#[test]
fn half_a_packet_at_the_end_is_no_reply() {
    // Requests before the broken one in a packet are obeyed.
    let server = Server::start();
    let client = server.connect();
    let mut bytes = bytes_of(&Request::GetNumCapsets);
    bytes.push(1);
    send_raw(&client.socket, &bytes);
    assert_eq!(client.receive().unwrap().0, Answer::Number(1));
    assert!(client.is_hung_up());
}

#[test]
fn another_kind_of_socket_is_refused() {
    let server = Server::start();
    assert!(std::os::unix::net::UnixStream::connect(&server.socket).is_err());
    let mut packet = Packet::default();
    let client = Socket::connect(&server.socket).unwrap();
    client.shutdown().unwrap();
    assert!(!client.recv(&mut packet).unwrap_or(false));
    eventually("its worker ends", || server.is_idle());
}
