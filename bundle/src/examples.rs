//! `examples.safetensors`: what a bundle was taught on the board.
//!
//! ```text
//! embeddings        f32 [N, D]  of the examples, each of norm 1, in the order of the record
//! text_embeddings   f32 [T, D]  of the classes that have one, each of norm 1, in the order of the record
//! negative_embeddings  f32 [N, D]  of untaught.unknown.negatives, each of norm 1; not in files of earlier versions, nor
//!                               if there are none
//! __metadata__      "record": JSON, which is TaughtExamples without the two tensors
//! ```
//!
//! Nothing is removed at once: classes and examples keep the numbers of the steps that added and removed them
//! ([`Span`]), so that a step is undone by going back by one number. What was removed more than [`UNDO_STEPS`] steps ago is
//! dropped.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use pinhole_model::Score;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};

use crate::{Calibration, Error, Head, Manifest, UnknownPolicy};

/// Examples that are kept of one class; of more, the oldest are removed.
pub const EXAMPLES_PER_CLASS: usize = 64;
/// Examples in a file, with those that can come back by undoing.
pub const MAX_EXAMPLES: usize = 4096;
/// Steps that can be undone.
pub const UNDO_STEPS: u64 = 16;
/// The class of images that show none of the other classes ([`UnknownPolicy::class`]).
pub const NONE_OF_THESE: &str = "none of these";

/// Longest record in bytes: some 100 of each example and class.
const MAX_RECORD: usize = 8 << 20;
/// Greatest number of a step and of an example, which leaves room for all that follow.
const MAX_NUMBER: u64 = 1 << 53;
const EMBEDDINGS: &str = "embeddings";
const TEXTS: &str = "text_embeddings";
const NEGATIVES: &str = "negative_embeddings";
const RECORD: &str = "record";
/// As for class embeddings.
const NORM_TOLERANCE: f32 = 1e-3;

/// The contents of `examples.safetensors`.
#[derive(Clone, Debug, PartialEq)]
pub struct TaughtExamples {
    /// D, the length of an embedding.
    pub embedding_size: usize,
    /// The bundle before it was taught.
    pub untaught: Untaught,
    /// `[N, D]`, each row of norm 1: the negative embeddings of its head; empty in files of earlier versions.
    pub negatives: Vec<f32>,
    /// Number of the last step; 0 before the first.
    pub step: u64,
    /// The oldest state that undoing can go back to.
    pub oldest_step: u64,
    /// Greater than the id of any example.
    pub next_id: u64,
    /// Every class, in the bundle's order, also removed ones.
    pub classes: Vec<TaughtClass>,
    /// Every example, in the order in which they were added, also removed ones.
    pub examples: Vec<TaughtExample>,
}

/// What teaching replaces in the manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Untaught {
    /// [`Manifest::classes`].
    pub classes: Vec<String>,
    /// [`Manifest::temperature`].
    pub temperature: f32,
    /// [`Manifest::score`].
    #[serde(default, skip_serializing_if = "Score::is_softmax")]
    pub score: Score,
    /// [`Manifest::unknown`].
    pub unknown: UnknownPolicy,
    /// [`Manifest::calibration`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// [`Manifest::method`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
}

/// The steps at which something was added and removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Span {
    /// The step that added it; 0 for what the bundle had before.
    pub added: u64,
    /// The step that removed it, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed: Option<u64>,
}

impl Span {
    /// Whether it has not been removed.
    pub fn is_present(self) -> bool {
        self.removed.is_none()
    }
}

/// A class that a bundle has, or had before the last steps.
#[derive(Clone, Debug, PartialEq)]
pub struct TaughtClass {
    /// Its name; [`NONE_OF_THESE`] stands for what is no other class.
    pub name: String,
    /// Its class embedding `[D]` of norm 1 by the text encoder, if it has one.
    pub text: Option<Vec<f32>>,
    /// When it was added and removed.
    pub span: Span,
}

