//! Descriptors for descriptor buffers: bytes that only the driver can make, asked for once.
//!
//! A descriptor that a driver has made stays good for as long as what it describes lives (Vulkan,
//! "Descriptor Buffers"), so a second question with the same contents gets the same answer.
//! Views and samplers are named by tokens, which are never used again. An address may be, so it counts
//! together with the token of the buffer that lies there.
//! Programs that stream uniforms through a buffer ask for one place after the other: what follows is asked
//! for along with it.

use std::collections::{BTreeMap, HashMap};

use parking_lot::Mutex;

use super::*;
use crate::vulkan::device::device;

/// Descriptors that are remembered; a program that makes more begins again.
const MOST: usize = 1 << 14;

/// Places of buffers that are remembered for [`Trail`]s; beyond that all begin again.
const MOST_TRAILS: usize = 1 << 10;

/// The most descriptors that are asked for along with one, and the bytes that they may have together.
const MOST_AHEAD: u32 = 128;
const MOST_BYTES: usize = 8 << 10;

/// Places that lie farther apart have nothing to do with each other.
const FAR: u64 = 1 << 16;

/// What a descriptor is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    kind: VkDescriptorType,
    /// Bytes of the descriptor.
    size: usize,
    of: Of,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Of {
    /// Null descriptors.
    Nothing,
    Sampler(VkSampler),
    Image(VkSampler, VkImageView, VkImageLayout),
    Place(Place),
}

/// A part of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Place {
    /// The buffer's token.
    buffer: u64,
    address: VkDeviceAddress,
    range: VkDeviceSize,
    format: VkFormat,
}

/// What a program asked for of one kind in one buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Trail {
    /// The last place that had to be asked for.
    last: VkDeviceAddress,
    /// What all distances between them are multiples of; 0 at first.
    unit: u64,
    /// How many were asked for along with it.
    ahead: u32,
}

impl Trail {
    /// A place has to be asked for, in a buffer that ends there: how many of the places behind it, each a
    /// unit after the other, are to be asked for along with it.
    fn follow(&mut self, place: &Place, end: VkDeviceAddress, size: usize) -> u32 {
        let distance = place.address.abs_diff(self.last);
        let forward = place.address > self.last && distance <= FAR;
        if self.last == 0 || distance > FAR {
            *self = Self::default();
        } else {
            self.unit = greatest_common_divisor(self.unit, distance);
            // Where the last ones end or not much later: they were of use.
            let window = self.unit * u64::from(self.ahead + 1);
            self.ahead = match forward {
                true if (window..=2 * window).contains(&distance) => (self.ahead * 2).max(4),
                true => 4,
                false => 0,
            };
        }
        self.last = place.address;
        let room = end
            .saturating_sub(place.address)
            .saturating_sub(place.range);
        let fit = room.checked_div(self.unit).unwrap_or(0);
        let bytes = MOST_BYTES / size.max(1);
        let most = MOST_AHEAD.min(u32::try_from(bytes.min(fit as usize)).unwrap_or(u32::MAX));
        self.ahead = self.ahead.min(most);
        self.ahead
    }
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// A buffer of the application's.
#[derive(Clone, Copy, Debug)]
struct Buffer {
    size: VkDeviceSize,
    /// Once it was asked for.
    address: Option<VkDeviceAddress>,
}

#[derive(Debug, Default)]
struct Buffers {
    /// By token.
    all: HashMap<u64, Buffer>,
    /// The tokens of those whose address is known, by address.
    at: BTreeMap<VkDeviceAddress, u64>,
}

#[derive(Debug, Default)]
struct Known {
    descriptors: HashMap<Key, Box<[u8]>>,
    trails: HashMap<(VkDescriptorType, usize, u64, VkDeviceSize), Trail>,
}

/// The descriptors of a device, and the buffers that they may lie in.
#[derive(Debug, Default)]
pub(super) struct Descriptors {
    buffers: Mutex<Buffers>,
    known: Mutex<Known>,
}

impl Descriptors {
    /// There is a new buffer.
    pub(super) fn buffer_created(&self, token: u64, size: VkDeviceSize) {
        let address = None;
        let mut buffers = self.buffers.lock();
        buffers.all.insert(token, Buffer { size, address });
    }

