//! What the fuzz targets do with arbitrary bytes, one function for each layer.
//!
//! Whatever the bytes are, each must return: a panic or a crash is a bug of ours.
//! The `fuzz` program runs them for as long as one likes; a test runs them for some seconds.

use std::cell::RefCell;
use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

mod device;
mod fake;
mod mutate;
mod ring;
mod stream;

pub use device::device;
pub use mutate::{Campaign, Corpus, seeds};
pub use ring::ring;
pub use stream::stream;

/// What a fuzzer calls.
pub type Target = fn(&[u8]);

/// Names and functions.
pub const TARGETS: [(&str, Target); 3] = [("stream", stream), ("ring", ring), ("device", device)];

thread_local! {
    static REACHED: RefCell<HashSet<u64>> = RefCell::default();
}

/// Notes that an input got somewhere; inputs that get where none was before are worth keeping.
fn reached(what: impl Hash) {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    REACHED.with_borrow_mut(|all| all.insert(hasher.finish()));
}

/// As [`reached`], for a message, whatever the numbers in it.
fn reached_message(target: &str, message: &str) {
    let mut numbers = false;
    let text: String = message
        .chars()
        .filter(|c| {
            let (was, is) = (numbers, c.is_ascii_digit());
            numbers = is || (was && c.is_ascii_hexdigit()) || *c == 'x' && was;
            !numbers
        })
        .collect();
    reached((target, text));
}

/// Takes numbers off the front of an input; once it is used up, all are zero.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(n.min(self.0.len()));
        self.0 = tail;
        head
    }

    fn number<const N: usize>(&mut self) -> u64 {
        let mut bytes = [0; 8];
        let taken = self.bytes(N);
        bytes[..taken.len()].copy_from_slice(taken);
        u64::from_le_bytes(bytes)
    }

    fn u8(&mut self) -> u8 {
        self.number::<1>() as u8
    }

    fn u16(&mut self) -> u16 {
        self.number::<2>() as u16
    }

    fn u32(&mut self) -> u32 {
        self.number::<4>() as u32
    }
}
