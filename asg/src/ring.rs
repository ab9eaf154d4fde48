//! How bytes move through shared memory: rings with one producer and one consumer.
//!
//! Positions count bytes, run freely through all of `u32`, and are masked for access. A ring of `n`
//! bytes holds at most `n - 1`. Each end keeps its own position to itself and only ever publishes
//! it; what the other end publishes is checked before it is used: it can be wrong by accident or
//! by malice, but then the difference of both positions exceeds what the ring can hold, or else it
//! is a position that a correct peer could have published too.
//!
//! The code is written against [`Memory`], which is [`crate::Mapping`] in life and a model of weakly
//! ordered memory in the proofs.

use std::time::{Duration, Instant};

use crate::layout::{
    BUFFER, FROM_HOST, GUEST_VERSION, HOST_VERSION, INLINE, INLINE_SIZE, READ_POS, STATISTICS,
    TO_HOST, TO_HOST_LARGE, VERSION, WRITE_POS,
};
use crate::{Error, Result};

/// Words, bytes and sleep: all that a ring needs of the memory it lies in.
///
/// Words are named by their offset, a multiple of 4 inside of the memory; anything else may panic.
pub trait Memory {
    /// How many bytes there are.
    fn size(&self) -> usize;

    /// Reads a word. What its writer did before it stored the value is visible thereafter.
    fn load(&self, at: usize) -> u32;

    /// Writes a word; who reads the value sees what this thread did before.
    fn store(&self, at: usize, value: u32);

    /// As `store`, and no later `load` of this thread happens before it. Tells the value before.
    fn publish(&self, at: usize, value: u32) -> u32;

    /// Adds to a word, and no later `load` of this thread happens before. Tells the value before.
    fn add(&self, at: usize, value: u32) -> u32;

    /// Subtracts from a word. Tells the value before.
    fn sub(&self, at: usize, value: u32) -> u32;

    /// Copies bytes out of the memory.
    fn copy_out(&self, at: usize, to: &mut [u8]) -> Result<()>;

    /// Appends bytes of the memory to a vector.
    fn append_to(&self, at: usize, len: usize, to: &mut Vec<u8>) -> Result<()>;

    /// Copies bytes into the memory.
    fn copy_in(&self, at: usize, from: &[u8]) -> Result<()>;

    /// Sleeps while the word has the expected value, until somebody calls `wake` on it. Might return
    /// early for no reason. Comparing and falling asleep is one step as seen from `wake`.
    fn wait(&self, at: usize, expected: u32, patience: Patience);

    /// Wakes all who sleep on the word.
    fn wake(&self, at: usize);

    /// Spends a few cycles.
    fn relax(&self);

    /// Lets others have the core.
    fn yield_now(&self);

    /// Sleeps for a time.
    fn nap(&self, time: Duration);

    /// The core that this thread runs on, plus one; 0 where that cannot be told.
    fn core(&self) -> u32 {
        0
    }

    /// Moves this thread to another core, if it may run on one.
    fn leave_core(&self) {}
}

/// For how long to sleep on a word.
#[derive(Clone, Copy, Debug)]
pub enum Patience {
    /// Until woken. The time limits the harm that a hostile or dead peer can do; between two honest
    /// ends nothing depends on it, and a model may take it for eternity.
    Safety(Duration),
    /// For this time, because nobody is obliged to wake.
    Nap(Duration),
}

/// Where a ring lies.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Offset of the header.
    header: usize,
    /// Offset of the bytes.
    data: usize,
    /// How many bytes, a power of two.
    size: u32,
}

impl Shape {
    /// The inline ring of records to the host.
    pub const RECORDS: Self = Self {
        header: TO_HOST,
        data: TO_HOST + INLINE,
        size: INLINE_SIZE,
    };

    /// The ring of large transfers to the host, over a data buffer of a power of two bytes.
    pub fn large(buffer_size: u32) -> Self {
        Self {
            header: TO_HOST_LARGE,
            data: BUFFER,
            size: buffer_size,
        }
    }

    /// The ring of replies, over the same buffer.
    pub fn replies(buffer_size: u32) -> Self {
        Self {
            header: FROM_HOST,
            data: BUFFER,
            size: buffer_size,
        }
    }

