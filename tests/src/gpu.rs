//! A thin layer over ash: one device, its memory, and the few shapes of object that every workload makes.
//!
//! Objects are [`Own`]ed: they are destroyed when they go out of scope, and the borrow of [`Gpu`] keeps the device alive until then.

use std::collections::BTreeSet;
use std::ffi::{CStr, c_void};
use std::fmt;
use std::ops::Deref;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};
use ash::vk;

/// Nanoseconds that a wait may take before the workload gives up: long enough for a loaded software renderer.
pub const PATIENCE: u64 = 120_000_000_000;

/// The device a workload runs on, opened with every feature that the device shows.
pub struct Gpu {
    /// Calls on the instance.
    pub instance: ash::Instance,
    /// Calls on the device.
    pub device: ash::Device,
    /// The first physical device.
    pub physical: vk::PhysicalDevice,
    /// Index of the queue family in use: it can draw, compute and copy.
    pub family: u32,
    /// What that family says about itself.
    pub family_properties: vk::QueueFamilyProperties,
    /// Up to two queues; submits take the lock.
    pub queues: Vec<Mutex<vk::Queue>>,
    /// Limits and name.
    pub properties: vk::PhysicalDeviceProperties,
    /// Vulkan 1.0 features, all enabled.
    pub features: vk::PhysicalDeviceFeatures,
    /// Vulkan 1.1 features, all enabled.
    pub features11: vk::PhysicalDeviceVulkan11Features<'static>,
    /// Vulkan 1.2 features, all enabled.
    pub features12: vk::PhysicalDeviceVulkan12Features<'static>,
    /// Vulkan 1.3 features, all enabled; all false on an older device.
    pub features13: vk::PhysicalDeviceVulkan13Features<'static>,
    /// Memory types and heaps.
    pub memory: vk::PhysicalDeviceMemoryProperties,
    /// Names of the device extensions that the device shows.
    pub extensions: BTreeSet<String>,
    validation: Option<Validation>,
    _entry: ash::Entry,
}

const LAYER: &CStr = c"VK_LAYER_KHRONOS_validation";

/// Device extensions that are enabled when shown; everything else the workloads use is core.
const WANTED: &[&CStr] = &[
    ash::khr::push_descriptor::NAME,
    ash::khr::deferred_host_operations::NAME,
    ash::khr::acceleration_structure::NAME,
    ash::khr::ray_query::NAME,
    ash::khr::ray_tracing_pipeline::NAME,
    ash::khr::external_fence_fd::NAME,
    ash::khr::external_semaphore_fd::NAME,
    ash::khr::external_memory_fd::NAME,
    ash::ext::external_memory_host::NAME,
    ash::ext::multi_draw::NAME,
    ash::ext::host_image_copy::NAME,
    ash::ext::descriptor_buffer::NAME,
];

/// Extensions that layers older than this do not know, and take for a mistake.
const NEW: &[(&CStr, u32)] = &[(
    ash::ext::host_image_copy::NAME,
    vk::make_api_version(0, 1, 3, 258),
)];

/// Complaints that are the layer's own mistakes.
///
/// Layer 1.3.239 takes a value that the host signalled for pending as long as submits wait for later ones.
const MISTAKEN: &[&CStr] = &[c"VUID-VkSemaphoreSignalInfo-value-03259"];

struct Validation {
    functions: ash::ext::debug_utils::Instance,
    messenger: vk::DebugUtilsMessengerEXT,
    /// Boxed so that its address outlives moves: the layer writes to it.
    complaints: Box<AtomicU32>,
}

unsafe extern "system" fn complain(
    _severity: vk::DebugUtilsMessageSeverityFlagsEXT,
    _kind: vk::DebugUtilsMessageTypeFlagsEXT,
    data: *const vk::DebugUtilsMessengerCallbackDataEXT<'_>,
    user: *mut c_void,
) -> vk::Bool32 {
    let complaints = unsafe { &*user.cast::<AtomicU32>() };
    let name = unsafe { (*data).message_id_name_as_c_str() };
    if name.is_some_and(|name| MISTAKEN.contains(&name)) {
        return vk::FALSE;
    }
    if complaints.fetch_add(1, Ordering::Relaxed) < 8 {
        let message = unsafe { (*data).message_as_c_str() };
        eprintln!("validation: {}", message.unwrap_or(c"?").to_string_lossy());
    }
    vk::FALSE
}

// The only pointers in it are the feature structs' `p_next`, and they are null.
unsafe impl Send for Gpu {}
unsafe impl Sync for Gpu {}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gpu")
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}

