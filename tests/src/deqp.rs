//! The conformance tests' results: reading them, keeping them, and setting two stacks side by side.
//!
//! `deqp-runner` runs the cases; this is what goes around it, see the program `deqp`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};

/// How a case ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// As it should.
    Pass,
    /// As it should, with a remark on quality or compatibility.
    Warn,
    /// The device lacks what the case needs.
    NotSupported,
    /// Wrongly.
    Fail,
    /// Its process died, or its device was lost.
    Crash,
    /// It was still running when its time was over.
    Timeout,
    /// Differently when it was run again.
    Flake,
    /// It never reported.
    Missing,
}

impl Status {
    /// All of them, in the order of tables.
    pub const ALL: [Self; 8] = [
        Self::Pass,
        Self::Warn,
        Self::NotSupported,
        Self::Fail,
        Self::Crash,
        Self::Timeout,
        Self::Flake,
        Self::Missing,
    ];

    /// The word of `deqp-runner` for it.
    fn word(self) -> &'static str {
        match self {
            Self::Pass => "Pass",
            Self::Warn => "Warn",
            Self::NotSupported => "Skip",
            Self::Fail => "Fail",
            Self::Crash => "Crash",
            Self::Timeout => "Timeout",
            Self::Flake => "Flake",
            Self::Missing => "Missing",
        }
    }

    /// 0 if the case ran well, 1 if it did not have to run, 2 if it went wrong.
    fn severity(self) -> u8 {
        match self {
            Self::Pass | Self::Warn => 0,
            Self::NotSupported => 1,
            Self::Fail | Self::Crash | Self::Timeout | Self::Flake | Self::Missing => 2,
        }
    }
}

impl FromStr for Status {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|status| status.word() == word)
            .with_context(|| format!("{word:?} is no result of a case"))
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NotSupported => "not supported",
            Self::Pass => "pass",
            Self::Warn => "warning",
            Self::Fail => "fail",
            Self::Crash => "crash",
            Self::Timeout => "timeout",
            Self::Flake => "flaky",
            Self::Missing => "missing",
        })
    }
}

/// What is known of a case on one stack.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// How it ended.
    pub status: Status,
    /// How long it took.
    pub seconds: f32,
    /// When it ran, in seconds since 1970.
    pub when: u64,
    /// The case's own words, in one line; empty if nobody asked.
    pub reason: String,
}

/// Outcomes by the names of cases.
pub type Outcomes = BTreeMap<String, Outcome>;

/// Reads the `results.csv` of `deqp-runner`: name, result, seconds.
pub fn runner_results(text: &str, when: u64) -> Result<Outcomes> {
    let mut outcomes = Outcomes::new();
    for line in text.lines() {
        let parts: Vec<&str> = line.split(',').collect();
        let &[case, status, seconds] = parts.as_slice() else {
            bail!("not a line of results: {line:?}");
        };
        let outcome = Outcome {
            status: status.parse()?,
            seconds: seconds.parse().with_context(|| line.to_owned())?,
            when,
            reason: String::new(),
        };
        outcomes.insert(case.to_owned(), outcome);
    }
    Ok(outcomes)
}

/// What `deqp-runner` says on its standard error about cases that went wrong, the first time if they ran twice.
#[must_use]
pub fn runner_remarks(text: &str) -> BTreeMap<String, String> {
    let mut remarks = BTreeMap::new();
    for line in text.lines() {
        if let Some((case, rest)) = (line.split_once("Test ")).and_then(|(_, l)| l.split_once(": "))
            && let Some((status, _)) = rest.split_once(": See ")
        {
            let remark = || format!("{} at first", status.to_lowercase());
            remarks.entry(case.to_owned()).or_insert_with(remark);
        }
    }
    remarks
}

/// How many cases a status line of `deqp-runner` counts: `Pass: 10, Skip: 2, Duration: 3, Remaining: 1:20`.
#[must_use]
pub fn runner_progress(line: &str) -> Option<u64> {
    let (counts, _) = line.split_once(", Duration: ")?;
    counts
        .split(", ")
        .map(|count| count.split_once(": ")?.1.parse::<u64>().ok())
        .sum()
}

/// The cases in what `--deqp-runmode=stdout-caselist` prints, in order.
#[must_use]
pub fn case_list(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.strip_prefix("TEST: "))
        .map(|case| case.trim().to_owned())
        .collect()
}

