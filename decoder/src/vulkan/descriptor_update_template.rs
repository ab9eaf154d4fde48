//! Descriptor update templates: data comes sorted by kind and is laid out for the driver again.
//!
//! Where it lies for the driver is ours to say: the guest's offsets and strides mean something in the
//! guest only, and entries that overlap would make handles of its numbers.

use std::sync::Arc;

use super::*;
use crate::stream::{slice, slice_mut};

/// The most bytes a template's data may span.
const MOST: usize = 64 << 20;

/// Which list of an update an entry's data comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Images,
    Buffers,
    Views,
    Inline,
    /// None carries it.
    Nothing,
}

impl Source {
    fn of(entry: &VkDescriptorUpdateTemplateEntry) -> Self {
        match entry.descriptorType {
            VK_DESCRIPTOR_TYPE_SAMPLER
            | VK_DESCRIPTOR_TYPE_COMBINED_IMAGE_SAMPLER
            | VK_DESCRIPTOR_TYPE_SAMPLED_IMAGE
            | VK_DESCRIPTOR_TYPE_STORAGE_IMAGE
            | VK_DESCRIPTOR_TYPE_INPUT_ATTACHMENT => Self::Images,
            VK_DESCRIPTOR_TYPE_UNIFORM_BUFFER
            | VK_DESCRIPTOR_TYPE_UNIFORM_BUFFER_DYNAMIC
            | VK_DESCRIPTOR_TYPE_STORAGE_BUFFER
            | VK_DESCRIPTOR_TYPE_STORAGE_BUFFER_DYNAMIC => Self::Buffers,
            VK_DESCRIPTOR_TYPE_UNIFORM_TEXEL_BUFFER | VK_DESCRIPTOR_TYPE_STORAGE_TEXEL_BUFFER => {
                Self::Views
            }
            VK_DESCRIPTOR_TYPE_INLINE_UNIFORM_BLOCK => Self::Inline,
            _ => Self::Nothing,
        }
    }

    /// Bytes of one element.
    fn stride(self) -> usize {
        match self {
            Self::Images => size_of::<VkDescriptorImageInfo>(),
            Self::Buffers => size_of::<VkDescriptorBufferInfo>(),
            Self::Views | Self::Nothing => size_of::<VkBufferView>(),
            Self::Inline => 1,
        }
    }
}

/// One entry behind the other; returns the bytes of all.
fn pack(entries: &mut [VkDescriptorUpdateTemplateEntry]) -> Result<usize, Error> {
    let mut at = 0usize;
    for entry in entries {
        let stride = Source::of(entry).stride();
        (entry.offset, entry.stride) = (at, stride);
        at = (entry.descriptorCount as usize)
            .checked_mul(stride)
            .and_then(|bytes| bytes.checked_add(at))
            .and_then(|end| end.checked_next_multiple_of(8))
            .filter(|end| *end <= MOST)
            .ok_or(Error::Nonsense("a template of too many descriptors"))?;
    }
    Ok(at)
}

impl DescriptorUpdateTemplateCommands for Engine {
    fn vkCreateDescriptorUpdateTemplate(
        &mut self,
        c: &mut p::vkCreateDescriptorUpdateTemplate,
    ) -> Result<VkResult, Error> {
        let f = function!(
            self.device_fns(c.device_token)?,
            vkCreateDescriptorUpdateTemplate
        );
        // SAFETY: decoding placed the struct and its entries, for this command alone.
        let entries = unsafe {
            let info = &*c.pCreateInfo;
            slice_mut(
                info.pDescriptorUpdateEntries.cast_mut(),
                info.descriptorUpdateEntryCount as usize,
            )
        };
        pack(entries)?;
        let entries: Arc<[VkDescriptorUpdateTemplateEntry]> = (&*entries).into();
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

/// The driver's data, being filled.
struct Layout<'a> {
    entries: &'a [VkDescriptorUpdateTemplateEntry],
    data: Vec<u8>,
    /// How many elements each entry got.
    filled: Vec<usize>,
}

impl Layout<'_> {
    /// The next element of an entry, or its next bytes.
    fn put(&mut self, source: Source, entry: usize, bytes: &[u8]) -> Result<(), Error> {
        let (Some(e), Some(filled)) = (self.entries.get(entry), self.filled.get_mut(entry)) else {
            return Err(Error::Nonsense("no such template entry"));
        };
        if Source::of(e) != source {
            return Err(Error::Nonsense(
                "data of another kind than a template entry's",
            ));
        }
        let n = bytes.len() / e.stride.max(1);
        if *filled + n > e.descriptorCount as usize {
            return Err(Error::Nonsense("more data than a template entry takes"));
        }
        let at = e.offset + *filled * e.stride;
        *filled += n;
        self.data
            .get_mut(at..at + bytes.len())
            .ok_or(Error::Nonsense("a template entry outside of its data"))?
            .copy_from_slice(bytes);
        Ok(())
    }

