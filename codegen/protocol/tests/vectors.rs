//! Bytes of well-known calls, written by hand: what a guest says first, and what it is told.
//!
//! Flags of optional pointers are guest addresses on the wire; here they are 1, as this crate writes them.

use std::ffi::c_char;
use std::ptr;

use asgard_protocol::commands::{
    vkCmdDraw, vkCreateInstance, vkEnumerateInstanceExtensionProperties,
    vkEnumerateInstanceVersion, vkEnumeratePhysicalDevices,
};
use asgard_protocol::packet::{self, Header};
use asgard_protocol::types::{
    VK_STRUCTURE_TYPE_APPLICATION_INFO, VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO, VK_SUCCESS,
    VkApplicationInfo, VkInstance, VkInstanceCreateInfo, VkPhysicalDevice,
};
use asgard_protocol::{Arena, Command, DecodeError, Exact, Reader, Writer, zeroed};

/// Hexadecimal digits to bytes; blanks and bars are for the eye.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits
        .chunks(2)
        .map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap())
        .collect()
}

fn request<C: Command>(command: &C, sequence: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    // SAFETY: the tests' commands point to what their counts say.
    unsafe { packet::encode(command, sequence, &mut Writer::new(&mut bytes, &Exact)) };
    bytes
}

fn reply<C: Command>(command: &C, ret: C::Return) -> Vec<u8> {
    let mut bytes = Vec::new();
    // SAFETY: as above.
    unsafe { command.encode_reply(ret, &mut Writer::new(&mut bytes, &Exact)) };
    bytes
}

/// The reply's bytes into where the command points.
fn answer<C: Command>(command: &mut C, bytes: &[u8]) -> Result<C::Return, DecodeError> {
    let arena = Arena::new();
    let mut r = Reader::reply(bytes, &arena, &Exact);
    // SAFETY: the tests' output pointers have room for what their counts say.
    let ret = unsafe { command.decode_reply(&mut r)? };
    r.end()?;
    Ok(ret)
}

#[test]
fn the_version_is_asked_and_told() {
    let mut version = 0;
    let mut command: vkEnumerateInstanceVersion = zeroed();
    command.pApiVersion = &raw mut version;
    assert_eq!(
        request(&command, 1),
        hex("a94e0000 10000000 01000000 | 00000000")
    );
    assert_eq!(
        answer(&mut command, &hex("00304000 00000000")),
        Ok(VK_SUCCESS)
    );
    assert_eq!(version, 0x0040_3000);
    assert_eq!(reply(&command, VK_SUCCESS), hex("00304000 00000000"));
}

#[test]
fn extensions_are_counted() {
    let mut count = 0;
    let mut command: vkEnumerateInstanceExtensionProperties = zeroed();
    command.pPropertyCount = &raw mut count;
    assert_eq!(
        request(&command, 2),
        hex(
            "2d4e0000 28000000 02000000 | 0000000000000000 0000000000000001 00000000 0000000000000000"
        )
    );
    let none = hex("0000000000000001 00000000 0000000000000000 00000000");
    assert_eq!(answer(&mut command, &none), Ok(VK_SUCCESS));
    assert_eq!(reply(&command, VK_SUCCESS), none);
    // The host may count more than the caller has room for, as long as it sends none of them.
    let many = hex("00007ffe7081a890 05000000 0000000000000000 00000000");
    assert_eq!(answer(&mut command, &many), Ok(VK_SUCCESS));
    assert_eq!(count, 5);
}

