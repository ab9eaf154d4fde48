//! Pages of the application's that become the device's, and its own again (VK_EXT_external_memory_host).
//!
//! The host is another process, or another machine, to which pages of this one cannot be given. So the
//! host's are put in their place: their contents become those that were there, and their mapping moves
//! to the application's address. From then on both ends use the same pages, as of any mapped memory.
//! When the memory is freed, private pages with the same contents move to that place.
//! Each move is one system call, so that the address is never without pages; but what another thread
//! writes there while the contents are copied is lost.
//!
//! A forked child gets copies of its own, as of all of its parent's private memory.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use memmap2::{MmapOptions, MmapRaw};
use rustix::mm::{MremapFlags, mremap_fixed};

use crate::process::pthread_atfork;

/// What is mapped where, in the words of Linux.
const MAPS: &str = "/proc/self/maps";

/// A line of [`MAPS`].
#[derive(Clone, Debug, PartialEq, Eq)]
struct Area<'t> {
    range: Range<usize>,
    permissions: &'t str,
    /// Where in the file it starts.
    offset: u64,
    /// The file's device and number there.
    file: (&'t str, u64),
    /// A path, or what the kernel or the program calls it.
    name: &'t str,
}

impl<'t> Area<'t> {
    fn parse(line: &'t str) -> Option<Self> {
        let mut words = line.splitn(6, ' ');
        let (start, end) = words.next()?.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        Some(Self {
            range: address(start)?..address(end)?,
            permissions: words.next()?,
            offset: u64::from_str_radix(words.next()?, 16).ok()?,
            file: (words.next()?, words.next()?.parse().ok()?),
            name: words.next().unwrap_or("").trim_start(),
        })
    }

    /// Memory that is this process' alone, and that nothing but its contents tells from other memory.
    fn is_private(&self) -> bool {
        let plain =
            self.name.is_empty() || self.name == "[heap]" || self.name.starts_with("[anon:");
        self.permissions == "rw-p" && self.file.1 == 0 && plain
    }

    /// What it maps at an address that lies in it.
    fn place(&self, address: usize) -> Place {
        let offset = self
            .offset
            .wrapping_add((address - self.range.start) as u64);
        let (device, inode) = self.file;
        Place {
            file: (device.to_owned(), inode),
            offset,
        }
    }
}

fn areas(text: &str) -> impl Iterator<Item = Area<'_>> {
    text.lines().filter_map(Area::parse)
}

fn read_maps() -> io::Result<String> {
    Ok(String::from_utf8_lossy(&std::fs::read(MAPS)?).into_owned())
}

/// Private memory and nothing else is in this range.
fn all_private(text: &str, range: &Range<usize>) -> bool {
    let mut at = range.start;
    for area in areas(text).filter(|area| area.range.end > range.start) {
        if at >= range.end {
            break;
        }
        if area.range.start > at || !area.is_private() {
            return false;
        }
        at = area.range.end;
    }
    at >= range.end
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    file: (String, u64),
    offset: u64,
}

/// The host's pages in the place of the application's.
#[derive(Debug)]
struct Taken {
    range: Range<usize>,
    place: Place,
}

type All = BTreeMap<u64, Taken>;

/// All that are taken. Not a lock that remembers its waiters elsewhere: it is let go in forked children.
static TAKEN: Mutex<All> = Mutex::new(BTreeMap::new());

fn all_taken() -> MutexGuard<'static, All> {
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Taken {
    /// Puts private pages where the host's are; none where the application has mapped something else.
    fn give_back(&self) -> io::Result<()> {
        let text = read_maps()?;
        for area in areas(&text) {
            let start = area.range.start.max(self.range.start);
            let end = area.range.end.min(self.range.end);
            let ours = |at: usize| Place {
                offset: self
                    .place
                    .offset
                    .wrapping_add((at - self.range.start) as u64),
                file: self.place.file.clone(),
            };
            if start >= end || area.place(start) != ours(start) {
                continue;
            }
            let private = MmapRaw::from(MmapOptions::new().len(end - start).map_anon()?);
            // SAFETY: it is mapped, and by us.
            unsafe { replace(start, private)? };
        }
        Ok(())
    }
}

/// Moves `map` to an address where memory is, once it has the contents of that.
///
/// # Safety
/// As many bytes are mapped there for reading and writing, and stay until this returns.
unsafe fn replace(start: usize, map: MmapRaw) -> io::Result<()> {
    let (at, to, len) = (start as *mut u8, map.as_mut_ptr(), map.len());
    // SAFETY: the caller's promise, and the mapping's; two mappings do not overlap. What the move replaces
    // is memory with the same contents.
    unsafe {
        at.copy_to_nonoverlapping(to, len);
        mremap_fixed(to.cast(), len, len, MremapFlags::MAYMOVE, at.cast())?;
    }
    // It has moved.
    std::mem::forget(map);
    Ok(())
}

