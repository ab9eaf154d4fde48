//! `demo [FRAMES]`: the graphics scene natively and through Mesa's unmodified gfxstream driver, side by side.
//!
//! It writes the picture to `out/asgard.png` and prints what went through the ring, how fast either was, and whether both computed the same bytes; if they did not, the exit code is not zero.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use asgard_tests::report::{Outcome, Report, digest};

const FRAMES: u32 = 120;
const OUT: &str = "out";

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool> {
    let frames = match std::env::args().nth(1) {
        Some(word) => word
            .parse()
            .with_context(|| format!("{word:?} is no number of frames"))?,
        None => FRAMES,
    };
    fs::create_dir_all(OUT).with_context(|| format!("creating {OUT}"))?;
    let picture = Path::new(OUT).join("asgard.png");

    println!("Drawing {frames} frames natively ...");
    let mut native = Command::new(beside("scene")?);
    // The scene takes the first device: the one that the renderer takes too.
    native.env("VK_LOADER_DRIVERS_DISABLE", "*gfxstream*");
    let native = draw(native, frames, "native", &Path::new(OUT).join("native.png"))?;

    println!("Drawing them through the ring ...");
    let mut through = Command::new(beside("asgard")?);
    through.args(["run", "--"]).arg(beside("scene")?);
    let through = draw(through, frames, "asgard", &picture)?;

    let same = native.report.to_bytes() == through.report.to_bytes();
    print_speeds(&native, &through);
    for part in &through.report.parts {
        match &part.outcome {
            Outcome::Bytes(bytes) => println!(
                "  {:20} {} bytes, {}",
                part.name,
                bytes.len(),
                digest(bytes)
            ),
            Outcome::Gated(why) => println!("  {:20} not drawn: {why}", part.name),
        }
    }
    println!(
        "  {:20} {}",
        "identical to native",
        if same { "yes, every byte" } else { "NO" }
    );
    println!("\nThrough the ring");
    for line in &through.traffic {
        println!("  {line}");
    }
    println!("\nThe picture is {}", picture.display());
    Ok(same)
}

/// What one run of the scene left behind.
struct Drawn {
    report: Report,
    /// Of each part that was drawn, in order.
    frames_per_second: Vec<f64>,
    /// What `asgard run` said at its end.
    traffic: Vec<String>,
}

/// Runs the scene at the end of `command`.
fn draw(mut command: Command, frames: u32, name: &str, picture: &Path) -> Result<Drawn> {
    let result = Path::new(OUT).join(name).with_extension("bin");
    command
        .arg("graphics")
        .args(["--frames", &frames.to_string()]);
    command.arg("--png").arg(picture).arg("--out").arg(&result);
    let output = command
        .output()
        .with_context(|| format!("running {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{command:?} failed ({}):\n{said}", output.status);
    }
    let report = Report::from_bytes(
        &fs::read(&result).with_context(|| format!("reading {}", result.display()))?,
    )?;
    let number = |line: &str| line.strip_suffix(" frames per second")?.trim().parse().ok();
    Ok(Drawn {
        report,
        frames_per_second: said.lines().filter_map(number).collect(),
        traffic: said
            .lines()
            .filter_map(|line| line.strip_prefix("asgard: "))
            .map(str::to_owned)
            .collect(),
    })
}

fn print_speeds(native: &Drawn, through: &Drawn) {
    println!(
        "\n{:22} {:>10} {:>10} {:>8}",
        "Frames per second", "native", "asgard", "ratio"
    );
    let drawn = native
        .report
        .parts
        .iter()
        .filter(|part| matches!(part.outcome, Outcome::Bytes(_)));
    let speeds = native
        .frames_per_second
        .iter()
        .zip(&through.frames_per_second);
    for (part, (native, through)) in drawn.zip(speeds) {
        println!(
            "  {:20} {native:>10.1} {through:>10.1} {:>7.0}%",
            part.name,
            100.0 * through / native
        );
    }
    println!("\nResult");
}

/// A program of this workspace, built beside this one.
fn beside(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    ensure!(
        path.is_file(),
        "{} is not built: `cargo build --release` builds it",
        path.display()
    );
    Ok(path)
}
