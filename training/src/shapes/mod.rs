//! A generated world of coloured shapes, to train and test on without downloading anything.
//!
//! 8 colours x 8 shapes are 64 classes such as "red circle". Size, place, rotation, perspective,
//! background, light, shadow, focus and noise vary. Twelve pairs are held out: no training picture
//! shows one and no training caption names one, so accuracy on them measures what CLIP is for.

mod caption;
mod dice;
mod render;
mod scene;

pub use caption::caption;
pub use dice::Dice;
pub use render::render;
pub use scene::{Background, COLOURS, Colour, SHAPES, Scene, Shape};

/// Which part of the generated world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// For training: the pairs that are not held out.
    Train,
    /// For testing: the same pairs as [`Split::Train`], other pictures.
    Seen,
    /// For testing: the pairs that training never shows or names.
    Unseen,
}

impl Split {
    /// The class indices in this split, ascending.
    pub fn classes(self) -> Vec<usize> {
        (0..COLOURS.len() * SHAPES.len())
            .filter(|&class| is_held_out(class) == (self == Self::Unseen))
            .collect()
    }

    fn family(self) -> u64 {
        match self {
            Self::Train => 0,
            Self::Seen => 1,
            Self::Unseen => 2,
        }
    }
}

/// Whether a class (colour index * 8 + shape index) is kept out of training: every colour and
/// every shape is in one or two such pairs.
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

/// A scene, its class and its caption: item `index` of a split. The classes of a split take turns
/// in a new random order each round, so that any stretch of items is balanced. In training every
/// other stretch of 128 is of two colours only: a batch of them tells no colours apart, only shapes,
/// which are the harder half of the names.
pub fn sample(split: Split, seed: u64, index: u64) -> (Scene, usize, String) {
    let mut classes = split.classes();
    let seed = seed.wrapping_mul(3).wrapping_add(split.family());
    let (mut round, mut place) = (index / classes.len() as u64, index % classes.len() as u64);
    if split == Split::Train && index / STRETCH % 2 == 1 {
        let mut dice = Dice::new(seed ^ 0x636f_6c6f, index / STRETCH);
        let first = dice.below(COLOURS.len());
        let second = (first + 1 + dice.below(COLOURS.len() - 1)) % COLOURS.len();
        classes.retain(|class| [first, second].contains(&(class / SHAPES.len())));
        (round, place) = (index, index % classes.len() as u64);
    }
    Dice::new(!seed, round).shuffle(&mut classes);
    let class = classes[place as usize];
    let mut dice = Dice::new(seed, index);
    let scene = Scene::random(&mut dice, class / SHAPES.len(), class % SHAPES.len());
    let text = caption(&mut dice, &scene);
    (scene, class, text)
}

/// Training items in a row that are of all colours, or of two.
const STRETCH: u64 = 128;
