//! A program of wgpu, natively and through our guest driver: a picture and a computation.
//!
//! The program is a test of this file that the other one starts, as it starts programs of others.

use std::path::{Path, PathBuf};
use std::time::Duration;

use asgard_tests::require::require;
use asgard_tests::via::{self, Stack};
use wgpu::util::DeviceExt as _;

const LIMIT: Duration = Duration::from_secs(120);

/// Where the program writes what it drew and computed.
const RESULT: &str = "ASGARD_TESTS_WGPU_RESULT";

const WIDTH: u32 = 320;
const HEIGHT: u32 = 240;
const NUMBERS: u32 = 4096;

/// Twelve blades that stand in each other's way, and steps of the Collatz sequence.
const WGSL: &str = "
    struct Varying { @builtin(position) position: vec4<f32>, @location(0) color: vec3<f32> }
    struct View { turn: f32, aspect: f32 }
    @group(0) @binding(0) var<uniform> view: View;

    @vertex
    fn blade(@builtin(vertex_index) vertex: u32, @builtin(instance_index) instance: u32) -> Varying {
        let angle = view.turn + f32(instance) * 0.5235988;
        let along = vec2<f32>(cos(angle), sin(angle));
        let across = vec2<f32>(-along.y, along.x) * 0.25;
        var corners = array<vec2<f32>, 3>(along * 0.1 - across, along * 0.1 + across, along * 0.95);
        let corner = corners[vertex];
        var out: Varying;
        // Each blade's first corner lies before its neighbour, and its second behind.
        out.position = vec4<f32>(corner.x / view.aspect, corner.y, 0.3 + 0.2 * f32(vertex), 1.0);
        out.color = vec3<f32>(f32(instance) / 11.0, f32(vertex) / 2.0, 1.0 - f32(instance) / 11.0);
        return out;
    }
    @fragment
    fn paint(in: Varying) -> @location(0) vec4<f32> { return vec4<f32>(in.color, 1.0); }

    @group(0) @binding(0) var<storage, read_write> numbers: array<u32>;
    @compute @workgroup_size(64)
    fn collatz(@builtin(global_invocation_id) id: vec3<u32>) {
        var n = numbers[id.x];
        var steps = 0u;
        while n > 1u {
            n = select(n / 2u, 3u * n + 1u, (n & 1u) == 1u);
            steps++;
        }
        numbers[id.x] = steps;
    }";

#[test]
fn wgpu_draws_and_computes_through_our_own_driver_as_natively() {
    if !require(&["mesa", "asgard"]) {
        return;
    }
    let native = result_of(Stack::Native);
    let picture = &native[..(WIDTH * HEIGHT * 4) as usize];
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("wgpu.png");
    asgard_tests::picture::write_png(&path, WIDTH, HEIGHT, picture).unwrap();
    println!("see {}", path.display());
    let ground = picture
        .chunks_exact(4)
        .filter(|p| p[..3] == [0, 0, 0])
        .count();
    assert!(
        (20_000..60_000).contains(&ground),
        "{ground} pixels of ground"
    );
    assert!(result_of(Stack::Asgard) == native, "the results differ");
}

fn result_of(stack: Stack) -> Vec<u8> {
    let out = tempfile::NamedTempFile::new().unwrap();
    let mut command = via::command(stack, std::env::current_exe().unwrap()).unwrap();
    command
        .args(["--ignored", "--exact", "the_program"])
        .env(RESULT, out.path());
    via::run(command, LIMIT).unwrap().success().unwrap();
    std::fs::read(out.path()).unwrap()
}

#[test]
#[ignore = "the program that the test above runs"]
fn the_program() {
    let out = PathBuf::from(std::env::var_os(RESULT).expect("where the result goes"));
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
    descriptor.backends = wgpu::Backends::VULKAN;
    let instance = wgpu::Instance::new(descriptor);
    let adapter = pollster::block_on(instance.request_adapter(&Default::default())).unwrap();
    let device = wgpu::DeviceDescriptor {
        required_limits: adapter.limits(),
        ..Default::default()
    };
    let (device, queue) = pollster::block_on(adapter.request_device(&device)).unwrap();
    let program = Program {
        module: device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: None,
            source: wgpu::ShaderSource::Wgsl(WGSL.into()),
        }),
        device,
        queue,
    };
    let mut result = program.draw();
    result.extend(program.compute());
    std::fs::write(out, result).unwrap();
}

struct Program {
    device: wgpu::Device,
    queue: wgpu::Queue,
    module: wgpu::ShaderModule,
}

