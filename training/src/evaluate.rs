//! Accuracy and calibration of a checkpoint with zero-shot or learned prompts, and of bundles.

use std::collections::HashMap;

use pinhole::Classifier;
use pinhole_checkpoint::Checkpoint;
use pinhole_model::{ClassPosition, PromptLearner};
use pinhole_prompts::{
    Classes, Conditional, Templates, TextEncoder, Tokenizer, class_embeddings, learned_embeddings,
};
use rayon::prelude::*;

use crate::{
    Error, Result,
    dataset::{Dataset, Item, Part},
    features::ImageEncoder,
    metrics::{Answer, Evaluation, calibration_error},
};

/// Test images, embedded once for every kind of prompt and every seed.
#[derive(Clone, Debug, PartialEq)]
pub struct TestSet {
    /// The classes chosen from.
    pub classes: Vec<String>,
    /// The class of each image.
    pub labels: Vec<usize>,
    /// [images, D], each row L2-normalised.
    pub embeddings: Vec<f32>,
}

/// What came of some test images.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Counts by true and given class.
    pub table: Evaluation,
    /// Expected calibration error, see [`calibration_error`].
    pub calibration_error: f64,
}

/// A checkpoint's text tower and the factor on its similarities.
pub struct TextSide {
    tower: TextEncoder,
    tokenizer: Tokenizer,
    logit_scale: f32,
}

