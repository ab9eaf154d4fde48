//! A Vulkan driver that does nothing but keep books: which handles are live, of what type, from which pool.
//!
//! It panics when it is asked to destroy what is not there, to destroy a device that still has objects, or to free memory after its pages.
//! Commands that make nothing answer with zero, which is success.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, c_char, c_void};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use asgard_protocol::types::*;
use asgard_protocol::wire::{Base, Wire};

/// What is known of a live handle.
#[derive(Debug)]
struct Live {
    kind: &'static str,
    device: u64,
    pool: u64,
}

#[derive(Default)]
struct Books {
    next: u64,
    live: BTreeMap<u64, Live>,
    /// Where imported memory lies.
    imports: HashMap<u64, (usize, u64)>,
}

static BOOKS: Mutex<Option<Books>> = Mutex::new(None);

/// Decides which calls fail; zero for none.
static MOOD: AtomicU64 = AtomicU64::new(0);

/// From now on calls fail as this number says.
pub(super) fn set_mood(mood: u64) {
    MOOD.store(mood, Ordering::Relaxed);
}

/// Everything was destroyed; panics otherwise.
pub(super) fn check_empty() {
    let mut guard = books();
    let left = std::mem::take(&mut guard.live);
    drop(guard);
    let alive: Vec<_> = left.values().take(5).collect();
    assert!(
        alive.is_empty(),
        "{} objects are left: {alive:?}",
        left.len()
    );
}

