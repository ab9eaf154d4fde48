//! The manifest: one line per command and struct, the reviewable shape of the wire.

use std::fmt::Write as _;

use crate::Model;
use crate::model::Field;
use crate::wire::{Cond, Len, Target, Wire};

/// The committed text of `tests/golden/wire.txt`.
pub fn manifest(model: &Model) -> String {
    let mut out = String::new();
    for c in &model.commands {
        let _ = write!(out, "{} {}", c.name, c.opcode);
        if let Some(why) = &c.foreign {
            let _ = writeln!(out, " no encoding: {why}");
            continue;
        }
        let mode = match (c.on_command_buffer(), c.has_reply()) {
            (true, false) => "staged",
            (true, true) => "staged, answered",
            (false, true) => "answered",
            (false, false) => "not answered",
        };
        let _ = write!(out, " {mode}");
        if let Some(why) = &c.refused {
            let _ = write!(out, ", refused by the host ({why})");
        }
        for p in &c.params {
            let _ = write!(out, "; {}{}", if p.out { "out " } else { "" }, field(p));
        }
        if let Some(wire) = &c.ret_wire {
            let _ = write!(out, " -> {}", form(wire));
        }
        out.push('\n');
    }
    for s in &model.structs {
        let _ = write!(out, "{}", s.name);
        if let Some(stype) = s.stype() {
            let _ = write!(out, " {}", model.value(stype).unwrap_or(-1));
        }
        if let Some(why) = &s.foreign {
            let _ = writeln!(out, " no encoding: {why}");
            continue;
        }
        if s.union {
            out += " union";
        }
        if let Some(why) = &s.dropped {
            let _ = write!(out, " not passed to the host's driver ({why})");
        }
        for word in &s.prefix {
            let _ = write!(out, "; be32 {word}");
        }
        for f in &s.fields {
            let _ = write!(out, "; {}", field(f));
            if !f.selection.is_empty() {
                let _ = write!(out, " for {}", f.selection.join("|"));
            }
        }
        out.push('\n');
    }
    out
}

fn field(f: &Field) -> String {
    format!("{} {}", f.name, form(&f.wire))
}

fn form(wire: &Wire) -> String {
    match wire {
        Wire::Plain(p) => p.rust().to_owned(),
        Wire::Size => "be64".to_owned(),
        Wire::Function => "function be64".to_owned(),
        Wire::Handle { kind, lenient } => format!("{kind}{}", if *lenient { "?" } else { "" }),
        Wire::Struct(s) => s.clone(),
        Wire::Union { name, selector } => match selector {
            Some(selector) => format!("{name} by {selector}"),
            None => format!("{name} first"),
        },
        Wire::Raw => "raw".to_owned(),
        Wire::Structs(s) => format!("[{s}]"),
        Wire::Chain => "chain".to_owned(),
        Wire::Str { optional } => format!("{}string", if *optional { "flag " } else { "" }),
        Wire::Strs(_) => "strings".to_owned(),
        Wire::Callbacks => "null".to_owned(),
        Wire::Nothing => "nothing".to_owned(),
        Wire::Foreign(why) => format!("none ({why})"),
        Wire::Pointer {
            optional,
            target,
            len,
            cond,
        } => {
            let target = match target {
                Target::Plain(p) => p.rust().to_owned(),
                Target::Size => "be64".to_owned(),
                Target::Handle(k) => k.clone(),
                Target::Struct(s) | Target::Union(s) => s.clone(),
                Target::Bytes => "u8".to_owned(),
                Target::Byte => "u8".to_owned(),
            };
            let len = match len {
                Len::One => String::new(),
                Len::Const(c) => format!("[{c}]"),
                Len::Field(f) => format!("[{f}]"),
                Len::Deref(f) => format!("[*{f}]"),
                Len::Path(p, f) => format!("[{p}->{f}]"),
                Len::Calc(c) => format!("[{c}]"),
            };
            let cond = match cond {
                None => String::new(),
                Some(Cond::OneOf(f, _)) => format!(" if {f}"),
                Some(Cond::Without(f, bit)) => format!(" unless {f} has {bit}"),
                Some(Cond::Word(w)) => format!(" if {w}"),
            };
            format!(
                "{}{target}{len}{cond}",
                if *optional { "flag " } else { "" }
            )
        }
    }
}
