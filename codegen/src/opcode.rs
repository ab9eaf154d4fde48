//! Opcode numbers: the frozen table, or derived from the name.

use std::collections::HashMap;

use sha2::{Digest as _, Sha256};

/// The number of every command in `names`.
///
/// A name outside the frozen table gets `200000000 + sha256(name)[..4] as u32 (big endian) mod 100000000`.
///
/// # Panics
/// Two names with one number: the protocol has no rule for it that both peers could follow.
pub fn assign<'a>(names: impl Iterator<Item = &'a str>) -> HashMap<String, u32> {
    let frozen: HashMap<&str, u32> = asgard_xml::frozen_opcodes().collect();
    let mut by_number: HashMap<u32, String> = HashMap::new();
    let mut by_name = HashMap::new();
    for name in names {
        let number = frozen.get(name).copied().unwrap_or_else(|| derived(name));
        if let Some(other) = by_number.insert(number, name.to_owned()) {
            assert_eq!(other, name, "{other} and {name} both have opcode {number}");
        }
        by_name.insert(name.to_owned(), number);
    }
    by_name
}

fn derived(name: &str) -> u32 {
    let digest = Sha256::digest(name.as_bytes());
    let head = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
    200_000_000 + head % 100_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_numbers_match_what_stock_guests_send() {
        assert_eq!(derived("vkWaitSemaphores"), 224_777_382);
        assert_eq!(derived("vkQueueSubmit2"), 275_454_371);
        assert_eq!(derived("vkCmdBeginRendering"), 294_618_673);
        assert_eq!(
            derived("vkQueueCommitDescriptorSetUpdatesGOOGLE"),
            267_932_433
        );
    }
}
