//! The host's side: one trait per object with plain default bodies, and the dispatch by opcode.

use std::collections::BTreeMap;

use super::{Out, ident};
use crate::Model;
use crate::model::{Command, Field, Level};
use crate::wire::{Len, Target, Wire};

pub(super) fn dispatch(model: &Model) -> String {
    let mut out = Out::default();
    let mut nouns: BTreeMap<&str, Vec<&Command>> = BTreeMap::new();
    for c in model.commands.iter().filter(|c| c.foreign.is_none()) {
        nouns.entry(&c.noun).or_default().push(c);
    }
    for (noun, commands) in &nouns {
        let noun_text = noun.replace('_', " ");
        out.line(format!(
            "/// What guests do with a {noun_text}; a default body is the plain driver call."
        ));
        out.line(format!("pub(crate) trait {}: Host {{", trait_name(noun)));
        for c in commands {
            method(&mut out, c);
        }
        out.line("}");
    }
    out.line("/// The plain driver calls.");
    out.line("#[allow(dead_code, unused_variables, reason = \"an override need not start from the plain call; a recorded command has no use for the host\")]");
    out.line("pub(crate) mod plain {");
    out.line("use super::*;");
    let drives =
        |c: &&Command| c.foreign.is_none() && c.native && c.alias.is_none() && c.refused.is_none();
    for c in model.commands.iter().filter(drives) {
        plain(&mut out, model, c);
    }
    out.line("}");
    out.line("/// Runs one packet: decodes the parameters, calls the command's method, encodes the reply.");
    out.line("pub(crate) fn dispatch(e: &mut Engine, opcode: u32, r: &mut Reader<'_>, w: &mut Vec<u8>) -> Result<(), Error> {");
    out.line("match opcode {");
    for c in &model.commands {
        if let Some(why) = &c.foreign {
            out.line(format!(
                "{} => Err(Error::Refused {{ command: \"{}\", why: {why:?} }}),",
                c.opcode, c.name
            ));
        } else if c.on_command_buffer() {
            out.line(format!("{} => run_on_command_buffer(e, r, w, |e, fns, c: &mut p::{1}| e.{1}(fns, c), |c| c.{2}_token),", c.opcode, c.name, c.params[0].name));
        } else {
            out.line(format!(
                "{} => run(e, r, w, |e, c: &mut p::{1}| e.{1}(c)),",
                c.opcode, c.name
            ));
        }
    }
    out.line("_ => Err(Error::UnknownOpcode(opcode)),");
    out.line("}");
    out.line("}");
    out.line("/// Runs one staged packet of a recording.");
    out.line("#[inline]");
    out.line("pub(crate) fn record(e: &mut Engine, fns: &DeviceFns, opcode: u32, r: &mut Reader<'_>) -> Result<(), Error> {");
    out.line("match opcode {");
    for c in model
        .commands
        .iter()
        .filter(|c| c.foreign.is_none() && c.on_command_buffer())
    {
        if c.has_reply() {
            continue;
        }
        out.line(format!(
            "{} => stage(e, r, |e, c: &mut p::{1}| e.{1}(fns, c)),",
            c.opcode, c.name
        ));
    }
    out.line("_ => Err(Error::NotRecordable(opcode)),");
    out.line("}");
    out.line("}");
    out.line(
        "/// Destroys what a guest left behind; kinds that die with their parent need nothing.",
    );
    out.line("pub(crate) fn destroy_leftover(kind: Kind, device: VkDevice, fns: &DeviceFns, handle: u64) {");
    out.line("match kind {");
    for c in model
        .commands
        .iter()
        .filter(|c| c.alias.is_none() && c.native && c.foreign.is_none())
    {
        if c.destroys().is_none() || c.level != Level::Device {
            continue;
        }
        let [first, second, third] = c.params.as_slice() else {
            continue;
        };
        let (Wire::Handle { kind: d, .. }, Wire::Handle { kind, .. }, Wire::Callbacks) =
            (&first.wire, &second.wire, &third.wire)
        else {
            continue;
        };
        if d != "Device" {
            continue;
        }
        out.line(format!(
            "Kind::{kind} => if let Some(f) = fns.{} {{",
            c.name
        ));
        out.line(
            "// SAFETY: the handle came from this device's driver and nobody uses it any more.",
        );
        out.line(format!(
            "unsafe {{ f(device, Vk{kind}(handle), std::ptr::null()) }}"
        ));
        out.line("},");
    }
    out.line("_ => {}");
    out.line("}");
    out.line("}");
    out.line("/// Its packets carry a sequence number: all do but those on a command buffer.");
    out.line("pub(crate) fn has_sequence_number(opcode: u32) -> bool {");
    let numbers: Vec<String> = model
        .commands
        .iter()
        .filter(|c| c.on_command_buffer())
        .map(|c| c.opcode.to_string())
        .collect();
    out.line(format!("!matches!(opcode, {})", numbers.join(" | ")));
    out.line("}");
    hidden_features(&mut out, model);
    out.line("/// Upstream's host knows the command, if we do.");
    out.line("pub(crate) fn known_upstream(opcode: u32) -> bool {");
    let numbers: Vec<String> = model
        .commands
        .iter()
        .filter(|c| !c.upstream)
        .map(|c| c.opcode.to_string())
        .collect();
    out.line(format!("!matches!(opcode, {})", numbers.join(" | ")));
    out.line("}");
    out.line("/// Device extensions that guests do not see and why, and the features of Asgard's own with which they do.");
    out.line("pub const HIDDEN_EXTENSIONS: &[(&str, &str, Option<Features>)] = &[");
    for (name, hiding) in &model.hidden_extensions {
        let unless = match &hiding.unless {
            Some(feature) => format!("Some({})", wire_feature(feature)),
            None => "None".to_owned(),
        };
        out.line(format!("({name:?}, {:?}, {unless}),", hiding.why));
    }
    out.line("];");
    out.line(
        "/// Device extensions that our guest driver shows only in a virtual machine, and why.",
    );
    out.line("pub const VM_EXTENSIONS: &[(&str, &str)] = &[");
    for (name, why) in &model.needs_dma_buf {
        out.line(format!("({name:?}, {why:?}),"));
    }
    out.line("];");
    out.finish()
}

