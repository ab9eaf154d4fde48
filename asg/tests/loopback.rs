//! Both ends in one process, over real shared memory. Nothing here can hang: every guest has a
//! deadline after which its host counts as dead, and every host is stopped when its test ends.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use asgard_asg::doorbell::{self, Doorbell, YieldWaiter};
use asgard_asg::guest::{GuestChannel, GuestConfig, Ping};
use asgard_asg::host::{Counters, HostChannel, HostConfig, Wake};
use asgard_asg::layout::*;
use asgard_asg::ring::Memory;
use asgard_asg::{Error, Mapping, Result};
use proptest::prelude::*;

const SPIN: Duration = Duration::from_micros(20);

/// Pings by the doorbell as if it were a system call, and believes in the host for a while.
struct Deadline {
    mem: Arc<Mapping>,
    at: Instant,
}

impl Deadline {
    fn new(mem: &Arc<Mapping>, time: Duration) -> Self {
        Self {
            mem: Arc::clone(mem),
            at: Instant::now() + time,
        }
    }
}

impl Ping for Deadline {
    fn ping(&mut self) -> Result<()> {
        doorbell::ring(&*self.mem);
        Ok(())
    }

    fn peer_alive(&mut self) -> bool {
        Instant::now() < self.at
    }
}

type Guest = GuestChannel<Deadline>;

fn memory(config: HostConfig) -> Arc<Mapping> {
    Arc::new(Mapping::create(blob_size(config.buffer_size)).unwrap().0)
}

/// A host thread that answers requests `{u32 size of this, u32 size of the answer, bytes}` with
/// bytes that depend on both, and checks what it gets.
struct Echo {
    doorbell: Doorbell,
    thread: Option<JoinHandle<(Result<()>, Counters)>>,
}

impl Echo {
    fn start(mem: &Arc<Mapping>, config: HostConfig, spin: Duration) -> Self {
        let mut channel = HostChannel::new(Arc::clone(mem), config).unwrap();
        let doorbell = channel.doorbell();
        let thread = thread::spawn(move || {
            let result = serve(&mut channel, spin);
            if result.is_err() {
                channel.fail();
            }
            (result, channel.counters())
        });
        Self {
            doorbell,
            thread: Some(thread),
        }
    }

    fn finish(mut self) -> (Result<()>, Counters) {
        self.doorbell.stop();
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.doorbell.stop();
    }
}

fn serve(channel: &mut HostChannel, spin: Duration) -> Result<()> {
    let mut input = Vec::new();
    loop {
        if channel.recv(&mut input)? == 0 {
            match channel.wait(spin) {
                Wake::Data => continue,
                Wake::Stopped | Wake::Exited => return Ok(()),
            }
        }
        let mut at = 0;
        while let Some(head) = input[at..].first_chunk::<8>() {
            let size = u32::from_le_bytes(*head.first_chunk().unwrap()) as usize;
            let answer = u32::from_le_bytes(*head.last_chunk().unwrap());
            if input.len() - at < size {
                break;
            }
            assert_eq!(
                input[at..at + size],
                request(size, answer),
                "request of {size}"
            );
            channel.send(&pattern(answer as usize, size as u32))?;
            at += size;
        }
        input.drain(..at);
    }
}

fn pattern(len: usize, seed: u32) -> Vec<u8> {
    (0..len as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 13) as u8)
        .collect()
}

fn request(size: usize, answer: u32) -> Vec<u8> {
    let size = size.max(8);
    let mut bytes = pattern(size, answer);
    bytes[..4].copy_from_slice(&(size as u32).to_le_bytes());
    bytes[4..8].copy_from_slice(&answer.to_le_bytes());
    bytes
}

fn guest(mem: &Arc<Mapping>, same_kernel: bool) -> Guest {
    let config = GuestConfig {
        same_kernel,
        spin: SPIN,
    };
    let deadline = Deadline::new(mem, Duration::from_secs(20));
    GuestChannel::new(Arc::clone(mem), config, deadline).unwrap()
}

fn call(guest: &mut Guest, size: usize, answer: u32, wait: bool) -> Result<()> {
    let request = request(size, answer);
    if wait {
        guest.write(&request)?;
    } else {
        guest.write_async(&request)?;
    }
    let mut reply = vec![0; answer as usize];
    guest.read_reply(&mut reply)?;
    assert_eq!(reply, pattern(answer as usize, request.len() as u32));
    Ok(())
}

