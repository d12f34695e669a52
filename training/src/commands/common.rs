//! Arguments and output that several commands share.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pinhole::{internal::text_error, note};
use pinhole_checkpoint::{Checkpoint, Heads, OpenOptions};
use pinhole_model::{Activation, TextForm};
use pinhole_prompts::{Classes, FolderNames, Templates};
use pinhole_training::{
    dataset::{self, Dataset, DatasetOptions},
    evaluate::TestSet,
    image_encoder::ImageEncoder,
    prompt_learning::{Start, TrainingEvent},
};

/// A value whose name is in lower case, in any case.
pub(crate) fn any_case<T: FromStr>(text: &str) -> Result<T, T::Err> {
    text.to_lowercase().parse()
}

/// An option of a method: NAME=VALUE.
pub(crate) fn option_value(text: &str) -> Result<(String, f32), String> {
    let expected = || format!("expected NAME=VALUE with a number, found {text:?}");
    let (name, value) = text.split_once('=').ok_or_else(expected)?;
    let value: f32 = value.trim().parse().map_err(|_| expected())?;
    match value.is_finite() {
        true => Ok((name.trim().to_owned(), value)),
        false => Err(expected()),
    }
}

/// How a checkpoint is read.
#[derive(Args)]
pub(crate) struct ModelArgs {
    /// Activation function of the checkpoint's MLPs, if its files do not state it: quickgelu or gelu
    #[arg(long, value_parser = any_case::<Activation>)]
    activation: Option<Activation>,
    /// Attention heads of the checkpoint's image encoder, or of image and text encoder, if its files do not state them
    /// and they are not one per 64 of width
    #[arg(long, value_name = "IMAGE[,TEXT]")]
    heads: Option<Heads>,
    /// Bundle of the same model whose image encoder is used instead of the checkpoint's; required for a
    /// ModifiedResNet
    #[arg(long, value_name = "BUNDLE")]
    pub(crate) encoder: Option<PathBuf>,
}

impl ModelArgs {
    /// Opens a checkpoint and reports assumptions about it.
    pub(crate) fn open(&self, path: &Path) -> Result<Checkpoint> {
        let options = OpenOptions {
            activation: self.activation,
            heads: self.heads.unwrap_or_default(),
        };
        let clip = Checkpoint::open(&pinhole_hub::local_path(path)?, &options)?;
        ensure!(
            clip.config().text.form == TextForm::Clip,
            "{}: expected a CLIP model, found a SigLIP or MobileCLIP, whose text encoder without a causal mask is not \
             implemented for training and evaluation; pinhole-export takes it",
            path.display()
        );
        for assumption in clip.assumptions() {
            note!("{}: {assumption}", path.display());
        }
        Ok(clip)
    }
}

/// `--folder-names`.
#[derive(Args)]
pub(crate) struct FolderNamesArg {
    /// File with a line per folder of images that is not named after its class: folder, space, class name,
    /// such as "n01440764 tench"
    #[arg(long, value_name = "FILE")]
    folder_names: Option<PathBuf>,
}

impl FolderNamesArg {
    /// The file's names; none without the flag.
    pub(crate) fn read(&self) -> Result<FolderNames> {
        let names = self.folder_names.as_deref().map(FolderNames::read);
        Ok(names.transpose()?.unwrap_or_default())
    }
}

/// How the labelled images of a command's `--data` are read.
#[derive(Args)]
pub(crate) struct DataArgs {
    /// Folder that the paths of a split_zhou_*.json are relative to; by default its own folder or the first
    /// sub-folder that contains the first image
    #[arg(long, requires = "data")]
    images_root: Option<PathBuf>,
    /// Seed that selects the test images of a folder without test/; the others are for training
    #[arg(long, requires = "data", default_value_t = 0)]
    split_seed: u64,
    /// File with one class name per line, or a JSON array, in the order that decides which classes are base;
    /// by default the classes of the images
    #[arg(long)]
    pub(crate) classes: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) folder_names: FolderNamesArg,
}

