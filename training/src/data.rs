//! Image-text pairs to train on.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
};

use pinhole_model::PreprocessConfig;
use pinhole_preprocessing::{DecodeOptions, Pixels, RgbImage, preprocess};

use crate::{
    Error, Result,
    error::io,
    shapes::{self, Dice},
};

/// A source of pairs. Pair `index` depends on the seed and the index alone: a resumed training sees
/// what an uninterrupted one would have seen.
pub enum Source {
    /// The generated world; every pair is new.
    Shapes,
    /// Files with their captions, in a new random order every epoch.
    Files(Files),
}

/// Image files with captions.
pub struct Files {
    /// Where the list came from, for messages.
    origin: PathBuf,
    items: Vec<Item>,
    captions: Captions,
    crop: f32,
    /// The order of the last epochs asked for: two, because batches straddle their border.
    orders: Mutex<Vec<(u64, Vec<u32>)>>,
}

struct Item {
    path: PathBuf,
    /// The caption, or the class that the templates name.
    text: String,
}

enum Captions {
    Own,
    Templates(Vec<String>),
}

/// How an image-caption list is read; the defaults are those of open_clip's csv mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListOptions {
    /// Between columns.
    pub separator: u8,
    /// Heading of the column of image paths, relative to the list's folder or absolute.
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

impl Files {
    /// The pairs of a CSV or TSV file with a heading. `crop` is the least share of a picture's area
    /// that a random crop keeps; 1 for none.
    ///
    /// # Errors
    /// [`Error::Data`] for an empty list, a missing column, an empty caption or a missing file, with
    /// its row; [`Error::Io`].
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
        let mut items = Vec::new();
        for record in reader.records() {
            let record = record.map_err(|e| problem(e.to_string()))?;
            let line = record.position().map_or(0, csv::Position::line);
            let field = |at: usize| record.get(at).unwrap_or("").trim();
            let path = folder.join(field(image));
            if !path.is_file() {
                return Err(problem(format!("line {line}: no file {}", path.display())));
            }
            let text = field(caption).to_owned();
            if text.is_empty() {
                return Err(problem(format!("line {line}: the caption is empty")));
            }
            items.push(Item { path, text });
        }
        Self::new(list, items, Captions::Own, crop)
    }

    /// The images of a folder with one sub-folder per class, named by templates in which "{}"
    /// stands for the class.
    ///
    /// # Errors
    /// [`Error::Data`] for a folder without images or a template without "{}"; [`Error::Io`].
    pub fn from_folder(folder: &Path, templates: &[String], crop: f32) -> Result<Self> {
        check_templates(templates)?;
        let items = (class_folder(folder)?.into_iter())
            .map(|(path, text)| Item { path, text })
            .collect();
        Self::new(folder, items, Captions::Templates(templates.to_vec()), crop)
    }

    fn new(origin: &Path, items: Vec<Item>, captions: Captions, crop: f32) -> Result<Self> {
        if items.is_empty() {
            return Err(Error::Data {
                path: origin.into(),
                problem: "no image in it".into(),
            });
        }
        Ok(Self {
            origin: origin.into(),
            items,
            captions,
            crop,
            orders: Mutex::new(Vec::new()),
        })
    }

    fn place(&self, seed: u64, index: u64) -> usize {
        let count = self.items.len() as u64;
        let (epoch, place) = (index / count, (index % count) as usize);
        let mut orders = match self.orders.lock() {
            Ok(orders) => orders,
            Err(poisoned) => poisoned.into_inner(),
        };
        if let Some((_, order)) = orders.iter().find(|(e, _)| *e == epoch) {
            return order[place] as usize;
        }
        let mut order: Vec<u32> = (0..self.items.len() as u32).collect();
        Dice::new(seed ^ 0x006f_7264_6572, epoch).shuffle(&mut order);
        let item = order[place] as usize;
        if orders.len() > 1 {
            orders.remove(0);
        }
        orders.push((epoch, order));
        item
    }
}

impl Source {
    /// Images in an epoch; the generated world has no end.
    pub fn len(&self) -> Option<u64> {
        match self {
            Self::Shapes => None,
            Self::Files(files) => Some(files.items.len() as u64),
        }
    }

