//! Class embeddings that another program computed, instead of a text encoder.

use std::path::Path;

use anyhow::{Result, bail, ensure};
use pinhole_checkpoint::read_state_dict;
use pinhole_model::Tensor;

/// The longest file, as of a bundle's head.
const MAX_BYTES: u64 = 1 << 30;
/// The tensor's name in a file with several matrices.
const NAME: &str = "class_embeddings";

/// Class embeddings `[C, D]`, each of norm 1, in the order of the classes.
#[derive(Clone, Debug, PartialEq)]
pub struct GivenEmbeddings {
    /// The option that they come from, for messages.
    pub origin: &'static str,
    /// C.
    pub classes: usize,
    /// D.
    pub size: usize,
    /// Row-major.
    pub data: Vec<f32>,
}

impl GivenEmbeddings {
    /// Reads a NumPy file (`.npy`) or a safetensors file with one matrix, or with one named `class_embeddings`. The
    /// rows are normalised.
    ///
    /// # Errors
    /// They name the file, and what was expected and found: another format or shape; a row of zeros, NaN or infinity.
    pub fn read(path: &Path) -> Result<Self> {
        // A checkpoint's errors name the file.
        Self::read_file(path).map_err(|error| match error.is::<pinhole_checkpoint::Error>() {
            true => error,
            false => error.context(path.display().to_string()),
        })
    }

    fn read_file(path: &Path) -> Result<Self> {
        let length = std::fs::metadata(path)?.len();
        ensure!(
            length <= MAX_BYTES,
            "expected at most {MAX_BYTES} bytes, found {length}"
        );
        let (shape, data) = tensor(path)?;
        Self::normalised("--class-embeddings", shape, data)
    }

    /// Those of a learned method, [classes, D].
    ///
    /// # Errors
    /// They name what was expected and found: a row of zeros.
    pub fn learned(embeddings: &Tensor) -> Result<Self> {
        let [classes, size] = embeddings.shape[..] else {
            bail!(
                "expected embeddings [classes, values], found {:?}",
                embeddings.shape
            );
        };
        Self::normalised("--learned", [classes, size], embeddings.data.clone())
    }

    fn normalised(
        origin: &'static str,
        [classes, size]: [usize; 2],
        mut data: Vec<f32>,
    ) -> Result<Self> {
        ensure!(
            classes > 0 && size > 0,
            "expected embeddings [classes, values], found [{classes}, {size}]"
        );
        for (i, row) in data.chunks_exact_mut(size).enumerate() {
            let norm = row
                .iter()
                .map(|v| f64::from(*v).powi(2))
                .sum::<f64>()
                .sqrt();
            ensure!(
                norm.is_finite() && norm > 0.0,
                "row {i}: expected an embedding, found one of the norm {norm}"
            );
            row.iter_mut()
                .for_each(|v| *v = (f64::from(*v) / norm) as f32);
        }
        Ok(Self {
            origin,
            classes,
            size,
            data,
        })
    }

    /// Checks that there is one for every class.
    ///
    /// # Errors
    /// Another number.
    pub(crate) fn check(&self, classes: usize) -> Result<()> {
        ensure!(
            self.classes == classes,
            "{}: expected one row for each of the {classes} classes, in their order, found {}",
            self.origin,
            self.classes
        );
        Ok(())
    }
}

/// The matrix of a NumPy, safetensors or PyTorch file with tensors alone.
fn tensor(path: &Path) -> Result<([usize; 2], Vec<f32>)> {
    let state = read_state_dict(path)?;
    let shape = |name: &str| state.info(name).map_or(&[][..], |info| &info.shape);
    let matrices: Vec<&str> = state
        .names()
        .filter(|name| shape(name).len() == 2)
        .collect();
    let name = match matrices[..] {
        [only] => only,
        _ if matrices.contains(&NAME) => NAME,
        _ => bail!(
            "expected one matrix [classes, values], or one named {NAME}, found {} of them",
            matrices.len()
        ),
    };
    let tensor = state.tensor(name)?;
    match tensor.shape[..] {
        [classes, size] => Ok(([classes, size], tensor.data)),
        _ => bail!(
            "tensor {name}: expected [classes, values], found {:?}",
            tensor.shape
        ),
    }
}
