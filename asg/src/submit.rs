//! What a guest puts into SUBMIT_3D: small commands beside the ring, little endian, an opcode first.
//!
//! They start and wake a ring's consumer, and tie a fence of the device to one of Vulkan's.
//! The bytes come from the guest, so [`Command::parse`] checks every length; bytes behind a command are ignored,
//! because a kernel may round the size up. [`Command::write`] is the guest's side.

use crate::Shape;

/// Opcode of [`Command::ContextCreate`].
pub const CONTEXT_CREATE: u32 = 0x1001;
/// Opcode of [`Command::ContextPing`].
pub const CONTEXT_PING: u32 = 0x1002;
/// Opcode of [`Command::ContextPingWithResponse`].
pub const CONTEXT_PING_WITH_RESPONSE: u32 = 0x1003;
/// Opcode of [`Command::CreateExportSync`].
pub const CREATE_EXPORT_SYNC: u32 = 0x9000;
/// Opcode of [`Command::CreateImportSync`].
pub const CREATE_IMPORT_SYNC: u32 = 0x9001;
/// Opcode of [`Command::CreateExportSyncVk`].
pub const CREATE_EXPORT_SYNC_VK: u32 = 0xa000;
/// Opcode of [`Command::CreateImportSyncVk`].
pub const CREATE_IMPORT_SYNC_VK: u32 = 0xa001;
/// Opcode of [`Command::CreateQsriExportVk`].
pub const CREATE_QSRI_EXPORT_VK: u32 = 0xa002;
/// Opcode of [`Command::ResourceCreate3d`].
pub const RESOURCE_CREATE_3D: u32 = 0xa003;
/// Opcode of [`Command::AcquireSync`].
pub const ACQUIRE_SYNC: u32 = 0xa004;
/// Opcode of [`Command::PlaceholderVk`].
pub const PLACEHOLDER_VK: u32 = 0xf002;

/// Why a command cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The payload ends inside the command.
    #[error("submitted command 0x{opcode:x} is cut at byte {len}")]
    Short {
        /// The opcode, 0 when even that is cut.
        opcode: u32,
        /// How many bytes there are.
        len: usize,
    },
    /// No command has this opcode.
    #[error("unknown submitted command 0x{0:x}")]
    Unknown(u32),
}

/// One submitted command. Handles are the guest's tokens for host objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// Start a consumer on the ring in this blob.
    ContextCreate {
        /// The blob.
        resource_id: u32,
    },
    /// Wake that consumer.
    ContextPing {
        /// The blob.
        resource_id: u32,
    },
    /// Wake that consumer; no guest on Linux sends it.
    ContextPingWithResponse {
        /// The blob.
        resource_id: u32,
        /// Where a reply would go; absent in the short form.
        response_id: Option<u32>,
    },
    /// Tie the fence to a GL sync object.
    CreateExportSync {
        /// The sync object.
        sync: u64,
    },
    /// The same with a sync object that the guest imported.
    CreateImportSync {
        /// The sync object.
        sync: u64,
    },
    /// The fence of this submission signals when this VkFence or VkSemaphore does.
    CreateExportSyncVk {
        /// VkDevice.
        device: u64,
        /// VkFence, or VkSemaphore.
        fence: u64,
    },
    /// The same with a fence that the guest imported.
    CreateImportSyncVk {
        /// VkDevice.
        device: u64,
        /// VkFence, or VkSemaphore.
        fence: u64,
    },
    /// The fence signals when this image has been presented.
    CreateQsriExportVk {
        /// VkImage.
        image: u64,
    },
    /// Arguments that a blob creation lacks; they come before it.
    ResourceCreate3d {
        /// The picture.
        shape: Shape,
        /// The blob that the next RESOURCE_CREATE_BLOB of this context names.
        blob_id: u64,
    },
    /// The fence takes over this sync object.
    AcquireSync {
        /// The sync object.
        sync: u64,
    },
    /// Nothing: its fence is a barrier.
    PlaceholderVk,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    opcode: u32,
}

impl Reader<'_> {
    fn u32(&mut self) -> Result<u32, Error> {
        let word = self
            .bytes
            .get(self.at..)
            .and_then(|rest| rest.first_chunk::<4>());
        let word = word.ok_or(Error::Short {
            opcode: self.opcode,
            len: self.bytes.len(),
        })?;
        self.at += 4;
        Ok(u32::from_le_bytes(*word))
    }

    fn u64(&mut self) -> Result<u64, Error> {
        let low = u64::from(self.u32()?);
        Ok(low | u64::from(self.u32()?) << 32)
    }
}

