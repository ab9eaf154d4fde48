//! Commands with made-up values and live tokens, broken ones, and noise, through the decoder onto the driver that keeps books.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use asgard_decoder::{Context, Error, Limits, Renderer, Replies, Stream};
use asgard_protocol::extension::{CHOOSE_IDS, Features, USE_FEATURES, chosen, is_ours, write};
use asgard_protocol::packet::{HEADER, Header};
use asgard_protocol::types::*;
use asgard_protocol::wire::Tokens;
use asgard_protocol::{
    Arena, Command, DecodeError, Handles, Reader, Writer, commands as p, packet, zeroed,
};

use super::{Script, fake, reached, reached_message};

/// Guests of one input: each ends at its first error.
const GUESTS: usize = 32;

/// What one command is made of; more than enough for made-up values.
const ARENA: usize = 1 << 24;

/// The books are one for the process.
static ONE: Mutex<()> = Mutex::new(());

fn renderer() -> &'static Arc<Renderer> {
    static RENDERER: OnceLock<Arc<Renderer>> = OnceLock::new();
    RENDERER.get_or_init(|| {
        fake::set_mood(0);
        // SAFETY: the functions do what the specification says of calls that the decoder makes.
        unsafe { Renderer::with_entry(fake::entry) }.expect("the fake driver")
    })
}

/// A command by its place in the list of all.
struct Entry {
    opcode: u32,
    on_command_buffer: bool,
    /// Encodes it with values made from a seed.
    make: fn(u64, &dyn Handles, bool) -> Option<Vec<u8>>,
    /// Decodes it without a driver.
    parse: fn(&[u8]) -> Result<(), DecodeError>,
}

fn make<C: Command>(seed: u64, handles: &dyn Handles, staged: bool) -> Option<Vec<u8>> {
    let arena = Arena::new();
    arena.set_allocation_limit(Some(ARENA));
    let mut bytes = Vec::new();
    // SAFETY: made-up pointers lead into the arena, to as many values as their counts say.
    unsafe {
        let command = C::decode_request(&mut Reader::arbitrary(seed, &arena)).ok()?;
        let mut writer = Writer::new(&mut bytes, handles);
        if staged {
            writer = writer.staged();
        }
        packet::encode(&command, 0, &mut writer);
    }
    Some(bytes)
}

fn parse<C: Command>(parameters: &[u8]) -> Result<(), DecodeError> {
    let arena = Arena::new();
    arena.set_allocation_limit(Some(ARENA));
    let mut reader = Reader::request(parameters, &arena, &Tokens);
    // SAFETY: the arena outlives the command, whose pointers lead into it.
    unsafe {
        let command = C::decode_request(&mut reader)?;
        let mut bytes = Vec::new();
        command.encode_request(&mut Writer::new(&mut bytes, &Tokens));
    }
    reader.end()
}

fn entries() -> &'static [Entry] {
    static ENTRIES: OnceLock<Vec<Entry>> = OnceLock::new();
    macro_rules! list {
        ($($name:ident,)*) => {
            vec![$(Entry {
                opcode: p::$name::OPCODE,
                on_command_buffer: p::$name::ON_COMMAND_BUFFER,
                make: make::<p::$name>,
                parse: parse::<p::$name>,
            },)*]
        };
    }
    ENTRIES.get_or_init(|| asgard_protocol::for_each_command!(list))
}

fn entry(opcode: u32) -> Option<&'static Entry> {
    static BY_OPCODE: OnceLock<HashMap<u32, usize>> = OnceLock::new();
    let all = entries();
    let by_opcode =
        BY_OPCODE.get_or_init(|| all.iter().enumerate().map(|(i, e)| (e.opcode, i)).collect());
    all.get(*by_opcode.get(&opcode)?)
}

/// The tokens that a guest has seen.
#[derive(Default)]
struct Seen {
    tokens: HashMap<u8, Vec<u64>>,
}

