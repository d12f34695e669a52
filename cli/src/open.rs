//! Opening a bundle as the arguments ask.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use pinhole::internal::{UsageError, printable_path};
use pinhole::{
    Bundle, Classifier, ClassifierBuilder, ConditionalMode, DecodeOptions, Image, ImageError,
    LOCK_PATIENCE, PreprocessConfig, Reduction, TeachError, note,
};

use crate::cli::{BundleArgs, ConditionalArgs, DecodeArgs, ModeName};
use crate::mistakes;

/// Opens the bundle for commands that take no mode of a conditional head.
pub(crate) fn classifier(bundle: &BundleArgs) -> Result<Classifier> {
    with_mode(bundle, ConditionalMode::default())
}

/// Opens the bundle with a mode of its conditional head.
pub(crate) fn conditional(bundle: &BundleArgs, args: &ConditionalArgs) -> Result<Classifier> {
    let classifier = with_mode(bundle, mode(args))?;
    if args.conditional.is_some() && classifier.manifest().conditional.is_none() {
        bail!(
            "--conditional: expected a bundle with a conditional head (CoCoOp), found {} with a {} head; leave \
             the flag out",
            bundle.bundle.display(),
            classifier.manifest().head
        );
    }
    Ok(classifier)
}

fn mode(args: &ConditionalArgs) -> ConditionalMode {
    match args.conditional {
        None | Some(ModeName::Exact) => ConditionalMode::Exact,
        Some(ModeName::Shortlist) => ConditionalMode::Shortlist,
        Some(ModeName::Linear) => ConditionalMode::Linear,
        Some(ModeName::Auto) => ConditionalMode::Auto(Duration::from_millis(args.budget_ms)),
    }
}

/// What opens a bundle as the arguments ask.
pub(crate) fn builder(args: &BundleArgs, conditional: &ConditionalArgs) -> ClassifierBuilder {
    with_threads(args, mode(conditional))
}

fn with_threads(args: &BundleArgs, mode: ConditionalMode) -> ClassifierBuilder {
    let builder = Classifier::builder().conditional(mode);
    match args.threads {
        Some(threads) => builder.threads(threads),
        None => builder,
    }
}

fn with_mode(args: &BundleArgs, mode: ConditionalMode) -> Result<Classifier> {
    with_builder(&args.bundle, with_threads(args, mode))
}

/// Opens the bundle in `folder` with the options of `builder`.
pub(crate) fn with_builder(folder: &Path, builder: ClassifierBuilder) -> Result<Classifier> {
    let opened = builder.open(folder);
    opened.map_err(|e| mistakes::explain(folder, with_flag(e)))
}

/// Opens the bundle without its network.
pub(crate) fn bundle(folder: &Path) -> Result<Bundle> {
    Bundle::open(folder).map_err(|e| mistakes::explain(folder, e.into()))
}

/// Says that another process is changing the bundle.
pub(crate) fn waiting(holder: &str) {
    note!(
        "note: waiting for {holder}, which is changing this bundle, for at most {} minutes",
        LOCK_PATIENCE.as_secs() / 60
    );
}

/// Whether `path` stands for standard input. A file of this name is `./-`.
pub(crate) fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Opens an image file, or reads one from standard input.
pub(crate) fn image(path: &Path, options: &DecodeOptions) -> Result<Image> {
    mistakes::check_file(path, "an image file")?;
    let opened = match is_stdin(path) {
        true => Image::read(std::io::stdin(), "standard input", options),
        false => Image::open(path, options),
    };
    opened.map_err(|e| match e {
        ImageError::InFile { path, error } => anyhow!("{}: {error}", printable_path(&path)),
        other => other.into(),
    })
}

/// The library's error, with the flag that caused it: wrong usage, if it is the flag alone.
pub(crate) fn with_flag(error: pinhole::Error) -> anyhow::Error {
    match error {
        pinhole::Error::Threads { .. } => {
            UsageError::new(format_args!("--{error}; leave it out to use all")).into()
        }
        pinhole::Error::Teaching {
            reason: reason @ TeachError::TextOfNone,
            ..
        } => UsageError::new(format_args!("--{reason}")).into(),
        other => other.into(),
    }
}

/// How images are decoded that `preprocessing` is for.
pub(crate) fn decode_options(args: &DecodeArgs, preprocessing: &PreprocessConfig) -> DecodeOptions {
    DecodeOptions {
        apply_orientation: args.exif_orientation,
        max_memory: u64::from(args.max_image_memory) << 20,
        reduction: args.fast_decode.then(|| Reduction::to(preprocessing)),
    }
}
