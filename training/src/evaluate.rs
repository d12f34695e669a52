//! Accuracy and calibration of zero-shot and learned prompts, and of bundles.

use std::collections::BTreeMap;

use pinhole::Classifier;
use pinhole_bundle::{CacheTerms, Head, HeadForm};
use pinhole_checkpoint::Checkpoint;
use pinhole_kernels::l2_normalize;
use pinhole_model::{ClassPosition, Learned, LearnedClasses, PromptLearner};
use pinhole_prompts::{
    Classes, Templates, TextEncoder, Tokenizer, check_trained_names, class_embeddings,
};
use rayon::prelude::*;
use serde_json::{Value, json};

use crate::{
    Error, Result,
    class_head::ClassHead,
    dataset::{ClassSubset, Dataset, LabelledImage},
    image_encoder::ImageEncoder,
    metrics::{ConfusionMatrix, Prediction, calibration_error},
    prompt_learning::{Method, PromptForms},
};

/// Embedded test images, computed once for all prompts and seeds.
#[derive(Clone, Debug, PartialEq)]
pub struct TestSet {
    /// The classes.
    pub classes: Vec<String>,
    /// The class of each image.
    pub labels: Vec<usize>,
    /// [images, D], each row L2-normalised.
    pub embeddings: Vec<f32>,
}

/// The result on a set of test images.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Counts by true and predicted class.
    pub confusion: ConfusionMatrix,
    /// Expected calibration error, see [`calibration_error`].
    pub calibration_error: f64,
}

/// Classifies embedded images with prompts: a checkpoint's text encoder and logit scale.
pub struct PromptEvaluator {
    encoder: TextEncoder,
    tokenizer: Tokenizer,
    logit_scale: f32,
}

impl TestSet {
    /// Embeds the test images of a data set. For `progress` see [`ImageEncoder::embed`].
    ///
    /// # Errors
    /// [`Error::Data`] without images or classes; those of [`ImageEncoder::embed`].
    pub fn new(
        encoder: &ImageEncoder,
        data: &Dataset,
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Self> {
        if data.test.is_empty() || data.classes.is_empty() {
            return Err(Error::Data {
                path: data.name.clone().into(),
                problem: "no test images".into(),
            });
        }
        Ok(Self {
            classes: data.classes.clone(),
            labels: data.test.iter().map(|image| image.label).collect(),
            embeddings: encoder.embed(&data.test, progress)?,
        })
    }

    /// The images of a subset of the classes, labelled from 0 as in [`Dataset::subset`].
    ///
    /// # Errors
    /// [`Error::Config`] for a subset without classes or images.
    pub fn subset(&self, subset: ClassSubset) -> Result<Self> {
        let range = subset.range(self.classes.len());
        let dim = self.embeddings.len() / self.labels.len().max(1);
        let rows = self.embeddings.chunks_exact(dim.max(1)).zip(&self.labels);
        let (mut labels, mut embeddings) = (Vec::new(), Vec::new());
        for (row, label) in rows.filter(|(_, label)| range.contains(label)) {
            labels.push(label - range.start);
            embeddings.extend_from_slice(row);
        }
        if labels.is_empty() {
            return Err(Error::Config(format!(
                "no test image of a {subset} class among {} classes",
                self.classes.len()
            )));
        }
        Ok(Self {
            classes: self.classes[range].to_vec(),
            labels,
            embeddings,
        })
    }
}

impl Evaluation {
    /// Evaluates predictions.
    pub fn of(classes: Vec<String>, predictions: &[Prediction]) -> Self {
        let pairs = predictions.iter().map(|p| (p.label, p.predicted));
        Self {
            confusion: ConfusionMatrix::new(classes, pairs),
            calibration_error: calibration_error(predictions),
        }
    }

