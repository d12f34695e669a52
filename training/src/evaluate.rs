//! Zero-shot accuracy.

use std::path::Path;

use candle_core::{D, Device, Tensor};
use pinhole::Classifier;
use pinhole_checkpoint::{Checkpoint, ClipConfig};
use pinhole_preprocessing::Pixels;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    Error, Result,
    contrastive::{encode_images, encode_texts},
    data::{check_templates, class_folder, open},
    model::{Clip, normalise},
    shapes::{self, Split},
    vocabulary::{Tokens, Vocabulary},
};

/// How often each class was taken for each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The classes chosen from.
    pub classes: Vec<String>,
    /// Number of images by true class (row) and given class (column).
    pub confusion: Vec<Vec<u64>>,
}

/// One cell of a confusion table off the diagonal.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Confusion {
    /// The true class.
    pub class: String,
    /// The class given instead.
    pub taken_for: String,
    /// Number of images.
    pub images: u64,
}

impl Evaluation {
    /// Counts pairs of true and given class; indices outside the classes are left out.
    pub fn new(classes: Vec<String>, pairs: impl IntoIterator<Item = (usize, usize)>) -> Self {
        let mut confusion = vec![vec![0; classes.len()]; classes.len()];
        for (class, given) in pairs {
            if let Some(cell) = confusion.get_mut(class).and_then(|row| row.get_mut(given)) {
                *cell += 1;
            }
        }
        Self { classes, confusion }
    }

    /// Number of images.
    pub fn images(&self) -> u64 {
        self.confusion.iter().flatten().sum()
    }

    /// Share of images given their class; 0 without images.
    pub fn accuracy(&self) -> f64 {
        let right: u64 = (0..self.classes.len()).map(|i| self.confusion[i][i]).sum();
        right as f64 / self.images().max(1) as f64
    }

    /// Accuracy of each class that has images: name, images, accuracy.
    pub fn per_class(&self) -> Vec<(&str, u64, f64)> {
        (self.classes.iter().zip(&self.confusion).enumerate())
            .map(|(i, (class, row))| (&**class, row.iter().sum::<u64>(), row[i]))
            .filter(|(_, images, _)| *images > 0)
            .map(|(class, images, right)| (class, images, right as f64 / images as f64))
            .collect()
    }

    /// The most frequent confusions, the worst first.
    pub fn top_confusions(&self, count: usize) -> Vec<Confusion> {
        let mut cells: Vec<Confusion> = Vec::new();
        for (i, row) in self.confusion.iter().enumerate() {
            for (j, &images) in row.iter().enumerate() {
                if i != j && images > 0 {
                    let (class, taken_for) = (self.classes[i].clone(), self.classes[j].clone());
                    cells.push(Confusion {
                        class,
                        taken_for,
                        images,
                    });
                }
            }
        }
        cells.sort_by_key(|cell| std::cmp::Reverse(cell.images));
        cells.truncate(count);
        cells
    }

    /// The whole table as CSV: true classes down, given classes across.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_csv(&self, path: &Path) -> Result<()> {
        let csv = |e: csv::Error| Error::Io {
            path: path.into(),
            source: e.into(),
        };
        let mut writer = csv::Writer::from_path(path).map_err(csv)?;
        let heading = ["class"]
            .into_iter()
            .chain(self.classes.iter().map(|c| &**c));
        writer.write_record(heading).map_err(csv)?;
        for (class, row) in self.classes.iter().zip(&self.confusion) {
            let cells = row.iter().map(u64::to_string);
            let record = [class.clone()].into_iter().chain(cells);
            writer.write_record(record).map_err(csv)?;
        }
        writer.flush().map_err(crate::error::io(path))
    }
}

/// A model and the embeddings of the classes that it chooses from.
pub struct ZeroShot {
    model: Clip,
    config: ClipConfig,
    classes: Tensor,
}

impl ZeroShot {
    /// Takes a model and texts per class; a class's embedding is the normalised mean of its texts'
    /// normalised embeddings (as CLIP's prompt ensembling).
    ///
    /// # Errors
    /// Where a text has tokens that are not in the model's vocabulary.
    pub fn new(
        model: Clip,
        config: ClipConfig,
        vocabulary: &Vocabulary,
        texts: &[Vec<String>],
    ) -> Result<Self> {
        let classes = class_embeddings(&model, &config, vocabulary, texts)?;
        Ok(Self {
            model,
            config,
            classes,
        })
    }

