//! A confusion table as a picture.

use std::path::Path;

use plotters::{
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::{Error, Result, metrics::Evaluation};

/// Signs of a class name that are drawn; the CSV has the others.
const NAME: usize = 28;

/// Draws a confusion table as SVG: true classes down, given classes across, every cell as dark as its
/// share of the true class's images, blue where the answer is right and red where it is wrong. The
/// numbers of images stand in the cells while there is room for them (up to 40 classes).
///
/// # Errors
/// [`Error::Config`] without classes, [`Error::Io`].
pub fn draw(table: &Evaluation, path: &Path) -> Result<()> {
    let svg = svg(table)
        .map_err(|problem| Error::Config(format!("{}: cannot draw: {problem}", path.display())))?;
    pinhole_fs::write(path, svg.as_bytes()).map_err(crate::error::io(path))
}

fn svg(table: &Evaluation) -> std::result::Result<String, Box<dyn std::error::Error>> {
    let count = table.classes.len();
    if count == 0 {
        return Err("no class".into());
    }
    let cell: i32 = match count {
        0..=12 => 44,
        13..=40 => 30,
        _ => 14,
    };
    let font = (f64::from(cell) * 0.85).min(13.0);
    let names: Vec<String> = table.classes.iter().map(|name| cut(name)).collect();
    let longest = names.iter().map(|n| n.chars().count()).max().unwrap_or(1);
    // Letters of this sans-serif are about 0.6 of its height wide.
    let margin = (longest as f64 * font * 0.6) as i32 + 40;
    let cells = cell.saturating_mul(i32::try_from(count)?);
    let side = u32::try_from(margin.saturating_add(cells).saturating_add(20))?;

    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, (side, side)).into_drawing_area();
    area.fill(&WHITE)?;
    let text = |size: f64, h: HPos, v: VPos| {
        // Plotters takes the size of a line, which it takes to be 1.24 times the letters'.
        let style = TextStyle::from(("sans-serif", size * 1.24).into_font());
        style.pos(Pos::new(h, v))
    };
    let title = text(14.0, HPos::Center, VPos::Center);
    let middle = margin + cells / 2;
    area.draw_text("given class", &title, (middle, 14))?;
    let upright = title.transform(FontTransform::Rotate270);
    area.draw_text("true class", &upright, (14, middle))?;
    for (i, (name, row)) in names.iter().zip(&table.confusion).enumerate() {
        let at = margin + cell * i32::try_from(i)?;
        let label = text(font, HPos::Right, VPos::Center);
        area.draw_text(name, &label, (margin - 6, at + cell / 2))?;
        let label = text(font, HPos::Left, VPos::Center).transform(FontTransform::Rotate270);
        area.draw_text(name, &label, (at + cell / 2, margin - 6))?;
        let images: u64 = row.iter().sum();
        for (j, &number) in row.iter().enumerate().filter(|(_, n)| **n > 0) {
            let share = number as f64 / images.max(1) as f64;
            let dark = match i == j {
                true => RGBColor(8, 69, 148),
                false => RGBColor(165, 15, 21),
            };
            let left = margin + cell * i32::try_from(j)?;
            let corners = [(left, at), (left + cell, at + cell)];
            area.draw(&Rectangle::new(corners, mix(dark, share).filled()))?;
            if cell >= 30 {
                let colour = if share > 0.45 { WHITE } else { BLACK };
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

/// White for 0, the dark colour for 1; what is small stays visible.
fn mix(dark: RGBColor, share: f64) -> RGBColor {
    let share = 0.12 + 0.88 * share.clamp(0.0, 1.0);
    let part = |dark: u8| (255.0 + (f64::from(dark) - 255.0) * share).round() as u8;
    RGBColor(part(dark.0), part(dark.1), part(dark.2))
}

fn cut(name: &str) -> String {
    match name.chars().nth(NAME) {
        None => name.to_owned(),
        Some(_) => name.chars().take(NAME - 1).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(count: usize) -> Evaluation {
        let names = (0..count).map(|i| format!("<class> {i}")).collect();
        let pairs = (0..count * 5).map(|i| (i % count, (i % count + i / count / 4) % count));
        Evaluation::new(names, pairs)
    }

    #[test]
    fn every_class_is_named_twice_and_every_count_has_its_cell() {
        for (count, numbered) in [(2, true), (40, true), (41, false), (100, false)] {
            let svg = svg(&table(count)).unwrap();
            for i in 0..count {
                let name = format!("&lt;class&gt; {i}\n");
                assert_eq!(svg.matches(&name).count(), 2, "{i} of {count}");
            }
            // The background; four of a class's five images right, the fifth wrong.
            assert_eq!(svg.matches("<rect").count(), 1 + 2 * count);
            assert_eq!(svg.contains("\n4\n"), numbered, "{count}");
        }
    }

    #[test]
    fn long_names_are_cut_and_no_class_is_refused() {
        let name = "é".repeat(100);
        let picture = svg(&Evaluation::new(vec![name], [(0, 0)])).unwrap();
        assert!(picture.contains(&format!("\n{}…\n", "é".repeat(27))));
        assert!(svg(&Evaluation::new(Vec::new(), [])).is_err());
    }
}
