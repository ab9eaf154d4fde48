//! Acceleration structures and micromaps: builds that a driver can follow, and properties with room.

use super::*;
use crate::stream::slice;

/// Drivers read every geometry that the count promises.
///
/// # Safety
/// The structs were decoded.
pub(super) unsafe fn check_builds(
    infos: *const VkAccelerationStructureBuildGeometryInfoKHR,
    n: u32,
) -> Result<(), Error> {
    // SAFETY: the caller's promise.
    let missing = unsafe { slice(infos, n as usize) }
        .iter()
        .any(|i| i.geometryCount > 0 && i.pGeometries.is_null() && i.ppGeometries.is_null());
    if missing {
        return Err(Error::Nonsense("a build without its geometries"));
    }
    Ok(())
}

/// As [`check_builds`], for micromaps.
///
/// # Safety
/// The structs were decoded.
pub(super) unsafe fn check_micromaps(
    infos: *const VkMicromapBuildInfoEXT,
    n: u32,
) -> Result<(), Error> {
    // SAFETY: the caller's promise.
    let missing = unsafe { slice(infos, n as usize) }
        .iter()
        .any(|i| i.usageCountsCount > 0 && i.pUsageCounts.is_null() && i.ppUsageCounts.is_null());
    if missing {
        return Err(Error::Nonsense("a micromap build without its usage counts"));
    }
    Ok(())
}

/// The room that a driver fills with a property of each of `n` objects, whatever the guest says.
pub(super) fn properties_room(n: u32, stride: usize) -> Result<usize, Error> {
    stride
        .checked_mul(n.saturating_sub(1) as usize)
        .and_then(|last| last.checked_add(size_of::<VkDeviceSize>()))
        .ok_or(Error::Nonsense("properties far apart"))
}

impl AccelerationStructureCommands for Engine {}

impl MicromapCommands for Engine {}
