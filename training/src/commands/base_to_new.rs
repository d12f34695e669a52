//! `pinhole-train base-to-new`.

use std::{io::Write, path::PathBuf};

use anyhow::{Result, bail};
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, value_parser};
use pinhole::internal::PrintableWriter;
use pinhole::note;
use pinhole_training::{
    base_to_new::{BaseToNewEvent, BaseToNewOptions, run as run_protocol},
    comparison,
    prompt_learning::{Intervals, Method, PromptOptions},
};

use super::common::{DataArgs, ModelArgs, TrainingBar, start, templates, test_set};

/// Arguments of `base-to-new`.
#[derive(Args)]
#[command(
    after_help = "Example: pinhole-train base-to-new --clip my-clip/checkpoint --data shapes --out report"
)]
pub(crate) struct BaseToNewArgs {
    /// CLIP checkpoint: a file or folder of any format that pinhole-export reads
    #[arg(long)]
    clip: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: DataArgs,
    /// Training images per base class
    #[arg(long, default_value_t = 16)]
    shots: usize,
    /// Number of seeds; the seeds are 1, 2 and so on
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// Methods to train
    #[arg(long, num_args = 1.., value_parser = method_names(), ignore_case = true, default_values = keys())]
    methods: Vec<String>,
    /// Zero-shot prompt with "{}" for the class name; or the name of a set of prompts, or a file of them.
    /// Several are an ensemble [default: "a photo of a {}."]
    #[arg(long, num_args = 1..)]
    templates: Vec<String>,
    /// Words whose token embeddings are the initial context vectors of all methods, as in the protocol's
    /// paper
    #[arg(long, default_value = "a photo of a")]
    words: String,
    /// Number of context vectors with random initial values, instead of --words; only for CoOp
    #[arg(long)]
    n_ctx: Option<usize>,
    #[command(flatten)]
    epochs: MethodEpochs,
    /// Learning rate of all methods
    #[arg(long, default_value_t = 0.002)]
    learning_rate: f64,
    /// Randomly cropped and mirrored views of each training image; 0 for the unaugmented image
    #[arg(long, default_value_t = 0)]
    views: usize,
    /// Output folder for the report, with a sub-folder for each method and seed
    #[arg(long)]
    out: PathBuf,
    /// Keep finished trainings in the output folder and continue the one that was interrupted
    #[arg(long)]
    resume: bool,
    /// Print the report as one JSON object
    #[arg(long)]
    json: bool,
}

fn keys() -> Vec<&'static str> {
    Method::all().iter().map(|method| method.key()).collect()
}

fn method_names() -> clap::builder::PossibleValuesParser {
    clap::builder::PossibleValuesParser::new(keys())
}

/// An option for each method's epochs, such as `--coop-epochs`.
struct MethodEpochs(Vec<(Method, Option<u64>)>);

impl MethodEpochs {
    fn of(&self, method: Method) -> Option<u64> {
        let found = self.0.iter().find(|(known, _)| *known == method);
        found.and_then(|(_, epochs)| *epochs)
    }
}

impl Args for MethodEpochs {
    fn augment_args(command: Command) -> Command {
        let args = Method::all().iter().map(|method| {
            let name = method.name();
            Arg::new(method.epochs_flag())
                .long(method.epochs_flag())
                .value_parser(value_parser!(u64))
                .help(format!(
                    "{name}'s passes over the images [default: that of pinhole-train {}]",
                    method.key()
                ))
        });
        command.args(args)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for MethodEpochs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let epochs = Method::all().iter().map(|method| {
            let epochs = matches.get_one::<u64>(method.epochs_flag());
            (*method, epochs.copied())
        });
        Ok(Self(epochs.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn options(method: Method, args: &BaseToNewArgs) -> PromptOptions {
    let defaults = PromptOptions::new(method, args.shots, 1);
    // --n-ctx is for methods whose context is random by default.
    let random = args.n_ctx.filter(|_| defaults.words.is_none());
    PromptOptions {
        words: random.is_none().then(|| args.words.clone()),
        n_ctx: random.unwrap_or(defaults.n_ctx),
        epochs: args.epochs.of(method).unwrap_or(defaults.epochs),
        learning_rate: args.learning_rate,
        views: args.views,
        encoder: args.model.encoder.clone(),
        ..defaults
    }
}

pub(crate) fn run(args: &BaseToNewArgs) -> Result<()> {
    if !(1..=1000).contains(&args.seeds) {
        bail!("--seeds {}: expected 1 to 1000", args.seeds);
    }
    let Some(data) = &args.data.data else {
        bail!("expected --data");
    };
    let data = args.data.open(data)?;
    let methods = (args.methods.iter()).filter_map(|key| Method::by_key(&key.to_lowercase()));
    let name = args.clip.canonicalize().unwrap_or(args.clip.clone());
    let name = name.file_name().unwrap_or(args.clip.as_os_str());
    let options = BaseToNewOptions {
        model: name.to_string_lossy().into_owned(),
        shots: args.shots,
        seeds: (1..=args.seeds).collect(),
        templates: templates(&args.templates, &data)?,
        methods: methods.map(|method| options(method, args)).collect(),
        intervals: Intervals::default(),
    };
    let clip = args.model.open(&args.clip)?;
    let tests = test_set(&clip, &data, args.model.encoder.as_deref())?;
    let mut bar = TrainingBar::default();
    let mut progress = |event: BaseToNewEvent| {
        let (method, seed, outcome) = match event {
            BaseToNewEvent::Training(event) => return bar.show(event),
            BaseToNewEvent::Trained { method, seed } => (method, seed, "trained"),
            BaseToNewEvent::Kept { method, seed } => (method, seed, "kept"),
        };
        bar.finish();
        note!("{}, seed {seed}: {outcome}", method.name());
    };
    let report = run_protocol(
        &clip,
        &data,
        &tests,
        &options,
        &args.out,
        start(args.resume),
        &mut progress,
    )?;
    if args.json {
        return Ok(writeln!(std::io::stdout(), "{}", report.json())?);
    }
    let mut out = PrintableWriter(std::io::stdout().lock());
    write!(out, "{}", comparison::text(&report.summary()))?;
    writeln!(out, "wrote {}", args.out.join("report.md").display())?;
    Ok(())
}
