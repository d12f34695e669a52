//! Captions of generated pictures.

use super::{
    dice::Dice,
    scene::{Background, COLOURS, SHAPES, Scene},
};

/// A caption in lower case. Three in five name colour and shape, the rest only one of them; some
/// add size, place or background. Of an object in a nameless paint only the shape is named.
pub fn caption(dice: &mut Dice, scene: &Scene) -> String {
    let colour = scene.colour_index.map(|index| COLOURS[index].1);
    let shape = SHAPES[scene.shape_index].1;
    let size = match scene.radius {
        r if r < 0.52 && dice.chance(0.5) => ["small ", "little ", "tiny "][dice.below(3)],
        r if r > 0.7 && dice.chance(0.5) => ["big ", "large ", "huge "][dice.below(3)],
        _ => "",
    };
    let core = match (colour, dice.below(10)) {
        (Some(colour), 0..=5) => match dice.below(8) {
            0..=4 => return finish(dice, scene, &format!("{size}{colour} {shape}"), true),
            5 => format!(
                "{} that is {colour}",
                with_article(&format!("{size}{shape}"))
            ),
            6 => format!("the {size}{shape} is {colour}"),
            _ => format!(
                "{} colored {colour}",
                with_article(&format!("{size}{shape}"))
            ),
        },
        (Some(colour), 6 | 7) => match dice.below(5) {
            0 => format!("something {size}and {colour}").replace("something and", "something"),
            1 => format!("{size}{colour} object"),
            2 => return finish(dice, scene, &format!("{size}{colour} thing"), true),
            3 => return finish(dice, scene, &format!("{size}{colour} shape"), true),
            _ => format!("the color {colour}"),
        },
        _ => match dice.below(3) {
            0 => format!("some {size}{shape}"),
            _ => return finish(dice, scene, &format!("{size}{shape}"), true),
        },
    };
    finish(dice, scene, &core, false)
}

/// Puts a phrase around a noun (or takes a whole phrase as it is) and says where things are.
fn finish(dice: &mut Dice, scene: &Scene, noun: &str, wrap: bool) -> String {
    let mut text = if wrap {
        match dice.below(8) {
            0 => noun.to_owned(),
            1 | 2 => with_article(noun),
            // The usual template, which puts "a" before any name.
            3 | 4 => format!("a photo of a {noun}"),
            5 => format!("a picture of {}", with_article(noun)),
            6 => format!("there is {}", with_article(noun)),
            _ => format!("an image of {}", with_article(noun)),
        }
    } else {
        noun.to_owned()
    };
    if dice.chance(0.3) {
        text.push_str(place(scene));
    }
    if dice.chance(0.3) {
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
    if dice.chance(0.3) {
        text.push('.');
    }
    text
}

fn place(scene: &Scene) -> &'static str {
    let (x, y) = (scene.x, scene.y);
    match () {
        () if x.abs() < 0.15 && y.abs() < 0.15 => " in the middle",
        () if x.abs() >= y.abs() && x < 0.0 => " on the left",
        () if x.abs() >= y.abs() => " on the right",
        () if y < 0.0 => " at the top",
        () => " at the bottom",
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
