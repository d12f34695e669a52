//! A plot of a confusion matrix.

use std::path::Path;

use plotters::{
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::{Error, Result, metrics::ConfusionMatrix};

/// Maximum length of a class name in the plot, in characters.
const MAX_NAME: usize = 28;

/// Writes a confusion matrix as SVG: one row per true class, one column per predicted class. A cell's
/// darkness is its fraction of the true class's images, blue for correct predictions and red for wrong
/// ones. Up to 40 classes, cells also show the number of images.
///
/// # Errors
/// [`Error::Config`] without classes, [`Error::Io`].
pub fn plot_confusion(matrix: &ConfusionMatrix, path: &Path) -> Result<()> {
    let svg = svg(matrix)
        .map_err(|problem| Error::Config(format!("{}: cannot plot: {problem}", path.display())))?;
    pinhole_fs::write(path, svg.as_bytes()).map_err(crate::error::io(path))
}

fn svg(matrix: &ConfusionMatrix) -> std::result::Result<String, Box<dyn std::error::Error>> {
    let count = matrix.classes.len();
    if count == 0 {
        return Err("no class".into());
    }
    let cell: i32 = match count {
        0..=12 => 44,
        13..=40 => 30,
        _ => 14,
    };
    let font = (f64::from(cell) * 0.85).min(13.0);
    let names: Vec<String> = matrix.classes.iter().map(|name| shorten(name)).collect();
    let longest = names.iter().map(|n| n.chars().count()).max().unwrap_or(1);
    // Characters of this sans-serif font are about 0.6 of its height wide.
    let margin = (longest as f64 * font * 0.6) as i32 + 40;
    let cells = cell.saturating_mul(i32::try_from(count)?);
    let side = u32::try_from(margin.saturating_add(cells).saturating_add(20))?;

    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, (side, side)).into_drawing_area();
    area.fill(&WHITE)?;
    let text = |size: f64, h: HPos, v: VPos| {
        // Plotters expects the line height, 1.24 times the font size.
        let style = TextStyle::from(("sans-serif", size * 1.24).into_font());
        style.pos(Pos::new(h, v))
    };
    let title = text(14.0, HPos::Center, VPos::Center);
    let middle = margin + cells / 2;
    area.draw_text("predicted class", &title, (middle, 14))?;
    let upright = title.transform(FontTransform::Rotate270);
    area.draw_text("true class", &upright, (14, middle))?;
    for (i, (name, row)) in names.iter().zip(&matrix.counts).enumerate() {
        let at = margin + cell * i32::try_from(i)?;
        let label = text(font, HPos::Right, VPos::Center);
        area.draw_text(name, &label, (margin - 6, at + cell / 2))?;
        let label = text(font, HPos::Left, VPos::Center).transform(FontTransform::Rotate270);
        area.draw_text(name, &label, (at + cell / 2, margin - 6))?;
        let images: u64 = row.iter().sum();
        for (j, &number) in row.iter().enumerate().filter(|(_, n)| **n > 0) {
            let fraction = number as f64 / images.max(1) as f64;
            let dark = if i == j {
                RGBColor(8, 69, 148)
            } else {
                RGBColor(165, 15, 21)
            };
            let left = margin + cell * i32::try_from(j)?;
            let corners = [(left, at), (left + cell, at + cell)];
            area.draw(&Rectangle::new(corners, tint(dark, fraction).filled()))?;
            if cell >= 30 {
                let colour = if fraction > 0.45 { WHITE } else { BLACK };
                let size = if number > 999 { 10.0 } else { 12.0 };
                let style = text(size, HPos::Center, VPos::Center).color(&colour);
                let centre = (left + cell / 2, at + cell / 2);
                area.draw_text(&number.to_string(), &style, centre)?;
            }
        }
    }
    let line = RGBColor(200, 200, 200);
    for i in 0..=count {
        let at = margin + cell * i32::try_from(i)?;
        let lines = [
            [(margin, at), (margin + cells, at)],
            [(at, margin), (at, margin + cells)],
        ];
        for points in lines {
            area.draw(&PathElement::new(points.to_vec(), line))?;
        }
    }
    area.present()?;
    drop(area);
    Ok(svg)
}

/// From a light tint, for a fraction of 0, to the dark colour, for 1.
fn tint(dark: RGBColor, fraction: f64) -> RGBColor {
    let weight = 0.12 + 0.88 * fraction.clamp(0.0, 1.0);
    let channel = |dark: u8| (255.0 + (f64::from(dark) - 255.0) * weight).round() as u8;
    RGBColor(channel(dark.0), channel(dark.1), channel(dark.2))
}

fn shorten(name: &str) -> String {
    match name.chars().nth(MAX_NAME) {
        None => name.to_owned(),
        Some(_) => name.chars().take(MAX_NAME - 1).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(count: usize) -> ConfusionMatrix {
        let names = (0..count).map(|i| format!("<class> {i}")).collect();
        let pairs = (0..count * 5).map(|i| (i % count, (i % count + i / count / 4) % count));
        ConfusionMatrix::new(names, pairs)
    }

    #[test]
    fn every_class_has_two_labels_and_every_count_a_cell() {
        for (count, numbered) in [(2, true), (40, true), (41, false), (100, false)] {
            let svg = svg(&matrix(count)).unwrap();
            for i in 0..count {
                let name = format!("&lt;class&gt; {i}\n");
                assert_eq!(svg.matches(&name).count(), 2, "{i} of {count}");
            }
            // The background; two cells per class: four images correct, one wrong.
            assert_eq!(svg.matches("<rect").count(), 1 + 2 * count);
            assert_eq!(svg.contains("\n4\n"), numbered, "{count}");
        }
    }

    #[test]
    fn long_names_are_shortened_and_no_classes_are_an_error() {
        let name = "é".repeat(100);
        let svg = svg(&ConfusionMatrix::new(vec![name], [(0, 0)])).unwrap();
        assert!(svg.contains(&format!("\n{}…\n", "é".repeat(27))));
        assert!(super::svg(&ConfusionMatrix::new(Vec::new(), [])).is_err());
    }
}
