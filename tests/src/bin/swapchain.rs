//! `swapchain`: pictures presented to a surface without a window system, in every mode.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "ash: nearly every call of Vulkan is unsafe, for the same reasons each time"
)]

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use ash::vk;

const SIZE: vk::Extent2D = vk::Extent2D {
    width: 300,
    height: 200,
};
/// More than there are images, so that each comes back.
const FRAMES: usize = 20;
const PATIENCE: u64 = 20_000_000_000;

fn main() -> ExitCode {
    match unsafe { run() } {
        Ok(()) => {
            println!("swapchains ok");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("swapchain: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What every swapchain here needs.
struct Bench {
    device: ash::Device,
    functions: ash::khr::swapchain::Device,
    queue: vk::Queue,
    pool: vk::CommandPool,
    surface: vk::SurfaceKHR,
    format: vk::SurfaceFormatKHR,
}

unsafe fn run() -> Result<()> {
    unsafe {
        let entry = ash::Entry::load().context("loading the Vulkan loader")?;
        let wanted = [
            ash::khr::surface::NAME.as_ptr(),
            ash::khr::get_surface_capabilities2::NAME.as_ptr(),
            ash::ext::headless_surface::NAME.as_ptr(),
        ];
        let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
        let info = vk::InstanceCreateInfo::default()
            .application_info(&application)
            .enabled_extension_names(&wanted);
        let instance = entry
            .create_instance(&info, None)
            .context("creating an instance")?;
        let surfaces = ash::khr::surface::Instance::new(&entry, &instance);
        let headless = ash::ext::headless_surface::Instance::new(&entry, &instance);
        let surface = headless.create_headless_surface(&Default::default(), None)?;

        let physical = *instance
            .enumerate_physical_devices()?
            .first()
            .context("the loader shows no physical device")?;
        ensure!(surfaces.get_physical_device_surface_support(physical, 0, surface)?);
        let known = surfaces.get_physical_device_surface_capabilities(physical, surface)?;
        ensure!(known.current_extent.width == u32::MAX, "the size is fixed");
        let again = ash::khr::get_surface_capabilities2::Instance::new(&entry, &instance);
        let about = vk::PhysicalDeviceSurfaceInfo2KHR::default().surface(surface);
        let mut known2 = vk::SurfaceCapabilities2KHR::default();
        again.get_physical_device_surface_capabilities2(physical, &about, &mut known2)?;
        ensure!(known2.surface_capabilities.min_image_count == known.min_image_count);
        let formats = surfaces.get_physical_device_surface_formats(physical, surface)?;
        let many = again.get_physical_device_surface_formats2_len(physical, &about)?;
        ensure!(formats.len() == many, "two answers about formats");
        let modes = surfaces.get_physical_device_surface_present_modes(physical, surface)?;
        ensure!(modes.contains(&vk::PresentModeKHR::FIFO), "no FIFO");

        let queues = [vk::DeviceQueueCreateInfo::default().queue_priorities(&[1.0])];
        let wanted = [ash::khr::swapchain::NAME.as_ptr()];
        let info = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_extension_names(&wanted);
        let device = instance.create_device(physical, &info, None)?;
        let pool = vk::CommandPoolCreateInfo::default()
            .flags(vk::CommandPoolCreateFlags::RESET_COMMAND_BUFFER);
        let context = Bench {
            functions: ash::khr::swapchain::Device::new(&instance, &device),
            queue: device.get_device_queue(0, 0),
            pool: device.create_command_pool(&pool, None)?,
            surface,
            format: *formats.first().context("no format")?,
            device,
        };
        let group = context
            .functions
            .get_device_group_surface_present_modes(surface)?;
        ensure!(group.contains(vk::DeviceGroupPresentModeFlagsKHR::LOCAL));

        let mut old = vk::SwapchainKHR::null();
        for mode in modes {
            old = context
                .frames(mode, old)
                .with_context(|| format!("{mode:?}"))?;
        }
        context.functions.destroy_swapchain(old, None);
        context.device.destroy_command_pool(context.pool, None);
        context.device.destroy_device(None);
        surfaces.destroy_surface(surface, None);
        instance.destroy_instance(None);
    }
    Ok(())
}

impl Bench {
    /// Presents a few frames, and returns the swapchain.
    unsafe fn frames(
        &self,
        mode: vk::PresentModeKHR,
        old: vk::SwapchainKHR,
    ) -> Result<vk::SwapchainKHR> {
        unsafe {
            let info = vk::SwapchainCreateInfoKHR::default()
                .surface(self.surface)
                .min_image_count(3)
                .image_format(self.format.format)
                .image_color_space(self.format.color_space)
                .image_extent(SIZE)
                .image_array_layers(1)
                .image_usage(
                    vk::ImageUsageFlags::COLOR_ATTACHMENT | vk::ImageUsageFlags::TRANSFER_DST,
                )
                .pre_transform(vk::SurfaceTransformFlagsKHR::IDENTITY)
                .composite_alpha(vk::CompositeAlphaFlagsKHR::OPAQUE)
                .present_mode(mode)
                .old_swapchain(old);
            let swapchain = self.functions.create_swapchain(&info, None)?;
            self.functions.destroy_swapchain(old, None);
            let images = self.functions.get_swapchain_images(swapchain)?;
            ensure!(images.len() >= 3, "{} images", images.len());
            self.aliased(swapchain)
                .context("an image in a swapchain's memory")?;

            let buffers = vk::CommandBufferAllocateInfo::default()
                .command_pool(self.pool)
                .command_buffer_count(1);
            let buffer = self.device.allocate_command_buffers(&buffers)?[0];
            let fence = self.device.create_fence(&Default::default(), None)?;
            let acquired = self.device.create_semaphore(&Default::default(), None)?;
            let drawn = self.device.create_semaphore(&Default::default(), None)?;
            for frame in 0..FRAMES {
                let index = if frame % 2 == 0 {
                    let (index, _) = self.functions.acquire_next_image(
                        swapchain,
                        PATIENCE,
                        acquired,
                        vk::Fence::null(),
                    )?;
                    index
                } else {
                    let info = vk::AcquireNextImageInfoKHR::default()
                        .swapchain(swapchain)
                        .timeout(PATIENCE)
                        .semaphore(acquired)
                        .device_mask(1);
                    self.functions.acquire_next_image2(&info)?.0
                };
                let image = *images.get(index as usize).context("an index too high")?;
                self.record(buffer, image, frame)?;
                let (waits, signals, buffers) = ([acquired], [drawn], [buffer]);
                let submit = vk::SubmitInfo::default()
                    .wait_semaphores(&waits)
                    .wait_dst_stage_mask(&[vk::PipelineStageFlags::TRANSFER])
                    .command_buffers(&buffers)
                    .signal_semaphores(&signals);
                self.device.queue_submit(self.queue, &[submit], fence)?;
                let (swapchains, indices) = ([swapchain], [index]);
                let mut results = [vk::Result::NOT_READY];
                let present = vk::PresentInfoKHR::default()
                    .wait_semaphores(&signals)
                    .swapchains(&swapchains)
                    .image_indices(&indices)
                    .results(&mut results);
                self.functions.queue_present(self.queue, &present)?;
                ensure!(results == [vk::Result::SUCCESS], "{results:?}");
                self.device.wait_for_fences(&[fence], true, PATIENCE)?;
                self.device.reset_fences(&[fence])?;
            }

            // Until there are no more: acquiring says so, and does not wait.
            let mut taken = 0;
            while taken < images.len() {
                self.functions.acquire_next_image(
                    swapchain,
                    PATIENCE,
                    vk::Semaphore::null(),
                    fence,
                )?;
                self.device.wait_for_fences(&[fence], true, PATIENCE)?;
                self.device.reset_fences(&[fence])?;
                taken += 1;
            }
            for timeout in [0, 1000] {
                let none = self.functions.acquire_next_image(
                    swapchain,
                    timeout,
                    vk::Semaphore::null(),
                    fence,
                );
                // Some drivers say the first even if there was time.
                ensure!(
                    matches!(none, Err(vk::Result::NOT_READY | vk::Result::TIMEOUT)),
                    "{none:?} after all were acquired"
                );
            }

            self.device.device_wait_idle()?;
            self.device.free_command_buffers(self.pool, &[buffer]);
            self.device.destroy_fence(fence, None);
            self.device.destroy_semaphore(acquired, None);
            self.device.destroy_semaphore(drawn, None);
            Ok(swapchain)
        }
    }

    /// Makes an image of the application's own in the memory of a swapchain's.
    unsafe fn aliased(&self, swapchain: vk::SwapchainKHR) -> Result<()> {
        unsafe {
            let mut of = vk::ImageSwapchainCreateInfoKHR::default().swapchain(swapchain);
            let info = vk::ImageCreateInfo::default()
                .image_type(vk::ImageType::TYPE_2D)
                .format(self.format.format)
                .extent(SIZE.into())
                .mip_levels(1)
                .array_layers(1)
                .samples(vk::SampleCountFlags::TYPE_1)
                .usage(vk::ImageUsageFlags::COLOR_ATTACHMENT | vk::ImageUsageFlags::TRANSFER_DST)
                .push_next(&mut of);
            let image = self.device.create_image(&info, None)?;
            let mut of = vk::BindImageMemorySwapchainInfoKHR::default()
                .swapchain(swapchain)
                .image_index(1);
            let bind = vk::BindImageMemoryInfo::default()
                .image(image)
                .push_next(&mut of);
            self.device.bind_image_memory2(&[bind])?;
            self.device.destroy_image(image, None);
            Ok(())
        }
    }

    /// Fills an image with a colour.
    unsafe fn record(
        &self,
        buffer: vk::CommandBuffer,
        image: vk::Image,
        frame: usize,
    ) -> Result<()> {
        let range = vk::ImageSubresourceRange::default()
            .aspect_mask(vk::ImageAspectFlags::COLOR)
            .level_count(1)
            .layer_count(1);
        let to = |from, to| {
            vk::ImageMemoryBarrier::default()
                .src_access_mask(vk::AccessFlags::TRANSFER_WRITE)
                .dst_access_mask(vk::AccessFlags::TRANSFER_WRITE)
                .old_layout(from)
                .new_layout(to)
                .src_queue_family_index(vk::QUEUE_FAMILY_IGNORED)
                .dst_queue_family_index(vk::QUEUE_FAMILY_IGNORED)
                .image(image)
                .subresource_range(range)
        };
        let written = vk::ImageLayout::TRANSFER_DST_OPTIMAL;
        let stage = vk::PipelineStageFlags::TRANSFER;
        let none = vk::DependencyFlags::empty();
        let color = vk::ClearColorValue {
            float32: [frame as f32 / FRAMES as f32, 0.5, 0.2, 1.0],
        };
        unsafe {
            let device = &self.device;
            device.begin_command_buffer(buffer, &Default::default())?;
            let before = [to(vk::ImageLayout::UNDEFINED, written)];
            device.cmd_pipeline_barrier(buffer, stage, stage, none, &[], &[], &before);
            device.cmd_clear_color_image(buffer, image, written, &color, &[range]);
            let after = [to(written, vk::ImageLayout::PRESENT_SRC_KHR)];
            device.cmd_pipeline_barrier(buffer, stage, stage, none, &[], &[], &after);
            device.end_command_buffer(buffer)?;
        }
        Ok(())
    }
}
