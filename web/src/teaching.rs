//! The thread that teaches the bundle what clients show: one change at a time.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::body::Bytes;
use pinhole::internal::catch_panic;
use pinhole::{
    ClassText, Classifier, DecodeOptions, Lesson, NONE_OF_THESE, Teacher, decode_image, lesson,
};
use serde::Serialize;
use tokio::sync::oneshot;

use crate::error::WebError;
use crate::live::{LogLevel, Shared};
use crate::pictures::LiveFrame;

/// Changes that wait for their turn.
const QUEUE: usize = 4;
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
}

/// Why a request was not done.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Too many wait.
    Busy,
    /// It makes no sense, or the bundle cannot be taught.
    Wrong(String),
}

struct Job {
    request: Request,
    reply: oneshot::Sender<Result<String, Refused>>,
}

/// The thread's inlet.
pub(crate) struct Classroom {
    jobs: SyncSender<Job>,
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
        let (jobs, receiver) = sync_channel(QUEUE);
        let showing = Arc::<Mutex<Option<Showing>>>::default();
        let teaching = Teaching {
            shared,
            decode,
            showing: showing.clone(),
        };
        let thread = std::thread::Builder::new().name("teach".into());
        let spawned = thread.spawn(move || {
            crate::threads::yield_to_classification();
            teaching.run(&receiver);
        });
        spawned.map_err(|error| WebError::Thread {
            name: "teach",
            error,
        })?;
        Ok(Self { jobs, showing })
    }

    /// Does what a client asks for; what the bundle knows then, as JSON.
    pub(crate) async fn ask(&self, request: Request) -> Result<String, Refused> {
        let (reply, answer) = oneshot::channel();
        match self.jobs.try_send(Job { request, reply }) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(Refused::Busy),
            Err(TrySendError::Disconnected(_)) => {
                return Err(Refused::Wrong("the thread has ended".into()));
            }
        }
        let gone = |_| Refused::Wrong("the thread has ended".into());
        answer.await.map_err(gone)?
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
    fn run(&self, jobs: &Receiver<Job>) {
        // What the bundle of this classifier knows.
        let mut known: Option<(Arc<Classifier>, String)> = None;
        for Job { request, reply } in jobs {
            // The client has gone, or was told to try again.
            if reply.is_closed() {
                continue;
            }
            let classifier = self.shared.classifier();
            let listed = (known.as_ref()).filter(|(of, _)| Arc::ptr_eq(of, &classifier));
            let answer = match (&request, listed) {
                (Request::List, Some((_, json))) => Ok(json.clone()),
                (Request::List, None) => {
                    let listed = catch_panic(|| list(&classifier)).unwrap_or_else(Err);
                    if let Ok(json) = &listed {
                        known = Some((classifier, json.clone()));
                    }
                    listed
                }
                _ => {
                    let changed = catch_panic(|| self.change(request, &classifier));
                    changed.unwrap_or_else(Err).map(|(classifier, json)| {
                        known = Some((classifier, json.clone()));
                        json
                    })
                }
            };
            let _ = reply.send(answer.map_err(Refused::Wrong));
        }
    }

    /// Changes the bundle, and uses it from the next frame on.
    fn change(
        &self,
        request: Request,
        classifier: &Arc<Classifier>,
    ) -> Result<(Arc<Classifier>, String), String> {
        // Before the bundle is locked, because it takes long.
        let (request, embeddings) = self.embed(request, classifier)?;
        let place = self.shared.place();
        let teacher = Teacher::open(&place.folder, Some(1), &mut |_| {});
        let mut teacher = teacher.map_err(|e| e.to_string())?;
        teacher
            .check_encoder(classifier)
            .map_err(|e| e.to_string())?;
        let done = match &request {
            Request::List => Ok(()),
            Request::AddClass(name) => teacher.add_class(name, ClassText::NameIfPossible),
            Request::RemoveClass(name) => teacher.remove_class(name),
            Request::Learn(class) | Request::LearnImage(class, _) => {
                teacher.add_examples(class, &embeddings).map(drop)
            }
            Request::RemoveExample(class, id) => {
                let known = lesson(classifier.bundle()).map_err(|e| e.to_string())?;
                let mut classes = known.classes.iter().filter(|c| c.name == *class);
                if !classes.any(|c| c.examples.iter().any(|example| example.id == *id)) {
                    return Err(format!(
                        "example {id}: expected one of the class {class:?}, found none"
                    ));
                }
                teacher.remove_example(*id)
            }
            Request::Undo => teacher.undo(),
        };
        done.map_err(|e| e.to_string())?;
        let lesson = teacher.save().map_err(|e| e.to_string())?;
        let new = place
            .builder
            .open(&place.folder)
            .map_err(|e| e.to_string())?;
        let new = Arc::new(new);
        self.shared.set_classifier(new.clone());
        let text = match &request {
            Request::List => String::new(),
            Request::AddClass(name) => format!("class added: {name}"),
            Request::RemoveClass(name) => format!("class removed: {name}"),
            Request::Learn(class) | Request::LearnImage(class, _) => {
                format!("{} examples learned of: {class}", embeddings.len())
            }
            Request::RemoveExample(class, id) => format!("example {id} removed of: {class}"),
            Request::Undo => "the last change was taken back".into(),
        };
        self.shared.log(SystemTime::now(), LogLevel::Info, &text);
        Ok((new, json(&lesson)?))
    }

    /// The embeddings of what is to be learned.
    fn embed(
        &self,
        request: Request,
        classifier: &Classifier,
    ) -> Result<(Request, Vec<Vec<f32>>), String> {
        let pixels = match &request {
            Request::Learn(class) => {
                let showing = (self.showing.lock().unwrap_or_else(PoisonError::into_inner))
                    .take_if(|showing| showing.class == *class)
                    .filter(|showing| showing.began.elapsed() < CAPTURE_TIME);
                match showing {
                    Some(showing) => showing.pixels,
                    None => {
                        let frame = self.shared.pictures.frame();
                        vec![
                            frame
                                .ok_or("expected a frame of the camera, found none")?
                                .pixels()?,
                        ]
                    }
                }
            }
            Request::LearnImage(_, bytes) => {
                let image = decode_image(bytes, &self.decode).map_err(|e| e.to_string())?;
                vec![
                    classifier
                        .preprocess(&image)
                        .map_err(|e| e.to_string())?
                        .data,
                ]
            }
            _ => return Ok((request, vec![])),
        };
        let embeddings: Result<Vec<_>, _> = pixels
            .iter()
            .map(|pixels| classifier.embed_pixels(pixels))
            .collect();
        Ok((request, embeddings.map_err(|e| e.to_string())?))
    }
}

fn list(classifier: &Classifier) -> Result<String, String> {
    json(&lesson(classifier.bundle()).map_err(|e| e.to_string())?)
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

fn json(lesson: &Lesson) -> Result<String, String> {
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
    serde_json::to_string(&classes).map_err(|e| e.to_string())
}
