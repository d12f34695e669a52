//! Arguments and output of the few-shot protocols, `pinhole-train few-shot` and `base-to-new`.

use std::{io::Write, path::PathBuf};

use anyhow::Result;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, value_parser};
use pinhole::{internal::PrintableWriter, note, wrong_usage};
use pinhole_checkpoint::Checkpoint;
use pinhole_training::{
    adaptation::{Adapter, AdapterOptions},
    comparison,
    dataset::Dataset,
    evaluate::TestSet,
    prompt_learning::{Intervals, Method, PromptOptions, Start},
    protocol::{Materials, MethodOptions, ProtocolEvent},
};

use super::common::{DataArgs, ModelArgs, TrainingBar, option_value, start, templates, test_set};

/// Arguments of both protocols.
#[derive(Args)]
pub(crate) struct ProtocolArgs {
    /// CLIP checkpoint: a file or folder of any format that pinhole-export reads, or a model of the Hugging Face hub, hf:ORG/NAME
    /// or hf:ORG/NAME@REVISION, which is downloaded once (HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE apply)
    #[arg(long)]
    clip: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
    /// Data set: "shapes" or "shapes-outline" (synthetic), a folder with train/, val/ and test/ or with one sub-folder per
    /// class, or CoOp's split_zhou_*.json
    #[arg(long)]
    data: PathBuf,
    #[command(flatten)]
    reading: DataArgs,
    /// Number of seeds; the seeds are 1, 2 and so on
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// Methods to train, separated by commas or spaces
    #[arg(
        long,
        num_args = 1..,
        value_delimiter = ',',
        value_parser = method_names(),
        ignore_case = true
    )]
    methods: Vec<String>,
    /// An option of a method, such as tip-adapter-f.epochs=50; "pinhole-train METHOD --help" lists them. May be repeated
    #[arg(long = "method-option", value_name = "METHOD.NAME=VALUE", value_parser = method_option)]
    values: Vec<(&'static Adapter, String, f32)>,
    /// Zero-shot prompt with "{}" for the class name; or the name of a set of prompts, or a file of them.
    /// Several are an ensemble [default: "a photo of a {}."]
    #[arg(long, num_args = 1..)]
    templates: Vec<String>,
    /// Words whose token embeddings are the initial context vectors of all prompt-learning methods, as in the protocol's
    /// paper
    #[arg(long, default_value = "a photo of a")]
    words: String,
    /// Number of context vectors with random initial values, instead of --words; only for CoOp
    #[arg(long)]
    n_ctx: Option<usize>,
    #[command(flatten)]
    epochs: MethodEpochs,
    /// Learning rate of all prompt-learning methods
    #[arg(long, default_value_t = 0.002)]
    learning_rate: f64,
    /// Randomly cropped and mirrored views of each training image for prompt-learning methods; 0 for the unaugmented
    /// image
    #[arg(long, default_value_t = 0)]
    views: usize,
    /// Output folder for the report, with a sub-folder for each method
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Keep finished trainings in the output folder and continue the one that was interrupted
    #[arg(long)]
    resume: bool,
    /// Print the report as one JSON object
    #[arg(long)]
    json: bool,
}

/// The names of all methods.
pub(crate) fn keys() -> Vec<&'static str> {
    let prompts = Method::all().iter().map(|method| method.key());
    let adapters = Adapter::all().iter().map(|adapter| adapter.key);
    prompts.chain(adapters).collect()
}

fn method_names() -> clap::builder::PossibleValuesParser {
    clap::builder::PossibleValuesParser::new(keys())
}

fn method_option(text: &str) -> Result<(&'static Adapter, String, f32), String> {
    let known: Vec<&str> = Adapter::all().iter().map(|adapter| adapter.key).collect();
    let adapter = text
        .split_once('.')
        .and_then(|(method, option)| Some((Adapter::by_key(&method.to_lowercase())?, option)));
    let (adapter, option) = adapter.ok_or_else(|| {
        format!(
            "expected METHOD.NAME=VALUE with one of {} as METHOD",
            known.join(", ")
        )
    })?;
    let (name, value) = option_value(option)?;
    Ok((adapter, name, value))
}

/// An option for each prompt-learning method's epochs, such as `--coop-epochs`.
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

/// What a protocol is run on, opened.
pub(crate) struct Opened {
    clip: Checkpoint,
    data: Dataset,
    tests: TestSet,
    templates: pinhole_prompts::Templates,
    encoder: Option<PathBuf>,
}

impl Opened {
    pub(crate) fn materials(&self) -> Materials<'_> {
        Materials {
            clip: &self.clip,
            data: &self.data,
            tests: &self.tests,
            encoder: self.encoder.clone(),
            templates: self.templates.clone(),
            intervals: Intervals::default(),
        }
    }
}

