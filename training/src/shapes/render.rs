//! Renders a [`Scene`] from signed distances, at any resolution.
//!
//! It uses only additions, multiplications, divisions and square roots of f32, which IEEE 754 defines
//! exactly: a scene gives the same bytes on every machine.

use pinhole_preprocessing::RgbImage;

use super::scene::{Background, Scene, Shape, Style};

/// The image of a scene, `width` x `height` pixels, antialiased.
pub fn render(scene: &Scene, width: u32, height: u32) -> RgbImage {
    let mut bytes = vec![0u8; width as usize * height as usize * 3];
    pulp::Arch::new().dispatch(|| draw(scene, width, height, &mut bytes));
    RgbImage {
        width,
        height,
        data: bytes,
    }
}

#[inline(always)]
fn draw(scene: &Scene, width: u32, height: u32, bytes: &mut [u8]) {
    let side = width.min(height) as f32;
    // Scene coordinates: the central square is [-1, 1] x [-1, 1], whatever the image's aspect ratio.
    let to_scene = 2.0 / side;
    let (half_width, half_height) = (width as f32 / 2.0, height as f32 / 2.0);
    // Half the width of an edge, in scene units: at least half a pixel, more when out of focus.
    let softness = (0.5 * to_scene).max(scene.softness);
    let points = outline(scene.shape);
    let reach = scene.radius * 1.9 + softness;
    for y in 0..height {
        let v = (y as f32 + 0.5 - half_height) * to_scene;
        for x in 0..width {
            let u = (x as f32 + 0.5 - half_width) * to_scene;
            let mut colour = background(scene, u, v, to_scene);
            let (du, dv) = (u - scene.x - scene.shadow.0, v - scene.y - scene.shadow.1);
            if scene.shadow_strength > 0.0 && du.abs() < reach && dv.abs() < reach {
                let blur = softness + 0.08 * scene.radius;
                let cover = coverage(scene, &points, du, dv, blur) * scene.shadow_strength;
                colour = colour.map(|c| c * (1.0 - cover));
            }
            let (du, dv) = (u - scene.x, v - scene.y);
            if du.abs() < reach && dv.abs() < reach {
                let cover = coverage(scene, &points, du, dv, softness);
                if cover > 0.0 {
                    let shade = 1.0 + (scene.shading.0 * du + scene.shading.1 * dv) / scene.radius;
                    for (c, object) in colour.iter_mut().zip(scene.rgb) {
                        *c += (object * shade - *c) * cover;
                    }
                }
            }
            let light = 1.0 + scene.light.0 * u + scene.light.1 * v;
            let at = (y as usize * width as usize + x as usize) * 3;
            for (channel, byte) in bytes[at..at + 3].iter_mut().enumerate() {
                let noise = noise(scene.noise_seed, x, y, channel as u32) * scene.noise;
                let value = colour[channel] * light * scene.tint[channel] + noise;
                *byte = (value * 255.0 + 0.5).clamp(0.0, 255.0) as u8;
            }
        }
    }
}

/// Half the width of an outline, relative to the object's radius.
const LINE: f32 = 0.07;

/// Coverage of the point at (du, dv) from the object's centre, 0..=1, with edges 2 `softness` wide.
#[inline(always)]
fn coverage(scene: &Scene, points: &[(f32, f32)], du: f32, dv: f32, softness: f32) -> f32 {
    let (cosine, sine) = scene.rotation;
    // A tilted plane: the homogeneous coordinate grows along `tilt`.
    let depth = (1.0 + (scene.tilt.0 * du + scene.tilt.1 * dv) / scene.radius).max(0.3);
    let scale = scene.radius / depth;
    let (a, b) = (du / scale, dv / scale);
    let (a, b) = (
        (cosine * a + sine * b) / scene.stretch,
        (cosine * b - sine * a) * scene.stretch,
    );
    let distance = match scene.style {
        Style::Filled => distance(scene.shape, points, a, b) * scale,
        Style::Outline => (distance(scene.shape, points, a, b).abs() - LINE) * scale,
    };
    (0.5 - distance / (2.0 * softness)).clamp(0.0, 1.0)
}

/// Signed distance from (x, y) to the shape of unit size, negative inside; y points down.
#[inline(always)]
fn distance(shape: Shape, points: &[(f32, f32)], x: f32, y: f32) -> f32 {
    let length = |x: f32, y: f32| (x * x + y * y).sqrt();
    match shape {
        Shape::Circle => length(x, y) - 0.9,
        Shape::Ring => (length(x, y) - 0.74).abs() - 0.22,
        Shape::Crescent => {
            let outer = length(x, y) - 1.0;
            let inner = 0.82 - length(x - 0.48, y);
            outer.max(inner)
        }
        Shape::Heart => heart(x.abs(), 0.6 - y * 0.95) / 0.95,
        _ => polygon(points, x, y),
    }
}

/// Signed distance to a heart with its tip at the origin, 1.1 high, for x >= 0 and y up
/// (Inigo Quilez, "2D distance functions", sdHeart).
#[inline(always)]
fn heart(x: f32, y: f32) -> f32 {
    // Scaled so that the heart spans about -1..1 around the centre.
    let (x, y) = (x * 0.62, y * 0.62 + 0.2);
    let squared = |x: f32, y: f32| x * x + y * y;
    let distance = if x + y > 1.0 {
        squared(x - 0.25, y - 0.75).sqrt() - 0.353_553_4
    } else {
        let along = 0.5 * (x + y).max(0.0);
        let nearest = squared(x, y - 1.0)
            .min(squared(x - along, y - along))
            .sqrt();
        if x > y { nearest } else { -nearest }
    };
    distance / 0.62
}

