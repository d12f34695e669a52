//! Teaching a bundle by examples, on the board.
//!
//! A [`Teacher`] changes what a bundle was taught, chooses the head that recognises the examples best, and exchanges the
//! bundle for one with that head. Examples are kept in the bundle as embeddings; pictures are not.

mod head;
mod ridge;

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pinhole_bundle::{
    Bundle, BundleWriter, CacheInfo, EXAMPLES_PER_CLASS, FileEntry, Head, HeadForm, HeadKind,
    IMAGE_ENCODER, IMAGE_ENCODER_WEIGHTS, LockedBundle, MAX_EXAMPLES, Manifest, NONE_OF_THESE,
    Span, TaughtClass, TaughtExample, TaughtExamples, UnknownPolicy,
};
use pinhole_prompts::Classes;

use self::head::{Chosen, Example, Shown};
use crate::calibration::{KEEP, Logits, fit_calibration, temperature_and_score};
use crate::classes::{embed_classes, takes_new_classes};
use crate::classifier::thread_pool;
use crate::error::TeachError;
use crate::text_encoder::text_encoder;
use crate::{Classifier, Error};

pub use self::head::TaughtHead;

/// [`Manifest::method`] of heads that were fitted to examples.
const METHOD: &str = "taught";

/// What the text encoder is to make of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClassText<'a> {
    /// The class has examples only.
    None,
    /// Its name, if the bundle has a text encoder that takes any name, otherwise nothing.
    NameIfPossible,
    /// Its name, in the bundle's templates or learned context.
    Name,
    /// Another text in place of the name, such as "small brown dog" for a dog's name.
    Text(&'a str),
}

/// A bundle that is being taught. No other process changes it while this exists.
///
/// What is changed between opening and saving is one step, which [`Teacher::undo`] takes back.
///
/// ```no_run
/// use pinhole::{ClassText, Classifier, Teacher};
///
/// let classifier = Classifier::open("my-bundle")?;
/// let image = pinhole::open_image("mug.jpg", &Default::default())?;
/// let embedding = classifier.embed(&image)?.values;
///
/// let mut teacher = Teacher::open("my-bundle", None, &mut |_| {})?;
/// teacher.add_class("my mug", ClassText::NameIfPossible)?;
/// teacher.add_examples("my mug", &[embedding])?;
/// let lesson = teacher.save()?;
/// println!("{} examples of the last class", lesson.classes.last().map_or(0, |c| c.examples.len()));
/// # Ok::<(), pinhole::Error>(())
/// ```
#[derive(Debug)]
pub struct Teacher {
    locked: LockedBundle,
    taught: TaughtExamples,
    threads: Option<usize>,
    /// Whether the step has begun.
    began: bool,
}

/// What a bundle knows of its classes.
#[derive(Clone, Debug, PartialEq)]
pub struct Lesson {
    /// The head that was chosen.
    pub head: TaughtHead,
    /// The share of examples that the best head of each kind recognises when it is fitted to all others, 0..1; empty
    /// without examples.
    pub accuracies: Vec<(TaughtHead, f32)>,
    /// The same for the chosen head, of the classes that have an accuracy; `None` without any.
    pub accuracy: Option<f32>,
    /// Every class, in the bundle's order, then those that need an example before they can be recognised.
    pub classes: Vec<ClassLesson>,
    /// Why no thresholds for "unknown" were fitted to the examples; `None` if they were.
    pub no_thresholds: Option<String>,
    /// Number of steps that can be undone.
    pub undo_steps: u64,
}

/// What a bundle knows of a class.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassLesson {
    /// Its name; [`NONE_OF_THESE`] stands for what is no other class.
    pub name: String,
    /// Whether it has a class embedding by a text.
    pub has_text: bool,
    /// Its examples, the oldest first.
    pub examples: Vec<ExampleInfo>,
    /// The share of its examples that are recognised by a head that is fitted to all others, without those of the same
    /// burst, 0..1. `None` if there is no basis: no example, one alone and no text, or one burst.
    pub accuracy: Option<f32>,
}

