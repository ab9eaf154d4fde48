// The rainbow bridge by night: everything in the scene is one of a few materials, told apart by `tint.w`.

struct Camera {
    view_proj: mat4x4<f32>,
    eye: vec4<f32>,      // w: turn of the camera, 0 to 1 per round
    right: vec4<f32>,    // scaled by the tangent of half the field of view
    up: vec4<f32>,
    glow: vec4<f32>,     // where the hall's light comes from
}

struct Object {
    model: mat4x4<f32>,
    tint: vec4<f32>,     // rgb, and the material
    side: vec4<f32>,     // x: 1 above the sea, -1 for a reflection; y: glow; z: shine; w: texture repeat
}

var<immediate> camera: Camera;
@group(0) @binding(0) var<uniform> object: Object;
@group(0) @binding(1) var painted: texture_2d_array<f32>;
@group(0) @binding(2) var smooth_sampler: sampler;

const BRIDGE = 8.0;
const SEA = 9.0;

struct Varying {
    @builtin(position) position: vec4<f32>,
    @location(0) world: vec3<f32>,
    @location(1) normal: vec3<f32>,
    @location(2) uv: vec2<f32>,
}

@vertex
fn vs_main(
    @location(0) position: vec3<f32>,
    @location(1) normal: vec3<f32>,
    @location(2) uv: vec2<f32>,
) -> Varying {
    let m = object.model;
    let world = m * vec4<f32>(position, 1.0);
    // The columns of a rotation times a scale: dividing by the squared lengths gives the inverse transpose.
    let scale2 = vec3<f32>(dot(m[0].xyz, m[0].xyz), dot(m[1].xyz, m[1].xyz), dot(m[2].xyz, m[2].xyz));
    var out: Varying;
    out.position = camera.view_proj * world;
    out.world = world.xyz;
    out.normal = (m * vec4<f32>(normal / scale2, 0.0)).xyz;
    out.uv = uv * object.side.w;
    return out;
}

fn hash3(p: vec3<i32>) -> f32 {
    var h = u32(p.x) * 0x8da6b343u ^ u32(p.y) * 0xd8163841u ^ u32(p.z) * 0xcb1ab31fu;
    h = (h ^ (h >> 15u)) * 0x2c1b3c6du;
    h = (h ^ (h >> 12u)) * 0x297a2d39u;
    h = h ^ (h >> 15u);
    return f32(h >> 8u) / 16777216.0;
}

fn rainbow(t: f32) -> vec3<f32> {
    let x = clamp(t, 0.0, 1.0) * 5.0;
    let red = smoothstep(3.2, 1.6, x) + smoothstep(3.9, 5.0, x) * 0.72;
    let green = smoothstep(0.2, 1.7, x) * smoothstep(4.1, 2.7, x);
    let blue = smoothstep(2.3, 3.5, x);
    return vec3<f32>(red, green, blue);
}

fn stars(direction: vec3<f32>) -> vec3<f32> {
    let p = direction * 95.0;
    let cell = vec3<i32>(floor(p));
    let seed = hash3(cell);
    if seed < 0.9 {
        return vec3<f32>(0.0);
    }
    let heart = vec3<f32>(cell) + vec3<f32>(
        0.3 + 0.4 * hash3(cell + vec3<i32>(7, 0, 0)),
        0.3 + 0.4 * hash3(cell + vec3<i32>(0, 7, 0)),
        0.3 + 0.4 * hash3(cell + vec3<i32>(0, 0, 7)),
    );
    // Distance across the line of sight, so that a star is round wherever its cell is cut.
    let away = heart - p;
    let across = length(away - direction * dot(away, direction));
    let bright = pow((seed - 0.9) * 10.0, 3.0);
    let warm = mix(vec3<f32>(0.7, 0.8, 1.0), vec3<f32>(1.0, 0.85, 0.7), hash3(cell + vec3<i32>(3, 3, 3)));
    return warm * bright * smoothstep(0.16, 0.02, across) * 1.4;
}

fn aurora(direction: vec3<f32>) -> vec3<f32> {
    let around = atan2(direction.x, -direction.z);
    var light = vec3<f32>(0.0);
    for (var i = 0; i < 3; i++) {
        let k = f32(i);
        let sway = 0.09 * sin(around * 2.0 + k * 2.1 + 0.6) + 0.05 * sin(around * 5.0 - k * 1.3) + 0.018 * sin(around * 13.0 + k);
        let above = direction.y - (0.13 + 0.085 * k + sway);
        let foot = smoothstep(-0.025, 0.02, above);
        let curtain = foot * exp(-max(above, 0.0) * (6.5 - k));
        let folds = 0.62 + 0.25 * sin(around * 31.0 + 4.0 * sin(around * 6.0 + k)) + 0.13 * sin(around * 83.0 + 7.0 * sin(around * 4.0));
        let patches = 0.45 + 0.55 * sin(around * 1.5 + k * 1.9 + 0.4);
        let color = mix(vec3<f32>(0.10, 0.95, 0.52), vec3<f32>(0.42, 0.22, 0.95), smoothstep(0.02, 0.36, above));
        light += color * curtain * folds * max(patches, 0.0) * (0.62 - 0.13 * k);
    }
    return light;
}