impl Seen {
    /// Takes everything that looks like a token out of a reply.
    fn learn(&mut self, reply: &[u8]) {
        for window in reply.windows(8).take(4096) {
            let token = window
                .iter()
                .rev()
                .fold(0, |sum, b| sum << 8 | u64::from(*b));
            let (kind, generation, slot) = (token >> 56, token >> 32 & 0xff_ffff, token as u32);
            let known = Kind::from_number(kind as u8).is_some();
            if known && (1..1000).contains(&generation) && (1..10_000).contains(&slot) {
                self.add(kind as u8, &[token]);
            }
        }
    }

    fn add(&mut self, kind: u8, tokens: &[u64]) {
        let list = self.tokens.entry(kind).or_default();
        for token in tokens {
            if !list.contains(token) {
                list.push(*token);
            }
        }
    }

    fn newest(&self, kind: Kind) -> u64 {
        let list = self.tokens.get(&(kind as u8));
        list.and_then(|l| l.last()).copied().unwrap_or(0)
    }
}

impl Handles for Seen {
    fn resolve(&self, _: Kind, token: u64) -> Result<u64, DecodeError> {
        Ok(token)
    }
    /// Mostly one that exists, the newest most of all.
    fn token(&self, kind: Kind, handle: u64) -> u64 {
        let list = self.tokens.get(&(kind as u8)).map_or(&[][..], |l| l);
        match handle % 64 {
            0 => handle,
            1 => 0,
            2..24 if !list.is_empty() => list[(handle >> 8) as usize % list.len()],
            _ => list.last().copied().unwrap_or(0),
        }
    }
}

/// Keeps what is sent.
#[derive(Default)]
struct Kept(Vec<u8>);

impl Replies for Kept {
    fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// A guest process with two threads.
struct Guest {
    context: Arc<Context>,
    streams: [Stream; 2],
    number: u32,
    seen: Seen,
    recording: Vec<u8>,
    error: Option<Error>,
}

/// Gives each packet the number that it must have to run at all: waiting would be for ever.
fn number(input: &mut [u8], next: &mut u32) {
    let mut at = 0;
    while let Some(header) = input.get(at..).and_then(Header::read) {
        let size = header.size as usize;
        if size < HEADER || input.len() - at < size {
            return;
        }
        let numbered = entry(header.opcode).is_none_or(|e| !e.on_command_buffer);
        if numbered && !is_ours(header.opcode) && size >= HEADER + 4 {
            *next = next.wrapping_add(1);
            input[at + HEADER..at + HEADER + 4].copy_from_slice(&next.to_le_bytes());
        }
        at += size;
    }
}

impl Guest {
    fn new() -> Self {
        let limits = Limits {
            memory: 1 << 24,
            objects: 60,
            ..Limits::default()
        };
        let context = Context::new(Arc::clone(renderer()), "fuzz", limits);
        let mut guest = Self {
            streams: [context.open_stream(), context.open_stream()],
            context,
            number: 0,
            seen: Seen::default(),
            recording: Vec::new(),
            error: None,
        };
        for stream in &mut guest.streams {
            stream.input().extend([0; 4]);
            let greeted = stream.run(&mut Kept::default());
            assert!(greeted.is_ok(), "four bytes of greeting");
        }
        guest
    }

    fn run(&mut self, stream: usize, bytes: &[u8]) {
        let stream = &mut self.streams[stream % 2];
        let opcode = Header::read(bytes).map_or(0, |h| h.opcode);
        let name = p::name(opcode);
        stream.input().extend_from_slice(bytes);
        number(stream.input(), &mut self.number);
        let mut kept = Kept::default();
        match stream.run(&mut kept) {
            Ok(()) => reached((name, kept.0.len().min(64))),
            Err(error) => {
                reached_message("stream", &error.to_string());
                self.error = Some(error);
            }
        }
        self.seen.learn(&kept.0);
    }

    fn say<C: Command>(&mut self, command: &C) {
        self.run(0, &crate::guest::encode(command, 0));
    }

