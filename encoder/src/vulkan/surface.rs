//! Surfaces: windows of the guest.

use std::sync::Arc;

use super::*;
use crate::wsi::headless::Headless;
use crate::wsi::wayland::Wayland;
use crate::wsi::x11::X11;
use crate::wsi::{Gone, Window};

/// A VkSurfaceKHR.
#[derive(Debug)]
pub(crate) struct Surface {
    pub(crate) window: Arc<dyn Window>,
}

/// Instance extensions of this driver's own, with their versions.
pub(super) const INSTANCE: &[(&CStr, u32)] = &[
    (c"VK_KHR_surface", 25),
    (c"VK_KHR_get_surface_capabilities2", 1),
    (c"VK_KHR_surface_maintenance1", 1),
    (c"VK_KHR_surface_protected_capabilities", 1),
    (c"VK_KHR_wayland_surface", 6),
    (c"VK_KHR_xcb_surface", 6),
    (c"VK_KHR_xlib_surface", 6),
    (c"VK_EXT_headless_surface", 1),
    (c"VK_EXT_surface_maintenance1", 1),
    (c"VK_EXT_swapchain_colorspace", 5),
];

/// Pictures that a swapchain has at least: one on the screen and one to draw.
pub(super) const MIN_IMAGES: u32 = 2;

/// A size that every window of X11 and every image may have.
const MAX_SIZE: u32 = 16384;

const FORMATS: [VkFormat; 4] = [
    VK_FORMAT_B8G8R8A8_UNORM,
    VK_FORMAT_B8G8R8A8_SRGB,
    VK_FORMAT_R8G8B8A8_UNORM,
    VK_FORMAT_R8G8B8A8_SRGB,
];

/// The surface behind a handle.
///
/// # Safety
/// The handle is one of a live surface.
pub(super) unsafe fn surface<'a>(handle: VkSurfaceKHR) -> &'a Surface {
    // SAFETY: the caller's promise.
    unsafe { &*(handle.0 as *const Surface) }
}

/// A surface of this window.
///
/// # Safety
/// There is room for the handle.
unsafe fn create<W: Window + 'static>(window: Result<W, Gone>, to: *mut VkSurfaceKHR) -> VkResult {
    let Ok(window) = window else {
        return VK_ERROR_SURFACE_LOST_KHR;
    };
    let surface = Box::new(Surface {
        window: Arc::new(window),
    });
    // SAFETY: the caller's promise.
    unsafe { *to = VkSurfaceKHR(Box::into_raw(surface) as u64) };
    VK_SUCCESS
}

/// Whether a queue can copy pictures.
pub(super) fn copies(device: VkPhysicalDevice, family: u32) -> bool {
    let mut count = 0;
    Driver.vkGetPhysicalDeviceQueueFamilyProperties(
        &mut p::vkGetPhysicalDeviceQueueFamilyProperties {
            physicalDevice: device,
            pQueueFamilyPropertyCount: &raw mut count,
            ..zeroed()
        },
    );
    let mut families = vec![zeroed::<VkQueueFamilyProperties>(); count as usize];
    Driver.vkGetPhysicalDeviceQueueFamilyProperties(
        &mut p::vkGetPhysicalDeviceQueueFamilyProperties {
            physicalDevice: device,
            pQueueFamilyPropertyCount: &raw mut count,
            pQueueFamilyProperties: families.as_mut_ptr(),
            ..zeroed()
        },
    );
    let copying = VK_QUEUE_GRAPHICS_BIT | VK_QUEUE_COMPUTE_BIT | VK_QUEUE_TRANSFER_BIT;
    families
        .get(family as usize)
        .is_some_and(|f| f.queueFlags & copying != 0)
}