fn sky(direction: vec3<f32>) -> vec3<f32> {
    let height = max(direction.y, 0.0);
    var color = mix(vec3<f32>(0.040, 0.070, 0.16), vec3<f32>(0.003, 0.006, 0.026), 1.0 - exp(-height * 4.5));
    let toward = normalize(camera.glow.xyz - camera.eye.xyz);
    let near = max(dot(normalize(direction.xz + vec2<f32>(1e-4)), normalize(toward.xz)), 0.0);
    color += vec3<f32>(0.30, 0.11, 0.08) * exp(-height * 8.5) * pow(near, 5.0);
    let moon = normalize(vec3<f32>(-0.30, 0.30, -0.90));
    let to_moon = dot(direction, moon);
    let disc = smoothstep(0.99895, 0.99915, to_moon);
    color += stars(direction) * smoothstep(0.02, 0.2, height) * (1.0 - disc);
    color += aurora(direction) * (1.0 - disc * 0.8);
    let mottled = 0.86 + 0.14 * sin(direction.x * 150.0 + 2.0 * sin(direction.y * 110.0));
    color += vec3<f32>(0.95, 0.93, 0.84) * disc * mottled;
    color += vec3<f32>(0.35, 0.42, 0.55) * pow(max(to_moon, 0.0), 260.0) * 0.55;
    return color;
}

fn tone(color: vec3<f32>) -> vec4<f32> {
    let c = color * 0.72;
    let mapped = clamp((c * (2.51 * c + 0.03)) / (c * (2.43 * c + 0.59) + 0.14), vec3<f32>(0.0), vec3<f32>(1.0));
    return vec4<f32>(pow(mapped, vec3<f32>(1.0 / 2.2)), 1.0);
}

struct SkyVarying {
    @builtin(position) position: vec4<f32>,
    @location(0) screen: vec2<f32>,
}

@vertex
fn vs_sky(@builtin(vertex_index) index: u32) -> SkyVarying {
    let corner = vec2<f32>(f32((index << 1u) & 2u), f32(index & 2u)) * 2.0 - 1.0;
    var out: SkyVarying;
    out.position = vec4<f32>(corner, 1.0, 1.0);
    out.screen = vec2<f32>(corner.x, -corner.y);
    return out;
}

@fragment
fn fs_sky(in: SkyVarying) -> @location(0) vec4<f32> {
    let forward = normalize(cross(camera.up.xyz, camera.right.xyz));
    var direction = normalize(forward + camera.right.xyz * in.screen.x + camera.up.xyz * in.screen.y);
    if direction.y < 0.0 {
        // The reflected sky, stirred by ripples that grow towards the eye.
        let reach = camera.eye.y / max(-direction.y, 0.004);
        let at = camera.eye.xz + direction.xz * reach;
        let ripple = sin(at.x * 2.3 + 1.7 * sin(at.y * 1.1)) * sin(at.y * 3.1 + 1.3 * sin(at.x * 0.9));
        let fade = 1.0 / (1.0 + reach * 0.05);
        direction = normalize(vec3<f32>(direction.x, -direction.y + ripple * 0.035 * fade, direction.z));
        return tone(sky(direction) * 0.6);
    }
    return tone(sky(direction));
}

