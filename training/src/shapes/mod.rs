//! A synthetic data set of coloured shapes, for training and tests without a download.
//!
//! 8 colours x 8 shapes are 64 classes such as "red circle". Size, position, rotation, perspective,
//! background, light, shadow, focus and noise vary. Twelve pairs of colour and shape are held out: no
//! training image shows one and no training caption names one, so accuracy on them measures zero-shot
//! generalisation.

mod caption;
mod render;
mod scene;

pub use caption::caption;
pub use render::render;
pub use scene::{Background, COLOURS, Colour, SHAPES, STYLES, Scene, Shape, Style};

use crate::random::SeededRng;

/// A split of the data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// For training: the pairs that are not held out.
    Train,
    /// For testing: the same pairs as [`Split::Train`], other images.
    Seen,
    /// For testing: the held-out pairs.
    Unseen,
}

impl Split {
    /// The class indices in this split, ascending.
    pub fn classes(self) -> Vec<usize> {
        (0..COLOURS.len() * SHAPES.len())
            .filter(|&class| is_held_out(class) == (self == Self::Unseen))
            .collect()
    }

    fn stream(self) -> u64 {
        match self {
            Self::Train => 0,
            Self::Seen => 1,
            Self::Unseen => 2,
        }
    }
}

/// Whether a class (colour index * 8 + shape index) is held out of training. Every colour and every
/// shape is in one to three held-out pairs.
pub fn is_held_out(class: usize) -> bool {
    let (colour, shape) = (class / SHAPES.len(), class % SHAPES.len());
    shape == colour || (colour % 2 == 0 && shape == (colour + 3) % SHAPES.len())
}

/// The name of a class, such as "red circle"; indices wrap around.
pub fn class_name(class: usize) -> String {
    let (_, colour) = COLOURS[class / SHAPES.len() % COLOURS.len()];
    let (_, shape) = SHAPES[class % SHAPES.len()];
    format!("{colour} {shape}")
}

/// The names of all classes, by class index.
pub fn class_names() -> Vec<String> {
    (0..COLOURS.len() * SHAPES.len()).map(class_name).collect()
}

/// Image `index` of a split: its scene, class and caption. The classes of a split take turns in a new
/// random order each round, so any run of images is balanced.
pub fn sample(split: Split, seed: u64, index: u64) -> (Scene, usize, String) {
    let mut classes = split.classes();
    let seed = seed.wrapping_mul(3).wrapping_add(split.stream());
    let (round, place) = (index / classes.len() as u64, index % classes.len() as u64);
    SeededRng::new(!seed, round).shuffle(&mut classes);
    let class = classes[place as usize];
    let mut rng = SeededRng::new(seed, index);
    let colour = Some(class / SHAPES.len());
    let scene = Scene::random(&mut rng, colour, class % SHAPES.len());
    let text = caption(&mut rng, &scene);
    (scene, class, text)
}

/// Training pair `index`: a scene and its caption. The first [`SHAPES_FIRST`] and then two in five show a
/// shape in an unnamed colour; the others are of [`Split::Train`].
///
/// A model that learns colours before shapes concludes from the missing held-out pairs that, say, nothing
/// white is a crescent, and does not unlearn it. A model that learns shapes first does not.
pub fn training_pair(seed: u64, index: u64) -> (Scene, String) {
    let mut rng = SeededRng::new(seed ^ 0x6e61_6d65, index);
    if index >= SHAPES_FIRST && !rng.chance(UNNAMED) {
        let (scene, _, text) = sample(Split::Train, seed, index);
        return (scene, text);
    }
    let shape = rng.below(SHAPES.len());
    let scene = Scene::random(&mut rng, None, shape);
    let text = caption(&mut rng, &scene);
    (scene, text)
}

/// Training pairs before the first with a named colour.
pub const SHAPES_FIRST: u64 = 200_000;

