//! Asgard's own part of the wire: which features a stream uses, and ids that its guest chooses.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use asgard_protocol::Command;
use asgard_protocol::extension::{
    CHOOSE_IDS, FOLLOW_QUEUE, FOLLOWED, Features, STATUS_PAGE, UNANSWERED, USE_FEATURES, words,
};
use asgard_protocol::types::{Kind, VK_SUCCESS, VkResult};

use crate::Error;
use crate::status_page::{Slot, StatusPage};
use crate::stream::Engine;

/// The most ids of one packet.
const MOST: usize = 1 << 16;

/// The ids that a guest chose for what one packet creates.
#[derive(Debug, Default)]
pub(crate) struct Chosen {
    ids: Vec<u64>,
    used: usize,
}

impl Chosen {
    /// The packet creates objects whose ids were chosen.
    #[inline]
    fn are_there(&self) -> bool {
        !self.ids.is_empty()
    }
}

/// Why there are fewer objects than ids.
#[cold]
fn unused<C: Command>(reply: &[u8]) -> Error {
    // What a command returns comes last.
    match reply.last_chunk::<4>().map(|r| VkResult::from_le_bytes(*r)) {
        Some(result) if result < 0 => Error::Unawaited {
            command: C::NAME,
            result,
        },
        _ => Error::Nonsense("ids chosen for more objects than were created"),
    }
}

impl Engine {
    /// A token for a driver's handle: the one that the guest chose, or a new one.
    pub(crate) fn name(&mut self, kind: Kind, parent: u64, handle: u64) -> Result<u64, Error> {
        let objects = &self.context.objects;
        if !self.chosen.are_there() {
            return objects.insert(kind, parent, handle);
        }
        let id = *self
            .chosen
            .ids
            .get(self.chosen.used)
            .ok_or(Error::Nonsense(
                "ids chosen for fewer objects than were created",
            ))?;
        objects.claim(id, kind, parent, handle)?;
        self.chosen.used += 1;
        Ok(id)
    }

    /// The guest does not wait for the packet's answer.
    #[inline]
    pub(crate) fn is_unawaited(&self) -> bool {
        self.chosen.are_there() || self.unanswered
    }

    /// Such a packet has run, and would have been answered with `reply`.
    pub(crate) fn unawaited<C: Command>(&mut self, reply: &[u8]) -> Result<(), Error> {
        let Chosen { ids, used } = &mut self.chosen;
        let missing = *used < ids.len();
        ids.clear();
        *used = 0;
        let unanswered = std::mem::take(&mut self.unanswered);
        if self.lost {
            return Ok(());
        }
        if missing {
            return Err(unused::<C>(reply));
        }
        if unanswered {
            let result = reply.try_into().map_err(|_| {
                Error::Nonsense("an answer that is more than a result is not waited for")
            })?;
            match VkResult::from_le_bytes(result) {
                VK_SUCCESS => {}
                result => {
                    return Err(Error::Unawaited {
                        command: C::NAME,
                        result,
                    });
                }
            }
        }
        Ok(())
    }

    /// The stream uses a feature. One that takes a dead host's place has not heard of it.
    fn uses(&self, feature: Features) -> Result<(), Error> {
        if self.lost || self.features.has(feature) {
            Ok(())
        } else {
            Err(Error::Feature(feature))
        }
    }

    /// Runs a packet of Asgard's own.
    pub(crate) fn extend(&mut self, opcode: u32, body: &[u8]) -> Result<(), Error> {
        let mut words = words(body).ok_or(Error::Nonsense(
            "a packet of Asgard's own that does not consist of words",
        ))?;
        if self.chosen.are_there() {
            return Err(Error::Nonsense("ids chosen for no creation"));
        }
        if self.unanswered {
            return Err(Error::Nonsense(
                "no command follows that could go unanswered",
            ));
        }
        match opcode {
            USE_FEATURES => {
                let (Some(bits), None) = (words.next(), words.next()) else {
                    return Err(Error::Nonsense("features that are not one word"));
                };
                let features = Features::known(bits);
                if features.bits() != bits || !self.context.limits.features.has(features) {
                    return Err(Error::Nonsense(
                        "the guest wants features of the wire that were not offered",
                    ));
                }
                self.features = features;
                let all = &self.context.counters.features;
                all.fetch_or(bits, Ordering::Relaxed);
            }
            CHOOSE_IDS => {
                self.uses(Features::CHOSEN_IDS)?;
                if words.len() == 0 || words.len() > MOST {
                    return Err(Error::Nonsense("no chosen ids, or too many at once"));
                }
                self.chosen.ids.extend(words);
            }
            UNANSWERED => {
                self.uses(Features::UNANSWERED)?;
                if words.len() != 0 {
                    return Err(Error::Nonsense(
                        "an unanswered packet is announced with words",
                    ));
                }
                self.unanswered = true;
            }
            STATUS_PAGE => {
                self.uses(Features::STATUS_PAGE)?;
                let (Some(blob_id), None) = (words.next(), words.next()) else {
                    return Err(Error::Nonsense("a status page without its blob id"));
                };
                self.make_status_page(blob_id)?;
            }
            FOLLOW_QUEUE => {
                self.uses(Features::STATUS_PAGE)?;
                let (Some(queue), Some(slot), Some(until), None) =
                    (words.next(), words.next(), words.next(), words.next())
                else {
                    return Err(Error::Nonsense("a queue to follow that is not three words"));
                };
                self.follow(queue, slot, until)?;
            }
            _ => return Err(Error::UnknownOpcode(opcode)),
        }
        Ok(())
    }

    fn make_status_page(&mut self, blob_id: u64) -> Result<(), Error> {
        if self.lost {
            return Ok(());
        }
        let page = StatusPage::new().map_err(|_| Error::Limit {
            what: "memory for a status page",
            limit: 0,
        })?;
        let page = Arc::new(page);
        if self.context.status_page.set(Arc::clone(&page)).is_err() {
            return Err(Error::Nonsense("a second status page"));
        }
        self.context.publish(Some(blob_id), page.memory())?;
        Ok(())
    }

    fn follow(&mut self, queue_token: u64, slot: u64, until: u64) -> Result<(), Error> {
        if self.lost {
            return Ok(());
        }
        let context = Arc::clone(&self.context);
        let Some(page) = context.status_page.get() else {
            return Err(Error::Nonsense("a queue to follow without a status page"));
        };
        let slot =
            Slot::new(slot).ok_or(Error::Nonsense("a slot that the status page does not have"))?;
        // The packet has no number: what another thread has sent since may be done by now, and its device gone.
        let queue = context.queues.read().get(&queue_token).cloned();
        let device = (context.objects.parent(queue_token))
            .and_then(|device| context.devices.read().get(&device).cloned());
        let (Some(queue), Some(device)) = (queue, device) else {
            return Ok(());
        };
        let submitted = queue.submitted.load(Ordering::Acquire);
        if until > submitted.saturating_add(FOLLOWED) {
            return Err(Error::Nonsense("a queue to follow far ahead"));
        }
        (context.signals).follow(&context, &device, queue_token, &queue, (page, slot), until)
    }
}
