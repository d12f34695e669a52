//! `pinhole.Classifier` and `pinhole.set_classes`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use numpy::{PyArray1, PyArray2, PyArray3, PyArrayMethods, PyReadonlyArray1};
use pinhole::{ClassText, Classes, ConditionalMode, DecodeOptions, Reduction};
use pyo3::exceptions::{PyUserWarning, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::answer::Classification;
use crate::error::{PinholeError, exception};
use crate::image::{Image, Order};

/// A bundle opened for inference.
///
/// One classifier can be used by several threads at the same time. A process that was forked after it was opened cannot
/// use it: it has no threads there. Pickling it stores the path and the options; the bundle is opened again.
///
/// Args:
///     bundle: the folder that `pinhole-export` wrote.
///     threads: 1 to the number of processors; all by default.
///     conditional: how a conditional head (CoCoOp) computes: "exact", "shortlist", "linear", or a number of
///         milliseconds per image that its text encoder may take. Other bundles ignore it.
///     min_similarity: cosine similarity, -1 to 1, below which an image is "unknown"; the bundle's by default.
///     min_margin: difference in similarity of the best two classes, 0 to 2, below which an image is "unknown"; the
///         bundle's by default.
///     exif_orientation: turn files by their EXIF orientation. CLIP's own preprocessing does not.
///     max_image_memory: bytes that decoding one file may take.
///     fast_decode: decode JPEG files at 1/2, 1/4 or 1/8 of their size where that leaves the encoder enough pixels. Answers
///         differ slightly from those of whole images. Other formats and arrays are not affected.
///
/// Raises:
///     BundleError: the bundle cannot be read or run; the text names the file and field.
///     ValueError: an option is out of range.
#[pyclass(frozen, module = "pinhole")]
pub(crate) struct Classifier {
    inner: Arc<pinhole::Classifier>,
    decode: DecodeOptions,
    bundle: PathBuf,
    options: Options,
    /// The process that has the threads.
    process: u32,
}

struct Options {
    threads: Option<usize>,
    conditional: Py<PyAny>,
    min_similarity: Option<f32>,
    min_margin: Option<f32>,
}

impl Classifier {
    /// The library's classifier.
    ///
    /// # Errors
    /// `PinholeError` in a process that was forked after the classifier was opened.
    pub(crate) fn inner(&self) -> PyResult<&Arc<pinhole::Classifier>> {
        match std::process::id() {
            id if id == self.process => Ok(&self.inner),
            id => Err(PinholeError::new_err(format!(
                "the classifier was opened in process {} and has no threads in process {id}, which was forked from it: \
                 open the classifier in each process, or start processes with multiprocessing's method \"spawn\"",
                self.process
            ))),
        }
    }

    pub(crate) fn decode_options(&self) -> &DecodeOptions {
        &self.decode
    }

    /// Calls `run` without the interpreter's lock. Returns its result and the time of decoding.
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        image: &Bound<'_, PyAny>,
        order: Order,
        run: impl Fn(&pinhole::Classifier, pinhole::ImageView) -> Result<T, pinhole::Error> + Sync,
    ) -> PyResult<(T, Duration)> {
        let classifier = self.inner()?;
        let image = Image::new(image, order)?;
        let source = image.source()?;
        py.detach(|| source.read(&self.decode, |view| run(classifier, view)))
            .map_err(exception)
    }

    /// [`Self::with`] for each image. Ctrl-C ends it between two images.
    fn with_each<T: Send>(
        &self,
        py: Python<'_>,
        images: &Bound<'_, PyAny>,
        order: Order,
        run: impl Fn(&pinhole::Classifier, pinhole::ImageView) -> Result<T, pinhole::Error> + Sync,
    ) -> PyResult<Vec<(T, Duration)>> {
        let mut results = vec![];
        for (number, image) in images.try_iter()?.enumerate() {
            py.check_signals()?;
            let result = self.with(py, &image?, order, &run).inspect_err(|error| {
                // The text says what is wrong with the image, not which it is.
                let note = (format!("image {number} of the batch"),);
                let _ = error.value(py).call_method1("add_note", note);
            });
            results.push(result?);
        }
        Ok(results)
    }
}

