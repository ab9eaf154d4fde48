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
  --compare      run natively and through the renderer with each guest driver, in turns, and compare
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

/// The stacks of a comparison beside the native one.
const THROUGH: [Stack; 2] = [Stack::Mesa, Stack::Asgard];

/// A figure and, in a comparison, the same through the renderer, for each of [`THROUGH`].
struct Row {
    figure: Figure,
    through: Vec<f64>,
}

impl Row {
    /// How many times slower the renderer is.
    fn ratio(&self, through: f64) -> f64 {
        let native = self.figure.median;
        if self.figure.is_rate() {
            native / through
        } else {
            through / native
        }
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
            through: Vec::new(),
        })
        .collect())
}

/// Native, through, native, through: what else the machine does hits both alike.
fn compare(arguments: &Arguments) -> Result<Vec<Row>> {
    let program = std::env::current_exe()?;
    let mut order: Vec<Figure> = Vec::new();
    let mut samples: BTreeMap<(String, Stack), Vec<f64>> = BTreeMap::new();
    for round in 0..arguments.rounds {
        for stack in std::iter::once(Stack::Native).chain(THROUGH) {
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
                samples
                    .entry((figure.name, stack))
                    .or_default()
                    .push(figure.median);
            }
        }
    }
    let middle = |name: &str, stack| {
        let known = samples.get(&(name.to_owned(), stack));
        known.map_or(f64::NAN, |s| median(s))
    };
    Ok(order
        .into_iter()
        .map(|figure| {
            let native = middle(&figure.name, Stack::Native);
            let through = THROUGH.map(|stack| middle(&figure.name, stack)).to_vec();
            Row {
                figure: Figure {
                    median: native,
                    ..figure
                },
                through,
            }
        })
        .collect())
}

fn table(rows: &[Row]) -> String {
    let mut out = String::new();
    if rows.iter().any(|row| !row.through.is_empty()) {
        let _ = write!(out, "{:46} {:>12}", "", "native");
        for stack in THROUGH {
            let name = format!("via {}", stack.driver().unwrap_or_default());
            let _ = write!(out, " {name:>12} {:>8}", "ratio");
        }
        let _ = writeln!(out);
    }
    for row in rows {
        let figure = &row.figure;
        let _ = write!(out, "{:46} {:>12.3}", figure.name, figure.median);
        for &through in &row.through {
            let _ = write!(out, " {through:>12.3} {:>7.2}x", row.ratio(through));
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
            for (stack, &through) in THROUGH.iter().zip(&row.through) {
                let name = stack.driver().unwrap_or_default();
                let _ = write!(
                    line,
                    ", \"{name}\": {}, \"{name} ratio\": {}",
                    number(through),
                    number(row.ratio(through))
                );
            }
            line + "}"
        })
        .collect();
    format!("[\n{}\n]\n", lines.join(",\n"))
}
