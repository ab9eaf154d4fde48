//! `swapchain`: pictures presented to a window, or to none, in every mode.
//!
//! The last one stays until the standard input ends; it is [`pattern`] of the last frame.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "ash: nearly every call of Vulkan is unsafe, for the same reasons each time"
)]

use std::ffi::{CStr, c_void};
use std::io::Read as _;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};
use asgard_tests::screen::{FRAMES, SQUARE, pattern, square};
use ash::vk;
use wayland_client::protocol::wl_compositor::WlCompositor;
use wayland_client::protocol::wl_registry::{self, WlRegistry};
use wayland_client::protocol::wl_surface::WlSurface;
use wayland_client::{Connection, Dispatch, EventQueue, Proxy as _, QueueHandle, delegate_noop};
use wayland_protocols::xdg::shell::client::xdg_surface::{self, XdgSurface};
use wayland_protocols::xdg::shell::client::xdg_toplevel::{self, XdgToplevel};
use wayland_protocols::xdg::shell::client::xdg_wm_base::{self, XdgWmBase};
use x11rb::connection::Connection as _;
use x11rb::protocol::xproto::{ConfigureWindowAux, ConnectionExt as _, CreateWindowAux};
use x11rb::xcb_ffi::XCBConnection;

/// The size of a window that may choose.
const SIZE: vk::Extent2D = vk::Extent2D {
    width: 300,
    height: 200,
};
/// Its second size.
const LARGER: vk::Extent2D = vk::Extent2D {
    width: 330,
    height: 240,
};
const PATIENCE: u64 = 20_000_000_000;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match unsafe { run(&arguments) } {
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

/// What shows pictures.
enum Window {
    Headless,
    Xcb(Box<XCBConnection>, u32),
    Wayland(Box<Wayland>),
}

struct Wayland {
    connection: Connection,
    queue: EventQueue<Globals>,
    globals: Globals,
    surface: WlSurface,
}

#[derive(Default)]
struct Globals {
    compositor: Option<WlCompositor>,
    shell: Option<XdgWmBase>,
    size: (u32, u32),
    configured: bool,
}

impl Dispatch<WlRegistry, ()> for Globals {
    fn event(
        globals: &mut Self,
        registry: &WlRegistry,
        event: wl_registry::Event,
        (): &(),
        _: &Connection,
        queue: &QueueHandle<Self>,
    ) {
        let wl_registry::Event::Global {
            name, interface, ..
        } = event
        else {
            return;
        };
        if interface == WlCompositor::interface().name {
            globals.compositor = Some(registry.bind(name, 4, queue, ()));
        } else if interface == XdgWmBase::interface().name {
            globals.shell = Some(registry.bind(name, 1, queue, ()));
        }
    }
}

impl Dispatch<XdgWmBase, ()> for Globals {
    fn event(
        _: &mut Self,
        shell: &XdgWmBase,
        event: xdg_wm_base::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let xdg_wm_base::Event::Ping { serial } = event {
            shell.pong(serial);
        }
    }
}

impl Dispatch<XdgSurface, ()> for Globals {
    fn event(
        globals: &mut Self,
        surface: &XdgSurface,
        event: xdg_surface::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let xdg_surface::Event::Configure { serial } = event {
            surface.ack_configure(serial);
            globals.configured = true;
        }
    }
}

impl Dispatch<XdgToplevel, ()> for Globals {
    fn event(
        globals: &mut Self,
        _: &XdgToplevel,
        event: xdg_toplevel::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let xdg_toplevel::Event::Configure { width, height, .. } = event {
            globals.size = (width.cast_unsigned(), height.cast_unsigned());
        }
    }
}

delegate_noop!(Globals: ignore WlCompositor);
delegate_noop!(Globals: ignore WlSurface);

impl Wayland {
    /// A window as large as the screen, or one that is never on it.
    fn open(hidden: bool) -> Result<Self> {
        let connection = Connection::connect_to_env()?;
        let mut queue = connection.new_event_queue();
        let handle = queue.handle();
        connection.display().get_registry(&handle, ());
        let mut globals = Globals::default();
        queue.roundtrip(&mut globals)?;
        let compositor = globals.compositor.as_ref().context("no compositor")?;
        let surface = compositor.create_surface(&handle, ());
        if !hidden {
            let shell = globals.shell.as_ref().context("no shell")?;
            let toplevel = shell
                .get_xdg_surface(&surface, &handle, ())
                .get_toplevel(&handle, ());
            toplevel.set_fullscreen(None);
            surface.commit();
            while !globals.configured || globals.size == (0, 0) {
                queue.blocking_dispatch(&mut globals)?;
            }
        }
        Ok(Self {
            connection,
            queue,
            globals,
            surface,
        })
    }
}

impl Window {
    fn open(kind: &str, hidden: bool) -> Result<Self> {
        Ok(match kind {
            "headless" => Self::Headless,
            "wayland" => Self::Wayland(Box::new(Wayland::open(hidden)?)),
            "xcb" => {
                let (connection, screen) = XCBConnection::connect(None)?;
                let screen = connection.setup().roots.get(screen).context("no screen")?;
                let (root, visual) = (screen.root, screen.root_visual);
                let window = connection.generate_id()?;
                let (width, height) = (SIZE.width as u16, SIZE.height as u16);
                connection.create_window(
                    0,
                    window,
                    root,
                    0,
                    0,
                    width,
                    height,
                    0,
                    Default::default(),
                    visual,
                    &CreateWindowAux::new().override_redirect(1),
                )?;
                connection.map_window(window)?;
                connection.flush()?;
                Self::Xcb(Box::new(connection), window)
            }
            _ => bail!("no window system is called {kind:?}"),
        })
    }

    fn extension(&self) -> &'static CStr {
        match self {
            Self::Headless => ash::ext::headless_surface::NAME,
            Self::Xcb(..) => ash::khr::xcb_surface::NAME,
            Self::Wayland(_) => ash::khr::wayland_surface::NAME,
        }
    }

    unsafe fn surface(
        &self,
        entry: &ash::Entry,
        instance: &ash::Instance,
    ) -> Result<vk::SurfaceKHR> {
        unsafe {
            Ok(match self {
                Self::Headless => ash::ext::headless_surface::Instance::new(entry, instance)
                    .create_headless_surface(&Default::default(), None)?,
                Self::Xcb(connection, window) => {
                    let info = vk::XcbSurfaceCreateInfoKHR::default()
                        .connection(connection.get_raw_xcb_connection().cast())
                        .window(*window);
                    ash::khr::xcb_surface::Instance::new(entry, instance)
                        .create_xcb_surface(&info, None)?
                }
                Self::Wayland(w) => {
                    let info = vk::WaylandSurfaceCreateInfoKHR::default()
                        .display(w.connection.backend().display_ptr().cast())
                        .surface(w.surface.id().as_ptr().cast());
                    ash::khr::wayland_surface::Instance::new(entry, instance)
                        .create_wayland_surface(&info, None)?
                }
            })
        }
    }

    /// Whether a queue can show pictures here.
    unsafe fn shows(
        &self,
        entry: &ash::Entry,
        instance: &ash::Instance,
        device: vk::PhysicalDevice,
    ) -> bool {
        unsafe {
            match self {
                Self::Headless => true,
                Self::Xcb(connection, _) => {
                    let functions = ash::khr::xcb_surface::Instance::new(entry, instance);
                    let visual = connection.setup().roots[0].root_visual;
                    let connection: &mut c_void = &mut *connection.get_raw_xcb_connection().cast();
                    functions
                        .get_physical_device_xcb_presentation_support(device, 0, connection, visual)
                }
                Self::Wayland(w) => {
                    let functions = ash::khr::wayland_surface::Instance::new(entry, instance);
                    let display: &mut c_void = &mut *w.connection.backend().display_ptr().cast();
                    functions.get_physical_device_wayland_presentation_support(device, 0, display)
                }
            }
        }
    }

    /// The size of pictures, where the surface does not say.
    fn size(&self) -> vk::Extent2D {
        match self {
            Self::Wayland(w) if w.globals.configured => {
                let (width, height) = w.globals.size;
                vk::Extent2D { width, height }
            }
            _ => SIZE,
        }
    }

    /// Answers what the window system has asked.
    fn attend(&mut self) -> Result<()> {
        if let Self::Wayland(w) = self {
            w.queue.roundtrip(&mut w.globals)?;
        }
        Ok(())
    }
}

