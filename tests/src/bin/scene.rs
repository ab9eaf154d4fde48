//! `scene NAME`: runs one workload on whatever Vulkan device the loader shows.
//!
//! The last line it prints sums up the run; the exit code is not zero if a Vulkan call or a self-check failed.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use asgard_tests::gpu::Gpu;
use asgard_tests::report::{Outcome, Report, digest};
use asgard_tests::scenes::{self, Options, SCENES};

const USAGE: &str = "\
usage: scene NAME [options]
       scene --list

options:
  --out FILE     write the result bytes
  --png FILE     write the picture, for workloads that make one
  --frames N     draw N frames and print frames per second
  --threads N    threads, for workloads that use them
  --seed N       seed of the random workloads
  --parts        print a line for every part
  --validate     run under the Khronos validation layer, and fail on its complaints
";

struct Arguments {
    name: String,
    out: Option<PathBuf>,
    parts: bool,
    validate: bool,
    options: Options,
}

fn arguments() -> Result<Option<Arguments>> {
    let mut words = std::env::args().skip(1);
    let mut name = None;
    let (mut out, mut parts, mut validate) = (None, false, false);
    let mut options = Options::default();
    while let Some(word) = words.next() {
        let mut value = || {
            words
                .next()
                .with_context(|| format!("{word} needs a value"))
        };
        match word.as_str() {
            "--list" => {
                for scene in SCENES {
                    println!("{:16} {}", scene.name, scene.about);
                }
                return Ok(None);
            }
            "--help" | "-h" => {
                print!("{USAGE}");
                return Ok(None);
            }
            "--out" => out = Some(PathBuf::from(value()?)),
            "--png" => options.png = Some(PathBuf::from(value()?)),
            "--frames" => options.frames = value()?.parse()?,
            "--threads" => options.threads = value()?.parse()?,
            "--seed" => options.seed = value()?.parse()?,
            "--parts" => parts = true,
            "--validate" => validate = true,
            _ if word.starts_with('-') || name.is_some() => bail!("what is {word:?}?\n{USAGE}"),
            _ => name = Some(word),
        }
    }
    ensure!(
        options.frames > 0 && options.threads > 0,
        "at least one frame and one thread"
    );
    let name = name.with_context(|| format!("no workload named\n{USAGE}"))?;
    Ok(Some(Arguments {
        name,
        out,
        parts,
        validate,
        options,
    }))
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scene: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let Some(arguments) = arguments()? else {
        return Ok(());
    };
    let scene = scenes::find(&arguments.name).with_context(|| {
        format!(
            "no workload {:?}; `scene --list` shows them",
            arguments.name
        )
    })?;
    let gpu = Gpu::new(arguments.validate)?;
    let mut report = Report::default();
    (scene.run)(&gpu, &arguments.options, &mut report)
        .with_context(|| format!("workload {}", scene.name))?;
    ensure!(
        gpu.complaints() == 0,
        "the validation layer complained {} times",
        gpu.complaints()
    );

    if arguments.parts {
        for part in &report.parts {
            match &part.outcome {
                Outcome::Bytes(bytes) => {
                    println!(
                        "  {:32} {:>10} bytes  {}",
                        part.name,
                        bytes.len(),
                        digest(bytes)
                    );
                }
                Outcome::Gated(why) => println!("  {:32} gated: {why}", part.name),
            }
        }
    }
    if let Some(path) = &arguments.out {
        std::fs::write(path, report.to_bytes())
            .with_context(|| format!("writing {}", path.display()))?;
    }
    let gated: Vec<_> = report.gated().collect();
    println!(
        "scene {} ok: {} parts, gated [{}], {} on {}",
        scene.name,
        report.parts.len() - gated.len(),
        gated.join(", "),
        report.digest(),
        gpu.name()
    );
    Ok(())
}
