//! The generator: registry -> model -> policy -> emit.
//!
//! Build scripts call [`generate`]; people look through the window `cargo run -p asgard-codegen`.
//! [`model`] is the only part that reads registries, [`policy`] the only one that knows wire facts the
//! registries do not state, and [`emit`] the only one that writes Rust.
//! No command name appears in the generator: what is special about one is a line in `policy/`.
//! Start reading at [`load`].
#![forbid(unsafe_code)]

pub mod emit;
pub mod model;
pub mod opcode;
pub mod policy;
pub mod registry;
pub mod wire;

use std::path::Path;

use anyhow::{Context as _, Result};

pub use model::Model;

/// What [`generate`] can write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// FFI types, codecs and commands: crate `asgard-protocol`.
    Protocol,
    /// Traits with default bodies and the dispatch by opcode: crate `asgard-decoder`.
    Decoder,
    /// Traits with default bodies and the entry points of the driver: crate `asgard-encoder`.
    Encoder,
}

/// Reads the pinned registries, resolves them and applies the policy.
///
/// # Errors
/// A registry that does not hang together, or a policy line that no longer matches anything.
pub fn load() -> Result<Model> {
    let mut raw = registry::Raw::default();
    raw.read(&asgard_xml::vulkan());
    raw.read(&asgard_xml::vulkan_video());
    raw.read(&asgard_xml::gfxstream());
    raw.read(&asgard_xml::asgard());
    let policy = policy::Policy::load()?;
    model::resolve(raw, policy)
}

/// Writes one product's files into `dir`, touching only those that changed.
///
/// # Errors
/// As [`load`], and when `dir` cannot be written.
pub fn generate(product: Product, dir: &Path) -> Result<()> {
    let model = load()?;
    for (name, text) in emit::product(&model, product) {
        let path = dir.join(name);
        if std::fs::read_to_string(&path).is_ok_and(|old| old == text) {
            continue;
        }
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
