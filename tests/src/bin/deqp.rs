//! `deqp`: the Vulkan conformance tests natively and through the renderer, and where they differ.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use asgard_tests::deqp::{self, Comparison, Outcomes, Shard, Status};
use asgard_tests::via::{self, Channel, Finished, Server, Stack};
use asgard_tests::vm::{Accelerator, Guest, Machine, Options};
use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use signal_hook::consts::{SIGINT, SIGTERM};

/// Cases between two notes of what is done: so many may have to run again after an interruption.
const SLICE: usize = 500;
/// Cases of one process of the conformance tests; all of them run again to tell a failure from a flake.
const GROUP: usize = 100;
/// The time for all cases of a slice: each has its own.
const FOR_EVER: Duration = Duration::from_secs(1 << 30);
/// Names shown of each group of regressions; the file has all of them.
const SHOWN: usize = 10;

/// Run Vulkan conformance tests natively and through the renderer, and tell where they differ
///
/// What was run is kept and not run again, unless a program or driver that it ran on is newer:
/// an interrupted run goes on where it was, and one share of the cases after the other adds up.
#[derive(Debug, Parser)]
#[command(after_help = "\
Examples:
  deqp --deqp-vk ~/VK-GL-CTS/build/external/vulkancts/modules/vulkan/deqp-vk 'dEQP-VK.memory.*'
  deqp --via asgard,mesa --shard 1/20 'dEQP-VK.api.*' 'dEQP-VK.ubo.*'
  deqp --via machine-asgard,machine-mesa 'dEQP-VK.memory.*'
  deqp --via asgard --cases out/deqp/asgard/regressions.txt --again")]
struct Arguments {
    /// The conformance tests' program
    #[arg(long, value_name = "FILE", env = "ASGARD_DEQP_VK")]
    deqp_vk: PathBuf,
    /// Which ways to run them, with commas; the native one is what the others are compared with
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "native,asgard"
    )]
    via: Vec<Via>,
    /// Only every N-th case, from the K-th
    #[arg(long, value_name = "K/N", default_value = "1/1")]
    shard: Shard,
    /// Processes at a time
    #[arg(long, value_name = "N", default_value_t = std::thread::available_parallelism().map_or(1, usize::from))]
    jobs: usize,
    /// Seconds for a single case
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u32,
    /// Where results are kept
    #[arg(long, value_name = "FOLDER", default_value = "out/deqp")]
    out: PathBuf,
    /// Run what is known, too
    #[arg(long)]
    again: bool,
    /// Run nothing, compare what is known
    #[arg(long, conflicts_with = "again")]
    report: bool,
    /// Keep the logs of cases that failed
    #[arg(long)]
    keep_logs: bool,
    /// A file with the names of cases, one a line
    #[arg(long, value_name = "FILE")]
    cases: Option<PathBuf>,
    /// Names of cases; a star stands for anything
    #[arg(required_unless_present = "cases", value_name = "PATTERN")]
    patterns: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Via {
    /// The host's driver
    Native,
    /// Our guest driver
    Asgard,
    /// Mesa's guest driver
    Mesa,
    /// Our guest driver in a virtual machine
    MachineAsgard,
    /// The guest's own driver in a virtual machine
    MachineMesa,
}

