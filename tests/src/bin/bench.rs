//! `bench`: times the Vulkan device that the loader shows; `bench --compare` sets native and through-the-renderer side by side.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use asgard_tests::bench::{Bench, Figure, median};
use asgard_tests::gpu::Gpu;
use asgard_tests::via::{self, Stack};

const USAGE: &str = "\
usage: bench [options]

options:
  --compare      run natively and through the renderer, in turns, and compare
  --rounds N     turns of a comparison (default 3)
  --only TEXT    measure only what has TEXT in its name
  --json         print JSON instead of a table
";

/// No run of the bench should take longer.
const LIMIT: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
struct Arguments {
    compare: bool,
    json: bool,
    /// For a child of a comparison: figures as lines.
    lines: bool,
    rounds: usize,
    only: String,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut arguments = Arguments {
        rounds: 3,
        ..Arguments::default()
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || {
            words
                .next()
                .with_context(|| format!("{word} needs a value"))
        };
        match word.as_str() {
            "--compare" => arguments.compare = true,
            "--json" => arguments.json = true,
            "--lines" => arguments.lines = true,
            "--rounds" => arguments.rounds = value()?.parse()?,
            "--only" => arguments.only = value()?,
            "--help" | "-h" => {
                print!("{USAGE}");
                return Ok(());
            }
            _ => bail!("what is {word:?}?\n{USAGE}"),
        }
    }
    ensure!(arguments.rounds > 0, "at least one round");
    let rows = if arguments.compare {
        compare(&arguments)?
    } else {
        single(&arguments)?
    };
    if arguments.json {
        print!("{}", json(&rows));
    } else if !arguments.lines {
        print!("{}", table(&rows));
    }
    Ok(())
}

/// A figure and, in a comparison, the same through the renderer.
struct Row {
    figure: Figure,
    through: Option<f64>,
}

impl Row {
    /// How many times slower the renderer is.
    fn ratio(&self) -> Option<f64> {
        let (native, through) = (self.figure.median, self.through?);
        Some(if self.figure.is_rate() {
            native / through
        } else {
            through / native
        })
    }
}

fn single(arguments: &Arguments) -> Result<Vec<Row>> {
    let gpu = Gpu::new(false)?;
    if !arguments.json && !arguments.lines {
        println!("{}", gpu.name());
    }
    let figures = Bench::run(&gpu, &arguments.only)?;
    if arguments.lines {
        for figure in &figures {
            println!("{}", figure.to_line());
        }
    }
    Ok(figures
        .into_iter()
        .map(|figure| Row {
            figure,
            through: None,
        })
        .collect())
}

/// Native, through, native, through: what else the machine does hits both alike.
fn compare(arguments: &Arguments) -> Result<Vec<Row>> {
    let program = std::env::current_exe()?;
    let mut order: Vec<Figure> = Vec::new();
    let mut samples: BTreeMap<(String, bool), Vec<f64>> = BTreeMap::new();
    for round in 0..arguments.rounds {
        for stack in [Stack::Native, Stack::Asgard] {
            eprintln!("round {} of {}: {stack:?}", round + 1, arguments.rounds);
            let mut command = via::command(stack, &program)?;
            command.args(["--lines", "--only", &arguments.only]);
            let output = via::run(command, LIMIT)?
                .success()
                .with_context(|| format!("{stack:?}"))?;
            for figure in output.stdout.lines().filter_map(Figure::from_line) {
                if order.iter().all(|known| known.name != figure.name) {
                    order.push(figure.clone());
                }
                let key = (figure.name, stack == Stack::Native);
                samples.entry(key).or_default().push(figure.median);
            }
        }
    }
    let middle = |name: &str, native| samples.get(&(name.to_owned(), native)).map(|s| median(s));
    Ok(order
        .into_iter()
        .map(|figure| {
            let native = middle(&figure.name, true).unwrap_or(f64::NAN);
            let through = middle(&figure.name, false).unwrap_or(f64::NAN);
            Row {
                figure: Figure {
                    median: native,
                    ..figure
                },
                through: Some(through),
            }
        })
        .collect())
}

fn table(rows: &[Row]) -> String {
    let mut out = String::new();
    let compared = rows.iter().any(|row| row.through.is_some());
    if compared {
        let _ = writeln!(
            out,
            "{:46} {:>12} {:>12} {:>8}",
            "", "native", "asgard", "ratio"
        );
    }
    for row in rows {
        let figure = &row.figure;
        let _ = write!(out, "{:46} {:>12.3}", figure.name, figure.median);
        if let (Some(through), Some(ratio)) = (row.through, row.ratio()) {
            let _ = write!(out, " {through:>12.3} {ratio:>7.2}x");
        }
        let _ = writeln!(out, " {}", figure.unit);
    }
    out
}

fn json(rows: &[Row]) -> String {
    let number = |x: f64| {
        if x.is_finite() {
            format!("{x}")
        } else {
            "null".to_owned()
        }
    };
    let lines: Vec<_> = rows
        .iter()
        .map(|row| {
            let figure = &row.figure;
            // Names and units are ours: nothing in them needs an escape.
            let mut line = format!(
                "  {{\"name\": \"{}\", \"unit\": \"{}\", \"native\": {}",
                figure.name,
                figure.unit,
                number(figure.median)
            );
            if let (Some(through), Some(ratio)) = (row.through, row.ratio()) {
                let _ = write!(
                    line,
                    ", \"asgard\": {}, \"ratio\": {}",
                    number(through),
                    number(ratio)
                );
            }
            line + "}"
        })
        .collect();
    format!("[\n{}\n]\n", lines.join(",\n"))
}