/// Why pages are not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// They are not private to the process, or not writable, or the device's already.
    #[error("it is not private memory of the program's that nobody has imported yet")]
    Unfit,
    /// The kernel refuses.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Pages of the application's that are the device's as long as this lives.
#[derive(Debug)]
pub(crate) struct Pages {
    id: u64,
    start: usize,
}

impl Pages {
    /// Whether [`Self::take`] would take `len` bytes from that address.
    pub(crate) fn fit(start: usize, len: usize) -> bool {
        let text = read_maps();
        let end = start.checked_add(len);
        matches!((text, end), (Ok(text), Some(end)) if all_private(&text, &(start..end)))
    }

    /// Puts what `map` maps where the application has private memory, from this address on. Its contents
    /// become those of that memory.
    ///
    /// # Errors
    /// [`Error`]; then nothing has changed but the contents of `map`.
    pub(crate) fn take(start: usize, map: MmapRaw) -> Result<Self, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        watch_forks();
        let range = start..start.checked_add(map.len()).ok_or(Error::Unfit)?;
        let mut all = all_taken();
        let text = read_maps()?;
        if !all_private(&text, &range) {
            return Err(Error::Unfit);
        }
        let at = map.as_mut_ptr() as usize;
        let area = areas(&text).find(|area| area.range.contains(&at));
        let place = area.ok_or(Error::Unfit)?.place(at);
        // SAFETY: it is mapped, and the application leaves it there while it imports it.
        unsafe { replace(start, map)? };
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        all.insert(id, Taken { range, place });
        Ok(Self { id, start })
    }

    /// Where they are.
    pub(crate) fn as_mut_ptr(&self) -> *mut u8 {
        self.start as *mut u8
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        let mut all = all_taken();
        // In a forked child they are private already.
        if let Some(taken) = all.remove(&self.id) {
            give_back(&taken);
        }
    }
}

fn give_back(taken: &Taken) {
    if let Err(error) = taken.give_back() {
        // The contents are right, and a forked child shares them.
        eprintln!("asgard: imported memory stays shared: {error}");
    }
}

thread_local! {
    /// Held from before a fork until after it, so that the child finds all that is taken.
    static FORKING: RefCell<Option<MutexGuard<'static, All>>> =
        const { RefCell::new(None) };
}

extern "C" fn before_fork() {
    let all = all_taken();
    let _ = FORKING.try_with(|held| held.replace(Some(all)));
}

extern "C" fn after_fork() {
    let _ = FORKING.try_with(RefCell::take);
}

extern "C" fn in_child() {
    let _ = FORKING.try_with(|held| {
        if let Some(mut all) = held.take() {
            all.values().for_each(give_back);
            all.clear();
        }
    });
}

