//! Errors of opening and running a classifier.

use std::path::PathBuf;

use pinhole_bundle::{HeadKind, MAX_EXAMPLES, UNDO_STEPS};

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
    /// A bundle cannot be taught what was asked for.
    #[error("{}: {reason}", bundle.display())]
    Teaching {
        /// The bundle's folder.
        bundle: PathBuf,
        /// What was expected and found.
        reason: TeachError,
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
    /// This machine computes other embeddings than the exporter.
    #[error(
        "{}: self-test of {image}: expected a cosine of {expected} or more, found {found}; export the bundle again",
        bundle.display()
    )]
    SelfTest {
        /// The bundle's folder.
        bundle: PathBuf,
        /// The image that fails, a path inside the bundle.
        image: String,
        /// Least cosine.
        expected: f32,
        /// The cosine of this machine's and the exporter's embedding.
        found: f32,
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

/// Why a bundle cannot be taught what was asked for.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TeachError {
    /// The bundle has no class of this name.
    #[error(
        "expected the name of one of its classes, found {name:?}; add the class first, or correct the name"
    )]
    UnknownClass {
        /// The name.
        name: String,
    },
    /// Several classes have this name.
    #[error(
        "expected a name that one class has, found {found} classes named {name:?}; rename them with an export"
    )]
    SeveralClasses {
        /// The name.
        name: String,
        /// How many have it.
        found: usize,
    },
    /// The bundle has a class of this name already.
    #[error(
        "expected a new class, found {name:?} among its classes; add examples to it, or remove it first"
    )]
    ClassExists {
        /// The name.
        name: String,
    },
    /// [`NONE_OF_THESE`](crate::NONE_OF_THESE) was given a text.
    #[error(
        "text: expected none for \"none of these\", which is recognised by examples, found one; leave it out, or export \
             with --negatives"
    )]
    TextOfNone,
    /// No class is left.
    #[error(
        "expected at least one class beside \"none of these\" with a text or an example, found none; add another \
             class before you remove the last one"
    )]
    NoClass,
    /// There is no example of this number.
    #[error(
        "expected the number of one of its examples, found {id}; list them to see their numbers"
    )]
    UnknownExample {
        /// The number.
        id: u64,
    },
    /// An embedding is none of this bundle's encoder.
    #[error(
        "embedding: expected {expected} values and a norm above 0, found {found} values and the norm {norm}"
    )]
    Embedding {
        /// Length of the encoder's embeddings.
        expected: usize,
        /// Length of the given one.
        found: usize,
        /// Norm of the given one.
        norm: f32,
    },
    /// The bundle was exchanged for one with another image encoder.
    #[error(
        "image encoder: expected the one that embedded the images, found another one; open the bundle again"
    )]
    OtherEncoder,
    /// The bundle is full.
    #[error("expected at most {MAX_EXAMPLES} examples in all; remove classes that are not needed")]
    TooManyExamples,
    /// No step can be taken back.
    #[error("expected a step to undo, found none; the last {UNDO_STEPS} can be undone")]
    NothingToUndo,
    /// The bundle has a learned head that examples cannot be added to.
    #[error(
        "head: expected class embeddings, which can be taught by examples, found a {found} head; export the classes \
             without --learned to teach them"
    )]
    Head {
        /// The kind of head.
        found: HeadKind,
    },
    /// The classes of a taught bundle are changed by teaching.
    #[error(
        "expected a bundle that was not taught by examples; change the classes of this one with `pinhole teach`: \
             --class NAME, --remove NAME"
    )]
    ClassesOfExamples,
}