/// The constant of a feature of Asgard's own part of the wire: `host-image-copy` -> `Features::HOST_IMAGE_COPY`.
fn wire_feature(name: &str) -> String {
    format!("Features::{}", name.replace('-', "_").to_uppercase())
}

/// Takes out of a chain of answers what the policy hides.
fn hidden_features(out: &mut Out, model: &Model) {
    out.line("/// Clears the features that guests with these features of the wire do not see, in the chain that starts at `next`; true if any was set.");
    out.line("///");
    out.line("/// # Safety");
    out.line("/// The chain was decoded, and nobody else looks at it.");
    out.line("pub(crate) unsafe fn hide_features(mut next: *mut std::ffi::c_void, features: Features) -> bool {");
    out.line("let mut hidden = false;");
    out.line("// SAFETY: every struct of a decoded chain starts like VkBaseOutStructure, and its type says what it is.");
    out.line("unsafe {");
    out.line("while let Some(base) = next.cast::<VkBaseOutStructure>().as_ref() {");
    out.line("match base.sType {");
    for s in &model.structs {
        let hidden: Vec<String> = model
            .hidden_features
            .iter()
            .filter(|(name, ..)| *name == s.name)
            .map(|(_, member, hiding)| {
                let place = format!("(*next.cast::<{}>()).{member}", s.name);
                let unless = match &hiding.unless {
                    Some(feature) => format!("!features.has({}) && ", wire_feature(feature)),
                    None => String::new(),
                };
                format!("hidden |= {unless}std::mem::take(&mut {place}) != 0;")
            })
            .collect();
        if let (Some(stype), false) = (s.stype(), hidden.is_empty()) {
            out.line(format!("{stype} => {{ {} }}", hidden.join(" ")));
        }
    }
    out.line("_ => {}");
    out.line("}");
    out.line("next = base.pNext.cast();");
    out.line("}");
    out.line("}");
    out.line("hidden");
    out.line("}");
}

