//! Text that fits, in any script.

use std::path::{Path, PathBuf};

use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::Rectangle;
use pinhole_firmware::canvas::Canvas;
use pinhole_firmware::text::{Fonts, Line, Style};

const STYLE: Style = Style {
    size: 16.0,
    bold: false,
};

fn fonts() -> Fonts {
    Fonts::new(&[], false).unwrap()
}

/// Columns and rows that are lit, first and last, where the line is drawn at (50, 50).
fn drawn(line: &Line) -> Option<Rectangle> {
    let mut canvas = Canvas::new(Size::new(700, 200));
    line.draw(&mut canvas, Point::new(50, 50), Rgb888::WHITE);
    let lit = (canvas.bounding_box().points())
        .filter(|at| canvas.pixel(*at).is_some_and(|c| c != Rgb888::BLACK));
    lit.fold(None, |all: Option<Rectangle>, at| {
        let pixel = Rectangle::new(at, Size::new(1, 1));
        Some(all.map_or(pixel, |all| {
            let (a, b) = (all.top_left, all.bottom_right().unwrap());
            Rectangle::with_corners(a.component_min(at), b.component_max(pixel.top_left))
        }))
    })
}

/// The lit pixels as rows of text, to compare drawings with.
fn pixels(line: &Line) -> Vec<Rgb888> {
    let mut canvas = Canvas::new(Size::new(300, 60));
    line.draw(&mut canvas, Point::new(5, 5), Rgb888::WHITE);
    canvas.pixels().to_vec()
}

const NAMES: [&str; 12] = [
    "red heart",
    "Größenwahn",
    "красное сердце",
    "赤いハート",
    "빨간 하트",
    "قلب أحمر",
    "לב אדום",
    "लाल हृदय",
    "หัวใจสีแดง",
    "ἐλέφας",
    "x\u{301}\u{302}\u{303}\u{304}\u{305}",
    "👨‍👩‍👧 \u{1FAC0}",
];

#[test]
fn every_script_is_drawn_within_its_line() {
    for monochrome in [false, true] {
        let mut fonts = Fonts::new(&[], monochrome).unwrap();
        for name in NAMES {
            for size in [10.0, 16.0, 28.0] {
                let line = fonts.line(name, Style::regular(size));
                let lit = drawn(&line).unwrap_or_else(|| panic!("{name}: nothing is drawn"));
                let last = lit.bottom_right().unwrap();
                // A glyph may reach over its advance by a little.
                assert!(
                    lit.top_left.x >= 48 && last.x <= 52 + line.width,
                    "{name} {lit:?}"
                );
                if !name.contains('\u{305}') {
                    // So may marks over it.
                    let over = (size * 0.1) as i32;
                    assert!(lit.top_left.y >= 50 - over, "{name} {size} {lit:?}");
                    assert!(
                        last.y <= 51 + line.height,
                        "{name} {size} {lit:?} {}",
                        line.height
                    );
                }
            }
        }
    }
}

#[test]
fn cut_text_fits_and_ends_with_an_ellipsis() {
    let mut fonts = fonts();
    for name in NAMES {
        let long = [name; 10].join(" ");
        for width in [20, 60, 200] {
            let line = fonts.cut(&long, STYLE, width);
            assert!(line.width <= width, "{name} {width}: {}", line.width);
        }
        let whole = fonts.line(name, STYLE);
        let uncut = fonts.cut(name, STYLE, whole.width);
        assert!(pixels(&uncut) == pixels(&whole), "{name}");
    }
    // As much as fits: the next letter would not.
    let whole = "a long name of a class";
    let cut = fonts.cut(whole, STYLE, 100);
    let fitting = (1..whole.len())
        .rev()
        .map(|end| format!("{}…", whole[..end].trim_end()))
        .find(|text| fonts.line(text, STYLE).width <= 100)
        .unwrap();
    let expected = fonts.line(&fitting, STYLE);
    assert!(pixels(&cut) == pixels(&expected));
    // Less than an ellipsis is an ellipsis.
    let least = fonts.line("…", STYLE).width;
    assert_eq!(fonts.cut(whole, STYLE, 1).width, least);
}

