//! What a workload found out: named parts of bytes, and the parts it could not run.

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

/// Bytes that open a result file.
const MAGIC: &[u8; 8] = b"ASGSCENE";

/// One part of a workload's result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Unique within the workload.
    pub name: String,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of one part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It ran, and these are its result bytes.
    Bytes(Vec<u8>),
    /// The device does not show what the part needs; the text says what is missing.
    Gated(String),
}

/// The result of one workload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// In the order they ran.
    pub parts: Vec<Part>,
}

impl Report {
    /// Adds the result bytes of a part.
    pub fn part(&mut self, name: &str, bytes: impl Into<Vec<u8>>) {
        self.push(name, Outcome::Bytes(bytes.into()));
    }

    /// Records a part that this device cannot run.
    pub fn gate(&mut self, name: &str, why: impl Into<String>) {
        self.push(name, Outcome::Gated(why.into()));
    }

    /// True if `shown`; otherwise records the gate and returns false.
    #[must_use]
    pub fn needs(&mut self, name: &str, shown: bool, why: &str) -> bool {
        if !shown {
            self.gate(name, why);
        }
        shown
    }

    fn push(&mut self, name: &str, outcome: Outcome) {
        assert!(
            self.parts.iter().all(|part| part.name != name),
            "part {name} was reported twice"
        );
        self.parts.push(Part {
            name: name.to_owned(),
            outcome,
        });
    }

    /// Names of the parts that did not run.
    pub fn gated(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part.outcome {
            Outcome::Gated(_) => Some(part.name.as_str()),
            Outcome::Bytes(_) => None,
        })
    }

    /// The result file: per part its name, a tag, and length-prefixed bytes, all little endian.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        for part in &self.parts {
            let (tag, bytes) = match &part.outcome {
                Outcome::Bytes(bytes) => (1u8, bytes.as_slice()),
                Outcome::Gated(why) => (0, why.as_bytes()),
            };
            out.push(tag);
            out.extend((part.name.len() as u32).to_le_bytes());
            out.extend(part.name.as_bytes());
            out.extend((bytes.len() as u64).to_le_bytes());
            out.extend(bytes);
        }
        out
    }

    /// Reads a result file back.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let mut rest = bytes
            .strip_prefix(MAGIC)
            .context("not a scene result file")?;
        let mut report = Self::default();
        while let [tag, tail @ ..] = rest {
            let (name, tail) = counted(tail, 4)?;
            let (body, tail) = counted(tail, 8)?;
            let name = std::str::from_utf8(name)?;
            match tag {
                0 => report.gate(name, std::str::from_utf8(body)?),
                1 => report.part(name, body),
                other => bail!("unknown part tag {other}"),
            }
            rest = tail;
        }
        Ok(report)
    }

    /// Digest of everything in the report.
    #[must_use]
    pub fn digest(&self) -> String {
        digest(&self.to_bytes())
    }
}

/// The first sixteen hexadecimal digits of the SHA-256 of `bytes`.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn counted(bytes: &[u8], width: usize) -> Result<(&[u8], &[u8])> {
    ensure!(bytes.len() >= width, "result file ends early");
    let (length, rest) = bytes.split_at(width);
    let mut wide = [0; 8];
    wide[..width].copy_from_slice(length);
    let length = usize::try_from(u64::from_le_bytes(wide))?;
    ensure!(rest.len() >= length, "result file ends early");
    Ok(rest.split_at(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_survives_its_file() {
        let mut report = Report::default();
        report.part("numbers", [1, 2, 3]);
        report.gate("sparse", "no sparse binding");
        report.part("empty", []);
        assert_eq!(Report::from_bytes(&report.to_bytes()).unwrap(), report);
    }

    #[test]
    fn a_cut_file_is_an_error() {
        let mut report = Report::default();
        report.part("numbers", [1, 2, 3]);
        let bytes = report.to_bytes();
        for end in 0..bytes.len() {
            let cut = Report::from_bytes(&bytes[..end]);
            assert!(cut.is_err() || cut.unwrap().parts.is_empty());
        }
    }
}
