//! `pinhole`: the board's command line.

mod bench;
mod camera_command;
mod cli;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use clap::Parser;
use pinhole::{
    Agreement, Classes, Classifier, DecodeOptions, Latency, Manifest, Mode, Precision, Ranked,
    RgbImage,
};
use serde::Serialize;

use crate::cli::{Cli, Command, Common, Conditional, ConditionalMode, Output};

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        // A closed pipe (`pinhole ... | head -1`) is the reader's choice, not an error.
        Err(e) if is_broken_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Classify {
            common,
            images,
            top,
            conditional,
            output,
        } => {
            let classifier = open_conditional(&common, &conditional)?;
            for_each_image(&images, &output, |path, image, decode| {
                classify(&classifier, path, image, decode, top, &output)
            })
        }
        Command::Embed {
            common,
            images,
            output,
        } => {
            let classifier = open(&common, Mode::default())?;
            for_each_image(&images, &output, |path, image, _| {
                embed(&classifier, path, image, &output)
            })
        }
        Command::Camera(args) => {
            let classifier = open_conditional(&args.common, &args.conditional)?;
            camera_command::run(&args, &classifier)
        }
        Command::Inspect {
            common,
            operators,
            json,
        } => inspect(&open(&common, Mode::default())?, operators, json),
        Command::Preprocess {
            bundle,
            image,
            out,
            exif_orientation,
        } => preprocess(&bundle, &image, &out, exif_orientation),
        Command::Classes { common, set, add } => classes(&common, set.as_deref(), &add),
        Command::Selftest { common } => selftest(&open(&common, Mode::default())?),
        Command::Bench(arguments) => bench::run(&arguments),
    }
}

/// Opens a bundle whose conditional head computes as the arguments say.
fn open_conditional(common: &Common, conditional: &Conditional) -> Result<Classifier> {
    let mode = match conditional.conditional {
        None | Some(ConditionalMode::Exact) => Mode::Exact,
        Some(ConditionalMode::Shortlist) => Mode::Shortlist,
        Some(ConditionalMode::Linear) => Mode::Linear,
        Some(ConditionalMode::Auto) => Mode::Auto(Duration::from_millis(conditional.budget_ms)),
    };
    let classifier = open(common, mode)?;
    if conditional.conditional.is_some() && classifier.manifest().conditional.is_none() {
        bail!(
            "--conditional: expected a bundle with a conditional head (CoCoOp), found {} with a static \
             one; leave the flag out",
            common.bundle.display()
        );
    }
    Ok(classifier)
}

fn open(common: &Common, mode: Mode) -> Result<Classifier> {
    let mut builder = Classifier::builder().conditional(mode);
    if let Some(threads) = common.threads {
        builder = builder.threads(threads);
    }
    builder.open(&common.bundle).map_err(with_flag)
}

/// The library's error in the command line's terms.
fn with_flag(error: pinhole::Error) -> anyhow::Error {
    match error {
        pinhole::Error::Threads { .. } => anyhow!("--{error}; leave it out to use all"),
        other => other.into(),
    }
}

