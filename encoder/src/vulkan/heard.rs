//! When the host was last heard of.
//!
//! Whoever is answered from memory hears nothing of the host, and might ask for ever for what a host that is
//! gone will not do. So "not yet" is believed only for a while.
//!
//! Nor may an answer from memory contradict what the program has learnt elsewhere: that one queue has come
//! further may mean that another has, too. News says when that may be.

use std::sync::atomic::{AtomicU64, Ordering};

use asgard_protocol::types::VkResult;

/// Milliseconds for which "not yet" is answered without asking: a lost device has to say so within a second,
/// and a host may take most of that to be given up.
const BELIEVED: u64 = 100;

/// How often it became known of any queue that it has come further.
static NEWS: AtomicU64 = AtomicU64::new(0);

/// Some queue has come further, and nobody knows which.
pub(super) fn of_any_queue() {
    NEWS.fetch_add(1, Ordering::SeqCst);
}

/// How often it became known of one queue that it has come further.
#[derive(Debug, Default)]
pub(super) struct News(AtomicU64);

impl News {
    /// This queue has come further.
    pub(super) fn came(&self) {
        // In this order: who reads them the other way round misses none.
        NEWS.fetch_add(1, Ordering::SeqCst);
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    /// How much there was of all other queues.
    pub(super) fn of_others(&self) -> u64 {
        let own = self.0.load(Ordering::SeqCst);
        NEWS.load(Ordering::SeqCst).wrapping_sub(own)
    }
}

/// When the host last answered a question that may be answered from memory.
#[derive(Debug, Default)]
pub(super) struct Heard(AtomicU64);

impl Heard {
    /// It was asked not long ago, and its answer holds still.
    #[inline]
    pub(super) fn lately(&self) -> bool {
        now().wrapping_sub(self.0.load(Ordering::Relaxed)) < BELIEVED
    }

    /// Its answer.
    pub(super) fn from(&self, answer: VkResult) -> VkResult {
        if answer >= 0 {
            self.0.store(now(), Ordering::Relaxed);
        }
        answer
    }
}

/// Milliseconds on a clock that costs little to read.
fn now() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: there is room for the time.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    // It does not go backwards, and starts at zero.
    time.tv_sec.cast_unsigned() * 1000 + time.tv_nsec.cast_unsigned() / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use asgard_protocol::types::{VK_ERROR_DEVICE_LOST, VK_NOT_READY};

    #[test]
    fn news_are_those_of_others() {
        let (one, other) = (News::default(), News::default());
        let (before, others) = (one.of_others(), other.of_others());
        one.came();
        assert_ne!(other.of_others(), others);
        other.came();
        assert_ne!(one.of_others(), before);
    }

    #[test]
    fn an_answer_is_believed_and_a_loss_is_not() {
        let heard = Heard::default();
        assert!(!heard.lately());
        assert_eq!(heard.from(VK_ERROR_DEVICE_LOST), VK_ERROR_DEVICE_LOST);
        assert!(!heard.lately());
        assert_eq!(heard.from(VK_NOT_READY), VK_NOT_READY);
        assert!(heard.lately());
        heard.0.fetch_sub(BELIEVED, Ordering::Relaxed);
        assert!(!heard.lately());
    }
}
