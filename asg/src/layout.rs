//! Where everything lies in the memory of a ring, byte for byte.
//!
//! A blob holds three pages of ring headers and a data buffer that all three share:
//!
//! | offset | content |
//! |---|---|
//! | 0 | [`TO_HOST`]: records of small transfers, inline ring, configuration |
//! | 4096 | [`TO_HOST_LARGE`]: positions of large transfers to the host |
//! | 8192 | [`FROM_HOST`]: positions of replies |
//! | 12288 | [`BUFFER`]: the data |
//!
//! All words are little-endian. The words of Asgard's own ([`MAGIC_WORD`] and what follows it) lie
//! in bytes that other implementations never touch, neither at initialisation nor later.

/// Bytes of one ring header.
pub const PAGE: usize = 4096;
/// The ring of small transfers: records of [`RECORD_SIZE`] bytes that name a chunk of the buffer.
pub const TO_HOST: usize = 0;
/// The ring of large transfers; its bytes live in the data buffer.
pub const TO_HOST_LARGE: usize = PAGE;
/// The ring of replies; its bytes live in the data buffer.
pub const FROM_HOST: usize = 2 * PAGE;
/// The data buffer.
pub const BUFFER: usize = 3 * PAGE;
/// The `ringSize` that a capability set states: everything in front of the data buffer.
pub const RING_SIZE: u32 = 3 * 4096;

/// In a ring header: version of the host's ring code.
pub const HOST_VERSION: usize = 0;
/// In a ring header: version of the guest's ring code.
pub const GUEST_VERSION: usize = 4;
/// In a ring header: how many bytes the producer ever wrote, modulo 2^32.
pub const WRITE_POS: usize = 8;
/// In a ring header: how many bytes the consumer ever took, modulo 2^32.
pub const READ_POS: usize = 64;
/// In a ring header: three words of statistics that nobody needs.
pub const STATISTICS: [usize; 3] = [68, 72, 76];
/// In a ring header: the inline ring, of which only [`TO_HOST`] makes use.
pub const INLINE: usize = 128;
/// Bytes of the inline ring.
pub const INLINE_SIZE: u32 = 2048;
/// In a ring header: the state word.
pub const RING_STATE: usize = 2176;

/// What [`HOST_VERSION`] holds.
pub const VERSION: u32 = 1;

/// The host's state, one of the constants of [`state`].
pub const STATE: usize = TO_HOST + RING_STATE;
/// The configuration of the ring set, which survives the initialisation of the headers.
pub const CONFIG: usize = TO_HOST + 2180;
/// Bytes of the data buffer; the host writes it.
pub const BUFFER_SIZE: usize = CONFIG;
/// How far the write pointer of small transfers moves at each; the host writes it.
pub const FLUSH_INTERVAL: usize = CONFIG + 4;
/// Unused by either end, zeroed by the guest.
pub const HOST_CONSUMED_POS: usize = CONFIG + 8;
/// Unused by either end, zeroed by the guest.
pub const GUEST_WRITE_POS: usize = CONFIG + 12;
/// 1 or 3, see [`mode`]. A hint only: after an asynchronous large transfer it is ahead of the data.
pub const TRANSFER_MODE: usize = CONFIG + 16;
/// How many bytes of the current large transfer the host has not taken yet.
pub const TRANSFER_SIZE: usize = CONFIG + 20;
/// Not zero once the stream is lost; every loop that waits gives up then.
pub const IN_ERROR: usize = CONFIG + 24;

/// Bytes of one record: `u32 offset` into the data buffer, `u32 size`.
pub const RECORD_SIZE: u32 = 8;
/// How many records may wait at most, however small the steps are.
pub const MAX_RECORDS: u32 = 255;

/// The `buffer_size` that other hosts choose.
pub const DEFAULT_BUFFER_SIZE: u32 = 1 << 20;
/// The `flush_interval` that other hosts choose.
pub const DEFAULT_FLUSH_INTERVAL: u32 = 4096;

/// What the host tells about itself at [`STATE`].
pub mod state {
    /// It sleeps, or is about to: a guest that publishes has to ping.
    pub const NEED_NOTIFY: u32 = 0;
    /// It looks at the ring now, and might stop to.
    pub const CAN_CONSUME: u32 = 1;
    /// One of both ends has left.
    pub const EXIT: u32 = 2;
    /// The stream is lost.
    pub const ERROR: u32 = 3;
    /// It is certain to look at the ring again, so that no ping is needed.
    pub const RENDERING: u32 = 4;
}

