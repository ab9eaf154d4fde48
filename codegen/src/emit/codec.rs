//! Encode and decode of every struct and command, one small function each.

use std::collections::BTreeMap;

use super::{Out, ident};
use crate::Model;
use crate::model::{Command, Field, Struct};
use crate::wire::{Cond, Each, Len, Target, Unknown, Wire};

/// Implementations of `Wire` for every struct and union.
pub(super) fn structs(model: &Model) -> String {
    let mut out = Out::default();
    for s in model.structs.iter().filter(|s| s.foreign.is_none()) {
        write_struct(&mut out, model, s);
    }
    out.line(
        "/// Calls the macro `$m` with the name of every struct and union that has an encoding.",
    );
    out.line("#[macro_export]");
    out.line("macro_rules! for_each_struct {");
    out.line("($m:ident) => { $m! {");
    for s in model.structs.iter().filter(|s| s.foreign.is_none()) {
        out.line(format!("{},", s.name));
    }
    out.line("} };");
    out.line("}");
    out.finish()
}

/// The codec of one struct.
pub(super) fn structure(model: &Model, s: &Struct) -> String {
    let mut out = Out::default();
    write_struct(&mut out, model, s);
    out.finish()
}

fn write_struct(out: &mut Out, model: &Model, s: &Struct) {
    if s.union {
        return write_union(out, model, s);
    }
    let fixed: usize = s.prefix.len() * 4 + s.fields.iter().map(|f| f.wire.min()).sum::<usize>();
    let mut min: Vec<String> = s.fields.iter().filter_map(in_place).collect();
    if fixed > 0 || min.is_empty() {
        min.insert(0, fixed.max(1).to_string());
    }
    out.line("// SAFETY: each member is read or written as the registry declares it.");
    out.line(format!("unsafe impl Wire for {} {{", s.name));
    out.line(format!("const MIN: usize = {};", min.join(" + ")));
    let stype = s.stype().unwrap_or("-1");
    out.line(format!("const STYPE: i32 = {stype};"));
    out.line(
        "unsafe fn decode(o: *mut Self, r: &mut Reader<'_>) -> Result<(), DecodeError> { unsafe {",
    );
    for word in &s.prefix {
        out.line(format!("let {word} = r.be32()? != 0;"));
    }
    for field in &s.fields {
        decode_field(out, model, field, "(*o).", false);
    }
    out.line("Ok(())");
    out.line("} }");
    out.line("unsafe fn encode(&self, w: &mut Writer<'_>) { unsafe {");
    for word in &s.prefix {
        out.line(format!("let {word} = crate::derived::{word}(self);"));
        out.line(format!("w.be32(u32::from({word}));"));
    }
    for field in &s.fields {
        encode_field(out, model, field, "self.");
    }
    out.line("} }");
    out.line("}");
}

/// The fewest bytes of a member that lies in place, as an expression.
fn in_place(field: &Field) -> Option<String> {
    match &field.wire {
        Wire::Struct(name)
        | Wire::Union {
            name,
            selector: None,
        } => Some(format!("<{name} as Wire>::MIN")),
        Wire::Structs(name) => Some(format!(
            "size_of::<{}>() / size_of::<{name}>() * <{name} as Wire>::MIN",
            field.rust
        )),
        Wire::Raw => Some(format!("size_of::<{}>()", field.rust)),
        _ => None,
    }
}

