//! What stands in the scene: meshes, objects, camera and painted textures, all computed.

use std::f32::consts::{PI, TAU};

use bytemuck::{Pod, Zeroable};

use crate::scenes::Random;

type Vec3 = [f32; 3];
type Mat4 = [[f32; 4]; 4];

#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub(super) struct Vertex {
    position: Vec3,
    normal: Vec3,
    uv: [f32; 2],
}

/// A range of the shared vertex and index buffers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mesh {
    pub(super) first: u32,
    pub(super) count: u32,
    pub(super) vertex_offset: i32,
}

/// Push constants: the shader's `Camera`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub(super) struct Camera {
    view_proj: Mat4,
    eye: [f32; 4],
    right: [f32; 4],
    up: [f32; 4],
    glow: [f32; 4],
}

/// A dynamic uniform: the shader's `Object`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub(super) struct Object {
    model: Mat4,
    tint: [f32; 4],
    side: [f32; 4],
}

impl Object {
    /// Its reflection in the sea.
    pub(super) fn mirrored(mut self) -> Self {
        for column in &mut self.model {
            column[1] = -column[1];
        }
        self.side[0] = -1.0;
        self
    }

    pub(super) fn is(&self, layer: Layer) -> bool {
        self.tint[3] == layer as u8 as f32
    }
}

/// Materials; the first four are layers of the texture.
#[derive(Debug, Clone, Copy)]
pub(super) enum Layer {
    Brick = 0,
    Rock = 1,
    Rune = 2,
    Gold = 3,
    Bridge = 8,
    Sea = 9,
}

const PRISM: usize = 0;
const CONE: usize = 1;
const SLAB: usize = 2;
const ISLAND: usize = 3;
const PEAK: usize = 4;
const RING: usize = 5;
const BRIDGE: usize = 6;
const SEA: usize = 7;

/// Middle of the hall's island, at the height of its ground.
const HALL: Vec3 = [2.7, 1.9, -1.3];
/// Middle of the stone circle.
const CIRCLE: Vec3 = [-4.3, 0.42, 3.7];

/// Builds all meshes into one vertex and one index buffer.
pub(super) fn meshes() -> (Vec<Vertex>, Vec<u32>, Vec<Mesh>) {
    let all = [
        lathe(10, &[(1.0, 0.0), (1.0, 1.0), (0.0, 1.0)], true),
        lathe(20, &[(1.0, 0.0), (0.55, 0.38), (0.22, 0.72), (0.0, 1.0)], false),
        lathe(4, &[(1.0, 0.0), (0.86, 0.8), (0.55, 1.0), (0.0, 1.02)], true),
        rough(
            40,
            &[(0.0, -1.0), (0.22, -0.82), (0.40, -0.55), (0.72, -0.30), (0.97, -0.08), (1.0, 0.0), (0.9, 0.035), (0.0, 0.05)],
            0.11,
            11,
        ),
        rough(22, &[(1.0, 0.0), (0.72, 0.24), (0.45, 0.52), (0.24, 0.78), (0.0, 1.0)], 0.17, 23),
        torus(64, 10, 0.035),
        ribbon(96, 14),
        sheet(70.0),
    ];
    let (mut vertices, mut indices, mut meshes) = (Vec::new(), Vec::new(), Vec::new());
    for (points, triangles) in all {
        meshes.push(Mesh {
            first: indices.len() as u32,
            count: triangles.len() as u32,
            vertex_offset: vertices.len() as i32,
        });
        vertices.extend(points);
        indices.extend(triangles);
    }
    (vertices, indices, meshes)
}