/// Signed distance to a closed polygon: that of the nearest edge, signed by the even-odd rule.
#[inline(always)]
fn polygon(points: &[(f32, f32)], x: f32, y: f32) -> f32 {
    let mut nearest = f32::MAX;
    let mut inside = false;
    let Some(&(mut px, mut py)) = points.last() else {
        return nearest;
    };
    for &(qx, qy) in points {
        let (ex, ey) = (px - qx, py - qy);
        let (wx, wy) = (x - qx, y - qy);
        let t = ((wx * ex + wy * ey) / (ex * ex + ey * ey)).clamp(0.0, 1.0);
        let (dx, dy) = (wx - ex * t, wy - ey * t);
        nearest = nearest.min(dx * dx + dy * dy);
        if (qy > y) != (py > y) && x < ex * (y - qy) / ey + qx {
            inside = !inside;
        }
        (px, py) = (qx, qy);
    }
    if inside {
        -nearest.sqrt()
    } else {
        nearest.sqrt()
    }
}

/// The vertices of a polygonal shape; empty for the others.
fn outline(shape: Shape) -> Vec<(f32, f32)> {
    match shape {
        Shape::Square => vec![(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
        Shape::Triangle => vec![(0.0, -1.0), (0.95, 0.7), (-0.95, 0.7)],
        Shape::Star => {
            // Directions at multiples of 36 degrees from straight up.
            let sines = [0.0, 0.587_785_25, 0.951_056_5, 0.951_056_5, 0.587_785_25];
            let cosines = [1.0, 0.809_017, 0.309_017, -0.309_017, -0.809_017];
            (0..10)
                .map(|i| {
                    let radius = if i % 2 == 0 { 1.08 } else { 0.46 };
                    let (sign, j) = if i < 5 { (1.0, i) } else { (-1.0, i - 5) };
                    (sign * radius * sines[j], -sign * radius * cosines[j])
                })
                .collect()
        }
        Shape::Cross => {
            let (arm, half) = (0.98, 0.33);
            vec![
                (-half, -arm),
                (half, -arm),
                (half, -half),
                (arm, -half),
                (arm, half),
                (half, half),
                (half, arm),
                (-half, arm),
                (-half, half),
                (-arm, half),
                (-arm, -half),
                (-half, -half),
            ]
        }
        _ => Vec::new(),
    }
}

#[inline(always)]
fn background(scene: &Scene, u: f32, v: f32, pixel: f32) -> [f32; 3] {
    let (first, second) = scene.background_rgb;
    let along = u * scene.direction.0 + v * scene.direction.1;
    let across = v * scene.direction.0 - u * scene.direction.1;
    let share = match scene.background {
        Background::Plain => 0.0,
        Background::Gradient => (0.5 + 0.4 * along).clamp(0.0, 1.0),
        Background::Striped => wave(along / scene.period, pixel / scene.period),
        Background::Checkered => {
            let a = wave(along / scene.period, pixel / scene.period);
            let b = wave(across / scene.period, pixel / scene.period);
            a + b - 2.0 * a * b
        }
        Background::Cloudy => {
            let at = |scale: f32, seed: u32| {
                smooth_noise(scene.noise_seed ^ seed, u * scale + 8.0, v * scale + 8.0)
            };
            0.6 * at(1.7, 0x51) + 0.4 * at(3.9, 0xa7)
        }
    };
    [0, 1, 2].map(|c| first[c] + (second[c] - first[c]) * share)
}

/// A square wave of period 1 between 0 and 1, its edges `pixel` wide.
#[inline(always)]
fn wave(x: f32, pixel: f32) -> f32 {
    let phase = x - x.floor();
    let triangle = (2.0 * phase - 1.0).abs() - 0.5;
    (0.5 + triangle / (2.0 * pixel)).clamp(0.0, 1.0)
}

/// Value noise in 0..1: random values on a unit grid, smoothly interpolated.
#[inline(always)]
fn smooth_noise(seed: u32, x: f32, y: f32) -> f32 {
    let (x0, y0) = (x.floor(), y.floor());
    let ease = |t: f32| t * t * (3.0 - 2.0 * t);
    let (tx, ty) = (ease(x - x0), ease(y - y0));
    let corner = |dx: u32, dy: u32| {
        let bits = hash(
            seed,
            (x0 as i32 as u32).wrapping_add(dx),
            (y0 as i32 as u32).wrapping_add(dy),
        );
        (bits >> 8) as f32 / 16_777_216.0
    };
    let top = corner(0, 0) + (corner(1, 0) - corner(0, 0)) * tx;
    let bottom = corner(0, 1) + (corner(1, 1) - corner(0, 1)) * tx;
    top + (bottom - top) * ty
}

/// Sensor noise of one channel of one pixel: triangular, in -1..1, variance 1/6.
#[inline(always)]
fn noise(seed: u32, x: u32, y: u32, channel: u32) -> f32 {
    let bits = hash(seed ^ channel.wrapping_mul(0x9e37_79b9), x, y);
    ((bits >> 16) as f32 + (bits & 0xffff) as f32) / 65_535.0 - 1.0
}

/// A hash of a grid point (the finaliser of MurmurHash3 over a linear combination).
#[inline(always)]
fn hash(seed: u32, x: u32, y: u32) -> u32 {
    let mut h = seed
        .wrapping_add(x.wrapping_mul(0x9e37_79b1))
        .wrapping_add(y.wrapping_mul(0x85eb_ca77));
    h ^= h >> 16;
    h = h.wrapping_mul(0x85eb_ca6b);
    h ^= h >> 13;
    h = h.wrapping_mul(0xc2b2_ae35);
    h ^ (h >> 16)
}