fn capabilities(handle: VkSurfaceKHR) -> Result<VkSurfaceCapabilitiesKHR, VkResult> {
    // SAFETY: the application passes a live surface.
    let window = unsafe { &surface(handle).window };
    let extent = window.extent().map_err(|Gone| VK_ERROR_SURFACE_LOST_KHR)?;
    let of = |width, height| VkExtent2D { width, height };
    Ok(VkSurfaceCapabilitiesKHR {
        minImageCount: MIN_IMAGES,
        maxImageCount: 0,
        currentExtent: extent.unwrap_or(of(u32::MAX, u32::MAX)),
        minImageExtent: extent.unwrap_or(of(1, 1)),
        maxImageExtent: extent.unwrap_or(of(MAX_SIZE, MAX_SIZE)),
        maxImageArrayLayers: 1,
        supportedTransforms: VK_SURFACE_TRANSFORM_IDENTITY_BIT_KHR,
        currentTransform: VK_SURFACE_TRANSFORM_IDENTITY_BIT_KHR,
        supportedCompositeAlpha: window.alphas(),
        supportedUsageFlags: VK_IMAGE_USAGE_TRANSFER_SRC_BIT
            | VK_IMAGE_USAGE_TRANSFER_DST_BIT
            | VK_IMAGE_USAGE_SAMPLED_BIT
            | VK_IMAGE_USAGE_STORAGE_BIT
            | VK_IMAGE_USAGE_COLOR_ATTACHMENT_BIT
            | VK_IMAGE_USAGE_INPUT_ATTACHMENT_BIT,
    })
}

fn formats() -> [VkSurfaceFormatKHR; 4] {
    FORMATS.map(|format| VkSurfaceFormatKHR {
        format,
        colorSpace: VK_COLOR_SPACE_SRGB_NONLINEAR_KHR,
    })
}

/// `vkGetPhysicalDeviceSurfaceSupportKHR`.
pub(super) fn support(c: &mut p::vkGetPhysicalDeviceSurfaceSupportKHR) -> VkResult {
    let supported = copies(c.physicalDevice, c.queueFamilyIndex);
    // SAFETY: the application made room.
    unsafe { *c.pSupported = supported.into() };
    VK_SUCCESS
}

/// `vkGetPhysicalDeviceSurfaceCapabilities2KHR`.
pub(super) fn capabilities2(c: &mut p::vkGetPhysicalDeviceSurfaceCapabilities2KHR) -> VkResult {
    // SAFETY: the application passes a struct with its chain, and another with its chain to fill in.
    unsafe {
        let info = &*c.pSurfaceInfo;
        let known = match capabilities(info.surface) {
            Ok(known) => known,
            Err(error) => return error,
        };
        (*c.pSurfaceCapabilities).surfaceCapabilities = known;
        let kind = VK_STRUCTURE_TYPE_SURFACE_PRESENT_MODE_KHR;
        let asked = image::find::<VkSurfacePresentModeKHR>(info.pNext, kind);
        let modes = surface(info.surface).window.modes();
        let modes = asked.map_or(modes, |asked| compatible(modes, asked.presentMode));
        let mut next = (*c.pSurfaceCapabilities).pNext;
        while !next.is_null() {
            let head = next.cast::<VkBaseOutStructure>();
            fill(head, &known, modes);
            next = (*head).pNext.cast();
        }
    }
    VK_SUCCESS
}

/// Modes that a swapchain of this one can change to: all, since a thread of this driver's own shows pictures.
fn compatible(modes: &[VkPresentModeKHR], mode: VkPresentModeKHR) -> &[VkPresentModeKHR] {
    if modes.contains(&mode) { modes } else { &[] }
}

