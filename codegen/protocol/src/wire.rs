//! The rules of the wire: how every kind of value is read and written.
//!
//! Little endian and unpadded, but for big-endian islands: flags of optional pointers, lengths of
//! strings, sizes in chains, `size_t` and function pointers.

use std::alloc::Layout;
use std::collections::VecDeque;
use std::ffi::{c_char, c_void};
use std::ptr;

use bytemuck::AnyBitPattern;

use crate::types::{Kind, VkStructureType};

/// Where a request's structs are placed.
pub type Arena = bumpalo::Bump;

/// Why bytes are not a request or reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The packet ends too early.
    #[error("the packet ends before its contents do")]
    Truncated,
    /// Bytes are left over.
    #[error("{0} bytes are left over")]
    Surplus(usize),
    /// A struct of another type stands where one is due.
    #[error("structure type {found} stands where {expected} is due")]
    WrongStructure {
        /// What the place needs.
        expected: VkStructureType,
        /// What is there.
        found: VkStructureType,
    },
    /// A chain holds a struct that nobody knows: its end cannot be found.
    #[error("unknown structure type {0} in a chain")]
    UnknownStructure(VkStructureType),
    /// A chain without end.
    #[error("a chain of more than {} structs", MAX_CHAIN)]
    ChainTooLong,
    /// A reply does not fit what the caller made room for.
    #[error("more elements than there is room for")]
    NoRoom,
    /// A count and what it counts disagree.
    #[error("a length and its repetition disagree")]
    WrongLength,
    /// A token that names nothing, or another kind of object.
    #[error("{token:#x} is not a live {kind:?}")]
    UnknownHandle {
        /// What the place needs.
        kind: Kind,
        /// What is there.
        token: u64,
    },
    /// Null where a driver takes it for an object.
    #[error("null where a {0:?} must be")]
    NullHandle(Kind),
    /// A driver would read a count that is not there.
    #[error("a count that must be there is missing")]
    NoCount,
    /// Host memory for decoding ran out.
    #[error("out of memory while decoding")]
    OutOfMemory,
    /// An allocation callback, which cannot travel.
    #[error("allocation callbacks cannot be sent")]
    Callbacks,
}

/// The longest chain that is followed; a request that asks for every struct of the registry has fewer.
pub const MAX_CHAIN: u16 = 1024;

/// Types for which all bits zero is a value.
///
/// # Safety
/// They are.
pub unsafe trait Zeroed: Copy {}

/// A value of all zeros.
pub fn zeroed<T: Zeroed>() -> T {
    // SAFETY: the trait's promise.
    unsafe { std::mem::zeroed() }
}