impl Gpu {
    /// Opens the first device; with `validate` under the Khronos validation layer, whose complaints [`Gpu::complaints`] counts.
    pub fn new(validate: bool) -> Result<Self> {
        unsafe {
            let entry = ash::Entry::load().context("loading the Vulkan loader")?;
            let layers = [LAYER.as_ptr()];
            let extensions = [ash::ext::debug_utils::NAME.as_ptr()];
            let application = vk::ApplicationInfo::default()
                .application_name(c"asgard-tests")
                .api_version(vk::API_VERSION_1_3);
            let mut info = vk::InstanceCreateInfo::default().application_info(&application);
            if validate {
                info = info
                    .enabled_layer_names(&layers)
                    .enabled_extension_names(&extensions);
            }
            let instance = entry
                .create_instance(&info, None)
                .context("creating an instance")?;
            let validation = if validate {
                let functions = ash::ext::debug_utils::Instance::new(&entry, &instance);
                let complaints = Box::new(AtomicU32::new(0));
                let info = vk::DebugUtilsMessengerCreateInfoEXT::default()
                    .message_severity(
                        vk::DebugUtilsMessageSeverityFlagsEXT::ERROR
                            | vk::DebugUtilsMessageSeverityFlagsEXT::WARNING,
                    )
                    .message_type(vk::DebugUtilsMessageTypeFlagsEXT::VALIDATION)
                    .pfn_user_callback(Some(complain))
                    .user_data((&raw const *complaints).cast_mut().cast());
                let messenger = functions.create_debug_utils_messenger(&info, None)?;
                Some(Validation {
                    functions,
                    messenger,
                    complaints,
                })
            } else {
                None
            };

            let physical = *instance
                .enumerate_physical_devices()?
                .first()
                .context("the loader shows no physical device")?;
            let properties = instance.get_physical_device_properties(physical);
            ensure!(
                properties.api_version >= vk::API_VERSION_1_2,
                "the device shows Vulkan {}.{}, and 1.2 is the least that the workloads use",
                vk::api_version_major(properties.api_version),
                vk::api_version_minor(properties.api_version)
            );
            let has_13 = properties.api_version >= vk::API_VERSION_1_3;

            let layer = if validate {
                let layers = entry.enumerate_instance_layer_properties()?;
                let is_it = |l: &&vk::LayerProperties| l.layer_name_as_c_str() == Ok(LAYER);
                layers.iter().find(is_it).map_or(0, |l| l.spec_version)
            } else {
                u32::MAX
            };
            let too_new = |name: &CStr| NEW.iter().any(|(new, v)| *new == name && layer < *v);
            let extensions: BTreeSet<String> = instance
                .enumerate_device_extension_properties(physical)?
                .iter()
                .filter_map(|e| e.extension_name_as_c_str().ok())
                .filter(|name| !too_new(name))
                .filter_map(|name| Some(name.to_str().ok()?.to_owned()))
                .collect();

            let mut features11 = vk::PhysicalDeviceVulkan11Features::default();
            let mut features12 = vk::PhysicalDeviceVulkan12Features::default();
            let mut features13 = vk::PhysicalDeviceVulkan13Features::default();
            let mut features2 = vk::PhysicalDeviceFeatures2::default()
                .push_next(&mut features11)
                .push_next(&mut features12);
            if has_13 {
                features2 = features2.push_next(&mut features13);
            }
            instance.get_physical_device_features2(physical, &mut features2);
            let features = features2.features;

            let families = instance.get_physical_device_queue_family_properties(physical);
            let all = vk::QueueFlags::GRAPHICS | vk::QueueFlags::COMPUTE;
            let family = families
                .iter()
                .position(|family| family.queue_flags.contains(all))
                .context("no queue family can draw and compute")?;
            let family_properties = families[family];
            let priorities = [1.0f32; 2];
            let count = family_properties.queue_count.min(2) as usize;
            let queue_infos = [vk::DeviceQueueCreateInfo::default()
                .queue_family_index(family as u32)
                .queue_priorities(&priorities[..count])];
            let enabled: Vec<_> = WANTED
                .iter()
                .filter(|name| extensions.contains(&*name.to_string_lossy()))
                .map(|name| name.as_ptr())
                .collect();
            let mut features2 = vk::PhysicalDeviceFeatures2::default().features(features);
            features11.p_next = std::ptr::null_mut();
            features12.p_next = std::ptr::null_mut();
            features13.p_next = std::ptr::null_mut();
            let (mut on11, mut on12, mut on13) = (features11, features12, features13);
            features2 = features2.push_next(&mut on11).push_next(&mut on12);
            if has_13 {
                features2 = features2.push_next(&mut on13);
            }
            let shown = |name: &CStr| extensions.contains(&*name.to_string_lossy());
            let mut multi_draw = vk::PhysicalDeviceMultiDrawFeaturesEXT::default().multi_draw(true);
            if shown(ash::ext::multi_draw::NAME) {
                features2 = features2.push_next(&mut multi_draw);
            }
            let mut copies =
                vk::PhysicalDeviceHostImageCopyFeaturesEXT::default().host_image_copy(true);
            if shown(ash::ext::host_image_copy::NAME) {
                features2 = features2.push_next(&mut copies);
            }
            let mut descriptors =
                vk::PhysicalDeviceDescriptorBufferFeaturesEXT::default().descriptor_buffer(true);
            if shown(ash::ext::descriptor_buffer::NAME) {
                features2 = features2.push_next(&mut descriptors);
            }
            let mut structures = vk::PhysicalDeviceAccelerationStructureFeaturesKHR::default()
                .acceleration_structure(true);
            let mut queries = vk::PhysicalDeviceRayQueryFeaturesKHR::default().ray_query(true);
            let mut pipelines = vk::PhysicalDeviceRayTracingPipelineFeaturesKHR::default()
                .ray_tracing_pipeline(true);
            if shown(ash::khr::acceleration_structure::NAME) {
                features2 = features2.push_next(&mut structures);
            }
            if shown(ash::khr::ray_query::NAME) {
                features2 = features2.push_next(&mut queries);
            }
            if shown(ash::khr::ray_tracing_pipeline::NAME) {
                features2 = features2.push_next(&mut pipelines);
            }
            let info = vk::DeviceCreateInfo::default()
                .queue_create_infos(&queue_infos)
                .enabled_extension_names(&enabled)
                .push_next(&mut features2);
            let device = instance
                .create_device(physical, &info, None)
                .context("creating a device")?;
            let queues = (0..count as u32)
                .map(|index| Mutex::new(device.get_device_queue(family as u32, index)))
                .collect();
            Ok(Self {
                memory: instance.get_physical_device_memory_properties(physical),
                instance,
                device,
                physical,
                family: family as u32,
                family_properties,
                queues,
                properties,
                features,
                features11,
                features12,
                features13,
                extensions,
                validation,
                _entry: entry,
            })
        }
    }

