//! Descriptor pools: the guest keeps their books, and does not wait for a set that a driver must give.
//!
//! A driver must not fail for want of room in a pool of which nothing was freed since it was made or reset,
//! or whose sets since then all had the same descriptors, as the new one has (Vulkan,
//! `vkAllocateDescriptorSets`). In all other cases, "fragmented" and "out of pool memory" are answers.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::*;
use crate::process::Process;
use crate::vulkan::device::device;

/// How many descriptors of each type: of a set, or of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Counts {
    /// For inline uniform blocks, bytes. Each type once, in the order of their numbers.
    types: Vec<(VkDescriptorType, u32)>,
    /// Bindings of inline uniform blocks.
    blocks: u32,
}

impl Counts {
    fn add(&mut self, kind: VkDescriptorType, n: u32) {
        if n == 0 {
            return;
        }
        match self.types.binary_search_by_key(&kind, |(kind, _)| *kind) {
            Ok(i) => self.types[i].1 = self.types[i].1.saturating_add(n),
            Err(i) => self.types.insert(i, (kind, n)),
        }
    }

    fn of(&self, kind: VkDescriptorType) -> u32 {
        let found = self.types.binary_search_by_key(&kind, |(kind, _)| *kind);
        found.map_or(0, |i| self.types[i].1)
    }

    /// Adds another's.
    fn give(&mut self, other: &Self) {
        for (kind, n) in &other.types {
            self.add(*kind, *n);
        }
        self.blocks = self.blocks.saturating_add(other.blocks);
    }

    /// Takes another's away, which are among these.
    fn take(&mut self, other: &Self) {
        for (kind, n) in &other.types {
            if let Ok(i) = self.types.binary_search_by_key(kind, |(kind, _)| *kind) {
                self.types[i].1 -= n;
            }
        }
        self.blocks -= other.blocks;
    }

    /// All of them are among another's.
    fn fit(&self, room: &Self) -> bool {
        self.blocks <= room.blocks && self.types.iter().all(|(kind, n)| *n <= room.of(*kind))
    }
}

/// What sets of a layout need.
#[derive(Clone, Debug)]
pub(super) struct Need {
    /// Without the binding of a variable number of descriptors.
    counts: Arc<Counts>,
    /// Its type, if there is one.
    variable: Option<VkDescriptorType>,
}

impl Need {
    /// What sets of a new layout need; none if it cannot be told.
    ///
    /// # Safety
    /// The create-info and its chain are valid.
    unsafe fn of(info: &VkDescriptorSetLayoutCreateInfo) -> Option<Self> {
        if info.flags & !VK_DESCRIPTOR_SET_LAYOUT_CREATE_UPDATE_AFTER_BIND_POOL_BIT != 0 {
            return None;
        }
        // SAFETY: the caller's promise.
        let (bindings, flags) = unsafe {
            let flags = match info
                .pNext
                .cast::<VkDescriptorSetLayoutBindingFlagsCreateInfo>()
                .as_ref()
            {
                None => &[],
                Some(f)
                    if f.sType
                        == VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_BINDING_FLAGS_CREATE_INFO
                        && f.pNext.is_null() =>
                {
                    slice(f.pBindingFlags, f.bindingCount)
                }
                Some(_) => return None,
            };
            (slice(info.pBindings, info.bindingCount), flags)
        };
        let mut counts = Counts::default();
        let mut variable = None;
        for (i, binding) in bindings.iter().enumerate() {
            let kind = binding.descriptorType;
            let immutable = !binding.pImmutableSamplers.is_null();
            if !countable(kind)
                // A sampler that converts may take several descriptors.
                || kind == VK_DESCRIPTOR_TYPE_COMBINED_IMAGE_SAMPLER && immutable
            {
                return None;
            }
            if kind == VK_DESCRIPTOR_TYPE_INLINE_UNIFORM_BLOCK && binding.descriptorCount > 0 {
                counts.blocks += 1;
            }
            let flags = flags.get(i).copied().unwrap_or(0);
            if flags & VK_DESCRIPTOR_BINDING_VARIABLE_DESCRIPTOR_COUNT_BIT == 0 {
                counts.add(kind, binding.descriptorCount);
            } else {
                variable = Some(kind);
            }
        }
        let counts = Arc::new(counts);
        Some(Self { counts, variable })
    }

    /// What a set needs, of this variable number of descriptors.
    fn with(&self, variable: u32) -> Arc<Counts> {
        match self.variable {
            Some(kind) if variable > 0 => {
                let mut counts = Counts::clone(&self.counts);
                counts.add(kind, variable);
                Arc::new(counts)
            }
            _ => Arc::clone(&self.counts),
        }
    }
}