    /// Images, accuracy, calibration error, accuracy by class (`per_class`) and by name (`classes`, where classes of
    /// equal names count as one).
    pub fn json(&self) -> Value {
        let per_class = self.confusion.per_class();
        let mut names: BTreeMap<&str, (u64, f64)> = BTreeMap::new();
        for class in &per_class {
            let (images, correct) = names.entry(&class.class).or_default();
            *images += class.images;
            *correct += class.accuracy * class.images as f64;
        }
        let classes: serde_json::Map<_, _> = (names.into_iter())
            .map(|(name, (images, correct))| {
                let accuracy = correct / images as f64;
                let value = json!({"images": images, "accuracy": accuracy});
                (name.to_owned(), value)
            })
            .collect();
        json!({
            "per_class": per_class,
            "images": self.confusion.images(),
            "accuracy": self.confusion.accuracy(),
            "calibration_error": self.calibration_error,
            "classes": classes,
        })
    }
}

/// Refuses tokens inside of the encoders, which only bundles compute.
pub(crate) fn check_computable(learned: &Learned) -> Result<()> {
    if learned.deep_prompts.is_none() && learned.image_tokens.is_empty() {
        return Ok(());
    }
    Err(Error::Config(format!(
        "{}: expected a bundle for prompts inside of the encoders: export it with pinhole-export bundle --learned, and \
         evaluate that with --model",
        learned.method
    )))
}

impl PromptEvaluator {
    /// Reads the text encoder.
    ///
    /// # Errors
    /// [`Error::Prompts`] for an unreadable tensor.
    pub fn open(checkpoint: &Checkpoint) -> Result<Self> {
        Ok(Self {
            encoder: TextEncoder::load(checkpoint)?,
            tokenizer: Tokenizer::new(),
            logit_scale: checkpoint.logit_scale(),
        })
    }

    /// Class embeddings of zero-shot prompts, [C, D], L2-normalised; several templates are an ensemble.
    ///
    /// # Errors
    /// Those of [`class_embeddings`].
    pub fn class_embeddings(&self, classes: &[String], templates: &Templates) -> Result<Vec<f32>> {
        let classes = Classes::recorded(classes)?;
        let no_progress = &mut |_, _| {};
        let (encoder, tokenizer) = (&self.encoder, &self.tokenizer);
        let embeddings = class_embeddings(encoder, tokenizer, &classes, templates, no_progress)?;
        Ok(embeddings.data)
    }

    /// Zero-shot classification; several templates are an ensemble.
    ///
    /// # Errors
    /// Those of [`class_embeddings`].
    pub fn zero_shot(&self, set: &TestSet, templates: &Templates) -> Result<Evaluation> {
        let embeddings = self.class_embeddings(&set.classes, templates)?;
        self.evaluate(set, &ClassHead::Static(embeddings))
    }

    /// Classification with learned prompts. `position` is for a file that does not state it.
    ///
    /// # Errors
    /// [`Error::Config`] for a position other than the file's or not supported by its method; those of
    /// [`pinhole_prompts::learned_embeddings`] and [`pinhole_prompts::Conditional::new`].
    pub fn learned(
        &self,
        set: &TestSet,
        learner: &PromptLearner,
        position: Option<ClassPosition>,
    ) -> Result<Evaluation> {
        let classes = Classes::recorded(&set.classes)?;
        let position = class_position(learner, position)?;
        let Some(method) = Method::of(learner) else {
            return Err(Error::Config("prompt learner of an unknown method".into()));
        };
        if method.prompt_forms() == PromptForms::SharedBeforeName && position != ClassPosition::End
        {
            return Err(Error::Config(format!(
                "--class-position {position}: expected end, which {} requires",
                method.name()
            )));
        }
        let (encoder, tokenizer) = (&self.encoder, &self.tokenizer);
        let head = method.head(encoder, tokenizer, &classes, learner, position)?;
        self.evaluate(set, &head)
    }