    /// The device's name.
    pub fn name(&self) -> String {
        self.properties
            .device_name_as_c_str()
            .unwrap_or(c"?")
            .to_string_lossy()
            .into_owned()
    }

    /// Whether the device shows Vulkan 1.3.
    pub fn has_13(&self) -> bool {
        self.properties.api_version >= vk::API_VERSION_1_3
    }

    /// Whether the validation layer looks on.
    pub fn validates(&self) -> bool {
        self.validation.is_some()
    }

    /// How often the validation layer complained; zero without it.
    pub fn complaints(&self) -> u32 {
        let count = |v: &Validation| v.complaints.load(Ordering::Relaxed);
        self.validation.as_ref().map_or(0, count)
    }

    /// Puts an object into this device's care.
    pub fn own<T: Destroy>(&self, handle: T) -> Own<'_, T> {
        Own { gpu: self, handle }
    }

    /// The first memory type among `bits` that has all of `flags`.
    pub fn memory_type(&self, bits: u32, flags: vk::MemoryPropertyFlags) -> Result<u32> {
        (0..self.memory.memory_type_count)
            .find(|&index| {
                bits & (1 << index) != 0
                    && self.memory.memory_types[index as usize]
                        .property_flags
                        .contains(flags)
            })
            .with_context(|| format!("no memory type in {bits:#x} has {flags:?}"))
    }

    /// Allocates memory for `requirements`.
    pub fn allocate(
        &self,
        requirements: vk::MemoryRequirements,
        flags: vk::MemoryPropertyFlags,
    ) -> Result<Own<'_, vk::DeviceMemory>> {
        self.allocate_as(requirements, flags, vk::MemoryAllocateFlags::empty())
    }

    fn allocate_as(
        &self,
        requirements: vk::MemoryRequirements,
        flags: vk::MemoryPropertyFlags,
        special: vk::MemoryAllocateFlags,
    ) -> Result<Own<'_, vk::DeviceMemory>> {
        let mut extra = vk::MemoryAllocateFlagsInfo::default().flags(special);
        let mut info = vk::MemoryAllocateInfo::default()
            .allocation_size(requirements.size)
            .memory_type_index(self.memory_type(requirements.memory_type_bits, flags)?);
        if !special.is_empty() {
            info = info.push_next(&mut extra);
        }
        let memory = unsafe { self.device.allocate_memory(&info, None) }
            .with_context(|| format!("allocating {} bytes", requirements.size))?;
        Ok(self.own(memory))
    }

    /// A buffer in host-visible, coherent memory, mapped for its whole life.
    pub fn buffer(&self, size: u64, usage: vk::BufferUsageFlags) -> Result<Buffer<'_>> {
        let flags = vk::MemoryPropertyFlags::HOST_VISIBLE | vk::MemoryPropertyFlags::HOST_COHERENT;
        let mut buffer = self.buffer_in(size, usage, flags)?;
        let map = vk::MemoryMapFlags::empty();
        let pointer = unsafe {
            self.device
                .map_memory(*buffer.memory, 0, vk::WHOLE_SIZE, map)?
        };
        buffer.pointer = pointer.cast();
        Ok(buffer)
    }

    /// Where the device finds a buffer that was made with SHADER_DEVICE_ADDRESS.
    pub fn address(&self, buffer: &Buffer<'_>) -> vk::DeviceAddress {
        let info = vk::BufferDeviceAddressInfo::default().buffer(*buffer.handle);
        unsafe { self.device.get_buffer_device_address(&info) }
    }

    /// A buffer in device-local memory.
    pub fn device_buffer(&self, size: u64, usage: vk::BufferUsageFlags) -> Result<Buffer<'_>> {
        self.buffer_in(size, usage, vk::MemoryPropertyFlags::DEVICE_LOCAL)
    }

    /// A mapped buffer that holds `data`.
    pub fn buffer_with<T: bytemuck::Pod>(
        &self,
        data: &[T],
        usage: vk::BufferUsageFlags,
    ) -> Result<Buffer<'_>> {
        let bytes: &[u8] = bytemuck::cast_slice(data);
        let buffer = self.buffer(bytes.len() as u64, usage)?;
        buffer.write(0, bytes);
        Ok(buffer)
    }

    fn buffer_in(
        &self,
        size: u64,
        usage: vk::BufferUsageFlags,
        flags: vk::MemoryPropertyFlags,
    ) -> Result<Buffer<'_>> {
        let info = vk::BufferCreateInfo::default().size(size).usage(usage);
        unsafe {
            let handle = self.own(self.device.create_buffer(&info, None)?);
            let special = if usage.contains(vk::BufferUsageFlags::SHADER_DEVICE_ADDRESS) {
                vk::MemoryAllocateFlags::DEVICE_ADDRESS
            } else {
                vk::MemoryAllocateFlags::empty()
            };
            let requirements = self.device.get_buffer_memory_requirements(*handle);
            let memory = self.allocate_as(requirements, flags, special)?;
            self.device.bind_buffer_memory(*handle, *memory, 0)?;
            Ok(Buffer {
                handle,
                memory,
                size,
                pointer: std::ptr::null_mut(),
            })
        }
    }

    /// An image with its memory and a view of all of it.
    pub fn image(&self, desc: ImageDesc) -> Result<Image<'_>> {
        let kind = if desc.extent.depth > 1 {
            vk::ImageType::TYPE_3D
        } else {
            vk::ImageType::TYPE_2D
        };
        let info = vk::ImageCreateInfo::default()
            .image_type(kind)
            .format(desc.format)
            .extent(desc.extent)
            .mip_levels(desc.levels)
            .array_layers(desc.layers)
            .samples(desc.samples)
            .tiling(vk::ImageTiling::OPTIMAL)
            .usage(desc.usage)
            .initial_layout(vk::ImageLayout::UNDEFINED);
        unsafe {
            let handle = self.own(self.device.create_image(&info, None)?);
            let requirements = self.device.get_image_memory_requirements(*handle);
            let memory = self.allocate(requirements, vk::MemoryPropertyFlags::DEVICE_LOCAL)?;
            self.device.bind_image_memory(*handle, *memory, 0)?;
            let aspect = match desc.format {
                vk::Format::D32_SFLOAT | vk::Format::D16_UNORM => vk::ImageAspectFlags::DEPTH,
                _ => vk::ImageAspectFlags::COLOR,
            };
            let range = vk::ImageSubresourceRange {
                aspect_mask: aspect,
                base_mip_level: 0,
                level_count: desc.levels,
                base_array_layer: 0,
                layer_count: desc.layers,
            };
            let view_kind = match (kind, desc.layers) {
                (vk::ImageType::TYPE_3D, _) => vk::ImageViewType::TYPE_3D,
                (_, 1) => vk::ImageViewType::TYPE_2D,
                _ => vk::ImageViewType::TYPE_2D_ARRAY,
            };
            let viewable = vk::ImageUsageFlags::SAMPLED
                | vk::ImageUsageFlags::STORAGE
                | vk::ImageUsageFlags::COLOR_ATTACHMENT
                | vk::ImageUsageFlags::DEPTH_STENCIL_ATTACHMENT
                | vk::ImageUsageFlags::INPUT_ATTACHMENT;
            let view = if desc.usage.intersects(viewable) {
                self.view(*handle, desc.format, view_kind, range)?
            } else {
                self.own(vk::ImageView::null())
            };
            Ok(Image {
                view,
                handle,
                memory,
                desc,
                range,
            })
        }
    }

    /// A view of a part of an image.
    pub fn view(
        &self,
        image: vk::Image,
        format: vk::Format,
        kind: vk::ImageViewType,
        range: vk::ImageSubresourceRange,
    ) -> Result<Own<'_, vk::ImageView>> {
        let info = vk::ImageViewCreateInfo::default()
            .image(image)
            .view_type(kind)
            .format(format)
            .subresource_range(range);
        Ok(self.own(unsafe { self.device.create_image_view(&info, None)? }))
    }

    /// A sampler that repeats, with linear or nearest filtering and all mip levels.
    pub fn sampler(&self, filter: vk::Filter) -> Result<Own<'_, vk::Sampler>> {
        let mipmap_mode = if filter == vk::Filter::LINEAR {
            vk::SamplerMipmapMode::LINEAR
        } else {
            vk::SamplerMipmapMode::NEAREST
        };
        let info = vk::SamplerCreateInfo::default()
            .mag_filter(filter)
            .min_filter(filter)
            .mipmap_mode(mipmap_mode)
            .max_lod(vk::LOD_CLAMP_NONE);
        Ok(self.own(unsafe { self.device.create_sampler(&info, None)? }))
    }

    /// A shader module from SPIR-V words.
    pub fn module(&self, words: &[u32]) -> Result<Own<'_, vk::ShaderModule>> {
        let info = vk::ShaderModuleCreateInfo::default().code(words);
        Ok(self.own(unsafe { self.device.create_shader_module(&info, None)? }))
    }

    /// A set layout of consecutive bindings, one descriptor each.
    pub fn set_layout(
        &self,
        kinds: &[vk::DescriptorType],
        stages: vk::ShaderStageFlags,
    ) -> Result<Own<'_, vk::DescriptorSetLayout>> {
        let bindings: Vec<_> = (0..)
            .zip(kinds)
            .map(|(binding, &kind)| {
                vk::DescriptorSetLayoutBinding::default()
                    .binding(binding)
                    .descriptor_type(kind)
                    .descriptor_count(1)
                    .stage_flags(stages)
            })
            .collect();
        let info = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
        Ok(self.own(unsafe { self.device.create_descriptor_set_layout(&info, None)? }))
    }

    /// A pipeline layout with `push` bytes of push constants for `stages`.
    pub fn pipeline_layout(
        &self,
        sets: &[vk::DescriptorSetLayout],
        push: u32,
        stages: vk::ShaderStageFlags,
    ) -> Result<Own<'_, vk::PipelineLayout>> {
        let range = [vk::PushConstantRange {
            stage_flags: stages,
            offset: 0,
            size: push,
        }];
        let ranges = if push > 0 { &range[..] } else { &[] };
        let info = vk::PipelineLayoutCreateInfo::default()
            .set_layouts(sets)
            .push_constant_ranges(ranges);
        Ok(self.own(unsafe { self.device.create_pipeline_layout(&info, None)? }))
    }

    /// A descriptor pool with room for `count` descriptors of each of these kinds, and as many sets.
    pub fn pool(
        &self,
        kinds: &[vk::DescriptorType],
        count: u32,
    ) -> Result<Own<'_, vk::DescriptorPool>> {
        let sizes: Vec<_> = kinds
            .iter()
            .map(|&ty| vk::DescriptorPoolSize {
                ty,
                descriptor_count: count,
            })
            .collect();
        let info = vk::DescriptorPoolCreateInfo::default()
            .flags(vk::DescriptorPoolCreateFlags::FREE_DESCRIPTOR_SET)
            .max_sets(count)
            .pool_sizes(&sizes);
        Ok(self.own(unsafe { self.device.create_descriptor_pool(&info, None)? }))
    }

    /// One set from a pool; it lives as long as the pool.
    pub fn set(
        &self,
        pool: vk::DescriptorPool,
        layout: vk::DescriptorSetLayout,
    ) -> Result<vk::DescriptorSet> {
        let layouts = [layout];
        let info = vk::DescriptorSetAllocateInfo::default()
            .descriptor_pool(pool)
            .set_layouts(&layouts);
        Ok(unsafe { self.device.allocate_descriptor_sets(&info)? }[0])
    }

    /// Points a binding of a set at a whole buffer.
    pub fn write_buffer(
        &self,
        set: vk::DescriptorSet,
        binding: u32,
        kind: vk::DescriptorType,
        buffer: &Buffer<'_>,
    ) {
        let info = [buffer.whole()];
        let write = vk::WriteDescriptorSet::default()
            .dst_set(set)
            .dst_binding(binding)
            .descriptor_type(kind)
            .buffer_info(&info);
        unsafe { self.device.update_descriptor_sets(&[write], &[]) }
    }

    /// A compute pipeline for the entry point `main`.
    pub fn compute_pipeline(
        &self,
        words: &[u32],
        layout: vk::PipelineLayout,
    ) -> Result<Own<'_, vk::Pipeline>> {
        let module = self.module(words)?;
        let stage = vk::PipelineShaderStageCreateInfo::default()
            .stage(vk::ShaderStageFlags::COMPUTE)
            .module(*module)
            .name(c"main");
        let info = vk::ComputePipelineCreateInfo::default()
            .stage(stage)
            .layout(layout);
        self.compute_pipeline_from(vk::PipelineCache::null(), &info)
    }

    /// A compute pipeline from a full description.
    pub fn compute_pipeline_from(
        &self,
        cache: vk::PipelineCache,
        info: &vk::ComputePipelineCreateInfo<'_>,
    ) -> Result<Own<'_, vk::Pipeline>> {
        let made = unsafe {
            self.device
                .create_compute_pipelines(cache, std::slice::from_ref(info), None)
        };
        match made {
            Ok(pipelines) => Ok(self.own(pipelines[0])),
            Err((_, error)) => bail!("creating a compute pipeline: {error}"),
        }
    }

    /// A compute program over storage buffers at bindings 0, 1, ... of set 0, with `push` bytes of push constants.
    pub fn kernel<'g>(
        &'g self,
        wgsl: &str,
        buffers: &[&Buffer<'_>],
        push: u32,
    ) -> Result<Kernel<'g>> {
        let kinds = vec![vk::DescriptorType::STORAGE_BUFFER; buffers.len()];
        let compute = vk::ShaderStageFlags::COMPUTE;
        let set_layout = self.set_layout(&kinds, compute)?;
        let layout = self.pipeline_layout(&[*set_layout], push, compute)?;
        let pool = self.pool(&kinds[..1], buffers.len() as u32)?;
        let set = self.set(*pool, *set_layout)?;
        for (binding, buffer) in (0..).zip(buffers) {
            self.write_buffer(set, binding, kinds[0], buffer);
        }
        let pipeline = self.compute_pipeline(&crate::shader::compile(wgsl)?, *layout)?;
        Ok(Kernel {
            pipeline,
            layout,
            set,
            _pool: pool,
            _set_layout: set_layout,
        })
    }

    /// A command pool whose buffers can be reset one by one.
    pub fn command_pool(&self) -> Result<Own<'_, vk::CommandPool>> {
        let info = vk::CommandPoolCreateInfo::default()
            .flags(vk::CommandPoolCreateFlags::RESET_COMMAND_BUFFER)
            .queue_family_index(self.family);
        Ok(self.own(unsafe { self.device.create_command_pool(&info, None)? }))
    }

    /// Command buffers from a pool; they live as long as the pool.
    pub fn command_buffers(
        &self,
        pool: vk::CommandPool,
        level: vk::CommandBufferLevel,
        count: u32,
    ) -> Result<Vec<vk::CommandBuffer>> {
        let info = vk::CommandBufferAllocateInfo::default()
            .command_pool(pool)
            .level(level)
            .command_buffer_count(count);
        Ok(unsafe { self.device.allocate_command_buffers(&info)? })
    }

    /// Records a primary command buffer; it can be submitted again and again.
    pub fn record(
        &self,
        cmd: vk::CommandBuffer,
        commands: impl FnOnce(&ash::Device, vk::CommandBuffer),
    ) -> Result<()> {
        unsafe {
            self.device
                .begin_command_buffer(cmd, &vk::CommandBufferBeginInfo::default())?;
            commands(&self.device, cmd);
            self.device.end_command_buffer(cmd)?;
        }
        Ok(())
    }

    /// An unsignalled fence.
    pub fn fence(&self) -> Result<Own<'_, vk::Fence>> {
        let info = vk::FenceCreateInfo::default();
        Ok(self.own(unsafe { self.device.create_fence(&info, None)? }))
    }

    /// A binary semaphore.
    pub fn semaphore(&self) -> Result<Own<'_, vk::Semaphore>> {
        let info = vk::SemaphoreCreateInfo::default();
        Ok(self.own(unsafe { self.device.create_semaphore(&info, None)? }))
    }

    /// A timeline semaphore that starts at `value`.
    pub fn timeline(&self, value: u64) -> Result<Own<'_, vk::Semaphore>> {
        let mut kind = vk::SemaphoreTypeCreateInfo::default()
            .semaphore_type(vk::SemaphoreType::TIMELINE)
            .initial_value(value);
        let info = vk::SemaphoreCreateInfo::default().push_next(&mut kind);
        Ok(self.own(unsafe { self.device.create_semaphore(&info, None)? }))
    }

    /// Submits to queue 0.
    pub fn submit(&self, info: &vk::SubmitInfo<'_>, fence: vk::Fence) -> Result<()> {
        let queue = self.queues[0].lock().expect("a submit panicked");
        unsafe {
            self.device
                .queue_submit(*queue, std::slice::from_ref(info), fence)?
        }
        Ok(())
    }

    /// Waits for a fence.
    pub fn wait(&self, fence: vk::Fence) -> Result<()> {
        unsafe { self.device.wait_for_fences(&[fence], true, PATIENCE) }
            .context("waiting for a fence")
    }

    /// Records, submits and waits.
    pub fn run(&self, commands: impl FnOnce(&ash::Device, vk::CommandBuffer)) -> Result<()> {
        let pool = self.command_pool()?;
        let cmd = self.command_buffers(*pool, vk::CommandBufferLevel::PRIMARY, 1)?;
        self.record(cmd[0], commands)?;
        let fence = self.fence()?;
        self.submit(&vk::SubmitInfo::default().command_buffers(&cmd), *fence)?;
        self.wait(*fence)
    }

    /// Waits until the device has nothing to do.
    pub fn idle(&self) -> Result<()> {
        unsafe { self.device.device_wait_idle()? }
        Ok(())
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        unsafe {
            self.device.destroy_device(None);
            if let Some(validation) = &self.validation {
                validation
                    .functions
                    .destroy_debug_utils_messenger(validation.messenger, None);
            }
            self.instance.destroy_instance(None);
        }
    }
}

