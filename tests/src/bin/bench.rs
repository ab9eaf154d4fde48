//! `bench`: times the Vulkan device that the loader shows. `--compare` sets native and through the renderer side by side,
//! `--machines` QEMU's Venus and this renderer in virtual machines.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use asgard_tests::bench::{Bench, Figure, median};
use asgard_tests::gpu::Gpu;
use asgard_tests::screen::XServer;
use asgard_tests::via::{self, Finished, Stack};
use asgard_tests::vm::{self, Machine, Options};

const USAGE: &str = "\
usage: bench [options]

options:
  --compare      run natively and through the renderer with each guest driver, in turns, and compare
  --machines     run in virtual machines, with QEMU's Venus and with the renderer and each guest driver, in turns, and
                 compare; system calls are counted too. The program beside this one, guest, and asgard have to be built
  --rounds N     turns of a comparison (default 3)
  --only TEXT    measure only what has TEXT in its name
  --times N      do it N times and measure nothing: for a tracer
  --json         print JSON instead of a table
";

/// No run of the bench should take longer.
const LIMIT: Duration = Duration::from_secs(1200);

#[derive(Debug, Default)]
struct Arguments {
    compare: bool,
    machines: bool,
    json: bool,
    /// For a child of a comparison: figures as lines.
    lines: bool,
    rounds: usize,
    only: String,
    times: Option<u32>,
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
            "--machines" => arguments.machines = true,
            "--json" => arguments.json = true,
            "--lines" => arguments.lines = true,
            "--rounds" => arguments.rounds = value()?.parse()?,
            "--only" => arguments.only = value()?,
            "--times" => arguments.times = Some(value()?.parse()?),
            "--help" | "-h" => {
                print!("{USAGE}");
                return Ok(());
            }
            _ => bail!("what is {word:?}?\n{USAGE}"),
        }
    }
    ensure!(arguments.rounds > 0, "at least one round");
    let table = if arguments.compare {
        compare(&arguments)?
    } else if arguments.machines {
        machines(&arguments)?
    } else {
        single(&arguments)?
    };
    if arguments.json {
        print!("{}", table.to_json());
    } else if !arguments.lines {
        print!("{}", table.to_text());
    }
    Ok(())
}

/// Figures of one or several stacks.
struct Table {
    /// Of what each column is; the first is what the others are compared with.
    columns: Vec<String>,
    rows: Vec<Row>,
}

/// A figure, and its value in each column.
struct Row {
    figure: Figure,
    values: Vec<f64>,
}

impl Row {
    /// How many times slower it is in this column than in the first.
    fn ratio(&self, column: usize) -> f64 {
        let (base, value) = (self.values[0], self.values[column]);
        match (self.figure.is_rate(), base == value) {
            (_, true) => 1.0,
            (true, _) => base / value,
            (false, _) => value / base,
        }
    }
}

fn single(arguments: &Arguments) -> Result<Table> {
    let gpu = Gpu::new(false)?;
    if !arguments.json && !arguments.lines {
        println!("{}", gpu.name());
    }
    let figures = Bench::run(&gpu, &arguments.only, arguments.times)?;
    if arguments.lines {
        for figure in &figures {
            println!("{}", figure.to_line());
        }
    }
    let rows = figures.into_iter().map(|figure| Row {
        values: vec![figure.median],
        figure,
    });
    Ok(Table {
        columns: vec!["median".to_owned()],
        rows: rows.collect(),
    })
}

/// Natively, and through the renderer without a machine.
fn compare(arguments: &Arguments) -> Result<Table> {
    let program = std::env::current_exe()?;
    let stacks = [Stack::Native, Stack::Mesa, Stack::Asgard];
    let columns = stacks.map(|stack| match stack.driver() {
        Some(driver) => format!("via {driver}"),
        None => "native".to_owned(),
    });
    in_turns(&columns, arguments.rounds, |column| {
        let mut command = via::command(stacks[column], &program)?;
        command.args(["--lines", "--only", &arguments.only]);
        figures(via::run(command, LIMIT)?)
    })
}

/// Runs each column once a round, so that what else the machine does hits all alike; medians of the rounds.
fn in_turns(
    columns: &[String],
    rounds: usize,
    mut run: impl FnMut(usize) -> Result<Vec<Figure>>,
) -> Result<Table> {
    let mut order: Vec<Figure> = Vec::new();
    let mut samples: HashMap<(String, usize), Vec<f64>> = HashMap::new();
    for round in 0..rounds {
        for (column, name) in columns.iter().enumerate() {
            eprintln!("round {} of {rounds}: {name}", round + 1);
            for figure in run(column).with_context(|| name.clone())? {
                let key = (figure.name.clone(), column);
                samples.entry(key).or_default().push(figure.median);
                if order.iter().all(|known| known.name != figure.name) {
                    order.push(figure);
                }
            }
        }
    }
    let rows = order.into_iter().map(|figure| {
        let value = |column| {
            let known = samples.get(&(figure.name.clone(), column));
            known.map_or(f64::NAN, |s| median(s))
        };
        Row {
            values: (0..columns.len()).map(value).collect(),
            figure,
        }
    });
    Ok(Table {
        columns: columns.to_vec(),
        rows: rows.collect(),
    })
}

/// What a run of this program with `--lines` printed.
fn figures(run: Finished) -> Result<Vec<Figure>> {
    let output = run.success()?;
    Ok(output
        .stdout
        .lines()
        .filter_map(Figure::from_line)
        .collect())
}

