//! Errors of opening and running a classifier.

use std::path::PathBuf;

/// An error of opening or running a classifier.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bundle is damaged, or of a version or kind that cannot be read.
    #[error(transparent)]
    Bundle(#[from] pinhole_bundle::Error),
    /// An image cannot be decoded or preprocessed.
    #[error(transparent)]
    Image(#[from] pinhole_preprocessing::Error),
    /// New classes need a text encoder, and the bundle has none.
    #[error(
        "{}: text_encoder: expected a text encoder to embed new classes, found none; export the bundle again with \
         --with-text",
        bundle.display()
    )]
    NoTextEncoder {
        /// The bundle's folder.
        bundle: PathBuf,
    },
    /// A text cannot be embedded, or a tensor of the text encoder cannot be read.
    #[error(transparent)]
    Text(#[from] pinhole_prompts::Error),
    /// The text encoder's tensors contradict the manifest.
    #[error("{}: {reason}; export the bundle again", path.display())]
    TextEncoder {
        /// The text encoder's file.
        path: PathBuf,
        /// The tensor, what was expected and what was found.
        reason: Box<pinhole_prompts::Error>,
    },
    /// The tensors of a conditional head contradict the manifest.
    #[error("{}: {reason}; export the bundle again", path.display())]
    Head {
        /// The head's file.
        path: PathBuf,
        /// The tensor, what was expected and what was found.
        reason: String,
    },
    /// This runtime cannot run the ONNX file.
    #[error("{}: {reason}", path.display())]
    Network {
        /// The ONNX file.
        path: PathBuf,
        /// The node or field, what was expected and what was found.
        reason: String,
    },
    /// The network failed on an image.
    #[error("the image encoder failed: {0}")]
    Run(String),
    /// The number of threads is out of range.
    #[error("threads: expected 1 to {available}, the processors of this machine, found {found}")]
    Threads {
        /// Processors that this process may use.
        available: usize,
        /// The requested number.
        found: usize,
    },
    /// The operating system could not start the threads.
    #[error("cannot start {threads} threads: {reason}")]
    ThreadPool {
        /// The requested number.
        threads: usize,
        /// The operating system's error.
        reason: String,
    },
    /// `PINHOLE_KERNELS` names a kernel variant that this machine does not have.
    #[error("{0}")]
    Kernels(String),
}
