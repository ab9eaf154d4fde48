//! Writing Rust, one file per product.
//!
//! Emitters ask the model and never derive anything from a name.
//! What they write is generated into a build's `OUT_DIR`; `cargo run -p asgard-codegen -- show NAME`
//! prints it.

mod codec;
mod decoder;
mod driver;
mod manifest;
mod types;

use std::fmt::Write as _;

pub use codec::{command as show_command, structure as show_struct};
pub use manifest::manifest;

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
        ],
        Product::Decoder => vec![("dispatch.rs".to_owned(), decoder::dispatch(model))],
    }
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
