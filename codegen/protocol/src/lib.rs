//! What both ends agree on about bytes: FFI types, and encode and decode of every Vulkan command and
//! struct in gfxstream's wire format.
//!
//! Called by the guest's encoder and the host's decoder; it does no I/O and has no threads.
//! Almost all of it is generated from vk.xml, gfxstream.xml and asgard.xml: `cargo run -p asgard-codegen -- show
//! vkCmdDraw` prints any piece, `WIRE.md` beside this crate describes the bytes.
//!
//! A request decodes from a private copy of the guest's bytes into an arena, as the C structs that a
//! driver takes; nothing is allocated beyond what the packet can hold, and nothing is believed.
//! Start reading at [`wire`].

// Raw pointers are what C structs are made of: this crate places them in an arena or reads the ones an
// application passed. `wire.rs` holds the rules, the generated code only calls it.

pub mod derived;
pub mod extension;
pub mod formats;
pub mod packet;
pub mod wire;

pub use wire::{Arena, Command, DecodeError, Exact, Handles, Reader, Wire, Writer, zeroed};

/// Vulkan's C types, spelled as in the specification.
#[allow(
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    missing_debug_implementations,
    clippy::missing_safety_doc,
    reason = "C names and C structs, from the registry"
)]
pub mod types {
    use std::ffi::{c_char, c_void};

    /// Declares a handle type: 64 bits, whatever they mean to whoever made them.
    macro_rules! handle {
        ($name:ident) => {
            #[doc = concat!("`", stringify!($name), "`.")]
            #[repr(transparent)]
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
            pub struct $name(pub u64);
        };
    }
    macro_rules! zeroable {
        ($name:ident) => {
            // SAFETY: a C struct of scalars, pointers and options of function pointers: all zeros is a value.
            unsafe impl crate::wire::Zeroed for $name {}
        };
    }
    include!(concat!(env!("OUT_DIR"), "/types.rs"));
}

#[allow(
    non_snake_case,
    unused_unsafe,
    clippy::undocumented_unsafe_blocks,
    clippy::missing_safety_doc,
    clippy::unnecessary_cast,
    clippy::identity_op,
    clippy::match_same_arms,
    clippy::manual_div_ceil,
    clippy::manual_range_patterns,
    clippy::collapsible_match,
    reason = "generated; each trait says what its callers must uphold"
)]
mod structs {
    use std::ffi::c_char;

    use crate::types::*;
    use crate::wire::{DecodeError, Reader, Wire, Writer};
    include!(concat!(env!("OUT_DIR"), "/structs.rs"));
}

/// Which structs may stand in a `pNext` chain.
#[allow(
    unused_unsafe,
    clippy::undocumented_unsafe_blocks,
    reason = "generated; its callers are generated too"
)]
pub mod chain {
    use std::ffi::c_void;

    use crate::types::*;
    use crate::wire::{Base, DecodeError, Reader, Writer};
    include!(concat!(env!("OUT_DIR"), "/chain.rs"));
}

/// Every command's parameters, as a struct that can be encoded and decoded both ways.
#[allow(
    non_camel_case_types,
    non_snake_case,
    missing_docs,
    unused_unsafe,
    unused_variables,
    clippy::undocumented_unsafe_blocks,
    clippy::unnecessary_cast,
    clippy::manual_div_ceil,
    clippy::redundant_pub_crate,
    reason = "generated, with C names"
)]
pub mod commands {
    use std::ffi::{c_char, c_void};

    use crate::types::*;
    use crate::wire::{Command, DecodeError, Reader, Writer, count_at, zeroed};

    macro_rules! zeroable {
        ($name:ident) => {
            // SAFETY: C parameters: all zeros is a value of each.
            unsafe impl crate::wire::Zeroed for $name {}
        };
    }
    include!(concat!(env!("OUT_DIR"), "/commands.rs"));
}

/// The host driver's functions.
#[allow(
    non_camel_case_types,
    non_snake_case,
    missing_debug_implementations,
    clippy::missing_transmute_annotations,
    reason = "generated, with C names"
)]
pub mod driver {
    use std::ffi::{CStr, c_char, c_void};
    use std::mem::transmute;

    use crate::types::*;
    include!(concat!(env!("OUT_DIR"), "/driver.rs"));
}