    /// An instance, a device, a queue, a command buffer.
    fn begin(&mut self) {
        let mut out = 0u64;
        let info = VkInstanceCreateInfo {
            sType: VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO,
            ..zeroed()
        };
        self.say(&p::vkCreateInstance {
            pCreateInfo: &raw const info,
            pInstance: (&raw mut out).cast(),
            ..zeroed()
        });
        let mut count = 1;
        self.say(&p::vkEnumeratePhysicalDevices {
            instance: VkInstance(self.seen.newest(Kind::Instance)),
            pPhysicalDeviceCount: &raw mut count,
            pPhysicalDevices: (&raw mut out).cast(),
            ..zeroed()
        });
        let info = VkDeviceCreateInfo {
            sType: VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
            ..zeroed()
        };
        self.say(&p::vkCreateDevice {
            physicalDevice: VkPhysicalDevice(self.seen.newest(Kind::PhysicalDevice)),
            pCreateInfo: &raw const info,
            pDevice: (&raw mut out).cast(),
            ..zeroed()
        });
        let device = VkDevice(self.seen.newest(Kind::Device));
        self.say(&p::vkGetDeviceQueue {
            device,
            pQueue: (&raw mut out).cast(),
            ..zeroed()
        });
        let info = VkCommandPoolCreateInfo {
            sType: VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
            ..zeroed()
        };
        self.say(&p::vkCreateCommandPool {
            device,
            pCreateInfo: &raw const info,
            pCommandPool: (&raw mut out).cast(),
            ..zeroed()
        });
        let info = VkCommandBufferAllocateInfo {
            sType: VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
            commandPool: VkCommandPool(self.seen.newest(Kind::CommandPool)),
            commandBufferCount: 1,
            ..zeroed()
        };
        self.say(&p::vkAllocateCommandBuffers {
            device,
            pAllocateInfo: &raw const info,
            pCommandBuffers: (&raw mut out).cast(),
            ..zeroed()
        });
    }

    fn flush(&mut self) {
        let recording = std::mem::take(&mut self.recording);
        self.say(&p::vkQueueFlushCommandsGOOGLE {
            queue: VkQueue(self.seen.newest(Kind::Queue)),
            commandBuffer: VkCommandBuffer(self.seen.newest(Kind::CommandBuffer)),
            dataSize: recording.len() as u64,
            pData: recording.as_ptr().cast(),
            ..zeroed()
        });
    }

    fn step(&mut self, script: &mut Script<'_>) {
        let op = script.u8();
        let thread = usize::from(op >> 7);
        match op % 16 {
            0..=6 => {
                if let Some(bytes) = self.made(served(), script, false) {
                    self.run(thread, &bytes);
                }
            }
            7 | 8 => {
                if let Some(bytes) = self.made(creating(), script, false) {
                    self.run(thread, &bytes);
                }
            }
            9 => {
                if let Some(mut bytes) = self.made(served(), script, false) {
                    break_it(&mut bytes, script);
                    if let Some(entry) = Header::read(&bytes).and_then(|h| entry(h.opcode)) {
                        let _ = (entry.parse)(bytes.get(HEADER..).unwrap_or_default());
                    }
                    self.run(thread, &bytes);
                }
            }
            10 | 11 => {
                if let Some(mut bytes) = self.made(recordable(), script, true) {
                    if script.u8().is_multiple_of(16) {
                        break_it(&mut bytes, script);
                    }
                    self.recording.extend(bytes);
                }
            }
            12 => self.flush(),
            13 => {
                let n = usize::from(script.u8());
                self.run(thread, script.bytes(n));
            }
            14 => {
                let device = self.seen.token(Kind::Device, script.number::<3>());
                let kind = if op & 0x10 == 0 {
                    Kind::Fence
                } else {
                    Kind::Semaphore
                };
                let object = self.seen.token(kind, script.number::<3>());
                let asked = self.context.when_signaled(device, object, Box::new(|| ()));
                reached(("signal", op & 0x10, asked.is_ok()));
            }
            _ => match op >> 4 & 7 {
                0 => self.begin(),
                1 => {
                    let size = 4096 << (script.u8() % 4);
                    if let Ok((_, fd)) = asgard_asg::Mapping::create(size) {
                        self.context
                            .add_resource(script.u8().into(), fd, size as u64);
                    }
                }
                2 => self.context.remove_resource(script.u8().into()),
                3 => {
                    let taken = self.context.take_blob(script.u8().into());
                    reached(("blob", taken.is_ok()));
                }
                4 => self.choose(thread, script),
                5 => {
                    let mut bytes = Vec::new();
                    write(USE_FEATURES, &[script.u8().into()], &mut bytes);
                    self.run(thread, &bytes);
                }
                _ => fake::set_mood(script.number::<4>()),
            },
        }
    }