/// Places everything; `turn` counts rounds of the camera.
pub(super) fn objects(turn: f32) -> Vec<(Object, usize)> {
    let mut all = Vec::new();
    let mut put = |mesh: usize, layer: Layer, model: Mat4, rgb: Vec3, glow: f32, shine: f32, repeat: f32| {
        let tint = [rgb[0], rgb[1], rgb[2], layer as u8 as f32];
        all.push((Object { model, tint, side: [1.0, glow, shine, repeat] }, mesh));
    };
    let gold = [1.0, 0.74, 0.30];
    let wall = [0.92, 0.82, 0.70];

    put(ISLAND, Layer::Rock, place(HALL, [3.5, 3.1, 3.5], 0.4), [0.62, 0.58, 0.60], 0.6, 0.05, 3.0);
    put(PRISM, Layer::Brick, place(above(HALL, 0.05), [2.75, 0.28, 2.75], 0.1), wall, 0.0, 0.05, 5.0);
    put(PRISM, Layer::Brick, place(above(HALL, 0.3), [2.3, 0.25, 2.3], 0.3), wall, 0.0, 0.05, 5.0);
    // The hall: three storeys and a spire.
    let mut height = 0.5;
    for (radius, tall) in [(1.15, 1.2), (0.92, 1.25), (0.66, 1.3)] {
        put(PRISM, Layer::Brick, place(above(HALL, height), [radius, tall, radius], 0.2), wall, 1.0, 0.1, 3.0);
        let collar = radius * 1.13;
        put(PRISM, Layer::Gold, place(above(HALL, height + tall - 0.06), [collar, 0.14, collar], 0.2), gold, 0.25, 0.9, 4.0);
        height += tall;
    }
    put(CONE, Layer::Gold, place(above(HALL, height + 0.08), [0.86, 1.9, 0.86], 0.0), gold, 0.5, 1.0, 3.0);
    // Towers around it.
    for i in 0..8 {
        let angle = TAU * (i as f32 + 0.5) / 8.0;
        let tall = 1.25 + 0.75 * (0.5 + 0.5 * (i as f32 * 2.4).sin());
        let at = around(above(HALL, 0.28), 1.95, angle);
        put(PRISM, Layer::Brick, place(at, [0.36, tall, 0.36], angle), wall, 1.0, 0.1, 2.0);
        put(PRISM, Layer::Gold, place(above(at, tall - 0.05), [0.43, 0.1, 0.43], angle), gold, 0.2, 0.9, 3.0);
        put(CONE, Layer::Gold, place(above(at, tall + 0.05), [0.5, 0.85, 0.5], angle), gold, 0.3, 1.0, 2.0);
    }
    // Two rings turn about the spire.
    for (radius, lean, speed) in [(1.55, 0.42, 3.0), (1.9, -0.5, -2.0)] {
        let mut spin = rotation_z(lean);
        spin = product(&rotation_y(TAU * turn * speed + radius), &spin);
        let model = product(&place(above(HALL, 5.0), [radius; 3], 0.0), &spin);
        put(RING, Layer::Gold, model, gold, 0.9, 1.0, 6.0);
    }

    // The circle of standing stones where the bridge begins.
    put(ISLAND, Layer::Rock, place(CIRCLE, [2.3, 1.3, 2.3], 1.4), [0.50, 0.52, 0.50], -1.4, 0.03, 3.0);
    for i in 0..9 {
        let angle = TAU * (i as f32 + 0.3) / 9.0;
        let tall = 1.15 + 0.3 * (i as f32 * 1.9).sin();
        let at = around(above(CIRCLE, 0.03), 1.62, angle);
        put(SLAB, Layer::Rune, place(at, [0.30, tall, 0.17], angle), [0.62, 0.64, 0.68], 1.0, 0.08, 1.0);
    }

    // Mountains at the edge of the sea.
    let mut random = Random(7);
    for i in 0..22 {
        let angle = TAU * (i as f32 + random.unit() * 0.7) / 22.0;
        let at = around([0.0, -0.4, 0.0], 34.0 + 10.0 * random.unit(), angle);
        let wide = 6.0 + 4.0 * random.unit();
        let tall = 3.2 + 5.2 * random.unit();
        put(PEAK, Layer::Rock, place(at, [wide, tall, wide], angle * 3.0), [0.36, 0.40, 0.52], 0.0, 0.02, 4.0);
    }
    // Rocks in the sea.
    for _ in 0..12 {
        let at = around([-0.5, -0.1, 1.0], 4.6 + 6.0 * random.unit(), TAU * random.unit());
        let size = 0.25 + 0.35 * random.unit();
        put(PEAK, Layer::Rock, place(at, [size, size * 1.2, size], at[0]), [0.42, 0.42, 0.46], -4.0, 0.1, 1.0);
    }
    put(BRIDGE, Layer::Bridge, identity(), [1.0; 3], 1.0, 0.0, 1.0);
    put(SEA, Layer::Sea, identity(), [1.0; 3], 0.0, 1.0, 1.0);
    all
}

