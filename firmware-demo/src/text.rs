//! Text in any script on small screens.
//!
//! cosmic-text shapes lines (ligatures, joined letters, right-to-left text) with the built-in DejaVu Sans and the
//! configured fonts. Grapheme clusters that none of them has are drawn unshaped from GNU Unifont, a bitmap font of
//! Unicode's Basic Multilingual Plane. Any other cluster is drawn as an empty box. No text is cut inside a cluster.

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
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};
use unicode_segmentation::{GraphemeCursor, UnicodeSegmentation};

use crate::access::{self, Access};
use crate::canvas::Canvas;

const FAMILY: &str = "DejaVu Sans";
const REGULAR: &[u8] = include_bytes!("../fonts/DejaVuSans.ttf");
const BOLD: &[u8] = include_bytes!("../fonts/DejaVuSans-Bold.ttf");
/// Height of a Unifont glyph in pixels, and width of a wide one.
const UNIFONT_SIZE: usize = 16;
/// Rows of a Unifont glyph above the baseline.
const UNIFONT_ASCENT: i32 = 14;
/// DejaVu Sans's ascent and line height, in multiples of the font size.
const ASCENT: f32 = 0.93;
const LINE_HEIGHT: f32 = 1.17;
/// Texts are truncated to this many characters before layout: no screen shows more.
const MAX_CHARS: usize = 400;
/// Maximum number of cached lines: those of a few screens.
const MAX_CACHED: usize = 128;
/// Minimum coverage of a lit monochrome pixel: a little below half, so that thin strokes do not break.
const LIT: u8 = 105;
/// Gap between two repetitions of a scrolling text, in multiples of the font size.
const GAP: f32 = 2.0;

/// Font size and weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TextStyle {
    /// Font size in pixels.
    pub size: f32,
    /// Whether the weight is bold instead of regular.
    pub bold: bool,
}

impl TextStyle {
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

/// A line of text, laid out and rasterised.
#[derive(Debug)]
pub struct TextLine {
    glyphs: Vec<Glyph>,
    /// Width in pixels.
    pub width: i32,
    /// Height in pixels: the style's, or more with Unifont glyphs.
    pub height: i32,
    /// Pixels from the top to the baseline.
    ascent: i32,
    size: f32,
    /// Whether the text begins at the right end, as in Arabic and Hebrew.
    right_to_left: bool,
}

/// A line of text as shaped glyphs, from left to right.
#[derive(Default)]
struct ShapedLine {
    glyphs: Vec<LayoutGlyph>,
    right_to_left: bool,
}

/// A rasterised glyph.
#[derive(Debug)]
struct Glyph {
    /// Upper left corner, relative to the line's start on the baseline.
    at: Point,
    width: usize,
    coverage: Vec<u8>,
}

/// Fonts, and a cache of lines laid out with them.
pub struct Fonts {
    system: FontSystem,
    images: SwashCache,
    monochrome: bool,
    cache: HashMap<(String, u32, bool), Arc<TextLine>>,
}

/// A configured font file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("screen.fonts: {}: expected a TrueType or OpenType font, found {found}", path.display())]
pub struct FontError {
    path: PathBuf,
    found: String,
}

impl Fonts {
    /// Loads the built-in fonts and those of `files`. With `monochrome`, glyphs have no grey pixels.
    ///
    /// # Errors
    /// A file of `files` is not a readable font.
    pub fn new(files: &[PathBuf], monochrome: bool) -> Result<Self, FontError> {
        let (fonts, errors) = Self::load_usable(files, monochrome);
        errors.into_iter().next().map_or(Ok(fonts), Err)
    }

    /// As [`Fonts::new`], without the files that cannot be used. Also returns the errors about those.
    pub fn load_usable(files: &[PathBuf], monochrome: bool) -> (Self, Vec<FontError>) {
        let mut fonts = fontdb::Database::new();
        fonts.load_font_data(REGULAR.to_vec());
        fonts.load_font_data(BOLD.to_vec());
        let errors = (files.iter())
            .filter_map(|path| load(&mut fonts, path).err())
            .collect();
        let fonts = Self {
            // The locale would only choose between Chinese and Japanese glyphs; here the order of the files does.
            system: FontSystem::new_with_locale_and_db("en".into(), fonts),
            images: SwashCache::new(),
            monochrome,
            cache: HashMap::new(),
        };
        (fonts, errors)
    }

