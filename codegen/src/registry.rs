//! The registry as it is written: C declarations, enumerants and who requires what.
//!
//! Nothing is decided here; [`crate::model`] gives it meaning.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use asgard_xml::registry as vr;

/// A C declarator: `const VkFoo* pFoo[4]`, with the attributes that matter.
#[derive(Clone, Debug, Default)]
pub struct Decl {
    /// Member, parameter or command name.
    pub name: String,
    /// The type without qualifiers.
    pub base: String,
    /// The innermost pointee (or the value) is const.
    pub konst: bool,
    /// Pointer depth.
    pub ptr: usize,
    /// Array dimensions, outermost first: a number or a constant's name.
    pub dims: Vec<String>,
    /// Width of a bit-field.
    pub bits: Option<u32>,
    /// Attribute `len`.
    pub len: Option<String>,
    /// Attribute `altlen`: `len` as a C expression.
    pub altlen: Option<String>,
    /// Attribute `optional` or `noautovalidity` is there, whatever it says.
    pub optional: bool,
    /// Attribute `optional` says that the pointer itself is not, but what it points to is.
    pub needed: bool,
    /// The value, or what a pointer points to, may be null or nothing in particular.
    pub nullable: bool,
    /// Attribute `values`, for `sType`.
    pub values: Option<String>,
    /// Attribute `selector`: the member that says which union member is valid.
    pub selector: Option<String>,
    /// Attribute `selection`: the selector's values for this union member.
    pub selection: Option<String>,
}

/// `<type>` by category.
#[derive(Clone, Debug)]
pub enum RawType {
    /// Another name for a type.
    Alias(String),
    /// `typedef base name`.
    Typedef(String),
    /// An object handle.
    Handle {
        dispatchable: bool,
        parent: Option<String>,
        object_type: Option<String>,
    },
    /// An enumeration; its values are in [`Raw::enums`].
    Enum,
    /// `VkFooFlags`, with the enumeration of its bits.
    Flags { wide: bool, bits: Option<String> },
    /// A function pointer.
    FunctionPointer,
    /// A struct or union.
    Struct {
        members: Vec<Decl>,
        extends: Vec<String>,
        union: bool,
    },
    /// Declared elsewhere: a platform's type.
    External,
}

/// A command as written.
#[derive(Clone, Debug)]
pub struct RawCommand {
    /// What it returns and its name.
    pub proto: Decl,
    /// Its parameters.
    pub params: Vec<Decl>,
}

/// One enumerant.
#[derive(Clone, Debug)]
pub enum Value {
    /// A number, as written.
    Number(String),
    /// `1 << n`.
    Bit(u32),
    /// Another enumerant's value.
    Alias(String),
}

/// A format as written.
#[derive(Clone, Debug, Default)]
pub struct RawFormat {
    /// Its enumerant.
    pub name: String,
    /// Bytes of a block.
    pub size: u32,
    /// Texels of a block in each dimension.
    pub extent: [u32; 3],
    /// Its components: name, and bits where they have a number.
    pub components: Vec<(String, Option<u32>)>,
    /// The formats of its planes, in their order, and what divides an image's width and height; none for
    /// a format of a single plane.
    pub planes: Vec<(String, [u32; 2])>,
}

/// All registries, merged.
#[derive(Debug, Default)]
pub struct Raw {
    /// Types in the order they are written.
    pub types: Vec<(String, RawType)>,
    /// Enumeration name to its values.
    pub enums: BTreeMap<String, Vec<(String, Value)>>,
    /// Enumerations of 64 bits.
    pub wide_enums: HashSet<String>,
    /// API constants: name, C type where stated, value.
    pub constants: Vec<(String, Option<String>, Value)>,
    /// Commands in the order they are written.
    pub commands: Vec<RawCommand>,
    /// Alias commands: name and target.
    pub aliases: Vec<(String, String)>,
    /// Commands that a version or an extension of Vulkan (not only Vulkan SC) requires.
    pub required: HashSet<String>,
    /// Extensions of Vulkan.
    pub extensions: HashSet<String>,
    /// Those that only one platform has.
    pub of_a_platform: HashSet<String>,
    /// For each command, what requires it: device extensions, or nothing for all else.
    pub providers: BTreeMap<String, BTreeSet<Option<String>>>,
    /// For each command and type, the versions and extensions that bring it.
    pub origins: BTreeMap<String, BTreeSet<String>>,
    /// Formats in the order they are written.
    pub formats: Vec<RawFormat>,
}