/// What every swapchain here needs.
struct Bench {
    device: ash::Device,
    functions: ash::khr::swapchain::Device,
    maintenance: Option<ash::ext::swapchain_maintenance1::Device>,
    wait: Option<ash::khr::present_wait::Device>,
    incremental: bool,
    mutable: bool,
    queue: vk::Queue,
    pool: vk::CommandPool,
    surface: vk::SurfaceKHR,
    format: vk::SurfaceFormatKHR,
    memory: vk::PhysicalDeviceMemoryProperties,
    headless: bool,
    /// Acquired images are given back: Mesa's surfaces without a window crash.
    release: bool,
}

/// A swapchain, and what its frames are made with.
struct Chain {
    swapchain: vk::SwapchainKHR,
    images: Vec<vk::Image>,
    extent: vk::Extent2D,
    modes: Vec<vk::PresentModeKHR>,
    buffer: vk::CommandBuffer,
    pixels: vk::Buffer,
    memory: vk::DeviceMemory,
    mapped: *mut u8,
    fence: vk::Fence,
    released: vk::Fence,
    acquired: vk::Semaphore,
    drawn: vk::Semaphore,
}

static COMPLAINTS: AtomicU32 = AtomicU32::new(0);

unsafe extern "system" fn complain(
    _: vk::DebugUtilsMessageSeverityFlagsEXT,
    _: vk::DebugUtilsMessageTypeFlagsEXT,
    data: *const vk::DebugUtilsMessengerCallbackDataEXT<'_>,
    _: *mut c_void,
) -> vk::Bool32 {
    COMPLAINTS.fetch_add(1, Ordering::Relaxed);
    let message = unsafe { (*data).message_as_c_str() };
    eprintln!("validation: {}", message.unwrap_or(c"?").to_string_lossy());
    vk::FALSE
}