/// What takes a pool's room is what its number says.
fn countable(kind: VkDescriptorType) -> bool {
    (VK_DESCRIPTOR_TYPE_SAMPLER..=VK_DESCRIPTOR_TYPE_INPUT_ATTACHMENT).contains(&kind)
        || kind == VK_DESCRIPTOR_TYPE_INLINE_UNIFORM_BLOCK
        || kind == VK_DESCRIPTOR_TYPE_ACCELERATION_STRUCTURE_KHR
}

/// An array of the application's.
///
/// # Safety
/// The pointer is null or has `n` elements.
unsafe fn slice<'a, T>(p: *const T, n: u32) -> &'a [T] {
    if p.is_null() || n == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(p, n as usize) }
}

#[derive(Debug, Default)]
struct Pool {
    /// All its room; none if its use cannot be told.
    room: Option<Counts>,
    max_sets: u32,
    used: Counts,
    /// Its sets by token, each with what it needs.
    sets: HashMap<u64, Arc<Counts>>,
    /// Since it was made or reset, sets were freed.
    freed: bool,
    /// Since then, all sets needed this; none if they differ.
    alike: Option<Arc<Counts>>,
    /// Since then, there was none.
    fresh: bool,
}

impl Pool {
    /// # Safety
    /// The create-info and its chain are valid.
    unsafe fn new(info: &VkDescriptorPoolCreateInfo) -> Self {
        let plain = VK_DESCRIPTOR_POOL_CREATE_FREE_DESCRIPTOR_SET_BIT
            | VK_DESCRIPTOR_POOL_CREATE_UPDATE_AFTER_BIND_BIT;
        let mut room = Counts::default();
        let mut known = info.flags & !plain == 0;
        // SAFETY: the caller's promise.
        unsafe {
            for size in slice(info.pPoolSizes, info.poolSizeCount) {
                known &= countable(size.r#type);
                room.add(size.r#type, size.descriptorCount);
            }
            let next = info
                .pNext
                .cast::<VkDescriptorPoolInlineUniformBlockCreateInfo>();
            if let Some(next) = next.as_ref() {
                known &= next.sType
                    == VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_INLINE_UNIFORM_BLOCK_CREATE_INFO
                    && next.pNext.is_null();
                if known {
                    room.blocks = next.maxInlineUniformBlockBindings;
                }
            }
        }
        Self {
            room: known.then_some(room),
            max_sets: info.maxSets,
            fresh: true,
            ..Self::default()
        }
    }

    /// A driver must have room for sets that need this.
    fn must_fit(&self, sets: &[Arc<Counts>]) -> bool {
        let Some(room) = &self.room else {
            return false;
        };
        if self.freed {
            let alike = |set| self.alike.as_ref() == Some(set);
            if !sets.iter().all(alike) {
                return false;
            }
        }
        let mut used = self.used.clone();
        sets.iter().for_each(|set| used.give(set));
        self.sets.len() + sets.len() <= self.max_sets as usize && used.fit(room)
    }

    fn allocated(&mut self, tokens: &[VkDescriptorSet], sets: Vec<Arc<Counts>>) {
        for (token, counts) in tokens.iter().zip(sets) {
            self.used.give(&counts);
            if self.fresh {
                self.alike = Some(Arc::clone(&counts));
                self.fresh = false;
            } else if self.alike.as_ref() != Some(&counts) {
                self.alike = None;
            }
            self.sets.insert(token.0, counts);
        }
    }

    /// True if the set was one of this pool.
    fn free(&mut self, token: u64) -> bool {
        let Some(counts) = self.sets.remove(&token) else {
            return false;
        };
        self.used.take(&counts);
        self.freed = true;
        true
    }

    /// Empties it; the sets that it had.
    fn reset(&mut self) -> Vec<u64> {
        self.used = Counts::default();
        (self.freed, self.alike, self.fresh) = (false, None, true);
        self.sets.drain().map(|(token, _)| token).collect()
    }
}

/// The descriptor pools of a device and the layouts of their sets, by token.
#[derive(Debug, Default)]
pub(super) struct Books {
    pools: Mutex<HashMap<u64, Pool>>,
    layouts: Mutex<HashMap<u64, Need>>,
}

impl Books {
    /// There is a new layout.
    ///
    /// # Safety
    /// The create-info and its chain are valid.
    pub(super) unsafe fn layout_created(&self, token: u64, info: &VkDescriptorSetLayoutCreateInfo) {
        // SAFETY: the caller's promise.
        if let Some(need) = unsafe { Need::of(info) } {
            self.layouts.lock().insert(token, need);
        }
    }

    /// The layout is about to be destroyed.
    pub(super) fn layout_destroyed(&self, token: u64) {
        self.layouts.lock().remove(&token);
    }

    /// What each of these sets needs; none if that cannot be told.
    ///
    /// # Safety
    /// The struct and its chain are valid.
    unsafe fn needs(&self, info: &VkDescriptorSetAllocateInfo) -> Option<Vec<Arc<Counts>>> {
        // SAFETY: the caller's promise.
        let (layouts, variable) = unsafe {
            let next = info
                .pNext
                .cast::<VkDescriptorSetVariableDescriptorCountAllocateInfo>();
            let variable = match next.as_ref() {
                None => &[],
                Some(v)
                    if v.sType
                        == VK_STRUCTURE_TYPE_DESCRIPTOR_SET_VARIABLE_DESCRIPTOR_COUNT_ALLOCATE_INFO
                        && v.pNext.is_null() =>
                {
                    slice(v.pDescriptorCounts, v.descriptorSetCount)
                }
                Some(_) => return None,
            };
            (slice(info.pSetLayouts, info.descriptorSetCount), variable)
        };
        let known = self.layouts.lock();
        let each = layouts.iter().enumerate();
        each.map(|(i, layout)| {
            let variable = variable.get(i).copied().unwrap_or(0);
            Some(known.get(&layout.0)?.with(variable))
        })
        .collect()
    }
}

/// `vkAllocateDescriptorSets`.
pub(super) fn allocate(c: &mut p::vkAllocateDescriptorSets) -> VkResult {
    // SAFETY: the application passes a live device, a struct with its chain, and room for as many handles.
    unsafe {
        let info = *c.pAllocateInfo;
        let n = info.descriptorSetCount;
        let books = &device(c.device).books;
        let needs = books.needs(&info);
        let sure = {
            let pools = books.pools.lock();
            let pool = pools.get(&info.descriptorPool.0);
            let fits = |(pool, needs): (&Pool, &Vec<_>)| pool.must_fit(needs);
            pool.zip(needs.as_ref()).is_some_and(fits)
        };
        let ret = if sure {
            Driver.create(c, Kind::DescriptorSet, c.pDescriptorSets.cast(), n as usize)
        } else {
            Driver.call(c)
        };
        if ret == VK_SUCCESS
            && let Some(pool) = books.pools.lock().get_mut(&info.descriptorPool.0)
        {
            match needs {
                Some(needs) => pool.allocated(slice(c.pDescriptorSets, n), needs),
                // From here on nobody knows how much room there is.
                None => pool.room = None,
            }
        }
        ret
    }
}

impl DescriptorSetLayoutCommands for Driver {
    fn vkCreateDescriptorSetLayout(&self, c: &mut p::vkCreateDescriptorSetLayout) -> VkResult {
        let made = c.pSetLayout.cast::<u64>();
        let ret = self.create(c, Kind::DescriptorSetLayout, made, 1);
        if ret == VK_SUCCESS {
            // SAFETY: the application passes a live device and a struct with its chain, and has a handle now.
            unsafe {
                let books = &device(c.device).books;
                books.layout_created(*made, &*c.pCreateInfo);
            }
        }
        ret
    }

    fn vkDestroyDescriptorSetLayout(&self, c: &mut p::vkDestroyDescriptorSetLayout) {
        let gone = c.descriptorSetLayout.0;
        // SAFETY: the application passes a live device.
        unsafe { device(c.device) }.books.layout_destroyed(gone);
        self.destroy(c, gone);
    }
}

impl DescriptorPoolCommands for Driver {
    fn vkCreateDescriptorPool(&self, c: &mut p::vkCreateDescriptorPool) -> VkResult {
        let made = c.pDescriptorPool.cast::<u64>();
        let ret = self.create(c, Kind::DescriptorPool, made, 1);
        if ret == VK_SUCCESS {
            // SAFETY: the application passes a live device and a struct with its chain, and has a handle now.
            unsafe {
                let pool = Pool::new(&*c.pCreateInfo);
                device(c.device).books.pools.lock().insert(*made, pool);
            }
        }
        ret
    }

    fn vkDestroyDescriptorPool(&self, c: &mut p::vkDestroyDescriptorPool) {
        let gone = c.descriptorPool.0;
        // SAFETY: the application passes a live device.
        let pool = unsafe { device(c.device) }.books.pools.lock().remove(&gone);
        self.destroy(c, gone);
        let sets = pool.into_iter().flat_map(|pool| pool.sets);
        sets.for_each(|(token, _)| Process::give_back(token));
    }

    fn vkResetDescriptorPool(&self, c: &mut p::vkResetDescriptorPool) -> VkResult {
        // SAFETY: the application passes a live device.
        let pools = unsafe { &device(c.device).books.pools };
        let sets = pools
            .lock()
            .get_mut(&c.descriptorPool.0)
            .map(Pool::reset)
            .unwrap_or_default();
        let ret = self.tell(c);
        sets.into_iter().for_each(Process::give_back);
        ret
    }

    fn vkFreeDescriptorSets(&self, c: &mut p::vkFreeDescriptorSets) -> VkResult {
        // SAFETY: the application passes a live device, and as many handles as it says.
        let (books, sets) = unsafe {
            let sets = slice(c.pDescriptorSets, c.descriptorSetCount);
            (&device(c.device).books, sets)
        };
        let mut freed = Vec::new();
        if let Some(pool) = books.pools.lock().get_mut(&c.descriptorPool.0) {
            let tokens = sets.iter().map(|set| set.0);
            freed.extend(tokens.filter(|token| pool.free(*token)));
        }
        let ret = self.tell(c);
        freed.into_iter().for_each(Process::give_back);
        ret
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIFORM: VkDescriptorType = VK_DESCRIPTOR_TYPE_UNIFORM_BUFFER;
    const STORAGE: VkDescriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER;
    const BLOCK: VkDescriptorType = VK_DESCRIPTOR_TYPE_INLINE_UNIFORM_BLOCK;

    fn need(types: &[(VkDescriptorType, u32)]) -> Arc<Counts> {
        let mut counts = Counts::default();
        types.iter().for_each(|(kind, n)| counts.add(*kind, *n));
        Arc::new(counts)
    }

    fn pool(max_sets: u32, types: &[(VkDescriptorType, u32)]) -> Pool {
        Pool {
            room: Some(Counts::clone(&need(types))),
            max_sets,
            fresh: true,
            ..Pool::default()
        }
    }

    /// Whether a set fits for certain, which is then allocated.
    fn add(pool: &mut Pool, token: u64, counts: &Arc<Counts>) -> bool {
        let fits = pool.must_fit(&[Arc::clone(counts)]);
        if fits {
            pool.allocated(&[VkDescriptorSet(token)], vec![Arc::clone(counts)]);
        }
        fits
    }

    #[test]
    fn a_pool_gives_what_it_has() {
        let mut pool = pool(3, &[(UNIFORM, 3), (STORAGE, 4), (STORAGE, 1)]);
        let (small, large) = (need(&[(STORAGE, 2), (UNIFORM, 1)]), need(&[(STORAGE, 6)]));
        assert!(!add(&mut pool, 1, &large));
        assert!(!add(
            &mut pool,
            1,
            &need(&[(VK_DESCRIPTOR_TYPE_SAMPLER, 1)])
        ));
        assert!(add(&mut pool, 1, &small) && add(&mut pool, 2, &small));
        assert!(!add(&mut pool, 3, &small), "one storage buffer is left");
        assert!(add(&mut pool, 3, &need(&[])));
        assert!(!add(&mut pool, 4, &need(&[])), "three sets are there");
        assert!(!pool.must_fit(&[need(&[(STORAGE, u32::MAX)])]));
        let two = [need(&[]), need(&[])];
        assert_eq!(pool.reset().len(), 3);
        assert!(pool.must_fit(&two));
    }

    #[test]
    fn after_frees_only_sets_like_all_others_are_certain() {
        let (one, two) = (need(&[(UNIFORM, 1)]), need(&[(UNIFORM, 2)]));
        let mut pool = pool(10, &[(UNIFORM, 10)]);
        for token in 0..10 {
            assert!(add(&mut pool, token, &one));
        }
        assert!(!add(&mut pool, 10, &one));
        assert!(pool.free(3) && !pool.free(3) && pool.free(4) && pool.free(5));
        assert!(add(&mut pool, 10, &one));
        assert!(
            !pool.must_fit(&[Arc::clone(&two)]),
            "there may be no such gap"
        );
        pool.reset();
        assert!(add(&mut pool, 0, &one) && add(&mut pool, 1, &two));
        assert!(add(&mut pool, 2, &one), "nothing was freed");
        pool.free(0);
        assert!(!add(&mut pool, 3, &one) && !add(&mut pool, 3, &two));
    }

    #[test]
    fn pools_that_cannot_be_counted_are_asked() {
        let sizes = |kind| VkDescriptorPoolSize {
            r#type: kind,
            descriptorCount: 8,
        };
        let info =
            |flags, next: *const c_void, size: &VkDescriptorPoolSize| VkDescriptorPoolCreateInfo {
                flags,
                pNext: next,
                maxSets: 4,
                poolSizeCount: 1,
                pPoolSizes: size,
                ..zeroed()
            };
        let blocks = VkDescriptorPoolInlineUniformBlockCreateInfo {
            sType: VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_INLINE_UNIFORM_BLOCK_CREATE_INFO,
            maxInlineUniformBlockBindings: 1,
            ..zeroed()
        };
        let mutable = VkMutableDescriptorTypeCreateInfoEXT {
            sType: VK_STRUCTURE_TYPE_MUTABLE_DESCRIPTOR_TYPE_CREATE_INFO_EXT,
            ..zeroed()
        };
        let null = std::ptr::null();
        // SAFETY: the structs are valid.
        let fits = |flags, next, kind, counts: &Arc<Counts>| unsafe {
            Pool::new(&info(flags, next, &sizes(kind))).must_fit(&[Arc::clone(counts)])
        };
        let uniform = need(&[(UNIFORM, 8)]);
        let free = VK_DESCRIPTOR_POOL_CREATE_FREE_DESCRIPTOR_SET_BIT;
        assert!(fits(free, null, UNIFORM, &uniform));
        let host = VK_DESCRIPTOR_POOL_CREATE_HOST_ONLY_BIT_EXT;
        assert!(!fits(host, null, UNIFORM, &uniform));
        assert!(!fits(0, (&raw const mutable).cast(), UNIFORM, &uniform));
        assert!(!fits(0, null, VK_DESCRIPTOR_TYPE_MUTABLE_EXT, &need(&[])));
        let block = Arc::new(Counts {
            blocks: 1,
            ..Counts::clone(&need(&[(BLOCK, 8)]))
        });
        assert!(!fits(0, null, BLOCK, &block), "no bindings of blocks");
        assert!(fits(0, (&raw const blocks).cast(), BLOCK, &block));
    }

    #[test]
    fn layouts_say_what_their_sets_need() {
        let binding = |kind, n, sampler: *const VkSampler| VkDescriptorSetLayoutBinding {
            descriptorType: kind,
            descriptorCount: n,
            pImmutableSamplers: sampler,
            ..zeroed()
        };
        let of = |bindings: &[VkDescriptorSetLayoutBinding], last: u32| {
            let mut flags = vec![0; bindings.len()];
            flags[bindings.len() - 1] = last;
            let flags = VkDescriptorSetLayoutBindingFlagsCreateInfo {
                sType: VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_BINDING_FLAGS_CREATE_INFO,
                bindingCount: flags.len() as u32,
                pBindingFlags: flags.as_ptr(),
                ..zeroed()
            };
            let info = VkDescriptorSetLayoutCreateInfo {
                pNext: (&raw const flags).cast(),
                bindingCount: bindings.len() as u32,
                pBindings: bindings.as_ptr(),
                ..zeroed()
            };
            // SAFETY: the structs are valid.
            unsafe { Need::of(&info) }
        };
        let null = std::ptr::null();
        let all = [
            binding(UNIFORM, 2, null),
            binding(BLOCK, 16, null),
            binding(STORAGE, 5, null),
            binding(UNIFORM, 1, null),
        ];
        let plain = of(&all, 0).unwrap();
        assert_eq!(plain.counts.of(UNIFORM), 3);
        assert_eq!((plain.counts.of(BLOCK), plain.counts.blocks), (16, 1));
        assert_eq!(plain.with(7), plain.counts, "none is variable");
        let variable = of(&all, VK_DESCRIPTOR_BINDING_VARIABLE_DESCRIPTOR_COUNT_BIT).unwrap();
        assert_eq!(variable.with(0).of(UNIFORM), 2);
        assert_eq!(variable.with(9).of(UNIFORM), 11);
        let sampler = VkSampler(1);
        let combined = VK_DESCRIPTOR_TYPE_COMBINED_IMAGE_SAMPLER;
        assert!(of(&[binding(combined, 1, null)], 0).is_some());
        assert!(of(&[binding(combined, 1, &raw const sampler)], 0).is_none());
        assert!(of(&[binding(VK_DESCRIPTOR_TYPE_MUTABLE_EXT, 1, null)], 0).is_none());
    }
}