fn speaks_vulkan(api: &Option<String>) -> bool {
    api.as_deref()
        .is_none_or(|api| api.split(',').any(|a| a == "vulkan"))
}

impl Raw {
    /// Adds one registry.
    pub fn read(&mut self, registry: &vr::Registry) {
        for content in &registry.contents {
            match content {
                vr::RegistryContent::Types(types) => {
                    for content in &types.contents {
                        if let vr::TypesContent::Type(t) = content
                            && speaks_vulkan(&t.api)
                        {
                            self.read_type(t);
                        }
                    }
                }
                vr::RegistryContent::Enums(enums) => self.read_enums(enums),
                vr::RegistryContent::Commands(commands) => {
                    for vr::CommandsContent::Command(command) in &commands.contents {
                        if speaks_vulkan(&command.api) {
                            self.read_command(command);
                        }
                    }
                }
                vr::RegistryContent::Feature(feature) if speaks_vulkan(&feature.api) => {
                    let origin = feature.name.as_deref().unwrap_or_default();
                    for content in &feature.contents {
                        if let vr::FeatureContent::Require(require) = content {
                            self.read_origins(require, origin);
                            self.read_require(require, None, None);
                        }
                    }
                }
                vr::RegistryContent::Extensions(extensions) => {
                    for vr::ExtensionsContent::Extension(extension) in &extensions.contents {
                        if extension.supported.as_deref() == Some("vulkansc") {
                            continue;
                        }
                        self.extensions.extend(extension.name.clone());
                        if extension.platform.is_some() {
                            self.of_a_platform.extend(extension.name.clone());
                        }
                        let number = extension.number.as_deref().and_then(|n| n.parse().ok());
                        // A device cannot tell which extensions its instance has.
                        let of_device = extension.typ.as_deref() != Some("instance");
                        let by = extension.name.as_ref().filter(|_| of_device);
                        for content in &extension.contents {
                            if let vr::ExtensionContent::Require(require) = content {
                                let origin = extension.name.as_deref().unwrap_or_default();
                                self.read_origins(require, origin);
                                self.read_require(require, number, by);
                            }
                        }
                    }
                }
                vr::RegistryContent::Formats(formats) => {
                    let each = formats.contents.iter();
                    self.formats
                        .extend(each.map(|vr::FormatsContent::Format(f)| format(f)));
                }
                _ => {}
            }
        }
    }

    fn read_type(&mut self, t: &vr::Type) {
        let mut name = t.name.clone();
        let mut inner = None;
        let mut members = Vec::new();
        let mut text = String::new();
        for content in &t.contents {
            match content {
                vr::TypeContent::Name(n) => name = Some(n.clone()),
                vr::TypeContent::Type(n) => inner = Some(n.clone()),
                vr::TypeContent::Text(s) => text += s,
                vr::TypeContent::Proto(p) => name = Some(proto(p).name),
                vr::TypeContent::Member(m) if speaks_vulkan(&m.api) => members.push(member(m)),
                _ => {}
            }
        }
        let Some(name) = name else { return };
        let category = t.category.as_deref();
        let raw = if let Some(alias) = &t.alias {
            RawType::Alias(alias.clone())
        } else {
            match category {
                Some("handle") => RawType::Handle {
                    dispatchable: inner.as_deref() == Some("VK_DEFINE_HANDLE"),
                    parent: t.parent.clone(),
                    object_type: t.objtypeenum.clone(),
                },
                Some("enum") => RawType::Enum,
                Some("bitmask") => RawType::Flags {
                    wide: inner.as_deref() == Some("VkFlags64"),
                    bits: t.requires.clone().or_else(|| t.bitvalues.clone()),
                },
                Some("funcpointer") => RawType::FunctionPointer,
                Some("struct" | "union") => RawType::Struct {
                    members,
                    extends: t
                        .structextends
                        .as_deref()
                        .map(|s| s.split(',').map(str::to_owned).collect())
                        .unwrap_or_default(),
                    union: category == Some("union"),
                },
                Some("basetype") => match inner {
                    Some(base) if !text.contains('*') && !text.contains('#') => {
                        RawType::Typedef(base)
                    }
                    _ => RawType::External,
                },
                Some("define" | "include" | "group") => return,
                _ => RawType::External,
            }
        };
        if !self.types.iter().any(|(n, _)| *n == name) {
            self.types.push((name, raw));
        } else if !matches!(raw, RawType::External)
            && let Some(old) = self.types.iter_mut().find(|(n, _)| *n == name)
            && matches!(old.1, RawType::External)
        {
            // video.xml defines what vk.xml only names.
            let moved = (name, raw);
            self.types.retain(|(n, _)| *n != moved.0);
            self.types.push(moved);
        }
    }

