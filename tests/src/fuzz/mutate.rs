//! A simple mutational fuzzer: reproducible, and content with what the targets say they reached.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use asgard_asg::Shape;
use asgard_asg::kumquat::{
    BLOB_MEM_HOST3D, CtxCreate, CtxResource, FENCE, GetCapset, RING_IDX, Request, ResourceCreate3d,
    ResourceCreateBlob, Transfer3d,
};
use asgard_asg::submit::Command as Submitted;

use super::{REACHED, Target};
use crate::scenes::Random;

/// Inputs larger than this are cut.
const LONGEST: usize = 4096;

/// A corpus is no larger than people can look through.
const MOST_KEPT: usize = 150;

/// A folder of inputs.
#[derive(Debug)]
pub struct Corpus(PathBuf);

impl Corpus {
    /// The committed inputs of a target.
    #[must_use]
    pub fn of(target: &str) -> Self {
        Self::at(
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("fuzz/corpus")
                .join(target),
        )
    }

    /// Inputs in any folder.
    #[must_use]
    pub fn at(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// All inputs, in the order of their names.
    pub fn inputs(&self) -> Result<Vec<(PathBuf, Vec<u8>)>> {
        let mut paths: Vec<PathBuf> = std::fs::read_dir(&self.0)
            .with_context(|| format!("no corpus in {}", self.0.display()))?
            .flatten()
            .map(|entry| entry.path())
            .collect();
        paths.sort();
        let read = |path: PathBuf| Ok((path.clone(), std::fs::read(path)?));
        paths.into_iter().map(read).collect()
    }

    /// Adds an input under a name that follows from its bytes.
    pub fn add(&self, prefix: &str, input: &[u8]) -> Result<PathBuf> {
        use sha2::{Digest, Sha256};
        std::fs::create_dir_all(&self.0)?;
        let hash = Sha256::digest(input);
        let name: String = hash.iter().take(6).map(|b| format!("{b:02x}")).collect();
        let path = self.0.join(format!("{prefix}{name}"));
        std::fs::write(&path, input)?;
        Ok(path)
    }
}

/// Inputs to begin with, made rather than recorded.
#[must_use]
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    let mut random = Random(7);
    let mut noise = |len: usize| -> Vec<u8> {
        std::iter::repeat_with(|| random.word() as u8)
            .take(len)
            .collect()
    };
    match target {
        "device" => vec![session(), noise(64)],
        // Each byte is a step or part of one: noise is a program.
        _ => (0..12).map(|i| noise(16 << (i % 7))).collect(),
    }
}

/// A session of an honest guest, in packets.
fn session() -> Vec<u8> {
    let pair = CtxResource {
        ctx_id: 1,
        resource_id: 1,
    };
    let submit = |command: Submitted, flags| {
        let mut bytes = Vec::new();
        command.write(&mut bytes);
        (bytes, flags)
    };
    let commands = [
        submit(Submitted::ContextCreate { resource_id: 1 }, FENCE),
        submit(Submitted::ContextPing { resource_id: 1 }, 0),
        submit(Submitted::PlaceholderVk, FENCE | RING_IDX),
        submit(
            Submitted::CreateExportSyncVk {
                device: 1,
                fence: 2,
            },
            FENCE | RING_IDX,
        ),
    ];
    let mut requests = vec![
        Request::GetNumCapsets,
        Request::GetCapsetInfo { index: 0 },
        Request::GetCapset(GetCapset {
            capset_id: 3,
            capset_version: 0,
        }),
        Request::CtxCreate(CtxCreate::new(3, b"guest")),
        Request::ResourceCreateBlob(ResourceCreateBlob {
            ctx_id: 1,
            blob_mem: BLOB_MEM_HOST3D,
            blob_flags: 1,
            padding: 0,
            blob_id: 0,
            size: 1 << 21,
        }),
    ];
    requests.extend(commands.iter().map(|(command, flags)| Request::Submit3d {
        flags: *flags,
        ctx_id: 1,
        ring_idx: 1,
        in_fences: vec![1],
        command,
    }));
    requests.extend([
        Request::ResourceCreateBlob(ResourceCreateBlob {
            ctx_id: 1,
            blob_mem: BLOB_MEM_HOST3D,
            blob_flags: 1,
            padding: 0,
            blob_id: 9,
            size: 4096,
        }),
        Request::ResourceCreate3d(ResourceCreate3d {
            shape: Shape {
                target: 2,
                width: 64,
                height: 64,
                ..Shape::default()
            },
            ctx_id: 1,
            ..ResourceCreate3d::default()
        }),
        Request::ResourceImport { ctx_id: 1 },
        Request::TransferToHost(Transfer3d {
            ctx_id: 1,
            resource_id: 3,
            ..Transfer3d::default()
        }),
        Request::CtxAttach(pair),
        Request::CtxDetach(pair),
        Request::ResourceUnref { resource_id: 2 },
        Request::CtxDestroy { ctx_id: 1 },
    ]);
    let mut bytes = Vec::new();
    for request in requests {
        let mut packet = Vec::new();
        request.write(&mut packet);
        bytes.extend((packet.len() as u16).to_le_bytes());
        bytes.extend(packet);
    }
    bytes
}

