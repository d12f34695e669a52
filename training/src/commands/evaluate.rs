//! `pinhole-train evaluate`.

use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use pinhole::internal::{PrintableWriter, UsageError};
use pinhole::{Classifier, note, wrong_usage};
use pinhole_checkpoint::{LearnedOptions, Method, check_method_options, read_learned};
use pinhole_model::{ClassPosition, Learned};
use pinhole_training::{
    comparison::{self, MethodResults, RunResult},
    confusion_plot::plot_confusion,
    counted,
    dataset::{ClassSubset, Dataset, all_to_test},
    evaluate::{Evaluation, PromptEvaluator, TestSet, evaluate_bundle},
    metrics::ConfusionMatrix,
    protocol::Adapted,
};

use super::common::{
    DataArgs, ModelArgs, any_case, notes, option_value, progress_bar, templates, test_set,
};

/// Arguments of `evaluate`.
#[derive(Args)]
#[command(
    after_help = "Example: pinhole-train evaluate --model my-clip/checkpoint --images photos \
                        --prompt-learner my-coop/prompt_learner.safetensors"
)]
pub(crate) struct EvaluateArgs {
    /// CLIP checkpoint (file, folder, or hf:ORG/NAME or hf:ORG/NAME@REVISION of the Hugging Face hub), or a bundle of
    /// pinhole-export
    #[arg(long, visible_alias = "clip")]
    model: PathBuf,
    #[command(flatten)]
    checkpoint: ModelArgs,
    /// Folder with one sub-folder of images per class, all of them test images
    #[arg(long, required_unless_present = "data", conflicts_with = "data")]
    images: Option<PathBuf>,
    /// Data set: "shapes" or "shapes-outline" (synthetic), a folder with train/, val/ and test/ or with one sub-folder per
    /// class, or CoOp's split_zhou_*.json. Its test images are used
    #[arg(long)]
    data: Option<PathBuf>,
    #[command(flatten)]
    reading: DataArgs,
    /// What a learned method saved: ours or a reference implementation's model.pth.tar-N, or the output folder of either
    /// (pinhole-export bundle --help lists the methods). Several are seeds of one training and are reported as mean and
    /// standard deviation
    #[arg(long, visible_alias = "prompt-learner", value_name = "FILE")]
    learned: Vec<PathBuf>,
    /// The method of --learned [default: recognised by the tensors]
    #[arg(long, requires = "learned", value_name = "NAME", value_parser = Method::find)]
    method: Option<&'static Method>,
    /// A number that the files of the method do not state, such as alpha=0.5 (pinhole-export bundle --help lists them). May be
    /// repeated
    #[arg(long = "method-option", requires = "learned", value_name = "NAME=VALUE", value_parser = option_value)]
    values: Vec<(String, f32)>,
    /// Position of the class name, for prompt learners that do not state it: end, middle or front
    #[arg(long, requires = "learned", value_parser = any_case::<ClassPosition>)]
    class_position: Option<ClassPosition>,
    /// Classes: all, base (the first half of the list, rounded up), new (the others), or base-to-new: base
    /// and new, each among its own classes, and their harmonic mean
    #[arg(long, value_enum, default_value_t = PartArg::All, ignore_case = true)]
    part: PartArg,
    /// Zero-shot prompt with "{}" for the class name; or the name of a set of prompts, or a file of them.
    /// Several are an ensemble [default: "a photo of a {}."]
    #[arg(long, num_args = 1..)]
    templates: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Write the confusion matrix as SVG, JSON or CSV, by the file name's extension: that of the learned
    /// prompts if there are any, summed over the files. With base-to-new, two files with -base and -new in
    /// their names
    #[arg(long)]
    confusion: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PartArg {
    All,
    Base,
    New,
    BaseToNew,
}

impl PartArg {
    fn subsets(self) -> &'static [ClassSubset] {
        match self {
            Self::All => &[ClassSubset::All],
            Self::Base => &[ClassSubset::Base],
            Self::New => &[ClassSubset::New],
            Self::BaseToNew => &[ClassSubset::Base, ClassSubset::New],
        }
    }
}

