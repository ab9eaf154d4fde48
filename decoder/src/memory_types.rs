//! Memory types as guests see them.
//!
//! What a guest can map is memory of ours that the driver imports by address. Drivers that compute on
//! the processor bind only memory of their own sparsely, and have no memory that cannot be mapped.
//! With such a driver each type has a twin that cannot be mapped: its memory is the driver's own, and
//! sparse resources may be bound to that alone (the specification asks for mappable memory of all
//! buffers but sparse ones).

use asgard_protocol::types::*;

/// What mapping adds to a type.
const MAPPED: VkMemoryPropertyFlags = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT
    | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT
    | VK_MEMORY_PROPERTY_HOST_CACHED_BIT;

/// A memory type that guests see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemoryType {
    /// Its number at the driver.
    pub(crate) real: u32,
    /// Its memory is ours, imported by address, so that guests can map it.
    pub(crate) imported: bool,
    /// It has the number of another type, but is not to be mapped.
    twin: bool,
    flags: VkMemoryPropertyFlags,
    heap: u32,
    /// Bytes of its heap: no allocation can be larger.
    pub(crate) most: u64,
}

/// Every memory type that guests see, in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryTypes(Vec<MemoryType>);

impl MemoryTypes {
    /// The types of a driver, of which those in `importable` can be imported; `with_twins` if they are to
    /// have any, should there be a need.
    pub(crate) fn new(
        properties: &VkPhysicalDeviceMemoryProperties,
        importable: u32,
        with_twins: bool,
    ) -> Self {
        let count = properties.memoryTypeCount as usize;
        let real = properties.memoryTypes.iter().take(count).zip(0_u32..);
        let mut all: Vec<MemoryType> = real
            .map(|(t, real)| {
                let can = importable >> real & 1 != 0;
                MemoryType {
                    real,
                    imported: can && t.propertyFlags & VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT != 0,
                    twin: false,
                    // A type that cannot be imported is not shown as mappable.
                    flags: t.propertyFlags & if can { !0 } else { !MAPPED },
                    heap: t.heapIndex,
                    most: (properties.memoryHeaps.get(t.heapIndex as usize)).map_or(0, |h| h.size),
                }
            })
            .collect();
        let room = all.len() * 2 <= properties.memoryTypes.len();
        if with_twins && room && all.iter().all(|t| t.imported) {
            for real in all.clone() {
                let flags = real.flags & !MAPPED;
                // A type comes before those that can more.
                let more = |t: &MemoryType| t.flags & flags == flags && t.flags != flags;
                let place = all.iter().position(more).unwrap_or(all.len());
                let twin = MemoryType {
                    imported: false,
                    twin: true,
                    flags,
                    ..real
                };
                all.insert(place, twin);
            }
        }
        Self(all)
    }

    /// The type that a guest names.
    pub(crate) fn get(&self, index: u32) -> Option<MemoryType> {
        self.0.get(index as usize).copied()
    }

    /// The driver's number of a type whose memory is imported.
    pub(crate) fn importable(&self) -> Option<u32> {
        self.0.iter().find(|t| t.imported).map(|t| t.real)
    }

    /// Capset field `colorBufferMemoryIndex`: the first type of the driver's that is local to the device.
    pub(crate) fn color_buffers(&self) -> u32 {
        let local = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT;
        let mut all = self.0.iter().zip(0..);
        all.find(|(t, _)| !t.twin && t.flags & local != 0)
            .map_or(u32::MAX, |(_, index)| index)
    }

    /// Sparse resources have memory that they can be bound to.
    pub(crate) fn can_be_sparse(&self) -> bool {
        self.0.iter().any(|t| !t.imported)
    }

    /// Imported memory must not be bound sparsely.
    pub(crate) fn has_twins(&self) -> bool {
        self.0.iter().any(|t| t.twin)
    }

    /// Writes the types where the driver has written its own.
    pub(crate) fn show(&self, properties: &mut VkPhysicalDeviceMemoryProperties) {
        properties.memoryTypeCount = self.0.len() as u32;
        for (to, from) in properties.memoryTypes.iter_mut().zip(&self.0) {
            to.propertyFlags = from.flags;
            to.heapIndex = from.heap;
        }
    }

    /// A set of the driver's types, as guests number them.
    pub(crate) fn bits(&self, real: u32) -> u32 {
        self.select(|t| !t.twin && real >> t.real & 1 != 0)
    }

    /// Those of a guest's set of types that sparse resources can be bound to.
    pub(crate) fn sparse_bits(&self, bits: u32) -> u32 {
        if !self.has_twins() {
            return bits;
        }
        let real = |index: u32| self.get(index).map(|t| t.real);
        let asked = |t: &MemoryType| (0..32).any(|i| bits >> i & 1 != 0 && real(i) == Some(t.real));
        self.select(|t| t.twin && asked(t))
    }

