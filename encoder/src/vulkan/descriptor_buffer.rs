//! Descriptors of descriptor buffers: the host is asked once for each that it is asked for in the same words.
//!
//! What makes a descriptor are addresses, formats, and views and samplers that live; their tokens are never
//! used twice. Programs ask again and again: for every draw.

use std::collections::HashMap;

use asgard_protocol::{Wire, Writer};
use parking_lot::RwLock;

use super::*;
use crate::object::Objects;

/// More than a program has in use; one that makes more begins again.
const MOST: usize = 1 << 13;

type Bytes = Box<[u8]>;

/// Descriptors of a device: what makes them, as bytes on the wire, and theirs.
#[derive(Debug, Default)]
pub(crate) struct Descriptors(RwLock<HashMap<Bytes, Bytes>>);

impl Descriptors {
    /// Writes a descriptor to `to`, which `ask` does if it is not known.
    fn get(&self, key: Vec<u8>, to: *mut [u8], ask: impl FnOnce()) {
        if let Some(known) = self.0.read().get(key.as_slice())
            && known.len() == to.len()
        {
            // SAFETY: the application made room for as many bytes as it says.
            unsafe { std::ptr::copy_nonoverlapping(known.as_ptr(), to.cast(), to.len()) };
            return;
        }
        ask();
        // SAFETY: as above, and they were written just now.
        let bytes = unsafe { &*to };
        let mut all = self.0.write();
        if all.len() >= MOST {
            all.clear();
        }
        all.insert(key.into_boxed_slice(), bytes.into());
    }
}

/// `vkGetDescriptorEXT`.
pub(super) fn get(c: &mut p::vkGetDescriptorEXT) {
    let mut key = Vec::with_capacity(64);
    // SAFETY: the application passes a live device and a struct with its chain.
    let descriptors = unsafe {
        (*c.pDescriptorInfo).encode(&mut Writer::new(&mut key, &Objects));
        &device::device(c.device).descriptors
    };
    let to = std::ptr::slice_from_raw_parts_mut(c.pDescriptor.cast::<u8>(), c.dataSize);
    descriptors.get(key, to, || Driver.call(c));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_asked_once_for_each_descriptor() {
        let descriptors = Descriptors::default();
        let mut asked = 0;
        let mut get = |key: &[u8], size: usize| {
            let mut bytes = vec![0u8; size];
            let to = std::ptr::from_mut(bytes.as_mut_slice());
            descriptors.get(key.to_vec(), to, || {
                asked += 1;
                // SAFETY: the bytes above.
                unsafe { to.cast::<u8>().write_bytes(key[0], size) };
            });
            assert_eq!(bytes, vec![key[0]; size]);
            asked
        };
        assert_eq!(get(b"a", 16), 1);
        assert_eq!(get(b"b", 16), 2);
        assert_eq!(get(b"a", 16), 2);
        assert_eq!(get(b"a", 32), 3, "of another size");
        for number in 0..MOST as u32 {
            get(&number.to_be_bytes(), 16);
        }
        assert!(descriptors.0.read().len() <= MOST);
    }
}
