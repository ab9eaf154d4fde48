//! WGSL in, SPIR-V words out, compiled when the program runs.

use anyhow::{Context, Result, anyhow, ensure};
use naga::back::spv;
use naga::valid::{Capabilities, ValidationFlags, Validator};

/// A literal in WGSL that becomes specialization constant `id`: write `spec(0)` as `0x5bec0000u`.
pub const SPEC_LITERAL: u32 = 0x5bec_0000;

/// How many specialization constants the marker literals can name.
const SPEC_COUNT: u32 = 16;

/// Compiles WGSL to SPIR-V 1.3; every entry point of the source is in the result.
pub fn compile(wgsl: &str) -> Result<Vec<u32>> {
    compile_as((1, 3), wgsl, &[])
}

/// Like [`compile`], to SPIR-V 1.4, which ray tracing needs.
pub fn compile_rays(wgsl: &str) -> Result<Vec<u32>> {
    compile_as((1, 4), wgsl, &[])
}

/// Like [`compile`], with `(from, to)` pairs of binding numbers in set 0: two WGSL variables may land on one binding.
pub fn compile_with(wgsl: &str, rebind: &[(u32, u32)]) -> Result<Vec<u32>> {
    compile_as((1, 3), wgsl, rebind)
}

fn compile_as(version: (u8, u8), wgsl: &str, rebind: &[(u32, u32)]) -> Result<Vec<u32>> {
    let module = naga::front::wgsl::parse_str(wgsl)
        .map_err(|error| anyhow!("{}", error.emit_to_string(wgsl)))?;
    let info = Validator::new(ValidationFlags::all(), Capabilities::all())
        .validate(&module)
        .map_err(|error| anyhow!("{}", error.emit_to_string(wgsl)))?;
    let mut options = spv::Options {
        lang_version: version,
        // Vulkan's own clip space: nothing is turned upside down behind our back.
        flags: spv::WriterFlags::empty(),
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        // A feature that no workload enables.
        use_storage_input_output_16: false,
        ..Default::default()
    };
    for (_, global) in module.global_variables.iter() {
        if let Some(binding) = global.binding {
            let to = rebind
                .iter()
                .find(|(from, _)| binding.group == 0 && *from == binding.binding)
                .map_or(binding.binding, |(_, to)| *to);
            options.binding_map.insert(
                binding,
                spv::BindingInfo {
                    descriptor_set: binding.group,
                    binding: to,
                    binding_array_size: None,
                },
            );
        }
    }
    spv::write_vec(&module, &info, &options, None).context("writing SPIR-V")
}

/// Turns the marker literals of a module into specialization constants.
///
/// WGSL's own `override` is resolved before SPIR-V is written, so the constants are made here:
/// `OpConstant` with a marker value becomes `OpSpecConstant`, and a `SpecId` decoration joins the annotations.
pub fn specializable(words: &[u32]) -> Result<Vec<u32>> {
    const OP_TYPE_VOID: u32 = 19;
    const OP_CONSTANT: u32 = 43;
    const OP_SPEC_CONSTANT: u32 = 50;
    const OP_DECORATE: u32 = 71;
    const OP_FUNCTION: u32 = 54;
    const DECORATION_SPEC_ID: u32 = 1;

    let mut out = words.to_vec();
    let mut first_type = None;
    let mut decorations = Vec::new();
    let mut at = 5;
    while at < out.len() {
        let (length, opcode) = ((out[at] >> 16) as usize, out[at] & 0xffff);
        ensure!(length > 0, "SPIR-V instruction of length zero at word {at}");
        // Types and constants follow the annotations; the first of them is where the annotations end.
        let is_type = (OP_TYPE_VOID..=39).contains(&opcode);
        if first_type.is_none() && (is_type || opcode == OP_CONSTANT) {
            first_type = Some(at);
        }
        if opcode == OP_CONSTANT && length == 4 {
            let id = out[at + 3].wrapping_sub(SPEC_LITERAL);
            if id < SPEC_COUNT {
                out[at] = (4 << 16) | OP_SPEC_CONSTANT;
                decorations.extend([(4 << 16) | OP_DECORATE, out[at + 2], DECORATION_SPEC_ID, id]);
            }
        }
        if opcode == OP_FUNCTION {
            break;
        }
        at += length;
    }
    ensure!(
        !decorations.is_empty(),
        "no specialization marker in the module"
    );
    let first_type = first_type.context("a module without types")?;
    out.splice(first_type..first_type, decorations);
    Ok(out)
}