/// An example of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExampleInfo {
    /// For [`Teacher::remove_example`].
    pub id: u64,
    /// When it was shown, to the second.
    pub time: SystemTime,
}

impl Teacher {
    /// Opens the bundle in `folder` to change what it was taught. `threads` is as for
    /// [`ClassifierBuilder::threads`](crate::ClassifierBuilder::threads), `None` for all processors. While another process
    /// changes the bundle, this waits as [`LockedBundle::open`] does and calls `waiting`.
    ///
    /// # Errors
    /// [`Error::Bundle`]; [`TeachError::Head`] for a bundle with a linear, cache or conditional head that was not taught.
    pub fn open(
        folder: impl AsRef<Path>,
        threads: Option<usize>,
        waiting: &mut dyn FnMut(&str),
    ) -> Result<Self, Error> {
        let locked = LockedBundle::open(folder.as_ref(), waiting)?;
        let taught = taught(locked.bundle(), locked.bundle().examples()?)?;
        Ok(Self {
            locked,
            taught,
            threads,
            began: false,
        })
    }

    /// The bundle as it was opened.
    pub fn bundle(&self) -> &Bundle {
        self.locked.bundle()
    }

    /// Checks that embeddings of `classifier` are those of this bundle: it may have been exchanged since the classifier was
    /// opened.
    ///
    /// # Errors
    /// [`TeachError::OtherEncoder`] for another image encoder or preprocessing.
    pub fn check_encoder(&self, classifier: &Classifier) -> Result<(), Error> {
        let (own, other) = (self.bundle().manifest(), classifier.manifest());
        let encoder = |manifest: &Manifest| -> Vec<FileEntry> {
            let is_encoder =
                |f: &&FileEntry| [IMAGE_ENCODER, IMAGE_ENCODER_WEIGHTS].contains(&&*f.path);
            manifest.files.iter().filter(is_encoder).cloned().collect()
        };
        if encoder(own) == encoder(other) && own.preprocessing == other.preprocessing {
            return Ok(());
        }
        Err(self.error(TeachError::OtherEncoder))
    }

    /// Whether the bundle has the class, or waits for an example of it.
    pub fn has_class(&self, name: &str) -> bool {
        self.present(name).next().is_some()
    }

    /// Adds a class at the end. Without a text it is part of the bundle once it has an example. The class
    /// [`NONE_OF_THESE`] has no text: images that are most like its examples are unknown.
    ///
    /// # Errors
    /// [`TeachError::ClassExists`], [`TeachError::TextOfNone`]; [`Error::NoTextEncoder`] if the text encoder is needed and missing; [`Error::Text`]
    /// for a name or text that is empty or too long; [`Error::Threads`], [`Error::ThreadPool`], [`Error::Kernels`].
    pub fn add_class(&mut self, name: &str, text: ClassText) -> Result<(), Error> {
        if self.has_class(name) {
            return Err(self.error(TeachError::ClassExists { name: name.into() }));
        }
        // Checks the name as those of classes.txt.
        let names = Classes::new([name])?;
        let name = names.names().first().cloned().unwrap_or_default();
        let embedded = match text {
            ClassText::None => None,
            ClassText::Text(_) if name == NONE_OF_THESE => {
                return Err(self.error(TeachError::TextOfNone));
            }
            _ if name == NONE_OF_THESE => None,
            ClassText::NameIfPossible if !takes_new_classes(self.bundle()) => None,
            ClassText::NameIfPossible | ClassText::Name => Some(self.embed(&names)?),
            ClassText::Text(text) => Some(self.embed(&Classes::new([text])?)?),
        };
        self.begin();
        let span = self.now();
        self.taught.classes.push(TaughtClass {
            name,
            text: embedded,
            span,
        });
        Ok(())
    }

