//! The screens, and how they are drawn.
//!
//! There is one layout for colour displays of any size, in units of 1/240 of the shorter side, and one for monochrome
//! displays of at least 128 x 64 pixels.

mod colour;
mod monochrome;

use std::sync::Arc;
use std::time::Duration;

use embedded_graphics::prelude::*;
use pinhole::camera::SceneState;
use pinhole::{PreprocessConfig, RgbImage};

use crate::canvas::Canvas;
use crate::text::Fonts;

/// A screen with its content.
#[derive(Clone, Debug, PartialEq)]
pub enum Screen {
    /// The appliance starts.
    Boot(BootScreen),
    /// The camera works.
    Live(LiveScreen),
    /// Nothing can be classified.
    Error(ErrorScreen),
    /// The state has not changed for a long time.
    Idle(IdleScreen),
}

/// Shown until the first answer.
#[derive(Clone, Debug, PartialEq)]
pub struct BootScreen {
    /// Name of the bundle.
    pub bundle: String,
    /// The steps of the start, in order.
    pub steps: Vec<BootStep>,
}

/// A step of the start.
#[derive(Clone, Debug, PartialEq)]
pub struct BootStep {
    /// Name, such as "self-test".
    pub name: &'static str,
    /// Result, such as "4 of 4"; `None` until the step has finished.
    pub result: Option<String>,
}

/// Shown while frames are classified.
#[derive(Clone, Debug, PartialEq)]
pub struct LiveScreen {
    /// The state; `None` until there is one.
    pub state: Option<SceneState>,
    /// The most probable classes with their probability (0 to 1), in descending order.
    pub top: Vec<(String, f32)>,
    /// The frame, for colour displays.
    pub frame: Option<CroppedFrame>,
    /// Classified frames per second.
    pub rate: f64,
    /// Temperature of the processor in degrees Celsius.
    pub temperature_c: Option<f64>,
    /// Whether the board is throttled because of heat or low voltage.
    pub throttled: bool,
    /// A problem that does not stop the classification.
    pub notice: Option<String>,
}

/// A frame and the preprocessing that crops it.
#[derive(Clone, Debug, PartialEq)]
pub struct CroppedFrame {
    /// The frame.
    pub image: Arc<RgbImage>,
    /// The bundle's preprocessing configuration.
    pub preprocessing: Arc<PreprocessConfig>,
}

/// Shown while nothing can be classified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorScreen {
    /// The part that failed, such as "Camera".
    pub title: &'static str,
    /// The error.
    pub reason: String,
    /// What happens next, such as "again in 4 s".
    pub action: String,
}

/// Shown after a long time without a change of state.
#[derive(Clone, Debug, PartialEq)]
pub struct IdleScreen {
    /// The state.
    pub state: Option<SceneState>,
    /// Time since the last change of state.
    pub unchanged: Duration,
    /// Temperature of the processor in degrees Celsius.
    pub temperature_c: Option<f64>,
}

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

/// Scroll offset of a text in pixels. The text rests at first, so that its beginning can be read.
fn scroll_offset(shown: Duration, pixels_per_second: f32) -> i32 {
    let moving = shown.saturating_sub(Duration::from_millis(1500));
    // Wraps after months, which only makes the text jump.
    (moving.as_secs_f64() * f64::from(pixels_per_second)) as i64 as i32
}

/// Position of the idle screen's text within the `free` area. It changes every 10 seconds between the centre and the
/// corners, so that no pixel of an OLED burns in.
fn idle_position(free: Size, shown: Duration) -> Point {
    let place = (shown.as_secs() / 10) as usize % 5;
    let (x, y) = [(1, 1), (0, 0), (2, 2), (2, 0), (0, 2)][place];
    Point::new(free.width as i32 * x / 2, free.height as i32 * y / 2)
}

/// "12 min", in a suitable unit.
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
