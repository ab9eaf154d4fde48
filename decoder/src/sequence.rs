//! The order that a guest process gives its packets, across its threads.
//!
//! Each packet carries a number; the packet with number `n` may run once `n - 1` is done with the
//! order. Commands with a reply are done with it as soon as they were decoded: until the guest has the
//! reply, nobody but the calling thread can know of their effect.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// One counter for a guest process.
#[derive(Debug, Default)]
pub(crate) struct Sequence {
    /// The last number that is done with the order.
    done: AtomicU32,
    waiting: AtomicU32,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Sequence {
    /// It is the turn of `number`.
    #[inline]
    pub(crate) fn is_next(&self, number: u32) -> bool {
        self.done.load(Ordering::Acquire).wrapping_add(1) == number
    }

    /// Waits for the turn of `number`; false when `dead` became true meanwhile.
    #[inline]
    pub(crate) fn wait(&self, number: u32, dead: impl Fn() -> bool) -> bool {
        self.is_next(number) || self.wait_slow(number, dead)
    }

    #[cold]
    fn wait_slow(&self, number: u32, dead: impl Fn() -> bool) -> bool {
        let mine = || self.done.load(Ordering::SeqCst).wrapping_add(1) == number;
        for _ in 0..64 {
            if mine() {
                return true;
            }
            std::hint::spin_loop();
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut guard = self.lock.lock();
        let turn = loop {
            if mine() {
                break true;
            }
            if dead() {
                break false;
            }
            // The time-out only bounds how long a death goes unnoticed.
            self.wake.wait_for(&mut guard, Duration::from_millis(100));
        };
        drop(guard);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        turn
    }

    /// `number` is done with the order.
    #[inline]
    pub(crate) fn finish(&self, number: u32) {
        self.done.store(number, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.wake_all();
        }
    }

    /// Wakes every waiter, to look whether the context died.
    #[cold]
    pub(crate) fn wake_all(&self) {
        let _guard = self.lock.lock();
        self.wake.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn numbers_run_in_order_whatever_thread_has_them() {
        let sequence = Arc::new(Sequence::default());
        let order = Arc::new(Mutex::new(Vec::new()));
        let threads: Vec<_> = (0..4u32)
            .map(|t| {
                let (sequence, order) = (Arc::clone(&sequence), Arc::clone(&order));
                std::thread::spawn(move || {
                    for i in 0..200 {
                        let number = i * 4 + t + 1;
                        assert!(sequence.wait(number, || false));
                        order.lock().push(number);
                        sequence.finish(number);
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(*order.lock(), (1..=800).collect::<Vec<_>>());
    }

    #[test]
    fn a_death_ends_the_wait() {
        let sequence = Arc::new(Sequence::default());
        let dead = Arc::new(AtomicBool::new(false));
        let waiter = std::thread::spawn({
            let (sequence, dead) = (Arc::clone(&sequence), Arc::clone(&dead));
            move || sequence.wait(5, || dead.load(Ordering::SeqCst))
        });
        dead.store(true, Ordering::SeqCst);
        sequence.wake_all();
        assert!(!waiter.join().unwrap());
    }
}
