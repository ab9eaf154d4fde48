//! What formats are made of, as far as lengths follow from it.

use std::collections::BTreeMap;

use super::Out;
use crate::Model;
use crate::registry::RawFormat;

pub(super) fn formats(model: &Model) -> String {
    let mut out = Out::default();
    let known = |f: &&RawFormat| model.value(&f.name).is_some();
    let bits = |f: &RawFormat, component: &str| {
        let mut components = f.components.iter();
        components.find(|(name, _)| name == component)?.1
    };
    let of_colour =
        |f: &&RawFormat| f.planes.is_empty() && bits(f, "D").is_none() && bits(f, "S").is_none();
    let mut blocks: BTreeMap<(u32, [u32; 3]), Vec<&str>> = BTreeMap::new();
    for f in model.formats.iter().filter(known).filter(of_colour) {
        blocks.entry((f.size, f.extent)).or_default().push(&f.name);
    }
    out.line("/// The blocks of a format of one plane of colour.");
    out.line("pub(super) fn colour(format: VkFormat) -> Option<Block> {");
    out.line("Some(match format {");
    for ((size, extent), names) in blocks {
        out.line(format!(
            "{} => Block {{ size: {size}, extent: {extent:?} }},",
            names.join(" | ")
        ));
    }
    out.line("_ => return None,");
    out.line("})");
    out.line("}");
    out.line("/// The format of a plane of a format that has several, and what divides an image's width and height.");
    out.line("pub(super) fn plane(format: VkFormat, plane: u32) -> Option<(VkFormat, [u32; 2])> {");
    out.line("Some(match (format, plane) {");
    for f in model.formats.iter().filter(known) {
        for (i, (plane, divisors)) in f.planes.iter().enumerate() {
            out.line(format!("({}, {i}) => ({plane}, {divisors:?}),", f.name));
        }
    }
    out.line("_ => return None,");
    out.line("})");
    out.line("}");
    for (function, what, component) in [("depth", "depth", "D"), ("stencil", "the stencil", "S")] {
        let mut sizes: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
        for f in model.formats.iter().filter(known) {
            if let Some(bits) = bits(f, component) {
                let of = sizes.entry(bits).or_default();
                of.push(&f.name);
            }
        }
        out.line(format!("/// The bits of {what} of a format that has it."));
        out.line(format!(
            "pub(super) fn {function}(format: VkFormat) -> Option<u32> {{"
        ));
        out.line("Some(match format {");
        for (bits, names) in sizes {
            out.line(format!("{} => {bits},", names.join(" | ")));
        }
        out.line("_ => return None,");
        out.line("})");
        out.line("}");
    }
    out.finish()
}