fn run(config: HostConfig, same_kernel: bool, calls: &[(usize, u32, bool)]) -> Counters {
    let mem = memory(config);
    let echo = Echo::start(&mem, config, SPIN);
    let mut guest = guest(&mem, same_kernel);
    for &(size, answer, wait) in calls {
        call(&mut guest, size, answer, wait).unwrap();
    }
    let (result, counters) = echo.finish();
    result.unwrap();
    counters
}

const SMALL: HostConfig = HostConfig {
    buffer_size: 1024,
    flush_interval: 64,
};

#[test]
fn sizes_around_every_border_pass_in_both_directions() {
    let config = HostConfig::default();
    let mut calls = Vec::new();
    for size in [8, 9, 4095, 4096, 4097, 262_143, 262_145, 524_289, 3 << 20] {
        calls.extend([(size, 0, true), (size, 4, false)]);
    }
    for size in [(1 << 20) - 1, 1 << 20, (1 << 20) + 1] {
        calls.extend([(size, 0, true), (size, size as u32, false)]);
    }
    calls.push((8, 3 << 20, true));
    run(config, true, &calls);
    run(config, false, &calls);
}

#[test]
fn wide_steps_pass_as_records() {
    let config = HostConfig {
        buffer_size: 1 << 20,
        flush_interval: 262_144,
    };
    let calls: Vec<_> = (0..64).map(|i| (48_148 + i * 1000, 8, true)).collect();
    run(config, true, &calls);
}

#[test]
fn a_stream_without_replies_fills_the_ring_and_wraps() {
    for config in [HostConfig::default(), SMALL] {
        let calls: Vec<_> = (0..5000).map(|i| (8 + i % 57, 0, true)).collect();
        run(config, true, &calls);
    }
}

