//! What commands do, one file for each Vulkan object.
//!
//! The generated traits give every command a body: resolve, call the driver, put tokens in the place
//! of new handles. A file here overrides those that do more; an object without a file is in the list
//! of plain ones below.

use asgard_protocol::commands as p;
use asgard_protocol::driver::DeviceFns;
use asgard_protocol::extension::Features;
use asgard_protocol::types::*;
use asgard_protocol::{Arena, Reader};

use crate::Error;
use crate::stream::{Engine, Host, count, count_in, run, run_on_command_buffer, slice_mut, stage};

mod acceleration_structure;
mod buffer;
mod chain;
mod command_buffer;
mod command_pool;
mod deferred_operation;
mod descriptor_pool;
mod descriptor_set;
mod descriptor_update_template;
mod device;
mod device_memory;
mod fence;
mod image;
mod instance;
mod physical_device;
mod pipeline;
mod query_pool;
mod queue;
mod semaphore;

#[allow(
    non_snake_case,
    clippy::too_many_lines,
    clippy::match_same_arms,
    reason = "generated, with C names"
)]
mod generated {
    use super::*;
    include!(concat!(env!("OUT_DIR"), "/dispatch.rs"));
}
use generated::*;
pub use generated::{HIDDEN_EXTENSIONS, VM_EXTENSIONS};
pub(crate) use generated::{destroy_leftover, dispatch, has_sequence_number, known_upstream};

/// Objects whose every command is the plain driver call.
macro_rules! plain {
    ($($commands:ident)*) => { $( impl $commands for Engine {} )* };
}
plain! {
    BufferCollectionCommands BufferViewCommands
    CuFunctionCommands CuModuleCommands CudaFunctionCommands CudaModuleCommands
    DataGraphPipelineSessionCommands DebugReportCallbackCommands DebugUtilsMessengerCommands
    DescriptorSetLayoutCommands DisplayCommands DisplayModeCommands
    EventCommands ExternalComputeQueueCommands FramebufferCommands ImageViewCommands
    IndirectCommandsLayoutCommands IndirectExecutionSetCommands
    OpticalFlowSessionCommands PerformanceConfigurationCommands
    PipelineBinaryCommands PipelineCacheCommands PipelineLayoutCommands PrivateDataSlotCommands
    RenderPassCommands SamplerCommands SamplerYcbcrConversionCommands
    ShaderCommands ShaderModuleCommands SurfaceCommands SwapchainCommands TensorCommands
    TensorViewCommands ValidationCacheCommands VideoSessionCommands
    VideoSessionParametersCommands
}

/// The driver's function, or why there is none.
macro_rules! function {
    ($fns:expr, $name:ident) => {
        $fns.$name
            .ok_or($crate::Error::NoSuchFunction(stringify!($name)))?
    };
}
pub(crate) use function;

/// The most that a driver is given room for beyond what a guest asked for.
const MOST_ROOM: usize = 64 << 20;

/// Calls the driver with room for at least `least` bytes, whatever the guest says, and hands on the
/// `size` bytes that the guest has room for. What the driver leaves alone stays as the guest sent it.
pub(crate) fn with_room<T>(
    data: *mut std::ffi::c_void,
    size: usize,
    least: usize,
    call: impl FnOnce(*mut std::ffi::c_void) -> T,
) -> Result<T, Error> {
    if size >= least && !data.is_null() {
        return Ok(call(data));
    }
    if least > MOST_ROOM {
        return Err(Error::Nonsense("results that are larger than their room"));
    }
    let mut room = vec![0u64; least.max(size).div_ceil(8)];
    if data.is_null() {
        return Ok(call(room.as_mut_ptr().cast()));
    }
    let ours = room.as_mut_ptr().cast::<u8>();
    // SAFETY: decoding made `size` bytes of room at `data`, and ours is not smaller.
    unsafe { std::ptr::copy_nonoverlapping(data.cast(), ours, size) };
    let ret = call(ours.cast());
    // SAFETY: as above.
    unsafe { std::ptr::copy_nonoverlapping(ours, data.cast(), size) };
    Ok(ret)
}

/// Runs a recording against a command buffer.
pub(crate) fn play(
    e: &mut Engine,
    fns: &DeviceFns,
    command_buffer: (u64, u64),
    bytes: &[u8],
) -> Result<u64, Error> {
    use asgard_protocol::packet::{HEADER, Header};
    let mut arena = std::mem::replace(&mut e.staged, Arena::new());
    let context = std::sync::Arc::clone(&e.context);
    let mut rest = bytes;
    let mut commands = 0;
    while let Some(header) = Header::read(rest) {
        let (packet, tail) = rest
            .split_at_checked(header.size as usize)
            .ok_or(Error::BadSize(header.size))?;
        let body = packet.get(HEADER..).ok_or(Error::BadSize(header.size))?;
        context.check_known(header.opcode)?;
        let mut reader = Reader::staged(body, &arena, &context.objects, command_buffer);
        record(e, fns, header.opcode, &mut reader)?;
        crate::stream::recycle(&mut arena);
        commands += 1;
        rest = tail;
    }
    e.staged = arena;
    if rest.is_empty() {
        Ok(commands)
    } else {
        Err(Error::Nonsense("a recording ends inside a header"))
    }
}
