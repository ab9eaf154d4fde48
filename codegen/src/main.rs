//! The window on the generator: `show`, `list`, `dump`.
//!
//! `cargo run -p asgard-codegen -- show vkCmdDraw`

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use asgard_codegen::{Model, Product, emit, generate, load};
use clap::{Parser, Subcommand};

/// Look at what is generated from the Vulkan registry and the policy.
#[derive(Debug, Parser)]
#[command(name = "asgard-codegen", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print what is generated for a command or struct.
    Show {
        /// `vkCmdDraw`, `VkBufferCreateInfo`, ...
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
    match Cli::parse().verb {
        Verb::Show { names } => {
            let model = load()?;
            for name in names {
                println!("{}", show(&model, &name)?);
            }
        }
        Verb::List { filter } => {
            let filter = filter.unwrap_or_default();
            for line in emit::manifest(&load()?)
                .lines()
                .filter(|l| l.contains(&filter))
            {
                println!("{line}");
            }
        }
        Verb::Dump { folder } => {
            std::fs::create_dir_all(&folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
            generate(Product::Protocol, &folder)?;
            generate(Product::Decoder, &folder)?;
            println!("wrote {}", folder.display());
        }
    }
    Ok(())
}

fn show(model: &Model, name: &str) -> Result<String> {
    if let Some(command) = model.commands.iter().find(|c| c.name == name) {
        return Ok(emit::show_command(model, command));
    }
    let structure = model.get(name).with_context(|| {
        format!("{name} is no command and no struct of the registry; `list {name}` searches")
    })?;
    Ok(emit::show_struct(model, structure))
}