impl TestSet {
    /// Embeds the test images of a data set. `progress` is as [`ImageEncoder::embed`] has it.
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
                problem: "no image to test on".into(),
            });
        }
        Ok(Self {
            classes: data.classes.clone(),
            labels: data.test.iter().map(|item| item.label).collect(),
            embeddings: encoder.embed(&data.test, progress)?,
        })
    }

    /// The images of base or new classes, labelled from 0, as [`Dataset::part`].
    ///
    /// # Errors
    /// [`Error::Config`] where that part has no class or no image.
    pub fn part(&self, part: Part) -> Result<Self> {
        let range = part.range(self.classes.len());
        let dim = self.embeddings.len() / self.labels.len().max(1);
        let rows = self.embeddings.chunks_exact(dim.max(1)).zip(&self.labels);
        let (mut labels, mut embeddings) = (Vec::new(), Vec::new());
        for (row, label) in rows.filter(|(_, label)| range.contains(label)) {
            labels.push(label - range.start);
            embeddings.extend_from_slice(row);
        }
        if labels.is_empty() {
            return Err(Error::Config(format!(
                "there is no test image of a {part} class among {} classes",
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

impl Outcome {
    /// Counts answers.
    pub fn of(classes: Vec<String>, answers: &[Answer]) -> Self {
        Self {
            table: Evaluation::of(classes, answers),
            calibration_error: calibration_error(answers),
        }
    }
}

impl TextSide {
    /// Reads the tower.
    ///
    /// # Errors
    /// [`Error::Prompts`] where a tensor cannot be read.
    pub fn open(checkpoint: &Checkpoint) -> Result<Self> {
        Ok(Self {
            tower: TextEncoder::load(checkpoint)?,
            tokenizer: Tokenizer::new(),
            logit_scale: checkpoint.logit_scale(),
        })
    }

    /// Classes named by templates; several are an ensemble.
    ///
    /// # Errors
    /// Those of [`class_embeddings`].
    pub fn zero_shot(&self, set: &TestSet, templates: &Templates) -> Result<Outcome> {
        let classes = self.classes(set)?;
        let nothing = &mut |_, _| {};
        let (tower, tokenizer) = (&self.tower, &self.tokenizer);
        let embeddings = class_embeddings(tower, tokenizer, &classes, templates, nothing)?;
        self.check(set)?;
        Ok(self.fixed(set, &embeddings.data))
    }

    /// Classes named by CoOp's or CoCoOp's prompts. `position` is for a file that does not say it.
    ///
    /// # Errors
    /// [`Error::Config`] for another position than the file says; those of [`learned_embeddings`] and
    /// [`Conditional::new`].
    pub fn learned(
        &self,
        set: &TestSet,
        learner: &PromptLearner,
        position: Option<ClassPosition>,
    ) -> Result<Outcome> {
        let classes = self.classes(set)?;
        let position = class_position(learner, position)?;
        let (tower, tokenizer) = (&self.tower, &self.tokenizer);
        self.check(set)?;
        if learner.meta_net.is_none() {
            let nothing = &mut |_, _| {};
            let embeddings =
                learned_embeddings(tower, tokenizer, &classes, learner, position, nothing)?;
            return Ok(self.fixed(set, &embeddings.data));
        }
        if position != ClassPosition::End {
            return Err(Error::Config(format!(
                "--class-position {position}: CoCoOp's prompts have the class name at the end"
            )));
        }
        let conditional = Conditional::new(tower, tokenizer, &classes, learner)?;
        let answers = (set.embeddings.par_chunks_exact(tower.embedding()))
            .zip(&set.labels)
            .map(|(image, &class)| {
                let similarities = conditional.similarities(tower, image, None)?;
                Ok(self.answer(class, &similarities))
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Outcome::of(set.classes.clone(), &answers))
    }

    fn classes(&self, set: &TestSet) -> Result<Classes> {
        Ok(Classes::new(&set.classes)?)
    }

    fn check(&self, set: &TestSet) -> Result<()> {
        let (values, images) = (set.embeddings.len(), set.labels.len());
        match values == images * self.tower.embedding() {
            true => Ok(()),
            false => Err(Error::Config(format!(
                "{images} image embeddings have {values} values, but this model's have {} each",
                self.tower.embedding()
            ))),
        }
    }

    /// The same class embeddings [C, D] for every image.
    fn fixed(&self, set: &TestSet, classes: &[f32]) -> Outcome {
        let dim = self.tower.embedding();
        let answers: Vec<Answer> = (set.embeddings.par_chunks_exact(dim))
            .zip(&set.labels)
            .map(|(image, &class)| {
                let similarities: Vec<f32> = (classes.chunks_exact(dim))
                    .map(|class| class.iter().zip(image).map(|(a, b)| a * b).sum())
                    .collect();
                self.answer(class, &similarities)
            })
            .collect();
        Outcome::of(set.classes.clone(), &answers)
    }

    /// The first of the nearest classes, with its softmax probability.
    fn answer(&self, class: usize, similarities: &[f32]) -> Answer {
        let mut given = 0;
        for (i, similarity) in similarities.iter().enumerate() {
            if *similarity > similarities[given] {
                given = i;
            }
        }
        let best = f64::from(similarities[given]);
        let scale = f64::from(self.logit_scale);
        let exponentials = (similarities.iter()).map(|s| (scale * (f64::from(*s) - best)).exp());
        Answer {
            class,
            given,
            confidence: 1.0 / exponentials.sum::<f64>(),
        }
    }
}

/// Where the class name stands in a learned prompt: as the file says, else as the caller does, else
/// at the end, which is CoOp's default.
///
/// # Errors
/// [`Error::Config`] where file and caller differ.
pub fn class_position(
    learner: &PromptLearner,
    given: Option<ClassPosition>,
) -> Result<ClassPosition> {
    match (learner.class_position, given) {
        (Some(own), Some(given)) if own != given => Err(Error::Config(format!(
            "--class-position {given}: this prompt was learned with the class name at the {own}"
        ))),
        (own, given) => Ok(own.or(given).unwrap_or_default()),
    }
}

/// Classifies the test images of a data set, labelled by the bundle's own classes, as a board would.
/// The answer "unknown" is not considered: the best class counts.
///
/// # Errors
/// [`Error::Image`] for an unreadable image, [`Error::Bundle`] where the encoder fails.
pub fn evaluate_bundle(bundle: &Classifier, items: &[Item]) -> Result<Outcome> {
    let classes = &bundle.manifest().classes;
    let places: HashMap<&str, usize> = classes.iter().map(|c| &**c).zip(0..).collect();
    let mut answers = Vec::with_capacity(items.len());
    for item in items {
        let answer = bundle.classify(&item.image()?)?;
        let best = answer.top(1).first();
        answers.push(Answer {
            class: item.label,
            given: (best.and_then(|best| places.get(&*best.name).copied())).unwrap_or(usize::MAX),
            confidence: best.map_or(0.0, |best| f64::from(best.probability)),
        });
    }
    Ok(Outcome::of(classes.clone(), &answers))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pinhole_model::Tensor;

    #[test]
    fn a_position_is_the_files_own() {
        let learner = |class_position| PromptLearner {
            context: Tensor {
                shape: vec![1, 2],
                data: vec![0.0; 2],
            },
            meta_net: None,
            class_position,
        };
        let own = learner(Some(ClassPosition::Middle));
        assert_eq!(class_position(&own, None).unwrap(), ClassPosition::Middle);
        let error = class_position(&own, Some(ClassPosition::Front)).unwrap_err();
        assert!(error.to_string().contains("at the middle"), "{error}");
        let unsaid = learner(None);
        assert_eq!(class_position(&unsaid, None).unwrap(), ClassPosition::End);
        let front = class_position(&unsaid, Some(ClassPosition::Front)).unwrap();
        assert_eq!(front, ClassPosition::Front);
    }

    #[test]
    fn parts_of_a_test_set_are_those_of_its_data() {
        let set = TestSet {
            classes: ["a", "b", "c"].map(String::from).to_vec(),
            labels: vec![2, 0, 1],
            embeddings: vec![0.2, 2.0, 0.0, 0.5, 0.1, 1.0],
        };
        let base = set.part(Part::Base).unwrap();
        assert_eq!(base.classes, ["a", "b"]);
        assert_eq!(
            (base.labels, base.embeddings),
            (vec![0, 1], vec![0.0, 0.5, 0.1, 1.0])
        );
        let new = set.part(Part::New).unwrap();
        assert_eq!((new.labels, new.embeddings), (vec![0], vec![0.2, 2.0]));
        let one = TestSet {
            classes: vec!["a".into()],
            labels: vec![0],
            embeddings: vec![1.0],
        };
        let error = one.part(Part::New).unwrap_err().to_string();
        assert!(error.contains("new class among 1"), "{error}");
    }
}
