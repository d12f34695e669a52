//! `pinhole-train evaluate`.

use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use pinhole::Classifier;
use pinhole_checkpoint::{Checkpoint, OpenOptions, read_prompt_learner};
use pinhole_model::{Activation, ClassPosition, PromptLearner};
use pinhole_prompts::Templates;
use pinhole_training::{
    comparison::{self, Measured, Run},
    confusion,
    dataset::{Dataset, DatasetOptions, Part},
    evaluate::{TestSet, TextSide, evaluate_bundle},
    features::ImageEncoder,
    metrics::Evaluation,
};

/// Arguments of `evaluate`.
#[derive(Args)]
pub(crate) struct EvaluateArgs {
    /// A CLIP checkpoint (file or folder), or a bundle that pinhole-export wrote.
    #[arg(long, visible_alias = "clip")]
    model: PathBuf,
    #[command(flatten)]
    checkpoint: ModelArgs,
    /// Folder with one sub-folder of images per class, all of which are tested on.
    #[arg(long, required_unless_present = "data", conflicts_with = "data")]
    images: Option<PathBuf>,
    #[command(flatten)]
    data: DataArgs,
    /// What CoOp or CoCoOp learned: the reference's model.pth.tar-N or our safetensors. Several are
    /// seeds of one training; their mean and standard deviation are shown.
    #[arg(long, value_name = "FILE")]
    prompt_learner: Vec<PathBuf>,
    /// Where CoOp's prompts have the class name, for files that do not say it: end, middle or front.
    #[arg(long, requires = "prompt_learner")]
    class_position: Option<ClassPosition>,
    /// Which classes: all, base (the first half of the list, rounded up), new (the others), or
    /// base-to-new: base and new, each chosen from their own names, and their harmonic mean.
    #[arg(long, value_enum, default_value_t = PartArg::All)]
    part: PartArg,
    /// Zero-shot text of a class, "{}" being its name; or the name of a set of texts, or a file of
    /// them. Several are an ensemble. By default "a photo of a {}."
    #[arg(long, num_args = 1..)]
    templates: Vec<String>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Write the whole confusion table: a picture if the name ends in svg, JSON if it ends so, else
    /// CSV. It is that of the learned prompts where there are any, added up over the files. With
    /// base-to-new there are two, with -base and -new in their names.
    #[arg(long)]
    confusion: Option<PathBuf>,
}

/// How a checkpoint is read.
#[derive(Args)]
pub(crate) struct ModelArgs {
    /// Activation function of the checkpoint's MLPs, where no file says it: quickgelu or gelu.
    #[arg(long, value_parser = crate::prompt_command::activation)]
    activation: Option<Activation>,
    /// Bundle of the same model whose image encoder is used instead of the checkpoint's; needed for a
    /// ModifiedResNet.
    #[arg(long, value_name = "BUNDLE")]
    pub(crate) encoder: Option<PathBuf>,
}

impl ModelArgs {
    /// Opens a checkpoint, and says what had to be assumed.
    pub(crate) fn open(&self, path: &Path) -> Result<Checkpoint> {
        let options = OpenOptions {
            activation: self.activation,
        };
        let clip = Checkpoint::open(path, &options)?;
        for assumption in clip.assumptions() {
            eprintln!("{}: {assumption}", path.display());
        }
        Ok(clip)
    }
}

/// Labelled images.
#[derive(Args)]
pub(crate) struct DataArgs {
    /// "shapes" (the generated world), a folder with train/, val/ and test/ or with one sub-folder per
    /// class, or CoOp's split_zhou_*.json; the test part is tested on.
    #[arg(long)]
    pub(crate) data: Option<PathBuf>,
    /// Folder that the paths of a split_zhou_*.json are relative to; by default its own or one beside
    /// it.
    #[arg(long, requires = "data")]
    pub(crate) images_root: Option<PathBuf>,
    /// Decides which images of a folder without test/ are for tests.
    #[arg(long, requires = "data", default_value_t = 0)]
    pub(crate) split_seed: u64,
    /// File with the classes to choose from, one a line, in the order that decides which are base; by
    /// default those of the images.
    #[arg(long)]
    pub(crate) classes: Option<PathBuf>,
}

impl DataArgs {
    /// Opens the data set, and says what is to be known about it.
    pub(crate) fn open(&self, data: &Path) -> Result<Dataset> {
        let options = DatasetOptions {
            images_root: self.images_root.clone(),
            split_seed: self.split_seed,
        };
        let data = Dataset::open(data, &options)?;
        for note in &data.notes {
            eprintln!("{}: {note}", data.name);
        }
        self.relabel(data)
    }