/// The camera that circles the scene.
pub(super) fn camera(turn: f32) -> Camera {
    let angle = TAU * turn + 0.36;
    let eye = [16.2 * angle.sin(), 4.3, 16.2 * angle.cos()];
    let target = [-0.75, 2.75, 0.6];
    let forward = normalize(sub(target, eye));
    let right = normalize(cross(forward, [0.0, 1.0, 0.0]));
    let up = cross(right, forward);
    let tangent = (0.5f32 * 46.0 * PI / 180.0).tan();
    let (near, far) = (0.5f32, 120.0f32);
    let view = [
        [right[0], up[0], -forward[0], 0.0],
        [right[1], up[1], -forward[1], 0.0],
        [right[2], up[2], -forward[2], 0.0],
        [-dot(right, eye), -dot(up, eye), dot(forward, eye), 1.0],
    ];
    // Right-handed, depth 0 to 1, and Vulkan's y points down.
    let projection = [
        [1.0 / tangent, 0.0, 0.0, 0.0],
        [0.0, -1.0 / tangent, 0.0, 0.0],
        [0.0, 0.0, far / (near - far), -1.0],
        [0.0, 0.0, near * far / (near - far), 0.0],
    ];
    let wide = |v: Vec3, w: f32| [v[0] * tangent, v[1] * tangent, v[2] * tangent, w];
    Camera {
        view_proj: product(&projection, &view),
        eye: [eye[0], eye[1], eye[2], turn],
        right: wide(right, 0.0),
        up: wide(up, 0.0),
        glow: [HALL[0], HALL[1] + 3.4, HALL[2], 0.0],
    }
}

/// A point of the bridge's middle line, `t` from the stone circle to the hall.
fn bridge(t: f32) -> Vec3 {
    let (from, to) = (above(CIRCLE, 0.06), [HALL[0] - 1.75, HALL[1] + 0.33, HALL[2] + 1.75]);
    let mix = |i: usize| from[i] + (to[i] - from[i]) * t;
    let bend = (PI * t).sin();
    [mix(0) - 0.5 * bend, mix(1) + 1.75 * bend, mix(2) + 0.9 * bend]
}

type Shape = (Vec<Vertex>, Vec<u32>);

/// A profile of (radius, height) turned about the y axis, sharp-edged between its rings, and around too if `flat`.
fn lathe(sides: u32, profile: &[(f32, f32)], flat: bool) -> Shape {
    let (mut points, mut triangles) = (Vec::new(), Vec::new());
    let total = profile.len() as f32 - 1.0;
    for (step, pair) in profile.windows(2).enumerate() {
        let ((r0, y0), (r1, y1)) = (pair[0], pair[1]);
        let slope = normalize([y1 - y0, r0 - r1, 0.0]);
        for side in 0..sides {
            let corner = |k: u32| TAU * (side + k) as f32 / sides as f32;
            let middle = TAU * (side as f32 + 0.5) / sides as f32;
            let first = points.len() as u32;
            for (k, r, y, v) in [(0, r0, y0, 0.0), (1, r0, y0, 0.0), (1, r1, y1, 1.0), (0, r1, y1, 1.0)] {
                let angle = corner(k);
                let facing = if flat { middle } else { angle };
                points.push(Vertex {
                    position: [r * angle.sin(), y, r * angle.cos()],
                    normal: [slope[0] * facing.sin(), slope[1], slope[0] * facing.cos()],
                    uv: [(side + k) as f32 / sides as f32, 1.0 - (step as f32 + v) / total],
                });
            }
            triangles.extend([first, first + 1, first + 2, first, first + 2, first + 3]);
        }
    }
    (points, triangles)
}

