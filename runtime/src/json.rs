//! What commands and the web server print as JSON; its fields are contracts.

use std::borrow::Cow;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use crate::camera::{FrameAnswer, SceneState};
use crate::classification::{Classification, Latency, Ranked};
use crate::standard_streams::json_path;
use crate::teaching::{ClassLesson, Lesson};

/// An entry of `top`.
#[derive(Clone, Debug, Serialize)]
pub struct TopClass<'a> {
    class: &'a str,
    index: usize,
    probability: f32,
    similarity: f32,
}

/// The best `top` classes.
pub fn top_classes(ranking: &[Ranked], top: usize) -> Vec<TopClass<'_>> {
    (ranking.iter().take(top))
        .map(|c| TopClass {
            class: &c.name,
            index: c.index,
            probability: c.probability,
            similarity: c.similarity,
        })
        .collect()
}

/// `latency_ms`: time of each stage in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct LatencyMs {
    decode: f64,
    preprocess: f64,
    encode: f64,
    head: f64,
    /// The sum.
    pub total: f64,
}

impl LatencyMs {
    /// The times of an image that took `decode` to decode.
    pub fn new(decode: Duration, latency: &Latency) -> Self {
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        Self {
            decode: ms(decode),
            preprocess: ms(latency.preprocess),
            encode: ms(latency.encode),
            head: ms(latency.head),
            total: ms(decode + latency.preprocess + latency.encode + latency.head),
        }
    }
}

/// The answer for one image, as `pinhole classify --json` prints it.
#[derive(Debug, Serialize)]
pub struct ImageAnswer<'a> {
    /// The file; bytes that are not UTF-8 as `\xff`, then backslashes doubled. Null if the image is not a file.
    pub image: Option<Cow<'a, str>>,
    top: Vec<TopClass<'a>>,
    score: &'static str,
    unknown: bool,
    latency_ms: LatencyMs,
}

impl<'a> ImageAnswer<'a> {
    /// The best `top` classes of `answer` for an image that took `decode` to decode.
    pub fn new(
        image: Option<Cow<'a, str>>,
        answer: &'a Classification,
        top: usize,
        decode: Duration,
    ) -> Self {
        Self {
            image,
            top: top_classes(&answer.ranking, top),
            score: answer.score.name(),
            unknown: answer.unknown,
            latency_ms: LatencyMs::new(decode, &answer.latency),
        }
    }
}

/// The answer for one frame, as `pinhole camera --json` prints it:
///
/// | field | meaning |
/// |---|---|
/// | `frame` | number of the frame, from 0; frames that were not used count too |
/// | `image` | the file, only for `--folder`; bytes that are not UTF-8 as `\xff`, then backslashes doubled |
/// | `time` | when the frame was captured, RFC 3339 in UTC |
/// | `captured_ms` | when the frame was captured, in milliseconds since the start |
/// | `age_ms` | age of the frame when its answer was ready |
/// | `top` | the most probable classes: `class`, `index`, and `probability` and `similarity`, both smoothed |
/// | `score` | what the probabilities are: `"softmax"`, one of the classes, or `"sigmoid"`, each class by itself |
/// | `unknown` | whether more than half of the smoothed frames show none of the classes |
/// | `state` | the current class, `"unknown"`, or null until a class has led for `--hysteresis` frames |
/// | `state_index` | index of that class in the bundle's list, which may have its name several times; else null |
/// | `event` | null, or `{"from", "from_index", "to", "to_index"}` in the frame in which the state changes |
/// | `still` | the scene has not changed: the last answer is repeated, not computed again |
/// | `dropped` | number of frames so far that a newer one replaced |
/// | `latency_ms` | `decode`, `preprocess`, `encode`, `head`, `total` |
#[derive(Debug, Serialize)]
pub struct FrameLine<'a> {
    frame: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<Cow<'a, str>>,
    time: String,
    captured_ms: f64,
    age_ms: f64,
    top: Vec<TopClass<'a>>,
    score: &'static str,
    unknown: bool,
    state: Option<&'a str>,
    state_index: Option<usize>,
    event: Option<Event<'a>>,
    still: bool,
    dropped: u64,
    latency_ms: LatencyMs,
}