    /// Ids for a creation, most of which fit, and the creation.
    fn choose(&mut self, thread: usize, script: &mut Script<'_>) {
        const KINDS: [(&str, Kind); 8] = [
            ("vkCreateBuffer", Kind::Buffer),
            ("vkCreateFence", Kind::Fence),
            ("vkCreateImage", Kind::Image),
            ("vkCreateSemaphore", Kind::Semaphore),
            ("vkCreateCommandPool", Kind::CommandPool),
            ("vkCreateDescriptorPool", Kind::DescriptorPool),
            ("vkAllocateCommandBuffers", Kind::CommandBuffer),
            ("vkAllocateMemory", Kind::DeviceMemory),
        ];
        let how = script.u8();
        let (name, kind) = KINDS[usize::from(how % 8)];
        let mut ids = Vec::new();
        for _ in 0..1 + (how >> 3 & 1) {
            let number = u32::from(script.u8() % 16);
            ids.push(chosen(kind, script.u8().into(), number));
        }
        let mut bytes = Vec::new();
        write(USE_FEATURES, &[Features::ALL.bits()], &mut bytes);
        write(CHOOSE_IDS, &ids, &mut bytes);
        if how >> 4 == 0 {
            break_it(&mut bytes, script);
        }
        let creation = entries().iter().find(|e| p::name(e.opcode) == Some(name));
        let seed = script.u32().into();
        bytes.extend(
            creation
                .and_then(|e| (e.make)(seed, &self.seen, false))
                .unwrap_or_default(),
        );
        self.run(thread, &bytes);
        if self.error.is_none() {
            reached(("chosen", name));
            self.seen.add(kind as u8, &ids);
        }
    }

    fn made(&self, list: &[u16], script: &mut Script<'_>, staged: bool) -> Option<Vec<u8>> {
        let pick = list[usize::from(script.u16()) % list.len()];
        let entry = entries().get(usize::from(pick))?;
        (entry.make)(script.u32().into(), &self.seen, staged)
    }

    fn end(self) -> Option<Error> {
        drop(self.streams);
        self.context.close();
        fake::check_empty();
        self.error
    }
}

/// Changes some bytes, or takes some away.
fn break_it(bytes: &mut Vec<u8>, script: &mut Script<'_>) {
    for _ in 0..1 + script.u8() % 4 {
        let at = usize::from(script.u16());
        let value = script.u8();
        if bytes.is_empty() {
            return;
        }
        let at = at % bytes.len();
        match value % 8 {
            0 => bytes.truncate(at),
            1 => bytes[at] = 0xff,
            2 => bytes[at] = 0,
            3 => bytes[at] ^= 1 << (value >> 5),
            4 => bytes.insert(at, value),
            _ => bytes[at] = value,
        }
    }
    if script.u8().is_multiple_of(2) && bytes.len() >= HEADER {
        let size = bytes.len() as u32;
        bytes[4..8].copy_from_slice(&size.to_le_bytes());
    }
}

/// Places of the commands of which this is true.
fn places(keep: impl Fn(&Entry) -> bool) -> Vec<u16> {
    let kept = entries().iter().enumerate().filter(|(_, e)| keep(e));
    kept.filter_map(|(i, _)| i.try_into().ok()).collect()
}

/// Commands that are not refused whatever they contain.
fn served() -> &'static [u16] {
    static SERVED: OnceLock<Vec<u16>> = OnceLock::new();
    SERVED.get_or_init(|| {
        let refused = |entry: &Entry| {
            let mut guest = Guest::new();
            guest.begin();
            for seed in 1..20 {
                if let Some(bytes) = (entry.make)(seed, &guest.seen, false) {
                    guest.run(0, &bytes);
                    break;
                }
            }
            matches!(guest.end(), Some(Error::Refused { .. }))
        };
        places(|entry| !refused(entry))
    })
}

