//! Captions of synthetic images.

use super::scene::{Background, COLOURS, SHAPES, Scene};
use crate::random::SeededRng;

/// What a caption is about.
enum Subject {
    /// A noun without an article, such as "red circle": gets a random phrase around it.
    Noun(String),
    /// A complete phrase.
    Phrase(String),
}

use Subject::{Noun, Phrase};

/// A caption in lower case. Three in five name colour and shape, the others only one of them; some add
/// size, position or background. The caption of an unnamed colour names only the shape.
pub fn caption(rng: &mut SeededRng, scene: &Scene) -> String {
    let subject = subject(rng, scene);
    let mut text = match subject {
        Phrase(text) => text,
        Noun(noun) => match rng.below(8) {
            0 => noun,
            1 | 2 => with_article(&noun),
            // CLIP's usual template, which puts "a" before any name.
            3 | 4 => format!("a photo of a {noun}"),
            5 => format!("a picture of {}", with_article(&noun)),
            6 => format!("there is {}", with_article(&noun)),
            _ => format!("an image of {}", with_article(&noun)),
        },
    };
    if rng.chance(0.3) {
        text.push_str(position(scene));
    }
    if rng.chance(0.3) {
        text.push_str(match scene.background {
            Background::Striped => " on a striped background",
            Background::Checkered => " on a checkered background",
            Background::Cloudy => " on a cloudy background",
            Background::Plain | Background::Gradient => {
                match scene.background_rgb.0.iter().sum::<f32>() / 3.0 {
                    level if level < 0.28 => " on a dark background",
                    level if level > 0.5 => " on a bright background",
                    _ => " on a plain background",
                }
            }
        });
    }
    if rng.chance(0.3) {
        text.push('.');
    }
    text
}

fn subject(rng: &mut SeededRng, scene: &Scene) -> Subject {
    let colour = scene.colour_index.map(|index| COLOURS[index].1);
    let shape = SHAPES[scene.shape_index].1;
    let size = match scene.radius {
        r if r < 0.52 && rng.chance(0.5) => ["small ", "little ", "tiny "][rng.below(3)],
        r if r > 0.7 && rng.chance(0.5) => ["big ", "large ", "huge "][rng.below(3)],
        _ => "",
    };
    let sized = with_article(&format!("{size}{shape}"));
    match (colour, rng.below(10)) {
        (Some(colour), 0..=5) => match rng.below(8) {
            0..=4 => Noun(format!("{size}{colour} {shape}")),
            5 => Phrase(format!("{sized} that is {colour}")),
            6 => Phrase(format!("the {size}{shape} is {colour}")),
            _ => Phrase(format!("{sized} colored {colour}")),
        },
        (Some(colour), 6 | 7) => match rng.below(5) {
            0 => Phrase(
                format!("something {size}and {colour}").replace("something and", "something"),
            ),
            1 => Phrase(format!("{size}{colour} object")),
            2 => Noun(format!("{size}{colour} thing")),
            3 => Noun(format!("{size}{colour} shape")),
            _ => Phrase(format!("the color {colour}")),
        },
        _ => match rng.below(3) {
            0 => Phrase(format!("some {size}{shape}")),
            _ => Noun(format!("{size}{shape}")),
        },
    }
}

fn position(scene: &Scene) -> &'static str {
    let (x, y) = (scene.x, scene.y);
    if x.abs() < 0.15 && y.abs() < 0.15 {
        " in the middle"
    } else if x.abs() >= y.abs() {
        if x < 0.0 {
            " on the left"
        } else {
            " on the right"
        }
    } else if y < 0.0 {
        " at the top"
    } else {
        " at the bottom"
    }
}

fn with_article(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an"
    } else {
        "a"
    };
    format!("{article} {noun}")
}
