//! `pinhole classify` and `pinhole embed`: image files.

use std::borrow::Cow;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use pinhole::internal::{ImageAnswer, LatencyMs, json_path, printable_path};
use pinhole::{Image, PreprocessConfig, Score};
use serde::Serialize;

use crate::cli::{ClassifyArgs, EmbedArgs, OutputArgs};
use crate::output;
use crate::{mistakes, open};

pub(crate) fn classify(args: &ClassifyArgs) -> Result<ExitCode> {
    check_images(&args.images)?;
    let classifier = open::conditional(&args.bundle, &args.conditional)?;
    let preprocessing = &classifier.manifest().preprocessing;
    for_each_image(
        &args.images,
        &args.output,
        preprocessing,
        |path, image, decode| {
            let answer = classifier.classify(image)?;
            let mut out = output::stdout();
            if args.output.json {
                let image = Some(json_path(path));
                return out.json(&ImageAnswer::new(image, &answer, args.top, decode));
            }
            // Softmax is what readers expect of percentages.
            let kind = match answer.score {
                Score::Softmax => String::new(),
                Score::Sigmoid { .. } => format!("; {}", answer.score),
            };
            writeln!(
                out,
                "{}  ({:.1} ms{kind})",
                printable_path(path),
                LatencyMs::new(decode, &answer.latency).total
            )?;
            if answer.unknown {
                writeln!(out, "          unknown; the most similar classes:")?;
            }
            for class in answer.top(args.top) {
                writeln!(out, "  {:5.1} %  {}", 100.0 * class.probability, class.name)?;
            }
            Ok(())
        },
    )
}

#[derive(Serialize)]
struct EmbedLine<'a> {
    image: Cow<'a, str>,
    embedding: Vec<f32>,
}

pub(crate) fn embed(args: &EmbedArgs) -> Result<ExitCode> {
    check_images(&args.images)?;
    let classifier = open::classifier(&args.bundle)?;
    let preprocessing = &classifier.manifest().preprocessing;
    for_each_image(
        &args.images,
        &args.output,
        preprocessing,
        |path, image, _| {
            let embedding = classifier.embed(image)?.values;
            let mut out = output::stdout();
            if args.output.json {
                let line = EmbedLine {
                    image: json_path(path),
                    embedding,
                };
                out.json(&line)?;
            } else {
                let values: Vec<String> = embedding.iter().map(|v| v.to_string()).collect();
                writeln!(out, "{}\t{}", printable_path(path), values.join(" "))?;
            }
            Ok(())
        },
    )
}

/// Refuses what can be no image, before the bundle is opened.
fn check_images(paths: &[PathBuf]) -> Result<()> {
    let mut paths = paths.iter();
    paths.try_for_each(|path| mistakes::check_file(path, "an image file"))
}

/// Calls `f` for each image that can be decoded, with the time that decoding took. An image that fails prints an
/// error and makes the exit code 1; the others are still answered.
fn for_each_image(
    paths: &[PathBuf],
    output: &OutputArgs,
    preprocessing: &PreprocessConfig,
    mut f: impl FnMut(&Path, &Image, Duration) -> Result<()>,
) -> Result<ExitCode> {
    let options = open::decode_options(&output.decode, preprocessing);
    let mut classify = |path: &Path| {
        let start = Instant::now();
        let image = open::image(path, &options)?;
        f(path, &image, start.elapsed())
    };
    let mut code = ExitCode::SUCCESS;
    for path in paths {
        let files = match mistakes::image_files(path) {
            Ok(files) => files,
            Err(e) => {
                output::error(&e);
                code = ExitCode::FAILURE;
                continue;
            }
        };
        for file in files {
            match classify(&file) {
                Ok(()) => {}
                Err(e) if output::output_error(&e).is_some() => return Err(e),
                Err(e) => {
                    output::error(&e);
                    code = ExitCode::FAILURE;
                }
            }
        }
    }
    Ok(code)
}