fn creating() -> &'static [u16] {
    static CREATING: OnceLock<Vec<u16>> = OnceLock::new();
    let makes = |name: &str| name.starts_with("vkCreate") || name.starts_with("vkAllocate");
    let all = || {
        let served = served();
        let mut all = places(|e| p::name(e.opcode).is_some_and(makes));
        all.retain(|place| served.contains(place));
        all
    };
    CREATING.get_or_init(all)
}

fn recordable() -> &'static [u16] {
    static RECORDABLE: OnceLock<Vec<u16>> = OnceLock::new();
    RECORDABLE.get_or_init(|| places(|e| e.on_command_buffer))
}

/// See the module.
pub fn stream(data: &[u8]) {
    let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    fake::set_mood(0);
    served();
    let mut script = Script(data);
    for _ in 0..GUESTS {
        if script.is_empty() {
            break;
        }
        fake::set_mood(0);
        let mut guest = Guest::new();
        guest.begin();
        while guest.error.is_none() && !script.is_empty() {
            guest.step(&mut script);
        }
        guest.end();
    }
}

#[cfg(test)]
mod tests {
    use asgard_protocol::extension::UNANSWERED;

    use super::*;

    #[test]
    fn a_lost_stream_answers_what_its_guest_waits_for_and_nothing_else() {
        let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let limits = Limits {
            lost: true,
            ..Limits::default()
        };
        let context = Context::new(Arc::clone(renderer()), "lost", limits);
        let mut stream = context.open_stream();
        // It takes another's place, which knew what this guest uses.
        let device = VkDevice((Kind::Device as u64) << 56 | 1 << 32 | 1);
        let fence = VkFence(chosen(Kind::Fence, 1, 0));
        let info = VkFenceCreateInfo {
            sType: VK_STRUCTURE_TYPE_FENCE_CREATE_INFO,
            ..zeroed()
        };
        let mut bytes = Vec::new();
        let mut add = |ours: Option<(u32, &[u64])>, packet: &dyn Fn(&mut Writer<'_>)| {
            if let Some((opcode, words)) = ours {
                write(opcode, words, &mut bytes);
            }
            packet(&mut Writer::new(&mut bytes, &Tokens));
        };
        // SAFETY: the pointers are null or to the test's own.
        unsafe {
            let mut made = VkFence(0);
            let create = p::vkCreateFence {
                device,
                pCreateInfo: &raw const info,
                pFence: &raw mut made,
                ..zeroed()
            };
            let reset = p::vkResetFences {
                device,
                fenceCount: 1,
                pFences: &raw const fence,
                ..zeroed()
            };
            let ask = p::vkGetFenceStatus {
                device,
                fence,
                ..zeroed()
            };
            add(Some((CHOOSE_IDS, &[fence.0])), &|w| {
                packet::encode(&create, 7, w)
            });
            add(Some((UNANSWERED, &[])), &|w| packet::encode(&reset, 8, w));
            add(None, &|w| packet::encode(&ask, 9, w));
        }
        stream.input().extend([0; 4]);
        stream.input().extend(bytes);
        let mut kept = Kept::default();
        stream.run(&mut kept).unwrap();
        assert_eq!(kept.0, VK_ERROR_DEVICE_LOST.to_le_bytes());
        drop(stream);
        context.close();
    }
}