impl Command {
    /// Reads the one command of a payload.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let mut r = Reader {
            bytes,
            at: 0,
            opcode: 0,
        };
        let opcode = r.u32()?;
        r.opcode = opcode;
        Ok(match opcode {
            CONTEXT_CREATE => Command::ContextCreate {
                resource_id: r.u32()?,
            },
            CONTEXT_PING => Command::ContextPing {
                resource_id: r.u32()?,
            },
            CONTEXT_PING_WITH_RESPONSE => Command::ContextPingWithResponse {
                resource_id: r.u32()?,
                response_id: r.u32().ok(),
            },
            CREATE_EXPORT_SYNC => Command::CreateExportSync { sync: r.u64()? },
            CREATE_IMPORT_SYNC => Command::CreateImportSync { sync: r.u64()? },
            CREATE_EXPORT_SYNC_VK => Command::CreateExportSyncVk {
                device: r.u64()?,
                fence: r.u64()?,
            },
            CREATE_IMPORT_SYNC_VK => Command::CreateImportSyncVk {
                device: r.u64()?,
                fence: r.u64()?,
            },
            CREATE_QSRI_EXPORT_VK => Command::CreateQsriExportVk { image: r.u64()? },
            RESOURCE_CREATE_3D => {
                let mut words = [0; size_of::<Shape>() / 4];
                for word in &mut words {
                    *word = r.u32()?;
                }
                r.u32()?; // padding
                Command::ResourceCreate3d {
                    shape: bytemuck::cast(words),
                    blob_id: r.u64()?,
                }
            }
            ACQUIRE_SYNC => {
                r.u32()?; // padding
                Command::AcquireSync { sync: r.u64()? }
            }
            PLACEHOLDER_VK => {
                r.u64()?; // padding
                Command::PlaceholderVk
            }
            other => return Err(Error::Unknown(other)),
        })
    }

    /// Appends the command's bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut words = |words: &[u32]| {
            for word in words {
                out.extend_from_slice(&word.to_le_bytes());
            }
        };
        let low = |value: u64| value as u32;
        let high = |value: u64| (value >> 32) as u32;
        match *self {
            Command::ContextCreate { resource_id } => words(&[CONTEXT_CREATE, resource_id]),
            Command::ContextPing { resource_id } => words(&[CONTEXT_PING, resource_id]),
            Command::ContextPingWithResponse {
                resource_id,
                response_id,
            } => {
                words(&[CONTEXT_PING_WITH_RESPONSE, resource_id]);
                if let Some(id) = response_id {
                    words(&[id]);
                }
            }
            Command::CreateExportSync { sync } => {
                words(&[CREATE_EXPORT_SYNC, low(sync), high(sync)]);
            }
            Command::CreateImportSync { sync } => {
                words(&[CREATE_IMPORT_SYNC, low(sync), high(sync)]);
            }
            Command::CreateExportSyncVk { device, fence } => words(&[
                CREATE_EXPORT_SYNC_VK,
                low(device),
                high(device),
                low(fence),
                high(fence),
            ]),
            Command::CreateImportSyncVk { device, fence } => words(&[
                CREATE_IMPORT_SYNC_VK,
                low(device),
                high(device),
                low(fence),
                high(fence),
            ]),
            Command::CreateQsriExportVk { image } => {
                words(&[CREATE_QSRI_EXPORT_VK, low(image), high(image)]);
            }
            Command::ResourceCreate3d { shape, blob_id } => {
                words(&[RESOURCE_CREATE_3D]);
                words(&bytemuck::cast::<_, [u32; size_of::<Shape>() / 4]>(shape));
                words(&[0, low(blob_id), high(blob_id)]);
            }
            Command::AcquireSync { sync } => words(&[ACQUIRE_SYNC, 0, low(sync), high(sync)]),
            Command::PlaceholderVk => words(&[PLACEHOLDER_VK, 0, 0]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &[(Command, usize)] = &[
        (Command::ContextCreate { resource_id: 5 }, 8),
        (Command::ContextPing { resource_id: 5 }, 8),
        (
            Command::ContextPingWithResponse {
                resource_id: 5,
                response_id: Some(6),
            },
            12,
        ),
        (
            Command::CreateExportSync {
                sync: 0x1_0000_0002,
            },
            12,
        ),
        (
            Command::CreateImportSync {
                sync: 0x1_0000_0002,
            },
            12,
        ),
        (
            Command::CreateExportSyncVk {
                device: 0x1_0000_0002,
                fence: 0x3_0000_0004,
            },
            20,
        ),
        (
            Command::CreateImportSyncVk {
                device: 0x1_0000_0002,
                fence: 0x3_0000_0004,
            },
            20,
        ),
        (Command::CreateQsriExportVk { image: u64::MAX }, 12),
        (
            Command::ResourceCreate3d {
                shape: Shape {
                    target: 2,
                    format: 67,
                    bind: 2,
                    width: 64,
                    height: 32,
                    depth: 1,
                    array_size: 1,
                    last_level: 0,
                    nr_samples: 0,
                    flags: 0,
                },
                blob_id: 0x1_0000_0009,
            },
            56,
        ),
        (
            Command::AcquireSync {
                sync: 0x1_0000_0002,
            },
            16,
        ),
        (Command::PlaceholderVk, 12),
    ];

    #[test]
    fn commands_round_trip_in_their_known_sizes() {
        for (command, size) in ALL {
            let mut bytes = Vec::new();
            command.write(&mut bytes);
            assert_eq!(bytes.len(), *size, "{command:?}");
            assert_eq!(Command::parse(&bytes), Ok(*command));
            bytes.push(0xff);
            assert_eq!(
                Command::parse(&bytes),
                Ok(*command),
                "bytes behind are ignored"
            );
        }
    }

    #[test]
    fn cut_commands_are_errors() {
        for (command, size) in ALL {
            if matches!(command, Command::ContextPingWithResponse { .. }) {
                continue; // Its tail is optional.
            }
            let mut bytes = Vec::new();
            command.write(&mut bytes);
            for len in 0..*size {
                let error = Command::parse(&bytes[..len]).unwrap_err();
                assert!(
                    matches!(error, Error::Short { .. }),
                    "{command:?} cut to {len}"
                );
            }
        }
    }

    #[test]
    fn the_short_ping_with_response_is_legal() {
        let bytes = [0x03, 0x10, 0, 0, 9, 0, 0, 0];
        let command = Command::ContextPingWithResponse {
            resource_id: 9,
            response_id: None,
        };
        assert_eq!(Command::parse(&bytes), Ok(command));
    }

    #[test]
    fn unknown_opcodes_are_errors() {
        assert_eq!(Command::parse(&[0xff; 64]), Err(Error::Unknown(u32::MAX)));
    }
}
