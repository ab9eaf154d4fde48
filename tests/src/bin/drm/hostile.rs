//! A program that does everything that must not be done, as fast as it can.
//!
//! Nothing that it asks for has a right answer: what counts is that everybody else goes on.

use anyhow::Result;
use asgard_asg::Shape;
use asgard_tests::scenes::Random;
use bytemuck::Zeroable;

use crate::node::{Blob, CAPSET, GUEST, HOST3D, HOST3D_GUEST, Mapped, Node, PAGE, address_of};
use crate::uapi::{self, CONTEXT_CAPSET_ID, CONTEXT_NUM_RINGS, number};

/// Requests of one context; then there is a new one, and the old one goes with all that it holds.
const CONTEXT: u32 = 500;

/// Resources that a context keeps at a time.
const KEPT: usize = 24;

/// The guest's own memory is not what this is about.
const GUESTS_SHARE: u64 = 64 * PAGE as u64;

pub(crate) fn run(seed: u64, count: u32) -> Result<()> {
    let mut random = Random(seed);
    let mut left = count;
    while left > 0 {
        let node = Node::open()?;
        node.context(&[(CONTEXT_CAPSET_ID, CAPSET), (CONTEXT_NUM_RINGS, 8)])?;
        let mut guest = Guest {
            node: &node,
            random: &mut random,
            blobs: Vec::new(),
            rings: Vec::new(),
        };
        for _ in 0..left.min(CONTEXT) {
            guest.misbehave();
        }
        left = left.saturating_sub(CONTEXT);
    }
    Ok(())
}

struct Guest<'a> {
    node: &'a Node,
    random: &'a mut Random,
    blobs: Vec<Blob<'a>>,
    /// Memory that a ring was begun in, or should have been.
    rings: Vec<Mapped>,
}

impl<'a> Guest<'a> {
    /// A number that may be meant seriously, or lies where things go wrong.
    fn number(&mut self) -> u64 {
        let edges = [
            0,
            1,
            3,
            4096,
            4097,
            1 << 20,
            u64::from(u32::MAX),
            1 << 40,
            i64::MAX.cast_unsigned(),
            u64::MAX - 4095,
            u64::MAX,
        ];
        match self.random.below(3) {
            0 => self.random.below(64),
            1 => edges[self.random.below(edges.len() as u64) as usize],
            _ => self.random.word() >> self.random.below(64),
        }
    }

    fn small(&mut self) -> u32 {
        self.number() as u32
    }

    /// A handle of the kernel's: most often one that exists.
    fn handle(&mut self) -> u32 {
        let index = self.random.below(self.blobs.len() as u64 + 2) as usize;
        match self.blobs.get(index) {
            Some(blob) => blob.handle,
            None => self.small(),
        }
    }

    /// A resource of the host's: most often one that exists, and sometimes one of somebody else's.
    fn resource(&mut self) -> u32 {
        let index = self.random.below(self.blobs.len() as u64 + 2) as usize;
        match self.blobs.get(index) {
            Some(blob) => blob.resource,
            None => self.random.below(64) as u32,
        }
    }

    fn misbehave(&mut self) {
        // All of it may fail.
        let _ = match self.random.below(12) {
            0 => self.make_blob(),
            1 => self.make_picture(),
            2 => self.ring(),
            3..=5 => self.submit(),
            6 | 7 => self.transfer(),
            8 => self.spoil(),
            9 => self.share(),
            10 => self.begin_again(),
            _ => self.forget(),
        };
        if self.blobs.len() > KEPT {
            let _ = self.forget();
        }
        if self.rings.len() > KEPT {
            self.rings.clear();
        }
    }

    fn make_blob(&mut self) -> Result<()> {
        let memory = [GUEST, HOST3D, HOST3D, HOST3D_GUEST, 0, 9][self.random.below(6) as usize];
        let mut create = uapi::CreateBlob::zeroed();
        create.blob_mem = memory;
        create.blob_flags = self.random.below(16) as u32;
        create.size = match memory {
            HOST3D => self.number(),
            _ => self.random.below(GUESTS_SHARE),
        };
        create.blob_id = if memory == HOST3D { self.number() } else { 0 };
        let command = self.command();
        if self.random.below(4) == 0 {
            (create.cmd, create.cmd_size) = (address_of(&command), command.len() as u32);
        }
        self.node.ask(number::RESOURCE_CREATE_BLOB, &mut create)?;
        let size = create.size as usize;
        self.blobs
            .push(self.node.keep(create.bo_handle, create.res_handle, size));
        Ok(())
    }

    fn make_picture(&mut self) -> Result<()> {
        let words: Vec<u32> = (0..10).map(|_| self.small()).collect();
        let mut shape: Shape = bytemuck::pod_read_unaligned(bytemuck::cast_slice(&words));
        if self.random.below(2) == 0 {
            shape = Shape {
                target: 2,
                format: 67,
                width: self.random.below(70) as u32,
                height: self.random.below(70) as u32,
                depth: 1,
                array_size: 1,
                ..shape
            };
        }
        let size = self.random.below(GUESTS_SHARE) as usize;
        let picture = self.node.picture(shape, size)?;
        self.blobs.push(picture);
        Ok(())
    }

