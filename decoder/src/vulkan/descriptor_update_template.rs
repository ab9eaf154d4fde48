//! Descriptor update templates: data comes sorted by kind and is laid out again as the template says.

use std::collections::HashMap;
use std::sync::Arc;

use super::*;
use crate::stream::slice;

/// The most bytes a template's data may span.
const MOST: usize = 64 << 20;

impl DescriptorUpdateTemplateCommands for Engine {
    fn vkCreateDescriptorUpdateTemplate(
        &mut self,
        c: &mut p::vkCreateDescriptorUpdateTemplate,
    ) -> Result<VkResult, Error> {
        let f = function!(
            self.device_fns(c.device_token)?,
            vkCreateDescriptorUpdateTemplate
        );
        // SAFETY: decoding placed the struct and its entries.
        let entries: Arc<[VkDescriptorUpdateTemplateEntry]> = unsafe {
            let info = &*c.pCreateInfo;
            slice(
                info.pDescriptorUpdateEntries,
                info.descriptorUpdateEntryCount as usize,
            )
            .into()
        };
        // SAFETY: decoded arguments.
        let ret = unsafe {
            f(
                c.device,
                c.pCreateInfo,
                c.pAllocator,
                c.pDescriptorUpdateTemplate,
            )
        };
        let template = c.pDescriptorUpdateTemplate;
        self.adopt(
            Kind::DescriptorUpdateTemplate,
            c.device_token,
            template.cast(),
            1,
            true,
        )?;
        if ret == VK_SUCCESS {
            // SAFETY: decoding made room for one handle.
            let token = unsafe { *template }.0;
            self.context.templates.lock().insert(token, entries);
        }
        Ok(ret)
    }

    fn vkDestroyDescriptorUpdateTemplate(
        &mut self,
        c: &mut p::vkDestroyDescriptorUpdateTemplate,
    ) -> Result<(), Error> {
        let f = function!(
            self.device_fns(c.device_token)?,
            vkDestroyDescriptorUpdateTemplate
        );
        if !self.retire(c.descriptorUpdateTemplate_token) {
            return Ok(());
        }
        self.context
            .templates
            .lock()
            .remove(&c.descriptorUpdateTemplate_token);
        // SAFETY: live, and its token names nothing any more.
        unsafe { f(c.device, c.descriptorUpdateTemplate, c.pAllocator) };
        Ok(())
    }
}

/// The bytes of one struct.
fn bytes_of<T>(value: &T) -> &[u8] {
    // SAFETY: a struct that decoding zeroed before it was filled: every byte is initialised.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// Lays the elements of one kind out at their entries' places.
struct Layout<'a> {
    entries: &'a [VkDescriptorUpdateTemplateEntry],
    data: Vec<u8>,
    /// How many elements each entry got.
    filled: HashMap<usize, usize>,
}

impl Layout<'_> {
    fn put(&mut self, entry: usize, bytes: &[u8]) -> Result<(), Error> {
        let e = self
            .entries
            .get(entry)
            .ok_or(Error::Nonsense("no such template entry"))?;
        let n = self.filled.entry(entry).or_default();
        let at = n
            .checked_mul(e.stride)
            .and_then(|o| o.checked_add(e.offset))
            .filter(|at| at.saturating_add(bytes.len()) <= MOST)
            .ok_or(Error::Nonsense("a template entry far out"))?;
        *n += 1;
        if self.data.len() < at + bytes.len() {
            self.data.resize(at + bytes.len(), 0);
        }
        if let Some(to) = self.data.get_mut(at..at + bytes.len()) {
            to.copy_from_slice(bytes);
        }
        Ok(())
    }

    fn put_all<T>(&mut self, entries: &[u32], values: &[T]) -> Result<(), Error> {
        for (entry, value) in entries.iter().zip(values) {
            self.put(*entry as usize, bytes_of(value))?;
        }
        Ok(())
    }
}

/// `vkUpdateDescriptorSetWithTemplateSized2GOOGLE`.
pub(super) fn update(
    e: &mut Engine,
    c: &p::vkUpdateDescriptorSetWithTemplateSized2GOOGLE,
) -> Result<(), Error> {
    let f = function!(
        e.device_fns(c.device_token)?,
        vkUpdateDescriptorSetWithTemplate
    );
    if c.descriptorSet.0 == 0 {
        return Err(Error::Nonsense(
            "an update of a descriptor set that was not allocated",
        ));
    }
    let entries = e
        .context
        .templates
        .lock()
        .get(&c.descriptorUpdateTemplate_token)
        .cloned()
        .ok_or(Error::Nonsense(
            "a descriptor update template that is not live",
        ))?;
    let mut layout = Layout {
        entries: &entries,
        data: Vec::new(),
        filled: HashMap::new(),
    };
    // SAFETY: decoding placed as many elements as each count says, or none.
    unsafe {
        let images = c.imageInfoCount as usize;
        layout.put_all(
            slice(c.pImageInfoEntryIndices, images),
            slice(c.pImageInfos, images),
        )?;
        let buffers = c.bufferInfoCount as usize;
        layout.put_all(
            slice(c.pBufferInfoEntryIndices, buffers),
            slice(c.pBufferInfos, buffers),
        )?;
        let views = c.bufferViewCount as usize;
        layout.put_all(
            slice(c.pBufferViewEntryIndices, views),
            slice(c.pBufferViews, views),
        )?;
        let mut inline = slice(
            c.pInlineUniformBlockData,
            c.inlineUniformBlockCount as usize,
        );
        for (i, entry) in entries.iter().enumerate() {
            if entry.descriptorType == VK_DESCRIPTOR_TYPE_INLINE_UNIFORM_BLOCK {
                let (block, rest) = inline
                    .split_at_checked(entry.descriptorCount as usize)
                    .ok_or(Error::Nonsense("inline uniform data ends too early"))?;
                layout.put(i, block)?;
                inline = rest;
            }
        }
    }
    // Every element that the template reads must be there, or the driver reads past the end.
    for (i, entry) in entries.iter().enumerate() {
        let blocks = entry.descriptorType == VK_DESCRIPTOR_TYPE_INLINE_UNIFORM_BLOCK;
        let due = if blocks {
            1
        } else {
            entry.descriptorCount as usize
        };
        if layout.filled.get(&i).copied().unwrap_or(0) < due {
            return Err(Error::Nonsense("a template entry without its data"));
        }
    }
    // SAFETY: live handles; the data holds every element that the template names.
    unsafe {
        f(
            c.device,
            c.descriptorSet,
            c.descriptorUpdateTemplate,
            layout.data.as_ptr().cast(),
        );
    }
    Ok(())
}
