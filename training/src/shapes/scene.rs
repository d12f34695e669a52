//! The random content of a synthetic image.

use crate::random::SeededRng;

/// A shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A disc.
    Circle,
    /// A square.
    Square,
    /// A triangle, taller than equilateral.
    Triangle,
    /// A five-pointed star.
    Star,
    /// A plus sign.
    Cross,
    /// A heart.
    Heart,
    /// An annulus.
    Ring,
    /// A crescent moon.
    Crescent,
}

/// A named colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Hue about 0 degrees.
    Red,
    /// Hue about 27 degrees.
    Orange,
    /// Hue about 54 degrees.
    Yellow,
    /// Hue about 125 degrees.
    Green,
    /// Hue about 218 degrees.
    Blue,
    /// Hue about 276 degrees.
    Purple,
    /// Hue about 330 degrees, light.
    Pink,
    /// No hue; the brightest.
    White,
}

/// All shapes, in the order of class indices.
pub const SHAPES: [(Shape, &str); 8] = [
    (Shape::Circle, "circle"),
    (Shape::Square, "square"),
    (Shape::Triangle, "triangle"),
    (Shape::Star, "star"),
    (Shape::Cross, "cross"),
    (Shape::Heart, "heart"),
    (Shape::Ring, "ring"),
    (Shape::Crescent, "crescent"),
];

/// All colours, in the order of class indices.
pub const COLOURS: [(Colour, &str); 8] = [
    (Colour::Red, "red"),
    (Colour::Orange, "orange"),
    (Colour::Yellow, "yellow"),
    (Colour::Green, "green"),
    (Colour::Blue, "blue"),
    (Colour::Purple, "purple"),
    (Colour::Pink, "pink"),
    (Colour::White, "white"),
];

/// The kind of background.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Background {
    /// One colour.
    Plain,
    /// From one colour to another.
    Gradient,
    /// Stripes of two colours.
    Striped,
    /// Squares of two colours.
    Checkered,
    /// Value noise between two colours.
    Cloudy,
}

/// How an object is drawn. Pre-training shows filled objects only, so the others are a world that it has not seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Style {
    /// A filled area.
    #[default]
    Filled,
    /// The outline alone, as of a line drawing.
    Outline,
}

/// All styles with their names.
pub const STYLES: [(Style, &str); 2] = [(Style::Filled, "filled"), (Style::Outline, "outline")];

impl Style {
    /// The style with this name.
    pub fn by_name(name: &str) -> Option<Self> {
        let found = STYLES.iter().find(|(_, known)| *known == name);
        found.map(|(style, _)| *style)
    }
}

/// One object in front of a background.
///
/// Lengths are in units of half the image's shorter side: the central square, to which CLIP's
/// preprocessing crops the image, is [-1, 1] x [-1, 1] with y down. Colours are RGB in 0..1.
#[derive(Clone, Debug)]
pub struct Scene {
    /// Index into [`COLOURS`]; `None` for an unnamed colour.
    pub colour_index: Option<usize>,
    /// Index into [`SHAPES`].
    pub shape_index: usize,
    /// The shape.
    pub shape: Shape,
    /// How it is drawn.
    pub style: Style,
    /// The object's colour.
    pub rgb: [f32; 3],
    /// Horizontal position of the object's centre.
    pub x: f32,
    /// Vertical position of the object's centre.
    pub y: f32,
    /// Approximate distance from the object's centre to its farthest point.
    pub radius: f32,
    /// Cosine and sine of the object's rotation.
    pub rotation: (f32, f32),
    /// Horizontal stretch of the object; vertically it shrinks by the same factor.
    pub stretch: f32,
    /// Perspective: relative change of depth per radius along x and y.
    pub tilt: (f32, f32),
    /// Change of the object's brightness per radius along x and y.
    pub shading: (f32, f32),
    /// Offset of the cast shadow.
    pub shadow: (f32, f32),
    /// Darkness of the cast shadow, 0..1.
    pub shadow_strength: f32,
    /// The kind of background.
    pub background: Background,
    /// Its two colours.
    pub background_rgb: ([f32; 3], [f32; 3]),
    /// Direction of its gradient or pattern, of unit length.
    pub direction: (f32, f32),
    /// Period of its pattern.
    pub period: f32,
    /// Change of brightness per unit along x and y.
    pub light: (f32, f32),
    /// Brightness and colour cast of the light, per channel.
    pub tint: [f32; 3],
    /// Half the width of blurred edges.
    pub softness: f32,
    /// Amplitude of sensor noise.
    pub noise: f32,
    /// Seed of sensor and background noise.
    pub noise_seed: u32,
}