@fragment
fn fs_main(in: Varying) -> @location(0) vec4<f32> {
    let material = object.tint.w;
    let texel = textureSample(painted, smooth_sampler, in.uv, i32(min(material, 3.0)));
    let to_eye = camera.eye.xyz - in.world;
    let distance = length(to_eye);
    let view = to_eye / distance;

    if material == SEA {
        let p = in.world.xz;
        let fine = sin(p.x * 5.1 + 2.0 * sin(p.y * 2.2)) * sin(p.y * 6.3 + 1.6 * sin(p.x * 1.7));
        let broad = sin(p.x * 0.8 + 1.4 * sin(p.y * 0.5)) * sin(p.y * 1.1 - 0.7 * p.x);
        let grazing = 1.0 - max(view.y, 0.0);
        let mirror = 0.28 + 0.55 * pow(grazing, 5.0);
        let fade = exp(-distance * 0.05);
        let alpha = clamp(1.0 - mirror + (fine * 0.10 + broad * 0.07) * fade, 0.1, 0.9) * smoothstep(90.0, 30.0, distance);
        let warm = camera.glow.xyz - in.world;
        let crest = pow(max(fine, 0.0), 6.0) * fade;
        let water = vec3<f32>(0.008, 0.026, 0.055)
            + vec3<f32>(0.55, 0.36, 0.15) * crest * 7.0 / (6.0 + dot(warm, warm))
            + vec3<f32>(0.03, 0.09, 0.08) * crest;
        return vec4<f32>(tone(water).rgb, alpha);
    }
    if in.world.y * object.side.x < 0.0 {
        discard;
    }
    if material == BRIDGE {
        let across = in.uv.x;
        let along = in.uv.y;
        let bands = rainbow(across);
        // Thin bright seams between seven bands, and light that runs along the bridge.
        let seam = abs(fract(across * 7.0) - 0.5) * 2.0;
        let runs = 0.5 + 0.5 * sin(along * 95.0 - across * 9.0 + sin(along * 37.0) * 2.0);
        let sparkle = step(0.975, hash3(vec3<i32>(i32(across * 28.0), i32(along * 420.0), 5))) * 1.1;
        let rim = smoothstep(0.06, 0.0, min(across, 1.0 - across));
        let color = bands * (0.85 + 0.35 * runs) + pow(seam, 10.0) * 0.22 + vec3<f32>(1.0, 0.92, 0.75) * (rim * 0.8 + sparkle);
        let ends = smoothstep(0.0, 0.05, along) * 0.3 + 0.7;
        return vec4<f32>(tone(color * 1.5).rgb, (0.74 + 0.3 * rim + 0.1 * runs) * ends);
    }

    var normal = normalize(in.normal);
    // Light falls on the thing itself; the mirror shows it from below.
    var place = in.world;
    place.y = abs(place.y);
    normal.y *= object.side.x;
    var seen = view;
    seen.y *= object.side.x;

    var base = texel.rgb * object.tint.rgb;
    if material == 1.0 {
        // Snow lies where rock is flat and high.
        let snow = smoothstep(0.45, 0.75, normal.y + texel.g * 0.3 - 0.15) * smoothstep(1.0, 2.4, place.y + object.side.y) * 0.85;
        base = mix(base, vec3<f32>(0.70, 0.78, 0.92), snow);
    }
    let moon = normalize(vec3<f32>(-0.50, 0.62, 0.42));
    var light = mix(vec3<f32>(0.035, 0.04, 0.085), vec3<f32>(0.075, 0.15, 0.17), normal.y * 0.5 + 0.5);
    light += vec3<f32>(0.62, 0.70, 0.95) * max(dot(normal, moon), 0.0) * 0.9;
    let warm = camera.glow.xyz - place;
    let warm2 = dot(warm, warm);
    light += vec3<f32>(1.0, 0.60, 0.24) * max(dot(normal, warm * inverseSqrt(warm2)) * 0.7 + 0.3, 0.0) * 9.0 / (5.0 + warm2);
    // The bridge lights what is near its middle.
    let arch = vec3<f32>(-2.2, 3.0, 2.0) - place;
    let arch2 = dot(arch, arch);
    light += vec3<f32>(0.75, 0.45, 0.85) * max(dot(normal, arch * inverseSqrt(arch2)) * 0.6 + 0.4, 0.0) * 2.6 / (5.0 + arch2);

    let half_way = normalize(moon + seen);
    let shine = pow(max(dot(normal, half_way), 0.0), 38.0) * object.side.z;
    let edge = pow(1.0 - max(dot(normal, seen), 0.0), 3.0) * (0.2 + object.side.z);
    var color = base * light + vec3<f32>(0.95, 0.85, 0.65) * shine + sky_tint(normal) * edge * 0.55;
    if material == 2.0 {
        color += vec3<f32>(0.25, 0.85, 1.0) * texel.a * 2.4 * object.side.y;
    } else if material != 1.0 {
        color += vec3<f32>(1.0, 0.62, 0.24) * texel.a * 2.6 * object.side.y;
    }
    let haze = 1.0 - exp(-max(distance - 16.0, 0.0) * 0.022);
    let horizon = vec3<f32>(0.055, 0.075, 0.16);
    color = mix(color, horizon, haze);
    return tone(color);
}

fn sky_tint(normal: vec3<f32>) -> vec3<f32> {
    return mix(vec3<f32>(0.20, 0.16, 0.30), vec3<f32>(0.12, 0.55, 0.42), normal.y * 0.5 + 0.5);
}