impl ProtocolArgs {
    /// Opens data set and CLIP, and embeds the test images.
    pub(crate) fn open(&self) -> Result<Opened> {
        if !(1..=1000).contains(&self.seeds) {
            wrong_usage!("--seeds {}: expected 1 to 1000", self.seeds);
        }
        let chosen = |adapter: &Adapter| {
            self.methods.is_empty()
                || self
                    .methods
                    .iter()
                    .any(|m| m.eq_ignore_ascii_case(adapter.key))
        };
        if let Some((adapter, name, _)) = self.values.iter().find(|(of, ..)| !chosen(of)) {
            wrong_usage!(
                "--method-option {}.{name}: expected a method of --methods, found another; add it there, or leave the option out",
                adapter.key
            );
        }
        let data = self.reading.open(&self.data)?;
        let templates = templates(&self.templates, &data)?;
        let clip = self.model.open(&self.clip)?;
        let tests = test_set(&clip, &data, self.model.encoder.as_deref())?;
        Ok(Opened {
            clip,
            data,
            tests,
            templates,
            encoder: self.model.encoder.clone(),
        })
    }

    /// Prints a report, and where it is.
    pub(crate) fn print(&self, json: &serde_json::Value, summary: &[Vec<String>]) -> Result<()> {
        let mut stdout = PrintableWriter(std::io::stdout().lock());
        if self.json {
            return Ok(writeln!(stdout.0, "{json}")?);
        }
        write!(stdout, "{}", comparison::text(summary))?;
        writeln!(stdout, "wrote {}", self.out.join("report.md").display())?;
        Ok(())
    }

    pub(crate) fn seeds(&self) -> Vec<u64> {
        (1..=self.seeds).collect()
    }

    pub(crate) fn start(&self) -> Start {
        start(self.resume)
    }

    /// Name of the model, for the report.
    pub(crate) fn model_name(&self) -> String {
        if pinhole_hub::is_model(&self.clip) {
            return self.clip.display().to_string();
        }
        let name = self.clip.canonicalize().unwrap_or(self.clip.clone());
        let name = name.file_name().unwrap_or(self.clip.as_os_str());
        name.to_string_lossy().into_owned()
    }

    /// The methods with their options for a number of shots; without `--methods` those of `defaults` that `--encoder` allows.
    pub(crate) fn methods(&self, shots: usize, defaults: &[&str]) -> Vec<MethodOptions> {
        let keys: Vec<String> = match self.methods.as_slice() {
            [] => {
                let changes =
                    |key: &str| Adapter::by_key(key).is_some_and(|a| a.changes_image_encoder);
                let allowed = |key: &&&str| self.model.encoder.is_none() || !changes(key);
                let keys = defaults.iter().filter(allowed);
                keys.map(|key| (*key).to_owned()).collect()
            }
            given => given.iter().map(|key| key.to_lowercase()).collect(),
        };
        let methods = keys.iter().filter_map(|key| {
            let prompts = || Some(self.prompt_options(Method::by_key(key)?, shots));
            let adapter = || Some(self.adapter_options(Adapter::by_key(key)?));
            prompts().or_else(adapter)
        });
        methods.collect()
    }

    fn prompt_options(&self, method: Method, shots: usize) -> MethodOptions {
        let defaults = PromptOptions::new(method, shots, 1);
        // --n-ctx is for methods whose context is random by default.
        let random = self.n_ctx.filter(|_| defaults.words.is_none());
        MethodOptions::Prompts(Box::new(PromptOptions {
            words: random.is_none().then(|| self.words.clone()),
            n_ctx: random.unwrap_or(defaults.n_ctx),
            epochs: self.epochs.of(method).unwrap_or(defaults.epochs),
            learning_rate: self.learning_rate,
            views: self.views,
            encoder: self.model.encoder.clone(),
            ..defaults
        }))
    }

    fn adapter_options(&self, adapter: &'static Adapter) -> MethodOptions {
        let own = self.values.iter().filter(|(of, ..)| of.key == adapter.key);
        let values = own.map(|(_, name, value)| (name.clone(), *value)).collect();
        MethodOptions::Adapter(AdapterOptions { adapter, values })
    }
}

/// Shows a protocol's progress.
pub(crate) fn show() -> impl FnMut(ProtocolEvent) {
    let mut bar = TrainingBar::default();
    move |event| {
        let (method, run, outcome) = match event {
            ProtocolEvent::Training(event) => return bar.show(event),
            ProtocolEvent::Trained { method, run } => (method, run, "trained"),
            ProtocolEvent::Kept { method, run } => (method, run, "kept"),
        };
        bar.finish();
        note!("{method}, {run}: {outcome}");
    }
}
