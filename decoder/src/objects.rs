//! Tokens: what a guest holds instead of a driver's handle.
//!
//! A token is `kind << 56 | generation << 32 | slot + 1`.
//! Looking one up takes no lock: a slot holds the token it currently stands for, and a token that is
//! not there any more names nothing.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use asgard_protocol::types::Kind;
use asgard_protocol::{DecodeError, Handles};
use parking_lot::Mutex;

use crate::Error;

const CHUNK: usize = 1 << 12;
const CHUNKS: usize = 1 << 10;

/// One object.
#[derive(Debug, Default)]
struct Slot {
    /// The token it stands for; 0 while free.
    token: AtomicU64,
    /// The driver's handle.
    handle: AtomicU64,
    /// The token of the object it came from.
    parent: AtomicU64,
    /// When it was made, in objects.
    serial: AtomicU64,
    generation: AtomicU32,
}

/// Every object of a context.
#[derive(Debug)]
pub(crate) struct Objects {
    chunks: Box<[OnceLock<Box<[Slot]>>]>,
    state: Mutex<State>,
    limit: u32,
    /// Guests may send all that is known, and not only what upstream's host knows.
    extended: bool,
}

#[derive(Debug, Default)]
struct State {
    free: Vec<u32>,
    used: u32,
    live: u32,
    serial: u64,
}

/// A live object, as found when listing all of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Object {
    pub(crate) token: u64,
    pub(crate) kind: Kind,
    pub(crate) handle: u64,
    pub(crate) parent: u64,
    serial: u64,
}

impl Objects {
    pub(crate) fn new(limit: u32, extended: bool) -> Self {
        let most = u32::try_from(CHUNK * CHUNKS).unwrap_or(u32::MAX);
        Self {
            chunks: (0..CHUNKS).map(|_| OnceLock::new()).collect(),
            state: Mutex::default(),
            limit: limit.min(most),
            extended,
        }
    }

    #[inline]
    fn slot(&self, index: u32) -> Option<&Slot> {
        let index = index as usize;
        self.chunks.get(index / CHUNK)?.get()?.get(index % CHUNK)
    }

    #[inline]
    fn of(&self, token: u64) -> Option<&Slot> {
        self.slot((token as u32).wrapping_sub(1))
    }

    /// A new token for a driver's handle.
    pub(crate) fn insert(&self, kind: Kind, parent: u64, handle: u64) -> Result<u64, Error> {
        let mut state = self.state.lock();
        if state.live >= self.limit {
            return Err(Error::Limit {
                what: "live objects",
                limit: u64::from(self.limit),
            });
        }
        let index = match state.free.pop() {
            Some(index) => index,
            None => {
                let index = state.used;
                let chunk = self
                    .chunks
                    .get(index as usize / CHUNK)
                    .ok_or(Error::Limit {
                        what: "live objects",
                        limit: u64::from(self.limit),
                    })?;
                chunk.get_or_init(|| (0..CHUNK).map(|_| Slot::default()).collect());
                state.used += 1;
                index
            }
        };
        let slot = self
            .slot(index)
            .ok_or(Error::Nonsense("an object slot is missing"))?;
        // 24 bits of generation; zero is skipped so that no token is small.
        let generation = (slot.generation.load(Ordering::Relaxed) + 1) & 0xff_ffff;
        let generation = generation.max(1);
        slot.generation.store(generation, Ordering::Relaxed);
        let token =
            u64::from(kind as u8) << 56 | u64::from(generation) << 32 | u64::from(index + 1);
        state.live += 1;
        state.serial += 1;
        slot.handle.store(handle, Ordering::Relaxed);
        slot.parent.store(parent, Ordering::Relaxed);
        slot.serial.store(state.serial, Ordering::Relaxed);
        // Pairs with the acquire in `get`: who sees the token sees its handle.
        slot.token.store(token, Ordering::Release);
        Ok(token)
    }

    /// The token names nothing from now on; true if it named something.
    pub(crate) fn remove(&self, token: u64) -> bool {
        let Some(slot) = self.of(token) else {
            return false;
        };
        if token == 0
            || slot
                .token
                .compare_exchange(token, 0, Ordering::AcqRel, Ordering::Relaxed)
                .is_err()
        {
            return false;
        }
        let mut state = self.state.lock();
        state.live -= 1;
        state.free.push((token as u32).wrapping_sub(1));
        true
    }

