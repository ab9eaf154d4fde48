//! The registries that Asgard is generated from.
//!
//! Khronos' registries come parsed or as text from pinned data crates; nothing of theirs is kept in
//! this repository.
//! What Khronos does not know lies beside this file: `gfxstream.xml` (the GOOGLE commands and
//! structs) and `asgard.xml` (the ASGARD commands), both in the schema of vk.xml, and `opcodes.tsv` (the
//! frozen opcode numbers).
//! The only caller is the generator, `asgard-codegen`; nothing here reaches a running guest or host.
#![forbid(unsafe_code)]

pub use vulkan_registry as registry;
use vulkan_registry::Registry;

/// vk.xml 1.4.342, parsed.
pub fn vulkan() -> Registry {
    Registry::vk()
}

/// video.xml of the same release, parsed: the `StdVideo*` structs.
pub fn vulkan_video() -> Registry {
    Registry::video()
}

/// gfxstream's own commands and structs, parsed from `gfxstream.xml`.
pub fn gfxstream() -> Registry {
    Registry::parse(include_str!("gfxstream.xml"))
}

/// Asgard's own commands, parsed from `asgard.xml`.
pub fn asgard() -> Registry {
    Registry::parse(include_str!("asgard.xml"))
}

/// gl.xml as text.
pub fn gl() -> &'static [u8] {
    khronos_api::GL_XML
}

/// egl.xml as text.
pub fn egl() -> &'static [u8] {
    khronos_api::EGL_XML
}

/// The frozen opcodes: command name and number, in the order of the table.
pub fn frozen_opcodes() -> impl Iterator<Item = (&'static str, u32)> {
    include_str!("opcodes.tsv")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let (name, number) = line.split_once('\t')?;
            Some((name, number.parse().ok()?))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_registry_parses_and_is_the_pinned_one() {
        assert!(vulkan().contents.len() > 100);
        assert!(!vulkan_video().contents.is_empty());
        assert!(!gfxstream().contents.is_empty());
        assert!(!asgard().contents.is_empty());
        assert!(gl().len() > 1_000_000 && egl().len() > 10_000);
    }

    #[test]
    fn the_opcode_table_is_complete_and_has_no_number_twice() {
        let numbers: std::collections::BTreeSet<u32> = frozen_opcodes().map(|(_, n)| n).collect();
        assert_eq!(frozen_opcodes().count(), 335);
        assert_eq!(numbers.len(), 335);
        assert!(numbers.iter().all(|n| (20000..=20342).contains(n)));
    }
}