impl Scene {
    /// A scene of the given colour and shape (indices into [`COLOURS`] and [`SHAPES`], which wrap
    /// around); everything else is random. Without a colour index the colour is an unnamed one.
    pub fn random(rng: &mut SeededRng, colour_index: Option<usize>, shape_index: usize) -> Self {
        let colour_index = colour_index.map(|index| index % COLOURS.len());
        let shape_index = shape_index % SHAPES.len();
        let shape = SHAPES[shape_index].0;
        let rgb = match colour_index {
            Some(index) => named_colour(rng, COLOURS[index].0),
            None => unnamed_colour(rng),
        };
        let radius = rng.range(0.4, 0.84);
        let room = (0.98 - 0.85 * radius).max(0.05);
        let background = match rng.below(10) {
            0..=2 => Background::Plain,
            3..=5 => Background::Gradient,
            6 => Background::Striped,
            7 => Background::Checkered,
            _ => Background::Cloudy,
        };
        let first = backdrop(rng, rgb);
        let mut second = backdrop(rng, rgb);
        if matches!(background, Background::Striped | Background::Checkered) {
            // A pattern of low contrast: the object must stand out from it.
            second = [0, 1, 2].map(|c| first[c] + 0.45 * (second[c] - first[c]));
        }
        let gain = rng.range(0.72, 1.12);
        Self {
            colour_index,
            shape_index,
            shape,
            style: Style::Filled,
            rgb,
            x: rng.range(-room, room),
            y: rng.range(-room, room),
            radius,
            rotation: random_rotation(rng, 0.45),
            stretch: rng.range(0.9, 1.1),
            tilt: (rng.range(-0.17, 0.17), rng.range(-0.17, 0.17)),
            shading: (rng.range(-0.12, 0.12), rng.range(-0.12, 0.12)),
            shadow: (rng.range(-0.1, 0.1), rng.range(0.02, 0.12)),
            shadow_strength: if rng.chance(0.4) {
                rng.range(0.15, 0.5)
            } else {
                0.0
            },
            background,
            background_rgb: (first, second),
            direction: random_rotation(rng, 2.0),
            period: rng.range(0.25, 0.7),
            light: (rng.range(-0.18, 0.18), rng.range(-0.18, 0.18)),
            tint: [(); 3].map(|()| gain * rng.range(0.965, 1.035)),
            softness: if rng.chance(0.5) {
                rng.range(0.0, 0.05)
            } else {
                0.0
            },
            noise: if rng.chance(0.7) {
                rng.range(0.0, 0.12)
            } else {
                0.0
            },
            noise_seed: rng.bits(),
        }
    }
}

/// Cosine and sine of a random angle. The tangent of half the angle is uniform within `spread` / 2 of 0
/// (Weierstrass substitution, which needs no trigonometric function).
fn random_rotation(rng: &mut SeededRng, spread: f32) -> (f32, f32) {
    let t = rng.range(-0.5 * spread, 0.5 * spread);
    let d = 1.0 + t * t;
    ((1.0 - t * t) / d, 2.0 * t / d)
}

/// A variation of a named colour that stays distinct from the other names.
fn named_colour(rng: &mut SeededRng, colour: Colour) -> [f32; 3] {
    let (hue, spread, saturation, value) = match colour {
        Colour::Red => (0.0, 6.0, (0.82, 1.0), (0.72, 0.98)),
        Colour::Orange => (27.0, 5.0, (0.85, 1.0), (0.9, 1.0)),
        Colour::Yellow => (54.0, 4.5, (0.75, 1.0), (0.88, 1.0)),
        Colour::Green => (125.0, 18.0, (0.65, 1.0), (0.5, 0.85)),
        Colour::Blue => (218.0, 12.0, (0.7, 1.0), (0.65, 1.0)),
        Colour::Purple => (276.0, 9.0, (0.6, 0.95), (0.5, 0.8)),
        Colour::Pink => (334.0, 9.0, (0.3, 0.52), (0.95, 1.0)),
        Colour::White => (0.0, 180.0, (0.0, 0.05), (0.92, 1.0)),
    };
    let hue = hue + rng.range(-spread, spread);
    let saturation = rng.range(saturation.0, saturation.1);
    hsv(hue, saturation, rng.range(value.0, value.1))
}

/// Cyan, lime, magenta, brown or grey: distinct from all named colours.
fn unnamed_colour(rng: &mut SeededRng) -> [f32; 3] {
    let (hue, saturation, value) = match rng.below(5) {
        0 => ((165.0, 195.0), (0.6, 1.0), (0.6, 1.0)),
        1 => ((74.0, 96.0), (0.65, 1.0), (0.6, 0.95)),
        2 => ((298.0, 314.0), (0.65, 1.0), (0.6, 1.0)),
        3 => ((16.0, 32.0), (0.55, 0.9), (0.3, 0.5)),
        _ => ((0.0, 360.0), (0.0, 0.08), (0.35, 0.65)),
    };
    let hue = rng.range(hue.0, hue.1);
    let saturation = rng.range(saturation.0, saturation.1);
    hsv(hue, saturation, rng.range(value.0, value.1))
}

/// A background colour, muted and distinct from the object's.
fn backdrop(rng: &mut SeededRng, object: [f32; 3]) -> [f32; 3] {
    let mut candidate = [0.3; 3];
    for _ in 0..8 {
        let hue = rng.range(0.0, 360.0);
        let saturation = rng.range(0.0, 0.35);
        candidate = hsv(hue, saturation, rng.range(0.08, 0.85));
        let difference: f32 = (0..3).map(|c| (candidate[c] - object[c]).abs()).sum();
        if difference > 0.75 {
            break;
        }
        candidate = candidate.map(|c| c * 0.4);
    }
    candidate
}

/// RGB from hue in degrees (any), saturation and value in 0..1.
fn hsv(hue: f32, saturation: f32, value: f32) -> [f32; 3] {
    [5.0, 3.0, 1.0].map(|n: f32| {
        let k = n + hue / 60.0 + 6.0;
        let k = k - 6.0 * (k / 6.0).floor();
        value - value * saturation * k.min(4.0 - k).clamp(0.0, 1.0)
    })
}
