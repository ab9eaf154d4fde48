//! What Asgard adds to gfxstream's wire: features that two peers agree on, and packets of their own.
//!
//! A host offers features behind the part of its capability set that every guest reads; a guest says
//! with [`USE_FEATURES`] which of them a stream uses. Nothing here is sent to a peer that did not offer it,
//! or taken from one that did not say so. WIRE.md, section 9.

use std::fmt;
use std::str::FromStr;

use crate::packet::Header;
use crate::types::Kind;

/// Which of Asgard's own features are offered, or used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(u64);

impl Features {
    /// None of them: upstream's wire.
    pub const NONE: Self = Self(0);
    /// Guests choose the ids of what they create, and do not wait for the answer.
    pub const CHOSEN_IDS: Self = Self(1);
    /// A host holds what a command buffer has recorded until it is begun again, reset or freed, so that
    /// guests need not send an equal recording.
    pub const KEPT_RECORDINGS: Self = Self(2);
    /// A host takes several packets in one record of the ring, so that guests may collect what is not
    /// answered.
    pub const BATCHES: Self = Self(4);
    /// Guests send what is written to inline uniform blocks at once, so that a host may show these.
    pub const INLINE_UNIFORMS: Self = Self(8);
    /// Guests send the bytes of host image copies with packets that say how many there are.
    pub const HOST_IMAGE_COPY: Self = Self(16);
    /// Guests say of a packet that they do not wait for its answer.
    pub const UNANSWERED: Self = Self(32);
    /// Guests read in shared memory how far their queues have come.
    pub const STATUS_PAGE: Self = Self(64);
    /// All that this code knows.
    pub const ALL: Self = Self(127);

    const NAMES: [(&'static str, Self); 7] = [
        ("chosen-ids", Self::CHOSEN_IDS),
        ("kept-recordings", Self::KEPT_RECORDINGS),
        ("batches", Self::BATCHES),
        ("inline-uniforms", Self::INLINE_UNIFORMS),
        ("host-image-copy", Self::HOST_IMAGE_COPY),
        ("unanswered", Self::UNANSWERED),
        ("status-page", Self::STATUS_PAGE),
    ];

    /// Each alone, and its name.
    pub fn each() -> impl Iterator<Item = (&'static str, Self)> {
        Self::NAMES.iter().copied()
    }

    /// The features of these bits that this code knows.
    #[must_use]
    pub const fn known(bits: u64) -> Self {
        Self(bits & Self::ALL.0)
    }

    /// As they stand in the capability set and in [`USE_FEATURES`].
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// All of `other` are among these.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Those that both have.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::NONE {
            return f.write_str("none");
        }
        let names = Self::NAMES.iter().filter(|(_, feature)| self.has(*feature));
        for (i, (name, _)) in names.enumerate() {
            f.write_str(if i == 0 { "" } else { "," })?;
            f.write_str(name)?;
        }
        Ok(())
    }
}

impl FromStr for Features {
    type Err = String;

    /// `none`, `all`, or names with commas between them, as [`fmt::Display`] writes them.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => return Ok(Self::NONE),
            "all" => return Ok(Self::ALL),
            _ => {}
        }
        let mut all = Self::NONE;
        for word in text.split(',') {
            let Some((_, feature)) = Self::NAMES.iter().find(|(name, _)| *name == word) else {
                let names: Vec<&str> = Self::NAMES.iter().map(|(name, _)| *name).collect();
                return Err(format!(
                    "{word:?} is no feature of the wire; there are all, none, and {}",
                    names.join(", ")
                ));
            };
            all.0 |= feature.0;
        }
        Ok(all)
    }
}

/// Opcode: which features this stream uses. A u64 of feature bits.
pub const USE_FEATURES: u32 = 0x4153_0001;

/// Opcode: the ids of what the next packet creates, each a u64. That packet is not answered.
pub const CHOOSE_IDS: u32 = 0x4153_0002;

/// Opcode: the next packet is not answered; its result must be `VK_SUCCESS`.
pub const UNANSWERED: u32 = 0x4153_0003;

/// Opcode: the host makes the status page, and publishes it under a blob id, a u64.
pub const STATUS_PAGE: u32 = 0x4153_0004;

/// Opcode: the host shows on the status page how far a queue has come: the queue, the slot, and the
/// number of the last submission that it follows, each a u64.
pub const FOLLOW_QUEUE: u32 = 0x4153_0005;

/// Slots of the status page, each a u64.
pub const SLOTS: u64 = 512;

/// How far ahead of what was submitted a queue is followed at most.
pub const FOLLOWED: u64 = 1 << 16;