    fn select(&self, wanted: impl Fn(&MemoryType) -> bool) -> u32 {
        let all = self.0.iter().zip(0..);
        all.filter(|(t, _)| wanted(t))
            .fold(0, |bits, (_, index)| bits | 1 << index)
    }
}

#[cfg(test)]
mod tests {
    use asgard_protocol::zeroed;

    use super::*;

    const LOCAL: u32 = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT;
    const VISIBLE: u32 = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
    const CACHED: u32 = VK_MEMORY_PROPERTY_HOST_CACHED_BIT;

    fn properties(flags: &[u32]) -> VkPhysicalDeviceMemoryProperties {
        let mut properties: VkPhysicalDeviceMemoryProperties = zeroed();
        properties.memoryTypeCount = flags.len() as u32;
        properties.memoryHeaps[0].size = 1 << 30;
        for (t, flags) in properties.memoryTypes.iter_mut().zip(flags) {
            t.propertyFlags = *flags;
        }
        properties
    }

    fn shown(types: &MemoryTypes) -> Vec<u32> {
        let mut properties = properties(&[]);
        types.show(&mut properties);
        let count = properties.memoryTypeCount as usize;
        let all = properties.memoryTypes.iter().take(count);
        all.map(|t| t.propertyFlags).collect()
    }

    #[test]
    fn sparse_resources_of_a_software_driver_have_memory_that_nobody_can_map() {
        let driver = properties(&[LOCAL | VISIBLE | CACHED]);
        let types = MemoryTypes::new(&driver, 1, true);
        assert_eq!(shown(&types), [LOCAL, LOCAL | VISIBLE | CACHED]);
        assert_eq!((types.bits(1), types.sparse_bits(types.bits(1))), (2, 1));
        assert!(types.can_be_sparse() && types.has_twins());
        assert_eq!(types.color_buffers(), 1);
        let (twin, real) = (types.get(0).unwrap(), types.get(1).unwrap());
        assert_eq!((twin.most, real.most), (1 << 30, 1 << 30));
        assert_eq!((twin.real, twin.imported), (0, false));
        assert_eq!((real.real, real.imported), (0, true));
        assert_eq!(types.get(2), None);
    }

    #[test]
    fn without_twins_nothing_changes_and_nothing_is_sparse() {
        let driver = properties(&[LOCAL | VISIBLE | CACHED]);
        let types = MemoryTypes::new(&driver, 1, false);
        assert_eq!(shown(&types), [LOCAL | VISIBLE | CACHED]);
        assert_eq!((types.bits(1), types.sparse_bits(1)), (1, 1));
        assert!(!types.can_be_sparse());
        assert_eq!(types.color_buffers(), 0);
    }

    #[test]
    fn a_driver_with_memory_that_cannot_be_mapped_needs_no_twins() {
        let driver = properties(&[LOCAL, VISIBLE, LOCAL | VISIBLE]);
        let types = MemoryTypes::new(&driver, 0b010, true);
        assert_eq!(shown(&types), [LOCAL, VISIBLE, LOCAL]);
        assert_eq!(
            (types.bits(0b101), types.sparse_bits(0b101)),
            (0b101, 0b101)
        );
        assert!(types.can_be_sparse() && !types.has_twins());
        assert_eq!(types.importable(), Some(1));
    }

    #[test]
    fn a_type_stands_before_those_that_can_more() {
        let driver = properties(&[
            VISIBLE,
            VISIBLE | CACHED,
            LOCAL | VISIBLE,
            LOCAL | VISIBLE | CACHED,
        ]);
        let types = MemoryTypes::new(&driver, !0, true);
        let flags = shown(&types);
        assert_eq!(flags.len(), 8);
        for (i, x) in flags.iter().enumerate() {
            for y in flags.iter().take(i) {
                assert!(x & y != *x || x == y, "{y:#x} before {x:#x}");
            }
        }
        for real in 0..4 {
            let bits = types.bits(1 << real);
            let sparse = types.sparse_bits(bits);
            assert_eq!(
                (bits.count_ones(), sparse.count_ones(), bits & sparse),
                (1, 1, 0)
            );
            assert_eq!(types.get(bits.trailing_zeros()).unwrap().real, real);
            assert_eq!(types.get(sparse.trailing_zeros()).unwrap().real, real);
        }
        let many = properties(&[VISIBLE; 32]);
        assert!(!MemoryTypes::new(&many, !0, true).can_be_sparse());
    }
}