/// A struct or union with an encoding.
///
/// # Safety
/// `decode` writes only valid values, and `MIN` is at least one.
pub unsafe trait Wire: Zeroed {
    /// The fewest bytes it takes.
    const MIN: usize;
    /// Its structure type, or -1.
    const STYPE: VkStructureType;
    /// Reads it into `o`.
    ///
    /// # Safety
    /// `o` is valid for writes and zeroed, or, in a reader of replies, holds what was sent.
    ///
    /// # Errors
    /// Any [`DecodeError`]; `o` is then partly written.
    unsafe fn decode(o: *mut Self, r: &mut Reader<'_>) -> Result<(), DecodeError>;
    /// Appends it.
    ///
    /// # Safety
    /// Its pointers are valid for what its counts say.
    unsafe fn encode(&self, w: &mut Writer<'_>);
}

/// A command: its parameters and both directions of its wire form.
pub trait Command: Copy {
    /// Its number.
    const OPCODE: u32;
    /// Its name.
    const NAME: &'static str;
    /// Its first parameter is the command buffer that it is recorded into.
    const ON_COMMAND_BUFFER: bool;
    /// The host answers.
    const HAS_REPLY: bool;
    /// What it returns.
    type Return: Copy;
    /// What it returns when the device is lost.
    const LOST: Self::Return;
    /// Reads the parameters after the header and the sequence number.
    ///
    /// # Safety
    /// The result's pointers live as long as the reader's arena is not reset.
    ///
    /// # Errors
    /// Any [`DecodeError`].
    unsafe fn decode_request(r: &mut Reader<'_>) -> Result<Self, DecodeError>;
    /// Appends the parameters.
    ///
    /// # Safety
    /// Its pointers are valid for what its counts say.
    unsafe fn encode_request(&self, w: &mut Writer<'_>);
    /// Appends the outputs and the return value.
    ///
    /// # Safety
    /// As [`Command::encode_request`].
    unsafe fn encode_reply(&self, ret: Self::Return, w: &mut Writer<'_>);
    /// Reads outputs into where this command's pointers point, then the return value.
    ///
    /// # Safety
    /// The output pointers are valid for writes of what their counts say; `r` reads replies.
    ///
    /// # Errors
    /// Any [`DecodeError`].
    unsafe fn decode_reply(&mut self, r: &mut Reader<'_>) -> Result<Self::Return, DecodeError>;
}

/// Turns a peer's tokens into handles of one's own.
pub trait Handles {
    /// The handle behind a token that is not null.
    ///
    /// # Errors
    /// [`DecodeError::UnknownHandle`].
    fn resolve(&self, kind: Kind, token: u64) -> Result<u64, DecodeError>;

    /// Keep garbage as it came, function pointers and host-only structs included: for tools that
    /// encode what they decoded, never for a driver.
    fn exact(&self) -> bool {
        false
    }

    /// The peer knows every struct that we do, and not only those that upstream's host knows: what
    /// it does not know is left out of chains when they are written, and refused when they are read.
    fn extended(&self) -> bool {
        true
    }

    /// The token of a handle, for a writer.
    fn token(&self, _kind: Kind, handle: u64) -> u64 {
        handle
    }
}

/// Tokens stand for themselves and everything is kept.
#[derive(Clone, Copy, Debug)]
pub struct Exact;

impl Handles for Exact {
    fn resolve(&self, _: Kind, token: u64) -> Result<u64, DecodeError> {
        Ok(token)
    }
    fn exact(&self) -> bool {
        true
    }
}

/// Tokens stand for themselves: the host's replies, whose handles are tokens already.
#[derive(Clone, Copy, Debug)]
pub struct Tokens;

impl Handles for Tokens {
    fn resolve(&self, _: Kind, token: u64) -> Result<u64, DecodeError> {
        Ok(token)
    }
}

/// The head of every struct in a chain.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Base {
    /// Which struct.
    pub s_type: VkStructureType,
    /// The next one.
    pub next: *const Self,
}

/// The count behind an output pointer; zero when there is none.
macro_rules! count_at {
    ($pointer:expr) => {{
        let p = $pointer;
        if p.is_null() { 0 } else { *p as usize }
    }};
    ($pointer:expr, $field:ident) => {{
        let p = $pointer;
        if p.is_null() { 0 } else { (*p).$field as usize }
    }};
    // A member of an element of an array, which has that many.
    ($pointer:expr, $index:expr, $field:ident) => {{
        let p = $pointer;
        if p.is_null() {
            0
        } else {
            (*p.add($index)).$field as usize
        }
    }};
}
pub(crate) use count_at;

/// What a missing value is for; matters only where values are made up.
#[derive(Clone, Copy, Debug)]
enum What<'a> {
    Any,
    Count,
    CountBe,
    Flag,
    ChainSize,
    ChainType,
    Exactly(&'a [u8]),
    Pick(&'a [i64]),
}

/// Reads values from bytes.
///
/// Three ways to use one: [`Reader::request`] places what pointers point to in an arena,
/// [`Reader::reply`] fills what the caller's pointers point to, [`Reader::arbitrary`] makes values up.
#[allow(
    missing_debug_implementations,
    reason = "its parts are borrowed trait objects"
)]
pub struct Reader<'a> {
    rest: &'a [u8],
    arena: &'a Arena,
    handles: &'a dyn Handles,
    exact: bool,
    in_place: bool,
    out: bool,
    depth: u16,
    root: VkStructureType,
    old: Option<VkStructureType>,
    staged: Option<(u64, u64)>,
    trace: Option<Vec<u64>>,
    made: Option<Made>,
    source: Option<&'a mut dyn Source>,
}

/// Where a reader of replies gets bytes as they arrive.
pub trait Source {
    /// Fills `to`, waiting for as long as it takes.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] when no more will come.
    fn fill(&mut self, to: &mut [u8]) -> Result<(), DecodeError>;
}

impl<'a> Reader<'a> {
    /// Reads a request's parameters.
    #[inline]
    pub fn request(bytes: &'a [u8], arena: &'a Arena, handles: &'a dyn Handles) -> Self {
        Self {
            rest: bytes,
            arena,
            handles,
            exact: handles.exact(),
            in_place: false,
            out: false,
            depth: 0,
            root: -1,
            old: None,
            staged: None,
            trace: None,
            made: None,
            source: None,
        }
    }

    /// Reads the parameters of a command recorded into the command buffer with that handle and token.
    #[inline]
    pub fn staged(
        bytes: &'a [u8],
        arena: &'a Arena,
        handles: &'a dyn Handles,
        command_buffer: (u64, u64),
    ) -> Self {
        Self {
            staged: Some(command_buffer),
            ..Self::request(bytes, arena, handles)
        }
    }

    /// Reads a reply into where the request's output pointers point.
    pub fn reply(bytes: &'a [u8], arena: &'a Arena, handles: &'a dyn Handles) -> Self {
        Self {
            in_place: true,
            ..Self::request(bytes, arena, handles)
        }
    }

    /// As [`Reader::reply`], from bytes that may still be on their way: a reply does not say how long it
    /// is.
    pub fn arriving(
        source: &'a mut dyn Source,
        arena: &'a Arena,
        handles: &'a dyn Handles,
    ) -> Self {
        Self {
            source: Some(source),
            ..Self::reply(&[], arena, handles)
        }
    }

    /// Makes values up, always the same for the same seed.
    pub fn arbitrary(seed: u64, arena: &'a Arena) -> Self {
        let made = Made {
            state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        };
        Self {
            made: Some(made),
            ..Self::request(&[], arena, &Exact)
        }
    }

    /// Remembers the flag values and chain sizes it meets, for [`Writer::replay`].
    #[must_use]
    pub fn tracing(mut self) -> Self {
        self.trace = Some(Vec::new());
        self
    }

    /// The flag values and chain sizes met so far.
    pub fn trace(&mut self) -> Vec<u64> {
        self.trace.take().unwrap_or_default()
    }

    /// Bytes not read yet.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Nothing may be left.
    ///
    /// # Errors
    /// [`DecodeError::Surplus`].
    #[inline]
    pub fn end(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::Surplus(self.rest.len()))
        }
    }

    #[inline]
    fn take<const N: usize>(&mut self, what: What<'_>) -> Result<[u8; N], DecodeError> {
        match self.rest.split_first_chunk::<N>() {
            Some((head, rest)) => {
                self.rest = rest;
                Ok(*head)
            }
            None => self.short(what),
        }
    }

    #[cold]
    fn short<const N: usize>(&mut self, what: What<'_>) -> Result<[u8; N], DecodeError> {
        let depth = self.depth;
        let mut bytes = [0; N];
        if let Some(source) = &mut self.source {
            source.fill(&mut bytes)?;
            return Ok(bytes);
        }
        let made = self.made.as_mut().ok_or(DecodeError::Truncated)?;
        made.fill(&mut bytes, what, depth);
        Ok(bytes)
    }

    fn note(&mut self, value: u64) {
        if let Some(trace) = &mut self.trace {
            trace.push(value);
        }
    }

    pub(crate) fn begin_out(&mut self) {
        self.out = true;
    }

    pub(crate) fn end_out(&mut self) {
        self.out = false;
    }

    #[inline]
    pub(crate) fn be32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.take(What::Flag)?))
    }

    /// `size_t`.
    #[inline]
    pub(crate) fn size(&mut self) -> Result<usize, DecodeError> {
        Ok(u64::from_be_bytes(self.take(What::Any)?) as usize)
    }

    pub(crate) fn count_size(&mut self) -> Result<usize, DecodeError> {
        Ok(u64::from_be_bytes(self.take(What::CountBe)?) as usize)
    }

    /// Flag of an optional pointer: something follows.
    #[inline]
    pub(crate) fn flag(&mut self) -> Result<bool, DecodeError> {
        let value = u64::from_be_bytes(self.take(What::Flag)?);
        self.note(value);
        Ok(value != 0)
    }

    /// Flag of a pointer to a count, which a driver may not be given null.
    #[inline]
    pub(crate) fn flag_of_count(&mut self) -> Result<bool, DecodeError> {
        let there = self.flag()?;
        if there || self.exact || self.in_place {
            Ok(there)
        } else {
            Err(DecodeError::NoCount)
        }
    }

    pub(crate) fn callbacks(&mut self) -> Result<(), DecodeError> {
        let value = u64::from_be_bytes(self.take(What::Exactly(&[0; 8]))?);
        if value == 0 {
            Ok(())
        } else {
            Err(DecodeError::Callbacks)
        }
    }

    /// The value of a pointer that nobody follows.
    ///
    /// # Safety
    /// `slot` is valid.
    pub(crate) unsafe fn opaque(&mut self, slot: *mut *mut c_void) -> Result<(), DecodeError> {
        let value = self.u64()?;
        // SAFETY: the caller's promise.
        unsafe { *slot = ptr::without_provenance_mut(value as usize) };
        Ok(())
    }

    pub(crate) fn function(&mut self) -> Result<Option<unsafe extern "system" fn()>, DecodeError> {
        let value = u64::from_be_bytes(self.take(What::Any)?);
        if !self.exact {
            return Ok(None);
        }
        // SAFETY: an option of a function pointer is a word; nobody calls one that was decoded exactly.
        Ok(unsafe {
            std::mem::transmute::<usize, Option<unsafe extern "system" fn()>>(value as usize)
        })
    }

    #[inline]
    pub(crate) fn stype(
        &mut self,
        expected: VkStructureType,
    ) -> Result<VkStructureType, DecodeError> {
        let found = i32::from_le_bytes(self.take(What::Exactly(&expected.to_le_bytes()))?);
        if self.depth == 0 {
            self.root = expected;
        }
        if self.old.take().is_some_and(|old| old == found) {
            return Ok(expected);
        }
        // In a chain the type says what the struct is to whoever reads it.
        if found == expected || self.exact && self.depth == 0 {
            Ok(found)
        } else {
            Err(DecodeError::WrongStructure { expected, found })
        }
    }

    /// A value that decides what follows.
    #[inline]
    pub(crate) fn pick(&mut self, picks: &[i64]) -> Result<i32, DecodeError> {
        Ok(i32::from_le_bytes(self.take(What::Pick(picks))?))
    }

    #[inline]
    fn resolve(&self, kind: Kind, token: u64, required: bool) -> Result<u64, DecodeError> {
        if token == 0 {
            // Outputs of a request are rubbish, and replies may say that there is nothing.
            return if required && !self.exact && !self.out && !self.in_place {
                Err(DecodeError::NullHandle(kind))
            } else {
                Ok(0)
            };
        }
        if self.out && !self.in_place {
            return Ok(if self.exact { token } else { 0 });
        }
        self.handles.resolve(kind, token)
    }

    #[inline]
    pub(crate) fn handle(&mut self, kind: Kind, required: bool) -> Result<u64, DecodeError> {
        let token = self.u64()?;
        self.resolve(kind, token, required)
    }

    #[inline]
    pub(crate) fn handle_or_null(&mut self, kind: Kind) -> Result<u64, DecodeError> {
        let token = self.u64()?;
        Ok(self.resolve(kind, token, false).unwrap_or(0))
    }

    /// A handle and its token.
    #[inline]
    pub(crate) fn object(&mut self, kind: Kind, required: bool) -> Result<(u64, u64), DecodeError> {
        let token = self.u64()?;
        Ok((self.resolve(kind, token, required)?, token))
    }

    #[inline]
    pub(crate) fn command_buffer(&mut self) -> Result<(u64, u64), DecodeError> {
        match self.staged {
            Some(staged) => Ok(staged),
            None => self.object(Kind::CommandBuffer, true),
        }
    }

    /// Room for `n` values, zeroed, or what the caller provided.
    ///
    /// # Safety
    /// `slot` is valid; in a reader of replies it holds null or a pointer to `n` values.
    #[inline]
    unsafe fn place<T>(
        &mut self,
        slot: *mut *mut T,
        n: usize,
        min: usize,
    ) -> Result<*mut T, DecodeError> {
        if self.in_place {
            // SAFETY: the caller's promise.
            let p = unsafe { *slot };
            return if p.is_null() && n > 0 {
                Err(DecodeError::NoRoom)
            } else {
                Ok(p)
            };
        }
        if n == 0 {
            if self.out && !self.exact {
                // Room for nothing is not the same as null, which asks a driver how much there is.
                // SAFETY: the caller's slot is valid.
                unsafe { *slot = ptr::NonNull::dangling().as_ptr() };
            }
            return Ok(ptr::null_mut());
        }
        if self.made.is_none() && n.saturating_mul(min) > self.rest.len() {
            return Err(DecodeError::Truncated);
        }
        let layout = Layout::array::<T>(n).map_err(|_| DecodeError::OutOfMemory)?;
        let p = self
            .arena
            .try_alloc_layout(layout)
            .map_err(|_| DecodeError::OutOfMemory)?;
        let p = p.as_ptr().cast::<T>();
        // SAFETY: the arena gave room for n values; the caller's slot is valid.
        unsafe {
            ptr::write_bytes(p, 0, n);
            *slot = p;
        }
        Ok(p)
    }

    /// `n` scalars.
    ///
    /// # Safety
    /// As [`Reader::place`].
    pub(crate) unsafe fn scalars<T: AnyBitPattern>(
        &mut self,
        slot: *mut *mut T,
        n: usize,
    ) -> Result<(), DecodeError> {
        // SAFETY: the caller's promise.
        let p = unsafe { self.place(slot, n, size_of::<T>())? };
        let bytes = n.saturating_mul(size_of::<T>());
        // SAFETY: place made or found room for n values.
        unsafe { self.copy(p.cast(), bytes) }
    }

    /// # Safety
    /// `to` is valid for writes of `n` bytes.
    unsafe fn copy(&mut self, to: *mut u8, n: usize) -> Result<(), DecodeError> {
        if n == 0 {
            return Ok(());
        }
        if let Some(made) = &mut self.made {
            // SAFETY: the caller's promise.
            let to = unsafe { std::slice::from_raw_parts_mut(to, n) };
            made.fill(to, What::Any, 0);
            return Ok(());
        }
        if let Some(source) = &mut self.source {
            // SAFETY: the caller's promise.
            return source.fill(unsafe { std::slice::from_raw_parts_mut(to, n) });
        }
        let (head, rest) = self
            .rest
            .split_at_checked(n)
            .ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        // SAFETY: the caller's promise; the source is a private copy.
        unsafe { ptr::copy_nonoverlapping(head.as_ptr(), to, n) };
        Ok(())
    }

    /// One scalar behind a pointer that counts a sibling.
    ///
    /// # Safety
    /// As [`Reader::place`].
    pub(crate) unsafe fn counter<T: Scalar>(
        &mut self,
        slot: *mut *mut T,
    ) -> Result<(), DecodeError> {
        // SAFETY: the caller's promise.
        let p = unsafe { self.place(slot, 1, size_of::<T>())? };
        let value = T::count(self)?;
        // SAFETY: place made or found room for one value.
        unsafe { *p = value };
        Ok(())
    }

    /// # Safety
    /// As [`Reader::place`].
    pub(crate) unsafe fn size_counter(&mut self, slot: *mut *mut usize) -> Result<(), DecodeError> {
        // SAFETY: the caller's promise.
        let p = unsafe { self.place(slot, 1, 8)? };
        let value = self.count_size()?;
        // SAFETY: place made or found room for one value.
        unsafe { *p = value };
        Ok(())
    }

    /// # Safety
    /// As [`Reader::place`].
    pub(crate) unsafe fn sizes(
        &mut self,
        slot: *mut *mut usize,
        n: usize,
    ) -> Result<(), DecodeError> {
        // SAFETY: the caller's promise.
        let p = unsafe { self.place(slot, n, 8)? };
        for i in 0..n {
            let value = self.size()?;
            // SAFETY: place made or found room for n values.
            unsafe { *p.add(i) = value };
        }
        Ok(())
    }

    /// # Safety
    /// As [`Reader::place`].
    pub(crate) unsafe fn handles(
        &mut self,
        slot: *mut *mut u64,
        n: usize,
        kind: Kind,
        required: bool,
    ) -> Result<(), DecodeError> {
        // SAFETY: the caller's promise.
        let p = unsafe { self.place(slot, n, 8)? };
        for i in 0..n {
            let value = self.handle(kind, required)?;
            // SAFETY: place made or found room for n values.
            unsafe { *p.add(i) = value };
        }
        Ok(())
    }

    /// Handles, and their tokens beside them.
    ///
    /// # Safety
    /// As [`Reader::place`], for both slots.
    pub(crate) unsafe fn objects(
        &mut self,
        slot: *mut *mut u64,
        tokens: *mut *const u64,
        n: usize,
        kind: Kind,
        required: bool,
    ) -> Result<(), DecodeError> {
        let mut kept: *mut u64 = ptr::null_mut();
        // SAFETY: the caller's promise.
        let (p, t) = unsafe { (self.place(slot, n, 8)?, self.place(&raw mut kept, n, 8)?) };
        for i in 0..n {
            let (handle, token) = self.object(kind, required)?;
            // SAFETY: place made room for n values in both.
            unsafe {
                *p.add(i) = handle;
                *t.add(i) = token;
            }
        }
        // SAFETY: the caller's promise.
        unsafe { *tokens = t };
        Ok(())
    }

    /// `n` structs.
    ///
    /// # Safety
    /// As [`Reader::place`].
    pub(crate) unsafe fn array<T: Wire>(
        &mut self,
        slot: *mut *mut T,
        n: usize,
    ) -> Result<(), DecodeError> {
        // SAFETY: the caller's promise.
        let p = unsafe { self.place(slot, n, T::MIN)? };
        for i in 0..n {
            // SAFETY: place made or found room for n values.
            unsafe { T::decode(p.add(i), self)? };
        }
        Ok(())
    }

    /// `n` pointers, each to as many structs as `each` says, of which there are `min` bytes a pointer.
    ///
    /// # Safety
    /// As [`Reader::place`].
    pub(crate) unsafe fn lists<T: Wire>(
        &mut self,
        slot: *mut *mut *mut T,
        n: usize,
        min: usize,
        each: impl Fn(usize) -> usize,
    ) -> Result<(), DecodeError> {
        // SAFETY: the caller's promise.
        let p = unsafe { self.place(slot, n, min)? };
        for i in 0..n {
            // SAFETY: place made room for n pointers.
            unsafe { self.array(p.add(i), each(i))? };
        }
        Ok(())
    }

    /// As [`Reader::lists`], of scalars.
    ///
    /// # Safety
    /// As [`Reader::place`].
    pub(crate) unsafe fn scalar_lists<T: AnyBitPattern>(
        &mut self,
        slot: *mut *mut *mut T,
        n: usize,
        each: impl Fn(usize) -> usize,
    ) -> Result<(), DecodeError> {
        // SAFETY: the caller's promise.
        let p = unsafe { self.place(slot, n, 0)? };
        for i in 0..n {
            // SAFETY: place made room for n pointers.
            unsafe { self.scalars(p.add(i), each(i))? };
        }
        Ok(())
    }

    /// The elements of a fixed array of structs.
    ///
    /// # Safety
    /// `a` is valid as for [`Wire::decode`].
    pub(crate) unsafe fn each<T: Wire, const N: usize>(
        &mut self,
        a: *mut [T; N],
    ) -> Result<(), DecodeError> {
        for i in 0..N {
            // SAFETY: inside the array.
            unsafe { T::decode(a.cast::<T>().add(i), self)? };
        }
        Ok(())
    }

    /// The bytes of a fixed array of scalars, as they are.
    ///
    /// # Safety
    /// `p` is valid for writes, and any bytes are a value of `T`.
    pub(crate) unsafe fn raw<T>(&mut self, p: *mut T) -> Result<(), DecodeError> {
        // SAFETY: the caller's promise.
        unsafe { self.copy(p.cast(), size_of::<T>()) }
    }

    /// A string.
    ///
    /// # Safety
    /// `slot` is valid.
    pub(crate) unsafe fn string(
        &mut self,
        slot: *mut *mut c_char,
        optional: bool,
    ) -> Result<(), DecodeError> {
        if optional && !self.flag()? {
            return Ok(());
        }
        let n = u32::from_be_bytes(self.take(What::CountBe)?) as usize;
        if self.made.is_none() && self.source.is_none() && n > self.rest.len() {
            return Err(DecodeError::Truncated);
        }
        let text = self
            .arena
            .try_alloc_layout(Layout::array::<u8>(n + 1).map_err(|_| DecodeError::OutOfMemory)?);
        let text = text.map_err(|_| DecodeError::OutOfMemory)?.as_ptr();
        // SAFETY: the arena gave n + 1 bytes.
        unsafe {
            self.copy(text, n)?;
            if self.made.is_some() {
                // A string ends at its first zero byte.
                for i in 0..n {
                    *text.add(i) |= 0x40;
                }
            }
            *text.add(n) = 0;
        }
        if !self.in_place {
            // SAFETY: the caller's promise.
            unsafe { *slot = text.cast() };
        }
        Ok(())
    }

    /// A list of strings, whose count must be the one that a sibling gave.
    ///
    /// # Safety
    /// As [`Reader::place`].
    pub(crate) unsafe fn strings(
        &mut self,
        slot: *mut *mut *mut c_char,
        expected: usize,
    ) -> Result<(), DecodeError> {
        let repeat = (expected as u32).to_be_bytes();
        let n = u32::from_be_bytes(self.take(What::Exactly(&repeat))?) as usize;
        if n != expected {
            return Err(DecodeError::WrongLength);
        }
        // SAFETY: the caller's promise.
        let p = unsafe { self.place(slot, n, 4)? };
        for i in 0..n {
            // SAFETY: place made room for n pointers.
            unsafe { self.string(p.add(i), false)? };
        }
        Ok(())
    }

    pub(crate) fn extended(&self) -> bool {
        self.handles.extended()
    }

    /// What follows in a chain.
    ///
    /// # Safety
    /// `slot` is valid; in a reader of replies it holds the caller's chain.
    pub(crate) unsafe fn chain(&mut self, slot: *mut *mut c_void) -> Result<(), DecodeError> {
        let size = u32::from_be_bytes(self.take(What::ChainSize)?);
        if size == 0 {
            return Ok(());
        }
        self.note(u64::from(size));
        let stype = i32::from_le_bytes(self.take(What::ChainType)?);
        if self.depth >= MAX_CHAIN {
            return Err(DecodeError::ChainTooLong);
        }
        self.depth += 1;
        // SAFETY: the caller's promise.
        let result = unsafe { crate::chain::decode(stype, self.root, slot, self) };
        self.depth -= 1;
        result
    }

    /// One struct of a chain, and with it the rest; left out unless `keep`.
    ///
    /// # Safety
    /// As [`Reader::chain`].
    pub(crate) unsafe fn link<T: Wire>(
        &mut self,
        slot: *mut *mut c_void,
        keep: bool,
    ) -> Result<(), DecodeError> {
        if self.in_place {
            // SAFETY: the caller's chain is a list of structs that start like Base.
            unsafe {
                let mut p = (*slot).cast::<Base>();
                while !p.is_null() && (*p).s_type != T::STYPE {
                    p = (*p).next.cast_mut();
                }
                if p.is_null() {
                    return Err(DecodeError::UnknownStructure(T::STYPE));
                }
                return T::decode(p.cast(), self);
            }
        }
        let mut p: *mut T = ptr::null_mut();
        // SAFETY: place makes room for one struct, which starts like Base; the slot is valid.
        unsafe {
            let place = self.place(&raw mut p, 1, T::MIN)?;
            T::decode(place, self)?;
            *slot = if keep || self.exact || self.out {
                place.cast()
            } else {
                (*place.cast::<Base>()).next.cast_mut().cast()
            };
        }
        Ok(())
    }

    /// As [`Reader::link`], for a struct that came under an old structure type.
    ///
    /// # Safety
    /// As [`Reader::chain`].
    pub(crate) unsafe fn link_old<T: Wire>(
        &mut self,
        slot: *mut *mut c_void,
        old: VkStructureType,
    ) -> Result<(), DecodeError> {
        self.old = Some(old);
        // SAFETY: the caller's promise.
        unsafe { self.link::<T>(slot, true) }
    }

    /// A returned count must fit the room that the caller made.
    pub(crate) fn fits(&self, n: usize, room: usize) -> Result<(), DecodeError> {
        if n > room && self.in_place {
            Err(DecodeError::NoRoom)
        } else {
            Ok(())
        }
    }
}

