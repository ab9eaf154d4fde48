//! Products of matrices, tile by tile in memory that a workgroup shares, against the processor's own.

use anyhow::{Result, ensure};
use ash::vk;

use crate::gpu::{Buffer, Gpu, Kernel};
use crate::report::Report;
use crate::scenes::{Options, Random};

/// A workgroup computes a square of this many rows and columns.
const TILE: u32 = 16;

/// C = A B, all by rows. What a tile has beyond the edges counts as zero.
const WGSL: &str = "
    struct Size { rows: u32, inner: u32, columns: u32 }
    var<immediate> size: Size;
    @group(0) @binding(0) var<storage, read> a: array<f32>;
    @group(0) @binding(1) var<storage, read> b: array<f32>;
    @group(0) @binding(2) var<storage, read_write> c: array<f32>;
    var<workgroup> left: array<array<f32, 16>, 16>;
    var<workgroup> right: array<array<f32, 16>, 16>;

    @compute @workgroup_size(16, 16)
    fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
        let across = (size.columns + 15u) / 16u;
        let row = group.x / across * 16u + local.y;
        let column = group.x % across * 16u + local.x;
        var sum = 0.0;
        for (var start = 0u; start < size.inner; start += 16u) {
            var x = 0.0;
            if row < size.rows && start + local.x < size.inner {
                x = a[row * size.inner + start + local.x];
            }
            var y = 0.0;
            if start + local.y < size.inner && column < size.columns {
                y = b[(start + local.y) * size.columns + column];
            }
            left[local.y][local.x] = x;
            right[local.y][local.x] = y;
            workgroupBarrier();
            for (var i = 0u; i < 16u; i++) {
                sum += left[local.y][i] * right[i][local.x];
            }
            workgroupBarrier();
        }
        if row < size.rows && column < size.columns { c[row * size.columns + column] = sum; }
    }";

pub(super) fn run(gpu: &Gpu, _options: &Options, report: &mut Report) -> Result<()> {
    for size in [[1, 1, 1], [16, 16, 16], [17, 33, 5], [64, 128, 96], [250, 70, 130]] {
        exact(gpu, size, report)?;
    }
    near(gpu, [120, 300, 90], report)
}

/// Small whole numbers: no sum is rounded, in whatever order it is taken.
fn exact(gpu: &Gpu, size: [u32; 3], report: &mut Report) -> Result<()> {
    let mut random = Random(size.iter().map(|&n| u64::from(n)).product());
    let product = Product::new(gpu, size, || random.below(33) as f32 - 16.0)?;
    let got = product.run()?;
    let [rows, inner, columns] = size;
    let wrong = (0..got.len()).find(|&at| f64::from(got[at]) != product.expected(at).0);
    ensure!(wrong.is_none(), "{rows}x{inner}x{columns}: element {wrong:?} is wrong");
    report.part(&format!("{rows}x{inner}x{columns}"), bytemuck::cast_slice(&got));
    Ok(())
}

/// Fractions: each sum is as near as its rounding allows.
fn near(gpu: &Gpu, size: [u32; 3], report: &mut Report) -> Result<()> {
    let mut random = Random(5);
    let product = Product::new(gpu, size, || random.unit() * 2.0 - 1.0)?;
    let got = product.run()?;
    // One rounding of each product and each sum.
    let unit = f64::from(f32::EPSILON) * f64::from(size[1] + 1);
    for (at, &got) in got.iter().enumerate() {
        let (sum, magnitude) = product.expected(at);
        let off = (f64::from(got) - sum).abs();
        ensure!(off <= unit * magnitude, "element {at} is {got}, not {sum}");
    }
    report.part("fractions", bytemuck::cast_slice(&got));
    Ok(())
}

/// Two matrices, and the kernel that multiplies them.
pub(crate) struct Product<'g> {
    gpu: &'g Gpu,
    /// Rows of the first and of the product, what is summed over, columns of the second and of the product.
    size: [u32; 3],
    factors: [Vec<f32>; 2],
    result: Buffer<'g>,
    kernel: Kernel<'g>,
    _inputs: [Buffer<'g>; 2],
}

impl<'g> Product<'g> {
    /// Matrices of numbers that `number` makes.
    pub(crate) fn new(
        gpu: &'g Gpu,
        size: [u32; 3],
        mut number: impl FnMut() -> f32,
    ) -> Result<Self> {
        let [rows, inner, columns] = size;
        let usage = vk::BufferUsageFlags::STORAGE_BUFFER;
        let mut fill = |count: u32| -> Vec<f32> { (0..count).map(|_| number()).collect() };
        let factors = [fill(rows * inner), fill(inner * columns)];
        let inputs = [gpu.buffer_with(&factors[0], usage)?, gpu.buffer_with(&factors[1], usage)?];
        let result = gpu.buffer(u64::from(rows * columns) * 4, usage)?;
        let kernel = gpu.kernel(WGSL, &[&inputs[0], &inputs[1], &result], 12)?;
        Ok(Self { gpu, size, factors, result, kernel, _inputs: inputs })
    }

    /// Multiplies, without reading the result.
    pub(crate) fn multiply(&self) -> Result<()> {
        let [rows, _, columns] = self.size;
        let groups = rows.div_ceil(TILE) * columns.div_ceil(TILE);
        self.gpu
            .run(|device, cmd| self.kernel.dispatch(device, cmd, &self.size, groups))
    }

    /// Additions and multiplications of one product.
    pub(crate) fn operations(&self) -> f64 {
        2.0 * self.size.iter().map(|&n| f64::from(n)).product::<f64>()
    }

    fn run(&self) -> Result<Vec<f32>> {
        self.multiply()?;
        Ok(self.result.words().into_iter().map(f32::from_bits).collect())
    }

    /// An element of the product as the processor computes it, and the sum of the magnitudes of what it is made of.
    fn expected(&self, at: usize) -> (f64, f64) {
        let [_, inner, columns] = self.size.map(|n| n as usize);
        let (row, column) = (at / columns, at % columns);
        let [a, b] = &self.factors;
        let terms = (0..inner)
            .map(|i| f64::from(a[row * inner + i]) * f64::from(b[i * columns + column]));
        terms.fold((0.0, 0.0), |(sum, magnitude), x| (sum + x, magnitude + x.abs()))
    }
}