impl Via {
    fn stack(self) -> Stack {
        match self {
            Self::Native => Stack::Native,
            Self::Asgard => Stack::Asgard,
            Self::Mesa => Stack::Mesa,
            Self::MachineAsgard => Stack::MachineAsgard,
            Self::MachineMesa => Stack::MachineMesa,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Asgard => "asgard",
            Self::Mesa => "mesa",
            Self::MachineAsgard => "machine-asgard",
            Self::MachineMesa => "machine-mesa",
        }
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("deqp: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// True if there are no regressions.
fn run(arguments: &Arguments) -> Result<bool> {
    let runner = via::find_program("deqp-runner").context(
        "deqp-runner is not installed. To install it:\n  cargo install deqp-runner --locked",
    )?;
    let runner = std::path::absolute(runner)?;
    let program = fs::canonicalize(&arguments.deqp_vk)
        .with_context(|| format!("no program {}", arguments.deqp_vk.display()))?;
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    let cases = cases(arguments, &program)?;
    println!("{} cases", cases.len());

    let others = (arguments.via.iter().copied()).filter(|&way| way != Via::Native);
    let mut known = Vec::new();
    for way in std::iter::once(Via::Native).chain(others) {
        let mut runner = Runner {
            arguments,
            runner: &runner,
            program: &program,
            way,
            folder: arguments.out.join(way.name()),
            interrupted: &interrupted,
        };
        known.push((way.name(), runner.run(&cases)?));
    }

    print!("{}", table(&cases, &known));
    let mut good = true;
    let [(_, native), others @ ..] = known.as_slice() else {
        bail!("nothing ran");
    };
    for (name, outcomes) in others {
        let comparison = deqp::compare(&cases, native, outcomes);
        let file = arguments.out.join(name).join("regressions.txt");
        print!("{}", differences(name, &comparison, &file));
        let names: String = (comparison.regressions.keys())
            .map(|case| format!("{case}\n"))
            .collect();
        fs::write(&file, names).with_context(|| format!("writing {}", file.display()))?;
        good &= comparison.regressions.is_empty();
    }
    Ok(good)
}

/// The cases that were asked for.
fn cases(arguments: &Arguments, program: &Path) -> Result<Vec<String>> {
    let mut cases = Vec::new();
    if let Some(file) = &arguments.cases {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        cases.extend(text.lines().map(str::to_owned));
    }
    for pattern in &arguments.patterns {
        let mut command = via::command(Stack::Native, program)?;
        quiet(&mut command, program);
        command
            .arg("--deqp-runmode=stdout-caselist")
            .arg(format!("--deqp-case={pattern}"));
        let listed = via::run(command, Duration::from_secs(600))?.success();
        let found = deqp::case_list(&listed.context("listing the cases")?.stdout);
        ensure!(!found.is_empty(), "no case is called {pattern}");
        cases.extend(found);
    }
    Ok(arguments.shard.take(cases))
}

/// Runs a program of the conformance tests where its data lies, without pictures in the log.
fn quiet(command: &mut Command, program: &Path) {
    command
        .current_dir(program.parent().unwrap_or(Path::new("/")))
        .args(log_arguments());
}

fn log_arguments() -> [&'static str; 3] {
    [
        "--deqp-log-images=disable",
        "--deqp-log-shader-sources=disable",
        "--deqp-log-decompiled-spirv=disable",
    ]
}

/// Where cases run.
enum Place {
    Native,
    Server(Server, Stack),
    Machine(Box<Machine>, Stack),
}

impl Place {
    /// A program here, its arguments still to come.
    fn command(&self, program: &Path) -> Result<Command> {
        match self {
            Self::Native => via::command(Stack::Native, program),
            Self::Server(server, Stack::Asgard) => server.guest(program),
            Self::Server(server, _) => server.command(program),
            Self::Machine(machine, stack) => machine.command(*stack, program),
        }
    }

    fn run(&self, command: Command, limit: Duration) -> Result<Finished> {
        match self {
            Self::Native | Self::Server(..) => via::run(command, limit),
            Self::Machine(machine, _) => machine.run(&command, limit),
        }
    }

    /// Runs a command to its end, or until `go_on`, which gets each line of its output, says no.
    /// What it says on its standard error goes into the file `words`.
    fn follow(
        &self,
        mut command: Command,
        words: &Path,
        go_on: impl Fn(&str) -> bool,
    ) -> Result<()> {
        if let Self::Machine(machine, _) = self {
            let job = machine.start(&command)?;
            let mut line = String::new();
            let done = job.wait(FOR_EVER, |channel, bytes| {
                if channel == Channel::Output {
                    line.push_str(&String::from_utf8_lossy(bytes));
                }
                while let Some(end) = line.find('\n') {
                    let rest = line.split_off(end + 1);
                    if !go_on(line.trim_end()) {
                        // Then its end comes next.
                        let _ = job.kill();
                    }
                    line = rest;
                }
            })?;
            return fs::write(words, done.stderr).context("writing what the runner said");
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(words)?)
            .process_group(0)
            .spawn()
            .context("starting deqp-runner")?;
        let stdout = child.stdout.take().context("its output")?;
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if !go_on(&line) {
                via::kill_group(&mut child);
            }
        }
        child.wait()?;
        Ok(())
    }
}

/// One way of running cases, and the folder of its results.
struct Runner<'a> {
    arguments: &'a Arguments,
    /// `deqp-runner`.
    runner: &'a Path,
    program: &'a Path,
    way: Via,
    folder: PathBuf,
    interrupted: &'a AtomicBool,
}

impl Runner<'_> {
    /// Runs what is not known yet; the outcomes of all cases that ever ran.
    fn run(&mut self, cases: &[String]) -> Result<Outcomes> {
        fs::create_dir_all(&self.folder)?;
        self.folder = fs::canonicalize(&self.folder)?;
        let results = self.folder.join("results.csv");
        let mut known = deqp::load(&results)?;
        let newest = self.newest()?;
        let missing: Vec<&String> = (cases.iter())
            .filter(|case| {
                let fresh = known.get(*case).is_some_and(|one| one.when >= newest);
                !fresh || (self.arguments.again && self.way != Via::Native)
            })
            .collect();
        if self.arguments.report || missing.is_empty() {
            return Ok(known);
        }

        let place = self.place()?;
        let bar = ProgressBar::new(cases.len() as u64).with_style(
            ProgressStyle::with_template("{prefix:>14} [{bar:30}] {pos}/{len} {eta} {msg}")?
                .progress_chars("=> "),
        );
        bar.set_prefix(self.way.name());
        let mut done = (cases.len() - missing.len()) as u64;
        // What was kept took no time, so it says nothing of how long the rest takes.
        bar.set_position(done);
        bar.reset_eta();
        for slice in missing.chunks(SLICE) {
            let mut outcomes = self.slice(&place, slice, &bar, done)?;
            self.explain(&place, &mut outcomes)?;
            deqp::append(&results, &outcomes)?;
            known.extend(outcomes);
            done += slice.len() as u64;
        }
        bar.finish();
        Ok(known)
    }