    /// Adds examples of a class that the bundle has: embeddings `[D]` of
    /// [`Classifier::embed`](crate::Classifier::embed). Returns their numbers. Of more than 64 examples of a class the
    /// oldest are removed.
    ///
    /// # Errors
    /// [`TeachError::UnknownClass`], [`TeachError::SeveralClasses`]; [`TeachError::Embedding`] for another length or
    /// zeros; [`TeachError::TooManyExamples`].
    pub fn add_examples(
        &mut self,
        class: &str,
        embeddings: &[Vec<f32>],
    ) -> Result<Vec<u64>, Error> {
        self.class(class)?;
        let size = self.taught.embedding_size;
        let too_many = self.taught.present_examples().count() + embeddings.len() > MAX_EXAMPLES;
        if too_many {
            return Err(self.error(TeachError::TooManyExamples));
        }
        let mut units = vec![];
        for values in embeddings {
            let norm = values.iter().map(|v| v * v).sum::<f32>().sqrt();
            if values.len() != size || !(norm.is_finite() && norm > f32::MIN_POSITIVE) {
                return Err(self.error(TeachError::Embedding {
                    expected: size,
                    found: values.len(),
                    norm,
                }));
            }
            units.push(values.iter().map(|v| v / norm).collect());
        }
        self.begin();
        if !self.taught.make_room(units.len()) {
            return Err(self.error(TeachError::TooManyExamples));
        }
        // Beginning a step may drop classes before it.
        let class = self.class(class)?;
        let span = self.now();
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let time = since.map_or(0, |since| since.as_secs());
        let mut ids = vec![];
        for embedding in units {
            let id = self.taught.next_id;
            self.taught.next_id += 1;
            ids.push(id);
            self.taught.examples.push(TaughtExample {
                id,
                class,
                time,
                burst: None,
                embedding,
                span,
            });
        }
        let step = self.taught.step;
        let own = self.taught.examples.iter_mut();
        let own = own.filter(|e| e.class == class && e.span.is_present());
        for old in own.rev().skip(EXAMPLES_PER_CLASS) {
            old.span.removed = Some(step);
        }
        Ok(ids)
    }

    /// As [`Teacher::add_examples`], for pictures of one burst: they are nearly the same, so that accuracy is measured
    /// without all of them.
    ///
    /// # Errors
    /// As [`Teacher::add_examples`].
    pub fn add_burst(&mut self, class: &str, embeddings: &[Vec<f32>]) -> Result<Vec<u64>, Error> {
        let ids = self.add_examples(class, embeddings)?;
        for example in self
            .taught
            .examples
            .iter_mut()
            .filter(|e| ids.contains(&e.id))
        {
            example.burst = ids.first().copied();
        }
        Ok(ids)
    }

    /// Removes a class with its examples.
    ///
    /// # Errors
    /// [`TeachError::UnknownClass`], [`TeachError::SeveralClasses`].
    pub fn remove_class(&mut self, name: &str) -> Result<(), Error> {
        self.class(name)?;
        self.begin();
        // Beginning a step may drop classes before it.
        let class = self.class(name)?;
        let step = Some(self.taught.step);
        self.taught.classes[class].span.removed = step;
        for example in &mut self.taught.examples {
            if example.class == class && example.span.is_present() {
                example.span.removed = step;
            }
        }
        Ok(())
    }

    /// The name of the class that this is an example of, if the bundle has it.
    pub fn class_of_example(&self, id: u64) -> Option<&str> {
        let example = self.taught.present_examples().find(|e| e.id == id)?;
        Some(&self.taught.classes[example.class].name)
    }

    /// Removes an example.
    ///
    /// # Errors
    /// [`TeachError::UnknownExample`].
    pub fn remove_example(&mut self, id: u64) -> Result<(), Error> {
        if !self.taught.present_examples().any(|e| e.id == id) {
            return Err(self.error(TeachError::UnknownExample { id }));
        }
        self.begin();
        let step = self.taught.step;
        for example in self.taught.examples.iter_mut().filter(|e| e.id == id) {
            example.span.removed = Some(step);
        }
        Ok(())
    }

