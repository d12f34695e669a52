//! Calibration images: where they are, what they show, and iterating over them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use pinhole::internal::CalibrationLabel;
use pinhole::{DecodeOptions, RgbImage};
use pinhole_model::most_similar;
use pinhole_preprocessing::{EXTENSIONS, has_image_extension, is_hidden, missing};
use pinhole_prompts::{FolderNames, class_indices};

use crate::golden;

/// Image files to measure on.
#[derive(Clone, Debug, Default)]
pub struct CalibrationImages {
    files: Vec<PathBuf>,
    /// Folder that the images were found in.
    root: PathBuf,
    /// One per file; `None` if no folder is named after a class.
    labels: Option<Vec<CalibrationLabel>>,
    /// Folders that are named after no class.
    unknown_folders: Vec<UnknownFolder>,
}

/// A folder of images that is named after no class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownFolder {
    /// Its name; "." for images in no folder.
    pub name: String,
    /// The class without images whose name is so similar that it was probably meant.
    pub similar_class: Option<String>,
}

impl fmt::Display for UnknownFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.similar_class {
            Some(class) => write!(f, "{} (did you mean the class {class:?}?)", self.name),
            None => write!(f, "{}", self.name),
        }
    }
}

impl CalibrationImages {
    /// The images below `folder`, sorted by path. If a folder directly in it has the name of a class (an underscore
    /// matches a space), the images are labelled: those in such a folder with its class, all others as unknown. `names`
    /// are class names of folders that are named otherwise. Of several folders of one name, the n-th has the n-th class of
    /// that name.
    ///
    /// # Errors
    /// A folder that cannot be read; no images.
    pub fn find(folder: &Path, classes: &[String], names: &FolderNames) -> Result<Self> {
        if let Some(found) = missing(folder) {
            bail!("{}: expected a folder of images, {found}", folder.display());
        }
        let mut found = list(folder)?;
        ensure!(
            !found.is_empty(),
            "{}: expected images ({}), found none",
            folder.display(),
            EXTENSIONS.join(", ")
        );
        found.sort();
        let folders: BTreeSet<&String> = found.iter().filter_map(|(_, top)| top.as_ref()).collect();
        let named = folders.iter().map(|folder| names.class(folder));
        let indices: BTreeMap<&String, Option<usize>> = (folders.iter().copied())
            .zip(class_indices(classes, named))
            .collect();
        let class_of = |top: &Option<String>| indices.get(top.as_ref()?).copied().flatten();
        let mut unknown = BTreeSet::new();
        let labels = found.iter().map(|(_, top)| match class_of(top) {
            Some(class) => CalibrationLabel::Class(class),
            None => {
                unknown.insert(top.clone().unwrap_or_else(|| ".".into()));
                CalibrationLabel::Unknown
            }
        });
        let labels: Vec<CalibrationLabel> = labels.collect();
        let known: BTreeSet<usize> = indices.values().copied().flatten().collect();
        let described = |name: String| {
            let others = (0..classes.len()).filter(|class| !known.contains(class));
            let others = others.map(|class| classes[class].as_str());
            let similar = most_similar(&names.class(&name).replace('_', " "), others);
            UnknownFolder {
                similar_class: similar.map(str::to_owned),
                name,
            }
        };
        let labelled = labels
            .iter()
            .any(|label| *label != CalibrationLabel::Unknown);
        Ok(Self {
            root: folder.to_owned(),
            labels: labelled.then_some(labels),
            unknown_folders: unknown.into_iter().map(described).collect(),
            files: found.into_iter().map(|(file, _)| file).collect(),
        })
    }

    /// The labels, one per image, if the images are labelled.
    pub fn labels(&self) -> Option<&[CalibrationLabel]> {
        self.labels.as_deref()
    }

    /// The folders that are named after no class, whose images count as unknown.
    pub fn unknown_folders(&self) -> &[UnknownFolder] {
        &self.unknown_folders
    }

    /// Why images without labels are not labelled.
    pub(crate) fn unlabelled(&self) -> String {
        let folders = match &self.unknown_folders[..] {
            [] => "no images".to_owned(),
            [only] if only.name == "." => "images in no folder".to_owned(),
            folders => {
                let folders: Vec<String> = folders.iter().map(ToString::to_string).collect();
                format!("only {}", folders.join(", "))
            }
        };
        format!(
            "{}: expected folders of images named after a class (or --folder-names), found {folders}",
            self.root.display()
        )
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }

    /// Decodes every `step`th image and passes it to `see`.
    pub(crate) fn for_each(
        &self,
        step: usize,
        see: &mut dyn FnMut(&RgbImage) -> Result<()>,
    ) -> Result<()> {
        let mut files = self.files.iter().step_by(step);
        files.try_for_each(|file| see(&pinhole::open_image(file, &DecodeOptions::workstation())?))
    }
}

/// The images below `folder`, each with the name of the folder directly in `folder` that holds it.
fn list(folder: &Path) -> Result<Vec<(PathBuf, Option<String>)>> {
    let mut images = vec![];
    let mut pending = vec![(folder.to_owned(), None::<String>)];
    while let Some((next, top)) = pending.pop() {
        let cannot = |action: &str| format!("{}: cannot {action}", next.display());
        for entry in std::fs::read_dir(&next).with_context(|| cannot("list"))? {
            let entry = entry.with_context(|| cannot("list"))?;
            let path = entry.path();
            // Symbolic links to folders are not followed: they may form cycles.
            let kind = entry.file_type().with_context(|| cannot("read"))?;
            if is_hidden(&path) {
                continue;
            }
            if kind.is_dir() {
                let name = || entry.file_name().to_string_lossy().into_owned();
                pending.push((path, Some(top.clone().unwrap_or_else(name))));
            } else if has_image_extension(&path) {
                images.push((path, top.clone()));
            }
        }
    }
    Ok(images)
}

/// The images that the fidelity is measured on.
pub(crate) enum FidelityImages<'a> {
    Calibration(&'a CalibrationImages),
    /// The generated images of the self-test.
    Golden(Vec<RgbImage>),
}

impl<'a> FidelityImages<'a> {
    /// The calibration images, or the golden images if there are none.
    pub(crate) fn new(calibration: &'a CalibrationImages) -> Result<Self> {
        Ok(if calibration.is_empty() {
            let images = golden::images()?;
            Self::Golden(images.into_iter().map(|(_, image)| image).collect())
        } else {
            Self::Calibration(calibration)
        })
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Calibration(images) => images.len(),
            Self::Golden(images) => images.len(),
        }
    }

    /// Passes every `step`th image to `see`.
    pub(crate) fn for_each(
        &self,
        step: usize,
        see: &mut dyn FnMut(&RgbImage) -> Result<()>,
    ) -> Result<()> {
        match self {
            Self::Calibration(images) => images.for_each(step, see),
            Self::Golden(images) => images.iter().step_by(step).try_for_each(see),
        }
    }
}

impl std::fmt::Display for FidelityImages<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self {
            Self::Calibration(_) => "calibration",
            Self::Golden(_) => "generated",
        };
        write!(f, "{} {kind} images", self.len())
    }
}
