//! The screens, and how they are drawn.
//!
//! There is one layout for colour displays of any size, in units of 1/240 of the shorter side, and one for monochrome
//! displays of at least 128 x 64 pixels.

mod colour;
mod content;
mod format;
mod monochrome;

use std::time::Duration;

use crate::canvas::Canvas;
use crate::text::Fonts;

pub use content::{
    BootScreen, BootStep, CroppedFrame, ErrorScreen, IdleScreen, LiveScreen, Screen,
};

/// Draws `screen`. `shown` is how long the same state has been shown; it moves scrolling texts.
pub fn draw(
    screen: &Screen,
    canvas: &mut Canvas,
    fonts: &mut Fonts,
    monochrome: bool,
    shown: Duration,
) {
    match monochrome {
        true => monochrome::draw(screen, canvas, fonts, shown),
        false => colour::draw(screen, canvas, fonts, shown),
    }
}
