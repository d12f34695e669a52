//! Layout and drawing of text in any script.

use std::path::{Path, PathBuf};

use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::Rectangle;
use pinhole_firmware::canvas::Canvas;
use pinhole_firmware::text::{Fonts, TextLine, TextStyle};

const STYLE: TextStyle = TextStyle {
    size: 16.0,
    bold: false,
};

fn fonts() -> Fonts {
    Fonts::new(&[], false).unwrap()
}

/// Bounding box of the lit pixels of the line, drawn at (50, 50).
fn lit_area(line: &TextLine) -> Option<Rectangle> {
    let mut canvas = Canvas::new(Size::new(700, 200));
    line.draw(&mut canvas, Point::new(50, 50), Rgb888::WHITE);
    let lit = (canvas.bounding_box().points())
        .filter(|at| canvas.row(at.y as u32)[at.x as usize] != Rgb888::BLACK);
    lit.fold(None, |all: Option<Rectangle>, at| {
        let pixel = Rectangle::new(at, Size::new(1, 1));
        Some(all.map_or(pixel, |all| {
            let (a, b) = (all.top_left, all.bottom_right().unwrap());
            Rectangle::with_corners(a.component_min(at), b.component_max(pixel.top_left))
        }))
    })
}

/// The pixels of a picture with the line.
fn pixels(line: &TextLine) -> Vec<Rgb888> {
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
                let line = fonts.line(name, TextStyle::regular(size));
                let lit = lit_area(&line).unwrap_or_else(|| panic!("{name}: nothing was drawn"));
                let last = lit.bottom_right().unwrap();
                // A glyph may extend a little beyond its advance.
                assert!(
                    lit.top_left.x >= 48 && last.x <= 52 + line.width,
                    "{name} {lit:?}"
                );
                if !name.contains('\u{305}') {
                    // Marks may extend a little above the line.
                    let margin = (size * 0.1) as i32;
                    assert!(lit.top_left.y >= 50 - margin, "{name} {size} {lit:?}");
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
fn truncated_text_fits_and_ends_with_an_ellipsis() {
    let mut fonts = fonts();
    for name in NAMES {
        let long = [name; 10].join(" ");
        for width in [20, 60, 200] {
            let line = fonts.truncate(&long, STYLE, width);
            assert!(line.width <= width, "{name} {width}: {}", line.width);
        }
        let whole = fonts.line(name, STYLE);
        let uncut = fonts.truncate(name, STYLE, whole.width);
        assert!(pixels(&uncut) == pixels(&whole), "{name}");
    }
    // The longest prefix that fits.
    let whole = "a long name of a class";
    let cut = fonts.truncate(whole, STYLE, 100);
    let fitting = (1..whole.len())
        .rev()
        .map(|end| format!("{}…", whole[..end].trim_end()))
        .find(|text| fonts.line(text, STYLE).width <= 100)
        .unwrap();
    let expected = fonts.line(&fitting, STYLE);
    assert!(pixels(&cut) == pixels(&expected));
    // An ellipsis is never truncated.
    let least = fonts.line("…", STYLE).width;
    assert_eq!(fonts.truncate(whole, STYLE, 1).width, least);
}

#[test]
fn very_long_and_empty_texts_are_laid_out_quickly() {
    let mut fonts = fonts();
    let long = "pneumonoultramicroscopicsilicovolcanoconiosis ".repeat(50_000);
    let start = std::time::Instant::now();
    assert!(fonts.truncate(&long, STYLE, 200).width <= 200);
    assert!(fonts.paragraph(&long, STYLE, 200, 5).len() == 5);
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
    for empty in ["", " ", "\n", "\u{200b}", "\0\0"] {
        assert!(lit_area(&fonts.line(empty, STYLE)).is_none(), "{empty:?}");
        assert!(fonts.truncate(empty, STYLE, 5).width <= 16, "{empty:?}");
        fonts.paragraph(empty, STYLE, 50, 3);
    }
}

#[test]
fn paragraphs_break_between_words_and_end_with_an_ellipsis_if_truncated() {
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
    // A word that is longer than a line is broken.
    let hash = fonts.paragraph(&"0123456789abcdef".repeat(4), STYLE, 200, 10);
    assert!(hash.len() > 1 && hash.iter().all(|line| line.width <= 200));
}

#[test]
fn joined_letters_and_right_to_left_text_are_shaped() {
    let mut fonts = fonts();
    // Joined Arabic letters have other glyphs than isolated ones.
    let joined = fonts.line("قلب", STYLE).width;
    let alone: i32 = ["ق", "ل", "ب"]
        .map(|c| fonts.line(c, STYLE).width)
        .iter()
        .sum();
    assert!(joined < alone, "{joined} {alone}");
    // Hebrew starts on the right: the left end of the line is its last letter.
    let line = pixels(&fonts.line("לבב", STYLE));
    let reversed = pixels(&fonts.line("בבל", STYLE));
    assert!(line != reversed);
    let left = |pixels: &[Rgb888]| -> Vec<Rgb888> {
        // The first 8 columns of the line.
        (0..60)
            .flat_map(|y| pixels[y * 300 + 5..][..8].to_vec())
            .collect()
    };
    assert!(left(&line) == left(&pixels(&fonts.line("ב", STYLE))));
}

#[test]
fn characters_that_no_font_has_are_found() {
    let mut fonts = fonts();
    assert_eq!(fonts.missing_characters("red heart 赤いハート ж"), []);
    assert_eq!(
        fonts.missing_characters("a \u{1FAC0} b \u{1FAC0}"),
        ['\u{1FAC0}']
    );
}

#[test]
fn configured_fonts_must_be_font_files() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fonts/DejaVuSans-Bold.ttf");
    assert!(Fonts::new(&[path], false).is_ok());
    let error = |path: PathBuf| Fonts::new(&[path], false).err().unwrap().to_string();
    let none = error("/nowhere/font.ttf".into());
    assert!(
        none.contains("/nowhere/font.ttf") && none.contains("screen.fonts"),
        "{none}"
    );
    let other = error(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
    assert!(other.contains("found another format"), "{other}");
}

#[test]
fn scrolling_text_stays_in_its_window() {
    let mut fonts = fonts();
    let line = fonts.line("a long name of a class that does not fit", STYLE);
    let window = Rectangle::new(Point::new(20, 10), Size::new(80, 24));
    let at = |offset| {
        let mut canvas = Canvas::new(Size::new(120, 50));
        line.draw_scrolling(&mut canvas, window, Rgb888::WHITE, offset);
        let outside = (canvas.bounding_box().points()).any(|at| {
            !window.contains(at) && canvas.row(at.y as u32)[at.x as usize] != Rgb888::BLACK
        });
        assert!(!outside, "{offset}");
        canvas
    };
    let first = at(0);
    assert!(first != at(30));
    // It repeats after a gap of two font sizes.
    assert!(first == at(line.width + 32));
    at(i32::MAX);
}
