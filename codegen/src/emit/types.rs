//! FFI types: constants, enumerations, handles, structs.

use super::{Out, ident};
use crate::Model;

pub(super) fn types(model: &Model) -> String {
    let mut out = Out::default();
    for (name, ty, value) in &model.constants {
        out.line(format!("pub const {name}: {ty} = {value};"));
    }
    for (name, target) in &model.typedefs {
        out.line(format!("pub type {name} = {target};"));
    }
    for (name, ty, values) in &model.enums {
        out.line(format!("pub type {name} = {ty};"));
        for (value, number) in values {
            let number = match *ty {
                "u64" => number.cast_unsigned().to_string(),
                _ => number.to_string(),
            };
            out.line(format!("pub const {value}: {name} = {number};"));
        }
    }
    for handle in &model.handles {
        out.line(format!("handle!({});", handle.name));
    }
    out.line("/// The kinds of objects that handles name.");
    out.line("#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]");
    out.line("#[repr(u8)]");
    out.line("pub enum Kind {");
    for (number, handle) in model.handles.iter().enumerate() {
        out.line(format!("/// `{}`.", handle.name));
        out.line(format!("{} = {},", handle.kind(), number + 1));
    }
    out.line("}");
    out.line("impl Kind {");
    out.line("/// Every kind, in the order of their numbers.");
    out.line("pub const ALL: &[Self] = &[");
    for handle in &model.handles {
        out.line(format!("Self::{},", handle.kind()));
    }
    out.line("];");
    out.line("/// The kind of that number.");
    out.line("pub fn from_number(number: u8) -> Option<Self> {");
    out.line("Self::ALL.get(usize::from(number).wrapping_sub(1)).copied()");
    out.line("}");
    out.line("/// Its `VkObjectType`.");
    out.line("pub fn object_type(self) -> VkObjectType {");
    out.line("match self {");
    for handle in &model.handles {
        out.line(format!(
            "Self::{} => {},",
            handle.kind(),
            handle.object_type
        ));
    }
    out.line("}");
    out.line("}");
    out.line("}");
    for s in &model.structs {
        out.line("#[repr(C)]");
        out.line("#[derive(Clone, Copy)]");
        out.line(format!(
            "pub {} {} {{",
            if s.union { "union" } else { "struct" },
            s.name
        ));
        for field in &s.fields {
            out.line(format!("pub {}: {},", ident(&field.name), field.rust));
        }
        out.line("}");
        out.line(format!("zeroable!({});", s.name));
    }
    out.finish()
}
