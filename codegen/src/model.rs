//! The resolved model: no question is left open for the emitters.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context as _, Result, bail};

use crate::policy::{Hiding, Policy};
use crate::registry::{Decl, Raw, RawFormat, RawType, Value};
use crate::wire::{Cond, Each, Len, Prim, Target, Unknown, Wire};

/// A member or parameter.
#[derive(Clone, Debug)]
pub struct Field {
    /// Its C name.
    pub name: String,
    /// Its Rust type.
    pub rust: String,
    /// Its form on the wire.
    pub wire: Wire,
    /// A non-const pointer parameter: travels both ways.
    pub out: bool,
    /// It is, or points to, the length of a sibling.
    pub counts: bool,
    /// A count that a driver reads unasked: it must be there.
    pub needed: bool,
    /// Of a handle, or of each of an array: it must be one.
    pub required: bool,
    /// Values with a meaning to siblings (selectors and conditions).
    pub picks: Vec<String>,
    /// The structure type that belongs here.
    pub stype: Option<String>,
    /// In a union: the selector values that mean this member.
    pub selection: Vec<String>,
}

/// A struct or union.
#[derive(Clone, Debug)]
pub struct Struct {
    /// Its C name.
    pub name: String,
    /// Its members, bit-fields merged into words.
    pub fields: Vec<Field>,
    /// The structs it may extend.
    pub extends: Vec<String>,
    /// A union.
    pub union: bool,
    /// Derived words before the first member.
    pub prefix: Vec<String>,
    /// Why it has no encoding.
    pub foreign: Option<String>,
    /// Why the host leaves it out of chains.
    pub dropped: Option<String>,
    /// Upstream's host knows it.
    pub upstream: bool,
}

impl Struct {
    /// It may stand in a chain, and has an encoding.
    pub fn chained(&self) -> bool {
        !self.extends.is_empty() && self.foreign.is_none() && self.stype().is_some()
    }

    /// The structure type of a struct that has one.
    pub fn stype(&self) -> Option<&str> {
        self.fields.first().and_then(|f| f.stype.as_deref())
    }
}

/// An object type.
#[derive(Clone, Debug)]
pub struct Handle {
    /// Its C name.
    pub name: String,
    /// Dispatchable.
    pub dispatchable: bool,
    /// The handle it comes from.
    pub parent: Option<String>,
    /// Its `VkObjectType`, numerically; 0 when it has none.
    pub object_type: i64,
}

impl Handle {
    /// `VkAccelerationStructureKHR` -> `AccelerationStructureKHR`.
    pub fn kind(&self) -> &str {
        kind(&self.name)
    }
}

fn kind(handle: &str) -> &str {
    handle.strip_prefix("Vk").unwrap_or(handle)
}

/// Where a command's function pointer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// No dispatchable parameter.
    Global,
    /// `VkInstance` or `VkPhysicalDevice`.
    Instance,
    /// `VkDevice`, `VkQueue` or `VkCommandBuffer`.
    Device,
}

/// A command.
#[derive(Clone, Debug)]
pub struct Command {
    /// Its C name.
    pub name: String,
    /// Its opcode.
    pub opcode: u32,
    /// Its parameters.
    pub params: Vec<Field>,
    /// Rust return type, `()` for void.
    pub ret: String,
    /// Its wire form; none for void.
    pub ret_wire: Option<Wire>,
    /// The command it is an alias of.
    pub alias: Option<String>,
    /// Where its function pointer comes from.
    pub level: Level,
    /// The device extensions that bring it, each of them alone; none if something else does.
    pub extensions: Vec<String>,
    /// The minor version of Vulkan that brings it; 0 if something else does, or the first one.
    pub since: u32,
    /// The object whose file it belongs to: `device_memory`.
    pub noun: String,
    /// Why it has no encoding.
    pub foreign: Option<String>,
    /// Why the host ends the context when it comes.
    pub refused: Option<String>,
    /// The guest driver serves it by itself all the same.
    pub guest_serves: bool,
    /// The guest driver chooses the id of what it creates, and need not wait.
    pub ahead: bool,
    /// The guest driver answers that its feature is not there.
    pub guest_absent: bool,
    /// A Vulkan driver knows it.
    pub native: bool,
    /// Upstream's host knows it.
    pub upstream: bool,
}

impl Command {
    /// Recorded into a command buffer, or run against one: its first parameter is not on the wire
    /// when staged, and its packet has no sequence number.
    pub fn on_command_buffer(&self) -> bool {
        matches!(&self.params.first().map(|p| &p.wire), Some(Wire::Handle { kind, .. }) if kind == "CommandBuffer")
    }

    /// The host answers.
    pub fn has_reply(&self) -> bool {
        self.ret_wire.is_some() || self.params.iter().any(|p| p.out)
    }

