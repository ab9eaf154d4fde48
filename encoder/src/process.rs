//! What all threads of this process share: the connection, the order of packets, and ids to choose from.

use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use asgard_protocol::extension::{Features, GENERATIONS, IDS, chosen, chosen_number};
use asgard_protocol::types::Kind;
use parking_lot::Mutex;

use crate::status_page::StatusPage;
use crate::stream::Unsent;
use crate::virtgpu::{self, Error, VirtGpu};

/// Says what to use of Asgard's own part of the wire: `all`, `none`, or names of features.
const FEATURES: &str = "ASGARD_WIRE_FEATURES";

pub(crate) struct Process {
    pub(crate) device: Arc<dyn VirtGpu>,
    /// The number of the last packet; the host runs them in this order.
    sequence: AtomicU32,
    blobs: AtomicU64,
    pub(crate) unsent: Unsent,
    /// What both ends use of Asgard's own part of the wire.
    pub(crate) features: Features,
    ids: Mutex<Ids>,
    status_page: OnceLock<Option<StatusPage>>,
}

/// The ids that this guest chooses for what it creates.
#[derive(Debug, Default)]
struct Ids {
    /// Numbers of objects that are gone.
    free: Vec<u32>,
    /// Of each number, the generation that it had last.
    generations: Vec<u32>,
}

impl Ids {
    /// Appends `n` ids; false, and none, when there are not that many.
    fn take(&mut self, kind: Kind, n: usize, to: &mut Vec<u64>) -> bool {
        let most = self.free.len() + (IDS as usize - self.generations.len());
        if n == 0 || n > most.min(MOST_IDS) {
            return false;
        }
        for _ in 0..n {
            let number = self.free.pop().unwrap_or_else(|| {
                self.generations.push(0);
                self.generations.len() as u32 - 1
            });
            let generation = &mut self.generations[number as usize];
            *generation = *generation % GENERATIONS + 1;
            to.push(chosen(kind, *generation, number));
        }
        true
    }

    /// The object of that token is gone. One that is not of this process is not given back.
    fn give_back(&mut self, token: u64, number: u32) {
        let generation = (token >> 32) as u32 & GENERATIONS;
        if self.generations.get(number as usize) == Some(&generation) {
            self.free.push(number);
        }
    }
}

/// More objects than this are not created at once without waiting.
const MOST_IDS: usize = 1 << 12;

/// What this guest would use of Asgard's own part of the wire.
fn wanted() -> Features {
    let Ok(text) = std::env::var(FEATURES) else {
        return Features::ALL;
    };
    text.parse().unwrap_or_else(|error| {
        eprintln!("asgard: {FEATURES}: {error}; none is used");
        Features::NONE
    })
}

/// The host is Asgard's.
static EXTENDED: AtomicBool = AtomicBool::new(false);

/// The host is Asgard's and knows all that we do; another knows what upstream's does.
pub(crate) fn extended() -> bool {
    // What is sent follows the connection, in whose making it is set.
    EXTENDED.load(Ordering::Relaxed)
}

type Slot = OnceLock<Option<Process>>;

/// Where the process' own is; never freed.
static CURRENT: AtomicPtr<Slot> = AtomicPtr::new(std::ptr::null_mut());

unsafe extern "C" {
    /// POSIX.
    pub(crate) safe fn pthread_atfork(
        prepare: Option<extern "C" fn()>,
        parent: Option<extern "C" fn()>,
        child: Option<extern "C" fn()>,
    ) -> i32;
}

/// A forked child starts without a connection: its parent's must not be used by two.
extern "C" fn forked() {
    CURRENT.store(std::ptr::null_mut(), Ordering::Relaxed);
}

impl Process {
    /// The place for this process' own.
    #[cold]
    fn begin() -> *mut Slot {
        static WATCHED: AtomicBool = AtomicBool::new(false);
        if !WATCHED.swap(true, Ordering::Relaxed) {
            // Fails only for want of memory; then a child that goes on with Vulkan is undefined.
            let _ = pthread_atfork(None, None, Some(forked));
        }
        let slot = Box::into_raw(Box::<Slot>::default());
        let null = std::ptr::null_mut();
        match CURRENT.compare_exchange(null, slot, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => slot,
            Err(other) => {
                // SAFETY: nobody else has seen it.
                drop(unsafe { Box::from_raw(slot) });
                other
            }
        }
    }

    /// It is this process' own, and not one that a fork has left behind.
    pub(crate) fn is_current(&self) -> bool {
        let current = CURRENT.load(Ordering::Acquire);
        // SAFETY: what is published there is never freed.
        let slot = unsafe { current.as_ref() };
        let process = slot.and_then(|slot| slot.get()?.as_ref());
        process.is_some_and(|process| std::ptr::eq(process, self))
    }