    fn relabel(&self, data: Dataset) -> Result<Dataset> {
        match &self.classes {
            None => Ok(data),
            Some(path) => {
                let classes = pinhole_prompts::Classes::read(path)?;
                Ok(data.with_classes(classes.names().to_vec())?)
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PartArg {
    All,
    Base,
    New,
    BaseToNew,
}

impl PartArg {
    fn parts(self) -> &'static [Part] {
        match self {
            Self::All => &[Part::All],
            Self::Base => &[Part::Base],
            Self::New => &[Part::New],
            Self::BaseToNew => &[Part::Base, Part::New],
        }
    }
}

pub(crate) fn evaluate(args: &EvaluateArgs, threads: Option<usize>) -> Result<()> {
    if let Some(path) = &args.confusion
        && path.extension().is_some_and(|e| e == "png")
    {
        bail!(
            "{}: pictures are written as SVG: end the name in .svg",
            path.display()
        );
    }
    let data = match (&args.images, &args.data.data) {
        (Some(folder), _) => args.data.relabel(Dataset::all_to_test(folder)?)?,
        (None, Some(data)) => args.data.open(data)?,
        (None, None) => bail!("expected --images or --data"),
    };
    if args.model.join("manifest.json").is_file() {
        return bundle(args, data, threads);
    }
    let methods = methods(args, &data)?;
    write_confusion(&methods, args)?;
    print(&methods, &data.name, args)
}

fn methods(args: &EvaluateArgs, data: &Dataset) -> Result<Vec<Measured>> {
    let templates = templates(&args.templates)?;
    let learners = args.prompt_learner.iter().map(|path| {
        let learner = read_prompt_learner(path)?;
        Ok((file_name(path), learner))
    });
    let learners: Vec<(String, PromptLearner)> = learners.collect::<Result<_>>()?;
    let checkpoint = args.checkpoint.open(&args.model)?;
    let texts = TextSide::open(&checkpoint)?;
    let whole = test_set(&checkpoint, data, args.checkpoint.encoder.as_deref())?;
    let parts = args.part.parts().iter();
    let sets: BTreeMap<Part, TestSet> = parts
        .map(|part| Ok((*part, whole.part(*part)?)))
        .collect::<Result<_>>()?;

    let mut methods = vec![Measured {
        name: "zero-shot".into(),
        runs: vec![Run {
            name: "zero-shot".into(),
            outcomes: (sets.iter())
                .map(|(part, set)| Ok((*part, texts.zero_shot(set, &templates)?)))
                .collect::<Result<_>>()?,
        }],
    }];
    let bar = crate::progress((learners.len() * sets.len()) as u64);
    for (name, learner) in learners {
        let mut outcomes = BTreeMap::new();
        for (part, set) in &sets {
            // Class-specific contexts are those of the classes that they were learned for.
            if *part == Part::New && learner.class_specific().is_some() && sets.len() > 1 {
                eprintln!(
                    "{name}: its contexts are class-specific, there are none for new classes"
                );
                continue;
            }
            let outcome = texts.learned(set, &learner, args.class_position);
            outcomes.insert(*part, outcome.with_context(|| name.clone())?);
            bar.inc(1);
        }
        let method = match learner.meta_net {
            Some(_) => "CoCoOp",
            None => "CoOp",
        };
        let run = Run { name, outcomes };
        match methods.iter_mut().find(|known| known.name == method) {
            Some(known) => known.runs.push(run),
            None => methods.push(Measured {
                name: method.into(),
                runs: vec![run],
            }),
        }
    }
    bar.finish_and_clear();
    Ok(methods)
}

/// Embeds the test images, with the encoder of a bundle if there is one.
pub(crate) fn test_set(
    checkpoint: &Checkpoint,
    data: &Dataset,
    encoder: Option<&Path>,
) -> Result<TestSet> {
    let encoder = match encoder {
        Some(folder) => ImageEncoder::from_bundle(checkpoint, folder)?,
        None => ImageEncoder::open(checkpoint)?,
    };
    let bar = crate::progress(data.test.len() as u64);
    let set = TestSet::new(&encoder, data, &|images| bar.inc(images as u64))?;
    bar.finish_and_clear();
    Ok(set)
}

/// Templates, sets of them and files of them together; "a photo of a {}." of none.
pub(crate) fn templates(arguments: &[String]) -> Result<Templates> {
    let mut all = Vec::new();
    for argument in arguments {
        all.extend_from_slice(Templates::parse(argument)?.as_slice());
    }
    match all.is_empty() {
        true => Ok(Templates::default()),
        false => Ok(Templates::recorded(&all, "--templates")?),
    }
}

fn file_name(path: &Path) -> String {
    path.display().to_string()
}

fn bundle(args: &EvaluateArgs, data: Dataset, threads: Option<usize>) -> Result<()> {
    let own = args.data.classes.is_some()
        || !args.templates.is_empty()
        || !args.prompt_learner.is_empty()
        || args.part != PartArg::All;
    if own {
        bail!(
            "{} is a bundle, which has classes and texts of its own: leave --classes, --templates, \
             --prompt-learner and --part out",
            args.model.display()
        );
    }
    let mut builder = Classifier::builder();
    if let Some(threads) = threads {
        builder = builder.threads(threads);
    }
    let bundle = builder.open(&args.model)?;
    let data = data.with_classes(bundle.manifest().classes.clone())?;
    let methods = [Measured {
        name: "bundle".into(),
        runs: vec![Run {
            name: "bundle".into(),
            outcomes: [(Part::All, evaluate_bundle(&bundle, &data.test)?)].into(),
        }],
    }];
    write_confusion(&methods, args)?;
    print(&methods, &data.name, args)
}

fn write_confusion(methods: &[Measured], args: &EvaluateArgs) -> Result<()> {
    let (Some(path), Some(method)) = (&args.confusion, methods.last()) else {
        return Ok(());
    };
    let parts = args.part.parts();
    for part in parts {
        let Some(table) = method.table(*part) else {
            continue;
        };
        let path = match parts.len() {
            1 => path.clone(),
            _ => suffixed(path, *part),
        };
        write_table(&table, &path)?;
    }
    Ok(())
}

/// table.csv as table-base.csv.
fn suffixed(path: &Path, part: Part) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = match path.extension() {
        Some(extension) => format!("{stem}-{part}.{}", extension.to_string_lossy()),
        None => format!("{stem}-{part}"),
    };
    path.with_file_name(name)
}

fn write_table(table: &Evaluation, path: &Path) -> Result<()> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("svg") => confusion::draw(table, path)?,
        Some("json") => {
            let json = serde_json::to_string(table)?;
            pinhole_fs::write(path, json.as_bytes()).with_context(|| path.display().to_string())?;
        }
        _ => table.write_csv(path)?,
    }
    Ok(())
}

