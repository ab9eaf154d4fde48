//! The manifest: one line per command and struct, the reviewable shape of the wire.
//!
//! What stands before [`REMARK`] in a line is the wire; a remark is what the host does with it.

use std::fmt::Write as _;

use crate::Model;
use crate::model::{Field, Struct};
use crate::wire::{Cond, Each, Len, Target, Unknown, Wire};

/// Between the shape and what the host makes of it.
pub const REMARK: &str = "  # ";

/// The committed text of `tests/golden/wire.txt`.
pub fn manifest(model: &Model) -> String {
    let mut out = String::new();
    for c in &model.commands {
        let _ = write!(out, "{} {}", c.name, c.opcode);
        if let Some(why) = &c.foreign {
            let _ = writeln!(out, " no encoding{REMARK}{why}");
            continue;
        }
        let mode = match (c.on_command_buffer(), c.has_reply()) {
            (true, false) => "recorded",
            (true, true) => "recorded, answered",
            (false, true) => "answered",
            (false, false) => "not answered",
        };
        let _ = write!(out, " {mode}");
        for p in &c.params {
            let _ = write!(
                out,
                "; {}{}",
                if p.out { "out " } else { "" },
                field(model, p)
            );
        }
        if let Some(wire) = &c.ret_wire {
            let _ = write!(out, " -> {}", form(model, wire, &c.ret));
        }
        if let Some(why) = &c.refused {
            let _ = write!(out, "{REMARK}refused by the host: {why}");
        }
        out.push('\n');
    }
    for s in &model.structs {
        out.push_str(&s.name);
        if let Some(stype) = s.stype() {
            let _ = write!(out, " {}", model.value(stype).unwrap_or(-1));
        }
        if let Some(why) = &s.foreign {
            let _ = writeln!(out, " no encoding{REMARK}{why}");
            continue;
        }
        if s.union {
            out += " union";
        }
        if s.chained() {
            out += " chained";
        }
        for (root, old, _) in model
            .legacy_stypes
            .iter()
            .filter(|(.., name)| *name == s.name)
        {
            let _ = write!(out, ", as {old} too in {root}");
        }
        for word in &s.prefix {
            let _ = write!(out, "; be32 {word}");
        }
        for f in &s.fields {
            let _ = write!(out, "; {}", field(model, f));
            let numbers = numbers(model, &f.selection);
            if !numbers.is_empty() {
                let _ = write!(out, " for {numbers}");
            }
        }
        if let Some(why) = &s.dropped {
            let _ = write!(out, "{REMARK}not passed to the host's driver: {why}");
        }
        out.push('\n');
    }
    out
}

/// The commands and structs that a command or struct cannot be read without.
pub fn contents<'m>(model: &'m Model, name: &str) -> Vec<&'m Struct> {
    let fields = match model.commands.iter().find(|c| c.name == name) {
        Some(command) => &command.params,
        None => match model.get(name) {
            Some(structure) => &structure.fields,
            None => return Vec::new(),
        },
    };
    fields
        .iter()
        .filter_map(|f| match &f.wire {
            Wire::Struct(s)
            | Wire::Structs(s)
            | Wire::Union { name: s, .. }
            | Wire::Pointer {
                target: Target::Struct(s) | Target::Union(s),
                ..
            }
            | Wire::Pointers {
                target: Target::Struct(s) | Target::Union(s),
                ..
            } => model.get(s),
            _ => None,
        })
        .collect()
}

fn field(model: &Model, f: &Field) -> String {
    format!("{} {}", f.name, form(model, &f.wire, &f.rust))
}

/// The values of enumerants.
fn numbers(model: &Model, names: &[String]) -> String {
    let numbers: Vec<String> = names
        .iter()
        .filter_map(|n| model.value(n))
        .map(|n| n.to_string())
        .collect();
    numbers.join("|")
}