pub(crate) fn run(args: &EvaluateArgs, threads: Option<usize>) -> Result<()> {
    if let Some(method) = args.method {
        let checked = check_method_options(method, Path::new("--method-option"), &args.values);
        checked.map_err(UsageError::new)?;
    }
    if let Some(path) = &args.confusion
        && path.extension().is_some_and(|e| e == "png")
    {
        wrong_usage!(
            "--confusion {}: expected .svg, .json or .csv, found .png",
            path.display()
        );
    }
    let data = match (&args.images, &args.data) {
        (Some(folder), _) => {
            let data = all_to_test(folder, &args.reading.folder_names.read()?)?;
            notes(&data);
            args.reading.relabel(data)?
        }
        (None, Some(data)) => args.reading.open(data)?,
        (None, None) => wrong_usage!("expected --images or --data"),
    };
    let (name, results) = if args.model.join("manifest.json").is_file() {
        (data.name.clone(), bundle(args, data, threads)?)
    } else {
        (data.name.clone(), checkpoint(args, &data)?)
    };
    write_confusion(&results, args)?;
    print(&results, &name, args)
}

/// Evaluates a checkpoint with zero-shot and learned prompts.
fn checkpoint(args: &EvaluateArgs, data: &Dataset) -> Result<Vec<MethodResults>> {
    let templates = templates(&args.templates, data)?;
    let checkpoint = args.checkpoint.open(&args.model)?;
    let options = LearnedOptions {
        method: args.method,
        values: args.values.clone(),
        clip: Some(checkpoint.config().clone()),
    };
    let learners = args.learned.iter().map(|path| {
        let learned = read_learned(path, &options)?;
        for note in &learned.notes {
            note!("{note}");
        }
        Ok((path.display().to_string(), learned))
    });
    let learners: Vec<(String, Learned)> = learners.collect::<Result<_>>()?;
    let evaluator = PromptEvaluator::open(&checkpoint)?;
    let whole = test_set(&checkpoint, data, args.checkpoint.encoder.as_deref())?;
    let subsets = args.part.subsets().iter();
    let sets: BTreeMap<ClassSubset, TestSet> = subsets
        .map(|subset| Ok((*subset, whole.subset(*subset)?)))
        .collect::<Result<_>>()?;

    let zero_shot = sets
        .iter()
        .map(|(subset, set)| Ok((*subset, evaluator.zero_shot(set, &templates)?)));
    let mut results = vec![MethodResults::single(
        "zero-shot",
        zero_shot.collect::<Result<_>>()?,
    )];
    let bar = progress_bar((learners.len() * sets.len()) as u64);
    for (name, learned) in learners {
        let mut evaluations = BTreeMap::new();
        let encoder = args.checkpoint.encoder.as_deref();
        let changed = Adapted::new(&checkpoint, &learned, data, encoder, &|_| {});
        let changed = changed.with_context(|| name.clone())?;
        for (subset, set) in &sets {
            if *subset == ClassSubset::New && learned.is_class_specific() {
                let method = learned.method;
                if sets.len() > 1 {
                    note!("{name}: {method} of the base classes cannot be tested on new classes");
                    continue;
                }
                if learned.trained_classes.is_empty() {
                    note!(
                        "{name}: {method} is taken to have learned the new classes, in their order"
                    );
                }
            }
            let position = args.class_position;
            let evaluation = match &changed {
                None => evaluator.imported(set, &learned, position, &templates),
                Some(changed) => {
                    let set = changed.tests.subset(*subset)?;
                    (changed.evaluator).imported(&set, &learned, position, &templates)
                }
            };
            evaluations.insert(*subset, evaluation.with_context(|| name.clone())?);
            bar.inc(1);
        }
        let method = learned.method;
        let run = RunResult { name, evaluations };
        match results.iter_mut().find(|known| known.name == method) {
            Some(known) => known.runs.push(run),
            None => results.push(MethodResults {
                name: method.into(),
                runs: vec![run],
            }),
        }
    }
    bar.finish_and_clear();
    Ok(results)
}

/// Evaluates a bundle.
fn bundle(
    args: &EvaluateArgs,
    data: Dataset,
    threads: Option<usize>,
) -> Result<Vec<MethodResults>> {
    let conflict = args.reading.classes.is_some()
        || !args.templates.is_empty()
        || !args.learned.is_empty()
        || args.part != PartArg::All;
    if conflict {
        wrong_usage!(
            "{} is a bundle, which has its own classes and prompts: remove --classes, --templates, \
             --learned and --part",
            args.model.display()
        );
    }
    let mut builder = Classifier::builder();
    if let Some(threads) = threads {
        builder = builder.threads(threads);
    }
    let bundle = builder.open(&args.model)?;
    let data = data.with_classes(bundle.manifest().classes.clone())?;
    let evaluation = evaluate_bundle(&bundle, &data.test)?;
    Ok(vec![MethodResults::single(
        "bundle",
        [(ClassSubset::All, evaluation)].into(),
    )])
}

