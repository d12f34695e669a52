//! One command for each adaptation method, such as `pinhole-train linear`.

use std::{fs, io::Write, path::PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Command};
use pinhole::internal::PrintableWriter;
use pinhole::note;
use pinhole_checkpoint::write_learned;
use pinhole_model::LearnedClasses;
use pinhole_training::{
    adaptation::{Adapter, AdapterOptions, Examples, LEARNED_FILE, Task},
    counted,
    dataset::{ClassSubset, LabelledImage},
    evaluate::PromptEvaluator,
    image_encoder::ImageEncoder,
    prompt_learning::TrainingEvent,
};

use super::common::{DataArgs, ModelArgs, TrainingBar, option_value, templates};

/// Arguments of a method's command.
#[derive(Args)]
pub(crate) struct AdaptArgs {
    /// CLIP checkpoint: a file or folder of any format that pinhole-export reads, or a model of the Hugging Face hub, hf:ORG/NAME
    /// or hf:ORG/NAME@REVISION, which is downloaded once (HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE apply)
    #[arg(long)]
    clip: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
    /// Data set: "shapes" or "shapes-outline" (synthetic), a folder with one sub-folder per class, or a split_zhou_*.json
    #[arg(long)]
    data: PathBuf,
    #[command(flatten)]
    reading: DataArgs,
    /// Learn the first half of the classes only: the base classes of the base-to-new protocol
    #[arg(long)]
    base: bool,
    /// Training images per class. Up to 4 others of each choose the options that are not given
    #[arg(long, default_value_t = 16)]
    shots: usize,
    /// Seed that selects the images, their order and initial values
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Zero-shot prompt with "{}" for the class name, from which the method starts; or the name of a set of prompts, or a file
    /// of them. Several are an ensemble [default: "a photo of a {}."]
    #[arg(long, num_args = 1..)]
    templates: Vec<String>,
    /// An option of the method, listed below. May be repeated
    #[arg(long = "method-option", value_name = "NAME=VALUE", value_parser = option_value)]
    values: Vec<(String, f32)>,
    /// Output folder for learned.safetensors, which pinhole-export bundle --learned and pinhole-train evaluate take
    #[arg(long)]
    out: PathBuf,
}

/// A method's command, with its options in the help.
pub(super) fn command(adapter: &Adapter) -> Command {
    let key = adapter.key;
    let mut help = String::from("Method options:\n");
    for option in adapter.options {
        let default = option.default.map(|value| format!(" [default: {value}]"));
        let default = default.unwrap_or_default();
        help += &format!("  {}=VALUE: {}{default}\n", option.name, option.help);
    }
    AdaptArgs::augment_args(Command::new(key))
        .about(adapter.about)
        .after_help(format!(
            "{help}\nExample: pinhole-train {key} --clip my-clip/checkpoint --data shapes-outline --out my-{key}"
        ))
}

pub(super) fn run(adapter: &'static Adapter, args: &AdaptArgs) -> Result<()> {
    let options = AdapterOptions {
        adapter,
        values: args.values.clone(),
    };
    options.check()?;
    let file = args.out.join(LEARNED_FILE);
    if file.exists() {
        bail!("{}: already exists; choose another --out", file.display());
    }
    let clip = args.model.open(&args.clip)?;
    let mut dataset = args.reading.open(&args.data)?;
    if args.base {
        dataset = dataset.subset(ClassSubset::Base);
    }
    let templates = templates(&args.templates, &dataset)?;
    let images = dataset.few_shot(args.shots, args.seed)?;
    let validation = dataset.few_shot_validation(args.shots, args.seed);
    let class_embeddings =
        PromptEvaluator::open(&clip)?.class_embeddings(&dataset.classes, &templates)?;
    let encoder = match args.model.encoder.as_deref() {
        Some(folder) => ImageEncoder::from_bundle(&clip, folder)?,
        None => ImageEncoder::open(&clip)?,
    };
    note!(
        "{}: {} of {}, {}",
        dataset.name,
        counted(images.len() as u64, "image"),
        counted(dataset.classes.len() as u64, "class"),
        counted(validation.len() as u64, "validation image")
    );
    let embed = |images: &[LabelledImage]| -> Result<Examples> {
        Ok(Examples {
            labels: images.iter().map(|image| image.label).collect(),
            embeddings: encoder.embed(images, &|_| {})?,
        })
    };
    let task = Task {
        clip: &clip,
        images: &images,
        examples: embed(&images)?,
        validation: embed(&validation)?,
        class_embeddings,
        classes: &dataset.classes,
        logit_scale: clip.logit_scale(),
        seed: args.seed,
    };
    let mut bar = TrainingBar::default();
    let learned = options.train(&task, &mut |event: TrainingEvent| bar.show(event))?;
    bar.finish();
    if let LearnedClasses::Cache(cache) = &learned.classes {
        let numbers = [("alpha", cache.alpha), ("beta", cache.beta)];
        for (name, value) in numbers {
            note!("{name} {}", value.unwrap_or(f32::NAN));
        }
    }
    fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    write_learned(&file, &learned)?;
    writeln!(
        PrintableWriter(std::io::stdout()),
        "wrote {}",
        file.display()
    )
    .context("stdout")?;
    Ok(())
}