impl Program {
    /// Pixels, multisampled and resolved.
    fn draw(&self) -> Vec<u8> {
        let target = |samples, format, usage| {
            self.device.create_texture(&wgpu::TextureDescriptor {
                label: None,
                size: EXTENT,
                mip_level_count: 1,
                sample_count: samples,
                dimension: wgpu::TextureDimension::D2,
                format,
                usage,
                view_formats: &[],
            })
        };
        let (color, depth) = (
            wgpu::TextureFormat::Rgba8Unorm,
            wgpu::TextureFormat::Depth32Float,
        );
        let drawn = wgpu::TextureUsages::RENDER_ATTACHMENT;
        let picture = target(1, color, drawn | wgpu::TextureUsages::COPY_SRC);
        let whole = |texture: &wgpu::Texture| texture.create_view(&Default::default());
        let views = [
            whole(&target(4, color, drawn)),
            whole(&target(4, depth, drawn)),
            whole(&picture),
        ];
        let pipeline = self
            .device
            .create_render_pipeline(&wgpu::RenderPipelineDescriptor {
                label: None,
                layout: None,
                vertex: wgpu::VertexState {
                    module: &self.module,
                    entry_point: Some("blade"),
                    compilation_options: Default::default(),
                    buffers: &[],
                },
                primitive: Default::default(),
                depth_stencil: Some(wgpu::DepthStencilState {
                    format: depth,
                    depth_write_enabled: Some(true),
                    depth_compare: Some(wgpu::CompareFunction::Less),
                    stencil: Default::default(),
                    bias: Default::default(),
                }),
                multisample: wgpu::MultisampleState {
                    count: 4,
                    ..Default::default()
                },
                fragment: Some(wgpu::FragmentState {
                    module: &self.module,
                    entry_point: Some("paint"),
                    compilation_options: Default::default(),
                    targets: &[Some(color.into())],
                }),
                multiview_mask: None,
                cache: None,
            });
        let view = [0.3, WIDTH as f32 / HEIGHT as f32];
        let view = self.filled(&view, wgpu::BufferUsages::UNIFORM);
        let group = self.group(&pipeline.get_bind_group_layout(0), &view);
        // Rows of a copy start at multiples of 256 bytes: these do.
        let pixels = self.readable(u64::from(WIDTH * HEIGHT * 4));
        let mut encoder = self.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_render_pass(&wgpu::RenderPassDescriptor {
                color_attachments: &[Some(wgpu::RenderPassColorAttachment {
                    view: &views[0],
                    depth_slice: None,
                    resolve_target: Some(&views[2]),
                    ops: wgpu::Operations {
                        load: wgpu::LoadOp::Clear(wgpu::Color::BLACK),
                        store: wgpu::StoreOp::Discard,
                    },
                })],
                depth_stencil_attachment: Some(wgpu::RenderPassDepthStencilAttachment {
                    view: &views[1],
                    depth_ops: Some(wgpu::Operations {
                        load: wgpu::LoadOp::Clear(1.0),
                        store: wgpu::StoreOp::Discard,
                    }),
                    stencil_ops: None,
                }),
                ..Default::default()
            });
            pass.set_pipeline(&pipeline);
            pass.set_bind_group(0, &group, &[]);
            pass.draw(0..3, 0..12);
        }
        encoder.copy_texture_to_buffer(
            picture.as_image_copy(),
            wgpu::TexelCopyBufferInfo {
                buffer: &pixels,
                layout: wgpu::TexelCopyBufferLayout {
                    offset: 0,
                    bytes_per_row: Some(WIDTH * 4),
                    rows_per_image: None,
                },
            },
            EXTENT,
        );
        self.finish(encoder, &pixels)
    }

    /// Steps of each number, checked.
    fn compute(&self) -> Vec<u8> {
        let pipeline = self
            .device
            .create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: None,
                layout: None,
                module: &self.module,
                entry_point: Some("collatz"),
                compilation_options: Default::default(),
                cache: None,
            });
        let numbers: Vec<u32> = (1..=NUMBERS).collect();
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
        let buffer = self.filled(&numbers, usage);
        let group = self.group(&pipeline.get_bind_group_layout(0), &buffer);
        let steps = self.readable(buffer.size());
        let mut encoder = self.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(&pipeline);
            pass.set_bind_group(0, &group, &[]);
            pass.dispatch_workgroups(NUMBERS / 64, 1, 1);
        }
        encoder.copy_buffer_to_buffer(&buffer, 0, &steps, 0, buffer.size());
        let got = self.finish(encoder, &steps);
        let expected: Vec<u32> = numbers.into_iter().map(collatz).collect();
        assert_eq!(asgard_tests::gpu::words(&got), expected);
        got
    }

    fn filled<T: bytemuck::NoUninit>(&self, data: &[T], usage: wgpu::BufferUsages) -> wgpu::Buffer {
        let descriptor = wgpu::util::BufferInitDescriptor {
            label: None,
            contents: bytemuck::cast_slice(data),
            usage,
        };
        self.device.create_buffer_init(&descriptor)
    }

    fn readable(&self, size: u64) -> wgpu::Buffer {
        self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    }

    fn group(&self, layout: &wgpu::BindGroupLayout, buffer: &wgpu::Buffer) -> wgpu::BindGroup {
        self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout,
            entries: &[wgpu::BindGroupEntry {
                binding: 0,
                resource: buffer.as_entire_binding(),
            }],
        })
    }

    /// Submits, and waits for what the buffer then holds.
    fn finish(&self, encoder: wgpu::CommandEncoder, buffer: &wgpu::Buffer) -> Vec<u8> {
        self.queue.submit([encoder.finish()]);
        buffer.map_async(wgpu::MapMode::Read, .., |mapped| mapped.unwrap());
        self.device
            .poll(wgpu::PollType::wait_indefinitely())
            .unwrap();
        buffer.get_mapped_range(..).unwrap().to_vec()
    }
}

const EXTENT: wgpu::Extent3d = wgpu::Extent3d {
    width: WIDTH,
    height: HEIGHT,
    depth_or_array_layers: 1,
};

fn collatz(mut n: u32) -> u32 {
    let mut steps = 0;
    while n > 1 {
        n = if n % 2 == 1 { 3 * n + 1 } else { n / 2 };
        steps += 1;
    }
    steps
}
