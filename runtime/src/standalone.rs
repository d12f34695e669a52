//! An image encoder without a bundle, for the exporter.

use std::path::Path;

use pinhole_model::PreprocessConfig;
use pinhole_preprocessing::{Pixels, RgbImage, preprocess};

use crate::Error;
use crate::classifier::thread_pool;
use crate::network::{ImageEncoder, NetworkOperator, Observed};

/// The image encoder of a folder that is not a bundle yet, with a thread pool of all processors.
pub struct StandaloneEncoder {
    encoder: ImageEncoder,
    preprocessing: PreprocessConfig,
    threads: rayon::ThreadPool,
}

impl StandaloneEncoder {
    /// Loads `image_encoder.onnx` in `folder`. `f16_arithmetic`: as for [`crate::ClassifierBuilder::f16_arithmetic`], only
    /// for weights in f16.
    ///
    /// # Errors
    /// [`Error::Network`] names the file and the node; [`Error::Kernels`], [`Error::ThreadPool`].
    pub fn load(
        folder: &Path,
        preprocessing: &PreprocessConfig,
        embedding_size: usize,
        f16_arithmetic: bool,
    ) -> Result<Self, Error> {
        let threads = thread_pool(None)?;
        let side = preprocessing.size as usize;
        let load = || ImageEncoder::load_graph(folder, side, embedding_size, f16_arithmetic);
        Ok(Self {
            encoder: threads.install(load)?,
            preprocessing: preprocessing.clone(),
            threads,
        })
    }

    /// As [`Classifier::preprocess`](crate::Classifier::preprocess).
    ///
    /// # Errors
    /// [`Error::Image`].
    pub fn preprocess(&self, image: &RgbImage) -> Result<Pixels, Error> {
        Ok(preprocess(&self.preprocessing, image)?)
    }

    /// The embedding of `image`, `[D]`, L2-normalised.
    ///
    /// # Errors
    /// [`Error::Image`], [`Error::Run`].
    pub fn embed(&self, image: &RgbImage) -> Result<Vec<f32>, Error> {
        let pixels = self.preprocess(image)?;
        self.threads.install(|| self.encoder.embed(&pixels.data))
    }

    /// The embedding of `pixels`, u8 `[S, S, 3]`. Each operator of the dialect is passed to `observer` once it has
    /// run; a change to its output is what later operators read.
    ///
    /// # Errors
    /// [`Error::Run`].
    pub fn observe(
        &self,
        pixels: &[u8],
        observer: &mut (dyn FnMut(&mut Observed) + Send),
    ) -> Result<Vec<f32>, Error> {
        (self.threads).install(|| self.encoder.observe(pixels, observer))
    }

    /// The network's operators in execution order.
    pub fn operators(&self) -> Vec<NetworkOperator> {
        self.encoder.operators()
    }
}
