//! Why a context stopped.

use asgard_protocol::DecodeError;
use asgard_protocol::extension::Features;
use asgard_protocol::types::VkResult;

/// Why a context stopped working, or could not start.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No usable Vulkan driver on this machine.
    #[error("no Vulkan driver: {0}")]
    NoDriver(String),
    /// The guest asked for a blob that its context did not publish.
    #[error("blob {0} was not published by this context")]
    NoBlob(u64),
    /// The far side of the reply channel is gone.
    #[error("the guest went away")]
    Disconnected,
    /// Bytes that are no packet.
    #[error("packet {packet}, {command}: {source}")]
    Malformed {
        /// How many packets of this stream came before it.
        packet: u64,
        /// Which command.
        command: &'static str,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// A packet's announced size is impossible.
    #[error("a packet of {0} bytes, where 8 to {max} are possible", max = asgard_protocol::packet::MAX)]
    BadSize(u32),
    /// A number that is no command.
    #[error("opcode {0} is no command")]
    UnknownOpcode(u32),
    /// A number that is no command that can be recorded.
    #[error("opcode {0} cannot be recorded into a command buffer")]
    NotRecordable(u32),
    /// A command that is never served.
    #[error("{command} is not served: {why}")]
    Refused {
        /// Which command.
        command: &'static str,
        /// The policy's reason.
        why: &'static str,
    },
    /// A command that the host's driver does not have.
    #[error("the host's Vulkan driver has no {0}")]
    NoSuchFunction(&'static str),
    /// Contents that cannot be decoded.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A count, offset or combination that no correct guest sends.
    #[error("{0}")]
    Nonsense(&'static str),
    /// A limit was reached.
    #[error("the limit of {limit} {what} is reached")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How many.
        limit: u64,
    },
    /// The driver failed where only a driver can.
    #[error("{what} failed in the host's driver: VkResult {result}")]
    Driver {
        /// What was tried.
        what: &'static str,
        /// What came back.
        result: VkResult,
    },
    /// A creation failed that the guest did not wait for, so that it cannot be told.
    #[error(
        "{command}, which the guest does not wait for, failed in the host's driver: VkResult {result}"
    )]
    Unawaited {
        /// Which command.
        command: &'static str,
        /// What came back.
        result: VkResult,
    },
    /// A feature of the wire was used without having been agreed on.
    #[error("the guest uses {0} of the wire, which was not agreed on")]
    Feature(Features),
    /// The context had died before.
    #[error("the context is dead: {0}")]
    Poisoned(String),
}