    /// Memory for a ring, with or without anything that makes sense in it.
    fn ring(&mut self) -> Result<()> {
        let size = asgard_asg::layout::blob_size(asgard_asg::layout::DEFAULT_BUFFER_SIZE);
        let blob = self.node.blob(HOST3D, 1, size)?;
        let mut mapped = self.node.map(&blob)?;
        if self.random.below(2) == 0 {
            let bytes = self.random.bytes(3 * PAGE);
            mapped.bytes()[..bytes.len()].copy_from_slice(&bytes);
        }
        let begin = [0x1001, blob.resource];
        self.send(bytemuck::cast_slice(&begin), 0)?;
        self.blobs.push(blob);
        self.rings.push(mapped);
        Ok(())
    }

    /// Writes into the rings while the host reads.
    fn spoil(&mut self) -> Result<()> {
        let index = self.random.below(self.rings.len().max(1) as u64) as usize;
        let (at, word) = (
            self.random.below(3 * PAGE as u64 / 4) as usize * 4,
            self.small(),
        );
        if let Some(ring) = self.rings.get_mut(index) {
            ring.bytes()[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        let ping = [0x1002, self.resource()];
        self.send(bytemuck::cast_slice(&ping), 0)
    }

    /// A command's bytes: known ones with wrong arguments, cut ones, long ones, random ones.
    fn command(&mut self) -> Vec<u8> {
        let opcodes = [
            0x1001, 0x1002, 0x1003, 0x9000, 0x9001, 0xa000, 0xa001, 0xa002, 0xa003, 0xa004, 0xf002,
            0, 7,
        ];
        let opcode = opcodes[self.random.below(opcodes.len() as u64) as usize];
        let resource = self.resource();
        let mut bytes: Vec<u8> = bytemuck::cast_slice(&[opcode, resource]).to_vec();
        let more = match self.random.below(16) {
            0 => 1 << 20,
            1 => 65_536,
            2..=5 => self.random.below(9) as usize,
            _ => 48,
        };
        bytes.extend(self.random.bytes(more));
        if self.random.below(4) == 0 {
            bytes.truncate(self.random.below(12) as usize);
        }
        bytes
    }

    fn submit(&mut self) -> Result<()> {
        let flags = self.random.below(16) as u32;
        let command = self.command();
        self.send(&command, flags)
    }

    fn send(&mut self, command: &[u8], flags: u32) -> Result<()> {
        let handles: Vec<u32> = (0..self.random.below(3)).map(|_| self.handle()).collect();
        let mut submit = uapi::ExecBuffer::zeroed();
        // Whoever gives a fence to wait for waits for it himself: -1 is none.
        submit.flags = flags & !uapi::EXEC_FENCE_FD_IN;
        (submit.command, submit.size) = (address_of(command), command.len() as u32);
        (submit.bo_handles, submit.num_bo_handles) = (address_of(&handles), handles.len() as u32);
        submit.ring_idx = match self.random.below(4) {
            0 => self.small(),
            _ => self.random.below(8) as u32,
        };
        submit.fence_fd = -1;
        self.node.ask(number::EXECBUFFER, &mut submit)?;
        if submit.fence_fd >= 0 {
            // SAFETY: the kernel made it for us; nobody looks at it.
            drop(unsafe {
                <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(submit.fence_fd)
            });
        }
        Ok(())
    }

    fn transfer(&mut self) -> Result<()> {
        let mut transfer = uapi::Transfer::zeroed();
        transfer.bo_handle = self.handle();
        transfer.region = [(); 6].map(|()| self.small());
        if self.random.below(2) == 0 {
            transfer.region = [(); 6].map(|()| self.random.below(80) as u32);
        }
        (transfer.level, transfer.offset) = (self.random.below(4) as u32, self.small());
        if self.random.below(4) == 0 {
            (transfer.stride, transfer.layer_stride) = (self.small(), self.small());
        }
        let direction = [number::TRANSFER_TO_HOST, number::TRANSFER_FROM_HOST];
        let direction = direction[self.random.below(2) as usize];
        self.node.ask(direction, &mut transfer)
    }

    fn share(&mut self) -> Result<()> {
        let index = self.random.below(self.blobs.len().max(1) as u64) as usize;
        let Some(blob) = self.blobs.get(index) else {
            return Ok(());
        };
        let file = self.node.export(blob)?;
        let other = Node::open()?;
        if self.random.below(8) == 0 {
            other.context(&[(CONTEXT_CAPSET_ID, CAPSET)])?;
        }
        let theirs = other.import(&file, blob.size)?;
        other.wait(&theirs)
    }

    /// A second context where there is one, or one of nonsense.
    fn begin_again(&mut self) -> Result<()> {
        let parameters: Vec<(u64, u64)> = (0..self.random.below(4))
            .map(|_| (self.random.below(6), self.random.below(70)))
            .collect();
        self.node.context(&parameters)?;
        Ok(())
    }

    /// Lets go of something that may be in use.
    fn forget(&mut self) -> Result<()> {
        if !self.blobs.is_empty() {
            let index = self.random.below(self.blobs.len() as u64) as usize;
            drop(self.blobs.swap_remove(index));
        }
        Ok(())
    }
}