/// Like [`lathe`], with every ring pushed about at random, and faceted.
fn rough(sides: u32, profile: &[(f32, f32)], amount: f32, seed: u64) -> Shape {
    let mut random = Random(seed);
    let rings: Vec<Vec<Vec3>> = profile
        .iter()
        .map(|&(radius, y)| {
            let mut ring: Vec<Vec3> = (0..sides)
                .map(|side| {
                    let angle = TAU * side as f32 / sides as f32;
                    let lobes = 0.5 * (angle * 3.0 + seed as f32).sin() + 0.3 * (angle * 5.0).sin();
                    let r = radius * (1.0 + amount * (lobes + random.unit() - 0.5));
                    let lift = if radius > 0.0 { amount * 0.5 * (random.unit() - 0.5) } else { 0.0 };
                    [r * angle.sin(), y + lift * radius.min(1.0 - radius * 0.7), r * angle.cos()]
                })
                .collect();
            ring.push(ring[0]);
            ring
        })
        .collect();
    let (mut points, mut triangles) = (Vec::new(), Vec::new());
    for pair in rings.windows(2) {
        for side in 0..sides as usize {
            let quad = [pair[0][side], pair[0][side + 1], pair[1][side + 1], pair[1][side]];
            for corners in [[0, 1, 2], [0, 2, 3]] {
                let [a, b, c] = corners.map(|i| quad[i]);
                let normal = cross(sub(b, a), sub(c, a));
                if dot(normal, normal) < 1e-12 {
                    continue;
                }
                let normal = normalize(normal);
                for position in [a, b, c] {
                    triangles.push(points.len() as u32);
                    let uv = [
                        0.5 * (position[0] + position[1] * 0.7),
                        0.5 * (position[2] - position[1] * 0.7),
                    ];
                    points.push(Vertex { position, normal, uv });
                }
            }
        }
    }
    (points, triangles)
}

fn torus(sides: u32, tube: u32, thickness: f32) -> Shape {
    let (mut points, mut triangles) = (Vec::new(), Vec::new());
    for i in 0..=sides {
        let (sin, cos) = (TAU * i as f32 / sides as f32).sin_cos();
        for j in 0..=tube {
            let (lift, out) = (TAU * j as f32 / tube as f32).sin_cos();
            let r = 1.0 + thickness * out;
            points.push(Vertex {
                position: [r * sin, thickness * lift, r * cos],
                normal: [out * sin, lift, out * cos],
                uv: [i as f32 / sides as f32, j as f32 / tube as f32],
            });
        }
    }
    let row = tube + 1;
    for i in 0..sides {
        for j in 0..tube {
            let a = i * row + j;
            triangles.extend([a, a + row, a + row + 1, a, a + row + 1, a + 1]);
        }
    }
    (points, triangles)
}

/// The bridge: a ribbon along [`bridge`].
fn ribbon(length: u32, width: u32) -> Shape {
    let (mut points, mut triangles) = (Vec::new(), Vec::new());
    for i in 0..=length {
        let t = i as f32 / length as f32;
        let middle = bridge(t);
        let along = normalize(sub(bridge(t + 1e-3), bridge(t - 1e-3)));
        let across = normalize(cross(along, [0.0, 1.0, 0.0]));
        // It leans outwards, so that its colours show from where the camera begins.
        let across = normalize([across[0], across[1] - 0.5, across[2]]);
        let normal = cross(across, along);
        let half = 0.82 - 0.16 * t;
        for j in 0..=width {
            let u = j as f32 / width as f32;
            let w = (2.0 * u - 1.0) * half;
            points.push(Vertex {
                position: [0, 1, 2].map(|k| middle[k] + across[k] * w),
                normal,
                uv: [u, t],
            });
        }
    }
    let row = width + 1;
    for i in 0..length {
        for j in 0..width {
            let a = i * row + j;
            triangles.extend([a, a + 1, a + row + 1, a, a + row + 1, a + row]);
        }
    }
    (points, triangles)
}

