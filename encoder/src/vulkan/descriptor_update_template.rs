//! Descriptor update templates: an update becomes the writes that it stands for, because only the data's
//! owner knows how it lies. The host is not asked to use templates itself: upstream's mixes up the entries
//! behind one of several descriptors.

use std::sync::Arc;

use super::*;
use crate::object::Dispatchable;
use crate::vulkan::command_buffer::CommandBuffer;
use crate::vulkan::device::device;

/// What a template says.
#[derive(Debug)]
pub(crate) struct Template {
    entries: Vec<Entry>,
    kind: VkDescriptorUpdateTemplateType,
    pub(super) bind_point: VkPipelineBindPoint,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    binding: u32,
    element: u32,
    count: u32,
    descriptor: VkDescriptorType,
    offset: usize,
    stride: usize,
}

/// What lies at an entry's place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Image,
    Buffer,
    View,
    Block,
    Structure,
    Other,
}

fn form(descriptor: VkDescriptorType) -> Form {
    match descriptor {
        VK_DESCRIPTOR_TYPE_SAMPLER
        | VK_DESCRIPTOR_TYPE_COMBINED_IMAGE_SAMPLER
        | VK_DESCRIPTOR_TYPE_SAMPLED_IMAGE
        | VK_DESCRIPTOR_TYPE_STORAGE_IMAGE
        | VK_DESCRIPTOR_TYPE_INPUT_ATTACHMENT => Form::Image,
        VK_DESCRIPTOR_TYPE_UNIFORM_BUFFER
        | VK_DESCRIPTOR_TYPE_STORAGE_BUFFER
        | VK_DESCRIPTOR_TYPE_UNIFORM_BUFFER_DYNAMIC
        | VK_DESCRIPTOR_TYPE_STORAGE_BUFFER_DYNAMIC => Form::Buffer,
        VK_DESCRIPTOR_TYPE_UNIFORM_TEXEL_BUFFER | VK_DESCRIPTOR_TYPE_STORAGE_TEXEL_BUFFER => {
            Form::View
        }
        VK_DESCRIPTOR_TYPE_INLINE_UNIFORM_BLOCK => Form::Block,
        VK_DESCRIPTOR_TYPE_ACCELERATION_STRUCTURE_KHR => Form::Structure,
        _ => Form::Other,
    }
}

/// Data sorted by kind.
#[derive(Default)]
struct Sorted {
    images: Vec<VkDescriptorImageInfo>,
    buffers: Vec<VkDescriptorBufferInfo>,
    views: Vec<VkBufferView>,
    blocks: Vec<u8>,
    structures: Vec<VkAccelerationStructureKHR>,
}

/// # Safety
/// `data` holds what the template says.
unsafe fn sort(template: &Template, data: *const u8) -> Sorted {
    let mut sorted = Sorted::default();
    for entry in &template.entries {
        let form = form(entry.descriptor);
        if form == Form::Block {
            // SAFETY: the caller's promise; for blocks the count is bytes.
            let bytes =
                unsafe { std::slice::from_raw_parts(data.add(entry.offset), entry.count as usize) };
            sorted.blocks.extend_from_slice(bytes);
            continue;
        }
        for n in 0..entry.count as usize {
            // SAFETY: the caller's promise; data need not be aligned.
            unsafe {
                let at = data.add(entry.offset + n * entry.stride);
                match form {
                    Form::Image => sorted
                        .images
                        .push(at.cast::<VkDescriptorImageInfo>().read_unaligned()),
                    Form::Buffer => sorted
                        .buffers
                        .push(at.cast::<VkDescriptorBufferInfo>().read_unaligned()),
                    Form::View => sorted
                        .views
                        .push(at.cast::<VkBufferView>().read_unaligned()),
                    Form::Structure => sorted
                        .structures
                        .push(at.cast::<VkAccelerationStructureKHR>().read_unaligned()),
                    Form::Block | Form::Other => {}
                }
            }
        }
    }
    sorted
}

impl DescriptorUpdateTemplateCommands for Driver {
    fn vkCreateDescriptorUpdateTemplate(
        &self,
        c: &mut p::vkCreateDescriptorUpdateTemplate,
    ) -> VkResult {
        c.pAllocator = std::ptr::null();
        let made = c.pDescriptorUpdateTemplate.cast();
        let ret = self.create(c, Kind::DescriptorUpdateTemplate, made, 1);
        if ret == VK_SUCCESS {
            // SAFETY: the application passes a live device and a struct, and the reply filled the handle.
            unsafe {
                let info = *c.pCreateInfo;
                let entries = (0..info.descriptorUpdateEntryCount as usize)
                    .map(|i| {
                        let e = *info.pDescriptorUpdateEntries.add(i);
                        Entry {
                            binding: e.dstBinding,
                            element: e.dstArrayElement,
                            count: e.descriptorCount,
                            descriptor: e.descriptorType,
                            offset: e.offset,
                            stride: e.stride,
                        }
                    })
                    .collect();
                let template = Template {
                    entries,
                    kind: info.templateType,
                    bind_point: info.pipelineBindPoint,
                };
                let token = (*c.pDescriptorUpdateTemplate).0;
                device(c.device)
                    .templates
                    .lock()
                    .insert(token, Arc::new(template));
            }
        }
        ret
    }

