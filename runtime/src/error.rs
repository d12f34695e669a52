//! What can go wrong between a bundle, an image and an answer.

use std::path::PathBuf;

/// An error of opening or running a classifier.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bundle is not what it must be.
    #[error(transparent)]
    Bundle(#[from] pinhole_bundle::Error),
    /// An image cannot be read.
    #[error(transparent)]
    Image(#[from] pinhole_preprocessing::Error),
    /// The bundle cannot make vectors of texts.
    #[error(
        "{}: the bundle has no text encoder for new classes; export it again with --with-text",
        bundle.display()
    )]
    NoTextEncoder {
        /// The bundle's folder.
        bundle: PathBuf,
    },
    /// A text cannot be embedded, or a tensor of the text encoder cannot be read.
    #[error(transparent)]
    Text(#[from] pinhole_prompts::Error),
    /// The text encoder's tensors are not what the manifest says.
    #[error("{}: {reason}; export the bundle again", path.display())]
    TextEncoder {
        /// The text encoder's file.
        path: PathBuf,
        /// The tensor, what was expected and what was found.
        reason: Box<pinhole_prompts::Error>,
    },
    /// The head is not what a conditional head must be.
    #[error("{}: {reason}; export the bundle again", path.display())]
    Head {
        /// The head's file.
        path: PathBuf,
        /// The tensor, what was expected and what was found.
        reason: String,
    },
    /// The ONNX file is not one that this runtime can run.
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
    /// More or fewer threads than the machine can give.
    #[error("threads: expected 1 to {available}, the processors of this machine, found {found}")]
    Threads {
        /// Processors that the system lets this process use.
        available: usize,
        /// What was asked for.
        found: usize,
    },
    /// The system gave no threads.
    #[error("cannot start {threads} threads: {reason}")]
    Pool {
        /// How many were asked for.
        threads: usize,
        /// The system's answer.
        reason: String,
    },
    /// `PINHOLE_KERNELS` asks for something that cannot be had.
    #[error("{0}")]
    Kernels(String),
}
