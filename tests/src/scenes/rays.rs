//! Acceleration structures, and rays through them: the commands whose parameters are lists of pointers.

use anyhow::{Result, bail, ensure};
use ash::{khr, vk};

use crate::gpu::{Buffer, Gpu, barrier};
use crate::report::Report;
use crate::scenes::Options;
use crate::shader;

/// Rays in each direction.
const SIDE: u32 = 64;
/// Distance between rays, and how far they lie beside whole numbers.
const STEP: f32 = 0.25;
const BESIDE: f32 = 0.0137;
/// How far above the plane the rays start; they go straight down.
const HEIGHT: f32 = 10.0;
/// Nothing is expected of rays that pass an edge closer than this.
const MARGIN: f32 = 0.02;

const ADDRESS: vk::BufferUsageFlags = vk::BufferUsageFlags::SHADER_DEVICE_ADDRESS;
const INPUT: vk::BufferUsageFlags =
    vk::BufferUsageFlags::ACCELERATION_STRUCTURE_BUILD_INPUT_READ_ONLY_KHR;
const STORAGE: vk::BufferUsageFlags = vk::BufferUsageFlags::STORAGE_BUFFER;

/// Instances: custom index, mask, scale, where. The last one is of boxes, the others of triangles.
const INSTANCES: [(u32, u32, f32, [f32; 3]); 3] = [
    (7, 1, 1.0, [-3.0, -2.0, 0.0]),
    (9, 3, 2.0, [2.0, 2.0, 1.0]),
    (21, 4, 1.0, [2.0, -3.0, 0.0]),
];
/// A square, whose geometry has a transform that makes it half as large again.
const SQUARE: [[f32; 3]; 4] = [
    [-1.0, -1.0, 0.0],
    [1.0, -1.0, 0.0],
    [1.0, 1.0, 0.0],
    [-1.0, 1.0, 0.0],
];
const GROWN: f32 = 1.5;
/// A triangle above it.
const TRIANGLE: [[f32; 3]; 3] = [[-0.9, -0.7, 0.5], [0.8, -0.6, 0.5], [0.1, 0.9, 0.5]];
/// Boxes, by geometry; all their tops are said to be where the shader says.
const BOXES: [&[[f32; 6]]; 3] = [
    &[[-1.0, -1.0, -0.5, 0.0, 0.0, 0.5]],
    &[
        [0.5, 0.5, -0.5, 1.5, 1.5, 0.5],
        [-1.5, 1.0, -0.5, -0.5, 2.0, 0.5],
    ],
    &[[1.0, -1.5, -0.5, 2.0, -0.5, 0.5]],
];

pub(super) fn run(gpu: &Gpu, _options: &Options, report: &mut Report) -> Result<()> {
    let shows = |name: &std::ffi::CStr| gpu.extensions.contains(&*name.to_string_lossy());
    let structures = shows(khr::acceleration_structure::NAME) && shows(khr::ray_query::NAME);
    if !structures {
        for part in ["ray queries", "compacted sizes", "refitted", "ray pipeline"] {
            report.gate(part, "VK_KHR_ray_query is not shown");
        }
        return Ok(());
    }
    let rays = Rays {
        gpu,
        fns: khr::acceleration_structure::Device::new(&gpu.instance, &gpu.device),
    };
    let (shapes, top) = rays.world()?;
    let mut seen = Vec::new();
    for mask in [0xff, 1] {
        let got = rays.query(&top, mask)?;
        check(&got, mask, &INSTANCES)?;
        seen.push(got);
    }
    report.part("ray queries", bytes(&seen));
    copies(&rays, &shapes, &seen[0], report)?;
    refit(&rays, &shapes, &top, report)?;
    if report.needs(
        "ray pipeline",
        shows(khr::ray_tracing_pipeline::NAME),
        "VK_KHR_ray_tracing_pipeline is not shown",
    ) {
        let got = pipeline(&rays, &top)?;
        check(&got, 3, &INSTANCES)?;
        report.part("ray pipeline", bytes(&[got]));
    }
    Ok(())
}

