//! Draws images with a bundle's answers as one SVG, for the README:
//! `cargo run --release -p pinhole --example picture -- assets/demo docs/demo.svg assets/samples/*`

use std::fmt::Write;
use std::path::Path;

use base64::Engine;
use pinhole::{Classification, Classifier, DecodeOptions};

const COLUMNS: usize = 4;
const TILE: usize = 220;
const IMAGE: usize = 160;
const ROW: usize = 250;
const BAR: f32 = 200.0;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [bundle, out, images @ ..] = &arguments[..] else {
        eprintln!("usage: picture BUNDLE OUT.svg IMAGE...");
        std::process::exit(2);
    };
    let classifier = Classifier::open(bundle)?;
    let rows = images.len().div_ceil(COLUMNS);
    let (width, height) = (COLUMNS * TILE, rows * ROW);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (i, path) in images.iter().enumerate() {
        let answer = classifier.classify(&pinhole::open_image(path, &DecodeOptions::default())?)?;
        tile(
            &mut svg,
            (i % COLUMNS) * TILE,
            (i / COLUMNS) * ROW,
            Path::new(path),
            &answer,
        )?;
    }
    svg.push_str("</svg>\n");
    std::fs::write(out, svg)?;
    Ok(())
}

/// One image with its three best classes below.
fn tile(
    svg: &mut String,
    x: usize,
    y: usize,
    path: &Path,
    answer: &Classification,
) -> Result<(), Box<dyn std::error::Error>> {
    let data = base64::engine::general_purpose::STANDARD.encode(std::fs::read(path)?);
    let kind = if path.extension().is_some_and(|e| e == "png") {
        "png"
    } else {
        "jpeg"
    };
    let left = x + 10;
    writeln!(
        svg,
        "<image x=\"{left}\" y=\"{}\" width=\"200\" height=\"{IMAGE}\" href=\"data:image/{kind};base64,{data}\"/>",
        y + 10
    )?;
    for (i, class) in answer.top(3).iter().enumerate() {
        let line = y + IMAGE + 18 + i * 24;
        let name = class.name.replace('&', "&amp;").replace('<', "&lt;");
        let fill = if i == 0 { "#b7dfc0" } else { "#e4e4e4" };
        writeln!(
            svg,
            "<rect x=\"{left}\" y=\"{line}\" width=\"{BAR}\" height=\"20\" fill=\"#f4f4f4\"/>"
        )?;
        let bar = BAR * class.probability;
        writeln!(
            svg,
            "<rect x=\"{left}\" y=\"{line}\" width=\"{bar:.1}\" height=\"20\" fill=\"{fill}\"/>"
        )?;
        let baseline = line + 15;
        writeln!(
            svg,
            "<text x=\"{}\" y=\"{baseline}\">{name}</text>",
            left + 6
        )?;
        let percent = 100.0 * class.probability;
        writeln!(
            svg,
            "<text x=\"{}\" y=\"{baseline}\" text-anchor=\"end\">{percent:.1} %</text>",
            left + 194
        )?;
    }
    Ok(())
}