macro_rules! read_scalars {
    ($($name:ident $count:ident $ty:ty;)*) => {
        impl Reader<'_> {
            $(
                #[allow(dead_code, reason = "one for each scalar")]
                #[inline]
                pub(crate) fn $name(&mut self) -> Result<$ty, DecodeError> {
                    Ok(<$ty>::from_le_bytes(self.take(What::Any)?))
                }
                #[allow(dead_code, reason = "one for each scalar")]
                #[inline]
                pub(crate) fn $count(&mut self) -> Result<$ty, DecodeError> {
                    Ok(<$ty>::from_le_bytes(self.take(What::Count)?))
                }
            )*
        }
    };
}
read_scalars! {
    u8 count_u8 u8;
    i8 count_i8 i8;
    u16 count_u16 u16;
    i16 count_i16 i16;
    u32 count_u32 u32;
    i32 count_i32 i32;
    u64 count_u64 u64;
    i64 count_i64 i64;
    f32 count_f32 f32;
    f64 count_f64 f64;
}

/// A scalar that can be a count.
pub(crate) trait Scalar: AnyBitPattern {
    /// Reads one.
    fn count(r: &mut Reader<'_>) -> Result<Self, DecodeError>;
}
macro_rules! scalar_counts {
    ($($ty:ty, $count:ident;)*) => { $(
        impl Scalar for $ty {
            fn count(r: &mut Reader<'_>) -> Result<Self, DecodeError> { r.$count() }
        }
    )* };
}
scalar_counts! { u8, count_u8; u32, count_u32; i32, count_i32; u64, count_u64; }

/// Makes values up.
#[derive(Debug)]
struct Made {
    state: u64,
}

impl Made {
    fn next(&mut self) -> u64 {
        // xorshift64*
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn fill(&mut self, bytes: &mut [u8], what: What<'_>, depth: u16) {
        let last = bytes.len().saturating_sub(1);
        match what {
            What::Any => {
                for chunk in bytes.chunks_mut(8) {
                    let word = self.next().to_le_bytes();
                    chunk.copy_from_slice(&word[..chunk.len()]);
                }
            }
            What::Count => bytes[0] = (self.next() % 3) as u8,
            What::CountBe => bytes[last] = (self.next() % 5) as u8,
            What::Flag => bytes[last] = u8::from(!self.next().is_multiple_of(4)),
            What::ChainSize => bytes[last] = u8::from(depth < 3 && self.next().is_multiple_of(3)),
            What::ChainType => {
                let all = crate::chain::CHAINED;
                let pick = all[(self.next() % all.len() as u64) as usize];
                bytes.copy_from_slice(&pick.to_le_bytes());
            }
            What::Exactly(value) => bytes.copy_from_slice(value),
            What::Pick(picks) => {
                let pick = picks[(self.next() % picks.len() as u64) as usize];
                bytes.copy_from_slice(&(pick as i32).to_le_bytes());
            }
        }
    }
}

/// Appends values to bytes.
#[allow(
    missing_debug_implementations,
    reason = "its parts are borrowed trait objects"
)]
pub struct Writer<'a> {
    buf: &'a mut Vec<u8>,
    handles: &'a dyn Handles,
    exact: bool,
    out: bool,
    staged: bool,
    replay: Option<VecDeque<u64>>,
}

