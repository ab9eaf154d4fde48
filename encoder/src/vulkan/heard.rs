//! When the host was last heard of.
//!
//! Whoever is answered from memory hears nothing of the host, and might ask for ever for what a host that is
//! gone will not do. So "not yet" is believed only for a while.

use std::sync::atomic::{AtomicU64, Ordering};

use asgard_protocol::types::VkResult;

/// Milliseconds for which "not yet" is answered without asking: a lost device has to say so within a second,
/// and a host may take most of that to be given up.
const BELIEVED: u64 = 100;

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