    /// A checkpoint for the given classes and templates.
    ///
    /// # Errors
    /// Where the checkpoint cannot be read, or its image tower is a ModifiedResNet.
    pub fn open(checkpoint: &Checkpoint, classes: &[String], templates: &[String]) -> Result<Self> {
        check_templates(templates)?;
        let fill = |class: &String| templates.iter().map(|t| t.replace("{}", class)).collect();
        let texts: Vec<Vec<String>> = classes.iter().map(fill).collect();
        let vocabulary = Vocabulary::of(texts.iter().flatten().map(String::as_str));
        let config = checkpoint.config().clone();
        let model = Clip::new(&config, |name| load(checkpoint, name, &vocabulary))?;
        Self::new(model, config, &vocabulary, &texts)
    }

    /// The nearest class of each image.
    ///
    /// # Errors
    /// Where an image has another size than the model's.
    pub fn classify(&self, images: &[Pixels]) -> Result<Vec<usize>> {
        classify(&self.model, &self.config, &self.classes, images)
    }

    /// Classifies the files of a folder with one sub-folder per class; `classes` are those that the
    /// model was opened with.
    ///
    /// # Errors
    /// [`Error::Data`] for a sub-folder that is no class, [`Error::Image`] for an unreadable image.
    pub fn evaluate_folder(&self, folder: &Path, classes: &[String]) -> Result<Evaluation> {
        let files = labelled(folder, classes)?;
        let parts: Vec<Vec<(usize, usize)>> = files
            .par_chunks(16)
            .map(|files| {
                let rule = &self.config.preprocessing;
                let images = (files.iter()).map(|(path, _)| Ok(rule.apply(&open(path)?)?));
                let given = self.classify(&images.collect::<Result<Vec<_>>>()?)?;
                Ok(files.iter().map(|(_, class)| *class).zip(given).collect())
            })
            .collect::<Result<_>>()?;
        Ok(Evaluation::new(
            classes.to_vec(),
            parts.into_iter().flatten(),
        ))
    }
}

/// Classifies the files of a folder with one sub-folder per class as a board would, with a bundle's
/// own classes. The answer "unknown" is not considered: the best class counts.
///
/// # Errors
/// [`Error::Data`] for a sub-folder that is no class of the bundle, [`Error::Image`] for an
/// unreadable image, [`Error::Bundle`] where the encoder fails.
pub fn evaluate_bundle(bundle: &Classifier, folder: &Path) -> Result<Evaluation> {
    let classes = &bundle.manifest().classes;
    let mut pairs = Vec::new();
    for (path, class) in labelled(folder, classes)? {
        let answer = bundle.classify(&open(&path)?)?;
        let best = answer.top(1).first().map(|best| &best.name);
        let given = classes.iter().position(|class| Some(class) == best);
        pairs.push((class, given.unwrap_or(usize::MAX)));
    }
    Ok(Evaluation::new(classes.clone(), pairs))
}

/// The images of a class folder with their class's index in `classes`.
///
/// # Errors
/// [`Error::Data`] for a sub-folder whose name is none of the classes.
pub fn labelled(folder: &Path, classes: &[String]) -> Result<Vec<(std::path::PathBuf, usize)>> {
    let index = |(path, class): (std::path::PathBuf, String)| match classes
        .iter()
        .position(|c| *c == class)
    {
        Some(index) => Ok((path, index)),
        None => Err(Error::Data {
            path,
            problem: format!(
                "its class {class:?} is not among the {} classes",
                classes.len()
            ),
        }),
    };
    class_folder(folder)?.into_iter().map(index).collect()
}

/// Embeddings of classes [classes, embedding], normalised, from texts per class.
///
/// # Errors
/// Where a text has tokens that are not in the vocabulary.
pub fn class_embeddings(
    model: &Clip,
    config: &ClipConfig,
    vocabulary: &Vocabulary,
    texts: &[Vec<String>],
) -> Result<Tensor> {
    let mut rows = Vec::with_capacity(texts.len());
    for texts in texts {
        let tokens = texts
            .iter()
            .map(|t| vocabulary.tokens(t, config.text.context_length));
        let tokens: Vec<Tokens> = tokens.collect::<Result<_>>()?;
        let embeddings = normalise(&encode_texts(model, &tokens)?.detach())?;
        rows.push(normalise(&embeddings.mean_keepdim(0)?)?);
    }
    Ok(Tensor::cat(&rows, 0)?)
}

