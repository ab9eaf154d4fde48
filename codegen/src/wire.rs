//! How a value lies on the wire.
//!
//! Everything is little endian and unpadded, but for the big-endian islands inherited from the
//! protocol's origin: flags of optional pointers, lengths of strings, sizes in chains, `size_t`.

/// A scalar of natural size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Prim {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F32,
    F64,
}

impl Prim {
    /// Its Rust spelling.
    pub fn rust(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F32 => "f32",
            Self::F64 => "f64",
        }
    }

    /// Bytes.
    pub fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// The scalar of a C type name.
    pub fn of_c(name: &str) -> Option<Self> {
        Some(match name {
            "uint8_t" => Self::U8,
            "int8_t" | "char" => Self::I8,
            "uint16_t" => Self::U16,
            "int16_t" => Self::I16,
            "uint32_t" => Self::U32,
            "int32_t" | "int" => Self::I32,
            "uint64_t" => Self::U64,
            "int64_t" => Self::I64,
            "float" => Self::F32,
            "double" => Self::F64,
            _ => return None,
        })
    }
}

/// A number of elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Len {
    /// Exactly one; no count anywhere.
    One,
    /// A constant expression.
    Const(String),
    /// A sibling by value.
    Field(String),
    /// A sibling that points to the count.
    Deref(String),
    /// A member of the struct a sibling points to.
    Path(String, String),
    /// A calculation: siblings stand in braces, `({codeSize}) / 4`.
    Calc(String),
}

/// What a pointer points to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Scalars.
    Plain(Prim),
    /// `size_t`, 8 bytes big endian each.
    Size,
    /// Handles, 8 bytes each.
    Handle(String),
    /// Structs, one after the other.
    Struct(String),
    /// Unions, each by its first member.
    Union(String),
    /// `void*` with a length: raw bytes.
    Bytes,
    /// `void*` without a length: one byte.
    Byte,
}

/// How many elements each pointer of a list points to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Each {
    /// One.
    One,
    /// A member of the element with the same index in a sibling array: `pInfos[].geometryCount`.
    Of(String, String),
}

/// A condition on a sibling for a body to be there.
#[derive(Clone, Debug)]
pub enum Cond {
    /// The member has one of these values.
    OneOf(String, Vec<String>),
    /// The member lacks this bit.
    Without(String, String),
    /// The derived prefix word is set.
    Word(String),
}

/// What a handle is that names no live object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// An error.
    Error,
    /// Null: stock guests send stale ones.
    Stale,
    /// Null: it may stand where nobody looks, and be garbage.
    Ignored,
}

/// The form of one member or parameter.
#[derive(Clone, Debug)]
pub enum Wire {
    /// A scalar.
    Plain(Prim),
    /// `size_t` by value.
    Size,
    /// A function pointer: 8 bytes big endian.
    Function,
    /// A handle: 8 bytes.
    Handle {
        /// Which object.
        kind: String,
        /// What one is that names no live object.
        unknown: Unknown,
    },
    /// A struct in place.
    Struct(String),
    /// A union in place: its first member, or the selected one.
    Union {
        /// Which union.
        name: String,
        /// The sibling that selects.
        selector: Option<String>,
    },
    /// A fixed array of scalars, characters or handles: its bytes as they are.
    Raw,
    /// A fixed array of structs.
    Structs(String),
    /// The extension chain.
    Chain,
    /// A string: length, bytes.
    Str {
        /// Flag bytes before it.
        optional: bool,
    },
    /// A list of strings: count, then each; the count repeats a sibling.
    Strs(Len),
    /// `VkAllocationCallbacks*`: 8 zero bytes.
    Callbacks,
    /// Any other pointer.
    Pointer {
        /// Flag bytes before it.
        optional: bool,
        /// What it points to.
        target: Target,
        /// How many.
        len: Len,
        /// When its body is there.
        cond: Option<Cond>,
    },
    /// A list of pointers: what each points to, one after the other.
    Pointers {
        /// Flag bytes before it.
        optional: bool,
        /// What each points to.
        target: Target,
        /// How many pointers.
        len: Len,
        /// How much each points to.
        each: Each,
    },
    /// A pointer that nobody follows: its value, 8 bytes.
    Opaque,
    /// Not sent at all.
    Nothing,
    /// Cannot be sent: the reason.
    Foreign(String),
}

impl Wire {
    /// Fewest bytes it takes, without what lies in place: bounds allocations by what a packet can hold.
    pub fn min(&self) -> usize {
        match self {
            Self::Plain(p) => p.size(),
            Self::Size | Self::Function | Self::Handle { .. } | Self::Callbacks | Self::Opaque => 8,
            Self::Struct(_) | Self::Structs(_) | Self::Union { .. } | Self::Raw => 0,
            Self::Nothing | Self::Foreign(_) => 0,
            Self::Chain | Self::Strs(_) => 4,
            Self::Str { optional } => {
                if *optional {
                    8
                } else {
                    4
                }
            }
            Self::Pointer { optional, .. } | Self::Pointers { optional, .. } => {
                8 * usize::from(*optional)
            }
        }
    }
}
