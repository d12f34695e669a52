//! `pinhole.Stream`: consecutive frames of one camera.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pinhole::camera::{SceneState, StateChange, Tracker, TrackerOptions};
use pinhole::{Latency, Ranked, Score};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::answer::{self, latency_dict, top, top_dicts};
use crate::classifier::{Classifier, within};
use crate::error::exception;
use crate::image::{Image, Order};

/// Consecutive frames of one camera, as `pinhole camera` answers them.
///
/// Probabilities are smoothed over frames, and the state changes when another class has led for long enough. With a
/// conditional head it also reuses class embeddings from frame to frame.
///
/// Args:
///     classifier: the classifier of the frames.
///     smoothing: time constant of the exponential moving average of the probabilities, in frames; 0 for none.
///     hysteresis: number of frames in a row that a class must lead to become the state, at least 1.
///     hysteresis_seconds: time for which it must lead, in addition.
///     margin: a lead in probability, 0 to 1, with which a class becomes the state at once; None for never.
///     cool_down_seconds: minimum time between two changes of the state.
#[pyclass(frozen, module = "pinhole")]
pub(crate) struct Stream {
    classifier: Py<Classifier>,
    state: Mutex<State>,
}

struct State {
    stream: pinhole::Stream<Arc<pinhole::Classifier>>,
    tracker: Tracker,
}

/// The options of a tracker.
///
/// # Errors
/// `ValueError`, which names the argument.
fn tracker_options(
    smoothing: f32,
    hysteresis: u32,
    hysteresis_seconds: f64,
    margin: Option<f32>,
    cool_down_seconds: f64,
) -> PyResult<TrackerOptions> {
    let pause = |name: &str, seconds: f64| {
        Duration::try_from_secs_f64(seconds).map_err(|_| {
            PyValueError::new_err(format!(
                "{name}: expected a number of seconds, 0 or more, found {seconds}"
            ))
        })
    };
    within("smoothing", Some(smoothing), 0.0, f32::MAX)?;
    if hysteresis == 0 {
        return Err(PyValueError::new_err(
            "hysteresis: expected 1 or more, found 0",
        ));
    }
    Ok(TrackerOptions {
        smoothing,
        hysteresis,
        hysteresis_time: pause("hysteresis_seconds", hysteresis_seconds)?,
        margin: within("margin", margin, 0.0, 1.0)?,
        cool_down: pause("cool_down_seconds", cool_down_seconds)?,
    })
}

#[pymethods]
impl Stream {
    #[new]
    #[pyo3(signature = (classifier, *, smoothing=1.0, hysteresis=2, hysteresis_seconds=0.0, margin=None,
                        cool_down_seconds=0.0))]
    fn new(
        classifier: &Bound<'_, Classifier>,
        smoothing: f32,
        hysteresis: u32,
        hysteresis_seconds: f64,
        margin: Option<f32>,
        cool_down_seconds: f64,
    ) -> PyResult<Self> {
        let options = tracker_options(
            smoothing,
            hysteresis,
            hysteresis_seconds,
            margin,
            cool_down_seconds,
        )?;
        let stream = pinhole::Stream::new(Arc::clone(classifier.get().inner()?));
        Ok(Self {
            classifier: classifier.clone().unbind(),
            state: Mutex::new(State {
                stream: stream.map_err(exception)?,
                tracker: Tracker::new(options),
            }),
        })
    }

    /// Ranks the classes for the next frame. See `Classifier.classify`.
    #[pyo3(signature = (image, *, order="RGB"))]
    fn classify(
        &self,
        py: Python<'_>,
        image: &Bound<'_, PyAny>,
        order: &str,
    ) -> PyResult<StreamAnswer> {
        let captured = Instant::now();
        let image = Image::new(image, Order::parse(order)?)?;
        let source = image.source()?;
        let classifier = self.classifier.get();
        classifier.inner()?;
        let answered = py.detach(|| {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let State { stream, tracker } = &mut *state;
            let (answer, decode) =
                source.read(classifier.decode_options(), |view| stream.classify(view))?;
            let tracked = tracker.update(&answer, captured);
            Ok(StreamAnswer {
                ranking: tracked.ranking,
                score: tracked.score,
                unknown: tracked.unknown,
                state: tracker.state().cloned(),
                change: tracked.change,
                latency: answer.latency,
                decode,
            })
        });
        answered.map_err(exception)
    }

    /// The classifier.
    #[getter]
    fn classifier(&self, py: Python<'_>) -> Py<Classifier> {
        self.classifier.clone_ref(py)
    }

    /// The name of the current state: a class, "unknown", or None until a class has led for long enough.
    #[getter]
    fn state(&self) -> Option<String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.tracker.state().map(|state| state.name().to_owned())
    }
}