#[pymethods]
impl Classifier {
    #[new]
    #[pyo3(signature = (bundle, *, threads=None, conditional=None, min_similarity=None, min_margin=None,
                        exif_orientation=false, max_image_memory=None, fast_decode=false))]
    #[allow(clippy::too_many_arguments, reason = "keywords in Python")]
    fn new(
        py: Python<'_>,
        bundle: PathBuf,
        threads: Option<usize>,
        conditional: Option<Bound<'_, PyAny>>,
        min_similarity: Option<f32>,
        min_margin: Option<f32>,
        exif_orientation: bool,
        max_image_memory: Option<u64>,
        fast_decode: bool,
    ) -> PyResult<Self> {
        let mut builder = pinhole::Classifier::builder();
        if let Some(threads) = threads {
            builder = builder.threads(threads);
        }
        if let Some(mode) = &conditional {
            builder = builder.conditional(conditional_mode(mode)?);
        }
        if let Some(similarity) = within("min_similarity", min_similarity, -1.0, 1.0)? {
            builder = builder.min_similarity(similarity);
        }
        if let Some(margin) = within("min_margin", min_margin, 0.0, 2.0)? {
            builder = builder.min_margin(margin);
        }
        let inner = py.detach(|| builder.open(&bundle)).map_err(exception)?;
        let defaults = DecodeOptions::default();
        let decode = DecodeOptions {
            apply_orientation: exif_orientation,
            max_memory: max_image_memory.unwrap_or(defaults.max_memory),
            reduction: fast_decode.then(|| Reduction::to(&inner.manifest().preprocessing)),
        };
        Ok(Self {
            inner: Arc::new(inner),
            decode,
            bundle,
            options: Options {
                threads,
                conditional: conditional.map_or_else(|| py.None(), Bound::unbind),
                min_similarity,
                min_margin,
            },
            process: std::process::id(),
        })
    }

    fn __getnewargs_ex__<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<((PathBuf,), Bound<'py, PyDict>)> {
        let options = PyDict::new(py);
        options.set_item("threads", self.options.threads)?;
        options.set_item("conditional", &self.options.conditional)?;
        options.set_item("min_similarity", self.options.min_similarity)?;
        options.set_item("min_margin", self.options.min_margin)?;
        options.set_item("exif_orientation", self.decode.apply_orientation)?;
        options.set_item("max_image_memory", self.decode.max_memory)?;
        options.set_item("fast_decode", self.decode.reduction.is_some())?;
        Ok(((self.bundle.clone(),), options))
    }

    /// Ranks the bundle's classes for an image.
    ///
    /// Args:
    ///     image: a path, the bytes of an image file, a numpy array uint8 [height, width, 3], or a PIL image. A contiguous
    ///         RGB array is read without a copy; it must not be written to until the call returns.
    ///     order: the channels of an array: "RGB", or "BGR" as OpenCV and picamera2 have them.
    ///
    /// Raises:
    ///     ImageError: the file cannot be read or decoded.
    ///     TypeError, ValueError: the object is no such image.
    #[pyo3(signature = (image, *, order="RGB"))]
    fn classify(
        &self,
        py: Python<'_>,
        image: &Bound<'_, PyAny>,
        order: &str,
    ) -> PyResult<Classification> {
        let (answer, decode) =
            self.with(py, image, Order::parse(order)?, |c, view| c.classify(view))?;
        Ok(Classification { answer, decode })
    }

    /// Classifies each of several images: an iterable, or an array uint8 [N, height, width, 3]. See `classify`.
    ///
    /// A note of the exception says which image was wrong (Python 3.11 and later).
    #[pyo3(signature = (images, *, order="RGB"))]
    fn classify_batch(
        &self,
        py: Python<'_>,
        images: &Bound<'_, PyAny>,
        order: &str,
    ) -> PyResult<Vec<Classification>> {
        let results =
            self.with_each(py, images, Order::parse(order)?, |c, view| c.classify(view))?;
        let answers = results.into_iter();
        Ok(answers
            .map(|(answer, decode)| Classification { answer, decode })
            .collect())
    }

    /// The embedding of an image: an array float32 [D], L2-normalised. See `classify`.
    #[pyo3(signature = (image, *, order="RGB"))]
    fn embed<'py>(
        &self,
        py: Python<'py>,
        image: &Bound<'_, PyAny>,
        order: &str,
    ) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let (embedding, _) = self.with(py, image, Order::parse(order)?, |c, view| c.embed(view))?;
        Ok(PyArray1::from_vec(py, embedding.values))
    }

    /// The embeddings of several images: an array float32 [N, D]. See `classify_batch`.
    #[pyo3(signature = (images, *, order="RGB"))]
    fn embed_batch<'py>(
        &self,
        py: Python<'py>,
        images: &Bound<'_, PyAny>,
        order: &str,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let results = self.with_each(py, images, Order::parse(order)?, |c, view| c.embed(view))?;
        let shape = [results.len(), self.embedding_size()];
        let values = results
            .into_iter()
            .flat_map(|(embedding, _)| embedding.values);
        PyArray1::from_iter(py, values).reshape(shape)
    }

    /// What the image encoder sees of an image: an array uint8 [S, S, 3], RGB, resized and cropped. See `classify`.
    #[pyo3(signature = (image, *, order="RGB"))]
    fn preprocess<'py>(
        &self,
        py: Python<'py>,
        image: &Bound<'_, PyAny>,
        order: &str,
    ) -> PyResult<Bound<'py, PyArray3<u8>>> {
        let (pixels, _) = self.with(py, image, Order::parse(order)?, |c, view| {
            c.preprocess(view)
        })?;
        let side = self.image_size();
        PyArray1::from_vec(py, pixels.data).reshape([side, side, 3])
    }

    /// Cosine similarities of an embedding, float32 [D] and L2-normalised, with the classes: an array float32 [C].
    fn similarities<'py>(
        &self,
        py: Python<'py>,
        embedding: PyReadonlyArray1<'_, f32>,
    ) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let classifier = self.inner()?;
        let embedding = embedding.as_array().to_vec();
        let similarities = py
            .detach(|| classifier.similarities(&embedding))
            .map_err(exception)?;
        Ok(PyArray1::from_vec(py, similarities))
    }

    /// Teaches the bundle a class by images, a text, or both, and exchanges the bundle in its folder for the taught one.
    ///
    /// The best of four heads is chosen by leave-one-out accuracy: zero-shot, prototypes, cache or linear. Images are kept as
    /// embeddings, at most 64 of a class. This classifier keeps the old classes: open the bundle again.
    ///
    /// Args:
    ///     name: the class, which is added if the bundle does not have it; "none of these" stands for what is none of the
    ///         others, and is answered as "unknown".
    ///     images: an iterable, or an array uint8 [N, height, width, 3]; see `classify`. Without images the class is only
    ///         added.
    ///     text: of a new class, what the text encoder reads in place of the name. By default it reads the name, if the
    ///         bundle was exported `--with-text`.
    ///     order: as for `classify`.
    ///
    /// Returns:
    ///     A dict: `head`; `accuracy`, the leave-one-out accuracy, 0 to 1, or None; `classes`, a list of dicts with `class`,
    ///     `examples` (their number) and `accuracy`.
    ///
    /// Raises:
    ///     BundleError: the bundle cannot be changed, or was exchanged for one with another image encoder.
    ///     ImageError, TypeError: an image cannot be read. The bundle stays as it was.
    ///     ValueError: what cannot be taught, such as a text for a class that the bundle has.
    #[pyo3(signature = (name, images=None, *, text=None, order="RGB"))]
    fn teach<'py>(
        &self,
        py: Python<'py>,
        name: &str,
        images: Option<&Bound<'_, PyAny>>,
        text: Option<&str>,
        order: &str,
    ) -> PyResult<Bound<'py, PyDict>> {
        let mut embeddings = vec![];
        if let Some(images) = images {
            let found =
                self.with_each(py, images, Order::parse(order)?, |c, view| c.embed(view))?;
            embeddings.extend(found.into_iter().map(|(embedding, _)| embedding.values));
        }
        let classifier = self.inner()?;
        let teach = || -> Result<pinhole::Lesson, pinhole::Error> {
            let mut teacher =
                pinhole::Teacher::open(&self.bundle, self.options.threads, &mut |_| {})?;
            teacher.check_encoder(classifier)?;
            if text.is_some() || embeddings.is_empty() || !teacher.has_class(name) {
                let text = text.map_or(ClassText::NameIfPossible, ClassText::Text);
                teacher.add_class(name, text)?;
            }
            teacher.add_examples(name, &embeddings)?;
            teacher.save()
        };
        let lesson = py.detach(teach).map_err(exception)?;
        let classes = lesson.classes.iter().map(|class| {
            let dict = PyDict::new(py);
            dict.set_item("class", &class.name)?;
            dict.set_item("examples", class.examples.len())?;
            dict.set_item("accuracy", class.accuracy)?;
            Ok(dict)
        });
        let result = PyDict::new(py);
        result.set_item("head", lesson.head.to_string())?;
        result.set_item("accuracy", lesson.accuracy)?;
        result.set_item("classes", classes.collect::<PyResult<Vec<_>>>()?)?;
        Ok(result)
    }

    /// The names of the classes, in the order of their indices.
    #[getter]
    fn classes(&self) -> Vec<String> {
        self.inner.manifest().classes.clone()
    }

    /// The bundle's manifest.json as a dict.
    #[getter]
    fn manifest<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let json = serde_json::to_string(self.inner.manifest())
            .map_err(|e| PinholeError::new_err(format!("manifest: {e}")))?;
        py.import("json")?.call_method1("loads", (json,))
    }

    /// S: width and height in pixels of what the image encoder sees.
    #[getter]
    fn image_size(&self) -> usize {
        self.inner.manifest().model.image_size as usize
    }

    /// D: the length of an embedding.
    #[getter]
    fn embedding_size(&self) -> usize {
        self.inner.manifest().model.embedding_size
    }

    /// The number of threads.
    #[getter]
    fn threads(&self) -> usize {
        self.inner.threads()
    }

    /// The kernel variant in use, such as "dotprod".
    #[getter]
    fn kernels(&self) -> &'static str {
        self.inner.kernels()
    }

    fn __repr__(&self) -> String {
        let (path, count) = (self.bundle.display(), self.inner.manifest().classes.len());
        format!("Classifier({:?}, {count} classes)", path.to_string())
    }
}