/// What a ray saw: geometry, custom index and kind in a word, primitive, distance, instance.
type Seen = Vec<[u32; 4]>;

fn bytes(all: &[Seen]) -> Vec<u8> {
    bytemuck::cast_slice(&all.concat()).to_vec()
}

/// An acceleration structure and where it lies.
struct Structure<'g> {
    fns: khr::acceleration_structure::Device,
    handle: vk::AccelerationStructureKHR,
    _buffer: Buffer<'g>,
}

impl Structure<'_> {
    fn address(&self) -> vk::DeviceAddress {
        let info = vk::AccelerationStructureDeviceAddressInfoKHR::default()
            .acceleration_structure(self.handle);
        unsafe { self.fns.get_acceleration_structure_device_address(&info) }
    }
}

impl Drop for Structure<'_> {
    fn drop(&mut self) {
        unsafe { self.fns.destroy_acceleration_structure(self.handle, None) }
    }
}

/// Structures of triangles and of boxes.
type Shapes<'g> = [Structure<'g>; 2];

struct Rays<'g> {
    gpu: &'g Gpu,
    fns: khr::acceleration_structure::Device,
}

impl<'g> Rays<'g> {
    fn structure(
        &self,
        ty: vk::AccelerationStructureTypeKHR,
        size: u64,
    ) -> Result<Structure<'g>> {
        let usage = vk::BufferUsageFlags::ACCELERATION_STRUCTURE_STORAGE_KHR | ADDRESS;
        let buffer = self.gpu.device_buffer(size, usage)?;
        let info = vk::AccelerationStructureCreateInfoKHR::default()
            .buffer(*buffer.handle)
            .size(size)
            .ty(ty);
        let handle = unsafe { self.fns.create_acceleration_structure(&info, None)? };
        Ok(Structure {
            fns: self.fns.clone(),
            handle,
            _buffer: buffer,
        })
    }

    /// Input of a build, and where the device finds it.
    fn input<T: bytemuck::Pod>(
        &self,
        data: &[T],
    ) -> Result<(Buffer<'g>, vk::DeviceOrHostAddressConstKHR)> {
        let buffer = self.gpu.buffer_with(data, INPUT | ADDRESS)?;
        let device_address = self.gpu.address(&buffer);
        Ok((buffer, vk::DeviceOrHostAddressConstKHR { device_address }))
    }

    /// Builds with one command; where an info has no destination yet, it gets one.
    fn build(
        &self,
        infos: &mut [vk::AccelerationStructureBuildGeometryInfoKHR<'_>],
        ranges: &[&[vk::AccelerationStructureBuildRangeInfoKHR]],
    ) -> Result<Vec<Structure<'g>>> {
        let mut made = Vec::new();
        let mut scratch = Vec::new();
        for (info, ranges) in infos.iter_mut().zip(ranges) {
            let most: Vec<u32> = ranges.iter().map(|r| r.primitive_count).collect();
            let mut sizes = vk::AccelerationStructureBuildSizesInfoKHR::default();
            let kind = vk::AccelerationStructureBuildTypeKHR::DEVICE;
            unsafe {
                self.fns
                    .get_acceleration_structure_build_sizes(kind, info, &most, &mut sizes);
            }
            ensure!(sizes.acceleration_structure_size > 0, "an empty structure");
            if info.dst_acceleration_structure == vk::AccelerationStructureKHR::null() {
                let structure = self.structure(info.ty, sizes.acceleration_structure_size)?;
                info.dst_acceleration_structure = structure.handle;
                made.push(structure);
            }
            let size = sizes.build_scratch_size.max(sizes.update_scratch_size) + 256;
            let room = self.gpu.device_buffer(size, STORAGE | ADDRESS)?;
            info.scratch_data.device_address = self.gpu.address(&room).next_multiple_of(256);
            scratch.push(room);
        }
        self.gpu.run(|device, cmd| unsafe {
            self.fns.cmd_build_acceleration_structures(cmd, infos, ranges);
            barrier(device, cmd);
        })?;
        Ok(made)
    }

    /// Two structures of shapes in one command, one of them by a list of pointers; then the top.
    fn world(&self) -> Result<(Shapes<'g>, Structure<'g>)> {
        let (_square, vertices) = self.input(&SQUARE)?;
        let (_indices, indices) = self.input(&[9u16, 9, 9, 9, 0, 1, 2, 0, 2, 3])?;
        let mut transforms = [[0.0f32; 12]; 2];
        for (row, at) in [0, 5, 10].into_iter().enumerate() {
            transforms[0][at] = 7.0;
            transforms[1][at] = if row == 2 { 1.0 } else { GROWN };
        }
        let (_transforms, transforms) = self.input(&transforms)?;
        // Wider apart than need be, behind one that is skipped.
        let mut corners = vec![[99.0f32; 4]];
        corners.extend(TRIANGLE.map(|[x, y, z]| [x, y, z, 99.0]));
        let (_corners, corners) = self.input(&corners)?;
        let triangles = |data| {
            vk::AccelerationStructureGeometryKHR::default()
                .geometry_type(vk::GeometryTypeKHR::TRIANGLES)
                .flags(vk::GeometryFlagsKHR::OPAQUE)
                .geometry(vk::AccelerationStructureGeometryDataKHR { triangles: data })
        };
        let data = vk::AccelerationStructureGeometryTrianglesDataKHR::default()
            .vertex_format(vk::Format::R32G32B32_SFLOAT);
        let flat = [
            triangles(
                data.vertex_data(vertices)
                    .vertex_stride(12)
                    .max_vertex(3)
                    .index_type(vk::IndexType::UINT16)
                    .index_data(indices)
                    .transform_data(transforms),
            ),
            triangles(
                data.vertex_data(corners)
                    .vertex_stride(16)
                    .max_vertex(3)
                    .index_type(vk::IndexType::NONE_KHR),
            ),
        ];
        let flat_ranges = [range(2, 8, 0, 48), range(1, 16, 0, 0)];

        let mut boxes = Vec::new();
        let mut box_ranges = Vec::new();
        let mut box_inputs = Vec::new();
        for (n, list) in BOXES.into_iter().enumerate() {
            // As many bytes in front as the geometry's number says, and eight behind each box.
            let skipped = n as u32 * 8;
            let mut words = vec![99.0f32; skipped as usize / 4];
            for corners in list {
                words.extend(corners);
                words.extend([99.0, 99.0]);
            }
            let (buffer, data) = self.input(&words)?;
            box_inputs.push(buffer);
            let aabbs = vk::AccelerationStructureGeometryAabbsDataKHR::default()
                .data(data)
                .stride(32);
            boxes.push(
                vk::AccelerationStructureGeometryKHR::default()
                    .geometry_type(vk::GeometryTypeKHR::AABBS)
                    .geometry(vk::AccelerationStructureGeometryDataKHR { aabbs }),
            );
            box_ranges.push(range(list.len() as u32, skipped, 0, 0));
        }
        let pointers: Vec<*const vk::AccelerationStructureGeometryKHR<'_>> =
            boxes.iter().map(std::ptr::from_ref).collect();

        let compact = vk::BuildAccelerationStructureFlagsKHR::ALLOW_COMPACTION;
        let info = vk::AccelerationStructureBuildGeometryInfoKHR::default()
            .ty(vk::AccelerationStructureTypeKHR::BOTTOM_LEVEL)
            .flags(compact);
        let mut by_pointers = info;
        by_pointers.geometry_count = pointers.len() as u32;
        by_pointers.pp_geometries = pointers.as_ptr();
        let mut infos = [info.geometries(&flat), by_pointers];
        let made = self.build(&mut infos, &[&flat_ranges, &box_ranges])?;
        let Ok(shapes) = <Shapes<'_>>::try_from(made) else {
            bail!("not two structures");
        };
        let top = self.top(&shapes, &INSTANCES, None)?;
        Ok((shapes, top))
    }

    /// The structure of instances, built anew or refitted.
    fn top(
        &self,
        shapes: &Shapes<'_>,
        instances: &[(u32, u32, f32, [f32; 3]); 3],
        refit: Option<&Structure<'_>>,
    ) -> Result<Structure<'g>> {
        let mut words: Vec<u32> = Vec::new();
        for (i, (custom, mask, scale, at)) in instances.iter().enumerate() {
            for (row, at) in at.iter().enumerate() {
                let mut line = [0.0, 0.0, 0.0, *at];
                line[row] = *scale;
                words.extend(line.map(f32::to_bits));
            }
            // No culling, for rays from either side.
            words.extend([custom | mask << 24, 1 << 24]);
            let address = shapes[i / 2].address();
            words.extend([address as u32, (address >> 32) as u32]);
        }
        let (_instances, data) = self.input(&words)?;
        let geometry = [vk::AccelerationStructureGeometryKHR::default()
            .geometry_type(vk::GeometryTypeKHR::INSTANCES)
            .geometry(vk::AccelerationStructureGeometryDataKHR {
                instances: vk::AccelerationStructureGeometryInstancesDataKHR::default().data(data),
            })];
        let mut info = vk::AccelerationStructureBuildGeometryInfoKHR::default()
            .ty(vk::AccelerationStructureTypeKHR::TOP_LEVEL)
            .flags(vk::BuildAccelerationStructureFlagsKHR::ALLOW_UPDATE)
            .geometries(&geometry);
        if let Some(old) = refit {
            info.mode = vk::BuildAccelerationStructureModeKHR::UPDATE;
            info.src_acceleration_structure = old.handle;
        }
        let made = self.build(&mut [info], &[&[range(3, 0, 0, 0)]])?;
        made.into_iter()
            .next()
            .ok_or_else(|| anyhow::anyhow!("no structure"))
    }

    /// A set with a structure at binding 0 and a buffer at 1, and a pipeline layout for it.
    fn bound<T>(
        &self,
        top: &Structure<'_>,
        out: &Buffer<'_>,
        stages: vk::ShaderStageFlags,
        then: impl FnOnce(vk::PipelineLayout, vk::DescriptorSet) -> Result<T>,
    ) -> Result<T> {
        let gpu = self.gpu;
        let kinds = [
            vk::DescriptorType::ACCELERATION_STRUCTURE_KHR,
            vk::DescriptorType::STORAGE_BUFFER,
        ];
        let set_layout = gpu.set_layout(&kinds, stages)?;
        let layout = gpu.pipeline_layout(&[*set_layout], 4, stages)?;
        let pool = gpu.pool(&kinds, 1)?;
        let set = gpu.set(*pool, *set_layout)?;
        let handles = [top.handle];
        let mut chained = vk::WriteDescriptorSetAccelerationStructureKHR::default()
            .acceleration_structures(&handles);
        let mut write = vk::WriteDescriptorSet::default()
            .dst_set(set)
            .descriptor_type(kinds[0])
            .push_next(&mut chained);
        write.descriptor_count = 1;
        unsafe { gpu.device.update_descriptor_sets(&[write], &[]) }
        gpu.write_buffer(set, 1, kinds[1], out);
        then(*layout, set)
    }

    /// What rays see, by queries of a compute shader.
    fn query(&self, top: &Structure<'_>, mask: u32) -> Result<Seen> {
        let wgsl = format!(
            "enable wgpu_ray_query;
            struct Push {{ mask: u32 }}
            var<immediate> push: Push;
            @group(0) @binding(0) var structure: acceleration_structure;
            @group(0) @binding(1) var<storage, read_write> seen: array<vec4<u32>>;
            @compute @workgroup_size(8, 8)
            fn main(@builtin(global_invocation_id) id: vec3<u32>) {{
                {ORIGIN}
                var ray: ray_query;
                rayQueryInitialize(&ray, structure, RayDesc(0u, push.mask, 0.0, 100.0, origin, vec3<f32>(0.0, 0.0, -1.0)));
                while rayQueryProceed(&ray) {{
                    let box = rayQueryGetCandidateIntersection(&ray);
                    if box.kind == RAY_QUERY_INTERSECTION_AABB {{
                        let t = 9.0 + 0.25 * f32(box.geometry_index) + 0.125 * f32(box.primitive_index);
                        rayQueryGenerateIntersection(&ray, t);
                    }}
                }}
                let hit = rayQueryGetCommittedIntersection(&ray);
                var all = vec4<u32>(0u);
                if hit.kind != RAY_QUERY_INTERSECTION_NONE {{
                    all = vec4<u32>(hit.geometry_index | (hit.instance_custom_data << 8u), hit.primitive_index, bitcast<u32>(hit.t), hit.instance_index);
                }}
                seen[id.x + id.y * {SIDE}u] = all;
            }}"
        );
        let gpu = self.gpu;
        let out = gpu.buffer(u64::from(SIDE * SIDE) * 16, STORAGE)?;
        self.bound(top, &out, vk::ShaderStageFlags::COMPUTE, |layout, set| {
            let pipeline = gpu.compute_pipeline(&shader::compile_rays(&wgsl)?, layout)?;
            gpu.run(|device, cmd| unsafe {
                let point = vk::PipelineBindPoint::COMPUTE;
                device.cmd_bind_pipeline(cmd, point, *pipeline);
                device.cmd_bind_descriptor_sets(cmd, point, layout, 0, &[set], &[]);
                let stages = vk::ShaderStageFlags::COMPUTE;
                device.cmd_push_constants(cmd, layout, stages, 0, &mask.to_ne_bytes());
                device.cmd_dispatch(cmd, SIDE / 8, SIDE / 8, 1);
                barrier(device, cmd);
            })
        })?;
        Ok(seen(&out))
    }
}