    /// Takes back the last step, which may be the one that has begun. The last 16 steps can be undone one by one.
    ///
    /// # Errors
    /// [`TeachError::NothingToUndo`].
    pub fn undo(&mut self) -> Result<(), Error> {
        if !self.taught.undo() {
            return Err(self.error(TeachError::NothingToUndo));
        }
        self.began = false;
        Ok(())
    }

    /// Chooses the head by leave-one-out accuracy, and exchanges the bundle for one with that head and the examples. At
    /// any moment the folder holds the old bundle or the new one, whole.
    ///
    /// The image encoder stays, and with it the golden embeddings, the fidelity and what else the export measured of it.
    /// Temperature and thresholds for "unknown" are fitted to the examples, each classified without itself, if every
    /// class has some and they are at least 8; of fewer the temperature alone. Where a class has none, the temperature is
    /// that of the export, and there are no thresholds. A bundle that has its former classes
    /// and their texts as the best head has its former temperature and thresholds again.
    ///
    /// # Errors
    /// [`TeachError::NoClass`]; [`Error::Bundle`] if the bundle cannot be replaced; [`Error::Threads`], [`Error::ThreadPool`],
    /// [`Error::Kernels`]. It is then unchanged.
    pub fn save(self) -> Result<Lesson, Error> {
        // First, so that a folder that cannot be replaced is reported before the long steps.
        let writer = BundleWriter::succeed(&self.locked)?;
        let threads = thread_pool(self.threads)?;
        let mut fitted = threads.install(|| fit(self.bundle(), &self.taught))?;
        writer.add_head(&fitted.head)?;
        writer.add_examples(&self.taught)?;
        writer.replace(&mut fitted.manifest)?;
        Ok(fitted.lesson)
    }

    fn begin(&mut self) {
        if !self.began {
            self.taught.begin_step();
            self.began = true;
        }
    }

    fn now(&self) -> Span {
        Span {
            added: self.taught.step,
            removed: None,
        }
    }

    fn present(&self, name: &str) -> impl Iterator<Item = usize> {
        let classes = self.taught.classes.iter().enumerate();
        // As when a class is added.
        let name = name.trim();
        classes
            .filter(move |(_, class)| class.span.is_present() && class.name == name)
            .map(|(i, _)| i)
    }

    fn class(&self, name: &str) -> Result<usize, Error> {
        let found: Vec<usize> = self.present(name).collect();
        let name = name.to_owned();
        match found[..] {
            [class] => Ok(class),
            [] => Err(self.error(TeachError::UnknownClass { name })),
            _ => {
                let found = found.len();
                Err(self.error(TeachError::SeveralClasses { name, found }))
            }
        }
    }

    fn embed(&self, classes: &Classes) -> Result<Vec<f32>, Error> {
        let bundle = self.bundle();
        if !takes_new_classes(bundle) {
            return Err(Error::NoTextEncoder {
                bundle: bundle.folder().to_owned(),
            });
        }
        thread_pool(self.threads)?.install(|| {
            let encoder = text_encoder(bundle)?;
            embed_classes(bundle, &encoder, classes, &mut |_, _| {})
        })
    }

    fn error(&self, reason: TeachError) -> Error {
        Error::Teaching {
            bundle: self.bundle().folder().to_owned(),
            reason,
        }
    }
}

/// What the bundle in `folder` knows of its classes, without changing it. Of a bundle that was not taught, the classes
/// without examples.
///
/// # Errors
/// As [`Teacher::open`].
pub fn lesson(folder: impl AsRef<Path>) -> Result<Lesson, Error> {
    // At once, because the bundle may be exchanged for another.
    let (bundle, examples) = Bundle::open_with(folder.as_ref(), Bundle::examples)?;
    let taught = taught(&bundle, examples?)?;
    let fitted = thread_pool(None)?.install(|| fit(&bundle, &taught));
    Ok(fitted?.lesson)
}