/// An example of a class.
#[derive(Clone, Debug, PartialEq)]
pub struct TaughtExample {
    /// Its number, which no other example of the bundle has.
    pub id: u64,
    /// Index in [`TaughtExamples::classes`].
    pub class: usize,
    /// When it was shown, in seconds since 1970.
    pub time: u64,
    /// The id of the first example of its burst, if it was shown in one.
    pub burst: Option<u64>,
    /// `[D]` of norm 1.
    pub embedding: Vec<f32>,
    /// When it was added and removed.
    pub span: Span,
}

/// [`TaughtExamples`] in JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    untaught: Untaught,
    step: u64,
    oldest_step: u64,
    next_id: u64,
    classes: Vec<ClassRecord>,
    examples: Vec<ExampleRecord>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClassRecord {
    name: String,
    /// Whether `text_embeddings` has a row of it.
    text: bool,
    steps: Span,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExampleRecord {
    id: u64,
    class: usize,
    time: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    burst: Option<u64>,
    steps: Span,
}

impl TaughtExamples {
    /// A bundle with this head of class embeddings before it is taught.
    pub fn untaught(manifest: &Manifest, head: &Head) -> Self {
        let embedding_size = manifest.model.embedding_size;
        let rows = (head.class_embeddings).chunks_exact(embedding_size.max(1));
        let span = Span {
            added: 0,
            removed: None,
        };
        Self {
            embedding_size,
            untaught: Untaught {
                classes: manifest.classes.clone(),
                temperature: manifest.temperature,
                score: manifest.score,
                unknown: manifest.unknown.clone(),
                calibration: manifest.calibration,
                method: manifest.method.clone(),
            },
            negatives: head.negative_embeddings.clone(),
            step: 0,
            oldest_step: 0,
            next_id: 1,
            classes: (manifest.classes.iter().zip(rows))
                .map(|(name, row)| TaughtClass {
                    name: name.clone(),
                    text: Some(row.to_vec()),
                    span,
                })
                .collect(),
            examples: vec![],
        }
    }

    /// Indices of the classes that images are compared with, in the order of the manifest: those that are present and
    /// have a text or an example.
    pub fn known_classes(&self) -> Vec<usize> {
        let shown: HashSet<usize> = self.present_examples().map(|e| e.class).collect();
        let classes = self.classes.iter().enumerate();
        classes
            .filter(|(i, c)| c.span.is_present() && (c.text.is_some() || shown.contains(i)))
            .map(|(i, _)| i)
            .collect()
    }

    /// The examples that have not been removed.
    pub fn present_examples(&self) -> impl Iterator<Item = &TaughtExample> {
        self.examples.iter().filter(|e| e.span.is_present())
    }

    /// Begins a step, and drops what was removed too long ago to be undone.
    pub fn begin_step(&mut self) {
        self.step += 1;
        self.oldest_step = self.oldest_step.max(self.step.saturating_sub(UNDO_STEPS));
        self.forget();
    }

    /// Makes room for `count` more examples: if there are more than [`MAX_EXAMPLES`] with those that undoing brings back, fewer
    /// steps can be undone, down to the current one. Returns whether there is room.
    pub fn make_room(&mut self, count: usize) -> bool {
        while self.examples.len() + count > MAX_EXAMPLES && self.oldest_step + 1 < self.step {
            self.oldest_step += 1;
            self.forget();
        }
        self.examples.len() + count <= MAX_EXAMPLES
    }

    /// Drops what was removed before the oldest state.
    fn forget(&mut self) {
        let oldest = self.oldest_step;
        let stays = |span: Span| span.removed.is_none_or(|step| step > oldest);
        self.examples.retain(|e| stays(e.span));
        let keep: Vec<bool> = self.classes.iter().map(|c| stays(c.span)).collect();
        self.retain_classes(&keep);
    }

    /// Takes the last step back.
    ///
    /// Returns whether there was one.
    pub fn undo(&mut self) -> bool {
        if self.step <= self.oldest_step {
            return false;
        }
        let step = self.step;
        let restore = |span: &mut Span| {
            if span.removed == Some(step) {
                span.removed = None;
            }
        };
        self.examples.retain(|e| e.span.added < step);
        self.examples.iter_mut().for_each(|e| restore(&mut e.span));
        let keep: Vec<bool> = self.classes.iter().map(|c| c.span.added < step).collect();
        self.retain_classes(&keep);
        self.classes.iter_mut().for_each(|c| restore(&mut c.span));
        self.step -= 1;
        true
    }

    /// Drops the classes that are not to be kept, with their examples.
    fn retain_classes(&mut self, keep: &[bool]) {
        let mut next = 0;
        let places: Vec<Option<usize>> = (keep.iter())
            .map(|keep| {
                let place = keep.then_some(next);
                next += usize::from(*keep);
                place
            })
            .collect();
        let mut index = 0;
        self.classes.retain(|_| {
            index += 1;
            keep[index - 1]
        });
        self.examples.retain_mut(|e| match places[e.class] {
            Some(place) => {
                e.class = place;
                true
            }
            None => false,
        });
    }

    pub(crate) fn to_bytes(&self, path: &Path) -> Result<Vec<u8>, Error> {
        let malformed = |reason: String| Error::Malformed {
            path: path.to_owned(),
            expected: "valid taught examples",
            reason,
        };
        if self.examples.len() > MAX_EXAMPLES {
            let found = self.examples.len();
            return Err(malformed(format!(
                "expected at most {MAX_EXAMPLES} examples, found {found}"
            )));
        }
        let record = Record {
            untaught: self.untaught.clone(),
            step: self.step,
            oldest_step: self.oldest_step,
            next_id: self.next_id,
            classes: (self.classes.iter())
                .map(|c| ClassRecord {
                    name: c.name.clone(),
                    text: c.text.is_some(),
                    steps: c.span,
                })
                .collect(),
            examples: (self.examples.iter())
                .map(|e| ExampleRecord {
                    id: e.id,
                    class: e.class,
                    time: e.time,
                    burst: e.burst,
                    steps: e.span,
                })
                .collect(),
        };
        let record = serde_json::to_string(&record).map_err(|e| malformed(e.to_string()))?;
        if record.len() > MAX_RECORD {
            let found = record.len();
            return Err(malformed(format!(
                "expected names and numbers of at most {MAX_RECORD} bytes, found {found}"
            )));
        }
        let le =
            |values: &[f32]| -> Vec<u8> { values.iter().flat_map(|v| v.to_le_bytes()).collect() };
        let examples: Vec<u8> = (self.examples.iter())
            .flat_map(|e| le(&e.embedding))
            .collect();
        let texts: Vec<u8> = (self.classes.iter())
            .filter_map(|c| c.text.as_ref())
            .flat_map(|text| le(text))
            .collect();
        let negatives = le(&self.negatives);
        let mut tensors = vec![(EMBEDDINGS, &examples), (TEXTS, &texts)];
        if !negatives.is_empty() {
            tensors.push((NEGATIVES, &negatives));
        }
        let mut views = vec![];
        for (name, bytes) in tensors {
            let rows = bytes.len() / 4 / self.embedding_size.max(1);
            let shape = vec![rows, self.embedding_size];
            let view = TensorView::new(Dtype::F32, shape, bytes);
            views.push((name, view.map_err(|e| malformed(e.to_string()))?));
        }
        let metadata = HashMap::from([(RECORD.to_owned(), record)]);
        safetensors::serialize(views, Some(metadata)).map_err(|e| malformed(e.to_string()))
    }

    pub(crate) fn from_bytes(
        path: &Path,
        bytes: &[u8],
        manifest: &Manifest,
    ) -> Result<Self, Error> {
        let malformed = |reason: String| Error::Malformed {
            path: path.to_owned(),
            expected: "valid taught examples",
            reason,
        };
        let (_, header) =
            SafeTensors::read_metadata(bytes).map_err(|e| malformed(e.to_string()))?;
        let file = SafeTensors::deserialize(bytes).map_err(|e| malformed(e.to_string()))?;
        let record = header.metadata().as_ref().and_then(|m| m.get(RECORD));
        let record =
            record.ok_or_else(|| Error::field(path, "__metadata__.record", "a record", "none"))?;
        if record.len() > MAX_RECORD {
            let expected = format!("at most {MAX_RECORD} bytes");
            return Err(Error::field(
                path,
                "__metadata__.record",
                expected,
                record.len(),
            ));
        }
        let record: Record = pinhole_fs::from_json(record.as_bytes())
            .map_err(|e| malformed(format!("__metadata__.record: {e}")))?;
        let embedding_size = manifest.model.embedding_size;
        let rows = |name: &str, count: usize| {
            let tensor = file
                .tensor(name)
                .map_err(|_| Error::field(path, name, "a tensor of this name", "none"))?;
            let shape = [count, embedding_size];
            if tensor.dtype() != Dtype::F32 || tensor.shape() != shape {
                let expected = format!("f32 {shape:?}");
                let found = format!("{:?} {:?}", tensor.dtype(), tensor.shape());
                return Err(Error::field(path, name, expected, found));
            }
            let (values, _) = tensor.data().as_chunks();
            let values: Vec<f32> = values.iter().map(|b| f32::from_le_bytes(*b)).collect();
            let rows: Vec<Vec<f32>> = values
                .chunks_exact(embedding_size)
                .map(<[f32]>::to_vec)
                .collect();
            for (i, row) in rows.iter().enumerate() {
                let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
                // NaN must fail too.
                if (norm - 1.0).abs() < NORM_TOLERANCE {
                    continue;
                }
                let field = format!("{name}[{i}]");
                let found = format!("norm {norm}");
                return Err(Error::field(path, field, "a vector of norm 1", found));
            }
            Ok(rows)
        };
        let texts = record.classes.iter().filter(|c| c.text).count();
        let mut texts = rows(TEXTS, texts)?.into_iter();
        let embeddings = rows(EMBEDDINGS, record.examples.len())?;
        let negatives = match file.tensor(NEGATIVES) {
            Ok(_) => rows(NEGATIVES, record.untaught.unknown.negatives.len())?.concat(),
            Err(_) => vec![],
        };
        let taught = Self {
            embedding_size,
            untaught: record.untaught,
            negatives,
            step: record.step,
            oldest_step: record.oldest_step,
            next_id: record.next_id,
            classes: (record.classes.into_iter())
                .map(|c| TaughtClass {
                    name: c.name,
                    text: if c.text { texts.next() } else { None },
                    span: c.steps,
                })
                .collect(),
            examples: (record.examples.into_iter().zip(embeddings))
                .map(|(e, embedding)| TaughtExample {
                    id: e.id,
                    class: e.class,
                    time: e.time,
                    burst: e.burst,
                    embedding,
                    span: e.steps,
                })
                .collect(),
        };
        taught.validate(path, manifest)?;
        Ok(taught)
    }

    fn validate(&self, path: &Path, manifest: &Manifest) -> Result<(), Error> {
        let error = |field: String, expected: &str, found: String| {
            Err(Error::field(
                path,
                format!("record.{field}"),
                expected,
                found,
            ))
        };
        let steps = self.step.checked_sub(self.oldest_step);
        if steps.is_none_or(|steps| steps > UNDO_STEPS) || self.step > MAX_NUMBER {
            let found = format!("{} to {}", self.oldest_step, self.step);
            let expected = format!("at most {UNDO_STEPS} steps in ascending order");
            return error("step".into(), &expected, found);
        }
        if self.next_id > MAX_NUMBER {
            let expected = format!("at most {MAX_NUMBER}");
            return error("next_id".into(), &expected, self.next_id.to_string());
        }
        if self.examples.len() > MAX_EXAMPLES {
            let expected = format!("at most {MAX_EXAMPLES}");
            let found = self.examples.len().to_string();
            return error("examples".into(), &expected, found);
        }
        let is_span = |span: Span| {
            let removed = span
                .removed
                .is_none_or(|at| at >= span.added && at <= self.step);
            span.added <= self.step && removed
        };
        for (i, class) in self.classes.iter().enumerate() {
            if class.name.trim().is_empty() {
                let found = "an empty string".into();
                return error(format!("classes[{i}].name"), "a name", found);
            }
            if !is_span(class.span) {
                let found = format!("{:?}", class.span);
                return error(format!("classes[{i}].steps"), "steps of the record", found);
            }
        }
        let mut ids = HashSet::new();
        for (i, example) in self.examples.iter().enumerate() {
            if example.id >= self.next_id || !ids.insert(example.id) {
                let found = example.id.to_string();
                let expected = "a number of its own below next_id";
                return error(format!("examples[{i}].id"), expected, found);
            }
            if let Some(burst) = example.burst.filter(|burst| *burst > example.id) {
                let expected = "the id of it or an earlier example";
                return error(format!("examples[{i}].burst"), expected, burst.to_string());
            }
            let class = self.classes.get(example.class);
            let in_class = class.is_some_and(|class| {
                let left = |at| example.span.removed.is_some_and(|removed| removed <= at);
                example.span.added >= class.span.added && class.span.removed.is_none_or(left)
            });
            if !in_class {
                let found = example.class.to_string();
                let expected = "a class that is there as long as the example";
                return error(format!("examples[{i}].class"), expected, found);
            }
            if !is_span(example.span) {
                let found = format!("{:?}", example.span);
                return error(format!("examples[{i}].steps"), "steps of the record", found);
            }
        }
        let known = self.known_classes();
        let names = known.iter().map(|&i| &self.classes[i].name);
        if !names.eq(&manifest.classes) {
            let found = format!("{} others", known.len());
            return error("classes".into(), "the classes of the manifest", found);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn present(added: u64) -> Span {
        Span {
            added,
            removed: None,
        }
    }

    fn taught() -> TaughtExamples {
        TaughtExamples {
            embedding_size: 2,
            untaught: Untaught {
                classes: vec!["cat".into()],
                temperature: 0.7,
                score: Score::Softmax,
                unknown: UnknownPolicy::default(),
                calibration: None,
                method: Some("CoOp".into()),
            },
            negatives: vec![],
            step: 0,
            oldest_step: 0,
            next_id: 1,
            classes: vec![TaughtClass {
                name: "cat".into(),
                text: Some(vec![1.0, 0.0]),
                span: present(0),
            }],
            examples: vec![],
        }
    }

    fn add(taught: &mut TaughtExamples, class: usize) {
        let (id, step) = (taught.next_id, taught.step);
        taught.next_id += 1;
        taught.examples.push(TaughtExample {
            id,
            class,
            time: 1_700_000_000 + id,
            burst: (id > 1).then_some(2),
            embedding: vec![0.6, 0.8],
            span: present(step),
        });
    }

    fn add_class(taught: &mut TaughtExamples, name: &str) {
        let span = present(taught.step);
        taught.classes.push(TaughtClass {
            name: name.into(),
            text: None,
            span,
        });
    }

    fn manifest(classes: &[&str]) -> Manifest {
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/demo/manifest.json");
        let bytes = std::fs::read(&demo).unwrap();
        let mut manifest = crate::read::parse_manifest(&demo, &bytes).unwrap();
        manifest.model.embedding_size = 2;
        manifest.classes = classes.iter().map(|&name| name.into()).collect();
        manifest
    }

    const PATH: &str = "examples.safetensors";

    #[test]
    fn what_is_written_is_read() {
        let mut written = taught();
        written.begin_step();
        add_class(&mut written, "mug");
        add(&mut written, 1);
        add(&mut written, 0);
        written.begin_step();
        written.examples[1].span.removed = Some(2);
        written.untaught.unknown.negatives = vec!["a wall".into()];
        written.negatives = vec![0.8, -0.6];
        let bytes = written.to_bytes(Path::new(PATH)).unwrap();
        let read = TaughtExamples::from_bytes(Path::new(PATH), &bytes, &manifest(&["cat", "mug"]));
        assert_eq!(read.unwrap(), written);
    }

    /// If this fails, undoing gives another state than the one before.
    #[test]
    fn each_step_can_be_undone_up_to_the_limit() {
        let mut state = taught();
        let mut states = vec![state.clone()];
        for round in 0..20 {
            state.begin_step();
            let step = state.step;
            add_class(&mut state, &format!("class {round}"));
            let last = state.classes.len() - 1;
            add(&mut state, last);
            add(&mut state, 0);
            if round % 3 == 2 {
                // The class of the step before, with its example.
                state.classes[last - 1].span.removed = Some(step);
                for e in state.examples.iter_mut().filter(|e| e.class == last - 1) {
                    e.span.removed = Some(step);
                }
            }
            states.push(state.clone());
        }
        let visible = |state: &TaughtExamples| {
            let known = state.known_classes();
            let names: Vec<String> = known
                .iter()
                .map(|&i| state.classes[i].name.clone())
                .collect();
            let examples: Vec<(u64, String)> = (state.present_examples())
                .map(|e| (e.id, state.classes[e.class].name.clone()))
                .collect();
            (names, examples)
        };
        for expected in states[..20].iter().rev().take(UNDO_STEPS as usize) {
            assert!(state.undo());
            assert_eq!(visible(&state), visible(expected));
        }
        assert!(!state.undo());
        assert_eq!(visible(&state), visible(&states[4]));
    }

    #[test]
    fn what_was_removed_long_ago_is_dropped() {
        let mut state = taught();
        state.begin_step();
        add_class(&mut state, "mug");
        add(&mut state, 1);
        state.begin_step();
        state.classes[1].span.removed = Some(2);
        state.examples[0].span.removed = Some(2);
        for _ in 0..UNDO_STEPS {
            state.begin_step();
        }
        assert_eq!((state.classes.len(), state.examples.len()), (1, 0));
    }

    #[test]
    fn a_full_file_forgets_steps_before_it_refuses_examples() {
        let mut state = taught();
        state.begin_step();
        for _ in 0..MAX_EXAMPLES {
            add(&mut state, 0);
        }
        for step in 2..=4 {
            state.begin_step();
            state.examples[step as usize].span.removed = Some(step);
        }
        assert!(state.make_room(1));
        assert_eq!(state.examples.len(), MAX_EXAMPLES - 1);
        assert!(state.make_room(2));
        // The current step can still be undone, so what it removed stays.
        assert!(!state.make_room(3));
        assert_eq!(state.examples.len(), MAX_EXAMPLES - 2);
        assert!(state.undo());
        assert!(!state.undo());
        assert_eq!(state.present_examples().count(), MAX_EXAMPLES - 2);
    }

    #[test]
    fn contradictions_are_errors_that_name_the_field() {
        let mut good = taught();
        good.begin_step();
        add(&mut good, 0);
        let error = |taught: &TaughtExamples, classes: &[&str]| {
            let bytes = taught.to_bytes(Path::new(PATH)).unwrap();
            TaughtExamples::from_bytes(Path::new(PATH), &bytes, &manifest(classes))
                .unwrap_err()
                .to_string()
        };
        let changed = |change: fn(&mut TaughtExamples)| {
            let mut taught = good.clone();
            change(&mut taught);
            taught
        };
        for (change, part) in [
            (
                (|t| t.examples[0].class = 7) as fn(&mut TaughtExamples),
                "examples[0].class",
            ),
            (|t| t.examples[0].id = 9, "examples[0].id"),
            (|t| t.examples[0].burst = Some(2), "examples[0].burst"),
            (|t| t.examples[0].span.added = 5, "examples[0].steps"),
            (|t| t.examples[0].embedding[0] = f32::NAN, "embeddings[0]"),
            (
                |t| t.classes[0].text = Some(vec![2.0, 0.0]),
                "text_embeddings[0]",
            ),
            (|t| t.classes[0].span.removed = Some(1), "examples[0].class"),
            // Undoing would leave the example without its class.
            (
                |t| {
                    t.step += 1;
                    t.classes[0].span.removed = Some(t.step - 1);
                    t.examples[0].span.removed = Some(t.step);
                },
                "examples[0].class",
            ),
            (
                |t| {
                    t.classes[0].span.added = t.step;
                    t.examples[0].span.added = t.step - 1;
                },
                "examples[0].class",
            ),
            (|t| t.classes[0].name = " ".into(), "classes[0].name"),
            (|t| t.oldest_step = 9, "record.step"),
            (|t| t.negatives = vec![0.6, 0.8], "negative_embeddings"),
        ] {
            let found = error(&changed(change), &["cat"]);
            assert!(found.contains(PATH) && found.contains(part), "{found}");
        }
        let found = error(&good, &["dog"]);
        assert!(found.contains("the classes of the manifest"), "{found}");
    }
}
