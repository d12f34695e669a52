//! The thread that teaches the bundle what clients show: one change at a time.

use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::body::Bytes;
use pinhole::internal::catch_panic;
use pinhole::{
    ClassText, Classifier, DecodeOptions, Lesson, NONE_OF_THESE, Teacher, decode_image, lesson,
};
use serde::Serialize;

use crate::error::WebError;
use crate::fault::{Fault, panicked};
use crate::jobs::{Job, Jobs};
use crate::live::{LogLevel, Shared};
use crate::pictures::LiveFrame;
use crate::upload::SentBundle;

/// Changes that wait for their turn.
const QUEUE: usize = 4;
/// How long a client waits for a change of the classes.
const TEACHING_TIME: Duration = Duration::from_secs(180);
/// Most frames of one showing.
const CAPTURES: usize = 32;
/// A showing that has not ended after this time is forgotten.
const CAPTURE_TIME: Duration = Duration::from_secs(60);

/// What a client asks for.
pub(crate) enum Request {
    /// What the bundle knows.
    List,
    /// A class of this name.
    AddClass(String),
    /// Removes a class with its examples.
    RemoveClass(String),
    /// Learns what was captured of a class, or else the newest frame.
    Learn(String),
    /// Learns an image file as an example of a class.
    LearnImage(String, Bytes),
    /// Removes an example.
    RemoveExample(String, u64),
    /// Takes back the last change.
    Undo,
    /// Uses another bundle.
    Exchange(Box<SentBundle>),
}

/// The thread's inlet.
pub(crate) struct Classroom {
    jobs: Jobs<Request>,
    showing: Arc<Mutex<Option<Showing>>>,
}

/// What was captured of a class.
struct Showing {
    class: String,
    /// What the encoder sees of each frame, u8 [S, S, 3].
    pixels: Vec<Vec<u8>>,
    /// When the last frame was captured: each is taken once.
    last: SystemTime,
    began: Instant,
}

impl Classroom {
    pub(crate) fn start(shared: Arc<Shared>, decode: DecodeOptions) -> Result<Self, WebError> {
        let showing = Arc::<Mutex<Option<Showing>>>::default();
        let teaching = Teaching {
            shared,
            decode,
            showing: showing.clone(),
        };
        let busy = "other changes are being made";
        let jobs = Jobs::start("teach", QUEUE, busy, move |jobs| teaching.run(jobs))?;
        Ok(Self { jobs, showing })
    }

    /// Does what a client asks for; what the bundle knows then, as JSON.
    pub(crate) async fn ask(&self, request: Request) -> Result<String, Fault> {
        // Another program may be changing the bundle.
        self.jobs.ask(request, TEACHING_TIME).await
    }

    /// Keeps a frame for [`Request::Learn`]; the number of frames that are kept of the class.
    ///
    /// # Errors
    /// The frame cannot be preprocessed.
    pub(crate) fn capture(&self, class: &str, frame: &LiveFrame) -> Result<usize, String> {
        let mut showing = self.showing.lock().unwrap_or_else(PoisonError::into_inner);
        let current = showing
            .as_mut()
            .filter(|s| s.class == class && s.began.elapsed() < CAPTURE_TIME);
        if let Some(current) = &current
            && (current.last == frame.time || current.pixels.len() >= CAPTURES)
        {
            return Ok(current.pixels.len());
        }
        let pixels = frame.pixels()?;
        Ok(match current {
            Some(current) => {
                current.pixels.push(pixels);
                current.last = frame.time;
                current.pixels.len()
            }
            None => {
                *showing = Some(Showing {
                    class: class.into(),
                    pixels: vec![pixels],
                    last: frame.time,
                    began: Instant::now(),
                });
                1
            }
        })
    }
}

struct Teaching {
    shared: Arc<Shared>,
    decode: DecodeOptions,
    showing: Arc<Mutex<Option<Showing>>>,
}

impl Teaching {
    fn run(&self, jobs: &Receiver<Job<Request>>) {
        // What the bundle of this classifier knows.
        let mut known: Option<(Arc<Classifier>, String)> = None;
        for Job { request, reply } in jobs {
            if reply.is_closed() {
                continue;
            }
            let used = self.shared.classifier();
            let done = catch_panic(|| match (request, used) {
                (Request::Exchange(sent), used) => self.exchange(*sent, used.as_deref()),
                (_, None) => Err(Fault::no_bundle()),
                (Request::List, Some(used)) => {
                    let listed = (known.as_ref()).filter(|(of, _)| Arc::ptr_eq(of, &used));
                    if let Some((_, json)) = listed {
                        return Ok(json.clone());
                    }
                    let json = json(&lesson(&self.shared.place().folder)?)?;
                    known = Some((used, json.clone()));
                    Ok(json)
                }
                (request, Some(used)) => {
                    let (new, json) = self.change(request, &used)?;
                    known = Some((new, json.clone()));
                    Ok(json)
                }
            });
            let _ = reply.send(done.unwrap_or_else(|panic| Err(panicked(panic))));
        }
    }

