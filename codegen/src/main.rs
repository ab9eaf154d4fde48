//! The window on the generator: `show`, `list`, `dump`.
//!
//! `cargo run -p asgard-codegen -- show vkCmdDraw`

use std::io;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use asgard_codegen::{Product, emit, generate, load};
use clap::{Parser, Subcommand};

/// Look at what is generated from the Vulkan registry and the policy.
#[derive(Debug, Parser)]
#[command(name = "asgard-codegen", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLES: &str = "Examples:
  asgard-codegen show vkCmdDraw             its parameters, both codecs, and the host's default
  asgard-codegen show VkBufferCreateInfo    a struct's codec
  asgard-codegen list vkQueueSubmit         lines of the manifest that contain a text
  asgard-codegen list ' recorded'           every command that is recorded into a command buffer
  asgard-codegen list 'no encoding'         what cannot travel, and why
  asgard-codegen dump generated             every generated file, to read or to compare";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print what is generated for a command or struct.
    Show {
        /// `vkCmdDraw`, `VkBufferCreateInfo`, ...
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Print the manifest: one line per command and struct.
    List {
        /// Only lines that contain this.
        filter: Option<String>,
    },
    /// Write every generated file into a folder.
    Dump {
        /// The folder; made if missing.
        folder: PathBuf,
    },
}

fn main() -> Result<()> {
    let mut out = std::io::stdout().lock();
    match run(Cli::parse().verb, &mut out) {
        // Whoever read the output has seen enough.
        Err(error)
            if error
                .downcast_ref::<io::Error>()
                .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) =>
        {
            Ok(())
        }
        result => result,
    }
}

fn run(verb: Verb, out: &mut impl io::Write) -> Result<()> {
    match verb {
        Verb::Show { names } => {
            let model = load()?;
            for name in names {
                writeln!(out, "{}", emit::show(&model, &name)?)?;
            }
        }
        Verb::List { filter } => {
            let filter = filter.unwrap_or_default();
            for line in emit::manifest(&load()?)
                .lines()
                .filter(|l| l.contains(&filter))
            {
                writeln!(out, "{line}")?;
            }
        }
        Verb::Dump { folder } => {
            std::fs::create_dir_all(&folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
            generate(Product::Protocol, &folder)?;
            generate(Product::Decoder, &folder)?;
            generate(Product::Encoder, &folder)?;
            writeln!(out, "wrote {}", folder.display())?;
        }
    }
    Ok(())
}