unsafe fn run(arguments: &[String]) -> Result<()> {
    unsafe {
        let has = |name: &str| arguments.iter().any(|a| a == name);
        let kind = arguments.first().map_or("headless", String::as_str);
        let hidden = has("--hidden");
        let mut window = Window::open(kind, hidden).with_context(|| format!("a {kind} window"))?;
        let entry = ash::Entry::load().context("loading the Vulkan loader")?;
        let known = entry.enumerate_instance_extension_properties(None)?;
        let offers = |all: &[vk::ExtensionProperties], name: &CStr| {
            all.iter().any(|e| e.extension_name_as_c_str() == Ok(name))
        };
        let mut wanted = vec![
            ash::khr::surface::NAME,
            ash::khr::get_surface_capabilities2::NAME,
            window.extension(),
        ];
        if offers(&known, ash::ext::surface_maintenance1::NAME) {
            wanted.push(ash::ext::surface_maintenance1::NAME);
        }
        let mut layers = Vec::new();
        if has("--validate") {
            layers.push(c"VK_LAYER_KHRONOS_validation".as_ptr());
            wanted.push(ash::ext::debug_utils::NAME);
        }
        let wanted: Vec<_> = wanted.iter().map(|name| name.as_ptr()).collect();
        let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
        let info = vk::InstanceCreateInfo::default()
            .application_info(&application)
            .enabled_layer_names(&layers)
            .enabled_extension_names(&wanted);
        let instance = entry
            .create_instance(&info, None)
            .context("creating an instance")?;
        let messenger = if has("--validate") {
            let functions = ash::ext::debug_utils::Instance::new(&entry, &instance);
            let info = vk::DebugUtilsMessengerCreateInfoEXT::default()
                .message_severity(vk::DebugUtilsMessageSeverityFlagsEXT::ERROR)
                .message_type(vk::DebugUtilsMessageTypeFlagsEXT::VALIDATION)
                .pfn_user_callback(Some(complain));
            let messenger = functions.create_debug_utils_messenger(&info, None)?;
            Some((functions, messenger))
        } else {
            None
        };
        let surfaces = ash::khr::surface::Instance::new(&entry, &instance);
        let surface = window.surface(&entry, &instance)?;

        let physical = *instance
            .enumerate_physical_devices()?
            .first()
            .context("the loader shows no physical device")?;
        ensure!(surfaces.get_physical_device_surface_support(physical, 0, surface)?);
        ensure!(window.shows(&entry, &instance, physical));
        let known = surfaces.get_physical_device_surface_capabilities(physical, surface)?;
        let fixed = matches!(window, Window::Xcb(..));
        ensure!(
            (known.current_extent.width != u32::MAX) == fixed,
            "{known:?}"
        );
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

        let known = instance.enumerate_device_extension_properties(physical)?;
        let optional = [
            ash::ext::swapchain_maintenance1::NAME,
            ash::khr::present_id::NAME,
            ash::khr::present_wait::NAME,
            ash::khr::incremental_present::NAME,
            ash::khr::swapchain_mutable_format::NAME,
        ];
        let [maintains, numbers, waits, incremental, mutable] =
            optional.map(|name| offers(&known, name));
        let wanted: Vec<_> = optional
            .into_iter()
            .filter(|name| offers(&known, name))
            .chain([ash::khr::swapchain::NAME])
            .map(CStr::as_ptr)
            .collect();
        let mut maintenance = vk::PhysicalDeviceSwapchainMaintenance1FeaturesEXT::default();
        let mut id = vk::PhysicalDevicePresentIdFeaturesKHR::default();
        let mut wait = vk::PhysicalDevicePresentWaitFeaturesKHR::default();
        let mut features = vk::PhysicalDeviceFeatures2::default();
        if maintains {
            features = features.push_next(&mut maintenance);
        }
        if numbers && waits {
            features = features.push_next(&mut id).push_next(&mut wait);
        }
        instance.get_physical_device_features2(physical, &mut features);
        let queues = [vk::DeviceQueueCreateInfo::default().queue_priorities(&[1.0])];
        let info = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_extension_names(&wanted)
            .push_next(&mut features);
        let device = instance.create_device(physical, &info, None)?;
        ensure!(!maintains || maintenance.swapchain_maintenance1 == vk::TRUE);
        ensure!(!(numbers && waits) || (id.present_id, wait.present_wait) == (1, 1));
        let pool = vk::CommandPoolCreateInfo::default()
            .flags(vk::CommandPoolCreateFlags::RESET_COMMAND_BUFFER);
        let unorm = [vk::Format::B8G8R8A8_UNORM, vk::Format::R8G8B8A8_UNORM];
        let bench = Bench {
            functions: ash::khr::swapchain::Device::new(&instance, &device),
            maintenance: maintains
                .then(|| ash::ext::swapchain_maintenance1::Device::new(&instance, &device)),
            wait: (numbers && waits)
                .then(|| ash::khr::present_wait::Device::new(&instance, &device)),
            incremental,
            mutable,
            queue: device.get_device_queue(0, 0),
            pool: device.create_command_pool(&pool, None)?,
            surface,
            format: *formats
                .iter()
                .find(|f| unorm.contains(&f.format))
                .context("no format")?,
            memory: instance.get_physical_device_memory_properties(physical),
            headless: kind == "headless",
            release: has("--release"),
            device,
        };
        let group = bench
            .functions
            .get_device_group_surface_present_modes(surface)?;
        ensure!(group.contains(vk::DeviceGroupPresentModeFlagsKHR::LOCAL));

        let mut last: Option<Chain> = None;
        let mut number = 0;
        for mode in modes {
            if hidden && mode != vk::PresentModeKHR::FIFO {
                continue;
            }
            let compatible = if maintains {
                let mut asked = vk::SurfacePresentModeEXT::default().present_mode(mode);
                let about = about.push_next(&mut asked);
                let mut room = [vk::PresentModeKHR::SHARED_DEMAND_REFRESH; 8];
                let mut found =
                    vk::SurfacePresentModeCompatibilityEXT::default().present_modes(&mut room);
                let mut known = vk::SurfaceCapabilities2KHR::default().push_next(&mut found);
                again.get_physical_device_surface_capabilities2(physical, &about, &mut known)?;
                let count = found.present_mode_count as usize;
                if room[..count].contains(&mode) {
                    room[..count].to_vec()
                } else {
                    // Mesa's surfaces without a window do not answer.
                    ensure!(kind == "headless", "{mode:?} with {room:?}");
                    vec![mode]
                }
            } else {
                vec![mode]
            };
            let known = surfaces.get_physical_device_surface_capabilities(physical, surface)?;
            let chain = bench
                .chain(&window, &known, compatible, last.as_ref())
                .with_context(|| format!("a swapchain of {mode:?}"))?;
            bench.end(last.take());
            for frame in 0..FRAMES {
                window.attend()?;
                number += 1;
                let fits = bench.frame(&chain, frame, number);
                let fits = fits.with_context(|| format!("frame {frame} of {mode:?}"))?;
                ensure!(fits, "frame {frame} of {mode:?} does not fit");
            }
            bench.all(&chain)?;
            last = Some(chain);
        }
        if let Window::Xcb(connection, window_id) = &window {
            let old = last.take().context("no swapchain")?;
            let size = ConfigureWindowAux::new()
                .width(LARGER.width)
                .height(LARGER.height);
            connection.configure_window(*window_id, &size)?.check()?;
            let mut frame = 0;
            number += 1;
            while bench.frame(&old, frame % FRAMES, number)? {
                (frame, number) = (frame + 1, number + 1);
                ensure!(frame < 10_000, "nobody says that the window is larger");
            }
            let known = surfaces.get_physical_device_surface_capabilities(physical, surface)?;
            ensure!(known.current_extent == LARGER, "{known:?}");
            let new = bench.chain(&window, &known, old.modes.clone(), Some(&old))?;
            bench.end(Some(old));
            for frame in 0..FRAMES {
                number += 1;
                ensure!(
                    bench.frame(&new, frame, number)?,
                    "the new size does not fit"
                );
            }
            last = Some(new);
        }
        if bench.headless {
            let other = window.surface(&entry, &instance)?;
            bench.both(last.as_ref().context("no swapchain")?, other)?;
            surfaces.destroy_surface(other, None);
        } else if !hidden {
            println!("ready");
            let mut rest = Vec::new();
            std::io::stdin().read_to_end(&mut rest)?;
        }
        bench.end(last);
        bench.device.destroy_command_pool(bench.pool, None);
        bench.device.destroy_device(None);
        surfaces.destroy_surface(surface, None);
        if let Some((functions, messenger)) = messenger {
            functions.destroy_debug_utils_messenger(messenger, None);
        }
        instance.destroy_instance(None);
        let complaints = COMPLAINTS.load(Ordering::Relaxed);
        ensure!(
            complaints == 0,
            "the validation layer complained {complaints} times"
        );
    }
    Ok(())
}

