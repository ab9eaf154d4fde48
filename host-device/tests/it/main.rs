//! The `asgard` command from outside: a server, guests that talk to it, and guests that lie to it.
//!
//! Almost all of it uses the renderer that needs no Vulkan driver.

mod connections;
mod lies;
mod machines;
mod messages;
mod processes;
mod queues;
mod rings;
mod run;
mod support;