    /// The process' own, connected at the first call.
    #[inline]
    pub(crate) fn get() -> Option<&'static Self> {
        let mut current = CURRENT.load(Ordering::Acquire);
        if current.is_null() {
            current = Self::begin();
        }
        // SAFETY: what is published there is never freed.
        unsafe { &*current }
            .get_or_init(|| match Self::connect() {
                Ok(process) => Some(process),
                Err(error) => {
                    eprintln!("asgard: {error}; `asgard run -- PROGRAM` starts a renderer with the program");
                    None
                }
            })
            .as_ref()
    }

    fn connect() -> Result<Self, Error> {
        let program = std::env::current_exe().ok();
        let name = program
            .as_deref()
            .and_then(|p| p.file_name())
            .map(|n| n.as_encoded_bytes().to_vec())
            .unwrap_or_default();
        let device = virtgpu::connect(&name)?;
        let extension = device.host().extension;
        EXTENDED.store(extension.is_some(), Ordering::Relaxed);
        let offered = extension.map_or(0, |extension| extension.features);
        Ok(Self {
            features: Features::known(offered).and(wanted()),
            device,
            sequence: AtomicU32::new(0),
            blobs: AtomicU64::new(0),
            unsent: Unsent::default(),
            ids: Mutex::default(),
            status_page: OnceLock::new(),
        })
    }

    /// Where the host shows how far queues have come, if it does.
    pub(crate) fn status_page(&self) -> Option<&StatusPage> {
        let open = || {
            let has = self.features.has(Features::STATUS_PAGE);
            has.then(|| StatusPage::open(self)).flatten()
        };
        self.status_page.get_or_init(open).as_ref()
    }

    /// Chooses ids for `n` objects; false, and none, when the host has to do it.
    pub(crate) fn choose(&self, kind: Kind, n: usize, to: &mut Vec<u64>) -> bool {
        self.features.has(Features::CHOSEN_IDS) && self.ids.lock().take(kind, n, to)
    }

    /// The host was told that the object is gone.
    #[inline]
    pub(crate) fn give_back(token: u64) {
        if let Some(number) = chosen_number(token)
            && let Some(process) = Self::get()
        {
            process.ids.lock().give_back(token, number);
        }
    }

    /// The number before those of the next `n` packets. Whoever takes them must send the packets at once.
    pub(crate) fn sequence_numbers(&self, n: u32) -> u32 {
        self.sequence.fetch_add(n, Ordering::Relaxed)
    }

    /// A number for memory that is to be mapped.
    pub(crate) fn next_blob(&self) -> u64 {
        self.blobs.fetch_add(1, Ordering::Relaxed) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_chosen_again_in_another_generation() {
        let mut ids = Ids::default();
        let mut first = Vec::new();
        assert!(ids.take(Kind::Buffer, 3, &mut first));
        ids.give_back(first[1], 1);
        let mut second = Vec::new();
        assert!(ids.take(Kind::Image, 2, &mut second));
        assert_eq!(chosen_number(second[0]), Some(1));
        assert_eq!(chosen_number(second[1]), Some(3));
        assert_ne!(first[1] << 8, second[0] << 8, "not only the kind differs");
        // What it stood for before is not its to give back.
        ids.give_back(first[1], 1);
        let mut third = Vec::new();
        assert!(ids.take(Kind::Buffer, 1, &mut third));
        assert_eq!(chosen_number(third[0]), Some(4));
    }

    #[test]
    fn generations_begin_again_at_one() {
        let mut ids = Ids::default();
        ids.take(Kind::Fence, 1, &mut Vec::new());
        ids.generations[0] = GENERATIONS;
        ids.free.push(0);
        let mut next = Vec::new();
        assert!(ids.take(Kind::Fence, 1, &mut next));
        assert_eq!(next, [chosen(Kind::Fence, 1, 0)]);
    }

    #[test]
    fn there_are_no_more_ids_than_the_host_has_room_for() {
        let mut ids = Ids {
            free: Vec::new(),
            generations: vec![1; IDS as usize - 1],
        };
        assert!(!ids.take(Kind::Fence, 2, &mut Vec::new()));
        assert!(ids.take(Kind::Fence, 1, &mut Vec::new()));
        assert!(!ids.take(Kind::Fence, 1, &mut Vec::new()));
        assert!(!ids.take(Kind::Fence, 0, &mut Vec::new()));
    }
}
