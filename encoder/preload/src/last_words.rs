//! What the driver hears on its rings after the host has died, or has given up on a ring.
//!
//! The driver's loops would wait for ever: the one that reads replies starts over when the ring is
//! marked as failed. So this library takes the host's place at the ring, in the cheapest way. It
//! throws away what the driver sends, and tells it that the device is lost. It can do so where it
//! knows how long the reply is: in all commands that a running program waits in. In the others, which
//! a program uses when it starts, it ends the process and says why.

use asgard_asg::layout::{
    BUFFER, BUFFER_SIZE, FROM_HOST, INLINE, INLINE_SIZE, READ_POS, RECORD_SIZE, STATE, TO_HOST,
    TO_HOST_LARGE, TRANSFER_SIZE, WRITE_POS, state,
};
use asgard_asg::ring::Memory;

/// VK_ERROR_DEVICE_LOST.
const DEVICE_LOST: [u8; 4] = (-4_i32).to_le_bytes();

/// The reply to a command: so many zero bytes, and then maybe a VkResult.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    zeroes: usize,
    result: bool,
}

/// The reply to the command with this opcode, or `None` where its length depends on the request.
fn shape(opcode: u32) -> Option<Shape> {
    let (zeroes, result) = match opcode {
        // Only a VkResult. vkQueueSubmit, -QueueWaitIdle, -DeviceWaitIdle
        20018..=20020
        // vkFlushMappedMemoryRanges, -Invalidate-, -BindBufferMemory, -BindImageMemory
        | 20025 | 20026 | 20028 | 20029
        // vkQueueBindSparse, -ResetFences, -GetFenceStatus, -WaitForFences
        | 20034 | 20037..=20039
        // vkGetEventStatus, -SetEvent, -ResetEvent, -MergePipelineCaches
        | 20044..=20046 | 20064
        // vkResetDescriptorPool, -FreeDescriptorSets, -ResetCommandPool, -BindBuffer/ImageMemory2
        | 20076 | 20078 | 20087 | 20138 | 20139 | 20246 | 20247
        // vkFreeMemorySyncGOOGLE, -GetBlobGOOGLE
        | 20328 | 20341
        // vkWaitSemaphores, -SignalSemaphore, -QueueSubmit2, -QueueSubmit2KHR
        | 224_777_382 | 271_024_127 | 275_454_371 | 293_024_240 => (0, true),
        // A version, then a VkResult. vkEnumerateInstanceVersion
        20137 => (4, true),
        // One handle, then a VkResult. vkCreateInstance, -CreateDevice, -AllocateMemory
        20000 | 20011 | 20021
        // vkCreateFence, -Semaphore, -Event, -QueryPool, -Buffer, -BufferView, -Image, -ImageView
        | 20035 | 20040 | 20042 | 20047 | 20050 | 20052 | 20054 | 20057
        // vkCreateShaderModule, -PipelineCache, -PipelineLayout, -Sampler, -DescriptorSetLayout
        | 20059 | 20061 | 20068 | 20070 | 20072
        // vkCreateDescriptorPool, -Framebuffer, -RenderPass, -CommandPool, -SamplerYcbcrConversion
        | 20074 | 20080 | 20082 | 20085 | 20156
        // vkCreateDescriptorUpdateTemplate, -KHR, -CreateRenderPass2KHR, -CreateRenderPass2
        | 20158 | 20222 | 20225 | 279_590_827 => (8, true),
        // A value, then a VkResult. vkGetSemaphoreCounterValue
        267_066_974 => (8, true),
        // A handle, VkMemoryRequirements, a VkResult. vkCreate{Image,Buffer}WithRequirementsGOOGLE
        20325 | 20326 => (8 + 20, true),
        // An address. vkGetBufferDeviceAddress, -OpaqueCaptureAddress, and both with KHR
        222_632_266 | 219_261_480 | 230_188_231 | 285_631_711 => (8, false),
        _ => return None,
    };
    Some(Shape { zeroes, result })
}

/// What the driver gets to hear on one ring, kept by the thread that uses the ring.
#[derive(Debug, Default)]
pub(crate) struct LastWords {
    /// Yields since the driver has last sent something.
    idle: u32,
    /// Where the driver's positions were when it last got a reply.
    answered: Option<[u32; 2]>,
}

impl LastWords {
    /// To be called when the driver yields. `false`: it waits for a reply that nobody can give.
    pub(crate) fn on_yield(&mut self, mem: &impl Memory) -> bool {
        if discard(mem) || mem.load(FROM_HOST + WRITE_POS) != mem.load(FROM_HOST + READ_POS) {
            self.idle = 0;
            return true;
        }
        // The driver looks at its condition between two yields. If it only waits for room, then it
        // has some now, and does not come back.
        self.idle += 1;
        if self.idle < 3 {
            return true;
        }
        self.idle = 0;
        let sent = [TO_HOST, TO_HOST_LARGE].map(|ring| mem.load(ring + WRITE_POS));
        if self.answered == Some(sent) {
            return false;
        }
        self.answered = Some(sent);
        let Some(shape) = last_opcode(mem).and_then(shape) else {
            return false;
        };
        let mut reply = vec![0; shape.zeroes];
        if shape.result {
            reply.extend_from_slice(&DEVICE_LOST);
        }
        send(mem, &reply)
    }
}