/// A barrier after which everything before it is visible to everything after it, the host included.
pub fn barrier(device: &ash::Device, cmd: vk::CommandBuffer) {
    let memory = vk::MemoryBarrier::default()
        .src_access_mask(vk::AccessFlags::MEMORY_WRITE)
        .dst_access_mask(vk::AccessFlags::MEMORY_READ | vk::AccessFlags::MEMORY_WRITE);
    unsafe {
        device.cmd_pipeline_barrier(
            cmd,
            vk::PipelineStageFlags::ALL_COMMANDS,
            vk::PipelineStageFlags::ALL_COMMANDS | vk::PipelineStageFlags::HOST,
            vk::DependencyFlags::empty(),
            &[memory],
            &[],
            &[],
        );
    }
}

/// Moves a part of an image to another layout, with the reach of [`barrier`].
pub fn transition(
    device: &ash::Device,
    cmd: vk::CommandBuffer,
    image: vk::Image,
    range: vk::ImageSubresourceRange,
    from: vk::ImageLayout,
    to: vk::ImageLayout,
) {
    let image_barrier = vk::ImageMemoryBarrier::default()
        .src_access_mask(vk::AccessFlags::MEMORY_WRITE)
        .dst_access_mask(vk::AccessFlags::MEMORY_READ | vk::AccessFlags::MEMORY_WRITE)
        .old_layout(from)
        .new_layout(to)
        .src_queue_family_index(vk::QUEUE_FAMILY_IGNORED)
        .dst_queue_family_index(vk::QUEUE_FAMILY_IGNORED)
        .image(image)
        .subresource_range(range);
    unsafe {
        device.cmd_pipeline_barrier(
            cmd,
            vk::PipelineStageFlags::ALL_COMMANDS,
            vk::PipelineStageFlags::ALL_COMMANDS,
            vk::DependencyFlags::empty(),
            &[],
            &[],
            &[image_barrier],
        );
    }
}

