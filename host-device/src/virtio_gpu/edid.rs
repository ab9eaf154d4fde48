//! The EDID of a display that does not exist (VESA E-EDID 1.4, one block).

/// Bytes of one block.
const BLOCK: usize = 128;

/// Describes a display of this size in pixels, refreshed 60 times a second.
pub fn describe(scanout: u32, width: u32, height: u32) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(place) = block.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    put(0, &[0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0]);
    // Manufacturer "ASG" in five-bit letters, product, serial number, week and year of manufacture.
    let letters = b"ASG"
        .iter()
        .fold(0_u16, |sum, letter| sum << 5 | u16::from(letter - b'@'));
    put(8, &letters.to_be_bytes());
    put(10, &1_u16.to_le_bytes());
    put(12, &(scanout + 1).to_le_bytes());
    put(16, &[1, 36, 1, 4]);
    // Digital, eight bits a colour; centimetres at 96 pixels an inch; gamma 2.2; sRGB, preferred timing is native.
    let centimetres = |pixels: u32| u8::try_from(pixels * 254 / 9600).unwrap_or(u8::MAX);
    put(
        20,
        &[0xa5, centimetres(width), centimetres(height), 120, 0x06],
    );
    // Chromaticity of sRGB.
    put(
        25,
        &[0xee, 0x91, 0xa3, 0x54, 0x4c, 0x99, 0x26, 0x0f, 0x50, 0x54],
    );
    // No established timings, no standard ones.
    put(35, &[0, 0, 0]);
    put(38, &[1; 16]);
    put(54, &timing(width, height));
    put(72, &descriptor(0xfc, b"Asgard"));
    // 50 to 125 Hz, 30 to 160 kHz, 2500 MHz at most, and no formula for other timings.
    put(
        90,
        &descriptor(
            0xfd,
            &[
                50, 125, 30, 160, 250, 1, b'\n', b' ', b' ', b' ', b' ', b' ', b' ',
            ],
        ),
    );
    put(108, &descriptor(0x10, &[]));
    let sum = block.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    if let Some(last) = block.last_mut() {
        *last = sum.wrapping_neg();
    }
    block
}

/// A detailed timing with small blanks, as modern displays have.
fn timing(width: u32, height: u32) -> [u8; 18] {
    let (h_blank, h_front, h_sync) = (160_u32, 48_u32, 32_u32);
    let (v_blank, v_front, v_sync) = (30_u32, 3_u32, 5_u32);
    let clock = u64::from(width + h_blank) * u64::from(height + v_blank) * 60 / 10_000;
    let [clock_low, clock_high] = u16::try_from(clock).unwrap_or(u16::MAX).to_le_bytes();
    let low = |value: u32| (value & 0xff) as u8;
    let high = |a: u32, b: u32| ((a >> 8 & 0xf) << 4 | (b >> 8 & 0xf)) as u8;
    let millimetres = |pixels: u32| (pixels * 254 / 960).min(0xfff);
    let (mm_w, mm_h) = (millimetres(width), millimetres(height));
    [
        clock_low,
        clock_high,
        low(width),
        low(h_blank),
        high(width, h_blank),
        low(height),
        low(v_blank),
        high(height, v_blank),
        low(h_front),
        low(h_sync),
        ((v_front & 0xf) << 4 | (v_sync & 0xf)) as u8,
        0,
        low(mm_w),
        low(mm_h),
        high(mm_w, mm_h),
        0,
        0,
        0x1e,
    ]
}

fn descriptor(tag: u8, text: &[u8]) -> [u8; 18] {
    let mut bytes = [b' '; 18];
    bytes[..5].copy_from_slice(&[0, 0, 0, tag, 0]);
    for (place, byte) in bytes.iter_mut().skip(5).zip(text.iter().chain(b"\n")) {
        *place = *byte;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_of_all_bytes_is_nothing() {
        for (width, height) in [(640, 480), (1280, 800), (3840, 2160), (8192, 8192)] {
            let block = describe(0, width, height);
            assert_eq!(
                block.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)),
                0
            );
        }
    }

    #[test]
    fn the_preferred_mode_is_the_size() {
        let block = describe(1, 1920, 1080);
        let timing = &block[54..72];
        let width = u32::from(timing[2]) | u32::from(timing[4] >> 4) << 8;
        let height = u32::from(timing[5]) | u32::from(timing[7] >> 4) << 8;
        assert_eq!((width, height), (1920, 1080));
        assert_ne!(block, describe(2, 1920, 1080));
    }
}
