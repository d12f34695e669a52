//! `pinhole-train base-to-new`.

use std::{io::Write, path::PathBuf};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use pinhole_training::{
    base_to_new::{Protocol, Stage, run},
    comparison,
    prompt_learning::{Intervals, PromptOptions},
};

use crate::{
    evaluate_command::{DataArgs, ModelArgs, templates, test_set},
    prompt_command::Bar,
};

/// Arguments of `base-to-new`.
#[derive(Args)]
pub(crate) struct BaseToNewArgs {
    /// A CLIP checkpoint: a file, or a folder of any format that pinhole-checkpoint reads.
    #[arg(long)]
    clip: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: DataArgs,
    /// Images of each base class to learn from.
    #[arg(long, default_value_t = 16)]
    shots: usize,
    /// Number of seeds: 1, 2, and so on to this.
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// The methods that learn.
    #[arg(long, value_enum, num_args = 1.., default_values_t = [MethodArg::Coop, MethodArg::Cocoop])]
    methods: Vec<MethodArg>,
    /// Zero-shot text of a class, "{}" being its name; or the name of a set of texts, or a file of
    /// them. Several are an ensemble. By default "a photo of a {}."
    #[arg(long, num_args = 1..)]
    templates: Vec<String>,
    /// Words that the contexts start as: the protocol's authors have these for both methods.
    #[arg(long, default_value = "a photo of a")]
    words: String,
    /// Start CoOp from so many random vectors instead.
    #[arg(long)]
    n_ctx: Option<usize>,
    /// CoOp's passes over the images; by default 50 for one shot, 100 for two to four, 200 for more.
    #[arg(long)]
    coop_epochs: Option<u64>,
    /// CoCoOp's passes over the images.
    #[arg(long, default_value_t = 10)]
    cocoop_epochs: u64,
    /// Learning rate of both.
    #[arg(long, default_value_t = 0.002)]
    learning_rate: f64,
    /// Randomly cropped and mirrored views of each image to train on; 0 for the image as it is.
    #[arg(long, default_value_t = 0)]
    views: usize,
    /// Folder for the report and, below it, one for each method and seed.
    #[arg(long)]
    out: PathBuf,
    /// Keep the complete trainings in the output folder and continue the one that was interrupted.
    #[arg(long)]
    resume: bool,
    /// Print the report as one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum MethodArg {
    Coop,
    Cocoop,
}

pub(crate) fn base_to_new(args: &BaseToNewArgs) -> Result<()> {
    if !(1..=1000).contains(&args.seeds) {
        bail!("--seeds {}: expected 1 to 1000", args.seeds);
    }
    let Some(data) = &args.data.data else {
        bail!("expected --data");
    };
    let methods = args.methods.iter().map(|method| {
        let options = match method {
            MethodArg::Coop => {
                let defaults = PromptOptions::coop(args.shots, 1);
                PromptOptions {
                    words: args.n_ctx.is_none().then(|| args.words.clone()),
                    n_ctx: args.n_ctx.unwrap_or(defaults.n_ctx),
                    epochs: args.coop_epochs.unwrap_or(defaults.epochs),
                    ..defaults
                }
            }
            MethodArg::Cocoop => PromptOptions {
                words: Some(args.words.clone()),
                epochs: args.cocoop_epochs,
                ..PromptOptions::cocoop(1)
            },
        };
        PromptOptions {
            learning_rate: args.learning_rate,
            views: args.views,
            encoder: args.model.encoder.clone(),
            ..options
        }
    });
    let name = args.clip.canonicalize().unwrap_or(args.clip.clone());
    let name = name.file_name().unwrap_or(args.clip.as_os_str());
    let protocol = Protocol {
        model: name.to_string_lossy().into_owned(),
        shots: args.shots,
        seeds: (1..=args.seeds).collect(),
        templates: templates(&args.templates)?,
        methods: methods.collect(),
        intervals: Intervals::default(),
    };
    let clip = args.model.open(&args.clip)?;
    let data = args.data.open(data)?;
    let tests = test_set(&clip, &data, args.model.encoder.as_deref())?;
    let mut bar = Bar::default();
    let mut tell = |stage: Stage| match stage {
        Stage::Training(progress) => bar.show(progress),
        Stage::Learned {
            method,
            seed,
            before,
        } => {
            bar.finish();
            let how = if before { "kept" } else { "trained" };
            eprintln!("{method:?}, seed {seed}: {how}");
        }
    };
    let report = run(
        &clip,
        &data,
        &tests,
        &protocol,
        &args.out,
        args.resume,
        &mut tell,
    )?;
    let mut out = std::io::stdout().lock();
    if args.json {
        return Ok(writeln!(out, "{}", report.json())?);
    }
    write!(out, "{}", comparison::text(&report.summary()))?;
    writeln!(out, "wrote {}", args.out.join("report.md").display())?;
    Ok(())
}
