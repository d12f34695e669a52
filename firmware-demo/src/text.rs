//! Text of any script on small screens.
//!
//! Lines are shaped (ligatures, joined letters, right to left) by cosmic-text with DejaVu Sans, which is built in,
//! and the fonts of the configuration. A character that none of them has is drawn from GNU Unifont's pixels, which
//! has all of Unicode's first plane, unshaped; one that is not there either is an empty box.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cosmic_text::{
    Attrs, Buffer, Family, FontSystem, LayoutGlyph, Metrics, Shaping, SwashCache, SwashContent,
    Weight, Wrap, fontdb,
};
use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::Rectangle;

use crate::canvas::Canvas;

const FAMILY: &str = "DejaVu Sans";
const REGULAR: &[u8] = include_bytes!("../fonts/DejaVuSans.ttf");
const BOLD: &[u8] = include_bytes!("../fonts/DejaVuSans-Bold.ttf");
/// Rows of a glyph of Unifont, and columns of a wide one.
const PIXELS: usize = 16;
/// Unifont's baseline is this many rows from its top.
const PIXEL_ASCENT: i32 = 14;
/// In font sizes: DejaVu's ascent, and line height (with its descent).
const ASCENT: f32 = 0.93;
const LINE_HEIGHT: f32 = 1.17;
/// A text is cut behind this many characters before it is looked at: no screen shows more.
const MAX_CHARS: usize = 400;
/// Lines kept laid out: those of a few screens.
const MAX_KEPT: usize = 128;
/// Where monochrome pixels are lit: a little below half, so that thin strokes do not break.
const LIT: u8 = 105;
/// A text that scrolls starts again behind a gap of this many font sizes.
const GAP: f32 = 2.0;

/// Size and weight of a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Style {
    /// Font size in pixels.
    pub size: f32,
    /// Bold.
    pub bold: bool,
}

impl Style {
    /// Regular weight.
    pub fn regular(size: f32) -> Self {
        Self { size, bold: false }
    }

    /// Bold weight.
    pub fn bold(size: f32) -> Self {
        Self { size, bold: true }
    }

    /// Height of a line in pixels.
    pub fn height(self) -> i32 {
        (self.size * LINE_HEIGHT).ceil() as i32
    }
}

/// A text laid out in one line.
#[derive(Debug)]
pub struct Line {
    glyphs: Vec<Glyph>,
    /// Pixels from the first glyph's start to the last one's end.
    pub width: i32,
    /// Pixels from the top to the bottom: the style's, or more where Unifont's pixels stand in.
    pub height: i32,
    /// Pixels from the top to the baseline.
    ascent: i32,
    size: f32,
}

/// Pixels of a glyph.
#[derive(Debug)]
struct Glyph {
    /// Upper left corner, from the line's start on the baseline.
    at: Point,
    width: usize,
    coverage: Vec<u8>,
}

/// Fonts, and what was laid out with them.
pub struct Fonts {
    system: FontSystem,
    images: SwashCache,
    monochrome: bool,
    kept: HashMap<(String, u32, bool), Arc<Line>>,
}

/// A font file of the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("screen.fonts: {}: expected a TrueType or OpenType font, found {found}", path.display())]
pub struct Error {
    path: PathBuf,
    found: String,
}

impl Fonts {
    /// The built-in fonts, then those of `files`. `monochrome`: a pixel is either lit or not.
    ///
    /// # Errors
    /// [`Error`] names the file.
    pub fn new(files: &[PathBuf], monochrome: bool) -> Result<Self, Error> {
        let mut fonts = fontdb::Database::new();
        fonts.load_font_data(REGULAR.to_vec());
        fonts.load_font_data(BOLD.to_vec());
        for path in files {
            load(&mut fonts, path)?;
        }
        Ok(Self {
            // The locale only chooses between the Han glyphs of Chinese and Japanese: the order of the files does.
            system: FontSystem::new_with_locale_and_db("en".into(), fonts),
            images: SwashCache::new(),
            monochrome,
            kept: HashMap::new(),
        })
    }

    /// Characters of `text` that are drawn as an empty box.
    pub fn lacking(&mut self, text: &str) -> Vec<char> {
        let style = Style::regular(16.0);
        let text = clean(text);
        let mut lacking: Vec<char> = self
            .lay_out(&text, style, None)
            .into_iter()
            .flatten()
            .filter(|glyph| glyph.glyph_id == 0)
            .flat_map(|glyph| text[glyph.start..glyph.end].chars())
            .filter(|c| unifont::get_glyph(*c).is_none())
            .collect();
        lacking.sort_unstable();
        lacking.dedup();
        lacking
    }