fn taught(bundle: &Bundle, examples: Option<TaughtExamples>) -> Result<TaughtExamples, Error> {
    let (manifest, head) = (bundle.manifest(), bundle.head());
    if let Some(mut taught) = examples {
        // Earlier versions kept them in the head alone.
        if taught.negatives.is_empty() {
            taught.negatives.clone_from(&head.negative_embeddings);
        }
        return Ok(taught);
    }
    if manifest.head != HeadKind::Static {
        return Err(Error::Teaching {
            bundle: bundle.folder().to_owned(),
            reason: TeachError::Head {
                found: manifest.head,
            },
        });
    }
    Ok(TaughtExamples::untaught(manifest, head))
}

struct Fitted {
    head: Head,
    manifest: Manifest,
    lesson: Lesson,
}

/// The head for what the bundle was taught, and the manifest with it.
fn fit(bundle: &Bundle, taught: &TaughtExamples) -> Result<Fitted, Error> {
    let old = bundle.manifest();
    let known = taught.known_classes();
    let names: Vec<String> = known
        .iter()
        .map(|&i| taught.classes[i].name.clone())
        .collect();
    let none = names.iter().position(|name| name == NONE_OF_THESE);
    if names.len() == usize::from(none.is_some()) {
        return Err(Error::Teaching {
            bundle: bundle.folder().to_owned(),
            reason: TeachError::NoClass,
        });
    }
    let mut places = vec![0; taught.classes.len()];
    for (place, &class) in known.iter().enumerate() {
        places[class] = place;
    }
    let untaught = &taught.untaught;
    let logits = Logits {
        scale: old.logit_scale,
        score: untaught.score.uncalibrated(),
    };
    let shown = Shown {
        size: taught.embedding_size,
        texts: known
            .iter()
            .map(|&i| taught.classes[i].text.as_deref())
            .collect(),
        examples: (taught.present_examples())
            .map(|e| Example {
                embedding: &e.embedding,
                class: places[e.class],
                burst: e.burst,
            })
            .collect(),
        background: (bundle.golden().images.iter())
            .map(|i| &*i.embedding)
            .collect(),
        logits,
    };
    let mut chosen = shown.choose();
    // Other heads' similarities are not those with texts, which a text of nothing could be compared with.
    let (negatives, negative_embeddings) = match chosen.kind {
        TaughtHead::ZeroShot => (untaught.unknown.negatives.clone(), taught.negatives.clone()),
        TaughtHead::Prototypes | TaughtHead::Cache | TaughtHead::Linear => (vec![], vec![]),
    };
    let head = Head {
        classes: known.len(),
        class_embeddings: std::mem::take(&mut chosen.class_embeddings),
        negative_embeddings,
        form: std::mem::take(&mut chosen.form),
        ..bundle.head().clone()
    };
    let mut manifest = Manifest {
        classes: names,
        head: HeadKind::Static,
        cache: None,
        temperature: 1.0,
        score: logits.score,
        calibration: None,
        method: Some(METHOD.into()),
        unknown: UnknownPolicy {
            negatives,
            class: none,
            ..UnknownPolicy::default()
        },
        ..old.clone()
    };
    match &head.form {
        HeadForm::ClassEmbeddings => {}
        HeadForm::Linear { .. } => manifest.head = HeadKind::Linear,
        HeadForm::Cache(terms) => {
            manifest.head = HeadKind::Cache;
            manifest.cache = Some(CacheInfo {
                alpha: terms.weight * old.logit_scale,
                beta: terms.sharpness,
            });
        }
    }
    if chosen.kind == TaughtHead::ZeroShot {
        manifest.method = untaught.method.clone();
    }
    let is_untaught = chosen.kind == TaughtHead::ZeroShot
        && manifest.classes == untaught.classes
        && known.iter().all(|&i| taught.classes[i].span.added == 0);
    let mut answers = shown.answers(&chosen.held_out);
    for (answer, example) in answers.iter_mut().zip(&shown.examples) {
        answer.negative = head.negative_similarity(example.embedding);
    }
    let counts = shown.counts();
    let unseen = (0..counts.len()).filter(|&i| counts[i] == 0 && Some(i) != none);
    let unseen = unseen.count();
    let showings = shown.showings();
    let once = (showings.iter().zip(&counts)).filter(|(shown, count)| **shown == 1 && **count > 1);
    let once = once.count();
    let fitted = match unseen {
        _ if is_untaught && untaught.calibration.is_some() => {
            Err("the head is the one of the export, with its thresholds".into())
        }
        0 if once > 0 => Err(format!(
            "{once} classes were shown in one burst only; show them once more"
        )),
        0 => fit_calibration(&answers, none, logits, KEEP).map_err(|reason| reason.to_string()),
        unseen => Err(format!("{unseen} classes have no examples")),
    };
    let no_thresholds = match fitted {
        Ok(fitted) => {
            fitted.record(&mut manifest);
            None
        }
        Err(reason) => {
            if is_untaught {
                manifest.temperature = untaught.temperature;
                manifest.score = untaught.score;
                manifest.calibration = untaught.calibration;
                manifest.unknown = UnknownPolicy {
                    class: none,
                    ..untaught.unknown.clone()
                };
            } else if unseen > 0 {
                // Such heads compare with the texts, as the export's did.
                manifest.temperature = untaught.temperature;
                manifest.score = untaught.score;
            } else if chosen.kind != TaughtHead::ZeroShot {
                (manifest.temperature, manifest.score) = temperature_and_score(&answers, logits);
            }
            Some(reason)
        }
    };
    let lesson = lesson_of(taught, &known, &shown, &chosen, no_thresholds);
    Ok(Fitted {
        head,
        manifest,
        lesson,
    })
}