/// What an image is made of.
#[derive(Debug, Clone, Copy)]
pub struct ImageDesc {
    /// Texel format.
    pub format: vk::Format,
    /// Size of level 0; a depth above one makes a 3D image.
    pub extent: vk::Extent3D,
    /// Mip levels.
    pub levels: u32,
    /// Array layers.
    pub layers: u32,
    /// Samples per texel.
    pub samples: vk::SampleCountFlags,
    /// What it is used for.
    pub usage: vk::ImageUsageFlags,
}

impl ImageDesc {
    /// One level, one layer, one sample.
    #[must_use]
    pub fn flat(format: vk::Format, width: u32, height: u32, usage: vk::ImageUsageFlags) -> Self {
        Self {
            format,
            extent: vk::Extent3D {
                width,
                height,
                depth: 1,
            },
            levels: 1,
            layers: 1,
            samples: vk::SampleCountFlags::TYPE_1,
            usage,
        }
    }
}

/// An image, its memory and a view of all of it.
#[derive(Debug)]
pub struct Image<'g> {
    /// Null if the usage allows no view.
    pub view: Own<'g, vk::ImageView>,
    /// The image itself.
    pub handle: Own<'g, vk::Image>,
    /// Bound at offset zero.
    pub memory: Own<'g, vk::DeviceMemory>,
    /// What it was made from.
    pub desc: ImageDesc,
    /// All of it.
    pub range: vk::ImageSubresourceRange,
}