    /// `text` in one line.
    pub fn line(&mut self, text: &str, style: Style) -> Arc<Line> {
        let text = clean(text);
        let key = (text, style.size.to_bits(), style.bold);
        if let Some(line) = self.kept.get(&key) {
            return line.clone();
        }
        let glyphs = self
            .lay_out(&key.0, style, None)
            .into_iter()
            .next()
            .unwrap_or_default();
        let line = Arc::new(self.draw_glyphs(&key.0, &glyphs, style));
        if self.kept.len() >= MAX_KEPT {
            self.kept.clear();
        }
        self.kept.insert(key, line.clone());
        line
    }

    /// `text` in one line of at most `width` pixels, its end cut and replaced by an ellipsis where it is longer.
    pub fn cut(&mut self, text: &str, style: Style, width: i32) -> Arc<Line> {
        let whole = self.line(text, style);
        if whole.width <= width {
            return whole;
        }
        let text = clean(text);
        let mut ends: Vec<usize> = self
            .lay_out(&text, style, None)
            .iter()
            .flatten()
            .map(|glyph| glyph.start)
            .collect();
        ends.sort_unstable();
        ends.dedup();
        let cut = |end: usize| format!("{}…", text[..end].trim_end());
        // Longer beginnings are wider, but for kerning and joined letters, which change a pixel or two.
        let fitting = ends.partition_point(|end| self.line(&cut(*end), style).width <= width);
        (0..fitting)
            .rev()
            .map(|i| self.line(&cut(ends[i]), style))
            .find(|line| line.width <= width)
            .unwrap_or_else(|| self.line("…", style))
    }

    /// `text` in one line of at most `width` pixels: in the first of `styles` that it fits in, else cut in the last.
    pub fn fit(&mut self, text: &str, styles: &[Style], width: i32) -> Arc<Line> {
        for style in styles {
            let line = self.line(text, *style);
            if line.width <= width {
                return line;
            }
        }
        let last = styles.last().copied().unwrap_or(Style::regular(12.0));
        self.cut(text, last, width)
    }

    /// `text` in at most `lines` lines of at most `width` pixels each, broken between words where it can be, the
    /// last one cut.
    pub fn paragraph(
        &mut self,
        text: &str,
        style: Style,
        width: i32,
        lines: usize,
    ) -> Vec<Arc<Line>> {
        let text = clean(text);
        let runs = self.lay_out(&text, style, Some(width));
        let starts: Vec<usize> = runs
            .iter()
            .filter_map(|run| run.iter().map(|glyph| glyph.start).min())
            .take(lines)
            .collect();
        let more = runs.len() > lines;
        (0..starts.len())
            .map(|i| {
                let rest = &text[starts[i]..];
                match starts.get(i + 1) {
                    Some(next) => self.line(text[starts[i]..*next].trim_end(), style),
                    None if more => self.cut(rest, style, width),
                    None => self.line(rest, style),
                }
            })
            .collect()
    }

    /// Runs of glyphs, one a line, each from left to right.
    fn lay_out(&mut self, text: &str, style: Style, width: Option<i32>) -> Vec<Vec<LayoutGlyph>> {
        let mut buffer = Buffer::new(
            &mut self.system,
            Metrics::new(style.size, style.size * LINE_HEIGHT),
        );
        buffer.set_wrap(match width {
            Some(_) => Wrap::WordOrGlyph,
            None => Wrap::None,
        });
        buffer.set_size(width.map(|width| width as f32), None);
        let weight = match style.bold {
            true => Weight::BOLD,
            false => Weight::NORMAL,
        };
        let attributes = Attrs::new().family(Family::Name(FAMILY)).weight(weight);
        buffer.set_text(text, &attributes, Shaping::Advanced, None);
        buffer.shape_until_scroll(&mut self.system, false);
        (buffer.layout_runs())
            .map(|run| run.glyphs.to_vec())
            .collect()
    }