    /// When the newest of what cases run on was built, in seconds since 1970.
    fn newest(&self) -> Result<u64> {
        let guest = || anyhow::Ok(Some(Guest::debian()?.root()));
        let parts = match self.way {
            Via::Native => vec![],
            Via::Asgard => vec![via::asgard(), via::own_driver()],
            Via::Mesa => vec![via::asgard(), via::gfxstream()],
            Via::MachineAsgard => vec![via::asgard(), via::own_driver(), guest()?],
            Via::MachineMesa => vec![via::asgard(), guest()?],
        };
        let mut newest = seconds(fs::metadata(self.program)?.modified()?);
        for part in parts {
            let part = part.context("a driver or the asgard program is missing: build all")?;
            newest = newest.max(seconds(fs::metadata(part)?.modified()?));
        }
        Ok(newest)
    }

    /// One place for all cases.
    fn place(&self) -> Result<Place> {
        match self.way {
            Via::Native => Ok(Place::Native),
            Via::Asgard | Via::Mesa => {
                // What it says goes into a file.
                let log = File::options()
                    .create(true)
                    .append(true)
                    .open(self.folder.join("server.log"))?;
                let server = Server::start_with(|command| {
                    command.stderr(log);
                })?;
                Ok(Place::Server(server, self.way.stack()))
            }
            Via::MachineAsgard | Via::MachineMesa => {
                let agent = via::sibling("guest").context("no program `guest`; build all")?;
                let mut options = Options::new(agent);
                options.accelerator = Accelerator::Auto;
                options.processors = self.arguments.jobs;
                let programs = [self.runner, self.program];
                let folders = programs.iter().filter_map(|program| program.parent());
                options.folders = folders.map(Path::to_owned).collect();
                options.writable = vec![self.folder.clone()];
                eprintln!("{} boots", self.way.name());
                let machine = Machine::boot(&options)?;
                Ok(Place::Machine(Box::new(machine), self.way.stack()))
            }
        }
    }

    /// Runs some cases with `deqp-runner`.
    fn slice(
        &self,
        place: &Place,
        cases: &[&String],
        bar: &ProgressBar,
        done: u64,
    ) -> Result<Outcomes> {
        let dir = tempfile::tempdir_in(&self.folder)?;
        let list = dir.path().join("cases.txt");
        write_list(&list, cases.iter().map(|case| case.as_str()))?;
        let cache = self.folder.join("shaders");
        fs::create_dir_all(&cache)?;
        let when = seconds(SystemTime::now());
        let mut command = place.command(self.runner)?;
        command
            .args(["run", "--deqp"])
            .arg(self.program)
            .arg("--caselist")
            .arg(&list)
            .arg("--output")
            .arg(dir.path())
            .arg("--shader-cache-dir")
            .arg(cache)
            .args(["--jobs", &self.arguments.jobs.to_string()])
            .args(["--timeout", &self.arguments.timeout.to_string()])
            .args(["--tests-per-group", &GROUP.to_string()])
            .arg("--")
            .args(log_arguments());
        let words = dir.path().join("deqp-runner.log");
        let followed = place.follow(command, &words, |line| {
            if let Some(position) = deqp::runner_progress(line) {
                bar.set_position(done + position);
                bar.set_message(line.to_owned());
            }
            !self.interrupted.load(Ordering::Relaxed)
        });
        if self.interrupted.load(Ordering::Relaxed) {
            bail!("interrupted; the same command goes on where this one was");
        }
        // It fails if any case does; whether it ran at all shows in what it left.
        followed?;
        let text = fs::read_to_string(dir.path().join("results.csv")).or_else(|_| {
            let words = fs::read_to_string(&words).unwrap_or_default();
            bail!("deqp-runner left no results:\n{words}")
        })?;
        let mut outcomes = deqp::runner_results(&text, when)?;
        for (case, remark) in deqp::runner_remarks(&fs::read_to_string(&words)?) {
            if let Some(outcome) = outcomes.get_mut(&case)
                && outcome.status == Status::Flake
            {
                outcome.reason = remark;
            }
        }
        self.collect_logs(dir.path(), &mut outcomes)?;
        Ok(outcomes)
    }

