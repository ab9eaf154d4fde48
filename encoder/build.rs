//! Generates the traits and the entry points from the registries.

fn main() -> anyhow::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    let out = std::env::var("OUT_DIR")?;
    asgard_codegen::generate(asgard_codegen::Product::Encoder, out.as_ref())
}
