//! The policy: wire facts as data, read from `policy/*.toml`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    not_optional: Vec<Items>,
    #[serde(default)]
    optional: Vec<Items>,
    #[serde(default)]
    pointee: Vec<Pointee>,
    #[serde(default)]
    only_if: Vec<OnlyIf>,
    #[serde(default)]
    prefix: Vec<Prefix>,
    #[serde(default)]
    body_if: Vec<BodyIf>,
    #[serde(default)]
    union_first: Vec<Items>,
    #[serde(default)]
    lenient: Vec<Items>,
    #[serde(default)]
    ignorable: Vec<Items>,
    #[serde(default)]
    legacy_stype: Vec<LegacyStype>,
    #[serde(default)]
    external: Vec<External>,
    #[serde(default)]
    double_pointer: Vec<Items>,
    #[serde(default)]
    pointers: Vec<Pointers>,
    #[serde(default)]
    length: Vec<Length>,
    #[serde(default)]
    opaque: Vec<Items>,
    #[serde(default)]
    single_byte: Vec<Items>,
    #[serde(default)]
    nullable: Vec<Items>,
    #[serde(default)]
    unknown_length: Vec<Items>,
    #[serde(default)]
    drop: Vec<Items>,
    #[serde(default)]
    refuse: Vec<Items>,
    #[serde(default)]
    hide_extension: Vec<Hidden>,
    #[serde(default)]
    hide_feature: Vec<Hidden>,
    #[serde(default)]
    serve: Vec<Items>,
    #[serde(default)]
    needs_dma_buf: Vec<Items>,
    #[serde(default)]
    upstream: Vec<Items>,
    #[serde(default)]
    create_ahead: Vec<Items>,
    #[serde(default)]
    absent: Vec<Items>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Items {
    items: Vec<String>,
    why: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hidden {
    items: Vec<String>,
    #[serde(default)]
    unless: Option<String>,
    why: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pointee {
    items: Vec<String>,
    #[serde(rename = "type")]
    base: String,
    why: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pointers {
    items: Vec<String>,
    each: String,
    why: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Length {
    item: String,
    field: String,
    why: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Prefix {
    item: String,
    words: Vec<String>,
    why: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BodyIf {
    items: Vec<String>,
    word: String,
    why: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LegacyStype {
    root: String,
    map: BTreeMap<String, String>,
    why: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct External {
    #[serde(default)]
    opaque: Vec<String>,
    #[serde(default)]
    pointers: Vec<String>,
    #[serde(default)]
    u32s: Vec<String>,
    #[serde(default)]
    u64s: Vec<String>,
    #[serde(default)]
    words6: Vec<String>,
    why: String,
}

/// When a pointer's body is on the wire.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OnlyIf {
    /// `VkFoo.member`.
    pub item: String,
    /// The member that decides.
    pub field: String,
    /// One of these values.
    #[serde(default, rename = "in")]
    pub one_of: Vec<String>,
    /// This bit is clear.
    #[serde(default)]
    pub without: Option<String>,
    /// The reason.
    pub why: String,
}

/// Why guests do not see something.
#[derive(Clone, Debug)]
pub struct Hiding {
    /// Those that use this feature of Asgard's own part of the wire see it all the same.
    pub unless: Option<String>,
    /// The reason.
    pub why: String,
}

/// Everything the registries do not say.
#[derive(Debug, Default)]
pub struct Policy {
    /// `VkFoo.member` or `vkFoo.param`: sent without flag bytes.
    pub not_optional: BTreeMap<String, String>,
    /// `VkFoo.member` or `vkFoo.param`: sent with flag bytes.
    pub optional: BTreeMap<String, String>,
    /// `VkFoo.member`: points to another type than the registry says.
    pub pointees: BTreeMap<String, (String, String)>,
    /// `VkFoo.member`: body only under a condition.
    pub only_if: BTreeMap<String, OnlyIf>,
    /// Struct: derived words before its first member.
    pub prefix: BTreeMap<String, (Vec<String>, String)>,
    /// `VkFoo.member`: body only when that prefix word is set.
    pub body_if: BTreeMap<String, (String, String)>,
    /// Unions sent as their first member although a selector is there.
    pub union_first: BTreeMap<String, String>,
    /// Handles that become null when stale.
    pub lenient: BTreeMap<String, String>,
    /// Handles that may be garbage where they are ignored, and then become null.
    pub ignorable: BTreeMap<String, String>,
    /// Root struct -> (old sType, struct).
    pub legacy_stypes: Vec<(String, i64, String)>,
    /// Platform type -> its Rust spelling; none when only pointers to it exist.
    pub externals: BTreeMap<String, (Option<&'static str>, String)>,
    /// Pointers to pointers that send nothing.
    pub double_pointers: BTreeMap<String, String>,
    /// Lists of pointers: how much each points to, `1` or `pSibling[].member`.
    pub pointers: BTreeMap<String, (String, String)>,
    /// Pointers whose length is a sibling that the registry does not name.
    pub lengths: BTreeMap<String, (String, String)>,
    /// Pointers that nobody follows: their values are sent.
    pub opaque: BTreeMap<String, String>,
    /// Pointers without a length: one byte is sent.
    pub single_bytes: BTreeMap<String, String>,
    /// Handles that may be null although the registry says otherwise.
    pub nullable: BTreeMap<String, String>,
    /// Pointers whose length no sibling gives.
    pub unknown_lengths: BTreeMap<String, String>,
    /// Structs left out of the host driver's chains.
    pub drops: BTreeMap<String, String>,
    /// Commands that end the context.
    pub refusals: BTreeMap<String, String>,
    /// Commands that the guest driver serves by itself, refused by the host though they are.
    pub guest_serves: BTreeMap<String, String>,
    /// Creations that the guest driver need not wait for.
    pub creations_ahead: BTreeMap<String, String>,
    /// Commands that the guest driver answers with `VK_ERROR_FEATURE_NOT_PRESENT`.
    pub guest_absent: BTreeMap<String, String>,
    /// Device extensions that guests do not see.
    pub hidden_extensions: BTreeMap<String, Hiding>,
    /// Device extensions that the guest driver shows only where memory is exported as dma-bufs.
    pub needs_dma_buf: BTreeMap<String, String>,
    /// `VkFooFeatures.member`: features that guests do not see.
    pub hidden_features: BTreeMap<String, Hiding>,
    /// What upstream's host knows: versions, extensions, single commands and structs.
    pub upstream: BTreeMap<String, String>,
    used: std::cell::RefCell<BTreeSet<String>>,
}

impl Policy {
    /// Reads every policy file.
    ///
    /// # Errors
    /// A file that is not TOML of this form, or an item that is named twice.
    pub fn load() -> Result<Self> {
        let mut policy = Self::default();
        for (name, text) in [
            ("policy/vulkan.toml", include_str!("../policy/vulkan.toml")),
            ("policy/host.toml", include_str!("../policy/host.toml")),
            ("policy/guest.toml", include_str!("../policy/guest.toml")),
            (
                "policy/upstream.toml",
                include_str!("../policy/upstream.toml"),
            ),
        ] {
            let file: File = toml::from_str(text).with_context(|| name.to_owned())?;
            policy.add(file).with_context(|| name.to_owned())?;
        }
        Ok(policy)
    }

    fn add(&mut self, file: File) -> Result<()> {
        fn all(to: &mut BTreeMap<String, String>, from: Vec<Items>) -> Result<()> {
            for Items { items, why } in from {
                for item in items {
                    if to.insert(item.clone(), why.clone()).is_some() {
                        bail!("{item} is listed twice");
                    }
                }
            }
            Ok(())
        }
        all(&mut self.not_optional, file.not_optional)?;
        all(&mut self.optional, file.optional)?;
        for (to, from) in [
            (&mut self.hidden_extensions, file.hide_extension),
            (&mut self.hidden_features, file.hide_feature),
        ] {
            for Hidden { items, unless, why } in from {
                for item in items {
                    let (unless, why) = (unless.clone(), why.clone());
                    if to.insert(item.clone(), Hiding { unless, why }).is_some() {
                        bail!("{item} is listed twice");
                    }
                }
            }
        }
        for p in file.pointee {
            for item in p.items {
                self.pointees.insert(item, (p.base.clone(), p.why.clone()));
            }
        }
        for p in file.pointers {
            for item in p.items {
                self.pointers.insert(item, (p.each.clone(), p.why.clone()));
            }
        }
        self.lengths
            .extend(file.length.into_iter().map(|l| (l.item, (l.field, l.why))));
        all(&mut self.opaque, file.opaque)?;
        all(&mut self.single_bytes, file.single_byte)?;
        all(&mut self.nullable, file.nullable)?;
        all(&mut self.union_first, file.union_first)?;
        all(&mut self.lenient, file.lenient)?;
        all(&mut self.ignorable, file.ignorable)?;
        all(&mut self.double_pointers, file.double_pointer)?;
        all(&mut self.unknown_lengths, file.unknown_length)?;
        all(&mut self.drops, file.drop)?;
        all(&mut self.guest_serves, file.serve)?;
        all(&mut self.needs_dma_buf, file.needs_dma_buf)?;
        all(&mut self.creations_ahead, file.create_ahead)?;
        all(&mut self.guest_absent, file.absent)?;
        all(&mut self.refusals, file.refuse)?;
        all(&mut self.upstream, file.upstream)?;
        self.only_if
            .extend(file.only_if.into_iter().map(|o| (o.item.clone(), o)));
        self.prefix
            .extend(file.prefix.into_iter().map(|p| (p.item, (p.words, p.why))));
        for b in file.body_if {
            for item in b.items {
                self.body_if.insert(item, (b.word.clone(), b.why.clone()));
            }
        }
        for l in file.legacy_stype {
            assert!(!l.why.is_empty());
            for (old, name) in l.map {
                self.legacy_stypes
                    .push((l.root.clone(), old.parse()?, name));
            }
        }
        for e in file.external {
            let kinds: [(&Vec<String>, Option<&'static str>); 5] = [
                (&e.opaque, None),
                (&e.pointers, Some("*mut c_void")),
                (&e.u32s, Some("u32")),
                (&e.u64s, Some("u64")),
                (&e.words6, Some("[u64; 6]")),
            ];
            for (names, rust) in kinds {
                for name in names {
                    self.externals.insert(name.clone(), (rust, e.why.clone()));
                }
            }
        }
        Ok(())
    }

    /// Notes that a line was of use.
    pub fn used(&self, item: &str) {
        self.used.borrow_mut().insert(item.to_owned());
    }

    /// Fails on lines that matched nothing: stale policy does not survive a new registry.
    ///
    /// # Errors
    /// Names the first stale line.
    pub fn check_all_used(&self) -> Result<()> {
        let used = self.used.borrow();
        let lists = [
            self.not_optional.keys().collect::<Vec<_>>(),
            self.optional.keys().collect(),
            self.pointees.keys().collect(),
            self.only_if.keys().collect(),
            self.prefix.keys().collect(),
            self.body_if.keys().collect(),
            self.union_first.keys().collect(),
            self.lenient.keys().collect(),
            self.ignorable.keys().collect(),
            self.double_pointers.keys().collect(),
            self.pointers.keys().collect(),
            self.lengths.keys().collect(),
            self.opaque.keys().collect(),
            self.single_bytes.keys().collect(),
            self.nullable.keys().collect(),
            self.unknown_lengths.keys().collect(),
            self.drops.keys().collect(),
            self.refusals.keys().collect(),
            self.hidden_extensions.keys().collect(),
            self.hidden_features.keys().collect(),
            self.guest_serves.keys().collect(),
            self.needs_dma_buf.keys().collect(),
            self.upstream.keys().collect(),
            self.creations_ahead.keys().collect(),
            self.guest_absent.keys().collect(),
        ];
        let stale: Vec<_> = lists
            .into_iter()
            .flatten()
            .filter(|i| !used.contains(*i))
            .collect();
        if !stale.is_empty() {
            bail!("policy lines that match nothing in the registries: {stale:?}");
        }
        Ok(())
    }
}
