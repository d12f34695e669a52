//! The colour layout.

use std::time::Duration;

use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::{PrimitiveStyle, Rectangle, RoundedRectangle};
use pinhole::camera::SceneState;

use super::content::{BootScreen, CroppedFrame, ErrorScreen, IdleScreen, LiveScreen, Screen};
use super::format;
use crate::canvas::Canvas;
use crate::text::{Fonts, TextStyle};

const BACKGROUND: Rgb888 = Rgb888::new(10, 12, 16);
const TEXT: Rgb888 = Rgb888::new(245, 246, 248);
const QUIET: Rgb888 = Rgb888::new(160, 168, 180);
const TRACK: Rgb888 = Rgb888::new(44, 50, 60);
const ACCENT: Rgb888 = Rgb888::new(64, 208, 190);
const WARNING: Rgb888 = Rgb888::new(255, 184, 48);
const ALARM: Rgb888 = Rgb888::new(214, 48, 49);
const IDLE: Rgb888 = Rgb888::new(200, 204, 210);
const DIM: Rgb888 = Rgb888::new(96, 104, 116);

pub(super) fn draw(screen: &Screen, canvas: &mut Canvas, fonts: &mut Fonts, shown: Duration) {
    let Size { width, height } = canvas.size();
    let mut page = Page {
        unit: width.min(height) as f32 / 240.0,
        width: width as i32,
        height: height as i32,
        canvas,
        fonts,
        shown,
    };
    page.fill(page.canvas.bounding_box(), BACKGROUND);
    match screen {
        Screen::Boot(boot) => page.boot(boot),
        Screen::Live(live) => page.live(live),
        Screen::Error(error) => page.error(error),
        Screen::Idle(idle) => page.idle(idle),
    }
}

struct Page<'a> {
    /// Pixels per unit: the shorter side has 240 units.
    unit: f32,
    width: i32,
    height: i32,
    canvas: &'a mut Canvas,
    fonts: &'a mut Fonts,
    shown: Duration,
}

