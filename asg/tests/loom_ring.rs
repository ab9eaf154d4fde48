//! Proofs: the channels run over a model of weakly ordered memory, in which every interleaving and
//! every stale value that the memory model allows is tried. Each byte that both ends touch without
//! order is an error, and so is a sleep from which nobody wakes.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p asgard-asg --release loom_`.
#![cfg(loom)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use asgard_asg::Result;
use asgard_asg::doorbell::YieldWaiter;
use asgard_asg::guest::{GuestChannel, GuestConfig, NoPing};
use asgard_asg::host::{HostChannel, HostConfig, Wake};
use asgard_asg::layout::*;
use asgard_asg::ring::{Memory, Patience};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, Ordering, fence};
use loom::sync::{Condvar, Mutex};
use loom::thread;

const BUFFER_BYTES: usize = 64;
const STEP: u32 = 16;
/// How many records of the inline ring the model has.
const RECORDS: usize = 6;

/// The words that take part in the protocols; all others are constants here.
const WORDS: [usize; 11] = [
    TO_HOST + WRITE_POS,
    TO_HOST + READ_POS,
    TO_HOST_LARGE + WRITE_POS,
    TO_HOST_LARGE + READ_POS,
    FROM_HOST + WRITE_POS,
    FROM_HOST + READ_POS,
    STATE,
    TRANSFER_SIZE,
    DOORBELL,
    PROGRESS,
    GUEST_WAITING,
];

/// Memory of a ring set with a tiny buffer.
struct Model {
    words: BTreeMap<usize, AtomicU32>,
    cells: BTreeMap<usize, UnsafeCell<[u8; 8]>>,
    sleepers: BTreeMap<usize, (Mutex<()>, Condvar)>,
}

// SAFETY: the cells are reached by both ends; that they take turns is what the model checks.
unsafe impl Sync for Model {}
// SAFETY: as above; nothing in here belongs to a thread.
unsafe impl Send for Model {}

impl Model {
    fn new() -> Arc<Self> {
        let ring = TO_HOST + INLINE;
        let cells = (ring..ring + RECORDS * 8)
            .chain(BUFFER..BUFFER + BUFFER_BYTES)
            .step_by(8);
        Arc::new(Self {
            words: WORDS
                .into_iter()
                .map(|at| (at, AtomicU32::new(0)))
                .collect(),
            cells: cells.map(|at| (at, UnsafeCell::new([0; 8]))).collect(),
            sleepers: [DOORBELL, PROGRESS]
                .into_iter()
                .map(|at| (at, (Mutex::new(()), Condvar::new())))
                .collect(),
        })
    }
}

impl Memory for Model {
    fn size(&self) -> usize {
        BUFFER + BUFFER_BYTES
    }

    fn load(&self, at: usize) -> u32 {
        match at {
            BUFFER_SIZE => BUFFER_BYTES as u32,
            FLUSH_INTERVAL => STEP,
            MAGIC_WORD => MAGIC,
            _ => self
                .words
                .get(&at)
                .map_or(0, |word| word.load(Ordering::SeqCst)),
        }
    }

    fn store(&self, at: usize, value: u32) {
        if let Some(word) = self.words.get(&at) {
            word.store(value, Ordering::Release);
        }
    }

