//! Every command and every struct, with made-up values: what is encoded decodes to what encodes to the
//! same bytes, and bytes that are no encoding are refused without a panic.
//!
//! Input bytes are boxed exactly, so that a memory checker sees a read past their end:
//! `valgrind target/debug/deps/round_trip-*`.

use asgard_protocol::wire::Tokens;
use asgard_protocol::{
    Arena, Command, DecodeError, Exact, Handles, Reader, Wire, Writer, chain, commands, types,
    zeroed,
};
use proptest::prelude::*;

/// The command buffer that staged commands are decoded against.
const BUFFER: (u64, u64) = (0x1234, 0x5678);

/// Bytes of an encoding, with the flag values and chain sizes replayed.
fn encoded(
    handles: &dyn Handles,
    trace: Option<Vec<u64>>,
    staged: bool,
    encode: impl FnOnce(&mut Writer<'_>),
) -> Box<[u8]> {
    let mut bytes = Vec::new();
    let mut w = Writer::new(&mut bytes, handles);
    if let Some(trace) = trace {
        w = w.replay(trace);
    }
    if staged {
        w = w.staged();
    }
    encode(&mut w);
    bytes.into_boxed_slice()
}

fn request<'a>(bytes: &'a [u8], arena: &'a Arena, staged: bool) -> Reader<'a> {
    if staged {
        Reader::staged(bytes, arena, &Exact, BUFFER)
    } else {
        Reader::request(bytes, arena, &Exact)
    }
}

/// A command with made-up values, encoded.
fn made<C: Command>(arena: &Arena, seed: u64, staged: bool) -> (C, Box<[u8]>) {
    let mut r = Reader::arbitrary(seed, arena);
    // SAFETY: made-up pointers are null or point into the arena, with as many values as their counts say.
    unsafe {
        let command = C::decode_request(&mut r).unwrap_or_else(|e| panic!("{}: {e}", C::NAME));
        let bytes = encoded(&Exact, None, staged, |w| command.encode_request(w));
        (command, bytes)
    }
}

fn decode<C: Command>(bytes: &[u8], staged: bool) -> Result<(), DecodeError> {
    let arena = Arena::new();
    let mut r = request(bytes, &arena, staged);
    // SAFETY: nothing is done with the result.
    unsafe { C::decode_request(&mut r) }?;
    r.end()
}

/// Encode, decode, encode; then the same for the reply.
fn round_trip<C: Command>(seed: u64, staged: bool) {
    let arena = Arena::new();
    let (_, bytes) = made::<C>(&arena, seed, staged);
    let mut r = request(&bytes, &arena, staged).tracing();
    // SAFETY: decoded pointers are null or point into the arena, with as many values as their counts say.
    unsafe {
        let mut command =
            C::decode_request(&mut r).unwrap_or_else(|e| panic!("{}, seed {seed}: {e}", C::NAME));
        r.end()
            .unwrap_or_else(|e| panic!("{}, seed {seed}: {e}", C::NAME));
        let again = encoded(&Exact, Some(r.trace()), staged, |w| {
            command.encode_request(w)
        });
        assert_eq!(again, bytes, "{}, seed {seed}", C::NAME);

        // SAFETY: every return type is an integer, nothing, or an optional function.
        let ret: C::Return = std::mem::zeroed();
        let reply = encoded(&Exact, None, false, |w| command.encode_reply(ret, w));
        assert!(reply.is_empty() || C::HAS_REPLY, "the reply of {}", C::NAME);
        let mut r = Reader::reply(&reply, &arena, &Exact).tracing();
        let ret = command
            .decode_reply(&mut r)
            .unwrap_or_else(|e| panic!("the reply of {}, seed {seed}: {e}", C::NAME));
        r.end()
            .unwrap_or_else(|e| panic!("the reply of {}, seed {seed}: {e}", C::NAME));
        let again = encoded(&Exact, Some(r.trace()), false, |w| {
            command.encode_reply(ret, w)
        });
        assert_eq!(again, reply, "the reply of {}, seed {seed}", C::NAME);
        for end in (0..reply.len()).filter(|end| reply.len() < 64 || end % 17 == 0) {
            let short: Box<[u8]> = reply[..end].into();
            let mut r = Reader::reply(&short, &arena, &Exact);
            assert!(
                command.decode_reply(&mut r).is_err(),
                "{} bytes of {}'s reply",
                end,
                C::NAME
            );
        }
    }
}

/// A driver's view of the same bytes: tokens are looked up, garbage goes.
fn for_a_driver<C: Command>(seed: u64) {
    let arena = Arena::new();
    let (_, bytes) = made::<C>(&arena, seed, false);
    let mut r = Reader::request(&bytes, &arena, &Tokens);
    // SAFETY: as in `round_trip`.
    unsafe {
        let command = match C::decode_request(&mut r) {
            Err(DecodeError::NoCount) => return,
            result => result.unwrap_or_else(|e| panic!("{}, seed {seed}: {e}", C::NAME)),
        };
        r.end()
            .unwrap_or_else(|e| panic!("{}, seed {seed}: {e}", C::NAME));
        // It can be encoded all the same.
        encoded(&Tokens, None, false, |w| command.encode_request(w));
    }
}

fn every_prefix_is_refused<C: Command>(seed: u64, staged: bool) {
    let arena = Arena::new();
    let (_, bytes) = made::<C>(&arena, seed, staged);
    let step = 1 + bytes.len() / 400;
    for end in (0..bytes.len()).step_by(step) {
        let short: Box<[u8]> = bytes[..end].into();
        assert_eq!(
            decode::<C>(&short, staged),
            Err(DecodeError::Truncated),
            "{end} of {} bytes of {}, seed {seed}",
            bytes.len(),
            C::NAME
        );
    }
}

/// Room that decoding may take for a byte of input: the largest struct behind the smallest encoding
/// takes 19, and an arena takes chunks of up to twice what it needs.
const AMPLIFICATION: usize = 40;

fn damage_never_panics<C: Command>(seed: u64, flips: &[(u16, u8)], noise: &[u8]) {
    let arena = Arena::new();
    let (_, mut bytes) = made::<C>(&arena, seed, false);
    for handles in [&Exact as &dyn Handles, &Tokens] {
        for (at, value) in flips {
            if let Some(byte) = bytes.get_mut(usize::from(*at) % bytes.len().max(1)) {
                *byte ^= value;
            }
            for input in [&bytes[..], noise] {
                let arena = Arena::new();
                let mut r = Reader::request(input, &arena, handles);
                // SAFETY: the result is only encoded, and decoded pointers are valid.
                unsafe {
                    if let Ok(command) = C::decode_request(&mut r) {
                        encoded(handles, None, false, |w| command.encode_request(w));
                    }
                }
                let used = arena.allocated_bytes();
                let bound = 4096 + AMPLIFICATION * input.len();
                assert!(
                    used <= bound,
                    "{}: {used} bytes for {}",
                    C::NAME,
                    input.len()
                );
            }
        }
    }
}

/// The same for a struct by itself, chained or not.
fn struct_round_trip<T: Wire>(name: &str, seed: u64) {
    let arena = Arena::new();
    // SAFETY: as in `round_trip`; a zeroed value is what `decode` wants.
    unsafe {
        let mut value: T = zeroed();
        T::decode(&raw mut value, &mut Reader::arbitrary(seed, &arena))
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let bytes = encoded(&Exact, None, false, |w| value.encode(w));
        assert!(
            bytes.len() >= T::MIN || bytes.is_empty(),
            "{name} takes {} bytes",
            bytes.len()
        );
        let mut r = Reader::request(&bytes, &arena, &Exact).tracing();
        let mut value: T = zeroed();
        T::decode(&raw mut value, &mut r).unwrap_or_else(|e| panic!("{name}, seed {seed}: {e}"));
        r.end()
            .unwrap_or_else(|e| panic!("{name}, seed {seed}: {e}"));
        let again = encoded(&Exact, Some(r.trace()), false, |w| value.encode(w));
        assert_eq!(again, bytes, "{name}, seed {seed}");
    }
}

/// Takes a seed, bytes to change (where, with what), and bytes that are nothing.
type Damage = fn(u64, &[(u16, u8)], &[u8]);

/// What is done with each command.
struct Entry {
    name: &'static str,
    staged: bool,
    round_trip: fn(u64, bool),
    for_a_driver: fn(u64),
    every_prefix_is_refused: fn(u64, bool),
    damage_never_panics: Damage,
}

macro_rules! entries {
    ($($name:ident,)*) => {
        [$(Entry {
            name: stringify!($name),
            staged: <commands::$name as Command>::ON_COMMAND_BUFFER,
            round_trip: round_trip::<commands::$name>,
            for_a_driver: for_a_driver::<commands::$name>,
            every_prefix_is_refused: every_prefix_is_refused::<commands::$name>,
            damage_never_panics: damage_never_panics::<commands::$name>,
        }),*]
    };
}
static COMMANDS: &[Entry] = &asgard_protocol::for_each_command!(entries);

macro_rules! structs {
    ($($name:ident,)*) => {
        [$((
            stringify!($name),
            <types::$name as Wire>::STYPE,
            struct_round_trip::<types::$name>,
        )),*]
    };
}
type Struct = (&'static str, i32, fn(&str, u64));
static STRUCTS: &[Struct] = &asgard_protocol::for_each_struct!(structs);

fn few() -> ProptestConfig {
    ProptestConfig {
        cases: 24,
        max_shrink_iters: 0,
        failure_persistence: None,
        ..Default::default()
    }
}

proptest! {
    #![proptest_config(few())]

    #[test]
    fn commands_and_their_replies_come_back_as_they_were(seed: u64) {
        for command in COMMANDS {
            (command.round_trip)(seed, false);
        }
    }

    #[test]
    fn recorded_commands_come_back_as_they_were(seed: u64) {
        for command in COMMANDS.iter().filter(|c| c.staged) {
            (command.round_trip)(seed, true);
        }
    }

    #[test]
    fn a_driver_can_take_every_command(seed: u64) {
        for command in COMMANDS {
            (command.for_a_driver)(seed);
        }
    }

    #[test]
    fn structs_come_back_as_they_were(seed: u64) {
        for (name, _, round_trip) in STRUCTS {
            round_trip(name, seed);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2, ..few() })]

    #[test]
    fn no_prefix_of_a_command_is_a_command(seed: u64) {
        for command in COMMANDS {
            (command.every_prefix_is_refused)(seed, false);
            if command.staged {
                (command.every_prefix_is_refused)(seed, true);
            }
        }
    }
}

proptest! {
    #![proptest_config(few())]

    #[test]
    fn damaged_commands_and_noise_neither_panic_nor_take_much_memory(
        seed: u64,
        flips in prop::collection::vec((any::<u16>(), 1..=255_u8), 1..24),
        noise in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        for command in COMMANDS {
            (command.damage_never_panics)(seed, &flips, &noise);
        }
    }
}

#[test]
fn every_chained_struct_is_in_the_round_trip() {
    let there: std::collections::BTreeSet<i32> =
        STRUCTS.iter().map(|(_, stype, _)| *stype).collect();
    assert!(chain::CHAINED.iter().all(|stype| there.contains(stype)));
    assert!(
        chain::CHAINED.len() > 700,
        "{} structs in chains",
        chain::CHAINED.len()
    );
    assert!(COMMANDS.len() > 750, "{} commands", COMMANDS.len());
    let names: std::collections::BTreeSet<&str> = COMMANDS.iter().map(|c| c.name).collect();
    assert_eq!(names.len(), COMMANDS.len());
}

/// "None of them" and "how many are there" are different questions, and drivers tell them apart by the pointer.
#[test]
fn room_for_nothing_is_not_null() {
    let mut none = 0u32;
    let mut room: [types::VkQueueFamilyProperties; 0] = [];
    for (pointer, there) in [(room.as_mut_ptr(), true), (std::ptr::null_mut(), false)] {
        let asked = commands::vkGetPhysicalDeviceQueueFamilyProperties {
            physicalDevice: types::VkPhysicalDevice(1),
            pQueueFamilyPropertyCount: &raw mut none,
            pQueueFamilyProperties: pointer,
            ..zeroed()
        };
        // SAFETY: the pointers are valid for as many values as the count says: none.
        let bytes = encoded(&Tokens, None, false, |w| unsafe { asked.encode_request(w) });
        let arena = Arena::new();
        let mut r = Reader::request(&bytes, &arena, &Tokens);
        type Asked = commands::vkGetPhysicalDeviceQueueFamilyProperties;
        // SAFETY: what is read is in the arena.
        let got = unsafe { Asked::decode_request(&mut r) }.unwrap();
        assert_eq!(!got.pQueueFamilyProperties.is_null(), there);
    }
}