fn write_union(out: &mut Out, model: &Model, s: &Struct) {
    let Some(first) = s.fields.first() else {
        return;
    };
    let min = in_place(first).unwrap_or_else(|| first.wire.min().max(1).to_string());
    out.line("// SAFETY: the first member is read or written as the registry declares it.");
    out.line(format!("unsafe impl Wire for {} {{", s.name));
    out.line(format!("const MIN: usize = {min};"));
    out.line("const STYPE: i32 = -1;");
    out.line(
        "unsafe fn decode(o: *mut Self, r: &mut Reader<'_>) -> Result<(), DecodeError> { unsafe {",
    );
    decode_field(out, model, first, "(*o).", false);
    out.line("Ok(())");
    out.line("} }");
    out.line("unsafe fn encode(&self, w: &mut Writer<'_>) { unsafe {");
    encode_field(out, model, first, "self.");
    out.line("} }");
    out.line("}");
    let selected = model
        .structs
        .iter()
        .flat_map(|o| &o.fields)
        .any(|f| matches!(&f.wire, Wire::Union { name, selector: Some(_) } if *name == s.name));
    if !selected {
        return;
    }
    // SAFETY comments stand on the impl block: its methods are unsafe fns.
    out.line(format!("impl {} {{", s.name));
    out.line("/// Decodes the member that `selector` selects; none when it selects none.");
    out.line("pub(crate) unsafe fn decode_selected(o: *mut Self, selector: i64, r: &mut Reader<'_>) -> Result<(), DecodeError> { unsafe {");
    select(out, model, s, |out, field| {
        decode_field(out, model, field, "(*o).", false)
    });
    out.line("Ok(())");
    out.line("} }");
    out.line("/// Encodes the member that `selector` selects; nothing when it selects none.");
    out.line(
        "pub(crate) unsafe fn encode_selected(&self, selector: i64, w: &mut Writer<'_>) { unsafe {",
    );
    select(out, model, s, |out, field| {
        encode_field(out, model, field, "self.")
    });
    out.line("} }");
    out.line("}");
}

fn select(out: &mut Out, model: &Model, s: &Struct, mut each: impl FnMut(&mut Out, &Field)) {
    out.line("match selector {");
    let mut seen = std::collections::BTreeSet::new();
    for field in &s.fields {
        let numbers: Vec<String> = field
            .selection
            .iter()
            .filter_map(|v| model.value(v))
            .filter(|n| seen.insert(*n))
            .map(|n| n.to_string())
            .collect();
        if numbers.is_empty() {
            continue;
        }
        out.line(format!("{} => {{", numbers.join(" | ")));
        each(out, field);
        out.line("}");
    }
    out.line("_ => {}");
    out.line("}");
}

/// Every struct that may stand in a chain, by its structure type.
pub(super) fn chain(model: &Model) -> String {
    let mut out = Out::default();
    let chained: Vec<&Struct> = model.structs.iter().filter(|s| s.chained()).collect();
    out.line("/// Decodes the struct of that type into the chain at `slot`.");
    out.line("pub(crate) unsafe fn decode(stype: i32, root: i32, slot: *mut *mut c_void, r: &mut Reader<'_>) -> Result<(), DecodeError> { unsafe {");
    out.line("match (root, stype) {");
    for (root, number, name) in &model.legacy_stypes {
        let root = model.get(root).and_then(Struct::stype).unwrap_or("-1");
        out.line(format!(
            "({root}, {number}) => return r.link_old::<{name}>(slot, stype),"
        ));
    }
    out.line("_ => {}");
    out.line("}");
    out.line("match stype {");
    for s in &chained {
        let stype = s.stype().unwrap_or_default();
        out.line(format!(
            "{stype}{} => r.link::<{}>(slot, {}),",
            if s.upstream { "" } else { " if r.extended()" },
            s.name,
            s.dropped.is_none()
        ));
    }
    out.line("_ => Err(DecodeError::UnknownStructure(stype)),");
    out.line("}");
    out.line("} }");
    out.line(
        "/// Encodes the first struct of the chain that has an encoding, and with it the rest.",
    );
    out.line("pub(crate) unsafe fn encode(mut p: *const Base, w: &mut Writer<'_>) { unsafe {");
    out.line("while !p.is_null() {");
    out.line("match (*p).s_type {");
    for s in &chained {
        let stype = s.stype().unwrap_or_default();
        out.line(format!(
            "{stype}{} => return w.link(&*p.cast::<{}>()),",
            if s.upstream { "" } else { " if w.extended()" },
            s.name
        ));
    }
    out.line("_ => p = (*p).next,");
    out.line("}");
    out.line("}");
    out.line("w.be32(0);");
    out.line("} }");
    out.line("/// Every structure type that may stand in a chain.");
    out.line("pub const CHAINED: &[VkStructureType] = &[");
    for s in &chained {
        out.line(format!("{},", s.stype().unwrap_or_default()));
    }
    out.line("];");
    out.finish()
}