impl Bench {
    /// A swapchain of the first of these modes.
    unsafe fn chain(
        &self,
        window: &Window,
        known: &vk::SurfaceCapabilitiesKHR,
        modes: Vec<vk::PresentModeKHR>,
        old: Option<&Chain>,
    ) -> Result<Chain> {
        let extent = if known.current_extent.width == u32::MAX {
            window.size()
        } else {
            known.current_extent
        };
        unsafe {
            self.chain_on(
                self.surface,
                extent,
                known.min_image_count.max(3),
                modes,
                old,
            )
        }
    }

    unsafe fn chain_on(
        &self,
        surface: vk::SurfaceKHR,
        extent: vk::Extent2D,
        count: u32,
        modes: Vec<vk::PresentModeKHR>,
        old: Option<&Chain>,
    ) -> Result<Chain> {
        unsafe {
            let usage = vk::ImageUsageFlags::COLOR_ATTACHMENT | vk::ImageUsageFlags::TRANSFER_DST;
            let mut info = vk::SwapchainCreateInfoKHR::default()
                .surface(surface)
                .min_image_count(count)
                .image_format(self.format.format)
                .image_color_space(self.format.color_space)
                .image_extent(extent)
                .image_array_layers(1)
                .image_usage(usage)
                .pre_transform(vk::SurfaceTransformFlagsKHR::IDENTITY)
                .composite_alpha(vk::CompositeAlphaFlagsKHR::OPAQUE)
                .present_mode(modes[0])
                .old_swapchain(old.map_or(vk::SwapchainKHR::null(), |old| old.swapchain));
            let srgb = if self.format.format == vk::Format::B8G8R8A8_UNORM {
                vk::Format::B8G8R8A8_SRGB
            } else {
                vk::Format::R8G8B8A8_SRGB
            };
            let formats = [self.format.format, srgb];
            let mut list = vk::ImageFormatListCreateInfo::default().view_formats(&formats);
            if self.mutable {
                info = info
                    .flags(vk::SwapchainCreateFlagsKHR::MUTABLE_FORMAT)
                    .push_next(&mut list);
            }
            let mut switched = vk::SwapchainPresentModesCreateInfoEXT::default();
            if self.maintenance.is_some() {
                switched = switched.present_modes(&modes);
                info = info.push_next(&mut switched);
            }
            let swapchain = self.functions.create_swapchain(&info, None)?;
            let images = self.functions.get_swapchain_images(swapchain)?;
            ensure!(images.len() >= 3, "{} images", images.len());
            if self.mutable {
                let range = vk::ImageSubresourceRange::default()
                    .aspect_mask(vk::ImageAspectFlags::COLOR)
                    .level_count(1)
                    .layer_count(1);
                let view = vk::ImageViewCreateInfo::default()
                    .image(images[0])
                    .view_type(vk::ImageViewType::TYPE_2D)
                    .format(srgb)
                    .subresource_range(range);
                let view = self.device.create_image_view(&view, None)?;
                self.device.destroy_image_view(view, None);
            }

            let size = u64::from(extent.width) * u64::from(extent.height) * 4;
            let pixels = vk::BufferCreateInfo::default()
                .size(size)
                .usage(vk::BufferUsageFlags::TRANSFER_SRC);
            let pixels = self.device.create_buffer(&pixels, None)?;
            let needs = self.device.get_buffer_memory_requirements(pixels);
            let mapped =
                vk::MemoryPropertyFlags::HOST_VISIBLE | vk::MemoryPropertyFlags::HOST_COHERENT;
            let mut types = self.memory.memory_types_as_slice().iter().enumerate();
            let (kind, _) = types
                .find(|(i, t)| {
                    needs.memory_type_bits >> i & 1 == 1 && t.property_flags.contains(mapped)
                })
                .context("no memory can be mapped")?;
            let memory = vk::MemoryAllocateInfo::default()
                .allocation_size(needs.size)
                .memory_type_index(kind as u32);
            let memory = self.device.allocate_memory(&memory, None)?;
            self.device.bind_buffer_memory(pixels, memory, 0)?;
            let mapped = self
                .device
                .map_memory(memory, 0, vk::WHOLE_SIZE, Default::default())?;
            let buffers = vk::CommandBufferAllocateInfo::default()
                .command_pool(self.pool)
                .command_buffer_count(1);
            let chain = Chain {
                swapchain,
                images,
                extent,
                modes,
                buffer: self.device.allocate_command_buffers(&buffers)?[0],
                pixels,
                memory,
                mapped: mapped.cast(),
                fence: self.device.create_fence(&Default::default(), None)?,
                released: self.device.create_fence(&Default::default(), None)?,
                acquired: self.device.create_semaphore(&Default::default(), None)?,
                drawn: self.device.create_semaphore(&Default::default(), None)?,
            };
            if !self.mutable {
                self.aliased(&chain)
                    .context("an image in a swapchain's memory")?;
            }
            Ok(chain)
        }
    }

