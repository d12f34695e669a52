//! What a classifier returns.

use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

/// One class of a ranking.
///
/// Attributes:
///     name: the class's name in the bundle.
///     index: its index in the bundle's list of classes, which may have its name several times.
///     probability: 0 to 1.
///     similarity: cosine similarity of the image's and the class's embedding, -1 to 1.
#[pyclass(frozen, eq, module = "pinhole")]
#[derive(Clone, PartialEq)]
pub(crate) struct Ranked {
    name: Arc<str>,
    #[pyo3(get)]
    index: usize,
    #[pyo3(get)]
    probability: f32,
    #[pyo3(get)]
    similarity: f32,
}

impl From<&pinhole::Ranked> for Ranked {
    fn from(class: &pinhole::Ranked) -> Self {
        Self {
            name: class.name.clone(),
            index: class.index,
            probability: class.probability,
            similarity: class.similarity,
        }
    }
}

#[pymethods]
impl Ranked {
    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    /// The fields of `pinhole classify --json`: class, index, probability, similarity.
    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        dict.set_item("class", &*self.name)?;
        dict.set_item("index", self.index)?;
        dict.set_item("probability", self.probability)?;
        dict.set_item("similarity", self.similarity)?;
        Ok(dict)
    }

    pub(crate) fn __repr__(&self) -> String {
        format!(
            "Ranked(name={:?}, index={}, probability={:.4}, similarity={:.4})",
            self.name, self.index, self.probability, self.similarity
        )
    }
}

/// The best `n` classes, or all.
pub(crate) fn top(ranking: &[pinhole::Ranked], n: Option<usize>) -> Vec<Ranked> {
    let n = n.unwrap_or(ranking.len());
    ranking.iter().take(n).map(Ranked::from).collect()
}

/// A list of [`Ranked::to_dict`].
pub(crate) fn top_dicts<'py>(
    py: Python<'py>,
    ranking: &[pinhole::Ranked],
    n: Option<usize>,
) -> PyResult<Bound<'py, PyList>> {
    let dicts: PyResult<Vec<_>> = (top(ranking, n).iter())
        .map(|class| class.to_dict(py))
        .collect();
    PyList::new(py, dicts?)
}

/// `latency_ms` of `pinhole classify --json`: decode, preprocess, encode, head and total.
pub(crate) fn latency_dict<'py>(
    py: Python<'py>,
    decode: Duration,
    latency: &pinhole::Latency,
) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    let mut total = Duration::ZERO;
    for (stage, time) in [
        ("decode", decode),
        ("preprocess", latency.preprocess),
        ("encode", latency.encode),
        ("head", latency.head),
    ] {
        dict.set_item(stage, 1e3 * time.as_secs_f64())?;
        total += time;
    }
    dict.set_item("total", 1e3 * total.as_secs_f64())?;
    Ok(dict)
}

/// The classes ranked for one image, the most similar first.
///
/// Attributes:
///     ranking: every class.
///     best: the first of them.
///     score: what the probabilities are: "softmax", one of the classes, or "sigmoid", each class by itself.
///     unknown: whether the image shows none of the classes, by the thresholds of the bundle or of the classifier.
///     latency_ms: time of each stage in milliseconds.
#[pyclass(frozen, module = "pinhole")]
pub(crate) struct Classification {
    pub(crate) answer: pinhole::Classification,
    pub(crate) decode: Duration,
}

#[pymethods]
impl Classification {
    #[getter]
    fn ranking<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, top(&self.answer.ranking, None))
    }

    #[getter]
    fn best(&self) -> Option<Ranked> {
        self.answer.ranking.first().map(Ranked::from)
    }

    #[getter]
    fn score(&self) -> &'static str {
        self.answer.score.name()
    }

    #[getter]
    fn unknown(&self) -> bool {
        self.answer.unknown
    }

    #[getter]
    fn latency_ms<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        latency_dict(py, self.decode, &self.answer.latency)
    }

    /// The best `n` classes, or all if there are fewer.
    fn top(&self, n: usize) -> Vec<Ranked> {
        top(&self.answer.ranking, Some(n))
    }

    /// The fields of `pinhole classify --json`: top (at most `top` classes; all by default), score, unknown and
    /// latency_ms.
    #[pyo3(signature = (top=None))]
    fn to_dict<'py>(&self, py: Python<'py>, top: Option<usize>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        dict.set_item("top", top_dicts(py, &self.answer.ranking, top)?)?;
        dict.set_item("score", self.score())?;
        dict.set_item("unknown", self.answer.unknown)?;
        dict.set_item("latency_ms", self.latency_ms(py)?)?;
        Ok(dict)
    }

    fn __repr__(&self) -> String {
        let best = self.best().map_or("None".into(), |best| best.__repr__());
        let unknown = if self.answer.unknown { "True" } else { "False" };
        format!("Classification(best={best}, unknown={unknown})")
    }
}