    /// How many bytes the ring can hold; also the mask of positions.
    #[inline]
    fn capacity(self) -> u32 {
        self.size - 1
    }

    /// Calls `copy` for the one or two stretches that make up `len` bytes from position `pos` on:
    /// with the offset in memory, and the range of the `len` bytes.
    #[inline]
    fn stretches(
        self,
        pos: u32,
        len: usize,
        mut copy: impl FnMut(usize, std::ops::Range<usize>) -> Result<()>,
    ) -> Result<()> {
        let start = (pos & self.capacity()) as usize;
        let first = len.min(self.size as usize - start);
        copy(self.data + start, 0..first)?;
        if first < len {
            copy(self.data, first..len)?;
        }
        Ok(())
    }
}

/// Sets positions and statistics of all three rings to zero, as both ends do at their start. The
/// state word is the caller's.
pub(crate) fn init_headers(mem: &impl Memory) {
    for header in [TO_HOST, TO_HOST_LARGE, FROM_HOST] {
        mem.store(header + HOST_VERSION, VERSION);
        mem.store(header + GUEST_VERSION, VERSION);
        mem.store(header + WRITE_POS, 0);
        mem.store(header + READ_POS, 0);
        for word in STATISTICS {
            mem.store(header + word, 0);
        }
    }
}

/// The end that puts bytes into a ring.
#[derive(Debug)]
pub struct Producer {
    shape: Shape,
    write: u32,
    /// The consumer's position when last looked at: asking again costs a cache line.
    read: u32,
}

impl Producer {
    /// The producer of a ring that is initialised and empty.
    pub fn new(shape: Shape) -> Self {
        Self {
            shape,
            write: 0,
            read: 0,
        }
    }

    /// The producer of a ring that another left behind.
    pub fn resume(shape: Shape, mem: &impl Memory) -> Self {
        Self {
            shape,
            write: mem.load(shape.header + WRITE_POS),
            read: mem.load(shape.header + READ_POS),
        }
    }

    /// How many bytes were ever published, modulo 2^32.
    #[inline]
    pub fn position(&self) -> u32 {
        self.write
    }

    #[inline]
    fn used(&self) -> u32 {
        self.write.wrapping_sub(self.read)
    }

    /// How many bytes the consumer has not taken yet.
    #[inline]
    pub fn pending(&mut self, mem: &impl Memory) -> Result<u32> {
        if self.used() != 0 {
            let read = mem.load(self.shape.header + READ_POS);
            if self.write.wrapping_sub(read) > self.shape.capacity() {
                return Err(Error::Lied {
                    what: "read position",
                    value: read,
                });
            }
            self.read = read;
        }
        Ok(self.used())
    }

    /// How many bytes fit, and whether that is at least `want` or else the newest truth.
    #[inline]
    pub fn room(&mut self, mem: &impl Memory, want: u32) -> Result<u32> {
        let seen = self.shape.capacity() - self.used();
        if seen >= want {
            return Ok(seen);
        }
        Ok(self.shape.capacity() - self.pending(mem)?)
    }

    /// Whether at most `limit` bytes are pending.
    #[inline]
    pub fn at_most(&mut self, mem: &impl Memory, limit: u32) -> Result<bool> {
        Ok(self.used() <= limit || self.pending(mem)? <= limit)
    }

    /// Puts bytes behind the published ones. The caller has asked for room.
    #[inline]
    pub fn put(&self, mem: &impl Memory, bytes: &[u8]) -> Result<()> {
        self.shape.stretches(self.write, bytes.len(), |at, part| {
            mem.copy_in(at, &bytes[part])
        })
    }

    /// Shows the consumer `len` more bytes. No later load of this thread happens before.
    #[inline]
    pub fn publish(&mut self, mem: &impl Memory, len: u32) {
        self.write = self.write.wrapping_add(len);
        // Pairs with the load in `Consumer::available`: the bytes come before the position.
        mem.publish(self.shape.header + WRITE_POS, self.write);
    }

    /// Shows the consumer `len` more bytes.
    #[inline]
    pub fn publish_relaxed(&mut self, mem: &impl Memory, len: u32) {
        self.write = self.write.wrapping_add(len);
        // As in `publish`; for who raises another word behind a full barrier at once.
        mem.store(self.shape.header + WRITE_POS, self.write);
    }
}