    /// Never: empty sources are refused.
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }

    /// In a line, for logs and to recognise the source when a training is resumed.
    pub fn description(&self) -> String {
        match self {
            Self::Shapes => "shapes, the generated world".into(),
            Self::Files(files) => {
                format!("{} images of {}", files.items.len(), files.origin.display())
            }
        }
    }

    /// All texts that may come, or (the generated world) enough of them to hold every word.
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
                Captions::Own => files.items.iter().map(|item| item.text.clone()).collect(),
                Captions::Templates(templates) => {
                    let classes: BTreeSet<&str> = files.items.iter().map(|i| &*i.text).collect();
                    let filled = |c: &str| templates.iter().map(|t| t.replace("{}", c)).collect();
                    classes
                        .into_iter()
                        .flat_map(|c| -> Vec<String> { filled(c) })
                        .collect()
                }
            },
        }
    }

    /// Pair `index` of the training with this seed, preprocessed by `rule`.
    ///
    /// # Errors
    /// [`Error::Image`] for a file that cannot be read.
    pub fn pair(&self, seed: u64, index: u64, rule: &PreprocessConfig) -> Result<(Pixels, String)> {
        match self {
            Self::Shapes => {
                let (scene, text) = shapes::training_pair(seed, index);
                let mut dice = Dice::new(seed ^ 0x7069_6374, index);
                let (width, height) = picture_size(&mut dice, rule.size);
                Ok((
                    preprocess(rule, &shapes::render(&scene, width, height))?,
                    text,
                ))
            }
            Self::Files(files) => {
                let item = &files.items[files.place(seed, index)];
                let mut dice = Dice::new(seed ^ 0x6669_6c65, index);
                let text = match &files.captions {
                    Captions::Own => item.text.clone(),
                    Captions::Templates(templates) => {
                        templates[dice.below(templates.len())].replace("{}", &item.text)
                    }
                };
                let image = crop(open(&item.path)?, files.crop, &mut dice);
                Ok((preprocess(rule, &image)?, text))
            }
        }
    }
}

/// Half the generated pictures have the encoder's size, which needs no resizing; the others are as
/// cameras give them, larger and seldom square.
fn picture_size(dice: &mut Dice, size: u32) -> (u32, u32) {
    if dice.chance(0.5) {
        return (size, size);
    }
    let short = dice.range(1.0, 2.6) * size as f32;
    let long = short * [1.0, 4.0 / 3.0, 1.5, 16.0 / 9.0][dice.below(4)];
    match dice.chance(0.75) {
        true => (long as u32, short as u32),
        false => (short as u32, long as u32),
    }
}

/// A random crop that keeps at least `least` of the area: each side is cut to no less than the root
/// of that. The proportion changes little, so that the centre crop after it still fits (open_clip's
/// RandomResizedCrop goes straight to a square).
fn crop(image: RgbImage, least: f32, dice: &mut Dice) -> RgbImage {
    if least >= 1.0 {
        return image;
    }
    let side = |length: u32, dice: &mut Dice| {
        let kept = dice.range(least.max(0.01).sqrt(), 1.0);
        let kept = ((length as f32 * kept) as u32).clamp(1, length);
        let start = dice.below((length - kept + 1) as usize);
        (start, kept)
    };
    let (left, width) = side(image.width, dice);
    let (top, height) = side(image.height, dice);
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

/// Decodes an image file.
///
/// # Errors
/// [`Error::Image`].
pub fn open(path: &Path) -> Result<RgbImage> {
    pinhole_preprocessing::open(path, &DecodeOptions::default()).map_err(|source| Error::Image {
        path: path.into(),
        source,
    })
}

/// The image files (by extension) of a folder with one sub-folder per class, with their classes,
/// in the order of paths.
///
/// # Errors
/// [`Error::Data`] where there is none; [`Error::Io`].
pub fn class_folder(folder: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    for class in sorted(folder)?.into_iter().filter(|path| path.is_dir()) {
        let Some(name) = class.file_name().and_then(|name| name.to_str()) else {
            return Err(Error::Data {
                path: class,
                problem: "the folder's name, a class, is not UTF-8".into(),
            });
        };
        for path in sorted(&class)?.into_iter().filter(|path| is_image(path)) {
            found.push((path, name.to_owned()));
        }
    }
    if found.is_empty() {
        return Err(Error::Data {
            path: folder.into(),
            problem: "no image in its sub-folders; expected one sub-folder per class".into(),
        });
    }
    Ok(found)
}

/// Refuses an empty list of templates and those without a place for the class.
///
/// # Errors
/// [`Error::Config`].
pub fn check_templates(templates: &[String]) -> Result<()> {
    if templates.is_empty() {
        return Err(Error::Config("no template".into()));
    }
    match templates.iter().find(|t| !t.contains("{}")) {
        Some(t) => Err(Error::Config(format!(
            "the template {t:?} has no {{}} for the class"
        ))),
        None => Ok(()),
    }
}

fn sorted(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(io(folder))?;
    let paths = entries.map(|entry| entry.map(|e| e.path()));
    let mut paths: Vec<PathBuf> = paths.collect::<std::io::Result<_>>().map_err(io(folder))?;
    paths.sort();
    Ok(paths)
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str());
    let extension = extension.map(str::to_ascii_lowercase).unwrap_or_default();
    ["png", "jpg", "jpeg", "bmp", "gif", "webp"].contains(&&*extension)
}
