//! The driver stays where it was loaded.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Loaders unload a driver with its last instance; its threads and the connection live on.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
