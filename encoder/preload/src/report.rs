//! Telling the user what is wrong, once, on standard error.

use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Something that is worth telling once per process.
pub(crate) struct Once(AtomicBool);

impl Once {
    /// Not told yet.
    pub(crate) const fn new() -> Self {
        Once(AtomicBool::new(false))
    }

    /// Tells it unless it has been told.
    pub(crate) fn tell(&self, text: impl FnOnce() -> String) {
        if !self.0.swap(true, Ordering::Relaxed) {
            line(&text());
        }
    }
}

/// Writes each request to standard error when `ASGARD_PRELOAD_TRACE` is set.
pub(crate) fn trace(text: impl FnOnce() -> String) {
    static TRACE: OnceLock<bool> = OnceLock::new();
    if *TRACE.get_or_init(|| std::env::var_os("ASGARD_PRELOAD_TRACE").is_some()) {
        line(&text());
    }
}

/// Ends the process, which cannot go on.
pub(crate) fn end(why: &str) -> ! {
    line(why);
    std::process::abort()
}

fn line(text: &str) {
    // A program may have closed its standard error; then nobody wants to know.
    let _ = writeln!(std::io::stderr(), "asgard: {text}");
}
