//! Guests that send nonsense or lie: each loses its context, with a message that says why, and a neighbour on the same server goes on and computes the right thing.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use asgard_asg::layout;
use asgard_protocol::extension::{
    self, CHOOSE_IDS, FOLLOW_QUEUE, FOLLOWED, Features, SLOTS, STATUS_PAGE, UNANSWERED,
    USE_FEATURES, chosen,
};
use asgard_protocol::types::*;
use asgard_protocol::{Command as _, commands as p, zeroed};
use asgard_tests::guest::{Guest, Objects, PATIENCE, Painter, Thread, encode, staged};
use asgard_tests::require::require;
use asgard_tests::via::{self, Server, Usage};

/// How much a server may hold on to: allocators keep some of what is freed.
const SLACK_KIB: u64 = 48 * 1024;

/// A server, its log, and a guest that paints on it all the time.
struct Stage {
    server: Server,
    log: PathBuf,
    rounds: Arc<AtomicU32>,
    fault: Arc<Mutex<Option<String>>>,
    stop: Arc<AtomicBool>,
    painter: Option<thread::JoinHandle<()>>,
    before: Usage,
    _dir: tempfile::TempDir,
}

impl Stage {
    fn new() -> Option<Self> {
        Self::with(&[])
    }

    /// With these options of the server.
    fn with(options: &[&str]) -> Option<Self> {
        if !require(&["mesa", "asgard"]) {
            return None;
        }
        let dir = tempfile::tempdir().expect("a folder");
        let log = dir.path().join("log");
        let file = std::fs::File::create(&log).expect("a log");
        let server = Server::start_with(|command| {
            command.arg("-v").args(options);
            command.env_remove("RUST_LOG").stderr(file);
        })
        .expect("a server");
        let mut painter = Painter::new(server.socket()).expect("a painter");
        painter.paint().expect("a picture");
        let rounds = Arc::new(AtomicU32::new(0));
        let fault = Arc::new(Mutex::new(None));
        let stop = Arc::new(AtomicBool::new(false));
        let mut stage = Self {
            before: server.usage().expect("usage"),
            server,
            log,
            rounds: Arc::clone(&rounds),
            fault: Arc::clone(&fault),
            stop: Arc::clone(&stop),
            painter: None,
            _dir: dir,
        };
        let socket = stage.server.socket().to_owned();
        drop(painter);
        let work = move || {
            let painting = Painter::new(&socket).and_then(|mut painter| {
                while !stop.load(Ordering::Relaxed) {
                    painter.paint()?;
                    rounds.store(painter.rounds, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(2));
                }
                Ok(())
            });
            if let Err(error) = painting {
                *fault.lock().expect("a lock") = Some(format!("{error:#}"));
            }
        };
        stage.painter = Some(thread::spawn(work));
        stage.paints("at the start");
        // The spare that replaces the painter's worker is there by now.
        thread::sleep(Duration::from_millis(500));
        stage.before = stage.server.usage().expect("usage");
        Some(stage)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The neighbour still paints.
    fn paints(&self, when: &str) {
        let start = self.rounds.load(Ordering::Relaxed);
        let end = Instant::now() + PATIENCE;
        loop {
            let fault = self.fault.lock().expect("a lock").clone();
            assert_eq!(fault, None, "the neighbour, {when}: {}", self.log());
            if self.rounds.load(Ordering::Relaxed) > start {
                return;
            }
            assert!(Instant::now() < end, "the neighbour stands still, {when}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn guest(&self) -> (Guest, u32, Thread) {
        let guest = Guest::connect(self.server.socket()).expect("a connection");
        let ctx_id = guest.context("hostile").expect("a context");
        let thread = guest.thread(ctx_id).expect("a ring");
        (guest, ctx_id, thread)
    }

    /// The log says this, after `from` bytes of other things.
    fn says(&self, from: usize, text: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.log().get(from..).is_some_and(|log| log.contains(text)) {
            assert!(
                Instant::now() < end,
                "the log does not say {text:?}: {}",
                self.log().get(from..).unwrap_or_default()
            );
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// A guest does something for which its context must end, with this message.
    fn ends(&self, text: &str, act: impl FnOnce(&Guest, u32, &mut Thread) -> anyhow::Result<()>) {
        let from = self.log().len();
        let (guest, ctx_id, mut thread) = self.guest();
        // The host may end the context before the last bytes are written.
        let done = act(&guest, ctx_id, &mut thread);
        assert!(thread.is_lost(), "the stream lives on: {text}: {done:?}");
        assert!(guest.is_served(), "the connection is still there: {text}");
        // Both hold the connection.
        drop((guest, thread));
        self.says(from, text);
        self.paints(text);
    }

    /// As [`Stage::ends`], with objects.
    fn ends_with_objects(
        &self,
        text: &str,
        act: impl FnOnce(&mut Thread, &Objects) -> anyhow::Result<()>,
    ) {
        self.ends(text, |_, _, t| {
            let objects = Objects::new(t)?;
            act(t, &objects)
        });
    }

    /// A guest does something that it may do, or that harms itself alone.
    fn lives(&self, what: &str, act: impl FnOnce(&Guest, u32, &mut Thread) -> anyhow::Result<()>) {
        let (guest, ctx_id, mut thread) = self.guest();
        if let Err(error) = act(&guest, ctx_id, &mut thread) {
            panic!("{what}: {error:#}\n{}", self.log());
        }
        self.paints(what);
        drop((guest, thread));
        self.paints(what);
    }

    /// Nothing is left of those that were there.
    fn settles(&self) {
        let end = Instant::now() + PATIENCE;
        loop {
            let now = self.server.usage().expect("the server is gone");
            let settled = now.processes <= self.before.processes
                && now.threads <= self.before.threads
                && now.descriptors <= self.before.descriptors
                && now.resident_kib <= self.before.resident_kib + SLACK_KIB;
            if settled {
                return;
            }
            let (before, log) = (self.before, self.log());
            assert!(
                Instant::now() < end,
                "the server holds {now:?}; before it held {before:?}\n{log}"
            );
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.settles();
            let log = self.log();
            for bad in ["panicked", "was killed by", "internal error"] {
                assert!(!log.contains(bad), "{bad}: {log}");
            }
        }
        self.stop.store(true, Ordering::Relaxed);
        if let Some(painter) = self.painter.take() {
            let _ = painter.join();
        }
    }
}

/// A packet of these words.
fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

/// vkCreateInstance with this chain behind it.
fn create_instance(t: &Thread, chain: &[u8]) -> Vec<u8> {
    let info = VkInstanceCreateInfo {
        sType: VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO,
        ..zeroed()
    };
    let mut instance = VkInstance(0);
    let mut bytes = t.packet(&p::vkCreateInstance {
        pCreateInfo: &raw const info,
        pAllocator: std::ptr::null(),
        pInstance: &raw mut instance,
    });
    // Header, number, sType, and the end of the chain.
    bytes.splice(16..20, chain.iter().copied());
    let size = bytes.len() as u32;
    bytes[4..8].copy_from_slice(&size.to_le_bytes());
    bytes
}

#[test]
fn packets_that_are_none_end_their_context() {
    let Some(stage) = Stage::new() else { return };
    for size in [0, 7, 401 << 20, u32::MAX] {
        let text = format!("a packet of {size} bytes, where 8 to 419430400 are possible");
        stage.ends(&text, |_, _, t| {
            Ok(t.channel.write(&words(&[20000, size, 1]))?)
        });
    }
    stage.ends("opcode 12345 is no command", |_, _, t| {
        Ok(t.channel.write(&words(&[12345, 12, 1]))?)
    });
    // Whatever its number, it will never be its turn.
    stage.ends("opcode 12345 is no command", |_, _, t| {
        Ok(t.channel.write(&words(&[12345, 12, 999]))?)
    });
    stage.ends("a packet without a sequence number", |_, _, t| {
        Ok(t.channel.write(&words(&[20000, 8]))?)
    });
    stage.ends(
        "vkCreateInstance: the packet ends before its contents do",
        |_, _, t| Ok(t.channel.write(&words(&[20000, 20, 1, 1, 0]))?),
    );
    stage.ends("vkCreateInstance: 4 bytes are left over", |_, _, t| {
        let mut bytes = create_instance(t, &[0; 4]);
        bytes.extend([0; 4]);
        let size = bytes.len() as u32;
        bytes[4..8].copy_from_slice(&size.to_le_bytes());
        Ok(t.channel.write(&bytes)?)
    });
    // Noise, in large transfers and small ones.
    for len in [100, 5000, 100_000, 3 << 20] {
        stage.ends("the context had failed", |_, _, t| {
            let mut state = len as u32;
            let noise: Vec<u8> = std::iter::repeat_with(|| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .take(len)
            .collect();
            let mut bytes = words(&[20000, 100, 1]);
            bytes.extend(noise);
            // It may be cut off before it is through.
            let _ = t.channel.write(&bytes);
            Ok(())
        });
    }
}

#[test]
fn contents_that_are_wrong_end_their_context() {
    let Some(stage) = Stage::new() else { return };
    stage.ends(
        "vkCreateInstance: structure type 99 stands where 1 is due",
        |_, _, t| {
            let mut bytes = create_instance(t, &[0; 4]);
            bytes[12..16].copy_from_slice(&99u32.to_le_bytes());
            Ok(t.channel.write(&bytes)?)
        },
    );
    stage.ends(
        "vkCreateInstance: unknown structure type 777 in a chain",
        |_, _, t| {
            let mut chain = vec![0, 0, 0, 16];
            chain.extend(words(&[777, 777]));
            chain.extend([0; 4]);
            Ok(t.channel.write(&create_instance(t, &chain))?)
        },
    );
    stage.ends(
        "vkCreateInstance: a chain of more than 1024 structs",
        |_, _, t| {
            let link = [
                1u32.to_be_bytes(),
                VK_STRUCTURE_TYPE_VALIDATION_FLAGS_EXT.to_le_bytes(),
                VK_STRUCTURE_TYPE_VALIDATION_FLAGS_EXT.to_le_bytes(),
            ]
            .concat();
            let chain = link.repeat(5000);
            Ok(t.channel.write(&create_instance(t, &chain))?)
        },
    );
    stage.ends(
        "vkEnumeratePhysicalDevices: the packet ends before its contents do",
        |_, _, t| {
            let instance = Objects::instance(t)?;
            let mut bytes = words(&[20002, 36, t.next()]);
            bytes.extend(instance.0.to_le_bytes());
            bytes.extend([1; 8]);
            bytes.extend(u32::MAX.to_le_bytes());
            bytes.extend([1; 4]);
            Ok(t.channel.write(&bytes)?)
        },
    );
    stage.ends_with_objects(
        "vkCreateDevice: the packet ends before its contents do",
        |t, o| {
            let info = VkDeviceCreateInfo {
                sType: VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
                ..zeroed()
            };
            let mut device = VkDevice(0);
            let mut bytes = t.packet(&p::vkCreateDevice {
                physicalDevice: o.physical,
                physicalDevice_token: 0,
                pCreateInfo: &raw const info,
                pAllocator: std::ptr::null(),
                pDevice: &raw mut device,
            });
            // queueCreateInfoCount, behind physicalDevice, sType, chain and flags.
            bytes[32..36].copy_from_slice(&u32::MAX.to_le_bytes());
            Ok(t.channel.write(&bytes)?)
        },
    );
    stage.ends_with_objects("a memory type that the device does not have", |t, o| {
        let info = VkMemoryAllocateInfo {
            sType: VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO,
            allocationSize: 4096,
            memoryTypeIndex: 31,
            ..zeroed()
        };
        let mut memory = VkDeviceMemory(0);
        t.send(&p::vkAllocateMemory {
            device: o.device,
            device_token: 0,
            pAllocateInfo: &raw const info,
            pAllocator: std::ptr::null(),
            pMemory: &raw mut memory,
        })
    });
}

#[test]
fn memory_that_guests_may_map_is_not_bound_sparsely() {
    let Some(stage) = Stage::new() else { return };
    stage.ends_with_objects(
        "memory bound to a sparse resource that is not of a type for it",
        |t, o| {
            let bind = VkSparseMemoryBind {
                size: 65536,
                memory: o.memory(t, 65536)?,
                ..zeroed()
            };
            let buffer = VkSparseBufferMemoryBindInfo {
                buffer: o.buffer(t, 65536)?,
                bindCount: 1,
                pBinds: &raw const bind,
            };
            let info = VkBindSparseInfo {
                sType: VK_STRUCTURE_TYPE_BIND_SPARSE_INFO,
                bufferBindCount: 1,
                pBufferBinds: &raw const buffer,
                ..zeroed()
            };
            t.send(&p::vkQueueBindSparse {
                queue: o.queue,
                bindInfoCount: 1,
                pBindInfo: &raw const info,
                ..zeroed()
            })
        },
    );
}

#[test]
fn tokens_that_name_nothing_end_their_context() {
    let Some(stage) = Stage::new() else { return };
    stage.ends("0x123456789abcdef is not a live Device", |_, _, t| {
        t.send(&p::vkDeviceWaitIdle {
            device: VkDevice(0x0123_4567_89ab_cdef),
            device_token: 0,
        })
    });
    stage.ends("null where a Device must be", |_, _, t| {
        t.send(&p::vkDeviceWaitIdle {
            device: VkDevice(0),
            device_token: 0,
        })
    });
    // Null is for where nothing may be.
    stage.ends_with_objects("null where a Image must be", |t, o| {
        t.send(&p::vkGetImageMemoryRequirements {
            device: o.device,
            ..zeroed()
        })
    });
    // A buffer is no device.
    stage.ends_with_objects("is not a live Device", |t, o| {
        let buffer = o.buffer(t, 64)?;
        t.send(&p::vkDeviceWaitIdle {
            device: VkDevice(buffer.0),
            device_token: 0,
        })
    });
    let destroy = |o: &Objects, buffer| p::vkDestroyBuffer {
        device: o.device,
        buffer,
        ..zeroed()
    };
    stage.ends_with_objects("is not a live Buffer", |t, o| {
        let buffer = o.buffer(t, 64)?;
        t.send(&destroy(o, buffer))?;
        // The next one takes its place, and is somebody else all the same.
        anyhow::ensure!(o.buffer(t, 64)? != buffer, "a token came back");
        t.send(&destroy(o, buffer))
    });
    stage.ends_with_objects("vkDestroyDevice: 0x", |t, o| {
        let twice = p::vkDestroyDevice {
            device: o.device,
            device_token: 0,
            pAllocator: std::ptr::null(),
        };
        t.send(&twice)?;
        t.send(&twice)
    });
    stage.ends_with_objects("is not a live CommandBuffer", |t, o| {
        let (pool, buffer) = o.command_buffer(t)?;
        t.send(&p::vkDestroyCommandPool {
            device: o.device,
            commandPool: pool,
            ..zeroed()
        })?;
        o.flush(t, buffer, &[])
    });
    // Another guest's tokens are nobody's here.
    let (_keep, _, mut other) = stage.guest();
    let theirs = Objects::new(&mut other).expect("objects");
    stage.ends("is not a live Device", |_, _, t| {
        t.send(&p::vkDeviceWaitIdle {
            device: theirs.device,
            device_token: 0,
        })
    });
}

/// A packet of Asgard's own.
fn ours(t: &mut Thread, opcode: u32, words: &[u64]) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    extension::write(opcode, words, &mut bytes);
    Ok(t.channel.write(&bytes)?)
}

/// A fence is made under these ids.
fn fence_as(t: &mut Thread, o: &Objects, ids: &[u64]) -> anyhow::Result<()> {
    let info = VkFenceCreateInfo {
        sType: VK_STRUCTURE_TYPE_FENCE_CREATE_INFO,
        ..zeroed()
    };
    let mut fence = VkFence(0);
    ours(t, CHOOSE_IDS, ids)?;
    t.send(&p::vkCreateFence {
        device: o.device,
        pCreateInfo: &raw const info,
        pFence: &raw mut fence,
        ..zeroed()
    })
}

#[test]
fn extensions_of_the_wire_that_are_misused_end_their_context() {
    let Some(stage) = Stage::new() else { return };
    let all = Features::ALL.bits();
    let id = |generation, number| chosen(Kind::Fence, generation, number);
    let with = |text: &str, act: &dyn Fn(&mut Thread, &Objects) -> anyhow::Result<()>| {
        stage.ends_with_objects(text, |t, o| {
            ours(t, USE_FEATURES, &[all])?;
            act(t, o)
        });
    };

    stage.ends("features of the wire that were not offered", |_, _, t| {
        ours(t, USE_FEATURES, &[1 << 63])
    });
    stage.ends("features that are not one word", |_, _, t| {
        ours(t, USE_FEATURES, &[0, 0])
    });
    stage.ends("does not consist of words", |_, _, t| {
        Ok(t.channel.write(&words(&[USE_FEATURES, 12, 1]))?)
    });
    stage.ends("is no command", |_, _, t| ours(t, 0x4153_ffff, &[]));
    stage.ends_with_objects(
        "uses chosen-ids of the wire, which was not agreed on",
        |t, o| fence_as(t, o, &[id(1, 0)]),
    );

    with("no chosen ids", &|t, _| ours(t, CHOOSE_IDS, &[]));
    with("ids chosen for no creation", &|t, o| {
        ours(t, CHOOSE_IDS, &[id(1, 0)])?;
        fence_as(t, o, &[id(1, 1)])
    });
    with("ids chosen for more objects than were created", &|t, o| {
        fence_as(t, o, &[id(1, 0), id(1, 1)])
    });
    with("ids chosen for more objects than were created", &|t, o| {
        ours(t, CHOOSE_IDS, &[id(1, 0)])?;
        t.send(&p::vkDeviceWaitIdle {
            device: o.device,
            device_token: 0,
        })
    });
    with(
        "a chosen id that is not among those to choose from",
        &|t, o| fence_as(t, o, &[o.device.0]),
    );
    with("a chosen id far from all others", &|t, o| {
        fence_as(t, o, &[id(1, extension::IDS - 1)])
    });
    with("an id chosen for an object of another type", &|t, o| {
        fence_as(t, o, &[chosen(Kind::Semaphore, 1, 0)])
    });
    with("an id chosen for two objects at once", &|t, o| {
        fence_as(t, o, &[id(1, 0)])?;
        fence_as(t, o, &[id(2, 0)])
    });
    with("a chosen id that was used before", &|t, o| {
        fence_as(t, o, &[id(7, 0)])?;
        let fence = VkFence(id(7, 0));
        t.send(&p::vkDestroyFence {
            device: o.device,
            fence,
            ..zeroed()
        })?;
        fence_as(t, o, &[id(7, 0)])
    });
    with("a chosen id that was used before", &|t, o| {
        fence_as(t, o, &[id(0, 0)])
    });
    // No driver has that much memory.
    with(
        "vkAllocateMemory, which the guest does not wait for, failed",
        &|t, o| {
            let info = VkMemoryAllocateInfo {
                sType: VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO,
                allocationSize: u64::MAX >> 1 & !0xfff,
                ..zeroed()
            };
            let mut memory = VkDeviceMemory(0);
            ours(t, CHOOSE_IDS, &[chosen(Kind::DeviceMemory, 1, 0)])?;
            t.send(&p::vkAllocateMemory {
                device: o.device,
                pAllocateInfo: &raw const info,
                pMemory: &raw mut memory,
                ..zeroed()
            })
        },
    );
    stage.ends_with_objects(
        "uses unanswered of the wire, which was not agreed on",
        |t, _| ours(t, UNANSWERED, &[]),
    );
    with("announced with words", &|t, _| ours(t, UNANSWERED, &[1]));
    with("no command follows that could go unanswered", &|t, _| {
        ours(t, UNANSWERED, &[])?;
        ours(t, UNANSWERED, &[])
    });
    with("an answer that is more than a result", &|t, o| {
        ours(t, UNANSWERED, &[])?;
        t.send(&p::vkDestroyFence {
            device: o.device,
            ..zeroed()
        })
    });
    with("an answer that is more than a result", &|t, o| {
        let mut queue = VkQueue(0);
        ours(t, UNANSWERED, &[])?;
        t.send(&p::vkGetDeviceQueue {
            device: o.device,
            pQueue: &raw mut queue,
            ..zeroed()
        })
    });
    with(
        "vkGetFenceStatus, which the guest does not wait for, failed",
        &|t, o| {
            fence_as(t, o, &[id(1, 0)])?;
            ours(t, UNANSWERED, &[])?;
            t.send(&p::vkGetFenceStatus {
                device: o.device,
                fence: VkFence(id(1, 0)),
                ..zeroed()
            })
        },
    );
    for opcode in [STATUS_PAGE, FOLLOW_QUEUE] {
        stage.ends_with_objects(
            "uses status-page of the wire, which was not agreed on",
            |t, _| ours(t, opcode, &[1]),
        );
    }
    with("a status page without its blob id", &|t, _| {
        ours(t, STATUS_PAGE, &[1, 2])
    });
    with("a second status page", &|t, _| {
        ours(t, STATUS_PAGE, &[1])?;
        ours(t, STATUS_PAGE, &[2])
    });
    let queue_of = |t: &mut Thread, o: &Objects| -> anyhow::Result<u64> {
        let mut queue = VkQueue(0);
        t.call(&mut p::vkGetDeviceQueue {
            device: o.device,
            pQueue: &raw mut queue,
            ..zeroed()
        })?;
        Ok(queue.0)
    };
    with("a queue to follow without a status page", &|t, o| {
        let queue = queue_of(t, o)?;
        ours(t, FOLLOW_QUEUE, &[queue, 0, 1])
    });
    with("a queue to follow that is not three words", &|t, o| {
        let queue = queue_of(t, o)?;
        ours(t, STATUS_PAGE, &[1])?;
        ours(t, FOLLOW_QUEUE, &[queue, 0])
    });
    for (slot, until, text) in [
        (SLOTS, 1, "a slot that the status page does not have"),
        (u64::MAX, 1, "a slot that the status page does not have"),
        (0, FOLLOWED + 1, "a queue to follow far ahead"),
        (0, u64::MAX, "a queue to follow far ahead"),
    ] {
        with(text, &|t, o| {
            let queue = queue_of(t, o)?;
            ours(t, STATUS_PAGE, &[1])?;
            ours(t, FOLLOW_QUEUE, &[queue, slot, until])
        });
    }
    // A guest that asks for the same again and again, and never looks.
    stage.lives("a queue that is followed", |_, _, t| {
        let o = Objects::new(t)?;
        ours(t, USE_FEATURES, &[all])?;
        ours(t, STATUS_PAGE, &[1])?;
        let queue = queue_of(t, &o)?;
        // What is no queue may have been one.
        for token in [0, o.device.0, queue + 1, u64::MAX] {
            ours(t, FOLLOW_QUEUE, &[token, 0, 1])?;
        }
        for round in 0..5000 {
            ours(t, FOLLOW_QUEUE, &[queue, round % SLOTS, round])?;
            if round % 100 == 0 {
                t.send(&p::vkQueueSubmitAsyncGOOGLE {
                    queue: VkQueue(queue),
                    ..zeroed()
                })?;
            }
        }
        let idle = t.call(&mut p::vkDeviceWaitIdle {
            device: o.device,
            device_token: 0,
        })?;
        anyhow::ensure!(idle == VK_SUCCESS, "the device says {idle}");
        Ok(())
    });
    // A guest that behaves: what it does not wait for happens, and in order.
    stage.lives("unanswered commands", |_, _, t| {
        let o = Objects::new(t)?;
        ours(t, USE_FEATURES, &[all])?;
        let mut event = VkEvent(0);
        let info = VkEventCreateInfo {
            sType: VK_STRUCTURE_TYPE_EVENT_CREATE_INFO,
            ..zeroed()
        };
        t.call(&mut p::vkCreateEvent {
            device: o.device,
            pCreateInfo: &raw const info,
            pEvent: &raw mut event,
            ..zeroed()
        })?;
        for round in 0..200 {
            ours(t, UNANSWERED, &[])?;
            let (device, expected) = (o.device, [VK_EVENT_RESET, VK_EVENT_SET][round % 2]);
            match expected {
                VK_EVENT_SET => t.send(&p::vkSetEvent {
                    device,
                    event,
                    ..zeroed()
                })?,
                _ => t.send(&p::vkResetEvent {
                    device,
                    event,
                    ..zeroed()
                })?,
            }
            let status = t.call(&mut p::vkGetEventStatus {
                device,
                event,
                ..zeroed()
            })?;
            anyhow::ensure!(status == expected, "round {round}: {status}");
        }
        Ok(())
    });
    // A guest that behaves, and leaves its objects behind.
    stage.lives("chosen ids", |_, _, t| {
        let o = Objects::new(t)?;
        ours(t, USE_FEATURES, &[all])?;
        for round in 1..100 {
            for number in 0..20 {
                fence_as(t, &o, &[id(round, number)])?;
            }
            let fence = VkFence(id(round, 3));
            let status = t.call(&mut p::vkGetFenceStatus {
                device: o.device,
                fence,
                ..zeroed()
            })?;
            anyhow::ensure!(status == VK_NOT_READY, "a new fence says {status}");
            for number in (0..20).filter(|_| round < 99) {
                let fence = VkFence(id(round, number));
                t.send(&p::vkDestroyFence {
                    device: o.device,
                    fence,
                    ..zeroed()
                })?;
            }
        }
        Ok(())
    });
}

/// An image that the host may copy by itself, with memory: 20 texels of 4 bytes by 10, two levels, three layers.
fn copied_image(t: &mut Thread, o: &Objects, usage: VkImageUsageFlags) -> anyhow::Result<VkImage> {
    let info = VkImageCreateInfo {
        sType: VK_STRUCTURE_TYPE_IMAGE_CREATE_INFO,
        imageType: VK_IMAGE_TYPE_2D,
        format: VK_FORMAT_R8G8B8A8_UNORM,
        extent: VkExtent3D {
            width: 20,
            height: 10,
            depth: 1,
        },
        mipLevels: 2,
        arrayLayers: 3,
        samples: VK_SAMPLE_COUNT_1_BIT,
        usage,
        ..zeroed()
    };
    let mut image = VkImage(0);
    t.done(&mut p::vkCreateImage {
        device: o.device,
        pCreateInfo: &raw const info,
        pImage: &raw mut image,
        ..zeroed()
    })?;
    let memory = o.memory(t, 1 << 20)?;
    t.done(&mut p::vkBindImageMemory {
        device: o.device,
        image,
        memory,
        ..zeroed()
    })?;
    Ok(image)
}

/// A part of that image.
#[derive(Clone, Copy)]
struct Part {
    flags: VkHostImageCopyFlags,
    aspect: VkImageAspectFlags,
    level: u32,
    layers: [u32; 2],
    offset: [i32; 3],
    extent: [u32; 3],
}

/// All of it.
const WHOLE: Part = Part {
    flags: 0,
    aspect: VK_IMAGE_ASPECT_COLOR_BIT,
    level: 0,
    layers: [0, 3],
    offset: [0; 3],
    extent: [20, 10, 1],
};

/// A part is copied to and from that many bytes.
fn copies(
    t: &mut Thread,
    o: &Objects,
    image: VkImage,
    part: Part,
    bytes: usize,
) -> anyhow::Result<[VkResult; 2]> {
    let mut data: Vec<u8> = (0..bytes).map(|i| i as u8).collect();
    let subresource = VkImageSubresourceLayers {
        aspectMask: part.aspect,
        mipLevel: part.level,
        baseArrayLayer: part.layers[0],
        layerCount: part.layers[1],
    };
    let [x, y, z] = part.offset;
    let [width, height, depth] = part.extent;
    let offset = VkOffset3D { x, y, z };
    let extent = VkExtent3D {
        width,
        height,
        depth,
    };
    let to = t.call(&mut p::vkCopyMemoryToImageASGARD {
        device: o.device,
        image,
        imageLayout: VK_IMAGE_LAYOUT_GENERAL,
        flags: part.flags,
        pSubresource: &raw const subresource,
        pOffset: &raw const offset,
        pExtent: &raw const extent,
        dataSize: bytes as u32,
        pData: data.as_ptr().cast(),
        ..zeroed()
    })?;
    let sent = std::mem::replace(&mut data, vec![0; bytes]);
    let from = t.call(&mut p::vkCopyImageToMemoryASGARD {
        device: o.device,
        image,
        imageLayout: VK_IMAGE_LAYOUT_GENERAL,
        flags: part.flags,
        pSubresource: &raw const subresource,
        pOffset: &raw const offset,
        pExtent: &raw const extent,
        dataSize: bytes as u32,
        pData: data.as_mut_ptr().cast(),
        ..zeroed()
    })?;
    anyhow::ensure!(data == sent, "what was copied is not what was sent");
    Ok([to, from])
}

#[test]
fn host_image_copies_that_lie_end_their_context() {
    let Some(stage) = Stage::new() else { return };
    const HOST: VkImageUsageFlags =
        VK_IMAGE_USAGE_HOST_TRANSFER_BIT | VK_IMAGE_USAGE_TRANSFER_DST_BIT;
    let objects = |t: &mut Thread, features: Features| {
        ours(t, USE_FEATURES, &[features.bits()])?;
        let o = Objects::new(t)?;
        let extensions = [c"VK_EXT_host_image_copy"];
        Objects::with(t, o.instance, o.physical, &extensions)
    };
    stage.ends("uses host-image-copy of the wire", |_, _, t| {
        let o = objects(t, Features::CHOSEN_IDS)?;
        let image = copied_image(t, &o, HOST)?;
        copies(t, &o, image, WHOLE, 2400).map(drop)
    });
    stage.ends("an image that is not made for it", |_, _, t| {
        let o = objects(t, Features::ALL)?;
        let image = copied_image(t, &o, VK_IMAGE_USAGE_TRANSFER_DST_BIT)?;
        copies(t, &o, image, WHOLE, 2400).map(drop)
    });
    let (other, no_part) = ("a copy of other bytes", "a copy of no part of its image");
    let nothing = "a copy of what an image does not have";
    let memcpy = VK_HOST_IMAGE_COPY_MEMCPY_BIT;
    let minus = i32::MIN;
    let most = u32::MAX;
    #[rustfmt::skip]
    let lies = [
        (other, 2399, WHOLE),
        (other, 2401, WHOLE),
        (other, 0, Part { extent: [20, 0, 1], ..WHOLE }),
        (other, 0, Part { layers: [0, 0], ..WHOLE }),
        (other, 100, Part { flags: memcpy, ..WHOLE }),
        (other, 0, Part { flags: memcpy, layers: [0, 0], ..WHOLE }),
        (no_part, 2400, Part { flags: 1 << 30, ..WHOLE }),
        (no_part, 2400, Part { level: 2, ..WHOLE }),
        (no_part, 2400, Part { level: most, ..WHOLE }),
        (no_part, 2400, Part { level: 1, ..WHOLE }),
        (no_part, 2400, Part { layers: [1, 3], ..WHOLE }),
        (no_part, 2400, Part { layers: [most, 1], ..WHOLE }),
        (no_part, 2400, Part { layers: [0, most], ..WHOLE }),
        (no_part, 2400, Part { offset: [1, 0, 0], ..WHOLE }),
        (no_part, 2400, Part { offset: [0, -1, 0], ..WHOLE }),
        (no_part, 2400, Part { offset: [0, 0, minus], ..WHOLE }),
        (no_part, 2400, Part { extent: [most, 10, 1], ..WHOLE }),
        (no_part, 2400, Part { extent: [20, 1 << 30, 1], ..WHOLE }),
        (no_part, 2400, Part { extent: [20, 10, 2], ..WHOLE }),
        (no_part, 2400, Part { offset: [i32::MAX, 0, 0], extent: [most, 10, 1], ..WHOLE }),
        (nothing, 2400, Part { aspect: VK_IMAGE_ASPECT_DEPTH_BIT, ..WHOLE }),
        (nothing, 2400, Part { aspect: 0, ..WHOLE }),
        (nothing, 2400, Part { aspect: most, ..WHOLE }),
        (nothing, 2400, Part { aspect: VK_IMAGE_ASPECT_PLANE_1_BIT, flags: memcpy, ..WHOLE }),
    ];
    for (text, bytes, part) in lies {
        stage.ends(text, |_, _, t| {
            let o = objects(t, Features::ALL)?;
            let image = copied_image(t, &o, HOST)?;
            copies(t, &o, image, part, bytes).map(drop)
        });
    }
    // Of an image that is gone.
    stage.ends("vkCopyMemoryToImageASGARD", |_, _, t| {
        let o = objects(t, Features::ALL)?;
        let image = copied_image(t, &o, HOST)?;
        t.send(&p::vkDestroyImage {
            device: o.device,
            image,
            ..zeroed()
        })?;
        copies(t, &o, image, WHOLE, 2400).map(drop)
    });
    stage.lives("host image copies", |_, _, t| {
        let o = objects(t, Features::ALL)?;
        let image = copied_image(t, &o, HOST)?;
        let level = Part {
            level: 1,
            extent: [10, 5, 1],
            ..WHOLE
        };
        for (part, bytes) in [(WHOLE, 2400), (level, 600)] {
            let done = copies(t, &o, image, part, bytes)?;
            anyhow::ensure!(done == [VK_SUCCESS; 2], "copies: {done:?}");
        }
        Ok(())
    });
}

#[test]
fn a_host_that_offers_nothing_takes_nothing() {
    let Some(stage) = Stage::with(&["--wire-features=none"]) else {
        return;
    };
    stage.ends("features of the wire that were not offered", |_, _, t| {
        ours(t, USE_FEATURES, &[Features::CHOSEN_IDS.bits()])
    });
    stage.lives("upstream's wire", |_, _, t| {
        ours(t, USE_FEATURES, &[0])?;
        Objects::new(t).map(drop)
    });
}

#[test]
fn recordings_that_are_wrong_end_their_context() {
    let Some(stage) = Stage::new() else { return };
    let recording = |text: &str, make: &dyn Fn(&Objects, VkCommandBuffer) -> Vec<u8>| {
        stage.ends_with_objects(text, |t, o| {
            let (_, buffer) = o.command_buffer(t)?;
            let bytes = make(o, buffer);
            o.flush(t, buffer, &bytes)
        });
    };
    recording("opcode 20018 cannot be recorded", &|_, _| {
        words(&[p::vkQueueSubmit::OPCODE, 8])
    });
    recording("opcode 12345 cannot be recorded", &|_, _| {
        words(&[12345, 8])
    });
    for size in [0, 7, 9, 401 << 20, u32::MAX] {
        let text = format!("a packet of {size} bytes");
        recording(&text, &|_, _| words(&[p::vkCmdFillBuffer::OPCODE, size]));
    }
    recording("a recording ends inside a header", &|_, _| words(&[20000]));
    recording("the packet ends before its contents do", &|o, buffer| {
        let mut bytes = Objects::filling(buffer, VkBuffer(o.device.0), 0);
        bytes.clear();
        bytes.extend(words(&[p::vkCmdFillBuffer::OPCODE, 12, 0]));
        bytes
    });
    recording("is not a live Buffer", &|o, buffer| {
        Objects::filling(buffer, VkBuffer(o.device.0), 0)
    });
    recording("null where a Buffer must be", &|_, buffer| {
        Objects::filling(buffer, VkBuffer(0), 0)
    });
    // A recording within a recording.
    recording("cannot be recorded", &|o, buffer| {
        let inner = Objects::filling(buffer, VkBuffer(0), 0);
        encode(
            &p::vkQueueFlushCommandsGOOGLE {
                queue: o.queue,
                commandBuffer: buffer,
                dataSize: inner.len() as u64,
                pData: inner.as_ptr().cast(),
                ..zeroed()
            },
            1,
        )
    });
    stage.ends_with_objects("null where a CommandBuffer must be", |t, o| {
        o.flush(t, VkCommandBuffer(0), &[])
    });
    // A size that the packet does not have.
    stage.ends_with_objects("the packet ends before its contents do", |t, o| {
        let (_, buffer) = o.command_buffer(t)?;
        let mut bytes = t.packet(&p::vkQueueFlushCommandsGOOGLE {
            queue: o.queue,
            commandBuffer: buffer,
            ..zeroed()
        });
        let at = bytes.len() - 8;
        bytes[at..].copy_from_slice(&u64::MAX.to_le_bytes());
        Ok(t.channel.write(&bytes)?)
    });
    let mut unused = Vec::new();
    staged(
        &p::vkEndCommandBufferAsyncGOOGLE {
            commandBuffer: VkCommandBuffer(0),
            commandBuffer_token: 0,
        },
        &mut unused,
    );
    assert_eq!(unused.len(), 8, "a recording leaves the command buffer out");
}

/// Writes a word of a ring and wakes its host.
fn lie(t: &Thread, at: usize, value: u32) -> anyhow::Result<()> {
    t.memory.atomic_u32(at)?.store(value, Ordering::SeqCst);
    ring(t)
}

/// Wakes the host.
fn ring(t: &Thread) -> anyhow::Result<()> {
    let bell = t.memory.atomic_u32(layout::DOORBELL)?;
    bell.fetch_add(1, Ordering::SeqCst);
    // SAFETY: a futex call on a word that is mapped.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            std::ptr::from_ref(bell),
            libc::FUTEX_WAKE,
            i32::MAX,
        );
    }
    Ok(())
}

#[test]
fn rings_that_lie_end_their_context() {
    let Some(stage) = Stage::new() else { return };
    let word = |t: &Thread, at| -> anyhow::Result<u32> {
        Ok(t.memory.atomic_u32(at)?.load(Ordering::SeqCst))
    };
    // Its first bytes are through, so that whatever comes is news.
    let read = |t: &Thread| -> anyhow::Result<()> {
        let end = Instant::now() + PATIENCE;
        while word(t, layout::TO_HOST + layout::READ_POS)?
            != word(t, layout::TO_HOST + layout::WRITE_POS)?
        {
            anyhow::ensure!(Instant::now() < end, "the host does not read");
            thread::yield_now();
        }
        Ok(())
    };
    let record = |t: &Thread, offset: u32, size: u32| -> anyhow::Result<()> {
        let position = word(t, layout::TO_HOST + layout::WRITE_POS)?;
        let at = layout::TO_HOST + layout::INLINE + (position % layout::INLINE_SIZE) as usize;
        t.memory.copy_in(at, &words(&[offset, size]))?;
        lie(t, layout::TO_HOST + layout::WRITE_POS, position + 8)
    };
    for (offset, size, text) in [
        (u32::MAX, 16, "the peer lied about record offset"),
        ((1 << 20) - 8, 16, "the peer lied about record offset"),
        (0, u32::MAX, "the peer lied about record size"),
        (0, (1 << 20) + 1, "the peer lied about record size"),
    ] {
        stage.ends(text, |_, _, t| record(t, offset, size));
    }
    for ring in [layout::TO_HOST, layout::TO_HOST_LARGE] {
        for jump in [1 << 31, 1 << 20, 1] {
            stage.ends("the peer lied about", |_, _, t| {
                read(t)?;
                let at = ring + layout::WRITE_POS;
                let position = word(t, at)?;
                lie(t, at, position.wrapping_add(jump))
            });
        }
    }
    stage.ends("the peer lied about", |_, _, t| {
        // Backwards.
        read(t)?;
        let position = word(t, layout::TO_HOST + layout::WRITE_POS)?;
        lie(
            t,
            layout::TO_HOST + layout::WRITE_POS,
            position.wrapping_sub(8),
        )
    });
    stage.ends("the peer lied about transfer size", |_, _, t| {
        t.memory
            .atomic_u32(layout::TRANSFER_SIZE)?
            .store(10, Ordering::SeqCst);
        lie(t, layout::TO_HOST_LARGE + layout::WRITE_POS, 4096)
    });
}

#[test]
fn guests_that_stop_hold_up_nobody() {
    let Some(stage) = Stage::new() else { return };
    stage.lives(
        "stopping in the middle of a large transfer",
        |guest, ctx, t| {
            t.memory
                .atomic_u32(layout::TRANSFER_SIZE)?
                .store(100_000, Ordering::SeqCst);
            lie(t, layout::TO_HOST_LARGE + layout::WRITE_POS, 4)?;
            thread::sleep(Duration::from_millis(300));
            // The rest of the guest is alive.
            let mut second = guest.thread(ctx)?;
            Objects::instance(&mut second)?;
            Ok(())
        },
    );
    stage.lives("half a packet", |guest, ctx, t| {
        t.channel.write(&words(&[20000, 1000, 1, 1]))?;
        let mut second = guest.thread(ctx)?;
        Objects::instance(&mut second)?;
        Ok(())
    });
    stage.lives("not reading", |guest, ctx, t| {
        let o = Objects::new(t)?;
        let info = VkQueryPoolCreateInfo {
            sType: VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO,
            queryType: VK_QUERY_TYPE_OCCLUSION,
            queryCount: 1,
            ..zeroed()
        };
        let mut pool = VkQueryPool(0);
        t.done(&mut p::vkCreateQueryPool {
            device: o.device,
            device_token: 0,
            pCreateInfo: &raw const info,
            pAllocator: std::ptr::null(),
            pQueryPool: &raw mut pool,
        })?;
        let mut data = vec![0u8; 4 << 20];
        t.send(&p::vkGetQueryPoolResults {
            device: o.device,
            queryPool: pool,
            queryCount: 1,
            dataSize: data.len(),
            pData: data.as_mut_ptr().cast(),
            stride: 8,
            ..zeroed()
        })?;
        // The reply is four times what fits; another thread does not mind.
        let mut second = guest.thread(ctx)?;
        o.buffer(&mut second, 64)?;
        Ok(())
    });
    stage.lives("waiting for ever", |guest, ctx, t| {
        let o = Objects::new(t)?;
        let info = VkFenceCreateInfo {
            sType: VK_STRUCTURE_TYPE_FENCE_CREATE_INFO,
            ..zeroed()
        };
        let mut fence = VkFence(0);
        t.done(&mut p::vkCreateFence {
            device: o.device,
            device_token: 0,
            pCreateInfo: &raw const info,
            pAllocator: std::ptr::null(),
            pFence: &raw mut fence,
        })?;
        t.send(&p::vkWaitForFences {
            device: o.device,
            fenceCount: 1,
            pFences: &raw const fence,
            waitAll: 1,
            timeout: u64::MAX,
            ..zeroed()
        })?;
        let mut second = guest.thread(ctx)?;
        o.buffer(&mut second, 64)?;
        Ok(())
    });
}

#[test]
fn numbers_out_of_order_stall_only_their_own_guest() {
    let Some(stage) = Stage::new() else { return };
    let version = |t: &mut Thread, number: u32| -> anyhow::Result<()> {
        let mut version = 0;
        let bytes = encode(
            &p::vkEnumerateInstanceVersion {
                pApiVersion: &raw mut version,
            },
            number,
        );
        Ok(t.channel.write(&bytes)?)
    };
    stage.lives("a later number first", |guest, ctx, t| {
        let mut second = guest.thread(ctx)?;
        version(&mut second, 2)?;
        version(t, 1)?;
        let mut reply = [0; 8];
        second.channel.read_reply(&mut reply)?;
        t.channel.read_reply(&mut reply)?;
        Ok(())
    });
    for numbers in [[1, 1], [1, 7], [0, 1], [u32::MAX, 1]] {
        stage.lives("numbers that never come", |_, _, t| {
            version(t, numbers[0])?;
            version(t, numbers[1])?;
            thread::sleep(Duration::from_millis(150));
            Ok(())
        });
    }
}

#[test]
fn floods_are_refused_or_served_and_leave_nothing() {
    let Some(stage) = Stage::new() else { return };
    stage.lives("a thousand blobs", |guest, ctx, t| {
        let o = Objects::new(t)?;
        let mut held = Vec::new();
        for _ in 0..1000 {
            let memory = o.memory(t, 4096)?;
            let id = o.publish(t, memory)?;
            held.push(guest.blob(ctx, id, 4096)?.1);
        }
        for _ in 0..1000 {
            held.push(guest.blob(ctx, 0, 4096)?.1);
        }
        Ok(())
    });
    stage.lives("blobs that were never published", |guest, ctx, _| {
        for id in [1, 77, 1 << 40, u64::MAX] {
            let refused = guest.blob(ctx, id, 4096);
            anyhow::ensure!(refused.is_err(), "blob {id} came from nowhere");
        }
        anyhow::ensure!(guest.is_served(), "the connection ended");
        Ok(())
    });
    stage.lives("the same blob again and again", |guest, ctx, t| {
        let o = Objects::new(t)?;
        let memory = o.memory(t, 4096)?;
        for _ in 0..5000 {
            o.publish(t, memory)?;
        }
        let id = o.publish(t, memory)?;
        guest.blob(ctx, id, 4096)?;
        anyhow::ensure!(guest.blob(ctx, id, 4096).is_err(), "taken twice");
        Ok(())
    });
    stage.lives("too many contexts", |guest, _, _| {
        let made = (0..100).filter(|_| guest.context("flood").is_ok()).count();
        anyhow::ensure!((10..100).contains(&made), "{made} contexts");
        anyhow::ensure!(guest.is_served(), "the connection ended");
        Ok(())
    });
    stage.lives("too many rings", |guest, ctx, _| {
        let made = (0..300).filter(|_| guest.thread(ctx).is_ok()).count();
        anyhow::ensure!((10..300).contains(&made), "{made} rings");
        anyhow::ensure!(guest.is_served(), "the connection ended");
        Ok(())
    });
    for _ in 0..30 {
        drop(Guest::connect(stage.server.socket()));
    }
    stage.paints("after connections that said nothing");
}

#[test]
fn objects_may_go_in_any_order() {
    let Some(stage) = Stage::new() else { return };
    stage.lives("an instance goes with its children", |_, _, t| {
        let o = Objects::new(t)?;
        let buffer = o.buffer(t, 4096)?;
        let memory = o.memory(t, 4096)?;
        o.bind(t, buffer, memory)?;
        o.command_buffer(t)?;
        t.send(&p::vkDestroyInstance {
            instance: o.instance,
            ..zeroed()
        })?;
        Objects::new(t)?;
        Ok(())
    });
    stage.lives("a device goes with its children", |_, _, t| {
        for _ in 0..20 {
            let o = Objects::new(t)?;
            let buffer = o.buffer(t, 4096)?;
            let memory = o.memory(t, 4096)?;
            o.bind(t, buffer, memory)?;
            let (_, commands) = o.command_buffer(t)?;
            let recording = Objects::filling(commands, buffer, 7);
            o.flush(t, commands, &recording)?;
            o.run(t, commands)?;
            t.send(&p::vkDestroyDevice {
                device: o.device,
                ..zeroed()
            })?;
        }
        Ok(())
    });
    stage.lives(
        "memory that is bound and mapped goes first",
        |guest, ctx, t| {
            let o = Objects::new(t)?;
            let buffer = o.buffer(t, 4096)?;
            let memory = o.memory(t, 4096)?;
            o.bind(t, buffer, memory)?;
            let id = o.publish(t, memory)?;
            let (_, fd) = guest.blob(ctx, id, 4096)?;
            let map = asgard_asg::Mapping::map(&fd, 0, 4096)?;
            t.send(&p::vkFreeMemory {
                device: o.device,
                memory,
                ..zeroed()
            })?;
            o.buffer(t, 64)?;
            map.copy_in(0, &[1; 4096])?;
            t.send(&p::vkDestroyBuffer {
                device: o.device,
                buffer,
                ..zeroed()
            })?;
            o.buffer(t, 64)?;
            Ok(())
        },
    );
}

#[test]
fn a_server_without_a_driver_says_so() {
    if !require(&["mesa", "asgard"]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let asgard = via::asgard().expect("asgard");
    for command in ["serve", "run"] {
        let mut command = {
            let mut c = Command::new(&asgard);
            c.arg(command);
            if command == "serve" {
                c.arg("--kumquat-socket").arg(dir.path().join("none"));
            } else {
                c.args(["--", "true"]);
            }
            c
        };
        command
            .env("VK_DRIVER_FILES", "/nonexistent")
            .env("VK_ICD_FILENAMES", "/nonexistent");
        let done = via::run(command, Duration::from_secs(60)).expect("it ends");
        assert!(!done.status.expect("in time").success());
        assert!(done.stderr.contains("no Vulkan driver"), "{}", done.stderr);
    }
}

#[test]
fn a_driver_that_goes_away_takes_new_guests_but_not_the_server() {
    if !require(&["mesa", "asgard"]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let icd = match std::env::var_os("VK_DRIVER_FILES") {
        Some(files) => PathBuf::from(files),
        None => via::lavapipe().expect("a driver"),
    };
    let Ok(manifest) = std::fs::read(&icd) else {
        println!("skipped: VK_DRIVER_FILES names more than one file");
        return;
    };
    let own = dir.path().join("icd.json");
    std::fs::write(&own, &manifest).expect("a manifest");
    let log = dir.path().join("log");
    let file = std::fs::File::create(&log).expect("a log");
    let server = Server::start_with(|command| {
        command
            .arg("-v")
            .env_remove("RUST_LOG")
            .env("VK_DRIVER_FILES", &own)
            .env("VK_ICD_FILENAMES", &own)
            .stdin(Stdio::null())
            .stderr(file);
    })
    .expect("a server");
    let mut first = Painter::new(server.socket()).expect("a painter");
    thread::sleep(Duration::from_millis(500));
    std::fs::remove_file(&own).expect("to remove the manifest");
    // The spare has loaded it, but makes no instance with it; those after it cannot even start.
    let late = Painter::new(server.socket()).expect_err("no driver");
    let code = format!("vkCreateInstance failed with {VK_ERROR_INCOMPATIBLE_DRIVER}");
    assert!(late.to_string().contains(&code), "{late:#}");
    for _ in 0..3 {
        let guest = Guest::connect(server.socket()).expect("a connection");
        assert!(guest.is_hung_up(), "without a driver");
    }
    let text = std::fs::read_to_string(&log).expect("the log");
    assert!(text.contains("no Vulkan driver"), "{text}");
    first.paint().expect("the first goes on");
    std::fs::write(&own, &manifest).expect("a manifest");
    let end = Instant::now() + PATIENCE;
    // A spare that found no driver may have to be used up first.
    while let Err(error) = Painter::new(server.socket()).and_then(|mut p| p.paint()) {
        assert!(
            Instant::now() < end,
            "the server does not recover: {error:#}"
        );
    }
    first.paint().expect("the first goes on");
}