impl Image<'_> {
    /// Moves all of it to another layout.
    pub fn to(
        &self,
        device: &ash::Device,
        cmd: vk::CommandBuffer,
        from: vk::ImageLayout,
        to: vk::ImageLayout,
    ) {
        transition(device, cmd, *self.handle, self.range, from, to);
    }

    /// All layers of one level.
    pub fn level(&self, level: u32) -> vk::ImageSubresourceLayers {
        vk::ImageSubresourceLayers {
            aspect_mask: self.range.aspect_mask,
            mip_level: level,
            base_array_layer: 0,
            layer_count: self.desc.layers,
        }
    }

    /// A tightly packed copy of all layers of one level, from or to a buffer at `offset`.
    pub fn copy(&self, level: u32, offset: u64) -> vk::BufferImageCopy {
        let size = self.desc.extent;
        let shrink = |length: u32| (length >> level).max(1);
        vk::BufferImageCopy::default()
            .buffer_offset(offset)
            .image_subresource(self.level(level))
            .image_extent(vk::Extent3D {
                width: shrink(size.width),
                height: shrink(size.height),
                depth: shrink(size.depth),
            })
    }
}

/// A buffer and its memory.
#[derive(Debug)]
pub struct Buffer<'g> {
    /// The buffer itself.
    pub handle: Own<'g, vk::Buffer>,
    /// Bound at offset zero.
    pub memory: Own<'g, vk::DeviceMemory>,
    /// In bytes.
    pub size: u64,
    pointer: *mut u8,
}

