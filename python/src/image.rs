//! What Python programs have as images: arrays, files, encoded bytes, PIL images.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use numpy::{
    PyArrayDescrMethods, PyArrayDyn, PyReadonlyArray3, PyUntypedArray, PyUntypedArrayMethods,
};
use pinhole::{DecodeOptions, ImageView, RgbImage, RgbView};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;

use crate::error::exception;

/// The order of the channels of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Rgb,
    Bgr,
}

impl Order {
    pub(crate) fn parse(text: &str) -> PyResult<Self> {
        match text {
            "RGB" => Ok(Self::Rgb),
            "BGR" => Ok(Self::Bgr),
            _ => Err(PyValueError::new_err(format!(
                "order: expected \"RGB\" or \"BGR\", found {text:?}"
            ))),
        }
    }
}

/// An image of a Python program, which keeps the memory of its object alive.
pub(crate) enum Image<'py> {
    /// A contiguous array, read without a copy.
    Array(PyReadonlyArray3<'py, u8>),
    /// Pixels that had to be copied.
    Pixels(RgbImage),
    File(PathBuf),
    Encoded(PyBackedBytes),
}

impl<'py> Image<'py> {
    /// `order` is that of an array; other images know theirs.
    ///
    /// # Errors
    /// `TypeError`, `ValueError`: what the object is instead.
    pub(crate) fn new(image: &Bound<'py, PyAny>, order: Order) -> PyResult<Self> {
        if let Ok(array) = image.cast::<PyUntypedArray>() {
            return Self::from_array(array, order);
        }
        if let Ok(bytes) = image.extract::<PyBackedBytes>() {
            return Ok(Self::Encoded(bytes));
        }
        if let Some(pixels) = from_pil(image)? {
            return Ok(Self::Pixels(pixels));
        }
        image.extract().map(Self::File).map_err(|error| {
            // What the object's own code raises, and Ctrl-C meanwhile.
            if !error.is_instance_of::<PyTypeError>(image.py()) {
                return error;
            }
            let found = image.get_type().name().map_or("an object".into(), |name| name.to_string());
            PyTypeError::new_err(format!(
                "image: expected a path, bytes, a numpy array uint8 [height, width, 3] or a PIL image, found {found}"
            ))
        })
    }

    fn from_array(array: &Bound<'py, PyUntypedArray>, order: Order) -> PyResult<Self> {
        let wrong = |remedy: &str| {
            let (shape, kind) = (array.shape(), array.dtype());
            PyValueError::new_err(format!(
                "image: expected an array uint8 [height, width, 3], found {kind} {shape:?}{remedy}"
            ))
        };
        if array.dtype().num() != numpy::dtype::<u8>(array.py()).num() {
            let remedy = match array.dtype().kind() {
                b'f' => "; for values 0 to 1: (255 * image).round().astype(\"uint8\")",
                _ => "",
            };
            return Err(wrong(remedy));
        }
        match array.shape() {
            [_, _, 3] => {}
            [3, _, _] => return Err(wrong("; transpose it: image.transpose(1, 2, 0)")),
            [_, _, 4] => return Err(wrong("; leave out the fourth channel: image[..., :3]")),
            [_, _] | [_, _, 1] => {
                return Err(wrong("; a grey image needs its channel three times"));
            }
            [_, _, _, 3] => return Err(wrong("; classify_batch takes several images")),
            _ => return Err(wrong("")),
        }
        let array = array.cast::<PyArrayDyn<u8>>()?;
        let array: PyReadonlyArray3<u8> = array.extract()?;
        if order == Order::Rgb && array.is_c_contiguous() {
            return Ok(Self::Array(array));
        }
        // Strides and BGR: one copy in RGB, row by row.
        let view = array.as_array();
        let mut data = Vec::with_capacity(view.len());
        for pixel in view.rows() {
            let [a, b, c] = [pixel[0], pixel[1], pixel[2]];
            data.extend(match order {
                Order::Rgb => [a, b, c],
                Order::Bgr => [c, b, a],
            });
        }
        let (height, width, _) = view.dim();
        pixels(width, height, data).map(Self::Pixels)
    }

    /// What can be read without the interpreter's lock.
    pub(crate) fn source(&self) -> PyResult<Source<'_>> {
        Ok(match self {
            Self::Array(array) => {
                let (height, width, _) = array.as_array().dim();
                let view = RgbView::new(side(width)?, side(height)?, array.as_slice()?);
                Source::View(view.map_err(|e| exception(e.into()))?)
            }
            Self::Pixels(image) => Source::View(image.into()),
            Self::File(path) => Source::File(path),
            Self::Encoded(bytes) => Source::Encoded(bytes),
        })
    }
}

/// An image that any thread can read.
pub(crate) enum Source<'a> {
    View(RgbView<'a>),
    File(&'a PathBuf),
    Encoded(&'a [u8]),
}

impl Source<'_> {
    /// Calls `run` with the pixels. Returns its result and the time of decoding.
    pub(crate) fn read<T>(
        self,
        options: &DecodeOptions,
        run: impl FnOnce(ImageView) -> Result<T, pinhole::Error>,
    ) -> Result<(T, Duration), pinhole::Error> {
        let start = Instant::now();
        let decoded = match self {
            Self::View(view) => return Ok((run(view.into())?, Duration::ZERO)),
            Self::File(path) => pinhole::Image::open(path, options)?,
            Self::Encoded(bytes) => pinhole::Image::decode(bytes, options)?,
        };
        let time = start.elapsed();
        Ok((run((&decoded).into())?, time))
    }
}

/// The pixels of a PIL image as `convert("RGB")` gives them; `None` for another object.
fn from_pil(image: &Bound<'_, PyAny>) -> PyResult<Option<RgbImage>> {
    // If the module was not imported, nothing can be an image of it.
    let modules = image.py().import("sys")?.getattr("modules")?;
    let Ok(module) = modules.get_item("PIL.Image") else {
        return Ok(None);
    };
    if !image.is_instance(&module.getattr("Image")?)? {
        return Ok(None);
    }
    let image = image.call_method1("convert", ("RGB",))?;
    let (width, height): (usize, usize) = image.getattr("size")?.extract()?;
    let data: PyBackedBytes = image.call_method0("tobytes")?.extract()?;
    pixels(width, height, data.to_vec()).map(Some)
}

fn pixels(width: usize, height: usize, data: Vec<u8>) -> PyResult<RgbImage> {
    RgbImage::new(side(width)?, side(height)?, data).map_err(|e| exception(e.into()))
}

fn side(length: usize) -> PyResult<u32> {
    u32::try_from(length).map_err(|_| {
        PyValueError::new_err(format!(
            "image: expected at most {} pixels a side, found {length}",
            u32::MAX
        ))
    })
}