struct Guard(MutexGuard<'static, Option<Books>>);

impl std::ops::Deref for Guard {
    type Target = Books;
    fn deref(&self) -> &Books {
        self.0.as_ref().expect("made by books()")
    }
}

impl std::ops::DerefMut for Guard {
    fn deref_mut(&mut self) -> &mut Books {
        self.0.as_mut().expect("made by books()")
    }
}

fn books() -> Guard {
    let mut guard = BOOKS
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    guard.get_or_insert_with(Books::default);
    Guard(guard)
}

/// Whether this call fails.
fn fails() -> bool {
    let mood = MOOD.load(Ordering::Relaxed);
    if mood == 0 {
        return false;
    }
    // xorshift64
    let mut next = mood;
    next ^= next << 13;
    next ^= next >> 7;
    next ^= next << 17;
    MOOD.store(next, Ordering::Relaxed);
    next.is_multiple_of(37)
}

impl Books {
    fn make(&mut self, kind: &'static str, device: u64, pool: u64) -> u64 {
        self.next += 1;
        let handle = 0x7000_0000_0000 + self.next * 16;
        self.live.insert(handle, Live { kind, device, pool });
        handle
    }

    fn destroy(&mut self, kind: &'static str, handle: u64) {
        if handle == 0 {
            return;
        }
        match self.live.remove(&handle) {
            Some(live) if live.kind == kind => {}
            other => die(&format!("{handle:#x} is no live {kind}: {other:?}")),
        }
        self.live.retain(|_, live| live.pool != handle);
    }
}

/// Unwinding must not pass through a C function.
fn die(why: &str) -> ! {
    eprintln!("{why}\n{}", std::backtrace::Backtrace::force_capture());
    std::process::abort()
}

fn create(kind: &'static str, device: u64, n: usize, pool: u64, out: *mut u64) -> VkResult {
    let mut books = books();
    let pooled = matches!(kind, "CommandBuffer" | "DescriptorSet");
    // A driver might crash over a pool that is null or another device's; this one does not.
    let fits = books.live.get(&pool).is_some_and(|p| p.device == device);
    let failed = fails() || (pooled && !fits);
    if !matches!(kind, "Device" | "Instance") && !books.live.contains_key(&device) {
        die(&format!("a {kind} of {device:#x}, which is no live device"));
    }
    for i in 0..n {
        let handle = if failed {
            0
        } else {
            books.make(kind, device, pool)
        };
        // SAFETY: the decoder made room for n handles.
        unsafe { *out.add(i) = handle };
    }
    if failed {
        VK_ERROR_OUT_OF_DEVICE_MEMORY
    } else {
        VK_SUCCESS
    }
}

type Any = unsafe extern "system" fn();

/// A function of any signature as one of none.
macro_rules! any {
    ($f:expr, $($arg:ty),* => $ret:ty) => {{
        let f: unsafe extern "system" fn($($arg),*) -> $ret = $f;
        // SAFETY: whoever calls it knows its type by its name.
        Some(unsafe { std::mem::transmute::<*const (), Any>(f as *const ()) })
    }};
}

unsafe extern "system" fn zero() -> u64 {
    0
}

/// Pairs of vkCreateX(device, info, callbacks, out) and vkDestroyX(device, handle, callbacks).
macro_rules! plain {
    ($name:expr; $($noun:ident)*) => { $(
        if $name == concat!("vkCreate", stringify!($noun)) {
            unsafe extern "system" fn f(d: u64, _: *const c_void, _: *const c_void, out: *mut u64) -> VkResult {
                create(stringify!($noun), d, 1, 0, out)
            }
            return any!(f, u64, *const c_void, *const c_void, *mut u64 => VkResult);
        }
        if $name == concat!("vkDestroy", stringify!($noun)) {
            unsafe extern "system" fn f(_: u64, handle: u64, _: *const c_void) {
                books().destroy(stringify!($noun), handle);
            }
            return any!(f, u64, u64, *const c_void => ());
        }
    )* };
}

/// Kinds with their own ways of being made or destroyed.
macro_rules! like {
    ($name:expr; $($function:literal $kind:literal,)*) => { $(
        if $name == $function {
            unsafe extern "system" fn f(d: u64, _: *const c_void, _: *const c_void, out: *mut u64) -> VkResult {
                create($kind, d, 1, 0, out)
            }
            return any!(f, u64, *const c_void, *const c_void, *mut u64 => VkResult);
        }
    )* };
}

unsafe extern "system" fn create_instance(
    _: *const c_void,
    _: *const c_void,
    out: *mut u64,
) -> VkResult {
    create("Instance", 0, 1, 0, out)
}

unsafe extern "system" fn destroy_instance(instance: u64, _: *const c_void) {
    books().destroy("Instance", instance);
}

unsafe extern "system" fn destroy_device(device: u64, _: *const c_void) {
    let mut books = books();
    let left: Vec<_> = books.live.values().filter(|l| l.device == device).collect();
    if !left.is_empty() {
        die(&format!("a device goes, and leaves {left:?}"));
    }
    books.destroy("Device", device);
}

unsafe extern "system" fn version(out: *mut u32) -> VkResult {
    // SAFETY: room for one.
    unsafe { *out = 1 << 22 | 3 << 12 };
    VK_SUCCESS
}

/// Shows `one`, in the manner of vkEnumerate.
unsafe fn enumerate<T: Copy>(count: *mut u32, out: *mut T, one: T) -> VkResult {
    // SAFETY: the decoder made room for as many as the count says, or for none.
    unsafe {
        if out.is_null() {
            *count = 1;
        } else if *count == 0 {
            return VK_INCOMPLETE;
        } else {
            *count = 1;
            *out = one;
        }
    }
    VK_SUCCESS
}

unsafe extern "system" fn no_extensions(
    _: *const c_char,
    count: *mut u32,
    _: *mut c_void,
) -> VkResult {
    // SAFETY: room for one.
    unsafe { *count = 0 };
    VK_SUCCESS
}

unsafe extern "system" fn physical_devices(_: u64, count: *mut u32, out: *mut u64) -> VkResult {
    // SAFETY: as the specification says.
    unsafe { enumerate(count, out, 0x6000) }
}

fn named(name: &CStr, text: &mut [c_char]) {
    for (to, from) in text.iter_mut().zip(name.to_bytes_with_nul()) {
        *to = (*from).cast_signed();
    }
}

unsafe extern "system" fn extensions(
    _: u64,
    _: *const c_char,
    count: *mut u32,
    out: *mut VkExtensionProperties,
) -> VkResult {
    let mut extension = asgard_protocol::zeroed::<VkExtensionProperties>();
    named(c"VK_EXT_external_memory_host", &mut extension.extensionName);
    // SAFETY: as the specification says.
    unsafe { enumerate(count, out, extension) }
}

unsafe extern "system" fn properties(_: u64, out: *mut VkPhysicalDeviceProperties) {
    // SAFETY: room for one.
    unsafe {
        named(c"fake", &mut (*out).deviceName);
        (*out).apiVersion = 1 << 22 | 3 << 12;
        (*out).deviceType = VK_PHYSICAL_DEVICE_TYPE_CPU;
    }
}

unsafe extern "system" fn properties2(device: u64, out: *mut VkPhysicalDeviceProperties2) {
    // SAFETY: a chain of structs that start like Base.
    unsafe {
        properties(device, &raw mut (*out).properties);
        let mut next = (*out).pNext.cast::<Base>();
        while !next.is_null() {
            type Host = VkPhysicalDeviceExternalMemoryHostPropertiesEXT;
            if (*next).s_type == Host::STYPE {
                (*next.cast::<Host>()).minImportedHostPointerAlignment = 4096;
            }
            next = (*next).next.cast_mut();
        }
    }
}

unsafe extern "system" fn memory(_: u64, out: *mut VkPhysicalDeviceMemoryProperties) {
    // SAFETY: room for one.
    let out = unsafe { &mut *out };
    out.memoryTypeCount = 2;
    out.memoryTypes[0].propertyFlags = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT
        | VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT
        | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
    out.memoryTypes[1].propertyFlags = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT;
    out.memoryHeapCount = 1;
    out.memoryHeaps[0].size = 1 << 30;
}

unsafe extern "system" fn memory2(device: u64, out: *mut VkPhysicalDeviceMemoryProperties2) {
    // SAFETY: room for one.
    unsafe { memory(device, &raw mut (*out).memoryProperties) };
}

unsafe extern "system" fn families(_: u64, count: *mut u32, out: *mut VkQueueFamilyProperties) {
    let mut family = asgard_protocol::zeroed::<VkQueueFamilyProperties>();
    family.queueCount = 2;
    // SAFETY: as the specification says.
    unsafe { enumerate(count, out, family) };
}

unsafe extern "system" fn families2(_: u64, count: *mut u32, out: *mut VkQueueFamilyProperties2) {
    // SAFETY: as the specification says; the struct's chain stays.
    unsafe {
        if out.is_null() || *count == 0 {
            *count = u32::from(out.is_null());
        } else {
            *count = 1;
            (*out).queueFamilyProperties.queueCount = 2;
        }
    }
}

unsafe extern "system" fn host_pointer(
    _: u64,
    _: u32,
    _: *const c_void,
    out: *mut VkMemoryHostPointerPropertiesEXT,
) -> VkResult {
    // SAFETY: room for one.
    unsafe { (*out).memoryTypeBits = 1 };
    VK_SUCCESS
}

unsafe extern "system" fn queue(device: u64, family: u32, index: u32, out: *mut u64) {
    let known = family == 0 && index < 2;
    // SAFETY: room for one.
    unsafe {
        *out = if known {
            device + 1 + u64::from(index)
        } else {
            0
        }
    };
}

unsafe extern "system" fn queue2(device: u64, info: *const VkDeviceQueueInfo2, out: *mut u64) {
    // SAFETY: as the specification says.
    unsafe { queue(device, (*info).queueFamilyIndex, (*info).queueIndex, out) };
}

unsafe extern "system" fn allocate_memory(
    device: u64,
    info: *const VkMemoryAllocateInfo,
    _: *const c_void,
    out: *mut u64,
) -> VkResult {
    let ret = create("DeviceMemory", device, 1, 0, out);
    if ret == VK_SUCCESS {
        // SAFETY: a chain of structs that start like Base.
        unsafe {
            let mut next = (*info).pNext.cast::<Base>();
            while !next.is_null() {
                type Import = VkImportMemoryHostPointerInfoEXT;
                if (*next).s_type == Import::STYPE {
                    let at = (*next.cast::<Import>()).pHostPointer as usize;
                    books().imports.insert(*out, (at, (*info).allocationSize));
                }
                next = (*next).next;
            }
        }
    }
    ret
}

unsafe extern "system" fn free_memory(_: u64, memory: u64, _: *const c_void) {
    let mut books = books();
    if let Some((at, size)) = books.imports.remove(&memory) {
        let at = at as *mut u8;
        // SAFETY: the decoder keeps the pages until the memory is freed, or this crashes as it should.
        unsafe {
            at.write_volatile(1);
            at.add(size as usize - 1).write_volatile(1);
        }
    }
    books.destroy("DeviceMemory", memory);
}

unsafe extern "system" fn allocate_buffers(
    device: u64,
    info: *const VkCommandBufferAllocateInfo,
    out: *mut u64,
) -> VkResult {
    // SAFETY: as the specification says.
    let (n, pool) = unsafe { ((*info).commandBufferCount as usize, (*info).commandPool.0) };
    create("CommandBuffer", device, n, pool, out)
}

unsafe extern "system" fn allocate_sets(
    device: u64,
    info: *const VkDescriptorSetAllocateInfo,
    out: *mut u64,
) -> VkResult {
    // SAFETY: as the specification says.
    let (n, pool) = unsafe {
        (
            (*info).descriptorSetCount as usize,
            (*info).descriptorPool.0,
        )
    };
    create("DescriptorSet", device, n, pool, out)
}

unsafe extern "system" fn free_buffers(_: u64, _: u64, n: u32, handles: *const u64) {
    for i in 0..n as usize {
        // SAFETY: as many as the count says.
        books().destroy("CommandBuffer", unsafe { *handles.add(i) });
    }
}

unsafe extern "system" fn free_sets(_: u64, _: u64, n: u32, handles: *const u64) -> VkResult {
    for i in 0..n as usize {
        // SAFETY: as many as the count says.
        books().destroy("DescriptorSet", unsafe { *handles.add(i) });
    }
    VK_SUCCESS
}

unsafe extern "system" fn reset_sets(_: u64, pool: u64, _: u32) -> VkResult {
    books()
        .live
        .retain(|_, live| live.pool != pool || pool == 0);
    VK_SUCCESS
}

unsafe extern "system" fn pipelines(
    device: u64,
    _: u64,
    n: u32,
    _: *const c_void,
    _: *const c_void,
    out: *mut u64,
) -> VkResult {
    create("Pipeline", device, n as usize, 0, out)
}

unsafe extern "system" fn deferred_pipelines(
    device: u64,
    _: u64,
    _: u64,
    n: u32,
    _: *const c_void,
    _: *const c_void,
    out: *mut u64,
) -> VkResult {
    create("Pipeline", device, n as usize, 0, out)
}

unsafe extern "system" fn shaders(
    device: u64,
    n: u32,
    _: *const c_void,
    _: *const c_void,
    out: *mut u64,
) -> VkResult {
    create("ShaderEXT", device, n as usize, 0, out)
}

unsafe extern "system" fn deferred(device: u64, _: *const c_void, out: *mut u64) -> VkResult {
    create("DeferredOperationKHR", device, 1, 0, out)
}

unsafe extern "system" fn not_ready(_: u64, _: u64) -> VkResult {
    if fails() { VK_NOT_READY } else { VK_SUCCESS }
}

/// `vkGetInstanceProcAddr`.
pub(super) unsafe extern "system" fn entry(
    _: VkInstance,
    name: *const c_char,
) -> PFN_vkVoidFunction {
    // SAFETY: a name.
    find(unsafe { CStr::from_ptr(name) }.to_str().unwrap_or_default())
}

unsafe extern "system" fn device_entry(_: VkDevice, name: *const c_char) -> PFN_vkVoidFunction {
    // SAFETY: a name.
    find(unsafe { CStr::from_ptr(name) }.to_str().unwrap_or_default())
}

fn find(name: &str) -> PFN_vkVoidFunction {
    type P = *const c_void;
    type M = *mut u64;
    type R = VkResult;
    // Not of the usual shape.
    if name == "vkCreateDeferredOperationKHR" {
        return any!(deferred, u64, P, M => R);
    }
    plain! { name;
        Buffer BufferView Image ImageView ShaderModule PipelineCache PipelineLayout Sampler
        DescriptorSetLayout DescriptorPool Fence Semaphore Event QueryPool Framebuffer RenderPass
        CommandPool DescriptorUpdateTemplate SamplerYcbcrConversion ValidationCacheEXT
        AccelerationStructureKHR AccelerationStructureNV PrivateDataSlot CuModuleNVX CuFunctionNVX
        OpticalFlowSessionNV MicromapEXT TensorARM TensorViewARM DataGraphPipelineSessionARM
        VideoSessionKHR VideoSessionParametersKHR CudaModuleNV CudaFunctionNV
        ExternalComputeQueueNV IndirectCommandsLayoutNV IndirectCommandsLayoutEXT
        IndirectExecutionSetEXT Pipeline ShaderEXT DeferredOperationKHR
    }
    like! { name;
        "vkCreateRenderPass2" "RenderPass",
        "vkRegisterDeviceEventEXT" "Fence",
    }
    match name {
        "vkCreateInstance" => any!(create_instance, P, P, M => R),
        "vkDestroyInstance" => any!(destroy_instance, u64, P => ()),
        "vkEnumerateInstanceVersion" => any!(version, *mut u32 => R),
        "vkEnumerateInstanceExtensionProperties" => {
            any!(no_extensions, *const c_char, *mut u32, *mut c_void => R)
        }
        "vkGetDeviceProcAddr" => {
            any!(device_entry, VkDevice, *const c_char => PFN_vkVoidFunction)
        }
        "vkEnumeratePhysicalDevices" => any!(physical_devices, u64, *mut u32, M => R),
        "vkEnumerateDeviceExtensionProperties" => {
            any!(extensions, u64, *const c_char, *mut u32, *mut VkExtensionProperties => R)
        }
        "vkGetPhysicalDeviceProperties" => {
            any!(properties, u64, *mut VkPhysicalDeviceProperties => ())
        }
        "vkGetPhysicalDeviceProperties2" => {
            any!(properties2, u64, *mut VkPhysicalDeviceProperties2 => ())
        }
        "vkGetPhysicalDeviceMemoryProperties" => {
            any!(memory, u64, *mut VkPhysicalDeviceMemoryProperties => ())
        }
        "vkGetPhysicalDeviceMemoryProperties2" => {
            any!(memory2, u64, *mut VkPhysicalDeviceMemoryProperties2 => ())
        }
        "vkGetPhysicalDeviceQueueFamilyProperties" => {
            any!(families, u64, *mut u32, *mut VkQueueFamilyProperties => ())
        }
        "vkGetPhysicalDeviceQueueFamilyProperties2" => {
            any!(families2, u64, *mut u32, *mut VkQueueFamilyProperties2 => ())
        }
        "vkGetMemoryHostPointerPropertiesEXT" => {
            any!(host_pointer, u64, u32, P, *mut VkMemoryHostPointerPropertiesEXT => R)
        }
        "vkCreateDevice" => {
            unsafe extern "system" fn f(_: u64, _: P, _: P, out: M) -> R {
                create("Device", 0, 1, 0, out)
            }
            any!(f, u64, P, P, M => R)
        }
        "vkDestroyDevice" => any!(destroy_device, u64, P => ()),
        "vkGetDeviceQueue" => any!(queue, u64, u32, u32, M => ()),
        "vkGetDeviceQueue2" => any!(queue2, u64, *const VkDeviceQueueInfo2, M => ()),
        "vkAllocateMemory" => any!(allocate_memory, u64, *const VkMemoryAllocateInfo, P, M => R),
        "vkFreeMemory" => any!(free_memory, u64, u64, P => ()),
        "vkAllocateCommandBuffers" => {
            any!(allocate_buffers, u64, *const VkCommandBufferAllocateInfo, M => R)
        }
        "vkAllocateDescriptorSets" => {
            any!(allocate_sets, u64, *const VkDescriptorSetAllocateInfo, M => R)
        }
        "vkFreeCommandBuffers" => any!(free_buffers, u64, u64, u32, *const u64 => ()),
        "vkFreeDescriptorSets" => any!(free_sets, u64, u64, u32, *const u64 => R),
        "vkResetDescriptorPool" => any!(reset_sets, u64, u64, u32 => R),
        "vkCreateGraphicsPipelines"
        | "vkCreateComputePipelines"
        | "vkCreateRayTracingPipelinesNV"
        | "vkCreateExecutionGraphPipelinesAMDX" => any!(pipelines, u64, u64, u32, P, P, M => R),
        "vkCreateRayTracingPipelinesKHR" | "vkCreateDataGraphPipelinesARM" => {
            any!(deferred_pipelines, u64, u64, u64, u32, P, P, M => R)
        }
        "vkCreateShadersEXT" => any!(shaders, u64, u32, P, P, M => R),
        "vkGetFenceStatus" => any!(not_ready, u64, u64 => R),
        _ => any!(zero, => u64),
    }
}