// The pointer is the mapping of memory that the buffer owns; the methods copy, and the device orders its own accesses.
unsafe impl Send for Buffer<'_> {}
unsafe impl Sync for Buffer<'_> {}

impl Buffer<'_> {
    /// Copies bytes into the mapping.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        assert!(!self.pointer.is_null(), "the buffer is not mapped");
        assert!(offset + bytes.len() as u64 <= self.size);
        unsafe {
            let to = self.pointer.add(offset as usize);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
    }

    /// Copies bytes out of the mapping.
    #[must_use]
    pub fn read(&self, offset: u64, length: u64) -> Vec<u8> {
        assert!(!self.pointer.is_null(), "the buffer is not mapped");
        assert!(offset + length <= self.size);
        let mut out = vec![0; length as usize];
        unsafe {
            let from = self.pointer.add(offset as usize);
            std::ptr::copy_nonoverlapping(from, out.as_mut_ptr(), out.len());
        }
        out
    }

    /// All bytes of the mapping.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.read(0, self.size)
    }

    /// All of the mapping as 32-bit numbers.
    #[must_use]
    pub fn words(&self) -> Vec<u32> {
        words(&self.bytes())
    }

    /// All of it, for a descriptor.
    pub fn whole(&self) -> vk::DescriptorBufferInfo {
        vk::DescriptorBufferInfo {
            buffer: *self.handle,
            offset: 0,
            range: vk::WHOLE_SIZE,
        }
    }
}