/// Of these, system calls are counted.
const COUNTED: [&str; 4] = [
    "10,000 draws: record, submit, wait",
    "submit of one command buffer, wait",
    "64 submits in flight, each",
    "memory: allocate, map, write 4 KiB, free",
];

/// In two machines that are up all the time: one with QEMU's own GPU, one with ours for both guest drivers.
fn machines(arguments: &Arguments) -> Result<Table> {
    let program = std::env::current_exe()?;
    let agent = program.with_file_name("guest");
    let screen = XServer::start(&[])?;
    let boot = |gpu| {
        let mut options = Options::new(&agent);
        options.gpu = gpu;
        options.folders = program.parent().map(Path::to_owned).into_iter().collect();
        Machine::boot(&options)
    };
    eprintln!("booting");
    let venus = boot(vm::Gpu::Venus(&screen))?;
    let ours = boot(vm::Gpu::Own)?;
    let stacks = [
        ("venus", &venus, Stack::MachineVenus),
        ("via mesa", &ours, Stack::MachineMesa),
        ("via asgard", &ours, Stack::MachineAsgard),
    ];
    let columns = stacks.map(|(name, ..)| name.to_owned());
    let mut first = [true; 3];
    let table = in_turns(&columns, arguments.rounds, |column| {
        let (_, machine, stack) = stacks[column];
        let mut command = machine.command(stack, &program)?;
        command.args(["--lines", "--only", &arguments.only]);
        let mut all = figures(machine.run(&command, LIMIT)?)?;
        if VKMARK.contains(&arguments.only) {
            // It wants a swapchain without a window, which a driver may not have.
            match vkmark(machine, stack) {
                Ok(figure) => all.push(figure),
                Err(error) => eprintln!("{}: no vkmark: {error:#}", columns[column]),
            }
        }
        // Counts are the same in every round.
        if std::mem::take(&mut first[column]) {
            for name in COUNTED.iter().filter(|name| name.contains(&arguments.only)) {
                all.push(ioctls(machine, stack, &program, name)?);
            }
        }
        Ok(all)
    })?;
    venus.shut_down()?;
    ours.shut_down()?;
    Ok(table)
}

/// Requests to the kernel's driver for each time that something is done.
fn ioctls(machine: &Machine, stack: Stack, program: &Path, name: &str) -> Result<Figure> {
    let count = |times: u32| -> Result<f64> {
        let mut command = machine.command(stack, "strace")?;
        // The table goes to where the program writes errors, as its last line "... ioctl".
        command
            .args(["-f", "-c", "-e", "trace=ioctl"])
            .arg(program)
            .args(["--only", name, "--times", &times.to_string()]);
        let output = machine.run(&command, LIMIT)?.success()?;
        let line = output.stderr.lines().find(|l| l.ends_with(" ioctl"));
        // % time, seconds, usecs/call, calls
        let calls = line.and_then(|l| l.split_whitespace().nth(3));
        Ok(calls
            .with_context(|| format!("strace said: {}", output.stderr))?
            .parse()?)
    };
    const FEW: u32 = 10;
    const MANY: u32 = 60;
    Ok(Figure {
        name: format!("ioctls: {name}"),
        unit: "calls".to_owned(),
        median: ((count(MANY)? - count(FEW)?) / f64::from(MANY - FEW)).max(0.0),
    })
}

const VKMARK: &str = "vkmark, without a window";

fn vkmark(machine: &Machine, stack: Stack) -> Result<Figure> {
    let mut command = machine.command(stack, "vkmark")?;
    command
        .args(["--winsys", "headless", "--size", "320x240"])
        .args([
            "-b",
            ":duration=3",
            "-b",
            "vertex",
            "-b",
            "clear",
            "-b",
            "cube",
        ]);
    let output = machine.run(&command, LIMIT)?.success()?;
    let score = output
        .stdout
        .lines()
        .find_map(|line| line.trim().strip_prefix("vkmark Score: "));
    Ok(Figure {
        name: VKMARK.to_owned(),
        unit: "frames/s".to_owned(),
        median: score
            .with_context(|| format!("vkmark said: {}", output.stdout))?
            .parse()?,
    })
}

impl Table {
    fn to_text(&self) -> String {
        let mut out = String::new();
        if let [base, others @ ..] = self.columns.as_slice()
            && !others.is_empty()
        {
            let _ = write!(out, "{:50} {base:>12}", "");
            for name in others {
                let _ = write!(out, " {name:>12} {:>8}", "ratio");
            }
            let _ = writeln!(out);
        }
        for row in &self.rows {
            let _ = write!(out, "{:50} {:>12.3}", row.figure.name, row.values[0]);
            for (column, value) in row.values.iter().enumerate().skip(1) {
                let ratio = match row.ratio(column) {
                    ratio if ratio.is_finite() => format!("{ratio:.2}x"),
                    _ => "-".to_owned(),
                };
                let _ = write!(out, " {value:>12.3} {ratio:>8}");
            }
            let _ = writeln!(out, " {}", row.figure.unit);
        }
        out
    }

    fn to_json(&self) -> String {
        let row = |row: &Row| {
            let mut object = serde_json::Map::new();
            object.insert("name".to_owned(), row.figure.name.clone().into());
            object.insert("unit".to_owned(), row.figure.unit.clone().into());
            for (column, name) in self.columns.iter().enumerate() {
                object.insert(name.clone(), row.values[column].into());
                if column > 0 {
                    object.insert(format!("{name} ratio"), row.ratio(column).into());
                }
            }
            serde_json::Value::Object(object)
        };
        let rows: serde_json::Value = self.rows.iter().map(row).collect();
        format!("{rows:#}\n")
    }
}