/// Whether an opcode is one of Asgard's own, which have no sequence number.
#[inline]
#[must_use]
pub const fn is_ours(opcode: u32) -> bool {
    opcode >> 16 == 0x4153
}

/// The bit of a token's low word that says that a guest chose it.
const CHOSEN: u32 = 1 << 31;

/// How many ids a guest may choose from: their numbers are below this.
pub const IDS: u32 = 1 << 22;

/// The largest generation of an id.
pub const GENERATIONS: u32 = 0xff_ffff;

/// How far a guest may run ahead of the numbers that it has used: a host keeps its table in pieces.
pub const AHEAD: u32 = 1 << 16;

/// A token that a guest chooses: the kind, a generation that the number did not have before, the number.
#[must_use]
pub const fn chosen(kind: Kind, generation: u32, number: u32) -> u64 {
    (kind as u64) << 56 | (generation as u64) << 32 | (CHOSEN | number) as u64
}

/// The number of a token that a guest chose; none for a token of the host's.
#[inline]
#[must_use]
pub const fn chosen_number(token: u64) -> Option<u32> {
    let low = token as u32;
    if low & CHOSEN == 0 {
        None
    } else {
        Some(low & !CHOSEN)
    }
}

/// Appends a packet of Asgard's own.
pub fn write(opcode: u32, words: &[u64], out: &mut Vec<u8>) {
    let size = crate::packet::HEADER + size_of_val(words);
    out.extend_from_slice(&opcode.to_le_bytes());
    // As many ids as fit into memory are far from 2^29.
    out.extend_from_slice(&(size as u32).to_le_bytes());
    for word in words {
        out.extend_from_slice(&word.to_le_bytes());
    }
}

/// The words of a packet's body; none when it is no whole number of them.
pub fn words(body: &[u8]) -> Option<impl ExactSizeIterator<Item = u64>> {
    let (words, rest) = body.as_chunks::<8>();
    rest.is_empty()
        .then(|| words.iter().map(|word| u64::from_le_bytes(*word)))
}

/// A packet of Asgard's own at the start of `bytes`: its opcode and its words.
#[must_use]
pub fn read(bytes: &[u8]) -> Option<(u32, Vec<u64>)> {
    let header = Header::read(bytes).filter(|h| is_ours(h.opcode))?;
    let body = bytes.get(crate::packet::HEADER..header.size as usize)?;
    Some((header.opcode, words(body)?.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_read_as_they_are_written() {
        for bits in 0..=Features::ALL.bits() {
            let features = Features::known(bits);
            assert_eq!(features.to_string().parse(), Ok(features));
        }
        assert_eq!("all".parse(), Ok(Features::ALL));
        assert!("chosen-ids,nonsense".parse::<Features>().is_err());
        assert!("".parse::<Features>().is_err());
        assert_eq!(Features::known(u64::MAX), Features::ALL);
    }

    #[test]
    fn every_feature_has_a_name() {
        let named = Features::NAMES.iter().fold(0, |all, (_, f)| all | f.0);
        assert_eq!(Features(named), Features::ALL);
    }

    #[test]
    fn our_opcodes_are_nobody_elses() {
        let ours = [
            USE_FEATURES,
            CHOOSE_IDS,
            UNANSWERED,
            STATUS_PAGE,
            FOLLOW_QUEUE,
        ];
        for opcode in ours {
            assert!(is_ours(opcode));
            assert_eq!(crate::commands::name(opcode), None);
        }
        // Frozen numbers, and numbers made of names.
        for opcode in [20_000, 29_999, 200_000_000, 299_999_999] {
            assert!(!is_ours(opcode));
        }
        assert!(ours.iter().all(|o| *o > 299_999_999));
    }

    #[test]
    fn packets_are_read_as_they_are_written() {
        let mut bytes = Vec::new();
        write(CHOOSE_IDS, &[1, u64::MAX], &mut bytes);
        assert_eq!(bytes.len(), 24);
        assert_eq!(read(&bytes), Some((CHOOSE_IDS, vec![1, u64::MAX])));
        for len in 0..bytes.len() {
            assert_eq!(read(&bytes[..len]), None);
        }
        assert!(words(&[0; 12]).is_none());
    }

    #[test]
    fn chosen_tokens_say_what_they_are() {
        let token = chosen(Kind::Buffer, GENERATIONS, IDS - 1);
        assert_eq!(token >> 56, Kind::Buffer as u64);
        assert_eq!(chosen_number(token), Some(IDS - 1));
        assert_eq!(
            chosen_number((Kind::Buffer as u64) << 56 | 1 << 32 | 7),
            None
        );
    }
}