/// Gives a bundle that contains its text encoder (exported with `--with-text`) other classes.
///
/// Classes that stay keep their embeddings. Thresholds and temperature are reset, as they were calibrated on the old
/// classes. The bundle is exchanged as a whole; classifiers that are open keep the old classes. Names that are suspicious,
/// such as two with equal tokens, are warned about.
///
/// Args:
///     bundle: the bundle's folder.
///     classes: names.
///     threads: 1 to the number of processors; all by default.
///
/// Raises:
///     BundleError: the bundle has no text encoder, or cannot be read or replaced.
///     ValueError: a name is empty, reserved or too long.
#[pyfunction]
#[pyo3(signature = (bundle, classes, *, threads=None))]
pub(crate) fn set_classes(
    py: Python<'_>,
    bundle: PathBuf,
    classes: Vec<String>,
    threads: Option<usize>,
) -> PyResult<()> {
    let classes = Classes::new(&classes).map_err(|e| exception(e.into()))?;
    let changed = py.detach(|| pinhole::set_classes(&bundle, &classes, threads, &mut |_, _| {}));
    let manifest = changed.map_err(exception)?;
    for warning in pinhole::class_warnings(&manifest, &classes) {
        let text = std::ffi::CString::new(warning.to_string())?;
        PyErr::warn(py, &py.get_type::<PyUserWarning>(), &text, 1)?;
    }
    Ok(())
}