    fn vkDestroyDescriptorUpdateTemplate(&self, c: &mut p::vkDestroyDescriptorUpdateTemplate) {
        c.pAllocator = std::ptr::null();
        // SAFETY: the application passes a live device.
        unsafe { device(c.device) }
            .templates
            .lock()
            .remove(&c.descriptorUpdateTemplate.0);
        let gone = c.descriptorUpdateTemplate.0;
        self.destroy(c, gone);
    }
}

impl DescriptorSetCommands for Driver {
    fn vkAllocateDescriptorSets(&self, c: &mut p::vkAllocateDescriptorSets) -> VkResult {
        descriptor_pool::allocate(c)
    }

    fn vkUpdateDescriptorSetWithTemplate(&self, c: &mut p::vkUpdateDescriptorSetWithTemplate) {
        // SAFETY: the application passes a live device.
        let device = unsafe { device(c.device) };
        device.updates_descriptors();
        let known = device.templates.lock();
        let Some(template) = known.get(&c.descriptorUpdateTemplate.0).cloned() else {
            return;
        };
        drop(known);
        // SAFETY: the application passes what the template says.
        unsafe {
            with_writes(&template, c.pData.cast(), c.descriptorSet, |writes| {
                self.call(&mut p::vkUpdateDescriptorSets {
                    device: c.device,
                    descriptorWriteCount: writes.len() as u32,
                    pDescriptorWrites: writes.as_ptr(),
                    ..zeroed()
                });
            });
        }
    }
}

/// Hands on the writes that a template and its data stand for.
///
/// # Safety
/// `data` holds what the template says.
unsafe fn with_writes(
    template: &Template,
    data: *const u8,
    set: VkDescriptorSet,
    hand_on: impl FnOnce(&[VkWriteDescriptorSet]),
) {
    // SAFETY: the caller's promise.
    let sorted = unsafe { sort(template, data) };
    let (mut images, mut buffers, mut views) = (0, 0, 0);
    let (mut blocks, mut structures) = (0, 0);
    // What chains point to: boxed, so that it does not move.
    let mut block_infos = Vec::new();
    let mut structure_infos = Vec::new();
    let mut writes = Vec::new();
    for entry in &template.entries {
        let n = entry.count as usize;
        let mut write = VkWriteDescriptorSet {
            sType: VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET,
            dstSet: set,
            dstBinding: entry.binding,
            dstArrayElement: entry.element,
            descriptorCount: entry.count,
            descriptorType: entry.descriptor,
            ..zeroed()
        };
        match form(entry.descriptor) {
            Form::Image => {
                write.pImageInfo = sorted.images[images..].as_ptr();
                images += n;
            }
            Form::Buffer => {
                write.pBufferInfo = sorted.buffers[buffers..].as_ptr();
                buffers += n;
            }
            Form::View => {
                write.pTexelBufferView = sorted.views[views..].as_ptr();
                views += n;
            }
            Form::Block => {
                let info = Box::new(VkWriteDescriptorSetInlineUniformBlock {
                    sType: VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET_INLINE_UNIFORM_BLOCK,
                    dataSize: entry.count,
                    pData: sorted.blocks[blocks..].as_ptr().cast(),
                    ..zeroed()
                });
                write.pNext = (&raw const *info).cast();
                block_infos.push(info);
                blocks += n;
            }
            Form::Structure => {
                let info = Box::new(VkWriteDescriptorSetAccelerationStructureKHR {
                    sType: VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET_ACCELERATION_STRUCTURE_KHR,
                    accelerationStructureCount: entry.count,
                    pAccelerationStructures: sorted.structures[structures..].as_ptr(),
                    ..zeroed()
                });
                write.pNext = (&raw const *info).cast();
                structure_infos.push(info);
                structures += n;
            }
            Form::Other => continue,
        }
        writes.push(write);
    }
    hand_on(&writes);
}

/// The push of a template's data, as the writes that it stands for; `record` is given the template too.
///
/// # Safety
/// The command buffer is live, and `info.pData` holds what the template says.
pub(super) unsafe fn push(
    command_buffer: VkCommandBuffer,
    info: &VkPushDescriptorSetWithTemplateInfo,
    record: impl FnOnce(&Template, &[VkWriteDescriptorSet]),
) {
    // SAFETY: the caller's promise; the buffer's device is live.
    let known = unsafe {
        let buffer = Dispatchable::<CommandBuffer>::from_handle(command_buffer.0);
        device(buffer.data.device).templates.lock()
    };
    let Some(template) = known.get(&info.descriptorUpdateTemplate.0).cloned() else {
        return;
    };
    drop(known);
    if template.kind != VK_DESCRIPTOR_UPDATE_TEMPLATE_TYPE_PUSH_DESCRIPTORS {
        return;
    }
    // SAFETY: the caller's promise.
    unsafe {
        with_writes(&template, info.pData.cast(), VkDescriptorSet(0), |writes| {
            record(&template, writes)
        });
    }
}
