//! Texts and positions that the layouts share.

use std::time::Duration;

use embedded_graphics::prelude::*;

/// Scroll offset of a text in pixels. The text rests at first, so that its beginning can be read.
pub(super) fn scroll_offset(shown: Duration, pixels_per_second: f32) -> i32 {
    let moving = shown.saturating_sub(Duration::from_millis(1500));
    // Wraps after months, which only makes the text jump.
    (moving.as_secs_f64() * f64::from(pixels_per_second)) as i64 as i32
}

/// Position of the idle screen's text within the `free` area. It changes every 10 seconds between the centre and the
/// corners, so that no pixel of an OLED burns in.
pub(super) fn idle_position(free: Size, shown: Duration) -> Point {
    let place = (shown.as_secs() / 10) as usize % 5;
    let (x, y) = [(1, 1), (0, 0), (2, 2), (2, 0), (0, 2)][place];
    Point::new(free.width as i32 * x / 2, free.height as i32 * y / 2)
}

/// "12 min", in a suitable unit.
pub(super) fn duration(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min", seconds / 60),
        seconds @ 3600..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// "54 °C".
pub(super) fn temperature(celsius: f64) -> String {
    format!("{celsius:.0} °C")
}

/// "87 %".
pub(super) fn percent(probability: f32) -> String {
    format!("{:.0} %", 100.0 * probability)
}

/// "5.2/s".
pub(super) fn rate(rate: f64) -> String {
    match rate {
        0.0..9.95 => format!("{rate:.1}/s"),
        _ => format!("{rate:.0}/s"),
    }
}
