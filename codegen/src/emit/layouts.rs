//! What members are, as tables: for tests that fill and compare values without the codecs.

use std::collections::BTreeMap;

use super::codec::{condition, each_of, len};
use super::{Out, ident};
use crate::Model;
use crate::model::{Field, Struct};
use crate::wire::{Cond, Each, Len, Target, Wire};

/// The tables `STRUCTS` and `COMMANDS`.
pub(super) fn layouts(model: &Model) -> String {
    let mut out = Out::default();
    let structs: Vec<&Struct> = model
        .structs
        .iter()
        .filter(|s| s.foreign.is_none())
        .collect();
    let index: BTreeMap<&str, usize> = structs
        .iter()
        .enumerate()
        .map(|(i, s)| (s.name.as_str(), i))
        .collect();
    let extended_by = |name: &str| -> Vec<String> {
        let extends = |s: &Struct| s.extends.iter().any(|e| real(model, e) == name);
        structs
            .iter()
            .filter(|s| s.chained() && extends(s))
            .map(|s| index[s.name.as_str()].to_string())
            .collect()
    };
    // One item each: the compiler is slow with one that holds them all.
    for (i, s) in structs.iter().enumerate() {
        let of = ("types", s.name.as_str());
        layout(
            &mut out,
            model,
            &index,
            &format!("S{i}"),
            of,
            s.union,
            &extended_by(&s.name),
            &s.fields,
        );
    }
    let commands = model.commands.iter().filter(|c| c.foreign.is_none());
    for (i, c) in commands.clone().enumerate() {
        let of = ("commands", c.name.as_str());
        layout(
            &mut out,
            model,
            &index,
            &format!("C{i}"),
            of,
            false,
            &[],
            &c.params,
        );
    }
    for (table, letter, n) in [
        ("STRUCTS", 'S', structs.len()),
        ("COMMANDS", 'C', commands.count()),
    ] {
        out.line(format!("pub(super) static {table}: &[&Layout] = &["));
        for i in 0..n {
            out.line(format!("&{letter}{i},"));
        }
        out.line("];");
    }
    out.finish()
}

/// The struct that a name stands for.
fn real<'a>(model: &'a Model, name: &'a str) -> &'a str {
    let mut name = name;
    while let Some((_, to)) = model.typedefs.iter().find(|(n, _)| n == name) {
        name = to;
    }
    name
}

#[allow(clippy::too_many_arguments, reason = "the parts of one item")]
fn layout(
    out: &mut Out,
    model: &Model,
    index: &BTreeMap<&str, usize>,
    item: &str,
    (room, name): (&str, &str),
    union: bool,
    chain: &[String],
    fields: &[Field],
) {
    let owner = &format!("{room}::{name}");
    out.line(format!(
        "static {item}: Layout = Layout {{ name: \"{name}\", size: size_of::<{owner}>(), union: {union}, chain: &[{}], fields: &[",
        chain.join(", ")
    ));
    for f in fields {
        let name = ident(&f.name);
        let selection: Vec<String> = f
            .selection
            .iter()
            .filter_map(|v| model.value(v))
            .map(|v| v.to_string())
            .collect();
        out.line(format!(
            "Field {{ name: \"{}\", offset: offset_of!({owner}, {name}), size: size_of::<{}>(), out: {}, selection: &[{}], form: {} }},",
            f.name,
            f.rust,
            f.out,
            selection.join(", "),
            form(model, index, owner, f)
        ));
    }
    out.line("] };");
}

/// An expression of `p`, the struct around, as a function.
fn of(owner: &str, arguments: &str, expression: &str) -> String {
    format!("|p{arguments}| unsafe {{ let p = &*p.cast::<{owner}>(); {expression} }}")
}

fn form(model: &Model, index: &BTreeMap<&str, usize>, owner: &str, f: &Field) -> String {
    let to = |target: &Target| match target {
        Target::Plain(prim) => format!("To::Scalars({})", prim.size()),
        Target::Size | Target::Handle(_) => "To::Scalars(8)".to_owned(),
        Target::Bytes | Target::Byte => "To::Scalars(1)".to_owned(),
        Target::Struct(s) | Target::Union(s) => format!("To::Structs({})", index[s.as_str()]),
    };
    let counted = |count: &Len| match count {
        Len::One => "|_| 1".to_owned(),
        count => of(owner, "", &len(count, "p.")),
    };
    match &f.wire {
        Wire::Plain(_) if f.stype.is_some() => {
            let stype = f.stype.as_deref().unwrap_or_default();
            format!("Form::Exactly(types::{stype})")
        }
        Wire::Plain(_) if !f.picks.is_empty() => {
            let picks: Vec<String> = f
                .picks
                .iter()
                .filter_map(|v| model.value(v))
                .map(|v| v.to_string())
                .collect();
            format!("Form::Pick(&[{}])", picks.join(", "))
        }
        Wire::Plain(_) | Wire::Size if f.counts => "Form::Count".to_owned(),
        Wire::Plain(_)
        | Wire::Size
        | Wire::Function
        | Wire::Handle { .. }
        | Wire::Raw
        | Wire::Opaque => "Form::Plain".to_owned(),
        Wire::Struct(s) | Wire::Structs(s) => format!("Form::Structs({})", index[s.as_str()]),
        Wire::Union { name, selector } => {
            let i = index[name.as_str()];
            match selector {
                None => format!("Form::First({i})"),
                Some(selector) => format!(
                    "Form::Selected({i}, {})",
                    of(owner, "", &format!("i64::from(p.{})", ident(selector)))
                ),
            }
        }
        Wire::Chain => "Form::Chain".to_owned(),
        Wire::Str { optional } => format!("Form::Text({optional})"),
        Wire::Strs(count) => format!("Form::Texts({})", counted(count)),
        Wire::Callbacks | Wire::Nothing | Wire::Foreign(_) => "Form::Nothing".to_owned(),
        Wire::Pointer {
            optional,
            target,
            len,
            cond,
        } => {
            let sent = match cond {
                None => "|_| true".to_owned(),
                Some(Cond::Word(word)) => of(owner, "", &format!("derived::{word}(p)")),
                Some(cond) => of(owner, "", &condition(model, cond, "p.")),
            };
            format!(
                "Form::Pointer {{ optional: {optional}, counts: {}, to: {}, len: {}, sent: {sent} }}",
                f.counts,
                to(target),
                counted(len)
            )
        }
        Wire::Pointers {
            optional,
            target,
            len,
            each,
        } => {
            let each = match each {
                Each::One => "|_, _| 1".to_owned(),
                each => of(owner, ", i", &format!("({})(i)", each_of(each, "p."))),
            };
            format!(
                "Form::Pointers {{ optional: {optional}, to: {}, len: {}, each: {each} }}",
                to(target),
                counted(len)
            )
        }
    }
}