fn write_confusion(results: &[MethodResults], args: &EvaluateArgs) -> Result<()> {
    let (Some(path), Some(method)) = (&args.confusion, results.last()) else {
        return Ok(());
    };
    let subsets = args.part.subsets();
    for subset in subsets {
        let Some(matrix) = method.confusion(*subset) else {
            continue;
        };
        let path = match subsets.len() {
            1 => path.clone(),
            _ => suffixed(path, *subset),
        };
        write_matrix(&matrix, &path)?;
    }
    Ok(())
}

/// table.csv as table-base.csv.
fn suffixed(path: &Path, subset: ClassSubset) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = match path.extension() {
        Some(extension) => format!("{stem}-{subset}.{}", extension.to_string_lossy()),
        None => format!("{stem}-{subset}"),
    };
    path.with_file_name(name)
}

fn write_matrix(matrix: &ConfusionMatrix, path: &Path) -> Result<()> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("svg") => plot_confusion(matrix, path)?,
        Some("json") => {
            let json = serde_json::to_string(matrix)?;
            pinhole_fs::write(path, json.as_bytes()).with_context(|| path.display().to_string())?;
        }
        _ => matrix.write_csv(path)?,
    }
    Ok(())
}

fn print(results: &[MethodResults], data: &str, args: &EvaluateArgs) -> Result<()> {
    let subsets = args.part.subsets();
    if let ([method], [subset]) = (results, subsets) {
        let run = method.runs.first();
        let evaluation = run.and_then(|run| run.evaluations.get(subset));
        let evaluation = evaluation.context("nothing was evaluated")?;
        return if args.json {
            print_json(evaluation)
        } else {
            print_text(evaluation)
        };
    }
    let mut out = PrintableWriter(std::io::stdout().lock());
    if args.json {
        let methods: Vec<_> = results.iter().map(MethodResults::json).collect();
        let object = serde_json::json!({"data": data, "methods": methods});
        return Ok(writeln!(out.0, "{object}")?);
    }
    let summary = comparison::summary(results, subsets);
    write!(out, "{}", comparison::text(&summary))?;
    let runs = results.iter().map(|method| method.runs.len()).max();
    if runs > Some(1) {
        writeln!(out, "\nby file:")?;
        for run in results.iter().skip(1).flat_map(|method| &method.runs) {
            let accuracy = |subset: &ClassSubset| {
                let accuracy = run.accuracy(*subset)?;
                Some(format!("{subset} {:.2}", 100.0 * accuracy))
            };
            let cells: Vec<String> = subsets.iter().filter_map(accuracy).collect();
            writeln!(out, "{}: {}", run.name, cells.join(", "))?;
        }
    }
    for subset in subsets {
        writeln!(out, "\n{subset} classes:")?;
        let rows = comparison::by_class(results, *subset);
        write!(out, "{}", comparison::text(&rows))?;
    }
    Ok(())
}

fn print_json(evaluation: &Evaluation) -> Result<()> {
    let mut object = evaluation.json();
    object["confusions"] = serde_json::to_value(evaluation.confusion.top_confusions(20))?;
    Ok(writeln!(std::io::stdout(), "{object}")?)
}

fn print_text(evaluation: &Evaluation) -> Result<()> {
    let matrix = &evaluation.confusion;
    let mut out = PrintableWriter(std::io::stdout().lock());
    let percent = 100.0 * matrix.accuracy();
    let error = 100.0 * evaluation.calibration_error;
    writeln!(
        out,
        "{percent:.2} % of {}, calibration error {error:.2} %",
        counted(matrix.images(), "image")
    )?;
    for class in matrix.per_class() {
        let (name, images) = (&class.class, class.images);
        writeln!(out, "{:6.2} %  {name} ({images})", 100.0 * class.accuracy)?;
    }
    let confusions = matrix.top_confusions(10);
    if !confusions.is_empty() {
        writeln!(out, "most frequent confusions:")?;
        for c in confusions {
            writeln!(
                out,
                "{:6}  {} classified as {}",
                c.images, c.class, c.predicted
            )?;
        }
    }
    Ok(())
}
