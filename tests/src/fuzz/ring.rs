//! A host's end of a ring whose every word may change between two of its steps.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use asgard_asg::host::{HostChannel, HostConfig};
use asgard_asg::{Error, Mapping, layout};

use super::{Script, reached, reached_message};

/// The words that mean something.
const WORDS: [usize; 12] = [
    layout::TO_HOST + layout::WRITE_POS,
    layout::TO_HOST + layout::READ_POS,
    layout::TO_HOST_LARGE + layout::WRITE_POS,
    layout::TO_HOST_LARGE + layout::READ_POS,
    layout::FROM_HOST + layout::WRITE_POS,
    layout::FROM_HOST + layout::READ_POS,
    layout::STATE,
    layout::TRANSFER_MODE,
    layout::TRANSFER_SIZE,
    layout::IN_ERROR,
    layout::BUFFER_SIZE,
    layout::GUEST_WAITING,
];

/// See the module.
pub fn ring(data: &[u8]) {
    let mut script = Script(data);
    let buffer_size = 1 << (6 + script.u8() % 8);
    let flush_interval = (u32::from(script.u8()) * 4).clamp(8, buffer_size / 2);
    let size = layout::blob_size(buffer_size);
    let (memory, _fd) = Mapping::create(size).expect("memory");
    let memory = Arc::new(memory);
    let config = HostConfig {
        buffer_size,
        flush_interval,
    };
    let mut channel = HostChannel::new(Arc::clone(&memory), config).expect("a valid ring");
    let mut received = Vec::new();
    let mut last = 0;
    while !script.is_empty() {
        let op = script.u8();
        let done = match op % 8 {
            0 | 1 => {
                let at = WORDS[usize::from(op >> 3) % WORDS.len()];
                let value = match script.u8() {
                    // Mostly a little further.
                    step @ 0..240 => word(&memory, at).wrapping_add(u32::from(step)),
                    _ => script.u32(),
                };
                write(&memory, at, value);
                Ok(())
            }
            2 => {
                let at = usize::from(script.u16()) % size;
                let bytes = script.bytes(usize::from(op >> 3) + 1);
                let fits = bytes.len().min(size - at);
                memory.copy_in(at, &bytes[..fits])
            }
            // An honest record.
            3 => {
                let at = layout::TO_HOST + layout::WRITE_POS;
                let position = word(&memory, at);
                let slot = (position % layout::INLINE_SIZE) as usize / 8 * 8;
                let record = [script.u16().into(), u32::from(script.u8())];
                let bytes: Vec<u8> = record.iter().flat_map(|w: &u32| w.to_le_bytes()).collect();
                let put = memory.copy_in(layout::TO_HOST + layout::INLINE + slot, &bytes);
                write(&memory, at, position.wrapping_add(8));
                put
            }
            4 | 5 => {
                received.clear();
                let taken = channel.recv(&mut received);
                if let Ok(taken) = taken {
                    assert_eq!(taken, received.len(), "recv tells what it took");
                    assert!(taken <= buffer_size as usize, "more than a buffer at once");
                    reached(("received", taken.min(8)));
                }
                taken.map(drop)
            }
            6 => {
                let bytes = vec![op; usize::from(script.u16()) % (3 * buffer_size as usize)];
                let used = (channel.counters().sent as u32)
                    .wrapping_sub(word(&memory, layout::FROM_HOST + layout::READ_POS));
                if bytes.len() as u64 + u64::from(used) >= u64::from(buffer_size) {
                    // It would wait for a reader.
                    channel.doorbell().stop();
                }
                channel.send(&bytes)
            }
            _ => {
                // What looks like news may be none, and then only this ends the wait.
                channel.doorbell().stop();
                reached(("woken", format!("{:?}", channel.wait(Duration::ZERO))));
                Ok(())
            }
        };
        reached((last, op % 8, done.is_ok()));
        last = op % 8;
        match done {
            Err(Error::Stopped) => {
                reached("stopped");
                channel = HostChannel::new(Arc::clone(&memory), config).expect("a valid ring");
            }
            Err(error) => {
                reached_message("ring", &error.to_string());
                channel.fail();
                assert!(channel.is_failed());
                assert!(
                    channel.recv(&mut received).is_err(),
                    "a failed ring stays so"
                );
                channel = HostChannel::new(Arc::clone(&memory), config).expect("a valid ring");
            }
            Ok(()) => {}
        }
    }
    channel.exit();
}

fn word(memory: &Mapping, at: usize) -> u32 {
    memory
        .atomic_u32(at)
        .map_or(0, |w| w.load(Ordering::SeqCst))
}

fn write(memory: &Mapping, at: usize, value: u32) {
    if let Ok(word) = memory.atomic_u32(at) {
        word.store(value, Ordering::SeqCst);
    }
}