    /// The handle parameter that ceases to exist, if that is what the command is for.
    pub fn destroys(&self) -> Option<&Field> {
        if !self.name.starts_with("vkDestroy") && !self.name.starts_with("vkFree") {
            return None;
        }
        self.params.iter().rev().find(|p| {
            matches!(
                p.wire,
                Wire::Handle { .. }
                    | Wire::Pointer {
                        target: Target::Handle(_),
                        ..
                    }
            )
        })
    }

    /// The one new handle that comes out of it: parameter and type; none if there may be several.
    pub fn creation(&self) -> Option<(&Field, &str)> {
        let mut outputs = self.params.iter().filter(|p| p.out);
        match (outputs.next(), outputs.next()) {
            (Some(field), None) => match &field.wire {
                Wire::Pointer {
                    target: Target::Handle(kind),
                    len: Len::One,
                    ..
                } => Some((field, kind)),
                _ => None,
            },
            _ => None,
        }
    }

    /// New handles come out of it.
    pub fn creates(&self) -> bool {
        ["vkCreate", "vkAllocate", "vkRegister"]
            .iter()
            .any(|p| self.name.starts_with(p))
    }
}

/// An enumeration: name, Rust type, values.
pub type Enum = (String, &'static str, Vec<(String, i64)>);

/// All of it.
#[derive(Debug, Default)]
pub struct Model {
    /// Constants: name, Rust type, value.
    pub constants: Vec<(String, String, String)>,
    /// `pub type` lines: name, target.
    pub typedefs: Vec<(String, String)>,
    /// Object types.
    pub handles: Vec<Handle>,
    /// Enumerations.
    pub enums: Vec<Enum>,
    /// Structs and unions.
    pub structs: Vec<Struct>,
    /// Commands.
    pub commands: Vec<Command>,
    /// Old structure types: root, number, struct.
    pub legacy_stypes: Vec<(String, i64, String)>,
    /// Device extensions that guests do not see.
    pub hidden_extensions: Vec<(String, Hiding)>,
    /// Device extensions that the guest driver shows only where memory is exported as dma-bufs: name, reason.
    pub needs_dma_buf: Vec<(String, String)>,
    /// Features that guests do not see: struct, member.
    pub hidden_features: Vec<(String, String, Hiding)>,
    /// Extensions that upstream's host knows, each with the minor version of Vulkan that a device needs
    /// for the commands that the guest sends in its place.
    pub upstream_extensions: Vec<(String, u32)>,
    /// Formats of images and buffers.
    pub formats: Vec<RawFormat>,
}

impl Model {
    /// A struct by name.
    pub fn get(&self, name: &str) -> Option<&Struct> {
        self.structs.iter().find(|s| s.name == name)
    }

    /// The numeric value of an enumerant.
    pub fn value(&self, name: &str) -> Option<i64> {
        self.enums
            .iter()
            .flat_map(|(_, _, v)| v)
            .find(|(n, _)| n == name)
            .map(|(_, v)| *v)
    }
}

/// Turns what is written into what is meant.
///
/// # Errors
/// An unknown type, a length that no sibling gives, stale policy.
pub fn resolve(raw: Raw, policy: Policy) -> Result<Model> {
    let types: HashMap<&str, &RawType> = raw.types.iter().map(|(n, t)| (n.as_str(), t)).collect();
    let resolver = Resolver {
        raw: &raw,
        policy: &policy,
        types: types.clone(),
    };
    let mut model = Model {
        legacy_stypes: policy.legacy_stypes.clone(),
        formats: raw.formats.clone(),
        ..Model::default()
    };
    resolver.constants(&mut model);
    resolver.enums(&mut model)?;
    for (name, t) in &raw.types {
        match t {
            RawType::Alias(to) => model.typedefs.push((name.clone(), to.clone())),
            RawType::Typedef(base) => {
                let prim = Prim::of_c(base).with_context(|| format!("{name}: {base}"))?;
                model.typedefs.push((name.clone(), prim.rust().to_owned()));
            }
            RawType::Flags { wide, .. } => {
                model
                    .typedefs
                    .push((name.clone(), if *wide { "u64" } else { "u32" }.to_owned()));
            }
            RawType::FunctionPointer => model.typedefs.push((
                name.clone(),
                "Option<unsafe extern \"system\" fn()>".to_owned(),
            )),
            RawType::Handle {
                dispatchable,
                parent,
                object_type,
            } => model.handles.push(Handle {
                name: name.clone(),
                dispatchable: *dispatchable,
                parent: parent.clone(),
                object_type: object_type
                    .as_deref()
                    .and_then(|o| model.value(o))
                    .unwrap_or(0),
            }),
            RawType::External => {
                if let Some((Some(rust), _)) = policy.externals.get(name) {
                    model.typedefs.push((name.clone(), (*rust).to_owned()));
                }
            }
            RawType::Enum | RawType::Struct { .. } => {}
        }
    }
    let upstream = resolver.upstream();
    let lengths = resolver.remote_lengths();
    for (name, t) in &raw.types {
        let RawType::Struct {
            members,
            extends,
            union,
        } = t
        else {
            continue;
        };
        // A structure type that no Vulkan version or extension defines is Vulkan SC's.
        let stype = members.first().and_then(|m| m.values.as_deref());
        if stype.is_some_and(|s| s.starts_with("VK_STRUCTURE_TYPE") && model.value(s).is_none()) {
            continue;
        }
        let fields = resolver
            .fields(name, members, &lengths, false)
            .with_context(|| format!("struct {name}"))?;
        let prefix = policy
            .prefix
            .get(name)
            .map(|(words, _)| words.clone())
            .unwrap_or_default();
        if !prefix.is_empty() {
            policy.used(name);
        }
        let dropped = policy.drops.get(name).cloned();
        if dropped.is_some() {
            policy.used(name);
        }
        model.structs.push(Struct {
            name: name.clone(),
            fields,
            extends: extends.clone(),
            union: *union,
            prefix,
            foreign: None,
            dropped,
            upstream: upstream.contains(name.as_str()),
        });
    }
    // Aliases of what was left out go with it.
    let known: BTreeSet<&str> = types
        .iter()
        .filter(|(_, t)| !matches!(t, RawType::Struct { .. }))
        .map(|(n, _)| *n)
        .chain(model.structs.iter().map(|s| s.name.as_str()))
        .collect();
    model.typedefs.retain(|(n, to)| {
        !matches!(types.get(n.as_str()), Some(RawType::Alias(_))) || known.contains(to.as_str())
    });
    mark_foreign(&mut model);
    for structure in &model.structs {
        if !structure.union && policy.union_first.contains_key(&structure.name) {
            bail!("{} is not a union", structure.name);
        }
    }
    resolver.commands(&mut model, &lengths)?;
    for (extension, hiding) in &policy.hidden_extensions {
        if raw.extensions.contains(extension) {
            policy.used(extension);
        }
        model
            .hidden_extensions
            .push((extension.clone(), hiding.clone()));
    }
    for (extension, why) in &policy.needs_dma_buf {
        if raw.extensions.contains(extension) {
            policy.used(extension);
        }
        model.needs_dma_buf.push((extension.clone(), why.clone()));
    }
    for (item, hiding) in &policy.hidden_features {
        let Some((structure, member)) = item.split_once('.') else {
            bail!("a hidden feature is VkStruct.member, not {item}");
        };
        let there = |s: &Struct| s.chained() && s.fields.iter().any(|f| f.name == member);
        if model.get(structure).is_some_and(there) {
            policy.used(item);
        }
        model
            .hidden_features
            .push((structure.to_owned(), member.to_owned(), hiding.clone()));
    }
    for item in policy.upstream.keys() {
        if raw.extensions.contains(item) {
            policy.used(item);
            let minor = resolver.promoted_to(&model, item);
            model.upstream_extensions.push((item.clone(), minor));
        }
    }
    policy.check_all_used()?;
    Ok(model)
}

/// A struct that holds a foreign struct is foreign.
fn mark_foreign(model: &mut Model) {
    loop {
        let foreign: BTreeMap<String, String> = model
            .structs
            .iter()
            .filter_map(|s| Some((s.name.clone(), s.foreign.clone()?)))
            .collect();
        let mut changed = false;
        for s in model.structs.iter_mut().filter(|s| s.foreign.is_none()) {
            if let Some(why) = s.fields.iter().find_map(|f| foreign_field(f, &foreign)) {
                s.foreign = Some(why);
                changed = true;
            }
        }
        if !changed {
            return;
        }
    }
}

fn foreign_field(field: &Field, foreign: &BTreeMap<String, String>) -> Option<String> {
    match &field.wire {
        Wire::Foreign(why) => Some(why.clone()),
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
        } => foreign.get(s).cloned(),
        _ => None,
    }
}