/// Where a shader's ray starts, of its `id`.
const ORIGIN: &str =
    "let origin = vec3<f32>((vec2<f32>(id.xy) - 32.0) * 0.25 + vec2<f32>(0.0137), 10.0);";

fn seen(out: &Buffer<'_>) -> Seen {
    let words = out.words();
    words
        .chunks_exact(4)
        .map(|w| [w[0], w[1], w[2], w[3]])
        .collect()
}

fn range(
    primitives: u32,
    offset: u32,
    first_vertex: u32,
    transform: u32,
) -> vk::AccelerationStructureBuildRangeInfoKHR {
    vk::AccelerationStructureBuildRangeInfoKHR {
        primitive_count: primitives,
        primitive_offset: offset,
        first_vertex,
        transform_offset: transform,
    }
}

/// Where the instances are after the refit.
fn moved() -> [(u32, u32, f32, [f32; 3]); 3] {
    INSTANCES.map(|(custom, mask, scale, [x, y, z])| (custom, mask, scale, [y, -x, z]))
}

/// How far a point lies inside a triangle that is flat in z; negative outside.
fn inside(corners: [[f32; 3]; 3], x: f32, y: f32) -> f32 {
    let edge = |a: [f32; 3], b: [f32; 3]| {
        let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
        (dx * (y - a[1]) - dy * (x - a[0])) / dx.hypot(dy)
    };
    let [a, b, c] = corners;
    edge(a, b).min(edge(b, c)).min(edge(c, a))
}

