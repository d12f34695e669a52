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

/// Each cluster of the bitmap font once: a syllable has several missing glyphs, and each stood for the whole syllable.
#[test]
fn syllables_of_the_bitmap_font_are_drawn_once() {
    let mut fonts = fonts();
    let mut width = |text: &str| fonts.line(text, STYLE).width;
    // In cells of 8 pixels; wide letters have two. Marks above and below take no place of their own.
    assert_eq!(width("ก"), width("กี"));
    assert_eq!(width("กี่กู"), 2 * width("ก"));
    // The sign after the letter takes a place.
    let letters = width("ल") + width("\u{93e}");
    assert!(width("ला") <= letters, "{} {letters}", width("ला"));
    assert_eq!(width("लाला"), 2 * width("ला"));
}

#[test]
fn right_to_left_text_rests_at_and_scrolls_from_the_right() {
    let mut fonts = fonts();
    let draw = |line: &TextLine, offset| {
        let mut canvas = Canvas::new(Size::new(120, 40));
        let window = Rectangle::new(Point::new(20, 10), Size::new(80, 24));
        line.draw_scrolling(&mut canvas, window, Rgb888::WHITE, offset);
        canvas
    };
    let window = |canvas: &Canvas, left: usize, right: usize| -> Vec<Rgb888> {
        (0..40)
            .flat_map(|y| canvas.row(y)[left..right].to_vec())
            .collect()
    };
    for (name, from_right) in [
        ("a long name of a class", false),
        ("שם ארוך מאוד של מחלקה", true),
    ] {
        let line = fonts.line(name, STYLE);
        assert!(line.width > 90, "{name}: {}", line.width);
        // The whole line, with the window over its beginning.
        let mut whole = Canvas::new(Size::new(400, 40));
        let left = if from_right { 100 - line.width } else { 20 };
        line.draw(&mut whole, Point::new(left + 200, 10), Rgb888::WHITE);
        let rest = draw(&line, 0);
        assert!(window(&rest, 20, 100) == window(&whole, 220, 300), "{name}");
        // Then the part after it.
        let later = draw(&line, 10);
        let (moved, kept) = match from_right {
            true => (window(&later, 30, 100), window(&rest, 20, 90)),
            false => (window(&later, 20, 90), window(&rest, 30, 100)),
        };
        assert!(moved == kept, "{name}");
        // A short one is at the same side.
        let short = fonts.line(name.split(' ').next().unwrap(), STYLE);
        let mut canvas = Canvas::new(Size::new(120, 40));
        let area = Rectangle::new(Point::new(20, 10), Size::new(80, 24));
        short.draw_aligned(&mut canvas, area, 0, Rgb888::WHITE);
        let lit = |left, right| {
            window(&canvas, left, right)
                .iter()
                .any(|p| *p != Rgb888::BLACK)
        };
        assert_eq!(
            (lit(20, 25), lit(95, 100)),
            (!from_right, from_right),
            "{name}"
        );
    }
}

/// Cutting after any character of these would change the one before it.
#[test]
fn no_cut_splits_a_cluster() {
    let mut fonts = fonts();
    let clusters = [
        "e\u{301}",
        "ก\u{e35}\u{e48}",
        "ल\u{93e}",
        "o\u{308}\u{304}",
        "🇩🇪",
    ];
    for cluster in clusters {
        let long = cluster.repeat(600);
        let prefixes: Vec<Vec<Rgb888>> = (0..60)
            .map(|n| pixels(&fonts.line(&format!("{}…", cluster.repeat(n)), STYLE)))
            .collect();
        for width in 20..120 {
            let cut = pixels(&fonts.truncate(&long, STYLE, width));
            assert!(prefixes.contains(&cut), "{cluster} {width}");
        }
        // Also where a paragraph breaks it: each line has whole clusters.
        let whole: Vec<Vec<Rgb888>> = (1..60)
            .map(|n| pixels(&fonts.line(&cluster.repeat(n), STYLE)))
            .collect();
        for width in [41, 47, 55, 90] {
            let lines = fonts.paragraph(&long, STYLE, width, 4);
            assert_eq!(lines.len(), 4, "{cluster}");
            for line in &lines[..3] {
                assert!(line.width <= width, "{cluster} {width}: {}", line.width);
                assert!(whole.contains(&pixels(line)), "{cluster} {width}");
            }
        }
    }
}

#[test]
fn names_that_only_the_bitmap_font_has_are_approximate() {
    let mut fonts = fonts();
    for name in [
        "red heart",
        "קלב أحمر",
        "赤いハート",
        "빨간 하트",
        "e\u{301}\u{302}",
        "❤\u{fe0f}",
    ] {
        assert!(!fonts.is_approximate(name), "{name}");
    }
    for name in ["लाल हृदय", "หัวใจสีแดง", "a ខ្មែរ"] {
        assert!(fonts.is_approximate(name), "{name}");
    }
}