/// What the host does with a command unless it says otherwise.
pub(super) fn default(model: &Model, c: &Command) -> String {
    let mut out = Out::default();
    out.line(format!("pub(crate) trait {}: Host {{", trait_name(&c.noun)));
    method(&mut out, c);
    out.line("}");
    if c.native && c.alias.is_none() && c.refused.is_none() {
        plain(&mut out, model, c);
    }
    out.finish()
}

pub(super) fn trait_name(noun: &str) -> String {
    let mut name = String::new();
    for word in noun.split('_') {
        let mut chars = word.chars();
        name.extend(chars.next().map(|c| c.to_ascii_uppercase()));
        name.extend(chars);
    }
    name + "Commands"
}

#[allow(clippy::too_many_lines, reason = "one template, top to bottom")]
fn method(out: &mut Out, c: &Command) {
    let on_command_buffer = c.on_command_buffer();
    let fns = if on_command_buffer {
        "fns: &DeviceFns, "
    } else {
        ""
    };
    out.line(format!("/// `{}`.", c.name));
    let signature = format!(
        "fn {0}(&mut self, {fns}c: &mut p::{0}) -> Result<{1}, Error>",
        c.name, c.ret
    );
    if let Some(why) = &c.refused {
        out.line(format!("{signature} {{"));
        out.line(if on_command_buffer {
            "let _ = (fns, c);"
        } else {
            "let _ = c;"
        });
        out.line(format!(
            "Err(Error::Refused {{ command: \"{}\", why: {why:?} }})",
            c.name
        ));
        out.line("}");
        return;
    }
    if let Some(target) = &c.alias {
        out.line(format!("{signature} {{"));
        out.line(format!(
            "// SAFETY: an alias has the parameters of `{target}`, and both structs are repr(C)."
        ));
        out.line(format!(
            "let c = unsafe {{ &mut *std::ptr::from_mut(c).cast::<p::{target}>() }};"
        ));
        out.line(format!(
            "self.{target}({}c)",
            if on_command_buffer { "fns, " } else { "" }
        ));
        out.line("}");
        return;
    }
    if !c.native {
        out.line(format!("{signature};"));
        return;
    }
    out.line(format!("{signature} {{"));
    out.line(format!(
        "plain::{}(self, {}c)",
        c.name,
        if on_command_buffer { "fns, " } else { "" }
    ));
    out.line("}");
}

