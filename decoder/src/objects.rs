//! Tokens: what a guest holds instead of a driver's handle.
//!
//! A token is `kind << 56 | generation << 32 | slot + 1`; one that the guest chose has the highest bit of
//! its lower word set, and the number of a slot in a table of their own in the rest.
//! Looking one up takes no lock: a slot holds the token it currently stands for, and a token that is
//! not there any more names nothing.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use asgard_protocol::extension::{AHEAD, GENERATIONS, IDS, chosen_number};
use asgard_protocol::types::Kind;
use asgard_protocol::{DecodeError, Handles};
use parking_lot::Mutex;

use crate::Error;

const CHUNK: usize = 1 << 12;
const CHUNKS: usize = 1 << 10;
const _: () = assert!(CHUNK * CHUNKS == IDS as usize);

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

/// Slots, in pieces that come when they are needed and never move.
#[derive(Debug)]
struct Table(Box<[OnceLock<Box<[Slot]>>]>);

impl Table {
    fn new() -> Self {
        Self((0..CHUNKS).map(|_| OnceLock::new()).collect())
    }

    #[inline]
    fn slot(&self, index: u32) -> Option<&Slot> {
        let index = index as usize;
        self.0.get(index / CHUNK)?.get()?.get(index % CHUNK)
    }

    /// The slot, made if it is not there yet; none beyond the last possible one.
    fn make(&self, index: u32) -> Option<&Slot> {
        self.0
            .get(index as usize / CHUNK)?
            .get_or_init(|| (0..CHUNK).map(|_| Slot::default()).collect())
            .get(index as usize % CHUNK)
    }
}

/// Every object of a context.
#[derive(Debug)]
pub(crate) struct Objects {
    /// Those that the host numbers.
    given: Table,
    /// Those that the guest numbers.
    chosen: Table,
    state: Mutex<State>,
    limit: u32,
    /// Guests may send all that is known, and not only what upstream's host knows.
    extended: bool,
}

#[derive(Debug, Default)]
struct State {
    free: Vec<u32>,
    used: u32,
    /// The guest's numbers are below this.
    chosen: u32,
    live: u32,
    serial: u64,
}