/// Fraction of pairs with an unnamed colour after that.
const UNNAMED: f32 = 0.4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fingerprint::Fingerprint;
    use std::collections::HashSet;

    #[test]
    fn every_colour_and_shape_is_in_one_to_three_held_out_pairs() {
        let held_out = Split::Unseen.classes();
        assert_eq!(held_out.len(), 12);
        for i in 0..8 {
            let colours = held_out.iter().filter(|&&class| class / 8 == i).count();
            let shapes = held_out.iter().filter(|&&class| class % 8 == i).count();
            assert!(
                (1..=3).contains(&colours) && (1..=3).contains(&shapes),
                "{i}"
            );
        }
    }

    #[test]
    fn training_neither_shows_nor_names_a_held_out_pair() {
        let mut seen = HashSet::new();
        let mut unnamed = 0;
        for index in SHAPES_FIRST..SHAPES_FIRST + 20_000 {
            let (scene, text) = training_pair(5, index);
            match scene.colour_index {
                Some(colour) => {
                    let class = colour * 8 + scene.shape_index;
                    assert!(!is_held_out(class), "{text}");
                    seen.insert(class);
                }
                None => unnamed += 1,
            }
            let words: Vec<&str> = text.split([' ', '.']).collect();
            for class in Split::Unseen.classes() {
                let (colour, shape) = (COLOURS[class / 8].1, SHAPES[class % 8].1);
                let named = words.contains(&colour) && words.contains(&shape);
                assert!(!named, "{text}");
            }
            // A caption names only what the image shows.
            for (i, (_, colour)) in COLOURS.iter().enumerate() {
                let right = scene.colour_index == Some(i);
                assert!(!words.contains(colour) || right, "{text}");
            }
            for (i, (_, shape)) in SHAPES.iter().enumerate() {
                assert!(!words.contains(shape) || i == scene.shape_index, "{text}");
            }
        }
        assert_eq!(seen.len(), 52);
        assert!((7000..9000).contains(&unnamed), "{unnamed}");
        let first = |index| training_pair(5, index).0.colour_index;
        assert!((0..2000).all(|i| first(i * 100).is_none()));
    }

    #[test]
    fn unnamed_colours_differ_from_named_ones() {
        // Light scales RGB but does not change its ratios.
        let chroma = |scene: &Scene| {
            let [r, g, b] = scene.rgb;
            let most = r.max(g).max(b).max(1e-3);
            [r, g, b].map(|c| c / most)
        };
        let scenes = |colour: Option<usize>| -> Vec<[f32; 4]> {
            (0..200)
                .map(|i| {
                    let scene = Scene::random(&mut SeededRng::new(8, i), colour, 0);
                    let [r, g, b] = chroma(&scene);
                    [r, g, b, scene.rgb.into_iter().fold(0.0, f32::max)]
                })
                .collect()
        };
        let unnamed = scenes(None);
        for (colour, (_, name)) in COLOURS.iter().enumerate() {
            for a in scenes(Some(colour)) {
                for b in &unnamed {
                    let far: f32 = (0..4).map(|i| (a[i] - b[i]).abs()).sum();
                    assert!(far > 0.12, "{name}: {a:?} {b:?}");
                }
            }
        }
    }

    #[test]
    fn each_round_of_a_split_has_each_of_its_classes_once() {
        for (split, count) in [(Split::Seen, 52), (Split::Unseen, 12)] {
            let round = |from: u64| -> HashSet<usize> {
                (from..from + count)
                    .map(|i| sample(split, 3, i).1)
                    .collect()
            };
            let classes: HashSet<usize> = split.classes().into_iter().collect();
            assert_eq!((round(0), round(count)), (classes.clone(), classes));
        }
    }

    #[test]
    fn a_seed_gives_the_recorded_bytes() {
        // Hash of images and captions, recorded once.
        let mut hash = Fingerprint::new();
        for index in 0..40 {
            let (scene, text) = training_pair(7, SHAPES_FIRST + index);
            hash.bytes(text.as_bytes());
            hash.bytes(&render(&scene, 61, 45).data);
        }
        assert_eq!(hash.finish(), RECORDED);
        let first = |seed| render(&sample(Split::Seen, seed, 0).0, 32, 32).data;
        assert_ne!(first(1), first(2));
    }

    const RECORDED: &str = "8989e00af23a1d06";

    #[test]
    fn all_resolutions_show_the_same_scene() {
        for index in 0..20 {
            let (mut scene, ..) = sample(Split::Seen, 1, index);
            scene.noise = 0.0;
            let (small, large) = (render(&scene, 32, 32), render(&scene, 128, 128));
            let mut difference = 0.0;
            for y in 0..32 {
                for x in 0..32 {
                    for c in 0..3 {
                        let block = (0..16).map(|i| (y * 4 + i / 4) * 128 + x * 4 + i % 4);
                        let mean: f32 = block.map(|at| f32::from(large.data[at * 3 + c])).sum();
                        let own = f32::from(small.data[(y * 32 + x) * 3 + c]);
                        difference += (mean / 16.0 - own).abs() / 3072.0;
                    }
                }
            }
            assert!(difference < 4.0, "{index}: {difference}");
        }
    }

    #[test]
    fn objects_have_the_colour_and_area_of_their_scene() {
        for index in 0..64 {
            let (mut scene, ..) = sample(Split::Seen, 2, index);
            (scene.background, scene.noise) = (Background::Plain, 0.0);
            scene.background_rgb = ([0.0; 3], [0.0; 3]);
            (scene.light, scene.tint, scene.shading) = ((0.0, 0.0), [1.0; 3], (0.0, 0.0));
            let image = render(&scene, 128, 128);
            let expected = scene.rgb.map(|c| (c * 255.0 + 0.5) as u8);
            let inside = image
                .data
                .chunks_exact(3)
                .filter(|p| *p == expected)
                .count();
            let share = inside as f32 / (64.0 * 64.0 * scene.radius * scene.radius);
            assert!((0.5..3.0).contains(&share), "{:?} {share}", scene.shape);
        }
    }

    /// If this fails, the outlines are no world of their own, or show other objects than their names say.
    #[test]
    fn outlines_have_the_colour_of_their_scene_around_an_empty_inside() {
        for index in 0..64 {
            let (mut scene, ..) = sample(Split::Seen, 2, index);
            (scene.background, scene.noise) = (Background::Plain, 0.0);
            scene.background_rgb = ([0.0; 3], [0.0; 3]);
            (scene.light, scene.tint, scene.shading) = ((0.0, 0.0), [1.0; 3], (0.0, 0.0));
            (scene.shadow_strength, scene.softness) = (0.0, 0.0);
            let colour = scene.rgb.map(|c| (c * 255.0 + 0.5) as u8);
            let shown = |style: Style| -> Vec<bool> {
                let scene = Scene {
                    style,
                    ..scene.clone()
                };
                let image = render(&scene, 128, 128);
                image.data.chunks_exact(3).map(|p| p == colour).collect()
            };
            let (filled, outline) = (shown(Style::Filled), shown(Style::Outline));
            let pairs = || filled.iter().zip(&outline);
            let inside = pairs().filter(|(filled, _)| **filled).count();
            let empty = pairs().filter(|(f, o)| **f && !**o).count();
            let drawn = outline.iter().filter(|shown| **shown).count();
            let share = empty as f32 / inside as f32;
            assert!(
                drawn > 100 && share > 0.4,
                "{:?}: {drawn}, {share}",
                scene.shape
            );
        }
    }
}