impl<'a> Writer<'a> {
    /// Appends to `buf`.
    #[inline]
    pub fn new(buf: &'a mut Vec<u8>, handles: &'a dyn Handles) -> Self {
        Self {
            buf,
            handles,
            exact: handles.exact(),
            out: false,
            staged: false,
            replay: None,
        }
    }

    /// Leaves command buffers out: the form of a recording.
    #[must_use]
    pub fn staged(mut self) -> Self {
        self.staged = true;
        self
    }

    /// Writes these flag values and chain sizes instead of its own.
    #[must_use]
    pub fn replay(mut self, trace: Vec<u64>) -> Self {
        self.replay = Some(trace.into());
        self
    }

    /// Bytes in the buffer.
    #[allow(clippy::len_without_is_empty, reason = "a position, not a collection")]
    pub fn len(&self) -> usize {
        self.buf.len()
    }

    /// Writes the size of the packet that starts at `start` into its second word.
    pub fn patch_size(&mut self, start: usize) {
        let size = ((self.buf.len() - start) as u32).to_le_bytes();
        if let Some(word) = self.buf.get_mut(start + 4..start + 8) {
            word.copy_from_slice(&size);
        }
    }

    #[inline]
    fn put<const N: usize>(&mut self, bytes: [u8; N]) {
        self.buf.extend_from_slice(&bytes);
    }