impl State {
    /// Makes a free slot stand for an object.
    fn fill(&mut self, slot: &Slot, token: u64, parent: u64, handle: u64) {
        self.live += 1;
        self.serial += 1;
        let generation = (token >> 32) as u32 & GENERATIONS;
        slot.generation.store(generation, Ordering::Relaxed);
        slot.handle.store(handle, Ordering::Relaxed);
        slot.parent.store(parent, Ordering::Relaxed);
        slot.serial.store(self.serial, Ordering::Relaxed);
        // Pairs with the acquire in `get`: who sees the token sees its handle.
        slot.token.store(token, Ordering::Release);
    }
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
            given: Table::new(),
            chosen: Table::new(),
            state: Mutex::default(),
            limit: limit.min(most),
            extended,
        }
    }

    #[inline]
    fn of(&self, token: u64) -> Option<&Slot> {
        match chosen_number(token) {
            Some(number) => self.chosen.slot(number),
            None => self.given.slot((token as u32).wrapping_sub(1)),
        }
    }

    fn full(&self) -> Error {
        Error::Limit {
            what: "live objects",
            limit: u64::from(self.limit),
        }
    }

    /// A new token for a driver's handle.
    pub(crate) fn insert(&self, kind: Kind, parent: u64, handle: u64) -> Result<u64, Error> {
        let mut state = self.state.lock();
        if state.live >= self.limit {
            return Err(self.full());
        }
        let index = state.free.pop().unwrap_or(state.used);
        let slot = self.given.make(index).ok_or_else(|| self.full())?;
        state.used = state.used.max(index + 1);
        // 24 bits of generation; zero is skipped so that no token is small.
        let generation = (slot.generation.load(Ordering::Relaxed) + 1) & GENERATIONS;
        let generation = generation.max(1);
        let token =
            u64::from(kind as u8) << 56 | u64::from(generation) << 32 | u64::from(index + 1);
        state.fill(slot, token, parent, handle);
        Ok(token)
    }

    /// As [`Self::insert`], with a token that the guest chose.
    pub(crate) fn claim(
        &self,
        token: u64,
        kind: Kind,
        parent: u64,
        handle: u64,
    ) -> Result<(), Error> {
        let number = chosen_number(token).ok_or(Error::Nonsense(
            "a chosen id that is not among those to choose from",
        ))?;
        if token >> 56 != kind as u64 {
            return Err(Error::Nonsense(
                "an id chosen for an object of another type",
            ));
        }
        let mut state = self.state.lock();
        if state.live >= self.limit {
            return Err(self.full());
        }
        if number > state.chosen.saturating_add(AHEAD) {
            return Err(Error::Nonsense("a chosen id far from all others"));
        }
        let slot = self.chosen.make(number).ok_or(Error::Nonsense(
            "a chosen id that is not among those to choose from",
        ))?;
        let generation = (token >> 32) as u32 & GENERATIONS;
        if slot.token.load(Ordering::Relaxed) != 0 {
            return Err(Error::Nonsense("an id chosen for two objects at once"));
        }
        if generation == 0 || generation == slot.generation.load(Ordering::Relaxed) {
            return Err(Error::Nonsense("a chosen id that was used before"));
        }
        state.chosen = state.chosen.max(number + 1);
        state.fill(slot, token, parent, handle);
        Ok(())
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
        if chosen_number(token).is_none() {
            state.free.push((token as u32).wrapping_sub(1));
        }
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
        let (used, chosen) = {
            let state = self.state.lock();
            (state.used, state.chosen)
        };
        let slots = (0..used).map(|index| self.given.slot(index));
        let mut all: Vec<Object> = slots
            .chain((0..chosen).map(|number| self.chosen.slot(number)))
            .filter_map(|slot| {
                let slot = slot?;
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
    use asgard_protocol::extension::chosen;

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
    fn a_chosen_token_names_its_object_once() {
        let objects = Objects::new(10, false);
        let claim = |token, kind| objects.claim(token, kind, 7, 42);
        let token = chosen(Kind::Buffer, 1, 0);
        claim(token, Kind::Buffer).unwrap();
        assert_eq!(objects.resolve(Kind::Buffer, token), Ok(42));
        assert_eq!(objects.parent(token), Some(7));
        let given = objects.insert(Kind::Buffer, 7, 43).unwrap();
        assert_eq!(objects.resolve(Kind::Buffer, given), Ok(43));
        assert_eq!(objects.all().len(), 2);
        claim(chosen(Kind::Buffer, 2, 0), Kind::Buffer).unwrap_err();
        assert!(objects.remove(token) && !objects.remove(token));
        assert_eq!(objects.get(token), None);
        claim(token, Kind::Buffer).unwrap_err();
        claim(chosen(Kind::Buffer, 2, 0), Kind::Buffer).unwrap();
        assert_eq!(objects.live(), 2);
    }

    #[test]
    fn tokens_that_cannot_be_chosen_are_refused() {
        let objects = Objects::new(10, false);
        for token in [
            0,
            u64::from(Kind::Buffer as u8) << 56 | 1 << 32 | 1,
            chosen(Kind::Image, 1, 0),
            chosen(Kind::Buffer, 0, 0),
            chosen(Kind::Buffer, 1, AHEAD + 1),
            chosen(Kind::Buffer, 1, IDS),
            u64::MAX,
        ] {
            assert!(objects.claim(token, Kind::Buffer, 7, 42).is_err());
        }
        assert_eq!(objects.live(), 0);
    }

    #[test]
    fn the_limit_holds() {
        let objects = Objects::new(2, true);
        let first = objects.insert(Kind::Fence, 0, 1).unwrap();
        objects.insert(Kind::Fence, 0, 2).unwrap();
        assert!(objects.insert(Kind::Fence, 0, 3).is_err());
        let id = chosen(Kind::Fence, 1, 0);
        assert!(objects.claim(id, Kind::Fence, 0, 3).is_err());
        assert!(objects.remove(first));
        assert!(objects.insert(Kind::Fence, 0, 3).is_ok());
    }
}