    /// Takes the reasons of failed cases out of the logs, and keeps the logs if they are wanted.
    fn collect_logs(&self, from: &Path, outcomes: &mut Outcomes) -> Result<()> {
        let kept = self.folder.join("logs");
        if self.arguments.keep_logs {
            fs::create_dir_all(&kept)?;
        }
        for entry in fs::read_dir(from)? {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            if let Some(case) = name.strip_suffix(".qpa")
                && let Some(outcome) = outcomes.get_mut(case)
            {
                let log = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
                if let Some(reason) = deqp::reasons(&log).remove(case) {
                    outcome.reason = reason;
                }
            } else if !name.ends_with(".log") {
                continue;
            }
            if self.arguments.keep_logs {
                fs::rename(&path, kept.join(name))?;
            }
        }
        Ok(())
    }

    /// Asks cases that are not supported for their reasons: `deqp-runner` keeps none.
    fn explain(&self, place: &Place, outcomes: &mut Outcomes) -> Result<()> {
        if self.way == Via::Native {
            return Ok(());
        }
        let native = deqp::load(&self.arguments.out.join("native").join("results.csv"))?;
        let hidden: Vec<String> = (outcomes.iter())
            .filter(|(_, one)| one.status == Status::NotSupported)
            .map(|(case, _)| case.clone())
            .collect();
        let hidden = deqp::compare(&hidden, &native, outcomes);
        let hidden: Vec<String> = (hidden.regressions.keys())
            .map(|&case| case.to_owned())
            .collect();
        if hidden.is_empty() {
            return Ok(());
        }
        let dir = tempfile::tempdir_in(&self.folder)?;
        let (list, log) = (dir.path().join("cases.txt"), dir.path().join("log.qpa"));
        write_list(&list, hidden.iter().map(String::as_str))?;
        let mut command = place.command(self.program)?;
        quiet(&mut command, self.program);
        for (option, path) in [
            ("--deqp-caselist-file=", list),
            ("--deqp-log-filename=", log.clone()),
        ] {
            let mut argument = OsString::from(option);
            argument.push(path);
            command.arg(argument);
        }
        command.arg("--deqp-shadercache=disable");
        place.run(command, Duration::from_secs(600))?;
        let mut reasons = deqp::reasons(&String::from_utf8_lossy(&fs::read(log)?));
        for case in &hidden {
            if let (Some(outcome), Some(reason)) = (outcomes.get_mut(case), reasons.remove(case)) {
                outcome.reason = reason;
            }
        }
        Ok(())
    }
}

fn write_list<'a>(path: &Path, cases: impl Iterator<Item = &'a str>) -> Result<()> {
    let text: String = cases.map(|case| format!("{case}\n")).collect();
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// How many cases ended how, a column for each way.
fn table(cases: &[String], known: &[(&str, Outcomes)]) -> String {
    let mut text = format!("{:14}", "");
    let mut counts = Vec::new();
    for (name, outcomes) in known {
        let _ = write!(text, "{name:>16}");
        counts.push(deqp::count(cases, outcomes));
    }
    text.push('\n');
    for status in Status::ALL {
        if counts.iter().all(|count| !count.contains_key(&status)) {
            continue;
        }
        let _ = write!(text, "{status:14}");
        for count in &counts {
            let _ = write!(text, "{:>16}", count.get(&status).unwrap_or(&0));
        }
        text.push('\n');
    }
    text
}

/// Regressions by result and reason, with names.
fn differences(name: &str, comparison: &Comparison<'_>, file: &Path) -> String {
    let better = comparison.improvements.len();
    let mut text = format!(
        "\n{name}: {} regressions, {better} cases that run here and not natively\n",
        comparison.regressions.len()
    );
    let mut groups: BTreeMap<(Status, &str), Vec<&str>> = BTreeMap::new();
    for (case, outcome) in &comparison.regressions {
        let key = (outcome.status, outcome.reason.as_str());
        groups.entry(key).or_default().push(case);
    }
    for ((status, reason), cases) in groups {
        let _ = writeln!(text, "  {} {status}: {reason}", cases.len());
        for case in cases.iter().take(SHOWN) {
            let _ = writeln!(text, "    {case}");
        }
        if cases.len() > SHOWN {
            let more = cases.len() - SHOWN;
            let _ = writeln!(text, "    and {more} more in {}", file.display());
        }
    }
    text
}