    fn put_all<T>(&mut self, source: Source, entries: &[u32], values: &[T]) -> Result<(), Error> {
        for (entry, value) in entries.iter().zip(values) {
            self.put(source, *entry as usize, bytes_of(value))?;
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
    let end = |e: &VkDescriptorUpdateTemplateEntry| {
        (e.offset + e.descriptorCount as usize * e.stride).next_multiple_of(8)
    };
    let mut layout = Layout {
        entries: &entries,
        data: vec![0; entries.last().map_or(0, end)],
        filled: vec![0; entries.len()],
    };
    // SAFETY: decoding placed as many elements as each count says, or none.
    unsafe {
        let images = c.imageInfoCount as usize;
        layout.put_all(
            Source::Images,
            slice(c.pImageInfoEntryIndices, images),
            slice(c.pImageInfos, images),
        )?;
        let buffers = c.bufferInfoCount as usize;
        layout.put_all(
            Source::Buffers,
            slice(c.pBufferInfoEntryIndices, buffers),
            slice(c.pBufferInfos, buffers),
        )?;
        let views = c.bufferViewCount as usize;
        layout.put_all(
            Source::Views,
            slice(c.pBufferViewEntryIndices, views),
            slice(c.pBufferViews, views),
        )?;
        let mut inline = slice(
            c.pInlineUniformBlockData,
            c.inlineUniformBlockCount as usize,
        );
        for (i, entry) in entries.iter().enumerate() {
            if Source::of(entry) == Source::Inline {
                let (block, rest) = inline
                    .split_at_checked(entry.descriptorCount as usize)
                    .ok_or(Error::Nonsense("inline uniform data ends too early"))?;
                layout.put(Source::Inline, i, block)?;
                inline = rest;
            }
        }
    }
    // Every element that the template reads must be there, or the driver reads past the end.
    for (entry, filled) in entries.iter().zip(&layout.filled) {
        if *filled < entry.descriptorCount as usize {
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

#[cfg(test)]
mod tests {
    use asgard_protocol::zeroed;

    use super::*;

    fn entry(descriptor_type: VkDescriptorType, count: u32) -> VkDescriptorUpdateTemplateEntry {
        VkDescriptorUpdateTemplateEntry {
            descriptorType: descriptor_type,
            descriptorCount: count,
            // Nonsense of the guest's.
            offset: 8,
            stride: 1,
            ..zeroed()
        }
    }

    #[test]
    fn entries_never_overlap_whatever_the_guest_says() {
        let mut entries = [
            entry(VK_DESCRIPTOR_TYPE_UNIFORM_BUFFER, 2),
            entry(VK_DESCRIPTOR_TYPE_INLINE_UNIFORM_BLOCK, 5),
            entry(VK_DESCRIPTOR_TYPE_SAMPLED_IMAGE, 1),
        ];
        assert_eq!(pack(&mut entries).unwrap(), 48 + 8 + 24);
        let places: Vec<_> = entries.iter().map(|e| (e.offset, e.stride)).collect();
        assert_eq!(places, [(0, 24), (48, 1), (56, 24)]);
        let mut many = [entry(VK_DESCRIPTOR_TYPE_UNIFORM_BUFFER, u32::MAX)];
        assert!(pack(&mut many).is_err());
    }

    #[test]
    fn data_goes_to_entries_of_its_kind_and_no_further() {
        let mut entries = [entry(VK_DESCRIPTOR_TYPE_SAMPLED_IMAGE, 1)];
        let size = pack(&mut entries).unwrap();
        let mut layout = Layout {
            entries: &entries,
            data: vec![0; size],
            filled: vec![0],
        };
        let info = [7; 24];
        assert!(layout.put(Source::Buffers, 0, &info).is_err());
        assert!(layout.put(Source::Images, 1, &info).is_err());
        layout.put(Source::Images, 0, &info).unwrap();
        assert!(layout.put(Source::Images, 0, &info).is_err());
    }
}