/// Compares with what geometry says, for rays that pass no edge.
fn check(
    got: &Seen,
    mask: u32,
    instances: &[(u32, u32, f32, [f32; 3]); 3],
) -> Result<()> {
    let mut sure = 0;
    let mut hits = 0;
    for (n, got) in got.iter().enumerate() {
        let (x, y) = (n as u32 % SIDE, n as u32 / SIDE);
        let at = |i: u32| (i as f32 - 32.0) * STEP + BESIDE;
        let (x, y) = (at(x), at(y));
        let mut nearest: Option<([u32; 2], f32, u32)> = None;
        let mut near_an_edge = false;
        let mut meets = |what: [u32; 2], depth: f32, t: f32, instance: u32| {
            near_an_edge |= depth.abs() < MARGIN;
            if depth > 0.0 && nearest.is_none_or(|(_, old, _)| t < old) {
                nearest = Some((what, t, instance));
            }
        };
        for (i, (custom, own, scale, place)) in instances.iter().enumerate() {
            if own & mask == 0 {
                continue;
            }
            let (x, y) = ((x - place[0]) / scale, (y - place[1]) / scale);
            let top = |z: f32| HEIGHT - (z * scale + place[2]);
            let what = |geometry: u32, primitive: u32| [geometry | custom << 8, primitive];
            if i < 2 {
                for (primitive, corners) in [[0, 1, 2], [0, 2, 3]].into_iter().enumerate() {
                    let corners = corners.map(|c: usize| SQUARE[c].map(|v| v * GROWN));
                    let depth = inside(corners, x, y) * scale;
                    meets(what(0, primitive as u32), depth, top(0.0), i as u32);
                }
                let depth = inside(TRIANGLE, x, y) * scale;
                meets(what(1, 0), depth, top(0.5), i as u32);
                continue;
            }
            for (geometry, list) in BOXES.into_iter().enumerate() {
                for (primitive, [x0, y0, _, x1, y1, _]) in list.iter().enumerate() {
                    let depth = (x - x0).min(x1 - x).min(y - y0).min(y1 - y);
                    let t = 9.0 + 0.25 * geometry as f32 + 0.125 * primitive as f32;
                    meets(what(geometry as u32, primitive as u32), depth, t, i as u32);
                }
            }
        }
        if near_an_edge {
            continue;
        }
        sure += 1;
        let (what, t, instance) = nearest.unwrap_or_default();
        hits += u32::from(nearest.is_some());
        ensure!(
            got[..2] == what
                && (f32::from_bits(got[2]) - t).abs() < 1e-3
                && got[3] == instance,
            "the ray at {x}, {y} with mask {mask:#x} saw {got:x?} at {}, not {what:x?} at {t} of {instance}",
            f32::from_bits(got[2])
        );
    }
    ensure!(
        sure > SIDE * SIDE / 2 && hits > 100,
        "only {sure} rays are checked, {hits} of them hits"
    );
    Ok(())
}

