//! Programs that prove a Vulkan stack right by comparing it with the native driver, byte for byte.
//!
//! The `scene` program runs one named workload on whatever device the Vulkan loader shows and writes what it computed;
//! `bench` times the calls that a remote renderer makes slow; the integration tests run both natively and through `asgard run` and compare.
//!
//! None of that may depend on how the renderer works inside: a workload is an ordinary Vulkan program, and the library around it only starts processes.
//!
//! The rest is for bad input: [`guest`] speaks to a server without a driver in between, right or wrong, and [`fuzz`] feeds each layer arbitrary bytes.
//!
//! Start reading at [`scenes`], then [`compare`].
#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "every block is a Vulkan call through ash on objects the same function made; the validation layer is the check, see `scene --validate`"
)]

pub mod bench;
pub mod compare;
pub mod deqp;
pub mod draw;
pub mod fuzz;
pub mod gpu;
pub mod guest;
pub mod picture;
pub mod report;
pub mod require;
pub mod scenes;
pub mod screen;
pub mod shader;
pub mod via;
pub mod vm;
