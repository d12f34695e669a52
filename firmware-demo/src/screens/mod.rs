//! What the display shows, and how it is drawn on each kind of display.
//!
//! Colour screens of every size have one layout, in units of 1/240 of the shorter side; monochrome ones of 128 x 64
//! pixels and more another, with fonts that are legible at arm's length there.

mod colour;
mod monochrome;

use std::sync::Arc;
use std::time::Duration;

use embedded_graphics::prelude::*;
use pinhole::camera::Seen;
use pinhole::{PreprocessConfig, RgbImage};

use crate::canvas::Canvas;
use crate::text::Fonts;

/// What the display shows.
#[derive(Clone, Debug, PartialEq)]
pub enum Screen {
    /// While the appliance starts.
    Boot(Boot),
    /// What the camera sees.
    Live(Live),
    /// Nothing can be classified.
    Error(Problem),
    /// The same has been seen for long.
    Idle(Idle),
}

/// While the appliance starts.
#[derive(Clone, Debug, PartialEq)]
pub struct Boot {
    /// Name of the bundle.
    pub bundle: String,
    /// What is done, one after the other.
    pub steps: Vec<Step>,
}

/// One thing that is done at the start.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Such as "self-test".
    pub name: &'static str,
    /// What came of it, such as "4 images"; `None` while it is under way.
    pub result: Option<String>,
}

/// What the camera sees.
#[derive(Clone, Debug, PartialEq)]
pub struct Live {
    /// What it sees, for long enough to say so; `None` for nothing yet.
    pub state: Option<Seen>,
    /// The most probable classes with their probability (0..1), the best first.
    pub top: Vec<(String, f32)>,
    /// The frame, for screens that have room for it.
    pub picture: Option<Picture>,
    /// Answers a second.
    pub rate: f64,
    /// Of the processor, in degrees Celsius.
    pub temperature_c: Option<f64>,
    /// Whether the board has slowed down for heat or for want of power.
    pub throttled: bool,
    /// Something that is wrong though the classification goes on.
    pub notice: Option<String>,
}

/// A frame and how the encoder crops it.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// The frame.
    pub image: Arc<RgbImage>,
    /// The bundle's rule.
    pub rule: Arc<PreprocessConfig>,
}

/// Nothing can be classified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is concerned, such as "camera".
    pub title: &'static str,
    /// The reason in words.
    pub reason: String,
    /// What is being done about it.
    pub action: String,
}

/// The same has been seen for long.
#[derive(Clone, Debug, PartialEq)]
pub struct Idle {
    /// What is seen.
    pub state: Option<Seen>,
    /// For how long.
    pub since: Duration,
    /// Of the processor, in degrees Celsius.
    pub temperature_c: Option<f64>,
}

/// Draws `screen`. `shown`: for how long it has shown the same state, which moves what scrolls.
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

/// How far a text that turns has moved, in pixels: it rests at first, so that its beginning can be read.
fn turned(shown: Duration, pixels_per_second: f32) -> i32 {
    let moving = shown.saturating_sub(Duration::from_millis(1500));
    // Wraps after months, by then to where nobody remembers it.
    (moving.as_secs_f64() * f64::from(pixels_per_second)) as i64 as i32
}

/// Where the idle screen's text stands: somewhere else every 10 seconds, so that no pixel of an OLED burns in. The
/// four corners and the middle of what is free, in turn.
fn wandering(free: Size, shown: Duration) -> Point {
    let place = (shown.as_secs() / 10) as usize % 5;
    let (x, y) = [(1, 1), (0, 0), (2, 2), (2, 0), (0, 2)][place];
    Point::new(free.width as i32 * x / 2, free.height as i32 * y / 2)
}

/// "12 min", in the largest unit that says enough.
fn duration(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min", seconds / 60),
        seconds @ 3600..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// "54 °C".
fn temperature(celsius: f64) -> String {
    format!("{celsius:.0} °C")
}

/// "87 %".
fn percent(probability: f32) -> String {
    format!("{:.0} %", 100.0 * probability)
}

/// "5.2/s".
fn rate(rate: f64) -> String {
    match rate {
        0.0..9.95 => format!("{rate:.1}/s"),
        _ => format!("{rate:.0}/s"),
    }
}
