//! Function pointer types and tables of the host's Vulkan driver.

use super::Out;
use crate::Model;
use crate::model::{Command, Level};

pub(super) fn tables(model: &Model) -> String {
    let mut out = Out::default();
    let native = |level: Level| {
        model.commands.iter().filter(move |c| {
            c.native && c.alias.is_none() && c.foreign.is_none() && c.level == level
        })
    };
    for c in model
        .commands
        .iter()
        .filter(|c| c.native && c.alias.is_none() && c.foreign.is_none())
    {
        let params: Vec<&str> = c.params.iter().map(|p| p.rust.as_str()).collect();
        let ret = if c.ret == "()" {
            String::new()
        } else {
            format!(" -> {}", c.ret)
        };
        out.line(format!("/// `{}`.", c.name));
        out.line(format!(
            "pub type Fn_{} = unsafe extern \"system\" fn({}){ret};",
            c.name,
            params.join(", ")
        ));
    }
    for (table, what, level) in [
        (
            "GlobalFns",
            "Commands without a dispatchable object.",
            Level::Global,
        ),
        (
            "InstanceFns",
            "Commands of an instance and its physical devices.",
            Level::Instance,
        ),
        (
            "DeviceFns",
            "Commands of a device, its queues and command buffers.",
            Level::Device,
        ),
    ] {
        let commands: Vec<&Command> = native(level).collect();
        out.line(format!("/// {what}"));
        out.line("#[derive(Clone, Copy)]");
        out.line(format!("pub struct {table} {{"));
        for c in &commands {
            out.line(format!("/// `{}`.", c.name));
            out.line(format!("pub {0}: Option<Fn_{0}>,", c.name));
        }
        out.line("}");
        out.line(format!("impl {table} {{"));
        out.line("/// Asks `get` for each pointer.");
        out.line("///");
        out.line("/// # Safety");
        out.line("/// `get` returns null or the function of that name.");
        out.line("pub unsafe fn load(mut get: impl FnMut(&CStr) -> PFN_vkVoidFunction) -> Self {");
        out.line("// SAFETY: the caller promises that each pointer is the function asked for.");
        out.line("unsafe {");
        out.line("Self {");
        for c in &commands {
            // A driver of an older version has a promoted command under its extension's name only.
            let aliases: String = model
                .commands
                .iter()
                .filter(|a| a.alias.as_ref() == Some(&c.name))
                .map(|a| format!(".or_else(|| get(c\"{}\"))", a.name))
                .collect();
            out.line(format!(
                "{0}: transmute::<PFN_vkVoidFunction, Option<Fn_{0}>>(get(c\"{0}\"){aliases}),",
                c.name
            ));
        }
        out.line("}");
        out.line("}");
        out.line("}");
        out.line("}");
    }
    out.finish()
}
