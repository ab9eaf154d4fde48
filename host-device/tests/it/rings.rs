//! Rings: bytes through shared memory. The null renderer echoes them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use asgard_asg::Mapping;
use asgard_asg::guest::{GuestChannel, GuestConfig, NoPing, Ping};
use asgard_asg::layout;
use asgard_asg::submit::Command as Submitted;

use crate::support::{Answer, Client, Server, eventually};

struct Messages<'a> {
    client: &'a Client,
    ctx_id: u32,
    resource_id: u32,
}

impl Ping for Messages<'_> {
    fn ping(&mut self) -> asgard_asg::Result<()> {
        self.client.submit_unfenced(
            self.ctx_id,
            Submitted::ContextPing {
                resource_id: self.resource_id,
            },
        );
        Ok(())
    }
    fn peer_alive(&mut self) -> bool {
        true
    }
}

fn config() -> GuestConfig {
    GuestConfig {
        same_kernel: false,
        ..GuestConfig::default()
    }
}

fn echo(channel: &mut GuestChannel<impl Ping>, len: usize) {
    let sent: Vec<u8> = (0..len).map(|n| (n * 7 + len) as u8).collect();
    channel.write(&sent).unwrap();
    let mut back = vec![0; len];
    channel.read_reply(&mut back).unwrap();
    assert!(sent == back, "{len} bytes");
}

#[test]
fn bytes_come_back() {
    let server = Server::start();
    let client = server.connect();
    let ctx_id = client.context();
    let (resource_id, memory) = client.ring(ctx_id);
    let ping = Messages {
        client: &client,
        ctx_id,
        resource_id,
    };
    let mut channel = GuestChannel::new(memory, config(), ping).unwrap();
    // Larger transfers would meet their own echo in the buffer that both directions share.
    for len in [4, 100, 4096, channel.flush_interval()] {
        echo(&mut channel, len);
    }
    // Long enough for the host to fall asleep: it must be woken by the ping.
    std::thread::sleep(Duration::from_millis(50));
    let started = Instant::now();
    echo(&mut channel, 8);
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "the ping did not wake the ring thread"
    );
}

#[test]
fn the_interval_is_the_servers_choice() {
    let server = Server::start_with(&["--flush-interval=8192"]);
    let client = server.connect();
    let ctx_id = client.context();
    let (_, memory) = client.ring(ctx_id);
    let channel = GuestChannel::new(memory, config(), NoPing).unwrap();
    assert_eq!(channel.flush_interval(), 8192);
}

#[test]
fn rings_of_one_context_work_side_by_side() {
    let server = Server::start();
    let client = server.connect();
    let ctx_id = client.context();
    let rings: Vec<_> = (0..4).map(|_| client.ring(ctx_id)).collect();
    let client = &client;
    std::thread::scope(|scope| {
        for (resource_id, memory) in rings {
            scope.spawn(move || {
                let ping = Messages {
                    client,
                    ctx_id,
                    resource_id,
                };
                let mut channel = GuestChannel::new(memory, config(), ping).unwrap();
                for len in 1..200 {
                    echo(&mut channel, len * 40);
                }
            });
        }
    });
}

#[test]
fn a_closed_ring_is_drained_and_its_thread_ends() {
    let server = Server::start_with(&["--max-rings=1"]);
    let client = server.connect();
    let ctx_id = client.context();
    for _ in 0..5 {
        // The limit is one ring: the next one starts when the thread of the last one has ended.
        let mut ring = None;
        eventually("the last ring's thread ends", || {
            ring = client.try_ring(ctx_id);
            ring.is_some()
        });
        let (resource_id, memory) = ring.unwrap();
        let ping = Messages {
            client: &client,
            ctx_id,
            resource_id,
        };
        let mut channel = GuestChannel::new(Arc::clone(&memory), config(), ping).unwrap();
        channel.write(&[1; 100]).unwrap();
        client.detach(ctx_id, resource_id);
        // The memory outlives the resource, and what was in the ring is executed.
        let mut back = [0; 100];
        channel.read_reply(&mut back).unwrap();
        assert_eq!(back, [1; 100]);
    }
}

fn in_error(memory: &Mapping) -> bool {
    memory
        .atomic_u32(layout::IN_ERROR)
        .unwrap()
        .load(std::sync::atomic::Ordering::SeqCst)
        != 0
}

#[test]
fn a_lie_in_the_ring_costs_its_context_and_nothing_else() {
    let server = Server::start();
    let client = server.connect();
    let (bad, good) = (client.context(), client.context());
    let (liar, lies) = client.ring(bad);
    let (_, sibling) = client.ring(bad);
    let (honest, memory) = client.ring(good);
    // A record that points outside of the buffer.
    lies.copy_in(layout::INLINE, &[0xff; 8]).unwrap();
    lies.atomic_u32(layout::WRITE_POS)
        .unwrap()
        .store(8, std::sync::atomic::Ordering::SeqCst);
    client.submit_unfenced(bad, Submitted::ContextPing { resource_id: liar });
    eventually("the liar is told", || in_error(&lies));
    eventually("its sibling is told", || in_error(&sibling));
    assert!(!in_error(&memory));
    let ping = Messages {
        client: &client,
        ctx_id: good,
        resource_id: honest,
    };
    let mut channel = GuestChannel::new(memory, config(), ping).unwrap();
    echo(&mut channel, 1000);
    assert!(client.is_alive());
}

#[test]
fn only_ring_memory_becomes_a_ring() {
    let server = Server::start();
    let client = server.connect();
    let (ctx_id, other) = (client.context(), client.context());
    let (small, _fd) = client.blob(ctx_id, 0, 4096);
    let (published, _fd) = client.blob(ctx_id, 5, 4096);
    let (ring, _memory) = client.ring(ctx_id);
    for (ctx_id, resource_id) in [
        (ctx_id, small),
        (ctx_id, published),
        (ctx_id, ring),
        (ctx_id, 999),
        (other, small),
    ] {
        let (answer, _) = client.submit(ctx_id, None, Submitted::ContextCreate { resource_id });
        assert!(matches!(answer, Answer::Errno(_)), "{resource_id}");
    }
    assert!(client.is_alive());
}