/// A run of one target.
#[derive(Debug)]
pub struct Campaign {
    target: Target,
    random: Random,
    corpus: Vec<Vec<u8>>,
    reached: HashSet<u64>,
    /// Where the current input lies, should it be the last.
    current: Option<PathBuf>,
    /// Inputs that got where none was before.
    pub found: Vec<Vec<u8>>,
    /// Inputs so far.
    pub runs: u64,
}

impl Campaign {
    /// Of these inputs some that together reach much: the long ones first, which are few, within so many bytes.
    #[must_use]
    pub fn distilled(target: Target, mut inputs: Vec<Vec<u8>>, budget: usize) -> Vec<Vec<u8>> {
        inputs.sort_by_key(|input| std::cmp::Reverse(input.len()));
        inputs.retain(|input| input.len() <= budget / 100);
        let mut campaign = Self::new(target, Vec::new(), 0, None);
        let mut left = budget;
        inputs.retain(|input| {
            let keep = input.len() <= left && !input.is_empty() && campaign.run(input);
            left -= if keep { input.len() } else { 0 };
            keep
        });
        inputs.truncate(MOST_KEPT);
        inputs
    }

    /// Runs every input of the corpus once.
    pub fn new(target: Target, corpus: Vec<Vec<u8>>, seed: u64, current: Option<PathBuf>) -> Self {
        let mut campaign = Self {
            target,
            random: Random(seed),
            corpus: Vec::new(),
            reached: HashSet::new(),
            current,
            found: Vec::new(),
            runs: 0,
        };
        for input in corpus {
            campaign.run(&input);
            campaign.corpus.push(input);
        }
        campaign
    }

    /// Fuzzes for this long.
    pub fn go(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let input = self.mutated();
            if self.run(&input) {
                self.corpus.push(input.clone());
                self.found.push(input);
            }
        }
    }

    /// How many places were reached.
    #[must_use]
    pub fn reached(&self) -> usize {
        self.reached.len()
    }

    /// True if it got where none was before.
    fn run(&mut self, input: &[u8]) -> bool {
        if let Some(path) = &self.current {
            // Without it there is nothing to reproduce a crash from, but the run is still worth something.
            let _ = std::fs::write(path, input);
        }
        (self.target)(input);
        self.runs += 1;
        let before = self.reached.len();
        REACHED.with_borrow_mut(|reached| self.reached.extend(reached.drain()));
        self.reached.len() > before
    }

    fn pick(&mut self) -> Vec<u8> {
        let n = self.corpus.len() as u64;
        if n == 0 {
            return vec![0];
        }
        // The newest got furthest.
        let back = self.random.below(n).min(self.random.below(n));
        self.corpus[(n - 1 - back) as usize].clone()
    }

    fn mutated(&mut self) -> Vec<u8> {
        let mut input = self.pick();
        for _ in 0..=self.random.below(4) {
            let len = input.len() as u64;
            let at = self.random.below(len + 1) as usize;
            let word = self.random.word();
            match self.random.below(9) {
                0 => input.insert(at, word as u8),
                1 if at < input.len() => input[at] = word as u8,
                2 if at < input.len() => input[at] ^= 1 << (word % 8),
                3 => input.truncate(at.max(1)),
                4 => {
                    let end = (at + (word % 32) as usize).min(input.len());
                    input.drain(at..end);
                }
                5 => {
                    let other = self.pick();
                    let from = (word % (other.len() as u64 + 1)) as usize;
                    input.truncate(at);
                    input.extend_from_slice(&other[from..]);
                }
                6 => {
                    let interesting = [0, 1, 7, 8, 0xff, 0xffff, 1 << 31, u32::MAX];
                    let value = interesting[(word % 8) as usize].to_le_bytes();
                    for (to, from) in input.iter_mut().skip(at).zip(value) {
                        *to = from;
                    }
                }
                7 => {
                    let end = (at + (word % 64) as usize).min(input.len());
                    let again = input[at..end].to_vec();
                    input.splice(at..at, again);
                }
                _ => {
                    let noise: Vec<u8> = std::iter::repeat_with(|| self.random.word() as u8)
                        .take((word % 24) as usize)
                        .collect();
                    input.splice(at..at, noise);
                }
            }
        }
        input.truncate(LONGEST);
        input
    }
}