    fn read_enums(&mut self, enums: &vr::Enums) {
        let Some(name) = &enums.name else { return };
        if enums.bitwidth.as_deref() == Some("64") {
            self.wide_enums.insert(name.clone());
        }
        let constants = enums.typ.as_deref() == Some("constants") || enums.typ.is_none();
        for content in &enums.contents {
            let vr::EnumsContent::Enum(e) = content else {
                continue;
            };
            let Some(e_name) = &e.name else { continue };
            if !speaks_vulkan(&e.api) {
                continue;
            }
            let value = match (&e.alias, &e.bitpos, &e.value) {
                (Some(alias), _, _) => Value::Alias(alias.clone()),
                (_, Some(bit), _) => Value::Bit(bit.parse().expect("bitpos is a number")),
                (_, _, Some(value)) => Value::Number(value.clone()),
                _ => continue,
            };
            if constants {
                self.constants.push((e_name.clone(), e.typ.clone(), value));
            } else {
                self.enums
                    .entry(name.clone())
                    .or_default()
                    .push((e_name.clone(), value));
            }
        }
        self.enums.entry(name.clone()).or_default();
    }

    fn read_origins(&mut self, require: &vr::Require, origin: &str) {
        for content in &require.contents {
            let name = match content {
                vr::RequireContent::Command(c) => &c.name,
                vr::RequireContent::Type(t) => &t.name,
                _ => continue,
            };
            if let Some(name) = name {
                let origins = self.origins.entry(name.clone()).or_default();
                origins.insert(origin.to_owned());
            }
        }
    }

    fn read_require(
        &mut self,
        require: &vr::Require,
        number: Option<i64>,
        extension: Option<&String>,
    ) {
        for content in &require.contents {
            match content {
                vr::RequireContent::Command(c) => {
                    self.required.extend(c.name.clone());
                    if let Some(name) = &c.name {
                        let providers = self.providers.entry(name.clone()).or_default();
                        providers.insert(extension.cloned());
                    }
                }
                vr::RequireContent::Enum(e) => {
                    let Some(name) = &e.name else { continue };
                    if !speaks_vulkan(&e.api) {
                        continue;
                    }
                    let value = if let Some(alias) = &e.alias {
                        Value::Alias(alias.clone())
                    } else if let Some(bit) = &e.bitpos {
                        Value::Bit(bit.parse().expect("bitpos is a number"))
                    } else if let Some(value) = &e.value {
                        Value::Number(value.clone())
                    } else if let Some(offset) = &e.offset {
                        let extension: i64 = e
                            .extnumber
                            .as_deref()
                            .map(|n| n.parse().expect("extnumber is a number"))
                            .or(number)
                            .expect("an offset belongs to an extension");
                        let offset: i64 = offset.parse().expect("offset is a number");
                        let value = 1_000_000_000 + (extension - 1) * 1000 + offset;
                        let sign = if e.dir.is_some() { -1 } else { 1 };
                        Value::Number((sign * value).to_string())
                    } else {
                        continue;
                    };
                    match &e.extends {
                        Some(group) => {
                            let values = self.enums.entry(group.clone()).or_default();
                            if !values.iter().any(|(n, _)| n == name) {
                                values.push((name.clone(), value));
                            }
                        }
                        None => {
                            if !self.constants.iter().any(|(n, ..)| n == name) {
                                self.constants.push((name.clone(), e.typ.clone(), value));
                            }
                        }
                    }
                }
                _ => {}
            }
        }
    }

    fn read_command(&mut self, command: &vr::Command) {
        if let (Some(name), Some(alias)) = (&command.name, &command.alias) {
            self.aliases.push((name.clone(), alias.clone()));
            return;
        }
        let mut out = RawCommand {
            proto: Decl::default(),
            params: Vec::new(),
        };
        for content in &command.contents {
            match content {
                vr::CommandContent::Proto(p) => out.proto = proto(p),
                vr::CommandContent::Param(p) if speaks_vulkan(&p.api) => out.params.push(param(p)),
                _ => {}
            }
        }
        if !self.commands.iter().any(|c| c.proto.name == out.proto.name) {
            self.commands.push(out);
        }
    }
}