/// The smoothed answer for one frame.
///
/// Attributes:
///     ranking: every class with its smoothed probability and similarity, the most probable first.
///     best: the first of them.
///     score: what the probabilities are, as in `Classification`.
///     unknown: whether more than half of the smoothed frames show none of the classes.
///     state: the current class, "unknown", or None until a class has led for long enough.
///     state_index: the index of that class; else None.
///     event: the change of the state in this frame, (from, to); else None.
///     latency_ms: time of each stage in milliseconds.
#[pyclass(frozen, module = "pinhole")]
pub(crate) struct StreamAnswer {
    ranking: Vec<Ranked>,
    score: Score,
    #[pyo3(get)]
    unknown: bool,
    state: Option<SceneState>,
    change: Option<StateChange>,
    latency: Latency,
    decode: Duration,
}

#[pymethods]
impl StreamAnswer {
    #[getter]
    fn ranking<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, top(&self.ranking, None))
    }

    #[getter]
    fn best(&self) -> Option<answer::Ranked> {
        self.ranking.first().map(answer::Ranked::from)
    }

    #[getter]
    fn score(&self) -> &'static str {
        self.score.name()
    }

    #[getter]
    fn state(&self) -> Option<&str> {
        self.state.as_ref().map(SceneState::name)
    }

    #[getter]
    fn state_index(&self) -> Option<usize> {
        self.state.as_ref().and_then(SceneState::index)
    }

    #[getter]
    fn event(&self) -> Option<(Option<&str>, &str)> {
        let change = self.change.as_ref()?;
        Some((change.from.as_ref().map(SceneState::name), change.to.name()))
    }

    #[getter]
    fn latency_ms<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        latency_dict(py, self.decode, &self.latency)
    }

    /// The best `n` classes, or all if there are fewer.
    fn top(&self, n: usize) -> Vec<answer::Ranked> {
        top(&self.ranking, Some(n))
    }

    /// Fields of `pinhole camera --json`: top (at most `top` classes; all by default), score, unknown, state, state_index,
    /// event and latency_ms.
    #[pyo3(signature = (top=None))]
    fn to_dict<'py>(&self, py: Python<'py>, top: Option<usize>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        dict.set_item("top", top_dicts(py, &self.ranking, top)?)?;
        dict.set_item("score", self.score())?;
        dict.set_item("unknown", self.unknown)?;
        dict.set_item("state", self.state())?;
        dict.set_item("state_index", self.state_index())?;
        let event = match &self.change {
            None => None,
            Some(change) => {
                let event = PyDict::new(py);
                event.set_item("from", change.from.as_ref().map(SceneState::name))?;
                event.set_item(
                    "from_index",
                    change.from.as_ref().and_then(SceneState::index),
                )?;
                event.set_item("to", change.to.name())?;
                event.set_item("to_index", change.to.index())?;
                Some(event)
            }
        };
        dict.set_item("event", event)?;
        dict.set_item("latency_ms", self.latency_ms(py)?)?;
        Ok(dict)
    }

    fn __repr__(&self) -> String {
        let best = self.best().map_or("None".into(), |best| best.__repr__());
        format!("StreamAnswer(best={best}, state={:?})", self.state())
    }
}