    /// The characters of `text` that no font has, sorted.
    pub fn missing_characters(&mut self, text: &str) -> Vec<char> {
        let style = TextStyle::regular(16.0);
        let text = clean(text);
        let mut missing: Vec<char> = self
            .lay_out(&text, style, None)
            .into_iter()
            .flat_map(|line| line.glyphs)
            .filter(|glyph| glyph.glyph_id == 0)
            .flat_map(|glyph| text[glyph.start..glyph.end].chars())
            .filter(|c| is_visible(*c) && unifont::get_glyph(*c).is_none())
            .collect();
        missing.sort_unstable();
        missing.dedup();
        missing
    }

    /// Whether a part of `text` is drawn only approximately: only the bitmap font has it, and it consists of characters
    /// that should be joined, stacked or reordered.
    pub fn is_approximate(&mut self, text: &str) -> bool {
        let text = clean(text);
        let lines = self.lay_out(&text, TextStyle::regular(16.0), None);
        let mut missing = (lines.iter())
            .flat_map(|line| &line.glyphs)
            .filter(|glyph| glyph.glyph_id == 0);
        missing.any(|glyph| {
            let visible = (text[glyph.start..glyph.end].chars()).filter(|c| is_visible(*c));
            glyph.level.is_rtl() || visible.count() > 1
        })
    }

    /// Lays out `text` in one line.
    pub fn line(&mut self, text: &str, style: TextStyle) -> Arc<TextLine> {
        let text = clean(text);
        let key = (text, style.size.to_bits(), style.bold);
        if let Some(line) = self.cache.get(&key) {
            return line.clone();
        }
        let shaped = self.lay_out(&key.0, style, None).into_iter().next();
        let line = Arc::new(self.draw_glyphs(&key.0, &shaped.unwrap_or_default(), style));
        if self.cache.len() >= MAX_CACHED {
            self.cache.clear();
        }
        self.cache.insert(key, line.clone());
        line
    }

    /// Lays out `text` in one line of at most `width` pixels, truncated with an ellipsis if it is longer.
    pub fn truncate(&mut self, text: &str, style: TextStyle, width: i32) -> Arc<TextLine> {
        let whole = self.line(text, style);
        if whole.width <= width {
            return whole;
        }
        let text = clean(text);
        let ends: Vec<usize> = text.grapheme_indices(true).map(|(at, _)| at).collect();
        let cut = |end: usize| format!("{}…", text[..end].trim_end());
        // Longer prefixes are wider, except for a pixel or two due to kerning and joined letters.
        let fitting = ends.partition_point(|end| self.line(&cut(*end), style).width <= width);
        (0..fitting)
            .rev()
            .map(|i| self.line(&cut(ends[i]), style))
            .find(|line| line.width <= width)
            .unwrap_or_else(|| self.line("…", style))
    }

    /// Lays out `text` in one line of at most `width` pixels, in the first of `styles` in which it fits, else truncated
    /// in the last one.
    pub fn fit(&mut self, text: &str, styles: &[TextStyle], width: i32) -> Arc<TextLine> {
        for style in styles {
            let line = self.line(text, *style);
            if line.width <= width {
                return line;
            }
        }
        let last = styles.last().copied().unwrap_or(TextStyle::regular(12.0));
        self.truncate(text, last, width)
    }

    /// Lays out `text` in at most `lines` lines of at most `width` pixels, broken between words where possible. The last
    /// line is truncated.
    pub fn paragraph(
        &mut self,
        text: &str,
        style: TextStyle,
        width: i32,
        lines: usize,
    ) -> Vec<Arc<TextLine>> {
        let text = clean(text);
        let mut rest = text.trim();
        let mut broken = vec![];
        while !rest.is_empty() && broken.len() < lines {
            if broken.len() + 1 == lines {
                broken.push(self.truncate(rest, style, width));
                break;
            }
            let (first, next) = rest.split_at(self.line_end(rest, style, width));
            broken.push(self.line(first.trim_end(), style));
            rest = next.trim_start();
        }
        broken
    }

