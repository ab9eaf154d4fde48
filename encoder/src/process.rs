//! What all threads of this process share: the connection, and the order of packets.

use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::virtgpu::{self, Error, VirtGpu};

pub(crate) struct Process {
    pub(crate) device: Arc<dyn VirtGpu>,
    /// The number of the last packet; the host runs them in this order.
    sequence: AtomicU32,
    blobs: AtomicU64,
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
    safe fn pthread_atfork(
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
        EXTENDED.store(device.host().extension.is_some(), Ordering::Relaxed);
        Ok(Self {
            device,
            sequence: AtomicU32::new(0),
            blobs: AtomicU64::new(0),
        })
    }

    /// The number of the next packet. Whoever takes one must send its packet at once.
    pub(crate) fn next_sequence(&self) -> u32 {
        self.sequence
            .fetch_add(1, Ordering::Relaxed)
            .wrapping_add(1)
    }

    /// A number for memory that is to be mapped.
    pub(crate) fn next_blob(&self) -> u64 {
        self.blobs.fetch_add(1, Ordering::Relaxed) + 1
    }
}
