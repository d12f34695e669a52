//! Image-text pairs for pre-training.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
};

use pinhole_model::PreprocessConfig;
use pinhole_preprocessing::{Pixels, RgbImage, preprocess};
use pinhole_prompts::FolderNames;

use crate::{
    Error, Result,
    error::io,
    fingerprint::Fingerprint,
    image_files::{class_folder, open_image},
    random::SeededRng,
    shapes,
};

/// A source of image-text pairs. Pair `index` depends on the seed and the index alone, so a resumed
/// training sees the same pairs as an uninterrupted one.
pub enum PairSource {
    /// The synthetic shapes; every pair is new.
    Shapes,
    /// Image files with captions, shuffled in every epoch.
    Files(PairFiles),
}

/// Image files with captions.
pub struct PairFiles {
    /// The list or folder, for messages.
    origin: PathBuf,
    images: Vec<CaptionedImage>,
    captions: Captions,
    crop: f32,
    /// The order of the two most recent epochs: a batch can span two.
    orders: Mutex<Vec<(u64, Vec<u32>)>>,
}

struct CaptionedImage {
    path: PathBuf,
    /// The caption, or the class name that the templates take.
    text: String,
}

enum Captions {
    Own,
    Templates(Vec<String>),
}

/// How a list of images and captions is read; the defaults are those of open_clip's csv mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListOptions {
    /// Column separator.
    pub separator: u8,
    /// Heading of the column of image paths, which are absolute or relative to the list's folder.
    pub image_column: String,
    /// Heading of the column of captions.
    pub caption_column: String,
}

impl Default for ListOptions {
    fn default() -> Self {
        Self {
            separator: b'\t',
            image_column: "filepath".into(),
            caption_column: "title".into(),
        }
    }
}

impl PairSource {
    /// Images per epoch; `None` for the shapes, which never repeat.
    pub fn epoch_images(&self) -> Option<u64> {
        match self {
            Self::Shapes => None,
            Self::Files(files) => Some(files.images.len() as u64),
        }
    }

    /// One line for logs, which also identifies the source when a training is resumed.
    pub fn description(&self) -> String {
        match self {
            // Part of the training state: a change would reject older states.
            Self::Shapes => "shapes, the generated world".into(),
            Self::Files(files) => {
                let (count, origin) = (files.images.len(), files.origin.display());
                format!("{count} images of {origin}")
            }
        }
    }

    /// A fingerprint of what the pairs are made of: paths, texts and crop. `None` for the shapes.
    pub(crate) fn fingerprint(&self) -> Option<String> {
        let Self::Files(files) = self else {
            return None;
        };
        let mut hash = Fingerprint::new();
        hash.numbers([files.crop]);
        for image in &files.images {
            hash.bytes(image.path.as_os_str().as_encoded_bytes());
            hash.text("");
            hash.text(&image.text);
        }
        if let Captions::Templates(templates) = &files.captions {
            templates.iter().for_each(|template| hash.text(template));
        }
        Some(hash.finish())
    }

    /// All texts of the source; for the shapes a sample large enough to hold every word.
    pub fn texts(&self) -> Vec<String> {
        match self {
            Self::Shapes => {
                let from = shapes::SHAPES_FIRST;
                let sampled = (from..from + 20_000).map(|i| shapes::training_pair(0, i).1);
                // Class names are for evaluation: their words all occur in training captions.
                let templates = shapes::class_names()
                    .into_iter()
                    .map(|c| format!("a photo of a {c}."));
                (sampled.collect::<BTreeSet<_>>().into_iter())
                    .chain(templates)
                    .collect()
            }
            Self::Files(files) => match &files.captions {
                Captions::Own => files
                    .images
                    .iter()
                    .map(|image| image.text.clone())
                    .collect(),
                Captions::Templates(templates) => {
                    let classes: BTreeSet<&str> = files.images.iter().map(|i| &*i.text).collect();
                    let filled = |c: &str| templates.iter().map(|t| t.replace("{}", c)).collect();
                    classes
                        .into_iter()
                        .flat_map(|c| -> Vec<String> { filled(c) })
                        .collect()
                }
            },
        }
    }

    /// Pair `index` of the training with this seed: the preprocessed image and its text.
    ///
    /// # Errors
    /// [`Error::Image`] for a file that cannot be read.
    pub fn pair(
        &self,
        seed: u64,
        index: u64,
        preprocessing: &PreprocessConfig,
    ) -> Result<(Pixels, String)> {
        match self {
            Self::Shapes => {
                let (scene, text) = shapes::training_pair(seed, index);
                let mut rng = SeededRng::new(seed ^ 0x7069_6374, index);
                let (width, height) = random_image_size(&mut rng, preprocessing.size);
                let image = shapes::render(&scene, width, height);
                Ok((preprocess(preprocessing, &image)?, text))
            }
            Self::Files(files) => {
                let item = &files.images[files.shuffled(seed, index)];
                let mut rng = SeededRng::new(seed ^ 0x6669_6c65, index);
                let text = match &files.captions {
                    Captions::Own => item.text.clone(),
                    Captions::Templates(templates) => {
                        templates[rng.below(templates.len())].replace("{}", &item.text)
                    }
                };
                let image = random_crop(open_image(&item.path)?, files.crop, &mut rng);
                Ok((preprocess(preprocessing, &image)?, text))
            }
        }
    }
}