/// Throws away what the driver has sent, and whether there was anything.
pub(crate) fn discard(mem: &impl Memory) -> bool {
    // So that it pings whenever it sends, which is another occasion for this: it has a loop that waits
    // for room without a yield.
    mem.store(STATE, state::NEED_NOTIFY);
    let mut any = false;
    for ring in [TO_HOST, TO_HOST_LARGE] {
        let written = mem.load(ring + WRITE_POS);
        if mem.load(ring + READ_POS) != written {
            any = true;
            if ring == TO_HOST_LARGE {
                mem.store(TRANSFER_SIZE, 0);
            }
            mem.store(ring + READ_POS, written);
        }
    }
    any
}

/// The opcode of the last command in the last record.
fn last_opcode(mem: &impl Memory) -> Option<u32> {
    let record = mem.load(TO_HOST + WRITE_POS).wrapping_sub(RECORD_SIZE) & (INLINE_SIZE - 1);
    let at = TO_HOST + INLINE + record as usize;
    let (offset, len) = (mem.load(at) as usize, mem.load(at + 4) as usize);
    let mut chunk = Vec::new();
    mem.append_to(BUFFER.checked_add(offset)?, len, &mut chunk)
        .ok()?;
    let mut rest = chunk.as_slice();
    let mut opcode = None;
    while let Some((head, _)) = rest.split_first_chunk::<8>() {
        let [a, b, c, d, size @ ..] = *head;
        opcode = Some(u32::from_le_bytes([a, b, c, d]));
        let size = (u32::from_le_bytes(size) as usize).max(head.len());
        rest = rest.get(size..).unwrap_or_default();
    }
    opcode
}

/// Appends a reply. The ring is empty, and a reply is short.
fn send(mem: &impl Memory, reply: &[u8]) -> bool {
    let size = mem.load(BUFFER_SIZE);
    if !size.is_power_of_two() || size as usize <= reply.len() {
        return false;
    }
    let position = mem.load(FROM_HOST + WRITE_POS);
    for (index, byte) in reply.iter().enumerate() {
        let at = position.wrapping_add(index as u32) & (size - 1);
        if mem.copy_in(BUFFER + at as usize, &[*byte]).is_err() {
            return false;
        }
    }
    mem.add(FROM_HOST + WRITE_POS, reply.len() as u32);
    true
}

#[cfg(test)]
mod tests {
    use asgard_asg::{Mapping, layout};

    use super::*;

    fn ring() -> Mapping {
        let (mapping, _fd) = Mapping::create(layout::blob_size(4096)).unwrap();
        mapping.store(BUFFER_SIZE, 4096);
        mapping
    }

    /// What the driver does to send a chunk.
    fn publish(mem: &Mapping, offset: u32, chunk: &[u32]) {
        for (index, word) in chunk.iter().enumerate() {
            mem.store(BUFFER + offset as usize + 4 * index, *word);
        }
        let written = mem.load(WRITE_POS);
        let at = INLINE + (written & (INLINE_SIZE - 1)) as usize;
        mem.store(at, offset);
        mem.store(at + 4, 4 * chunk.len() as u32);
        mem.store(WRITE_POS, written.wrapping_add(RECORD_SIZE));
    }

    #[test]
    fn a_wait_for_a_fence_hears_that_the_device_is_lost() {
        let mem = ring();
        let mut words = LastWords::default();
        publish(&mem, 0, &[20018, 12, 1, 20039, 8]);
        // Its request is thrown away first.
        assert!(words.on_yield(&mem));
        assert_eq!(mem.load(READ_POS), RECORD_SIZE);
        for _ in 0..3 {
            assert!(words.on_yield(&mem));
        }
        assert_eq!(mem.load(FROM_HOST + WRITE_POS), 4);
        let mut reply = [0; 4];
        mem.copy_out(BUFFER, &mut reply).unwrap();
        assert_eq!(i32::from_le_bytes(reply), -4);
        // If that was not what it waited for, then nothing helps.
        mem.store(FROM_HOST + READ_POS, 4);
        assert!((0..3).any(|_| !words.on_yield(&mem)));
    }

    #[test]
    fn what_has_no_known_reply_ends_the_wait() {
        let mem = ring();
        let mut words = LastWords::default();
        publish(&mem, 0, &[20013, 8]);
        assert!((0..4).any(|_| !words.on_yield(&mem)));
    }

    #[test]
    fn replies_wrap() {
        let mem = ring();
        mem.store(FROM_HOST + WRITE_POS, 4094);
        assert!(send(&mem, &DEVICE_LOST));
        let mut byte = [0; 1];
        for (at, expected) in [(4094, 0xfc), (4095, 0xff), (0, 0xff), (1, 0xff)] {
            mem.copy_out(BUFFER + at, &mut byte).unwrap();
            assert_eq!(byte[0], expected);
        }
    }

    #[test]
    fn nonsense_in_the_ring_is_survived() {
        let mem = ring();
        publish(&mem, 0, &[]);
        mem.store(INLINE, u32::MAX);
        mem.store(INLINE + 4, u32::MAX);
        assert_eq!(last_opcode(&mem), None);
        mem.store(BUFFER_SIZE, 3);
        assert!(!send(&mem, &DEVICE_LOST));
    }
}