#[test]
fn an_instance_is_created() {
    let name = c"hi".as_ptr().cast::<c_char>();
    let app = VkApplicationInfo {
        sType: VK_STRUCTURE_TYPE_APPLICATION_INFO,
        pApplicationName: name,
        applicationVersion: 1,
        pEngineName: ptr::null(),
        engineVersion: 2,
        apiVersion: 0x0040_3000,
        ..zeroed()
    };
    let info = VkInstanceCreateInfo {
        sType: VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO,
        pApplicationInfo: &raw const app,
        ..zeroed()
    };
    let mut instance = VkInstance(0);
    let mut command: vkCreateInstance = zeroed();
    command.pCreateInfo = &raw const info;
    command.pInstance = &raw mut instance;
    let bytes = hex(
        "204e0000 6a000000 07000000 | 01000000 00000000 00000000 0000000000000001 |
         00000000 00000000 0000000000000001 00000002 6869 01000000 0000000000000000 02000000 00304000 |
         00000000 00000000 00000000 00000000 | 0000000000000000 0000000000000000",
    );
    assert_eq!(request(&command, 7), bytes);
    assert_eq!(
        Header::read(&bytes),
        Some(Header {
            opcode: 20000,
            size: 106
        })
    );

    // The host reads the same back, whatever non-zero value its guest's flags have.
    let mut sent = bytes[12..].to_vec();
    sent[12..20].copy_from_slice(&hex("00005580775dbd60"));
    let arena = Arena::new();
    let mut r = Reader::request(&sent, &arena, &Exact);
    // SAFETY: what is read lives in the arena.
    unsafe {
        let read = vkCreateInstance::decode_request(&mut r).unwrap();
        r.end().unwrap();
        let app = (*read.pCreateInfo).pApplicationInfo;
        assert_eq!(std::ffi::CStr::from_ptr((*app).pApplicationName), c"hi");
        assert!((*app).pEngineName.is_null());
        assert_eq!((*app).apiVersion, 0x0040_3000);
    }
    assert_eq!(
        answer(&mut command, &hex("efcdab8967452301 00000000")),
        Ok(VK_SUCCESS)
    );
    assert_eq!(instance, VkInstance(0x0123_4567_89ab_cdef));
}

#[test]
fn physical_devices_are_counted_then_fetched() {
    let mut count = 0;
    let mut command: vkEnumeratePhysicalDevices = zeroed();
    command.instance = VkInstance(0x11);
    let counter = &raw mut count;
    command.pPhysicalDeviceCount = counter;
    assert_eq!(
        request(&command, 9),
        hex(
            "224e0000 28000000 09000000 | 1100000000000000 0000000000000001 00000000 0000000000000000"
        )
    );
    // SAFETY: the counter lives as long as this function.
    let room = |n| unsafe { *counter = n };
    let mut devices = [VkPhysicalDevice(0)];
    room(1);
    command.pPhysicalDevices = devices.as_mut_ptr();
    let two = hex(
        "0000000000000001 02000000 0000000000000001 2200000000000000 3300000000000000 00000000",
    );
    assert_eq!(answer(&mut command, &two), Err(DecodeError::NoRoom));
    room(0);
    assert_eq!(answer(&mut command, &two), Err(DecodeError::NoRoom));
    room(1);
    let one = hex("0000000000000001 01000000 0000000000000001 2200000000000000 00000000");
    assert_eq!(answer(&mut command, &one), Ok(VK_SUCCESS));
    assert_eq!(devices, [VkPhysicalDevice(0x22)]);
    assert_eq!(reply(&command, VK_SUCCESS), one);
}

#[test]
fn a_draw_is_recorded_without_its_command_buffer() {
    let mut command: vkCmdDraw = zeroed();
    command.vertexCount = 3;
    command.instanceCount = 1;
    let mut bytes = Vec::new();
    // SAFETY: the command holds no pointers.
    unsafe { packet::encode(&command, 5, &mut Writer::new(&mut bytes, &Exact).staged()) };
    assert_eq!(
        bytes,
        hex("8a4e0000 18000000 | 03000000 01000000 00000000 00000000")
    );
}

#[test]
fn a_struct_under_its_old_number_is_read() {
    use asgard_protocol::types::{
        VK_STRUCTURE_TYPE_IMPORT_COLOR_BUFFER_GOOGLE, VkImportColorBufferGOOGLE,
    };
    use asgard_protocol::wire::Tokens;

    let bytes = hex(
        "0100000000000000 | 05000000 00000018 901d9e3b 901d9e3b 00000000 2a000000 |
         0010000000000000 00000000 | 0000000000000000 0000000000000000",
    );
    let arena = Arena::new();
    let mut r = Reader::request(&bytes, &arena, &Tokens);
    // SAFETY: what is read lives in the arena.
    unsafe {
        let read = asgard_protocol::commands::vkAllocateMemory::decode_request(&mut r).unwrap();
        r.end().unwrap();
        let chained = (*read.pAllocateInfo)
            .pNext
            .cast::<VkImportColorBufferGOOGLE>();
        assert_eq!(
            (*chained).sType,
            VK_STRUCTURE_TYPE_IMPORT_COLOR_BUFFER_GOOGLE
        );
        assert_eq!((*chained).colorBuffer, 42);
    }
}
