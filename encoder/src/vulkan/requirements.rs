//! What the host said of create-infos: an equal one is created without waiting, and needs the same memory.
//!
//! A create-info that the host has taken once fails a second time for want of memory alone, and what
//! memory an object needs follows from its create-info (Vulkan, "Resource Memory Association").

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use asgard_protocol::{Command, Wire, Writer};
use parking_lot::{Mutex, RwLock};

use super::*;
use crate::object::Objects;

/// Create-infos that are remembered; a program that makes objects of so many shapes begins again.
const MOST: usize = 1 << 12;

/// What is known of objects of one create-info, once somebody has asked.
#[derive(Default)]
struct Needs {
    memory: OnceLock<VkMemoryRequirements>,
    /// Whether it had better have an allocation of its own, and whether it must.
    dedicated: OnceLock<(VkBool32, VkBool32)>,
}

type Known = Arc<Needs>;

/// The create-infos of one kind of object on one device.
#[derive(Default)]
pub(super) struct Requirements {
    /// By the bytes that they have on the wire.
    infos: Mutex<HashMap<Box<[u8]>, Known>>,
    /// By the object's token.
    objects: RwLock<HashMap<u64, Known>>,
    /// Some were created that may have to lie where there is no room.
    choosy: AtomicBool,
}

impl std::fmt::Debug for Requirements {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Requirements")
    }
}

impl Requirements {
    /// Creates an object; without waiting if one like it was created before.
    ///
    /// `may_fail`: this one can fail where an earlier one did not, and is waited for.
    ///
    /// # Safety
    /// The create-info and its chain are valid, `command` is valid and creates one object of that kind
    /// from it, into `made`.
    pub(super) unsafe fn create<C: Command<Return = VkResult>, I: Wire>(
        &self,
        command: &mut C,
        kind: Kind,
        info: *const I,
        made: *mut u64,
        may_fail: bool,
    ) -> VkResult {
        if may_fail {
            self.choosy.store(true, Ordering::Relaxed);
        }
        let mut key = Vec::with_capacity(128);
        // SAFETY: the caller's promise.
        unsafe { (*info).encode(&mut Writer::new(&mut key, &Objects)) };
        let known = self.infos.lock().get(key.as_slice()).cloned();
        let ret = if known.is_some() && !may_fail {
            Driver.create(command, kind, made, 1)
        } else {
            Driver.call(command)
        };
        if ret != VK_SUCCESS {
            return ret;
        }
        // SAFETY: written just now, as the caller promises.
        let token = unsafe { *made };
        let known = known.unwrap_or_else(|| {
            let mut infos = self.infos.lock();
            if infos.len() >= MOST {
                infos.clear();
            }
            Arc::clone(infos.entry(key.into_boxed_slice()).or_default())
        });
        self.objects.write().insert(token, known);
        VK_SUCCESS
    }

    /// Binds memory to such objects, which fails for want of memory alone unless a program demands
    /// addresses.
    pub(super) fn bind<C: Command<Return = VkResult>>(&self, command: &mut C) -> VkResult {
        if self.choosy.load(Ordering::Relaxed) {
            Driver.call(command)
        } else {
            Driver.tell(command)
        }
    }

    /// The object is about to be destroyed.
    pub(super) fn forget(&self, token: u64) {
        self.objects.write().remove(&token);
    }

    /// Writes what the object needs to `to`, or has `ask` do it.
    ///
    /// # Safety
    /// `to` is valid.
    pub(super) unsafe fn answer(
        &self,
        token: u64,
        to: *mut VkMemoryRequirements,
        ask: impl FnOnce(),
    ) {
        let known = self.objects.read().get(&token).cloned();
        // SAFETY: the caller's promise.
        unsafe {
            if let Some(needs) = known.as_ref().and_then(|k| k.memory.get()) {
                *to = *needs;
                return;
            }
            ask();
            if let Some(known) = known {
                known.memory.get_or_init(|| *to);
            }
        }
    }

    /// As [`Self::answer`], for the extensible form.
    ///
    /// # Safety
    /// `to` and its chain are valid.
    pub(super) unsafe fn answer2(
        &self,
        token: u64,
        to: *mut VkMemoryRequirements2,
        ask: impl FnOnce(),
    ) {
        // SAFETY: the caller's promise: each struct of the chain is of the type that it says.
        unsafe {
            let dedicated = (*to).pNext.cast::<VkMemoryDedicatedRequirements>();
            if !dedicated.is_null()
                && ((*dedicated).sType != VK_STRUCTURE_TYPE_MEMORY_DEDICATED_REQUIREMENTS
                    || !(*dedicated).pNext.is_null())
            {
                return ask();
            }
            let Some(known) = self.objects.read().get(&token).cloned() else {
                return ask();
            };
            let dedicated = dedicated.as_mut();
            match (known.memory.get(), known.dedicated.get(), dedicated) {
                (Some(needs), _, None) => (*to).memoryRequirements = *needs,
                (Some(needs), Some((prefers, requires)), Some(dedicated)) => {
                    (*to).memoryRequirements = *needs;
                    dedicated.prefersDedicatedAllocation = *prefers;
                    dedicated.requiresDedicatedAllocation = *requires;
                }
                (_, _, dedicated) => {
                    ask();
                    known.memory.get_or_init(|| (*to).memoryRequirements);
                    if let Some(d) = dedicated {
                        known.dedicated.get_or_init(|| {
                            (d.prefersDedicatedAllocation, d.requiresDedicatedAllocation)
                        });
                    }
                }
            }
        }
    }
}