#[test]
fn names_of_any_length_are_no_burden() {
    let mut fonts = fonts();
    let long = "pneumonoultramicroscopicsilicovolcanoconiosis ".repeat(50_000);
    let start = std::time::Instant::now();
    assert!(fonts.cut(&long, STYLE, 200).width <= 200);
    assert!(fonts.paragraph(&long, STYLE, 200, 5).len() == 5);
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
    for empty in ["", " ", "\n", "\u{200b}", "\0\0"] {
        assert!(drawn(&fonts.line(empty, STYLE)).is_none(), "{empty:?}");
        assert!(fonts.cut(empty, STYLE, 5).width <= 16, "{empty:?}");
        fonts.paragraph(empty, STYLE, 50, 3);
    }
}

#[test]
fn paragraphs_break_between_words_and_end_with_an_ellipsis_where_cut() {
    let mut fonts = fonts();
    let text = "expected the SHA-256 of manifest.json, found another: the copy is damaged";
    let whole = fonts.paragraph(text, STYLE, 200, 10);
    assert!((3..7).contains(&whole.len()), "{}", whole.len());
    assert!(whole.iter().all(|line| line.width <= 200));
    let first = fonts.line("expected the SHA-256", STYLE);
    assert!(pixels(&whole[0]) == pixels(&first));
    let cut = fonts.paragraph(text, STYLE, 200, 2);
    assert_eq!(cut.len(), 2);
    assert!(pixels(&cut[0]) == pixels(&whole[0]));
    assert!(pixels(&cut[1]) != pixels(&whole[1]));
    assert!(cut[1].width <= 200);
    // A word that is longer than the line is broken too.
    let hash = fonts.paragraph(&"0123456789abcdef".repeat(4), STYLE, 200, 10);
    assert!(hash.len() > 1 && hash.iter().all(|line| line.width <= 200));
}

#[test]
fn joined_letters_and_right_to_left_are_shaped() {
    let mut fonts = fonts();
    // Joined, the letters of Arabic are other glyphs than alone.
    let joined = fonts.line("قلب", STYLE).width;
    let alone: i32 = ["ق", "ل", "ب"]
        .map(|c| fonts.line(c, STYLE).width)
        .iter()
        .sum();
    assert!(joined < alone, "{joined} {alone}");
    // The first letter of Hebrew stands on the right: the line begins as its last letter does.
    let line = pixels(&fonts.line("לבב", STYLE));
    let reversed = pixels(&fonts.line("בבל", STYLE));
    assert!(line != reversed);
    let left = |pixels: &[Rgb888]| -> Vec<Rgb888> {
        // The columns of the line's first 8 pixels.
        (0..60)
            .flat_map(|y| pixels[y * 300 + 5..][..8].to_vec())
            .collect()
    };
    assert!(left(&line) == left(&pixels(&fonts.line("ב", STYLE))));
}

#[test]
fn what_no_font_has_is_known() {
    let mut fonts = fonts();
    assert_eq!(fonts.lacking("red heart 赤いハート ж"), []);
    assert_eq!(fonts.lacking("a \u{1FAC0} b \u{1FAC0}"), ['\u{1FAC0}']);
}

#[test]
fn fonts_of_the_configuration_come_before_the_pixels_and_must_be_fonts() {
    // This font has no Chinese, but is one.
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fonts/DejaVuSans-Bold.ttf");
    assert!(Fonts::new(&[path], false).is_ok());
    let error = |path: PathBuf| Fonts::new(&[path], false).err().unwrap().to_string();
    let none = error("/nowhere/font.ttf".into());
    assert!(
        none.contains("/nowhere/font.ttf") && none.contains("screen.fonts"),
        "{none}"
    );
    let other = error(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
    assert!(other.contains("found something else"), "{other}");
}

#[test]
fn text_that_turns_stays_in_its_window() {
    let mut fonts = fonts();
    let line = fonts.line("a long name of a class that does not fit", STYLE);
    let window = Rectangle::new(Point::new(20, 10), Size::new(80, 24));
    let at = |moved| {
        let mut canvas = Canvas::new(Size::new(120, 50));
        line.draw_turning(&mut canvas, window, Rgb888::WHITE, moved);
        let outside = (canvas.bounding_box().points())
            .any(|at| !window.contains(at) && canvas.pixel(at) != Some(Rgb888::BLACK));
        assert!(!outside, "{moved}");
        canvas
    };
    let first = at(0);
    assert!(first != at(30));
    // It is back behind the gap of two font sizes.
    assert!(first == at(line.width + 32));
    at(i32::MAX);
}