fn watch_forks() {
    static WATCHED: AtomicBool = AtomicBool::new(false);
    if !WATCHED.swap(true, Ordering::Relaxed) {
        // Fails only for want of memory; then a child shares what is imported.
        let _ = pthread_atfork(Some(before_fork), Some(after_fork), Some(in_child));
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, memfd_create};
    use rustix::mm::{MprotectFlags, mprotect};

    use super::*;

    const PAGE: usize = 4096;

    /// Memory of the host's, as it maps it, and as a guest does.
    fn hosts(len: usize) -> (MmapRaw, MmapRaw) {
        let file = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, len as u64).unwrap();
        let map = || MmapOptions::new().len(len).map_raw(&file).unwrap();
        (map(), map())
    }

    /// Private memory of so many pages, each with its number in it.
    fn private(pages: usize) -> MmapRaw {
        let map = MmapRaw::from(MmapOptions::new().len(pages * PAGE).map_anon().unwrap());
        for page in 0..pages {
            set(&map, page * PAGE, page as u8 + 1);
        }
        map
    }

    fn set(map: &MmapRaw, at: usize, to: u8) {
        assert!(at < map.len());
        // SAFETY: inside of the mapping.
        unsafe { map.as_mut_ptr().add(at).write_volatile(to) };
    }

    fn get(map: &MmapRaw, at: usize) -> u8 {
        assert!(at < map.len());
        // SAFETY: inside of the mapping.
        unsafe { map.as_mut_ptr().add(at).read_volatile() }
    }

    fn start(map: &MmapRaw, page: usize) -> usize {
        map.as_mut_ptr() as usize + page * PAGE
    }

    #[test]
    fn taken_pages_are_the_hosts_and_then_private_again() {
        let program = private(4);
        let (host, map) = hosts(2 * PAGE);
        let pages = Pages::take(start(&program, 1), map).unwrap();
        assert_eq!(pages.as_mut_ptr() as usize, start(&program, 1));
        assert_eq!((get(&host, 0), get(&host, PAGE)), (2, 3));
        set(&host, 5, 50);
        set(&program, PAGE + 6, 60);
        assert_eq!((get(&program, PAGE + 5), get(&host, 6)), (50, 60));
        drop(pages);
        set(&host, 5, 51);
        set(&program, PAGE + 6, 61);
        assert_eq!((get(&program, PAGE + 5), get(&host, 6)), (50, 60));
        let all: Vec<u8> = (0..4).map(|page| get(&program, page * PAGE)).collect();
        assert_eq!(all, [1, 2, 3, 4]);
        let again = Pages::take(start(&program, 0), hosts(4 * PAGE).1);
        drop(again.unwrap());
    }

    #[test]
    fn pages_are_taken_once_and_only_if_they_are_private_and_writable() {
        let program = private(4);
        let fits = |page, pages| Pages::fit(start(&program, page), pages * PAGE);
        let refused = |page, pages: usize| {
            let taken = Pages::take(start(&program, page), hosts(pages * PAGE).1);
            assert!(matches!(taken, Err(Error::Unfit)) && !fits(page, pages));
        };
        let pages = Pages::take(start(&program, 1), hosts(PAGE).1).unwrap();
        refused(1, 1);
        refused(0, 4);
        assert!(fits(0, 1) && fits(2, 2));
        drop(pages);
        assert!(fits(0, 4));
        let last = start(&program, 3) as *mut std::ffi::c_void;
        // SAFETY: nobody writes there.
        unsafe { mprotect(last, PAGE, MprotectFlags::READ).unwrap() };
        refused(2, 2);
        assert!(fits(0, 3));
        let (host, _) = hosts(PAGE);
        assert!(!Pages::fit(start(&host, 0), PAGE));
        assert!(!Pages::fit(PAGE, PAGE) && !Pages::fit(usize::MAX - PAGE + 1, PAGE));
    }

    #[test]
    fn what_the_program_has_unmapped_or_mapped_anew_is_left_alone() {
        let program = private(3);
        let (host, map) = hosts(3 * PAGE);
        let pages = Pages::take(start(&program, 0), map).unwrap();
        let (other, moved) = hosts(PAGE);
        // SAFETY: the middle of this test's own mapping.
        unsafe { replace(start(&program, 1), moved).unwrap() };
        drop(pages);
        set(&other, 7, 70);
        set(&host, 7, 80);
        assert_eq!((get(&program, PAGE + 7), get(&program, 7)), (70, 0));
        assert_eq!((get(&program, 0), get(&program, 2 * PAGE)), (1, 3));
    }

    #[test]
    fn a_forked_child_has_a_copy() {
        let program = private(1);
        let (host, map) = hosts(PAGE);
        let pages = Pages::take(start(&program, 0), map).unwrap();
        // SAFETY: the child calls only what is allowed there, and leaves.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let same = get(&program, 0) == 1;
            set(&program, 0, 9);
            drop(pages);
            let mine = get(&program, 0) == 9 && get(&host, 0) == 1;
            // SAFETY: as above.
            unsafe { libc::_exit(i32::from(!(same && mine))) };
        }
        let mut status = -1;
        // SAFETY: a child of this test's own.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!((status, get(&program, 0), get(&host, 0)), (0, 1, 1));
        set(&program, 0, 2);
        assert_eq!(get(&host, 0), 2);
        drop(pages);
        assert_eq!(get(&program, 0), 2);
    }

    #[test]
    fn lines_are_read_as_the_kernel_writes_them() {
        let text = "\
1000-3000 rw-p 00000000 00:00 0                                          [heap]
3000-4000 rw-p 00000000 00:00 0 
4000-5000 rw-s 00001000 00:01 1045                                       /memfd:a b (deleted)
5000-6000 rw-p 00000000 00:00 0                                          [anon:x y]
6000-7000 rw-p 00000000 00:00 0                                          [stack]
nonsense
";
        let all: Vec<Area<'_>> = areas(text).collect();
        assert_eq!(all.len(), 5);
        assert_eq!(all[2].name, "/memfd:a b (deleted)");
        let place = all[2].place(0x4000);
        assert_eq!((place.file.1, place.offset), (1045, 0x1000));
        let private = |range| all_private(text, &range);
        assert!(private(0x1000..0x4000) && private(0x2000..0x3000) && private(0x5000..0x6000));
        assert!(!private(0..0x2000) && !private(0x3000..0x5000) && !private(0x6000..0x7000));
        assert!(!private(0x5000..0x8000) && !private(0x8000..0x9000));
    }
}