struct Resolver<'a> {
    raw: &'a Raw,
    policy: &'a Policy,
    types: HashMap<&'a str, &'a RawType>,
}

impl<'a> Resolver<'a> {
    fn real<'n>(&self, name: &'n str) -> &'n str
    where
        'a: 'n,
    {
        let mut name = name;
        while let Some(RawType::Alias(to)) = self.types.get(name) {
            name = to;
        }
        name
    }

    fn constants(&self, model: &mut Model) {
        for (name, c_type, value) in &self.raw.constants {
            match value {
                Value::Number(text) if text.starts_with('"') => {}
                Value::Number(text) => {
                    let ty = match c_type.as_deref() {
                        Some("float") => "f32",
                        Some("uint64_t") => "u64",
                        _ if text.contains("ULL") => "u64",
                        _ => "u32",
                    };
                    if name.ends_with("_SPEC_VERSION") {
                        continue;
                    }
                    let value = number(text);
                    model.constants.push((name.clone(), ty.to_owned(), value));
                }
                Value::Alias(to) => {
                    if let Some((_, ty, _)) = model.constants.iter().find(|(n, ..)| n == to) {
                        let ty = ty.clone();
                        model.constants.push((name.clone(), ty, to.clone()));
                    }
                }
                Value::Bit(bit) => {
                    model
                        .constants
                        .push((name.clone(), "u32".into(), format!("1 << {bit}")));
                }
            }
        }
    }

    fn enums(&self, model: &mut Model) -> Result<()> {
        let mut done = BTreeSet::new();
        for (name, values) in &self.raw.enums {
            let Some(RawType::Enum) = self.types.get(name.as_str()) else {
                continue;
            };
            let mut out: Vec<(String, i64)> = Vec::new();
            let find = |wanted: &str| -> Option<i64> {
                let mut wanted = wanted.to_owned();
                for _ in 0..8 {
                    match &values.iter().find(|(n, _)| *n == wanted)?.1 {
                        Value::Number(n) => return parse_int(n),
                        Value::Bit(b) => return Some(1 << b),
                        Value::Alias(to) => wanted.clone_from(to),
                    }
                }
                None
            };
            for (e, value) in values {
                let number = match value {
                    Value::Number(n) => parse_int(n),
                    Value::Bit(b) => Some(1 << b),
                    Value::Alias(to) => find(to),
                };
                out.push((e.clone(), number.with_context(|| format!("{name}: {e}"))?));
            }
            model
                .enums
                .push((name.clone(), self.enum_prim(name).rust(), out));
            done.insert(name.as_str());
        }
        for (name, t) in &self.raw.types {
            if matches!(t, RawType::Enum) && !done.contains(name.as_str()) {
                model
                    .enums
                    .push((name.clone(), self.enum_prim(name).rust(), Vec::new()));
            }
        }
        Ok(())
    }

    fn enum_prim(&self, name: &str) -> Prim {
        if self.raw.wide_enums.contains(name) || name.contains("FlagBits2") && !name.ends_with("NV")
        {
            if self.raw.wide_enums.contains(name) {
                Prim::U64
            } else {
                Prim::U32
            }
        } else if name.contains("FlagBits") {
            Prim::U32
        } else {
            Prim::I32
        }
    }

    /// The minor version of Vulkan that has all of an extension's commands that are aliases.
    fn promoted_to(&self, model: &Model, extension: &str) -> u32 {
        let brought = |name: &str| {
            let origins = self.raw.origins.get(name);
            origins.is_some_and(|o| o.contains(extension))
        };
        model
            .commands
            .iter()
            .filter(|c| brought(&c.name) && !c.guest_serves)
            .filter_map(|c| c.alias.as_ref())
            .flat_map(|name| minor_versions(self.raw.origins.get(name)))
            .max()
            .unwrap_or(0)
    }

    /// The commands and structs that upstream's host knows.
    fn upstream(&self) -> BTreeSet<&str> {
        let mut out = BTreeSet::new();
        for (name, origins) in &self.raw.origins {
            for item in origins.iter().chain([name]) {
                if self.policy.upstream.contains_key(item) {
                    self.policy.used(item);
                    out.insert(self.real(name));
                }
            }
        }
        out
    }

    /// `pInfo->count` in a parameter's length makes `count` a count where it is declared.
    fn remote_lengths(&self) -> BTreeSet<(String, String)> {
        let mut out = BTreeSet::new();
        for command in &self.raw.commands {
            for param in &command.params {
                if let Some((p, field)) = param.len.as_deref().and_then(|l| l.split_once("->"))
                    && let Some(of) = command.params.iter().find(|q| q.name == p)
                {
                    out.insert((self.real(&of.base).to_owned(), field.to_owned()));
                }
            }
        }
        out
    }

    fn prim(&self, base: &str) -> Option<Prim> {
        if let Some(prim) = Prim::of_c(base) {
            return Some(prim);
        }
        match self.types.get(base)? {
            RawType::Typedef(b) => Prim::of_c(b),
            RawType::Flags { wide, .. } => Some(if *wide { Prim::U64 } else { Prim::U32 }),
            RawType::Enum => Some(self.enum_prim(base)),
            _ => None,
        }
    }

    fn rust_base(&self, base: &str, behind_pointer: bool) -> Result<String> {
        Ok(match base {
            "void" => "c_void".into(),
            "char" => "c_char".into(),
            "size_t" => "usize".into(),
            _ => {
                if let Some(prim) = Prim::of_c(base) {
                    return Ok(prim.rust().into());
                }
                match self.types.get(base) {
                    Some(RawType::External) => match self.policy.externals.get(base) {
                        Some((Some(_), _)) => base.to_owned(),
                        Some((None, _)) if behind_pointer => "c_void".into(),
                        _ => bail!("platform type {base} is not in the policy's [[external]]"),
                    },
                    Some(_) => base.to_owned(),
                    None => bail!("unknown type {base}"),
                }
            }
        })
    }

    fn rust(&self, d: &Decl) -> Result<String> {
        let mut rust = self.rust_base(&d.base, d.ptr > 0)?;
        for level in 0..d.ptr {
            let konst = d.konst && (level == 0 || d.ptr > 1);
            rust = format!("*{} {rust}", if konst { "const" } else { "mut" });
        }
        for dim in d.dims.iter().rev() {
            rust = format!("[{rust}; {}]", size_expr(dim));
        }
        Ok(rust)
    }

    fn fields(
        &self,
        owner: &str,
        members: &[Decl],
        lengths: &BTreeSet<(String, String)>,
        params: bool,
    ) -> Result<Vec<Field>> {
        let mut fields: Vec<Field> = Vec::new();
        let mut bits = 0;
        for m in members {
            if let Some(width) = m.bits {
                if bits == 0 || bits + width > 32 {
                    let name = format!("bits{}", fields.len());
                    fields.push(Field {
                        name,
                        rust: "u32".into(),
                        wire: Wire::Plain(Prim::U32),
                        out: false,
                        counts: false,
                        needed: false,
                        required: false,
                        picks: Vec::new(),
                        stype: None,
                        selection: Vec::new(),
                    });
                    bits = 0;
                }
                bits += width;
                continue;
            }
            bits = 0;
            let counts = lengths.contains(&(owner.to_owned(), m.name.clone()))
                || members.iter().any(|o| {
                    o.altlen.as_deref().or(o.len.as_deref()).is_some_and(|len| {
                        len.split(|c: char| !c.is_alphanumeric() && c != '_')
                            .any(|w| w == m.name)
                    }) || (self.policy.lengths)
                        .get(&format!("{owner}.{}", o.name))
                        .is_some_and(|(field, _)| *field == m.name)
                });
            fields.push(Field {
                name: m.name.clone(),
                rust: self.rust(m).with_context(|| format!("member {}", m.name))?,
                wire: self
                    .wire(owner, m, members)
                    .with_context(|| format!("member {}", m.name))?,
                out: params && m.ptr > 0 && !m.konst,
                counts,
                needed: counts && m.needed,
                required: self.required(owner, m, params)?,
                picks: self.picks(owner, m, members),
                stype: m.values.clone().filter(|_| m.name == "sType"),
                selection: m
                    .selection
                    .as_deref()
                    .map(|s| s.split(',').map(str::to_owned).collect())
                    .unwrap_or_default(),
            });
        }
        Ok(fields)
    }

    /// A driver takes it for a live handle.
    fn required(&self, owner: &str, m: &Decl, params: bool) -> Result<bool> {
        let handle = matches!(
            self.types.get(self.real(&m.base)),
            Some(RawType::Handle { .. })
        );
        let required = handle && !m.nullable && !(params && m.ptr > 0 && !m.konst);
        let item = format!("{owner}.{}", m.name);
        if !self.policy.nullable.contains_key(&item) {
            return Ok(required);
        }
        if !required {
            bail!("the policy says of {item} what the registry says already");
        }
        self.policy.used(&item);
        Ok(false)
    }

    fn picks(&self, owner: &str, m: &Decl, members: &[Decl]) -> Vec<String> {
        let mut picks = Vec::new();
        for other in members {
            if other.selector.as_deref() == Some(&m.name)
                && let Some(RawType::Struct { members, .. }) =
                    self.types.get(self.real(&other.base))
            {
                for member in members {
                    picks.extend(
                        member
                            .selection
                            .iter()
                            .flat_map(|s| s.split(','))
                            .map(str::to_owned),
                    );
                }
            }
            if let Some(only_if) = self.policy.only_if.get(&format!("{owner}.{}", other.name))
                && only_if.field == m.name
            {
                picks.extend(only_if.one_of.iter().cloned());
            }
        }
        picks
    }

    fn wire(&self, owner: &str, m: &Decl, siblings: &[Decl]) -> Result<Wire> {
        let item = format!("{owner}.{}", m.name);
        let base = match self.policy.pointees.get(&item) {
            Some((base, _)) => {
                self.policy.used(&item);
                base
            }
            None => self.real(&m.base),
        };
        if let Some((_, why)) = self.policy.externals.get(base) {
            return Ok(Wire::Foreign(format!("{base}: {why}")));
        }
        if m.name == "pNext" && m.base == "void" {
            return Ok(Wire::Chain);
        }
        if base == "VkAllocationCallbacks" && m.ptr == 1 {
            return Ok(Wire::Callbacks);
        }
        let base_type = self.types.get(base).copied();
        if m.ptr == 0 {
            let wire = match base_type {
                Some(RawType::Handle { .. }) => Wire::Handle {
                    kind: kind(base).to_owned(),
                    unknown: if self.policy.lenient.contains_key(&item) {
                        Unknown::Stale
                    } else if self.policy.ignorable.contains_key(&item) {
                        Unknown::Ignored
                    } else {
                        Unknown::Error
                    },
                },
                Some(RawType::FunctionPointer) => Wire::Function,
                Some(RawType::Struct { union: true, .. }) => {
                    let first = self.policy.union_first.contains_key(base);
                    if first {
                        self.policy.used(base);
                    }
                    Wire::Union {
                        name: base.to_owned(),
                        selector: m.selector.clone().filter(|_| !first),
                    }
                }
                Some(RawType::Struct { .. }) => Wire::Struct(base.to_owned()),
                _ if base == "size_t" => Wire::Size,
                _ => Wire::Plain(self.prim(base).with_context(|| format!("unknown {base}"))?),
            };
            if matches!(&wire, Wire::Handle { unknown, .. } if *unknown != Unknown::Error) {
                self.policy.used(&item);
            }
            if m.dims.is_empty() {
                return Ok(wire);
            }
            return Ok(match wire {
                Wire::Struct(s) => Wire::Structs(s),
                Wire::Plain(_) | Wire::Handle { .. } => Wire::Raw,
                other => bail!("array of {other:?}"),
            });
        }
        let mut optional = m.optional;
        for (list, says) in [
            (&self.policy.not_optional, false),
            (&self.policy.optional, true),
        ] {
            if list.contains_key(&item) {
                if optional == says {
                    bail!("the policy says of {item} what the registry says already");
                }
                self.policy.used(&item);
                optional = says;
            }
        }
        let strings = m
            .len
            .as_deref()
            .is_some_and(|l| l.ends_with("null-terminated"));
        if m.ptr == 2 && base == "char" && strings {
            return Ok(Wire::Strs(self.len(m, siblings)?));
        }
        if let Some((each, _)) = self.policy.pointers.get(&item) {
            self.policy.used(&item);
            return self.pointers(m, siblings, base, optional, each);
        }
        if m.ptr > 1 {
            if !self.policy.double_pointers.contains_key(&item) {
                bail!(
                    "a pointer to pointers: say in the policy's [[pointers]] or [[double_pointer]] what it sends"
                );
            }
            self.policy.used(&item);
            return Ok(Wire::Nothing);
        }
        if self.policy.opaque.contains_key(&item) {
            self.policy.used(&item);
            return Ok(Wire::Opaque);
        }
        if self.policy.unknown_lengths.contains_key(&item) {
            self.policy.used(&item);
            return Ok(Wire::Nothing);
        }
        if base == "char" && strings {
            return Ok(Wire::Str { optional });
        }
        let len = match self.policy.lengths.get(&item) {
            Some((field, _)) => {
                if m.len.is_some() || !siblings.iter().any(|s| s.name == *field) {
                    bail!("{item} has a length, or there is no {field}");
                }
                self.policy.used(&item);
                Len::Field(field.clone())
            }
            None => self.len(m, siblings)?,
        };
        let target = match base {
            "void" if len != Len::One || m.len.is_some() => Target::Bytes,
            "void" => {
                if !self.policy.single_bytes.contains_key(&item) {
                    bail!(
                        "void* without a length: say in the policy's [[length]], [[opaque]], \
                         [[unknown_length]] or [[single_byte]] what it sends"
                    );
                }
                self.policy.used(&item);
                Target::Byte
            }
            _ => self.target(base)?,
        };
        let cond = if let Some(only_if) = self.policy.only_if.get(&item) {
            self.policy.used(&item);
            Some(match &only_if.without {
                Some(bit) => Cond::Without(only_if.field.clone(), bit.clone()),
                None => Cond::OneOf(only_if.field.clone(), only_if.one_of.clone()),
            })
        } else if let Some((word, _)) = self.policy.body_if.get(&item) {
            self.policy.used(&item);
            Some(Cond::Word(word.clone()))
        } else {
            None
        };
        Ok(Wire::Pointer {
            optional,
            target,
            len,
            cond,
        })
    }

    /// What a pointer to a type points to.
    fn target(&self, base: &str) -> Result<Target> {
        Ok(match self.types.get(base) {
            Some(RawType::Handle { .. }) => Target::Handle(kind(base).to_owned()),
            Some(RawType::Struct { union: true, .. }) => Target::Union(base.to_owned()),
            Some(RawType::Struct { .. }) => Target::Struct(base.to_owned()),
            _ if base == "size_t" => Target::Size,
            _ => Target::Plain(self.prim(base).with_context(|| format!("unknown {base}"))?),
        })
    }

    /// A list of pointers.
    fn pointers(
        &self,
        m: &Decl,
        siblings: &[Decl],
        base: &str,
        optional: bool,
        each: &str,
    ) -> Result<Wire> {
        if m.ptr != 2 || !m.konst {
            bail!("[[pointers]] is for lists of pointers that are sent");
        }
        let target = self.target(base)?;
        if !matches!(
            target,
            Target::Struct(_) | Target::Plain(Prim::U32 | Prim::U64)
        ) {
            bail!("a list of pointers to {target:?} has no form");
        }
        let each = match each.split_once("[].") {
            None if each == "1" => Each::One,
            None => bail!("`each` is 1 or pSibling[].member"),
            Some((array, member)) => {
                // As many elements as pointers, and always there: decoding them bounds the list.
                let sibling = siblings
                    .iter()
                    .take_while(|s| s.name != m.name)
                    .find(|s| s.name == array && s.ptr == 1 && s.len == m.len && !s.optional)
                    .with_context(|| format!("{array} does not go with it"))?;
                match self.types.get(self.real(&sibling.base)) {
                    Some(RawType::Struct { members, .. })
                        if members.iter().any(|f| f.name == member) => {}
                    _ => bail!("{} has no {member}", sibling.base),
                }
                Each::Of(array.to_owned(), member.to_owned())
            }
        };
        Ok(Wire::Pointers {
            optional,
            target,
            len: self.len(m, siblings)?,
            each,
        })
    }

    fn len(&self, m: &Decl, siblings: &[Decl]) -> Result<Len> {
        if let Some(expr) = &m.altlen {
            let mut out = String::new();
            let mut word = String::new();
            for c in expr.chars().chain(std::iter::once(' ')) {
                if c.is_alphanumeric() || c == '_' {
                    word.push(c);
                    continue;
                }
                if siblings.iter().any(|s| s.name == word) {
                    out += &format!("{{{word}}}");
                } else if word.starts_with("VK_") {
                    out += &size_expr(&word);
                } else {
                    out += &word;
                }
                word.clear();
                out.push(c);
            }
            return Ok(Len::Calc(out.trim().to_owned()));
        }
        let Some(len) = m.len.as_deref() else {
            return Ok(Len::One);
        };
        let first = len.split(',').next().unwrap_or(len);
        if first == "1" {
            return Ok(Len::One);
        }
        if let Some((p, field)) = first.split_once("->") {
            return Ok(Len::Path(p.to_owned(), field.to_owned()));
        }
        if let Some(sibling) = siblings.iter().find(|s| s.name == first) {
            if siblings
                .iter()
                .skip_while(|s| s.name != m.name)
                .any(|s| s.name == first)
            {
                bail!(
                    "length {len} comes after what it counts: see the policy's [[unknown_length]]"
                );
            }
            return Ok(if sibling.ptr > 0 {
                Len::Deref(first.to_owned())
            } else {
                Len::Field(first.to_owned())
            });
        }
        if first.chars().all(|c| c.is_ascii_digit()) || first.starts_with("VK_") {
            return Ok(Len::Const(size_expr(first)));
        }
        bail!("length {len} names no sibling")
    }

    fn commands(&self, model: &mut Model, lengths: &BTreeSet<(String, String)>) -> Result<()> {
        let foreign: BTreeMap<String, String> = model
            .structs
            .iter()
            .filter_map(|s| Some((s.name.clone(), s.foreign.clone()?)))
            .collect();
        let mut all: Vec<(String, Option<String>, &crate::registry::RawCommand)> = Vec::new();
        for command in &self.raw.commands {
            all.push((command.proto.name.clone(), None, command));
        }
        for (name, alias) in &self.raw.aliases {
            let mut target = alias.as_str();
            while let Some((_, next)) = self.raw.aliases.iter().find(|(n, _)| n == target) {
                target = next;
            }
            if let Some(command) = self.raw.commands.iter().find(|c| c.proto.name == target) {
                all.push((name.clone(), Some(target.to_owned()), command));
            }
        }
        all.retain(|(name, ..)| self.raw.required.contains(name));
        let upstream = self.upstream();
        let opcodes = crate::opcode::assign(all.iter().map(|(name, ..)| name.as_str()));
        for (name, alias, command) in all {
            let owner = &command.proto.name;
            let params = self
                .fields(owner, &command.params, lengths, true)
                .with_context(|| name.clone())?;
            let (ret, ret_wire) = match command.proto.base.as_str() {
                "void" if command.proto.ptr == 0 => ("()".to_owned(), None),
                base => {
                    let real = self.real(base);
                    let wire = match self.types.get(real) {
                        Some(RawType::FunctionPointer) => Wire::Function,
                        _ => {
                            Wire::Plain(self.prim(real).with_context(|| format!("{name}: {base}"))?)
                        }
                    };
                    (self.rust_base(base, false)?, Some(wire))
                }
            };
            let level = match command.params.first().map(|p| self.real(&p.base)) {
                Some("VkInstance" | "VkPhysicalDevice") => Level::Instance,
                Some("VkDevice" | "VkQueue" | "VkCommandBuffer") => Level::Device,
                _ => Level::Global,
            };
            let refused = self.policy.refusals.get(&name).cloned();
            if refused.is_some() {
                self.policy.used(&name);
            }
            let guest_serves = self.policy.guest_serves.contains_key(&name);
            if guest_serves {
                self.policy.used(&name);
            }
            let ahead = self.policy.creations_ahead.contains_key(&name);
            if ahead {
                self.policy.used(&name);
            }
            let guest_absent = self.policy.guest_absent.contains_key(&name);
            if guest_absent && refused.is_some() && command.proto.base == "VkResult" {
                self.policy.used(&name);
            }
            let providers = self.raw.providers.get(&name);
            let extensions = providers
                .and_then(|all| all.iter().cloned().collect::<Option<Vec<String>>>())
                .unwrap_or_default();
            let upstream = upstream.contains(name.as_str());
            let since = minor_versions(self.raw.origins.get(&name))
                .min()
                .unwrap_or(0);
            let command = Command {
                guest_serves,
                ahead,
                guest_absent,
                extensions,
                since,
                upstream,
                opcode: opcodes[&name],
                foreign: params.iter().find_map(|p| foreign_field(p, &foreign)),
                noun: noun(&params, &model.handles),
                native: !(name.ends_with("GOOGLE") || name.ends_with("ASGARD"))
                    || name.contains("RefreshCycle")
                    || name.contains("PastPresentation"),
                name,
                params,
                ret,
                ret_wire,
                alias,
                level,
                refused,
            };
            if ahead && command.creation().is_none() {
                bail!("{} creates more than one object", command.name);
            }
            model.commands.push(command);
        }
        Ok(())
    }
}