fn conditional_mode(mode: &Bound<'_, PyAny>) -> PyResult<ConditionalMode> {
    let name: Option<String> = mode.extract().ok();
    let milliseconds: Option<f64> = mode.extract().ok();
    match (name.as_deref(), milliseconds) {
        (Some("exact"), _) => Ok(ConditionalMode::Exact),
        (Some("shortlist"), _) => Ok(ConditionalMode::Shortlist),
        (Some("linear"), _) => Ok(ConditionalMode::Linear),
        (None, Some(time)) if (0.0..=1e9).contains(&time) => {
            Ok(ConditionalMode::Auto(Duration::from_secs_f64(time / 1e3)))
        }
        _ => Err(PyValueError::new_err(format!(
            "conditional: expected \"exact\", \"shortlist\", \"linear\" or a number of milliseconds, found {}",
            mode.repr()?
        ))),
    }
}

/// `value`, if it is in the range.
pub(crate) fn within(
    name: &str,
    value: Option<f32>,
    least: f32,
    most: f32,
) -> PyResult<Option<f32>> {
    match value {
        Some(number) if !(least..=most).contains(&number) => Err(PyValueError::new_err(format!(
            "{name}: expected {least} to {most}, found {number}"
        ))),
        _ => Ok(value),
    }
}