    /// Uses a bundle that was sent, from the next frame on; its description as JSON.
    fn exchange(&self, sent: SentBundle, used: Option<&Classifier>) -> Result<String, Fault> {
        let (place, tested) = (self.shared.place(), sent.tested());
        sent.exchange(place, used.map(Classifier::bundle))?;
        // What was captured is of the former encoder.
        *self.showing.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let new = Arc::new(place.builder.open(&place.folder)?);
        self.shared.set_classifier(new.clone());
        let manifest = new.manifest();
        let exchanged = Exchanged {
            model: &manifest.model.name,
            precision: manifest.precision.to_string(),
            classes: manifest.classes.len(),
            tested,
        };
        let text = format!(
            "bundle exchanged for one that was sent: {}, {} classes",
            exchanged.model, exchanged.classes
        );
        self.shared.log(SystemTime::now(), LogLevel::Info, &text);
        to_json(&exchanged)
    }

    /// Changes the bundle, and uses it from the next frame on.
    fn change(
        &self,
        request: Request,
        classifier: &Arc<Classifier>,
    ) -> Result<(Arc<Classifier>, String), Fault> {
        // Before the bundle is locked, because it takes long.
        let embeddings = self.embed(&request, classifier)?;
        let place = self.shared.place();
        let mut teacher = Teacher::open(&place.folder, Some(1), &mut |_| {})?;
        teacher.check_encoder(classifier)?;
        let text = match request {
            Request::List | Request::Exchange(_) => String::new(),
            Request::AddClass(name) => {
                teacher.add_class(&name, ClassText::NameIfPossible)?;
                format!("class added: {name}")
            }
            Request::RemoveClass(name) => {
                teacher.remove_class(&name)?;
                format!("class removed: {name}")
            }
            Request::Learn(class) => {
                let learned = teacher.add_burst(&class, &embeddings)?.len();
                format!("{learned} examples learned of: {class}")
            }
            Request::LearnImage(class, _) => {
                teacher.add_examples(&class, &embeddings)?;
                format!("1 example learned of: {class}")
            }
            Request::RemoveExample(class, id) => {
                if teacher.class_of_example(id) != Some(class.as_str()) {
                    return Err(Fault::Missing(format!(
                        "example {id}: expected one of the class {class:?}, found none"
                    )));
                }
                teacher.remove_example(id)?;
                format!("example {id} removed of: {class}")
            }
            Request::Undo => {
                teacher.undo()?;
                "the last change was taken back".into()
            }
        };
        let lesson = teacher.save()?;
        let new = Arc::new(place.builder.open(&place.folder)?);
        self.shared.set_classifier(new.clone());
        self.shared.log(SystemTime::now(), LogLevel::Info, &text);
        Ok((new, json(&lesson)?))
    }

    /// The embeddings of what is to be learned.
    fn embed(&self, request: &Request, classifier: &Classifier) -> Result<Vec<Vec<f32>>, Fault> {
        let pixels = match request {
            Request::Learn(class) => {
                let showing = (self.showing.lock().unwrap_or_else(PoisonError::into_inner))
                    .take_if(|showing| showing.class == *class)
                    .filter(|showing| showing.began.elapsed() < CAPTURE_TIME);
                match showing {
                    Some(showing) => showing.pixels,
                    None => {
                        let frame = self.shared.pictures.frame().ok_or_else(no_frame)?;
                        vec![frame.pixels().map_err(Fault::Request)?]
                    }
                }
            }
            Request::LearnImage(_, bytes) => {
                let image = decode_image(bytes, &self.decode);
                let image = image.map_err(|e| Fault::Request(e.to_string()))?;
                vec![classifier.preprocess(&image)?.data]
            }
            _ => return Ok(vec![]),
        };
        let embeddings = pixels.iter().map(|pixels| classifier.embed_pixels(pixels));
        Ok(embeddings.collect::<Result<_, _>>()?)
    }
}

pub(crate) fn no_frame() -> Fault {
    Fault::Conflict("expected a frame of the camera, found none; /api/state says how it is".into())
}

fn to_json(value: &impl Serialize) -> Result<String, Fault> {
    serde_json::to_string(value).map_err(|e| Fault::Server(e.to_string()))
}

/// The answer to a bundle that was sent; its fields are a contract.
#[derive(Serialize)]
struct Exchanged<'a> {
    model: &'a str,
    precision: String,
    /// Number of classes.
    classes: usize,
    /// Number of images of its self-test.
    tested: usize,
}

/// `/api/classes`; its fields are a contract.
#[derive(Serialize)]
struct Classes<'a> {
    /// How the classes are recognised.
    head: String,
    /// Share of the examples that are recognised without themselves; null without examples.
    accuracy: Option<f32>,
    classes: Vec<Class<'a>>,
    /// Name of the class of what is no other class.
    none_of_these: &'static str,
    undo_steps: u64,
}

#[derive(Serialize)]
struct Class<'a> {
    name: &'a str,
    /// Whether it is recognised by a text.
    has_text: bool,
    examples: Vec<Example>,
    accuracy: Option<f32>,
}

#[derive(Serialize)]
struct Example {
    id: u64,
    /// RFC 3339, UTC.
    time: String,
}

fn json(lesson: &Lesson) -> Result<String, Fault> {
    let classes = Classes {
        head: lesson.head.to_string(),
        accuracy: lesson.accuracy,
        classes: (lesson.classes.iter())
            .map(|class| Class {
                name: &class.name,
                has_text: class.has_text,
                examples: (class.examples.iter())
                    .map(|example| Example {
                        id: example.id,
                        time: humantime::format_rfc3339_seconds(example.time).to_string(),
                    })
                    .collect(),
                accuracy: class.accuracy,
            })
            .collect(),
        none_of_these: NONE_OF_THESE,
        undo_steps: lesson.undo_steps,
    };
    to_json(&classes)
}
