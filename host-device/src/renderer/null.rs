//! A renderer without a driver: streams echo their input, blobs are plain memory, fences are
//! signalled at once, or when the guest says so.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::{Blob, Context, Description, Error, Limits, Renderer, Replies, Stats, Stream};
use crate::resource::{MAP_CACHED, sealed_memory};

/// Bytes of every blob.
pub const BLOB_SIZE: u64 = 64 << 10;

/// Blob ids from here on were "not published".
pub const FIRST_MISSING_BLOB: u64 = 1 << 32;

/// Fences of this device are not signalled,
pub const HOLD: u64 = 1 << 32;

/// until one of the same number of this device is waited for.
pub const RELEASE: u64 = HOLD + 1;

/// See the module.
#[derive(Debug, Default)]
pub struct Null;

impl Renderer for Null {
    fn describe(&self) -> Description {
        Description {
            device: "null".to_owned(),
            can_share_memory: true,
            ..Description::default()
        }
    }
    fn color_buffer_memory_index(&self, _as_upstream: bool) -> u32 {
        u32::MAX
    }
    fn create_context(&self, _name: &str, _limits: Limits) -> Arc<dyn Context> {
        Arc::new(NullContext::default())
    }
}

#[derive(Debug, Default)]
struct Shared {
    dead: AtomicBool,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    packets: AtomicU64,
}

type Done = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct NullContext {
    shared: Arc<Shared>,
    taken: Mutex<BTreeSet<u64>>,
    /// Fences that are not signalled, by their numbers.
    held: Mutex<BTreeMap<u64, Vec<Done>>>,
}

impl fmt::Debug for NullContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NullContext").finish_non_exhaustive()
    }
}

impl Context for NullContext {
    fn open_stream(&self) -> Box<dyn Stream> {
        Box::new(Echo {
            input: Vec::new(),
            shared: Arc::clone(&self.shared),
        })
    }
    fn take_blob(&self, blob_id: u64) -> Result<Blob, Error> {
        if blob_id >= FIRST_MISSING_BLOB || !self.taken.lock().insert(blob_id) {
            return Err(Error::NoBlob(blob_id));
        }
        match sealed_memory("asgard-null-blob", BLOB_SIZE) {
            Ok(fd) => Ok(Blob {
                fd,
                size: BLOB_SIZE,
                map_info: MAP_CACHED,
            }),
            Err(_) => Err(Error::NoBlob(blob_id)),
        }
    }
    fn add_resource(&self, _res_id: u32, _memory: OwnedFd, _size: u64) {}
    fn remove_resource(&self, _res_id: u32) {}
    fn when_signaled(&self, device: u64, fence_or_semaphore: u64, done: Done) -> Result<(), Error> {
        let number = fence_or_semaphore;
        if device == HOLD {
            self.held.lock().entry(number).or_default().push(done);
            return Ok(());
        }
        if device == RELEASE {
            let held = self.held.lock().remove(&number);
            held.into_iter().flatten().for_each(|done| done());
        }
        done();
        Ok(())
    }
    fn error(&self) -> Option<String> {
        self.shared
            .dead
            .load(Ordering::Relaxed)
            .then(|| "poisoned".to_owned())
    }
    fn poison(&self, _why: &str) {
        self.shared.dead.store(true, Ordering::Relaxed);
        let held = std::mem::take(&mut *self.held.lock());
        held.into_values().flatten().for_each(|done| done());
    }
    fn stats(&self) -> Stats {
        Stats {
            packets: self.shared.packets.load(Ordering::Relaxed),
            bytes_in: self.shared.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.shared.bytes_out.load(Ordering::Relaxed),
            ..Stats::default()
        }
    }
    fn close(&self) {
        self.poison("closed");
    }
}

struct Echo {
    input: Vec<u8>,
    shared: Arc<Shared>,
}

impl Stream for Echo {
    fn input(&mut self) -> &mut Vec<u8> {
        &mut self.input
    }
    fn run(&mut self, replies: &mut dyn Replies) -> Result<(), Error> {
        if self.shared.dead.load(Ordering::Relaxed) {
            return Err(Error::Disconnected);
        }
        let bytes = self.input.len() as u64;
        self.shared.packets.fetch_add(1, Ordering::Relaxed);
        self.shared.bytes_in.fetch_add(bytes, Ordering::Relaxed);
        replies.send(&self.input)?;
        self.shared.bytes_out.fetch_add(bytes, Ordering::Relaxed);
        self.input.clear();
        Ok(())
    }
}
