//! What the guest encodes is what the host decodes, member by member, and the same for replies.
//!
//! The other tests make values up with a decoder, which cannot see a member that both codecs forget.
//! Here tables of the members, which know nothing of the codecs, say how to fill a value: every member
//! has a value that is not zero, arrays have none, one or several elements, pointers that may be null
//! are null at times, unions and chains have each content in turn. The same tables compare.

use std::collections::BTreeSet;
use std::ffi::{c_char, c_void};
use std::mem::offset_of;

use asgard_protocol::packet::{self, HEADER, Header};
use asgard_protocol::types::*;
use asgard_protocol::{
    Arena, Command, Exact, Reader, Wire, Writer, commands, derived, types, zeroed,
};

/// A struct's, union's or command's members.
struct Layout {
    name: &'static str,
    size: usize,
    union: bool,
    /// Structs that may stand in its chain.
    chain: &'static [usize],
    fields: &'static [Field],
}

struct Field {
    name: &'static str,
    offset: usize,
    size: usize,
    /// An output of a command.
    out: bool,
    /// In a union: values of the selector.
    selection: &'static [i64],
    form: Form,
}

/// Something that follows from the struct around.
type Of<T> = fn(*const u8) -> T;

enum Form {
    Plain,
    /// A small number.
    Count,
    Pick(&'static [i64]),
    Exactly(i32),
    /// One or more structs in place.
    Structs(usize),
    /// A union's first member.
    First(usize),
    Selected(usize, Of<i64>),
    Chain,
    Text(bool),
    Texts(Of<usize>),
    /// Not sent.
    Nothing,
    Pointer {
        optional: bool,
        counts: bool,
        to: To,
        len: Of<usize>,
        sent: Of<bool>,
    },
    Pointers {
        optional: bool,
        to: To,
        len: Of<usize>,
        each: fn(*const u8, usize) -> usize,
    },
}

#[derive(Clone, Copy)]
enum To {
    /// Of so many bytes.
    Scalars(usize),
    Structs(usize),
}

impl To {
    fn size(self) -> usize {
        match self {
            Self::Scalars(size) => size,
            Self::Structs(of) => STRUCTS[of].size,
        }
    }
}

/// The count behind a pointer, as the codecs read it.
macro_rules! count_at {
    ($pointer:expr) => {{
        let p = $pointer;
        if p.is_null() { 0 } else { *p as usize }
    }};
    ($pointer:expr, $field:ident) => {{
        let p = $pointer;
        if p.is_null() { 0 } else { (*p).$field as usize }
    }};
    ($pointer:expr, $index:expr, $field:ident) => {{
        let p = $pointer;
        if p.is_null() {
            0
        } else {
            (*p.add($index)).$field as usize
        }
    }};
}

#[allow(
    clippy::unnecessary_cast,
    clippy::manual_div_ceil,
    clippy::identity_op,
    clippy::manual_range_patterns,
    clippy::redundant_closure_call,
    clippy::undocumented_unsafe_blocks,
    unused_variables,
    reason = "generated; each function is given a value of the struct that it is for"
)]
mod tables {
    use super::*;
    include!(concat!(env!("OUT_DIR"), "/layouts.rs"));
}
use tables::{COMMANDS, STRUCTS};

/// Fills values, and notes what it has had.
struct Maker<'a> {
    arena: &'a Arena,
    state: u64,
    depth: usize,
    /// Contents of chains and unions, lengths, and pointers that were null or not.
    had: &'a mut Had,
}

/// What values have held: whose member, which, and what.
type Had = BTreeSet<(&'static str, &'static str, i64)>;