/// Every command's parameters with their codecs.
pub(super) fn commands(model: &Model) -> String {
    let mut out = Out::default();
    for c in model.commands.iter().filter(|c| c.foreign.is_none()) {
        write_command(&mut out, model, c);
    }
    out.line("/// Calls the macro `$m` with the name of every command that has an encoding.");
    out.line("#[macro_export]");
    out.line("macro_rules! for_each_command {");
    out.line("($m:ident) => { $m! {");
    for c in model.commands.iter().filter(|c| c.foreign.is_none()) {
        out.line(format!("{},", c.name));
    }
    out.line("} };");
    out.line("}");
    out.line("/// The name of the command with that opcode.");
    out.line("pub fn name(opcode: u32) -> Option<&'static str> {");
    out.line("Some(match opcode {");
    for c in &model.commands {
        out.line(format!("{} => \"{}\",", c.opcode, c.name));
    }
    out.line("_ => return None,");
    out.line("})");
    out.line("}");
    out.finish()
}

/// One command.
pub(super) fn command(model: &Model, c: &Command) -> String {
    let mut out = Out::default();
    write_command(&mut out, model, c);
    out.finish()
}

fn write_command(out: &mut Out, model: &Model, c: &Command) {
    let staged = c.on_command_buffer();
    let alias = c
        .alias
        .as_ref()
        .map(|a| format!(", an alias of `{a}`"))
        .unwrap_or_default();
    let reply = if c.has_reply() {
        "answered"
    } else {
        "not answered"
    };
    out.line(format!(
        "/// `{}`, opcode {}, {reply}{alias}.",
        c.name, c.opcode
    ));
    out.line("#[repr(C)]");
    out.line("#[derive(Clone, Copy, Debug)]");
    out.line(format!("pub struct {} {{", c.name));
    for (i, p) in c.params.iter().enumerate() {
        out.line(format!("pub {}: {},", ident(&p.name), p.rust));
        if let Some((name, ty)) = token(p, staged, i == 0) {
            out.line(format!("pub {name}: {ty},"));
        }
    }
    out.line("}");
    out.line(format!("zeroable!({});", c.name));
    out.line(format!("impl Command for {} {{", c.name));
    out.line(format!("const OPCODE: u32 = {};", c.opcode));
    out.line(format!("const NAME: &'static str = \"{}\";", c.name));
    out.line(format!("const ON_COMMAND_BUFFER: bool = {staged};"));
    out.line(format!("const HAS_REPLY: bool = {};", c.has_reply()));
    out.line(format!("type Return = {};", c.ret));
    let lost = match (&c.ret_wire, c.ret.as_str()) {
        (None, _) => "()",
        (_, "VkResult") => "VK_ERROR_DEVICE_LOST",
        (Some(Wire::Function), _) => "None",
        _ => "0",
    };
    out.line(format!("const LOST: Self::Return = {lost};"));
    let quiet = c.params.is_empty();
    let r = if quiet { "_r" } else { "r" };
    let w = if quiet { "_w" } else { "w" };
    out.line("#[inline]");
    out.line(format!(
        "unsafe fn decode_request({r}: &mut Reader<'_>) -> Result<Self, DecodeError> {{ unsafe {{"
    ));
    out.line(format!(
        "let {}c: Self = zeroed();",
        if quiet { "" } else { "mut " }
    ));
    for (i, p) in c.params.iter().enumerate() {
        if p.out {
            out.line("r.begin_out();");
        }
        decode_param(out, model, p, staged, i == 0);
        if p.out {
            out.line("r.end_out();");
        }
    }
    out.line("Ok(c)");
    out.line("} }");
    out.line(format!(
        "unsafe fn encode_request(&self, {w}: &mut Writer<'_>) {{ unsafe {{"
    ));
    for (i, p) in c.params.iter().enumerate() {
        if staged && i == 0 {
            out.line(format!("w.command_buffer(self.{}.0);", ident(&p.name)));
            continue;
        }
        if p.out {
            out.line("w.begin_out();");
        }
        encode_field(out, model, p, "self.");
        if p.out {
            out.line("w.end_out();");
        }
    }
    out.line("} }");
    let outs: Vec<&Field> = c.params.iter().filter(|p| p.out).collect();
    let silent = outs.is_empty() && c.ret_wire.is_none();
    let (r, w) = if silent { ("_r", "_w") } else { ("r", "w") };
    let ret = if c.ret_wire.is_none() { "_ret" } else { "ret" };
    out.line(format!(
        "unsafe fn encode_reply(&self, {ret}: {}, {w}: &mut Writer<'_>) {{ unsafe {{",
        c.ret
    ));
    for p in &outs {
        encode_field(out, model, p, "self.");
    }
    if let Some(wire) = &c.ret_wire {
        match wire {
            Wire::Plain(prim) => out.line(format!("w.{}(ret);", prim.rust())),
            _ => out.line("w.function(ret);"),
        }
    }
    out.line("} }");
    out.line(format!("unsafe fn decode_reply(&mut self, {r}: &mut Reader<'_>) -> Result<{}, DecodeError> {{ unsafe {{", c.ret));
    if outs.iter().any(|p| !matches!(p.wire, Wire::Nothing)) {
        out.line("let c = self;");
    }
    let rooms = rooms(&outs);
    for (count, arrays) in &rooms {
        // Without an array behind it the count is free.
        let free: Vec<String> = arrays
            .iter()
            .map(|a| format!("c.{}.is_null()", ident(a)))
            .collect();
        out.line(format!(
            "let room_{count} = if {} {{ usize::MAX }} else {{ count_at!(c.{count}) }};",
            free.join(" && ")
        ));
    }
    for p in &outs {
        decode_field(out, model, p, "c.", false);
        if rooms.contains_key(p.name.as_str()) {
            out.line(format!("r.fits(count_at!(c.{0}), room_{0})?;", p.name));
        }
    }
    match &c.ret_wire {
        Some(Wire::Plain(prim)) => out.line(format!("r.{}()", prim.rust())),
        Some(_) => out.line("r.function()"),
        None => out.line("Ok(())"),
    }
    out.line("} }");
    out.line("}");
}