    unsafe fn end(&self, chain: Option<Chain>) {
        let Some(chain) = chain else { return };
        unsafe {
            let _ = self.device.device_wait_idle();
            self.functions.destroy_swapchain(chain.swapchain, None);
            self.device.free_command_buffers(self.pool, &[chain.buffer]);
            self.device.destroy_buffer(chain.pixels, None);
            self.device.free_memory(chain.memory, None);
            self.device.destroy_fence(chain.fence, None);
            self.device.destroy_fence(chain.released, None);
            self.device.destroy_semaphore(chain.acquired, None);
            self.device.destroy_semaphore(chain.drawn, None);
        }
    }

    /// Draws and presents a frame; false if its window has another size.
    unsafe fn frame(&self, chain: &Chain, frame: usize, number: u64) -> Result<bool> {
        unsafe {
            let swapchain = chain.swapchain;
            let acquired = if frame.is_multiple_of(2) {
                let none = vk::Fence::null();
                let semaphore = chain.acquired;
                self.functions
                    .acquire_next_image(swapchain, PATIENCE, semaphore, none)
            } else {
                let info = vk::AcquireNextImageInfoKHR::default()
                    .swapchain(swapchain)
                    .timeout(PATIENCE)
                    .semaphore(chain.acquired)
                    .device_mask(1);
                self.functions.acquire_next_image2(&info)
            };
            let (index, loose) = match acquired {
                Err(vk::Result::ERROR_OUT_OF_DATE_KHR) => return Ok(false),
                other => other?,
            };
            self.draw(chain, index, frame)?;

            let (swapchains, indices, waits) = ([swapchain], [index], [chain.drawn]);
            let mut results = [vk::Result::NOT_READY];
            let mut present = vk::PresentInfoKHR::default()
                .wait_semaphores(&waits)
                .swapchains(&swapchains)
                .image_indices(&indices)
                .results(&mut results);
            let changed = [frame.saturating_sub(1), frame].map(|frame| {
                let (x, y) = square(frame, chain.extent.width, chain.extent.height);
                vk::RectLayerKHR {
                    offset: vk::Offset2D {
                        x: x.cast_signed(),
                        y: y.cast_signed(),
                    },
                    extent: vk::Extent2D {
                        width: SQUARE,
                        height: SQUARE,
                    },
                    layer: 0,
                }
            });
            let regions = [vk::PresentRegionKHR::default().rectangles(&changed)];
            let mut regions = vk::PresentRegionsKHR::default().regions(&regions);
            // First, that is at the end of the chain: an older validation layer wants nothing after it.
            if self.incremental && frame > 0 {
                present = present.push_next(&mut regions);
            }
            let fences = [chain.released];
            let mut fence = vk::SwapchainPresentFenceInfoEXT::default().fences(&fences);
            // Frames of the last half have the first mode again.
            let modes = [chain.modes[(FRAMES - 1).saturating_sub(frame * 2) % chain.modes.len()]];
            let mut mode = vk::SwapchainPresentModeInfoEXT::default().present_modes(&modes);
            if self.maintenance.is_some() {
                present = present.push_next(&mut fence).push_next(&mut mode);
            }
            let ids = [number];
            let mut id = vk::PresentIdKHR::default().present_ids(&ids);
            if self.wait.is_some() {
                present = present.push_next(&mut id);
            }
            let presented = self.functions.queue_present(self.queue, &present);
            let sole = match presented {
                Ok(false) => vk::Result::SUCCESS,
                Ok(true) => vk::Result::SUBOPTIMAL_KHR,
                Err(error) => error,
            };
            ensure!(results == [sole], "{results:?} and {presented:?}");
            self.device
                .wait_for_fences(&[chain.fence], true, PATIENCE)?;
            self.device.reset_fences(&[chain.fence])?;
            if self.maintenance.is_some() {
                self.device
                    .wait_for_fences(&[chain.released], true, PATIENCE)?;
                self.device.reset_fences(&[chain.released])?;
            }
            match presented {
                Err(vk::Result::ERROR_OUT_OF_DATE_KHR) => return Ok(false),
                other => other?,
            };
            if let Some(wait) = &self.wait {
                if frame.is_multiple_of(2) {
                    match wait.wait_for_present(swapchain, number, PATIENCE) {
                        Ok(()) | Err(vk::Result::SUBOPTIMAL_KHR) => {}
                        Err(error) => bail!("waiting for a frame to be seen: {error}"),
                    }
                }
                let early = wait.wait_for_present(swapchain, number + 1, 1000);
                ensure!(
                    early == Err(vk::Result::TIMEOUT),
                    "{early:?} before it was presented"
                );
            }
            Ok(!loose && presented == Ok(false))
        }
    }