#[derive(Debug, Serialize)]
struct Event<'a> {
    from: Option<&'a str>,
    from_index: Option<usize>,
    to: &'a str,
    to_index: Option<usize>,
}

impl<'a> FrameLine<'a> {
    /// The best `top` classes of `answer`. `time` is [`FrameAnswer::time`] as RFC 3339, `start` when the program started.
    pub fn new(answer: &'a FrameAnswer, top: usize, time: String, start: Instant) -> Self {
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        let change = answer.tracked.change.as_ref();
        Self {
            frame: answer.frame,
            image: answer.file.as_deref().map(json_path),
            time,
            captured_ms: ms(answer.captured.saturating_duration_since(start)),
            age_ms: ms(answer.age),
            top: top_classes(&answer.tracked.ranking, top),
            score: answer.tracked.score.name(),
            unknown: answer.tracked.unknown,
            state: answer.state.as_ref().map(SceneState::name),
            state_index: answer.state.as_ref().and_then(SceneState::index),
            event: change.map(|change| Event {
                from: change.from.as_ref().map(SceneState::name),
                from_index: change.from.as_ref().and_then(SceneState::index),
                to: change.to.name(),
                to_index: change.to.index(),
            }),
            still: answer.still,
            dropped: answer.counters.dropped,
            latency_ms: LatencyMs::new(answer.decode, &answer.latency),
        }
    }
}

/// What a bundle was taught:
///
/// | field | meaning |
/// |---|---|
/// | `head` | the chosen head: `"zero-shot"`, `"prototypes"`, `"cache"` or `"linear"` |
/// | `accuracy` | leave-one-out accuracy of the examples, 0 to 1; null without examples |
/// | `accuracies` | that of the best head of each kind: `head`, `accuracy` |
/// | `classes` | `class`, `text` (whether it has a class embedding by a text), `examples` (`id`, `time`), `accuracy` |
/// | `no_thresholds` | why no thresholds for "unknown" were fitted to the examples; null if they were |
/// | `undo_steps` | how many changes can be taken back |
#[derive(Clone, Debug, Serialize)]
pub struct LessonLine<'a> {
    head: String,
    accuracy: Option<f32>,
    accuracies: Vec<HeadAccuracy>,
    classes: Vec<ClassLine<'a>>,
    no_thresholds: Option<&'a str>,
    undo_steps: u64,
}

#[derive(Clone, Debug, Serialize)]
struct HeadAccuracy {
    head: String,
    accuracy: f32,
}

#[derive(Clone, Debug, Serialize)]
struct ClassLine<'a> {
    class: &'a str,
    text: bool,
    examples: Vec<ExampleLine>,
    accuracy: Option<f32>,
}

#[derive(Clone, Debug, Serialize)]
struct ExampleLine {
    id: u64,
    time: String,
}

impl<'a> LessonLine<'a> {
    /// `time` writes a time as RFC 3339.
    pub fn new(lesson: &'a Lesson, time: impl Fn(SystemTime) -> String) -> Self {
        let examples = |class: &ClassLesson| {
            let examples = class.examples.iter().map(|e| ExampleLine {
                id: e.id,
                time: time(e.time),
            });
            examples.collect()
        };
        Self {
            head: lesson.head.to_string(),
            accuracy: lesson.accuracy,
            accuracies: (lesson.accuracies.iter())
                .map(|(head, accuracy)| HeadAccuracy {
                    head: head.to_string(),
                    accuracy: *accuracy,
                })
                .collect(),
            classes: (lesson.classes.iter())
                .map(|class| ClassLine {
                    class: &class.name,
                    text: class.has_text,
                    examples: examples(class),
                    accuracy: class.accuracy,
                })
                .collect(),
            no_thresholds: lesson.no_thresholds.as_deref(),
            undo_steps: lesson.undo_steps,
        }
    }
}