/// Each case's own words in a log of the conformance tests.
#[must_use]
pub fn reasons(log: &str) -> BTreeMap<String, String> {
    let mut reasons = BTreeMap::new();
    for part in log.split("#beginTestCaseResult ").skip(1) {
        let Some((case, rest)) = part.split_once('\n') else {
            continue;
        };
        let words = rest
            .rsplit_once("<Result StatusCode=")
            .and_then(|(_, result)| result.split_once('>')?.1.split_once("</Result>"))
            .map(|(words, _)| words);
        if let Some(words) = words {
            let mut words = words.split_whitespace().collect::<Vec<_>>().join(" ");
            for (entity, character) in [
                ("&lt;", "<"),
                ("&gt;", ">"),
                ("&quot;", "\""),
                ("&apos;", "'"),
                ("&amp;", "&"),
            ] {
                words = words.replace(entity, character);
            }
            reasons.insert(case.trim().to_owned(), words);
        }
    }
    reasons
}

/// Reads what [`append`] wrote: a case's last line is the one that counts.
pub fn load(path: &Path) -> Result<Outcomes> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Outcomes::new()),
        text => text.with_context(|| format!("reading {}", path.display()))?,
    };
    let mut outcomes = Outcomes::new();
    // A run that was killed may have left half a line at the end.
    for line in text.lines().filter(|line| !line.is_empty()) {
        let parts: Vec<&str> = line.splitn(5, ',').collect();
        let &[case, status, seconds, when, reason] = parts.as_slice() else {
            continue;
        };
        let (Ok(status), Ok(seconds), Ok(when)) = (status.parse(), seconds.parse(), when.parse())
        else {
            continue;
        };
        let outcome = Outcome {
            status,
            seconds,
            when,
            reason: reason.to_owned(),
        };
        outcomes.insert(case.to_owned(), outcome);
    }
    Ok(outcomes)
}

/// Adds outcomes to a file, after what is there.
pub fn append(path: &Path, outcomes: &Outcomes) -> Result<()> {
    let mut text = String::new();
    for (case, outcome) in outcomes {
        let Outcome {
            status,
            seconds,
            when,
            reason,
        } = outcome;
        writeln!(text, "{case},{},{seconds},{when},{reason}", status.word())?;
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("writing {}", path.display()))
}

/// Every `of`th case, from the `index`th; both count from one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    index: usize,
    of: usize,
}

impl Shard {
    /// Its share of the cases.
    #[must_use]
    pub fn take(self, cases: Vec<String>) -> Vec<String> {
        cases
            .into_iter()
            .skip(self.index - 1)
            .step_by(self.of)
            .collect()
    }
}

impl FromStr for Shard {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (index, of) = text
            .split_once('/')
            .context("a share is written K/N: every N-th case, from the K-th")?;
        let (index, of) = (index.parse()?, of.parse()?);
        ensure!(
            (1..=of).contains(&index),
            "{text}: K goes from 1 to N in K/N"
        );
        Ok(Self { index, of })
    }
}

/// A stack beside the native one, for the cases that were asked for.
#[derive(Debug, Default)]
pub struct Comparison<'a> {
    /// Cases that go worse than natively: wrong, or not supported where they run natively.
    pub regressions: BTreeMap<&'a str, &'a Outcome>,
    /// Cases that run here and not natively.
    pub improvements: BTreeSet<&'a str>,
}

/// Compares the outcomes of `cases`; one that misses on either side is left out.
#[must_use]
pub fn compare<'a>(cases: &'a [String], native: &Outcomes, ours: &'a Outcomes) -> Comparison<'a> {
    let mut comparison = Comparison::default();
    for case in cases {
        let (Some(native), Some(ours)) = (native.get(case), ours.get(case)) else {
            continue;
        };
        let (before, after) = (native.status.severity(), ours.status.severity());
        if after > before {
            comparison.regressions.insert(case, ours);
        } else if after == 0 && before > 0 {
            comparison.improvements.insert(case);
        }
    }
    comparison
}