    /// Submits what draws a frame.
    unsafe fn draw(&self, chain: &Chain, index: u32, frame: usize) -> Result<()> {
        let vk::Extent2D { width, height } = chain.extent;
        let bytes = width as usize * height as usize * 4;
        unsafe {
            let mapped = std::slice::from_raw_parts_mut(chain.mapped, bytes);
            for (i, to) in mapped.chunks_exact_mut(4).enumerate() {
                let (x, y) = (i as u32 % width, i as u32 / width);
                let [r, g, b] = pattern(frame, x, y, width, height);
                to.copy_from_slice(&match self.format.format {
                    vk::Format::B8G8R8A8_UNORM => [b, g, r, 255],
                    _ => [r, g, b, 255],
                });
            }
            let image = *chain
                .images
                .get(index as usize)
                .context("an index too high")?;
            self.record(chain, image)?;
            let (waits, signals, buffers) = ([chain.acquired], [chain.drawn], [chain.buffer]);
            let submit = vk::SubmitInfo::default()
                .wait_semaphores(&waits)
                .wait_dst_stage_mask(&[vk::PipelineStageFlags::TRANSFER])
                .command_buffers(&buffers)
                .signal_semaphores(&signals);
            self.device
                .queue_submit(self.queue, &[submit], chain.fence)?;
        }
        Ok(())
    }