impl Maker<'_> {
    fn word(&mut self) -> u64 {
        // splitmix64
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of those of which the fewest were had.
    fn choose(&mut self, of: &'static str, member: &'static str, all: &[i64]) -> i64 {
        let new = all
            .iter()
            .find(|one| !self.had.contains(&(of, member, **one)));
        let one = match new {
            Some(one) => *one,
            None => all[(self.word() % all.len() as u64) as usize],
        };
        self.had.insert((of, member, one));
        one
    }

    fn room(&mut self, size: usize) -> *mut u8 {
        let layout = std::alloc::Layout::from_size_align(size.max(1), 8).unwrap();
        let p = self.arena.alloc_layout(layout).as_ptr();
        // SAFETY: that many bytes were made room for.
        unsafe { p.write_bytes(0, size) };
        p
    }

    /// Bytes of which none is zero.
    unsafe fn noise(&mut self, to: *mut u8, n: usize) {
        for i in 0..n {
            let byte = (self.word() as u8).max(1);
            // SAFETY: the caller's promise.
            unsafe { to.add(i).write(byte) };
        }
    }

    fn text(&mut self) -> *const c_char {
        let n = (self.word() % 9) as usize;
        let p = self.room(n + 1);
        // SAFETY: room was made for one byte more, which is zero.
        unsafe { self.noise(p, n) };
        p.cast()
    }

    unsafe fn several(&mut self, to: To, n: usize) -> *mut u8 {
        if n == 0 {
            return std::ptr::null_mut();
        }
        let p = self.room(to.size() * n);
        for i in 0..n {
            // SAFETY: room was made for n of them.
            unsafe {
                match to {
                    To::Scalars(size) => self.noise(p.add(i * size), size),
                    To::Structs(of) => self.fill(p.add(i * STRUCTS[of].size), STRUCTS[of]),
                }
            }
        }
        p
    }

    /// Fills a zeroed value.
    unsafe fn fill(&mut self, p: *mut u8, layout: &'static Layout) {
        self.depth += 1;
        let fields = if layout.union {
            &layout.fields[..1]
        } else {
            layout.fields
        };
        for field in fields {
            // SAFETY: the value has such a member there.
            unsafe { self.member(p, layout, field) };
        }
        self.depth -= 1;
    }

    unsafe fn small(&mut self, at: *mut u8, size: usize, value: i64) {
        // SAFETY: the caller's promise; little-endian.
        unsafe { at.copy_from_nonoverlapping(value.to_le_bytes().as_ptr(), size) };
    }

    unsafe fn member(&mut self, p: *mut u8, layout: &'static Layout, field: &'static Field) {
        // SAFETY: the table says where each member lies and what it is.
        unsafe {
            let at = p.add(field.offset);
            match &field.form {
                Form::Nothing => {}
                Form::Plain => self.noise(at, field.size),
                Form::Count => {
                    let n = self.choose(layout.name, field.name, &[2, 0, 1, 5, 9]);
                    self.small(at, field.size, n);
                }
                Form::Pick(values) => {
                    let value = self.choose(layout.name, field.name, values);
                    self.small(at, field.size, value);
                }
                Form::Exactly(stype) => self.small(at, 4, i64::from(*stype)),
                Form::Structs(of) => {
                    let of = STRUCTS[*of];
                    for i in 0..field.size / of.size {
                        self.fill(at.add(i * of.size), of);
                    }
                }
                Form::First(of) => self.fill(at, STRUCTS[*of]),
                Form::Selected(of, selector) => {
                    let (of, selector) = (STRUCTS[*of], selector(p));
                    let selected = |f: &&Field| f.selection.contains(&selector);
                    if let Some(member) = of.fields.iter().find(selected) {
                        self.member(at, of, member);
                    }
                }
                Form::Chain => self.chain(at.cast(), layout),
                Form::Text(optional) => {
                    let there = !optional || self.choose(layout.name, field.name, &[1, 0]) == 1;
                    if there {
                        *at.cast() = self.text();
                    }
                }
                Form::Texts(len) => {
                    let n = len(p);
                    let list: *mut *const c_char = self.room(n * 8).cast();
                    for i in 0..n {
                        *list.add(i) = self.text();
                    }
                    *at.cast() = if n == 0 { std::ptr::null_mut() } else { list };
                }
                Form::Pointer {
                    optional,
                    counts,
                    to,
                    len,
                    sent: _,
                } => {
                    // Deep down, what is made of itself must end.
                    let there = !optional
                        || (self.depth < 12
                            && self.choose(layout.name, field.name, &[1, 0, 1]) == 1);
                    if !there {
                        return;
                    }
                    let n = len(p);
                    let made = self.several(*to, n);
                    if let (true, To::Scalars(size), 1) = (*counts, to, n) {
                        let count = self.choose(layout.name, "count behind", &[2, 0, 1, 4]);
                        self.small(made, *size, count);
                    }
                    *at.cast() = made;
                }
                Form::Pointers {
                    optional,
                    to,
                    len,
                    each,
                } => {
                    let there = !optional || self.choose(layout.name, field.name, &[1, 0, 1]) == 1;
                    let n = len(p);
                    if there && n > 0 {
                        let list: *mut *mut u8 = self.room(n * 8).cast();
                        for i in 0..n {
                            *list.add(i) = self.several(*to, each(p, i));
                        }
                        *at.cast() = list;
                    }
                }
            }
        }
    }

    /// A chain of structs that have not stood in this one yet, or of some that have.
    unsafe fn chain(&mut self, mut slot: *mut *mut u8, layout: &'static Layout) {
        let new: Vec<usize> = (layout.chain.iter().copied())
            .filter(|one| !self.had.contains(&(layout.name, "pNext", *one as i64)))
            .take(24)
            .collect();
        let links = match (new.is_empty(), layout.chain) {
            (false, _) if self.depth < 8 => new,
            (_, []) => return,
            (_, some) if self.depth < 4 => {
                vec![some[(self.word() % some.len() as u64) as usize]]
            }
            _ => return,
        };
        for link in links {
            self.had.insert((layout.name, "pNext", link as i64));
            let link = STRUCTS[link];
            let p = self.room(link.size);
            self.depth += 1;
            for field in link.fields {
                // The next of a chain is for whoever it is the chain of.
                if !matches!(field.form, Form::Chain) {
                    // SAFETY: the value has such a member there.
                    unsafe { self.member(p, link, field) };
                }
            }
            self.depth -= 1;
            // SAFETY: every struct of a chain holds the next one behind its type.
            unsafe {
                *slot = p;
                slot = p.add(8).cast();
            }
        }
    }

    /// Gives outputs other contents of the same shape, as a driver does.
    unsafe fn answer(&mut self, p: *mut u8, layout: &'static Layout, outputs: bool) {
        let fields = if layout.union {
            &layout.fields[..1]
        } else {
            layout.fields
        };
        for field in fields.iter().filter(|f| f.out || !outputs) {
            // SAFETY: as in `member`; pointers are null or point to what was made for them.
            unsafe {
                let at = p.add(field.offset);
                match &field.form {
                    Form::Plain => self.noise(at, field.size),
                    Form::Structs(of) => {
                        let of = STRUCTS[*of];
                        for i in 0..field.size / of.size {
                            self.answer(at.add(i * of.size), of, false);
                        }
                    }
                    Form::First(of) => self.answer(at, STRUCTS[*of], false),
                    Form::Chain => {
                        let mut next = *at.cast::<*mut u8>();
                        while !next.is_null() {
                            let link = link_of(next);
                            for field in link.fields {
                                if let Form::Plain = field.form {
                                    self.noise(next.add(field.offset), field.size);
                                }
                            }
                            next = *next.add(8).cast::<*mut u8>();
                        }
                    }
                    Form::Pointer {
                        counts: false,
                        to,
                        len,
                        sent,
                        ..
                    } if sent(p) => {
                        let made = *at.cast::<*mut u8>();
                        for i in 0..if made.is_null() { 0 } else { len(p) } {
                            match to {
                                To::Scalars(size) => self.noise(made.add(i * size), *size),
                                To::Structs(of) => {
                                    let of = STRUCTS[*of];
                                    self.answer(made.add(i * of.size), of, false);
                                }
                            }
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}

/// The layout of a struct in a chain.
unsafe fn link_of(p: *const u8) -> &'static Layout {
    // SAFETY: it starts with its type.
    let stype = unsafe { *p.cast::<i32>() };
    STRUCTS
        .iter()
        .find(
            |s| matches!(s.fields.first().map(|f| &f.form), Some(Form::Exactly(t)) if *t == stype),
        )
        .expect("a struct of the table")
}

/// Where two values differ.
type Difference = Result<(), String>;

fn equal(what: &str, a: *const u8, b: *const u8, n: usize) -> Difference {
    // SAFETY: both are that long.
    let (a, b) = unsafe {
        (
            std::slice::from_raw_parts(a, n),
            std::slice::from_raw_parts(b, n),
        )
    };
    if a == b {
        return Ok(());
    }
    Err(format!("{what}: {a:02x?} became {b:02x?}"))
}

/// Compares members, with the lengths of `a`.
unsafe fn compare(
    path: &str,
    a: *const u8,
    b: *const u8,
    layout: &'static Layout,
    outputs: bool,
) -> Difference {
    let fields = if layout.union {
        &layout.fields[..1]
    } else {
        layout.fields
    };
    for field in fields.iter().filter(|f| f.out || !outputs) {
        // SAFETY: both are values of this layout.
        unsafe { compare_member(&format!("{path}.{}", field.name), a, b, field)? };
    }
    Ok(())
}

unsafe fn compare_several(path: &str, a: *const u8, b: *const u8, to: To, n: usize) -> Difference {
    if n == 0 {
        return Ok(());
    }
    if b.is_null() {
        return Err(format!("{path}: {n} elements became none"));
    }
    for i in 0..n {
        let path = format!("{path}[{i}]");
        let at = i * to.size();
        // SAFETY: both have n elements.
        unsafe {
            let (a, b) = (a.add(at), b.add(at));
            match to {
                To::Scalars(size) => equal(&path, a, b, size)?,
                To::Structs(of) => compare(&path, a, b, STRUCTS[of], false)?,
            }
        }
    }
    Ok(())
}

unsafe fn compare_text(path: &str, a: *const c_char, b: *const c_char) -> Difference {
    if a.is_null() || b.is_null() {
        return if a == b {
            Ok(())
        } else {
            Err(format!("{path}: {a:?} became {b:?}"))
        };
    }
    // SAFETY: both are strings.
    let (a, b) = unsafe { (std::ffi::CStr::from_ptr(a), std::ffi::CStr::from_ptr(b)) };
    if a == b {
        Ok(())
    } else {
        Err(format!("{path}: {a:?} became {b:?}"))
    }
}

unsafe fn compare_member(
    path: &str,
    p: *const u8,
    q: *const u8,
    field: &'static Field,
) -> Difference {
    // SAFETY: both are values of this layout, with as many elements as the tables say.
    unsafe {
        let (a, b) = (p.add(field.offset), q.add(field.offset));
        let (to_a, to_b) = (a.cast::<*const u8>(), b.cast::<*const u8>());
        match &field.form {
            Form::Nothing => Ok(()),
            Form::Plain | Form::Count | Form::Pick(_) | Form::Exactly(_) => {
                equal(path, a, b, field.size)
            }
            Form::Structs(of) => {
                let n = field.size / STRUCTS[*of].size;
                compare_several(path, a, b, To::Structs(*of), n)
            }
            Form::First(of) => compare(path, a, b, STRUCTS[*of], false),
            Form::Selected(of, selector) => {
                let (of, selector) = (STRUCTS[*of], selector(p));
                let selected = |f: &&Field| f.selection.contains(&selector);
                match of.fields.iter().find(selected) {
                    Some(member) => compare_member(path, a, b, member),
                    None => Ok(()),
                }
            }
            Form::Chain => {
                let (mut a, mut b) = (*to_a, *to_b);
                while !a.is_null() {
                    let link = link_of(a);
                    let path = format!("{path}->{}", link.name);
                    if b.is_null() || *a.cast::<i32>() != *b.cast::<i32>() {
                        return Err(format!("{path} is not there"));
                    }
                    for field in link.fields {
                        if !matches!(field.form, Form::Chain) {
                            let path = format!("{path}.{}", field.name);
                            compare_member(&path, a, b, field)?;
                        }
                    }
                    (a, b) = (*a.add(8).cast(), *b.add(8).cast());
                }
                if b.is_null() {
                    Ok(())
                } else {
                    Err(format!("{path} has more than it had"))
                }
            }
            Form::Text(_) => compare_text(path, *a.cast(), *b.cast()),
            Form::Texts(len) => {
                for i in 0..len(p) {
                    let of = |list: *const u8| *(*list.cast::<*const *const c_char>()).add(i);
                    compare_text(&format!("{path}[{i}]"), of(a), of(b))?;
                }
                Ok(())
            }
            Form::Pointer { to, len, sent, .. } => {
                if (*to_a).is_null() || !sent(p) {
                    return if (*to_b).is_null() {
                        Ok(())
                    } else {
                        Err(format!("{path}: something came of nothing"))
                    };
                }
                compare_several(path, *to_a, *to_b, *to, len(p))
            }
            Form::Pointers { to, len, each, .. } => {
                let (list, other) = (
                    *to_a.cast::<*const *const u8>(),
                    *to_b.cast::<*const *const u8>(),
                );
                if list.is_null() || len(p) == 0 {
                    return Ok(());
                }
                if other.is_null() {
                    return Err(format!("{path}: a list became none"));
                }
                for i in 0..len(p) {
                    let path = format!("{path}[{i}]");
                    compare_several(&path, *list.add(i), *other.add(i), *to, each(p, i))?;
                }
                Ok(())
            }
        }
    }
}

/// The command buffer that staged commands are decoded against.
const BUFFER: u64 = 0x1234;

/// One command with its values: request, packet, and reply.
fn agree<C: Command>(
    layout: &'static Layout,
    seed: u64,
    staged: bool,
    had: &mut Had,
) -> Difference {
    assert_eq!(layout.name, C::NAME);
    assert_eq!(layout.size, size_of::<C>());
    let arena = Arena::new();
    let mut maker = Maker {
        arena: &arena,
        state: seed,
        depth: 0,
        had,
    };
    // SAFETY: the value is made as the codecs expect it: pointers are null or point to what counts say.
    unsafe {
        let mut sent: C = std::mem::zeroed();
        maker.fill((&raw mut sent).cast(), layout);
        if staged {
            // The first parameter.
            *(&raw mut sent).cast::<u64>() = BUFFER;
        }
        let mut bytes = Vec::new();
        let body = if staged {
            sent.encode_request(&mut Writer::new(&mut bytes, &Exact).staged());
            0
        } else {
            packet::encode(&sent, 0x5171, &mut Writer::new(&mut bytes, &Exact));
            let header = Header::read(&bytes).ok_or("no header")?;
            if header.opcode != C::OPCODE || header.size as usize != bytes.len() {
                return Err(format!("{header:?} of {} bytes", bytes.len()));
            }
            HEADER + if C::ON_COMMAND_BUFFER { 0 } else { 4 }
        };
        let body = &bytes[body..];
        let mut r = if staged {
            Reader::staged(body, &arena, &Exact, (BUFFER, 0))
        } else {
            Reader::request(body, &arena, &Exact)
        };
        let mut got = C::decode_request(&mut r).map_err(|e| e.to_string())?;
        r.end().map_err(|e| e.to_string())?;
        compare(
            "",
            (&raw const sent).cast(),
            (&raw const got).cast(),
            layout,
            false,
        )?;

        // The driver's answer, which the host encodes, and the guest reads into what it has sent.
        maker.answer((&raw mut got).cast(), layout, true);
        let mut ret: C::Return = std::mem::zeroed();
        maker.noise((&raw mut ret).cast(), size_of::<C::Return>());
        let mut reply = Vec::new();
        got.encode_reply(ret, &mut Writer::new(&mut reply, &Exact));
        if !reply.is_empty() && !C::HAS_REPLY {
            return Err(format!("{} bytes that nobody waits for", reply.len()));
        }
        let mut r = Reader::reply(&reply, &arena, &Exact);
        let read = sent
            .decode_reply(&mut r)
            .map_err(|e| format!("reply: {e}"))?;
        r.end().map_err(|e| format!("reply: {e}"))?;
        equal(
            "the returned value",
            (&raw const ret).cast(),
            (&raw const read).cast(),
            size_of::<C::Return>(),
        )?;
        compare(
            "reply",
            (&raw const got).cast(),
            (&raw const sent).cast(),
            layout,
            true,
        )
    }
}

/// One struct by itself.
fn agree_alone<T: Wire>(layout: &'static Layout, seed: u64, had: &mut Had) -> Difference {
    assert_eq!(layout.size, size_of::<T>());
    let arena = Arena::new();
    let mut maker = Maker {
        arena: &arena,
        state: seed,
        depth: 0,
        had,
    };
    // SAFETY: as in `agree`; a zeroed value is what `decode` wants.
    unsafe {
        let mut sent: T = zeroed();
        maker.fill((&raw mut sent).cast(), layout);
        let mut bytes = Vec::new();
        sent.encode(&mut Writer::new(&mut bytes, &Exact));
        let mut got: T = zeroed();
        let mut r = Reader::request(&bytes, &arena, &Exact);
        T::decode(&raw mut got, &mut r).map_err(|e| e.to_string())?;
        r.end().map_err(|e| e.to_string())?;
        compare(
            "",
            (&raw const sent).cast(),
            (&raw const got).cast(),
            layout,
            false,
        )
    }
}

type AgreeAlone = fn(&'static Layout, u64, &mut Had) -> Difference;

macro_rules! structs {
    ($($name:ident,)*) => {
        [$((stringify!($name), agree_alone::<types::$name> as AgreeAlone)),*]
    };
}

type Agree = fn(&'static Layout, u64, bool, &mut Had) -> Difference;

macro_rules! entries {
    ($($name:ident,)*) => {
        [$((agree::<commands::$name> as Agree, commands::$name::ON_COMMAND_BUFFER)),*]
    };
}

/// Often enough for every content of every chain, union, count and pointer.
const ROUNDS: u64 = 12;

#[test]
fn every_encoder_agrees_with_every_decoder() {
    let all = asgard_protocol::for_each_command!(entries);
    assert_eq!(all.len(), COMMANDS.len());
    let mut had = BTreeSet::new();
    let mut wrong = Vec::new();
    for (layout, (agree, on_command_buffer)) in COMMANDS.iter().zip(all) {
        for round in 0..ROUNDS {
            for staged in [false, true] {
                if staged && !on_command_buffer {
                    continue;
                }
                let seed = round << 32 | u64::from(layout.name.len() as u32);
                if let Err(error) = agree(layout, seed, staged, &mut had) {
                    wrong.push(format!("{}: {error}", layout.name));
                }
            }
        }
    }
    let alone = asgard_protocol::for_each_struct!(structs);
    assert_eq!(alone.len(), STRUCTS.len());
    for (layout, (name, agree)) in STRUCTS.iter().zip(alone) {
        assert_eq!(layout.name, name);
        for round in 0..ROUNDS {
            if let Err(error) = agree(layout, round, &mut had) {
                wrong.push(format!("{name}: {error}"));
            }
        }
    }
    wrong.dedup();
    assert!(
        wrong.is_empty(),
        "{} disagree, the first of them:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(20)].join("\n")
    );
    // Nothing was left out: what a value may hold, some value held.
    let mut missed = Vec::new();
    for layout in STRUCTS.iter().chain(COMMANDS) {
        // A union without a selector holds its first member.
        let many = if layout.union { 1 } else { usize::MAX };
        for field in layout.fields.iter().take(many) {
            let all: Vec<i64> = match &field.form {
                Form::Chain => layout.chain.iter().map(|i| *i as i64).collect(),
                Form::Pick(values) => values.to_vec(),
                Form::Count => vec![0, 1, 2],
                Form::Pointer { optional: true, .. } => vec![0, 1],
                _ => Vec::new(),
            };
            let had = |one: &i64| had.contains(&(layout.name, field.name, *one));
            if !all.iter().all(had) {
                missed.push(format!("{}.{}", layout.name, field.name));
            }
        }
    }
    println!("{} commands, {} contents", COMMANDS.len(), had.len());
    assert!(
        missed.is_empty(),
        "{} never had all: {missed:?}",
        missed.len()
    );
}