    /// Classification with what a method's files hold. `position` is for context vectors whose file does not state it,
    /// `templates` for methods that keep the zero-shot prompts. If the method changes CLIP's encoders, this evaluator and the
    /// embeddings are those of the changed CLIP ([`Adapted`](crate::protocol::Adapted)).
    ///
    /// # Errors
    /// [`Error::Config`] for tensors of other classes or of another order, or a cache without alpha and beta; [`Error::Prompts`] for a learner of another CLIP; as
    /// [`PromptEvaluator::learned`].
    pub fn imported(
        &self,
        set: &TestSet,
        learned: &Learned,
        position: Option<ClassPosition>,
        templates: &Templates,
    ) -> Result<Evaluation> {
        let (classes, dim) = (set.classes.len(), self.encoder.embedding());
        check_computable(learned)?;
        learned.check_classes(&set.classes).map_err(Error::Config)?;
        match &learned.classes {
            LearnedClasses::Prompts { learner, names } => {
                if let Some(names) = names {
                    let classes = Classes::recorded(&set.classes)?;
                    let (encoder, tokenizer) = (&self.encoder, &self.tokenizer);
                    check_trained_names(encoder, tokenizer, &classes, learner, names)?;
                }
                self.learned(set, learner, position)
            }
            LearnedClasses::Embeddings(embeddings) => {
                if embeddings.shape != [classes, dim] {
                    return Err(Error::Config(format!(
                        "{}: expected class embeddings [{classes}, {dim}], in the order of the classes, found {:?}",
                        learned.method, embeddings.shape
                    )));
                }
                let mut rows = embeddings.data.clone();
                rows.chunks_exact_mut(dim).for_each(l2_normalize);
                self.evaluate(set, &ClassHead::Static(rows))
            }
            LearnedClasses::Linear(classifier) => {
                let (head, scale) = Head::linear(classifier, classes).map_err(Error::Config)?;
                if head.embedding_size != dim {
                    return Err(Error::Config(format!(
                        "{}: expected rows of {dim} values, found {}",
                        learned.method, head.embedding_size
                    )));
                }
                self.evaluate_at(set, &ClassHead::Learned(head), scale)
            }
            LearnedClasses::Templates => self.zero_shot(set, templates),
            LearnedClasses::Cache(cache) => {
                if (cache.classes, cache.keys.shape.last()) != (classes, Some(&dim)) {
                    return Err(Error::Config(format!(
                        "{}: expected examples of {classes} classes, in their order, with embeddings of length {dim}, found \
                         {} classes and {:?}",
                        learned.method, cache.classes, cache.keys.shape
                    )));
                }
                let (Some(alpha), Some(beta)) = (cache.alpha, cache.beta) else {
                    return Err(Error::Config(format!(
                        "{}: this file does not state alpha and beta: expected --method-option alpha=VALUE and \
                         --method-option beta=VALUE",
                        learned.method
                    )));
                };
                let head = Head {
                    classes,
                    embedding_size: dim,
                    class_embeddings: self.class_embeddings(&set.classes, templates)?,
                    form: HeadForm::Cache(CacheTerms {
                        keys: cache.keys.data.clone(),
                        labels: cache.labels.clone(),
                        weight: alpha / self.logit_scale,
                        sharpness: beta,
                    }),
                    ..Head::default()
                };
                self.evaluate(set, &ClassHead::Learned(head))
            }
        }
    }

    fn evaluate(&self, set: &TestSet, head: &ClassHead) -> Result<Evaluation> {
        self.evaluate_at(set, head, self.logit_scale)
    }

