//! Fuzzes one layer for as long as one likes, always the same way for the same seed.
//!
//! `fuzz stream --seconds 60`: inputs of the corpus, changed; `fuzz stream FILE...`: these inputs, once.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use asgard_tests::fuzz::{Campaign, Corpus, TARGETS, seeds};

const USAGE: &str = "\
usage: fuzz stream|ring|device [--seconds N] [--seed N] [--corpus DIR] [--grow] [FILE...]

  --seconds N   how long, 60 if nothing is said
  --seed N      which way, 1 if nothing is said
  --corpus DIR  where inputs are, tests/fuzz/corpus/TARGET if nothing is said
  --grow        afterwards keep in the corpus what got furthest, in few bytes
  FILE          run these inputs, and nothing else

An input that crashes the program is left in a file whose name is printed at the start.";

/// The most bytes of inputs that a corpus keeps.
const BUDGET: usize = 80 << 10;

fn main() -> Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().context(USAGE)?;
    let Some((name, target)) = TARGETS.iter().copied().find(|(n, _)| *n == name) else {
        bail!(USAGE);
    };
    let (mut seconds, mut seed, mut grow) = (60, 1, false);
    let mut corpus = Corpus::of(name);
    let mut files: Vec<PathBuf> = Vec::new();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().context(USAGE);
        match argument.as_str() {
            "--seconds" => seconds = value()?.parse()?,
            "--seed" => seed = value()?.parse()?,
            "--corpus" => corpus = Corpus::at(value()?.into()),
            "--grow" => grow = true,
            option if option.starts_with("--") => bail!(USAGE),
            file => files.push(file.into()),
        }
    }
    for file in &files {
        println!("{}", file.display());
        target(&std::fs::read(file)?);
    }
    if !files.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let current = std::env::temp_dir().join(format!("fuzz-{name}-{}", std::process::id()));
    println!("the current input is in {}", current.display());
    let mut inputs = seeds(name);
    inputs.extend(
        corpus
            .inputs()
            .unwrap_or_default()
            .into_iter()
            .map(|(_, i)| i),
    );
    let started = Instant::now();
    let mut campaign = Campaign::new(target, inputs, seed, Some(current.clone()));
    println!("the corpus reaches {} places", campaign.reached());
    let end = started + Duration::from_secs(seconds);
    while Instant::now() < end {
        campaign.go((end - Instant::now()).min(Duration::from_secs(10)));
        println!(
            "{:4} s: {} inputs, {} places, {} new inputs",
            started.elapsed().as_secs(),
            campaign.runs,
            campaign.reached(),
            campaign.found.len()
        );
    }
    if grow {
        let known = corpus.inputs().unwrap_or_default();
        let mut all = std::mem::take(&mut campaign.found);
        all.extend(known.iter().map(|(_, input)| input.clone()));
        for (path, _) in known {
            std::fs::remove_file(path)?;
        }
        for input in Campaign::distilled(target, all, BUDGET) {
            corpus.add("", &input)?;
        }
    }
    std::fs::remove_file(current)?;
    Ok(ExitCode::SUCCESS)
}