    /// The buffer is about to be destroyed.
    pub(super) fn buffer_destroyed(&self, token: u64) {
        let mut buffers = self.buffers.lock();
        let gone = buffers.all.remove(&token);
        if let Some(address) = gone.and_then(|buffer| buffer.address)
            && buffers.at.get(&address) == Some(&token)
        {
            buffers.at.remove(&address);
        }
    }

    /// Where a buffer lies, which `ask` knows.
    fn address(&self, token: u64, ask: impl FnOnce() -> VkDeviceAddress) -> VkDeviceAddress {
        let known = |buffers: &Buffers| buffers.all.get(&token)?.address;
        if let Some(address) = known(&self.buffers.lock()) {
            return address;
        }
        let address = ask();
        if address != 0 {
            let mut buffers = self.buffers.lock();
            if let Some(buffer) = buffers.all.get_mut(&token) {
                buffer.address = Some(address);
                buffers.at.insert(address, token);
            }
        }
        address
    }

    /// The buffer that holds a part of memory, and where it ends.
    fn buffer_at(&self, address: VkDeviceAddress, range: VkDeviceSize) -> Option<(u64, u64)> {
        let buffers = self.buffers.lock();
        let (start, token) = buffers.at.range(..=address).next_back()?;
        let end = start.checked_add(buffers.all.get(token)?.size)?;
        (address.checked_add(range)? <= end).then_some((*token, end))
    }

    /// What a descriptor is made of, and where its buffer ends; none if that may mean another thing the
    /// next time.
    ///
    /// # Safety
    /// The struct is valid.
    unsafe fn key(&self, info: &VkDescriptorGetInfoEXT, size: usize) -> Option<(Key, u64)> {
        if !info.pNext.is_null() {
            return None;
        }
        let mut end = 0;
        // SAFETY: the caller's promise: the type says which member is there.
        let of = unsafe {
            match info.r#type {
                VK_DESCRIPTOR_TYPE_SAMPLER => Of::Sampler(*info.data.pSampler),
                VK_DESCRIPTOR_TYPE_COMBINED_IMAGE_SAMPLER => {
                    let image = *info.data.pCombinedImageSampler;
                    Of::Image(image.sampler, image.imageView, image.imageLayout)
                }
                VK_DESCRIPTOR_TYPE_SAMPLED_IMAGE
                | VK_DESCRIPTOR_TYPE_STORAGE_IMAGE
                | VK_DESCRIPTOR_TYPE_INPUT_ATTACHMENT => match info.data.pSampledImage.as_ref() {
                    // Its sampler means nothing.
                    Some(i) => Of::Image(VkSampler(0), i.imageView, i.imageLayout),
                    None => Of::Nothing,
                },
                VK_DESCRIPTOR_TYPE_UNIFORM_TEXEL_BUFFER
                | VK_DESCRIPTOR_TYPE_STORAGE_TEXEL_BUFFER
                | VK_DESCRIPTOR_TYPE_UNIFORM_BUFFER
                | VK_DESCRIPTOR_TYPE_STORAGE_BUFFER => match info.data.pUniformBuffer.as_ref() {
                    Some(part) if part.pNext.is_null() => {
                        let (address, range) = (part.address, part.range);
                        let mut buffer = 0;
                        // Nothing lies at null, whatever the range.
                        if address != 0 {
                            (buffer, end) = self.buffer_at(address, range)?;
                        }
                        Of::Place(Place {
                            buffer,
                            address,
                            range,
                            format: part.format,
                        })
                    }
                    Some(_) => return None,
                    None => Of::Nothing,
                },
                _ => return None,
            }
        };
        let kind = info.r#type;
        Some((Key { kind, size, of }, end))
    }