/// The sea: one square.
fn sheet(half: f32) -> Shape {
    let corner = |x: f32, z: f32| Vertex {
        position: [x * half, 0.0, z * half],
        normal: [0.0, 1.0, 0.0],
        uv: [x, z],
    };
    let points = vec![corner(-1.0, -1.0), corner(-1.0, 1.0), corner(1.0, 1.0), corner(1.0, -1.0)];
    (points, vec![0, 1, 2, 0, 2, 3])
}

/// Paints the four layers of the texture, RGBA8; alpha says what glows.
pub(super) fn paint(size: u32) -> Vec<Vec<u8>> {
    let n = size as f32;
    let layer = |texel: &dyn Fn(f32, f32) -> [f32; 4]| -> Vec<u8> {
        (0..size * size)
            .flat_map(|i| {
                let (x, y) = ((i % size) as f32 + 0.5, (i / size) as f32 + 0.5);
                texel(x / n, y / n).map(|c| (c.clamp(0.0, 1.0) * 255.0 + 0.5) as u8)
            })
            .collect()
    };
    let brick = |u: f32, v: f32| {
        let rows = 12.0;
        let row = (v * rows).floor();
        let (x, y) = ((u * 6.0 + 0.5 * (row % 2.0)).fract(), (v * rows).fract());
        let joint = x.min(1.0 - x) < 0.035 || y.min(1.0 - y) < 0.07;
        let shade = 0.62 + 0.2 * noise(u, v, 24) + 0.12 * noise(u, v, 6);
        // Arched windows, two to a turn of the texture.
        let (wx, wy) = ((u * 3.0).fract() - 0.5, v - 0.55);
        let arch = (wx / 0.17).abs() < 1.0 && wy < 0.16 && wy > -0.14 - 0.1 * (1.0 - (wx / 0.17).powi(2)).max(0.0).sqrt();
        let frame = (wx / 0.22).abs() < 1.0 && wy < 0.19 && wy > -0.19 - 0.12 * (1.0 - (wx / 0.22).powi(2)).max(0.0).sqrt();
        let cross = wx.abs() < 0.02 || wy.abs() < 0.014;
        if arch && !cross {
            [0.9, 0.6, 0.25, 0.75 + 0.25 * noise(u, v, 12)]
        } else if frame {
            [shade * 0.5, shade * 0.42, shade * 0.34, 0.0]
        } else if joint {
            [0.28, 0.26, 0.26, 0.0]
        } else {
            [shade, shade * 0.95, shade * 0.88, 0.0]
        }
    };
    let rock = |u: f32, v: f32| {
        let g = 0.3 + 0.35 * noise(u, v, 5) + 0.25 * noise(u, v, 13) + 0.2 * noise(u, v, 40);
        [g * 0.95, g * 0.94, g, 0.0]
    };
    let rune = |u: f32, v: f32| {
        let g = 0.45 + 0.25 * noise(u, v, 9) + 0.2 * noise(u, v, 34);
        let (face, x) = ((u * 4.0).floor(), (u * 4.0).fract());
        let glow = staves(x, v, face as i32);
        [g * (1.0 - 0.6 * glow), g * (1.0 - 0.4 * glow), g, glow]
    };
    let gilded = |u: f32, v: f32| {
        // Two waves that cross: a plait.
        let line = |phase: f32| ((TAU * u * 2.0 + phase).sin() * 0.28 + 0.5 - v).abs();
        let near = line(0.0).min(line(PI));
        let raised = (1.0 - near * 11.0).clamp(0.0, 1.0);
        let border = if (v - 0.5).abs() > 0.44 { 0.35 } else { 0.0 };
        let g = 0.6 + 0.1 * noise(u, v, 30) + 0.35 * raised - border * 0.5;
        [g, g * 0.96, g * 0.9, 0.55 * raised * raised]
    };
    vec![layer(&brick), layer(&rock), layer(&rune), layer(&gilded)]
}