/// How many of the cases ended how.
#[must_use]
pub fn count(cases: &[String], outcomes: &Outcomes) -> BTreeMap<Status, usize> {
    let mut counts = BTreeMap::new();
    for outcome in cases.iter().filter_map(|case| outcomes.get(case)) {
        *counts.entry(outcome.status).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(status: Status) -> Outcome {
        Outcome {
            status,
            seconds: 0.5,
            when: 7,
            reason: String::new(),
        }
    }

    fn outcomes(list: &[(&str, Status)]) -> Outcomes {
        let own = |&(case, status): &(&str, Status)| (case.to_owned(), outcome(status));
        list.iter().map(own).collect()
    }

    #[test]
    fn results_of_the_runner_are_read() {
        let text = "dEQP-VK.a.b,Pass,0.5\ndEQP-VK.a.c,Skip,0.5\n";
        let expected = [
            ("dEQP-VK.a.b", Status::Pass),
            ("dEQP-VK.a.c", Status::NotSupported),
        ];
        assert_eq!(runner_results(text, 7).unwrap(), outcomes(&expected));
        assert!(runner_results("dEQP-VK.a.b,Splendid,0.5", 7).is_err());
        assert!(runner_results("dEQP-VK.a.b", 7).is_err());
    }

    #[test]
    fn the_first_remark_on_a_case_counts() {
        let text = "ERROR - dEQP error: a library complains: Test it\n\
            ERROR - Test dEQP-VK.a.b: Crash: See \"/out/c1.r1.log\"\n\
            ERROR - Test dEQP-VK.a.b: Fail: See \"/out/c1.r2.log\"\n";
        let expected = BTreeMap::from([("dEQP-VK.a.b".to_owned(), "crash at first".to_owned())]);
        assert_eq!(runner_remarks(text), expected);
    }

    #[test]
    fn progress_is_the_sum_of_all_counts() {
        let line = "Pass: 10, Fail: 1, Skip: 200, Duration: 1:02, Remaining: 3:04:05";
        assert_eq!(runner_progress(line), Some(211));
        assert_eq!(
            runner_progress("Running dEQP on 2 threads in 5-test groups"),
            None
        );
    }

    #[test]
    fn groups_are_not_cases() {
        let text = "Writing test cases\nGROUP: dEQP-VK.a\nTEST: dEQP-VK.a.b\nTEST: dEQP-VK.a.c\n";
        assert_eq!(case_list(text), ["dEQP-VK.a.b", "dEQP-VK.a.c"]);
    }

    #[test]
    fn reasons_are_the_last_result_of_each_case() {
        let log = "#beginSession\n\
            #beginTestCaseResult dEQP-VK.a.b\n<TestCaseResult>\n<Text>x</Text>\n\
            <Result StatusCode=\"Fail\">1 &lt; 2 &amp;&amp;\n no</Result>\n</TestCaseResult>\n#endTestCaseResult\n\
            #beginTestCaseResult dEQP-VK.a.c\n<TestCaseResult>\n\
            #terminateTestCaseResult Crash\n";
        let expected = BTreeMap::from([("dEQP-VK.a.b".to_owned(), "1 < 2 && no".to_owned())]);
        assert_eq!(reasons(log), expected);
    }

    #[test]
    fn what_was_written_is_read_and_the_last_line_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("results.csv");
        assert!(load(&path).unwrap().is_empty());
        append(
            &path,
            &outcomes(&[("a", Status::Fail), ("b", Status::Flake)]),
        )
        .unwrap();
        let mut again = outcomes(&[("a", Status::Crash)]);
        again.get_mut("a").unwrap().reason = "first, second".to_owned();
        append(&path, &again).unwrap();
        again.extend(outcomes(&[("b", Status::Flake)]));
        assert_eq!(load(&path).unwrap(), again);
    }

    #[test]
    fn half_a_line_is_no_outcome() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("results.csv");
        std::fs::write(&path, "a,Pass,0.5,7,\nb,Pa").unwrap();
        assert_eq!(load(&path).unwrap(), outcomes(&[("a", Status::Pass)]));
    }

    #[test]
    fn shards_are_spread_and_make_up_the_whole() {
        let cases: Vec<String> = (0..7).map(|n| n.to_string()).collect();
        let take = |text: &str| text.parse::<Shard>().unwrap().take(cases.clone());
        assert_eq!(take("2/3"), ["1", "4"]);
        assert_eq!(take("1/1"), cases);
        let mut all = [take("1/3"), take("2/3"), take("3/3")].concat();
        all.sort();
        assert_eq!(all, cases);
        for wrong in ["0/3", "4/3", "3", "1/0"] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_regression_is_whatever_goes_worse() {
        use Status::{Crash, Fail, Flake, NotSupported, Pass, Warn};
        let pairs = [
            ("same", Pass, Pass),
            ("remark", Pass, Warn),
            ("wrong", Pass, Fail),
            ("sometimes", Warn, Flake),
            ("hidden", Pass, NotSupported),
            ("shown", NotSupported, Crash),
            ("both", Fail, Crash),
            ("mended", Fail, Pass),
            ("offered", NotSupported, Pass),
            ("skipped", Fail, NotSupported),
        ];
        let cases: Vec<String> = pairs.iter().map(|p| p.0.to_owned()).collect();
        let native = outcomes(&pairs.map(|p| (p.0, p.1)));
        let ours = outcomes(&pairs.map(|p| (p.0, p.2)));
        let comparison = compare(&cases, &native, &ours);
        let worse: Vec<_> = comparison.regressions.keys().copied().collect();
        assert_eq!(worse, ["hidden", "shown", "sometimes", "wrong"]);
        let better: Vec<_> = comparison.improvements.iter().copied().collect();
        assert_eq!(better, ["mended", "offered"]);
        assert_eq!(count(&cases[..3], &ours)[&Pass], 1);
        assert!(
            compare(&cases, &native, &Outcomes::new())
                .regressions
                .is_empty()
        );
    }
}
