//! Many connections, one process each.

use asgard_asg::kumquat::{Packet, Socket};

use crate::support::{Server, eventually};

#[test]
fn a_hundred_quick_connections_leave_no_processes() {
    let server = Server::start_with(&["--max-connections=1000"]);
    for n in 0..100 {
        let client = server.connect();
        if n % 2 == 0 {
            client.context();
        }
    }
    eventually("all workers end", || server.is_idle());
    assert!(server.connect().is_alive());
}

#[test]
fn guests_are_served_by_different_processes() {
    let server = Server::start();
    let (first, a) = server.connect_and_find();
    let (second, b) = server.connect_and_find();
    assert_ne!(a, b);
    assert!(first.is_alive() && second.is_alive());
}

#[test]
fn too_many_connections_are_refused() {
    let server = Server::start_with(&["--max-connections=2"]);
    let (first, second) = (server.connect(), server.connect());
    assert!(first.is_alive() && second.is_alive());
    let third = Socket::connect(&server.socket).unwrap();
    assert!(!third.recv(&mut Packet::default()).unwrap_or(false));
    drop(first);
    eventually("there is room again", || {
        let client = server.connect();
        let mut bytes = Vec::new();
        asgard_asg::kumquat::Request::GetNumCapsets.write(&mut bytes);
        client.socket.send(&bytes, &[]).is_ok()
            && client.socket.recv(&mut Packet::default()).unwrap_or(false)
    });
    assert!(second.is_alive());
}