    /// The end of the first line of `text`, broken to at most `width` pixels. It is at least one cluster, and ends with
    /// one.
    fn line_end(&mut self, text: &str, style: TextStyle, width: i32) -> usize {
        let lines = self.lay_out(text, style, Some(width));
        let second = lines.get(1).map(|line| &line.glyphs);
        let start = second.and_then(|glyphs| glyphs.iter().map(|glyph| glyph.start).min());
        let limit = start.unwrap_or(text.len());
        let ends = text
            .grapheme_indices(true)
            .map(|(at, part)| at + part.len());
        let ends: Vec<usize> = ends.take_while(|end| *end <= limit).collect();
        // Substitutes for missing glyphs can be wider than the shaped line.
        let fits = |end: &&usize| self.line(text[..**end].trim_end(), style).width <= width;
        match ends.iter().rev().find(fits) {
            Some(end) => *end,
            None => text.graphemes(true).next().map_or(0, str::len),
        }
    }

    /// Shapes `text`, broken into lines if there is a `width`.
    fn lay_out(&mut self, text: &str, style: TextStyle, width: Option<i32>) -> Vec<ShapedLine> {
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
            .map(|run| ShapedLine {
                glyphs: run.glyphs.to_vec(),
                right_to_left: run.rtl,
            })
            .collect()
    }

    fn draw_glyphs(&mut self, text: &str, shaped: &ShapedLine, style: TextStyle) -> TextLine {
        let glyphs = &*shaped.glyphs;
        // Right-to-left text is aligned to the right end of the line.
        let left = glyphs.iter().map(|g| g.x).fold(f32::INFINITY, f32::min);
        let mut line = TextLine {
            glyphs: vec![],
            width: 0,
            height: style.height(),
            ascent: (style.size * ASCENT).round() as i32,
            size: style.size,
            right_to_left: shaped.right_to_left,
        };
        // How far the substitutes for missing glyphs have shifted the following ones.
        let mut shift = if glyphs.is_empty() { 0.0 } else { -left };
        let mut end = 0.0_f32;
        // A cluster has one glyph or several. If one of them is missing, the whole cluster is substituted, once.
        for cluster in glyphs.chunk_by(|a, b| (a.start, a.end) == (b.start, b.end)) {
            if cluster.iter().any(|glyph| glyph.glyph_id == 0) {
                let x = cluster[0].x + shift;
                let advance = line.substitute(&text[cluster[0].start..cluster[0].end], style, x);
                let shaped: f32 = cluster.iter().map(|glyph| glyph.w).sum();
                shift += advance - shaped;
                end = end.max(x + advance);
                continue;
            }
            for glyph in cluster {
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
                end = end.max(glyph.x + shift + glyph.w);
            }
        }
        line.width = end.ceil() as i32;
        line
    }
}

impl TextLine {
    /// Adds a cluster from the bitmap font at `x`. Returns its advance.
    fn substitute(&mut self, cluster: &str, style: TextStyle, x: f32) -> f32 {
        let mut visible: Vec<char> = cluster.chars().filter(|c| is_visible(*c)).collect();
        // One box for what is one symbol, such as a family.
        if visible.iter().all(|c| unifont::get_glyph(*c).is_none()) {
            visible.truncate(1);
        }
        let mut advance = 0;
        for c in visible {
            let (mut glyph, width) = unifont_glyph(c, style);
            // A mark is drawn over the character before it.
            let left = match is_mark(c) {
                true => (advance - width).max(0),
                false => advance,
            };
            glyph.at.x = x.round() as i32 + left;
            let bottom = glyph.at.y + glyph.coverage.len() as i32 / width;
            let below = (self.height - self.ascent).max(bottom);
            self.ascent = self.ascent.max(-glyph.at.y);
            self.height = self.ascent + below;
            self.glyphs.push(glyph);
            advance = advance.max(left + width);
        }
        advance as f32
    }

    /// Draws the line inside `window` at the side where its text begins, `down` pixels from the top.
    pub fn draw_aligned(&self, canvas: &mut Canvas, window: Rectangle, down: i32, colour: Rgb888) {
        let left = match self.right_to_left {
            true => window.size.width as i32 - self.width,
            false => 0,
        };
        self.draw(canvas, window.top_left + Point::new(left, down), colour);
    }