/// The driver call that a command stands for, with handles resolved and tokens put in the place of new
/// ones: the default, and what an override starts from.
fn plain(out: &mut Out, model: &Model, c: &Command) {
    let on_command_buffer = c.on_command_buffer();
    let fns = if on_command_buffer {
        "fns: &DeviceFns, "
    } else {
        ""
    };
    out.line(format!("/// `{}`, and nothing but.", c.name));
    out.line("#[inline]");
    out.line(format!(
        "pub(crate) fn {0}<H: Host + ?Sized>(host: &mut H, {fns}c: &mut p::{0}) -> Result<{1}, Error> {{",
        c.name, c.ret
    ));
    let missing = format!(".{0}.ok_or(Error::NoSuchFunction(\"{0}\"))?", c.name);
    let first = c.params.first();
    let function = match c.level {
        Level::Global => format!("host.global_fns(){missing}"),
        Level::Instance => format!(
            "host.instance_fns(c.{}_token)?{missing}",
            first.map(|f| f.name.as_str()).unwrap_or_default()
        ),
        Level::Device if on_command_buffer => format!("fns{missing}"),
        Level::Device => {
            let first = first.map(|f| f.name.as_str()).unwrap_or_default();
            format!("host.device_fns(c.{first}_token)?{missing}")
        }
    };
    out.line(format!("let f = {function};"));
    if let Some(gone) = c.destroys() {
        match &gone.wire {
            // Of several threads that destroy the same object, one does.
            Wire::Handle { .. } if c.ret == "()" => out.line(format!(
                "if !host.retire(c.{}_token) {{ return Ok(()); }}",
                gone.name
            )),
            Wire::Handle { .. } => out.line(format!("host.retire(c.{}_token);", gone.name)),
            Wire::Pointer { len, .. } => out.line(format!(
                "host.retire_all(c.{}_tokens, {});",
                gone.name,
                length(len)
            )),
            _ => {}
        }
    }
    let arguments: Vec<String> = c
        .params
        .iter()
        .map(|p| format!("c.{}", ident(&p.name)))
        .collect();
    let creations: Vec<(&Field, &String, String)> = c
        .params
        .iter()
        .filter(|p| p.out)
        .filter_map(|p| match &p.wire {
            Wire::Pointer {
                target: Target::Handle(kind),
                len,
                ..
            } => Some((p, kind, length(len))),
            _ => None,
        })
        .collect();
    let call = format!("unsafe {{ f({}) }}", arguments.join(", "));
    let needs: Vec<(&Field, String, String)> = c
        .params
        .iter()
        .filter(|p| p.out)
        .filter_map(|p| match &p.wire {
            Wire::Pointer {
                target: Target::Struct(name),
                len,
                ..
            } => Some((p, length(len), memory_types(model, name)?)),
            _ => None,
        })
        .collect();
    let safety = "// SAFETY: decoded arguments: live handles, and pointers into the arena with as many elements as their counts say.";
    if creations.is_empty() && needs.is_empty() {
        out.line(safety);
        out.line(if c.ret == "()" {
            format!("{call};")
        } else {
            format!("Ok({call})")
        });
        if c.ret == "()" {
            out.line("Ok(())");
        }
    } else {
        out.line(safety);
        out.line(if c.ret == "()" {
            format!("{call};")
        } else {
            format!("let ret = {call};")
        });
        let parent = first
            .filter(|f| matches!(f.wire, Wire::Handle { .. }))
            .map_or("0".to_owned(), |f| format!("c.{}_token", f.name));
        for (p, kind, n) in creations {
            out.line(format!(
                "host.adopt(Kind::{kind}, {parent}, c.{}.cast(), {n}, {})?;",
                ident(&p.name),
                c.creates()
            ));
        }
        for (p, n, place) in needs {
            out.line("// SAFETY: the driver filled as many structs as the count says, or there is no room.");
            out.line(format!(
                "for needs in unsafe {{ slice_mut(c.{}, {n}) }} {{ host.show_memory_types(&mut needs.{place}); }}",
                ident(&p.name)
            ));
        }
        out.line(if c.ret == "()" { "Ok(())" } else { "Ok(ret)" });
    }
    out.line("}");
}

/// Where a struct of answers says which memory types fit, if it does.
fn memory_types(model: &Model, name: &str) -> Option<String> {
    const MEMBER: &str = "memoryTypeBits";
    let fields = &model.get(name)?.fields;
    if fields.iter().any(|f| f.name == MEMBER) {
        return Some(MEMBER.to_owned());
    }
    fields.iter().find_map(|f| match &f.wire {
        Wire::Struct(inner) => Some(format!(
            "{}.{}",
            ident(&f.name),
            memory_types(model, inner)?
        )),
        _ => None,
    })
}

/// A length as an expression on `c`, with no unsafe block around it.
fn length(len: &Len) -> String {
    match len {
        Len::One => "1".to_owned(),
        Len::Const(c) => c.clone(),
        Len::Field(name) => format!("c.{} as usize", ident(name)),
        Len::Deref(name) => format!("count(c.{}.cast_const())", ident(name)),
        Len::Path(name, field) => format!(
            "count_in(c.{}, |i| i.{} as usize)",
            ident(name),
            ident(field)
        ),
        Len::Calc(_) => "0".to_owned(),
    }
}