/// The minor versions of Vulkan among what brings something.
fn minor_versions(origins: Option<&BTreeSet<String>>) -> impl Iterator<Item = u32> {
    let minor = |origin: &String| origin.split_once("_VERSION_1_")?.1.parse().ok();
    origins.into_iter().flatten().filter_map(minor)
}

/// The object a command is about.
fn noun(params: &[Field], handles: &[Handle]) -> String {
    fn handle_of(field: &Field) -> Option<&str> {
        match &field.wire {
            Wire::Handle { kind, .. } => Some(kind),
            Wire::Pointer {
                target: Target::Handle(kind),
                ..
            } => Some(kind),
            _ => None,
        }
    }
    let first = params.first().and_then(handle_of);
    let chosen = match first {
        None => Some("Instance"),
        Some("CommandBuffer" | "Queue") => first,
        _ => params
            .iter()
            .find(|p| p.out && handle_of(p).is_some())
            .and_then(handle_of)
            .or_else(|| params.get(1).and_then(handle_of))
            .or(first),
    };
    let chosen = chosen.unwrap_or("Instance");
    debug_assert!(handles.is_empty() || handles.iter().any(|h| h.kind() == chosen));
    snake(chosen)
}

/// `AccelerationStructureKHR` -> `acceleration_structure`.
pub fn snake(kind: &str) -> String {
    let trimmed = kind.trim_end_matches(|c: char| c.is_ascii_uppercase());
    let stem = if kind.len() - trimmed.len() >= 2 {
        trimmed
    } else {
        kind
    };
    let mut out = String::new();
    for (i, c) in stem.chars().enumerate() {
        if c.is_ascii_uppercase() && i > 0 {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

fn size_expr(dim: &str) -> String {
    if dim.chars().all(|c| c.is_ascii_digit()) {
        dim.to_owned()
    } else {
        format!("{dim} as usize")
    }
}

/// A C literal as a Rust one: `(~0ULL)` -> `!0`, `1000.0F` -> `1000.0`.
fn number(text: &str) -> String {
    let text = text
        .trim_matches(['(', ')'])
        .trim_end_matches("ULL")
        .trim_end_matches('U');
    if text.contains('.') {
        text.trim_end_matches(['F', 'f'])
    } else {
        text
    }
    .replace('~', "!")
}

fn parse_int(text: &str) -> Option<i64> {
    let text = text.trim_matches(['(', ')']);
    let text = text.trim_end_matches("ULL").trim_end_matches('U');
    if let Some(hex) = text.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).ok().map(u64::cast_signed);
    }
    text.parse().ok()
}