    /// The handle behind a token of any kind.
    #[inline]
    pub(crate) fn get(&self, token: u64) -> Option<u64> {
        let slot = self.of(token)?;
        if slot.token.load(Ordering::Acquire) != token || token == 0 {
            return None;
        }
        let handle = slot.handle.load(Ordering::Acquire);
        // The slot may have been given away in between.
        (slot.token.load(Ordering::Relaxed) == token).then_some(handle)
    }

    /// What the object came from.
    #[inline]
    pub(crate) fn parent(&self, token: u64) -> Option<u64> {
        let slot = self.of(token)?;
        (slot.token.load(Ordering::Acquire) == token && token != 0)
            .then(|| slot.parent.load(Ordering::Relaxed))
    }

    /// Changes the handle behind a live token.
    pub(crate) fn set(&self, token: u64, handle: u64) {
        if let Some(slot) = self.of(token)
            && slot.token.load(Ordering::Acquire) == token
        {
            slot.handle.store(handle, Ordering::Release);
        }
    }

    /// Changes the handle behind a live token, and tells the one before.
    pub(crate) fn swap(&self, token: u64, handle: u64) -> Option<u64> {
        let slot = self.of(token)?;
        (token != 0 && slot.token.load(Ordering::Acquire) == token)
            .then(|| slot.handle.swap(handle, Ordering::AcqRel))
    }

    /// Every live object, newest first.
    pub(crate) fn all(&self) -> Vec<Object> {
        let used = self.state.lock().used;
        let mut all: Vec<Object> = (0..used)
            .filter_map(|index| {
                let slot = self.slot(index)?;
                let token = slot.token.load(Ordering::Acquire);
                let kind = Kind::from_number((token >> 56) as u8)?;
                Some(Object {
                    token,
                    kind,
                    handle: slot.handle.load(Ordering::Relaxed),
                    parent: slot.parent.load(Ordering::Relaxed),
                    serial: slot.serial.load(Ordering::Relaxed),
                })
            })
            .collect();
        all.sort_by_key(|o| std::cmp::Reverse(o.serial));
        all
    }

    /// How many are live.
    pub(crate) fn live(&self) -> u32 {
        self.state.lock().live
    }
}

impl Handles for Objects {
    #[inline]
    fn resolve(&self, kind: Kind, token: u64) -> Result<u64, DecodeError> {
        if (token >> 56) as u8 == kind as u8
            && let Some(handle) = self.get(token)
        {
            return Ok(handle);
        }
        Err(DecodeError::UnknownHandle { kind, token })
    }

    fn extended(&self) -> bool {
        self.extended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_its_object_until_it_is_removed_and_never_again() {
        let objects = Objects::new(10, true);
        let token = objects.insert(Kind::Buffer, 7, 42).unwrap();
        assert_eq!(objects.resolve(Kind::Buffer, token), Ok(42));
        assert!(objects.resolve(Kind::Image, token).is_err());
        assert_eq!(objects.parent(token), Some(7));
        assert!(objects.remove(token));
        assert!(!objects.remove(token));
        let next = objects.insert(Kind::Buffer, 7, 43).unwrap();
        assert_ne!(token, next, "the slot is reused, the token is not");
        assert!(objects.resolve(Kind::Buffer, token).is_err());
        assert_eq!(objects.resolve(Kind::Buffer, next), Ok(43));
    }

    #[test]
    fn made_up_tokens_name_nothing() {
        let objects = Objects::new(10, true);
        for token in [0, 1, u64::MAX, 0x1111_1111_1111_1111, 5 << 56 | 1] {
            assert_eq!(objects.get(token), None);
            assert!(!objects.remove(token));
        }
    }

    #[test]
    fn the_limit_holds() {
        let objects = Objects::new(2, true);
        let first = objects.insert(Kind::Fence, 0, 1).unwrap();
        objects.insert(Kind::Fence, 0, 2).unwrap();
        assert!(objects.insert(Kind::Fence, 0, 3).is_err());
        assert!(objects.remove(first));
        assert!(objects.insert(Kind::Fence, 0, 3).is_ok());
    }
}