/// How data reaches the host, at [`TRANSFER_MODE`].
pub mod mode {
    /// Records on the inline ring name chunks of the buffer.
    pub const RECORDS: u32 = 1;
    /// The buffer itself is the ring.
    pub const LARGE: u32 = 3;
}

/// "ASGD": the host is Asgard's, and the words below mean what is said here.
pub const MAGIC: u32 = u32::from_le_bytes(*b"ASGD");
/// Where [`MAGIC`] stands once the host has initialised the ring.
pub const MAGIC_WORD: usize = TO_HOST + 3968;
/// Version of Asgard's own words, see [`ASGARD_VERSION`].
pub const ASGARD_VERSION_WORD: usize = TO_HOST + 3972;
/// What stands at [`ASGARD_VERSION_WORD`].
pub const ASGARD_VERSION: u32 = 1;
/// Not 0 once somebody answers in the place of a host that has died: whatever the guest sends is lost.
pub const FORSAKEN: usize = TO_HOST + 3976;
/// How many of the guest's bytes the host has taken and not executed yet, for who takes its place should it
/// die. With [`OWED_LARGE`] if the last of them came by a large transfer.
pub const OWED: usize = TO_HOST_LARGE + 3968;
/// Where replies stood when it took them: if they still do, none was sent.
pub const OWED_REPLY: usize = OWED + 4;
/// Flag in the word at [`OWED`].
pub const OWED_LARGE: u32 = 1 << 31;
/// Incremented by whoever wants the host to look; the host sleeps on it.
pub const DOORBELL: usize = TO_HOST + 4032;
/// Incremented by the host whenever it has published anything that a guest may wait for.
pub const PROGRESS: usize = FROM_HOST + 3968;
/// [`SLEEPING`] while a guest sleeps on [`PROGRESS`], else 0.
pub const GUEST_WAITING: usize = FROM_HOST + 4032;
/// The core that the guest's thread waits on, plus one; 0 while nobody knows. Beside
/// [`GUEST_WAITING`]: the guest writes both, and the host reads both when it waits.
pub const GUEST_CORE: usize = GUEST_WAITING + 4;
/// What stands at [`GUEST_WAITING`] while the guest sleeps.
pub const SLEEPING: u32 = 2;

/// How many bytes a blob has to have for a data buffer of `buffer_size` bytes.
pub const fn blob_size(buffer_size: u32) -> usize {
    BUFFER + buffer_size as usize
}

/// Whether a ring set can be built with these sizes.
pub fn valid_config(buffer_size: u32, flush_interval: u32) -> bool {
    buffer_size.is_power_of_two()
        && (64..=1 << 30).contains(&buffer_size)
        && flush_interval >= RECORD_SIZE
        && flush_interval <= buffer_size / 2
        && flush_interval.is_multiple_of(4)
}

/// How many records may wait on the inline ring for the host.
pub(crate) fn max_records(buffer_size: u32, flush_interval: u32) -> u32 {
    (buffer_size / flush_interval - 1).min(MAX_RECORDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absolute_offsets_match_the_wire() {
        assert_eq!(BUFFER, 12288);
        assert_eq!(STATE, 2176);
        assert_eq!(BUFFER_SIZE, 2180);
        assert_eq!(FLUSH_INTERVAL, 2184);
        assert_eq!(TRANSFER_MODE, 2196);
        assert_eq!(TRANSFER_SIZE, 2200);
        assert_eq!(IN_ERROR, 2204);
        assert_eq!(blob_size(DEFAULT_BUFFER_SIZE), 1_060_864);
    }

    #[test]
    fn own_words_are_outside_of_what_others_write_and_on_lines_of_their_own() {
        for word in [MAGIC_WORD, DOORBELL, PROGRESS, GUEST_WAITING, OWED] {
            assert!(word % PAGE >= RING_STATE + 4 + 32 * 4);
            assert_eq!(word % 64, 0);
        }
    }

    #[test]
    fn odd_configurations_are_refused() {
        assert!(valid_config(1 << 20, 4096));
        assert!(valid_config(1 << 20, 262_144));
        for (buffer, step) in [
            (0, 0),
            (1 << 20, 0),
            (1 << 20, 1 << 20),
            ((1 << 20) + 1, 4096),
            (1 << 31, 4096),
            (u32::MAX, u32::MAX),
        ] {
            assert!(!valid_config(buffer, step), "{buffer} {step}");
        }
    }

    #[test]
    fn record_limits() {
        assert_eq!(max_records(1 << 20, 4096), 255);
        assert_eq!(max_records(1 << 20, 262_144), 3);
        assert_eq!(max_records(1 << 20, 1024), 255);
    }
}