/// Compacted and cloned structures are seen as the first ones are.
fn copies(rays: &Rays<'_>, shapes: &Shapes<'_>, first: &Seen, report: &mut Report) -> Result<()> {
    let gpu = rays.gpu;
    let handles = [shapes[0].handle, shapes[1].handle];
    let kind = vk::QueryType::ACCELERATION_STRUCTURE_COMPACTED_SIZE_KHR;
    let info = vk::QueryPoolCreateInfo::default()
        .query_type(kind)
        .query_count(2);
    let queries = gpu.own(unsafe { gpu.device.create_query_pool(&info, None)? });
    gpu.run(|device, cmd| unsafe {
        device.cmd_reset_query_pool(cmd, *queries, 0, 2);
        rays.fns
            .cmd_write_acceleration_structures_properties(cmd, &handles, kind, *queries, 0);
    })?;
    let mut sizes = [0u64; 2];
    let wait = vk::QueryResultFlags::TYPE_64 | vk::QueryResultFlags::WAIT;
    unsafe {
        gpu.device
            .get_query_pool_results(*queries, 0, &mut sizes, wait)?;
    }
    let bottom = vk::AccelerationStructureTypeKHR::BOTTOM_LEVEL;
    let copies = [
        rays.structure(bottom, sizes[0])?,
        rays.structure(bottom, sizes[1])?,
    ];
    gpu.run(|device, cmd| {
        for (from, to) in shapes.iter().zip(&copies) {
            let info = vk::CopyAccelerationStructureInfoKHR::default()
                .src(from.handle)
                .dst(to.handle)
                .mode(vk::CopyAccelerationStructureModeKHR::COMPACT);
            unsafe { rays.fns.cmd_copy_acceleration_structure(cmd, &info) }
        }
        barrier(device, cmd);
    })?;
    let top = rays.top(&copies, &INSTANCES, None)?;
    let got = rays.query(&top, 0xff)?;
    ensure!(got == *first, "compacted structures are seen otherwise");
    report.part("compacted sizes", bytemuck::cast_slice(&sizes));
    Ok(())
}