/// The end that takes bytes out of a ring.
#[derive(Debug)]
pub struct Consumer {
    shape: Shape,
    read: u32,
}

impl Consumer {
    /// The consumer of a ring that is initialised and empty.
    pub fn new(shape: Shape) -> Self {
        Self { shape, read: 0 }
    }

    /// The consumer of a ring that another left behind, at its last `back` bytes.
    pub fn resume(shape: Shape, mem: &impl Memory, back: u32) -> Self {
        let read = mem.load(shape.header + READ_POS).wrapping_sub(back);
        Self { shape, read }
    }

    /// Whether there is anything to look at. It might turn out to be a lie.
    #[inline]
    pub fn has_news(&self, mem: &impl Memory) -> bool {
        mem.load(self.shape.header + WRITE_POS) != self.read
    }

    /// How many bytes there are to take.
    #[inline]
    pub fn available(&self, mem: &impl Memory) -> Result<u32> {
        // Pairs with `Producer::publish`.
        let write = mem.load(self.shape.header + WRITE_POS);
        let available = write.wrapping_sub(self.read);
        if available > self.shape.capacity() {
            return Err(Error::Lied {
                what: "write position",
                value: write,
            });
        }
        Ok(available)
    }

    /// Copies the next bytes. The caller knows that they are available.
    #[inline]
    pub fn copy_out(&self, mem: &impl Memory, to: &mut [u8]) -> Result<()> {
        self.shape.stretches(self.read, to.len(), |at, part| {
            mem.copy_out(at, &mut to[part])
        })
    }

    /// Appends the next `len` bytes to `to`. The caller knows that they are available.
    #[inline]
    pub fn append_to(&self, mem: &impl Memory, len: usize, to: &mut Vec<u8>) -> Result<()> {
        self.shape
            .stretches(self.read, len, |at, part| mem.append_to(at, part.len(), to))
    }

    /// Gives the room of `len` bytes back. What was copied before stays what it is.
    #[inline]
    pub fn release(&mut self, mem: &impl Memory, len: u32) {
        self.read = self.read.wrapping_add(len);
        // Pairs with the load in `Producer::pending`: our reads come before the position.
        mem.store(self.shape.header + READ_POS, self.read);
    }
}

/// Bounded spinning: first without leaving the core, then offering it to others, and no longer once
/// somebody took the offer.
#[derive(Debug)]
pub(crate) struct Spin {
    budget: Duration,
    start: Option<Instant>,
    round: u32,
    longest: Duration,
}

/// A yield that took this long has let somebody else run, who will want more.
pub(crate) const CROWDED: Duration = Duration::from_micros(20);

/// Whether others want the cores, as far as yields told.
///
/// Where they do, a yield costs a whole turn of theirs, milliseconds, while a sleeper that is woken gets
/// its turn at once. So for some time after a long yield there is no sense in trying another.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    until: Option<Instant>,
    rest: Duration,
}

impl Crowd {
    /// After the first long yield.
    const SHORTEST: Duration = Duration::from_millis(1);
    /// After many in a row; then trying costs a hundredth of the time.
    const LONGEST: Duration = Duration::from_millis(256);

    /// Sleep rather than spin.
    #[inline]
    pub(crate) fn is_here(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until)
    }

    /// What a yield took.
    #[inline]
    pub(crate) fn note(&mut self, took: Duration) {
        if took > CROWDED {
            self.rest = (self.rest * 2).clamp(Self::SHORTEST, Self::LONGEST);
            self.until = Some(Instant::now() + self.rest);
        } else if self.until.is_some() {
            *self = Self::default();
        }
    }
}

/// How many times to look between two yields.
const LOOKS: u32 = 64;

impl Spin {
    pub(crate) fn new(budget: Duration) -> Self {
        Self {
            budget,
            start: None,
            round: 0,
            longest: Duration::ZERO,
        }
    }

    /// The longest of its yields, if there was one.
    pub(crate) fn longest_yield(&self) -> Option<Duration> {
        self.start.map(|_| self.longest)
    }

    /// Spends a moment. False if there is no sense in spinning on.
    #[inline]
    pub(crate) fn step(&mut self, mem: &impl Memory) -> bool {
        self.round += 1;
        if self.round < LOOKS && !self.budget.is_zero() {
            mem.relax();
            return true;
        }
        self.slow_step(mem)
    }