    pub(crate) fn begin_out(&mut self) {
        self.out = true;
    }

    pub(crate) fn end_out(&mut self) {
        self.out = false;
    }

    pub(crate) fn be32(&mut self, value: u32) {
        self.put(value.to_be_bytes());
    }

    pub(crate) fn size(&mut self, value: usize) {
        self.put((value as u64).to_be_bytes());
    }

    pub(crate) fn callbacks(&mut self) {
        self.put([0; 8]);
    }

    pub(crate) fn function(&mut self, value: Option<unsafe extern "system" fn()>) {
        let value = if self.exact {
            value.map_or(0, |f| f as usize as u64)
        } else {
            0
        };
        self.put(value.to_be_bytes());
    }

    fn replayed(&mut self, own: u64) -> u64 {
        match &mut self.replay {
            Some(queue) => queue.pop_front().unwrap_or(own),
            None => own,
        }
    }

    /// Flag of an optional pointer; true when its body follows.
    #[inline]
    pub(crate) fn flag(&mut self, p: *const c_void) -> bool {
        let own = u64::from(!p.is_null());
        // A zero flag was not part of what is replayed unless it was read: it was, so pop one each.
        let value = self.replayed(own);
        self.put(value.to_be_bytes());
        value != 0 && !p.is_null()
    }