/// Rune-like marks: staves and twigs in four rows, other ones on each face. Returns how much a point glows.
fn staves(x: f32, y: f32, face: i32) -> f32 {
    let row = ((y - 0.16) / 0.19).floor();
    if !(0.0..4.0).contains(&row) || !(0.28..0.72).contains(&x) {
        return 0.0;
    }
    let (px, py) = ((x - 0.5) / 0.22, ((y - 0.16) / 0.19).fract() * 2.0 - 1.0);
    let mut random = Random((face * 17 + row as i32 * 5) as u64 + 3);
    let distance = |ax: f32, ay: f32, bx: f32, by: f32| {
        let (dx, dy) = (bx - ax, by - ay);
        let t = (((px - ax) * dx + (py - ay) * dy) / (dx * dx + dy * dy)).clamp(0.0, 1.0);
        ((px - ax - dx * t).powi(2) + (py - ay - dy * t).powi(2)).sqrt()
    };
    let stave = random.unit() - 0.5;
    let mut near = distance(stave, -0.75, stave, 0.75);
    for _ in 0..2 {
        let (from, to) = (random.unit() * 1.2 - 0.7, random.unit() * 1.2 - 0.6);
        let reach = if random.unit() < 0.5 { 0.6 } else { -0.6 };
        near = near.min(distance(stave, from, stave + reach, to));
    }
    (1.5 - near * 9.0).clamp(0.0, 1.0)
}

/// Smooth noise from 0 to 1 that repeats after `cells` cells.
fn noise(u: f32, v: f32, cells: u32) -> f32 {
    let value = |x: u32, y: u32| {
        let seed = u64::from(x % cells) << 40 | u64::from(y % cells) << 16 | u64::from(cells);
        Random(seed).unit()
    };
    let (x, y) = (u * cells as f32, v * cells as f32);
    let (ix, iy) = (x.floor(), y.floor());
    let ease = |t: f32| t * t * (3.0 - 2.0 * t);
    let (fx, fy) = (ease(x - ix), ease(y - iy));
    let (ix, iy) = (ix as u32, iy as u32);
    let top = value(ix, iy) * (1.0 - fx) + value(ix + 1, iy) * fx;
    let low = value(ix, iy + 1) * (1.0 - fx) + value(ix + 1, iy + 1) * fx;
    top * (1.0 - fy) + low * fy
}

fn above(at: Vec3, by: f32) -> Vec3 {
    [at[0], at[1] + by, at[2]]
}

fn around(at: Vec3, radius: f32, angle: f32) -> Vec3 {
    [at[0] + radius * angle.sin(), at[1], at[2] + radius * angle.cos()]
}

fn sub(a: Vec3, b: Vec3) -> Vec3 {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

fn dot(a: Vec3, b: Vec3) -> f32 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

fn cross(a: Vec3, b: Vec3) -> Vec3 {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

fn normalize(a: Vec3) -> Vec3 {
    let length = dot(a, a).sqrt();
    a.map(|x| x / length)
}

fn identity() -> Mat4 {
    place([0.0; 3], [1.0; 3], 0.0)
}

/// Scales, turns about y, moves. Matrices are arrays of columns.
fn place(at: Vec3, scale: Vec3, angle: f32) -> Mat4 {
    let mut m = rotation_y(angle);
    for (column, factor) in m.iter_mut().zip(scale) {
        *column = column.map(|x| x * factor);
    }
    m[3] = [at[0], at[1], at[2], 1.0];
    m
}

fn rotation_y(angle: f32) -> Mat4 {
    let (s, c) = angle.sin_cos();
    [[c, 0.0, -s, 0.0], [0.0, 1.0, 0.0, 0.0], [s, 0.0, c, 0.0], [0.0, 0.0, 0.0, 1.0]]
}

fn rotation_z(angle: f32) -> Mat4 {
    let (s, c) = angle.sin_cos();
    [[c, s, 0.0, 0.0], [-s, c, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
}

fn product(a: &Mat4, b: &Mat4) -> Mat4 {
    std::array::from_fn(|column| {
        std::array::from_fn(|row| (0..4).map(|k| a[k][row] * b[column][k]).sum())
    })
}