#[test]
fn an_idle_host_sleeps_and_a_busy_guest_does_not_ping() {
    let config = HostConfig::default();
    let mem = memory(config);
    // Long enough to span whatever the machine does in between.
    let echo = Echo::start(&mem, config, Duration::from_secs(5));
    let mut guest = guest(&mem, true);
    call(&mut guest, 64, 16, true).unwrap();
    let before = guest.pings();
    for _ in 0..100 {
        call(&mut guest, 64, 16, true).unwrap();
    }
    // Only a host that was driven from its core may have gone to sleep.
    let pings = guest.pings() - before;
    let (_, counters) = echo.finish();
    assert!(pings <= counters.sleeps + 1, "{pings} {counters:?}");

    let echo = Echo::start(&mem, config, SPIN);
    thread::sleep(Duration::from_millis(50));
    let start = Instant::now();
    let (_, counters) = echo.finish();
    assert!(counters.sleeps <= 2, "{counters:?}");
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[test]
fn a_host_that_dozes_is_not_pinged_and_falls_asleep() {
    let config = HostConfig::default();
    let wait = |mem: &Arc<Mapping>, doze| {
        let host = HostChannel::new(Arc::clone(mem), config).unwrap();
        let mut host = host.dozing(doze);
        let bell = host.doorbell();
        let thread = thread::spawn(move || (host.wait(Duration::ZERO), host.counters()));
        (bell, thread)
    };
    let state_is = |mem: &Mapping, state| {
        let end = Instant::now() + Duration::from_secs(20);
        while mem.load(STATE) != state {
            assert!(Instant::now() < end, "the state is {}", mem.load(STATE));
            thread::yield_now();
        }
    };

    let mem = memory(config);
    let (_, thread) = wait(&mem, Duration::from_secs(20));
    state_is(&mem, state::RENDERING);
    thread::sleep(Duration::from_millis(5));
    let mut guest = guest(&mem, false);
    guest.write_async(&request(64, 0)).unwrap();
    let (wake, counters) = thread.join().unwrap();
    assert_eq!((wake, guest.pings()), (Wake::Data, 0));
    assert!(counters.naps > 0 && counters.sleeps == 0, "{counters:?}");

    let mem = memory(config);
    let (bell, thread) = wait(&mem, Duration::from_millis(1));
    state_is(&mem, state::NEED_NOTIFY);
    bell.stop();
    assert_eq!(thread.join().unwrap().0, Wake::Stopped);
}

#[test]
fn a_guest_that_only_yields_sleeps_and_is_woken() {
    let config = HostConfig::default();
    let mem = memory(config);
    let mut host = HostChannel::new(Arc::clone(&mem), config).unwrap();
    let mut waiter = YieldWaiter::new(Arc::clone(&mem));
    let guest = {
        let mem = Arc::clone(&mem);
        thread::spawn(move || {
            for i in 1..=50 {
                let written = mem.atomic_u32(FROM_HOST + WRITE_POS).unwrap();
                while written.load(std::sync::atomic::Ordering::SeqCst) < i * 4 {
                    waiter.on_yield();
                }
            }
            waiter.sleeps()
        })
    };
    let start = Instant::now();
    for _ in 0..50 {
        thread::sleep(Duration::from_millis(2));
        host.send(&[1, 2, 3, 4]).unwrap();
    }
    let sleeps = guest.join().unwrap();
    assert!((1..200).contains(&sleeps), "{sleeps}");
    // Without wake-ups each round would last as long as the safety net allows.
    assert!(start.elapsed() < 25 * YieldWaiter::<Mapping>::SAFETY);
}

#[test]
fn a_host_that_dies_is_noticed() {
    let config = HostConfig::default();
    for same_kernel in [true, false] {
        let mem = memory(config);
        let host = HostChannel::new(Arc::clone(&mem), config).unwrap();
        let deadline = Deadline::new(&mem, Duration::from_millis(50));
        let config = GuestConfig {
            same_kernel,
            spin: SPIN,
        };
        let mut guest = GuestChannel::new(Arc::clone(&mem), config, deadline).unwrap();
        let start = Instant::now();
        guest.write(&[0; 100]).unwrap();
        let error = guest.read_reply(&mut [0; 4]).unwrap_err();
        assert!(matches!(error, Error::Disconnected), "{error}");
        // It has said where it waits.
        assert_eq!(mem.load(GUEST_CORE) != 0, same_kernel);
        let error = guest.write(&[0; 2 << 20]).unwrap_err();
        assert!(matches!(error, Error::Disconnected), "{error}");
        assert!(start.elapsed() < Duration::from_secs(2));
        drop(host);
    }
}

#[test]
fn failure_and_exit_end_the_waits_of_the_other_side() {
    let config = HostConfig::default();
    let mut waited = Duration::ZERO;
    for exit in [false, true].repeat(5) {
        let mem = memory(config);
        let mut host = HostChannel::new(Arc::clone(&mem), config).unwrap();
        let mut guest = guest(&mem, true);
        let waiting = thread::spawn(move || guest.read_reply(&mut [0; 4]).unwrap_err());
        thread::sleep(Duration::from_millis(5));
        let start = Instant::now();
        if exit {
            host.exit();
        } else {
            host.fail();
        }
        let error = waiting.join().unwrap();
        waited += start.elapsed();
        match error {
            Error::Exited => assert!(exit),
            Error::Failed => assert!(!exit),
            other => panic!("{other}"),
        }
        assert!(matches!(host.recv(&mut Vec::new()), Err(Error::Failed)));
        assert!(matches!(host.send(&[1]), Err(Error::Failed)));
    }
    // Who is not woken looks for the host's health ten times a second.
    assert!(waited < Duration::from_millis(500), "{waited:?}");

    let mem = memory(config);
    let mut host = HostChannel::new(Arc::clone(&mem), config).unwrap();
    let mut guest = guest(&mem, true);
    let waiting = thread::spawn(move || host.wait(SPIN));
    thread::sleep(Duration::from_millis(20));
    guest.exit();
    assert_eq!(waiting.join().unwrap(), Wake::Exited);
}

#[test]
fn a_reply_that_nobody_reads_ends_with_stop() {
    let config = HostConfig::default();
    let mem = memory(config);
    let mut host = HostChannel::new(Arc::clone(&mem), config).unwrap();
    let doorbell = host.doorbell();
    let sending = thread::spawn(move || host.send(&vec![0; 2 << 20]).unwrap_err());
    thread::sleep(Duration::from_millis(50));
    doorbell.stop();
    assert!(matches!(sending.join().unwrap(), Error::Stopped));
}

#[test]
fn what_was_sent_before_stop_is_received_but_no_flood() {
    let config = HostConfig::default();
    let mem = memory(config);
    let mut host = HostChannel::new(Arc::clone(&mem), config).unwrap();
    let mut guest = guest(&mem, true);
    guest.write(&[7; 4096]).unwrap();
    host.doorbell().stop();
    let mut out = Vec::new();
    assert_eq!(host.wait(SPIN), Wake::Data);
    assert_eq!(host.recv(&mut out).unwrap(), 4096);
    assert_eq!(host.recv(&mut out).unwrap(), 0);
    assert_eq!(host.wait(SPIN), Wake::Stopped);
    let mut rounds = 0;
    loop {
        guest.write(&[7; 4096]).unwrap();
        out.clear();
        if host.recv(&mut out).is_err() {
            break;
        }
        rounds += 1;
        assert!(rounds <= 256);
    }
}

#[test]
fn a_transfer_that_never_ends_costs_little() {
    let config = HostConfig::default();
    let mem = memory(config);
    let mut host = HostChannel::new(Arc::clone(&mem), config).unwrap();
    poke(&mem, TRANSFER_SIZE, 1 << 20);
    let doorbell = host.doorbell();
    let waiting = thread::spawn(move || (host.wait(SPIN), host.counters().naps));
    thread::sleep(Duration::from_millis(300));
    doorbell.stop();
    let (wake, naps) = waiting.join().unwrap();
    assert_eq!(wake, Wake::Stopped);
    assert!((1..150).contains(&naps), "{naps}");
}

fn poke(mem: &Mapping, at: usize, value: u32) {
    mem.copy_in(at, &value.to_le_bytes()).unwrap();
}

/// Receives and waits until the host has had enough, or there is nothing more.
fn drain(host: &mut HostChannel) -> Result<usize> {
    let mut out = Vec::new();
    let mut total = 0;
    host.doorbell().stop();
    for _ in 0..1000 {
        out.clear();
        let got = host.recv(&mut out)?;
        assert!(out.len() <= 1 << 20);
        total += got;
        if got == 0 && host.wait(Duration::ZERO) != Wake::Data {
            return Ok(total);
        }
    }
    panic!("the host does not come to an end");
}

#[test]
fn lies_about_single_words_are_found() {
    let config = HostConfig::default();
    let big = config.buffer_size;
    for (words, what) in [
        (&[(TO_HOST + WRITE_POS, 2048)][..], "write position"),
        (&[(TO_HOST + WRITE_POS, u32::MAX)], "write position"),
        (&[(TO_HOST + WRITE_POS, 12)], "number of record bytes"),
        (&[(TO_HOST_LARGE + WRITE_POS, big)], "write position"),
        (&[(TO_HOST_LARGE + WRITE_POS, 1)], "transfer size"),
        (
            &[(TO_HOST_LARGE + WRITE_POS, 100), (TRANSFER_SIZE, 99)],
            "transfer size",
        ),
        (
            &[
                (TO_HOST + INLINE, big),
                (TO_HOST + INLINE + 4, 1),
                (WRITE_POS, 8),
            ],
            "record offset",
        ),
        (
            &[
                (TO_HOST + INLINE, u32::MAX),
                (TO_HOST + INLINE + 4, 2),
                (WRITE_POS, 8),
            ],
            "record offset",
        ),
        (
            &[(TO_HOST + INLINE + 4, u32::MAX), (WRITE_POS, 8)],
            "record size",
        ),
    ] {
        let mem = memory(config);
        let mut host = HostChannel::new(Arc::clone(&mem), config).unwrap();
        for &(at, value) in words {
            poke(&mem, at, value);
        }
        match drain(&mut host) {
            Err(Error::Lied { what: found, .. }) => assert_eq!(found, what),
            other => panic!("{words:?}: {other:?}"),
        }
    }
    let mem = memory(config);
    let mut host = HostChannel::new(Arc::clone(&mem), config).unwrap();
    host.send(&[0; 8]).unwrap();
    host.doorbell().stop();
    poke(&mem, FROM_HOST + READ_POS, 1 << 31);
    assert!(matches!(
        host.send(&vec![0; 2 << 20]),
        Err(Error::Lied { .. })
    ));
}

#[test]
fn records_that_overlap_do_not_make_the_host_swell() {
    let config = HostConfig::default();
    let mem = memory(config);
    let mut host = HostChannel::new(Arc::clone(&mem), config).unwrap();
    for i in 0..255 {
        poke(&mem, TO_HOST + INLINE + i * 8 + 4, config.buffer_size);
    }
    poke(&mem, WRITE_POS, 255 * 8);
    let mut out = Vec::new();
    assert_eq!(host.recv(&mut out).unwrap(), config.buffer_size as usize);
    assert!(out.capacity() <= 2 * config.buffer_size as usize);
    assert_eq!(host.recv(&mut out).unwrap(), config.buffer_size as usize);
}

#[test]
fn a_guest_refuses_rings_that_do_not_fit_their_memory() {
    let config = HostConfig::default();
    for (word, value) in [
        (BUFFER_SIZE, 0),
        (BUFFER_SIZE, 2 << 20),
        (BUFFER_SIZE, 12345),
        (BUFFER_SIZE, u32::MAX),
        (FLUSH_INTERVAL, 0),
        (FLUSH_INTERVAL, u32::MAX),
        (FLUSH_INTERVAL, 1 << 20),
    ] {
        let mem = memory(config);
        let _host = HostChannel::new(Arc::clone(&mem), config).unwrap();
        poke(&mem, word, value);
        let deadline = Deadline::new(&mem, SPIN);
        let guest = GuestChannel::new(Arc::clone(&mem), GuestConfig::default(), deadline);
        assert!(matches!(guest.err(), Some(Error::Config { .. })), "{value}");
    }
    let tiny = Arc::new(Mapping::create(4096).unwrap().0);
    assert!(HostChannel::new(Arc::clone(&tiny), config).is_err());
    let deadline = Deadline::new(&tiny, SPIN);
    assert!(GuestChannel::new(tiny, GuestConfig::default(), deadline).is_err());
}

#[test]
fn a_guest_notices_a_lying_host() {
    let config = HostConfig::default();
    for (word, value) in [
        (FROM_HOST + WRITE_POS, 1 << 20),
        (FROM_HOST + WRITE_POS, u32::MAX),
    ] {
        let mem = memory(config);
        let _host = HostChannel::new(Arc::clone(&mem), config).unwrap();
        let mut guest = guest(&mem, true);
        poke(&mem, word, value);
        assert!(matches!(
            guest.read_reply(&mut [0; 4]),
            Err(Error::Lied { .. })
        ));
    }
    let mem = memory(config);
    let _host = HostChannel::new(Arc::clone(&mem), config).unwrap();
    let mut guest = guest(&mem, true);
    guest.write(&[0; 8]).unwrap();
    poke(&mem, TO_HOST + READ_POS, 16);
    assert!(matches!(guest.write(&[0; 5000]), Err(Error::Lied { .. })));
}

#[test]
fn the_guest_taking_over_does_not_disturb_a_sleeping_host() {
    let config = HostConfig::default();
    let mem = memory(config);
    let echo = Echo::start(&mem, config, Duration::ZERO);
    thread::sleep(Duration::from_millis(20));
    // As other drivers do it: the whole header, the state too.
    for header in [TO_HOST, TO_HOST_LARGE, FROM_HOST] {
        for word in [WRITE_POS, READ_POS, RING_STATE] {
            poke(&mem, header + word, 0);
        }
    }
    let mut guest = guest(&mem, true);
    call(&mut guest, 100, 100, true).unwrap();
    echo.finish().0.unwrap();
}

fn any_call() -> impl Strategy<Value = (usize, u32, bool)> {
    let size = prop_oneof![4 => 8usize..64, 4 => 8usize..5000, 1 => 4000usize..3_000_000];
    let answer = prop_oneof![3 => Just(0u32), 4 => 1u32..200, 1 => 1u32..2_500_000];
    (size, answer, any::<bool>())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_calls_pass(calls in proptest::collection::vec(any_call(), 1..24), same in any::<bool>()) {
        run(HostConfig::default(), same, &calls);
    }

    #[test]
    fn any_calls_pass_through_a_tiny_ring(
        calls in proptest::collection::vec((8usize..3000, 0u32..3000, any::<bool>()), 1..60),
        buffer in 7u32..12,
        step in 0u32..4,
        same in any::<bool>(),
    ) {
        let buffer_size = 1 << buffer;
        let config = HostConfig { buffer_size, flush_interval: (buffer_size >> (1 + step)).max(8) };
        run(config, same, &calls);
    }

    /// Whatever stands in the memory, the host ends with an error or with nothing more to do.
    #[test]
    fn any_words_are_survived(
        words in proptest::collection::vec(
            (
                prop_oneof![
                    Just(WRITE_POS), Just(READ_POS), Just(TO_HOST_LARGE + WRITE_POS),
                    Just(TO_HOST_LARGE + READ_POS), Just(FROM_HOST + WRITE_POS),
                    Just(FROM_HOST + READ_POS), Just(STATE), Just(BUFFER_SIZE),
                    Just(FLUSH_INTERVAL), Just(TRANSFER_MODE), Just(TRANSFER_SIZE), Just(IN_ERROR),
                    Just(DOORBELL), Just(PROGRESS), Just(GUEST_WAITING),
                    (0usize..512).prop_map(|i| INLINE + i * 4),
                ],
                prop_oneof![any::<u32>(), 0u32..300, Just(8u32), Just(1u32 << 20)],
            ),
            1..30,
        ),
    ) {
        let config = HostConfig::default();
        let mem = memory(config);
        let mut host = HostChannel::new(Arc::clone(&mem), config).unwrap();
        for (at, value) in words {
            poke(&mem, at, value);
        }
        let _ = drain(&mut host);
        let _ = host.send(&[0; 100]);
    }
}

/// A guest that scribbles over all words while the host works: nothing may panic or hang.
#[test]
fn a_guest_that_scribbles_harms_only_itself() {
    let config = HostConfig::default();
    let end = Instant::now() + Duration::from_millis(300);
    let mut rounds = 0u32;
    while Instant::now() < end {
        let mem = memory(config);
        let mut host = HostChannel::new(Arc::clone(&mem), config).unwrap();
        let doorbell = host.doorbell();
        let worker = thread::spawn(move || {
            let mut out = Vec::new();
            loop {
                out.clear();
                match host.recv(&mut out) {
                    Err(_) => break,
                    Ok(0) => {
                        if host.wait(Duration::ZERO) != Wake::Data {
                            break;
                        }
                    }
                    Ok(_) => {
                        if host.send(&[1; 64]).is_err() {
                            break;
                        }
                    }
                }
            }
        });
        for i in 0..200u32 {
            rounds += 1;
            let value = rounds.wrapping_mul(2_654_435_761);
            let at = [
                WRITE_POS,
                TO_HOST_LARGE + WRITE_POS,
                INLINE,
                INLINE + 4,
                TRANSFER_SIZE,
            ][(i % 5) as usize];
            poke(
                &mem,
                at,
                if i % 3 == 0 {
                    value >> 21 & !7
                } else {
                    value >> 8
                },
            );
            doorbell.ring();
        }
        doorbell.stop();
        worker.join().unwrap();
    }
}

/// A host dies, and another takes its place; what the guest is owed comes back once.
#[test]
fn what_a_dead_host_has_not_answered_comes_back() {
    let config = HostConfig {
        buffer_size: 1 << 16,
        flush_interval: 4096,
    };
    // A record, a transfer through the buffer, and one that wraps.
    for (before, size) in [(0, 100), (0, 30_000), (50_000, 30_000)] {
        let mem = memory(config);
        let mut dead = HostChannel::new(Arc::clone(&mem), config).unwrap();
        let guest_mem = Arc::clone(&mem);
        let guest = thread::spawn(move || {
            let ping = Deadline::new(&guest_mem, Duration::from_secs(20));
            let guest_config = GuestConfig {
                same_kernel: true,
                spin: SPIN,
            };
            let mut guest = GuestChannel::new(guest_mem, guest_config, ping).unwrap();
            guest.write(&pattern(before, 1)).unwrap();
            guest.write(&pattern(size, 2)).unwrap();
            let mut reply = [0; 4];
            guest.read_reply(&mut reply).unwrap();
            (guest, reply)
        });
        let mut input = Vec::new();
        let receive = |host: &mut HostChannel, input: &mut Vec<u8>, size| {
            while input.len() < size {
                if host.recv(input).unwrap() == 0 {
                    assert_eq!(host.wait(SPIN), Wake::Data);
                }
            }
        };
        receive(&mut dead, &mut input, before);
        input.drain(..before);
        dead.settle(input.len());
        receive(&mut dead, &mut input, size);
        assert_eq!(input, pattern(size, 2));
        drop(dead);
        let (mut next, owed) = HostChannel::take_over(Arc::clone(&mem), config).unwrap();
        assert_eq!(owed, input, "{before} {size}");
        next.send(&[1, 2, 3, 4]).unwrap();
        let (guest, reply) = guest.join().unwrap();
        assert_eq!(reply, [1, 2, 3, 4]);
        assert!(!guest.is_forsaken());
        next.forsake();
        assert!(guest.is_forsaken());
        // It was answered: nothing is owed to a third, whether the second says so or not.
        let (mut third, owed) = HostChannel::take_over(Arc::clone(&mem), config).unwrap();
        assert!(owed.is_empty());
        third.settle(0);
        assert!(HostChannel::take_over(mem, config).unwrap().1.is_empty());
    }
}