/// Counts that come back, and the arrays of the caller's that they bound.
fn rooms<'f>(outs: &[&'f Field]) -> BTreeMap<&'f str, Vec<&'f str>> {
    let mut rooms: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for p in outs {
        if let Wire::Pointer {
            len: Len::Deref(count),
            ..
        } = &p.wire
            && outs.iter().any(|o| o.name == *count)
        {
            rooms.entry(count).or_default().push(&p.name);
        }
    }
    rooms
}

/// The field that keeps a parameter's token, for handles that the host looks up.
fn token(p: &Field, staged: bool, first: bool) -> Option<(String, &'static str)> {
    if p.out {
        return None;
    }
    match &p.wire {
        Wire::Handle { .. } if !staged || first => Some((format!("{}_token", p.name), "u64")),
        Wire::Pointer {
            target: Target::Handle(_),
            ..
        } if !staged => Some((format!("{}_tokens", p.name), "*const u64")),
        _ => None,
    }
}

fn decode_param(out: &mut Out, model: &Model, p: &Field, staged: bool, first: bool) {
    let name = ident(&p.name);
    let Some((token, _)) = token(p, staged, first) else {
        return decode_field(out, model, p, "c.", false);
    };
    match &p.wire {
        Wire::Handle { kind, .. } => {
            let read = if staged {
                "r.command_buffer()?".to_owned()
            } else {
                format!("r.object(Kind::{kind}, {})?", p.required)
            };
            out.line(format!("(c.{name}.0, c.{token}) = {read};"));
        }
        _ => decode_field(out, model, p, "c.", true),
    }
}

pub(super) fn len(len: &Len, place: &str) -> String {
    match len {
        Len::One => "1".to_owned(),
        Len::Const(c) => c.clone(),
        Len::Field(name) => format!("{place}{} as usize", ident(name)),
        Len::Deref(name) => format!("count_at!({place}{})", ident(name)),
        Len::Path(name, field) => format!("count_at!({place}{}, {})", ident(name), ident(field)),
        Len::Calc(text) => {
            let mut out = String::new();
            for part in text.split('{') {
                match part.split_once('}') {
                    Some((name, rest)) => {
                        out += &format!("({place}{} as usize){rest}", ident(name))
                    }
                    None => out += part,
                }
            }
            out
        }
    }
}

/// How much each pointer of a list points to, as a function of its index.
pub(super) fn each_of(each: &Each, place: &str) -> String {
    match each {
        Each::One => "|_| 1".to_owned(),
        Each::Of(array, member) => {
            format!(
                "|i| count_at!({place}{}, i, {})",
                ident(array),
                ident(member)
            )
        }
    }
}

pub(super) fn condition(model: &Model, cond: &Cond, place: &str) -> String {
    match cond {
        Cond::OneOf(field, values) => {
            let numbers: Vec<String> = values
                .iter()
                .filter_map(|v| model.value(v))
                .map(|n| n.to_string())
                .collect();
            format!("matches!({place}{}, {})", ident(field), numbers.join(" | "))
        }
        Cond::Without(field, bit) => format!("{place}{} & {bit} == 0", ident(field)),
        Cond::Word(word) => word.clone(),
    }
}