/// Constants by their values: `[u8; VK_UUID_SIZE as usize]` -> `[u8; 16]`.
fn resolved(model: &Model, text: &str) -> String {
    let mut out = text.replace(" as usize", "").replace("c_char", "i8");
    for (name, _, value) in &model.constants {
        if out.contains(name.as_str()) {
            let value = model
                .constants
                .iter()
                .find(|(n, ..)| n == value)
                .map_or(value, |c| &c.2);
            out = out
                .split_inclusive(|c: char| !c.is_alphanumeric() && c != '_')
                .map(|word| {
                    let end = word.trim_end_matches(|c: char| !c.is_alphanumeric() && c != '_');
                    if end == name {
                        word.replacen(name.as_str(), value, 1)
                    } else {
                        word.to_owned()
                    }
                })
                .collect();
        }
    }
    out
}

/// An array of a named scalar as one of what it is: `[VkBool32; 4]` -> `[u32; 4]`.
fn scalar(model: &Model, array: &str) -> String {
    let mut name = array
        .trim_start_matches('[')
        .split(';')
        .next()
        .unwrap_or(array);
    let old = name;
    while let Some(next) = (model
        .typedefs
        .iter()
        .find(|t| t.0 == name)
        .map(|t| t.1.as_str()))
    .or_else(|| model.enums.iter().find(|e| e.0 == name).map(|e| e.1))
    {
        name = next;
    }
    if model.handles.iter().any(|h| h.name == name) {
        name = "u64";
    }
    array.replacen(old, name, 1)
}

fn form(model: &Model, wire: &Wire, rust: &str) -> String {
    match wire {
        Wire::Plain(p) => p.rust().to_owned(),
        Wire::Size => "be64".to_owned(),
        Wire::Function => "function be64".to_owned(),
        Wire::Handle { kind, unknown } => {
            let stale = *unknown == Unknown::Stale;
            format!("{kind}{}", if stale { "?" } else { "" })
        }
        Wire::Struct(s) => s.clone(),
        Wire::Union { name, selector } => match selector {
            Some(selector) => format!("{name} by {selector}"),
            None => format!("{name} first"),
        },
        Wire::Structs(_) => resolved(model, rust),
        Wire::Raw => resolved(model, &scalar(model, rust)),
        Wire::Chain => "chain".to_owned(),
        Wire::Str { optional } => format!("{}string", if *optional { "flag " } else { "" }),
        Wire::Strs(count) => format!("strings{}", length(model, count)),
        Wire::Callbacks => "null".to_owned(),
        Wire::Opaque => "value u64".to_owned(),
        Wire::Nothing => "nothing".to_owned(),
        Wire::Foreign(why) => format!("none ({why})"),
        Wire::Pointers {
            optional,
            target,
            len,
            each,
        } => {
            let flag = if *optional { "flag " } else { "" };
            let each = match each {
                Each::One => String::new(),
                Each::Of(array, member) => format!(" of [{array}[].{member}]"),
            };
            format!("{flag}{}{}{each}", pointee(target), length(model, len))
        }
        Wire::Pointer {
            optional,
            target,
            len,
            cond,
        } => {
            let target = pointee(target);
            let cond = match cond {
                None => String::new(),
                Some(Cond::OneOf(f, values)) => format!(" if {f} is {}", numbers(model, values)),
                Some(Cond::Without(f, bit)) => {
                    format!(" unless {f} has {}", model.value(bit).unwrap_or(-1))
                }
                Some(Cond::Word(w)) => format!(" if {w}"),
            };
            let flag = if *optional { "flag " } else { "" };
            format!("{flag}{target}{}{cond}", length(model, len))
        }
    }
}

fn pointee(target: &Target) -> String {
    match target {
        Target::Plain(p) => p.rust().to_owned(),
        Target::Size => "be64".to_owned(),
        Target::Handle(k) => k.clone(),
        Target::Struct(s) | Target::Union(s) => s.clone(),
        Target::Bytes | Target::Byte => "u8".to_owned(),
    }
}

fn length(model: &Model, len: &Len) -> String {
    match len {
        Len::One => String::new(),
        Len::Const(c) => format!("[{}]", resolved(model, c)),
        Len::Field(f) => format!("[{f}]"),
        Len::Deref(f) => format!("[*{f}]"),
        Len::Path(p, f) => format!("[{p}->{f}]"),
        Len::Calc(c) => format!("[{}]", resolved(model, c)),
    }
}