/// Fills in what a chain asks of a surface.
///
/// # Safety
/// It is a struct of the type that it says.
unsafe fn fill(
    head: *mut VkBaseOutStructure,
    known: &VkSurfaceCapabilitiesKHR,
    modes: &[VkPresentModeKHR],
) {
    // SAFETY: the caller's promise.
    unsafe {
        match (*head).sType {
            VK_STRUCTURE_TYPE_SURFACE_PROTECTED_CAPABILITIES_KHR => {
                let to = head.cast::<VkSurfaceProtectedCapabilitiesKHR>();
                (*to).supportsProtected = 0;
            }
            VK_STRUCTURE_TYPE_SURFACE_PRESENT_SCALING_CAPABILITIES_KHR => {
                let to = &mut *head.cast::<VkSurfacePresentScalingCapabilitiesKHR>();
                to.supportedPresentScaling = 0;
                to.supportedPresentGravityX = 0;
                to.supportedPresentGravityY = 0;
                to.minScaledImageExtent = known.minImageExtent;
                to.maxScaledImageExtent = known.maxImageExtent;
            }
            VK_STRUCTURE_TYPE_SURFACE_PRESENT_MODE_COMPATIBILITY_KHR => {
                let to = &mut *head.cast::<VkSurfacePresentModeCompatibilityKHR>();
                let _ = list(modes, &raw mut to.presentModeCount, to.pPresentModes);
            }
            VK_STRUCTURE_TYPE_SURFACE_CAPABILITIES_PRESENT_ID_2_KHR => {
                let to = head.cast::<VkSurfaceCapabilitiesPresentId2KHR>();
                (*to).presentId2Supported = 1;
            }
            VK_STRUCTURE_TYPE_SURFACE_CAPABILITIES_PRESENT_WAIT_2_KHR => {
                let to = head.cast::<VkSurfaceCapabilitiesPresentWait2KHR>();
                (*to).presentWait2Supported = 1;
            }
            _ => {}
        }
    }
}

/// `vkGetPhysicalDeviceSurfaceFormats2KHR`.
pub(super) fn formats2(c: &mut p::vkGetPhysicalDeviceSurfaceFormats2KHR) -> VkResult {
    let all = formats();
    // SAFETY: the application made room for as many structs as the count says.
    unsafe {
        if c.pSurfaceFormats.is_null() {
            *c.pSurfaceFormatCount = all.len() as u32;
            return VK_SUCCESS;
        }
        let n = all.len().min(*c.pSurfaceFormatCount as usize);
        for (i, format) in all.iter().take(n).enumerate() {
            (*c.pSurfaceFormats.add(i)).surfaceFormat = *format;
        }
        *c.pSurfaceFormatCount = n as u32;
        if n < all.len() {
            VK_INCOMPLETE
        } else {
            VK_SUCCESS
        }
    }
}

/// `vkGetDeviceGroupPresentCapabilitiesKHR`.
pub(super) fn group_capabilities(c: &mut p::vkGetDeviceGroupPresentCapabilitiesKHR) -> VkResult {
    // SAFETY: the application made room.
    let to = unsafe { &mut *c.pDeviceGroupPresentCapabilities };
    to.presentMask.fill(0);
    to.presentMask[0] = 1;
    to.modes = VK_DEVICE_GROUP_PRESENT_MODE_LOCAL_BIT_KHR;
    VK_SUCCESS
}

impl SurfaceCommands for Driver {
    fn vkCreateHeadlessSurfaceEXT(&self, c: &mut p::vkCreateHeadlessSurfaceEXT) -> VkResult {
        // SAFETY: the application made room for one handle.
        unsafe { create(Ok(Headless), c.pSurface) }
    }

    fn vkDestroySurfaceKHR(&self, c: &mut p::vkDestroySurfaceKHR) {
        if c.surface.0 != 0 {
            // SAFETY: it came from `create`, and the application does not use it any more.
            drop(unsafe { Box::from_raw(c.surface.0 as *mut Surface) });
        }
    }

    fn vkGetPhysicalDeviceSurfaceCapabilitiesKHR(
        &self,
        c: &mut p::vkGetPhysicalDeviceSurfaceCapabilitiesKHR,
    ) -> VkResult {
        match capabilities(c.surface) {
            Ok(known) => {
                // SAFETY: the application made room.
                unsafe { *c.pSurfaceCapabilities = known };
                VK_SUCCESS
            }
            Err(error) => error,
        }
    }

    fn vkGetPhysicalDeviceSurfaceFormatsKHR(
        &self,
        c: &mut p::vkGetPhysicalDeviceSurfaceFormatsKHR,
    ) -> VkResult {
        // SAFETY: the application made room.
        unsafe { list(&formats(), c.pSurfaceFormatCount, c.pSurfaceFormats) }
    }