/// A structure whose instances moved.
fn refit(
    rays: &Rays<'_>,
    shapes: &Shapes<'_>,
    top: &Structure<'_>,
    report: &mut Report,
) -> Result<()> {
    let elsewhere = rays.top(shapes, &moved(), Some(top))?;
    let got = rays.query(&elsewhere, 0xff)?;
    check(&got, 0xff, &moved())?;
    report.part("refitted", bytes(&[got]));
    Ok(())
}

/// What rays see by a pipeline: a generator, a miss shader, and a closest hit of triangles.
fn pipeline(rays: &Rays<'_>, top: &Structure<'_>) -> Result<Seen> {
    let gpu = rays.gpu;
    let fns = khr::ray_tracing_pipeline::Device::new(&gpu.instance, &gpu.device);
    let wgsl = format!(
        "enable wgpu_ray_tracing_pipeline;
        enable primitive_index;
        struct Push {{ mask: u32 }}
        struct Hit {{ what: u32, primitive: u32, t: f32, instance: u32 }}
        var<immediate> push: Push;
        @group(0) @binding(0) var structure: acceleration_structure;
        @group(0) @binding(1) var<storage, read_write> seen: array<vec4<u32>>;
        var<ray_payload> hit: Hit;
        var<incoming_ray_payload> met: Hit;
        @ray_generation
        fn start(@builtin(ray_invocation_id) id: vec3<u32>) {{
            {ORIGIN}
            hit = Hit(77u, 77u, 77.0, 77u);
            traceRay(structure, RayDesc(0u, push.mask, 0.0, 100.0, origin, vec3<f32>(0.0, 0.0, -1.0)), &hit);
            seen[id.x + id.y * {SIDE}u] = vec4<u32>(hit.what, hit.primitive, bitcast<u32>(hit.t), hit.instance);
        }}
        @miss @incoming_payload(met)
        fn nothing() {{
            met = Hit(0u, 0u, 0.0, 0u);
        }}
        @closest_hit @incoming_payload(met)
        fn something(@builtin(instance_custom_data) custom: u32, @builtin(geometry_index) geometry: u32,
                     @builtin(primitive_index) primitive: u32, @builtin(ray_t_current_max) t: f32) {{
            met = Hit(geometry | (custom << 8u), primitive, t, select(0u, 1u, custom == 9u));
        }}"
    );
    let module = gpu.module(&shader::compile_rays(&wgsl)?)?;
    let stage = |stage, name| {
        vk::PipelineShaderStageCreateInfo::default()
            .stage(stage)
            .module(*module)
            .name(name)
    };
    let stages = [
        stage(vk::ShaderStageFlags::RAYGEN_KHR, c"start"),
        stage(vk::ShaderStageFlags::MISS_KHR, c"nothing"),
        stage(vk::ShaderStageFlags::CLOSEST_HIT_KHR, c"something"),
    ];
    let none = vk::RayTracingShaderGroupCreateInfoKHR::default()
        .general_shader(vk::SHADER_UNUSED_KHR)
        .closest_hit_shader(vk::SHADER_UNUSED_KHR)
        .any_hit_shader(vk::SHADER_UNUSED_KHR)
        .intersection_shader(vk::SHADER_UNUSED_KHR);
    let groups = [
        none.ty(vk::RayTracingShaderGroupTypeKHR::GENERAL)
            .general_shader(0),
        none.ty(vk::RayTracingShaderGroupTypeKHR::GENERAL)
            .general_shader(1),
        none.ty(vk::RayTracingShaderGroupTypeKHR::TRIANGLES_HIT_GROUP)
            .closest_hit_shader(2),
    ];
    let mut limits = vk::PhysicalDeviceRayTracingPipelinePropertiesKHR::default();
    let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut limits);
    unsafe {
        gpu.instance
            .get_physical_device_properties2(gpu.physical, &mut properties);
    }
    let all = vk::ShaderStageFlags::RAYGEN_KHR
        | vk::ShaderStageFlags::MISS_KHR
        | vk::ShaderStageFlags::CLOSEST_HIT_KHR;
    let out = gpu.buffer(u64::from(SIDE * SIDE) * 16, STORAGE)?;
    rays.bound(top, &out, all, |layout, set| {
        let info = vk::RayTracingPipelineCreateInfoKHR::default()
            .stages(&stages)
            .groups(&groups)
            .max_pipeline_ray_recursion_depth(1)
            .layout(layout);
        let pipeline = gpu.own(deferred(gpu, &fns, &info)?);
        let size = limits.shader_group_handle_size;
        let handles = unsafe {
            fns.get_ray_tracing_shader_group_handles(*pipeline, 0, 3, size as usize * 3)?
        };
        let stride = u64::from(limits.shader_group_base_alignment.max(size));
        let usage = vk::BufferUsageFlags::SHADER_BINDING_TABLE_KHR | ADDRESS;
        let table = gpu.buffer(stride * 4, usage)?;
        let base = gpu.address(&table);
        let skip = base.next_multiple_of(stride) - base;
        for (i, handle) in (0..).zip(handles.chunks_exact(size as usize)) {
            table.write(skip + i * stride, handle);
        }
        let region = |i: u64| {
            vk::StridedDeviceAddressRegionKHR::default()
                .device_address(base + skip + i * stride)
                .stride(stride)
                .size(stride)
        };
        let callable = vk::StridedDeviceAddressRegionKHR::default();
        gpu.run(|device, cmd| unsafe {
            let point = vk::PipelineBindPoint::RAY_TRACING_KHR;
            device.cmd_bind_pipeline(cmd, point, *pipeline);
            device.cmd_bind_descriptor_sets(cmd, point, layout, 0, &[set], &[]);
            device.cmd_push_constants(cmd, layout, all, 0, &3u32.to_ne_bytes());
            let tables = [region(0), region(1), region(2)];
            fns.cmd_trace_rays(cmd, &tables[0], &tables[1], &tables[2], &callable, SIDE, SIDE, 1);
            barrier(device, cmd);
        })
    })?;
    Ok(seen(&out))
}

