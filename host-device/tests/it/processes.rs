//! The life and death of the server and its workers.

use std::process::Stdio;

use rustix::process::Signal;

use crate::support::{Server, asgard, eventually, exists, is_alive, kill};

#[test]
fn a_worker_that_crashes_is_reported_and_survived() {
    let server = Server::start();
    let witness = server.connect();
    witness.context();
    let (victim, worker) = server.connect_and_find();
    // The first only makes Rust's own handler step aside, because no fault comes with it.
    kill(worker, Signal::SEGV);
    eventually("it is dead", || {
        if is_alive(worker) {
            kill(worker, Signal::SEGV);
        }
        !is_alive(worker)
    });
    assert!(victim.is_hung_up());
    eventually("the log tells", || {
        server.log().contains("killed by SIGSEGV")
    });
    assert!(witness.is_alive());
    assert!(server.connect().is_alive());
}

#[test]
fn a_dead_spare_is_replaced() {
    let server = Server::start();
    for pid in server.workers() {
        kill(pid, Signal::KILL);
    }
    assert!(server.connect().is_alive());
    for pid in server.workers() {
        // Perhaps the spare, perhaps not.
        kill(pid, Signal::KILL);
    }
    eventually("it is noticed", || {
        server.workers().iter().all(|pid| !is_alive(*pid))
    });
    assert!(server.connect().is_alive());
}

#[test]
fn sigterm_ends_everything_cleanly() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = Server::start();
        let (client, worker) = server.connect_and_find();
        kill(server.child.id(), signal);
        let status = server.child.wait().unwrap();
        assert!(status.success(), "{status}");
        assert!(client.is_hung_up());
        assert!(!is_alive(worker));
        assert!(!exists(&server.socket));
    }
}

#[test]
fn workers_do_not_outlive_a_killed_server() {
    let mut server = Server::start();
    let (client, worker) = server.connect_and_find();
    eventually("there is a spare again", || server.workers().len() == 2);
    let workers = server.workers();
    assert!(workers.contains(&worker));
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    assert!(client.is_hung_up());
    eventually("the workers die", || {
        workers.iter().all(|pid| !is_alive(*pid))
    });
    assert!(exists(&server.socket), "a killed server leaves its socket");
    // The next one replaces it.
    let next = asgard()
        .args([
            "serve",
            "--renderer=null",
            "--ready-fd=1",
            "--kumquat-socket",
        ])
        .arg(&server.socket)
        .stdout(Stdio::piped())
        .spawn();
    let mut next = next.unwrap();
    let mut word = [0; 8];
    std::io::Read::read_exact(&mut next.stdout.take().unwrap(), &mut word).unwrap();
    assert!(server.connect().is_alive());
    kill(next.id(), Signal::TERM);
    assert!(next.wait().unwrap().success());
}

#[test]
fn a_live_servers_socket_is_not_stolen() {
    let server = Server::start();
    let output = asgard()
        .args(["serve", "--renderer=null", "--kumquat-socket"])
        .arg(&server.socket)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("another server listens there"), "{said}");
    assert!(server.connect().is_alive());
}

#[test]
fn workers_leave_no_core_files() {
    let server = Server::start();
    for pid in server.workers() {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"))
            .unwrap();
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    }
}

#[test]
fn a_worker_is_not_started_by_hand() {
    let output = asgard()
        .arg("worker")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(!output.status.success());
}