/// The index of the nearest class embedding for each image.
///
/// # Errors
/// Where an image has another size than the model's.
pub fn classify(
    model: &Clip,
    config: &ClipConfig,
    classes: &Tensor,
    images: &[Pixels],
) -> Result<Vec<usize>> {
    let embeddings = encode_images(&model.image, config, images)?;
    let best = embeddings.matmul(&classes.t()?)?.argmax(D::Minus1)?;
    Ok(best
        .to_vec1::<u32>()?
        .into_iter()
        .map(|i| i as usize)
        .collect())
}

/// Accuracy on `count` generated pictures of a split, chosen from all 64 classes by `template`.
/// The pictures are 320 x 240, drawn with `seed`.
///
/// # Errors
/// Where the model does not fit its configuration.
pub fn evaluate_shapes(
    model: &Clip,
    config: &ClipConfig,
    vocabulary: &Vocabulary,
    template: &str,
    (split, seed, count): (Split, u64, u64),
) -> Result<Evaluation> {
    let names = shapes::class_names();
    let texts: Vec<Vec<String>> = (names.iter().map(|c| vec![template.replace("{}", c)])).collect();
    let classes = class_embeddings(model, config, vocabulary, &texts)?;
    let starts: Vec<u64> = (0..count).step_by(16).collect();
    let parts: Vec<Vec<(usize, usize)>> = starts
        .into_par_iter()
        .map(|start| {
            let (mut images, mut truth) = (Vec::new(), Vec::new());
            for index in start..(start + 16).min(count) {
                let (scene, class, _) = shapes::sample(split, seed, index);
                images.push(
                    config
                        .preprocessing
                        .apply(&shapes::render(&scene, 320, 240))?,
                );
                truth.push(class);
            }
            let given = classify(model, config, &classes, &images)?;
            Ok(truth.into_iter().zip(given).collect())
        })
        .collect::<Result<_>>()?;
    Ok(Evaluation::new(names, parts.into_iter().flatten()))
}

/// A checkpoint's tensor for candle; of the token embedding, only the rows in `vocabulary`.
fn load(checkpoint: &Checkpoint, name: &str, vocabulary: &Vocabulary) -> Result<Tensor> {
    let mut tensor = checkpoint.tensor(name)?;
    if name == "token_embedding.weight" {
        let width = checkpoint.config().text.width;
        let mut data = Vec::with_capacity(vocabulary.ids().len() * width);
        for &id in vocabulary.ids() {
            let start = id as usize * width;
            data.extend(tensor.data.get(start..start + width).ok_or_else(|| {
                Error::Config(format!("token {id} is beyond the model's vocabulary"))
            })?);
        }
        tensor.shape = vec![vocabulary.ids().len(), width];
        tensor.data = data;
    }
    Ok(Tensor::from_vec(tensor.data, tensor.shape, &Device::Cpu)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_class() {
        let classes = ["a", "b", "c"].map(String::from).to_vec();
        let pairs = [(0, 0), (0, 1), (0, 1), (1, 1), (2, 0), (9, 0)];
        let table = Evaluation::new(classes, pairs);
        assert_eq!(table.images(), 5);
        assert_eq!(table.accuracy(), 0.4);
        let per_class = table.per_class();
        assert_eq!(per_class[0], ("a", 3, 1.0 / 3.0));
        let top = table.top_confusions(1);
        assert_eq!(
            (&*top[0].class, &*top[0].taken_for, top[0].images),
            ("a", "b", 2)
        );
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table.csv");
        table.write_csv(&path).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text, "class,a,b,c\na,1,2,0\nb,0,1,0\nc,1,0,0\n");
    }

    #[test]
    fn no_image_is_no_accuracy() {
        assert_eq!(Evaluation::new(vec!["a".into()], []).accuracy(), 0.0);
    }
}