    /// Acquires until there are no more: acquiring says so, and does not wait.
    unsafe fn all(&self, chain: &Chain) -> Result<()> {
        let none = vk::Semaphore::null();
        let (swapchain, fence) = (chain.swapchain, chain.fence);
        // Window systems keep some of them.
        if !self.headless {
            return Ok(());
        }
        unsafe {
            let mut taken = Vec::new();
            while taken.len() < chain.images.len() {
                let (index, _) = self
                    .functions
                    .acquire_next_image(swapchain, PATIENCE, none, fence)?;
                taken.push(index);
                self.device.wait_for_fences(&[fence], true, PATIENCE)?;
                self.device.reset_fences(&[fence])?;
            }
            for timeout in [0, 1000] {
                let none = self
                    .functions
                    .acquire_next_image(swapchain, timeout, none, fence);
                // Some drivers say the first even if there was time.
                ensure!(
                    matches!(none, Err(vk::Result::NOT_READY | vk::Result::TIMEOUT)),
                    "{none:?} after all were acquired"
                );
            }
            if let Some(maintenance) = self.maintenance.as_ref().filter(|_| self.release) {
                let info = vk::ReleaseSwapchainImagesInfoEXT::default()
                    .swapchain(swapchain)
                    .image_indices(&taken);
                maintenance.release_swapchain_images(&info)?;
                let again = self
                    .functions
                    .acquire_next_image(swapchain, PATIENCE, none, fence)?;
                ensure!(taken.contains(&again.0));
                self.device.wait_for_fences(&[fence], true, PATIENCE)?;
                self.device.reset_fences(&[fence])?;
                let info = info.image_indices(std::slice::from_ref(&again.0));
                maintenance.release_swapchain_images(&info)?;
            }
        }
        Ok(())
    }