    fn vkGetPhysicalDeviceSurfacePresentModesKHR(
        &self,
        c: &mut p::vkGetPhysicalDeviceSurfacePresentModesKHR,
    ) -> VkResult {
        // SAFETY: the application passes a live surface, and made room.
        unsafe {
            let modes = surface(c.surface).window.modes();
            list(modes, c.pPresentModeCount, c.pPresentModes)
        }
    }

    fn vkGetDeviceGroupSurfacePresentModesKHR(
        &self,
        c: &mut p::vkGetDeviceGroupSurfacePresentModesKHR,
    ) -> VkResult {
        // SAFETY: the application made room.
        unsafe { *c.pModes = VK_DEVICE_GROUP_PRESENT_MODE_LOCAL_BIT_KHR };
        VK_SUCCESS
    }

    fn vkGetPhysicalDevicePresentRectanglesKHR(
        &self,
        c: &mut p::vkGetPhysicalDevicePresentRectanglesKHR,
    ) -> VkResult {
        match capabilities(c.surface) {
            Ok(known) => {
                let whole = VkRect2D {
                    extent: known.currentExtent,
                    ..zeroed()
                };
                // SAFETY: the application made room.
                unsafe { list(&[whole], c.pRectCount, c.pRects) }
            }
            Err(error) => error,
        }
    }
}

// Commands with types of a window system have no encoding, so their entry points are written here.

unsafe extern "system" fn create_xcb(
    _: VkInstance,
    info: *const VkXcbSurfaceCreateInfoKHR,
    _: *const VkAllocationCallbacks,
    to: *mut VkSurfaceKHR,
) -> VkResult {
    // SAFETY: the application passes a struct with a live connection, and room for a handle.
    unsafe { create(X11::of_xcb(&*info), to) }
}

unsafe extern "system" fn create_xlib(
    _: VkInstance,
    info: *const VkXlibSurfaceCreateInfoKHR,
    _: *const VkAllocationCallbacks,
    to: *mut VkSurfaceKHR,
) -> VkResult {
    // SAFETY: the application passes a struct with a live display, and room for a handle.
    unsafe { create(X11::of_xlib(&*info), to) }
}

unsafe extern "system" fn create_wayland(
    _: VkInstance,
    info: *const VkWaylandSurfaceCreateInfoKHR,
    _: *const VkAllocationCallbacks,
    to: *mut VkSurfaceKHR,
) -> VkResult {
    // SAFETY: the application passes a struct with a live display and surface, and room for a handle.
    unsafe { create(Wayland::of(&*info), to) }
}

unsafe extern "system" fn wayland_support(
    device: VkPhysicalDevice,
    family: u32,
    _: *mut c_void,
) -> VkBool32 {
    copies(device, family).into()
}

unsafe extern "system" fn xcb_support(
    device: VkPhysicalDevice,
    family: u32,
    _: *mut c_void,
    _: xcb_visualid_t,
) -> VkBool32 {
    copies(device, family).into()
}

unsafe extern "system" fn xlib_support(
    device: VkPhysicalDevice,
    family: u32,
    _: *mut c_void,
    _: VisualID,
) -> VkBool32 {
    copies(device, family).into()
}

/// The entry point of that name, if it has types of a window system.
pub(super) fn entry(name: &CStr) -> PFN_vkVoidFunction {
    let function = match name.to_bytes() {
        b"vkCreateWaylandSurfaceKHR" => create_wayland as *const (),
        b"vkGetPhysicalDeviceWaylandPresentationSupportKHR" => wayland_support as *const (),
        b"vkCreateXcbSurfaceKHR" => create_xcb as *const (),
        b"vkCreateXlibSurfaceKHR" => create_xlib as *const (),
        b"vkGetPhysicalDeviceXcbPresentationSupportKHR" => xcb_support as *const (),
        b"vkGetPhysicalDeviceXlibPresentationSupportKHR" => xlib_support as *const (),
        _ => return None,
    };
    // SAFETY: the caller of a Vulkan function pointer casts it back to its own type.
    Some(unsafe { transmute::<*const (), unsafe extern "system" fn()>(function) })
}