    // The model takes sequentially consistent accesses for less than they are, and gives fences
    // their full worth.
    fn publish(&self, at: usize, value: u32) -> u32 {
        let Some(word) = self.words.get(&at) else {
            return 0;
        };
        let before = word.swap(value, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        before
    }

    fn add(&self, at: usize, value: u32) -> u32 {
        let before = self.words[&at].fetch_add(value, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        before
    }

    fn sub(&self, at: usize, value: u32) -> u32 {
        self.words[&at].fetch_sub(value, Ordering::AcqRel)
    }

    fn copy_out(&self, at: usize, to: &mut [u8]) -> Result<()> {
        for (i, part) in to.chunks_exact_mut(8).enumerate() {
            self.cells[&(at + i * 8)].with(|cell| {
                // SAFETY: the model has just checked that nobody writes the cell.
                part.copy_from_slice(unsafe { &*cell });
            });
        }
        Ok(())
    }

    fn append_to(&self, at: usize, len: usize, to: &mut Vec<u8>) -> Result<()> {
        let start = to.len();
        to.resize(start + len, 0);
        self.copy_out(at, &mut to[start..])
    }

    fn copy_in(&self, at: usize, from: &[u8]) -> Result<()> {
        for (i, part) in from.chunks_exact(8).enumerate() {
            self.cells[&(at + i * 8)].with_mut(|cell| {
                // SAFETY: the model has just checked that nobody else has the cell.
                unsafe { &mut *cell }.copy_from_slice(part);
            });
        }
        Ok(())
    }

    fn wait(&self, at: usize, expected: u32, patience: Patience) {
        match patience {
            Patience::Nap(_) => thread::yield_now(),
            Patience::Safety(_) => {
                let (mutex, condvar) = &self.sleepers[&at];
                let guard = mutex.lock().unwrap();
                if self.words[&at].load(Ordering::SeqCst) == expected {
                    drop(condvar.wait(guard).unwrap());
                }
            }
        }
    }

    fn wake(&self, at: usize) {
        let (mutex, condvar) = &self.sleepers[&at];
        let _guard = mutex.lock().unwrap();
        condvar.notify_all();
    }

    fn relax(&self) {
        thread::yield_now();
    }

    fn yield_now(&self) {
        thread::yield_now();
    }

    fn nap(&self, _: Duration) {
        thread::yield_now();
    }
}

fn check(preemptions: usize, body: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(body);
}

type Host = HostChannel<Model>;
type Guest = GuestChannel<NoPing, Model>;

fn channels() -> (Host, Guest) {
    let mem = Model::new();
    let config = HostConfig {
        buffer_size: BUFFER_BYTES as u32,
        flush_interval: STEP,
    };
    let host = HostChannel::new(Arc::clone(&mem), config).unwrap();
    let config = GuestConfig {
        same_kernel: true,
        spin: Duration::ZERO,
    };
    let guest = GuestChannel::new(mem, config, NoPing).unwrap();
    (host, guest)
}

/// Receives until there are `len` bytes, and sleeps whenever there is nothing.
fn receive(host: &mut Host, len: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while out.len() < len {
        if host.recv(&mut out).unwrap() == 0 {
            assert_eq!(host.wait(Duration::ZERO), Wake::Data);
        }
    }
    out
}

fn bytes(len: u8, first: u8) -> Vec<u8> {
    (0..len).map(|i| first.wrapping_add(i)).collect()
}

#[test]
fn loom_chunks_arrive_and_wake_the_host() {
    check(3, || {
        let (mut host, mut guest) = channels();
        let guest = thread::spawn(move || {
            guest.write(&bytes(8, 10)).unwrap();
            guest.write(&bytes(16, 50)).unwrap();
        });
        let got = receive(&mut host, 24);
        assert_eq!(got, [bytes(8, 10), bytes(16, 50)].concat());
        guest.join().unwrap();
    });
}

#[test]
fn loom_a_step_is_used_again_only_when_the_host_is_done_with_it() {
    check(2, || {
        let (mut host, mut guest) = channels();
        let guest = thread::spawn(move || {
            for i in 0..5 {
                guest.write(&bytes(8, i * 8)).unwrap();
            }
        });
        assert_eq!(receive(&mut host, 40), bytes(40, 0));
        guest.join().unwrap();
    });
}

#[test]
fn loom_a_reply_wakes_the_guest() {
    check(3, || {
        let (mut host, mut guest) = channels();
        let guest = thread::spawn(move || {
            guest.write(&bytes(8, 1)).unwrap();
            let mut reply = [0; 8];
            guest.read_reply(&mut reply).unwrap();
            assert_eq!(reply[..], bytes(8, 100));
        });
        assert_eq!(receive(&mut host, 8), bytes(8, 1));
        host.send(&bytes(8, 100)).unwrap();
        guest.join().unwrap();
    });
}

#[test]
fn loom_a_reply_larger_than_the_ring_passes_in_pieces() {
    check(2, || {
        let (mut host, mut guest) = channels();
        let guest = thread::spawn(move || {
            let mut reply = [0; 96];
            guest.read_reply(&mut reply).unwrap();
            assert_eq!(reply[..], bytes(96, 0));
        });
        host.send(&bytes(96, 0)).unwrap();
        guest.join().unwrap();
    });
}

#[test]
fn loom_an_async_transfer_is_followed_by_a_chunk() {
    check(2, || {
        let (mut host, mut guest) = channels();
        let guest = thread::spawn(move || {
            guest.write_async(&bytes(24, 0)).unwrap();
            guest.write(&bytes(8, 24)).unwrap();
        });
        assert_eq!(receive(&mut host, 32), bytes(32, 0));
        guest.join().unwrap();
    });
}

#[test]
fn loom_the_size_of_the_next_transfer_survives_the_last() {
    check(2, || {
        let (mut host, mut guest) = channels();
        let guest = thread::spawn(move || {
            guest.write_async(&bytes(24, 0)).unwrap();
            guest.write_async(&bytes(32, 24)).unwrap();
        });
        assert_eq!(receive(&mut host, 56), bytes(56, 0));
        guest.join().unwrap();
    });
}

#[test]
fn loom_a_transfer_larger_than_the_ring_wraps_and_drains() {
    check(2, || {
        let (mut host, mut guest) = channels();
        let guest = thread::spawn(move || guest.write(&bytes(72, 0)).unwrap());
        assert_eq!(receive(&mut host, 72), bytes(72, 0));
        guest.join().unwrap();
    });
}

#[test]
fn loom_stop_reaches_a_sleeping_host() {
    check(3, || {
        let (mut host, _guest) = channels();
        let doorbell = host.doorbell();
        let other = thread::spawn(move || doorbell.stop());
        assert_eq!(host.wait(Duration::ZERO), Wake::Stopped);
        other.join().unwrap();
    });
}

/// A guest that only knows loops of yields, as other drivers have them.
#[test]
fn loom_a_yielding_guest_is_woken() {
    check(3, || {
        let (mut host, mut guest) = channels();
        let mem = Arc::clone(host.memory());
        let mut waiter = YieldWaiter::with_spin(Arc::clone(&mem), Duration::ZERO);
        let guest = thread::spawn(move || {
            guest.write(&bytes(8, 1)).unwrap();
            while mem.load(TO_HOST + READ_POS) != 8 {
                waiter.on_yield();
            }
            while mem.load(FROM_HOST + WRITE_POS) != 8 {
                waiter.on_yield();
            }
        });
        assert_eq!(receive(&mut host, 8), bytes(8, 1));
        host.send(&bytes(8, 100)).unwrap();
        guest.join().unwrap();
    });
}

/// The two sleep protocols by themselves, with no bound on preemption.
#[test]
fn loom_no_wake_up_is_lost() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = None;
    builder.max_branches = 20_000;
    builder.check(|| {
        let (mut host, _guest) = channels();
        let mem = Arc::clone(host.memory());
        let mut waiter = YieldWaiter::with_spin(Arc::clone(&mem), Duration::ZERO);
        let guest = thread::spawn(move || {
            while mem.load(FROM_HOST + WRITE_POS) != 8 {
                waiter.on_yield();
            }
        });
        host.send(&bytes(8, 100)).unwrap();
        guest.join().unwrap();
    });
}