impl Page<'_> {
    fn px(&self, units: f32) -> i32 {
        (units * self.unit).round() as i32
    }

    fn regular(&self, units: f32) -> TextStyle {
        TextStyle::regular((units * self.unit).round())
    }

    fn bold(&self, units: f32) -> TextStyle {
        TextStyle::bold((units * self.unit).round())
    }

    fn boot(&mut self, boot: &BootScreen) {
        let margin = self.px(14.0);
        let room = self.width - 2 * margin;
        let mut y = self.px(24.0);
        let title = self.fonts.line("Pinhole", self.bold(34.0));
        title.draw(self.canvas, Point::new(margin, y), ACCENT);
        y += title.height + self.px(4.0);
        let styles = [self.regular(20.0), self.regular(17.0)];
        let bundle = self.fonts.fit(&boot.bundle, &styles, room);
        bundle.draw(self.canvas, Point::new(margin, y), TEXT);
        y += self.px(46.0);
        for step in &boot.steps {
            let result = step.result.as_deref().unwrap_or("...");
            let result = self.fonts.truncate(result, self.regular(17.0), room / 2);
            let name = room - result.width - self.px(8.0);
            let name = self.fonts.truncate(step.name, self.regular(17.0), name);
            let colour = if step.result.is_some() { TEXT } else { QUIET };
            name.draw(self.canvas, Point::new(margin, y), QUIET);
            let x = self.width - margin - result.width;
            result.draw(self.canvas, Point::new(x, y), colour);
            y += self.px(28.0);
        }
    }

    /// The state on top, then the frame; the bars to the right of it on wide displays, else below it. A notice takes the
    /// last row.
    fn live(&mut self, live: &LiveScreen) {
        let wide = self.width * 10 > self.height * 12;
        let margin = self.px(8.0);
        let room = self.width - 2 * margin;
        self.state(live, area(margin, self.px(4.0), room, self.px(34.0)));
        let top = self.px(44.0);
        let side = self.px(if wide { 126.0 } else { 94.0 });
        self.frame(live.frame.as_ref(), Point::new(margin, top), side);
        let right = 2 * margin + side;
        let right_room = self.width - right - margin;
        let notice = live.notice.as_deref();
        if wide {
            self.bars(
                live,
                area(right, top, right_room, self.px(42.0)),
                3,
                &[19.0, 17.0, 15.0],
            );
            let y = top + side + self.px(10.0);
            self.board_status(live, area(margin, y, room, self.height - y), true);
            let y = y + self.px(26.0);
            self.notice(notice, area(margin, y, room, self.height - y), 15.0);
        } else {
            self.board_status(live, area(right, top, right_room, side), false);
            let y = top + side + self.px(5.0);
            // Taller screens spread the bars.
            let pitch = ((self.height - y) / 3).min(self.px(60.0));
            let rows = if notice.is_some() { 2 } else { 3 };
            self.bars(live, area(margin, y, room, pitch), rows, &[17.0, 15.0]);
            let y = y + rows as i32 * pitch;
            self.notice(notice, area(margin, y, room, pitch), 13.0);
        }
    }

    fn state(&mut self, live: &LiveScreen, window: Rectangle) {
        let (name, colour) = match &live.state {
            Some(state @ SceneState::Class { .. }) => (state.name(), TEXT),
            Some(SceneState::Unknown) => ("unknown", WARNING),
            None => ("...", QUIET),
        };
        let width = window.size.width as i32;
        for units in [28.0, 24.0, 21.0] {
            let line = self.fonts.line(name, self.bold(units));
            if line.width <= width {
                let down = (window.size.height as i32 - line.height) / 2;
                line.draw_aligned(self.canvas, window, down, colour);
                return;
            }
        }
        let line = self.fonts.line(name, self.bold(24.0));
        let offset = format::scroll_offset(self.shown, 40.0 * self.unit);
        line.draw_scrolling(self.canvas, window, colour, offset);
    }

    fn frame(&mut self, frame: Option<&CroppedFrame>, at: Point, side: i32) {
        let side = side.max(1) as u32;
        let window = Rectangle::new(at, Size::new_equal(side));
        self.fill(window, TRACK);
        let Some(frame) = frame else { return };
        let preprocessing = frame.preprocessing.at_size(side);
        // An image that cannot be preprocessed was not classified either.
        let Ok(pixels) = pinhole::preprocess(&preprocessing, &*frame.image) else {
            return;
        };
        let colours = pixels.data.chunks_exact(3);
        let Ok(()) = self.canvas.fill_contiguous(
            &window,
            colours.map(|rgb| Rgb888::new(rgb[0], rgb[1], rgb[2])),
        );
    }

    /// Rows with name, percentage and bar. `first` is the area of the first row. Each name has the first of the sizes
    /// `units` in which it fits.
    fn bars(&mut self, live: &LiveScreen, first: Rectangle, rows: usize, units: &[f32]) {
        let width = first.size.width as i32;
        let pitch = first.size.height as i32;
        let styles: Vec<TextStyle> = units.iter().map(|units| self.regular(*units)).collect();
        let height = styles.first().map_or(0, |style| style.height()) + self.px(1.0);
        let thick = self.px(6.0);
        // Name and bar are centred in their row.
        let down = ((pitch - height - thick) / 2).clamp(0, self.px(8.0));
        for (i, (name, probability)) in live.top.iter().take(rows).enumerate() {
            let at = first.top_left + Point::new(0, pitch * i as i32 + down);
            let share = format::percent(*probability);
            let share = self.fonts.fit(&share, &styles[..1], width);
            let room = width - share.width - self.px(6.0);
            let name = self.fonts.fit(name, &styles, room);
            let leads = i == 0 && live.state != Some(SceneState::Unknown);
            let (text, bar) = if leads { (TEXT, ACCENT) } else { (QUIET, DIM) };
            let lower = share.height - name.height;
            name.draw(self.canvas, at + Point::new(0, lower), text);
            share.draw(self.canvas, at + Point::new(width - share.width, 0), text);
            let track = Rectangle::new(
                at + Point::new(0, height),
                Size::new(width as u32, thick as u32),
            );
            self.rounded(track, TRACK);
            let filled = probability.clamp(0.0, 1.0) * width as f32;
            let filled = Size::new(filled.round() as u32, track.size.height);
            self.rounded(Rectangle::new(track.top_left, filled), bar);
        }
    }

    /// Rate, temperature and throttling, side by side or one below the other.
    fn board_status(&mut self, live: &LiveScreen, window: Rectangle, in_a_row: bool) {
        let mut at = window.top_left;
        let right = at.x + window.size.width as i32;
        let style = self.regular(if in_a_row { 18.0 } else { 20.0 });
        let step = |width: i32, unit: f32| match in_a_row {
            true => Point::new(width + (14.0 * unit) as i32, 0),
            false => Point::new(0, (26.0 * unit) as i32),
        };
        let mut texts = vec![format::rate(live.rate)];
        texts.extend(live.temperature_c.map(format::temperature));
        for text in texts {
            let text = self.fonts.truncate(&text, style, right - at.x);
            text.draw(self.canvas, at, TEXT);
            at += step(text.width, self.unit);
        }
        if live.throttled {
            self.tag("throttled", at, right - at.x);
        }
    }

    /// The notice, in as many lines as fit.
    fn notice(&mut self, notice: Option<&str>, window: Rectangle, units: f32) {
        let Some(notice) = notice else { return };
        let style = self.regular(units);
        let width = window.size.width as i32;
        let lines = (window.size.height as i32 / style.height()).max(1) as usize;
        let mut at = window.top_left;
        for line in self.fonts.paragraph(notice, style, width, lines) {
            line.draw(self.canvas, at, WARNING);
            at.y += line.height;
        }
    }

    /// Dark text on the warning colour.
    fn tag(&mut self, text: &str, at: Point, room: i32) {
        let pad = self.px(5.0);
        let text = self.fonts.truncate(text, self.bold(14.0), room - 2 * pad);
        let size = Size::new(
            (text.width + 2 * pad) as u32,
            (text.height + self.px(3.0)) as u32,
        );
        self.rounded(Rectangle::new(at, size), WARNING);
        text.draw(self.canvas, at + Point::new(pad, self.px(1.0)), BACKGROUND);
    }

    fn error(&mut self, error: &ErrorScreen) {
        let margin = self.px(12.0);
        let room = self.width - 2 * margin;
        let head = self.px(44.0);
        self.fill(area(0, 0, self.width, head), ALARM);
        let title = self.fonts.truncate(error.title, self.bold(26.0), room);
        let down = (head - title.height) / 2;
        title.draw(self.canvas, Point::new(margin, down), TEXT);
        let foot = self.px(34.0);
        let y = head + self.px(10.0);
        let free = self.height - y - foot;
        // The largest font in which the whole reason fits, else the smallest.
        let mut lines = vec![];
        for units in [22.0, 19.0, 16.0] {
            let style = self.regular(units);
            let fitting = (free / style.height()).max(1) as usize;
            lines = (self.fonts).paragraph(&error.reason, style, room, fitting + 1);
            if lines.len() <= fitting {
                break;
            }
            lines = (self.fonts).paragraph(&error.reason, style, room, fitting);
        }
        let mut at = Point::new(margin, y);
        for line in &lines {
            line.draw(self.canvas, at, TEXT);
            at.y += line.height;
        }
        let action = self.fonts.truncate(&error.action, self.regular(17.0), room);
        let y = self.height - foot + self.px(4.0);
        action.draw(self.canvas, Point::new(margin, y), WARNING);
    }

    fn idle(&mut self, idle: &IdleScreen) {
        let name = idle.state.as_ref().map_or("...", SceneState::name);
        let room = self.width - self.px(16.0);
        let name = self.fonts.truncate(name, self.regular(22.0), room);
        let mut text = format::duration(idle.unchanged);
        if let Some(celsius) = idle.temperature_c {
            text.push_str("   ");
            text.push_str(&format::temperature(celsius));
        }
        let unchanged = self.fonts.truncate(&text, self.regular(16.0), room);
        let needed = Size::new(
            name.width.max(unchanged.width) as u32,
            (name.height + unchanged.height) as u32,
        );
        let edge = Size::new_equal(2 * self.px(8.0) as u32);
        let free = (self.canvas.size().saturating_sub(edge)).saturating_sub(needed);
        let at = format::idle_position(free, self.shown) + Size::new_equal(self.px(8.0) as u32);
        name.draw(self.canvas, at, IDLE);
        unchanged.draw(self.canvas, at + Point::new(0, name.height), QUIET);
    }

    fn fill(&mut self, area: Rectangle, colour: Rgb888) {
        let Ok(()) = self.canvas.fill_solid(&area, colour);
    }

    fn rounded(&mut self, area: Rectangle, colour: Rgb888) {
        let radius = (area.size.height / 2).min(self.px(3.0) as u32);
        let Ok(()) = RoundedRectangle::with_equal_corners(area, Size::new_equal(radius))
            .into_styled(PrimitiveStyle::with_fill(colour))
            .draw(self.canvas);
    }
}

fn area(x: i32, y: i32, width: i32, height: i32) -> Rectangle {
    Rectangle::new(
        Point::new(x, y),
        Size::new(width.max(0) as u32, height.max(0) as u32),
    )
}