/// Pieces of a declarator in the order they are written.
enum Piece<'a> {
    Text(&'a str),
    Type(&'a str),
    Name(&'a str),
    Constant(&'a str),
}

fn declarator<'a>(pieces: impl Iterator<Item = Piece<'a>>) -> Decl {
    let mut decl = Decl::default();
    let mut before = String::new();
    let mut between = String::new();
    let mut after = String::new();
    for piece in pieces {
        match piece {
            Piece::Type(t) => decl.base = t.to_owned(),
            Piece::Name(n) => decl.name = n.to_owned(),
            Piece::Constant(c) => after += c,
            Piece::Text(t) if decl.base.is_empty() => before += t,
            Piece::Text(t) if decl.name.is_empty() => between += t,
            Piece::Text(t) => after += t,
        }
    }
    decl.konst = before.contains("const");
    decl.ptr = between.matches('*').count();
    if let Some(bits) = after.trim().strip_prefix(':') {
        decl.bits = Some(bits.trim().parse().expect("bit-field width"));
    } else {
        decl.dims = after
            .split(['[', ']'])
            .map(str::trim)
            .filter(|s| !s.is_empty() && *s != ",")
            .map(str::to_owned)
            .collect();
    }
    decl
}

/// Attribute `optional` speaks of the pointer first, then of what it points to.
fn nullable(decl: &Decl, optional: Option<&str>, noautovalidity: Option<&str>) -> bool {
    let level = usize::from(decl.ptr > 0);
    let says = optional.and_then(|o| o.split(',').nth(level));
    noautovalidity.is_some() || says == Some("true")
}

fn member(m: &vr::Member) -> Decl {
    let mut decl = declarator(m.contents.iter().filter_map(|c| {
        Some(match c {
            vr::MemberContent::Text(t) => Piece::Text(t),
            vr::MemberContent::Type(t) => Piece::Type(t),
            vr::MemberContent::Name(t) => Piece::Name(t),
            vr::MemberContent::Enum(t) => Piece::Constant(t),
            vr::MemberContent::Comment(_) => return None,
        })
    }));
    decl.len = m.len.clone();
    decl.altlen = m.altlen.clone();
    decl.optional = m.optional.is_some() || m.noautovalidity.is_some();
    decl.nullable = nullable(&decl, m.optional.as_deref(), m.noautovalidity.as_deref());
    decl.values = m.values.clone();
    decl.selector = m.selector.clone();
    decl.selection = m.selection.clone();
    decl
}

fn param(p: &vr::Param) -> Decl {
    let mut decl = declarator(p.contents.iter().map(|c| match c {
        vr::ParamContent::Text(t) => Piece::Text(t),
        vr::ParamContent::Type(t) => Piece::Type(t),
        vr::ParamContent::Name(t) => Piece::Name(t),
    }));
    decl.len = p.len.clone();
    decl.altlen = p.altlen.clone();
    decl.optional = p.optional.is_some() || p.noautovalidity.is_some();
    decl.nullable = nullable(&decl, p.optional.as_deref(), p.noautovalidity.as_deref());
    decl.needed = p
        .optional
        .as_deref()
        .is_some_and(|o| o.starts_with("false,"));
    // An array parameter is a pointer in C.
    if !decl.dims.is_empty() {
        decl.len = Some(decl.dims.join("*"));
        decl.dims.clear();
        decl.ptr += 1;
    }
    decl
}

fn proto(p: &vr::Proto) -> Decl {
    declarator(p.contents.iter().map(|c| match c {
        vr::ProtoContent::Text(t) => Piece::Text(t),
        vr::ProtoContent::Type(t) => Piece::Type(t),
        vr::ProtoContent::Name(t) => Piece::Name(t),
    }))
}

fn format(f: &vr::Format) -> RawFormat {
    let number = |text: &Option<String>| text.as_deref().and_then(|t| t.trim().parse().ok());
    let mut format = RawFormat {
        name: f.name.clone().unwrap_or_default(),
        size: number(&f.block_size).unwrap_or(0),
        extent: [1; 3],
        ..RawFormat::default()
    };
    let texels = f.block_extent.as_deref().unwrap_or_default().split(',');
    for (to, from) in format.extent.iter_mut().zip(texels) {
        *to = from.trim().parse().unwrap_or(1);
    }
    for content in &f.contents {
        match content {
            vr::FormatContent::Component(c) => {
                (format.components).push((c.name.clone().unwrap_or_default(), number(&c.bits)))
            }
            vr::FormatContent::Plane(p) => {
                let divisors = [&p.width_divisor, &p.height_divisor];
                format.planes.push((
                    p.compatible.clone().unwrap_or_default(),
                    divisors.map(|d| number(d).unwrap_or(1)),
                ));
            }
            vr::FormatContent::SpirvImageFormat(_) => {}
        }
    }
    format
}