/// Bytes as 32-bit numbers.
#[must_use]
pub fn words(bytes: &[u8]) -> Vec<u32> {
    bytes
        .chunks_exact(4)
        .map(|c| u32::from_ne_bytes([c[0], c[1], c[2], c[3]]))
        .collect()
}

/// A compute pipeline with one set of storage buffers.
#[derive(Debug)]
pub struct Kernel<'g> {
    /// The pipeline.
    pub pipeline: Own<'g, vk::Pipeline>,
    /// Its layout.
    pub layout: Own<'g, vk::PipelineLayout>,
    /// Its one set.
    pub set: vk::DescriptorSet,
    _pool: Own<'g, vk::DescriptorPool>,
    _set_layout: Own<'g, vk::DescriptorSetLayout>,
}

impl Kernel<'_> {
    /// Binds the pipeline and its set, and pushes `push` if it is not empty.
    pub fn bind(&self, device: &ash::Device, cmd: vk::CommandBuffer, push: &[u32]) {
        let compute = vk::PipelineBindPoint::COMPUTE;
        unsafe {
            device.cmd_bind_pipeline(cmd, compute, *self.pipeline);
            device.cmd_bind_descriptor_sets(cmd, compute, *self.layout, 0, &[self.set], &[]);
            if !push.is_empty() {
                let stages = vk::ShaderStageFlags::COMPUTE;
                let bytes = bytemuck::cast_slice(push);
                device.cmd_push_constants(cmd, *self.layout, stages, 0, bytes);
            }
        }
    }

    /// Binds, dispatches, and puts a barrier behind it.
    pub fn dispatch(
        &self,
        device: &ash::Device,
        cmd: vk::CommandBuffer,
        push: &[u32],
        groups: u32,
    ) {
        self.bind(device, cmd, push);
        unsafe { device.cmd_dispatch(cmd, groups, 1, 1) }
        barrier(device, cmd);
    }
}

/// An object that is destroyed at the end of its scope.
pub struct Own<'g, T: Destroy> {
    gpu: &'g Gpu,
    handle: T,
}

impl<T: Destroy> Deref for Own<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.handle
    }
}

impl<T: Destroy> Drop for Own<'_, T> {
    fn drop(&mut self) {
        self.handle.destroy(&self.gpu.device);
    }
}

impl<T: Destroy + fmt::Debug> fmt::Debug for Own<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.handle.fmt(f)
    }
}

/// A handle that knows its destructor.
pub trait Destroy: Copy {
    /// Destroys the object; a null handle is allowed.
    fn destroy(self, device: &ash::Device);
}

macro_rules! destroy {
    ($($handle:ident $function:ident,)*) => {$(
        impl Destroy for vk::$handle {
            fn destroy(self, device: &ash::Device) {
                unsafe { device.$function(self, None) }
            }
        }
    )*};
}

destroy! {
    Buffer destroy_buffer,
    BufferView destroy_buffer_view,
    CommandPool destroy_command_pool,
    DescriptorPool destroy_descriptor_pool,
    DescriptorSetLayout destroy_descriptor_set_layout,
    DescriptorUpdateTemplate destroy_descriptor_update_template,
    DeviceMemory free_memory,
    Event destroy_event,
    Fence destroy_fence,
    Framebuffer destroy_framebuffer,
    Image destroy_image,
    ImageView destroy_image_view,
    Pipeline destroy_pipeline,
    PipelineCache destroy_pipeline_cache,
    PipelineLayout destroy_pipeline_layout,
    QueryPool destroy_query_pool,
    RenderPass destroy_render_pass,
    Sampler destroy_sampler,
    Semaphore destroy_semaphore,
    ShaderModule destroy_shader_module,
}
