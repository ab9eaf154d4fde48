//! The guest's side: one trait per object with plain default bodies, and the entry points of the driver.

use std::collections::BTreeMap;

use super::decoder::trait_name;
use super::{Out, ident};
use crate::Model;
use crate::model::{Command, Level};
use crate::wire::Wire;

pub(super) fn entrypoints(model: &Model) -> String {
    let mut out = Out::default();
    let served: Vec<&Command> = model
        .commands
        .iter()
        .filter(|c| c.foreign.is_none() && c.native)
        .filter(|c| c.refused.is_none() || c.guest_serves || c.guest_absent)
        .collect();
    let mut nouns: BTreeMap<&str, Vec<&Command>> = BTreeMap::new();
    for c in &served {
        nouns.entry(&c.noun).or_default().push(c);
    }
    for (noun, commands) in &nouns {
        out.line(format!(
            "/// What applications do with a {}; a default body sends the command, and waits if there is a reply.",
            noun.replace('_', " ")
        ));
        out.line(format!("pub(crate) trait {}: Guest {{", trait_name(noun)));
        for c in commands {
            method(&mut out, model, c);
        }
        out.line("}");
    }
    for c in &served {
        let params: Vec<String> = c
            .params
            .iter()
            .map(|p| format!("{}: {}", ident(&p.name), p.rust))
            .collect();
        let ret = if c.ret == "()" {
            String::new()
        } else {
            format!(" -> {}", c.ret)
        };
        out.line(format!(
            "unsafe extern \"system\" fn {}({}){ret} {{",
            c.name,
            params.join(", ")
        ));
        let names: Vec<String> = c.params.iter().map(|p| ident(&p.name)).collect();
        let rest = if names.is_empty() { "" } else { ", " };
        out.line(format!(
            "Driver.{0}(&mut p::{0} {{ {1}{rest}..zeroed() }})",
            c.name,
            names.join(", ")
        ));
        out.line("}");
    }
    for (function, what, level) in [
        ("global_entry", "without an instance", &[Level::Global][..]),
        (
            "instance_entry",
            "of instances and physical devices",
            &[Level::Instance][..],
        ),
        (
            "device_entry",
            "of devices, queues and command buffers",
            &[Level::Device][..],
        ),
    ] {
        out.line(format!("/// The entry point {what} of that name."));
        out.line(format!(
            "pub(crate) fn {function}(name: &CStr) -> PFN_vkVoidFunction {{"
        ));
        out.line(
            "// SAFETY: the caller of a Vulkan function pointer casts it back to its own type.",
        );
        out.line("Some(unsafe {");
        out.line("match name.to_bytes() {");
        for c in served.iter().filter(|c| level.contains(&c.level)) {
            out.line(format!(
                "b\"{0}\" => transmute::<*const (), unsafe extern \"system\" fn()>({0} as *const ()),",
                c.name
            ));
        }
        out.line("_ => return None,");
        out.line("}");
        out.line("})");
        out.line("}");
    }
    extensions(&mut out, &served);
    versions(&mut out, &served);
    let names = model.needs_dma_buf.iter().map(|(name, _)| name);
    let names: Vec<&String> = names.collect();
    out.line("/// Device extensions that need memory to be exported as dma-bufs.");
    out.line(format!(
        "pub(crate) const NEEDS_DMA_BUF: &[&str] = &{names:?};"
    ));
    out.line("/// Extensions that upstream's host knows, and the minor version of Vulkan that each takes.");
    out.line("pub(crate) const UPSTREAM_EXTENSIONS: &[(&str, u32)] = &[");
    for (name, minor) in &model.upstream_extensions {
        out.line(format!("({name:?}, {minor}),"));
    }
    out.line("];");
    out.finish()
}

/// Which extensions bring a command of devices.
fn extensions(out: &mut Out, served: &[&Command]) {
    let mut groups: BTreeMap<&[String], Vec<&str>> = BTreeMap::new();
    for c in served.iter().filter(|c| c.level == Level::Device) {
        if !c.extensions.is_empty() {
            groups.entry(&c.extensions).or_default().push(&c.name);
        }
    }
    out.line("/// The extensions that bring a command, any one of them; none for a command of Vulkan itself.");
    out.line("pub(crate) fn extensions_of(name: &CStr) -> &'static [&'static CStr] {");
    out.line("match name.to_bytes() {");
    for (extensions, names) in groups {
        let names: Vec<String> = names.iter().map(|name| format!("b\"{name}\"")).collect();
        let extensions: Vec<String> = extensions.iter().map(|e| format!("c\"{e}\"")).collect();
        out.line(format!(
            "{} => &[{}],",
            names.join(" | "),
            extensions.join(", ")
        ));
    }
    out.line("_ => &[],");
    out.line("}");
    out.line("}");
}

/// Which version of Vulkan brings a command of devices.
fn versions(out: &mut Out, served: &[&Command]) {
    let mut groups: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for c in served.iter().filter(|c| c.level == Level::Device) {
        if c.since > 0 {
            let names = groups.entry(c.since).or_default();
            names.push(format!("b\"{}\"", c.name));
        }
    }
    out.line("/// The minor version of Vulkan that brings a command; 0 for the first one's, and for those of extensions.");
    out.line("pub(crate) fn since(name: &CStr) -> u32 {");
    out.line("match name.to_bytes() {");
    for (minor, names) in groups {
        out.line(format!("{} => {minor},", names.join(" | ")));
    }
    out.line("_ => 0,");
    out.line("}");
    out.line("}");
}

fn method(out: &mut Out, model: &Model, c: &Command) {
    // The host's token is the handle, unless the loader wants to see into it.
    let is_token = |kind: &str| {
        let mut handles = model.handles.iter();
        handles.any(|h| h.kind() == kind && !h.dispatchable)
    };
    out.line(format!("/// `{}`.", c.name));
    let ret = if c.ret == "()" {
        String::new()
    } else {
        format!(" -> {}", c.ret)
    };
    let signature = format!("fn {0}(&self, c: &mut p::{0}){ret}", c.name);
    if c.guest_serves && c.alias.is_none() {
        // The host would refuse it: there is no plain body.
        out.line(format!("{signature};"));
        return;
    }
    out.line(format!("{signature} {{"));
    if c.guest_absent {
        out.line("let _ = c;");
        out.line("VK_ERROR_FEATURE_NOT_PRESENT");
    } else if let Some(target) = &c.alias {
        out.line(format!(
            "// SAFETY: an alias has the parameters of `{target}`, and both structs are repr(C)."
        ));
        out.line(format!(
            "let c = unsafe {{ &mut *std::ptr::from_mut(c).cast::<p::{target}>() }};"
        ));
        out.line(format!("self.{target}(c)"));
    } else if c.on_command_buffer() && !c.has_reply() {
        out.line("self.record(c)");
    } else if let (true, Some((made, kind))) = (c.ahead, c.creation()) {
        out.line(format!("let made = c.{}.cast();", ident(&made.name)));
        out.line(format!("self.create(c, Kind::{kind}, made, 1)"));
    } else if let Some((gone, Wire::Handle { kind, .. })) = c.destroys().map(|g| (g, &g.wire))
        && is_token(kind)
        && !c.has_reply()
    {
        out.line(format!("let gone = c.{}.0;", ident(&gone.name)));
        out.line("self.destroy(c, gone);");
    } else {
        out.line("self.call(c)");
    }
    out.line("}");
}