fn lesson_of(
    taught: &TaughtExamples,
    known: &[usize],
    shown: &Shown,
    chosen: &Chosen,
    no_thresholds: Option<String>,
) -> Lesson {
    let mut right = vec![0; known.len()];
    for (is_right, example) in shown.right(&chosen.held_out).zip(&shown.examples) {
        right[example.class] += usize::from(is_right);
    }
    let (counts, showings) = (shown.counts(), shown.showings());
    let class_lesson = |class: usize, accuracy| {
        let own = taught.present_examples().filter(|e| e.class == class);
        ClassLesson {
            name: taught.classes[class].name.clone(),
            has_text: taught.classes[class].text.is_some(),
            examples: own
                .map(|e| ExampleInfo {
                    id: e.id,
                    time: UNIX_EPOCH
                        .checked_add(Duration::from_secs(e.time))
                        .unwrap_or(UNIX_EPOCH),
                })
                .collect(),
            accuracy,
        }
    };
    // What a class was shown in one burst says nothing, nor does an example that is its only basis.
    let (mut measured, mut recognised) = (0, 0);
    let mut classes: Vec<ClassLesson> = (known.iter().enumerate())
        .map(|(place, &class)| {
            let count = counts[place];
            let by_text = count == 1 && taught.classes[class].text.is_some();
            let accuracy =
                (showings[place] > 1 || by_text).then(|| right[place] as f32 / count as f32);
            if accuracy.is_some() {
                measured += count;
                recognised += right[place];
            }
            class_lesson(class, accuracy)
        })
        .collect();
    let waiting = (0..taught.classes.len())
        .filter(|i| taught.classes[*i].span.is_present() && !known.contains(i));
    classes.extend(waiting.map(|class| class_lesson(class, None)));
    let all = shown.examples.len();
    Lesson {
        head: chosen.kind,
        accuracy: (measured > 0).then(|| recognised as f32 / measured as f32),
        accuracies: if all > 0 {
            chosen.accuracies.clone()
        } else {
            vec![]
        },
        classes,
        no_thresholds,
        undo_steps: taught.step - taught.oldest_step,
    }
}