    /// Two swapchains in one present.
    unsafe fn both(&self, first: &Chain, other: vk::SurfaceKHR) -> Result<()> {
        unsafe {
            let modes = vec![vk::PresentModeKHR::FIFO];
            let other = self.chain_on(other, SIZE, 3, modes.clone(), None)?;
            let first = self.chain_on(self.surface, SIZE, 3, modes, Some(first))?;
            for frame in 0..FRAMES {
                let mut indices = [0; 2];
                for (chain, index) in [&first, &other].into_iter().zip(&mut indices) {
                    *index = self
                        .functions
                        .acquire_next_image(
                            chain.swapchain,
                            PATIENCE,
                            chain.acquired,
                            vk::Fence::null(),
                        )?
                        .0;
                    self.draw(chain, *index, frame)?;
                }
                let swapchains = [first.swapchain, other.swapchain];
                let waits = [first.drawn, other.drawn];
                let mut results = [vk::Result::NOT_READY; 2];
                let present = vk::PresentInfoKHR::default()
                    .wait_semaphores(&waits)
                    .swapchains(&swapchains)
                    .image_indices(&indices)
                    .results(&mut results);
                self.functions.queue_present(self.queue, &present)?;
                ensure!(results == [vk::Result::SUCCESS; 2], "{results:?}");
                let fences = [first.fence, other.fence];
                self.device.wait_for_fences(&fences, true, PATIENCE)?;
                self.device.reset_fences(&fences)?;
            }
            self.end(Some(first));
            self.end(Some(other));
        }
        Ok(())
    }

    /// Makes an image of the application's own in the memory of a swapchain's.
    unsafe fn aliased(&self, chain: &Chain) -> Result<()> {
        unsafe {
            let mut of = vk::ImageSwapchainCreateInfoKHR::default().swapchain(chain.swapchain);
            let info = vk::ImageCreateInfo::default()
                .image_type(vk::ImageType::TYPE_2D)
                .format(self.format.format)
                .extent(chain.extent.into())
                .mip_levels(1)
                .array_layers(1)
                .samples(vk::SampleCountFlags::TYPE_1)
                .usage(vk::ImageUsageFlags::COLOR_ATTACHMENT | vk::ImageUsageFlags::TRANSFER_DST)
                .push_next(&mut of);
            let image = self.device.create_image(&info, None)?;
            let mut of = vk::BindImageMemorySwapchainInfoKHR::default()
                .swapchain(chain.swapchain)
                .image_index(1);
            let bind = vk::BindImageMemoryInfo::default()
                .image(image)
                .push_next(&mut of);
            self.device.bind_image_memory2(&[bind])?;
            self.device.destroy_image(image, None);
            Ok(())
        }
    }

    /// Fills an image with what is in the buffer.
    unsafe fn record(&self, chain: &Chain, image: vk::Image) -> Result<()> {
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
        let whole = vk::BufferImageCopy::default()
            .image_subresource(
                vk::ImageSubresourceLayers::default()
                    .aspect_mask(vk::ImageAspectFlags::COLOR)
                    .layer_count(1),
            )
            .image_extent(chain.extent.into());
        unsafe {
            let (device, buffer) = (&self.device, chain.buffer);
            device.begin_command_buffer(buffer, &Default::default())?;
            let before = [to(vk::ImageLayout::UNDEFINED, written)];
            device.cmd_pipeline_barrier(buffer, stage, stage, none, &[], &[], &before);
            device.cmd_copy_buffer_to_image(buffer, chain.pixels, image, written, &[whole]);
            let after = [to(written, vk::ImageLayout::PRESENT_SRC_KHR)];
            device.cmd_pipeline_barrier(buffer, stage, stage, none, &[], &[], &after);
            device.end_command_buffer(buffer)?;
        }
        Ok(())
    }
}