    /// Writes a descriptor to `to` if it is known. If not: which places to ask for along with it.
    ///
    /// # Safety
    /// `to` has room for it.
    unsafe fn find(&self, key: &Key, end: u64, to: *mut u8) -> Option<Vec<Place>> {
        let known = &mut *self.known.lock();
        if let Some(bytes) = known.descriptors.get(key) {
            // SAFETY: the caller's promise; the size is a part of the key.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
            return None;
        }
        let (
            Of::Place(place),
            VK_DESCRIPTOR_TYPE_UNIFORM_BUFFER | VK_DESCRIPTOR_TYPE_STORAGE_BUFFER,
        ) = (key.of, key.kind)
        else {
            return Some(Vec::new());
        };
        if known.trails.len() >= MOST_TRAILS {
            known.trails.clear();
        }
        let trail = (key.kind, key.size, place.buffer, place.range);
        let trail = known.trails.entry(trail).or_default();
        let ahead = trail.follow(&place, end, key.size);
        let unit = trail.unit;
        let next = (1..=u64::from(ahead)).map(|n| Place {
            address: place.address + n * unit,
            ..place
        });
        let descriptors = &known.descriptors;
        let unknown = |place: &Place| {
            let of = Of::Place(*place);
            !descriptors.contains_key(&Key { of, ..*key })
        };
        Some(next.filter(unknown).collect())
    }

    fn learn(&self, key: Key, bytes: Box<[u8]>) {
        let known = &mut *self.known.lock();
        if known.descriptors.len() >= MOST {
            known.descriptors.clear();
        }
        known.descriptors.insert(key, bytes);
    }
}

/// `vkGetBufferDeviceAddress`.
pub(super) fn address(c: &mut p::vkGetBufferDeviceAddress) -> VkDeviceAddress {
    // SAFETY: the application passes a live device and a struct.
    let (known, buffer) = unsafe { (&device(c.device).descriptors, (*c.pInfo).buffer) };
    known.address(buffer.0, || Driver.call(c))
}

