//! The capability set that guests read first.

use asgard_asg::capset::{
    CAPSET_ID, CAPSET_VERSION, Capset, Extension, FULL_SIZE, feature, serialise,
};

use crate::Error;
use crate::device::Config;

/// What a guest learns about a capset before it reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// The id; 3 is gfxstream-vulkan, the only one there is.
    pub id: u32,
    /// The highest version.
    pub version: u32,
    /// Bytes.
    pub size: u32,
}

/// How many capsets there are.
pub const COUNT: u32 = 1;

/// The capset at `index`.
pub fn info(config: &Config, index: u32) -> Option<Info> {
    (index < COUNT).then_some(Info {
        id: CAPSET_ID,
        version: CAPSET_VERSION,
        size: size(config) as u32,
    })
}

/// Upstream's host knows neither the last two fields nor what is Asgard's own.
const UPSTREAM_SIZE: usize = 104;

/// The virgl formats of upstream's host on a driver that has them all.
const UPSTREAM_FORMATS: [u32; 16] = [
    0x2d0186, 0x10000, 0x4000000f, 0x40000000, 0x40, 0x48, 0, 0, 0, 0x4000000, 0, 0, 0, 0, 0, 0,
];

fn size(config: &Config) -> usize {
    if config.as_upstream {
        UPSTREAM_SIZE
    } else {
        FULL_SIZE
    }
}

/// The bytes of a capset.
pub fn bytes(
    config: &Config,
    color_buffer_memory_index: u32,
    id: u32,
    version: u32,
) -> Result<Vec<u8>, Error> {
    if id != CAPSET_ID || version > CAPSET_VERSION {
        return Err(Error::NoCapset { id, version });
    }
    let mut capset = Capset {
        buffer_size: config.buffer_size,
        color_buffer_memory_index,
        // With 0, Mesa 25 carves its allocations from mapped blocks, and takes every block for one of
        // 512 MiB, however small it is: it hands out memory past the end.
        deferred_mapping: 1,
        blob_alignment: u32::try_from(rustix::param::page_size()).unwrap_or(4096),
        vulkan_batched_descriptor_set_update: u32::from(config.batched_descriptor_sets),
        ..Capset::default()
    };
    if config.as_upstream {
        capset.always_blob = 1;
        capset.external_sync = 1;
        capset.virgl_supported_formats = UPSTREAM_FORMATS;
    }
    let extension = Extension {
        features: feature::SHARED_MEMORY | config.wire_features.bits(),
        ..Extension::default()
    };
    let mut bytes = serialise(&capset, &extension).to_vec();
    bytes.truncate(size(config));
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::renderer::Features;

    #[test]
    fn the_flags_reach_the_guest() {
        let config = Config {
            batched_descriptor_sets: false,
            wire_features: Features::NONE,
            ..Config::default()
        };
        let (capset, extension) =
            asgard_asg::capset::parse(&bytes(&config, 7, CAPSET_ID, 0).unwrap());
        assert_eq!(capset.protocol_version, 1);
        assert_eq!((capset.ring_size, capset.buffer_size), (12288, 1 << 20));
        assert_eq!(capset.color_buffer_memory_index, 7);
        assert_eq!(capset.deferred_mapping, 1);
        assert_eq!(capset.vulkan_batched_descriptor_set_update, 0);
        let wire = |e: Extension| Features::known(e.features);
        assert_eq!(extension.map(wire), Some(Features::NONE));
        let all = bytes(&Config::default(), 7, CAPSET_ID, 0).unwrap();
        let offered = asgard_asg::capset::parse(&all).1.map(wire);
        assert_eq!(offered, Some(Features::ALL));
    }

    #[test]
    fn upstreams_host_is_not_asgards() {
        let config = Config {
            as_upstream: true,
            ..Config::default()
        };
        let bytes = bytes(&config, 0, CAPSET_ID, 0).unwrap();
        assert_eq!(bytes.len(), info(&config, 0).unwrap().size as usize);
        let (capset, extension) = asgard_asg::capset::parse(&bytes);
        assert_eq!((capset.always_blob, capset.external_sync), (1, 1));
        assert_eq!(extension, None);
    }

    #[test]
    fn other_capsets_are_refused() {
        assert!(bytes(&Config::default(), 0, 4, 0).is_err());
        assert!(bytes(&Config::default(), 0, CAPSET_ID, 1).is_err());
        assert_eq!(info(&Config::default(), 1), None);
    }
}