    /// Draws the line with its upper left corner at `at`.
    pub fn draw(&self, canvas: &mut Canvas, at: Point, colour: Rgb888) {
        let all = canvas.bounding_box();
        self.draw_within(canvas, at, colour, &all);
    }

    /// Draws the line inside `window`, scrolled by `offset` pixels, and repeats it after a gap. At first its beginning is
    /// in the window: the left end, which moves to the left, or of right-to-left text the right end, which moves to the
    /// right.
    pub fn draw_scrolling(
        &self,
        canvas: &mut Canvas,
        window: Rectangle,
        colour: Rgb888,
        offset: i32,
    ) {
        let period = self.width + (self.size * GAP) as i32;
        let offset = offset.rem_euclid(period.max(1));
        let (first, next) = match self.right_to_left {
            true => (window.size.width as i32 - self.width + offset, -period),
            false => (-offset, period),
        };
        for left in [first, first + next] {
            self.draw_within(
                canvas,
                window.top_left + Point::new(left, 0),
                colour,
                &window,
            );
        }
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

/// Loads a font file.
fn load(fonts: &mut fontdb::Database, path: &Path) -> Result<(), FontError> {
    let error = |found: String| FontError {
        path: path.to_owned(),
        found,
    };
    let before = fonts.len();
    (fonts.load_font_file(path)).map_err(|e| {
        error(format!(
            "a file that cannot be read: {}",
            access::explain(path, Access::Read, &e)
        ))
    })?;
    match fonts.len() > before {
        true => Ok(()),
        false => Err(error("another format".into())),
    }
}

/// Truncates `text` and replaces control characters by spaces.
fn clean(text: &str) -> String {
    let mut end = (text.char_indices().nth(MAX_CHARS)).map_or(text.len(), |(at, _)| at);
    let mut cursor = GraphemeCursor::new(end, text.len(), true);
    if !cursor.is_boundary(text, 0).unwrap_or(true) {
        // A cluster that is longer than the limit is cut after all.
        let before = cursor.prev_boundary(text, 0).ok().flatten();
        end = before.filter(|at| *at > 0).unwrap_or(end);
    }
    let replace = |c: char| if c.is_control() { ' ' } else { c };
    text[..end].chars().map(replace).collect()
}

/// Whether a character has a shape of its own. Joiners and variation selectors have none.
fn is_visible(c: char) -> bool {
    let format = c.general_category() == GeneralCategory::Format;
    !format && !('\u{FE00}'..='\u{FE0F}').contains(&c)
}

/// Whether a character is drawn over the one before it.
fn is_mark(c: char) -> bool {
    let category = c.general_category();
    [
        GeneralCategory::NonspacingMark,
        GeneralCategory::EnclosingMark,
    ]
    .contains(&category)
}

/// The Unifont glyph of `c`, or an empty box, at the start of the line, and its advance in pixels.
fn unifont_glyph(c: char, style: TextStyle) -> (Glyph, i32) {
    let glyph = unifont::get_glyph(c);
    let width = glyph.map_or(UNIFONT_SIZE / 2, |glyph| glyph.get_width());
    let lit = |x: usize, y: usize| match glyph {
        Some(glyph) => glyph.get_pixel(x, y),
        None => {
            let (left, right, top, bottom) = (0, UNIFONT_SIZE / 2 - 2, 3, 13);
            (left..=right).contains(&x)
                && (top..=bottom).contains(&y)
                && (x == left || x == right || y == top || y == bottom)
        }
    };
    // Whole multiples keep the pixels square. Fractions from 0.75 are rounded up.
    let scale = ((style.size / UNIFONT_SIZE as f32 + 0.25) as usize).max(1);
    let coverage = (0..UNIFONT_SIZE * scale)
        .flat_map(|y| (0..width * scale).map(move |x| (x / scale, y / scale)))
        .map(|(x, y)| if lit(x, y) { 255 } else { 0 })
        .collect();
    let glyph = Glyph {
        at: Point::new(0, -UNIFONT_ASCENT * scale as i32),
        width: width * scale,
        coverage,
    };
    (glyph, (width * scale) as i32)
}