fn decode_field(out: &mut Out, model: &Model, f: &Field, place: &str, tokens: bool) {
    let at = format!("{place}{}", ident(&f.name));
    match &f.wire {
        Wire::Plain(prim) => {
            let prim = prim.rust();
            if let Some(stype) = &f.stype {
                out.line(format!("{at} = r.stype({stype})?;"));
            } else if !f.picks.is_empty() {
                let picks: Vec<String> = f
                    .picks
                    .iter()
                    .filter_map(|v| model.value(v))
                    .map(|n| n.to_string())
                    .collect();
                out.line(format!(
                    "{at} = r.pick(&[{}])? as {prim};",
                    picks.join(", ")
                ));
            } else if f.counts {
                out.line(format!("{at} = r.count_{prim}()?;"));
            } else {
                out.line(format!("{at} = r.{prim}()?;"));
            }
        }
        Wire::Size if f.counts => out.line(format!("{at} = r.count_size()?;")),
        Wire::Size => out.line(format!("{at} = r.size()?;")),
        Wire::Function => out.line(format!("{at} = r.function()?;")),
        Wire::Handle {
            kind,
            unknown: Unknown::Error,
        } => {
            out.line(format!("{at}.0 = r.handle(Kind::{kind}, {})?;", f.required));
        }
        Wire::Handle { kind, .. } => {
            out.line(format!("{at}.0 = r.handle_or_null(Kind::{kind})?;"));
        }
        Wire::Struct(s)
        | Wire::Union {
            name: s,
            selector: None,
        } => {
            out.line(format!("{s}::decode(&raw mut {at}, r)?;"));
        }
        Wire::Union {
            name,
            selector: Some(selector),
        } => {
            let selector = format!("i64::from({place}{})", ident(selector));
            out.line(format!(
                "{name}::decode_selected(&raw mut {at}, {selector}, r)?;"
            ));
        }
        Wire::Raw => out.line(format!("r.raw(&raw mut {at})?;")),
        Wire::Structs(_) => out.line(format!("r.each(&raw mut {at})?;")),
        Wire::Chain => out.line(format!("r.chain((&raw mut {at}).cast())?;")),
        Wire::Str { optional } => {
            out.line(format!("r.string((&raw mut {at}).cast(), {optional})?;"));
        }
        Wire::Strs(count) => {
            out.line(format!(
                "r.strings((&raw mut {at}).cast(), {})?;",
                len(count, place)
            ));
        }
        Wire::Callbacks => out.line("r.callbacks()?;"),
        Wire::Opaque => out.line(format!("r.opaque((&raw mut {at}).cast())?;")),
        Wire::Nothing | Wire::Foreign(_) => {}
        Wire::Pointers {
            optional,
            target,
            len: count,
            each,
        } => {
            let (n, each_of) = (len(count, place), each_of(each, place));
            let slot = format!("(&raw mut {at}).cast()");
            let body = match target {
                Target::Struct(s) => {
                    let min = match each {
                        Each::One => format!("<{s} as Wire>::MIN"),
                        Each::Of(..) => "0".to_owned(),
                    };
                    format!("r.lists::<{s}>({slot}, {n}, {min}, {each_of})?;")
                }
                target => format!(
                    "r.scalar_lists::<{}>({slot}, {n}, {each_of})?;",
                    element(target)
                ),
            };
            match optional {
                true => out.line(format!("if r.flag()? {{ {body} }}")),
                false => out.line(body),
            }
        }
        Wire::Pointer {
            optional,
            target,
            len: count,
            cond,
        } => {
            let n = len(count, place);
            let slot = format!("(&raw mut {at}).cast()");
            let body = match target {
                Target::Plain(prim) if f.counts => {
                    format!("r.counter::<{}>({slot})?;", prim.rust())
                }
                Target::Plain(prim) => format!("r.scalars::<{}>({slot}, {n})?;", prim.rust()),
                Target::Size if f.counts => format!("r.size_counter({slot})?;"),
                Target::Size => format!("r.sizes({slot}, {n})?;"),
                Target::Handle(kind) if tokens => format!(
                    "r.objects({slot}, &raw mut {place}{}_tokens, {n}, Kind::{kind}, {})?;",
                    f.name, f.required
                ),
                Target::Handle(kind) => {
                    format!("r.handles({slot}, {n}, Kind::{kind}, {})?;", f.required)
                }
                Target::Struct(s) | Target::Union(s) => format!("r.array::<{s}>({slot}, {n})?;"),
                Target::Bytes => format!("r.scalars::<u8>({slot}, {n})?;"),
                Target::Byte => format!("r.scalars::<u8>({slot}, 1)?;"),
            };
            let cond = cond.as_ref().map(|c| condition(model, c, place));
            match (optional, cond) {
                (false, None) => out.line(body),
                (true, None) if f.needed => {
                    out.line(format!("if r.flag_of_count()? {{ {body} }}"));
                }
                (true, None) => out.line(format!("if r.flag()? {{ {body} }}")),
                (false, Some(cond)) => out.line(format!("if {cond} {{ {body} }}")),
                (true, Some(cond)) => out.line(format!("if r.flag()? && {cond} {{ {body} }}")),
            }
        }
    }
}

