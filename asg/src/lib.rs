//! Placeholder.

pub mod kumquat;
pub mod submit;