    #[inline]
    pub(crate) fn handle(&mut self, kind: Kind, handle: u64) {
        let token = if handle == 0 || (self.out && !self.exact) {
            0
        } else {
            self.handles.token(kind, handle)
        };
        self.put(token.to_le_bytes());
    }

    #[inline]
    pub(crate) fn command_buffer(&mut self, handle: u64) {
        if !self.staged {
            self.handle(Kind::CommandBuffer, handle);
        }
    }

    // A null pointer where values are due sends zeros: the stream stays in step.

    /// # Safety
    /// `p` is null or valid for `n` reads.
    pub(crate) unsafe fn scalars<T>(&mut self, p: *const T, n: usize) {
        if p.is_null() {
            self.buf.resize(self.buf.len() + n * size_of::<T>(), 0);
        } else if n > 0 {
            // SAFETY: the caller's promise.
            let bytes = unsafe { std::slice::from_raw_parts(p.cast::<u8>(), n * size_of::<T>()) };
            self.buf.extend_from_slice(bytes);
        }
    }

    /// # Safety
    /// `p` is null or valid for `n` reads.
    pub(crate) unsafe fn sizes(&mut self, p: *const usize, n: usize) {
        for i in 0..n {
            // SAFETY: the caller's promise.
            self.size(if p.is_null() { 0 } else { unsafe { *p.add(i) } });
        }
    }

