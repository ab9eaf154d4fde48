//! Functions of numbers with a fraction, of 32 and of 16 bits, against the processor's own.
//!
//! Drivers that render by software take some of them from a library of the process that they are in.

use anyhow::{Result, ensure};
use ash::vk;

use crate::gpu::Gpu;
use crate::report::Report;
use crate::scenes::{Options, Random};

const COUNT: u32 = 256;

type Function = fn(f64, f64) -> f64;

/// What a shader calls with x in (0, 4) and y in (-1, 1), and what it is.
const FUNCTIONS: &[(&str, Function)] = &[
    ("sqrt(x)", |x, _| x.sqrt()),
    ("inverseSqrt(x)", |x, _| x.sqrt().recip()),
    ("exp(x)", |x, _| x.exp()),
    ("exp2(x)", |x, _| x.exp2()),
    ("log(x)", |x, _| x.ln()),
    ("log2(x)", |x, _| x.log2()),
    ("pow(x, y)", |x, y| x.powf(y)),
    ("sin(x)", |x, _| x.sin()),
    ("cos(x)", |x, _| x.cos()),
    ("tan(y)", |_, y| y.tan()),
    ("asin(y)", |_, y| y.asin()),
    ("acos(y)", |_, y| y.acos()),
    ("atan(x)", |x, _| x.atan()),
    ("atan2(y, x)", |x, y| y.atan2(x)),
    ("sinh(y)", |_, y| y.sinh()),
    ("cosh(y)", |_, y| y.cosh()),
    ("tanh(y)", |_, y| y.tanh()),
    ("asinh(x)", |x, _| x.asinh()),
    ("acosh(x + 1)", |x, _| (x + 1.0).acosh()),
    ("atanh(y)", |_, y| y.atanh()),
    ("x % 3", |x, _| x % 3.0),
    ("floor(y * 9)", |_, y| (y * 9.0).floor()),
    ("ceil(y * 9)", |_, y| (y * 9.0).ceil()),
    ("trunc(y * 9)", |_, y| (y * 9.0).trunc()),
    ("round(y * 9)", |_, y| (y * 9.0).round_ties_even()),
    ("fract(x)", |x, _| x.fract()),
    ("fma(x, y, x)", |x, y| x.mul_add(y, x)),
];

pub(super) fn run(gpu: &Gpu, _options: &Options, report: &mut Report) -> Result<()> {
    // In steps that a number of 16 bits has too.
    let mut random = Random(30);
    let mut odd = |end: u64| (2 * random.below(end) + 1) as f32 / 64.0;
    let input: Vec<[f32; 2]> = (0..COUNT).map(|_| [odd(128), odd(60) - 60.0 / 64.0]).collect();
    let source = gpu.buffer_with(&input, vk::BufferUsageFlags::STORAGE_BUFFER)?;
    let half = gpu.features12.shader_float16 == vk::TRUE;
    for (float, near, shown) in [("f32", 1e-3, true), ("f16", 1e-2, half)] {
        if !report.needs(float, shown, "shaderFloat16 is not shown") {
            continue;
        }
        for (expression, function) in FUNCTIONS {
            let enable = if float == "f16" { "enable f16;" } else { "" };
            let wgsl = format!(
                "{enable}
                @group(0) @binding(0) var<storage, read> in: array<vec2<f32>>;
                @group(0) @binding(1) var<storage, read_write> out: array<f32>;
                @compute @workgroup_size(64)
                fn main(@builtin(global_invocation_id) id: vec3<u32>) {{
                    let x = {float}(in[id.x].x);
                    let y = {float}(in[id.x].y);
                    out[id.x] = f32({expression});
                }}"
            );
            let out = gpu.buffer(u64::from(COUNT) * 4, vk::BufferUsageFlags::STORAGE_BUFFER)?;
            let kernel = gpu.kernel(&wgsl, &[&source, &out], 0)?;
            gpu.run(|device, cmd| kernel.dispatch(device, cmd, &[], COUNT / 64))?;
            for ([x, y], got) in input.iter().zip(out.words()) {
                let (want, got) = (function(f64::from(*x), f64::from(*y)), f32::from_bits(got));
                // Looser than any precision that a driver may have.
                ensure!(
                    (f64::from(got) - want).abs() <= near * want.abs().max(1.0),
                    "{float}, x = {x}, y = {y}: {expression} is {got}, not {want}"
                );
            }
            report.part(&format!("{expression}, {float}"), out.bytes());
        }
    }
    Ok(())
}
