//! Which commands may run now.
//!
//! Commands of one context, and of one resource, run in the order of their arrival. Some take a while:
//! a renderer process looks for memory, the machine monitor maps it. Whatever depends on them waits,
//! and everything else overtakes, so that one guest process cannot hold up the others.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What a command must have for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A context.
    Context(u32),
    /// A resource.
    Resource(u32),
}

/// Commands that wait, and what they wait for.
#[derive(Debug)]
pub struct Schedule<T> {
    waiting: VecDeque<(Vec<Key>, T)>,
    /// How many commands that have begun still hold the key.
    held: BTreeMap<Key, u32>,
}

impl<T> Default for Schedule<T> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            held: BTreeMap::new(),
        }
    }
}

impl<T> Schedule<T> {
    /// Adds a command behind all others.
    pub fn push(&mut self, keys: Vec<Key>, command: T) {
        self.waiting.push_back((keys, command));
    }

    /// Takes the first command that need not wait for any other.
    pub fn take(&mut self) -> Option<T> {
        let mut taken: BTreeSet<Key> = self.held.keys().copied().collect();
        let position = self.waiting.iter().position(|(keys, _)| {
            let free = keys.iter().all(|key| !taken.contains(key));
            if !free {
                taken.extend(keys);
            }
            free
        })?;
        self.waiting.remove(position).map(|(_, command)| command)
    }

    /// A command that has begun needs `key` for longer.
    pub fn hold(&mut self, key: Key) {
        *self.held.entry(key).or_default() += 1;
    }

    /// It is done with it.
    pub fn release(&mut self, key: Key) {
        if let Some(count) = self.held.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.held.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Key::{Context, Resource};
    use super::*;

    #[test]
    fn commands_wait_for_theirs_and_overtake_the_rest() {
        let mut schedule = Schedule::default();
        schedule.hold(Resource(1));
        schedule.push(vec![Resource(1), Context(1)], "map 1");
        schedule.push(vec![Context(1)], "behind it");
        schedule.push(vec![Context(2)], "another process");
        schedule.push(vec![], "nothing special");
        assert_eq!(schedule.take(), Some("another process"));
        assert_eq!(schedule.take(), Some("nothing special"));
        assert_eq!(schedule.take(), None);
        schedule.release(Resource(1));
        assert_eq!(schedule.take(), Some("map 1"));
        schedule.hold(Context(1));
        assert_eq!(schedule.take(), None);
        schedule.release(Context(1));
        assert_eq!(schedule.take(), Some("behind it"));
    }

    #[test]
    fn a_key_is_free_once_all_have_let_go() {
        let mut schedule = Schedule::default();
        schedule.hold(Context(1));
        schedule.hold(Context(1));
        schedule.push(vec![Context(1)], ());
        schedule.release(Context(1));
        assert_eq!(schedule.take(), None);
        schedule.release(Context(1));
        assert_eq!(schedule.take(), Some(()));
        schedule.release(Context(1));
    }
}