fn print(methods: &[Measured], data: &str, args: &EvaluateArgs) -> Result<()> {
    let parts = args.part.parts();
    if let ([method], [part]) = (methods, parts) {
        let outcome = method.runs.first().and_then(|run| run.outcomes.get(part));
        return print_one(outcome.context("nothing was measured")?, args.json);
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        let methods: Vec<_> = methods.iter().map(Measured::json).collect();
        let object = serde_json::json!({"data": data, "methods": methods});
        return Ok(writeln!(out, "{object}")?);
    }
    let summary = comparison::summary(methods, parts);
    write!(out, "{}", comparison::text(&summary))?;
    let seeds = methods.iter().map(|method| method.runs.len()).max();
    if seeds > Some(1) {
        writeln!(out, "\nby file:")?;
        for run in methods.iter().skip(1).flat_map(|method| &method.runs) {
            let accuracy = |part: &Part| {
                let accuracy = run.accuracy(*part)?;
                Some(format!("{part} {:.2}", 100.0 * accuracy))
            };
            let cells: Vec<String> = parts.iter().filter_map(accuracy).collect();
            writeln!(out, "{}: {}", run.name, cells.join(", "))?;
        }
    }
    for part in parts {
        writeln!(out, "\n{part} classes:")?;
        let lines = comparison::by_class(methods, *part);
        write!(out, "{}", comparison::text(&lines))?;
    }
    Ok(())
}

fn print_one(outcome: &pinhole_training::evaluate::Outcome, json: bool) -> Result<()> {
    let table = &outcome.table;
    let mut out = std::io::stdout().lock();
    if json {
        let mut object = outcome.json();
        object["confusions"] = serde_json::to_value(table.top_confusions(20))?;
        return Ok(writeln!(out, "{object}")?);
    }
    let percent = 100.0 * table.accuracy();
    let error = 100.0 * outcome.calibration_error;
    writeln!(
        out,
        "{percent:.2} % of {} images, calibration error {error:.2} %",
        table.images()
    )?;
    for (class, images, accuracy) in table.per_class() {
        writeln!(out, "{:6.2} %  {class} ({images})", 100.0 * accuracy)?;
    }
    let confusions = table.top_confusions(10);
    if !confusions.is_empty() {
        writeln!(out, "most frequent confusions:")?;
        for c in confusions {
            writeln!(out, "{:6}  {} taken for {}", c.images, c.class, c.taken_for)?;
        }
    }
    Ok(())
}
