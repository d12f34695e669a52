//! `pinhole-train shapes`.

use std::{fs, io::Write, path::PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use pinhole::{internal::PrintableWriter, wrong_usage};
use pinhole_training::{
    counted,
    shapes::{self, STYLES, Scene, Split, Style},
};
use rayon::prelude::*;

/// Arguments of `shapes`.
#[derive(Args)]
#[command(after_help = "Example: pinhole-train shapes --count 1040 --split seen --out images")]
pub(crate) struct ShapesArgs {
    /// Output folder
    #[arg(long)]
    out: PathBuf,
    /// Number of images
    #[arg(long)]
    count: u64,
    /// Seed: the same seed gives the same bytes on every machine
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Classes: those of training (train, seen) or the held-out ones (unseen)
    #[arg(long, value_enum, default_value_t = SplitArg::Train)]
    split: SplitArg,
    /// How the shapes are drawn: filled, as in pre-training, or outline
    #[arg(long, default_value = "filled", value_parser = style)]
    style: Style,
    /// Width x height in pixels
    #[arg(long, default_value = "320x240")]
    size: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum SplitArg {
    Train,
    Seen,
    Unseen,
}

fn style(name: &str) -> Result<Style, String> {
    Style::by_name(&name.to_lowercase()).ok_or_else(|| {
        let known: Vec<&str> = STYLES.iter().map(|(_, name)| *name).collect();
        format!("expected {}", known.join(" or "))
    })
}

pub(crate) fn run(args: &ShapesArgs) -> Result<()> {
    let split = match args.split {
        SplitArg::Train => Split::Train,
        SplitArg::Seen => Split::Seen,
        SplitArg::Unseen => Split::Unseen,
    };
    let sides = args.size.split_once('x');
    let sides = sides.and_then(|(w, h)| Some((w.parse::<u32>().ok()?, h.parse::<u32>().ok()?)));
    let Some((width, height)) =
        sides.filter(|&(w, h)| (1..=8192).contains(&w.min(h)) && w.max(h) <= 8192)
    else {
        wrong_usage!(
            "--size {}: expected WIDTHxHEIGHT, each 1 to 8192",
            args.size
        );
    };
    let path = args.out.join("captions.tsv");
    if path.exists() {
        bail!("{}: already exists; choose another --out", path.display());
    }
    let captions: Vec<(String, String)> = (0..args.count)
        .into_par_iter()
        .map(|index| {
            let (scene, class, caption) = shapes::sample(split, args.seed, index);
            let name = format!("{}/{index:06}.png", shapes::class_name(class));
            let path = args.out.join(&name);
            let folder = path.parent().unwrap_or(&args.out);
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
            let style = args.style;
            let image = shapes::render(&Scene { style, ..scene }, width, height);
            let colour = image::ExtendedColorType::Rgb8;
            image::save_buffer(&path, &image.data, width, height, colour)
                .with_context(|| path.display().to_string())?;
            Ok((name, caption))
        })
        .collect::<Result<_>>()?;
    fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let mut list = String::from("filepath\ttitle\n");
    for (name, caption) in captions {
        list.push_str(&format!("{name}\t{caption}\n"));
    }
    fs::write(&path, list).with_context(|| path.display().to_string())?;
    let images = counted(args.count, "image");
    writeln!(
        PrintableWriter(std::io::stdout()),
        "wrote {images} and {}",
        path.display()
    )?;
    Ok(())
}