    /// # Safety
    /// `p` is null or valid for `n` reads.
    pub(crate) unsafe fn handles(&mut self, p: *const u64, n: usize, kind: Kind) {
        for i in 0..n {
            // SAFETY: the caller's promise.
            self.handle(kind, if p.is_null() { 0 } else { unsafe { *p.add(i) } });
        }
    }

    /// # Safety
    /// `p` is null or valid for `n` reads of encodable values.
    pub(crate) unsafe fn array<T: Wire>(&mut self, p: *const T, n: usize) {
        for i in 0..n {
            // SAFETY: the caller's promise; a value of zeros has null pointers.
            unsafe {
                match p.is_null() {
                    true => zeroed::<T>().encode(self),
                    false => (*p.add(i)).encode(self),
                }
            }
        }
    }

    /// What each of `n` pointers points to.
    ///
    /// # Safety
    /// `p` is null or valid for `n` reads of pointers, each as for [`Writer::array`].
    pub(crate) unsafe fn lists<T: Wire>(
        &mut self,
        p: *const *const T,
        n: usize,
        each: impl Fn(usize) -> usize,
    ) {
        for i in 0..n {
            // SAFETY: the caller's promise.
            unsafe {
                self.array(if p.is_null() { ptr::null() } else { *p.add(i) }, each(i));
            }
        }
    }

