//! `demo [FRAMES]`: the graphics scene natively and through our guest driver and the ring, side by side.
//!
//! It writes the picture to `out/asgard.png` and prints what went through the ring, how fast either was, and whether both computed the same bytes; if they did not, the exit code is not zero.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result};
use asgard_tests::report::{Outcome, Report, digest};
use asgard_tests::via;

const FRAMES: u32 = 120;
const OUT: &str = "out";
/// Far more than either run takes on a slow machine.
const LIMIT: Duration = Duration::from_secs(600);

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
    let scene = via::sibling("scene").context("no scene: `cargo build --release` builds it")?;
    let asgard = via::asgard().context("no asgard: `cargo build --release` builds it")?;
    fs::create_dir_all(OUT).with_context(|| format!("creating {OUT}"))?;
    let picture = Path::new(OUT).join("asgard.png");

    println!("Drawing {frames} frames natively ...");
    let mut command = Command::new(&scene);
    // The scene takes the first device that is left: the renderer takes the same one.
    command.env("VK_LOADER_DRIVERS_DISABLE", "*gfxstream*");
    let native = draw(
        command,
        frames,
        "native",
        &Path::new(OUT).join("native.png"),
    )?;

    println!("Drawing them through the ring ...");
    let mut command = Command::new(asgard);
    command.args(["run", "--"]).arg(&scene);
    let through = draw(command, frames, "asgard", &picture)?;

    print_speeds(&native, &through);
    let same = native.report.to_bytes() == through.report.to_bytes();
    print_result(&through.report, same);
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

/// Runs the scene that `command` starts.
fn draw(mut command: Command, frames: u32, name: &str, picture: &Path) -> Result<Drawn> {
    let result = Path::new(OUT).join(name).with_extension("bin");
    command.args(["graphics", "--frames", &frames.to_string()]);
    command.arg("--png").arg(picture).arg("--out").arg(&result);
    let done = via::run(command, LIMIT)?;
    let done = done.success().with_context(|| format!("the {name} run"))?;
    let bytes = fs::read(&result).with_context(|| format!("reading {}", result.display()))?;
    let number = |line: &str| line.strip_suffix(" frames per second")?.trim().parse().ok();
    let traffic = |line: &str| line.strip_prefix("asgard: ").map(str::to_owned);
    Ok(Drawn {
        report: Report::from_bytes(&bytes)?,
        frames_per_second: done.stdout.lines().filter_map(number).collect(),
        traffic: done.stderr.lines().filter_map(traffic).collect(),
    })
}

fn print_speeds(native: &Drawn, through: &Drawn) {
    println!(
        "\nFrames per second {:>16} {:>10} {:>8}",
        "native", "asgard", ""
    );
    let drawn =
        (native.report.parts.iter()).filter(|part| matches!(part.outcome, Outcome::Bytes(_)));
    let speeds = native
        .frames_per_second
        .iter()
        .zip(&through.frames_per_second);
    for (part, (native, through)) in drawn.zip(speeds) {
        let percent = 100.0 * through / native;
        println!(
            "  {:20} {native:>11.1} {through:>10.1} {percent:>7.0}%",
            part.name
        );
    }
}

fn print_result(report: &Report, same: bool) {
    println!("\nResult");
    for part in &report.parts {
        let text = match &part.outcome {
            Outcome::Bytes(bytes) => format!("{} bytes, {}", bytes.len(), digest(bytes)),
            Outcome::Gated(why) => format!("not drawn: {why}"),
        };
        println!("  {:20} {text}", part.name);
    }
    let verdict = if same { "yes, every byte" } else { "NO" };
    println!("  {:20} {verdict}", "same as native");
}
