//! Writing Rust, one file per product.
//!
//! Emitters ask the model and never derive anything from a name.
//! What they write is generated into a build's `OUT_DIR`; `cargo run -p asgard-codegen -- show NAME`
//! prints it.

mod codec;
mod decoder;
mod driver;
mod encoder;
mod formats;
mod layouts;
mod manifest;
mod types;

use std::fmt::Write as _;

use anyhow::{Context as _, Result};

pub use manifest::{REMARK, contents, manifest};

use crate::{Model, Product};

/// The files of a product: name and text.
pub fn product(model: &Model, product: Product) -> Vec<(String, String)> {
    match product {
        Product::Protocol => vec![
            ("types.rs".to_owned(), types::types(model)),
            ("structs.rs".to_owned(), codec::structs(model)),
            ("chain.rs".to_owned(), codec::chain(model)),
            ("commands.rs".to_owned(), codec::commands(model)),
            ("driver.rs".to_owned(), driver::tables(model)),
            ("layouts.rs".to_owned(), layouts::layouts(model)),
            ("formats.rs".to_owned(), formats::formats(model)),
        ],
        Product::Decoder => vec![("dispatch.rs".to_owned(), decoder::dispatch(model))],
        Product::Encoder => vec![("entrypoints.rs".to_owned(), encoder::entrypoints(model))],
    }
}

/// What is generated for a command or struct, under its line of the manifest.
///
/// # Errors
/// There is none of that name.
pub fn show(model: &Model, name: &str) -> Result<String> {
    let manifest = manifest(model);
    let line = manifest
        .lines()
        .find(|line| line.split([' ', ';']).next() == Some(name))
        .with_context(|| {
            format!("{name} is no command and no struct of the registry; `list {name}` searches")
        })?;
    let mut text = format!("// {line}\n");
    if let Some(command) = model.commands.iter().find(|c| c.name == name) {
        if command.foreign.is_none() {
            text += &codec::command(model, command);
            text += &decoder::default(model, command);
        }
    } else if let Some(structure) = model.get(name).filter(|s| s.foreign.is_none()) {
        text += &codec::structure(model, structure);
    }
    Ok(text)
}

/// Text with indentation.
#[derive(Debug, Default)]
pub(crate) struct Out {
    text: String,
    depth: usize,
}

impl Out {
    /// One line; a line that opens a brace indents what follows, one that closes it ends that.
    pub(crate) fn line(&mut self, line: impl AsRef<str>) {
        let line = line.as_ref();
        if line.starts_with(['}', ')', ']']) {
            self.depth = self.depth.saturating_sub(1);
        }
        let _ = writeln!(self.text, "{:indent$}{line}", "", indent = self.depth * 4);
        if line.ends_with(['{', '(', '[']) {
            self.depth += 1;
        }
    }

    pub(crate) fn finish(self) -> String {
        self.text
    }
}

/// A C identifier as a Rust one.
pub(crate) fn ident(name: &str) -> String {
    match name {
        "type" | "ref" | "box" | "match" | "in" => format!("r#{name}"),
        _ => name.to_owned(),
    }
}