impl DataArgs {
    /// Opens the data set and reports notes about it.
    pub(crate) fn open(&self, data: &Path) -> Result<Dataset> {
        let options = DatasetOptions {
            images_root: self.images_root.clone(),
            folder_names: self.folder_names.read()?,
            split_seed: self.split_seed,
        };
        let data = dataset::open(data, &options)?;
        notes(&data);
        self.relabel(data)
    }

    /// Labels the images by `--classes`, if given.
    pub(crate) fn relabel(&self, data: Dataset) -> Result<Dataset> {
        match &self.classes {
            None => Ok(data),
            Some(path) => {
                let classes = Classes::read(path).context("--classes")?;
                Ok(data.with_classes(classes.names().to_vec())?)
            }
        }
    }
}

/// Reports the notes about a data set.
pub(crate) fn notes(data: &Dataset) {
    for note in &data.notes {
        note!("{}: {note}", data.name);
    }
}

/// Reports what is allowed and seldom meant in the classes.
pub(crate) fn warn(data: &Dataset) -> Result<()> {
    for warning in Classes::recorded(&data.classes)?.warnings(&[]) {
        note!("warning: {warning}");
    }
    Ok(())
}

/// Embeds the test images, with the encoder of a bundle if given.
pub(crate) fn test_set(
    checkpoint: &Checkpoint,
    data: &Dataset,
    encoder: Option<&Path>,
) -> Result<TestSet> {
    let encoder = match encoder {
        Some(folder) => ImageEncoder::from_bundle(checkpoint, folder)?,
        None => ImageEncoder::open(checkpoint)?,
    };
    let bar = progress_bar(data.test.len() as u64);
    let set = TestSet::new(&encoder, data, &|images| bar.inc(images as u64))?;
    bar.finish_and_clear();
    Ok(set)
}

/// The templates of several arguments; by default "a photo of a {}." Warns about the classes, also with the templates.
pub(crate) fn templates(arguments: &[String], data: &Dataset) -> Result<Templates> {
    let mut all = Vec::new();
    for argument in arguments {
        let templates = Templates::parse(argument);
        let templates = templates.map_err(|e| text_error::<anyhow::Error>(argument, e))?;
        all.extend_from_slice(templates.as_slice());
    }
    let templates = match &all[..] {
        [] => Templates::default(),
        all => Templates::recorded(all, "--templates")?,
    };
    warn(data)?;
    if let Some(warning) = templates.article_warning(&data.classes) {
        note!("warning: {warning}");
    }
    Ok(templates)
}

/// `--resume`.
pub(crate) fn start(resume: bool) -> Start {
    if resume { Start::Resume } else { Start::New }
}

/// A progress bar on a terminal, nothing elsewhere.
pub(crate) fn progress_bar(length: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::hidden());
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} (left {eta}) {msg}");
    let bar = ProgressBar::new(length);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// A progress bar for the encoded images, then one for the updates.
#[derive(Default)]
pub(crate) struct TrainingBar {
    bar: Option<ProgressBar>,
    updates: bool,
}

impl TrainingBar {
    pub(crate) fn show(&mut self, event: TrainingEvent) {
        let updates = !matches!(event, TrainingEvent::Encoded { .. });
        let (done, total, message) = match event {
            TrainingEvent::Encoded { done, total } => {
                (done as u64, total as u64, "images".to_owned())
            }
            TrainingEvent::Updated { done, total, loss } => {
                (done, total, format!("loss {loss:.3}"))
            }
            TrainingEvent::Logged { record, steps } => {
                let (loss, accuracy) = (record.loss, record.accuracy);
                let message = format!("loss {loss:.3}, accuracy {accuracy:.3}");
                (record.step, steps, message)
            }
        };
        if updates != self.updates {
            self.finish();
            self.updates = updates;
        }
        let bar = self.bar.get_or_insert_with(|| progress_bar(total));
        bar.set_message(message);
        bar.set_position(done);
    }

    pub(crate) fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish();
        }
    }
}