fn encode_field(out: &mut Out, model: &Model, f: &Field, place: &str) {
    let at = format!("{place}{}", ident(&f.name));
    match &f.wire {
        Wire::Plain(prim) => out.line(format!("w.{}({at});", prim.rust())),
        Wire::Size => out.line(format!("w.size({at});")),
        Wire::Function => out.line(format!("w.function({at});")),
        Wire::Handle { kind, .. } => out.line(format!("w.handle(Kind::{kind}, {at}.0);")),
        Wire::Struct(_) | Wire::Union { selector: None, .. } => {
            out.line(format!("Wire::encode(&{at}, w);"));
        }
        Wire::Union {
            selector: Some(selector),
            ..
        } => {
            out.line(format!(
                "{at}.encode_selected(i64::from({place}{}), w);",
                ident(selector)
            ));
        }
        Wire::Raw => out.line(format!("w.raw(&raw const {at});")),
        Wire::Structs(_) => out.line(format!("w.each(&{at});")),
        Wire::Chain => out.line(format!("crate::chain::encode({at}.cast(), w);")),
        Wire::Str { optional } => out.line(format!("w.string({at}, {optional});")),
        Wire::Strs(count) => out.line(format!("w.strings({at}, {});", len(count, place))),
        Wire::Callbacks => out.line("w.callbacks();"),
        Wire::Opaque => out.line(format!("w.u64({at} as usize as u64);")),
        Wire::Nothing | Wire::Foreign(_) => {}
        Wire::Pointers {
            optional,
            target,
            len: count,
            each,
        } => {
            let (n, each_of) = (len(count, place), each_of(each, place));
            let list = match target {
                Target::Struct(_) => "lists",
                _ => "scalar_lists",
            };
            let body = format!("w.{list}({at}, {n}, {each_of});");
            match optional {
                true => out.line(format!("if w.flag({at}.cast()) {{ {body} }}")),
                false => out.line(body),
            }
        }
        Wire::Pointer {
            optional,
            target,
            len: count,
            cond,
        } => {
            let n = len(count, place);
            let body = match target {
                Target::Plain(_) | Target::Bytes => {
                    format!("w.scalars({at}.cast::<{}>(), {n});", element(target))
                }
                Target::Size => format!("w.sizes({at}, {n});"),
                Target::Handle(kind) => format!("w.handles({at}.cast(), {n}, Kind::{kind});"),
                Target::Struct(s) | Target::Union(s) => {
                    format!("w.array::<{s}>({at}.cast(), {n});")
                }
                Target::Byte => format!("w.scalars({at}.cast::<u8>(), 1);"),
            };
            let cond = cond.as_ref().map(|c| condition(model, c, place));
            match (optional, cond) {
                (false, None) => out.line(body),
                (true, None) => out.line(format!("if w.flag({at}.cast()) {{ {body} }}")),
                (false, Some(cond)) => out.line(format!("if {cond} {{ {body} }}")),
                (true, Some(cond)) => {
                    out.line(format!("if w.flag({at}.cast()) && {cond} {{ {body} }}"))
                }
            }
        }
    }
}

fn element(target: &Target) -> &'static str {
    match target {
        Target::Plain(prim) => prim.rust(),
        _ => "u8",
    }
}
