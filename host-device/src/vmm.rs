//! The ways of attaching a guest, one file each.

pub mod kumquat;