    /// As [`Writer::lists`], of scalars.
    ///
    /// # Safety
    /// As [`Writer::lists`].
    pub(crate) unsafe fn scalar_lists<T>(
        &mut self,
        p: *const *const T,
        n: usize,
        each: impl Fn(usize) -> usize,
    ) {
        for i in 0..n {
            // SAFETY: the caller's promise.
            unsafe {
                self.scalars(if p.is_null() { ptr::null() } else { *p.add(i) }, each(i));
            }
        }
    }

    /// # Safety
    /// The values are encodable.
    pub(crate) unsafe fn each<T: Wire, const N: usize>(&mut self, values: &[T; N]) {
        for value in values {
            // SAFETY: the caller's promise.
            unsafe { value.encode(self) };
        }
    }

    /// # Safety
    /// `p` is valid for reads.
    pub(crate) unsafe fn raw<T>(&mut self, p: *const T) {
        // SAFETY: the caller's promise.
        unsafe { self.scalars(p.cast::<u8>(), size_of::<T>()) };
    }

    /// # Safety
    /// `p` is null or a string.
    pub(crate) unsafe fn string(&mut self, p: *const c_char, optional: bool) {
        if optional && !self.flag(p.cast()) {
            return;
        }
        let text = if p.is_null() {
            &[]
        } else {
            // SAFETY: the caller's promise.
            unsafe { std::ffi::CStr::from_ptr(p) }.to_bytes()
        };
        self.be32(text.len() as u32);
        self.buf.extend_from_slice(text);
    }

    /// # Safety
    /// `p` is null or valid for `n` reads of strings.
    pub(crate) unsafe fn strings<P>(&mut self, p: *const P, n: usize) {
        self.be32(n as u32);
        let p = p.cast::<*const c_char>();
        for i in 0..n {
            // SAFETY: the caller's promise.
            unsafe { self.string(if p.is_null() { p.cast() } else { *p.add(i) }, false) };
        }
    }

    pub(crate) fn extended(&self) -> bool {
        self.handles.extended()
    }

    /// One struct of a chain, and with it the rest.
    ///
    /// # Safety
    /// As [`Wire::encode`].
    pub(crate) unsafe fn link<T: Wire>(&mut self, value: &T) {
        let size = self.replayed(size_of::<T>() as u64);
        self.be32(size as u32);
        self.put(T::STYPE.to_le_bytes());
        // SAFETY: the caller's promise.
        unsafe { value.encode(self) };
    }
}

macro_rules! write_scalars {
    ($($name:ident)*) => {
        impl Writer<'_> {
            $(
                #[allow(dead_code, reason = "one for each scalar")]
                #[inline]
                pub(crate) fn $name(&mut self, value: $name) {
                    self.put(value.to_le_bytes());
                }
            )*
        }
    };
}
write_scalars! { u8 i8 u16 i16 u32 i32 u64 i64 f32 f64 }
