//! The monochrome layout, for OLEDs of 128 x 64 pixels.

use std::time::Duration;

use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::{PrimitiveStyle, Rectangle};
use pinhole::camera::SceneState;

use super::content::{BootScreen, ErrorScreen, IdleScreen, LiveScreen, Screen};
use super::format;
use crate::canvas::Canvas;
use crate::text::{Fonts, TextStyle};

const LIT: Rgb888 = Rgb888::WHITE;
const DARK: Rgb888 = Rgb888::BLACK;
/// Width of the bars.
const BAR: i32 = 44;
const ROW: i32 = 12;

pub(super) fn draw(screen: &Screen, canvas: &mut Canvas, fonts: &mut Fonts, shown: Duration) {
    fill(canvas, canvas.bounding_box(), DARK);
    match screen {
        Screen::Boot(boot) => draw_boot(boot, canvas, fonts),
        Screen::Live(live) => draw_live(live, canvas, fonts, shown),
        Screen::Error(error) => draw_error(error, canvas, fonts),
        Screen::Idle(idle) => draw_idle(idle, canvas, fonts, shown),
    }
}

fn small() -> TextStyle {
    TextStyle::regular(10.0)
}

fn draw_boot(boot: &BootScreen, canvas: &mut Canvas, fonts: &mut Fonts) {
    let width = canvas.size().width as i32;
    (fonts.fit("Pinhole", &[TextStyle::bold(14.0)], width)).draw(canvas, Point::zero(), LIT);
    (fonts.fit(&boot.bundle, &[small()], width)).draw(canvas, Point::new(0, 17), LIT);
    for (i, step) in boot.steps.iter().take(3).enumerate() {
        let result = step.result.as_deref().unwrap_or("...");
        let y = 29 + ROW * i as i32;
        let result = fonts.truncate(result, small(), width / 2);
        let name = fonts.truncate(step.name, small(), width - result.width - 4);
        name.draw(canvas, Point::new(0, y), LIT);
        result.draw(canvas, Point::new(width - result.width, y), LIT);
    }
}

fn draw_live(live: &LiveScreen, canvas: &mut Canvas, fonts: &mut Fonts, shown: Duration) {
    let Size { width, height } = canvas.size();
    let (width, height) = (width as i32, height as i32);
    let name = live.state.as_ref().map_or("...", SceneState::name);
    let unknown = live.state == Some(SceneState::Unknown);
    let colour = if unknown { DARK } else { LIT };
    // Inverted, to distinguish "unknown" from a class name.
    if unknown {
        fill(canvas, rectangle(0, 0, width, 16), LIT);
    }
    let top = rectangle(1, 0, width - 2, 16);
    let styles = [TextStyle::bold(14.0), TextStyle::bold(12.0)];
    let line = styles.map(|style| fonts.line(name, style));
    match line.iter().find(|line| line.width <= width - 2) {
        Some(line) => line.draw_aligned(canvas, top, 0, colour),
        None => line[0].draw_scrolling(canvas, top, colour, format::scroll_offset(shown, 30.0)),
    }
    let names: Vec<_> = (live.top.iter().take(3))
        .map(|(name, _)| fonts.truncate(name, small(), width - BAR - 3))
        .collect();
    // Taller scripts get fewer rows.
    let pitch = names.iter().map(|name| name.height).fold(ROW, i32::max);
    let rows = 3 * ROW / pitch;
    for (i, (_, probability)) in live.top.iter().take(rows as usize).enumerate() {
        let y = 17 + pitch * i as i32;
        names[i].draw(canvas, Point::new(0, y), LIT);
        let y = y + (pitch - ROW) / 2;
        let frame = rectangle(width - BAR, y + 3, BAR, 7);
        outline(canvas, frame);
        let filled = (probability.clamp(0.0, 1.0) * (BAR - 4) as f32).round() as i32;
        fill(canvas, rectangle(width - BAR + 2, y + 5, filled, 3), LIT);
    }
    let y = height - 11;
    if let Some(notice) = &live.notice {
        fill(canvas, rectangle(0, y, width, 11), LIT);
        let notice = fonts.line(notice, small());
        let window = rectangle(1, y - 1, width - 2, 12);
        match notice.width <= width - 2 {
            true => notice.draw(canvas, window.top_left, DARK),
            false => {
                notice.draw_scrolling(canvas, window, DARK, format::scroll_offset(shown, 30.0))
            }
        }
        return;
    }
    let left = fonts.line(&format::rate(live.rate), small());
    left.draw(canvas, Point::new(0, y - 1), LIT);
    let mut right = width;
    if let Some(celsius) = live.temperature_c {
        let text = fonts.line(&format::temperature(celsius), small());
        right -= text.width;
        text.draw(canvas, Point::new(right, y - 1), LIT);
    }
    if live.throttled {
        let room = right - left.width - 10;
        let text = fonts.truncate("slowed", small(), room);
        let x = left.width + 5 + (room - text.width) / 2;
        fill(canvas, rectangle(x - 2, y, text.width + 4, 11), LIT);
        text.draw(canvas, Point::new(x, y - 1), DARK);
    }
}

fn draw_error(error: &ErrorScreen, canvas: &mut Canvas, fonts: &mut Fonts) {
    let Size { width, height } = canvas.size();
    let (width, height) = (width as i32, height as i32);
    fill(canvas, rectangle(0, 0, width, 15), LIT);
    let title = fonts.truncate(error.title, TextStyle::bold(12.0), width - 4);
    title.draw(canvas, Point::new(2, 0), DARK);
    let action = !error.action.is_empty();
    let lines = (height - 16) / ROW - i32::from(action);
    let reason = fonts.paragraph(&error.reason, small(), width, lines.max(1) as usize);
    for (i, line) in reason.iter().enumerate() {
        line.draw(canvas, Point::new(0, 16 + ROW * i as i32), LIT);
    }
    let action = fonts.truncate(&error.action, small(), width);
    action.draw(canvas, Point::new(0, height - ROW), LIT);
}

fn draw_idle(idle: &IdleScreen, canvas: &mut Canvas, fonts: &mut Fonts, shown: Duration) {
    let Size { width, height } = canvas.size();
    let name = idle.state.as_ref().map_or("...", SceneState::name);
    let name = fonts.truncate(name, TextStyle::regular(12.0), width as i32 - 8);
    let unchanged = fonts.truncate(&format::duration(idle.unchanged), small(), width as i32 - 8);
    let needed = Size::new(
        name.width.max(unchanged.width) as u32,
        (name.height + unchanged.height) as u32,
    );
    let at = format::idle_position(Size::new(width, height).saturating_sub(needed), shown);
    name.draw(canvas, at, LIT);
    unchanged.draw(canvas, at + Point::new(0, name.height), LIT);
}

fn rectangle(x: i32, y: i32, width: i32, height: i32) -> Rectangle {
    Rectangle::new(
        Point::new(x, y),
        Size::new(width.max(0) as u32, height.max(0) as u32),
    )
}

fn fill(canvas: &mut Canvas, area: Rectangle, colour: Rgb888) {
    let Ok(()) = canvas.fill_solid(&area, colour);
}

fn outline(canvas: &mut Canvas, area: Rectangle) {
    let Ok(()) = area
        .into_styled(PrimitiveStyle::with_stroke(LIT, 1))
        .draw(canvas);
}