/// Calls `f` for each image that can be read. One that cannot is an error line of its own, so that it
/// does not take the other answers with it, and makes the exit code 1.
fn for_each_image(
    paths: &[PathBuf],
    output: &Output,
    mut f: impl FnMut(&Path, &RgbImage, Duration) -> Result<()>,
) -> Result<ExitCode> {
    let options = DecodeOptions {
        apply_orientation: output.exif_orientation,
        ..Default::default()
    };
    let mut code = ExitCode::SUCCESS;
    for path in paths {
        let start = Instant::now();
        let result = match pinhole::open_image(path, &options) {
            Ok(image) => f(path, &image, start.elapsed()),
            Err(e) => Err(e.into()),
        };
        match result {
            Ok(()) => {}
            Err(e) if is_broken_pipe(&e) => return Err(e),
            Err(e) => {
                eprintln!("error: {e:#}");
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

#[derive(Serialize)]
struct ClassifyLine<'a> {
    image: String,
    top: Vec<TopClass<'a>>,
    unknown: bool,
    latency_ms: LatencyMs,
}

#[derive(Serialize)]
struct TopClass<'a> {
    class: &'a str,
    probability: f32,
    similarity: f32,
}

fn top_classes(ranking: &[Ranked], top: usize) -> Vec<TopClass<'_>> {
    (ranking.iter().take(top))
        .map(|c| TopClass {
            class: &c.name,
            probability: c.probability,
            similarity: c.similarity,
        })
        .collect()
}

#[derive(Serialize)]
struct LatencyMs {
    decode: f64,
    preprocess: f64,
    encode: f64,
    head: f64,
    total: f64,
}

impl LatencyMs {
    fn new(decode: Duration, latency: &Latency) -> Self {
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        Self {
            decode: ms(decode),
            preprocess: ms(latency.preprocess),
            encode: ms(latency.encode),
            head: ms(latency.head),
            total: ms(decode + latency.preprocess + latency.encode + latency.head),
        }
    }
}

fn classify(
    classifier: &Classifier,
    path: &Path,
    image: &RgbImage,
    decode: Duration,
    top: usize,
    output: &Output,
) -> Result<()> {
    let answer = classifier.classify(image)?;
    let latency_ms = LatencyMs::new(decode, &answer.latency);
    let mut out = std::io::stdout().lock();
    if output.json {
        let line = ClassifyLine {
            image: path.display().to_string(),
            top: top_classes(&answer.ranking, top),
            unknown: answer.unknown,
            latency_ms,
        };
        writeln!(out, "{}", serde_json::to_string(&line)?)?;
        return Ok(());
    }
    writeln!(out, "{}  ({:.1} ms)", path.display(), latency_ms.total)?;
    if answer.unknown {
        writeln!(out, "          unknown; the nearest classes:")?;
    }
    for class in answer.top(top) {
        writeln!(out, "  {:5.1} %  {}", 100.0 * class.probability, class.name)?;
    }
    Ok(())
}

fn embed(classifier: &Classifier, path: &Path, image: &RgbImage, output: &Output) -> Result<()> {
    let embedding = classifier.embed(image)?.values;
    let mut out = std::io::stdout().lock();
    if output.json {
        #[derive(Serialize)]
        struct EmbedLine {
            image: String,
            embedding: Vec<f32>,
        }
        let line = EmbedLine {
            image: path.display().to_string(),
            embedding,
        };
        writeln!(out, "{}", serde_json::to_string(&line)?)?;
    } else {
        let values: Vec<String> = embedding.iter().map(|v| v.to_string()).collect();
        writeln!(out, "{}\t{}", path.display(), values.join(" "))?;
    }
    Ok(())
}

fn inspect(classifier: &Classifier, operators: bool, json: bool) -> Result<ExitCode> {
    let manifest = classifier.manifest();
    let mut out = std::io::stdout().lock();
    if json {
        #[derive(Serialize)]
        struct Inspection<'a> {
            manifest: &'a Manifest,
            threads: usize,
            kernels: String,
            f16_arithmetic: bool,
            #[serde(skip_serializing_if = "Option::is_none")]
            operators: Option<Vec<pinhole::internal::NetworkOperator>>,
        }
        let inspection = Inspection {
            manifest,
            threads: classifier.threads(),
            kernels: classifier.kernels(),
            f16_arithmetic: classifier.f16_arithmetic(),
            operators: operators.then(|| classifier.operators()),
        };
        writeln!(out, "{}", serde_json::to_string(&inspection)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rule = &manifest.preprocessing;
    writeln!(
        out,
        "bundle         version {}, written by {}",
        manifest.version, manifest.created_by
    )?;
    writeln!(
        out,
        "model          {}, {} x {} pixels, embedding of {}",
        manifest.model.name,
        manifest.model.image_size,
        manifest.model.image_size,
        manifest.model.embedding_size
    )?;
    let arithmetic = match manifest.f16_arithmetic {
        _ if manifest.precision != Precision::F16 => "",
        _ if classifier.f16_arithmetic() => ", multiplied in f16",
        None => ", multiplied in f32: the export did not find f16 good enough, or did not try it",
        Some(_) => ", multiplied in f32: the kernels have nothing for f16",
    };
    writeln!(out, "precision      {}{arithmetic}", manifest.precision)?;
    writeln!(
        out,
        "preprocessing  {:?} side to {}, {:?}, crop {:?}",
        rule.resize, rule.size, rule.filter, rule.crop
    )?;
    writeln!(
        out,
        "logit scale    {}, temperature {}",
        manifest.logit_scale, manifest.temperature
    )?;
    match manifest.fidelity {
        Some(f) => writeln!(
            out,
            "fidelity       against f32 on {} images: cosine mean {:.6}, worst {:.6}; same best class {:.1} %",
            f.images,
            f.mean_cosine,
            f.worst_cosine,
            100.0 * f.top1_agreement
        )?,
        None => writeln!(out, "fidelity       the weights are as in the checkpoint")?,
    }
    if let Some(f) = manifest.f16_arithmetic {
        writeln!(
            out,
            "               multiplied in f16, on {} images: cosine mean {:.6}, worst {:.6}; same best class {:.1} %",
            f.images,
            f.mean_cosine,
            f.worst_cosine,
            100.0 * f.top1_agreement
        )?;
    }
    match &manifest.prompt_learner {
        Some(learner) => writeln!(
            out,
            "prompts        {} learned {}context vectors, class name at the {}",
            learner.n_ctx,
            if learner.class_specific {
                "class-specific "
            } else {
                ""
            },
            learner.class_position
        )?,
        None => writeln!(out, "prompts        {}", manifest.templates.join(" | "))?,
    }
    match &manifest.text_encoder {
        Some(text) => {
            write!(out, "text encoder   in {}", text.precision)?;
            match text.fidelity {
                Some(f) => writeln!(
                    out,
                    ": class embeddings against f32 on {} classes: cosine mean {:.6}, worst {:.6}",
                    f.classes, f.mean_cosine, f.worst_cosine
                )?,
                None => writeln!(out)?,
            }
        }
        None => writeln!(out, "text encoder   none: the classes are fixed")?,
    }
    match &manifest.conditional {
        Some(c) => {
            let mode = |a: &Agreement| {
                format!(
                    "same best class {:.1} %, logits off by {:.3} at most, {:.4} in the mean",
                    100.0 * a.top1,
                    a.largest_logit_difference,
                    a.mean_logit_difference
                )
            };
            writeln!(
                out,
                "head           conditional; fitted to {} images, compared with exact on {}:",
                c.fitted_images, c.compared_images
            )?;
            writeln!(out, "               linear: {}", mode(&c.linear))?;
            writeln!(
                out,
                "               shortlist of {}: {}",
                c.shortlist_length,
                mode(&c.shortlist)
            )?;
        }
        None => writeln!(out, "head           static")?,
    }
    match &manifest.calibration {
        Some(c) => writeln!(
            out,
            "calibration    on {} images, {:.1} % right: expected calibration error {:.1} %, before {:.1} %",
            c.images,
            100.0 * c.accuracy,
            100.0 * c.ece_after,
            100.0 * c.ece_before
        )?,
        None => writeln!(
            out,
            "calibration    none: the probabilities are not to be relied on"
        )?,
    }
    let policy = &manifest.unknown;
    let mut rules = vec![];
    if let Some(least) = policy.min_similarity {
        rules.push(format!("similarity below {least:.4}"));
    }
    if let Some(least) = policy.min_margin {
        rules.push(format!("margin below {least:.4}"));
    }
    if !policy.negatives.is_empty() {
        rules.push(format!("nearer to: {}", policy.negatives.join(" | ")));
    }
    if rules.is_empty() {
        rules.push("never: no threshold is set".into());
    }
    writeln!(out, "unknown        {}", rules.join(", or "))?;
    if let Some(c) = &manifest.calibration {
        let rejected = |share: Option<f32>, of: &str| {
            share.map_or(String::new(), |v| format!(", {:.1} % of {of}", 100.0 * v))
        };
        writeln!(
            out,
            "               says so of {:.1} % of the right answers{}{}",
            100.0 * (1.0 - c.kept),
            rejected(c.wrong_rejected, "the wrong ones"),
            rejected(c.strangers_rejected, "images of no class")
        )?;
    }
    writeln!(
        out,
        "kernels        {}, {} threads",
        classifier.kernels(),
        classifier.threads()
    )?;
    writeln!(out, "files")?;
    for file in &manifest.files {
        writeln!(out, "  {:>12}  {}", file.bytes, file.path)?;
    }
    writeln!(out, "classes        {}", manifest.classes.len())?;
    for class in &manifest.classes {
        writeln!(out, "  {class}")?;
    }
    if operators {
        writeln!(out, "operators")?;
        for o in classifier.operators() {
            writeln!(out, "  {:<34} {:<16} {}", o.operator, o.kernel, o.name)?;
        }
    }
    if !manifest.model_card.is_empty() {
        writeln!(out, "model card\n{}", manifest.model_card)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn preprocess(
    bundle: &Path,
    image: &Path,
    out: &Path,
    apply_orientation: bool,
) -> Result<ExitCode> {
    let bundle = pinhole::Bundle::open(bundle)?;
    let options = DecodeOptions {
        apply_orientation,
        ..Default::default()
    };
    let image = pinhole::open_image(image, &options)?;
    let pixels = pinhole::preprocess(&bundle.manifest().preprocessing, &image)?;
    let png = pixels.to_png()?;
    let mut file = std::fs::File::create_new(out)
        .with_context(|| format!("{}: cannot create the PNG file", out.display()))?;
    if let Err(e) = file.write_all(&png) {
        // Half a picture would be taken for a whole one.
        let _ = std::fs::remove_file(out);
        bail!("{}: cannot write: {e}", out.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn classes(common: &Common, set: Option<&Path>, add: &[String]) -> Result<ExitCode> {
    let old = pinhole::Bundle::open(&common.bundle)?;
    let mut names = old.manifest().classes.clone();
    let mut out = std::io::stdout().lock();
    let change = match set {
        Some(file) => Classes::read(file)?,
        None if add.is_empty() => {
            for name in names {
                writeln!(out, "{name}")?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        None => {
            names.extend_from_slice(add);
            Classes::new(names)?
        }
    };
    let threads = pinhole::thread_pool(common.threads).map_err(with_flag)?;
    let terminal = std::io::stderr().is_terminal();
    let mut progress = |done: usize, total: usize| {
        if terminal {
            eprint!("\r{done} of {total}");
        }
    };
    let manifest = threads.install(|| pinhole::set_classes(&common.bundle, &change, &mut progress));
    if terminal {
        eprintln!();
    }
    let manifest = manifest?;
    if old.manifest().calibration.is_some() {
        eprintln!(
            "note: the temperature and the thresholds for \"unknown\" were fitted to the old classes and \
             are reset"
        );
    }
    let (bundle, count) = (common.bundle.display(), manifest.classes.len());
    writeln!(out, "{bundle}: {count} classes")?;
    Ok(ExitCode::SUCCESS)
}

fn selftest(classifier: &Classifier) -> Result<ExitCode> {
    let result = classifier.self_test()?;
    let mut out = std::io::stdout().lock();
    for image in &result.images {
        let verdict = if image.cosine >= result.min_cosine {
            "ok"
        } else {
            "DIFFERS"
        };
        writeln!(
            out,
            "{:<8} cosine {:.7}  {}",
            verdict, image.cosine, image.file
        )?;
    }
    if !result.passed() {
        bail!(
            "self-test: expected cosines of at least {} with kernels {}; \
             PINHOLE_KERNELS=scalar tells whether a kernel is at fault",
            result.min_cosine,
            classifier.kernels()
        );
    }
    writeln!(
        out,
        "passed with kernels {}, {} threads",
        classifier.kernels(),
        classifier.threads()
    )?;
    Ok(ExitCode::SUCCESS)
}
