//! Memory that is shared with another process.
//!
//! The other side may write any byte at any time. So nothing here hands out a reference to shared
//! bytes: words are atomics, and everything else is copied, exactly once, by code whose accesses the
//! compiler can neither repeat nor reorder across the atomics.
//!
//! Memory whose file can shrink kills whoever touches the lost part. Memory made here is sealed
//! against that, and memory from elsewhere is only taken if it is sealed, or on the word of a caller
//! who knows where it came from.

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{FileType, MemfdFlags, SealFlags};
use rustix::thread::futex;

use crate::ring::{Memory, Patience};
use crate::{Error, Result};

/// Shared memory, mapped for reading and writing.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    len: NonZeroUsize,
}

// SAFETY: the mapping belongs to this value until it is dropped, and every access to it goes through
// atomics or through copies that make no claim on what the bytes are.
unsafe impl Send for Mapping {}
// SAFETY: as above; no method needs exclusive access.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Makes zeroed memory of `len` bytes whose size nobody can change any more, and the file to
    /// share it by.
    pub fn create(len: usize) -> Result<(Self, OwnedFd)> {
        let fd = rustix::fs::memfd_create(
            "asgard-ring",
            MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
        )?;
        rustix::fs::ftruncate(&fd, len as u64)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let mapping = Self::map(&fd, 0, len)?;
        Ok((mapping, fd))
    }

    /// Maps `len` bytes at `offset` of memory that another process sent. The file must be a memfd
    /// that is sealed against shrinking, and long enough.
    ///
    /// `offset` must be a multiple of the page size.
    pub fn map(fd: impl AsFd, offset: u64, len: usize) -> Result<Self> {
        let seals = rustix::fs::fcntl_get_seals(&fd).map_err(|_| Error::Unsealed)?;
        if !seals.contains(SealFlags::SHRINK) {
            return Err(Error::Unsealed);
        }
        Self::map_trusted(fd, offset, len)
    }

    /// Maps memory that a trusted party will not shrink: a device node, whose kernel driver owns the
    /// pages, or a file that only this process or its own host can reach. Regular files are still
    /// checked to be long enough now.
    pub fn map_trusted(fd: impl AsFd, offset: u64, len: usize) -> Result<Self> {
        let stat = rustix::fs::fstat(&fd)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let end = offset.checked_add(len as u64);
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        let Some(len) = NonZeroUsize::new(len)
            .filter(|_| end.is_some_and(|end| !regular || end <= size))
            .filter(|len| len.get() <= isize::MAX as usize)
        else {
            return Err(Error::OutOfBounds {
                offset,
                len: len as u64,
                size,
            });
        };
        // libc's function, which a library that stands in for a device can put its own in front of.
        // SAFETY: the kernel picks the address, so no memory of this process is replaced.
        let base = unsafe {
            libc::mmap64(
                std::ptr::null_mut(),
                len.get(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_fd().as_raw_fd(),
                offset.cast_signed(),
            )
        };
        if base == libc::MAP_FAILED {
            let error = rustix::io::Errno::from_io_error(&std::io::Error::last_os_error());
            return Err(Error::Io(error.unwrap_or(rustix::io::Errno::NOMEM)));
        }
        let base = NonNull::new(base.cast()).ok_or(Error::Io(rustix::io::Errno::NOMEM))?;
        Ok(Self { base, len })
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.len.get()
    }

    /// Never: a mapping of nothing cannot be made.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Where the memory lies in this process, for handing it to a driver. It lies there as long as
    /// this value lives.
    pub fn as_ptr(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    #[inline]
    fn check(&self, offset: usize, len: usize) -> Result<*mut u8> {
        if offset <= self.len.get() && len <= self.len.get() - offset {
            Ok(self.base.as_ptr().wrapping_add(offset))
        } else {
            Err(Error::OutOfBounds {
                offset: offset as u64,
                len: len as u64,
                size: self.len.get() as u64,
            })
        }
    }

    /// The word at `offset`, which must be a multiple of 4.
    #[inline]
    pub fn atomic_u32(&self, offset: usize) -> Result<&AtomicU32> {
        let word = self.check(offset, 4)?;
        if !offset.is_multiple_of(4) {
            return Err(Error::OutOfBounds {
                offset: offset as u64,
                len: 4,
                size: self.len.get() as u64,
            });
        }
        // SAFETY: `check` has seen that the word lies in the mapping, which lives as long as `self`;
        // a mapping starts on a page, so that the word is aligned. The peer may write it, which is
        // what atomics are for.
        Ok(unsafe { AtomicU32::from_ptr(word.cast()) })
    }

    /// Copies shared bytes from `offset` on into `to`.
    #[inline]
    pub fn copy_out(&self, offset: usize, to: &mut [u8]) -> Result<()> {
        let from = self.check(offset, to.len())?;
        // SAFETY: `check` has seen that the source lies in the mapping; the target is a slice of our
        // own, which cannot overlap it because no slice of shared memory exists.
        unsafe { read_shared(from, to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    /// Appends `len` shared bytes from `offset` on to `to`.
    #[inline]
    pub fn append_to(&self, offset: usize, len: usize, to: &mut Vec<u8>) -> Result<()> {
        let from = self.check(offset, len)?;
        to.reserve(len);
        let end = to.spare_capacity_mut().as_mut_ptr().cast();
        // SAFETY: as in `copy_out`; `reserve` made room for `len` bytes behind the vector's end, and
        // they are all written before the length covers them.
        unsafe {
            read_shared(from, end, len);
            to.set_len(to.len() + len);
        }
        Ok(())
    }

    /// Copies `from` into the shared bytes from `offset` on.
    #[inline]
    pub fn copy_in(&self, offset: usize, from: &[u8]) -> Result<()> {
        let to = self.check(offset, from.len())?;
        // SAFETY: as in `copy_out`, the other way round.
        unsafe { write_shared(from.as_ptr(), to, from.len()) };
        Ok(())
    }

    #[inline]
    fn word(&self, at: usize) -> &AtomicU32 {
        // Channels check the length of the memory when they are made, and use constants thereafter.
        self.atomic_u32(at)
            .expect("the words of a ring lie inside of its memory")
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this value made the mapping, and nothing that borrows from it is left. Failure
        // could only leave it mapped.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len.get()) };
    }
}

impl Memory for Mapping {
    #[inline]
    fn size(&self) -> usize {
        self.len.get()
    }

    #[inline]
    fn load(&self, at: usize) -> u32 {
        self.word(at).load(Ordering::SeqCst)
    }

    #[inline]
    fn store(&self, at: usize, value: u32) {
        self.word(at).store(value, Ordering::Release);
    }

    #[inline]
    fn publish(&self, at: usize, value: u32) -> u32 {
        self.word(at).swap(value, Ordering::SeqCst)
    }

    #[inline]
    fn add(&self, at: usize, value: u32) -> u32 {
        self.word(at).fetch_add(value, Ordering::SeqCst)
    }

    #[inline]
    fn sub(&self, at: usize, value: u32) -> u32 {
        self.word(at).fetch_sub(value, Ordering::SeqCst)
    }

    #[inline]
    fn copy_out(&self, at: usize, to: &mut [u8]) -> Result<()> {
        Mapping::copy_out(self, at, to)
    }

    #[inline]
    fn append_to(&self, at: usize, len: usize, to: &mut Vec<u8>) -> Result<()> {
        Mapping::append_to(self, at, len, to)
    }

    #[inline]
    fn copy_in(&self, at: usize, from: &[u8]) -> Result<()> {
        Mapping::copy_in(self, at, from)
    }

    fn wait(&self, at: usize, expected: u32, patience: Patience) {
        let (Patience::Safety(limit) | Patience::Nap(limit)) = patience;
        let limit = futex::Timespec {
            tv_sec: limit.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        };
        // Woken, interrupted, timed out, or the word has changed: the caller looks again anyway.
        let _ = futex::wait(self.word(at), futex::Flags::empty(), expected, Some(&limit));
    }

    fn wake(&self, at: usize) {
        // Nothing can be done if the kernel refuses; sleepers look again after their patience.
        let _ = futex::wake(self.word(at), futex::Flags::empty(), i32::MAX as u32);
    }

    #[inline]
    fn relax(&self) {
        std::hint::spin_loop();
    }

    fn yield_now(&self) {
        rustix::thread::sched_yield();
    }

    fn nap(&self, time: Duration) {
        std::thread::sleep(time);
    }

    fn core(&self) -> u32 {
        // rustix would look it up where valgrind, for programs that run under it, has nothing mapped.
        // SAFETY: there is nothing that could be misused.
        let core = unsafe { libc::sched_getcpu() };
        u32::try_from(core).map_or(0, |core| core + 1)
    }

    fn leave_core(&self) {
        use rustix::thread::{sched_getaffinity, sched_setaffinity};
        let Ok(all) = sched_getaffinity(None) else {
            return;
        };
        let mut others = all;
        let Some(here) = self.core().checked_sub(1) else {
            return;
        };
        others.unset(here as usize);
        // The kernel moves the thread at once, and may move it back later.
        if others.count() > 0 && sched_setaffinity(None, &others).is_ok() {
            let _ = sched_setaffinity(None, &all);
        }
    }
}

/// From how many bytes on a copy is worth the start-up of the wide loop.
#[cfg(target_arch = "x86_64")]
const WIDE: usize = 64;

/// Copies 64 bytes at a time, without telling the compiler anything about the bytes.
///
/// # Safety
/// `blocks` must not be 0, and `blocks * 64` bytes must be mapped readable at `from` and writable at `to`.
#[cfg(target_arch = "x86_64")]
#[inline]
unsafe fn copy_blocks(from: *const u8, to: *mut u8, blocks: usize) {
    // SAFETY: the caller vouches for both ranges. The block writes memory and flags only, and the
    // registers named; unaligned moves take any address. That the shared side may change meanwhile
    // is no data race in Rust's sense, because no Rust code accesses the bytes.
    unsafe {
        std::arch::asm!(
            "2:",
            "movups {a}, [{from}]",
            "movups {b}, [{from} + 16]",
            "movups {c}, [{from} + 32]",
            "movups {d}, [{from} + 48]",
            "movups [{to}], {a}",
            "movups [{to} + 16], {b}",
            "movups [{to} + 32], {c}",
            "movups [{to} + 48], {d}",
            "add {from}, 64",
            "add {to}, 64",
            "dec {blocks}",
            "jnz 2b",
            from = inout(reg) from => _,
            to = inout(reg) to => _,
            blocks = inout(reg) blocks => _,
            a = out(xmm_reg) _,
            b = out(xmm_reg) _,
            c = out(xmm_reg) _,
            d = out(xmm_reg) _,
            options(nostack),
        );
    }
}

/// Copies out of shared memory.
///
/// # Safety
/// `len` bytes must be mapped readable at `from`, which other processes may write, and writable at
/// `to`, which only this thread may access.
#[inline]
unsafe fn read_shared(mut from: *const u8, mut to: *mut u8, mut len: usize) {
    #[cfg(target_arch = "x86_64")]
    if len >= WIDE {
        let blocks = len / 64;
        // SAFETY: a part of the ranges that the caller vouches for, and at least one block.
        unsafe { copy_blocks(from, to, blocks) };
        from = from.wrapping_add(blocks * 64);
        to = to.wrapping_add(blocks * 64);
        len %= 64;
    }
    // SAFETY: each access stays within `len` bytes of the ranges that the caller vouches for; the
    // shared side is accessed by aligned atomics, the private side by writes that need no alignment.
    unsafe {
        while len > 0 && !from.addr().is_multiple_of(8) {
            to.write(AtomicU8::from_ptr(from.cast_mut()).load(Ordering::Relaxed));
            (from, to, len) = (from.wrapping_add(1), to.wrapping_add(1), len - 1);
        }
        while len >= 8 {
            let word = AtomicU64::from_ptr(from.cast_mut().cast()).load(Ordering::Relaxed);
            to.cast::<u64>().write_unaligned(word);
            (from, to, len) = (from.wrapping_add(8), to.wrapping_add(8), len - 8);
        }
        while len > 0 {
            to.write(AtomicU8::from_ptr(from.cast_mut()).load(Ordering::Relaxed));
            (from, to, len) = (from.wrapping_add(1), to.wrapping_add(1), len - 1);
        }
    }
}

/// Copies into shared memory.
///
/// # Safety
/// `len` bytes must be readable at `from`, where nobody writes meanwhile, and mapped writable at
/// `to`, which other processes may access.
#[inline]
unsafe fn write_shared(mut from: *const u8, mut to: *mut u8, mut len: usize) {
    #[cfg(target_arch = "x86_64")]
    if len >= WIDE {
        let blocks = len / 64;
        // SAFETY: a part of the ranges that the caller vouches for, and at least one block.
        unsafe { copy_blocks(from, to, blocks) };
        from = from.wrapping_add(blocks * 64);
        to = to.wrapping_add(blocks * 64);
        len %= 64;
    }
    // SAFETY: as in `read_shared`, the other way round.
    unsafe {
        while len > 0 && !to.addr().is_multiple_of(8) {
            AtomicU8::from_ptr(to).store(from.read(), Ordering::Relaxed);
            (from, to, len) = (from.wrapping_add(1), to.wrapping_add(1), len - 1);
        }
        while len >= 8 {
            let word = from.cast::<u64>().read_unaligned();
            AtomicU64::from_ptr(to.cast()).store(word, Ordering::Relaxed);
            (from, to, len) = (from.wrapping_add(8), to.wrapping_add(8), len - 8);
        }
        while len > 0 {
            AtomicU8::from_ptr(to).store(from.read(), Ordering::Relaxed);
            (from, to, len) = (from.wrapping_add(1), to.wrapping_add(1), len - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_mappings_of_one_file_share_bytes_at_any_alignment() {
        let (one, fd) = Mapping::create(8192).unwrap();
        let two = Mapping::map(&fd, 0, 8192).unwrap();
        let data: Vec<u8> = (0..700u32).map(|i| (i * 7 + 1) as u8).collect();
        for at in 0..20 {
            for len in [0, 1, 7, 8, 9, 15, 16, 63, 64, 65, 127, 128, 129, 700] {
                one.copy_in(at, &vec![0xee; 1000]).unwrap();
                one.copy_in(at, &data[..len]).unwrap();
                let mut out = vec![0; len + 1];
                two.copy_out(at, &mut out).unwrap();
                assert_eq!(out[..len], data[..len]);
                assert_eq!(out[len], 0xee, "wrote too much at {at}, {len}");
                let mut appended = vec![1, 2, 3];
                two.append_to(at, len, &mut appended).unwrap();
                assert_eq!(appended[3..], data[..len]);
            }
        }
    }

    #[test]
    fn a_file_that_can_shrink_is_refused() {
        let fd = rustix::fs::memfd_create("plain", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&fd, 4096).unwrap();
        assert!(matches!(Mapping::map(&fd, 0, 4096), Err(Error::Unsealed)));
        Mapping::map_trusted(&fd, 0, 4096).unwrap();
        let (pipe, _other) = std::io::pipe().unwrap();
        assert!(matches!(Mapping::map(&pipe, 0, 4096), Err(Error::Unsealed)));
        let (_mapping, sealed) = Mapping::create(4096).unwrap();
        assert!(rustix::fs::ftruncate(&sealed, 0).is_err());
    }

    #[test]
    fn nothing_lies_outside() {
        let (mapping, fd) = Mapping::create(4096).unwrap();
        for (offset, len) in [(0, 8192), (4096, 1), (u64::MAX - 4095, 4096), (0, 0)] {
            assert!(
                matches!(
                    Mapping::map(&fd, offset, len),
                    Err(Error::OutOfBounds { .. })
                ),
                "{offset} {len}"
            );
        }
        assert!(mapping.copy_out(4090, &mut [0; 7]).is_err());
        assert!(mapping.copy_in(usize::MAX, &[0]).is_err());
        assert!(mapping.append_to(1, usize::MAX, &mut Vec::new()).is_err());
        assert!(mapping.atomic_u32(4096).is_err());
        assert!(mapping.atomic_u32(2).is_err());
        assert!(mapping.atomic_u32(4092).is_ok());
    }
}