    #[cold]
    fn slow_step(&mut self, mem: &impl Memory) -> bool {
        if self.budget.is_zero() {
            return false;
        }
        self.round = 0;
        let before = Instant::now();
        let start = *self.start.get_or_insert(before);
        if before.duration_since(start) > self.budget {
            return false;
        }
        mem.yield_now();
        self.longest = self.longest.max(before.elapsed());
        if self.longest > CROWDED {
            // The caller looks once more, and then gives up.
            self.budget = Duration::ZERO;
        }
        true
    }
}

/// Sleeping where nobody wakes us: for an eighth of the time waited so far, so that it costs little
/// of either time.
#[derive(Debug)]
pub(crate) struct Nap {
    start: Instant,
}

impl Nap {
    const SHORTEST: Duration = Duration::from_micros(50);
    const LONGEST: Duration = Duration::from_millis(20);

    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    pub(crate) fn time(&self) -> Duration {
        (self.elapsed() / 8).clamp(Self::SHORTEST, Self::LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Mapping;
    use proptest::prelude::*;

    /// Both ends of the ring of records, at any position.
    fn ends(start: u32) -> (Mapping, Producer, Consumer) {
        let (mem, _) = Mapping::create(BUFFER).unwrap();
        mem.store(TO_HOST + WRITE_POS, start);
        mem.store(TO_HOST + READ_POS, start);
        let producer = Producer {
            shape: Shape::RECORDS,
            write: start,
            read: start,
        };
        let consumer = Consumer {
            shape: Shape::RECORDS,
            read: start,
        };
        (mem, producer, consumer)
    }

    #[test]
    fn a_ring_holds_one_byte_less_than_its_size() {
        let (mem, mut producer, mut consumer) = ends(u32::MAX - 100);
        assert_eq!(producer.room(&mem, u32::MAX).unwrap(), 2047);
        producer.put(&mem, &[1; 2047]).unwrap();
        producer.publish(&mem, 2047);
        assert_eq!(producer.room(&mem, 1).unwrap(), 0);
        assert_eq!(consumer.available(&mem).unwrap(), 2047);
        consumer.release(&mem, 2047);
        assert_eq!(producer.pending(&mem).unwrap(), 0);
        assert!(!consumer.has_news(&mem));
    }

    #[test]
    fn impossible_positions_are_lies() {
        let (mem, mut producer, consumer) = ends(u32::MAX);
        mem.store(TO_HOST + WRITE_POS, 2046);
        assert_eq!(consumer.available(&mem).unwrap(), 2047);
        mem.store(TO_HOST + WRITE_POS, 2047);
        assert!(consumer.available(&mem).is_err());
        mem.store(TO_HOST + WRITE_POS, u32::MAX - 1);
        assert!(consumer.available(&mem).is_err());
        producer.publish(&mem, 8);
        mem.store(TO_HOST + READ_POS, 8);
        assert!(producer.pending(&mem).is_err());
        mem.store(TO_HOST + READ_POS, 7);
        assert_eq!(producer.pending(&mem).unwrap(), 0);
    }

    proptest! {
        #[test]
        fn bytes_come_out_as_they_went_in(
            start in prop_oneof![any::<u32>(), u32::MAX - 5000..=u32::MAX],
            steps in proptest::collection::vec((any::<bool>(), 1u32..2100), 1..100),
        ) {
            let (mem, mut producer, mut consumer) = ends(start);
            let (mut sent, mut got) = (0u32, 0u32);
            for (write, len) in steps {
                if write {
                    let len = len.min(producer.room(&mem, len).unwrap());
                    let bytes: Vec<u8> = (sent..sent + len).map(|i| (i % 251) as u8).collect();
                    producer.put(&mem, &bytes).unwrap();
                    producer.publish(&mem, len);
                    sent += len;
                } else {
                    let available = consumer.available(&mem).unwrap();
                    prop_assert_eq!(available, sent - got);
                    let len = len.min(available);
                    let mut bytes = Vec::new();
                    consumer.append_to(&mem, len as usize, &mut bytes).unwrap();
                    consumer.release(&mem, len);
                    prop_assert!(bytes.iter().zip(got..).all(|(&byte, i)| byte == (i % 251) as u8));
                    got += len;
                }
            }
        }
    }
}