    fn evaluate_at(&self, set: &TestSet, head: &ClassHead, scale: f32) -> Result<Evaluation> {
        let (values, images) = (set.embeddings.len(), set.labels.len());
        let dim = self.encoder.embedding();
        if values != images * dim {
            return Err(Error::Config(format!(
                "embeddings of {images} images: expected length {dim}, found {values} values"
            )));
        }
        let predictions = (set.embeddings.par_chunks_exact(dim))
            .zip(&set.labels)
            .map(|(image, &label)| {
                let similarities = head.similarities(&self.encoder, image)?;
                Ok(predict(label, &similarities, scale))
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Evaluation::of(set.classes.clone(), &predictions))
    }
}

/// The first of the most similar classes, with its softmax probability at a logit scale.
fn predict(label: usize, similarities: &[f32], scale: f32) -> Prediction {
    let mut predicted = 0;
    for (i, similarity) in similarities.iter().enumerate() {
        if *similarity > similarities[predicted] {
            predicted = i;
        }
    }
    let (best, scale) = (f64::from(similarities[predicted]), f64::from(scale));
    let exponentials = (similarities.iter()).map(|s| (scale * (f64::from(*s) - best)).exp());
    Prediction {
        label,
        predicted,
        confidence: 1.0 / exponentials.sum::<f64>(),
    }
}

/// The class position of a learned prompt: the file's, else the caller's, else the end, CoOp's default.
///
/// # Errors
/// [`Error::Config`] if file and caller differ.
fn class_position(learner: &PromptLearner, given: Option<ClassPosition>) -> Result<ClassPosition> {
    match (learner.class_position, given) {
        (Some(own), Some(given)) if own != given => Err(Error::Config(format!(
            "--class-position {given}: this prompt was learned with the class name at the {own}"
        ))),
        (own, given) => Ok(own.or(given).unwrap_or_default()),
    }
}

/// Classifies test images, labelled by the bundle's classes, as a board would. Ignores the class "unknown":
/// the best class counts.
///
/// # Errors
/// [`Error::Image`] for an unreadable image, [`Error::Bundle`] if the encoder fails.
pub fn evaluate_bundle(bundle: &Classifier, images: &[LabelledImage]) -> Result<Evaluation> {
    let classes = &bundle.manifest().classes;
    let mut predictions = Vec::with_capacity(images.len());
    for image in images {
        let ranking = bundle.classify(&image.decode()?)?;
        let best = ranking.top(1).first();
        predictions.push(Prediction {
            label: image.label,
            predicted: best.map_or(usize::MAX, |best| best.index),
            confidence: best.map_or(0.0, |best| f64::from(best.probability)),
        });
    }
    Ok(Evaluation::of(classes.clone(), &predictions))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pinhole_model::Tensor;

    #[test]
    fn the_position_in_the_file_has_priority() {
        let learner = |class_position| PromptLearner {
            context: Tensor {
                shape: vec![1, 2],
                data: vec![0.0; 2],
            },
            meta_net: None,
            class_position,
        };
        let stated = learner(Some(ClassPosition::Middle));
        assert_eq!(
            class_position(&stated, None).unwrap(),
            ClassPosition::Middle
        );
        let error = class_position(&stated, Some(ClassPosition::Front)).unwrap_err();
        assert!(error.to_string().contains("at the middle"), "{error}");
        let unstated = learner(None);
        assert_eq!(class_position(&unstated, None).unwrap(), ClassPosition::End);
        let front = class_position(&unstated, Some(ClassPosition::Front)).unwrap();
        assert_eq!(front, ClassPosition::Front);
    }

    /// If this fails, images of one class count for another class of the same name.
    #[test]
    fn classes_of_equal_names_are_counted_apart() {
        let classes = ["missile", "cat", "missile"].map(String::from).to_vec();
        let predictions = [(0, 0), (0, 2), (2, 0), (2, 2), (2, 2), (2, 2)];
        let predictions = predictions.map(|(label, predicted)| Prediction {
            label,
            predicted,
            confidence: 1.0,
        });
        let json = Evaluation::of(classes, &predictions).json();
        assert!((json["accuracy"].as_f64().unwrap() - 4.0 / 6.0).abs() < 1e-12);
        let expected = json!([
            {"index": 0, "class": "missile", "images": 2, "accuracy": 0.5},
            {"index": 2, "class": "missile", "images": 4, "accuracy": 0.75},
        ]);
        assert_eq!(json["per_class"], expected);
        let images = &json["classes"]["missile"]["images"];
        assert_eq!(images, 6);
    }

    #[test]
    fn subsets_of_a_test_set_equal_those_of_its_data() {
        let set = TestSet {
            classes: ["a", "b", "c"].map(String::from).to_vec(),
            labels: vec![2, 0, 1],
            embeddings: vec![0.2, 2.0, 0.0, 0.5, 0.1, 1.0],
        };
        let base = set.subset(ClassSubset::Base).unwrap();
        assert_eq!(base.classes, ["a", "b"]);
        assert_eq!(
            (base.labels, base.embeddings),
            (vec![0, 1], vec![0.0, 0.5, 0.1, 1.0])
        );
        let new = set.subset(ClassSubset::New).unwrap();
        assert_eq!((new.labels, new.embeddings), (vec![0], vec![0.2, 2.0]));
        let one = TestSet {
            classes: vec!["a".into()],
            labels: vec![0],
            embeddings: vec![1.0],
        };
        let error = one.subset(ClassSubset::New).unwrap_err().to_string();
        assert!(error.contains("new class among 1"), "{error}");
    }
}