/// Creates a pipeline with a deferred operation, and joins if it was deferred.
fn deferred(
    gpu: &Gpu,
    fns: &khr::ray_tracing_pipeline::Device,
    info: &vk::RayTracingPipelineCreateInfoKHR<'_>,
) -> Result<vk::Pipeline> {
    let operations = khr::deferred_host_operations::Device::new(&gpu.instance, &gpu.device);
    let mut made = vk::Pipeline::null();
    unsafe {
        // Layer 1.3.239 mistakes the handles of a driver that does not defer.
        let operation = if gpu.validates() {
            vk::DeferredOperationKHR::null()
        } else {
            operations.create_deferred_operation(None)?
        };
        let mut ret = (fns.fp().create_ray_tracing_pipelines_khr)(
            gpu.device.handle(),
            operation,
            vk::PipelineCache::null(),
            1,
            info,
            std::ptr::null(),
            &raw mut made,
        );
        if ret == vk::Result::OPERATION_DEFERRED_KHR {
            while operations.deferred_operation_join(operation).is_err() {}
            ret = operations
                .get_deferred_operation_result(operation)
                .map_or_else(|error| error, |()| vk::Result::SUCCESS);
        }
        operations.destroy_deferred_operation(operation, None);
        let done = [vk::Result::SUCCESS, vk::Result::OPERATION_NOT_DEFERRED_KHR];
        ensure!(done.contains(&ret), "creating a ray tracing pipeline: {ret}");
    }
    Ok(made)
}