/// `vkGetDescriptorEXT`.
pub(super) fn get(c: &mut p::vkGetDescriptorEXT) {
    let (size, to) = (c.dataSize, c.pDescriptor.cast::<u8>());
    // SAFETY: the application passes a live device, a struct, and room for a descriptor.
    unsafe {
        let known = &device(c.device).descriptors;
        let Some((key, end)) = known.key(&*c.pDescriptorInfo, size) else {
            return Driver.call(c);
        };
        let Some(ahead) = known.find(&key, end, to) else {
            return;
        };
        // Lists that do not move: structs point from one to the next.
        let parts: Vec<_> = (ahead.iter())
            .map(|place| VkDescriptorAddressInfoEXT {
                sType: VK_STRUCTURE_TYPE_DESCRIPTOR_ADDRESS_INFO_EXT,
                address: place.address,
                range: place.range,
                format: place.format,
                ..zeroed()
            })
            .collect();
        let infos: Vec<_> = (parts.iter())
            .map(|part| VkDescriptorGetInfoEXT {
                data: VkDescriptorDataEXT {
                    pUniformBuffer: part,
                },
                ..*c.pDescriptorInfo
            })
            .collect();
        let mut bytes = vec![0u8; size * ahead.len()];
        let room = bytes.chunks_exact_mut(size.max(1));
        let others = infos
            .iter()
            .zip(room)
            .map(|(info, room)| p::vkGetDescriptorEXT {
                pDescriptorInfo: info,
                pDescriptor: room.as_mut_ptr().cast(),
                ..*c
            });
        let mut all: Vec<_> = std::iter::once(*c).chain(others).collect();
        if !Driver.call_all(&mut all) {
            return;
        }
        known.learn(key, std::slice::from_raw_parts(to, size).into());
        for (place, bytes) in ahead.into_iter().zip(bytes.chunks_exact(size.max(1))) {
            let of = Of::Place(place);
            known.learn(Key { of, ..key }, bytes.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place {
        buffer: 7,
        address: 0x10000,
        range: 64,
        format: 0,
    };

    /// How many are asked for along with each place at these offsets, in a buffer of 1 MiB.
    fn ahead<const N: usize>(offsets: [u64; N]) -> [u32; N] {
        let mut trail = Trail::default();
        offsets.map(|offset| {
            let place = Place {
                address: PLACE.address + offset,
                ..PLACE
            };
            trail.follow(&place, PLACE.address + (1 << 20), 16)
        })
    }

    #[test]
    fn places_in_a_row_are_asked_for_ahead() {
        // Each is the first that the ones before did not cover.
        assert_eq!(
            ahead([0, 256, 1536, 3840, 8192, 16640, 33280]),
            [0, 4, 8, 16, 32, 64, 128]
        );
        // The distance is a multiple of 64 only.
        assert_eq!(ahead([0, 256, 576]), [0, 4, 8]);
    }

    #[test]
    fn places_without_order_are_asked_for_alone() {
        assert_eq!(ahead([1 << 18, 0, 1 << 19, 1 << 17]), [0; 4]);
        assert_eq!(ahead([4096, 2048, 1024]), [0; 3]);
    }

    #[test]
    fn nothing_behind_the_end_is_asked_for() {
        let end = (1 << 20) - 64;
        assert_eq!(ahead([end - 512, end - 256]), [0, 1]);
        assert_eq!(ahead([end - 256, end]), [0, 0]);
        let mut trail = Trail::default();
        trail.follow(&PLACE, PLACE.address + 64, 16);
        let next = Place {
            address: PLACE.address + 1,
            ..PLACE
        };
        assert_eq!(trail.follow(&next, PLACE.address, 16), 0);
        assert_eq!(trail.follow(&next, 0, 0), 0);
    }

    #[test]
    fn an_address_counts_with_its_buffer() {
        let all = Descriptors::default();
        all.buffer_created(1, 1000);
        assert_eq!(all.buffer_at(0x1000, 1), None, "nobody has asked");
        assert_eq!(all.address(1, || 0x1000), 0x1000);
        assert_eq!(all.address(1, || unreachable!()), 0x1000);
        assert_eq!(all.buffer_at(0x1000, 1000), Some((1, 0x13e8)));
        assert_eq!(all.buffer_at(0x1001, 1000), None);
        assert_eq!(all.buffer_at(0xfff, 1), None);
        assert_eq!(all.buffer_at(0x1000, u64::MAX), None);
        all.buffer_destroyed(1);
        assert_eq!(all.buffer_at(0x1000, 1), None);
        all.buffer_created(2, 10);
        assert_eq!(all.address(2, || 0x1000), 0x1000);
        assert_eq!(all.buffer_at(0x1000, 10), Some((2, 0x100a)));
        // Of an unknown buffer, nothing is kept.
        assert_eq!(all.address(3, || 0x5000), 0x5000);
        assert_eq!(all.address(3, || 0x6000), 0x6000);
        assert_eq!(all.buffer_at(0x5000, 1), None);
    }

    #[test]
    fn what_is_known_is_not_asked_for_again() {
        let all = Descriptors::default();
        let key = Key {
            kind: VK_DESCRIPTOR_TYPE_UNIFORM_BUFFER,
            size: 4,
            of: Of::Place(PLACE),
        };
        let mut to = [0; 4];
        let mut find = |key: &Key| {
            // SAFETY: there is room for four bytes.
            unsafe { all.find(key, PLACE.address + 4096, to.as_mut_ptr()) }.map(|ahead| ahead.len())
        };
        assert_eq!(find(&key), Some(0));
        all.learn(key, [1, 2, 3, 4].into());
        assert_eq!(find(&key), None);
        let at = |offset| Place {
            address: PLACE.address + offset,
            ..PLACE
        };
        let of = |place| Key {
            of: Of::Place(place),
            ..key
        };
        all.learn(of(at(512)), [5; 4].into());
        assert_eq!(find(&of(at(256))), Some(3), "one of four is known");
        let buffer = 8;
        assert_eq!(
            find(&of(Place { buffer, ..PLACE })),
            Some(0),
            "of another buffer"
        );
        let kind = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER;
        assert_eq!(find(&Key { kind, ..key }), Some(0), "of another kind");
        assert_eq!(to, [1, 2, 3, 4]);
        for n in 0..2 * MOST as u64 {
            all.learn(of(at(n)), [0; 4].into());
        }
        assert!(all.known.lock().descriptors.len() <= MOST);
    }
}