    fn draw_glyphs(&mut self, text: &str, glyphs: &[LayoutGlyph], style: Style) -> Line {
        // Text from right to left is set against the right end of the line.
        let left = glyphs.iter().map(|g| g.x).fold(f32::INFINITY, f32::min);
        let mut line = Line {
            glyphs: vec![],
            width: 0,
            height: style.height(),
            ascent: (style.size * ASCENT).round() as i32,
            size: style.size,
        };
        // How far what stands in for lacking glyphs moved those behind it.
        let mut shift = if glyphs.is_empty() { 0.0 } else { -left };
        let mut end = 0.0_f32;
        for glyph in glyphs {
            let x = glyph.x + shift;
            let advance = if glyph.glyph_id == 0 {
                let mut advance = 0;
                for c in text[glyph.start..glyph.end].chars() {
                    let at = Point::new(x.round() as i32 + advance, 0);
                    let (glyph, width) = pixels(c, style, at);
                    let below = (line.height - line.ascent)
                        .max(glyph.at.y + glyph.coverage.len() as i32 / width);
                    line.ascent = line.ascent.max(-glyph.at.y);
                    line.height = line.ascent + below;
                    line.glyphs.push(glyph);
                    advance += width;
                }
                shift += advance as f32 - glyph.w;
                advance as f32
            } else {
                let placed = glyph.physical((shift, 0.0), 1.0);
                if let Some(image) = self.images.get_image(&mut self.system, placed.cache_key)
                    && image.content == SwashContent::Mask
                {
                    let coverage = image.data.iter().map(|c| match self.monochrome {
                        true if *c >= LIT => 255,
                        true => 0,
                        false => *c,
                    });
                    line.glyphs.push(Glyph {
                        at: Point::new(
                            placed.x + image.placement.left,
                            placed.y - image.placement.top,
                        ),
                        width: image.placement.width as usize,
                        coverage: coverage.collect(),
                    });
                }
                glyph.w
            };
            end = end.max(x + advance);
        }
        line.width = end.ceil() as i32;
        line
    }
}

impl Line {
    /// Draws the line with its upper left corner at `at`.
    pub fn draw(&self, canvas: &mut Canvas, at: Point, colour: Rgb888) {
        let all = canvas.bounding_box();
        self.draw_within(canvas, at, colour, &all);
    }

    /// Draws the line moved to the left by `moved` pixels into `window`, and again behind a gap: a band that turns.
    pub fn draw_turning(&self, canvas: &mut Canvas, window: Rectangle, colour: Rgb888, moved: i32) {
        let round = self.width + (self.size * GAP) as i32;
        let first = window.top_left - Point::new(moved.rem_euclid(round.max(1)), 0);
        self.draw_within(canvas, first, colour, &window);
        self.draw_within(canvas, first + Point::new(round, 0), colour, &window);
    }

    fn draw_within(&self, canvas: &mut Canvas, at: Point, colour: Rgb888, window: &Rectangle) {
        let baseline = at + Point::new(0, self.ascent);
        for glyph in &self.glyphs {
            for (i, coverage) in glyph.coverage.iter().enumerate() {
                let (x, y) = ((i % glyph.width) as i32, (i / glyph.width) as i32);
                let at = baseline + glyph.at + Point::new(x, y);
                if *coverage > 0 && window.contains(at) {
                    canvas.blend(at, colour, *coverage);
                }
            }
        }
    }
}

/// Loads a file, and says so where nothing in it is a font.
fn load(fonts: &mut fontdb::Database, path: &Path) -> Result<(), Error> {
    let error = |found: String| Error {
        path: path.to_owned(),
        found,
    };
    let before = fonts.len();
    (fonts.load_font_file(path)).map_err(|e| error(format!("no file that can be read: {e}")))?;
    match fonts.len() > before {
        true => Ok(()),
        false => Err(error("something else".into())),
    }
}

/// One line, without what is not to be drawn.
fn clean(text: &str) -> String {
    text.chars()
        .take(MAX_CHARS)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// A character in Unifont's pixels, or an empty box, and how far the next one is.
fn pixels(c: char, style: Style, at: Point) -> (Glyph, i32) {
    let glyph = unifont::get_glyph(c);
    let width = glyph.map_or(PIXELS / 2, |glyph| glyph.get_width());
    let lit = |x: usize, y: usize| match glyph {
        Some(glyph) => glyph.get_pixel(x, y),
        None => {
            let (left, right, top, bottom) = (0, PIXELS / 2 - 2, 3, 13);
            (left..=right).contains(&x)
                && (top..=bottom).contains(&y)
                && (x == left || x == right || y == top || y == bottom)
        }
    };
    // Whole multiples keep the pixels square; three quarters up are taken as the next one.
    let times = ((style.size / PIXELS as f32 + 0.25) as usize).max(1);
    let coverage = (0..PIXELS * times)
        .flat_map(|y| (0..width * times).map(move |x| (x / times, y / times)))
        .map(|(x, y)| if lit(x, y) { 255 } else { 0 })
        .collect();
    let glyph = Glyph {
        at: at - Point::new(0, PIXEL_ASCENT * times as i32),
        width: width * times,
        coverage,
    };
    (glyph, (width * times) as i32)
}