impl PairFiles {
    /// The pairs of a CSV or TSV file with a heading. `crop` is the minimum fraction of an image's area
    /// that a random crop keeps; 1 for no crops.
    ///
    /// # Errors
    /// [`Error::Data`] for an empty list, a missing column, an empty caption or a missing file, with
    /// its line; [`Error::Io`].
    pub fn from_list(list: &Path, options: &ListOptions, crop: f32) -> Result<Self> {
        let problem = |problem: String| Error::Data {
            path: list.into(),
            problem,
        };
        let file = fs::File::open(list).map_err(io(list))?;
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(options.separator)
            .from_reader(file);
        let headings = reader
            .headers()
            .map_err(|e| problem(e.to_string()))?
            .clone();
        let column = |name: &str| {
            let found = headings.iter().position(|h| h == name);
            found.ok_or_else(|| {
                let names: Vec<&str> = headings.iter().collect();
                problem(format!(
                    "no column {name:?}; the first line has {names:?} (set --image-column, \
                     --caption-column or --separator)"
                ))
            })
        };
        let (image, caption) = (
            column(&options.image_column)?,
            column(&options.caption_column)?,
        );
        let folder = list.parent().unwrap_or(Path::new(""));
        let mut images = Vec::new();
        for record in reader.records() {
            let record = record.map_err(|e| problem(e.to_string()))?;
            let line = record.position().map_or(0, csv::Position::line);
            let field = |at: usize| record.get(at).unwrap_or("").trim();
            // Windows separates folders by backslashes.
            let path = folder.join(field(image).replace('\\', "/"));
            if !path.is_file() {
                return Err(problem(format!("line {line}: no file {}", path.display())));
            }
            let text = field(caption).to_owned();
            if text.is_empty() {
                return Err(problem(format!("line {line}: the caption is empty")));
            }
            images.push(CaptionedImage { path, text });
        }
        Self::new(list, images, Captions::Own, crop)
    }

    /// The images of a folder with one sub-folder per class. Their captions are templates in which "{}"
    /// stands for the class name: the sub-folder's, or that in `names`.
    ///
    /// # Errors
    /// [`Error::Data`] for a folder without images or a template without "{}"; [`Error::Io`].
    pub fn from_folder(
        folder: &Path,
        templates: &[String],
        names: &FolderNames,
        crop: f32,
    ) -> Result<Self> {
        check_templates(templates)?;
        let images = (class_folder(folder)?.into_iter())
            .map(|(path, folder)| CaptionedImage {
                path,
                text: names.class(&folder).to_owned(),
            })
            .collect();
        let captions = Captions::Templates(templates.to_vec());
        Self::new(folder, images, captions, crop)
    }

    fn new(
        origin: &Path,
        images: Vec<CaptionedImage>,
        captions: Captions,
        crop: f32,
    ) -> Result<Self> {
        if images.is_empty() {
            return Err(Error::Data {
                path: origin.into(),
                problem: "no image found".into(),
            });
        }
        Ok(Self {
            origin: origin.into(),
            images,
            captions,
            crop,
            orders: Mutex::new(Vec::new()),
        })
    }

    /// The image of pair `index`: every epoch has an order of its own.
    fn shuffled(&self, seed: u64, index: u64) -> usize {
        let count = self.images.len() as u64;
        let (epoch, place) = (index / count, (index % count) as usize);
        let mut orders = match self.orders.lock() {
            Ok(orders) => orders,
            Err(poisoned) => poisoned.into_inner(),
        };
        if let Some((_, order)) = orders.iter().find(|(e, _)| *e == epoch) {
            return order[place] as usize;
        }
        let mut order: Vec<u32> = (0..self.images.len() as u32).collect();
        SeededRng::new(seed ^ 0x006f_7264_6572, epoch).shuffle(&mut order);
        let image = order[place] as usize;
        if orders.len() > 1 {
            orders.remove(0);
        }
        orders.push((epoch, order));
        image
    }
}

/// Rejects an empty list of templates and templates without "{}".
///
/// # Errors
/// [`Error::Options`].
pub fn check_templates(templates: &[String]) -> Result<()> {
    if templates.is_empty() {
        return Err(Error::Options("--template: expected at least one".into()));
    }
    match templates.iter().find(|t| !t.contains("{}")) {
        Some(t) => Err(Error::Options(format!(
            "--template {t:?}: expected {{}} in the place of the class name"
        ))),
        None => Ok(()),
    }
}

/// Width and height of a training image: half of the images have the encoder's size, which needs no
/// resizing; the others are larger and of a camera's aspect ratio.
fn random_image_size(rng: &mut SeededRng, size: u32) -> (u32, u32) {
    if rng.chance(0.5) {
        return (size, size);
    }
    let short = rng.range(1.0, 2.6) * size as f32;
    let long = short * [1.0, 4.0 / 3.0, 1.5, 16.0 / 9.0][rng.below(4)];
    if rng.chance(0.75) {
        (long as u32, short as u32)
    } else {
        (short as u32, long as u32)
    }
}

/// A random crop that keeps at least `min_area` of the area: each side is cut to no less than its square
/// root. The aspect ratio changes little, so the model's centre crop still fits (open_clip's
/// RandomResizedCrop crops to a square at once).
fn random_crop(image: RgbImage, min_area: f32, rng: &mut SeededRng) -> RgbImage {
    if min_area >= 1.0 {
        return image;
    }
    let side = |length: u32, rng: &mut SeededRng| {
        let kept = rng.range(min_area.max(0.01).sqrt(), 1.0);
        let kept = ((length as f32 * kept) as u32).clamp(1, length);
        let start = rng.below((length - kept + 1) as usize);
        (start, kept)
    };
    let (left, width) = side(image.width, rng);
    let (top, height) = side(image.height, rng);
    let rows = image.data.chunks_exact(image.width as usize * 3);
    let mut data = Vec::with_capacity(width as usize * height as usize * 3);
    for row in rows.skip(top).take(height as usize) {
        data.extend(&row[left * 3..(left + width as usize) * 3]);
    }
    RgbImage {
        width,
        height,
        data,
    }
}
